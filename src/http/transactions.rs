//! Transactions: create, read, change, and the open holds.

use super::answer::{self, Body, write_integer, write_receipt, write_transaction};
use super::error::{ApiError, ErrorKind};
use super::json::read_object;
use super::parse::{self, Amending, SCORE_FIELDS, STATUS_FIELDS, TRANSFER_FIELDS};
use super::service::{Answer, Ask, Services};
use crate::event::write_sequence;
use crate::ledger::{
    AmendCommand, Change, Command, Receipt, Refusal, Reply, SubmitError, TransactionRecord,
};
use crate::types::{Sequence, TransactionId, WalletId};
use hyper::header::{HeaderValue, LOCATION};
use hyper::{Response, StatusCode};
use std::sync::Arc;
use uuid::Uuid;

/// Most holds of one `pending` page.
const PENDING_LIMIT_MAX: usize = 1000;
const PENDING_LIMIT_DEFAULT: usize = 100;

/// `POST /api/v1/transactions`.
pub(super) async fn create(ask: &Ask<'_>, body: &[u8]) -> Answer {
    let fields = read_object(body, &TRANSFER_FIELDS).map_err(|error| ErrorKind::Shape(error.0))?;
    let request = parse::transfer(&fields, ask.rules())?;
    ask.check_wallet(request.from)?;
    created(
        &ask.services()
            .ledger
            .submit(Command::Transfer(request))
            .await?,
    )
}

/// The answer to whatever creates one transaction.
pub(super) fn created(reply: &Reply) -> Answer {
    let Reply::Transaction(receipt) = reply else {
        return Err(ErrorKind::Internal.into());
    };
    let mut out = Vec::with_capacity(256);
    answer::with_time(|time| write_receipt(&mut out, receipt, time));
    let mut response = answer::json(StatusCode::CREATED, out);
    if let Some(location) = location(receipt) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

fn location(receipt: &Receipt) -> Option<HeaderValue> {
    const PREFIX: &str = "/api/v1/transactions/";
    let mut path = Vec::with_capacity(PREFIX.len() + uuid::fmt::Hyphenated::LENGTH);
    path.extend_from_slice(PREFIX.as_bytes());
    crate::event::write_uuid(&mut path, receipt.transaction.0);
    HeaderValue::from_maybe_shared(bytes::Bytes::from(path)).ok()
}

/// `GET /api/v1/transactions/{id}`.
pub(super) async fn read(ask: &Ask<'_>, id: &str) -> Answer {
    let record = visible(ask, transaction_id(id)?).await?;
    let mut out = Vec::with_capacity(2048);
    write_transaction(&mut out, &record, ask.money(), Some(&ask.services().ids));
    Ok(answer::json(StatusCode::OK, out))
}

/// `GET /api/v1/transactions/pending`.
pub(super) async fn pending(ask: &Ask<'_>) -> Answer {
    let limit = ask.query.limit(PENDING_LIMIT_DEFAULT, PENDING_LIMIT_MAX);
    let caller = ask.caller.clone();
    let visible = move |payer, receiver| caller.may_see(payer) || caller.may_see(receiver);
    let page = ask.services().queries.pending(limit, visible).await?;
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"transactions\":");
    write_list(&mut out, &page.transactions, ask);
    out.extend_from_slice(b",\"count\":");
    write_integer(&mut out, page.transactions.len());
    out.push(b'}');
    Ok(answer::json(StatusCode::OK, out))
}

/// `PATCH /api/v1/transactions/{id}/status`.
pub(super) async fn set_status(ask: &Ask<'_>, id: &str, body: &[u8]) -> Answer {
    let id = transaction_id(id)?;
    let fields = read_object(body, &STATUS_FIELDS).map_err(|error| ErrorKind::Shape(error.0))?;
    let sequence = amend(ask, id, parse::status_change(&fields, ask.rules())?).await?;
    Ok(amended("Transaction status updated successfully", sequence))
}

/// `PATCH /api/v1/transactions/{id}/fraud-score`.
pub(super) async fn set_score(ask: &Ask<'_>, id: &str, body: &[u8]) -> Answer {
    let id = transaction_id(id)?;
    let fields = read_object(body, &SCORE_FIELDS).map_err(|error| ErrorKind::Shape(error.0))?;
    let sequence = amend(ask, id, parse::score_change(&fields, ask.rules())?).await?;
    Ok(amended("Fraud score updated successfully", sequence))
}

/// Appends transactions as a list, without their audit trails.
pub(super) fn write_list(out: &mut Vec<u8>, records: &[TransactionRecord], ask: &Ask<'_>) {
    answer::write_array(out, records, |out, record| {
        write_transaction(out, record, ask.money(), None);
    });
}

fn transaction_id(text: &str) -> Result<TransactionId, ErrorKind> {
    Uuid::try_parse(text)
        .map(TransactionId)
        .map_err(|_| ErrorKind::TransactionIdFormat)
}

/// The transaction, if the caller may see it: as payer or as receiver.
async fn visible(ask: &Ask<'_>, id: TransactionId) -> Result<TransactionRecord, ApiError> {
    let record = ask.services().queries.transaction(id).await?;
    let record = record.ok_or(ErrorKind::TransactionNotFound)?;
    if ask.caller.may_see(record.from) || ask.caller.may_see(record.to) {
        Ok(record)
    } else {
        Err(ErrorKind::Forbidden("the token is not bound to a wallet of this transaction").into())
    }
}

/// Reads the transaction and asks the ledger to change it, again while others change it in between. Gives the sequence
/// of the last event.
async fn amend(ask: &Ask<'_>, id: TransactionId, amending: Amending) -> Result<Sequence, ApiError> {
    let Services {
        ledger,
        reader,
        config,
        ..
    } = ask.services();
    let Amending {
        change,
        user_id,
        details,
    } = amending;
    for _ in 0..=config.stale_retries_max {
        let read_at = reader.durable().get();
        let record = visible(ask, id).await?;
        ask.check_wallet(whose_say(&record, change))?;
        let Some(change) = change else {
            return Err(not_allowed());
        };
        let command = AmendCommand {
            record: Arc::new(record),
            change,
            user_id: user_id.clone(),
            details: details.clone(),
        };
        match ledger.submit(Command::Amend(command)).await {
            Ok(Reply::Amended { sequence, .. }) => return Ok(sequence),
            Ok(Reply::Transaction(_) | Reply::WalletOpened { .. } | Reply::Batch(_)) => {
                return Err(ErrorKind::Internal.into());
            }
            Err(SubmitError::Stale) => {
                // Why the result does not matter: whether it moved or not, the next try tells.
                let moved = reader.durable().wait_for(read_at.next());
                let _ = tokio::time::timeout(config.stale_wait, moved).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(SubmitError::Stale.into())
}

/// The wallet whose holder decides about `change`: who gives the money up. A reversal takes it from the receiver, so that
/// nobody can take a payment back on his own.
const fn whose_say(record: &TransactionRecord, change: Option<Change>) -> WalletId {
    match change {
        Some(Change::Reverse) => record.to,
        _ => record.from,
    }
}

fn not_allowed() -> ApiError {
    ErrorKind::Refused(Refusal::InvalidStatusTransition).into()
}

fn amended(message: &'static str, sequence: Sequence) -> Response<Body> {
    let mut out = Vec::with_capacity(96);
    out.extend_from_slice(b"{\"message\":\"");
    out.extend_from_slice(message.as_bytes());
    out.extend_from_slice(b"\",\"sequence\":");
    write_sequence(&mut out, sequence);
    out.push(b'}');
    answer::json(StatusCode::OK, out)
}
