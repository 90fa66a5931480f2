//! The tracker against naive models of it, with a durable watermark that the tests move.

use super::fixtures::*;
use super::*;
use crate::journal::Entry;
use crate::types::{Status, WalletId};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::AtomicUsize;
use std::task::{Wake, Waker};
use uuid::Uuid;

fn announce(_: Uuid, start: Sequence) -> Bytes {
    Bytes::from(format!("start {start}"))
}

fn everything(subscriber: &mut Subscriber) -> Uuid {
    subscriber.subscribe(Filter::default(), announce)
}

fn text(entry: &Entry) -> Vec<(u64, &'static str, &'static str)> {
    StatusUpdate::of(entry)
        .map(|update| {
            (
                update.sequence.get(),
                update.status.as_str(),
                update.message,
            )
        })
        .collect()
}

#[test]
fn each_kind_of_entry_gives_the_updates_of_the_wire_contract() {
    let created = "Transaction created and processing";
    assert_eq!(
        text(&transfer(9, 1, 2)),
        [
            (9, "pending", created),
            (10, "completed", "Transaction completed successfully")
        ]
    );
    assert_eq!(
        text(&refused(9, 1, 2)),
        [
            (9, "pending", created),
            (10, "failed", "Transaction failed")
        ]
    );
    assert_eq!(text(&hold(9, 1, 2)), [(9, "pending", created)]);
    assert_eq!(
        text(&capture(9, 1, 1, 2)),
        [(9, "completed", "Transaction completed")]
    );
    assert_eq!(
        text(&void(9, 1, 1, 2)),
        [(9, "failed", "Transaction failed")]
    );
    assert_eq!(
        text(&reversal(9, 1, 1, 2)),
        [(9, "reversed", "Transaction reversed")]
    );
}

#[test]
fn risk_texts_change_right_above_their_thresholds() {
    let risk = |millionths| text(&scored(9, 1, 1, 2, millionths))[0];
    assert_eq!(risk(0), (9, "completed", "Low fraud risk"));
    assert_eq!(risk(300_000), (9, "completed", "Low fraud risk"));
    assert_eq!(
        risk(300_001),
        (9, "completed", "Medium fraud risk detected")
    );
    assert_eq!(
        risk(700_000),
        (9, "completed", "Medium fraud risk detected")
    );
    assert_eq!(risk(700_001), (9, "completed", "High fraud risk detected"));
}

#[test]
fn an_update_looks_as_in_the_wire_contract() {
    let update = StatusUpdate::of(&scored(77, 1, 1, 2, 850_000))
        .next()
        .unwrap();
    let encoded = UpdateEncoder::default().encode(&update);
    for ids in [
        vec![Uuid::from_u128(1)],
        vec![Uuid::from_u128(1), Uuid::from_u128(2)],
    ] {
        let mut out = Vec::new();
        encoded.write(&ids, &mut out);
        assert_eq!(
            out.len(),
            encoded.size_bytes(ids.len()),
            "the queue counts real bytes"
        );
        let quoted: Vec<String> = ids.iter().map(|id| format!("\"{id}\"")).collect();
        let expected = format!(
            "{{\"type\":\"status_update\",\"timestamp\":\"2026-11-22T22:36:57.045Z\",\"data\":{{\
             \"transaction_id\":\"{}\",\"status\":\"completed\",\"fraud_score\":0.85,\
             \"message\":\"High fraud risk detected\"}},\"sequence\":77,\"subscriber_ids\":[{}]}}",
            transaction(1),
            quoted.join(",")
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn a_subscription_starts_behind_the_durable_watermark_even_when_dispatch_is_late() {
    let mut rig = Rig::new(Config::default());
    rig.commit_transfer(1, 2);
    let mut subscriber = rig.handle.connect(None);
    let id = everything(&mut subscriber);
    rig.commit_transfer(1, 2);
    rig.dispatch();
    let heard = drain(&subscriber);
    let update = |sequence| Heard::Update {
        sequence,
        ids: vec![id],
    };
    assert_eq!(heard, [Heard::Own("start 4".into()), update(5), update(6)]);
    assert_eq!(rig.handle.delivered().get(), Sequence::new(8));
}

#[test]
fn several_subscriptions_of_one_connection_share_one_message() {
    let mut rig = Rig::new(Config::default());
    let mut subscriber = rig.handle.connect(None);
    let all = everything(&mut subscriber);
    let wallets = Filter::new(vec![], vec![wallet(1), wallet(2)], &[]);
    let both = subscriber.subscribe(wallets, announce);
    let done = subscriber.subscribe(Filter::new(vec![], vec![], &[Status::Completed]), announce);
    rig.commit_transfer(1, 2);
    rig.dispatch();
    let ids = |mut ids: Vec<Uuid>| {
        ids.sort_unstable();
        ids
    };
    let heard: Vec<Heard> = drain(&subscriber).split_off(3);
    assert_eq!(
        heard,
        [
            Heard::Update {
                sequence: 1,
                ids: ids(vec![all, both])
            },
            Heard::Update {
                sequence: 2,
                ids: ids(vec![all, both, done])
            },
        ]
    );
    assert_eq!(rig.handle.stats().subscriptions, 3);
    assert!(subscriber.unsubscribe(all));
    assert!(!subscriber.unsubscribe(all));
    rig.commit_transfer(3, 4);
    rig.dispatch();
    assert_eq!(
        drain(&subscriber),
        [Heard::Update {
            sequence: 6,
            ids: vec![done]
        }]
    );
}

#[test]
fn who_is_bound_to_wallets_hears_only_of_them() {
    let mut rig = Rig::new(Config::default());
    let visible: Visible = Some(Arc::new(HashSet::from([wallet(1)])));
    let mut subscriber = rig.handle.connect(visible);
    everything(&mut subscriber);
    subscriber.subscribe(Filter::new(vec![], vec![wallet(3)], &[]), announce);
    subscriber.subscribe(Filter::new(vec![transaction(1)], vec![], &[]), announce);
    drain(&subscriber);
    rig.commit_transfer(2, 3);
    rig.commit_transfer(2, 1);
    rig.dispatch();
    assert_eq!(sequences(&drain(&subscriber)), [5, 6]);
}

struct CountedWakes(AtomicUsize);

impl Wake for CountedWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_connection_is_woken_once_for_a_group() {
    let mut rig = Rig::new(Config::default());
    let mut subscriber = rig.handle.connect(None);
    everything(&mut subscriber);
    let wakes = Arc::new(CountedWakes(AtomicUsize::new(0)));
    subscriber
        .outbox()
        .register(&Waker::from(Arc::clone(&wakes)));
    (0..50).for_each(|_| rig.commit_transfer(1, 2));
    rig.dispatch();
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    assert_eq!(sequences(&drain(&subscriber)).len(), 100);
}

#[test]
fn a_queue_past_its_bound_is_given_up_with_the_sequence_to_resume_from() {
    let config = Config {
        queue_bytes_max: 4 * 1024,
        ..Config::default()
    };
    let mut rig = Rig::new(config);
    let mut slow = rig.handle.connect(None);
    let mut quick = rig.handle.connect(None);
    everything(&mut slow);
    everything(&mut quick);
    let mut quick_heard = Vec::new();
    let mut slow_heard = Vec::new();
    for round in 0..20 {
        rig.commit_transfer(1, 2);
        rig.dispatch();
        quick_heard.extend(sequences(&drain(&quick)));
        if round < 3 {
            slow_heard.extend(sequences(&drain(&slow)));
        }
        assert!(
            rig.handle.stats().queued_bytes <= 4 * 1024,
            "the bound holds"
        );
    }
    let overflowed = slow.outbox().take(usize::MAX, &mut Vec::new());
    assert_eq!(slow_heard, [1, 2, 5, 6, 9, 10]);
    assert_eq!(
        overflowed,
        Taken::Overflowed {
            resume_after: Sequence::new(12)
        }
    );
    assert_eq!(
        slow.outbox().take(usize::MAX, &mut Vec::new()),
        Taken::Nothing,
        "told once"
    );
    assert_eq!(quick_heard.len(), 40, "others hear everything");
    assert_eq!(rig.handle.stats().queued_bytes, 0);
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test's reader is no thread of the service"
)]
fn a_group_larger_than_a_queue_does_not_end_a_connection_that_reads() {
    let queue_bytes_max = 512 * 1024;
    // So patient that a busy machine does not fail the test; a reader that reads is never waited for that long.
    let config = Config {
        queue_bytes_max,
        relief_ms: 30_000,
        ..Config::default()
    };
    let mut rig = Rig::new(config);
    let mut subscriber = rig.handle.connect(None);
    everything(&mut subscriber);
    let reader = std::thread::spawn(move || {
        let mut heard = Vec::new();
        while heard.len() < 10_000 {
            heard.extend(sequences(&drain(&subscriber)));
            std::thread::yield_now();
        }
        heard
    });
    (0..5_000).for_each(|_| rig.commit_transfer(1, 2));
    rig.dispatch();
    let due: Vec<u64> = (0..5_000).flat_map(|n| [n * 4 + 1, n * 4 + 2]).collect();
    assert_eq!(reader.join().unwrap(), due);
}

#[test]
fn closing_tells_a_sequence_behind_all_that_was_queued() {
    let mut rig = Rig::new(Config::default());
    let mut subscriber = rig.handle.connect(None);
    everything(&mut subscriber);
    rig.commit_transfer(1, 2);
    rig.dispatch();
    let last = |resume_after: Sequence| Bytes::from(format!("resume {resume_after}"));
    subscriber.outbox().close(rig.handle.delivered(), last);
    rig.commit_transfer(1, 2);
    rig.dispatch();
    let heard = drain(&subscriber);
    assert_eq!(sequences(&heard), [1, 2]);
    assert_eq!(heard.last(), Some(&Heard::Own("resume 4".into())));
}

#[test]
fn dropping_a_connection_leaves_nothing_behind() {
    let mut rig = Rig::new(Config::default());
    for _ in 0..3 {
        let mut subscriber = rig.handle.connect(None);
        everything(&mut subscriber);
        let filter = Filter::new(vec![], vec![wallet(1), wallet(2)], &[]);
        subscriber.subscribe(filter, announce);
        let filter = Filter::new(vec![transaction(1)], vec![], &[]);
        let _reading = subscriber.subscribe_after(filter, Sequence::ORIGIN, |_| Bytes::new());
        rig.commit_transfer(1, 2);
        rig.dispatch();
    }
    let stats = rig.handle.stats();
    assert_eq!(
        (stats.connections, stats.subscriptions, stats.queued_bytes),
        (0, 0, 0)
    );
    assert!(rig.handle.shared.index.populated().is_nobody());
}

#[test]
fn while_nobody_subscribes_the_delivered_watermark_moves_and_who_comes_then_hears_what_follows() {
    let mut rig = Rig::new(Config::default());
    rig.commit_transfer(1, 2);
    rig.dispatch();
    assert_eq!(rig.handle.delivered().get(), rig.journal[0].last());
    let dimensions: [fn(u64) -> Filter; 3] = [
        |_| Filter::new(vec![], vec![], &[]),
        |_| Filter::new(vec![], vec![wallet(2)], &[]),
        |next| Filter::new(vec![transaction(next)], vec![], &[]),
    ];
    for filter in dimensions {
        let mut subscriber = rig.handle.connect(None);
        subscriber.subscribe(filter(rig.next()), announce);
        rig.commit_transfer(1, 2);
        rig.dispatch();
        assert!(!sequences(&drain(&subscriber)).is_empty());
        drop(subscriber);
        assert!(rig.handle.shared.index.populated().is_nobody());
    }
}

#[test]
fn a_position_is_told_only_to_who_resumed_and_never_runs_ahead_of_the_journal_reading() {
    let mut rig = Rig::new(Config::default());
    let mut subscriber = rig.handle.connect(None);
    everything(&mut subscriber);
    rig.commit_transfer(1, 2);
    rig.dispatch();
    drain(&subscriber);
    let position = |sequence: Sequence| Bytes::from(format!("position {sequence}"));
    subscriber
        .outbox()
        .push_position(rig.handle.delivered(), position);
    assert_eq!(drain(&subscriber), []);
    let never = Filter::new(vec![], vec![wallet(9)], &[]);
    let mut reading = subscriber.subscribe_after(never, Sequence::new(1), |_| Bytes::new());
    subscriber
        .outbox()
        .push_position(rig.handle.delivered(), position);
    assert_eq!(
        drain(&subscriber).last(),
        Some(&Heard::Own("position 1".into()))
    );
    while let Step::Read { after } = subscriber.advance(&mut reading) {
        reading.accept(rig.read(after, 1)).unwrap();
    }
    subscriber
        .outbox()
        .push_position(rig.handle.delivered(), position);
    assert_eq!(drain(&subscriber), [Heard::Own("position 4".into())]);
}

#[test]
fn a_reader_that_finds_nothing_before_the_end_is_told() {
    let mut rig = Rig::new(Config::default());
    rig.commit_transfer(1, 2);
    let mut subscriber = rig.handle.connect(None);
    let mut reading =
        subscriber.subscribe_after(Filter::default(), Sequence::ORIGIN, |_| Bytes::new());
    assert_eq!(
        subscriber.advance(&mut reading),
        Step::Read {
            after: Sequence::ORIGIN
        }
    );
    assert_eq!(reading.accept(vec![]), Err(Stalled(Sequence::ORIGIN)));
}

/// One connection's subscription in the model: what it wants and since when.
#[derive(Clone, Debug)]
struct Wanted {
    wallets: BTreeSet<u128>,
    transactions: BTreeSet<u64>,
    statuses: Vec<Status>,
    visible: Option<BTreeSet<u128>>,
}

impl Wanted {
    fn filter(&self) -> Filter {
        let wallets: Vec<WalletId> = self.wallets.iter().map(|number| wallet(*number)).collect();
        let transactions = self
            .transactions
            .iter()
            .map(|number| transaction(*number))
            .collect();
        Filter::new(transactions, wallets, &self.statuses)
    }

    /// The naive rule, from the wire contract's words.
    fn hears(&self, update: &StatusUpdate) -> bool {
        let is = |number: &u128| wallet(*number) == update.from || wallet(*number) == update.to;
        (self.wallets.is_empty() || self.wallets.iter().any(is))
            && (self.transactions.is_empty()
                || self
                    .transactions
                    .iter()
                    .any(|id| transaction(*id) == update.transaction))
            && (self.statuses.is_empty() || self.statuses.contains(&update.status))
            && self
                .visible
                .as_ref()
                .is_none_or(|wallets| wallets.iter().any(is))
    }
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let status = prop::sample::select(vec![Status::Pending, Status::Completed, Status::Failed]);
    (
        prop::collection::btree_set(0u128..6, 0..3),
        prop::collection::btree_set((0u64..8).prop_map(|n| n * 4 + 1), 0..3),
        prop::collection::vec(status, 0..2),
        prop::option::weighted(0.3, prop::collection::btree_set(0u128..6, 0..3)),
    )
        .prop_map(|(wallets, transactions, statuses, visible)| Wanted {
            wallets,
            transactions,
            statuses,
            visible,
        })
}

#[derive(Clone, Debug)]
enum Act {
    Subscribe(usize, Wanted),
    Unsubscribe(usize, prop::sample::Index),
    Transfer(u128, u128),
    Dispatch,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (0usize..3, wanted()).prop_map(|(connection, wanted)| Act::Subscribe(connection, wanted)),
        1 => (0usize..3, any::<prop::sample::Index>())
            .prop_map(|(connection, which)| Act::Unsubscribe(connection, which)),
        4 => (0u128..6, 0u128..6).prop_map(|(from, to)| Act::Transfer(from, to)),
        2 => Just(Act::Dispatch),
    ]
}

proptest! {
    /// Whatever is subscribed and ended in between, each connection hears what a naive filter over all subscriptions
    /// says, once, in order.
    #[test]
    fn the_index_agrees_with_a_naive_filter(acts in prop::collection::vec(act(), 1..60)) {
        let mut rig = Rig::new(Config { shards: 4, wake_every_updates: 3, ..Config::default() });
        let mut subscribers: Vec<Subscriber> = (0..3).map(|_| rig.handle.connect(None)).collect();
        // For each connection: id → (what, heard from behind this sequence on).
        let mut model: Vec<BTreeMap<Uuid, (Wanted, u64)>> = vec![BTreeMap::new(); 3];
        let mut expected: Vec<Vec<Heard>> = vec![Vec::new(); 3];
        let mut undispatched = 0;
        for act in acts.into_iter().chain([Act::Dispatch]) {
            match act {
                Act::Subscribe(at, wanted) => {
                    let visible = wanted.visible.as_ref()
                        .map(|wallets| Arc::new(wallets.iter().map(|n| wallet(*n)).collect()));
                    subscribers[at].restrict(visible);
                    let id = subscribers[at].subscribe(wanted.filter(), |_, _| Bytes::new());
                    model[at].insert(id, (wanted, rig.durable.get().get()));
                }
                Act::Unsubscribe(at, which) => {
                    let ids: Vec<Uuid> = model[at].keys().copied().collect();
                    if !ids.is_empty() {
                        let id = *which.get(&ids);
                        model[at].remove(&id);
                        prop_assert!(subscribers[at].unsubscribe(id));
                    }
                }
                Act::Transfer(from, to) => rig.commit_transfer(from, to),
                Act::Dispatch => {
                    for update in rig.journal[undispatched..].iter().flat_map(StatusUpdate::of) {
                        let sequence = update.sequence.get();
                        for (heard, subscriptions) in expected.iter_mut().zip(&model) {
                            let ids: Vec<Uuid> = subscriptions.iter()
                                .filter(|(_, (wanted, start))| sequence > *start && wanted.hears(&update))
                                .map(|(id, _)| *id)
                                .collect();
                            if !ids.is_empty() {
                                heard.push(Heard::Update { sequence, ids });
                            }
                        }
                    }
                    undispatched = rig.journal.len();
                    rig.dispatch();
                }
            }
        }
        for (subscriber, expected) in subscribers.iter().zip(&expected) {
            let mut heard = drain(subscriber);
            heard.retain(|one| matches!(one, Heard::Update { .. }));
            prop_assert_eq!(&heard, expected);
        }
    }

    /// However commits, dispatches, reads of the journal and the draining of the queue interleave, and however little may
    /// be queued or held: a subscription from a sequence of the past hears everything behind it, once, in order.
    #[test]
    fn joining_leaves_no_gap_and_repeats_nothing(
        before in 0u64..40,
        after in 0u64..100,
        schedule in prop::collection::vec(0u8..4, 0..200),
        queue_bytes_max in 4_000usize..40_000,
        read_entries in 1usize..6,
    ) {
        let mut rig = Rig::new(Config { queue_bytes_max, relief_ms: 0, ..Config::default() });
        (0..before).for_each(|_| rig.commit_transfer(1, 2));
        let after = Sequence::new(after.min(rig.durable.get().get()));
        let mut subscriber = rig.handle.connect(None);
        let filter = Filter::new(vec![], vec![wallet(1)], &[]);
        let mut catch_up = subscriber.subscribe_after(filter, after, |_| Bytes::new());
        let mut heard = Vec::new();
        let mut joined = false;
        let mut pending_read: Option<Vec<Entry>> = None;
        let rest = std::iter::repeat_n([1, 2, 3], 400).flatten();
        for action in schedule.into_iter().chain(rest) {
            match action {
                0 => {
                    rig.commit_transfer(1, 2);
                    rig.commit_transfer(3, 4);
                }
                1 => {
                    // Whoever is live must keep up; a queue that passes its bound is another test's matter.
                    while rig.dispatch_one() {
                        if joined {
                            heard.extend(sequences(&drain(&subscriber)));
                        }
                    }
                }
                2 if joined => {}
                2 => match pending_read.take() {
                    Some(entries) => catch_up.accept(entries).unwrap(),
                    None => match subscriber.advance(&mut catch_up) {
                        Step::Read { after } => pending_read = Some(rig.read(after, read_entries)),
                        Step::WaitForRoom => {}
                        Step::Joined => joined = true,
                    },
                },
                _ => heard.extend(sequences(&drain(&subscriber))),
            }
        }
        prop_assert!(joined, "with nothing new coming it gets there");
        let expected: Vec<u64> = rig.journal.iter().flat_map(StatusUpdate::of)
            .filter(|update| update.from == wallet(1) && update.sequence > after)
            .map(|update| update.sequence.get())
            .collect();
        prop_assert_eq!(heard, expected);
    }

    /// Wherever a queue is given up: what was taken before and what a resumption from the told sequence hears are together
    /// everything, without a gap.
    #[test]
    fn resuming_after_an_overflow_leaves_no_gap(
        schedule in prop::collection::vec(0u8..3, 1..300),
        queue_bytes_max in 2_000usize..8_000,
    ) {
        let mut rig = Rig::new(Config { queue_bytes_max, relief_ms: 0, ..Config::default() });
        let mut subscriber = rig.handle.connect(None);
        everything(&mut subscriber);
        let mut heard = Vec::new();
        let mut end = None;
        for action in schedule {
            match action {
                0 => rig.commit_transfer(1, 2),
                1 => rig.dispatch(),
                _ => {
                    let mut items = Vec::new();
                    match subscriber.outbox().take(700, &mut items) {
                        Taken::Overflowed { resume_after } => end = Some(resume_after),
                        Taken::Some | Taken::Nothing => {}
                    }
                    heard.extend(items.iter().filter_map(|item| match item {
                        Item::Update { update, .. } => Some(update.sequence().get()),
                        Item::Own(_) => None,
                    }));
                }
            }
        }
        if let Some(resume_after) = end {
            let all: Vec<u64> = rig.journal.iter().flat_map(StatusUpdate::of)
                .map(|update| update.sequence.get()).collect();
            let due: Vec<u64> = all.into_iter().filter(|n| *n <= resume_after.get()).collect();
            prop_assert_eq!(heard, due);
        }
    }
}
