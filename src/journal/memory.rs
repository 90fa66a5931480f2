//! Stores in memory that forget like a disk does: for tests of what stands above a store.
//!
//! A store knows what was inserted, what was flushed and what was synced. What is left of the first two after a crash
//! depends on the crash; what was synced stays. Beside it lies a data file with every page ever flushed, removed ones
//! too, since recovery looks for pages there.

use super::page::Page;
use super::store::{Opener, Purpose, Store, StoreFault, StoredPage, data_file};
use super::wal::RingFile;
use crate::types::Sequence;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What takes the process away, and how much of its unsynced writes with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Crash {
    /// The process alone dies: what was flushed is in the page cache, readable, and still not durable.
    Kill,
    /// The power goes, and with it everything that was not synced.
    Cut,
    /// The power goes while the disk writes. Of what was not synced a random part (by this seed) is in the data file,
    /// and the store shows a random part of that: later pages without earlier ones, removals that did not last.
    Torn(u64),
}

/// Opens [`MemStore`]s, and keeps them as a disk does.
#[derive(Debug, Default)]
pub(crate) struct MemOpener {
    stores: Mutex<HashMap<PathBuf, Arc<MemStore>>>,
    rings: Mutex<HashMap<PathBuf, Arc<MemRing>>>,
    uses_space_again: bool,
}

/// The file of a log: what the process sees of it lies on the real disk.
#[derive(Debug)]
struct MemRing {
    path: PathBuf,
    state: Mutex<RingState>,
}

#[derive(Clone, Debug)]
struct RingState {
    /// What a power cut leaves.
    durable: Vec<u8>,
    /// Offset and bytes.
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// The least that a disk writes whole.
const SECTOR_BYTES: usize = 512;

impl RingState {
    /// Its bytes after `crash`.
    fn left(mut self, crash: Crash, random: &mut Random) -> Vec<u8> {
        for (offset, bytes) in self.unsynced {
            for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                let is_there = match crash {
                    Crash::Kill => true,
                    Crash::Cut => false,
                    Crash::Torn(_) => random.bit(),
                };
                let at = offset + number * SECTOR_BYTES;
                if is_there {
                    self.durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        self.durable
    }
}

impl RingFile for MemRing {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreFault> {
        let mut state = self.state.lock();
        let fault = |error| StoreFault::new("write", error);
        let mut file = File::options()
            .write(true)
            .open(&self.path)
            .map_err(fault)?;
        file.seek(SeekFrom::Start(offset)).map_err(fault)?;
        file.write_all(bytes).map_err(fault)?;
        let offset = usize::try_from(offset).unwrap();
        assert!(
            offset + bytes.len() <= state.durable.len(),
            "behind its end"
        );
        state.unsynced.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreFault> {
        let mut state = self.state.lock();
        for (offset, bytes) in std::mem::take(&mut state.unsynced) {
            state.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }
}

/// An empty one is a place.
type Pages = BTreeMap<Sequence, Box<[u8]>>;

#[derive(Debug)]
struct MemStore {
    folder: PathBuf,
    state: Mutex<MemState>,
    uses_space_again: bool,
}

#[derive(Clone, Debug, Default)]
struct MemState {
    /// What the process sees.
    pages: Pages,
    /// What a power cut leaves.
    durable: Pages,
    /// What leads from `durable` to `pages`.
    unsynced: Vec<Change>,
    /// So many of `unsynced` the operating system has.
    flushed: usize,
    /// What a power cut leaves of the data file.
    file: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Change {
    Insert(Sequence, Box<[u8]>),
    Remove(Sequence),
    Place(Sequence),
}

impl Change {
    fn apply(&self, pages: &mut Pages) {
        match self {
            Self::Insert(key, page) => drop(pages.insert(*key, page.clone())),
            Self::Remove(key) => drop(pages.remove(key)),
            Self::Place(key) => drop(pages.entry(*key).or_default()),
        }
    }

    /// Its bytes in the data file.
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Insert(_, page) => page,
            Self::Remove(_) | Self::Place(_) => &[],
        }
    }
}

impl MemOpener {
    /// Of stores that show what lies in their data files, and use the space of removed pages again at the next sync: what
    /// was removed is nowhere any more, but in a copy of the file.
    pub(crate) fn using_space_again() -> Self {
        Self {
            uses_space_again: true,
            ..Self::default()
        }
    }

    /// The stores below `from` as `crash` leaves them, to be opened below `to`, which is a copy of `from` or the same
    /// folder. Nobody may use the stores of `self` any more if it is the same.
    pub(crate) fn after(&self, crash: Crash, from: &Path, to: &Path) -> Self {
        // IMPORTANT: the log before the stores, since a process that still runs brings pages from the one to the others.
        let mut rings = HashMap::new();
        for (path, ring) in self.rings.lock().iter() {
            rings.insert(path.clone(), ring.state.lock().clone());
        }
        let mut left = HashMap::new();
        let mut stores: Vec<_> = self.stores.lock().clone().into_iter().collect();
        // And of the stores the later volumes first: what is seen in one says that those before it are whole.
        stores.sort_by(|(one, _), (other, _)| other.cmp(one));
        let stores: Vec<_> = stores
            .into_iter()
            .map(|(folder, store)| (folder, store.state.lock().clone()))
            .collect();
        let mut random = Random(match crash {
            Crash::Torn(seed) => seed,
            Crash::Kill | Crash::Cut => 0,
        });
        for (folder, mut state) in stores.into_iter().rev() {
            let folder = to.join(folder.strip_prefix(from).unwrap());
            if !folder.exists() {
                continue;
            }
            state.crash(crash, &mut random);
            let file = state.unsynced.iter().flat_map(Change::bytes);
            let file: Vec<u8> = state.file.iter().chain(file).copied().collect();
            fs::write(data_file(&folder), file).unwrap();
            let store = MemStore {
                folder: folder.clone(),
                state: Mutex::new(state),
                uses_space_again: self.uses_space_again,
            };
            left.insert(folder, Arc::new(store));
        }
        for (path, ring) in rings {
            let path = to.join(path.strip_prefix(from).unwrap());
            if path.exists() {
                fs::write(path, ring.left(crash, &mut random)).unwrap();
            }
        }
        Self {
            stores: Mutex::new(left),
            rings: Mutex::default(),
            uses_space_again: self.uses_space_again,
        }
    }
}

impl MemState {
    /// What a data file shows.
    fn of(file: Vec<u8>) -> Self {
        let mut pages = Pages::new();
        let mut rest = &*file;
        while let Ok(page) = Page::parse_prefix(rest) {
            pages.insert(page.header.first, page.bytes().into());
            rest = &rest[page.bytes().len()..];
        }
        assert!(rest.is_empty(), "a store of whole pages");
        Self {
            durable: pages.clone(),
            pages,
            file,
            ..Self::default()
        }
    }

    fn crash(&mut self, crash: Crash, random: &mut Random) {
        match crash {
            Crash::Kill => self.unsynced.truncate(self.flushed),
            Crash::Cut => self.unsynced.clear(),
            Crash::Torn(_) => {
                for change in self.unsynced.drain(..) {
                    if random.bit() {
                        self.file.extend_from_slice(change.bytes());
                        if random.bit() {
                            change.apply(&mut self.durable);
                        }
                    }
                }
            }
        }
        self.flushed = self.unsynced.len();
        self.pages = self.durable.clone();
        for change in &self.unsynced {
            change.apply(&mut self.pages);
        }
    }
}

impl Opener for MemOpener {
    fn open(
        &self,
        folder: &Path,
        purpose: Purpose,
        _: Duration,
    ) -> Result<Arc<dyn Store>, StoreFault> {
        let fault = |error| StoreFault::new("open", error);
        fs::create_dir_all(folder).map_err(fault)?;
        let path = data_file(folder);
        let mut stores = self.stores.lock();
        if !path.exists() {
            // Also where recovery took an unusable store away.
            stores.remove(folder);
            File::create(&path).map_err(fault)?;
        } else if stores.contains_key(folder) {
            // As sled does, at an open that finds a store.
            File::create(folder.join("snap.0")).map_err(fault)?;
        }
        let store = stores.entry(folder.into()).or_insert_with(|| {
            Arc::new(MemStore {
                folder: folder.into(),
                state: Mutex::default(),
                uses_space_again: self.uses_space_again,
            })
        });
        if self.uses_space_again {
            *store.state.lock() = MemState::of(fs::read(path).map_err(fault)?);
        }
        if purpose == Purpose::Active {
            store.forget_places()?;
        }
        Ok(Arc::clone(store) as _)
    }

    fn open_ring(&self, path: &Path) -> Result<Arc<dyn RingFile>, StoreFault> {
        let durable = fs::read(path).map_err(|error| StoreFault::new("open", error))?;
        let mut rings = self.rings.lock();
        let known = rings.get(path);
        if let Some(ring) = known.filter(|ring| ring.state.lock().durable.len() == durable.len()) {
            return Ok(Arc::clone(ring) as _);
        }
        let ring = Arc::new(MemRing {
            path: path.into(),
            state: Mutex::new(RingState {
                durable,
                unsynced: Vec::new(),
            }),
        });
        rings.insert(path.into(), Arc::clone(&ring));
        Ok(ring)
    }
}

impl MemStore {
    fn change(&self, change: Change) {
        let mut state = self.state.lock();
        change.apply(&mut state.pages);
        state.unsynced.push(change);
    }

    /// Whose pages never came.
    fn forget_places(&self) -> Result<(), StoreFault> {
        let pages = self.state.lock().pages.clone();
        let places = pages.iter().filter(|(_, page)| page.is_empty());
        places.map(|(key, _)| *key).try_for_each(|key| {
            self.remove(key)?;
            self.flush()?;
            self.sync()
        })
    }
}

impl Store for MemStore {
    fn prepare(&self, keys: &[Sequence]) -> Result<(), StoreFault> {
        for key in keys {
            self.change(Change::Place(*key));
        }
        Ok(())
    }

    fn insert(&self, key: Sequence, page: &[u8]) -> Result<(), StoreFault> {
        self.change(Change::Insert(key, page.into()));
        Ok(())
    }

    fn remove(&self, key: Sequence) -> Result<(), StoreFault> {
        self.change(Change::Remove(key));
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreFault> {
        let mut state = self.state.lock();
        let fault = |error| StoreFault::new("flush", error);
        let mut file = File::options()
            .append(true)
            .open(data_file(&self.folder))
            .map_err(fault)?;
        for change in &state.unsynced[state.flushed..] {
            file.write_all(change.bytes()).map_err(fault)?;
        }
        state.flushed = state.unsynced.len();
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreFault> {
        let mut state = self.state.lock();
        let flushed = state.flushed;
        let synced: Vec<Change> = state.unsynced.drain(..flushed).collect();
        state.flushed = 0;
        for change in synced {
            state.file.extend_from_slice(change.bytes());
            change.apply(&mut state.durable);
        }
        if self.uses_space_again {
            state.file = state.durable.values().flatten().copied().collect();
            fs::write(data_file(&self.folder), &state.file)
                .map_err(|error| StoreFault::new("sync", error))?;
        }
        Ok(())
    }

    fn pages_from(&self, from: Sequence, pages_max: usize) -> Result<Vec<StoredPage>, StoreFault> {
        let pages = &self.state.lock().pages;
        let mut before = pages.range(..=from).rev();
        let start = before.find(|(_, page)| !page.is_empty());
        let start = start.map_or(from, |(key, _)| *key);
        let found = pages.range(start..).filter(|(_, page)| !page.is_empty());
        let found = found.take(pages_max);
        Ok(found
            .map(|(key, bytes)| StoredPage {
                key: *key,
                bytes: bytes.clone(),
            })
            .collect())
    }

    fn length_bytes(&self) -> Result<u64, StoreFault> {
        let metadata = fs::metadata(data_file(&self.folder));
        metadata
            .map(|m| m.len())
            .map_err(|error| StoreFault::new("length", error))
    }

    fn abandon(&self) {}
}

/// `SplitMix64` (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub(crate) fn bit(&mut self) -> bool {
        self.below(2) == 1
    }
}
