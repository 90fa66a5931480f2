//! How runs end: by signals, by deaths, by a number of requests; and that what was due is counted whatever happens.

use super::{
    PAYMENTS, Running, SHORT, bench, check, instances_in, is_empty, json_of, metric, number,
    the_load_runs,
};
use crate::support::server::{DEADLINE, TestServer, echopay, run_to_end, wait_until};
use echopay::cli::Exit;
use echopay::load::wallet_id;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;

/// The process of the own instance in `folder`.
fn instance_in(folder: &Path) -> Option<Pid> {
    let needle = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = entries.filter_map(|entry| {
        let cmdline = std::fs::read(entry.path().join("cmdline")).ok()?;
        let text = String::from_utf8_lossy(&cmdline).into_owned();
        let is_instance = text.split('\0').nth(1) == Some("dev") && text.contains(needle);
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        Pid::from_raw(pid).filter(|_| is_instance)
    });
    pids.next()
}

#[tokio::test]
async fn a_terminals_ctrl_c_ends_the_load_and_not_the_instance() {
    let dir = TempDir::new().unwrap();
    let place = dir.path().to_str().unwrap();
    // As a shell starts it: a group of its own, to which the terminal sends its signals.
    let child = echopay()
        .args([
            "bench",
            "--dir",
            place,
            "--duration",
            "1h",
            "--warmup",
            "0s",
        ])
        .args(["--wallets", "20", "--json"])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let run = Running { child };
    the_load_runs(dir.path()).await;
    kill_process_group(Pid::from_child(&run.child), Signal::INT).unwrap();
    let (code, result) = run.result().await;
    assert_eq!(code, Some(0), "{result}");
    assert_eq!(result["interrupted"], true);
    assert!(is_empty(dir.path()));
}

#[tokio::test]
async fn a_signal_while_the_instance_is_examined_ends_the_run_at_once() {
    let dir = TempDir::new().unwrap();
    let place = dir.path().to_str().unwrap();
    let load = [
        "--dir",
        place,
        "--duration",
        "2s",
        "--timeout",
        "300ms",
        "--wallets",
        "20",
    ];
    let run = Running::start(&load);
    the_load_runs(dir.path()).await;
    // Stopped in mid-run, it does not heed what asks it to end: the run waits for it.
    let instance = instance_in(dir.path()).unwrap();
    kill_process(instance, Signal::STOP).unwrap();
    wait_until(DEADLINE, "the instance is asked to stop", async || {
        has_pending_term(instance)
    })
    .await;
    run.signal(Signal::INT);
    let (code, result) = run.result().await;
    assert_eq!(code, Some(i32::from(Exit::Unavailable.code())), "{result}");
    let error = result["error"].as_str().unwrap();
    assert!(
        error.contains("stopped before there was a result"),
        "{error}"
    );
    assert_eq!(instances_in(dir.path()), 0);
    assert!(is_empty(dir.path()));
}

/// Whether a `SIGTERM` waits for a process that is stopped.
fn has_pending_term(pid: Pid) -> bool {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = std::fs::read_to_string(path).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let mask = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (Signal::TERM.as_raw() - 1) & 1 == 1)
}

#[tokio::test]
async fn the_rate_of_an_overloaded_service_is_what_it_answered() {
    let server = TestServer::start().await;
    let url = server.url("");
    // All that is answered in the measured time was due in the warm-up.
    let load = ["--url", &url, "--rate", "1000000", "--connections", "2"];
    let time = ["--warmup", "1s", "--duration", "2s", "--wallets", "20"];
    let (code, result) = bench(&[&load[..], &time].concat()).await;
    assert_eq!(code, Some(0), "{result}");
    let points = result["series"]["points"].as_array().unwrap();
    let seen: f64 = points
        .iter()
        .map(|point| point["transfers_per_second"].as_f64().unwrap())
        .sum::<f64>()
        / 2.0;
    let told = result["transfers_per_second"].as_f64().unwrap();
    assert!(
        seen > 0.0 && (told - seen).abs() / seen < 0.05,
        "{told} told, {seen} seen"
    );
    assert_eq!(
        told.to_bits(),
        result["requests_per_second"].as_f64().unwrap().to_bits()
    );
    assert!(number(&result, "/unsent") > 1_000_000, "{result}");
}

#[tokio::test]
async fn what_was_due_while_nobody_took_a_connection_is_counted() {
    let mut server = TestServer::start().await;
    let url = server.url("");
    let load = [
        "--url",
        &url,
        "--rate",
        "200",
        "--connections",
        "2",
        "--wallets",
        "20",
    ];
    let time = ["--warmup", "0s", "--duration", "3s"];
    let run = Running::start(&[&load[..], &time].concat());
    wait_until(DEADLINE, "the load runs", async || {
        metric(&server, PAYMENTS).await > 50
    })
    .await;
    server.kill9();
    let (code, result) = run.result().await;
    assert_eq!(code, Some(i32::from(Exit::Unavailable.code())), "{result}");
    let broken = number(&result, "/errors/connection broken");
    let all = number(&result, "/writes/requests") + number(&result, "/unsent") + broken;
    assert!(
        (599..=601).contains(&all),
        "600 were due, {all} are told: {result}"
    );
}

#[tokio::test]
async fn a_run_of_so_many_requests_sends_those_and_no_more() {
    let server = TestServer::start().await;
    let url = server.url("");
    for more in [&["--batch", "7"][..], &["--rate", "500"]] {
        let load = [
            "--url",
            &url,
            "--requests",
            "150",
            "--connections",
            "4",
            "--threads",
            "2",
        ];
        let (code, result) = bench(&[&load[..], more, &["--wallets", "20"]].concat()).await;
        assert_eq!(code, Some(0), "{result}");
        assert_eq!(number(&result, "/totals/requests"), 150);
        assert_eq!(
            number(&result, "/writes/requests"),
            150,
            "none is a warm-up's"
        );
        let seconds = result["seconds"].as_f64().unwrap();
        let rate = result["requests_per_second"].as_f64().unwrap();
        assert!(
            (rate * seconds - 150.0).abs() < 1e-6,
            "{rate} for {seconds} s"
        );
    }
}

#[tokio::test]
async fn filling_lets_each_wallet_take_part_once() {
    let server = TestServer::start().await;
    let url = server.url("");
    let load = ["--url", &url, "--fill", "--no-audit", "--seed", "7"];
    let size = ["--wallets", "100", "--batch", "10", "--connections", "3"];
    let (code, result) = bench(&[&load[..], &size].concat()).await;
    assert_eq!(code, Some(0), "{result}");
    assert_eq!(number(&result, "/totals/requests"), 5);
    for wallet in 0..100 {
        let path = format!("/api/v1/wallets/{}/transactions", wallet_id(7, wallet));
        let answer = server.get(&path).await;
        let history: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let transactions = history["transactions"].as_array().unwrap();
        // The service itself gives an opening balance, without metadata.
        let payments = transactions.iter().filter(|one| !one["metadata"].is_null());
        assert_eq!(payments.count(), 1, "wallet {wallet}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_wrong_option_is_an_object_too_for_who_asked_for_json() {
    for args in [
        &["--rate", "fast"][..],
        &["--no-audit"],
        &["compare", "one"],
    ] {
        let output = run_to_end(&[&["bench"], args, &["--json"]].concat()).await;
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        let told = json_of(&output);
        assert_eq!(number(&told, "/exit_code"), 64);
        assert!(!told["error"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_report_that_cannot_be_written_costs_the_page_and_not_the_result() {
    let server = TestServer::start().await;
    let url = server.url("");
    let (code, result) =
        bench(&[&SHORT[..], &["--url", &url, "--report", "/dev/full"]].concat()).await;
    assert_eq!(code, Some(i32::from(Exit::CannotCreate.code())), "{result}");
    assert_eq!(result["verdict"], "passed");
    assert!(
        result["warnings"].to_string().contains("/dev/full"),
        "{result}"
    );
    let (passed, _) = check(&result, "journal").unwrap();
    assert!(passed);
}

#[tokio::test]
async fn a_run_that_gives_no_result_leaves_no_report() {
    let dir = TempDir::new().unwrap();
    let report = dir.path().join("out.html");
    let place = ["--report", report.to_str().unwrap()];
    let output = run_to_end(&[&["bench"], &place[..], &["--", "--no-such-flag"]].concat()).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(!report.exists());
}
