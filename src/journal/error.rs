//! What can go wrong with the journal, one enum an operation.

use super::JournalIdentity;
use crate::types::Sequence;
use std::path::PathBuf;
use std::sync::Arc;

/// Appending or syncing failed. Nothing of the group may be acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// An earlier or this write failed at `stage`; the journal accepts nothing any more.
    #[error("journal stopped: {stage} failed: {source_text}")]
    Poisoned {
        /// `encode`, `insert`, `flush`, `sync`, `panic`, `close`.
        stage: &'static str,
        /// The cause, as text, since it is told many times.
        source_text: Arc<str>,
    },
}

/// The store could not be opened. Unless a variant says otherwise nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Another process has the data folder.
    #[error("data folder {} is in use by process {pid}", folder.display())]
    Locked {
        /// The data folder.
        folder: PathBuf,
        /// Process id as the other one left it, or `unknown`.
        pid: Box<str>,
    },
    /// The file system refused for want of rights.
    #[error("no rights to {step} {}: {source}", path.display())]
    NoRights {
        /// What was tried, as a verb.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file system failed.
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store was not closed in order, and there is no room for the copy without which it is not opened.
    #[error("the disk is full: the start needs {needed_mib} MiB for a copy at {}", path.display())]
    NoRoomForCopy {
        /// Where the copy would be.
        path: PathBuf,
        /// Room that the copy takes, in MiB.
        needed_mib: u64,
    },
    /// Written by a newer program. Use that one.
    #[error("{} is of format {found}; this program reads up to {supported}", path.display())]
    NewerFormat {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The newest version that this program reads.
        supported: u16,
    },
    /// A store of `echopay dev`, and [`super::OpenOptions::accept_dev_store`] was not set.
    #[error("{} was made by `dev`: wallets may have been opened on sight", folder.display())]
    DevStore {
        /// The data folder.
        folder: PathBuf,
    },
    /// There are pages, but the record of the store's fixed facts is gone. Restore it from a backup.
    #[error("{} is missing, but the journal beside it holds pages", path.display())]
    SettingsMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A restore or an import into the folder did not come to its end.
    #[error("{} holds a restore or an import that did not end; run it again", folder.display())]
    Unfinished {
        /// The data folder.
        folder: PathBuf,
    },
    /// The store's fixed facts do not fit this program or each other.
    #[error("{} does not fit: {what}", path.display())]
    SettingsMismatch {
        /// Which file.
        path: PathBuf,
        /// What differs.
        what: Box<str>,
    },
    /// The configured currency table changes or lacks a row of the store's.
    #[error("currency {code} of the store is missing from the configuration or differs there")]
    CurrencyChanged {
        /// The row's code in the store.
        code: Box<str>,
    },
    /// A small record (`settings`, `base`, `stop`) is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    CorruptRecord {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// A volume between the oldest and the newest is not there.
    #[error("volume {volume} is missing: {}", path.display())]
    VolumeMissing {
        /// Its number.
        volume: u64,
        /// Where it should be.
        path: PathBuf,
    },
    /// A page is damaged, or does not follow the one before it.
    #[error("volume {volume}, sequence {sequence}, {}: {reason}", path.display())]
    CorruptPage {
        /// Number of the volume.
        volume: u64,
        /// First sequence of the page, as its key says.
        sequence: Sequence,
        /// The volume's data file.
        path: PathBuf,
        /// What is wrong.
        reason: Box<str>,
    },
    /// The store behind a volume cannot be opened or read.
    #[error("store unreadable at volume {volume}, {}: {stage}: {reason}", path.display())]
    StoreUnreadable {
        /// Number of the volume.
        volume: u64,
        /// The volume's data file.
        path: PathBuf,
        /// What was tried.
        stage: &'static str,
        /// What the store said, or its panic.
        reason: Arc<str>,
    },
    /// The journal ends before a sequence that is known to have been durable. If a folder `before-recovery` lies in the
    /// volume's, it holds the store's files as they were found.
    #[error(
        "acknowledged data is missing from volume {volume}, {}: the journal ends at {found}, {reason}",
        path.display()
    )]
    LostTail {
        /// Number of the volume.
        volume: u64,
        /// The volume's data file.
        path: PathBuf,
        /// Where the journal ends.
        found: Sequence,
        /// What proves that there was more.
        reason: Box<str>,
    },
    /// A witness (checkpoint, cursor) belongs to another journal or to a later epoch of this one.
    #[error("a checkpoint or cursor belongs to journal {witness}, this one is {journal}")]
    OtherHistory {
        /// Whose the witness is.
        witness: JournalIdentity,
        /// Whose the store is.
        journal: JournalIdentity,
    },
}

impl RecoveryError {
    pub(crate) fn io(
        step: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| {
            if source.kind() == std::io::ErrorKind::PermissionDenied {
                Self::NoRights { step, path, source }
            } else {
                Self::Io { step, path, source }
            }
        }
    }
}

/// A read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The sequence lies below the journal's base.
    #[error("archived: the journal starts at sequence {oldest}")]
    Archived {
        /// First sequence that can be read.
        oldest: Sequence,
    },
    /// A page is damaged.
    #[error("unreadable: volume {volume}, sequence {sequence}: {reason}")]
    Unreadable {
        /// Number of the volume.
        volume: u64,
        /// Near which sequence.
        sequence: Sequence,
        /// What is wrong.
        reason: Arc<str>,
    },
}
