//! Settings of the tracker.

/// How much the tracker may keep, and how finely its index is cut.
#[derive(Clone, Debug)]
pub struct Config {
    /// Shards of each part of the index, rounded up to a power of two. Default 16: a subscribe then holds up the
    /// dispatcher in one lookup of sixteen at most.
    pub shards: usize,
    /// Bytes that may wait for one connection; beyond that it is closed as too slow. Default 1 MiB.
    pub queue_bytes_max: usize,
    /// Bytes of live updates that may wait for one subscription while it reads the last stretch of the journal;
    /// beyond that it falls back to reading the journal. Default 256 KiB.
    pub held_bytes_max: usize,
    /// Bytes of journal pages that a resuming subscription reads at a time. Default 64 KiB.
    pub read_bytes: usize,
    /// Updates that are queued before the connections they are for are woken. Default 256: so that a large group
    /// reaches the first sockets while its rest is still being matched.
    pub wake_every_updates: usize,
    /// How long the dispatcher waits at most, after such a stretch, for connections that do read but whose queues are
    /// more than half full; in milliseconds. Default 10: a group of thousands of transfers is larger than a queue, and
    /// would otherwise end even the quickest reader. Whoever took nothing since the stretch before is not waited for.
    pub relief_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            shards: 16,
            queue_bytes_max: 1024 * 1024,
            held_bytes_max: 256 * 1024,
            read_bytes: 64 * 1024,
            wake_every_updates: 256,
            relief_ms: 10,
        }
    }
}
