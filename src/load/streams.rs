//! What streams behind a load: how far subscribers and Kafka are, and waiting until everything has arrived.

use super::audit::Baseline;
use super::control::Control;
use super::numbers::{share, whole};
use super::outcome::{KafkaFigures, SubscriberFigures};
use super::pace::Schedule;
use super::subscribers::Subscribers;
use super::tally::Tally;
use super::worker::Plan;
use crate::tasks::{OnExit, Supervisor};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// How often lags are looked at.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// How often it is asked whether everything is there.
const TICK: Duration = Duration::from_millis(50);
/// Until what streams behind counts as not coming: without any progress for so long.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// How far the streams were behind at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lag {
    /// Of the measured time.
    pub(super) at_seconds: f64,
    pub(super) subscriber_ms: Option<u64>,
    pub(super) kafka_events: Option<u64>,
}

/// Looks at lags beside the load.
#[derive(Debug)]
pub(super) struct Sampler {
    start: Duration,
    counted_from: Duration,
    samples: Arc<Mutex<Vec<Lag>>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Sampler {
    pub(super) fn start(
        plan: &Arc<Plan>,
        schedule: &Arc<Schedule>,
        supervisor: &Supervisor,
    ) -> Self {
        let samples: Arc<Mutex<Vec<Lag>>> = Arc::default();
        let counted_from = schedule.counted_from();
        let task = plan.options.kafka.is_some().then(|| {
            let (plan, samples) = (Arc::clone(plan), Arc::clone(&samples));
            supervisor.spawn_task("bench-lags", OnExit::Continue, async move {
                let mut control = Control::new(Arc::clone(&plan));
                loop {
                    // Without an answer there is nothing to note; the load counts its own errors.
                    if let Ok(now) = control.positions().await {
                        let lag = now.durable.saturating_sub(now.published);
                        let at = plan.clock.monotonic();
                        push(&samples, counted_from, at, None, Some(lag));
                    }
                    tokio::time::sleep(SAMPLE_EVERY).await;
                }
            })
        });
        Self {
            start: schedule.start(),
            counted_from,
            samples,
            task,
        }
    }

    pub(super) fn subscriber_lag(&self, at: Duration, lag_ms: u64) {
        push(&self.samples, self.counted_from, at, Some(lag_ms), None);
    }

    pub(super) fn kafka_lag_max(&self) -> u64 {
        let samples = self.samples.lock();
        samples
            .iter()
            .filter_map(|lag| lag.kafka_events)
            .max()
            .unwrap_or(0)
    }

    pub(super) fn finish(&self) -> Vec<Lag> {
        if let Some(task) = &self.task {
            task.abort();
        }
        std::mem::take(&mut self.samples.lock())
    }
}

fn push(
    samples: &Mutex<Vec<Lag>>,
    counted_from: Duration,
    at: Duration,
    subscriber_ms: Option<u64>,
    kafka_events: Option<u64>,
) {
    let Some(since) = at.checked_sub(counted_from) else {
        return;
    };
    // The longest run and the pause between two samples bound how many there are.
    samples.lock().push(Lag {
        at_seconds: since.as_secs_f64(),
        subscriber_ms,
        kafka_events,
    });
}

/// Waits until the subscribers have heard everything that was acknowledged, and sums up what they heard.
pub(super) async fn subscribers_end(
    plan: &Plan,
    subscribers: Subscribers,
    tally: &Tally,
) -> SubscriberFigures {
    let mut missing = subscribers.missing(plan, &tally.books);
    let mut progressed_at = plan.clock.monotonic();
    while missing > 0 && plan.clock.monotonic() < progressed_at + STREAMS_TIMEOUT {
        tokio::time::sleep(TICK).await;
        let now_missing = subscribers.missing(plan, &tally.books);
        if now_missing < missing {
            progressed_at = plan.clock.monotonic();
        }
        missing = now_missing;
    }
    let heard = subscribers.finish();
    let heard = heard.lock();
    SubscriberFigures {
        count: plan.options.subscribers,
        updates: heard.updates,
        missing,
        disordered: heard.disordered,
        resumes: heard.resumes,
        ended: heard.ended.clone(),
        lag_ms_p50: heard.lags_ms.value_at_quantile(0.5),
        lag_ms_p99: heard.lags_ms.value_at_quantile(0.99),
        lag_ms_max: heard.lags_ms.max(),
    }
}

/// Waits until Kafka has acknowledged everything that is durable.
pub(super) async fn kafka_end(
    plan: &Arc<Plan>,
    topic: &str,
    baseline: &Baseline,
    sampler: &Sampler,
    ended_at: Duration,
) -> KafkaFigures {
    let mut control = Control::new(Arc::clone(plan));
    let mut drained = KafkaFigures {
        topic: topic.into(),
        lag_events_max: sampler.kafka_lag_max(),
        drained_seconds: None,
        events_per_second: 0.0,
    };
    let mut published = 0;
    let mut progressed_at = plan.clock.monotonic();
    while plan.clock.monotonic() < progressed_at + STREAMS_TIMEOUT {
        let Ok(now) = control.positions().await else {
            break;
        };
        let at = plan.clock.monotonic();
        if now.published > published {
            published = now.published;
            progressed_at = at;
        }
        if now.published >= now.durable {
            let events = now.published.saturating_sub(baseline.positions.published);
            let took = at.saturating_sub(ended_at.min(at));
            let whole_time = at.saturating_sub(sampler.start).as_secs_f64();
            drained.drained_seconds = Some(took.as_secs_f64());
            drained.events_per_second = share(whole(events), whole_time);
            return drained;
        }
        tokio::time::sleep(TICK / 5).await;
    }
    drained
}
