//! The writing end: one group at a time becomes durable, and only then known.

use super::codec::Encoder;
use super::feed::Feed;
use super::page::{HEADER_BYTES, PageHash};
use super::recovery::{self, FolderLock, Recovered};
use super::shared::Shared;
use super::store::{Filling, Opener, SledOpener, StoreFault, settle};
use super::under_way::UnderWay;
use super::volume::{VolumeWriter, Volumes, Written};
use super::wal::Wal;
use super::{
    CommitTiming, Config, Entry, Follower, Group, JournalReader, OpenOptions, RecoveryError,
    Settings, StoreError, Witness, record,
};
use crate::clock::SharedClock;
use crate::ids::IdCipher;
use crate::tasks::Supervisor;
use crate::types::Sequence;
use crate::watermark::{WatermarkWriter, watermark};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The writing end: owned by the ledger thread, and the only thing that can append.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    volumes: VolumeWriter,
    durable: WatermarkWriter,
    feed: Feed,
    encoder: Encoder,
    head_hash: PageHash,
    timing: CommitTiming,
    stop_path: std::path::PathBuf,
    settings_path: std::path::PathBuf,
    /// Set for good by the first failure, and while a commit is under way: a panic in one leaves it set.
    poison: Option<StoreError>,
}

impl Journal {
    /// Locks the data folder, recovers and opens the journal in it; makes one where there is none.
    ///
    /// # Errors
    /// See [`RecoveryError`]; nothing was changed unless the error says so.
    pub fn open(
        config: &Config,
        options: OpenOptions,
        clock: SharedClock,
        supervisor: &Supervisor,
    ) -> Result<Self, RecoveryError> {
        Self::open_locked(Self::lock(config)?, config, options, clock, supervisor)
    }

    /// Locks the data folder, which is made when it is missing. For those who read more of it than the journal before
    /// they open that: another process that is just ending may still write there.
    ///
    /// # Errors
    /// [`RecoveryError::Locked`], or what the system said.
    pub fn lock(config: &Config) -> Result<FolderLock, RecoveryError> {
        recovery::lock_folder(config)
    }

    /// [`Journal::lock`] for those who make nothing: `None` where no journal is and none was ever opened.
    ///
    /// # Errors
    /// As [`Journal::lock`].
    pub fn lock_existing(config: &Config) -> Result<Option<FolderLock>, RecoveryError> {
        recovery::lock_existing(config)
    }

    /// [`Journal::open`] in the folder that [`Journal::lock`] locked with the same `config`.
    ///
    /// # Errors
    /// See [`RecoveryError`].
    pub fn open_locked(
        lock: FolderLock,
        config: &Config,
        options: OpenOptions,
        clock: SharedClock,
        supervisor: &Supervisor,
    ) -> Result<Self, RecoveryError> {
        let opener = Arc::new(SledOpener);
        Self::open_on(lock, config, options, clock, supervisor, opener)
    }

    /// Like [`Journal::open_locked`] behind [`Journal::lock_existing`], for those who take the journal as it is: never
    /// makes one, accepts one of `dev`, and keeps to the currencies of the store. `None` when there is no journal in the
    /// data folder; nothing is changed then.
    ///
    /// # Errors
    /// See [`RecoveryError`].
    pub fn open_existing(
        lock: Option<FolderLock>,
        config: &Config,
        witnesses: Vec<Witness>,
        clock: SharedClock,
        supervisor: &Supervisor,
    ) -> Result<Option<Self>, RecoveryError> {
        let Some(settings) = recovery::existing(&config.data_dir, &witnesses)? else {
            return Ok(None);
        };
        let options = OpenOptions {
            dev: settings.dev,
            accept_dev_store: true,
            currencies: settings.currencies,
            witnesses,
        };
        // Nothing will be written that is worth a log.
        let config = Config {
            wal_bytes: 0,
            ..config.clone()
        };
        let lock = lock.map_or_else(|| Self::lock(&config), Ok)?;
        Self::open_locked(lock, &config, options, clock, supervisor).map(Some)
    }

    /// [`Journal::open`] on other stores than sled's.
    #[cfg(test)]
    pub(crate) fn open_with(
        config: &Config,
        options: OpenOptions,
        clock: SharedClock,
        supervisor: &Supervisor,
        opener: Arc<dyn Opener>,
    ) -> Result<Self, RecoveryError> {
        let lock = Self::lock(config)?;
        Self::open_on(lock, config, options, clock, supervisor, opener)
    }

    pub(super) fn open_on(
        lock: FolderLock,
        config: &Config,
        options: OpenOptions,
        clock: SharedClock,
        supervisor: &Supervisor,
        opener: Arc<dyn Opener>,
    ) -> Result<Self, RecoveryError> {
        let recovered = recovery::recover(lock, config, options, &clock, opener.as_ref())?;
        let Recovered {
            lock,
            layout,
            settings,
            starts,
            active,
            ahead,
            fill,
            ..
        } = recovered;
        let wal = Wal::open(
            &layout,
            &settings,
            config.wal_bytes,
            &clock,
            opener.as_ref(),
        )?;
        let volume = active.0;
        let length_bytes = active.1.length_bytes().unwrap_or_default();
        let (stop_path, settings_path) = (layout.stop(), layout.settings());
        let volumes = Arc::new(Volumes::new(
            layout,
            opener,
            Arc::clone(&clock),
            config,
            starts,
            Written {
                active: active.1,
                ahead,
                wal,
            },
        ));
        let writer = VolumeWriter::start(
            Arc::clone(&volumes),
            Recovered::facts(&settings),
            config,
            volume,
            fill,
            supervisor,
        )
        .map_err(RecoveryError::io(
            "start the volume thread of",
            &config.data_dir,
        ))?;
        for number in recovered.unsnapped {
            writer.reopen_later(number);
        }
        let (durable, durable_mark) = watermark(recovered.durable);
        let head = Witness {
            identity: settings.identity,
            durable: recovered.durable,
            head_hash: recovered.head_hash,
            volume,
            length_bytes,
        };
        let shared = Arc::new(Shared {
            cipher: IdCipher::new(&settings.id_key),
            settings,
            lineage: recovered.lineage,
            volumes,
            durable: durable_mark,
            head: Mutex::new(head),
            size_bytes: AtomicU64::new(fill.bytes_before.saturating_add(fill.bytes)),
            sync: UnderWay::new(Arc::clone(&clock)),
            clock,
            _lock: lock,
        });
        Ok(Self {
            shared,
            volumes: writer,
            durable,
            feed: Feed::default(),
            encoder: Encoder::default(),
            head_hash: recovered.head_hash,
            timing: CommitTiming::default(),
            stop_path,
            settings_path,
            poison: None,
        })
    }

    /// The store's fixed facts.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// A reading end for anyone.
    pub fn reader(&self) -> JournalReader {
        JournalReader {
            shared: Arc::clone(&self.shared),
        }
    }

    /// A consumer of everything behind `after`, fed from now on with each committed group, from the journal before.
    /// At most `queue_bytes` of groups wait for it; beyond that they are dropped from the queue and it reads the
    /// journal instead. Never slows the writer.
    pub fn follow(&self, name: &'static str, after: Sequence, queue_bytes: usize) -> Follower {
        self.feed.follow(name, self.reader(), after, queue_bytes)
    }

    /// Last durable sequence.
    pub fn durable(&self) -> Sequence {
        self.durable.get()
    }

    /// Writes and syncs `entries` as one group: whole or not at all. On `Ok` they are durable, the durable watermark
    /// has moved, and the followers were fed. Any error is final (the journal is poisoned): the outcome is unknown,
    /// nothing may be acknowledged, and the process has to stop.
    ///
    /// # Errors
    /// [`StoreError::Poisoned`], also for every call after a first failure.
    ///
    /// # Panics
    /// None; panics inside sled are caught and poison the journal.
    pub fn commit(&mut self, entries: Vec<Entry>) -> Result<Arc<Group>, StoreError> {
        if let Some(poison) = &self.poison {
            return Err(poison.clone());
        }
        self.poison = Some(StoreError::Poisoned {
            stage: "panic",
            source_text: "an earlier commit did not end".into(),
        });
        let committed = self.write(&entries);
        self.shared.sync.ended();
        let last = match committed {
            Ok(last) => last,
            Err(StoreFault { stage, reason, .. }) => {
                self.volumes.store().abandon();
                let poison = StoreError::Poisoned {
                    stage,
                    source_text: reason,
                };
                self.poison = Some(poison.clone());
                return Err(poison);
            }
        };
        self.durable.advance_to(last);
        let group = Arc::new(Group {
            entries,
            size_bytes: self.encoder.size_bytes(),
        });
        self.feed.publish(&group);
        self.volumes.after_commit();
        self.poison = None;
        Ok(group)
    }

    fn write(&mut self, entries: &[Entry]) -> Result<Sequence, StoreFault> {
        let shared = Arc::clone(&self.shared);
        let begun_at = shared.clock.monotonic();
        let first = self.durable.get().next();
        let identity = shared.settings.identity;
        let head_hash = self
            .encoder
            .encode(identity, &shared.cipher, entries, first, self.head_hash)
            .map_err(|error| StoreFault::new("encode", error))?;
        let encode = shared.clock.monotonic().saturating_sub(begun_at);
        let last = entries.last().map_or(first, Entry::last);
        self.volumes.rotate_if_due(first, self.head_hash);
        shared.sync.begins();
        let store = self.volumes.store();
        let mut sync = Duration::ZERO;
        let mut timed_settle = || {
            let written_at = shared.clock.monotonic();
            // Each by itself: a long group on a slow disk is no disk that hangs.
            shared.sync.begins();
            settle(store.as_ref())?;
            sync += shared.clock.monotonic().saturating_sub(written_at);
            Ok(())
        };
        let mut filling = Filling::of(store.as_ref());
        for (key, page) in self.encoder.pages() {
            // A cut behind a sync within the group leaves an incomplete group, which the next start drops.
            if filling.push(store.as_ref(), key, page)? {
                timed_settle()?;
            }
        }
        filling.finish(store.as_ref())?;
        timed_settle()?;
        let took = shared.clock.monotonic().saturating_sub(begun_at);
        // Invariant: nothing below can fail; the group is durable.
        let length_bytes = store.length_bytes().unwrap_or_default();
        let (pages, size_bytes) = (self.encoder.page_count(), self.encoder.size_bytes());
        self.volumes.count(pages, size_bytes);
        self.head_hash = head_hash;
        self.timing = CommitTiming {
            write: took.saturating_sub(sync),
            encode,
            sync,
            pages,
            size_bytes,
            payload_bytes: size_bytes.saturating_sub(pages.saturating_mul(HEADER_BYTES)),
        };
        let added = u64::try_from(size_bytes).unwrap_or(u64::MAX);
        shared.size_bytes.fetch_add(added, Ordering::Relaxed);
        *shared.head.lock() = Witness {
            identity,
            durable: last,
            head_hash,
            volume: self.volumes.number(),
            length_bytes,
        };
        Ok(last)
    }

    /// What the last [`Journal::commit`] cost; zeros before the first.
    pub const fn last_commit(&self) -> CommitTiming {
        self.timing
    }

    /// How long the last hand-over to a new volume took, once after each.
    pub const fn take_rotation(&mut self) -> Option<Duration> {
        self.volumes.take_rotation()
    }

    /// Writes the clean-stop witness and closes the store. Followers end once they have everything; readers go on
    /// reading, and the data folder stays locked until the last of them is gone.
    ///
    /// # Errors
    /// When the journal was poisoned, or the witness could not be written; what was acknowledged is whole all the same.
    pub fn close(self) -> Result<(), StoreError> {
        let Self {
            shared,
            volumes,
            feed,
            stop_path,
            settings_path,
            poison,
            ..
        } = self;
        if let Some(poison) = poison {
            return Err(poison);
        }
        let failed = |source_text| StoreError::Poisoned {
            stage: "close",
            source_text,
        };
        let length_bytes = volumes
            .close()
            .map_err(|fault| failed(fault.to_string().into()))?;
        let witness = Witness {
            length_bytes,
            ..*shared.head.lock()
        };
        record::replace(&stop_path, &witness.to_bytes())
            .map_err(|error| failed(error.to_string().into()))?;
        // Behind the drain of the log: the volumes have everything.
        shared.settings.allow_older(&settings_path);
        drop(feed);
        Ok(())
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
