//! The write-ahead log: where a group becomes durable, in front of the stores.
//!
//! sled takes a group slowly (its pool is woken for every write) and bears little of it unsynced. So a group goes into a
//! file that was filled with zeros when it was made: one `pwrite`, one `fdatasync`, no new length and no new block for the
//! file system to write down. A thread (`drain`) brings the pages into their volumes behind that, many groups at a time,
//! and gives the log's room free once they are settled there. What is not settled yet is also kept in memory, where
//! readers find it ([`LoggedStore`]).
//!
//! One log a journal, not one a volume: a hand-over is nothing but another place to drain to, and a start has one tail
//! to look at, whatever volume it was meant for.
//!
//! **The log holds pages as they are, and nothing else.** No record header, no generation. A page says itself what it is
//! (CRC, journal, epoch, group, place in it), and the hash of the page before ties it to the one place in the one history
//! where it belongs. So a start treats the log like a data file that the store forgot to show: whole groups right behind
//! the stores' end, by that hash, are put back (`recovery`), an incomplete last one never was, and a page of a later group
//! proves that something acknowledged is gone. What is left over in the log from before is at or below the stores' end,
//! or belongs to a group that a start found incomplete; neither fits behind the end, now or later. That is why nothing
//! needs to be erased, and why it does not matter where in the ring a page lies.
//!
//! What must stay in this order:
//! - a group is acknowledged only after the sync of the log, and drained only after that;
//! - room is used again only once the store that its pages went to was settled (`Ring`);
//! - every write begins and ends at a block, so that none touches the sectors of what was acknowledged;
//! - a volume is drained and settled before a page of the next one is: whoever finds a page there, finds all before it;
//! - the first page of a volume is settled by itself, since others may be there without those before them after a cut
//!   (`Recovery::redo` fills them in from the log);
//! - the journal of a clean stop has an empty tail: everything is in the stores before `stop` is written.
//!
//! `facts` is the small record beside the ring that tells that there is one, and how long it is: a ring that vanished or
//! was cut short is told.

mod drain;
mod facts;
mod file;
mod ring;

pub(crate) use drain::Drainer;
pub(super) use facts::Facts;
pub(crate) use file::{RingFile, open_ring};

use super::page::PAGE_BYTES_MAX;
use super::store::{Opener, PLACES_AHEAD, Store, StoreFault, StoredPage, UNSYNCED_BYTES_MAX};
use super::under_way::UnderWay;
use super::volume::Layout;
use super::{RecoveryError, Settings};
use crate::clock::SharedClock;
use crate::types::Sequence;
use file::prepare;
use parking_lot::{Condvar, Mutex};
use ring::{BLOCK_BYTES, Ring};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of pages after which the writer syncs in the middle of a group: bounds the copy that is written at once, and
/// lets a group be longer than the log.
const UNSYNCED_IN_LOG_MAX: usize = 1 << 20;

/// Bytes of pages at which they begin to be drained: as many as a store bears unsynced, and those behind them that it makes
/// places for. A drain wakes sled's whole pool and has the disk for two round trips, however little it brings.
const DUE_BYTES: usize = UNSYNCED_BYTES_MAX + PLACES_AHEAD * PAGE_BYTES_MAX;

/// The log of one open journal. Written by the thread that commits, drained by its own, read by anyone.
#[derive(Debug)]
pub(crate) struct Wal {
    file: Arc<dyn RingFile>,
    state: Mutex<State>,
    /// Room was given free, pages were drained, or there is something to drain or to end.
    changed: Condvar,
    draining: UnderWay,
    /// What the next write takes; the writer's alone. Kept so that it need not be made for each.
    buffer: Mutex<Vec<u8>>,
    /// Of the next store that is put behind the log.
    next_place: AtomicU64,
}

#[derive(Debug)]
struct State {
    ring: Ring,
    /// In the log, and not settled in their store: in order, the store with the lowest place first.
    pages: VecDeque<Pending>,
    /// Bytes of `pages`.
    bytes: usize,
    /// Of them, those that were not synced in the log.
    unsynced_bytes: usize,
    /// Pages that were drained, of all ever written.
    drained: u64,
    /// Pages that were synced in the log, of all ever written.
    synced: u64,
    /// Pages that somebody waits for to be drained, of all ever written.
    wanted: u64,
    is_ending: bool,
    /// Set for good by the first failure of the log or of draining.
    failure: Option<StoreFault>,
}

#[derive(Clone, Debug)]
struct Pending {
    key: Sequence,
    bytes: Arc<[u8]>,
    /// Which store it is for: rises with the volumes.
    place: u64,
    store: Arc<dyn Store>,
    /// Up to where the ring is free once this page and all before it are settled.
    frees: u64,
}

impl State {
    fn written(&self) -> u64 {
        self.drained
            .saturating_add(u64::try_from(self.pages.len()).unwrap_or(u64::MAX))
    }

    /// Whether the thread that drains shall begin, without anybody's having waited for long.
    fn is_due(&self) -> bool {
        self.drained < self.synced
            && (self.drained < self.wanted
                || self.bytes.saturating_sub(self.unsynced_bytes) >= DUE_BYTES
                || self.ring.is_half_full())
    }

    /// The pages for the store at `place`, as a part of `pages`.
    fn pages_of(&self, place: u64) -> std::ops::Range<usize> {
        let begin = self.pages.partition_point(|page| page.place < place);
        begin..self.pages.partition_point(|page| page.place <= place)
    }
}

impl Wal {
    /// Opens the log of a journal whose stores lack nothing of what is in it; makes it where there is none of that size.
    /// `None` for a size of 0, which takes away one that is there, and where the disk has no room for one: what is there
    /// stays as it is then, and is of no use.
    /// `settings` tell from here on whether programs that know of no log may open the folder.
    pub(super) fn open(
        layout: &Layout,
        settings: &Settings,
        size_bytes: u64,
        clock: &SharedClock,
        opener: &dyn Opener,
    ) -> Result<Option<Arc<Self>>, RecoveryError> {
        if size_bytes == 0 {
            if let Err(error) = file::remove(layout, settings) {
                tracing::warn!(%error, "a write-ahead log that is not used any more stays");
            }
            return Ok(None);
        }
        let prepared = prepare(layout, settings.identity, size_bytes).and_then(|size_bytes| {
            settings.refuse_older(&layout.settings())?;
            Ok(size_bytes)
        });
        let size_bytes = match prepared {
            Err(error) if is_without_room(&error) => {
                tracing::warn!(%error, "going on without a write-ahead log: each group goes to its volume at once");
                settings.allow_older(&layout.settings());
                return Ok(None);
            }
            prepared => prepared?,
        };
        let path = layout.wal();
        let file = opener.open_ring(&path).map_err(|fault| {
            RecoveryError::io("open", &path)(std::io::Error::other(fault.to_string()))
        })?;
        Ok(Some(Arc::new(Self::new(file, size_bytes, clock))))
    }

    /// The log in `file`, a ring of `size_bytes`, of which nothing is needed any more.
    fn new(file: Arc<dyn RingFile>, size_bytes: u64, clock: &SharedClock) -> Self {
        Self {
            file,
            state: Mutex::new(State {
                ring: Ring::new(size_bytes),
                pages: VecDeque::new(),
                bytes: 0,
                unsynced_bytes: 0,
                drained: 0,
                synced: 0,
                wanted: 0,
                is_ending: false,
                failure: None,
            }),
            changed: Condvar::new(),
            draining: UnderWay::new(Arc::clone(clock)),
            buffer: Mutex::default(),
            next_place: AtomicU64::new(0),
        }
    }

    /// `store` behind this log. In the order of the volumes.
    pub(crate) fn in_front_of(self: &Arc<Self>, store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(LoggedStore {
            wal: Arc::clone(self),
            store,
            place: self.next_place.fetch_add(1, Ordering::Relaxed),
            inserted: Mutex::default(),
        })
    }

    /// Bytes of pages that are in the log alone.
    pub(crate) fn undrained_bytes(&self) -> u64 {
        u64::try_from(self.state.lock().bytes).unwrap_or(u64::MAX)
    }

    /// How long pages on the way into their store have not been durable there.
    pub(crate) fn drain_age(&self) -> Duration {
        self.draining.age()
    }

    /// Writes pages to the log, as far as it has room; waits for the rest until there is.
    fn write(
        &self,
        place: u64,
        store: &Arc<dyn Store>,
        pages: &[(Sequence, Arc<[u8]>)],
    ) -> Result<(), StoreFault> {
        let mut buffer = self.buffer.lock();
        let mut rest = pages;
        while !rest.is_empty() {
            let (at, room_bytes) = self.room()?;
            buffer.clear();
            let mut ends = Vec::with_capacity(rest.len());
            for (_, bytes) in rest {
                let end = buffer.len().saturating_add(bytes.len());
                if end > room_bytes {
                    break;
                }
                buffer.extend_from_slice(bytes);
                ends.push(end);
            }
            let (now, later) = rest.split_at_checked(ends.len()).unwrap_or((rest, &[]));
            if now.is_empty() {
                return Err(self.fail(StoreFault::new("flush", "a page longer than a block")));
            }
            rest = later;
            // Whole blocks: with less the kernel would have to read what else lies in the last one.
            let padded = buffer.len().next_multiple_of(BLOCK_BYTES);
            buffer.resize(padded, 0);
            self.file
                .write_at(&buffer, at)
                .map_err(|fault| self.fail(fault))?;
            let mut state = self.state.lock();
            let begin = state.ring.take(padded);
            for (number, ((key, bytes), end)) in now.iter().zip(&ends).enumerate() {
                let is_last = number.saturating_add(1) == now.len();
                state.bytes = state.bytes.saturating_add(bytes.len());
                state.unsynced_bytes = state.unsynced_bytes.saturating_add(bytes.len());
                state.pages.push_back(Pending {
                    key: *key,
                    bytes: Arc::clone(bytes),
                    place,
                    store: Arc::clone(store),
                    // The block in which it ends is also the next page's.
                    frees: Ring::position_of(begin, if is_last { padded } else { *end }),
                });
            }
        }
        Ok(())
    }

    /// Where the next write goes and how long it may be. Waits while the log is full.
    fn room(&self) -> Result<(u64, usize), StoreFault> {
        let mut state = self.state.lock();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            let room_bytes = state.ring.room_bytes();
            if room_bytes > 0 {
                return Ok((state.ring.offset(), room_bytes));
            }
            if state.synced < state.written() {
                // A group longer than the log: what is there of it must be durable before it can be drained.
                drop(state);
                self.sync()?;
                state = self.state.lock();
                continue;
            }
            let target = state.synced;
            self.want(&mut state, target);
            self.changed.wait(&mut state);
        }
    }

    /// Makes everything written so far durable.
    fn sync(&self) -> Result<(), StoreFault> {
        let (written, written_bytes) = {
            let state = self.state.lock();
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            (state.written(), state.unsynced_bytes)
        };
        self.file.sync().map_err(|fault| self.fail(fault))?;
        let mut state = self.state.lock();
        state.synced = written;
        state.unsynced_bytes = state.unsynced_bytes.saturating_sub(written_bytes);
        let is_due = state.is_due();
        drop(state);
        if is_due {
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Waits until nothing of the store at `place` is in the log alone.
    fn drain(&self, place: u64) -> Result<(), StoreFault> {
        let mut state = self.state.lock();
        let behind = u64::try_from(state.pages_of(place).end).unwrap_or(u64::MAX);
        let target = state.drained.saturating_add(behind);
        while state.drained < target {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.is_ending {
                return Err(StoreFault::new("drain", "the log is closed"));
            }
            self.want(&mut state, target);
            self.changed.wait(&mut state);
        }
        Ok(())
    }

    /// Tells the thread that drains that somebody waits for so many pages. Once: two who wait would else wake each other
    /// without end.
    fn want(&self, state: &mut State, target: u64) {
        if state.wanted < target {
            state.wanted = target;
            self.changed.notify_all();
        }
    }

    /// Nothing is written, drained or given free from here on. The first failure counts.
    fn fail(&self, fault: StoreFault) -> StoreFault {
        let mut state = self.state.lock();
        let failure = state.failure.get_or_insert(fault).clone();
        drop(state);
        self.changed.notify_all();
        failure
    }

    /// Whether the log or its draining failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.state.lock().failure.is_some()
    }

    /// Tells the thread that drains to end where it is.
    fn end(&self) {
        self.state.lock().is_ending = true;
        self.changed.notify_all();
    }
}

/// Whether the disk, or a limit of it, has no room for a file.
fn is_without_room(error: &RecoveryError) -> bool {
    let RecoveryError::Io { source, .. } = error else {
        return false;
    };
    matches!(
        source.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// A store whose newest pages are in the log.
#[derive(Debug)]
struct LoggedStore {
    wal: Arc<Wal>,
    store: Arc<dyn Store>,
    place: u64,
    /// Not written yet.
    inserted: Mutex<Vec<(Sequence, Arc<[u8]>)>>,
}

impl Store for LoggedStore {
    fn insert(&self, key: Sequence, page: &[u8]) -> Result<(), StoreFault> {
        self.inserted.lock().push((key, page.into()));
        Ok(())
    }

    /// Not of the journal's way: it removes pages only in its recovery, which needs no log.
    fn remove(&self, key: Sequence) -> Result<(), StoreFault> {
        self.flush()?;
        self.sync()?;
        self.drain()?;
        self.store.remove(key)
    }

    fn flush(&self) -> Result<(), StoreFault> {
        let pages = std::mem::take(&mut *self.inserted.lock());
        self.wal.write(self.place, &self.store, &pages)
    }

    fn sync(&self) -> Result<(), StoreFault> {
        self.wal.sync()
    }

    fn pages_from(&self, from: Sequence, pages_max: usize) -> Result<Vec<StoredPage>, StoreFault> {
        // IMPORTANT: the log first. A page leaves it only once the store has it, so that none is missed in between.
        let state = self.wal.state.lock();
        let pending = state.pages_of(self.place);
        let Some(first) = state
            .pages
            .range(pending.clone())
            .next()
            .map(|page| page.key)
        else {
            drop(state);
            return self.store.pages_from(from, pages_max);
        };
        let behind = state
            .pages
            .partition_point(|page| (page.place, page.key) <= (self.place, from));
        let begin = behind.saturating_sub(1).max(pending.start);
        let newest: Vec<(Sequence, Arc<[u8]>)> = state
            .pages
            .range(begin..pending.end)
            .take(pages_max)
            .map(|page| (page.key, Arc::clone(&page.bytes)))
            .collect();
        drop(state);
        let mut pages = Vec::new();
        if from < first {
            pages = self.store.pages_from(from, pages_max)?;
            // Some may be in the store already.
            pages.retain(|page| page.key < first);
        }
        let left = pages_max.saturating_sub(pages.len());
        pages.extend(
            newest
                .into_iter()
                .take(left)
                .map(|(key, bytes)| StoredPage {
                    key,
                    bytes: (*bytes).into(),
                }),
        );
        Ok(pages)
    }

    fn length_bytes(&self) -> Result<u64, StoreFault> {
        self.store.length_bytes()
    }

    fn unsynced_bytes_max(&self) -> usize {
        UNSYNCED_IN_LOG_MAX
    }

    fn drain(&self) -> Result<(), StoreFault> {
        self.wal.drain(self.place)
    }

    fn abandon(&self) {
        self.wal
            .fail(StoreFault::new("abandon", "the journal has stopped"));
        self.store.abandon();
    }
}

#[cfg(test)]
#[path = "wal/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "wal/crash_tests.rs"]
mod crash_tests;
