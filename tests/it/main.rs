//! Tests against the real binary: one module per topic.

mod auth;
mod backup_restore;
mod cli;
mod data_folder;
mod disk_full;
mod export_import;
mod http_bad_input;
mod http_connection;
mod http_contract;
mod http_two_faults;
mod kafka;
mod kafka_pipeline;
mod kill;
mod kill_streams;
mod restore_kafka;
mod scripts;
mod scripts_ws;
mod support;
mod ws_resume;
mod ws_stream;
