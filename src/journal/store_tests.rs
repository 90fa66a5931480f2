use super::super::memory::MemOpener;
use super::*;

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

#[test]
fn full_pages_never_become_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("volume").join("sled");
    let store = SledOpener
        .open(&folder, Purpose::Active, Duration::ZERO)
        .unwrap();
    for key in 1..2_000_u64 {
        // Incompressible and unlike its neighbours, so that nothing is shared between the pages of a node.
        let page: Vec<u8> = (0..PAGE_BYTES_MAX.div_ceil(32))
            .flat_map(|part| *blake3::hash(&(key, part).0.to_le_bytes()).as_bytes())
            .take(PAGE_BYTES_MAX)
            .collect();
        store.insert(Sequence::new(key), &page).unwrap();
    }
    store.flush().unwrap();
    store.sync().unwrap();
    assert_eq!(fs::read_dir(folder.join("blobs")).unwrap().count(), 0);
}
