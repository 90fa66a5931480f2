use super::super::codec::Encoder;
use super::super::memory::{Crash, MemOpener};
use super::super::page::MAGIC;
use super::super::raw::{self, RawScan};
use super::super::store::tests::WatchedOpener;
use super::super::store::{SledOpener, UNSYNCED_BYTES_MAX, data_file};
use super::super::testing::{
    assert_holds, commit, open, open_with, options, small, transfers, try_open,
};
use super::super::{Config, Journal};
use super::*;
use crate::ids::IdCipher;
use crate::types::{Currencies, Currency, CurrencyInfo};
use std::path::PathBuf;

/// Without a log: what these tests do to a store's files finds everything in them.
fn unlogged(config: Config) -> Config {
    Config {
        wal_bytes: 0,
        ..config
    }
}

struct Folder {
    folder: tempfile::TempDir,
    config: Config,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = unlogged(Config::new(folder.path()));
        Self { folder, config }
    }

    fn layout(&self) -> Layout {
        Layout {
            data_dir: self.folder.path().into(),
        }
    }

    fn store(&self, number: u64) -> Arc<dyn Store> {
        let folder = self.layout().store(number);
        SledOpener
            .open(&folder, Purpose::Active, Duration::from_secs(5))
            .unwrap()
    }

    fn db(&self, number: u64) -> PathBuf {
        data_file(&self.layout().store(number))
    }

    #[track_caller]
    fn refusal(&self) -> RecoveryError {
        try_open(&self.config, &options()).unwrap_err()
    }

    #[track_caller]
    fn refusal_with(&self, witness: Witness) -> RecoveryError {
        let options = OpenOptions {
            witnesses: vec![witness],
            ..options()
        };
        try_open(&self.config, &options).unwrap_err()
    }
}

/// The pages of a group of transfers that would come next.
fn next_pages(journal: &Journal, count: usize) -> Vec<(Sequence, Vec<u8>)> {
    let head = journal.reader().witness();
    pages_behind(journal, head.durable, head.head_hash, count)
}

fn pages_behind(
    journal: &Journal,
    after: Sequence,
    previous_hash: PageHash,
    count: usize,
) -> Vec<(Sequence, Vec<u8>)> {
    let settings = journal.settings();
    let cipher = IdCipher::new(&settings.id_key);
    let entries = transfers(&cipher, after, count);
    let mut encoder = Encoder::default();
    encoder
        .encode(
            settings.identity,
            &cipher,
            &entries,
            after.next(),
            previous_hash,
        )
        .unwrap();
    encoder
        .pages()
        .map(|(key, page)| (key, page.to_vec()))
        .collect()
}

fn insert(store: &dyn Store, pages: &[(Sequence, Vec<u8>)]) {
    for (key, page) in pages {
        store.insert(*key, page).unwrap();
    }
    store.flush().unwrap();
    store.sync().unwrap();
}

#[test]
fn an_incomplete_last_group_goes_and_a_whole_one_stays() {
    for kept in 1..=4 {
        let folder = Folder::new();
        let mut journal = open(&folder.config);
        let durable = commit(&mut journal, 30);
        let pages = next_pages(&journal, 100);
        assert_eq!(pages.len(), 4);
        drop(journal);
        insert(folder.store(1).as_ref(), &pages[..kept]);
        let mut journal = open(&folder.config);
        assert_eq!(
            journal.durable(),
            if kept == 4 {
                durable.plus(400)
            } else {
                durable
            }
        );
        let last = commit(&mut journal, 50);
        drop(journal);
        assert_holds(&open(&folder.config), last);
    }
}

/// A disk may keep the later write and lose the earlier; and a removal of an earlier start may have lasted in part.
#[test]
fn of_a_torn_last_group_any_pages_may_be_there() {
    for torn in 0..16_u32 {
        let folder = Folder::new();
        let opener = Arc::new(MemOpener::default());
        let reopen = || open_with(&folder.config, &options(), Arc::clone(&opener) as _).unwrap();
        let mut journal = reopen();
        let durable = commit(&mut journal, 30);
        let pages = next_pages(&journal, 100);
        drop(journal);
        let store = opener
            .open(&folder.layout().store(1), Purpose::Active, Duration::ZERO)
            .unwrap();
        for (index, (key, page)) in pages.iter().enumerate() {
            if torn & 1 << index != 0 {
                store.insert(*key, page).unwrap();
            }
        }
        let mut journal = reopen();
        let whole = if torn == 15 { 400 } else { 0 };
        assert_eq!(journal.durable(), durable.plus(whole), "{torn:04b}");
        let last = commit(&mut journal, 50);
        drop(journal);
        assert_holds(&reopen(), last);
    }
}

/// What a killed process had flushed and not synced is whole in the page cache. Whoever reads it after the start may
/// publish it, so it must be durable by then.
#[test]
fn what_a_start_shows_survives_a_power_cut() {
    let folder = Folder::new();
    let path = folder.folder.path();
    let mut opener = Arc::new(MemOpener::default());
    let mut journal = open_with(&folder.config, &options(), Arc::clone(&opener) as _).unwrap();
    let durable = commit(&mut journal, 30);
    let pages = next_pages(&journal, 100);
    drop(journal);
    let store = opener
        .open(&folder.layout().store(1), Purpose::Active, Duration::ZERO)
        .unwrap();
    for (key, page) in &pages {
        store.insert(*key, page).unwrap();
    }
    store.flush().unwrap();
    opener = Arc::new(opener.after(Crash::Kill, path, path));
    let journal = open_with(&folder.config, &options(), Arc::clone(&opener) as _).unwrap();
    let shown = journal.durable();
    assert_eq!(shown, durable.plus(400));
    drop(journal);
    opener = Arc::new(opener.after(Crash::Cut, path, path));
    let journal = open_with(&folder.config, &options(), opener).unwrap();
    assert_holds(&journal, shown);
}

/// Whichever of the two the scan meets first.
#[test]
fn a_page_of_a_dropped_group_does_not_hide_the_group_that_took_its_place() {
    let folder = Folder::new();
    let mut journal = open(&folder.config);
    let end = commit(&mut journal, 10);
    let head = journal.reader().witness();
    let identity = head.identity;
    let whole = pages_behind(&journal, end, head.head_hash, 60);
    for dropped in 80..96 {
        let stale = pages_behind(&journal, end, head.head_hash, dropped);
        let mut bytes = vec![0; 100];
        for (_, page) in stale[..stale.len() - 1].iter().chain(&whole) {
            bytes.extend_from_slice(page);
        }
        let path = folder.folder.path().join("scanned");
        fs::write(&path, bytes).unwrap();
        let scan = RawScan::of(&path, identity, None).unwrap();
        let found = raw::group_behind(&[&scan], end, head.head_hash);
        let found = found.unwrap_or_else(|| panic!("hidden by the pages of {dropped} transfers"));
        let expected: Vec<&[u8]> = whole.iter().map(|(_, page)| &**page).collect();
        let found: Vec<&[u8]> = found.iter().map(Page::bytes).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn pages_of_a_newer_format_are_no_unfinished_store() {
    let folder = Folder::new();
    drop(open(&folder.config));
    fs::remove_file(folder.layout().settings()).unwrap();
    let mut page = vec![0; 5_000];
    page[4_990..4_998].copy_from_slice(&MAGIC);
    page[4_998..].copy_from_slice(&7_u16.to_le_bytes());
    fs::write(folder.db(1), &page).unwrap();
    match folder.refusal() {
        RecoveryError::NewerFormat { path, found: 7, .. } => assert_eq!(path, folder.db(1)),
        other => panic!("{other}"),
    }
    assert_eq!(fs::read(folder.db(1)).unwrap(), page);
}

#[test]
fn an_incomplete_group_in_the_middle_is_refused() {
    let folder = Folder::new();
    let mut journal = open(&folder.config);
    commit(&mut journal, 100);
    commit(&mut journal, 1);
    journal.close().unwrap();
    let store = folder.store(1);
    let second = store.pages_from(Sequence::ORIGIN, 2).unwrap()[1].key;
    store.remove(second).unwrap();
    store.flush().unwrap();
    store.sync().unwrap();
    drop(store);
    match folder.refusal() {
        RecoveryError::CorruptPage {
            volume: 1, reason, ..
        } => {
            assert!(reason.contains("before is not whole"), "{reason}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_page_that_does_not_follow_the_one_before_is_refused() {
    let folder = Folder::new();
    let mut journal = open(&folder.config);
    let before = next_pages(&journal, 1);
    commit(&mut journal, 1);
    let stranger = pages_behind(&journal, journal.durable(), [9; 32], 1);
    journal.close().unwrap();
    insert(folder.store(1).as_ref(), &stranger);
    match folder.refusal() {
        RecoveryError::CorruptPage {
            volume: 1,
            sequence,
            reason,
            ..
        } => {
            assert_eq!(sequence, stranger[0].0);
            assert!(reason.contains("hash"), "{reason}");
        }
        other => panic!("{other}"),
    }
    // A whole page, filed where another belongs.
    let store = folder.store(1);
    insert(store.as_ref(), &[(stranger[0].0, before[0].1.clone())]);
    drop(store);
    match folder.refusal() {
        RecoveryError::CorruptPage {
            volume: 1, reason, ..
        } => {
            assert!(reason.contains("holds the page of sequence 1"), "{reason}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_tail_that_the_store_lost_is_put_back_from_its_data_file() {
    let folder = Folder::new();
    let mut journal = open(&folder.config);
    commit(&mut journal, 10);
    let last = commit(&mut journal, 100);
    let keys: Vec<Sequence> = {
        let (_, store) = journal.reader().shared.volumes.holding(last).unwrap();
        let pages = store.pages_from(Sequence::new(41), 9).unwrap();
        pages.iter().map(|page| page.key).collect()
    };
    assert_eq!(keys.len(), 4);
    drop(journal);
    // The store forgets them, its file does not.
    let store = folder.store(1);
    for key in keys {
        store.remove(key).unwrap();
    }
    store.flush().unwrap();
    drop(store);
    let mut journal = open(&folder.config);
    assert_holds(&journal, last);
    assert!(!folder.layout().copy(1).exists());
    let last = commit(&mut journal, 3);
    drop(journal);
    assert_holds(&open(&folder.config), last);
}

#[test]
fn what_a_start_finds_is_synced_before_it_counts() {
    let folder = Folder::new();
    let mut journal = open(&folder.config);
    commit(&mut journal, 30);
    drop(journal);
    let opener = Arc::new(WatchedOpener::default());
    drop(open_with(&folder.config, &options(), Arc::clone(&opener) as _).unwrap());
    assert!(opener.syncs() > 0);
}

/// What an open of sled may do to a file: it is cut, and forgets its newest pages.
fn damage(folder: &Folder) {
    let length = fs::metadata(folder.db(1)).unwrap().len();
    let file = File::options().write(true).open(folder.db(1)).unwrap();
    file.set_len(length / 2).unwrap();
}

#[test]
fn the_copy_of_a_recovery_that_did_not_end_is_put_back_at_whatever_step_it_was_killed() {
    for killed_at in 0..4 {
        let folder = Folder::new();
        let mut journal = open(&folder.config);
        for _ in 0..20 {
            commit(&mut journal, 1_000);
        }
        let last = journal.durable();
        drop(journal);
        let layout = folder.layout();
        let (store, copy) = (layout.store(1), layout.copy(1));
        let aside = copy.with_extension("old");
        fs::create_dir(&copy).unwrap();
        for name in ["db", "conf"] {
            fs::copy(store.join(name), copy.join(name)).unwrap();
        }
        match killed_at {
            0 => damage(&folder),
            // Nothing tells the two apart.
            1 => {}
            // Between the two renames, and behind them.
            2 => fs::rename(&store, &aside).unwrap(),
            _ => {
                damage(&folder);
                fs::rename(&store, &aside).unwrap();
                fs::rename(&copy, &store).unwrap();
            }
        }
        let journal = open(&folder.config);
        assert_holds(&journal, last);
        assert!(!copy.exists() && !aside.exists(), "{killed_at}");
    }
}

#[test]
fn a_copy_that_comes_back_from_the_dead_does_not_undo_what_was_acknowledged_since() {
    let folder = Folder::new();
    let mut journal = open(&folder.config);
    commit(&mut journal, 30);
    drop(journal);
    // The copy has an incomplete last group, of which the store keeps nothing. It ends behind what was acknowledged since.
    let journal = open(&folder.config);
    let partial = next_pages(&journal, 400);
    journal.close().unwrap();
    let (store, copy) = (folder.layout().store(1), folder.layout().copy(1));
    let dead = folder.folder.path().join("dead");
    fs::create_dir(&dead).unwrap();
    for name in ["db", "conf"] {
        fs::copy(store.join(name), dead.join(name)).unwrap();
    }
    let dead_store = SledOpener.open(&dead, Purpose::Active, Duration::ZERO);
    insert(dead_store.unwrap().as_ref(), &partial[..partial.len() - 1]);
    let mut journal = open(&folder.config);
    let last = commit(&mut journal, 1);
    drop(journal);
    fs::rename(&dead, &copy).unwrap();
    let journal = open(&folder.config);
    assert_holds(&journal, last);
    assert!(!copy.exists());
}

#[test]
fn a_store_is_not_opened_without_a_copy_of_it() {
    let folder = Folder::new();
    let mut journal = open(&folder.config);
    let last = commit(&mut journal, 30);
    drop(journal);
    // Stands for a disk without room.
    let blocked = folder.layout().copy(1).with_extension("tmp");
    fs::write(&blocked, b"in the way").unwrap();
    let before = fs::read(folder.db(1)).unwrap();
    let refusal = folder.refusal().to_string();
    assert!(refusal.contains("copy the store aside"), "{refusal}");
    assert_eq!(fs::read(folder.db(1)).unwrap(), before);
    fs::remove_file(blocked).unwrap();
    assert_holds(&open(&folder.config), last);
}

#[test]
fn no_step_writes_more_than_may_be_lost_at_once() {
    let folder = Folder::new();
    let watched = || {
        let opener = Arc::new(WatchedOpener::default());
        let journal = open_with(&folder.config, &options(), Arc::clone(&opener) as _);
        (journal.unwrap(), opener)
    };
    let is_bounded = |opener: &WatchedOpener| {
        let most = opener.most_unsynced();
        // The step is large enough to need a sync in between.
        (UNSYNCED_BYTES_MAX / 2..=UNSYNCED_BYTES_MAX).contains(&most)
    };
    // A large group.
    let (mut journal, opener) = watched();
    commit(&mut journal, 1);
    let last = commit(&mut journal, 4_000);
    assert!(is_bounded(&opener), "{opener:?}");
    let partial = next_pages(&journal, 4_000);
    drop(journal);
    // A large tail that the store lost.
    let store = folder.store(1);
    for page in store
        .pages_from(Sequence::ORIGIN, 1_000)
        .unwrap()
        .iter()
        .skip(1)
        .rev()
    {
        store.remove(page.key).unwrap();
    }
    store.flush().unwrap();
    drop(store);
    let (journal, opener) = watched();
    assert_eq!(journal.durable(), last);
    assert!(is_bounded(&opener), "{opener:?}");
    drop(journal);
    // A large incomplete group.
    insert(folder.store(1).as_ref(), &partial[..partial.len() - 1]);
    let (journal, opener) = watched();
    assert_eq!(journal.durable(), last);
    assert!(is_bounded(&opener), "{opener:?}");
    assert_holds(&journal, last);
}

#[test]
fn a_shortened_data_file_is_refused_and_nothing_of_it_is_lost() {
    for sixths in 1..6 {
        let folder = Folder::new();
        let mut journal = open(&folder.config);
        for _ in 0..200 {
            commit(&mut journal, 100);
        }
        let witness = journal.reader().witness();
        drop(journal);
        let length = fs::metadata(folder.db(1)).unwrap().len() / 6 * sixths;
        File::options()
            .write(true)
            .open(folder.db(1))
            .unwrap()
            .set_len(length)
            .unwrap();
        let is_kept = || {
            let copy = data_file(&folder.layout().copy(1));
            [folder.db(1), copy]
                .iter()
                .any(|path| fs::metadata(path).is_ok_and(|m| m.len() == length))
        };
        for _ in 0..2 {
            match folder.refusal_with(witness) {
                RecoveryError::LostTail { volume: 1, .. }
                | RecoveryError::StoreUnreadable { volume: 1, .. }
                | RecoveryError::CorruptPage { volume: 1, .. } => {}
                other => panic!("{other}"),
            }
            assert!(is_kept(), "cut to {length}");
        }
    }
}

#[test]
fn a_missing_data_file_is_refused() {
    let folder = Folder::new();
    let mut journal = open(&folder.config);
    commit(&mut journal, 1);
    journal.close().unwrap();
    fs::remove_file(folder.db(1)).unwrap();
    assert!(matches!(
        folder.refusal(),
        RecoveryError::StoreUnreadable { volume: 1, .. }
    ));
    assert!(!folder.db(1).exists());
}

#[test]
fn a_store_that_ends_below_its_witness_is_refused() {
    let folder = Folder::new();
    let mut journal = open(&folder.config);
    commit(&mut journal, 2);
    let witness = journal.reader().witness();
    journal.close().unwrap();
    let beyond = Witness {
        durable: witness.durable.plus(1),
        ..witness
    };
    assert!(matches!(
        folder.refusal_with(beyond),
        RecoveryError::LostTail { .. }
    ));
    let other_hash = Witness {
        head_hash: [1; 32],
        durable: Sequence::new(4),
        ..witness
    };
    assert!(
        try_open(
            &folder.config,
            &OpenOptions {
                witnesses: vec![witness, other_hash],
                ..options()
            }
        )
        .is_ok()
    );
    assert!(matches!(
        folder.refusal_with(other_hash),
        RecoveryError::LostTail { .. }
    ));
    let mut other_journal = witness;
    other_journal.identity.epoch += 1;
    assert!(matches!(
        folder.refusal_with(other_journal),
        RecoveryError::OtherHistory { .. }
    ));
    drop(open(&folder.config));
}

#[test]
fn one_flipped_bit_is_an_error_or_no_harm_and_never_silent() {
    let mut refused = 0;
    for round in 0_u64..24 {
        let folder = Folder::new();
        let mut journal = open(&folder.config);
        // Pages of small groups lie in the file more than once, those of a large one do not.
        let (groups, count) = if round % 2 == 0 { (20, 30) } else { (1, 600) };
        for _ in 0..groups {
            commit(&mut journal, count);
        }
        let last = journal.durable();
        let witness = journal.reader().witness();
        drop(journal);
        let mut bytes = fs::read(folder.db(1)).unwrap();
        let used = u64::try_from(bytes.iter().rposition(|byte| *byte != 0).unwrap()).unwrap();
        let hash = blake3::hash(&round.to_le_bytes());
        let at = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()) % used;
        bytes[usize::try_from(at).unwrap()] ^= 1 << (round % 8);
        fs::write(folder.db(1), bytes).unwrap();
        let options = OpenOptions {
            witnesses: vec![witness],
            ..options()
        };
        match try_open(&folder.config, &options) {
            Ok(journal) => assert_holds(&journal, last),
            Err(
                RecoveryError::StoreUnreadable { .. }
                | RecoveryError::CorruptPage { .. }
                | RecoveryError::LostTail { .. },
            ) => refused += 1,
            Err(other) => panic!("round {round}, byte {at}: {other}"),
        }
    }
    assert!(refused > 0);
}

/// The store cuts or zeroes what it cannot read, whole pages beside it included. Who has to save what can be saved, by a
/// backup or by hand, must find the file as it was.
#[test]
fn damage_that_prevents_an_open_is_left_as_it_was_found() {
    let mut refused = [0, 0];
    for round in 0_u64..40 {
        let folder = Folder::new();
        let config = unlogged(small(folder.folder.path()));
        let mut journal = open(&config);
        while journal.reader().witness().volume < 2 {
            commit(&mut journal, 40);
        }
        commit(&mut journal, 40);
        let last = journal.durable();
        let identity = journal.reader().identity();
        journal.close().unwrap();
        // The closed volume and the active one in turn; both were closed in order.
        let number = 1 + round % 2;
        let db = folder.db(number);
        let mut bytes = fs::read(&db).unwrap();
        let used = u64::try_from(bytes.iter().rposition(|byte| *byte != 0).unwrap()).unwrap();
        let hash = blake3::hash(&round.to_le_bytes());
        let at = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()) % used;
        bytes[usize::try_from(at).unwrap()] ^= 1 << (round % 8);
        fs::write(&db, &bytes).unwrap();
        let is_refused = match try_open(&config, &options()) {
            Ok(journal) => {
                let replayed = journal.reader().replay(Sequence::ORIGIN, &mut |_| {});
                if replayed.is_ok() {
                    assert_holds(&journal, last);
                }
                replayed.is_err()
            }
            Err(_) => true,
        };
        if is_refused && fs::read(&db).unwrap() != bytes {
            // The store may have been opened well and refused later, over a page: then nothing was cut.
            let pages = |bytes: &[u8]| {
                let path = folder.folder.path().join("scanned");
                fs::write(&path, bytes).unwrap();
                RawScan::of(&path, identity, None).unwrap().page_count()
            };
            let (before, after) = (pages(&bytes), pages(&fs::read(&db).unwrap()));
            assert!(
                after >= before,
                "round {round}, byte {at}: {before} pages, {after} are left"
            );
        }
        refused[usize::try_from(round % 2).unwrap()] += usize::from(is_refused);
        assert!(!db.parent().unwrap().with_extension("before-open").exists());
    }
    assert!(refused.iter().all(|count| *count > 0), "{refused:?}");
}

#[test]
fn empty_newest_volumes_are_walked_back_over() {
    let folder = Folder::new();
    let config = unlogged(small(folder.folder.path()));
    let mut journal = open(&config);
    while journal.reader().witness().volume < 3 {
        commit(&mut journal, 40);
    }
    let last = journal.durable();
    journal.close().unwrap();
    let newest = numbers_in(&folder.layout().volumes())
        .unwrap()
        .pop()
        .unwrap();
    for number in newest + 1..newest + 4 {
        drop(folder.store(number));
    }
    // One that was being made when the process was killed.
    fs::create_dir_all(folder.layout().store(newest + 4)).unwrap();
    fs::write(folder.db(newest + 4), b"").unwrap();
    let mut journal = open(&config);
    assert_holds(&journal, last);
    let last = loop {
        let last = commit(&mut journal, 40);
        if journal.reader().witness().volume > newest + 1 {
            break last;
        }
    };
    drop(journal);
    assert_holds(&open(&config), last);
}

#[test]
fn an_empty_volume_with_a_base_has_lost_its_pages() {
    let folder = Folder::new();
    let config = unlogged(small(folder.folder.path()));
    let mut journal = open(&config);
    while journal.reader().witness().volume < 2 {
        commit(&mut journal, 40);
    }
    let last = journal.durable();
    journal.close().unwrap();
    let newest = 2;
    let base = fs::read(folder.layout().base(newest)).unwrap();
    // All its pages are gone without a trace, and what else would tell of them.
    fs::remove_dir_all(folder.layout().store(newest)).unwrap();
    fs::remove_file(folder.layout().stop()).unwrap();
    let _ = fs::remove_dir_all(folder.layout().volume(newest + 1));
    drop(folder.store(newest));
    match try_open(&config, &options()).unwrap_err() {
        RecoveryError::LostTail {
            volume: 2, found, ..
        } => assert!(found < last),
        other => panic!("{other}"),
    }
    assert_eq!(fs::read(folder.layout().base(newest)).unwrap(), base);
}

#[test]
fn a_base_that_a_kill_prevented_is_made_again_and_the_volumes_must_fit() {
    let folder = Folder::new();
    let config = unlogged(small(folder.folder.path()));
    let mut journal = open(&config);
    while journal.reader().witness().volume < 3 {
        commit(&mut journal, 40);
    }
    let (last, size_bytes) = (commit(&mut journal, 1), journal.reader().size_bytes());
    let active = journal.reader().witness().volume;
    journal.close().unwrap();
    let base = fs::read(folder.layout().base(active)).unwrap();
    fs::remove_file(folder.layout().base(active)).unwrap();
    let journal = open(&config);
    assert_holds(&journal, last);
    assert_eq!(journal.reader().size_bytes(), size_bytes);
    journal.close().unwrap();
    assert_eq!(fs::read(folder.layout().base(active)).unwrap(), base);
    // Also those of several volumes, as a disk that was full for a while once left them.
    let closed = folder.layout().base(active - 1);
    let closed_base = fs::read(&closed).unwrap();
    fs::remove_file(folder.layout().base(active)).unwrap();
    fs::remove_file(&closed).unwrap();
    let journal = open(&config);
    assert_holds(&journal, last);
    journal.close().unwrap();
    assert_eq!(fs::read(folder.layout().base(active)).unwrap(), base);
    assert_eq!(fs::read(closed).unwrap(), closed_base);
    // The oldest volumes may be archived; what is left is read from its base on.
    fs::remove_dir_all(folder.layout().volume(1)).unwrap();
    let journal = open(&config);
    let oldest = journal.reader().oldest();
    assert!(oldest > Sequence::new(1));
    let archived = journal
        .reader()
        .read_after(Sequence::ORIGIN, 1)
        .unwrap_err();
    assert_eq!(
        archived.to_string(),
        format!("archived: the journal starts at sequence {oldest}")
    );
    assert_eq!(
        journal
            .reader()
            .replay(oldest.previous(), &mut |_| {})
            .unwrap(),
        last
    );
    journal.close().unwrap();
    // A hole between two volumes is none of that.
    fs::create_dir_all(folder.layout().volume(active + 7)).unwrap();
    assert!(matches!(
        folder.refusal(),
        RecoveryError::VolumeMissing { .. }
    ));
}

#[test]
fn fixed_facts_are_compared() {
    let folder = Folder::new();
    drop(
        try_open(
            &folder.config,
            &OpenOptions {
                dev: true,
                ..options()
            },
        )
        .unwrap(),
    );
    assert!(matches!(folder.refusal(), RecoveryError::DevStore { .. }));
    let accepting = OpenOptions {
        accept_dev_store: true,
        ..options()
    };
    let journal = try_open(&folder.config, &accepting).unwrap();
    assert!(journal.settings().dev);
    drop(journal);

    let mut rows = Currencies::default().rows().to_vec();
    rows.push(CurrencyInfo {
        currency: Currency::from_tag(9),
        code: "JPY".into(),
        exponent: 0,
    });
    let with = |rows: &[CurrencyInfo]| OpenOptions {
        currencies: Currencies::new(rows.to_vec()).unwrap(),
        ..accepting.clone()
    };
    let journal = try_open(&folder.config, &with(&rows)).unwrap();
    assert_eq!(journal.settings().currencies.rows(), rows);
    drop(journal);
    assert!(matches!(
        try_open(&folder.config, &accepting).unwrap_err(),
        RecoveryError::CurrencyChanged { code } if &*code == "JPY"
    ));
    rows[3].exponent = 2;
    assert!(try_open(&folder.config, &with(&rows)).is_err());
}

#[test]
fn damaged_newer_and_missing_records_are_named() {
    let folder = Folder::new();
    let mut journal = open(&folder.config);
    commit(&mut journal, 1);
    journal.close().unwrap();
    for path in [
        folder.layout().settings(),
        folder.layout().stop(),
        folder.layout().base(1),
    ] {
        let bytes = fs::read(&path).unwrap();
        let mut flipped = bytes.clone();
        flipped[20] ^= 1;
        fs::write(&path, &flipped).unwrap();
        match folder.refusal() {
            RecoveryError::CorruptRecord { path: named, .. } => assert_eq!(named, path),
            other => panic!("{other}"),
        }
        let mut newer = bytes[..bytes.len() - 4].to_vec();
        newer[10] = 9;
        newer.extend_from_slice(&crc32fast::hash(&newer).to_le_bytes());
        fs::write(&path, &newer).unwrap();
        assert!(matches!(
            folder.refusal(),
            RecoveryError::NewerFormat { found: 9, .. }
        ));
        fs::write(&path, bytes).unwrap();
    }
    fs::rename(
        folder.layout().settings(),
        folder.folder.path().join("elsewhere"),
    )
    .unwrap();
    assert!(matches!(
        folder.refusal(),
        RecoveryError::SettingsMissing { .. }
    ));
    fs::remove_file(folder.layout().stop()).unwrap();
    assert!(matches!(
        folder.refusal(),
        RecoveryError::SettingsMissing { .. }
    ));
    fs::rename(
        folder.folder.path().join("elsewhere"),
        folder.layout().settings(),
    )
    .unwrap();
    drop(open(&folder.config));
}

#[test]
fn a_store_that_was_never_finished_is_made_again() {
    let folder = Folder::new();
    drop(open(&folder.config));
    fs::remove_file(folder.layout().settings()).unwrap();
    let mut journal = open(&folder.config);
    let last = commit(&mut journal, 1);
    drop(journal);
    assert_holds(&open(&folder.config), last);
}

#[test]
fn a_recovery_that_was_interrupted_starts_from_the_copy() {
    let folder = Folder::new();
    let mut journal = open(&folder.config);
    let last = commit(&mut journal, 100);
    drop(journal);
    // As if the first open had cut the file and the process had been killed then.
    fs::rename(folder.layout().store(1), folder.layout().copy(1)).unwrap();
    drop(folder.store(1));
    assert_holds(&open(&folder.config), last);
    assert!(!folder.layout().copy(1).exists());
}
