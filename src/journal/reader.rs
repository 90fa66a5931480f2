//! Reading on from a sequence, for pipeline, tracker and queries. Blocking: call it on a thread that may block.

use super::codec::{DecodeError, Entries};
use super::page::{NO_PAGE, PAGE_BYTES_MAX, Page};
use super::shared::Shared;
use super::store::StoredPage;
use super::walk::{WalkError, walk};
use super::{Entry, JournalIdentity, Lineage, ReadError, Settings, Verified, Witness};
use crate::types::Sequence;
use crate::watermark::Watermark;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pages that one look into a store takes at most: keeps a volume open, and 1 MiB in memory, for a moment only.
const CHUNK_PAGES: usize = 256;

/// Reads durable entries; cheap to clone, usable from any thread. Never reads past the durable watermark.
///
/// As long as one is held, the data folder stays locked.
#[derive(Clone, Debug)]
pub struct JournalReader {
    pub(super) shared: Arc<Shared>,
}

impl JournalReader {
    /// Which journal.
    pub fn identity(&self) -> JournalIdentity {
        self.shared.settings.identity
    }

    /// The store's fixed facts; the key of the ids among them.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// The epochs that the journal went through.
    pub fn lineage(&self) -> &Lineage {
        &self.shared.lineage
    }

    /// The durable watermark.
    pub fn durable(&self) -> &Watermark {
        &self.shared.durable
    }

    /// First sequence that can be read (1 until something was archived).
    pub fn oldest(&self) -> Sequence {
        self.shared.volumes.oldest()
    }

    /// The newest proof of how far the journal reaches: for checkpoint files and the cursor. Does not block.
    pub fn witness(&self) -> Witness {
        *self.shared.head.lock()
    }

    /// The entry that covers `sequence`; `None` above the durable watermark and for the origin.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn entry_covering(&self, sequence: Sequence) -> Result<Option<Entry>, ReadError> {
        if sequence.is_origin() {
            return Ok(None);
        }
        let mut found = None;
        let after = sequence.previous();
        self.visit(after, 1, &mut |entry, _| {
            found = Some(entry);
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Entries whose last sequence is above `after`, in order, until `bytes_max` of pages were read (at least one page
    /// where there is one). Empty at the durable watermark. The first entry may begin at or before `after`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_after(&self, after: Sequence, bytes_max: usize) -> Result<Vec<Entry>, ReadError> {
        let mut entries = Vec::new();
        let mut bytes = 0_usize;
        let mut page_end = Sequence::ORIGIN;
        let pages = (bytes_max / PAGE_BYTES_MAX).clamp(1, CHUNK_PAGES);
        self.visit(after, pages, &mut |entry, page| {
            if page.header.last != page_end {
                if bytes > 0 && bytes.saturating_add(page.bytes().len()) > bytes_max {
                    return ControlFlow::Break(());
                }
                bytes = bytes.saturating_add(page.bytes().len());
                page_end = page.header.last;
            }
            entries.push(entry);
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// Hands each entry whose last sequence is above `after` to `on_entry`, in order, up to the durable watermark as
    /// it stood at the call, and gives that. For recovery: one sequential pass over the volumes.
    ///
    /// # Errors
    /// [`ReadError`]; entries before the damage were handed out.
    pub fn replay(
        &self,
        after: Sequence,
        on_entry: &mut dyn FnMut(&Entry),
    ) -> Result<Sequence, ReadError> {
        self.visit(after, CHUNK_PAGES, &mut |entry, _| {
            on_entry(&entry);
            ControlFlow::Continue(())
        })
    }

    /// Reads everything and checks it: each page (checksum, chain, groups, sequences without a gap, over all volumes)
    /// and each entry. May run beside commits. Nothing is changed.
    ///
    /// # Errors
    /// [`ReadError`] at the first fault.
    pub fn verify(&self) -> Result<Verified, ReadError> {
        let oldest = self.oldest();
        let mut verified = Verified {
            oldest,
            newest: oldest.previous(),
            head_hash: NO_PAGE,
            volumes: 0,
            pages: 0,
            entries: 0,
        };
        let mut link = None;
        for start in self.shared.volumes.starts() {
            let unreadable = |sequence, reason: String| ReadError::Unreadable {
                volume: start.number,
                sequence,
                reason: reason.into(),
            };
            let (_, store) = self.shared.volumes.holding(start.first)?;
            // The first page of all is held against its base at each start.
            let expected = link.unwrap_or((start.first, None));
            let walked =
                walk(store.as_ref(), self.identity(), None).map_err(|error| match error {
                    WalkError::Store(fault) => unreadable(start.first, fault.to_string()),
                    WalkError::Page { key, reason } => unreadable(key, reason),
                })?;
            let found = walked.start.unwrap_or((start.first, verified.head_hash));
            if found.0 != expected.0 || expected.1.is_some_and(|hash| hash != found.1) {
                let reason = "does not follow the last page of the volume before".into();
                return Err(unreadable(start.first, reason));
            }
            if walked.pages > 0 {
                verified.newest = walked.end.durable;
                verified.head_hash = walked.end.hash;
            }
            link = Some((verified.newest.next(), Some(verified.head_hash)));
            verified.volumes = verified.volumes.saturating_add(1);
            verified.pages = verified.pages.saturating_add(walked.pages);
        }
        self.replay(oldest.previous(), &mut |_| {
            verified.entries = verified.entries.saturating_add(1);
        })?;
        Ok(verified)
    }

    /// Bytes of pages in the journal.
    pub fn size_bytes(&self) -> u64 {
        self.shared.size_bytes.load(Ordering::Relaxed)
    }

    /// For how long the write and sync now under way have been running; zero when none is. The watchdog's question.
    pub fn sync_age(&self) -> Duration {
        self.shared.sync_age()
    }

    fn visit(
        &self,
        after: Sequence,
        pages_max: usize,
        on_entry: &mut dyn FnMut(Entry, &Page<'_>) -> ControlFlow<()>,
    ) -> Result<Sequence, ReadError> {
        let durable = self.shared.durable.get();
        let mut next = after.next();
        while next <= durable {
            let (volume, store) = self.shared.volumes.holding(next)?;
            let unreadable = |sequence, reason: String| ReadError::Unreadable {
                volume,
                sequence,
                reason: reason.into(),
            };
            let pages = store
                .pages_from(next, pages_max)
                .map_err(|fault| unreadable(next, fault.to_string()))?;
            drop(store);
            let before = next;
            for stored in &pages {
                let flow = self.visit_page(stored, durable, &mut next, on_entry);
                match flow.map_err(|(at, error)| unreadable(at, error))? {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(()) => return Ok(durable),
                }
            }
            if next == before {
                return Err(unreadable(next, "the page that holds it is missing".into()));
            }
        }
        Ok(durable)
    }

    fn visit_page(
        &self,
        stored: &StoredPage,
        durable: Sequence,
        next: &mut Sequence,
        on_entry: &mut dyn FnMut(Entry, &Page<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, (Sequence, String)> {
        let page = Page::parse_of(self.identity(), &stored.bytes)
            .map_err(|error| (stored.key, error.to_string()))?;
        if page.header.first != stored.key {
            return Err((
                stored.key,
                "filed under another sequence than its header says".into(),
            ));
        }
        if page.header.last < *next {
            return Ok(ControlFlow::Continue(()));
        }
        // What lies above the mark is in the store, but not yet synced.
        if page.header.first > durable {
            return Ok(ControlFlow::Break(()));
        }
        if page.header.first > *next {
            return Err((*next, "the page that holds it is missing".into()));
        }
        let mut entries = Entries::of(&page, &self.shared.cipher);
        entries.skip_to(*next);
        for entry in entries {
            let entry = entry.map_err(|error: DecodeError| (*next, error.to_string()))?;
            *next = entry.last().next();
            if on_entry(entry, &page).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
