//! The audit against topics that are held in memory, whole and tampered with.

use super::*;
use crate::journal::entry::{ChainLink, Leg, Movement};
use crate::journal::{Body, Witness};
use crate::pipeline::acks::LastAck;
use crate::pipeline::cursor::PartitionCursor;
use crate::types::{Currency, MinorUnits, TimestampMs, WalletId};
use uuid::Uuid;

const PARTITIONS: u32 = 3;
const TRANSFERS: u64 = 30;
const EVENTS: u64 = 4 * TRANSFERS;

/// A topic in memory: for each partition the offset of its first record, and its records.
#[derive(Clone)]
struct Topic {
    partitions: Vec<(i64, Vec<Record>)>,
    read: Vec<usize>,
}

impl Records for Topic {
    fn range(&self, partition: usize) -> (i64, i64) {
        let (low, records) = &self.partitions[partition];
        (
            *low,
            records.last().map_or(*low, |record| record.offset + 1),
        )
    }

    fn next(&mut self, partition: usize) -> Result<Option<Record>, KafkaTrouble> {
        let at = self.read[partition];
        self.read[partition] += 1;
        Ok(self.partitions[partition].1.get(at).cloned())
    }
}

fn identity() -> JournalIdentity {
    JournalIdentity {
        journal_id: Uuid::from_u128(7),
        epoch: 2,
    }
}

fn ids() -> IdCipher {
    IdCipher::new(b"0123456789abcdef")
}

fn encoder() -> EventEncoder {
    EventEncoder::new(identity(), ids(), Currencies::default())
}

fn journal() -> Vec<Entry> {
    let leg = |wallet: u64| Leg {
        wallet: WalletId::new(Uuid::from_u128(u128::from(wallet) + 1)).unwrap(),
        balance_after: MinorUnits::new(100),
        held_after: MinorUnits::ZERO,
        link: ChainLink::default(),
    };
    let entry = |number: u64| {
        let (first, at) = (
            Sequence::new(4 * number + 1),
            TimestampMs::new(1_000 + number),
        );
        Entry {
            first,
            at,
            idempotency: None,
            batch: None,
            body: Body::Transfer(Movement {
                transaction: ids().transaction_id(first, at),
                from: leg(number % 10),
                to: leg(10 + number % 7),
                currency: Currency::from_tag(1),
                amount: MinorUnits::new(1),
                metadata: None,
            }),
        }
    };
    (0..TRANSFERS).map(entry).collect()
}

/// What the pipeline makes of the journal.
fn shipped(entries: &[Entry]) -> Topic {
    let mut partitions = vec![(0, Vec::new()); 3];
    let mut encoder = encoder();
    for event in entries.iter().flat_map(Entry::events) {
        let key = event.key_wallet().to_string();
        let mut payload = Vec::new();
        encoder.encode(&event, &mut payload);
        let partition = usize::try_from(partition_of(key.as_bytes(), PARTITIONS)).unwrap();
        let records: &mut Vec<Record> = &mut partitions[partition].1;
        records.push(Record {
            offset: i64::try_from(records.len()).unwrap(),
            key: key.into_bytes().into(),
            payload: payload.into(),
        });
    }
    Topic {
        partitions,
        read: vec![0; 3],
    }
}

impl Topic {
    /// Gives the records of a partition offsets in their order, as a log does.
    fn renumber(mut self) -> Self {
        for (low, records) in &mut self.partitions {
            for (record, offset) in records.iter_mut().zip(*low..) {
                record.offset = offset;
            }
        }
        self
    }

    fn of(&mut self, partition: usize) -> &mut Vec<Record> {
        &mut self.partitions[partition].1
    }
}

fn cursor_at(published: u64, topic: &Topic) -> Cursor {
    let place = |(_, records): &(i64, Vec<Record>)| {
        let last = records.last().map(|record| LastAck {
            offset: Some(record.offset),
            sequence: sequence_of(record),
        });
        PartitionCursor {
            last: last.unwrap_or_default(),
            failed: Sequence::ORIGIN,
        }
    };
    Cursor {
        witness: Witness {
            identity: identity(),
            durable: Sequence::new(EVENTS),
            head_hash: [0; 32],
            volume: 1,
            length_bytes: 0,
        },
        published: Sequence::new(published),
        topic: "t".into(),
        cluster_id: None,
        partitions: topic.partitions.iter().map(place).collect(),
    }
}

fn sequence_of(record: &Record) -> Sequence {
    match owner(&record.payload, &Lineage::from(identity())) {
        Owner::Ours(sequence) => sequence,
        other => panic!("{other:?}"),
    }
}

fn audit(mut topic: Topic, cursor: Option<&Cursor>) -> (TopicReport, Vec<TopicFault>) {
    let entries = journal();
    let look_up = |sequence: Sequence| {
        let mut covering = entries.iter();
        let found = covering.find(|entry| entry.first <= sequence && sequence <= entry.last());
        found.cloned()
    };
    let config = Config {
        topic: "t".into(),
        ..Config::default()
    };
    let lineage = Lineage::from(identity());
    let facts = Facts {
        lineage: &lineage,
        encoders: vec![encoder()],
        look_up: &look_up,
    };
    let mut faults = Vec::new();
    let mut tell = |fault| faults.push(fault);
    let mut audit = TopicAudit::new(&config, PARTITIONS, facts, &mut topic, &mut tell);
    audit.check_cursor(cursor);
    for entry in &entries {
        audit.take(entry).unwrap();
    }
    let report = audit.finish().unwrap();
    (report, faults)
}

/// A whole topic, with the cursor at its end.
fn whole() -> (Topic, Cursor) {
    let topic = shipped(&journal());
    let cursor = cursor_at(EVENTS, &topic);
    (topic, cursor)
}

#[test]
fn a_whole_topic_has_every_event_in_place() {
    let (topic, cursor) = whole();
    assert!(
        topic
            .partitions
            .iter()
            .all(|(_, records)| records.len() > 10)
    );
    let (report, faults) = audit(topic, Some(&cursor));
    assert_eq!(faults, []);
    assert_eq!((report.in_place, report.checked_from), (EVENTS, 1));
    assert_eq!((report.repeats, report.not_yet, report.foreign), (0, 0, 0));
}

#[test]
fn each_missing_record_is_found_wherever_it_stood() {
    let (topic, cursor) = whole();
    for partition in 0..3 {
        for at in 0..topic.partitions[partition].1.len() {
            let mut less = topic.clone();
            let gone = sequence_of(&less.of(partition).remove(at));
            let (report, faults) = audit(less, Some(&cursor));
            let missing = TopicFault::Missing {
                partition,
                first: gone,
                last: gone,
                count: 1,
            };
            assert!(faults.contains(&missing), "{faults:?}");
            assert_eq!(report.in_place, EVENTS - 1);
        }
    }
}

#[test]
fn a_run_of_missing_records_is_one_fault() {
    let (mut topic, cursor) = whole();
    let gone: Vec<Record> = topic.of(1).drain(3..9).collect();
    let (_, faults) = audit(topic, Some(&cursor));
    let missing = TopicFault::Missing {
        partition: 1,
        first: sequence_of(&gone[0]),
        last: sequence_of(&gone[5]),
        count: 6,
    };
    assert_eq!(faults, [missing]);
}

#[test]
fn every_changed_byte_of_a_record_is_found() {
    let (topic, cursor) = whole();
    let length = topic.partitions[0].1[4].payload.len();
    for at in 0..length {
        let mut other = topic.clone();
        other.of(0)[4].payload[at] ^= 1;
        let (_, faults) = audit(other, Some(&cursor));
        assert!(!faults.is_empty(), "byte {at}");
    }
    let mut other = topic;
    let (offset, sequence) = (other.of(0)[4].offset, sequence_of(&other.of(0)[4]));
    other.of(0)[4].key[0] ^= 1;
    let (_, faults) = audit(other, Some(&cursor));
    let different = TopicFault::Different {
        partition: 0,
        offset,
        sequence,
        what: "key",
    };
    assert_eq!(faults, [different]);
}

#[test]
fn repeats_are_counted_and_no_fault() {
    let (mut topic, cursor) = whole();
    // What a producer's second life sends again, once at the end and once in the middle.
    let tail: Vec<Record> = topic.of(2)[5..].to_vec();
    topic.of(2).extend(tail.clone());
    let again = topic.of(0)[2..6].to_vec();
    topic.of(0).splice(6..6, again);
    let (report, faults) = audit(topic.renumber(), None);
    assert_eq!(faults, []);
    assert_eq!(report.repeats, u64::try_from(tail.len()).unwrap() + 4);
    assert_eq!(report.in_place, EVENTS);
    assert_eq!(cursor.published.get(), EVENTS);
}

#[test]
fn two_records_that_changed_places_are_found() {
    let (mut topic, cursor) = whole();
    let late = sequence_of(&topic.of(1)[4]);
    topic.of(1).swap(4, 5);
    let (_, faults) = audit(topic.renumber(), Some(&cursor));
    let is_late = |fault: &TopicFault| matches!(fault, TopicFault::OutOfOrder { sequence, .. } if *sequence == late);
    assert!(faults.iter().any(is_late), "{faults:?}");
}

#[test]
fn a_record_in_another_partition_is_found_in_both() {
    let (mut topic, cursor) = whole();
    let moved = topic.of(0).remove(3);
    let sequence = sequence_of(&moved);
    topic.of(1).insert(2, moved);
    let (report, faults) = audit(topic.renumber(), Some(&cursor));
    let wrong = TopicFault::WrongPartition {
        partition: 1,
        offset: 2,
        sequence,
        belongs: 0,
    };
    let missing = TopicFault::Missing {
        partition: 0,
        first: sequence,
        last: sequence,
        count: 1,
    };
    assert!(
        faults.contains(&wrong) && faults.contains(&missing),
        "{faults:?}"
    );
    assert_eq!(report.in_place, EVENTS - 1);
}

#[test]
fn records_of_others_are_counted_and_passed_over() {
    let (mut topic, _) = whole();
    let foreign = Record {
        offset: 0,
        key: b"k".as_slice().into(),
        payload: br#"{"sequence":3,"journal":"no journal"}"#.as_slice().into(),
    };
    topic.of(0).insert(0, foreign.clone());
    topic.of(2).push(foreign);
    let (report, faults) = audit(topic.renumber(), None);
    assert_eq!(faults, []);
    assert_eq!((report.foreign, report.in_place), (2, EVENTS));
}

#[test]
fn an_event_that_the_journal_never_had_is_found() {
    let (mut topic, cursor) = whole();
    let mut invented = topic.of(0)[0].clone();
    let text = String::from_utf8(invented.payload.to_vec()).unwrap();
    let own = format!("\"sequence\":{},", sequence_of(&invented));
    invented.payload = text.replace(&own, "\"sequence\":999,").into_bytes().into();
    topic.of(0).push(invented);
    let (_, faults) = audit(topic.renumber(), Some(&cursor));
    let sequence = Sequence::new(999);
    let unknown = |fault: &TopicFault| matches!(fault, TopicFault::Unknown { sequence: s, .. } if *s == sequence);
    assert!(faults.iter().any(unknown), "{faults:?}");
}

#[test]
fn a_beginning_deleted_by_retention_is_told_and_no_fault() {
    let (mut topic, cursor) = whole();
    topic.of(1).drain(..4);
    topic.partitions[1].0 = 4;
    let first = sequence_of(&topic.of(1)[0]);
    let (report, faults) = audit(topic, Some(&cursor));
    assert_eq!(faults, []);
    assert_eq!((report.deleted, report.checked_from), (4, first.get()));
}

#[test]
fn what_lies_behind_the_cursor_may_be_missing_but_not_before_it() {
    let (mut topic, _) = whole();
    let rest: Vec<Record> = topic.of(0).drain(6..).collect();
    let cut = topic.of(0).len();
    let published = sequence_of(&rest[0]).previous();
    let behind = cursor_at(published.get(), &topic);
    let (report, faults) = audit(topic.clone(), Some(&behind));
    assert_eq!(faults, []);
    assert_eq!(report.not_yet, u64::try_from(rest.len()).unwrap());
    let mut ahead = behind;
    ahead.published = sequence_of(&rest[0]);
    let (_, faults) = audit(topic.clone(), Some(&ahead));
    assert!(
        matches!(faults[..], [TopicFault::Missing { partition: 0, .. }]),
        "{faults:?}"
    );
    // A refused record behind the cursor: later ones arrived.
    topic.of(0).extend(rest.into_iter().skip(1));
    let (report, faults) = audit(
        topic.renumber(),
        Some(&cursor_at(published.get(), &shipped(&[]))),
    );
    assert_eq!(faults, []);
    assert_eq!(report.holes_behind_cursor, 1);
    assert_eq!(cut, 6);
}

#[test]
fn a_log_that_is_not_the_cursors_is_found() {
    let (topic, cursor) = whole();
    let mut shorter = topic.clone();
    let end = i64::try_from(shorter.of(1).len() - 1).unwrap();
    shorter.of(1).pop();
    let (_, faults) = audit(shorter, Some(&cursor));
    let lost = TopicFault::LostRecords {
        partition: 1,
        end,
        acknowledged: end,
    };
    assert!(faults.contains(&lost), "{faults:?}");

    let mut shifted = topic.clone();
    let first = shifted.of(1)[0].clone();
    shifted.of(1).insert(0, first);
    let (_, faults) = audit(shifted.renumber(), Some(&cursor));
    let other = |fault: &TopicFault| matches!(fault, TopicFault::OtherRecord { partition: 1, .. });
    assert!(faults.iter().any(other), "{faults:?}");

    let renamed = Cursor {
        topic: "u".into(),
        ..cursor
    };
    let (_, faults) = audit(topic, Some(&renamed));
    assert!(
        matches!(faults[..], [TopicFault::OtherTopic(_)]),
        "{faults:?}"
    );
}
