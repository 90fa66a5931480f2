use super::super::memory::MemOpener;
use super::super::testing::{commit, open_with, options, small, transfer, transfers};
use super::*;
use crate::ids::IdCipher;
use crate::journal::Journal;
use proptest::prelude::*;
use std::path::Path;

const PATIENCE: Duration = Duration::from_secs(20);

fn journal(folder: &Path) -> Journal {
    open_with(&small(folder), &options(), Arc::new(MemOpener::default())).unwrap()
}

/// Takes everything up to the writer's end, checking that each entry behind `after` comes once and in order.
fn drain(follower: &mut Follower, cipher: &IdCipher, pause: impl Fn(usize)) -> (Sequence, usize) {
    let (mut next, mut live) = (follower.position().next(), 0);
    for turn in 0.. {
        pause(turn);
        match follower.next(PATIENCE).unwrap() {
            Some(batch) => {
                live += usize::from(matches!(batch, Batch::Live(_)));
                for entry in batch.entries() {
                    assert!(entry.first <= next, "a hole before {next}");
                    assert!(entry.last() >= next, "{} comes twice", entry.first);
                    assert_eq!(*entry, transfer(cipher, entry.first));
                    next = entry.last().next();
                }
                assert_eq!(follower.position(), next.previous());
            }
            None if follower.is_ended() => break,
            None => panic!("nothing for {PATIENCE:?}"),
        }
    }
    (next.previous(), live)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_entry_comes_once_and_in_order_however_slow_and_narrow(
        groups in proptest::collection::vec(1_usize..60, 1..120),
        after in 0_u64..300,
        queue_bytes in prop_oneof![Just(0), 300_usize..20_000, Just(1 << 20)],
        pauses in proptest::collection::vec(0_u64..3, 8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = journal(folder.path());
        let cipher = IdCipher::new(&journal.settings().id_key);
        // As many as a position may stand behind, so that `after` is never beyond the journal's end.
        commit(&mut journal, 75);
        let mut follower = journal.follow("slow", Sequence::new(after), queue_bytes);
        let (end, _) = std::thread::scope(|scope| {
            let consumer = scope.spawn(|| drain(&mut follower, &cipher, |turn| {
                std::thread::sleep(Duration::from_millis(pauses[turn % pauses.len()]));
            }));
            for count in &groups {
                journal.commit(transfers(&cipher, journal.durable(), *count)).unwrap();
            }
            let durable = journal.durable();
            drop(journal);
            let end = consumer.join().unwrap();
            assert_eq!(end.0, durable);
            end
        });
        prop_assert_eq!(follower.position(), end);
    }
}

#[test]
fn a_follower_that_keeps_up_shares_the_writers_groups() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(folder.path());
    let cipher = IdCipher::new(&journal.settings().id_key);
    let mut follower = journal.follow("live", Sequence::ORIGIN, 1 << 20);
    for _ in 0..10 {
        commit(&mut journal, 3);
    }
    drop(journal);
    let (end, live) = drain(&mut follower, &cipher, |_| {});
    assert_eq!((end.get(), live), (120, 10));
}

#[test]
fn after_an_overflow_the_journal_is_read_and_then_live_groups_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(folder.path());
    let group_bytes = {
        commit(&mut journal, 3);
        journal.last_commit().size_bytes
    };
    let mut follower = journal.follow("narrow", journal.durable(), group_bytes * 2);
    for _ in 0..5 {
        commit(&mut journal, 3);
    }
    let mut take = || follower.next(PATIENCE).unwrap().unwrap();
    assert!(matches!(take(), Batch::Live(_)));
    assert!(matches!(take(), Batch::Live(_)));
    commit(&mut journal, 3);
    // Three groups that found no room, up to the one that found some.
    match take() {
        Batch::Read(entries) => assert_eq!(entries.len(), 9),
        Batch::Live(group) => panic!("{} is not next", group.first()),
    }
    assert!(matches!(take(), Batch::Live(_)));
    assert_eq!(follower.position(), journal.durable());
}

#[test]
fn a_seek_goes_back_and_forward_also_into_the_middle_of_an_entry() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(folder.path());
    let mut follower = journal.follow("seeker", Sequence::ORIGIN, 1 << 20);
    for _ in 0..4 {
        commit(&mut journal, 2);
    }
    follower.next(PATIENCE).unwrap().unwrap();
    follower.seek(Sequence::new(18));
    let batch = follower.next(PATIENCE).unwrap().unwrap();
    assert_eq!(batch.entries()[0].first.get(), 17);
    follower.seek(Sequence::ORIGIN);
    let batch = follower.next(PATIENCE).unwrap().unwrap();
    assert_eq!(batch.entries()[0].first.get(), 1);
}

#[test]
fn a_wake_ends_a_wait() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    let mut follower = journal.follow("sleeper", Sequence::ORIGIN, 1 << 20);
    let waker = follower.waker();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| follower.next(Duration::from_hours(1)).unwrap().is_none());
        waker.wake();
        assert!(waiting.join().unwrap());
    });
    assert!(!follower.is_ended());
    drop(journal);
    assert!(follower.next(PATIENCE).unwrap().is_none());
    assert!(follower.is_ended());
}
