//! What a subscription wants to hear, and what its caller may hear.

use super::update::StatusUpdate;
use crate::types::{Status, TransactionId, WalletId};
use std::collections::HashSet;
use std::sync::Arc;

/// The wallets that a caller may see; `None`: all.
pub type Visible = Option<Arc<HashSet<WalletId>>>;

/// What a subscription wants to hear. The three dimensions are joined by AND, the values of one by OR; an empty
/// dimension allows everything. A wallet matches payer and receiver.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    transactions: Box<[TransactionId]>,
    wallets: Box<[WalletId]>,
    statuses: StatusSet,
}

/// A set of statuses in one byte; empty: all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct StatusSet(u8);

impl StatusSet {
    const fn bit(status: Status) -> u8 {
        match status {
            Status::Pending => 1,
            Status::Completed => 2,
            Status::Failed => 4,
            Status::Reversed => 8,
        }
    }

    const fn allows(self, status: Status) -> bool {
        self.0 == 0 || self.0 & Self::bit(status) != 0
    }
}

impl Filter {
    /// A filter of these values; repeats do no harm.
    pub fn new(
        mut transactions: Vec<TransactionId>,
        mut wallets: Vec<WalletId>,
        statuses: &[Status],
    ) -> Self {
        transactions.sort_unstable();
        transactions.dedup();
        wallets.sort_unstable();
        wallets.dedup();
        let statuses = statuses
            .iter()
            .fold(0, |bits, status| bits | StatusSet::bit(*status));
        Self {
            transactions: transactions.into(),
            wallets: wallets.into(),
            statuses: StatusSet(statuses),
        }
    }

    /// The transactions asked for, in order; empty: all.
    pub fn transactions(&self) -> &[TransactionId] {
        &self.transactions
    }

    /// The wallets asked for, in order; empty: all.
    pub fn wallets(&self) -> &[WalletId] {
        &self.wallets
    }

    /// The statuses asked for; empty: all.
    pub fn statuses(&self) -> impl Iterator<Item = Status> + '_ {
        [
            Status::Pending,
            Status::Completed,
            Status::Failed,
            Status::Reversed,
        ]
        .into_iter()
        .filter(|status| self.statuses.0 & StatusSet::bit(*status) != 0)
    }

    /// Whether `update` is asked for.
    pub fn matches(&self, update: &StatusUpdate) -> bool {
        let wants_wallet = |wallet| self.wallets.binary_search(wallet).is_ok();
        self.statuses.allows(update.status)
            && (self.transactions.is_empty()
                || self.transactions.binary_search(&update.transaction).is_ok())
            && (self.wallets.is_empty() || wants_wallet(&update.from) || wants_wallet(&update.to))
    }
}

/// Whether who sees only `visible` may hear of `update`: one of its wallets is theirs.
pub(super) fn may_hear(visible: &Visible, update: &StatusUpdate) -> bool {
    visible
        .as_ref()
        .is_none_or(|wallets| wallets.contains(&update.from) || wallets.contains(&update.to))
}
