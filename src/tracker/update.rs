//! Status updates: what subscribers hear of an entry, and how it looks as JSON.
//!
//! An update is encoded once for all who hear it. Only the subscriber ids differ between connections; they stand last,
//! so that the shared bytes are a prefix and the tail is appended when the message is written.

use crate::journal::{Entry, Event, EventDetail, EventKind};
use crate::money;
use crate::types::{FraudScore, Sequence, Status, TimestampMs, TransactionId, WalletId};
use std::sync::Arc;
use uuid::Uuid;

/// A score above this many millionths is a high risk.
const HIGH_RISK_MILLIONTHS: u32 = 700_000;
/// A score above this many millionths is a medium risk.
const MEDIUM_RISK_MILLIONTHS: u32 = 300_000;

/// What one event of a transaction means to its subscribers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusUpdate {
    /// Number of the event.
    pub sequence: Sequence,
    /// When it happened.
    pub at: TimestampMs,
    /// Which transaction.
    pub transaction: TransactionId,
    /// Who pays.
    pub from: WalletId,
    /// Who receives.
    pub to: WalletId,
    /// The transaction's status after the event.
    pub status: Status,
    /// Its score after the event.
    pub fraud_score: FraudScore,
    /// The text for people, as the wire contract has it.
    pub message: &'static str,
}

impl StatusUpdate {
    /// The updates of `entry`, in order. Balance and wallet events give none.
    pub fn of(entry: &Entry) -> impl Iterator<Item = Self> {
        let captured = entry.body.amendment().is_some();
        entry
            .events()
            .filter_map(move |event| Self::of_event(&event, captured))
    }

    /// `captured`: a completion ends a hold, and was not part of the transaction's creation.
    fn of_event(event: &Event<'_>, captured: bool) -> Option<Self> {
        let EventDetail::Transaction(detail) = &event.detail else {
            return None;
        };
        let message = match detail.kind {
            EventKind::TransactionCreated => "Transaction created and processing",
            EventKind::TransactionCompleted if captured => "Transaction completed",
            EventKind::TransactionCompleted => "Transaction completed successfully",
            EventKind::TransactionFailed => "Transaction failed",
            EventKind::TransactionReversed => "Transaction reversed",
            EventKind::FraudScoreUpdated => risk(detail.fraud_score),
            EventKind::BalanceUpdated | EventKind::WalletOpened => return None,
        };
        Some(Self {
            sequence: event.sequence,
            at: event.at,
            transaction: detail.transaction,
            from: detail.from,
            to: detail.to,
            status: detail.status,
            fraud_score: detail.fraud_score,
            message,
        })
    }
}

fn risk(score: FraudScore) -> &'static str {
    match score.millionths() {
        millionths if millionths > HIGH_RISK_MILLIONTHS => "High fraud risk detected",
        millionths if millionths > MEDIUM_RISK_MILLIONTHS => "Medium fraud risk detected",
        _ => "Low fraud risk",
    }
}

/// An update as JSON without its end, shared by all queues it stands in.
#[derive(PartialEq, Eq, Debug)]
pub struct EncodedUpdate {
    sequence: Sequence,
    /// `{"type":"status_update",…,"sequence":N`; the subscriber ids and the closing brace are missing.
    head: Box<[u8]>,
}

const TAIL_START: &[u8] = b",\"subscriber_ids\":[";
const TAIL_END: &[u8] = b"]}";
/// Bytes of a quoted UUID and its comma.
const TAIL_ID_BYTES: usize = 36 + 2 + 1;

impl EncodedUpdate {
    /// Its number.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Bytes of the whole message when it goes to `subscribers` subscriptions; at least 1.
    pub fn size_bytes(&self, subscribers: usize) -> usize {
        self.head.len()
            + TAIL_START.len()
            + TAIL_END.len()
            + (TAIL_ID_BYTES * subscribers).saturating_sub(1)
    }

    /// Appends the whole message.
    pub fn write(&self, subscribers: &[Uuid], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(TAIL_START);
        for (at, id) in subscribers.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.push(b'"');
            write_uuid(*id, out);
            out.push(b'"');
        }
        out.extend_from_slice(TAIL_END);
    }
}

/// Encodes updates; keeps a buffer and the text of the last time, which is the same for a whole group.
#[derive(Debug, Default)]
pub struct UpdateEncoder {
    buffer: Vec<u8>,
    time: Option<(TimestampMs, String)>,
}

impl UpdateEncoder {
    /// `update` as JSON.
    pub fn encode(&mut self, update: &StatusUpdate) -> Arc<EncodedUpdate> {
        let time = match &mut self.time {
            Some((at, text)) if *at == update.at => text,
            time => &mut time.insert((update.at, update.at.to_string())).1,
        };
        let out = &mut self.buffer;
        out.clear();
        out.extend_from_slice(br#"{"type":"status_update","timestamp":""#);
        out.extend_from_slice(time.as_bytes());
        out.extend_from_slice(br#"","data":{"transaction_id":""#);
        write_uuid(update.transaction.0, out);
        out.extend_from_slice(br#"","status":""#);
        out.extend_from_slice(update.status.as_str().as_bytes());
        out.extend_from_slice(br#"","fraud_score":"#);
        money::write_score(out, update.fraud_score);
        out.extend_from_slice(br#","message":""#);
        out.extend_from_slice(update.message.as_bytes());
        out.extend_from_slice(br#""},"sequence":"#);
        out.extend_from_slice(itoa::Buffer::new().format(update.sequence.get()).as_bytes());
        Arc::new(EncodedUpdate {
            sequence: update.sequence,
            head: out.as_slice().into(),
        })
    }
}

fn write_uuid(id: Uuid, out: &mut Vec<u8>) {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    out.extend_from_slice(id.hyphenated().encode_lower(&mut text).as_bytes());
}
