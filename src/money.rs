//! Amounts and scores as text: exact decimals in, no float anywhere.
//!
//! Every number of the wire is read here from its decimal text, in one pass and without allocation, however many
//! digits it has; what comes out is a count of minor units or of millionths.

use crate::types::{FraudScore, MinorUnits};

/// Most units of a currency that one amount or limit may have.
const UNITS_MAX: u64 = 1_000_000_000;

/// Exponents beyond this are as good as infinite: a body has fewer digits by far.
const EXPONENT_CAP: i64 = 1_000_000_000_000;

/// Why a text is no amount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AmountError {
    /// Not a decimal number.
    #[error("amount is not a decimal number")]
    NotANumber,
    /// More decimals than the currency has.
    #[error("amount has too many decimals")]
    TooManyDecimals,
    /// Zero or less.
    #[error("amount must be greater than zero")]
    NotPositive,
    /// Above 1,000,000,000.
    #[error("amount exceeds the maximum of 1000000000")]
    TooLarge,
}

/// Reads an amount (JSON number text or the content of a JSON string): above zero, at most 1e9 units, at most
/// `exponent` decimals (0 to 6). Both follow the grammar of JSON numbers, so `1e2` is 100 and `+1`, `.5`, `NaN` are
/// none.
/// `lenient` (for JSON numbers): more digits are forgiven when the value lies within 1e-6 of a minor unit, that is a
/// millionth of the currency's smallest coin; `0.30000000000000004` is 0.30 then.
///
/// # Errors
/// [`AmountError`], in this order where several fit: not a number, not positive, too large, too many decimals.
pub fn parse_amount(text: &str, exponent: u8, lenient: bool) -> Result<MinorUnits, AmountError> {
    let amount = parse_limit(text, exponent, lenient)?;
    if amount == MinorUnits::ZERO {
        Err(AmountError::NotPositive)
    } else {
        Ok(amount)
    }
}

/// Like [`parse_amount`], but zero is fine: for limits.
///
/// # Errors
/// [`AmountError`]; [`AmountError::NotPositive`] means below zero here.
pub fn parse_limit(text: &str, exponent: u8, lenient: bool) -> Result<MinorUnits, AmountError> {
    let scaled = Scaled::parse(text, exponent).ok_or(AmountError::NotANumber)?;
    if scaled.negative && !scaled.is_zero() {
        return Err(AmountError::NotPositive);
    }
    let minor_max = UNITS_MAX.saturating_mul(power_of_ten(exponent));
    if scaled.whole > minor_max {
        return Err(AmountError::TooLarge);
    }
    let minor = if scaled.is_whole() || (lenient && scaled.is_just_above_whole()) {
        scaled.whole
    } else if lenient && scaled.is_just_below_next() {
        scaled.whole.saturating_add(1)
    } else {
        return Err(AmountError::TooManyDecimals);
    };
    if minor > minor_max {
        return Err(AmountError::TooLarge);
    }
    i64::try_from(minor)
        .map(MinorUnits::new)
        .map_err(|_| AmountError::TooLarge)
}

/// Reads a score between 0 and 1 as decimal text (also `1e-1`), rounded half up to millionths; `None` when it is none.
pub fn parse_score(text: &str) -> Option<FraudScore> {
    const ONE: u64 = 1_000_000;
    let scaled = Scaled::parse(text, 6)?;
    if scaled.negative && !scaled.is_zero() {
        return None;
    }
    if scaled.whole > ONE || (scaled.whole == ONE && !scaled.is_whole()) {
        return None;
    }
    let rounded = scaled
        .whole
        .saturating_add(u64::from(scaled.millionths >= 500_000));
    FraudScore::from_millionths(u32::try_from(rounded).ok()?)
}

/// Appends `amount` as a JSON number without needless zeros: `100.1`, `-3`, `0`.
pub fn write_number(out: &mut Vec<u8>, amount_minor: i128, exponent: u8) {
    write_full(out, amount_minor, exponent);
    if exponent > 0 {
        while out.last() == Some(&b'0') {
            out.pop();
        }
        if out.last() == Some(&b'.') {
            out.pop();
        }
    }
}

/// Appends `amount` with all decimals and no quotes: `100.10`.
pub fn write_full(out: &mut Vec<u8>, amount_minor: i128, exponent: u8) {
    if amount_minor < 0 {
        out.push(b'-');
    }
    let magnitude = amount_minor.unsigned_abs();
    let unit = power_of_ten(exponent);
    let mut digits = itoa::Buffer::new();
    // Why apart: nearly every amount fits, and 128 bits are divided and written by a routine several times as long.
    let fraction = if let Ok(magnitude) = u64::try_from(magnitude) {
        out.extend_from_slice(digits.format(magnitude / unit).as_bytes());
        magnitude % unit
    } else {
        out.extend_from_slice(digits.format(magnitude / u128::from(unit)).as_bytes());
        // Invariant: below `unit`, which has 64 bits.
        u64::try_from(magnitude % u128::from(unit)).unwrap_or_default()
    };
    if exponent > 0 {
        out.push(b'.');
        let fraction = digits.format(fraction).as_bytes();
        out.extend(std::iter::repeat_n(
            b'0',
            usize::from(exponent).saturating_sub(fraction.len()),
        ));
        out.extend_from_slice(fraction);
    }
}

/// Appends a score as a JSON number without needless zeros: `0`, `0.5`, `1`.
pub fn write_score(out: &mut Vec<u8>, score: FraudScore) {
    if score == FraudScore::ZERO {
        out.push(b'0');
    } else {
        write_number(out, i128::from(score.millionths()), 6);
    }
}

/// 10^`exponent`, for exponents up to 19.
fn power_of_ten(exponent: u8) -> u64 {
    10_u64.saturating_pow(u32::from(exponent))
}

/// A decimal number times 10^exponent, cut behind the sixth digit of its fraction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Scaled {
    negative: bool,
    /// Saturates at `u64::MAX`, which is beyond every limit.
    whole: u64,
    /// The first six digits of the fraction.
    millionths: u32,
    /// Whether a digit other than zero stands behind those.
    more: bool,
}

impl Scaled {
    /// `None` when `text` is no number by the grammar of JSON (RFC 8259 §6).
    fn parse(text: &str, exponent: u8) -> Option<Self> {
        let (negative, rest) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let (integer, rest) = split_digits(rest);
        if integer.is_empty() || (integer.len() > 1 && integer.first() == Some(&b'0')) {
            return None;
        }
        let (fraction, rest) = match rest {
            [b'.', rest @ ..] => {
                let (fraction, rest) = split_digits(rest);
                if fraction.is_empty() {
                    return None;
                }
                (fraction, rest)
            }
            rest => (&[][..], rest),
        };
        let shift = match rest {
            [] => 0,
            [b'e' | b'E', rest @ ..] => parse_exponent(rest)?,
            _ => return None,
        };
        let point = i64::try_from(integer.len()).ok()?;
        let place = point
            .saturating_add(shift)
            .saturating_add(i64::from(exponent));
        Some(Self::from_digits(
            negative,
            integer.iter().chain(fraction),
            place,
        ))
    }

    /// The number whose digits are `digits`, with the decimal point behind the first `place` of them (it may lie in
    /// front of the first or behind the last).
    fn from_digits<'d>(
        negative: bool,
        digits: impl Iterator<Item = &'d u8>,
        mut place: i64,
    ) -> Self {
        let mut scaled = Self {
            negative,
            whole: 0,
            millionths: 0,
            more: false,
        };
        for byte in digits {
            let digit = u32::from(byte.wrapping_sub(b'0'));
            if place > 0 {
                scaled.whole = scaled
                    .whole
                    .saturating_mul(10)
                    .saturating_add(u64::from(digit));
            } else if let Some(weight @ 0..=5) = place.checked_add(5) {
                let weight = u32::try_from(weight).unwrap_or_default();
                scaled.millionths = scaled.millionths.saturating_add(digit * 10_u32.pow(weight));
            } else {
                scaled.more |= digit != 0;
            }
            place = place.saturating_sub(1);
        }
        while place > 0 && scaled.whole != 0 && scaled.whole != u64::MAX {
            scaled.whole = scaled.whole.saturating_mul(10);
            place -= 1;
        }
        scaled
    }

    fn is_whole(self) -> bool {
        self.millionths == 0 && !self.more
    }

    fn is_zero(self) -> bool {
        self.whole == 0 && self.is_whole()
    }

    fn is_just_above_whole(self) -> bool {
        self.millionths == 0 || (self.millionths == 1 && !self.more)
    }

    fn is_just_below_next(self) -> bool {
        self.millionths == 999_999
    }
}

/// The leading digits, and what follows them.
fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(
        text.iter()
            .position(|byte| !byte.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// What follows the `e` of a number; capped far outside of all that is of use.
fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] | rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let magnitude = digits.iter().fold(0_i64, |sum, byte| {
        sum.saturating_mul(10)
            .saturating_add(i64::from(byte - b'0'))
            .min(EXPONENT_CAP)
    });
    Some(if negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amount(text: &str) -> Result<i64, AmountError> {
        parse_amount(text, 2, true).map(MinorUnits::get)
    }

    fn written(amount_minor: i128, exponent: u8) -> (String, String) {
        let (mut short, mut full) = (Vec::new(), Vec::new());
        write_number(&mut short, amount_minor, exponent);
        write_full(&mut full, amount_minor, exponent);
        (
            String::from_utf8(short).unwrap(),
            String::from_utf8(full).unwrap(),
        )
    }

    #[test]
    fn amounts_are_read_exactly() {
        for (text, minor) in [
            ("1", 100),
            ("100.1", 10_010),
            ("100.10", 10_010),
            ("100.100000000", 10_010),
            ("0.01", 1),
            ("1e2", 10_000),
            ("1E+2", 10_000),
            ("1e-2", 1),
            ("100000e-5", 100),
            ("0.0000001e7", 100),
            ("1000000000", 100_000_000_000),
            ("1e9", 100_000_000_000),
            ("999999999.99", 99_999_999_999),
        ] {
            assert_eq!(amount(text), Ok(minor), "{text}");
            assert_eq!(
                parse_amount(text, 2, false),
                Ok(MinorUnits::new(minor)),
                "{text}"
            );
        }
    }

    #[test]
    fn floats_of_old_clients_are_forgiven_within_a_millionth_of_a_coin() {
        for (text, minor) in [
            ("0.30000000000000004", Ok(30)),
            ("0.29999999999999999", Ok(30)),
            ("1.10000001", Ok(110)),
            ("1.099999990", Ok(110)),
            ("1.100000011", Err(AmountError::TooManyDecimals)),
            ("1.09999998", Err(AmountError::TooManyDecimals)),
            ("1.105", Err(AmountError::TooManyDecimals)),
            ("0.001", Err(AmountError::TooManyDecimals)),
            ("1e-3", Err(AmountError::TooManyDecimals)),
            ("1e-400", Err(AmountError::NotPositive)),
            ("999999999.999999999", Ok(100_000_000_000)),
            ("1000000000.000000001", Ok(100_000_000_000)),
        ] {
            assert_eq!(amount(text), minor, "{text}");
        }
        assert_eq!(
            parse_amount("0.30000000000000004", 2, false),
            Err(AmountError::TooManyDecimals)
        );
    }

    #[test]
    fn what_is_no_amount_says_why() {
        for (text, error) in [
            ("", AmountError::NotANumber),
            ("-", AmountError::NotANumber),
            ("NaN", AmountError::NotANumber),
            ("Infinity", AmountError::NotANumber),
            ("1.", AmountError::NotANumber),
            (".5", AmountError::NotANumber),
            ("+1", AmountError::NotANumber),
            ("01", AmountError::NotANumber),
            ("1e", AmountError::NotANumber),
            ("1e+", AmountError::NotANumber),
            ("1e1.5", AmountError::NotANumber),
            ("0x10", AmountError::NotANumber),
            ("1,5", AmountError::NotANumber),
            (" 1", AmountError::NotANumber),
            ("1\u{663}", AmountError::NotANumber),
            ("0", AmountError::NotPositive),
            ("-0", AmountError::NotPositive),
            ("0.00", AmountError::NotPositive),
            ("0e400", AmountError::NotPositive),
            ("-1", AmountError::NotPositive),
            ("-1e400", AmountError::NotPositive),
            ("-1e-400", AmountError::NotPositive),
            ("1e400", AmountError::TooLarge),
            ("1e99999999999999999999999", AmountError::TooLarge),
            ("1000000000.01", AmountError::TooLarge),
            ("1000000001", AmountError::TooLarge),
        ] {
            assert_eq!(amount(text), Err(error), "{text}");
        }
    }

    #[test]
    fn texts_of_many_digits_cost_a_pass_and_no_more() {
        let zeros = "0".repeat(60_000);
        assert_eq!(amount(&format!("1{zeros}")), Err(AmountError::TooLarge));
        assert_eq!(amount(&format!("1{zeros}e-60000")), Ok(100));
        assert_eq!(amount(&format!("0.{zeros}1e60001")), Ok(100));
        assert_eq!(amount(&format!("0.5{zeros}")), Ok(50));
        assert_eq!(amount(&format!("1.1{zeros}1")), Ok(110));
        assert_eq!(
            parse_amount(&format!("1.1{zeros}1"), 2, false),
            Err(AmountError::TooManyDecimals)
        );
        assert_eq!(amount(&"9".repeat(60_000)), Err(AmountError::TooLarge));
    }

    #[test]
    fn a_limit_may_be_zero_but_not_less() {
        assert_eq!(parse_limit("0", 2, true), Ok(MinorUnits::ZERO));
        assert_eq!(parse_limit("-0.0", 2, true), Ok(MinorUnits::ZERO));
        assert_eq!(parse_limit("250.5", 2, true), Ok(MinorUnits::new(25_050)));
        assert_eq!(parse_limit("-0.01", 2, true), Err(AmountError::NotPositive));
    }

    #[test]
    fn decimals_follow_the_currency() {
        assert_eq!(parse_amount("5", 0, true), Ok(MinorUnits::new(5)));
        assert_eq!(
            parse_amount("5.5", 0, true),
            Err(AmountError::TooManyDecimals)
        );
        assert_eq!(parse_amount("0.000001", 6, true), Ok(MinorUnits::new(1)));
        assert_eq!(
            parse_amount("1e9", 6, true),
            Ok(MinorUnits::new(1_000_000_000_000_000))
        );
        assert_eq!(
            parse_amount("1000000000.000001", 6, true),
            Err(AmountError::TooLarge)
        );
    }

    #[test]
    fn scores_are_rounded_to_millionths() {
        let score = |text| parse_score(text).map(FraudScore::millionths);
        for (text, millionths) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("1", Some(1_000_000)),
            ("1.000", Some(1_000_000)),
            ("0.5", Some(500_000)),
            ("1e-1", Some(100_000)),
            ("0.1234564", Some(123_456)),
            ("0.1234565", Some(123_457)),
            ("0.30000000000000004", Some(300_000)),
            ("0.9999999", Some(1_000_000)),
            ("1e-400", Some(0)),
            ("1.0000001", None),
            ("1.000000000000000000001", None),
            ("2", None),
            ("-0.1", None),
            ("-1e-9", None),
            ("1e400", None),
            ("NaN", None),
            ("", None),
        ] {
            assert_eq!(score(text), millionths, "{text}");
        }
    }

    #[test]
    fn amounts_are_written_short_and_full() {
        for (minor, exponent, short, full) in [
            (10_010, 2, "100.1", "100.10"),
            (10_000, 2, "100", "100.00"),
            (0, 2, "0", "0.00"),
            (-300, 2, "-3", "-3.00"),
            (-5, 2, "-0.05", "-0.05"),
            (7, 0, "7", "7"),
            (100, 0, "100", "100"),
            (1, 6, "0.000001", "0.000001"),
            (
                i128::MAX,
                0,
                "170141183460469231731687303715884105727",
                &i128::MAX.to_string(),
            ),
        ] {
            assert_eq!(
                written(minor, exponent),
                (short.to_owned(), full.to_owned())
            );
        }
    }

    #[test]
    fn scores_are_written_without_needless_zeros() {
        for (millionths, text) in [
            (0, "0"),
            (1_000_000, "1"),
            (500_000, "0.5"),
            (1, "0.000001"),
            (123_450, "0.12345"),
        ] {
            let mut out = Vec::new();
            write_score(&mut out, FraudScore::from_millionths(millionths).unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(minor in 1..=100_000_000_000_i64, exponent in 0..=2_u8) {
            let minor = minor.min(1_000_000_000 * 10_i64.pow(u32::from(exponent)));
            let (short, full) = written(i128::from(minor), exponent);
            for lenient in [false, true] {
                let expected = Ok(MinorUnits::new(minor));
                prop_assert_eq!(parse_amount(&short, exponent, lenient), expected);
                prop_assert_eq!(parse_amount(&full, exponent, lenient), expected);
            }
        }

        #[test]
        fn every_double_near_a_coin_is_that_coin(minor in 1..=10_000_000_u32) {
            let float = f64::from(minor) / 100.0;
            for near in [float, float.next_up(), float.next_down()] {
                prop_assert_eq!(amount(&format!("{near:?}")), Ok(i64::from(minor)));
            }
        }

        #[test]
        fn shifting_the_point_by_an_exponent_changes_nothing(minor in 1..=99_999_999_i64, shift in 0..30_usize) {
            let padded = format!("{minor}{}e-{}", "0".repeat(shift), shift + 2);
            prop_assert_eq!(parse_amount(&padded, 2, false), Ok(MinorUnits::new(minor)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}", exponent in 0..=6_u8) {
            let _ = (parse_amount(&text, exponent, true), parse_score(&text));
        }

        #[test]
        fn what_it_takes_json_takes(text in "-?[0-9.eE+-]{1,12}") {
            let json = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            let ours = parse_amount(&text, 2, true) != Err(AmountError::NotANumber);
            prop_assert_eq!(ours, json);
        }
    }
}
