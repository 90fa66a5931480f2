//! Where pages are kept. The only file that names sled, and the one that syncs what sled wrote.
//!
//! Takes and gives bytes under a sequence; knows no entry and no page header. What sled 0.34 needs to be safe:
//! - its `flush` ends in `sync_file_range`, which is no barrier against a power cut: hence our own `sync_data`;
//! - `conf` and directories are never synced: done here, whenever a store is opened for writing;
//! - it writes a node anew, with all its pages, whenever that grows or is split: hence the places ([`Store::prepare`]);
//! - a kill in the middle of an open leaves `snap.*.generating`, which no later open survives: removed before;
//! - it answers damage by panicking: every call runs in `catch_unwind`;
//! - a handle, tree or iterator keeps the store open and locked: none leaves this file.

use super::page::PAGE_BYTES_MAX;
use super::record::sync_folder;
use super::wal::RingFile;
use crate::tasks::panic_text;
use crate::types::Sequence;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// sled's unit of writing. Part of the format: a store of another segment size cannot be opened.
pub(crate) const SEGMENT_BYTES: usize = 512 << 10;
/// Most pages that sled puts into one of its nodes, and so into one log message: it splits a node of 17 into one of 9 and
/// one of 8 (`node.rs`: `should_split`, `split`).
const NODE_PAGES_MAX: usize = 17;
/// Places behind a page that part its node from all that comes later.
pub(crate) const PLACES_AHEAD: usize = NODE_PAGES_MAX;
const _: () = assert!(
    NODE_PAGES_MAX * PAGE_BYTES_MAX < SEGMENT_BYTES / 4 - 20,
    "a larger message becomes a blob file, which sled never syncs"
);
/// Cost of the pages that may be written between two syncs, 42 full ones: what keeps sled's log recoverable when a power
/// cut leaves any part of what was not synced.
///
/// sled calls a part of its log stable once it is handed to the disk (`sync_file_range`), which is not durable. Each new
/// segment's header names the stable end as of its making; a later open trusts the highest that it finds, up to the
/// segment below it, and segments whose pages were all replaced below it are used again. Let the last sync be in segment
/// n. The header of n + 1 then names that point, the header of n + 2 at most the end of n: still a promise about
/// segments whose headers are synced, and only n - 1 and older are let go. Only the header of n + 3 can name the end of
/// n + 1 while the rest of n may be lost: the open then finds no beginning of the tail and gives an *empty* store, and
/// what n replaced may be overwritten. So fewer than three borders may lie between two syncs, which holds for up to two
/// segments of log, 1 MiB. A full page whose place was made takes 1.1 times its bytes of log, and 1.6 where nothing is known
/// of what follows ([`Store::prepare`]), up to 3 when sled tidies up besides; put back between others it takes up to 5.6
/// ([`Filling::between_others`]). `store_tests` holds all that well below two segments.
pub(crate) const UNSYNCED_BYTES_MAX: usize = 192 << 10;
/// What a page costs beside its bytes: sled writes its key four times, with the headers of its own messages.
const PAGE_COST_BYTES: usize = 512;
/// Pages that may be taken away between two syncs, half as many as may be written: sled writes their node anew, and merges
/// it with the one before once it has shrunk.
pub(crate) const REMOVALS_MAX: usize = UNSYNCED_BYTES_MAX / PAGE_BYTES_MAX / 2;
/// Bytes of pages from the end of a store within which a kill can have left places: what was not settled, as much again
/// from a recovery that did not end, and twice that to be sure.
const PLACES_WITHIN_BYTES: usize = 4 * UNSYNCED_BYTES_MAX;
const ACTIVE_CACHE_BYTES: u64 = 16 << 20;
const CLOSED_CACHE_BYTES: u64 = 1 << 20;
/// A reader's pages for one that is asked for again: about as many as sled leaves in a node that was filled in order.
const KNOCK_PAGES: usize = 8;
/// How often that is asked for.
const KNOCKS: usize = 12;
const LOCK_POLL: Duration = Duration::from_millis(5);

/// A store failed; after a failed write it must not be written again.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{stage}: {reason}")]
pub(crate) struct StoreFault {
    pub(crate) stage: &'static str,
    pub(crate) reason: Arc<str>,
    /// Whether the system refused: the disk is full or fails, the store need not be damaged.
    pub(crate) is_io: bool,
}

impl StoreFault {
    pub(crate) fn new(stage: &'static str, reason: impl std::fmt::Display) -> Self {
        Self {
            stage,
            reason: reason.to_string().into(),
            is_io: false,
        }
    }

    pub(crate) fn io(stage: &'static str, error: &std::io::Error) -> Self {
        Self {
            is_io: error.raw_os_error().is_some(),
            ..Self::new(stage, error)
        }
    }

    /// sled unwraps some errors of the system, and their text is all that is left of them then.
    fn of_panic(stage: &'static str, panic: &(dyn std::any::Any + Send)) -> Self {
        let reason = panic_text(panic);
        Self {
            is_io: is_of_system(reason),
            ..Self::new(stage, reason)
        }
    }

    fn of_sled(stage: &'static str, error: &sled::Error) -> Self {
        match error {
            // It keeps of an error what is printed of it.
            sled::Error::Io(error) => Self {
                is_io: error.raw_os_error().is_some() || is_of_system(&error.to_string()),
                ..Self::new(stage, error)
            },
            error => Self::new(stage, error),
        }
    }
}

/// Whether the text is that of an error of the system.
fn is_of_system(text: &str) -> bool {
    text.contains("Os { code: ")
}

/// A page as it is kept: the sequence it is filed under, and its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredPage {
    pub(crate) key: Sequence,
    pub(crate) bytes: Box<[u8]>,
}

/// Pages filed under their first sequence. Every call may block on the disk; none panics.
pub(crate) trait Store: Debug + Send + Sync {
    /// Makes the places of pages that are about to be inserted, in order: the `keys` of the next ones, and of
    /// [`PLACES_AHEAD`] behind them as far as they are known. Nobody sees a place. A hint.
    fn prepare(&self, keys: &[Sequence]) -> Result<(), StoreFault> {
        let _ = keys;
        Ok(())
    }
    /// Files `page`; it is durable after [`Store::flush`] and [`Store::sync`].
    fn insert(&self, key: Sequence, page: &[u8]) -> Result<(), StoreFault>;
    /// Takes the page away; durable as an insert is.
    fn remove(&self, key: Sequence) -> Result<(), StoreFault>;
    /// Hands everything written so far to the operating system.
    fn flush(&self) -> Result<(), StoreFault>;
    /// Makes everything flushed so far durable.
    fn sync(&self) -> Result<(), StoreFault>;
    /// Up to `pages_max` pages in order, from the last one whose key is not above `from` (else from the first). Of those that
    /// are inserted meanwhile any may be missing.
    fn pages_from(&self, from: Sequence, pages_max: usize) -> Result<Vec<StoredPage>, StoreFault>;
    /// Cost ([`cost_bytes`]) of the pages that may be written between two syncs.
    fn unsynced_bytes_max(&self) -> usize {
        UNSYNCED_BYTES_MAX
    }
    /// Waits until the pages are all in the data file, durably, if they are in a log in front of it.
    fn drain(&self) -> Result<(), StoreFault> {
        Ok(())
    }
    /// Length of the data file.
    fn length_bytes(&self) -> Result<u64, StoreFault>;
    /// Gives the store up without touching it again: after a failed write a regular close may hang.
    fn abandon(&self);
}

/// Makes everything written so far durable.
pub(crate) fn settle(store: &dyn Store) -> Result<(), StoreFault> {
    store.flush()?;
    store.sync()
}

/// What a page counts towards [`Store::unsynced_bytes_max`].
pub(crate) const fn cost_bytes(page: &[u8]) -> usize {
    page.len().saturating_add(PAGE_COST_BYTES)
}

/// Pages in order on their way into a store: gathered, so that the store can make their places while its nodes are still
/// empty, and given to it in parts that it bears unsynced.
#[derive(Debug)]
pub(crate) struct Filling<B> {
    gathered: VecDeque<(Sequence, B)>,
    cost_bytes: usize,
    cost_bytes_max: usize,
}

impl<B: AsRef<[u8]>> Filling<B> {
    /// Nothing is on its way to `store`, which all pages must go to.
    pub(crate) fn of(store: &dyn Store) -> Self {
        Self {
            gathered: VecDeque::new(),
            cost_bytes: 0,
            cost_bytes_max: store.unsynced_bytes_max(),
        }
    }

    /// For pages that are put back between others, whose nodes are full and are written anew with all that is in them: half
    /// as much between two syncs.
    pub(crate) fn between_others(store: &dyn Store) -> Self {
        let filling = Self::of(store);
        Self {
            cost_bytes_max: filling.cost_bytes_max / 2,
            ..filling
        }
    }

    /// Takes a page. Whether pages were inserted, so that [`settle`] must be called now.
    pub(crate) fn push(
        &mut self,
        store: &dyn Store,
        key: Sequence,
        page: B,
    ) -> Result<bool, StoreFault> {
        let cost = cost_bytes(page.as_ref());
        let is_full = self.cost_bytes.saturating_add(cost) > self.cost_bytes_max;
        let is_due = is_full && !self.gathered.is_empty();
        if is_due {
            self.insert(store, PLACES_AHEAD)?;
        }
        self.cost_bytes = self.cost_bytes.saturating_add(cost);
        self.gathered.push_back((key, page));
        Ok(is_due)
    }

    /// Inserts what is left; [`settle`] must follow.
    pub(crate) fn finish(&mut self, store: &dyn Store) -> Result<(), StoreFault> {
        self.insert(store, 0)
    }

    /// Inserts all but the newest `left`, at least one.
    fn insert(&mut self, store: &dyn Store, left: usize) -> Result<(), StoreFault> {
        let keys: Vec<Sequence> = self.gathered.iter().map(|(key, _)| *key).collect();
        store.prepare(&keys)?;
        let count = keys.len().saturating_sub(left).max(1).min(keys.len());
        for (key, page) in self.gathered.drain(..count) {
            self.cost_bytes = self.cost_bytes.saturating_sub(cost_bytes(page.as_ref()));
            store.insert(key, page.as_ref())?;
        }
        Ok(())
    }
}

/// What a store is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Written to; made when missing.
    Active,
    /// Only read.
    Closed,
}

/// Opens the store in a folder.
pub(crate) trait Opener: Debug + Send + Sync {
    /// Waits up to `lock_wait` for one that was only just closed.
    fn open(
        &self,
        folder: &Path,
        purpose: Purpose,
        lock_wait: Duration,
    ) -> Result<Arc<dyn Store>, StoreFault>;

    /// Opens the ring of the write-ahead log in `path`, which was made.
    fn open_ring(&self, path: &Path) -> Result<Arc<dyn RingFile>, StoreFault> {
        super::wal::open_ring(path)
    }
}

/// The data file of the store in `folder`.
pub(crate) fn data_file(folder: &Path) -> PathBuf {
    folder.join("db")
}

/// Whether the store in `folder` has a snapshot: it then opens fast, and an open does not rewrite it.
pub(crate) fn has_snapshot(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("snap.") && !name.ends_with(".generating")
        })
    })
}

/// [`Opener`] of sled stores.
#[derive(Debug)]
pub(crate) struct SledOpener;

impl Opener for SledOpener {
    fn open(
        &self,
        folder: &Path,
        purpose: Purpose,
        lock_wait: Duration,
    ) -> Result<Arc<dyn Store>, StoreFault> {
        let fault = |stage| move |error: std::io::Error| StoreFault::io(stage, &error);
        let db_path = data_file(folder);
        let is_new = !db_path.exists();
        if is_new && purpose == Purpose::Closed {
            return Err(StoreFault::new(
                "open",
                format_args!("{} is missing", db_path.display()),
            ));
        }
        fs::create_dir_all(folder).map_err(fault("create folder"))?;
        remove_half_snapshots(folder).map_err(fault("remove half a snapshot"))?;
        if !is_new {
            // IMPORTANT: sled's open lets go of, and overwrites, what the log it reads replaces. After a kill that log may
            // lie in the page cache only.
            File::open(&db_path)
                .and_then(|file| file.sync_data())
                .map_err(fault("sync data file"))?;
            touch_segments(&db_path).map_err(fault("read segment headers"))?;
        }
        let cache = match purpose {
            Purpose::Active => ACTIVE_CACHE_BYTES,
            Purpose::Closed => CLOSED_CACHE_BYTES,
        };
        let db = open_patiently(&config(folder, cache), lock_wait)?;
        let store = SledStore {
            db: Some(db),
            file: File::open(&db_path).map_err(fault("open data file"))?,
            is_abandoned: AtomicBool::new(false),
            prepared: Mutex::new(Sequence::ORIGIN),
        };
        if is_new {
            store.flush()?;
        } else if purpose == Purpose::Active {
            store.forget_places()?;
        }
        if purpose == Purpose::Active {
            // IMPORTANT: names first reach the disk here; sled syncs neither directories nor `conf`. Also where the file
            // was there: whoever made it may have been killed before this.
            store.file.sync_all().map_err(fault("sync data file"))?;
            File::open(folder.join("conf"))
                .and_then(|conf| conf.sync_all())
                .map_err(fault("sync conf"))?;
            for folder in [
                Some(folder),
                folder.parent(),
                folder.parent().and_then(Path::parent),
            ] {
                folder
                    .map_or(Ok(()), sync_folder)
                    .map_err(|error| StoreFault {
                        is_io: true,
                        ..StoreFault::new("sync folder", error)
                    })?;
            }
        }
        Ok(Arc::new(store))
    }
}

fn config(folder: &Path, cache_bytes: u64) -> sled::Config {
    sled::Config::new()
        .path(folder)
        .mode(sled::Mode::HighThroughput)
        .cache_capacity(cache_bytes)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(None)
}

/// sled lets go of its own lock some time after the last handle is gone: waits for that, but not for ever.
fn open_patiently(config: &sled::Config, lock_wait: Duration) -> Result<sled::Db, StoreFault> {
    let mut waited = Duration::ZERO;
    loop {
        let error = match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) => StoreFault::of_sled("open", &error),
            Err(panic) => return Err(StoreFault::of_panic("open", &*panic)),
        };
        if !error.reason.contains("could not acquire lock") || waited >= lock_wait {
            return Err(error);
        }
        std::thread::sleep(LOCK_POLL);
        waited += LOCK_POLL;
    }
}

fn remove_half_snapshots(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes what the page cache holds of the file `path` durable, and has the next reads come from the disk. Why: after a
/// failed sync the kernel calls pages clean that never reached the disk, so the page cache may tell more than is there.
pub(crate) fn read_anew(path: &Path) -> std::io::Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    file.sync_data()?;
    // Best effort: some file systems have no page cache to drop.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    Ok(())
}

/// Brings the header of each segment into the page cache. Why: an open queues one read a segment in sled's pool, which
/// all stores of the process share, and a commit would wait behind them [25–52 ms cold, 7–8 ms with this].
fn touch_segments(db_path: &Path) -> std::io::Result<()> {
    let mut file = File::open(db_path)?;
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
    let segment = u64::try_from(SEGMENT_BYTES).unwrap_or(u64::MAX);
    let length = file.metadata()?.len();
    let mut header = [0; 20];
    let mut at = 0;
    while at + 20 <= length {
        file.seek(SeekFrom::Start(at))?;
        match file.read_exact(&mut header) {
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error),
            _ => at += segment,
        }
    }
    Ok(())
}

#[derive(Debug)]
struct SledStore {
    /// `Some` until the drop.
    db: Option<sled::Db>,
    /// Our own handle of the data file: sled's `flush` alone does not survive a power cut.
    file: File,
    is_abandoned: AtomicBool,
    /// Highest key whose place was made since the open.
    prepared: Mutex<Sequence>,
}

impl SledStore {
    /// Takes away the places of pages that never came: a kill leaves them.
    fn forget_places(&self) -> Result<(), StoreFault> {
        let places = self.call("read", |db| {
            let mut places = Vec::new();
            let mut bytes = 0_usize;
            for found in db.iter().rev() {
                let (key, page) = found?;
                if page.is_empty() {
                    places.push(key);
                }
                bytes = bytes.saturating_add(page.len());
                if bytes > PLACES_WITHIN_BYTES {
                    break;
                }
            }
            Ok(places)
        })?;
        for places in places.chunks(REMOVALS_MAX) {
            self.change("remove", |db| {
                places.iter().try_for_each(|key| db.remove(key).map(drop))
            })?;
            settle(self)?;
        }
        Ok(())
    }

    fn call<T>(
        &self,
        stage: &'static str,
        work: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, StoreFault> {
        let Some(db) = &self.db else {
            return Err(StoreFault::new(stage, "the store is closed"));
        };
        match catch_unwind(AssertUnwindSafe(|| work(db))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(StoreFault::of_sled(stage, &error)),
            Err(panic) => Err(StoreFault::of_panic(stage, &*panic)),
        }
    }

    /// Like [`SledStore::call`], for what writes. After a failure the store is given up at once, whoever holds it.
    fn change(
        &self,
        stage: &'static str,
        work: impl FnOnce(&sled::Db) -> sled::Result<()>,
    ) -> Result<(), StoreFault> {
        self.call(stage, work).inspect_err(|_| self.abandon())
    }
}

/// Whether it is a page, or an error of reading one: a place is empty.
fn is_no_place(found: &sled::Result<(sled::IVec, sled::IVec)>) -> bool {
    found.as_ref().map_or(true, |(_, page)| !page.is_empty())
}

impl Store for SledStore {
    fn prepare(&self, keys: &[Sequence]) -> Result<(), StoreFault> {
        if keys.len() <= PLACES_AHEAD {
            // So few fill no node: it would be written anew with places and pages, twice as often.
            return Ok(());
        }
        let mut prepared = self.prepared.lock();
        self.change("prepare", |db| {
            for key in keys.iter().filter(|key| **key > *prepared) {
                // Never over a page: a start puts some back that are there already.
                let _ = db.compare_and_swap(
                    key.get().to_be_bytes(),
                    None::<&[u8]>,
                    Some(sled::IVec::default()),
                )?;
            }
            Ok(())
        })?;
        *prepared = keys.iter().copied().fold(*prepared, Sequence::max);
        Ok(())
    }

    fn insert(&self, key: Sequence, page: &[u8]) -> Result<(), StoreFault> {
        self.change("insert", |db| {
            db.insert(key.get().to_be_bytes(), page).map(drop)
        })
    }

    fn remove(&self, key: Sequence) -> Result<(), StoreFault> {
        self.change("remove", |db| db.remove(key.get().to_be_bytes()).map(drop))
    }

    fn flush(&self) -> Result<(), StoreFault> {
        self.change("flush", |db| db.flush().map(drop))
    }

    fn sync(&self) -> Result<(), StoreFault> {
        self.file
            .sync_data()
            .inspect_err(|_| self.abandon())
            .map_err(|error| StoreFault::io("sync", &error))
    }

    fn pages_from(&self, from: Sequence, pages_max: usize) -> Result<Vec<StoredPage>, StoreFault> {
        self.call("read", |db| {
            let start = match db
                .range(..=from.get().to_be_bytes())
                .rev()
                .find(is_no_place)
                .transpose()?
            {
                Some((key, _)) => key,
                None => from.get().to_be_bytes().as_slice().into(),
            };
            let pages: sled::Result<Vec<_>> = db
                .range(start..)
                .filter(is_no_place)
                .take(pages_max)
                .map(|found| Ok(stored(&found?)))
                .collect();
            let pages = pages?;
            knock(db, &pages)?;
            Ok(pages)
        })
    }

    fn length_bytes(&self) -> Result<u64, StoreFault> {
        let metadata = self.file.metadata();
        metadata
            .map(|m| m.len())
            .map_err(|error| StoreFault::io("length", &error))
    }

    fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
    }
}

/// Asks again for some of the pages that were read, for the cache's sake. sled looks whether it is over its bound only at
/// every 64th access to each of its 256 parts; whoever reads a volume from end to end comes by each node once or twice,
/// and so leaves all of it in memory [256 MiB of pages: 181 MB].
fn knock(db: &sled::Db, pages: &[StoredPage]) -> sled::Result<()> {
    for page in pages.iter().skip(KNOCK_PAGES).step_by(KNOCK_PAGES) {
        for _ in 0..KNOCKS {
            db.get(page.key.get().to_be_bytes())?;
        }
    }
    Ok(())
}

/// A key that is not ours reads as the origin, which no page may have.
fn stored((key, value): &(sled::IVec, sled::IVec)) -> StoredPage {
    let key = <[u8; 8]>::try_from(&**key).map_or(Sequence::ORIGIN, |key| {
        Sequence::new(u64::from_be_bytes(key))
    });
    StoredPage {
        key,
        bytes: (**value).into(),
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        let db = self.db.take();
        if self.is_abandoned.load(Ordering::Relaxed) {
            // Why: after an I/O error sled's drop may flush in a loop without end. The process is about to stop.
            std::mem::forget(db);
        } else if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!("a store panicked while it was closed");
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
pub(crate) mod tests;
