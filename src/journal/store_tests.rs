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
    fn prepare(&self, keys: &[Sequence]) -> Result<(), StoreFault> {
        self.store.prepare(keys)
    }

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

/// A store that is flushed behind each of its changes, so that each byte of its log is counted: what its pool has written
/// by itself a flush does not tell.
#[derive(Debug)]
struct Grown {
    store: SledStore,
    log_bytes: Mutex<usize>,
}

impl Grown {
    fn open(folder: &Path) -> Self {
        Self {
            store: SledStore {
                db: Some(config(folder, ACTIVE_CACHE_BYTES).open().unwrap()),
                file: File::open(data_file(folder)).unwrap(),
                is_abandoned: AtomicBool::new(false),
                prepared: Mutex::default(),
            },
            log_bytes: Mutex::default(),
        }
    }

    fn count(&self) {
        *self.log_bytes.lock() += self.store.db.as_ref().unwrap().flush().unwrap();
    }

    /// Since this was asked last.
    fn log_bytes(&self) -> usize {
        std::mem::take(&mut *self.log_bytes.lock())
    }

    /// Fills `pages` in, and gives the most log between two syncs.
    fn fill(&self, pages: &[(Sequence, Vec<u8>)]) -> usize {
        self.fill_with(Filling::of(self), pages)
    }

    fn fill_with<'p>(
        &self,
        mut filling: Filling<&'p [u8]>,
        pages: &'p [(Sequence, Vec<u8>)],
    ) -> usize {
        let mut most = 0;
        for (key, page) in pages {
            if filling.push(self, *key, page).unwrap() {
                most = most.max(self.log_bytes());
            }
        }
        filling.finish(self).unwrap();
        most.max(self.log_bytes())
    }
}

impl Store for Grown {
    fn prepare(&self, keys: &[Sequence]) -> Result<(), StoreFault> {
        // One place more each time, and never so few that they are not worth making.
        for last in (1..=keys.len()).filter(|_| keys.len() > PLACES_AHEAD) {
            let last = last.max(PLACES_AHEAD + 1);
            self.store.prepare(&keys[last - PLACES_AHEAD - 1..last])?;
            self.count();
        }
        Ok(())
    }

    fn insert(&self, key: Sequence, page: &[u8]) -> Result<(), StoreFault> {
        self.store.insert(key, page)?;
        self.count();
        Ok(())
    }

    fn remove(&self, key: Sequence) -> Result<(), StoreFault> {
        self.store.remove(key)
    }

    fn flush(&self) -> Result<(), StoreFault> {
        self.store.flush()
    }

    fn sync(&self) -> Result<(), StoreFault> {
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

/// Pages of `page_bytes` behind `before`.
fn pages_behind(before: u64, count: usize, page_bytes: usize) -> Vec<(Sequence, Vec<u8>)> {
    let keys = (before + 1..).take(count);
    keys.map(|key| {
        let mut page = full_page(key);
        page.truncate(page_bytes);
        (Sequence::new(key), page)
    })
    .collect()
}

/// Where nothing is known of what comes later and sled's nodes are left at every length; behind much that came page by page,
/// when sled tidies up; and where pages are put back between others.
#[test]
fn what_is_written_between_two_syncs_takes_less_than_two_segments_of_log() {
    for page_bytes in [PAGE_BYTES_MAX, PAGE_BYTES_MAX / 7, 200] {
        let folder = tempfile::tempdir().unwrap();
        let grown = Grown::open(folder.path());
        let most_pages = UNSYNCED_BYTES_MAX / (page_bytes + PAGE_COST_BYTES);
        let mut most = 0;
        let mut key = 0;
        let mut next = |count| {
            let pages = pages_behind(key, count, page_bytes);
            key += count as u64;
            pages
        };
        for round in 0..40 {
            most = most.max(grown.fill(&next(most_pages - round % 20)));
        }
        for (key, page) in next(800) {
            grown.insert(key, &page).unwrap();
        }
        grown.log_bytes();
        for _ in 0..10 {
            most = most.max(grown.fill(&next(most_pages)));
        }
        for _ in 0..6 {
            let pages = next(2 * most_pages).into_iter();
            let (there, lost): (Vec<_>, Vec<_>) = pages.partition(|(key, _)| key.get() % 2 == 0);
            grown.fill(&there);
            // As behind another open.
            *grown.store.prepared.lock() = Sequence::ORIGIN;
            most = most.max(grown.fill_with(Filling::between_others(&grown), &lost));
        }
        let unsynced = most_pages * page_bytes;
        assert!(most > unsynced, "the log's growth is not seen");
        assert!(
            most < 2 * SEGMENT_BYTES * 3 / 4,
            "{most} bytes of log for {unsynced} of pages of {page_bytes}"
        );
    }
}

#[test]
fn a_page_whose_place_was_made_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let grown = Grown::open(folder.path());
    let pages = pages_behind(0, 1_000, PAGE_BYTES_MAX);
    let mut filling = Filling::of(&grown);
    let mut log = 0;
    for (key, page) in &pages {
        if filling.push(&grown, *key, page).unwrap() {
            log += grown.log_bytes();
        }
    }
    filling.finish(&grown).unwrap();
    log += grown.log_bytes();
    let stored = grown.pages_from(Sequence::ORIGIN, 3_000).unwrap();
    let stored = stored.iter().map(|page| (page.key, &*page.bytes));
    assert!(stored.eq(pages.iter().map(|(key, page)| (*key, &**page))));
    let written = pages.len() * PAGE_BYTES_MAX;
    assert!(
        log < written + written / 5,
        "{log} bytes of log for {written} of pages"
    );
}

#[test]
fn nobody_sees_a_place_and_a_kill_leaves_none() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("volume").join("sled");
    let open = || {
        SledOpener
            .open(&folder, Purpose::Active, Duration::from_secs(5))
            .unwrap()
    };
    let keys = |keys: std::ops::Range<u64>| keys.map(Sequence::new).collect::<Vec<Sequence>>();
    let seen = |store: &dyn Store, from| -> Vec<u64> {
        let pages = store.pages_from(Sequence::new(from), 1_000).unwrap();
        pages.iter().map(|page| page.key.get()).collect()
    };
    let store = open();
    store.prepare(&keys(1..60)).unwrap();
    assert!(seen(&*store, 0).is_empty());
    assert!(seen(&*store, 30).is_empty());
    for key in [1, 2, 5] {
        store.insert(Sequence::new(key), &full_page(key)).unwrap();
    }
    // Not again, and not over a page.
    store.prepare(&keys(3..70)).unwrap();
    store.prepare(&keys(1..20)).unwrap();
    for from in [0, 1] {
        assert_eq!(seen(&*store, from), [1, 2, 5]);
    }
    assert_eq!(seen(&*store, 3), [2, 5]);
    assert_eq!(seen(&*store, 69), [5]);
    // The same files as a kill leaves.
    settle(&*store).unwrap();
    drop(store);
    let store = open();
    assert_eq!(seen(&*store, 0), [1, 2, 5]);
    store.prepare(&keys(1..40)).unwrap();
    assert_eq!(seen(&*store, 0), [1, 2, 5]);
    drop(store);
    drop(open());
    let db = config(&folder, CLOSED_CACHE_BYTES).open().unwrap();
    assert_eq!(db.iter().count(), 3);
}

#[test]
fn full_pages_never_become_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("volume").join("sled");
    let store = SledOpener
        .open(&folder, Purpose::Active, Duration::ZERO)
        .unwrap();
    for keys in (1..2_000_u64).collect::<Vec<u64>>().chunks(61) {
        // Every second time without places.
        if keys[0] % 2 == 0 {
            let keys: Vec<Sequence> = keys.iter().copied().map(Sequence::new).collect();
            store.prepare(&keys).unwrap();
        }
        for key in keys {
            store.insert(Sequence::new(*key), &full_page(*key)).unwrap();
        }
        settle(&*store).unwrap();
    }
    assert_eq!(fs::read_dir(folder.join("blobs")).unwrap().count(), 0);
}
