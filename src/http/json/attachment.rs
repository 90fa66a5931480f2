//! `metadata` and `details`: objects that are kept as the client sent them, but for white space.

use super::keys::check_keys;
use std::borrow::Cow;

/// Why an attached object is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::http) enum AttachmentError {
    NotAnObject,
    /// A repeated key, or half a surrogate pair.
    Malformed(Cow<'static, str>),
    TooDeep,
    TooLarge,
}

/// `text` (JSON of any type) as compact JSON text of an object of at most `bytes_max` bytes and `depth_max` levels.
pub(in crate::http) fn attachment(
    text: &str,
    bytes_max: usize,
    depth_max: usize,
) -> Result<Box<str>, AttachmentError> {
    if !text.starts_with('{') {
        return Err(AttachmentError::NotAnObject);
    }
    let compact = compact(text);
    if compact.len() > bytes_max {
        return Err(AttachmentError::TooLarge);
    }
    if depth(&compact) > depth_max {
        return Err(AttachmentError::TooDeep);
    }
    check_keys(&compact).map_err(AttachmentError::Malformed)?;
    Ok(compact.into())
}

/// Valid JSON without the white space between its tokens.
fn compact(json: &str) -> String {
    let mut outside = Outside::default();
    json.chars()
        .filter(|c| !(outside.step(*c) && c.is_ascii_whitespace()))
        .collect()
}

/// How deep objects and arrays nest in valid JSON; 0 for a scalar.
fn depth(json: &str) -> usize {
    let (mut outside, mut level, mut deepest) = (Outside::default(), 0_usize, 0);
    for c in json.chars().filter(|c| outside.step(*c)) {
        match c {
            '{' | '[' => level = level.saturating_add(1),
            '}' | ']' => level = level.saturating_sub(1),
            _ => {}
        }
        deepest = level.max(deepest);
    }
    deepest
}

/// Walks over valid JSON and knows what stands outside of strings.
#[derive(Default)]
struct Outside {
    in_string: bool,
    escaped: bool,
}

impl Outside {
    /// Takes the next character; whether it stands outside of a string (an opening quote does not).
    fn step(&mut self, c: char) -> bool {
        if self.in_string {
            self.in_string = self.escaped || c != '"';
            self.escaped = c == '\\' && !self.escaped;
            false
        } else {
            self.in_string = c == '"';
            !self.in_string
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attachments_are_kept_compact_and_within_their_limits() {
        let fine = attachment("{ \"a b\" : [ 1 , \"x \\\" y\" ] ,\n\"n\":1e400 }", 64, 4);
        assert_eq!(
            fine.as_deref(),
            Ok("{\"a b\":[1,\"x \\\" y\"],\"n\":1e400}")
        );
        assert_eq!(attachment("[1]", 64, 4), Err(AttachmentError::NotAnObject));
        assert_eq!(
            attachment("\"{}\"", 64, 4),
            Err(AttachmentError::NotAnObject)
        );
        assert_eq!(
            attachment("{\"abc\":1}", 8, 4),
            Err(AttachmentError::TooLarge)
        );
        assert!(attachment("{ \"a\" : 1 }", 7, 4).is_ok());
        assert!(attachment("{\"a\":[{\"b\":[]}]}", 64, 4).is_ok());
        assert_eq!(
            attachment("{\"a\":[{\"b\":[[]]}]}", 64, 4),
            Err(AttachmentError::TooDeep)
        );
        assert!(attachment("{\"a\":\"[[[[[[\"}", 64, 1).is_ok());
        for text in [
            "{\"a\":{\"b\":1,\"b\":1}}",
            "{\"a\":1,\"\\u0061\":1}",
            "{\"a\":\"\\ud800\"}",
        ] {
            let refused = attachment(text, 64, 4);
            assert!(
                matches!(refused, Err(AttachmentError::Malformed(_))),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn compacting_keeps_the_value(value in "\\{\"[a-z\\\\ ]{0,5}\": *[0-9]{1,3} *, *\"[{}\\[\\], ]{0,9}\" *: *\"[ \\\\\"{}]{0,6}\" *\\}") {
            if let Ok(parsed) = serde_json::from_str::<serde_json::Value>(&value) {
                let small = compact(&value);
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&small).unwrap(), parsed);
                prop_assert!(small.len() <= value.len());
            }
        }
    }
}
