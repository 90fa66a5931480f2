//! Balances and rules: what a command leads to. Pure: no I/O, no clock, no randomness, no async.
//!
//! [`State`] decides against the durable books and, over them, the overlay of the group in hand. Each decided entry
//! is applied to the overlay at once, so that the next command of the group sees it; once the group is durable,
//! [`State::merge`] moves the overlay into the books. The order of the checks is API: it says which code a request
//! with two faults gets.

use super::books::{Account, Amended, Books, BooksWriter, Hold, Rows, Wallet, apply};
use super::command::{
    AmendCommand, BatchItem, Change, Command, MovementRequest, OpenWallet, Receipt, Reply,
};
use super::error::{Refusal, Refused, SubmitError};
use crate::ids::IdCipher;
use crate::journal::entry::{
    Amendment, BatchPlace, Body, ChainLink, Entry, FailureReason, HoldPlaced, Leg, Movement,
    RefusedMovement, SKIP_EVERY, Scored, VoidedHold, WalletOpened,
};
use crate::types::{
    Currency, FraudScore, MinorUnits, Sequence, Status, TimestampMs, TransactionId, WalletId,
};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry as RowEntry;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Changes of a transaction that only a change of status may still use.
const AUDIT_ENTRIES_KEPT: u32 = 2;

/// The rules that are settings.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) open_holds_max: usize,
    pub(super) audit_entries_max: u32,
    /// Unknown accounts are opened on sight with this much.
    pub(super) opening_balances: Option<Vec<(Currency, MinorUnits)>>,
}

/// The ledger's mind, owned by its thread.
#[derive(Debug)]
pub(super) struct State {
    books: Arc<Books>,
    overlay: Overlay,
    ids: IdCipher,
    rules: Rules,
    /// First sequence of the next entry.
    next: Sequence,
    /// When which open hold expires.
    expiry: BTreeSet<(TimestampMs, Sequence)>,
}

/// Rows that the group in hand has changed, and wallets that it has read.
#[derive(Debug, Default)]
struct Overlay {
    wallets: HashMap<WalletId, Wallet, RandomState>,
    amended: HashMap<Sequence, Amended, RandomState>,
    holds: HashMap<Sequence, HoldRow, RandomState>,
    holds_opened: usize,
    holds_closed: usize,
    /// What to put back if the atomic batch in hand is refused; `None` outside one.
    undo: Option<Vec<Undo>>,
}

#[derive(Clone, Copy, Debug)]
enum HoldRow {
    Open(Hold),
    /// Captured or voided in this group.
    Closed,
}

#[derive(Debug)]
enum Undo {
    Wallet(WalletId, Option<Wallet>),
    Amended(Sequence, Option<Amended>),
    Hold(Sequence, Option<HoldRow>),
}

/// The overlay over the books.
struct Layered<'s> {
    books: &'s Books,
    overlay: &'s mut Overlay,
}

impl Rows for Layered<'_> {
    fn change_wallet<T>(&mut self, id: WalletId, change: impl FnOnce(&mut Wallet) -> T) -> T {
        let Overlay { wallets, undo, .. } = &mut *self.overlay;
        let (row, before) = match wallets.entry(id) {
            RowEntry::Occupied(occupied) => {
                let before = undo.is_some().then(|| occupied.get().clone());
                (occupied.into_mut(), before)
            }
            RowEntry::Vacant(vacant) => {
                let row = self.books.wallet(id).unwrap_or_default();
                (vacant.insert(row), None)
            }
        };
        let changed = change(row);
        self.overlay.note(|| Undo::Wallet(id, before));
        changed
    }

    fn put_amended(&mut self, created: Sequence, amended: Amended) {
        let before = self.overlay.amended.insert(created, amended);
        self.overlay.note(|| Undo::Amended(created, before));
    }

    fn put_hold(&mut self, created: Sequence, hold: Hold) {
        self.overlay.holds_opened += 1;
        let before = self.overlay.holds.insert(created, HoldRow::Open(hold));
        self.overlay.note(|| Undo::Hold(created, before));
    }

    fn remove_hold(&mut self, created: Sequence) {
        self.overlay.holds_closed += 1;
        let before = self.overlay.holds.insert(created, HoldRow::Closed);
        self.overlay.note(|| Undo::Hold(created, before));
    }
}

impl Overlay {
    /// The wallet as the group in hand leaves it. A row that is read is kept, since what is read is nearly always
    /// changed next; one that was only read goes back into the books as it was.
    fn wallet_over(&mut self, books: &Books, id: WalletId) -> Option<&Wallet> {
        match self.wallets.entry(id) {
            RowEntry::Occupied(occupied) => Some(occupied.into_mut()),
            RowEntry::Vacant(vacant) => books.wallet(id).map(|row| &*vacant.insert(row)),
        }
    }

    /// To be called while the group has no entry: all rows here were only read then. Without it, commands that record
    /// nothing would gather rows for as long as no other comes.
    fn forget_reads(&mut self) {
        if !self.wallets.is_empty() {
            self.wallets.clear();
        }
    }

    fn note(&mut self, undo: impl FnOnce() -> Undo) {
        if let Some(log) = &mut self.undo {
            log.push(undo());
        }
    }

    fn roll_back(&mut self) {
        for undo in self.undo.take().into_iter().flatten().rev() {
            match undo {
                Undo::Wallet(id, before) => put_back(&mut self.wallets, id, before),
                Undo::Amended(created, before) => put_back(&mut self.amended, created, before),
                Undo::Hold(created, before) => {
                    match self.holds.get(&created) {
                        Some(HoldRow::Open(_)) => self.holds_opened -= 1,
                        Some(HoldRow::Closed) => self.holds_closed -= 1,
                        None => {}
                    }
                    put_back(&mut self.holds, created, before);
                }
            }
        }
    }
}

fn put_back<K: std::hash::Hash + Eq, V>(
    map: &mut HashMap<K, V, RandomState>,
    key: K,
    before: Option<V>,
) {
    match before {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

impl State {
    /// The state at the end of a journal whose last durable sequence is `durable` and which `books` hold.
    pub(super) fn new(books: Arc<Books>, ids: IdCipher, rules: Rules, durable: Sequence) -> Self {
        let holds = books.open_holds_after(Sequence::ORIGIN, usize::MAX);
        let expiry = holds
            .into_iter()
            .map(|(created, hold)| (hold.expires_at, created))
            .collect();
        Self {
            books,
            overlay: Overlay::default(),
            ids,
            rules,
            next: durable.next(),
            expiry,
        }
    }

    /// When the next hold expires.
    pub(super) fn next_expiry(&self) -> Option<TimestampMs> {
        self.expiry.first().map(|(at, _)| *at)
    }

    /// Voids holds whose time has come, at most `limit`, and appends the entries to `out`.
    pub(super) fn expire(&mut self, now: TimestampMs, limit: usize, out: &mut Vec<Entry>) {
        let mut voided = 0;
        while voided < limit
            && let Some(&(expires_at, created)) = self.expiry.first()
            && expires_at <= now
        {
            self.expiry.remove(&(expires_at, created));
            // Invariant: who ends or undoes a hold takes it out of `expiry`.
            let Some(hold) = self.hold(created) else {
                continue;
            };
            let amendment = self.hold_amendment(created, &hold, None, None);
            let body = Body::HoldVoided(VoidedHold {
                amendment,
                reason: FailureReason::Expired,
            });
            self.record(body, now, out);
            voided += 1;
        }
    }

    /// Decides `command` at ledger time `now` and appends what it leads to to `out`. The answer must wait until
    /// everything in the group is durable, refusals too: they may rest on an entry of the group.
    pub(super) fn execute(
        &mut self,
        command: Command,
        now: TimestampMs,
        out: &mut Vec<Entry>,
    ) -> Result<Reply, SubmitError> {
        if out.is_empty() {
            self.overlay.forget_reads();
        }
        match command {
            Command::Transfer(request) => Ok(Reply::Transaction(self.transfer(request, now, out)?)),
            Command::Issue(mut request) => {
                request.from = WalletId::issuer(request.currency);
                self.open_on_sight(request.to, request.currency, now, out);
                Ok(Reply::Transaction(self.movement(
                    request,
                    Kind::Issuance,
                    now,
                    out,
                )?))
            }
            Command::Redeem(mut request) => {
                request.to = WalletId::issuer(request.currency);
                Ok(Reply::Transaction(self.movement(
                    request,
                    Kind::Redemption,
                    now,
                    out,
                )?))
            }
            Command::OpenWallet(request) => {
                let body = self.decide_opening(request).map_err(not_journaled)?;
                let sequence = self.record(body, now, out);
                Ok(Reply::WalletOpened { sequence, at: now })
            }
            Command::Amend(command) => {
                let body = self.decide_amendment(command)?;
                let sequence = self.record(body, now, out);
                Ok(Reply::Amended { sequence, at: now })
            }
            Command::Batch {
                items,
                atomic: false,
            } => {
                let results = items.into_iter().map(|item| match item {
                    BatchItem::Transfer(request) => Some(self.transfer(request, now, out)),
                    BatchItem::Invalid => None,
                });
                Ok(Reply::Batch(results.collect()))
            }
            Command::Batch {
                items,
                atomic: true,
            } => self.atomic_batch(items, now, out),
        }
    }

    /// The group is durable: moves what it changed into the books.
    pub(super) fn merge(&mut self) {
        let mut writer = BooksWriter(&self.books);
        for (id, wallet) in self.overlay.wallets.drain() {
            writer.put_wallet(id, wallet);
        }
        for (created, amended) in self.overlay.amended.drain() {
            writer.put_amended(created, amended);
        }
        for (created, hold) in self.overlay.holds.drain() {
            match hold {
                HoldRow::Open(hold) => writer.put_hold(created, hold),
                HoldRow::Closed => writer.remove_hold(created),
            }
        }
        self.overlay.holds_opened = 0;
        self.overlay.holds_closed = 0;
        self.books.set_as_of(self.next.previous());
    }

    fn atomic_batch(
        &mut self,
        items: Vec<BatchItem>,
        now: TimestampMs,
        out: &mut Vec<Entry>,
    ) -> Result<Reply, SubmitError> {
        let (start, first) = (out.len(), self.next);
        self.overlay.undo = Some(Vec::new());
        let mut results = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let BatchItem::Transfer(request) = item else {
                results.push(None);
                continue;
            };
            match self.try_transfer(request, now, out) {
                Ok(receipt) => results.push(Some(Ok(receipt))),
                Err(NotMoved { refusal, .. }) => {
                    self.overlay.roll_back();
                    self.next = first;
                    for undone in out.drain(start..) {
                        if let Body::HoldPlaced(hold) = undone.body {
                            self.expiry.remove(&(hold.expires_at, undone.first));
                        }
                    }
                    return Err(SubmitError::BatchRefused { index, refusal });
                }
            }
        }
        self.overlay.undo = None;
        let recorded = out.get_mut(start..).unwrap_or_default();
        let count = u32::try_from(recorded.len()).unwrap_or(u32::MAX);
        for (entry, index) in recorded.iter_mut().zip(0..) {
            entry.batch = Some(BatchPlace {
                first,
                index,
                count,
            });
        }
        Ok(Reply::Batch(results))
    }

    fn transfer(
        &mut self,
        request: MovementRequest,
        now: TimestampMs,
        out: &mut Vec<Entry>,
    ) -> Result<Receipt, Refused> {
        self.open_on_sight(request.from, request.currency, now, out);
        self.open_on_sight(request.to, request.currency, now, out);
        self.movement(request, Kind::Transfer, now, out)
    }

    fn try_transfer(
        &mut self,
        request: MovementRequest,
        now: TimestampMs,
        out: &mut Vec<Entry>,
    ) -> Result<Receipt, NotMoved> {
        self.open_on_sight(request.from, request.currency, now, out);
        self.open_on_sight(request.to, request.currency, now, out);
        let decided = self.decide_movement(request, Kind::Transfer, now)?;
        Ok(self.record_creation(decided, now, out))
    }

    /// Records what a movement leads to, a failed transaction included.
    fn movement(
        &mut self,
        request: MovementRequest,
        kind: Kind,
        now: TimestampMs,
        out: &mut Vec<Entry>,
    ) -> Result<Receipt, Refused> {
        match self.decide_movement(request, kind, now) {
            Ok(decided) => Ok(self.record_creation(decided, now, out)),
            Err(NotMoved {
                refusal,
                failed: None,
            }) => Err(Refused {
                refusal,
                journaled: None,
            }),
            Err(NotMoved {
                refusal,
                failed: Some(refused),
            }) => {
                let transaction = refused.movement.transaction;
                let sequence = self.record(Body::TransferRefused(*refused), now, out);
                Err(Refused {
                    refusal,
                    journaled: Some((transaction, sequence)),
                })
            }
        }
    }

    /// Checks, in this order: payer known, receiver known, room for a hold, funds, range of the receiver's balance
    /// and of the payer's. The last three leave a failed transaction.
    fn decide_movement(
        &mut self,
        request: MovementRequest,
        kind: Kind,
        now: TimestampMs,
    ) -> Result<Creation, NotMoved> {
        let MovementRequest {
            from,
            to,
            currency,
            amount,
            metadata,
            hold,
        } = request;
        let payer = self.known(from, currency).map_err(NotMoved::plain)?;
        let receiver = self.known(to, currency).map_err(NotMoved::plain)?;
        if hold.is_some() && self.open_holds() >= self.rules.open_holds_max {
            return Err(NotMoved::plain(Refusal::TooManyHolds));
        }
        let (payer_account, receiver_account) = (payer.account, receiver.account);
        let movement = |balances: [MinorUnits; 2], held: MinorUnits, metadata| Movement {
            transaction: self.ids.transaction_id(self.next, now),
            from: payer.leg(balances[0], held),
            to: receiver.leg(balances[1], receiver_account.held),
            currency,
            amount,
            metadata,
        };
        let unchanged = [payer_account.balance, receiver_account.balance];
        let moved = (|| {
            if !from.is_issuer() && payer_account.available_minor() < i128::from(amount.get()) {
                return Err((Refusal::InsufficientFunds, FailureReason::InsufficientFunds));
            }
            let overflow = (Refusal::BalanceOverflow, FailureReason::BalanceOverflow);
            let held = payer_account.held.checked_add(amount).ok_or(overflow)?;
            let balances = [
                payer_account.balance.checked_sub(amount).ok_or(overflow)?,
                receiver_account
                    .balance
                    .checked_add(amount)
                    .ok_or(overflow)?,
            ];
            Ok((balances, held))
        })();
        match (moved, hold) {
            (Err((refusal, reason)), _) => {
                let movement = movement(unchanged, payer_account.held, metadata);
                let failed = Some(Box::new(RefusedMovement { movement, reason }));
                Err(NotMoved { refusal, failed })
            }
            (Ok((_, held)), Some(spec)) => {
                let movement = movement(unchanged, held, metadata);
                let expires_at = now.plus(spec.expires_in_ms);
                Ok(Creation {
                    transaction: movement.transaction,
                    status: Status::Pending,
                    body: Body::HoldPlaced(HoldPlaced {
                        movement,
                        expires_at,
                    }),
                })
            }
            (Ok((balances, _)), None) => {
                let movement = movement(balances, payer_account.held, metadata);
                Ok(Creation {
                    transaction: movement.transaction,
                    status: Status::Completed,
                    body: match kind {
                        Kind::Transfer => Body::Transfer(movement),
                        Kind::Issuance => Body::Issuance(movement),
                        Kind::Redemption => Body::Redemption(movement),
                    },
                })
            }
        }
    }

    fn decide_opening(&mut self, request: OpenWallet) -> Result<Body, Refusal> {
        let OpenWallet {
            wallet: id,
            currency,
            overdraft_limit,
        } = request;
        let wallet = self.wallet(id);
        if wallet.is_some_and(|wallet| wallet.account(currency).is_some()) {
            return Err(Refusal::WalletExists(id));
        }
        let leg = Standing::of(id, wallet, currency).leg(MinorUnits::ZERO, MinorUnits::ZERO);
        Ok(Body::WalletOpened(WalletOpened {
            leg,
            currency,
            overdraft_limit,
        }))
    }

    /// Checks, in this order: unchanged since it was read, the status allows it, room in the audit trail, funds,
    /// range. Nothing is journaled when one fails.
    fn decide_amendment(&mut self, command: AmendCommand) -> Result<Body, SubmitError> {
        let AmendCommand {
            record,
            change,
            user_id,
            details,
        } = command;
        let row = self.amended(record.created);
        if row.map_or(Sequence::ORIGIN, |row| row.last) != record.last_amendment {
            return Err(SubmitError::Stale);
        }
        let entries_max = self.rules.audit_entries_max;
        let entries = row.map_or(0, |row| row.ordinal);
        let issuer_moved = record.from.is_issuer() || record.to.is_issuer();
        let allowed = match (change, record.status) {
            (Change::Complete | Change::Fail, Status::Pending) => entries < entries_max,
            (Change::Reverse, Status::Completed) if !issuer_moved => entries < entries_max,
            (Change::Score(_), _) => entries < entries_max.saturating_sub(AUDIT_ENTRIES_KEPT),
            _ => return Err(not_journaled(Refusal::InvalidStatusTransition)),
        };
        if !allowed {
            return Err(not_journaled(Refusal::AuditTrailFull));
        }
        if let Change::Complete | Change::Fail = change {
            // Invariant: pending and unchanged since it was read, so the hold is open (apply keeps both together).
            let hold = self.hold(record.created).ok_or(SubmitError::Stale)?;
            let mut amendment = self.hold_amendment(record.created, &hold, user_id, details);
            if change == Change::Fail {
                let reason = FailureReason::Voided;
                return Ok(Body::HoldVoided(VoidedHold { amendment, reason }));
            }
            move_money(&mut amendment.from, &mut amendment.to, hold.amount)
                .map_err(not_journaled)?;
            return Ok(Body::HoldCaptured(amendment));
        }
        let payer = self.standing(record.from, record.currency);
        let receiver = self.standing(record.to, record.currency);
        let mut amendment = Amendment {
            transaction: record.id,
            created: record.created,
            previous_amendment: record.last_amendment,
            ordinal: entries.saturating_add(1),
            from: payer.leg(payer.account.balance, payer.account.held),
            to: receiver.leg(receiver.account.balance, receiver.account.held),
            currency: record.currency,
            amount: record.amount,
            fraud_score: record.fraud_score,
            status_before: record.status,
            user_id,
            details,
        };
        if let Change::Score(new_score) = change {
            return Ok(Body::FraudScored(Scored {
                amendment,
                new_score,
            }));
        }
        if receiver.account.available_minor() < i128::from(record.amount.get()) {
            return Err(not_journaled(Refusal::InsufficientFunds));
        }
        move_money(&mut amendment.to, &mut amendment.from, record.amount).map_err(not_journaled)?;
        Ok(Body::Reversal(amendment))
    }

    /// An amendment that ends the hold: no longer held, not yet moved.
    fn hold_amendment(
        &mut self,
        created: Sequence,
        hold: &Hold,
        user_id: Option<Box<str>>,
        details: Option<Box<str>>,
    ) -> Amendment {
        let row = self.amended(created);
        let payer = self.standing(hold.from, hold.currency);
        let receiver = self.standing(hold.to, hold.currency);
        let held_minor = payer.account.held.get().saturating_sub(hold.amount.get());
        assert!(
            held_minor >= 0,
            "the holds of wallet {} add up to less than one of them",
            hold.from
        );
        Amendment {
            transaction: hold.transaction,
            created,
            previous_amendment: row.map_or(Sequence::ORIGIN, |row| row.last),
            ordinal: row.map_or(1, |row| row.ordinal.saturating_add(1)),
            from: payer.leg(payer.account.balance, MinorUnits::new(held_minor)),
            to: receiver.leg(receiver.account.balance, receiver.account.held),
            currency: hold.currency,
            amount: hold.amount,
            fraud_score: row.map_or(FraudScore::ZERO, |row| row.fraud_score),
            status_before: Status::Pending,
            user_id,
            details,
        }
    }

    /// `echopay dev`: opens an account that does not exist and issues the opening balance into it.
    fn open_on_sight(
        &mut self,
        id: WalletId,
        currency: Currency,
        now: TimestampMs,
        out: &mut Vec<Entry>,
    ) {
        let Some(balances) = &self.rules.opening_balances else {
            return;
        };
        let opening = balances
            .iter()
            .find(|(of, _)| *of == currency)
            .map(|(_, amount)| *amount);
        let overdraft_limit = MinorUnits::ZERO;
        let Ok(body) = self.decide_opening(OpenWallet {
            wallet: id,
            currency,
            overdraft_limit,
        }) else {
            return;
        };
        self.record(body, now, out);
        if let Some(amount) = opening.filter(|amount| *amount > MinorUnits::ZERO) {
            let request = MovementRequest {
                from: WalletId::issuer(currency),
                to: id,
                currency,
                amount,
                metadata: None,
                hold: None,
            };
            // Why ignored: an issuer that cannot issue any more leaves a failed issuance, and the wallet empty.
            let _ = self.movement(request, Kind::Issuance, now, out);
        }
    }

    fn record_creation(
        &mut self,
        decided: Creation,
        at: TimestampMs,
        out: &mut Vec<Entry>,
    ) -> Receipt {
        let Creation {
            body,
            transaction,
            status,
        } = decided;
        let first_sequence = self.next;
        let sequence = self.record(body, at, out);
        Receipt {
            transaction,
            status,
            at,
            first_sequence,
            sequence,
        }
    }

    /// Applies `body` as the next entry and appends it to `out`; below this line nothing can be refused.
    ///
    /// # Panics
    /// When the balances would not sum to what they did (I3): better no ledger than a wrong one.
    fn record(&mut self, body: Body, at: TimestampMs, out: &mut Vec<Entry>) -> Sequence {
        let entry = Entry {
            first: self.next,
            at,
            idempotency: None,
            batch: None,
            body,
        };
        match &entry.body {
            Body::HoldPlaced(hold) => {
                self.expiry.insert((hold.expires_at, entry.first));
            }
            Body::HoldCaptured(Amendment { created, .. })
            | Body::HoldVoided(VoidedHold {
                amendment: Amendment { created, .. },
                ..
            }) => {
                if let Some(hold) = self.hold(*created) {
                    self.expiry.remove(&(hold.expires_at, *created));
                }
            }
            _ => {}
        }
        let drift_minor = apply(
            &mut Layered {
                books: &self.books,
                overlay: &mut self.overlay,
            },
            &entry,
        );
        // I3. Nothing of this group is written yet: better no answer than money out of nothing.
        assert!(
            drift_minor == 0,
            "entry {} would change the sum of all balances by {drift_minor} minor units",
            entry.first
        );
        let last = entry.last();
        self.next = last.next();
        out.push(entry);
        last
    }

    /// How the wallet stands, or that it is unknown. Issuers need not be opened.
    fn known(&mut self, id: WalletId, currency: Currency) -> Result<Standing, Refusal> {
        match self.wallet(id) {
            None if !id.is_issuer() => Err(Refusal::WalletNotFound(id)),
            wallet => Ok(Standing::of(id, wallet, currency)),
        }
    }

    fn standing(&mut self, id: WalletId, currency: Currency) -> Standing {
        Standing::of(id, self.wallet(id), currency)
    }

    fn wallet(&mut self, id: WalletId) -> Option<&Wallet> {
        self.overlay.wallet_over(&self.books, id)
    }

    fn amended(&self, created: Sequence) -> Option<Amended> {
        let here = self.overlay.amended.get(&created).copied();
        here.or_else(|| self.books.amended(created))
    }

    fn hold(&self, created: Sequence) -> Option<Hold> {
        match self.overlay.holds.get(&created) {
            Some(HoldRow::Open(hold)) => Some(*hold),
            Some(HoldRow::Closed) => None,
            None => self.books.hold(created),
        }
    }

    fn open_holds(&self) -> usize {
        let open = self.books.open_holds_count() + self.overlay.holds_opened;
        open.saturating_sub(self.overlay.holds_closed)
    }
}

/// A transaction that was decided and is not recorded yet.
struct Creation {
    body: Body,
    transaction: TransactionId,
    status: Status,
}

/// Why a movement was refused, and the failed transaction that it leaves, if it leaves one.
struct NotMoved {
    refusal: Refusal,
    failed: Option<Box<RefusedMovement>>,
}

impl NotMoved {
    fn plain(refusal: Refusal) -> Self {
        Self {
            refusal,
            failed: None,
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Transfer,
    Issuance,
    Redemption,
}

fn not_journaled(refusal: Refusal) -> SubmitError {
    SubmitError::Refused(Refused {
        refusal,
        journaled: None,
    })
}

/// What a decision needs of a wallet: one of its accounts, and its chain's next link.
#[derive(Clone, Copy)]
struct Standing {
    wallet: WalletId,
    account: Account,
    link: ChainLink,
}

impl Standing {
    /// A wallet that has no account in `currency` has nothing in it.
    fn of(id: WalletId, wallet: Option<&Wallet>, currency: Currency) -> Self {
        let account = wallet.and_then(|wallet| wallet.account(currency));
        Self {
            wallet: id,
            account: account.copied().unwrap_or(Account {
                currency,
                balance: MinorUnits::ZERO,
                held: MinorUnits::ZERO,
                overdraft_limit: MinorUnits::ZERO,
                updated_at: TimestampMs::default(),
            }),
            link: wallet.map_or(
                ChainLink {
                    ordinal: 1,
                    ..ChainLink::default()
                },
                next_link,
            ),
        }
    }

    /// The next link, with what the account has afterwards.
    fn leg(&self, balance_after: MinorUnits, held_after: MinorUnits) -> Leg {
        Leg {
            wallet: self.wallet,
            balance_after,
            held_after,
            link: self.link,
        }
    }
}

fn next_link(wallet: &Wallet) -> ChainLink {
    let ordinal = wallet.ordinal.saturating_add(1);
    let skips = ordinal.is_multiple_of(SKIP_EVERY);
    ChainLink {
        ordinal,
        previous: wallet.head,
        skip: if skips { wallet.skip } else { Sequence::ORIGIN },
    }
}

fn move_money(from: &mut Leg, to: &mut Leg, amount: MinorUnits) -> Result<(), Refusal> {
    let paid = from
        .balance_after
        .checked_sub(amount)
        .ok_or(Refusal::BalanceOverflow)?;
    let received = to
        .balance_after
        .checked_add(amount)
        .ok_or(Refusal::BalanceOverflow)?;
    from.balance_after = paid;
    to.balance_after = received;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::HoldSpec;
    use uuid::Uuid;

    #[test]
    #[should_panic(expected = "would change the sum of all balances by 1 minor units")]
    fn an_entry_that_makes_money_is_never_recorded() {
        let rules = Rules {
            open_holds_max: 1,
            audit_entries_max: 3,
            opening_balances: None,
        };
        let ids = IdCipher::new(&[7; 16]);
        let mut state = State::new(Arc::new(Books::new()), ids, rules, Sequence::ORIGIN);
        let leg = |number, balance_minor| Leg {
            wallet: WalletId::new(Uuid::from_u128(number)).unwrap(),
            balance_after: MinorUnits::new(balance_minor),
            held_after: MinorUnits::ZERO,
            link: ChainLink::default(),
        };
        let created_from_nothing = Movement {
            transaction: TransactionId(Uuid::from_u128(1)),
            from: leg(1, -100),
            to: leg(2, 101),
            currency: Currency::from_tag(1),
            amount: MinorUnits::new(100),
            metadata: None,
        };
        let body = Body::Transfer(created_from_nothing);
        state.record(body, TimestampMs::new(1), &mut Vec::new());
    }

    #[test]
    fn commands_that_record_nothing_leave_no_rows_behind() {
        let currency = Currency::from_tag(1);
        let rules = Rules {
            open_holds_max: 0,
            audit_entries_max: 3,
            opening_balances: Some(vec![(currency, MinorUnits::new(100))]),
        };
        let ids = IdCipher::new(&[7; 16]);
        let books = Arc::new(Books::new());
        let mut state = State::new(Arc::clone(&books), ids, rules, Sequence::ORIGIN);
        let mut ask = |number: u128, hold| {
            let wallet = |number| WalletId::new(Uuid::from_u128(number)).unwrap();
            let request = MovementRequest {
                from: wallet(number),
                to: wallet(number + 1),
                currency,
                amount: MinorUnits::new(1),
                metadata: None,
                hold,
            };
            let mut out = Vec::new();
            let reply = state.execute(Command::Transfer(request), TimestampMs::new(1), &mut out);
            if !out.is_empty() {
                state.merge();
            }
            (reply.is_ok(), state.overlay.wallets.len())
        };
        for number in 1..9 {
            assert_eq!(ask(number, None), (true, 0));
        }
        let hold = Some(HoldSpec { expires_in_ms: 1 });
        for number in 1..9 {
            assert_eq!(ask(number, hold), (false, 2), "the last two, not all");
        }
        assert_eq!(books.wallet_count(), 10, "nine wallets and the issuer");
    }
}
