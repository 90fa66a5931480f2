//! What must be known of the ring without reading it: whose it is and how long (`wal-facts`).

use super::super::record::{self, Fields, Kind};
use super::super::volume::Layout;
use super::super::{JournalIdentity, RecoveryError};
use std::fs;
use uuid::Uuid;

/// The record beside the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Facts {
    /// Whose pages the ring holds; of which epoch, they say themselves.
    pub(crate) journal_id: Uuid,
    /// Length of the ring in bytes; 0: there is none, and a file of its name means nothing.
    pub(crate) size_bytes: u64,
}

impl Facts {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(self.journal_id.as_bytes());
        body.extend_from_slice(&self.size_bytes.to_le_bytes());
        record::frame(Kind::Wal, &body)
    }

    pub(crate) fn parse(fields: &mut Fields<'_>) -> Result<Self, &'static str> {
        Ok(Self {
            journal_id: Uuid::from_bytes(fields.array()?),
            size_bytes: fields.u64()?,
        })
    }

    /// Writes these facts down.
    pub(crate) fn tell(self, layout: &Layout) -> Result<(), RecoveryError> {
        record::replace(&layout.wal_facts(), &self.to_bytes())
    }

    /// Writes down that the journal has no ring, and that a file of its name means nothing.
    pub(crate) fn tell_none(
        layout: &Layout,
        identity: JournalIdentity,
    ) -> Result<(), RecoveryError> {
        let none = Self {
            journal_id: identity.journal_id,
            size_bytes: 0,
        };
        none.tell(layout)
    }

    /// The facts of the journal's ring, which is there and as long as it was made; `None` where none was ever made.
    pub(crate) fn read(
        layout: &Layout,
        identity: JournalIdentity,
    ) -> Result<Option<Self>, RecoveryError> {
        let path = layout.wal_facts();
        let Some(facts) = record::read(Kind::Wal, &path, Self::parse)? else {
            return Ok(None);
        };
        if facts.journal_id != identity.journal_id {
            return Err(RecoveryError::SettingsMismatch {
                path,
                what: format!("log of journal {} in journal {identity}", facts.journal_id).into(),
            });
        }
        let ring = layout.wal();
        let length = fs::metadata(&ring).map_or(0, |metadata| metadata.len());
        if length < facts.size_bytes {
            return Err(RecoveryError::CorruptRecord {
                path: ring,
                reason: "the write-ahead log is missing or shorter than it was made",
            });
        }
        Ok(Some(facts))
    }
}
