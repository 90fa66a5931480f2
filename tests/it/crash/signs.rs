//! How one sees from the outside what a server is doing: by its log and by its files.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

/// Whether the server takes requests.
pub(super) fn is_ready(log: &str) -> bool {
    log.contains("\"ready\"")
}

/// Whether the server has begun to open the books, and has not ended that.
pub(super) fn is_replaying(log: &str) -> bool {
    log.contains("the journal is open") && !log.contains("books are open")
}

/// Whether the stop in order has begun, and has not ended.
pub(super) fn is_draining(log: &str) -> bool {
    log.contains("taking nothing new") && !log.contains("\"stopped\"")
}

/// Looks for a round of checkpoints under way.
#[derive(Debug)]
pub(super) struct CheckpointWatch {
    /// The newest file when the watch began: what a killed round has left does not count.
    begun: Option<SystemTime>,
}

impl CheckpointWatch {
    pub(super) fn begin(data_dir: &Path) -> Self {
        let [shards, round] = newest(data_dir);
        Self {
            begun: shards.max(round),
        }
    }

    /// Whether a whole round was written since the watch began, and the next one has begun.
    pub(super) fn is_in_second_round(&self, data_dir: &Path) -> bool {
        let [shards, round] = newest(data_dir);
        round > self.begun && shards > round
    }

    /// Whether files were written for which there is no finished round yet.
    pub(super) fn is_under_way(&self, data_dir: &Path) -> bool {
        let [shards, round] = newest(data_dir);
        shards > self.begun && shards > round
    }
}

/// When the newest shard's file was written, and the round's.
fn newest(data_dir: &Path) -> [Option<SystemTime>; 2] {
    let (mut shards, mut round) = (None, None);
    let Ok(entries) = fs::read_dir(data_dir.join("checkpoint")) else {
        return [shards, round];
    };
    for entry in entries.flatten() {
        // A temporary file may be gone by now.
        let modified = entry.metadata().and_then(|data| data.modified()).ok();
        let newest = if entry.file_name() == "round" {
            &mut round
        } else {
            &mut shards
        };
        *newest = modified.max(*newest);
    }
    [shards, round]
}

/// Whether the journal went on from volume `active` to the next one. The volume behind that is only made then.
pub(super) fn is_handing_over(data_dir: &Path, active: u64) -> bool {
    let volume = data_dir.join(format!("volumes/{:010}", active + 2));
    volume.exists()
}

/// The volume that is written to: the newest one with its base. Behind it there may be one that was made ahead.
pub(super) fn active_volume(data_dir: &Path) -> u64 {
    let has_base = |number: u64| {
        let base = data_dir.join(format!("volumes/{number:010}/base"));
        base.exists()
    };
    let mut number = 1;
    while has_base(number + 1) {
        number += 1;
    }
    number
}
