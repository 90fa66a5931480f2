//! Orderly ends: what SIGTERM and SIGINT promise to those who are connected, to Kafka and to the next start.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::support::audit::Audit;
use crate::support::http::{BATCH, JSON, TRANSACTIONS, sequence, transfer, transfer_between};
use crate::support::kafka::{Broker, Record, Topic};
use crate::support::server::{Client, DEADLINE, TestServer, wait_until};
use crate::support::subscribers::{Due, Filter, Subscribers};
use crate::support::ws_client::WsClient;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::block_in_place;

const CLIENTS: u32 = 12;
const SUBSCRIBERS: u32 = 2_000;
const WALLETS: u32 = 200;
/// Of so many subscribers one hears everything.
const ALL_HEARING_ONE_IN: u32 = 100;
/// Beside the subscribers: the test's and the server's other files.
const OTHER_FILES: u64 = 200;

/// As many subscribers as this process may have files open, once it asked for more.
fn subscribers_possible() -> u32 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let room = files.map_or(u64::MAX, |files| files.saturating_sub(OTHER_FILES));
    SUBSCRIBERS.min(u32::try_from(room).unwrap_or(u32::MAX))
}

fn wallet(number: u32) -> String {
    format!("00000000-0000-4000-8000-{:012}", 1 + number % WALLETS)
}

/// Pays on and on until the server takes no more; gives the ids of what was acknowledged.
async fn pay_on(client: Client, number: u32, answered: &AtomicU64) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for step in number.. {
        let body = transfer_between(&wallet(step * 7), &wallet(step * 7 + 1 + step % 5), "0.01");
        let answer = client
            .try_request("POST", TRANSACTIONS, &[JSON], &body)
            .await;
        // Sent when nothing was taken any more.
        let Ok(answer) = answer else { break };
        assert_eq!(answer.status, 201, "{}", answer.body);
        answered.fetch_add(1, Ordering::Relaxed);
        acknowledged.push(answer.json()["transaction_id"].as_str().unwrap().to_owned());
    }
    acknowledged
}

/// Waits until a stop has begun.
async fn begun(server: &TestServer) {
    wait_until(DEADLINE, "nothing new is taken", async || {
        TcpStream::connect(server.addr()).await.is_err()
    })
    .await;
}

/// The first line of the log with `text`, which comes a moment after what it tells of.
async fn logged(server: &TestServer, text: &str) -> serde_json::Value {
    let mut line = serde_json::Value::Null;
    wait_until(DEADLINE, text, async || {
        let log = server.log();
        let found = log.lines().find(|line| line.contains(text));
        line = found.map_or(line.take(), |found| serde_json::from_str(found).unwrap());
        !line.is_null()
    })
    .await;
    line
}

/// What the last start had to replay.
async fn replayed(server: &TestServer) -> u64 {
    let line = logged(server, "books are open").await;
    line["replayed"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test's clients are no tasks of the service"
)]
async fn a_stop_under_full_load_with_thousands_of_subscribers_leaves_nothing_open() {
    let count = subscribers_possible();
    assert!(count >= 200, "the limit of open files is too low: {count}");
    let topic = block_in_place(|| Topic::shared("orderly"));
    let mut flags = vec!["--log-format", "json", "--kafka-drain-timeout-ms", "60000"];
    flags.extend(topic.iter().flat_map(Topic::flags_for_all_types));
    let mut server = TestServer::start_with(&flags).await;
    let mut subscribers = Subscribers::new((0..count).map(|number| {
        if number.is_multiple_of(ALL_HEARING_ONE_IN) {
            Filter::All
        } else {
            Filter::Wallets(vec![wallet(number)])
        }
    }));
    let listening = subscribers.listen(server.addr()).await;

    let answered = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (client, answered) = (server.client(), Arc::clone(&answered));
            tokio::spawn(async move { pay_on(client, number, &answered).await })
        })
        .collect();
    wait_until(DEADLINE, "the load is under way", async || {
        answered.load(Ordering::Relaxed) >= 300
    })
    .await;
    server.signal(Signal::TERM);
    let mut acknowledged = Vec::new();
    for client in clients {
        acknowledged.extend(client.await.unwrap());
    }
    let heard = listening.end().await;
    let status = server.wait_for_exit().await;
    assert!(status.success(), "{status}");
    let unclosed = heard.iter().filter(|heard| heard.closed.is_none()).count();
    assert_eq!(unclosed, 0, "subscribers that were told no place");
    logged(&server, r#""stopped""#).await;

    server.restart().await;
    assert_eq!(replayed(&server).await, 0, "the checkpoint lacks something");
    let client = server.client();
    let (mut audit, mut due) = (Audit::default(), Vec::new());
    audit
        .look_on(&client, |event| due.extend(Due::of(&event)))
        .await;
    assert!(audit.compare_balances(&client).await, "nothing goes on");
    for id in &acknowledged {
        let found = audit.transactions.get(id);
        assert_eq!(found.map(|(status, _)| status.as_str()), Some("completed"));
    }
    subscribers.compare(&due, heard);
    if let Some(topic) = topic {
        let records = block_in_place(|| topic.read());
        let sequences: BTreeSet<u64> = records.iter().map(Record::sequence).collect();
        assert!(sequences.iter().copied().eq(1..=audit.looked_at));
        assert_eq!(records.len(), sequences.len(), "some came twice");
    }

    // All are back before there is something new, and hear that, and nothing else.
    for number in 0..20 {
        let body = transfer_between(&wallet(number), &wallet(number + 1), "0.01");
        assert_eq!(server.post_json(TRANSACTIONS, &body).await.status, 201);
    }
    let mut due = Vec::new();
    audit
        .look_on(&client, |event| due.extend(Due::of(&event)))
        .await;
    subscribers.compare(&due, Vec::new());
    subscribers.catch_up(server.addr(), audit.looked_at).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_a_frozen_broker_until_its_deadline_and_ships_after_the_next_start() {
    let Some(broker) = block_in_place(Broker::own) else {
        return;
    };
    let topic = Topic::on(&broker, "frozen");
    let mut flags = vec!["--kafka-drain-timeout-ms", "1500", "--log-format", "json"];
    flags.extend(topic.flags_for_all_types());
    let mut server = TestServer::start_with(&flags).await;
    server.post_json(TRANSACTIONS, &transfer("1")).await;
    wait_until(DEADLINE, "the pipeline ships", async || {
        let marks = server.get("/api/v1/sequence").await.json();
        marks["published"].as_u64() > Some(0)
    })
    .await;
    broker.pause();
    for _ in 0..50 {
        let paid = server.post_json(TRANSACTIONS, &transfer("1")).await;
        assert_eq!(paid.status, 201, "{}", paid.body);
    }
    let status = server.terminate().await;
    broker.resume();
    assert_eq!(status.code(), Some(0), "{status}");
    logged(&server, "some events wait in the journal").await;

    server.restart().await;
    assert_eq!(replayed(&server).await, 0);
    let mut durable = 0;
    wait_until(DEADLINE, "the rest is shipped", async || {
        let marks = server.get("/api/v1/sequence").await.json();
        durable = marks["durable"].as_u64().unwrap();
        marks["published"] == marks["durable"]
    })
    .await;
    let records = block_in_place(|| topic.read());
    let sequences: BTreeSet<u64> = records.iter().map(Record::sequence).collect();
    assert!(sequences.into_iter().eq(1..=durable));
}

/// A server that would wait for a frozen broker for ten minutes is asked twice.
async fn asked_twice(first: Signal, second: Signal) {
    let Some(broker) = block_in_place(Broker::own) else {
        return;
    };
    let topic = Topic::on(&broker, "hurried");
    let mut flags = vec!["--kafka-drain-timeout-ms", "600000", "--log-format", "json"];
    flags.extend(topic.flags());
    let mut server = TestServer::start_with(&flags).await;
    server.post_json(TRANSACTIONS, &transfer("1")).await;
    wait_until(DEADLINE, "the pipeline ships", async || {
        let marks = server.get("/api/v1/sequence").await.json();
        marks["published"].as_u64() > Some(0)
    })
    .await;
    broker.pause();
    let paid = server.post_json(TRANSACTIONS, &transfer("1")).await;
    assert_eq!(paid.status, 201, "{}", paid.body);
    server.signal(first);
    logged(&server, "waiting for Kafka").await;
    server.signal(second);
    let status = server.wait_for_exit().await;
    broker.resume();
    assert_eq!(status.code(), Some(0), "{status}");
    server.restart().await;
    assert_eq!(replayed(&server).await, 0, "the checkpoint lacks something");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_the_wait_for_kafka() {
    asked_twice(Signal::TERM, Signal::TERM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigint_ends_the_wait_for_kafka_too() {
    asked_twice(Signal::INT, Signal::INT).await;
}

/// Sends a request whose body never comes to its end.
async fn trickle(server: &TestServer) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    let head = "POST /api/v1/transactions HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    wait_until(DEADLINE, "its head is read", async || {
        let metrics = server.get("/metrics").await.body;
        metrics.contains("\nechopay_http_connections_open 2\n")
    })
    .await;
    stream
}

#[tokio::test]
async fn who_trickles_is_cut_off_at_the_end_of_the_grace() {
    let flags = ["--shutdown-grace-ms", "300", "--log-format", "json"];
    let mut server = TestServer::start_with(&flags).await;
    let mut slow = trickle(&server).await;
    server.signal(Signal::TERM);
    begun(&server).await;
    slow.write_all(b" ").await.unwrap();
    let status = server.wait_for_exit().await;
    assert!(status.success(), "{status}");
    logged(&server, "connections are cut off").await;
    let mut rest = String::new();
    let _reset = slow.read_to_string(&mut rest).await;
    assert_eq!(rest, "", "half a request has no answer");
}

#[tokio::test]
async fn a_second_signal_cuts_off_who_trickles() {
    let flags = ["--shutdown-grace-ms", "600000", "--log-format", "json"];
    let mut server = TestServer::start_with(&flags).await;
    let _slow = trickle(&server).await;
    server.signal(Signal::TERM);
    begun(&server).await;
    server.signal(Signal::INT);
    let status = server.wait_for_exit().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_subscriber_that_reads_nothing_holds_up_neither_the_others_nor_the_end() {
    let mut server = TestServer::start_with(&["--log-format", "json"]).await;
    assert_eq!(
        server.post_json(TRANSACTIONS, &transfer("1")).await.status,
        201
    );
    let mut deaf = WsClient::connect_narrow(server.addr()).await;
    let mut quick = WsClient::connect(server.addr()).await;
    deaf.subscribed(json!({"after_sequence": 0})).await;
    quick.subscribed(json!({"after_sequence": 0})).await;
    // More than the sockets take, less than the queue.
    let item: serde_json::Value = serde_json::from_str(&transfer("0.01")).unwrap();
    let batch = json!({"transactions": vec![item; 500]}).to_string();
    for _ in 0..3 {
        let answer = server.post_json("/api/v1/transactions/batch", &batch).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let (status, heard) = tokio::join!(server.terminate(), quick.hear_all());
    assert!(status.success(), "{status}");
    let closed = heard.closed.unwrap();
    assert_eq!(closed.code, 1012);
    assert_eq!(
        heard.updates.last().map(|update| update.sequence),
        Some(closed.resume_after() - 2),
        "told everything that was durable"
    );
    server.restart().await;
    assert_eq!(replayed(&server).await, 0);
}

/// Transfers that a start without a checkpoint has to replay.
const TO_REPLAY: u64 = 40_000;
const BATCH_ITEMS: u64 = 1_000;
/// A start that was ready before it heard the signal ends well too, and is tried again.
const TRIES: u32 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_replays_much_ends_when_asked_and_changes_nothing() {
    let mut server = TestServer::start().await;
    let batch = vec![transfer("0.01"); usize::try_from(BATCH_ITEMS).unwrap()].join(",");
    let batch = format!(r#"{{"transactions":[{batch}]}}"#);
    for _ in 0..TO_REPLAY / BATCH_ITEMS {
        let answer = server.post_json(BATCH, &batch).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let durable = sequence(&server).await;
    assert!(server.terminate().await.success());
    let stop = std::fs::read(server.data_dir().join("stop")).unwrap();
    std::fs::remove_dir_all(server.data_dir().join("checkpoint")).unwrap();
    let mut told_early = false;
    for _ in 0..TRIES {
        let starting = server.begin_restart();
        wait_until(DEADLINE, "the replay begins", async || {
            starting.log().contains("the journal is open")
        })
        .await;
        let (status, log) = starting.terminate().await;
        assert_eq!(status.code(), Some(0), "{log}");
        told_early = log.contains("told to stop before the books were open");
        if told_early {
            assert!(!log.contains("books are open"), "{log}");
            assert!(!server.data_dir().join("checkpoint").exists());
            assert_eq!(
                std::fs::read(server.data_dir().join("stop")).unwrap(),
                stop,
                "closed in order, where it was"
            );
            break;
        }
        let _made_by_a_start_that_was_ready =
            std::fs::remove_dir_all(server.data_dir().join("checkpoint"));
    }
    assert!(told_early, "each start replayed to its end first");
    let starting = server.begin_restart();
    server.finish_restart(starting).await;
    assert_eq!(sequence(&server).await, durable);
}
