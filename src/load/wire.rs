//! A connection that speaks as much HTTP/1.1 as a load needs: one request after the other, answers with a length.
//!
//! By hand because it shares the machine with what it measures: hyper's client takes several times the CPU.

use crate::clock::SharedClock;
use memchr::memmem;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// What an answer may take; one to a batch of 8,192 is below 3 MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const HEAD_BYTES_MAX: usize = 64 << 10;
const BUFFER_BYTES: usize = 8 << 10;
/// A buffer that an answer made larger than this is given back.
const BUFFER_KEPT_BYTES: usize = 4 << 20;

/// Why there is no answer. Whether the request had an effect is unknown then, unless there was no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// Nobody takes the connection.
    #[error("no connection: {0}")]
    Connect(io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// The other side closed it.
    #[error("the connection was closed before the answer")]
    Closed,
    /// No answer came in time.
    #[error("no answer in time")]
    TimedOut,
    /// What came is no answer that is understood.
    #[error("{0}")]
    Malformed(&'static str),
}

impl WireError {
    /// Under which name it is counted.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Connect(_) => "no connection",
            Self::Broken(_) | Self::Closed => "connection broken",
            Self::TimedOut => "no answer in time",
            Self::Malformed(_) => "answer not understood",
        }
    }
}

/// The head of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// In seconds, from `Retry-After`.
    pub(super) retry_after: Option<u32>,
    head_bytes: usize,
    body_bytes: usize,
    closes: bool,
}

/// A connection and the answer that came last.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
    deadline: Deadline,
    is_usable: bool,
}

impl Connection {
    /// Each step takes at most `timeout`.
    pub(super) async fn open(
        address: SocketAddr,
        clock: SharedClock,
        timeout: Duration,
    ) -> Result<Self, WireError> {
        let now = clock.monotonic();
        let mut deadline = Deadline::new(clock, timeout);
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = deadline
            .guard(now, connecting)
            .await?
            .map_err(WireError::Connect)?;
        Ok(Self {
            stream,
            answer: Vec::with_capacity(BUFFER_BYTES),
            deadline,
            is_usable: true,
        })
    }

    /// Whether the other side has not closed it meanwhile: a service closes connections that are idle for some seconds.
    pub(super) fn is_open(&self) -> bool {
        let mut byte = [0];
        let read = self.stream.try_read(&mut byte);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends `request` at `now` and reads the answer to its end. After an error, or an answer behind which the other side closes,
    /// the connection is of no more use.
    pub(super) async fn exchange(
        &mut self,
        request: &[u8],
        now: Duration,
    ) -> Result<Answer, WireError> {
        let Self {
            stream,
            answer,
            deadline,
            is_usable,
        } = self;
        *is_usable = false;
        answer.clear();
        answer.shrink_to(BUFFER_KEPT_BYTES);
        let exchanged = deadline.guard(now, async {
            stream.write_all(request).await.map_err(WireError::Broken)?;
            read_answer(stream, answer).await
        });
        let head = exchanged.await??;
        *is_usable = !head.closes;
        Ok(head)
    }

    /// Whether another request may be sent.
    pub(super) const fn is_usable(&self) -> bool {
        self.is_usable
    }

    /// The body of the answer that came last.
    pub(super) fn body(&self, answer: &Answer) -> &[u8] {
        let end = answer.head_bytes + answer.body_bytes;
        self.answer.get(answer.head_bytes..end).unwrap_or_default()
    }
}

async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<Answer, WireError> {
    let mut searched = 0_usize;
    let head = loop {
        read_more(stream, answer).await?;
        // The end of the head may lie across two reads.
        let from = searched.saturating_sub(3);
        if let Some(at) = memmem::find(answer.get(from..).unwrap_or_default(), b"\r\n\r\n") {
            let head_bytes = from + at + 4;
            let head = parse_head(answer.get(..head_bytes).unwrap_or_default())?;
            // The server may go on after a preliminary answer; we never ask for one.
            break head;
        }
        searched = answer.len();
        if searched > HEAD_BYTES_MAX {
            return Err(WireError::Malformed("the answer's head does not end"));
        }
    };
    let whole_bytes = head.head_bytes.saturating_add(head.body_bytes);
    if whole_bytes > ANSWER_BYTES_MAX {
        return Err(WireError::Malformed("an answer of more than 64 MiB"));
    }
    answer.reserve(whole_bytes.saturating_sub(answer.len()));
    while answer.len() < whole_bytes {
        read_more(stream, answer).await?;
    }
    if answer.len() > whole_bytes {
        return Err(WireError::Malformed("more than the answer came"));
    }
    Ok(head)
}

async fn read_more(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<(), WireError> {
    match stream.read_buf(answer).await {
        Ok(0) => Err(WireError::Closed),
        Ok(_) => Ok(()),
        Err(error) => Err(WireError::Broken(error)),
    }
}

/// `head` ends with the empty line.
fn parse_head(head: &[u8]) -> Result<Answer, WireError> {
    let is_http = head.starts_with(b"HTTP/1.1 ") || head.starts_with(b"HTTP/1.0 ");
    let status = head.get(9..12).and_then(number).filter(|_| is_http);
    let status = status.ok_or(WireError::Malformed("what came is no HTTP"))?;
    let mut answer = Answer {
        status: u16::try_from(status).unwrap_or(u16::MAX),
        retry_after: None,
        head_bytes: head.len(),
        body_bytes: 0,
        closes: head.starts_with(b"HTTP/1.0 "),
    };
    let mut has_length = false;
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', head) {
        let line = head.get(start..end).unwrap_or_default().trim_ascii_end();
        start = end + 1;
        // Most lines are told apart by their first letter.
        match line.first() {
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(line, b"content-length:") {
                    let length = number(value);
                    let length =
                        length.ok_or(WireError::Malformed("a content-length that is no number"))?;
                    answer.body_bytes = usize::try_from(length).unwrap_or(usize::MAX);
                    has_length = true;
                } else if let Some(value) = value_of(line, b"connection:") {
                    answer.closes |= value.eq_ignore_ascii_case(b"close");
                }
            }
            Some(b'r' | b'R') => {
                if let Some(value) = value_of(line, b"retry-after:") {
                    answer.retry_after = number(value).and_then(|s| u32::try_from(s).ok());
                }
            }
            Some(b't' | b'T') if value_of(line, b"transfer-encoding:").is_some() => {
                return Err(WireError::Malformed("an answer without content-length"));
            }
            _ => {}
        }
    }
    if has_length || matches!(status, 204 | 304) {
        Ok(answer)
    } else {
        Err(WireError::Malformed("an answer without content-length"))
    }
}

fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Bounds a connection's waits with one timer, which is set again only when it has run out: a timer set for each request
/// would cost more than the request's own bookkeeping.
#[derive(Debug)]
struct Deadline {
    clock: SharedClock,
    timeout: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl Deadline {
    fn new(clock: SharedClock, timeout: Duration) -> Self {
        let sleep = Box::pin(tokio::time::sleep(timeout));
        Self {
            clock,
            timeout,
            sleep,
        }
    }

    /// `future`'s result, unless it takes longer than the timeout from `now` on.
    async fn guard<F: Future>(&mut self, now: Duration, future: F) -> Result<F::Output, WireError> {
        let mut future = pin!(future);
        let due = now.saturating_add(self.timeout);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            while self.sleep.as_mut().poll(cx).is_ready() {
                let left = due.saturating_sub(self.clock.monotonic());
                if left.is_zero() {
                    // Set, so that it can be asked again.
                    self.sleep.set(tokio::time::sleep(self.timeout));
                    return Poll::Ready(Err(WireError::TimedOut));
                }
                self.sleep.set(tokio::time::sleep(left));
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "the other side of a connection is a task of the test"
    )]
    use super::*;
    use crate::clock::SystemClock;
    use proptest::prelude::*;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    /// Somebody who answers everything with `pieces`, one write each.
    async fn answering(pieces: Vec<Vec<u8>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut chunk = [0; 1024];
            while stream.read(&mut chunk).await.unwrap_or(0) > 0 {
                for piece in &pieces {
                    stream.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        address
    }

    async fn open(address: SocketAddr, timeout: Duration) -> Connection {
        let clock = Arc::new(SystemClock::new());
        Connection::open(address, clock, timeout).await.unwrap()
    }

    async fn ask(connection: &mut Connection, request: &[u8]) -> Result<Answer, WireError> {
        let now = connection.deadline.clock.monotonic();
        connection.exchange(request, now).await
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn answers_are_read_whole_however_they_are_cut() {
        let text = b"HTTP/1.1 503 x\r\nContent-Length: 5\r\nretry-after: 2\r\n\r\nhello";
        for cut in 1..text.len() {
            let pieces = vec![text[..cut].to_vec(), text[cut..].to_vec()];
            let mut connection = open(answering(pieces).await, PATIENCE).await;
            for _ in 0..2 {
                let answer = ask(&mut connection, b"GET / HTTP/1.1\r\n\r\n")
                    .await
                    .unwrap();
                assert_eq!((answer.status, answer.retry_after), (503, Some(2)));
                assert_eq!(connection.body(&answer), b"hello");
                assert!(connection.is_usable());
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_as_such() {
        for (text, what) in [
            (&b"SSH-2.0-OpenSSH\r\n\r\n"[..], "no HTTP"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "without content-length"),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                "without content-length",
            ),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
                "no number",
            ),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
                "64 MiB",
            ),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
                "more than",
            ),
        ] {
            let mut connection = open(answering(vec![text.to_vec()]).await, PATIENCE).await;
            let error = ask(&mut connection, b"x").await.unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert!(!connection.is_usable());
        }
    }

    #[tokio::test]
    async fn a_connection_that_the_other_side_closes_is_not_used_again() {
        let text = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let mut connection = open(answering(vec![text.to_vec()]).await, PATIENCE).await;
        ask(&mut connection, b"x").await.unwrap();
        assert!(!connection.is_usable());
    }

    #[tokio::test]
    async fn who_never_answers_is_given_up() {
        let address = answering(vec![]).await;
        let mut connection = open(address, Duration::from_millis(50)).await;
        for _ in 0..2 {
            let error = ask(&mut connection, b"x").await.unwrap_err();
            assert!(matches!(error, WireError::TimedOut), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_head_makes_the_parser_panic(head: Vec<u8>) {
            let _any = parse_head(&head);
        }
    }
}
