//! One pass over everything: what it hands out, and what it tells of damage in the middle.

use super::super::page::MAGIC;
use super::super::record;
use super::super::settings::Base;
use super::super::testing::{commit, open, options, small, try_open};
use super::super::{Config, Journal};
use super::*;
use crate::clock::{Clock, SystemClock};
use std::fs;
use std::path::{Path, PathBuf};

const GROUPS: usize = 60;
const TRIES_MAX: usize = 20;

/// Keeps all that it hears.
#[derive(Default)]
struct Heard {
    entries: Vec<(Place, Entry)>,
    pages: Vec<(Sequence, [u8; 32])>,
    faults: Vec<(u64, Sequence, String)>,
}

impl Inspector for Heard {
    fn on_entry(&mut self, place: Place, entry: &Entry) {
        self.entries.push((place, entry.clone()));
    }

    fn on_page(&mut self, last: Sequence, hash: [u8; 32]) {
        self.pages.push((last, hash));
    }

    fn on_fault(&mut self, fault: &ReadError) {
        let ReadError::Unreadable {
            volume,
            sequence,
            reason,
        } = fault
        else {
            panic!("{fault}")
        };
        self.faults.push((*volume, *sequence, reason.to_string()));
    }
}

fn inspect(folder: &Path) -> (Heard, Verified) {
    inspect_opened(open(&small(folder)))
}

fn inspect_opened(journal: Journal) -> (Heard, Verified) {
    let mut heard = Heard::default();
    let verified = journal.reader().inspect(&mut heard);
    journal.close().unwrap();
    (heard, verified)
}

/// A closed journal over several volumes.
fn journal_in(folder: &Path) {
    // Without a log: it would take all groups before a volume could be handed over.
    let mut journal = open(&Config {
        wal_bytes: 0,
        ..small(folder)
    });
    let volumes = Arc::clone(&journal.reader().shared.volumes);
    for _ in 0..GROUPS {
        // On a busy machine the next volume may be late, and the one in hand then grows on.
        let patience = SystemClock::new();
        while !volumes.is_next_ready() {
            assert!(patience.monotonic() < Duration::from_mins(1));
            std::thread::yield_now();
        }
        commit(&mut journal, 2);
    }
    drop(volumes);
    journal.close().unwrap();
}

fn base_path(folder: &Path, volume: u64) -> PathBuf {
    folder.join(format!("volumes/{volume:010}/base"))
}

/// The entries of volume 2 are not among them; those of the others are.
#[track_caller]
fn assert_hides_only_the_second(heard: &Heard, whole: &Heard) {
    let others = whole.entries.iter().filter(|(place, _)| place.volume != 2);
    let told = heard.entries.iter().filter(|(place, _)| place.volume != 2);
    assert!(told.eq(others));
    let (volume, sequence, reason) = &heard.faults[0];
    assert_eq!(heard.faults.len(), 1, "{:?}", heard.faults);
    assert_eq!(*volume, 2, "{reason}");
    let mut pages = whole.entries.iter().filter(|(place, _)| place.volume == 2);
    assert!(
        pages.any(|(place, _)| place.page == *sequence),
        "{sequence} begins no page of it: {reason}"
    );
}

#[test]
fn every_entry_and_page_is_handed_out_once_in_order_over_all_volumes() {
    let folder = tempfile::tempdir().unwrap();
    journal_in(folder.path());
    let (heard, verified) = inspect(folder.path());
    assert_eq!(heard.faults, []);
    assert!(verified.volumes >= 3, "{verified:?}");
    assert_eq!(verified.entries, u64::try_from(2 * GROUPS).unwrap());
    let mut replayed = Vec::new();
    let journal = open(&small(folder.path()));
    let end = journal
        .reader()
        .replay(Sequence::ORIGIN, &mut |entry| replayed.push(entry.clone()));
    let entries: Vec<Entry> = heard.entries.into_iter().map(|(_, entry)| entry).collect();
    assert_eq!(entries, replayed);
    assert_eq!(end.unwrap(), verified.newest);
    assert!(heard.pages.is_sorted_by(|one, next| one.0 < next.0));
    let last = (verified.newest, verified.head_hash);
    assert_eq!(heard.pages.last(), Some(&last));
    assert_eq!(journal.reader().verify().unwrap(), verified);
}

/// Over chunks and volumes: from anywhere, and for as long as somebody wants it.
#[test]
fn a_replay_hands_out_what_a_reader_reads_and_ends_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        volume_pages_max: 600,
        ..Config::new(folder.path())
    };
    let mut journal = open(&config);
    for _ in 0..40 {
        commit(&mut journal, 1_000);
    }
    let reader = journal.reader();
    assert!(reader.volumes().len() >= 2);
    let mut after = Sequence::ORIGIN;
    let mut entries = Vec::new();
    while after < journal.durable() {
        entries.extend(reader.read_after(after, 1 << 20).unwrap());
        after = entries.last().unwrap().last();
    }
    for skipped in [0, 1, 7_001, entries.len() - 1, entries.len()] {
        for count in [1, 6_999, entries.len()] {
            let after = skipped.checked_sub(1).map(|at| entries[at].last());
            let mut replayed = Vec::new();
            let end = reader
                .replay_while(after.unwrap_or_default(), &mut |entry| {
                    replayed.push(entry.clone());
                    if replayed.len() == count {
                        return ControlFlow::Break(());
                    }
                    ControlFlow::Continue(())
                })
                .unwrap();
            assert!(replayed.iter().eq(entries.iter().skip(skipped).take(count)));
            assert_eq!(end, journal.durable());
        }
    }
}

#[test]
fn a_base_that_does_not_follow_is_told_and_the_next_volume_is_read() {
    let folder = tempfile::tempdir().unwrap();
    journal_in(folder.path());
    let (whole, _) = inspect(folder.path());
    let path = base_path(folder.path(), 2);
    let base = Base::read(&path).unwrap().unwrap();
    let forged = [
        Base {
            previous_hash: [7; 32],
            ..base.clone()
        },
        Base {
            bytes_before: base.bytes_before + 1,
            ..base.clone()
        },
    ];
    for forged in forged {
        record::replace(&path, &forged.to_bytes()).unwrap();
        let (heard, _) = inspect(folder.path());
        assert!(heard.faults[0].2.contains("base"), "{:?}", heard.faults);
        assert_hides_only_the_second(&heard, &whole);
    }
}

#[test]
fn a_damaged_page_hides_its_volume_from_there_on_and_no_other() {
    for _ in 0..TRIES_MAX {
        let folder = tempfile::tempdir().unwrap();
        journal_in(folder.path());
        let (whole, verified) = inspect(folder.path());
        let path = folder.path().join("volumes/0000000002/sled/db");
        let mut bytes = fs::read(&path).unwrap();
        let starts = bytes.windows(MAGIC.len()).enumerate();
        let starts: Vec<usize> = starts
            .filter(|(_, bytes)| **bytes == MAGIC)
            .map(|(at, _)| at)
            .collect();
        bytes[starts[starts.len() / 2] + 150] ^= 1;
        fs::write(&path, bytes).unwrap();
        // sled may refuse the store as a whole, or show another copy of the page; then once more with another journal.
        let Ok(journal) = try_open(&small(folder.path()), &options()) else {
            continue;
        };
        let mut replayed = Vec::new();
        let end = journal
            .reader()
            .replay(Sequence::ORIGIN, &mut |entry| replayed.push(entry.clone()));
        let (heard, found) = inspect_opened(journal);
        assert_eq!(end.is_err(), !heard.faults.is_empty());
        let before = whole.entries.iter().map(|(_, entry)| entry);
        assert!(replayed.iter().eq(before.take(replayed.len())));
        if heard.faults.is_empty() {
            assert_eq!(heard.entries, whole.entries, "damage that shows, untold");
            continue;
        }
        assert_hides_only_the_second(&heard, &whole);
        assert_eq!(
            (found.newest, found.head_hash),
            (verified.newest, verified.head_hash)
        );
        return;
    }
    panic!("no damaged page was shown by a store that opens");
}
