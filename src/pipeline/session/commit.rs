//! The session's transactions. Without any (`transactions` is `None`) every question here has a short answer.

use super::{End, Session, Shipper, WAIT_BUSY};
use crate::pipeline::acks::Finality;
use crate::pipeline::config::Delivery;
use crate::pipeline::producer::Link;
use crate::pipeline::transaction::Transactions;
use std::time::Duration;

/// Longest wait for one answer of the brokers between two looks at whether to stop.
const ANSWER_WAIT: Duration = Duration::from_millis(250);
/// Longest wait for an abort at the end.
const ABORT_WAIT: Duration = Duration::from_secs(1);

/// When records are final under `delivery`.
pub(super) fn finality(delivery: Delivery) -> Finality {
    match delivery {
        Delivery::Idempotent => Finality::OnAck,
        Delivery::ExactlyOnce => Finality::OnCommit,
    }
}

/// Fences the predecessors of `link`.
pub(super) fn fence(ship: &mut Shipper, link: &Link) -> Result<(), End> {
    let deadline = ship.clock.monotonic() + ship.patience.wait();
    while !link.fence(ANSWER_WAIT)? {
        if ship.drain_is_over() {
            return Err(End::Stopping);
        }
        if ship.clock.monotonic() >= deadline {
            ship.patience.failed();
            return Err(End::Broken("kafka fencing: no answer".into()));
        }
    }
    Ok(())
}

impl Session<'_> {
    /// Makes sure that a record may be sent now: in a transaction that has room, where it needs one.
    pub(super) fn make_room(&mut self) -> Result<(), End> {
        if self.ship.transactions.is_none() {
            return Ok(());
        }
        if self.commit_is_due() {
            self.commit()?;
        }
        let now = self.ship.clock.monotonic();
        if let Some(transactions) = &mut self.ship.transactions
            && !transactions.is_open()
        {
            self.link.begin()?;
            transactions.begin(now);
        }
        Ok(())
    }

    /// A record was handed over.
    pub(super) fn note_sent(&mut self) {
        if let Some(transactions) = &mut self.ship.transactions {
            transactions.sent();
        }
    }

    /// `wait`, or less where a commit is due earlier.
    pub(super) fn until_commit(&self, wait: Duration) -> Duration {
        let transactions = self.ship.transactions.as_ref();
        let due = transactions.and_then(|open| open.due_in(self.ship.clock.monotonic()));
        due.map_or(wait, |due| due.min(wait))
    }

    pub(super) fn commit_is_due(&self) -> bool {
        self.until_commit(Duration::MAX).is_zero()
    }

    /// Commits the open transaction, if there is one. Nothing can be sent meanwhile.
    pub(super) fn commit(&mut self) -> Result<(), End> {
        while self.has_open_transaction() {
            self.collect()?;
            self.keep_house()?;
            if self.ship.drain_is_over() {
                return Err(End::Stopping);
            }
            if self.acks.in_flight() > 0 {
                self.link.wait_for_reports(WAIT_BUSY);
            } else if self.link.commit(ANSWER_WAIT)? {
                self.acks.committed();
                if let Some(transactions) = &mut self.ship.transactions {
                    transactions.committed();
                }
            }
        }
        self.collect()
    }

    pub(super) fn has_open_transaction(&self) -> bool {
        let transactions = self.ship.transactions.as_ref();
        transactions.is_some_and(Transactions::is_open)
    }

    /// The session ends for `end`, and so does what is open.
    pub(super) fn give_up_open_transaction(&mut self, end: &End) {
        if !self.has_open_transaction() {
            return;
        }
        // A broken producer's transaction is aborted by the next one's fence.
        if !matches!(end, End::Broken(_)) {
            self.link.abort(ABORT_WAIT);
        }
        if let Some(transactions) = &mut self.ship.transactions {
            transactions.given_up();
        }
    }
}
