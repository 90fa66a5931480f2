//! The endpoint over real sockets, with a journal and a clock that the tests move.

use super::Config;
use super::endpoint::Endpoint;
use super::history::{History, Reading};
use crate::auth::{Caller, Scope};
use crate::clock::{Clock, ManualClock};
use crate::journal::Entry;
use crate::metrics::Metrics;
use crate::tasks::{OnExit, Supervisor};
use crate::tracker::fixtures::{AT, transfer, wallet};
use crate::tracker::{self, Dispatcher, TrackerHandle};
use crate::types::{Sequence, WalletId};
use crate::watermark::{Watermark, WatermarkWriter, watermark};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// How long anything may take before it counts as hanging.
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct ListedHistory {
    entries: Arc<Mutex<Vec<Entry>>>,
    durable: Watermark,
    oldest: Sequence,
}

/// Last sequence of `journal/0`, of which `journal/1` was restored.
const RESTORED_AT: u64 = 6;

impl History for ListedHistory {
    fn journal(&self) -> String {
        "journal/1".into()
    }

    fn has(&self, journal: &str, after: Sequence) -> bool {
        journal == "journal/0" && after <= Sequence::new(RESTORED_AT)
    }

    fn durable(&self) -> Sequence {
        self.durable.get()
    }

    fn oldest(&self) -> Sequence {
        self.oldest
    }

    fn read_after(&self, after: Sequence, _: usize) -> Reading {
        let entries = Arc::clone(&self.entries);
        Box::pin(async move {
            tokio::task::yield_now().await;
            let entries = entries.lock();
            let from = entries.partition_point(|entry| entry.last() <= after);
            Ok(entries[from..].iter().take(50).cloned().collect())
        })
    }
}

struct Rig {
    endpoint: Endpoint,
    tracker: TrackerHandle,
    dispatcher: Dispatcher,
    durable: WatermarkWriter,
    entries: Arc<Mutex<Vec<Entry>>>,
    clock: Arc<ManualClock>,
    address: std::net::SocketAddr,
}

/// Who has which token.
fn authenticate(token: &str) -> Option<Caller> {
    let (scope, wallets): (_, Option<HashSet<WalletId>>) = match token {
        "all" => (Scope::Read, None),
        "one" => (Scope::Read, Some([wallet(1)].into())),
        "writer" => (Scope::Write, None),
        _ => return None,
    };
    Some(Caller {
        name: token.into(),
        scopes: [scope].into(),
        wallets: wallets.map(Arc::new),
    })
}

impl Rig {
    async fn new() -> Self {
        Self::with(Config::default(), tracker::Config::default(), 1).await
    }

    /// `oldest`: first sequence that history still has.
    async fn with(config: Config, tracker_config: tracker::Config, oldest: u64) -> Self {
        let config = Config {
            sweep_every_ms: 5,
            ..config
        };
        let clock = Arc::new(ManualClock::new(AT, 7));
        let (durable, reading) = watermark(Sequence::ORIGIN);
        let (tracker, dispatcher) = tracker::new(
            tracker_config,
            Sequence::ORIGIN,
            reading.clone(),
            clock.clone(),
            Metrics::default(),
        );
        let entries = Arc::new(Mutex::new(Vec::new()));
        let oldest = Sequence::new(oldest);
        let history = ListedHistory {
            entries: Arc::clone(&entries),
            durable: reading,
            oldest,
        };
        let supervisor = Supervisor::new();
        let endpoint = Endpoint::assemble(
            config,
            tracker.clone(),
            Box::new(history),
            Box::new(authenticate),
            clock.clone(),
            Metrics::default(),
            supervisor.clone(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = endpoint.clone();
        supervisor
            .clone()
            .spawn_task("test-server", OnExit::Continue, async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let endpoint = serving.clone();
                    let serve = hyper::server::conn::http1::Builder::new()
                        .serve_connection(
                            TokioIo::new(stream),
                            service_fn(move |request| {
                                std::future::ready(Ok::<_, Infallible>(answer(&endpoint, request)))
                            }),
                        )
                        .with_upgrades();
                    supervisor.spawn_task("test-connection", OnExit::Continue, async move {
                        let _ended = serve.await;
                    });
                }
            });
        Self {
            endpoint,
            tracker,
            dispatcher,
            durable,
            entries,
            clock,
            address,
        }
    }

    fn commit_transfer(&mut self, from: u128, to: u128) {
        let next = self
            .entries
            .lock()
            .last()
            .map_or(1, |entry| entry.last().next().get());
        let entry = transfer(next, from, to);
        self.entries.lock().push(entry.clone());
        self.durable.advance_to(entry.last());
        self.dispatcher.dispatch(&[entry]);
    }

    /// A client that HTTP let in.
    async fn connect(&self) -> Client {
        self.try_connect("/trusted", &[]).await.unwrap()
    }

    async fn try_connect(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Client, Error> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        self.handshake(stream, path, headers).await
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Client, Error> {
        let url = format!("ws://{}{path}", self.address);
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        Ok(Client {
            socket: client_async(request, stream).await?.0,
        })
    }

    async fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let polling = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(
            tokio::time::timeout(DEADLINE, polling).await.is_ok(),
            "in vain: {what}"
        );
    }
}

/// `/trusted`: HTTP knows who asks. `/unknown`: the endpoint has to find out.
fn answer(endpoint: &Endpoint, request: Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
    let caller = (request.uri().path() == "/trusted")
        .then(|| authenticate("all"))
        .flatten();
    endpoint.upgrade(request, caller)
}

struct Client {
    socket: WebSocketStream<TcpStream>,
}

impl Client {
    async fn say(&mut self, message: &Value) {
        self.say_raw(Message::text(message.to_string())).await;
    }

    async fn say_raw(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    async fn hear_raw(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(DEADLINE, self.socket.next())
            .await
            .expect("something is heard in time")
    }

    /// The next text message.
    async fn hear(&mut self) -> Value {
        loop {
            match self
                .hear_raw()
                .await
                .expect("the connection is open")
                .unwrap()
            {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("heard {other:?}"),
            }
        }
    }

    async fn subscribe(&mut self, fields: Value) -> Value {
        let mut message = json!({"type": "subscribe"});
        message
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        self.say(&message).await;
        self.hear().await
    }

    async fn hear_sequences(&mut self, count: usize) -> Vec<u64> {
        let mut sequences = Vec::new();
        while sequences.len() < count {
            let message = self.hear().await;
            assert_eq!(message["type"], "status_update", "{message}");
            sequences.push(message["sequence"].as_u64().unwrap());
        }
        sequences
    }

    /// Reads to the close frame; gives the updates' sequences before it.
    async fn hear_close(&mut self) -> (Vec<u64>, CloseFrame) {
        let mut sequences = Vec::new();
        loop {
            match self
                .hear_raw()
                .await
                .expect("a close frame comes first")
                .unwrap()
            {
                Message::Close(frame) => {
                    // Only reading on sends the answer.
                    while self.hear_raw().await.is_some() {}
                    return (sequences, frame.expect("it has a code"));
                }
                Message::Text(text) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    sequences.extend(message["sequence"].as_u64());
                }
                _ => {}
            }
        }
    }
}

fn resume_after(frame: &CloseFrame) -> u64 {
    let reason: Value = serde_json::from_str(&frame.reason).unwrap();
    reason["resume_after"].as_u64().unwrap()
}

#[tokio::test]
async fn a_subscriber_hears_what_it_asked_for_until_it_unsubscribes() {
    let mut rig = Rig::new().await;
    let mut client = rig.connect().await;
    let subscribed = client
        .subscribe(json!({"wallet_ids": [wallet(1).to_string()]}))
        .await;
    assert_eq!(subscribed["type"], "subscribed");
    assert_eq!(subscribed["sequence"], 0);
    assert_eq!(subscribed["journal"], "journal/1");
    rig.commit_transfer(2, 3);
    rig.commit_transfer(3, 1);
    let update = client.hear().await;
    assert_eq!(update["sequence"], 5);
    assert_eq!(update["data"]["status"], "pending");
    assert_eq!(
        update["subscriber_ids"],
        json!([subscribed["data"]["subscriber_id"]])
    );
    assert_eq!(client.hear_sequences(1).await, [6]);
    client.say(&json!({"type": "unsubscribe"})).await;
    assert_eq!(client.hear().await["type"], "unsubscribed");
    rig.commit_transfer(1, 2);
    client.say(&json!({"type": "ping"})).await;
    assert_eq!(
        client.hear().await["type"],
        "pong",
        "no update comes before it"
    );
}

#[tokio::test]
async fn what_is_not_understood_is_answered_and_the_connection_goes_on() {
    let rig = Rig::new().await;
    let mut client = rig.connect().await;
    client.say(&json!({"type": "dance"})).await;
    assert_eq!(
        client.hear().await["data"]["message"],
        "unknown message type"
    );
    client.say_raw(Message::text("{")).await;
    let malformed = client.hear().await;
    assert!(
        malformed["data"]["message"]
            .as_str()
            .unwrap()
            .starts_with("malformed message")
    );
    client.say_raw(Message::binary(vec![1, 2])).await;
    assert_eq!(client.hear().await["type"], "error");
    client
        .say(&json!({"type": "unsubscribe", "subscriber_id": wallet(5).to_string()}))
        .await;
    assert_eq!(
        client.hear().await["data"]["message"],
        "unknown subscriber_id"
    );
    client
        .say_raw(Message::Ping(Bytes::from_static(b"abc")))
        .await;
    let pong = client.hear_raw().await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong(Bytes::from_static(b"abc")));
}

#[tokio::test]
async fn limits_of_subscriptions_and_ids_are_kept() {
    let config = Config {
        subscriptions_max: 2,
        filter_ids_max: 3,
        ..Config::default()
    };
    let rig = Rig::with(config, tracker::Config::default(), 1).await;
    let mut client = rig.connect().await;
    let ids: Vec<String> = (0..4).map(|number| wallet(number).to_string()).collect();
    let refused = client.subscribe(json!({"wallet_ids": ids})).await;
    assert_eq!(
        refused["data"]["message"],
        "too many ids: at most 3 a subscription"
    );
    assert_eq!(client.subscribe(json!({})).await["type"], "subscribed");
    assert_eq!(client.subscribe(json!({})).await["type"], "subscribed");
    let refused = client.subscribe(json!({})).await;
    assert_eq!(
        refused["data"]["message"],
        "too many subscriptions: at most 2 a connection"
    );
}

#[tokio::test]
async fn a_message_too_long_ends_the_connection_with_1009() {
    let rig = Rig::new().await;
    let mut client = rig.connect().await;
    client.say_raw(Message::text("x".repeat(65 * 1024))).await;
    let (_, frame) = client.hear_close().await;
    assert_eq!(u16::from(frame.code), 1009);
    drop(client);
    rig.wait_until("the place is free again", |rig| {
        rig.endpoint.connections() == 0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_closes_gets_its_answer_and_leaves_nothing_behind() {
    let rig = Rig::new().await;
    let mut client = rig.connect().await;
    client.subscribe(json!({})).await;
    client.socket.close(None).await.unwrap();
    assert!(matches!(
        client.hear_raw().await,
        Some(Ok(Message::Close(None)))
    ));
    rig.wait_until("the connection is gone", |rig| {
        rig.endpoint.connections() == 0 && rig.tracker.stats().subscriptions == 0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_vanishes_without_a_word_is_dropped_when_its_pong_is_overdue() {
    let rig = Rig::new().await;
    let mut client = rig.connect().await;
    client.subscribe(json!({})).await;
    rig.clock.advance(Duration::from_secs(30));
    let ping = client.hear_raw().await.unwrap().unwrap();
    assert!(matches!(ping, Message::Ping(_)), "after 30 s: {ping:?}");
    // The pong is made, but never flushed by this client, which reads no more.
    rig.clock.advance(Duration::from_mins(1));
    rig.wait_until("the silent one is dropped", |rig| {
        rig.endpoint.connections() == 0
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_is_closed_with_4008_and_others_hear_everything() {
    let tracker_config = tracker::Config {
        queue_bytes_max: 64 * 1024,
        ..tracker::Config::default()
    };
    let config = Config {
        unsent_bytes_max: 4096,
        ..Config::default()
    };
    let mut rig = Rig::with(config, tracker_config, 1).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(rig.address).await.unwrap();
    let mut slow = rig.handshake(stream, "/trusted", &[]).await.unwrap();
    let mut quick = rig.connect().await;
    assert_eq!(slow.subscribe(json!({})).await["type"], "subscribed");
    assert_eq!(quick.subscribe(json!({})).await["type"], "subscribed");
    let mut quick_heard = Vec::new();
    for _ in 0..40 {
        (0..50).for_each(|_| rig.commit_transfer(1, 2));
        quick_heard.extend(quick.hear_sequences(100).await);
    }
    let due = |count: u64| {
        (0..count)
            .flat_map(|n| [n * 4 + 1, n * 4 + 2])
            .collect::<Vec<u64>>()
    };
    assert_eq!(quick_heard, due(2_000));
    let (heard, frame) = slow.hear_close().await;
    assert_eq!(u16::from(frame.code), 4008);
    let resume_after = resume_after(&frame);
    assert!(resume_after < 8_000, "it did miss something");
    let expected: Vec<u64> = due(2_000)
        .into_iter()
        .filter(|n| *n <= resume_after)
        .collect();
    assert_eq!(
        heard, expected,
        "what it heard ends exactly where it is told to resume"
    );

    // And coming back there completes it.
    let mut again = rig.connect().await;
    let subscribed = again
        .subscribe(json!({"after_sequence": resume_after}))
        .await;
    assert_eq!(subscribed["sequence"], resume_after);
    let rest = again.hear_sequences(4_000 - heard.len()).await;
    assert_eq!([heard, rest].concat(), due(2_000));
}

#[tokio::test]
async fn a_reader_that_never_reads_again_is_dropped_by_the_write_deadline() {
    let tracker_config = tracker::Config {
        queue_bytes_max: 32 * 1024,
        ..tracker::Config::default()
    };
    let mut rig = Rig::with(Config::default(), tracker_config, 1).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(rig.address).await.unwrap();
    let mut stuck = rig.handshake(stream, "/trusted", &[]).await.unwrap();
    stuck.subscribe(json!({})).await;
    rig.wait_until("it is there", |rig| rig.endpoint.connections() == 1)
        .await;
    for _ in 0..20 {
        (0..200).for_each(|_| rig.commit_transfer(1, 2));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    rig.wait_until("its queue is given up", |rig| {
        rig.tracker.stats().queued_bytes == 0
    })
    .await;
    rig.clock.advance(Duration::from_secs(11));
    rig.wait_until("it is dropped", |rig| rig.endpoint.connections() == 0)
        .await;
}

#[tokio::test]
async fn resuming_while_transfers_go_on_leaves_no_gap_and_tells_the_position() {
    let mut rig = Rig::new().await;
    (0..700).for_each(|_| rig.commit_transfer(1, 2));
    let mut client = rig.connect().await;
    let fields = json!({"after_sequence": 5, "journal": "journal/1", "statuses": ["completed"]});
    client.subscribe(fields).await;
    for _ in 0..300 {
        rig.commit_transfer(1, 2);
        tokio::task::yield_now().await;
    }
    let due: Vec<u64> = (0..1_000).map(|n| n * 4 + 2).filter(|n| *n > 5).collect();
    assert_eq!(client.hear_sequences(due.len()).await, due);
    rig.clock.advance(Duration::from_secs(30));
    let position = client.hear().await;
    assert_eq!(position, json!({"type": "position", "sequence": 4_000}));
}

#[tokio::test]
async fn what_cannot_be_resumed_is_told_with_the_oldest_sequence() {
    let mut rig = Rig::with(Config::default(), tracker::Config::default(), 5).await;
    rig.commit_transfer(1, 2);
    rig.commit_transfer(1, 2);
    let mut client = rig.connect().await;
    for fields in [
        json!({"after_sequence": 9}),
        json!({"after_sequence": 3}),
        json!({"after_sequence": 5, "journal": "another/1"}),
        json!({"after_sequence": RESTORED_AT + 1, "journal": "journal/0"}),
        json!({"journal": "journal/0"}),
    ] {
        let error = client.subscribe(fields).await;
        assert_eq!(error["type"], "error");
        assert_eq!(error["resync_required"], true);
        assert_eq!(error["oldest_sequence"], 5);
    }
    assert_eq!(
        client
            .subscribe(json!({"after_sequence": 4, "journal": "journal/0"}))
            .await["type"],
        "subscribed"
    );
    assert_eq!(client.hear_sequences(2).await, [5, 6]);
}

#[tokio::test]
async fn draining_tells_everyone_where_to_resume_and_takes_no_new_ones() {
    let mut rig = Rig::new().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = rig.connect().await;
        client.subscribe(json!({})).await;
        clients.push(client);
    }
    rig.commit_transfer(1, 2);
    let hear = async {
        for client in &mut clients {
            let (sequences, frame) = client.hear_close().await;
            assert_eq!(sequences, [1, 2]);
            assert_eq!(u16::from(frame.code), 1012);
            assert_eq!(resume_after(&frame), 4);
        }
    };
    let (cut_off, ()) = tokio::join!(rig.endpoint.drain(DEADLINE), hear);
    assert_eq!(cut_off, 0);
    assert_refused(
        rig.try_connect("/trusted", &[]).await,
        StatusCode::SERVICE_UNAVAILABLE,
    );
}

#[tokio::test]
async fn draining_cuts_off_who_does_not_answer() {
    let rig = Rig::new().await;
    let _silent = rig.connect().await;
    assert_eq!(rig.endpoint.drain(Duration::from_millis(50)).await, 1);
    assert_eq!(rig.endpoint.connections(), 0);
}

fn assert_refused(result: Result<Client, Error>, status: StatusCode) {
    match result {
        Err(Error::Http(response)) => assert_eq!(response.status(), status),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("let in"),
    }
}

#[tokio::test]
async fn requests_that_are_no_upgrade_are_refused() {
    let rig = Rig::new().await;
    let versioned = rig
        .try_connect("/trusted", &[("sec-websocket-version", "8")])
        .await;
    assert_refused(versioned, StatusCode::UPGRADE_REQUIRED);
    let plain = Request::builder()
        .uri("/")
        .body(Full::<Bytes>::default())
        .unwrap();
    let refused = rig.endpoint.upgrade(plain, None);
    assert_eq!(refused.status(), StatusCode::UPGRADE_REQUIRED);
    assert_eq!(refused.headers()["upgrade"], "websocket");
    let keyless = Request::builder()
        .header("upgrade", "WebSocket")
        .header("connection", "keep-alive, Upgrade")
        .header("sec-websocket-version", "13")
        .body(Full::<Bytes>::default())
        .unwrap();
    assert_eq!(
        rig.endpoint.upgrade(keyless, None).status(),
        StatusCode::BAD_REQUEST
    );
    assert_eq!(rig.endpoint.connections(), 0);
}

#[tokio::test]
async fn one_connection_too_many_is_refused_and_a_freed_place_is_given_again() {
    let config = Config {
        connections_max: 1,
        ..Config::default()
    };
    let rig = Rig::with(config, tracker::Config::default(), 1).await;
    let first = rig.connect().await;
    assert_refused(
        rig.try_connect("/trusted", &[]).await,
        StatusCode::SERVICE_UNAVAILABLE,
    );
    drop(first);
    rig.wait_until("the place is free", |rig| rig.endpoint.connections() == 0)
        .await;
    rig.connect().await;
}

#[tokio::test]
async fn the_first_message_may_bring_the_token_and_binds_to_its_wallets() {
    let mut rig = Rig::new().await;
    let mut client = rig.try_connect("/unknown", &[]).await.unwrap();
    client
        .say(&json!({"type": "authenticate", "token": "one"}))
        .await;
    assert_eq!(client.hear().await["type"], "authenticated");
    let strange = client
        .subscribe(json!({"wallet_ids": [wallet(2).to_string()]}))
        .await;
    assert_eq!(strange["type"], "error");
    assert_eq!(client.subscribe(json!({})).await["type"], "subscribed");
    rig.commit_transfer(2, 3);
    rig.commit_transfer(2, 1);
    assert_eq!(client.hear_sequences(2).await, [5, 6]);
    // The deadline for the first message is over once it came.
    rig.clock.advance(Duration::from_secs(20));
    client.say(&json!({"type": "ping"})).await;
    assert_eq!(client.hear().await["type"], "pong");
}

#[tokio::test]
async fn who_does_not_say_who_it_is_is_closed_with_4401() {
    let rig = Rig::new().await;
    for first in [
        json!({"type": "subscribe"}),
        json!({"type": "authenticate", "token": "x"}),
    ] {
        let mut client = rig.try_connect("/unknown", &[]).await.unwrap();
        client.say(&first).await;
        assert_eq!(u16::from(client.hear_close().await.1.code), 4401);
    }
    let mut forbidden = rig.try_connect("/unknown", &[]).await.unwrap();
    forbidden
        .say(&json!({"type": "authenticate", "token": "writer"}))
        .await;
    assert_eq!(u16::from(forbidden.hear_close().await.1.code), 4403);
    let mut silent = rig.try_connect("/unknown", &[]).await.unwrap();
    rig.wait_until("only it is left", |rig| rig.endpoint.connections() == 1)
        .await;
    rig.clock.advance(Duration::from_secs(10));
    assert_eq!(u16::from(silent.hear_close().await.1.code), 4401);
}

#[tokio::test]
async fn a_browser_may_bring_the_token_as_subprotocol() {
    let rig = Rig::new().await;
    let offer = |token: &str| format!("bearer.{token}");
    let protocol = "sec-websocket-protocol";
    let mut client = rig
        .try_connect("/unknown", &[(protocol, &offer("all"))])
        .await
        .unwrap();
    assert_eq!(client.subscribe(json!({})).await["type"], "subscribed");
    let unknown = rig
        .try_connect("/unknown", &[(protocol, &offer("x"))])
        .await;
    assert_refused(unknown, StatusCode::UNAUTHORIZED);
    let writer = rig
        .try_connect("/unknown", &[(protocol, &offer("writer"))])
        .await;
    assert_refused(writer, StatusCode::FORBIDDEN);
    assert!(rig.clock.monotonic() == Duration::ZERO);
}
