//! Repeated keys: found in one pass, whatever a hostile body does.

use super::unescape;
use std::borrow::Cow;
use std::collections::HashSet;

/// The keys of one object as far as they were read. A few are compared one by one; beyond that a keyed hash set keeps
/// hostile objects from costing quadratic time.
#[derive(Default)]
pub(super) struct KeysSeen<'b> {
    few: Vec<Cow<'b, str>>,
    many: HashSet<Cow<'b, str>>,
}

impl<'b> KeysSeen<'b> {
    const FEW_MAX: usize = 16;

    /// Whether `key` is new.
    pub(super) fn insert(&mut self, key: Cow<'b, str>) -> bool {
        if self.few.contains(&key) {
            return false;
        }
        if self.few.len() < Self::FEW_MAX {
            self.few.push(key);
            return true;
        }
        self.many.insert(key)
    }
}

/// What is wrong with an object that has `key` twice.
pub(super) fn repeated(key: &str) -> String {
    let shown: String = key.chars().take(64).collect();
    format!("repeated key {shown:?}")
}

/// How deep a value may nest that is read only to look for repeated keys.
const DEPTH_MAX: usize = 128;

/// An object or array that is open while [`check_keys`] walks by.
enum Level<'b> {
    Array,
    Object {
        keys: KeysSeen<'b>,
        key_is_next: bool,
    },
}

/// Looks for a repeated key in any object of `json`, which is valid JSON. One pass and a bounded stack of its own:
/// hostile nesting costs neither quadratic time nor the thread's stack.
pub(super) fn check_keys(json: &str) -> Result<(), Cow<'static, str>> {
    let mut levels: Vec<Level<'_>> = Vec::new();
    let mut rest = json;
    while let Some(at) = rest.find(['{', '[', '}', ']', ',', '"']) {
        let (head, tail) = rest.split_at(at.saturating_add(1));
        rest = tail;
        match head.as_bytes().last() {
            Some(b'{') => levels.push(Level::Object {
                keys: KeysSeen::default(),
                key_is_next: true,
            }),
            Some(b'[') => levels.push(Level::Array),
            Some(b'"') => {
                let inner;
                (inner, rest) = tail.split_at(string_end(tail));
                rest = rest.strip_prefix('"').unwrap_or(rest);
                let key = unescape(inner).ok_or("half a surrogate pair in a string")?;
                if let Some(Level::Object {
                    keys,
                    key_is_next: next @ true,
                }) = levels.last_mut()
                {
                    *next = false;
                    if !keys.insert(key.clone()) {
                        return Err(repeated(&key).into());
                    }
                }
            }
            Some(b',') => {
                if let Some(Level::Object { key_is_next, .. }) = levels.last_mut() {
                    *key_is_next = true;
                }
            }
            _ => {
                levels.pop();
            }
        }
        if levels.len() > DEPTH_MAX {
            return Err("nested too deeply".into());
        }
    }
    Ok(())
}

/// Where the closing quote stands in what follows an opening one.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    end.unwrap_or(text.len())
}
