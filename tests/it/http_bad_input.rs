//! Bad input changes nothing and says what is wrong, each in its own words.

use crate::support::http::{
    ALICE, BATCH, BOB, Bad, JSON, NIL, NOBODY, SHAPE, TRANSACTIONS, WALLETS, assert_refused,
    create, of_wallet, sequence, transaction, transfer, transfer_between, transfer_with,
};
use crate::support::server::TestServer;

const INVALID: &str = "INVALID_TRANSACTION";

async fn all_refused(rows: &[(&str, u16, &str, &str)]) {
    let server = TestServer::start().await;
    for (body, status, error, text) in rows {
        assert_refused(&server, Bad::transfer(body), *status, error, text).await;
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused() {
    all_refused(&[
        (" ", 400, SHAPE, "EOF"),
        ("{", 400, SHAPE, "EOF"),
        ("nonsense", 400, SHAPE, "expected"),
        ("[]", 400, SHAPE, "expected a JSON object"),
        ("null", 400, SHAPE, "expected a JSON object"),
        ("7", 400, SHAPE, "expected a JSON object"),
        ("{}{}", 400, SHAPE, "trailing characters"),
        ("{'from_wallet':1}", 400, SHAPE, "key must be a string"),
        ("{}", 400, SHAPE, "from_wallet is required"),
    ])
    .await;
}

#[tokio::test]
async fn a_value_of_the_wrong_type_is_refused() {
    all_refused(&[
        (
            &transfer_between("seven", BOB, "1"),
            400,
            SHAPE,
            "from_wallet must be a UUID",
        ),
        (
            &transfer("1").replace(&format!("\"{BOB}\""), "7"),
            400,
            SHAPE,
            "to_wallet must be a UUID",
        ),
        (
            &transfer("true"),
            400,
            SHAPE,
            "amount must be a number or a string",
        ),
        (
            &transfer("[1]"),
            400,
            SHAPE,
            "amount must be a number or a string",
        ),
        (&transfer("null"), 400, SHAPE, "amount is required"),
        (
            &transfer("1").replace("\"USD-CBDC\"", "1"),
            400,
            SHAPE,
            "currency must be a string",
        ),
        (
            &transfer_with("\"metadata\":[]"),
            400,
            SHAPE,
            "metadata must be an object",
        ),
        (
            &transfer_with("\"hold\":\"yes\""),
            400,
            SHAPE,
            "hold must be a boolean",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_repeated_key_is_refused_wherever_it_stands() {
    all_refused(&[
        (
            &transfer_with("\"amount\":1"),
            400,
            SHAPE,
            "repeated key \"amount\"",
        ),
        (
            &transfer_with("\"am\\u006funt\":1"),
            400,
            SHAPE,
            "repeated key \"amount\"",
        ),
        (
            &transfer_with("\"note\":1,\"note\":1"),
            400,
            SHAPE,
            "repeated key \"note\"",
        ),
        (
            &transfer_with("\"note\":{\"a\":1,\"a\":1}"),
            400,
            SHAPE,
            "repeated key \"a\"",
        ),
        (
            &transfer_with("\"metadata\":{\"a\":1,\"a\":1}"),
            400,
            SHAPE,
            "repeated key \"a\"",
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_amount_that_is_no_decimal_number_is_refused() {
    all_refused(&[
        (&transfer("NaN"), 400, SHAPE, "expected value"),
        (&transfer("Infinity"), 400, SHAPE, "expected value"),
        (&transfer("01"), 400, SHAPE, "number"),
        (&transfer("1."), 400, SHAPE, "number"),
        (&transfer("+1"), 400, SHAPE, "expected value"),
        (
            &transfer("\"NaN\""),
            400,
            SHAPE,
            "amount must be a decimal number",
        ),
        (
            &transfer("\"\""),
            400,
            SHAPE,
            "amount must be a decimal number",
        ),
        (
            &transfer("\" 1\""),
            400,
            SHAPE,
            "amount must be a decimal number",
        ),
        (
            &transfer("\"1,5\""),
            400,
            SHAPE,
            "amount must be a decimal number",
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_amount_out_of_range_is_refused() {
    let digits = "9".repeat(10_000);
    all_refused(&[
        (
            &transfer("0"),
            400,
            INVALID,
            "amount must be greater than zero",
        ),
        (
            &transfer("-0"),
            400,
            INVALID,
            "amount must be greater than zero",
        ),
        (
            &transfer("0.00"),
            400,
            INVALID,
            "amount must be greater than zero",
        ),
        (
            &transfer("-1"),
            400,
            INVALID,
            "amount must be greater than zero",
        ),
        (
            &transfer("\"-0.01\""),
            400,
            INVALID,
            "amount must be greater than zero",
        ),
        (
            &transfer("1e400"),
            400,
            INVALID,
            "amount exceeds the maximum of 1000000000",
        ),
        (
            &transfer("1000000000.01"),
            400,
            INVALID,
            "amount exceeds the maximum of 1000000000",
        ),
        (
            &transfer(&digits),
            400,
            INVALID,
            "amount exceeds the maximum of 1000000000",
        ),
    ])
    .await;
}

#[tokio::test]
async fn too_many_decimals_are_refused() {
    all_refused(&[
        (
            &transfer("0.001"),
            400,
            INVALID,
            "amount has too many decimals",
        ),
        (
            &transfer("1e-3"),
            400,
            INVALID,
            "amount has too many decimals",
        ),
        (
            &transfer("1.005"),
            400,
            INVALID,
            "amount has too many decimals",
        ),
        (
            &transfer("\"0.30000000000000004\""),
            400,
            INVALID,
            "amount has too many decimals",
        ),
    ])
    .await;
}

#[tokio::test]
async fn wallets_that_cannot_pay_each_other_are_refused() {
    let issuer = echopay::types::WalletId::issuer(echopay::types::Currency::from_tag(1));
    all_refused(&[
        (
            &transfer_between(ALICE, ALICE, "1"),
            400,
            INVALID,
            "from_wallet and to_wallet must differ",
        ),
        (
            &transfer_between(NIL, BOB, "1"),
            400,
            INVALID,
            "from_wallet must not be the nil UUID",
        ),
        (
            &transfer_between(ALICE, NIL, "1"),
            400,
            INVALID,
            "to_wallet must not be the nil UUID",
        ),
        (
            &transfer_between(&issuer.to_string(), BOB, "1"),
            400,
            INVALID,
            "from_wallet is reserved",
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_unknown_currency_is_refused() {
    let with = |code: &str| transfer("1").replace("USD-CBDC", code);
    all_refused(&[
        (&with("XXX"), 400, INVALID, "unknown currency \"XXX\""),
        (
            &with("usd-cbdc"),
            400,
            INVALID,
            "unknown currency \"usd-cbdc\"",
        ),
        (&with(""), 400, INVALID, "unknown currency \"\""),
    ])
    .await;
}

#[tokio::test]
async fn metadata_beyond_its_limits_is_refused() {
    let large = format!("\"metadata\":{{\"a\":\"{}\"}}", "x".repeat(2048));
    let deep = "\"metadata\":{\"a\":[[[[]]]]}";
    let surrogate = "\"metadata\":{\"a\":\"\\ud800\"}";
    all_refused(&[
        (
            &transfer_with(&large),
            400,
            "METADATA_TOO_LARGE",
            "2048 bytes",
        ),
        (&transfer_with(deep), 400, "METADATA_TOO_DEEP", "4 levels"),
        (
            &transfer_with(surrogate),
            400,
            SHAPE,
            "half a surrogate pair",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_hold_of_impossible_length_is_refused() {
    let hold = |rest: &str| transfer_with(&format!("\"hold\":true{rest}"));
    all_refused(&[
        (&hold(""), 400, INVALID, "hold needs expires_in_seconds"),
        (
            &hold(",\"expires_in_seconds\":0"),
            400,
            INVALID,
            "between 1 and 2592000",
        ),
        (
            &hold(",\"expires_in_seconds\":2592001"),
            400,
            INVALID,
            "between 1 and 2592000",
        ),
        (
            &hold(",\"expires_in_seconds\":-1"),
            400,
            SHAPE,
            "a whole number of seconds",
        ),
        (
            &hold(",\"expires_in_seconds\":\"9\""),
            400,
            SHAPE,
            "a whole number of seconds",
        ),
        (
            &transfer_with("\"expires_in_seconds\":9"),
            400,
            INVALID,
            "needs hold",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_body_over_its_limit_is_refused() {
    let server = TestServer::start().await;
    let padding = " ".repeat(64 << 10);
    let large = transfer("1") + &padding;
    let refused = Bad::transfer(&large);
    let answer = assert_refused(
        &server,
        refused,
        413,
        "BODY_TOO_LARGE",
        "larger than 65536 bytes",
    )
    .await;
    assert_eq!(answer.header("connection"), "close");
    let huge = "x".repeat((16 << 20) + 1);
    let refused = Bad::post(BATCH, &huge);
    assert_refused(
        &server,
        refused,
        413,
        "BODY_TOO_LARGE",
        "larger than 16777216 bytes",
    )
    .await;
}

#[tokio::test]
async fn a_body_of_another_type_is_refused() {
    let server = TestServer::start().await;
    for headers in [
        &[][..],
        &[("content-type", "text/plain")],
        &[("content-type", "application/xml")],
    ] {
        let answer = server
            .request("POST", TRANSACTIONS, headers, &transfer("1"))
            .await;
        assert_eq!(answer.status, 415, "{}", answer.body);
        assert!(
            answer.body.contains("\"error\":\"UNSUPPORTED_MEDIA_TYPE\""),
            "{}",
            answer.body
        );
    }
    assert_eq!(sequence(&server).await, 0);
    let with_charset = [("content-type", "application/json; charset=utf-8")];
    let answer = server
        .request("POST", TRANSACTIONS, &with_charset, &transfer("1"))
        .await;
    assert_eq!(answer.status, 201, "{}", answer.body);
}

#[tokio::test]
async fn ids_that_are_none_or_name_nothing_are_refused() {
    let server = TestServer::start().await;
    let bad_transaction = "Invalid transaction ID format";
    let bad_wallet = "Invalid wallet ID format";
    let not_found = "TRANSACTION_NOT_FOUND";
    let status = transaction(&format!("{NOBODY}/status"));
    let score = transaction(&format!("{NOBODY}/fraud-score"));
    for (bad, code, error) in [
        (Bad::get(&transaction("seven")), 400, bad_transaction),
        (Bad::get(&transaction("")), 400, bad_transaction),
        (Bad::get(&transaction(NOBODY)), 404, not_found),
        (Bad::get(&transaction(NIL)), 404, not_found),
        (
            Bad::patch(&status, r#"{"status":"failed"}"#),
            404,
            not_found,
        ),
        (Bad::patch(&score, r#"{"score":0.5}"#), 404, not_found),
        (
            Bad::patch(&transaction("seven/status"), "{}"),
            400,
            bad_transaction,
        ),
        (Bad::get(&of_wallet("seven", "balance")), 400, bad_wallet),
        (Bad::get(&of_wallet(NIL, "balance")), 400, bad_wallet),
        (
            Bad::get(&of_wallet("seven", "transactions")),
            400,
            bad_wallet,
        ),
        (Bad::get(&of_wallet("seven", "stats")), 400, bad_wallet),
        (Bad::get("/api/v1/events?wallet_id=seven"), 400, bad_wallet),
        (
            Bad::get("/api/v1/events?transaction_id=seven"),
            400,
            bad_transaction,
        ),
    ] {
        assert_refused(&server, bad, code, error, "").await;
    }
}

#[tokio::test]
async fn parameters_that_cannot_be_meant_are_refused() {
    let server = TestServer::start().await;
    let error = "INVALID_PARAMETER";
    for (path, text) in [
        (
            "/api/v1/events?after_sequence=first".to_owned(),
            "after_sequence must be a whole number",
        ),
        (
            "/api/v1/events?after_sequence=-1".to_owned(),
            "after_sequence must be a whole number",
        ),
        (
            "/api/v1/events?type=transaction.imagined".to_owned(),
            "type must be an event type",
        ),
        (
            of_wallet(ALICE, "balance?currency=XXX"),
            "currency must be a known currency",
        ),
        (
            of_wallet(ALICE, "stats?since=yesterday"),
            "since must be an RFC 3339 time",
        ),
        (
            of_wallet(ALICE, "transactions?offset=ten"),
            "offset must be a whole number",
        ),
        (
            of_wallet(ALICE, "transactions?cursor=v1-7"),
            "cursor must be the next_cursor",
        ),
    ] {
        assert_refused(&server, Bad::get(&path), 400, error, text).await;
    }
    let far = of_wallet(ALICE, "transactions?offset=10001");
    assert_refused(&server, Bad::get(&far), 400, "OFFSET_TOO_LARGE", "cursor").await;
}

#[tokio::test]
async fn a_status_leads_only_where_the_contract_says() {
    let server = TestServer::start().await;
    let error = "INVALID_STATUS_TRANSITION";
    let to = |status: &str| format!(r#"{{"status":"{status}"}}"#);
    let hold = transfer_with("\"hold\":true,\"expires_in_seconds\":600");
    let completed = create(&server, &transfer("1")).await;
    let pending = create(&server, &hold).await;
    let voided = create(&server, &hold).await;
    let reversed = create(&server, &transfer("1")).await;
    for (id, status) in [(&voided, "failed"), (&reversed, "reversed")] {
        let answer = server
            .patch_json(&transaction(&format!("{id}/status")), &to(status))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    for (id, illegal) in [
        (&completed, &["pending", "completed", "failed"][..]),
        (&pending, &["pending", "reversed"]),
        (&voided, &["pending", "completed", "failed", "reversed"]),
        (&reversed, &["pending", "completed", "failed", "reversed"]),
    ] {
        let path = transaction(&format!("{id}/status"));
        for status in illegal {
            assert_refused(&server, Bad::patch(&path, &to(status)), 409, error, "").await;
        }
    }
}

#[tokio::test]
async fn a_change_that_cannot_be_read_is_refused() {
    let server = TestServer::start().await;
    let id = create(&server, &transfer("1")).await;
    let status = transaction(&format!("{id}/status"));
    let score = transaction(&format!("{id}/fraud-score"));
    let long_user = format!(r#"{{"status":"reversed","user_id":"{}"}}"#, "x".repeat(129));
    let large = format!(
        r#"{{"score":0.5,"details":{{"a":"{}"}}}}"#,
        "x".repeat(2048)
    );
    for (path, body, error, text) in [
        (&status, "{}", SHAPE, "status is required"),
        (
            &status,
            r#"{"status":"done"}"#,
            SHAPE,
            "status must be pending, completed",
        ),
        (&status, r#"{"status":7}"#, SHAPE, "status must be a string"),
        (
            &status,
            r#"{"status":"reversed","status":"reversed"}"#,
            SHAPE,
            "repeated key",
        ),
        (
            &status,
            r#"{"status":"reversed","user_id":7}"#,
            SHAPE,
            "user_id must be a string",
        ),
        (
            &status,
            r#"{"status":"reversed","details":"x"}"#,
            SHAPE,
            "details must be an object",
        ),
        (&status, &long_user, "USER_ID_TOO_LONG", "128 bytes"),
        (&score, "{}", SHAPE, "score is required"),
        (
            &score,
            r#"{"score":"high"}"#,
            SHAPE,
            "score must be a number between 0 and 1",
        ),
        (
            &score,
            r#"{"score":1.1}"#,
            SHAPE,
            "score must be a number between 0 and 1",
        ),
        (
            &score,
            r#"{"score":-0.1}"#,
            SHAPE,
            "score must be a number between 0 and 1",
        ),
        (
            &score,
            r#"{"score":1e400}"#,
            SHAPE,
            "score must be a number between 0 and 1",
        ),
        (&score, &large, "DETAILS_TOO_LARGE", "2048 bytes"),
        (
            &score,
            r#"{"score":0.5,"details":{"a":[[[[]]]]}}"#,
            "DETAILS_TOO_DEEP",
            "4 levels",
        ),
    ] {
        assert_refused(&server, Bad::patch(path, body), 400, error, text).await;
    }
}

#[tokio::test]
async fn a_batch_that_is_none_is_refused() {
    let server = TestServer::start().await;
    let many = format!("{{\"transactions\":[{}{{}}]}}", "{},".repeat(8192));
    for (body, error, text) in [
        ("{}", SHAPE, "missing field `transactions`"),
        ("[]", SHAPE, "invalid type"),
        (r#"{"transactions":{}}"#, SHAPE, "invalid type"),
        (r#"{"transactions":[{]}"#, SHAPE, "key must be a string"),
        (
            r#"{"transactions":[],"atomic":"yes"}"#,
            SHAPE,
            "invalid type",
        ),
        (
            r#"{"transactions":[],"transactions":[]}"#,
            SHAPE,
            "repeated key",
        ),
        (r#"{"transactions":[]}"#, "BATCH_EMPTY", "at least one"),
        (
            &many,
            "BATCH_TOO_LONG",
            "at most 8192 transactions, this one has 8193",
        ),
    ] {
        assert_refused(&server, Bad::post(BATCH, body), 400, error, text).await;
    }
}

#[tokio::test]
async fn an_atomic_batch_with_a_bad_item_records_nothing() {
    let server = TestServer::start().await;
    let batch = |bad: &str| {
        format!(
            r#"{{"atomic":true,"transactions":[{},{bad}]}}"#,
            transfer("1")
        )
    };
    for (bad, status, error) in [
        ("7".to_owned(), 400, SHAPE),
        (transfer("0"), 400, INVALID),
        (transfer("999999999"), 402, "INSUFFICIENT_FUNDS"),
    ] {
        let body = batch(&bad);
        let answer = server.post_json(BATCH, &body).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        let json = answer.json();
        assert_eq!(json.get("error"), Some(&error.into()), "{}", answer.body);
        assert_eq!(json.get("index"), Some(&1.into()), "{}", answer.body);
        let found = server.get(&of_wallet(ALICE, "stats")).await.json();
        let pointer = "/reversed_count";
        assert_eq!(found.pointer(pointer), Some(&0.into()), "{found}");
        let from_alice = format!("/api/v1/events?wallet_id={BOB}&type=transaction.completed");
        let events = server.get(&from_alice).await.json();
        let paid = events
            .pointer("/events")
            .and_then(serde_json::Value::as_array);
        let by_alice = |event: &&serde_json::Value| event.get("from_wallet") == Some(&ALICE.into());
        assert_eq!(
            paid.map(|events| events.iter().filter(by_alice).count()),
            Some(0),
            "{events}"
        );
    }
}

#[tokio::test]
async fn a_wallet_that_cannot_be_is_refused() {
    let server = TestServer::start().await;
    let nil = format!(r#"{{"wallet_id":"{NIL}"}}"#);
    for (body, error, text) in [
        ("[]", SHAPE, "expected a JSON object"),
        (
            r#"{"wallet_id":"seven"}"#,
            SHAPE,
            "wallet_id must be a UUID",
        ),
        (&nil, "INVALID_WALLET", "wallet_id must not be the nil UUID"),
        (
            r#"{"currency":"XXX"}"#,
            "INVALID_WALLET",
            "unknown currency",
        ),
        (
            r#"{"overdraft_limit":-1}"#,
            "INVALID_WALLET",
            "overdraft_limit must not be negative",
        ),
        (
            r#"{"overdraft_limit":0.001}"#,
            "INVALID_WALLET",
            "too many decimals",
        ),
        (
            r#"{"overdraft_limit":1e10}"#,
            "INVALID_WALLET",
            "exceeds the maximum",
        ),
        (
            r#"{"overdraft_limit":true}"#,
            SHAPE,
            "overdraft_limit must be a number or a string",
        ),
    ] {
        assert_refused(&server, Bad::post(WALLETS, body), 400, error, text).await;
    }
    let body = format!(r#"{{"wallet_id":"{ALICE}"}}"#);
    assert_eq!(server.post_json(WALLETS, &body).await.status, 201);
    let again = Bad::post(WALLETS, &body);
    assert_refused(
        &server,
        again,
        409,
        "WALLET_ALREADY_EXISTS",
        "has an account",
    )
    .await;
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() {
    let server = TestServer::start().await;
    for (method, path, allow) in [
        ("GET", TRANSACTIONS, "POST, OPTIONS"),
        ("DELETE", TRANSACTIONS, "POST, OPTIONS"),
        ("PUT", BATCH, "POST, OPTIONS"),
        ("POST", "/api/v1/transactions/pending", "GET, HEAD, OPTIONS"),
        ("POST", &transaction(NOBODY), "GET, HEAD, OPTIONS"),
        (
            "POST",
            &transaction(&format!("{NOBODY}/status")),
            "PATCH, OPTIONS",
        ),
        (
            "GET",
            &transaction(&format!("{NOBODY}/fraud-score")),
            "PATCH, OPTIONS",
        ),
        ("GET", WALLETS, "POST, OPTIONS"),
        ("POST", &of_wallet(ALICE, "balance"), "GET, HEAD, OPTIONS"),
        ("DELETE", "/api/v1/events", "GET, HEAD, OPTIONS"),
        ("PATCH", "/health", "GET, HEAD, OPTIONS"),
        ("BREW", "/metrics", "GET, HEAD, OPTIONS"),
    ] {
        let answer = server.request(method, path, &[JSON], "{}").await;
        assert_eq!(answer.status, 405, "{method} {path}: {}", answer.body);
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
        assert!(
            answer.body.contains("\"error\":\"METHOD_NOT_ALLOWED\""),
            "{}",
            answer.body
        );
    }
    assert_eq!(sequence(&server).await, 0);
}

#[tokio::test]
async fn unknown_paths_are_not_found() {
    let server = TestServer::start().await;
    for path in [
        "/",
        "/health/",
        "/api/v1/",
        "/api/v2/transactions",
        "/api/v1/wallets/7",
        "/%2e%2e",
    ] {
        assert_refused(
            &server,
            Bad::get(path),
            404,
            "NOT_FOUND",
            "no such resource",
        )
        .await;
    }
}
