//! One function per observation; the only place that names the metrics crate.
//!
//! What happens often is counted here as it happens, in families of few, static labels: an observation takes a lock for
//! some nanoseconds and allocates nothing once its labels were seen. What the parts know anyway (watermarks, queue
//! lengths, totals of the pipeline) is not counted twice: [`Gauges`] brings it along when somebody scrapes. Names, types
//! and labels are an interface: `docs/METRICS.md`, held against the rendered text by a test below.

use crate::types::Sequence;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeGaugeValue, EncodeLabelSet};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Buckets for times, in seconds: from a sync of a fast disk (50 µs) to what a client gives up at (10 s).
const LATENCY_BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];

/// First and number of the buckets for what is held against a bound, in seconds: from 20 µs to 15 s, each √2 times the one
/// before. Of commits the ratio of the longest to the median tells of pauses; the way to Kafka is a few windows long.
const FINE_BUCKET_FIRST: f64 = 0.000_02;
const FINE_BUCKETS: u16 = 40;

/// Buckets for how many go together in a group or batch.
const COUNT_BUCKETS: [f64; 13] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0,
];

/// First and number of the buckets for stages, in seconds: from 1 µs to 32 ms, each twice the one before.
const STAGE_BUCKET_FIRST: f64 = 0.000_001;
const STAGE_BUCKETS: u16 = 16;

/// A step of the hot path that is timed once a group. The names are those of the benches: `docs/METRICS.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The ledger's rules, for all commands of a group.
    Decide,
    /// A group's entries to pages.
    Encode,
    /// A group's entries to the subscribers who want to hear of them.
    Match,
}

impl Stage {
    /// The value of the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Encode => "encode",
            Self::Match => "match",
        }
    }
}

/// Counts and times; cheap to clone, usable from any thread.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    http_requests: Family<RequestLabels, Counter>,
    http_request_seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    http_connections: Counter,
    http_connections_open: Gauge,
    commits: Counter,
    commit_entries: Histogram,
    commit_events: Counter,
    commit_bytes: Counter,
    commit_payload_bytes: Counter,
    commit_seconds: Histogram,
    commit_longest_seconds: Gauge<f64, AtomicU64>,
    commit_write_seconds: Histogram,
    commit_sync_seconds: Histogram,
    stage_seconds: Family<StageLabels, Histogram, fn() -> Histogram>,
    ledger_busy: Counter,
    ledger_refusals: Family<RefusalLabels, Counter>,
    checkpoint_rounds: Counter,
    checkpoint_bytes: Counter,
    checkpoint_round_seconds: Histogram,
    rotation_seconds: Histogram,
    kafka_batch_records: Histogram,
    kafka_commit_to_ack_seconds: Histogram,
    ws_closes: Family<CloseLabels, Counter>,
    ws_updates: Counter,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: &'static str,
    status: u16,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RefusalLabels {
    code: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct CloseLabels {
    code: u16,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// Where answers of one kind are counted.
#[derive(Clone, Debug)]
pub struct HttpAnswers {
    labels: RequestLabels,
    requests: Counter,
    seconds: Histogram,
}

impl HttpAnswers {
    /// Whether these are the answers of that kind.
    pub fn are(&self, method: &str, route: &str, status: u16) -> bool {
        let labels = &self.labels;
        labels.status == status && labels.route == route && labels.method == method
    }

    /// One was given.
    pub fn observe(&self, took: Duration) {
        self.requests.inc();
        self.seconds.observe(took.as_secs_f64());
    }
}

fn latency_histogram() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

fn fine_histogram() -> Histogram {
    let step = std::f64::consts::SQRT_2;
    Histogram::new(exponential_buckets(FINE_BUCKET_FIRST, step, FINE_BUCKETS))
}

fn stage_histogram() -> Histogram {
    Histogram::new(exponential_buckets(STAGE_BUCKET_FIRST, 2.0, STAGE_BUCKETS))
}

fn count_histogram() -> Histogram {
    Histogram::new(COUNT_BUCKETS)
}

impl Default for Shared {
    fn default() -> Self {
        let mut shared = Self {
            registry: Registry::default(),
            http_requests: Family::default(),
            http_request_seconds: Family::new_with_constructor(latency_histogram),
            http_connections: Counter::default(),
            http_connections_open: Gauge::default(),
            commits: Counter::default(),
            commit_entries: count_histogram(),
            commit_events: Counter::default(),
            commit_bytes: Counter::default(),
            commit_payload_bytes: Counter::default(),
            commit_seconds: fine_histogram(),
            commit_longest_seconds: Gauge::default(),
            commit_write_seconds: latency_histogram(),
            commit_sync_seconds: latency_histogram(),
            stage_seconds: Family::new_with_constructor(stage_histogram),
            ledger_busy: Counter::default(),
            ledger_refusals: Family::default(),
            checkpoint_rounds: Counter::default(),
            checkpoint_bytes: Counter::default(),
            checkpoint_round_seconds: latency_histogram(),
            rotation_seconds: latency_histogram(),
            kafka_batch_records: count_histogram(),
            kafka_commit_to_ack_seconds: fine_histogram(),
            ws_closes: Family::default(),
            ws_updates: Counter::default(),
        };
        shared.registry = shared.register();
        shared
    }
}

impl Shared {
    /// The help texts are the first column of `docs/METRICS.md` in other words; the full story is there.
    #[expect(clippy::too_many_lines, reason = "a table: one metric after the other")]
    fn register(&self) -> Registry {
        let mut registry = Registry::with_prefix("echopay");
        let seconds = Unit::Seconds;

        registry.register(
            "http_requests",
            "Answered requests",
            self.http_requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "Time from the request's head to the answer's head",
            seconds.clone(),
            self.http_request_seconds.clone(),
        );
        registry.register(
            "http_connections",
            "Accepted",
            self.http_connections.clone(),
        );
        registry.register(
            "http_connections_open",
            "Open now",
            self.http_connections_open.clone(),
        );

        registry.register("commits", "Groups made durable", self.commits.clone());
        registry.register(
            "commit_entries",
            "Entries in a group",
            self.commit_entries.clone(),
        );
        registry.register(
            "commit_events",
            "Events made durable",
            self.commit_events.clone(),
        );
        registry.register_with_unit(
            "commit_size",
            "Pages written to the journal",
            Unit::Bytes,
            self.commit_bytes.clone(),
        );
        registry.register_with_unit(
            "commit_payload",
            "Entries written to the journal, without the frames of their pages",
            Unit::Bytes,
            self.commit_payload_bytes.clone(),
        );
        registry.register_with_unit(
            "commit_duration",
            "Time to make a group durable",
            seconds.clone(),
            self.commit_seconds.clone(),
        );
        registry.register_with_unit(
            "commit_longest",
            "The longest of them since the start",
            seconds.clone(),
            self.commit_longest_seconds.clone(),
        );
        registry.register_with_unit(
            "commit_write",
            "Time to write a group, before its sync",
            seconds.clone(),
            self.commit_write_seconds.clone(),
        );
        registry.register_with_unit(
            "commit_sync",
            "Time to sync a group to the disk",
            seconds.clone(),
            self.commit_sync_seconds.clone(),
        );
        registry.register_with_unit(
            "stage_duration",
            "Time of a group in a stage",
            seconds.clone(),
            self.stage_seconds.clone(),
        );
        registry.register(
            "ledger_busy",
            "Refused: queue full",
            self.ledger_busy.clone(),
        );
        registry.register(
            "ledger_refusals",
            "Refused by a rule",
            self.ledger_refusals.clone(),
        );
        registry.register(
            "checkpoint_rounds",
            "Rounds ended",
            self.checkpoint_rounds.clone(),
        );
        registry.register_with_unit(
            "checkpoint_size",
            "Checkpoint files written",
            Unit::Bytes,
            self.checkpoint_bytes.clone(),
        );
        registry.register_with_unit(
            "checkpoint_round_duration",
            "Time of a round over all parts of the derived state",
            seconds.clone(),
            self.checkpoint_round_seconds.clone(),
        );
        registry.register_with_unit(
            "journal_rotation_duration",
            "Time that commits waited for a new volume",
            seconds.clone(),
            self.rotation_seconds.clone(),
        );

        registry.register(
            "kafka_batch_records",
            "In a batch",
            self.kafka_batch_records.clone(),
        );
        registry.register_with_unit(
            "kafka_commit_to_ack",
            "Time from decided here to acknowledged by Kafka",
            seconds,
            self.kafka_commit_to_ack_seconds.clone(),
        );

        registry.register(
            "ws_closes",
            "Connections closed by us",
            self.ws_closes.clone(),
        );
        registry.register("ws_updates", "Updates queued", self.ws_updates.clone());
        registry
    }
}

impl Metrics {
    /// Where the answers of one kind are counted, looked up once for many of them. `route` is the pattern
    /// (`/api/v1/transactions/{id}`), never the path itself.
    pub fn http_answers(
        &self,
        method: &'static str,
        route: &'static str,
        status: u16,
    ) -> HttpAnswers {
        let labels = RequestLabels {
            method,
            route,
            status,
        };
        let times = RouteLabels { method, route };
        HttpAnswers {
            requests: self.shared.http_requests.get_or_create_owned(&labels),
            seconds: self.shared.http_request_seconds.get_or_create_owned(&times),
            labels,
        }
    }

    /// An HTTP connection was accepted.
    pub fn observe_http_connection_opened(&self) {
        self.shared.http_connections.inc();
        self.shared.http_connections_open.inc();
    }

    /// An HTTP connection ended.
    pub fn observe_http_connection_closed(&self) {
        self.shared.http_connections_open.dec();
    }

    /// A group was committed: entries, events, bytes of its pages and of the entries in them, time to write and time to
    /// sync. Only one thread may observe commits.
    pub fn observe_commit(
        &self,
        entries: usize,
        events: u64,
        size_bytes: usize,
        payload_bytes: usize,
        write: Duration,
        sync: Duration,
    ) {
        self.shared.commits.inc();
        self.shared.commit_entries.observe(as_f64(entries));
        self.shared.commit_events.inc_by(events);
        self.shared.commit_bytes.inc_by(as_u64(size_bytes));
        self.shared
            .commit_payload_bytes
            .inc_by(as_u64(payload_bytes));
        let took_seconds = (write + sync).as_secs_f64();
        self.shared.commit_seconds.observe(took_seconds);
        if took_seconds > self.shared.commit_longest_seconds.get() {
            self.shared.commit_longest_seconds.set(took_seconds);
        }
        self.shared
            .commit_write_seconds
            .observe(write.as_secs_f64());
        self.shared.commit_sync_seconds.observe(sync.as_secs_f64());
    }

    /// A group went through a stage.
    pub fn observe_stage(&self, stage: Stage, took: Duration) {
        let stage = stage.as_str();
        self.shared
            .stage_seconds
            .get_or_create(&StageLabels { stage })
            .observe(took.as_secs_f64());
    }

    /// The ledger refused a command because its queue was full.
    pub fn observe_ledger_busy(&self) {
        self.shared.ledger_busy.inc();
    }

    /// The ledger answered a command: refused by a rule (`code` as on the wire).
    pub fn observe_ledger_refusal(&self, code: &'static str) {
        self.shared
            .ledger_refusals
            .get_or_create(&RefusalLabels { code })
            .inc();
    }

    /// A checkpoint round ended.
    pub fn observe_checkpoint_round(&self, took: Duration, size_bytes: u64) {
        self.shared.checkpoint_rounds.inc();
        self.shared.checkpoint_bytes.inc_by(size_bytes);
        self.shared
            .checkpoint_round_seconds
            .observe(took.as_secs_f64());
    }

    /// The journal went to a new volume.
    pub fn observe_rotation(&self, took: Duration) {
        self.shared.rotation_seconds.observe(took.as_secs_f64());
    }

    /// Kafka acknowledged a batch of so many records.
    pub fn observe_kafka_batch(&self, records: usize) {
        self.shared.kafka_batch_records.observe(as_f64(records));
    }

    /// All events of one millisecond, and all before them, are acknowledged by Kafka, so long after they were decided.
    pub fn observe_kafka_ack(&self, took: Duration) {
        self.shared
            .kafka_commit_to_ack_seconds
            .observe(took.as_secs_f64());
    }

    /// A subscriber's connection was closed with this close code.
    pub fn observe_ws_close(&self, code: u16) {
        self.shared
            .ws_closes
            .get_or_create(&CloseLabels { code })
            .inc();
    }

    /// So many updates were queued to subscribers.
    pub fn observe_ws_updates(&self, count: u64) {
        self.shared.ws_updates.inc_by(count);
    }

    /// Everything as `OpenMetrics` text ([`CONTENT_TYPE`]): what was counted here, and `gauges` as of now.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut text = String::with_capacity(16 * 1024);
        let rendered = encode_registry(&mut text, &self.shared.registry)
            .and_then(|()| encode_registry(&mut text, &gauges.register()))
            .and_then(|()| encode_eof(&mut text));
        // Invariant: writing to a String cannot fail; text without its EOF marker would be refused by the scraper.
        debug_assert!(rendered.is_ok());
        text
    }
}

/// What the Kafka pipeline is doing, as `echopay_kafka_state` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KafkaState {
    /// No brokers are configured.
    #[default]
    Off,
    /// On the way to the brokers.
    Connecting,
    /// Shipping.
    Running,
    /// Sent, but not acknowledged.
    Stalled,
    /// Waits for the operator.
    Stopped,
}

impl KafkaState {
    const ALL: [Self; 5] = [
        Self::Off,
        Self::Connecting,
        Self::Running,
        Self::Stalled,
        Self::Stopped,
    ];

    /// The word in the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Connecting => "connecting",
            Self::Running => "running",
            Self::Stalled => "stalled",
            Self::Stopped => "stopped",
        }
    }
}

/// What the parts know at the moment of a scrape. Totals count since the start of the process, like all counters.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Gauges {
    /// Since the start of the process.
    pub uptime: Duration,
    /// Last durable sequence.
    pub durable: Sequence,
    /// Last sequence of the prefix that Kafka has acknowledged.
    pub published: Sequence,
    /// Last sequence handed to the subscribers' queues.
    pub delivered: Sequence,
    /// `<journal id>/<epoch>`, shown as the label of `echopay_journal_info`.
    pub journal: String,
    /// On disk, all volumes.
    pub journal_bytes: u64,
    /// Age of the sync under way; zero when there is none. A disk that hangs shows here first.
    pub sync_age: Duration,
    /// Free on the data folder's disk when it was last asked.
    pub disk_free_bytes: u64,
    /// Free bytes below which writes are refused.
    pub disk_reserve_bytes: u64,
    /// Commands waiting for the ledger thread.
    pub ledger_queue_commands: u64,
    /// Wallets with an account.
    pub wallets: u64,
    /// Holds not yet captured, voided or expired.
    pub holds_open: u64,
    /// What the pipeline is doing.
    pub kafka_state: KafkaState,
    /// Durable events that Kafka has not acknowledged.
    pub kafka_lag_events: u64,
    /// Age of the oldest of them, in seconds.
    pub kafka_lag_seconds: f64,
    /// Events handed to the producer.
    pub kafka_published_total: u64,
    /// Events acknowledged by Kafka.
    pub kafka_acknowledged_total: u64,
    /// Failed delivery reports and refused sends.
    pub kafka_failed_total: u64,
    /// Events sent again that were, or may have been, there already.
    pub kafka_repeated_total: u64,
    /// Records set aside because the broker refuses them for good.
    pub kafka_quarantined_total: u64,
    /// Open WebSocket connections.
    pub ws_connections: u64,
    /// Subscriptions on them.
    pub ws_subscriptions: u64,
    /// Bytes in their queues.
    pub ws_queue_bytes: u64,
}

impl Gauges {
    #[expect(clippy::too_many_lines, reason = "a table: one metric after the other")]
    fn register(&self) -> Registry {
        let mut registry = Registry::with_prefix("echopay");
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "What is running", Info::new(build));
        let journal = [("journal", self.journal.clone())];
        registry.register(
            "journal",
            "Which history the sequences number",
            Info::new(journal),
        );

        let mut at = Scrape { registry };
        at.gauge(
            "uptime_seconds",
            "Since the start",
            self.uptime.as_secs_f64(),
        );
        at.gauge("durable_sequence", "Last durable", self.durable.get());
        at.gauge(
            "published_sequence",
            "Last acknowledged by Kafka",
            self.published.get(),
        );
        at.gauge(
            "delivered_sequence",
            "Last handed to subscribers",
            self.delivered.get(),
        );
        at.gauge("journal_bytes", "On disk, all volumes", self.journal_bytes);
        at.gauge(
            "journal_sync_age_seconds",
            "Sync under way",
            self.sync_age.as_secs_f64(),
        );
        at.gauge(
            "disk_free_bytes",
            "Free on the data folder's disk",
            self.disk_free_bytes,
        );
        at.gauge(
            "disk_reserve_bytes",
            "Writes are refused below",
            self.disk_reserve_bytes,
        );
        at.gauge(
            "ledger_queue_commands",
            "Waiting",
            self.ledger_queue_commands,
        );
        at.gauge("wallets", "With an account", self.wallets);
        at.gauge(
            "holds_open",
            "Not captured, voided or expired",
            self.holds_open,
        );

        at.gauge(
            "kafka_lag_events",
            "Durable, not acknowledged",
            self.kafka_lag_events,
        );
        at.gauge(
            "kafka_lag_seconds",
            "Age of the oldest of them",
            self.kafka_lag_seconds,
        );
        at.counter(
            "kafka_published",
            "Handed to the producer",
            self.kafka_published_total,
        );
        at.counter(
            "kafka_acknowledged",
            "Acknowledged",
            self.kafka_acknowledged_total,
        );
        at.counter(
            "kafka_failed",
            "Failed reports, refused sends",
            self.kafka_failed_total,
        );
        at.counter("kafka_repeated", "Sent again", self.kafka_repeated_total);
        at.counter(
            "kafka_quarantined",
            "Set aside",
            self.kafka_quarantined_total,
        );
        let states = Family::<StateLabels, Gauge>::default();
        for state in KafkaState::ALL {
            let is = i64::from(state == self.kafka_state);
            states
                .get_or_create(&StateLabels {
                    state: state.as_str(),
                })
                .set(is);
        }
        at.registry
            .register("kafka_state", "1 at the state that it is in", states);

        at.gauge(
            "ws_connections",
            "Open WebSocket connections",
            self.ws_connections,
        );
        at.gauge(
            "ws_subscriptions",
            "Subscriptions on them",
            self.ws_subscriptions,
        );
        at.gauge(
            "ws_queue_bytes",
            "Waiting in their queues",
            self.ws_queue_bytes,
        );
        at.registry
    }
}

/// The registry of one scrape, filled with constants.
struct Scrape {
    registry: Registry,
}

impl Scrape {
    fn gauge<N>(&mut self, name: &str, help: &str, value: N)
    where
        N: EncodeGaugeValue + Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        self.registry.register(name, help, ConstGauge::new(value));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.registry.register(name, help, ConstCounter::new(value));
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a histogram's sum is a float; counts stay small"
)]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const MS: Duration = Duration::from_millis(1);

    fn each_observed_once() -> Metrics {
        let metrics = Metrics::default();
        metrics.http_answers("GET", "/health", 200).observe(MS);
        metrics.observe_http_connection_opened();
        metrics.observe_commit(3, 12, 900, 700, MS, 2 * MS);
        metrics.observe_commit(1, 4, 100, 80, MS, MS);
        metrics.observe_stage(Stage::Encode, MS);
        metrics.observe_ledger_busy();
        metrics.observe_ledger_refusal("INSUFFICIENT_FUNDS");
        metrics.observe_checkpoint_round(MS, 4096);
        metrics.observe_rotation(MS);
        metrics.observe_kafka_batch(100);
        metrics.observe_kafka_ack(7 * MS);
        metrics.observe_ws_close(4008);
        metrics.observe_ws_updates(2);
        metrics
    }

    #[test]
    fn what_was_observed_is_what_is_rendered() {
        let metrics = each_observed_once();
        metrics.observe_http_connection_opened();
        metrics.observe_http_connection_closed();
        let gauges = Gauges {
            durable: Sequence::new(12),
            kafka_state: KafkaState::Running,
            kafka_acknowledged_total: 8,
            kafka_lag_seconds: 0.25,
            ..Gauges::default()
        };
        let text = metrics.clone().render(&gauges);
        for line in [
            r#"echopay_http_requests_total{method="GET",route="/health",status="200"} 1"#,
            "echopay_http_connections_total 2",
            "echopay_http_connections_open 1",
            "echopay_commits_total 2",
            "echopay_commit_events_total 16",
            "echopay_commit_size_bytes_total 1000",
            "echopay_commit_payload_bytes_total 780",
            "echopay_commit_longest_seconds 0.003",
            "echopay_commit_entries_sum 4.0",
            "echopay_commit_sync_seconds_count 2",
            r#"echopay_stage_duration_seconds_count{stage="encode"} 1"#,
            r#"echopay_ledger_refusals_total{code="INSUFFICIENT_FUNDS"} 1"#,
            r#"echopay_ws_closes_total{code="4008"} 1"#,
            "echopay_durable_sequence 12",
            "echopay_kafka_acknowledged_total 8",
            "echopay_kafka_lag_seconds 0.25",
            r#"echopay_kafka_state{state="running"} 1"#,
            r#"echopay_kafka_state{state="stopped"} 0"#,
        ] {
            assert!(
                text.lines().any(|rendered| rendered == line),
                "no line {line} in\n{text}"
            );
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_millisecond_counts_in_its_bucket_and_in_those_above() {
        let text = each_observed_once().render(&Gauges::default());
        let bucket = |le: &str, count: u32| {
            let line = format!("echopay_commit_write_seconds_bucket{{le=\"{le}\"}} {count}");
            assert!(text.contains(&line), "no {line} in\n{text}");
        };
        bucket("0.0005", 0);
        bucket("0.001", 2);
        bucket("10.0", 2);
        bucket("+Inf", 2);
    }

    /// `name type` of each metric, as in the first two columns of the documentation's tables.
    fn documented() -> BTreeSet<String> {
        include_str!("../docs/METRICS.md")
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| `")?.split('|');
                let name = cells.next()?.trim().trim_end_matches('`');
                Some(format!("{name} {}", cells.next()?.trim()))
            })
            .collect()
    }

    #[test]
    fn the_documentation_lists_what_is_rendered_and_nothing_else() {
        let text = each_observed_once().render(&Gauges::default());
        let rendered: BTreeSet<String> = text
            .lines()
            .filter_map(|line| {
                let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
                let suffix = match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                Some(format!("{name}{suffix} {kind}"))
            })
            .collect();
        assert_eq!(rendered, documented());
    }

    #[test]
    fn every_number_says_its_unit_or_counts_things() {
        let text = each_observed_once().render(&Gauges::default());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("echopay_"), "{line}");
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(!name.contains("_ms") && !name.contains("_millis"), "{name}");
        }
    }
}
