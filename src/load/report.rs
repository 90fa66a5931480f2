//! A result as a page: one file without anything from elsewhere, readable in light and in dark.

mod plot;
mod style;

use super::numbers::{grouped, latency, whole};
use super::outcome::{Figures, Outcome, PointFigures, Verdict};
use plot::{Axis, Line, Plot};
use serde_json::Value;
use std::fmt::Write as _;
use style::STYLE;

/// Percentiles that the axis of latencies names, as nines.
const PERCENTILES: [(&str, f64); 6] = [
    ("0", 0.0),
    ("90 %", 0.9),
    ("99 %", 0.99),
    ("99.9 %", 0.999),
    ("99.99 %", 0.9999),
    ("99.999 %", 0.99999),
];

/// Latencies are measured in microseconds and drawn in milliseconds.
const US_PER_MS: f64 = 1_000.0;

/// A figure of a point in time, where there is one.
type OfPoint = fn(&PointFigures) -> Option<f64>;

/// The whole page.
pub(super) fn page(outcome: &Outcome) -> String {
    let mut body = String::new();
    head(&mut body, outcome);
    tiles(&mut body, outcome);
    for (title, note, svg) in plots(outcome) {
        let _infallible = writeln!(
            body,
            "<section><h2>{title}</h2><p class=\"note\">{note}</p>{svg}</section>"
        );
    }
    latencies(&mut body, outcome);
    audit(&mut body, outcome);
    facts(&mut body, outcome);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escaped(&title(outcome))
    )
}

fn title(outcome: &Outcome) -> String {
    let setting = |name: &str| outcome.settings.get(name).map(plain).unwrap_or_default();
    let rate = match outcome.settings.get("rate") {
        Some(Value::Number(rate)) => format!("{rate} requests/s"),
        _ => "as fast as it answers".into(),
    };
    format!(
        "echopay bench: {} connections, batch {}, {rate}",
        setting("connections"),
        setting("batch")
    )
}

fn head(body: &mut String, outcome: &Outcome) {
    let (class, verdict) = match (outcome.verdict, outcome.interrupted) {
        (Verdict::Passed, false) => ("good", "passed"),
        (Verdict::Passed, true) => ("good", "passed, stopped before its time"),
        (Verdict::Failed, _) => ("bad", "failed"),
    };
    let _infallible = write!(
        body,
        "<header><h1>{}</h1><p><span class=\"verdict {class}\">{verdict}</span> echopay {}, {}, {:.1} s measured \
         on {} cores ({}), {}</p>",
        escaped(&title(outcome)),
        escaped(&outcome.version),
        escaped(&outcome.started_at),
        outcome.seconds,
        outcome.machine.cores,
        escaped(&outcome.machine.cpu),
        escaped(&outcome.machine.kernel),
    );
    for failure in &outcome.failures {
        let _infallible = write!(body, "<p class=\"bad\">{}</p>", escaped(failure));
    }
    for warning in &outcome.warnings {
        let _infallible = write!(body, "<p class=\"warn\">{}</p>", escaped(warning));
    }
    body.push_str("</header>\n");
}

/// The few figures one looks for first.
fn tiles(body: &mut String, outcome: &Outcome) {
    let rate = |rate: f64| grouped(super::numbers::floor(rate.round()));
    let mut tiles = vec![
        ("transfers / s", rate(outcome.transfers_per_second)),
        ("median", latency(outcome.writes.p50_us)),
        ("p99", latency(outcome.writes.p99_us)),
        ("p99.9", latency(outcome.writes.p999_us)),
        ("longest", latency(outcome.writes.max_us)),
    ];
    if outcome.writes.requests == 0 {
        tiles = vec![("requests / s", rate(outcome.requests_per_second))];
    }
    if let Some(kafka) = &outcome.kafka {
        tiles.push(("Kafka events / s", rate(kafka.events_per_second)));
    }
    body.push_str("<div class=\"tiles\">");
    for (name, value) in tiles {
        let _infallible = write!(
            body,
            "<div class=\"tile\"><b>{value}</b><span>{name}</span></div>"
        );
    }
    body.push_str("</div>\n");
}

/// Title, note and drawing of each plot.
fn plots(outcome: &Outcome) -> Vec<(&'static str, &'static str, String)> {
    let mut plots = vec![(
        "Latency by percentile",
        "Each step to the right leaves out a tenth of the slower requests. In an open loop, from when a request was due.",
        by_percentile(outcome),
    )];
    let series = &outcome.series;
    let over_time = |names: &[(&'static str, OfPoint)]| {
        names
            .iter()
            .map(|(name, value)| Line {
                name,
                points: (0_u32..)
                    .zip(&series.points)
                    .filter_map(|(number, point)| {
                        let middle = (f64::from(number) + 0.5) * series.point_seconds;
                        Some((middle, value(point)?))
                    })
                    .collect(),
            })
            .filter(|line| !line.points.is_empty())
            .collect::<Vec<_>>()
    };
    let mut add = |title, note, unit, lines: Vec<Line>| {
        if lines.is_empty() {
            return;
        }
        let most = lines
            .iter()
            .flat_map(|line| &line.points)
            .fold(0.0, |most: f64, point| most.max(point.1));
        let plot = Plot {
            label: title,
            x: Axis::linear("seconds", outcome.seconds.max(series.point_seconds)),
            y: Axis::linear(unit, most),
            lines,
        };
        plots.push((title, note, plot.svg()));
    };

    add(
        "Throughput over time",
        "",
        "transfers/s",
        over_time(&[("transfers/s", |point| Some(point.transfers_per_second))]),
    );
    add(
        "Latency over time",
        "Of the writes answered in each point of time.",
        "ms",
        over_time(&[
            ("p50", |point| Some(whole(point.p50_us) / US_PER_MS)),
            ("p99", |point| Some(whole(point.p99_us) / US_PER_MS)),
            ("longest", |point| Some(whole(point.max_us) / US_PER_MS)),
        ]),
    );
    add(
        "Lag of subscribers over time",
        "From the ledger's time of an entry to the arrival of its update, the longest in each point of time.",
        "ms",
        over_time(&[("subscribers", |point| {
            point.subscriber_lag_ms_max.map(whole)
        })]),
    );
    add(
        "Lag of Kafka over time",
        "Events that are durable and not yet acknowledged by the brokers.",
        "events",
        over_time(&[("Kafka", |point| point.kafka_lag_events_max.map(whole))]),
    );
    plots
}

fn by_percentile(outcome: &Outcome) -> String {
    // How many nines there are: 0.99 is 2.
    let nines = |share: f64| -(1.0 - share).max(1e-12).log10();
    let lines: Vec<Line> = outcome
        .latencies()
        .map(|(name, figures)| Line {
            name: match name {
                "write" => "write",
                "balance" => "balance",
                _ => "transaction",
            },
            points: figures
                .curve_us
                .iter()
                // All of them is infinitely many nines; the longest stands in the table.
                .filter(|(share, _)| *share < 1.0)
                .map(|(share, us)| (nines(*share), whole((*us).max(1)) / 1_000.0))
                .collect(),
        })
        .collect();
    let most_nines = lines
        .iter()
        .flat_map(|line| &line.points)
        .fold(1.0, |most: f64, point| most.max(point.0));
    let ticks = PERCENTILES.map(|(name, share)| (nines(share), name.to_owned()));
    let values = || {
        lines
            .iter()
            .flat_map(|line| &line.points)
            .map(|point| point.1)
    };
    let (least, most) = (
        values().fold(f64::MAX, f64::min),
        values().fold(0.0, f64::max),
    );
    let plot = Plot {
        label: "Latency by percentile",
        x: Axis::named(
            "percentile",
            most_nines,
            ticks
                .into_iter()
                .filter(|(at, _)| *at <= most_nines)
                .collect(),
        ),
        y: Axis::logarithmic("ms", least, most),
        lines,
    };
    plot.svg()
}

fn latencies(body: &mut String, outcome: &Outcome) {
    body.push_str(
        "<section><h2>Figures</h2><div class=\"wide\"><table><tr><th></th><th>requests</th><th>p50</th><th>p90</th>\
         <th>p99</th><th>p99.9</th><th>longest</th><th>mean</th></tr>",
    );
    for (name, figures) in outcome.latencies() {
        let Figures {
            requests,
            p50_us,
            p90_us,
            p99_us,
            p999_us,
            max_us,
            mean_us,
            ..
        } = figures;
        let cells = [
            p50_us,
            p90_us,
            p99_us,
            p999_us,
            max_us,
            &super::numbers::floor(*mean_us),
        ];
        let requests = grouped(*requests);
        let _infallible = write!(body, "<tr><th>{name}</th><td>{requests}</td>");
        for us in cells {
            let _infallible = write!(body, "<td>{}</td>", latency(*us));
        }
        body.push_str("</tr>");
    }
    body.push_str("</table></div>");
    let mut rows = Vec::new();
    let processes = &outcome.processes;
    if let Some(cores) = processes.server_cores {
        let us = processes.server_cpu_us_per_transfer.unwrap_or(0.0);
        let mib = processes.server_memory_bytes_max.unwrap_or(0) >> 20;
        let disk = processes.disk_bytes_per_transfer.unwrap_or(0.0);
        rows.push((
            "service",
            format!("{cores:.2} cores; {us:.1} µs of CPU and {disk:.0} bytes on disk a transfer; {mib} MiB of memory"),
        ));
    }
    rows.push((
        "generator",
        format!(
            "{:.2} cores; {:.1} µs of CPU a request; {} MiB of memory",
            processes.generator_cores,
            processes.generator_cpu_us_per_request,
            processes.generator_memory_bytes_max >> 20
        ),
    ));
    if let Some(heard) = &outcome.subscribers {
        rows.push(("subscribers", heard.to_string()));
    }
    if let Some(kafka) = &outcome.kafka {
        rows.push(("Kafka", kafka.to_string()));
    }
    if let Some(keys) = &outcome.idempotency_keys {
        rows.push(("idempotency keys", keys.clone()));
    }
    for (word, count) in &outcome.errors {
        rows.push(("error", format!("{} × {word}", grouped(*count))));
    }
    table(body, rows.iter().map(|(name, text)| (*name, text.clone())));
    body.push_str("</section>\n");
}

fn audit(body: &mut String, outcome: &Outcome) {
    let Some(audit) = &outcome.audit else { return };
    body.push_str("<section><h2>Audit</h2><table class=\"facts\">");
    for check in &audit.checks {
        let (class, verdict) = if check.passed {
            ("good", "ok")
        } else {
            ("bad", "failed")
        };
        let _infallible = write!(
            body,
            "<tr><th>{}</th><td class=\"{class}\">{verdict}</td><td>{}</td></tr>",
            escaped(&check.name),
            escaped(&check.found)
        );
    }
    body.push_str("</table></section>\n");
}

fn facts(body: &mut String, outcome: &Outcome) {
    body.push_str("<section><h2>Settings and machine</h2>");
    let machine = &outcome.machine;
    let of_machine = [
        ("cores", machine.cores.to_string()),
        ("cpu", machine.cpu.clone()),
        ("kernel", machine.kernel.clone()),
        ("memory", format!("{} MiB", machine.memory_bytes >> 20)),
        ("load average before", machine.load_average.to_string()),
    ];
    let settings = outcome
        .settings
        .iter()
        .map(|(name, value)| (name.as_str(), plain(value)));
    table(body, settings.chain(of_machine));
    body.push_str("</section>\n");
}

fn table<'r>(body: &mut String, rows: impl Iterator<Item = (&'r str, String)>) {
    body.push_str("<table class=\"facts\">");
    for (name, value) in rows {
        let _infallible = write!(
            body,
            "<tr><th>{}</th><td>{}</td></tr>",
            escaped(name),
            escaped(&value)
        );
    }
    body.push_str("</table>");
}

/// A value as people write it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// Text that stands in a page as text: a server's answer may be in it.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_said_is_text_in_the_page() {
        assert_eq!(
            escaped("<script>\"&\u{0}"),
            "&lt;script&gt;&quot;&amp;\u{fffd}"
        );
    }
}
