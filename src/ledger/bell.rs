//! How the ledger thread waits for more commands without being woken for each.

use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::Duration;

/// Rings once enough commands stand in the queue. While nobody listens it costs the senders a look at one number.
#[derive(Debug)]
pub(super) struct Bell {
    /// Commands in the queue at which to ring; 0 when nobody listens.
    ring_at: AtomicUsize,
    rung_tx: Sender<()>,
    rung_rx: Receiver<()>,
}

impl Default for Bell {
    fn default() -> Self {
        let (rung_tx, rung_rx) = bounded(1);
        Self {
            ring_at: AtomicUsize::new(0),
            rung_tx,
            rung_rx,
        }
    }
}

impl Bell {
    /// Waits until `queued` gives `count` or more, but not longer than `patience`; now and then less long, for a ring
    /// that comes late from the time before. For one thread. `patience` is real time.
    pub(super) fn wait(&self, count: usize, patience: Duration, queued: impl Fn() -> usize) {
        while self.rung_rx.try_recv().is_ok() {}
        self.ring_at.store(count, Ordering::Relaxed);
        // IMPORTANT: pairs with the one in `sent`. Either the count below has what was sent, or its sender sees `ring_at`.
        fence(Ordering::SeqCst);
        if queued() < count {
            // Why ignored: rung or not, the group goes on now.
            let _ = self.rung_rx.recv_timeout(patience);
        }
        self.ring_at.store(0, Ordering::Relaxed);
    }

    /// Whether somebody waits.
    #[cfg(test)]
    pub(super) fn is_listened_to(&self) -> bool {
        self.ring_at.load(Ordering::SeqCst) > 0
    }

    /// A command was put into the queue, which holds `queued` of them now.
    pub(super) fn sent(&self, queued: impl Fn() -> usize) {
        fence(Ordering::SeqCst);
        let ring_at = self.ring_at.load(Ordering::Relaxed);
        if ring_at > 0 && queued() >= ring_at {
            self.ring_at.store(0, Ordering::Relaxed);
            // Why ignored: a bell that is rung already need not be rung again.
            let _ = self.rung_tx.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOR_EVER: Duration = Duration::from_mins(10);

    #[test]
    fn what_is_there_already_is_not_waited_for() {
        Bell::default().wait(3, FOR_EVER, || 3);
    }

    #[test]
    fn a_ring_from_the_time_before_is_not_heard() {
        let bell = Bell::default();
        bell.rung_tx.send(()).unwrap();
        bell.wait(2, Duration::ZERO, || 1);
        assert!(bell.rung_rx.is_empty());
    }

    #[test]
    fn nobody_rings_while_nobody_listens_or_too_few_are_there() {
        let bell = Bell::default();
        bell.sent(|| 100);
        bell.ring_at.store(5, Ordering::Relaxed);
        bell.sent(|| 4);
        assert!(bell.rung_rx.is_empty());
        bell.sent(|| 5);
        bell.sent(|| 6);
        assert_eq!(bell.rung_rx.len(), 1, "once is enough");
    }

    #[test]
    fn the_one_who_brings_the_last_command_ends_the_wait() {
        let bell = Bell::default();
        let queued = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| bell.wait(8, FOR_EVER, || queued.load(Ordering::SeqCst)));
            for _ in 0..8 {
                queued.fetch_add(1, Ordering::SeqCst);
                bell.sent(|| queued.load(Ordering::SeqCst));
            }
        });
    }
}
