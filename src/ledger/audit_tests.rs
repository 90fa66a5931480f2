//! The audit against entries of which one field was falsified: each must be found, at its entry.

use super::audit::{Audit, Fault};
use super::books::{Amended, Books, BooksWriter, Rows, apply};
use super::checkpoint::Loaded;
use super::command::{
    AmendCommand, BatchItem, Change, Command, HoldSpec, MovementRequest, OpenWallet,
};
use super::config::Config;
use super::query::TransactionRecord;
use super::state::{Rules, State};
use crate::ids::IdCipher;
use crate::journal::entry::{Amendment, FailureReason, Leg, Movement, RefusedMovement};
use crate::journal::{Body, Entry};
use crate::types::{
    Currencies, Currency, FraudScore, MinorUnits, Sequence, Status, TimestampMs, TransactionId,
    WalletId,
};
use std::sync::Arc;
use uuid::Uuid;

const USD: Currency = Currency::from_tag(1);
const KEY: [u8; 16] = [7; 16];

/// Everything that is wrong with `entries`, and with the books behind them.
fn audit(
    key: [u8; 16],
    entries: &[Entry],
    loaded: Option<Loaded>,
) -> Vec<(Option<Sequence>, Fault)> {
    let mut audit = Audit::new(IdCipher::new(&key), Currencies::default(), loaded);
    let mut faults = Vec::new();
    let mut look_up = |at| entries.iter().find(|entry| entry.first == at).cloned();
    for entry in entries {
        audit.take(entry, &mut look_up, &mut |at, fault| {
            faults.push((at, fault));
        });
    }
    audit.finish(&mut |at, fault| faults.push((at, fault)));
    faults
}

/// For other tests of the ledger: the rules and the audit agree on what may stand in a journal.
#[track_caller]
pub(super) fn assert_clean(key: [u8; 16], entries: &[Entry]) {
    assert_eq!(audit(key, entries, None), []);
}

fn wallet(number: u128) -> WalletId {
    WalletId::new(Uuid::from_u128(number)).unwrap()
}

fn movement(from: u128, to: u128, amount: i64) -> MovementRequest {
    MovementRequest {
        from: wallet(from),
        to: wallet(to),
        currency: USD,
        amount: MinorUnits::new(amount),
        metadata: None,
        hold: None,
    }
}

/// A ledger that decides what it is told and keeps the entries.
struct Script {
    state: State,
    now: u64,
    entries: Vec<Entry>,
}

impl Script {
    fn tell(&mut self, command: Command) -> usize {
        let now = TimestampMs::new(self.now);
        self.state.expire(now, usize::MAX, &mut self.entries);
        let at = self.entries.len();
        let _refused = self.state.execute(command, now, &mut self.entries);
        self.state.merge();
        self.now += 10;
        assert!(self.entries.len() > at, "nothing was journaled");
        at
    }

    fn hold(&mut self, amount: i64) -> usize {
        self.tell(Command::Transfer(MovementRequest {
            hold: Some(HoldSpec {
                expires_in_ms: 1_000,
            }),
            ..movement(1, 2, amount)
        }))
    }

    /// Changes the transaction that the entry at `created` made.
    fn amend(&mut self, created: usize, status: Status, change: Change) {
        let creation = &self.entries[created];
        let (made, _) = creation.body.creation().unwrap();
        let about = |entry: &&Entry| {
            entry
                .body
                .amendment()
                .is_some_and(|a| a.created == creation.first)
        };
        let last = self.entries.iter().rfind(about);
        let record = TransactionRecord {
            id: made.transaction,
            from: made.from.wallet,
            to: made.to.wallet,
            currency: USD,
            amount: made.amount,
            status,
            fraud_score: match last.map(|entry| &entry.body) {
                Some(Body::FraudScored(scored)) => scored.new_score,
                _ => FraudScore::ZERO,
            },
            created_at: creation.at,
            settled_at: None,
            metadata: None,
            created: creation.first,
            last_amendment: last.map_or(Sequence::ORIGIN, |entry| entry.first),
            sequence: creation.last(),
            entries: Vec::new(),
        };
        self.tell(Command::Amend(AmendCommand {
            record: Arc::new(record),
            change,
            user_id: None,
            details: None,
        }));
    }
}

/// Every kind of entry, chains long enough for skips, a batch, a hold that ends by itself.
fn whole() -> Vec<Entry> {
    let rules = Rules {
        open_holds_max: 8,
        audit_entries_max: 6,
        opening_balances: None,
    };
    let ids = IdCipher::new(&KEY);
    let mut script = Script {
        state: State::new(Arc::new(Books::new()), ids, rules, Sequence::ORIGIN),
        now: 1_000_000,
        entries: Vec::new(),
    };
    for number in 1..=3 {
        script.tell(Command::OpenWallet(OpenWallet {
            wallet: wallet(number),
            currency: USD,
            overdraft_limit: MinorUnits::new(50),
        }));
    }
    script.tell(Command::Issue(movement(1, 1, 10_000)));
    let paid = script.tell(Command::Transfer(movement(1, 2, 700)));
    script.tell(Command::Transfer(movement(3, 2, 51)));
    let captured = script.hold(300);
    let voided = script.hold(400);
    let _ends_by_itself = script.hold(500);
    let score = |millionths| Change::Score(FraudScore::from_millionths(millionths).unwrap());
    script.amend(captured, Status::Pending, score(250_000));
    script.amend(captured, Status::Pending, Change::Complete);
    script.amend(voided, Status::Pending, Change::Fail);
    script.amend(paid, Status::Completed, score(900_000));
    script.amend(paid, Status::Completed, Change::Reverse);
    script.tell(Command::Redeem(movement(1, 1, 250)));
    script.now += 2_000;
    let items = (0..3).map(|_| BatchItem::Transfer(movement(1, 3, 5)));
    script.tell(Command::Batch {
        items: items.collect(),
        atomic: true,
    });
    for _ in 0..130 {
        script.tell(Command::Transfer(movement(1, 2, 1)));
    }
    let still_open = script.hold(9);
    script.amend(still_open, Status::Pending, score(1));
    script.entries
}

fn legs(body: &mut Body) -> [Option<&mut Leg>; 2] {
    match body {
        Body::WalletOpened(opened) => [Some(&mut opened.leg), None],
        Body::Transfer(m) | Body::Issuance(m) | Body::Redemption(m) => {
            [Some(&mut m.from), Some(&mut m.to)]
        }
        Body::TransferRefused(refused) => {
            let RefusedMovement { movement, .. } = refused;
            [Some(&mut movement.from), Some(&mut movement.to)]
        }
        Body::HoldPlaced(hold) => [Some(&mut hold.movement.from), Some(&mut hold.movement.to)],
        Body::HoldCaptured(a) | Body::Reversal(a) => [Some(&mut a.from), Some(&mut a.to)],
        Body::HoldVoided(v) => [Some(&mut v.amendment.from), Some(&mut v.amendment.to)],
        Body::FraudScored(s) => [Some(&mut s.amendment.from), Some(&mut s.amendment.to)],
    }
}

fn created(body: &mut Body) -> Option<&mut Movement> {
    match body {
        Body::Transfer(m) | Body::Issuance(m) | Body::Redemption(m) => Some(m),
        Body::TransferRefused(refused) => Some(&mut refused.movement),
        Body::HoldPlaced(hold) => Some(&mut hold.movement),
        _ => None,
    }
}

fn amended(body: &mut Body) -> Option<&mut Amendment> {
    match body {
        Body::HoldCaptured(amendment) | Body::Reversal(amendment) => Some(amendment),
        Body::HoldVoided(voided) => Some(&mut voided.amendment),
        Body::FraudScored(scored) => Some(&mut scored.amendment),
        _ => None,
    }
}

/// Falsifies one field where an entry has it, and says whether it has.
type Falsify = fn(&mut Entry) -> bool;

fn on_leg(entry: &mut Entry, which: usize, change: fn(&mut Leg)) -> bool {
    let leg = legs(&mut entry.body).into_iter().nth(which).flatten();
    leg.map(change).is_some()
}

fn on_creation(entry: &mut Entry, change: fn(&mut Movement)) -> bool {
    created(&mut entry.body).map(change).is_some()
}

fn on_amendment(entry: &mut Entry, change: fn(&mut Amendment)) -> bool {
    amended(&mut entry.body).map(change).is_some()
}

fn minor(amount: MinorUnits, by: i64) -> MinorUnits {
    MinorUnits::new(amount.get() + by)
}

fn other_id(id: TransactionId) -> TransactionId {
    TransactionId(Uuid::from_u128(id.0.as_u128() ^ 1))
}

const FALSIFIED: [(&str, Falsify); 42] = [
    ("first sequence", |e| {
        e.first = e.first.next();
        true
    }),
    ("time", |e| {
        e.at = TimestampMs::new(1);
        e.first > Sequence::new(1)
    }),
    ("payer's balance", |e| {
        on_leg(e, 0, |leg| leg.balance_after = minor(leg.balance_after, 1))
    }),
    ("payer's held amount", |e| {
        on_leg(e, 0, |leg| leg.held_after = minor(leg.held_after, 1))
    }),
    ("payer's ordinal", |e| {
        on_leg(e, 0, |leg| leg.link.ordinal += 1)
    }),
    ("payer's entry before", |e| {
        on_leg(e, 0, |leg| leg.link.previous = leg.link.previous.next())
    }),
    ("payer's skip", |e| {
        on_leg(e, 0, |leg| leg.link.skip = leg.link.skip.next())
    }),
    ("payer's skip left out", |e| {
        let has = legs(&mut e.body)[0]
            .as_ref()
            .is_some_and(|leg| !leg.link.skip.is_origin());
        has && on_leg(e, 0, |leg| leg.link.skip = Sequence::ORIGIN)
    }),
    ("payer", |e| {
        // Another wallet may be opened; that this one never was shows later.
        let moves = !matches!(e.body, Body::WalletOpened(_));
        moves && on_leg(e, 0, |leg| leg.wallet = wallet(99))
    }),
    ("receiver's balance", |e| {
        on_leg(e, 1, |leg| leg.balance_after = minor(leg.balance_after, 1))
    }),
    ("receiver's held amount", |e| {
        on_leg(e, 1, |leg| leg.held_after = minor(leg.held_after, 1))
    }),
    ("receiver's ordinal", |e| {
        on_leg(e, 1, |leg| leg.link.ordinal -= 1)
    }),
    ("receiver's entry before", |e| {
        on_leg(e, 1, |leg| leg.link.previous = leg.link.previous.next())
    }),
    ("receiver's skip", |e| {
        on_leg(e, 1, |leg| leg.link.skip = leg.link.skip.next())
    }),
    ("receiver", |e| on_leg(e, 1, |leg| leg.wallet = wallet(99))),
    ("both balances, so that the sum stays", |e| {
        on_leg(e, 0, |leg| leg.balance_after = minor(leg.balance_after, 1))
            && on_leg(e, 1, |leg| leg.balance_after = minor(leg.balance_after, -1))
    }),
    ("created transaction's id", |e| {
        on_creation(e, |m| m.transaction = other_id(m.transaction))
    }),
    ("created transaction's version", |e| {
        on_creation(e, |m| {
            m.transaction = TransactionId(Uuid::from_u128(m.transaction.0.as_u128() ^ (3 << 76)));
        })
    }),
    ("created transaction's currency", |e| {
        on_creation(e, |m| m.currency = Currency::from_tag(9))
    }),
    ("created transaction's amount", |e| {
        let moves = !matches!(e.body, Body::TransferRefused(_));
        moves && on_creation(e, |m| m.amount = minor(m.amount, 1))
    }),
    ("created transaction's sign", |e| {
        on_creation(e, |m| m.amount = MinorUnits::ZERO)
    }),
    ("changed transaction's id", |e| {
        on_amendment(e, |a| a.transaction = other_id(a.transaction))
    }),
    ("changed transaction's creation", |e| {
        on_amendment(e, |a| a.created = a.created.next())
    }),
    ("change before", |e| {
        on_amendment(e, |a| a.previous_amendment = a.previous_amendment.next())
    }),
    ("number of changes", |e| on_amendment(e, |a| a.ordinal += 1)),
    ("changed transaction's currency", |e| {
        on_amendment(e, |a| a.currency = Currency::from_tag(2))
    }),
    ("changed transaction's amount", |e| {
        on_amendment(e, |a| a.amount = minor(a.amount, 1))
    }),
    ("score before", |e| {
        on_amendment(e, |a| {
            a.fraud_score = FraudScore::from_millionths(77).unwrap();
        })
    }),
    ("status before", |e| {
        on_amendment(e, |a| a.status_before = Status::Failed)
    }),
    ("sides of a change", |e| {
        on_amendment(e, |a| std::mem::swap(&mut a.from.wallet, &mut a.to.wallet))
    }),
    ("refused for another reason", |e| {
        on_refusal(e, FailureReason::BalanceOverflow)
    }),
    ("refused for a hold's reason", |e| {
        on_refusal(e, FailureReason::Voided)
    }),
    ("refused although the money was there", |e| {
        let refused = matches!(e.body, Body::TransferRefused(_));
        refused && on_creation(e, |m| m.amount = MinorUnits::new(50))
    }),
    ("hold's end", |e| match &mut e.body {
        Body::HoldPlaced(hold) => {
            hold.expires_at = TimestampMs::new(e.at.get() - 1);
            true
        }
        _ => false,
    }),
    ("given up before its end", |e| match &mut e.body {
        Body::HoldVoided(voided) if voided.reason == FailureReason::Voided => {
            voided.reason = FailureReason::Expired;
            true
        }
        _ => false,
    }),
    ("given up for a payment's reason", |e| match &mut e.body {
        Body::HoldVoided(voided) => {
            voided.reason = FailureReason::InsufficientFunds;
            true
        }
        _ => false,
    }),
    ("overdraft limit", |e| match &mut e.body {
        Body::WalletOpened(opened) => {
            opened.overdraft_limit = MinorUnits::new(-1);
            true
        }
        _ => false,
    }),
    ("place in the batch", |e| {
        e.batch.as_mut().map(|place| place.index += 1).is_some()
    }),
    ("first of the batch", |e| {
        e.batch
            .as_mut()
            .map(|place| place.first = place.first.next())
            .is_some()
    }),
    ("a batch where there was none", |e| {
        let was_none = e.batch.is_none();
        let place = crate::journal::entry::BatchPlace {
            first: e.first,
            index: 1,
            count: 2,
        };
        e.batch.get_or_insert(place);
        was_none
    }),
    ("an issuer as payer", |e| match &mut e.body {
        Body::Transfer(m) => {
            m.from.wallet = WalletId::issuer(USD);
            true
        }
        _ => false,
    }),
    ("an issuance out of a wallet", |e| match &mut e.body {
        Body::Issuance(m) => {
            m.from.wallet = wallet(2);
            true
        }
        _ => false,
    }),
];

fn on_refusal(entry: &mut Entry, reason: FailureReason) -> bool {
    match &mut entry.body {
        Body::TransferRefused(refused) => {
            refused.reason = reason;
            true
        }
        _ => false,
    }
}

#[test]
fn what_the_rules_wrote_has_no_fault() {
    let entries = whole();
    let kinds = [
        "WalletOpened",
        "Transfer(",
        "Issuance",
        "Redemption",
        "TransferRefused",
        "HoldPlaced",
        "HoldCaptured",
        "HoldVoided",
        "Reversal",
        "FraudScored",
        "Expired",
    ];
    let text = format!("{entries:?}");
    for kind in kinds {
        assert!(text.contains(kind), "no {kind}");
    }
    assert_clean(KEY, &entries);
}

#[test]
fn every_falsified_field_is_found_at_its_entry() {
    let entries = whole();
    // The middle of the long chain says nothing new.
    let telling = |at: &usize| *at < 30 || *at + 30 > entries.len();
    for (field, falsify) in FALSIFIED {
        let mut places = 0;
        for at in (0..entries.len()).filter(telling) {
            let mut falsified = entries.clone();
            if !falsify(&mut falsified[at]) {
                continue;
            }
            places += 1;
            let faults = audit(KEY, &falsified, None);
            let first = faults.first().map(|(place, _)| *place);
            assert_eq!(
                first,
                Some(Some(falsified[at].first)),
                "{field} of {:?}",
                entries[at]
            );
        }
        assert!(places > 0, "no entry has a {field}");
    }
}

#[test]
fn an_entry_left_out_or_put_in_twice_is_found() {
    let entries = whole();
    for at in (0..entries.len() - 1).filter(|at| at % 3 == 0) {
        let mut short = entries.clone();
        short.remove(at);
        assert_ne!(audit(KEY, &short, None), [], "without {:?}", entries[at]);
        let mut long = entries.clone();
        long.insert(at, entries[at].clone());
        assert_ne!(audit(KEY, &long, None), [], "twice {:?}", entries[at]);
    }
}

#[test]
fn ids_of_another_key_are_found() {
    let entries = whole();
    let faults = audit([8; 16], &entries, None);
    assert!(
        matches!(faults[0], (Some(_), Fault::Id(..))),
        "{:?}",
        faults[0]
    );
}

/// A whole forgery: amount and both balances fit each other and what came before.
#[test]
fn a_wallet_below_its_limit_is_found_although_all_fits() {
    let mut entries = whole();
    let last = entries
        .iter()
        .rposition(|e| matches!(e.body, Body::Transfer(_)))
        .unwrap();
    entries.truncate(last + 1);
    let Body::Transfer(movement) = &mut entries[last].body else {
        panic!("a transfer")
    };
    let more = movement.from.balance_after.get() + 51;
    movement.amount = minor(movement.amount, more);
    movement.from.balance_after = minor(movement.from.balance_after, -more);
    movement.to.balance_after = minor(movement.to.balance_after, more);
    let wallet = movement.from.wallet;
    let fault = Fault::Overdrawn {
        wallet,
        below_minor: 1,
    };
    assert_eq!(
        audit(KEY, &entries, None),
        [(Some(entries[last].first), fault)]
    );
}

#[test]
fn an_open_batch_at_the_end_is_found() {
    let mut entries = whole();
    let first = entries.iter().position(|e| e.batch.is_some()).unwrap();
    entries.truncate(first + 2);
    let end = entries[first + 1].last();
    assert_eq!(audit(KEY, &entries, None), [(Some(end), Fault::Batch)]);
}

/// A checkpoint as it would be read, holding `entries` up to `applied`.
fn checkpoint(entries: &[Entry], applied: usize) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: folder.path().into(),
        ..Config::default()
    };
    let mut loaded = Loaded::read(&config).unwrap();
    for entry in &entries[..applied] {
        apply(&mut BooksWriter(&loaded.books), entry);
        loaded.replay_after = entry.last();
    }
    loaded
}

#[test]
fn a_checkpoint_that_fits_is_accepted_wherever_it_stands() {
    let entries = whole();
    for applied in [0, 1, 7, entries.len() / 2, entries.len()] {
        let loaded = checkpoint(&entries, applied);
        assert_eq!(audit(KEY, &entries, Some(loaded)), [], "{applied}");
    }
}

type ChangeRow = fn(&mut BooksWriter<'_>);

#[test]
fn every_kind_of_row_that_differs_in_the_checkpoint_is_found() {
    let entries = whole();
    let changes: [(&str, ChangeRow); 6] = [
        ("wallet", |rows| {
            let mut row = rows.0.wallet(wallet(3)).unwrap();
            row.ordinal += 1;
            rows.put_wallet(wallet(3), row);
        }),
        ("wallet", |rows| {
            let row = rows.0.wallet(wallet(3)).unwrap();
            rows.put_wallet(wallet(77), row);
        }),
        ("hold", |rows| {
            let (created, hold) = rows.0.open_holds_after(Sequence::ORIGIN, 1)[0];
            rows.remove_hold(created);
            rows.put_hold(created.next(), hold);
        }),
        ("hold", |rows| {
            let (created, hold) = rows.0.open_holds_after(Sequence::ORIGIN, 1)[0];
            let amount = minor(hold.amount, 1);
            rows.put_hold(created, super::books::Hold { amount, ..hold });
        }),
        ("changed transaction", |rows| {
            let amended = Amended {
                last: Sequence::new(5),
                ordinal: 1,
                status: Status::Failed,
                fraud_score: FraudScore::ZERO,
            };
            rows.put_amended(Sequence::new(4), amended);
        }),
        ("changed transaction", |rows| {
            let created = rows.0.open_holds_after(Sequence::ORIGIN, 1)[0].0;
            let row = rows.0.amended(created).unwrap();
            let ordinal = row.ordinal + 1;
            rows.put_amended(created, Amended { ordinal, ..row });
        }),
    ];
    for (what, change) in changes {
        let loaded = checkpoint(&entries, entries.len());
        change(&mut BooksWriter(&loaded.books));
        let faults = audit(KEY, &entries, Some(loaded));
        let told = faults.iter().any(
            |(_, fault)| matches!(fault, Fault::Checkpoint { row, .. } if row.starts_with(what)),
        );
        assert!(told, "{what}: {faults:?}");
    }
}

#[test]
fn a_checkpoint_ahead_of_the_journal_is_found() {
    let entries = whole();
    let loaded = checkpoint(&entries, entries.len());
    let shorter = &entries[..entries.len() - 1];
    let faults = audit(KEY, shorter, Some(loaded));
    assert!(
        matches!(faults[..], [(None, Fault::CheckpointAhead { .. })]),
        "{faults:?}"
    );
}
