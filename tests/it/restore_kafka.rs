//! A restored copy meets the topic that the original has shipped to: what is there of both is not shipped again, what is
//! missing comes, and where the original went on the operator is asked.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::export_import::{bring, epoch_of, every_kind, tool};
use crate::kafka::{load, published};
use crate::support::http::{number_at, text_at};
use crate::support::kafka::ALL_TYPES;
use crate::support::kafka::{Broker, Record, read_all};
use crate::support::server::{DEADLINE, TestServer, wait_until};
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use tempfile::TempDir;
use tokio::task::block_in_place;

struct Rig {
    broker: &'static Broker,
    topic: String,
    files: TempDir,
}

impl Rig {
    fn new() -> Option<Self> {
        Some(Self {
            broker: block_in_place(Broker::shared)?,
            topic: Broker::fresh_topic("restored"),
            files: TempDir::new().unwrap(),
        })
    }

    fn flags<'r>(&'r self, more: &[&'r str]) -> Vec<&'r str> {
        let own = [
            "--kafka-brokers",
            self.broker.addresses(),
            "--kafka-topic",
            &self.topic,
            "--kafka-event-types",
            ALL_TYPES,
        ];
        [&own, more].concat()
    }

    fn records(&self) -> Vec<Record> {
        block_in_place(|| read_all(self.broker.addresses(), &self.topic))
    }

    /// Takes a backup; gives the last sequence in it, and the journal's name.
    async fn backup(&self, server: &TestServer) -> (u64, String) {
        let file = self.files.path().join("backup");
        let args = ["backup", file.to_str().unwrap(), "--url", &server.url("")];
        let report = tool(&args, 0).await;
        (number_at(&report, "/last"), text_at(&report, "/journal"))
    }

    async fn restore(&self) -> (TempDir, String) {
        let (folder, report) = bring("restore", &self.files.path().join("backup")).await;
        (folder, text_at(&report, "/journal"))
    }
}

/// The sequences of the records of `journal`, each of which must stand there once.
#[track_caller]
fn sequences(records: &[Record], journal: &str) -> BTreeSet<u64> {
    let of_it = records
        .iter()
        .filter(|record| record.text("journal") == journal);
    let mut found = BTreeSet::new();
    for record in of_it {
        assert!(found.insert(record.sequence()), "twice: {}", record.json);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_end_goes_on_by_itself_and_repeats_nothing() {
    let Some(rig) = Rig::new() else { return };
    let mut original = TestServer::start_with(&rig.flags(&[])).await;
    load(&original.client(), 200, &AtomicU64::new(0)).await;
    let shipped = published(&original).await;
    // What the copy has to ship of before the backup: brokers that cannot be reached.
    original
        .restart_with(&[
            "--kafka-brokers",
            "127.0.0.1:1",
            "--kafka-drain-timeout-ms",
            "1",
        ])
        .await;
    load(&original.client(), 100, &AtomicU64::new(0)).await;
    let (backed_up, old) = rig.backup(&original).await;
    assert!(backed_up > shipped);
    original.kill9();

    let (folder, new) = rig.restore().await;
    let copy = TestServer::launch("dev", &rig.flags(&[]), folder).await;
    every_kind(&copy).await;
    let last = published(&copy).await;
    let records = rig.records();
    let (by_old, by_new) = (sequences(&records, &old), sequences(&records, &new));
    assert_eq!(by_old, (1..=shipped).collect(), "of the original");
    assert_eq!(by_new, (shipped + 1..=last).collect(), "of the copy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_the_original_outran_asks_and_then_loses_and_mixes_nothing() {
    let Some(rig) = Rig::new() else { return };
    let mut original = TestServer::start_with(&rig.flags(&[])).await;
    load(&original.client(), 200, &AtomicU64::new(0)).await;
    let (backed_up, old) = rig.backup(&original).await;
    load(&original.client(), 100, &AtomicU64::new(0)).await;
    let outran = published(&original).await;
    assert!(outran > backed_up);
    assert!(original.terminate().await.success());

    let (folder, new) = rig.restore().await;
    assert!(epoch_of(&new) > epoch_of(&old));
    let mut copy = TestServer::launch("dev", &rig.flags(&[]), folder).await;
    // More than the original had, so that no number alone tells the two apart.
    load(&copy.client(), 200, &AtomicU64::new(0)).await;
    wait_until(DEADLINE, "it says that it has stopped", async || {
        let ready = copy.get("/readyz").await;
        ready.body.contains("another copy went on")
    })
    .await;
    let metrics = copy.get("/metrics").await.body;
    assert!(
        metrics.contains("echopay_kafka_state{state=\"stopped\"} 1"),
        "{metrics}"
    );
    assert!(copy.log().contains("decide with --kafka-on-new-cluster"));
    let marks = copy.get("/api/v1/sequence").await.json();
    assert!(number_at(&marks, "/durable") > outran, "writes go on");
    assert!(sequences(&rig.records(), &new).is_empty());

    copy.restart_with(&rig.flags(&["--kafka-on-new-cluster", "continue"]))
        .await;
    let last = published(&copy).await;
    let records = rig.records();
    assert_eq!(sequences(&records, &old), (1..=outran).collect());
    assert_eq!(sequences(&records, &new), (backed_up + 1..=last).collect());
    let ids: BTreeSet<&str> = records.iter().map(|record| record.text("id")).collect();
    assert_eq!(ids.len(), records.len(), "an id stands twice");

    // The answer holds: a restart asks nothing and repeats nothing.
    copy.restart_with(&rig.flags(&[])).await;
    every_kind(&copy).await;
    let last = published(&copy).await;
    let records = rig.records();
    assert_eq!(sequences(&records, &new), (backed_up + 1..=last).collect());
}
