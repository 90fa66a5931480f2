//! Two results side by side: ratios, how sure they are, and what differs in what was measured.

use super::error::LoadError;
use super::numbers::{median, share, whole};
use super::outcome::{Outcome, SCHEMA, Verdict};
use crate::cli::CompareOptions;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;

/// What a comparison says.
#[derive(Debug, Serialize)]
struct Comparison {
    schema: u32,
    before: Side,
    after: Side,
    rows: Vec<Row>,
    /// Settings and machine facts that are not the same, with both values.
    differences: BTreeMap<String, (Value, Value)>,
}

/// A file's results.
#[derive(Debug, Serialize)]
struct Side {
    file: String,
    rounds: usize,
    /// Rounds whose run failed: their figures are of less than was asked for.
    failed: usize,
}

/// A figure in both.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    before: Spread,
    after: Spread,
    /// After / before, of the medians.
    ratio: f64,
    /// The least and the most that the spreads allow.
    ratio_range: (f64, f64),
}

/// The median, and between what it lies.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

/// Reads both files and gives the comparison as text.
pub(super) fn run(options: &CompareOptions) -> Result<String, LoadError> {
    let before = read(&options.before)?;
    let after = read(&options.after)?;
    let comparison = compare((&options.before, &before), (&options.after, &after));
    Ok(if options.json {
        serde_json::to_string(&comparison).unwrap_or_default()
    } else {
        comparison.to_string()
    })
}

/// A file's results, one a line; at least one.
fn read(path: &Path) -> Result<Vec<Outcome>, LoadError> {
    let text =
        std::fs::read_to_string(path).map_err(LoadError::io(format!("read {}", path.display())))?;
    let no_result = |reason: String| LoadError::NoResult {
        path: path.to_owned(),
        reason,
    };
    let mut outcomes = Vec::new();
    // Whole values, so that a result that was printed over several lines is read too.
    for value in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
        let value = value.map_err(|error| no_result(format!("no JSON: {error}")))?;
        let schema = value.get("schema").and_then(Value::as_u64);
        if schema != Some(u64::from(SCHEMA)) {
            let found = schema.map_or("no schema".into(), |schema| format!("schema {schema}"));
            return Err(no_result(format!(
                "no result of `bench --json` with schema {SCHEMA}: {found}"
            )));
        }
        let outcome =
            serde_json::from_value(value).map_err(|error| no_result(error.to_string()))?;
        outcomes.push(outcome);
    }
    if outcomes.is_empty() {
        return Err(no_result("no result of `bench --json`".into()));
    }
    Ok(outcomes)
}

fn compare(before: (&Path, &[Outcome]), after: (&Path, &[Outcome])) -> Comparison {
    let side = |(path, outcomes): (&Path, &[Outcome])| Side {
        file: path.display().to_string(),
        rounds: outcomes.len(),
        failed: outcomes
            .iter()
            .filter(|one| one.verdict == Verdict::Failed)
            .count(),
    };
    let mut rows = Vec::new();
    for (name, _) in FIGURES {
        let (Some(before), Some(after)) = (spread(name, before.1), spread(name, after.1)) else {
            continue;
        };
        rows.push(Row {
            name: name.to_owned(),
            before,
            after,
            ratio: share(after.median, before.median),
            ratio_range: (share(after.low, before.high), share(after.high, before.low)),
        });
    }
    Comparison {
        schema: SCHEMA,
        before: side(before),
        after: side(after),
        rows,
        differences: differences(before.1, after.1),
    }
}

type Figure = fn(&Outcome) -> Option<f64>;

/// What is compared. Where it is not there in both, it is left out.
const FIGURES: [(&str, Figure); 16] = [
    ("transfers/s", |one| Some(one.transfers_per_second)),
    ("requests/s", |one| Some(one.requests_per_second)),
    ("write p50, µs", |one| Some(whole(one.writes.p50_us))),
    ("write p90, µs", |one| Some(whole(one.writes.p90_us))),
    ("write p99, µs", |one| Some(whole(one.writes.p99_us))),
    ("write p99.9, µs", |one| Some(whole(one.writes.p999_us))),
    ("write max, µs", |one| Some(whole(one.writes.max_us))),
    ("balance p50, µs", |one| {
        Some(whole(one.balance_reads.as_ref()?.p50_us))
    }),
    ("balance p99, µs", |one| {
        Some(whole(one.balance_reads.as_ref()?.p99_us))
    }),
    ("transaction p99, µs", |one| {
        Some(whole(one.transaction_reads.as_ref()?.p99_us))
    }),
    ("service CPU a transfer, µs", |one| {
        one.processes.server_cpu_us_per_transfer
    }),
    ("generator CPU a request, µs", |one| {
        Some(one.processes.generator_cpu_us_per_request)
    }),
    ("service memory, bytes", |one| {
        Some(whole(one.processes.server_memory_bytes_max?))
    }),
    ("disk a transfer, bytes", |one| {
        one.processes.disk_bytes_per_transfer
    }),
    ("subscriber lag p99, ms", |one| {
        Some(whole(one.subscribers.as_ref()?.lag_ms_p99))
    }),
    ("Kafka events/s", |one| {
        Some(one.kafka.as_ref()?.events_per_second)
    }),
];

/// A figure over all rounds. Of a single round only the rate has a spread: over its points in time.
fn spread(name: &str, outcomes: &[Outcome]) -> Option<Spread> {
    let (_, figure) = FIGURES.iter().find(|(known, _)| *known == name)?;
    let mut values: Vec<f64> = outcomes.iter().filter_map(figure).collect();
    if values.is_empty() || values.iter().all(|value| *value <= 0.0) {
        return None;
    }
    let middle = median(&mut values);
    let (low, high) = match (outcomes, name) {
        ([one], "transfers/s" | "requests/s") => {
            let of_point = |point: &super::outcome::PointFigures| match name {
                "transfers/s" => point.transfers_per_second,
                _ => point.requests_per_second,
            };
            let mut points: Vec<f64> = one.series.points.iter().map(of_point).collect();
            points.sort_by(f64::total_cmp);
            // The middle four fifths: a single odd second says little.
            let cut = points.len() / 10;
            let inner = points.get(cut..points.len() - cut).unwrap_or_default();
            (inner.first().copied(), inner.last().copied())
        }
        _ => (values.first().copied(), values.last().copied()),
    };
    Some(Spread {
        median: middle,
        low: low.unwrap_or(middle).min(middle),
        high: high.unwrap_or(middle).max(middle),
    })
}

/// Settings and facts of the machine that are not the same in all rounds of both.
fn differences(before: &[Outcome], after: &[Outcome]) -> BTreeMap<String, (Value, Value)> {
    let facts = |outcomes: &[Outcome]| {
        let mut facts: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for one in outcomes {
            let machine = json!({"cores": one.machine.cores, "cpu": one.machine.cpu, "kernel": one.machine.kernel,
                "memory": one.machine.memory_bytes, "echopay": one.version});
            let machine = machine.as_object().cloned().unwrap_or_default();
            let settings = one.settings.clone().into_iter();
            for (name, value) in settings.chain(machine) {
                let values = facts.entry(name).or_default();
                if !values.contains(&value) {
                    values.push(value);
                }
            }
        }
        facts
    };
    let one = |values: &Vec<Value>| match &values[..] {
        [value] => value.clone(),
        values => Value::Array(values.to_vec()),
    };
    let (before, after) = (facts(before), facts(after));
    let names = before
        .keys()
        .chain(after.keys())
        .collect::<std::collections::BTreeSet<_>>();
    names
        .into_iter()
        // Two runs are meant to draw differently, unless somebody says otherwise.
        .filter(|name| *name != "seed")
        .filter_map(|name| {
            let of =
                |facts: &BTreeMap<String, Vec<Value>>| facts.get(name).map_or(Value::Null, one);
            let (before, after) = (of(&before), of(&after));
            (before != after).then(|| (name.clone(), (before, after)))
        })
        .collect()
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, side) in [("before", &self.before), ("after", &self.after)] {
            write!(f, "{name:<8}{}, {} rounds", side.file, side.rounds)?;
            if side.failed > 0 {
                write!(f, ", {} of them FAILED", side.failed)?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "\n{:<29}{:>14}{:>14}{:>9}  with the spread",
            "", "before", "after", "ratio"
        )?;
        for row in &self.rows {
            let (low, high) = row.ratio_range;
            let mut range = String::new();
            if (high - low).abs() > 1e-9 {
                write!(range, "{low:.2} to {high:.2}")?;
            }
            writeln!(
                f,
                "{:<29}{:>14}{:>14}{:>9.3}  {range}",
                row.name,
                figure(row.before.median),
                figure(row.after.median),
                row.ratio
            )?;
        }
        if self.differences.is_empty() {
            return writeln!(f, "\nSettings and machine are the same.");
        }
        writeln!(f, "\nNot the same:")?;
        for (name, (before, after)) in &self.differences {
            writeln!(f, "  {name:<27}{before} → {after}")?;
        }
        Ok(())
    }
}

fn figure(value: f64) -> String {
    if value >= 1_000.0 {
        super::numbers::grouped(super::numbers::floor(value.round()))
    } else {
        format!("{value:.1}")
    }
}
