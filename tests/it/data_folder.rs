//! The data folder: who may have it, what is refused, and what goes on in it while requests are answered.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::audit::Audit;
use crate::support::http::{ALICE, BATCH, BOB, TRANSACTIONS, of_wallet, transfer, transfer_with};
use crate::support::server::{Client, DEADLINE, TestServer, run_to_end, wait_until};
use echopay::cli::Exit;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Ends the command on this folder, which it must refuse, and gives what it logged.
async fn refused(command: &str, data_dir: &Path, exit: Exit) -> String {
    let data_dir = data_dir.to_str().unwrap();
    let args = [command, "--listen", "127.0.0.1:0", "--data-dir", data_dir];
    let output = run_to_end(&args).await;
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(i32::from(exit.code())), "{log}");
    assert!(output.stdout.is_empty(), "it never said that it listens");
    log
}

#[tokio::test]
async fn a_second_process_is_refused_and_the_first_goes_on() {
    let server = TestServer::start().await;
    let paid = server.post_json(TRANSACTIONS, &transfer("1")).await;
    assert_eq!(paid.status, 201, "{}", paid.body);
    let log = refused("dev", server.data_dir(), Exit::TryAgain).await;
    let owner = format!("in use by process {}", server.pid());
    assert!(log.contains(&owner), "{log}");
    let paid = server.post_json(TRANSACTIONS, &transfer("1")).await;
    assert_eq!(paid.status, 201, "{}", paid.body);
}

#[tokio::test]
async fn a_store_of_a_newer_format_is_refused_and_left_as_it_is() {
    let mut server = TestServer::start().await;
    let paid = server.post_json(TRANSACTIONS, &transfer("1")).await;
    assert_eq!(paid.status, 201, "{}", paid.body);
    assert!(server.terminate().await.success());

    let path = server.data_dir().join("settings");
    let ours = fs::read(&path).unwrap();
    // docs/FORMAT.md: the version stands at 10, a CRC32 of all before at the end.
    let mut newer = ours[..ours.len() - 4].to_vec();
    newer[10] = 3;
    newer.extend(crc32fast::hash(&newer).to_le_bytes());
    fs::write(&path, &newer).unwrap();
    let before = contents(server.data_dir());
    let log = refused("dev", server.data_dir(), Exit::CannotCreate).await;
    assert!(
        log.contains("is of format 3; this program reads up to 2"),
        "{log}"
    );
    assert_eq!(contents(server.data_dir()), before);

    fs::write(&path, &ours).unwrap();
    server.restart().await;
    let balance = server.get(&of_wallet(BOB, "balance")).await.json();
    assert_eq!(balance["balance"], 1_000_001);
}

#[tokio::test]
async fn an_address_in_use_is_refused_before_the_data_folder_is_touched() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    let args = ["dev", "--listen", &address, "--data-dir"];
    let output = run_to_end(&[&args[..], &[folder.to_str().unwrap()]].concat()).await;
    let log = String::from_utf8(output.stderr).unwrap();
    let expected = i32::from(Exit::Unavailable.code());
    assert_eq!(output.status.code(), Some(expected), "{log}");
    assert!(log.contains(&address), "{log}");
    assert!(!folder.exists(), "nothing was made");
}

#[tokio::test]
async fn a_data_folder_below_a_file_is_refused_by_its_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let folder = file.path().join("data");
    let log = refused("dev", &folder, Exit::CannotCreate).await;
    assert!(log.contains(folder.to_str().unwrap()), "{log}");
    assert!(!log.contains("cursor"), "{log}");
}

/// Every file below `folder` but the lock, with its bytes.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != "LOCK" {
                found.push((path.display().to_string(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The value of a metric without labels; zero while it is not there.
async fn metric(client: &Client, name: &str) -> u64 {
    let text = client.get("/metrics").await.body;
    let line = text.lines().find_map(|line| {
        line.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(' '))
    });
    line.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_and_new_volumes_under_load_cost_no_request() {
    const ROTATIONS: u64 = 3;
    // The smallest volume that can be set: some ten of the batches below.
    let mut server = TestServer::start_with(&["--volume-bytes-max", "1048576"]).await;
    let client = server.client();
    let (done, answered) = (AtomicBool::new(false), AtomicU64::new(0));

    let pays = async {
        while !done.load(Ordering::Acquire) {
            let answer = client.post_json(TRANSACTIONS, &transfer("0.01")).await;
            assert_eq!(answer.status, 201, "{}", answer.body);
            answered.fetch_add(1, Ordering::Relaxed);
        }
    };
    let pays_in_batches = async {
        let note = format!(r#""metadata":{{"note":"{}"}}"#, "x".repeat(1_000));
        let item = transfer_with(&note).replace("\"amount\":1,", "\"amount\":0.01,");
        let batch = format!(r#"{{"transactions":[{}]}}"#, vec![item; 100].join(","));
        let minimal = [
            ("content-type", "application/json"),
            ("prefer", "return=minimal"),
        ];
        while !done.load(Ordering::Acquire) {
            let answer = client.request("POST", BATCH, &minimal, &batch).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            let json = answer.json();
            assert_eq!(
                (&json["count"], &json["failed"]),
                (&100.into(), &Vec::<u64>::new().into())
            );
            answered.fetch_add(100, Ordering::Relaxed);
        }
    };
    let reads = async {
        let mut after = 0;
        while !done.load(Ordering::Acquire) {
            let path = format!("/api/v1/events?after_sequence={after}&limit=1000");
            let page = client.get(&path).await;
            assert_eq!(page.status, 200, "{}", page.body);
            after = page.json()["next_after_sequence"].as_u64().unwrap();
            let balance = client.get(&of_wallet(ALICE, "balance")).await;
            assert_eq!(balance.status, 200, "{}", balance.body);
        }
    };
    let watches = async {
        wait_until(
            DEADLINE,
            "volumes and checkpoints were written",
            async || {
                let rotations = "echopay_journal_rotation_duration_seconds_count";
                metric(&client, rotations).await >= ROTATIONS
                    && metric(&client, "echopay_checkpoint_rounds_total").await >= 1
            },
        )
        .await;
        done.store(true, Ordering::Release);
    };
    tokio::join!(pays, pays_in_batches, reads, watches);

    let volumes = fs::read_dir(server.data_dir().join("volumes")).unwrap();
    assert!(u64::try_from(volumes.count()).unwrap() > ROTATIONS);
    assert!(server.data_dir().join("checkpoint/round").exists());
    // Without the round at a clean stop: the start takes what was written under load, and replays the rest.
    server.kill9();
    server.restart().await;
    let audit = Audit::read(&client).await;
    assert!(audit.compare_balances(&client).await, "nothing goes on");
    // Both wallets were opened on sight by two issuances.
    let transactions = u64::try_from(audit.transactions.len()).unwrap();
    assert_eq!(transactions, answered.load(Ordering::Relaxed) + 2);
}
