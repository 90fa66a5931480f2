//! How messages look, both ways (`docs/API.md`, WebSocket).

use crate::tracker::Filter;
use crate::types::{Sequence, Status, TimestampMs, TransactionId, WalletId};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use uuid::Uuid;

/// What a client can say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ClientMessage {
    Subscribe(Subscribe),
    /// One subscription, or all.
    Unsubscribe {
        subscriber_id: Option<Uuid>,
    },
    Ping,
    Authenticate {
        token: String,
    },
}

/// A subscription as asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Subscribe {
    pub(super) filter: Filter,
    /// Ids in the filter as sent.
    pub(super) ids: usize,
    pub(super) after_sequence: Option<Sequence>,
    pub(super) journal: Option<String>,
}

/// Why a message was not understood; the text is for the client.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("malformed message: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("unknown message type")]
    UnknownType,
    #[error("unknown status: {0:?}")]
    UnknownStatus(String),
    #[error("invalid wallet id")]
    NilWallet,
}

#[derive(Deserialize)]
struct Kind<'m> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'m, str>,
}

#[derive(Deserialize)]
struct SubscribeFields {
    transaction_ids: Option<Vec<Uuid>>,
    wallet_ids: Option<Vec<Uuid>>,
    statuses: Option<Vec<String>>,
    after_sequence: Option<u64>,
    journal: Option<String>,
}

#[derive(Deserialize)]
struct UnsubscribeFields {
    subscriber_id: Option<Uuid>,
}

#[derive(Deserialize)]
struct AuthenticateFields {
    token: String,
}

impl ClientMessage {
    /// Reads a text message. Unknown fields are ignored, `null` is as good as absent.
    pub(super) fn parse(text: &str) -> Result<Self, MessageError> {
        let Kind { kind } = serde_json::from_str(text)?;
        match &*kind {
            "subscribe" => Subscribe::parse(text).map(Self::Subscribe),
            "unsubscribe" => {
                let UnsubscribeFields { subscriber_id } = serde_json::from_str(text)?;
                Ok(Self::Unsubscribe { subscriber_id })
            }
            "ping" => Ok(Self::Ping),
            "authenticate" => {
                let AuthenticateFields { token } = serde_json::from_str(text)?;
                Ok(Self::Authenticate { token })
            }
            _ => Err(MessageError::UnknownType),
        }
    }
}

impl Subscribe {
    fn parse(text: &str) -> Result<Self, MessageError> {
        let fields: SubscribeFields = serde_json::from_str(text)?;
        let transactions: Vec<TransactionId> = fields
            .transaction_ids
            .unwrap_or_default()
            .into_iter()
            .map(TransactionId)
            .collect();
        let wallets: Option<Vec<WalletId>> = fields
            .wallet_ids
            .unwrap_or_default()
            .into_iter()
            .map(WalletId::new)
            .collect();
        let wallets = wallets.ok_or(MessageError::NilWallet)?;
        let mut statuses = Vec::new();
        for word in fields.statuses.unwrap_or_default() {
            match Status::parse(&word) {
                Some(status) => statuses.push(status),
                None => return Err(MessageError::UnknownStatus(word)),
            }
        }
        Ok(Self {
            ids: transactions.len() + wallets.len(),
            filter: Filter::new(transactions, wallets, &statuses),
            after_sequence: fields.after_sequence.map(Sequence::new),
            journal: fields.journal,
        })
    }
}

/// What the service says, beside status updates (`tracker/update.rs`) and pings. What the old service did not say
/// stands beside `data`, not in it.
#[derive(Clone, Debug)]
pub(super) enum ServerMessage<'m> {
    /// `sequence`: updates behind it follow. `journal`: whose sequences these are.
    Subscribed {
        id: Uuid,
        filter: &'m Filter,
        journal: &'m str,
        sequence: Sequence,
    },
    Unsubscribed,
    Authenticated,
    Pong,
    Error {
        message: &'m str,
    },
    /// The asked sequence cannot be resumed from: fetch the present state, then subscribe anew.
    ResyncRequired {
        message: &'m str,
        journal: &'m str,
        oldest: Sequence,
    },
    /// Everything up to `sequence` was sent, if it matched.
    Position {
        sequence: Sequence,
    },
}

#[derive(Serialize)]
struct Envelope<'m> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'m>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resync_required: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'m> {
    Subscribed {
        subscriber_id: Uuid,
        filter: FilterFields,
    },
    Unsubscribed {
        status: &'static str,
    },
    Error {
        message: &'m str,
    },
}

#[derive(Serialize)]
struct FilterFields {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    transaction_ids: Vec<Uuid>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wallet_ids: Vec<Uuid>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<&'static str>,
}

impl From<&Filter> for FilterFields {
    fn from(filter: &Filter) -> Self {
        Self {
            transaction_ids: filter.transactions().iter().map(|id| id.0).collect(),
            wallet_ids: filter.wallets().iter().map(|id| id.uuid()).collect(),
            statuses: filter.statuses().map(Status::as_str).collect(),
        }
    }
}

impl ServerMessage<'_> {
    /// The message as JSON, sent at `now`.
    pub(super) fn to_json(&self, now: TimestampMs) -> String {
        let empty = Envelope {
            kind: "",
            timestamp: Some(now.to_string()),
            data: None,
            resync_required: None,
            oldest_sequence: None,
            journal: None,
            sequence: None,
        };
        let envelope = match *self {
            Self::Subscribed {
                id,
                filter,
                journal,
                sequence,
            } => Envelope {
                kind: "subscribed",
                data: Some(Data::Subscribed {
                    subscriber_id: id,
                    filter: filter.into(),
                }),
                journal: Some(journal),
                sequence: Some(sequence.get()),
                ..empty
            },
            Self::Unsubscribed => Envelope {
                kind: "unsubscribed",
                data: Some(Data::Unsubscribed { status: "success" }),
                ..empty
            },
            Self::Authenticated => Envelope {
                kind: "authenticated",
                ..empty
            },
            Self::Pong => Envelope {
                kind: "pong",
                ..empty
            },
            Self::Error { message } => Envelope {
                kind: "error",
                data: Some(Data::Error { message }),
                ..empty
            },
            Self::ResyncRequired {
                message,
                journal,
                oldest,
            } => Envelope {
                kind: "error",
                data: Some(Data::Error { message }),
                resync_required: Some(true),
                oldest_sequence: Some(oldest.get()),
                journal: Some(journal),
                ..empty
            },
            Self::Position { sequence } => Envelope {
                kind: "position",
                timestamp: None,
                sequence: Some(sequence.get()),
                ..empty
            },
        };
        // Strings and numbers only: there is nothing that JSON could not hold.
        serde_json::to_string(&envelope).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: TimestampMs = TimestampMs::new(1_795_387_017_045);
    const ID: Uuid = Uuid::from_u128(7);

    fn error_of(text: &str) -> String {
        ClientMessage::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_subscribe_message_may_leave_out_or_null_everything() {
        let empty = Subscribe {
            filter: Filter::default(),
            ids: 0,
            after_sequence: None,
            journal: None,
        };
        for text in [
            r#"{"type":"subscribe"}"#,
            r#"{"type":"subscribe","transaction_ids":null,"wallet_ids":[],"statuses":null,"x":1}"#,
        ] {
            let parsed = ClientMessage::parse(text).unwrap();
            assert_eq!(parsed, ClientMessage::Subscribe(empty.clone()));
        }
        let text = format!(
            r#"{{"type":"subscribe","wallet_ids":["{ID}"],"statuses":["failed"],"after_sequence":0,"journal":"j/1"}}"#
        );
        let filled = Subscribe {
            filter: Filter::new(vec![], vec![WalletId::new(ID).unwrap()], &[Status::Failed]),
            ids: 1,
            after_sequence: Some(Sequence::ORIGIN),
            journal: Some("j/1".into()),
        };
        assert_eq!(
            ClientMessage::parse(&text).unwrap(),
            ClientMessage::Subscribe(filled)
        );
    }

    #[test]
    fn what_is_wrong_with_a_message_is_told() {
        assert_eq!(error_of(r#"{"type":"dance"}"#), "unknown message type");
        assert!(error_of("{").starts_with("malformed message"));
        assert!(error_of("[]").starts_with("malformed message"));
        assert!(error_of(r#"{"type":"subscribe","wallet_ids":["x"]}"#).starts_with("malformed"));
        assert!(error_of(r#"{"type":"subscribe","after_sequence":-1}"#).starts_with("malformed"));
        let nil = format!(r#"{{"type":"subscribe","wallet_ids":["{}"]}}"#, Uuid::nil());
        assert_eq!(error_of(&nil), "invalid wallet id");
        let text = r#"{"type":"subscribe","statuses":["done"]}"#;
        assert_eq!(error_of(text), r#"unknown status: "done""#);
        assert!(error_of(r#"{"type":"authenticate"}"#).contains("token"));
    }

    #[test]
    fn server_messages_look_as_in_the_wire_contract() {
        let filter = Filter::new(vec![TransactionId(ID)], vec![], &[Status::Completed]);
        let sequence = Sequence::new(41);
        let subscribed = ServerMessage::Subscribed {
            id: ID,
            filter: &filter,
            journal: "j/1",
            sequence,
        };
        assert_eq!(
            subscribed.to_json(AT),
            format!(
                "{{\"type\":\"subscribed\",\"timestamp\":\"2026-11-22T22:36:57.045Z\",\"data\":{{\
                 \"subscriber_id\":\"{ID}\",\"filter\":{{\"transaction_ids\":[\"{ID}\"],\
                 \"statuses\":[\"completed\"]}}}},\"journal\":\"j/1\",\"sequence\":41}}"
            )
        );
        let at = r#""timestamp":"2026-11-22T22:36:57.045Z""#;
        for (message, expected) in [
            (ServerMessage::Pong, format!(r#"{{"type":"pong",{at}}}"#)),
            (
                ServerMessage::Unsubscribed,
                format!(r#"{{"type":"unsubscribed",{at},"data":{{"status":"success"}}}}"#),
            ),
            (
                ServerMessage::Error {
                    message: "unknown message type",
                },
                format!(r#"{{"type":"error",{at},"data":{{"message":"unknown message type"}}}}"#),
            ),
            (
                ServerMessage::ResyncRequired {
                    message: "m",
                    journal: "j/1",
                    oldest: Sequence::new(3),
                },
                format!(
                    r#"{{"type":"error",{at},"data":{{"message":"m"}},"resync_required":true,"oldest_sequence":3,"journal":"j/1"}}"#
                ),
            ),
            (
                ServerMessage::Position { sequence },
                r#"{"type":"position","sequence":41}"#.into(),
            ),
        ] {
            assert_eq!(message.to_json(AT), expected);
        }
    }
}
