//! From a data folder to a valid journal, or to an error; never to a guess.
//!
//! In this order: lock → settings → each volume from the newest back (raw scan, copy, open, walk) until one holds a
//! whole group → salvage what the store lost → witnesses → leftovers. `docs/FORMAT.md` says what is promised.

use super::page::{FORMAT_VERSION, NO_PAGE, Page, PageHash};
use super::raw::{self, RawScan};
use super::settings::{Base, LOGGED_VERSION, merge_currencies};
use super::store::{
    Filling, Opener, Purpose, REMOVALS_MAX, Store, StoreFault, has_snapshot, read_anew, settle,
};
use super::unclean::OpenedVolume;
use super::volume::{BaseFacts, Fill, Layout, NumberedStore, Start, VolumeStart, numbers_in};
use super::wal::Facts;
use super::walk::{End, Walk, WalkError, length_of, walk};
use super::{
    Config, JournalIdentity, Lineage, OpenOptions, RecoveryError, Settings, Witness, record,
};
use crate::clock::SharedClock;
use crate::types::Sequence;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// First volume of a new journal.
const FIRST_VOLUME: u64 = 1;

/// A journal that was recovered.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) lock: File,
    pub(super) layout: Layout,
    pub(super) settings: Settings,
    pub(super) lineage: Lineage,
    /// Oldest first; the last is the active one.
    pub(super) starts: Vec<VolumeStart>,
    pub(super) active: NumberedStore,
    pub(super) ahead: Option<NumberedStore>,
    pub(super) fill: Fill,
    pub(super) durable: Sequence,
    pub(super) head_hash: PageHash,
    /// Closed volumes which a kill left without a snapshot.
    pub(super) unsnapped: Vec<u64>,
}

impl Recovered {
    pub(super) fn facts(settings: &Settings) -> BaseFacts {
        BaseFacts {
            identity: settings.identity,
            id_key: settings.id_key,
            currencies: settings.currencies.clone(),
        }
    }
}

/// A data folder that is ours: what is read in it stays as it is until the journal is open.
#[derive(Debug)]
pub struct FolderLock(File);

/// Locks the data folder; makes it when it is missing.
pub(super) fn lock_folder(config: &Config) -> Result<FolderLock, RecoveryError> {
    let layout = Layout {
        data_dir: config.data_dir.clone(),
    };
    record::make_data_folder(&layout.data_dir)?;
    lock(&layout).map(FolderLock)
}

/// Locks the data folder if anyone ever did that, or if there is a journal; makes nothing elsewhere.
pub(super) fn lock_existing(config: &Config) -> Result<Option<FolderLock>, RecoveryError> {
    let layout = Layout {
        data_dir: config.data_dir.clone(),
    };
    let is_used = layout.lock().exists() || layout.settings().exists();
    is_used.then(|| lock(&layout).map(FolderLock)).transpose()
}

/// Recovers or makes the journal in `config.data_dir`, which is locked by `lock`.
pub(super) fn recover(
    FolderLock(lock): FolderLock,
    config: &Config,
    options: OpenOptions,
    clock: &SharedClock,
    opener: &dyn Opener,
) -> Result<Recovered, RecoveryError> {
    let layout = Layout {
        data_dir: config.data_dir.clone(),
    };
    let stop = Witness::read(&layout.stop())?;
    let known: Vec<Witness> = options.witnesses.iter().copied().chain(stop).collect();
    let settings = match Settings::read(&layout.settings())? {
        Some(settings) => {
            // The names of `settings` and of the folders beside it, should a start have been killed before its sync.
            record::sync_folder(&layout.data_dir)?;
            adopt(&layout, settings, &options)?
        }
        None => create(&layout, options, clock, opener, &known)?,
    };
    let lineage = Lineage::read(&layout.lineage(), settings.identity)?;
    let youngest = youngest_witness(settings.identity, &known)?;
    let log = read_log(&layout, settings.identity, youngest, stop.is_some())?;
    let recovery = Recovery {
        layout: &layout,
        identity: settings.identity,
        opener,
        lock_wait: Duration::from_millis(config.volume_lock_wait_ms),
        stop,
        youngest,
        log,
        fork: lineage.fork(),
    };
    let facts = Recovered::facts(&settings);
    let found = recovery.run(&facts)?;
    remove(&layout, &layout.unfinished())?;
    remove(&layout, &layout.stop())?;
    Ok(Recovered {
        lock,
        settings,
        lineage,
        starts: found.starts,
        active: found.active,
        ahead: found.ahead,
        fill: found.fill,
        durable: found.end.durable,
        head_hash: found.end.hash,
        unsnapped: found.unsnapped,
        layout,
    })
}

pub(super) fn lock(layout: &Layout) -> Result<File, RecoveryError> {
    let path = layout.lock();
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(RecoveryError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.take(20).read_to_string(&mut pid);
            let pid = pid.trim();
            let pid = if pid.is_empty() { "unknown" } else { pid };
            return Err(RecoveryError::Locked {
                folder: layout.data_dir.clone(),
                pid: pid.into(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(RecoveryError::io("lock", &path)(source)),
    }
    // The lock is the lock; the number in it is for people, and a full disk shall not bar the way.
    let _not_told = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Makes a new journal. Its settings are written last: without them there was never an entry.
fn create(
    layout: &Layout,
    options: OpenOptions,
    clock: &SharedClock,
    opener: &dyn Opener,
    known: &[Witness],
) -> Result<Settings, RecoveryError> {
    let volumes = layout.volumes();
    let missing = || RecoveryError::SettingsMissing {
        path: layout.settings(),
    };
    if layout.unfinished().exists() {
        return Err(RecoveryError::Unfinished {
            folder: layout.data_dir.clone(),
        });
    }
    if !known.is_empty() {
        return Err(missing());
    }
    refuse_pages(layout)?;
    if volumes.exists() {
        // A kill while the journal was made leaves volumes without pages.
        fs::remove_dir_all(&volumes).map_err(RecoveryError::io("remove", &volumes))?;
    }
    // Of whatever journal was to be made here.
    remove(layout, &layout.wal_facts())?;
    remove(layout, &layout.wal())?;
    let mut id_key = [0; 16];
    clock.fill_random(&mut id_key);
    let settings = Settings {
        identity: JournalIdentity {
            journal_id: clock.random_uuid(),
            epoch: 1,
        },
        id_key,
        dev: options.dev,
        currencies: options.currencies,
    };
    let folder = layout.store(FIRST_VOLUME);
    fs::create_dir_all(&folder).map_err(RecoveryError::io("create", &folder))?;
    let store = opener
        .open(&folder, Purpose::Active, Duration::ZERO)
        .map_err(|fault| unreadable(layout, FIRST_VOLUME, fault))?;
    drop(store);
    let start = Start {
        first: Sequence::ORIGIN.next(),
        previous_hash: NO_PAGE,
        bytes_before: 0,
    };
    let base = Recovered::facts(&settings).base(FIRST_VOLUME, start);
    record::replace(&layout.base(FIRST_VOLUME), &base.to_bytes())?;
    for folder in [volumes, layout.data_dir.clone()] {
        record::sync_folder(&folder)?;
    }
    record::sync_ancestors(&layout.data_dir)?;
    record::replace(&layout.settings(), &settings.to_bytes())?;
    Ok(settings)
}

/// The settings of the journal in `data_dir`; `None` when there is none. Changes nothing, takes no lock.
pub(super) fn existing(
    data_dir: &Path,
    known: &[Witness],
) -> Result<Option<Settings>, RecoveryError> {
    let layout = Layout {
        data_dir: data_dir.into(),
    };
    if let Some(settings) = Settings::read(&layout.settings())? {
        return Ok(Some(settings));
    }
    if layout.unfinished().exists() {
        return Err(RecoveryError::Unfinished {
            folder: layout.data_dir.clone(),
        });
    }
    if !known.is_empty() || Witness::read(&layout.stop())?.is_some() {
        let path = layout.settings();
        return Err(RecoveryError::SettingsMissing { path });
    }
    refuse_pages(&layout)?;
    Ok(None)
}

/// Pages without `settings` are a journal that lost its record, or one of a newer program.
fn refuse_pages(layout: &Layout) -> Result<(), RecoveryError> {
    let volumes = layout.volumes();
    let numbers = if volumes.exists() {
        numbers_in(&volumes).map_err(RecoveryError::io("list", &volumes))?
    } else {
        Vec::new()
    };
    let files = numbers.into_iter().map(|number| layout.data_file(number));
    for path in files.chain([layout.wal()]) {
        match RawScan::any_format(&path).map_err(RecoveryError::io("read", &path))? {
            None => {}
            Some(found) if found > FORMAT_VERSION => {
                return Err(RecoveryError::NewerFormat {
                    path,
                    found,
                    supported: FORMAT_VERSION,
                });
            }
            Some(_) => {
                let path = layout.settings();
                return Err(RecoveryError::SettingsMissing { path });
            }
        }
    }
    Ok(())
}

/// What lies in the write-ahead log, of which anything may be what the stores lack. Behind a clean stop nothing is, and a
/// log that is damaged is given up here: before `stop` goes, so that a kill before it is made anew leaves no damaged one
/// that seems to be needed.
fn read_log(
    layout: &Layout,
    identity: JournalIdentity,
    youngest: Option<Witness>,
    is_stopped: bool,
) -> Result<RawScan, RecoveryError> {
    let path = layout.wal();
    let facts = match Facts::read(layout, identity) {
        // Nothing was in it alone when the journal was closed.
        Err(RecoveryError::CorruptRecord { reason, .. }) if is_stopped => {
            tracing::warn!(reason, "the write-ahead log is made anew");
            Facts::tell_none(layout, identity)?;
            return Ok(RawScan::default());
        }
        facts => facts?,
    };
    let scanned = match facts {
        Some(Facts { size_bytes: 0, .. }) => return Ok(RawScan::default()),
        Some(_) => {
            read_anew(&path).map_err(RecoveryError::io("sync", &path))?;
            let witnessed = youngest.map(|witness| (witness.durable, witness.head_hash));
            RawScan::of(&path, identity, witnessed).map_err(RecoveryError::io("scan", &path))?
        }
        None => {
            // A kill while it was made leaves an empty one.
            let any = RawScan::any_format(&path).map_err(RecoveryError::io("read", &path))?;
            // Its facts are durable before the settings get this version, and stay as long as they have it.
            let is_missed = record::version_of(&layout.settings())? == LOGGED_VERSION;
            let reason = match (any, is_missed) {
                (None, false) => return Ok(RawScan::default()),
                (Some(_), _) => "it is missing, but the write-ahead log beside it holds pages",
                (None, true) => {
                    "it is missing, and so is the write-ahead log, which may have held what no volume has"
                }
            };
            if !is_stopped {
                return Err(RecoveryError::CorruptRecord {
                    path: layout.wal_facts(),
                    reason,
                });
            }
            Facts::tell_none(layout, identity)?;
            RawScan::default()
        }
    };
    match scanned.newer_format() {
        Some(found) => Err(RecoveryError::NewerFormat {
            path,
            found,
            supported: FORMAT_VERSION,
        }),
        None => Ok(scanned),
    }
}

/// Compares the store's facts with what was asked for; adds new currencies to them.
fn adopt(
    layout: &Layout,
    mut settings: Settings,
    options: &OpenOptions,
) -> Result<Settings, RecoveryError> {
    if settings.dev && !options.dev && !options.accept_dev_store {
        return Err(RecoveryError::DevStore {
            folder: layout.data_dir.clone(),
        });
    }
    let currencies = merge_currencies(&settings.currencies, &options.currencies)?;
    if currencies != settings.currencies {
        settings.currencies = currencies;
        settings.replace(&layout.settings())?;
    }
    Ok(settings)
}

/// The witness with the highest sequence. Those of older epochs say nothing about this one.
fn youngest_witness(
    journal: JournalIdentity,
    known: &[Witness],
) -> Result<Option<Witness>, RecoveryError> {
    let mut youngest: Option<Witness> = None;
    for witness in known {
        let identity = witness.identity;
        if !journal.includes(identity) {
            return Err(RecoveryError::OtherHistory {
                witness: identity,
                journal,
            });
        }
        let is_younger = youngest.is_none_or(|other| other.durable < witness.durable);
        if identity == journal && !witness.durable.is_origin() && is_younger {
            youngest = Some(*witness);
        }
    }
    Ok(youngest)
}

fn remove(layout: &Layout, path: &Path) -> Result<(), RecoveryError> {
    match fs::remove_file(path) {
        Ok(()) => record::sync_folder(&layout.data_dir),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(RecoveryError::io("remove", path)(error)),
    }
}

pub(super) fn unreadable(layout: &Layout, volume: u64, fault: StoreFault) -> RecoveryError {
    let path = layout.data_file(volume);
    let StoreFault {
        stage,
        reason,
        is_io,
    } = fault;
    if is_io {
        // A disk that is full or fails; nothing says that the store is damaged.
        return RecoveryError::io(stage, path)(std::io::Error::other(&*reason));
    }
    RecoveryError::StoreUnreadable {
        volume,
        path,
        stage,
        reason,
    }
}

struct Found {
    starts: Vec<VolumeStart>,
    active: NumberedStore,
    ahead: Option<NumberedStore>,
    fill: Fill,
    end: End,
    unsnapped: Vec<u64>,
}

/// One recovery under way.
pub(super) struct Recovery<'r> {
    pub(super) layout: &'r Layout,
    pub(super) identity: JournalIdentity,
    pub(super) opener: &'r dyn Opener,
    pub(super) lock_wait: Duration,
    pub(super) stop: Option<Witness>,
    pub(super) youngest: Option<Witness>,
    /// What lies in the write-ahead log.
    pub(super) log: RawScan,
    /// Last sequence before the epoch: the journal reached it once.
    pub(super) fork: Sequence,
}

impl Recovery<'_> {
    fn run(&self, facts: &BaseFacts) -> Result<Found, RecoveryError> {
        let numbers = self.numbers()?;
        let mut empty: Vec<OpenedVolume> = Vec::new();
        let mut found = None;
        for number in numbers.iter().rev().copied() {
            let is_oldest = Some(&number) == numbers.first();
            let volume = self.open_volume(number)?;
            let expected = self.start_of(number, is_oldest)?;
            let link = expected.map(Start::link);
            let walk = match self.walk(number, volume.store.as_ref(), link) {
                // Of a volume that has nothing else, the volume before takes the group.
                Ok(walk) if walk.partial.is_empty() || walk.pages == 0 => walk,
                // IMPORTANT: before the incomplete group goes. The rest of it may be in the log, and then it was acknowledged.
                found => {
                    if self.redo(&volume, &empty, link)? {
                        self.walk(number, volume.store.as_ref(), link)?
                    } else {
                        found?
                    }
                }
            };
            self.drop_partial(number, volume.store.as_ref(), &walk.partial)?;
            if walk.pages > 0 || is_oldest {
                found = Some((volume, walk, expected));
                break;
            }
            empty.push(volume);
        }
        let Some((mut active, mut walk, expected)) = found else {
            return Err(RecoveryError::VolumeMissing {
                volume: FIRST_VOLUME,
                path: self.layout.volume(FIRST_VOLUME),
            });
        };
        empty.reverse();
        self.salvage(&active, &empty, &mut walk)?;
        // What is found counts as durable from here on: a base tells of it, and the next group follows it.
        settle(active.store.as_ref())
            .map_err(|fault| unreadable(self.layout, active.number, fault))?;
        let start = self.settle_base(facts, &numbers, active.number, expected, &walk)?;
        let starts = self.starts(&numbers, active.number, start.first)?;
        self.check_witness(&starts, &active, walk.end)?;
        let ahead = self.settle_empty(active.number, walk.end, empty)?;
        self.discard_copies(&numbers, active.number)?;
        if let Some(guard) = active.guard.take() {
            guard.disarm();
        }
        let unsnapped = starts
            .iter()
            .map(|start| start.number)
            .filter(|number| *number != active.number)
            .filter(|number| !has_snapshot(&self.layout.store(*number)))
            .collect();
        Ok(Found {
            starts,
            active: (active.number, active.store),
            ahead,
            fill: Fill {
                pages: walk.pages,
                bytes: walk.bytes,
                bytes_before: start.bytes_before,
            },
            end: walk.end,
            unsnapped,
        })
    }

    /// All volumes, ascending and without a gap.
    fn numbers(&self) -> Result<Vec<u64>, RecoveryError> {
        let folder = self.layout.volumes();
        let numbers = numbers_in(&folder).map_err(RecoveryError::io("list", &folder))?;
        for pair in numbers.windows(2) {
            if let [one, next] = pair
                && one.saturating_add(1) != *next
            {
                let volume = one.saturating_add(1);
                return Err(RecoveryError::VolumeMissing {
                    volume,
                    path: self.layout.volume(volume),
                });
            }
        }
        Ok(numbers)
    }

    /// Where volume `number` begins: by its base, else by the end of the volume before. `None` for the oldest without
    /// a base.
    pub(super) fn start_of(
        &self,
        number: u64,
        is_oldest: bool,
    ) -> Result<Option<Start>, RecoveryError> {
        let path = self.layout.base(number);
        if let Some(base) = Base::read(&path)? {
            if !self.identity.includes(base.identity) || base.volume != number {
                return Err(RecoveryError::SettingsMismatch {
                    path,
                    what: format!(
                        "base of volume {} of journal {} in journal {}",
                        base.volume, base.identity, self.identity
                    )
                    .into(),
                });
            }
            return Ok(Some(Start {
                first: base.first,
                previous_hash: base.previous_hash,
                bytes_before: base.bytes_before,
            }));
        }
        if is_oldest {
            return Err(RecoveryError::CorruptRecord {
                path,
                reason: "the base is missing",
            });
        }
        Ok(None)
    }

    fn walk(
        &self,
        number: u64,
        store: &dyn Store,
        link: Option<(Sequence, PageHash)>,
    ) -> Result<Walk, RecoveryError> {
        walk(store, self.identity, link).map_err(|error| match error {
            WalkError::Store(fault) => unreadable(self.layout, number, fault),
            WalkError::Page { key, reason } => RecoveryError::CorruptPage {
                volume: number,
                sequence: key,
                path: self.layout.data_file(number),
                reason: reason.into(),
            },
        })
    }

    /// A group that is not whole was never acknowledged: its pages go, the last first, so that a kill meanwhile leaves
    /// what a kill while it was written could have left.
    fn drop_partial(
        &self,
        number: u64,
        store: &dyn Store,
        partial: &[Sequence],
    ) -> Result<(), RecoveryError> {
        let Some(first) = partial.first() else {
            return Ok(());
        };
        tracing::warn!(number, %first, pages = partial.len(), "dropping an incomplete last group");
        // The last page first: the store may write between two removals, and what a kill leaves then is a shorter partial
        // group. One with a hole would be dropped as well, but tells less of what it was.
        partial
            .rchunks(REMOVALS_MAX)
            .try_for_each(|newest| {
                newest.iter().rev().try_for_each(|key| store.remove(*key))?;
                settle(store)
            })
            .map_err(|fault| unreadable(self.layout, number, fault))
    }

    /// Puts back whole groups that lie in the data files behind the journal's end, where the store lost them.
    fn salvage(
        &self,
        active: &OpenedVolume,
        empty: &[OpenedVolume],
        walk: &mut Walk,
    ) -> Result<(), RecoveryError> {
        // The log with the files: a group may lie in them in part, and in the log for the rest.
        let files = std::iter::once(active).chain(empty);
        let files = files.flat_map(|volume| {
            let path = self.layout.data_file(volume.number);
            let scans = volume.scans();
            scans.map(move |scan| (volume.number, path.clone(), scan))
        });
        let log = (active.number, self.layout.wal(), &self.log);
        let scans: Vec<(u64, PathBuf, &RawScan)> = files.chain([log]).collect();
        let all: Vec<&RawScan> = scans.iter().map(|(_, _, scan)| *scan).collect();
        let fault = |fault| unreadable(self.layout, active.number, fault);
        let first_lost = walk.end.durable.next();
        let store = active.store.as_ref();
        let mut filling = Filling::of(store);
        while let Some(pages) = raw::group_behind(&all, walk.end.durable, walk.end.hash) {
            for page in pages {
                let is_settle_due = filling.push(store, page.header.first, page.bytes());
                if is_settle_due.map_err(fault)? {
                    settle(store).map_err(fault)?;
                }
                walk.start
                    .get_or_insert((page.header.first, page.header.previous_hash));
                walk.pages = walk.pages.saturating_add(1);
                walk.bytes = walk.bytes.saturating_add(length_of(page.bytes()));
                walk.end = End::behind(&page);
            }
        }
        filling.finish(store).map_err(fault)?;
        if walk.end.durable >= first_lost {
            tracing::info!(
                from = %first_lost, to = %walk.end.durable,
                "put back into the store what lay in the log or lost in the data file"
            );
        }
        if self.log.has_remnant_behind(walk.end.durable, walk.end.hash) {
            tracing::warn!(
                behind = %walk.end.durable,
                "dropping an incomplete last group in the log: a write that did not end, or damage to it"
            );
        }
        for (volume, path, raw) in scans {
            if raw.newest_group() > walk.end.durable.next() {
                return Err(RecoveryError::LostTail {
                    volume,
                    path,
                    found: walk.end.durable,
                    reason: format!(
                        "but a page of the group at sequence {} lies in the file",
                        raw.newest_group()
                    )
                    .into(),
                });
            }
        }
        Ok(())
    }

    /// The active volume's start; makes its base where a kill came before that was written, and checks that it follows
    /// the volume before.
    fn settle_base(
        &self,
        facts: &BaseFacts,
        numbers: &[u64],
        number: u64,
        expected: Option<Start>,
        walk: &Walk,
    ) -> Result<Start, RecoveryError> {
        let closed = numbers.iter().copied().filter(|closed| *closed < number);
        for closed in closed.skip(1) {
            if self.start_of(closed, false)?.is_none() {
                let store = self.open_closed(closed)?;
                let first = store
                    .pages_from(Sequence::ORIGIN, 1)
                    .map_err(|fault| unreadable(self.layout, closed, fault))?;
                let begins = first
                    .first()
                    .and_then(|page| Page::parse_of(self.identity, &page.bytes).ok())
                    .map(|page| (page.header.first, page.header.previous_hash));
                self.remake_base(facts, closed, begins)?;
            }
        }
        match expected {
            Some(start) => Ok(start),
            None => self.remake_base(facts, number, walk.start),
        }
    }

    /// Makes the base of a volume that lacks it, from the volume before; `begins` is how its first page says it begins.
    fn remake_base(
        &self,
        facts: &BaseFacts,
        number: u64,
        begins: Option<(Sequence, PageHash)>,
    ) -> Result<Start, RecoveryError> {
        let previous = number.saturating_sub(1);
        let start_before = self.start_of(previous, true)?;
        let store = self.open_closed(previous)?;
        let before = self.walk(previous, store.as_ref(), start_before.map(Start::link))?;
        let (first, previous_hash) = (before.end.durable.next(), before.end.hash);
        if !before.partial.is_empty() || begins != Some((first, previous_hash)) {
            return Err(RecoveryError::CorruptPage {
                volume: number,
                sequence: first,
                path: self.layout.data_file(number),
                reason: "does not follow the last page of the volume before".into(),
            });
        }
        let bytes_before = start_before
            .map_or(0, |start| start.bytes_before)
            .saturating_add(before.bytes);
        let start = Start {
            first,
            previous_hash,
            bytes_before,
        };
        record::replace(
            &self.layout.base(number),
            &facts.base(number, start).to_bytes(),
        )?;
        tracing::warn!(number, "made the base of a volume again");
        Ok(start)
    }

    fn open_closed(&self, number: u64) -> Result<Arc<dyn Store>, RecoveryError> {
        let folder = self.layout.store(number);
        self.opener
            .open(&folder, Purpose::Closed, self.lock_wait)
            .map_err(|fault| unreadable(self.layout, number, fault))
    }

    /// The first sequence of every volume up to the active one.
    fn starts(
        &self,
        numbers: &[u64],
        active: u64,
        active_first: Sequence,
    ) -> Result<Vec<VolumeStart>, RecoveryError> {
        let mut starts: Vec<VolumeStart> = Vec::new();
        for number in numbers.iter().copied().filter(|number| *number <= active) {
            let first = if number == active {
                active_first
            } else {
                self.start_of(number, true)?
                    .map_or(active_first, |start| start.first)
            };
            if starts.last().is_some_and(|before| before.first >= first) {
                return Err(RecoveryError::CorruptRecord {
                    path: self.layout.base(number),
                    reason: "begins at or before the volume before it",
                });
            }
            starts.push(VolumeStart { number, first });
        }
        Ok(starts)
    }

    /// The journal must hold what the youngest witness saw.
    fn check_witness(
        &self,
        starts: &[VolumeStart],
        active: &OpenedVolume,
        end: End,
    ) -> Result<(), RecoveryError> {
        let lost = |volume: u64, reason: String| RecoveryError::LostTail {
            volume,
            path: self.layout.data_file(volume),
            found: end.durable,
            reason: reason.into(),
        };
        if end.durable < self.fork {
            let reason = format!("but its epoch began behind sequence {}", self.fork);
            return Err(lost(active.number, reason));
        }
        let Some(witness) = self.youngest else {
            return Ok(());
        };
        if witness.durable > end.durable {
            return Err(lost(
                active.number,
                format!("but sequence {} was durable once", witness.durable),
            ));
        }
        let behind = starts.partition_point(|start| start.first <= witness.durable);
        let Some(start) = behind.checked_sub(1).and_then(|at| starts.get(at)) else {
            // Archived since.
            return Ok(());
        };
        let store = if start.number == active.number {
            Arc::clone(&active.store)
        } else {
            self.open_closed(start.number)?
        };
        let pages = store
            .pages_from(witness.durable, 1)
            .map_err(|fault| unreadable(self.layout, start.number, fault))?;
        let is_there = pages
            .first()
            .and_then(|page| Page::parse(&page.bytes).ok())
            .is_some_and(|page| {
                page.header.last == witness.durable && page.hash() == witness.head_hash
            });
        if is_there {
            Ok(())
        } else {
            Err(lost(
                start.number,
                format!(
                    "and the page that ends at sequence {} is another one",
                    witness.durable
                ),
            ))
        }
    }

    /// Keeps the empty volume right behind the active one as the next; removes the others.
    fn settle_empty(
        &self,
        active: u64,
        end: End,
        empty: Vec<OpenedVolume>,
    ) -> Result<Option<NumberedStore>, RecoveryError> {
        let mut ahead = None;
        for OpenedVolume {
            number,
            store,
            guard,
            ..
        } in empty
        {
            if let Some(guard) = guard {
                guard.disarm();
            }
            let base = self.layout.base(number);
            if let Some(start) = self.start_of(number, false)? {
                // A base is written behind its volume's first group, so it is a witness of that.
                if start.first > end.durable {
                    return Err(RecoveryError::LostTail {
                        volume: number,
                        path: self.layout.data_file(number),
                        found: end.durable,
                        reason: format!(
                            "but the volume's base says that sequence {} was durable once",
                            start.first
                        )
                        .into(),
                    });
                }
                fs::remove_file(&base).map_err(RecoveryError::io("remove", &base))?;
                record::sync_parent(&base)?;
            }
            if number == active.saturating_add(1) {
                ahead = Some((number, store));
            } else {
                drop(store);
                let folder = self.layout.volume(number);
                fs::remove_dir_all(&folder).map_err(RecoveryError::io("remove", &folder))?;
                record::sync_folder(&self.layout.volumes())?;
            }
        }
        Ok(ahead)
    }
}

impl Start {
    const fn link(self) -> (Sequence, PageHash) {
        (self.first, self.previous_hash)
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
