//! The codec as the benches drive it: no part of the API.

use super::codec::{Encoder, Entries};
use super::page::{NO_PAGE, Page};
use super::{Entry, JournalIdentity};
use crate::ids::IdCipher;
use crate::types::Sequence;
use uuid::Uuid;

/// A codec with the buffers and the key that a journal has.
#[derive(Debug)]
pub struct Codec {
    encoder: Encoder,
    cipher: IdCipher,
    identity: JournalIdentity,
}

impl Codec {
    /// A codec whose created transactions have ids under `id_key`.
    pub fn new(id_key: &[u8; 16]) -> Self {
        Self {
            encoder: Encoder::default(),
            cipher: IdCipher::new(id_key),
            identity: JournalIdentity {
                journal_id: Uuid::from_u128(1),
                epoch: 1,
            },
        }
    }

    /// Encodes `group`, hashes included, and gives the bytes of its pages; `None` when it cannot be written.
    pub fn encode(&mut self, group: &[Entry]) -> Option<usize> {
        let first = group.first().map_or(Sequence::ORIGIN, |entry| entry.first);
        self.encoder
            .encode(self.identity, &self.cipher, group, first, NO_PAGE)
            .ok()?;
        Some(self.encoder.size_bytes())
    }

    /// Decodes what was encoded last and gives the number of entries; `None` when it cannot be read.
    pub fn decode(&self) -> Option<usize> {
        let mut count = 0;
        for (_, bytes) in self.encoder.pages() {
            let page = Page::parse_of(self.identity, bytes).ok()?;
            for entry in Entries::of(&page, &self.cipher) {
                std::hint::black_box(entry.ok()?);
                count += 1;
            }
        }
        Some(count)
    }
}
