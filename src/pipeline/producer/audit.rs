//! A topic read from its beginning, partition by partition as it is asked for, in bounded memory.

use super::{Brokers, KafkaTrouble, Quiet};
use crate::clock::SharedClock;
use crate::pipeline::audit::{Record, Records};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What may wait in memory for all partitions together, in KiB. Each has a queue of its own, so a partition that nobody
/// asks for is not fetched any further.
const QUEUED_KIB_MAX: usize = 64 << 10;
const QUEUED_KIB_MIN: usize = 64;
const WAIT: Duration = Duration::from_millis(50);
/// Records between two calls that serve librdkafka's own events.
const RECORDS_A_SERVE: u32 = 4_096;

/// A consumer that stands at the beginning of every partition.
pub(in crate::pipeline) struct TopicReader {
    consumer: Arc<BaseConsumer<Quiet>>,
    lanes: Vec<Lane>,
    timeout: Duration,
    clock: SharedClock,
    until_serve: u32,
}

struct Lane {
    /// What came before the partition had a queue of its own.
    early: VecDeque<Result<Record, KafkaError>>,
    queue: PartitionQueue<Quiet>,
    low: i64,
    /// Behind the last record when the reading began.
    high: i64,
    is_ended: bool,
}

impl std::fmt::Debug for TopicReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicReader")
            .field("partitions", &self.lanes.len())
            .finish_non_exhaustive()
    }
}

impl TopicReader {
    /// Reads what the topic holds now.
    pub(in crate::pipeline) fn open(
        brokers: &Brokers,
        partitions: u32,
    ) -> Result<Self, KafkaTrouble> {
        let count = usize::try_from(partitions).unwrap_or(usize::MAX).max(1);
        let queued_kib = (QUEUED_KIB_MAX / count).max(QUEUED_KIB_MIN);
        let mut config = brokers.common.clone();
        // After the operator's own, since looking depends on them. No group is ever joined.
        config
            .set("group.id", "echopay-verify")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "50")
            // Else a queue that was full is filled again only after a second.
            .set("fetch.queue.backoff.ms", "5")
            .set("queued.min.messages", "10000000")
            .set("queued.max.messages.kbytes", queued_kib.to_string());
        let consumer: BaseConsumer<Quiet> = config
            .create_with_context(Quiet::default())
            .map_err(|error| KafkaTrouble::new("kafka consumer", error))?;
        let consumer = Arc::new(consumer);
        let trouble = |error: KafkaError| KafkaTrouble::new("kafka offsets", error);
        let topic = brokers.topic.as_str();
        let timeout = brokers.request_timeout;
        let mut list = TopicPartitionList::with_capacity(count);
        let mut ranges = Vec::with_capacity(count);
        let numbers = i32::try_from(partitions)
            .map_err(|error| KafkaTrouble::new("kafka partitions", error))?;
        for partition in 0..numbers {
            let range = consumer
                .fetch_watermarks(topic, partition, timeout)
                .map_err(trouble)?;
            list.add_partition_offset(topic, partition, Offset::Offset(range.0))
                .map_err(trouble)?;
            ranges.push(range);
        }
        consumer.assign(&list).map_err(trouble)?;
        let mut lanes = Vec::with_capacity(count);
        for (partition, (low, high)) in (0..numbers).zip(ranges) {
            // IMPORTANT: behind `assign`, which undoes it, and before the first poll.
            let queue = consumer
                .split_partition_queue(topic, partition)
                .ok_or_else(|| KafkaTrouble::new("kafka partitions", "a partition has no queue"))?;
            lanes.push(Lane {
                early: VecDeque::new(),
                queue,
                low,
                high,
                is_ended: low >= high,
            });
        }
        let mut reader = Self {
            consumer,
            lanes,
            timeout,
            clock: Arc::clone(&brokers.clock),
            until_serve: RECORDS_A_SERVE,
        };
        // What was fetched between `assign` and the split, all of it before anything in the partitions' own queues.
        let deadline = reader.clock.monotonic() + reader.timeout;
        while reader.serve(WAIT) && reader.clock.monotonic() < deadline {}
        Ok(reader)
    }

    /// Takes one of what is in the common queue; whether there was any. Behind the beginning that is librdkafka's own events
    /// only.
    fn serve(&mut self, wait: Duration) -> bool {
        self.until_serve = RECORDS_A_SERVE;
        let Some(polled) = self.consumer.poll(wait) else {
            return false;
        };
        let (partition, early) = match polled {
            Ok(message) => (message.partition(), Ok(record_of(&message))),
            Err(KafkaError::PartitionEOF(partition)) => {
                (partition, Err(KafkaError::PartitionEOF(partition)))
            }
            // librdkafka goes on by itself; should it not, the deadline of the reading tells.
            Err(_) => return true,
        };
        let lane = usize::try_from(partition).ok();
        if let Some(lane) = lane.and_then(|lane| self.lanes.get_mut(lane)) {
            lane.early.push_back(early);
        }
        true
    }
}

impl Lane {
    fn poll(&mut self, wait: Duration) -> Option<Result<Record, KafkaError>> {
        self.early.pop_front().or_else(|| {
            let polled = self.queue.poll(wait)?;
            Some(polled.map(|message| record_of(&message)))
        })
    }
}

fn record_of(message: &BorrowedMessage<'_>) -> Record {
    Record {
        offset: message.offset(),
        key: message.key().unwrap_or_default().into(),
        payload: message.payload().unwrap_or_default().into(),
    }
}

impl Records for TopicReader {
    fn range(&self, partition: usize) -> (i64, i64) {
        let lane = self.lanes.get(partition);
        lane.map_or((0, 0), |lane| (lane.low, lane.high))
    }

    fn next(&mut self, partition: usize) -> Result<Option<Record>, KafkaTrouble> {
        if self.until_serve == 0 {
            self.serve(Duration::ZERO);
        }
        self.until_serve -= 1;
        let deadline = self.clock.monotonic() + self.timeout;
        let mut last_error = None;
        loop {
            let Some(lane) = self.lanes.get_mut(partition).filter(|lane| !lane.is_ended) else {
                return Ok(None);
            };
            match lane.poll(WAIT) {
                Some(Ok(record)) => {
                    lane.is_ended = record.offset + 1 >= lane.high;
                    return Ok((record.offset < lane.high).then_some(record));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => lane.is_ended = true,
                // librdkafka goes on by itself; should it not, the deadline tells.
                Some(Err(error)) => last_error = Some(error),
                None => {}
            }
            self.serve(Duration::ZERO);
            if self.clock.monotonic() >= deadline {
                let reason = last_error.map_or("no answer".into(), |error| error.to_string());
                return Err(KafkaTrouble::new("kafka read", reason));
            }
        }
    }
}
