//! A walk over JSON text (RFC 8259): where values end, and whether they are well formed. Builds nothing.
//!
//! Why by hand: this is the hottest text that comes in. serde's machinery around the same walk took four times the
//! instructions. Why a text is not well formed, `serde_json` says, so that there is one wording and a second opinion.

use std::borrow::Cow;

/// Eight bytes of ones.
const ONES: u64 = u64::from_le_bytes([1; 8]);
/// The highest bit of each of eight bytes.
const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);

/// The text is no JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// What stands between the quotes of a string.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inner<'b> {
    pub(super) text: &'b str,
    pub(super) has_escapes: bool,
}

impl<'b> Inner<'b> {
    /// Behind the opening quote at the end of `bytes[..at]`, in valid JSON. With where the closing one stands.
    pub(super) fn at(json: &'b str, at: usize) -> (Self, usize) {
        let bytes = json.as_bytes();
        let (mut end, mut has_escapes) = (at, false);
        loop {
            end = special(bytes, end).unwrap_or(bytes.len());
            if bytes.get(end) != Some(&b'\\') {
                break;
            }
            has_escapes = true;
            end += 2; // A backslash, and what it escapes.
        }
        let text = json.get(at..end).unwrap_or_default();
        (Self { text, has_escapes }, end)
    }

    /// Without its escapes; `None` when they make half a character.
    #[inline]
    pub(super) fn unescape(self) -> Option<Cow<'b, str>> {
        if !self.has_escapes {
            return Some(Cow::Borrowed(self.text));
        }
        serde_json::from_str(&format!("\"{}\"", self.text))
            .ok()
            .map(Cow::Owned)
    }
}

/// What stands open around a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    Array,
    Object,
}

/// A place in a text, which moves forward only.
#[derive(Debug)]
pub(super) struct Scanner<'b> {
    text: &'b str,
    at: usize,
    /// What is open within the value that is walked over; kept for its memory.
    levels: Vec<Level>,
}

impl<'b> Scanner<'b> {
    pub(super) fn new(text: &'b str) -> Self {
        Self {
            text,
            at: 0,
            levels: Vec::new(),
        }
    }

    /// The first byte behind white space, which stays where it is.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            // Nearly every byte is above all white space.
            if byte > b' ' || !is_space(byte) {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Goes behind `byte` if it is the next one behind white space.
    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        if is_next {
            self.at += 1;
        }
        is_next
    }

    /// Goes behind `byte`, which has to be the next one behind white space.
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// Nothing but white space may follow.
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(Malformed),
        }
    }

    /// A key and the colon behind it.
    pub(super) fn key(&mut self) -> Result<Inner<'b>, Malformed> {
        self.expect(b'"')?;
        let start = self.at;
        let has_escapes = self.string_rest()?;
        let text = self.since(start, 1)?;
        self.expect(b':')?;
        Ok(Inner { text, has_escapes })
    }

    /// The next value, as its text.
    pub(super) fn value(&mut self) -> Result<&'b str, Malformed> {
        let first = self.peek();
        let start = self.at;
        if first == Some(b'"') {
            self.at += 1;
            self.string_rest()?;
        } else {
            self.skip_value()?;
        }
        self.since(start, 0)
    }

    /// Whether another item follows in an array that `close` ends, or another key in an object: goes behind the comma or
    /// the bracket.
    #[inline]
    pub(super) fn goes_on(&mut self, close: u8) -> Result<bool, Malformed> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(Malformed),
        }
    }

    /// The text from `start` to here, less its last `less` bytes.
    #[inline]
    fn since(&self, start: usize, less: usize) -> Result<&'b str, Malformed> {
        // Never missing: both ends stand beside ASCII characters that were walked over.
        self.text.get(start..self.at - less).ok_or(Malformed)
    }

    /// Goes behind the next value, however deep; with a stack of its own, since the thread's has an end.
    fn skip_value(&mut self) -> Result<(), Malformed> {
        self.levels.clear();
        loop {
            let byte = self.peek().ok_or(Malformed)?;
            self.at += 1;
            match byte {
                b'"' => {
                    self.string_rest()?;
                }
                b'{' if !self.take(b'}') => {
                    self.levels.push(Level::Object);
                    self.key()?;
                    continue;
                }
                b'[' if !self.take(b']') => {
                    self.levels.push(Level::Array);
                    continue;
                }
                b'{' | b'[' => {}
                b'-' | b'0'..=b'9' => self.number_rest(byte)?,
                b't' => self.word_rest(b"rue")?,
                b'f' => self.word_rest(b"alse")?,
                b'n' => self.word_rest(b"ull")?,
                _ => return Err(Malformed),
            }
            loop {
                match self.levels.last().copied() {
                    None => return Ok(()),
                    Some(Level::Array) if self.goes_on(b']')? => break,
                    Some(Level::Object) if self.goes_on(b'}')? => {
                        self.key()?;
                        break;
                    }
                    Some(_) => {
                        self.levels.pop();
                    }
                }
            }
        }
    }

    /// Behind an opening quote: goes behind the closing one. Whether there are escapes in between.
    #[inline]
    fn string_rest(&mut self) -> Result<bool, Malformed> {
        let bytes = self.text.as_bytes();
        let at = special(bytes, self.at).ok_or(Malformed)?;
        if bytes.get(at) == Some(&b'"') {
            self.at = at + 1;
            return Ok(false);
        }
        self.escaped_rest(at).map(|()| true)
    }

    /// The same from the first escape on, which is at `at`.
    #[cold]
    fn escaped_rest(&mut self, mut at: usize) -> Result<(), Malformed> {
        let bytes = self.text.as_bytes();
        loop {
            at += match bytes.get(at..) {
                Some([b'"', ..]) => {
                    self.at = at + 1;
                    return Ok(());
                }
                Some(
                    [
                        b'\\',
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
                        ..,
                    ],
                ) => 2,
                Some([b'\\', b'u', a, b, c, d, ..])
                    if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) =>
                {
                    6
                }
                _ => return Err(Malformed),
            };
            at = special(bytes, at).ok_or(Malformed)?;
        }
    }

    /// Behind the first character of a number: goes behind the last.
    fn number_rest(&mut self, first: u8) -> Result<(), Malformed> {
        let first = if first == b'-' {
            self.at += 1;
            *self.text.as_bytes().get(self.at - 1).ok_or(Malformed)?
        } else {
            first
        };
        match first {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return Err(Malformed),
        }
        if self.next_is(|byte| byte == b'.') {
            self.some_digits()?;
        }
        if self.next_is(|byte| matches!(byte, b'e' | b'E')) {
            let _signed = self.next_is(|byte| matches!(byte, b'+' | b'-'));
            self.some_digits()?;
        }
        // A digit behind a leading zero.
        if self.next_is(|byte| byte.is_ascii_digit()) {
            return Err(Malformed);
        }
        Ok(())
    }

    fn some_digits(&mut self) -> Result<(), Malformed> {
        if !self.next_is(|byte| byte.is_ascii_digit()) {
            return Err(Malformed);
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.next_is(|byte| byte.is_ascii_digit()) {}
    }

    /// Goes behind the very next byte if it is one of those.
    #[inline]
    fn next_is(&mut self, one_of: impl Fn(u8) -> bool) -> bool {
        let is_one = self
            .text
            .as_bytes()
            .get(self.at)
            .is_some_and(|byte| one_of(*byte));
        if is_one {
            self.at += 1;
        }
        is_one
    }

    fn word_rest(&mut self, rest: &[u8]) -> Result<(), Malformed> {
        let bytes = self.text.as_bytes();
        let follows = bytes
            .get(self.at..)
            .is_some_and(|text| text.starts_with(rest));
        if !follows {
            return Err(Malformed);
        }
        self.at += rest.len();
        Ok(())
    }
}

/// White space of JSON.
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// Where the first quote, backslash or control character stands in `bytes`, from `at` on. Eight bytes at a time.
#[inline]
pub(super) fn special(bytes: &[u8], mut at: usize) -> Option<usize> {
    // Of each byte that is zero, the highest bit; above the first of them some more. So the lowest one is right.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let (chunks, rest) = bytes.get(at..)?.as_chunks::<8>();
    for chunk in chunks {
        let word = u64::from_le_bytes(*chunk);
        let found = zeros(word ^ (ONES * u64::from(b'"')))
            | zeros(word ^ (ONES * u64::from(b'\\')))
            | (word.wrapping_sub(ONES * 0x20) & !word & HIGHS);
        if found != 0 {
            // At most 7: fits.
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    let found = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
    Some(at + found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn scanned(text: &str) -> Result<&str, Malformed> {
        let mut scanner = Scanner::new(text);
        let value = scanner.value()?;
        scanner.end().map(|()| value)
    }

    /// The scanner takes what `serde_json` takes, and gives the same text.
    fn assert_agrees(text: &str) {
        let theirs = serde_json::from_str::<&RawValue>(text);
        assert_eq!(
            scanned(text).ok(),
            theirs.ok().map(RawValue::get),
            "{text:?}"
        );
    }

    #[test]
    fn it_agrees_with_a_second_reader_on_every_corner_of_the_grammar() {
        for text in [
            "",
            " ",
            "0",
            "-0",
            "-",
            "01",
            "-01",
            "1.",
            "1.0",
            ".5",
            "1e",
            "1e5",
            "1E+05",
            "1e-",
            "1.5e-7x",
            "- 1",
            "+1",
            "0x1",
            "1 2",
            "NaN",
            "tru",
            "true",
            " true ",
            "truex",
            "nul",
            "null",
            "false",
            "fals",
            "\"",
            "\"\"",
            "\"a",
            "\"\\\"",
            "\"\\\\\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12ag\"",
            "\"\\u12ab\"",
            "\"\\ud800\"",
            "\"\t\"",
            "\"\u{1f}\"",
            "\"\u{7f}é漢\"",
            "\"12345678\\n12345678\"",
            "\"1234567\n\"",
            "{",
            "{}",
            "{ }",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\" : 1 , \"b\":[]}",
            "{a:1}",
            "{1:1}",
            "[",
            "[]",
            "[ ]",
            "[,]",
            "[1,]",
            "[1 2]",
            "[[],{},[{}]]",
            "[}",
            "{]",
            "]",
            "[1]]",
            "{}{}",
            "[{\"a\":[{\"b\":\"c\"}]}]",
            "[[1,2],[3]",
            "{\"a\":{\"b\":1}",
            "\u{feff}1",
            "\u{a0}1",
        ] {
            assert_agrees(text);
        }
    }

    #[test]
    fn hostile_nesting_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert!(scanned(&deep).is_ok());
        assert!(scanned(deep.trim_end_matches(']')).is_err());
    }

    #[test]
    fn special_bytes_are_found_at_every_place() {
        for at in 0..40 {
            for byte in [b'"', b'\\', 0, 0x1f] {
                let mut bytes = vec![b'\x7f'; 40];
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
                assert_eq!(special(&bytes, 0), Some(at));
                assert_eq!(special(&bytes, at + 1), None);
                bytes.fill(0xff);
                assert_eq!(special(&bytes, 0), None);
            }
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_second_reader(text in r#"[\[\]{}:,"\\ \nabeutrlfn0-9.+\-é]{0,24}"#) {
            assert_agrees(&text);
        }

        #[test]
        fn it_agrees_with_a_second_reader_on_what_is_nearly_json(
            parts in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"k\"", "\"\\u00e9\"", "1", "-2.5e3", "true", "null", " ", "{}", "\"v\":", "[1]",
            ]), 0..12)
        ) {
            assert_agrees(&parts.concat());
        }
    }
}
