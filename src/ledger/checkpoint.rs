//! The books on disk: one file a shard, written in turn beside the running ledger, so that a start replays little.
//!
//! A checkpoint is derived state and may be lost; the journal then gives it again. Its files prove more than they
//! hold: each carries a [`Witness`] of the journal, some tens of milliseconds old. The bytes are drawn in
//! `docs/FORMAT.md`.
//!
//! Only shards that changed are written. So a file may stand at an old sequence and still be current; the `round`
//! file tells up to where every file is. Files are fuzzy: rows may be newer than the sequence a file stands at, and
//! replay, which sets rows to what they were after each entry, ends right all the same.

use super::books::{
    Account, Accounts, Amended, Books, BooksWriter, Hold, Rows, SHARDS, Shard, Wallet,
};
use super::config::Config;
use crate::clock::SharedClock;
use crate::journal::record::{put, sync_folder};
use crate::journal::{JournalIdentity, JournalReader, RecoveryError, Witness};
use crate::metrics::Metrics;
use crate::types::{
    Currency, FraudScore, MinorUnits, Sequence, Status, TimestampMs, TransactionId, WalletId,
};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, error, warn};
use uuid::Uuid;

const SHARD_MAGIC: [u8; 4] = *b"EPCS";
const ROUND_MAGIC: [u8; 4] = *b"EPCR";
const VERSION: u16 = 1;
const HASH_BYTES: usize = 32;
/// One bit a shard: whether it has a file.
const BITMAP_BYTES: usize = SHARDS / 8;

/// Why checkpoints could not be loaded. A damaged or missing file is no error: its shard is replayed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The folder could not be read or made.
    #[error("checkpoint folder {path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A newer echopay wrote it.
    #[error("checkpoint {path} has format version {version}; this echopay knows 1")]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u16,
    },
    /// Two files tell of two journals.
    #[error("checkpoint {path} belongs to another journal than its neighbours")]
    Mixed {
        /// The second.
        path: PathBuf,
    },
}

/// What the checkpoint files hold, before the journal is opened.
#[derive(Debug)]
pub struct Loaded {
    pub(super) books: Books,
    /// Everything up to here is in the books.
    pub(super) replay_after: Sequence,
    /// Of which journal; `None` when there was no file.
    pub(super) identity: Option<JournalIdentity>,
    /// One a whole file.
    witnesses: Vec<Witness>,
    unusable: Vec<PathBuf>,
}

impl Loaded {
    /// Reads all checkpoint files of the data folder.
    ///
    /// # Errors
    /// See [`CheckpointError`]. Nothing on disk is changed.
    pub fn read(config: &Config) -> Result<Self, CheckpointError> {
        let dir = folder(config);
        let round = read_round(&dir)?;
        let mut loaded = Self {
            books: Books::new(),
            replay_after: Sequence::ORIGIN,
            identity: round.as_ref().map(|round| round.identity),
            witnesses: Vec::new(),
            unusable: Vec::new(),
        };
        let round_path = dir.join("round");
        if round.is_none() && round_path.exists() {
            loaded.unusable.push(round_path);
        }
        let round_at = round.as_ref().map_or(Sequence::ORIGIN, |round| round.at);
        let mut lowest: Option<Sequence> = None;
        let written = shards_in(&dir)?;
        for index in 0..SHARDS {
            let path = shard_path(&dir, index);
            let expected = round.as_ref().is_some_and(|round| round.has(index));
            let bytes = if written.contains(&index) {
                read_file(&path)?
            } else {
                None
            };
            let at = match bytes {
                None if expected => {
                    warn!(path = %path.display(), "a checkpoint file is missing; it is replayed");
                    loaded.unusable.push(path);
                    Sequence::ORIGIN
                }
                None => round_at,
                Some(bytes) => {
                    if let Some(at) = loaded.take_shard(&path, index, &bytes)? {
                        at.max(round_at)
                    } else {
                        warn!(path = %path.display(), "a checkpoint file is damaged; it is replayed");
                        loaded.unusable.push(path);
                        Sequence::ORIGIN
                    }
                }
            };
            lowest = Some(lowest.map_or(at, |lowest| lowest.min(at)));
        }
        loaded.replay_after = lowest.unwrap_or_default();
        Ok(loaded)
    }

    /// What the files prove of the journal, for [`crate::journal::OpenOptions::witnesses`].
    pub fn witness(&self) -> Option<Witness> {
        let youngest = self.witnesses.iter().max_by_key(|witness| witness.durable);
        youngest.copied()
    }

    /// All that the files prove of the journal: one witness a whole file.
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Files that are damaged, or missing where there must be one. A start does without them.
    pub fn unusable(&self) -> &[PathBuf] {
        &self.unusable
    }

    /// Everything up to here need not be replayed.
    pub fn stands_at(&self) -> Sequence {
        self.replay_after
    }

    /// Of which journal; `None` when there was no file.
    pub fn identity(&self) -> Option<JournalIdentity> {
        self.identity
    }

    fn take_shard(
        &mut self,
        path: &Path,
        index: usize,
        bytes: &[u8],
    ) -> Result<Option<Sequence>, CheckpointError> {
        let Some(body) = checked(bytes) else {
            return Ok(None);
        };
        let mut input = Input(body);
        if input.array() != Some(SHARD_MAGIC) {
            return Ok(None);
        }
        match input.u16() {
            Some(VERSION) => {}
            version => {
                let version = version.unwrap_or_default();
                return Err(CheckpointError::Version {
                    path: path.into(),
                    version,
                });
            }
        }
        let Some((shard, witness, at)) = read_shard_head(&mut input) else {
            return Ok(None);
        };
        if self.identity.is_some_and(|known| known != witness.identity) {
            return Err(CheckpointError::Mixed { path: path.into() });
        }
        if usize::from(shard) != index || read_rows(&mut input, &self.books).is_none() {
            return Ok(None);
        }
        self.books.take_dirty(index);
        self.identity = Some(witness.identity);
        self.witnesses.push(witness);
        Ok(Some(at))
    }
}

/// Which shards had files when every file was current up to `at`.
struct Round {
    identity: JournalIdentity,
    at: Sequence,
    bitmap: [u8; BITMAP_BYTES],
}

impl Round {
    fn has(&self, index: usize) -> bool {
        self.bitmap
            .get(index / 8)
            .is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }
}

/// Writes checkpoints until told to stop, then one last round without pauses.
#[derive(Debug)]
pub(super) struct Checkpointer {
    pub(super) config: Config,
    pub(super) books: Arc<Books>,
    pub(super) reader: JournalReader,
    pub(super) clock: SharedClock,
    pub(super) metrics: Metrics,
    pub(super) stop_rx: Receiver<()>,
}

impl Checkpointer {
    /// The thread's work.
    pub(super) fn run(self) {
        let interval = Duration::from_millis(self.config.checkpoint_interval_ms);
        let mut written = self.nothing_written();
        while !self.pause(interval) {
            if self.books.as_of() > written.at {
                self.round_or_log(&mut written, true);
            }
        }
        if self.books.as_of() > written.at {
            self.round_or_log(&mut written, false);
        }
    }

    pub(super) fn nothing_written(&self) -> Written {
        Written {
            at: Sequence::ORIGIN,
            journal_bytes: self.reader.size_bytes(),
        }
    }

    fn round_or_log(&self, written: &mut Written, paced: bool) {
        let start = self.clock.monotonic();
        match self.round(written, paced) {
            Ok(size_bytes) => {
                let took = self.clock.monotonic().saturating_sub(start);
                self.metrics.observe_checkpoint_round(took, size_bytes);
                debug!(at = %written.at, size_bytes, "checkpoint round finished");
            }
            Err(cause) => error!(%cause, "a checkpoint round failed; the next one tries again"),
        }
    }

    /// Writes every changed shard, then the round. Returns the bytes written.
    pub(super) fn round(&self, written: &mut Written, paced: bool) -> Result<u64, RecoveryError> {
        let dir = folder(&self.config);
        if !dir.exists() {
            fs::create_dir_all(&dir).map_err(RecoveryError::io("create", &dir))?;
        }
        sync_folder(&self.config.data_dir)?;
        let at = self.books.as_of();
        let journal_bytes = self.reader.size_bytes();
        let lag_bytes = journal_bytes.saturating_sub(written.journal_bytes);
        let paced = paced && lag_bytes < self.config.checkpoint_lag_bytes_max;
        let mut unsynced = Vec::new();
        let shards = self.write_shards(&dir, paced, &mut unsynced);
        let synced = shards.and_then(|shards| sync_folder(&dir).map(|()| shards));
        if synced.is_err() {
            for index in unsynced {
                self.books.mark_dirty(index);
            }
        }
        // IMPORTANT: the round says of every file that it is current, so their names must be durable before its own.
        let (bitmap, size_bytes) = synced?;
        let round = Round {
            identity: self.reader.identity(),
            at,
            bitmap,
        };
        let mut bytes = Vec::new();
        write_round(&round, &mut bytes);
        put(&dir.join("round"), &bytes)?;
        sync_folder(&dir)?;
        *written = Written { at, journal_bytes };
        Ok(size_bytes)
    }

    /// Writes every changed shard; gives which shards have files, and the bytes written. The files whose names are not
    /// durable yet are put into `unsynced`.
    fn write_shards(
        &self,
        dir: &Path,
        mut paced: bool,
        unsynced: &mut Vec<usize>,
    ) -> Result<([u8; BITMAP_BYTES], u64), RecoveryError> {
        let pace = Duration::from_millis(self.config.checkpoint_pace_ms);
        let mut size_bytes = 0;
        let mut bytes = Vec::new();
        let mut bitmap = [0; BITMAP_BYTES];
        for index in 0..SHARDS {
            // IMPORTANT: before the mark is taken, so that a shard said to have a file has one: a first row that comes in
            // behind the mark would claim a file that the next start misses, and replays everything for.
            if !self.books.shard(index).is_empty() {
                bitmap[index / 8] |= 1 << (index % 8);
            }
            if self.books.take_dirty(index) {
                unsynced.push(index);
                self.write_shard_bytes(index, &mut bytes);
                put(&shard_path(dir, index), &bytes)?;
                size_bytes += bytes.len() as u64;
                if paced {
                    // Why each: its witness counts from then on. In a hurry one sync for all does, in half the time.
                    sync_folder(dir)?;
                    unsynced.clear();
                    paced = !self.pause(pace);
                }
            }
        }
        Ok((bitmap, size_bytes))
    }

    /// Waits; `true` when it is time to stop.
    fn pause(&self, time: Duration) -> bool {
        !matches!(
            self.stop_rx.recv_timeout(time),
            Err(RecvTimeoutError::Timeout)
        )
    }

    fn write_shard_bytes(&self, index: usize, out: &mut Vec<u8>) {
        // IMPORTANT: the sequence and the witness before the rows, so that the rows hold at least that much.
        let at = self.books.as_of();
        let witness = self.reader.witness();
        write_shard(index, at, &witness, &self.books.shard(index), out);
        // Behind the lock: the ledger may be waiting for the shard.
        seal(out);
    }
}

/// What the last finished round covered.
#[derive(Debug)]
pub(super) struct Written {
    at: Sequence,
    journal_bytes: u64,
}

fn folder(config: &Config) -> PathBuf {
    config.data_dir.join("checkpoint")
}

fn shard_path(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("{index:04x}"))
}

/// The shards that have a file; of most small ledgers they are few.
fn shards_in(dir: &Path) -> Result<BTreeSet<usize>, CheckpointError> {
    let failed = |source| CheckpointError::Folder {
        path: dir.into(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(failed)?,
    };
    let mut shards = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_str().filter(|name| name.len() == 4);
        shards.extend(name.and_then(|name| usize::from_str_radix(name, 16).ok()));
    }
    Ok(shards)
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, CheckpointError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        // Below a file there is nothing either; the journal's opening says what is wrong with the folder.
        Err(source) if matches!(source.kind(), NotFound | NotADirectory) => Ok(None),
        Err(source) => Err(CheckpointError::Folder {
            path: path.into(),
            source,
        }),
    }
}

fn read_round(dir: &Path) -> Result<Option<Round>, CheckpointError> {
    let path = dir.join("round");
    let Some(bytes) = read_file(&path)? else {
        return Ok(None);
    };
    let Some(body) = checked(&bytes) else {
        warn!(path = %path.display(), "the checkpoint's round file is damaged and not used");
        return Ok(None);
    };
    let mut input = Input(body);
    if input.array() != Some(ROUND_MAGIC) {
        return Ok(None);
    }
    match input.u16() {
        Some(VERSION) => {}
        version => {
            return Err(CheckpointError::Version {
                path,
                version: version.unwrap_or_default(),
            });
        }
    }
    let round = (|| {
        let identity = input.identity()?;
        let at = input.sequence()?;
        Some(Round {
            identity,
            at,
            bitmap: input.array()?,
        })
    })();
    Ok(round)
}

/// The bytes of a shard's file before they are sealed, in place of what `out` holds.
fn write_shard(index: usize, at: Sequence, witness: &Witness, shard: &Shard, out: &mut Vec<u8>) {
    out.clear();
    out.extend(SHARD_MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(u16::try_from(index).unwrap_or(u16::MAX).to_le_bytes());
    out.extend(witness.identity.journal_id.as_bytes());
    out.extend(witness.identity.epoch.to_le_bytes());
    out.extend(at.get().to_le_bytes());
    out.extend(witness.durable.get().to_le_bytes());
    out.extend(witness.head_hash);
    out.extend(witness.volume.to_le_bytes());
    out.extend(witness.length_bytes.to_le_bytes());
    write_rows(shard, out);
}

/// The bytes of the round's file, in place of what `out` holds.
fn write_round(round: &Round, out: &mut Vec<u8>) {
    out.clear();
    out.extend(ROUND_MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(round.identity.journal_id.as_bytes());
    out.extend(round.identity.epoch.to_le_bytes());
    out.extend(round.at.get().to_le_bytes());
    out.extend(round.bitmap);
    seal(out);
}

/// Appends the BLAKE3 of everything before it.
fn seal(bytes: &mut Vec<u8>) {
    let hash = blake3::hash(bytes);
    bytes.extend(hash.as_bytes());
}

/// The bytes before the hash, if the hash is right.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    (blake3::hash(body).as_bytes() == hash).then_some(body)
}

fn read_shard_head(input: &mut Input<'_>) -> Option<(u16, Witness, Sequence)> {
    let shard = input.u16()?;
    let identity = input.identity()?;
    let at = input.sequence()?;
    let witness = Witness {
        identity,
        durable: input.sequence()?,
        head_hash: input.array()?,
        volume: input.u64()?,
        length_bytes: input.u64()?,
    };
    Some((shard, witness, at))
}

fn count(rows: usize, out: &mut Vec<u8>) {
    // A shard holds at most some ten thousand rows a map; the saturation can never be seen.
    out.extend(u32::try_from(rows).unwrap_or(u32::MAX).to_le_bytes());
}

fn write_rows(shard: &Shard, out: &mut Vec<u8>) {
    count(shard.wallets.len(), out);
    for (id, wallet) in &shard.wallets {
        out.extend(id.uuid().as_bytes());
        out.extend(wallet.ordinal.to_le_bytes());
        out.extend(wallet.head.get().to_le_bytes());
        out.extend(wallet.skip.get().to_le_bytes());
        let accounts = wallet.accounts.as_slice();
        // At most Currencies::COUNT_MAX accounts.
        out.push(u8::try_from(accounts.len()).unwrap_or(u8::MAX));
        for account in accounts {
            out.extend(account.currency.tag().to_le_bytes());
            out.extend(account.balance.get().to_le_bytes());
            out.extend(account.held.get().to_le_bytes());
            out.extend(account.overdraft_limit.get().to_le_bytes());
            out.extend(account.updated_at.get().to_le_bytes());
        }
    }
    count(shard.amended.len(), out);
    for (created, row) in &shard.amended {
        out.extend(created.get().to_le_bytes());
        out.extend(row.last.get().to_le_bytes());
        out.extend(row.ordinal.to_le_bytes());
        out.push(status_tag(row.status));
        out.extend(row.fraud_score.millionths().to_le_bytes());
    }
    count(shard.holds.len(), out);
    for (created, hold) in &shard.holds {
        out.extend(created.get().to_le_bytes());
        out.extend(hold.transaction.0.as_bytes());
        out.extend(hold.from.uuid().as_bytes());
        out.extend(hold.to.uuid().as_bytes());
        out.extend(hold.currency.tag().to_le_bytes());
        out.extend(hold.amount.get().to_le_bytes());
        out.extend(hold.expires_at.get().to_le_bytes());
    }
}

/// Reads all rows into the books; `None` when the bytes end early or hold what cannot be.
fn read_rows(input: &mut Input<'_>, books: &Books) -> Option<()> {
    let mut rows = BooksWriter(books);
    for _ in 0..input.u32()? {
        let id = input.wallet()?;
        let (ordinal, head, skip) = (input.u64()?, input.sequence()?, input.sequence()?);
        let mut accounts = (0..input.u8()?).map(|_| {
            Some(Account {
                currency: Currency::from_tag(input.u16()?),
                balance: input.minor()?,
                held: input.minor()?,
                overdraft_limit: input.minor()?,
                updated_at: TimestampMs::new(input.u64()?),
            })
        });
        let first = accounts.next()??;
        let mut others = accounts.collect::<Option<Vec<Account>>>()?;
        let accounts = if others.is_empty() {
            Accounts::One(first)
        } else {
            others.insert(0, first);
            Accounts::Many(others)
        };
        rows.put_wallet(
            id,
            Wallet {
                ordinal,
                head,
                skip,
                accounts,
            },
        );
    }
    for _ in 0..input.u32()? {
        let created = input.sequence()?;
        let row = Amended {
            last: input.sequence()?,
            ordinal: input.u32()?,
            status: status_of_tag(input.u8()?)?,
            fraud_score: FraudScore::from_millionths(input.u32()?)?,
        };
        rows.put_amended(created, row);
    }
    for _ in 0..input.u32()? {
        let created = input.sequence()?;
        let hold = Hold {
            transaction: TransactionId(Uuid::from_bytes(input.array()?)),
            from: input.wallet()?,
            to: input.wallet()?,
            currency: Currency::from_tag(input.u16()?),
            amount: input.minor()?,
            expires_at: TimestampMs::new(input.u64()?),
        };
        rows.put_hold(created, hold);
    }
    input.0.is_empty().then_some(())
}

const fn status_tag(status: Status) -> u8 {
    match status {
        Status::Pending => 1,
        Status::Completed => 2,
        Status::Failed => 3,
        Status::Reversed => 4,
    }
}

const fn status_of_tag(tag: u8) -> Option<Status> {
    match tag {
        1 => Some(Status::Pending),
        2 => Some(Status::Completed),
        3 => Some(Status::Failed),
        4 => Some(Status::Reversed),
        _ => None,
    }
}

/// Little-endian fields from the front of a slice; `None` at its end.
struct Input<'b>(&'b [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn minor(&mut self) -> Option<MinorUnits> {
        self.array().map(i64::from_le_bytes).map(MinorUnits::new)
    }

    fn sequence(&mut self) -> Option<Sequence> {
        self.u64().map(Sequence::new)
    }

    fn wallet(&mut self) -> Option<WalletId> {
        WalletId::new(Uuid::from_bytes(self.array()?))
    }

    fn identity(&mut self) -> Option<JournalIdentity> {
        let journal_id = Uuid::from_bytes(self.array()?);
        Some(JournalIdentity {
            journal_id,
            epoch: self.u32()?,
        })
    }
}

#[cfg(test)]
#[path = "golden_tests.rs"]
mod golden_tests;
