//! Entries, and a tracker whose durable watermark a test moves by hand.

use super::{Config, Dispatcher, Item, Subscriber, Taken, TrackerHandle};
use crate::clock::{ManualClock, SharedClock};
use crate::journal::entry::{
    Amendment, Body, ChainLink, Entry, FailureReason, HoldPlaced, Leg, Movement, RefusedMovement,
    Scored, VoidedHold,
};
use crate::metrics::Metrics;
use crate::types::{
    Currency, FraudScore, MinorUnits, Sequence, Status, TimestampMs, TransactionId, WalletId,
};
use crate::watermark::{WatermarkWriter, watermark};
use std::sync::Arc;
use uuid::Uuid;

pub(crate) const AT: TimestampMs = TimestampMs::new(1_795_387_017_045);

pub(crate) fn wallet(number: u128) -> WalletId {
    WalletId::new(Uuid::from_u128(0xa000 + number)).unwrap()
}

pub(crate) fn transaction(number: u64) -> TransactionId {
    TransactionId(Uuid::from_u128(0xb000_0000 + u128::from(number)))
}

fn leg(wallet: WalletId) -> Leg {
    Leg {
        wallet,
        balance_after: MinorUnits::new(100),
        held_after: MinorUnits::ZERO,
        link: ChainLink::default(),
    }
}

/// Of the transaction that carries the number of the entry's first sequence.
fn movement(first: u64, from: u128, to: u128) -> Movement {
    Movement {
        transaction: transaction(first),
        from: leg(wallet(from)),
        to: leg(wallet(to)),
        currency: Currency::from_tag(1),
        amount: MinorUnits::new(5),
        metadata: None,
    }
}

fn amendment(created: u64, from: u128, to: u128, before: Status) -> Amendment {
    Amendment {
        transaction: transaction(created),
        created: Sequence::new(created),
        previous_amendment: Sequence::ORIGIN,
        ordinal: 1,
        from: leg(wallet(from)),
        to: leg(wallet(to)),
        currency: Currency::from_tag(1),
        amount: MinorUnits::new(5),
        fraud_score: FraudScore::from_millionths(250_000).unwrap(),
        status_before: before,
        user_id: None,
        details: None,
    }
}

fn entry(first: u64, body: Body) -> Entry {
    Entry {
        first: Sequence::new(first),
        at: AT,
        idempotency: None,
        batch: None,
        body,
    }
}

pub(crate) fn transfer(first: u64, from: u128, to: u128) -> Entry {
    entry(first, Body::Transfer(movement(first, from, to)))
}

pub(crate) fn refused(first: u64, from: u128, to: u128) -> Entry {
    let reason = FailureReason::InsufficientFunds;
    entry(
        first,
        Body::TransferRefused(RefusedMovement {
            movement: movement(first, from, to),
            reason,
        }),
    )
}

pub(crate) fn hold(first: u64, from: u128, to: u128) -> Entry {
    entry(
        first,
        Body::HoldPlaced(HoldPlaced {
            movement: movement(first, from, to),
            expires_at: AT,
        }),
    )
}

pub(crate) fn capture(first: u64, created: u64, from: u128, to: u128) -> Entry {
    entry(
        first,
        Body::HoldCaptured(amendment(created, from, to, Status::Pending)),
    )
}

pub(crate) fn void(first: u64, created: u64, from: u128, to: u128) -> Entry {
    let amendment = amendment(created, from, to, Status::Pending);
    entry(
        first,
        Body::HoldVoided(VoidedHold {
            amendment,
            reason: FailureReason::Voided,
        }),
    )
}

pub(crate) fn reversal(first: u64, created: u64, from: u128, to: u128) -> Entry {
    entry(
        first,
        Body::Reversal(amendment(created, from, to, Status::Completed)),
    )
}

pub(crate) fn scored(first: u64, created: u64, from: u128, to: u128, millionths: u32) -> Entry {
    let amendment = amendment(created, from, to, Status::Completed);
    let new_score = FraudScore::from_millionths(millionths).unwrap();
    entry(
        first,
        Body::FraudScored(Scored {
            amendment,
            new_score,
        }),
    )
}

/// A tracker, its journal as a list, and the writer of the durable watermark.
pub(crate) struct Rig {
    pub(crate) handle: TrackerHandle,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) durable: WatermarkWriter,
    pub(crate) journal: Vec<Entry>,
    dispatched: usize,
}

impl Rig {
    pub(crate) fn new(config: Config) -> Self {
        let clock: SharedClock = Arc::new(ManualClock::new(AT, 1));
        let (durable, reading) = watermark(Sequence::ORIGIN);
        let (handle, dispatcher) =
            super::new(config, Sequence::ORIGIN, reading, clock, Metrics::default());
        Self {
            handle,
            dispatcher,
            durable,
            journal: Vec::new(),
            dispatched: 0,
        }
    }

    /// The sequence of the next entry.
    pub(crate) fn next(&self) -> u64 {
        self.journal
            .last()
            .map_or(1, |entry| entry.last().next().get())
    }

    /// Makes an entry durable. Nobody hears of it before [`Rig::dispatch`].
    pub(crate) fn commit(&mut self, entry: Entry) {
        assert_eq!(
            entry.first.get(),
            self.next(),
            "the fixture's journal has no gaps"
        );
        self.durable.advance_to(entry.last());
        self.journal.push(entry);
    }

    pub(crate) fn commit_transfer(&mut self, from: u128, to: u128) {
        self.commit(transfer(self.next(), from, to));
    }

    /// Dispatches what is durable.
    pub(crate) fn dispatch(&mut self) {
        self.dispatcher.dispatch(&self.journal[self.dispatched..]);
        self.dispatched = self.journal.len();
    }

    /// Dispatches the next durable entry; `false` when there is none.
    pub(crate) fn dispatch_one(&mut self) -> bool {
        let next = self.journal.get(self.dispatched);
        self.dispatched += usize::from(next.is_some());
        next.is_some_and(|entry| {
            self.dispatcher.dispatch(std::slice::from_ref(entry));
            true
        })
    }

    /// At most `count` entries behind `after`, as the journal's reader gives them.
    pub(crate) fn read(&self, after: Sequence, count: usize) -> Vec<Entry> {
        self.journal
            .iter()
            .filter(|entry| entry.last() > after)
            .take(count)
            .cloned()
            .collect()
    }
}

/// A message that came out of a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    Update { sequence: u64, ids: Vec<Uuid> },
    Own(String),
}

/// Everything that can be taken now.
pub(crate) fn drain(subscriber: &Subscriber) -> Vec<Heard> {
    let mut items = Vec::new();
    while subscriber.outbox().take(usize::MAX, &mut items) == Taken::Some {}
    items
        .into_iter()
        .map(|item| match item {
            Item::Update {
                update,
                subscribers,
            } => {
                let mut ids = subscribers.as_slice().to_vec();
                ids.sort_unstable();
                Heard::Update {
                    sequence: update.sequence().get(),
                    ids,
                }
            }
            Item::Own(bytes) => Heard::Own(String::from_utf8(bytes.to_vec()).unwrap()),
        })
        .collect()
}

/// The sequences of the updates among `heard`.
pub(crate) fn sequences(heard: &[Heard]) -> Vec<u64> {
    heard
        .iter()
        .filter_map(|one| match one {
            Heard::Update { sequence, .. } => Some(*sequence),
            Heard::Own(_) => None,
        })
        .collect()
}
