//! An audit from the outside: reads the events over HTTP and checks that the books follow from them.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use super::server::Client;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// The books as they follow from the events looked at so far. Looking on costs what is new, not what is there.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// Everything up to this sequence was looked at.
    pub(crate) looked_at: u64,
    /// By wallet, issuers included, in minor units (two decimals).
    pub(crate) balances: BTreeMap<String, i64>,
    /// What open holds keep back, by wallet, in minor units.
    pub(crate) held: BTreeMap<String, i64>,
    /// Last known status by transaction, with its amount in minor units.
    pub(crate) transactions: HashMap<String, (String, i64)>,
    event_ids: HashSet<String>,
    /// The changes of balances that the entry in hand still owes.
    moves_due: VecDeque<Move>,
}

/// A balance that must change next.
#[derive(PartialEq, Eq, Debug)]
struct Move {
    transaction: String,
    wallet: String,
    minor: i64,
}

/// One event as `GET /api/v1/events` gives it.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) sequence: u64,
    pub(crate) json: Value,
    /// As sent, byte for byte.
    pub(crate) text: Box<RawValue>,
}

impl Event {
    /// A text field; empty when it is absent.
    pub(crate) fn text_of(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Box<RawValue>>,
    next_after_sequence: u64,
}

/// The events behind `after`, at most 1,000, and where to go on.
pub(crate) async fn page_after(client: &Client, after: u64) -> (Vec<Event>, u64) {
    let path = format!("/api/v1/events?after_sequence={after}&limit=1000");
    let answer = client.get(&path).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let page: Page = serde_json::from_str(&answer.body).unwrap();
    let events = page.events.into_iter().map(|text| {
        let json: Value = serde_json::from_str(text.get()).unwrap();
        let sequence = json["sequence"].as_u64().unwrap();
        Event {
            sequence,
            json,
            text,
        }
    });
    (events.collect(), page.next_after_sequence)
}

impl Audit {
    /// Reads all events from the beginning, see [`Audit::look_on`].
    ///
    /// # Panics
    /// At the first violation.
    pub(crate) async fn read(client: &Client) -> Self {
        let mut audit = Self::default();
        audit.look_on(client, |_| {}).await;
        audit
    }

    /// Reads on up to the durable sequence and checks what it reads: sequences without a gap, ids that never repeat,
    /// states that follow on one another, balances that chain and change by what was settled, and money that neither
    /// appears nor vanishes. `seen` gets each event.
    ///
    /// # Panics
    /// At the first violation.
    pub(crate) async fn look_on(&mut self, client: &Client, mut seen: impl FnMut(Event)) {
        let marks = client.get("/api/v1/sequence").await.json();
        let durable = marks["durable"].as_u64().unwrap();
        assert!(
            self.looked_at <= durable,
            "the journal ends at {durable}, and was read up to {} before",
            self.looked_at
        );
        while self.looked_at < durable {
            let (events, next) = page_after(client, self.looked_at).await;
            assert!(
                next > self.looked_at,
                "no progress behind {}",
                self.looked_at
            );
            for event in events {
                self.take(&event);
                seen(event);
            }
            assert_eq!(next, self.looked_at, "the page ends before its last event");
        }
        let total: i64 = self.balances.values().sum();
        assert_eq!(total, 0, "money appeared or vanished");
        assert!(
            self.moves_due.is_empty(),
            "settled, but not moved: {:?}",
            self.moves_due
        );
    }

    fn take(&mut self, event: &Event) {
        let json = &event.json;
        assert_eq!(event.sequence, self.looked_at + 1, "a gap: {json}");
        self.looked_at = event.sequence;
        let fresh = self.event_ids.insert(event.text_of("id").to_owned());
        assert!(fresh, "an id stands twice: {json}");
        match event.text_of("type") {
            "wallet.opened" => {}
            "balance.updated" => self.take_balance(event),
            "fraud.score.updated" => {
                let known = self.transactions.get(event.text_of("transaction_id"));
                let (status, _) = known.unwrap_or_else(|| panic!("of nothing: {json}"));
                assert_eq!(status, event.text_of("status"), "{json}");
            }
            _ => self.take_status(event),
        }
    }

    fn take_balance(&mut self, event: &Event) {
        let json = &event.json;
        let wallet = event.text_of("wallet_id").to_owned();
        let (old, new) = (minor(&json["old_balance"]), minor(&json["new_balance"]));
        let known = self.balances.entry(wallet.clone()).or_default();
        assert_eq!(*known, old, "does not chain: {json}");
        *known = new;
        let made = Move {
            transaction: event.text_of("transaction_id").to_owned(),
            wallet,
            minor: new - old,
        };
        assert_eq!(Some(made), self.moves_due.pop_front(), "{json}");
    }

    fn take_status(&mut self, event: &Event) {
        let json = &event.json;
        assert!(
            self.moves_due.is_empty(),
            "{:?} before {json}",
            self.moves_due
        );
        let id = event.text_of("transaction_id").to_owned();
        let status = event.text_of("status").to_owned();
        let amount = minor(&json["amount"]);
        let (from, to) = (event.text_of("from_wallet"), event.text_of("to_wallet"));
        let before = self
            .transactions
            .insert(id.clone(), (status.clone(), amount));
        if let Some((_, known)) = &before {
            assert_eq!(*known, amount, "the amount changed: {json}");
        }
        let before = before.as_ref().map(|(status, _)| status.as_str());
        let held = match (before, status.as_str()) {
            (None, "pending") => amount,
            (Some("pending"), "failed") => -amount,
            (Some("pending"), "completed") => {
                self.move_next(&id, from, to, amount);
                -amount
            }
            (Some("completed"), "reversed") => {
                self.move_next(&id, from, to, -amount);
                0
            }
            _ => panic!("cannot follow on {before:?}: {json}"),
        };
        *self.held.entry(from.to_owned()).or_default() += held;
    }

    /// Of an issuer no events tell; its balance is what the others add up to.
    fn move_next(&mut self, transaction: &str, from: &str, to: &str, amount: i64) {
        for (wallet, minor) in [(from, -amount), (to, amount)] {
            if is_issuer(wallet) {
                *self.balances.entry(wallet.to_owned()).or_default() += minor;
            } else {
                self.moves_due.push_back(Move {
                    transaction: transaction.to_owned(),
                    wallet: wallet.to_owned(),
                    minor,
                });
            }
        }
    }

    /// Compares balances and holds that follow from the events with those that the ledger tells. `false` when the ledger
    /// went on meanwhile: then look on, and compare again.
    ///
    /// # Panics
    /// At the first that differs.
    #[must_use]
    pub(crate) async fn compare_balances(&self, client: &Client) -> bool {
        for (wallet, expected) in &self.balances {
            let path = format!("/api/v1/wallets/{wallet}/balance");
            let told = client.get(&path).await.json();
            if told["sequence"] != self.looked_at {
                return false;
            }
            let held = self.held.get(wallet).copied().unwrap_or_default();
            let held = if is_issuer(wallet) { 0 } else { held };
            assert_eq!(
                (minor(&told["balance"]), minor(&told["held"])),
                (*expected, held),
                "balance and holds of {wallet}"
            );
        }
        true
    }
}

/// Minor units (two decimals) of a JSON number.
#[expect(clippy::cast_possible_truncation, reason = "test amounts are small")]
pub(crate) fn minor(amount: &Value) -> i64 {
    let value = amount
        .as_f64()
        .unwrap_or_else(|| panic!("no number: {amount}"));
    (value * 100.0).round() as i64
}

pub(crate) fn is_issuer(wallet: &str) -> bool {
    wallet.starts_with("6563686f-7061-8079-8000-6973737500")
}
