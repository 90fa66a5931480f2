//! HTTP/2 without TLS on the same port: the same answers, the same limits, the same end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::support::http::{ALICE, TRANSACTIONS, balance, sequence, transfer};
use crate::support::server::{DEADLINE, TestServer, wait_until};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

type Sender = SendRequest<Full<Bytes>>;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn connect(server: &TestServer) -> Sender {
    let stream = TcpStream::connect(server.addr()).await.unwrap();
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    #[expect(clippy::disallowed_methods, reason = "ends with the test")]
    tokio::spawn(connection);
    sender
}

/// A request to `authority`, and what is answered: status and body.
async fn ask(
    sender: &Sender,
    authority: &str,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let mut request = Request::builder()
        .version(Version::HTTP_2)
        .method(method)
        .uri(format!("http://{authority}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    let mut sender = sender.clone();
    sender.ready().await.unwrap();
    let answer = sender.send_request(request.body(body).unwrap());
    let answer = tokio::time::timeout(DEADLINE, answer).await.unwrap();
    let (head, body) = answer.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    (head.status.as_u16(), text)
}

async fn post(sender: &Sender, body: &str) -> (u16, String) {
    let json = [("content-type", "application/json")];
    ask(sender, "localhost", ("POST", TRANSACTIONS), &json, body).await
}

/// All that comes until the server ends the connection.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    // A reset is an end too.
    let _ = tokio::time::timeout(DEADLINE, reading).await.unwrap();
    answer
}

/// One frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// `GET path` on localhost, in HPACK without its tables: ends the stream.
fn get(stream: u8, path: &str) -> Vec<u8> {
    let literal = |index: u8, text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        [&[index, length], text.as_bytes()].concat()
    };
    let head = [
        vec![0x82, 0x86],
        literal(0x04, path),
        literal(0x01, "localhost"),
    ]
    .concat();
    frame(1, 0x5, stream, &head)
}

#[tokio::test]
async fn many_payments_at_once_share_one_connection() {
    let server = TestServer::start().await;
    let sender = connect(&server).await;
    let mut payments = JoinSet::new();
    for _ in 0..300 {
        let sender = sender.clone();
        payments.spawn(async move { post(&sender, &transfer("1")).await });
    }
    while let Some(answer) = payments.join_next().await {
        let (status, body) = answer.unwrap();
        assert_eq!(status, 201, "{body}");
    }
    assert_eq!(balance(&server, ALICE).await, "999700.00");
    let shown = server.get("/metrics").await.body;
    let counted = "route=\"/api/v1/transactions\",status=\"201\"} 300\n";
    assert!(shown.contains(counted), "{shown}");
}

#[tokio::test]
async fn refusals_are_those_of_http_1() {
    let server = TestServer::start().await;
    let sender = connect(&server).await;
    let json = ("content-type", "application/json");
    let large = " ".repeat(65_537);
    for (call, headers, body, status, text) in [
        (("GET", "/nowhere"), vec![], "", 404, "NOT_FOUND"),
        (("PUT", TRANSACTIONS), vec![], "", 405, "METHOD_NOT_ALLOWED"),
        (
            ("POST", TRANSACTIONS),
            vec![],
            "{}",
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (
            ("POST", TRANSACTIONS),
            vec![json],
            "",
            400,
            "Invalid request format",
        ),
        (
            ("POST", TRANSACTIONS),
            vec![json],
            &large,
            413,
            "BODY_TOO_LARGE",
        ),
        (
            ("GET", "/ws/transactions"),
            vec![],
            "",
            426,
            "UPGRADE_REQUIRED",
        ),
    ] {
        let answer = ask(&sender, "localhost", call, &headers, body).await;
        assert_eq!(answer.0, status, "{call:?}: {}", answer.1);
        assert!(answer.1.contains(text), "{call:?}: {}", answer.1);
    }
    // The connection is as good as before.
    assert_eq!(post(&sender, &transfer("1")).await.0, 201);
}

#[tokio::test]
async fn strange_hosts_are_kept_out_whatever_the_host_header_says() {
    let server = TestServer::start().await;
    let sender = connect(&server).await;
    let path = ("GET", "/api/v1/sequence");
    for (authority, host, status) in [
        ("localhost", "localhost", 200),
        ("127.0.0.1:8001", "evil.example", 200),
        ("evil.example", "localhost", 403),
    ] {
        let answer = ask(&sender, authority, path, &[("host", host)], "").await;
        assert_eq!(answer.0, status, "{authority}, {host}: {}", answer.1);
    }
    let (status, _) = ask(&sender, "localhost", path, &[], "").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn who_asks_nothing_or_never_finishes_a_head_is_let_go() {
    let server = TestServer::start_with(&["--head-timeout-ms", "100"]).await;
    let settings = frame(4, 0, 0, &[]);
    // HEADERS without their end: CONTINUATION would have to follow.
    let unfinished = frame(1, 0x1, 1, &[0x82]);
    for sent in [
        b"PR".to_vec(),
        PREFACE[..20].to_vec(),
        [PREFACE, &settings].concat(),
        [PREFACE, &settings, &unfinished].concat(),
    ] {
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        let _goodbye = until_closed(&mut stream).await;
    }
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn who_takes_no_answer_is_let_go() {
    let flags = ["--head-timeout-ms", "100", "--request-timeout-ms", "100"];
    let server = TestServer::start_with(&flags).await;
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    // No room for a byte of any answer's body.
    let no_window = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let sent = [PREFACE, &no_window, &get(1, "/health"), &get(3, "/metrics")].concat();
    stream.write_all(&sent).await.unwrap();
    let _heads = until_closed(&mut stream).await;
    wait_until(DEADLINE, "nothing is left of it", async || {
        let shown = server.get("/metrics").await.body;
        shown.contains("\nechopay_http_connections_open 1\n")
    })
    .await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_told_so() {
    let server = TestServer::start_with(&["--request-timeout-ms", "100"]).await;
    let sender = connect(&server).await;
    let head = Request::post(format!("http://localhost{TRANSACTIONS}"))
        .header("content-type", "application/json")
        .header("content-length", "9");
    // `Full` would end the stream; this says nine bytes and never gives them.
    let stream = TcpStream::connect(server.addr()).await.unwrap();
    let (mut slow, connection) = Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    #[expect(clippy::disallowed_methods, reason = "ends with the test")]
    tokio::spawn(connection);
    let answer = slow.send_request(head.body(Never).unwrap()).await.unwrap();
    assert_eq!(answer.status().as_u16(), 408);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(
        std::str::from_utf8(&body)
            .unwrap()
            .contains("REQUEST_TIMEOUT")
    );
    assert_eq!(post(&sender, &transfer("1")).await.0, 201);
    assert_eq!(sequence(&server).await % 4, 0);
}

/// A body of which nothing ever comes.
struct Never;

impl hyper::body::Body for Never {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn a_stop_answers_what_is_in_hand_and_says_goodbye() {
    let mut server = TestServer::start().await;
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    // A whole payment but for the end of its body.
    let body = transfer("1");
    let literal = |name: &str, value: &str| {
        let length = |text: &str| u8::try_from(text.len()).unwrap();
        let (name_length, value_length) = (length(name), length(value));
        [
            &[0, name_length],
            name.as_bytes(),
            &[value_length],
            value.as_bytes(),
        ]
        .concat()
    };
    let path = [
        &[0x04, u8::try_from(TRANSACTIONS.len()).unwrap()],
        TRANSACTIONS.as_bytes(),
    ]
    .concat();
    let head = [
        vec![0x83, 0x86],
        path,
        [&[0x01, 9], &b"localhost"[..]].concat(),
        literal("content-type", "application/json"),
    ]
    .concat();
    let (first, rest) = body.as_bytes().split_at(body.len() - 5);
    let request = [
        PREFACE,
        &frame(4, 0, 0, &[]),
        &frame(1, 0x4, 1, &head),
        &frame(0, 0, 1, first),
    ]
    .concat();
    stream.write_all(&request).await.unwrap();
    wait_until(DEADLINE, "it is accepted", async || {
        let shown = server.get("/metrics").await.body;
        shown.contains("\nechopay_http_connections_open 2\n")
    })
    .await;
    // The server's settings say that it speaks HTTP/2 now, and a ping's echo that it has read the head before.
    stream.write_all(&frame(6, 0, 0, &[7; 8])).await.unwrap();
    let mut answered = Vec::new();
    while !answered
        .windows(17)
        .any(|part| part == frame(6, 1, 0, &[7; 8]))
    {
        assert_ne!(
            stream.read_buf(&mut answered).await.unwrap(),
            0,
            "closed early"
        );
    }
    server.signal(Signal::TERM);
    wait_until(DEADLINE, "nothing new is taken", async || {
        TcpStream::connect(server.addr()).await.is_err()
    })
    .await;
    // The end of the body, and the answer to the server's last ping: it waits for that before it says goodbye for good.
    let last = [frame(0, 1, 1, rest), frame(4, 1, 0, &[])].concat();
    stream.write_all(&last).await.unwrap();
    let answer = until_closed(&mut stream).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("\"status\":\"completed\""), "{text}");
    let status = server.wait_for_exit().await;
    assert!(status.success(), "{status}");
}
