//! HTTP/2 without TLS on the same port: the same answers, the same limits, the same end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::support::http::{ALICE, TRANSACTIONS, balance, sequence, transfer};
use crate::support::server::{DEADLINE, TestServer, wait_until};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use std::convert::Infallible;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

type Sender = SendRequest<Full<Bytes>>;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn connect(server: &TestServer) -> Sender {
    connect_by(&Builder::new(TokioExecutor::new()), server).await
}

/// A connection as `builder` has it, for bodies of any kind.
async fn connect_by<B>(builder: &Builder<TokioExecutor>, server: &TestServer) -> SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(server.addr()).await.unwrap();
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.unwrap();
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
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let head = [0, 0, length, kind, flags];
    [&head, &stream.to_be_bytes()[..], payload].concat()
}

/// `GET path` on localhost, in HPACK without its tables: ends the stream.
fn get(stream: u32, path: &str) -> Vec<u8> {
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

const RST_STREAM: u8 = 3;

fn is_reset(came: &[u8], stream: u32) -> bool {
    frames(came).contains(&(RST_STREAM, stream))
}

/// An answer of many pieces.
const EVENTS: &str = "/api/v1/events?limit=1000";

async fn make_events(server: &TestServer) {
    let item = transfer("1");
    let batch = format!(r#"{{"transactions":[{}]}}"#, vec![item; 300].join(","));
    let made = server.post_json("/api/v1/transactions/batch", &batch).await;
    assert_eq!(made.status, 200, "{}", made.body);
}

/// The kinds and streams of the whole frames in `came`.
fn frames(mut came: &[u8]) -> Vec<(u8, u32)> {
    let mut found = Vec::new();
    while let [a, b, c, kind, _, s, t, u, v, rest @ ..] = came {
        let length = u32::from_be_bytes([0, *a, *b, *c]);
        found.push((*kind, u32::from_be_bytes([*s, *t, *u, *v])));
        came = rest.get(length as usize..).unwrap_or_default();
    }
    found
}

#[tokio::test]
async fn long_and_short_answers_that_are_not_taken_are_given_up_while_others_go_on() {
    let server = TestServer::start_with(&["--request-timeout-ms", "500"]).await;
    make_events(&server).await;
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    // A byte of each answer's body; more only of those that are asked for it.
    let one_byte = frame(4, 0, 0, &[0, 4, 0, 0, 0, 1]);
    let sent = [PREFACE, &one_byte, &get(1, EVENTS), &get(3, "/livez")].concat();
    stream.write_all(&sent).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let asking = async {
        for id in (5..).step_by(2) {
            let window = frame(8, 0, id, &[0, 0, 0x40, 0]);
            let asked = [get(id, "/livez"), window].concat();
            writer.write_all(&asked).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut came = Vec::new();
    let reset = async {
        while !(is_reset(&came, 1) && is_reset(&came, 3)) {
            let count = reader.read_buf(&mut came).await.unwrap();
            assert_ne!(count, 0, "the others must not suffer");
        }
    };
    tokio::select! {
        () = reset => {}
        () = asking => unreachable!("it asks for ever"),
        () = tokio::time::sleep(DEADLINE) => panic!("its memory would be held for ever"),
    }
    let mut others = frames(&came).into_iter().filter(|(_, id)| *id > 3);
    assert!(others.all(|(kind, _)| kind != RST_STREAM));
}

#[tokio::test]
async fn a_long_answer_that_is_taken_slowly_comes_whole() {
    let server = TestServer::start_with(&["--request-timeout-ms", "1000"]).await;
    make_events(&server).await;
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(16 << 10);
    let mut sender: Sender = connect_by(&builder, &server).await;
    let uri = format!("http://localhost{EVENTS}");
    let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut text = Vec::new();
    // Altogether longer than any one piece may take.
    while let Some(frame) = body.frame().await {
        text.extend_from_slice(&frame.unwrap().into_data().unwrap());
        tokio::time::sleep(Duration::from_millis(110)).await;
    }
    assert!(text.len() > 300 << 10, "{} bytes", text.len());
    let page: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(page["events"].as_array().unwrap().len(), 1000);
}

#[tokio::test]
async fn head_gets_the_length_and_no_body() {
    let server = TestServer::start().await;
    let sender = connect(&server).await;
    let ask = async |method| {
        let request = Request::builder()
            .method(method)
            .uri("http://localhost/livez")
            .body(Full::<Bytes>::default());
        let answer = sender.clone().send_request(request.unwrap()).await;
        let (head, body) = answer.unwrap().into_parts();
        let length = head.headers["content-length"].clone();
        (length, body.collect().await.unwrap().to_bytes().len())
    };
    let (length, body_bytes) = ask("GET").await;
    assert_eq!(length, body_bytes.to_string());
    assert_eq!(ask("HEAD").await, (length, 0));
}

#[tokio::test]
async fn beyond_all_places_requests_are_refused_and_counted_until_one_is_free() {
    let server = TestServer::start_with(&["--http2-requests-max", "1"]).await;
    let sender = connect(&server).await;
    let mut slow = connect_by(&Builder::new(TokioExecutor::new()), &server).await;
    // What never ends holds the place, unless a payment was there first.
    let mut ask_for_ever = || {
        let request = Request::post(format!("http://localhost{TRANSACTIONS}"))
            .header("content-type", "application/json");
        let answer = slow.send_request(request.body(Never).unwrap());
        #[expect(clippy::disallowed_methods, reason = "ends with the test")]
        tokio::spawn(answer)
    };
    let mut held = ask_for_ever();
    let refusing = async {
        while post(&sender, &transfer("1")).await.0 != 503 {
            if held.is_finished() {
                held = ask_for_ever();
            }
        }
    };
    tokio::time::timeout(DEADLINE, refusing).await.unwrap();
    let shown = server.get("/metrics").await.body;
    let refused = "route=\"/api/v1/transactions\",status=\"503\"}";
    assert!(shown.contains(refused), "{shown}");
    held.abort();
    wait_until(DEADLINE, "the place is free again", async || {
        post(&sender, &transfer("1")).await.0 == 201
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
    let mut slow = connect_by(&Builder::new(TokioExecutor::new()), &server).await;
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
