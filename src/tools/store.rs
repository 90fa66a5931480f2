//! The journal of a data folder, opened as a start opens it: locked, recovered, held against its witnesses.

use super::ToolError;
use crate::clock::{SharedClock, SystemClock};
use crate::config::ToolConfig;
use crate::journal::Journal;
use crate::ledger::Loaded;
use crate::pipeline::Cursor;
use crate::tasks::Supervisor;
use std::sync::Arc;

/// The system's clock.
pub(super) fn clock() -> SharedClock {
    Arc::new(SystemClock::new())
}

/// Opens the journal that is there; none is made. A store of `dev` is opened too.
pub(super) fn open(config: &ToolConfig) -> Result<Journal, ToolError> {
    // Before anything in it is read: a process that is just ending may write there to the last.
    let lock = Journal::lock_existing(&config.journal)?;
    let cursor = Cursor::load(&config.journal.data_dir)?;
    let loaded = Loaded::read(&config.ledger)?;
    let witnesses = [cursor.map(|cursor| cursor.witness), loaded.witness()];
    drop(loaded);
    let supervisor = Supervisor::new();
    supervisor.start_drain();
    let witnesses = witnesses.into_iter().flatten().collect();
    let opened = Journal::open_existing(lock, &config.journal, witnesses, clock(), &supervisor)?;
    opened.ok_or_else(|| ToolError::NoJournal {
        folder: config.journal.data_dir.clone(),
    })
}
