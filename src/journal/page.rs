//! Pages: the unit that is stored, chained and checked. `docs/FORMAT.md` draws every byte.
//!
//! A page names its journal, its group and the page before it (by BLAKE3), and carries a CRC32 of itself: the chain
//! alone would only vouch for the page *before*. Knows nothing of what the entries mean, nor of where pages are kept.

use super::JournalIdentity;
use crate::types::Sequence;
use uuid::Uuid;

/// Longest page. sled keeps up to 17 of them in one log message, and a message above a quarter of a segment becomes a
/// file that sled never syncs: hence 4 KiB (`store.rs` asserts the relation).
pub(crate) const PAGE_BYTES_MAX: usize = 4_096;
/// Bytes of the header in front of the entries.
pub(crate) const HEADER_BYTES: usize = 104;
/// Room for entries in one page.
pub(crate) const BODY_BYTES_MAX: usize = PAGE_BYTES_MAX - HEADER_BYTES;
/// The one version that this program writes and reads.
pub(crate) const FORMAT_VERSION: u16 = 1;
/// First bytes of every page: no text begins so, and no second byte of UTF-8 follows 0xe9.
pub(crate) const MAGIC: [u8; 8] = *b"\xe9echopg\n";
/// Where the CRC32 stands; it counts as zero when it is computed.
const CRC_AT: usize = 44;

const _: () = assert!(
    BODY_BYTES_MAX <= u16::MAX as usize,
    "body length is a u16 on disk"
);

/// BLAKE3 of a page; all zeros stands before the first.
pub(crate) type PageHash = [u8; 32];
/// What stands where the hash of the page before the first one would.
pub(crate) const NO_PAGE: PageHash = [0; 32];

/// Why bytes are no page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error("shorter than a page's header")]
    Short,
    #[error("no page: the magic is missing")]
    Magic,
    #[error("written in format {0}, newer than this program's {FORMAT_VERSION}")]
    NewerFormat(u16),
    #[error("length does not fit the header")]
    Length,
    #[error("checksum does not match")]
    Checksum,
    #[error("header contradicts itself: {0}")]
    Header(&'static str),
    #[error("page of another journal: {0}")]
    OtherJournal(JournalIdentity),
}

/// What stands in front of a page's entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PageHeader {
    pub(crate) identity: JournalIdentity,
    /// First sequence of the group: names it, since groups never overlap.
    pub(crate) group: Sequence,
    /// Place of this page in its group, from 0.
    pub(crate) index: u32,
    /// Number of pages in the group.
    pub(crate) count: u32,
    pub(crate) entries: u16,
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    pub(crate) previous_hash: PageHash,
}

impl PageHeader {
    /// Fills the first [`HEADER_BYTES`] of `page`, whose entries are already in place, and seals it with its CRC.
    /// `false`, and nothing sealed, when `page` is too short or too long to be one.
    #[must_use]
    pub(crate) fn seal(&self, page: &mut [u8]) -> bool {
        if page.len() > PAGE_BYTES_MAX {
            return false;
        }
        let Some((header, body)) = page.split_first_chunk_mut::<HEADER_BYTES>() else {
            return false;
        };
        let Ok(body_bytes) = u16::try_from(body.len()) else {
            return false;
        };
        header[0..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        header[10..12].copy_from_slice(&self.entries.to_le_bytes());
        header[12..14].copy_from_slice(&body_bytes.to_le_bytes());
        header[14..16].copy_from_slice(&[0; 2]);
        header[16..32].copy_from_slice(self.identity.journal_id.as_bytes());
        header[32..36].copy_from_slice(&self.identity.epoch.to_le_bytes());
        header[36..40].copy_from_slice(&self.index.to_le_bytes());
        header[40..44].copy_from_slice(&self.count.to_le_bytes());
        header[44..48].copy_from_slice(&[0; 4]);
        header[48..56].copy_from_slice(&self.group.get().to_le_bytes());
        header[56..64].copy_from_slice(&self.first.get().to_le_bytes());
        header[64..72].copy_from_slice(&self.last.get().to_le_bytes());
        header[72..104].copy_from_slice(&self.previous_hash);
        let crc = crc32fast::hash(page);
        page[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        true
    }
}

/// A page whose frame, checksum and header were checked; its entries were not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page<'b> {
    pub(crate) header: PageHeader,
    pub(crate) body: &'b [u8],
    bytes: &'b [u8],
}

impl<'b> Page<'b> {
    /// Checks `bytes`, which must be one page and nothing more.
    pub(crate) fn parse(bytes: &'b [u8]) -> Result<Self, PageError> {
        match Self::parse_prefix(bytes) {
            Ok(page) if page.bytes.len() == bytes.len() => Ok(page),
            Ok(_) => Err(PageError::Length),
            // What was filed as one page and is longer than one can be: nothing tore it, so its version is what it says.
            Err(PageError::Length) => match bytes.get(8..10) {
                Some(&[low, high]) if u16::from_le_bytes([low, high]) > FORMAT_VERSION => {
                    Err(PageError::NewerFormat(u16::from_le_bytes([low, high])))
                }
                _ => Err(PageError::Length),
            },
            Err(error) => Err(error),
        }
    }

    /// Like [`Page::parse`], and refuses a page of another journal or of a later epoch.
    pub(crate) fn parse_of(identity: JournalIdentity, bytes: &'b [u8]) -> Result<Self, PageError> {
        let page = Self::parse(bytes)?;
        if identity.includes(page.header.identity) {
            Ok(page)
        } else {
            Err(PageError::OtherJournal(page.header.identity))
        }
    }

    /// Checks the page that `bytes` begin with; other bytes may follow. Says that it is of a newer format only where its
    /// checksum is right: in a file of pages a torn write may leave the magic of one and any version behind it.
    pub(crate) fn parse_prefix(bytes: &'b [u8]) -> Result<Self, PageError> {
        let (h, rest) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(PageError::Short)?;
        if h[0..8] != MAGIC {
            return Err(PageError::Magic);
        }
        let version = u16_at(h, 8);
        let body_bytes = usize::from(u16_at(h, 12));
        // IMPORTANT: a format with longer pages must raise the version of `wal-facts` too: in the log its pages are no pages here.
        if body_bytes > BODY_BYTES_MAX {
            return Err(PageError::Length);
        }
        let body = rest.get(..body_bytes).ok_or(PageError::Length)?;
        let bytes = bytes
            .get(..HEADER_BYTES.saturating_add(body_bytes))
            .ok_or(PageError::Length)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&h[..CRC_AT]);
        crc.update(&[0; 4]);
        crc.update(&h[CRC_AT + 4..]);
        crc.update(body);
        if crc.finalize() != u32_at(h, CRC_AT) {
            return Err(PageError::Checksum);
        }
        if version > FORMAT_VERSION {
            return Err(PageError::NewerFormat(version));
        }
        let mut journal_id = [0; 16];
        journal_id.copy_from_slice(&h[16..32]);
        let mut previous_hash = NO_PAGE;
        previous_hash.copy_from_slice(&h[72..104]);
        let header = PageHeader {
            identity: JournalIdentity {
                journal_id: Uuid::from_bytes(journal_id),
                epoch: u32_at(h, 32),
            },
            group: Sequence::new(u64_at(h, 48)),
            index: u32_at(h, 36),
            count: u32_at(h, 40),
            entries: u16_at(h, 10),
            first: Sequence::new(u64_at(h, 56)),
            last: Sequence::new(u64_at(h, 64)),
            previous_hash,
        };
        let contradiction = if version != FORMAT_VERSION || u16_at(h, 14) != 0 {
            Some("version or reserved bytes")
        } else if header.entries == 0 || header.first.is_origin() || header.last < header.first {
            Some("entry count or sequences")
        } else if header.last > Sequence::MAX {
            Some("sequence above 62 bits")
        } else if header.index >= header.count {
            Some("place in its group")
        } else if header.group > header.first
            || (header.index == 0) != (header.group == header.first)
        {
            Some("group")
        } else {
            None
        };
        match contradiction {
            Some(what) => Err(PageError::Header(what)),
            None => Ok(Self {
                header,
                body,
                bytes,
            }),
        }
    }

    /// BLAKE3 of the whole page: what the next page carries.
    pub(crate) fn hash(&self) -> PageHash {
        hash(self.bytes)
    }

    /// The whole page.
    pub(crate) const fn bytes(&self) -> &'b [u8] {
        self.bytes
    }
}

/// What the header at the beginning of `bytes` names as the hash of the page before, right or not.
pub(crate) fn claimed_link(bytes: &[u8]) -> Option<PageHash> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    header.last_chunk::<32>().copied()
}

/// BLAKE3 of a page's bytes.
pub(crate) fn hash(page: &[u8]) -> PageHash {
    *blake3::hash(page).as_bytes()
}

fn u16_at(header: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([header[at], header[at + 1]])
}

fn u32_at(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&header[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(header: &[u8; HEADER_BYTES], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&header[at..at + 8]);
    u64::from_le_bytes(word)
}
