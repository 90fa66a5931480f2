//! Damage of every kind to a small store: bits flipped, files cut short, files gone. After each, a start and `verify`
//! must either find everything as it was, or say which volume, page or file is at fault. What lies behind the youngest
//! witness cannot be told from a torn tail: how often it went is counted.
//!
//! A sample runs by default, with its seed printed; `ECHOPAY_SWEEP_CASES=all` (or a number) runs more, and
//! `ECHOPAY_SWEEP_SEED` another sample.

use super::super::Progress;
use super::{Report, ToolError};
use crate::cli::Exit;
use crate::clock::{Clock, SharedClock, SystemClock};
use crate::config::ToolConfig;
use crate::journal::{self, Entry, Journal, OpenOptions, Witness};
use crate::ledger::{
    self, AmendCommand, BatchItem, Change, Command, HoldSpec, Ledger, Loaded, MovementRequest,
    OpenWallet, Queries, Reply,
};
use crate::metrics::Metrics;
use crate::pipeline::{self, Cursor, LastAck, PartitionCursor};
use crate::tasks::Supervisor;
use crate::types::{Currencies, Currency, FraudScore, MinorUnits, Sequence, WalletId};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

const USD: Currency = Currency::from_tag(1);
const PATIENCE: Duration = Duration::from_mins(1);
/// Cases of the sample that runs by default.
const CASES: usize = 200;
const WALLETS: u128 = 6;
const MAGIC: &[u8; 8] = b"\xe9echopg\n";
const HEADER_BYTES: usize = 104;

/// `SplitMix64` (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }
}

#[expect(clippy::disallowed_methods, reason = "how a longer run is asked for")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Closed ones in front of the active one.
const VOLUMES_MIN: u64 = 3;

fn journal_config(data_dir: &Path) -> journal::Config {
    journal::Config {
        volume_pages_max: 16,
        wal_bytes: 64 << 10,
        ..journal::Config::new(data_dir)
    }
}

fn ledger_config(data_dir: &Path) -> ledger::Config {
    ledger::Config {
        data_dir: data_dir.into(),
        // Only at the stop.
        checkpoint_interval_ms: 3_600_000,
        checkpoint_pace_ms: 0,
        ..ledger::Config::default()
    }
}

fn wallet(number: u128) -> WalletId {
    WalletId::new(Uuid::from_u128(number + 1)).unwrap()
}

/// The parts of a service that hold the truth, started as `app` starts them.
struct Service {
    ledger: Ledger,
    reader: journal::JournalReader,
    supervisor: Supervisor,
}

impl Service {
    /// Call it inside the runtime. An error is the text of whatever refused.
    fn start(data_dir: &Path) -> Result<Self, String> {
        let text = |error: &dyn fmt::Display| error.to_string();
        let clock: SharedClock = Arc::new(SystemClock::new());
        let supervisor = Supervisor::new();
        let cursor = Cursor::load(data_dir).map_err(|error| text(&error))?;
        let config = ledger_config(data_dir);
        let loaded = Loaded::read(&config).map_err(|error| text(&error))?;
        let witnesses = cursor.map(|cursor| cursor.witness).into_iter();
        let options = OpenOptions {
            dev: false,
            accept_dev_store: false,
            currencies: Currencies::default(),
            witnesses: witnesses.chain(loaded.witness()).collect(),
        };
        let journal_config = journal_config(data_dir);
        let journal = Journal::open(&journal_config, options, Arc::clone(&clock), &supervisor)
            .map_err(|error| text(&error))?;
        let reader = journal.reader();
        let metrics = Metrics::default();
        let replayed = loaded.replay(&journal, &clock, &|| false);
        let books = replayed.map_err(|error| text(&error))?.unwrap();
        let ledger = Ledger::start(config, books, journal, &clock, &metrics, &supervisor)
            .map_err(|error| text(&error))?;
        Ok(Self {
            ledger,
            reader,
            supervisor,
        })
    }

    async fn ask(&self, command: Command) -> Reply {
        self.ledger.handle().submit(command).await.unwrap()
    }

    async fn pay(&self, from: u128, to: u128, hold: Option<HoldSpec>) -> Reply {
        self.ask(Command::Transfer(MovementRequest {
            hold,
            ..movement(from, to, 3)
        }))
        .await
    }

    /// Everything that can be read; an error is what the reader said.
    fn read(&self) -> Result<Content, String> {
        let mut entries = Vec::new();
        let replayed = self
            .reader
            .replay(Sequence::ORIGIN, &mut |entry| entries.push(entry.clone()));
        replayed.map_err(|error| error.to_string())?;
        let queries = self.ledger.queries();
        let balances = (0..WALLETS).map(|number| balance(&queries, wallet(number)));
        Ok(Content {
            entries,
            balances: balances.collect(),
        })
    }

    fn stop(mut self) -> Result<(), String> {
        self.supervisor.start_drain();
        let is_drained = self.ledger.drain(PATIENCE);
        drop(self.reader);
        let closed = self.ledger.close().map_err(|error| error.to_string());
        match self.supervisor.failure() {
            Some(reason) => Err(format!("failed: {reason}")),
            None if !is_drained => Err("failed: not drained".into()),
            None => closed,
        }
    }
}

fn movement(from: u128, to: u128, amount: i64) -> MovementRequest {
    MovementRequest {
        from: wallet(from),
        to: wallet(to),
        currency: USD,
        amount: MinorUnits::new(amount),
        metadata: Some(r#"{"note":"nineteen characters!"}"#.into()),
        hold: None,
    }
}

fn balance(queries: &Queries, id: WalletId) -> (i64, i64) {
    let view = queries.balance(id, USD);
    (view.balance.get(), view.held.get())
}

/// What a store holds.
#[derive(Clone, PartialEq, Debug)]
struct Content {
    entries: Vec<Entry>,
    /// Balance and held amount of each wallet.
    balances: Vec<(i64, i64)>,
}

impl Content {
    /// What its first `count` entries make.
    fn prefix(&self, count: usize) -> Self {
        let entries = self.entries[..count].to_vec();
        let mut balances: BTreeMap<WalletId, (i64, i64)> = BTreeMap::new();
        for entry in &entries {
            let (from, to) = entry.body.legs();
            for leg in [Some(from), to].into_iter().flatten() {
                let both = (leg.balance_after.get(), leg.held_after.get());
                balances.insert(leg.wallet, both);
            }
        }
        let of = |number| balances.get(&wallet(number)).copied().unwrap_or_default();
        Self {
            balances: (0..WALLETS).map(of).collect(),
            entries,
        }
    }

    fn end(&self) -> Sequence {
        self.entries.last().map_or(Sequence::ORIGIN, Entry::last)
    }
}

/// A store as it lies in a folder, and what is in it.
struct Pristine {
    name: &'static str,
    folder: TempDir,
    content: Content,
    head_hash: String,
    youngest_witness: Sequence,
}

/// Where files cost no disk, if there is such a place: each case syncs some.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = memory.is_dir().then(|| tempfile::tempdir_in(memory).ok());
    made.flatten()
        .unwrap_or_else(|| tempfile::tempdir().unwrap())
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The same store as a clean stop left it, as a kill did long after the last checkpoint, and as one did when a witness
/// had just been written: the first half, then more without a checkpoint.
fn stores(runtime: &Runtime) -> Vec<Pristine> {
    let (folder, killed, witnessed) = (scratch(), scratch(), scratch());
    let content = runtime.block_on(async {
        let service = Service::start(folder.path()).unwrap();
        first_half(&service).await;
        service.stop().unwrap();
        let service = Service::start(folder.path()).unwrap();
        store_cursor(folder.path(), service.reader.witness());
        second_half(&service).await;
        wait_for_bases(folder.path());
        copy_folder(folder.path(), killed.path());
        store_cursor(folder.path(), service.reader.witness());
        copy_folder(folder.path(), witnessed.path());
        let content = service.read().unwrap();
        service.stop().unwrap();
        content
    });
    assert_eq!(content, content.prefix(content.entries.len()));
    let stores = [
        ("stopped", folder),
        ("killed", killed),
        ("witnessed", witnessed),
    ];
    stores
        .into_iter()
        .map(|(name, folder)| {
            let probe = scratch();
            copy_folder(folder.path(), probe.path());
            let report = verify(probe.path()).unwrap();
            let report = serde_json::to_value(report).unwrap();
            assert_eq!(report["findings"], serde_json::json!([]), "{name}");
            assert_eq!(report["newest_sequence"], content.end().get(), "{name}");
            assert!(
                report["volumes"].as_u64().unwrap() >= VOLUMES_MIN,
                "{name}: {report}"
            );
            let loaded = Loaded::read(&ledger_config(folder.path())).unwrap();
            let cursor = Cursor::load(folder.path()).unwrap();
            let stop = folder.path().join("stop").exists().then(|| content.end());
            let known = [loaded.witness(), cursor.map(|cursor| cursor.witness)];
            let known = known.into_iter().flatten().map(|witness| witness.durable);
            Pristine {
                name,
                content: content.clone(),
                head_hash: report["head_hash"].as_str().unwrap().to_owned(),
                youngest_witness: known.chain(stop).max().unwrap(),
                folder,
            }
        })
        .collect()
}

async fn first_half(service: &Service) {
    for number in 0..WALLETS {
        let opening = OpenWallet {
            wallet: wallet(number),
            currency: USD,
            overdraft_limit: MinorUnits::ZERO,
        };
        service.ask(Command::OpenWallet(opening)).await;
    }
    service.ask(Command::Issue(movement(0, 0, 9_000))).await;
    for number in 1..20 {
        service.pay(0, 1 + number % (WALLETS - 1), None).await;
    }
    changes(service).await;
}

async fn second_half(service: &Service) {
    let items = (1..40).map(|number| BatchItem::Transfer(movement(0, 1 + number % 5, 2)));
    service
        .ask(Command::Batch {
            items: items.collect(),
            atomic: true,
        })
        .await;
    changes(service).await;
    for number in 1..12 {
        service.pay(0, 1 + number % (WALLETS - 1), None).await;
    }
    // The next volume is made beside the writer; on a busy machine these payments were quicker.
    for _ in 0..1_000 {
        if service.reader.witness().volume >= VOLUMES_MIN {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        service.pay(0, 1, None).await;
    }
}

/// Holds that are captured and left open, a score, a reversal.
async fn changes(service: &Service) {
    let month = HoldSpec {
        expires_in_ms: 30 * 24 * 3_600_000,
    };
    service.pay(0, 2, Some(month)).await;
    let captured = service.pay(0, 3, Some(month)).await;
    let paid = service.pay(0, 4, None).await;
    let score = Change::Score(FraudScore::from_millionths(700_000).unwrap());
    for (reply, change) in [
        (&captured, Change::Complete),
        (&paid, score),
        (&paid, Change::Reverse),
    ] {
        let Reply::Transaction(receipt) = reply else {
            panic!("{reply:?}")
        };
        let queries = service.ledger.queries();
        let record = queries.transaction(receipt.transaction).await;
        service
            .ask(Command::Amend(AmendCommand {
                record: Arc::new(record.unwrap().unwrap()),
                change,
                user_id: None,
                details: None,
            }))
            .await;
    }
}

fn store_cursor(data_dir: &Path, witness: Witness) {
    let cursor = Cursor {
        witness,
        published: witness.durable,
        topic: "t".into(),
        cluster_id: None,
        partitions: vec![PartitionCursor {
            last: LastAck {
                offset: Some(1),
                sequence: witness.durable,
            },
            failed: Sequence::ORIGIN,
        }],
    };
    cursor.store(data_dir).unwrap();
}

/// Bases are written behind the hand-over.
fn wait_for_bases(data_dir: &Path) {
    let lacks_base = || {
        let volumes = fs::read_dir(data_dir.join("volumes")).unwrap();
        let without =
            volumes.filter(|volume| !volume.as_ref().unwrap().path().join("base").exists());
        without.count()
    };
    for _ in 0..6_000 {
        // The one made ahead has none.
        if lacks_base() <= 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the bases were never written");
}

/// What is done to one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Harm {
    Flip { at: usize, bit: u8 },
    Cut { length: usize },
    Zero { at: usize },
    Remove,
}

#[derive(Clone, Debug)]
struct Damage {
    /// Which of the stores.
    store: usize,
    /// In its folder.
    file: PathBuf,
    harm: Harm,
}

impl Damage {
    fn apply(&self, data_dir: &Path) {
        let path = data_dir.join(&self.file);
        let mut bytes = fs::read(&path).unwrap();
        match self.harm {
            Harm::Flip { at, bit } => bytes[at] ^= 1 << bit,
            Harm::Cut { length } => bytes.truncate(length),
            Harm::Zero { at } => {
                let end = bytes.len().min(at + 4_096);
                bytes[at..end].fill(0);
            }
            Harm::Remove => {
                fs::remove_file(&path).unwrap();
                return;
            }
        }
        fs::write(path, bytes).unwrap();
    }
}

fn files_in(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_in(root, &path, files);
        } else {
            files.push(path.strip_prefix(root).unwrap().into());
        }
    }
}

/// All the harm that a full run does, by kind.
fn all_damage(stores: &[Pristine], random: &mut Random) -> Vec<Vec<Damage>> {
    let (mut pages, mut records, mut anywhere, mut cut, mut gone) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (store, pristine) in stores.iter().enumerate() {
        let root = pristine.folder.path();
        let mut files = Vec::new();
        files_in(root, root, &mut files);
        files.sort();
        for file in files {
            let bytes = fs::read(root.join(&file)).unwrap();
            let damage = |harm| Damage {
                store,
                file: file.clone(),
                harm,
            };
            let mut flip = |at| {
                let bit = u8::try_from(random.below(8)).unwrap();
                damage(Harm::Flip { at, bit })
            };
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            if name == "LOCK" {
                continue;
            }
            if file.components().any(|part| part.as_os_str() == "sled") {
                // Every byte of the first page and of the last.
                let found = pages_in(&bytes);
                let ends = [found.first(), found.last()].into_iter().flatten();
                pages.extend(ends.cloned().flatten().map(&mut flip));
                let many = if name == "db" {
                    400
                } else {
                    bytes.len().min(100)
                };
                let used = found.last().map_or(bytes.len(), |page| page.end);
                for _ in 0..many {
                    let at = random.below(used.min(bytes.len()));
                    let bit = u8::try_from(random.below(8)).unwrap();
                    anywhere.extend((!bytes.is_empty()).then(|| damage(Harm::Flip { at, bit })));
                }
                let zeros = (0..used).step_by(4_096).map(|at| damage(Harm::Zero { at }));
                anywhere.extend(zeros.filter(|_| name == "db"));
            } else {
                records.extend((0..bytes.len()).map(&mut flip));
            }
            let steps = (0..=32).map(|step| bytes.len() * step / 33);
            let near = [1, 2, bytes.len().saturating_sub(1)];
            let lengths = steps.chain(near).filter(|length| *length < bytes.len());
            cut.extend(lengths.map(|length| damage(Harm::Cut { length })));
            gone.push(damage(Harm::Remove));
        }
    }
    vec![pages, records, anywhere, cut, gone]
}

/// Where our pages lie in a data file.
fn pages_in(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let starts = bytes.windows(HEADER_BYTES).enumerate();
    let starts = starts.filter(|(_, header)| header.starts_with(MAGIC));
    starts
        .map(|(at, header)| {
            let body = usize::from(u16::from_le_bytes([header[12], header[13]]));
            at..bytes.len().min(at + HEADER_BYTES + body)
        })
        .collect()
}

/// How a damaged store came through.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    /// Everything is as it was.
    Same,
    /// Refused or found, and said where.
    Told(String),
    /// A tail behind the youngest witness is gone: so many sequences.
    Shorter(u64),
    /// What must never happen.
    Silent(String),
}

/// Whether a text names what is at fault.
fn names_the_place(text: &str) -> bool {
    ["volume ", "sequence ", "/", "partition "]
        .iter()
        .any(|word| text.contains(word))
}

fn told(text: String) -> Outcome {
    if names_the_place(&text) {
        Outcome::Told(text)
    } else {
        Outcome::Silent(format!("does not say where: {text}"))
    }
}

fn start(pristine: &Pristine, data_dir: &Path) -> Outcome {
    let service = match Service::start(data_dir) {
        Ok(service) => service,
        Err(text) => return told(text),
    };
    let read = service.read();
    let stopped = service.stop();
    let content = match (read, stopped) {
        (Ok(_), Err(text)) if text.starts_with("failed") => return Outcome::Silent(text),
        (Err(text), _) | (Ok(_), Err(text)) => return told(text),
        (Ok(content), Ok(())) => content,
    };
    let expected = &pristine.content;
    if content == *expected {
        return Outcome::Same;
    }
    let count = content.entries.len();
    if count < expected.entries.len()
        && content == expected.prefix(count)
        && content.end() >= pristine.youngest_witness
    {
        return Outcome::Shorter(expected.end().get() - content.end().get());
    }
    Outcome::Silent(format!(
        "a start took {count} entries up to {} for the store, whose youngest witness is {}",
        content.end(),
        pristine.youngest_witness
    ))
}

fn verify(data_dir: &Path) -> Result<Report, ToolError> {
    let config = ToolConfig {
        journal: journal_config(data_dir),
        ledger: ledger_config(data_dir),
        pipeline: pipeline::Config::default(),
    };
    super::run(&config, false, &Progress::new(true))
}

fn verified(pristine: &Pristine, data_dir: &Path) -> Outcome {
    let report = match verify(data_dir) {
        Ok(report) => report,
        Err(error) => {
            let may_be = [Exit::CannotCreate, Exit::Damaged];
            return if may_be.contains(&error.exit()) {
                told(error.to_string())
            } else {
                Outcome::Silent(format!("exit {:?}: {error}", error.exit()))
            };
        }
    };
    let text = report.to_string();
    if !report.is_whole() {
        return told(text);
    }
    let report = serde_json::to_value(report).unwrap();
    let newest = report["newest_sequence"].as_u64().unwrap();
    let end = pristine.content.end().get();
    if newest == end && report["head_hash"] == pristine.head_hash.as_str() {
        Outcome::Same
    } else if newest < end && newest >= pristine.youngest_witness.get() {
        Outcome::Shorter(end - newest)
    } else {
        Outcome::Silent(text)
    }
}

/// Does the harm to two copies, and starts on one and verifies the other.
fn run_case(stores: &[Pristine], damage: &Damage, scratch: &Path) -> (Outcome, Outcome) {
    let pristine = &stores[damage.store];
    let folders = ["start", "verify"].map(|name| scratch.join(name));
    for folder in &folders {
        let _none_yet = fs::remove_dir_all(folder);
        copy_folder(pristine.folder.path(), folder);
        damage.apply(folder);
    }
    let caught = |work: &dyn Fn() -> Outcome| {
        catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Outcome::Silent("a panic escaped".into()))
    };
    (
        caught(&|| start(pristine, &folders[0])),
        caught(&|| verified(pristine, &folders[1])),
    )
}

/// Counts of outcomes of one kind of damage.
#[derive(Default, Debug)]
struct Tally {
    same: usize,
    told: usize,
    shorter: usize,
    sequences_lost: u64,
}

#[test]
fn no_damage_is_silent_below_the_youngest_witness() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let seed = variable("ECHOPAY_SWEEP_SEED").map_or_else(
        || SystemClock::new().now().get(),
        |text| text.parse().unwrap(),
    );
    let mut random = Random(seed);
    let stores = stores(&runtime);
    let kinds = all_damage(&stores, &mut random);
    let total: usize = kinds.iter().map(Vec::len).sum();
    let cases = match variable("ECHOPAY_SWEEP_CASES").as_deref() {
        None => CASES,
        Some("all") => total,
        Some(number) => number.parse().unwrap(),
    };
    let names = ["pages", "records", "anywhere", "cut", "gone"];
    let mut chosen: Vec<(usize, Damage)> = Vec::new();
    for (kind, damages) in kinds.into_iter().enumerate() {
        // As many of each kind, as far as there are.
        let mut left = damages;
        while !left.is_empty()
            && (cases >= total || chosen.len() < cases * (kind + 1) / names.len())
        {
            let at = random.below(left.len());
            chosen.push((kind, left.swap_remove(at)));
        }
    }
    eprintln!("seed {seed}: {} of {total} cases", chosen.len());
    let next = AtomicUsize::new(0);
    let results: Vec<(usize, Outcome, Outcome)> = std::thread::scope(|scope| {
        let work = || {
            let scratch = scratch();
            let _inside = runtime.enter();
            let mut results = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((_, damage)) = chosen.get(at) else {
                    return results;
                };
                let (started, verified) = run_case(&stores, damage, scratch.path());
                results.push((at, started, verified));
            }
        };
        let workers = [(); 4].map(|()| scope.spawn(work));
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    let mut silent = Vec::new();
    let mut tallies: BTreeMap<(&str, &str), (Tally, Tally)> = BTreeMap::new();
    for (at, started, verified) in results {
        let (kind, damage) = &chosen[at];
        let name = stores[damage.store].name;
        let tally = tallies.entry((name, names[*kind])).or_default();
        let is_blind = matches!(started, Outcome::Told(_)) && verified == Outcome::Same;
        for (tally, outcome, who) in [
            (&mut tally.0, started, "start"),
            (&mut tally.1, verified, "verify"),
        ] {
            match outcome {
                Outcome::Same => tally.same += 1,
                Outcome::Told(text) => {
                    tally.told += 1;
                    if is_blind {
                        silent.push(format!(
                            "{name} {damage:?}: verify saw nothing, {who}: {text}"
                        ));
                    }
                }
                Outcome::Shorter(lost) => {
                    tally.shorter += 1;
                    tally.sequences_lost += lost;
                }
                Outcome::Silent(text) => silent.push(format!("{name} {damage:?}: {who}: {text}")),
            }
        }
    }
    for ((store, kind), (started, verified)) in &tallies {
        eprintln!("{store:>9} {kind:>9}  start {started:?}  verify {verified:?}");
    }
    assert!(silent.is_empty(), "seed {seed}:\n{}", silent.join("\n"));
}
