//! A connection's queue: bounded in bytes, filled by the dispatcher and by the connection itself, emptied by the
//! connection.
//!
//! Whoever fills it never waits. Past the bound the queue is given up, with the sequence from which its owner can
//! resume: the slow reader pays, nobody else.
//!
//! Sketch: `[ visible: the connection may take these | hidden: the dispatcher is still adding ]`. What the dispatcher adds
//! becomes visible at once for a whole stretch of updates, so that an update that several subscriptions of one
//! connection want is one message, and the connection is woken once a stretch.

use super::update::EncodedUpdate;
use crate::types::Sequence;
use crate::watermark::Watermark;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use uuid::Uuid;

/// What an item costs beside its bytes.
const ITEM_BYTES: usize = size_of::<Item>();
/// An empty queue gives its memory back above this many items.
const KEPT_ITEMS_MAX: usize = 32;

/// Something to be sent.
#[derive(Debug)]
pub enum Item {
    /// A status update for some of the connection's subscriptions.
    Update {
        /// The bytes shared by all who hear it.
        update: Arc<EncodedUpdate>,
        /// The ids to append.
        subscribers: Subscribers,
    },
    /// Bytes of the connection's own, as they go to the socket.
    Own(Bytes),
}

impl Item {
    fn size_bytes(&self) -> usize {
        match self {
            Self::Update {
                update,
                subscribers,
            } => update.size_bytes(subscribers.as_slice().len()),
            Self::Own(bytes) => bytes.len(),
        }
    }
}

/// Which subscriptions of a connection an update is for; nearly always one.
#[derive(Debug)]
pub enum Subscribers {
    /// The usual case, without an allocation.
    One(Uuid),
    /// At least two.
    Many(Vec<Uuid>),
}

impl Subscribers {
    /// Their ids.
    pub fn as_slice(&self) -> &[Uuid] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }

    fn add(&mut self, id: Uuid) {
        match self {
            Self::One(first) => *self = Self::Many(vec![*first, id]),
            Self::Many(ids) => ids.push(id),
        }
    }
}

/// What [`Outbox::take`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// Items were appended to `out`; there may be more.
    Some,
    /// Nothing to send for now.
    Nothing,
    /// The bound was passed and the queue is gone. Told once; nothing follows.
    Overflowed {
        /// Everything up to here was sent, if it matched.
        resume_after: Sequence,
    },
}

/// What became of a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Delivery {
    /// Not for it, or not any more, or not yet.
    Ignored,
    /// Queued or held; `first` since the last [`Outbox::publish`].
    Queued {
        /// Whether the outbox has to be published.
        first: bool,
    },
}

/// How a subscription hears of updates.
#[derive(Debug)]
enum Mode {
    /// It was just made; the durable watermark that it starts at was not read yet. Whatever is dispatched meanwhile was
    /// durable before that.
    Muted,
    /// It reads the journal; live updates are not for it.
    Reading,
    /// It reads the last stretch of the journal; live updates wait.
    Holding {
        held: VecDeque<Arc<EncodedUpdate>>,
        held_bytes: usize,
    },
    /// It hears live updates.
    Live,
}

#[derive(Debug)]
struct Slot {
    ordinal: u64,
    id: Uuid,
    mode: Mode,
    /// Muted, reading, holding: everything up to here was queued, if it matched. Holding and live: the last live update
    /// that was queued or held, so that an update found under both of its wallets counts once.
    heard: Sequence,
    /// Holding: up to here the journal was read.
    read: Sequence,
    /// Subscribed with `after_sequence`.
    resumed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    Overflowed {
        resume_after: Sequence,
    },
    /// What is visible may still be taken; nothing is added.
    Closed,
}

#[derive(Debug)]
struct Inner {
    state: State,
    items: VecDeque<Item>,
    /// So many items from the front may be taken.
    visible: usize,
    bytes: usize,
    /// The dispatcher has to publish.
    dirty: bool,
    /// The connection took something since it was last found more than half full.
    taken: bool,
    /// The last live update queued, and the last one published.
    queued_to: Sequence,
    published_to: Sequence,
    slots: Vec<Slot>,
    waker: Option<Waker>,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    inner: Mutex<Inner>,
    bytes_max: usize,
    held_bytes_max: usize,
    /// Sum over all connections.
    queued_bytes: Arc<AtomicU64>,
}

impl Outbox {
    /// An empty queue. `start`: the connection needs nothing of what lies before.
    pub(super) fn new(
        bytes_max: usize,
        held_bytes_max: usize,
        queued_bytes: Arc<AtomicU64>,
        start: Sequence,
    ) -> Self {
        Self {
            inner: Mutex::new(Inner {
                state: State::Open,
                items: VecDeque::new(),
                visible: 0,
                bytes: 0,
                dirty: false,
                taken: true,
                queued_to: start,
                published_to: start,
                slots: Vec::new(),
                waker: None,
            }),
            bytes_max,
            held_bytes_max,
            queued_bytes,
        }
    }

    // The connection's side.

    /// Queues bytes of the connection's own. They keep their place among the updates.
    pub fn push(&self, bytes: Bytes) {
        let mut inner = self.inner.lock();
        self.append(&mut inner, Item::Own(bytes));
    }

    /// Remembers whom to wake when something becomes visible, once.
    pub fn register(&self, waker: &Waker) {
        let mut inner = self.inner.lock();
        match &mut inner.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Moves items worth about `bytes_max` to `out`, at least one where there is one.
    pub fn take(&self, bytes_max: usize, out: &mut Vec<Item>) -> Taken {
        let mut inner = self.inner.lock();
        if let State::Overflowed { resume_after } = inner.state {
            inner.state = State::Closed;
            return Taken::Overflowed { resume_after };
        }
        let mut taken_bytes = 0;
        let mut cost_bytes = 0;
        while inner.visible > 0 && taken_bytes < bytes_max {
            let Some(item) = inner.items.pop_front() else {
                break;
            };
            inner.visible -= 1;
            taken_bytes += item.size_bytes();
            cost_bytes += item.size_bytes() + ITEM_BYTES;
            out.push(item);
        }
        self.release(&mut inner, cost_bytes);
        if inner.items.is_empty() && inner.items.capacity() > KEPT_ITEMS_MAX {
            inner.items = VecDeque::new();
        }
        if cost_bytes == 0 {
            return Taken::Nothing;
        }
        inner.taken = true;
        Taken::Some
    }

    /// Whether more than half of the bound is free: what the connection adds by itself waits for that.
    pub fn has_room(&self) -> bool {
        self.inner.lock().bytes <= self.bytes_max / 2
    }

    /// Wakes the connection.
    pub fn wake(&self) {
        let waker = self.inner.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the queue in order: what is visible can still be taken, behind it stand the bytes that `last` makes of
    /// the sequence to resume from; nothing more is added. Without effect when the queue has ended already.
    pub fn close(&self, delivered: &Watermark, last: impl FnOnce(Sequence) -> Bytes) {
        // Read first: what was delivered up to here is published, and hence ahead of `last`.
        let delivered = delivered.get();
        let mut inner = self.inner.lock();
        if inner.state != State::Open {
            return;
        }
        let resume_after = inner.reached(delivered.max(inner.published_to));
        let visible = inner.visible;
        let hidden_bytes: usize = inner
            .items
            .drain(visible..)
            .map(|item| item.size_bytes() + ITEM_BYTES)
            .sum();
        self.release(&mut inner, hidden_bytes);
        self.append(&mut inner, Item::Own(last(resume_after)));
        inner.state = State::Closed;
    }

    /// Queues the bytes that `announce` makes of the connection's position (everything up to it was queued before, if
    /// it matched), if any of its subscriptions was resumed.
    pub fn push_position(&self, delivered: &Watermark, announce: impl FnOnce(Sequence) -> Bytes) {
        // Read first, as in `close`.
        let delivered = delivered.get();
        let mut inner = self.inner.lock();
        if inner.slots.iter().any(|slot| slot.resumed) {
            let position = inner.reached(delivered);
            self.append(&mut inner, Item::Own(announce(position)));
        }
    }

    // Subscriptions, by their ordinals.

    /// Adds a subscription that starts to hear by [`Outbox::go_live`].
    pub(super) fn add_muted(&self, ordinal: u64, id: Uuid) {
        let heard = Sequence::ORIGIN;
        let slot = Slot {
            ordinal,
            id,
            mode: Mode::Muted,
            heard,
            read: heard,
            resumed: false,
        };
        self.inner.lock().slots.push(slot);
    }

    /// Adds a subscription that reads the journal from `after`, and queues the bytes that tell its owner.
    pub(super) fn add_reading(&self, ordinal: u64, id: Uuid, after: Sequence, announce: Bytes) {
        let mut inner = self.inner.lock();
        let slot = Slot {
            ordinal,
            id,
            mode: Mode::Reading,
            heard: after,
            read: after,
            resumed: true,
        };
        inner.slots.push(slot);
        self.append(&mut inner, Item::Own(announce));
    }

    /// From now on the muted subscription hears what lies behind the durable watermark. The watermark is read under
    /// the lock: an update dispatched before was durable, one dispatched later finds the subscription live.
    pub(super) fn go_live(
        &self,
        ordinal: u64,
        durable: &Watermark,
        announce: impl FnOnce(Sequence) -> Bytes,
    ) {
        let mut inner = self.inner.lock();
        let start = durable.get();
        if let Some(slot) = inner.slot(ordinal) {
            slot.mode = Mode::Live;
            slot.heard = start;
        }
        self.append(&mut inner, Item::Own(announce(start)));
    }

    /// From now on live updates behind the durable watermark wait for the reading subscription. Gives that watermark:
    /// up to it the journal has to be read. As in [`Outbox::go_live`] it is read under the lock.
    pub(super) fn hold(&self, ordinal: u64, durable: &Watermark) -> Sequence {
        let mut inner = self.inner.lock();
        let start = durable.get();
        if let Some(slot) = inner.slot(ordinal) {
            slot.mode = Mode::Holding {
                held: VecDeque::new(),
                held_bytes: 0,
            };
            slot.heard = start;
        }
        start
    }

    /// Queues an update that `ordinal` found in the journal.
    pub(super) fn push_read(&self, ordinal: u64, update: Arc<EncodedUpdate>) {
        let mut inner = self.inner.lock();
        if let Some(slot) = inner.slot(ordinal) {
            let subscribers = Subscribers::One(slot.id);
            self.append(
                &mut inner,
                Item::Update {
                    update,
                    subscribers,
                },
            );
        }
    }

    /// Notes that `ordinal` has read the journal up to `sequence`.
    pub(super) fn note_read(&self, ordinal: u64, sequence: Sequence) {
        if let Some(slot) = self.inner.lock().slot(ordinal) {
            slot.read = sequence;
        }
    }

    /// Ends the holding: what waited is queued and `ordinal` is live. `false` when more came than may wait; it then has
    /// to read on from where it was.
    pub(super) fn join(&self, ordinal: u64) -> bool {
        let mut inner = self.inner.lock();
        let Some(slot) = inner.slot(ordinal) else {
            return true;
        };
        let id = slot.id;
        match std::mem::replace(&mut slot.mode, Mode::Live) {
            Mode::Holding { held, .. } => {
                for update in held {
                    let subscribers = Subscribers::One(id);
                    self.append(
                        &mut inner,
                        Item::Update {
                            update,
                            subscribers,
                        },
                    );
                }
                true
            }
            Mode::Live => true,
            reading @ (Mode::Reading | Mode::Muted) => {
                slot.mode = reading;
                false
            }
        }
    }

    /// Forgets a subscription; what is queued for it stays.
    pub(super) fn remove(&self, ordinal: u64) {
        self.inner
            .lock()
            .slots
            .retain(|slot| slot.ordinal != ordinal);
    }

    // The dispatcher's side.

    /// Hands a live update to one subscription. Of an update that is handed over several times to one subscription only
    /// the first counts; of one for several subscriptions one message is made.
    pub(super) fn deliver(&self, ordinal: u64, update: &Arc<EncodedUpdate>) -> Delivery {
        let mut inner = self.inner.lock();
        if inner.state != State::Open {
            return Delivery::Ignored;
        }
        let sequence = update.sequence();
        let held_bytes_max = self.held_bytes_max;
        let Some(slot) = inner.slot(ordinal) else {
            return Delivery::Ignored;
        };
        if sequence <= slot.heard {
            return Delivery::Ignored;
        }
        let id = slot.id;
        match &mut slot.mode {
            Mode::Muted | Mode::Reading => return Delivery::Ignored,
            Mode::Holding { held, held_bytes } => {
                slot.heard = sequence;
                *held_bytes += update.size_bytes(1) + ITEM_BYTES;
                held.push_back(Arc::clone(update));
                if *held_bytes > held_bytes_max {
                    slot.mode = Mode::Reading;
                }
                return Delivery::Queued {
                    first: inner.mark_dirty(),
                };
            }
            Mode::Live => slot.heard = sequence,
        }
        let again = std::mem::replace(&mut inner.queued_to, sequence) == sequence;
        self.append_live(&mut inner, update, id, again);
        Delivery::Queued {
            first: inner.mark_dirty(),
        }
    }

    /// Makes everything queued so far visible and wakes the connection. Whether it is worth waiting for: more than half
    /// of the bound is used, though the connection took something since the last time that was so.
    pub(super) fn publish(&self) -> bool {
        let (waker, pressed) = {
            let mut inner = self.inner.lock();
            inner.dirty = false;
            // Its credit lasts until it is needed.
            let over = inner.bytes > self.bytes_max / 2;
            let pressed = over && std::mem::replace(&mut inner.taken, false);
            if inner.state == State::Open {
                inner.visible = inner.items.len();
                inner.published_to = inner.queued_to;
            }
            (inner.waker.take(), pressed)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        pressed
    }

    // Inside.

    /// Adds a live update behind what is hidden, or, when it was queued for another subscription already (`again`), the
    /// id to its message.
    fn append_live(&self, inner: &mut Inner, update: &Arc<EncodedUpdate>, id: Uuid, again: bool) {
        let hidden = if again {
            inner.items.len() - inner.visible
        } else {
            0
        };
        let same = inner
            .items
            .iter_mut()
            .rev()
            .take(hidden)
            .find_map(|item| match item {
                Item::Update {
                    update: queued,
                    subscribers,
                } if Arc::ptr_eq(queued, update) => Some(subscribers),
                Item::Update { .. } | Item::Own(_) => None,
            });
        if let Some(subscribers) = same {
            let before = update.size_bytes(subscribers.as_slice().len());
            subscribers.add(id);
            let added = update.size_bytes(subscribers.as_slice().len()) - before;
            self.charge(inner, added);
        } else {
            let item = Item::Update {
                update: Arc::clone(update),
                subscribers: Subscribers::One(id),
            };
            let cost = item.size_bytes() + ITEM_BYTES;
            inner.items.push_back(item);
            self.charge(inner, cost);
        }
    }

    /// Adds an item of the connection's own doing: visible at once, unless something hidden stands before it.
    fn append(&self, inner: &mut Inner, item: Item) {
        if inner.state != State::Open {
            return;
        }
        let cost = item.size_bytes() + ITEM_BYTES;
        if inner.visible == inner.items.len() {
            inner.visible += 1;
        }
        inner.items.push_back(item);
        self.charge(inner, cost);
    }

    fn charge(&self, inner: &mut Inner, bytes: usize) {
        inner.bytes += bytes;
        self.queued_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if inner.bytes > self.bytes_max {
            inner.state = State::Overflowed {
                resume_after: inner.unsent_after(),
            };
            inner.items = VecDeque::new();
            inner.visible = 0;
            let dropped = inner.bytes;
            self.release(inner, dropped);
        }
    }

    fn release(&self, inner: &mut Inner, bytes: usize) {
        inner.bytes -= bytes;
        self.queued_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let left = self.inner.get_mut().bytes;
        self.queued_bytes.fetch_sub(left as u64, Ordering::Relaxed);
    }
}

impl Inner {
    fn slot(&mut self, ordinal: u64) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.ordinal == ordinal)
    }

    fn mark_dirty(&mut self) -> bool {
        !std::mem::replace(&mut self.dirty, true)
    }

    /// `live`, or less where a subscription has not read the journal up to there.
    fn reached(&self, live: Sequence) -> Sequence {
        self.slots
            .iter()
            .filter(|slot| matches!(slot.mode, Mode::Reading | Mode::Holding { .. }))
            .fold(live, |least, slot| least.min(slot.read))
    }

    /// The sequence before the first update that still stands in the queue; without one, as far as is known to be sent.
    fn unsent_after(&self) -> Sequence {
        let unsent = self.items.iter().filter_map(|item| match item {
            Item::Update { update, .. } => Some(update.sequence().previous()),
            Item::Own(_) => None,
        });
        let sent = unsent.min().unwrap_or_else(|| {
            let live = self
                .slots
                .iter()
                .filter(|slot| matches!(slot.mode, Mode::Live));
            let heard = live.map(|slot| slot.heard).min().unwrap_or_default();
            heard.max(self.published_to)
        });
        self.reached(sent)
    }
}
