//! The headers of a record.

use crate::ids::IdCipher;
use crate::journal::{Event, JournalIdentity};

/// On every record, as the service before this one sent them.
pub(super) const HEADERS: [(&str, &[u8]); 2] = [
    ("content-type", b"application/json"),
    ("producer", b"transaction-service"),
];

/// The attributes of `CloudEvents` 1.0 in the binary mode of its Kafka binding.
pub(super) struct CloudEvent {
    id: String,
    kind: &'static str,
    source: String,
    time: String,
}

impl CloudEvent {
    pub(super) fn of(event: &Event<'_>, ids: &IdCipher, identity: JournalIdentity) -> Self {
        Self {
            id: ids.event_id(event.sequence, event.at).to_string(),
            kind: event.kind().as_str(),
            source: format!("/echopay/{identity}"),
            time: event.at.to_string(),
        }
    }

    pub(super) fn headers(&self) -> [(&'static str, &[u8]); 5] {
        [
            ("ce_specversion", b"1.0".as_slice()),
            ("ce_id", self.id.as_bytes()),
            ("ce_type", self.kind.as_bytes()),
            ("ce_source", self.source.as_bytes()),
            ("ce_time", self.time.as_bytes()),
        ]
    }
}
