//! When requests are sent.
//!
//! Closed loop: at once. Open loop: request n at n / rate from the start, whichever connection is free then; if none is,
//! the next one that is takes it late, and its latency counts from when it should have been sent. So a pause of the
//! server shows in all requests that fell into it, not only in those that were under way (coordinated omission).

use crate::cli::Rate;
use crate::clock::SharedClock;
use parking_lot::Mutex;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::numbers::{floor, whole};

/// How long after the end requests are still sent that were due before it. What is left then counts with the time that it
/// has waited so far.
const BACKLOG_GRACE: Duration = Duration::from_secs(2);

/// The course of a run; times are the clock's monotonic ones.
#[derive(Debug)]
pub(super) struct Schedule {
    clock: SharedClock,
    start: Duration,
    counted_from: Duration,
    end: Duration,
    rate: Rate,
    /// Ends the load before its time.
    requests_max: Option<u64>,
    /// Number of the next request.
    next: AtomicU64,
    /// When somebody asked to stop, in nanoseconds; `u64::MAX` before.
    stopped_at_ns: AtomicU64,
    stop_tx: watch::Sender<bool>,
}

/// A request that shall be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Turn {
    /// From 0, over all connections.
    pub(super) number: u64,
    /// When; in a closed loop that is now.
    pub(super) due: Duration,
}

impl Schedule {
    /// A load of `warmup` and then `duration`, from `start` on.
    pub(super) fn new(
        clock: SharedClock,
        start: Duration,
        warmup: Duration,
        duration: Duration,
        rate: Rate,
    ) -> Self {
        let counted_from = start.saturating_add(warmup);
        Self {
            clock,
            start,
            counted_from,
            end: counted_from.saturating_add(duration),
            rate,
            requests_max: None,
            next: AtomicU64::new(0),
            stopped_at_ns: AtomicU64::new(u64::MAX),
            stop_tx: watch::Sender::new(false),
        }
    }

    /// Ends with that many requests, if not before.
    pub(super) const fn of_at_most(mut self, requests: Option<u64>) -> Self {
        self.requests_max = requests;
        self
    }

    /// From when on requests count.
    pub(super) const fn counted_from(&self) -> Duration {
        self.counted_from
    }

    pub(super) const fn start(&self) -> Duration {
        self.start
    }

    /// When the load ends, or ended because somebody asked.
    pub(super) fn end(&self) -> Duration {
        let stopped_at = Duration::from_nanos(self.stopped_at_ns.load(Ordering::Acquire));
        self.end.min(stopped_at)
    }

    /// Nothing more is sent from now on.
    pub(super) fn stop(&self) {
        let now = u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX);
        self.stopped_at_ns.fetch_min(now, Ordering::AcqRel);
        self.stop_tx.send_replace(true);
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stop_tx.borrow()
    }

    /// Completes when somebody asked to stop.
    pub(super) async fn stopped(&self) {
        let mut stop_rx = self.stop_tx.subscribe();
        let _the_sender_is_ours = stop_rx.wait_for(|stopped| *stopped).await;
    }

    /// The next request. `None` when there are no more.
    pub(super) fn next(&self) -> Option<Turn> {
        if self.is_over() {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = match self.rate {
            Rate::Max => self.clock.monotonic(),
            Rate::PerSecond(rate) => self.due(number, rate),
        };
        if due < self.end && self.requests_max.is_none_or(|most| number < most) {
            return Some(Turn { number, due });
        }
        // Given back, so that what was left can be counted.
        self.next.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Whether nothing is sent any more, not even what was due.
    pub(super) fn is_over(&self) -> bool {
        let grace = match self.rate {
            Rate::Max => Duration::ZERO,
            Rate::PerSecond(_) => BACKLOG_GRACE,
        };
        self.is_stopped() || self.clock.monotonic() >= self.end.saturating_add(grace)
    }

    /// Waits so far of the requests that were due and nobody took; those of the warm-up are left out.
    pub(super) fn untaken(&self) -> impl Iterator<Item = Duration> {
        let end = self.end();
        let rate = match self.rate {
            Rate::Max => None,
            Rate::PerSecond(rate) => Some(rate),
        };
        let first = self.next.load(Ordering::Relaxed);
        let behind = self.requests_max.unwrap_or(u64::MAX);
        rate.into_iter()
            .flat_map(move |rate| (first..behind).map(move |number| self.due(number, rate)))
            .take_while(move |due| *due < end)
            .filter_map(|due| self.waited(due))
    }

    /// How long a request that was `due` and is given up has waited by the end; `None` when it does not count: it was of
    /// the warm-up, or somebody asked to stop before it was due.
    pub(super) fn waited(&self, due: Duration) -> Option<Duration> {
        let end = self.end();
        (due >= self.counted_from && due < end).then(|| end.saturating_sub(due))
    }

    fn due(&self, number: u64, rate: f64) -> Duration {
        let offset_ns = floor(whole(number) * 1e9 / rate);
        self.start.saturating_add(Duration::from_nanos(offset_ns))
    }
}

/// Wakes one thread's connections when their requests are due, to some microseconds: tokio's timers tick in
/// milliseconds, which would show in every latency.
#[derive(Debug)]
pub(super) struct Pacer {
    clock: SharedClock,
    timer: AsyncFd<OwnedFd>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Nearly in the order of their times: the schedule gives times in order, and each is waited for at once.
    wakers: VecDeque<(Duration, Waker)>,
    armed_for: Option<Duration>,
    /// Nobody waits any more: the run was stopped, or the timer broke.
    is_released: bool,
}

impl Waiting {
    fn release(&mut self) {
        self.is_released = true;
        self.wakers.drain(..).for_each(|(_, waker)| waker.wake());
    }
}

impl Pacer {
    /// For the current thread's runtime.
    pub(super) fn new(clock: SharedClock) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is `unsafe` for files that change under it; an `OwnedFd` is always the same"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self {
            clock,
            timer,
            waiting: Mutex::default(),
        })
    }

    /// Completes when it is `due`, at once when that is past or [`Pacer::release`] was called.
    pub(super) async fn wait_until(&self, due: Duration) {
        let mut is_waiting = false;
        poll_fn(|cx| {
            if self.clock.monotonic() >= due {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.lock();
            if waiting.is_released {
                return Poll::Ready(());
            }
            if !is_waiting {
                is_waiting = true;
                waiting.wakers.push_back((due, cx.waker().clone()));
                self.arm(&mut waiting);
            }
            Poll::Pending
        })
        .await;
    }

    /// Wakes whoever is due, for ever.
    pub(super) async fn run(&self) -> io::Error {
        loop {
            let mut ready = match self.timer.readable().await {
                Ok(ready) => ready,
                Err(error) => return error,
            };
            let mut expirations = [0; 8];
            let read =
                |timer: &AsyncFd<OwnedFd>| Ok(rustix::io::read(timer.get_ref(), &mut expirations)?);
            if let Ok(Err(error)) = ready.try_io(read) {
                return error;
            }
            let mut waiting = self.waiting.lock();
            waiting.armed_for = None;
            self.arm(&mut waiting);
        }
    }

    /// Whoever waits goes on now, and nobody waits any more.
    pub(super) fn release(&self) {
        self.waiting.lock().release();
    }

    /// Wakes who is due, and sets the timer for the first who is not.
    fn arm(&self, waiting: &mut Waiting) {
        while let Some((due, _)) = waiting.wakers.front() {
            let (due, now) = (*due, self.clock.monotonic());
            if due > now {
                if waiting.armed_for.is_none_or(|armed_for| due < armed_for) {
                    waiting.armed_for = Some(due);
                    // A timer that cannot be set would hold up everybody for ever.
                    if self.set(due.saturating_sub(now)).is_err() {
                        waiting.release();
                    }
                }
                return;
            }
            if let Some((_, waker)) = waiting.wakers.pop_front() {
                waker.wake();
            }
        }
    }

    fn set(&self, after: Duration) -> io::Result<()> {
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(after.subsec_nanos().max(1)),
            },
        };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, SystemClock};
    use crate::types::TimestampMs;
    use proptest::prelude::*;
    use std::sync::Arc;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(clock: &Arc<ManualClock>, rate: Rate) -> Schedule {
        let clock: SharedClock = Arc::clone(clock) as SharedClock;
        Schedule::new(clock, Duration::ZERO, SECOND, SECOND * 2, rate)
    }

    fn manual() -> Arc<ManualClock> {
        Arc::new(ManualClock::new(TimestampMs::new(0), 0))
    }

    #[test]
    fn a_closed_loop_sends_now_until_the_end() {
        let clock = manual();
        let schedule = schedule(&clock, Rate::Max);
        let due = || schedule.next().map(|turn| turn.due);
        assert_eq!(due(), Some(Duration::ZERO));
        clock.advance(SECOND * 2);
        assert_eq!(due(), Some(SECOND * 2));
        clock.advance(SECOND);
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.untaken().count(), 0);
    }

    proptest! {
        /// However late it is asked: each request has its time, none is lost, and what was not sent is told.
        #[test]
        fn an_open_loop_keeps_its_times(rate in 1_u32..500, pauses_ms in proptest::collection::vec(0_u64..400, 0..40)) {
            let clock = manual();
            let schedule = schedule(&clock, Rate::PerSecond(f64::from(rate)));
            let mut sent = Vec::new();
            for pause_ms in pauses_ms {
                clock.advance(Duration::from_millis(pause_ms));
                sent.extend(schedule.next().map(|turn| turn.due));
            }
            let due = |number: usize| Duration::from_nanos(number as u64 * 1_000_000_000 / u64::from(rate));
            for (number, found) in sent.iter().enumerate() {
                prop_assert!(found.abs_diff(due(number)) < Duration::from_micros(1));
            }
            let all = 3 * rate as usize;
            prop_assert!(sent.len() <= all);
            let unsent = (sent.len()..all).filter(|number| due(*number) >= SECOND).count();
            prop_assert!(schedule.untaken().count().abs_diff(unsent) <= 1);
        }
    }

    #[test]
    fn what_was_never_sent_has_waited_until_the_end() {
        let clock = manual();
        let schedule = schedule(&clock, Rate::PerSecond(10.0));
        clock.advance(SECOND * 9);
        assert_eq!(schedule.next(), None, "the backlog is given up");
        let waits: Vec<Duration> = schedule.untaken().collect();
        assert_eq!(waits.len(), 20);
        assert_eq!(waits.first(), Some(&(SECOND * 2)));
    }

    #[test]
    fn a_load_of_so_many_requests_ends_with_the_last() {
        let clock = manual();
        for rate in [Rate::Max, Rate::PerSecond(10.0)] {
            let schedule = schedule(&clock, rate).of_at_most(Some(3));
            let numbers: Vec<u64> = std::iter::from_fn(|| schedule.next())
                .map(|turn| turn.number)
                .collect();
            assert_eq!(numbers, [0, 1, 2]);
            assert_eq!(schedule.untaken().count(), 0);
        }
    }

    #[test]
    fn who_is_asked_to_stop_sends_no_more() {
        let clock = manual();
        let schedule = schedule(&clock, Rate::PerSecond(10.0));
        clock.advance(SECOND);
        assert!(schedule.next().is_some());
        schedule.stop();
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.end(), SECOND);
    }

    #[tokio::test]
    async fn nobody_is_woken_early_and_everybody_is_woken() {
        let clock: SharedClock = Arc::new(SystemClock::new());
        let pacer = Arc::new(Pacer::new(Arc::clone(&clock)).unwrap());
        let mut waiting = tokio::task::JoinSet::new();
        for number in 0..50 {
            let (pacer, clock) = (Arc::clone(&pacer), Arc::clone(&clock));
            waiting.spawn(async move {
                let due = clock.monotonic() + Duration::from_micros(number * 300);
                pacer.wait_until(due).await;
                assert!(clock.monotonic() >= due);
            });
        }
        let all = async {
            while let Some(ended) = waiting.join_next().await {
                ended.unwrap();
            }
        };
        let in_time = tokio::time::timeout(SECOND * 30, async {
            tokio::select! {
                error = pacer.run() => panic!("{error}"),
                () = all => {}
            }
        });
        in_time.await.unwrap();
    }
}
