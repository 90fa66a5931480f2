//! Counts as numbers with a fraction and back, for rates and for people.

/// A count for arithmetic with fractions; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "rates, not money")]
pub(super) const fn whole(count: u64) -> f64 {
    count as f64
}

/// A number's whole part; 0 for what is below 0 or no number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and that is meant"
)]
pub(super) const fn floor(number: f64) -> u64 {
    number as u64
}

/// `part` of `all`, or 0 where there is nothing.
pub(super) fn share(part: f64, all: f64) -> f64 {
    if all > 0.0 { part / all } else { 0.0 }
}

/// With separators: `1,234,567`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A latency for people, in a unit that leaves few digits.
pub(super) fn latency(us: u64) -> String {
    let ms = whole(us) / 1_000.0;
    match us {
        0..10_000 => format!("{ms:.2} ms"),
        10_000..100_000 => format!("{ms:.1} ms"),
        100_000..10_000_000 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1_000.0),
    }
}

/// The middle of `values`, which it sorts; the mean of the two in the middle of an even number. 0 for none.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (None, _) => 0.0,
        (Some(value), 1) => *value,
        (Some(value), _) => f64::midpoint(
            *value,
            values
                .get(middle.wrapping_sub(1))
                .copied()
                .unwrap_or(*value),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_as_people_read_them() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
        assert_eq!(latency(360), "0.36 ms");
        assert_eq!(latency(12_340), "12.3 ms");
        assert_eq!(latency(300_000), "300 ms");
        assert_eq!(latency(12_000_000), "12.0 s");
    }

    #[test]
    fn the_middle_is_found_in_odd_and_even_numbers() {
        assert_eq!(median(&mut []).to_bits(), 0.0_f64.to_bits());
        assert_eq!(median(&mut [3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(
            median(&mut [4.0, 1.0, 2.0, 3.0]).to_bits(),
            2.5_f64.to_bits()
        );
    }

    #[test]
    fn what_is_no_count_is_none() {
        assert_eq!(floor(-1.0), 0);
        assert_eq!(floor(f64::NAN), 0);
        assert_eq!(floor(2.9), 2);
    }
}
