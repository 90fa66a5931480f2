//! Disks that fail: nobody is told what is not so, nobody is left without an answer, the process ends by itself when it
//! cannot go on, and what was acknowledged is served afterwards.

use crate::load::Load;
use crate::machine::{Fault, Machine, Op};
use crate::process::{Process, Started};
use crate::random::Random;
use crate::rig::Rig;
use crate::support::server::{Client, DEADLINE, wait_until};
use fuser::Errno;
use std::path::PathBuf;
use std::sync::Arc;

const CLIENTS: usize = 4;
const SMALL_VOLUMES: [&str; 2] = ["--volume-bytes-max", "1048576"];
/// The disk failed while running.
const EXIT_IO: Option<i32> = Some(74);
const REFUSALS: [(Op, Errno); 4] = [
    (Op::Write, Errno::EIO),
    (Op::Write, Errno::ENOSPC),
    (Op::Sync, Errno::EIO),
    (Op::Sync, Errno::ENOSPC),
];

fn data_dir(rig: &Rig) -> PathBuf {
    rig.path().join("data")
}

/// A service under load, and what its clients were told.
struct Loaded {
    process: Process,
    client: Client,
    load: Arc<Load>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Loaded {
    async fn start(rig: &Rig, flags: &[&str]) -> Self {
        let flags = [&SMALL_VOLUMES, flags].concat();
        let mut process = Process::start(Some(&rig.machine), &data_dir(rig), &flags);
        let client = process.expect_ready().await;
        let load = Arc::new(Load::default());
        let clients = load.start(&client, CLIENTS, &mut Random::new(7));
        let loaded = Self {
            process,
            client,
            load,
            clients,
        };
        loaded.acknowledges_another(100).await;
        loaded
    }

    async fn acknowledges_another(&self, count: usize) {
        let enough = self.load.acknowledged() + count;
        wait_until(DEADLINE, "transfers are acknowledged", async || {
            self.load.acknowledged() >= enough
        })
        .await;
    }

    async fn clients_end_after(&mut self, count: usize) {
        self.acknowledges_another(count).await;
        self.load.stop();
        self.clients_end().await;
    }

    async fn clients_end(&mut self) {
        for client in self.clients.drain(..) {
            client.await.expect("a client saw nothing wrong");
        }
    }

    /// Who waits for a commit that fails is told so.
    async fn tells_an_unknown_outcome(&mut self, context: &str) {
        self.clients_end().await;
        let problems = self.load.all_problems();
        assert!(
            problems.contains(&(504, "OUTCOME_UNKNOWN".into())),
            "{context}: {problems:?}"
        );
    }

    /// The process ends by itself with 74, its clients were answered, and a start on the healed disk has everything.
    async fn ends_and_nothing_is_lost(mut self, rig: &Rig, context: &str) {
        let status = self.process.wait_for_end().await;
        let log = self.process.whole_log().await;
        assert_eq!(status.code(), EXIT_IO, "{context}: {log}");
        self.clients_end().await;
        heal(&rig.machine);
        let mut process = Process::start(Some(&rig.machine), &data_dir(rig), &SMALL_VOLUMES);
        let client = process.expect_ready().await;
        let found = self.load.compare(&client).await;
        assert_eq!(found.wrong, Vec::<String>::new(), "{context}");
        assert!(found.acknowledged >= 100, "{context}");
        self.load.start(&client, 1, &mut Random::new(8));
        let enough = self.load.acknowledged() + 10;
        wait_until(DEADLINE, "it accepts writes again", async || {
            self.load.acknowledged() >= enough
        })
        .await;
    }
}

/// Once only: a second try would succeed, and lie.
fn refuse_once(rig: &Rig, path: &'static str, (op, error): (Op, Errno)) -> String {
    rig.machine.fail(Some(Fault {
        op: Some(op),
        path,
        nth: 1,
        goes_on: false,
        error,
    }));
    format!("{path}: {op:?} {error:?}")
}

fn heal(machine: &Machine) {
    machine.fail(None);
    machine.state().disk.set_capacity(1 << 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_the_disk_refuses_is_told_as_unknown_and_ends_the_process() {
    const WITHOUT_LOG: &[&str] = &["--wal-bytes", "0"];
    for (flags, path) in [(&[][..], "data/wal"), (WITHOUT_LOG, "/sled/db")] {
        for refusal in REFUSALS {
            let Some(rig) = Rig::mount() else { return };
            let mut loaded = Loaded::start(&rig, flags).await;
            let context = refuse_once(&rig, path, refusal);
            loaded.tells_an_unknown_outcome(&context).await;
            loaded.ends_and_nothing_is_lost(&rig, &context).await;
        }
    }
}

/// Whether a payment waits at that moment is chance: what it waits for is durable in the log, or is told as unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_behind_the_log_that_refuses_ends_the_process_and_loses_nothing() {
    for refusal in REFUSALS {
        let Some(rig) = Rig::mount() else { return };
        let loaded = Loaded::start(&rig, &[]).await;
        let context = refuse_once(&rig, "/sled/db", refusal);
        loaded.ends_and_nothing_is_lost(&rig, &context).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_refuses_everything_from_some_call_on_ends_the_process() {
    for nth in [1, 7, 40] {
        let Some(rig) = Rig::mount() else { return };
        let loaded = Loaded::start(&rig, &[]).await;
        rig.machine.fail(Some(Fault {
            op: None,
            path: "",
            nth,
            goes_on: true,
            error: Errno::EIO,
        }));
        let context = format!("from call {nth} on");
        loaded.ends_and_nothing_is_lost(&rig, &context).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_at_once_takes_nothing_that_was_acknowledged() {
    let Some(rig) = Rig::mount() else { return };
    // Without a reserve: in the middle of whatever is written.
    let loaded = Loaded::start(&rig, &["--disk-reserve-bytes", "0"]).await;
    let (capacity, free) = rig.machine.state().disk.space();
    rig.machine
        .state()
        .disk
        .set_capacity(capacity - free + (600 << 10));
    loaded.ends_and_nothing_is_lost(&rig, "full").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_disk_beside_the_journal_stops_no_payment() {
    let Some(rig) = Rig::mount() else { return };
    let mut loaded = Loaded::start(&rig, &[]).await;
    rig.machine.fail(Some(Fault {
        op: None,
        path: "/checkpoint",
        nth: 1,
        goes_on: true,
        error: Errno::EIO,
    }));
    wait_until(DEADLINE, "a checkpoint fails", async || {
        rig.machine.failed_calls() > 0
    })
    .await;
    loaded.clients_end_after(100).await;
    loaded.process.kill();
    assert!(loaded.process.whole_log().await.contains("checkpoint"));
    rig.machine.power_on();
    let mut process = Process::start(Some(&rig.machine), &data_dir(&rig), &SMALL_VOLUMES);
    let client = process.expect_ready().await;
    let found = loaded.load.compare(&client).await;
    assert_eq!(found.wrong, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_hangs_suspends_writes_and_a_late_one_resumes_them() {
    let Some(rig) = Rig::mount() else { return };
    let mut loaded = Loaded::start(&rig, &["--sync-stalled-ms", "300"]).await;
    rig.machine.hold_syncs();
    wait_until(DEADLINE, "writes are refused", async || {
        loaded.load.problems(503, "STORAGE_UNAVAILABLE") > 0
    })
    .await;
    assert!(rig.machine.held_syncs() > 0);
    let ready = loaded.client.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(
        ready.body.contains("a sync has been running"),
        "{}",
        ready.body
    );
    let balance = format!("/api/v1/wallets/{}/balance", uuid::Uuid::from_u128(1));
    assert_eq!(loaded.client.get(&balance).await.status, 200, "reads go on");

    rig.machine.release_syncs();
    loaded.clients_end_after(100).await;
    let found = loaded.load.compare(&loaded.client).await;
    assert_eq!(found.wrong, Vec::<String>::new());
    assert_eq!(loaded.client.get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_never_returns_ends_the_process() {
    let Some(rig) = Rig::mount() else { return };
    let flags = [
        ["--sync-stalled-ms", "300"],
        ["--sync-dead-ms", "3000"],
        ["--request-timeout-ms", "1000"],
    ];
    let mut loaded = Loaded::start(&rig, flags.as_flattened()).await;
    rig.machine.hold_syncs();
    // The thread in the sync cannot go before the call returns, whatever the process wants: so the log tells the end.
    wait_until(DEADLINE, "it gives its disk up", async || {
        loaded.process.log().contains("a sync has not returned")
    })
    .await;
    loaded.clients_end().await;
    let problems = loaded.load.all_problems();
    for told in [(504, "OUTCOME_UNKNOWN"), (503, "STORAGE_UNAVAILABLE")] {
        assert!(loaded.load.problems(told.0, told.1) > 0, "{problems:?}");
    }
    rig.machine.release_syncs();
    let status = loaded.process.wait_for_end().await;
    assert_eq!(status.code(), EXIT_IO);

    let mut process = Process::start(Some(&rig.machine), &data_dir(&rig), &SMALL_VOLUMES);
    let client = process.expect_ready().await;
    let found = loaded.load.compare(&client).await;
    assert_eq!(found.wrong, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_failing_disk_says_so_and_breaks_nothing() {
    let Some(rig) = Rig::mount() else { return };
    let mut loaded = Loaded::start(&rig, &[]).await;
    loaded.process.kill();
    loaded.clients_end().await;
    let mut starts = 0;
    for nth in 1.. {
        rig.machine.power_on();
        rig.machine.fail(Some(Fault {
            op: None,
            path: "",
            nth,
            goes_on: true,
            error: Errno::EIO,
        }));
        let mut process = Process::start(Some(&rig.machine), &data_dir(&rig), &SMALL_VOLUMES);
        match process.ready().await {
            Started::Ready(_) => break,
            Started::Ended(status, log) => {
                let code = status.code();
                assert!(matches!(code, Some(73 | 74)), "call {nth}: {code:?}\n{log}");
                assert!(log.contains("ended reason="), "call {nth}: {log}");
                starts += 1;
            }
            Started::Cut => unreachable!("nothing is armed"),
        }
    }
    assert!(starts > 3, "some of {starts} starts needed the disk");
    rig.machine.power_on();
    let mut process = Process::start(Some(&rig.machine), &data_dir(&rig), &SMALL_VOLUMES);
    let client = process.expect_ready().await;
    let found = loaded.load.compare(&client).await;
    assert_eq!(found.wrong, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_is_taken_on_a_full_disk() {
    let Some(rig) = Rig::mount() else { return };
    rig.machine.fail(Some(Fault {
        op: Some(Op::Write),
        path: "data/LOCK",
        nth: 1,
        goes_on: true,
        error: Errno::ENOSPC,
    }));
    let mut process = Process::start(Some(&rig.machine), &data_dir(&rig), &SMALL_VOLUMES);
    process.expect_ready().await;
    assert!(rig.machine.failed_calls() > 0);
    let mut second = Process::start(Some(&rig.machine), &data_dir(&rig), &SMALL_VOLUMES);
    match second.ready().await {
        Started::Ended(_, log) => assert!(log.contains("in use by process unknown"), "{log}"),
        other => panic!("{other:?}"),
    }
}
