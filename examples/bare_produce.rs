//! The least that shipping can cost: the events of so many payments, made and handed to librdkafka in one loop, until
//! the brokers have acknowledged the last one.
//!
//! `cargo run --release --example bare_produce -- --brokers 127.0.0.1:9092 --topic events [--payments 250000]`
//!
//! The same JSON, keys, partitions, headers and settings of librdkafka as `echopay`'s, from a ledger that is not there:
//! no journal to read, no acknowledgement to keep. So `echopay`'s events a second against this one's tell what the
//! pipeline adds. The topic has to exist. Prints one JSON line.

#![expect(clippy::print_stdout, reason = "printing is what an example does")]

#[path = "../benches/pipeline/payments.rs"]
mod payments;

use echopay::clock::{Clock, SystemClock};
use echopay::event::EventEncoder;
use echopay::ids::IdCipher;
use echopay::journal::JournalIdentity;
use echopay::pipeline::partition_of;
use echopay::types::{Currencies, Sequence};
use payments::{EVENTS_A_PAYMENT, payment};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use serde_json::json;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use uuid::Uuid;

type Failure = Box<dyn Error + Send + Sync>;

const SETTINGS: [(&str, &str); 8] = [
    ("enable.idempotence", "true"),
    ("enable.gapless.guarantee", "true"),
    ("linger.ms", "3"),
    ("batch.num.messages", "10000"),
    ("compression.type", "lz4"),
    ("message.timeout.ms", "0"),
    ("queue.buffering.max.messages", "20000"),
    ("queue.buffering.max.kbytes", "65536"),
];

#[derive(Default)]
struct Tally {
    acknowledged: AtomicU64,
    is_broken: AtomicBool,
}

struct Reports(Arc<Tally>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.is_broken.store(true, Ordering::Relaxed);
        }
        self.0.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

fn main() -> Result<(), Failure> {
    let (mut brokers, mut topic, mut payments) = (None, None, 250_000_u64);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--brokers" => brokers = Some(value),
            "--topic" => topic = Some(value),
            "--payments" => payments = value.parse()?,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    let (brokers, topic) = brokers
        .zip(topic)
        .ok_or("--brokers and --topic are needed")?;
    let tally = Arc::new(Tally::default());
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    for (key, value) in SETTINGS {
        config.set(key, value);
    }
    let producer: BaseProducer<Reports> =
        config.create_with_context(Reports(Arc::clone(&tally)))?;
    let partitions = producer
        .client()
        .fetch_metadata(Some(&topic), Duration::from_secs(10))?
        .topics()
        .first()
        .map_or(0, |topic| topic.partitions().len());
    let partitions = u32::try_from(partitions)?;
    if partitions == 0 {
        return Err("there is no such topic".into());
    }
    let is_over = AtomicBool::new(false);
    let took = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                producer.poll(Duration::from_millis(100));
            }
        });
        let took = ship(&producer, &topic, partitions, payments, &tally);
        is_over.store(true, Ordering::Relaxed);
        took
    })?;
    let events = payments * EVENTS_A_PAYMENT;
    let seconds = took.as_secs_f64();
    let events_per_second = f64::from(u32::try_from(events)?) / seconds;
    println!(
        "{}",
        json!({ "events": events, "seconds": seconds, "events_per_second": events_per_second })
    );
    Ok(())
}

fn ship(
    producer: &BaseProducer<Reports>,
    topic: &str,
    partitions: u32,
    payments: u64,
    tally: &Tally,
) -> Result<Duration, Failure> {
    let identity = JournalIdentity {
        journal_id: Uuid::from_u128(7),
        epoch: 1,
    };
    let ids = IdCipher::new(b"0123456789abcdef");
    let mut encoder = EventEncoder::new(identity, ids.clone(), Currencies::default());
    let (clock, mut payload) = (SystemClock::new(), Vec::new());
    let begun = clock.monotonic();
    let mut first = Sequence::new(1);
    for _ in 0..payments {
        let entry = payment(first, clock.now(), &ids);
        for event in entry.events() {
            payload.clear();
            encoder.encode(&event, &mut payload);
            let mut key = Uuid::encode_buffer();
            let key = event
                .key_wallet()
                .uuid()
                .hyphenated()
                .encode_lower(&mut key);
            let mut record = BaseRecord::to(topic)
                .partition(i32::try_from(partition_of(key.as_bytes(), partitions))?)
                .key(key.as_bytes())
                .payload(payload.as_slice())
                .headers(headers());
            while let Err((error, refused)) = producer.send(record) {
                if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                    return Err(error.into());
                }
                record = refused;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        first = first.plus(EVENTS_A_PAYMENT);
    }
    while tally.acknowledged.load(Ordering::Relaxed) < payments * EVENTS_A_PAYMENT {
        std::thread::sleep(Duration::from_millis(1));
    }
    if tally.is_broken.load(Ordering::Relaxed) {
        return Err("a record was not delivered".into());
    }
    Ok(clock.monotonic().saturating_sub(begun))
}

fn headers() -> OwnedHeaders {
    let header = |key, value| Header {
        key,
        value: Some(value),
    };
    OwnedHeaders::new_with_capacity(2)
        .insert(header("content-type", "application/json"))
        .insert(header("producer", "transaction-service"))
}
