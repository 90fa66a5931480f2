//! Answers as bytes: written by hand into one buffer, as the hot path wants it.

use super::backup::{BackupCut, BackupStream};
use super::body::Memory;
use super::http2::Progress;
use crate::event::{TimestampText, currency_code, write_sequence, write_uuid};
use crate::ids::IdCipher;
use crate::journal::{Body as EntryBody, EventDetail, EventKind};
use crate::ledger::{Receipt, TransactionRecord};
use crate::money;
use crate::types::{Currencies, Currency, MinorUnits, Status, TimestampMs};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Frame, SizeHint};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};
use std::cell::RefCell;
use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Bytes of an answer that are handed to HTTP/2 at once. Why: what it was given waits in memory until the client takes it.
const PIECE_BYTES: usize = 16 << 10;

/// The body of every answer.
#[derive(Debug)]
pub struct Body {
    inner: Inner,
    /// For HTTP/2.
    pieces: Option<Pieces>,
}

/// What makes pieces of an answer.
#[derive(Debug)]
struct Pieces {
    /// Of what was made or read, not handed over yet.
    rest: Bytes,
    progress: Progress,
}

impl Body {
    /// The same, given out in pieces that `progress` hears of.
    pub(super) fn in_pieces(self, progress: Progress) -> Self {
        let rest = Bytes::new();
        Self {
            pieces: Some(Pieces { rest, progress }),
            ..self
        }
    }
}

impl From<Inner> for Body {
    fn from(inner: Inner) -> Self {
        Self {
            inner,
            pieces: None,
        }
    }
}

#[derive(Debug)]
enum Inner {
    /// Made in memory.
    Whole(Full<Bytes>),
    /// Read while it goes out.
    Backup(Box<BackupStream>),
}

impl From<Full<Bytes>> for Body {
    fn from(whole: Full<Bytes>) -> Self {
        Inner::Whole(whole).into()
    }
}

impl From<BackupStream> for Body {
    fn from(stream: BackupStream) -> Self {
        Inner::Backup(Box::new(stream)).into()
    }
}

impl Inner {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BackupCut>>> {
        match self {
            Self::Whole(whole) => Pin::new(whole)
                .poll_frame(cx)
                .map_err(|never: Infallible| match never {}),
            Self::Backup(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Backup(stream) => stream.is_ended(),
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BackupCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BackupCut>>> {
        let Self { inner, pieces } = &mut *self;
        let Some(Pieces { rest, progress }) = pieces else {
            return inner.poll_frame(cx);
        };
        progress.step();
        if rest.is_empty() {
            let polled = inner.poll_frame(cx);
            progress.set_making(polled.is_pending());
            let frame = match ready!(polled) {
                Some(Ok(frame)) => frame,
                ended => return Poll::Ready(ended),
            };
            match frame.into_data() {
                Ok(data) => *rest = data,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        let mut piece_bytes = rest.len().min(PIECE_BYTES);
        if piece_bytes == rest.len() && piece_bytes > 1 && inner.is_end_stream() {
            // IMPORTANT: the last byte goes by itself. hyper hands a piece over as soon as the client takes a byte of it,
            // and is done with the answer when that was the last one: the rest would wait with nobody to watch it.
            piece_bytes -= 1;
        }
        Poll::Ready(Some(Ok(Frame::data(rest.split_to(piece_bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        let is_given = self.pieces.as_ref().is_none_or(|it| it.rest.is_empty());
        is_given && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Whole(whole) => {
                let rest = self.pieces.as_ref().map_or(0, |it| it.rest.len());
                let left = whole.size_hint().exact().unwrap_or_default();
                SizeHint::with_exact(left.saturating_add(u64::try_from(rest).unwrap_or(u64::MAX)))
            }
            Inner::Backup(_) => SizeHint::default(),
        }
    }
}

/// How the client wants its answer, by `Accept`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Style {
    /// Amounts as strings with all decimals (`application/json; amounts=string`).
    pub(super) amounts_as_strings: bool,
    /// Errors by RFC 9457 (`application/problem+json`).
    pub(super) problem: bool,
}

impl Style {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut style = Self::default();
        for accept in headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
        {
            for range in accept.split(',') {
                let mut parts = range.split(';').map(str::trim);
                let media = parts.next().unwrap_or_default();
                style.problem |= media.eq_ignore_ascii_case("application/problem+json");
                style.amounts_as_strings |= media.eq_ignore_ascii_case("application/json")
                    && parts.any(|parameter| parameter.eq_ignore_ascii_case("amounts=string"));
            }
        }
        style
    }
}

/// An answer of JSON.
pub(super) fn json(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    with_type(status, body, HeaderValue::from_static("application/json"))
}

/// An answer of JSON that holds `memory` until the client has taken it.
pub(super) fn json_with_memory(
    status: StatusCode,
    bytes: Vec<u8>,
    memory: Memory,
) -> Response<Body> {
    struct Held {
        bytes: Vec<u8>,
        _memory: Memory,
    }
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    let held = Held {
        bytes,
        _memory: memory,
    };
    let body = Full::new(Bytes::from_owner(held)).into();
    with_body(status, body, HeaderValue::from_static("application/json"))
}

/// An answer of any type.
pub(super) fn with_type(status: StatusCode, body: Vec<u8>, media: HeaderValue) -> Response<Body> {
    with_body(status, Full::new(Bytes::from(body)).into(), media)
}

/// An answer of any type and body.
pub(super) fn with_body(status: StatusCode, body: Body, media: HeaderValue) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).into());
    *response.status_mut() = status;
    response
}

/// Appends `text` as a JSON string.
pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    // Writing a string into a Vec cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Appends the time without quotes.
pub(super) fn write_time(out: &mut Vec<u8>, at: TimestampMs) {
    // Writing into a Vec cannot fail.
    let _ = write!(out, "{at}");
}

/// Lends the thread's text of the time: many answers are of one second.
pub(super) fn with_time<T>(write: impl FnOnce(&mut TimestampText) -> T) -> T {
    thread_local! {
        static TIME: RefCell<TimestampText> = RefCell::default();
    }
    TIME.with_borrow_mut(write)
}

/// Appends a whole number.
pub(super) fn write_integer(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// How money is written in one answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct MoneyWriter<'c> {
    pub(super) currencies: &'c Currencies,
    pub(super) style: Style,
}

impl MoneyWriter<'_> {
    /// Appends an amount as the client wants it.
    pub(super) fn amount(self, out: &mut Vec<u8>, amount: MinorUnits, currency: Currency) {
        self.total(out, i128::from(amount.get()), currency);
    }

    /// Appends a sum of amounts.
    pub(super) fn total(self, out: &mut Vec<u8>, amount_minor: i128, currency: Currency) {
        let exponent = self.currencies.get(currency).map_or(0, |row| row.exponent);
        if self.style.amounts_as_strings {
            out.push(b'"');
            money::write_full(out, amount_minor, exponent);
            out.push(b'"');
        } else {
            money::write_number(out, amount_minor, exponent);
        }
    }

    /// Appends the quoted code.
    pub(super) fn currency(self, out: &mut Vec<u8>, currency: Currency) {
        out.push(b'"');
        out.extend_from_slice(currency_code(self.currencies, currency).as_bytes());
        out.push(b'"');
    }
}

/// Appends what a recorded transaction is answered with.
pub(super) fn write_receipt(out: &mut Vec<u8>, receipt: &Receipt, time: &mut TimestampText) {
    out.extend_from_slice(b"{\"transaction_id\":\"");
    write_uuid(out, receipt.transaction.0);
    out.extend_from_slice(b"\",\"status\":\"");
    out.extend_from_slice(receipt.status.as_str().as_bytes());
    out.extend_from_slice(b"\",\"timestamp\":\"");
    out.extend_from_slice(time.get(receipt.at));
    out.extend_from_slice(b"\",\"fraud_score\":0,\"estimated_settlement\":\"");
    out.extend_from_slice(match receipt.status {
        Status::Pending => b"on_capture",
        Status::Completed | Status::Failed | Status::Reversed => b"immediate",
    });
    out.extend_from_slice(b"\",\"sequence\":");
    write_sequence(out, receipt.sequence);
    out.push(b'}');
}

/// Appends `items` as a JSON array, each written by `write`.
pub(super) fn write_array<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// Appends a transaction, with its audit trail when `ids` are given to number it.
pub(super) fn write_transaction(
    out: &mut Vec<u8>,
    record: &TransactionRecord,
    money: MoneyWriter<'_>,
    ids: Option<&IdCipher>,
) {
    out.extend_from_slice(b"{\"id\":\"");
    write_uuid(out, record.id.0);
    out.extend_from_slice(b"\",\"from_wallet\":\"");
    write_uuid(out, record.from.uuid());
    out.extend_from_slice(b"\",\"to_wallet\":\"");
    write_uuid(out, record.to.uuid());
    out.extend_from_slice(b"\",\"amount\":");
    money.amount(out, record.amount, record.currency);
    out.extend_from_slice(b",\"currency\":");
    money.currency(out, record.currency);
    out.extend_from_slice(b",\"status\":\"");
    out.extend_from_slice(record.status.as_str().as_bytes());
    out.extend_from_slice(b"\",\"fraud_score\":");
    money::write_score(out, record.fraud_score);
    out.extend_from_slice(b",\"created_at\":\"");
    write_time(out, record.created_at);
    out.extend_from_slice(b"\",\"settled_at\":");
    write_optional_time(out, record.settled_at);
    out.extend_from_slice(b",\"metadata\":");
    out.extend_from_slice(record.metadata.as_deref().unwrap_or("null").as_bytes());
    if let Some(ids) = ids {
        out.extend_from_slice(b",\"audit_trail\":");
        write_audit_trail(out, record, ids);
        write_expiry(out, record);
    }
    out.extend_from_slice(b",\"sequence\":");
    write_sequence(out, record.sequence);
    out.push(b'}');
}

fn write_optional_time(out: &mut Vec<u8>, at: Option<TimestampMs>) {
    match at {
        None => out.extend_from_slice(b"null"),
        Some(at) => {
            out.push(b'"');
            write_time(out, at);
            out.push(b'"');
        }
    }
}

/// When an open hold ends.
fn write_expiry(out: &mut Vec<u8>, record: &TransactionRecord) {
    let expires_at = record.entries.iter().find_map(|entry| match &entry.body {
        EntryBody::HoldPlaced(hold) => Some(hold.expires_at),
        EntryBody::WalletOpened(_)
        | EntryBody::Transfer(_)
        | EntryBody::Issuance(_)
        | EntryBody::Redemption(_)
        | EntryBody::TransferRefused(_)
        | EntryBody::HoldCaptured(_)
        | EntryBody::HoldVoided(_)
        | EntryBody::Reversal(_)
        | EntryBody::FraudScored(_) => None,
    });
    if record.status == Status::Pending && expires_at.is_some() {
        out.extend_from_slice(b",\"expires_at\":");
        write_optional_time(out, expires_at);
    }
}

/// One item for each transaction event of the entries: the same number, id and time as the event told outside.
fn write_audit_trail(out: &mut Vec<u8>, record: &TransactionRecord, ids: &IdCipher) {
    let mut previous_state: Option<Status> = None;
    let events = record.entries.iter().flat_map(|entry| {
        let amendment = entry.body.amendment();
        entry.events().map(move |event| (event, amendment))
    });
    let of_transaction = events.filter_map(|(event, amendment)| match event.detail {
        EventDetail::Transaction(detail) => Some((event, detail, amendment)),
        EventDetail::Balance(_) | EventDetail::Wallet(_) => None,
    });
    write_array(out, of_transaction, |out, (event, detail, amendment)| {
        out.extend_from_slice(b"{\"id\":\"");
        write_uuid(out, ids.event_id(event.sequence, event.at).0);
        out.extend_from_slice(b"\",\"transaction_id\":\"");
        write_uuid(out, record.id.0);
        out.extend_from_slice(b"\",\"action\":\"");
        out.extend_from_slice(action(detail.kind).as_bytes());
        out.extend_from_slice(b"\",\"previous_state\":");
        match previous_state.replace(detail.status) {
            None => out.extend_from_slice(b"null"),
            Some(status) => write_string(out, status.as_str()),
        }
        out.extend_from_slice(b",\"new_state\":\"");
        out.extend_from_slice(detail.status.as_str().as_bytes());
        out.extend_from_slice(b"\",\"timestamp\":\"");
        write_time(out, event.at);
        out.extend_from_slice(b"\",\"user_id\":");
        match amendment.and_then(|amendment| amendment.user_id.as_deref()) {
            None => out.extend_from_slice(b"null"),
            Some(user_id) => write_string(out, user_id),
        }
        out.extend_from_slice(b",\"service_id\":\"transaction-service\",\"details\":");
        let details = amendment.and_then(|amendment| amendment.details.as_deref());
        out.extend_from_slice(details.unwrap_or("null").as_bytes());
        out.extend_from_slice(b",\"signature\":null,\"sequence\":");
        write_sequence(out, event.sequence);
        if let Some((old, new)) = detail.scores {
            out.extend_from_slice(b",\"old_fraud_score\":");
            money::write_score(out, old);
            out.extend_from_slice(b",\"new_fraud_score\":");
            money::write_score(out, new);
        }
        if let Some(reason) = detail.reason {
            out.extend_from_slice(b",\"reason\":\"");
            out.extend_from_slice(reason.code().as_bytes());
            out.push(b'"');
        }
        out.push(b'}');
    });
}

/// The word of the audit trail for an event.
const fn action(kind: EventKind) -> &'static str {
    match kind {
        EventKind::TransactionCreated => "created",
        EventKind::TransactionCompleted => "completed",
        EventKind::TransactionFailed => "failed",
        EventKind::TransactionReversed => "reversed",
        EventKind::FraudScoreUpdated => "fraud_score_updated",
        EventKind::BalanceUpdated => "balance_updated",
        EventKind::WalletOpened => "wallet_opened",
    }
}
