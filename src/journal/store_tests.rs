use super::super::memory::MemOpener;
use super::*;
use parking_lot::Mutex;

/// sled stores, and the most that was ever written to one of them between two syncs.
#[derive(Debug, Default)]
pub(crate) struct WatchedOpener {
    watch: Arc<Watch>,
}

#[derive(Debug, Default)]
struct Watch {
    unsynced: Mutex<usize>,
    most_unsynced: Mutex<usize>,
    syncs: Mutex<usize>,
}

impl Watch {
    fn wrote(&self, bytes: usize) {
        let mut unsynced = self.unsynced.lock();
        *unsynced += bytes;
        let mut most = self.most_unsynced.lock();
        *most = unsynced.max(*most);
    }
}

#[derive(Debug)]
struct WatchedStore {
    store: Arc<dyn Store>,
    watch: Arc<Watch>,
}

impl WatchedOpener {
    /// Bytes of pages; a removed page counts as a full one.
    pub(crate) fn most_unsynced(&self) -> usize {
        *self.watch.most_unsynced.lock()
    }

    /// Syncs of all stores so far.
    pub(crate) fn syncs(&self) -> usize {
        *self.watch.syncs.lock()
    }
}

impl Opener for WatchedOpener {
    fn open(
        &self,
        folder: &Path,
        purpose: Purpose,
        lock_wait: Duration,
    ) -> Result<Arc<dyn Store>, StoreFault> {
        let store = SledOpener.open(folder, purpose, lock_wait)?;
        let watch = Arc::clone(&self.watch);
        Ok(Arc::new(WatchedStore { store, watch }))
    }
}

impl Store for WatchedStore {
    fn insert(&self, key: Sequence, page: &[u8]) -> Result<(), StoreFault> {
        self.watch.wrote(page.len());
        self.store.insert(key, page)
    }

    fn remove(&self, key: Sequence) -> Result<(), StoreFault> {
        self.watch.wrote(PAGE_BYTES_MAX);
        self.store.remove(key)
    }

    fn flush(&self) -> Result<(), StoreFault> {
        self.store.flush()
    }

    fn sync(&self) -> Result<(), StoreFault> {
        *self.watch.unsynced.lock() = 0;
        *self.watch.syncs.lock() += 1;
        self.store.sync()
    }

    fn pages_from(&self, from: Sequence, pages_max: usize) -> Result<Vec<StoredPage>, StoreFault> {
        self.store.pages_from(from, pages_max)
    }

    fn length_bytes(&self) -> Result<u64, StoreFault> {
        self.store.length_bytes()
    }

    fn abandon(&self) {
        self.store.abandon();
    }
}

/// What the journal relies on, for any store.
#[track_caller]
fn keeps_the_contract(opener: &dyn Opener) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("volume").join("sled");
    let open = || {
        opener
            .open(&folder, Purpose::Active, Duration::from_secs(5))
            .unwrap()
    };
    let store = open();
    let keys = |from, pages_max| -> Vec<u64> {
        let pages = store.pages_from(Sequence::new(from), pages_max).unwrap();
        pages.iter().map(|page| page.key.get()).collect()
    };
    assert!(keys(0, 9).is_empty());
    for key in [300, 5, 70_000, 256] {
        store
            .insert(Sequence::new(key), &key.to_be_bytes())
            .unwrap();
    }
    store.flush().unwrap();
    store.sync().unwrap();
    assert_eq!(keys(0, 9), [5, 256, 300, 70_000]);
    assert_eq!(keys(255, 2), [5, 256]);
    assert_eq!(keys(256, 2), [256, 300]);
    assert_eq!(keys(u64::MAX, 2), [70_000]);
    store.remove(Sequence::new(300)).unwrap();
    store.flush().unwrap();
    store.sync().unwrap();
    drop(store);
    let store = open();
    let pages = store.pages_from(Sequence::new(256), 9).unwrap();
    let page = |key: u64| StoredPage {
        key: Sequence::new(key),
        bytes: key.to_be_bytes().into(),
    };
    assert_eq!(pages, [page(256), page(70_000)]);
}

#[test]
fn sled_keeps_the_contract() {
    keeps_the_contract(&SledOpener);
}

#[test]
fn memory_keeps_the_contract() {
    keeps_the_contract(&MemOpener::default());
}

#[test]
fn half_a_snapshot_does_not_bar_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("volume").join("sled");
    let open = || SledOpener.open(&folder, Purpose::Active, Duration::from_secs(5));
    drop(open().unwrap());
    fs::write(folder.join("snap.0000000000000001.generating"), b"half").unwrap();
    drop(open().unwrap());
    assert!(!folder.join("snap.0000000000000001.generating").exists());
}

#[test]
fn a_store_that_someone_holds_is_refused_after_a_wait() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("volume").join("sled");
    let store = SledOpener
        .open(&folder, Purpose::Active, Duration::ZERO)
        .unwrap();
    let error = SledOpener
        .open(&folder, Purpose::Active, Duration::from_millis(10))
        .unwrap_err();
    assert!(error.reason.contains("lock"), "{error}");
    drop(store);
}

/// Incompressible and unlike its neighbours, so that nothing is shared between the pages of a node.
fn full_page(key: u64) -> Vec<u8> {
    (0..PAGE_BYTES_MAX.div_ceil(32))
        .flat_map(|part| *blake3::hash(&(key, part).0.to_le_bytes()).as_bytes())
        .take(PAGE_BYTES_MAX)
        .collect()
}

#[test]
fn what_is_written_between_two_syncs_takes_less_than_two_segments_of_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut most = 0;
    let mut grown = std::collections::VecDeque::new();
    for opening in 0..2_u64 {
        let db = config(folder.path(), ACTIVE_CACHE_BYTES).open().unwrap();
        for key in opening * 1_000 + 1..=(opening + 1) * 1_000 {
            db.insert(key.to_be_bytes(), full_page(key)).unwrap();
            grown.push_back(db.flush().unwrap());
            if grown.len() > UNSYNCED_BYTES_MAX / PAGE_BYTES_MAX {
                grown.pop_front();
            }
            most = most.max(grown.iter().sum());
        }
    }
    assert!(most > UNSYNCED_BYTES_MAX, "the log's growth is not seen");
    assert!(most < 2 * SEGMENT_BYTES, "{most} bytes of log");
}

#[test]
fn full_pages_never_become_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("volume").join("sled");
    let store = SledOpener
        .open(&folder, Purpose::Active, Duration::ZERO)
        .unwrap();
    for key in 1..2_000_u64 {
        store.insert(Sequence::new(key), &full_page(key)).unwrap();
    }
    store.flush().unwrap();
    store.sync().unwrap();
    assert_eq!(fs::read_dir(folder.join("blobs")).unwrap().count(), 0);
}
