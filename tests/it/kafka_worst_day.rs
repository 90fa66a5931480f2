//! Kafka on its worst day, through the real binary and a real broker: brokers and lines that fail. (What happens to
//! topics and clusters is in `kafka_worst_day_topic.rs`.) In each case payments, reads and subscriptions go on, the
//! operator sees what is wrong, the published watermark never passes an event that is not there, and in the end every
//! event is there, per key in order.

use crate::support::kafka::{Broker, SASL_PASSWORD, SASL_USER};
use crate::support::proxy::{Proxy, Way};
use crate::support::server::{DEADLINE, wait_until};
use crate::support::worst_day::Day;
use std::time::Duration;
use tokio::task::block_in_place;

/// So that being away for longer than every time-out does not take long.
const SHORT_TIMEOUTS: [&str; 2] = [
    "--kafka-config",
    "socket.timeout.ms=2000;request.timeout.ms=1500;reconnect.backoff.max.ms=200",
];
const PAUSE: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_under_load_and_restarted_has_everything_once() {
    let Some(mut broker) = block_in_place(Broker::own) else {
        return;
    };
    let addresses = broker.addresses().to_owned();
    let mut day = Day::start("killed", &addresses, &addresses, &SHORT_TIMEOUTS).await;
    day.pay(200).await;
    day.wait_for_published().await;
    let killing = async { block_in_place(|| broker.kill9()) };
    tokio::join!(day.pay(1_000), killing);
    let (ready, kafka) = day.wait_for_state("stalled").await;
    assert_eq!(ready, 200, "Kafka is not needed to take payments: {kafka}");
    assert!(kafka.starts_with("stalled, "), "{kafka}");
    assert!(
        kafka.contains("BrokerTransportFailure") || kafka.contains("AllBrokersDown"),
        "{kafka}"
    );
    day.pay(100).await;
    let (published, durable) = day.marks().await;
    assert!(published < durable);
    assert!(day.metric("echopay_kafka_lag_events").await > 0);

    block_in_place(|| broker.restart());
    let end = day.end().await;
    assert_eq!(end.repeats, 0);
    assert_eq!(day.operator().await, ("running".into(), 200, "ok".into()));
    let log = day.server.log();
    assert!(log.contains("kafka: trouble on the way"), "{log}");
    assert!(
        log.contains("kafka: records are acknowledged again"),
        "{log}"
    );
    assert_eq!(day.metric("echopay_kafka_failed_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_frozen_for_longer_than_every_timeout_has_everything_once() {
    let Some(broker) = block_in_place(Broker::own) else {
        return;
    };
    let addresses = broker.addresses();
    let mut day = Day::start("frozen", addresses, addresses, &SHORT_TIMEOUTS).await;
    day.pay(200).await;
    day.wait_for_published().await;
    let freezing = async { broker.pause() };
    tokio::join!(day.pay(500), freezing);
    day.wait_for_state("stalled").await;
    // The requests under way have timed out, and so have those that were sent to find out.
    day.pay_until("librdkafka gives the connections up", async |server| {
        server.get("/readyz").await.body.contains("AllBrokersDown")
    })
    .await;
    let (published, durable) = day.marks().await;
    assert!(published < durable);
    broker.resume();
    let end = day.end().await;
    assert_eq!(end.repeats, 0);
    assert_eq!(day.operator().await, ("running".into(), 200, "ok".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_reset_in_mid_batch_many_times_cost_nothing_but_time() {
    let Some((broker, proxy)) = block_in_place(Proxy::before_a_broker) else {
        return;
    };
    let settings = ["--kafka-config", "reconnect.backoff.max.ms=100"];
    let mut day = Day::start("reset", &proxy.address(), broker.addresses(), &settings).await;
    day.pay(50).await;
    day.wait_for_published().await;
    // In the middle of a first batch, between two, in the middle of a later one.
    proxy.reset_after(&[3_000, 5_003, 9_001, 20_011]);
    while proxy.resets() < 40 {
        day.pay(10).await;
        tokio::time::sleep(PAUSE).await;
    }
    day.assert_published_is_there().await;
    proxy.pass();
    let end = day.end().await;
    assert_eq!(end.repeats, 0);
    assert_eq!(day.operator().await, ("running".into(), 200, "ok".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_crawls_and_one_that_swallows_hold_up_no_payment() {
    let Some((broker, proxy)) = block_in_place(Proxy::before_a_broker) else {
        return;
    };
    let settings = SHORT_TIMEOUTS;
    let mut day = Day::start("slow", &proxy.address(), broker.addresses(), &settings).await;
    day.pay(200).await;
    day.wait_for_published().await;
    proxy.throttle(1024);
    let before = proxy.forwarded(Way::ToBroker);
    day.pay(500).await;
    let (_, kafka) = day.wait_for_state("stalled").await;
    assert!(kafka.starts_with("stalled, "), "{kafka}");
    day.pay_until("some crawled through", async |_| {
        proxy.forwarded(Way::ToBroker) > before + 4 * 1024
    })
    .await;
    day.assert_published_is_there().await;
    proxy.pass();
    day.wait_for_published().await;

    proxy.swallow();
    day.pay(100).await;
    day.pay_until("the line is given up", async |server| {
        server.get("/readyz").await.body.contains("AllBrokersDown")
    })
    .await;
    proxy.refuse();
    day.pay(100).await;
    proxy.pass();
    let end = day.end().await;
    assert_eq!(end.repeats, 0);
    assert_eq!(day.operator().await, ("running".into(), 200, "ok".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_told_and_never_logged() {
    let Some(broker) = block_in_place(Broker::shared) else {
        return;
    };
    let Some(addresses) = broker.sasl_addresses() else {
        return;
    };
    let with = |password: &str| {
        let user = format!("sasl.username={SASL_USER};sasl.password={password}");
        format!("security.protocol=SASL_PLAINTEXT;sasl.mechanism=PLAIN;{user}")
    };
    let (wrong, right) = (with("wrong-one"), with(SASL_PASSWORD));
    let settings = ["--kafka-config", wrong.as_str()];
    let mut day = Day::start("sasl", &addresses, broker.addresses(), &settings).await;
    day.pay(50).await;
    let mut told = (String::new(), 0, String::new());
    wait_until(DEADLINE, "the refusal shows", async || {
        told = day.operator().await;
        told.2.contains("Authentication failed")
    })
    .await;
    let (state, ready, kafka) = told;
    assert_eq!((state.as_str(), ready), ("connecting", 200), "{kafka}");
    assert_eq!(day.marks().await.0, 0);
    let log = day.server.log();
    assert!(log.contains("connecting anew"), "{log}");
    assert!(log.contains("Authentication failed"), "{log}");
    assert!(
        !log.contains("wrong-one") && !kafka.contains("wrong-one"),
        "{log}"
    );

    day.set(&["--kafka-config", &right]);
    day.restart_with(&[]).await;
    day.pay(50).await;
    assert_eq!(day.end().await.repeats, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brokers_disk_that_is_full_stops_nothing_here_and_loses_nothing_there() {
    let Some(mut broker) = block_in_place(Broker::own) else {
        return;
    };
    let addresses = broker.addresses().to_owned();
    let settings = ["--kafka-config", "compression.type=none"];
    let mut day = Day::start("full", &addresses, &addresses, &settings).await;
    day.pay(200).await;
    day.wait_for_published().await;
    broker.limit_files(Some(128 << 10));
    day.pay_until("the disk is full", async |server| {
        server
            .get("/metrics")
            .await
            .body
            .contains(r#"echopay_kafka_state{state="stalled"} 1"#)
    })
    .await;
    block_in_place(|| broker.wait_for_its_end());
    day.pay(200).await;
    let (published, durable) = day.marks().await;
    assert!(published < durable);
    let (state, ready, kafka) = day.operator().await;
    assert_eq!((state.as_str(), ready), ("stalled", 200), "{kafka}");
    block_in_place(|| broker.restart());
    let end = day.end().await;
    assert_eq!(end.repeats, 0);
    assert_eq!(day.operator().await, ("running".into(), 200, "ok".into()));
}
