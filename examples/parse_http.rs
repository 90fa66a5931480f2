//! The most that a server of payments can do: read a request's body, parse it as `echopay` does, and answer at once.
//!
//! `cargo run --release --example parse_http -- [--seconds 600]`
//!
//! hyper on the same runtime, with the same settings of connections, and the same code that reads bodies; nothing is
//! decided, recorded or told. So `echopay bench --no-audit --url` against the one and against the other tells what the
//! ledger costs on top of HTTP and JSON. A single payment is answered with 201 and an answer of `echopay`'s length, a
//! batch with 200 and a short one.

#![expect(clippy::print_stdout, reason = "printing is what an example does")]

#[path = "yardstick/serve.rs"]
mod serve;

use bytes::Bytes;
use echopay::http::{Config, bench};
use echopay::types::Currencies;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;

#[derive(Default)]
struct Rules {
    currencies: Currencies,
    config: Config,
}

fn main() -> Result<(), Box<dyn Error>> {
    let rules = Arc::new(Rules::default());
    let limits = serve::Limits {
        head_timeout: rules.config.head_timeout,
        head_bytes_max: rules.config.head_bytes_max,
    };
    serve::run(limits, move |request| answer(request, Arc::clone(&rules)))
}

async fn answer(
    request: Request<Incoming>,
    rules: Arc<Rules>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let is_batch = request.uri().path().ends_with("/batch");
    let body = request.into_body().collect().await?.to_bytes();
    let Rules { currencies, config } = &*rules;
    let (status, answer) = if is_batch {
        match black_box(bench::parse_batch(&body, currencies, config)) {
            Some(items) => (
                StatusCode::OK,
                format!("{{\"count\":{}}}", items.len()).into(),
            ),
            None => (StatusCode::BAD_REQUEST, Bytes::new()),
        }
    } else {
        match black_box(bench::parse_transfer(&body, currencies, config)) {
            Some(_) => (
                StatusCode::CREATED,
                Bytes::from_static(serve::PAYMENT.as_bytes()),
            ),
            None => (StatusCode::BAD_REQUEST, Bytes::new()),
        }
    };
    Ok(serve::json(status, answer))
}
