//! What the writing end and all reading ends of one open journal have in common.

use super::under_way::UnderWay;
use super::volume::Volumes;
use super::{Lineage, Settings, Witness};
use crate::clock::SharedClock;
use crate::ids::IdCipher;
use crate::watermark::Watermark;
use parking_lot::Mutex;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
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
    /// The writer's write and sync.
    pub(super) sync: UnderWay,
    /// Holds the data folder until the last end of the journal is gone. Dropped after `volumes`.
    pub(super) _lock: File,
}

impl Shared {
    /// How long the oldest write and sync under way has run, of the writer or of what drains the log behind it.
    pub(super) fn sync_age(&self) -> Duration {
        self.sync.age().max(self.volumes.drain_age())
    }
}
