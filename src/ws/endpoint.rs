//! What all connections share, the sweeper that keeps their deadlines, and the drain.

use super::config::Config;
use super::control::{Control, Orders};
use super::history::{History, JournalHistory};
use crate::auth::{Access, Caller};
use crate::clock::SharedClock;
use crate::journal::JournalReader;
use crate::ledger::Queries;
use crate::metrics::Metrics;
use crate::tasks::{OnExit, Supervisor};
use crate::tracker::TrackerHandle;
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tracing::info;

/// Token → who that is.
pub(super) type Authenticate = Box<dyn Fn(&str) -> Option<Caller> + Send + Sync>;

/// How long connections that were told to end at once may take to do so.
const DROP_WITHIN: Duration = Duration::from_secs(1);

/// The WebSocket endpoint; cheap to clone.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(super) service: Arc<Service>,
}

/// What every connection needs.
pub(super) struct Service {
    pub(super) config: Config,
    pub(super) tracker: TrackerHandle,
    pub(super) history: Box<dyn History>,
    pub(super) authenticate: Authenticate,
    pub(super) clock: SharedClock,
    pub(super) metrics: Metrics,
    pub(super) supervisor: Supervisor,
    controls: Mutex<Vec<Weak<Control>>>,
    /// Connections, and upgrades that will become some.
    open: watch::Sender<usize>,
    draining: AtomicBool,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("open", &*self.open.borrow())
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint that speaks of what `tracker` hands out; `queries` and `reader` must be of the same journal. Starts its
    /// sweeper, so call it inside the runtime.
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each part it stands on; called once"
    )]
    pub fn new(
        config: Config,
        tracker: TrackerHandle,
        queries: Queries,
        access: Arc<Access>,
        reader: JournalReader,
        clock: SharedClock,
        metrics: Metrics,
        supervisor: Supervisor,
    ) -> Self {
        let history = Box::new(JournalHistory { queries, reader });
        let authenticate = Box::new(move |token: &str| access.authenticate_token(token).ok());
        Self::assemble(
            config,
            tracker,
            history,
            authenticate,
            clock,
            metrics,
            supervisor,
        )
    }

    pub(super) fn assemble(
        config: Config,
        tracker: TrackerHandle,
        history: Box<dyn History>,
        authenticate: Authenticate,
        clock: SharedClock,
        metrics: Metrics,
        supervisor: Supervisor,
    ) -> Self {
        let service = Arc::new(Service {
            config,
            tracker,
            history,
            authenticate,
            clock,
            metrics,
            supervisor,
            controls: Mutex::new(Vec::new()),
            open: watch::Sender::new(0),
            draining: AtomicBool::new(false),
        });
        let sweeping = sweep(Arc::downgrade(&service));
        service
            .supervisor
            .spawn_task("ws-sweeper", OnExit::StopProcess, sweeping);
        Self { service }
    }

    /// Connections now, those in their handshake included.
    pub fn connections(&self) -> usize {
        *self.service.open.borrow()
    }

    /// Ends all connections with 1012 and the sequence to resume from, and takes no new ones. Completes when all are gone,
    /// with how many did not end in order within `deadline`. Call it when the ledger has stopped: what is durable by then
    /// is told first.
    pub async fn drain(&self, deadline: Duration) -> usize {
        let service = &self.service;
        service.draining.store(true, Ordering::SeqCst);
        let durable = service.history.durable();
        let told = service.tracker.delivered().wait_for(durable);
        // Late or not: who is told less resumes from less.
        let _late = tokio::time::timeout(deadline / 4, told).await;
        service.order_all(Orders::DRAIN);
        let mut open = service.open.subscribe();
        if tokio::time::timeout(deadline, open.wait_for(|open| *open == 0))
            .await
            .is_ok()
        {
            return 0;
        }
        let cut_off = *service.open.borrow();
        info!(cut_off, "WebSocket connections did not close in time");
        service.order_all(Orders::DROP);
        let _gone = tokio::time::timeout(DROP_WITHIN, open.wait_for(|open| *open == 0)).await;
        cut_off
    }
}

impl Service {
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes a connection's place; `None` when there is none, or the service stops.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Place> {
        if self.draining.load(Ordering::SeqCst) {
            return None;
        }
        let most = self.config.connections_max;
        let admitted = self.open.send_if_modified(|open| {
            let room = *open < most;
            if room {
                *open += 1;
            }
            room
        });
        admitted.then(|| Place {
            service: Arc::clone(self),
        })
    }

    /// From now on the sweeper looks after `control`.
    pub(super) fn register(&self, control: &Arc<Control>) {
        self.controls.lock().push(Arc::downgrade(control));
        // Behind the push: either the drain finds it, or it finds the drain.
        if self.draining.load(Ordering::SeqCst) {
            control.order(Orders::DRAIN);
        }
    }

    fn controls(&self) -> Vec<Arc<Control>> {
        let mut controls = self.controls.lock();
        let mut living = Vec::with_capacity(controls.len());
        controls.retain(|control| match control.upgrade() {
            Some(control) => {
                living.push(control);
                true
            }
            None => false,
        });
        living
    }

    fn order_all(&self, orders: Orders) {
        self.controls()
            .iter()
            .for_each(|control| control.order(orders));
    }
}

/// A connection's place among the [`Config::connections_max`]; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    service: Arc<Service>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.service.open.send_modify(|open| *open -= 1);
    }
}

/// Looks at every connection's deadlines, again and again, until the endpoint is gone. One task for all: a timer in each
/// connection would cost more memory than the rest of it.
async fn sweep(service: Weak<Service>) {
    while let Some(service) = service.upgrade() {
        let now_ms = service.now_ms();
        service
            .controls()
            .iter()
            .for_each(|control| control.sweep(now_ms, &service.config));
        let pause = Duration::from_millis(service.config.sweep_every_ms.max(1));
        drop(service);
        tokio::time::sleep(pause).await;
    }
}
