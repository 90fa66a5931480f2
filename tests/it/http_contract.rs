//! The contract's good side: what each resource answers.

use crate::support::http::{
    ALICE, BATCH, BOB, JSON, NOBODY, TRANSACTIONS, WALLETS, balance, create, number_at, of_wallet,
    sequence, text_at, transaction, transfer, transfer_between, transfer_with,
};
use crate::support::server::TestServer;
use serde_json::{Value, json};

const STRINGS: (&str, &str) = ("accept", "application/json; amounts=string");

#[tokio::test]
async fn a_transfer_is_answered_and_told_everywhere() {
    let server = TestServer::start().await;
    let body = transfer("100.10").replace('}', r#", "metadata": { "order" : 7 } }"#);
    let answer = server.post_json(TRANSACTIONS, &body).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert!(!answer.body.contains(": "), "compact: {}", answer.body);
    let created = answer.json();
    let id = text_at(&created, "/transaction_id");
    assert_eq!(answer.header("location"), transaction(&id));
    assert_eq!(text_at(&created, "/status"), "completed");
    assert_eq!(text_at(&created, "/estimated_settlement"), "immediate");
    assert_eq!(created.get("fraud_score"), Some(&json!(0)));
    let last = number_at(&created, "/sequence");
    assert_eq!(last, sequence(&server).await);

    let read = server.get(&transaction(&id)).await;
    assert!(read.body.contains(r#""amount":100.1,"#), "{}", read.body);
    assert!(
        read.body.contains(r#""metadata":{"order":7},"#),
        "{}",
        read.body
    );
    let read = read.json();
    assert_eq!(text_at(&read, "/from_wallet"), ALICE);
    assert_eq!(text_at(&read, "/to_wallet"), BOB);
    assert_eq!(read.get("created_at"), created.get("timestamp"));
    assert_eq!(read.get("settled_at"), created.get("timestamp"));
    assert_eq!(text_at(&read, "/audit_trail/0/action"), "created");
    assert_eq!(text_at(&read, "/audit_trail/1/previous_state"), "pending");
    assert_eq!(text_at(&read, "/audit_trail/1/new_state"), "completed");

    let events = format!("/api/v1/events?after_sequence={}", last - 4);
    let events = server.get(&events).await.json();
    let kinds: Vec<&Value> = events["events"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|e| &e["type"])
        .collect();
    assert_eq!(
        kinds,
        [
            "transaction.created",
            "transaction.completed",
            "balance.updated",
            "balance.updated"
        ]
    );
    assert_eq!(number_at(&events, "/next_after_sequence"), last);
    assert_eq!(
        events.pointer("/events/0/id"),
        read.pointer("/audit_trail/0/id")
    );
    assert_eq!(balance(&server, ALICE).await, "999899.90");
    assert_eq!(balance(&server, BOB).await, "1000100.10");
}

#[tokio::test]
async fn amounts_are_read_exactly_and_written_as_asked() {
    let server = TestServer::start().await;
    for (amount, number, string) in [
        ("100.10", "100.1", "100.10"),
        ("1e2", "100", "100.00"),
        ("\"0.01\"", "0.01", "0.01"),
        ("0.30000000000000004", "0.3", "0.30"),
        ("\"1e1\"", "10", "10.00"),
    ] {
        let id = create(&server, &transfer(amount)).await;
        let plain = server.get(&transaction(&id)).await.body;
        assert!(
            plain.contains(&format!("\"amount\":{number},")),
            "{amount}: {plain}"
        );
        let exact = server
            .request("GET", &transaction(&id), &[STRINGS], "")
            .await
            .body;
        assert!(
            exact.contains(&format!("\"amount\":\"{string}\",")),
            "{amount}: {exact}"
        );
    }
}

#[tokio::test]
async fn a_refused_transfer_is_kept_as_failed() {
    let server = TestServer::start().await;
    let answer = server.post_json(TRANSACTIONS, &transfer("999999999")).await;
    assert_eq!(answer.status, 402, "{}", answer.body);
    let refused = answer.json();
    assert_eq!(text_at(&refused, "/error"), "INSUFFICIENT_FUNDS");
    assert_eq!(text_at(&refused, "/service"), "transaction-service");
    assert_eq!(number_at(&refused, "/sequence"), sequence(&server).await);
    let read = server
        .get(&transaction(&text_at(&refused, "/transaction_id")))
        .await
        .json();
    assert_eq!(text_at(&read, "/status"), "failed");
    assert_eq!(read.get("settled_at"), Some(&Value::Null));
    assert_eq!(
        text_at(&read, "/audit_trail/1/reason"),
        "INSUFFICIENT_FUNDS"
    );
    assert_eq!(balance(&server, ALICE).await, "1000000.00");
}

#[tokio::test]
async fn errors_are_problems_for_who_asks_for_them() {
    let server = TestServer::start().await;
    let accept = [("accept", "application/problem+json"), JSON];
    let answer = server
        .request("GET", &transaction(NOBODY), &accept, "")
        .await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let problem = answer.json();
    assert_eq!(
        text_at(&problem, "/type"),
        "urn:echopay:error:transaction_not_found"
    );
    assert_eq!(text_at(&problem, "/code"), "TRANSACTION_NOT_FOUND");
    assert_eq!(number_at(&problem, "/status"), 404);
}

#[tokio::test]
async fn a_hold_is_captured_or_voided() {
    let server = TestServer::start().await;
    let hold = transfer_with("\"hold\":true,\"expires_in_seconds\":600");
    let captured = create(&server, &hold).await;
    let voided = create(&server, &hold).await;
    let pending = server.get("/api/v1/transactions/pending").await.json();
    assert_eq!(number_at(&pending, "/count"), 2);
    let reserved = server.get(&of_wallet(ALICE, "balance")).await.json();
    assert_eq!(number_at(&reserved, "/held"), 2);
    assert_eq!(balance(&server, ALICE).await, "1000000.00");
    let read = server.get(&transaction(&captured)).await.json();
    assert!(
        read.get("expires_at").is_some_and(Value::is_string),
        "{read}"
    );

    for (id, status) in [(&captured, "completed"), (&voided, "failed")] {
        let body = format!(r#"{{"status":"{status}","user_id":"ann","details":{{"why":"x"}}}}"#);
        let answer = server
            .patch_json(&transaction(&format!("{id}/status")), &body)
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let message = r#"{"message":"Transaction status updated successfully","sequence":"#;
        assert!(answer.body.starts_with(message), "{}", answer.body);
        let read = server.get(&transaction(id)).await.json();
        assert_eq!(text_at(&read, "/status"), status);
        assert_eq!(text_at(&read, "/audit_trail/1/user_id"), "ann");
        assert_eq!(
            read.pointer("/audit_trail/1/details"),
            Some(&json!({"why": "x"}))
        );
    }
    assert_eq!(balance(&server, ALICE).await, "999999.00");
    let pending = server.get("/api/v1/transactions/pending").await.json();
    assert_eq!(pending, json!({"transactions": [], "count": 0}));
}

#[tokio::test]
async fn a_reversal_moves_the_money_back() {
    let server = TestServer::start().await;
    let id = create(&server, &transfer("250")).await;
    assert_eq!(balance(&server, BOB).await, "1000250.00");
    let path = transaction(&format!("{id}/status"));
    let answer = server.patch_json(&path, r#"{"status":"reversed"}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(balance(&server, ALICE).await, "1000000.00");
    assert_eq!(balance(&server, BOB).await, "1000000.00");
    let stats = server.get(&of_wallet(ALICE, "stats")).await.json();
    assert_eq!(number_at(&stats, "/reversed_count"), 1);
}

#[tokio::test]
async fn of_many_reversals_at_once_one_moves_the_money() {
    let server = TestServer::start().await;
    let id = create(&server, &transfer("250")).await;
    let path = transaction(&format!("{id}/status"));
    let reverse = || server.patch_json(&path, r#"{"status":"reversed"}"#);
    let (a, b, c, d) = tokio::join!(reverse(), reverse(), reverse(), reverse());
    let mut statuses = [a, b, c, d].map(|answer| answer.status);
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409]);
    assert_eq!(balance(&server, ALICE).await, "1000000.00");
}

#[tokio::test]
async fn many_scores_at_once_are_all_kept() {
    let server = TestServer::start().await;
    let id = create(&server, &transfer("1")).await;
    let path = transaction(&format!("{id}/fraud-score"));
    let score = |text: &'static str| server.patch_json(&path, text);
    let (a, b, c) = tokio::join!(
        score(r#"{"score":0.1}"#),
        score(r#"{"score":0.2}"#),
        score(r#"{"score":0.3}"#)
    );
    assert_eq!([a, b, c].map(|answer| answer.status), [200; 3]);
    let read = server.get(&transaction(&id)).await.json();
    assert_eq!(read["audit_trail"].as_array().map(Vec::len), Some(5));
}

#[tokio::test]
async fn a_fraud_score_is_kept_to_six_digits() {
    let server = TestServer::start().await;
    let id = create(&server, &transfer("1")).await;
    let path = transaction(&format!("{id}/fraud-score"));
    let answer = server.patch_json(&path, r#"{"score":0.1234567}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(
        answer
            .body
            .starts_with(r#"{"message":"Fraud score updated successfully","#)
    );
    let read = server.get(&transaction(&id)).await.body;
    assert!(read.contains(r#""fraud_score":0.123457,"#), "{read}");
    let stats = server.get(&of_wallet(BOB, "stats")).await.body;
    assert!(stats.contains("\"avg_fraud_score\":0.06172"), "{stats}");
}

#[tokio::test]
async fn history_is_paged_by_offset_and_by_cursor() {
    let server = TestServer::start().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(create(&server, &transfer("1")).await);
    }
    ids.reverse();
    let shown = |page: &Value| -> Vec<String> {
        let transactions = page["transactions"].as_array().into_iter().flatten();
        transactions
            .map(|transaction| text_at(transaction, "/id"))
            .collect()
    };
    let by_offset = of_wallet(ALICE, "transactions?limit=2&offset=1");
    let page = server.get(&by_offset).await.json();
    assert_eq!(
        page["pagination"],
        json!({"limit": 2, "offset": 1, "count": 2})
    );
    assert_eq!(shown(&page), ids[1..3]);

    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let path = of_wallet(ALICE, &format!("transactions?limit=2{cursor}"));
        let page = server.get(&path).await.json();
        seen.extend(shown(&page));
        let Some(next) = page.get("next_cursor").and_then(Value::as_str) else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    // The last is the opening balance, which came first.
    assert_eq!(seen.len(), 6);
    assert_eq!(seen[..5], ids);
    let default = server
        .get(&of_wallet(ALICE, "transactions?limit=101"))
        .await
        .json();
    assert_eq!(number_at(&default, "/pagination/limit"), 50);
}

#[tokio::test]
async fn events_are_filtered_but_advance_over_all() {
    let server = TestServer::start().await;
    let id = create(&server, &transfer("1")).await;
    create(&server, &transfer("2")).await;
    let end = sequence(&server).await;
    let of_transaction = format!("/api/v1/events?transaction_id={id}");
    let found = server.get(&of_transaction).await.json();
    assert_eq!(found["events"].as_array().map(Vec::len), Some(4));
    assert_eq!(number_at(&found, "/next_after_sequence"), end);
    let first = server
        .get(&format!("{of_transaction}&limit=1"))
        .await
        .json();
    let next = number_at(&first, "/next_after_sequence");
    assert_eq!(first.pointer("/events/0/sequence"), Some(&json!(next)));
    let kind = server
        .get(&format!(
            "{of_transaction}&type=balance.updated&wallet_id={BOB}"
        ))
        .await;
    let kind = kind.json();
    assert_eq!(kind["events"].as_array().map(Vec::len), Some(1));
    assert_eq!(text_at(&kind, "/events/0/wallet_id"), BOB);
    let beyond = server
        .get(&format!("/api/v1/events?after_sequence={}", end + 9))
        .await
        .json();
    assert_eq!(
        beyond,
        json!({"events": [], "next_after_sequence": end + 9})
    );
}

#[tokio::test]
async fn a_batch_answers_each_item_in_its_place() {
    let server = TestServer::start().await;
    let items = [
        transfer("1"),
        "7".to_owned(),
        transfer("999999999"),
        transfer("2"),
    ]
    .join(",");
    let body = format!("{{\"transactions\":[{items}]}}");
    let answer = server.post_json(BATCH, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let results = answer.json();
    assert_eq!(text_at(&results, "/results/0/status"), "completed");
    assert_eq!(text_at(&results, "/results/1/error"), "INVALID_REQUEST");
    assert_eq!(text_at(&results, "/results/2/error"), "INSUFFICIENT_FUNDS");
    assert_eq!(text_at(&results, "/results/3/status"), "completed");
    assert_eq!(
        number_at(&results, "/results/3/sequence"),
        sequence(&server).await
    );
    assert_eq!(balance(&server, ALICE).await, "999997.00");

    let minimal = [JSON, ("prefer", "return=minimal")];
    let answer = server.request("POST", BATCH, &minimal, &body).await;
    assert_eq!(answer.header("preference-applied"), "return=minimal");
    let summary = answer.json();
    assert_eq!(summary["count"], json!(4));
    assert_eq!(summary["failed"], json!([1, 2]));
    let (first, last) = (
        number_at(&summary, "/first_sequence"),
        number_at(&summary, "/last_sequence"),
    );
    assert_eq!((last, last - first), (sequence(&server).await, 9));
}

#[tokio::test]
async fn an_atomic_batch_is_done_whole() {
    let server = TestServer::start().await;
    let back = transfer_between(BOB, ALICE, "3");
    let body = format!(
        r#"{{"atomic":true,"transactions":[{},{back}]}}"#,
        transfer("1")
    );
    let answer = server.post_json(BATCH, &body).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.json()["results"].as_array().map(Vec::len), Some(2));
    assert_eq!(balance(&server, ALICE).await, "1000002.00");
}

#[tokio::test]
async fn wallets_are_opened_filled_and_emptied() {
    let server = TestServer::start_serve(&[]).await;
    let body = format!(r#"{{"wallet_id":"{ALICE}","overdraft_limit":50}}"#);
    let answer = server.post_json(WALLETS, &body).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.header("location"), of_wallet(ALICE, "balance"));
    let opened = answer.json();
    assert_eq!(opened["overdraft_limit"], json!(50));
    assert_eq!(opened["currency"], json!("USD-CBDC"));
    let fresh = server.post_json(WALLETS, "{}").await.json();
    assert_ne!(text_at(&fresh, "/wallet_id"), ALICE);

    let money = |amount: &str| {
        format!(r#"{{"wallet_id":"{ALICE}","amount":{amount},"currency":"USD-CBDC"}}"#)
    };
    for (path, amount, left) in [
        ("/api/v1/issuances", "100", "100.00"),
        ("/api/v1/redemptions", "30.5", "69.50"),
    ] {
        let answer = server.post_json(path, &money(amount)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        let id = text_at(&answer.json(), "/transaction_id");
        assert_eq!(answer.header("location"), transaction(&id));
        assert_eq!(balance(&server, ALICE).await, left);
    }
    let unknown = server
        .post_json(TRANSACTIONS, &transfer_between(ALICE, NOBODY, "1"))
        .await;
    assert_eq!(unknown.status, 404, "{}", unknown.body);
    assert_eq!(text_at(&unknown.json(), "/error"), "WALLET_NOT_FOUND");
}

#[tokio::test]
async fn an_unknown_wallet_has_nothing() {
    let server = TestServer::start().await;
    let answer = server
        .get(&of_wallet(NOBODY, "balance?currency=EUR-CBDC"))
        .await
        .json();
    assert_eq!(answer["balance"], json!(0));
    assert_eq!(answer["currency"], json!("EUR-CBDC"));
    let history = server.get(&of_wallet(NOBODY, "transactions")).await.json();
    assert_eq!(history["transactions"], json!([]));
    let stats = server.get(&of_wallet(NOBODY, "stats")).await.json();
    assert_eq!(number_at(&stats, "/total_count"), 0);
}

#[tokio::test]
async fn the_service_tells_how_it_is() {
    let server = TestServer::start().await;
    create(&server, &transfer("1")).await;
    let health = server.get("/health").await;
    let start = r#"{"status":"healthy","service":"transaction-service","#;
    assert!(
        health.status == 200 && health.body.starts_with(start),
        "{}",
        health.body
    );
    assert_eq!(server.get("/livez").await.status, 200);
    let ready = server.get("/readyz").await;
    assert_eq!(
        (ready.status, text_at(&ready.json(), "/status")),
        (200, "ready".to_owned())
    );
    let metrics = server.get("/metrics").await;
    assert!(metrics.body.ends_with("# EOF\n"), "{}", metrics.body);
    assert!(
        metrics.body.contains("/api/v1/transactions"),
        "{}",
        metrics.body
    );
    // Neither a preflight nor a wrong method is a write.
    for method in ["OPTIONS", "GET"] {
        server.request(method, TRANSACTIONS, &[], "").await;
    }
    let counts = server.get("/api/v1/metrics/service").await.json();
    assert_eq!(
        (
            number_at(&counts, "/success_count"),
            number_at(&counts, "/total_requests")
        ),
        (1, 1)
    );
    assert_eq!(
        counts["recent_processing_times"].as_array().map(Vec::len),
        Some(1)
    );
    let info = server.get("/api/v1/ws/info").await.json();
    assert_eq!(
        text_at(&info, "/websocket_url"),
        format!("ws://{}/ws/transactions", server.addr())
    );
    let plain = server.get("/ws/transactions").await;
    assert_eq!(plain.status, 426, "{}", plain.body);
    assert_eq!(text_at(&plain.json(), "/error"), "UPGRADE_REQUIRED");
    assert_eq!(text_at(&plain.json(), "/service"), "transaction-service");
    let marks = server.get("/api/v1/sequence").await.json();
    assert_eq!(marks["journal"], info["journal"]);
    assert_eq!(number_at(&marks, "/base"), 1);
    assert_eq!(text_at(&marks, "/head_hash").len(), 64);
}

#[tokio::test]
async fn head_and_options_are_answered_without_a_body() {
    let server = TestServer::start().await;
    let head = server.request("HEAD", "/api/v1/sequence", &[], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_ne!(head.header("content-length"), "0");
    let options = server.request("OPTIONS", TRANSACTIONS, &[], "").await;
    assert_eq!(
        (options.status, options.header("allow")),
        (204, "POST, OPTIONS")
    );
}

#[tokio::test]
async fn nothing_is_in_quarantine_where_no_broker_refused_anything() {
    let server = TestServer::start().await;
    let answer = server.get("/api/v1/events/quarantine").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, r#"{"quarantined":[],"count":0}"#);
}
