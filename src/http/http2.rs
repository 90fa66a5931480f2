//! HTTP/2 without TLS by clients that know (RFC 9113 §3.3), on the same port: how such a connection is told apart, and
//! what bounds it. Its streams run at once, so the bounds of one request a connection do not hold here by themselves.

use super::config::Config;
use crate::tasks::{OnExit, Supervisor};
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::TokioTimer;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;

/// How every HTTP/2 connection begins, and no other: no method has this name (RFC 9113 §11.6).
const PREFACE_START: &[u8] = b"PRI";

/// How long to wait for the rest of it.
const PREFACE_RETRY: Duration = Duration::from_millis(5);

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
            tokio::time::sleep(PREFACE_RETRY).await;
        }
    }
}

/// Runs streams as tasks of the supervisor.
#[derive(Clone, Debug)]
pub(super) struct StreamTasks(pub(super) Supervisor);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamTasks {
    fn execute(&self, stream: F) {
        self.0.spawn_task("http-stream", OnExit::Continue, stream);
    }
}

pub(super) fn builder(config: &Config, supervisor: &Supervisor) -> Builder<StreamTasks> {
    let mut builder = Builder::new(StreamTasks(supervisor.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.http2_streams_max)
        .max_header_list_size(u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(config.http2_stream_window_bytes)
        .initial_connection_window_size(config.http2_connection_window_bytes)
        .max_send_buf_size(config.http2_send_buffer_bytes);
    builder
}

/// What happens on one connection. HTTP/1 has a timer for each head and closes a connection on which none comes; in
/// HTTP/2 heads come in the middle of other streams, so it is asked from time to time whether anything moved.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    steps: AtomicU64,
}

impl Activity {
    /// A request came in; it is open until its answer's body is handed over.
    pub(super) fn begin(&self) -> OpenStream {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.step();
        OpenStream(self.clone())
    }

    fn step(&self) {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Completes when no request was open for `idle`, or when those that are did not move for `stalled`; a little later
    /// than that, since it looks only now and then.
    pub(super) async fn ended(&self, idle: Duration, stalled: Duration) {
        let mut watch = Watch::default();
        while !watch.looks_ended(self, stalled) {
            tokio::time::sleep(idle).await;
            watch.still = watch.still.saturating_add(idle);
        }
    }
}

/// What was seen of an [`Activity`].
#[derive(Debug, Default)]
struct Watch {
    /// One more than the steps at the last look; 0 before the first.
    seen: u64,
    /// Since when nothing moved.
    still: Duration,
}

impl Watch {
    fn looks_ended(&mut self, activity: &Activity, stalled: Duration) -> bool {
        let steps = activity.0.steps.load(Ordering::Relaxed).wrapping_add(1);
        if std::mem::replace(&mut self.seen, steps) != steps {
            self.still = Duration::ZERO;
        }
        let is_idle = activity.0.open.load(Ordering::Relaxed) == 0;
        !self.still.is_zero() && (is_idle || self.still >= stalled)
    }
}

/// A request in hand, or an answer on its way.
#[derive(Debug)]
pub(super) struct OpenStream(Activity);

impl OpenStream {
    /// A piece of the answer went out.
    pub(super) fn step(&self) {
        self.0.step();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.step();
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
                tokio::time::sleep(PREFACE_RETRY).await;
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
            (&[b"P", b"R", b"I"], Version::Http2),
            (&[b"POST / HTTP/1.1\r\n"], Version::Http1),
            (&[b"PR", b"OPFIND"], Version::Http1),
            (&[b"G"], Version::Http1),
            (&[], Version::Http1),
        ] {
            assert_eq!(version_of(pieces).await, version, "{pieces:?}");
        }
    }

    #[test]
    fn a_connection_ends_when_it_is_idle_and_later_when_it_is_stuck() {
        let (tick, stalled) = (Duration::from_secs(10), Duration::from_secs(20));
        let (activity, mut watch) = (Activity::default(), Watch::default());
        let mut looks_ended = || {
            watch.still += tick;
            watch.looks_ended(&activity, stalled)
        };
        assert!(!looks_ended(), "it has just begun");
        assert!(looks_ended());
        let open = activity.begin();
        assert!(!looks_ended(), "a request came in");
        assert!(!looks_ended(), "an open request is waited for");
        open.step();
        assert!(!looks_ended() && !looks_ended());
        assert!(looks_ended(), "but not for ever");
        drop(open);
        assert!(!looks_ended(), "an answer went out");
        assert!(looks_ended());
    }
}
