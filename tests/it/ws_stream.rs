//! What subscribers hear of the real binary, message by message.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::server::TestServer;
use crate::support::ws_client::{Update, WsClient, transfer, transfer_body, wallet};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use tokio_tungstenite::tungstenite::Message;

/// A server whose wallets 1 to 3 exist, and a client of it.
async fn start() -> (TestServer, WsClient) {
    let server = TestServer::start().await;
    transfer(&server, &wallet(1), &wallet(2)).await;
    transfer(&server, &wallet(1), &wallet(3)).await;
    let client = WsClient::connect(server.addr()).await;
    (server, client)
}

fn id(answer: &Value) -> String {
    answer["transaction_id"].as_str().unwrap().to_owned()
}

async fn patch(server: &TestServer, id: &str, what: &str, body: Value) -> u16 {
    let path = format!("/api/v1/transactions/{id}/{what}");
    server.patch_json(&path, &body.to_string()).await.status
}

#[tokio::test]
async fn a_transfer_is_heard_as_pending_then_completed_with_rising_sequences() {
    let (server, mut client) = start().await;
    let subscribed = client.subscribe(json!({})).await;
    assert_eq!(subscribed["type"], "subscribed");
    let info = server.get("/api/v1/ws/info").await.json();
    assert_eq!(subscribed["journal"], info["journal"]);
    assert_eq!(info["active_connections"], 1);

    let answer = transfer(&server, &wallet(1), &wallet(2)).await;
    let heard = client.hear_updates(2).await;
    assert_eq!(heard[0].message, "Transaction created and processing");
    assert_eq!(heard[1].message, "Transaction completed successfully");
    assert_eq!(
        [&heard[0].status, &heard[1].status],
        ["pending", "completed"]
    );
    assert!(heard.iter().all(|update| update.transaction == id(&answer)));
    let start = subscribed["sequence"].as_u64().unwrap();
    let last = answer["sequence"].as_u64().unwrap();
    assert_eq!(
        [heard[0].sequence, heard[1].sequence],
        [start + 1, start + 2]
    );
    assert_eq!(
        last,
        start + 4,
        "two balance events follow, which are no status updates"
    );
}

#[tokio::test]
async fn filters_join_dimensions_by_and_and_values_by_or() {
    let (server, mut client) = start().await;
    let receiver = client
        .subscribed(json!({"wallet_ids": [wallet(2), wallet(9)]}))
        .await;
    let done = client
        .subscribed(json!({"wallet_ids": [wallet(1)], "statuses": ["completed", "failed"]}))
        .await;

    transfer(&server, &wallet(1), &wallet(3)).await;
    let heard = client.hear_update().await;
    assert_eq!(
        (heard.status.as_str(), heard.subscribers),
        ("completed", vec![done.clone()])
    );

    transfer(&server, &wallet(2), &wallet(3)).await;
    let heard = client.hear_updates(2).await;
    assert!(
        heard
            .iter()
            .all(|update| update.subscribers == [receiver.as_str()])
    );

    let both = transfer(&server, &wallet(1), &wallet(2)).await;
    let heard = client.hear_updates(2).await;
    assert_eq!(heard[0].subscribers, [receiver.as_str()]);
    let ids: HashSet<&String> = heard[1].subscribers.iter().collect();
    assert_eq!(
        ids,
        HashSet::from([&receiver, &done]),
        "one message for both"
    );

    client
        .say(&json!({"type": "unsubscribe", "subscriber_id": receiver}))
        .await;
    assert_eq!(client.hear().await["type"], "unsubscribed");
    let one = client
        .subscribed(json!({"transaction_ids": [id(&both)]}))
        .await;
    client
        .say(&json!({"type": "unsubscribe", "subscriber_id": done}))
        .await;
    assert_eq!(client.hear().await["type"], "unsubscribed");
    transfer(&server, &wallet(1), &wallet(2)).await;
    assert_eq!(
        patch(&server, &id(&both), "status", json!({"status": "reversed"})).await,
        200
    );
    let heard = client.hear_update().await;
    assert_eq!(
        (heard.status.as_str(), heard.subscribers),
        ("reversed", vec![one])
    );
}

#[tokio::test]
async fn scores_reversals_and_holds_have_their_texts() {
    let (server, mut client) = start().await;
    let paid = id(&transfer(&server, &wallet(1), &wallet(2)).await);
    client.subscribed(json!({})).await;
    for (score, text) in [
        (json!(0.71), "High fraud risk detected"),
        (json!(0.7), "Medium fraud risk detected"),
        (json!(0.3), "Low fraud risk"),
    ] {
        let body = json!({ "score": score });
        assert_eq!(patch(&server, &paid, "fraud-score", body).await, 200);
        let heard = client.hear().await;
        assert_eq!(heard["data"]["message"], text);
        assert_eq!(heard["data"]["fraud_score"], score);
        assert_eq!(heard["data"]["status"], "completed");
    }
    assert_eq!(
        patch(&server, &paid, "status", json!({"status": "reversed"})).await,
        200
    );
    let heard = client.hear().await;
    assert_eq!(heard["data"]["message"], "Transaction reversed");
    assert_eq!(heard["data"]["fraud_score"], json!(0.3), "the score stays");

    for (end, text) in [
        ("completed", "Transaction completed"),
        ("failed", "Transaction failed"),
    ] {
        let mut body: Value = serde_json::from_str(&transfer_body(&wallet(1), &wallet(2))).unwrap();
        body["hold"] = json!(true);
        body["expires_in_seconds"] = json!(600);
        let held = server
            .post_json("/api/v1/transactions", &body.to_string())
            .await
            .json();
        assert_eq!(
            client.hear_update().await.message,
            "Transaction created and processing"
        );
        assert_eq!(
            patch(&server, &id(&held), "status", json!({ "status": end })).await,
            200
        );
        let heard = client.hear_update().await;
        assert_eq!((heard.status.as_str(), heard.message.as_str()), (end, text));
    }

    let mut body: Value = serde_json::from_str(&transfer_body(&wallet(1), &wallet(2))).unwrap();
    body["amount"] = json!(999_999_999);
    assert_eq!(
        server
            .post_json("/api/v1/transactions", &body.to_string())
            .await
            .status,
        402
    );
    let heard = client.hear_updates(2).await;
    assert_eq!([&heard[0].status, &heard[1].status], ["pending", "failed"]);
    assert_eq!(heard[1].message, "Transaction failed");
}

#[tokio::test]
async fn pings_go_both_ways_and_what_is_not_understood_is_answered() {
    let flags = ["--ws-ping-every-ms", "1000", "--ws-pong-within-ms", "30000"];
    let server = TestServer::start_with(&flags).await;
    let mut client = WsClient::connect(server.addr()).await;
    client.say(&json!({"type": "ping"})).await;
    let pong = client.hear().await;
    assert_eq!(pong["type"], "pong");
    assert!(pong["timestamp"].is_string());
    client.say_raw(Message::Ping("abc".into())).await;
    assert_eq!(
        client.hear_raw().await.unwrap().unwrap(),
        Message::Pong("abc".into())
    );
    client.say_raw(Message::text("{\"type\":")).await;
    assert_eq!(client.hear().await["type"], "error");
    client.say(&json!({"type": "dance"})).await;
    assert_eq!(
        client.hear().await["data"]["message"],
        "unknown message type"
    );
    loop {
        if let Message::Ping(_) = client.hear_raw().await.unwrap().unwrap() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test's clients are no tasks of the service"
)]
async fn a_subscriber_on_everything_hears_exactly_two_updates_of_each_transfer() {
    const WRITERS: u32 = 8;
    const TRANSFERS: usize = 400;
    let server = TestServer::start().await;
    for number in 0..WRITERS {
        transfer(&server, &wallet(number), &wallet(number + 100)).await;
    }
    let mut client = WsClient::connect(server.addr()).await;
    client.subscribed(json!({})).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let http = server.client();
            let body = transfer_body(&wallet(number), &wallet(number + 100));
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for _ in 0..TRANSFERS {
                    let response = http.post_json("/api/v1/transactions", &body).await;
                    assert_eq!(response.status, 201, "{}", response.body);
                    ids.push(id(&response.json()));
                }
                ids
            })
        })
        .collect();

    let heard = client.hear_updates(WRITERS as usize * TRANSFERS * 2).await;
    assert!(
        heard.is_sorted_by(|one, next| one.sequence < next.sequence),
        "in order, once"
    );
    let mut by_transaction: HashMap<String, Vec<String>> = HashMap::new();
    for Update {
        transaction,
        status,
        ..
    } in heard
    {
        by_transaction.entry(transaction).or_default().push(status);
    }
    for writer in writers {
        for id in writer.await.unwrap() {
            assert_eq!(
                by_transaction.remove(&id).unwrap(),
                ["pending", "completed"]
            );
        }
    }
    assert!(by_transaction.is_empty(), "nothing else was heard");
    client.say(&json!({"type": "ping"})).await;
    assert_eq!(
        client.hear().await["type"],
        "pong",
        "and nothing more comes"
    );
}
