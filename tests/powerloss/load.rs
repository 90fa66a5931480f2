//! Clients that remember what they were told, and the comparison with what is there afterwards.

use crate::random::Random;
use crate::support::audit::{Audit, minor};
use crate::support::server::{Client, DEADLINE, Response};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use uuid::Uuid;

const WALLETS: u64 = 24;
/// Makes volumes fill up soon.
const PAD_BYTES: usize = 900;
const BATCH_ITEMS: usize = 25;
/// More than anyone has.
const TOO_MUCH_MINOR: i64 = 90_000_000_000;
/// Between two requests of a client, so that a round has some hundred transfers to compare.
const THINKS: Duration = Duration::from_millis(20);
const HEADERS: [(&str, &str); 1] = [("content-type", "application/json")];

/// A transfer that was asked for. The tag is in its metadata.
#[derive(Clone, Debug)]
struct Asked {
    tag: u64,
    from: Uuid,
    to: Uuid,
    minor: i64,
}

/// A transfer that was answered.
#[derive(Clone, Debug)]
struct Told {
    asked: Asked,
    status: &'static str,
    sequence: u64,
}

/// What all clients together were told.
#[derive(Debug, Default)]
pub(crate) struct Load {
    next_tag: AtomicU64,
    stop: AtomicBool,
    /// Only batches of so many items are asked for; 0: singles, and small batches among them.
    large_batch_items: usize,
    acknowledged: Mutex<HashMap<String, Told>>,
    /// Tags of those that were told "nothing was recorded".
    refused: Mutex<HashSet<u64>>,
    /// Status and code of each answer that was no success, with its count.
    problems: Mutex<HashMap<(u16, String), u64>>,
}

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) acknowledged: usize,
    /// Acknowledged transfers that are not there.
    pub(crate) lost: usize,
    /// Everything else that must not be, and the first of those that are lost.
    pub(crate) wrong: Vec<String>,
}

impl Load {
    /// Clients that ask for nothing but batches of `items`.
    pub(crate) fn of_large_batches(items: usize) -> Self {
        Self {
            large_batch_items: items,
            ..Self::default()
        }
    }

    /// Starts clients; they end at [`Load::stop`] or when nobody answers any more.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's clients are no tasks of the service"
    )]
    pub(crate) fn start(
        self: &Arc<Self>,
        client: &Client,
        clients: usize,
        random: &mut Random,
    ) -> Vec<JoinHandle<()>> {
        self.stop.store(false, Ordering::Release);
        (0..clients)
            .map(|_| {
                let (load, client) = (Arc::clone(self), client.clone());
                let random = Random::new(random.next());
                tokio::spawn(async move { load.run(client, random).await })
            })
            .collect()
    }

    /// Lets the clients end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Transfers that were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.lock().len()
    }

    /// Answers with this status and code so far.
    pub(crate) fn problems(&self, status: u16, code: &str) -> u64 {
        let problems = self.problems.lock();
        problems
            .get(&(status, code.to_owned()))
            .copied()
            .unwrap_or(0)
    }

    /// All statuses and codes so far that were no success.
    pub(crate) fn all_problems(&self) -> Vec<(u16, String)> {
        self.problems.lock().keys().cloned().collect()
    }

    async fn run(&self, client: Client, mut random: Random) {
        while !self.stop.load(Ordering::Acquire) {
            let is_answered = match random.below(10) {
                _ if self.large_batch_items > 0 => {
                    let items = self.large_batch_items;
                    self.batch(&client, &mut random, items).await
                }
                0 => self.batch(&client, &mut random, BATCH_ITEMS).await,
                1 => {
                    let asked = self.asked(&mut random, TOO_MUCH_MINOR);
                    self.single(&client, asked).await
                }
                _ => {
                    let minor = i64::try_from(random.below(500) + 1).unwrap();
                    let asked = self.asked(&mut random, minor);
                    self.single(&client, asked).await
                }
            };
            if !is_answered {
                return;
            }
            tokio::time::sleep(THINKS).await;
        }
    }

    fn asked(&self, random: &mut Random, minor: i64) -> Asked {
        let from = random.below(WALLETS);
        let to = (from + 1 + random.below(WALLETS - 1)) % WALLETS;
        Asked {
            tag: self.next_tag.fetch_add(1, Ordering::Relaxed),
            from: Uuid::from_u128(u128::from(from) + 1),
            to: Uuid::from_u128(u128::from(to) + 1),
            minor,
        }
    }

    /// Whether there was an answer.
    async fn single(&self, client: &Client, asked: Asked) -> bool {
        let body = asked.body();
        let answer = client
            .try_request("POST", "/api/v1/transactions", &HEADERS, &body)
            .await;
        // An error means that the outcome is unknown.
        let Ok(answer) = answer else { return false };
        match answer.status {
            201 | 402 => self.note(asked, &answer.json()),
            _ => self.note_problem(&answer, &[asked]),
        }
        true
    }

    async fn batch(&self, client: &Client, random: &mut Random, items: usize) -> bool {
        let asked: Vec<Asked> = (0..items).map(|_| self.asked(random, 1)).collect();
        let items: Vec<String> = asked.iter().map(Asked::body).collect();
        let body = format!(r#"{{"transactions":[{}]}}"#, items.join(","));
        let path = "/api/v1/transactions/batch";
        let Ok(answer) = client.try_request("POST", path, &HEADERS, &body).await else {
            return false;
        };
        if answer.status == 200 {
            let results = answer.json()["results"].as_array().unwrap().clone();
            for (asked, result) in asked.into_iter().zip(results) {
                self.note(asked, &result);
            }
        } else {
            self.note_problem(&answer, &asked);
        }
        true
    }

    fn note(&self, asked: Asked, result: &Value) {
        let id = result["transaction_id"]
            .as_str()
            .expect("an acknowledged id");
        let status = if asked.minor == TOO_MUCH_MINOR {
            "failed"
        } else {
            "completed"
        };
        let told = Told {
            asked,
            status,
            sequence: result["sequence"].as_u64().unwrap(),
        };
        let before = self.acknowledged.lock().insert(id.to_owned(), told);
        assert!(before.is_none(), "an id was given twice: {id}");
    }

    fn note_problem(&self, answer: &Response, asked: &[Asked]) {
        let code = answer.json()["error"].as_str().unwrap().to_owned();
        match answer.status {
            503 => {
                assert_ne!(answer.header("retry-after"), "", "{}", answer.body);
                self.refused
                    .lock()
                    .extend(asked.iter().map(|asked| asked.tag));
            }
            504 => assert_eq!(code, "OUTCOME_UNKNOWN"),
            status => panic!("unexpected {status}: {}", answer.body),
        }
        *self
            .problems
            .lock()
            .entry((answer.status, code))
            .or_default() += 1;
    }

    /// Compares what is there with what the clients were told.
    pub(crate) async fn compare(&self, client: &Client) -> Found {
        // First: what is acknowledged from here on need not be in what is read below.
        let acknowledged = self.acknowledged.lock().clone();
        let mut audit = Audit::default();
        let mut events: Vec<Value> = Vec::new();
        let comparing = async {
            loop {
                audit.look_on(client, |event| events.push(event.json)).await;
                if audit.compare_balances(client).await {
                    return;
                }
            }
        };
        let compared = tokio::time::timeout(DEADLINE, comparing).await;
        assert!(compared.is_ok(), "the ledger never stands still");
        let created: HashMap<&str, &Value> = events
            .iter()
            .filter(|event| event["type"] == "transaction.created")
            .filter_map(|event| Some((event["transaction_id"].as_str()?, event)))
            .collect();
        let mut found = Found {
            acknowledged: acknowledged.len(),
            ..Found::default()
        };
        for (id, told) in &acknowledged {
            let Some(event) = created.get(id.as_str()) else {
                found.lost += 1;
                if found.lost == 1 {
                    found.wrong.push(format!("{id} is not there: {told:?}"));
                }
                continue;
            };
            let status = audit
                .transactions
                .get(id)
                .map(|(status, _)| status.as_str());
            let last = usize::try_from(told.sequence - 1)
                .ok()
                .and_then(|at| events.get(at));
            let is_same = told.asked.is_told_by(event)
                && status == Some(told.status)
                && last.is_some_and(|last| last["transaction_id"] == id.as_str());
            if !is_same {
                found.wrong.push(format!("{told:?} was acknowledged, there is {event}, {status:?}, at its sequence {last:?}"));
            }
        }
        let refused = self.refused.lock();
        let mut tags = HashSet::new();
        for event in created.values() {
            let Some(tag) = event["metadata"]["tag"].as_u64() else {
                continue;
            };
            if refused.contains(&tag) {
                found
                    .wrong
                    .push(format!("was refused, and is there: {event}"));
            }
            if !tags.insert(tag) {
                found.wrong.push(format!("is there twice: {event}"));
            }
        }
        found
    }
}

impl Asked {
    fn body(&self) -> String {
        let Self {
            tag,
            from,
            to,
            minor,
        } = self;
        let (whole, cents) = (minor / 100, minor % 100);
        let pad = "p".repeat(PAD_BYTES);
        format!(
            r#"{{"from_wallet":"{from}","to_wallet":"{to}","amount":"{whole}.{cents:02}","currency":"USD-CBDC","metadata":{{"tag":{tag},"pad":"{pad}"}}}}"#
        )
    }

    fn is_told_by(&self, event: &Value) -> bool {
        event["from_wallet"] == self.from.to_string()
            && event["to_wallet"] == self.to.to_string()
            && minor(&event["amount"]) == self.minor
            && event["metadata"]["tag"] == self.tag
            && event["metadata"]["pad"]
                .as_str()
                .is_some_and(|pad| pad.len() == PAD_BYTES)
    }
}
