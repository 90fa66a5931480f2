//! A data folder out of pages that were written elsewhere: every page checked, `settings` written last, so that a half
//! made folder is no journal and says so.
//!
//! The order: a mark `unfinished` → volumes and their bases → `lineage` and the clean-stop witness → `settings` → the
//! mark goes. What fails takes everything away again; a kill leaves the mark, by which the next attempt knows that it
//! may clear the folder.

use super::codec::Entries;
use super::page::{NO_PAGE, Page, PageHeader};
use super::recovery::{self, Recovered};
use super::store::{Filling, Opener, Purpose, SledOpener, Store, StoreFault, settle};
use super::volume::{BaseFacts, Layout, Start};
use super::walk::{End, Walker, length_of};
use super::{
    Config, JournalIdentity, Lineage, RecoveryError, Settings, StoreError, Witness, record,
};
use crate::clock::SharedClock;
use crate::ids::IdCipher;
use crate::types::Sequence;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// First volume of a journal.
const FIRST_VOLUME: u64 = 1;
/// What a folder may hold and still counts as empty: our own lock, and what a file system has at its root.
const NOTHING: [&str; 2] = ["LOCK", "lost+found"];

/// Why a data folder could not be made. Everything made so far was taken away again.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// There is something in the folder. It was left as it is.
    #[error("{} is not empty ({found}); it was left as it is", folder.display())]
    NotEmpty {
        /// The data folder.
        folder: std::path::PathBuf,
        /// One name in it.
        found: Box<str>,
    },
    /// A page is not what it must be.
    #[error("{0}")]
    Page(String),
    /// The folder or a small file in it cannot be made.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// A volume cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was checked, or made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// Which journal. Of a new folder: in its new epoch.
    pub identity: JournalIdentity,
    /// Last sequence.
    pub durable: Sequence,
    /// BLAKE3 of the last page; zeros without one.
    pub head_hash: [u8; 32],
    /// Pages.
    pub pages: u64,
    /// Entries in them.
    pub entries: u64,
    /// Bytes of the pages.
    pub size_bytes: u64,
}

/// Checks the pages of a journal from its first on: frame, checksum, whose they are, chain, numbers without a gap, whole
/// groups, epochs, and that every entry can be read.
#[derive(Debug)]
pub struct PageCheck {
    lineage: Lineage,
    cipher: IdCipher,
    walker: Walker,
    entries: u64,
    newest: End,
    pages: u64,
}

impl PageCheck {
    /// For the journal of `settings`, which went through `lineage`.
    pub fn new(settings: &Settings, lineage: &Lineage) -> Self {
        let first = Sequence::ORIGIN.next();
        Self {
            lineage: lineage.clone(),
            cipher: IdCipher::new(&settings.id_key),
            walker: Walker::new(lineage.identity(), Some((first, NO_PAGE))),
            entries: 0,
            newest: End {
                durable: Sequence::ORIGIN,
                hash: NO_PAGE,
            },
            pages: 0,
        }
    }

    /// Checks the page that comes next.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.header_of(bytes).map(drop)
    }

    fn header_of(&mut self, bytes: &[u8]) -> Result<PageHeader, String> {
        let identity = self.lineage.identity();
        let due = self.walker.next();
        let wrong = |reason: String| format!("page of sequence {due}: {reason}");
        let page = Page::parse_of(identity, bytes).map_err(|error| wrong(error.to_string()))?;
        self.walker.check(&page).map_err(wrong)?;
        let header = page.header;
        if !self.lineage.owns(header.identity, header.last) {
            let epoch = header.identity.epoch;
            return Err(wrong(format!(
                "of epoch {epoch}, which had ended or never was"
            )));
        }
        for entry in Entries::of(&page, &self.cipher) {
            entry.map_err(|error| wrong(error.to_string()))?;
            self.entries = self.entries.saturating_add(1);
        }
        self.pages = self.pages.saturating_add(1);
        self.newest = End {
            durable: header.last,
            hash: page.hash(),
        };
        Ok(header)
    }

    /// Last sequence of the last page.
    pub const fn newest(&self) -> Sequence {
        self.newest.durable
    }

    /// BLAKE3 of the last page; zeros before the first.
    pub const fn newest_hash(&self) -> [u8; 32] {
        self.newest.hash
    }

    /// What was there; to be asked at the end.
    ///
    /// # Errors
    /// The last group is not whole, or the present epoch began behind the end.
    pub fn finish(&self) -> Result<Rebuilt, String> {
        let walk = self.walker.walked();
        if !walk.partial.is_empty() {
            return Err("the last group of pages is not whole".into());
        }
        if self.lineage.fork() > walk.end.durable {
            let fork = self.lineage.fork();
            return Err(format!("the epoch began behind sequence {fork}, the end"));
        }
        Ok(Rebuilt {
            identity: self.lineage.identity(),
            durable: walk.end.durable,
            head_hash: walk.end.hash,
            pages: self.pages,
            entries: self.entries,
            size_bytes: walk.bytes,
        })
    }
}

/// A data folder in the making. Dropping it takes away what was made.
#[derive(Debug)]
pub struct Rebuild {
    // First, so that it is closed before the folder is cleared.
    volume: OpenVolume,
    target: Target,
    settings: Settings,
    epoch: u32,
    check: PageCheck,
    facts: BaseFacts,
    bytes_before: u64,
    pages_max: u64,
    bytes_max: u64,
}

/// The volume that is written.
#[derive(Debug)]
struct OpenVolume {
    number: u64,
    /// `None` once it is closed.
    store: Option<Arc<dyn Store>>,
    filling: Filling<Box<[u8]>>,
    pages: u64,
    bytes: u64,
}

impl Rebuild {
    /// Makes the folder of `config`, which must be missing or empty. `settings` and `lineage` are those of the journal
    /// whose pages will come; the new one has a higher epoch, which the answer tells.
    ///
    /// # Errors
    /// [`RebuildError`].
    pub fn begin(
        config: &Config,
        settings: Settings,
        lineage: &Lineage,
        clock: &SharedClock,
    ) -> Result<Self, RebuildError> {
        if settings.identity != lineage.identity() {
            return Err(RebuildError::Page(
                "settings and lineage tell of different epochs".into(),
            ));
        }
        let epoch = raised(lineage, clock, &config.data_dir)?;
        let target = Target::claim(config)?;
        let identity = JournalIdentity {
            epoch,
            ..settings.identity
        };
        let check = PageCheck::new(&settings, lineage);
        let settings = Settings {
            identity,
            ..settings
        };
        let facts = Recovered::facts(&settings);
        let start = Start {
            first: Sequence::ORIGIN.next(),
            previous_hash: NO_PAGE,
            bytes_before: 0,
        };
        let volume = open_volume(&target.layout, FIRST_VOLUME, &facts, start)?;

        Ok(Self {
            volume,
            target,
            settings,
            epoch,
            check,
            facts,
            bytes_before: 0,
            pages_max: config.volume_pages_max.max(1),
            bytes_max: config.volume_bytes_max.max(1),
        })
    }

    /// Checks the page that comes next and keeps it.
    ///
    /// # Errors
    /// [`RebuildError`]; nothing can be made of this any more.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), RebuildError> {
        let before = (self.check.newest(), self.check.newest_hash());
        let header = self.check.header_of(bytes).map_err(RebuildError::Page)?;
        let is_full = self.volume.pages >= self.pages_max || self.volume.bytes >= self.bytes_max;
        if is_full && header.index == 0 {
            self.rotate(before)?;
        }
        let size_bytes = length_of(bytes);
        let store = self.volume.store.as_ref().ok_or_else(closed)?;
        let filling = &mut self.volume.filling;
        if written(store, filling.push(&**store, header.first, bytes.into()))? {
            written(store, settle(&**store))?;
        }
        self.volume.pages = self.volume.pages.saturating_add(1);
        self.volume.bytes = self.volume.bytes.saturating_add(size_bytes);
        Ok(())
    }

    /// Last sequence of the last page.
    pub const fn newest(&self) -> Sequence {
        self.check.newest()
    }

    /// What came so far, to be compared with what should have come.
    ///
    /// # Errors
    /// [`RebuildError::Page`]: the last group is not whole.
    pub fn checked(&self) -> Result<Rebuilt, RebuildError> {
        self.check.finish().map_err(RebuildError::Page)
    }

    /// Makes the folder a journal. To be called when everything that should come has come.
    ///
    /// # Errors
    /// [`RebuildError`], also when the last group is not whole.
    pub fn finish(mut self) -> Result<Rebuilt, RebuildError> {
        let checked = self.checked()?;
        let length_bytes = self.close_volume()?;
        let layout = &self.target.layout;
        let lineage = self.check.lineage.raised_to(self.epoch, checked.durable);
        let lineage = lineage.ok_or_else(|| no_epoch(&layout.data_dir))?;
        record::replace(&layout.lineage(), &lineage.to_bytes())?;
        let stop = Witness {
            identity: self.settings.identity,
            durable: checked.durable,
            head_hash: checked.head_hash,
            volume: self.volume.number,
            length_bytes,
        };
        record::replace(&layout.stop(), &stop.to_bytes())?;
        for folder in [layout.volumes(), layout.data_dir.clone()] {
            record::sync_folder(&folder)?;
        }
        record::sync_ancestors(&layout.data_dir)?;
        // IMPORTANT: last. Before this there is no journal.
        record::replace(&layout.settings(), &self.settings.to_bytes())?;
        self.target.keep()?;
        Ok(Rebuilt {
            identity: self.settings.identity,
            ..checked
        })
    }

    /// Goes to the next volume, whose first page follows `after` with `previous_hash`.
    fn rotate(&mut self, (after, previous_hash): (Sequence, [u8; 32])) -> Result<(), RebuildError> {
        self.close_volume()?;
        self.bytes_before = self.bytes_before.saturating_add(self.volume.bytes);
        let number = self.volume.number.saturating_add(1);
        let start = Start {
            first: after.next(),
            previous_hash,
            bytes_before: self.bytes_before,
        };
        self.volume = open_volume(&self.target.layout, number, &self.facts, start)?;
        Ok(())
    }

    /// Makes the volume durable and leaves it with a snapshot, as a clean stop does. Gives the length of its data file.
    fn close_volume(&mut self) -> Result<u64, RebuildError> {
        let store = self.volume.store.take().ok_or_else(closed)?;
        written(&store, self.volume.filling.finish(&*store))?;
        written(&store, settle(&*store))?;
        drop(store);
        let layout = &self.target.layout;
        let folder = layout.store(self.volume.number);
        let again = SledOpener.open(&folder, Purpose::Closed, LOCK_WAIT);
        drop(again.map_err(failed)?);
        let path = layout.data_file(self.volume.number);
        let metadata = fs::metadata(&path).map_err(RecoveryError::io("read", &path))?;
        Ok(metadata.len())
    }
}

/// How often, and after which pauses, a folder is tried to be cleared again.
const CLEAR_TRIES: u32 = 20;
const CLEAR_PAUSE: Duration = Duration::from_millis(20);
/// How long a store that was just closed is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);

fn open_volume(
    layout: &Layout,
    number: u64,
    facts: &BaseFacts,
    start: Start,
) -> Result<OpenVolume, RebuildError> {
    let folder = layout.store(number);
    fs::create_dir_all(&folder).map_err(RecoveryError::io("create", &folder))?;
    let store = SledOpener
        .open(&folder, Purpose::Active, LOCK_WAIT)
        .map_err(failed)?;
    record::replace(&layout.base(number), &facts.base(number, start).to_bytes())?;
    Ok(OpenVolume {
        number,
        filling: Filling::of(store.as_ref()),
        store: Some(store),
        pages: 0,
        bytes: 0,
    })
}

/// A store that failed once is not closed in order: that may hang.
fn written<T>(store: &Arc<dyn Store>, result: Result<T, StoreFault>) -> Result<T, RebuildError> {
    result.map_err(|fault| {
        store.abandon();
        failed(fault)
    })
}

fn failed(fault: StoreFault) -> RebuildError {
    RebuildError::Store(StoreError::Poisoned {
        stage: fault.stage,
        source_text: fault.reason,
    })
}

fn closed() -> RebuildError {
    failed(StoreFault::new("insert", "the volume is closed"))
}

fn no_epoch(data_dir: &Path) -> RecoveryError {
    RecoveryError::SettingsMismatch {
        path: data_dir.into(),
        what: "there is no higher epoch".into(),
    }
}

fn raised(lineage: &Lineage, clock: &SharedClock, data_dir: &Path) -> Result<u32, RecoveryError> {
    lineage.next_epoch(clock).ok_or_else(|| no_epoch(data_dir))
}

/// A data folder that is ours alone and has no journal yet.
#[derive(Debug)]
struct Target {
    layout: Layout,
    /// Held until the end.
    lock: Option<File>,
    is_new: bool,
    is_kept: bool,
}

impl Target {
    fn claim(config: &Config) -> Result<Self, RebuildError> {
        let layout = Layout {
            data_dir: config.data_dir.clone(),
        };
        let folder = &layout.data_dir;
        let is_new = !folder.exists();
        // Before anything is touched: a folder that is refused stays as it is, without even a lock in it.
        if !is_new {
            check_empty(&layout)?;
        }
        record::make_data_folder(folder)?;
        let lock = recovery::lock(&layout)?;
        check_empty(&layout)?;
        let mut target = Self {
            layout,
            lock: Some(lock),
            is_new,
            is_kept: true,
        };
        target
            .clear()
            .map_err(RecoveryError::io("clear", &target.layout.data_dir))?;
        let path = target.layout.unfinished();
        target.is_kept = false;
        File::create(&path)
            .and_then(|mut mark| {
                mark.write_all(b"a restore or an import is under way, or did not end\n")?;
                mark.sync_all()
            })
            .map_err(RecoveryError::io("write", &path))?;
        record::sync_folder(&target.layout.data_dir)?;
        Ok(target)
    }

    /// Takes away what a run made that did not end. The mark goes last.
    fn clear(&self) -> std::io::Result<()> {
        let layout = &self.layout;
        let gone = |removed: std::io::Result<()>| match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        // First: without them it is no journal, whatever else is still there.
        gone(fs::remove_file(layout.settings()))?;
        gone(fs::remove_dir_all(layout.volumes()))?;
        for path in [layout.lineage(), layout.stop(), layout.settings()] {
            gone(fs::remove_file(path.with_extension("tmp")))?;
        }
        for path in [layout.lineage(), layout.stop(), layout.unfinished()] {
            gone(fs::remove_file(path))?;
        }
        Ok(())
    }

    /// It is a journal now.
    fn keep(&mut self) -> Result<(), RecoveryError> {
        self.is_kept = true;
        let path = self.layout.unfinished();
        fs::remove_file(&path).map_err(RecoveryError::io("remove", &path))?;
        record::sync_folder(&self.layout.data_dir)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // The store lets go of its files some time after it was dropped.
        let mut cleared = self.clear();
        for _ in 0..CLEAR_TRIES {
            if cleared.is_ok() {
                break;
            }
            std::thread::sleep(CLEAR_PAUSE);
            cleared = self.clear();
        }
        if let Err(error) = cleared {
            tracing::warn!(%error, "what was made is not all gone; the next attempt clears it");
        } else if self.is_new {
            let lock = self.layout.lock();
            drop(self.lock.take());
            // A folder that is left over, and empty, hurts nobody.
            let _ = fs::remove_file(lock).and_then(|()| fs::remove_dir(&self.layout.data_dir));
        }
    }
}

/// Whether the folder holds nothing, or only what an attempt left that did not end.
fn check_empty(layout: &Layout) -> Result<(), RebuildError> {
    let folder = &layout.data_dir;
    let is_leftover = layout.unfinished().exists() && !layout.settings().exists();
    if is_leftover {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(RecoveryError::io("list", folder))? {
        let name = entry
            .map_err(RecoveryError::io("list", folder))?
            .file_name();
        if !NOTHING.iter().any(|known| name == OsStr::new(known)) {
            return Err(RebuildError::NotEmpty {
                folder: folder.clone(),
                found: name.to_string_lossy().into(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "rebuild_tests.rs"]
mod tests;
