//! A disk that takes no more: nobody is left without an answer, and what was acknowledged is there afterwards.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::support::server::{Client, DEADLINE, Response, TestServer, wait_until};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// Makes the server's files end at 1,024 units of the shell, 512 or 1,024 bytes each. Writes beyond fail, as on a full
/// disk, since the signal that would end the process is ignored.
const LIMITED: &str = r#"trap '' XFSZ; ulimit -f 1024; exec "$0" "$@""#;

#[tokio::test]
async fn a_full_disk_is_told_to_the_client_and_takes_nothing_acknowledged() {
    let last = pay_until_the_disk_is_full("0").await.unwrap();
    assert_eq!(last.status, 504, "{}", last.body);
    assert!(last.body.contains("OUTCOME_UNKNOWN"), "{}", last.body);
}

#[tokio::test]
async fn a_full_disk_behind_the_log_takes_nothing_acknowledged() {
    // Shorter than the limit, so that the volume meets it: as likely between two payments, of which the later is told
    // nothing but that nobody listens any more.
    if let Ok(last) = pay_until_the_disk_is_full("65536").await {
        assert_eq!(last.status, 504, "{}", last.body);
    }
}

/// Gives what the first payment is told that is not acknowledged. All others are there at the next start.
async fn pay_until_the_disk_is_full(wal_bytes: &str) -> Result<Response, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", LIMITED, env!("CARGO_BIN_EXE_echopay")])
        .args(["dev", "--listen", "127.0.0.1:0", "--wal-bytes", wal_bytes])
        .arg("--data-dir")
        .arg(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let client = Client::new(address(&mut child));
    let text = "x".repeat(2_000);
    let item = format!(
        r#"{{"from_wallet":"00000000-0000-0000-0000-00000000000a","to_wallet":"00000000-0000-0000-0000-00000000000b","amount":"0.01","currency":"USD-CBDC","metadata":{{"k":"{text}"}}}}"#
    );
    let headers = [("content-type", "application/json")];
    let mut acknowledged = Vec::new();
    let last = loop {
        let answer = client
            .try_request("POST", "/api/v1/transactions", &headers, &item)
            .await;
        match answer {
            Ok(answer) if answer.status == 201 => {
                acknowledged.push(answer.json()["transaction_id"].as_str().unwrap().to_owned());
            }
            other => break other,
        }
    };
    let mut status = None;
    wait_until(DEADLINE, "the server gives up on its disk", async || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert_eq!(status.unwrap().code(), Some(74));
    assert!(acknowledged.len() > 50, "{}", acknowledged.len());
    let server = TestServer::launch("dev", &[], folder).await;
    for id in acknowledged {
        let found = server.get(&format!("/api/v1/transactions/{id}")).await;
        assert_eq!(found.status, 200, "{id}: {}", found.body);
    }
    last
}

/// Reads the first line on stdout.
fn address(child: &mut Child) -> SocketAddr {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap();
    address.parse().unwrap()
}
