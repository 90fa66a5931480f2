//! argv → [`Config`] → log → runtime → [`app::run`] → exit code. The only place that ends the process.

use echopay::app;
use echopay::cli::{self, Asked, Exit, Stop};
use echopay::config::Config;
use echopay::load;
use echopay::logging;
use echopay::tasks::Supervisor;
use echopay::tools;
use rustix::process::{
    Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
use tracing::{error, warn};

/// How long blocking work that nobody waits for any more may hold up the end.
const RUNTIME_STOP_DEADLINE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let exit = match cli::parse() {
        Ok(Asked::Service(invocation)) => {
            let stops_with_parent = invocation.stops_with_parent;
            match Config::load(invocation) {
                Ok(config) => stops_with_parent
                    .and_then(stop_with_parent)
                    .unwrap_or_else(|| serve(config)),
                Err(error) => say(Exit::Usage, &error.to_string()),
            }
        }
        Ok(Asked::Tool(invocation)) => run_tool(|| tools::run(invocation)),
        Ok(Asked::Bench(bench)) => run_tool(|| load::run(&bench)),
        Err(Stop::Print(text)) => {
            let _stdout_is_closed = std::io::stdout().write_all(text.as_bytes());
            Exit::Success
        }
        Err(Stop::Usage(line)) => say(Exit::Usage, &line),
        Err(Stop::UsageAsJson(line)) => tools::refuse(line),
    };
    ExitCode::from(exit.code())
}

/// Its result stands on stdout, so the log tells only what is wrong.
fn run_tool(run: impl FnOnce() -> Exit) -> Exit {
    let logging = logging::Config {
        level: "warn".into(),
        ..logging::Config::default()
    };
    let log = match logging::start(&logging, &Supervisor::new()) {
        Ok(log) => log,
        Err(reason) => return say(Exit::Internal, &reason),
    };
    raise_open_files_limit();
    let exit = run();
    log.flush();
    exit
}

/// Asks for `SIGTERM` when the parent dies, whose number it is told. The exit, if it has died already.
fn stop_with_parent(pid: i32) -> Option<Exit> {
    if let Err(reason) = set_parent_process_death_signal(Some(Signal::TERM)) {
        let line = format!("cannot watch the parent: {reason}");
        return Some(say(Exit::Internal, &line));
    }
    // Asked for too late, nothing would ever come: the parent is another one then.
    let is_there = getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == pid);
    (!is_there).then_some(Exit::Success)
}

fn serve(config: Config) -> Exit {
    // The log's thread outlives every other part, so it has a supervisor of its own.
    let log = match logging::start(&config.logging, &Supervisor::new()) {
        Ok(log) => log,
        Err(reason) => return say(Exit::Internal, &reason),
    };
    raise_open_files_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(reason) => return say(Exit::Internal, &format!("no runtime: {reason}")),
    };
    let ended = runtime.block_on(app::run(config));
    runtime.shutdown_timeout(RUNTIME_STOP_DEADLINE);
    let exit = match ended {
        Ok(()) => Exit::Success,
        Err(reason) => {
            error!(%reason, "ended");
            reason.exit()
        }
    };
    log.flush();
    exit
}

/// One line on stderr, for whoever typed the command; there is no log yet.
fn say(exit: Exit, line: &str) -> Exit {
    let _stderr_is_closed = writeln!(std::io::stderr(), "echopay: {line}");
    exit
}

/// Each connection is an open file; the usual soft limit of 1,024 is there for programs that use select(2).
fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(reason) = setrlimit(Resource::Nofile, raised) {
        warn!(%reason, soft_limit = limit.current, "the limit of open files stays where it is");
    }
}
