//! The verbs that others may use on the ledger, and the queue behind them.

use super::command::{BatchItem, Command, Reply};
use super::error::SubmitError;
use crate::metrics::Metrics;
use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// What a waiter gets.
pub(super) type Answer = Result<Reply, SubmitError>;

/// A command on its way to the ledger thread.
#[derive(Debug)]
pub(super) enum Message {
    /// Decide this.
    Command {
        command: Command,
        cost_bytes: usize,
        reply_tx: oneshot::Sender<Answer>,
    },
    /// Answer what stands in the queue, then end.
    Drain,
}

/// Hands commands to the ledger thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct LedgerHandle {
    tx: Sender<Message>,
    places: Arc<Places>,
    metrics: Metrics,
}

/// The queue's bound in bytes, and whether it is still open.
#[derive(Debug)]
pub(super) struct Places {
    queued_bytes: AtomicUsize,
    queue_bytes_max: usize,
    closed: AtomicBool,
    suspended: AtomicBool,
    failed: AtomicBool,
}

impl Places {
    fn take(&self, cost_bytes: usize) -> bool {
        let taken = self.queued_bytes.fetch_add(cost_bytes, Ordering::AcqRel);
        // Why the zero: one command larger than the whole queue may pass alone; the body limit bounds it.
        let fits = taken == 0 || taken.saturating_add(cost_bytes) <= self.queue_bytes_max;
        if !fits {
            self.give_back(cost_bytes);
        }
        fits
    }

    pub(super) fn give_back(&self, cost_bytes: usize) {
        self.queued_bytes.fetch_sub(cost_bytes, Ordering::AcqRel);
    }

    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

/// A queue with its two ends.
pub(super) fn queue(
    commands_max: usize,
    queue_bytes_max: usize,
    metrics: Metrics,
) -> (LedgerHandle, Receiver<Message>, Arc<Places>) {
    let (tx, rx) = bounded(commands_max);
    let places = Arc::new(Places {
        queued_bytes: AtomicUsize::new(0),
        queue_bytes_max,
        closed: AtomicBool::new(false),
        suspended: AtomicBool::new(false),
        failed: AtomicBool::new(false),
    });
    (
        LedgerHandle {
            tx,
            places: Arc::clone(&places),
            metrics,
        },
        rx,
        places,
    )
}

impl LedgerHandle {
    /// Hands `command` to the ledger and waits until its answer is durable.
    ///
    /// Dropping the future gives up the answer, not the command.
    ///
    /// # Errors
    /// See [`SubmitError`] for what was recorded and what may be tried again.
    pub async fn submit(&self, command: Command) -> Answer {
        let places = &self.places;
        if places.closed.load(Ordering::Acquire) || places.suspended.load(Ordering::Acquire) {
            return Err(SubmitError::Unavailable);
        }
        let cost_bytes = command_cost_bytes(&command);
        if !self.places.take(cost_bytes) {
            self.metrics.observe_ledger_busy();
            return Err(SubmitError::Busy);
        }
        let (reply_tx, reply_rx) = oneshot::channel();
        match self.tx.try_send(Message::Command {
            command,
            cost_bytes,
            reply_tx,
        }) {
            Ok(()) => reply_rx.await.unwrap_or(Err(SubmitError::Unknown)),
            Err(TrySendError::Full(_)) => {
                self.places.give_back(cost_bytes);
                self.metrics.observe_ledger_busy();
                Err(SubmitError::Busy)
            }
            Err(TrySendError::Disconnected(_)) => Err(SubmitError::Unavailable),
        }
    }

    /// While the disk does not answer: refuses every command at once, instead of queueing it behind a sync that may
    /// never return.
    pub fn suspend(&self, suspended: bool) {
        self.places.suspended.store(suspended, Ordering::Release);
    }

    /// Whether a commit failed: nothing is accepted any more, and the process is about to end.
    pub fn has_failed(&self) -> bool {
        self.places.failed.load(Ordering::Acquire)
    }

    /// Commands waiting for the ledger thread.
    pub fn queued_commands(&self) -> usize {
        self.tx.len()
    }

    /// Lets the ledger thread answer what stands in the queue and end; whether it could be told so within `patience`:
    /// a full queue in front of a disk that hangs never moves. Nothing more is accepted either way. Blocks.
    pub(super) fn drain(&self, patience: Duration) -> bool {
        self.places.close();
        let told = self.tx.send_timeout(Message::Drain, patience);
        // A thread that is gone has nothing left to drain.
        !matches!(told, Err(SendTimeoutError::Timeout(_)))
    }
}

/// About what a command holds in memory: its parts and its texts.
fn command_cost_bytes(command: &Command) -> usize {
    let text = |text: &Option<Box<str>>| text.as_deref().map_or(0, str::len);
    match command {
        Command::Transfer(r) | Command::Issue(r) | Command::Redeem(r) => {
            size_of::<Command>() + text(&r.metadata)
        }
        Command::OpenWallet(_) => size_of::<Command>(),
        Command::Amend(amend) => {
            let entries = amend.record.entries.len() * 512;
            size_of::<Command>() + entries + text(&amend.user_id) + text(&amend.details)
        }
        Command::Batch { items, .. } => {
            let item_bytes = |item: &BatchItem| match item {
                BatchItem::Transfer(r) => size_of::<BatchItem>() + text(&r.metadata),
                BatchItem::Invalid => size_of::<BatchItem>(),
            };
            size_of::<Command>() + items.iter().map(item_bytes).sum::<usize>()
        }
    }
}

/// Answers on their way back. The ledger thread leaves a whole group's answers here and wakes one task, which wakes
/// the waiters on the runtime's own threads: far cheaper than one wake across threads an answer.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    /// Bounded by the places in the queue: each answer had one.
    answers: Mutex<Vec<(oneshot::Sender<Answer>, Answer)>>,
    wake: Notify,
    closed: AtomicBool,
}

impl Mailbox {
    pub(super) fn post(&self, answers: &mut Vec<(oneshot::Sender<Answer>, Answer)>) {
        self.answers.lock().append(answers);
        self.wake.notify_one();
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Hands answers to their waiters until the box is closed and empty.
    pub(super) async fn deliver(self: Arc<Self>) {
        loop {
            let closed = self.closed.load(Ordering::Acquire);
            let answers = std::mem::take(&mut *self.answers.lock());
            if answers.is_empty() {
                if closed {
                    return;
                }
                self.wake.notified().await;
                continue;
            }
            for (reply_tx, answer) in answers {
                // Why ignored: who no longer waits gave up the answer.
                let _ = reply_tx.send(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_gives_up_on_a_full_queue_that_does_not_move() {
        let (handle, rx, _places) = queue(1, 1 << 20, Metrics::default());
        handle.tx.send(Message::Drain).unwrap();
        let (told_tx, told_rx) = bounded(1);
        let waiting = handle.clone();
        #[expect(clippy::disallowed_methods, reason = "the drain itself may hang here")]
        let drain = std::thread::spawn(move || {
            told_tx
                .send(waiting.drain(Duration::from_millis(10)))
                .unwrap();
        });
        let told = told_rx.recv_timeout(Duration::from_secs(30));
        drop(rx);
        drain.join().unwrap();
        assert_eq!(told, Ok(false));
        assert!(handle.drain(Duration::ZERO), "the thread is gone");
    }
}
