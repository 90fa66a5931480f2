//! The durable view: what every wallet has, which holds are open, which transactions were changed.
//!
//! Many small maps (shards), each behind its own lock. The ledger thread is the only writer, and it writes only what
//! is durable (I2), so whoever reads here never hears of what a crash could take back, and a checkpoint may
//! serialise any shard at any moment. Everything here is derived from the journal.

use crate::journal::entry::{Amendment, Body, Entry, Leg, SKIP_EVERY};
use crate::types::{
    Currency, FraudScore, MinorUnits, Sequence, Status, TimestampMs, TransactionId, WalletId,
};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Number of shards. Part of the checkpoint's format: a row's shard follows from its key.
pub(super) const SHARDS: usize = 4_096;

/// One currency's money.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Total {
    /// Which currency.
    pub currency: Currency,
    /// In all wallets but the issuer's, in minor units.
    pub circulating_minor: i128,
    /// Under hold, in minor units.
    pub held_minor: i128,
    /// Sum over all wallets, the issuer's too: zero.
    pub sum_minor: i128,
}

/// One account of a wallet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Account {
    pub(super) currency: Currency,
    pub(super) balance: MinorUnits,
    pub(super) held: MinorUnits,
    pub(super) overdraft_limit: MinorUnits,
    pub(super) updated_at: TimestampMs,
}

impl Account {
    /// What may leave the account: balance less holds plus overdraft limit. Wide, so that nothing overflows.
    pub(super) fn available_minor(&self) -> i128 {
        i128::from(self.balance.get()) - i128::from(self.held.get())
            + i128::from(self.overdraft_limit.get())
    }
}

/// A wallet's accounts. Nearly every wallet has one, which then needs no allocation of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Accounts {
    One(Account),
    Many(Vec<Account>),
}

impl Default for Accounts {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Accounts {
    pub(super) fn as_slice(&self) -> &[Account] {
        match self {
            Self::One(account) => std::slice::from_ref(account),
            Self::Many(accounts) => accounts,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Account] {
        match self {
            Self::One(account) => std::slice::from_mut(account),
            Self::Many(accounts) => accounts,
        }
    }

    fn push(&mut self, account: Account) {
        match self {
            Self::Many(accounts) if accounts.is_empty() => *self = Self::One(account),
            Self::One(first) => *self = Self::Many(vec![*first, account]),
            Self::Many(accounts) => accounts.push(account),
        }
    }
}

/// A wallet: its accounts, and the head of its chain of entries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Wallet {
    /// Number of entries in the chain.
    pub(super) ordinal: u64,
    /// First sequence of the newest entry.
    pub(super) head: Sequence,
    /// First sequence of the newest entry whose ordinal is a multiple of [`SKIP_EVERY`]; the origin when there is none.
    pub(super) skip: Sequence,
    pub(super) accounts: Accounts,
}

impl Wallet {
    pub(super) fn account(&self, currency: Currency) -> Option<&Account> {
        self.accounts
            .as_slice()
            .iter()
            .find(|account| account.currency == currency)
    }
}

/// An open hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hold {
    pub(super) transaction: TransactionId,
    pub(super) from: WalletId,
    pub(super) to: WalletId,
    pub(super) currency: Currency,
    pub(super) amount: MinorUnits,
    pub(super) expires_at: TimestampMs,
}

/// What became of a transaction after its creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Amended {
    /// First sequence of the latest amendment.
    pub(super) last: Sequence,
    /// Number of amendments.
    pub(super) ordinal: u32,
    pub(super) status: Status,
    pub(super) fraud_score: FraudScore,
}

/// Rows that an entry is applied to: the durable books at replay, the group in hand before it is durable.
pub(super) trait Rows {
    /// Changes the wallet's row where it lies; an unknown wallet begins as one without accounts.
    fn change_wallet<T>(&mut self, id: WalletId, change: impl FnOnce(&mut Wallet) -> T) -> T;
    fn put_amended(&mut self, created: Sequence, amended: Amended);
    fn put_hold(&mut self, created: Sequence, hold: Hold);
    fn remove_hold(&mut self, created: Sequence);
}

/// Brings `rows` to what `entry` says. An entry carries what is there *after* it, so replay may start below what some
/// rows of a checkpoint hold: they go back for a moment, and the entries that follow bring them forward again.
///
/// Returns by how much the sum of the balances changed, in minor units: zero unless the rows were ahead or behind.
pub(super) fn apply(rows: &mut impl Rows, entry: &Entry) -> i128 {
    let currency = entry.body.currency();
    let (from, to) = entry.body.legs();
    let mut sum_minor = apply_leg(rows, entry, from, currency);
    if let Some(to) = to {
        sum_minor += apply_leg(rows, entry, to, currency);
    }
    match &entry.body {
        Body::HoldPlaced(hold) => rows.put_hold(
            entry.first,
            Hold {
                transaction: hold.movement.transaction,
                from: hold.movement.from.wallet,
                to: hold.movement.to.wallet,
                currency,
                amount: hold.movement.amount,
                expires_at: hold.expires_at,
            },
        ),
        Body::HoldCaptured(amendment) => {
            rows.remove_hold(amendment.created);
            apply_amendment(
                rows,
                entry,
                amendment,
                Status::Completed,
                amendment.fraud_score,
            );
        }
        Body::HoldVoided(voided) => {
            let amendment = &voided.amendment;
            rows.remove_hold(amendment.created);
            apply_amendment(
                rows,
                entry,
                amendment,
                Status::Failed,
                amendment.fraud_score,
            );
        }
        Body::Reversal(amendment) => {
            apply_amendment(
                rows,
                entry,
                amendment,
                Status::Reversed,
                amendment.fraud_score,
            );
        }
        Body::FraudScored(scored) => {
            let amendment = &scored.amendment;
            apply_amendment(
                rows,
                entry,
                amendment,
                amendment.status_before,
                scored.new_score,
            );
        }
        Body::WalletOpened(_)
        | Body::Transfer(_)
        | Body::Issuance(_)
        | Body::Redemption(_)
        | Body::TransferRefused(_) => {}
    }
    sum_minor
}

fn apply_leg(rows: &mut impl Rows, entry: &Entry, leg: &Leg, currency: Currency) -> i128 {
    let overdraft_limit = match &entry.body {
        Body::WalletOpened(opened) => opened.overdraft_limit,
        _ => MinorUnits::ZERO,
    };
    let fresh = Account {
        currency,
        balance: leg.balance_after,
        held: leg.held_after,
        overdraft_limit,
        updated_at: entry.at,
    };
    rows.change_wallet(leg.wallet, |wallet| {
        wallet.ordinal = leg.link.ordinal;
        wallet.head = entry.first;
        if leg.link.ordinal.is_multiple_of(SKIP_EVERY) {
            wallet.skip = entry.first;
        }
        let mut accounts = wallet.accounts.as_mut_slice().iter_mut();
        let known = accounts.find(|account| account.currency == currency);
        let before = if let Some(account) = known {
            account.held = leg.held_after;
            account.updated_at = entry.at;
            std::mem::replace(&mut account.balance, leg.balance_after)
        } else {
            wallet.accounts.push(fresh);
            MinorUnits::ZERO
        };
        i128::from(leg.balance_after.get()) - i128::from(before.get())
    })
}

fn apply_amendment(
    rows: &mut impl Rows,
    entry: &Entry,
    amendment: &Amendment,
    status: Status,
    fraud_score: FraudScore,
) {
    let row = Amended {
        last: entry.first,
        ordinal: amendment.ordinal,
        status,
        fraud_score,
    };
    rows.put_amended(amendment.created, row);
}

/// One of the small maps.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) wallets: HashMap<WalletId, Wallet, RandomState>,
    pub(super) amended: HashMap<Sequence, Amended, RandomState>,
    pub(super) holds: HashMap<Sequence, Hold, RandomState>,
}

impl Shard {
    pub(super) fn is_empty(&self) -> bool {
        self.wallets.is_empty() && self.amended.is_empty() && self.holds.is_empty()
    }
}

#[derive(Debug)]
struct Slot {
    shard: RwLock<Shard>,
    /// Whether it changed since the checkpoint last took it.
    dirty: AtomicBool,
}

/// All shards.
#[derive(Debug)]
pub(super) struct Books {
    slots: Box<[Slot]>,
    /// Creation sequences of the open holds, oldest first.
    open_holds: RwLock<BTreeSet<Sequence>>,
    /// Everything up to here is in the books.
    as_of: AtomicU64,
    wallet_count: AtomicU64,
}

impl Books {
    pub(super) fn new() -> Self {
        let slot = || Slot {
            shard: RwLock::default(),
            dirty: AtomicBool::new(false),
        };
        Self {
            slots: std::iter::repeat_with(slot).take(SHARDS).collect(),
            open_holds: RwLock::default(),
            as_of: AtomicU64::new(0),
            wallet_count: AtomicU64::new(0),
        }
    }

    /// Everything up to here is in the books; more may be.
    pub(super) fn as_of(&self) -> Sequence {
        Sequence::new(self.as_of.load(Ordering::Acquire))
    }

    /// Called by the one writer when all rows up to `sequence` are in.
    pub(super) fn set_as_of(&self, sequence: Sequence) {
        self.as_of.store(sequence.get(), Ordering::Release);
    }

    /// Number of wallets, issuers included.
    pub(super) fn wallet_count(&self) -> u64 {
        self.wallet_count.load(Ordering::Relaxed)
    }

    pub(super) fn open_holds_count(&self) -> usize {
        self.open_holds.read().len()
    }

    /// Open holds behind `after`, oldest first, with their creation sequences.
    pub(super) fn open_holds_after(&self, after: Sequence, limit: usize) -> Vec<(Sequence, Hold)> {
        let created: Vec<Sequence> = {
            let open = self.open_holds.read();
            open.range(after.next()..).take(limit).copied().collect()
        };
        created
            .into_iter()
            .filter_map(|at| self.hold(at).map(|hold| (at, hold)))
            .collect()
    }

    pub(super) fn hold(&self, created: Sequence) -> Option<Hold> {
        self.slot(shard_of_sequence(created))
            .shard
            .read()
            .holds
            .get(&created)
            .copied()
    }

    /// One account of a wallet, without copying the others.
    pub(super) fn account(&self, id: WalletId, currency: Currency) -> Option<Account> {
        let shard = self.slot(shard_of_wallet(id)).shard.read();
        shard
            .wallets
            .get(&id)
            .and_then(|wallet| wallet.account(currency))
            .copied()
    }

    pub(super) fn amended(&self, created: Sequence) -> Option<Amended> {
        self.slot(shard_of_sequence(created))
            .shard
            .read()
            .amended
            .get(&created)
            .copied()
    }

    /// First sequence of the newest entry in the wallet's chain; the origin for an unknown wallet.
    pub(super) fn chain_head(&self, id: WalletId) -> Sequence {
        let shard = self.slot(shard_of_wallet(id)).shard.read();
        shard
            .wallets
            .get(&id)
            .map_or(Sequence::ORIGIN, |wallet| wallet.head)
    }

    pub(super) fn wallet(&self, id: WalletId) -> Option<Wallet> {
        self.slot(shard_of_wallet(id))
            .shard
            .read()
            .wallets
            .get(&id)
            .cloned()
    }

    pub(super) fn shard(&self, index: usize) -> parking_lot::RwLockReadGuard<'_, Shard> {
        self.slot(index).shard.read()
    }

    /// Clears the mark and says whether it was set. Clear first, then read the shard: a change in between sets it anew.
    pub(super) fn take_dirty(&self, index: usize) -> bool {
        self.slot(index).dirty.swap(false, Ordering::AcqRel)
    }

    /// Puts the mark back after a checkpoint file could not be written.
    pub(super) fn mark_dirty(&self, index: usize) {
        self.slot(index).dirty.store(true, Ordering::Release);
    }

    /// The money of each currency that was used: the sum of its balances is zero, or money was made or lost (I3).
    pub(super) fn totals(&self) -> Vec<Total> {
        let mut totals: BTreeMap<Currency, Total> = BTreeMap::new();
        for slot in &self.slots {
            let shard = slot.shard.read();
            for (id, wallet) in &shard.wallets {
                for account in wallet.accounts.as_slice() {
                    let currency = account.currency;
                    let total = totals.entry(currency).or_insert(Total {
                        currency,
                        circulating_minor: 0,
                        held_minor: 0,
                        sum_minor: 0,
                    });
                    let balance_minor = i128::from(account.balance.get());
                    total.sum_minor += balance_minor;
                    total.held_minor += i128::from(account.held.get());
                    if !id.is_issuer() {
                        total.circulating_minor += balance_minor;
                    }
                }
            }
        }
        totals.into_values().collect()
    }

    /// First sequence of the newest entry that any row knows of. Why not the wallets' rows alone, which every entry
    /// changes: rows of one entry stand in several checkpoint files, of which one may be older.
    pub(super) fn newest_row(&self) -> Sequence {
        let newest = self.slots.iter().map(|slot| {
            let shard = slot.shard.read();
            let heads = shard.wallets.values().map(|wallet| wallet.head);
            let amended = shard.amended.values().map(|row| row.last);
            let holds = shard.holds.keys().copied();
            heads.chain(amended).chain(holds).max().unwrap_or_default()
        });
        newest.max().unwrap_or_default()
    }

    /// An account whose held amount is not the sum of its open holds, with both.
    pub(super) fn wrongly_held(&self) -> Option<WronglyHeld> {
        let mut sums: HashMap<(WalletId, Currency), i128, RandomState> = HashMap::default();
        for slot in &self.slots {
            for hold in slot.shard.read().holds.values() {
                let sum = sums.entry((hold.from, hold.currency)).or_default();
                *sum += i128::from(hold.amount.get());
            }
        }
        for slot in &self.slots {
            let shard = slot.shard.read();
            for (id, wallet) in &shard.wallets {
                for account in wallet.accounts.as_slice() {
                    let holds_minor = sums.remove(&(*id, account.currency)).unwrap_or_default();
                    let held_minor = i128::from(account.held.get());
                    if held_minor != holds_minor {
                        return Some(WronglyHeld {
                            wallet: *id,
                            held_minor,
                            holds_minor,
                        });
                    }
                }
            }
        }
        let stray = sums.into_iter().find(|(_, holds_minor)| *holds_minor != 0);
        stray.map(|((wallet, _), holds_minor)| WronglyHeld {
            wallet,
            held_minor: 0,
            holds_minor,
        })
    }

    fn slot(&self, index: usize) -> &Slot {
        // Invariant: the shard functions stay below SHARDS, which is the length.
        &self.slots[index % SHARDS]
    }

    fn write(&self, index: usize) -> parking_lot::RwLockWriteGuard<'_, Shard> {
        let slot = self.slot(index);
        let shard = slot.shard.write();
        slot.dirty.store(true, Ordering::Release);
        shard
    }
}

/// See [`Books::wrongly_held`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WronglyHeld {
    pub(super) wallet: WalletId,
    pub(super) held_minor: i128,
    pub(super) holds_minor: i128,
}

/// What the one writer may do: the ledger thread's merges, and replay before it starts.
#[derive(Debug)]
pub(super) struct BooksWriter<'b>(pub(super) &'b Books);

impl BooksWriter<'_> {
    /// Puts a row in place of what is there.
    pub(super) fn put_wallet(&mut self, id: WalletId, wallet: Wallet) {
        let mut shard = self.0.write(shard_of_wallet(id));
        if shard.wallets.insert(id, wallet).is_none() {
            self.0.wallet_count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Rows for BooksWriter<'_> {
    fn change_wallet<T>(&mut self, id: WalletId, change: impl FnOnce(&mut Wallet) -> T) -> T {
        let mut shard = self.0.write(shard_of_wallet(id));
        let row = shard.wallets.entry(id).or_insert_with(|| {
            self.0.wallet_count.fetch_add(1, Ordering::Relaxed);
            Wallet::default()
        });
        change(row)
    }

    fn put_amended(&mut self, created: Sequence, amended: Amended) {
        self.0
            .write(shard_of_sequence(created))
            .amended
            .insert(created, amended);
    }

    fn put_hold(&mut self, created: Sequence, hold: Hold) {
        self.0
            .write(shard_of_sequence(created))
            .holds
            .insert(created, hold);
        self.0.open_holds.write().insert(created);
    }

    fn remove_hold(&mut self, created: Sequence) {
        self.0
            .write(shard_of_sequence(created))
            .holds
            .remove(&created);
        self.0.open_holds.write().remove(&created);
    }
}

/// The shard of a wallet. Part of the checkpoint's format.
fn shard_of_wallet(id: WalletId) -> usize {
    let (high, low) = id.uuid().as_u64_pair();
    shard_of(high ^ low.rotate_left(32))
}

/// The shard of a transaction's rows, by the sequence of its creation. Part of the checkpoint's format.
fn shard_of_sequence(created: Sequence) -> usize {
    shard_of(created.get())
}

fn shard_of(key: u64) -> usize {
    // The multiplier of Fibonacci hashing (Knuth, TAOCP 3, §6.4); the upper 12 bits are the best mixed.
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52;
    usize::try_from(mixed).unwrap_or_default() % SHARDS
}
