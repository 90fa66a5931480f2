//! Tests against the real binary: one module per topic.

mod auth;
mod cli;
mod http_bad_input;
mod http_connection;
mod http_contract;
mod kafka;
mod kafka_pipeline;
mod kill;
mod scripts;
mod scripts_ws;
mod support;
mod ws_resume;
mod ws_stream;
