//! The checker: holds what the clients were told against what the journal says.
//!
//! A look costs what is new since the last one. What it remembers of an event is a hash, so that any later reading, over
//! HTTP or in Kafka, can be told to be the same, byte for byte.

use super::load::{Change, Heard, Told};
use super::plan::{Kind, NEVER, Order};
use crate::support::audit::{Audit, Event, is_issuer, page_after};
use crate::support::http::transaction;
use crate::support::server::Client;
use crate::support::subscribers::Due;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// How many of a round's new transactions are asked for by their id: another way through the journal than its events.
const LOOKED_UP: usize = 10;
/// How often the journal may have gone on by itself between two looks that belong together.
const LOOKS_MAX: usize = 100;

/// A transaction as the journal tells it.
#[derive(Debug)]
struct Known {
    tag: u64,
    created: u64,
    /// Last event of the entry that completed it or made it fail.
    settled: Option<(&'static str, u64)>,
    /// Last event of the entry that reversed it.
    reversed: Option<u64>,
    was_held: bool,
}

/// What is remembered of an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Print {
    text_hash: u64,
    /// The hash of the key under which Kafka must have it.
    key_hash: u64,
}

/// Everything that is known of one journal.
#[derive(Debug)]
pub(super) struct Books {
    seed: u64,
    audit: Audit,
    /// Of the events 1, 2, 3, …
    prints: Vec<Print>,
    known: HashMap<String, Known>,
    /// The transaction of each tag that was found.
    found: HashMap<u64, String>,
    /// Tags that must never be found.
    nothing: HashSet<u64>,
    asked: HashSet<(String, Change)>,
    refused: HashSet<(String, Change)>,
    acknowledged: u64,
}

pub(super) fn hash_of(text: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(text)
}

impl Books {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            audit: Audit::default(),
            prints: Vec::new(),
            known: HashMap::new(),
            found: HashMap::new(),
            nothing: HashSet::new(),
            asked: HashSet::new(),
            refused: HashSet::new(),
            acknowledged: 0,
        }
    }

    /// The journal was looked at up to here.
    pub(super) fn looked_at(&self) -> u64 {
        self.audit.looked_at
    }

    /// Answers that were held against the journal so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether the event is the one that was read before, byte for byte, and Kafka's key the right one.
    pub(super) fn is_same(&self, sequence: u64, text: &str, key: &str) -> bool {
        let index = usize::try_from(sequence).unwrap().checked_sub(1);
        let print = index.and_then(|index| self.prints.get(index));
        print
            .is_some_and(|print| print.text_hash == hash_of(text) && print.key_hash == hash_of(key))
    }

    /// Looks at what is new, and holds `heard` against it. Gives what subscribers are owed by it.
    ///
    /// # Panics
    /// At the first violation.
    pub(super) async fn look_on(
        &mut self,
        client: &Client,
        heard: Heard,
        next_tag: u64,
    ) -> Vec<Due> {
        self.asked.extend(heard.asked);
        for told in &heard.told {
            match told {
                Told::Nothing { tag } => {
                    assert!(
                        !self.found.contains_key(tag),
                        "refused, and there: {told:?}"
                    );
                    self.nothing.insert(*tag);
                }
                Told::Unchanged { id, change } => {
                    self.refused.insert((id.clone(), *change));
                }
                _ => {}
            }
        }
        let mut due = Vec::new();
        let mut scores = HashSet::new();
        // A hold may come to its end between the look at the events and that at the balances.
        for _ in 0..LOOKS_MAX {
            let mut events = Vec::new();
            self.audit.look_on(client, |event| events.push(event)).await;
            for event in events {
                due.extend(self.take(&event, next_tag, &mut scores));
            }
            if self.audit.compare_balances(client).await {
                for told in &heard.told {
                    self.compare(told, &scores);
                }
                self.acknowledged += heard.told.len() as u64;
                self.look_up(client, &heard.told).await;
                return due;
            }
        }
        panic!("the ledger goes on and on without being asked");
    }

    fn take(
        &mut self,
        event: &Event,
        next_tag: u64,
        scores: &mut HashSet<(String, u64)>,
    ) -> Option<Due> {
        let (from, to) = (event.text_of("from_wallet"), event.text_of("to_wallet"));
        let key = match event.text_of("wallet_id") {
            "" if is_issuer(from) => to,
            "" => from,
            wallet => wallet,
        };
        assert!(!event.text.get().contains(NEVER), "refused: {}", event.json);
        self.prints.push(Print {
            text_hash: hash_of(event.text.get()),
            key_hash: hash_of(key),
        });
        let id = event.text_of("transaction_id").to_owned();
        let kind = event.text_of("type");
        match kind {
            "balance.updated" | "wallet.opened" => self.extend_entry(&id, event.sequence),
            "fraud.score.updated" => {
                scores.insert((id.clone(), event.sequence));
            }
            "transaction.created" => self.take_created(&id, event, next_tag),
            _ => self.take_change(&id, kind, event),
        }
        Due::of(event)
    }

    fn take_created(&mut self, id: &str, event: &Event, next_tag: u64) {
        let json = &event.json;
        let is_issued = is_issuer(event.text_of("from_wallet"));
        let Some(tag) = json["metadata"]["tag"].as_u64() else {
            assert!(is_issued, "nobody asked for it: {json}");
            return;
        };
        assert!(tag < next_tag, "nobody asked for it yet: {json}");
        assert!(!self.nothing.contains(&tag), "refused, and there: {json}");
        let twice = self.found.insert(tag, id.to_owned());
        assert_eq!(twice, None, "done twice: {json}");
        let order = Order::of(self.seed, tag);
        let from = if order.kind == Kind::Issuance {
            assert!(is_issued, "{order:?} became {json}");
            event.text_of("from_wallet")
        } else {
            order.from.as_str()
        };
        assert_eq!(
            (
                event.text_of("from_wallet"),
                event.text_of("to_wallet"),
                crate::support::audit::minor(&json["amount"])
            ),
            (from, order.to.as_str(), order.minor),
            "{order:?} became {json}"
        );
        let known = Known {
            tag,
            created: event.sequence,
            settled: None,
            reversed: None,
            was_held: matches!(order.kind, Kind::Hold | Kind::ShortHold),
        };
        self.known.insert(id.to_owned(), known);
    }

    fn take_change(&mut self, id: &str, kind: &str, event: &Event) {
        let json = &event.json;
        // The issuance that opened a wallet on sight.
        let Some(known) = self.known.get_mut(id) else {
            assert!(
                is_issuer(event.text_of("from_wallet")),
                "of nothing: {json}"
            );
            return;
        };
        let order = Order::of(self.seed, known.tag);
        let with_creation = event.sequence == known.created + 1;
        let was_asked = |change| {
            let change = (id.to_owned(), change);
            self.asked.contains(&change) && !self.refused.contains(&change)
        };
        match (kind, event.text_of("reason")) {
            ("transaction.completed", _) if known.was_held => {
                assert!(was_asked(Change::Capture), "nobody asked for it: {json}");
                known.settled = Some(("completed", event.sequence));
            }
            ("transaction.completed", _) => {
                assert!(with_creation && order.kind != Kind::Overdraw, "{json}");
                known.settled = Some(("completed", event.sequence));
            }
            ("transaction.failed", "VOIDED") => {
                assert!(was_asked(Change::Void), "nobody asked for it: {json}");
                known.settled = Some(("failed", event.sequence));
            }
            ("transaction.failed", "EXPIRED") => {
                assert_eq!(order.kind, Kind::ShortHold, "{json}");
                known.settled = Some(("failed", event.sequence));
            }
            ("transaction.failed", "INSUFFICIENT_FUNDS") => {
                assert!(with_creation, "{json}");
                known.settled = Some(("failed", event.sequence));
            }
            ("transaction.reversed", _) => {
                assert!(was_asked(Change::Reversal), "nobody asked for it: {json}");
                known.reversed = Some(event.sequence);
            }
            _ => panic!("unheard of: {json}"),
        }
    }

    /// A balance behind a change belongs to its entry.
    fn extend_entry(&mut self, id: &str, sequence: u64) {
        if let Some(known) = self.known.get_mut(id) {
            if let Some(reversed) = &mut known.reversed {
                *reversed = sequence;
            } else if let Some((_, settled)) = &mut known.settled {
                *settled = sequence;
            }
        }
    }

    /// What was acknowledged is there, where it was said to be.
    fn compare(&self, told: &Told, scores: &HashSet<(String, u64)>) {
        let known = |id: &str| {
            let known = self.known.get(id);
            known.unwrap_or_else(|| panic!("acknowledged, and not there: {told:?}"))
        };
        match told {
            Told::Done { tag, id, sequence } => {
                let known = known(id);
                let last = match known.settled {
                    Some(("completed", last)) if !known.was_held => last,
                    _ if known.was_held => known.created,
                    _ => panic!("{told:?} is {known:?}"),
                };
                assert_eq!((known.tag, last), (*tag, *sequence), "{told:?}: {known:?}");
            }
            Told::Failed { tag, id, sequence } => {
                let known = known(id);
                assert_eq!(known.tag, *tag, "{told:?}: {known:?}");
                assert_eq!(known.settled, Some(("failed", *sequence)), "{told:?}");
            }
            Told::Changed {
                id,
                change,
                sequence,
            } => {
                let known = known(id);
                let found = match change {
                    Change::Reversal => known.reversed.map(|last| ("reversed", last)),
                    Change::Capture | Change::Void => known.settled,
                };
                assert_eq!(
                    found,
                    Some((change.status(), *sequence)),
                    "{told:?}: {known:?}"
                );
            }
            Told::Scored { id, sequence } => {
                let there = scores.contains(&(id.clone(), *sequence));
                assert!(there, "acknowledged, and not there: {told:?}");
            }
            Told::Nothing { .. } | Told::Unchanged { .. } => {}
        }
    }

    async fn look_up(&self, client: &Client, told: &[Told]) {
        let ids = told.iter().filter_map(|told| match told {
            Told::Done { id, .. } | Told::Failed { id, .. } | Told::Changed { id, .. } => Some(id),
            _ => None,
        });
        for id in ids.take(LOOKED_UP) {
            let answer = client.get(&transaction(id)).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            let (status, _) = &self.audit.transactions[id];
            // An open hold may have come to its end since.
            if status != "pending" {
                assert_eq!(answer.json()["status"], status.as_str(), "{}", answer.body);
            }
        }
    }

    /// Reads everything again: what was read before is still there, byte for byte.
    pub(super) async fn read_again(&self, client: &Client) {
        let mut after = 0;
        while after < self.looked_at() {
            let (events, next) = page_after(client, after).await;
            for event in events.iter().filter(|e| e.sequence <= self.looked_at()) {
                assert_eq!(event.sequence, after + 1, "a gap: {}", event.json);
                after = event.sequence;
                let index = usize::try_from(event.sequence - 1).unwrap();
                let same = self.prints[index].text_hash == hash_of(event.text.get());
                assert!(same, "changed: {}", event.json);
            }
            assert!(
                after >= next.min(self.looked_at()),
                "no progress at {after}"
            );
        }
    }
}
