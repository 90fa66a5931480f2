//! Opening a volume that was perhaps not closed in order, so that nothing of it is lost by that.
//!
//! The store may cut its data file at an open: so our pages in it are scanned before, and its files are copied aside
//! until the recovery has ended well.

use super::RecoveryError;
use super::raw::RawScan;
use super::recovery::{Recovery, unreadable};
use super::store::{Purpose, Store, StoreFault, data_file};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// A volume that was opened, and what its data file held before.
pub(super) struct OpenedVolume {
    pub(super) number: u64,
    pub(super) store: Arc<dyn Store>,
    /// `None` after a clean stop.
    pub(super) raw: Option<RawScan>,
}

impl Recovery<'_> {
    /// Opens a volume for writing, after a look at its bytes unless it was closed in order.
    pub(super) fn open_volume(&self, number: u64) -> Result<OpenedVolume, RecoveryError> {
        let folder = self.layout.store(number);
        let path = self.layout.data_file(number);
        self.restore_copy(number)?;
        let length = fs::metadata(&path).map(|metadata| metadata.len()).ok();
        let is_clean = self
            .stop
            .is_some_and(|stop| stop.volume == number && Some(stop.length_bytes) == length);
        let has_base = self.layout.base(number).exists();
        if length.is_none() && has_base {
            return Err(unreadable(
                self.layout,
                number,
                StoreFault::new("find", "the data file is missing"),
            ));
        }
        let raw = if is_clean {
            None
        } else {
            let raw = self.scan(&path)?;
            if let Some(witness) = self.youngest.filter(|witness| witness.volume == number)
                && !raw.has_witnessed()
            {
                return Err(RecoveryError::LostTail {
                    volume: number,
                    path,
                    found: raw.newest_sequence(),
                    reason: format!(
                        "sequence {} of the witness is not in its {} bytes, which were {} then",
                        witness.durable,
                        length.unwrap_or_default(),
                        witness.length_bytes
                    )
                    .into(),
                });
            }
            if !raw.is_empty() {
                self.keep_copy(number);
            }
            Some(raw)
        };
        let open = || self.opener.open(&folder, Purpose::Active, self.lock_wait);
        let store = match open() {
            Ok(store) => store,
            // Made ahead when the process was killed, never written to: made again.
            Err(_) if !has_base && raw.as_ref().is_some_and(RawScan::is_untouched) => {
                fs::remove_dir_all(&folder).map_err(RecoveryError::io("remove", &folder))?;
                open().map_err(|fault| unreadable(self.layout, number, fault))?
            }
            Err(fault) => return Err(unreadable(self.layout, number, fault)),
        };
        Ok(OpenedVolume { number, store, raw })
    }

    fn scan(&self, path: &Path) -> Result<RawScan, RecoveryError> {
        let witnessed = self
            .youngest
            .map(|witness| (witness.durable, witness.head_hash));
        RawScan::of(path, self.identity, witnessed).map_err(RecoveryError::io("scan", path))
    }

    /// Copies the store's files aside, since an open may cut them. Without room for that the open goes on: the pages
    /// that a scan keeps still guard the tail.
    fn keep_copy(&self, number: u64) {
        let (folder, copy) = (self.layout.store(number), self.layout.copy(number));
        let half = copy.with_extension("tmp");
        let copied = remove_folder(&half)
            .and_then(|()| fs::create_dir(&half))
            .and_then(|()| {
                for entry in fs::read_dir(&folder)? {
                    let entry = entry?;
                    if entry.file_type()?.is_file() {
                        fs::copy(entry.path(), half.join(entry.file_name()))?;
                    }
                }
                Ok(())
            })
            .and_then(|()| fs::rename(&half, &copy));
        if let Err(error) = copied {
            tracing::warn!(%error, number, "no copy of an uncleanly closed volume was made");
            let _ = remove_folder(&half);
        }
    }

    /// A copy that is still there says that a recovery did not end. It is put back where it holds more than what that
    /// recovery left.
    fn restore_copy(&self, number: u64) -> Result<(), RecoveryError> {
        let (folder, copy) = (self.layout.store(number), self.layout.copy(number));
        if !copy.exists() {
            return Ok(());
        }
        let kept = self.scan(&data_file(&copy))?;
        let left = self.scan(&self.layout.data_file(number))?;
        if kept.newest_sequence() > left.newest_sequence() {
            tracing::warn!(
                number,
                "an earlier recovery did not end; starting from its copy"
            );
            remove_folder(&folder).map_err(RecoveryError::io("remove", &folder))?;
            fs::rename(&copy, &folder).map_err(RecoveryError::io("rename", &copy))
        } else {
            self.discard_copy(number)
        }
    }

    fn discard_copy(&self, number: u64) -> Result<(), RecoveryError> {
        let copy = self.layout.copy(number);
        let half = copy.with_extension("tmp");
        if copy.exists() {
            // IMPORTANT: renamed first, so that a kill in the middle of the removal leaves no half copy to restore.
            fs::rename(&copy, &half).map_err(RecoveryError::io("rename", &copy))?;
        }
        remove_folder(&half).map_err(RecoveryError::io("remove", &half))
    }

    pub(super) fn discard_copies(&self, numbers: &[u64]) -> Result<(), RecoveryError> {
        numbers
            .iter()
            .try_for_each(|number| self.discard_copy(*number))
    }
}

fn remove_folder(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
