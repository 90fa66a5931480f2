//! What happened, as the journal keeps it: entries, and the events that each entry emits.
//!
//! An entry is self-contained: each of its events, and each answer about it, can be made again from the entry alone
//! (ids by `ids.rs`). How it looks in bytes is `codec.rs`' affair.

use crate::types::{
    Currency, FraudScore, MinorUnits, Sequence, Status, TimestampMs, TransactionId, WalletId,
};

/// One decision of the ledger. It covers the sequences `first ..= last()`, one for each event it emits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Number of its first event.
    pub first: Sequence,
    /// Ledger time: never before that of an earlier entry.
    pub at: TimestampMs,
    /// The idempotency key it was asked under, if any.
    pub idempotency: Option<Idempotency>,
    /// Its place in an atomic batch, if it came in one.
    pub batch: Option<BatchPlace>,
    /// What happened.
    pub body: Body,
}

/// Hashes of an idempotency key and of the request's body (the first 128 bits of BLAKE3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Idempotency {
    /// Of the key, scoped by caller.
    pub key_hash: [u8; 16],
    /// Of the body that came with it.
    pub body_hash: [u8; 16],
}

/// Where an entry stands in its atomic batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchPlace {
    /// First sequence of the batch's first entry.
    pub first: Sequence,
    /// Place of this entry in the batch, from 0.
    pub index: u32,
    /// Number of entries in the batch.
    pub count: u32,
}

/// What happened. The variants' tags on disk are frozen (`codec.rs`): if one shall emit other events, it becomes another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// A wallet's account in one currency was opened. Emits `wallet.opened`.
    WalletOpened(WalletOpened),
    /// Money moved from one wallet to another. Emits created, completed, balance of sender, balance of receiver.
    Transfer(Movement),
    /// Money entered from the currency's issuer (`from`). Emits created, completed, balance of receiver.
    Issuance(Movement),
    /// Money left to the currency's issuer (`to`). Emits created, completed, balance of sender.
    Redemption(Movement),
    /// A well-formed request between known wallets that a rule refused. Emits created, failed. No balance changed.
    TransferRefused(RefusedMovement),
    /// Money was put on hold. Emits created. No balance changed, the sender's held amount did.
    HoldPlaced(HoldPlaced),
    /// A hold's money moved. Emits completed, balance of sender, balance of receiver.
    HoldCaptured(Amendment),
    /// A hold was given up. Emits failed.
    HoldVoided(VoidedHold),
    /// A completed transaction's money moved back. Emits reversed, balance of original sender, of original receiver.
    Reversal(Amendment),
    /// A transaction's fraud score was set. Emits `fraud.score.updated`.
    FraudScored(Scored),
}

/// One wallet's side of an entry: what it has afterwards, and its place in the wallet's chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leg {
    /// Whose side.
    pub wallet: WalletId,
    /// Balance in the entry's currency after the entry, holds not subtracted.
    pub balance_after: MinorUnits,
    /// Amount under hold in the entry's currency after the entry.
    pub held_after: MinorUnits,
    /// The way to the wallet's earlier entries.
    pub link: ChainLink,
}

/// The distance between entries of a chain that carry a skip pointer.
pub const SKIP_EVERY: u64 = 64;

/// A wallet's chain runs backwards through all entries that name it, in every currency.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChainLink {
    /// Place of this entry in the chain, from 1.
    pub ordinal: u64,
    /// First sequence of the chain's entry before; [`Sequence::ORIGIN`] for the first.
    pub previous: Sequence,
    /// Where `ordinal` is a multiple of [`SKIP_EVERY`]: first sequence of the entry [`SKIP_EVERY`] before, the origin
    /// for the first such; elsewhere the origin.
    pub skip: Sequence,
}

/// An account was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalletOpened {
    /// The wallet, with zero balance (its chain may already be longer: one account a currency).
    pub leg: Leg,
    /// The account's currency.
    pub currency: Currency,
    /// How far below zero the balance may go; not negative.
    pub overdraft_limit: MinorUnits,
}

/// Money that moved at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Movement {
    /// Id of the transaction, made from the entry's first sequence and time.
    pub transaction: TransactionId,
    /// Who paid.
    pub from: Leg,
    /// Who received.
    pub to: Leg,
    /// Of what.
    pub currency: Currency,
    /// How much; above zero.
    pub amount: MinorUnits,
    /// JSON text of an object, as the client sent it.
    pub metadata: Option<Box<str>>,
}

/// A transaction that failed at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedMovement {
    /// What was asked, with both wallets as they were.
    pub movement: Movement,
    /// Which rule refused.
    pub reason: FailureReason,
}

/// Money on hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HoldPlaced {
    /// What shall move; `from.held_after` includes the amount.
    pub movement: Movement,
    /// Ledger time from which the hold is void.
    pub expires_at: TimestampMs,
}

/// A change of a transaction that exists, with all that its events tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Amendment {
    /// The transaction.
    pub transaction: TransactionId,
    /// First sequence of the entry that created it.
    pub created: Sequence,
    /// First sequence of the amendment before this one; the origin for the first.
    pub previous_amendment: Sequence,
    /// Number of this amendment of the transaction, from 1.
    pub ordinal: u32,
    /// The transaction's `from` (in a reversal: who gets the money back).
    pub from: Leg,
    /// The transaction's `to`.
    pub to: Leg,
    /// The transaction's currency.
    pub currency: Currency,
    /// The transaction's amount; above zero.
    pub amount: MinorUnits,
    /// Its fraud score when this entry was made (for a score: the one before).
    pub fraud_score: FraudScore,
    /// Its status before this entry.
    pub status_before: Status,
    /// Who asked for the change, as told by the client; at most 128 bytes.
    pub user_id: Option<Box<str>>,
    /// JSON text of an object, as the client sent it.
    pub details: Option<Box<str>>,
}

/// A hold that was given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VoidedHold {
    /// The transaction; `from.held_after` no longer includes the amount.
    pub amendment: Amendment,
    /// By request or by time.
    pub reason: FailureReason,
}

/// A score that was set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scored {
    /// The transaction; its `fraud_score` is the old one.
    pub amendment: Amendment,
    /// The new score.
    pub new_score: FraudScore,
}

/// Why a transaction failed. The numbers on disk are frozen (`codec.rs`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailureReason {
    /// Balance less holds plus overdraft limit did not reach.
    InsufficientFunds,
    /// One of the wallets was frozen.
    WalletFrozen,
    /// A balance would have left the range of 64 bits.
    BalanceOverflow,
    /// A hold was voided by request.
    Voided,
    /// A hold reached its end.
    Expired,
}

impl FailureReason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::InsufficientFunds,
        Self::WalletFrozen,
        Self::BalanceOverflow,
        Self::Voided,
        Self::Expired,
    ];

    /// The reason that a code on the wire names.
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The code on the wire.
    pub const fn code(self) -> &'static str {
        match self {
            Self::InsufficientFunds => "INSUFFICIENT_FUNDS",
            Self::WalletFrozen => "WALLET_FROZEN",
            Self::BalanceOverflow => "BALANCE_OVERFLOW",
            Self::Voided => "VOIDED",
            Self::Expired => "EXPIRED",
        }
    }
}

/// The type of an event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EventKind {
    /// A transaction exists.
    TransactionCreated,
    /// Its money has moved.
    TransactionCompleted,
    /// It will never move money.
    TransactionFailed,
    /// Its money was moved back.
    TransactionReversed,
    /// It was scored.
    FraudScoreUpdated,
    /// A wallet's balance changed.
    BalanceUpdated,
    /// An account was opened.
    WalletOpened,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::TransactionCreated,
        Self::TransactionCompleted,
        Self::TransactionFailed,
        Self::TransactionReversed,
        Self::FraudScoreUpdated,
        Self::BalanceUpdated,
        Self::WalletOpened,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TransactionCreated => "transaction.created",
            Self::TransactionCompleted => "transaction.completed",
            Self::TransactionFailed => "transaction.failed",
            Self::TransactionReversed => "transaction.reversed",
            Self::FraudScoreUpdated => "fraud.score.updated",
            Self::BalanceUpdated => "balance.updated",
            Self::WalletOpened => "wallet.opened",
        }
    }

    /// The kind that a word on the wire names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// One event of an entry, borrowed from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event<'e> {
    /// Its number.
    pub sequence: Sequence,
    /// When it happened: its entry's time.
    pub at: TimestampMs,
    /// What it tells.
    pub detail: EventDetail<'e>,
}

/// What an event tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventDetail<'e> {
    /// Something about a transaction.
    Transaction(TransactionEvent<'e>),
    /// A balance changed.
    Balance(BalanceEvent),
    /// An account was opened.
    Wallet(WalletEvent),
}

/// Something about a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionEvent<'e> {
    /// Which of the five transaction kinds.
    pub kind: EventKind,
    /// Which transaction.
    pub transaction: TransactionId,
    /// Who pays.
    pub from: WalletId,
    /// Who receives.
    pub to: WalletId,
    /// Of what.
    pub currency: Currency,
    /// How much.
    pub amount: MinorUnits,
    /// The transaction's status after this event.
    pub status: Status,
    /// Its score after this event.
    pub fraud_score: FraudScore,
    /// JSON text of the metadata it was created with; only where the entry created it.
    pub metadata: Option<&'e str>,
    /// Old and new score, for [`EventKind::FraudScoreUpdated`].
    pub scores: Option<(FraudScore, FraudScore)>,
    /// Why, for [`EventKind::TransactionFailed`].
    pub reason: Option<FailureReason>,
    /// Whether money is issued (keyed by its receiver).
    pub issued: bool,
}

/// A balance changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BalanceEvent {
    /// Whose.
    pub wallet: WalletId,
    /// In what.
    pub currency: Currency,
    /// Before.
    pub old_balance: MinorUnits,
    /// After.
    pub new_balance: MinorUnits,
    /// By which transaction.
    pub transaction: TransactionId,
}

/// An account was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalletEvent {
    /// Which wallet.
    pub wallet: WalletId,
    /// In which currency.
    pub currency: Currency,
    /// How far below zero it may go.
    pub overdraft_limit: MinorUnits,
}

impl Event<'_> {
    /// Its type.
    pub fn kind(&self) -> EventKind {
        match &self.detail {
            EventDetail::Transaction(event) => event.kind,
            EventDetail::Balance(_) => EventKind::BalanceUpdated,
            EventDetail::Wallet(_) => EventKind::WalletOpened,
        }
    }

    /// The wallet whose order it keeps in Kafka: the payer for lifecycle events (the receiver of an issuance), the
    /// wallet itself for the others.
    pub fn key_wallet(&self) -> WalletId {
        match &self.detail {
            EventDetail::Transaction(event) if event.issued => event.to,
            EventDetail::Transaction(event) => event.from,
            EventDetail::Balance(event) => event.wallet,
            EventDetail::Wallet(event) => event.wallet,
        }
    }

    /// The transaction it is about, if it is about one.
    pub fn transaction(&self) -> Option<TransactionId> {
        match &self.detail {
            EventDetail::Transaction(event) => Some(event.transaction),
            EventDetail::Balance(event) => Some(event.transaction),
            EventDetail::Wallet(_) => None,
        }
    }

    /// Whether `wallet` may hear of it: payer or receiver of a transaction, the wallet itself otherwise.
    pub fn concerns(&self, wallet: WalletId) -> bool {
        match &self.detail {
            EventDetail::Transaction(event) => event.from == wallet || event.to == wallet,
            EventDetail::Balance(event) => event.wallet == wallet,
            EventDetail::Wallet(event) => event.wallet == wallet,
        }
    }
}

impl Body {
    /// How many events it emits, and so how many sequences its entry covers. Frozen with the tag.
    pub const fn event_count(&self) -> u64 {
        match self {
            Self::WalletOpened(_)
            | Self::HoldPlaced(_)
            | Self::HoldVoided(_)
            | Self::FraudScored(_) => 1,
            Self::TransferRefused(_) => 2,
            Self::Issuance(_) | Self::Redemption(_) | Self::HoldCaptured(_) | Self::Reversal(_) => {
                3
            }
            Self::Transfer(_) => 4,
        }
    }

    /// The wallets it touches with what they have afterwards: one for an opening, payer and receiver for the others.
    pub fn legs(&self) -> (&Leg, Option<&Leg>) {
        match self {
            Self::WalletOpened(opened) => (&opened.leg, None),
            Self::Transfer(m) | Self::Issuance(m) | Self::Redemption(m) => (&m.from, Some(&m.to)),
            Self::TransferRefused(refused) => (&refused.movement.from, Some(&refused.movement.to)),
            Self::HoldPlaced(hold) => (&hold.movement.from, Some(&hold.movement.to)),
            Self::HoldCaptured(a) | Self::Reversal(a) => (&a.from, Some(&a.to)),
            Self::HoldVoided(voided) => (&voided.amendment.from, Some(&voided.amendment.to)),
            Self::FraudScored(scored) => (&scored.amendment.from, Some(&scored.amendment.to)),
        }
    }

    /// Its currency.
    pub const fn currency(&self) -> Currency {
        match self {
            Self::WalletOpened(opened) => opened.currency,
            Self::Transfer(m) | Self::Issuance(m) | Self::Redemption(m) => m.currency,
            Self::TransferRefused(refused) => refused.movement.currency,
            Self::HoldPlaced(hold) => hold.movement.currency,
            Self::HoldCaptured(a) | Self::Reversal(a) => a.currency,
            Self::HoldVoided(voided) => voided.amendment.currency,
            Self::FraudScored(scored) => scored.amendment.currency,
        }
    }

    /// What it changes of a transaction that existed before; `None` where it creates one or is about a wallet.
    pub const fn amendment(&self) -> Option<&Amendment> {
        match self {
            Self::HoldCaptured(amendment) | Self::Reversal(amendment) => Some(amendment),
            Self::HoldVoided(voided) => Some(&voided.amendment),
            Self::FraudScored(scored) => Some(&scored.amendment),
            Self::WalletOpened(_)
            | Self::Transfer(_)
            | Self::Issuance(_)
            | Self::Redemption(_)
            | Self::TransferRefused(_)
            | Self::HoldPlaced(_) => None,
        }
    }

    /// The transaction it creates, with the status that it has then; `None` where it creates none.
    pub const fn creation(&self) -> Option<(&Movement, Status)> {
        match self {
            Self::Transfer(m) | Self::Issuance(m) | Self::Redemption(m) => {
                Some((m, Status::Completed))
            }
            Self::TransferRefused(refused) => Some((&refused.movement, Status::Failed)),
            Self::HoldPlaced(hold) => Some((&hold.movement, Status::Pending)),
            Self::WalletOpened(_)
            | Self::HoldCaptured(_)
            | Self::HoldVoided(_)
            | Self::Reversal(_)
            | Self::FraudScored(_) => None,
        }
    }

    /// The transaction that it creates or changes.
    pub fn transaction(&self) -> Option<TransactionId> {
        match (self.creation(), self.amendment()) {
            (Some((movement, _)), _) => Some(movement.transaction),
            (None, Some(amendment)) => Some(amendment.transaction),
            (None, None) => None,
        }
    }
}

impl Entry {
    /// Number of its last event; what the client is told.
    pub const fn last(&self) -> Sequence {
        self.first.plus(self.body.event_count().saturating_sub(1))
    }

    /// Whether `wallet` is one of those it touches.
    pub fn touches(&self, wallet: WalletId) -> bool {
        let (one, other) = self.body.legs();
        one.wallet == wallet || other.is_some_and(|leg| leg.wallet == wallet)
    }

    /// Its events in the order of their sequences.
    pub fn events(&self) -> impl Iterator<Item = Event<'_>> {
        use EventDetail::Transaction as Lifecycle;
        use EventKind::{
            TransactionCompleted as Completed, TransactionCreated as Created,
            TransactionFailed as Failed, TransactionReversed as Reversed,
        };
        let created = |m| Some(Lifecycle(Movement::event(m, Created, Status::Pending)));
        let completed = |m| Some(Lifecycle(Movement::event(m, Completed, Status::Completed)));
        let details: [Option<EventDetail<'_>>; 4] = match &self.body {
            Body::WalletOpened(opened) => [
                Some(EventDetail::Wallet(WalletEvent {
                    wallet: opened.leg.wallet,
                    currency: opened.currency,
                    overdraft_limit: opened.overdraft_limit,
                })),
                None,
                None,
                None,
            ],
            Body::Transfer(m) => [created(m), completed(m), Some(m.paid()), Some(m.received())],
            Body::Issuance(m) => [created(m), completed(m), Some(m.received()), None],
            Body::Redemption(m) => [created(m), completed(m), Some(m.paid()), None],
            Body::TransferRefused(RefusedMovement {
                movement: m,
                reason,
            }) => {
                let failed = TransactionEvent {
                    reason: Some(*reason),
                    ..m.event(Failed, Status::Failed)
                };
                [created(m), Some(Lifecycle(failed)), None, None]
            }
            Body::HoldPlaced(hold) => [created(&hold.movement), None, None, None],
            Body::HoldCaptured(a) => [
                Some(Lifecycle(a.event(Completed, Status::Completed))),
                Some(a.decreased(&a.from)),
                Some(a.increased(&a.to)),
                None,
            ],
            Body::HoldVoided(voided) => {
                let failed = TransactionEvent {
                    reason: Some(voided.reason),
                    ..voided.amendment.event(Failed, Status::Failed)
                };
                [Some(Lifecycle(failed)), None, None, None]
            }
            Body::Reversal(a) => [
                Some(Lifecycle(a.event(Reversed, Status::Reversed))),
                Some(a.increased(&a.from)),
                Some(a.decreased(&a.to)),
                None,
            ],
            Body::FraudScored(scored) => [Some(Lifecycle(scored.event())), None, None, None],
        };
        let (mut sequence, at) = (self.first, self.at);
        details.into_iter().flatten().map(move |detail| {
            let event = Event {
                sequence,
                at,
                detail,
            };
            sequence = sequence.next();
            event
        })
    }
}

impl Movement {
    fn event(&self, kind: EventKind, status: Status) -> TransactionEvent<'_> {
        TransactionEvent {
            kind,
            transaction: self.transaction,
            from: self.from.wallet,
            to: self.to.wallet,
            currency: self.currency,
            amount: self.amount,
            status,
            fraud_score: FraudScore::ZERO,
            metadata: self.metadata.as_deref(),
            scores: None,
            reason: None,
            issued: self.from.wallet.is_issuer(),
        }
    }

    fn paid(&self) -> EventDetail<'_> {
        decreased(&self.from, self.amount, self.currency, self.transaction)
    }

    fn received(&self) -> EventDetail<'_> {
        increased(&self.to, self.amount, self.currency, self.transaction)
    }
}

impl Amendment {
    fn event(&self, kind: EventKind, status: Status) -> TransactionEvent<'_> {
        TransactionEvent {
            kind,
            transaction: self.transaction,
            from: self.from.wallet,
            to: self.to.wallet,
            currency: self.currency,
            amount: self.amount,
            status,
            fraud_score: self.fraud_score,
            metadata: None,
            scores: None,
            reason: None,
            issued: self.from.wallet.is_issuer(),
        }
    }

    fn decreased(&self, leg: &Leg) -> EventDetail<'_> {
        decreased(leg, self.amount, self.currency, self.transaction)
    }

    fn increased(&self, leg: &Leg) -> EventDetail<'_> {
        increased(leg, self.amount, self.currency, self.transaction)
    }
}

impl Scored {
    fn event(&self) -> TransactionEvent<'_> {
        let old_score = self.amendment.fraud_score;
        let status = self.amendment.status_before;
        TransactionEvent {
            fraud_score: self.new_score,
            scores: Some((old_score, self.new_score)),
            ..self.amendment.event(EventKind::FraudScoreUpdated, status)
        }
    }
}

/// `leg` after `amount` left it. The old balance was in range when the entry was decided, so saturation only guards
/// against damaged bytes.
fn decreased(
    leg: &Leg,
    amount: MinorUnits,
    currency: Currency,
    transaction: TransactionId,
) -> EventDetail<'static> {
    balance(
        leg,
        leg.balance_after.get().saturating_add(amount.get()),
        currency,
        transaction,
    )
}

/// `leg` after `amount` reached it.
fn increased(
    leg: &Leg,
    amount: MinorUnits,
    currency: Currency,
    transaction: TransactionId,
) -> EventDetail<'static> {
    balance(
        leg,
        leg.balance_after.get().saturating_sub(amount.get()),
        currency,
        transaction,
    )
}

fn balance(
    leg: &Leg,
    old_minor: i64,
    currency: Currency,
    transaction: TransactionId,
) -> EventDetail<'static> {
    EventDetail::Balance(BalanceEvent {
        wallet: leg.wallet,
        currency,
        old_balance: MinorUnits::new(old_minor),
        new_balance: leg.balance_after,
        transaction,
    })
}
