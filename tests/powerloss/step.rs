//! What the process under test is doing, told from its calls to the file system.

use crate::machine::Op;

/// What the process was told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// To start on an empty disk.
    FirstStart,
    /// To start on what a cut has left.
    Recovery,
    /// To serve.
    Running,
    /// To stop.
    Stopping,
}

/// A step at which the power may fail. A call can belong to several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Step {
    /// A new journal is made.
    StoreCreation,
    /// A folder is made.
    FolderCreation,
    /// A group is written to the log.
    Write,
    /// A group is synced.
    Sync,
    /// Pages are brought from the log into their volume.
    Drain,
    /// The next volume is made, or the full one closed.
    Rotation,
    /// A checkpoint file is written.
    Checkpoint,
    /// A start after a cut.
    Recovery,
    /// From SIGTERM to the end.
    Stop,
}

impl Step {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::StoreCreation,
        Self::FolderCreation,
        Self::Write,
        Self::Sync,
        Self::Drain,
        Self::Rotation,
        Self::Checkpoint,
        Self::Recovery,
        Self::Stop,
    ];
}

/// The steps that a call belongs to.
pub(crate) fn steps_of(phase: Phase, op: Op, path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    if op == Op::Mkdir {
        steps.push(Step::FolderCreation);
    }
    if path.contains("/checkpoint/") {
        steps.push(Step::Checkpoint);
    }
    match phase {
        Phase::FirstStart => steps.push(Step::StoreCreation),
        Phase::Recovery => steps.push(Step::Recovery),
        Phase::Stopping => steps.push(Step::Stop),
        Phase::Running if path.ends_with("/wal") => match op {
            Op::Write => steps.push(Step::Write),
            Op::Sync => steps.push(Step::Sync),
            _ => {}
        },
        Phase::Running if path.ends_with("/sled/db") => match op {
            Op::Write | Op::Sync => steps.push(Step::Drain),
            _ => steps.push(Step::Rotation),
        },
        Phase::Running if path.contains("/volumes/") => steps.push(Step::Rotation),
        Phase::Running => {}
    }
    steps
}
