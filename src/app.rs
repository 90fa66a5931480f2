//! The composition: builds the parts in order, supervises them, stops them in order.
//!
//! Alone in knowing every part. The order of the start is the order of trust: what is on disk first, the listener
//! last, so that nobody is answered by half a service (its address is taken at first, so that one in use leaves no
//! trace). The order of the end is the reverse, and is written down in
//! `docs/ARCHITECTURE.md`.

mod disk;
mod probes;

use crate::auth::Access;
use crate::cli::Exit;
use crate::clock::{SharedClock, SystemClock};
use crate::config::{Config, Mode};
use crate::ids::IdCipher;
use crate::journal::{FolderLock, Journal, OpenOptions, RecoveryError, StoreError, Witness};
use crate::ledger::{CheckpointError, Ledger, Loaded, Replayed, StartError};
use crate::metrics::Metrics;
use crate::pipeline::{self, Cursor, CursorError, PipelineError, PipelineHandle, PipelineStopper};
use crate::shutdown::{DrainToken, Shutdown};
use crate::tasks::{OnExit, Supervisor};
use crate::{http, tracker, ws};
use disk::DiskSpace;
use probes::Probes;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpSocket;
use tracing::{error, info, warn};

/// How long the ledger may take to answer what stands in its queue.
const LEDGER_DRAIN: Duration = Duration::from_secs(20);
/// How long WebSocket clients may take to answer the close.
const WS_DRAIN: Duration = Duration::from_secs(5);
/// How long requests in hand may take to be answered once the process cannot go on.
const FAILED_DRAIN: Duration = Duration::from_secs(2);
/// How long the last checkpoint and the journal's close may take on top of Kafka's drain.
const CLOSE: Duration = Duration::from_mins(1);
/// Connections that may wait in the kernel to be accepted.
const BACKLOG: u32 = 1_024;
/// How much of the journal may wait for the tracker in memory before it reads the journal instead.
const TRACKER_QUEUE_BYTES: usize = 16 << 20;

/// Why the service did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The Kafka cursor cannot be read.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// The journal cannot be opened.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The books cannot be opened.
    #[error(transparent)]
    Ledger(#[from] StartError),
    /// The pipeline cannot be started.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The system refused a thread or a signal handler.
    #[error("the system refused: {0}")]
    System(#[from] io::Error),
    /// The journal failed while running.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part ended that must not end.
    #[error("{0}")]
    Failed(Arc<str>),
    /// The journal failed, or did not sync any more; see the reason.
    #[error("{0}")]
    Disk(Arc<str>),
}

impl AppError {
    /// The exit code that tells it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Pipeline(PipelineError::Config(_) | PipelineError::Kafka(_)) => Exit::Usage,
            Self::Recovery(error) => error.into(),
            Self::Checkpoint(_)
            | Self::Cursor(_)
            | Self::Ledger(StartError::ForeignCheckpoint { .. })
            | Self::Pipeline(PipelineError::ForeignCursor { .. }) => Exit::CannotCreate,
            Self::Ledger(StartError::Thread(_)) => Exit::Internal,
            Self::Ledger(_) => Exit::Damaged,
            Self::Listen { .. } => Exit::Unavailable,
            Self::Store(_) | Self::Disk(_) => Exit::Io,
            Self::System(_) | Self::Failed(_) | Self::Pipeline(PipelineError::Thread(_)) => {
                Exit::Internal
            }
        }
    }
}

/// How the journal is opened: [`Journal::open_locked`], but for `examples/plain_file.rs`.
type OpenJournal = fn(
    FolderLock,
    &crate::journal::Config,
    OpenOptions,
    SharedClock,
    &Supervisor,
) -> Result<Journal, RecoveryError>;

/// Runs the service until it is asked to stop or cannot go on. To be called once, within a multi-threaded runtime.
///
/// # Errors
/// [`AppError`]; its [`AppError::exit`] says what to tell the shell.
pub async fn run(config: Config) -> Result<(), AppError> {
    run_on(config, Journal::open_locked).await
}

/// [`run`] with the journal on plain files: what `examples/plain_file.rs` measures, and no part of the API.
///
/// # Errors
/// [`AppError`].
#[doc(hidden)]
pub async fn run_on_plain_files(config: Config) -> Result<(), AppError> {
    run_on(config, crate::journal::plain::open).await
}

async fn run_on(config: Config, open: OpenJournal) -> Result<(), AppError> {
    let supervisor = Supervisor::new();
    let shutdown = Shutdown::on_signals(&supervisor)?;
    let clock: SharedClock = Arc::new(SystemClock::new());
    let Some(running) = Running::start(&config, &clock, &supervisor, &shutdown, open)? else {
        info!("stopped");
        return Ok(());
    };
    let token = shutdown.token();
    tokio::select! {
        () = token.draining() => {
            let probes = Arc::clone(&running.probes);
            let mut stopping = Box::pin(running.stop(&supervisor, &token));
            tokio::select! {
                stopped = &mut stopping => stopped,
                reason = supervisor.failed() => {
                    let disk = probes.disk_failed();
                    abandon(stopping);
                    Err(if disk { AppError::Disk(reason) } else { AppError::Failed(reason) })
                }
            }
        }
        reason = supervisor.failed() => {
            let disk = running.probes.disk_failed();
            // Who was not answered yet shall hear that the outcome is unknown. Nothing more is owed, so this ends.
            let Running {
                ledger,
                pipeline,
                subscribers,
                http,
                probes,
                ..
            } = running;
            let drain = http.drain(tokio::time::sleep(FAILED_DRAIN));
            let _in_time = tokio::time::timeout(2 * FAILED_DRAIN, drain).await;
            abandon((ledger, pipeline, subscribers, probes));
            Err(if disk { AppError::Disk(reason) } else { AppError::Failed(reason) })
        }
    }
}

/// Gives up parts of a process that is about to end, without their drops: those join threads, which on a dead disk may
/// wait for a store that never closes.
fn abandon<T>(parts: T) {
    std::mem::forget(parts);
}

/// All parts, running.
struct Running {
    ledger: Ledger,
    pipeline: PipelineStopper,
    subscribers: ws::Endpoint,
    http: http::Server,
    probes: Arc<Probes>,
    drain_timeout: Duration,
    http_drain_timeout: Duration,
    ships_to_kafka: bool,
}

impl Running {
    /// To be called within the runtime. Blocks until the books are open; `None` when it was told to stop before that.
    fn start(
        config: &Config,
        clock: &SharedClock,
        supervisor: &Supervisor,
        shutdown: &Shutdown,
        open: OpenJournal,
    ) -> Result<Option<Self>, AppError> {
        let access = Arc::clone(&config.access);
        let metrics = Metrics::default();
        // Before anything on disk is touched, so that an address in use leaves no trace. Nobody is accepted yet.
        let socket = bind(config.listen)?;
        let opened = open_folder(open, config, clock, supervisor, &shutdown.token())?;
        let Some((cursor, journal, books)) = opened else {
            return Ok(None);
        };
        let reader = journal.reader();
        let currencies = journal.settings().currencies.clone();
        let ids = IdCipher::new(&journal.settings().id_key);
        let drain_timeout = Duration::from_millis(config.pipeline.drain_timeout_ms);
        let (pipeline, pipeline_stopper) =
            start_pipeline(config, cursor, &journal, clock, &metrics, supervisor)?;
        let follower = journal.follow("tracker", journal.durable(), TRACKER_QUEUE_BYTES);
        let ledger = Ledger::start(
            config.ledger.clone(),
            books,
            journal,
            clock,
            &metrics,
            supervisor,
        )?;
        let (tracker, _ends_with_the_journal) = tracker::start(
            config.tracker.clone(),
            follower,
            &reader,
            Arc::clone(clock),
            metrics.clone(),
            supervisor,
        )?;
        let subscribers = ws::Endpoint::new(
            config.ws.clone(),
            tracker.clone(),
            ledger.queries(),
            Arc::clone(&access),
            reader.clone(),
            Arc::clone(clock),
            metrics.clone(),
            supervisor.clone(),
        );
        let space = Arc::new(DiskSpace::new(
            &config.ledger.data_dir,
            reader.clone(),
            config.ledger.disk_reserve_bytes,
        ));
        // Before anyone is listened to: the first write already stops at the reserve.
        space.ask(&ledger.handle());
        let probes = Arc::new(Probes {
            space,
            clock: Arc::clone(clock),
            started: clock.monotonic(),
            metrics: metrics.clone(),
            reader: reader.clone(),
            ledger: ledger.handle(),
            ledger_stats: Box::new(ledger.stats()),
            pipeline: pipeline.clone(),
            tracker: tracker.clone(),
            sync_stalled: Duration::from_millis(config.ledger.sync_stalled_ms),
            sync_dead: Duration::from_millis(config.ledger.sync_dead_ms),
            draining: shutdown.token(),
            supervisor: supervisor.clone(),
        });
        disk::watch(Arc::clone(&probes), ledger.handle(), supervisor);
        reload_tokens(Arc::clone(&access), shutdown, supervisor);
        let listener = socket
            .listen(BACKLOG)
            .map_err(listen_error(config.listen))?;
        let address = listener.local_addr()?;
        let upgrades = subscribers.clone();
        let services = http::Services {
            ledger: ledger.handle(),
            queries: ledger.queries(),
            tracker,
            pipeline,
            metrics,
            access,
            clock: Arc::clone(clock),
            reader,
            ids,
            currencies,
            upgrade: Box::new(move |request, caller| {
                upgrades.upgrade(request, caller).map(http::Body::from)
            }),
            render_metrics: probes.renderer(),
            readiness: probes.readiness(),
            config: config.http.clone(),
        };
        let http = http::Server::start(listener, services, supervisor);
        announce(config, address);
        Ok(Some(Self {
            ledger,
            pipeline: pipeline_stopper,
            subscribers,
            http,
            probes,
            drain_timeout,
            http_drain_timeout: config.http.drain_timeout,
            ships_to_kafka: config.pipeline.brokers.is_some(),
        }))
    }

    /// The order: no new requests, the ledger's queue, subscribers, Kafka, checkpoint and journal. Whoever comes later
    /// needs what those before have left durable. A second signal ends each wait for others.
    async fn stop(mut self, supervisor: &Supervisor, token: &DrainToken) -> Result<(), AppError> {
        supervisor.start_drain();
        let patience = async {
            tokio::select! {
                () = tokio::time::sleep(self.http_drain_timeout) => {}
                () = token.hurrying() => {}
            }
        };
        self.http.drain(patience).await;
        let ledger = tokio::task::spawn_blocking(move || {
            let drained = self.ledger.drain(LEDGER_DRAIN);
            (self.ledger, drained)
        });
        let (ledger, drained) = ledger.await.map_err(io::Error::other)?;
        if !drained {
            error!("the ledger did not answer its queue in time");
        }
        tokio::select! {
            _cut_off = self.subscribers.drain(WS_DRAIN) => {}
            () = token.hurrying() => {}
        }
        let (pipeline, drain_timeout) = (self.pipeline, self.drain_timeout);
        let hurry_pipeline = pipeline.hurrier();
        let shipping = self.probes.pipeline.clone();
        let closing = tokio::task::spawn_blocking(move || {
            let lag_events = shipping.status().lag_events;
            if self.ships_to_kafka && lag_events > 0 {
                info!(
                    lag_events,
                    ?drain_timeout,
                    "waiting for Kafka's acknowledgements"
                );
            }
            if !pipeline.stop(drain_timeout) && self.ships_to_kafka {
                warn!("some events wait in the journal for Kafka; the next start ships them");
            }
            ledger.close()
        });
        let mut closing = pin!(tokio::time::timeout(drain_timeout + CLOSE, closing));
        let closed = tokio::select! {
            closed = &mut closing => closed,
            () = token.hurrying() => {
                hurry_pipeline();
                closing.await
            }
        };
        let Ok(closed) = closed else {
            return Err(AppError::Disk(
                "the last checkpoint did not reach the disk in time".into(),
            ));
        };
        closed.map_err(io::Error::other)??;
        if !drained {
            return Err(AppError::Disk(
                "the ledger did not answer its queue in time".into(),
            ));
        }
        info!("stopped");
        Ok(())
    }
}

/// Takes the address; whoever connects is refused until the socket listens.
fn bind(address: SocketAddr) -> Result<TcpSocket, AppError> {
    let bound = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // The last process's connections may linger; one that still listens is refused all the same.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    bound().map_err(listen_error(address))
}

fn listen_error(address: SocketAddr) -> impl FnOnce(io::Error) -> AppError {
    move |source| AppError::Listen { address, source }
}

/// What the data folder holds; `None`, with everything closed in order, when the process was told to stop meanwhile.
fn open_folder(
    open: OpenJournal,
    config: &Config,
    clock: &SharedClock,
    supervisor: &Supervisor,
    stopping: &DrainToken,
) -> Result<Option<(Option<Cursor>, Journal, Replayed)>, AppError> {
    // Before anything in it is read: a process that is just ending may write there to the last.
    let folder = Journal::lock(&config.journal)?;
    let cursor = Cursor::load(&config.journal.data_dir)?;
    let loaded = Loaded::read(&config.ledger)?;
    let of_cursor = cursor.as_ref().map(|cursor| cursor.witness);
    let witnesses = of_cursor.into_iter().chain(loaded.witness()).collect();
    let journal = open_journal(open, folder, config, witnesses, clock, supervisor)?;
    let replayed = loaded.replay(&journal, clock, &|| stopping.is_draining())?;
    let Some(books) = replayed else {
        supervisor.start_drain();
        journal.close()?;
        return Ok(None);
    };
    Ok(Some((cursor, journal, books)))
}

fn open_journal(
    open: OpenJournal,
    folder: FolderLock,
    config: &Config,
    witnesses: Vec<Witness>,
    clock: &SharedClock,
    supervisor: &Supervisor,
) -> Result<Journal, RecoveryError> {
    let options = OpenOptions {
        dev: config.mode == Mode::Dev,
        accept_dev_store: config.accept_dev_store,
        currencies: config.currencies.clone(),
        witnesses,
    };
    let started = clock.monotonic();
    let journal = open(
        folder,
        &config.journal,
        options,
        Arc::clone(clock),
        supervisor,
    )?;
    let took = clock.monotonic().saturating_sub(started);
    info!(durable = %journal.durable(), ?took, "the journal is open");
    Ok(journal)
}

fn start_pipeline(
    config: &Config,
    cursor: Option<Cursor>,
    journal: &Journal,
    clock: &SharedClock,
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> Result<(PipelineHandle, PipelineStopper), PipelineError> {
    let sources = pipeline::Sources {
        data_dir: &config.journal.data_dir,
        cursor,
        follow: &|after, queue_bytes| journal.follow("pipeline", after, queue_bytes),
        reader: journal.reader(),
        ids: IdCipher::new(&journal.settings().id_key),
        currencies: journal.settings().currencies.clone(),
        clock: Arc::clone(clock),
        metrics: metrics.clone(),
        supervisor,
    };
    pipeline::start(config.pipeline.clone(), sources)
}

fn reload_tokens(access: Arc<Access>, shutdown: &Shutdown, supervisor: &Supervisor) {
    let mut reloads = shutdown.reloads();
    supervisor.spawn_task("tokens", OnExit::Continue, async move {
        loop {
            reloads.next().await;
            match access.reload() {
                Ok(tokens) => info!(tokens, "read the tokens file again"),
                Err(cause) => error!(%cause, "the tokens file was not read; the old tokens stay"),
            }
        }
    });
}

/// The first line on stdout is an interface: it says that the service is ready, and where. A closed stdout is no reason
/// to stop.
fn announce(config: &Config, address: SocketAddr) {
    let mut out = io::stdout().lock();
    let mut told = writeln!(out, "listening on http://{address}");
    if config.mode == Mode::Dev {
        told = told
            .and_then(|()| writeln!(out, "  transactions  http://{address}/api/v1/transactions"))
            .and_then(|()| writeln!(out, "  events        http://{address}/api/v1/events"))
            .and_then(|()| writeln!(out, "  updates       ws://{address}/ws/transactions"))
            .and_then(|()| writeln!(out, "  metrics       http://{address}/metrics"));
    }
    let _closed_stdout = told.and_then(|()| out.flush());
    info!(%address, data_dir = %config.journal.data_dir.display(), "ready");
}
