//! Settings of the HTTP side.

use std::time::Duration;

/// Limits and times. Every limit has an answer of its own (`docs/API.md`).
#[derive(Clone, Debug)]
pub struct Config {
    /// Open HTTP connections; who comes beyond waits in the kernel's backlog. A `WebSocket` counts no more once it is
    /// upgraded. Default 10,000.
    pub connections_max: usize,
    /// Bytes of request line and headers. Default 16 KiB.
    pub head_bytes_max: usize,
    /// Until the head of the next request must be there, on a fresh or an idle connection. Default 10 s.
    pub head_timeout: Duration,
    /// From the head until the answer, body included. Default 30 s.
    pub request_timeout: Duration,
    /// How long a peer may leave sent bytes unacknowledged before its socket is given up. Default 30 s.
    pub peer_timeout: Duration,
    /// How long the requests in hand may take to end at shutdown: the patience of [`super::Server::drain`]. Default 10 s.
    pub drain_timeout: Duration,
    /// Bytes of a request's body, batches apart. Default 64 KiB.
    pub body_bytes_max: usize,
    /// Bytes of a batch's body. Default 16 MiB.
    pub batch_bytes_max: usize,
    /// Bytes of the bodies of all batches in hand, until their answers went out; what is made of them (items, entries,
    /// answers) takes about twice as much again. Default 64 MiB.
    pub batch_bytes_in_flight_max: usize,
    /// Bytes of a refused body that are still taken in, so that the client hears the refusal. Default 32 MiB.
    pub refused_body_bytes_max: usize,
    /// For how long. Default 2 s.
    pub refused_body_timeout: Duration,
    /// Transactions in a batch. Default 8,192.
    pub batch_items_max: usize,
    /// Limits of what clients may attach.
    pub attachments: AttachmentLimits,
    /// Longest life of a hold. Default 30 days.
    pub hold_expiry_max: Duration,
    /// How often a change of a transaction that changed meanwhile is tried again. Default 8.
    pub stale_retries_max: u32,
    /// How long such a try waits for the change before it to become durable. Default 100 ms.
    pub stale_wait: Duration,
    /// Requests that one HTTP/2 connection may have open; the next ones wait at the client. Default 128.
    pub http2_connection_requests_max: u32,
    /// Requests that all HTTP/2 connections together may have open. Default 10,000.
    pub http2_requests_max: usize,
    /// Bytes of one HTTP/2 request's body that may be on their way. Default 256 KiB.
    pub http2_stream_window_bytes: u32,
    /// The same for all requests of one connection. Default 1 MiB.
    pub http2_connection_window_bytes: u32,
    /// Bytes of an answer that wait for an HTTP/2 client, each. Default 64 KiB.
    pub http2_send_buffer_bytes: usize,
    /// Bytes of journal pages read for one `GET /api/v1/events`. Default 1 MiB.
    pub events_read_bytes_max: usize,
}

/// Limits of `metadata`, `details` and `user_id`. The journal's pages rest on them: raise none above its own bounds.
#[derive(Clone, Copy, Debug)]
pub struct AttachmentLimits {
    /// Bytes of `metadata` as compact JSON. Default 2 KiB.
    pub metadata_bytes_max: usize,
    /// Bytes of `details` as compact JSON. Default 2 KiB.
    pub details_bytes_max: usize,
    /// Levels of objects and arrays in both, the outermost included. Default 4.
    pub depth_max: usize,
    /// Bytes of `user_id`. Default 128.
    pub user_id_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            head_bytes_max: 16 << 10,
            head_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            peer_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            body_bytes_max: 64 << 10,
            batch_bytes_max: 16 << 20,
            batch_bytes_in_flight_max: 64 << 20,
            refused_body_bytes_max: 32 << 20,
            refused_body_timeout: Duration::from_secs(2),
            batch_items_max: 8192,
            attachments: AttachmentLimits::default(),
            hold_expiry_max: Duration::from_hours(30 * 24),
            stale_retries_max: 8,
            stale_wait: Duration::from_millis(100),
            http2_connection_requests_max: 128,
            http2_requests_max: 10_000,
            http2_stream_window_bytes: 256 << 10,
            http2_connection_window_bytes: 1 << 20,
            http2_send_buffer_bytes: 64 << 10,
            events_read_bytes_max: 1 << 20,
        }
    }
}

impl Default for AttachmentLimits {
    fn default() -> Self {
        Self {
            metadata_bytes_max: 2 << 10,
            details_bytes_max: 2 << 10,
            depth_max: 4,
            user_id_bytes_max: 128,
        }
    }
}
