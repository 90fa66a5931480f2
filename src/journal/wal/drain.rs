//! The thread that brings pages from the log into their stores.

use super::super::store::{PLACES_AHEAD, StoreFault, UNSYNCED_BYTES_MAX, cost_bytes, settle};
use super::{Pending, Wal};
use crate::tasks::{OnExit, Supervisor};
use crate::types::Sequence;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long pages stay in the log alone while little comes in: nobody needs them in their store, but a start has less to
/// do. More often would cost a disk with one client as many syncs as its payments.
const DRAIN_EVERY: Duration = Duration::from_secs(1);

/// The thread's handle: its drop ends the thread where it is and waits for that. What is left in the log is brought back
/// by the next start.
#[derive(Debug)]
pub(crate) struct Drainer {
    wal: Arc<Wal>,
    worker: Option<JoinHandle<()>>,
}

impl Drainer {
    /// Starts the thread. A failure of it stops the process, and the next commit fails, as if the store itself had refused
    /// it.
    pub(crate) fn start(wal: Arc<Wal>, supervisor: &Supervisor) -> std::io::Result<Self> {
        let drained = Arc::clone(&wal);
        let failing = supervisor.clone();
        let worker = supervisor.spawn_thread("journal-drain", OnExit::Continue, move || {
            let mut guard = PanicGuard {
                wal: &drained,
                supervisor: &failing,
                is_over: false,
            };
            if let Err(fault) = work(&drained) {
                tracing::error!(%fault, "the journal's log cannot be drained");
                failing.fail(&format!("the journal's log cannot be drained: {fault}"));
            }
            guard.is_over = true;
        })?;
        Ok(Self {
            wal,
            worker: Some(worker),
        })
    }
}

impl Drop for Drainer {
    fn drop(&mut self) {
        self.wal.end();
        // Why not after a failure: the thread may be in a call of sled's that never returns.
        let has_failed = self.wal.state.lock().failure.is_some();
        if let Some(worker) = self.worker.take()
            && !has_failed
        {
            // A panic there was reported by the supervisor.
            let _ = worker.join();
        }
    }
}

/// A panic poisons the log like any failure.
struct PanicGuard<'w> {
    wal: &'w Wal,
    supervisor: &'w Supervisor,
    is_over: bool,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let fault = StoreFault::new("drain", "the thread that drains the log panicked");
            let reason = format!("the journal's log cannot be drained: {fault}");
            self.wal.fail(fault);
            self.supervisor.fail(&reason);
        }
    }
}

/// Drains until the log ends or fails; an error is one of draining.
fn work(wal: &Wal) -> Result<(), StoreFault> {
    let mut place = None;
    while let Some(Due { pages, keys }) = next(wal, place) {
        place = pages.first().map(|page| page.place);
        let last = pages.last().map(|page| page.frees);
        let count = pages.len();
        wal.draining.begins();
        let drained = drain(&pages, &keys);
        wal.draining.ended();
        drained.map_err(|fault| wal.fail(fault))?;
        // The store's handles too: whoever waits for the last page may want to close it.
        drop(pages);
        let mut state = wal.state.lock();
        let gone: Vec<Pending> = state.pages.drain(..count).collect();
        let bytes: usize = gone.iter().map(|page| page.bytes.len()).sum();
        state.bytes = state.bytes.saturating_sub(bytes);
        // Before the waiters see that they are drained.
        drop(gone);
        state.drained = state
            .drained
            .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if let Some(position) = last {
            // IMPORTANT: behind the settle. The room may be written over from here on.
            state.ring.free_to(position);
        }
        drop(state);
        wal.changed.notify_all();
    }
    Ok(())
}

/// What is drained next.
struct Due {
    /// For one store.
    pages: Vec<Pending>,
    /// Of the pages, and of those behind them that the store may make places for.
    keys: Vec<Sequence>,
}

/// Waits for pages to be due: the next ones for one store, and no more than it bears unsynced. `None` at the end. `before`
/// is the store that was drained to.
fn next(wal: &Wal, before: Option<u64>) -> Option<Due> {
    let mut state = wal.state.lock();
    let mut has_waited = false;
    loop {
        if state.is_ending || state.failure.is_some() {
            return None;
        }
        if state.is_due() || (has_waited && state.drained < state.synced) {
            break;
        }
        has_waited = wal.changed.wait_for(&mut state, DRAIN_EVERY).timed_out();
    }
    let synced = usize::try_from(state.synced.saturating_sub(state.drained)).unwrap_or(usize::MAX);
    let place = state.pages.front().map(|page| page.place)?;
    // Why the first by itself: of pages that are settled together a cut may leave any. A start that finds some of a volume
    // fills in the rest from the log, but it must know where the volume begins, which its first page tells.
    let pages_max = if before != Some(place) {
        synced.min(1)
    } else if has_waited || state.drained < state.wanted || synced < 2 * PLACES_AHEAD {
        synced
    } else {
        // The rest are those that places are made for.
        synced.saturating_sub(PLACES_AHEAD)
    };
    let mut cost = 0_usize;
    let pages: Vec<Pending> = state
        .pages
        .iter()
        .take(pages_max)
        .take_while(|page| {
            cost = cost.saturating_add(cost_bytes(&page.bytes));
            page.place == place && cost <= UNSYNCED_BYTES_MAX
        })
        .cloned()
        .collect();
    let of_store = state.pages.iter().take_while(|page| page.place == place);
    let keys = of_store
        .take(pages.len().saturating_add(PLACES_AHEAD))
        .map(|page| page.key)
        .collect();
    Some(Due { pages, keys })
}

fn drain(pages: &[Pending], keys: &[Sequence]) -> Result<(), StoreFault> {
    if let Some(page) = pages.first() {
        page.store.prepare(keys)?;
    }
    for page in pages {
        page.store.insert(page.key, &page.bytes)?;
    }
    pages
        .first()
        .map_or(Ok(()), |page| settle(page.store.as_ref()))
}
