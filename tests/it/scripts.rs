//! The scripts that the README sends people to, run as they would run them.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::kafka::Topic;
use crate::support::server::TestServer;
use std::process::{Command, Output};

/// Runs a script of the project with one argument, without what the tester's environment might set.
fn run(script: &str, argument: &str, environment: &[(&str, &str)]) -> Output {
    Command::new("bash")
        .arg(format!("{}/scripts/{script}", env!("CARGO_MANIFEST_DIR")))
        .arg(argument)
        .env_remove("TOKEN")
        .env_remove("KAFKA_BROKERS")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn the_streaming_check_passes_against_dev_without_kafka() {
    let server = TestServer::start().await;
    let output = run("test-event-streaming.sh", &server.url(""), &[]);
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("\n10 passed, 0 failed, 1 skipped"), "{text}");
}

#[tokio::test]
async fn the_streaming_check_passes_against_serve_with_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.toml");
    let hash = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272";
    let scopes = r#"["read", "write", "issue", "admin"]"#;
    let text = format!("[[token]]\nname = \"check\"\nsha256 = \"{hash}\"\nscopes = {scopes}\n");
    std::fs::write(&file, text).unwrap();
    let server = TestServer::start_serve(&["--tokens-file", file.to_str().unwrap()]).await;

    let output = run(
        "test-event-streaming.sh",
        &server.url(""),
        &[("TOKEN", "sesame")],
    );
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("\n13 passed, 0 failed, 1 skipped"), "{text}");

    let output = run(
        "test-event-streaming.sh",
        &server.url(""),
        &[("TOKEN", "wrong")],
    );
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
}

#[tokio::test]
async fn the_streaming_check_waits_for_what_kafka_acknowledged() {
    let Some(topic) = Topic::shared("script") else {
        return;
    };
    let server = TestServer::start_with(&topic.flags()).await;
    let output = run("test-event-streaming.sh", &server.url(""), &[]);
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Kafka has acknowledged all of it"), "{text}");
    assert!(text.contains("\n11 passed, 0 failed, 1 skipped"), "{text}");
}

#[tokio::test]
async fn the_streaming_check_fails_where_nobody_answers() {
    let mut server = TestServer::start().await;
    let url = server.url("");
    server.kill9();
    let output = run("test-event-streaming.sh", &url, &[]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("\n0 passed, 1 failed, 0 skipped"), "{text}");
}

#[tokio::test]
async fn a_short_soak_with_kills_loses_nothing() {
    let binary = env!("CARGO_BIN_EXE_echopay");
    let environment = [("ECHOPAY", binary), ("KILL_EVERY", "1"), ("BATCH", "50")];
    let output = run("soak.sh", "4", &environment);
    let text = stdout(&output);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{log}");
    assert!(
        text.contains("kills, nothing lost") && !text.contains(" 0 kills"),
        "{text}"
    );
}
