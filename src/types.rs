//! The words of the domain as types: sequences, ids, money, scores, times.
//!
//! Pure: no I/O, no clock, no HTTP words. A value that exists is valid; parsing happens once, at the edge.

use std::fmt;
use uuid::Uuid;

/// The number of one event in the journal: 1, 2, 3, … without a gap.
///
/// [`Sequence::ORIGIN`] (0) stands before the first event. It is a plain integer and not a `NonZeroU64` because
/// every watermark, cursor and `after_sequence` of the wire contract starts there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sequence(u64);

impl Sequence {
    /// Before the first event.
    pub const ORIGIN: Self = Self(0);
    /// The highest number that a transaction id can carry: ids hold 62 bits (`ids.rs`).
    pub const MAX: Self = Self((1 << 62) - 1);

    /// Wraps a number; 0 is [`Sequence::ORIGIN`].
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sequence `count` further on. Saturates, so that damaged input cannot panic.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// The one right behind this one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The one right before this one; the origin stays where it is.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Whether this is [`Sequence::ORIGIN`].
    pub const fn is_origin(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A wallet's id: any UUID but nil. The ids of [`WalletId::issuer`] are reserved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WalletId(Uuid);

/// The first 112 bits of every issuer's id: a version 8 UUID (RFC 9562 §5.8), which no client's generator makes.
const ISSUER_PREFIX: u128 = 0x6563_686f_7061_8079_8000_6973_7375_0000;

impl WalletId {
    /// `None` for the nil UUID.
    pub fn new(id: Uuid) -> Option<Self> {
        (!id.is_nil()).then_some(Self(id))
    }

    /// The account from which money of `currency` is issued and to which it is redeemed.
    pub fn issuer(currency: Currency) -> Self {
        Self(Uuid::from_u128(ISSUER_PREFIX | u128::from(currency.tag())))
    }

    /// Whether this is some currency's issuer.
    pub fn is_issuer(self) -> bool {
        self.0.as_u128() & !0xffff == ISSUER_PREFIX
    }

    /// The UUID itself.
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

/// Lower case with hyphens.
impl fmt::Display for WalletId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A transaction's id, made by the ledger (`ids.rs`); one that a client sends may name nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TransactionId(pub Uuid);

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An event's id: the same each time the event is made again from its entry, and never a transaction's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EventId(pub Uuid);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A currency as the journal names it: a tag whose code and decimals stand in the store's settings ([`Currencies`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Currency(u16);

impl Currency {
    /// Wraps a tag as it stands on disk. Whether the tag is known, [`Currencies::get`] tells.
    pub const fn from_tag(tag: u16) -> Self {
        Self(tag)
    }

    /// The tag as it stands on disk.
    pub const fn tag(self) -> u16 {
        self.0
    }
}

/// One row of the currency table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CurrencyInfo {
    /// The tag in the journal; never given to another code.
    pub currency: Currency,
    /// 1–16 characters `A–Z`, `0–9`, `-`.
    pub code: Box<str>,
    /// Decimals of the minor unit, 0–6.
    pub exponent: u8,
}

/// The currency table: tag, code and decimals of each currency that this ledger keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Currencies {
    rows: Vec<CurrencyInfo>,
}

impl Default for Currencies {
    /// USD-CBDC, EUR-CBDC and GBP-CBDC with two decimals each.
    fn default() -> Self {
        let row = |tag, code: &str| CurrencyInfo {
            currency: Currency(tag),
            code: code.into(),
            exponent: 2,
        };
        Self {
            rows: vec![row(1, "USD-CBDC"), row(2, "EUR-CBDC"), row(3, "GBP-CBDC")],
        }
    }
}

impl Currencies {
    /// Most decimals a currency may have.
    pub const EXPONENT_MAX: u8 = 6;
    /// Most currencies a ledger may keep.
    pub const COUNT_MAX: usize = 64;

    /// A table of `rows`; `None` when a tag or code stands twice, a field is out of range, or there are none.
    pub fn new(rows: Vec<CurrencyInfo>) -> Option<Self> {
        let valid = |row: &CurrencyInfo| {
            row.exponent <= Self::EXPONENT_MAX
                && row.currency.tag() != 0
                && (1..=16).contains(&row.code.len())
                && row
                    .code
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-')
        };
        let distinct = rows.iter().enumerate().all(|(at, row)| {
            rows.iter()
                .skip(at + 1)
                .all(|o| o.currency != row.currency && o.code != row.code)
        });
        ((1..=Self::COUNT_MAX).contains(&rows.len()) && distinct && rows.iter().all(valid))
            .then_some(Self { rows })
    }

    /// The row of a tag.
    pub fn get(&self, currency: Currency) -> Option<&CurrencyInfo> {
        self.rows.iter().find(|row| row.currency == currency)
    }

    /// The row of a code, compared exactly.
    pub fn by_code(&self, code: &str) -> Option<&CurrencyInfo> {
        self.rows.iter().find(|row| &*row.code == code)
    }

    /// All rows, in the order of the table.
    pub fn rows(&self) -> &[CurrencyInfo] {
        &self.rows
    }

    /// The currency that a request without one means: the table's first.
    pub fn default_currency(&self) -> Currency {
        self.rows.first().map_or(Currency(1), |row| row.currency)
    }
}

/// An amount or a balance in minor units of its currency. Balances may be negative (issuers, overdrafts).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MinorUnits(i64);

impl MinorUnits {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Wraps a count of minor units.
    pub const fn new(minor: i64) -> Self {
        Self(minor)
    }

    /// The bare count.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// `None` when the sum leaves the range of an i64.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// `None` when the difference leaves the range of an i64.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }
}

/// A fraud score between 0 and 1, kept as millionths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FraudScore(u32);

impl FraudScore {
    /// Not scored, or free of suspicion.
    pub const ZERO: Self = Self(0);

    /// `None` above 1,000,000 millionths.
    pub fn from_millionths(millionths: u32) -> Option<Self> {
        (millionths <= 1_000_000).then_some(Self(millionths))
    }

    /// 0 to 1,000,000.
    pub const fn millionths(self) -> u32 {
        self.0
    }
}

/// The state of a transaction. pending → completed | failed; completed → reversed; nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Status {
    /// Created; the money is held, not moved.
    Pending,
    /// The money has moved.
    Completed,
    /// Nothing moved and nothing will.
    Failed,
    /// The money has moved and was moved back.
    Reversed,
}

impl Status {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Reversed => "reversed",
        }
    }

    /// The status that a word on the wire names.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "pending" => Some(Self::Pending),
            "completed" => Some(Self::Completed),
            "failed" => Some(Self::Failed),
            "reversed" => Some(Self::Reversed),
            _ => None,
        }
    }
}

/// Unix time in milliseconds, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TimestampMs(u64);

impl TimestampMs {
    /// Latest time that can be written with a four-digit year: 9999-12-30T22:00:00Z (the range of `jiff`).
    pub const MAX: Self = Self(253_402_207_200_000);

    /// Wraps milliseconds since 1970; later than [`TimestampMs::MAX`] is cut to it.
    pub const fn new(millis: u64) -> Self {
        Self(if millis > Self::MAX.0 {
            Self::MAX.0
        } else {
            millis
        })
    }

    /// Milliseconds since 1970.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The time that [`TimestampMs`] writes as `text`, in any spelling of RFC 3339; `None` for what is none, lies before
    /// 1970 or beyond [`TimestampMs::MAX`], or is finer than a millisecond.
    pub fn parse(text: &str) -> Option<Self> {
        let time: jiff::Timestamp = text.parse().ok()?;
        let millis = u64::try_from(time.as_millisecond()).ok()?;
        let is_whole = time.subsec_nanosecond() % 1_000_000 == 0;
        (is_whole && millis <= Self::MAX.0).then_some(Self(millis))
    }

    /// This time `millis` later.
    #[must_use]
    pub const fn plus(self, millis: u64) -> Self {
        Self::new(self.0.saturating_add(millis))
    }
}

/// RFC 3339, UTC, milliseconds: `2026-11-22T09:30:00.000Z`.
impl fmt::Display for TimestampMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{time:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_with_milliseconds_and_z() {
        assert_eq!(TimestampMs::new(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            TimestampMs::new(1_795_387_017_045).to_string(),
            "2026-11-22T22:36:57.045Z"
        );
        assert_eq!(
            TimestampMs::new(u64::MAX).to_string(),
            "9999-12-30T22:00:00.000Z"
        );
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        for millis in [0, 1_795_387_017_045, TimestampMs::MAX.get()] {
            let at = TimestampMs::new(millis);
            assert_eq!(TimestampMs::parse(&at.to_string()), Some(at));
        }
        for text in [
            "",
            "1969-12-31T23:59:59.999Z",
            "2026-11-22T22:36:57.0451Z",
            "7",
        ] {
            assert_eq!(TimestampMs::parse(text), None, "{text}");
        }
    }

    #[test]
    fn issuers_are_recognised_and_differ_by_currency() {
        let issuer = WalletId::issuer(Currency::from_tag(1));
        assert!(issuer.is_issuer());
        assert_ne!(issuer, WalletId::issuer(Currency::from_tag(2)));
        assert!(!WalletId::new(Uuid::from_u128(7)).unwrap().is_issuer());
        assert_eq!(issuer.uuid().get_version_num(), 8);
    }

    #[test]
    fn a_currency_table_refuses_repeats_and_bad_codes() {
        let row = |tag, code: &str, exponent| CurrencyInfo {
            currency: Currency::from_tag(tag),
            code: code.into(),
            exponent,
        };
        assert!(Currencies::new(vec![row(1, "USD", 2), row(2, "JPY", 0)]).is_some());
        assert!(Currencies::new(vec![]).is_none());
        assert!(Currencies::new(vec![row(1, "USD", 2), row(1, "EUR", 2)]).is_none());
        assert!(Currencies::new(vec![row(1, "USD", 2), row(2, "USD", 2)]).is_none());
        assert!(Currencies::new(vec![row(1, "usd", 2)]).is_none());
        assert!(Currencies::new(vec![row(0, "USD", 2)]).is_none());
        assert!(Currencies::new(vec![row(1, "USD", 7)]).is_none());
    }
}
