//! Settings of the journal.

use std::path::PathBuf;

/// Where the journal is and how it is cut.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data folder; made when missing. Default: `echopay-data` in the working directory.
    pub data_dir: PathBuf,
    /// Bytes of pages after which the journal goes to its next volume. Default 256 MiB: start time, the pause after a
    /// hand-over and the memory of an open volume all grow with it.
    pub volume_bytes_max: u64,
    /// Pages after which the journal goes to its next volume, whatever their size. Default 500,000: dropping a volume
    /// frees one allocation a page.
    pub volume_pages_max: u64,
    /// Length of the write-ahead log, in bytes; rounded down to 4 KiB, [`Config::WAL_BYTES_MIN`] to
    /// [`Config::WAL_BYTES_MAX`]. 0: none, each group goes to its volume at once. Default 4 MiB: some hundredths of a second
    /// of the fastest load, which the stores may fall behind; 8 MiB are no faster. What waits in it is in memory, too.
    pub wal_bytes: u64,
    /// Closed volumes that stay open for readers. Default 3: a much-read one becomes wholly resident (~185 MiB).
    pub closed_volumes_open_max: usize,
    /// After how long without a read a closed volume is closed, in milliseconds. Default 10,000.
    pub closed_volume_idle_ms: u64,
    /// How long to wait for a volume that its last user has not let go yet, in milliseconds. Default 5,000.
    pub volume_lock_wait_ms: u64,
}

impl Config {
    /// Longest write-ahead log: a start keeps so much of the newest pages in hand.
    pub const WAL_BYTES_MAX: u64 = 32 << 20;

    /// Shortest write-ahead log: in one of a few pages each group would wait for the stores, which costs more than none.
    pub const WAL_BYTES_MIN: u64 = 64 << 10;

    /// The defaults, in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            volume_bytes_max: 256 << 20,
            volume_pages_max: 500_000,
            wal_bytes: 4 << 20,
            closed_volumes_open_max: 3,
            closed_volume_idle_ms: 10_000,
            volume_lock_wait_ms: 5_000,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new("echopay-data")
    }
}
