//! The time of each pure step of the hot path; `benches/instructions.rs` counts what the same steps execute.
//!
//! `cargo bench --bench stages -- parse`. The steps that wait have benches of their own: `commit` in `ledger`, `produce`
//! in `pipeline`, `request` in `request`. Which metric belongs to which step: `docs/METRICS.md`.

#[path = "stages/pure.rs"]
mod pure;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echopay::clock::{Clock, SystemClock};
use std::time::Duration;

/// Runs between two looks at the clock: few enough to have their inputs in memory, enough that the looks do not count.
const RUNS: u64 = 64;

fn stages(criterion: &mut Criterion) {
    let clock = SystemClock::new();
    for stage in pure::STAGES {
        let (name, transfers) = stage.name.split_once('/').unwrap_or((stage.name, "1"));
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(stage.transfers as u64));
        let mut step = (stage.make)(stage.transfers);
        group.bench_function(format!("transfers={transfers}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let (mut left, mut took) = (iterations, Duration::ZERO);
                while left > 0 {
                    let runs = left.min(RUNS);
                    step.prepare(usize::try_from(runs).unwrap_or_default());
                    let began = clock.monotonic();
                    for _ in 0..runs {
                        step.run();
                    }
                    took += clock.monotonic().saturating_sub(began);
                    left -= runs;
                }
                took
            });
        });
        group.finish();
    }
}

criterion_group!(benches, stages);
criterion_main!(benches);
