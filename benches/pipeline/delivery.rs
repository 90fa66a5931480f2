//! What exactly-once costs: idempotent and transactional delivery in turns, against one real broker that this process
//! starts, so that their ratio means something on any machine.
//!
//! For each: events a second flat out (a journal that waits, until all is acknowledged for good), and, at a steady rate,
//! the time from durable in the journal to a `read_committed` consumer, with the CPU that the broker takes meanwhile.

#![expect(clippy::print_stdout, reason = "the table is what this is for")]

use super::{EVENTS_A_PAYMENT, TRANSFERS_WAITING, filled_journal, open_journal, payment};
use crate::kafka::{Broker, consumer};
use echopay::clock::{SharedClock, SystemClock};
use echopay::ids::IdCipher;
use echopay::journal::Journal;
use echopay::metrics::Metrics;
use echopay::pipeline::{self, Delivery, PipelineHandle, PipelineState, PipelineStopper, Sources};
use echopay::tasks::Supervisor;
use echopay::types::{Currencies, Sequence};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::Offset;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const ROUNDS: usize = 3;
const STEADY: Duration = Duration::from_secs(5);
const EVENTS_A_SECOND: [u64; 2] = [1_000, 10_000];
/// Not counted of it: the reader connects meanwhile.
const WARM_UP: Duration = Duration::from_secs(1);
/// How often a group is committed at a steady rate.
const TICK: Duration = Duration::from_millis(4);
const PARTITIONS: i32 = 6;
const WAYS: [(Delivery, u32); 3] = [
    (Delivery::Idempotent, 10),
    (Delivery::ExactlyOnce, 10),
    (Delivery::ExactlyOnce, 50),
];

/// One of [`WAYS`] in one round.
#[derive(Clone, Debug, Default)]
struct Outcome {
    flat_out_per_second: f64,
    /// For each of [`EVENTS_A_SECOND`]: median and 99th percentile in milliseconds, broker's CPU in % of a core.
    steady: Vec<[f64; 3]>,
}

pub(super) fn compare() {
    let Some(broker) = Broker::own() else {
        return;
    };
    let clock: SharedClock = Arc::new(SystemClock::new());
    let mut outcomes = vec![Vec::new(); WAYS.len()];
    for round in 0..=ROUNDS {
        for (way, outcomes) in WAYS.iter().zip(&mut outcomes) {
            let outcome = Outcome {
                flat_out_per_second: flat_out(&broker, &clock, *way),
                steady: EVENTS_A_SECOND
                    .map(|rate| steady(&broker, &clock, *way, rate))
                    .into(),
            };
            // The first round warms the broker's JVM.
            if round > 0 {
                outcomes.push(outcome);
            }
        }
    }
    println!(
        "\ndelivery, batch window | flat out | ratio |{}",
        EVENTS_A_SECOND
            .map(|rate| { format!(" {rate}/s: p50 ms, p99 ms, broker's CPU |") })
            .concat()
    );
    let base = median(&outcomes[0], |o| o.flat_out_per_second);
    for ((delivery, window_ms), outcomes) in WAYS.iter().zip(&outcomes) {
        let flat_out = median(outcomes, |o| o.flat_out_per_second);
        let steady = (0..EVENTS_A_SECOND.len()).map(|rate| {
            let [p50, p99, cpu] = [0, 1, 2].map(|at| median(outcomes, |o| o.steady[rate][at]));
            format!(" {p50:.1}, {p99:.1}, {cpu:.0} % |")
        });
        println!(
            "{} {window_ms} ms | {flat_out:.0}/s | {:.2} |{}",
            delivery.as_str(),
            flat_out / base,
            steady.collect::<String>()
        );
    }
}

fn median(outcomes: &[Outcome], of: impl Fn(&Outcome) -> f64) -> f64 {
    let mut all: Vec<f64> = outcomes.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn start(
    journal: &Journal,
    cursor_dir: &TempDir,
    clock: &SharedClock,
    supervisor: &Supervisor,
    config: pipeline::Config,
) -> (PipelineHandle, PipelineStopper) {
    let sources = Sources {
        data_dir: cursor_dir.path(),
        cursor: None,
        follow: &|after, bytes| journal.follow("pipeline", after, bytes),
        reader: journal.reader(),
        ids: IdCipher::new(&journal.settings().id_key),
        currencies: Currencies::default(),
        clock: Arc::clone(clock),
        metrics: Metrics::default(),
        supervisor,
    };
    let (handle, stopper) = pipeline::start(config, sources).unwrap();
    while handle.status().state != PipelineState::Running {
        std::thread::sleep(Duration::from_millis(1));
    }
    (handle, stopper)
}

fn config(
    broker: &Broker,
    topic: &str,
    (delivery, window_ms): (Delivery, u32),
) -> pipeline::Config {
    pipeline::Config {
        brokers: Some(broker.addresses().into()),
        topic: topic.into(),
        delivery,
        batch_window_ms: window_ms,
        batch_size: 1_000,
        ..pipeline::Config::default()
    }
}

fn wait_for(handle: &PipelineHandle, sequence: Sequence) {
    while handle.status().published < sequence {
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn flat_out(broker: &Broker, clock: &SharedClock, way: (Delivery, u32)) -> f64 {
    let (dir, cursor_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let supervisor = Supervisor::new();
    let journal = filled_journal(&dir, clock, &supervisor);
    let topic = Broker::fresh_topic("flat");
    let settings = config(broker, &topic, way);
    let (handle, stopper) = start(&journal, &cursor_dir, clock, &supervisor, settings);
    let begun = clock.monotonic();
    wait_for(&handle, journal.durable());
    let took = clock.monotonic().saturating_sub(begun);
    assert!(stopper.stop(Duration::from_secs(10)));
    let events = u32::try_from(TRANSFERS_WAITING * EVENTS_A_PAYMENT).unwrap();
    f64::from(events) / took.as_secs_f64()
}

fn steady(broker: &Broker, clock: &SharedClock, way: (Delivery, u32), rate: u64) -> [f64; 3] {
    let (dir, cursor_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let supervisor = Supervisor::new();
    let mut journal = open_journal(&dir, clock, &supervisor);
    let topic = Broker::fresh_topic("steady");
    broker.create_topic(&topic, PARTITIONS, &[]);
    let settings = config(broker, &topic, way);
    let (handle, stopper) = start(&journal, &cursor_dir, clock, &supervisor, settings);
    let ids = IdCipher::new(&journal.settings().id_key);
    let ticks = u64::try_from(STEADY.as_millis() / TICK.as_millis()).unwrap();
    let per_tick = rate * u64::try_from(TICK.as_millis()).unwrap() / 1_000 / EVENTS_A_PAYMENT;
    let events = ticks * per_tick * EVENTS_A_PAYMENT;

    let addresses = broker.addresses().to_owned();
    let reader_clock = Arc::clone(clock);
    // When each event was seen, by its sequence.
    let reading = std::thread::Builder::new().spawn(move || {
        let consumer = consumer(&addresses);
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(&topic, partition, Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut seen = vec![Duration::ZERO; usize::try_from(events).unwrap()];
        let mut left = seen.len();
        while left > 0 {
            if let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) {
                let json: serde_json::Value =
                    serde_json::from_slice(record.payload().unwrap()).unwrap();
                let at = usize::try_from(json["sequence"].as_u64().unwrap() - 1).unwrap();
                seen[at] = reader_clock.monotonic();
                left -= 1;
            }
        }
        seen
    });
    let (mut durable, cpu) = (Vec::new(), broker_cpu_time());
    let begun = clock.monotonic();
    for tick in 1..=u32::try_from(ticks).unwrap() {
        let mut first = journal.durable().next();
        let mut entries = Vec::new();
        for _ in 0..per_tick {
            entries.push(payment(first, clock.now(), &ids));
            first = first.plus(EVENTS_A_PAYMENT);
        }
        journal.commit(entries).unwrap();
        durable.push(clock.monotonic());
        std::thread::sleep((begun + TICK * tick).saturating_sub(clock.monotonic()));
    }
    wait_for(&handle, journal.durable());
    let cpu = broker_cpu_time().saturating_sub(cpu);
    let took = clock.monotonic().saturating_sub(begun);
    let seen = reading.unwrap().join().unwrap();
    assert!(stopper.stop(Duration::from_secs(10)));
    let a_tick = usize::try_from(per_tick * EVENTS_A_PAYMENT).unwrap();
    let uncounted = usize::try_from(WARM_UP.as_millis() / TICK.as_millis()).unwrap() * a_tick;
    let mut late: Vec<f64> = seen
        .iter()
        .zip(
            durable
                .iter()
                .flat_map(|at| std::iter::repeat_n(at, a_tick)),
        )
        .skip(uncounted)
        .map(|(seen, durable)| seen.saturating_sub(*durable).as_secs_f64() * 1e3)
        .collect();
    late.sort_by(f64::total_cmp);
    let share = cpu.as_secs_f64() / took.as_secs_f64() * 100.0;
    [late[late.len() / 2], late[late.len() * 99 / 100], share]
}

/// CPU that the broker has used: the only grandchild of this process, under the shell that ends it.
fn broker_cpu_time() -> Duration {
    let processes: HashMap<u32, (u32, u64)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // Behind the name in parentheses come the 3rd field, the state, and the 4th, the parent; utime and stime
            // are the 14th and 15th.
            let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
            let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
            let parent = u32::try_from(number(1)?).ok()?;
            Some((pid, (parent, number(11)? + number(12)?)))
        })
        .collect();
    let grandparent = |parent: &u32| processes.get(parent).map(|(parent, _)| *parent);
    let ticks = processes
        .values()
        .filter(|(parent, _)| grandparent(parent) == Some(std::process::id()))
        .map(|(_, ticks)| ticks);
    // Linux tells it in hundredths of a second, whatever its own tick.
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
