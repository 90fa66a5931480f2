//! Putting the ledger together, and taking it down.

use super::books::{Books, BooksWriter, WronglyHeld, apply};
use super::checkpoint::{Checkpointer, Loaded};
use super::config::Config;
use super::handle::{LedgerHandle, queue};
use super::pace::Pace;
use super::query::Queries;
use super::thread::{LedgerThread, state};
use super::time::{Leaps, LedgerTime};
use crate::clock::SharedClock;
use crate::ids::IdCipher;
use crate::journal::{Journal, ReadError, StoreError};
use crate::metrics::Metrics;
use crate::tasks::{OnExit, Supervisor};
use crate::types::{Sequence, TimestampMs, WalletId};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::info;

/// Entries between two looks at whether the process shall stop: less than a millisecond's work.
const ASK_EVERY_ENTRIES: u64 = 256;

/// Why the ledger could not start. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The checkpoint files tell of another journal than the one beside them.
    #[error("the checkpoint belongs to journal {checkpoint}, the volumes to {journal}")]
    ForeignCheckpoint {
        /// `<journal_id>/<epoch>` in the checkpoint.
        checkpoint: String,
        /// `<journal_id>/<epoch>` in the volumes.
        journal: String,
    },
    /// The checkpoint knows of more than the journal holds: acknowledged entries are gone.
    #[error("the checkpoint stands at sequence {checkpoint}, the journal ends at {durable}")]
    LostTail {
        /// Where the checkpoint stands.
        checkpoint: Sequence,
        /// Where the journal ends.
        durable: Sequence,
    },
    /// The journal could not be replayed.
    #[error("replay: {0}")]
    Replay(#[from] ReadError),
    /// The balances of a currency do not sum to zero.
    #[error("the balances of currency {currency} sum to {total_minor} minor units instead of zero")]
    NotZeroSum {
        /// Tag of the currency.
        currency: u16,
        /// What they sum to.
        total_minor: i128,
    },
    /// What a wallet holds back is not what its open holds add up to.
    #[error(
        "wallet {wallet} holds back {held_minor} minor units, its open holds add up to {holds_minor}"
    )]
    WronglyHeld {
        /// Whose.
        wallet: WalletId,
        /// Held back in one of its accounts.
        held_minor: i128,
        /// Sum of the account's open holds.
        holds_minor: i128,
    },
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The running ledger.
#[derive(Debug)]
pub struct Ledger {
    handle: LedgerHandle,
    queries: Queries,
    books: Arc<Books>,
    journal_rx: Receiver<Journal>,
    /// Back from the thread, once drained.
    journal: Option<Journal>,
    checkpoint_stop_tx: Sender<()>,
    checkpoint_writer: JoinHandle<()>,
    writer: JoinHandle<()>,
}

/// Counts for `/metrics`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LedgerStats {
    /// Wallets, issuers included.
    pub wallets: u64,
    /// Holds neither captured nor void.
    pub open_holds: u64,
}

/// Books that hold everything that the journal does, and add up.
#[derive(Debug)]
pub struct Replayed(Arc<Books>);

impl Loaded {
    /// Replays what the checkpoint lacks of the journal, and checks the books. Blocks; asks `is_stopping` time and again,
    /// and gives `None` as soon as that is so.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn replay(
        self,
        journal: &Journal,
        clock: &SharedClock,
        is_stopping: &dyn Fn() -> bool,
    ) -> Result<Option<Replayed>, StartError> {
        Ok(open_books(self, journal, clock, is_stopping)?.map(Replayed))
    }
}

impl Ledger {
    /// Starts the threads on books that were replayed from this journal. Call it inside the tokio runtime.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(
        config: Config,
        Replayed(books): Replayed,
        journal: Journal,
        clock: &SharedClock,
        metrics: &Metrics,
        supervisor: &Supervisor,
    ) -> Result<Self, StartError> {
        let reader = journal.reader();
        let durable = journal.durable();
        let last = reader
            .entry_covering(durable)?
            .map_or(TimestampMs::default(), |entry| entry.at);
        let (handle, inbox) = queue(
            config.queue_commands_max,
            config.queue_bytes_max,
            metrics.clone(),
        );
        supervisor.spawn_task(
            "answers",
            OnExit::StopProcess,
            Arc::clone(&inbox.mailbox).deliver(),
        );
        let ids = IdCipher::new(&journal.settings().id_key);
        let queries = Queries::new(Arc::clone(&books), reader.clone(), ids, &config);
        let (checkpoint_stop_tx, stop_rx) = bounded(1);
        let checkpointer = Checkpointer {
            config: config.clone(),
            books: Arc::clone(&books),
            reader,
            clock: Arc::clone(clock),
            metrics: metrics.clone(),
            stop_rx,
        };
        let checkpoint_writer =
            supervisor.spawn_thread("checkpoint", OnExit::StopProcess, || {
                checkpointer.run();
            })?;
        let thread = LedgerThread {
            inbox,
            state: state(&config, Arc::clone(&books), &journal),
            time: LedgerTime::new(last, Leaps::from(&config)),
            pace: Pace::default(),
            config,
            journal,
            clock: Arc::clone(clock),
            metrics: metrics.clone(),
            supervisor: supervisor.clone(),
        };
        let (journal_tx, journal_rx) = bounded(1);
        let writer = supervisor.spawn_thread("ledger", OnExit::StopProcess, move || {
            // Why ignored: who asked for the journal back may be gone; then it closes here.
            let _ = journal_tx.send(thread.run());
        })?;
        Ok(Self {
            handle,
            queries,
            books,
            journal_rx,
            journal: None,
            checkpoint_stop_tx,
            checkpoint_writer,
            writer,
        })
    }

    /// What the queries see, for tests that look deeper.
    #[cfg(test)]
    pub(super) fn books(&self) -> Arc<Books> {
        Arc::clone(&self.books)
    }

    /// For those who ask for changes.
    pub fn handle(&self) -> LedgerHandle {
        self.handle.clone()
    }

    /// For those who only look.
    pub fn queries(&self) -> Queries {
        self.queries.clone()
    }

    /// A closure that counts wallets and holds, for the metrics.
    pub fn stats(&self) -> impl Fn() -> LedgerStats + Send + Sync + use<> {
        let books = Arc::clone(&self.books);
        move || LedgerStats {
            wallets: books.wallet_count(),
            open_holds: books.open_holds_count() as u64,
        }
    }

    /// Answers what stands in the queue and ends the ledger's thread; whether it ended within `patience` (once for the
    /// place in the queue, once for the answers). From then on nothing is appended any more. Blocks.
    pub fn drain(&mut self, patience: Duration) -> bool {
        if self.handle.drain(patience) {
            self.journal = self.journal_rx.recv_timeout(patience).ok();
        }
        self.journal.is_some()
    }

    /// Writes a last checkpoint and closes the journal. To be called after [`Ledger::drain`] and after everyone who
    /// reads the journal has stopped. Blocks.
    ///
    /// # Errors
    /// What the journal's close has to say. What is durable stays so.
    pub fn close(self) -> Result<(), StoreError> {
        // Dropping the sender is the signal: unlike a message, every later look at the channel sees it.
        drop(self.checkpoint_stop_tx);
        let Some(journal) = self.journal else {
            return Ok(());
        };
        // Why ignored: a panic was noticed by the supervisor.
        let _ = self.checkpoint_writer.join();
        let _ = self.writer.join();
        journal.close()
    }
}

/// Replays what the checkpoint lacks and checks the result.
fn open_books(
    loaded: Loaded,
    journal: &Journal,
    clock: &SharedClock,
    is_stopping: &dyn Fn() -> bool,
) -> Result<Option<Arc<Books>>, StartError> {
    let started = clock.monotonic();
    let reader = journal.reader();
    let identity = reader.identity();
    if let Some(checkpoint) = loaded.identity.filter(|found| *found != identity) {
        return Err(StartError::ForeignCheckpoint {
            checkpoint: checkpoint.to_string(),
            journal: identity.to_string(),
        });
    }
    let durable = journal.durable();
    // Rows hold only what was durable, and may be newer than the file that holds them says.
    let checkpoint = loaded.replay_after.max(loaded.books.newest_row());
    if checkpoint > durable {
        return Err(StartError::LostTail {
            checkpoint,
            durable,
        });
    }
    let books = Arc::new(loaded.books);
    let (mut replayed, mut is_stopped) = (0_u64, is_stopping());
    let mut rows = BooksWriter(&books);
    reader.replay_while(loaded.replay_after, &mut |entry| {
        apply(&mut rows, entry);
        replayed += 1;
        is_stopped = is_stopped || (replayed % ASK_EVERY_ENTRIES == 0 && is_stopping());
        if is_stopped {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    if is_stopped {
        info!(replayed, "told to stop before the books were open");
        return Ok(None);
    }
    books.set_as_of(durable);
    let off = books
        .totals()
        .into_iter()
        .find(|total| total.sum_minor != 0);
    if let Some(total) = off {
        return Err(StartError::NotZeroSum {
            currency: total.currency.tag(),
            total_minor: total.sum_minor,
        });
    }
    if let Some(wrong) = books.wrongly_held() {
        let WronglyHeld {
            wallet,
            held_minor,
            holds_minor,
        } = wrong;
        return Err(StartError::WronglyHeld {
            wallet,
            held_minor,
            holds_minor,
        });
    }
    let took = clock.monotonic().saturating_sub(started);
    info!(%durable, replayed, wallets = books.wallet_count(), ?took, "books are open");
    Ok(Some(books))
}
