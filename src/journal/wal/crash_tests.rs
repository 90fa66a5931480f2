//! Crashes between the log and the stores, and in the recovery from them: groups that are in neither of the two whole.

use super::super::codec::Encoder;
use super::super::faulty::{Fault, Lane};
use super::super::memory::{Crash, MemOpener};
use super::super::page::{MAGIC, NO_PAGE};
use super::super::raw::{self, RawScan};
use super::super::testing::{
    assert_holds, cipher, commit, identity, open, open_with, options, transfers, try_open,
};
use super::super::volume::Layout;
use super::super::{Body, Config, Entry, Journal};
use super::tests::{BLOCK, PlanGuard, logged, planned, ring, undrained, wait_until};
use super::*;
use crate::clock::SystemClock;
use crate::ids::IdCipher;
use crate::tasks::Supervisor;
use std::fs;
use std::path::Path;

/// Transfers that fill so many pages.
const fn filling(pages: usize) -> usize {
    pages * 26
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else if let Err(error) = fs::copy(entry.path(), target) {
            // Renamed meanwhile.
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
    }
}

/// A journal in the middle of its life.
struct Running {
    folder: tempfile::TempDir,
    opener: Arc<MemOpener>,
    journal: Option<Held>,
    plan: PlanGuard,
    last: Sequence,
}

/// Who has the journal: the test, or a thread that is in a commit.
#[expect(dead_code, reason = "kept open")]
enum Held {
    Here(Box<Journal>),
    By(std::thread::JoinHandle<Journal>),
}

/// What a crash left, as often as one likes.
struct Left {
    folder: tempfile::TempDir,
    opener: Arc<MemOpener>,
    config: Config,
}

impl Left {
    /// Of the data in `folder`, whose process goes on.
    fn of(folder: &Path, opener: &MemOpener, config: &Config, crash: Crash) -> Self {
        let target = tempfile::tempdir().unwrap();
        copy_folder(folder, target.path());
        Self {
            opener: Arc::new(opener.after(crash, folder, target.path())),
            config: Config {
                data_dir: target.path().into(),
                ..config.clone()
            },
            folder: target,
        }
    }

    fn again(&self, crash: Crash) -> Self {
        Self::of(self.folder.path(), &self.opener, &self.config, crash)
    }

    /// Opens it with a fault at the `nth` call of the recovery; whether that was reached.
    fn fail_at(&self, nth: u64, fault: Fault) -> bool {
        let (opener, plan) = planned(Arc::clone(&self.opener) as _);
        plan.arm(Lane::Writer, nth, fault);
        let journal = open_with(&self.config, &options(), opener);
        plan.end();
        drop(journal);
        plan.has_fired(Lane::Writer)
    }

    #[track_caller]
    fn assert_holds(&self, last: Sequence, what: &str) {
        match open_with(&self.config, &options(), Arc::clone(&self.opener) as _) {
            Ok(journal) => assert_holds(&journal, last),
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

impl Running {
    /// The beginning of a group was settled, let go of by the log and written over; its end and the beginning of the next are
    /// on their way to the store, which stands still at the sync. All were acknowledged. The group is the first of a volume,
    /// or so short that it and the beginning of the next can be put back without a sync in between.
    fn with_a_group_in_two_places(opener: MemOpener, is_first_of_volume: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            volume_pages_max: if is_first_of_volume { 1 } else { 1_000 },
            ..logged(folder.path(), 64)
        };
        let opener = Arc::new(opener);
        let (mut journal, plan) = undrained(&config, Arc::clone(&opener) as _);
        commit(&mut journal, 1);
        let volumes = Arc::clone(&journal.reader().shared.volumes);
        wait_until("the next volume is there", || volumes.is_next_ready());
        let groups: &[usize] = if is_first_of_volume {
            &[40, 18]
        } else {
            &[20, 20, 18]
        };
        let mut pages = 0;
        for group in groups {
            commit(&mut journal, filling(*group));
            pages += journal.last_commit().pages;
        }
        assert!((55..=60).contains(&pages), "{pages}");
        wait_until("the drain begins", || plan.is_frozen(Lane::Drain));
        // It stands at the first page, which is settled by itself, as that of the next volume is; then come two batches.
        let calls = 2 + pages + 2 + 2 + if is_first_of_volume { 2 } else { 0 };
        let volume = 1 + u64::from(is_first_of_volume);
        assert_eq!(journal.reader().witness().volume, volume);
        plan.arm(Lane::Drain, u64::try_from(calls).unwrap(), Fault::Freeze);
        plan.thaw();
        wait_until("the second batch is synced", || plan.is_frozen(Lane::Drain));
        let last = commit(&mut journal, filling(35));
        Self {
            folder,
            opener,
            journal: Some(Held::Here(Box::new(journal))),
            plan,
            last,
        }
    }

    fn crashed(&self, crash: Crash) -> Left {
        let config = logged(self.folder.path(), 64);
        Left::of(self.folder.path(), &self.opener, &config, crash)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.plan.end();
        if let Some(Held::By(writer)) = self.journal.take() {
            let _ = writer.join();
        }
    }
}

#[test]
fn a_group_that_lies_in_part_in_the_log_and_in_part_in_the_store_comes_back() {
    for is_first in [false, true] {
        let running = Running::with_a_group_in_two_places(MemOpener::default(), is_first);
        let torn = (0..24).map(Crash::Torn);
        for crash in torn.chain([Crash::Cut, Crash::Kill]) {
            let left = running.crashed(crash);
            left.assert_holds(running.last, &format!("{is_first}, {crash:?}"));
        }
    }
}

/// What it removed from the store is nowhere else any more, but in the copy that it began with.
#[test]
fn a_recovery_that_ends_at_any_call_time_and_again_loses_nothing() {
    let crashes = [Crash::Torn(1), Crash::Kill, Crash::Torn(2), Crash::Cut];
    let firsts = [Crash::Cut, Crash::Torn(5), Crash::Cut, Crash::Torn(9)];
    for (number, first) in (0..).zip(firsts) {
        let opener = MemOpener::using_space_again();
        let running = Running::with_a_group_in_two_places(opener, number >= 2);
        let left = running.crashed(first);
        for nth in (1 + number..).step_by(5) {
            let crash = match crashes[usize::try_from(nth % 4).unwrap()] {
                Crash::Torn(seed) => Crash::Torn(seed + nth + number),
                crash => crash,
            };
            let once = left.again(Crash::Kill);
            if !once.fail_at(nth, Fault::Late) {
                break;
            }
            let twice = once.again(crash);
            let what = format!("crash {number}, call {nth}, {crash:?}");
            twice.again(Crash::Kill).assert_holds(running.last, &what);
            let _ = twice.fail_at(nth / 2 + 3, Fault::Fail);
            let thrice = twice.again(Crash::Torn(nth));
            thrice.assert_holds(running.last, &format!("{what}, and again"));
        }
    }
}

/// Transfers that fill fewer than 64 pages, with texts of that length.
fn with_texts(cipher: &IdCipher, after: Sequence, text_bytes: usize) -> Vec<Entry> {
    let mut entries = transfers(cipher, after, 60 * 3_900 / (105 + text_bytes));
    for entry in &mut entries {
        if let Body::Transfer(movement) = &mut entry.body {
            movement.metadata = Some("x".repeat(text_bytes).into());
        }
    }
    entries
}

/// A journal that has filled its log once, and stands still before the sync of a group of some sixty pages, whose texts
/// have that length.
fn writing_a_second_lap(text_bytes: usize) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let opener = Arc::new(MemOpener::default());
    let (opener_with_plan, plan) = planned(Arc::clone(&opener) as _);
    let config = logged(folder.path(), 64);
    let mut journal = open_with(&config, &options(), opener_with_plan).unwrap();
    let cipher = IdCipher::new(&journal.settings().id_key);
    let entries = with_texts(&cipher, Sequence::ORIGIN, 1_500);
    let mut last = journal.commit(entries).unwrap().last();
    // One block each: the next group begins with the ring.
    let used = journal.last_commit().size_bytes.div_ceil(BLOCK_BYTES);
    for _ in used..64 {
        last = commit(&mut journal, 1);
    }
    wait_until("it is drained", || journal.reader().undrained_bytes() == 0);
    plan.arm(Lane::Writer, 2, Fault::Freeze);
    let entries = with_texts(&cipher, last, text_bytes);
    let frozen = Arc::clone(&plan);
    let writer = std::thread::Builder::new();
    let writer = writer.spawn(move || {
        let _never = journal.commit(entries);
        journal
    });
    wait_until("the sync is called", || frozen.is_frozen(Lane::Writer));
    Running {
        folder,
        opener,
        journal: Some(Held::By(writer.unwrap())),
        plan: PlanGuard(plan),
        last,
    }
}

/// On its second lap the log tears over old pages: whatever stands where a header's second half should be is no version.
#[test]
fn a_torn_write_over_older_pages_is_no_newer_format() {
    // Such texts that a page begins where a sector ends with the magic, or with the first byte of the version.
    let has_such_a_page = |text_bytes: &usize| {
        let entries = with_texts(&cipher(), Sequence::ORIGIN, *text_bytes);
        let mut encoder = Encoder::default();
        let head = encoder.encode(identity(), &cipher(), &entries, entries[0].first, NO_PAGE);
        head.unwrap();
        let mut at = 0;
        let borders = encoder.pages().filter(|(_, page)| {
            let is_at_border = matches!(at % 512, 503 | 504);
            at += page.len();
            is_at_border
        });
        borders.count() >= 1
    };
    let text_bytes = (20..400).find(has_such_a_page).unwrap();
    let running = writing_a_second_lap(text_bytes);
    for seed in 0..64 {
        let left = running.crashed(Crash::Torn(seed));
        let journal = open_with(&left.config, &options(), Arc::clone(&left.opener) as _);
        let journal = journal.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(journal.durable(), running.last);
    }
}

/// The same, at each place where the border of a sector can lie in a header.
#[test]
fn a_torn_header_is_no_newer_format() {
    for at in 502..512 {
        let folder = tempfile::tempdir().unwrap();
        let config = logged(folder.path(), 8);
        let opener = Arc::new(MemOpener::default());
        let (mut journal, plan) = undrained(&config, Arc::clone(&opener) as _);
        let last = commit(&mut journal, 3);
        let left = Left::of(folder.path(), &opener, &config, Crash::Cut);
        let path = left.folder.path().join("wal");
        let mut bytes = fs::read(&path).unwrap();
        let torn = 3 * BLOCK_BYTES + at;
        bytes[torn..4 * BLOCK_BYTES].fill(0xee);
        bytes[torn..torn + MAGIC.len()].copy_from_slice(&MAGIC);
        fs::write(path, bytes).unwrap();
        left.assert_holds(last, &format!("at {at}"));
        plan.end();
        drop(journal);
    }
}

/// Its pages lie in the data file and in the log, and in what an earlier recovery left as well.
#[test]
fn the_search_for_an_incomplete_group_ends_however_often_its_pages_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(&logged(folder.path(), 64));
    let identity = journal.settings().identity;
    commit(&mut journal, 1);
    let head = journal.reader().witness();
    commit(&mut journal, filling(60));
    let end = head.durable;
    let (_, store) = journal.reader().shared.volumes.holding(end).unwrap();
    let pages = store.pages_from(end.next(), 100).unwrap();
    let (_, incomplete) = pages.split_last().unwrap();
    let bytes: Vec<u8> = incomplete
        .iter()
        .flat_map(|page| page.bytes.to_vec())
        .collect();
    let path = folder.path().join("scanned");
    fs::write(&path, bytes).unwrap();
    let scan = RawScan::of(&path, identity, None).unwrap();
    assert!(scan.page_count() > 40);
    assert!(raw::group_behind(&[&scan, &scan, &scan], end, head.head_hash).is_none());
}

/// Programs of before there was a log know version 1 of the settings only.
#[test]
fn an_older_program_is_refused_while_the_log_may_hold_more_than_the_volumes() {
    let folder = tempfile::tempdir().unwrap();
    let config = logged(folder.path(), 8);
    let version = || {
        let layout = Layout {
            data_dir: folder.path().into(),
        };
        super::super::record::version_of(&layout.settings()).unwrap()
    };
    let mut journal = open(&config);
    assert_eq!(version(), 2);
    let last = commit(&mut journal, 3);
    journal.close().unwrap();
    assert_eq!(version(), 1);
    let mut journal = open(&config);
    let last = commit(&mut journal, 3).max(last);
    drop(journal);
    assert_eq!(version(), 2);
    // A currency more changes the record, and nothing about this.
    let mut more = options();
    let mut rows = more.currencies.rows().to_vec();
    rows.push(crate::types::CurrencyInfo {
        currency: crate::types::Currency::from_tag(77),
        code: "XTS".into(),
        exponent: 2,
    });
    more.currencies = crate::types::Currencies::new(rows).unwrap();
    // The start ends behind that, since no log can be made.
    let in_the_way = folder.path().join("wal.tmp");
    fs::create_dir(&in_the_way).unwrap();
    assert!(try_open(&logged(folder.path(), 9), &more).is_err());
    assert_eq!(version(), 2);
    fs::remove_dir(in_the_way).unwrap();
    // Without a log everything goes to the volumes.
    let journal = try_open(&logged(folder.path(), 0), &more).unwrap();
    assert_eq!(version(), 1);
    assert_holds(&journal, last);
}

/// A clean stop excuses a log that is gone; the start behind it may be killed before there is a new one.
#[test]
fn a_start_that_ends_before_the_log_is_made_anew_stands_in_nobodys_way() {
    let gone_and_version: [(&[&str], u16); 4] = [
        (&["wal"], 1),
        (&["wal-facts"], 1),
        (&["wal", "wal-facts"], 1),
        // The stop before ended between its witness and the settings.
        (&["wal", "wal-facts"], 2),
    ];
    for (gone, version) in gone_and_version {
        for step in ["wal-facts.tmp", "wal.tmp"] {
            let folder = tempfile::tempdir().unwrap();
            let config = logged(folder.path(), 8);
            let mut journal = open(&config);
            let last = commit(&mut journal, 3);
            let settings = journal.settings().clone();
            journal.close().unwrap();
            for name in gone {
                fs::remove_file(folder.path().join(name)).unwrap();
            }
            if version == 2 {
                let path = folder.path().join("settings");
                settings.refuse_older(&path).unwrap();
            }
            let in_the_way = folder.path().join(step);
            fs::create_dir(&in_the_way).unwrap();
            assert!(try_open(&config, &options()).is_err());
            fs::remove_dir(in_the_way).unwrap();
            assert_holds(&open(&config), last);
        }
    }
}

#[test]
fn a_disk_without_room_for_a_log_is_written_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = logged(folder.path(), 8);
    let half = folder.path().join("wal.tmp");
    std::os::unix::fs::symlink("/dev/full", &half).unwrap();
    let mut journal = open(&config);
    assert!(!half.is_symlink(), "it is taken away");
    assert!(!folder.path().join("wal").exists());
    let last = commit(&mut journal, 3);
    drop(journal);
    // A longer one than the one that is there.
    drop(open(&config));
    std::os::unix::fs::symlink("/dev/full", &half).unwrap();
    let mut journal = open(&logged(folder.path(), 9));
    assert_eq!(ring(folder.path()).len(), 8 * BLOCK_BYTES);
    let last = commit(&mut journal, 3).max(last);
    drop(journal);
    assert_holds(&open(&config), last);
}

#[test]
fn a_log_that_cannot_be_drained_stops_an_idle_process() {
    for fault in [Fault::Fail, Fault::Panic] {
        let folder = tempfile::tempdir().unwrap();
        let (opener, plan) = planned(Arc::new(MemOpener::default()));
        plan.arm(Lane::Drain, 2, fault);
        let supervisor = Supervisor::new();
        let mut journal = Journal::open_with(
            &Config {
                wal_bytes: 8 * BLOCK,
                ..Config::new(folder.path())
            },
            options(),
            Arc::new(SystemClock::new()),
            &supervisor,
            opener,
        )
        .unwrap();
        let last = commit(&mut journal, 1);
        wait_until("the process is told to stop", || {
            supervisor.failure().is_some()
        });
        assert!(journal.reader().has_log_failed());
        assert_holds(&journal, last);
    }
}
