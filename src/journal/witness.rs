//! The clean-stop witness (`stop`): proof of where the journal stood when it was closed in order.

use super::record::{self, Fields, Kind, put_identity};
use super::{RecoveryError, Witness};
use std::path::Path;

impl Witness {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut body = Vec::new();
        put_identity(&mut body, self.identity);
        body.extend_from_slice(&self.durable.get().to_le_bytes());
        body.extend_from_slice(&self.head_hash);
        body.extend_from_slice(&self.volume.to_le_bytes());
        body.extend_from_slice(&self.length_bytes.to_le_bytes());
        record::frame(Kind::Stop, &body)
    }

    pub(crate) fn read(path: &Path) -> Result<Option<Self>, RecoveryError> {
        record::read(Kind::Stop, path, Self::parse)
    }

    pub(crate) fn parse(fields: &mut Fields<'_>) -> Result<Self, &'static str> {
        Ok(Self {
            identity: fields.identity()?,
            durable: fields.sequence()?,
            head_hash: fields.array()?,
            volume: fields.u64()?,
            length_bytes: fields.u64()?,
        })
    }
}
