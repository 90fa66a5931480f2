//! A run from its start to its result.

use super::audit::{Audit, Check, STOP};
use super::draw::Kind;
use super::drive::{Driven, Sample, asked_to_end, drive};
use super::error::LoadError;
use super::instance::{Instance, Start};
use super::machine::{Machine, Usage, is_in_memory};
use super::numbers::{share, whole};
use super::outcome::{Figures, Outcome, Processes, SCHEMA, SeriesFigures, Totals, Verdict};
use super::requests::{Address, TransferRequest};
use super::tally::Tally;
use super::worker::Plan;
use crate::cli::{BenchOptions, Choice, Exit, Rate, SubscribeTo};
use crate::clock::{Clock, SharedClock, SystemClock};
use crate::config::ToolConfig;
use crate::shutdown::{DrainToken, Shutdown};
use crate::tasks::{OnExit, Supervisor};
use crate::tools::{self, Progress, ServicePlace};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Bodies of all connections together.
const BODIES_BYTES_MAX: usize = 1 << 30;
/// The generator was the limit when it kept one of its threads busy for more than this.
const GENERATOR_BUSY: f64 = 0.95;

/// Loads, audits, and gives what was found. Blocks.
pub(super) fn run(options: &BenchOptions) -> Result<Outcome, LoadError> {
    check(options)?;
    let clock: SharedClock = Arc::new(SystemClock::new());
    let supervisor = Supervisor::new();
    let progress = Progress::new(options.json);
    let started_at = jiff_text(&*clock);
    let machine = Machine::look();
    let seed = options.seed.unwrap_or_else(|| random(&*clock) >> 32);
    let topic = options
        .kafka
        .as_ref()
        .map(|_| format!("echopay.bench-{:08x}", random(&*clock) >> 32));

    let mut warnings = Vec::new();
    let mut instance = match &options.url {
        Some(_) => None,
        None => Some(start(
            options,
            topic.as_deref(),
            &supervisor,
            &mut warnings,
        )?),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LoadError::io("start a runtime"))?;
    // To the end of the run: a signal must end it clearly also while the folder is examined.
    let shutdown = {
        let _within = runtime.enter();
        Shutdown::on_signals(&supervisor).map_err(LoadError::io("listen to signals"))?
    };
    let asked = shutdown.token();
    let (socket, address) = match (&instance, &options.url) {
        (Some(instance), _) => own(instance.address()),
        (None, url) => elsewhere(options, url.as_deref().unwrap_or_default())?,
    };
    let plan = Arc::new(Plan {
        options: options.clone(),
        seed,
        topic,
        socket,
        address,
        clock,
    });
    let driving = drive(&plan, instance.as_mut(), &asked, &supervisor, &progress);
    let mut driven = runtime.block_on(driving)?;

    let mut disk_bytes = None;
    if let Some(instance) = &mut instance {
        let examining = examine(instance, &plan, &supervisor);
        let checks = runtime.block_on(unless_asked(&asked, driven.interrupted, examining))?;
        driven.checks.extend(checks);
        disk_bytes = Some(allocated_bytes(&instance.data_dir()));
    }
    drop(runtime);
    let mut outcome = outcome(&plan, machine, started_at, driven, disk_bytes);
    outcome.warnings.splice(0..0, warnings);
    // Whoever looks into lost payments needs what is left of them.
    if let Some(instance) = &mut instance
        && outcome.audit.as_ref().is_some_and(|audit| !audit.passed)
    {
        let kept = format!(
            "the own instance's folder is kept: {}",
            instance.keep().display()
        );
        outcome.warnings.push(kept);
    }
    Ok(outcome)
}

/// `work`'s result, unless somebody asks to end a run whose load is over.
async fn unless_asked<T>(
    asked: &DrainToken,
    interrupted: bool,
    work: impl Future<Output = Result<T, LoadError>>,
) -> Result<T, LoadError> {
    tokio::select! {
        done = work => done,
        () = asked_to_end(asked, interrupted) => Err(LoadError::Interrupted),
    }
}

/// What can be wrong before anything is started.
fn check(options: &BenchOptions) -> Result<(), LoadError> {
    if let Some(report) = &options.report {
        try_to_write(report).map_err(|error| {
            let report = report.display();
            LoadError::Usage(format!(
                "--report {report}: no file can be written there: {error}"
            ))
        })?;
    }
    if let Some(dir) = options.dir.as_ref().filter(|dir| !dir.is_dir()) {
        return Err(LoadError::Usage(format!(
            "--dir {}: no such folder",
            dir.display()
        )));
    }
    let (_, address) = own(SocketAddr::from(([127, 0, 0, 1], 65_535)));
    let body = TransferRequest::new(&address, 0, options.batch, false).size_bytes();
    let bodies = body.saturating_mul(options.connections as usize);
    if bodies > BODIES_BYTES_MAX {
        return Err(LoadError::Usage(format!(
            "--batch {} on --connections {} takes {} MiB for bodies alone; at most {}",
            options.batch,
            options.connections,
            bodies >> 20,
            BODIES_BYTES_MAX >> 20
        )));
    }
    Ok(())
}

/// Opens `path` as the report will be, and leaves things as they were.
fn try_to_write(path: &Path) -> io::Result<()> {
    let is_there = path.symlink_metadata().is_ok();
    OpenOptions::new().append(true).create(true).open(path)?;
    if is_there {
        return Ok(());
    }
    std::fs::remove_file(path)
}

fn start(
    options: &BenchOptions,
    topic: Option<&str>,
    supervisor: &Supervisor,
    warnings: &mut Vec<String>,
) -> Result<Instance, LoadError> {
    let start = Start {
        dir: options.dir.as_deref(),
        kafka: options.kafka.as_deref().zip(topic),
        flags: &options.instance,
    };
    let instance = Instance::start(&start, supervisor)?;
    if is_in_memory(&instance.data_dir()) {
        warnings.push(
            "the own instance's folder is in memory, where a sync costs nothing: give a disk's by --dir".into(),
        );
    }
    Ok(instance)
}

fn own(socket: SocketAddr) -> (SocketAddr, Address) {
    let address = Address {
        authority: socket.to_string(),
        prefix: String::new(),
        authorization: None,
    };
    (socket, address)
}

fn elsewhere(options: &BenchOptions, url: &str) -> Result<(SocketAddr, Address), LoadError> {
    let place = ServicePlace::of(url)?;
    let authorization = options.token_file.as_deref().map(tools::read_bearer);
    let resolved = (place.host.as_str(), place.port).to_socket_addrs();
    let resolved: Vec<SocketAddr> = resolved.map(Iterator::collect).unwrap_or_default();
    let socket = first_that_answers(&resolved, options.timeout);
    let socket = socket.ok_or_else(|| LoadError::Unavailable {
        authority: place.authority.clone(),
        reason: "no such host".into(),
    })?;
    let address = Address {
        authority: place.authority,
        prefix: place.prefix,
        authorization: authorization.transpose()?,
    };
    Ok((socket, address))
}

/// A name may have several addresses (`localhost` has `::1` and `127.0.0.1`) with a service at one of them. The first when
/// nobody answers anywhere: what is wrong with it is told when it is asked.
fn first_that_answers(addresses: &[SocketAddr], timeout: Duration) -> Option<SocketAddr> {
    let answers = |address: &&SocketAddr| TcpStream::connect_timeout(address, timeout).is_ok();
    if addresses.len() < 2 {
        return addresses.first().copied();
    }
    let found = addresses.iter().find(answers).or(addresses.first());
    found.copied()
}

/// Stops the own instance and looks at what it leaves.
async fn examine(
    instance: &mut Instance,
    plan: &Plan,
    supervisor: &Supervisor,
) -> Result<Vec<Check>, LoadError> {
    let options = &plan.options;
    let mut checks = Vec::new();
    if let Err(reason) = instance.stop().await {
        checks.push(Check::new(STOP, false, reason));
    }
    let settings = crate::cli::Settings {
        data_dir: Some(instance.data_dir()),
        kafka_brokers: options.kafka.clone(),
        kafka_topic: plan.topic.clone(),
        ..crate::cli::Settings::default()
    };
    let config = ToolConfig::load(None, &settings).map_err(tools::ToolError::from)?;
    let with_kafka = options.kafka.is_some();
    let name = if with_kafka {
        "folder and topic"
    } else {
        "folder"
    };
    let json = options.json;
    let (done_tx, done_rx) = oneshot::channel();
    let verify = move || {
        let verified = tools::verify_folder(&config, with_kafka, &Progress::new(json));
        // Nobody waits any more: the run was ended.
        let _told = done_tx.send(verified);
    };
    supervisor
        .spawn_thread("bench-verify", OnExit::Continue, verify)
        .map_err(LoadError::io("start a thread"))?;
    let verified = done_rx.await;
    let (is_whole, found) = match verified {
        Err(_) => (false, "the check itself ended by a bug".into()),
        Ok(Ok(found)) => found,
        // The load was carried, and what it left cannot be looked at: a check that did not pass, not the end.
        Ok(Err(error)) if error.exit() != Exit::Usage => (false, error.to_string()),
        Ok(Err(error)) => return Err(error.into()),
    };
    checks.push(Check::new(name, is_whole, found));
    Ok(checks)
}

fn outcome(
    plan: &Plan,
    machine: Machine,
    started_at: String,
    driven: Driven,
    disk_bytes: Option<u64>,
) -> Outcome {
    let options = &plan.options;
    let tally = &driven.tally;
    let books = &tally.books;
    let window = driven.window;
    let seconds = window.to.saturating_sub(window.from).as_secs_f64();
    let writes = tally.seen(Kind::Write);
    let in_time: u64 = Kind::ALL
        .into_iter()
        .map(|kind| tally.seen(kind).requests_in_time)
        .sum();
    let unsent = tally.unsent;
    let mut series = SeriesFigures::of(&tally.series);
    for sample in &driven.lags {
        series.lag(sample.at_seconds, sample.subscriber_ms, sample.kafka_events);
    }
    let totals = Totals {
        requests: tally.sent,
        acknowledged_transfers: books.acknowledged,
        refused_transfers: books.refused_recorded,
        unknown_transfers: books.unknown,
        last_sequence: books.last_sequence,
    };
    let processes = processes(&driven, disk_bytes);
    let audit = (!options.no_audit).then(|| Audit::of(driven.checks));
    let (failures, warnings) = judged(
        options,
        tally,
        driven.failures,
        audit.as_ref(),
        driven.interrupted,
        (unsent, processes.generator_cores),
    );
    Outcome {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").into(),
        started_at,
        verdict: if failures.is_empty() {
            Verdict::Passed
        } else {
            Verdict::Failed
        },
        failures,
        warnings,
        interrupted: driven.interrupted,
        settings: settings(plan),
        machine,
        seconds,
        transfers_per_second: share(whole(writes.items_in_time), seconds),
        requests_per_second: share(whole(in_time), seconds),
        writes: Figures::of(writes),
        balance_reads: read_figures(&driven.tally, Kind::Balance),
        transaction_reads: read_figures(&driven.tally, Kind::Transaction),
        unsent,
        errors: tally.wrongs.clone(),
        totals,
        series,
        processes,
        idempotency_keys: driven.idempotency_keys,
        subscribers: driven.subscribers,
        kafka: driven.kafka,
        audit,
    }
}

/// Why the run failed, and what casts doubt on its figures.
fn judged(
    options: &BenchOptions,
    tally: &Tally,
    mut failures: Vec<String>,
    audit: Option<&Audit>,
    interrupted: bool,
    (unsent, generator_cores): (u64, f64),
) -> (Vec<String>, Vec<String>) {
    failures.extend(audit.into_iter().flat_map(Audit::failures));
    if !options.allow_errors {
        failures.extend(errors_of(&tally.wrongs));
    }
    let writes = tally.seen(Kind::Write);
    let nothing = writes.requests == 0 && writes.requests_in_time == 0;
    if nothing && options.reads < 100 && !interrupted {
        failures.push("no write was acknowledged in the measured time".into());
    }
    let mut warnings = Vec::new();
    if unsent > 0 {
        warnings.push(format!(
            "the rate was not reached: {unsent} requests were due and never sent"
        ));
    }
    if generator_cores > GENERATOR_BUSY * f64::from(options.threads) {
        warnings.push(
            "the generator was busy all the time: the service may do more than it could ask for"
                .into(),
        );
    }
    (failures, warnings)
}

/// What the service and the generator used for the measured load. Each share is of the time between the two looks, which
/// come some milliseconds behind the edges of the measured time.
fn processes(driven: &Driven, disk_bytes: Option<u64>) -> Processes {
    let tally = &driven.tally;
    let transfers = whole(tally.seen(Kind::Write).items_in_time);
    let requests: u64 = Kind::ALL
        .into_iter()
        .map(|kind| tally.seen(kind).requests_in_time)
        .sum();
    let (before, after): (Sample, Sample) = (driven.used.before, driven.used.after);
    let seconds = after.at.saturating_sub(before.at).as_secs_f64();
    let used = |before: Option<Usage>, after: Option<Usage>| {
        let (before, after) = (before?, after?);
        let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
        Some((cpu_seconds, after.memory_bytes_max))
    };
    let server = used(before.server, after.server);
    let generator = used(Some(before.generator), Some(after.generator));
    let (generator_cpu, generator_memory) = generator.unwrap_or_default();
    Processes {
        server_cores: server.map(|(cpu, _)| share(cpu, seconds)),
        server_cpu_us_per_transfer: server.map(|(cpu, _)| share(cpu * 1e6, transfers)),
        server_memory_bytes_max: server.map(|(_, memory)| memory),
        disk_bytes_per_transfer: disk_bytes
            .map(|bytes| share(whole(bytes), whole(tally.books.acknowledged))),
        generator_cores: share(generator_cpu, seconds),
        generator_cpu_us_per_request: share(generator_cpu * 1e6, whole(requests)),
        generator_memory_bytes_max: generator_memory,
    }
}

fn read_figures(tally: &Tally, kind: Kind) -> Option<Figures> {
    let seen = tally.seen(kind);
    (seen.requests > 0).then(|| Figures::of(seen))
}

fn errors_of(wrongs: &BTreeMap<String, u64>) -> Option<String> {
    let count: u64 = wrongs.values().sum();
    let mut most: Vec<(&String, &u64)> = wrongs.iter().collect();
    most.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let told: Vec<String> = most
        .into_iter()
        .take(3)
        .map(|(word, count)| format!("{count} × {word}"))
        .collect();
    (count > 0).then(|| format!("{count} requests or transfers failed: {}", told.join(", ")))
}

/// The settings by their options' names.
fn settings(plan: &Plan) -> BTreeMap<String, Value> {
    let options = &plan.options;
    let choice = match options.choice {
        Choice::Uniform => json!("uniform"),
        Choice::Zipf { exponent } => json!(format!("zipf:{exponent}")),
    };
    let rate = match options.rate {
        Rate::Max => json!("max"),
        Rate::PerSecond(rate) => json!(rate),
    };
    let subscribe_to = match options.subscribe_to {
        SubscribeTo::Everything => "everything",
        SubscribeTo::Wallet => "wallet",
    };
    let url = options.url.as_deref().unwrap_or("own instance");
    [
        ("service", json!(url)),
        ("connections", json!(options.connections)),
        ("rate", rate),
        ("duration-seconds", json!(options.duration.as_secs_f64())),
        ("warmup-seconds", json!(options.warmup.as_secs_f64())),
        ("requests", json!(options.requests_max())),
        ("fill", json!(options.fill)),
        ("batch", json!(options.batch)),
        ("wallets", json!(options.wallets)),
        ("choice", choice),
        ("reads", json!(options.reads)),
        ("idempotency-keys", json!(options.idempotency_keys)),
        ("seed", json!(plan.seed)),
        ("threads", json!(options.threads)),
        ("timeout-seconds", json!(options.timeout.as_secs_f64())),
        ("subscribers", json!(options.subscribers)),
        ("subscribe-to", json!(subscribe_to)),
        ("kafka", json!(options.kafka.is_some())),
        ("allow-errors", json!(options.allow_errors)),
        ("no-audit", json!(options.no_audit)),
        ("instance", json!(options.instance)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn random(clock: &dyn Clock) -> u64 {
    let mut bytes = [0; 8];
    clock.fill_random(&mut bytes);
    u64::from_be_bytes(bytes)
}

fn jiff_text(clock: &dyn Clock) -> String {
    let ms = i64::try_from(clock.now().get()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |at| at.to_string())
}

/// What the files below `folder` take on the disk.
fn allocated_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => allocated_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks().saturating_mul(512),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn of_several_addresses_the_one_where_somebody_listens_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let alive = listener.local_addr().unwrap();
        let dead = TcpListener::bind("127.0.0.1:0")
            .and_then(|nobody| nobody.local_addr())
            .unwrap();
        let found =
            |addresses: &[SocketAddr]| first_that_answers(addresses, Duration::from_secs(9));
        assert_eq!(found(&[dead, alive]), Some(alive));
        assert_eq!(found(&[alive, dead]), Some(alive));
        assert_eq!(found(&[dead, dead]), Some(dead));
        assert_eq!(found(&[]), None);
    }
}
