//! Matching and enqueueing of the tracker among few and many subscriptions: one transfer (two updates) handed to its
//! subscribers, until their queues are empty again. What a step of it costs is in `stages`.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use echopay::clock::SystemClock;
use echopay::journal::entry::{Body, ChainLink, Entry, Leg, Movement};
use echopay::metrics::Metrics;
use echopay::tracker::{self, Config, Dispatcher, Filter, Item, Subscriber, Taken};
use echopay::types::{Currency, MinorUnits, Sequence, TimestampMs, TransactionId, WalletId};
use echopay::watermark::watermark;
use std::hint::black_box;
use std::sync::Arc;
use uuid::Uuid;

/// Subscriptions that hear of each update.
const MATCHING: u64 = 10;
/// Updates of a transfer.
const UPDATES: u64 = 2;

fn wallet(number: u128) -> WalletId {
    WalletId::new(Uuid::from_u128(number + 1)).unwrap()
}

fn transfer(first: u64, from: WalletId, to: WalletId) -> Entry {
    let leg = |wallet| Leg {
        wallet,
        balance_after: MinorUnits::new(1),
        held_after: MinorUnits::ZERO,
        link: ChainLink::default(),
    };
    Entry {
        first: Sequence::new(first),
        at: TimestampMs::new(1_795_387_017_045),
        idempotency: None,
        batch: None,
        body: Body::Transfer(Movement {
            transaction: TransactionId(Uuid::from_u128(u128::from(first))),
            from: leg(from),
            to: leg(to),
            currency: Currency::from_tag(1),
            amount: MinorUnits::new(1),
            metadata: None,
        }),
    }
}

/// `MATCHING` connections on the paying wallet, the others each on a wallet of its own.
fn subscribers(all: u64) -> (Dispatcher, Vec<Subscriber>, Vec<Subscriber>) {
    let (durable, reading) = watermark(Sequence::ORIGIN);
    let clock = Arc::new(SystemClock::new());
    let (handle, dispatcher) = tracker::new(
        Config::default(),
        Sequence::ORIGIN,
        reading,
        clock,
        Metrics::default(),
    );
    drop(durable);
    let subscribe = |number| {
        let mut subscriber = handle.connect(None);
        let filter = Filter::new(vec![], vec![wallet(number)], &[]);
        subscriber.subscribe(filter, |_, _| Bytes::new());
        drain(&subscriber, &mut Vec::new());
        subscriber
    };
    let matching = (0..MATCHING).map(|_| subscribe(0)).collect();
    let others = (MATCHING..all)
        .map(|number| subscribe(u128::from(number) + 10))
        .collect();
    (dispatcher, matching, others)
}

/// Empties a queue; gives the number of items.
fn drain(subscriber: &Subscriber, items: &mut Vec<Item>) -> usize {
    items.clear();
    while subscriber.outbox().take(usize::MAX, items) == Taken::Some {}
    items.len()
}

fn enqueue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("enqueue/matching=10");
    group.throughput(Throughput::Elements(MATCHING * UPDATES));
    for all in [10, 1_000, 100_000] {
        let (mut dispatcher, matching, others) = subscribers(all);
        let mut next = 1;
        let mut items = Vec::new();
        group.bench_function(BenchmarkId::new("subscriptions", all), |bencher| {
            bencher.iter(|| {
                let entry = transfer(next, wallet(0), wallet(1));
                next += 4;
                dispatcher.dispatch(black_box(std::slice::from_ref(&entry)));
                let heard: usize = matching.iter().map(|one| drain(one, &mut items)).sum();
                assert_eq!(
                    heard as u64,
                    MATCHING * UPDATES,
                    "everyone heard both updates"
                );
            });
        });
        drop(others);
    }
    group.finish();
}

criterion_group!(benches, enqueue);
criterion_main!(benches);
