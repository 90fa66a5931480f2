//! Why a command beside the service failed.

use crate::cli::Exit;
use crate::config::ConfigError;
use crate::journal::{ReadError, RecoveryError, StoreError};
use crate::ledger::CheckpointError;
use crate::pipeline::CursorError;
use std::io;
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
    /// Something was checked and is not as it must be.
    #[error("{0}")]
    Damaged(String),
    /// A file cannot be read or written.
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

    /// The exit code that tells it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Usage(_) => Exit::Usage,
            Self::NoJournal { .. } => Exit::NoInput,
            Self::Recovery(RecoveryError::Locked { .. }) => Exit::TryAgain,
            Self::Recovery(
                RecoveryError::NoRights { .. }
                | RecoveryError::Io { .. }
                | RecoveryError::NoRoomForCopy { .. }
                | RecoveryError::NewerFormat { .. },
            )
            | Self::Checkpoint(CheckpointError::Folder { .. } | CheckpointError::Version { .. })
            | Self::Cursor(CursorError::Io { .. } | CursorError::Version { .. }) => {
                Exit::CannotCreate
            }
            Self::Recovery(_)
            | Self::Checkpoint(CheckpointError::Mixed { .. })
            | Self::Cursor(CursorError::Damaged { .. })
            | Self::Read(_)
            | Self::Damaged(_) => Exit::Damaged,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Exit::NoInput,
            Self::Io { .. } | Self::Store(_) => Exit::Io,
            Self::Unavailable(_) => Exit::Unavailable,
        }
    }
}
