//! `--kafka-delivery exactly-once`: a `read_committed` consumer sees every event once and in order, whoever dies and
//! whatever the network still delivers afterwards. (librdkafka's consumers, and so [`read_all`], are `read_committed`.)

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::kafka::{assert_in_order, assert_transfers, load, published};
use crate::kafka_pipeline::{
    PATIENCE, World, assert_whole, config, wait_for, wait_for_published, wait_for_stopped,
};
use crate::support::kafka::ALL_TYPES;
use crate::support::kafka::{Broker, Record, read_all, read_until};
use crate::support::proxy::{Proxy, Way};
use crate::support::server::{Client, DEADLINE, TestServer, wait_until};
use echopay::pipeline::{self, Delivery, PipelineState};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::block_in_place;

fn exactly_once(brokers: &str, topic: &str) -> pipeline::Config {
    pipeline::Config {
        delivery: Delivery::ExactlyOnce,
        ..config(brokers, topic)
    }
}

/// As [`exactly_once`], with transactions that the brokers give up after 4 s and not after 15.
fn impatient(brokers: &str, topic: &str) -> pipeline::Config {
    let short = [
        ("transaction.timeout.ms", "4000"),
        ("message.timeout.ms", "3000"),
        ("socket.timeout.ms", "2000"),
        ("request.timeout.ms", "2000"),
    ];
    pipeline::Config {
        overrides: short.map(|(key, value)| (key.into(), value.into())).into(),
        ..exactly_once(brokers, topic)
    }
}

/// Waits until the server has published `count` more events than at the time of the call.
async fn published_more(client: &Client, count: u64) {
    let published = async || {
        let marks = client.get("/api/v1/sequence").await.json();
        marks["published"].as_u64().unwrap()
    };
    let before = published().await;
    wait_until(DEADLINE, "events are published", async || {
        published().await >= before + count
    })
    .await;
}

fn sequences(records: &[Record]) -> Vec<u64> {
    let mut sequences: Vec<u64> = records.iter().map(Record::sequence).collect();
    sequences.sort_unstable();
    sequences
}

#[test]
fn everything_is_committed_once_over_stops_and_starts() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("once");
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    world.transfer(300);
    for _ in 0..3 {
        let settings = pipeline::Config {
            // Far from over when the stop comes.
            batch_window_ms: 2_000,
            ..exactly_once(broker.addresses(), &topic)
        };
        let (handle, stopper) = world.start(dir.path(), settings).unwrap();
        world.transfer(100);
        wait_for_published(&handle, &world);
        let expected = usize::try_from(world.journal.durable().get()).unwrap();
        // A commit is answered before its markers stand in every partition.
        read_until(broker.addresses(), &topic, "all is committed", |records| {
            records.len() == expected
        });
        world.transfer(100);
        assert!(stopper.stop(PATIENCE), "a stop commits what is durable");
        let status = handle.status();
        assert_eq!(status.acknowledged_total, status.published_total);
        assert_eq!((status.repeated_total, status.failed_total), (0, 0));
    }
    let durable = world.journal.durable();
    let count = usize::try_from(durable.get()).unwrap();
    let records = read_until(broker.addresses(), &topic, "all is committed", |records| {
        records.len() == count
    });
    assert_whole(&records, durable);
}

#[test]
fn a_change_between_the_deliveries_goes_on_where_the_other_stopped() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("change");
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    let (first, second) = (config, exactly_once);
    for config in [first, second, first] {
        world.transfer(100);
        // By the tails alone, which lie among control records in one half of the cases.
        let _none_at_first = std::fs::remove_file(echopay::pipeline::Cursor::path(dir.path()));
        let (handle, stopper) = world
            .start(dir.path(), config(broker.addresses(), &topic))
            .unwrap();
        wait_for_published(&handle, &world);
        assert!(stopper.stop(PATIENCE));
        assert_eq!(handle.status().published_total, 400);
    }
    assert_whole(
        &read_all(broker.addresses(), &topic),
        world.journal.durable(),
    );
}

#[test]
fn brokers_that_die_or_freeze_for_longer_than_a_transaction_may_take_cost_nothing() {
    let Some(mut broker) = Broker::own() else {
        return;
    };
    let topic = Broker::fresh_topic("freeze");
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    let (handle, stopper) = world
        .start(dir.path(), impatient(broker.addresses(), &topic))
        .unwrap();
    world.transfer(500);
    wait_for_published(&handle, &world);
    // Until its end stands in every partition. A broker that is killed between its word and that may forget some of them
    // (docs/DURABILITY.md), which no producer can mend.
    let acknowledged = usize::try_from(world.journal.durable().get()).unwrap();
    read_until(
        broker.addresses(),
        &topic,
        "the first are there",
        |records| records.len() >= acknowledged,
    );
    world.transfer(500);
    broker.kill9();
    world.transfer(500);
    broker.restart();
    wait_for_published(&handle, &world);

    for _ in 0..2 {
        world.transfer(200);
        broker.pause();
        world.transfer(200);
        let failed = handle.status().failed_total;
        wait_for("the transaction is given up here", &handle, || {
            let status = handle.status();
            status.failed_total > failed || status.state != PipelineState::Running
        });
        // And at the broker, which measures while it is frozen.
        std::thread::sleep(Duration::from_secs(3));
        broker.resume();
        wait_for_published(&handle, &world);
    }
    assert!(stopper.stop(PATIENCE));
    let durable = world.journal.durable();
    let count = usize::try_from(durable.get()).unwrap();
    let records = read_until(broker.addresses(), &topic, "all is committed", |records| {
        records.len() >= count
    });
    assert_whole(&records, durable);
}

#[test]
fn over_a_line_too_slow_for_one_large_transaction_smaller_ones_get_through() {
    let Some((broker, proxy)) = Proxy::before_a_broker() else {
        return;
    };
    let topic = Broker::fresh_topic("slow");
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    world.transfer(1_000);
    // All of it in one transaction, which takes longer than the 3 s that its records have.
    let settings = pipeline::Config {
        batch_window_ms: 5_000,
        ..impatient(&proxy.address(), &topic)
    };
    proxy.throttle(64 << 10);
    let (handle, stopper) = world.start(dir.path(), settings).unwrap();
    wait_for_published(&handle, &world);
    assert!(handle.status().failed_total > 0, "the first was too large");
    proxy.pass();
    assert!(stopper.stop(PATIENCE));
    let durable = world.journal.durable();
    let count = usize::try_from(durable.get()).unwrap();
    let records = read_until(broker.addresses(), &topic, "all is committed", |records| {
        records.len() >= count
    });
    assert_whole(&records, durable);
}

#[test]
fn a_start_gets_through_a_line_on_which_the_last_batch_takes_longer_than_any_time_that_was_set() {
    let Some((broker, proxy)) = Proxy::before_a_broker() else {
        return;
    };
    let topic = Broker::fresh_topic("heavy");
    broker.create_topic(&topic, 6, &[]);
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    world.transfer(10);
    let other: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.addresses())
        .create()
        .unwrap();
    let heavy = "x".repeat(900_000);
    let record = BaseRecord::<str, str>::to(&topic).partition(0);
    other.send(record.payload(&heavy)).unwrap();
    other.flush(PATIENCE).unwrap();

    let settings = pipeline::Config {
        request_timeout_ms: 1_000,
        ..impatient(&proxy.address(), &topic)
    };
    // Three and a half seconds; brokers send a batch whole, however little is asked for.
    proxy.throttle(256 << 10);
    let (handle, stopper) = world.start(dir.path(), settings).unwrap();
    wait_for_published(&handle, &world);
    proxy.pass();
    assert!(stopper.stop(PATIENCE));
}

#[test]
fn of_two_processes_with_copies_of_one_journal_one_stops_and_the_other_goes_on() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("copies");
    let (dir, copied) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let settings = || exactly_once(broker.addresses(), &topic);
    {
        let mut world = World::open(dir.path());
        world.transfer(100);
        let (handle, stopper) = world.start(dir.path(), settings()).unwrap();
        wait_for_published(&handle, &world);
        assert!(stopper.stop(PATIENCE));
        world.journal.close().unwrap();
    }
    copy(dir.path(), copied.path());
    let (mut world, mut copy) = (World::open(dir.path()), World::open(copied.path()));
    let (handle, stopper) = world.start(dir.path(), settings()).unwrap();
    let running = || handle.status().state == PipelineState::Running;
    wait_for("the first one runs", &handle, running);
    let (copys_handle, copys_stopper) = copy.start(copied.path(), settings()).unwrap();
    let running = || copys_handle.status().state == PipelineState::Running;
    wait_for("the copy runs", &copys_handle, running);

    // The copy has fenced the first one. Who ships first from now on is the one.
    world.transfer(50);
    wait_for_published(&handle, &world);
    copy.transfer(60);
    let reason = wait_for_stopped(&copys_handle);
    assert!(
        reason.contains("another process ships this journal"),
        "{reason}"
    );
    copy.transfer(1);
    world.transfer(50);
    wait_for_published(&handle, &world);
    assert!(stopper.stop(PATIENCE));
    assert!(
        !copys_stopper.stop(PATIENCE),
        "its events stay in its journal"
    );
    let durable = world.journal.durable();
    let count = usize::try_from(durable.get()).unwrap();
    let records = read_until(broker.addresses(), &topic, "all is committed", |records| {
        records.len() >= count
    });
    assert_whole(&records, durable);
}

/// `who`'s transaction, begun in every partition of `topic` and not ended.
fn open_transaction(brokers: &str, topic: &str, who: &str) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", format!("{who}-{topic}"))
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    for partition in 0..6 {
        let record = BaseRecord::<str, str>::to(topic).partition(partition);
        producer.send(record.payload(who)).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    producer
}

/// A topic with a journal's events before and behind the beginning of somebody else's transaction, which is open.
struct Hidden {
    brokers: &'static str,
    topic: String,
    dir: TempDir,
    world: World,
    other: BaseProducer,
}

impl Hidden {
    /// The events were shipped with what `settings` gives for the brokers and the topic.
    fn new(settings: impl Fn(&str, &str) -> pipeline::Config) -> Option<Self> {
        let broker = Broker::shared()?;
        let (brokers, topic) = (broker.addresses(), Broker::fresh_topic("hidden"));
        broker.create_topic(&topic, 6, &[]);
        let dir = TempDir::new().unwrap();
        let mut world = World::open(dir.path());
        world.transfer(50);
        let (handle, stopper) = world.start(dir.path(), settings(brokers, &topic)).unwrap();
        wait_for_published(&handle, &world);
        let other = open_transaction(brokers, &topic, "another's");
        world.transfer(50);
        wait_for_published(&handle, &world);
        assert!(stopper.stop(PATIENCE));
        Some(Self {
            brokers,
            topic,
            dir,
            world,
            other,
        })
    }

    fn assert_whole(&self) {
        let durable = self.world.journal.durable();
        let count = usize::try_from(durable.get()).unwrap();
        let records = read_until(self.brokers, &self.topic, "all shows", |records| {
            records.len() >= count
        });
        assert_whole(&records, durable);
    }
}

#[test]
fn a_start_waits_for_anothers_transaction_that_hides_what_was_committed_behind_it_and_for_no_later_one()
 {
    let settings = |brokers: &str, topic: &str| pipeline::Config {
        lost_records_confirm_ms: 0,
        ..exactly_once(brokers, topic)
    };
    for keeps_cursor in [false, true] {
        let Some(mut hidden) = Hidden::new(settings) else {
            return;
        };
        let (brokers, dir, world) = (hidden.brokers, hidden.dir.path(), &mut hidden.world);
        if !keeps_cursor {
            std::fs::remove_file(echopay::pipeline::Cursor::path(dir)).unwrap();
        }

        let (handle, stopper) = world.start(dir, settings(brokers, &hidden.topic)).unwrap();
        world.transfer(50);
        wait_for("the start tells what it waits for", &handle, || {
            let status = handle.status();
            assert_eq!(status.acknowledged_total, 0, "{status:?}");
            let told = status.last_error;
            told.is_some_and(|(_, error)| error.contains("a transaction that began at offset"))
        });
        let later = open_transaction(brokers, &hidden.topic, "a-third-one's");
        hidden.other.abort_transaction(PATIENCE).unwrap();
        // What cannot be seen for the later one cannot be ours.
        wait_for("the start goes on", &handle, || {
            handle.status().state == PipelineState::Running
        });
        later.abort_transaction(PATIENCE).unwrap();
        wait_for_published(&handle, world);
        assert!(stopper.stop(PATIENCE));
        hidden.assert_whole();
    }
}

#[test]
fn by_default_a_start_waits_for_anothers_transaction_for_a_while_and_sends_nothing_acknowledged_again()
 {
    let settings = |brokers: &str, topic: &str| pipeline::Config {
        open_transaction_wait_ms: 500,
        ..config(brokers, topic)
    };
    let Some(mut hidden) = Hidden::new(settings) else {
        return;
    };
    let (dir, world) = (hidden.dir.path(), &mut hidden.world);
    let settings = settings(hidden.brokers, &hidden.topic);
    let (handle, stopper) = world.start(dir, settings).unwrap();
    world.transfer(50);
    wait_for_published(&handle, world);
    let (_, told) = handle.status().last_error.unwrap();
    assert!(
        told.contains("a transaction that began at offset"),
        "{told}"
    );
    assert!(stopper.stop(PATIENCE));
    hidden.other.abort_transaction(PATIENCE).unwrap();
    hidden.assert_whole();
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[test]
fn a_record_that_the_brokers_refuse_is_set_aside_and_its_transaction_is_sent_again() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("refused");
    broker.create_topic(&topic, 6, &[("max.message.bytes", "1500")]);
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    world.transfer(20);
    let note = format!(r#"{{"note":"{}"}}"#, "x".repeat(1_800));
    world.transfer_with(1, Some(&note));
    world.transfer(20);
    // First by our own bound, which takes no broker; then by the broker, which fails the whole transaction.
    let blind = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let blind = vec![
        blind("message.max.bytes", "1000000"),
        blind("compression.type", "none"),
    ];
    let mut expected: Vec<u64> = (1..=164).filter(|s| ![81, 82].contains(s)).collect();
    for overrides in [Vec::new(), blind] {
        let settings = pipeline::Config {
            overrides,
            ..exactly_once(broker.addresses(), &topic)
        };
        let (handle, stopper) = world.start(dir.path(), settings).unwrap();
        wait_for_published(&handle, &world);
        assert!(stopper.stop(PATIENCE));
        assert_eq!(handle.status().quarantined_total, 2);
        let count = expected.len();
        let records = read_until(broker.addresses(), &topic, "all is committed", |records| {
            records.len() >= count
        });
        assert_eq!(sequences(&records), expected, "once each, but for the two");
        world.transfer_with(1, Some(&note));
        world.transfer(20);
        // The next 84: created and completed of the first transfer carry the note.
        expected.extend((165..=248).filter(|s| ![165, 166].contains(s)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_reader_sees_each_event_once_over_ten_kills_of_the_server_and_two_of_the_broker()
 {
    let Some(mut broker) = block_in_place(Broker::own) else {
        return;
    };
    let topic = Broker::fresh_topic("kills");
    let addresses = broker.addresses().to_owned();
    let flags = [
        "--kafka-brokers",
        &addresses,
        "--kafka-topic",
        &topic,
        "--kafka-delivery",
        "exactly-once",
        // Long enough to be killed in.
        "--batch-window",
        "250",
        "--kafka-event-types",
        ALL_TYPES,
    ];
    let mut server = TestServer::start_with(&flags).await;
    let mut acknowledged = Vec::new();
    for round in 0..10 {
        let done = AtomicU64::new(0);
        let client = server.client();
        let killing = async {
            wait_until(DEADLINE, "the load is under way", async || {
                done.load(Ordering::Relaxed) >= 50
            })
            .await;
            // Every fifth kill finds the pipeline at its start. The others find it in a transaction: what is published
            // moves with a commit, and the next transaction has some records then.
            if round % 5 > 0 {
                published_more(&client, 1).await;
                let more = done.load(Ordering::Relaxed) + 10 * round;
                wait_until(DEADLINE, "the load goes on", async || {
                    done.load(Ordering::Relaxed) >= more
                })
                .await;
            }
            if round % 5 == 3 {
                block_in_place(|| broker.kill9());
            }
            block_in_place(|| server.kill9());
        };
        let (mut answered, ()) = tokio::join!(load(&client, u64::MAX, &done), killing);
        acknowledged.append(&mut answered);
        if round % 5 == 3 {
            block_in_place(|| broker.restart());
        }
        server.restart().await;
    }
    let last = published(&server).await;
    let count = usize::try_from(last).unwrap();
    let records = block_in_place(|| {
        read_until(&addresses, &topic, "all is committed", |records| {
            records.len() >= count
        })
    });
    assert_in_order(&records);
    assert_transfers(&records, &acknowledged);
    assert!(
        sequences(&records).into_iter().eq(1..=last),
        "{} of {last} events",
        records.len()
    );
}

/// What the network delivers after the successor of a dead process has looked.
struct Zombie {
    records: Vec<Record>,
    last: u64,
    held_bytes: u64,
}

/// What is held back of the process that dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Requests with records, under load.
    Records,
    /// The end of a transaction whose records have all arrived.
    Commit,
}

/// Looks that must find nothing new before a line counts as silent: about a second.
const LOOKS_ALIKE: u32 = 200;

/// A process whose bytes are held back is killed; its successor ships everything; then the held bytes arrive, and the
/// successor goes on.
async fn zombie(delivery: &str, what: Held) -> Option<Zombie> {
    let (broker, proxy) = block_in_place(Proxy::before_a_broker)?;
    let topic = Broker::fresh_topic("zombie");
    let brokers = proxy.address();
    // A long window: most of a transaction's time lies between its beginning and its end.
    let flags = [
        "--kafka-brokers",
        &brokers,
        "--kafka-topic",
        &topic,
        "--kafka-delivery",
        delivery,
        "--batch-window",
        if what == Held::Commit { "5000" } else { "200" },
        "--kafka-event-types",
        ALL_TYPES,
    ];
    let mut server = TestServer::start_with(&flags).await;
    let client = server.client();
    let flowed = async |bytes: u64| {
        let bytes = proxy.forwarded(Way::ToBroker) + bytes;
        wait_until(DEADLINE, "records flow", async || {
            proxy.forwarded(Way::ToBroker) >= bytes
        })
        .await;
    };
    match what {
        Held::Records => {
            let done = AtomicU64::new(0);
            let killing = async {
                published_more(&client, 2_000).await;
                // It moves with a commit, and the next transaction begins small: until its records flow.
                flowed(20_000).await;
                proxy.hold(Way::ToBroker);
                let more = done.load(Ordering::Relaxed) + 300;
                wait_until(
                    DEADLINE,
                    "the load goes on, and records are held back",
                    async || {
                        done.load(Ordering::Relaxed) >= more && proxy.held(Way::ToBroker) > 1_000
                    },
                )
                .await;
                block_in_place(|| server.kill9());
            };
            tokio::join!(load(&client, u64::MAX, &done), killing);
        }
        Held::Commit => {
            // Under load, and then silence.
            load(&client, 200, &AtomicU64::new(0)).await;
            published(&server).await;
            let done = AtomicU64::new(0);
            tokio::join!(load(&client, 1, &done), flowed(500));
            // Its records go to several partitions, in requests of their own: until all of them are through.
            let (mut forwarded, mut looks_alike) = (0, 0);
            wait_until(DEADLINE, "all records are through", async || {
                let now = proxy.forwarded(Way::ToBroker);
                looks_alike = if now == forwarded { looks_alike + 1 } else { 0 };
                forwarded = now;
                looks_alike >= LOOKS_ALIKE
            })
            .await;
            proxy.hold(Way::ToBroker);
            wait_until(DEADLINE, "the transaction's end is held", async || {
                proxy.held(Way::ToBroker) > 0
            })
            .await;
            block_in_place(|| server.kill9());
        }
    }
    let held_bytes = proxy.held(Way::ToBroker);
    proxy.let_new_pass();
    server.restart().await;
    published(&server).await;
    proxy.pass();
    wait_until(DEADLINE, "the last words arrive", async || {
        proxy.held(Way::ToBroker) == 0
    })
    .await;
    load(&server.client(), 100, &AtomicU64::new(0)).await;
    let last = published(&server).await;
    let count = usize::try_from(last).unwrap();
    let records = block_in_place(|| {
        read_until(broker.addresses(), &topic, "all is there", |records| {
            records.len() >= count
        })
    });
    Some(Zombie {
        records,
        last,
        held_bytes,
    })
}

/// The consumer's rule of the default delivery: in each partition, skip what is not above the last sequence seen.
fn by_the_rule(records: Vec<Record>) -> Vec<Record> {
    let mut newest: BTreeMap<i32, u64> = BTreeMap::new();
    let mut kept = records;
    kept.retain(|record| {
        let last = newest.entry(record.partition).or_default();
        let is_new = record.sequence() > *last;
        *last = (*last).max(record.sequence());
        is_new
    });
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn late_bytes_of_a_dead_process_come_twice_by_default_and_the_consumers_rule_drops_them() {
    let Some(zombie) = zombie("idempotent", Held::Records).await else {
        return;
    };
    let distinct: BTreeSet<u64> = zombie.records.iter().map(Record::sequence).collect();
    let repeats = zombie.records.len() - distinct.len();
    // The documented limit. Should it vanish one day, the documents have to follow.
    assert!(repeats > 0, "{} bytes were held", zombie.held_bytes);
    assert!(
        distinct.into_iter().eq(1..=zombie.last),
        "nothing is missing"
    );
    let kept = by_the_rule(zombie.records);
    assert_in_order(&kept);
    assert!(sequences(&kept).into_iter().eq(1..=zombie.last));
}

#[tokio::test(flavor = "multi_thread")]
async fn late_records_of_a_dead_process_never_show_when_delivered_exactly_once() {
    let Some(zombie) = zombie("exactly-once", Held::Records).await else {
        return;
    };
    // Beside its records, a process sends some dozens of bytes to begin and to end a transaction.
    assert!(zombie.held_bytes > 1_000, "no records were held back");
    assert_in_order(&zombie.records);
    assert!(sequences(&zombie.records).into_iter().eq(1..=zombie.last));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_commit_of_a_dead_process_is_refused() {
    let Some(zombie) = zombie("exactly-once", Held::Commit).await else {
        return;
    };
    assert!(
        zombie.held_bytes < 500,
        "more than a transaction's end was held back"
    );
    assert_in_order(&zombie.records);
    assert!(sequences(&zombie.records).into_iter().eq(1..=zombie.last));
}
