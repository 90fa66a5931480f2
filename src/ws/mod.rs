//! `/ws/transactions`: the tracker's queues over WebSocket.
//!
//! - `config.rs`: the limits and deadlines.
//! - `upgrade.rs`: from an HTTP request to a connection, or to the refusal.
//! - `endpoint.rs`: what all connections share; the sweeper that keeps their deadlines; the drain.
//! - `connection.rs`: one connection: reads, writes, catches up, ends. `wire.rs`: the bytes between it and tungstenite.
//! - `session.rs`: what a client's messages do. `protocol.rs`: how messages look. `close.rs`: why connections end.
//! - `history.rs`: the past, for who resumes.
//!
//! Each connection is one task around one hand-written future. All that is sent goes through the connection's queue in
//! the tracker, so pongs, answers and updates keep one order, share one bound, and leave many at a time in one write.
//! Server frames are not masked, so an update's frame is put together here from its shared bytes; tungstenite does the
//! reading, the close handshake and the pongs.

mod close;
mod config;
mod connection;
mod control;
mod endpoint;
mod history;
mod protocol;
mod session;
#[cfg(test)]
mod tests;
mod upgrade;
mod wire;

pub use config::Config;
pub use endpoint::Endpoint;
