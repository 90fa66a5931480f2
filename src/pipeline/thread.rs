//! The pipeline's thread: one session after another, until the process stops or the operator has to decide.

use super::config::{Config, ConfigError, Delivery};
use super::cursor::Cursor;
use super::handle::{Counts, PipelineHandle, PipelineState, PipelineStopper, Running, Shared};
use super::patience::Patience;
use super::producer::Brokers;
use super::rival::Known;
use super::session::{End, Session};
use super::transaction::Transactions;
use crate::clock::SharedClock;
use crate::event::EventEncoder;
use crate::ids::IdCipher;
use crate::journal::{Follower, JournalIdentity, JournalReader};
use crate::metrics::Metrics;
use crate::tasks::{OnExit, Supervisor};
use crate::types::{Currencies, Sequence};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// What the pipeline needs of the rest of the house.
pub struct Sources<'s> {
    /// The data folder, where the cursor is kept.
    pub data_dir: &'s Path,
    /// What [`Cursor::load`] gave.
    pub cursor: Option<Cursor>,
    /// Makes the follower of the journal: everything behind the sequence, at most so many bytes waiting. Not called
    /// without brokers.
    pub follow: &'s dyn Fn(Sequence, usize) -> Follower,
    /// A reading end of the journal.
    pub reader: JournalReader,
    /// The journal's id cipher, for the events.
    pub ids: IdCipher,
    /// The journal's currencies, for the events.
    pub currencies: Currencies,
    /// Time.
    pub clock: SharedClock,
    /// Where batches are counted.
    pub metrics: Metrics,
    /// Who starts the threads.
    pub supervisor: &'s Supervisor,
}

impl fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// The pipeline could not be started. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// librdkafka refuses the settings.
    #[error("{0}")]
    Kafka(String),
    /// The cursor in the data folder was made for another journal, or for another epoch of this one.
    #[error(
        "{path} belongs to journal {found}, this journal is {expected}; move it away if this journal shall be shipped"
    )]
    ForeignCursor {
        /// The cursor's file.
        path: PathBuf,
        /// Its journal.
        found: JournalIdentity,
        /// The journal that was opened.
        expected: JournalIdentity,
    },
    /// The system gives no thread.
    #[error("cannot start the pipeline's thread: {0}")]
    Thread(#[source] io::Error),
}

/// Starts to ship, or, without brokers, only shows how much waits. Does not connect: brokers that are away are looked
/// for in the background.
///
/// # Errors
/// [`PipelineError`].
pub fn start(
    config: Config,
    sources: Sources<'_>,
) -> Result<(PipelineHandle, PipelineStopper), PipelineError> {
    config.validate()?;
    let expected = sources.reader.identity();
    let published = match &sources.cursor {
        Some(cursor) if cursor.identity() != expected => {
            return Err(PipelineError::ForeignCursor {
                path: Cursor::path(sources.data_dir),
                found: cursor.identity(),
                expected,
            });
        }
        Some(cursor) => cursor.published,
        None => Sequence::ORIGIN,
    };
    let share = |state| {
        let (reader, clock) = (sources.reader.clone(), Arc::clone(&sources.clock));
        Shared::new(state, published, config.quarantine_max, reader, clock)
    };
    let Some(addresses) = config.brokers.clone() else {
        let shared = share(PipelineState::Off);
        let stopper = PipelineStopper {
            shared: Arc::clone(&shared),
            running: None,
        };
        return Ok((PipelineHandle { shared }, stopper));
    };
    let clock = Arc::clone(&sources.clock);
    let brokers = Brokers::new(&config, &addresses, expected.journal_id, clock)
        .map_err(|error| PipelineError::Kafka(error.to_string()))?;
    let shared = share(PipelineState::Connecting);
    let follower = (sources.follow)(published, config.queue_bytes);
    let waker = follower.waker();
    let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(move || waker.wake());
    let shipper = Shipper {
        brokers,
        data_dir: sources.data_dir.to_path_buf(),
        cursor: sources.cursor,
        follower,
        encoder: EventEncoder::new(expected, sources.ids.clone(), sources.currencies),
        ids: sources.ids,
        reader: sources.reader,
        clock: sources.clock,
        metrics: sources.metrics,
        shared: Arc::clone(&shared),
        counts: Counts::default(),
        careful_until: None,
        set_aside: BTreeSet::new(),
        transactions: match config.delivery {
            Delivery::Idempotent => None,
            Delivery::ExactlyOnce => Some(Transactions::new(config.batch_window())),
        },
        known: None,
        stored_at: None,
        doubts: Doubts::default(),
        patience: Patience::new(Duration::from_millis(config.request_timeout_ms)),
        config,
    };
    // Why it may end: payments go on without Kafka. A panic shows in the state and in the log.
    let thread = sources
        .supervisor
        .spawn_thread("pipeline", OnExit::Continue, move || shipper.run())
        .map_err(PipelineError::Thread)?;
    let running = Some(Running { wake, thread });
    Ok((
        PipelineHandle {
            shared: Arc::clone(&shared),
        },
        PipelineStopper { shared, running },
    ))
}

/// What lives as long as the thread, across all its producers.
pub(super) struct Shipper {
    pub(super) config: Config,
    pub(super) brokers: Brokers,
    pub(super) data_dir: PathBuf,
    /// As it stands in memory; the file may be older.
    pub(super) cursor: Option<Cursor>,
    pub(super) follower: Follower,
    pub(super) reader: JournalReader,
    pub(super) encoder: EventEncoder,
    pub(super) ids: IdCipher,
    pub(super) clock: SharedClock,
    pub(super) metrics: Metrics,
    pub(super) shared: Arc<Shared>,
    pub(super) counts: Counts,
    /// A record up to here was refused for good within a batch: until then each record is sent alone, which tells
    /// which one it is.
    pub(super) careful_until: Option<Sequence>,
    /// Refused for good when sent alone, and not to be sent again.
    pub(super) set_aside: BTreeSet<Sequence>,
    /// `None` where records are final as they are acknowledged.
    pub(super) transactions: Option<Transactions>,
    /// What the topic holds as far as this process knows; only kept where a rival would be fenced.
    pub(super) known: Option<Known>,
    /// When the file was last written (monotonic).
    pub(super) stored_at: Option<Duration>,
    pub(super) doubts: Doubts,
    /// For fencing, and for reading the tails.
    pub(super) patience: Patience,
}

/// What the topic showed at every look since (monotonic), and what is not believed at once.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// An open transaction may hide something of ours.
    pub(super) undecided: Option<Duration>,
    /// It ends before what was acknowledged.
    pub(super) ends_early: Option<Duration>,
}

/// Whether what shows at `now` has shown for `patience_ms`; `since` is kept for the next question.
pub(super) fn has_lasted(since: &mut Option<Duration>, now: Duration, patience_ms: u64) -> bool {
    now.saturating_sub(*since.get_or_insert(now)) >= Duration::from_millis(patience_ms)
}

impl Shipper {
    fn run(mut self) {
        let ended = EndNotice {
            shared: Arc::clone(&self.shared),
            clean: false,
        };
        let mut pause_ms = self.config.backoff_ms;
        let mut told = String::new();
        loop {
            let before = self.published();
            let end = match Session::open(&mut self) {
                Ok(session) => session.run(),
                Err(end) => end,
            };
            if self.published() > before {
                pause_ms = self.config.backoff_ms;
            }
            match end {
                End::Stopping => break,
                End::Renewed => {}
                End::Blocked(reason) => {
                    error!(
                        reason,
                        "kafka: shipping has stopped; events wait in the journal"
                    );
                    self.shared.note_error(&reason);
                    self.shared.set_state(PipelineState::Stopped(reason));
                    self.shared.wait_for_stop(None);
                    break;
                }
                End::Broken(reason) => {
                    self.shared.note_error(&reason);
                    self.shared.set_state(PipelineState::Connecting);
                    if told == reason {
                        debug!(reason, "kafka: still not connected");
                    } else {
                        warn!(reason, "kafka: connecting anew; events wait in the journal");
                        told = reason;
                    }
                    // Who is asked to stop while the brokers are away does not wait for them.
                    if self
                        .shared
                        .wait_for_stop(Some(Duration::from_millis(pause_ms)))
                    {
                        break;
                    }
                    pause_ms = pause_ms.saturating_mul(2).min(self.config.backoff_max_ms);
                }
            }
        }
        self.store_cursor();
        info!(
            published = self.published().get(),
            "kafka: pipeline stopped"
        );
        ended.cleanly();
    }

    /// As the cursor in memory says.
    pub(super) fn published(&self) -> Sequence {
        self.cursor
            .as_ref()
            .map_or(Sequence::ORIGIN, |cursor| cursor.published)
    }

    /// Writes the cursor. A failure costs nothing but a longer look at the tails after the next start.
    pub(super) fn store_cursor(&mut self) {
        self.stored_at = Some(self.clock.monotonic());
        if let Some(cursor) = &self.cursor
            && let Err(error) = cursor.store(&self.data_dir)
        {
            warn!(%error, "kafka: the cursor was not stored");
            self.shared.note_error(&error.to_string());
        }
    }

    /// Whether the time of a drain is over.
    pub(super) fn drain_is_over(&self) -> bool {
        self.shared
            .stop_deadline()
            .is_some_and(|deadline| self.clock.monotonic() >= deadline)
    }
}

/// Tells that the thread has ended, also when it panicked.
struct EndNotice {
    shared: Arc<Shared>,
    clean: bool,
}

impl EndNotice {
    fn cleanly(mut self) {
        self.clean = true;
    }
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        if !self.clean {
            let reason = "the pipeline's thread panicked; see the log, then restart".to_owned();
            self.shared.set_state(PipelineState::Stopped(reason));
        }
        self.shared.end();
    }
}
