//! Settings of the pipeline.

use super::burst::Bursts;
use crate::journal::EventKind;
use std::time::Duration;

/// Where events go, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Bootstrap brokers, `host:port,host:port`. Default none: nothing is shipped, events wait in the journal and go
    /// out, from the first on, when brokers are configured later.
    pub brokers: Option<String>,
    /// Topic, 1–249 characters. Default `echopay.transactions`. Made when it is missing.
    pub topic: String,
    /// Partitions of a topic that is made; one that exists keeps its own number. Default 6, at most 10,000. Keys move
    /// between partitions when the number changes, so a topic whose number differs from the cursor's is refused.
    pub partitions: u32,
    /// Replicas of a topic that is made. Default −1: as the brokers are set up.
    pub replication: i32,
    /// What a consumer may rely on. Default [`Delivery::Idempotent`].
    pub delivery: Delivery,
    /// How long in milliseconds an event waits for others to leave with. Default 10. Idempotent: events gather for half of
    /// it, up to all of it while the brokers still have those before, and leave together; for another half `linger.ms`
    /// holds them, less 2 ms for the way. Exactly once: how long a transaction gathers before it is committed, at least 1;
    /// `linger.ms` is 1 then.
    pub batch_window_ms: u32,
    /// Records after which a partition's batch leaves before its window ends. Default 10,000, at which the window or the
    /// bytes end it first: each batch is a request, and requests are what a broker's CPU goes into.
    pub batch_size: u32,
    /// Types of events that are shipped. Default the six of transactions and balances; `wallet.opened` and whatever
    /// comes after it only when named. Others count as published, so that the cursor moves on.
    pub event_types: Vec<EventKind>,
    /// Properties of librdkafka, applied after the pipeline's own and so stronger. Default none. This is how TLS and
    /// SASL are set up. Without `enable.idempotence` or `acks=all` an outage may cost records or their order.
    pub overrides: Vec<(String, String)>,
    /// Whether each record also carries the `CloudEvents` 1.0 attributes as headers. Default no: five more headers
    /// halve what one core can produce.
    pub cloudevents: bool,
    /// What to do when the brokers are not the cursor's cluster, the topic lost what it had, or holds what another copy of
    /// this journal went on with. Default `None`: stop shipping, say so, and go on taking writes. Matters only then, and
    /// once in the life of the process: afterwards the cursor belongs to the new cluster.
    pub on_new_cluster: Option<OnNewCluster>,
    /// Longest time in milliseconds that a stop waits for acknowledgements. Default 5,000. What is left then is in
    /// the journal and goes out after the next start.
    pub drain_timeout_ms: u64,
    /// Bytes of committed groups that may wait for the pipeline in memory. Default 16 MiB; beyond that it reads the
    /// journal, and the ledger never waits.
    pub queue_bytes: usize,
    /// Longest time in milliseconds of one question to the brokers while connecting. Default 5,000.
    pub request_timeout_ms: u64,
    /// For how long a topic must end before what was acknowledged until that is believed, in milliseconds. Default 5,000:
    /// a broker that has just come back tells an old end for a moment.
    pub lost_records_confirm_ms: u64,
    /// Idempotent only: for how long a start waits for an open transaction that hides the end of a partition, in
    /// milliseconds. Default 30,000, above what a killed process's transactions take to be given up; afterwards it goes on
    /// and may send events twice. Exactly once waits for its end, however long that takes.
    pub open_transaction_wait_ms: u64,
    /// First pause in milliseconds after a failed connection; doubles up to [`Config::backoff_max_ms`]. Default 100.
    pub backoff_ms: u64,
    /// Longest pause in milliseconds between attempts to connect. Default 5,000.
    pub backoff_max_ms: u64,
    /// Shortest time in milliseconds between two writes of the cursor's file. Default 1,000. What was acknowledged
    /// since the last is found in the partitions' tails.
    pub cursor_interval_ms: u64,
    /// Time in milliseconds without an acknowledgement after which what was sent counts as stalled: the state says so,
    /// and the brokers are asked whether the topic is still there. Default 5,000. A trouble that librdkafka tells of
    /// shows at once.
    pub stall_ms: u64,
    /// Records remembered of those set aside. Default 256; the number of all is in the status.
    pub quarantine_max: usize,
}

/// [`Config::delivery`] decides on transactions, and the brokers have a setting of their own.
const RESERVED: [&str; 2] = ["transactional.id", "bootstrap.servers"];

/// Whether an event can stand in Kafka twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Delivery {
    /// At least once, in order, and once as far as what Kafka holds at a start tells: an event comes twice only where
    /// the network still delivers requests of a process that died, after its successor has looked. Consumers drop what
    /// is not above the last sequence that they have seen in a partition.
    #[default]
    Idempotent,
    /// Once, for consumers with `isolation.level=read_committed`: events go out in transactions, and a start fences
    /// whoever shipped before. Later and costlier; the brokers have to allow the transactional id.
    ExactlyOnce,
}

impl Delivery {
    /// Its word in settings and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idempotent => "idempotent",
            Self::ExactlyOnce => "exactly-once",
        }
    }
}

/// The operator's answer to a cluster or topic that does not have what the cursor says was acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnNewCluster {
    /// Ship everything that the journal has, from the beginning.
    Reship,
    /// Go on behind the cursor; the new topic lacks all before it. Where another copy went on: behind what the topic
    /// holds of ours, so that it lacks nothing.
    Continue,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            brokers: None,
            topic: "echopay.transactions".into(),
            partitions: 6,
            replication: -1,
            delivery: Delivery::default(),
            batch_window_ms: 10,
            batch_size: 10_000,
            event_types: vec![
                EventKind::TransactionCreated,
                EventKind::TransactionCompleted,
                EventKind::TransactionFailed,
                EventKind::TransactionReversed,
                EventKind::FraudScoreUpdated,
                EventKind::BalanceUpdated,
            ],
            overrides: Vec::new(),
            cloudevents: false,
            on_new_cluster: None,
            drain_timeout_ms: 5_000,
            queue_bytes: 16 << 20,
            request_timeout_ms: 5_000,
            lost_records_confirm_ms: 5_000,
            open_transaction_wait_ms: 30_000,
            backoff_ms: 100,
            backoff_max_ms: 5_000,
            cursor_interval_ms: 1_000,
            stall_ms: 5_000,
            quarantine_max: 256,
        }
    }
}

/// A setting that cannot work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// A topic's name that Kafka would refuse.
    #[error(
        "kafka topic {0:?}: 1 to 249 characters of A–Z, a–z, 0–9, '.', '_' and '-' are allowed"
    )]
    Topic(String),
    /// No partition, or far too many.
    #[error("kafka partitions {0}: 1 to 10000 are allowed")]
    Partitions(u32),
    /// Neither a number of replicas nor −1.
    #[error("kafka replication {0}: -1 (the brokers' default) or 1 to 32767 are allowed")]
    Replication(i32),
    /// A batch of none.
    #[error("kafka batch size {0}: 1 to 1000000 are allowed")]
    BatchSize(u32),
    /// A window that makes events late.
    #[error("kafka batch window {0} ms: at most 10000 are allowed")]
    BatchWindow(u32),
    /// Not `key=value`.
    #[error("kafka config {0:?}: expected key=value")]
    Override(String),
    /// A property that the pipeline cannot work with.
    #[error("kafka config {0}: the pipeline does not work with this property")]
    Reserved(String),
    /// A word that names no event type.
    #[error("kafka event type {0:?} is unknown")]
    EventType(String),
}

impl Config {
    /// Most partitions a topic may have here: the cursor keeps a place for each.
    pub const PARTITIONS_MAX: u32 = 10_000;

    /// Checks all that can be checked without a broker.
    ///
    /// # Errors
    /// [`ConfigError`], the first that is found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let name = self.topic.as_str();
        if !(1..=249).contains(&name.len())
            || matches!(name, "." | "..")
            || !name.bytes().all(allowed)
        {
            return Err(ConfigError::Topic(self.topic.clone()));
        }
        if !(1..=Self::PARTITIONS_MAX).contains(&self.partitions) {
            return Err(ConfigError::Partitions(self.partitions));
        }
        if self.replication != -1 && !(1..=32_767).contains(&self.replication) {
            return Err(ConfigError::Replication(self.replication));
        }
        if !(1..=1_000_000).contains(&self.batch_size) {
            return Err(ConfigError::BatchSize(self.batch_size));
        }
        if self.batch_window_ms > 10_000 {
            return Err(ConfigError::BatchWindow(self.batch_window_ms));
        }
        let reserved = |key: &str| RESERVED.contains(&key);
        match self.overrides.iter().find(|(key, _)| reserved(key)) {
            Some((key, _)) => Err(ConfigError::Reserved(key.clone())),
            None => Ok(()),
        }
    }

    /// Whether events of `kind` are shipped.
    pub fn selects(&self, kind: EventKind) -> bool {
        self.event_types.contains(&kind)
    }

    /// [`Config::batch_window_ms`] as a time.
    pub(super) fn batch_window(&self) -> Duration {
        Duration::from_millis(self.batch_window_ms.into())
    }

    /// How long librdkafka gathers a batch: the window less what [`Bursts`] and the way take. In a transaction the window is
    /// that of the transaction, and every batch of it is waited for.
    pub(super) fn linger_ms(&self) -> u32 {
        match self.delivery {
            Delivery::Idempotent => {
                let gather = Bursts::gather(self.batch_window()).as_millis();
                let gather = u32::try_from(gather).unwrap_or(u32::MAX);
                self.batch_window_ms.saturating_sub(gather + 2)
            }
            Delivery::ExactlyOnce => 1,
        }
    }
}

/// Reads one `key=value` of [`Config::overrides`].
///
/// # Errors
/// [`ConfigError::Override`].
pub fn parse_override(text: &str) -> Result<(String, String), ConfigError> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().into(), value.into())),
        Some(_) | None => Err(ConfigError::Override(text.into())),
    }
}

/// Reads a comma-separated list of event types for [`Config::event_types`].
///
/// # Errors
/// [`ConfigError::EventType`].
pub fn parse_event_types(text: &str) -> Result<Vec<EventKind>, ConfigError> {
    text.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(|word| EventKind::parse(word).ok_or_else(|| ConfigError::EventType(word.into())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_ships_the_six_types_of_the_contract() {
        let config = Config::default();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.linger_ms(), 3);
        assert!(config.selects(EventKind::BalanceUpdated));
        assert!(!config.selects(EventKind::WalletOpened));
    }

    #[test]
    fn in_a_transaction_the_window_is_not_also_librdkafkas() {
        let exactly_once = Config {
            delivery: Delivery::ExactlyOnce,
            ..Config::default()
        };
        assert_eq!(exactly_once.batch_window(), Duration::from_millis(10));
        assert_eq!(exactly_once.linger_ms(), 1);
    }

    #[test]
    fn impossible_settings_are_refused_with_their_name() {
        let with = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(with(|c| c.topic = "a b".into()).contains("topic"));
        assert!(with(|c| c.topic = "..".into()).contains("topic"));
        assert!(with(|c| c.partitions = 0).contains("partitions"));
        assert!(with(|c| c.replication = 0).contains("replication"));
        assert!(with(|c| c.batch_size = 0).contains("batch size"));
        assert!(with(|c| c.batch_window_ms = 60_000).contains("window"));
        let transactional = with(|c| c.overrides.push(("transactional.id".into(), "x".into())));
        assert!(transactional.contains("transactional.id"));
    }

    #[test]
    fn overrides_and_event_types_are_read_from_text() {
        let sasl = parse_override("sasl.password=a=b").unwrap();
        assert_eq!(sasl, ("sasl.password".into(), "a=b".into()));
        assert!(parse_override("nothing").is_err());
        assert!(parse_override("=x").is_err());
        assert_eq!(
            parse_event_types("wallet.opened, balance.updated").unwrap(),
            [EventKind::WalletOpened, EventKind::BalanceUpdated]
        );
        assert!(parse_event_types("wallet.closed").is_err());
    }
}
