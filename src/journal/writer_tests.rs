use super::super::faulty::{Fault, FaultyOpener, Lane, Plan};
use super::super::memory::{Crash, MemOpener};
use super::super::testing::{
    assert_holds, commit, open, open_with, options, small, transfers, try_open,
};
use super::*;
use crate::clock::{Clock, SystemClock};
use std::fs;

/// Stores in memory behind a plan that does nothing yet.
fn faulty() -> (Arc<FaultyOpener>, Arc<Plan>) {
    let plan = Arc::new(Plan::default());
    let opener = FaultyOpener::new(Arc::new(MemOpener::default()), Arc::clone(&plan));
    (Arc::new(opener), plan)
}

#[test]
fn what_was_committed_is_there_after_a_clean_stop_and_after_none() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(folder.path());
    let mut journal = open(&config);
    commit(&mut journal, 1);
    let last = commit(&mut journal, 100);
    let first_bytes = 104 + 141;
    let bytes = journal.last_commit().size_bytes + first_bytes;
    assert_eq!(journal.reader().size_bytes(), u64::try_from(bytes).unwrap());
    journal.close().unwrap();
    assert!(folder.path().join("stop").exists());

    let mut journal = open(&config);
    assert!(!folder.path().join("stop").exists());
    assert_eq!(journal.durable(), last);
    assert_holds(&journal, last);
    let last = commit(&mut journal, 7);
    drop(journal);

    let journal = open(&config);
    assert_holds(&journal, last);
}

#[test]
fn a_second_process_is_told_who_has_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(folder.path());
    let journal = open(&config);
    let error = try_open(&config, &options()).unwrap_err();
    match error {
        RecoveryError::Locked { pid, .. } => assert_eq!(*pid, *std::process::id().to_string()),
        other => panic!("{other}"),
    }
    drop(journal);
    drop(open(&config));
}

#[test]
fn volumes_follow_each_other_and_all_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let config = small(folder.path());
    let mut journal = open(&config);
    let mut last = Sequence::ORIGIN;
    let mut rotations = 0;
    for round in 0_u32.. {
        last = commit(&mut journal, 40);
        rotations += usize::from(journal.take_rotation().is_some());
        if rotations == 5 {
            break;
        }
        assert!(round < 100_000, "only {rotations} rotations");
    }
    assert_holds(&journal, last);
    let reader = journal.reader();
    let verified = reader.verify().unwrap();
    assert_eq!((verified.oldest, verified.newest), (Sequence::new(1), last));
    assert_eq!(verified.head_hash, reader.witness().head_hash);
    assert_eq!(verified.entries, last.get() / 4);
    assert!(verified.volumes >= 6);
    assert!((1..=config.closed_volumes_open_max).contains(&reader.shared.volumes.open_count()));
    let middle = Sequence::new(last.get() / 2);
    let entry = reader.entry_covering(middle).unwrap().unwrap();
    assert!(entry.first <= middle && middle <= entry.last());
    journal.close().unwrap();
    // Readers go on after the close, and hold the folder until they are gone.
    assert_eq!(reader.entry_covering(last).unwrap().unwrap().last(), last);
    assert!(matches!(
        try_open(&config, &options()),
        Err(RecoveryError::Locked { .. })
    ));
    drop(reader);

    let journal = open(&config);
    assert_holds(&journal, last);
    assert!(fs::read_dir(folder.path().join("volumes")).unwrap().count() >= 6);
}

#[test]
fn there_is_no_further_hand_over_before_a_base_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let config = small(folder.path());
    let mut journal = open(&config);
    commit(&mut journal, 1);
    // A folder where the new base is prepared: its making fails as on a full disk.
    let blocked = folder.path().join("volumes/0000000002/base.tmp");
    fs::create_dir_all(&blocked).unwrap();
    let patience = SystemClock::new();
    while journal.reader().witness().volume < 2 {
        commit(&mut journal, 40);
    }
    // The background has long opened the third volume, and would have retired the first.
    while !folder.path().join("volumes/0000000003/sled/db").exists() {
        assert!(patience.monotonic() < Duration::from_mins(1));
        std::thread::yield_now();
    }
    for _ in 0..200 {
        commit(&mut journal, 40);
    }
    assert_eq!(journal.reader().witness().volume, 2);
    fs::remove_dir(blocked).unwrap();
    while journal.reader().witness().volume < 3 {
        assert!(patience.monotonic() < Duration::from_mins(1));
        commit(&mut journal, 1);
    }
    let last = commit(&mut journal, 1);
    drop(journal);
    assert_holds(&open(&config), last);
}

/// A commit makes these calls, each of which may be the one that fails: a write and a sync of the log; without one the
/// making of places, so many inserts, one flush, one sync.
#[test]
fn a_failure_at_any_step_poisons_and_nothing_is_said() {
    let of_store = [
        "prepare", "insert", "insert", "insert", "insert", "flush", "sync",
    ];
    failures_poison(0, &of_store, 5);
    failures_poison(1 << 16, &["write", "sync"], 1);
}

/// Behind the first so many calls the group is there whole.
#[track_caller]
fn failures_poison(wal_bytes: u64, stages: &[&str], partial: usize) {
    for fault_at in 1..=stages.len() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            wal_bytes,
            ..Config::new(folder.path())
        };
        let (opener, plan) = faulty();
        let mut journal = open_with(&config, &options(), Arc::clone(&opener) as _).unwrap();
        let mut follower = journal.follow("test", Sequence::ORIGIN, 1 << 20);
        let durable = commit(&mut journal, 1);
        assert!(follower.next(Duration::ZERO).unwrap().is_some());
        plan.arm(Lane::Writer, fault_at as u64, Fault::Fail);
        let cipher = IdCipher::new(&journal.settings().id_key);
        let group = transfers(&cipher, durable, 100);
        let error = journal.commit(group.clone()).unwrap_err();
        let StoreError::Poisoned { stage, .. } = &error;
        assert_eq!(*stage, stages[fault_at - 1]);
        assert_eq!(journal.durable(), durable);
        assert_eq!(journal.reader().read_after(durable, 1 << 20).unwrap(), []);
        assert!(follower.next(Duration::ZERO).unwrap().is_none());
        assert_eq!(journal.reader().witness().durable, durable);
        // The store works again, and yet nothing is accepted.
        plan.heal();
        let again = journal.commit(group).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
        assert_eq!(journal.close().unwrap_err().to_string(), error.to_string());
        drop(follower);
        // The pages of the group that did not end are dropped, or the whole group is there: never a part.
        let mut journal = open_with(&config, &options(), opener).unwrap();
        let whole = durable.plus(400);
        assert!(
            [durable, whole].contains(&journal.durable()),
            "{}",
            journal.durable()
        );
        assert_eq!(journal.durable() == whole, fault_at > partial);
        let last = commit(&mut journal, 3);
        assert_holds(&journal, last);
    }
}

#[test]
fn a_gap_is_refused_and_poisons() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(&Config::new(folder.path()));
    let cipher = IdCipher::new(&journal.settings().id_key);
    let error = journal
        .commit(transfers(&cipher, Sequence::new(4), 1))
        .unwrap_err();
    assert!(matches!(
        error,
        StoreError::Poisoned {
            stage: "encode",
            ..
        }
    ));
    assert!(
        journal
            .commit(transfers(&cipher, Sequence::ORIGIN, 1))
            .is_err()
    );
}

#[test]
fn the_watchdog_sees_a_sync_that_does_not_return() {
    let folder = tempfile::tempdir().unwrap();
    let (opener, plan) = faulty();
    let mut journal = open_with(&Config::new(folder.path()), &options(), opener).unwrap();
    let reader = journal.reader();
    assert_eq!(reader.sync_age(), Duration::ZERO);
    // Write, sync.
    plan.arm(Lane::Writer, 2, Fault::Freeze);
    let writer = std::thread::Builder::new()
        .spawn(move || {
            commit(&mut journal, 1);
        })
        .unwrap();
    let patience = SystemClock::new();
    // A call that has not begun to stand still would not notice that it may go on.
    while !plan.is_frozen(Lane::Writer) || reader.sync_age() == Duration::ZERO {
        assert!(
            patience.monotonic() < Duration::from_secs(20),
            "no sync is seen"
        );
        std::thread::yield_now();
    }
    assert_eq!(reader.durable().get(), Sequence::ORIGIN);
    plan.thaw();
    writer.join().unwrap();
    assert_eq!(reader.sync_age(), Duration::ZERO);
    assert_eq!(reader.durable().get(), Sequence::new(4));
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_also_across_volumes() {
    let folder = tempfile::tempdir().unwrap();
    let config = small(folder.path());
    let mut opener = Arc::new(MemOpener::default());
    let mut last = Sequence::ORIGIN;
    let mut volume = 0;
    for (count, calls) in [(1, 1), (40, 2), (7, 1), (300, 2), (2, 1), (90, 2)] {
        let plan = Arc::new(Plan::default());
        let faulty = Arc::new(FaultyOpener::new(
            Arc::clone(&opener) as _,
            Arc::clone(&plan),
        ));
        let mut journal = open_with(&config, &options(), faulty).unwrap();
        assert_eq!(journal.durable(), last);
        for _ in 0..10 {
            last = commit(&mut journal, count);
        }
        volume = journal.reader().witness().volume;
        // The last group is perhaps written, and never synced.
        plan.arm(Lane::Writer, calls, Fault::Fail);
        let cipher = IdCipher::new(&journal.settings().id_key);
        assert!(journal.commit(transfers(&cipher, last, 1)).is_err());
        drop(journal);
        opener = Arc::new(opener.after(Crash::Cut, folder.path(), folder.path()));
        let journal = open_with(&config, &options(), Arc::clone(&opener) as _).unwrap();
        assert_eq!(journal.durable(), last);
        assert_holds(&journal, last);
        journal.close().unwrap();
    }
    assert!(volume > 1, "no rotation");
}
