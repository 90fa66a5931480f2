//! Entries and folders for the journal's own tests.

use super::entry::{
    Amendment, BatchPlace, ChainLink, FailureReason, HoldPlaced, Idempotency, Leg, Movement,
    RefusedMovement, Scored, VoidedHold, WalletOpened,
};
use super::store::{Opener, SledOpener};
use super::{Body, Config, Entry, Journal, JournalIdentity, OpenOptions, RecoveryError};
use crate::clock::{ManualClock, SystemClock};
use crate::ids::IdCipher;
use crate::tasks::Supervisor;
use crate::types::{
    Currencies, Currency, FraudScore, MinorUnits, Sequence, Status, TimestampMs, TransactionId,
    WalletId,
};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

pub(crate) const ID_KEY: [u8; 16] = *b"0123456789abcdef";
pub(super) const TIME: TimestampMs = TimestampMs::new(1_700_000_000_123);

pub(super) fn identity() -> JournalIdentity {
    JournalIdentity {
        journal_id: Uuid::from_u128(0x0a0b_0c0d_0e0f),
        epoch: 3,
    }
}

pub(crate) fn cipher() -> IdCipher {
    IdCipher::new(&ID_KEY)
}

fn leg(number: u128, first: Sequence) -> Leg {
    Leg {
        wallet: WalletId::new(Uuid::from_u128(number | 1 << 100)).unwrap(),
        balance_after: MinorUnits::new(1_000),
        held_after: MinorUnits::ZERO,
        link: ChainLink {
            ordinal: 2,
            previous: first.previous(),
            skip: Sequence::ORIGIN,
        },
    }
}

/// A transfer with 37 bytes of metadata, as measured everywhere.
pub(super) fn transfer(cipher: &IdCipher, first: Sequence) -> Entry {
    Entry {
        first,
        at: TIME,
        idempotency: None,
        batch: None,
        body: Body::Transfer(movement(
            cipher,
            first,
            Some("{\"note\":\"nineteen characters!\",\"n\":1}"),
        )),
    }
}

fn movement(cipher: &IdCipher, first: Sequence, metadata: Option<&str>) -> Movement {
    Movement {
        transaction: cipher.transaction_id(first, TIME),
        from: leg(1, first),
        to: leg(2, first),
        currency: Currency::from_tag(1),
        amount: MinorUnits::new(250),
        metadata: metadata.map(Into::into),
    }
}

/// `count` transfers behind `after`.
pub(super) fn transfers(cipher: &IdCipher, after: Sequence, count: usize) -> Vec<Entry> {
    let mut first = after.next();
    (0..count)
        .map(|_| {
            let entry = transfer(cipher, first);
            first = entry.last().next();
            entry
        })
        .collect()
}

fn sample_amendment(first: Sequence, ordinal: u32) -> Amendment {
    Amendment {
        transaction: TransactionId(Uuid::from_u128(0x018b_cfe5_6800_7000_8000_0000_0000_0001)),
        created: Sequence::new(2),
        previous_amendment: if ordinal > 1 {
            Sequence::new(17)
        } else {
            Sequence::ORIGIN
        },
        ordinal,
        from: Leg {
            held_after: MinorUnits::new(75),
            ..leg(1, first)
        },
        to: leg(2, first),
        currency: Currency::from_tag(2),
        amount: MinorUnits::new(250),
        fraud_score: FraudScore::from_millionths(1_000).unwrap(),
        status_before: Status::Pending,
        user_id: Some("auditor".into()),
        details: Some("{\"why\":\"é\"}".into()),
    }
}

type MakeBody<'c> = Box<dyn Fn(Sequence) -> Body + 'c>;

fn sample_bodies(cipher: &IdCipher) -> Vec<MakeBody<'_>> {
    vec![
        Box::new(|first| {
            Body::WalletOpened(WalletOpened {
                leg: Leg {
                    link: ChainLink {
                        ordinal: 1,
                        ..ChainLink::default()
                    },
                    ..leg(1, first)
                },
                currency: Currency::from_tag(3),
                overdraft_limit: MinorUnits::new(5_000),
            })
        }),
        Box::new(|first| Body::Transfer(movement(cipher, first, Some("{\"a\":1}")))),
        Box::new(|first| {
            let mut issued = movement(cipher, first, None);
            issued.from.wallet = WalletId::issuer(Currency::from_tag(1));
            issued.from.balance_after = MinorUnits::new(-1_000_000);
            issued.from.link = ChainLink {
                ordinal: 128,
                previous: Sequence::new(3),
                skip: Sequence::new(1),
            };
            Body::Issuance(issued)
        }),
        Box::new(|first| {
            let mut redeemed = movement(cipher, first, Some(""));
            redeemed.to.wallet = WalletId::issuer(Currency::from_tag(1));
            redeemed.to.held_after = MinorUnits::new(9);
            redeemed.to.link.skip = Sequence::new(4);
            Body::Redemption(redeemed)
        }),
        Box::new(|first| {
            Body::TransferRefused(RefusedMovement {
                movement: movement(cipher, first, None),
                reason: FailureReason::InsufficientFunds,
            })
        }),
        Box::new(|first| {
            Body::HoldPlaced(HoldPlaced {
                movement: movement(cipher, first, None),
                expires_at: TIME.plus(60_000),
            })
        }),
        Box::new(|first| Body::HoldCaptured(sample_amendment(first, 1))),
        Box::new(|first| {
            Body::HoldVoided(VoidedHold {
                amendment: Amendment {
                    user_id: None,
                    ..sample_amendment(first, 2)
                },
                reason: FailureReason::Expired,
            })
        }),
        Box::new(|first| {
            Body::Reversal(Amendment {
                status_before: Status::Completed,
                ..sample_amendment(first, 3)
            })
        }),
        Box::new(|first| {
            Body::FraudScored(Scored {
                amendment: Amendment {
                    details: None,
                    ..sample_amendment(first, 4)
                },
                new_score: FraudScore::from_millionths(990_000).unwrap(),
            })
        }),
    ]
}

/// One entry of every kind, with every optional part somewhere: the golden group.
pub(crate) fn every_kind(cipher: &IdCipher) -> Vec<Entry> {
    let mut first = Sequence::ORIGIN.next();
    (0_u32..)
        .zip(sample_bodies(cipher))
        .map(|(index, body)| {
            let entry = Entry {
                first,
                at: TIME,
                idempotency: (index % 3 == 1).then_some(Idempotency {
                    key_hash: [0xaa; 16],
                    body_hash: [0xbb; 16],
                }),
                batch: (index == 3).then_some(BatchPlace {
                    first: Sequence::new(6),
                    index: 1,
                    count: 2,
                }),
                body: body(first),
            };
            first = entry.last().next();
            entry
        })
        .collect()
}

fn any_sequence() -> impl Strategy<Value = Sequence> {
    prop_oneof![
        Just(Sequence::ORIGIN),
        (0..=Sequence::MAX.get()).prop_map(Sequence::new)
    ]
}

fn any_leg() -> BoxedStrategy<Leg> {
    (
        1_u128..,
        any::<i64>(),
        prop_oneof![Just(0), any::<i64>()],
        any::<u64>(),
        any_sequence(),
        any_sequence(),
    )
        .prop_map(|(wallet, balance, held, ordinal, previous, skip)| Leg {
            wallet: WalletId::new(Uuid::from_u128(wallet)).unwrap(),
            balance_after: MinorUnits::new(balance),
            held_after: MinorUnits::new(held),
            link: ChainLink {
                ordinal,
                previous,
                skip,
            },
        })
        .boxed()
}

fn any_text(bytes_max: usize) -> impl Strategy<Value = Option<Box<str>>> {
    prop_oneof![
        Just(None),
        "\\PC{0,40}".prop_map(|text| Some(text.into())),
        Just(Some("x".repeat(bytes_max).into())),
    ]
}

fn any_movement() -> BoxedStrategy<Movement> {
    (
        any_leg(),
        any_leg(),
        any::<u16>(),
        any::<i64>(),
        any_text(super::TEXT_BYTES_MAX),
    )
        .prop_map(|(from, to, currency, amount, metadata)| Movement {
            transaction: TransactionId(Uuid::nil()),
            from,
            to,
            currency: Currency::from_tag(currency),
            amount: MinorUnits::new(amount),
            metadata,
        })
        .boxed()
}

fn any_amendment() -> BoxedStrategy<Amendment> {
    let status = prop_oneof![
        Just(Status::Pending),
        Just(Status::Completed),
        Just(Status::Failed),
        Just(Status::Reversed)
    ];
    let texts = (
        any_text(super::USER_ID_BYTES_MAX),
        any_text(super::TEXT_BYTES_MAX),
    );
    let numbers = (
        any::<u128>(),
        any_sequence(),
        any_sequence(),
        any::<u32>(),
        0_u32..=1_000_000,
    );
    (any_movement(), numbers, status, texts)
        .prop_map(|(movement, numbers, status_before, texts)| {
            let (transaction, created, previous_amendment, ordinal, score) = numbers;
            Amendment {
                transaction: TransactionId(Uuid::from_u128(transaction)),
                created,
                previous_amendment,
                ordinal,
                from: movement.from,
                to: movement.to,
                currency: movement.currency,
                amount: movement.amount,
                fraud_score: FraudScore::from_millionths(score).unwrap(),
                status_before,
                user_id: texts.0,
                details: texts.1,
            }
        })
        .boxed()
}

fn any_body() -> BoxedStrategy<Body> {
    let reason = prop_oneof![
        Just(FailureReason::InsufficientFunds),
        Just(FailureReason::WalletFrozen),
        Just(FailureReason::BalanceOverflow),
        Just(FailureReason::Voided),
        Just(FailureReason::Expired)
    ];
    prop_oneof![
        (any_leg(), any::<u16>(), any::<i64>()).prop_map(|(leg, currency, limit)| {
            Body::WalletOpened(WalletOpened {
                leg,
                currency: Currency::from_tag(currency),
                overdraft_limit: MinorUnits::new(limit),
            })
        }),
        any_movement().prop_map(Body::Transfer),
        any_movement().prop_map(Body::Issuance),
        any_movement().prop_map(Body::Redemption),
        (any_movement(), reason.clone()).prop_map(|(movement, reason)| Body::TransferRefused(
            RefusedMovement { movement, reason }
        )),
        (any_movement(), any::<u64>()).prop_map(|(movement, at)| {
            Body::HoldPlaced(HoldPlaced {
                movement,
                expires_at: TimestampMs::new(at),
            })
        }),
        any_amendment().prop_map(Body::HoldCaptured),
        (any_amendment(), reason)
            .prop_map(|(amendment, reason)| Body::HoldVoided(VoidedHold { amendment, reason })),
        any_amendment().prop_map(Body::Reversal),
        (any_amendment(), 0_u32..=1_000_000).prop_map(|(amendment, score)| {
            Body::FraudScored(Scored {
                amendment,
                new_score: FraudScore::from_millionths(score).unwrap(),
            })
        }),
    ]
    .boxed()
}

/// A gapless group of up to `entries_max` entries behind any sequence.
pub(crate) fn any_group(entries_max: usize) -> impl Strategy<Value = Vec<Entry>> {
    let entry = (
        any_body(),
        any::<u64>(),
        proptest::option::of(any::<([u8; 16], [u8; 16])>()),
        proptest::option::of((any_sequence(), any::<u32>(), any::<u32>())),
    );
    let entries = proptest::collection::vec(entry, 1..=entries_max);
    (1..Sequence::MAX.get() / 2, entries).prop_map(|(first, entries)| {
        let mut first = Sequence::new(first);
        let cipher = cipher();
        entries
            .into_iter()
            .map(|(body, at, idempotency, batch)| {
                let at = TimestampMs::new(at);
                let mut entry = Entry {
                    first,
                    at,
                    idempotency: idempotency.map(|(key_hash, body_hash)| Idempotency {
                        key_hash,
                        body_hash,
                    }),
                    batch: batch.map(|(first, index, count)| BatchPlace {
                        first,
                        index,
                        count,
                    }),
                    body,
                };
                match &mut entry.body {
                    Body::Transfer(m)
                    | Body::Issuance(m)
                    | Body::Redemption(m)
                    | Body::TransferRefused(RefusedMovement { movement: m, .. })
                    | Body::HoldPlaced(HoldPlaced { movement: m, .. }) => {
                        m.transaction = cipher.transaction_id(first, at);
                    }
                    _ => {}
                }
                first = entry.last().next();
                entry
            })
            .collect()
    })
}

pub(super) fn options() -> OpenOptions {
    OpenOptions {
        dev: false,
        accept_dev_store: false,
        currencies: Currencies::default(),
        witnesses: Vec::new(),
    }
}

/// A journal in `folder` with volumes of 16 pages.
pub(crate) fn small(folder: &Path) -> Config {
    Config {
        volume_pages_max: 16,
        // So that some tests fill it and others leave much in it.
        wal_bytes: 128 << 10,
        ..Config::new(folder)
    }
}

pub(crate) fn open(config: &Config) -> Journal {
    try_open(config, &options()).unwrap()
}

pub(super) fn try_open(config: &Config, options: &OpenOptions) -> Result<Journal, RecoveryError> {
    open_with(config, options, Arc::new(SledOpener))
}

pub(super) fn open_with(
    config: &Config,
    options: &OpenOptions,
    opener: Arc<dyn Opener>,
) -> Result<Journal, RecoveryError> {
    Journal::open_with(
        config,
        options.clone(),
        Arc::new(SystemClock::new()),
        &Supervisor::new(),
        opener,
    )
}

/// A journal whose bytes are the same each time: an entry of every kind, then a group of two pages.
pub(crate) fn golden_journal(folder: &Path) -> Journal {
    let clock = Arc::new(ManualClock::new(TIME, 7));
    let supervisor = Supervisor::new();
    let mut journal = Journal::open(&Config::new(folder), options(), clock, &supervisor).unwrap();
    let cipher = IdCipher::new(&journal.settings().id_key);
    journal.commit(every_kind(&cipher)).unwrap();
    commit(&mut journal, 30);
    journal
}

/// Commits `count` transfers as one group.
#[track_caller]
pub(crate) fn commit(journal: &mut Journal, count: usize) -> Sequence {
    let cipher = IdCipher::new(&journal.settings().id_key);
    let entries = transfers(&cipher, journal.durable(), count);
    journal.commit(entries).unwrap().last()
}

/// What the journal must hold after transfers only, read back whole.
#[track_caller]
pub(super) fn assert_holds(journal: &Journal, last: Sequence) {
    let cipher = IdCipher::new(&journal.settings().id_key);
    let mut due = Sequence::ORIGIN.next();
    let end = journal
        .reader()
        .replay(Sequence::ORIGIN, &mut |entry| {
            assert_eq!(*entry, transfer(&cipher, due));
            due = entry.last().next();
        })
        .unwrap();
    assert_eq!((end, due), (last, last.next()));
}
