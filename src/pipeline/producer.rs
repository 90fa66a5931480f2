//! The only door to rdkafka: a producer whose reports are gathered, its transactions (in `transaction.rs`), a look at
//! what a topic holds (in `topic.rs`), and a reader of all of it (in `audit.rs`).
//!
//! Nothing here decides. A [`Link`] is one producer's life; after any trouble it is closed and another one is made,
//! since librdkafka goes on behind a failed record and would leave a hole.
//!
//! How it is polled matters (measured). `poll(d)` blocks for all of `d`, and spins through its last part; so whoever
//! sends asks for what is there, and sleeps in between where there is nothing else to do. A thread of its own that polls
//! costs more than it hears: it wakes the sender for a handful of reports at a time, and frees what the sender
//! allocated, which neither side's allocator likes.

mod audit;
#[cfg(test)]
mod tests;
mod topic;
mod transaction;

pub(super) use audit::TopicReader;
pub(super) use topic::{Mark, Owner, Scout, owner};

use super::config::{Config, Delivery};
use crate::clock::SharedClock;
use crate::types::Sequence;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tracing::debug;
use uuid::Uuid;

// A sequence travels through librdkafka as the record's opaque pointer.
const _: () = assert!(usize::BITS >= 64);

/// Between two looks for reports, where nothing else is to be done.
const LOOK: Duration = Duration::from_micros(500);
/// The range librdkafka allows for `message.max.bytes`.
const MESSAGE_BYTES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000;

/// Something with the brokers did not work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{step}: {reason}")]
pub(super) struct KafkaTrouble {
    /// What was tried.
    step: &'static str,
    /// What librdkafka said.
    reason: String,
}

impl KafkaTrouble {
    fn new(step: &'static str, reason: impl fmt::Display) -> Self {
        Self {
            step,
            reason: reason.to_string(),
        }
    }
}

/// How to reach the brokers.
#[derive(Clone)]
pub(super) struct Brokers {
    common: ClientConfig,
    producing: ClientConfig,
    delivery: Delivery,
    limits_message_bytes: bool,
    topic: String,
    partitions: u32,
    replication: i32,
    request_timeout: Duration,
    clock: SharedClock,
}

impl fmt::Debug for Brokers {
    /// Without the properties: passwords stand among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Brokers")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl Brokers {
    /// Checks the properties; does not connect.
    pub(super) fn new(
        config: &Config,
        brokers: &str,
        journal_id: Uuid,
        clock: SharedClock,
    ) -> Result<Self, KafkaTrouble> {
        let mut common = ClientConfig::new();
        common
            .set_log_level(RDKafkaLogLevel::Info)
            .set("bootstrap.servers", brokers)
            .set("client.id", "echopay")
            .set("socket.timeout.ms", "10000")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "1000");
        let mut producing = common.clone();
        producing
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // Why: it goes on behind a batch that was refused for good, sooner than its report is heard, and a key's
            // events would stand in the wrong order. With it that is fatal, and nothing behind the batch leaves.
            .set("enable.gapless.guarantee", "true")
            .set("max.in.flight.requests.per.connection", "5")
            .set("linger.ms", config.linger_ms().to_string())
            .set("batch.num.messages", config.batch_size.to_string())
            .set("compression.type", "lz4")
            .set("message.timeout.ms", "0")
            .set("request.timeout.ms", "8000")
            // Why not more: about twice what is under way at the highest rate seen. What waits here costs memory and
            // misses the caches; in the journal it costs nothing.
            .set("queue.buffering.max.messages", "20000")
            .set("queue.buffering.max.kbytes", "65536")
            // Why so long: below it, a topic that is away for a moment fails records and leaves a hole. Above
            // 2,147,483 librdkafka's product overflows and the protection vanishes.
            .set("topic.metadata.propagation.max.ms", "2000000");
        match config.delivery {
            Delivery::Idempotent => {}
            Delivery::ExactlyOnce => transaction::configure(&mut producing, config, journal_id),
        }
        for (key, value) in &config.overrides {
            common.set(key, value);
            producing.set(key, value);
        }
        let idempotent = producing.get("enable.idempotence");
        if !idempotent.is_some_and(|value| matches!(value, "true" | "t" | "1")) {
            // librdkafka knows the one only with the other.
            producing.remove("enable.gapless.guarantee");
        }
        let native = producing.create_native_config();
        native.map_err(|error| KafkaTrouble::new("kafka settings", error))?;
        Ok(Self {
            limits_message_bytes: !config
                .overrides
                .iter()
                .any(|(key, _)| key == "message.max.bytes"),
            common,
            producing,
            delivery: config.delivery,
            topic: config.topic.clone(),
            partitions: config.partitions,
            replication: config.replication,
            request_timeout: Duration::from_millis(config.request_timeout_ms),
            clock,
        })
    }

    /// A connection that looks and never writes, but for the topic that it makes when asked.
    pub(super) fn scout(&self) -> Result<Scout, KafkaTrouble> {
        self.scout_that_waits(self.request_timeout)
    }

    /// As [`Brokers::scout`], and while it reads records it waits up to `read_wait` for the next bytes of them.
    pub(super) fn scout_that_waits(&self, read_wait: Duration) -> Result<Scout, KafkaTrouble> {
        Scout::new(self, read_wait)
    }

    /// A producer. `message_bytes_max` is the topic's limit where it is known; `one_by_one` sends each record alone,
    /// so that a refused one is known by itself.
    pub(super) fn link(
        &self,
        message_bytes_max: Option<u64>,
        one_by_one: bool,
    ) -> Result<Link, KafkaTrouble> {
        let mut config = self.producing.clone();
        if let Some(limit) = message_bytes_max.filter(|_| self.limits_message_bytes) {
            let limit = limit.clamp(*MESSAGE_BYTES.start(), *MESSAGE_BYTES.end());
            config.set("message.max.bytes", limit.to_string());
        }
        if one_by_one {
            config.set("batch.num.messages", "1");
        }
        let heard = Arc::new(Mutex::new(Heard::default()));
        let context = Reports {
            heard: Arc::clone(&heard),
        };
        let producer: BaseProducer<Reports> = config
            .create_with_context(context)
            .map_err(|error| KafkaTrouble::new("kafka producer", error))?;
        Ok(Link {
            delivery: self.delivery,
            producer: Some(producer),
            heard,
            topic: self.topic.clone(),
        })
    }
}

/// A record to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing<'r> {
    pub(super) partition: u32,
    pub(super) sequence: Sequence,
    pub(super) key: &'r [u8],
    pub(super) payload: &'r [u8],
    pub(super) headers: &'r [(&'static str, &'r [u8])],
}

/// A record was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SendError {
    /// The queue is full: wait for reports, then send the same record again.
    Full,
    /// The record is larger than the topic takes. Nothing else happened; others can be sent.
    TooLarge,
    /// The producer is of no more use.
    Broken(String),
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Report {
    pub(super) partition: u32,
    pub(super) sequence: Sequence,
    pub(super) outcome: Outcome,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It is in the log, at this offset (negative when the broker did not say).
    Acknowledged { offset: i64 },
    /// It is not in the log. `for_good`: nor will it ever be, whoever sends it.
    Refused { for_good: bool },
    /// It may be in the log: the tail will tell.
    Unknown,
}

/// One producer's life.
pub(super) struct Link {
    delivery: Delivery,
    /// `None` once closed.
    producer: Option<BaseProducer<Reports>>,
    heard: Arc<Mutex<Heard>>,
    topic: String,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Hands a record over; it leaves with the next batch. Never blocks.
    pub(super) fn send(&self, record: &Outgoing<'_>) -> Result<(), SendError> {
        let broken = |reason: &dyn fmt::Display| SendError::Broken(reason.to_string());
        let producer = self.producer.as_ref().ok_or_else(|| broken(&"closed"))?;
        let opaque = usize::try_from(record.sequence.get()).map_err(|e| broken(&e))?;
        let partition = i32::try_from(record.partition).map_err(|e| broken(&e))?;
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in record.headers {
            headers = headers.insert(Header {
                key,
                value: Some(*value),
            });
        }
        let outgoing = BaseRecord::with_opaque_to(&self.topic, opaque)
            .partition(partition)
            .key(record.key)
            .payload(record.payload)
            .headers(headers);
        producer.send(outgoing).map_err(|(error, _)| match error {
            KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => SendError::Full,
            KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge) => {
                SendError::TooLarge
            }
            other => broken(&other),
        })
    }

    /// Has the callbacks hear what has come. Never waits.
    pub(super) fn serve(&self) {
        let Some(producer) = &self.producer else {
            return;
        };
        // One call hears one event, and an event is all reports of a batch.
        loop {
            let before = self.heard.lock().reports.len();
            producer.poll(Duration::ZERO);
            if self.heard.lock().reports.len() == before {
                return;
            }
        }
    }

    /// Swaps the reports that have come into `into`, which is emptied before. Their number is bounded by the producer's
    /// queue: one report a record.
    pub(super) fn take_reports(&self, into: &mut Vec<Report>) {
        self.serve();
        into.clear();
        std::mem::swap(&mut self.heard.lock().reports, into);
    }

    /// Waits until there is a report, at most about `timeout`.
    pub(super) fn wait_for_reports(&self, timeout: Duration) {
        let look = LOOK.max(timeout / 4);
        let mut waited = Duration::ZERO;
        loop {
            self.serve();
            let is_over = {
                let heard = self.heard.lock();
                !heard.reports.is_empty() || heard.broken.is_some() || waited >= timeout
            };
            if is_over {
                return;
            }
            std::thread::sleep(look);
            waited += look;
        }
    }

    /// Why this producer is of no more use, once it is. As of the last look for reports.
    pub(super) fn broken(&self) -> Option<String> {
        self.heard.lock().broken.clone()
    }

    /// The newest trouble that librdkafka works on by itself, told once. As of the last look for reports.
    pub(super) fn take_notice(&self) -> Option<String> {
        self.heard.lock().notice.take()
    }

    /// The cluster's id as of the last answer of a broker. librdkafka caches it, and each question leaks the few
    /// bytes of the text: ask every few seconds, not in a loop.
    pub(super) fn cluster_id(&self) -> Option<String> {
        cluster_id(self.producer.as_ref()?.client(), Duration::from_millis(200))
    }

    /// Drops the producer with all that it still has, in about half a second, and gives the last reports. What it
    /// had sent may still arrive.
    pub(super) fn close(&mut self) -> Vec<Report> {
        // This purges, and hears of what was purged.
        self.producer = None;
        std::mem::take(&mut self.heard.lock().reports)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// What the callbacks have heard.
#[derive(Default)]
struct Heard {
    reports: Vec<Report>,
    broken: Option<String>,
    notice: Option<String>,
}

/// The producer's callbacks. They run within [`Link::serve`], a commit, and the producer's end.
struct Reports {
    heard: Arc<Mutex<Heard>>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    /// Called twice for each error (rdkafka 0.39), so nothing is counted here.
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            let broken = &mut self.heard.lock().broken;
            broken.get_or_insert_with(|| format!("fatal: {reason}"));
        } else {
            let notice = format!("{error}: {}", without_times(reason));
            self.heard.lock().notice = Some(notice);
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, sequence: usize) {
        let (message, outcome, broken) = match result {
            Ok(message) => (
                message,
                Outcome::Acknowledged {
                    offset: message.offset(),
                },
                None,
            ),
            Err((error, message)) => {
                let outcome = outcome_of(error.rdkafka_error_code());
                let refused = matches!(outcome, Outcome::Refused { .. });
                let broken = refused.then(|| format!("record {sequence} failed: {error}"));
                (message, outcome, broken)
            }
        };
        // A partition that is no number of ours fits nothing that was sent, which is noticed there.
        let partition = u32::try_from(message.partition()).unwrap_or(u32::MAX);
        let sequence = Sequence::new(u64::try_from(sequence).unwrap_or(u64::MAX));
        let mut heard = self.heard.lock();
        heard.reports.push(Report {
            partition,
            sequence,
            outcome,
        });
        if heard.broken.is_none() {
            heard.broken = broken;
        }
    }
}

fn outcome_of(code: Option<RDKafkaErrorCode>) -> Outcome {
    match code {
        // Purged on our own wish, or in flight when the connection went: it may have arrived.
        Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => Outcome::Unknown,
        Some(
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::MessageBatchTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidTimestamp,
        ) => Outcome::Refused { for_good: true },
        Some(_) | None => Outcome::Refused { for_good: false },
    }
}

/// The callbacks of clients that do not produce. What they hear explains why a question was not answered.
#[derive(Clone, Debug, Default)]
struct Quiet {
    heard: Arc<Mutex<Option<String>>>,
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka");
        let mut heard = self.heard.lock();
        // That no broker can be reached follows from why not, which was told before.
        if heard.is_none() || error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *heard = Some(format!("{error}: {}", without_times(reason)));
        }
    }
}

/// librdkafka ends its texts with how long the broker was in which state; without that the same trouble has the same
/// text.
fn without_times(reason: &str) -> &str {
    reason.split(" (after ").next().unwrap_or(reason)
}

/// librdkafka tells each attempt to reconnect; what an operator has to know, the pipeline tells once.
fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    debug!(?level, facility, message, "librdkafka");
}

fn cluster_id<C: ClientContext>(client: &Client<C>, timeout: Duration) -> Option<String> {
    client.fetch_cluster_id(timeout)
}
