//! `kill -9` under load, seen from both streams at once: a subscriber that resumes over every restart, and a real broker.

use crate::kafka::{assert_in_order, assert_transfers, load, published};
use crate::support::kafka::{Record, Topic};
use crate::support::server::{DEADLINE, TestServer, wait_until};
use crate::support::ws_client::WsClient;
use crate::ws_resume::{due, told};
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::block_in_place;

const KILLS: u64 = 10;

/// The records without the repeats that a crash may cause. A repeat is the same event again, never another one.
fn without_repeats(mut records: Vec<Record>) -> Vec<Record> {
    let mut seen: BTreeMap<u64, serde_json::Value> = BTreeMap::new();
    records.retain(|record| match seen.entry(record.sequence()) {
        Entry::Vacant(place) => {
            place.insert(record.json.clone());
            true
        }
        Entry::Occupied(known) => {
            assert_eq!(*known.get(), record.json, "one sequence, two events");
            false
        }
    });
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_leave_no_gap_and_no_repeat_for_a_subscriber_and_every_event_in_kafka() {
    let Some(topic) = block_in_place(|| Topic::shared("kills")) else {
        return;
    };
    let mut server = TestServer::start_with(&topic.flags_for_all_types()).await;
    let mut acknowledged = Vec::new();
    let mut heard = Vec::new();
    let mut subscribe = json!({"after_sequence": 0});
    for round in 0..KILLS {
        let mut subscriber = WsClient::connect(server.addr()).await;
        let answer = subscriber.subscribe(subscribe.clone()).await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
        let client = server.client();
        let done = AtomicU64::new(0);
        let killing = async {
            // Each round runs a little longer than the one before, so that kills hit different moments.
            wait_until(DEADLINE, "the load is under way", async || {
                done.load(Ordering::Relaxed) >= 100 + 31 * round
            })
            .await;
            block_in_place(|| server.kill9());
        };
        let (mut answered, (updates, _), ()) = tokio::join!(
            load(&client, u64::MAX, &done),
            subscriber.hear_end(),
            killing
        );
        acknowledged.append(&mut answered);
        heard.extend(updates);
        let place = heard.last().map_or(0, |update| update.sequence);
        subscribe = json!({"after_sequence": place, "journal": answer["journal"]});
        server.restart().await;
    }

    let last = published(&server).await;
    let all = due(&server, 0).await;
    let mut subscriber = WsClient::connect(server.addr()).await;
    assert_eq!(subscriber.subscribe(subscribe).await["type"], "subscribed");
    heard.extend(subscriber.hear_updates(all.len() - heard.len()).await);
    assert_eq!(told(&heard), all);
    subscriber.say(&json!({"type": "ping"})).await;
    let next = subscriber.hear().await;
    assert_eq!(next["type"], "pong", "and nothing more comes: {next}");

    let records = without_repeats(block_in_place(|| topic.read()));
    assert_in_order(&records);
    assert_transfers(&records, &acknowledged);
    // All types are shipped, so what the topic holds is the journal, number by number.
    let mut sequences: Vec<u64> = records.iter().map(Record::sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=last).collect::<Vec<_>>());
}
