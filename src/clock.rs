//! Where time and randomness come in. No other file asks the system for either, so a test can hold both.

use crate::types::TimestampMs;
use parking_lot::Mutex;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// The source of time and randomness of one process.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Wall clock. May step in both directions; the ledger makes its own monotone time of it.
    fn now(&self) -> TimestampMs;
    /// Time since some fixed point of this process; never goes back. For durations and deadlines.
    fn monotonic(&self) -> Duration;
    /// Fills `bytes` from a source fit for keys.
    fn fill_random(&self, bytes: &mut [u8]);

    /// A random (version 4) UUID.
    fn random_uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill_random(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}

/// How parts hold their clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clocks and the operating system's random numbers.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the system's clocks"
    )]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the system's clocks"
    )]
    fn now(&self) -> TimestampMs {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        TimestampMs::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(
        clippy::expect_used,
        reason = "without randomness no key may be made; Linux blocks instead of failing"
    )]
    fn fill_random(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }
}

/// A clock that moves only when told, with reproducible "random" bytes: for tests.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<ManualState>,
}

#[derive(Debug)]
struct ManualState {
    now: TimestampMs,
    monotonic: Duration,
    seed: u64,
}

impl ManualClock {
    /// Stands at `now`; `seed` decides all bytes that [`Clock::fill_random`] gives.
    pub fn new(now: TimestampMs, seed: u64) -> Self {
        Self {
            state: Mutex::new(ManualState {
                now,
                monotonic: Duration::ZERO,
                seed,
            }),
        }
    }

    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock();
        state.now = state
            .now
            .plus(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
        state.monotonic += by;
    }

    /// Sets the wall clock alone, as NTP or an operator would; it may go back.
    pub fn set_wall(&self, now: TimestampMs) {
        self.state.lock().now = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> TimestampMs {
        self.state.lock().now
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().monotonic
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        let mut state = self.state.lock();
        for byte in bytes {
            // SplitMix64 (Steele, Lea, Flood 2014): enough for tests, never for keys.
            state.seed = state.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state.seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = z.to_le_bytes()[7];
        }
    }
}
