//! Tests against the real binary: one module per topic.

mod auth;
mod cli;
mod crash;
mod data_folder;
mod disk_full;
mod http_bad_input;
mod http_connection;
mod http_contract;
mod http_two_faults;
mod kafka;
mod kafka_exactly_once;
mod kafka_pipeline;
mod kafka_worst_day;
mod kafka_worst_day_topic;
mod scripts;
mod scripts_ws;
mod shutdown;
mod support;
mod verify;
mod ws_resume;
mod ws_stream;
