//! How long one request may take, by a timer that a connection keeps.
//!
//! A timer of its own for each request would be entered into the runtime's wheel and taken out again, under a lock that
//! all connections share; one that is only put off does without.

use parking_lot::Mutex;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Sleep;

/// The work was not done in time, and was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Late;

/// The timer of a connection; requests that run at the same time make their own.
#[derive(Debug, Default)]
pub(super) struct Deadline {
    idle: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl Deadline {
    /// What `work` gives, if it gives it within `patience`.
    pub(super) async fn bound<T>(
        &self,
        patience: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Late> {
        let mut work = pin!(work);
        let mut timer = None;
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            // Only now: most bodies are there already.
            let timer = timer.get_or_insert_with(|| self.start(patience));
            timer.as_mut().poll(cx).map(|()| Err(Late))
        })
        .await;
        if timer.is_some() {
            *self.idle.lock() = timer;
        }
        outcome
    }

    fn start(&self, patience: Duration) -> Pin<Box<Sleep>> {
        let fresh = tokio::time::sleep(patience);
        let Some(mut kept) = self.idle.lock().take() else {
            return Box::pin(fresh);
        };
        kept.as_mut().reset(fresh.deadline());
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_bounded_again_and_again_by_one_timer() {
        let deadline = Deadline::default();
        let (short, long) = (Duration::from_millis(1), Duration::from_mins(1));
        for _ in 0..2 {
            let never = std::future::pending::<()>();
            assert_eq!(deadline.bound(short, never).await, Err(Late));
            let soon = async {
                tokio::task::yield_now().await;
                7
            };
            assert_eq!(deadline.bound(long, soon).await, Ok(7));
        }
        assert_eq!(deadline.bound(Duration::ZERO, async { 7 }).await, Ok(7));
    }

    #[tokio::test]
    async fn work_at_the_same_time_is_bounded_each_by_its_own() {
        let deadline = Deadline::default();
        let (short, long) = (Duration::from_millis(1), Duration::from_mins(1));
        let never = || std::future::pending::<()>();
        let outcome = tokio::select! {
            late = deadline.bound(long, never()) => late,
            late = deadline.bound(short, never()) => late,
        };
        assert_eq!(outcome, Err(Late));
    }
}
