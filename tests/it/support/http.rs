//! Bodies, and what every refusal is checked for.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use super::server::{Response, TestServer};
use serde_json::Value;

/// Wallets that `dev` opens on sight.
pub(crate) const ALICE: &str = "11111111-1111-4111-8111-111111111111";
pub(crate) const BOB: &str = "22222222-2222-4222-8222-222222222222";
/// A wallet that no test opens.
pub(crate) const NOBODY: &str = "99999999-9999-4999-8999-999999999999";
pub(crate) const NIL: &str = "00000000-0000-0000-0000-000000000000";

pub(crate) const TRANSACTIONS: &str = "/api/v1/transactions";
pub(crate) const BATCH: &str = "/api/v1/transactions/batch";
pub(crate) const WALLETS: &str = "/api/v1/wallets";
pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");

/// A transfer of `amount` (JSON text) from Alice to Bob.
pub(crate) fn transfer(amount: &str) -> String {
    transfer_between(ALICE, BOB, amount)
}

/// A transfer of `amount` (JSON text).
pub(crate) fn transfer_between(from: &str, to: &str, amount: &str) -> String {
    format!(
        r#"{{"from_wallet":"{from}","to_wallet":"{to}","amount":{amount},"currency":"USD-CBDC"}}"#
    )
}

/// A transfer with another field, given as JSON text: `"hold":true`.
pub(crate) fn transfer_with(field: &str) -> String {
    transfer("1").replace('}', &format!(",{field}}}"))
}

/// The path of a transaction.
pub(crate) fn transaction(id: &str) -> String {
    format!("{TRANSACTIONS}/{id}")
}

/// The path of something of a wallet: `balance`, `transactions?limit=1`.
pub(crate) fn of_wallet(id: &str, what: &str) -> String {
    format!("{WALLETS}/{id}/{what}")
}

/// The text at `pointer` of an answer; fails the test where there is none.
#[track_caller]
pub(crate) fn text_at(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer).and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => panic!("no text at {pointer} of {value}"),
    }
}

/// The whole number at `pointer` of an answer; fails the test where there is none.
#[track_caller]
pub(crate) fn number_at(value: &Value, pointer: &str) -> u64 {
    match value.pointer(pointer).and_then(Value::as_u64) {
        Some(number) => number,
        None => panic!("no number at {pointer} of {value}"),
    }
}

/// Creates what `body` says and gives the transaction's id.
pub(crate) async fn create(server: &TestServer, body: &str) -> String {
    let answer = server.post_json(TRANSACTIONS, body).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    text_at(&answer.json(), "/transaction_id")
}

/// The durable sequence.
pub(crate) async fn sequence(server: &TestServer) -> u64 {
    number_at(&server.get("/api/v1/sequence").await.json(), "/durable")
}

/// A balance in USD-CBDC, as text with all decimals.
pub(crate) async fn balance(server: &TestServer, wallet: &str) -> String {
    let strings = [("accept", "application/json; amounts=string")];
    let answer = server
        .request("GET", &of_wallet(wallet, "balance"), &strings, "")
        .await;
    text_at(&answer.json(), "/balance")
}

/// A request that has to be refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bad<'b> {
    pub(crate) method: &'b str,
    pub(crate) path: &'b str,
    pub(crate) body: &'b str,
}

impl<'b> Bad<'b> {
    /// A `POST` of a transfer.
    pub(crate) fn transfer(body: &'b str) -> Self {
        Self {
            method: "POST",
            path: TRANSACTIONS,
            body,
        }
    }

    pub(crate) fn post(path: &'b str, body: &'b str) -> Self {
        Self {
            method: "POST",
            path,
            body,
        }
    }

    pub(crate) fn patch(path: &'b str, body: &'b str) -> Self {
        Self {
            method: "PATCH",
            path,
            body,
        }
    }

    pub(crate) fn get(path: &'b str) -> Self {
        Self {
            method: "GET",
            path,
            body: "",
        }
    }
}

/// Sends it and checks status and text; `error` is the `error` of the answer, `text` stands in its `message` or
/// `details`. Checks that nothing was recorded.
pub(crate) async fn assert_refused(
    server: &TestServer,
    bad: Bad<'_>,
    status: u16,
    error: &str,
    text: &str,
) -> Response {
    let before = sequence(server).await;
    let headers: &[(&str, &str)] = if bad.method == "GET" { &[] } else { &[JSON] };
    let answer = server
        .request(bad.method, bad.path, headers, bad.body)
        .await;
    let shown: String = bad.body.chars().take(300).collect();
    let context = format!("{} {} {shown}\n{}", bad.method, bad.path, answer.body);
    assert_eq!(answer.status, status, "{context}");
    let json = answer.json();
    assert_eq!(
        json.get("error").and_then(Value::as_str),
        Some(error),
        "{context}"
    );
    let told = json.get("message").or_else(|| json.get("details"));
    let told = told.and_then(Value::as_str).unwrap_or_default();
    assert!(told.contains(text), "{context}\nexpected in it: {text}");
    assert_eq!(sequence(server).await, before, "{context}");
    answer
}

/// The `error` of a body that has not the expected shape.
pub(crate) const SHAPE: &str = "Invalid request format";

/// What is sent as it is, over a fresh connection; gives all that comes back until the server closes it.
pub(crate) async fn raw(server: &TestServer, request: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    // Why the result does not matter: the server may have answered and closed before it read all.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    // A reset after the answer still leaves what came before it.
    let _ = tokio::time::timeout(super::server::DEADLINE, reading)
        .await
        .unwrap();
    String::from_utf8(answer).unwrap()
}
