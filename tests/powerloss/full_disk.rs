//! A disk that fills up: the service stops accepting writes in order, reads go on, and with room writes go on.

use crate::load::Load;
use crate::process::{Process, Started};
use crate::random::Random;
use crate::rig::skip;
use crate::support::server::{Client, DEADLINE, wait_until};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

const DISK_BYTES: u64 = 64 << 20;
const RESERVE_BYTES: u64 = 8 << 20;
const CLIENTS: usize = 4;
const EXIT_CANNOT_CREATE: Option<i32> = Some(73);

/// A small disk in memory.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let options = std::ffi::CString::new(format!("size={DISK_BYTES}")).unwrap();
        let mounted = mount(
            "tmpfs",
            folder.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(&*options),
        );
        match mounted {
            Ok(()) => Some(Self(folder)),
            Err(error) => skip(&format!("no tmpfs can be mounted: {error}")),
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn free_bytes(&self) -> u64 {
        let found = rustix::fs::statvfs(self.0.path()).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// Somebody else fills the disk up to `left_bytes`.
    fn fill(&self, left_bytes: u64) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.0.path().join("filler"))
            .unwrap();
        let chunk = [1; 4096];
        while self.free_bytes() > left_bytes {
            if file.write_all(&chunk).is_err() {
                return;
            }
        }
    }

    /// Whether a page lies in the first volume.
    fn has_page(&self) -> bool {
        let path = self.data_dir().join("volumes/0000000001/sled/db");
        let magic = b"\xe9echopg\n";
        fs::read(path).is_ok_and(|db| db.windows(magic.len()).any(|bytes| bytes == magic))
    }

    fn make_room(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }

    fn start(&self, flags: &[&str]) -> Process {
        let flags = [&["--volume-bytes-max", "1048576"], flags].concat();
        Process::start(None, &self.data_dir(), &flags)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _not_mounted = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

fn reserve() -> [String; 2] {
    ["--disk-reserve-bytes".into(), RESERVE_BYTES.to_string()]
}

async fn metric(client: &Client, name: &str) -> u64 {
    let page = client.get("/metrics").await.body;
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {name}: {page}"))
        .parse()
        .unwrap()
}

async fn reads_and_is_unready(client: &Client, load: &Load) {
    let ready = client.get("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.body);
    assert!(
        ready.json()["components"]["disk"]
            .as_str()
            .unwrap()
            .starts_with("full: ")
    );
    let found = load.compare(client).await;
    assert_eq!(found.wrong, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_payments_fill_up_keeps_its_reserve_and_the_service_lives_on() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let reserve = reserve();
    let mut process = disk.start(&reserve.each_ref().map(String::as_str));
    let client = process.expect_ready().await;
    let load = Arc::new(Load::default());
    disk.fill(RESERVE_BYTES + (6 << 20));
    let clients = load.start(&client, CLIENTS, &mut Random::new(3));
    wait_until(DEADLINE, "writes are refused", async || {
        load.problems(503, "DISK_FULL") > 20
    })
    .await;
    wait_until(DEADLINE, "it says that it is not ready", async || {
        client.get("/readyz").await.status == 503
    })
    .await;
    assert!(process.ended().is_none(), "{}", process.log());
    assert!(load.acknowledged() > 100);
    let free_bytes = disk.free_bytes();
    assert!(
        free_bytes > RESERVE_BYTES / 2,
        "of {RESERVE_BYTES} bytes in reserve {free_bytes} are left"
    );
    reads_and_is_unready(&client, &load).await;
    let told = client
        .request("POST", "/api/v1/transactions", &PROBLEM, &transfer())
        .await;
    assert_eq!((told.status, told.header("retry-after")), (503, "10"));
    assert_eq!(told.json()["code"], "DISK_FULL");
    assert_eq!(
        metric(&client, "echopay_disk_reserve_bytes").await,
        RESERVE_BYTES
    );
    assert!(metric(&client, "echopay_disk_free_bytes").await < RESERVE_BYTES * 5 / 4);

    disk.make_room();
    let enough = load.acknowledged() + 100;
    wait_until(DEADLINE, "writes go on", async || {
        load.acknowledged() >= enough
    })
    .await;
    load.stop();
    for client in clients {
        client.await.expect("a client saw nothing wrong");
    }
    assert_eq!(client.get("/readyz").await.status, 200);
    let only = load.all_problems();
    assert_eq!(
        only,
        [(503, "DISK_FULL".into())],
        "nothing else was ever told"
    );
    let log = process.log();
    for line in [
        "the disk is full but for its reserve",
        "writes are accepted again",
    ] {
        assert_eq!(log.matches(line).count(), 1, "{line} in {log}");
    }
    process.terminate();
    assert!(process.wait_for_end().await.success());
}

/// Faster than the disk is looked at: who asks first may not write what others have written meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test's clients are no tasks of the service"
)]
async fn large_batches_at_full_speed_stop_at_the_reserve_too() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let reserve = reserve();
    let mut process = disk.start(&reserve.each_ref().map(String::as_str));
    let client = process.expect_ready().await;
    let item = transfer().replace(
        '}',
        &format!(r#","metadata":{{"k":"{}"}}}}"#, "x".repeat(1_900)),
    );
    let batch = format!(r#"{{"transactions":[{}]}}"#, vec![item; 500].join(","));
    let batch = Arc::new(batch);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (client, batch) = (client.clone(), Arc::clone(&batch));
            tokio::spawn(async move {
                let path = "/api/v1/transactions/batch";
                let mut refused = 0;
                while refused < 20 {
                    let answer = client.request("POST", path, &PROBLEM, &batch).await;
                    if answer.status != 200 {
                        assert_eq!(answer.json()["code"], "DISK_FULL", "{}", answer.body);
                        refused += 1;
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client
            .await
            .expect("nothing but success and a full disk is told");
    }
    let free_bytes = disk.free_bytes();
    assert!(
        free_bytes > RESERVE_BYTES / 2,
        "of {RESERVE_BYTES} bytes in reserve {free_bytes} are left"
    );
    assert!(process.ended().is_none(), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_on_a_full_disk_stops_in_order_and_starts_again_for_reads() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let reserve = reserve();
    let flags = reserve.each_ref().map(String::as_str);
    let mut process = disk.start(&flags);
    let client = process.expect_ready().await;
    let load = Arc::new(Load::default());
    let clients = load.start(&client, CLIENTS, &mut Random::new(4));
    wait_until(DEADLINE, "there is something to lose", async || {
        load.acknowledged() > 200
    })
    .await;
    disk.fill(RESERVE_BYTES / 2);
    wait_until(DEADLINE, "writes are refused", async || {
        load.problems(503, "DISK_FULL") > 5
    })
    .await;
    load.stop();
    for client in clients {
        client.await.expect("a client saw nothing wrong");
    }
    process.terminate();
    assert!(
        process.wait_for_end().await.success(),
        "{}",
        process.whole_log().await
    );
    assert!(
        disk.data_dir().join("stop").exists(),
        "a clean stop has its witness"
    );

    let mut process = disk.start(&flags);
    let client = process.expect_ready().await;
    let refused = client
        .request("POST", "/api/v1/transactions", &PROBLEM, &transfer())
        .await;
    assert_eq!(
        refused.json()["code"],
        "DISK_FULL",
        "from the first request on"
    );
    reads_and_is_unready(&client, &load).await;

    // Also after a kill, when there is something to recover.
    process.kill();
    let mut process = disk.start(&flags);
    let client = process.expect_ready().await;
    reads_and_is_unready(&client, &load).await;
    disk.make_room();
    wait_until(DEADLINE, "writes go on", async || {
        let answer = client
            .request("POST", "/api/v1/transactions", &PROBLEM, &transfer())
            .await;
        answer.status == 201
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_byte_left_a_start_says_so_and_is_not_called_damaged() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let mut process = disk.start(&[]);
    let client = process.expect_ready().await;
    let load = Arc::new(Load::default());
    let clients = load.start(&client, CLIENTS, &mut Random::new(5));
    // What lies in the log alone needs no copy of the store.
    wait_until(DEADLINE, "there is something to lose", async || {
        load.acknowledged() > 200 && disk.has_page()
    })
    .await;
    process.kill();
    for client in clients {
        client.await.expect("a client saw nothing wrong");
    }
    disk.fill(0);
    let mut process = disk.start(&[]);
    match process.ready().await {
        Started::Ended(status, log) => {
            assert_eq!(status.code(), EXIT_CANNOT_CREATE, "{log}");
            assert!(log.contains("the disk is full: the start needs"), "{log}");
        }
        other => panic!("a store is not opened without a copy: {other:?}"),
    }
    process.kill();
    disk.make_room();
    let mut process = disk.start(&[]);
    let client = process.expect_ready().await;
    let found = load.compare(&client).await;
    assert_eq!(found.wrong, Vec::<String>::new());
}

const PROBLEM: [(&str, &str); 2] = [
    ("content-type", "application/json"),
    ("accept", "application/problem+json"),
];

fn transfer() -> String {
    let (from, to) = (Uuid::from_u128(101), Uuid::from_u128(102));
    format!(r#"{{"from_wallet":"{from}","to_wallet":"{to}","amount":1,"currency":"USD-CBDC"}}"#)
}
