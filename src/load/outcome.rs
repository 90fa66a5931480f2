//! The result of a run: what `--json` prints and `bench compare` reads. `docs/BENCH.md` has the table of its fields.

use super::audit::Audit;
use super::machine::Machine;
use super::numbers::{grouped, latency};
use super::tally::{Seen, Series};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// Version of the object. Fields are added without a new one; another meaning of a field is a new one.
pub(super) const SCHEMA: u32 = 1;
/// Percentiles of the curve, in shares below 1.
const CURVE: [f64; 22] = [
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 0.995, 0.999,
    0.9995, 0.9999, 0.99995, 0.99999, 1.0,
];

/// Everything that a run found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) schema: u32,
    /// Of echopay, which is also the own instance's.
    pub(super) version: String,
    pub(super) started_at: String,
    /// `passed` or `failed`.
    pub(super) verdict: Verdict,
    /// Why it failed.
    pub(super) failures: Vec<String>,
    /// What casts doubt on the figures.
    pub(super) warnings: Vec<String>,
    /// Asked to stop before its time.
    pub(super) interrupted: bool,
    /// By their options' names.
    pub(super) settings: BTreeMap<String, Value>,
    pub(super) machine: Machine,
    /// Of the measured time, in seconds.
    pub(super) seconds: f64,
    pub(super) transfers_per_second: f64,
    pub(super) requests_per_second: f64,
    pub(super) writes: Figures,
    pub(super) balance_reads: Option<Figures>,
    pub(super) transaction_reads: Option<Figures>,
    /// Requests of an open loop that were due and never sent; their waits are in the latencies of writes.
    pub(super) unsent: u64,
    /// Refusals and errors by their name, over the whole run.
    pub(super) errors: BTreeMap<String, u64>,
    /// Over the whole run, warm-up included.
    pub(super) totals: Totals,
    pub(super) series: SeriesFigures,
    pub(super) processes: Processes,
    pub(super) idempotency_keys: Option<String>,
    pub(super) subscribers: Option<SubscriberFigures>,
    pub(super) kafka: Option<KafkaFigures>,
    pub(super) audit: Option<Audit>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Passed,
    Failed,
}

/// One kind of request. Latencies are microseconds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) requests: u64,
    /// Transfers in them; of reads as many as requests.
    pub(super) items: u64,
    pub(super) p50_us: u64,
    pub(super) p90_us: u64,
    pub(super) p99_us: u64,
    pub(super) p999_us: u64,
    pub(super) max_us: u64,
    pub(super) mean_us: f64,
    /// Pairs of share and microseconds.
    pub(super) curve_us: Vec<(f64, u64)>,
}

impl Figures {
    pub(super) fn of(seen: &Seen) -> Self {
        let latencies = &seen.latencies_us;
        Self {
            requests: seen.requests,
            items: seen.items,
            p50_us: latencies.value_at_quantile(0.5),
            p90_us: latencies.value_at_quantile(0.9),
            p99_us: latencies.value_at_quantile(0.99),
            p999_us: latencies.value_at_quantile(0.999),
            max_us: latencies.max(),
            mean_us: latencies.mean(),
            curve_us: curve(latencies),
        }
    }
}

/// The values at [`CURVE`]'s shares, as far as there are enough of them to tell.
fn curve(latencies: &Histogram<u64>) -> Vec<(f64, u64)> {
    let count = super::numbers::whole(latencies.len());
    let is_told = |share: &&f64| **share >= 1.0 || (1.0 - **share) * count >= 1.0;
    let shares = CURVE.iter().filter(is_told);
    shares
        .map(|share| (*share, latencies.value_at_quantile(*share)))
        .collect()
}

/// Counts over the whole run, warm-up included: what the audit is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Totals {
    pub(super) requests: u64,
    pub(super) acknowledged_transfers: u64,
    /// Refused by a rule and recorded as failed.
    pub(super) refused_transfers: u64,
    /// May have been done or not.
    pub(super) unknown_transfers: u64,
    pub(super) last_sequence: u64,
}

/// The measured time, point by point.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct SeriesFigures {
    /// Length of a point.
    pub(super) point_seconds: f64,
    pub(super) points: Vec<PointFigures>,
}

/// One point. Rates are of the point itself, latencies of the writes answered in it.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct PointFigures {
    pub(super) transfers_per_second: f64,
    pub(super) requests_per_second: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subscriber_lag_ms_max: Option<u64>,
    /// Durable and not yet acknowledged by Kafka.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kafka_lag_events_max: Option<u64>,
}

impl SeriesFigures {
    pub(super) fn of(series: &Series) -> Self {
        let seconds = series.point.as_secs_f64();
        let rate = |count: u64| super::numbers::whole(count) / seconds;
        let points = series.points.iter().map(|point| PointFigures {
            transfers_per_second: rate(point.transfers),
            requests_per_second: rate(point.requests),
            p50_us: point.p50_us,
            p99_us: point.p99_us,
            max_us: point.max_us,
            ..PointFigures::default()
        });
        Self {
            point_seconds: seconds,
            points: points.collect(),
        }
    }

    /// Writes lags that were sampled at `at` seconds of the measured time into their points.
    pub(super) fn lag(&mut self, at_seconds: f64, subscriber_ms: Option<u64>, kafka: Option<u64>) {
        let number = super::numbers::floor(at_seconds / self.point_seconds);
        let Some(point) = usize::try_from(number)
            .ok()
            .and_then(|number| self.points.get_mut(number))
        else {
            return;
        };
        point.subscriber_lag_ms_max = point.subscriber_lag_ms_max.max(subscriber_ms);
        point.kafka_lag_events_max = point.kafka_lag_events_max.max(kafka);
    }
}

/// What the processes used in the measured time.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Processes {
    /// Cores that the own instance kept busy.
    pub(super) server_cores: Option<f64>,
    /// CPU time of the own instance for a transfer.
    pub(super) server_cpu_us_per_transfer: Option<f64>,
    pub(super) server_memory_bytes_max: Option<u64>,
    /// On disk at the end, for each transfer of the run.
    pub(super) disk_bytes_per_transfer: Option<f64>,
    /// Cores that the generator kept busy, subscribers included.
    pub(super) generator_cores: f64,
    pub(super) generator_cpu_us_per_request: f64,
    pub(super) generator_memory_bytes_max: u64,
}

/// What the subscribers heard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct SubscriberFigures {
    pub(super) count: u32,
    pub(super) updates: u64,
    pub(super) missing: u64,
    pub(super) disordered: u64,
    pub(super) resumes: u64,
    pub(super) ended: Vec<String>,
    /// From the ledger's time of the entry to the arrival; milliseconds are as fine as that time is told.
    pub(super) lag_ms_p50: u64,
    pub(super) lag_ms_p99: u64,
    pub(super) lag_ms_max: u64,
}

/// How the events got to Kafka.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct KafkaFigures {
    pub(super) topic: String,
    /// Durable and not acknowledged, at most.
    pub(super) lag_events_max: u64,
    /// From the end of the load until the last event was acknowledged.
    pub(super) drained_seconds: Option<f64>,
    /// Acknowledged by the brokers, over load and drain.
    pub(super) events_per_second: f64,
}

impl Outcome {
    /// The figures by the names under which `compare` and the report show them.
    pub(super) fn latencies(&self) -> impl Iterator<Item = (&'static str, &Figures)> {
        let kinds = [
            ("write", Some(&self.writes)),
            ("balance", self.balance_reads.as_ref()),
            ("transaction", self.transaction_reads.as_ref()),
        ];
        kinds
            .into_iter()
            .filter_map(|(name, figures)| Some((name, figures?)))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |number: f64| grouped(super::numbers::floor(number.round()));
        let mut line = |name: &str, text: String| writeln!(f, "{name:<13}{text}");
        line(
            "throughput",
            format!(
                "{} transfers/s, {} requests/s, over {:.1} s",
                count(self.transfers_per_second),
                count(self.requests_per_second),
                self.seconds
            ),
        )?;
        line(
            "latency",
            format!(
                "{:>11}{:>11}{:>11}{:>11}{:>11}{:>13}",
                "p50", "p90", "p99", "p99.9", "max", "requests"
            ),
        )?;
        for (name, figures) in self.latencies() {
            let shown = [
                figures.p50_us,
                figures.p90_us,
                figures.p99_us,
                figures.p999_us,
                figures.max_us,
            ];
            let mut row = String::new();
            for us in shown {
                write!(row, "{:>11}", latency(us))?;
            }
            line(
                &format!("  {name}"),
                format!("{row}{:>13}", grouped(figures.requests)),
            )?;
        }
        if self.unsent > 0 {
            line(
                "not sent",
                format!("{} requests that were due", grouped(self.unsent)),
            )?;
        }
        let processes = &self.processes;
        if let Some(cores) = processes.server_cores {
            let us = processes.server_cpu_us_per_transfer.unwrap_or(0.0);
            let mib = processes.server_memory_bytes_max.unwrap_or(0) >> 20;
            let disk = processes.disk_bytes_per_transfer.unwrap_or(0.0);
            let text = format!(
                "{cores:.2} cores, {us:.1} µs of CPU and {disk:.0} bytes of disk a transfer, {mib} MiB of memory"
            );
            line("service", text)?;
        }
        let (cores, us) = (
            processes.generator_cores,
            processes.generator_cpu_us_per_request,
        );
        let text = format!(
            "{cores:.2} cores, {us:.1} µs of CPU a request, of {} cores",
            self.machine.cores
        );
        line("generator", text)?;
        if let Some(keys) = &self.idempotency_keys {
            line("keys", keys.clone())?;
        }
        if let Some(heard) = &self.subscribers {
            line("subscribers", heard.to_string())?;
        }
        if let Some(kafka) = &self.kafka {
            line("kafka", kafka.to_string())?;
        }
        if let Some(audit) = &self.audit {
            for (number, check) in audit.checks.iter().enumerate() {
                let name = if number == 0 { "audit" } else { "" };
                let verdict = if check.passed { "ok" } else { "FAILED" };
                line(name, format!("{}: {verdict}, {}", check.name, check.found))?;
            }
        }
        for (word, count) in &self.errors {
            line("error", format!("{} × {word}", grouped(*count)))?;
        }
        for warning in &self.warnings {
            line("warning", warning.clone())?;
        }
        for failure in &self.failures {
            line("FAILURE", failure.clone())?;
        }
        let verdict = match (self.verdict, self.interrupted) {
            (Verdict::Passed, false) => "passed",
            (Verdict::Passed, true) => "passed, stopped before its time",
            (Verdict::Failed, _) => "FAILED",
        };
        line(
            "result",
            format!("{verdict} (seed {})", self.settings_text("seed")),
        )
    }
}

impl Outcome {
    fn settings_text(&self, name: &str) -> String {
        self.settings
            .get(name)
            .map(Value::to_string)
            .unwrap_or_default()
    }
}

impl fmt::Display for SubscriberFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} heard {} updates, {} missing, {} out of order, {} resumed; lag p50 {} ms, p99 {} ms, max {} ms",
            self.count,
            grouped(self.updates),
            grouped(self.missing),
            self.disordered,
            self.resumes,
            self.lag_ms_p50,
            self.lag_ms_p99,
            self.lag_ms_max
        )
    }
}

impl fmt::Display for KafkaFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = grouped(super::numbers::floor(self.events_per_second));
        let lag = grouped(self.lag_events_max);
        write!(
            f,
            "{rate} events/s into {} (which stays on the brokers), at most {lag} behind",
            self.topic
        )?;
        match self.drained_seconds {
            Some(seconds) => write!(f, ", everything there {seconds:.1} s after the load"),
            None => f.write_str(", NOT everything got there"),
        }
    }
}
