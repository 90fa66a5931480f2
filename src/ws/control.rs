//! What the sweeper sees of a connection, and the orders that reach it from outside.

use super::config::Config;
use crate::tracker::Outbox;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// No deadline.
const NEVER: u64 = u64::MAX;

/// Orders to a connection, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Orders(u8);

impl Orders {
    /// Send a ping, and the position.
    pub(super) const PING: Self = Self(1);
    /// End at once.
    pub(super) const DROP: Self = Self(2);
    /// The service stops: end in order.
    pub(super) const DRAIN: Self = Self(4);
    /// The deadline that the connection set itself has passed.
    pub(super) const EXPIRED: Self = Self(8);

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// One connection's marks, in monotonic milliseconds.
#[derive(Debug)]
pub(super) struct Control {
    outbox: Arc<Outbox>,
    orders: AtomicU8,
    heard_at: AtomicU64,
    /// Since when the socket takes nothing; [`NEVER`] while it does.
    blocked_since: AtomicU64,
    ping_at: AtomicU64,
    deadline: AtomicU64,
}

impl Control {
    pub(super) fn new(outbox: Arc<Outbox>, now_ms: u64, config: &Config) -> Self {
        Self {
            outbox,
            orders: AtomicU8::new(0),
            heard_at: AtomicU64::new(now_ms),
            blocked_since: AtomicU64::new(NEVER),
            ping_at: AtomicU64::new(now_ms.saturating_add(config.ping_every_ms)),
            deadline: AtomicU64::new(NEVER),
        }
    }

    pub(super) fn note_heard(&self, now_ms: u64) {
        self.heard_at.store(now_ms, Ordering::Relaxed);
    }

    pub(super) fn note_blocked(&self, now_ms: u64) {
        let unblocked = NEVER;
        let _already = self.blocked_since.compare_exchange(
            unblocked,
            now_ms,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    pub(super) fn note_written(&self) {
        self.blocked_since.store(NEVER, Ordering::Relaxed);
    }

    /// [`Orders::EXPIRED`] comes at `at_ms`; `None`: never.
    pub(super) fn set_deadline(&self, at_ms: Option<u64>) {
        self.deadline
            .store(at_ms.unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// Gives `orders` and wakes the connection.
    pub(super) fn order(&self, orders: Orders) {
        self.orders.fetch_or(orders.0, Ordering::AcqRel);
        self.outbox.wake();
    }

    /// The orders since the last call.
    pub(super) fn take_orders(&self) -> Orders {
        if self.orders.load(Ordering::Acquire) == 0 {
            return Orders(0);
        }
        Orders(self.orders.swap(0, Ordering::AcqRel))
    }

    /// Gives the orders that are due at `now_ms`.
    pub(super) fn sweep(&self, now_ms: u64, config: &Config) {
        let since = |mark: &AtomicU64| now_ms.saturating_sub(mark.load(Ordering::Relaxed));
        if since(&self.blocked_since) >= config.write_within_ms
            || since(&self.heard_at) >= config.pong_within_ms
        {
            self.order(Orders::DROP);
            return;
        }
        if now_ms >= self.deadline.load(Ordering::Relaxed) {
            self.set_deadline(None);
            self.order(Orders::EXPIRED);
        }
        if now_ms >= self.ping_at.load(Ordering::Relaxed) {
            self.ping_at.store(
                now_ms.saturating_add(config.ping_every_ms),
                Ordering::Relaxed,
            );
            self.order(Orders::PING);
        }
    }
}
