//! A connection as the tracker sees it: its queue and its subscriptions.

use super::filter::{Filter, Visible};
use super::index::Subscription;
use super::outbox::Outbox;
use super::resume::CatchUp;
use super::{Shared, TrackerHandle};
use crate::types::Sequence;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// One connection's end of the tracker; see [`TrackerHandle::connect`].
#[derive(Debug)]
pub struct Subscriber {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    visible: Visible,
    subscriptions: Vec<Owned>,
}

/// A subscription, and whether live updates look for it.
#[derive(Debug)]
struct Owned {
    subscription: Arc<Subscription>,
    indexed: bool,
}

impl Subscriber {
    pub(super) fn new(shared: Arc<Shared>, visible: Visible, start: Sequence) -> Self {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let config = &shared.config;
        let outbox = Outbox::new(
            config.queue_bytes_max,
            // What was held must fit into the free half of the queue.
            config.held_bytes_max.min(config.queue_bytes_max / 4),
            Arc::clone(&shared.queued_bytes),
            start,
        );
        Self {
            shared,
            outbox: Arc::new(outbox),
            visible,
            subscriptions: Vec::new(),
        }
    }

    /// Its queue.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Number of its subscriptions.
    pub fn count(&self) -> usize {
        self.subscriptions.len()
    }

    /// Who asks is known now, and sees only `visible`. For subscriptions made from now on.
    pub fn restrict(&mut self, visible: Visible) {
        self.visible = visible;
    }

    /// Subscribes to what becomes durable from now on. The bytes that `announce` makes of the subscription's id and the
    /// sequence it starts after are queued ahead of its first update.
    pub fn subscribe(
        &mut self,
        filter: Filter,
        announce: impl FnOnce(Uuid, Sequence) -> Bytes,
    ) -> Uuid {
        let subscription = self.make(filter);
        let id = subscription.id;
        let ordinal = subscription.ordinal;
        self.outbox.add_muted(ordinal, id);
        self.shared.index.insert(&subscription);
        self.subscriptions.push(Owned {
            subscription,
            indexed: true,
        });
        // IMPORTANT: only now, when the dispatcher can find it, the durable watermark is read.
        self.outbox
            .go_live(ordinal, &self.shared.durable, |start| announce(id, start));
        id
    }

    /// Subscribes to everything behind `after`, the past included. The caller drives the returned [`CatchUp`]; until it
    /// has [joined](super::Step::Joined) nothing live is heard.
    pub fn subscribe_after(
        &mut self,
        filter: Filter,
        after: Sequence,
        announce: impl FnOnce(Uuid) -> Bytes,
    ) -> CatchUp {
        let subscription = self.make(filter);
        let id = subscription.id;
        self.outbox
            .add_reading(subscription.ordinal, id, after, announce(id));
        let catch_up = CatchUp::new(Arc::clone(&subscription), after);
        self.subscriptions.push(Owned {
            subscription,
            indexed: false,
        });
        catch_up
    }

    /// The next thing to do for `catch_up`, which must be this connection's.
    pub fn advance(&mut self, catch_up: &mut CatchUp) -> super::Step {
        let ordinal = catch_up.ordinal();
        let shared = &self.shared;
        let Some(owned) = self
            .subscriptions
            .iter_mut()
            .find(|o| o.subscription.ordinal == ordinal)
        else {
            return super::Step::Joined;
        };
        catch_up.advance(&shared.durable, || {
            if !std::mem::replace(&mut owned.indexed, true) {
                shared.index.insert(&owned.subscription);
            }
        })
    }

    /// Ends a subscription; `false` when it is none of this connection's. What is queued for it is still sent.
    pub fn unsubscribe(&mut self, id: Uuid) -> bool {
        let found = self
            .subscriptions
            .iter()
            .position(|owned| owned.subscription.id == id);
        found
            .map(|at| self.subscriptions.swap_remove(at))
            .is_some_and(|owned| {
                self.forget(&owned);
                true
            })
    }

    /// Ends all subscriptions.
    pub fn unsubscribe_all(&mut self) {
        for owned in std::mem::take(&mut self.subscriptions) {
            self.forget(&owned);
        }
    }

    fn make(&self, filter: Filter) -> Arc<Subscription> {
        self.shared.subscriptions.fetch_add(1, Ordering::Relaxed);
        Arc::new(Subscription {
            ordinal: self.shared.ordinals.fetch_add(1, Ordering::Relaxed),
            id: self.shared.clock.random_uuid(),
            filter,
            visible: self.visible.clone(),
            outbox: Arc::clone(&self.outbox),
        })
    }

    fn forget(&self, owned: &Owned) {
        if owned.indexed {
            self.shared.index.remove(&owned.subscription);
        }
        self.outbox.remove(owned.subscription.ordinal);
        self.shared.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.unsubscribe_all();
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TrackerHandle {
    /// Bytes of journal pages to read at a time for a [`CatchUp`].
    pub fn read_bytes(&self) -> usize {
        self.shared.config.read_bytes
    }
}
