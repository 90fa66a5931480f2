//! What went wrong, as status, code and body: the only such table.
//!
//! Three shapes came with the old service and stay: `{"error":"Invalid request format","details":…}`,
//! `{"error":"Invalid … ID format"}`, and `{error:CODE,message,service,timestamp}`. With
//! `Accept: application/problem+json` all of them are RFC 9457.

use super::answer::{self, Body, Style};
use crate::auth::AuthError;
use crate::event::{write_sequence, write_uuid};
use crate::journal::ReadError;
use crate::ledger::{QueryError, Refusal, Refused, SubmitError};
use crate::money::AmountError;
use crate::types::{Sequence, TimestampMs, TransactionId};
use hyper::header::{ALLOW, CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use std::borrow::Cow;
use std::io::Write;
use tracing::error;

/// What `cursor` has to be.
pub(super) const CURSOR_EXPECTED: &str = "the next_cursor of a page";

/// What went wrong. The text is the `message` (or `details`) of the answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum ErrorKind {
    /// The body is not JSON of the expected shape.
    #[error("{0}")]
    Shape(Cow<'static, str>),
    #[error("Invalid transaction ID format")]
    TransactionIdFormat,
    #[error("Invalid wallet ID format")]
    WalletIdFormat,
    #[error("{name} must be {expected}")]
    Parameter {
        name: &'static str,
        expected: &'static str,
    },
    #[error(
        "offset must be at most {offset_max}; continue with cursor= (next_cursor of the page before)"
    )]
    OffsetTooLarge { offset_max: usize },
    /// The shape is right, a value is not.
    #[error("{0}")]
    InvalidTransaction(Cow<'static, str>),
    #[error("{0}")]
    InvalidWallet(Cow<'static, str>),
    #[error("metadata is larger than {bytes_max} bytes")]
    MetadataTooLarge { bytes_max: usize },
    #[error("metadata is nested deeper than {depth_max} levels")]
    MetadataTooDeep { depth_max: usize },
    #[error("details are larger than {bytes_max} bytes")]
    DetailsTooLarge { bytes_max: usize },
    #[error("details are nested deeper than {depth_max} levels")]
    DetailsTooDeep { depth_max: usize },
    #[error("user_id is longer than {bytes_max} bytes")]
    UserIdTooLong { bytes_max: usize },
    #[error("a batch has at least one transaction")]
    BatchEmpty,
    #[error("a batch has at most {items_max} transactions, this one has {count}")]
    BatchTooLong { items_max: usize, count: usize },
    #[error("the body is larger than {bytes_max} bytes")]
    BodyTooLarge { bytes_max: usize },
    #[error("the body ended early")]
    BodyIncomplete,
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("Content-Length or Transfer-Encoding is required")]
    LengthRequired,
    #[error("Content-Type must be application/json")]
    UnsupportedMediaType,
    #[error("no such resource")]
    NotFound,
    #[error("the method is not allowed here, only: {allow}")]
    MethodNotAllowed { allow: &'static str },
    #[error("{0}")]
    Auth(AuthError),
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("transaction not found")]
    TransactionNotFound,
    #[error("{0}")]
    Refused(Refusal),
    #[error("the ledger is busy, retry later")]
    LedgerBusy,
    #[error("too much batch data is being read, retry later")]
    BatchMemory,
    #[error("too many requests at once, retry later")]
    TooManyRequests,
    #[error("storage unavailable, nothing was recorded")]
    StorageUnavailable,
    #[error("the disk is full, nothing was recorded")]
    DiskFull,
    #[error("the journal cannot be read there")]
    StorageUnreadable,
    #[error("no answer in time: the request may or may not have been recorded")]
    OutcomeUnknown,
    #[error("the query was stopped, retry later")]
    QueryStopped,
    #[error("no answer in time")]
    QueryTimeout,
    #[error("more than {entries_max} entries would have to be read; narrow the query")]
    QueryTooLarge { entries_max: u64 },
    #[error("archived: the journal starts at sequence {oldest}")]
    Archived { oldest: Sequence },
    #[error("another backup is being taken, retry later")]
    BackupRunning,
    #[error("an unexpected answer of the ledger")]
    Internal,
}

impl ErrorKind {
    /// Status and code, of every error.
    pub(super) const fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Shape(_) | Self::BodyIncomplete => (StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
            Self::TransactionIdFormat => (StatusCode::BAD_REQUEST, "INVALID_TRANSACTION_ID"),
            Self::WalletIdFormat => (StatusCode::BAD_REQUEST, "INVALID_WALLET_ID"),
            Self::Parameter { .. } => (StatusCode::BAD_REQUEST, "INVALID_PARAMETER"),
            Self::OffsetTooLarge { .. } => (StatusCode::BAD_REQUEST, "OFFSET_TOO_LARGE"),
            Self::InvalidTransaction(_) => (StatusCode::BAD_REQUEST, "INVALID_TRANSACTION"),
            Self::InvalidWallet(_) => (StatusCode::BAD_REQUEST, "INVALID_WALLET"),
            Self::MetadataTooLarge { .. } => (StatusCode::BAD_REQUEST, "METADATA_TOO_LARGE"),
            Self::MetadataTooDeep { .. } => (StatusCode::BAD_REQUEST, "METADATA_TOO_DEEP"),
            Self::DetailsTooLarge { .. } => (StatusCode::BAD_REQUEST, "DETAILS_TOO_LARGE"),
            Self::DetailsTooDeep { .. } => (StatusCode::BAD_REQUEST, "DETAILS_TOO_DEEP"),
            Self::UserIdTooLong { .. } => (StatusCode::BAD_REQUEST, "USER_ID_TOO_LONG"),
            Self::BatchEmpty => (StatusCode::BAD_REQUEST, "BATCH_EMPTY"),
            Self::BatchTooLong { .. } => (StatusCode::BAD_REQUEST, "BATCH_TOO_LONG"),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT"),
            Self::LengthRequired => (StatusCode::LENGTH_REQUIRED, "LENGTH_REQUIRED"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE")
            }
            Self::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
            Self::Auth(AuthError::Missing | AuthError::Invalid) => {
                (StatusCode::UNAUTHORIZED, "UNAUTHORIZED")
            }
            Self::Auth(AuthError::StrangeHost) => (StatusCode::FORBIDDEN, "HOST_NOT_ALLOWED"),
            Self::Auth(AuthError::StrangeOrigin) => (StatusCode::FORBIDDEN, "ORIGIN_NOT_ALLOWED"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "FORBIDDEN"),
            Self::TransactionNotFound => (StatusCode::NOT_FOUND, "TRANSACTION_NOT_FOUND"),
            Self::Refused(refusal) => (refusal_status(*refusal), refusal.code()),
            Self::LedgerBusy | Self::BatchMemory => {
                (StatusCode::SERVICE_UNAVAILABLE, "LEDGER_BUSY")
            }
            Self::TooManyRequests => (StatusCode::SERVICE_UNAVAILABLE, "TOO_MANY_REQUESTS"),
            Self::StorageUnavailable | Self::StorageUnreadable | Self::QueryStopped => {
                (StatusCode::SERVICE_UNAVAILABLE, "STORAGE_UNAVAILABLE")
            }
            Self::DiskFull => (StatusCode::SERVICE_UNAVAILABLE, "DISK_FULL"),
            Self::OutcomeUnknown => (StatusCode::GATEWAY_TIMEOUT, "OUTCOME_UNKNOWN"),
            Self::QueryTimeout => (StatusCode::GATEWAY_TIMEOUT, "QUERY_TIMEOUT"),
            Self::QueryTooLarge { .. } => (StatusCode::BAD_REQUEST, "QUERY_TOO_LARGE"),
            Self::Archived { .. } => (StatusCode::GONE, "ARCHIVED"),
            Self::BackupRunning => (StatusCode::SERVICE_UNAVAILABLE, "BACKUP_RUNNING"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
        }
    }

    /// The code alone.
    pub(super) const fn code(&self) -> &'static str {
        self.status_and_code().1
    }

    /// Seconds after which a retry of what was refused with 503 may help. A full disk waits for the operator.
    const fn retry_after(&self) -> &'static str {
        match self {
            Self::DiskFull => "10",
            _ => "1",
        }
    }

    /// Whether the body may be unread: the connection cannot be used again then.
    const fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::BodyTooLarge { .. } | Self::BodyTimeout | Self::BodyIncomplete
        )
    }
}

const fn refusal_status(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::WalletNotFound(_) => StatusCode::NOT_FOUND,
        Refusal::InsufficientFunds => StatusCode::PAYMENT_REQUIRED,
        Refusal::TooManyHolds => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::WalletExists(_)
        | Refusal::BalanceOverflow
        | Refusal::InvalidStatusTransition
        | Refusal::AuditTrailFull => StatusCode::CONFLICT,
    }
}

/// An error with what it left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ApiError {
    pub(super) kind: ErrorKind,
    /// The failed transaction that was journaled, with the sequence of its last event.
    journaled: Option<(TransactionId, Sequence)>,
    /// Which item of an atomic batch.
    index: Option<usize>,
}

impl From<ErrorKind> for ApiError {
    fn from(kind: ErrorKind) -> Self {
        Self {
            kind,
            journaled: None,
            index: None,
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self {
            kind: ErrorKind::Refused(refused.refusal),
            journaled: refused.journaled,
            index: None,
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            // Why busy: who asked has given up re-reading a transaction that others keep changing.
            SubmitError::Busy | SubmitError::Stale => ErrorKind::LedgerBusy.into(),
            SubmitError::Refused(refused) => refused.into(),
            SubmitError::BatchRefused { index, refusal } => {
                Self::from(ErrorKind::Refused(refusal)).at_index(index)
            }
            SubmitError::Unavailable => ErrorKind::StorageUnavailable.into(),
            SubmitError::DiskFull => ErrorKind::DiskFull.into(),
            SubmitError::Unknown => ErrorKind::OutcomeUnknown.into(),
        }
    }
}

impl From<QueryError> for ApiError {
    fn from(query_error: QueryError) -> Self {
        match query_error {
            QueryError::Stopped => ErrorKind::QueryStopped.into(),
            QueryError::Panicked => {
                error!("a query panicked");
                ErrorKind::Internal.into()
            }
            QueryError::InvalidCursor => ErrorKind::Parameter {
                name: "cursor",
                expected: CURSOR_EXPECTED,
            }
            .into(),
            QueryError::TooMuch { entries_max } => ErrorKind::QueryTooLarge { entries_max }.into(),
            QueryError::Read(ReadError::Archived { oldest }) => {
                ErrorKind::Archived { oldest }.into()
            }
            QueryError::Read(read_error @ ReadError::Unreadable { .. }) => {
                error!(error = %read_error, "a query found the journal unreadable");
                ErrorKind::StorageUnreadable.into()
            }
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        ErrorKind::Auth(error).into()
    }
}

impl From<AmountError> for ErrorKind {
    fn from(error: AmountError) -> Self {
        match error {
            AmountError::NotANumber => Self::Shape("amount must be a decimal number".into()),
            AmountError::TooManyDecimals | AmountError::NotPositive | AmountError::TooLarge => {
                Self::InvalidTransaction(error.to_string().into())
            }
        }
    }
}

impl ApiError {
    /// The same, about the item `index` of a batch.
    pub(super) fn at_index(self, index: usize) -> Self {
        Self {
            index: Some(index),
            ..self
        }
    }

    /// First and last sequence of the failed transaction that was journaled: it tells of its creation and its failure.
    pub(super) fn journaled_sequences(&self) -> Option<(Sequence, Sequence)> {
        self.journaled.map(|(_, last)| (last.previous(), last))
    }

    /// The whole answer.
    pub(super) fn response(&self, style: Style, now: TimestampMs) -> Response<Body> {
        let status = self.kind.status_and_code().0;
        let mut out = Vec::with_capacity(256);
        let mut response = if style.problem {
            self.write_problem(&mut out, status);
            answer::with_type(
                status,
                out,
                HeaderValue::from_static("application/problem+json"),
            )
        } else {
            self.write_body(&mut out, now);
            answer::json(status, out)
        };
        let headers = response.headers_mut();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = self.kind.retry_after();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let ErrorKind::MethodNotAllowed { allow } = self.kind {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.kind.ends_connection() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// As an item of a batch's results: `{"error":CODE,"message":…}` with what it left behind.
    pub(super) fn write_item(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"error\":\"");
        out.extend_from_slice(self.kind.code().as_bytes());
        out.extend_from_slice(b"\",\"message\":");
        answer::write_string(out, &self.kind.to_string());
        self.write_rest(out);
        out.push(b'}');
    }

    fn write_body(&self, out: &mut Vec<u8>, now: TimestampMs) {
        match &self.kind {
            ErrorKind::Shape(details) => {
                out.extend_from_slice(b"{\"error\":\"Invalid request format\",\"details\":");
                answer::write_string(out, details);
            }
            kind @ (ErrorKind::TransactionIdFormat | ErrorKind::WalletIdFormat) => {
                out.extend_from_slice(b"{\"error\":");
                answer::write_string(out, &kind.to_string());
            }
            kind => {
                out.extend_from_slice(b"{\"error\":\"");
                out.extend_from_slice(kind.code().as_bytes());
                out.extend_from_slice(b"\",\"message\":");
                answer::write_string(out, &kind.to_string());
                out.extend_from_slice(b",\"service\":\"transaction-service\",\"timestamp\":\"");
                answer::write_time(out, now);
                out.push(b'"');
            }
        }
        self.write_rest(out);
        out.push(b'}');
    }

    fn write_problem(&self, out: &mut Vec<u8>, status: StatusCode) {
        let code = self.kind.code();
        let name = code.to_ascii_lowercase();
        let title = status.canonical_reason().unwrap_or_default();
        // Writing into a Vec cannot fail.
        let _ = write!(
            out,
            "{{\"type\":\"urn:echopay:error:{name}\",\"title\":\"{title}\",\"status\":{},\"detail\":",
            status.as_u16()
        );
        answer::write_string(out, &self.kind.to_string());
        out.extend_from_slice(b",\"code\":\"");
        out.extend_from_slice(code.as_bytes());
        out.push(b'"');
        self.write_rest(out);
        out.push(b'}');
    }

    fn write_rest(&self, out: &mut Vec<u8>) {
        if let Some((transaction, sequence)) = self.journaled {
            out.extend_from_slice(b",\"transaction_id\":\"");
            write_uuid(out, transaction.0);
            out.extend_from_slice(b"\",\"sequence\":");
            write_sequence(out, sequence);
        }
        if let Some(index) = self.index {
            out.extend_from_slice(b",\"index\":");
            out.extend_from_slice(itoa::Buffer::new().format(index).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use hyper::header::CONTENT_TYPE;
    use uuid::Uuid;

    const NOW: TimestampMs = TimestampMs::new(1_795_387_017_045);
    const PROBLEM: Style = Style {
        problem: true,
        amounts_as_strings: false,
    };

    async fn answer(error: impl Into<ApiError>, style: Style) -> (u16, String, hyper::HeaderMap) {
        let (parts, body) = error.into().response(style, NOW).into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            parts.status.as_u16(),
            String::from_utf8(body.to_vec()).unwrap(),
            parts.headers,
        )
    }

    #[tokio::test]
    async fn the_shapes_of_the_old_service_stay() {
        let (status, body, _) = answer(ErrorKind::Shape("x".into()), Style::default()).await;
        assert_eq!(
            (status, &*body),
            (400, r#"{"error":"Invalid request format","details":"x"}"#)
        );
        let (status, body, _) = answer(ErrorKind::TransactionIdFormat, Style::default()).await;
        assert_eq!(
            (status, &*body),
            (400, r#"{"error":"Invalid transaction ID format"}"#)
        );
        let (status, body, _) = answer(ErrorKind::WalletIdFormat, Style::default()).await;
        assert_eq!(
            (status, &*body),
            (400, r#"{"error":"Invalid wallet ID format"}"#)
        );
        let (status, body, _) = answer(ErrorKind::TransactionNotFound, Style::default()).await;
        let expected = r#"{"error":"TRANSACTION_NOT_FOUND","message":"transaction not found","service":"transaction-service","timestamp":"2026-11-22T22:36:57.045Z"}"#;
        assert_eq!((status, &*body), (404, expected));
    }

    #[tokio::test]
    async fn a_journaled_refusal_tells_its_transaction_and_sequence() {
        let refused = Refused {
            refusal: Refusal::InsufficientFunds,
            journaled: Some((TransactionId(Uuid::from_u128(7)), Sequence::new(42))),
        };
        let (status, body, _) = answer(refused, Style::default()).await;
        assert_eq!(status, 402);
        let tail = r#","transaction_id":"00000000-0000-0000-0000-000000000007","sequence":42}"#;
        assert!(
            body.starts_with(r#"{"error":"INSUFFICIENT_FUNDS","#) && body.ends_with(tail),
            "{body}"
        );
        let (_, body, headers) = answer(refused, PROBLEM).await;
        let head = r#"{"type":"urn:echopay:error:insufficient_funds","title":"Payment Required","status":402,"detail":"insufficient funds","code":"INSUFFICIENT_FUNDS","#;
        assert!(body.starts_with(head) && body.ends_with(tail), "{body}");
        assert_eq!(
            headers.get(CONTENT_TYPE).unwrap(),
            "application/problem+json"
        );
    }

    #[tokio::test]
    async fn an_atomic_batch_names_the_item() {
        let refused = SubmitError::BatchRefused {
            index: 3,
            refusal: Refusal::BalanceOverflow,
        };
        let (status, body, _) = answer(refused, Style::default()).await;
        assert_eq!(status, 409);
        assert!(body.ends_with(",\"index\":3}"), "{body}");
    }

    #[tokio::test]
    async fn an_answer_says_what_to_do_next() {
        let allow = "GET, HEAD, OPTIONS";
        for (error, expected_status, name, value) in [
            (ApiError::from(SubmitError::Busy), 503, RETRY_AFTER, "1"),
            (SubmitError::DiskFull.into(), 503, RETRY_AFTER, "10"),
            (AuthError::Missing.into(), 401, WWW_AUTHENTICATE, "Bearer"),
            (
                ErrorKind::MethodNotAllowed { allow }.into(),
                405,
                ALLOW,
                allow,
            ),
            (
                ErrorKind::BodyTooLarge { bytes_max: 1 }.into(),
                413,
                CONNECTION,
                "close",
            ),
        ] {
            let (status, _, headers) = answer(error, Style::default()).await;
            assert_eq!(status, expected_status);
            assert_eq!(headers.get(name).unwrap(), value);
        }
    }

    #[test]
    fn every_refusal_has_a_status_of_its_meaning() {
        let wallet = crate::types::WalletId::new(Uuid::from_u128(1)).unwrap();
        for (refusal, status) in [
            (Refusal::WalletNotFound(wallet), 404),
            (Refusal::WalletExists(wallet), 409),
            (Refusal::InsufficientFunds, 402),
            (Refusal::BalanceOverflow, 409),
            (Refusal::InvalidStatusTransition, 409),
            (Refusal::AuditTrailFull, 409),
            (Refusal::TooManyHolds, 503),
        ] {
            assert_eq!(
                ErrorKind::Refused(refusal).status_and_code().0.as_u16(),
                status
            );
        }
    }
}
