//! The load itself: starts the threads, watches them, waits for what streams behind, and asks whether all is there.

use super::audit::{Baseline, Check, KAFKA, SERVICE, SUBSCRIBERS, audit};
use super::control::{Control, prepare};
use super::error::LoadError;
use super::instance::Instance;
use super::machine::Usage;
use super::numbers::{floor, grouped, share, whole};
use super::outcome::{KafkaFigures, SubscriberFigures};
use super::pace::Schedule;
use super::streams::{Lag, SAMPLE_EVERY, Sampler, kafka_end, subscribers_end};
use super::subscribers::Subscribers;
use super::tally::{Tally, Window};
use super::worker::{Plan, Worker};
use crate::cli::BenchOptions;
use crate::shutdown::DrainToken;
use crate::tasks::{OnExit, Supervisor};
use crate::tools::Progress;
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// A load of so many requests lasts at most this long.
const COUNTED_DURATION: Duration = Duration::from_hours(24);
/// How often the run is looked at.
const TICK: Duration = Duration::from_millis(50);

/// What a load gave.
#[derive(Debug)]
pub(super) struct Driven {
    pub(super) tally: Tally,
    pub(super) window: Window,
    pub(super) lags: Vec<Lag>,
    pub(super) subscribers: Option<SubscriberFigures>,
    pub(super) kafka: Option<KafkaFigures>,
    pub(super) idempotency_keys: Option<String>,
    pub(super) checks: Vec<Check>,
    pub(super) failures: Vec<String>,
    pub(super) interrupted: bool,
    pub(super) used: Used,
}

/// What the processes had used when the measured time began and when it ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub(super) before: Sample,
    pub(super) after: Sample,
}

/// What the processes had used at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) at: Duration,
    /// Of the own instance.
    pub(super) server: Option<Usage>,
    pub(super) generator: Usage,
}

impl Sample {
    fn take(plan: &Plan, instance: Option<&Instance>) -> Self {
        Self {
            at: plan.clock.monotonic(),
            server: instance.and_then(Instance::usage),
            generator: Usage::own(),
        }
    }
}

/// Completes when somebody `asked` to end a run whose load is over: a load that was `interrupted` takes a second time.
pub(super) async fn asked_to_end(asked: &DrainToken, interrupted: bool) {
    if interrupted {
        asked.hurrying().await;
    } else {
        asked.draining().await;
    }
}

/// Prepares, loads and audits. What somebody `asked` ends the load early; before and behind it, everything.
pub(super) async fn drive(
    plan: &Arc<Plan>,
    instance: Option<&mut Instance>,
    asked: &DrainToken,
    supervisor: &Supervisor,
    progress: &Progress,
) -> Result<Driven, LoadError> {
    let prepared = tokio::select! {
        prepared = before(plan, supervisor, progress) => prepared?,
        // Nothing has been measured yet: there is nothing to tell.
        () = asked.draining() => return Err(LoadError::Interrupted),
    };
    let started = start_workers(plan, supervisor).await;
    let (workers, gos) = started.map_err(|reason| unavailable(plan, reason))?;

    let options = &plan.options;
    let start = plan.clock.monotonic();
    let (warmup, duration) = match options.requests_max() {
        Some(_) => (Duration::ZERO, COUNTED_DURATION),
        None => (options.warmup, options.duration),
    };
    let schedule = Schedule::new(
        Arc::clone(&plan.clock),
        start,
        warmup,
        duration,
        options.rate,
    );
    let schedule = Arc::new(schedule.of_at_most(options.requests_max()));
    for go in gos {
        // A thread that has ended is found out below.
        let _ended = go.send(Arc::clone(&schedule));
    }
    let sampler = Sampler::start(plan, &schedule, supervisor);
    let subscribers = prepared.subscribers;
    let mut watched = Watched {
        plan,
        schedule: &schedule,
        workers: &workers,
        subscribers: subscribers.as_ref(),
        sampler: &sampler,
        progress,
        failures: Vec::new(),
        interrupted: false,
    };
    let used = tokio::select! {
        used = watched.until_ended(instance, asked) => used,
        () = asked.hurrying() => return Err(LoadError::Interrupted),
    };
    let (failures, interrupted) = (watched.failures, watched.interrupted);
    let ended_at = plan.clock.monotonic();
    let window = window_of(&schedule, options, &workers);
    let mut tally = collect(plan, workers, window);
    tally.measure_unsent(schedule.untaken());
    let mut driven = Driven {
        tally,
        window,
        lags: Vec::new(),
        subscribers: None,
        kafka: None,
        idempotency_keys: prepared.idempotency_keys,
        checks: Vec::new(),
        failures,
        interrupted,
        used,
    };
    let baseline = prepared.baseline;
    let after = after(
        plan,
        &mut driven,
        subscribers,
        baseline.as_ref(),
        &sampler,
        ended_at,
        progress,
    );
    tokio::select! {
        () = after => {}
        () = asked_to_end(asked, interrupted) => return Err(LoadError::Interrupted),
    }
    driven.lags = sampler.finish();
    Ok(driven)
}

/// The measured time. A load of so many requests has measured until the last of them was answered.
fn window_of(schedule: &Schedule, options: &BenchOptions, workers: &[Running]) -> Window {
    let from = schedule.counted_from();
    let mut to = schedule.end().max(from);
    if options.requests_max().is_some() {
        let last = workers
            .iter()
            .map(|worker| worker.tally.lock().answered_last_at)
            .max();
        // What was answered at that moment lies within it.
        let behind = last
            .unwrap_or_default()
            .saturating_add(Duration::from_nanos(1));
        to = to.min(behind).max(from);
    }
    Window { from, to }
}

fn unavailable(plan: &Plan, reason: String) -> LoadError {
    LoadError::Unavailable {
        authority: plan.address.authority.clone(),
        reason,
    }
}

/// What stands before the load.
struct Prepared {
    baseline: Option<Baseline>,
    idempotency_keys: Option<String>,
    subscribers: Option<Subscribers>,
}

async fn before(
    plan: &Arc<Plan>,
    supervisor: &Supervisor,
    progress: &Progress,
) -> Result<Prepared, LoadError> {
    let options = &plan.options;
    let mut prepared = Prepared {
        baseline: None,
        idempotency_keys: None,
        subscribers: None,
    };
    if options.no_audit {
        return Ok(prepared);
    }
    let mut control = Control::new(Arc::clone(plan));
    // Says at once when nobody is there.
    control.positions().await?;
    {
        let step = progress.step("opening wallets", "wallets", u64::from(options.wallets));
        prepare(plan, |done| step.at(done)).await?;
    }
    if options.idempotency_keys {
        let heeded = control.probes_keys().await?;
        prepared.idempotency_keys = Some(if heeded {
            "heeded: a repeated transfer was answered as the first and not done again".into()
        } else {
            "ignored by the service: a repeated transfer was done twice".into()
        });
    }
    prepared.baseline = Some(Baseline::take(plan).await?);
    if options.subscribers > 0 {
        let subscribers = Subscribers::start(plan, supervisor).await;
        prepared.subscribers = Some(subscribers.map_err(|reason| unavailable(plan, reason))?);
    }
    Ok(prepared)
}

/// A thread of the generator.
#[derive(Debug)]
struct Running {
    thread: JoinHandle<()>,
    tally: Arc<Mutex<Tally>>,
}

type Go = oneshot::Sender<Arc<Schedule>>;

/// Starts the threads and waits until all their connections stand.
async fn start_workers(
    plan: &Arc<Plan>,
    supervisor: &Supervisor,
) -> Result<(Vec<Running>, Vec<Go>), String> {
    let (threads, connections) = (plan.options.threads, plan.options.connections);
    let (mut workers, mut gos, mut readies) = (Vec::new(), Vec::new(), Vec::new());
    let mut first_connection = 0;
    for number in 0..threads {
        let share = connections / threads + u32::from(number < connections % threads);
        let (ready_tx, ready_rx) = oneshot::channel();
        let (go_tx, go_rx) = oneshot::channel();
        let tally = Arc::new(Mutex::new(plan.tally()));
        let worker = Worker {
            plan: Arc::clone(plan),
            first_connection,
            connections: share,
            tally: Arc::clone(&tally),
            ready_tx,
            go_rx,
        };
        let thread = supervisor
            .spawn_thread("bench-load", OnExit::Continue, move || worker.run())
            .map_err(|error| format!("no thread: {error}"))?;
        first_connection += share;
        workers.push(Running { thread, tally });
        gos.push(go_tx);
        readies.push(ready_rx);
    }
    for ready in readies {
        ready
            .await
            .map_err(|_| "a thread of the generator ended".to_owned())??;
    }
    Ok((workers, gos))
}

/// Everything that the threads saw, as one.
fn collect(plan: &Plan, workers: Vec<Running>, window: Window) -> Tally {
    let mut all: Option<Tally> = None;
    for worker in workers {
        // A panic was logged; what was counted until then is in its tally.
        let _ended = worker.thread.join();
        let empty = Tally::new(0, false);
        let mut tally = std::mem::replace(&mut *worker.tally.lock(), empty);
        tally.finish(window);
        match &mut all {
            Some(all) => all.merge(tally),
            None => all = Some(tally),
        }
    }
    all.unwrap_or_else(|| plan.tally())
}

/// The run under way.
struct Watched<'w> {
    plan: &'w Arc<Plan>,
    schedule: &'w Arc<Schedule>,
    workers: &'w [Running],
    subscribers: Option<&'w Subscribers>,
    sampler: &'w Sampler,
    progress: &'w Progress,
    failures: Vec<String>,
    interrupted: bool,
}

impl Watched<'_> {
    /// Until all threads have ended: at their time, because somebody asked, or because the own instance died. What was
    /// used is looked at on the edges of the measured time.
    async fn until_ended(
        &mut self,
        mut instance: Option<&mut Instance>,
        asked: &DrainToken,
    ) -> Used {
        let line = self.progress.line();
        let start = Sample::take(self.plan, instance.as_deref());
        let (mut before, mut after) = (None, None);
        let mut last = (self.schedule.start(), 0);
        let mut sampled_at = Duration::ZERO;
        while self
            .workers
            .iter()
            .any(|worker| !worker.thread.is_finished())
        {
            let now = self.plan.clock.monotonic();
            let edges = [self.schedule.counted_from(), self.schedule.end()];
            let ahead = edges.into_iter().filter_map(|edge| edge.checked_sub(now));
            let nearest = ahead.filter(|ahead| !ahead.is_zero()).min();
            tokio::time::sleep(nearest.unwrap_or(TICK).min(TICK)).await;
            let now = self.plan.clock.monotonic();
            if before.is_none() && now >= self.schedule.counted_from() {
                before = Some(Sample::take(self.plan, instance.as_deref()));
            }
            if after.is_none() && now >= self.schedule.end() {
                after = Some(Sample::take(self.plan, instance.as_deref()));
            }
            if asked.is_draining() && !self.schedule.is_stopped() {
                self.interrupted = true;
                self.schedule.stop();
            }
            if let Some(instance) = instance.as_deref_mut()
                && !self.schedule.is_stopped()
                && let Some(status) = instance.ended()
            {
                let log = instance.last_words();
                self.failures.push(format!(
                    "the own instance died in mid-run, with {status}: {log}"
                ));
                self.schedule.stop();
            }
            if now >= sampled_at + SAMPLE_EVERY {
                sampled_at = now;
                if let Some(subscribers) = self.subscribers {
                    self.sampler
                        .subscriber_lag(now, subscribers.take_lag_ms_max());
                }
                last = self.tell(&line, now, last);
            }
        }
        Used {
            before: before.unwrap_or(start),
            after: after.unwrap_or_else(|| Sample::take(self.plan, instance.as_deref())),
        }
    }

    /// The progress line: how long still, and how fast since the last look.
    fn tell(
        &self,
        line: &crate::tools::Line,
        now: Duration,
        last: (Duration, u64),
    ) -> (Duration, u64) {
        let done: u64 = self
            .workers
            .iter()
            .map(|worker| worker.tally.lock().books.acknowledged)
            .sum();
        let elapsed = now.saturating_sub(last.0).as_secs_f64();
        let rate = floor(share(whole(done.saturating_sub(last.1)), elapsed));
        let left = match self.plan.options.requests_max() {
            Some(most) => {
                let answered = done / u64::from(self.plan.options.batch);
                format!("{} requests", grouped(most.saturating_sub(answered)))
            }
            None => format!("{} s", self.schedule.end().saturating_sub(now).as_secs()),
        };
        let what = if now < self.schedule.counted_from() {
            "warming up"
        } else {
            "measuring"
        };
        line.say(format!(
            "{what}: {} transfers/s, {left} left",
            grouped(rate)
        ));
        (now, done)
    }
}

/// Waits for what streams behind, and audits.
async fn after(
    plan: &Arc<Plan>,
    driven: &mut Driven,
    subscribers: Option<Subscribers>,
    baseline: Option<&Baseline>,
    sampler: &Sampler,
    ended_at: Duration,
    progress: &Progress,
) {
    let line = progress.line();
    let books = &driven.tally.books;
    if let Some(subscribers) = subscribers {
        line.say("waiting for the subscribers".into());
        let heard = subscribers_end(plan, subscribers, &driven.tally).await;
        let passed = heard.missing == 0 && heard.disordered == 0 && heard.ended.is_empty();
        let ended = heard.ended.join("; ");
        let found = format!(
            "{} updates heard, {} missing, {} out of order{}{ended}",
            grouped(heard.updates),
            grouped(heard.missing),
            grouped(heard.disordered),
            if ended.is_empty() { "" } else { "; " },
        );
        driven.checks.push(Check::new(SUBSCRIBERS, passed, found));
        driven.subscribers = Some(heard);
    }
    let Some(baseline) = baseline else { return };
    if let Some(topic) = &plan.topic {
        line.say("waiting for Kafka".into());
        let mut drained = kafka_end(plan, topic, baseline, sampler, ended_at).await;
        drained.lag_events_max = drained.lag_events_max.max(sampler.kafka_lag_max());
        let passed = drained.drained_seconds.is_some();
        let found = if passed {
            "everything durable is acknowledged"
        } else {
            "not everything is acknowledged"
        };
        driven.checks.push(Check::new(KAFKA, passed, found));
        driven.kafka = Some(drained);
    }
    line.say("checking balances".into());
    let is_alone = plan.options.url.is_none();
    match audit(plan, baseline, books, is_alone).await {
        Ok(checks) => driven.checks.extend(checks),
        Err(error) => {
            let found = format!("the service cannot be asked: {error}");
            driven.checks.push(Check::new(SERVICE, false, found));
        }
    }
}
