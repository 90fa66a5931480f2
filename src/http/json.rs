//! Request bodies: JSON objects read field by field, as text, so that no number passes through a float.
//!
//! Strict where a slip could move money (a repeated key in any object is refused), deaf where old clients rely on it
//! (unknown fields). Knows no field of any resource.

mod attachment;
mod keys;

pub(super) use attachment::{AttachmentError, attachment};

use keys::{KeysSeen, check_keys, repeated};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Why a body is no object of the expected shape; the text becomes `details`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ShapeError(pub(super) Cow<'static, str>);

impl ShapeError {
    fn from_serde(error: &serde_json::Error) -> Self {
        Self(error.to_string().into())
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
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = ObjectSeed { names }
        .deserialize(&mut deserializer)
        .map_err(|error| ShapeError::from_serde(&error))?;
    deserializer
        .end()
        .map_err(|error| ShapeError::from_serde(&error))?;
    fields
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
/// order: its fields, or what is wrong with it. Items are read in one pass over the body.
pub(super) fn read_batch<'b, const N: usize>(
    body: &'b [u8],
    names: &[&str; N],
    items_max: usize,
    each: impl FnMut(Result<Fields<'b, N>, ShapeError>),
) -> Result<BatchFrame, ShapeError> {
    let text = utf8(body)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let frame = deserializer
        .deserialize_map(BatchVisitor {
            names,
            items_max,
            each,
        })
        .map_err(|error| ShapeError::from_serde(&error))?;
    deserializer
        .end()
        .map_err(|error| ShapeError::from_serde(&error))?;
    Ok(frame)
}

fn utf8(body: &[u8]) -> Result<&str, ShapeError> {
    std::str::from_utf8(body).map_err(|_| ShapeError("body is not UTF-8".into()))
}

/// The content of a JSON string; `None` when `text` is JSON of another type.
pub(super) fn string(text: &str) -> Option<Cow<'_, str>> {
    unescape(text.strip_prefix('"')?.strip_suffix('"')?)
}

/// What stands between the quotes of a JSON string, without its escapes.
fn unescape(inner: &str) -> Option<Cow<'_, str>> {
    if inner.contains('\\') {
        serde_json::from_str(&format!("\"{inner}\""))
            .ok()
            .map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// `true`, `false`, or `None` for JSON of another type.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// A key of an object, borrowed from the body unless it has escapes.
struct Key<'b>(Cow<'b, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E: de::Error>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// Reads an object's fields by name. The inner `Err` is a fault of this object alone: the text behind it can still be
/// read, so that one bad item does not spoil a batch.
struct ObjectSeed<'n, const N: usize> {
    names: &'n [&'n str; N],
}

impl<'de, const N: usize> DeserializeSeed<'de> for ObjectSeed<'_, N> {
    type Value = Result<Fields<'de, N>, ShapeError>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

fn not_an_object<T>() -> Result<T, ShapeError> {
    Err(ShapeError("expected a JSON object".into()))
}

impl<'de, const N: usize> Visitor<'de> for ObjectSeed<'_, N> {
    type Value = Result<Fields<'de, N>, ShapeError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut present = [false; N];
        let mut values = [None; N];
        let mut unknown = KeysSeen::default();
        let mut fault = None;
        while let Some(Key(key)) = map.next_key()? {
            let index = self.names.iter().position(|name| *name == key);
            let known = index.and_then(|at| Some((present.get_mut(at)?, values.get_mut(at)?)));
            let raw: &'de RawValue = map.next_value()?;
            if let Some((present, value)) = known {
                if std::mem::replace(present, true) {
                    fault.get_or_insert_with(|| repeated(&key).into());
                }
                *value = (raw.get() != "null").then_some(raw.get());
            } else {
                if let Err(error) = check_keys(raw.get()) {
                    fault.get_or_insert(error);
                }
                if !unknown.insert(key.clone()) {
                    fault.get_or_insert_with(|| repeated(&key).into());
                }
            }
        }
        Ok(match fault {
            None => Ok(Fields { values }),
            Some(text) => Err(ShapeError(text)),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(not_an_object())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(not_an_object())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(not_an_object())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(not_an_object())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(not_an_object())
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(not_an_object())
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(not_an_object())
    }
}

struct BatchVisitor<'n, F, const N: usize> {
    names: &'n [&'n str; N],
    items_max: usize,
    each: F,
}

impl<'de, F, const N: usize> Visitor<'de> for BatchVisitor<'_, F, N>
where
    F: FnMut(Result<Fields<'de, N>, ShapeError>),
{
    type Value = BatchFrame;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<BatchFrame, A::Error> {
        let mut frame = BatchFrame::default();
        let (mut has_items, mut has_atomic, mut unknown) = (false, false, KeysSeen::default());
        while let Some(Key(key)) = map.next_key()? {
            let is_new = match &*key {
                "transactions" => {
                    let is_new = !std::mem::replace(&mut has_items, true);
                    if is_new {
                        frame.count = map.next_value_seed(ItemsSeed(&mut self))?;
                    }
                    is_new
                }
                "atomic" => {
                    let value: Option<bool> = map.next_value()?;
                    frame.atomic = value.unwrap_or_default();
                    !std::mem::replace(&mut has_atomic, true)
                }
                _ => {
                    let raw: &RawValue = map.next_value()?;
                    check_keys(raw.get()).map_err(de::Error::custom)?;
                    unknown.insert(key.clone())
                }
            };
            if !is_new {
                return Err(de::Error::custom(repeated(&key)));
            }
        }
        if has_items {
            Ok(frame)
        } else {
            Err(de::Error::missing_field("transactions"))
        }
    }
}

struct ItemsSeed<'v, 'n, F, const N: usize>(&'v mut BatchVisitor<'n, F, N>);

impl<'de, F, const N: usize> DeserializeSeed<'de> for ItemsSeed<'_, '_, F, N>
where
    F: FnMut(Result<Fields<'de, N>, ShapeError>),
{
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F, const N: usize> Visitor<'de> for ItemsSeed<'_, '_, F, N>
where
    F: FnMut(Result<Fields<'de, N>, ShapeError>),
{
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of transactions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<usize, A::Error> {
        let BatchVisitor {
            names,
            items_max,
            each,
        } = self.0;
        let mut count = 0;
        while count < *items_max {
            let Some(item) = seq.next_element_seed(ObjectSeed { names })? else {
                return Ok(count);
            };
            each(item);
            count = count.saturating_add(1);
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count = count.saturating_add(1);
        }
        Ok(count)
    }
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

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (read_object(&body, &NAMES).is_ok(), read_batch(&body, &NAMES, 2, |_| {}).is_ok());
        }
    }
}
