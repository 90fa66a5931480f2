//! A request with two faults is told the one that `docs/API.md` names first.

use crate::support::http::{
    ALICE, BOB, Bad, JSON, NIL, NOBODY, SHAPE, TRANSACTIONS, assert_refused, transfer,
    transfer_between,
};
use crate::support::server::TestServer;

#[tokio::test]
async fn of_two_faults_in_a_body_the_documented_one_is_told() {
    let server = TestServer::start().await;
    let invalid = "INVALID_TRANSACTION";
    // Two faults or more in each; told is the one that comes first.
    let rows = [
        ("{\"amount\":true", SHAPE, "EOF"),
        (
            &transfer_between("seven", ALICE, "-1"),
            SHAPE,
            "from_wallet must be a UUID",
        ),
        (
            &transfer_between(ALICE, ALICE, "true"),
            SHAPE,
            "amount must be a number or a string",
        ),
        (
            &transfer_between(NIL, NIL, "-1").replace("USD-CBDC", "USD"),
            invalid,
            "from_wallet",
        ),
        (
            &transfer_between(ALICE, ALICE, "-1").replace("USD-CBDC", "USD"),
            invalid,
            "must differ",
        ),
        (
            &transfer("-1").replace("USD-CBDC", "USD"),
            invalid,
            "currency",
        ),
        (
            &transfer("-1").replace('}', ",\"hold\":true,\"expires_in_seconds\":0}"),
            invalid,
            "amount",
        ),
        (
            &transfer("1").replace(
                '}',
                ",\"metadata\":{\"a\":[[[[[1]]]]]},\"hold\":true,\"expires_in_seconds\":0}",
            ),
            "METADATA_TOO_DEEP",
            "",
        ),
    ];
    for (body, error, text) in rows {
        assert_refused(&server, Bad::transfer(body), 400, error, text).await;
    }
}

/// Method, path, headers; status and error of the answer.
type Case<'c> = (&'c str, &'c str, &'c [(&'c str, &'c str)], u16, &'c str);

#[tokio::test]
async fn host_route_method_type_and_json_are_looked_at_in_this_order_and_the_ledger_last() {
    let server = TestServer::start().await;
    let strange = ("host", "bank.example");
    let text = ("content-type", "text/plain");
    let nothing = "/api/v1/nothing";
    let cases: [Case<'_>; 5] = [
        ("DELETE", nothing, &[strange, text], 403, "HOST_NOT_ALLOWED"),
        ("DELETE", nothing, &[text], 404, "NOT_FOUND"),
        ("DELETE", TRANSACTIONS, &[text], 405, "METHOD_NOT_ALLOWED"),
        ("POST", TRANSACTIONS, &[text], 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("POST", TRANSACTIONS, &[JSON], 400, SHAPE),
    ];
    for (method, path, headers, status, error) in cases {
        let answer = server.request(method, path, headers, "{").await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert_eq!(answer.json()["error"], error, "{}", answer.body);
    }
    let serve = TestServer::start_serve(&[]).await;
    let unknown_payer_of_nothing = transfer_between(NOBODY, BOB, "0");
    let bad = Bad::transfer(&unknown_payer_of_nothing);
    assert_refused(&serve, bad, 400, "INVALID_TRANSACTION", "amount").await;
}
