//! What the whole ledger must have said and must hold: the naive ledger, and every entry that anybody was told of.
//!
//! Entries are taken in as the journal published them, or as they were found after a crash; each must be what the naive
//! ledger makes of the command that led to it.

use super::command::{BatchItem, Change, Command, MovementRequest, Receipt, Reply};
use super::error::{Refused, SubmitError};
use super::naive::{Naive, NaiveAccount};
use crate::journal::entry::FailureReason;
use crate::journal::{Body, Entry};
use crate::types::{Sequence, Status, TransactionId, WalletId};
use std::collections::VecDeque;
use uuid::Uuid;

pub(super) type Answer = Result<Reply, SubmitError>;

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) naive: Naive,
    /// All that was acknowledged, published or found after a crash.
    pub(super) entries: Vec<Entry>,
}

/// What a command must be answered with.
#[derive(Debug)]
enum Expected {
    Recorded(Receipt),
    Sequence(Sequence),
    Refused(&'static str, Option<(TransactionId, Sequence)>),
    BatchRefused(usize, &'static str),
    Batch(Vec<Self>),
    Stale,
}

impl Expected {
    #[track_caller]
    fn check(&self, answer: &Answer) {
        let fits = match (self, answer) {
            (Self::Recorded(expected), Ok(Reply::Transaction(receipt))) => receipt == expected,
            (
                Self::Sequence(expected),
                Ok(Reply::WalletOpened { sequence, .. } | Reply::Amended { sequence, .. }),
            ) => sequence == expected,
            (Self::Refused(code, journaled), Err(SubmitError::Refused(refused))) => {
                refused.refusal.code() == *code && refused.journaled == *journaled
            }
            (
                Self::BatchRefused(expected, code),
                Err(SubmitError::BatchRefused { index, refusal }),
            ) => index == expected && refusal.code() == *code,
            (Self::Batch(expected), Ok(Reply::Batch(results))) => {
                assert_eq!(expected.len(), results.len());
                for (expected, result) in expected.iter().zip(results) {
                    let result: Result<Receipt, Refused> = result.unwrap();
                    let answer = result.map(Reply::Transaction).map_err(SubmitError::Refused);
                    expected.check(&answer);
                }
                true
            }
            (Self::Stale, Err(SubmitError::Stale)) => true,
            _ => false,
        };
        assert!(fits, "expected {self:?}, heard {answer:?}");
    }
}

impl Model {
    /// Last sequence that anybody was told of.
    pub(super) fn durable(&self) -> Sequence {
        self.entries.last().map_or(Sequence::ORIGIN, Entry::last)
    }

    /// Takes in what was published for `commands`, which were answered at ledger time `now_ms`.
    #[track_caller]
    pub(super) fn absorb(&mut self, commands: &[(Command, Answer)], news: Vec<Entry>, now_ms: u64) {
        let mut news = VecDeque::from(news);
        self.take_expired(&mut news);
        if !commands.is_empty() {
            assert!(!self.is_due(now_ms), "a hold has not expired");
        }
        for (command, answer) in commands {
            self.step(command, &mut news).check(answer);
        }
        assert!(news.is_empty(), "nobody asked for {news:?}");
    }

    /// Takes in what was found after a crash behind all that is known. The outcome of `doubtful` was not told: all of
    /// them are there, or none.
    #[track_caller]
    pub(super) fn absorb_found(&mut self, doubtful: &[Command], found: Vec<Entry>) {
        let mut found = VecDeque::from(found);
        self.take_expired(&mut found);
        if found.is_empty() {
            return;
        }
        assert!(!self.is_due(found[0].at.get()), "a hold has not expired");
        for command in doubtful {
            self.step(command, &mut found);
        }
        assert!(found.is_empty(), "nobody asked for {found:?}");
    }

    /// Holds whose time came are voided at the beginning of a group, or in one of their own.
    fn take_expired(&mut self, news: &mut VecDeque<Entry>) {
        while let Some(Body::HoldVoided(voided)) = news.front().map(|entry| &entry.body)
            && voided.reason == FailureReason::Expired
        {
            let id = voided.amendment.transaction;
            let entry = news.pop_front().unwrap();
            let hold = self.naive.transactions.iter_mut().find(|t| t.id == id);
            let hold = hold.expect("a hold that expires was placed");
            assert_eq!(hold.status, Status::Pending);
            assert!(hold.expires_at.is_some_and(|at| at <= entry.at.get()));
            hold.status = Status::Failed;
            hold.changes += 1;
            let account = self.naive.accounts.get_mut(&hold.from).unwrap();
            account.held -= hold.amount;
            self.entries.push(entry);
        }
    }

    /// Whether a hold should have expired by now.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        self.naive
            .transactions
            .iter()
            .any(|t| t.status == Status::Pending && t.expires_at.is_some_and(|at| at <= now_ms))
    }

    #[track_caller]
    fn step(&mut self, command: &Command, news: &mut VecDeque<Entry>) -> Expected {
        match command {
            Command::OpenWallet(asked) => {
                if self.naive.accounts.contains_key(&asked.wallet) {
                    return Expected::Refused("WALLET_ALREADY_EXISTS", None);
                }
                let entry = self.take(news, |body| {
                    matches!(body, Body::WalletOpened(opened)
                        if opened.leg.wallet == asked.wallet
                        && opened.overdraft_limit == asked.overdraft_limit)
                });
                let account = NaiveAccount {
                    overdraft: asked.overdraft_limit.get(),
                    ..NaiveAccount::default()
                };
                self.naive.accounts.insert(asked.wallet, account);
                Expected::Sequence(entry.last())
            }
            Command::Issue(asked) => {
                let from = WalletId::issuer(asked.currency);
                let asked = asked.clone();
                self.movement(&MovementRequest { from, ..asked }, news)
            }
            Command::Redeem(asked) => {
                let to = WalletId::issuer(asked.currency);
                let asked = asked.clone();
                self.movement(&MovementRequest { to, ..asked }, news)
            }
            Command::Transfer(asked) => self.movement(asked, news),
            Command::Amend(asked) => {
                let id = asked.record.id;
                if self.last_amendment(id) != asked.record.last_amendment {
                    return Expected::Stale;
                }
                let index = self.naive.transactions.iter().position(|t| t.id == id);
                if let Err(code) = self.naive.amend(index.unwrap(), asked.change) {
                    return Expected::Refused(code, None);
                }
                let entry = self.take(news, |body| {
                    let is_kind = matches!(
                        (body, asked.change),
                        (Body::HoldCaptured(_), Change::Complete)
                            | (Body::HoldVoided(_), Change::Fail)
                            | (Body::Reversal(_), Change::Reverse)
                            | (Body::FraudScored(_), Change::Score(_))
                    );
                    is_kind && body.amendment().is_some_and(|a| a.transaction == id)
                });
                Expected::Sequence(entry.last())
            }
            Command::Batch { items, atomic } => {
                let requests: Vec<&MovementRequest> = items
                    .iter()
                    .map(|item| match item {
                        BatchItem::Transfer(asked) => asked,
                        BatchItem::Invalid => unreachable!("these tests ask in shape"),
                    })
                    .collect();
                if *atomic {
                    let mut copy = self.naive.clone();
                    for (index, asked) in requests.iter().enumerate() {
                        match copy.judge(asked) {
                            Ok(status) => copy.note(TransactionId(Uuid::nil()), asked, status, 0),
                            Err(code) => return Expected::BatchRefused(index, code),
                        }
                    }
                }
                let expected = requests.iter().map(|asked| self.movement(asked, news));
                Expected::Batch(expected.collect())
            }
        }
    }

    #[track_caller]
    fn movement(&mut self, asked: &MovementRequest, news: &mut VecDeque<Entry>) -> Expected {
        let (status, refusal) = match self.naive.judge(asked) {
            Ok(status) => (status, None),
            Err("INSUFFICIENT_FUNDS") => (Status::Failed, Some("INSUFFICIENT_FUNDS")),
            Err(code) => return Expected::Refused(code, None),
        };
        let entry = self.take(news, |body| {
            body.creation().is_some_and(|(made, made_as)| {
                (made.from.wallet, made.to.wallet) == (asked.from, asked.to)
                    && (made.amount, &made.metadata) == (asked.amount, &asked.metadata)
                    && made_as == status
            })
        });
        let id = entry.body.transaction().unwrap();
        let noted = MovementRequest {
            hold: asked.hold.filter(|_| status == Status::Pending),
            ..asked.clone()
        };
        self.naive.note(id, &noted, status, entry.at.get());
        match refusal {
            Some(code) => Expected::Refused(code, Some((id, entry.last()))),
            None => Expected::Recorded(Receipt {
                transaction: id,
                status,
                at: entry.at,
                first_sequence: entry.first,
                sequence: entry.last(),
            }),
        }
    }

    /// The next entry, which must be the one that `fits`.
    #[track_caller]
    fn take(&mut self, news: &mut VecDeque<Entry>, fits: impl FnOnce(&Body) -> bool) -> Entry {
        let entry = news.pop_front().expect("an entry for what was decided");
        assert!(fits(&entry.body), "not what was decided: {entry:?}");
        assert_eq!(entry.first, self.durable().next());
        self.entries.push(entry.clone());
        entry
    }

    fn last_amendment(&self, id: TransactionId) -> Sequence {
        let mut about = self.entries.iter().rev();
        let last = about.find(|e| e.body.amendment().is_some_and(|a| a.transaction == id));
        last.map_or(Sequence::ORIGIN, |entry| entry.first)
    }
}
