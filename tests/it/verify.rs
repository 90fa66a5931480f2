//! `echopay verify` on stores that the real server left: whole ones, ones whose bytes were changed, and none.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::http::{
    BATCH, TRANSACTIONS, create, number_at, sequence, text_at, transaction, transfer, transfer_with,
};
use crate::support::server::{TestServer, run_to_end};
use echopay::cli::Exit;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

/// Transfers, a refusal, holds that are captured, voided and left open, a reversal, a score, a batch.
async fn pay(server: &TestServer) {
    let paid = create(server, &transfer("12.50")).await;
    for _ in 0..80 {
        create(server, &transfer("0.01")).await;
    }
    let refused = server
        .post_json(TRANSACTIONS, &transfer("99999999.00"))
        .await;
    assert_eq!(refused.status, 402, "{}", refused.body);
    let hold = transfer_with(r#""hold":true,"expires_in_seconds":3600"#);
    let (captured, voided) = (create(server, &hold).await, create(server, &hold).await);
    let _open = create(server, &hold).await;
    for (id, status) in [
        (&captured, "completed"),
        (&voided, "failed"),
        (&paid, "reversed"),
    ] {
        let body = format!(r#"{{"status":"{status}"}}"#);
        let path = transaction(&format!("{id}/status"));
        let answer = server.patch_json(&path, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let path = transaction(&format!("{captured}/fraud-score"));
    let answer = server.patch_json(&path, r#"{"score":0.91}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let items = format!("{0},{0},{0}", transfer("1"));
    let batch = format!(r#"{{"atomic":true,"transactions":[{items}]}}"#);
    let answer = server.post_json(BATCH, &batch).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
}

async fn verify(data_dir: &Path, more: &[&str]) -> Output {
    let args = [&["verify", "--data-dir", data_dir.to_str().unwrap()], more].concat();
    run_to_end(&args).await
}

/// Verifies with `--json`, and gives what it said if it ended so.
#[track_caller]
fn json(output: &Output, exit: Exit) -> Value {
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(
        output.status.code(),
        Some(i32::from(exit.code())),
        "{stdout}{stderr}"
    );
    assert_eq!(stdout.lines().count(), 1, "one object: {stdout}");
    serde_json::from_str(&stdout).unwrap()
}

/// The one finding.
#[track_caller]
fn finding(output: &Output) -> Value {
    let report = json(output, Exit::Damaged);
    assert_eq!(report["whole"], false);
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{report}");
    findings[0].clone()
}

#[tokio::test]
async fn a_whole_store_is_described_in_text_and_as_json() {
    let mut server = TestServer::start().await;
    pay(&server).await;
    let durable = sequence(&server).await;
    assert!(server.terminate().await.success());
    let output = verify(server.data_dir(), &["--json"]).await;
    let report = json(&output, Exit::Success);
    assert_eq!(report["whole"], true, "{report}");
    assert_eq!(number_at(&report, "/oldest_sequence"), 1);
    assert_eq!(number_at(&report, "/newest_sequence"), durable);
    assert_eq!(number_at(&report, "/checkpoint/at"), durable);
    assert_eq!(number_at(&report, "/wallets"), 3);
    assert_eq!(number_at(&report, "/open_holds"), 1);
    assert_eq!(number_at(&report, "/changed_transactions"), 3);
    assert_eq!(text_at(&report, "/currencies/0/currency"), "USD-CBDC");
    assert_eq!(text_at(&report, "/currencies/0/sum"), "0.00");
    assert_eq!(text_at(&report, "/currencies/0/held"), "1.00");
    assert_eq!(report["findings"], Value::Array(Vec::new()));
    assert_eq!(report["warnings"], Value::Array(Vec::new()));
    let head_hash = text_at(&report, "/head_hash");

    let output = verify(server.data_dir(), &[]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(output.stderr.is_empty(), "no bar where no terminal is");
    for line in [
        format!("sequences    1 to {durable}\n"),
        format!("head hash    {head_hash}\n"),
        "result       whole\n".to_owned(),
    ] {
        assert!(text.contains(&line), "no {line} in\n{text}");
    }

    // The same journal goes on: nothing was changed by looking.
    server.restart().await;
    let told = server.get("/api/v1/sequence").await.json();
    assert_eq!(number_at(&told, "/durable"), durable);
    create(&server, &transfer("1")).await;
}

#[tokio::test]
async fn what_a_kill_left_is_recovered_and_whole() {
    let mut server = TestServer::start().await;
    pay(&server).await;
    let durable = sequence(&server).await;
    server.kill9();
    let report = json(&verify(server.data_dir(), &["--json"]).await, Exit::Success);
    assert_eq!(number_at(&report, "/newest_sequence"), durable);
}

#[tokio::test]
async fn a_store_in_use_and_no_store_have_codes_of_their_own() {
    let server = TestServer::start().await;
    create(&server, &transfer("1")).await;
    let output = verify(server.data_dir(), &["--json"]).await;
    let report = json(&output, Exit::TryAgain);
    let owner = format!("in use by process {}", server.pid());
    assert!(text_at(&report, "/error").contains(&owner), "{report}");
    create(&server, &transfer("1")).await;

    let empty = tempfile::tempdir().unwrap();
    let report = json(&verify(empty.path(), &["--json"]).await, Exit::NoInput);
    assert_eq!(number_at(&report, "/exit_code"), 66);
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    let missing = empty.path().join("missing");
    let output = verify(&missing, &[]).await;
    assert_eq!(output.status.code(), Some(66));
    assert!(!missing.exists(), "a check makes nothing");

    let output = verify(empty.path(), &["--kafka"]).await;
    assert_eq!(output.status.code(), Some(64), "no brokers were named");
    let output = verify(empty.path(), &["--no-such-flag"]).await;
    assert_eq!(output.status.code(), Some(64));
}

fn data_file(data_dir: &Path) -> PathBuf {
    data_dir.join("volumes/0000000001/sled/db")
}

/// Where the bytes of the last page that ends with `last` begin in the data file.
fn page_ending_at(bytes: &[u8], last: u64) -> usize {
    let magic = b"\xe9echopg\n";
    let pages = bytes.windows(72).enumerate();
    let found =
        pages.filter(|(_, page)| page.starts_with(magic) && page[64..72] == last.to_le_bytes());
    found.map(|(at, _)| at).max().unwrap()
}

#[tokio::test]
async fn a_flipped_bit_in_a_page_is_told_with_volume_and_place() {
    let mut server = TestServer::start().await;
    pay(&server).await;
    let durable = sequence(&server).await;
    assert!(server.terminate().await.success());
    let path = data_file(server.data_dir());
    let mut bytes = fs::read(&path).unwrap();
    let at = page_ending_at(&bytes, durable);
    bytes[at + 200] ^= 1;
    fs::write(&path, bytes).unwrap();

    let output = verify(server.data_dir(), &["--json"]).await;
    let found = finding(&output);
    assert_eq!(number_at(&found, "/volume"), 1);
    assert!(text_at(&found, "/file").ends_with("sled/db"), "{found}");
    let text = String::from_utf8(verify(server.data_dir(), &[]).await.stdout).unwrap();
    assert!(text.contains("FINDING      volume 1, "), "{text}");
    assert!(text.contains("result       NOT WHOLE"), "{text}");
}

#[tokio::test]
async fn lost_and_changed_records_are_told_by_name() {
    let mut server = TestServer::start().await;
    pay(&server).await;
    assert!(server.terminate().await.success());
    for name in ["settings", "stop", "volumes/0000000001/base"] {
        let path = server.data_dir().join(name);
        let ours = fs::read(&path).unwrap();
        let mut bytes = ours.clone();
        bytes[20] ^= 4;
        fs::write(&path, bytes).unwrap();
        let output = verify(server.data_dir(), &["--json"]).await;
        let found = finding(&output);
        assert_eq!(
            text_at(&found, "/file"),
            path.to_str().unwrap(),
            "{name}: {found}"
        );
        fs::write(&path, ours).unwrap();
    }
    fs::write(server.data_dir().join("cursor"), [7; 90]).unwrap();
    let found = finding(&verify(server.data_dir(), &["--json"]).await);
    assert!(text_at(&found, "/file").ends_with("cursor"), "{found}");
    fs::remove_file(server.data_dir().join("cursor")).unwrap();
    let shard = server.data_dir().join("checkpoint/round");
    fs::write(shard, [7; 90]).unwrap();
    let report = json(&verify(server.data_dir(), &["--json"]).await, Exit::Success);
    let warned = report["warnings"].to_string();
    assert!(
        warned.contains("checkpoint/round"),
        "derived, so no damage: {report}"
    );
}

/// What stands at the end of a file: a checksum of all before.
type Seal = fn(&[u8]) -> Vec<u8>;

#[tokio::test]
async fn newer_formats_are_refused_by_name() {
    let mut server = TestServer::start().await;
    pay(&server).await;
    assert!(server.terminate().await.success());
    let shard = fs::read_dir(server.data_dir().join("checkpoint"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| !path.ends_with("round"))
        .unwrap();
    // Where the version stands, and how the file is sealed (docs/FORMAT.md).
    let crc = |bytes: &[u8]| crc32fast::hash(bytes).to_le_bytes().to_vec();
    let hash = |bytes: &[u8]| blake3::hash(bytes).as_bytes().to_vec();
    let files: [(PathBuf, usize, Seal, usize); 5] = [
        (server.data_dir().join("settings"), 10, crc, 4),
        (server.data_dir().join("stop"), 10, crc, 4),
        (
            server.data_dir().join("volumes/0000000001/base"),
            10,
            crc,
            4,
        ),
        (server.data_dir().join("checkpoint/round"), 4, hash, 32),
        (shard, 4, hash, 32),
    ];
    for (path, version_at, seal, seal_bytes) in files {
        let ours = fs::read(&path).unwrap();
        let mut newer = ours[..ours.len() - seal_bytes].to_vec();
        newer[version_at] = 9;
        newer.extend(seal(&newer));
        fs::write(&path, newer).unwrap();
        let output = verify(server.data_dir(), &["--json"]).await;
        let error = text_at(&json(&output, Exit::CannotCreate), "/error");
        assert!(
            error.contains(path.to_str().unwrap()) && error.contains('9'),
            "{error}"
        );
        fs::write(&path, ours).unwrap();
    }
    let report = json(&verify(server.data_dir(), &["--json"]).await, Exit::Success);
    assert_eq!(report["whole"], true);
}
