//! What the writing end and all reading ends of one open journal have in common.

use super::volume::Volumes;
use super::{Lineage, Settings, Witness};
use crate::clock::SharedClock;
use crate::ids::IdCipher;
use crate::watermark::Watermark;
use parking_lot::Mutex;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Shared state; the writer alone changes it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) lineage: Lineage,
    pub(super) cipher: IdCipher,
    pub(super) volumes: Arc<Volumes>,
    pub(super) durable: Watermark,
    /// Where the journal stands; locked for moments only.
    pub(super) head: Mutex<Witness>,
    pub(super) size_bytes: AtomicU64,
    pub(super) clock: SharedClock,
    /// Monotonic nanoseconds (never 0) since when a write and sync are under way; 0 when none is.
    pub(super) sync_since: AtomicU64,
    /// Holds the data folder until the last end of the journal is gone. Dropped after `volumes`.
    pub(super) _lock: File,
}

impl Shared {
    pub(super) fn sync_begins(&self) {
        let nanos = u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX);
        self.sync_since.store(nanos.max(1), Ordering::Relaxed);
    }

    pub(super) fn sync_ended(&self) {
        self.sync_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn sync_age(&self) -> Duration {
        match self.sync_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self
                .clock
                .monotonic()
                .saturating_sub(Duration::from_nanos(since)),
        }
    }
}
