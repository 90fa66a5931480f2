//! The tracker's own thread: follows the journal and dispatches.

use super::{Config, Dispatcher, TrackerHandle};
use crate::clock::SharedClock;
use crate::journal::{Follower, JournalReader};
use crate::metrics::Metrics;
use crate::tasks::{OnExit, Supervisor};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::{debug, error};

/// How long one wait for entries lasts. Only a loop's turn: entries wake the thread at once.
const WAIT: Duration = Duration::from_secs(1);
/// A read that fails is tried so often before the process is stopped: subscribers must not miss anything silently.
const READ_ATTEMPTS: u32 = 5;
/// Between two tries.
const READ_RETRY_AFTER: Duration = Duration::from_millis(200);

/// Starts the tracker on a thread of its own. It hands out what `follower` gives, which must be fed by the journal of
/// `reader`, and ends when the journal's writer is gone and everything was handed out.
///
/// # Errors
/// When the system gives no thread.
pub fn start(
    config: Config,
    follower: Follower,
    reader: &JournalReader,
    clock: SharedClock,
    metrics: Metrics,
    supervisor: &Supervisor,
) -> std::io::Result<(TrackerHandle, JoinHandle<()>)> {
    let durable = reader.durable().clone();
    let (handle, dispatcher) = super::new(config, follower.position(), durable, clock, metrics);
    let failing = supervisor.clone();
    let thread = supervisor.spawn_thread("tracker", OnExit::StopProcess, move || {
        run(follower, dispatcher, &failing);
    })?;
    Ok((handle, thread))
}

fn run(mut follower: Follower, mut dispatcher: Dispatcher, supervisor: &Supervisor) {
    let mut failed_reads = 0;
    loop {
        match follower.next(WAIT) {
            Ok(Some(batch)) => {
                failed_reads = 0;
                dispatcher.dispatch(batch.entries());
            }
            Ok(None) if follower.is_ended() => {
                debug!(position = %follower.position(), "the tracker has handed out everything");
                return;
            }
            Ok(None) => {}
            Err(read_error) => {
                failed_reads += 1;
                if failed_reads == READ_ATTEMPTS {
                    error!(position = %follower.position(), %read_error, "the tracker cannot read the journal");
                    supervisor.fail(&format!(
                        "the tracker cannot read the journal: {read_error}"
                    ));
                    return;
                }
                std::thread::sleep(READ_RETRY_AFTER);
            }
        }
    }
}
