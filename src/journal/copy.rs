//! Pages as they are, from the first to where the journal stood: what a backup and an export are made of.

use super::codec::{self, Entries};
use super::page::{Page, PageHeader};
use super::{Entry, JournalIdentity, JournalReader, ReadError, Witness};
use crate::ids::IdCipher;
use crate::types::Sequence;

/// Pages that one look into a store takes at most: keeps a volume open, and 1 MiB in memory, for a moment only.
const CHUNK_PAGES: usize = 256;

/// Where a page stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagePlace {
    /// Epoch in which it was written.
    pub epoch: u32,
    /// First sequence of its group.
    pub group: Sequence,
    /// Place in its group, from 0.
    pub index: u32,
    /// Number of pages in the group.
    pub count: u32,
    /// Number of entries.
    pub entries: u16,
    /// First sequence of the first entry.
    pub first: Sequence,
    /// Last sequence of the last entry.
    pub last: Sequence,
}

impl PagePlace {
    const fn of(header: &PageHeader) -> Self {
        Self {
            epoch: header.identity.epoch,
            group: header.group,
            index: header.index,
            count: header.count,
            entries: header.entries,
            first: header.first,
            last: header.last,
        }
    }
}

/// A page that was read, whose frame and checksum are right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WholePage {
    bytes: Box<[u8]>,
    place: PagePlace,
}

impl WholePage {
    /// The page of `entries` behind the one with `previous_hash`, byte for byte as it was when it was read.
    ///
    /// # Errors
    /// What does not fit together.
    pub fn encode(
        journal_id: uuid::Uuid,
        place: PagePlace,
        previous_hash: [u8; 32],
        cipher: &IdCipher,
        entries: &[Entry],
    ) -> Result<Self, String> {
        let header = PageHeader {
            identity: JournalIdentity {
                journal_id,
                epoch: place.epoch,
            },
            group: place.group,
            index: place.index,
            count: place.count,
            entries: place.entries,
            first: place.first,
            last: place.last,
            previous_hash,
        };
        let bytes = codec::encode_page(&header, cipher, entries).map_err(|e| e.to_string())?;
        Ok(Self {
            bytes: bytes.into(),
            place,
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where it stands.
    pub const fn place(&self) -> PagePlace {
        self.place
    }

    /// BLAKE3 of its bytes, which the next page carries.
    pub fn hash(&self) -> [u8; 32] {
        super::page::hash(&self.bytes)
    }

    /// What it holds.
    ///
    /// # Errors
    /// What is wrong with an entry.
    pub fn entries(&self, cipher: &IdCipher) -> Result<Vec<Entry>, String> {
        let page = Page::parse(&self.bytes).map_err(|error| error.to_string())?;
        Entries::of(&page, cipher)
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())
    }
}

/// Reads the pages of whole groups up to where the journal stood when it began, beside a writer that goes on.
#[derive(Debug)]
pub struct PageCopy {
    reader: JournalReader,
    next: Sequence,
    end: Witness,
}

impl JournalReader {
    /// The pages from the first that is there to the last that is durable now.
    pub fn copy(&self) -> PageCopy {
        PageCopy {
            next: self.oldest(),
            end: self.witness(),
            reader: self.clone(),
        }
    }
}

impl PageCopy {
    /// Where it ends.
    pub const fn end(&self) -> Witness {
        self.end
    }

    /// Whose pages.
    pub const fn reader(&self) -> &JournalReader {
        &self.reader
    }

    /// Goes on with the page that covers `sequence`. Only forward.
    pub fn skip_to(&mut self, sequence: Sequence) {
        self.next = self.next.max(sequence);
    }

    /// The next pages, about 1 MiB at most; none at the end. Blocks.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn next_pages(&mut self) -> Result<Vec<WholePage>, ReadError> {
        if self.next > self.end.durable {
            return Ok(Vec::new());
        }
        let (volume, store) = self.reader.shared.volumes.holding(self.next)?;
        let unreadable = |sequence, reason: String| ReadError::Unreadable {
            volume,
            sequence,
            reason: reason.into(),
        };
        let stored = store
            .pages_from(self.next, CHUNK_PAGES)
            .map_err(|fault| unreadable(self.next, fault.to_string()))?;
        drop(store);
        let mut pages = Vec::with_capacity(stored.len());
        for stored in stored {
            let page = Page::parse_of(self.reader.identity(), &stored.bytes)
                .map_err(|error| unreadable(stored.key, error.to_string()))?;
            let place = PagePlace::of(&page.header);
            if place.last < self.next {
                continue;
            }
            if place.first > self.end.durable {
                break;
            }
            let is_due = place.first == self.next || (pages.is_empty() && place.first < self.next);
            if !is_due || place.first != stored.key {
                let reason = "the page that holds it is missing".into();
                return Err(unreadable(self.next, reason));
            }
            self.next = place.last.next();
            pages.push(WholePage {
                bytes: stored.bytes,
                place,
            });
        }
        if pages.is_empty() {
            let reason = "the page that holds it is missing".into();
            return Err(unreadable(self.next, reason));
        }
        Ok(pages)
    }
}
