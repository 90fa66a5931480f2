//! From an HTTP request to a connection, or to the refusal (RFC 6455 §4.2).

use super::connection::Connection;
use super::endpoint::{Endpoint, Place, Service};
use crate::auth::{Caller, Scope};
use crate::tasks::OnExit;
use crate::types::TimestampMs;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::upgrade::{Parts, Upgraded};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use socket2::SockRef;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::debug;

/// What stands before the token in the subprotocol that a browser offers.
const BEARER: &str = "bearer.";
/// Length of a key: 16 bytes in base64.
const KEY_LENGTH: usize = 24;

type Answer = Response<Full<Bytes>>;

impl Endpoint {
    /// Answers the request of a client that wants a WebSocket: 101, after which the connection lives as a task of its own,
    /// or a refusal (400, 401, 403, 426, 503). `caller`: who asks, where HTTP knows already; otherwise the subprotocol
    /// `bearer.<token>` or the first message has to tell. The HTTP connection must be served with upgrades.
    pub fn upgrade<B>(&self, mut request: Request<B>, caller: Option<Caller>) -> Answer {
        let now = self.service.clock.now();
        let refusal = |status, message| refusal(status, message, now);
        let headers = request.headers();
        if !has_token(headers, &UPGRADE, "websocket") || !has_token(headers, &CONNECTION, "upgrade")
        {
            let mut answer = refusal(
                StatusCode::UPGRADE_REQUIRED,
                "this is a WebSocket: Upgrade: websocket",
            );
            answer
                .headers_mut()
                .insert(UPGRADE, HeaderValue::from_static("websocket"));
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("upgrade"));
            return answer;
        }
        if headers
            .get(SEC_WEBSOCKET_VERSION)
            .is_none_or(|version| version != "13")
        {
            let mut answer = refusal(
                StatusCode::UPGRADE_REQUIRED,
                "only Sec-WebSocket-Version 13 is spoken",
            );
            answer
                .headers_mut()
                .insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            return answer;
        }
        let key = headers
            .get(SEC_WEBSOCKET_KEY)
            .filter(|key| key.len() == KEY_LENGTH);
        let Some(accept) = key.map(|key| derive_accept_key(key.as_bytes())) else {
            return refusal(
                StatusCode::BAD_REQUEST,
                "Sec-WebSocket-Key is missing or malformed",
            );
        };
        let protocol = bearer_protocol(headers);
        let service = &self.service;
        let caller = match (caller, &protocol) {
            (Some(caller), _) => Some(caller),
            (None, None) => None,
            (None, Some((_, token))) => match (service.authenticate)(token) {
                Some(caller) => Some(caller),
                None => return refusal(StatusCode::UNAUTHORIZED, "unknown token"),
            },
        };
        if caller
            .as_ref()
            .is_some_and(|caller| !caller.has(Scope::Read))
        {
            return refusal(StatusCode::FORBIDDEN, "the token lacks the scope read");
        }
        let Some(place) = service.admit() else {
            let mut answer = refusal(StatusCode::SERVICE_UNAVAILABLE, "no connection is free");
            answer
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return answer;
        };
        let Ok(accept) = HeaderValue::try_from(accept) else {
            return refusal(
                StatusCode::BAD_REQUEST,
                "Sec-WebSocket-Key is missing or malformed",
            );
        };

        let upgrade = hyper::upgrade::on(&mut request);
        let service = Arc::clone(service);
        let supervisor = service.supervisor.clone();
        supervisor.spawn_task("ws-upgrade", OnExit::Continue, async move {
            match upgrade.await {
                Ok(upgraded) => spawn_connection(upgraded, service, caller, place),
                Err(error) => debug!(%error, "a WebSocket client left before the upgrade"),
            }
        });

        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(Ok(offered)) = protocol.map(|(offered, _)| HeaderValue::try_from(offered)) {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, offered);
        }
        answer
    }
}

/// Whether one of the comma-separated values of `name` is `token`, in whatever case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    values(headers, name).any(|value| value.eq_ignore_ascii_case(token))
}

fn values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// The first offered subprotocol `bearer.<token>`, and the token.
fn bearer_protocol(headers: &HeaderMap) -> Option<(String, String)> {
    values(headers, &SEC_WEBSOCKET_PROTOCOL)
        .find_map(|offered| Some((offered.to_owned(), offered.strip_prefix(BEARER)?.to_owned())))
}

/// As every error of the HTTP side looks.
#[derive(Serialize)]
struct RefusalBody<'m> {
    error: &'static str,
    message: &'m str,
    service: &'static str,
    timestamp: String,
}

fn refusal(status: StatusCode, message: &str, now: TimestampMs) -> Answer {
    let body = RefusalBody {
        error: code(status),
        message,
        service: "transaction-service",
        timestamp: now.to_string(),
    };
    // Strings only: there is nothing that JSON could not hold.
    let body = serde_json::to_vec(&body).unwrap_or_default();
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

const fn code(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        StatusCode::FORBIDDEN => "FORBIDDEN",
        StatusCode::UPGRADE_REQUIRED => "UPGRADE_REQUIRED",
        StatusCode::SERVICE_UNAVAILABLE => "TOO_MANY_CONNECTIONS",
        _ => "INVALID_UPGRADE",
    }
}

/// Starts the connection as a task of its own, so that the waiter's larger future is freed.
fn spawn_connection(
    upgraded: Upgraded,
    service: Arc<Service>,
    caller: Option<Caller>,
    place: Place,
) {
    let supervisor = service.supervisor.clone();
    // Boxed, since the supervisor's wrapper would hold the future twice.
    let connection: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> =
        match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(Parts { io, read_buf, .. }) => {
                let stream = io.into_inner();
                tune(&stream, service.config.unsent_bytes_max);
                // Copied: the buffer is usually empty but holds hyper's allocation.
                let early = read_buf.to_vec();
                drop(read_buf);
                Box::pin(Connection::new(stream, early, service, caller, place).run())
            }
            Err(upgraded) => {
                let stream = TokioIo::new(upgraded);
                Box::pin(Connection::new(stream, Vec::new(), service, caller, place).run())
            }
        };
    supervisor.spawn_task("ws-connection", OnExit::Continue, connection);
}

/// Best effort: a socket that refuses these still works, with more delay or more memory in the kernel.
fn tune(stream: &TcpStream, unsent_bytes_max: u32) {
    let nodelay = stream.set_nodelay(true);
    let unsent = limit_unsent(stream, unsent_bytes_max);
    if let Err(error) = nodelay.and(unsent) {
        debug!(%error, "a socket could not be tuned");
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn limit_unsent(stream: &TcpStream, unsent_bytes_max: u32) -> std::io::Result<()> {
    SockRef::from(stream).set_tcp_notsent_lowat(unsent_bytes_max)
}

/// Elsewhere the send buffer is the next best.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn limit_unsent(stream: &TcpStream, unsent_bytes_max: u32) -> std::io::Result<()> {
    SockRef::from(stream).set_send_buffer_size(usize::try_from(unsent_bytes_max).unwrap_or(65_536))
}
