//! Kafka on its worst day, second part: the topic or the whole cluster is not what it was. It is noticed, shipping
//! stops where going on would leave a hole without a word, payments go on, and the operator decides.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::kafka::Broker;
use crate::support::worst_day::Day;
use serde_json::json;
use std::collections::BTreeSet;
use tokio::task::block_in_place;

const RESHIP: [&str; 2] = ["--kafka-on-new-cluster", "reship"];
const CONTINUE: [&str; 2] = ["--kafka-on-new-cluster", "continue"];

/// Pays until shipping stops; `/readyz` must say 503 and why, `what` among it.
async fn wait_for_stop(day: &mut Day, what: &str) {
    day.pay_until("shipping stops", async |server| {
        server
            .get("/metrics")
            .await
            .body
            .contains(r#"echopay_kafka_state{state="stopped"} 1"#)
    })
    .await;
    let (state, ready, kafka) = day.operator().await;
    assert_eq!((state.as_str(), ready), ("stopped", 503), "{kafka}");
    assert!(kafka.contains(what), "{kafka}");
    assert!(
        kafka.contains("--kafka-on-new-cluster reship|continue"),
        "{kafka}"
    );
    let log = day.server.log();
    assert!(log.contains("kafka: shipping has stopped"), "{log}");
    let (published, _) = day.marks().await;
    day.pay(20).await;
    assert_eq!(day.marks().await.0, published, "the cursor stands still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_under_load_is_not_made_again_before_the_operator_says_so() {
    let Some(broker) = block_in_place(Broker::shared) else {
        return;
    };
    let addresses = broker.addresses();
    let mut day = Day::start("deleted", addresses, addresses, &[]).await;
    day.pay(200).await;
    day.wait_for_published().await;
    let topic = day.topic.clone();
    let deleting = async { block_in_place(|| broker.delete_topic(&topic)) };
    tokio::join!(day.pay(1_000), deleting);
    wait_for_stop(&mut day, "is not there any more").await;
    day.restart_with(&[]).await;
    wait_for_stop(&mut day, "is not there any more").await;
    assert!(!block_in_place(|| broker.has_topic(&topic)));

    day.restart_with(&RESHIP).await;
    let end = day.end().await;
    assert_eq!(end.repeats, 0, "the new topic has each event once");
    assert_eq!(day.operator().await, ("running".into(), 200, "ok".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_under_load_and_made_again_by_the_broker_is_noticed() {
    let own = ["auto.create.topics.enable=true", "num.partitions=6"];
    let Some(broker) = block_in_place(|| Broker::own_with(&own)) else {
        return;
    };
    let addresses = broker.addresses();
    let mut day = Day::start("auto", addresses, addresses, &[]).await;
    day.pay(200).await;
    day.wait_for_published().await;
    let topic = day.topic.clone();
    let deleting = async { block_in_place(|| broker.delete_topic_while_in_use(&topic)) };
    tokio::join!(day.pay(1_000), deleting);
    wait_for_stop(&mut day, "").await;
    let published = day.marks().await.0;
    day.restart_with(&CONTINUE).await;
    day.pay(20).await;
    day.end_behind(published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_while_running_is_noticed_and_shipped_again_when_told_so() {
    let Some(broker) = block_in_place(Broker::shared) else {
        return;
    };
    let addresses = broker.addresses();
    let mut day = Day::start("anew", addresses, addresses, &[]).await;
    day.pay(300).await;
    day.wait_for_published().await;
    let topic = day.topic.clone();
    let renewing = async {
        block_in_place(|| {
            broker.delete_topic(&topic);
            broker.create_topic(&topic, 6, &[]);
        });
    };
    tokio::join!(day.pay(500), renewing);
    wait_for_stop(&mut day, "").await;
    day.restart_with(&RESHIP).await;
    day.pay(20).await;
    day.end_reshipped().await;
    // The answer stays among the settings and is not used again.
    day.restart_with(&RESHIP).await;
    day.pay(20).await;
    day.end_reshipped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_while_stopped_is_noticed_and_continued_when_told_so() {
    let Some(broker) = block_in_place(Broker::shared) else {
        return;
    };
    let addresses = broker.addresses();
    let mut day = Day::start("asleep", addresses, addresses, &[]).await;
    day.pay(300).await;
    let published = day.wait_for_published().await;
    assert!(day.server.terminate().await.success());
    block_in_place(|| {
        broker.delete_topic(&day.topic);
        broker.create_topic(&day.topic, 6, &[]);
    });
    day.restart_with(&[]).await;
    wait_for_stop(&mut day, "lost records").await;
    assert_eq!(day.records().len(), 0, "nothing was sent");
    day.restart_with(&CONTINUE).await;
    day.pay(20).await;
    let end = day.end_behind(published).await;
    assert_eq!(end.repeats, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_cluster_at_the_same_address_is_noticed_and_both_answers_work() {
    let Some(mut broker) = block_in_place(Broker::own) else {
        return;
    };
    let addresses = broker.addresses().to_owned();
    let mut day = Day::start("cluster", &addresses, &addresses, &[]).await;
    day.pay(200).await;
    day.wait_for_published().await;
    let replacing = async { block_in_place(|| broker.replace()) };
    tokio::join!(day.pay(300), replacing);
    wait_for_stop(&mut day, "belongs to cluster").await;
    assert!(
        !block_in_place(|| broker.has_topic(&day.topic)),
        "nothing is made there unasked"
    );
    day.restart_with(&RESHIP).await;
    day.pay(20).await;
    let end = day.end().await;
    assert_eq!(end.repeats, 0, "the other cluster has each event once");

    let published = day.marks().await.0;
    block_in_place(|| {
        broker.replace();
        broker.create_topic(&day.topic, 6, &[]);
    });
    wait_for_stop(&mut day, "belongs to cluster").await;
    day.restart_with(&CONTINUE).await;
    day.pay(20).await;
    day.end_behind(published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_partitions_is_refused() {
    let Some(broker) = block_in_place(Broker::shared) else {
        return;
    };
    let addresses = broker.addresses();
    let mut day = Day::start("partitions", addresses, addresses, &[]).await;
    day.pay(100).await;
    day.wait_for_published().await;
    block_in_place(|| broker.add_partitions(&day.topic, 8));
    day.pay(100).await;
    assert_eq!(day.end().await.repeats, 0, "keys stay where they were");
    day.restart_with(&[]).await;
    wait_for_stop(&mut day, "the topic has 8 partitions, the cursor 6").await;

    block_in_place(|| {
        broker.delete_topic(&day.topic);
        broker.create_topic(&day.topic, 3, &[]);
    });
    day.restart_with(&[]).await;
    wait_for_stop(&mut day, "the topic has 3 partitions, the cursor 6").await;
}

/// The limit is lowered while the pipeline runs, which does not know of it: the broker is the one who refuses. Whole
/// batches at first, with many events that are small enough; with few records in a batch only those that hold a large
/// one, while what was sent behind them is taken.
async fn large_events_are_set_aside(settings: &[&str]) {
    let Some(broker) = block_in_place(Broker::shared) else {
        return;
    };
    let addresses = broker.addresses();
    let mut day = Day::start("large", addresses, addresses, settings).await;
    day.pay(200).await;
    day.wait_for_published().await;
    let client = day.server.client();
    let mut aside = BTreeSet::new();
    // Each note is above its limit and below the one before, which is what the pipeline knows.
    for (limit, note) in [("2200", 1_850), ("1800", 1_450), ("1400", 1_050)] {
        block_in_place(|| broker.set_topic(&day.topic, "max.message.bytes", limit));
        let body = json!({
            "from_wallet": "00000000-0000-4000-8000-000000000001",
            "to_wallet": "00000000-0000-4000-8000-000000000002",
            "amount": 1, "currency": "USD-CBDC", "metadata": {"note": "x".repeat(note)},
        })
        .to_string();
        let large = client.post_json("/api/v1/transactions", &body);
        let ((), paid) = tokio::join!(day.pay(300), large);
        assert_eq!(paid.status, 201, "{}", paid.body);
        let last = paid.json()["sequence"].as_u64().unwrap();
        // Created and completed carry the metadata, the changes of balance do not.
        aside.extend([last - 3, last - 2]);
        day.wait_for_published().await;
    }
    let end = day.end_without(&aside).await;
    assert_eq!(end.repeats, 0);
    let told = day.server.get("/api/v1/events/quarantine").await.json();
    let told = told["quarantined"].as_array().unwrap();
    let told = told.iter().map(|event| event["sequence"].as_u64().unwrap());
    assert_eq!(told.collect::<BTreeSet<u64>>(), aside);
    let count = day.metric("echopay_kafka_quarantined_total").await;
    assert_eq!(count, u64::try_from(aside.len()).unwrap());
    let log = day.server.log();
    for sequence in &aside {
        let named = format!("sequence={sequence} ");
        let line = log
            .lines()
            .find(|line| line.contains("was set aside") && line.contains(&named));
        assert!(
            line.is_some_and(|line| line.contains("ERROR")),
            "{sequence}: {log}"
        );
    }
    let (ready, kafka) = day.wait_for_state("running").await;
    assert_eq!((ready, kafka.as_str()), (200, "ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_too_large_for_a_lowered_limit_are_set_aside_and_the_rest_stays_in_order() {
    large_events_are_set_aside(&["--kafka-config", "compression.type=none"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_behind_a_refused_batch_does_not_overtake_it() {
    let few = [
        "--kafka-config",
        "compression.type=none",
        "--batch-size",
        "2",
    ];
    large_events_are_set_aside(&few).await;
}
