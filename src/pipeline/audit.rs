//! The topic against the journal: each event that was published is there, in its partition, in order, once, as the
//! journal makes it again. Reads both once, side by side; what stands out of order is looked up.
//!
//! ```text
//! journal      41 42 43 44 45 46 …      partition of each key
//! partition 0  41    43 43       46     43 again: a repeat; 45 belongs here and is missing
//! partition 1     42    44
//! ```

use super::config::Config;
use super::cursor::Cursor;
use super::partition::partition_of;
use super::producer::{Brokers, KafkaTrouble, Owner, TopicReader, owner};
use crate::clock::SharedClock;
use crate::event::EventEncoder;
use crate::ids::IdCipher;
use crate::journal::{
    Entry, EpochStart, Event, JournalIdentity, JournalReader, Lineage, ReadError,
};
use crate::types::{Currencies, Sequence};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use uuid::Uuid;

/// Bytes of pages that are read at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Missing sequences that are remembered for each partition, to tell a late record from a repeat.
const MISSING_KEPT_MAX: usize = 4_096;

/// A record as it lies in the topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) offset: i64,
    pub(super) key: Box<[u8]>,
    pub(super) payload: Box<[u8]>,
}

/// The records of a topic.
pub(super) trait Records {
    /// Offsets of a partition when the reading began: its first record, and behind its last.
    fn range(&self, partition: usize) -> (i64, i64);
    /// The next record of a partition; `None` at its end.
    fn next(&mut self, partition: usize) -> Result<Option<Record>, KafkaTrouble>;
}

/// What is not as it must be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TopicFault {
    /// Published, and not there at its place.
    #[error("partition {partition} lacks {count} of its events, from {first} to {last}")]
    Missing {
        /// Where they belong.
        partition: usize,
        /// The first that is missing.
        first: Sequence,
        /// The last of this run.
        last: Sequence,
        /// How many of this partition.
        count: u64,
    },
    /// A record that is not what the journal makes.
    #[error(
        "partition {partition}, offset {offset}: event {sequence} has another {what} than the journal gives"
    )]
    Different {
        /// Where.
        partition: usize,
        /// Its offset.
        offset: i64,
        /// Which event it says it is.
        sequence: Sequence,
        /// `payload` or `key`.
        what: &'static str,
    },
    /// Behind a later one of its partition, and not there before.
    #[error(
        "partition {partition}, offset {offset}: event {sequence} stands behind event {newest}"
    )]
    OutOfOrder {
        /// Where.
        partition: usize,
        /// Its offset.
        offset: i64,
        /// Which event.
        sequence: Sequence,
        /// The newest before it.
        newest: Sequence,
    },
    /// In a partition which is not its key's.
    #[error(
        "partition {partition}, offset {offset}: event {sequence} belongs to partition {belongs}"
    )]
    WrongPartition {
        /// Where it is.
        partition: usize,
        /// Its offset.
        offset: i64,
        /// Which event.
        sequence: Sequence,
        /// Where it belongs.
        belongs: usize,
    },
    /// Of this journal, which has no such event to ship.
    #[error(
        "partition {partition}, offset {offset}: event {sequence} is none that this journal ships"
    )]
    Unknown {
        /// Where.
        partition: usize,
        /// Its offset.
        offset: i64,
        /// Which event it says it is.
        sequence: Sequence,
    },
    /// The topic ends before what the cursor says was acknowledged.
    #[error(
        "partition {partition} ends before offset {end}, offset {acknowledged} was acknowledged"
    )]
    LostRecords {
        /// Which.
        partition: usize,
        /// Behind its last record.
        end: i64,
        /// What the cursor says.
        acknowledged: i64,
    },
    /// Another record stands where the cursor says that one was acknowledged.
    #[error(
        "partition {partition} holds another record at offset {offset} than was acknowledged there"
    )]
    OtherRecord {
        /// Which.
        partition: usize,
        /// The offset.
        offset: i64,
    },
    /// The cursor is of another topic.
    #[error("the cursor belongs to {0}")]
    OtherTopic(String),
}

impl TopicFault {
    /// The event, where it is about one.
    pub fn sequence(&self) -> Option<Sequence> {
        match self {
            Self::Missing { first, .. } => Some(*first),
            Self::Different { sequence, .. }
            | Self::OutOfOrder { sequence, .. }
            | Self::WrongPartition { sequence, .. }
            | Self::Unknown { sequence, .. } => Some(*sequence),
            Self::LostRecords { .. } | Self::OtherRecord { .. } | Self::OtherTopic(_) => None,
        }
    }
}

/// Why the topic could not be read to its end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TopicError {
    /// A setting is wrong. Nobody was asked.
    #[error("{0}")]
    Settings(String),
    /// The brokers do not answer as they should.
    #[error("{0}")]
    Kafka(String),
    /// There is no such topic.
    #[error("there is no topic {0}")]
    NoTopic(String),
    /// The journal cannot be read.
    #[error("{0}")]
    Journal(String),
}

impl From<KafkaTrouble> for TopicError {
    fn from(trouble: KafkaTrouble) -> Self {
        Self::Kafka(trouble.to_string())
    }
}

impl From<ReadError> for TopicError {
    fn from(error: ReadError) -> Self {
        Self::Journal(error.to_string())
    }
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct TopicReport {
    /// Its name.
    pub topic: String,
    /// Its partitions.
    pub partitions: usize,
    /// Events that are there, once, in place and unchanged.
    pub in_place: u64,
    /// Records that say again what stands before them, byte for byte: what the default delivery may leave.
    pub repeats: u64,
    /// Events before the first record of partitions that have lost their beginning (retention).
    pub deleted: u64,
    /// Everything from here on was checked; more than 1 where beginnings were deleted.
    pub checked_from: u64,
    /// Events behind the cursor that are not there yet.
    pub not_yet: u64,
    /// Events behind the cursor that are not there, while later ones of their partition are: shipped again at a start.
    pub holes_behind_cursor: u64,
    /// Records of this journal's other epochs.
    pub other_epochs: u64,
    /// Records of others.
    pub foreign: u64,
}

impl fmt::Display for TopicReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "topic {} with {} partitions: {} events in place from {} on, {} not there yet; \
             {} repeats, {} records of other epochs, {} of others",
            self.topic,
            self.partitions,
            self.in_place,
            self.checked_from,
            self.not_yet,
            self.repeats,
            self.other_epochs,
            self.foreign
        )
    }
}

/// The journal's side.
#[derive(Debug)]
pub struct TopicSources<'s> {
    /// The journal.
    pub reader: &'s JournalReader,
    /// Makes the events' ids.
    pub ids: IdCipher,
    /// The store's table.
    pub currencies: Currencies,
    /// How far the pipeline had come.
    pub cursor: Option<&'s Cursor>,
    /// For time-outs.
    pub clock: SharedClock,
}

/// Holds the topic that `config` names against the journal. `on_progress` hears how far it is; `tell` hears each fault.
/// Blocks.
///
/// # Errors
/// [`TopicError`]; what was told before holds.
pub fn audit_topic(
    config: &Config,
    sources: &TopicSources<'_>,
    on_progress: &mut dyn FnMut(Sequence),
    tell: &mut dyn FnMut(TopicFault),
) -> Result<TopicReport, TopicError> {
    let journal_id = sources.reader.identity().journal_id;
    let brokers = brokers(config, journal_id, sources.clock.clone())?;
    let partitions = brokers
        .scout()?
        .look()?
        .ok_or_else(|| TopicError::NoTopic(config.topic.clone()))?;
    let reader = sources.reader;
    let mut records = TopicReader::open(&brokers, partitions)?;
    let look_up = |sequence| reader.entry_covering(sequence).ok().flatten();
    // Events from before a restore stand there as the epoch of then shipped them.
    let lineage = reader.lineage();
    let encoder_of = |row: &EpochStart| {
        let identity = JournalIdentity {
            epoch: row.epoch,
            ..lineage.identity()
        };
        EventEncoder::new(identity, sources.ids.clone(), sources.currencies.clone())
    };
    let encoders = lineage.rows().iter().rev().map(encoder_of).collect();
    let mut audit = TopicAudit::new(
        config,
        partitions,
        Facts {
            lineage,
            encoders,
            look_up: &look_up,
        },
        &mut records,
        tell,
    );
    audit.check_cursor(sources.cursor);
    let durable = reader.durable().get();
    let mut after = reader.oldest().previous();
    while after < durable {
        for entry in reader.read_after(after, CHUNK_BYTES)? {
            if entry.first > durable {
                break;
            }
            after = entry.last();
            audit.take(&entry)?;
        }
        on_progress(after);
    }
    audit.finish().map_err(TopicError::from)
}

/// Whether the brokers can be asked with these settings; for who looks at much else before.
///
/// # Errors
/// [`TopicError::Settings`].
pub fn check_topic_settings(config: &Config, clock: SharedClock) -> Result<(), TopicError> {
    brokers(config, Uuid::nil(), clock).map(drop)
}

fn brokers(config: &Config, journal_id: Uuid, clock: SharedClock) -> Result<Brokers, TopicError> {
    let addresses = config.brokers.as_deref().unwrap_or_default();
    Brokers::new(config, addresses, journal_id, clock)
        .map_err(|trouble| TopicError::Settings(trouble.to_string()))
}

/// What an audit needs of the journal.
struct Facts<'a> {
    lineage: &'a Lineage,
    /// One for each epoch, the present one first; never empty.
    encoders: Vec<EventEncoder>,
    look_up: &'a dyn Fn(Sequence) -> Option<Entry>,
}

struct TopicAudit<'a> {
    config: &'a Config,
    facts: Facts<'a>,
    records: &'a mut dyn Records,
    tell: &'a mut dyn FnMut(TopicFault),
    lanes: Vec<Lane>,
    published: Sequence,
    report: TopicReport,
    // Reused, so that nothing is allocated for each event.
    payload: Vec<u8>,
}

/// One partition.
#[derive(Debug, Default)]
struct Lane {
    /// A record of this journal that was read and not yet used.
    peeked: Option<(Sequence, Record)>,
    /// The peeked record was looked up, and belongs here.
    is_known: bool,
    /// The highest of its events that was in place.
    newest: Sequence,
    /// Whether records before the first of ours are gone, or of another epoch.
    lost_beginning: bool,
    /// Consecutive events of this partition that are not there.
    absent: Option<Absent>,
    missing: BTreeSet<Sequence>,
    /// What the cursor says of it: offset and sequence.
    acknowledged: Option<(i64, Sequence)>,
}

#[derive(Clone, Copy, Debug)]
struct Absent {
    first: Sequence,
    last: Sequence,
    count: u64,
}

/// What a record turns out to be when it is looked up.
enum Known {
    /// As the journal gives it.
    Same,
    /// A fault, told already.
    Faulty,
}

impl<'a> TopicAudit<'a> {
    fn new(
        config: &'a Config,
        partitions: u32,
        facts: Facts<'a>,
        records: &'a mut dyn Records,
        tell: &'a mut dyn FnMut(TopicFault),
    ) -> Self {
        let count = usize::try_from(partitions).unwrap_or(usize::MAX);
        let lane = |partition| Lane {
            lost_beginning: records.range(partition).0 > 0,
            ..Lane::default()
        };
        Self {
            lanes: (0..count).map(lane).collect(),
            report: TopicReport {
                topic: config.topic.clone(),
                partitions: count,
                checked_from: 1,
                ..TopicReport::default()
            },
            config,
            facts,
            records,
            tell,
            published: Sequence::ORIGIN,
            payload: Vec::new(),
        }
    }

    fn check_cursor(&mut self, cursor: Option<&Cursor>) {
        let Some(cursor) = cursor else { return };
        self.published = cursor.published;
        if cursor.topic != self.config.topic {
            let other = format!("topic {}, not to {}", cursor.topic, self.config.topic);
            (self.tell)(TopicFault::OtherTopic(other));
            return;
        }
        if cursor.partitions.len() != self.lanes.len() {
            let other = format!(
                "a topic with {} partitions, this one has {}",
                cursor.partitions.len(),
                self.lanes.len()
            );
            (self.tell)(TopicFault::OtherTopic(other));
            return;
        }
        let places = cursor.partitions.iter().map(|place| place.last);
        for (partition, (lane, last)) in self.lanes.iter_mut().zip(places).enumerate() {
            let Some(acknowledged) = last.offset.filter(|_| !last.sequence.is_origin()) else {
                continue;
            };
            lane.acknowledged = Some((acknowledged, last.sequence));
            let (_, end) = self.records.range(partition);
            if end <= acknowledged {
                (self.tell)(TopicFault::LostRecords {
                    partition,
                    end,
                    acknowledged,
                });
            }
        }
    }

    /// Finds the events of the journal's next entry.
    fn take(&mut self, entry: &Entry) -> Result<(), KafkaTrouble> {
        for event in entry.events() {
            if self.config.selects(event.kind()) {
                self.expect(&event)?;
            }
        }
        Ok(())
    }

    fn expect(&mut self, event: &Event<'_>) -> Result<(), KafkaTrouble> {
        let sequence = event.sequence;
        let (key, partition) = self.place_of(event);
        loop {
            let Some((found, record)) = self.peek(partition)? else {
                self.note_absent(partition, sequence);
                return Ok(());
            };
            if found < sequence {
                self.stray(partition, found, &record);
                continue;
            }
            if found > sequence {
                let is_known = self.lanes.get(partition).is_some_and(|lane| lane.is_known);
                if !is_known && matches!(self.identify(partition, found, &record), Known::Faulty) {
                    continue;
                }
                if let Some(lane) = self.lanes.get_mut(partition) {
                    lane.peeked = Some((found, record));
                    lane.is_known = true;
                }
                self.note_absent(partition, sequence);
                return Ok(());
            }
            let what = self.difference(&record, &key, event);
            self.end_absence(partition, false);
            if let Some(lane) = self.lanes.get_mut(partition) {
                if lane.lost_beginning && lane.newest.is_origin() {
                    self.report.checked_from = self.report.checked_from.max(sequence.get());
                }
                lane.newest = sequence;
            }
            match what {
                None => self.report.in_place += 1,
                Some(what) => (self.tell)(TopicFault::Different {
                    partition,
                    offset: record.offset,
                    sequence,
                    what,
                }),
            }
            return Ok(());
        }
    }

    /// An event's key, and the partition where it belongs.
    fn place_of(&self, event: &Event<'_>) -> (String, usize) {
        let key = event.key_wallet().uuid().hyphenated().to_string();
        let count = u32::try_from(self.lanes.len()).unwrap_or(u32::MAX);
        let partition = partition_of(key.as_bytes(), count);
        (key, usize::try_from(partition).unwrap_or_default())
    }

    /// Takes the next record of this journal out of a partition; those of others are counted.
    fn peek(&mut self, partition: usize) -> Result<Option<(Sequence, Record)>, KafkaTrouble> {
        if let Some(peeked) = self
            .lanes
            .get_mut(partition)
            .and_then(|lane| lane.peeked.take())
        {
            return Ok(Some(peeked));
        }
        while let Some(record) = self.records.next(partition)? {
            let owner = owner(&record.payload, self.facts.lineage);
            let Some(lane) = self.lanes.get_mut(partition) else {
                return Ok(None);
            };
            lane.is_known = false;
            if let Some((offset, sequence)) = lane.acknowledged
                && offset == record.offset
                && owner != Owner::Ours(sequence)
            {
                (self.tell)(TopicFault::OtherRecord { partition, offset });
            }
            match owner {
                Owner::Ours(sequence) => return Ok(Some((sequence, record))),
                Owner::OtherEpoch(_) => {
                    lane.lost_beginning |= lane.newest.is_origin();
                    self.report.other_epochs += 1;
                }
                Owner::Stranger => self.report.foreign += 1,
            }
        }
        Ok(None)
    }

    /// In what the record differs from the event, made again by the epoch that shipped it.
    fn difference(
        &mut self,
        record: &Record,
        key: &str,
        event: &Event<'_>,
    ) -> Option<&'static str> {
        if *record.key != *key.as_bytes() {
            return Some("key");
        }
        let is_made_again = self.facts.encoders.iter_mut().any(|encoder| {
            self.payload.clear();
            encoder.encode(event, &mut self.payload);
            *record.payload == *self.payload
        });
        (!is_made_again).then_some("payload")
    }

    /// A record that does not stand where its event is expected: a repeat, or too late, or it belongs elsewhere.
    fn stray(&mut self, partition: usize, sequence: Sequence, record: &Record) {
        if matches!(self.identify(partition, sequence, record), Known::Faulty) {
            return;
        }
        let Some(lane) = self.lanes.get_mut(partition) else {
            return;
        };
        if lane.missing.remove(&sequence) {
            let newest = lane.newest;
            (self.tell)(TopicFault::OutOfOrder {
                partition,
                offset: record.offset,
                sequence,
                newest,
            });
        } else {
            self.report.repeats += 1;
        }
    }

    /// Makes the event again that a record says it is, and tells where they differ.
    fn identify(&mut self, partition: usize, sequence: Sequence, record: &Record) -> Known {
        let offset = record.offset;
        let entry = (self.facts.look_up)(sequence);
        let event = entry.as_ref().and_then(|entry| {
            let mut events = entry.events();
            events.find(|event| event.sequence == sequence)
        });
        let Some(event) = event.filter(|event| self.config.selects(event.kind())) else {
            (self.tell)(TopicFault::Unknown {
                partition,
                offset,
                sequence,
            });
            return Known::Faulty;
        };
        let (key, belongs) = self.place_of(&event);
        let what = self.difference(record, &key, &event);
        if let Some(what) = what {
            (self.tell)(TopicFault::Different {
                partition,
                offset,
                sequence,
                what,
            });
            return Known::Faulty;
        }
        if belongs != partition {
            (self.tell)(TopicFault::WrongPartition {
                partition,
                offset,
                sequence,
                belongs,
            });
            return Known::Faulty;
        }
        Known::Same
    }

    fn note_absent(&mut self, partition: usize, sequence: Sequence) {
        let published = self.published;
        let Some(lane) = self.lanes.get_mut(partition) else {
            return;
        };
        if lane.lost_beginning && lane.newest.is_origin() {
            self.report.deleted += 1;
            return;
        }
        // What the cursor covers is one matter, what lies behind it another.
        let crosses = |absent: Absent| absent.last <= published && sequence > published;
        if lane.absent.is_some_and(crosses) {
            self.end_absence(partition, false);
        }
        let Some(lane) = self.lanes.get_mut(partition) else {
            return;
        };
        if lane.missing.len() < MISSING_KEPT_MAX {
            lane.missing.insert(sequence);
        }
        let absent = lane.absent.get_or_insert(Absent {
            first: sequence,
            last: sequence,
            count: 0,
        });
        absent.last = sequence;
        absent.count += 1;
    }

    /// Tells what was absent up to here. `at_end`: nothing of the partition follows.
    fn end_absence(&mut self, partition: usize, at_end: bool) {
        let absent = self
            .lanes
            .get_mut(partition)
            .and_then(|lane| lane.absent.take());
        let Some(Absent { first, last, count }) = absent else {
            return;
        };
        if first <= self.published {
            (self.tell)(TopicFault::Missing {
                partition,
                first,
                last,
                count,
            });
        } else if at_end {
            self.report.not_yet += count;
        } else {
            self.report.holes_behind_cursor += count;
        }
    }

    /// Reads what the topic still holds, and sums up.
    fn finish(mut self) -> Result<TopicReport, KafkaTrouble> {
        for partition in 0..self.lanes.len() {
            while let Some((sequence, record)) = self.peek(partition)? {
                self.stray(partition, sequence, &record);
            }
            self.end_absence(partition, true);
        }
        Ok(self.report)
    }
}

/// What of a record is not as it must be.
#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
