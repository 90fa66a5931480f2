//! The most that a server of payments can do: read a request's body, parse it as `echopay` does, and answer at once.
//!
//! `cargo run --release --example parse_http -- [--seconds 600]`
//!
//! hyper on the same runtime, with the same settings of connections, and the same code that reads bodies; nothing is
//! decided, recorded or told. So `load_http` against the one and against the other tells what the ledger costs on top of
//! HTTP and JSON. A single payment is answered with 201 and an answer of `echopay`'s length, a batch with 200 and a
//! short one. The first line on stdout says where it listens; loopback only; ends after `--seconds`.

#![expect(clippy::print_stdout, reason = "printing is what an example does")]

use bytes::Bytes;
use echopay::http::{Config, bench};
use echopay::types::Currencies;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::error::Error;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const ANSWER: &str = "{\"transaction_id\":\"019aae05-7ae5-7000-8000-000000000007\",\"status\":\"completed\",\
    \"timestamp\":\"2026-11-23T00:00:00.000Z\",\"fraud_score\":0,\"estimated_settlement\":\"immediate\",\
    \"sequence\":4000000}";
const SECONDS_DEFAULT: u64 = 600;

#[derive(Default)]
struct Rules {
    currencies: Currencies,
    config: Config,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds = match (arguments.next().as_deref(), arguments.next()) {
        (None, None) => SECONDS_DEFAULT,
        (Some("--seconds"), Some(seconds)) => seconds.parse()?,
        _ => return Err("usage: parse_http [--seconds 600]".into()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let served = tokio::time::timeout(Duration::from_secs(seconds), serve());
        served.await.unwrap_or(Ok(()))
    })
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let rules = Arc::new(Rules::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                connections.spawn(connection(stream, Arc::clone(&rules)));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, rules: Arc<Rules>) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(rules.config.head_timeout)
        .max_header_size(rules.config.head_bytes_max)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| answer(request, &rules)),
        )
        .await;
    if let Err(error) = served {
        println!("a connection ended: {error}");
    }
}

async fn answer(
    request: Request<Incoming>,
    rules: &Rules,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let is_batch = request.uri().path().ends_with("/batch");
    let body = request.into_body().collect().await?.to_bytes();
    let Rules { currencies, config } = rules;
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
            Some(_) => (StatusCode::CREATED, Bytes::from_static(ANSWER.as_bytes())),
            None => (StatusCode::BAD_REQUEST, Bytes::new()),
        }
    };
    let mut response = Response::new(Full::new(answer));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}
