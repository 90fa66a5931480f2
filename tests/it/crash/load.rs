//! The clients: what they ask for, and what they were told.

use super::plan::{Kind, NEVER, Order, Rng, malformed};
use crate::support::http::{BATCH, JSON, TRANSACTIONS, transaction};
use crate::support::server::{Client, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

const CLIENTS: u64 = 12;
/// Longest time that a client thinks between two requests: what keeps a round small enough to be checked at once.
const THINK_MS_MAX: u64 = 5;

/// A change of a transaction that is there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Change {
    Capture,
    Void,
    Reversal,
}

impl Change {
    /// The status that it asks for.
    pub(super) const fn status(self) -> &'static str {
        match self {
            Self::Capture => "completed",
            Self::Void => "failed",
            Self::Reversal => "reversed",
        }
    }
}

/// What a client was told, and may rely on from then on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// 201: this transaction stands, its last event so far is `sequence`.
    Done { tag: u64, id: String, sequence: u64 },
    /// Refused by a rule: recorded as failed, and nothing moved.
    Failed { tag: u64, id: String, sequence: u64 },
    /// Refused without a trace.
    Nothing { tag: u64 },
    /// The change is made, `sequence` is its last event.
    Changed {
        id: String,
        change: Change,
        sequence: u64,
    },
    /// The change is refused, and is not made later either.
    Unchanged { id: String, change: Change },
    /// The score is set by the event `sequence`.
    Scored { id: String, sequence: u64 },
}

/// What one round's clients have asked for and heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) told: Vec<Told>,
    /// Changes that were asked for, whatever the answer.
    pub(super) asked: HashSet<(String, Change)>,
}

/// The clients of one round.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    seed: u64,
    /// The next tag; goes on from round to round.
    tags: Arc<AtomicU64>,
    /// Bytes of text in each order of a batch.
    note_bytes: usize,
    heard: Mutex<Heard>,
    answered: AtomicU64,
    in_flight: AtomicUsize,
    stop: AtomicBool,
}

/// The server is gone, or does not take anything any more: the client goes home.
struct Gone;

impl Load {
    /// Sends [`CLIENTS`] clients on their way. `heavy` ones fill volumes sooner.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's clients are no tasks of the service"
    )]
    pub(super) fn start(
        client: Client,
        seed: u64,
        round: u64,
        tags: &Arc<AtomicU64>,
        heavy: bool,
    ) -> Self {
        let shared = Arc::new(Shared {
            client,
            seed,
            tags: Arc::clone(tags),
            note_bytes: if heavy { 1_200 } else { 0 },
            heard: Mutex::default(),
            answered: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let clients = (0..CLIENTS).map(|number| {
            let rng = Rng::new(seed, (round << 16) + number + 1);
            tokio::spawn(Customer::new(Arc::clone(&shared), rng, heavy).run())
        });
        Self {
            clients: clients.collect(),
            shared,
        }
    }

    /// Requests answered so far.
    pub(super) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Requests on their way.
    pub(super) fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Acquire)
    }

    /// Waits until every client has gone home, and gives what they heard.
    pub(super) async fn end(self) -> Heard {
        self.shared.stop.store(true, Ordering::Release);
        for client in self.clients {
            client.await.expect("a client saw nothing wrong");
        }
        std::mem::take(&mut *self.shared.heard.lock())
    }
}

/// One client, with the transactions it knows of.
struct Customer {
    shared: Arc<Shared>,
    rng: Rng,
    heavy: bool,
    holds: Vec<String>,
    settled: Vec<String>,
}

impl Customer {
    fn new(shared: Arc<Shared>, rng: Rng, heavy: bool) -> Self {
        Self {
            shared,
            rng,
            heavy,
            holds: Vec::new(),
            settled: Vec::new(),
        }
    }

    async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            let think = Duration::from_millis(self.rng.below(THINK_MS_MAX));
            tokio::time::sleep(think).await;
            let went = match self.rng.below(100) {
                0..45 if !self.heavy => self.single().await,
                45..55 => self.change_hold().await,
                55..63 => self.reverse().await,
                63..68 => self.score().await,
                68..73 => self.malformed().await,
                73..77 => self.atomic_batch_that_cannot_be().await,
                _ => self.batch().await,
            };
            if went.is_err() {
                return;
            }
        }
    }

    async fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Response, Gone> {
        self.shared.in_flight.fetch_add(1, Ordering::AcqRel);
        let answer = self
            .shared
            .client
            .try_request(method, path, &[JSON], body)
            .await;
        self.shared.in_flight.fetch_sub(1, Ordering::AcqRel);
        let answer = answer.map_err(|_outcome_unknown| Gone)?;
        self.shared.answered.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    fn tell(&self, told: Told) {
        self.shared.heard.lock().told.push(told);
    }

    fn order(&self) -> Order {
        let tag = self.shared.tags.fetch_add(1, Ordering::Relaxed);
        Order::of(self.shared.seed, tag)
    }

    async fn single(&mut self) -> Result<(), Gone> {
        let order = self.order();
        let path = match order.kind {
            Kind::Issuance => "/api/v1/issuances",
            _ => TRANSACTIONS,
        };
        let body = order.body(0).to_string();
        let answer = self.ask("POST", path, &body).await?;
        self.understand(&order, answer.status, &answer.json())
    }

    /// `status` is that of a single request; an item of a batch has none and counts by its error.
    fn understand(&mut self, order: &Order, status: u16, answer: &Value) -> Result<(), Gone> {
        let tag = order.tag;
        let of = |field: &str| answer[field].as_str().map(ToOwned::to_owned);
        let id = of("transaction_id");
        let told = match (status, id) {
            (200 | 201, Some(id)) => {
                let sequence = answer["sequence"].as_u64().unwrap();
                if answer.get("error").is_some() {
                    Told::Failed { tag, id, sequence }
                } else {
                    match order.kind {
                        Kind::Hold | Kind::ShortHold => self.holds.push(id.clone()),
                        Kind::Transfer => self.settled.push(id.clone()),
                        Kind::Overdraw | Kind::Issuance => {}
                    }
                    Told::Done { tag, id, sequence }
                }
            }
            (402, Some(id)) => {
                let sequence = answer["sequence"].as_u64().unwrap();
                Told::Failed { tag, id, sequence }
            }
            (503, None) => Told::Nothing { tag },
            (504, None) => return Err(Gone),
            _ => panic!("{status} to {order:?}: {answer}"),
        };
        self.tell(told);
        if status == 503 { Err(Gone) } else { Ok(()) }
    }

    /// Orders with tags one after another; those that go another way than a batch are left out for ever.
    fn orders(&self, count: u64) -> Vec<Order> {
        let (first, seed) = (
            self.shared.tags.fetch_add(count, Ordering::Relaxed),
            self.shared.seed,
        );
        let (left_out, orders): (Vec<u64>, Vec<u64>) =
            (first..first + count).partition(|tag| Order::is_issuance(*tag));
        for tag in left_out {
            self.tell(Told::Nothing { tag });
        }
        orders.into_iter().map(|tag| Order::of(seed, tag)).collect()
    }

    async fn batch(&mut self) -> Result<(), Gone> {
        let count = 3 + self.rng.below(if self.heavy { 60 } else { 12 });
        let orders = self.orders(count);
        let note_bytes = self.shared.note_bytes;
        let items: Vec<Value> = orders.iter().map(|order| order.body(note_bytes)).collect();
        let body = json!({ "transactions": items }).to_string();
        let answer = self.ask("POST", BATCH, &body).await?;
        if answer.status == 504 {
            return Err(Gone);
        }
        if answer.status == 503 {
            for order in orders {
                self.tell(Told::Nothing { tag: order.tag });
            }
            return Err(Gone);
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
        let answer = answer.json();
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), orders.len(), "{answer}");
        for (order, result) in orders.iter().zip(results) {
            self.understand(order, 200, result)?;
        }
        Ok(())
    }

    async fn atomic_batch_that_cannot_be(&mut self) -> Result<(), Gone> {
        let orders = self.orders(3);
        let mut items: Vec<Value> = orders.iter().map(|order| order.body(0)).collect();
        let mut last = items.last().unwrap().clone();
        last["amount"] = "900000000.00".into();
        last["to_wallet"] = format!("{NEVER}000000000000").into();
        items.push(last);
        let body = json!({"transactions": items, "atomic": true}).to_string();
        let answer = self.ask("POST", BATCH, &body).await?;
        if answer.status == 504 {
            return Err(Gone);
        }
        assert!(matches!(answer.status, 402 | 503), "{}", answer.body);
        for order in orders {
            self.tell(Told::Nothing { tag: order.tag });
        }
        if answer.status == 503 {
            Err(Gone)
        } else {
            Ok(())
        }
    }

    async fn malformed(&mut self) -> Result<(), Gone> {
        let body = malformed(&mut self.rng);
        let answer = self.ask("POST", TRANSACTIONS, &body).await?;
        assert!(
            matches!(answer.status, 400 | 503),
            "{body}: {}",
            answer.body
        );
        Ok(())
    }

    /// Captures or voids a hold; now and then asks for what cannot be done with one.
    async fn change_hold(&mut self) -> Result<(), Gone> {
        let Some(id) = self.holds.pop() else {
            return self.single().await;
        };
        if self.rng.below(6) == 0 {
            return self.change(id, Change::Reversal).await;
        }
        let change = *self.rng.pick(&[Change::Capture, Change::Void]);
        self.change(id, change).await
    }

    async fn reverse(&mut self) -> Result<(), Gone> {
        let Some(id) = self.settled.pop() else {
            return self.single().await;
        };
        self.change(id, Change::Reversal).await
    }

    async fn change(&mut self, id: String, change: Change) -> Result<(), Gone> {
        // Before it is asked, so that whatever comes of it was asked for.
        self.shared.heard.lock().asked.insert((id.clone(), change));
        let path = format!("{}/status", transaction(&id));
        let body = json!({"status": change.status()}).to_string();
        let answer = self.ask("PATCH", &path, &body).await?;
        let told = match answer.status {
            200 => Told::Changed {
                change,
                sequence: answer.json()["sequence"].as_u64().unwrap(),
                id,
            },
            // A hold may have come to its end meanwhile; a receiver may be too poor to give back.
            402 | 409 | 503 => Told::Unchanged { id, change },
            504 => return Err(Gone),
            _ => panic!("{}: {}", answer.status, answer.body),
        };
        self.tell(told);
        if answer.status == 503 {
            Err(Gone)
        } else {
            Ok(())
        }
    }

    async fn score(&mut self) -> Result<(), Gone> {
        let Some(id) = self.settled.last().cloned() else {
            return self.single().await;
        };
        let path = format!("{}/fraud-score", transaction(&id));
        let score = self.rng.below(1_000_000);
        let body = format!(r#"{{"score":0.{score:06}}}"#);
        let answer = self.ask("PATCH", &path, &body).await?;
        match answer.status {
            200 => {
                let sequence = answer.json()["sequence"].as_u64().unwrap();
                self.tell(Told::Scored { id, sequence });
                Ok(())
            }
            503 | 504 => Err(Gone),
            _ => panic!("{}: {}", answer.status, answer.body),
        }
    }
}
