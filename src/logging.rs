//! The log: lines to stderr, for a person or as JSON, never at the cost of the service.
//!
//! A thread of its own writes. Who logs puts a line into a bounded queue and goes on: when stderr is a pipe that nobody
//! reads, or is closed, lines are lost and counted, and nothing waits or panics.

use crate::tasks::{OnExit, Supervisor};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for stderr; at most [`LINE_BYTES_MAX`] each.
const QUEUE_LINES_MAX: usize = 4096;

/// What is kept of a longer line.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// How long the end of the process waits for a stderr that takes nothing.
const FLUSH_DEADLINE: Duration = Duration::from_millis(500);

/// How the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// A line for a person; with colours on a terminal.
    #[default]
    Human,
    /// An object a line, for machines.
    Json,
}

impl Format {
    /// The word on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

/// What is logged, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Default human.
    pub format: Format,
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or directives such as `info,echopay::pipeline=debug`.
    /// Default `info`.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            format: Format::Human,
            level: "info".into(),
        }
    }
}

/// A level or directive that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("log level {level:?}: {reason}")]
pub struct LevelError {
    level: String,
    reason: String,
}

/// Whether `level` can be read.
///
/// # Errors
/// [`LevelError`].
pub fn check_level(level: &str) -> Result<(), LevelError> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, LevelError> {
    let failed = |reason: String| LevelError {
        level: level.into(),
        reason,
    };
    // Why: a directive without a level or a target, such as a misspelt level, is read as the name of a target.
    let is_level = |word: &str| {
        !word.is_empty() && word.parse::<tracing::level_filters::LevelFilter>().is_ok()
    };
    let mut directives = level.split(',').map(str::trim);
    if !directives.all(|word| is_level(word) || word.contains('=')) {
        return Err(failed(
            "expected error, warn, info, debug, trace, or target=level".into(),
        ));
    }
    EnvFilter::builder()
        .parse(level)
        .map_err(|error| failed(error.to_string()))
}

/// Keeps the log going; [`LogGuard::flush`] it at the end of the process.
#[derive(Debug)]
pub struct LogGuard {
    queue: Queue,
}

#[derive(Clone, Debug)]
struct Queue {
    lines: Sender<Item>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    /// Everything before it was written; answer here.
    Flush(Sender<()>),
}

/// Starts the log of this process, and makes panics part of it.
///
/// # Errors
/// When the level cannot be read or the system gives no thread, as text.
pub fn start(config: &Config, supervisor: &Supervisor) -> Result<LogGuard, String> {
    let filter = filter(&config.level).map_err(|error| error.to_string())?;
    let (queue, lines) = queue();
    let lost = Arc::clone(&queue.lost);
    supervisor
        .spawn_thread("log", OnExit::Continue, move || {
            write_lines(&lines, &lost, &mut io::stderr());
        })
        .map_err(|error| format!("no thread for the log: {error}"))?;

    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(queue.clone())
        .with_ansi(config.format == Format::Human && io::stderr().is_terminal())
        // Why: it reports a failed write by a panicking macro; ours cannot fail, but this costs nothing.
        .log_internal_errors(false);
    let started = match config.format {
        Format::Human => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| error.to_string())?;
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        tracing::error!(thread = thread.name().unwrap_or("unnamed"), "{panic}");
    }));
    Ok(LogGuard { queue })
}

impl LogGuard {
    /// Waits until what was logged so far is written, half a second at most.
    pub fn flush(&self) {
        let (done_tx, done_rx) = bounded(1);
        if self
            .queue
            .lines
            .send_timeout(Item::Flush(done_tx), FLUSH_DEADLINE)
            .is_ok()
        {
            let _written_or_stderr_is_stuck = done_rx.recv_timeout(FLUSH_DEADLINE);
        }
    }
}

fn queue() -> (Queue, Receiver<Item>) {
    let (lines_tx, lines_rx) = bounded(QUEUE_LINES_MAX);
    (
        Queue {
            lines: lines_tx,
            lost: Arc::default(),
        },
        lines_rx,
    )
}

/// The log's thread. Goes on after a failed write: whoever closed stderr may not have meant the service.
fn write_lines(lines: &Receiver<Item>, lost: &AtomicU64, stderr: &mut impl Write) {
    for item in lines {
        match item {
            Item::Line(line) => {
                let _closed_or_full = stderr.write_all(&line);
                let lost = lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _closed_or_full = writeln!(stderr, "{lost} lines of the log were lost");
                }
            }
            Item::Flush(done) => {
                let _closed_or_full = stderr.flush();
                let _gave_up_waiting = done.send(());
            }
        }
    }
}

impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// One call is one whole line: the formatter collects it before it writes.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut kept = line.to_vec();
        if kept.len() > LINE_BYTES_MAX {
            kept.truncate(LINE_BYTES_MAX);
            kept.push(b'\n');
        }
        match self.lines.try_send(Item::Line(kept)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_read_and_nonsense_is_refused() {
        assert_eq!(check_level("info"), Ok(()));
        assert_eq!(check_level("warn,echopay::pipeline=trace"), Ok(()));
        for nonsense in ["loud", "info,loud", "echopay=loud", ""] {
            let error = check_level(nonsense).unwrap_err().to_string();
            assert!(error.contains(&format!("{nonsense:?}")), "{error}");
        }
    }

    #[test]
    fn a_stderr_that_takes_nothing_costs_lines_and_never_waits() {
        let (mut queue, lines) = queue();
        for _ in 0..QUEUE_LINES_MAX + 3 {
            queue.write_all(b"line\n").unwrap();
        }
        let lost = Arc::clone(&queue.lost);
        drop(queue);
        let mut stderr = Vec::new();
        write_lines(&lines, &lost, &mut stderr);
        let text = String::from_utf8(stderr).unwrap();
        assert_eq!(text.matches("line\n").count(), QUEUE_LINES_MAX);
        assert!(text.contains("3 lines of the log were lost"));
    }

    #[test]
    fn a_closed_stderr_does_not_end_the_log() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let (mut queue, lines) = queue();
        queue.write_all(b"one\n").unwrap();
        let (done_tx, done_rx) = bounded(1);
        queue.lines.send(Item::Flush(done_tx)).unwrap();
        let lost = Arc::clone(&queue.lost);
        drop(queue);
        write_lines(&lines, &lost, &mut Closed);
        assert_eq!(done_rx.try_recv(), Ok(()));
    }

    #[test]
    fn a_long_line_is_cut_and_stays_a_line() {
        let (mut queue, lines) = queue();
        queue.write_all(&vec![b'x'; 2 * LINE_BYTES_MAX]).unwrap();
        let Item::Line(line) = lines.recv().unwrap() else {
            panic!("a line was sent")
        };
        assert_eq!(line.len(), LINE_BYTES_MAX + 1);
        assert_eq!(line.last(), Some(&b'\n'));
    }
}
