//! What is true: the journal of entries, durable and in order.
//!
//! `writer` is the one appending end; it encodes a group (`codec` into `page`s), makes it durable in the log (`wal`),
//! moves the durable watermark and feeds the followers (`feed`). The log is drained into the stores (`store`). `reader` reads on from a sequence. `volume` cuts the journal
//! into stores and hands over between them. `recovery` makes a valid journal of a data folder, with `unclean` and `raw`
//! for what the store may have lost and `walk` to check every page; `settings`, `lineage` and `witness` are the small
//! records beside it (`record`). `copy` reads pages as they are, `backup` carries them, `rebuild` makes a data folder of
//! them. Invariants: I1 (published ≤ durable ≤ appended) and I2 (nobody hears of more than durable).
//! `docs/FORMAT.md` draws the bytes.

mod backup;
#[doc(hidden)]
pub mod bench;
mod codec;
pub mod config;
mod copy;
pub mod entry;
mod error;
#[cfg(test)]
pub(crate) mod faulty;
mod feed;
mod guard;
mod lineage;
#[cfg(test)]
pub(crate) mod memory;
mod page;
#[doc(hidden)]
pub mod plain;
mod raw;
mod reader;
mod rebuild;
pub(crate) mod record;
mod recovery;
mod settings;
mod shared;
mod store;
#[cfg(test)]
pub(crate) mod testing;
mod unclean;
mod under_way;
mod volume;
mod wal;
mod walk;
mod witness;
mod writer;

pub use backup::{BackupError, BackupParser, BackupSource, Piece};
pub use config::Config;
pub use copy::{PageCopy, PagePlace, WholePage};
pub use entry::{
    Amendment, BatchPlace, Body, ChainLink, Entry, Event, EventDetail, EventKind, FailureReason,
    HoldPlaced, Idempotency, Leg, Movement, RefusedMovement, Scored, VoidedHold, WalletOpened,
};
pub use error::{ReadError, RecoveryError, StoreError};
pub use feed::{Batch, Follower, FollowerWaker};
pub use lineage::{EpochStart, Lineage};
pub use reader::{Inspector, JournalReader, Place};
pub use rebuild::{PageCheck, Rebuild, RebuildError, Rebuilt};
pub use recovery::FolderLock;
#[cfg(test)]
pub(crate) use store::{Opener, SledOpener};
pub use writer::Journal;

use crate::types::{Currencies, Sequence};
use std::time::Duration;
use uuid::Uuid;

/// Longest metadata or details of an entry, in bytes of JSON text. An entry must fit into one page: part of the format.
pub const TEXT_BYTES_MAX: usize = 2_048;
/// Longest user id of an entry, in bytes. Part of the format.
pub const USER_ID_BYTES_MAX: usize = 128;

/// Which history this is: sequences of two journals, or of two epochs of one, must never be mixed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalIdentity {
    /// Made with the store.
    pub journal_id: Uuid,
    /// 1 at first; raised by every import and every restore from a backup.
    pub epoch: u32,
}

impl JournalIdentity {
    /// Whether what carries `other` belongs to this history: the same journal, in this epoch or an earlier one.
    pub(crate) fn includes(self, other: Self) -> bool {
        self.journal_id == other.journal_id && other.epoch <= self.epoch
    }
}

impl JournalIdentity {
    /// What [`JournalIdentity`] writes as `text`; `None` for what is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (journal_id, epoch) = text.split_once('/')?;
        Some(Self {
            journal_id: Uuid::try_parse(journal_id).ok()?,
            epoch: epoch.parse().ok()?,
        })
    }
}

/// `<journal_id>/<epoch>`: the `journal` field of the wire contract.
impl std::fmt::Display for JournalIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.journal_id, self.epoch)
    }
}

/// Proof kept outside the journal that it once reached a sequence: a store that ends below its youngest witness, or
/// whose page there hashes otherwise, has lost acknowledged data and is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Witness {
    /// Whose.
    pub identity: JournalIdentity,
    /// Last durable sequence.
    pub durable: Sequence,
    /// BLAKE3 of the page that holds it (the last page then).
    pub head_hash: [u8; 32],
    /// Number of the volume that was active.
    pub volume: u64,
    /// Length of that volume's `db` file in bytes. Tells a clean stop; otherwise only told in errors, since the store
    /// may cut its file by free segments.
    pub length_bytes: u64,
}

/// Facts fixed when the store is made (own record, `settings`), the same for every later open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Which journal.
    pub identity: JournalIdentity,
    /// Key of the id permutation.
    pub id_key: [u8; 16],
    /// Made by `echopay dev`: wallets may have been opened on sight.
    pub dev: bool,
    /// Tags, codes and decimals. Rows may be added at a later open, never changed or removed.
    pub currencies: Currencies,
}

/// What [`Journal::open`] needs to know beside its [`Config`].
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// For a new store, recorded in [`Settings::dev`]; opens a store of `dev` too.
    pub dev: bool,
    /// Opens a store made by `dev` although `dev` is not set.
    pub accept_dev_store: bool,
    /// The configured currency table.
    pub currencies: Currencies,
    /// What the checkpoint files and the cursor remember. The clean-stop file is the journal's own.
    pub witnesses: Vec<Witness>,
}

/// What was made durable by one [`Journal::commit`].
#[derive(Clone, Debug)]
pub struct Group {
    /// In order; never empty.
    pub entries: Vec<Entry>,
    /// Bytes of its pages: what it costs in a queue.
    pub size_bytes: usize,
}

impl Group {
    /// First sequence of the first entry.
    pub fn first(&self) -> Sequence {
        self.entries
            .first()
            .map_or(Sequence::ORIGIN, |entry| entry.first)
    }

    /// Last sequence of the last entry.
    pub fn last(&self) -> Sequence {
        self.entries.last().map_or(Sequence::ORIGIN, Entry::last)
    }
}

/// What [`JournalReader::inspect`] found whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified {
    /// First sequence that is there.
    pub oldest: Sequence,
    /// Last sequence of the last whole group; at least the durable one when the check began.
    pub newest: Sequence,
    /// BLAKE3 of the last page: stands for everything before it.
    pub head_hash: [u8; 32],
    /// Volumes read.
    pub volumes: u64,
    /// Pages read.
    pub pages: u64,
    /// Entries decoded.
    pub entries: u64,
}

/// What a commit cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommitTiming {
    /// Encoding, hashing and handing the pages to the store.
    pub write: Duration,
    /// Encoding and hashing alone.
    pub encode: Duration,
    /// Until they were durable. A large group is synced in several parts.
    pub sync: Duration,
    /// Pages written.
    pub pages: usize,
    /// Bytes of those pages.
    pub size_bytes: usize,
    /// Bytes of the entries in them.
    pub payload_bytes: usize,
}

#[cfg(test)]
#[path = "crash_tests.rs"]
mod crash_tests;
#[cfg(test)]
#[path = "golden_tests.rs"]
mod golden_tests;
