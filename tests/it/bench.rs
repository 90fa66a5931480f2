//! `echopay bench` as its users run it: what it measures, what it finds, and what it leaves behind.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::http::{TRANSACTIONS, sequence, transfer_between};
use crate::support::kafka::Broker;
use crate::support::server::{DEADLINE, TestServer, echopay, run_to_end, wait_until};
use echopay::cli::Exit;
use echopay::load::wallet_id;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

mod ends;
mod lying;
mod ratios;

/// A run that takes as little time as a figure needs.
const SHORT: [&str; 8] = [
    "--duration",
    "1s",
    "--warmup",
    "200ms",
    "--connections",
    "4",
    "--wallets",
    "20",
];

/// Runs `echopay bench <args> --json`; the exit code and the result.
async fn bench(args: &[&str]) -> (Option<i32>, Value) {
    let output = run_to_end(&[&["bench"], args, &["--json"]].concat()).await;
    (output.status.code(), json_of(&output))
}

#[track_caller]
fn json_of(output: &Output) -> Value {
    let stdout = String::from_utf8_lossy(&output.stdout);
    match serde_json::from_str(&stdout) {
        Ok(value) => value,
        Err(error) => panic!(
            "{error}; stdout: {stdout}; stderr: {}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

#[track_caller]
fn number(value: &Value, pointer: &str) -> u64 {
    let found = value.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no number at {pointer} of {value}"))
}

/// What a check of the audit found, if there is one of that name.
fn check<'v>(result: &'v Value, name: &str) -> Option<(bool, &'v str)> {
    let checks = result.pointer("/audit/checks")?.as_array()?;
    let check = checks.iter().find(|check| check["name"] == name)?;
    Some((check["passed"].as_bool()?, check["found"].as_str()?))
}

/// A run under way.
struct Running {
    child: Child,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let child = echopay()
            .arg("bench")
            .args(args)
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(DEADLINE, "the run ends", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// The result; what fits into a pipe's buffer, as a result does.
    async fn result(mut self) -> (Option<i32>, Value) {
        let (out, err) = (self.child.stdout.take(), self.child.stderr.take());
        let status = self.end().await;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        std::io::Read::read_to_end(&mut out.unwrap(), &mut stdout).unwrap();
        std::io::Read::read_to_end(&mut err.unwrap(), &mut stderr).unwrap();
        let output = Output {
            status,
            stdout,
            stderr,
        };
        (output.status.code(), json_of(&output))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_waited_for = self.child.wait();
    }
}

/// Processes that name `folder` in their command line, other than `bench` itself.
fn instances_in(folder: &Path) -> usize {
    let needle = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| {
            let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let text = String::from_utf8_lossy(&cmdline).into_owned();
            let is_instance = text.split('\0').nth(1) == Some("dev");
            is_instance && text.contains(needle)
        })
        .count()
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

/// Single payments that were answered: those of the load, since wallets are prepared in batches.
const PAYMENTS: &str =
    r#"echopay_http_requests_total{method="POST",route="/api/v1/transactions",status="201"} "#;

/// A sample's value of `/metrics`.
async fn metric(server: &TestServer, name: &str) -> u64 {
    let text = server.get("/metrics").await.body;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    // Sums are told with a fraction.
    let whole = line.and_then(|value| value.trim().split('.').next());
    whole.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn a_run_of_its_own_measures_audits_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let report = dir.path().join("out.html");
    let folder = dir.path().join("runs");
    std::fs::create_dir(&folder).unwrap();
    let place = ["--dir", folder.to_str().unwrap()];
    let page = ["--report", report.to_str().unwrap()];
    let (code, result) = bench(&[&SHORT[..], &place, &page].concat()).await;

    assert_eq!(code, Some(0), "{result}");
    assert_eq!(result["verdict"], "passed");
    assert_eq!(number(&result, "/schema"), 1);
    let acknowledged = number(&result, "/totals/acknowledged_transfers");
    assert!(acknowledged > 0 && acknowledged >= number(&result, "/writes/items"));
    assert_eq!(number(&result, "/settings/connections"), 4);
    assert!(number(&result, "/machine/cores") > 0);
    for name in ["journal", "balances", "sum", "transactions", "folder"] {
        let (passed, found) = check(&result, name).unwrap_or_else(|| panic!("{name}: {result}"));
        assert!(passed, "{name}: {found}");
    }
    let quantiles = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"]
        .map(|name| number(&result, &format!("/writes/{name}")));
    assert!(quantiles.is_sorted() && quantiles[0] > 0, "{quantiles:?}");
    let transfers: f64 = result["series"]["points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["transfers_per_second"].as_f64().unwrap())
        .sum();
    assert!(transfers > 0.0);

    assert!(is_empty(&folder), "the folder is removed");
    assert_eq!(instances_in(&folder), 0, "the child is gone");
    assert_is_a_page(&std::fs::read_to_string(&report).unwrap());
}

/// Every element is closed where it should be, nothing comes from elsewhere, and there is something to see.
#[track_caller]
fn assert_is_a_page(page: &str) {
    assert!(page.starts_with("<!doctype html>"));
    let mut open = Vec::new();
    for tag in page.split('<').skip(2) {
        let (tag, _) = tag.split_once('>').unwrap();
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') && name != "meta" {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for foreign in [
        "http://", "https://", "src=", "href=", "<script", "@import", "url(",
    ] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf"));
    assert!(page.matches("<svg").count() >= 3);
    for told in [
        "Latency by percentile",
        "Throughput over time",
        "p99",
        "seed",
    ] {
        assert!(page.contains(told), "{told}");
    }
}

#[tokio::test]
async fn its_counts_are_those_of_the_service() {
    for batch in ["1", "50"] {
        let server = TestServer::start().await;
        let url = server.url("");
        let load = [
            "--url",
            &url,
            "--batch",
            batch,
            "--reads",
            "30",
            "--threads",
            "2",
        ];
        let (code, result) = bench(&[&SHORT[..], &load].concat()).await;
        assert_eq!(code, Some(0), "{result}");

        let acknowledged = number(&result, "/totals/acknowledged_transfers");
        let (passed, found) = check(&result, "journal").unwrap();
        assert!(passed, "{found}");
        let last = number(&result, "/totals/last_sequence");
        assert_eq!(last, sequence(&server).await, "what was acknowledged last");
        // Before it, twenty wallets paid each other in pairs.
        let transfers = metric(&server, "echopay_commit_entries_sum ").await;
        let opened = 20 * 8;
        assert!(transfers >= acknowledged + 10 && transfers <= acknowledged + 10 + opened);
        assert!(number(&result, "/balance_reads/requests") > 0);
        assert!(number(&result, "/transaction_reads/requests") > 0);
        assert!(
            check(&result, "folder").is_none(),
            "that is not ours to look at"
        );
    }
}

#[tokio::test]
async fn a_pause_of_the_service_shows_in_an_open_loop_for_all_who_were_due() {
    let server = TestServer::start().await;
    let url = server.url("");
    let load = [
        "--url",
        &url,
        "--rate",
        "300",
        "--connections",
        "1",
        "--duration",
        "3s",
        "--warmup",
        "100ms",
        "--wallets",
        "4",
    ];
    let run = Running::start(&load);
    wait_until(DEADLINE, "the load runs", async || {
        metric(&server, PAYMENTS).await > 20
    })
    .await;
    server.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_millis(400)).await;
    server.signal(Signal::CONT);
    let (code, result) = run.result().await;
    assert_eq!(code, Some(0), "{result}");

    // 120 of 900 requests were due in those 400 ms. From their sending only the one under way would have waited; p99
    // leaves out nine.
    let (p99_us, max_us) = (
        number(&result, "/writes/p99_us"),
        number(&result, "/writes/max_us"),
    );
    assert!(max_us >= 350_000, "{max_us}");
    assert!(p99_us >= 300_000, "{p99_us}");
    let all = number(&result, "/writes/requests") + number(&result, "/unsent");
    assert!(
        (890..=901).contains(&all),
        "each request that was due counts: {all}"
    );
}

#[tokio::test]
async fn a_service_that_forgets_what_it_acknowledged_is_found_out() {
    let server = TestServer::start().await;
    let liar = lying::Proxy::before(server.addr()).await;
    let url = format!("http://{}", liar.address());
    let (code, result) = bench(&[&SHORT[..], &["--url", &url]].concat()).await;
    assert!(liar.lies() > 0, "{result}");
    assert_eq!(code, Some(i32::from(Exit::Damaged.code())), "{result}");
    assert_eq!(result["verdict"], "failed");
    for name in ["journal", "balances"] {
        let (passed, found) = check(&result, name).unwrap();
        assert!(!passed, "{name}: {found}");
    }
}

#[tokio::test]
async fn money_that_somebody_else_moved_is_found_out() {
    let server = TestServer::start().await;
    let url = server.url("");
    let load = [
        "--url",
        &url,
        "--seed",
        "77",
        "--duration",
        "3s",
        "--wallets",
        "20",
    ];
    let run = Running::start(&load);
    wait_until(DEADLINE, "the load runs", async || {
        metric(&server, PAYMENTS).await > 0
    })
    .await;
    let (from, to) = (wallet_id(77, 3).to_string(), wallet_id(77, 4).to_string());
    let body = transfer_between(&from, &to, "1");
    assert_eq!(server.post_json(TRANSACTIONS, &body).await.status, 201);
    let (code, result) = run.result().await;
    assert_eq!(code, Some(i32::from(Exit::Damaged.code())), "{result}");
    let (passed, found) = check(&result, "balances").unwrap();
    assert!(
        !passed && found.contains("2 wrong") && found.contains(&from),
        "{found}"
    );
    assert!(check(&result, "sum").unwrap().0, "no money was made");
}

#[tokio::test]
async fn wrong_options_end_with_64_before_anything_is_started() {
    let dir = TempDir::new().unwrap();
    let place = dir.path().to_str().unwrap();
    let refused: [(&[&str], &str); 14] = [
        (&["--rate", "fast"], "--rate"),
        (&["--rate", "0"], "requests a second"),
        (&["--choice", "zipf:0"], "zipf"),
        (&["--duration", "0s"], "--duration"),
        (&["--batch", "9000"], "--batch"),
        (&["--connections", "0"], "--connections"),
        (&["--wallets", "1"], "--wallets"),
        (&["--reads", "101"], "--reads"),
        (&["--threads", "9", "--connections", "8"], "--threads 9"),
        (&["--batch", "8192", "--connections", "4096"], "MiB"),
        (&["--no-audit"], "--url"),
        (&["--report", "/no/such/folder/out.html"], "--report"),
        (&["--", "--data-dir", "x"], "--data-dir"),
        (&["--", "--no-such-flag"], "--no-such-flag"),
    ];
    for (args, what) in refused {
        let output = run_to_end(&[&["bench", "--dir", place], args].concat()).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {stderr}");
        assert!(
            stderr.starts_with("echopay: ") && stderr.contains(what),
            "{args:?}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(output.stdout.is_empty());
        assert!(is_empty(dir.path()), "{args:?}");
    }
    let output = run_to_end(&["bench", "--url", "https://a"]).await;
    assert_eq!(output.status.code(), Some(64));
}

#[tokio::test]
async fn a_url_of_nobody_ends_with_69() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (code, result) = bench(&["--url", &url]).await;
    assert_eq!(code, Some(i32::from(Exit::Unavailable.code())));
    assert_eq!(number(&result, "/exit_code"), 69);
    assert!(
        result["error"].as_str().unwrap().contains("no connection"),
        "{result}"
    );
}

#[tokio::test]
async fn a_service_that_dies_in_mid_run_fails_it() {
    let mut server = TestServer::start().await;
    let url = server.url("");
    let run = Running::start(&["--url", &url, "--duration", "3s", "--wallets", "20"]);
    wait_until(DEADLINE, "the load runs", async || {
        metric(&server, PAYMENTS).await > 0
    })
    .await;
    server.kill9();
    let (code, result) = run.result().await;
    assert_eq!(code, Some(i32::from(Exit::Unavailable.code())), "{result}");
    assert!(!check(&result, "service").unwrap().0);
    assert!(
        result["errors"].get("connection broken").is_some(),
        "{result}"
    );
}

#[tokio::test]
async fn an_own_instance_that_dies_in_mid_run_fails_it() {
    let dir = TempDir::new().unwrap();
    let place = dir.path().to_str().unwrap();
    let run = Running::start(&["--dir", place, "--duration", "30s"]);
    wait_until(DEADLINE, "the instance runs", async || {
        instances_in(dir.path()) == 1
    })
    .await;
    the_load_runs(dir.path()).await;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&cmdline).into_owned();
        if text.split('\0').nth(1) == Some("dev") && text.contains(place) {
            let pid: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        }
    }
    let (code, result) = run.result().await;
    assert_eq!(code, Some(i32::from(Exit::Unavailable.code())), "{result}");
    let failures = result["failures"].to_string();
    assert!(failures.contains("died in mid-run"), "{failures}");
    let (passed, found) = check(&result, "folder").unwrap();
    assert!(passed, "what it acknowledged is there: {found}");
}

/// Waits until the load on the own instance in `folder` has begun.
async fn the_load_runs(folder: &Path) {
    wait_until(DEADLINE, "the load runs", async || {
        journal_bytes(folder) > 1 << 20
    })
    .await;
}

/// Of everything below a folder but the write-ahead log, which has its length before anything is in it.
fn journal_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let is_log = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with("wal"))
    };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => journal_bytes(&entry.path()),
        Ok(metadata) if !is_log(&entry) => metadata.len(),
        _ => 0,
    };
    entries.flatten().map(size).sum()
}

#[tokio::test]
async fn who_stops_it_gets_what_was_measured_and_finds_nothing_left() {
    let dir = TempDir::new().unwrap();
    let place = dir.path().to_str().unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let load = [
            "--dir",
            place,
            "--duration",
            "1h",
            "--warmup",
            "0s",
            "--wallets",
            "20",
        ];
        let run = Running::start(&load);
        the_load_runs(dir.path()).await;
        run.signal(signal);
        let (code, result) = run.result().await;
        assert_eq!(code, Some(0), "{result}");
        assert_eq!(result["interrupted"], true);
        assert!(number(&result, "/writes/requests") > 0);
        assert_eq!(instances_in(dir.path()), 0);
        assert!(is_empty(dir.path()));
    }
}

#[tokio::test]
async fn a_run_that_is_killed_takes_its_instance_along() {
    let dir = TempDir::new().unwrap();
    let mut run = Running::start(&["--dir", dir.path().to_str().unwrap(), "--duration", "1h"]);
    wait_until(DEADLINE, "the instance runs", async || {
        instances_in(dir.path()) == 1
    })
    .await;
    run.signal(Signal::KILL);
    assert_eq!(run.end().await.signal(), Some(Signal::KILL.as_raw()));
    wait_until(DEADLINE, "the instance is gone", async || {
        instances_in(dir.path()) == 0
    })
    .await;
}

#[tokio::test]
async fn subscribers_hear_everything_that_was_acknowledged() {
    for what in ["everything", "wallet"] {
        let server = TestServer::start().await;
        let url = server.url("");
        let load = [
            "--url",
            &url,
            "--subscribers",
            "5",
            "--subscribe-to",
            what,
            "--rate",
            "200",
        ];
        let (code, result) = bench(&[&SHORT[..], &load].concat()).await;
        assert_eq!(code, Some(0), "{result}");
        let heard = number(&result, "/subscribers/updates");
        let acknowledged = number(&result, "/totals/acknowledged_transfers");
        if what == "everything" {
            assert_eq!(heard, 5 * 2 * acknowledged);
        } else {
            assert!(heard > 0 && heard < 5 * 2 * acknowledged);
        }
        assert_eq!(number(&result, "/subscribers/missing"), 0);
        assert_eq!(number(&result, "/subscribers/disordered"), 0);
    }
}

#[tokio::test]
async fn every_event_of_a_run_with_kafka_is_in_its_topic() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let load = ["--kafka", broker.addresses(), "--rate", "300"];
    let (code, result) = bench(&[&SHORT[..], &load].concat()).await;
    assert_eq!(code, Some(0), "{result}");
    for name in ["kafka", "folder and topic"] {
        let (passed, found) = check(&result, name).unwrap();
        assert!(passed, "{name}: {found}");
    }
    assert!(result["kafka"]["drained_seconds"].is_f64(), "{result}");
}

#[tokio::test]
async fn refusals_fail_a_run_unless_they_are_allowed() {
    let server = TestServer::start_with(&["--queue-commands-max", "1"]).await;
    let url = server.url("");
    let load = ["--url", &url, "--connections", "32"];
    let short = ["--duration", "1s", "--warmup", "0s", "--wallets", "20"];
    let (code, result) = bench(&[&short[..], &load].concat()).await;
    assert_eq!(code, Some(i32::from(Exit::Unavailable.code())), "{result}");
    assert!(number(&result, "/errors/503 LEDGER_BUSY") > 0);
    assert_eq!(
        result["audit"]["passed"], true,
        "what was acknowledged is there"
    );
    let (code, result) = bench(&[&short[..], &load, &["--allow-errors"]].concat()).await;
    assert_eq!(code, Some(0), "{result}");
}

#[tokio::test]
async fn whether_keys_are_heeded_is_told() {
    let server = TestServer::start().await;
    let url = server.url("");
    let (code, result) =
        bench(&[&SHORT[..], &["--url", &url, "--idempotency-keys"]].concat()).await;
    assert_eq!(code, Some(0), "{result}");
    let told = result["idempotency_keys"].as_str().unwrap();
    assert!(
        told.starts_with("heeded") || told.starts_with("ignored"),
        "{told}"
    );
}

#[tokio::test]
async fn two_results_are_held_against_each_other() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (before, after) = (path("before.json"), path("after.json"));
    let server = TestServer::start().await;
    let url = server.url("");
    let (_, one) = bench(&[&SHORT[..], &["--url", &url, "--rate", "200"]].concat()).await;
    let (_, other) = bench(&[&SHORT[..], &["--url", &url, "--rate", "100"]].concat()).await;
    std::fs::write(&before, one.to_string()).unwrap();
    std::fs::write(&after, format!("{other}\n{other}\n")).unwrap();

    let output = run_to_end(&["bench", "compare", &before, &after, "--json"]).await;
    assert_eq!(output.status.code(), Some(0));
    let compared = json_of(&output);
    assert_eq!(
        compared["differences"]["rate"],
        serde_json::json!([200.0, 100.0])
    );
    assert!(compared["differences"].get("connections").is_none());
    assert_eq!(compared["after"]["rounds"], 2);
    let rows = compared["rows"].as_array().unwrap();
    let rate = rows
        .iter()
        .find(|row| row["name"] == "transfers/s")
        .unwrap();
    let ratio = rate["ratio"].as_f64().unwrap();
    let expected = other["transfers_per_second"].as_f64().unwrap()
        / one["transfers_per_second"].as_f64().unwrap();
    assert!((ratio - expected).abs() < 1e-9, "{ratio}, not {expected}");

    let text = run_to_end(&["bench", "compare", &before, &before]).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("1.000") && text.contains("are the same"),
        "{text}"
    );

    std::fs::write(&after, "{\"schema\":99}").unwrap();
    let output = run_to_end(&["bench", "compare", &before, &after]).await;
    assert_eq!(output.status.code(), Some(64));
    let output = run_to_end(&["bench", "compare", &before, &path("none.json")]).await;
    assert_eq!(output.status.code(), Some(66));
    let output = run_to_end(&["bench", "--duration", "1s", "compare", &before, &before]).await;
    assert_eq!(output.status.code(), Some(64));
}
