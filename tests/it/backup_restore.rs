//! A backup of a service that goes on meanwhile, and a data folder of it.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::export_import::{SMALL_VOLUMES, Told, bring, epoch_of, every_kind, fill, tool};
use crate::support::audit::Audit;
use crate::support::http::{BATCH, TRANSACTIONS, number_at, text_at, transfer, transfer_with};
use crate::support::server::{Client, DEADLINE, TestServer, wait_until};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ASK: &[u8] = b"GET /api/v1/backup HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";

/// Pays until `done`, and notes the id of each transaction that was acknowledged.
async fn pay(client: &Client, done: &AtomicBool, acknowledged: &Mutex<HashSet<String>>) {
    while !done.load(Ordering::Acquire) {
        let answer = client.post_json(TRANSACTIONS, &transfer("0.01")).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        let id = text_at(&answer.json(), "/transaction_id");
        acknowledged.lock().insert(id);
    }
}

async fn pay_in_batches(client: &Client, done: &AtomicBool) {
    let note = format!(r#""metadata":{{"note":"{}"}}"#, "x".repeat(1_000));
    let item = transfer_with(&note).replace("\"amount\":1,", "\"amount\":0.01,");
    let batch = format!(r#"{{"transactions":[{}]}}"#, vec![item; 50].join(","));
    while !done.load(Ordering::Acquire) {
        let answer = client.post_json(BATCH, &batch).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_holds_every_payment_that_was_answered_before_it() {
    let server = TestServer::start_with(&SMALL_VOLUMES).await;
    every_kind(&server).await;
    fill(&server.client(), 15).await;
    let client = server.client();
    let (done, acknowledged) = (AtomicBool::new(false), Mutex::new(HashSet::new()));
    let files = TempDir::new().unwrap();
    let file = files.path().join("backup");
    let (url, path) = (server.url(""), file.to_str().unwrap());
    let takes = async {
        wait_until(DEADLINE, "payments are under way", async || {
            acknowledged.lock().len() > 20
        })
        .await;
        let before = acknowledged.lock().clone();
        let report = tool(&["backup", path, "--url", &url], 0).await;
        let during = acknowledged.lock().len() - before.len();
        done.store(true, Ordering::Release);
        (before, report, during)
    };
    let ((before, report, during), (), (), ()) = tokio::join!(
        takes,
        pay(&client, &done, &acknowledged),
        pay(&client, &done, &acknowledged),
        pay_in_batches(&client, &done)
    );
    assert!(during > 0, "writes went on meanwhile");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "a backup is a secret");

    let (folder, restored) = bring("restore", &file).await;
    for field in ["head_hash", "entries", "pages", "last"] {
        assert_eq!(restored[field], report[field], "{field}");
    }
    let copy = TestServer::launch("dev", &SMALL_VOLUMES, folder).await;
    let audit = Audit::read(&copy.client()).await;
    assert!(audit.compare_balances(&copy.client()).await);
    for id in &before {
        assert!(audit.transactions.contains_key(id), "{id} is missing");
    }
    let marks = copy.get("/api/v1/sequence").await.json();
    assert_eq!(number_at(&marks, "/durable"), number_at(&report, "/last"));
    assert_eq!(
        text_at(&marks, "/head_hash"),
        text_at(&report, "/head_hash")
    );
    assert!(epoch_of(&text_at(&marks, "/journal")) > epoch_of(&text_at(&report, "/journal")));
    every_kind(&copy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_restores_of_one_backup_tell_the_same_but_are_two_journals() {
    let server = TestServer::start().await;
    every_kind(&server).await;
    let before = Told::by(&server).await;
    let files = TempDir::new().unwrap();
    let file = files.path().join("backup");
    tool(
        &["backup", file.to_str().unwrap(), "--url", &server.url("")],
        0,
    )
    .await;
    let (one, report_of_one) = bring("restore", &file).await;
    let (_other, report_of_other) = bring("restore", &file).await;
    assert_ne!(report_of_one["journal"], report_of_other["journal"]);
    let one = TestServer::launch("dev", &[], one).await;
    assert_eq!(Told::by(&one).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_was_cut_off_is_not_kept_and_a_damaged_one_not_restored() {
    let server = TestServer::start().await;
    every_kind(&server).await;
    let files = TempDir::new().unwrap();
    let file = files.path().join("backup");
    let path = file.to_str().unwrap();
    tool(&["backup", path, "--url", &server.url("")], 0).await;
    let whole = fs::read(&file).unwrap();
    let there = tool(&["backup", path, "--url", &server.url("")], 73).await;
    assert!(text_at(&there, "/error").contains("exists"), "{there}");

    // Whoever answers with less, or with something else, is not believed.
    for (body, exit) in [
        (&whole[..whole.len() - 1], 65),
        (&whole[..40], 69),
        (b"hello, this is no backup", 65),
    ] {
        let (url, answers) = answer_once(body.to_vec()).await;
        let path = files.path().join("second");
        let args = ["backup", path.to_str().unwrap(), "--url", &url];
        let (refused, ()) = tokio::join!(tool(&args, exit), answers);
        assert!(!text_at(&refused, "/error").is_empty());
        assert_eq!(fs::read_dir(files.path()).unwrap().count(), 1, "{refused}");
    }
    let data_dir = files.path().join("data");
    for at in (0..whole.len()).step_by(whole.len() / 12) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        for damaged in [&flipped, &whole[..at]] {
            let file = files.path().join("damaged");
            fs::write(&file, damaged).unwrap();
            let args = [
                "restore",
                file.to_str().unwrap(),
                "--data-dir",
                data_dir.to_str().unwrap(),
            ];
            let refused = tool(&args, 65).await;
            assert!(!text_at(&refused, "/error").is_empty());
            assert!(!data_dir.exists(), "at {at}: something is left");
        }
    }
}

/// Answers one request with `body`, and says that this is all of it.
async fn answer_once(body: Vec<u8>) -> (String, impl Future<Output = ()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answers = async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let _ = stream.read(&mut head).await.unwrap();
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The client may have seen enough before it has read all.
        let _ = stream.write_all(&body).await;
        let _ = stream.read(&mut [0; 16]).await;
    };
    (url, answers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_backup_at_a_time_and_a_client_that_leaves_makes_room() {
    let server = TestServer::start_with(&SMALL_VOLUMES).await;
    // More than the sockets take, so that the backup is under way until the client reads on.
    create_much(&server).await;
    let mut first = TcpStream::connect(server.addr()).await.unwrap();
    first.write_all(ASK).await.unwrap();
    let mut head = [0; 15];
    first.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let second = server.get("/api/v1/backup").await;
    assert_eq!(second.status, 503, "{}", second.body);
    assert_eq!(text_at(&second.json(), "/error"), "BACKUP_RUNNING");
    assert_eq!(second.header("retry-after"), "1");
    // Writes and reads go on beside a client that reads nothing.
    every_kind(&server).await;
    drop(first);
    let files = TempDir::new().unwrap();
    let file = files.path().join("backup");
    wait_until(DEADLINE, "there is room again", async || {
        let head = server.request("HEAD", "/api/v1/backup", &[], "").await;
        head.status == 200
    })
    .await;
    wait_until(DEADLINE, "the next one comes", async || {
        let args = ["backup", file.to_str().unwrap(), "--url", &server.url("")];
        let output = crate::support::server::run_to_end(&args).await;
        output.status.success()
    })
    .await;
    let log = server.log();
    let cut: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("cut off"))
        .collect();
    assert_eq!(cut.len(), 1, "{log}");
    assert!(cut[0].contains("sent_bytes="), "{}", cut[0]);
    Audit::read(&server.client()).await;
}

async fn create_much(server: &TestServer) {
    let client = server.client();
    crate::support::http::create(server, &transfer("1")).await;
    fill(&client, 120).await;
}

/// Makes every file end at 1,024 units of the shell, 512 or 1,024 bytes each, as on a full disk.
const LIMITED: &str = r#"trap '' XFSZ; ulimit -f 1024; exec "$0" "$@""#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_in_the_middle_leaves_nothing_that_passes_for_whole() {
    let mut server = TestServer::start_with(&SMALL_VOLUMES).await;
    every_kind(&server).await;
    fill(&server.client(), 25).await;
    let before = Told::by(&server).await;
    let files = TempDir::new().unwrap();
    let place = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let (backup, export, data) = (place("backup"), place("export"), place("data"));
    let url = server.url("");
    let limited = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        tokio::task::spawn_blocking(move || {
            let output = std::process::Command::new("sh")
                .args(["-c", LIMITED, env!("CARGO_BIN_EXE_echopay")])
                .args(&args)
                .output()
                .unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(74), "{args:?}: {error}");
        })
    };
    limited(&["backup", &backup, "--url", &url]).await.unwrap();
    assert_eq!(
        fs::read_dir(files.path()).unwrap().count(),
        0,
        "a backup is left"
    );
    tool(&["backup", &backup, "--url", &url], 0).await;
    limited(&["restore", &backup, "--data-dir", &data])
        .await
        .unwrap();
    assert!(!files.path().join("data").exists(), "a restore is left");

    assert!(server.terminate().await.success());
    let data_dir = server.data_dir().to_str().unwrap().to_owned();
    tool(&["export", &export, "--data-dir", &data_dir], 0).await;
    limited(&["import", &export, "--data-dir", &data])
        .await
        .unwrap();
    assert!(!files.path().join("data").exists(), "an import is left");
    let (folder, _) = bring("restore", &files.path().join("backup")).await;
    let copy = TestServer::launch("dev", &SMALL_VOLUMES, folder).await;
    assert_eq!(Told::by(&copy).await, before);
}

#[tokio::test]
async fn a_backup_wants_the_scope_admin_and_a_token_that_sees_every_wallet() {
    let folder = TempDir::new().unwrap();
    let token = |name: &str, scopes: &str, more: &str| {
        let hash = Sha256::digest(name.as_bytes());
        let hash = hash
            .iter()
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        format!("[[token]]\nname = \"{name}\"\nsha256 = \"{hash}\"\nscopes = [{scopes}]\n{more}\n")
    };
    let bound = "wallets = [\"11111111-1111-4111-8111-111111111111\"]";
    let tokens = [
        token("operator", r#""admin""#, ""),
        token("till", r#""read", "write", "issue""#, ""),
        token("bound", r#""admin""#, bound),
    ]
    .concat();
    let table = folder.path().join("tokens.toml");
    fs::write(&table, tokens).unwrap();
    let flags = ["--tokens-file", table.to_str().unwrap()];
    let server = TestServer::start_serve(&flags).await;
    let url = server.url("");
    let file = folder.path().join("backup");
    let file = file.to_str().unwrap();
    for (name, exit) in [
        ("stranger", 69),
        ("till", 69),
        ("bound", 69),
        ("operator", 0),
    ] {
        let token = folder.path().join(name);
        fs::write(&token, format!("{name}\n")).unwrap();
        let token = token.to_str().unwrap();
        let report = tool(
            &["backup", file, "--url", &url, "--token-file", token],
            exit,
        )
        .await;
        if exit != 0 {
            let error = text_at(&report, "/error");
            assert!(
                error.contains("403") || error.contains("401"),
                "{name}: {error}"
            );
        }
    }
    let nowhere = tool(&["backup", "x", "--url", "http://127.0.0.1:1"], 69).await;
    assert!(
        text_at(&nowhere, "/error").contains("127.0.0.1:1"),
        "{nowhere}"
    );
    tool(&["backup", "x", "--url", "https://127.0.0.1:1"], 64).await;
    tool(&["restore", "/no/such/file", "--data-dir", file], 66).await;
}
