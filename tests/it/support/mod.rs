//! What the tests share: each helper waits for a condition with a deadline, never for a duration.

pub(crate) mod audit;
pub(crate) mod http;
#[expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that cannot go on fails the test; stands here because unit tests include the file too"
)]
pub(crate) mod kafka;
pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod subscribers;
pub(crate) mod worst_day;
pub(crate) mod ws_client;
