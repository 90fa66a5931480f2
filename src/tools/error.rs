//! Why a command beside the service failed.

use crate::cli::Exit;
use crate::config::ConfigError;
use crate::journal::{BackupError, ReadError, RebuildError, RecoveryError, StoreError};
use crate::ledger::CheckpointError;
use crate::pipeline::CursorError;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// One line that says what is wrong and where.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A setting that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An option of the command that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// There is no journal in the data folder.
    #[error("{} holds no journal", folder.display())]
    NoJournal {
        /// The data folder.
        folder: PathBuf,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The Kafka cursor cannot be read.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The journal cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A data folder cannot be made.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// A backup is not whole.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The file that shall be written is there already. It was left as it is.
    #[error("{} exists; it was left as it is", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file that shall be read cannot be.
    #[error("cannot {step} {}: {source}", path.display())]
    Input {
        /// What was tried, as a verb.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file that shall be written cannot be made. There is none.
    #[error("cannot {step} {}: {source}", path.display())]
    Output {
        /// What was tried, as a verb.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something was checked and is not as it must be.
    #[error("{0}")]
    Damaged(String),
    /// The disk failed, or is full.
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another machine does not answer as it should.
    #[error("{0}")]
    Unavailable(String),
}

impl ToolError {
    /// For `map_err`: `step` is a verb.
    pub(super) fn io(
        step: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { step, path, source }
    }

    /// For `map_err`, of what is read.
    pub(super) fn input(
        step: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Input { step, path, source }
    }

    /// For `map_err`, of what is made.
    pub(super) fn output(
        step: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Output { step, path, source }
    }

    /// The exit code that tells it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Usage(_) => Exit::Usage,
            Self::NoJournal { .. } => Exit::NoInput,
            Self::Recovery(error)
            | Self::Rebuild(RebuildError::Recovery(error))
            | Self::Cursor(CursorError::Store(error)) => error.into(),
            Self::Exists { .. }
            | Self::Rebuild(RebuildError::NotEmpty { .. })
            | Self::Checkpoint(CheckpointError::Folder { .. } | CheckpointError::Version { .. })
            | Self::Cursor(CursorError::Io { .. } | CursorError::Version { .. }) => {
                Exit::CannotCreate
            }
            Self::Read(_)
            | Self::Damaged(_)
            | Self::Checkpoint(CheckpointError::Mixed { .. })
            | Self::Cursor(CursorError::Damaged { .. })
            | Self::Rebuild(RebuildError::Page(_))
            | Self::Backup(_) => Exit::Damaged,
            Self::Input { source, .. } => match source.kind() {
                ErrorKind::NotFound
                | ErrorKind::NotADirectory
                | ErrorKind::IsADirectory
                | ErrorKind::PermissionDenied => Exit::NoInput,
                _ => Exit::Io,
            },
            Self::Output { source, .. } => match source.kind() {
                ErrorKind::WouldBlock => Exit::TryAgain,
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Exit::Io,
                _ => Exit::CannotCreate,
            },
            Self::Io { source, .. }
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) =>
            {
                Exit::NoInput
            }
            Self::Io { .. } | Self::Store(_) | Self::Rebuild(RebuildError::Store(_)) => Exit::Io,
            Self::Unavailable(_) => Exit::Unavailable,
        }
    }
}

/// Of a journal that cannot be opened or made: for the commands here and for a start.
impl From<&RecoveryError> for Exit {
    fn from(error: &RecoveryError) -> Self {
        match error {
            RecoveryError::Locked { .. } => Self::TryAgain,
            RecoveryError::NoRights { .. }
            | RecoveryError::Io { .. }
            | RecoveryError::NoRoomForCopy { .. }
            | RecoveryError::NewerFormat { .. }
            | RecoveryError::Unfinished { .. }
            | RecoveryError::DevStore { .. }
            | RecoveryError::SettingsMismatch { .. }
            | RecoveryError::CurrencyChanged { .. } => Self::CannotCreate,
            _ => Self::Damaged,
        }
    }
}
