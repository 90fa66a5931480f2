use super::super::faulty::{Fault, FaultyOpener, Lane, Plan};
use super::super::memory::{Crash, MemOpener, Random};
use super::super::page::Page;
use super::super::store::tests::WatchedOpener;
use super::super::store::{Purpose, SledOpener, data_file};
use super::super::testing::{
    assert_holds, commit, identity, open, open_with, options, transfers, try_open,
};
use super::super::{Config, Journal};
use super::*;
use crate::clock::{Clock, SharedClock, SystemClock};
use crate::ids::IdCipher;
use crate::tasks::Supervisor;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub(super) const BLOCK: u64 = 4_096;
const PATIENCE: Duration = Duration::from_mins(1);

/// A journal whose log has room for so many blocks.
pub(super) fn logged(folder: &Path, blocks: u64) -> Config {
    Config {
        wal_bytes: blocks * BLOCK,
        ..Config::new(folder)
    }
}

fn clock() -> SharedClock {
    Arc::new(SystemClock::new())
}

pub(super) fn planned(inner: Arc<dyn Opener>) -> (Arc<dyn Opener>, Arc<Plan>) {
    let plan = Arc::new(Plan::default());
    let opener = FaultyOpener::new(inner, Arc::clone(&plan));
    (Arc::new(opener), plan)
}

/// A journal whose pages stay in the log: the thread that drains it stands still at its first call.
pub(super) fn undrained(config: &Config, opener: Arc<dyn Opener>) -> (Journal, PlanGuard) {
    let (opener, plan) = planned(opener);
    plan.arm(Lane::Drain, 1, Fault::Freeze);
    (
        open_with(config, &options(), opener).unwrap(),
        PlanGuard(plan),
    )
}

/// A plan that ends with the test: a journal that waits for a thread that stands still would never be gone, and a test that
/// fails would hang.
pub(super) struct PlanGuard(pub(super) Arc<Plan>);

impl std::ops::Deref for PlanGuard {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.0
    }
}

impl Drop for PlanGuard {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A store by itself behind a log of so many blocks, whose drain stands still at its `nth` call.
fn store_behind_a_log(
    folder: &Path,
    blocks: u64,
    nth: u64,
) -> (Arc<Plan>, Arc<Wal>, Arc<dyn Store>, Drainer) {
    let (opener, plan) = planned(Arc::new(MemOpener::default()));
    plan.arm(Lane::Drain, nth, Fault::Freeze);
    let inner = opener
        .open(&folder.join("sled"), Purpose::Active, Duration::ZERO)
        .unwrap();
    let (path, size_bytes) = (folder.join("wal"), blocks * BLOCK);
    fs::write(&path, vec![0; usize::try_from(size_bytes).unwrap()]).unwrap();
    let file = opener.open_ring(&path).unwrap();
    let wal = Arc::new(Wal::new(file, size_bytes, &clock()));
    let store = wal.in_front_of(inner);
    let drainer = Drainer::start(Arc::clone(&wal), &Supervisor::new()).unwrap();
    (plan, wal, store, drainer)
}

pub(super) fn ring(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("wal")).unwrap()
}

#[track_caller]
pub(super) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = SystemClock::new();
    while !is_so() {
        assert!(clock.monotonic() < PATIENCE, "not in time: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_group_is_acknowledged_from_the_log_and_comes_back_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = logged(folder.path(), 64);
    let opener = Arc::new(MemOpener::default());
    let (mut journal, plan) = undrained(&config, Arc::clone(&opener) as _);
    let calls = plan.calls(Lane::Writer);
    commit(&mut journal, 1);
    let last = commit(&mut journal, 60);
    assert_eq!(
        plan.calls(Lane::Writer) - calls,
        4,
        "a write and a sync each"
    );
    assert!(journal.reader().undrained_bytes() > 0);
    assert_holds(&journal, last);
    let opener = opener.after(Crash::Cut, folder.path(), folder.path());
    plan.end();
    drop(journal);
    let journal = open_with(&config, &options(), Arc::new(opener)).unwrap();
    assert_eq!(journal.durable(), last);
    assert_holds(&journal, last);
}

/// Also over the end of the ring, in groups longer than it, and while the stores do not keep up.
#[test]
fn a_log_that_is_full_holds_the_writer_up_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let config = logged(folder.path(), 5);
    let (mut journal, plan) = undrained(&config, Arc::new(MemOpener::default()));
    let reader = journal.reader();
    let commits = move || {
        for count in [1, 30, 1, 90, 400, 1] {
            commit(&mut journal, count);
        }
        journal
    };
    let writer = std::thread::Builder::new().spawn(commits).unwrap();
    wait_until("the log is full", || {
        plan.is_frozen(Lane::Drain) && reader.shared.sync.age() > Duration::from_millis(20)
    });
    let durable = reader.durable().get();
    assert!(durable < Sequence::new(4 * 523), "{durable}");
    let seen = reader.read_after(Sequence::ORIGIN, 1 << 20).unwrap();
    assert!(!seen.is_empty());
    plan.thaw();
    let journal = writer.join().unwrap();
    assert_holds(&journal, Sequence::new(4 * 523));
    journal.close().unwrap();
    assert_eq!(reader.undrained_bytes(), 0);
}

/// The writer may never notice: there is room in the log for a long time.
#[test]
fn a_store_that_hangs_behind_the_log_is_told_though_nobody_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = logged(folder.path(), 64);
    let (mut journal, plan) = undrained(&config, Arc::new(MemOpener::default()));
    let reader = journal.reader();
    commit(&mut journal, 1);
    wait_until("the drain hangs", || {
        reader.sync_age() > Duration::from_millis(20)
    });
    assert_eq!(reader.shared.sync.age(), Duration::ZERO);
    plan.thaw();
    wait_until("it went on", || reader.undrained_bytes() == 0);
    assert_eq!(reader.sync_age(), Duration::ZERO);
}

/// Two that wait for the drain: each would wake the other as often as it is woken.
#[test]
fn whoever_waits_for_the_drain_wakes_nobody_while_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, wal, store, drainer) = store_behind_a_log(folder.path(), 2, 1);
    let (full, closing) = (Arc::clone(&store), Arc::clone(&store));
    let writer = std::thread::Builder::new().spawn(move || {
        for key in 1..=4 {
            full.insert(Sequence::new(key), &[7; 700]).unwrap();
            full.flush().unwrap();
            full.sync().unwrap();
        }
    });
    wait_until("the log is full", || wal.state.lock().wanted == 2);
    let closer = std::thread::Builder::new().spawn(move || closing.drain());
    let mut wakes = 0;
    for _quiet in 0..10 {
        let mut state = wal.state.lock();
        let quiet = Duration::from_millis(50);
        while wakes < 100 && !wal.changed.wait_for(&mut state, quiet).timed_out() {
            wakes += 1;
        }
    }
    plan.thaw();
    writer.unwrap().join().unwrap();
    closer.unwrap().join().unwrap().unwrap();
    store.drain().unwrap();
    assert_eq!(wal.undrained_bytes(), 0);
    drop(drainer);
    assert!(wakes < 10, "{wakes}");
}

/// Whatever is in the log and whatever is in the store already: readers see the same.
#[test]
fn readers_find_each_page_once_wherever_it_is() {
    for drained in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let (plan, wal, store, drainer) = store_behind_a_log(folder.path(), 16, 1 + drained);
        let mut model = BTreeMap::new();
        for key in (3..).step_by(3).take(8) {
            let page = vec![u8::try_from(key).unwrap(); 700];
            model.insert(Sequence::new(key), page.clone());
            store.insert(Sequence::new(key), &page).unwrap();
            store.flush().unwrap();
            store.sync().unwrap();
        }
        wait_until("so many calls are made", || {
            plan.is_frozen(Lane::Drain) || wal.undrained_bytes() == 0
        });
        for from in 0..30 {
            for pages_max in 1..10 {
                let from = Sequence::new(from);
                let start = model.range(..=from).next_back();
                let start = start.map_or(from, |(key, _)| *key);
                let due: Vec<StoredPage> = model
                    .range(start..)
                    .take(pages_max)
                    .map(|(key, bytes)| StoredPage {
                        key: *key,
                        bytes: bytes.clone().into(),
                    })
                    .collect();
                assert_eq!(store.pages_from(from, pages_max).unwrap(), due);
            }
        }
        plan.end();
        drop(drainer);
    }
}

/// What a store bears unsynced holds for the thread that drains, too.
#[test]
fn no_more_is_drained_at_once_than_a_store_bears_unsynced() {
    let folder = tempfile::tempdir().unwrap();
    let opener = Arc::new(WatchedOpener::default());
    let config = logged(folder.path(), 512);
    let mut journal = open_with(&config, &options(), Arc::clone(&opener) as _).unwrap();
    for count in [1, 4_000, 700, 3_000] {
        commit(&mut journal, count);
    }
    journal.close().unwrap();
    let most = opener.most_unsynced();
    assert!(
        (UNSYNCED_BYTES_MAX / 2..=UNSYNCED_BYTES_MAX).contains(&most),
        "{most}"
    );
}

/// Places are made for what is drained, whatever comes in: sled would write most pages two to four times.
#[test]
fn a_page_that_is_drained_is_written_once() {
    for count in [1_000, 40] {
        let folder = tempfile::tempdir().unwrap();
        let config = logged(folder.path(), 512);
        let mut journal = open_with(&config, &options(), Arc::new(SledOpener)).unwrap();
        for _ in 0..60_000 / count {
            commit(&mut journal, count);
        }
        let reader = journal.reader();
        journal.close().unwrap();
        let pages_bytes = reader.size_bytes();
        let log = fs::metadata(data_file(&folder.path().join("volumes/0000000001/sled")));
        let log_bytes = log.unwrap().len();
        assert!(pages_bytes > 8 << 20, "{pages_bytes}");
        // Whole segments, of which the last ones are not full.
        let log_bytes = log_bytes.saturating_sub(1 << 20);
        assert!(
            log_bytes < pages_bytes * 5 / 4,
            "{log_bytes} bytes of log for {pages_bytes} of pages"
        );
    }
}

/// A data folder after a kill, whose log alone holds three groups: of one page, of two, and of one.
struct Killed {
    folder: tempfile::TempDir,
    opener: Arc<MemOpener>,
    config: Config,
    /// Where each group ends.
    ends: [Sequence; 3],
}

impl Killed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = logged(folder.path(), 64);
        let opener = Arc::new(MemOpener::default());
        let (mut journal, plan) = undrained(&config, Arc::clone(&opener) as _);
        let ends = [1, 40, 3].map(|count| commit(&mut journal, count));
        let opener = Arc::new(opener.after(Crash::Kill, folder.path(), folder.path()));
        plan.end();
        drop(journal);
        Self {
            folder,
            opener,
            config,
            ends,
        }
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.folder.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }

    fn open(&self) -> Result<Journal, RecoveryError> {
        open_with_result(&self.config, Arc::clone(&self.opener) as _)
    }

    #[track_caller]
    fn refusal(&self) -> RecoveryError {
        self.open().unwrap_err()
    }
}

fn open_with_result(config: &Config, opener: Arc<dyn Opener>) -> Result<Journal, RecoveryError> {
    Journal::open_with(
        config,
        options(),
        Arc::new(SystemClock::new()),
        &Supervisor::new(),
        opener,
    )
}

/// The groups lie in blocks 0, 1 and 2, and 3. Damage to the last cannot be told from a write that was torn; any other
/// is told, since a page of a later group is there.
#[test]
fn damage_in_the_log_is_told_and_a_torn_last_group_is_not_there() {
    for block in 0..4 {
        for at in [0, 9, 45, 50, 80, 110, 244] {
            let killed = Killed::new();
            killed.change("wal", |ring| ring[block * BLOCK_BYTES + at] ^= 0x10);
            if block == 3 {
                assert_holds(&killed.open().unwrap(), killed.ends[1]);
                continue;
            }
            let refusal = killed.refusal();
            let told = refusal.to_string();
            assert!(
                matches!(refusal, RecoveryError::LostTail { .. }) && told.contains("/wal"),
                "block {block}, byte {at}: {told}"
            );
        }
    }
    let killed = Killed::new();
    killed.change("wal", |ring| ring[4 * BLOCK_BYTES..].fill(0xe9));
    assert_holds(&killed.open().unwrap(), killed.ends[2]);
}

#[test]
fn a_log_that_vanished_or_was_cut_or_is_anothers_is_told() {
    let is_damaged = |error: &RecoveryError, name: &str| matches!(error, RecoveryError::CorruptRecord { path, .. } if path.ends_with(name));
    let killed = Killed::new();
    fs::rename(
        killed.folder.path().join("wal"),
        killed.folder.path().join("x"),
    )
    .unwrap();
    assert!(is_damaged(&killed.refusal(), "wal"));
    fs::rename(
        killed.folder.path().join("x"),
        killed.folder.path().join("wal"),
    )
    .unwrap();

    let whole = ring(killed.folder.path());
    killed.change("wal", |ring| ring.truncate(63 * BLOCK_BYTES));
    assert!(is_damaged(&killed.refusal(), "wal"));
    fs::write(killed.folder.path().join("wal"), &whole).unwrap();

    let facts = fs::read(killed.folder.path().join("wal-facts")).unwrap();
    killed.change("wal-facts", |facts| facts[20] ^= 1);
    assert!(is_damaged(&killed.refusal(), "wal-facts"));
    fs::remove_file(killed.folder.path().join("wal-facts")).unwrap();
    assert!(is_damaged(&killed.refusal(), "wal-facts"));
    fs::remove_file(killed.folder.path().join("wal")).unwrap();
    assert!(is_damaged(&killed.refusal(), "wal-facts"));
    fs::write(killed.folder.path().join("wal"), &whole).unwrap();

    let of_another = Facts {
        journal_id: identity().journal_id,
        size_bytes: 64 * BLOCK,
    };
    fs::write(
        killed.folder.path().join("wal-facts"),
        of_another.to_bytes(),
    )
    .unwrap();
    let error = killed.refusal();
    assert!(
        matches!(error, RecoveryError::SettingsMismatch { .. }),
        "{error}"
    );

    // Nothing of this has changed anything.
    fs::write(killed.folder.path().join("wal-facts"), facts).unwrap();
    assert_holds(&killed.open().unwrap(), killed.ends[2]);
}

#[test]
fn a_log_of_a_newer_version_is_refused_by_name() {
    let killed = Killed::new();
    let before = ring(killed.folder.path());
    killed.change("wal", |ring| {
        let length = Page::parse_prefix(ring).unwrap().bytes().len();
        let page = &mut ring[..length];
        page[8] = 2;
        page[44..48].fill(0);
        let crc = crc32fast::hash(page);
        page[44..48].copy_from_slice(&crc.to_le_bytes());
    });
    let error = killed.refusal();
    assert!(
        matches!(error, RecoveryError::NewerFormat { found: 2, .. }),
        "{error}"
    );
    fs::write(killed.folder.path().join("wal"), before).unwrap();
    killed.change("wal-facts", |facts| {
        facts[10] = 2;
        let end = facts.len() - 4;
        let crc = crc32fast::hash(&facts[..end]);
        facts[end..].copy_from_slice(&crc.to_le_bytes());
    });
    let error = killed.refusal();
    assert!(
        matches!(error, RecoveryError::NewerFormat { found: 2, .. }),
        "{error}"
    );
}

#[test]
fn behind_a_clean_stop_the_log_holds_nothing_that_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let config = logged(folder.path(), 16);
    let mut journal = open(&config);
    let last = commit(&mut journal, 50);
    journal.close().unwrap();
    for name in ["wal", "wal-facts"] {
        fs::remove_file(folder.path().join(name)).unwrap();
        let journal = try_open(&config, &options()).unwrap();
        assert_holds(&journal, last);
        journal.close().unwrap();
    }
    let mut journal = open(&config);
    let last = commit(&mut journal, 5);
    drop(journal);
    assert_holds(&open(&config), last);
}

/// Half a ring, and one whose record was not written yet.
#[test]
fn a_kill_while_the_log_is_made_leaves_nothing_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let unlogged = logged(folder.path(), 0);
    let mut journal = open(&unlogged);
    let last = commit(&mut journal, 5);
    drop(journal);
    fs::write(folder.path().join("wal.tmp"), [0; 99]).unwrap();
    fs::write(folder.path().join("wal"), vec![0; 3 * BLOCK_BYTES]).unwrap();
    let mut journal = open(&logged(folder.path(), 8));
    assert_holds(&journal, last);
    assert_eq!(ring(folder.path()).len(), 8 * BLOCK_BYTES);
    let last = commit(&mut journal, 5);
    drop(journal);
    // Without a log again, and with it: what it still holds is of no use, and does no harm.
    let mut journal = open(&unlogged);
    assert_holds(&journal, last);
    let last = commit(&mut journal, 9);
    drop(journal);
    assert_holds(&open(&logged(folder.path(), 8)), last);
}

/// An operator takes away what is not used; so does the program, what is left of a start that was killed included.
#[test]
fn a_log_that_is_turned_off_is_taken_away_and_missed_by_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (ring, half) = (folder.path().join("wal"), folder.path().join("wal.tmp"));
    let (logged, unlogged) = (logged(folder.path(), 8), logged(folder.path(), 0));
    let mut journal = open(&logged);
    commit(&mut journal, 3);
    drop(journal);
    fs::write(&half, [0; 99]).unwrap();
    drop(open(&logged));
    assert!(ring.exists() && !half.exists());
    fs::write(&half, [0; 99]).unwrap();
    let mut journal = open(&unlogged);
    assert!(!ring.exists() && !half.exists());
    let last = commit(&mut journal, 3);
    drop(journal);
    assert_holds(&open(&unlogged), last);
    // What cannot be taken away is in nobody's way, and may be taken away by anyone.
    drop(open(&logged));
    fs::create_dir(&half).unwrap();
    drop(open(&unlogged));
    assert!(ring.exists());
    fs::remove_dir(&half).unwrap();
    fs::remove_file(&ring).unwrap();
    assert_holds(&open(&unlogged), last);
    drop(open(&logged));
    assert_holds(&open(&logged), last);
}

/// Random groups, lengths of the log, faults of either side and crashes, one history after the other on the same disk:
/// what was acknowledged is there, what was not is whole or absent, and nothing that was left over comes back.
#[test]
fn nothing_acknowledged_is_lost_whatever_the_log_still_holds() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let folder = tempfile::tempdir().unwrap();
        let mut opener = Arc::new(MemOpener::default());
        let mut acknowledged = Sequence::ORIGIN;
        let mut doubtful = Sequence::ORIGIN;
        for round in 0..8 {
            let blocks = [0, 1, 2, 5, 16, 64][usize::try_from(random.below(6)).unwrap()];
            let config = Config {
                volume_pages_max: 1 + random.below(12),
                ..logged(folder.path(), blocks)
            };
            let (planned, plan) = planned(Arc::clone(&opener) as _);
            let mut journal = open_with(&config, &options(), planned).unwrap();
            let found = journal.durable();
            assert!(
                found == acknowledged || found == doubtful,
                "seed {seed}, round {round}: {found}, {acknowledged} was acknowledged"
            );
            assert_holds(&journal, found);
            acknowledged = found;
            doubtful = found;
            let lane = if random.bit() {
                Lane::Writer
            } else {
                Lane::Drain
            };
            let faults = [Fault::Fail, Fault::Late, Fault::Panic, Fault::Slow];
            let fault = faults[usize::try_from(random.below(4)).unwrap()];
            if fault != Fault::Panic || lane == Lane::Drain {
                plan.arm(lane, 1 + random.below(40), fault);
            }
            let cipher = IdCipher::new(&journal.settings().id_key);
            for _ in 0..random.below(20) {
                let most = [1, 8, 60, 200][usize::try_from(random.below(4)).unwrap()];
                let count = usize::try_from(1 + random.below(most)).unwrap();
                let entries = transfers(&cipher, acknowledged, count);
                doubtful = entries.last().unwrap().last();
                match journal.commit(entries) {
                    Ok(group) => acknowledged = group.last(),
                    Err(_) => break,
                }
            }
            let crash = match random.below(3) {
                0 => Crash::Kill,
                1 => Crash::Cut,
                _ => Crash::Torn(random.below(1 << 40)),
            };
            opener = Arc::new(opener.after(crash, folder.path(), folder.path()));
            plan.end();
            drop(journal);
        }
    }
}
