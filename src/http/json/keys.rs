//! Repeated keys: found in one pass, whatever a hostile body does.

use super::scan::{Inner, is_space};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashSet;

/// Keys of an object that are compared one by one.
const FEW_MAX: usize = 8;

/// Keys that an object may have beyond those: far more than fit into any attachment. Why a bound: a body that is nothing
/// but keys would take several times its size in memory.
const MANY_MAX: usize = 1_024;

/// What is wrong with the keys of an object.
pub(super) type Fault = Cow<'static, str>;

/// The keys of an object beyond the few. Hashed under a key, so that a hostile object costs no quadratic time.
#[derive(Default)]
struct Many<'b>(Option<HashSet<Cow<'b, str>>>);

impl<'b> Many<'b> {
    fn insert(&mut self, key: Cow<'b, str>) -> Result<(), Fault> {
        let keys = self.0.get_or_insert_default();
        if keys.contains(&key) {
            return Err(repeated(&key).into());
        }
        if keys.len() == MANY_MAX {
            return Err("an object has too many keys".into());
        }
        keys.insert(key);
        Ok(())
    }
}

/// The keys of one object as far as they were read.
#[derive(Default)]
pub(super) struct KeysSeen<'b> {
    /// Those without escapes among the first, `few_len` of them; an array, since nearly every body has few.
    few: [&'b str; FEW_MAX],
    few_len: usize,
    many: Many<'b>,
}

impl<'b> KeysSeen<'b> {
    /// Notes `key`, which must be new.
    pub(super) fn insert(&mut self, key: Cow<'b, str>) -> Result<(), Fault> {
        let few = self.few.get(..self.few_len).unwrap_or_default();
        if few.contains(&&*key) {
            return Err(repeated(&key).into());
        }
        match (self.few.get_mut(self.few_len), key) {
            (Some(place), Cow::Borrowed(key)) if self.many.0.is_none() => {
                *place = key;
                self.few_len += 1;
                Ok(())
            }
            (_, key) => self.many.insert(key),
        }
    }
}

/// What is wrong with an object that has `key` twice.
pub(super) fn repeated(key: &str) -> String {
    let shown: String = key.chars().take(64).collect();
    format!("repeated key {shown:?}")
}

/// What is wrong with a string that is no Unicode text.
pub(super) const HALF_A_CHARACTER: &str = "half a surrogate pair in a string";

/// How deep a value may nest whose keys are compared.
const DEPTH_MAX: usize = 128;

/// An object or array that is open while [`Survey::of`] walks by.
struct Level<'b> {
    is_object: bool,
    key_is_next: bool,
    /// Where its keys begin among those of all open objects.
    keys_from: usize,
    many: Many<'b>,
}

/// Room for what is open, and for the keys of that, in a usual attachment.
type Levels<'b> = SmallVec<[Level<'b>; 2]>;
type Keys<'b> = SmallVec<[Cow<'b, str>; FEW_MAX]>;

/// What one pass over a value finds.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Levels of objects and arrays; 0 for a scalar.
    pub(super) depth: usize,
    /// Bytes of white space between the tokens.
    pub(super) space_bytes: usize,
    /// The first of: a repeated key or too many of them in any object, half a character in a string, too many levels.
    pub(super) fault: Option<Fault>,
}

impl Survey {
    /// Walks over `json`, which is valid JSON. One pass and a bounded stack of its own: hostile nesting costs neither
    /// quadratic time nor the thread's stack.
    pub(super) fn of(json: &str) -> Self {
        let mut survey = Self::default();
        let mut levels: Levels<'_> = SmallVec::new();
        let mut keys: Keys<'_> = SmallVec::new();
        // May be more than `levels` has, which stops at its bound.
        let mut depth = 0_usize;
        let bytes = json.as_bytes();
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            at += 1;
            match byte {
                b'{' | b'[' => {
                    depth += 1;
                    survey.depth = survey.depth.max(depth);
                    if depth > DEPTH_MAX {
                        survey.note(|| "nested too deeply".into());
                    } else {
                        levels.push(Level {
                            is_object: *byte == b'{',
                            key_is_next: *byte == b'{',
                            keys_from: keys.len(),
                            many: Many::default(),
                        });
                    }
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    if levels.len() > depth
                        && let Some(closed) = levels.pop()
                    {
                        keys.truncate(closed.keys_from);
                    }
                }
                b'"' => {
                    let (inner, end) = Inner::at(json, at);
                    at = end + 1;
                    let level = levels.last_mut().filter(|_| depth <= DEPTH_MAX);
                    survey.string(inner, level, &mut keys);
                }
                b',' => {
                    if let Some(level) = levels.last_mut() {
                        level.key_is_next = level.is_object;
                    }
                }
                byte if is_space(*byte) => survey.space_bytes += 1,
                _ => {}
            }
        }
        survey
    }

    /// A string, which is a key if one is next at its level.
    fn string<'b>(&mut self, inner: Inner<'b>, level: Option<&mut Level<'b>>, keys: &mut Keys<'b>) {
        let Some(text) = inner.unescape() else {
            self.note(|| HALF_A_CHARACTER.into());
            return;
        };
        let Some(level) = level.filter(|level| level.key_is_next) else {
            return;
        };
        level.key_is_next = false;
        let few = keys.get(level.keys_from..).unwrap_or_default();
        if few.contains(&text) {
            self.note(|| repeated(&text).into());
        } else if few.len() < FEW_MAX {
            keys.push(text);
        } else if let Err(fault) = level.many.insert(text) {
            self.note(|| fault);
        }
    }

    fn note(&mut self, fault: impl FnOnce() -> Fault) {
        self.fault.get_or_insert_with(fault);
    }
}

/// Looks for what is wrong with the keys of any object in `json`, which is valid JSON.
pub(super) fn check_keys(json: &str) -> Result<(), Fault> {
    if !json.starts_with(['{', '[', '"']) {
        return Ok(());
    }
    Survey::of(json).fault.map_or(Ok(()), Err)
}
