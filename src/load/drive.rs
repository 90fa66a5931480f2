//! The load itself: starts the threads, watches them, waits for what streams behind, and asks whether all is there.

use super::audit::{Baseline, Check, SERVICE, audit};
use super::control::{Control, prepare};
use super::error::LoadError;
use super::instance::Instance;
use super::machine::Usage;
use super::numbers::{floor, grouped, share, whole};
use super::pace::Schedule;
use super::subscribers::Subscribers;
use super::tally::{Tally, Window};
use super::worker::{Plan, Worker};
use crate::shutdown::{DrainToken, Shutdown};
use crate::tasks::{OnExit, Supervisor};
use crate::tools::Progress;
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often the run is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often lags are looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// Until what streams behind counts as not coming: without any progress for so long.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// What a load gave.
#[derive(Debug)]
pub(super) struct Driven {
    pub(super) tally: Tally,
    pub(super) window: Window,
    pub(super) unsent: u64,
    pub(super) lags: Vec<Lag>,
    pub(super) subscribers: Option<HeardFigures>,
    pub(super) kafka: Option<Drained>,
    pub(super) idempotency_keys: Option<String>,
    pub(super) checks: Vec<Check>,
    pub(super) failures: Vec<String>,
    pub(super) interrupted: bool,
    pub(super) server_before: Option<Usage>,
    pub(super) server_after: Option<Usage>,
    pub(super) generator_before: Usage,
    pub(super) generator_after: Usage,
}

/// How far the streams were behind at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lag {
    /// Of the measured time.
    pub(super) at_seconds: f64,
    pub(super) subscriber_ms: Option<u64>,
    pub(super) kafka_events: Option<u64>,
}

/// What the subscribers heard, summed up.
#[derive(Debug)]
pub(super) struct HeardFigures {
    pub(super) updates: u64,
    pub(super) missing: u64,
    pub(super) disordered: u64,
    pub(super) resumes: u64,
    pub(super) ended: Vec<String>,
    pub(super) lag_ms_p50: u64,
    pub(super) lag_ms_p99: u64,
    pub(super) lag_ms_max: u64,
}

/// How Kafka kept up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drained {
    pub(super) lag_events_max: u64,
    /// `None`: not everything got there.
    pub(super) after_seconds: Option<f64>,
    pub(super) events_per_second: f64,
}

/// Prepares, loads and audits.
pub(super) async fn drive(
    plan: &Arc<Plan>,
    mut instance: Option<&mut Instance>,
    supervisor: &Supervisor,
    progress: &Progress,
) -> Result<Driven, LoadError> {
    let shutdown = Shutdown::on_signals(supervisor).map_err(LoadError::io("listen to signals"))?;
    let asked = shutdown.token();
    let prepared = tokio::select! {
        prepared = before(plan, supervisor, progress) => prepared?,
        // Nothing has been measured yet: there is nothing to tell.
        () = asked.draining() => return Err(LoadError::Interrupted),
    };
    let started = start_workers(plan, supervisor).await;
    let (workers, gos) = started.map_err(|reason| unavailable(plan, reason))?;

    let options = &plan.options;
    let start = plan.clock.monotonic();
    let schedule = Schedule::new(
        Arc::clone(&plan.clock),
        start,
        options.warmup,
        options.duration,
        options.rate,
    );
    let schedule = Arc::new(schedule);
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
        server_before: None,
        generator_before: Usage::default(),
    };
    tokio::select! {
        () = watched.until_ended(instance.as_deref_mut(), &asked) => {}
        () = asked.hurrying() => return Err(LoadError::Interrupted),
    }
    let (failures, interrupted) = (watched.failures, watched.interrupted);
    let (server_before, generator_before) = (watched.server_before, watched.generator_before);
    let (server_after, generator_after) =
        (instance.as_deref().and_then(Instance::usage), Usage::own());
    let ended_at = plan.clock.monotonic();
    let window = Window {
        from: schedule.counted_from(),
        to: schedule.end().max(schedule.counted_from()),
    };
    let mut tally = collect(plan, workers, window);
    let unsent = tally.measure_unsent(schedule.unsent());
    let mut driven = Driven {
        tally,
        window,
        unsent,
        lags: Vec::new(),
        subscribers: None,
        kafka: None,
        idempotency_keys: prepared.idempotency_keys,
        checks: Vec::new(),
        failures,
        interrupted,
        server_before,
        server_after,
        generator_before,
        generator_after,
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
        () = asked.hurrying() => return Err(LoadError::Interrupted),
    }
    driven.lags = sampler.finish();
    Ok(driven)
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
        let tally = Tally::new(plan.options.wallets, plan.counts_touches());
        let tally = Arc::new(Mutex::new(tally));
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
    all.unwrap_or_else(|| Tally::new(plan.options.wallets, false))
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
    server_before: Option<Usage>,
    generator_before: Usage,
}

impl Watched<'_> {
    /// Until all threads have ended: at their time, because somebody asked, or because the own instance died.
    async fn until_ended(&mut self, mut instance: Option<&mut Instance>, asked: &DrainToken) {
        let line = self.progress.line();
        let mut is_measuring = false;
        let mut last = (self.schedule.start(), 0);
        let mut sampled_at = Duration::ZERO;
        while self
            .workers
            .iter()
            .any(|worker| !worker.thread.is_finished())
        {
            tokio::time::sleep(TICK).await;
            let now = self.plan.clock.monotonic();
            if !is_measuring && now >= self.schedule.counted_from() {
                is_measuring = true;
                self.generator_before = Usage::own();
                self.server_before = instance.as_deref().and_then(Instance::usage);
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
        let left = self.schedule.end().saturating_sub(now).as_secs();
        let what = if now < self.schedule.counted_from() {
            "warming up"
        } else {
            "measuring"
        };
        line.say(format!(
            "{what}: {} transfers/s, {left} s left",
            grouped(rate)
        ));
        (now, done)
    }
}

/// Looks at lags beside the load.
#[derive(Debug)]
struct Sampler {
    start: Duration,
    counted_from: Duration,
    samples: Arc<Mutex<Vec<Lag>>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Sampler {
    fn start(plan: &Arc<Plan>, schedule: &Arc<Schedule>, supervisor: &Supervisor) -> Self {
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

    fn subscriber_lag(&self, at: Duration, lag_ms: u64) {
        push(&self.samples, self.counted_from, at, Some(lag_ms), None);
    }

    fn kafka_lag_max(&self) -> u64 {
        let samples = self.samples.lock();
        samples
            .iter()
            .filter_map(|lag| lag.kafka_events)
            .max()
            .unwrap_or(0)
    }

    fn finish(&self) -> Vec<Lag> {
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
        driven.checks.push(Check::new("subscribers", passed, found));
        driven.subscribers = Some(heard);
    }
    let Some(baseline) = baseline else { return };
    if plan.options.kafka.is_some() {
        line.say("waiting for Kafka".into());
        let mut drained = kafka_end(plan, baseline, sampler, ended_at).await;
        drained.lag_events_max = drained.lag_events_max.max(sampler.kafka_lag_max());
        let passed = drained.after_seconds.is_some();
        let found = if passed {
            "everything durable is acknowledged"
        } else {
            "not everything is acknowledged"
        };
        driven.checks.push(Check::new("kafka", passed, found));
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

async fn subscribers_end(plan: &Plan, subscribers: Subscribers, tally: &Tally) -> HeardFigures {
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
    HeardFigures {
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
async fn kafka_end(
    plan: &Arc<Plan>,
    baseline: &Baseline,
    sampler: &Sampler,
    ended_at: Duration,
) -> Drained {
    let mut control = Control::new(Arc::clone(plan));
    let mut drained = Drained {
        lag_events_max: sampler.kafka_lag_max(),
        after_seconds: None,
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
            drained.after_seconds = Some(took.as_secs_f64());
            drained.events_per_second = share(whole(events), whole_time);
            return drained;
        }
        tokio::time::sleep(TICK / 5).await;
    }
    drained
}
