//! One connection: reads, writes, catches up, ends. One hand-written future, polled by one task.

use super::close::{ABNORMAL, Close, NO_CODE};
use super::control::{Control, Orders};
use super::endpoint::{Place, Service};
use super::history::Reading;
use super::protocol::ServerMessage;
use super::session::Session;
use super::wire::{PING, Pipe, text_frame, write_item};
use crate::auth::Caller;
use crate::ledger::QueryError;
use crate::tracker::{Step, Taken};
use bytes::Bytes;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::{debug, warn};
use uuid::Uuid;

/// Rounds of one poll before other tasks get their turn.
const ROUNDS_PER_POLL: usize = 32;
/// Messages read in one round.
const READS_PER_ROUND: usize = 16;

/// See the module.
pub(super) struct Connection<S> {
    io: S,
    context: WebSocketContext,
    session: Session,
    control: Arc<Control>,
    service: Arc<Service>,
    /// Frames on their way; those before `unsent_from` are gone.
    unsent: Vec<u8>,
    unsent_from: usize,
    reading: Option<(Uuid, Reading)>,
    phase: Phase,
    /// What metrics count.
    code: u16,
    _place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    /// Our close frame is queued; the client's is awaited.
    Closing,
    /// Our close frame is queued, and what the client sends cannot be understood any more. It is read and thrown away: a
    /// socket closed with unread bytes would be reset, and the client would not see the close frame.
    Discarding,
    /// Like that, and our end of the stream is closed, so that the client closes its own.
    HalfClosed,
    /// Nothing more is to be read; what is queued is still written.
    Finishing,
    /// Nothing more is to be done.
    Gone,
}

/// Whether a round did anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Made,
    None,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    /// `early`: bytes of the client that came with its request.
    pub(super) fn new(
        io: S,
        early: Vec<u8>,
        service: Arc<Service>,
        caller: Option<Caller>,
        place: Place,
    ) -> Self {
        let config = &service.config;
        let limits = WebSocketConfig::default()
            .read_buffer_size(config.read_buffer_bytes)
            .write_buffer_size(0)
            .max_message_size(Some(config.message_bytes_max))
            .max_frame_size(Some(config.message_bytes_max));
        let context = WebSocketContext::from_partially_read(early, Role::Server, Some(limits));
        let session = Session::new(Arc::clone(&service), caller);
        let now_ms = service.now_ms();
        let control = Arc::new(Control::new(Arc::clone(session.outbox()), now_ms, config));
        if session.is_anonymous() {
            control.set_deadline(Some(now_ms.saturating_add(config.authenticate_within_ms)));
        }
        Self {
            io,
            context,
            session,
            control,
            service,
            unsent: Vec::new(),
            unsent_from: 0,
            reading: None,
            phase: Phase::Open,
            code: ABNORMAL,
            _place: place,
        }
    }

    /// Lives until the connection ends, whichever way.
    pub(super) async fn run(mut self) {
        self.service.register(&self.control);
        std::future::poll_fn(|cx| self.poll(cx)).await;
        self.service.metrics.observe_ws_close(self.code);
        debug!(code = self.code, "a WebSocket connection ended");
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.session.outbox().register(cx.waker());
        self.obey(self.control.take_orders());
        for _ in 0..ROUNDS_PER_POLL {
            let wrote = self.write(cx);
            let all_written = wrote == Progress::None && self.unsent.is_empty();
            if all_written && matches!(self.phase, Phase::Finishing | Phase::Discarding) {
                let closed = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
                self.phase = match (closed, self.phase) {
                    (Ok(()), Phase::Discarding) => Phase::HalfClosed,
                    _ => Phase::Gone,
                };
            }
            if self.phase == Phase::Gone {
                return Poll::Ready(());
            }
            let caught_up = self.catch_up(cx);
            let read = self.read(cx);
            if [wrote, caught_up, read] == [Progress::None; 3] {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn obey(&mut self, orders: Orders) {
        if orders.has(Orders::DROP) {
            self.phase = Phase::Gone;
            return;
        }
        if orders.has(Orders::EXPIRED) {
            match self.phase {
                Phase::Open if self.session.is_anonymous() => {
                    self.close(|_| Close::Unauthenticated);
                }
                Phase::Open => {}
                Phase::Closing
                | Phase::Discarding
                | Phase::HalfClosed
                | Phase::Finishing
                | Phase::Gone => self.phase = Phase::Gone,
            }
        }
        if self.phase != Phase::Open {
            return;
        }
        if orders.has(Orders::DRAIN) {
            self.close(|resume_after| Close::Restart { resume_after });
        } else if orders.has(Orders::PING) {
            let outbox = self.session.outbox();
            outbox.push(PING);
            let now = self.service.clock.now();
            outbox.push_position(self.service.tracker.delivered(), |sequence| {
                text_frame(&ServerMessage::Position { sequence }.to_json(now))
            });
        }
    }

    /// Queues a close frame behind all that is queued, with the sequence to resume from where the reason tells one.
    fn close(&mut self, reason: impl FnOnce(crate::types::Sequence) -> Close) {
        let outbox = Arc::clone(self.session.outbox());
        let delivered = self.service.tracker.delivered().clone();
        outbox.close(&delivered, |resume_after| {
            self.begin_close(reason(resume_after))
        });
        self.session.end();
    }

    /// The frame that closes for `reason`; from now on the client's answer is awaited.
    fn begin_close(&mut self, reason: Close) -> Bytes {
        self.code = reason.code();
        self.phase = match reason {
            Close::Protocol | Close::NotUtf8 | Close::TooBig => Phase::Discarding,
            Close::Restart { .. }
            | Close::TooSlow { .. }
            | Close::Unauthenticated
            | Close::Forbidden => Phase::Closing,
        };
        let now_ms = self.service.now_ms();
        self.control.set_deadline(Some(
            now_ms.saturating_add(self.service.config.close_within_ms),
        ));
        let mut frame = Vec::new();
        let mut waker = Context::from_waker(std::task::Waker::noop());
        let mut pipe = Pipe {
            io: Pin::new(&mut self.io),
            cx: &mut waker,
            written: &mut frame,
        };
        // Never an error: the pipe takes everything, and the client's close was not seen yet.
        if let Err(error) = self.context.close(&mut pipe, Some(reason.frame())) {
            debug!(%error, "a close frame could not be made");
        }
        frame.into()
    }

    /// Writes what is queued, as much as the socket takes.
    fn write(&mut self, cx: &mut Context<'_>) -> Progress {
        let mut progress = Progress::None;
        loop {
            if self.unsent.is_empty() && !self.fill() {
                break;
            }
            match Pin::new(&mut self.io).poll_write(cx, &self.unsent[self.unsent_from..]) {
                Poll::Ready(Ok(count @ 1..)) => {
                    progress = Progress::Made;
                    self.unsent_from += count;
                    self.control.note_written();
                    if self.unsent_from == self.unsent.len() {
                        self.unsent = Vec::new();
                        self.unsent_from = 0;
                    }
                }
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.phase = Phase::Gone;
                    return progress;
                }
                Poll::Pending => {
                    self.control.note_blocked(self.service.now_ms());
                    return progress;
                }
            }
        }
        if progress == Progress::Made
            && let Poll::Ready(Err(_)) = Pin::new(&mut self.io).poll_flush(cx)
        {
            self.phase = Phase::Gone;
        }
        progress
    }

    /// Takes queued items for the next write; `false` when there are none.
    fn fill(&mut self) -> bool {
        let mut items = Vec::new();
        match self
            .session
            .outbox()
            .take(self.service.config.write_bytes, &mut items)
        {
            Taken::Nothing => {}
            Taken::Some => items
                .iter()
                .for_each(|item| write_item(item, &mut self.unsent)),
            Taken::Overflowed { resume_after } => {
                let frame = self.begin_close(Close::TooSlow { resume_after });
                self.unsent.extend_from_slice(&frame);
                self.session.end();
            }
        }
        !self.unsent.is_empty()
    }

    /// Drives the first subscription that reads the journal.
    fn catch_up(&mut self, cx: &mut Context<'_>) -> Progress {
        if self.phase != Phase::Open {
            return Progress::None;
        }
        let Some(mut catch_up) = self.session.catch_ups.pop_front() else {
            self.reading = None;
            return Progress::None;
        };
        // A read for a subscription that was ended meanwhile is of no use.
        self.reading = self.reading.take().filter(|(id, _)| *id == catch_up.id());
        let mut accepted = Progress::None;
        if let Some((_, reading)) = &mut self.reading {
            let Poll::Ready(answer) = reading.as_mut().poll(cx) else {
                self.session.catch_ups.push_front(catch_up);
                return Progress::None;
            };
            self.reading = None;
            let refusal = match answer {
                Ok(entries) => catch_up
                    .accept(entries)
                    .err()
                    .map(|stalled| stalled.to_string()),
                // The service stops: the close frame will tell where to resume.
                Err(QueryError::Stopped) => return Progress::None,
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = refusal {
                warn!(error, "a subscription could not read on");
                self.session
                    .give_up(&catch_up, "the journal cannot be read from there");
                return Progress::Made;
            }
            accepted = Progress::Made;
        }
        let service = &self.service;
        match self.session.subscriber.advance(&mut catch_up) {
            Step::Joined => Progress::Made,
            Step::WaitForRoom => {
                self.session.catch_ups.push_front(catch_up);
                // What was queued just now has to be written before anyone waits.
                accepted
            }
            Step::Read { after } => {
                let reading = service
                    .history
                    .read_after(after, service.tracker.read_bytes());
                self.reading = Some((catch_up.id(), reading));
                self.session.catch_ups.push_front(catch_up);
                Progress::Made
            }
        }
    }

    /// Reads messages and does what they ask for, unless too much waits to be sent.
    fn read(&mut self, cx: &mut Context<'_>) -> Progress {
        let mut progress = Progress::None;
        for _ in 0..READS_PER_ROUND {
            let more = match self.phase {
                Phase::Open if !self.session.outbox().has_room() => break,
                Phase::Open | Phase::Closing => self.read_message(cx),
                Phase::Discarding | Phase::HalfClosed => self.discard(cx),
                Phase::Finishing | Phase::Gone => break,
            };
            if more == Progress::None {
                break;
            }
            progress = Progress::Made;
        }
        progress
    }

    fn read_message(&mut self, cx: &mut Context<'_>) -> Progress {
        let mut written = Vec::new();
        let mut pipe = Pipe {
            io: Pin::new(&mut self.io),
            cx,
            written: &mut written,
        };
        let result = self.context.read(&mut pipe);
        let result = match result {
            // The pong, or the answer to a close frame, is made now and not at the next message.
            Ok(message) => {
                let flushed = self.context.flush(&mut pipe);
                debug_assert!(
                    !matches!(flushed, Err(Error::Io(_))),
                    "the pipe takes everything"
                );
                Ok(message)
            }
            Err(error) => Err(error),
        };
        if result.is_ok() {
            self.control.note_heard(self.service.now_ms());
        }
        if !written.is_empty() {
            self.session.outbox().push(written.into());
        }
        match result {
            Ok(message) => self.on_message(&message),
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Progress::None;
            }
            Err(error) => self.on_read_error(&error),
        }
        Progress::Made
    }

    fn on_message(&mut self, message: &Message) {
        match message {
            Message::Text(text) if self.phase == Phase::Open => {
                let anonymous = self.session.is_anonymous();
                match self.session.on_text(text) {
                    Err(reason) => self.close(|_| reason),
                    Ok(()) if anonymous => self.control.set_deadline(None),
                    Ok(()) => {}
                }
            }
            Message::Binary(_) if self.phase == Phase::Open && self.session.is_anonymous() => {
                self.close(|_| Close::Unauthenticated);
            }
            Message::Binary(_) if self.phase == Phase::Open => {
                self.session.say_error("binary messages are not understood");
            }
            Message::Close(frame) => {
                if self.phase == Phase::Open {
                    self.code = frame.as_ref().map_or(NO_CODE, |frame| frame.code.into());
                    // The answer is queued; nothing follows it.
                    let delivered = self.service.tracker.delivered();
                    self.session.outbox().close(delivered, |_| Bytes::new());
                    self.session.end();
                }
                self.finish();
            }
            Message::Text(_)
            | Message::Binary(_)
            | Message::Ping(_)
            | Message::Pong(_)
            | Message::Frame(_) => {}
        }
    }

    fn on_read_error(&mut self, error: &Error) {
        match (self.phase, error) {
            (_, Error::ConnectionClosed | Error::AlreadyClosed) => self.finish(),
            (_, Error::Protocol(protocol)) if is_reset(protocol) => self.phase = Phase::Gone,
            (Phase::Open, Error::Protocol(_)) => self.close(|_| Close::Protocol),
            (Phase::Open, Error::Utf8(_)) => self.close(|_| Close::NotUtf8),
            (Phase::Open, Error::Capacity(_)) => self.close(|_| Close::TooBig),
            (Phase::Closing, Error::Protocol(_) | Error::Utf8(_) | Error::Capacity(_)) => {
                self.phase = Phase::Discarding;
            }
            _ => self.phase = Phase::Gone,
        }
    }

    /// From now on only what is queued is written, until the close deadline.
    fn finish(&mut self) {
        self.phase = Phase::Finishing;
        let now_ms = self.service.now_ms();
        self.control.set_deadline(Some(
            now_ms.saturating_add(self.service.config.close_within_ms),
        ));
    }

    fn discard(&mut self, cx: &mut Context<'_>) -> Progress {
        let mut buffer = [0; 1024];
        let mut buffer = ReadBuf::new(&mut buffer);
        match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
            Poll::Pending => Progress::None,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => Progress::Made,
            Poll::Ready(_) => {
                self.finish();
                Progress::Made
            }
        }
    }
}

/// Whether the client's end of the stream came without a close frame.
fn is_reset(error: &tokio_tungstenite::tungstenite::error::ProtocolError) -> bool {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    matches!(error, ProtocolError::ResetWithoutClosingHandshake)
}
