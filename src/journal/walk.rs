//! Every page of a volume, checked: checksum, journal, key, sequences without a gap, chain, whole groups.

use super::JournalIdentity;
use super::page::{NO_PAGE, Page, PageHash};
use super::store::{Store, StoreFault, StoredPage};
use crate::types::Sequence;

const CHUNK_PAGES: usize = 256;

/// Where a journal ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) durable: Sequence,
    pub(super) hash: PageHash,
}

impl End {
    /// Where a journal ends whose last page is `page`.
    pub(super) fn behind(page: &Page<'_>) -> Self {
        Self {
            durable: page.header.last,
            hash: page.hash(),
        }
    }
}

/// A volume's pages as they were walked: all whole groups.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) start: Option<(Sequence, PageHash)>,
    pub(super) end: End,
    pub(super) pages: u64,
    pub(super) bytes: u64,
    /// Keys of the pages of an incomplete last group, whichever of them are there.
    pub(super) partial: Vec<Sequence>,
}

/// Why a volume could not be walked to its end.
#[derive(Clone, Debug)]
pub(super) enum WalkError {
    Store(StoreFault),
    /// The page filed under `key` is at fault.
    Page {
        key: Sequence,
        reason: String,
    },
}

/// Walks all of `store`, whose first page must follow `link` (first sequence, hash of the page before) if that is known.
pub(super) fn walk(
    store: &dyn Store,
    identity: JournalIdentity,
    link: Option<(Sequence, PageHash)>,
) -> Result<Walk, WalkError> {
    let mut walker = Walker::new(identity, link);
    walker.take_all(store)?;
    Ok(walker.walk)
}

/// Where the whole groups of `store` end before anything is at fault; `None` when that cannot be told.
pub(super) fn whole_end(
    store: &dyn Store,
    identity: JournalIdentity,
    link: Option<(Sequence, PageHash)>,
) -> Option<End> {
    let mut walker = Walker::new(identity, link);
    match walker.take_all(store) {
        Err(WalkError::Store(_)) => None,
        Ok(()) | Err(WalkError::Page { .. }) => walker.walk.start.map(|_| walker.walk.end),
    }
}

/// Checks the pages of one volume as they are handed to it, in order.
#[derive(Debug)]
pub(super) struct Walker {
    identity: JournalIdentity,
    walk: Walk,
    /// Key of the page taken last.
    seen: Option<Sequence>,
    /// Behind the last page, whole group or not.
    at: End,
    /// The last group while it is not whole.
    group: Option<Unfinished>,
    group_bytes: u64,
    epoch: u32,
}

#[derive(Clone, Copy, Debug)]
struct Unfinished {
    first: Sequence,
    next_index: u32,
    count: u32,
    /// A page of it is missing: it can no longer become whole, nor may anything follow it.
    has_hole: bool,
}

impl Walker {
    pub(super) fn new(identity: JournalIdentity, link: Option<(Sequence, PageHash)>) -> Self {
        let origin = link.map_or(
            End {
                durable: Sequence::ORIGIN,
                hash: NO_PAGE,
            },
            |(first, hash)| End {
                durable: first.previous(),
                hash,
            },
        );
        Self {
            identity,
            walk: Walk {
                start: link,
                end: origin,
                pages: 0,
                bytes: 0,
                partial: Vec::new(),
            },
            seen: None,
            at: origin,
            group: None,
            group_bytes: 0,
            epoch: 0,
        }
    }

    fn take_all(&mut self, store: &dyn Store) -> Result<(), WalkError> {
        loop {
            let pages = store
                .pages_from(self.from(), CHUNK_PAGES)
                .map_err(WalkError::Store)?;
            if !self.take(&pages, &mut |_| Ok(()))? {
                return Ok(());
            }
        }
    }

    /// Where [`Store::pages_from`] goes on.
    pub(super) fn from(&self) -> Sequence {
        self.seen.map_or(Sequence::ORIGIN, Sequence::next)
    }

    /// First sequence of the page that must come next.
    pub(super) const fn next(&self) -> Sequence {
        self.at.durable.next()
    }

    /// What was found so far.
    pub(super) const fn walked(&self) -> &Walk {
        &self.walk
    }

    /// Checks the next `pages` of the store, some of which may be known already, and hands each new one to `on_page`.
    /// `false` when none was new: this is the end.
    pub(super) fn take(
        &mut self,
        pages: &[StoredPage],
        on_page: &mut dyn FnMut(&Page<'_>) -> Result<(), String>,
    ) -> Result<bool, WalkError> {
        let before = self.seen;
        for stored in pages {
            if before.is_some_and(|seen| stored.key <= seen) {
                continue;
            }
            let checked = self.step(stored).and_then(|page| on_page(&page));
            checked.map_err(|reason| WalkError::Page {
                key: stored.key,
                reason,
            })?;
            self.seen = Some(stored.key);
        }
        Ok(self.seen != before)
    }

    fn step<'p>(&mut self, stored: &'p StoredPage) -> Result<Page<'p>, String> {
        let page =
            Page::parse_of(self.identity, &stored.bytes).map_err(|error| error.to_string())?;
        if page.header.first != stored.key {
            return Err(format!("holds the page of sequence {}", page.header.first));
        }
        self.check(&page)?;
        Ok(page)
    }

    /// Checks the page that comes next, wherever it comes from.
    pub(super) fn check(&mut self, page: &Page<'_>) -> Result<(), String> {
        let header = &page.header;
        if self.walk.start.is_none() {
            self.walk.start = Some((header.first, header.previous_hash));
            self.at = End {
                durable: header.group.previous(),
                hash: header.previous_hash,
            };
            self.walk.end = self.at;
        }
        if header.identity.epoch < self.epoch {
            return Err("of an earlier epoch than the page before".into());
        }
        self.epoch = header.identity.epoch;
        let group = self.group.unwrap_or(Unfinished {
            first: self.at.durable.next(),
            next_index: 0,
            count: header.count,
            has_hole: false,
        });
        // Why by group: the writer begins one only when the one before is durable, so what is missing here was never
        // acknowledged, or the witnesses will tell. A disk may keep later pages of a group without earlier ones.
        if (header.group, header.count) != (group.first, group.count) {
            return Err(if self.group.is_some() {
                format!("the group at {} before is not whole", group.first)
            } else {
                format!("follows sequence {}", self.at.durable)
            });
        }
        let follows = header.first == self.at.durable.next();
        if header.index == group.next_index {
            if !follows {
                return Err(format!("follows sequence {}", self.at.durable));
            }
            if header.previous_hash != self.at.hash {
                return Err("does not follow the page before: its hash of that differs".into());
            }
        } else if header.index < group.next_index || follows {
            return Err("out of place in its group".into());
        }
        let has_hole = group.has_hole || header.index != group.next_index;
        self.at = End {
            durable: header.last,
            hash: page.hash(),
        };
        self.group_bytes = self.group_bytes.saturating_add(length_of(page.bytes()));
        self.walk.partial.push(header.first);
        let next_index = header.index.saturating_add(1);
        if next_index == header.count && !has_hole {
            self.group = None;
            self.walk.end = self.at;
            self.walk.pages = self.walk.pages.saturating_add(u64::from(header.count));
            self.walk.bytes = self
                .walk
                .bytes
                .saturating_add(std::mem::take(&mut self.group_bytes));
            self.walk.partial.clear();
        } else {
            self.group = Some(Unfinished {
                next_index,
                has_hole,
                ..group
            });
        }
        Ok(())
    }
}

pub(super) fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
