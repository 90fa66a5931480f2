//! An audit from the outside: reads every event over HTTP and checks that the books follow from them.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use super::server::Client;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// Every event of a ledger, and the balances that follow from them.
#[derive(Debug)]
pub(crate) struct Audit {
    /// In the order of their sequences.
    pub(crate) events: Vec<Value>,
    /// By wallet, in minor units (two decimals), from the `balance.updated` events alone.
    pub(crate) balances: BTreeMap<String, i64>,
    /// Last known status by transaction, with its amount in minor units.
    pub(crate) transactions: HashMap<String, (String, i64)>,
}

impl Audit {
    /// Reads all events and checks them: sequences without a gap, ids that never repeat, balances that chain, and
    /// money that neither appears nor vanishes but by issuance and redemption.
    ///
    /// # Panics
    /// At the first violation.
    pub(crate) async fn read(client: &Client) -> Self {
        let durable = client.get("/api/v1/sequence").await.json()["durable"]
            .as_u64()
            .unwrap();
        let mut audit = Self {
            events: Vec::new(),
            balances: BTreeMap::new(),
            transactions: HashMap::new(),
        };
        let mut after = 0;
        while after < durable {
            let path = format!("/api/v1/events?after_sequence={after}&limit=1000");
            let page = client.get(&path).await.json();
            let next = page["next_after_sequence"].as_u64().unwrap();
            assert!(next > after, "no progress behind {after}: {page}");
            let Value::Array(events) = page["events"].clone() else {
                panic!("no events: {page}")
            };
            audit.events.extend(events);
            after = next;
        }
        audit.check();
        audit
    }

    fn check(&mut self) {
        let mut ids = std::collections::HashSet::new();
        let (mut issued, mut redeemed) = (0_i64, 0_i64);
        for (event, expected) in self.events.iter().zip(1_u64..) {
            assert_eq!(
                event["sequence"], expected,
                "a gap in the sequences: {event}"
            );
            assert!(
                ids.insert(event["id"].as_str().unwrap()),
                "an id stands twice: {event}"
            );
            match event["type"].as_str().unwrap() {
                "balance.updated" => {
                    let wallet = event["wallet_id"].as_str().unwrap();
                    let known = self.balances.entry(wallet.to_owned()).or_default();
                    assert_eq!(
                        *known,
                        minor(&event["old_balance"]),
                        "does not chain: {event}"
                    );
                    *known = minor(&event["new_balance"]);
                }
                "wallet.opened" => {}
                kind => {
                    let id = event["transaction_id"].as_str().unwrap();
                    let amount = minor(&event["amount"]);
                    let status = event["status"].as_str().unwrap();
                    self.transactions
                        .insert(id.to_owned(), (status.to_owned(), amount));
                    if kind == "transaction.completed" {
                        issued += amount * i64::from(is_issuer(&event["from_wallet"]));
                        redeemed += amount * i64::from(is_issuer(&event["to_wallet"]));
                    }
                }
            }
        }
        let total: i64 = self.balances.values().sum();
        assert_eq!(total, issued - redeemed, "money appeared or vanished");
    }

    /// Compares the balances that follow from the events with those that the ledger tells.
    ///
    /// # Panics
    /// At the first that differs.
    pub(crate) async fn compare_balances(&self, client: &Client) {
        for (wallet, expected) in &self.balances {
            let path = format!("/api/v1/wallets/{wallet}/balance");
            let told = client.get(&path).await.json();
            assert_eq!(minor(&told["balance"]), *expected, "balance of {wallet}");
        }
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

fn is_issuer(wallet: &Value) -> bool {
    wallet
        .as_str()
        .is_some_and(|id| id.starts_with("6563686f-7061-8079-8000-6973737500"))
}
