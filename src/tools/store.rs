//! The journal of a data folder, opened as a start opens it: locked, recovered, held against its witnesses.

use super::ToolError;
use crate::clock::{SharedClock, SystemClock};
use crate::config::ToolConfig;
use crate::journal::{Journal, OpenOptions, Settings};
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
    let data_dir = &config.journal.data_dir;
    let settings = Settings::of(data_dir)?.ok_or_else(|| ToolError::NoJournal {
        folder: data_dir.clone(),
    })?;
    let cursor = Cursor::load(data_dir).map_err(|error| ToolError::Damaged(error.to_string()))?;
    let loaded =
        Loaded::read(&config.ledger).map_err(|error| ToolError::Damaged(error.to_string()))?;
    let witnesses = [cursor.map(|cursor| cursor.witness), loaded.witness()];
    drop(loaded);
    let options = OpenOptions {
        dev: settings.dev,
        accept_dev_store: true,
        currencies: settings.currencies,
        witnesses: witnesses.into_iter().flatten().collect(),
    };
    let supervisor = Supervisor::new();
    supervisor.start_drain();
    Ok(Journal::open(
        &config.journal,
        options,
        clock(),
        &supervisor,
    )?)
}
