//! What `/metrics` and `/readyz` show, gathered from the parts at the moment of asking.

use super::disk::DiskSpace;
use crate::clock::SharedClock;
use crate::http::Health;
use crate::journal::JournalReader;
use crate::ledger::{LedgerHandle, LedgerStats};
use crate::metrics::{Gauges, KafkaState, Metrics};
use crate::pipeline::{PipelineHandle, PipelineState, PipelineStatus};
use crate::shutdown::DrainToken;
use crate::tasks::Supervisor;
use crate::tracker::TrackerHandle;
use std::sync::Arc;
use std::time::Duration;

/// Eyes on every part.
pub(super) struct Probes {
    pub(super) space: Arc<DiskSpace>,
    pub(super) clock: SharedClock,
    pub(super) started: Duration,
    pub(super) metrics: Metrics,
    pub(super) reader: JournalReader,
    pub(super) ledger: LedgerHandle,
    pub(super) ledger_stats: Box<dyn Fn() -> LedgerStats + Send + Sync>,
    pub(super) pipeline: PipelineHandle,
    pub(super) tracker: TrackerHandle,
    pub(super) sync_stalled: Duration,
    pub(super) sync_dead: Duration,
    pub(super) draining: DrainToken,
    pub(super) supervisor: Supervisor,
}

type Components = Vec<(&'static str, Health)>;

impl Probes {
    /// The text of `/metrics`.
    pub(super) fn renderer(self: &Arc<Self>) -> Arc<dyn Fn() -> String + Send + Sync> {
        let probes = Arc::clone(self);
        Arc::new(move || probes.metrics.render(&probes.gauges()))
    }

    /// The components of `/readyz`.
    pub(super) fn readiness(self: &Arc<Self>) -> Arc<dyn Fn() -> Components + Send + Sync> {
        let probes = Arc::clone(self);
        Arc::new(move || probes.components())
    }

    /// Whether the journal failed or its sync hangs.
    pub(super) fn disk_failed(&self) -> bool {
        self.reader.sync_age() >= self.sync_dead || self.has_journal_failed()
    }

    /// By a commit, or behind those, when the log is brought into the volumes.
    fn has_journal_failed(&self) -> bool {
        self.ledger.has_failed() || self.reader.has_log_failed()
    }

    fn gauges(&self) -> Gauges {
        let ledger = (self.ledger_stats)();
        let pipeline = self.pipeline.status();
        let tracker = self.tracker.stats();
        Gauges {
            uptime: self.clock.monotonic().saturating_sub(self.started),
            durable: self.reader.durable().get(),
            published: pipeline.published,
            delivered: self.tracker.delivered().get(),
            journal: self.reader.identity().to_string(),
            journal_bytes: self.reader.size_bytes(),
            sync_age: self.reader.sync_age(),
            disk_free_bytes: self.space.free_bytes(),
            disk_reserve_bytes: self.space.reserve_bytes(),
            ledger_queue_commands: self.ledger.queued_commands() as u64,
            wallets: ledger.wallets,
            holds_open: ledger.open_holds,
            kafka_state: match pipeline.state {
                PipelineState::Off => KafkaState::Off,
                PipelineState::Connecting => KafkaState::Connecting,
                PipelineState::Running => KafkaState::Running,
                PipelineState::Stalled(_) => KafkaState::Stalled,
                PipelineState::Stopped(_) => KafkaState::Stopped,
            },
            kafka_lag_events: pipeline.lag_events,
            kafka_lag_seconds: pipeline.lag_seconds,
            kafka_published_total: pipeline.published_total,
            kafka_acknowledged_total: pipeline.acknowledged_total,
            kafka_failed_total: pipeline.failed_total,
            kafka_repeated_total: pipeline.repeated_total,
            kafka_quarantined_total: pipeline.quarantined_total,
            ws_connections: tracker.connections,
            ws_subscriptions: tracker.subscriptions,
            ws_queue_bytes: tracker.queued_bytes,
        }
    }

    fn components(&self) -> Components {
        let age = self.reader.sync_age();
        let journal = if self.has_journal_failed() {
            Health::Failed("the journal failed; the process is ending".into())
        } else if age >= self.sync_stalled {
            Health::Failed(format!(
                "a sync has been running for {} ms",
                age.as_millis()
            ))
        } else {
            Health::Ok
        };
        let disk = if self.space.is_full() {
            Health::Failed(self.space.to_string())
        } else {
            Health::Ok
        };
        let process = match self.supervisor.failure() {
            Some(reason) => Health::Failed(reason.to_string()),
            None if self.draining.is_draining() => Health::Failed("stopping".into()),
            None => Health::Ok,
        };
        let kafka = kafka_health(self.pipeline.status());
        vec![
            ("process", process),
            ("journal", journal),
            ("disk", disk),
            ("kafka", kafka),
        ]
    }
}

/// Kafka away does not make the service unready: events wait in the journal. Kafka that waits for the operator does.
fn kafka_health(status: PipelineStatus) -> Health {
    let waiting = status.lag_events;
    match status.state {
        PipelineState::Off | PipelineState::Running => Health::Ok,
        PipelineState::Connecting => {
            let mut text = format!("connecting, {waiting} events wait");
            if let Some((_, reason)) = status.last_error {
                text = format!("{text}; {reason}");
            }
            Health::Degraded(text)
        }
        PipelineState::Stalled(reason) => {
            Health::Degraded(format!("stalled, {waiting} events wait; {reason}"))
        }
        PipelineState::Stopped(reason) => Health::Failed(reason),
    }
}
