//! Request bodies: JSON objects read field by field, as text, so that no number passes through a float.
//!
//! Strict where a slip could move money (a repeated key in any object is refused), deaf where old clients rely on it
//! (unknown fields). Knows no field of any resource.

mod attachment;
mod keys;
#[cfg(test)]
mod model_tests;
mod scan;

pub(super) use attachment::{AttachmentError, attachment};

use keys::{HALF_A_CHARACTER, KeysSeen, check_keys, repeated};
use scan::{Inner, Malformed, Scanner, special};
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// Why a body is no object of the expected shape; the text becomes `details`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ShapeError(pub(super) Cow<'static, str>);

impl ShapeError {
    /// Why `text` is no JSON, in the words of `serde_json`, with line and column.
    fn of_malformed(text: &str) -> Self {
        match serde_json::from_str::<IgnoredAny>(text) {
            Err(error) => Self(error.to_string().into()),
            // Invariant: both read the same grammar (a test compares them), but `serde_json` looks into no text it skips.
            Ok(_) => Self(HALF_A_CHARACTER.into()),
        }
    }
}

/// The values of the `N` fields asked for, as JSON text; `None` where a field is missing or `null`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'b, const N: usize> {
    values: [Option<&'b str>; N],
}

impl<'b, const N: usize> Fields<'b, N> {
    /// The value of the field that stood at `index` of the names.
    pub(super) fn get(&self, index: usize) -> Option<&'b str> {
        self.values.get(index).copied().flatten()
    }
}

/// Reads `body` as one JSON object with the fields `names`.
pub(super) fn read_object<'b, const N: usize>(
    body: &'b [u8],
    names: &[&str; N],
) -> Result<Fields<'b, N>, ShapeError> {
    let text = utf8(body)?;
    let mut scanner = Scanner::new(text);
    let fields = fields(&mut scanner, names);
    match fields.and_then(|fields| scanner.end().map(|()| fields)) {
        Ok(fields) => fields,
        Err(Malformed) => Err(ShapeError::of_malformed(text)),
    }
}

/// What surrounds the items of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct BatchFrame {
    /// The field `atomic`.
    pub(super) atomic: bool,
    /// Items seen; those beyond the limit were not given out.
    pub(super) count: usize,
}

/// Reads `body` as `{"transactions":[…],"atomic":…}` and gives each of the first `items_max` items to `each`, in
/// order: its fields, or what is wrong with it. Items are read in one pass over the body; what was given out of a body
/// that turns out malformed further on is of no use.
pub(super) fn read_batch<'b, const N: usize>(
    body: &'b [u8],
    names: &[&str; N],
    items_max: usize,
    mut each: impl FnMut(Result<Fields<'b, N>, ShapeError>),
) -> Result<BatchFrame, ShapeError> {
    let text = utf8(body)?;
    let mut scanner = Scanner::new(text);
    let frame = batch_frame(&mut scanner, |scanner| {
        let mut count = 0_usize;
        let mut goes_on = !scanner.take(b']');
        while goes_on {
            if count < items_max {
                each(fields(scanner, names)?);
            } else {
                scanner.value()?;
            }
            count += 1;
            goes_on = scanner.goes_on(b']')?;
        }
        Ok(count)
    });
    match frame.and_then(|frame| scanner.end().map(|()| frame)) {
        Ok(frame) => frame,
        Err(Malformed) => Err(ShapeError::of_malformed(text)),
    }
}

/// Reads the object around a batch's items, which `items` reads. The inner `Err` is a fault of well-formed JSON.
fn batch_frame<'b>(
    scanner: &mut Scanner<'b>,
    mut items: impl FnMut(&mut Scanner<'b>) -> Result<usize, Malformed>,
) -> Result<Result<BatchFrame, ShapeError>, Malformed> {
    const NOT_A_LIST: &str = "invalid type: transactions must be a list";
    if scanner.peek() != Some(b'{') {
        scanner.value()?;
        let text = "invalid type: a batch is a JSON object";
        return Ok(Err(ShapeError(text.into())));
    }
    let mut frame = BatchFrame::default();
    let (mut has_items, mut has_atomic, mut unknown) = (false, false, KeysSeen::default());
    let mut fault = None;
    scanner.expect(b'{')?;
    let mut goes_on = !scanner.take(b'}');
    while goes_on {
        let key = scanner.key()?.unescape().ok_or(Malformed)?;
        let is_new = match &*key {
            "transactions" if !has_items && scanner.take(b'[') => {
                has_items = true;
                frame.count = items(scanner)?;
                true
            }
            "transactions" => {
                if scanner.peek() != Some(b'[') {
                    fault.get_or_insert(Cow::Borrowed(NOT_A_LIST));
                }
                scanner.value()?;
                !std::mem::replace(&mut has_items, true)
            }
            "atomic" => {
                match scanner.value()? {
                    "null" => {}
                    value => match boolean(value) {
                        Some(atomic) => frame.atomic = atomic,
                        None => {
                            fault.get_or_insert("invalid type: atomic must be a boolean".into());
                        }
                    },
                }
                !std::mem::replace(&mut has_atomic, true)
            }
            _ => {
                let noted = check_keys(scanner.value()?).and_then(|()| unknown.insert(key.clone()));
                if let Err(error) = noted {
                    fault.get_or_insert(error);
                }
                true
            }
        };
        if !is_new {
            fault.get_or_insert_with(|| repeated(&key).into());
        }
        goes_on = scanner.goes_on(b'}')?;
    }
    Ok(match fault {
        Some(text) => Err(ShapeError(text)),
        None if has_items => Ok(frame),
        None => Err(ShapeError("missing field `transactions`".into())),
    })
}

fn utf8(body: &[u8]) -> Result<&str, ShapeError> {
    std::str::from_utf8(body).map_err(|_| ShapeError("body is not UTF-8".into()))
}

/// What stands between the quotes of a JSON string, escapes and all; `None` when `text` is JSON of another type.
pub(super) fn raw_string(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.strip_suffix('"')
}

/// The content of a JSON string; `None` when `text` is JSON of another type.
pub(super) fn string(text: &str) -> Option<Cow<'_, str>> {
    let text = raw_string(text)?;
    // Nothing special stands in a string but backslashes.
    let has_escapes = special(text.as_bytes(), 0).is_some();
    Inner { text, has_escapes }.unescape()
}

/// `true`, `false`, or `None` for JSON of another type.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Reads an object's fields by name. The inner `Err` is a fault of this value alone: the text behind it can still be
/// read, so that one bad item does not spoil a batch.
fn fields<'b, const N: usize>(
    scanner: &mut Scanner<'b>,
    names: &[&str; N],
) -> Result<Result<Fields<'b, N>, ShapeError>, Malformed> {
    if scanner.peek() != Some(b'{') {
        scanner.value()?;
        return Ok(Err(ShapeError("expected a JSON object".into())));
    }
    let mut present = [false; N];
    let mut values = [None; N];
    let mut unknown = KeysSeen::default();
    let mut fault = None;
    // Clients send their fields in one order, most of them in that of the names: the next name is looked at first.
    let mut next = 0;
    scanner.expect(b'{')?;
    let mut goes_on = !scanner.take(b'}');
    while goes_on {
        let key = scanner.key()?.unescape().ok_or(Malformed)?;
        let text = scanner.value()?;
        let index = if names.get(next).is_some_and(|name| *name == key) {
            Some(next)
        } else {
            names.iter().position(|name| *name == key)
        };
        let known = index.and_then(|at| Some((present.get_mut(at)?, values.get_mut(at)?)));
        if let Some((present, value)) = known {
            if std::mem::replace(present, true) {
                fault.get_or_insert_with(|| repeated(&key).into());
            }
            *value = (text != "null").then_some(text);
            next = index.map_or(0, |at| at + 1);
        } else if let Err(error) = check_keys(text).and_then(|()| unknown.insert(key)) {
            fault.get_or_insert(error);
        }
        goes_on = scanner.goes_on(b'}')?;
    }
    Ok(match fault {
        None => Ok(Fields { values }),
        Some(text) => Err(ShapeError(text)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: [&str; 2] = ["a", "b"];

    fn read(text: &str) -> Result<[Option<&str>; 2], String> {
        read_object(text.as_bytes(), &NAMES)
            .map(|f| f.values)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn fields_are_read_as_the_text_that_was_sent() {
        assert_eq!(
            read(r#"{"a":1.50,"b":"x"}"#),
            Ok([Some("1.50"), Some("\"x\"")])
        );
        assert_eq!(
            read(r#"{"b" : 1e400 , "c":[{}]}"#),
            Ok([None, Some("1e400")])
        );
        assert_eq!(read(r#"{"\u0061":null}"#), Ok([None, None]));
        assert_eq!(read("{}"), Ok([None, None]));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in [
            "",
            "{",
            "[]",
            "[1]",
            "7",
            "-7",
            "1.5",
            "\"a\"",
            "null",
            "true",
            "{\"a\":NaN}",
            "{}{}",
            "{\"a\":1,}",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let error = read_object(b"{\"a\":\"\xff\"}", &NAMES).unwrap_err();
        assert_eq!(error.to_string(), "body is not UTF-8");
    }

    #[test]
    fn a_repeated_key_is_refused_in_every_object() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":null,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"x":1,"x":1}"#,
            r#"{"x":{"y":1,"y":2}}"#,
            r#"{"x":[[{"y":1,"y":2}]]}"#,
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with("repeated key"), "{text}: {error}");
        }
    }

    #[test]
    fn many_keys_are_told_apart_beyond_the_few() {
        let keys = |last: usize| {
            let keys: Vec<String> = (0..100)
                .chain([last])
                .map(|n| format!("\"k{n}\":0"))
                .collect();
            format!("{{{}}}", keys.join(","))
        };
        assert!(read(&keys(100)).is_ok());
        assert!(read(&keys(50)).unwrap_err().contains("k50"));
        assert!(read(&keys(3)).unwrap_err().contains("k3"));
    }

    #[test]
    fn hostile_nesting_is_refused_in_one_pass() {
        let deep = "[".repeat(1_000_000);
        let shut = "]".repeat(1_000_000);
        let error = read(&format!("{{\"x\":{deep}{shut}}}")).unwrap_err();
        assert_eq!(error, "nested too deeply");
        assert!(
            read(&format!("{{\"a\":{deep}{shut}}}")).is_ok(),
            "the field's reader decides"
        );
        assert!(read(&format!("{{\"x\":{deep}")).is_err());
    }

    #[test]
    fn keys_are_looked_for_behind_strings_of_all_sorts() {
        for (text, fine) in [
            (r#"{"x":{"p":"\\","q":"\"","r":"{\"p\":1,\"p\":2}"}}"#, true),
            (r#"{"x":{"p":",","q":"p","r":["p","p"]}}"#, true),
            (r#"{"x":[{"p":1},{"p":1}]}"#, true),
            (r#"{"x":{"p":"\\","p":1}}"#, false),
            (r#"{"x":{"p":{"q":1},"p":1}}"#, false),
            (r#"{"x":[0,{"p":[{}],"q":"","p":1}]}"#, false),
        ] {
            assert_eq!(read(text).is_ok(), fine, "{text}");
        }
    }

    #[test]
    fn a_batch_gives_each_item_with_its_own_fault() {
        let body =
            br#"{"note":{},"transactions":[{"a":1},7,{"a":1,"a":2},{"b":"x"},[]],"atomic":true}"#;
        let mut items = Vec::new();
        let frame = read_batch(body, &NAMES, 10, |item| {
            items.push(item.map(|f| f.values).map_err(|e| e.to_string()));
        });
        assert_eq!(
            frame,
            Ok(BatchFrame {
                atomic: true,
                count: 5
            })
        );
        assert_eq!(
            items,
            [
                Ok([Some("1"), None]),
                Err("expected a JSON object".to_owned()),
                Err("repeated key \"a\"".to_owned()),
                Ok([None, Some("\"x\"")]),
                Err("expected a JSON object".to_owned()),
            ]
        );
    }

    #[test]
    fn a_batch_that_is_too_long_is_counted_but_not_given_out() {
        let mut given = 0;
        let frame = read_batch(br#"{"transactions":[{},{},{}]}"#, &NAMES, 2, |_| given += 1);
        assert_eq!((frame.unwrap().count, given), (3, 2));
    }

    #[test]
    fn a_batch_without_its_frame_is_refused() {
        for text in [
            "{}",
            "[]",
            r#"{"transactions":null}"#,
            r#"{"transactions":{}}"#,
            r#"{"transactions":[],"transactions":[]}"#,
            r#"{"transactions":[],"atomic":1}"#,
            r#"{"transactions":[],"atomic":true,"atomic":true}"#,
            r#"{"transactions":[{]}"#,
            r#"{"transactions":[],"x":1,"x":1}"#,
        ] {
            assert!(
                read_batch(text.as_bytes(), &NAMES, 2, |_| {}).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn strings_are_unescaped() {
        assert_eq!(string("\"abc\"").as_deref(), Some("abc"));
        assert_eq!(string("\"a\\u0062c\"").as_deref(), Some("abc"));
        assert_eq!(string("7"), None);
        assert_eq!(string("{}"), None);
    }

    #[test]
    fn an_object_of_nothing_but_keys_is_refused_before_it_takes_memory() {
        let object = |count: usize| {
            let keys: Vec<String> = (0..count).map(|n| format!("\"k{n}\":0")).collect();
            format!("{{{}}}", keys.join(","))
        };
        for wrap in ["@", r#"{"x":@}"#, r#"{"x":[[@]]}"#] {
            let with = |count| wrap.replace('@', &object(count));
            assert!(read(&with(1_000)).is_ok());
            let error = read(&with(1_100)).unwrap_err();
            assert_eq!(error, "an object has too many keys");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (read_object(&body, &NAMES).is_ok(), read_batch(&body, &NAMES, 2, |_| {}).is_ok());
        }
    }
}
