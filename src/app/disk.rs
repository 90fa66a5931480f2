//! The watchdog: a disk that does not answer, and one that is full.
//!
//! A sync that takes too long suspends writes, one that never returns ends the process. A disk that is full up to its
//! reserve suspends writes until there is room again. The reserve is for what must still be written then: checkpoints,
//! the cursor, the next volume, the clean-stop witness, and the recovery of the next start.

use super::probes::Probes;
use crate::journal::JournalReader;
use crate::ledger::{LedgerHandle, Suspension};
use crate::tasks::{OnExit, Supervisor};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// How often the disk is looked at. Not the bound of what is written meanwhile: that is the room that the ledger has.
const TICK: Duration = Duration::from_millis(500);
/// Most that is kept free beside a copy of the active volume when the setting does not say it, as a part of the disk and
/// in bytes.
const RESERVE_DIVISOR: u64 = 20;
const RESERVE_BYTES_MAX: u64 = 256 << 20;

/// Bytes that a byte of pages in the write-ahead log may still take on the disk, once it is drained.
const WRITTEN_FOR_A_LOGGED_BYTE: u64 = 4;

/// How much is free on the disk of the data folder.
#[derive(Debug)]
pub(super) struct DiskSpace {
    folder: PathBuf,
    reader: JournalReader,
    /// As set; `None`: a part of the disk.
    reserve_setting: Option<u64>,
    reserve_bytes: AtomicU64,
    free_bytes: AtomicU64,
    /// What may be written until the disk is asked again.
    room_bytes: AtomicU64,
    is_full: AtomicBool,
    is_unknown: AtomicBool,
}

impl DiskSpace {
    pub(super) fn new(folder: &Path, reader: JournalReader, reserve_setting: Option<u64>) -> Self {
        Self {
            folder: folder.into(),
            reader,
            reserve_setting,
            reserve_bytes: AtomicU64::new(reserve_setting.unwrap_or(0)),
            free_bytes: AtomicU64::new(0),
            room_bytes: AtomicU64::new(match reserve_setting {
                Some(reserve_bytes) if reserve_bytes > 0 => 0,
                _ => u64::MAX,
            }),
            is_full: AtomicBool::new(false),
            is_unknown: AtomicBool::new(false),
        }
    }

    /// Free when last asked.
    pub(super) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// What is kept free.
    pub(super) fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes.load(Ordering::Relaxed)
    }

    /// Whether only the reserve is left.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Asks the disk, and tells the ledger what may be written until the next time. Blocks.
    pub(super) fn ask(&self, ledger: &LedgerHandle) {
        // Before the disk is asked: what is drained meanwhile would else be neither in the log nor gone from what is free.
        let logged_bytes = self.reader.undrained_bytes();
        let found = match rustix::fs::statvfs(&self.folder) {
            Ok(found) => found,
            Err(error) => {
                // Told once. What was known before is lent again: a question that fails fills no disk.
                if !self.is_unknown.swap(true, Ordering::Relaxed) {
                    warn!(%error, "cannot ask how much of the disk is free");
                }
                ledger.set_room(self.room_bytes.load(Ordering::Relaxed));
                return;
            }
        };
        self.is_unknown.store(false, Ordering::Relaxed);
        let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
        let size_bytes = found.f_blocks.saturating_mul(found.f_frsize);
        // A start after a kill copies the active volume before it opens it.
        let active_bytes = self.reader.witness().length_bytes;
        let reserve_bytes = reserve(self.reserve_setting, size_bytes, active_bytes);
        let was_full = self.is_full() || ledger.take_ran_out_of_room();
        let is_full = is_full(was_full, free_bytes, reserve_bytes);
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        self.reserve_bytes.store(reserve_bytes, Ordering::Relaxed);
        self.is_full.store(is_full, Ordering::Relaxed);
        let room_bytes = match reserve_bytes {
            0 => u64::MAX,
            _ if is_full => 0,
            reserve_bytes => {
                let to_come = logged_bytes.saturating_mul(WRITTEN_FOR_A_LOGGED_BYTE);
                free_bytes.saturating_sub(reserve_bytes.saturating_add(to_come))
            }
        };
        self.room_bytes.store(room_bytes, Ordering::Relaxed);
        ledger.set_room(room_bytes);
    }
}

impl fmt::Display for DiskSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (free_bytes, reserve_bytes) = (self.free_bytes(), self.reserve_bytes());
        write!(
            f,
            "full: {free_bytes} bytes are free, {reserve_bytes} are kept in reserve"
        )
    }
}

fn reserve(setting: Option<u64>, size_bytes: u64, active_bytes: u64) -> u64 {
    setting.unwrap_or_else(|| {
        let part = RESERVE_BYTES_MAX.min(size_bytes / RESERVE_DIVISOR);
        part.saturating_add(active_bytes)
    })
}

/// Why two thresholds: a disk at the edge would go to and fro with every file that comes or goes.
const fn is_full(was_full: bool, free_bytes: u64, reserve_bytes: u64) -> bool {
    let needed = if was_full {
        reserve_bytes.saturating_add(reserve_bytes / 4)
    } else {
        reserve_bytes
    };
    free_bytes < needed
}

/// Refuses writes while the disk does not answer or is full; ends the process when it is hopeless.
pub(super) fn watch(probes: Arc<Probes>, ledger: LedgerHandle, supervisor: &Supervisor) {
    let failing = supervisor.clone();
    supervisor.spawn_task("watchdog", OnExit::StopProcess, async move {
        let mut told = None;
        let mut asking: Option<JoinHandle<()>> = None;
        loop {
            tokio::time::sleep(TICK).await;
            // Aside, and at most one at a time: the question itself may hang.
            if asking.as_ref().is_none_or(JoinHandle::is_finished) {
                let (space, ledger) = (Arc::clone(&probes.space), ledger.clone());
                asking = Some(tokio::task::spawn_blocking(move || space.ask(&ledger)));
            }
            let age = probes.reader.sync_age();
            let suspension = if age >= probes.sync_stalled {
                Some(Suspension::DiskStalled)
            } else if probes.space.is_full() {
                Some(Suspension::DiskFull)
            } else {
                None
            };
            if suspension != told {
                tell(suspension, age, &probes.space);
                ledger.suspend(suspension);
                told = suspension;
            }
            if age >= probes.sync_dead {
                failing.fail(&format!("a sync has not returned for {} s", age.as_secs()));
            }
        }
    });
}

fn tell(suspension: Option<Suspension>, age: Duration, space: &DiskSpace) {
    let (free_bytes, reserve_bytes) = (space.free_bytes(), space.reserve_bytes());
    match suspension {
        Some(Suspension::DiskStalled) => {
            warn!(?age, "writes are refused while the disk does not answer");
        }
        Some(Suspension::DiskFull) => warn!(
            free_bytes,
            reserve_bytes, "writes are refused: the disk is full but for its reserve"
        ),
        None => info!(free_bytes, "writes are accepted again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_a_part_of_a_small_disk_and_bounded_on_a_large_one() {
        assert_eq!(reserve(None, 64 << 20, 0), (64 << 20) / 20);
        assert_eq!(reserve(None, 1 << 40, 7), (256 << 20) + 7);
        assert_eq!(reserve(Some(5), 1 << 40, 7), 5);
    }

    #[test]
    fn writes_go_on_only_once_there_is_a_quarter_more_than_the_reserve() {
        for (was_full, free, expected) in [
            (false, 100, false),
            (false, 99, true),
            (true, 124, true),
            (true, 125, false),
        ] {
            assert_eq!(is_full(was_full, free, 100), expected, "{was_full} {free}");
        }
        assert!(
            !is_full(true, 0, 0),
            "without a reserve nothing is ever full"
        );
    }
}
