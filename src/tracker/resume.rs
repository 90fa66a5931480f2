//! From a sequence of the past through the journal into the live stream, without a gap and without a repeat.
//!
//! While far behind, the subscription reads the journal as fast as its connection takes it and hears nothing live.
//! Near the end it goes the last stretch: live updates wait from the durable watermark S on (read under the lock of the
//! outbox, after the dispatcher can find the subscription), the journal is read up to S, then what waited follows.
//! When more comes meanwhile than may wait, it goes back to reading. So a reader that is slower than the ledger never
//! joins and never loses anything.

use super::index::Subscription;
use super::update::{StatusUpdate, UpdateEncoder};
use crate::journal::Entry;
use crate::types::Sequence;
use crate::watermark::Watermark;
use std::collections::VecDeque;
use std::sync::Arc;
use uuid::Uuid;

/// At most this many sequences are left to be read when live updates begin to wait.
const LAST_STRETCH_SEQUENCES: u64 = 1_000;

/// What has to be done next for a [`CatchUp`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Read entries behind `after` and hand them to [`CatchUp::accept`].
    Read {
        /// The cursor.
        after: Sequence,
    },
    /// Come back when more of the connection's queue was sent.
    WaitForRoom,
    /// Done: the subscription is live, or was ended.
    Joined,
}

/// The journal gave nothing where the durable watermark says that there is something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the journal gave nothing behind sequence {0}, which is not its end")]
pub struct Stalled(pub Sequence);

/// A subscription on its way into the live stream; see [`Subscriber::subscribe_after`](super::Subscriber::subscribe_after).
#[derive(Debug)]
pub struct CatchUp {
    subscription: Arc<Subscription>,
    /// Everything up to here was queued, if it matched.
    cursor: Sequence,
    stretch: Stretch,
    /// Read, not yet queued.
    entries: VecDeque<Entry>,
    encoder: UpdateEncoder,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stretch {
    Far,
    /// Live updates behind `up_to` wait.
    Last {
        up_to: Sequence,
    },
}

impl CatchUp {
    pub(super) fn new(subscription: Arc<Subscription>, after: Sequence) -> Self {
        Self {
            subscription,
            cursor: after,
            stretch: Stretch::Far,
            entries: VecDeque::new(),
            encoder: UpdateEncoder::default(),
        }
    }

    /// Which subscription.
    pub fn id(&self) -> Uuid {
        self.subscription.id
    }

    pub(super) fn ordinal(&self) -> u64 {
        self.subscription.ordinal
    }

    /// Takes what was read behind the cursor.
    ///
    /// # Errors
    /// [`Stalled`] when it was nothing: the subscription cannot go on.
    pub fn accept(&mut self, entries: Vec<Entry>) -> Result<(), Stalled> {
        if entries
            .last()
            .is_none_or(|entry| entry.last() <= self.cursor)
        {
            return Err(Stalled(self.cursor));
        }
        self.entries = entries.into();
        Ok(())
    }

    /// `make_findable` puts the subscription into the index, if it is not there yet.
    pub(super) fn advance(&mut self, durable: &Watermark, mut make_findable: impl FnMut()) -> Step {
        let subscription = Arc::clone(&self.subscription);
        let outbox = &subscription.outbox;
        loop {
            while let Some(entry) = self.entries.front() {
                if !outbox.has_room() {
                    return Step::WaitForRoom;
                }
                let up_to = match self.stretch {
                    Stretch::Far => entry.last(),
                    Stretch::Last { up_to } => entry.last().min(up_to),
                };
                for update in StatusUpdate::of(entry) {
                    let due = self.cursor < update.sequence && update.sequence <= up_to;
                    if due && subscription.wants(&update) {
                        outbox.push_read(subscription.ordinal, self.encoder.encode(&update));
                    }
                }
                self.cursor = self.cursor.max(up_to);
                outbox.note_read(subscription.ordinal, self.cursor);
                if self.stretch == (Stretch::Last { up_to: self.cursor }) {
                    // What lies behind waits in the queue of live updates.
                    self.entries.clear();
                } else {
                    self.entries.pop_front();
                }
            }
            match self.stretch {
                Stretch::Far => {
                    let left = durable.get().get().saturating_sub(self.cursor.get());
                    if left > LAST_STRETCH_SEQUENCES {
                        return Step::Read { after: self.cursor };
                    }
                    // IMPORTANT: first findable, then the watermark is read.
                    make_findable();
                    let up_to = outbox.hold(subscription.ordinal, durable);
                    self.stretch = Stretch::Last { up_to };
                }
                Stretch::Last { up_to } if self.cursor < up_to => {
                    return Step::Read { after: self.cursor };
                }
                Stretch::Last { .. } => {
                    // What waited is at most `held_bytes_max`: it needs room, or it would end the connection.
                    if !outbox.has_room() {
                        return Step::WaitForRoom;
                    }
                    if outbox.join(subscription.ordinal) {
                        return Step::Joined;
                    }
                    self.stretch = Stretch::Far;
                }
            }
        }
    }
}
