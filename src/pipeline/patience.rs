//! How long a look at the topic waits for the next bytes of it. Pure: no broker, no clock.
//!
//! A partition is read in whole batches, and one may stand there that takes longer over the line than any fixed time.
//! Who gives up on it and begins anew reads the same bytes again, for ever. So each look that fails lets the next one
//! wait for twice as long: over every line that carries a batch within [`WAIT_MAX`] some look comes through.

use std::time::Duration;

/// Then the line counts as dead. librdkafka lets an answer take no longer either.
pub(super) const WAIT_MAX: Duration = Duration::from_mins(5);

/// How long to wait, as the looks before have taught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Patience {
    least: Duration,
    wait: Duration,
}

impl Patience {
    /// Waits for `least` where nothing is known.
    pub(super) fn new(least: Duration) -> Self {
        let least = least.min(WAIT_MAX);
        Self { least, wait: least }
    }

    /// How long the next look waits for bytes that do not come.
    pub(super) fn wait(self) -> Duration {
        self.wait
    }

    /// A look was given up.
    pub(super) fn failed(&mut self) {
        self.wait = self.wait.saturating_mul(2).min(WAIT_MAX);
    }

    /// A look came through. In halves, since the next one finds the same line.
    pub(super) fn succeeded(&mut self) {
        self.wait = (self.wait / 2).max(self.least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_wait_up_to_a_bound_and_success_takes_it_back_by_halves() {
        let mut patience = Patience::new(Duration::from_secs(5));
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(patience.wait().as_secs());
            patience.failed();
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
        patience.succeeded();
        assert_eq!(patience.wait(), WAIT_MAX / 2);
        for _ in 0..10 {
            patience.succeeded();
        }
        assert_eq!(patience, Patience::new(Duration::from_secs(5)));
        assert_eq!(Patience::new(2 * WAIT_MAX).wait(), WAIT_MAX);
    }
}
