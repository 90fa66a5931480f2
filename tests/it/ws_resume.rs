//! Slow readers, kills and shutdowns: nobody misses anything, and nothing is told twice.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::server::{DEADLINE, TestServer, wait_until};
use crate::support::ws_client::{Update, WsClient, transfer, transfer_body, wallet};
use serde_json::{Value, json};

/// What `GET /api/v1/events` says that subscribers to everything must hear behind `after`: sequence and status.
async fn due(server: &TestServer, after: u64) -> Vec<(u64, String)> {
    let mut due = Vec::new();
    let mut after = after;
    loop {
        let path = format!("/api/v1/events?after_sequence={after}&limit=1000");
        let page = server.get(&path).await.json();
        for event in page["events"].as_array().unwrap() {
            let kind = event["type"].as_str().unwrap();
            if kind.starts_with("transaction.") || kind == "fraud.score.updated" {
                let status = event["status"].as_str().unwrap().to_owned();
                due.push((event["sequence"].as_u64().unwrap(), status));
            }
        }
        let next = page["next_after_sequence"].as_u64().unwrap();
        if next == after {
            return due;
        }
        after = next;
    }
}

fn told(updates: &[Update]) -> Vec<(u64, String)> {
    updates
        .iter()
        .map(|update| (update.sequence, update.status.clone()))
        .collect()
}

/// Makes `count` transfers in batches, so that a queue fills faster than a test waits.
async fn transfer_batches(server: &TestServer, count: usize) {
    let one: Value = serde_json::from_str(&transfer_body(&wallet(1), &wallet(2))).unwrap();
    for _ in 0..count / 100 {
        let body = json!({"transactions": vec![one.clone(); 100]}).to_string();
        let response = server.post_json("/api/v1/transactions/batch", &body).await;
        assert_eq!(response.status, 200, "{}", response.body);
    }
}

async fn delivered(server: &TestServer) -> bool {
    let sequence = server.get("/api/v1/sequence").await.json();
    sequence["delivered"] == sequence["durable"]
}

#[tokio::test]
async fn a_slow_reader_is_closed_with_4008_and_its_place_while_another_hears_everything() {
    let server = TestServer::start_with(&["--ws-queue-bytes-max", "262144"]).await;
    transfer(&server, &wallet(1), &wallet(2)).await;
    let mut slow = WsClient::connect_narrow(server.addr()).await;
    let mut quick = WsClient::connect(server.addr()).await;
    let subscribed = slow.subscribe(json!({})).await;
    let start = subscribed["sequence"].as_u64().unwrap();
    quick.subscribed(json!({})).await;

    let mut quick_heard = Vec::new();
    for _ in 0..30 {
        transfer_batches(&server, 100).await;
        quick_heard.extend(quick.hear_updates(200).await);
    }
    let all = due(&server, start).await;
    assert_eq!(told(&quick_heard), all);

    let (slow_heard, closed) = slow.hear_end().await;
    let closed = closed.unwrap();
    assert_eq!(closed.code, 4008);
    let mut again = WsClient::connect(server.addr()).await;
    let resumed = again
        .subscribe(
            json!({"after_sequence": closed.resume_after(), "journal": subscribed["journal"]}),
        )
        .await;
    assert_eq!(resumed["sequence"], closed.resume_after());
    assert!(slow_heard.len() < all.len());
    let rest = again.hear_updates(all.len() - slow_heard.len()).await;
    assert_eq!([told(&slow_heard), told(&rest)].concat(), all);
}

#[tokio::test]
async fn resuming_after_a_kill_leaves_no_gap_and_repeats_nothing() {
    let mut server = TestServer::start().await;
    transfer(&server, &wallet(1), &wallet(2)).await;
    let mut client = WsClient::connect(server.addr()).await;
    let subscribed = client.subscribe(json!({})).await;
    let start = subscribed["sequence"].as_u64().unwrap();
    transfer_batches(&server, 500).await;
    let mut heard = client.hear_updates(300).await;
    server.kill9();
    let (rest, closed) = client.hear_end().await;
    heard.extend(rest);
    assert_eq!(closed, None, "a killed process says nothing");

    server.restart().await;
    transfer_batches(&server, 2_000).await;
    let mut client = WsClient::connect(server.addr()).await;
    let place = heard.last().unwrap().sequence;
    let resume = json!({"after_sequence": place, "journal": subscribed["journal"]});
    assert_eq!(client.subscribe(resume).await["type"], "subscribed");
    // Live while it still reads the past.
    transfer_batches(&server, 1_000).await;
    let all = due(&server, start).await;
    heard.extend(client.hear_updates(all.len() - heard.len()).await);
    assert_eq!(told(&heard), all);
    client.say(&json!({"type": "ping"})).await;
    assert_eq!(
        client.hear().await["type"],
        "pong",
        "and nothing more comes"
    );
}

#[tokio::test]
async fn a_place_of_another_journal_or_beyond_the_end_must_be_resynchronised() {
    let server = TestServer::start().await;
    transfer(&server, &wallet(1), &wallet(2)).await;
    let mut client = WsClient::connect(server.addr()).await;
    for fields in [
        json!({"after_sequence": 1_000_000}),
        json!({"after_sequence": 1, "journal": "00000000-0000-4000-8000-000000000000/1"}),
    ] {
        let error = client.subscribe(fields).await;
        assert_eq!(error["type"], "error", "{error}");
        assert_eq!(error["resync_required"], true, "{error}");
        assert_eq!(error["oldest_sequence"], 1, "{error}");
    }
    let from_the_start = client.subscribe(json!({"after_sequence": 0})).await;
    assert_eq!(from_the_start["sequence"], 0);
    let all = due(&server, 0).await;
    assert_eq!(told(&client.hear_updates(all.len()).await), all);
}

#[tokio::test]
async fn who_resumed_with_a_rare_filter_is_told_how_far_it_has_come() {
    let flags = ["--ws-ping-every-ms", "500", "--ws-pong-within-ms", "30000"];
    let server = TestServer::start_with(&flags).await;
    transfer(&server, &wallet(1), &wallet(2)).await;
    let mut client = WsClient::connect(server.addr()).await;
    client
        .subscribed(json!({"wallet_ids": [wallet(77)], "after_sequence": 0}))
        .await;
    let last = transfer(&server, &wallet(1), &wallet(2)).await["sequence"]
        .as_u64()
        .unwrap();
    loop {
        let position = client.hear().await;
        assert_eq!(position["type"], "position", "{position}");
        if position["sequence"].as_u64().unwrap() >= last {
            break;
        }
    }
}

#[tokio::test]
async fn a_shutdown_tells_everyone_where_to_resume() {
    let mut server = TestServer::start().await;
    transfer(&server, &wallet(1), &wallet(2)).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = WsClient::connect(server.addr()).await;
        client.subscribed(json!({})).await;
        clients.push(client);
    }
    let last = transfer(&server, &wallet(1), &wallet(2)).await["sequence"]
        .as_u64()
        .unwrap();
    wait_until(DEADLINE, "everything is delivered", async || {
        delivered(&server).await
    })
    .await;
    let hear = async {
        for client in &mut clients {
            let (updates, closed) = client.hear_end().await;
            let closed = closed.unwrap();
            assert_eq!(updates.len(), 2);
            assert_eq!((closed.code, closed.resume_after()), (1012, last));
        }
    };
    let (status, ()) = tokio::join!(server.terminate(), hear);
    assert!(status.success(), "{status}");

    server.restart().await;
    let mut client = WsClient::connect(server.addr()).await;
    client.subscribed(json!({"after_sequence": last})).await;
    transfer(&server, &wallet(1), &wallet(2)).await;
    assert_eq!(
        told(&client.hear_updates(2).await),
        due(&server, last).await
    );
}
