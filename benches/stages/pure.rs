//! The steps of the hot path that neither wait nor touch a disk, each ready to be run on the same input again and again.
//!
//! One list for both who measure them: `benches/stages.rs` takes their time, `benches/instructions.rs` counts what they
//! execute. The names are those of `docs/METRICS.md`. Inputs follow from constants alone.

use bytes::Bytes;
use echopay::clock::SystemClock;
use echopay::event::EventEncoder;
use echopay::http::{self, bench as text};
use echopay::ids::IdCipher;
use echopay::journal::bench::Codec;
use echopay::journal::entry::{Body, ChainLink, Leg, Movement};
use echopay::journal::{Entry, JournalIdentity};
use echopay::ledger::bench::Rulebook;
use echopay::ledger::{Command, Receipt};
use echopay::metrics::Metrics;
use echopay::tracker::{self, Config, Dispatcher, Filter, Item, Subscriber, Taken, TrackerHandle};
use echopay::types::{
    Currencies, Currency, MinorUnits, Sequence, Status, TimestampMs, TransactionId, WalletId,
};
use echopay::watermark::watermark;
use std::hint::black_box;
use std::sync::Arc;
use uuid::Uuid;

const AT: TimestampMs = TimestampMs::new(1_795_387_017_045);
const ID_KEY: [u8; 16] = *b"0123456789abcdef";
const METADATA: &str = "{\"note\":\"nineteen characters!\",\"n\":1}";
const EVENTS_A_TRANSFER: u64 = 4;
const UPDATES_A_TRANSFER: usize = 2;
const WALLETS: u64 = 1_000;
/// As many as the ledger thread finds in its queue at 64 connections.
const GROUP: usize = 64;
/// The canonical batch.
const BATCH: usize = 1_000;

/// A step with its input.
pub(crate) trait Step {
    /// Makes ready for `runs` runs; neither timed nor counted.
    fn prepare(&mut self, _runs: usize) {}
    /// The step.
    fn run(&mut self);
}

/// A step that can be made.
pub(crate) struct Stage {
    /// `stage/how many at a time`.
    pub(crate) name: &'static str,
    /// Transfers that one run works on; what one run of `route` works on is a request.
    pub(crate) transfers: usize,
    pub(crate) make: fn(transfers: usize) -> Box<dyn Step>,
}

/// All of them, in the order in which a transfer meets them.
pub(crate) const STAGES: [Stage; 13] = [
    stage("route/1", 1, |_| Box::new(Route)),
    stage("parse/1", 1, |_| Box::new(ParseOne::new())),
    stage("parse/1000", BATCH, |count| {
        Box::new(ParseBatch::new(count))
    }),
    stage("decide/1", 1, |count| Box::new(Decide::new(count))),
    stage("decide/64", GROUP, |count| Box::new(Decide::new(count))),
    stage("decide/1000", BATCH, |count| Box::new(Decide::new(count))),
    stage("encode/1", 1, |count| Box::new(Encode::new(count))),
    stage("encode/64", GROUP, |count| Box::new(Encode::new(count))),
    stage("answer/1", 1, |_| Box::new(AnswerOne)),
    stage("answer/1000", BATCH, |count| {
        Box::new(AnswerBatch::new(count))
    }),
    stage("event/64", GROUP, |count| {
        Box::new(EncodeEvents::new(count))
    }),
    stage("match/64", GROUP, |count| Box::new(Tell::new(count, false))),
    stage("enqueue/64", GROUP, |count| {
        Box::new(Tell::new(count, true))
    }),
];

const fn stage(name: &'static str, transfers: usize, make: fn(usize) -> Box<dyn Step>) -> Stage {
    Stage {
        name,
        transfers,
        make,
    }
}

/// Which resource a request names.
struct Route;

impl Step for Route {
    fn run(&mut self) {
        let found = text::route(black_box("/api/v1/transactions"));
        assert_eq!(black_box(found), Some("/api/v1/transactions"));
    }
}

/// One of the bodies that the load generator sends.
fn body(number: usize) -> String {
    let (from, to) = (wallet(number), wallet(number + 1));
    let (whole, cents) = (number / 100 + 1, number % 100);
    format!(
        "{{\"from_wallet\":\"{}\",\"to_wallet\":\"{}\",\"amount\":{whole}.{cents:02},\
         \"currency\":\"USD-CBDC\",\"metadata\":{METADATA}}}",
        from.uuid(),
        to.uuid()
    )
}

struct ParseOne {
    body: String,
    currencies: Currencies,
    config: http::Config,
}

impl ParseOne {
    fn new() -> Self {
        Self {
            body: body(7),
            currencies: Currencies::default(),
            config: http::Config::default(),
        }
    }
}

impl Step for ParseOne {
    fn run(&mut self) {
        let body = black_box(self.body.as_bytes());
        let request = text::parse_transfer(body, &self.currencies, &self.config);
        assert!(black_box(request).is_some(), "a good body");
    }
}

struct ParseBatch {
    one: ParseOne,
    count: usize,
}

impl ParseBatch {
    fn new(count: usize) -> Self {
        let items: Vec<String> = (0..count).map(body).collect();
        let mut one = ParseOne::new();
        one.body = format!("{{\"transactions\":[{}]}}", items.join(","));
        Self { one, count }
    }
}

impl Step for ParseBatch {
    fn run(&mut self) {
        let ParseOne {
            body,
            currencies,
            config,
        } = &self.one;
        let requests = text::parse_batch(black_box(body.as_bytes()), currencies, config);
        let count = black_box(requests).map(|requests| requests.len());
        assert_eq!(count, Some(self.count), "a good body");
    }
}

/// Decide, apply and merge of a group.
struct Decide {
    rulebook: Rulebook,
    groups: Vec<Vec<Command>>,
    count: usize,
}

impl Decide {
    fn new(count: usize) -> Self {
        Self {
            rulebook: Rulebook::new(&ID_KEY, WALLETS, AT, drop),
            groups: Vec::new(),
            count,
        }
    }
}

impl Step for Decide {
    fn prepare(&mut self, runs: usize) {
        let make = || self.rulebook.commands(self.count);
        self.groups = std::iter::repeat_with(make).take(runs).collect();
    }

    fn run(&mut self) {
        let commands = self.groups.pop().unwrap_or_default();
        let entries = self.rulebook.decide(commands);
        self.rulebook.merge();
        let count = black_box(entries).len();
        assert_eq!(count, self.count, "each transfer is one entry");
    }
}

/// A group to pages, the chain of hashes included.
struct Encode {
    codec: Codec,
    entries: Vec<Entry>,
}

impl Encode {
    fn new(count: usize) -> Self {
        Self {
            codec: Codec::new(&ID_KEY),
            entries: transfers(1, count),
        }
    }
}

impl Step for Encode {
    fn run(&mut self) {
        let bytes = self.codec.encode(black_box(&self.entries));
        assert!(black_box(bytes).is_some(), "a good group");
    }
}

/// The answer to one payment, headers included.
struct AnswerOne;

impl Step for AnswerOne {
    fn run(&mut self) {
        let response = text::answer(black_box(receipt(7)));
        assert!(black_box(response).is_some(), "a recorded payment");
    }
}

/// The text of the answer to a batch.
struct AnswerBatch {
    receipts: Vec<Receipt>,
    out: Vec<u8>,
}

impl AnswerBatch {
    fn new(count: usize) -> Self {
        Self {
            receipts: (0..count).map(receipt).collect(),
            out: Vec::new(),
        }
    }
}

impl Step for AnswerBatch {
    fn run(&mut self) {
        self.out.clear();
        text::write_results(&mut self.out, black_box(&self.receipts));
        black_box(&self.out);
    }
}

/// The JSON of a group's events, as Kafka and `GET /api/v1/events` tell them.
struct EncodeEvents {
    encoder: EventEncoder,
    entries: Vec<Entry>,
    out: Vec<u8>,
}

impl EncodeEvents {
    fn new(count: usize) -> Self {
        let identity = JournalIdentity {
            journal_id: Uuid::from_u128(7),
            epoch: 1,
        };
        let ids = IdCipher::new(&ID_KEY);
        Self {
            encoder: EventEncoder::new(identity, ids, Currencies::default()),
            entries: transfers(1, count),
            out: Vec::new(),
        }
    }
}

impl Step for EncodeEvents {
    fn run(&mut self) {
        for event in black_box(&self.entries).iter().flat_map(Entry::events) {
            self.out.clear();
            self.encoder.encode(&event, &mut self.out);
            black_box(&self.out);
        }
    }
}

/// A group handed to the tracker: `match` when none of a thousand subscriptions wants it, `enqueue` when one more wants
/// all of it and takes it out of its queue.
struct Tell {
    dispatcher: Dispatcher,
    listener: Option<Subscriber>,
    _others: Vec<Subscriber>,
    groups: Vec<Vec<Entry>>,
    taken: Vec<Item>,
    next: u64,
    count: usize,
}

impl Tell {
    fn new(count: usize, is_heard: bool) -> Self {
        let (_durable, reading) = watermark(Sequence::ORIGIN);
        let config = Config {
            relief_ms: 0,
            // Why one: how many fall into which of several shards, and what those allocate, is drawn at each start.
            shards: 1,
            ..Config::default()
        };
        let clock = Arc::new(SystemClock::new());
        let (handle, dispatcher) =
            tracker::new(config, Sequence::ORIGIN, reading, clock, Metrics::default());
        let strangers = usize::try_from(WALLETS).unwrap_or_default() + 1;
        Self {
            dispatcher,
            listener: is_heard.then(|| subscribe(&handle, Filter::new(vec![], vec![], &[]))),
            _others: (strangers..2 * strangers)
                .map(|number| subscribe(&handle, Filter::new(vec![], vec![wallet(number)], &[])))
                .collect(),
            groups: Vec::new(),
            taken: Vec::new(),
            next: 1,
            count,
        }
    }

    /// Empties the listener's queue; the number of updates in it.
    fn drain(&mut self) -> usize {
        self.taken.clear();
        if let Some(listener) = &self.listener {
            while listener.outbox().take(usize::MAX, &mut self.taken) == Taken::Some {}
        }
        self.taken.len()
    }
}

fn subscribe(handle: &TrackerHandle, filter: Filter) -> Subscriber {
    let mut subscriber = handle.connect(None);
    subscriber.subscribe(filter, |_, _| Bytes::new());
    while subscriber.outbox().take(usize::MAX, &mut Vec::new()) == Taken::Some {}
    subscriber
}

impl Step for Tell {
    fn prepare(&mut self, runs: usize) {
        for _ in 0..runs {
            let group = transfers(self.next, self.count);
            self.next = group.last().map_or(1, |entry| entry.last().next().get());
            self.groups.push(group);
        }
        // The first comes last, since `run` takes from the end.
        self.groups.reverse();
    }

    fn run(&mut self) {
        let group = self.groups.pop().unwrap_or_default();
        self.dispatcher.dispatch(black_box(&group));
        let heard = if self.listener.is_some() {
            UPDATES_A_TRANSFER * self.count
        } else {
            0
        };
        assert_eq!(self.drain(), heard, "the listener heard all of it");
    }
}

fn wallet(number: usize) -> WalletId {
    let wallets = u128::from(WALLETS);
    let spread = u128::try_from(number).unwrap_or_default() + 1;
    // Why spread over both halves: real ids are random.
    let id = Uuid::from_u128(spread << 64 | (wallets + spread));
    WalletId::new(id).unwrap_or(WalletId::issuer(Currency::from_tag(1)))
}

fn receipt(number: usize) -> Receipt {
    let first = u64::try_from(number).unwrap_or_default() * EVENTS_A_TRANSFER + 1;
    Receipt {
        transaction: TransactionId(Uuid::from_u128(u128::from(first))),
        status: Status::Completed,
        at: AT,
        first_sequence: Sequence::new(first),
        sequence: Sequence::new(first + EVENTS_A_TRANSFER - 1),
    }
}

fn leg(number: usize) -> Leg {
    Leg {
        wallet: wallet(number),
        balance_after: MinorUnits::new(123_456),
        held_after: MinorUnits::ZERO,
        link: ChainLink {
            ordinal: 7,
            previous: Sequence::new(1),
            skip: Sequence::ORIGIN,
        },
    }
}

/// Entries of transfers in one group, from the sequence `first` on.
fn transfers(first: u64, count: usize) -> Vec<Entry> {
    let ids = IdCipher::new(&ID_KEY);
    (0..count)
        .zip((first..).step_by(4))
        .map(|(number, first)| Entry {
            first: Sequence::new(first),
            at: AT,
            idempotency: None,
            batch: None,
            body: Body::Transfer(Movement {
                transaction: ids.transaction_id(Sequence::new(first), AT),
                from: leg(number),
                to: leg(number + 1),
                currency: Currency::from_tag(1),
                amount: MinorUnits::new(10_010),
                metadata: Some(METADATA.into()),
            }),
        })
        .collect()
}
