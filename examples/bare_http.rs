//! The least that an HTTP server can do for a `POST`: read the body and answer 201 with a constant.
//!
//! `cargo run --release --example bare_http -- [--seconds 600]`
//!
//! hyper on the same runtime, with the same settings of connections and an answer of the same length as `echopay`'s. So
//! `echopay bench --no-audit --url` against the one and against the other tells what the ledger costs, and leaves out
//! what HTTP, the kernel and the load generator cost.

#![expect(clippy::print_stdout, reason = "printing is what an example does")]

#[path = "yardstick/serve.rs"]
mod serve;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, LOCATION};
use hyper::{Request, Response, StatusCode};
use std::error::Error;
use std::time::Duration;

const LOCATION_PATH: &str = "/api/v1/transactions/019aae05-7ae5-7000-8000-000000000007";

fn main() -> Result<(), Box<dyn Error>> {
    let limits = serve::Limits {
        head_timeout: Duration::from_secs(10),
        head_bytes_max: 16 << 10,
    };
    serve::run(limits, answer)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    let mut response = serve::json(StatusCode::CREATED, serve::PAYMENT);
    let location = HeaderValue::from_static(LOCATION_PATH);
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}
