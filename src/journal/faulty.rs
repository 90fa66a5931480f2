//! Stores that fail at the n-th call, as told: for tests of what stands above a store.
//!
//! A [`Plan`] counts the calls of a journal's stores and of its log in three lanes, the writing end with its recovery, the
//! thread that drains the log, and the one that opens volumes in the background, since only within one lane does the
//! order of calls repeat from run to run.

use super::store::{Opener, Purpose, Store, StoreFault, StoredPage};
use super::wal::RingFile;
use crate::types::Sequence;
use parking_lot::{Condvar, Mutex};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Who makes a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    /// Recovery, the thread that commits, and the close.
    Writer,
    /// The thread which brings pages from the log into their stores.
    Drain,
    /// The thread which opens volumes ahead and again.
    Background,
}

/// What becomes of the call that the plan is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It fails and does nothing.
    Fail,
    /// It does its work and says that it failed.
    Late,
    /// It panics.
    Panic,
    /// It takes its time and does its work: nothing befell anybody.
    Slow,
    /// It does not return until [`Plan::thaw`].
    Freeze,
}

/// How long a slow call takes.
const SLOW: Duration = Duration::from_millis(5);

/// What happens to a journal's stores, and when. Once a fault came, every later call fails as well: those of its lane,
/// and those of the others if it was the writer's.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    writer: LaneState,
    drain: LaneState,
    background: LaneState,
    /// Calls that do their work just now.
    working: u64,
    /// Whether the writer's syncs wait.
    is_gate_closed: bool,
    is_at_gate: bool,
}

#[derive(Debug, Default)]
struct LaneState {
    calls: u64,
    armed: Option<(u64, Fault)>,
    has_fired: bool,
    is_frozen: bool,
    is_dead: bool,
}

impl Lane {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Writer, Self::Drain, Self::Background];
}

impl State {
    const fn lane(&mut self, lane: Lane) -> &mut LaneState {
        match lane {
            Lane::Writer => &mut self.writer,
            Lane::Drain => &mut self.drain,
            Lane::Background => &mut self.background,
        }
    }
}

thread_local! {
    static UNOBSERVED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` with the calls of this thread neither counted nor failing: what a test does to look at the outcome.
pub(crate) fn unobserved<T>(work: impl FnOnce() -> T) -> T {
    let before = UNOBSERVED.replace(true);
    let value = work();
    UNOBSERVED.set(before);
    value
}

/// The lane of the calling thread; `None` for a query's.
fn lane() -> Option<Lane> {
    let thread = std::thread::current();
    match thread.name() {
        _ if UNOBSERVED.get() => None,
        Some("journal-volumes") => Some(Lane::Background),
        Some("journal-drain") => Some(Lane::Drain),
        Some(name) if name.starts_with("tokio") => None,
        _ => Some(Lane::Writer),
    }
}

impl Plan {
    /// The `nth` call (from 1) in `lane` from now on meets `fault`.
    pub(crate) fn arm(&self, lane: Lane, nth: u64, fault: Fault) {
        let mut state = self.state.lock();
        let lane = state.lane(lane);
        lane.armed = Some((lane.calls.saturating_add(nth), fault));
    }

    /// Takes everything back: calls are only counted.
    pub(crate) fn heal(&self) {
        let mut state = self.state.lock();
        for lane in Lane::ALL {
            let calls = state.lane(lane).calls;
            *state.lane(lane) = LaneState {
                calls,
                ..LaneState::default()
            };
        }
        drop(state);
        self.changed.notify_all();
    }

    /// From now on the writer's syncs wait, before they count as called, until [`Plan::open_gate`]: what comes in
    /// meanwhile becomes one group.
    pub(crate) fn close_gate(&self) {
        self.state.lock().is_gate_closed = true;
    }

    /// Whether a sync waits.
    pub(crate) fn is_at_gate(&self) -> bool {
        self.state.lock().is_at_gate
    }

    /// Lets the syncs go on.
    pub(crate) fn open_gate(&self) {
        self.state.lock().is_gate_closed = false;
        self.changed.notify_all();
    }

    /// Calls so far, those after a fault or the end of the process not counted.
    pub(crate) fn calls(&self, lane: Lane) -> u64 {
        self.state.lock().lane(lane).calls
    }

    /// Whether the fault came.
    pub(crate) fn has_fired(&self, lane: Lane) -> bool {
        self.state.lock().lane(lane).has_fired
    }

    /// Whether a call stands still.
    pub(crate) fn is_frozen(&self, lane: Lane) -> bool {
        self.state.lock().lane(lane).is_frozen
    }

    /// Lets calls that stand still go on and do their work, as if nothing had been.
    pub(crate) fn thaw(&self) {
        let mut state = self.state.lock();
        for lane in Lane::ALL {
            state.lane(lane).is_frozen = false;
            state.lane(lane).has_fired = false;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The process is gone: calls that stand still fail, and every later one does.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        for lane in Lane::ALL {
            state.lane(lane).is_dead = true;
            state.lane(lane).is_frozen = false;
        }
        state.is_gate_closed = false;
        drop(state);
        self.changed.notify_all();
    }

    /// [`Plan::end`], and waits until nothing is written any more.
    pub(crate) fn end_and_wait(&self) {
        self.end();
        let mut state = self.state.lock();
        self.changed
            .wait_while(&mut state, |state| state.working > 0);
    }

    fn call<T>(
        &self,
        stage: &'static str,
        work: impl FnOnce() -> Result<T, StoreFault>,
    ) -> Result<T, StoreFault> {
        let Some(lane) = lane() else {
            return work();
        };
        let work = || {
            let working = Working::of(self);
            let done = work();
            drop(working);
            done
        };
        let told = || Err(StoreFault::new(stage, "told to fail"));
        let mut lanes = self.state.lock();
        if lane == Lane::Writer && stage == "sync" {
            lanes.is_at_gate = lanes.is_gate_closed;
            self.changed
                .wait_while(&mut lanes, |state| state.is_gate_closed);
            lanes.is_at_gate = false;
        }
        let here = lanes.lane(lane);
        if here.is_dead {
            return told();
        }
        here.calls = here.calls.saturating_add(1);
        let fault = match here.armed {
            Some((nth, fault)) if nth == here.calls => fault,
            _ => {
                drop(lanes);
                return work();
            }
        };
        if fault == Fault::Slow {
            drop(lanes);
            std::thread::sleep(SLOW);
            return work();
        }
        here.has_fired = true;
        if fault == Fault::Freeze {
            here.is_frozen = true;
            self.changed
                .wait_while(&mut lanes, |state| state.lane(lane).is_frozen);
            let is_dead = lanes.lane(lane).is_dead;
            drop(lanes);
            return if is_dead { told() } else { work() };
        }
        here.is_dead = true;
        if lane == Lane::Writer {
            lanes.background.is_dead = true;
            lanes.drain.is_dead = true;
        }
        drop(lanes);
        match fault {
            Fault::Late => work().and_then(|_| told()),
            Fault::Panic => panic!("told to panic at {stage}"),
            Fault::Fail | Fault::Slow | Fault::Freeze => told(),
        }
    }
}

/// A call that does its work.
struct Working<'p>(&'p Plan);

impl<'p> Working<'p> {
    fn of(plan: &'p Plan) -> Self {
        plan.state.lock().working += 1;
        Self(plan)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.state.lock().working -= 1;
        self.0.changed.notify_all();
    }
}

/// [`Opener`] of stores that follow a plan.
#[derive(Debug)]
pub(crate) struct FaultyOpener {
    inner: Arc<dyn Opener>,
    plan: Arc<Plan>,
}

impl FaultyOpener {
    pub(crate) fn new(inner: Arc<dyn Opener>, plan: Arc<Plan>) -> Self {
        Self { inner, plan }
    }
}

impl Opener for FaultyOpener {
    fn open(
        &self,
        folder: &Path,
        purpose: Purpose,
        lock_wait: Duration,
    ) -> Result<Arc<dyn Store>, StoreFault> {
        let inner = self
            .plan
            .call("open", || self.inner.open(folder, purpose, lock_wait))?;
        Ok(Arc::new(FaultyStore {
            inner,
            plan: Arc::clone(&self.plan),
        }))
    }

    fn open_ring(&self, path: &Path) -> Result<Arc<dyn RingFile>, StoreFault> {
        let inner = self.plan.call("open", || self.inner.open_ring(path))?;
        Ok(Arc::new(FaultyRing {
            inner,
            plan: Arc::clone(&self.plan),
        }))
    }
}

#[derive(Debug)]
struct FaultyRing {
    inner: Arc<dyn RingFile>,
    plan: Arc<Plan>,
}

impl RingFile for FaultyRing {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreFault> {
        self.plan
            .call("write", || self.inner.write_at(bytes, offset))
    }

    fn sync(&self) -> Result<(), StoreFault> {
        self.plan.call("sync", || self.inner.sync())
    }
}

#[derive(Debug)]
struct FaultyStore {
    inner: Arc<dyn Store>,
    plan: Arc<Plan>,
}

impl Store for FaultyStore {
    fn prepare(&self, keys: &[Sequence]) -> Result<(), StoreFault> {
        self.plan.call("prepare", || self.inner.prepare(keys))
    }

    fn insert(&self, key: Sequence, page: &[u8]) -> Result<(), StoreFault> {
        self.plan.call("insert", || self.inner.insert(key, page))
    }

    fn remove(&self, key: Sequence) -> Result<(), StoreFault> {
        self.plan.call("remove", || self.inner.remove(key))
    }

    fn flush(&self) -> Result<(), StoreFault> {
        self.plan.call("flush", || self.inner.flush())
    }

    fn sync(&self) -> Result<(), StoreFault> {
        self.plan.call("sync", || self.inner.sync())
    }

    fn pages_from(&self, from: Sequence, pages_max: usize) -> Result<Vec<StoredPage>, StoreFault> {
        self.plan
            .call("read", || self.inner.pages_from(from, pages_max))
    }

    fn length_bytes(&self) -> Result<u64, StoreFault> {
        self.inner.length_bytes()
    }

    fn abandon(&self) {
        self.inner.abandon();
    }
}
