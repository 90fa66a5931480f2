//! Named threads and tasks whose end is noticed.
//!
//! Every thread and long-lived task of the process starts here. A panic never vanishes: it is logged with the name of
//! who panicked, and what must not end takes the process down in order.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::watch;
use tracing::error;

/// What the end of a thread or task means for the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnExit {
    /// It runs as long as the process: an end before the drain, or a panic, stops the process.
    StopProcess,
    /// It may end at any time; a panic is logged.
    Continue,
}

/// Starts threads and tasks and hears of their end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Supervisor {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Running,
    Draining,
    Failed(Arc<str>),
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// A supervisor without tasks.
    pub fn new() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(State::Running)),
        }
    }

    /// From now on the end of a [`OnExit::StopProcess`] task is expected; a panic still is not.
    pub fn start_drain(&self) {
        self.state.send_if_modified(|state| {
            let running = *state == State::Running;
            if running {
                *state = State::Draining;
            }
            running
        });
    }

    /// Reports by hand that the process cannot go on. The first reason wins.
    pub fn fail(&self, reason: &str) {
        self.state.send_if_modified(|state| {
            let first = !matches!(state, State::Failed(_));
            if first {
                *state = State::Failed(reason.into());
            }
            first
        });
    }

    /// The reason why the process cannot go on, once there is one.
    pub fn failure(&self) -> Option<Arc<str>> {
        match &*self.state.borrow() {
            State::Failed(reason) => Some(Arc::clone(reason)),
            State::Running | State::Draining => None,
        }
    }

    /// Completes when the process cannot go on, with the reason. Dropping the future is free.
    pub async fn failed(&self) -> Arc<str> {
        let mut rx = self.state.subscribe();
        loop {
            if let State::Failed(reason) = &*rx.borrow_and_update() {
                return Arc::clone(reason);
            }
            if rx.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Runs `work` on a thread called `name` (15 bytes show in `top`).
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn_thread(
        &self,
        name: &'static str,
        on_exit: OnExit,
        work: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let supervisor = self.clone();
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let ended = catch_unwind(AssertUnwindSafe(work));
                supervisor.note_end(name, on_exit, ended.err().as_deref());
            })
    }

    /// Runs `work` as a task of the current tokio runtime.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns tasks")]
    pub fn spawn_task(
        &self,
        name: &'static str,
        on_exit: OnExit,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let guard = EndGuard {
            supervisor: self.clone(),
            name,
            on_exit,
            ended: false,
        };
        tokio::spawn(async move {
            let mut guard = guard;
            work.await;
            guard.ended = true;
        })
    }

    fn note_end(
        &self,
        name: &'static str,
        on_exit: OnExit,
        panic: Option<&(dyn std::any::Any + Send)>,
    ) {
        if let Some(panic) = panic {
            let reason = panic_text(panic);
            error!(name, reason, "a thread panicked");
            if on_exit == OnExit::StopProcess {
                self.fail(&format!("{name} panicked: {reason}"));
            }
        } else if on_exit == OnExit::StopProcess && *self.state.borrow() == State::Running {
            self.fail(&format!("{name} ended by itself"));
        }
    }
}

/// Notices the end of a task, also when it is dropped in a panic.
struct EndGuard {
    supervisor: Supervisor,
    name: &'static str,
    on_exit: OnExit,
    ended: bool,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if self.ended || panicking {
            let reason: &(dyn std::any::Any + Send) = &"see the panic message above";
            self.supervisor
                .note_end(self.name, self.on_exit, panicking.then_some(reason));
        }
    }
}

/// The text of a panic's payload.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "a panic without a text"
    }
}
