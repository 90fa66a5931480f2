//! Kafka on its worst day, through the real binary, a real broker, and where the network is to blame a proxy between
//! them. In each case: payments, reads and subscriptions go on; the operator can see what is wrong; the published
//! watermark never passes an event that is not there; and in the end every event is there, per key in order.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::kafka::Broker;
use crate::support::proxy::{Proxy, Way};
use crate::support::server::{DEADLINE, wait_until};
use crate::support::worst_day::Day;
use tokio::task::block_in_place;

#[tokio::test(flavor = "multi_thread")]
async fn connections_reset_in_mid_batch_many_times_cost_nothing_but_time() {
    let Some((broker, proxy)) = block_in_place(Proxy::before_a_broker) else {
        return;
    };
    let mut day = Day::start("reset", &proxy.address(), broker.addresses(), &[]).await;
    day.pay(50).await;
    day.wait_for_published().await;
    // In the middle of a first batch, between two, in the middle of a later one.
    proxy.reset_after(&[3_000, 5_003, 9_001, 20_011]);
    while proxy.resets() < 40 {
        day.pay(20).await;
    }
    println!("{:?}", day.operator().await);
    day.assert_published_is_there().await;
    proxy.pass();
    let end = day.end().await;
    assert_eq!(end.repeats, 0);
    println!("{}", day.server.log());
}
