//! The instance that a run starts for itself: `echopay dev` as a child in a folder of its own. It goes with the value,
//! and by the kernel's doing when this process is killed.

use super::error::LoadError;
use super::machine::Usage;
use crate::cli;
use crate::tasks::{OnExit, Supervisor};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;

/// A start of an empty store takes a fraction of a second.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// An orderly stop waits for Kafka and for subscribers at most some seconds.
const STOP_TIMEOUT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
/// Of its log, what is told.
const LOG_LINES_MAX: usize = 3;
const LOG_BYTES_MAX: u64 = 16 << 10;

/// A running instance. Dropping it kills the process and removes the folder.
#[derive(Debug)]
pub(super) struct Instance {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
    supervisor: Supervisor,
}

/// Where and how to start it.
#[derive(Debug)]
pub(super) struct Start<'s> {
    /// Where its folder is made; the system's place for such by default.
    pub(super) dir: Option<&'s Path>,
    /// Brokers and topic.
    pub(super) kafka: Option<(&'s str, &'s str)>,
    /// Further flags.
    pub(super) flags: &'s [String],
}

impl Instance {
    /// Starts it and waits until it listens. Blocks.
    pub(super) fn start(start: &Start<'_>, supervisor: &Supervisor) -> Result<Self, LoadError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("echopay-bench-");
        let folder = match start.dir {
            Some(dir) => builder.tempdir_in(dir),
            None => builder.tempdir(),
        };
        let folder = folder.map_err(LoadError::io("make a folder for the own instance"))?;
        let log = File::create(folder.path().join("log"))
            .map_err(LoadError::io("make the own instance's log"))?;
        let program = cli::own_executable().map_err(LoadError::io("find this program's file"))?;
        let mut command = Command::new(&program);
        for variable in cli::service_variables() {
            command.env_remove(variable);
        }
        command
            .args(["dev", "--listen", "127.0.0.1:0", "--stop-with-parent"])
            .arg(std::process::id().to_string())
            .args(["--log-level", "warn", "--data-dir"])
            .arg(data_dir(folder.path()));
        if let Some((brokers, topic)) = start.kafka {
            command.args(["--kafka-brokers", brokers, "--kafka-topic", topic]);
        }
        let mut child = command
            .args(start.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // A terminal's Ctrl-C goes to the whole group: the run decides when its instance stops.
            .process_group(0)
            .spawn()
            .map_err(LoadError::io(format!("start {}", program.display())))?;
        let stdout = child.stdout.take();
        let mut instance = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            folder,
            supervisor: supervisor.clone(),
        };
        let address = stdout.and_then(|stdout| instance.first_line(stdout));
        match address {
            Some(address) => {
                instance.address = address;
                Ok(instance)
            }
            None => Err(instance.not_started()),
        }
    }

    /// Reads the line that says where it listens, and on: it never waits for us.
    fn first_line(&self, stdout: ChildStdout) -> Option<SocketAddr> {
        let (line_tx, line_rx) = mpsc::sync_channel(1);
        let reading = move || {
            let mut lines = BufReader::new(stdout).lines();
            let _gave_up = line_tx.send(lines.next());
            lines.for_each(drop);
        };
        let spawned = self
            .supervisor
            .spawn_thread("bench-instance", OnExit::Continue, reading);
        spawned.ok()?;
        let line = line_rx.recv_timeout(START_TIMEOUT).ok()??.ok()?;
        line.strip_prefix("listening on http://")?.parse().ok()
    }

    fn not_started(&mut self) -> LoadError {
        // It may be about to end, or hang.
        let mut left = Duration::from_secs(1);
        while matches!(self.child.try_wait(), Ok(None)) && !left.is_zero() {
            std::thread::sleep(POLL);
            left = left.saturating_sub(POLL);
        }
        let status = self.child.try_wait().ok().flatten();
        LoadError::NotStarted {
            status: status.map_or_else(
                || format!("it does not listen after {} s", START_TIMEOUT.as_secs()),
                |status| status.to_string(),
            ),
            code: status.and_then(|status| status.code()),
            log: self.last_words(),
        }
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        data_dir(self.folder.path())
    }

    /// What it has used so far.
    pub(super) fn usage(&self) -> Option<Usage> {
        Usage::of(self.child.id())
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let path = self.folder.path().join("log");
        let text = File::open(path).and_then(|mut file| {
            use std::io::{Read, Seek, SeekFrom};
            let size = file.metadata()?.len();
            file.seek(SeekFrom::Start(size.saturating_sub(LOG_BYTES_MAX)))?;
            let mut bytes = Vec::new();
            file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        });
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let from = lines.len().saturating_sub(LOG_LINES_MAX);
        lines.get(from..).unwrap_or_default().join(" | ")
    }

    /// Stops it in order. An error tells how it ended instead.
    pub(super) async fn stop(&mut self) -> Result<(), String> {
        // One that has ended is waited for below.
        let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let mut left = STOP_TIMEOUT;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    return Err(format!(
                        "the instance ended with {status}: {}",
                        self.last_words()
                    ));
                }
                Ok(None) if left.is_zero() => {
                    return Err("the instance does not end; it is killed".into());
                }
                Ok(None) => {
                    tokio::time::sleep(POLL).await;
                    left = left.saturating_sub(POLL);
                }
                Err(error) => return Err(format!("the instance cannot be waited for: {error}")),
            }
        }
    }

    /// Leaves the folder behind, for whoever looks into a failure.
    pub(super) fn keep(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }
}

fn data_dir(folder: &Path) -> PathBuf {
    folder.join("data")
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Errors say that it is gone already.
        let _gone = self.child.kill();
        let _waited_for = self.child.wait();
    }
}
