//! From a request over HTTP to the events in Kafka, through the real binary and a real broker: none missing, none
//! twice, in order, whatever is killed meanwhile.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::kafka::{Broker, Record, Topic};
use crate::support::server::{Client, DEADLINE, TestServer, wait_until};
use echopay::pipeline::partition_of;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::block_in_place;

const CLIENTS: u64 = 32;
const WALLETS: u64 = 100;
/// The topic that the service makes.
const PARTITIONS: u32 = 6;

/// A transfer that the service acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    transaction: String,
    from: String,
    to: String,
    amount_cents: i64,
    sequence: u64,
}

impl Acknowledged {
    /// Its id.
    pub(crate) fn transaction(&self) -> &str {
        &self.transaction
    }

    /// Where it can be read.
    pub(crate) fn path(&self) -> String {
        format!("/api/v1/transactions/{}", self.transaction)
    }

    /// Whether one of its events is among `sequences`.
    pub(crate) fn any_of(&self, sequences: &BTreeSet<u64>) -> bool {
        sequences
            .range(self.sequence - 3..=self.sequence)
            .next()
            .is_some()
    }
}

fn wallet(number: u64) -> String {
    format!("00000000-0000-4000-8000-{:012x}", number + 1)
}

/// The `n`-th transfer of a load: from, to, cents. The same each time.
fn transfer(n: u64) -> (String, String, i64) {
    let from = n.wrapping_mul(7) % WALLETS;
    let to = (from + 1 + n % (WALLETS - 1)) % WALLETS;
    (
        wallet(from),
        wallet(to),
        i64::try_from(n % 250).unwrap() + 1,
    )
}

/// `count` transfers by [`CLIENTS`] clients at a time. Ends early where the server does not answer any more; any
/// answer but 201 fails the test.
pub(crate) async fn load(client: &Client, count: u64, done: &AtomicU64) -> Vec<Acknowledged> {
    let next = AtomicU64::new(0);
    let workers = (0..CLIENTS).map(|_| async {
        let mut acknowledged = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return acknowledged;
            }
            let (from, to, cents) = transfer(n);
            let body = format!(
                r#"{{"from_wallet":"{from}","to_wallet":"{to}","amount":"{}.{:02}","currency":"USD-CBDC"}}"#,
                cents / 100,
                cents % 100
            );
            let headers = [("content-type", "application/json")];
            let path = "/api/v1/transactions";
            let Ok(answer) = client.try_request("POST", path, &headers, &body).await else {
                return acknowledged;
            };
            assert_eq!(answer.status, 201, "{}", answer.body);
            let json = answer.json();
            acknowledged.push(Acknowledged {
                transaction: json["transaction_id"].as_str().unwrap().into(),
                from,
                to,
                amount_cents: cents,
                sequence: json["sequence"].as_u64().unwrap(),
            });
            done.fetch_add(1, Ordering::Relaxed);
        }
    });
    join_all(workers).await.into_iter().flatten().collect()
}

async fn whole_load(server: &TestServer, count: u64) -> Vec<Acknowledged> {
    let acknowledged = load(&server.client(), count, &AtomicU64::new(0)).await;
    assert_eq!(
        u64::try_from(acknowledged.len()).unwrap(),
        count,
        "every transfer was answered"
    );
    acknowledged
}

/// Waits until Kafka has acknowledged all that is durable; gives the last sequence.
pub(crate) async fn published(server: &TestServer) -> u64 {
    let mut last = 0;
    wait_until(DEADLINE, "everything durable is published", async || {
        let marks = server.get("/api/v1/sequence").await.json();
        last = marks["durable"].as_u64().unwrap();
        marks["published"].as_u64() == Some(last)
    })
    .await;
    last
}

fn cents(record: &Record, field: &str) -> i64 {
    let text = record.json[field].to_string();
    let (negative, digits) = text
        .strip_prefix('-')
        .map_or((false, text.as_str()), |t| (true, t));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let amount: i64 = format!("{whole}{fraction:0<2}")
        .parse()
        .expect("at most two decimals");
    if negative { -amount } else { amount }
}

/// What holds for every topic: no event twice, each in the partition of its key, sequences rising within it, and the
/// balances of a wallet a chain from zero on.
#[track_caller]
pub(crate) fn assert_in_order(records: &[Record]) {
    let mut seen = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let mut newest: BTreeMap<i32, u64> = BTreeMap::new();
    let mut balances: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for record in records {
        assert!(seen.insert(record.sequence()), "twice: {}", record.json);
        assert!(
            ids.insert(record.text("id")),
            "an id twice: {}",
            record.json
        );
        let partition = u32::try_from(record.partition).unwrap();
        assert_eq!(
            partition,
            partition_of(record.key.as_bytes(), PARTITIONS),
            "{}",
            record.json
        );
        let before = newest
            .insert(record.partition, record.sequence())
            .unwrap_or(0);
        assert!(
            before < record.sequence(),
            "after {before}: {}",
            record.json
        );
        if record.text("type") == "balance.updated" {
            assert_eq!(record.key, record.text("wallet_id"));
            let account = (record.text("wallet_id"), record.text("currency"));
            let old = balances
                .insert(account, cents(record, "new_balance"))
                .unwrap_or(0);
            assert_eq!(
                cents(record, "old_balance"),
                old,
                "the chain breaks at {}",
                record.json
            );
        }
    }
}

/// The four events of each acknowledged transfer, with the right keys, amounts and states; beside them only the
/// issuances that opened the wallets.
#[track_caller]
pub(crate) fn assert_transfers(records: &[Record], acknowledged: &[Acknowledged]) {
    let mut by_transaction: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records
        .iter()
        .filter(|record| record.text("type") != "wallet.opened")
    {
        by_transaction
            .entry(record.text("transaction_id"))
            .or_default()
            .push(record);
    }
    for transfer in acknowledged {
        let mut events = by_transaction
            .remove(transfer.transaction.as_str())
            .unwrap_or_default();
        events.sort_by_key(|record| record.sequence());
        let sequences: Vec<u64> = events.iter().map(|record| record.sequence()).collect();
        let last = transfer.sequence;
        assert_eq!(
            sequences,
            [last - 3, last - 2, last - 1, last],
            "{transfer:?}"
        );
        let told: Vec<(&str, &str)> = events
            .iter()
            .map(|r| (r.text("type"), r.key.as_str()))
            .collect();
        let (from, to) = (transfer.from.as_str(), transfer.to.as_str());
        let expected = [
            ("transaction.created", from),
            ("transaction.completed", from),
            ("balance.updated", from),
            ("balance.updated", to),
        ];
        assert_eq!(told, expected, "{transfer:?}");
        for (event, status) in events.iter().zip(["pending", "completed"]) {
            assert_eq!(event.text("status"), status);
            assert_eq!(event.text("from_wallet"), from);
            assert_eq!(event.text("to_wallet"), to);
            assert_eq!(cents(event, "amount"), transfer.amount_cents);
        }
        let change = |event: &Record| cents(event, "new_balance") - cents(event, "old_balance");
        assert_eq!(change(events[2]), -transfer.amount_cents);
        assert_eq!(change(events[3]), transfer.amount_cents);
    }
    let mut opened = BTreeSet::new();
    for (transaction, events) in by_transaction {
        let types: Vec<&str> = events.iter().map(|record| record.text("type")).collect();
        if types.len() == 4 {
            // Under way when the server was killed: decided, but nobody was told.
            continue;
        }
        assert_eq!(
            types.len(),
            3,
            "neither a transfer nor an issuance: {transaction}"
        );
        assert!(
            opened.insert(events[0].key.clone()),
            "opened twice: {}",
            events[0].key
        );
        assert!(
            events.iter().all(|event| event.key == events[0].key),
            "{transaction}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_ten_thousand_transfers_has_its_four_events_in_kafka() {
    let Some(topic) = block_in_place(|| Topic::shared("load")) else {
        return;
    };
    let server = TestServer::start_with(&topic.flags()).await;
    let acknowledged = whole_load(&server, 10_000).await;
    published(&server).await;
    let records = block_in_place(|| topic.read());
    assert_in_order(&records);
    assert_transfers(&records, &acknowledged);
    let wallets = usize::try_from(WALLETS).unwrap();
    assert_eq!(
        records.len(),
        4 * acknowledged.len() + 3 * wallets,
        "and nothing else"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_in_mid_load_costs_no_write_and_no_event() {
    let Some(mut broker) = block_in_place(Broker::own) else {
        return;
    };
    let topic = Topic::on(&broker, "killed");
    let server = TestServer::start_with(&topic.flags()).await;
    let done = AtomicU64::new(0);
    let client = server.client();
    let count = 4_000;
    let killing = async {
        wait_until(DEADLINE, "the load is under way", async || {
            done.load(Ordering::Relaxed) >= count / 4
        })
        .await;
        block_in_place(|| broker.kill9());
    };
    let (acknowledged, ()) = tokio::join!(load(&client, count, &done), killing);
    assert_eq!(
        u64::try_from(acknowledged.len()).unwrap(),
        count,
        "no write was refused"
    );
    let marks = server.get("/api/v1/sequence").await.json();
    assert!(
        marks["published"].as_u64() < marks["durable"].as_u64(),
        "{marks}"
    );
    assert_eq!(
        server.get("/readyz").await.status,
        200,
        "Kafka is not needed to take payments"
    );
    block_in_place(|| broker.restart());
    published(&server).await;
    let records = block_in_place(|| topic.read());
    assert_in_order(&records);
    assert_transfers(&records, &acknowledged);
    let wallets = usize::try_from(WALLETS).unwrap();
    assert_eq!(records.len(), 4 * acknowledged.len() + 3 * wallets);
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_configured_later_get_all_of_the_past() {
    let Some(topic) = block_in_place(|| Topic::shared("later")) else {
        return;
    };
    let mut server = TestServer::start().await;
    let acknowledged = whole_load(&server, 1_000).await;
    let marks = server.get("/api/v1/sequence").await.json();
    assert_eq!(marks["published"].as_u64(), Some(0), "{marks}");
    server.restart_with(&topic.flags()).await;
    published(&server).await;
    let records = block_in_place(|| topic.read());
    assert_in_order(&records);
    assert_transfers(&records, &acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_under_load_has_every_event_in_kafka_after_its_restart() {
    let Some(topic) = block_in_place(|| Topic::shared("crash")) else {
        return;
    };
    let mut server = TestServer::start_with(&topic.flags_for_all_types()).await;
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        let done = AtomicU64::new(0);
        let client = server.client();
        let killing = async {
            wait_until(DEADLINE, "the load is under way", async || {
                done.load(Ordering::Relaxed) >= 700
            })
            .await;
            block_in_place(|| server.kill9());
        };
        let (mut answered, ()) = tokio::join!(load(&client, u64::MAX, &done), killing);
        acknowledged.append(&mut answered);
        server.restart().await;
    }
    let last = published(&server).await;
    let records = block_in_place(|| topic.read());
    assert_in_order(&records);
    assert_transfers(&records, &acknowledged);
    // All types are shipped, so what the topic holds is the journal, number by number.
    let sequences: BTreeSet<u64> = records.iter().map(Record::sequence).collect();
    assert!(
        sequences.iter().copied().eq(1..=last),
        "{} of {last} events",
        sequences.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_the_acknowledgements() {
    let Some(topic) = block_in_place(|| Topic::shared("stop")) else {
        return;
    };
    let mut server = TestServer::start_with(&topic.flags()).await;
    let acknowledged = whole_load(&server, 500).await;
    assert!(server.terminate().await.success());
    let records = block_in_place(|| topic.read());
    assert_in_order(&records);
    assert_transfers(&records, &acknowledged);
}

#[tokio::test]
async fn writes_go_on_while_the_broker_refuses_and_the_lag_shows() {
    // Bound and never listening: whoever connects is refused, and nobody else gets the port.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    let server = TestServer::start_with(&["--kafka-brokers", &address]).await;
    let acknowledged = whole_load(&server, 100).await;
    wait_until(DEADLINE, "the refusal is logged", async || {
        server.log().contains("connecting anew")
    })
    .await;
    let metrics = server.get("/metrics").await.body;
    let shows = |line: &str| metrics.lines().any(|told| told == line);
    assert!(
        shows(r#"echopay_kafka_state{state="connecting"} 1"#),
        "{metrics}"
    );
    let durable = acknowledged.iter().map(|done| done.sequence).max().unwrap();
    assert!(
        shows(&format!("echopay_kafka_lag_events {durable}")),
        "{metrics}"
    );
    assert_eq!(server.get("/readyz").await.status, 200);
    whole_load(&server, 100).await;
}
