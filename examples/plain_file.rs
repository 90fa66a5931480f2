//! The same server on a plain file: every part of `echopay dev` but the store, whose place an append and an `fdatasync`
//! a group take.
//!
//! `cargo run --release --example plain_file -- dev --listen 127.0.0.1:0 --data-dir FOLDER`
//!
//! So `echopay bench --no-audit --url` against the one and against the other tells what the store costs. Takes the flags
//! of `echopay dev`. The file survives a kill as well as any; it is a ceiling to measure by, and not a store to keep money in.

use echopay::app;
use echopay::cli::{self, Asked};
use echopay::config::Config;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let Ok(Asked::Service(invocation)) = cli::parse() else {
        return Err("usage: plain_file dev [the flags of echopay dev]".into());
    };
    let config = Config::load(invocation)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(app::run_on_plain_files(config))?)
}
