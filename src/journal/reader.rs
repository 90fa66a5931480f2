//! Reading on from a sequence, for pipeline, tracker and queries. Blocking: call it on a thread that may block.

use super::codec::{DecodeError, Entries};
use super::page::{NO_PAGE, PAGE_BYTES_MAX, Page, PageHash};
use super::shared::Shared;
use super::store::StoredPage;
use super::volume::VolumeStart;
use super::walk::{WalkError, Walker};
use super::{Entry, JournalIdentity, Lineage, ReadError, Settings, Verified, Witness};
use crate::types::Sequence;
use crate::watermark::Watermark;
use crossbeam_channel::{Sender, bounded};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pages that one look into a store takes at most: keeps a volume open, and 1 MiB in memory, for a moment only.
const CHUNK_PAGES: usize = 256;
/// Chunks that a replay reads ahead of the one in hand, which takes one core while their reading takes another.
const CHUNKS_AHEAD: usize = 1;
/// The page before and the next one: the least that one look goes forward by.
const PAIR: usize = 2;

/// Reads durable entries; cheap to clone, usable from any thread. Never reads past the durable watermark.
///
/// As long as one is held, the data folder stays locked.
#[derive(Clone, Debug)]
pub struct JournalReader {
    pub(super) shared: Arc<Shared>,
}

/// Pages of one volume, in order.
struct Chunk {
    volume: u64,
    pages: Vec<StoredPage>,
}

/// Where an entry stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Number of the volume.
    pub volume: u64,
    /// First sequence of the page.
    pub page: Sequence,
}

/// Hears what [`JournalReader::inspect`] meets.
pub trait Inspector {
    /// An entry, in order.
    fn on_entry(&mut self, place: Place, entry: &Entry);
    /// A page was read whole: its last sequence, and its BLAKE3.
    fn on_page(&mut self, last: Sequence, hash: [u8; 32]);
    /// Something is not as it must be. What follows in that volume is not told.
    fn on_fault(&mut self, fault: &ReadError);
}

/// Keeps the first fault.
#[derive(Default)]
struct FirstFault(Option<ReadError>);

impl Inspector for FirstFault {
    fn on_entry(&mut self, _: Place, _: &Entry) {}

    fn on_page(&mut self, _: Sequence, _: [u8; 32]) {}

    fn on_fault(&mut self, fault: &ReadError) {
        self.0.get_or_insert_with(|| fault.clone());
    }
}

/// One [`JournalReader::inspect`] under way.
struct Inspection<'r> {
    reader: &'r JournalReader,
    durable: Sequence,
    verified: Verified,
    /// Bytes of pages in all volumes before the next; `None` behind a fault.
    bytes_before: Option<u64>,
    /// What the next volume must follow; `None` for the first, and behind a fault.
    link: Option<(Sequence, PageHash)>,
}

impl Inspection<'_> {
    fn volume(
        &mut self,
        start: VolumeStart,
        inspector: &mut dyn Inspector,
    ) -> Result<(), ReadError> {
        let volume = start.number;
        let unreadable = |sequence, reason: String| ReadError::Unreadable {
            volume,
            sequence,
            reason: reason.into(),
        };
        let base = self.reader.shared.volumes.base(volume);
        let base = base.map_err(|error| unreadable(start.first, error.to_string()))?;
        let expected = base
            .as_ref()
            .map_or(self.link, |base| Some((base.first, base.previous_hash)));
        if let (Some(link), Some(expected)) = (self.link, expected)
            && link != expected
        {
            let reason = "its base does not follow the last page of the volume before".into();
            return Err(unreadable(start.first, reason));
        }
        if let (Some(base), Some(bytes_before)) = (&base, self.bytes_before)
            && base.bytes_before != bytes_before
        {
            let reason = format!(
                "its base counts {} bytes of pages before it, there are {bytes_before}",
                base.bytes_before
            );
            return Err(unreadable(start.first, reason));
        }
        let bytes_before = base.map_or(self.bytes_before, |base| Some(base.bytes_before));
        let mut walker = Walker::new(self.reader.identity(), expected);
        let mut chunk = CHUNK_PAGES;
        loop {
            // Asked for anew each time, since whoever looks up an entry meanwhile may have it closed.
            let (_, store) = self.reader.shared.volumes.holding(start.first)?;
            let pages = store.pages_from(walker.from(), chunk);
            drop(store);
            let pages = match pages {
                // What lies above the mark is on its way into the store: it may be there without what is before it.
                Ok(mut pages) => {
                    pages.retain(|page| page.key <= self.durable);
                    pages
                }
                // Page by page then, to tell which one it is.
                Err(_) if chunk > PAIR => {
                    chunk = PAIR;
                    continue;
                }
                Err(fault) => return Err(unreadable(walker.next(), fault.to_string())),
            };
            let more = walker.take(&pages, &mut |page| self.page(volume, page, inspector));
            let more = more.map_err(|error| match error {
                WalkError::Store(fault) => unreadable(walker.next(), fault.to_string()),
                WalkError::Page { key, reason } => unreadable(key, reason),
            })?;
            if !more {
                break;
            }
        }
        let found = walker.walked();
        if found.pages > 0 {
            self.verified.newest = found.end.durable;
            self.verified.head_hash = found.end.hash;
        }
        self.verified.volumes = self.verified.volumes.saturating_add(1);
        self.verified.pages = self.verified.pages.saturating_add(found.pages);
        self.bytes_before = bytes_before.map(|before| before.saturating_add(found.bytes));
        self.link = Some((found.end.durable.next(), found.end.hash));
        Ok(())
    }

    fn page(
        &mut self,
        volume: u64,
        page: &Page<'_>,
        inspector: &mut dyn Inspector,
    ) -> Result<(), String> {
        // What lies above the mark is in the store, but not yet synced.
        if page.header.last > self.durable {
            return Ok(());
        }
        let place = Place {
            volume,
            page: page.header.first,
        };
        for entry in Entries::of(page, &self.reader.shared.cipher) {
            let entry = entry.map_err(|error| error.to_string())?;
            self.verified.entries = self.verified.entries.saturating_add(1);
            inspector.on_entry(place, &entry);
        }
        inspector.on_page(page.header.last, page.hash());
        Ok(())
    }
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

    /// Numbers of its volumes, oldest first.
    pub fn volumes(&self) -> Vec<u64> {
        let starts = self.shared.volumes.starts();
        starts.iter().map(|start| start.number).collect()
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
        self.replay_while(after, &mut |entry| {
            on_entry(entry);
            ControlFlow::Continue(())
        })
    }

    /// Like [`JournalReader::replay`], until `on_entry` breaks it off.
    ///
    /// # Errors
    /// As there.
    pub fn replay_while(
        &self,
        after: Sequence,
        on_entry: &mut dyn FnMut(&Entry) -> ControlFlow<()>,
    ) -> Result<Sequence, ReadError> {
        let durable = self.shared.durable.get();
        std::thread::scope(|scope| {
            // In here, so that the thread ends when this does.
            let (chunk_tx, chunk_rx) = bounded(CHUNKS_AHEAD);
            let reading = std::thread::Builder::new().name("journal-replay".into());
            let reading = reading.spawn_scoped(scope, move || {
                self.read_ahead(after.next(), durable, &chunk_tx);
            });
            if let Err(error) = reading {
                tracing::debug!(%error, "replaying without a thread that reads ahead");
            }
            let mut fetch = |next| {
                // Without a thread, and behind a chunk that told it of no next one.
                let read = || self.fetch(next, CHUNK_PAGES);
                chunk_rx.recv().unwrap_or_else(|_| read())
            };
            self.visit_chunks(after, durable, &mut fetch, &mut |entry, _| on_entry(&entry))
        })
    }

    /// Reads one chunk after the other into `chunk_tx`, until the last, one that is at fault, or nobody takes them any more.
    fn read_ahead(
        &self,
        mut next: Sequence,
        durable: Sequence,
        chunk_tx: &Sender<Result<Chunk, ReadError>>,
    ) {
        while next <= durable {
            let chunk = self.fetch(next, CHUNK_PAGES);
            let last = chunk.as_ref().ok().and_then(|chunk| chunk.pages.last());
            let end = last
                .and_then(|page| Page::parse_of(self.identity(), &page.bytes).ok())
                .map(|page| page.header.last.next());
            let is_taken = chunk_tx.send(chunk).is_ok();
            match end {
                Some(end) if is_taken && end > next => next = end,
                _ => return,
            }
        }
    }

    /// Reads everything and checks it, as [`JournalReader::inspect`] does.
    ///
    /// # Errors
    /// [`ReadError`] at the first fault.
    pub fn verify(&self) -> Result<Verified, ReadError> {
        let mut first = FirstFault::default();
        let verified = self.inspect(&mut first);
        first.0.map_or(Ok(verified), Err)
    }

    /// Reads everything once and checks it: each page (checksum, chain, groups, sequences without a gap, over all
    /// volumes and their bases), and that each entry can be read. Tells `inspector` what is there, in order, up to the
    /// durable watermark as it stood at the call, and each fault; the rest of a volume with a fault is passed over.
    /// May run beside commits. Nothing is changed.
    pub fn inspect(&self, inspector: &mut dyn Inspector) -> Verified {
        let oldest = self.oldest();
        let mut inspection = Inspection {
            reader: self,
            durable: self.shared.durable.get(),
            verified: Verified {
                oldest,
                newest: oldest.previous(),
                head_hash: NO_PAGE,
                volumes: 0,
                pages: 0,
                entries: 0,
            },
            bytes_before: None,
            link: None,
        };
        for start in self.shared.volumes.starts() {
            if let Err(fault) = inspection.volume(start, inspector) {
                inspector.on_fault(&fault);
                (inspection.link, inspection.bytes_before) = (None, None);
            }
        }
        inspection.verified
    }

    /// Bytes of pages in the journal.
    pub fn size_bytes(&self) -> u64 {
        self.shared.size_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of pages that are in the write-ahead log alone: their volume will grow by them.
    pub fn undrained_bytes(&self) -> u64 {
        self.shared.volumes.undrained_bytes()
    }

    /// Whether the write-ahead log failed, or could not be brought into the volumes: the process has to stop.
    pub fn has_log_failed(&self) -> bool {
        self.shared.volumes.has_log_failed()
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
        let mut fetch = |next| self.fetch(next, pages_max);
        self.visit_chunks(after, durable, &mut fetch, on_entry)
    }

    /// Up to `pages_max` pages from the one that holds `next` on, of the volume that holds it.
    fn fetch(&self, next: Sequence, pages_max: usize) -> Result<Chunk, ReadError> {
        let (volume, store) = self.shared.volumes.holding(next)?;
        let pages = store.pages_from(next, pages_max);
        let pages = pages.map_err(|fault| ReadError::Unreadable {
            volume,
            sequence: next,
            reason: fault.to_string().into(),
        })?;
        Ok(Chunk { volume, pages })
    }

    /// Hands on what `fetch` reads, which is told where to go on.
    fn visit_chunks(
        &self,
        after: Sequence,
        durable: Sequence,
        fetch: &mut dyn FnMut(Sequence) -> Result<Chunk, ReadError>,
        on_entry: &mut dyn FnMut(Entry, &Page<'_>) -> ControlFlow<()>,
    ) -> Result<Sequence, ReadError> {
        let mut next = after.next();
        while next <= durable {
            let Chunk { volume, pages } = fetch(next)?;
            let unreadable = |sequence, reason: String| ReadError::Unreadable {
                volume,
                sequence,
                reason: reason.into(),
            };
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

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;
