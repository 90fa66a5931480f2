//! Connections: accepted, bounded, served, drained.

use super::answer::Body;
use super::config::Config;
use super::http2::{self, Activity, Requests, Version};
use super::service::{self, Connection, Services, State};
use crate::metrics::Metrics;
use crate::tasks::{OnExit, Supervisor};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::{debug, info, warn};

/// First and longest wait after an `accept` that failed (usually: no file descriptors left).
const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(10);
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How long an HTTP/2 client without a request in hand may take to answer the goodbye of a server that stops.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);

/// Where the server is in its life, as its connections see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Serving,
    /// Answer what is in hand, then close.
    Draining,
    /// Close now.
    Cut,
}

/// A server that accepts connections, until it is drained.
#[derive(Debug)]
pub struct Server {
    phase: watch::Sender<Phase>,
    slots: Arc<Semaphore>,
    slots_total: u32,
}

impl Server {
    /// Serves HTTP on `listener`. To be called within a runtime; the accepting task and each connection are tasks of
    /// `supervisor`. Dropping the handle ends the accepting task, which must not end before the drain.
    pub fn start(listener: TcpListener, services: Services, supervisor: &Supervisor) -> Self {
        let slots_max = Semaphore::MAX_PERMITS.min(1 << 30);
        let connections_max = services.config.connections_max.clamp(1, slots_max);
        let slots = Arc::new(Semaphore::new(connections_max));
        let phase = watch::Sender::new(Phase::Serving);
        let acceptor = Acceptor {
            metrics: services.metrics.clone(),
            http1: http1_builder(&services.config),
            http2_places: Arc::new(Semaphore::new(
                services.config.http2_requests_max.min(slots_max),
            )),
            slots: Arc::clone(&slots),
            phase: phase.subscribe(),
            state: Arc::new(State::new(services)),
            supervisor: supervisor.clone(),
        };
        supervisor.spawn_task("http-accept", OnExit::StopProcess, acceptor.run(listener));
        let slots_total = u32::try_from(connections_max).unwrap_or(u32::MAX);
        Self {
            phase,
            slots,
            slots_total,
        }
    }

    /// Accepts no connection any more, answers the requests in hand with `Connection: close`, and cuts off whoever is
    /// left when `patience` completes. Completes when the last connection has ended. Upgraded connections are not
    /// waited for: their owner closes them. To be called after [`Supervisor::start_drain`].
    pub async fn drain(self, patience: impl Future<Output = ()>) {
        self.phase.send_replace(Phase::Draining);
        tokio::select! {
            biased;
            _all = self.slots.acquire_many(self.slots_total) => return,
            () = patience => {}
        }
        let free = self.slots.available_permits();
        let left = usize::try_from(self.slots_total)
            .unwrap_or(usize::MAX)
            .saturating_sub(free);
        info!(left, "connections are cut off at the end of the drain");
        self.phase.send_replace(Phase::Cut);
        // Every connection ends at its next poll now; an error would mean that the semaphore was closed.
        let _all = self.slots.acquire_many(self.slots_total).await;
    }
}

struct Acceptor {
    state: Arc<State>,
    metrics: Metrics,
    http1: http1::Builder,
    /// For requests by HTTP/2, which come many at once on a connection.
    http2_places: Arc<Semaphore>,
    supervisor: Supervisor,
    slots: Arc<Semaphore>,
    phase: watch::Receiver<Phase>,
}

fn http1_builder(config: &Config) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout)
        .max_header_size(config.head_bytes_max);
    builder
}

impl Acceptor {
    /// The listener is closed when this ends: whoever connects from then on is refused by the kernel instead of
    /// waiting in vain.
    async fn run(self, listener: TcpListener) {
        let mut phase = self.phase.clone();
        tokio::select! {
            biased;
            _ended = phase.wait_for(|phase| *phase != Phase::Serving) => {}
            () = self.accept_all(&listener) => {}
        }
    }

    async fn accept_all(&self, listener: &TcpListener) {
        let mut backoff = ACCEPT_BACKOFF_MIN;
        loop {
            // Why before accept: who finds no slot waits in the kernel's backlog and costs nothing here.
            let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    backoff = ACCEPT_BACKOFF_MIN;
                    self.start(stream, slot);
                }
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    warn!(%error, "cannot accept connections, trying again");
                    tokio::time::sleep(backoff).await;
                    backoff = backoff.saturating_mul(2).min(ACCEPT_BACKOFF_MAX);
                }
            }
        }
    }

    fn start(&self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        if let Err(error) = self.tune(&stream) {
            debug!(%error, "a connection ended before it was served");
            return;
        }
        let served = ServedConnection {
            state: Arc::clone(&self.state),
            http1: self.http1.clone(),
            http2_places: Arc::clone(&self.http2_places),
            supervisor: self.supervisor.clone(),
            phase: self.phase.clone(),
        };
        let metrics = self.metrics.clone();
        self.supervisor
            .spawn_task("http-connection", OnExit::Continue, async move {
                let _slot = slot;
                metrics.observe_http_connection_opened();
                let _closed = Closed(metrics);
                served.run(stream).await;
            });
    }

    /// No delay for small answers; a peer that is gone, or reads nothing, is noticed.
    fn tune(&self, stream: &TcpStream) -> std::io::Result<()> {
        let peer_timeout = self.state.services.config.peer_timeout;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(peer_timeout))?;
        socket.set_tcp_user_timeout(Some(peer_timeout))
    }
}

/// One connection with what it needs.
struct ServedConnection {
    state: Arc<State>,
    http1: http1::Builder,
    http2_places: Arc<Semaphore>,
    supervisor: Supervisor,
    phase: watch::Receiver<Phase>,
}

impl ServedConnection {
    async fn run(mut self, stream: TcpStream) {
        let head_timeout = self.state.services.config.head_timeout;
        let version = tokio::select! {
            biased;
            version = tokio::time::timeout(head_timeout, Version::of(&stream)) => version,
            // Nothing was asked yet.
            _ = self.phase.wait_for(|phase| *phase != Phase::Serving) => return,
        };
        match version {
            Ok(Ok(Version::Http1)) => self.http1(stream).await,
            Ok(Ok(Version::Http2)) => self.http2(stream).await,
            Ok(Err(error)) => debug!(%error, "a connection ended before it was served"),
            Err(_) => debug!("a connection on which nothing came was closed"),
        }
    }

    async fn http1(mut self, stream: TcpStream) {
        let connection = self
            .http1
            .serve_connection(TokioIo::new(stream), answers(self.state))
            .with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            biased;
            result = connection.as_mut() => return note_end(result),
            // An error means that the server is gone, which ends its connections too.
            _ = self.phase.wait_for(|phase| *phase != Phase::Serving) => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            biased;
            result = connection.as_mut() => note_end(result),
            () = cut(&mut self.phase) => {}
        }
    }

    async fn http2(mut self, stream: TcpStream) {
        let config = &self.state.services.config;
        let idle = config.head_timeout;
        let activity = Activity::default();
        let requests = Requests {
            supervisor: self.supervisor,
            places: self.http2_places,
            activity: activity.clone(),
            patience: config.request_timeout,
        };
        let builder = http2::builder(config, requests);
        let connection = builder.serve_connection(TokioIo::new(stream), answers(self.state));
        let mut connection = pin!(connection);
        tokio::select! {
            biased;
            result = connection.as_mut() => return note_end(result),
            _ = self.phase.wait_for(|phase| *phase != Phase::Serving) => {}
            () = activity.idle_for(idle) => {}
        }
        connection.as_mut().graceful_shutdown();
        let is_draining = *self.phase.borrow() != Phase::Serving;
        let idle = if is_draining {
            idle.min(GOODBYE_PATIENCE)
        } else {
            idle
        };
        // Why bounded here and not only by the drain: a peer that answers nothing would keep it.
        tokio::select! {
            biased;
            result = connection.as_mut() => note_end(result),
            () = cut(&mut self.phase) => {}
            () = activity.idle_for(idle) => debug!("a connection that took nothing more was cut off"),
        }
    }
}

/// What answers the requests of one connection.
fn answers(
    state: Arc<State>,
) -> impl HttpService<Incoming, ResBody = Body, Error = Infallible, Future: Send> {
    let connection = Arc::new(Connection::new(state));
    service_fn(move |request| {
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(service::handle(&connection, request).await) }
    })
}

/// Completes when what is left at the end of the drain has to go.
async fn cut(phase: &mut watch::Receiver<Phase>) {
    // An error means that the server is gone, which ends its connections too.
    let _gone = phase.wait_for(|phase| *phase == Phase::Cut).await;
    debug!("a connection was cut off at the end of the drain");
}

/// Counts the end of a connection, however it comes.
struct Closed(Metrics);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.observe_http_connection_closed();
    }
}

fn note_end(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        debug!(%error, "a connection ended with an error");
    }
}

/// Whether the fault lies with the connection that would have been accepted (accept(2): treat them like EAGAIN).
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::Interrupted
    )
}
