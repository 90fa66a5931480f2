//! HTTP/2 without TLS by clients that know (RFC 9113 §3.3), on the same port: how such a connection is told apart, and
//! what bounds it.
//!
//! Its requests run at once, each as a task of its own, so the bounds that HTTP/1 has from one request a connection are
//! made here: a place for each request, held until its answer was handed over; a time within which some of an answer has
//! to be taken; and an end for connections that ask nothing.

use super::answer::Body;
use super::config::Config;
use crate::tasks::{OnExit, Supervisor};
use http_body_util::Full;
use hyper::Response;
use hyper::body::Body as _;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::TokioTimer;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tracing::debug;

/// How every HTTP/2 connection begins, and no request of HTTP/1 that we serve: it names another version (RFC 9113 §3.4).
const PREFACE_START: &[u8; 14] = b"PRI * HTTP/2.0";

/// First and longest wait for the rest of it.
const PREFACE_RETRY_MIN: Duration = Duration::from_millis(5);
const PREFACE_RETRY_MAX: Duration = Duration::from_millis(500);

/// Within which time some of a refusal has to be taken whose request found no place.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);

/// What a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Version {
    Http1,
    Http2,
}

impl Version {
    /// Looks at the first bytes and leaves them where they are. Waits until there are some: the caller bounds that.
    pub(super) async fn of(stream: &TcpStream) -> io::Result<Self> {
        let mut start = [0; PREFACE_START.len()];
        let mut retry = PREFACE_RETRY_MIN;
        loop {
            let count = stream.peek(&mut start).await?;
            let came = start.get(..count).unwrap_or_default();
            if came == PREFACE_START {
                return Ok(Self::Http2);
            }
            // Nothing: the client has gone, which whoever reads next finds out.
            if came.is_empty() || !PREFACE_START.starts_with(came) {
                return Ok(Self::Http1);
            }
            // Why asleep: what was only looked at stays readable, also when nothing more will ever come.
            tokio::time::sleep(retry).await;
            retry = retry.saturating_mul(2).min(PREFACE_RETRY_MAX);
        }
    }
}

/// A builder for one connection, whose requests run on `requests`.
pub(super) fn builder(config: &Config, requests: Requests) -> Builder<Requests> {
    let mut builder = Builder::new(requests);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.http2_connection_requests_max)
        .max_header_list_size(u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(config.http2_stream_window_bytes)
        .initial_connection_window_size(config.http2_connection_window_bytes)
        .max_send_buf_size(config.http2_send_buffer_bytes);
    builder
}

/// Runs the requests of one connection, each as a task.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    pub(super) supervisor: Supervisor,
    /// Places for the requests of all connections.
    pub(super) places: Arc<Semaphore>,
    pub(super) activity: Activity,
    /// Within which time some of an answer has to be taken.
    pub(super) patience: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Requests {
    /// hyper gives the whole life of a request here: from its head until the last piece of its answer was handed over.
    fn execute(&self, request: F) {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let stream = Stream {
            has_place: place.is_some(),
            progress: Progress::default(),
        };
        let progress = stream.progress.clone();
        let open = self.activity.begin();
        let patience = if stream.has_place {
            self.patience
        } else {
            self.patience.min(REFUSAL_PATIENCE)
        };
        let work = async move {
            let _held = (place, open);
            let request = STREAM.scope(stream, request);
            if progress.watch(patience, request).await == Outcome::Stuck {
                // Dropping it has reset the stream.
                debug!("an answer that was not taken was given up");
            }
        };
        let supervisor = &self.supervisor;
        supervisor.spawn_task("http-stream", OnExit::Continue, work);
    }
}

tokio::task_local! {
    /// The request that the task runs.
    static STREAM: Stream;
}

#[derive(Debug)]
struct Stream {
    has_place: bool,
    progress: Progress,
}

/// Whether the request in hand has a place; false outside of one.
pub(super) fn has_place() -> bool {
    STREAM
        .try_with(|stream| stream.has_place)
        .unwrap_or_default()
}

/// Makes of an answer what hyper makes of one by HTTP/1 itself: without a body for HEAD, though with its length (RFC 9110
/// §9.3.2), and never more in memory than the client takes.
pub(super) fn shape(mut response: Response<Body>, is_head: bool) -> Response<Body> {
    if !is_head {
        let progress = STREAM.try_with(|stream| stream.progress.clone());
        return response.map(|body| body.in_pieces(progress.unwrap_or_default()));
    }
    if let Some(length) = response.body().size_hint().exact() {
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    response.map(|_| Full::default().into())
}

/// How far an answer has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<Steps>);

#[derive(Debug, Default)]
struct Steps {
    /// Pieces that were asked for.
    pieces: AtomicU64,
    /// Whether the next one is not made yet, so that nobody but we are late.
    is_making: AtomicBool,
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Done,
    Stuck,
}

impl Progress {
    /// The next piece of the answer is asked for, so the one before is on its way.
    pub(super) fn step(&self) {
        self.0.pieces.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes whether the piece that was asked for is still being made.
    pub(super) fn set_making(&self, is_making: bool) {
        self.0.is_making.store(is_making, Ordering::Relaxed);
    }

    /// Runs `request`, as long as pieces of its answer are taken within `patience`, or, since it is looked at only when
    /// that has passed, within twice of it. Until the answer begins the request has a deadline of its own.
    async fn watch(&self, patience: Duration, request: impl Future<Output = ()>) -> Outcome {
        let mut request = pin!(request);
        // Only for an answer that waits: most are taken at once.
        let mut timer: Option<(Pin<Box<Sleep>>, u64)> = None;
        poll_fn(|cx| {
            if request.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Outcome::Done);
            }
            let pieces = self.0.pieces.load(Ordering::Relaxed);
            if pieces == 0 {
                return Poll::Pending;
            }
            let (timer, seen) =
                timer.get_or_insert_with(|| (Box::pin(tokio::time::sleep(patience)), pieces));
            while timer.as_mut().poll(cx).is_ready() {
                let is_making = self.0.is_making.load(Ordering::Relaxed);
                if std::mem::replace(seen, pieces) == pieces && !is_making {
                    return Poll::Ready(Outcome::Stuck);
                }
                timer.set(tokio::time::sleep(patience));
            }
            Poll::Pending
        })
        .await
    }
}

/// What happens on one connection. HTTP/1 has a timer for each head and closes a connection on which none comes; in
/// HTTP/2 heads come in the middle of other requests, so it is asked from time to time whether any is open.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    /// Requests that began, and that ended.
    changes: AtomicU64,
}

/// A request in hand, or an answer on its way.
#[derive(Debug)]
pub(super) struct OpenRequest(Activity);

impl Activity {
    fn begin(&self) -> OpenRequest {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.0.changes.fetch_add(1, Ordering::Relaxed);
        OpenRequest(self.clone())
    }

    /// Completes when no request was open for `idle`; up to as much later, since it looks only now and then.
    pub(super) async fn idle_for(&self, idle: Duration) {
        let mut seen = None;
        while !self.is_still(&mut seen) {
            tokio::time::sleep(idle).await;
        }
    }

    /// Whether nothing is open and nothing was since the last look.
    fn is_still(&self, seen: &mut Option<u64>) -> bool {
        let changes = self.0.changes.load(Ordering::Relaxed);
        let unchanged = seen.replace(changes) == Some(changes);
        unchanged && self.0.open.load(Ordering::Relaxed) == 0
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let Activity(counts) = &self.0;
        counts.changes.fetch_add(1, Ordering::Relaxed);
        counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// What is made of a client that sends these pieces, one after the other was looked at.
    async fn version_of(pieces: &[&[u8]]) -> Version {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        client.set_nodelay(true).unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let sending = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::time::sleep(PREFACE_RETRY_MIN).await;
            }
            client.shutdown().await.unwrap();
        };
        tokio::join!(Version::of(&server), sending).0.unwrap()
    }

    #[tokio::test]
    async fn connections_are_told_apart_by_their_first_bytes() {
        for (pieces, version) in [
            (
                &[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]][..],
                Version::Http2,
            ),
            (&[b"P", b"RI * HTT", b"P/2.0\r\n"], Version::Http2),
            (&[b"POST / HTTP/1.1\r\n"], Version::Http1),
            (&[b"PR", b"OPFIND"], Version::Http1),
            (&[b"PRI * HTTP/1.1\r\n"], Version::Http1),
            (&[b"G"], Version::Http1),
            (&[], Version::Http1),
        ] {
            assert_eq!(version_of(pieces).await, version, "{pieces:?}");
        }
    }

    #[test]
    fn a_connection_is_idle_once_nothing_began_or_ended_between_two_looks() {
        let (activity, mut seen) = (Activity::default(), None);
        let mut is_still = || activity.is_still(&mut seen);
        assert!(!is_still(), "it has just begun");
        assert!(is_still());
        let open = activity.begin();
        assert!(!is_still(), "a request came in");
        assert!(!is_still(), "an open request is waited for");
        drop(open);
        assert!(!is_still(), "an answer went out");
        assert!(is_still());
    }

    #[tokio::test]
    async fn only_an_answer_that_is_not_taken_is_given_up() {
        let patience = Duration::from_millis(2);
        let progress = Progress::default();
        let deciding = async { tokio::time::sleep(patience * 5).await };
        assert_eq!(progress.watch(patience, deciding).await, Outcome::Done);

        let slow = async {
            for _ in 0..40 {
                progress.step();
                tokio::time::sleep(patience / 4).await;
            }
        };
        // Why so patient: a busy machine sleeps longer than it was told.
        let long = Duration::from_secs(1);
        assert_eq!(progress.watch(long, slow).await, Outcome::Done);

        progress.step();
        progress.set_making(true);
        let making = async { tokio::time::sleep(patience * 5).await };
        assert_eq!(progress.watch(patience, making).await, Outcome::Done);

        progress.set_making(false);
        let never = std::future::pending();
        assert_eq!(progress.watch(patience, never).await, Outcome::Stuck);
    }
}
