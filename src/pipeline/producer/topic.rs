//! What a topic holds: its partitions, its limits, the last record of ours in each partition. Makes it when missing.

use super::{Brokers, KafkaTrouble, Quiet, cluster_id};
use crate::clock::SharedClock;
use crate::journal::{JournalIdentity, Lineage};
use crate::pipeline::acks::LastAck;
use crate::pipeline::patience::WAIT_MAX;
use crate::pipeline::resume::{AtCursor, Found, Tail};
use crate::types::Sequence;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::borrow::Cow;
use std::future::Future;
use std::time::Duration;
use tracing::{debug, info};

impl ConsumerContext for Quiet {}

/// How far back a partition is searched for a record of ours when the cursor does not tell where one is.
const SEARCH_RECORDS_MAX: i64 = 262_144;
/// By how much each step of the search reaches further back than the one before.
const SEARCH_FACTOR: i64 = 8;

/// How long a look waits for transactions to end; the markers of one just committed are written meanwhile.
const STABLE_WAIT: Duration = Duration::from_secs(1);
/// Between two questions meanwhile.
const STABLE_LOOK: Duration = Duration::from_millis(20);

/// What the cursor says of a partition: offset and sequence of the newest acknowledged record.
pub(in crate::pipeline) type Mark = LastAck;

/// A connection that looks.
pub(in crate::pipeline) struct Scout {
    brokers: Brokers,
    consumer: BaseConsumer<Quiet>,
    /// Sees open transactions too. Only asked for ends.
    uncommitted: BaseConsumer<Quiet>,
    ears: Quiet,
    read_wait: Duration,
}

impl std::fmt::Debug for Scout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scout")
            .field("brokers", &self.brokers)
            .finish_non_exhaustive()
    }
}

/// The fields of an event that tell whose it is.
#[derive(serde::Deserialize)]
struct Stamp<'p> {
    sequence: u64,
    #[serde(borrow)]
    journal: Cow<'p, str>,
}

/// Whose a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::pipeline) enum Owner {
    /// Of this epoch, or from before it began.
    Ours(Sequence),
    /// Of another copy of this journal, which went on from somewhere in our past.
    OtherEpoch(u32),
    Stranger,
}

/// The search in one partition.
#[derive(Debug)]
struct Search {
    partition: i32,
    low: i64,
    /// Where what can be read ends: an open transaction may hold it below `end`.
    high: i64,
    /// Where the partition ends.
    end: i64,
    /// Nothing below needs to be read.
    floor: i64,
    /// The stretch now read: from, inclusive, to, exclusive.
    from: i64,
    to: i64,
    reading: bool,
    newest: Option<LastAck>,
    other_epoch: Option<u32>,
}

/// Offsets of a partition.
#[derive(Debug)]
struct Ends {
    partition: i32,
    /// Of the oldest record.
    low: i64,
    /// Of the oldest open transaction, else of the next record.
    stable: i64,
    /// Of the next record.
    end: i64,
}

impl Scout {
    pub(super) fn new(brokers: &Brokers, read_wait: Duration) -> Result<Self, KafkaTrouble> {
        let mut config = brokers.common.clone();
        // After the operator's own, since looking depends on them. No group is ever joined.
        config
            .set("group.id", "echopay-tail")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false")
            .set("auto.offset.reset", "earliest")
            // Little at a time: behind the records looked for may stand thousands that were aborted.
            .set("fetch.message.max.bytes", "16384")
            // Why so long: a whole batch comes all the same, and an answer that is cut off is asked for again from its
            // beginning. Questions have times of their own, and `read` knows when to give up.
            .set("socket.timeout.ms", WAIT_MAX.as_millis().to_string())
            .set("fetch.wait.max.ms", "50");
        let ears = Quiet::default();
        let trouble = |error| KafkaTrouble::new("kafka consumer", error);
        let consumer = config.create_with_context(ears.clone()).map_err(trouble)?;
        config.set("isolation.level", "read_uncommitted");
        let uncommitted = config
            .create_with_context(Quiet::default())
            .map_err(trouble)?;
        Ok(Self {
            brokers: brokers.clone(),
            consumer,
            uncommitted,
            ears,
            read_wait,
        })
    }

    /// The number of the topic's partitions. A missing topic is made if `make` says so; else it is `None`, once it
    /// has been missing for a while: brokers that have just started may not know all of theirs.
    pub(in crate::pipeline) fn partitions(&self, make: bool) -> Result<Option<u32>, KafkaTrouble> {
        match self.look()? {
            Some(count) => return Ok(Some(count)),
            None if make => self.create()?,
            None => {}
        }
        // A topic just made shows up piece by piece: first nothing, then partitions without a leader.
        let clock = &self.brokers.clock;
        let deadline = clock.monotonic() + self.brokers.request_timeout;
        loop {
            let looked = self.look();
            if let Ok(Some(count)) = looked {
                return Ok(Some(count));
            }
            if clock.monotonic() >= deadline {
                let hidden =
                    KafkaTrouble::new("kafka topic", "made, but the brokers do not show it");
                return looked.and(if make { Err(hidden) } else { Ok(None) });
            }
            // Waits without a sleep of our own; nothing is assigned, so nothing comes.
            drop(self.consumer.poll(Duration::from_millis(50)));
        }
    }

    /// The cluster's id as of the last answer of a broker.
    pub(in crate::pipeline) fn cluster_id(&self) -> Option<String> {
        cluster_id(self.consumer.client(), self.brokers.request_timeout)
    }

    /// The number of the topic's partitions; `None` when there is no such topic.
    pub(in crate::pipeline) fn look(&self) -> Result<Option<u32>, KafkaTrouble> {
        let trouble = |reason: &dyn std::fmt::Display| KafkaTrouble::new("kafka metadata", reason);
        let name = self.brokers.topic.as_str();
        let metadata = self
            .consumer
            .fetch_metadata(Some(name), self.brokers.request_timeout)
            .map_err(|error| {
                // Why it failed, a refused password for one, is told to the callbacks alone.
                drop(self.consumer.poll(Duration::from_millis(50)));
                match self.ears.heard.lock().take() {
                    Some(heard) => trouble(&heard),
                    None => trouble(&error),
                }
            })?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
            return Ok(None);
        };
        match topic.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Ok(None);
            }
            Some(other) => return Err(trouble(&other)),
        }
        let mut count = 0u32;
        for partition in topic.partitions() {
            if let Some(error) = partition.error() {
                return Err(trouble(&RDKafkaErrorCode::from(error)));
            }
            if partition.leader() < 0 {
                return Err(trouble(&"a partition has no leader yet"));
            }
            count += 1;
        }
        Ok(Some(count).filter(|count| *count > 0))
    }

    fn create(&self) -> Result<(), KafkaTrouble> {
        let trouble = |reason: &dyn std::fmt::Display| KafkaTrouble::new("kafka topic", reason);
        let name = self.brokers.topic.as_str();
        let partitions = i32::try_from(self.brokers.partitions).map_err(|e| trouble(&e))?;
        let replication = TopicReplication::Fixed(self.brokers.replication);
        let topic = NewTopic::new(name, partitions, replication);
        let admin = self.admin()?;
        let results = block_on(admin.create_topics([&topic], &self.options()))?
            .map_err(|error| trouble(&error))?;
        for result in results {
            match result {
                Ok(_) => info!(topic = name, partitions, "kafka topic made"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(trouble(&code)),
            }
        }
        Ok(())
    }

    /// The largest batch that the topic takes, in bytes; `None` when the brokers do not tell (it needs a right).
    pub(in crate::pipeline) fn message_bytes_max(&self) -> Option<u64> {
        let admin = self.admin().ok()?;
        let topic = ResourceSpecifier::Topic(&self.brokers.topic);
        let results = block_on(admin.describe_configs([&topic], &self.options()))
            .ok()?
            .ok()?;
        let limit = results.into_iter().next()?.ok()?;
        limit
            .get("max.message.bytes")?
            .value
            .as_deref()?
            .parse()
            .ok()
    }

    fn admin(&self) -> Result<AdminClient<Quiet>, KafkaTrouble> {
        let created = self.brokers.common.create_with_context(Quiet::default());
        created.map_err(|error| KafkaTrouble::new("kafka admin client", error))
    }

    fn options(&self) -> AdminOptions {
        let timeout = self.brokers.request_timeout;
        AdminOptions::new()
            .request_timeout(Some(timeout))
            .operation_timeout(Some(timeout))
    }

    /// What the topic holds, `marks` being what the cursor says of each partition (empty without one). Events from
    /// before a restore are ours as far as the `lineage` says.
    pub(in crate::pipeline) fn found(
        &self,
        partitions: u32,
        marks: &[Mark],
        lineage: impl Into<Lineage>,
    ) -> Result<Found, KafkaTrouble> {
        let lineage = &lineage.into();
        let mut searches = self.searches(partitions, marks)?;
        let at_cursor = self.compare(&searches, marks, lineage)?;
        while searches.iter().any(|search| search.reading) {
            self.read_stretches(&mut searches, lineage)?;
            for search in searches.iter_mut().filter(|search| search.reading) {
                search.step_back();
            }
        }
        let tails = searches
            .into_iter()
            .zip(at_cursor)
            .map(|(search, at_cursor)| Tail {
                high: search.end,
                stable: search.high,
                newest: search.newest,
                other_epoch: search.other_epoch,
                at_cursor,
            });
        Ok(Found {
            cluster_id: self.cluster_id(),
            tails: tails.collect(),
        })
    }

    fn searches(&self, partitions: u32, marks: &[Mark]) -> Result<Vec<Search>, KafkaTrouble> {
        let mut searches = Vec::new();
        let marks = marks.iter().map(Some).chain(std::iter::repeat(None));
        for (ends, mark) in self.ends(partitions)?.into_iter().zip(marks) {
            let Ends {
                partition,
                low,
                stable: high,
                end,
            } = ends;
            let known = mark
                .and_then(|mark| mark.offset)
                .filter(|at| (low..high).contains(at));
            let floor = known.unwrap_or(low.max(high.saturating_sub(SEARCH_RECORDS_MAX)));
            let from = floor.max(high - 1);
            searches.push(Search {
                partition,
                low,
                high,
                end,
                floor,
                from,
                to: high,
                reading: low < high,
                newest: None,
                other_epoch: None,
            });
        }
        Ok(searches)
    }

    /// Each partition's end, and the range that can be read of it, which reaches to that end unless a transaction
    /// stays open for longer than [`STABLE_WAIT`].
    ///
    /// Why both ends: what can be read ends at the oldest open transaction, whoever has begun it, and what was committed
    /// behind it does not show. Taken for the end it would have committed events sent again. The partition's end is no
    /// older than that: a broker just elected tells none before it knows all that was committed (KIP-207).
    fn ends(&self, partitions: u32) -> Result<Vec<Ends>, KafkaTrouble> {
        let count = i32::try_from(partitions)
            .map_err(|error| KafkaTrouble::new("kafka partitions", error))?;
        let ask = |consumer: &BaseConsumer<Quiet>, partition| {
            consumer
                .fetch_watermarks(&self.brokers.topic, partition, self.brokers.request_timeout)
                .map_err(|error| KafkaTrouble::new("kafka offsets", error))
        };
        let mut all = Vec::new();
        for partition in 0..count {
            // IMPORTANT: the end first. What a transaction adds meanwhile is none of ours.
            let (_, end) = ask(&self.uncommitted, partition)?;
            let (low, stable) = ask(&self.consumer, partition)?;
            all.push(Ends {
                partition,
                low,
                stable,
                end,
            });
        }
        let clock = &self.brokers.clock;
        let deadline = clock.monotonic() + STABLE_WAIT;
        for ends in &mut all {
            while ends.stable < ends.end && clock.monotonic() < deadline {
                // Waits without a sleep of our own; nothing is assigned, so nothing comes.
                drop(self.consumer.poll(STABLE_LOOK));
                ends.stable = ask(&self.consumer, ends.partition)?.1;
            }
            debug!(?ends, "kafka: where a partition ends");
        }
        Ok(all)
    }

    /// Whether the cursor's records stand where it says.
    fn compare(
        &self,
        searches: &[Search],
        marks: &[Mark],
        lineage: &Lineage,
    ) -> Result<Vec<AtCursor>, KafkaTrouble> {
        let mut answers = vec![AtCursor::Unknown; searches.len()];
        let mut asked: Vec<(i32, i64)> = Vec::new();
        for (search, mark) in searches.iter().zip(marks) {
            if let Some(offset) = mark.offset
                && (search.low..search.high).contains(&offset)
                && !mark.sequence.is_origin()
            {
                asked.push((search.partition, offset));
            }
        }
        let mut waiting = asked.clone();
        self.read(&asked, |partition, record| {
            if let Some(at) = waiting.iter().position(|(p, _)| *p == partition) {
                let (_, offset) = waiting.swap_remove(at);
                let index = usize::try_from(partition).ok();
                if let (Some((found, payload)), Some(index)) = (record, index)
                    && let (Some(answer), Some(mark)) = (answers.get_mut(index), marks.get(index))
                    && found == offset
                {
                    let same = owner(payload, lineage) == Owner::Ours(mark.sequence);
                    *answer = if same {
                        AtCursor::Same
                    } else {
                        AtCursor::Other
                    };
                }
            }
            waiting.is_empty()
        })?;
        Ok(answers)
    }

    fn read_stretches(
        &self,
        searches: &mut [Search],
        lineage: &Lineage,
    ) -> Result<(), KafkaTrouble> {
        let starts: Vec<(i32, i64)> = searches
            .iter()
            .filter(|search| search.reading)
            .map(|search| (search.partition, search.from))
            .collect();
        let mut waiting = starts
            .iter()
            .map(|(partition, _)| *partition)
            .collect::<Vec<_>>();
        self.read(&starts, |partition, record| {
            let search = searches
                .iter_mut()
                .find(|search| search.partition == partition);
            let done = match (search, record) {
                (Some(search), Some((offset, payload))) => {
                    search.note(offset, owner(payload, lineage));
                    offset + 1 >= search.to
                }
                (_, None) => true,
                (None, Some(_)) => false,
            };
            if done {
                waiting.retain(|p| *p != partition);
            }
            waiting.is_empty()
        })
    }

    /// Reads from `starts` on (partition, offset) and gives each record (offset and payload), or `None` at a
    /// partition's end, until `take` says that it has enough.
    fn read(
        &self,
        starts: &[(i32, i64)],
        mut take: impl FnMut(i32, Option<(i64, &[u8])>) -> bool,
    ) -> Result<(), KafkaTrouble> {
        if starts.is_empty() {
            return Ok(());
        }
        let trouble = |error: KafkaError| KafkaTrouble::new("kafka read", error);
        let mut list = TopicPartitionList::with_capacity(starts.len());
        for (partition, offset) in starts {
            list.add_partition_offset(&self.brokers.topic, *partition, Offset::Offset(*offset))
                .map_err(trouble)?;
        }
        self.consumer.assign(&list).map_err(trouble)?;
        let clock: &SharedClock = &self.brokers.clock;
        let mut deadline = clock.monotonic() + self.read_wait;
        let mut last_error = None;
        loop {
            let enough = match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => {
                    deadline = clock.monotonic() + self.read_wait;
                    take(
                        record.partition(),
                        Some((record.offset(), record.payload().unwrap_or(&[]))),
                    )
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    deadline = clock.monotonic() + self.read_wait;
                    take(partition, None)
                }
                Some(Err(error)) => {
                    // librdkafka goes on by itself; should it not, the deadline tells.
                    last_error = Some(error);
                    false
                }
                None => false,
            };
            if enough {
                return self.consumer.unassign().map_err(trouble);
            }
            if clock.monotonic() >= deadline {
                let reason = last_error.map_or("no answer".into(), |error| error.to_string());
                return Err(KafkaTrouble::new("kafka read", reason));
            }
        }
    }
}

impl Search {
    fn note(&mut self, offset: i64, owner: Owner) {
        if !(self.from..self.to).contains(&offset) {
            return;
        }
        match owner {
            // The last in the log, not the highest: what was shipped again stands behind what it repeats.
            Owner::Ours(sequence) => {
                self.newest = Some(LastAck {
                    offset: Some(offset),
                    sequence,
                });
            }
            Owner::OtherEpoch(epoch) => self.other_epoch = Some(epoch),
            Owner::Stranger => {}
        }
    }

    fn step_back(&mut self) {
        if self.newest.is_some() || self.from <= self.floor {
            self.reading = false;
            return;
        }
        let reach = (self.high - self.from).saturating_mul(SEARCH_FACTOR);
        self.to = self.from;
        self.from = self.floor.max(self.high.saturating_sub(reach));
    }
}

/// Whose a record with this payload is, seen from this history.
pub(in crate::pipeline) fn owner(payload: &[u8], lineage: &Lineage) -> Owner {
    let Ok(stamp) = serde_json::from_slice::<Stamp<'_>>(payload) else {
        return Owner::Stranger;
    };
    let sequence = Sequence::new(stamp.sequence);
    match JournalIdentity::parse(&stamp.journal) {
        Some(identity) if lineage.owns(identity, sequence) => Owner::Ours(sequence),
        Some(identity) if identity.journal_id == lineage.identity().journal_id => {
            Owner::OtherEpoch(identity.epoch)
        }
        Some(_) | None => Owner::Stranger,
    }
}

/// Admin requests are futures; this thread has nothing else to do meanwhile, and each ends by its own time-out.
fn block_on<F: Future>(future: F) -> Result<F::Output, KafkaTrouble> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| KafkaTrouble::new("runtime for an admin request", error))?;
    Ok(runtime.block_on(future))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::EpochStart;

    #[test]
    fn a_record_tells_whose_it_is() {
        let journal_id = uuid::Uuid::from_u128(7);
        let start = |epoch, after| EpochStart {
            epoch,
            after: Sequence::new(after),
        };
        let lineage = Lineage::new(journal_id, vec![start(1, 0), start(5, 8)]).unwrap();
        let of = |journal_id: u128, epoch: u32, sequence: u64| {
            let journal_id = uuid::Uuid::from_u128(journal_id);
            let journal = JournalIdentity { journal_id, epoch };
            let event =
                format!(r#"{{"id":1,"sequence":{sequence},"journal":"{journal}","x":{{}}}}"#);
            owner(event.as_bytes(), &lineage)
        };
        let ours = |sequence| Owner::Ours(Sequence::new(sequence));
        assert_eq!(of(7, 5, 9), ours(9));
        // From before the restore, and shipped by the restored copy.
        assert_eq!((of(7, 1, 8), of(7, 5, 8)), (ours(8), ours(8)));
        // The other copy went on.
        assert_eq!(of(7, 1, 9), Owner::OtherEpoch(1));
        assert_eq!(of(7, 4, 3), Owner::OtherEpoch(4));
        assert_eq!(of(8, 5, 9), Owner::Stranger);
        assert_eq!(owner(b"\xff", &lineage), Owner::Stranger);
        assert_eq!(owner(br#"{"sequence":1}"#, &lineage), Owner::Stranger);
    }

    #[test]
    fn a_search_reaches_back_in_growing_steps_and_stops_at_its_floor() {
        let mut search = Search {
            partition: 0,
            low: 0,
            high: 100,
            end: 100,
            floor: 3,
            from: 99,
            to: 100,
            reading: true,
            newest: None,
            other_epoch: None,
        };
        let mut stretches = Vec::new();
        while search.reading {
            stretches.push((search.from, search.to));
            search.step_back();
        }
        assert_eq!(stretches, [(99, 100), (92, 99), (36, 92), (3, 36)]);
    }

    #[test]
    fn the_last_record_in_the_log_counts_not_the_highest() {
        let mut search = Search {
            partition: 0,
            low: 0,
            high: 10,
            end: 10,
            floor: 0,
            from: 0,
            to: 10,
            reading: true,
            newest: None,
            other_epoch: None,
        };
        search.note(3, Owner::Ours(Sequence::new(20)));
        search.note(4, Owner::Ours(Sequence::new(11)));
        search.note(12, Owner::Ours(Sequence::new(30)));
        assert_eq!(
            search.newest,
            Some(LastAck {
                offset: Some(4),
                sequence: Sequence::new(11)
            })
        );
    }
}
