//! A thread of the generator: its share of the connections, each with one request under way.

use super::answers::{Judge, Verdict};
use super::draw::{Draw, Kind, Transfer};
use super::pace::{Pacer, Schedule, Turn};
use super::requests::{Address, IdText, LookUp, TransferRequest};
use super::tally::{Tally, Times, Window};
use super::wire::{Answer, Connection, WireError};
use crate::cli::{BenchOptions, Rate, SubscribeTo};
use crate::clock::SharedClock;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Between two tries to get a connection back.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How long a closed loop waits for a busy service that names no time, and at most.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A connection that was idle for longer is looked at before it is used.
const IDLE_LOOK: Duration = Duration::from_secs(1);
/// A connection that was idle for longer is not used: the service is about to close it.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// What all threads know.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) options: BenchOptions,
    pub(super) seed: u64,
    /// That the own instance ships to.
    pub(super) topic: Option<String>,
    pub(super) socket: SocketAddr,
    pub(super) address: Address,
    pub(super) clock: SharedClock,
}

impl Plan {
    /// Whether the books count in how many transfers each wallet took part.
    pub(super) fn counts_touches(&self) -> bool {
        self.options.subscribers > 0 && self.options.subscribe_to == SubscribeTo::Wallet
    }

    /// Books of as many wallets as are audited.
    pub(super) fn tally(&self) -> Tally {
        let options = &self.options;
        let wallets = if options.no_audit { 0 } else { options.wallets };
        Tally::new(wallets, self.counts_touches())
    }

    fn draw(&self, stream: u64) -> Draw {
        let options = &self.options;
        Draw::new(
            self.seed,
            stream,
            options.wallets,
            options.choice,
            options.reads,
        )
    }

    async fn connect(&self) -> Result<Connection, WireError> {
        let clock = Arc::clone(&self.clock);
        Connection::open(self.socket, clock, self.options.timeout).await
    }
}

/// One thread's work.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) plan: Arc<Plan>,
    /// From 0; tells its connections' draws from those of others.
    pub(super) first_connection: u32,
    pub(super) connections: u32,
    pub(super) tally: Arc<Mutex<Tally>>,
    /// Told when all connections stand, or that they do not.
    pub(super) ready_tx: oneshot::Sender<Result<(), String>>,
    /// Gives the schedule once everybody is ready.
    pub(super) go_rx: oneshot::Receiver<Arc<Schedule>>,
}

impl Worker {
    /// Runs on the current thread until the schedule has ended.
    pub(super) fn run(self) {
        let built = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match built {
            Ok(runtime) => runtime.block_on(self.load()),
            Err(error) => {
                let _nobody_waits = self.ready_tx.send(Err(format!("no runtime: {error}")));
            }
        }
    }

    async fn load(self) {
        let Self {
            plan,
            first_connection,
            connections,
            tally,
            ready_tx,
            go_rx,
        } = self;
        let (opened, pacer) = match prepare(&plan, connections).await {
            Ok(prepared) => prepared,
            Err(error) => {
                let _nobody_waits = ready_tx.send(Err(error));
                return;
            }
        };
        if ready_tx.send(Ok(())).is_err() {
            return;
        }
        let Ok(schedule) = go_rx.await else { return };
        let pacer = Arc::new(pacer);
        let mut payers = JoinSet::new();
        for (connection, number) in opened.into_iter().zip(first_connection..) {
            let one = Payer {
                draw: plan.draw(u64::from(number)),
                request: TransferRequest::new(
                    &plan.address,
                    plan.seed,
                    plan.options.batch,
                    plan.options.idempotency_keys,
                ),
                balance: LookUp::balance(&plan.address, plan.seed),
                transaction: LookUp::transaction(&plan.address),
                judge: Judge::new(plan.options.batch, !plan.options.no_audit),
                transfers: Vec::with_capacity(plan.options.batch as usize),
                looked_up: None,
                connection: Some(connection),
                used_at: plan.clock.monotonic(),
                plan: Arc::clone(&plan),
                schedule: Arc::clone(&schedule),
                pacer: Arc::clone(&pacer),
                tally: Arc::clone(&tally),
            };
            payers.spawn(one.pay());
        }
        let everybody = async { while payers.join_next().await.is_some() {} };
        let stopped = async {
            schedule.stopped().await;
            pacer.release();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = everybody => {}
            () = stopped => {}
            // Released, they send early rather than never; that is told by the requests being ahead of time.
            error = pacer.run() => {
                tally.lock().wrong(&format!("timer: {error}"), 1);
                schedule.stop();
            }
        }
        pacer.release();
        while payers.join_next().await.is_some() {}
    }
}

async fn prepare(plan: &Plan, connections: u32) -> Result<(Vec<Connection>, Pacer), String> {
    let mut opened = Vec::with_capacity(connections as usize);
    for _ in 0..connections {
        opened.push(plan.connect().await.map_err(|error| error.to_string())?);
    }
    let pacer =
        Pacer::new(Arc::clone(&plan.clock)).map_err(|error| format!("no timer: {error}"))?;
    Ok((opened, pacer))
}

/// One connection's loop.
#[derive(Debug)]
struct Payer {
    plan: Arc<Plan>,
    schedule: Arc<Schedule>,
    pacer: Arc<Pacer>,
    tally: Arc<Mutex<Tally>>,
    draw: Draw,
    judge: Judge,
    request: TransferRequest,
    balance: LookUp,
    transaction: LookUp,
    /// Of the request under way.
    transfers: Vec<Transfer>,
    /// Of the look-up under way.
    looked_up: Option<IdText>,
    connection: Option<Connection>,
    used_at: Duration,
}

impl Payer {
    async fn pay(mut self) {
        let is_open_loop = self.plan.options.rate != Rate::Max;
        while let Some(Turn { number, due }) = self.schedule.next() {
            if is_open_loop {
                self.pacer.wait_until(due).await;
            }
            // Whoever has taken a turn keeps it until there is a connection: what was due does not vanish.
            let Some(mut connection) = self.connection().await else {
                let waits = self.schedule.waited(due).filter(|_| is_open_loop);
                self.tally.lock().measure_unsent(waits.into_iter());
                return;
            };
            let kind = self.choose(number);
            let sent_at = self.plan.clock.monotonic();
            let counted_from = if is_open_loop { due } else { sent_at };
            let request = match (kind, &self.looked_up) {
                (Kind::Transaction, Some(id)) => self.transaction.id(id),
                (Kind::Write, _) => self.request.fill(&self.transfers),
                (Kind::Balance | Kind::Transaction, _) => self.balance.wallet(self.draw.wallet()),
            };
            let exchanged = connection.exchange(request, sent_at).await;
            let times = Times {
                counted_from,
                answered_at: self.plan.clock.monotonic(),
            };
            self.used_at = times.answered_at;
            let pause = match exchanged {
                Ok(answer) => self.answered(kind, &answer, &connection, times),
                Err(error) => {
                    let mut tally = self.tally.lock();
                    tally.sent += 1;
                    tally.on_broken(error.word(), self.written(kind));
                    None
                }
            };
            if connection.is_usable() {
                self.connection = Some(connection);
            }
            if let Some(pause) = pause.filter(|_| !is_open_loop) {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Draws the next request, or takes the one of that number.
    fn choose(&mut self, number: u64) -> Kind {
        self.looked_up = None;
        match self.draw.kind() {
            Kind::Transaction => {
                self.looked_up = self.tally.lock().recent(&mut self.draw);
                // Before anything was acknowledged there is nothing to look up.
                if self.looked_up.is_some() {
                    Kind::Transaction
                } else {
                    Kind::Balance
                }
            }
            Kind::Balance => Kind::Balance,
            Kind::Write => {
                self.transfers.clear();
                let options = &self.plan.options;
                let first = number.saturating_mul(u64::from(options.batch));
                for offset in 0..u64::from(options.batch) {
                    let transfer = if options.fill {
                        self.draw.transfer_in_turn(first + offset)
                    } else {
                        self.draw.transfer()
                    };
                    self.transfers.push(transfer);
                }
                if options.idempotency_keys {
                    self.request.key(self.draw.bits(), self.draw.bits());
                }
                Kind::Write
            }
        }
    }

    /// The connection, a new one if the old is of no more use. Each try that nobody takes is counted; `None` when the load
    /// is over.
    async fn connection(&mut self) -> Option<Connection> {
        if self.schedule.is_stopped() {
            return None;
        }
        if let Some(connection) = self.connection.take() {
            let idle = self.plan.clock.monotonic().saturating_sub(self.used_at);
            if idle < IDLE_LOOK || (idle < IDLE_MAX && connection.is_open()) {
                return Some(connection);
            }
        }
        let since = self.plan.clock.monotonic();
        while !self.schedule.is_over() {
            // So many requests have no end by themselves while nobody takes them.
            let waited = self.plan.clock.monotonic().saturating_sub(since);
            if self.plan.options.requests_max().is_some() && waited > self.plan.options.timeout {
                self.schedule.stop();
                return None;
            }
            match self.plan.connect().await {
                Ok(connection) => return Some(connection),
                Err(error) => self.tally.lock().wrong(error.word(), 1),
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        None
    }

    /// Transfers of a request that may have had an effect.
    fn written(&self, kind: Kind) -> &[Transfer] {
        match kind {
            Kind::Write => &self.transfers,
            Kind::Balance | Kind::Transaction => &[],
        }
    }

    /// Takes an answer into the figures; how long the service wants to be left alone.
    fn answered(
        &mut self,
        kind: Kind,
        answer: &Answer,
        connection: &Connection,
        times: Times,
    ) -> Option<Duration> {
        let body = connection.body(answer);
        let verdict = match (kind, &self.looked_up) {
            (Kind::Write, _) => self.judge.write(answer.status, body),
            (Kind::Transaction, Some(id)) => Judge::transaction(answer.status, body, id),
            (Kind::Balance | Kind::Transaction, _) => Judge::balance(answer.status, body),
        };
        let looks_up = self.plan.options.reads > 0;
        let window = Window {
            from: self.schedule.counted_from(),
            to: self.schedule.end(),
        };
        let mut tally = self.tally.lock();
        tally.sent += 1;
        let items = if kind == Kind::Write {
            tally.on_write(&verdict, &self.transfers, &mut self.draw, looks_up)
        } else {
            u64::from(tally.on_read(&verdict))
        };
        if items > 0 {
            tally.measure(kind, items, times, window);
        }
        match verdict {
            Verdict::Refused { is_busy: true, .. } => {
                let told = answer
                    .retry_after
                    .map(|s| Duration::from_secs(u64::from(s)));
                Some(told.unwrap_or(BUSY_PAUSE).min(BUSY_PAUSE_MAX))
            }
            _ => None,
        }
    }
}
