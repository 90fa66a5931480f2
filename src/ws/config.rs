//! Settings of the WebSocket endpoint.

/// Limits and deadlines. What may wait for a connection is the tracker's (`tracker::Config::queue_bytes_max`).
#[derive(Clone, Debug)]
pub struct Config {
    /// Connections at a time; one more is answered with 503. Default 10,000.
    pub connections_max: usize,
    /// Bytes of a message from a client; a longer one ends the connection with 1009. Default 64 KiB.
    pub message_bytes_max: usize,
    /// Subscriptions of one connection; one more is refused by an error message. Default 100.
    pub subscriptions_max: usize,
    /// Transaction and wallet ids in one subscription; more are refused by an error message. Default 1,000.
    pub filter_ids_max: usize,
    /// A ping is sent this long after the one before. Default 30,000.
    pub ping_every_ms: u64,
    /// A connection of which nothing was heard for so long is dropped. Default 60,000.
    pub pong_within_ms: u64,
    /// A connection that takes no byte for so long, though some wait, is dropped. Default 10,000.
    pub write_within_ms: u64,
    /// So long a connection may take to say who it is before it is closed with 4401. Default 10,000.
    pub authenticate_within_ms: u64,
    /// So long the client may take to answer a close frame before it is dropped. Default 5,000.
    pub close_within_ms: u64,
    /// The deadlines above are looked at this often. Default 1,000.
    pub sweep_every_ms: u64,
    /// Read buffer of a connection, there for as long as it is. Default 1,024: larger ones show one to one in the
    /// memory of an idle connection.
    pub read_buffer_bytes: usize,
    /// At most about so many bytes are put together for one write. Default 64 KiB.
    pub write_bytes: usize,
    /// Unsent bytes that the kernel takes for a connection (`TCP_NOTSENT_LOWAT`). Default 64 KiB: without it the kernel
    /// queues megabytes for a slow reader, and the queue's bound would mean little.
    pub unsent_bytes_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            message_bytes_max: 64 * 1024,
            subscriptions_max: 100,
            filter_ids_max: 1_000,
            ping_every_ms: 30_000,
            pong_within_ms: 60_000,
            write_within_ms: 10_000,
            authenticate_within_ms: 10_000,
            close_within_ms: 5_000,
            sweep_every_ms: 1_000,
            read_buffer_bytes: 1_024,
            write_bytes: 64 * 1024,
            unsent_bytes_max: 64 * 1024,
        }
    }
}
