//! The verbs that others may use on the ledger, and the queue behind them.

use super::bell::Bell;
use super::command::{BatchItem, Command, Reply};
use super::error::SubmitError;
use crate::metrics::Metrics;
use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

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
    bell: Arc<Bell>,
    metrics: Metrics,
}

/// Why every command is refused for the time being.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Suspension {
    /// The disk does not answer: a command would wait behind a sync that may never return.
    DiskStalled = 1,
    /// The disk is full but for its reserve.
    DiskFull = 2,
}

/// Bytes that the store writes at most for a byte of a command, when commands are few and groups small
/// [3.8 for a byte of a page that comes by itself, of which less than half stays; pages by the dozen take 1.1 to 1.6].
const WRITTEN_FOR_A_BYTE: u64 = 4;

/// The queue's bound in bytes, whether it is still open, and what still fits on the disk.
#[derive(Debug)]
pub(super) struct Places {
    queued_bytes: AtomicUsize,
    queue_bytes_max: usize,
    closed: AtomicBool,
    /// A [`Suspension`], or 0.
    suspended: AtomicU8,
    failed: AtomicBool,
    /// What may be written until the disk is asked again. Set by who asks it, taken by the ledger thread: so the writer
    /// stops at the reserve however fast it is.
    room_bytes: AtomicU64,
    ran_out_of_room: AtomicBool,
    /// Set before the ledger thread looks into its queue for the last time.
    ended: AtomicBool,
    /// `true` once every answer was handed out that will ever come.
    delivered: watch::Sender<bool>,
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

    /// Takes room on the disk for a command; whether there is enough above the reserve.
    pub(super) fn take_room(&self, cost_bytes: usize) -> bool {
        let cost_bytes = u64::try_from(cost_bytes).unwrap_or(u64::MAX);
        let needed = cost_bytes.saturating_mul(WRITTEN_FOR_A_BYTE);
        let taken = self
            .room_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |room| {
                room.checked_sub(needed)
            });
        if taken.is_err() {
            self.ran_out_of_room.store(true, Ordering::Release);
        }
        taken.is_ok()
    }

    /// Whether there is any room above the reserve.
    pub(super) fn has_room(&self) -> bool {
        self.room_bytes.load(Ordering::Acquire) > 0
    }

    fn suspension(&self) -> Option<SubmitError> {
        match self.suspended.load(Ordering::Acquire) {
            0 => None,
            reason if reason == Suspension::DiskFull as u8 => Some(SubmitError::DiskFull),
            _ => Some(SubmitError::Unavailable),
        }
    }

    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

/// The ledger thread's end of the queue and of the mailbox. Its drop, also in a panic, answers who still waits: a
/// bounded channel keeps what is in it when its receiver goes, and nobody would ever answer that.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) rx: Receiver<Message>,
    pub(super) places: Arc<Places>,
    pub(super) mailbox: Arc<Mailbox>,
    bell: Arc<Bell>,
}

impl Inbox {
    /// Waits until `commands` are in the queue, but not longer than `patience`, and not once nothing more is accepted.
    pub(super) fn wait_for(&self, commands: usize, patience: Duration) {
        let is_closed = || self.places.closed.load(Ordering::Acquire);
        let queued = || {
            if is_closed() {
                usize::MAX
            } else {
                self.rx.len()
            }
        };
        self.bell.wait(commands, patience, queued);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.places.close();
        self.places.ended.store(true, Ordering::SeqCst);
        // IMPORTANT: pairs with the one in `submit`: what was sent before `ended` was seen is found below.
        fence(Ordering::SeqCst);
        let mut answers = Vec::new();
        while let Ok(message) = self.rx.try_recv() {
            if let Message::Command {
                cost_bytes,
                reply_tx,
                ..
            } = message
            {
                self.places.give_back(cost_bytes);
                answers.push((reply_tx, Err(SubmitError::Unavailable)));
            }
        }
        self.mailbox.post(&mut answers);
        self.mailbox.close();
    }
}

/// A queue with its two ends.
pub(super) fn queue(
    commands_max: usize,
    queue_bytes_max: usize,
    metrics: Metrics,
) -> (LedgerHandle, Inbox) {
    let (tx, rx) = bounded(commands_max);
    let places = Arc::new(Places {
        queued_bytes: AtomicUsize::new(0),
        queue_bytes_max,
        closed: AtomicBool::new(false),
        suspended: AtomicU8::new(0),
        failed: AtomicBool::new(false),
        room_bytes: AtomicU64::new(u64::MAX),
        ran_out_of_room: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        delivered: watch::Sender::new(false),
    });
    let bell = Arc::new(Bell::default());
    let handle = LedgerHandle {
        tx,
        places: Arc::clone(&places),
        bell: Arc::clone(&bell),
        metrics,
    };
    let mailbox = Arc::new(Mailbox {
        answers: Mutex::default(),
        wake: Notify::new(),
        closed: AtomicBool::new(false),
        places: Arc::clone(&places),
    });
    let inbox = Inbox {
        rx,
        places,
        mailbox,
        bell,
    };
    (handle, inbox)
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
        if places.closed.load(Ordering::Acquire) {
            return Err(SubmitError::Unavailable);
        }
        if let Some(refusal) = places.suspension() {
            return Err(refusal);
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
            Ok(()) => {
                self.bell.sent(|| self.tx.len());
                self.answer(reply_rx).await
            }
            Err(TrySendError::Full(_)) => {
                self.places.give_back(cost_bytes);
                self.metrics.observe_ledger_busy();
                Err(SubmitError::Busy)
            }
            Err(TrySendError::Disconnected(_)) => Err(SubmitError::Unavailable),
        }
    }

    async fn answer(&self, mut reply_rx: oneshot::Receiver<Answer>) -> Answer {
        fence(Ordering::SeqCst);
        if !self.places.ended.load(Ordering::SeqCst) {
            return reply_rx.await.unwrap_or(Err(SubmitError::Unknown));
        }
        // Sent while the thread ended: perhaps it was still found there, perhaps nobody will look again.
        let mut delivered_rx = self.places.delivered.subscribe();
        tokio::select! {
            biased;
            answer = &mut reply_rx => answer.unwrap_or(Err(SubmitError::Unknown)),
            _ = delivered_rx.wait_for(|delivered| *delivered) => {
                reply_rx.try_recv().unwrap_or(Err(SubmitError::Unknown))
            }
        }
    }

    /// Refuses every command at once, for a reason, until told otherwise by `None`.
    pub fn suspend(&self, reason: Option<Suspension>) {
        let reason = reason.map_or(0, |reason| reason as u8);
        self.places.suspended.store(reason, Ordering::Release);
    }

    /// What may be written from now on, in bytes, until the next call; `u64::MAX` for no bound. At first there is none.
    /// Commands beyond it are refused with [`SubmitError::DiskFull`], and holds expire once there is room again.
    pub fn set_room(&self, bytes: u64) {
        self.places.room_bytes.store(bytes, Ordering::Release);
    }

    /// Whether a command did not fit into the room since the last call.
    pub fn take_ran_out_of_room(&self) -> bool {
        self.places.ran_out_of_room.swap(false, Ordering::AcqRel)
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
        // Nobody brings the commands any more that a group may be waiting for.
        self.bell.sent(|| usize::MAX);
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
#[derive(Debug)]
pub(super) struct Mailbox {
    /// Bounded by the places in the queue: each answer had one.
    answers: Mutex<Vec<(oneshot::Sender<Answer>, Answer)>>,
    wake: Notify,
    closed: AtomicBool,
    places: Arc<Places>,
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
                    self.places.delivered.send_replace(true);
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

    #[tokio::test]
    async fn what_does_not_fit_on_the_disk_is_refused_at_once_and_told_why() {
        let (handle, inbox) = queue(1, 1 << 20, Metrics::default());
        let places = &inbox.places;
        assert!(places.take_room(1 << 30), "at first there is no bound");
        handle.set_room(5_000);
        assert!(places.take_room(1_000) && places.has_room());
        assert!(!handle.take_ran_out_of_room());
        assert!(!places.take_room(1_000), "a second one is too much");
        assert!(handle.take_ran_out_of_room() && !handle.take_ran_out_of_room());
        assert!(places.take_room(250) && !places.has_room());

        let command = || Command::Batch {
            items: Vec::new(),
            atomic: false,
        };
        handle.suspend(Some(Suspension::DiskFull));
        let refused = handle.submit(command()).await;
        assert!(matches!(refused, Err(SubmitError::DiskFull)));
        handle.suspend(Some(Suspension::DiskStalled));
        let refused = handle.submit(command()).await;
        assert!(matches!(refused, Err(SubmitError::Unavailable)));
    }

    /// Has a thread wait for `commands`; gives what tells of its end.
    fn waiting_for(commands: usize, inbox: Inbox) -> Receiver<Inbox> {
        let (ended_tx, ended_rx) = bounded(1);
        #[expect(clippy::disallowed_methods, reason = "the wait itself may hang here")]
        std::thread::spawn(move || {
            inbox.wait_for(commands, Duration::MAX);
            // Why ignored: who asked may have failed by now.
            let _ = ended_tx.send(inbox);
        });
        ended_rx
    }

    async fn until_it_waits(handle: &LedgerHandle) {
        let waits = async {
            while !handle.bell.is_listened_to() {
                tokio::task::yield_now().await;
            }
        };
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, waits).await.unwrap();
    }

    #[tokio::test]
    async fn a_wait_for_commands_ends_with_the_last_of_them() {
        let (handle, inbox) = queue(8, 1 << 20, Metrics::default());
        let ended_rx = waiting_for(2, inbox);
        until_it_waits(&handle).await;
        let mut one = std::pin::pin!(handle.submit(asked()));
        sent(&mut one).await;
        assert!(handle.bell.is_listened_to(), "one is not enough");
        let mut other = std::pin::pin!(handle.submit(asked()));
        sent(&mut other).await;
        let inbox = ended_rx.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(inbox.rx.len(), 2);
    }

    #[tokio::test]
    async fn nobody_waits_for_commands_once_nothing_more_is_accepted() {
        let (handle, inbox) = queue(8, 1 << 20, Metrics::default());
        let ended_rx = waiting_for(3, inbox);
        until_it_waits(&handle).await;
        assert!(handle.drain(Duration::ZERO));
        let inbox = ended_rx.recv_timeout(Duration::from_secs(30)).unwrap();
        // The bell rang before this one listens.
        let ended_rx = waiting_for(3, inbox);
        let ended = ended_rx.recv_timeout(Duration::from_secs(30));
        assert!(ended.is_ok(), "{ended:?}");
    }

    #[test]
    fn a_drain_gives_up_on_a_full_queue_that_does_not_move() {
        let (handle, inbox) = queue(1, 1 << 20, Metrics::default());
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
        drop(inbox);
        drain.join().unwrap();
        assert_eq!(told, Ok(false));
        assert!(handle.drain(Duration::ZERO), "the thread is gone");
    }

    fn asked() -> Command {
        Command::Batch {
            items: Vec::new(),
            atomic: false,
        }
    }

    /// Polls once: the command then stands in the queue.
    async fn sent(waiting: &mut std::pin::Pin<&mut impl Future<Output = Answer>>) {
        let poll = std::future::poll_fn(|context| {
            std::task::Poll::Ready(waiting.as_mut().poll(context).is_pending())
        });
        assert!(poll.await);
    }

    #[tokio::test]
    async fn who_waits_in_the_queue_is_told_when_the_thread_ends_or_panics() {
        let (handle, inbox) = queue(8, 1 << 20, Metrics::default());
        let mailbox = Arc::clone(&inbox.mailbox);
        let mut waiting = std::pin::pin!(handle.submit(asked()));
        sent(&mut waiting).await;
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _inbox = inbox;
            panic!("the thread that has it");
        }));
        assert!(panicked.is_err());
        mailbox.deliver().await;
        let told = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        assert!(
            matches!(told, Ok(Err(SubmitError::Unavailable))),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn a_command_that_is_queued_behind_the_last_look_is_told_so() {
        let (handle, inbox) = queue(8, 1 << 20, Metrics::default());
        // As if the thread stood between its last look and the end of its queue.
        inbox.places.ended.store(true, Ordering::SeqCst);
        let mut waiting = std::pin::pin!(handle.submit(asked()));
        sent(&mut waiting).await;
        inbox.places.delivered.send_replace(true);
        let told = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        assert!(matches!(told, Ok(Err(SubmitError::Unknown))), "{told:?}");
    }
}
