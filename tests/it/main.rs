//! Tests against the real binary: one module per topic.

mod auth;
mod cli;
mod data_folder;
mod disk_full;
mod http_bad_input;
mod http_connection;
mod http_contract;
mod http_two_faults;
mod kafka;
mod kafka_pipeline;
mod kafka_worst_day;
mod kafka_worst_day_topic;
mod kill;
mod kill_streams;
mod scripts;
mod scripts_ws;
mod support;
mod ws_resume;
mod ws_stream;
