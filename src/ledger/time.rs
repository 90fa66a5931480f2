//! Ledger time: the wall clock, made monotone, and slow to believe a leap.

use super::config::Config;
use crate::types::TimestampMs;
use std::time::Duration;

/// Turns readings of two clocks into a time that never goes back.
///
/// A wall clock that leaps ahead (a wrong answer from NTP, a bad battery) would carry the ledger's time with it for
/// ever, since it cannot go back, and would expire every hold. So a leap is followed only once it has lasted.
#[derive(Debug)]
pub(super) struct LedgerTime {
    last: TimestampMs,
    /// The last reading that was believed.
    anchor: Option<Anchor>,
    /// Since when the wall clock has been ahead by more than the limit.
    leaping_since: Option<Duration>,
    leaps: Leaps,
}

/// What counts as a leap, and when it is believed; see [`Config`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaps {
    pub(super) jump_ms_max: u64,
    pub(super) gap_ms_max: u64,
    pub(super) hold_ms: u64,
}

impl From<&Config> for Leaps {
    fn from(config: &Config) -> Self {
        Self {
            jump_ms_max: config.clock_jump_ms_max,
            gap_ms_max: config.clock_gap_ms_max,
            hold_ms: config.clock_jump_hold_ms,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Anchor {
    wall: TimestampMs,
    monotonic: Duration,
}

/// A reading of the ledger's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reading {
    /// The ledger's time.
    pub(super) at: TimestampMs,
    /// Set once a leap begins: by how many milliseconds the wall clock is ahead.
    pub(super) leap_began_ms: Option<u64>,
}

impl LedgerTime {
    /// `last` is the time of the journal's newest entry; zero in an empty one.
    pub(super) fn new(last: TimestampMs, leaps: Leaps) -> Self {
        Self {
            last,
            anchor: None,
            leaping_since: None,
            leaps,
        }
    }

    /// What the first reading is measured by. It is believed, since nothing tells how long the process was not running;
    /// but for one that is years away, as of a clock without a battery: that has to last like any leap.
    fn first_anchor(&self, wall: TimestampMs, monotonic: Duration) -> Anchor {
        let gap_ms = wall.get().saturating_sub(self.last.get());
        let is_leap = self.last != TimestampMs::default() && gap_ms > self.leaps.gap_ms_max;
        let wall = if is_leap { self.last } else { wall };
        Anchor { wall, monotonic }
    }

    /// The ledger's time for these readings.
    pub(super) fn read(&mut self, wall: TimestampMs, monotonic: Duration) -> Reading {
        let anchor = self
            .anchor
            .unwrap_or_else(|| self.first_anchor(wall, monotonic));
        self.anchor = Some(anchor);
        let elapsed = monotonic.saturating_sub(anchor.monotonic);
        let expected = anchor
            .wall
            .plus(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        let ahead_ms = wall.get().saturating_sub(expected.get());
        let mut leap_began_ms = None;
        let believed = if ahead_ms <= self.leaps.jump_ms_max {
            self.leaping_since = None;
            wall
        } else {
            let since = *self.leaping_since.get_or_insert_with(|| {
                leap_began_ms = Some(ahead_ms);
                monotonic
            });
            let lasted = monotonic.saturating_sub(since);
            if lasted < Duration::from_millis(self.leaps.hold_ms) {
                self.last = self.last.max(expected);
                return Reading {
                    at: self.last,
                    leap_began_ms,
                };
            }
            self.leaping_since = None;
            wall
        };
        self.anchor = Some(Anchor {
            wall: believed,
            monotonic,
        });
        self.last = self.last.max(believed);
        Reading {
            at: self.last,
            leap_began_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn time() -> LedgerTime {
        let leaps = Leaps {
            jump_ms_max: 60_000,
            gap_ms_max: 100_000_000,
            hold_ms: 10_000,
        };
        LedgerTime::new(TimestampMs::new(1_000_000), leaps)
    }

    #[test]
    fn a_first_reading_that_is_years_away_has_to_last_like_any_leap() {
        let mut time = time();
        let far = TimestampMs::new(200_000_000);
        let first = time.read(far, SECOND);
        assert_eq!(
            (first.at, first.leap_began_ms),
            (TimestampMs::new(1_000_000), Some(199_000_000))
        );
        // The clock is set right meanwhile: nothing of the wrong time stays.
        let right = time.read(TimestampMs::new(1_030_000), 2 * SECOND);
        assert_eq!(right.at, TimestampMs::new(1_030_000));
    }

    #[test]
    fn a_first_reading_after_a_long_pause_is_believed() {
        let mut time = time();
        let later = TimestampMs::new(90_000_000);
        let first = time.read(later, SECOND);
        assert_eq!((first.at, first.leap_began_ms), (later, None));
    }

    #[test]
    fn time_never_goes_back() {
        let mut time = time();
        assert_eq!(
            time.read(TimestampMs::new(500), SECOND).at,
            TimestampMs::new(1_000_000)
        );
        assert_eq!(
            time.read(TimestampMs::new(600), SECOND).at,
            TimestampMs::new(1_000_000)
        );
        assert_eq!(
            time.read(TimestampMs::new(700), SECOND).at,
            TimestampMs::new(1_000_000)
        );
    }

    #[test]
    fn a_leap_is_told_once_and_followed_only_when_it_lasts() {
        let mut time = time();
        time.read(TimestampMs::new(2_000_000), SECOND);
        let leap = time.read(TimestampMs::new(9_000_000), 2 * SECOND);
        assert_eq!(
            (leap.at, leap.leap_began_ms),
            (TimestampMs::new(2_001_000), Some(6_999_000))
        );
        let held = time.read(TimestampMs::new(9_001_000), 3 * SECOND);
        assert_eq!(
            (held.at, held.leap_began_ms),
            (TimestampMs::new(2_002_000), None)
        );
        let followed = time.read(TimestampMs::new(9_011_000), 13 * SECOND);
        assert_eq!(followed.at, TimestampMs::new(9_011_000));
    }

    #[test]
    fn a_leap_that_ends_leaves_no_trace() {
        let mut time = time();
        time.read(TimestampMs::new(2_000_000), SECOND);
        time.read(TimestampMs::new(9_000_000), 2 * SECOND);
        let back = time.read(TimestampMs::new(2_002_000), 3 * SECOND);
        assert_eq!(
            (back.at, back.leap_began_ms),
            (TimestampMs::new(2_002_000), None)
        );
    }
}
