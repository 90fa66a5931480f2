//! What can be asked of the ledger, already parsed and valid in shape, and what it answers.

use super::{Refused, query::TransactionRecord};
use crate::types::{
    Currency, FraudScore, MinorUnits, Sequence, Status, TimestampMs, TransactionId, WalletId,
};
use std::sync::Arc;

/// One request to the ledger.
#[derive(Clone, Debug)]
pub enum Command {
    /// Move or hold money between two wallets.
    Transfer(MovementRequest),
    /// Bring money in: `from` is ignored and replaced by the currency's issuer.
    Issue(MovementRequest),
    /// Take money out: `to` is ignored and replaced by the currency's issuer.
    Redeem(MovementRequest),
    /// Open an account.
    OpenWallet(OpenWallet),
    /// Change a transaction.
    Amend(AmendCommand),
    /// Several transfers in one group; `atomic`: all or none.
    Batch {
        /// In order. Items that cannot be parsed are refused before the ledger sees the batch (atomic), or stand as
        /// [`BatchItem::Invalid`] and are skipped.
        items: Vec<BatchItem>,
        /// All or none.
        atomic: bool,
    },
}

/// One place in a batch.
#[derive(Clone, Debug)]
pub enum BatchItem {
    /// A transfer to be decided.
    Transfer(MovementRequest),
    /// Refused at the edge already; keeps its place in the results.
    Invalid,
}

/// Money to be moved. `from` and `to` differ and neither is an issuer (checked at the edge).
#[derive(Clone, Debug)]
pub struct MovementRequest {
    /// Who pays.
    pub from: WalletId,
    /// Who receives.
    pub to: WalletId,
    /// Of what; a currency of the table.
    pub currency: Currency,
    /// How much; above zero.
    pub amount: MinorUnits,
    /// JSON text of an object, within the limit.
    pub metadata: Option<Box<str>>,
    /// Put on hold instead of moving at once.
    pub hold: Option<HoldSpec>,
}

/// How long a hold lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldSpec {
    /// 1 ms to 30 days.
    pub expires_in_ms: u64,
}

/// An account to be opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenWallet {
    /// The wallet (made at the edge when the client names none).
    pub wallet: WalletId,
    /// The account's currency.
    pub currency: Currency,
    /// How far below zero it may go; not negative.
    pub overdraft_limit: MinorUnits,
}

/// A change of a transaction, with the transaction as the caller read it: the ledger thread reads no disk, it only
/// checks that nothing changed the transaction since ([`super::SubmitError::Stale`] otherwise: read again, ask again).
#[derive(Clone, Debug)]
pub struct AmendCommand {
    /// As read by [`super::Queries::transaction`].
    pub record: Arc<TransactionRecord>,
    /// What to do.
    pub change: Change,
    /// Who asks, as told by the client; at most 128 bytes.
    pub user_id: Option<Box<str>>,
    /// JSON text of an object, within the limit.
    pub details: Option<Box<str>>,
}

/// What to do with a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// pending → completed: capture the hold.
    Complete,
    /// pending → failed: void the hold.
    Fail,
    /// completed → reversed: move the money back.
    Reverse,
    /// Set the fraud score.
    Score(FraudScore),
}

/// What the ledger answers, once it is durable.
#[derive(Clone, Debug)]
pub enum Reply {
    /// For transfer, issue, redeem.
    Transaction(Receipt),
    /// For an opened account: its sequence and time.
    WalletOpened {
        /// Of the last event.
        sequence: Sequence,
        /// Ledger time.
        at: TimestampMs,
    },
    /// For an amendment.
    Amended {
        /// Of the last event.
        sequence: Sequence,
        /// Ledger time.
        at: TimestampMs,
    },
    /// For a batch: one result an item, in order; `None` for [`BatchItem::Invalid`].
    Batch(Vec<Option<Result<Receipt, Refused>>>),
}

/// A transaction that was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Its id.
    pub transaction: TransactionId,
    /// Completed or pending.
    pub status: Status,
    /// Ledger time.
    pub at: TimestampMs,
    /// First of its events.
    pub first_sequence: Sequence,
    /// Last of its events.
    pub sequence: Sequence,
}
