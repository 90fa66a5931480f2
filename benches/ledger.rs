//! What the ledger thread does for a group: deciding and applying it among few and many wallets, and making it durable.
//!
//! `cargo bench --bench ledger`. The commits stand beside the cheapest thing that is as durable: the same number of
//! bytes appended to a plain file, with one `fdatasync` a group. Both write below the target folder, since a temporary
//! folder in memory would sync nothing.

#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot go on has no result"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use echopay::clock::{SharedClock, SystemClock};
use echopay::journal::{self, Entry, Journal, OpenOptions};
use echopay::ledger::bench::Rulebook;
use echopay::tasks::Supervisor;
use echopay::types::{Currencies, TimestampMs};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const NOW: TimestampMs = TimestampMs::new(1_700_000_000_123);
/// As many as the ledger thread finds in its queue at 64 connections.
const DECIDED_GROUP: usize = 64;
/// Different groups, enough that the wallets of the next are not in the cache.
const GROUPS: usize = 4_096;
const WALLETS: u64 = 1_000;

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(DECIDED_GROUP as u64));
    for wallets in [1_000, 100_000, 1_000_000] {
        let mut rulebook = Rulebook::new(b"0123456789abcdef", wallets, NOW, drop);
        let groups: Vec<_> = (0..GROUPS)
            .map(|_| rulebook.commands(DECIDED_GROUP))
            .collect();
        let mut next = groups.iter().cycle();
        group.bench_function(format!("wallets={wallets}"), |bencher| {
            bencher.iter_batched(
                || next.next().unwrap().clone(),
                |commands| {
                    let entries = rulebook.decide(commands);
                    assert_eq!(entries.len(), DECIDED_GROUP, "each transfer is one entry");
                    rulebook.merge();
                    entries
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A new journal in a folder of its own, and the rules that make its entries.
struct Durable {
    journal: Journal,
    rulebook: Rulebook,
}

impl Durable {
    fn new(folder: &Path, clock: &SharedClock) -> Self {
        let options = OpenOptions {
            dev: true,
            accept_dev_store: false,
            currencies: Currencies::default(),
            witnesses: Vec::new(),
        };
        let config = journal::Config::new(folder);
        let supervisor = Supervisor::new();
        let mut journal = Journal::open(&config, options, Arc::clone(clock), &supervisor).unwrap();
        let id_key = journal.settings().id_key;
        let rulebook = Rulebook::new(&id_key, WALLETS, NOW, |openings| {
            journal.commit(openings).unwrap();
        });
        Self { journal, rulebook }
    }

    /// The next group's entries, decided and not yet durable.
    fn next(&mut self, count: usize) -> Vec<Entry> {
        let commands = self.rulebook.commands(count);
        self.rulebook.decide(commands)
    }

    /// How long it takes to make the group durable.
    fn commit(&mut self, entries: Vec<Entry>, clock: &SharedClock) -> Duration {
        let began = clock.monotonic();
        let group = self.journal.commit(entries).unwrap();
        let took = clock.monotonic().saturating_sub(began);
        drop(group);
        self.rulebook.merge();
        took
    }
}

fn commit(criterion: &mut Criterion) {
    let clock: SharedClock = Arc::new(SystemClock::new());
    let mut benches = criterion.benchmark_group("commit");
    for count in [1, 64, 512, 4_096] {
        benches.throughput(Throughput::Elements(count as u64));
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut durable = Durable::new(&folder.path().join("journal"), &clock);
        benches.bench_function(format!("sled/group={count}"), |bencher| {
            bencher.iter_custom(|iterations| {
                (0..iterations)
                    .map(|_| {
                        let entries = durable.next(count);
                        durable.commit(entries, &clock)
                    })
                    .sum()
            });
        });

        let last = durable.next(count);
        durable.commit(last, &clock);
        let bytes: Vec<u8> = (0..=u8::MAX)
            .cycle()
            .take(durable.journal.last_commit().size_bytes)
            .collect();
        let mut file = File::create_new(folder.path().join("plain")).unwrap();
        benches.bench_function(format!("append_fdatasync/group={count}"), |bencher| {
            bencher.iter(|| {
                file.write_all(&bytes).unwrap();
                file.sync_data().unwrap();
            });
        });
    }
    benches.finish();
}

criterion_group!(benches, decide, commit);
criterion_main!(benches);
