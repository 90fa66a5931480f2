//! Who may do what, against the real binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::support::http::{
    ALICE, BOB, JSON, TRANSACTIONS, WALLETS, of_wallet, text_at, transaction, transfer,
};
use crate::support::server::{DEADLINE, TestServer, wait_until};
use rustix::process::Signal;
use std::path::{Path, PathBuf};

/// SHA-256 of `operator-token`, `reader-token`, `alice-token`.
const OPERATOR: &str = "0850123315d21ab90f4f7236408a52ef6dbd6a02a6550e5c10dc73f4d993680e";
const READER: &str = "ba5005a40cf5212e4ac0190104cc127edab013294bb71279a975b27a80982d45";
const ALICES: &str = "9c220f200955d76c0a38d308225e0ef10c5f971acaf2f8d1d8f732affa5bd1dc";

fn tokens() -> String {
    format!(
        r#"
        [[token]]
        name = "operator"
        sha256 = "{OPERATOR}"
        scopes = ["read", "write", "issue", "admin"]

        [[token]]
        name = "reader"
        sha256 = "{READER}"
        scopes = ["read"]

        [[token]]
        name = "alice"
        sha256 = "{ALICES}"
        scopes = ["read", "write"]
        wallets = ["{ALICE}"]
        "#
    )
}

struct Guarded {
    server: TestServer,
    tokens_file: PathBuf,
    _folder: tempfile::TempDir,
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

async fn start() -> Guarded {
    let folder = tempfile::tempdir().unwrap();
    let tokens_file = folder.path().join("tokens.toml");
    write(&tokens_file, &tokens());
    let flag = tokens_file.to_str().unwrap();
    let server = TestServer::start_serve(&["--tokens-file", flag]).await;
    Guarded {
        server,
        tokens_file,
        _folder: folder,
    }
}

impl Guarded {
    /// Status and body of a request with `token`.
    async fn ask(&self, token: &str, method: &str, path: &str, body: &str) -> (u16, String) {
        let authorization = format!("Bearer {token}");
        let headers = [JSON, ("authorization", authorization.as_str())];
        let answer = self.server.request(method, path, &headers, body).await;
        (answer.status, answer.body)
    }

    /// Opens both wallets and gives Alice money.
    async fn fill(&self) {
        for wallet in [ALICE, BOB] {
            let body = format!(r#"{{"wallet_id":"{wallet}"}}"#);
            let (status, answer) = self.ask("operator-token", "POST", WALLETS, &body).await;
            assert_eq!(status, 201, "{answer}");
            let body = format!(r#"{{"wallet_id":"{wallet}","amount":100,"currency":"USD-CBDC"}}"#);
            let path = "/api/v1/issuances";
            let (status, answer) = self.ask("operator-token", "POST", path, &body).await;
            assert_eq!(status, 201, "{answer}");
        }
    }
}

#[tokio::test]
async fn without_a_token_only_the_probes_answer() {
    let guarded = start().await;
    for path in ["/health", "/livez", "/readyz"] {
        assert_eq!(guarded.server.get(path).await.status, 200, "{path}");
    }
    for path in [
        "/metrics",
        "/api/v1/sequence",
        "/api/v1/events",
        &of_wallet(ALICE, "balance"),
    ] {
        let answer = guarded.server.get(path).await;
        assert_eq!(answer.status, 401, "{path}: {}", answer.body);
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        assert_eq!(text_at(&answer.json(), "/error"), "UNAUTHORIZED");
    }
    assert_eq!(
        guarded
            .server
            .post_json(TRANSACTIONS, &transfer("1"))
            .await
            .status,
        401
    );
    assert_eq!(
        guarded.ask("wrong", "GET", "/api/v1/sequence", "").await.0,
        401
    );
}

#[tokio::test]
async fn scopes_bound_what_a_token_does() {
    let guarded = start().await;
    guarded.fill().await;
    let money = format!(r#"{{"wallet_id":"{ALICE}","amount":1,"currency":"USD-CBDC"}}"#);
    for (token, method, path, body, status) in [
        ("reader-token", "GET", "/api/v1/sequence", "", 200),
        (
            "reader-token",
            "POST",
            TRANSACTIONS,
            transfer("1").as_str(),
            403,
        ),
        ("reader-token", "POST", WALLETS, "{}", 403),
        ("alice-token", "POST", "/api/v1/issuances", &money, 403),
        ("operator-token", "POST", "/api/v1/redemptions", &money, 201),
        ("operator-token", "POST", TRANSACTIONS, &transfer("1"), 201),
    ] {
        let (found, answer) = guarded.ask(token, method, path, body).await;
        assert_eq!(found, status, "{token} {method} {path}: {answer}");
    }
}

#[tokio::test]
async fn a_bound_token_sees_and_moves_its_own_wallets_only() {
    let guarded = start().await;
    guarded.fill().await;
    let (status, paid) = guarded
        .ask("alice-token", "POST", TRANSACTIONS, &transfer("1"))
        .await;
    assert_eq!(status, 201, "{paid}");
    let back = crate::support::http::transfer_between(BOB, ALICE, "1");
    let (status, answer) = guarded
        .ask("operator-token", "POST", TRANSACTIONS, &back)
        .await;
    assert_eq!(status, 201, "{answer}");
    let received = text_at(&serde_json::from_str(&answer).unwrap(), "/transaction_id");

    let score = r#"{"score":0.5}"#;
    for (method, path, body, status) in [
        ("POST", TRANSACTIONS.to_owned(), back.as_str(), 403),
        ("POST", WALLETS.to_owned(), "{}", 403),
        ("GET", of_wallet(ALICE, "balance"), "", 200),
        ("GET", of_wallet(BOB, "balance"), "", 403),
        ("GET", of_wallet(BOB, "transactions"), "", 403),
        ("GET", of_wallet(BOB, "stats"), "", 403),
        ("GET", format!("/api/v1/events?wallet_id={BOB}"), "", 403),
        // Either side may read; only the payer's may score.
        ("GET", transaction(&received), "", 200),
        (
            "PATCH",
            transaction(&format!("{received}/fraud-score")),
            score,
            403,
        ),
    ] {
        let (found, answer) = guarded.ask("alice-token", method, &path, body).await;
        assert_eq!(found, status, "{method} {path}: {answer}");
    }

    let (_, events) = guarded
        .ask("alice-token", "GET", "/api/v1/events?limit=1000", "")
        .await;
    let events: serde_json::Value = serde_json::from_str(&events).unwrap();
    for event in events["events"].as_array().unwrap() {
        let wallet = ["wallet_id", "from_wallet", "to_wallet"].map(|name| event.get(name));
        assert!(wallet.contains(&Some(&ALICE.into())), "{event}");
        assert_ne!(event.get("wallet_id"), Some(&BOB.into()), "{event}");
    }
    let (_, batch) = guarded
        .ask(
            "alice-token",
            "POST",
            "/api/v1/transactions/batch",
            &format!("{{\"transactions\":[{back}]}}"),
        )
        .await;
    assert!(batch.contains("\"error\":\"FORBIDDEN\""), "{batch}");
}

#[tokio::test]
async fn only_who_received_a_payment_may_give_it_back() {
    let guarded = start().await;
    guarded.fill().await;
    let reverse = r#"{"status":"reversed"}"#;
    for (from, to, status) in [(ALICE, BOB, 403), (BOB, ALICE, 200)] {
        let payment = crate::support::http::transfer_between(from, to, "1");
        let (_, paid) = guarded
            .ask("operator-token", "POST", TRANSACTIONS, &payment)
            .await;
        let id = text_at(&serde_json::from_str(&paid).unwrap(), "/transaction_id");
        let path = transaction(&format!("{id}/status"));
        let (found, answer) = guarded.ask("alice-token", "PATCH", &path, reverse).await;
        assert_eq!(found, status, "{from} to {to}: {answer}");
    }
}

#[tokio::test]
async fn an_overdraft_needs_the_scope_issue() {
    let guarded = start().await;
    guarded.fill().await;
    let account =
        format!(r#"{{"wallet_id":"{ALICE}","currency":"EUR-CBDC","overdraft_limit":50}}"#);
    let (status, answer) = guarded.ask("alice-token", "POST", WALLETS, &account).await;
    assert_eq!(status, 403, "an overdraft by write alone: {answer}");
    let account = account.replace("50", "0");
    let (status, answer) = guarded.ask("alice-token", "POST", WALLETS, &account).await;
    assert_eq!(status, 201, "an account without one: {answer}");
    let account = account.replace("EUR", "GBP").replace(":0}", ":50}");
    let (status, answer) = guarded
        .ask("operator-token", "POST", WALLETS, &account)
        .await;
    assert_eq!(status, 201, "an overdraft by who may issue: {answer}");
}

#[tokio::test]
async fn sighup_reads_the_tokens_again() {
    let guarded = start().await;
    assert_eq!(
        guarded
            .ask("reader-token", "GET", "/api/v1/sequence", "")
            .await
            .0,
        200
    );
    write(
        &guarded.tokens_file,
        &tokens().replace(READER, &"0".repeat(64)),
    );
    guarded.server.signal(Signal::HUP);
    wait_until(DEADLINE, "the old token is refused", async || {
        guarded
            .ask("reader-token", "GET", "/api/v1/sequence", "")
            .await
            .0
            == 401
    })
    .await;
    write(&guarded.tokens_file, "nonsense");
    guarded.server.signal(Signal::HUP);
    wait_until(DEADLINE, "the broken file is noticed", async || {
        guarded.server.log().contains("tokens.toml")
    })
    .await;
    assert_eq!(
        guarded
            .ask("operator-token", "GET", "/api/v1/sequence", "")
            .await
            .0,
        200
    );
}

#[tokio::test]
async fn dev_keeps_strange_hosts_and_pages_out() {
    let server = TestServer::start_with(&["--cors-origin", "https://shop.example"]).await;
    for (headers, status, error) in [
        (&[("host", "evil.example")][..], 403, "HOST_NOT_ALLOWED"),
        (
            &[("host", "localhost.evil.example:8001")],
            403,
            "HOST_NOT_ALLOWED",
        ),
        (
            &[("host", "localhost"), ("origin", "https://evil.example")],
            403,
            "ORIGIN_NOT_ALLOWED",
        ),
        (
            &[("host", "localhost"), ("origin", "null")],
            403,
            "ORIGIN_NOT_ALLOWED",
        ),
    ] {
        for path in [
            "/health",
            "/api/v1/sequence",
            "/ws/transactions",
            "/nowhere",
        ] {
            let answer = server.request("GET", path, headers, "").await;
            assert_eq!(answer.status, status, "{headers:?} {path}: {}", answer.body);
            assert_eq!(text_at(&answer.json(), "/error"), error);
            assert_eq!(answer.header("access-control-allow-origin"), "");
        }
    }
    for origin in ["http://localhost:3000", "https://shop.example"] {
        let headers = [("host", "localhost:8001"), ("origin", origin)];
        let answer = server
            .request("GET", "/api/v1/sequence", &headers, "")
            .await;
        assert_eq!(answer.status, 200, "{origin}: {}", answer.body);
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        assert_eq!(answer.header("vary"), "Origin");
    }
}

#[tokio::test]
async fn a_preflight_of_an_allowed_page_is_answered() {
    let server = TestServer::start().await;
    let headers = [
        ("host", "localhost"),
        ("origin", "http://localhost:3000"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type"),
    ];
    let answer = server.request("OPTIONS", TRANSACTIONS, &headers, "").await;
    assert_eq!(answer.status, 204, "{}", answer.body);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "http://localhost:3000"
    );
    assert_eq!(
        answer.header("access-control-allow-methods"),
        "POST, OPTIONS"
    );
    assert!(
        answer
            .header("access-control-allow-headers")
            .contains("Content-Type")
    );
}
