//! The ledger whole, on a real journal in a real folder: what it answered is there after every kind of restart.

use super::books::{Account, Accounts, Amended, BooksWriter, Hold, Rows};
use super::{
    BatchItem, Command, Config, HoldSpec, Ledger, Loaded, MovementRequest, OpenWallet, Reply,
    StartError, SubmitError,
};
use crate::clock::{Clock, ManualClock, SharedClock};
use crate::journal::{self, Journal, OpenOptions};
use crate::metrics::Metrics;
use crate::tasks::Supervisor;
use crate::types::{
    Currencies, Currency, FraudScore, MinorUnits, Sequence, Status, TimestampMs, TransactionId,
    WalletId,
};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use uuid::Uuid;

const USD: Currency = Currency::from_tag(1);
const PATIENCE: Duration = Duration::from_mins(1);

fn wallet(number: u128) -> WalletId {
    WalletId::new(Uuid::from_u128(number + 1)).unwrap()
}

fn movement(from: u128, to: u128, amount: i64) -> MovementRequest {
    MovementRequest {
        from: wallet(from),
        to: wallet(to),
        currency: USD,
        amount: MinorUnits::new(amount),
        metadata: None,
        hold: None,
    }
}

struct Rig {
    ledger: Ledger,
    supervisor: Supervisor,
}

impl Rig {
    /// Opens what is in `dir`, as the service does.
    fn open(dir: &Path) -> Self {
        let clock: SharedClock = Arc::new(ManualClock::new(TimestampMs::new(1_000), 7));
        Self::open_at(dir, &clock)
    }

    fn open_at(dir: &Path, clock: &SharedClock) -> Self {
        Self::start(dir, clock, |_| {}).unwrap()
    }

    /// Opens what is in `dir` after `change` was done to what the checkpoint said.
    fn start(
        dir: &Path,
        clock: &SharedClock,
        change: impl FnOnce(&mut BooksWriter<'_>),
    ) -> Result<Self, StartError> {
        let config = Config {
            data_dir: dir.into(),
            checkpoint_interval_ms: 1,
            checkpoint_pace_ms: 0,
            ..Config::default()
        };
        Self::start_with(config, clock, change)
    }

    fn start_with(
        config: Config,
        clock: &SharedClock,
        change: impl FnOnce(&mut BooksWriter<'_>),
    ) -> Result<Self, StartError> {
        let supervisor = Supervisor::new();
        let loaded = Loaded::read(&config).unwrap();
        change(&mut BooksWriter(&loaded.books));
        let options = OpenOptions {
            dev: false,
            accept_dev_store: false,
            currencies: Currencies::default(),
            witnesses: loaded.witness().into_iter().collect(),
        };
        let journal_config = journal::Config::new(&config.data_dir);
        let journal =
            Journal::open(&journal_config, options, Arc::clone(clock), &supervisor).unwrap();
        let metrics = Metrics::default();
        let books = loaded.replay(&journal, clock, &|| false)?.unwrap();
        let ledger = Ledger::start(config, books, journal, clock, &metrics, &supervisor)?;
        Ok(Self { ledger, supervisor })
    }

    async fn submit(&self, command: Command) -> Result<Reply, SubmitError> {
        self.ledger.handle().submit(command).await
    }

    async fn fill(&self, wallets: u128) {
        for number in 0..wallets {
            let opening = OpenWallet {
                wallet: wallet(number),
                currency: USD,
                overdraft_limit: MinorUnits::ZERO,
            };
            self.submit(Command::OpenWallet(opening)).await.unwrap();
            self.submit(Command::Issue(movement(0, number, 1_000)))
                .await
                .unwrap();
        }
    }

    fn balances(&self, wallets: u128) -> Vec<i64> {
        let queries = self.ledger.queries();
        (0..wallets)
            .map(|number| queries.balance(wallet(number), USD).balance.get())
            .collect()
    }

    fn stop(mut self) {
        self.supervisor.start_drain();
        assert!(self.ledger.drain(PATIENCE));
        self.ledger.close().unwrap();
        assert_eq!(self.supervisor.failure(), None);
    }
}

/// What a test that would hang takes as "at once".
const AT_ONCE: Duration = Duration::from_mins(1);

/// A group that waits for more commands, if at all, waits longer than any test.
fn waiting_for_ever(dir: &Path) -> Config {
    Config {
        data_dir: dir.into(),
        group_wait_us: u64::MAX,
        ..Config::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_alone_is_answered_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let clock: SharedClock = Arc::new(ManualClock::new(TimestampMs::new(1_000), 7));
    let rig = Rig::start_with(waiting_for_ever(dir.path()), &clock, |_| {}).unwrap();
    tokio::time::timeout(AT_ONCE, rig.fill(3)).await.unwrap();
    rig.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_more_commands_ends_with_enough_of_them_or_with_the_drain() {
    const CALLERS: usize = 64;
    const CALLS: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let clock: SharedClock = Arc::new(ManualClock::new(TimestampMs::new(1_000), 7));
    let rig = Rig::start_with(waiting_for_ever(dir.path()), &clock, |_| {}).unwrap();
    // Commits take their time, so that the callers meet in the queue.
    tokio::time::timeout(AT_ONCE, rig.fill(2)).await.unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (handle, answered) = (rig.ledger.handle(), Arc::clone(&answered));
        callers.spawn(async move {
            for _ in 0..CALLS {
                // Why refused or not: what counts is that it is answered.
                let _ = handle.submit(Command::Transfer(movement(0, 1, 1))).await;
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // As long as all come again, a quarter of them is always on its way.
    let half = async {
        while answered.load(Ordering::Relaxed) < CALLERS * CALLS / 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(AT_ONCE, half).await.unwrap();
    // The last ones are too few, and wait for a group that never fills.
    rig.stop();
    let all = async { while callers.join_next().await.is_some() {} };
    tokio::time::timeout(AT_ONCE, all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn books_come_back_from_checkpoint_journal_or_both() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    rig.fill(20).await;
    for step in 0..200_u128 {
        rig.submit(Command::Transfer(movement(step % 20, (step + 7) % 20, 1)))
            .await
            .unwrap();
    }
    let expected = rig.balances(20);
    rig.stop();

    let rig = Rig::open(dir.path());
    assert_eq!(rig.balances(20), expected, "after an orderly stop");
    rig.stop();

    let files = || {
        fs::read_dir(dir.path().join("checkpoint"))
            .unwrap()
            .map(|f| f.unwrap().path())
    };
    let shard = files().find(|path| !path.ends_with("round")).unwrap();
    fs::remove_file(shard).unwrap();
    let rig = Rig::open(dir.path());
    assert_eq!(rig.balances(20), expected, "with a checkpoint file missing");
    rig.stop();

    let shard = files().find(|path| !path.ends_with("round")).unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let rig = Rig::open(dir.path());
    assert_eq!(rig.balances(20), expected, "with a checkpoint file damaged");
    rig.stop();

    fs::remove_dir_all(dir.path().join("checkpoint")).unwrap();
    let rig = Rig::open(dir.path());
    assert_eq!(rig.balances(20), expected, "without a checkpoint");
    rig.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test's clients are no tasks of the service"
)]
async fn concurrent_clients_get_sequences_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    rig.fill(8).await;
    let before = rig.ledger.queries().balance(wallet(0), USD).sequence.get();
    let clients: Vec<_> = (0..16_u128)
        .map(|number| {
            let handle = rig.ledger.handle();
            tokio::spawn(async move {
                let mut sequences = Vec::new();
                for step in 0..25 {
                    let request = movement(number % 8, (number + 1 + step % 7) % 8, 1);
                    let command = Command::Transfer(request);
                    let Ok(Reply::Transaction(receipt)) = handle.submit(command).await else {
                        panic!("a transfer was not answered");
                    };
                    sequences.push(receipt.sequence.get());
                }
                sequences
            })
        })
        .collect();
    let mut sequences = Vec::new();
    for client in clients {
        let told = client.await.unwrap();
        assert!(told.is_sorted(), "one client's sequences rise");
        sequences.extend(told);
    }
    sequences.sort_unstable();
    let expected: Vec<u64> = (1..=400).map(|n| before + 4 * n).collect();
    assert_eq!(sequences, expected);
    assert_eq!(rig.balances(8).iter().sum::<i64>(), 8_000);
    rig.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_paged_by_cursor_and_by_offset_alike() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    rig.fill(3).await;
    let items = (0..150)
        .map(|_| BatchItem::Transfer(movement(0, 1, 1)))
        .collect();
    rig.submit(Command::Batch {
        items,
        atomic: true,
    })
    .await
    .unwrap();
    let queries = rig.ledger.queries();
    let whole = queries.history(wallet(0), None, 0, 1_000).await.unwrap();
    assert_eq!(
        whole.transactions.len(),
        151,
        "150 transfers and the issuance"
    );
    assert_eq!(whole.next_before, None);
    let newest_first = whole
        .transactions
        .is_sorted_by_key(|t| std::cmp::Reverse(t.created));
    assert!(newest_first);
    let mut paged = Vec::new();
    let mut before = None;
    loop {
        let page = queries.history(wallet(0), before, 0, 40).await.unwrap();
        paged.extend(page.transactions);
        before = page.next_before;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(paged, whole.transactions);
    let offset = queries.history(wallet(0), None, 100, 10).await.unwrap();
    assert_eq!(offset.transactions[..], whole.transactions[100..110]);
    let foreign = queries
        .history(wallet(2), Some(whole.transactions[0].created), 0, 10)
        .await;
    assert!(
        matches!(foreign, Err(super::QueryError::InvalidCursor)),
        "{foreign:?}"
    );
    let stats = queries
        .stats(wallet(0), USD, TimestampMs::new(0))
        .await
        .unwrap();
    assert_eq!((stats.total_count, stats.completed_count), (151, 151));
    assert_eq!(stats.total_amount, 1_150);
    let record = queries
        .transaction(whole.transactions[3].id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(record.entries.len(), 1);
    assert_eq!(record.created, whole.transactions[3].created);
    let nothing = crate::types::TransactionId(Uuid::from_u128(42));
    assert_eq!(queries.transaction(nothing).await.unwrap(), None);
    rig.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_ledger_refuses_and_records_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.fill(2).await;
    rig.supervisor.start_drain();
    let handle = rig.ledger.handle();
    assert!(rig.ledger.drain(PATIENCE));
    let refused = handle.submit(Command::Transfer(movement(0, 1, 1))).await;
    assert!(
        matches!(refused, Err(SubmitError::Unavailable)),
        "{refused:?}"
    );
    let as_of = rig.ledger.queries().balance(wallet(0), USD).sequence;
    assert_eq!(as_of, Sequence::new(8));
    rig.ledger.close().unwrap();
}

/// Counts who asks for the wall clock.
#[derive(Debug)]
struct CountingClock {
    inner: ManualClock,
    readings: AtomicUsize,
}

impl Clock for CountingClock {
    fn now(&self) -> TimestampMs {
        self.readings.fetch_add(1, Ordering::Relaxed);
        self.inner.now()
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        self.inner.fill_random(bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_thread_sleeps_while_a_leap_of_the_clock_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(CountingClock {
        inner: ManualClock::new(TimestampMs::new(1_000), 7),
        readings: AtomicUsize::new(0),
    });
    let shared: SharedClock = Arc::<CountingClock>::clone(&clock);
    let rig = Rig::open_at(dir.path(), &shared);
    rig.fill(2).await;
    let holding = MovementRequest {
        hold: Some(HoldSpec {
            expires_in_ms: 60_000,
        }),
        ..movement(0, 1, 10)
    };
    rig.submit(Command::Transfer(holding)).await.unwrap();
    // The wall clock is behind the hold's expiry, the ledger's time is not.
    clock.inner.set_wall(TimestampMs::new(86_400_000));
    rig.submit(Command::Transfer(movement(0, 1, 1)))
        .await
        .unwrap();
    let before = clock.readings.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let readings = clock.readings.load(Ordering::Relaxed) - before;
    assert!(readings < 100, "{readings} readings while nothing was due");
    rig.stop();
}

fn hold(amount: i64) -> Hold {
    Hold {
        transaction: TransactionId(Uuid::from_u128(1)),
        from: wallet(0),
        to: wallet(1),
        currency: USD,
        amount: MinorUnits::new(amount),
        expires_at: TimestampMs::new(9_000),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_on_the_disk_nothing_is_written_and_what_is_due_waits() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(CountingClock {
        inner: ManualClock::new(TimestampMs::new(1_000), 7),
        readings: AtomicUsize::new(0),
    });
    let shared: SharedClock = Arc::<CountingClock>::clone(&clock);
    let rig = Rig::open_at(dir.path(), &shared);
    rig.fill(2).await;
    let holding = MovementRequest {
        hold: Some(HoldSpec {
            expires_in_ms: 60_000,
        }),
        ..movement(0, 1, 10)
    };
    rig.submit(Command::Transfer(holding)).await.unwrap();
    let view = || rig.ledger.queries().balance(wallet(0), USD);
    let (before, held) = (view().sequence, view().held);
    assert_eq!(held, MinorUnits::new(10));

    rig.ledger.handle().set_room(0);
    clock.inner.set_wall(TimestampMs::new(70_000));
    let refused = rig.submit(Command::Transfer(movement(0, 1, 1))).await;
    assert!(matches!(refused, Err(SubmitError::DiskFull)), "{refused:?}");
    let readings = clock.readings.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let readings = clock.readings.load(Ordering::Relaxed) - readings;
    assert!(
        readings < 100,
        "{readings} readings while nothing can be done"
    );
    assert_eq!((view().sequence, view().held), (before, held));

    rig.ledger.handle().set_room(u64::MAX);
    let expiring = async {
        while view().held != MinorUnits::ZERO {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, expiring).await.unwrap();
    rig.submit(Command::Transfer(movement(0, 1, 1)))
        .await
        .unwrap();
    rig.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn books_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    rig.fill(2).await;
    rig.stop();
    let clock: SharedClock = Arc::new(ManualClock::new(TimestampMs::new(1_000), 7));
    let start = |change: fn(&mut BooksWriter<'_>)| Rig::start(dir.path(), &clock, change);

    let ahead = start(|rows| {
        let mut row = rows.0.wallet(wallet(0)).unwrap();
        row.head = Sequence::new(99);
        rows.put_wallet(wallet(0), row);
    });
    let Err(StartError::LostTail {
        checkpoint,
        durable,
    }) = ahead
    else {
        panic!("rows ahead of the journal were taken");
    };
    assert_eq!((checkpoint, durable), (Sequence::new(99), Sequence::new(8)));

    // Of one entry's rows those that are no wallet's may stand in the newer file.
    let amended = start(|rows| {
        let row = Amended {
            last: Sequence::new(97),
            ordinal: 1,
            status: Status::Reversed,
            fraud_score: FraudScore::ZERO,
        };
        rows.put_amended(Sequence::new(2), row);
    });
    let is_refused = |found: Result<Rig, StartError>, at: u64| matches!(found, Err(StartError::LostTail { checkpoint, .. }) if checkpoint.get() == at);
    assert!(is_refused(amended, 97));
    let hold_ahead = start(|rows| rows.put_hold(Sequence::new(98), hold(3)));
    assert!(is_refused(hold_ahead, 98));

    let held_by_nothing = start(|rows| {
        let mut row = rows.0.wallet(wallet(0)).unwrap();
        row.accounts = Accounts::One(Account {
            held: MinorUnits::new(5),
            ..row.accounts.as_slice()[0]
        });
        rows.put_wallet(wallet(0), row);
    });
    let Err(StartError::WronglyHeld {
        held_minor,
        holds_minor,
        ..
    }) = held_by_nothing
    else {
        panic!("an amount that no hold holds back was taken");
    };
    assert_eq!((held_minor, holds_minor), (5, 0));

    let held = start(|rows| {
        rows.put_hold(Sequence::new(5), hold(3));
    });
    let Err(StartError::WronglyHeld {
        held_minor,
        holds_minor,
        ..
    }) = held
    else {
        panic!("a hold that holds nothing back was taken");
    };
    assert_eq!((held_minor, holds_minor), (0, 3));

    start(|_| {}).unwrap().stop();
}
