//! Large batches, many at once: bounded memory, and a clear word to those that come too many.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::support::http::{ALICE, BATCH, BOB, balance};
use crate::support::server::{DEADLINE, TestServer};
use std::fmt::Write;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MIB: usize = 1 << 20;
/// As many as fit into the memory for batches, of bodies of 4 MiB.
const FITTING: usize = 16;
const CONNECTIONS: usize = 64;

/// A batch of as many cents as there are items, padded to exactly `bytes`.
fn batch(items: usize, bytes: usize) -> String {
    let mut body = String::with_capacity(bytes);
    body.push_str("{\"transactions\":[");
    for item in 0..items {
        let comma = if item == 0 { "" } else { "," };
        write!(
            body,
            "{comma}{{\"from_wallet\":\"{ALICE}\",\"to_wallet\":\"{BOB}\",\"amount\":0.01,\"currency\":\"USD-CBDC\",\
             \"metadata\":{{\"note\":\"{}\"}}}}",
            "x".repeat(340)
        )
        .unwrap();
    }
    body.push(']');
    assert!(body.len() < bytes);
    body.extend(std::iter::repeat_n(' ', bytes - body.len() - 1));
    body.push('}');
    body
}

/// Highest resident memory of the server so far.
fn resident_bytes_max(server: &TestServer) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib: usize = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib << 10
}

async fn answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    // A reset after the answer still leaves what came before it.
    let _ = tokio::time::timeout(DEADLINE, reading).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn batches_beyond_the_memory_for_them_are_refused_and_the_others_are_done() {
    let server = TestServer::start().await;
    let body = batch(8_192, 4 * MIB);
    let request_head = format!(
        "POST {BATCH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Prefer: return=minimal\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let (most, last) = body.split_at(body.len() - 1);
    let expecting = request_head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    let (mut waiting, mut refused) = (Vec::new(), Vec::new());
    for number in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        if number < FITTING {
            // Who is asked to go on has its memory, and keeps it until its body is whole.
            stream.write_all(expecting.as_bytes()).await.unwrap();
            let mut told = [0; 25];
            stream.read_exact(&mut told).await.unwrap();
            assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
            stream.write_all(most.as_bytes()).await.unwrap();
            waiting.push(stream);
        } else {
            stream.write_all(request_head.as_bytes()).await.unwrap();
            // Why the result does not matter: the refusal may have come, and with it the end.
            let _ = stream.write_all(body.as_bytes()).await;
            refused.push(answer(stream).await);
        }
    }
    for answer in &refused {
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let told = answer.to_lowercase();
        assert!(told.contains("\r\nretry-after: 1\r\n"), "{answer}");
        assert!(answer.contains("\"error\":\"LEDGER_BUSY\""), "{answer}");
    }
    let mut done = 0;
    for mut stream in waiting {
        stream.write_all(last.as_bytes()).await.unwrap();
        let answer = answer(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("\"count\":8192,"), "{answer}");
        assert!(answer.ends_with("\"failed\":[]}"), "{answer}");
        done += 8_192;
    }
    let cents_left = 100_000_000 - done;
    let expected = format!("{}.{:02}", cents_left / 100, cents_left % 100);
    assert_eq!(balance(&server, ALICE).await, expected);
    let resident_max = resident_bytes_max(&server);
    assert!(resident_max < 320 * MIB, "{} MiB", resident_max / MIB);
}
