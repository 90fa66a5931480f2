//! Subscribers that come back after every restart, each where it has come to, and what the journal says they are owed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that cannot go on fails the test"
)]

use super::audit::Event;
use super::ws_client::{Heard, Update, WsClient};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::SocketAddr;
use tokio::task::JoinHandle;

/// A status update that whoever listens to it is owed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Due {
    pub(crate) sequence: u64,
    pub(crate) transaction: String,
    pub(crate) status: String,
    pub(crate) wallets: [String; 2],
}

impl Due {
    /// What follows from an event; nothing, when no update tells of it.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        match event.text_of("type") {
            "balance.updated" | "wallet.opened" => None,
            _ => Some(Self {
                sequence: event.sequence,
                transaction: event.text_of("transaction_id").to_owned(),
                status: event.text_of("status").to_owned(),
                wallets: ["from_wallet", "to_wallet"].map(|field| event.text_of(field).to_owned()),
            }),
        }
    }
}

/// What somebody listens to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Filter {
    All,
    Wallets(Vec<String>),
    Statuses(Vec<&'static str>),
}

impl Filter {
    fn takes(&self, due: &Due) -> bool {
        match self {
            Self::All => true,
            Self::Wallets(wallets) => due.wallets.iter().any(|wallet| wallets.contains(wallet)),
            Self::Statuses(statuses) => statuses.contains(&due.status.as_str()),
        }
    }

    fn fields(&self) -> Value {
        match self {
            Self::All => json!({}),
            Self::Wallets(wallets) => json!({ "wallet_ids": wallets }),
            Self::Statuses(statuses) => json!({ "statuses": statuses }),
        }
    }
}

/// One that comes back again and again.
#[derive(Debug)]
struct Subscriber {
    filter: Filter,
    /// Where to resume.
    after: u64,
    /// What it is owed and was not told yet, in order.
    due: VecDeque<Due>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Subscribers {
    journal: Option<Value>,
    all: Vec<Subscriber>,
    told: u64,
}

/// While they listen.
#[derive(Debug)]
pub(crate) struct Listening(Vec<JoinHandle<Heard>>);

impl Listening {
    /// Waits until every connection has ended.
    pub(crate) async fn end(self) -> Vec<Heard> {
        let mut all = Vec::new();
        for listener in self.0 {
            all.push(listener.await.expect("a subscriber heard nothing wrong"));
        }
        all
    }
}

impl Subscribers {
    /// One for each filter; none has heard anything yet.
    pub(crate) fn new(filters: impl IntoIterator<Item = Filter>) -> Self {
        let all = filters.into_iter().map(|filter| Subscriber {
            filter,
            after: 0,
            due: VecDeque::new(),
        });
        Self {
            journal: None,
            all: all.collect(),
            told: 0,
        }
    }

    /// Updates that were told so far.
    pub(crate) fn told(&self) -> u64 {
        self.told
    }

    async fn resume(&mut self, address: SocketAddr) -> Vec<WsClient> {
        let mut clients = Vec::new();
        for subscriber in &self.all {
            let mut fields = subscriber.filter.fields();
            fields["after_sequence"] = subscriber.after.into();
            if let Some(journal) = &self.journal {
                fields["journal"] = journal.clone();
            }
            let mut client = WsClient::connect(address).await;
            let answer = client.subscribe(fields).await;
            assert_eq!(answer["type"], "subscribed", "{answer}");
            assert_eq!(answer["sequence"], subscriber.after, "{answer}");
            self.journal = Some(answer["journal"].clone());
            clients.push(client);
        }
        clients
    }

    /// All come back, and listen until their connections end.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's subscribers are no tasks of the service"
    )]
    pub(crate) async fn listen(&mut self, address: SocketAddr) -> Listening {
        let clients = self.resume(address).await;
        let listeners = clients
            .into_iter()
            .map(|mut client| tokio::spawn(async move { client.hear_all().await }));
        Listening(listeners.collect())
    }

    /// Holds what each of them heard against what the journal says it is owed.
    ///
    /// # Panics
    /// At a gap, at a repeat, and at an update of what is not in the journal.
    pub(crate) fn compare(&mut self, due: &[Due], heard: Vec<Heard>) {
        for subscriber in &mut self.all {
            let own = due.iter().filter(|due| subscriber.filter.takes(due));
            subscriber.due.extend(own.cloned());
        }
        for (subscriber, heard) in self.all.iter_mut().zip(heard) {
            for update in &heard.updates {
                subscriber.expect(update);
            }
            self.told += heard.updates.len() as u64;
            let mut positions = Vec::from_iter(heard.position);
            if let Some(closed) = heard.closed {
                assert_eq!(closed.code, 1012, "{closed:?}");
                positions.push(closed.resume_after());
            }
            for position in positions {
                subscriber.move_to(position);
            }
        }
    }

    /// All come back once more and hear everything that they are still owed, and nothing else. `looked_at` is how far the
    /// journal was compared: a hold may come to its end behind that, and its update belongs to the next look.
    pub(crate) async fn catch_up(&mut self, address: SocketAddr, looked_at: u64) {
        let clients = self.resume(address).await;
        for (subscriber, mut client) in self.all.iter_mut().zip(clients) {
            self.told += subscriber.due.len() as u64;
            while !subscriber.due.is_empty() {
                let message = client.hear().await;
                if message["type"] == "position" {
                    subscriber.move_to(message["sequence"].as_u64().unwrap());
                } else {
                    subscriber.expect(&Update::from(&message));
                }
            }
            client.say(&json!({"type": "ping"})).await;
            loop {
                let message = client.hear().await;
                match message["type"].as_str() {
                    Some("pong") => break,
                    Some("position") => {}
                    Some("status_update") if message["sequence"].as_u64() > Some(looked_at) => {}
                    _ => panic!("told something that is not owed: {message}"),
                }
            }
        }
    }
}

impl Subscriber {
    fn expect(&mut self, update: &Update) {
        let due = self.due.pop_front();
        let due = due.unwrap_or_else(|| panic!("told, and not in the journal: {update:?}"));
        assert_eq!(
            (update.sequence, &update.transaction, &update.status),
            (due.sequence, &due.transaction, &due.status),
            "a gap or a repeat for {:?} behind {}",
            self.filter,
            self.after
        );
        self.after = update.sequence;
    }

    /// Nothing that it is owed may lie before the place that it was told.
    fn move_to(&mut self, position: u64) {
        if let Some(due) = self.due.front() {
            assert!(
                due.sequence > position,
                "sent on to {position}, and never told of {due:?}"
            );
        }
        self.after = self.after.max(position);
    }
}
