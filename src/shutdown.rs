//! Signals: the first `SIGTERM` or `SIGINT` asks for the drain, a second one hurries it, `SIGHUP` asks for a reload.
//!
//! Knows nothing of what is drained or reloaded: who stops something waits on a [`DrainToken`], and `app.rs` decides
//! on the order and on the grace period.

use crate::tasks::{OnExit, Supervisor};
use std::io;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

/// How far the end of the process has come. Only moves forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Nobody asked to stop.
    Running,
    /// Take nothing new, finish what is in hand.
    Draining,
    /// Asked twice: finish what is durable already, give up waiting for others.
    Hurrying,
}

/// Tells the parts when to stop; cheap to clone, all clones are one.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: Arc<watch::Sender<Phase>>,
    reloads: Arc<watch::Sender<u64>>,
}

/// What a part holds to learn of the drain; cheap to clone.
#[derive(Clone, Debug)]
pub struct DrainToken {
    phase: watch::Receiver<Phase>,
}

/// What a part holds to learn of `SIGHUP`.
#[derive(Clone, Debug)]
pub struct Reloads {
    count: watch::Receiver<u64>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// Nobody asked yet, and no signal is listened to: for tests, and for who embeds the service.
    pub fn new() -> Self {
        let phase = Arc::new(watch::Sender::new(Phase::Running));
        Self {
            phase,
            reloads: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Listens to the signals from now on, as a task of `supervisor`; call within a tokio runtime. From then on
    /// `SIGTERM`, `SIGINT` and `SIGHUP` no longer end the process by themselves.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn on_signals(supervisor: &Supervisor) -> io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let told = shutdown.clone();
        supervisor.spawn_task("signals", OnExit::Continue, async move {
            loop {
                tokio::select! {
                    Some(()) = terminate.recv() => told.ask("SIGTERM"),
                    Some(()) = interrupt.recv() => told.ask("SIGINT"),
                    Some(()) = hang_up.recv() => told.reload(),
                    else => return,
                }
            }
        });
        Ok(shutdown)
    }

    /// Asks for the drain; asked again, hurries it. `by` stands in the log.
    pub fn ask(&self, by: &str) {
        self.phase.send_modify(|phase| {
            if *phase == Phase::Running {
                info!(
                    by,
                    "stopping: taking nothing new, finishing what is in hand"
                );
                *phase = Phase::Draining;
            } else {
                warn!(
                    by,
                    "stopping at once: no longer waiting for clients and Kafka"
                );
                *phase = Phase::Hurrying;
            }
        });
    }

    /// Asks for a reload of what can be read again.
    pub fn reload(&self) {
        self.reloads
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// For a part that has to stop.
    pub fn token(&self) -> DrainToken {
        DrainToken {
            phase: self.phase.subscribe(),
        }
    }

    /// For a part that can read something again.
    pub fn reloads(&self) -> Reloads {
        Reloads {
            count: self.reloads.subscribe(),
        }
    }
}

impl DrainToken {
    /// Where things stand.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether anybody asked to stop.
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// Whether somebody asked twice.
    pub fn is_hurrying(&self) -> bool {
        self.phase() == Phase::Hurrying
    }

    /// Completes when somebody asked to stop. Dropping the future is free.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Completes when somebody asked twice. Dropping the future is free.
    pub async fn hurrying(&self) {
        self.reached(Phase::Hurrying).await;
    }

    /// Also completes when every [`Shutdown`] is gone: nobody could ask any more, and a part that waits for ever would
    /// keep the process.
    async fn reached(&self, phase: Phase) {
        let mut rx = self.phase.clone();
        let _reached_or_nobody_left_to_ask = rx.wait_for(|now| *now >= phase).await;
    }
}

impl Reloads {
    /// Completes at the next reload behind the last one seen here; several in between count once.
    pub async fn next(&mut self) {
        if self.count.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        let mut future = Box::pin(future);
        future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            == Poll::Ready(())
    }

    #[test]
    fn the_first_ask_drains_and_the_second_hurries() {
        let shutdown = Shutdown::new();
        let early = shutdown.token();
        assert_eq!(early.phase(), Phase::Running);
        assert!(!is_ready(early.draining()));

        shutdown.ask("test");
        assert!(early.is_draining());
        assert!(is_ready(early.draining()));
        assert!(
            is_ready(shutdown.token().draining()),
            "who asks late hears of it too"
        );
        assert!(!is_ready(early.hurrying()));

        shutdown.clone().ask("test");
        assert!(is_ready(early.hurrying()));
        assert!(early.is_hurrying());
        assert!(is_ready(early.draining()));
    }

    #[test]
    fn reloads_in_between_count_once_and_none_is_missed() {
        let shutdown = Shutdown::new();
        let mut reloads = shutdown.reloads();
        assert!(!is_ready(reloads.next()));
        shutdown.reload();
        shutdown.reload();
        assert!(is_ready(reloads.next()));
        assert!(!is_ready(reloads.next()));
    }
}
