//! The journal's volumes: hand-over to the next one, and the few closed ones that stand open for readers.
//!
//! One store a volume. The writer holds the active one; the next is opened ahead by a background thread, so that a
//! hand-over is a swap of handles. The background then works in this order, which must stay: open the next → drop the
//! old → touch its segment headers → open it again (sled writes a snapshot only at an open) → leave it to readers.
//! Knows no entry.

use super::guard::Guard;
use super::page::{Page, PageHash};
use super::record;
use super::settings::Base;
use super::store::{Opener, Purpose, Store, StoreFault, data_file};
use super::wal::{Drainer, Wal};
use super::{Config, JournalIdentity, ReadError, RecoveryError};
use crate::clock::SharedClock;
use crate::tasks::{OnExit, Supervisor};
use crate::types::{Currencies, Sequence};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the background thread looks for idle volumes.
const TICK: Duration = Duration::from_millis(500);
/// Tasks that may wait for the background thread: one a volume left without a snapshot by a kill, and the hand-over.
const TASKS_MAX: usize = 16;

/// Names and places of a journal's files.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) data_dir: PathBuf,
}

impl Layout {
    pub(crate) fn lock(&self) -> PathBuf {
        self.data_dir.join("LOCK")
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.data_dir.join("settings")
    }

    pub(crate) fn lineage(&self) -> PathBuf {
        self.data_dir.join("lineage")
    }

    /// There while pages are put into a folder that shall become a journal.
    pub(crate) fn unfinished(&self) -> PathBuf {
        self.data_dir.join("unfinished")
    }

    pub(crate) fn stop(&self) -> PathBuf {
        self.data_dir.join("stop")
    }

    /// The ring of the write-ahead log.
    pub(crate) fn wal(&self) -> PathBuf {
        self.data_dir.join("wal")
    }

    /// What must be known of the ring.
    pub(crate) fn wal_facts(&self) -> PathBuf {
        self.data_dir.join("wal-facts")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.data_dir.join("volumes")
    }

    pub(crate) fn volume(&self, number: u64) -> PathBuf {
        self.volumes().join(format!("{number:010}"))
    }

    pub(crate) fn base(&self, number: u64) -> PathBuf {
        self.volume(number).join("base")
    }

    pub(crate) fn store(&self, number: u64) -> PathBuf {
        self.volume(number).join("sled")
    }

    /// Where recovery keeps a volume's files as it found them, until it has ended well.
    pub(crate) fn copy(&self, number: u64) -> PathBuf {
        self.volume(number).join("before-recovery")
    }

    pub(crate) fn data_file(&self, number: u64) -> PathBuf {
        data_file(&self.store(number))
    }
}

/// What every volume's base repeats of the store's settings.
#[derive(Clone, Debug)]
pub(crate) struct BaseFacts {
    pub(crate) identity: JournalIdentity,
    pub(crate) id_key: [u8; 16],
    pub(crate) currencies: Currencies,
}

impl BaseFacts {
    /// The base of a volume that begins at `start`.
    pub(crate) fn base(&self, volume: u64, start: Start) -> Base {
        Base {
            identity: self.identity,
            id_key: self.id_key,
            volume,
            first: start.first,
            previous_hash: start.previous_hash,
            bytes_before: start.bytes_before,
            currencies: self.currencies.clone(),
        }
    }
}

/// Where a volume begins in the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Start {
    pub(crate) first: Sequence,
    pub(crate) previous_hash: PageHash,
    /// Bytes of pages in all volumes before it.
    pub(crate) bytes_before: u64,
}

/// A volume's number and its store.
pub(crate) type NumberedStore = (u64, Arc<dyn Store>);

/// A volume and its first sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct VolumeStart {
    pub(crate) number: u64,
    pub(crate) first: Sequence,
}

/// All volumes, for readers. Shared by the writer, the background thread and every reader.
#[derive(Debug)]
pub(crate) struct Volumes {
    layout: Layout,
    opener: Arc<dyn Opener>,
    clock: SharedClock,
    lock_wait: Duration,
    open_max: usize,
    idle: Duration,
    /// Locked for moments only, also by the writer.
    current: RwLock<Current>,
    /// Locked while a closed volume is opened; never by the writer.
    closed: Mutex<Vec<OpenVolume>>,
    /// Volumes that this process has opened well or written itself: their next open needs no copy.
    proven: Mutex<BTreeSet<u64>>,
    ahead: Mutex<Option<NumberedStore>>,
    /// The base of the active volume, until it is written.
    unwritten: Mutex<Option<Base>>,
    /// In front of the volumes that are written.
    wal: Option<Arc<Wal>>,
}

/// The stores that are written, or soon will be, and the log that shall stand in front of them.
pub(crate) struct Written {
    pub(crate) active: Arc<dyn Store>,
    /// An empty volume behind the active one, if there is one.
    pub(crate) ahead: Option<NumberedStore>,
    pub(crate) wal: Option<Arc<Wal>>,
}

#[derive(Debug)]
struct Current {
    /// Oldest first; the last is the active one. One row a volume: 16 bytes for 256 MiB of journal.
    starts: Vec<VolumeStart>,
    /// `None` once the journal was closed: the last volume is then read like any other.
    active: Option<Arc<dyn Store>>,
    /// Handed over, not yet opened again.
    retiring: Option<NumberedStore>,
}

#[derive(Debug)]
struct OpenVolume {
    number: u64,
    store: Arc<dyn Store>,
    used_at: Duration,
}

impl Volumes {
    /// `starts` must not be empty; its last is the active one.
    pub(crate) fn new(
        layout: Layout,
        opener: Arc<dyn Opener>,
        clock: SharedClock,
        config: &Config,
        starts: Vec<VolumeStart>,
        Written { active, ahead, wal }: Written,
    ) -> Self {
        let active = logged(wal.as_ref(), active);
        let ahead = ahead.map(|(number, store)| (number, logged(wal.as_ref(), store)));
        Self {
            layout,
            opener,
            clock,
            lock_wait: Duration::from_millis(config.volume_lock_wait_ms),
            open_max: config.closed_volumes_open_max.max(1),
            idle: Duration::from_millis(config.closed_volume_idle_ms),
            current: RwLock::new(Current {
                starts,
                active: Some(active),
                retiring: None,
            }),
            closed: Mutex::new(Vec::new()),
            proven: Mutex::default(),
            ahead: Mutex::new(ahead),
            unwritten: Mutex::new(None),
            wal,
        }
    }

    /// Bytes of pages that are in the log alone.
    pub(crate) fn undrained_bytes(&self) -> u64 {
        self.wal.as_ref().map_or(0, |wal| wal.undrained_bytes())
    }

    /// How long a drain of the log has not returned.
    pub(crate) fn drain_age(&self) -> Duration {
        self.wal
            .as_ref()
            .map_or(Duration::ZERO, |wal| wal.drain_age())
    }

    /// Whether the log failed.
    pub(crate) fn has_log_failed(&self) -> bool {
        self.wal.as_ref().is_some_and(|wal| wal.has_failed())
    }

    /// First sequence that can be read.
    pub(crate) fn oldest(&self) -> Sequence {
        self.current
            .read()
            .starts
            .first()
            .map_or(Sequence::ORIGIN.next(), |start| start.first)
    }

    /// All volumes, oldest first.
    pub(crate) fn starts(&self) -> Vec<VolumeStart> {
        self.current.read().starts.clone()
    }

    /// Whether the next volume can be gone to.
    #[cfg(test)]
    pub(crate) fn is_next_ready(&self) -> bool {
        self.ahead.lock().is_some()
    }

    /// Closed volumes that stand open now.
    #[cfg(test)]
    pub(crate) fn open_count(&self) -> usize {
        self.closed.lock().len()
    }

    /// Number of the volume that holds (or, at the end, will hold) `sequence`, and its store. May open it.
    pub(crate) fn holding(&self, sequence: Sequence) -> Result<NumberedStore, ReadError> {
        let number = {
            let current = self.current.read();
            let behind = current
                .starts
                .partition_point(|start| start.first <= sequence);
            let Some(start) = behind.checked_sub(1).and_then(|at| current.starts.get(at)) else {
                drop(current);
                return Err(ReadError::Archived {
                    oldest: self.oldest(),
                });
            };
            if let (true, Some(active)) = (behind == current.starts.len(), &current.active) {
                return Ok((start.number, Arc::clone(active)));
            }
            match &current.retiring {
                Some((number, store)) if *number == start.number => {
                    return Ok((*number, Arc::clone(store)));
                }
                _ => start.number,
            }
        };
        match self.closed_store(&mut self.closed.lock(), number) {
            Ok(store) => Ok((number, store)),
            Err(fault) => Err(ReadError::Unreadable {
                volume: number,
                sequence,
                reason: fault.to_string().into(),
            }),
        }
    }

    fn closed_store(
        &self,
        open: &mut Vec<OpenVolume>,
        number: u64,
    ) -> Result<Arc<dyn Store>, StoreFault> {
        let used_at = self.clock.monotonic();
        if let Some(volume) = open.iter_mut().find(|volume| volume.number == number) {
            volume.used_at = used_at;
            return Ok(Arc::clone(&volume.store));
        }
        while open.len() >= self.open_max {
            let oldest = open
                .iter()
                .enumerate()
                .min_by_key(|(_, volume)| volume.used_at);
            match oldest.map(|(at, _)| at) {
                Some(at) => drop(open.swap_remove(at)),
                None => break,
            }
        }
        let folder = self.layout.store(number);
        let guard = (!self.proven.lock().contains(&number)).then(|| Guard::of(&folder));
        let store = self.opener.open(&folder, Purpose::Closed, self.lock_wait)?;
        if let Some(guard) = guard {
            if let Err(fault) = self.check_end(number, store.as_ref()) {
                // IMPORTANT: in this order, so that nothing writes to the files once they are back.
                drop(store);
                drop(guard);
                return Err(fault);
            }
            guard.disarm();
            self.proven.lock().insert(number);
        }
        open.push(OpenVolume {
            number,
            store: Arc::clone(&store),
            used_at,
        });
        Ok(store)
    }

    /// A store that was cut opens well, and ends early.
    fn check_end(&self, number: u64, store: &dyn Store) -> Result<(), StoreFault> {
        let current = self.current.read();
        let next = current.starts.iter().find(|start| start.number > number);
        let Some(end) = next.map(|next| next.first.previous()) else {
            return Ok(());
        };
        drop(current);
        let last = store.pages_from(end, 1)?.pop();
        let found = last.and_then(|page| Some(Page::parse(&page.bytes).ok()?.header.last));
        if found == Some(end) {
            Ok(())
        } else {
            let reason = format_args!("the store does not end at sequence {end} any more");
            Err(StoreFault::new("open", reason))
        }
    }

    fn close_idle(&self) {
        let now = self.clock.monotonic();
        self.closed
            .lock()
            .retain(|volume| now.saturating_sub(volume.used_at) < self.idle);
    }

    /// Makes the volume behind the newest one, unless it is there.
    fn open_ahead(&self) -> Result<(), StoreFault> {
        if self.ahead.lock().is_some() {
            return Ok(());
        }
        let newest = self
            .current
            .read()
            .starts
            .last()
            .map_or(0, |start| start.number);
        let number = newest.saturating_add(1);
        let folder = self.layout.store(number);
        let store = self.opener.open(&folder, Purpose::Active, self.lock_wait)?;
        *self.ahead.lock() = Some((number, logged(self.wal.as_ref(), store)));
        Ok(())
    }

    /// Closes the volume that was handed over and opens it for readers.
    fn reopen_retired(&self) -> Result<(), StoreFault> {
        let full = self.current.read().retiring.clone();
        if let Some((_, store)) = full {
            // Readers find its last pages in the log meanwhile.
            store.drain()?;
        }
        // IMPORTANT: `closed` first. Who misses the volume in `current` waits here until it is open again.
        let mut closed = self.closed.lock();
        let retiring = self.current.write().retiring.take();
        match retiring {
            Some((number, store)) => {
                drop(store);
                self.proven.lock().insert(number);
                self.closed_store(&mut closed, number).map(drop)
            }
            None => Ok(()),
        }
    }

    /// Closes the active volume, opens it again so that the store writes its snapshot (the next start is then fast),
    /// and closes it for good. Gives the length of its data file. Readers find it like any other afterwards.
    fn close_active(&self, active: Arc<dyn Store>) -> Result<u64, StoreFault> {
        active.drain()?;
        let mut closed = self.closed.lock();
        let number = {
            let mut current = self.current.write();
            current.active = None;
            current.starts.last().map_or(0, |start| start.number)
        };
        drop(active);
        self.proven.lock().insert(number);
        *self.ahead.lock() = None;
        let store = self.closed_store(&mut closed, number)?;
        closed.clear();
        drop(store);
        // Why by path: the length counts once the store is closed.
        let path = self.layout.data_file(number);
        let metadata = std::fs::metadata(path);
        metadata
            .map(|m| m.len())
            .map_err(|error| StoreFault::new("close", error))
    }

    /// A volume's base; `None` while it is not written yet.
    pub(crate) fn base(&self, number: u64) -> Result<Option<Base>, RecoveryError> {
        Base::read(&self.layout.base(number))
    }

    /// Writes the base of a volume that was handed over to; whether there was one to write.
    fn write_base(&self) -> Result<bool, RecoveryError> {
        let mut unwritten = self.unwritten.lock();
        let Some(base) = &*unwritten else {
            return Ok(false);
        };
        record::replace(&self.layout.base(base.volume), &base.to_bytes())?;
        *unwritten = None;
        Ok(true)
    }
}

/// `store` behind the log, if there is one.
fn logged(wal: Option<&Arc<Wal>>, store: Arc<dyn Store>) -> Arc<dyn Store> {
    match wal {
        Some(wal) => wal.in_front_of(store),
        None => store,
    }
}

/// Work for the background thread.
#[derive(Debug)]
pub(crate) enum Task {
    /// The active volume changed; the new one begins at this base.
    Rotated(Base),
    /// A kill left this volume without its snapshot.
    Reopen(u64),
}

/// The writer's side: the active volume and how full it is.
#[derive(Debug)]
pub(crate) struct VolumeWriter {
    volumes: Arc<Volumes>,
    facts: BaseFacts,
    store: Arc<dyn Store>,
    number: u64,
    pages: u64,
    bytes: u64,
    bytes_before: u64,
    pages_max: u64,
    bytes_max: u64,
    // Before the background, which may wait for it.
    drainer: Option<Drainer>,
    background: Background,
    /// The base of a volume whose beginning the background has not been told.
    rotated: Option<Base>,
    rotation: Option<Duration>,
}

/// How full the active volume is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) pages: u64,
    pub(crate) bytes: u64,
    pub(crate) bytes_before: u64,
}

impl VolumeWriter {
    /// Takes over the active volume `number` and starts the background thread.
    pub(crate) fn start(
        volumes: Arc<Volumes>,
        facts: BaseFacts,
        config: &Config,
        number: u64,
        fill: Fill,
        supervisor: &Supervisor,
    ) -> std::io::Result<Self> {
        let drainer = volumes
            .wal
            .as_ref()
            .map(|wal| Drainer::start(Arc::clone(wal), supervisor))
            .transpose()?;
        let Some(store) = volumes.current.read().active.clone() else {
            return Err(std::io::Error::other("the journal is closed"));
        };
        let (task_tx, task_rx) = bounded(TASKS_MAX);
        let background = Arc::clone(&volumes);
        let worker = supervisor.spawn_thread("journal-volumes", OnExit::Continue, move || {
            work(&background, &task_rx);
        })?;
        Ok(Self {
            volumes,
            facts,
            store,
            number,
            pages: fill.pages,
            bytes: fill.bytes,
            bytes_before: fill.bytes_before,
            pages_max: config.volume_pages_max.max(1),
            bytes_max: config.volume_bytes_max.max(1),
            drainer,
            background: Background {
                task_tx: Some(task_tx),
                worker: Some(worker),
            },
            rotated: None,
            rotation: None,
        })
    }

    /// The active volume's store.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The active volume's number.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Counts what was written to the active volume.
    pub(crate) fn count(&mut self, pages: usize, bytes: usize) {
        self.pages = self
            .pages
            .saturating_add(u64::try_from(pages).unwrap_or(u64::MAX));
        self.bytes = self
            .bytes
            .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Goes to the next volume when the active one is full and the next one is ready; `first` and `previous_hash` are
    /// what it will begin with. A next one that is late only makes the active one longer.
    pub(crate) fn rotate_if_due(&mut self, first: Sequence, previous_hash: PageHash) {
        if self.pages < self.pages_max && self.bytes < self.bytes_max {
            return;
        }
        let begun_at = self.volumes.clock.monotonic();
        if self.rotated.is_some() {
            return;
        }
        let Some(mut ahead) = self.volumes.ahead.try_lock() else {
            return;
        };
        {
            let mut current = self.volumes.current.write();
            if current.retiring.is_some() {
                return;
            }
            let Some((next, store)) = ahead.take() else {
                return;
            };
            drop(ahead);
            current.starts.push(VolumeStart {
                number: next,
                first,
            });
            current.active = Some(Arc::clone(&store));
            let old = std::mem::replace(&mut self.store, store);
            current.retiring = Some((self.number, old));
            self.number = next;
        }
        self.bytes_before = self.bytes_before.saturating_add(self.bytes);
        (self.pages, self.bytes) = (0, 0);
        let start = Start {
            first,
            previous_hash,
            bytes_before: self.bytes_before,
        };
        self.rotated = Some(self.facts.base(self.number, start));
        self.rotation = Some(self.volumes.clock.monotonic().saturating_sub(begun_at));
    }

    /// Gives the background its work after a hand-over. Apart from that, and after the group was told, since a thread that
    /// wakes may take the processor from the one that wakes it.
    pub(crate) fn after_commit(&mut self) {
        if let (Some(base), Some(task_tx)) = (self.rotated.take(), &self.background.task_tx)
            && let Err(TrySendError::Full(Task::Rotated(base))) =
                task_tx.try_send(Task::Rotated(base))
        {
            // Tried again after the next commit; there is no further hand-over before.
            self.rotated = Some(base);
        }
    }

    /// Asks for a volume to be opened once, so that the store writes its snapshot. Beyond the queue's bound it is left
    /// to the first reader.
    pub(crate) fn reopen_later(&self, number: u64) {
        if let Some(task_tx) = &self.background.task_tx {
            let _ = task_tx.try_send(Task::Reopen(number));
        }
    }

    /// How long the last hand-over took, once.
    pub(crate) const fn take_rotation(&mut self) -> Option<Duration> {
        self.rotation.take()
    }

    /// Waits for the background thread and closes the active volume. Gives the length of its data file.
    pub(crate) fn close(self) -> Result<u64, StoreFault> {
        let Self {
            volumes,
            store,
            drainer,
            background,
            rotated,
            ..
        } = self;
        drop(background);
        if rotated.is_some() {
            *volumes.unwritten.lock() = rotated;
        }
        volumes
            .write_base()
            .map_err(|error| StoreFault::new("close", error))?;
        volumes.reopen_retired()?;
        let length_bytes = volumes.close_active(store);
        drop(drainer);
        length_bytes
    }
}

/// The background thread's handle: its drop ends the thread and waits for that.
#[derive(Debug)]
struct Background {
    task_tx: Option<Sender<Task>>,
    worker: Option<JoinHandle<()>>,
}

impl Drop for Background {
    fn drop(&mut self) {
        // IMPORTANT: waited for, since the thread holds the stores open, and the next owner of the folder would wait for
        // one of them while the thread waits for another.
        self.task_tx = None;
        if let Some(worker) = self.worker.take() {
            // A panic there was reported by the supervisor.
            let _ = worker.join();
        }
    }
}

/// The background thread: ends when the writer is gone.
fn work(volumes: &Volumes, task_rx: &Receiver<Task>) {
    let mut is_ahead_reported = false;
    let mut open_ahead = || match volumes.open_ahead() {
        Ok(()) => is_ahead_reported = false,
        // Tried again at each tick, told once: until then the active volume just grows.
        Err(fault) if !is_ahead_reported => {
            is_ahead_reported = true;
            tracing::error!(%fault, "cannot make the next volume; the active one grows on");
        }
        Err(_) => {}
    };
    let mut is_base_reported = false;
    loop {
        open_ahead();
        // IMPORTANT: the old volume retires only behind the new one's base: there is no further hand-over before, so
        // that a kill leaves at most the active volume without its base.
        match volumes.write_base() {
            Ok(true) => {
                is_base_reported = false;
                if let Err(fault) = volumes.reopen_retired() {
                    tracing::error!(%fault, "cannot open a closed volume; its reads will fail");
                }
            }
            // Tried again at each tick, told once.
            Err(error) if !is_base_reported => {
                is_base_reported = true;
                tracing::error!(%error, "cannot write a volume's base; the active one grows on");
            }
            Ok(false) | Err(_) => {}
        }
        match task_rx.recv_timeout(TICK) {
            Ok(Task::Rotated(base)) => *volumes.unwritten.lock() = Some(base),
            Ok(Task::Reopen(number)) => {
                if let Err(fault) = volumes.closed_store(&mut volumes.closed.lock(), number) {
                    tracing::error!(%fault, number, "cannot open a closed volume");
                }
            }
            Err(RecvTimeoutError::Timeout) => volumes.close_idle(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The numbers of the volumes in `folder`, ascending; other names are not ours and are left alone.
pub(crate) fn numbers_in(folder: &Path) -> std::io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        if let Some(number) = name.to_str().filter(|name| name.len() == 10) {
            numbers.extend(number.parse::<u64>().ok().filter(|number| *number > 0));
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}
