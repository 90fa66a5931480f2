//! [`Day`]: a service that ships to Kafka while Kafka has a bad day. It pays, reads and listens all the while, looks at
//! what the operator sees, and holds what the topic has against what the service says of it.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use super::kafka::ALL_TYPES;
use crate::kafka::{Acknowledged, assert_in_order, assert_transfers, load};
use crate::support::kafka::{Broker, Record, read_all};
use crate::support::server::{DEADLINE, TestServer, wait_until};
use crate::support::ws_client::WsClient;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use tokio::task::block_in_place;

/// A service with a topic of its own, a subscriber that hears everything, and all that was acknowledged so far.
#[derive(Debug)]
pub(crate) struct Day {
    pub(crate) server: TestServer,
    pub(crate) topic: String,
    brokers: String,
    reads_from: String,
    settings: Vec<String>,
    subscriber: WsClient,
    acknowledged: Vec<Acknowledged>,
}

/// What the end of a day showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ledgered {
    /// Events of the journal, each of which is in the topic.
    pub(crate) events: u64,
    /// Records beyond one for each event.
    pub(crate) repeats: usize,
}

impl Day {
    /// A service that knows `brokers`; what the topic holds is read from `reads_from`. `settings` are flags.
    pub(crate) async fn start(
        hint: &str,
        brokers: &str,
        reads_from: &str,
        settings: &[&str],
    ) -> Self {
        Self::start_on(Broker::fresh_topic(hint), brokers, reads_from, settings).await
    }

    /// The same with a topic that the test has made.
    pub(crate) async fn start_on(
        topic: String,
        brokers: &str,
        reads_from: &str,
        settings: &[&str],
    ) -> Self {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let flags = flags(brokers, &topic, &settings, &[]);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let server = TestServer::start_with(&flags).await;
        let subscriber = subscriber(&server).await;
        Self {
            server,
            topic,
            brokers: brokers.into(),
            reads_from: reads_from.into(),
            settings,
            subscriber,
            acknowledged: Vec::new(),
        }
    }

    /// Other flags from the next start on.
    pub(crate) fn set(&mut self, settings: &[&str]) {
        self.settings = settings.iter().map(ToString::to_string).collect();
    }

    /// Starts the service again, with more flags for this one time.
    pub(crate) async fn restart_with(&mut self, more: &[&str]) {
        let flags = flags(&self.brokers, &self.topic, &self.settings, more);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        self.server.restart_with(&flags).await;
        self.subscriber = subscriber(&self.server).await;
    }

    /// `count` transfers by many clients: each is acknowledged, can be read, and is heard by the subscriber.
    pub(crate) async fn pay(&mut self, count: u64) {
        let paid = load(&self.server.client(), count, &AtomicU64::new(0)).await;
        assert_eq!(paid.len() as u64, count, "every payment was answered");
        let read = self.server.get(&paid[0].path()).await;
        assert_eq!(read.status, 200, "{}", read.body);
        let mut unheard: BTreeSet<&str> = paid.iter().map(Acknowledged::transaction).collect();
        while !unheard.is_empty() {
            let update = self.subscriber.hear_update().await;
            if update.status == "completed" {
                unheard.remove(update.transaction.as_str());
            }
        }
        self.acknowledged.extend(paid);
    }

    /// Pays until `condition` holds, a little each time.
    #[track_caller]
    pub(crate) fn pay_until(
        &mut self,
        what: &str,
        mut condition: impl AsyncFnMut(&TestServer) -> bool,
    ) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let paying = async {
                while !condition(&self.server).await {
                    self.pay(5).await;
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            };
            let in_time = tokio::time::timeout(DEADLINE, paying).await;
            assert!(
                in_time.is_ok(),
                "{caller}: paid {DEADLINE:?} in vain until {what}"
            );
        }
    }

    /// The number behind `name` in `/metrics`, labels included in the name.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> impl Future<Output = u64> {
        let caller = std::panic::Location::caller();
        async move {
            let metrics = self.server.get("/metrics").await.body;
            let line = metrics
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            match line {
                Some(value) => value.parse().unwrap(),
                None => panic!("{caller}: no metric {name} in\n{metrics}"),
            }
        }
    }

    /// The one state in which the pipeline is by `/metrics`, and what `/readyz` says: status and the text for Kafka.
    pub(crate) async fn operator(&self) -> (String, u16, String) {
        let metrics = self.server.get("/metrics").await.body;
        let mut states = metrics.lines().filter_map(|line| {
            line.strip_prefix("echopay_kafka_state{state=\"")?
                .strip_suffix("\"} 1")
        });
        let state = states.next().unwrap().to_owned();
        assert_eq!(states.next(), None, "one state at a time");
        let ready = self.server.get("/readyz").await;
        let kafka = ready.json()["components"]["kafka"]
            .as_str()
            .unwrap()
            .to_owned();
        (state, ready.status, kafka)
    }

    /// Waits until `/metrics` shows `state`; gives what `/readyz` says then.
    pub(crate) async fn wait_for_state(&self, wanted: &str) -> (u16, String) {
        let mut seen = (0, String::new());
        let what = format!("the pipeline is {wanted}");
        wait_until(DEADLINE, &what, async || {
            let (state, status, kafka) = self.operator().await;
            seen = (status, kafka);
            state == wanted
        })
        .await;
        seen
    }

    /// What the service says is in Kafka is there: asked before the topic is read, so that it can only be more.
    pub(crate) async fn assert_published_is_there(&self) -> u64 {
        let published = self.marks().await.0;
        let held: BTreeSet<u64> = self.records().iter().map(Record::sequence).collect();
        let missing = (1..=published).find(|sequence| !held.contains(sequence));
        assert_eq!(missing, None, "published is {published}");
        published
    }

    /// Published and durable.
    pub(crate) async fn marks(&self) -> (u64, u64) {
        let marks = self.server.get("/api/v1/sequence").await.json();
        (
            marks["published"].as_u64().unwrap(),
            marks["durable"].as_u64().unwrap(),
        )
    }

    /// Waits until everything durable is published.
    pub(crate) async fn wait_for_published(&self) -> u64 {
        crate::kafka::published(&self.server).await
    }

    /// What the topic holds now.
    pub(crate) fn records(&self) -> Vec<Record> {
        block_in_place(|| read_all(&self.reads_from, &self.topic))
    }

    /// Waits until everything is published, then: every event of the journal is in the topic; to a consumer that drops
    /// what is not above the last sequence of its partition, all of it comes once and in order; and each acknowledged
    /// payment has its events.
    pub(crate) async fn end(&self) -> Ledgered {
        self.end_without(&BTreeSet::new()).await
    }

    /// The same but for events that were set aside.
    pub(crate) async fn end_without(&self, aside: &BTreeSet<u64>) -> Ledgered {
        let last = self.wait_for_published().await;
        let records = self.records();
        let total = records.len();
        let taken = as_a_consumer_takes_them(records);
        assert_in_order(&taken);
        assert_complete(&taken, 1, last, aside);
        let whole = self
            .acknowledged
            .iter()
            .filter(|paid| !paid.any_of(aside))
            .cloned();
        let whole: Vec<Acknowledged> = whole.collect();
        if aside.is_empty() {
            assert_transfers(&taken, &whole);
        }
        let ledgered = Ledgered {
            events: last,
            repeats: total - taken.len(),
        };
        self.tell(ledgered).await;
        ledgered
    }

    /// Figures for whoever runs the tests with `--nocapture`.
    async fn tell(&self, ledgered: Ledgered) {
        let counted = self.metric("echopay_kafka_repeated_total").await;
        let failed = self.metric("echopay_kafka_failed_total").await;
        let topic = &self.topic;
        eprintln!("{topic}: {ledgered:?}, counted as repeated {counted}, failed {failed}");
    }

    /// After an order to ship everything again into a topic that had begun in the middle: what was told last is
    /// everything, in order.
    pub(crate) async fn end_reshipped(&self) -> Ledgered {
        let last = self.wait_for_published().await;
        let records = self.records();
        let total = records.len();
        let again = as_told_last(records);
        assert_in_order(&again);
        assert_complete(&again, 1, last, &BTreeSet::new());
        assert_transfers(&again, &self.acknowledged);
        let ledgered = Ledgered {
            events: last,
            repeats: total - again.len(),
        };
        self.tell(ledgered).await;
        ledgered
    }

    /// After an order to go on in another topic, which may have begun in the middle as well: what was told last has
    /// everything behind `published`, in order.
    pub(crate) async fn end_behind(&self, published: u64) -> Ledgered {
        let last = self.wait_for_published().await;
        let records = self.records();
        let total = records.len();
        let taken = as_told_last(records);
        assert_rising(&taken);
        let held: BTreeSet<u64> = taken.iter().map(Record::sequence).collect();
        let missing = (published + 1..=last).find(|sequence| !held.contains(sequence));
        assert_eq!(missing, None, "everything behind {published} is there");
        let ledgered = Ledgered {
            events: last - published,
            repeats: total - taken.len(),
        };
        self.tell(ledgered).await;
        ledgered
    }
}

#[track_caller]
fn assert_complete(records: &[Record], first: u64, last: u64, aside: &BTreeSet<u64>) {
    let held: BTreeSet<u64> = records.iter().map(Record::sequence).collect();
    let due = (first..=last).filter(|sequence| !aside.contains(sequence));
    let due: BTreeSet<u64> = due.collect();
    let missing: Vec<_> = due.difference(&held).take(10).collect();
    let beyond: Vec<_> = held.difference(&due).take(10).collect();
    assert!(
        missing.is_empty() && beyond.is_empty(),
        "missing {missing:?}, too many {beyond:?}"
    );
}

fn flags(brokers: &str, topic: &str, settings: &[String], more: &[&str]) -> Vec<String> {
    let own = [
        "--kafka-brokers",
        brokers,
        "--kafka-topic",
        topic,
        "--kafka-event-types",
        ALL_TYPES,
    ];
    let own = own.iter().chain(more).map(ToString::to_string);
    own.chain(settings.iter().cloned()).collect()
}

async fn subscriber(server: &TestServer) -> WsClient {
    let mut subscriber = WsClient::connect(server.addr()).await;
    subscriber.subscribed(json!({})).await;
    subscriber
}

/// The rule for consumers: what is not above the last sequence seen in its partition was seen before. A repeat is the
/// same event again, never another one.
pub(crate) fn as_a_consumer_takes_them(mut records: Vec<Record>) -> Vec<Record> {
    let mut newest: BTreeMap<i32, u64> = BTreeMap::new();
    let mut known: BTreeMap<u64, serde_json::Value> = BTreeMap::new();
    records.retain(|record| {
        let sequence = record.sequence();
        let before = known.entry(sequence).or_insert_with(|| record.json.clone());
        assert_eq!(*before, record.json, "one sequence, two events");
        let newest = newest.entry(record.partition).or_default();
        let is_new = sequence > *newest;
        *newest = sequence.max(*newest);
        is_new
    });
    records
}

/// Of each event the last record. Where a topic had begun in the middle, consumers have to take it from where it was
/// told again.
fn as_told_last(mut records: Vec<Record>) -> Vec<Record> {
    let mut seen = BTreeSet::new();
    records.reverse();
    records.retain(|record| seen.insert(record.sequence()));
    records.reverse();
    records
}

#[track_caller]
fn assert_rising(records: &[Record]) {
    for pair in records.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        assert!(
            before.partition != after.partition || before.sequence() < after.sequence(),
            "{} stands behind {}",
            after.json,
            before.json
        );
    }
}
