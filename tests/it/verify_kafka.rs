//! `echopay verify --kafka` against a real broker: a topic as the service left it, and copies of it that somebody has
//! tampered with.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::http::{TRANSACTIONS, sequence, transfer, transfer_with};
use crate::support::kafka::{Broker, read_all};
use crate::support::server::{TestServer, run_to_end};
use echopay::cli::Exit;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const PARTITIONS: i32 = 6;

/// A record as its bytes.
#[derive(Clone, Debug)]
struct Raw {
    partition: i32,
    key: Vec<u8>,
    payload: String,
}

/// Everything in the topic, partition by partition.
fn read_raw(addresses: &str, topic: &str) -> Vec<Raw> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", addresses)
        .set("group.id", "echopay-tests")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut records = Vec::new();
    for partition in 0..PARTITIONS {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition, PATIENCE)
            .unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(low))
            .unwrap();
        consumer.assign(&list).unwrap();
        for _ in low..high {
            let message = consumer.poll(PATIENCE).unwrap().unwrap();
            records.push(Raw {
                partition,
                key: message.key().unwrap().to_vec(),
                payload: String::from_utf8(message.payload().unwrap().to_vec()).unwrap(),
            });
        }
    }
    records
}

fn write_raw(addresses: &str, topic: &str, records: &[Raw]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", addresses)
        .set("enable.idempotence", "true")
        .create()
        .unwrap();
    for record in records {
        let outgoing = BaseRecord::to(topic)
            .partition(record.partition)
            .key(&record.key)
            .payload(&record.payload);
        producer.send(outgoing).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

async fn verify(data_dir: &Path, brokers: &str, topic: &str) -> (Option<i32>, Value) {
    let data_dir = data_dir.to_str().unwrap();
    let args = ["verify", "--json", "--kafka", "--data-dir", data_dir];
    let kafka = ["--kafka-brokers", brokers, "--kafka-topic", topic];
    let output = run_to_end(&[args.as_slice(), &kafka].concat()).await;
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), serde_json::from_str(&text).unwrap())
}

/// Everything of its kind goes wrong with what `what` says, and only that.
#[track_caller]
fn assert_finds((code, report): &(Option<i32>, Value), what: &[&str]) {
    assert_eq!(*code, Some(i32::from(Exit::Damaged.code())), "{report}");
    let findings = report["findings"].as_array().unwrap();
    let reasons = findings
        .iter()
        .map(|finding| finding["reason"].as_str().unwrap());
    for reason in reasons.clone() {
        assert!(what.iter().any(|what| reason.contains(what)), "{report}");
    }
    for what in what {
        assert!(
            reasons.clone().any(|reason| reason.contains(what)),
            "no {what}: {report}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_whole_or_each_tampering_is_found() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("verify");
    let addresses = broker.addresses();
    let flags = ["--kafka-brokers", addresses, "--kafka-topic", &topic];
    let mut server = TestServer::start_with(&flags).await;
    for _ in 0..40 {
        let paid = server.post_json(TRANSACTIONS, &transfer("0.25")).await;
        assert_eq!(paid.status, 201, "{}", paid.body);
    }
    let hold = transfer_with(r#""hold":true,"expires_in_seconds":3600"#);
    let pending = server.post_json(TRANSACTIONS, &hold).await;
    assert_eq!(pending.status, 201, "{}", pending.body);
    let durable = sequence(&server).await;
    assert!(server.terminate().await.success());

    let (code, report) = verify(server.data_dir(), addresses, &topic).await;
    assert_eq!(code, Some(0), "{report}");
    let shipped = u64::try_from(read_all(addresses, &topic).len()).unwrap();
    assert_eq!(report["kafka"]["in_place"], shipped);
    assert_eq!(report["cursor"]["published"], durable);
    assert_eq!(report["warnings"], Value::Array(Vec::new()));

    let whole = read_raw(addresses, &topic);
    // Two of the same partition, far from its ends.
    let busiest = (0..PARTITIONS)
        .max_by_key(|p| whole.iter().filter(|record| record.partition == *p).count())
        .unwrap();
    let start = whole
        .iter()
        .position(|record| record.partition == busiest)
        .unwrap();
    let at = start + 9;
    assert_eq!(whole[at + 1].partition, busiest);
    let replace = |records: &[Raw]| {
        // The helpers have runtimes of their own.
        tokio::task::block_in_place(|| {
            broker.delete_topic(&topic);
            broker.create_topic(&topic, PARTITIONS, &[]);
            write_raw(addresses, &topic, records);
        });
    };

    let mut records = whole.clone();
    records.remove(at);
    replace(&records);
    let missing = format!("partition {busiest} lacks 1 of its events");
    let ends = format!("partition {busiest} ends before");
    let found = verify(server.data_dir(), addresses, &topic).await;
    assert_finds(&found, &[&missing, &ends]);

    let mut records = whole.clone();
    records[at].payload = records[at].payload.replace("0.25", "0.26");
    assert_ne!(records[at].payload, whole[at].payload);
    replace(&records);
    let found = verify(server.data_dir(), addresses, &topic).await;
    assert_finds(&found, &["has another payload than the journal gives"]);

    let mut records = whole.clone();
    let elsewhere = (busiest + 1) % PARTITIONS;
    records[at].partition = elsewhere;
    replace(&records);
    let found = verify(server.data_dir(), addresses, &topic).await;
    let wrong = format!("belongs to partition {busiest}");
    // It shifts what follows, so that the cursor's record stands elsewhere too.
    assert_finds(&found, &[&wrong, &missing, &ends]);

    let mut records = whole.clone();
    records.swap(at, at + 1);
    replace(&records);
    let found = verify(server.data_dir(), addresses, &topic).await;
    assert_finds(&found, &[&missing, "stands behind event"]);

    let mut records = whole.clone();
    records.push(whole[at].clone());
    records.push(Raw {
        payload: "no event".into(),
        ..whole[at].clone()
    });
    replace(&records);
    let (code, report) = verify(server.data_dir(), addresses, &topic).await;
    assert_eq!(code, Some(0), "the default delivery may repeat: {report}");
    assert_eq!(report["kafka"]["repeats"], 1);
    assert_eq!(report["kafka"]["foreign"], 1);
    assert_eq!(report["kafka"]["in_place"], shipped);
    assert!(
        report["warnings"].to_string().contains("1 records repeat"),
        "{report}"
    );

    delete_before(addresses, &topic, busiest, 9);
    let (code, report) = verify(server.data_dir(), addresses, &topic).await;
    assert_eq!(code, Some(0), "retention is no fault: {report}");
    assert_eq!(report["kafka"]["deleted"], 9);
    assert!(report["kafka"]["checked_from"].as_u64().unwrap() > 1);

    tokio::task::block_in_place(|| broker.delete_topic(&topic));
    let (code, report) = verify(server.data_dir(), addresses, &topic).await;
    assert_eq!(code, Some(i32::from(Exit::Unavailable.code())), "{report}");
    assert!(report["error"].to_string().contains(&topic), "{report}");
}

/// What retention does: the partition begins at `offset` from now on.
fn delete_before(addresses: &str, topic: &str, partition: i32, offset: i64) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", addresses)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))
        .unwrap();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let deleted = admin.delete_records(&list, &options);
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(deleted).unwrap();
    });
}

#[tokio::test]
async fn brokers_out_of_reach_are_told_by_a_code_of_their_own() {
    let mut server = TestServer::start().await;
    let paid = server.post_json(TRANSACTIONS, &transfer("1")).await;
    assert_eq!(paid.status, 201, "{}", paid.body);
    assert!(server.terminate().await.success());
    let (code, report) = verify(server.data_dir(), "127.0.0.1:1", "t").await;
    assert_eq!(code, Some(i32::from(Exit::Unavailable.code())), "{report}");
    // The journal was closed in order all the same.
    let (code, report) = verify(server.data_dir(), "127.0.0.1:1", "t").await;
    assert_eq!(code, Some(i32::from(Exit::Unavailable.code())), "{report}");
}
