//! The journal against the rules: what each entry says must follow from the entries before it. Pure: no I/O, no clock.
//!
//! An entry carries results (balances, held amounts, links of the chains), and a start takes them as they are. Here each
//! is made again from what moved and from the books as they were, in wide arithmetic, and compared. Behind a fault the
//! audit goes on with what the entry says, so that one fault does not show up in all that follow.
//!
//! Memory grows with wallets, open holds and changed transactions, not with transactions.

use super::books::{Account, Books, BooksWriter, Hold, SHARDS, Total, Wallet, WronglyHeld, apply};
use super::checkpoint::Loaded;
use crate::ids::IdCipher;
use crate::journal::entry::{
    Amendment, BatchPlace, Body, Entry, FailureReason, Leg, Movement, RefusedMovement, SKIP_EVERY,
};
use crate::types::{
    Currencies, Currency, MinorUnits, Sequence, Status, TimestampMs, TransactionId, WalletId,
};
use std::fmt::Debug;
use std::hash::{BuildHasher, Hash};

/// What is not as it must be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// The entry does not begin where the one before ended.
    #[error("does not follow sequence {0}")]
    Gap(Sequence),
    /// Ledger time went back.
    #[error("its time lies before that of the entry before, {0}")]
    TimeWentBack(TimestampMs),
    /// A currency that the store's table does not have.
    #[error("currency {0} is not in the store's table")]
    UnknownCurrency(u16),
    /// A transaction's id that the id key does not make at this place.
    #[error("transaction id {0} is not the one that the id key makes at sequence {1}")]
    Id(TransactionId, Sequence),
    /// A result, or a place in a wallet's chain, that does not follow.
    #[error("{field} of wallet {wallet} is {found}, what came before gives {expected}")]
    Leg {
        /// Whose.
        wallet: WalletId,
        /// Which field.
        field: &'static str,
        /// As the entry has it.
        found: i128,
        /// As it must be.
        expected: i128,
    },
    /// A wallet that was never opened.
    #[error("wallet {0} was never opened")]
    UnknownWallet(WalletId),
    /// An account that is there already.
    #[error("wallet {0} has an account in this currency already")]
    AlreadyOpen(WalletId),
    /// More left an account than was in it.
    #[error("wallet {wallet} is {below_minor} minor units below what it may spend")]
    Overdrawn {
        /// Whose.
        wallet: WalletId,
        /// By how much, in minor units.
        below_minor: i128,
    },
    /// A change of a transaction whose fields do not follow from the transaction.
    #[error("{field} of transaction {transaction} is {found}, what came before gives {expected}")]
    Amendment {
        /// Which transaction.
        transaction: TransactionId,
        /// Which field.
        field: &'static str,
        /// As the entry has it.
        found: String,
        /// As it must be.
        expected: String,
    },
    /// A change of a transaction that does not exist.
    #[error("no transaction begins at sequence {0}")]
    NoTransaction(Sequence),
    /// The end of a hold that is not open.
    #[error("the hold placed at sequence {0} is not open")]
    NoHold(Sequence),
    /// Something that the rules do not allow.
    #[error("{0}")]
    Rule(&'static str),
    /// An atomic batch with a gap.
    #[error("its place in its atomic batch is wrong, or the batch before is not whole")]
    Batch,
    /// Money out of nothing, or into it.
    #[error("changes the sum of all balances by {0} minor units")]
    Drift(i128),
    /// The balances of a currency do not sum to zero.
    #[error("the balances of currency {currency} sum to {total_minor} minor units instead of zero")]
    NotZeroSum {
        /// Tag of the currency.
        currency: u16,
        /// What they sum to.
        total_minor: i128,
    },
    /// What a wallet holds back is not what its open holds add up to.
    #[error(
        "wallet {wallet} holds back {held_minor} minor units, its open holds add up to {holds_minor}"
    )]
    WronglyHeld {
        /// Whose.
        wallet: WalletId,
        /// Held back in one of its accounts.
        held_minor: i128,
        /// Sum of the account's open holds.
        holds_minor: i128,
    },
    /// The checkpoint, brought up to the journal's end, has another row than the journal gives.
    #[error(
        "the checkpoint has another {row} than the journal gives: {checkpoint} instead of {journal}"
    )]
    Checkpoint {
        /// Which.
        row: String,
        /// The row there; `nothing` where there is none.
        checkpoint: String,
        /// The row that the journal gives; `nothing` where there is none.
        journal: String,
    },
    /// The checkpoint knows of more than the journal holds.
    #[error("the checkpoint stands at sequence {checkpoint}, the journal ends at {durable}")]
    CheckpointAhead {
        /// Where the checkpoint stands.
        checkpoint: Sequence,
        /// Where the journal ends.
        durable: Sequence,
    },
}

/// Where faults go, with the first sequence of the entry where there is one.
pub type Tell<'t> = dyn FnMut(Option<Sequence>, Fault) + 't;

/// What the books hold at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Audited {
    /// Wallets, issuers included.
    pub wallets: u64,
    /// Holds neither captured nor void.
    pub open_holds: usize,
    /// Transactions that were changed after their creation.
    pub changed_transactions: u64,
    /// One for each currency that was used.
    pub totals: Vec<Total>,
}

/// An audit under way.
#[derive(Debug)]
pub struct Audit {
    ids: IdCipher,
    currencies: Currencies,
    books: Books,
    next: Sequence,
    at: TimestampMs,
    batch: Option<BatchPlace>,
    checkpoint: Option<Checkpoint>,
}

/// What a start would make of the checkpoint.
#[derive(Debug)]
struct Checkpoint {
    books: Books,
    replay_after: Sequence,
    stands_at: Sequence,
}

/// Gives the entry that begins at a sequence.
pub type LookUp<'l> = dyn FnMut(Sequence) -> Option<Entry> + 'l;

impl Audit {
    /// An audit from the first entry of all on. A checkpoint is compared with what the journal gives.
    pub fn new(ids: IdCipher, currencies: Currencies, checkpoint: Option<Loaded>) -> Self {
        let checkpoint = checkpoint.map(|loaded| Checkpoint {
            stands_at: loaded.replay_after.max(loaded.books.newest_row()),
            replay_after: loaded.replay_after,
            books: loaded.books,
        });
        Self {
            ids,
            currencies,
            books: Books::new(),
            next: Sequence::ORIGIN.next(),
            at: TimestampMs::default(),
            batch: None,
            checkpoint,
        }
    }

    /// Checks the next entry. `look_up` is asked for the entry that created a transaction when that is changed.
    pub fn take(&mut self, entry: &Entry, look_up: &mut LookUp<'_>, tell: &mut Tell<'_>) {
        let mut faults = Faults {
            at: entry.first,
            tell,
        };
        self.check_frame(entry, &mut faults);
        let (from, to) = entry.body.legs();
        let (from_change, to_change) = changes(&entry.body);
        self.check_leg(entry, from, from_change, &mut faults);
        if let Some(to) = to {
            self.check_leg(entry, to, to_change, &mut faults);
            faults.unless(from.wallet != to.wallet, Fault::Rule("pays itself"));
        }
        match &entry.body {
            Body::WalletOpened(opened) => faults.unless(
                opened.overdraft_limit >= MinorUnits::ZERO,
                Fault::Rule("its overdraft limit is negative"),
            ),
            body => {
                if let Some((movement, _)) = body.creation() {
                    self.check_creation(entry, movement, &mut faults);
                }
                if let Some(amendment) = body.amendment() {
                    self.check_amendment(entry, amendment, look_up, &mut faults);
                }
            }
        }
        let drift_minor = apply(&mut BooksWriter(&self.books), entry);
        faults.unless(drift_minor == 0, Fault::Drift(drift_minor));
        if let Some(checkpoint) = &self.checkpoint
            && entry.last() > checkpoint.replay_after
        {
            apply(&mut BooksWriter(&checkpoint.books), entry);
        }
        (self.next, self.at) = (entry.last().next(), entry.at.max(self.at));
    }

    /// Checks the books as the last entry left them: the sums, the holds, and the checkpoint against them.
    pub fn finish(self, tell: &mut Tell<'_>) -> Audited {
        let durable = self.next.previous();
        if self.batch.is_some() {
            tell(Some(durable), Fault::Batch);
        }
        let audited = self.audited();
        for total in &audited.totals {
            if total.sum_minor != 0 {
                let fault = Fault::NotZeroSum {
                    currency: total.currency.tag(),
                    total_minor: total.sum_minor,
                };
                tell(None, fault);
            }
        }
        if let Some(wrong) = self.books.wrongly_held() {
            let WronglyHeld {
                wallet,
                held_minor,
                holds_minor,
            } = wrong;
            let fault = Fault::WronglyHeld {
                wallet,
                held_minor,
                holds_minor,
            };
            tell(None, fault);
        }
        if let Some(checkpoint) = &self.checkpoint {
            if checkpoint.stands_at > durable {
                let fault = Fault::CheckpointAhead {
                    checkpoint: checkpoint.stands_at,
                    durable,
                };
                tell(None, fault);
            } else {
                checkpoint.compare(&self.books, tell);
            }
        }
        audited
    }

    fn check_frame(&mut self, entry: &Entry, faults: &mut Faults<'_, '_>) {
        faults.unless(entry.first == self.next, Fault::Gap(self.next.previous()));
        faults.unless(entry.at >= self.at, Fault::TimeWentBack(self.at));
        let currency = entry.body.currency();
        let known = self.currencies.get(currency).is_some();
        faults.unless(known, Fault::UnknownCurrency(currency.tag()));
        let due = self.batch.take();
        let fits = match (due, entry.batch) {
            (None, None) => true,
            (None, Some(place)) => place.first == entry.first && place.index == 0,
            (Some(due), place) => place == Some(due),
        };
        faults.unless(fits, Fault::Batch);
        self.batch = entry.batch.and_then(|place| {
            let index = place.index.saturating_add(1);
            (index < place.count).then_some(BatchPlace { index, ..place })
        });
    }

    fn check_leg(&self, entry: &Entry, leg: &Leg, change: Change, faults: &mut Faults<'_, '_>) {
        let wallet = self.books.wallet(leg.wallet);
        let currency = entry.body.currency();
        let account = wallet
            .as_ref()
            .and_then(|wallet| wallet.account(currency))
            .copied();
        let overdraft_limit = if let Body::WalletOpened(opened) = &entry.body {
            faults.unless(account.is_none(), Fault::AlreadyOpen(leg.wallet));
            opened.overdraft_limit
        } else {
            let known = wallet.is_some() || leg.wallet.is_issuer();
            faults.unless(known, Fault::UnknownWallet(leg.wallet));
            account.map_or(MinorUnits::ZERO, |account| account.overdraft_limit)
        };
        let before = |field: fn(&Account) -> MinorUnits| {
            i128::from(account.as_ref().map_or(MinorUnits::ZERO, field).get())
        };
        let balance_minor = before(|account| account.balance) + change.balance_minor;
        let held_minor = before(|account| account.held) + change.held_minor;
        let ordinal = wallet.as_ref().map_or(1, |wallet| wallet.ordinal + 1);
        let skips = ordinal.is_multiple_of(SKIP_EVERY);
        let sequence = |of: fn(&Wallet) -> Sequence| {
            i128::from(wallet.as_ref().map_or(Sequence::ORIGIN, of).get())
        };
        let found = |field: u64| i128::from(field);
        for (field, found, expected) in [
            (
                "the balance",
                i128::from(leg.balance_after.get()),
                balance_minor,
            ),
            (
                "the held amount",
                i128::from(leg.held_after.get()),
                held_minor,
            ),
            (
                "the chain's ordinal",
                found(leg.link.ordinal),
                found(ordinal),
            ),
            (
                "the chain's entry before",
                found(leg.link.previous.get()),
                sequence(|wallet| wallet.head),
            ),
            (
                "the chain's skip",
                found(leg.link.skip.get()),
                if skips {
                    sequence(|wallet| wallet.skip)
                } else {
                    0
                },
            ),
        ] {
            let fault = || Fault::Leg {
                wallet: leg.wallet,
                field,
                found,
                expected,
            };
            faults.when(found != expected, fault);
        }
        let available_minor = balance_minor - held_minor + i128::from(overdraft_limit.get());
        let fault = || Fault::Overdrawn {
            wallet: leg.wallet,
            below_minor: -available_minor,
        };
        faults.when(!leg.wallet.is_issuer() && available_minor < 0, fault);
        faults.unless(held_minor >= 0, Fault::Rule("gives up more than was held"));
    }

    fn check_creation(&self, entry: &Entry, movement: &Movement, faults: &mut Faults<'_, '_>) {
        // Equal to what the key makes here, so it is a valid UUIDv7 and leads to this sequence (`ids.rs`).
        let is_made_here = self.ids.transaction_id(entry.first, entry.at) == movement.transaction;
        let id = Fault::Id(movement.transaction, entry.first);
        faults.unless(is_made_here, id);
        let positive = movement.amount > MinorUnits::ZERO;
        faults.unless(positive, Fault::Rule("its amount is not above zero"));
        let issuer = WalletId::issuer(movement.currency);
        let (from, to) = (movement.from.wallet, movement.to.wallet);
        let sides_fit = match &entry.body {
            Body::Issuance(_) => from == issuer,
            Body::Redemption(_) => to == issuer,
            // A refused issuance or redemption is a refused movement like any other.
            Body::TransferRefused(_) => true,
            _ => !from.is_issuer() && !to.is_issuer(),
        };
        faults.unless(
            sides_fit,
            Fault::Rule("an issuer stands where none may, or none where one must"),
        );
        match &entry.body {
            Body::TransferRefused(refused) => self.check_refusal(refused, faults),
            Body::HoldPlaced(hold) => faults.unless(
                hold.expires_at >= entry.at,
                Fault::Rule("its hold ends before it begins"),
            ),
            _ => {}
        }
    }

    fn check_refusal(&self, refused: &RefusedMovement, faults: &mut Faults<'_, '_>) {
        let movement = &refused.movement;
        let account = |wallet| self.books.account(wallet, movement.currency);
        let payer = account(movement.from.wallet);
        let of = |account: Option<Account>, field: fn(&Account) -> MinorUnits| {
            i128::from(account.as_ref().map_or(MinorUnits::ZERO, field).get())
        };
        let amount_minor = i128::from(movement.amount.get());
        let fits = match refused.reason {
            FailureReason::InsufficientFunds => {
                let available_minor = payer.map_or(0, |payer| payer.available_minor());
                !movement.from.wallet.is_issuer() && available_minor < amount_minor
            }
            FailureReason::BalanceOverflow => {
                let range = i128::from(i64::MIN)..=i128::from(i64::MAX);
                let receiver = account(movement.to.wallet);
                let results = [
                    of(payer, |payer| payer.held) + amount_minor,
                    of(payer, |payer| payer.balance) - amount_minor,
                    of(receiver, |receiver| receiver.balance) + amount_minor,
                ];
                results.iter().any(|result| !range.contains(result))
            }
            FailureReason::WalletFrozen => true,
            FailureReason::Voided | FailureReason::Expired => false,
        };
        let wrong = Fault::Rule("was refused for a reason that does not hold");
        faults.unless(fits, wrong);
    }

    fn check_amendment(
        &self,
        entry: &Entry,
        amendment: &Amendment,
        look_up: &mut LookUp<'_>,
        faults: &mut Faults<'_, '_>,
    ) {
        let hold = self.books.hold(amendment.created);
        let origin = match hold {
            Some(hold) => Some(Origin::of_hold(&hold)),
            None => look_up(amendment.created).and_then(|entry| Origin::of_entry(&entry)),
        };
        let Some(origin) = origin else {
            faults.tell(Fault::NoTransaction(amendment.created));
            return;
        };
        let row = self.books.amended(amendment.created);
        let status = row.map_or(origin.status, |row| row.status);
        let mut compare = Compare {
            transaction: amendment.transaction,
            faults,
        };
        compare.field("the id", amendment.transaction, origin.transaction);
        compare.field("the payer", amendment.from.wallet, origin.from);
        compare.field("the receiver", amendment.to.wallet, origin.to);
        compare.field(
            "the currency",
            amendment.currency.tag(),
            origin.currency.tag(),
        );
        compare.field("the amount", amendment.amount.get(), origin.amount.get());
        compare.field(
            "the change before",
            amendment.previous_amendment,
            row.map_or(Sequence::ORIGIN, |row| row.last),
        );
        compare.field(
            "the number of changes",
            amendment.ordinal,
            row.map_or(1, |row| row.ordinal.saturating_add(1)),
        );
        compare.field(
            "the status before",
            amendment.status_before.as_str(),
            status.as_str(),
        );
        compare.field(
            "the fraud score",
            amendment.fraud_score.millionths(),
            row.map_or(0, |row| row.fraud_score.millionths()),
        );
        match &entry.body {
            Body::HoldCaptured(_) => {
                faults.unless(hold.is_some(), Fault::NoHold(amendment.created));
            }
            Body::HoldVoided(voided) => {
                faults.unless(hold.is_some(), Fault::NoHold(amendment.created));
                let fits = match voided.reason {
                    FailureReason::Voided => true,
                    FailureReason::Expired => hold.is_none_or(|hold| hold.expires_at <= entry.at),
                    FailureReason::InsufficientFunds
                    | FailureReason::WalletFrozen
                    | FailureReason::BalanceOverflow => false,
                };
                let wrong = Fault::Rule("its hold was given up for a reason that does not hold");
                faults.unless(fits, wrong);
            }
            Body::Reversal(_) => {
                let may_move_back = status == Status::Completed
                    && !origin.from.is_issuer()
                    && !origin.to.is_issuer();
                let wrong = Fault::Rule("takes back what cannot be taken back");
                faults.unless(may_move_back, wrong);
            }
            _ => {}
        }
    }

    fn audited(&self) -> Audited {
        let changed = (0..SHARDS).map(|index| self.books.shard(index).amended.len());
        Audited {
            wallets: self.books.wallet_count(),
            open_holds: self.books.open_holds_count(),
            changed_transactions: u64::try_from(changed.sum::<usize>()).unwrap_or(u64::MAX),
            totals: self.books.totals(),
        }
    }
}

impl Checkpoint {
    fn compare(&self, journal: &Books, tell: &mut Tell<'_>) {
        for index in 0..SHARDS {
            let (here, there) = (self.books.shard(index), journal.shard(index));
            compare_rows("wallet", &here.wallets, &there.wallets, tell);
            compare_rows("changed transaction", &here.amended, &there.amended, tell);
            compare_rows("hold", &here.holds, &there.holds, tell);
        }
    }
}

fn compare_rows<K, V, S>(
    what: &str,
    checkpoint: &hashbrown::HashMap<K, V, S>,
    journal: &hashbrown::HashMap<K, V, S>,
    tell: &mut Tell<'_>,
) where
    K: Eq + Hash + std::fmt::Display,
    V: PartialEq + Debug,
    S: BuildHasher,
{
    let text = |row: Option<&V>| row.map_or("nothing".into(), |row| format!("{row:?}"));
    let keys = journal.keys();
    let more = checkpoint.keys().filter(|key| !journal.contains_key(*key));
    for key in keys.chain(more) {
        let (here, there) = (checkpoint.get(key), journal.get(key));
        if here != there {
            let fault = Fault::Checkpoint {
                row: format!("{what} {key}"),
                checkpoint: text(here),
                journal: text(there),
            };
            tell(None, fault);
        }
    }
}

/// Faults of one entry.
struct Faults<'f, 't> {
    at: Sequence,
    tell: &'f mut Tell<'t>,
}

impl Faults<'_, '_> {
    fn tell(&mut self, fault: Fault) {
        (self.tell)(Some(self.at), fault);
    }

    fn unless(&mut self, holds: bool, fault: Fault) {
        if !holds {
            self.tell(fault);
        }
    }

    fn when(&mut self, fails: bool, fault: impl FnOnce() -> Fault) {
        if fails {
            self.tell(fault());
        }
    }
}

/// Compares the fields of an amendment.
struct Compare<'c, 'f, 't> {
    transaction: TransactionId,
    faults: &'c mut Faults<'f, 't>,
}

impl Compare<'_, '_, '_> {
    fn field<T: Copy + PartialEq + ToString>(
        &mut self,
        field: &'static str,
        found: T,
        expected: T,
    ) {
        let transaction = self.transaction;
        self.faults.when(found != expected, || Fault::Amendment {
            transaction,
            field,
            found: found.to_string(),
            expected: expected.to_string(),
        });
    }
}

/// A transaction as it was created.
#[derive(Clone, Copy)]
struct Origin {
    transaction: TransactionId,
    from: WalletId,
    to: WalletId,
    currency: Currency,
    amount: MinorUnits,
    status: Status,
}

impl Origin {
    fn of_hold(hold: &Hold) -> Self {
        Self {
            transaction: hold.transaction,
            from: hold.from,
            to: hold.to,
            currency: hold.currency,
            amount: hold.amount,
            status: Status::Pending,
        }
    }

    fn of_entry(entry: &Entry) -> Option<Self> {
        let (movement, status) = entry.body.creation()?;
        Some(Self {
            transaction: movement.transaction,
            from: movement.from.wallet,
            to: movement.to.wallet,
            currency: movement.currency,
            amount: movement.amount,
            status,
        })
    }
}

/// What an entry does to one account.
#[derive(Clone, Copy, Default)]
struct Change {
    balance_minor: i128,
    held_minor: i128,
}

/// What moves: payer's and receiver's side of the transaction.
fn changes(body: &Body) -> (Change, Change) {
    let (mut from, mut to) = (Change::default(), Change::default());
    let minor = |amount: MinorUnits| i128::from(amount.get());
    match body {
        Body::Transfer(movement) | Body::Issuance(movement) | Body::Redemption(movement) => {
            from.balance_minor = -minor(movement.amount);
            to.balance_minor = minor(movement.amount);
        }
        Body::HoldPlaced(hold) => from.held_minor = minor(hold.movement.amount),
        Body::HoldCaptured(amendment) => {
            from.balance_minor = -minor(amendment.amount);
            from.held_minor = -minor(amendment.amount);
            to.balance_minor = minor(amendment.amount);
        }
        Body::HoldVoided(voided) => from.held_minor = -minor(voided.amendment.amount),
        Body::Reversal(amendment) => {
            from.balance_minor = minor(amendment.amount);
            to.balance_minor = -minor(amendment.amount);
        }
        Body::WalletOpened(_) | Body::TransferRefused(_) | Body::FraudScored(_) => {}
    }
    (from, to)
}
