//! The command line: what it accepts, what it refuses, and how the process starts and ends.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::server::{
    Client, DEADLINE, TestServer, run_to_end, run_to_end_with, wait_until,
};
use echopay::cli::Exit;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};

#[track_caller]
fn assert_refused(output: &Output, what: &str) {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line, not:\n{stderr}");
    assert!(
        stderr.starts_with("echopay: ") && stderr.contains(what),
        "{stderr}"
    );
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn wrong_settings_end_with_one_line_and_64_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let data_dir = data_dir.to_str().unwrap();
    let refused: [(&[&str], &str); 7] = [
        (&["dev", "--port", "many"], "--port"),
        (&["dev", "--no-such-flag"], "--no-such-flag"),
        (&["dev", "--listen", "0.0.0.0:0"], "insecure"),
        (&["serve", "--listen", "0.0.0.0:0"], "tokens-file"),
        (&["serve", "--opening-balance", "5"], "opening-balance"),
        (&["dev", "--kafka-topic", "a b"], "kafka topic"),
        (
            &["dev", "--config", "/no/such/file.toml"],
            "/no/such/file.toml",
        ),
    ];
    for (args, what) in refused {
        let args = [args, &["--data-dir", data_dir]].concat();
        assert_refused(&run_to_end(&args).await, what);
    }
    assert!(!folder.path().join("data").exists());
    assert_refused(&run_to_end(&[]).await, "echopay dev");
    let output = run_to_end_with(&["dev"], &[("ECHOPAY_BATCH_SIZE", "few")]).await;
    assert_refused(&output, "ECHOPAY_BATCH_SIZE");
}

#[tokio::test]
async fn help_goes_to_stdout_and_ends_well() {
    for args in [
        &["--help"][..],
        &["dev", "--help"],
        &["serve", "-h"],
        &["--version"],
    ] {
        let output = run_to_end(args).await;
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}");
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("echopay"),
            "{args:?}"
        );
    }
}

#[tokio::test]
async fn sigterm_ends_it_well_and_a_restart_finds_its_data() {
    let mut server = TestServer::start().await;
    let payment = r#"{"from_wallet":"11111111-1111-4111-8111-111111111111","to_wallet":
        "22222222-2222-4222-8222-222222222222","amount":12.5,"currency":"USD-CBDC"}"#;
    let paid = server.post_json("/api/v1/transactions", payment).await;
    assert_eq!(paid.status, 201, "{}", paid.body);
    let path = format!(
        "/api/v1/transactions/{}",
        paid.json()["transaction_id"].as_str().unwrap()
    );

    assert_eq!(server.terminate().await.code(), Some(0));
    server.restart().await;
    assert!(server.data_dir().read_dir().unwrap().next().is_some());
    assert_eq!(server.get(&path).await.json()["status"], "completed");
    let reversal = r#"{"status":"reversed"}"#;
    assert_eq!(
        server
            .patch_json(&format!("{path}/status"), reversal)
            .await
            .status,
        200
    );
    assert_eq!(
        server.request("GET", &path, &[], "").await.json()["status"],
        "reversed"
    );
}

#[tokio::test]
async fn sigint_ends_it_well_too() {
    let mut server = TestServer::start_serve(&["--log-format", "json"]).await;
    server.signal(Signal::INT);
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
    for line in server.log().lines() {
        let logged: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(logged["level"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn a_killed_process_answers_no_more_and_a_restart_answers_the_same_client() {
    let mut server = TestServer::start().await;
    let client: Client = server.client();
    assert_eq!(client.get("/health").await.status, 200);
    server.kill9();
    assert!(client.try_request("GET", "/health", &[], "").await.is_err());
    server.restart_with(&["--shutdown-grace-ms", "100"]).await;
    assert_eq!(
        client.get("/health").await.header("content-type"),
        "application/json"
    );
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_to_the_hard_one() {
    let server = TestServer::start().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let mut words = line.split_whitespace().skip(3);
    assert_eq!(words.next(), words.next(), "{line}");
}

#[tokio::test]
async fn an_address_in_use_is_said_in_the_log_and_ends_with_69() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let args = ["dev", "--listen", &server.addr().to_string(), "--data-dir"];
    let output = run_to_end(&[&args[..], &[folder.path().to_str().unwrap()]].concat()).await;
    assert_eq!(output.status.code(), Some(69));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains(&server.addr().to_string())
    );
}

#[tokio::test]
async fn a_closed_stderr_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_echopay");
    let data_dir = folder.path().display();
    let script = format!(
        "exec '{binary}' dev --listen 127.0.0.1:0 --log-level trace --data-dir '{data_dir}' 2>&-"
    );
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let health = Client::new(address(&mut child)).get("/health").await;
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(health.status, 200);
}

#[tokio::test]
async fn a_full_stderr_that_nobody_reads_stops_nothing() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // Filled to the brim, so that the very first line of the log has no room.
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'-'; 4096]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_echopay"))
        .args([
            "dev",
            "--listen",
            "127.0.0.1:0",
            "--log-level",
            "trace",
            "--data-dir",
        ])
        .arg(folder.path())
        .stdout(Stdio::piped())
        .stderr(writer)
        .spawn()
        .unwrap();
    let client = Client::new(address(&mut child));
    for _ in 0..100 {
        assert_eq!(client.get("/health").await.status, 200);
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut status = None;
    wait_until(DEADLINE, "a server with a full stderr ends", async || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    drop(reader);
    assert_eq!(status.unwrap().code(), Some(0));
}

/// Reads the first line on stdout.
fn address(child: &mut Child) -> SocketAddr {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    line.trim()
        .strip_prefix("listening on http://")
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn the_readme_names_only_settings_that_exist_and_every_exit_code() {
    let readme = include_str!("../../README.md");
    let mut known = String::new();
    for command in ["dev", "serve", "bench"] {
        let help = run_to_end(&[command, "--help"]).await.stdout;
        known.push_str(&String::from_utf8(help).unwrap());
    }
    let flags = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        words
            .filter(|word| word.starts_with("--"))
            .map(Into::into)
            .collect()
    };
    let mut unknown = flags(readme);
    for of_other_tools in ["--release", "--build", "--no-default-features", "--example"] {
        assert!(unknown.remove(of_other_tools));
    }
    unknown.retain(|word| word != "--help" && word.contains(char::is_alphabetic));
    let known = flags(&known);
    unknown.retain(|flag| !known.contains(flag));
    assert!(unknown.is_empty(), "no such flags: {unknown:?}");

    for exit in Exit::ALL {
        let row = format!("| {} | {} |", exit.code(), exit.meaning());
        assert!(readme.contains(&row), "README.md lacks {row}");
    }
}
