//! The commands beside the service: look at its data, carry it elsewhere, bring it back.
//!
//! | file | has |
//! | --- | --- |
//! | `verify.rs`, `verify/` | is everything there, and does it add up |
//! | `export.rs`, `import.rs` | the journal as JSON lines, and back |
//! | `backup.rs`, `restore.rs` | the journal's pages from a running service, and back |
//! | `lines.rs` | the lines of an export |
//! | `files.rs` | what is written whole or not at all, what is read compressed or not |
//! | `store.rs` | opening the journal as a start does |
//! | `error.rs` | why a command failed, and its exit code |
//! | `progress.rs` | how far a command is |
//!
//! Each gives a report, which is printed as text or, with `--json`, as one object; both on stdout, all else on stderr.

mod backup;
mod error;
mod export;
mod files;
mod import;
mod lines;
mod progress;
mod restore;
mod store;
mod verify;

pub(crate) use backup::{Place as ServicePlace, read_bearer};
pub use error::ToolError;
pub(crate) use progress::{Line, Progress};
pub(crate) use verify::brief as verify_folder;

use crate::cli::{Exit, Tool, ToolInvocation};
use crate::config::ToolConfig;
use files::is_pipe;
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

/// Runs one command to its end and says how it ended. Blocks; not to be called within a runtime.
pub fn run(invocation: ToolInvocation) -> Exit {
    let json = invocation.json;
    let config = match ToolConfig::load(invocation.config_file, &invocation.settings) {
        Ok(config) => config,
        Err(error) => return failed_by(json, &error.into()),
    };
    let progress = Progress::new(json);
    match invocation.tool {
        Tool::Verify { kafka } => {
            let checked = verify::run(&config, kafka, &progress);
            let is_whole = checked.as_ref().is_ok_and(verify::Report::is_whole);
            match finish(json, checked) {
                Exit::Success if !is_whole => Exit::Damaged,
                exit => exit,
            }
        }
        Tool::Export {
            output,
            zstd,
            from,
            to,
        } => {
            let wanted = export::Wanted { zstd, from, to };
            written(json, &output, || {
                export::run(&config, &output, &wanted, &progress)
            })
        }
        Tool::Import { input } => finish(json, import::run(&config, &input, &progress)),
        Tool::Backup {
            url,
            token_file,
            output,
        } => {
            let from = backup::Source {
                url: &url,
                token_file: token_file.as_deref(),
            };
            written(json, &output, || backup::run(&from, &output, &progress))
        }
        Tool::Restore { input } => finish(json, restore::run(&config, &input, &progress)),
    }
}

/// Tells what is wrong with the command line of a command with `--json`.
pub fn refuse(line: String) -> Exit {
    failed_by(true, &ToolError::Usage(line))
}

/// Runs a command that writes to `output`, and prints its report: on stderr where stdout is what it writes to.
fn written<R: Serialize + Display>(
    json: bool,
    output: &Path,
    run: impl FnOnce() -> Result<R, ToolError>,
) -> Exit {
    if !is_pipe(output) {
        return finish(json, run());
    }
    if json {
        let reason = "`-` takes stdout for the data itself: there is no place for --json";
        return refuse(reason.into());
    }
    match run() {
        Ok(report) => {
            let _told = writeln!(io::stderr(), "{}", report.to_string().trim_end());
            Exit::Success
        }
        Err(error) => failed_by(false, &error),
    }
}

/// Prints the report. Its object is the same as what the text says.
fn finish<R: Serialize + Display>(json: bool, ended: Result<R, ToolError>) -> Exit {
    let report = match ended {
        Ok(report) => report,
        Err(error) => return failed_by(json, &error),
    };
    let text = if json {
        serde_json::to_string(&report).unwrap_or_default()
    } else {
        report.to_string()
    };
    // A closed stdout is no reason to have failed.
    let _told = writeln!(io::stdout(), "{}", text.trim_end());
    Exit::Success
}

fn failed_by(json: bool, error: &ToolError) -> Exit {
    failed(json, error, error.exit())
}

/// One line on stderr; with `--json` an object on stdout, for a script that reads only that.
pub(crate) fn failed(json: bool, error: &dyn Display, exit: Exit) -> Exit {
    if json {
        let report = serde_json::json!({"error": error.to_string(), "exit_code": exit.code()});
        let _told = writeln!(io::stdout(), "{report}");
    }
    let _told = writeln!(io::stderr(), "echopay: {error}");
    exit
}

#[cfg(test)]
mod moves_tests;
