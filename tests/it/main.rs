//! Tests against the real binary: one module per topic.

mod auth;
mod backup_restore;
mod bench;
mod cli;
mod crash;
mod data_folder;
mod disk_full;
mod export_import;
mod http_bad_input;
mod http_connection;
mod http_contract;
mod http_two_faults;
mod kafka;
mod kafka_exactly_once;
mod kafka_pipeline;
mod kafka_worst_day;
mod kafka_worst_day_topic;
mod restore_kafka;
mod scripts;
mod scripts_ws;
mod shutdown;
mod support;
mod verify;
mod verify_kafka;
mod ws_resume;
mod ws_stream;
