//! Opening a volume that was perhaps not closed in order, so that nothing of it is lost by that.
//!
//! The store may cut its data file at an open: so our pages in it are scanned before, and its files are copied aside
//! until the recovery has ended well.

use super::guard::{Guard, Lasting, copy_files, remove_folder};
use super::page::PageHash;
use super::raw::{self, RawScan};
use super::recovery::{Recovery, unreadable};
use super::store::{Filling, Purpose, Store, StoreFault, data_file, read_anew, settle};
use super::walk::{self, End};
use super::{RecoveryError, record};
use crate::types::Sequence;
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
    /// What else an earlier recovery, which did not end, left of the volume.
    pub(super) left: Option<RawScan>,
    /// After a clean stop; behind the store, so that it is closed before anything is put back.
    pub(super) guard: Option<Guard>,
}

impl OpenedVolume {
    /// Everything beside the store in which a page of it may lie.
    pub(super) fn scans(&self) -> impl Iterator<Item = &RawScan> {
        self.raw.iter().chain(&self.left)
    }
}

impl Recovery<'_> {
    /// Opens a volume for writing, after a look at its bytes unless it was closed in order.
    pub(super) fn open_volume(&self, number: u64) -> Result<OpenedVolume, RecoveryError> {
        let folder = self.layout.store(number);
        let path = self.layout.data_file(number);
        let left = self.restore_copy(number)?;
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
            read_anew(&path).map_err(RecoveryError::io("sync", &path))?;
            let raw = self.scan(&path)?;
            // Only where the volume's base says that the sequence lies there: what a start put back into the volume before
            // is looked for there, once all is open.
            let witness = self.youngest.filter(|witness| witness.volume == number);
            if let Some(witness) = witness
                && self
                    .start_of(number, false)?
                    .is_some_and(|start| start.first <= witness.durable)
                && !raw.has_witnessed()
                && !self.log.has_witnessed()
                && !left.as_ref().is_some_and(RawScan::has_witnessed)
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
                self.keep_copy(number)?;
            }
            Some(raw)
        };
        let guard = is_clean.then(|| Guard::of(&folder));
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
        Ok(OpenedVolume {
            number,
            store,
            raw,
            left,
            guard,
        })
    }

    /// Puts whole groups back in place behind those that the volume's store shows, before anything of it goes: where a cut
    /// prevented a settle it may lack pages of a group, or show later ones without them. A part of such a group may have
    /// left the log already, having been settled; it lies in the data file then, or in that of one of the `newer` volumes, if
    /// an earlier recovery took it from there. Whether there was anything to put back.
    pub(super) fn redo(
        &self,
        volume: &OpenedVolume,
        newer: &[OpenedVolume],
        link: Option<(Sequence, PageHash)>,
    ) -> Result<bool, RecoveryError> {
        let store = volume.store.as_ref();
        let fault = |fault| unreadable(self.layout, volume.number, fault);
        let Some(mut end) = walk::whole_end(store, self.identity, link) else {
            return Ok(false);
        };
        let volumes = std::iter::once(volume).chain(newer);
        let scans = volumes.flat_map(OpenedVolume::scans).chain([&self.log]);
        let scans: Vec<&RawScan> = scans.collect();
        let before = end.durable;
        let mut filling = Filling::between_others(store);
        while let Some(pages) = raw::group_behind(&scans, end.durable, end.hash) {
            for page in pages {
                end = End::behind(&page);
                if filling
                    .push(store, page.header.first, page.bytes())
                    .map_err(fault)?
                {
                    settle(store).map_err(fault)?;
                }
            }
        }
        if end.durable == before {
            return Ok(false);
        }
        filling.finish(store).map_err(fault)?;
        settle(store).map_err(fault)?;
        tracing::warn!(
            number = volume.number, from = %before.next(), to = %end.durable,
            "put back into the store what a kill or a cut kept from it"
        );
        Ok(true)
    }

    fn scan(&self, path: &Path) -> Result<RawScan, RecoveryError> {
        let witnessed = self
            .youngest
            .map(|witness| (witness.durable, witness.head_hash));
        RawScan::of(path, self.identity, witnessed).map_err(RecoveryError::io("scan", path))
    }

    /// Copies the store's files aside, durably, since an open may cut them. A copy that is still there stays: it has what
    /// an earlier recovery began with.
    fn keep_copy(&self, number: u64) -> Result<(), RecoveryError> {
        let (folder, copy) = (self.layout.store(number), self.layout.copy(number));
        if copy.exists() {
            return record::sync_parent(&copy);
        }
        let half = copy.with_extension("tmp");
        copy_files(&folder, &half, Lasting::Synced)
            .and_then(|()| fs::rename(&half, &copy))
            .map_err(|source| {
                let _ = remove_folder(&half);
                if matches!(
                    source.kind(),
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded
                ) {
                    let needed_bytes = size_of_files(&folder);
                    return RecoveryError::NoRoomForCopy {
                        path: copy.clone(),
                        needed_mib: needed_bytes.div_ceil(1 << 20),
                    };
                }
                RecoveryError::io("copy the store aside as", &copy)(source)
            })?;
        record::sync_parent(&copy)
    }

    /// A copy that is still there says that a recovery did not end, and so that nothing was acknowledged since: it is
    /// put back. Unless the store holds a later group than it: that recovery may have put it there, out of the log, or the
    /// store went on from the copy, and a file system has brought it back from the dead. Then both stay as they are until
    /// this recovery has ended, and both are searched. Gives what lies in the files that the volume is not opened with.
    fn restore_copy(&self, number: u64) -> Result<Option<RawScan>, RecoveryError> {
        let (folder, copy) = (self.layout.store(number), self.layout.copy(number));
        if !copy.exists() {
            return Ok(None);
        }
        let kept = self.scan(&data_file(&copy))?;
        let left = self.scan(&self.layout.data_file(number))?;
        if left.newest_end() > kept.newest_end() {
            tracing::warn!(
                number,
                "an earlier recovery did not end; going on with what it left, and with its copy"
            );
            return Ok(Some(kept));
        }
        tracing::warn!(
            number,
            "an earlier recovery did not end; starting from its copy"
        );
        // IMPORTANT: the store's own files are removed only once the copy durably has their name.
        let aside = copy.with_extension("old");
        if folder.exists() {
            remove_folder(&aside).map_err(RecoveryError::io("remove", &aside))?;
            fs::rename(&folder, &aside).map_err(RecoveryError::io("rename", &folder))?;
        }
        fs::rename(&copy, &folder).map_err(RecoveryError::io("rename", &copy))?;
        record::sync_parent(&copy)?;
        remove_folder(&aside).map_err(RecoveryError::io("remove", &aside))?;
        Ok(Some(left))
    }

    /// Whether there was one.
    fn discard_copy(&self, number: u64) -> Result<bool, RecoveryError> {
        let copy = self.layout.copy(number);
        let (half, aside) = (copy.with_extension("tmp"), copy.with_extension("old"));
        let is_there = copy.exists();
        if is_there {
            // IMPORTANT: renamed first, so that a kill in the middle of the removal leaves no half copy to restore.
            fs::rename(&copy, &half).map_err(RecoveryError::io("rename", &copy))?;
            record::sync_parent(&copy)?;
        }
        for folder in [half, aside] {
            remove_folder(&folder).map_err(RecoveryError::io("remove", &folder))?;
        }
        Ok(is_there)
    }

    /// To be called before anything is acknowledged: a copy that comes back after a power cut would undo that.
    pub(super) fn discard_copies(&self, numbers: &[u64], active: u64) -> Result<(), RecoveryError> {
        for number in numbers.iter().copied() {
            let was_there = self.discard_copy(number)?;
            // A start that was killed may have discarded one without the sync.
            let folder = self.layout.volume(number);
            if !was_there && number >= active && folder.exists() {
                record::sync_folder(&folder)?;
            }
        }
        Ok(())
    }
}

fn size_of_files(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum()
}
