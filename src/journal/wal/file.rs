//! The ring as a file: made, and written to.

use super::super::Config;
use super::super::record;
use super::super::store::StoreFault;
use super::super::volume::Layout;
use super::super::{JournalIdentity, RecoveryError, Settings};
use super::Facts;
use super::ring::BLOCK_BYTES;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Bytes of zeros written at a time.
const ZEROS_BYTES: usize = 256 * BLOCK_BYTES;

/// What the log asks of its file. Every call may block on the disk; none panics.
pub(crate) trait RingFile: Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`; within the file's length, and durable after [`RingFile::sync`].
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreFault>;
    /// Makes everything written so far durable.
    fn sync(&self) -> Result<(), StoreFault>;
}

#[derive(Debug)]
struct PlainFile(File);

impl RingFile for PlainFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreFault> {
        self.0
            .write_all_at(bytes, offset)
            .map_err(|error| StoreFault::io("write", &error))
    }

    fn sync(&self) -> Result<(), StoreFault> {
        self.0
            .sync_data()
            .map_err(|error| StoreFault::io("sync", &error))
    }
}

/// Opens a ring that was made.
pub(crate) fn open_ring(path: &Path) -> Result<Arc<dyn RingFile>, StoreFault> {
    let opened = File::options().read(true).write(true).open(path);
    let file = opened.map_err(|error| StoreFault::io("open", &error))?;
    Ok(Arc::new(PlainFile(file)))
}

/// Makes a ring of `size_bytes` unless there is one. To be called once nothing in the one that is there is needed, and
/// before anything is acknowledged. Gives the length that it has.
pub(super) fn prepare(
    layout: &Layout,
    identity: JournalIdentity,
    size_bytes: u64,
) -> Result<u64, RecoveryError> {
    let block = u64::try_from(BLOCK_BYTES).unwrap_or(u64::MAX);
    let size_bytes = (size_bytes.min(Config::WAL_BYTES_MAX) / block * block).max(block);
    let found = match Facts::read(layout, identity) {
        Ok(facts) => facts.map_or(0, |facts| facts.size_bytes),
        // Behind a clean stop: recovery has refused it otherwise.
        Err(RecoveryError::CorruptRecord { .. }) => 0,
        Err(error) => return Err(error),
    };
    let path = layout.wal();
    if found == size_bytes {
        // Of a start that was killed while it made one of another length.
        let _stays = fs::remove_file(record::unfinished(&path));
        return Ok(size_bytes);
    }
    // First, so that a kill leaves no record of a ring that is gone or of another length.
    Facts::tell_none(layout, identity)?;
    fill(&path, size_bytes)?;
    let facts = Facts {
        journal_id: identity.journal_id,
        size_bytes,
    };
    facts.tell(layout)?;
    Ok(size_bytes)
}

/// Takes the ring away, and lets programs in again that know of none. To be called once nothing in it is needed. An
/// error says that it may be there still, and hurts nobody.
pub(super) fn remove(layout: &Layout, settings: &Settings) -> Result<(), RecoveryError> {
    // Also of one that is damaged, behind a clean stop.
    let is_told = !matches!(
        Facts::read(layout, settings.identity),
        Ok(None | Some(Facts { size_bytes: 0, .. }))
    );
    // First, so that nobody misses the file; and before the settings say that there may be no facts.
    if is_told {
        Facts::tell_none(layout, settings.identity)?;
    }
    settings.allow_older(&layout.settings());
    let path = layout.wal();
    for path in [record::unfinished(&path), path] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(RecoveryError::io("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Why filled: a block that was never written costs the first write to it a commit of the file system's own journal.
fn fill(path: &Path, size_bytes: u64) -> Result<(), RecoveryError> {
    let (temporary, mut file) = record::temporary_beside(path)?;
    let zeros = vec![0; ZEROS_BYTES];
    let mut left = size_bytes;
    let mut filled = || {
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS_BYTES);
            file.write_all(zeros.get(..now).unwrap_or_default())?;
            left = left.saturating_sub(u64::try_from(now).unwrap_or(u64::MAX));
        }
        file.sync_all()
    };
    if let Err(error) = filled() {
        // It may be what fills the disk.
        let _stays = fs::remove_file(&temporary);
        return Err(RecoveryError::io("write", &temporary)(error));
    }
    fs::rename(&temporary, path).map_err(RecoveryError::io("rename", &temporary))?;
    record::sync_parent(path)
}
