//! What the integration tests share, taken from there.

#[path = "../it/support/audit.rs"]
pub(crate) mod audit;
#[path = "../it/support/server.rs"]
#[expect(
    dead_code,
    reason = "this target starts its processes itself: it cuts them off while they start"
)]
pub(crate) mod server;
