//! HTTP by hand on hyper: a connection's life in `server`, a request's way in `service` (route, caller, body, handler),
//! the paths in `router`, and a file per resource. What comes in is read by `body`, `json`, `query`, `parse`; what goes
//! out is written by `answer` and `error`. No arithmetic on balances: the ledger decides, this tells.

mod answer;
mod backup;
mod batch;
#[doc(hidden)]
pub mod bench;
mod body;
pub mod config;
mod counters;
mod deadline;
mod error;
mod events;
mod http2;
mod issuances;
mod json;
mod parse;
mod query;
mod router;
mod server;
mod service;
mod status;
mod transactions;
mod wallets;

pub use answer::Body;
pub use config::{AttachmentLimits, Config};
pub use server::Server;
pub use service::{Health, Readiness, RenderMetrics, Services, UpgradeHandler};
