//! Our pages as they lie in a data file, read without the store.
//!
//! Why: the store opens a shortened or damaged file with a shorter tail, or empty, and cuts the file to that. Pages
//! lie uncut in it, so a scan before the open tells what was there, and gives back a tail that the store lost.

use super::JournalIdentity;
use super::page::{HEADER_BYTES, MAGIC, PAGE_BYTES_MAX, Page, PageHash};
use crate::types::Sequence;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes read at a time.
const WINDOW_BYTES: usize = 4 << 20;
/// Bytes of the newest pages that are kept for salvage: the largest group that the ledger makes, with room. The tails
/// that were seen lost had up to 5 MiB.
const KEPT_BYTES_MAX: usize = 40 << 20;

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct RawScan {
    /// The newest pages. Two pages of one sequence can lie there: a group that never became whole, and its successor.
    newest: BTreeMap<(Sequence, PageHash), Box<[u8]>>,
    kept_bytes: usize,
    /// Highest first sequence of a group of which a page was found.
    newest_group: Sequence,
    /// Highest sequence found.
    newest_sequence: Sequence,
    /// Highest last sequence of a group of which the last page was found.
    newest_end: Sequence,
    has_witnessed: bool,
}

impl RawScan {
    /// Scans the data file for valid pages of `identity` or earlier epochs of it, and for the page that ends at the
    /// witness's sequence with its hash. No file reads as an empty one.
    pub(super) fn of(
        path: &Path,
        identity: JournalIdentity,
        witnessed: Option<(Sequence, PageHash)>,
    ) -> io::Result<Self> {
        let mut scan = Self::default();
        scan.read(path, Some(identity), witnessed)?;
        Ok(scan)
    }

    fn read(
        &mut self,
        path: &Path,
        identity: Option<JournalIdentity>,
        witnessed: Option<(Sequence, PageHash)>,
    ) -> io::Result<()> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let mut window = vec![0; WINDOW_BYTES + PAGE_BYTES_MAX];
        let mut filled = 0;
        loop {
            let read = file.read(&mut window[filled..])?;
            filled += read;
            let is_end = read == 0;
            if !is_end && filled < window.len() {
                continue;
            }
            // A page that begins in the last bytes may go on in the next window.
            let searched = if is_end {
                filled
            } else {
                filled - PAGE_BYTES_MAX
            };
            let mut at = 0;
            while at < searched {
                let Some(step) = window[at..searched]
                    .iter()
                    .position(|byte| *byte == MAGIC[0])
                else {
                    at = searched;
                    break;
                };
                at += step;
                at += self.take(&window[at..filled], identity, witnessed);
            }
            if is_end {
                return Ok(());
            }
            window.copy_within(at..filled, 0);
            filled -= at;
        }
    }

    /// Whether the data file holds a valid page of any journal.
    pub(super) fn has_any_page(path: &Path) -> io::Result<bool> {
        let mut scan = Self::default();
        scan.read(path, None, None)?;
        Ok(!scan.is_empty())
    }

    /// Takes the page that `bytes` begin with, if they do; gives how far to go on.
    fn take(
        &mut self,
        bytes: &[u8],
        identity: Option<JournalIdentity>,
        witnessed: Option<(Sequence, PageHash)>,
    ) -> usize {
        if bytes.len() < HEADER_BYTES || bytes[..MAGIC.len()] != MAGIC {
            return 1;
        }
        let Ok(page) = Page::parse_prefix(bytes) else {
            return 1;
        };
        if identity.is_none_or(|identity| identity.includes(page.header.identity)) {
            self.newest_group = self.newest_group.max(page.header.group);
            self.newest_sequence = self.newest_sequence.max(page.header.last);
            if page.header.index.checked_add(1) == Some(page.header.count) {
                self.newest_end = self.newest_end.max(page.header.last);
            }
            let hash = page.hash();
            self.has_witnessed |= witnessed.is_none_or(|known| known == (page.header.last, hash));
            self.keep(&page, hash);
        }
        page.bytes().len()
    }

    fn keep(&mut self, page: &Page<'_>, hash: PageHash) {
        let key = (page.header.first, hash);
        if self.newest.contains_key(&key) {
            return;
        }
        self.kept_bytes += page.bytes().len();
        self.newest.insert(key, page.bytes().into());
        while self.kept_bytes > KEPT_BYTES_MAX {
            let Some((_, dropped)) = self.newest.pop_first() else {
                return;
            };
            self.kept_bytes -= dropped.len();
        }
    }

    /// Whether there is no page.
    pub(super) const fn is_empty(&self) -> bool {
        self.newest_sequence.is_origin()
    }

    /// Whether the page that the witness names was found (true without a witness, if there is any page).
    pub(super) const fn has_witnessed(&self) -> bool {
        self.has_witnessed
    }

    /// Highest sequence of any page.
    pub(super) const fn newest_sequence(&self) -> Sequence {
        self.newest_sequence
    }

    /// Highest last sequence of any group whose last page is here.
    pub(super) const fn newest_end(&self) -> Sequence {
        self.newest_end
    }

    /// Highest first sequence of any page's group. The writer begins a group only after the one before is durable, so
    /// this proves that everything before it was.
    pub(super) const fn newest_group(&self) -> Sequence {
        self.newest_group
    }

    /// The whole group that follows a journal which ends at `end` with `hash`, if all its pages are here.
    pub(super) fn group_behind(&self, end: Sequence, hash: PageHash) -> Option<Vec<&[u8]>> {
        let (mut next, mut hash) = (end.next(), hash);
        let mut pages = Vec::new();
        loop {
            let (page, bytes) = self
                .newest
                .range((next, [0; 32])..=(next, [0xff; 32]))
                .filter_map(|(_, bytes)| Some((Page::parse(bytes).ok()?, bytes)))
                .find(|(page, _)| {
                    page.header.previous_hash == hash
                        && page.header.group == end.next()
                        && usize::try_from(page.header.index).ok() == Some(pages.len())
                })?;
            pages.push(&**bytes);
            (next, hash) = (page.header.last.next(), page.hash());
            if page.header.index.checked_add(1) == Some(page.header.count) {
                return Some(pages);
            }
        }
    }
}
