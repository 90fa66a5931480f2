//! Connections: kept, shared, bounded, drained.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::support::http::{ALICE, TRANSACTIONS, balance, raw, sequence, transfer};
use crate::support::server::{DEADLINE, TestServer, wait_until};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn post(body: &str, headers: &str) -> String {
    format!(
        "POST {TRANSACTIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         {headers}\r\n{body}"
    )
}

fn with_length(body: &str, headers: &str) -> String {
    post(
        body,
        &format!("Content-Length: {}\r\n{headers}", body.len()),
    )
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_in_order() {
    let server = TestServer::start().await;
    let one = with_length(&transfer("1"), "");
    let bad = with_length("{}", "");
    let last = with_length(&transfer("2"), "Connection: close\r\n");
    let answers = raw(&server, format!("{one}{bad}{last}").as_bytes()).await;
    let statuses: Vec<&str> = answers
        .match_indices("HTTP/1.1 ")
        .filter_map(|(at, mark)| answers.get(at + mark.len()..at + mark.len() + 3))
        .collect();
    assert_eq!(statuses, ["201", "400", "201"], "{answers}");
    assert_eq!(balance(&server, ALICE).await, "999997.00");
}

#[tokio::test]
async fn a_body_in_chunks_is_read_whole() {
    let server = TestServer::start().await;
    let body = transfer("1");
    let (left, right) = body.split_at(40);
    let chunks = format!(
        "{:x}\r\n{left}\r\n{:x}\r\n{right}\r\n0\r\n\r\n",
        left.len(),
        right.len()
    );
    let request = post(
        &chunks,
        "Transfer-Encoding: chunked\r\nConnection: close\r\n",
    );
    let answer = raw(&server, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
}

#[tokio::test]
async fn a_body_in_chunks_that_never_ends_is_cut_at_the_limit() {
    let server = TestServer::start().await;
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    let request = post(&chunk.repeat(17), "Transfer-Encoding: chunked\r\n");
    let answer = raw(&server, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(sequence(&server).await, 0);
}

#[tokio::test]
async fn a_body_without_a_length_is_refused() {
    let server = TestServer::start().await;
    let answer = raw(&server, post("", "Connection: close\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 411 "), "{answer}");
    assert!(answer.contains("\"error\":\"LENGTH_REQUIRED\""), "{answer}");
}

#[tokio::test]
async fn a_head_over_its_limit_is_refused() {
    let server = TestServer::start().await;
    let padding = format!("X-Padding: {}\r\n", "x".repeat(17 << 10));
    let answer = raw(&server, with_length("{}", &padding).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn who_never_finishes_the_head_is_let_go() {
    let server = TestServer::start_with(&["--head-timeout-ms", "100"]).await;
    // It ends although this end keeps its side open.
    let answer = raw(&server, b"GET /health HTTP/1.1\r\nHost: loc").await;
    assert!(!answer.contains("200 OK"), "{answer}");
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn who_never_finishes_the_body_is_told_so() {
    let server = TestServer::start_with(&["--request-timeout-ms", "100"]).await;
    let answer = raw(&server, post("{", "Content-Length: 9\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("\"error\":\"REQUEST_TIMEOUT\""), "{answer}");
}

#[tokio::test]
async fn half_open_clients_cost_only_their_socket() {
    let server = TestServer::start().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(server.addr()).await.unwrap());
    }
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn who_waits_to_be_told_hears_before_it_sends_a_large_body() {
    let server = TestServer::start().await;
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    let body = transfer("1");
    let expecting = "Expect: 100-continue\r\nConnection: close\r\n";
    let request = with_length(&body, expecting);
    let (head, _) = request.split_at(request.len() - body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut told = [0; 25];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");

    let too_large = post("", &format!("Content-Length: 65537\r\n{expecting}"));
    let answer = raw(&server, too_large.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

/// A connection that was accepted: one request was answered on it.
async fn accepted(server: &TestServer) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    ask(&mut stream).await;
    stream
}

/// Asks for the probe and reads the whole answer.
async fn ask(stream: &mut TcpStream) {
    let request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"{\"status\":\"alive\"}") {
        assert_ne!(
            stream.read_buf(&mut answer).await.unwrap(),
            0,
            "closed early"
        );
    }
}

#[tokio::test]
async fn who_comes_beyond_the_limit_waits_for_a_place() {
    let server = TestServer::start_with(&["--connections-max", "2"]).await;
    let mut asking = accepted(&server).await;
    let leaving = accepted(&server).await;
    let mut waiting = TcpStream::connect(server.addr()).await.unwrap();
    let request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    waiting.write_all(request).await.unwrap();

    let metrics = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    asking.write_all(metrics).await.unwrap();
    let mut shown = String::new();
    asking.read_to_string(&mut shown).await.unwrap();
    assert!(
        shown.contains("\nechopay_http_connections_open 2\n"),
        "{shown}"
    );

    drop(leaving);
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn without_file_descriptors_it_waits_and_recovers() {
    let server = TestServer::start().await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .unwrap()
        .count();
    let limit = u64::try_from(open).unwrap() + 8;
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    let few = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    prlimit(pid, Resource::Nofile, few).unwrap();
    let mut crowd = Vec::new();
    for _ in 0..32 {
        crowd.push(TcpStream::connect(server.addr()).await.unwrap());
    }
    wait_until(DEADLINE, "it notices", async || {
        server.log().contains("cannot accept connections")
    })
    .await;
    drop(crowd);
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_stop_answers_what_is_in_hand_and_takes_nothing_new() {
    let mut server = TestServer::start().await;
    let mut in_hand = TcpStream::connect(server.addr()).await.unwrap();
    let request = with_length(&transfer("1"), "");
    let (first, rest) = request.split_at(request.len() - 5);
    in_hand.write_all(first.as_bytes()).await.unwrap();
    // Only a request whose head was read is in hand: another connection's answer says that this one was accepted.
    assert_eq!(server.get("/health").await.status, 200);
    wait_until(DEADLINE, "its head is read", async || {
        server
            .get("/metrics")
            .await
            .body
            .contains("\nechopay_http_connections_open 2\n")
    })
    .await;
    server.signal(Signal::TERM);
    wait_until(DEADLINE, "nothing new is taken", async || {
        TcpStream::connect(server.addr()).await.is_err()
    })
    .await;
    in_hand.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_hand.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert!(
        answer.to_lowercase().contains("\r\nconnection: close\r\n"),
        "{answer}"
    );
    let status = server.wait_for_exit().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_ends_in_order() {
    let mut server = TestServer::start().await;
    let mut idle = TcpStream::connect(server.addr()).await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 9];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 ");
    let status = server.terminate().await;
    assert!(status.success(), "{status}");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
}
