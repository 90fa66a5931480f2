//! How long a call on the disk has not returned.

use crate::clock::SharedClock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Tells others since when one thread waits for the disk. Not more than one call at a time.
#[derive(Debug)]
pub(super) struct UnderWay {
    clock: SharedClock,
    /// Monotonic nanoseconds (never 0); 0 when no call is under way.
    since: AtomicU64,
}

impl UnderWay {
    pub(super) const fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            since: AtomicU64::new(0),
        }
    }

    pub(super) fn begins(&self) {
        let nanos = u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX);
        self.since.store(nanos.max(1), Ordering::Relaxed);
    }

    pub(super) fn ended(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// 0 while no call is under way.
    pub(super) fn age(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self
                .clock
                .monotonic()
                .saturating_sub(Duration::from_nanos(since)),
        }
    }
}
