//! Committed entries → the queues of who wants to hear of them.

use super::Shared;
use super::index::Populated;
use super::outbox::{Delivery, Outbox};
use super::update::{StatusUpdate, UpdateEncoder};
use crate::journal::Entry;
use crate::metrics::{Metrics, Stage};
use crate::types::Sequence;
use crate::watermark::WatermarkWriter;
use std::sync::Arc;
use std::time::Duration;

/// How often pressed readers are looked at.
const RELIEF_STEP: Duration = Duration::from_millis(1);

/// Hands entries to the subscribers. There is one; it never waits for any of them.
#[derive(Debug)]
pub struct Dispatcher {
    shared: Arc<Shared>,
    delivered: WatermarkWriter,
    metrics: Metrics,
    encoder: UpdateEncoder,
    /// Everything up to here was handed out.
    position: Sequence,
    /// Queues with something hidden in them.
    touched: Vec<Arc<Outbox>>,
    /// Updates since the last publishing; and how many deliveries they made.
    updates: usize,
    deliveries: u64,
}

impl Dispatcher {
    pub(super) fn new(shared: Arc<Shared>, delivered: WatermarkWriter, metrics: Metrics) -> Self {
        Self {
            shared,
            position: delivered.get(),
            delivered,
            metrics,
            encoder: UpdateEncoder::default(),
            touched: Vec::new(),
            updates: 0,
            deliveries: 0,
        }
    }

    /// Queues the updates of `entries` (in order; what was handed out before is skipped) and moves the delivered
    /// watermark. Each connection is woken once, or once every [`wake_every_updates`](super::Config) in a large group.
    pub fn dispatch(&mut self, entries: &[Entry]) {
        let begun_at = self.shared.clock.monotonic();
        let populated = self.shared.index.populated();
        if populated.is_nobody() {
            let last = entries.last().map_or(self.position, Entry::last);
            self.position = self.position.max(last);
        } else {
            for entry in entries {
                self.hand_out_all(entry, populated);
            }
        }
        self.publish();
        let took = self.shared.clock.monotonic().saturating_sub(begun_at);
        self.metrics.observe_stage(Stage::Match, took);
    }

    fn hand_out_all(&mut self, entry: &Entry, populated: Populated) {
        for update in StatusUpdate::of(entry) {
            if update.sequence > self.position {
                self.hand_out(&update, populated);
            }
        }
        self.position = self.position.max(entry.last());
        if self.updates >= self.shared.config.wake_every_updates {
            self.publish();
        }
    }

    fn hand_out(&mut self, update: &StatusUpdate, populated: Populated) {
        self.updates += 1;
        let mut encoded = None;
        let index = &self.shared.index;
        index.for_each_match(update, populated, |subscription| {
            let encoded = encoded.get_or_insert_with(|| self.encoder.encode(update));
            match subscription.outbox.deliver(subscription.ordinal, encoded) {
                Delivery::Ignored => {}
                Delivery::Queued { first } => {
                    self.deliveries += 1;
                    if first {
                        self.touched.push(Arc::clone(&subscription.outbox));
                    }
                }
            }
        });
    }

    fn publish(&mut self) {
        self.touched.retain(|outbox| outbox.publish());
        // Only now: who reads the watermark may rely on the queues.
        self.delivered.advance_to(self.position);
        self.metrics
            .observe_ws_updates(std::mem::take(&mut self.deliveries));
        self.updates = 0;
        self.relieve();
    }

    /// Gives the readers that are pressed, though they keep reading, a moment. It is short, and whoever does not use it
    /// is not given another: a slow reader is closed in the end, and cannot hold up the others for long.
    fn relieve(&mut self) {
        let mut left_ms = self.shared.config.relief_ms;
        while left_ms > 0 && !self.touched.is_empty() {
            std::thread::sleep(RELIEF_STEP);
            left_ms -= 1;
            self.touched.retain(|outbox| !outbox.has_room());
        }
        self.touched.clear();
    }
}
