//! `echopay`: a payment ledger and event streamer in one binary.
//!
//! Transactions come in over HTTP ([`http`]), are decided by one thread ([`ledger`]), made durable in one journal
//! ([`journal`]) and only then told: to the client, to Kafka ([`pipeline`]) and to WebSocket subscribers ([`tracker`],
//! [`ws`]). Everything but the journal is derived from it. [`app`] alone knows every part. `docs/ARCHITECTURE.md` has
//! the picture, the invariants and what a crash does at each step.

pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod event;
pub mod http;
pub mod ids;
pub mod journal;
pub mod ledger;
pub mod load;
pub mod logging;
pub mod metrics;
pub mod money;
pub mod pipeline;
pub mod shutdown;
pub mod tasks;
pub mod tools;
pub mod tracker;
pub mod types;
pub mod watermark;
pub mod ws;
