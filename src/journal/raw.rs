//! Our pages as they lie in a data file, read without the store.
//!
//! Why: the store opens a shortened or damaged file with a shorter tail, or empty, and cuts the file to that. Pages
//! lie uncut in it, so a scan before the open tells what was there, and gives back a tail that the store lost.

use super::page::{self, MAGIC, PAGE_BYTES_MAX, Page, PageError, PageHash};
use super::{Config, JournalIdentity};
use crate::types::Sequence;
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes read at a time.
const WINDOW_BYTES: usize = 4 << 20;
/// Bytes of the newest pages that are kept for salvage: the largest group that the ledger makes, with room. The tails
/// that were seen lost had up to 5 MiB.
const KEPT_BYTES_MIN: usize = 40 << 20;
const _: () = assert!(
    Config::WAL_BYTES_MAX < KEPT_BYTES_MIN as u64,
    "all of a log is kept"
);
/// Bytes of kept pages at which the oldest go, down to the bound above.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Damaged pages of which is kept what they follow. Few begin whole and end in something else: those that a write which was
/// torn left, or that a later one covers in part.
const DAMAGED_MAX: usize = 1_024;

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct RawScan {
    /// The newest pages, one behind the other. Why in one piece: as many small ones they would stay with the allocator
    /// for as long as the process runs.
    kept: Vec<u8>,
    /// Where each of them lies, while the scan runs.
    places: HashMap<PageHash, Place, RandomState>,
    /// The same by first sequence, once it is done. Two pages of one sequence can lie there: a group that never became
    /// whole, and its successor.
    in_order: Vec<Place>,
    /// Highest first sequence of a group of which a page was found.
    newest_group: Sequence,
    /// Highest sequence found.
    newest_sequence: Sequence,
    /// Highest last sequence of a group of which the last page was found.
    newest_end: Sequence,
    /// Highest format version behind any page's magic, of pages that this program cannot read too.
    newest_format: Option<u16>,
    /// That of a whole page which this program cannot read.
    newer_format: Option<u16>,
    /// What damaged pages name as the page before them.
    damaged: Vec<PageHash>,
    has_witnessed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    first: Sequence,
    at: usize,
    length: usize,
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
        scan.in_order = scan.places.drain().map(|(_, place)| place).collect();
        scan.in_order.sort_unstable_by_key(|place| place.first);
        scan.places = HashMap::default();
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

    /// The highest format version of what begins like a page in the data file, damaged or not; `None` if nothing does.
    pub(super) fn any_format(path: &Path) -> io::Result<Option<u16>> {
        let mut scan = Self::default();
        scan.read(path, None, None)?;
        Ok(scan.newest_format)
    }

    /// Takes the page that `bytes` begin with, if they do; gives how far to go on.
    fn take(
        &mut self,
        bytes: &[u8],
        identity: Option<JournalIdentity>,
        witnessed: Option<(Sequence, PageHash)>,
    ) -> usize {
        let Some([low, high, ..]) = bytes.strip_prefix(&MAGIC) else {
            return 1;
        };
        let format = u16::from_le_bytes([*low, *high]);
        self.newest_format = self.newest_format.max(Some(format));
        let page = match Page::parse_prefix(bytes) {
            Ok(page) => page,
            Err(error) => {
                match error {
                    // Its checksum is right: of a version that is garbage nothing follows.
                    PageError::NewerFormat(found) => {
                        self.newer_format = self.newer_format.max(Some(found));
                    }
                    PageError::Checksum | PageError::Length => {
                        self.damaged.extend(
                            page::claimed_link(bytes).filter(|_| self.damaged.len() < DAMAGED_MAX),
                        );
                    }
                    _ => {}
                }
                return 1;
            }
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
        let place = Place {
            first: page.header.first,
            at: self.kept.len(),
            length: page.bytes().len(),
        };
        // The store writes a page more than once.
        if self.places.contains_key(&hash) {
            return;
        }
        self.places.insert(hash, place);
        self.kept.extend_from_slice(page.bytes());
        if self.kept.len() > KEPT_BYTES_MAX {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let mut places: Vec<(PageHash, Place)> = self.places.drain().collect();
        places.sort_unstable_by_key(|(_, place)| std::cmp::Reverse(place.first));
        let mut bytes = 0_usize;
        places.retain(|(_, place)| {
            bytes = bytes.saturating_add(place.length);
            bytes <= KEPT_BYTES_MIN
        });
        places.sort_unstable_by_key(|(_, place)| place.at);
        let mut end = 0;
        for (hash, mut place) in places {
            self.kept
                .copy_within(place.at..place.at + place.length, end);
            place.at = end;
            end += place.length;
            self.places.insert(hash, place);
        }
        self.kept.truncate(end);
    }

    /// Whether nothing in the file even begins like a page.
    pub(super) const fn is_untouched(&self) -> bool {
        self.newest_format.is_none()
    }

    /// The highest format version of any whole page that is newer than this program's.
    pub(super) const fn newer_format(&self) -> Option<u16> {
        self.newer_format
    }

    /// Pages that are kept.
    #[cfg(test)]
    pub(super) const fn page_count(&self) -> usize {
        self.in_order.len()
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

    /// Whether something begins like the page behind a journal that ends at `end` with `hash`, whole or not.
    pub(super) fn has_remnant_behind(&self, end: Sequence, hash: PageHash) -> bool {
        self.damaged.contains(&hash) || !self.pages_behind(end, hash).is_empty()
    }

    /// Pages that begin right behind `end` and name `hash` as that of the page before.
    fn pages_behind(&self, end: Sequence, hash: PageHash) -> Vec<Page<'_>> {
        let next = end.next();
        let from = self.in_order.partition_point(|place| place.first < next);
        let places = self.in_order.get(from..).unwrap_or_default();
        places
            .iter()
            .take_while(|place| place.first == next)
            .filter_map(|place| {
                self.kept
                    .get(place.at..place.at.saturating_add(place.length))
            })
            .filter_map(|bytes| Page::parse(bytes).ok())
            .filter(|page| page.header.previous_hash == hash)
            .collect()
    }
}

/// The whole group that follows a journal which ends at `end` with `hash`, if all its pages are in
/// these scans.
pub(super) fn group_behind<'s>(
    scans: &[&'s RawScan],
    end: Sequence,
    hash: PageHash,
) -> Option<Vec<Page<'s>>> {
    // A page lies in several scans, or was led nowhere before: each is tried once, or an incomplete group of n pages in two
    // scans would take 2ⁿ steps.
    let mut seen: HashSet<PageHash, RandomState> = HashSet::default();
    let mut pages_behind = |end, hash| -> Vec<(Page<'s>, PageHash)> {
        let found = scans.iter().flat_map(|scan| scan.pages_behind(end, hash));
        let found = found.map(|page| (page, page.hash()));
        found.filter(|(_, hash)| seen.insert(*hash)).collect()
    };
    // Each page that fits is tried: one of a group that was dropped fits as well as its successor's, up to where it
    // leads nowhere.
    let mut chosen: Vec<Page<'s>> = Vec::new();
    let mut untried = vec![pages_behind(end, hash)];
    while let Some(candidates) = untried.last_mut() {
        let Some((page, page_hash)) = candidates.pop() else {
            untried.pop();
            chosen.pop();
            continue;
        };
        let header = &page.header;
        let before = chosen.last().map(|page| page.header.count);
        if header.group != end.next()
            || usize::try_from(header.index).ok() != Some(chosen.len())
            || before.is_some_and(|count| count != header.count)
        {
            continue;
        }
        let is_last = header.index.checked_add(1) == Some(header.count);
        chosen.push(page);
        if is_last {
            return Some(chosen);
        }
        untried.push(pages_behind(header.last, page_hash));
    }
    None
}
