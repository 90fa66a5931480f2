//! Why there is no result, and the exit code that tells it.

use crate::cli::Exit;
use crate::tools::ToolError;
use std::io;
use std::path::PathBuf;

/// One line that says what is wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// An option that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The service at the URL does not answer, or not as it should.
    #[error("{authority}: {reason}")]
    Unavailable {
        /// Host and port.
        authority: String,
        /// What went wrong.
        reason: String,
    },
    /// The own instance did not start.
    #[error("the own instance did not start ({status}): {log}")]
    NotStarted {
        /// How it ended.
        status: String,
        /// Its last words.
        log: String,
        /// Its exit code, if it has one.
        code: Option<i32>,
    },
    /// A file or process.
    #[error("cannot {step}: {source}")]
    Io {
        /// What was tried, with what it was tried on.
        step: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file that holds no result.
    #[error("{}: {reason}", path.display())]
    NoResult {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder of the own instance could not be checked.
    #[error(transparent)]
    Verify(#[from] ToolError),
    /// Somebody asked twice to stop.
    #[error("stopped before there was a result")]
    Interrupted,
}

impl LoadError {
    /// For `map_err`.
    pub(super) fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::NoResult { .. } => Exit::Usage,
            // Its flags behind `--` were wrong, and it said so.
            Self::NotStarted { code, .. } if *code == Some(i32::from(Exit::Usage.code())) => {
                Exit::Usage
            }
            Self::Unavailable { .. } | Self::NotStarted { .. } | Self::Interrupted => {
                Exit::Unavailable
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Exit::NoInput,
            Self::Io { .. } => Exit::CannotCreate,
            Self::Verify(error) => error.exit(),
        }
    }
}
