//! The ledger whole, on stores that fail when told to and on checkpoint files of its own: opened, asked, crashed.
//!
//! A [`World`] is what lies on disk and what the model says of it. A crash takes a copy of the disk, as the crash leaves
//! it, for the next start; the process that crashed is then left to end in a folder that is gone.

use super::books::{Books, BooksWriter, apply};
use super::checkpoint::{Checkpointer, Written};
use super::command::{AmendCommand, BatchItem, Change, Command, MovementRequest, OpenWallet};
use super::error::SubmitError;
use super::fault_model::{Answer, Model};
use super::naive::{Op, USD, WALLETS, every_row, minor, request, rules, wallet};
use super::{Config, Ledger, Loaded, Suspension};
use crate::clock::{Clock, ManualClock, SharedClock};
use crate::journal::faulty::{Fault, FaultyOpener, Lane, Plan, unobserved};
use crate::journal::memory::{Crash, MemOpener, Random};
use crate::journal::{
    self, Entry, Follower, Journal, JournalReader, OpenOptions, Opener, RecoveryError, SledOpener,
};
use crate::metrics::Metrics;
use crate::tasks::Supervisor;
use crate::types::{Currencies, Sequence, Status, TimestampMs, WalletId};
use crossbeam_channel::{Sender, bounded};
use futures_util::future::{MaybeDone, maybe_done};
use std::fs;
use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often a test looks whether something stands still.
const TICK: Duration = Duration::from_micros(200);
/// So long something that the background thread holds up is waited for.
const STANDSTILL: Duration = Duration::from_millis(20);
/// Pages of a volume: few, so that the scripts rotate.
const VOLUME_PAGES: u64 = 6;
/// Length of the log: so short that it fills up.
const WAL_BYTES: u64 = 6 * 4_096;
/// Metadata of a batch's items, so that two of them fill a page.
const WIDE_BYTES: usize = 1_900;

/// The lanes without which nothing is written for long.
const WRITING: [Lane; 2] = [Lane::Writer, Lane::Drain];

/// One thing that is done to an open ledger.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Do(Op),
    /// The first in one group, the others in the next.
    Together(Vec<Op>),
    /// The last command once more, word by word.
    Repeat,
    Checkpoint,
}

/// How a ledger's run ends that nothing befell.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Stop,
    Crash(Crash),
    /// While a checkpoint was written: each file is the new one or the old one.
    CrashInCheckpoint(u64),
}

/// Whether the ledger goes on.
#[derive(Debug)]
pub(super) enum Flow {
    Up,
    /// These commands got no answer, or were told that their outcome is unknown.
    Down(Vec<Command>),
}

/// Files, stores, time, and the model of what they hold.
#[derive(Debug)]
pub(super) struct World {
    root: Arc<TempDir>,
    folders: Arc<AtomicU64>,
    pub(super) folder: PathBuf,
    disk: Disk,
    clock: Arc<ManualClock>,
    pub(super) model: Model,
}

/// What holds the pages.
#[derive(Clone, Debug)]
enum Disk {
    Memory(Arc<MemOpener>),
    /// Files that are copied as the process sees them: every crash is a kill.
    Sled,
}

impl Disk {
    fn opener(&self) -> Arc<dyn Opener> {
        match self {
            Self::Memory(opener) => Arc::clone(opener) as _,
            Self::Sled => Arc::new(SledOpener),
        }
    }

    fn after(&self, crash: Crash, from: &Path, to: &Path) -> Self {
        match self {
            Self::Memory(opener) => Self::Memory(Arc::new(opener.after(crash, from, to))),
            Self::Sled => Self::Sled,
        }
    }
}

/// An open ledger.
pub(super) struct Live {
    ledger: Ledger,
    pub(super) reader: JournalReader,
    follower: Follower,
    /// Where the journal ended at the start; the follower tells the rest.
    opened_at: Sequence,
    supervisor: Supervisor,
    pub(super) plan: Arc<Plan>,
    checkpointer: Checkpointer,
    _checkpoint_stop_tx: Sender<()>,
    written: Written,
    last: Option<Command>,
    runtime: Runtime,
}

/// How work ended that may fail in any way.
enum Ended<T> {
    With(T),
    Panicked,
    /// It stands still, on a thread that is left to itself.
    Frozen,
}

/// Runs `work` on a thread called `name` until it ends or stands still.
fn watched<T: Send + 'static>(
    plan: &Plan,
    name: &str,
    lanes: &[Lane],
    work: impl FnOnce() -> T + Send + 'static,
) -> Ended<T> {
    let thread = std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .unwrap();
    let mut waited = Duration::ZERO;
    let mut frozen = Duration::ZERO;
    while !thread.is_finished() {
        std::thread::sleep(TICK);
        waited += TICK;
        assert!(waited < PATIENCE, "{name} does not end");
        if lanes.iter().any(|lane| plan.is_frozen(*lane)) {
            frozen += TICK;
            if frozen >= STANDSTILL {
                return Ended::Frozen;
            }
        }
    }
    thread.join().map_or(Ended::Panicked, Ended::With)
}

impl World {
    /// Nothing on a disk that forgets.
    pub(super) fn new() -> Self {
        Self::on(Disk::Memory(Arc::default()))
    }

    /// Nothing on disk, and stores of the real kind to come.
    pub(super) fn of_sled() -> Self {
        Self::on(Disk::Sled)
    }

    fn on(disk: Disk) -> Self {
        // Why in memory where it can be: what these files lose in a crash is not tested here, and syncs cost time.
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let root = root.unwrap();
        let folder = root.path().join("0");
        let clock = ManualClock::new(TimestampMs::new(1_000), 7);
        clock.advance(Duration::from_millis(1));
        Self {
            root: Arc::new(root),
            folders: Arc::new(AtomicU64::new(1)),
            folder,
            disk,
            clock: Arc::new(clock),
            model: Model::default(),
        }
    }

    fn next_folder(&self) -> PathBuf {
        let number = self.folders.fetch_add(1, Ordering::Relaxed);
        self.root.path().join(number.to_string())
    }

    /// The same once more, while nobody has it open.
    pub(super) fn copy(&self) -> Self {
        let folder = self.next_folder();
        copy_folder(&self.folder, &folder);
        let clock = ManualClock::new(self.clock.now(), 7);
        clock.advance(Duration::from_millis(1));
        Self {
            root: Arc::clone(&self.root),
            folders: Arc::clone(&self.folders),
            disk: self.disk.after(Crash::Kill, &self.folder, &folder),
            clock: Arc::new(clock),
            model: self.model.clone(),
            folder,
        }
    }

    fn config(&self) -> Config {
        let rules = rules();
        Config {
            data_dir: self.folder.clone(),
            open_holds_max: rules.open_holds_max,
            audit_entries_max: rules.audit_entries_max,
            // The tests tell when.
            checkpoint_interval_ms: 86_400_000,
            ..Config::default()
        }
    }

    /// Opens the ledger as the service does. `None` when it could not be opened; [`World::crash`] is next then.
    pub(super) fn open(&self, plan: &Arc<Plan>) -> Option<Live> {
        self.open_or_why(plan).ok()
    }

    /// Opens the ledger, which nothing may prevent.
    #[track_caller]
    pub(super) fn reopen(&self) -> Live {
        match self.open_or_why(&Arc::default()) {
            Ok(live) => live,
            Err(why) => panic!("cannot be opened after a crash: {why}"),
        }
    }

    fn open_or_why(&self, plan: &Arc<Plan>) -> Result<Live, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        let config = self.config();
        let clock: SharedClock = Arc::<ManualClock>::clone(&self.clock);
        let opener = FaultyOpener::new(self.disk.opener(), Arc::clone(plan));
        let supervisor = Supervisor::new();
        let (of_ledger, clock_of_ledger) = (supervisor.clone(), Arc::clone(&clock));
        let work = move || {
            let _in_runtime = handle.enter();
            let (supervisor, clock) = (of_ledger, clock_of_ledger);
            let loaded = Loaded::read(&config).map_err(|error| error.to_string())?;
            let options = OpenOptions {
                dev: false,
                accept_dev_store: false,
                currencies: Currencies::default(),
                witnesses: loaded.witness().into_iter().collect(),
            };
            let journal_config = journal::Config {
                volume_pages_max: VOLUME_PAGES,
                wal_bytes: WAL_BYTES,
                ..journal::Config::new(&config.data_dir)
            };
            let journal = Journal::open_with(
                &journal_config,
                options,
                Arc::clone(&clock),
                &supervisor,
                Arc::new(opener),
            )
            .map_err(|error| error.to_string())?;
            let reader = journal.reader();
            let follower = journal.follow("test", journal.durable(), 64 << 20);
            let metrics = Metrics::default();
            let replayed = loaded.replay(&journal, &clock, &|| false);
            let books = replayed.map_err(|error| error.to_string())?.unwrap();
            let ledger = Ledger::start(config, books, journal, &clock, &metrics, &supervisor)
                .map_err(|error| error.to_string())?;
            Ok::<_, String>((ledger, reader, follower))
        };
        let (ledger, reader, follower) = match watched(plan, "opening", &WRITING, work) {
            Ended::With(found) => found?,
            Ended::Panicked => return Err("a panic".into()),
            Ended::Frozen => return Err("it stands still".into()),
        };
        let (stop_tx, stop_rx) = bounded(1);
        let checkpointer = Checkpointer {
            config: self.config(),
            books: ledger.books(),
            reader: reader.clone(),
            clock,
            metrics: Metrics::default(),
            stop_rx,
        };
        Ok(Live {
            ledger,
            reader,
            opened_at: follower.position(),
            follower,
            supervisor,
            plan: Arc::clone(plan),
            written: checkpointer.nothing_written(),
            checkpointer,
            _checkpoint_stop_tx: stop_tx,
            last: None,
            runtime,
        })
    }

    /// The process dies, or the power goes: goes on with what is left on disk.
    pub(super) fn crash(&mut self, live: Option<Live>, plan: &Plan, crash: Crash) {
        if matches!(self.disk, Disk::Sled) {
            // Real files are copied one after the other, while the log is drained.
            plan.end_and_wait();
        }
        let next = self.next_folder();
        let dead = std::mem::replace(&mut self.folder, next);
        copy_folder(&dead, &self.folder);
        self.disk = self.disk.after(crash, &dead, &self.folder);
        plan.end();
        bury(&dead);
        drop(live);
    }

    /// A crash in the middle of a checkpoint: of its files a random part is the new one, beside half a new one.
    pub(super) fn crash_in_checkpoint(&mut self, mut live: Live, seed: u64) {
        let before = self.next_folder();
        let folder = |root: &Path| root.join("checkpoint");
        fs::create_dir_all(folder(&self.folder)).unwrap();
        copy_folder(&folder(&self.folder), &before);
        live.checkpoint();
        let plan = Arc::clone(&live.plan);
        self.crash(Some(live), &plan, Crash::Torn(seed));
        let mut random = Random(seed);
        for file in names(&folder(&self.folder)) {
            if file == "round" || random.bit() {
                let path = folder(&self.folder).join(&file);
                let bytes = fs::read(&path).unwrap();
                fs::remove_file(&path).unwrap();
                let half = path.with_extension("tmp");
                fs::write(half, &bytes[..bytes.len() / 2]).unwrap();
                if before.join(&file).exists() {
                    fs::copy(before.join(&file), path).unwrap();
                }
            }
        }
        fs::remove_dir_all(before).unwrap();
    }

    /// Stops in order. `false` when it did not end in order; [`World::crash`] is next then.
    pub(super) fn stop(live: Live) -> bool {
        let Live {
            mut ledger,
            supervisor,
            plan,
            runtime,
            ..
        } = live;
        supervisor.start_drain();
        let work = move || ledger.drain(PATIENCE) && ledger.close().is_ok();
        let ended = watched(&plan, "closing", &Lane::ALL, work);
        drop(runtime);
        matches!(ended, Ended::With(true))
    }

    /// Looks at what a start found after a crash, and holds everything against the model.
    #[track_caller]
    pub(super) fn settle(&mut self, live: &mut Live, doubtful: &[Command]) {
        unobserved(|| self.settle_unobserved(live, doubtful));
    }

    #[track_caller]
    fn settle_unobserved(&mut self, live: &mut Live, doubtful: &[Command]) {
        let mut entries = Vec::new();
        let replayed = live
            .reader
            .replay(Sequence::ORIGIN, &mut |entry| entries.push(entry.clone()));
        replayed.unwrap();
        entries.retain(|entry| entry.first <= live.opened_at);
        let known = self.model.entries.len();
        assert!(
            entries.len() >= known,
            "the journal ends at {}, but {} was acknowledged",
            live.reader.durable().get(),
            self.model.durable()
        );
        let found = entries.split_off(known);
        assert_eq!(entries, self.model.entries, "what was told has changed");
        self.model.absorb_found(doubtful, found);
        // Holds whose time came while nobody was there expire by themselves.
        let now_ms = self.clock.now().get();
        wait_until("a hold expires", || {
            self.model.absorb(&[], live.news(), now_ms);
            !self.model.is_due(now_ms)
        });
        // Followers hear of a group a moment before the books have it.
        let books = live.ledger.books();
        wait_until("the books follow", || books.as_of() == self.model.durable());
        self.check(live);
    }

    /// Holds what the ledger says against the model.
    #[track_caller]
    fn check(&self, live: &Live) {
        let (naive, queries) = (&self.model.naive, live.ledger.queries());
        assert_eq!(live.reader.durable().get(), self.model.durable());
        let verified = live.reader.verify().unwrap();
        assert_eq!(verified.entries, self.model.entries.len() as u64);
        let replayed = Books::new();
        for entry in &self.model.entries {
            apply(&mut BooksWriter(&replayed), entry);
        }
        let books = live.ledger.books();
        assert_eq!(
            every_row(&books),
            every_row(&replayed),
            "books are no replay"
        );
        assert!(books.totals().iter().all(|total| total.sum_minor == 0));
        assert_eq!(books.wrongly_held(), None);
        for (id, expected) in &naive.accounts {
            let seen = queries.balance(*id, USD);
            let seen = (seen.balance.get(), seen.held.get());
            assert_eq!(seen, (expected.balance, expected.held), "wallet {id}");
        }
        live.runtime.block_on(async {
            let pending = queries.pending(100, |_, _| true).await.unwrap();
            let pending: Vec<_> = pending.transactions.iter().map(|t| t.id).collect();
            let open = naive
                .transactions
                .iter()
                .filter(|t| t.status == Status::Pending);
            assert_eq!(pending, open.map(|t| t.id).collect::<Vec<_>>());
            let wallets = (0..WALLETS).map(wallet).chain([WalletId::issuer(USD)]);
            for id in wallets {
                let history = queries.history(id, None, 0, 1_000).await.unwrap();
                let seen: Vec<_> = history
                    .transactions
                    .iter()
                    .map(|t| (t.id, t.amount.get(), t.status, t.fraud_score))
                    .collect();
                let expected = naive.transactions.iter().rev();
                let expected: Vec<_> = expected
                    .filter(|t| t.from == id || t.to == id)
                    .map(|t| (t.id, t.amount, t.status, t.score))
                    .collect();
                assert_eq!(seen, expected, "history of {id}");
            }
        });
    }

    /// Does `step`, and holds the answers against the model.
    #[track_caller]
    pub(super) fn step(&mut self, live: &mut Live, step: &Step) -> Flow {
        match step {
            Step::Do(Op::Wait { ms }) => {
                self.clock.advance(Duration::from_millis(*ms));
                Flow::Up
            }
            Step::Do(op) => match live.command(&self.model, op) {
                Ok(command) => self.ask(live, command.into_iter().collect()),
                Err(StandsStill) => Flow::Down(Vec::new()),
            },
            Step::Together(ops) => {
                let mut commands = Vec::new();
                for op in ops {
                    match live.command(&self.model, op) {
                        Ok(command) => commands.extend(command),
                        Err(StandsStill) => return Flow::Down(Vec::new()),
                    }
                }
                self.ask(live, commands)
            }
            Step::Repeat => self.ask(live, live.last.clone().into_iter().collect()),
            Step::Checkpoint => {
                live.checkpoint();
                Flow::Up
            }
        }
    }

    #[track_caller]
    fn ask(&mut self, live: &mut Live, mut commands: Vec<Command>) -> Flow {
        if commands.is_empty() {
            return Flow::Up;
        }
        live.last = commands.last().cloned();
        let answers = live.submit(&commands);
        let later = commands.split_off(answers.len());
        let is_told = |answer: &Option<Answer>| {
            let silent = [
                matches!(answer, Some(Err(SubmitError::Unknown))),
                matches!(answer, Some(Err(SubmitError::Unavailable))),
                answer.is_none(),
            ];
            !silent.contains(&true)
        };
        let told = answers.iter().take_while(|answer| is_told(answer)).count();
        let heard: Vec<(Command, Answer)> = commands
            .iter()
            .zip(&answers[..told])
            .map(|(command, answer)| (command.clone(), answer.clone().unwrap()))
            .collect();
        let news = live.news();
        self.model.absorb(&heard, news, self.clock.now().get());
        if told == commands.len() {
            assert!(
                !live.plan.has_fired(Lane::Writer),
                "answered in spite of it"
            );
            return self.ask(live, later);
        }
        let has_fired = WRITING.iter().any(|lane| live.plan.has_fired(*lane));
        assert!(has_fired, "not answered: {answers:?}");
        assert!(!answers[told..].iter().any(is_told), "{answers:?}");
        self.assert_nothing_more_is_said(live);
        // The first stood in a group of its own, and with it the others were never taken.
        let doubtful = if told == 0 { 1 } else { commands.len() };
        Flow::Down(commands[told..doubtful].to_vec())
    }

    /// After a fault, or while a call stands still: nothing is acknowledged, published or taken any more.
    #[track_caller]
    fn assert_nothing_more_is_said(&self, live: &mut Live) {
        let probe = Command::Issue(request(0, 0, 1, false));
        let handle = live.ledger.handle();
        if live.is_frozen() {
            let age = live.reader.sync_age();
            self.clock.advance(Duration::from_secs(6));
            assert_eq!(live.reader.sync_age(), age + Duration::from_secs(6));
            // What the watchdog does at that age.
            handle.suspend(Some(Suspension::DiskStalled));
            let refused = live.runtime.block_on(handle.submit(probe));
            assert!(
                matches!(refused, Err(SubmitError::Unavailable)),
                "{refused:?}"
            );
        } else {
            let refused = live.runtime.block_on(handle.submit(probe));
            // Unknown for one that is queued while the thread ends; it is not recorded all the same.
            assert!(
                matches!(
                    refused,
                    Err(SubmitError::Unavailable | SubmitError::Unknown)
                ),
                "{refused:?}"
            );
            wait_until("the process stops after a fault", || {
                live.supervisor.failure().is_some()
            });
        }
        assert_eq!(live.news(), []);
        assert_eq!(live.reader.durable().get(), self.model.durable());
        assert_eq!(live.reader.witness().durable, self.model.durable());
    }
}

/// A query does not come back, since the volume it needs is being opened.
struct StandsStill;

impl Live {
    /// What `op` asks for; `None` if it asks for nothing.
    fn command(&self, model: &Model, op: &Op) -> Result<Option<Command>, StandsStill> {
        let wide = |&(from, to, amount, hold): &(u8, u8, i64, bool)| {
            let text = format!("{{\"w\":\"{}\"}}", "x".repeat(WIDE_BYTES));
            BatchItem::Transfer(MovementRequest {
                metadata: Some(text.into()),
                ..request(from, to, amount, hold)
            })
        };
        Ok(Some(match *op {
            Op::Open {
                wallet: number,
                overdraft,
            } => Command::OpenWallet(OpenWallet {
                wallet: wallet(number),
                currency: USD,
                overdraft_limit: minor(overdraft),
            }),
            Op::Issue { to, amount } => Command::Issue(request(0, to, amount, false)),
            Op::Redeem { from, amount } => Command::Redeem(request(from, 0, amount, false)),
            Op::Transfer {
                from,
                to,
                amount,
                hold,
            } => Command::Transfer(request(from, to, amount, hold)),
            Op::Batch { ref items, atomic } => Command::Batch {
                items: items.iter().map(wide).collect(),
                atomic,
            },
            Op::Amend { which, change } => {
                let transactions = &model.naive.transactions;
                if transactions.is_empty() {
                    return Ok(None);
                }
                let id = transactions[which % transactions.len()].id;
                self.amend(id, change)?
            }
            Op::Wait { .. } | Op::EndGroup => return Ok(None),
        }))
    }

    fn amend(
        &self,
        id: crate::types::TransactionId,
        change: Change,
    ) -> Result<Command, StandsStill> {
        let queries = self.ledger.queries();
        let record = self.runtime.block_on(async {
            let query = queries.transaction(id);
            let patience = if self.plan.is_frozen(Lane::Background) {
                STANDSTILL
            } else {
                PATIENCE
            };
            tokio::time::timeout(patience, query).await
        });
        let record = record.map_err(|_| StandsStill)?.unwrap();
        Ok(Command::Amend(AmendCommand {
            record: Arc::new(record.expect("a transaction that was acknowledged")),
            change,
            user_id: None,
            details: None,
        }))
    }

    /// Hands all commands over, the first in one group and the others in the next, and waits for the answers; `None`
    /// for one that stands still. The first alone if it needs no group.
    fn submit(&self, commands: &[Command]) -> Vec<Option<Answer>> {
        let handle = self.ledger.handle();
        let plan = &self.plan;
        self.runtime.block_on(async {
            let mut waiting: Vec<_> = commands
                .iter()
                .map(|command| Box::pin(maybe_done(handle.submit(command.clone()))))
                .collect();
            if waiting.len() > 1 {
                plan.close_gate();
                let first = &mut waiting[..1];
                let mut stands_still = standstill(plan);
                until(first, || plan.is_at_gate() || stands_still()).await;
                if matches!(*waiting[0], MaybeDone::Done(_)) {
                    waiting.truncate(1);
                } else {
                    // Polled once, so that all of them stand in the queue.
                    until(&mut waiting[1..], || true).await;
                }
                plan.open_gate();
            }
            until(&mut waiting, standstill(plan)).await;
            // Answers of the group before the one that stands still are on their way.
            for _ in 0..if self.is_frozen() { 3 } else { 0 } {
                tokio::time::sleep(TICK).await;
                until(&mut waiting, || true).await;
            }
            let answers = waiting.iter_mut();
            answers
                .map(|waiting| waiting.as_mut().take_output())
                .collect()
        })
    }

    /// What was published since the last look.
    fn news(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        while let Some(batch) = unobserved(|| self.follower.next(Duration::ZERO)).unwrap() {
            entries.extend_from_slice(batch.entries());
        }
        entries
    }

    /// Whether a call stands still without which nothing is written for long.
    fn is_frozen(&self) -> bool {
        WRITING.iter().any(|lane| self.plan.is_frozen(*lane))
    }

    fn checkpoint(&mut self) {
        self.try_checkpoint().unwrap();
    }

    /// A whole round in a hurry, as at a stop.
    pub(super) fn try_checkpoint(&mut self) -> Result<u64, RecoveryError> {
        self.checkpointer.round(&mut self.written, false)
    }
}

/// Whether nothing will be answered any more, when asked at every tick: the writer stands still, or for a while already
/// the thread that drains the log, which may be full.
fn standstill(plan: &Plan) -> impl FnMut() -> bool {
    let mut frozen = Duration::ZERO;
    move || {
        if plan.is_frozen(Lane::Drain) {
            frozen += TICK;
        }
        plan.is_frozen(Lane::Writer) || frozen >= STANDSTILL
    }
}

/// Polls all of `waiting` until they are done or `is_enough`.
async fn until<F: Future>(
    waiting: &mut [Pin<Box<MaybeDone<F>>>],
    mut is_enough: impl FnMut() -> bool,
) {
    let mut waited = Duration::ZERO;
    loop {
        let done = poll_fn(|context| {
            let polls = waiting.iter_mut().map(|one| one.as_mut().poll(context));
            Poll::Ready(polls.filter(Poll::is_pending).count() == 0)
        });
        if done.await || is_enough() {
            return;
        }
        tokio::time::sleep(TICK).await;
        waited += TICK;
        assert!(waited < PATIENCE, "no answer");
    }
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut waited = Duration::ZERO;
    while !is_so() {
        std::thread::sleep(TICK);
        waited += TICK;
        assert!(waited < PATIENCE, "not in time: {what}");
    }
}

pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Copies a folder. IMPORTANT: the round of a checkpoint before its files, and the stores after them: a checkpoint may
/// be written meanwhile, and must not look older than its round or newer than the journal.
pub(super) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    if !from.exists() {
        return;
    }
    let mut names = names(from);
    names.sort_by_key(|name| name != "round" && name != "checkpoint");
    for name in names {
        let (source, target) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            copy_folder(&source, &target);
        } else if let Err(error) = fs::copy(&source, &target) {
            // Renamed meanwhile.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{name}");
        }
    }
}

/// Takes a folder away from a process that still uses it, and lets none be made in its place.
fn bury(folder: &Path) {
    for _ in 0..100 {
        if fs::remove_dir_all(folder).is_ok() {
            break;
        }
        std::thread::sleep(TICK);
    }
    if !folder.exists() {
        fs::write(folder, b"").unwrap();
    }
}

/// The fault that a run meets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meets {
    pub(super) lane: Lane,
    pub(super) nth: u64,
    pub(super) fault: Fault,
    pub(super) crash: Crash,
}
