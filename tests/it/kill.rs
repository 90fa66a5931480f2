//! `kill -9` under load: what was acknowledged is there, what is there adds up.
//!
//! SIGKILL shows what the process owes; it cannot show a missing fsync, since the page cache survives it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::support::audit::Audit;
use crate::support::server::{Client, DEADLINE, TestServer, wait_until};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use uuid::Uuid;

const KILLS: usize = 10;
const CLIENTS: usize = 16;
const WALLETS: u128 = 20;

/// What the clients were told, and how many requests are on their way.
#[derive(Debug, Default)]
struct Load {
    /// Amount in minor units by id of each transfer that was answered 201.
    acknowledged: Mutex<HashMap<String, i64>>,
    in_flight: AtomicUsize,
    stop: AtomicBool,
}

impl Load {
    async fn client(&self, client: Client, number: usize, round: usize) {
        let mut step = (number * 7 + round * 13) as u128;
        while !self.stop.load(Ordering::Acquire) {
            step += 1;
            let from = Uuid::from_u128(step % WALLETS + 1);
            let to = Uuid::from_u128((step + 1 + step % 7) % WALLETS + 1);
            if from == to {
                continue;
            }
            let minor = i64::try_from(step % 500 + 1).unwrap();
            let body = format!(
                r#"{{"from_wallet":"{from}","to_wallet":"{to}","amount":"{}.{:02}","currency":"USD-CBDC","metadata":{{"step":{step}}}}}"#,
                minor / 100,
                minor % 100,
            );
            self.in_flight.fetch_add(1, Ordering::AcqRel);
            let headers = [("content-type", "application/json")];
            let answer = client
                .try_request("POST", "/api/v1/transactions", &headers, &body)
                .await;
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            // An error means that the outcome is unknown: the server was killed meanwhile.
            let Ok(answer) = answer else { return };
            assert_eq!(answer.status, 201, "{}", answer.body);
            let id = answer.json()["transaction_id"].as_str().unwrap().to_owned();
            assert_eq!(
                self.acknowledged.lock().insert(id, minor),
                None,
                "an id was given twice"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test's clients are no tasks of the service"
)]
async fn what_was_acknowledged_survives_ten_kills_and_the_books_stay_exact() {
    let mut server = TestServer::start().await;
    let load = Arc::new(Load::default());
    for round in 0..KILLS {
        let before = load.acknowledged.lock().len();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (load, client) = (Arc::clone(&load), server.client());
                tokio::spawn(async move { load.client(client, number, round).await })
            })
            .collect();
        // Each round runs a little longer than the one before, so that kills hit different moments.
        let enough = before + 100 + round * 57;
        wait_until(DEADLINE, "requests are in flight", async || {
            load.acknowledged.lock().len() >= enough && load.in_flight.load(Ordering::Acquire) > 0
        })
        .await;
        server.kill9();
        for client in clients {
            client.await.expect("a client saw nothing wrong");
        }
        server.restart().await;
        check(&server, &load).await;
    }
}

async fn check(server: &TestServer, load: &Load) {
    let client = server.client();
    let audit = Audit::read(&client).await;
    audit.compare_balances(&client).await;
    let acknowledged = load.acknowledged.lock().clone();
    for (id, minor) in &acknowledged {
        let found = audit.transactions.get(id);
        assert_eq!(
            found,
            Some(&("completed".to_owned(), *minor)),
            "transaction {id}"
        );
    }
    // The look-up by id goes another way than the events; a sample of it.
    for id in acknowledged.keys().take(50) {
        let answer = client.get(&format!("/api/v1/transactions/{id}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.json()["status"], "completed");
    }
}
