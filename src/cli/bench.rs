//! `echopay bench`: what the load generator can be told. Its defaults stand here and nowhere else.

use clap::{Args, Subcommand, ValueEnum};
use jiff::SignedDuration;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The longest run; longer than that is a soak, and belongs into a script that starts runs.
const DURATION_MAX: Duration = Duration::from_hours(24);
/// Wallets have 32 bits of their id for their number, and eight bytes of the generator's memory each.
const WALLETS_MAX: u32 = 50_000_000;
/// As many as the service takes in a batch by default.
const BATCH_MAX: u32 = 8_192;
const CONNECTIONS_MAX: u32 = 16_384;
const REQUESTS_MAX: u64 = 1_000_000_000_000;
const SUBSCRIBERS_MAX: u32 = 16_384;
const THREADS_MAX: u32 = 64;
const RATE_MAX: f64 = 10_000_000.0;
const EXPONENT_MAX: f64 = 5.0;

/// As the command line has it.
#[derive(Args, Debug)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    #[command(flatten)]
    options: BenchOptions,
}

#[derive(Subcommand, Debug)]
enum BenchCommand {
    /// Hold two results against each other
    ///
    /// A file holds one result of `bench --json`, or several, one a line: the rounds of an interleaved comparison.
    Compare(CompareOptions),
}

/// What `bench` was asked for.
#[derive(Clone, PartialEq, Debug)]
pub enum Bench {
    /// A run.
    Run(Box<BenchOptions>),
    /// Two results of runs.
    Compare(CompareOptions),
}

impl From<BenchArgs> for Bench {
    fn from(args: BenchArgs) -> Self {
        match args.command {
            Some(BenchCommand::Compare(options)) => Self::Compare(options),
            None => Self::Run(Box::new(args.options)),
        }
    }
}

/// Options of a run.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own, and none rules out another"
)]
#[derive(Args, Clone, PartialEq, Debug)]
pub struct BenchOptions {
    /// The service to load. Without it an instance of its own is started in a folder of its own, and removed again
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// A file that holds a token with the scopes `read`, `write` and, to fund wallets, `issue`
    #[arg(long, value_name = "FILE", requires = "url")]
    pub token_file: Option<PathBuf>,
    /// Where the own instance gets its folder; a disk, not a RAM disk. By default the system's folder for such
    #[arg(long, value_name = "FOLDER", conflicts_with = "url")]
    pub dir: Option<PathBuf>,

    /// Connections, kept open
    #[arg(long, value_name = "COUNT", default_value = "64", help_heading = "Load",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    pub connections: u32,
    /// Requests a second, sent on schedule whatever the answers do; or `max`: the next when the last is answered
    #[arg(
        long,
        value_name = "COUNT|max",
        default_value = "max",
        help_heading = "Load"
    )]
    pub rate: Rate,
    /// How long to measure: 10s, 500ms, 2m
    #[arg(long, value_name = "TIME", default_value = "10s", help_heading = "Load", value_parser = duration)]
    pub duration: Duration,
    /// Load before that, which is not measured
    #[arg(long, value_name = "TIME", default_value = "2s", help_heading = "Load", value_parser = duration_or_zero)]
    pub warmup: Duration,
    /// Measure so many requests instead of a time, without a warm-up
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["duration", "warmup"], help_heading = "Load",
          value_parser = clap::value_parser!(u64).range(1..=REQUESTS_MAX))]
    pub requests: Option<u64>,
    /// Instead of drawing, let each wallet pay or be paid once: as many requests as open them all
    #[arg(long, requires = "no_audit", help_heading = "Load",
          conflicts_with_all = ["requests", "duration", "warmup", "rate", "choice", "reads"])]
    pub fill: bool,
    /// Transfers a request; from 2 on as batches
    #[arg(long, value_name = "COUNT", default_value = "1", help_heading = "Load",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(BATCH_MAX)))]
    pub batch: u32,
    /// Wallets that pay each other
    #[arg(long, value_name = "COUNT", default_value = "1000", help_heading = "Load",
          value_parser = clap::value_parser!(u32).range(2..=i64::from(WALLETS_MAX)))]
    pub wallets: u32,
    /// Which of them: `uniform`, `zipf` or `zipf:EXPONENT` (0.99)
    #[arg(
        long,
        value_name = "HOW",
        default_value = "uniform",
        help_heading = "Load"
    )]
    pub choice: Choice,
    /// Share of requests that read: half balances, half transactions that were acknowledged
    #[arg(long, value_name = "PERCENT", default_value = "0", help_heading = "Load",
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub reads: u8,
    /// Send an `Idempotency-Key` with each write, and tell whether the service heeds it
    #[arg(long, help_heading = "Load")]
    pub idempotency_keys: bool,
    /// Makes wallets and draws repeatable; drawn when not given
    #[arg(long, value_name = "NUMBER", help_heading = "Load")]
    pub seed: Option<u64>,
    /// Threads of the generator; more where one is not enough and there are cores to spare
    #[arg(long, value_name = "COUNT", default_value = "1", help_heading = "Load",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(THREADS_MAX)))]
    pub threads: u32,
    /// Longest wait for an answer
    #[arg(long, value_name = "TIME", default_value = "10s", help_heading = "Load", value_parser = duration)]
    pub timeout: Duration,

    /// WebSocket subscribers that hear along
    #[arg(long, value_name = "COUNT", default_value = "0", help_heading = "Streams",
          value_parser = clap::value_parser!(u32).range(0..=i64::from(SUBSCRIBERS_MAX)))]
    pub subscribers: u32,
    /// What each of them asks for
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "everything",
        help_heading = "Streams"
    )]
    pub subscribe_to: SubscribeTo,
    /// Brokers that the own instance ships to, into a topic of this run
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        conflicts_with = "url",
        help_heading = "Streams"
    )]
    pub kafka: Option<String>,

    /// Requests that fail or are refused are counted, and the run is none the worse
    #[arg(long, help_heading = "Verdict")]
    pub allow_errors: bool,
    /// Send the load and nothing else: no wallets are prepared, nothing is checked afterwards
    #[arg(long, help_heading = "Verdict")]
    pub no_audit: bool,

    /// The result as one JSON object on stdout, without a progress line
    #[arg(long, help_heading = "Result")]
    pub json: bool,
    /// Also write a page with plots, in one file
    #[arg(long, value_name = "FILE.html", help_heading = "Result")]
    pub report: Option<PathBuf>,

    /// Behind `--`: further flags for the own instance, as `echopay dev` takes them
    #[arg(last = true, value_name = "FLAG", conflicts_with = "url")]
    pub instance: Vec<String>,
}

/// Two results.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct CompareOptions {
    /// Result to compare with
    #[arg(value_name = "BEFORE.json")]
    pub before: PathBuf,
    /// Result to compare
    #[arg(value_name = "AFTER.json")]
    pub after: PathBuf,
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
}

/// When requests are sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rate {
    /// Closed loop: the next when the last is answered.
    Max,
    /// Open loop: so many requests a second.
    PerSecond(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let expected = || format!("expected `max`, or requests a second from 0.1 to {RATE_MAX}");
        let rate: f64 = text.parse().map_err(|_| expected())?;
        if (0.1..=RATE_MAX).contains(&rate) {
            Ok(Self::PerSecond(rate))
        } else {
            Err(expected())
        }
    }
}

/// Which wallets are drawn.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Choice {
    /// Each as often as any other.
    Uniform,
    /// The n-th in proportion to 1/n^exponent.
    Zipf {
        /// Above 0; 0.99 is what key-value benchmarks use.
        exponent: f64,
    },
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let exponent = match text.split_once(':') {
            None if text == "uniform" => return Ok(Self::Uniform),
            None if text == "zipf" => 0.99,
            Some(("zipf", exponent)) => exponent.parse().unwrap_or(f64::NAN),
            _ => f64::NAN,
        };
        if exponent > 0.0 && exponent <= EXPONENT_MAX {
            Ok(Self::Zipf { exponent })
        } else {
            Err(format!(
                "expected `uniform`, `zipf` or `zipf:EXPONENT` above 0 and up to {EXPONENT_MAX}"
            ))
        }
    }
}

/// What a subscriber asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SubscribeTo {
    /// Every update
    Everything,
    /// The updates of one wallet, each subscriber of another
    Wallet,
}

impl BenchOptions {
    /// After how many requests the load ends; `None`: after a time.
    pub(crate) fn requests_max(&self) -> Option<u64> {
        let pairs = u64::from(self.wallets.div_ceil(2));
        let filling = self.fill.then(|| pairs.div_ceil(u64::from(self.batch)));
        filling.or(self.requests)
    }

    /// What options do not go together, though each is right by itself.
    ///
    /// # Errors
    /// One line that says what.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.no_audit && (self.subscribers > 0 || self.kafka.is_some()) {
            return Err(
                "--no-audit does not go with --subscribers or --kafka: both are checked".into(),
            );
        }
        if self.no_audit && self.url.is_none() {
            return Err("--no-audit is for a service at a --url".into());
        }
        if self.no_audit && self.idempotency_keys {
            return Err(
                "--no-audit does not go with --idempotency-keys: the service is asked about them"
                    .into(),
            );
        }
        if self.threads > self.connections {
            return Err(format!(
                "--threads {} is more than --connections {}",
                self.threads, self.connections
            ));
        }
        if self.choice != Choice::Uniform && self.wallets < 3 {
            return Err("--choice zipf needs three --wallets or more".into());
        }
        if let Some(taken) = self.instance.iter().find_map(|flag| own_flag(flag)) {
            return Err(format!(
                "{taken} is decided by the run; it cannot stand behind --"
            ));
        }
        Ok(())
    }
}

/// Flags of the own instance that the run itself gives it.
fn own_flag(flag: &str) -> Option<&'static str> {
    const TAKEN: [&str; 6] = [
        "--listen",
        "--port",
        "--data-dir",
        "--kafka-brokers",
        "--kafka-topic",
        "--opening-balance",
    ];
    let name = flag.split('=').next().unwrap_or_default();
    TAKEN.into_iter().find(|taken| *taken == name)
}

fn duration(text: &str) -> Result<Duration, String> {
    duration_or_zero(text).and_then(|duration| {
        if duration.is_zero() {
            Err("expected more than nothing".into())
        } else {
            Ok(duration)
        }
    })
}

fn duration_or_zero(text: &str) -> Result<Duration, String> {
    let expected = || "expected a time up to a day, such as 10s, 500ms or 2m".to_owned();
    let text = text.trim();
    let duration = if let Ok(seconds) = text.parse::<f64>() {
        Duration::try_from_secs_f64(seconds).map_err(|_| expected())?
    } else {
        let signed: SignedDuration = text.parse().map_err(|_| expected())?;
        Duration::try_from(signed).map_err(|_| expected())?
    };
    if duration <= DURATION_MAX {
        Ok(duration)
    } else {
        Err(expected())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_a_unit() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration_or_zero("0s"), Ok(Duration::ZERO));
        for wrong in ["0s", "-1s", "", "soon", "25h", "NaN", "1e300"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_and_choices_are_read_and_what_makes_no_sense_is_refused() {
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!("2500".parse(), Ok(Rate::PerSecond(2_500.0)));
        for wrong in ["0", "-5", "inf", "NaN", "fast", "1e9"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
        assert_eq!("uniform".parse(), Ok(Choice::Uniform));
        assert_eq!("zipf".parse(), Ok(Choice::Zipf { exponent: 0.99 }));
        assert_eq!("zipf:1.2".parse(), Ok(Choice::Zipf { exponent: 1.2 }));
        for wrong in ["zipf:0", "zipf:x", "zipf:9", "normal", "uniform:1"] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
    }
}
