//! What can go wrong when one asks the ledger, one enum an operation.

use crate::journal::ReadError;
use crate::types::{Sequence, TransactionId, WalletId};

/// A rule said no: part of normal life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The wallet was never opened. Not journaled.
    #[error("wallet {0} not found")]
    WalletNotFound(WalletId),
    /// The account exists. Not journaled.
    #[error("wallet {0} has an account in this currency already")]
    WalletExists(WalletId),
    /// Balance less holds plus overdraft limit does not reach.
    #[error("insufficient funds")]
    InsufficientFunds,
    /// A balance would leave the range of 64 bits.
    #[error("balance out of range")]
    BalanceOverflow,
    /// The transaction's status does not allow the change. Not journaled.
    #[error("invalid status transition")]
    InvalidStatusTransition,
    /// The transaction has as many audit entries as allowed. Not journaled.
    #[error("too many audit entries")]
    AuditTrailFull,
    /// As many holds are open as allowed. Not journaled.
    #[error("too many open holds")]
    TooManyHolds,
}

/// A refusal, and what it left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{refusal}")]
pub struct Refused {
    /// Which rule.
    pub refusal: Refusal,
    /// The failed transaction that was journaled, with the sequence of its last event, where the rule journals one.
    pub journaled: Option<(TransactionId, Sequence)>,
}

/// Why a command got no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full. Nothing recorded; retry later.
    #[error("the ledger is busy")]
    Busy,
    /// A rule said no. No use in a retry.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// An atomic batch was refused whole because of item `index`. Nothing recorded.
    #[error("item {index}: {refusal}")]
    BatchRefused {
        /// Place of the item, from 0.
        index: usize,
        /// Why.
        refusal: Refusal,
    },
    /// The transaction changed since it was read. Nothing recorded; read again once `durable` is reached, ask again.
    #[error("the transaction changed meanwhile")]
    Stale,
    /// The store is failing or closed. Nothing recorded.
    #[error("storage unavailable")]
    Unavailable,
    /// The disk is full but for its reserve. Nothing recorded; retry once there is room.
    #[error("disk full")]
    DiskFull,
    /// Stopped before the answer. Perhaps recorded.
    #[error("outcome unknown")]
    Unknown,
}

/// Why a query has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueryError {
    /// The journal could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// More entries would have to be read than allowed.
    #[error("more than {entries_max} entries would have to be read")]
    TooMuch {
        /// The limit.
        entries_max: u64,
    },
    /// The cursor is no transaction of the wallet.
    #[error("invalid cursor")]
    InvalidCursor,
    /// The query ended without an answer: the process is stopping, or the query panicked.
    #[error("the query was stopped")]
    Stopped,
}

impl Refusal {
    /// The code on the wire.
    pub const fn code(self) -> &'static str {
        match self {
            Self::WalletNotFound(_) => "WALLET_NOT_FOUND",
            Self::WalletExists(_) => "WALLET_ALREADY_EXISTS",
            Self::InsufficientFunds => "INSUFFICIENT_FUNDS",
            Self::BalanceOverflow => "BALANCE_OVERFLOW",
            Self::InvalidStatusTransition => "INVALID_STATUS_TRANSITION",
            Self::AuditTrailFull => "AUDIT_TRAIL_FULL",
            Self::TooManyHolds => "TOO_MANY_HOLDS",
        }
    }
}
