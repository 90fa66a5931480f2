//! Who may pay whom: one thread decides, everyone else asks.
//!
//! `state.rs` has the rules, pure; `thread.rs` runs them, the only one that appends to the journal; `books.rs` is the
//! durable view that queries read and `checkpoint.rs` writes out; `handle.rs` has the verbs for others, `query.rs`
//! the questions. `pace.rs` and `bell.rs` decide how large a group gets before it is committed. `audit.rs` holds a whole
//! journal against the rules. `start.rs` puts them together: checkpoint, replay, check of the sums, threads.

mod audit;
mod bell;
#[doc(hidden)]
pub mod bench;
mod books;
mod checkpoint;
mod command;
mod config;
mod error;
mod handle;
mod pace;
mod query;
mod start;
mod state;
mod thread;
mod time;

#[cfg(test)]
mod audit_tests;
#[cfg(test)]
mod fault_model;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod fault_world;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod naive;
#[cfg(test)]
mod start_tests;

pub use audit::{Audit, Audited, Fault, LookUp, Tell};
pub use books::Total;
pub use checkpoint::{CheckpointError, Loaded};
pub use command::{
    AmendCommand, BatchItem, Change, Command, HoldSpec, MovementRequest, OpenWallet, Receipt, Reply,
};
pub use config::Config;
pub use error::{QueryError, Refusal, Refused, SubmitError};
pub use handle::{LedgerHandle, Suspension};
pub use query::{BalanceView, HistoryPage, PendingPage, Queries, TransactionRecord, WalletStats};
pub use start::{Ledger, LedgerStats, Replayed, StartError};
