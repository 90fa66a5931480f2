//! The one writer: take a group of commands, decide, commit, merge, answer.
//!
//! Nothing leaves this thread before the group's commit returned (I2): answers, refusals and the books all wait for it.
//! A failed commit is final: everyone in the group hears that the outcome is unknown, and the process stops.

use super::books::Books;
use super::config::Config;
use super::error::SubmitError;
use super::handle::{Answer, Inbox, Message};
use super::pace::Pace;
use super::state::{Rules, State};
use super::time::LedgerTime;
use crate::clock::SharedClock;
use crate::ids::IdCipher;
use crate::journal::{Entry, Journal};
use crate::metrics::{Metrics, Stage};
use crate::tasks::Supervisor;
use crate::types::TimestampMs;
use crossbeam_channel::RecvTimeoutError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::{error, warn};

/// How long the thread sleeps at most: bounds how late a hold expires when the wall clock is stepped.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// Looks for the next command at most, should the clock stand still.
const LOOKS_MAX: u32 = 1_000;

/// All that the thread owns.
#[derive(Debug)]
pub(super) struct LedgerThread {
    /// IMPORTANT: first, so that in a panic it is dropped before the journal, which waits for a thread of its own.
    pub(super) inbox: Inbox,
    pub(super) config: Config,
    pub(super) journal: Journal,
    pub(super) state: State,
    pub(super) time: LedgerTime,
    pub(super) pace: Pace,
    pub(super) clock: SharedClock,
    pub(super) metrics: Metrics,
    pub(super) supervisor: Supervisor,
}

/// Whether the thread goes on after a group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Continue,
    Drained,
    Failed,
}

/// The waiters of the group in hand, with their answers.
type Answers = Vec<(oneshot::Sender<Answer>, Answer)>;

impl LedgerThread {
    /// Works until drained or failed, then refuses what came in behind that and hands the journal back.
    pub(super) fn run(mut self) -> Journal {
        let mut next = Next::Continue;
        while next == Next::Continue {
            next = self.group();
        }
        drop(self.inbox);
        self.journal
    }

    fn group(&mut self) -> Next {
        let first = match self.first() {
            Ok(message) => {
                self.wait_for_more();
                Some(message)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Next::Drained,
        };
        let begun_at = self.clock.monotonic();
        let now = self.now();
        let mut entries = Vec::new();
        let mut answers = Answers::new();
        if self.inbox.places.has_room() {
            self.state
                .expire(now, self.config.group_entries_max, &mut entries);
        }
        let mut next = Next::Continue;
        let mut message = first;
        let mut group_bytes = 0_usize;
        while let Some(taken) = message {
            match taken {
                Message::Command {
                    command,
                    cost_bytes,
                    reply_tx,
                } => {
                    self.inbox.places.give_back(cost_bytes);
                    let answer = if self.inbox.places.take_room(cost_bytes) {
                        self.state.execute(command, now, &mut entries)
                    } else {
                        Err(SubmitError::DiskFull)
                    };
                    group_bytes = group_bytes.saturating_add(cost_bytes);
                    answers.push((reply_tx, answer));
                }
                Message::Drain => {
                    next = Next::Drained;
                    break;
                }
            }
            // Commands that record nothing make no entries, hence the bound on the answers too.
            let has_room = entries.len() < self.config.group_entries_max
                && answers.len() < self.config.queue_commands_max
                && group_bytes < self.config.group_bytes_max;
            message = has_room.then(|| self.inbox.rx.try_recv().ok()).flatten();
        }
        if !entries.is_empty() {
            let decided = self.clock.monotonic().saturating_sub(begun_at);
            self.metrics.observe_stage(Stage::Decide, decided);
        }
        if !entries.is_empty() && !self.commit(entries) {
            next = Next::Failed;
            for (_, answer) in &mut answers {
                *answer = Err(SubmitError::Unknown);
            }
        }
        for (_, answer) in &answers {
            if let Err(SubmitError::Refused(refused)) = answer {
                self.metrics.observe_ledger_refusal(refused.refusal.code());
            }
        }
        if !answers.is_empty() {
            let queued = self.inbox.rx.len();
            self.pace.group_ended(answers.len(), queued);
            self.inbox.mailbox.post(&mut answers);
        }
        next
    }

    /// The group's first command; waits for one until a hold expires.
    fn first(&mut self) -> Result<Message, RecvTimeoutError> {
        let rx = &self.inbox.rx;
        if let Ok(message) = rx.try_recv() {
            return Ok(message);
        }
        let idle_since = self.clock.monotonic();
        let soon = Duration::from_micros(self.config.look_us);
        let is_soon = || self.clock.monotonic().saturating_sub(idle_since) < soon;
        let mut looks = 0;
        while self.pace.is_worth_looking() && looks < LOOKS_MAX && is_soon() {
            // Whoever has something to do goes first: often the one who brings the command.
            std::thread::yield_now();
            if let Ok(message) = rx.try_recv() {
                self.pace.next_came(true);
                return Ok(message);
            }
            looks += 1;
        }
        let wait = self.wait();
        let message = self.inbox.rx.recv_timeout(wait);
        let idle = self.clock.monotonic().saturating_sub(idle_since);
        self.pace.next_came(message.is_ok() && idle < soon);
        message
    }

    /// Behind the first command, a moment for those that will be here anyway ([`Pace`]).
    fn wait_for_more(&self) {
        let patience = Duration::from_micros(self.config.group_wait_us);
        let queued = self.inbox.rx.len();
        if let Some(count) = self.pace.worth_waiting_for(1 + queued)
            && !patience.is_zero()
        {
            self.inbox.wait_for(count - 1, patience);
        }
    }

    /// Whether the entries are durable and in the books.
    fn commit(&mut self, entries: Vec<Entry>) -> bool {
        match self.journal.commit(entries) {
            Ok(group) => {
                self.state.merge();
                let timing = self.journal.last_commit();
                let events = group.last().get() - group.first().previous().get();
                let count = group.entries.len();
                self.metrics.observe_commit(
                    count,
                    events,
                    group.size_bytes,
                    timing.payload_bytes,
                    timing.write,
                    timing.sync,
                );
                self.metrics.observe_stage(Stage::Encode, timing.encode);
                if let Some(took) = self.journal.take_rotation() {
                    self.metrics.observe_rotation(took);
                }
                true
            }
            Err(cause) => {
                error!(%cause, "a commit failed; nothing more is accepted");
                self.inbox.places.fail();
                self.supervisor
                    .fail(&format!("the journal failed: {cause}"));
                false
            }
        }
    }

    fn now(&mut self) -> TimestampMs {
        let reading = self.time.read(self.clock.now(), self.clock.monotonic());
        if let Some(ahead_ms) = reading.leap_began_ms {
            let hold_ms = self.config.clock_jump_hold_ms;
            warn!(
                ahead_ms,
                hold_ms, "the wall clock leapt ahead; it is followed if it stays there"
            );
        }
        reading.at
    }

    /// Until the next hold expires, at most [`IDLE_WAIT`].
    fn wait(&mut self) -> Duration {
        if !self.inbox.places.has_room() {
            return IDLE_WAIT; // Nothing expires until there is.
        }
        // Why the earlier one: a hold expires once ledger time is there. That stays behind a wall clock that leapt
        // ahead, and waits for one that went back.
        let now = self.now().min(self.clock.now());
        let until_ms = self
            .state
            .next_expiry()
            .map(|expires_at| expires_at.get().saturating_sub(now.get()));
        until_ms.map_or(IDLE_WAIT, |ms| Duration::from_millis(ms).min(IDLE_WAIT))
    }
}

/// The parts of the state that the settings decide.
pub(super) fn state(config: &Config, books: Arc<Books>, journal: &Journal) -> State {
    let rules = Rules {
        open_holds_max: config.open_holds_max,
        audit_entries_max: config.audit_entries_max,
        opening_balances: config.opening_balances.clone(),
    };
    let ids = IdCipher::new(&journal.settings().id_key);
    State::new(books, ids, rules, journal.durable())
}
