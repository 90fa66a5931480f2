//! What the yardsticks `bare_http` and `parse_http` share: the server around their answers.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const SECONDS_DEFAULT: u64 = 600;

/// An answer of `echopay`'s length to a single payment.
pub(super) const PAYMENT: &str = "{\"transaction_id\":\"019aae05-7ae5-7000-8000-000000000007\",\"status\":\"completed\",\
    \"timestamp\":\"2026-11-23T00:00:00.000Z\",\"fraud_score\":0,\"estimated_settlement\":\"immediate\",\
    \"sequence\":4000000}";

/// The settings of connections, which are `echopay`'s.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) head_timeout: Duration,
    pub(super) head_bytes_max: usize,
}

/// Serves on a free port of loopback, on the runtime that `echopay` uses. The first line on stdout says where; ends after
/// `--seconds`, which is the only option.
pub(super) fn run<H, F>(limits: Limits, handler: H) -> Result<(), Box<dyn Error>>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<Full<Bytes>>, hyper::Error>> + Send + 'static,
{
    let mut arguments = std::env::args().skip(1);
    let seconds = match (arguments.next().as_deref(), arguments.next()) {
        (None, None) => SECONDS_DEFAULT,
        (Some("--seconds"), Some(seconds)) => seconds.parse()?,
        _ => return Err("the only option is --seconds (600)".into()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let served = tokio::time::timeout(Duration::from_secs(seconds), serve(limits, handler));
        served.await.unwrap_or(Ok(()))
    })
}

async fn serve<H, F>(limits: Limits, handler: H) -> Result<(), Box<dyn Error>>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<Full<Bytes>>, hyper::Error>> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.head_timeout)
                    .max_header_size(limits.head_bytes_max)
                    .serve_connection(TokioIo::new(stream), service_fn(handler.clone()));
                connections.spawn(async move {
                    if let Err(error) = served.await {
                        println!("a connection ended: {error}");
                    }
                });
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// A response of JSON.
pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
