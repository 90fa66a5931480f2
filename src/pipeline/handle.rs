//! The outside of the pipeline: what others may see of it and ask of it.

use crate::clock::SharedClock;
use crate::journal::JournalReader;
use crate::types::{Sequence, TimestampMs};
use crate::watermark::{Watermark, WatermarkWriter};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What `/metrics`, `/readyz` and `/api/v1/sequence` show of the pipeline.
#[derive(Clone, Debug)]
pub struct PipelineStatus {
    /// What it is doing.
    pub state: PipelineState,
    /// Events handed to the producer.
    pub published_total: u64,
    /// Events acknowledged by Kafka.
    pub acknowledged_total: u64,
    /// Failed delivery reports and refused sends.
    pub failed_total: u64,
    /// Events sent again after a rebuild or a restart that were (or may have been) there already.
    pub repeated_total: u64,
    /// Everything up to here is acknowledged (the cursor).
    pub published: Sequence,
    /// Durable sequences not yet acknowledged.
    pub lag_events: u64,
    /// Age of the oldest of them.
    pub lag_seconds: f64,
    /// Records set aside because the broker refuses them for good.
    pub quarantined_total: u64,
    /// Text of the last error, with its time.
    pub last_error: Option<(TimestampMs, String)>,
}

/// What the pipeline is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PipelineState {
    /// No brokers are configured: events wait in the journal.
    Off,
    /// Looking for the brokers, the topic, the partitions' tails.
    Connecting,
    /// Shipping.
    Running,
    /// Events were sent and nothing is acknowledged; the producer tries on by itself. The text says what is known.
    Stalled(String),
    /// Waits for the operator; the text says for what.
    Stopped(String),
}

/// What the thread counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    pub(super) failed: u64,
    pub(super) repeated: u64,
    pub(super) quarantined: u64,
}

/// What the thread and the handles share.
pub(super) struct Shared {
    clock: SharedClock,
    reader: JournalReader,
    published: WatermarkWriter,
    published_view: Watermark,
    board: Mutex<Board>,
    stop: Mutex<Stop>,
    changed: Condvar,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("board", &*self.board.lock())
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Board {
    state: PipelineState,
    published: Sequence,
    counts: Counts,
    last_error: Option<(TimestampMs, String)>,
    /// A sequence above `published` with its time: how old the lag is.
    oldest: Option<(Sequence, TimestampMs)>,
    quarantine: VecDeque<(Sequence, String)>,
    quarantine_max: usize,
}

#[derive(Debug, Default)]
struct Stop {
    /// Monotonic time until which the drain may take, once a stop was asked for.
    deadline: Option<Duration>,
    /// Asked not to wait for the brokers any more.
    hurried: bool,
    ended: bool,
}

impl Shared {
    pub(super) fn new(
        state: PipelineState,
        published: Sequence,
        quarantine_max: usize,
        reader: JournalReader,
        clock: SharedClock,
    ) -> Arc<Self> {
        let (writer, view) = crate::watermark::watermark(published);
        Arc::new(Self {
            clock,
            reader,
            published: writer,
            published_view: view,
            board: Mutex::new(Board {
                state,
                published,
                counts: Counts::default(),
                last_error: None,
                oldest: None,
                quarantine: VecDeque::new(),
                quarantine_max,
            }),
            stop: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(super) fn set_state(&self, state: PipelineState) {
        self.board.lock().state = state;
    }

    pub(super) fn note_error(&self, text: &str) {
        let now = self.clock.now();
        self.board.lock().last_error = Some((now, text.into()));
    }

    /// `oldest` is the time of the first event behind `published`, where the thread knows it.
    pub(super) fn show(
        &self,
        published: Sequence,
        counts: Counts,
        oldest: Option<(Sequence, TimestampMs)>,
    ) {
        {
            let mut board = self.board.lock();
            board.published = published;
            board.counts = counts;
            board.oldest = oldest;
        }
        // A reship begins again at the origin; the watermark stays where it was until that is passed.
        self.published.advance_to(published);
    }

    pub(super) fn set_aside(&self, sequence: Sequence, reason: &str) {
        let mut board = self.board.lock();
        while board.quarantine.len() >= board.quarantine_max.max(1) {
            board.quarantine.pop_front();
        }
        board.quarantine.push_back((sequence, reason.into()));
    }

    /// The end of the drain, once a stop was asked for.
    pub(super) fn stop_deadline(&self) -> Option<Duration> {
        self.stop.lock().deadline
    }

    /// Waits up to `timeout` (for ever without one) for a stop; whether one was asked for.
    pub(super) fn wait_for_stop(&self, timeout: Option<Duration>) -> bool {
        let mut stop = self.stop.lock();
        match timeout {
            Some(timeout) => {
                self.changed
                    .wait_while_for(&mut stop, |stop| stop.deadline.is_none(), timeout);
            }
            None => self
                .changed
                .wait_while(&mut stop, |stop| stop.deadline.is_none()),
        }
        stop.deadline.is_some()
    }

    pub(super) fn end(&self) {
        self.stop.lock().ended = true;
        self.changed.notify_all();
    }

    fn status(&self) -> PipelineStatus {
        let durable = self.reader.durable().get();
        let now = self.clock.now();
        let (mut status, oldest) = {
            let board = self.board.lock();
            let status = PipelineStatus {
                state: board.state.clone(),
                published_total: board.counts.sent,
                acknowledged_total: board.counts.acknowledged,
                failed_total: board.counts.failed,
                repeated_total: board.counts.repeated,
                published: board.published,
                lag_events: durable.get().saturating_sub(board.published.get()),
                lag_seconds: 0.0,
                quarantined_total: board.counts.quarantined,
                last_error: board.last_error.clone(),
            };
            (
                status,
                board
                    .oldest
                    .filter(|(sequence, _)| *sequence > board.published),
            )
        };
        if status.lag_events == 0 {
            return status;
        }
        let at = match oldest {
            Some((_, at)) => Some(at),
            // Shipping, and what is behind the published mark was not even taken yet: it is as good as new.
            None if status.state == PipelineState::Running => None,
            None => self.look_up(status.published.next()),
        };
        let age_ms = at.map_or(0, |at| now.get().saturating_sub(at.get()));
        status.lag_seconds = Duration::from_millis(age_ms).as_secs_f64();
        status
    }

    /// The time of the event at `sequence`, asked of the journal once for each standstill.
    fn look_up(&self, sequence: Sequence) -> Option<TimestampMs> {
        let wanted = sequence.max(self.reader.oldest());
        let at = self.reader.entry_covering(wanted).ok()??.at;
        let mut board = self.board.lock();
        if board.published < wanted {
            board.oldest = Some((wanted, at));
        }
        Some(at)
    }
}

/// The outside of the pipeline; cheap to clone.
#[derive(Clone, Debug)]
pub struct PipelineHandle {
    pub(super) shared: Arc<Shared>,
}

impl PipelineHandle {
    /// How it stands. While nothing is shipped, the first call after a standstill reads one entry of the journal.
    pub fn status(&self) -> PipelineStatus {
        self.shared.status()
    }

    /// The published watermark: everything up to it was acknowledged by Kafka.
    pub fn published(&self) -> &Watermark {
        &self.shared.published_view
    }

    /// Records that the broker refused for good, newest last, at most a few hundred: sequence, reason. Of this
    /// process only.
    pub fn quarantine(&self) -> Vec<(Sequence, String)> {
        self.shared
            .board
            .lock()
            .quarantine
            .iter()
            .cloned()
            .collect()
    }
}

/// Ends the pipeline. Dropping it ends nothing.
#[derive(Debug)]
#[must_use = "a pipeline that is not stopped loses its last second of progress and finds it again by the tails"]
pub struct PipelineStopper {
    pub(super) shared: Arc<Shared>,
    pub(super) running: Option<Running>,
}

/// What has to be ended.
pub(super) struct Running {
    pub(super) wake: Arc<dyn Fn() + Send + Sync>,
    pub(super) thread: JoinHandle<()>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

/// How much longer than its time-out a stop waits for the thread: one question to the brokers, and the producer's end.
const GRACE: Duration = Duration::from_secs(2);

impl PipelineStopper {
    /// A closure that ends the wait of [`PipelineStopper::stop`], under way or to come: what was not acknowledged by
    /// then is left to the next start.
    pub fn hurrier(&self) -> impl Fn() + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        let wake = self
            .running
            .as_ref()
            .map(|running| Arc::clone(&running.wake));
        move || {
            let now = shared.clock.monotonic();
            {
                let mut stop = shared.stop.lock();
                stop.hurried = true;
                stop.deadline = stop.deadline.map(|deadline| deadline.min(now));
            }
            shared.changed.notify_all();
            if let Some(wake) = &wake {
                wake();
            }
        }
    }

    /// Waits up to `timeout` until everything durable is acknowledged, stores the cursor and ends the thread. Returns
    /// whether nothing is left to ship. To be called after the last write. Blocks, up to two seconds longer than
    /// `timeout`; a thread that still waits for a broker then is left to the end of the process, which loses nothing.
    #[must_use]
    pub fn stop(self, timeout: Duration) -> bool {
        if let Some(running) = self.running {
            let clock = &self.shared.clock;
            let ended = {
                let mut stop = self.shared.stop.lock();
                let patience = if stop.hurried {
                    Duration::ZERO
                } else {
                    timeout
                };
                let mut deadline = clock.monotonic() + patience;
                stop.deadline = Some(deadline);
                self.shared.changed.notify_all();
                (running.wake)();
                while !stop.ended {
                    // Somebody may have shortened it.
                    deadline = stop.deadline.unwrap_or(deadline);
                    let left = (deadline + GRACE).saturating_sub(clock.monotonic());
                    if left.is_zero() {
                        break;
                    }
                    self.shared.changed.wait_for(&mut stop, left);
                }
                stop.ended
            };
            if ended {
                // A panic was logged by the supervisor.
                drop(running.thread.join());
            }
        }
        self.shared.status().lag_events == 0
    }
}
