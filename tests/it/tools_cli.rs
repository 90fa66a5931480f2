//! How the commands beside the service take their arguments, refuse, and end: what a script that calls them relies on.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::export_import::{every_kind, tool};
use crate::support::http::text_at;
use crate::support::server::{TestServer, run_to_end, run_to_end_with};
use serde_json::Value;
use std::fs;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const TOOLS: [&str; 5] = ["verify", "export", "import", "backup", "restore"];

#[track_caller]
fn refusal(output: &Output, exit: i32) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(exit), "{stdout}");
    assert_eq!(stdout.lines().count(), 1, "one object: {stdout}");
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(told["exit_code"], exit);
    text_at(&told, "/error")
}

/// Arguments, variables, and what the refusal names.
type Wrong<'t> = (&'t [&'t str], &'t [(&'t str, &'t str)], &'t str);

#[tokio::test]
async fn with_json_a_wrong_option_or_variable_is_an_object_too() {
    let wrong: [Wrong<'_>; 4] = [
        (
            &["verify", "--json", "--no-such-flag"],
            &[],
            "--no-such-flag",
        ),
        (&["export", "--json"], &[], "FILE"),
        (
            &["import", "x", "--json"],
            &[("ECHOPAY_VOLUME_BYTES_MAX", "much")],
            "ECHOPAY_VOLUME_BYTES_MAX",
        ),
        (
            &["verify", "--json", "--config", "/no/such/file.toml"],
            &[],
            "/no/such/file.toml",
        ),
    ];
    for (args, variables, what) in wrong {
        let error = refusal(&run_to_end_with(args, variables).await, 64);
        assert!(error.contains(what), "{error}");
    }
    let plain = run_to_end(&["verify", "--no-such-flag"]).await;
    assert!(plain.stdout.is_empty(), "nobody asked for JSON");
    let service = run_to_end(&["dev", "--json"]).await;
    assert!(service.stdout.is_empty(), "the service has no such option");
}

#[tokio::test]
async fn a_variable_that_a_command_does_not_use_does_not_stop_it() {
    let folder = TempDir::new().unwrap();
    let data_dir = folder.path().to_str().unwrap();
    let bad = [
        ("ECHOPAY_BATCH_SIZE", "few"),
        ("PORT", "many"),
        ("KAFKA_TOPIC", "no such topic"),
    ];
    let args = ["verify", "--json", "--data-dir", data_dir];
    let error = refusal(&run_to_end_with(&args, &bad).await, 66);
    assert!(error.contains("no journal"), "{error}");
    let bad = [("ECHOPAY_CONFIG", "/no/such/file.toml")];
    let args = ["backup", "--json", "x", "--url", "http://127.0.0.1:1"];
    refusal(&run_to_end_with(&args, &bad).await, 69);
}

#[tokio::test]
async fn what_cannot_be_read_or_written_has_the_code_that_the_document_tells() {
    let mut server = TestServer::start().await;
    every_kind(&server).await;
    assert!(server.terminate().await.success());
    let files = TempDir::new().unwrap();
    let place = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let data_dir = server.data_dir().to_str().unwrap();
    let (nowhere, folder) = (place("no/such/folder/file"), place(""));
    tool(&["export", &nowhere, "--data-dir", data_dir], 73).await;
    tool(&["backup", &nowhere], 73).await;
    for command in ["import", "restore"] {
        let args = [command, &folder, "--data-dir", &place("new")];
        let refused = tool(&args, 66).await;
        assert!(text_at(&refused, "/error").contains(&folder), "{refused}");
        assert!(!files.path().join("new").exists());
    }
    let kafka = [
        "verify",
        "--data-dir",
        data_dir,
        "--kafka",
        "--kafka-brokers",
    ];
    let wrong = [&kafka[..], &["127.0.0.1:1", "--kafka-config", "no.such=1"]].concat();
    let refused = tool(&wrong, 64).await;
    assert!(text_at(&refused, "/error").contains("no.such"), "{refused}");
}

#[tokio::test]
async fn a_minus_is_stdin_or_stdout() {
    let mut server = TestServer::start().await;
    every_kind(&server).await;
    let files = TempDir::new().unwrap();
    let place = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let url = server.url("");
    let backup = run_to_end(&["backup", "-", "--url", &url]).await;
    assert_eq!(backup.status.code(), Some(0));
    let told = String::from_utf8(backup.stderr.clone()).unwrap();
    assert!(
        told.contains("head hash"),
        "the report is on stderr: {told}"
    );
    assert!(server.terminate().await.success());
    let data_dir = server.data_dir().to_str().unwrap();
    let export = run_to_end(&["export", "-", "--data-dir", data_dir]).await;
    assert_eq!(export.status.code(), Some(0));
    for (command, bytes) in [("restore", backup.stdout), ("import", export.stdout)] {
        let new = place(command);
        fs::write(files.path().join("bytes"), bytes).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_echopay"))
            .args([command, "-", "--json", "--data-dir", &new])
            .stdin(fs::File::open(files.path().join("bytes")).unwrap())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}");
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        let hash = text_at(&made, "/head_hash");
        assert!(told.contains(&hash), "{command}: {made}");
        tool(&["verify", "--data-dir", &new], 0).await;
    }
    for command in ["export", "backup"] {
        let error = refusal(&run_to_end(&[command, "-", "--json"]).await, 64);
        assert!(error.contains("--json"), "{error}");
    }
}

#[tokio::test]
async fn a_folder_in_use_is_told_before_anything_in_it_is_read() {
    let server = TestServer::start().await;
    every_kind(&server).await;
    // As if its owner were just writing it.
    fs::write(server.data_dir().join("cursor"), [7; 90]).unwrap();
    let data_dir = server.data_dir().to_str().unwrap();
    for command in [&["verify"][..], &["export", "/no/such/folder/x"]] {
        let told = tool(&[command, &["--data-dir", data_dir]].concat(), 75).await;
        assert!(text_at(&told, "/error").contains("in use"), "{told}");
    }
}

#[tokio::test]
async fn the_help_of_each_command_names_defaults_variables_and_examples() {
    for command in TOOLS {
        let output = run_to_end(&[command, "--help"]).await;
        assert_eq!(output.status.code(), Some(0));
        let help = String::from_utf8(output.stdout).unwrap();
        // As if the lines had no end.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains("Examples:"), "{help}");
        assert!(!help.contains("ECHOPAY_JSON"), "{help}");
        let taught: &[&str] = match command {
            "verify" => &[
                "ECHOPAY_DATA_DIR",
                "KAFKA_BROKERS",
                "default: ./echopay-data",
            ],
            "backup" => &["default: http://127.0.0.1:8001"],
            _ => &[
                "ECHOPAY_DATA_DIR",
                "ECHOPAY_CONFIG",
                "default: ./echopay-data",
            ],
        };
        for word in taught {
            assert!(help.contains(word), "{command}: no {word} in\n{help}");
        }
    }
}
