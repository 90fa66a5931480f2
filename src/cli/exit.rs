//! The exit codes.

/// How the process ends, after sysexits(3). `--help` and the README list them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Stopped when asked to.
    Success = 0,
    /// A flag, variable or file that cannot be read, or settings that contradict each other. Nothing was touched.
    Usage = 64,
    /// The store is damaged, or has lost what it once acknowledged; a start has changed nothing then. Of the commands
    /// beside the service: that, or the file that was read is not what it should be.
    Damaged = 65,
    /// A file or store that shall be read is not there, or is a folder, or may not be read.
    NoInput = 66,
    /// The address cannot be listened on, or another service (brokers, the one to back up) does not answer or refuses.
    Unavailable = 69,
    /// A bug: a part ended that must not end.
    Internal = 70,
    /// The data folder or the store cannot be made or opened; or a file to be written is there already or cannot be made.
    CannotCreate = 73,
    /// The disk failed or is full. What was acknowledged is safe; the rest is unknown. Of what a command beside the service
    /// was writing, nothing is left.
    Io = 74,
    /// Another process has the data folder, or writes the same file. Try again when it is gone.
    TryAgain = 75,
}

impl Exit {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 9] = [
        Self::Success,
        Self::Usage,
        Self::Damaged,
        Self::NoInput,
        Self::Unavailable,
        Self::Internal,
        Self::CannotCreate,
        Self::Io,
        Self::TryAgain,
    ];

    /// The code itself.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What the code says, in the help's words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Success => "done, or stopped when asked to",
            Self::Usage => "wrong or contradictory settings; nothing was touched",
            Self::Damaged => "the store or the file read is damaged, or lacks acknowledged data",
            Self::NoInput => "a file or store that shall be read is not there, or not readable",
            Self::Unavailable => {
                "the address cannot be listened on, or another service does not answer"
            }
            Self::Internal => "a bug: a part ended that must not end",
            Self::CannotCreate => {
                "the data folder, the store or the file to write cannot be made or opened"
            }
            Self::Io => "the disk failed or is full; what was acknowledged is safe",
            Self::TryAgain => "another process has the data folder or writes the file",
        }
    }
}
