//! The rules against a second, naive ledger: under random load both must say the same, replay must give the same
//! books, and money must neither appear nor vanish.

use super::books::{Books, BooksWriter, apply};
use super::command::{
    AmendCommand, BatchItem, Change, Command, MovementRequest, OpenWallet, Reply,
};
use super::error::{Refusal, SubmitError};
use super::naive::{Naive, NaiveAccount, Op, USD, every_row, minor, op, request, rules, wallet};
use super::query::TransactionRecord;
use super::state::{Rules, State};
use crate::ids::IdCipher;
use crate::journal::{Body, Entry};
use crate::types::{FraudScore, Sequence, Status, TimestampMs, TransactionId, WalletId};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

fn ids() -> IdCipher {
    IdCipher::new(&[7; 16])
}

/// The ledger under test, without thread and journal, and what it wrote.
struct Rig {
    books: Arc<Books>,
    state: State,
    entries: Vec<Entry>,
    now: u64,
    naive: Naive,
}

impl Rig {
    fn new() -> Self {
        let books = Arc::new(Books::new());
        let state = State::new(Arc::clone(&books), ids(), rules(), Sequence::ORIGIN);
        Self {
            books,
            state,
            entries: Vec::new(),
            now: 1_000,
            naive: Naive::default(),
        }
    }

    fn execute(&mut self, command: Command) -> Result<Reply, SubmitError> {
        self.state
            .execute(command, TimestampMs::new(self.now), &mut self.entries)
    }

    /// The transaction as a reader would have found it: from the entries alone.
    fn record(&self, id: TransactionId) -> TransactionRecord {
        let mut about = self
            .entries
            .iter()
            .filter(|entry| entry.body.transaction() == Some(id));
        let creation = about.next().unwrap();
        let (movement, mut status) = creation.body.creation().unwrap();
        let (mut last_amendment, mut fraud_score) = (Sequence::ORIGIN, FraudScore::ZERO);
        for entry in about {
            last_amendment = entry.first;
            for event in entry.events() {
                if let crate::journal::EventDetail::Transaction(event) = event.detail {
                    status = event.status;
                    fraud_score = event.fraud_score;
                }
            }
        }
        TransactionRecord {
            id,
            from: movement.from.wallet,
            to: movement.to.wallet,
            currency: movement.currency,
            amount: movement.amount,
            status,
            fraud_score,
            created_at: creation.at,
            settled_at: None,
            metadata: None,
            created: creation.first,
            last_amendment,
            sequence: creation.last(),
            entries: Vec::new(),
        }
    }

    fn movement(&mut self, command: Command, request: &MovementRequest) {
        let expected = self.naive.judge(request);
        let reply = self.execute(command);
        self.compare(
            request,
            expected,
            reply.map(|reply| match reply {
                Reply::Transaction(receipt) => receipt,
                other => panic!("a movement was answered with {other:?}"),
            }),
        );
    }

    fn compare(
        &mut self,
        request: &MovementRequest,
        expected: Result<Status, &'static str>,
        actual: Result<super::Receipt, SubmitError>,
    ) {
        match (expected, actual) {
            (Ok(status), Ok(receipt)) => {
                assert_eq!(receipt.status, status);
                self.naive
                    .note(receipt.transaction, request, status, self.now);
            }
            (Err(code), Err(SubmitError::Refused(refused))) => {
                assert_eq!(refused.refusal.code(), code);
                assert_eq!(refused.journaled.is_some(), code == "INSUFFICIENT_FUNDS");
                if let Some((id, _)) = refused.journaled {
                    let failed = MovementRequest {
                        hold: None,
                        ..request.clone()
                    };
                    self.naive.note(id, &failed, Status::Failed, self.now);
                }
            }
            (expected, actual) => panic!("{request:?}: expected {expected:?}, got {actual:?}"),
        }
    }

    fn run(&mut self, op: Op) {
        self.state
            .expire(TimestampMs::new(self.now), usize::MAX, &mut self.entries);
        self.naive.expire(self.now);
        match op {
            Op::Open {
                wallet: number,
                overdraft,
            } => {
                let request = OpenWallet {
                    wallet: wallet(number),
                    currency: USD,
                    overdraft_limit: minor(overdraft),
                };
                let known = self.naive.accounts.contains_key(&wallet(number));
                let reply = self.execute(Command::OpenWallet(request));
                assert_eq!(reply.is_err(), known);
                if !known {
                    let account = NaiveAccount {
                        overdraft,
                        ..NaiveAccount::default()
                    };
                    self.naive.accounts.insert(wallet(number), account);
                }
            }
            Op::Issue { to, amount } => {
                let mut asked = request(0, to, amount, false);
                asked.from = WalletId::issuer(USD);
                self.movement(Command::Issue(asked.clone()), &asked);
            }
            Op::Redeem { from, amount } => {
                let mut asked = request(from, 0, amount, false);
                asked.to = WalletId::issuer(USD);
                self.movement(Command::Redeem(asked.clone()), &asked);
            }
            Op::Transfer {
                from,
                to,
                amount,
                hold,
            } => {
                let asked = request(from, to, amount, hold);
                self.movement(Command::Transfer(asked.clone()), &asked);
            }
            Op::Amend { which, change } => self.amend(which, change),
            Op::Batch { items, atomic } => self.batch(&items, atomic),
            Op::Wait { ms } => self.now += ms,
            Op::EndGroup => self.state.merge(),
        }
    }

    fn amend(&mut self, which: usize, change: Change) {
        if self.naive.transactions.is_empty() {
            return;
        }
        let index = which % self.naive.transactions.len();
        let record = self.record(self.naive.transactions[index].id);
        assert_eq!(record.status, self.naive.transactions[index].status);
        assert_eq!(record.fraud_score, self.naive.transactions[index].score);
        let expected = self.naive.amend(index, change);
        let command = |record| {
            Command::Amend(AmendCommand {
                record,
                change,
                user_id: None,
                details: None,
            })
        };
        let record = Arc::new(record);
        let written = self.entries.len();
        match (expected, self.execute(command(Arc::clone(&record)))) {
            (Ok(()), Ok(Reply::Amended { .. })) => {
                // The same record once more is out of date, whatever is asked.
                let again = self.execute(command(record));
                assert!(matches!(again, Err(SubmitError::Stale)), "{again:?}");
            }
            (Err(code), Err(SubmitError::Refused(refused))) => {
                assert_eq!(refused.refusal.code(), code);
                assert_eq!(refused.journaled, None);
                assert_eq!(self.entries.len(), written);
            }
            (expected, actual) => panic!("{change:?}: expected {expected:?}, got {actual:?}"),
        }
    }

    fn batch(&mut self, items: &[(u8, u8, i64, bool)], atomic: bool) {
        let asked: Vec<MovementRequest> = items
            .iter()
            .map(|&(from, to, amount, hold)| request(from, to, amount, hold))
            .collect();
        let written = self.entries.len();
        let command = Command::Batch {
            items: asked.iter().cloned().map(BatchItem::Transfer).collect(),
            atomic,
        };
        match self.execute(command) {
            Ok(Reply::Batch(results)) => {
                assert_eq!(results.len(), asked.len());
                for (request, result) in asked.iter().zip(results) {
                    let expected = self.naive.judge(request);
                    self.compare(
                        request,
                        expected,
                        result.unwrap().map_err(SubmitError::from),
                    );
                }
                let places = self.entries[written..].iter().map(|entry| entry.batch);
                if atomic {
                    let count = u32::try_from(asked.len()).unwrap();
                    let seen: Vec<_> = places.map(|p| p.map(|p| (p.index, p.count))).collect();
                    let expected: Vec<_> = (0..count).map(|i| Some((i, count))).collect();
                    assert_eq!(seen, expected);
                } else {
                    assert!(places.into_iter().all(|place| place.is_none()));
                }
            }
            Err(SubmitError::BatchRefused { index, refusal }) => {
                assert!(atomic);
                assert_eq!(self.entries.len(), written);
                let mut copy = self.naive.clone();
                for request in &asked[..index] {
                    let status = copy.judge(request).unwrap();
                    copy.note(TransactionId(Uuid::nil()), request, status, self.now);
                }
                assert_eq!(copy.judge(&asked[index]), Err(refusal.code()));
            }
            other => panic!("a batch was answered with {other:?}"),
        }
    }

    /// Both ledgers agree, the sums are zero, sequences and chains are whole.
    fn check(&mut self) {
        self.state.merge();
        super::audit_tests::assert_clean([7; 16], &self.entries);
        for (id, expected) in &self.naive.accounts {
            let account = self.books.account(*id, USD).unwrap();
            assert_eq!(account.balance.get(), expected.balance, "balance of {id}");
            assert_eq!(account.held.get(), expected.held, "held of {id}");
        }
        assert_eq!(self.books.open_holds_count(), self.naive.open_holds());
        assert!(self.books.totals().iter().all(|total| total.sum_minor == 0));
        let mut next = Sequence::new(1);
        let mut heads: BTreeMap<WalletId, Vec<Sequence>> = BTreeMap::new();
        for entry in &self.entries {
            assert_eq!(entry.first, next);
            assert_eq!(entry.events().count() as u64, entry.body.event_count());
            next = entry.last().next();
            let (one, other) = entry.body.legs();
            for leg in [Some(one), other].into_iter().flatten() {
                let chain = heads.entry(leg.wallet).or_default();
                assert_eq!(leg.link.previous, chain.last().copied().unwrap_or_default());
                assert_eq!(leg.link.ordinal, chain.len() as u64 + 1);
                let skips = leg.link.ordinal.is_multiple_of(64) && chain.len() > 64;
                let skip = if skips {
                    chain[chain.len() - 64]
                } else {
                    Sequence::ORIGIN
                };
                assert_eq!(leg.link.skip, skip);
                chain.push(entry.first);
            }
        }
    }
}

proptest! {
    #[test]
    fn the_ledger_says_what_a_naive_one_says(ops in proptest::collection::vec(op(), 1..80)) {
        let mut rig = Rig::new();
        for op in ops {
            rig.run(op);
        }
        rig.check();
    }

    /// A checkpoint is fuzzy: some rows are as of its sequence, others newer. Replay from that sequence must end in
    /// the same books whatever the mixture, and also when it starts earlier than it had to.
    #[test]
    fn replay_over_any_fuzzy_checkpoint_gives_the_same_books(
        ops in proptest::collection::vec(op(), 1..80),
        newer in 0..100_usize,
        older in 0..100_usize,
    ) {
        let mut rig = Rig::new();
        for op in ops {
            rig.run(op);
        }
        rig.check();
        let expected = every_row(&rig.books);
        let newer = newer.min(rig.entries.len());
        let older = older.min(newer);
        let books = Books::new();
        let mut rows = BooksWriter(&books);
        for entry in rig.entries[..newer].iter().chain(&rig.entries[older..]) {
            apply(&mut rows, entry);
        }
        prop_assert_eq!(every_row(&books), expected);
    }
}

#[test]
fn a_long_chain_carries_its_skip_pointers() {
    let mut rig = Rig::new();
    rig.run(Op::Open {
        wallet: 0,
        overdraft: 0,
    });
    for _ in 0..300 {
        rig.run(Op::Issue { to: 0, amount: 1 });
        rig.run(Op::EndGroup);
    }
    rig.check();
}

#[test]
fn unknown_accounts_are_opened_on_sight_only_when_told_to() {
    let books = Arc::new(Books::new());
    let opening = Rules {
        opening_balances: Some(vec![(USD, minor(1_000))]),
        ..rules()
    };
    let mut state = State::new(Arc::clone(&books), ids(), opening, Sequence::ORIGIN);
    let mut entries = Vec::new();
    let transfer = Command::Transfer(request(0, 1, 300, false));
    assert!(
        state
            .execute(transfer.clone(), TimestampMs::new(1), &mut entries)
            .is_ok()
    );
    let kinds: Vec<bool> = entries
        .iter()
        .map(|e| matches!(e.body, Body::Issuance(_)))
        .collect();
    assert_eq!(kinds, [false, true, false, true, false]);
    state.merge();
    assert_eq!(books.account(wallet(0), USD).unwrap().balance, minor(700));
    assert_eq!(books.account(wallet(1), USD).unwrap().balance, minor(1_300));
    assert_eq!(
        books.account(WalletId::issuer(USD), USD).unwrap().balance,
        minor(-2_000)
    );
    let refused = Rig::new().execute(transfer);
    let Err(SubmitError::Refused(refused)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refused.refusal, Refusal::WalletNotFound(wallet(0)));
}

#[test]
fn a_balance_never_leaves_the_range_of_its_type() {
    let mut rig = Rig::new();
    rig.run(Op::Open {
        wallet: 0,
        overdraft: 0,
    });
    rig.run(Op::Issue {
        to: 0,
        amount: i64::MAX,
    });
    let refused = rig.execute(Command::Issue(request(1, 0, 1, false)));
    let Err(SubmitError::Refused(refused)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refused.refusal, Refusal::BalanceOverflow);
    assert!(refused.journaled.is_some());
}

/// What the edge refuses: payer and receiver are one, so both legs would start from the same balance.
#[test]
#[should_panic(expected = "would change the sum of all balances by 10 minor units")]
fn an_entry_that_makes_money_is_never_handed_to_the_journal() {
    let mut rig = Rig::new();
    rig.run(Op::Open {
        wallet: 0,
        overdraft: 100,
    });
    let _never = rig.execute(Command::Transfer(request(0, 0, 10, false)));
}

#[test]
fn a_refused_batch_leaves_no_expiry_of_its_holds_behind() {
    let mut rig = Rig::new();
    for wallet in 0..2 {
        rig.run(Op::Open {
            wallet,
            overdraft: 100,
        });
    }
    let held = BatchItem::Transfer(request(0, 1, 10, true));
    let unknown = BatchItem::Transfer(request(0, 4, 10, false));
    let refused = rig.execute(Command::Batch {
        items: vec![held, unknown],
        atomic: true,
    });
    assert!(
        matches!(refused, Err(SubmitError::BatchRefused { index: 1, .. })),
        "{refused:?}"
    );
    assert_eq!(rig.state.next_expiry(), None);
}
