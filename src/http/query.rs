//! The part of a URL behind the question mark.

use super::error::ErrorKind;
use crate::types::{Currencies, CurrencyInfo, TimestampMs, WalletId};
use std::borrow::Cow;
use uuid::Uuid;

/// The parameters of one request. Where a name stands twice the first counts, as in the old service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'q>(&'q str);

impl<'q> Query<'q> {
    pub(super) fn new(query: Option<&'q str>) -> Self {
        Self(query.unwrap_or_default())
    }

    /// The decoded value of `name`; `None` where it is missing or empty.
    pub(super) fn get(self, name: &str) -> Option<Cow<'q, str>> {
        self.0.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name)
                .then(|| decode(value))
                .filter(|value| !value.is_empty())
        })
    }

    /// `limit`: out of range or no number falls back to `default`, as in the old service.
    pub(super) fn limit(self, default: usize, max: usize) -> usize {
        let asked = self.get("limit").and_then(|text| text.parse().ok());
        asked
            .filter(|limit| (1..=max).contains(limit))
            .unwrap_or(default)
    }

    /// A whole number of at most 64 bits, `default` where it is missing.
    pub(super) fn number(self, name: &'static str, default: u64) -> Result<u64, ErrorKind> {
        self.get(name).map_or(Ok(default), |text| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|_| digits);
            number.ok_or(ErrorKind::Parameter {
                name,
                expected: "a whole number",
            })
        })
    }

    /// `currency`, the table's first where it is missing.
    pub(super) fn currency(self, currencies: &Currencies) -> Result<&CurrencyInfo, ErrorKind> {
        let row = match self.get("currency") {
            Some(code) => currencies.by_code(&code),
            None => currencies.get(currencies.default_currency()),
        };
        row.ok_or(ErrorKind::Parameter {
            name: "currency",
            expected: "a known currency",
        })
    }

    /// An RFC 3339 time, `None` where it is missing. Before 1970 counts as 1970.
    pub(super) fn time(self, name: &'static str) -> Result<Option<TimestampMs>, ErrorKind> {
        let parse = |text: Cow<'_, str>| {
            let time: jiff::Timestamp = text.parse().map_err(|_| ErrorKind::Parameter {
                name,
                expected: "an RFC 3339 time",
            })?;
            Ok(TimestampMs::new(
                u64::try_from(time.as_millisecond()).unwrap_or_default(),
            ))
        };
        self.get(name).map(parse).transpose()
    }

    /// `wallet_id`, `None` where it is missing.
    pub(super) fn wallet(self) -> Result<Option<WalletId>, ErrorKind> {
        self.get("wallet_id")
            .map(|text| wallet_id(&text))
            .transpose()
    }
}

/// A wallet's id in a path or a parameter.
pub(super) fn wallet_id(text: &str) -> Result<WalletId, ErrorKind> {
    Uuid::try_parse(text)
        .ok()
        .and_then(WalletId::new)
        .ok_or(ErrorKind::WalletIdFormat)
}

/// Percent-encoding and `+`. What is no valid encoding stands for itself; the value's own check will refuse it.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = text.as_bytes().iter();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(&byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let rest = bytes.as_slice();
                let pair = rest
                    .get(..2)
                    .and_then(|pair| std::str::from_utf8(pair).ok());
                match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
                    Some(value) => {
                        bytes.nth(1);
                        value
                    }
                    None => b'%',
                }
            }
            other => other,
        });
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_the_first_counts() {
        let query = Query::new(Some("a=1&b=x%3Ay+z&a=2&c=&d&e=%zz%4"));
        assert_eq!(query.get("a").as_deref(), Some("1"));
        assert_eq!(query.get("b").as_deref(), Some("x:y z"));
        assert_eq!(query.get("c"), None);
        assert_eq!(query.get("d"), None);
        assert_eq!(query.get("e").as_deref(), Some("%zz%4"));
        assert_eq!(Query::new(None).get("a"), None);
    }

    #[test]
    fn a_limit_out_of_range_falls_back_to_the_default() {
        for (text, limit) in [
            ("limit=7", 7),
            ("limit=100", 100),
            ("limit=101", 50),
            ("limit=0", 50),
            ("limit=-3", 50),
            ("limit=ten", 50),
            ("limit=99999999999999999999999", 50),
            ("", 50),
        ] {
            assert_eq!(Query::new(Some(text)).limit(50, 100), limit, "{text}");
        }
    }

    #[test]
    fn numbers_are_digits_of_64_bits() {
        let number = |text| Query::new(Some(text)).number("n", 5).ok();
        assert_eq!(number("n=18446744073709551615"), Some(u64::MAX));
        assert_eq!(number("x=1"), Some(5));
        for text in ["n=-1", "n=%2B1", "n=1.0", "n=ten", "n=18446744073709551616"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_read_with_their_offset() {
        let time = |text| {
            Query::new(Some(text))
                .time("since")
                .map(|t| t.map(TimestampMs::get))
        };
        assert_eq!(time("since=1970-01-01T00:00:01Z"), Ok(Some(1000)));
        assert_eq!(
            time("since=1970-01-01T01%3A00%3A01%2B01%3A00"),
            Ok(Some(1000))
        );
        assert_eq!(time("since=1969-01-01T00:00:00Z"), Ok(Some(0)));
        assert_eq!(time(""), Ok(None));
        assert!(time("since=yesterday").is_err());
    }

    #[test]
    fn ids_of_wallets_are_uuids_but_not_nil() {
        assert!(wallet_id("00000000-0000-0000-0000-0000000000AA").is_ok());
        assert!(wallet_id("00000000-0000-0000-0000-000000000000").is_err());
        assert!(wallet_id("seven").is_err());
        assert!(wallet_id("").is_err());
    }
}
