//! The text side of HTTP: reading one transfer and a batch of 1000, writing their answers.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot start has nothing to measure"
)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echopay::http::{Config, bench};
use echopay::ledger::Receipt;
use echopay::types::{Currencies, Sequence, Status, TimestampMs, TransactionId};
use std::hint::black_box;
use uuid::Uuid;

const ITEMS: u32 = 1000;

fn transfer(number: u32) -> String {
    let (from, to) = (
        Uuid::from_u128(u128::from(number) + 1),
        Uuid::from_u128(u128::MAX),
    );
    let cents = number % 100;
    format!(
        "{{\"from_wallet\":\"{from}\",\"to_wallet\":\"{to}\",\"amount\":12.{cents:02},\
         \"currency\":\"USD-CBDC\",\"metadata\":{{\"order\":{number},\"note\":\"coffee\"}}}}"
    )
}

fn receipt(number: u32) -> Receipt {
    let first = u64::from(number) * 4 + 1;
    Receipt {
        transaction: TransactionId(Uuid::from_u128(u128::from(number))),
        status: Status::Completed,
        at: TimestampMs::new(1_795_387_017_045),
        first_sequence: Sequence::new(first),
        sequence: Sequence::new(first + 3),
    }
}

fn parse(criterion: &mut Criterion) {
    let (currencies, config) = (Currencies::default(), Config::default());
    let mut group = criterion.benchmark_group("http/parse");

    let one = transfer(7);
    group.throughput(Throughput::Elements(1));
    group.bench_function("items=1", |bencher| {
        bencher.iter(|| {
            bench::parse_transfer(black_box(one.as_bytes()), &currencies, &config)
                .expect("a good body")
        });
    });

    let items: Vec<String> = (0..ITEMS).map(transfer).collect();
    let batch = format!("{{\"transactions\":[{}]}}", items.join(","));
    group.throughput(Throughput::Elements(u64::from(ITEMS)));
    group.bench_function("items=1000", |bencher| {
        bencher.iter(|| {
            bench::parse_batch(black_box(batch.as_bytes()), &currencies, &config)
                .expect("a good body")
        });
    });
    group.finish();
}

fn answer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("http/answer");
    for items in [1, ITEMS] {
        let receipts: Vec<Receipt> = (0..items).map(receipt).collect();
        let mut out = Vec::new();
        group.throughput(Throughput::Elements(u64::from(items)));
        group.bench_function(format!("items={items}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                bench::write_results(&mut out, black_box(&receipts));
                black_box(out.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parse, answer);
criterion_main!(benches);
