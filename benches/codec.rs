//! Entries to pages and back: what the ledger thread pays for each group, and replay for each page.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use echopay::ids::IdCipher;
use echopay::journal::bench::Codec;
use echopay::journal::entry::{ChainLink, Leg, Movement};
use echopay::journal::{Body, Entry};
use echopay::types::{Currency, MinorUnits, Sequence, TimestampMs, WalletId};
use std::hint::black_box;
use uuid::Uuid;

const ID_KEY: [u8; 16] = *b"0123456789abcdef";
const METADATA: &str = "{\"note\":\"nineteen characters!\",\"n\":1}";

fn transfers(count: usize) -> Vec<Entry> {
    let cipher = IdCipher::new(&ID_KEY);
    let at = TimestampMs::new(1_700_000_000_123);
    let leg = |wallet: u128| {
        WalletId::new(Uuid::from_u128(wallet)).map(|wallet| Leg {
            wallet,
            balance_after: MinorUnits::new(123_456),
            held_after: MinorUnits::ZERO,
            link: ChainLink {
                ordinal: 7,
                previous: Sequence::new(1),
                skip: Sequence::ORIGIN,
            },
        })
    };
    let mut first = Sequence::new(1);
    (1..=count)
        .filter_map(|_| {
            let entry = Entry {
                first,
                at,
                idempotency: None,
                batch: None,
                body: Body::Transfer(Movement {
                    transaction: cipher.transaction_id(first, at),
                    from: leg(11)?,
                    to: leg(12)?,
                    currency: Currency::from_tag(1),
                    amount: MinorUnits::new(250),
                    metadata: Some(METADATA.into()),
                }),
            };
            first = entry.last().next();
            Some(entry)
        })
        .collect()
}

fn codec(criterion: &mut Criterion) {
    for count in [1, 64, 1_024] {
        let entries = transfers(count);
        let mut codec = Codec::new(&ID_KEY);
        let mut group = criterion.benchmark_group("codec");
        group.throughput(Throughput::Elements(entries.len() as u64));
        group.bench_function(BenchmarkId::new("encode/entries", count), |bencher| {
            bencher.iter(|| codec.encode(black_box(&entries)));
        });
        assert!(codec.encode(&entries).is_some());
        assert_eq!(codec.decode(), Some(count));
        group.bench_function(BenchmarkId::new("decode/entries", count), |bencher| {
            bencher.iter(|| codec.decode());
        });
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
