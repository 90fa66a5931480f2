//! `echopay bench`: the load generator, a client like any other over HTTP and WebSocket. `docs/BENCH.md` is its handbook.
//!
//! | file | has |
//! | --- | --- |
//! | `run.rs` | a run from its start to its result |
//! | `drive.rs` | the load itself: starts the threads, watches them, ends in the audit |
//! | `worker.rs` | a thread of the generator, and each connection's loop |
//! | `pace.rs` | when requests are sent: closed and open loop |
//! | `draw.rs` | what is sent: reads and writes, wallets, amounts |
//! | `requests.rs`, `wire.rs`, `answers.rs` | the bytes of requests, the connection, what an answer says |
//! | `tally.rs` | what was seen: latencies, points in time, and what each wallet must have gained |
//! | `control.rs`, `audit.rs` | the calls around the load, and whether everything acknowledged is there |
//! | `subscribers.rs`, `streams.rs` | WebSocket subscribers that hear along, and how far they and Kafka are |
//! | `instance.rs`, `machine.rs` | the instance of its own, and what it runs on |
//! | `outcome.rs`, `compare.rs`, `report.rs` | the result, two of them side by side, and as a page |

mod answers;
mod audit;
mod compare;
mod control;
mod draw;
mod drive;
mod error;
mod instance;
mod machine;
mod numbers;
mod outcome;
mod pace;
mod report;
mod requests;
mod run;
mod streams;
mod subscribers;
mod tally;
mod wire;
mod worker;

pub use draw::wallet_id;

use crate::cli::{Bench, BenchOptions, Exit};
use crate::tools;
use audit::Audit;
use error::LoadError;
use outcome::{Outcome, Verdict};
use std::io::{self, Write};

/// Runs what was asked for to its end and says how it ended. Blocks; not to be called within a runtime.
pub fn run(bench: &Bench) -> Exit {
    let (json, ended) = match bench {
        Bench::Run(options) => (options.json, load(options)),
        Bench::Compare(options) => {
            let compared = compare::run(options);
            let told = compared.map(|compared| (compared, Exit::Success));
            (options.json, told)
        }
    };
    match ended {
        Ok((text, exit)) => {
            // A closed stdout is no reason to have failed.
            let _told = writeln!(io::stdout(), "{}", text.trim_end());
            exit
        }
        Err(error) => tools::failed(json, &error, error.exit()),
    }
}

/// The result as text, and how the process ends with it.
fn load(options: &BenchOptions) -> Result<(String, Exit), LoadError> {
    let mut outcome = run::run(options)?;
    let mut exit = exit_of(&outcome);
    if let Some(path) = &options.report
        && let Err(error) = std::fs::write(path, report::page(&outcome))
    {
        // What was measured is told all the same.
        let told = format!("the report {} cannot be written: {error}", path.display());
        let _told = writeln!(io::stderr(), "echopay: {told}");
        outcome.warnings.push(told);
        if exit == Exit::Success {
            exit = Exit::CannotCreate;
        }
    }
    let text = if options.json {
        serde_json::to_string(&outcome).unwrap_or_default()
    } else {
        outcome.to_string()
    };
    Ok((text, exit))
}

/// Something lost is worse than something refused.
fn exit_of(outcome: &Outcome) -> Exit {
    let is_lost = outcome.audit.as_ref().is_some_and(Audit::is_lost);
    match outcome.verdict {
        Verdict::Passed => Exit::Success,
        Verdict::Failed if is_lost => Exit::Damaged,
        Verdict::Failed => Exit::Unavailable,
    }
}
