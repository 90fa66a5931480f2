//! When what has gathered leaves. Pure: no producer, no clock; times are monotonic.
//!
//! Each partition with something to send costs a request, and requests are what a broker's CPU goes into, far more than
//! records are. So events leave in bursts: one when the burst before it has arrived, at least half the window behind it
//! and at most a whole one. Where the brokers, or the cores they share with us, are busy, bursts so become larger, and
//! that is what gives them time. [Up to four windows gave the brokers no less to do than one, and a third more delay.]

use std::time::Duration;

/// Events that leave at once: so many fill requests well enough, and a journal that waits is shipped at full speed.
pub(super) const EVENTS_MAX: u64 = 4_000;

#[derive(Debug)]
pub(super) struct Bursts {
    window: Duration,
    left_at: Option<Duration>,
}

impl Bursts {
    pub(super) fn new(window: Duration) -> Self {
        let left_at = None;
        Self { window, left_at }
    }

    /// Half the window; the other is for the way.
    pub(super) fn gather(window: Duration) -> Duration {
        window / 2
    }

    /// Whether `waiting` events leave now, with `in_flight` records not yet acknowledged.
    pub(super) fn is_due(&self, now: Duration, in_flight: usize, waiting: u64) -> bool {
        let Some(left_at) = self.left_at else {
            return true;
        };
        let gathered = now.saturating_sub(left_at);
        waiting >= EVENTS_MAX
            || gathered >= self.window
            || (in_flight == 0 && gathered >= Self::gather(self.window))
    }

    /// A burst has left.
    pub(super) fn left(&mut self, now: Duration) {
        self.left_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn what_comes_first_leaves_at_once_and_what_follows_when_that_has_arrived() {
        let mut bursts = Bursts::new(MS(10));
        assert!(bursts.is_due(MS(100), 0, 1));
        bursts.left(MS(100));
        assert!(!bursts.is_due(MS(104), 0, 1), "half a window gathers");
        assert!(bursts.is_due(MS(105), 0, 1));
        assert!(!bursts.is_due(MS(105), 4, 1), "not yet arrived");
        assert!(!bursts.is_due(MS(109), 4, 3_999));
        assert!(bursts.is_due(MS(110), 4, 1), "but not for ever");
    }

    #[test]
    fn many_leave_at_once_whatever_is_under_way() {
        let mut bursts = Bursts::new(MS(10));
        bursts.left(MS(100));
        assert!(bursts.is_due(MS(100), 20_000, 4_000));
    }

    #[test]
    fn without_a_window_nothing_gathers() {
        let mut bursts = Bursts::new(Duration::ZERO);
        bursts.left(MS(100));
        assert!(bursts.is_due(MS(100), 9, 1));
    }
}
