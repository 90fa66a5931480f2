//! Settings of the ledger.

use crate::types::{Currency, MinorUnits};
use std::path::PathBuf;

/// Bounds and pace of the ledger, its queries and its checkpoints.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data folder; checkpoints stand in its `checkpoint/`. Default `./echopay-data`.
    pub data_dir: PathBuf,
    /// Commands that may wait for the ledger thread; one more is answered "busy". Default 8,192.
    pub queue_commands_max: usize,
    /// Bytes that may wait for the ledger thread, so that few large batches cannot fill the memory. Default 64 MiB.
    pub queue_bytes_max: usize,
    /// Entries from which a group takes in no further command. Default 16,384.
    pub group_entries_max: usize,
    /// Bytes of commands from which a group takes in no further one; a batch may stand above it. What a group can reach
    /// by that (some 32 MiB) is what recovery keeps for salvage. Default 8 MiB.
    pub group_bytes_max: usize,
    /// How long a group waits for commands that are likely on their way, in microseconds; 0: never. Never waits for a
    /// single caller. Default 100, below what a commit takes.
    pub group_wait_us: u64,
    /// How long the ledger thread looks for the next command before it sleeps, in microseconds, while commands come that
    /// fast; 0: never. Default 60: about the time in which a caller that was answered comes again.
    pub look_us: u64,
    /// Holds that may be open at once. Default 1,000,000.
    pub open_holds_max: usize,
    /// Changes that one transaction may see; the last two are kept for status changes. Default 64.
    pub audit_entries_max: u32,
    /// Entries that one statistics query may read. Default 1,000,000.
    pub stats_entries_max: u64,
    /// Queries that read the disk at once; more wait their turn. Default 8.
    pub queries_concurrent_max: usize,
    /// Pause between two checkpoint files, in milliseconds. Default 20.
    pub checkpoint_pace_ms: u64,
    /// Pause between two checkpoint rounds, in milliseconds. Default 5,000.
    pub checkpoint_interval_ms: u64,
    /// Journal bytes since the last finished round from which the checkpoint no longer paces itself. Default 256 MiB.
    pub checkpoint_lag_bytes_max: u64,
    /// A step of the wall clock ahead of the monotonic one, in milliseconds, from which the ledger's time does not
    /// follow at once. Default one hour.
    pub clock_jump_ms_max: u64,
    /// By how much the first reading of the wall clock may be ahead of the journal's newest entry, in milliseconds, until
    /// it counts as such a step too. Default one year: a node may well have been off for months.
    pub clock_gap_ms_max: u64,
    /// For how long such a step must last until the ledger's time follows, in milliseconds. Default five minutes.
    pub clock_jump_hold_ms: u64,
    /// Age of a sync under way, in milliseconds, from which writes are refused and `/readyz` is red. Default 5,000.
    pub sync_stalled_ms: u64,
    /// Age of a sync under way, in milliseconds, from which the process gives up on its disk. Default 60,000.
    pub sync_dead_ms: u64,
    /// Free bytes of the data folder's disk below which writes are refused, so that the service is full in order rather
    /// than in the middle of a write; 0: write until the disk refuses. Default `None`: 5 % of the disk, at most
    /// 256 MiB, and what a copy of the active volume takes (a start after a kill makes one).
    pub disk_reserve_bytes: Option<u64>,
    /// `echopay dev`: unknown wallets are opened on sight and get this much. Default none: nobody is opened on sight.
    pub opening_balances: Option<Vec<(Currency, MinorUnits)>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./echopay-data"),
            queue_commands_max: 8_192,
            queue_bytes_max: 64 << 20,
            group_entries_max: 16_384,
            group_bytes_max: 8 << 20,
            group_wait_us: 100,
            look_us: 60,
            open_holds_max: 1_000_000,
            audit_entries_max: 64,
            stats_entries_max: 1_000_000,
            queries_concurrent_max: 8,
            checkpoint_pace_ms: 20,
            checkpoint_interval_ms: 5_000,
            checkpoint_lag_bytes_max: 256 << 20,
            clock_jump_ms_max: 3_600_000,
            clock_gap_ms_max: 366 * 86_400_000,
            clock_jump_hold_ms: 300_000,
            sync_stalled_ms: 5_000,
            sync_dead_ms: 60_000,
            disk_reserve_bytes: None,
            opening_balances: None,
        }
    }
}
