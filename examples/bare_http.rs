//! The least that an HTTP server can do for a `POST`: read the body and answer 201 with a constant.
//!
//! `cargo run --release --example bare_http -- [--seconds 600]`
//!
//! hyper on the same runtime, with the same settings of connections and an answer of the same length as `echopay`'s. So
//! `load_http` against the one and against the other tells what the ledger costs, and leaves out what HTTP, the kernel
//! and the load generator cost. The first line on stdout says where it listens; loopback only; ends after `--seconds`.

#![expect(clippy::print_stdout, reason = "printing is what an example does")]

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const BODY: &str = "{\"transaction_id\":\"019aae05-7ae5-7000-8000-000000000007\",\"status\":\"completed\",\
    \"timestamp\":\"2026-11-23T00:00:00.000Z\",\"fraud_score\":0,\"estimated_settlement\":\"immediate\",\
    \"sequence\":4000000}";
const LOCATION_PATH: &str = "/api/v1/transactions/019aae05-7ae5-7000-8000-000000000007";
const SECONDS_DEFAULT: u64 = 600;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds = match (arguments.next().as_deref(), arguments.next()) {
        (None, None) => SECONDS_DEFAULT,
        (Some("--seconds"), Some(seconds)) => seconds.parse()?,
        _ => return Err("usage: bare_http [--seconds 600]".into()),
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
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                connections.spawn(connection(stream));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .max_header_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
    if let Err(error) = served {
        println!("a connection ended: {error}");
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    let mut response = Response::new(Full::new(Bytes::from_static(BODY.as_bytes())));
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(LOCATION, HeaderValue::from_static(LOCATION_PATH));
    Ok(response)
}
