//! Many transfers in one request.

use super::answer::{self, Body, write_array, write_integer, write_receipt};
use super::body::Memory;
use super::error::{ApiError, ErrorKind};
use super::json::{BatchFrame, read_batch};
use super::parse::{self, TRANSFER_FIELDS};
use super::service::{Answer, Ask};
use crate::event::{TimestampText, write_sequence};
use crate::ledger::{BatchItem, Command, Receipt, Refused, Reply};
use crate::types::Sequence;
use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Bytes of a usual result; a wrong guess costs a copy.
const RESULT_BYTES: usize = 208;

/// Bytes of a small item in a request; a wrong guess costs a copy, or memory for the time of the request.
const ITEM_BYTES: usize = 160;

/// A batch as it came in.
struct Batch {
    items: Vec<BatchItem>,
    /// What is wrong with the invalid items, with their places, in order.
    faults: Vec<(usize, ErrorKind)>,
    atomic: bool,
}

/// What became of one item.
type Outcome = Result<Receipt, ApiError>;

/// `POST /api/v1/transactions/batch`.
pub(super) async fn create(ask: &Ask<'_>, body: Bytes, memory: Memory) -> Answer {
    let Batch {
        items,
        faults,
        atomic,
    } = read(ask, &body)?;
    // Why now: what the ledger makes of it needs as much again.
    drop(body);
    if atomic && let Some((index, fault)) = faults.first() {
        return Err(ApiError::from(fault.clone()).at_index(*index));
    }
    let reply = if faults.len() == items.len() {
        // Nothing is left to decide.
        items.iter().map(|_| None).collect()
    } else {
        match ask
            .services()
            .ledger
            .submit(Command::Batch { items, atomic })
            .await?
        {
            Reply::Batch(results) => results,
            Reply::Transaction(_) | Reply::WalletOpened { .. } | Reply::Amended { .. } => {
                return Err(ErrorKind::Internal.into());
            }
        }
    };
    let outcomes = outcomes(reply, faults);
    let status = if atomic {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    if prefers_minimal(ask.headers) {
        let mut response = summary(status, outcomes);
        let applied = HeaderValue::from_static("return=minimal");
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
        return Ok(response);
    }
    Ok(results(status, outcomes, memory))
}

fn read(ask: &Ask<'_>, body: &[u8]) -> Result<Batch, ApiError> {
    let items_max = ask.services().config.batch_items_max;
    let items_likely = (body.len() / ITEM_BYTES).min(items_max);
    let (mut items, mut faults) = (Vec::with_capacity(items_likely), Vec::new());
    let frame = read_batch(body, &TRANSFER_FIELDS, items_max, |fields| {
        let request = fields
            .map_err(|error| ErrorKind::Shape(error.0))
            .and_then(|fields| parse::transfer(&fields, ask.rules()))
            .and_then(|request| ask.check_wallet(request.from).map(|()| request));
        match request {
            Ok(request) => items.push(BatchItem::Transfer(request)),
            Err(fault) => {
                faults.push((items.len(), fault));
                items.push(BatchItem::Invalid);
            }
        }
    });
    let BatchFrame { atomic, count } = frame.map_err(|error| ErrorKind::Shape(error.0))?;
    match count {
        0 => Err(ErrorKind::BatchEmpty.into()),
        count if count > items_max => Err(ErrorKind::BatchTooLong { items_max, count }.into()),
        _ => Ok(Batch {
            items,
            faults,
            atomic,
        }),
    }
}

/// The ledger's results with the faults found here in their places.
fn outcomes(
    results: Vec<Option<Result<Receipt, Refused>>>,
    faults: Vec<(usize, ErrorKind)>,
) -> impl Iterator<Item = Outcome> {
    let mut faults = faults.into_iter();
    results.into_iter().map(move |result| match result {
        Some(result) => result.map_err(ApiError::from),
        None => Err(faults
            .next()
            .map_or(ErrorKind::Internal, |(_, fault)| fault)
            .into()),
    })
}

fn results(
    status: StatusCode,
    outcomes: impl Iterator<Item = Outcome>,
    memory: Memory,
) -> Response<Body> {
    let mut out = Vec::with_capacity(outcomes.size_hint().0.saturating_mul(RESULT_BYTES));
    let mut time = TimestampText::default();
    out.extend_from_slice(b"{\"results\":");
    write_array(&mut out, outcomes, |out, outcome| match outcome {
        Ok(receipt) => write_receipt(out, &receipt, &mut time),
        Err(error) => error.write_item(out),
    });
    out.push(b'}');
    answer::json_with_memory(status, out, memory)
}

/// `Prefer: return=minimal`: how many, which sequences, which failed. The sequences cover failed transactions that were
/// journaled.
fn summary(status: StatusCode, outcomes: impl Iterator<Item = Outcome>) -> Response<Body> {
    let (mut count, mut failed) = (0_usize, Vec::new());
    let mut covered: Option<(Sequence, Sequence)> = None;
    for (index, outcome) in outcomes.enumerate() {
        count = count.saturating_add(1);
        let range = match &outcome {
            Ok(receipt) => Some((receipt.first_sequence, receipt.sequence)),
            Err(error) => {
                failed.push(index);
                error.journaled_sequences()
            }
        };
        covered = match (covered, range) {
            (Some((first, _)), Some((_, last))) => Some((first, last)),
            (before, range) => before.or(range),
        };
    }
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(b"{\"count\":");
    write_integer(&mut out, count);
    for (name, sequence) in [
        (",\"first_sequence\":", covered.map(|(first, _)| first)),
        (",\"last_sequence\":", covered.map(|(_, last)| last)),
    ] {
        out.extend_from_slice(name.as_bytes());
        match sequence {
            Some(sequence) => write_sequence(&mut out, sequence),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.extend_from_slice(b",\"failed\":");
    write_array(&mut out, failed, write_integer);
    out.push(b'}');
    answer::json(status, out)
}

/// RFC 7240.
fn prefers_minimal(headers: &HeaderMap) -> bool {
    let values = headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|preference| preference.trim().eq_ignore_ascii_case("return=minimal"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::BodyBudget;
    use crate::ledger::Refusal;
    use crate::types::{Status, TimestampMs, TransactionId};
    use http_body_util::BodyExt;
    use uuid::Uuid;

    fn receipt(first: u64) -> Receipt {
        Receipt {
            transaction: TransactionId(Uuid::from_u128(first.into())),
            status: Status::Completed,
            at: TimestampMs::new(1_795_387_017_045),
            first_sequence: Sequence::new(first),
            sequence: Sequence::new(first + 3),
        }
    }

    fn refused(last: u64) -> Refused {
        let journaled = Some((TransactionId(Uuid::from_u128(9)), Sequence::new(last)));
        Refused {
            refusal: Refusal::InsufficientFunds,
            journaled,
        }
    }

    async fn text(response: Response<Body>) -> String {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    fn memory() -> Memory {
        BodyBudget::new(1 << 10).reserve(Some(1), 1).unwrap()
    }

    fn some() -> impl Iterator<Item = Outcome> {
        let results = vec![None, Some(Ok(receipt(10))), Some(Err(refused(15))), None];
        let nil = ErrorKind::InvalidTransaction("nil".into());
        outcomes(results, vec![(0, nil), (3, ErrorKind::Shape("odd".into()))])
    }

    #[tokio::test]
    async fn each_item_is_answered_in_its_place() {
        let body = text(results(StatusCode::OK, some(), memory())).await;
        let expected = concat!(
            r#"{"results":[{"error":"INVALID_TRANSACTION","message":"nil"},"#,
            r#"{"transaction_id":"00000000-0000-0000-0000-00000000000a","status":"completed","#,
            r#""timestamp":"2026-11-22T22:36:57.045Z","fraud_score":0,"#,
            r#""estimated_settlement":"immediate","sequence":13},"#,
            r#"{"error":"INSUFFICIENT_FUNDS","message":"insufficient funds","#,
            r#""transaction_id":"00000000-0000-0000-0000-000000000009","sequence":15},"#,
            r#"{"error":"INVALID_REQUEST","message":"odd"}]}"#
        );
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn a_minimal_answer_covers_what_was_journaled() {
        let body = text(summary(StatusCode::OK, some())).await;
        let expected = r#"{"count":4,"first_sequence":10,"last_sequence":15,"failed":[0,2,3]}"#;
        assert_eq!(body, expected);
        let only_refused = outcomes(vec![Some(Err(refused(15)))], Vec::new());
        let body = text(summary(StatusCode::OK, only_refused)).await;
        let expected = r#"{"count":1,"first_sequence":14,"last_sequence":15,"failed":[0]}"#;
        assert_eq!(body, expected);
        let nothing = outcomes(vec![None], vec![(0, ErrorKind::BatchEmpty)]);
        let body = text(summary(StatusCode::OK, nothing)).await;
        let expected = r#"{"count":1,"first_sequence":null,"last_sequence":null,"failed":[0]}"#;
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn memory_is_given_back_when_the_answer_was_taken() {
        let budget = BodyBudget::new(1 << 10);
        let memory = budget.reserve(Some(1), 1).unwrap();
        let mut body = results(StatusCode::OK, some(), memory).into_body();
        let piece = body.frame().await;
        drop(body);
        assert!(budget.reserve(Some(1), 1).is_err(), "it is on its way yet");
        drop(piece);
        assert!(budget.reserve(Some(1), 1).is_ok());
    }

    #[test]
    fn preferences_are_read_among_others() {
        let prefers = |value: &str| {
            let pair = (PREFER, value.parse().unwrap());
            prefers_minimal(&[pair].into_iter().collect())
        };
        assert!(prefers("return=minimal"));
        assert!(prefers("wait=10, Return=Minimal"));
        assert!(!prefers("return=representation"));
        assert!(!prefers_minimal(&HeaderMap::new()));
    }
}
