//! What arrived in Kafka, held against the journal.

use super::books::Books;
use crate::support::kafka::{Broker, Record, Topic, TopicReader};
use echopay::pipeline::partition_of;

/// The topic that the service makes.
const PARTITIONS: u32 = 6;

/// One topic, read bit by bit.
pub(super) struct Stream {
    topic: Topic,
    reader: TopicReader,
    /// The newest sequence of each partition.
    newest: Vec<u64>,
    /// Of the sequences 1, 2, 3, …: whether it came.
    came: Vec<bool>,
    pub(super) repeats: Repeats,
}

/// How many records came again, by whether the brokers could be reached when the server was killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Repeats {
    pub(super) reachable: u64,
    pub(super) away: u64,
}

impl Stream {
    pub(super) fn new(broker: &Broker) -> Self {
        let topic = Topic::on(broker, "crash");
        Self {
            reader: TopicReader::new(topic.addresses(), topic.name()),
            topic,
            newest: vec![0; usize::try_from(PARTITIONS).unwrap()],
            came: Vec::new(),
            repeats: Repeats::default(),
        }
    }

    /// The flags for the server.
    pub(super) fn flags(&self) -> Vec<String> {
        let flags = self.topic.flags_for_all_types();
        flags.iter().map(ToString::to_string).collect()
    }

    /// What came in since the last look. To be read before the journal is, since nothing may be in Kafka that is not
    /// in the journal.
    pub(super) fn read_on(&mut self) -> Vec<Record> {
        self.reader.read_on()
    }

    /// Holds `records` against `books`: each is an event of the journal, byte for byte, in the partition of its key,
    /// behind the one before; or else it is one that came already.
    ///
    /// # Panics
    /// At the first violation.
    pub(super) fn compare(&mut self, records: &[Record], books: &Books, was_away: bool) {
        for record in records {
            let (sequence, payload) = (record.sequence(), &record.payload);
            assert!(
                books.is_same(sequence, payload, &record.key),
                "not what the journal says: {record:?}"
            );
            let partition = u32::try_from(record.partition).unwrap();
            assert_eq!(
                partition,
                partition_of(record.key.as_bytes(), PARTITIONS),
                "{payload}"
            );
            let index = usize::try_from(sequence).unwrap();
            if self.came.len() <= index {
                self.came.resize(index + 1, false);
            }
            let newest = &mut self.newest[usize::try_from(partition).unwrap()];
            if self.came[index] {
                let repeats = &mut self.repeats;
                *(if was_away {
                    &mut repeats.away
                } else {
                    &mut repeats.reachable
                }) += 1;
                continue;
            }
            assert!(sequence > *newest, "behind {newest}: {payload}");
            *newest = sequence;
            self.came[index] = true;
        }
    }

    /// The first event of the journal that did not come.
    pub(super) fn first_missing(&self, books: &Books) -> Option<usize> {
        let end = usize::try_from(books.looked_at()).unwrap();
        (1..=end).find(|index| self.came.get(*index) != Some(&true))
    }
}
