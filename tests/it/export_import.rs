//! Out of one data folder as JSON lines and into another: the same sequences, ids, balances and hash chain.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::audit::Audit;
use crate::support::http::{
    ALICE, BATCH, BOB, TRANSACTIONS, WALLETS, create, number_at, sequence, text_at, transaction,
    transfer, transfer_between, transfer_with,
};
use crate::support::server::{Client, TestServer, run_to_end};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// The smallest volume that can be set.
pub(crate) const SMALL_VOLUMES: [&str; 2] = ["--volume-bytes-max", "1048576"];

/// Does everything that makes an entry of its own.
pub(crate) async fn every_kind(server: &TestServer) {
    let number = sequence(server).await;
    let carol = format!("33333333-3333-4333-8333-{number:012x}");
    let opened = format!(r#"{{"wallet_id":"{carol}","currency":"EUR-CBDC","overdraft_limit":5}}"#);
    let answer = server.post_json(WALLETS, &opened).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    for money in ["issuances", "redemptions"] {
        let body = format!(r#"{{"wallet_id":"{ALICE}","amount":3,"currency":"USD-CBDC"}}"#);
        // The wallet is opened on sight by a transfer first.
        create(server, &transfer_with(r#""metadata":{"a":"\nü\u0000"}"#)).await;
        let answer = server.post_json(&format!("/api/v1/{money}"), &body).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    let too_much = server.post_json(TRANSACTIONS, &transfer("900000000")).await;
    assert_eq!(too_much.status, 402, "{}", too_much.body);
    let reversed = create(server, &transfer("2.50")).await;
    let captured = create(
        server,
        &transfer_with(r#""hold":true,"expires_in_seconds":900"#),
    )
    .await;
    let voided = create(
        server,
        &transfer_with(r#""hold":true,"expires_in_seconds":900"#),
    )
    .await;
    for (id, status) in [
        (&reversed, "reversed"),
        (&captured, "completed"),
        (&voided, "failed"),
    ] {
        let body = format!(r#"{{"status":"{status}","user_id":"u-7","details":{{"why":["x"]}}}}"#);
        let path = format!("{}/status", transaction(id));
        let answer = server.patch_json(&path, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let score = r#"{"score":0.125}"#;
    let path = format!("{}/fraud-score", transaction(&reversed));
    assert_eq!(server.patch_json(&path, score).await.status, 200);
    // One stays open.
    create(
        server,
        &transfer_with(r#""hold":true,"expires_in_seconds":9000"#),
    )
    .await;
    let atomic = format!(
        r#"{{"atomic":true,"transactions":[{},{}]}}"#,
        transfer("1"),
        transfer_between(BOB, ALICE, "2")
    );
    assert_eq!(server.post_json(BATCH, &atomic).await.status, 201);
}

/// `batches` of 100 transfers with a KiB each: some ten fill one of the [`SMALL_VOLUMES`].
pub(crate) async fn fill(client: &Client, batches: usize) {
    let note = format!(r#""metadata":{{"note":"{}"}}"#, "x".repeat(1_000));
    let item = transfer_with(&note).replace("\"amount\":1,", "\"amount\":0.01,");
    let batch = format!(r#"{{"transactions":[{}]}}"#, vec![item; 100].join(","));
    for _ in 0..batches {
        let answer = client.post_json(BATCH, &batch).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

/// What a ledger tells of itself, but for its epoch.
#[derive(PartialEq, Debug)]
pub(crate) struct Told {
    events: Vec<Value>,
    balances: Vec<(String, Value)>,
    transactions: Vec<Value>,
    pub(crate) durable: u64,
    pub(crate) head_hash: String,
}

impl Told {
    pub(crate) async fn by(server: &TestServer) -> Self {
        let client = server.client();
        let mut audit = Audit::default();
        let mut events = Vec::new();
        audit
            .look_on(&client, |event| events.push(event.json))
            .await;
        assert!(audit.compare_balances(&client).await);
        let marks = server.get("/api/v1/sequence").await.json();
        for event in &mut events {
            event.as_object_mut().unwrap().remove("journal");
        }
        let mut balances = Vec::new();
        for wallet in audit.balances.keys() {
            let path = format!("{WALLETS}/{wallet}/balance");
            let mut balance = server.get(&path).await.json();
            balance.as_object_mut().unwrap().remove("sequence");
            balances.push((wallet.clone(), balance));
        }
        let mut ids: Vec<&String> = audit.transactions.keys().collect();
        ids.sort();
        let mut transactions = Vec::new();
        // Those that have a history, and some.
        for id in ids.iter().rev().take(200) {
            let mut told = server.get(&transaction(id)).await.json();
            told.as_object_mut().unwrap().remove("sequence");
            transactions.push(told);
        }
        Self {
            events,
            balances,
            transactions,
            durable: number_at(&marks, "/durable"),
            head_hash: text_at(&marks, "/head_hash"),
        }
    }
}

/// Runs a command to its end and gives its report; the command must end with `exit`.
pub(crate) async fn tool(args: &[&str], exit: i32) -> Value {
    let args = [args, &["--json"]].concat();
    let output = run_to_end(&args).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {stderr}");
    assert_eq!(stdout.lines().count(), 1, "{args:?}: {stdout}");
    serde_json::from_str(&stdout).unwrap()
}

/// The epoch of `<journal id>/<epoch>`.
pub(crate) fn epoch_of(journal: &str) -> u64 {
    journal.split_once('/').unwrap().1.parse().unwrap()
}

/// A new data folder that holds what `source` holds; `command` and `file` bring it there.
pub(crate) async fn bring(command: &str, file: &Path) -> (TempDir, Value) {
    let (folder, config) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let settings = config.path().join("echopay.toml");
    fs::write(&settings, "volume-bytes-max = 1048576\n").unwrap();
    let args = [
        command,
        file.to_str().unwrap(),
        "--data-dir",
        folder.path().to_str().unwrap(),
        "--config",
        settings.to_str().unwrap(),
    ];
    let report = tool(&args, 0).await;
    let verified = tool(&["verify", "--data-dir", args[3]], 0).await;
    assert_eq!(verified["head_hash"], report["head_hash"], "{verified}");
    (folder, report)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_exported_is_imported_event_for_event_and_the_epoch_alone_is_another() {
    let mut server = TestServer::start_with(&SMALL_VOLUMES).await;
    every_kind(&server).await;
    fill(&server.client(), 25).await;
    every_kind(&server).await;
    let before = Told::by(&server).await;
    let data_dir = server.data_dir().to_str().unwrap().to_owned();
    let files = TempDir::new().unwrap();
    let plain = files.path().join("plain");
    let export = |file: &Path| {
        let file = file.to_str().unwrap().to_owned();
        [
            "export".to_owned(),
            file,
            "--data-dir".to_owned(),
            data_dir.clone(),
        ]
    };
    let args = export(&plain);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let in_use = tool(&args, 75).await;
    assert!(text_at(&in_use, "/error").contains("in use"), "{in_use}");
    assert!(!plain.exists());
    assert!(server.terminate().await.success());
    let report = tool(&args, 0).await;
    assert_eq!(number_at(&report, "/last"), before.durable);
    assert_eq!(text_at(&report, "/head_hash"), before.head_hash);
    let mode = fs::metadata(&plain).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "an export is a secret");
    let there = tool(&args, 73).await;
    assert!(text_at(&there, "/error").contains("exists"), "{there}");

    let (folder, report) = bring("import", &plain).await;
    assert_eq!(text_at(&report, "/head_hash"), before.head_hash);
    let mut copy = TestServer::launch("dev", &SMALL_VOLUMES, folder).await;
    assert_eq!(Told::by(&copy).await, before);
    let marks = copy.get("/api/v1/sequence").await.json();
    assert_eq!(text_at(&marks, "/journal"), text_at(&report, "/journal"));
    assert!(epoch_of(&text_at(&marks, "/journal")) > 1);
    let volumes = fs::read_dir(copy.data_dir().join("volumes")).unwrap();
    assert!(volumes.count() > 2, "several volumes");

    // It goes on, and can be carried on.
    every_kind(&copy).await;
    let after = Told::by(&copy).await;
    assert!(copy.terminate().await.success());
    let zstd = files.path().join("zstd");
    let copy_dir = copy.data_dir().to_str().unwrap();
    let zstd_text = zstd.to_str().unwrap();
    tool(&["export", zstd_text, "--zstd", "--data-dir", copy_dir], 0).await;
    assert!(fs::metadata(&zstd).unwrap().len() < fs::metadata(&plain).unwrap().len() / 5);
    let (folder, report) = bring("import", &zstd).await;
    assert!(epoch_of(&text_at(&report, "/journal")) > epoch_of(&text_at(&marks, "/journal")));
    let third = TestServer::launch("dev", &SMALL_VOLUMES, folder).await;
    assert_eq!(Told::by(&third).await, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_into_a_folder_that_holds_a_journal_is_refused_and_the_journal_goes_on() {
    let mut server = TestServer::start().await;
    every_kind(&server).await;
    let before = Told::by(&server).await;
    assert!(server.terminate().await.success());
    let files = TempDir::new().unwrap();
    let file = files.path().join("file");
    let (file, data_dir) = (file.to_str().unwrap(), server.data_dir().to_str().unwrap());
    tool(&["export", file, "--data-dir", data_dir], 0).await;
    let refused = tool(&["import", file, "--data-dir", data_dir], 73).await;
    assert!(
        text_at(&refused, "/error").contains("not empty"),
        "{refused}"
    );
    server.restart().await;
    assert_eq!(Told::by(&server).await, before);
}
