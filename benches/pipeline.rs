//! What Kafka costs: finding an event's partition, and producing: shipping a journal that waits (making the events' JSON
//! alone is `event` in `stages`).
//!
//! `cargo bench --bench pipeline`. The brokers are librdkafka's mock cluster, in this process and without a disk: good
//! to see the pipeline's own cost. `KAFKA_BROKERS=host:port cargo bench --bench pipeline` ships to real ones.
//!
//! `cargo bench --bench pipeline -- delivery` compares the deliveries, against a real broker that it starts (Java and
//! Maven are needed), and runs nothing else.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench that cannot go on has no result"
)]

#[path = "pipeline/delivery.rs"]
mod delivery;
#[expect(dead_code, reason = "the integration tests use the rest")]
#[path = "../tests/it/support/kafka.rs"]
mod kafka;
#[path = "pipeline/payments.rs"]
mod payments;

use criterion::{Criterion, Throughput, criterion_group};
use echopay::clock::{SharedClock, SystemClock};
use echopay::ids::IdCipher;
use echopay::journal::{self, Journal, OpenOptions};
use echopay::metrics::Metrics;
use echopay::pipeline::{self, PipelineState, Sources, partition_of};
use echopay::tasks::Supervisor;
use echopay::types::Currencies;
use payments::{EVENTS_A_PAYMENT, payment};
use rdkafka::mocking::MockCluster;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;

const TRANSFERS_A_GROUP: u64 = 500;
/// 100,000 events. The mock cluster keeps the last 5 MiB of a partition, which is enough to acknowledge all.
const TRANSFERS_WAITING: u64 = 25_000;
const PARTITIONS: u32 = 6;

fn partition(c: &mut Criterion) {
    let key = Uuid::from_u128(42).to_string();
    let mut group = c.benchmark_group("partition");
    group.throughput(Throughput::Elements(1));
    group.bench_function("murmur2/key=uuid", |b| {
        b.iter(|| partition_of(black_box(key.as_bytes()), PARTITIONS));
    });
    group.finish();
}

fn open_journal(dir: &TempDir, clock: &SharedClock, supervisor: &Supervisor) -> Journal {
    let options = OpenOptions {
        dev: true,
        accept_dev_store: false,
        currencies: Currencies::default(),
        witnesses: Vec::new(),
    };
    let config = journal::Config::new(dir.path());
    Journal::open(&config, options, Arc::clone(clock), supervisor).unwrap()
}

/// A journal with everything still to ship.
fn filled_journal(dir: &TempDir, clock: &SharedClock, supervisor: &Supervisor) -> Journal {
    let mut journal = open_journal(dir, clock, supervisor);
    let ids = IdCipher::new(&journal.settings().id_key);
    for _ in 0..TRANSFERS_WAITING / TRANSFERS_A_GROUP {
        let mut first = journal.durable().next();
        let mut entries = Vec::new();
        for _ in 0..TRANSFERS_A_GROUP {
            entries.push(payment(first, clock.now(), &ids));
            first = first.plus(EVENTS_A_PAYMENT);
        }
        journal.commit(entries).unwrap();
    }
    journal
}

/// From "connected" until the last event is acknowledged: reading back, encoding, producing, acknowledging.
fn produce(c: &mut Criterion) {
    let clock: SharedClock = Arc::new(SystemClock::new());
    let supervisor = Supervisor::new();
    let dir = TempDir::new().unwrap();
    let journal = filled_journal(&dir, &clock, &supervisor);
    let mock = MockCluster::new(1).unwrap();
    let real = real_brokers();
    let mut topics = 0_u32;
    let mut ship_once = |batch_size: u32| {
        topics += 1;
        let topic = format!("bench-{}-{topics}", std::process::id());
        if real.is_none() {
            mock.create_topic(&topic, i32::try_from(PARTITIONS).unwrap(), 1)
                .unwrap();
        }
        // A cursor of its own each time, so that everything is to be shipped again.
        let cursor_dir = TempDir::new().unwrap();
        let config = pipeline::Config {
            brokers: Some(real.clone().unwrap_or_else(|| mock.bootstrap_servers())),
            topic,
            batch_size,
            ..pipeline::Config::default()
        };
        let sources = Sources {
            data_dir: cursor_dir.path(),
            cursor: None,
            follow: &|after, bytes| journal.follow("pipeline", after, bytes),
            reader: journal.reader(),
            ids: IdCipher::new(&journal.settings().id_key),
            currencies: Currencies::default(),
            clock: Arc::clone(&clock),
            metrics: Metrics::default(),
            supervisor: &supervisor,
        };
        let (handle, stopper) = pipeline::start(config, sources).unwrap();
        while handle.status().state != PipelineState::Running {
            std::thread::sleep(Duration::from_micros(100));
        }
        let begun = clock.monotonic();
        while handle.status().published < journal.durable() {
            std::thread::sleep(Duration::from_micros(100));
        }
        let took = clock.monotonic().saturating_sub(begun);
        assert!(stopper.stop(Duration::from_secs(10)));
        took
    };
    let mut group = c.benchmark_group("produce");
    group.sample_size(10);
    group.throughput(Throughput::Elements(TRANSFERS_WAITING * EVENTS_A_PAYMENT));
    let to = if real_brokers().is_some() {
        "real"
    } else {
        "mock"
    };
    for batch_size in [100, 1_000, 10_000] {
        group.bench_function(format!("brokers={to}/batch={batch_size}"), |b| {
            b.iter_custom(|times| (0..times).map(|_| ship_once(batch_size)).sum());
        });
    }
    group.finish();
}

#[expect(
    clippy::disallowed_methods,
    reason = "how a bench is told which brokers to use"
)]
fn real_brokers() -> Option<String> {
    std::env::var("KAFKA_BROKERS")
        .ok()
        .filter(|brokers| !brokers.is_empty())
}

criterion_group!(benches, partition, produce);

fn main() {
    if std::env::args().any(|argument| argument == "delivery") {
        return delivery::compare();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
