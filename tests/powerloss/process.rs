//! [`Process`]: the real binary on a machine that may lose its power at any time, also while it starts.

use crate::machine::Machine;
use crate::support::server::{Client, DEADLINE, echopay};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(2);
const LOG_KEPT_BYTES: usize = 32 << 10;

/// What became of a start.
#[derive(Debug)]
pub(crate) enum Started {
    /// It listens.
    Ready(Client),
    /// The power failed before.
    Cut,
    /// It ended by itself; its status and the end of its log.
    Ended(ExitStatus, String),
}

/// A running `echopay dev`.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Where its disk is, if that can hang.
    machine: Option<Machine>,
    address: Arc<Mutex<Option<SocketAddr>>>,
    log: Arc<Mutex<String>>,
    log_ended: Arc<AtomicBool>,
}

impl Process {
    /// Starts it and does not wait.
    pub(crate) fn start(machine: Option<&Machine>, data_dir: &Path, flags: &[&str]) -> Self {
        let mut child = echopay()
            .args(["dev", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (address, log) = (
            Arc::new(Mutex::new(None)),
            Arc::new(Mutex::new(String::new())),
        );
        let log_ended = Arc::new(AtomicBool::new(false));
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let told = Arc::clone(&address);
        in_thread(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Some(found) = line.strip_prefix("listening on http://") {
                    *told.lock() = found.parse().ok();
                }
            }
        });
        let (kept, ended) = (Arc::clone(&log), Arc::clone(&log_ended));
        in_thread(move || {
            keep(err, &kept);
            ended.store(true, Ordering::Release);
        });
        Self {
            child,
            machine: machine.cloned(),
            address,
            log,
            log_ended,
        }
    }

    /// Waits until it listens, ends, or has lost its power.
    pub(crate) async fn ready(&mut self) -> Started {
        let waiting = async {
            loop {
                if let Some(address) = *self.address.lock() {
                    return Started::Ready(Client::new(address));
                }
                if self
                    .machine
                    .as_ref()
                    .is_some_and(|machine| machine.struck().is_some())
                {
                    return Started::Cut;
                }
                if let Some(status) = self.child.try_wait().unwrap() {
                    return Started::Ended(status, self.whole_log().await);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let started = tokio::time::timeout(DEADLINE, waiting).await.ok();
        started.unwrap_or_else(|| panic!("neither ready nor ended; log:\n{}", self.log()))
    }

    /// Waits until it listens.
    #[track_caller]
    pub(crate) fn expect_ready(&mut self) -> impl Future<Output = Client> {
        let caller = std::panic::Location::caller();
        async move {
            match self.ready().await {
                Started::Ready(client) => client,
                other => panic!("{caller}: it does not start: {other:?}"),
            }
        }
    }

    /// `SIGTERM`; does not wait.
    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Whether it is gone, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it ends by itself.
    pub(crate) async fn wait_for_end(&mut self) -> ExitStatus {
        let ending = async {
            loop {
                if let Some(status) = self.ended() {
                    return status;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let status = tokio::time::timeout(DEADLINE, ending).await.ok();
        status.unwrap_or_else(|| panic!("it does not end; log:\n{}", self.log()))
    }

    /// `SIGKILL`, and waits until it is gone. Its machine is off afterwards, since whoever hangs in a call to the disk
    /// only goes when the call returns.
    pub(crate) fn kill(&mut self) {
        let _already_gone = self.child.kill();
        if let Some(machine) = &self.machine {
            machine.power_off();
        }
        self.child.wait().unwrap();
    }

    /// The end of its log, so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// The end of its log, once the process is gone.
    pub(crate) async fn whole_log(&self) -> String {
        while !self.log_ended.load(Ordering::Acquire) {
            tokio::time::sleep(LOOK).await;
        }
        self.log()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the log ends with:\n{}---", self.log());
        }
    }
}

fn in_thread(work: impl FnOnce() + Send + 'static) {
    let builder = std::thread::Builder::new().name("child-output".into());
    builder.spawn(work).unwrap();
}

fn keep(mut from: impl Read, log: &Mutex<String>) {
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        let mut log = log.lock();
        log.push_str(&String::from_utf8_lossy(&chunk[..count]));
        let excess = log.len().saturating_sub(LOG_KEPT_BYTES);
        let cut = log.ceil_char_boundary(excess);
        log.drain(..cut);
    }
}
