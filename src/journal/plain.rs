//! Pages behind one another in a plain file: the cheapest store that is as durable, for `scripts/bench-ratios`.
//!
//! A ceiling to measure by, not a store to keep money in: what a power cut tore is not looked for, and the index of
//! all pages is in memory. The service never opens it.

use super::page::Page;
use super::store::{Opener, Purpose, Store, StoreFault, StoredPage, data_file};
use super::{Config, FolderLock, Journal, OpenOptions, RecoveryError};
use crate::clock::SharedClock;
use crate::tasks::Supervisor;
use crate::types::Sequence;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// [`Journal::open_locked`] on plain files, appended to and synced once a group.
///
/// # Errors
/// See [`RecoveryError`].
pub fn open(
    lock: FolderLock,
    config: &Config,
    options: OpenOptions,
    clock: SharedClock,
    supervisor: &Supervisor,
) -> Result<Journal, RecoveryError> {
    let config = Config {
        wal_bytes: 0,
        ..config.clone()
    };
    let opener = Arc::new(PlainOpener);
    Journal::open_on(lock, &config, options, clock, supervisor, opener)
}

/// [`Opener`] of plain files.
#[derive(Debug)]
struct PlainOpener;

#[derive(Debug)]
struct PlainStore {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    places: BTreeMap<Sequence, Place>,
    /// Inserted, and not yet handed to the operating system.
    pending: Vec<u8>,
    /// Length of the file, without what is pending.
    length_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    length: usize,
}

fn fault(stage: &'static str) -> impl Fn(std::io::Error) -> StoreFault {
    move |error| StoreFault::new(stage, error)
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

impl Opener for PlainOpener {
    fn open(&self, folder: &Path, _: Purpose, _: Duration) -> Result<Arc<dyn Store>, StoreFault> {
        fs::create_dir_all(folder).map_err(fault("create folder"))?;
        let path = data_file(folder);
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(fault("open"))?;
        let bytes = fs::read(&path).map_err(fault("read"))?;
        let mut state = State::default();
        let mut rest = bytes.as_slice();
        while let Ok(page) = Page::parse_prefix(rest) {
            state.push(page.header.first, page.bytes().len());
            rest = rest.get(page.bytes().len()..).unwrap_or_default();
        }
        state.length_bytes = as_u64(bytes.len() - rest.len());
        Ok(Arc::new(PlainStore {
            file,
            state: Mutex::new(state),
        }))
    }
}

impl State {
    /// Files a page under its sequence, as the next in the file.
    fn push(&mut self, key: Sequence, length: usize) {
        let end = self.places.values().next_back().copied();
        let at = end.map_or(0, |place| place.at + as_u64(place.length));
        self.places.insert(key, Place { at, length });
    }
}

impl Store for PlainStore {
    fn insert(&self, key: Sequence, page: &[u8]) -> Result<(), StoreFault> {
        let mut state = self.state.lock();
        state.push(key, page.len());
        state.pending.extend_from_slice(page);
        Ok(())
    }

    fn remove(&self, key: Sequence) -> Result<(), StoreFault> {
        let reason = format_args!("the page at {key} stays: a plain file only grows");
        Err(StoreFault::new("remove", reason))
    }

    fn flush(&self) -> Result<(), StoreFault> {
        let mut state = self.state.lock();
        let at = state.length_bytes;
        self.file
            .write_all_at(&state.pending, at)
            .map_err(fault("write"))?;
        state.length_bytes = at.saturating_add(as_u64(state.pending.len()));
        state.pending.clear();
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreFault> {
        self.file.sync_data().map_err(fault("sync"))
    }

    fn pages_from(&self, from: Sequence, pages_max: usize) -> Result<Vec<StoredPage>, StoreFault> {
        let state = self.state.lock();
        let before = state.places.range(..=from).next_back();
        let start = before.map_or(from, |(key, _)| *key);
        let written = state
            .places
            .range(start..)
            .take_while(|(_, place)| place.at < state.length_bytes)
            .take(pages_max)
            .map(|(key, place)| (*key, *place))
            .collect::<Vec<_>>();
        drop(state);
        let read = |(key, place): (Sequence, Place)| {
            let mut bytes = vec![0; place.length];
            self.file.read_exact_at(&mut bytes, place.at)?;
            let bytes = bytes.into_boxed_slice();
            Ok(StoredPage { key, bytes })
        };
        let pages = written.into_iter().map(read);
        pages.collect::<std::io::Result<_>>().map_err(fault("read"))
    }

    fn length_bytes(&self) -> Result<u64, StoreFault> {
        Ok(self.state.lock().length_bytes)
    }

    fn abandon(&self) {}
}
