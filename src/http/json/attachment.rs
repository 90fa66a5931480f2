//! `metadata` and `details`: objects that are kept as the client sent them, but for white space.

use super::keys::Survey;
use super::scan::Inner;
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
    let survey = Survey::of(text);
    if text.len().saturating_sub(survey.space_bytes) > bytes_max {
        return Err(AttachmentError::TooLarge);
    }
    if survey.depth > depth_max {
        return Err(AttachmentError::TooDeep);
    }
    match survey.fault {
        Some(fault) => Err(AttachmentError::Malformed(fault)),
        None if survey.space_bytes == 0 => Ok(text.into()),
        None => Ok(compact(text).into()),
    }
}

/// Valid JSON without the white space between its tokens.
fn compact(json: &str) -> String {
    let mut compact = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(quote) = rest.find('"') {
        let (between, string) = rest.split_at(quote);
        compact.extend(between.split_ascii_whitespace());
        let (_, end) = Inner::at(string, 1);
        let (string, behind) = string.split_at((end + 1).min(string.len()));
        compact.push_str(string);
        rest = behind;
    }
    compact.extend(rest.split_ascii_whitespace());
    compact
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
