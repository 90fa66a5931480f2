//! The naive ledger: plain maps, whole copies, no chains, and the random commands that both ledgers are asked.
//!
//! `model_tests` holds the rules against it, `fault_tests` the whole ledger with its journal and its checkpoints.

use super::books::{Books, SHARDS};
use super::command::{Change, HoldSpec, MovementRequest};
use super::state::Rules;
use crate::types::{Currency, FraudScore, MinorUnits, Status, TransactionId, WalletId};
use proptest::prelude::*;
use std::collections::BTreeMap;
use uuid::Uuid;

pub(super) const USD: Currency = Currency::from_tag(1);
pub(super) const WALLETS: u8 = 5;
pub(super) const HOLD_MS: u64 = 1_000;

pub(super) fn wallet(number: u8) -> WalletId {
    WalletId::new(Uuid::from_u128(u128::from(number) + 1)).unwrap()
}

pub(super) fn minor(amount: i64) -> MinorUnits {
    MinorUnits::new(amount)
}

pub(super) fn rules() -> Rules {
    Rules {
        open_holds_max: 8,
        audit_entries_max: 6,
        opening_balances: None,
    }
}

pub(super) fn request(from: u8, to: u8, amount: i64, hold: bool) -> MovementRequest {
    MovementRequest {
        from: wallet(from),
        to: wallet(to),
        currency: USD,
        amount: minor(amount),
        metadata: None,
        hold: hold.then_some(HoldSpec {
            expires_in_ms: HOLD_MS,
        }),
    }
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Open {
        wallet: u8,
        overdraft: i64,
    },
    Issue {
        to: u8,
        amount: i64,
    },
    Redeem {
        from: u8,
        amount: i64,
    },
    Transfer {
        from: u8,
        to: u8,
        amount: i64,
        hold: bool,
    },
    Amend {
        which: usize,
        change: Change,
    },
    Batch {
        items: Vec<(u8, u8, i64, bool)>,
        atomic: bool,
    },
    Wait {
        ms: u64,
    },
    EndGroup,
}

/// Any command, or some time.
pub(super) fn op() -> impl Strategy<Value = Op> {
    let wallets = || 0..WALLETS;
    let amount = || 1..500_i64;
    let pair = || (wallets(), wallets()).prop_filter("from ≠ to", |(a, b)| a != b);
    let change = prop_oneof![
        Just(Change::Complete),
        Just(Change::Fail),
        Just(Change::Reverse),
        (0..=1_000_000_u32).prop_map(|s| Change::Score(FraudScore::from_millionths(s).unwrap())),
    ];
    let item = (pair(), amount(), any::<bool>()).prop_map(|((a, b), n, h)| (a, b, n, h));
    prop_oneof![
        2 => (wallets(), 0..100_i64).prop_map(|(wallet, overdraft)| Op::Open { wallet, overdraft }),
        2 => (wallets(), amount()).prop_map(|(to, amount)| Op::Issue { to, amount }),
        1 => (wallets(), amount()).prop_map(|(from, amount)| Op::Redeem { from, amount }),
        6 => (pair(), amount(), any::<bool>())
            .prop_map(|((from, to), amount, hold)| Op::Transfer { from, to, amount, hold }),
        6 => (any::<usize>(), change).prop_map(|(which, change)| Op::Amend { which, change }),
        2 => (proptest::collection::vec(item, 1..6), any::<bool>())
            .prop_map(|(items, atomic)| Op::Batch { items, atomic }),
        1 => (1..HOLD_MS).prop_map(|ms| Op::Wait { ms }),
        2 => Just(Op::EndGroup),
    ]
}

/// The naive ledger: plain maps, whole copies, no chains.
#[derive(Clone, Default, Debug)]
pub(super) struct Naive {
    pub(super) accounts: BTreeMap<WalletId, NaiveAccount>,
    pub(super) transactions: Vec<NaiveTransaction>,
}

#[derive(Clone, Default, PartialEq, Debug)]
pub(super) struct NaiveAccount {
    pub(super) balance: i64,
    pub(super) held: i64,
    pub(super) overdraft: i64,
}

#[derive(Clone, Debug)]
pub(super) struct NaiveTransaction {
    pub(super) id: TransactionId,
    pub(super) from: WalletId,
    pub(super) to: WalletId,
    pub(super) amount: i64,
    pub(super) status: Status,
    pub(super) score: FraudScore,
    pub(super) expires_at: Option<u64>,
    pub(super) changes: u32,
}

impl Naive {
    pub(super) fn open_holds(&self) -> usize {
        self.transactions
            .iter()
            .filter(|t| t.status == Status::Pending)
            .count()
    }

    /// What the ledger should say of a transfer: the code it refuses with, or the status it gives.
    pub(super) fn judge(&self, request: &MovementRequest) -> Result<Status, &'static str> {
        let known = |id: WalletId| id.is_issuer() || self.accounts.contains_key(&id);
        if !known(request.from) || !known(request.to) {
            return Err("WALLET_NOT_FOUND");
        }
        if request.hold.is_some() && self.open_holds() >= rules().open_holds_max {
            return Err("TOO_MANY_HOLDS");
        }
        let payer = self
            .accounts
            .get(&request.from)
            .cloned()
            .unwrap_or_default();
        let free = payer.balance - payer.held + payer.overdraft;
        if !request.from.is_issuer() && free < request.amount.get() {
            return Err("INSUFFICIENT_FUNDS");
        }
        Ok(if request.hold.is_some() {
            Status::Pending
        } else {
            Status::Completed
        })
    }

    pub(super) fn move_money(&mut self, from: WalletId, to: WalletId, amount: i64) {
        self.accounts.entry(from).or_default().balance -= amount;
        self.accounts.entry(to).or_default().balance += amount;
    }

    pub(super) fn note(
        &mut self,
        id: TransactionId,
        request: &MovementRequest,
        status: Status,
        now: u64,
    ) {
        let amount = request.amount.get();
        match status {
            Status::Completed => self.move_money(request.from, request.to, amount),
            Status::Pending => self.accounts.entry(request.from).or_default().held += amount,
            Status::Failed | Status::Reversed => {}
        }
        self.transactions.push(NaiveTransaction {
            id,
            from: request.from,
            to: request.to,
            amount,
            status,
            score: FraudScore::ZERO,
            expires_at: request.hold.map(|hold| now + hold.expires_in_ms),
            changes: 0,
        });
    }

    pub(super) fn expire(&mut self, now: u64) {
        for index in 0..self.transactions.len() {
            let t = self.transactions[index].clone();
            if t.status == Status::Pending && t.expires_at.is_some_and(|at| at <= now) {
                self.accounts.entry(t.from).or_default().held -= t.amount;
                self.transactions[index].status = Status::Failed;
                self.transactions[index].changes += 1;
            }
        }
    }

    /// Applies a change, or names the code it is refused with.
    pub(super) fn amend(&mut self, index: usize, change: Change) -> Result<(), &'static str> {
        let t = self.transactions[index].clone();
        let issuer = t.from.is_issuer() || t.to.is_issuer();
        let most = rules().audit_entries_max;
        let room = match (change, t.status) {
            (Change::Complete | Change::Fail, Status::Pending) => t.changes < most,
            (Change::Reverse, Status::Completed) if !issuer => t.changes < most,
            (Change::Score(_), _) => t.changes + 2 < most,
            _ => return Err("INVALID_STATUS_TRANSITION"),
        };
        if !room {
            return Err("AUDIT_TRAIL_FULL");
        }
        let status = match change {
            Change::Complete => {
                self.accounts.entry(t.from).or_default().held -= t.amount;
                self.move_money(t.from, t.to, t.amount);
                Status::Completed
            }
            Change::Fail => {
                self.accounts.entry(t.from).or_default().held -= t.amount;
                Status::Failed
            }
            Change::Reverse => {
                let payer = self.accounts.entry(t.to).or_default();
                if payer.balance - payer.held + payer.overdraft < t.amount {
                    return Err("INSUFFICIENT_FUNDS");
                }
                self.move_money(t.to, t.from, t.amount);
                Status::Reversed
            }
            Change::Score(score) => {
                self.transactions[index].score = score;
                t.status
            }
        };
        self.transactions[index].status = status;
        self.transactions[index].changes += 1;
        Ok(())
    }
}

/// Every row of the books, in one order: equal for equal books.
pub(super) fn every_row(books: &Books) -> String {
    let mut rows = Vec::new();
    for index in 0..SHARDS {
        let shard = books.shard(index);
        rows.extend(shard.wallets.iter().map(|row| format!("{row:?}")));
        rows.extend(shard.amended.iter().map(|row| format!("{row:?}")));
        rows.extend(shard.holds.iter().map(|row| format!("{row:?}")));
    }
    rows.sort();
    rows.join("\n")
}
