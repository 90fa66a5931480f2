//! Who hears what: status updates to subscribers, in order, never at the cost of the ledger.
//!
//! - `config.rs`: the limits.
//! - `update.rs`: what a journal entry means to subscribers, encoded once for all of them.
//! - `filter.rs`: what a subscription wants and may hear.
//! - `index.rs`: update → the subscriptions it may concern; one lock a shard.
//! - `outbox.rs`: a connection's queue, bounded in bytes.
//! - `subscriber.rs`: a connection as the tracker sees it; owns its subscriptions.
//! - `resume.rs`: from a sequence of the past through the journal into the live stream.
//! - `dispatch.rs`: committed entries → queues; `thread.rs` drives it.
//!
//! It knows no sockets: `ws/` sends what the queues hold. What it promises: a subscription hears each matching update
//! once, in the order of sequences, from the sequence it was told at its start; until its connection's queue passes
//! the bound, and then it is told from where to resume.

mod config;
mod dispatch;
mod filter;
#[cfg(test)]
pub(crate) mod fixtures;
mod index;
mod outbox;
mod resume;
mod subscriber;
#[cfg(test)]
mod tests;
mod thread;
mod update;

pub use config::Config;
pub use dispatch::Dispatcher;
pub use filter::{Filter, Visible};
pub use outbox::{Item, Outbox, Subscribers, Taken};
pub use resume::{CatchUp, Stalled, Step};
pub use subscriber::Subscriber;
pub use thread::start;
pub use update::{EncodedUpdate, StatusUpdate, UpdateEncoder};

use crate::clock::SharedClock;
use crate::metrics::Metrics;
use crate::types::Sequence;
use crate::watermark::{Watermark, watermark};
use index::Index;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What `/metrics` shows of the tracker.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrackerStats {
    /// Open WebSocket connections.
    pub connections: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Bytes waiting in the connections' queues.
    pub queued_bytes: u64,
}

/// The outside of the tracker; cheap to clone.
#[derive(Clone, Debug)]
pub struct TrackerHandle {
    shared: Arc<Shared>,
    delivered: Watermark,
}

/// What dispatcher and subscribers share.
#[derive(Debug)]
struct Shared {
    config: Config,
    index: Index,
    durable: Watermark,
    clock: SharedClock,
    ordinals: AtomicU64,
    connections: AtomicU64,
    subscriptions: AtomicU64,
    queued_bytes: Arc<AtomicU64>,
}

/// A tracker without a thread: the caller hands each entry behind `start` to the [`Dispatcher`], in order, and only
/// after `durable` has reached it.
pub fn new(
    config: Config,
    start: Sequence,
    durable: Watermark,
    clock: SharedClock,
    metrics: Metrics,
) -> (TrackerHandle, Dispatcher) {
    let shared = Arc::new(Shared {
        index: Index::new(config.shards),
        config,
        durable,
        clock,
        ordinals: AtomicU64::new(0),
        connections: AtomicU64::new(0),
        subscriptions: AtomicU64::new(0),
        queued_bytes: Arc::new(AtomicU64::new(0)),
    });
    let (delivered_writer, delivered) = watermark(start);
    let dispatcher = Dispatcher::new(Arc::clone(&shared), delivered_writer, metrics);
    (TrackerHandle { shared, delivered }, dispatcher)
}

impl TrackerHandle {
    /// Counts as of now.
    pub fn stats(&self) -> TrackerStats {
        TrackerStats {
            connections: self.shared.connections.load(Ordering::Relaxed),
            subscriptions: self.shared.subscriptions.load(Ordering::Relaxed),
            queued_bytes: self.shared.queued_bytes.load(Ordering::Relaxed),
        }
    }

    /// Everything up to here was handed to the subscribers' queues.
    pub fn delivered(&self) -> &Watermark {
        &self.delivered
    }

    /// A connection without subscriptions, of someone who may see only `visible`. Dropping it ends its subscriptions.
    pub fn connect(&self, visible: Visible) -> Subscriber {
        Subscriber::new(Arc::clone(&self.shared), visible, self.delivered.get())
    }
}
