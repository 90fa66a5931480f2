//! The command line and the environment; the only reader of both.
//!
//! A setting has one name everywhere: flag `--kafka-topic`, key `kafka-topic` of the file, variable
//! `ECHOPAY_KAFKA_TOPIC` (three have the names that everybody expects, see [`Settings`]). Flags and variables go through
//! the same parsers, each into a [`Settings`] of its own, and the stronger layer is laid over the weaker one. There are
//! no defaults here: they stand in the `Config` of the part that they are for, and the help asks for them there.

mod bench;
mod exit;
mod tools;

pub use bench::{Bench, BenchOptions, Choice, CompareOptions, Rate, SubscribeTo};
pub use exit::Exit;
pub use tools::{Tool, ToolInvocation};

use crate::config::{self, Mode};
use crate::logging;
use crate::pipeline::{Delivery, OnNewCluster};
use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Settings under these headings are left out of the other command's help, and refused there (`config.rs`).
const DEV_ONLY: &str = "Only `echopay dev`";
const SERVE_ONLY: &str = "Only `echopay serve`";

/// A payment ledger and event streamer in one binary
///
/// Payments come in over HTTP, are made durable in an embedded journal, and every event goes to Kafka and to WebSocket
/// subscribers, in order, with nothing dropped.
#[derive(Parser, Debug)]
#[command(
    name = "echopay",
    version,
    max_term_width = 100,
    subcommand_required = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Local development: one command, no set-up, no authentication
    ///
    /// Listens on this machine only and keeps its data in a folder. Wallets that nobody has opened are opened on sight
    /// with an opening balance. Without Kafka, events wait in the journal.
    Dev(CommandArgs),
    /// Production: wallets are opened by request, callers have tokens
    ///
    /// Refuses to be reachable from other machines without tokens, and refuses a store that `echopay dev` has made,
    /// unless it is told otherwise.
    Serve(CommandArgs),
    #[command(flatten)]
    Tool(tools::Command),
    /// Load a service with payments, and check that none was lost
    ///
    /// Without options: starts an instance of its own in a folder of its own, loads it, prints what it measured, checks
    /// that everything acknowledged is in the journal and in the balances, and leaves nothing behind.
    #[command(args_conflicts_with_subcommands = true)]
    Bench(bench::BenchArgs),
}

#[derive(Args, Debug)]
struct CommandArgs {
    /// A TOML file with any of these settings, under the flags' names without the dashes
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// Stop in order when the process of this number, which started this one, dies
    #[arg(long, hide = true)]
    stop_with_parent: Option<i32>,
}

/// Every setting of `dev` and `serve`, as one layer gives it: `None` is "not given here".
///
/// The fields' names are those of the flags, of the keys of the file and, behind `ECHOPAY_`, of the variables; only
/// [`PLAIN_VARIABLES`] are called otherwise.
#[derive(Args, Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Port to listen on, on the default address
    #[arg(long)]
    pub port: Option<u16>,
    /// Folder of the journal and of everything derived from it; made when missing
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// A further currency and its decimals, such as JPY-CBDC:0. Order matters: add behind those that a store has
    #[arg(long, value_name = "CODE:EXPONENT", value_delimiter = ',')]
    pub currency: Option<Vec<String>>,
    /// Longest wait for requests and subscribers after the first SIGTERM; a second one cuts it short
    #[arg(long, value_name = "MS")]
    pub shutdown_grace_ms: Option<u64>,

    /// What a wallet gets that is opened on sight, in each currency
    #[arg(long, value_name = "AMOUNT", help_heading = DEV_ONLY)]
    pub opening_balance: Option<String>,

    /// Who may do what: a TOML file of token hashes, scopes and wallets; read again on SIGHUP
    #[arg(long, value_name = "FILE", help_heading = SERVE_ONLY)]
    pub tokens_file: Option<PathBuf>,
    /// Open a store that `echopay dev` has made
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), value_name = "BOOL",
          help_heading = SERVE_ONLY)]
    pub accept_dev_store: Option<bool>,

    /// Listen to other machines although nobody has to show a token
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), value_name = "BOOL", help_heading = "Access")]
    pub insecure: Option<bool>,
    /// A web origin whose pages may call, such as `https://shop.example`
    #[arg(
        long,
        value_name = "ORIGIN",
        value_delimiter = ',',
        help_heading = "Access"
    )]
    pub cors_origin: Option<Vec<String>>,

    /// Brokers to start from. Without them events wait in the journal
    #[arg(long, value_name = "HOST:PORT,…", help_heading = "Kafka")]
    pub kafka_brokers: Option<String>,
    /// Topic of the events; made when it is missing
    #[arg(long, value_name = "NAME", help_heading = "Kafka")]
    pub kafka_topic: Option<String>,
    /// A property of librdkafka, stronger than ours. Put passwords into the file or the variable
    #[arg(
        long,
        value_name = "KEY=VALUE",
        value_delimiter = ';',
        help_heading = "Kafka"
    )]
    pub kafka_config: Option<Vec<String>>,
    /// Types of events to publish
    #[arg(
        long,
        value_name = "TYPE",
        value_delimiter = ',',
        help_heading = "Kafka"
    )]
    pub kafka_event_types: Option<Vec<String>>,
    /// Partitions of a topic that we make
    #[arg(long, value_name = "COUNT", help_heading = "Kafka")]
    pub kafka_partitions: Option<u32>,
    /// Replicas of a topic that we make; -1 is the brokers' default
    #[arg(
        long,
        value_name = "COUNT",
        allow_hyphen_values = true,
        help_heading = "Kafka"
    )]
    pub kafka_replication: Option<i32>,
    /// Whether consumers may see an event twice
    #[arg(long, value_name = "WHAT", help_heading = "Kafka")]
    pub kafka_delivery: Option<KafkaDelivery>,
    /// How long events gather before they leave together, and half as long again; in exactly-once, how long a transaction does
    #[arg(long, value_name = "MS", help_heading = "Kafka")]
    pub batch_window: Option<u32>,
    /// Events after which a batch leaves before its window ends
    #[arg(long, value_name = "COUNT", help_heading = "Kafka")]
    pub batch_size: Option<u32>,
    /// What to do when the brokers are another cluster, the topic lost records, or another copy of the journal went on
    ///
    /// By default shipping stops until told.
    #[arg(long, value_name = "WHAT", help_heading = "Kafka")]
    pub kafka_on_new_cluster: Option<NewCluster>,
    /// Also send the `CloudEvents` attributes as headers
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), value_name = "BOOL", help_heading = "Kafka")]
    pub kafka_cloudevents: Option<bool>,
    /// Longest wait for Kafka's acknowledgements at a stop; the rest goes out after the next start
    #[arg(long, value_name = "MS", help_heading = "Kafka")]
    pub kafka_drain_timeout_ms: Option<u64>,

    /// Open HTTP connections
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub connections_max: Option<usize>,
    /// Requests that one HTTP/2 connection may have open; the next wait at the client
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub http2_connection_requests_max: Option<u32>,
    /// Requests that all HTTP/2 connections may have open; more get 503
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub http2_requests_max: Option<usize>,
    /// Request line and headers; more gets 431
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub head_bytes_max: Option<usize>,
    /// Until the head of the next request must be there
    #[arg(long, value_name = "MS", help_heading = "Limits")]
    pub head_timeout_ms: Option<u64>,
    /// From the head of a request to its answer; longer gets 408
    #[arg(long, value_name = "MS", help_heading = "Limits")]
    pub request_timeout_ms: Option<u64>,
    /// Body of a request; more gets 413
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub body_bytes_max: Option<usize>,
    /// Body of a batch; more gets 413
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub batch_bytes_max: Option<usize>,
    /// Transactions in a batch; more gets 400
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub batch_items_max: Option<usize>,
    /// `metadata` of a transaction, as compact JSON; more gets 400
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub metadata_bytes_max: Option<usize>,
    /// `details` of a change, as compact JSON; more gets 400
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub details_bytes_max: Option<usize>,
    /// Open holds; one more gets 503
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub open_holds_max: Option<usize>,
    /// Changes of one transaction; one more gets 409
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub audit_entries_max: Option<u32>,
    /// Commands that wait for the ledger; one more gets 503
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub queue_commands_max: Option<usize>,
    /// WebSocket connections; one more gets 503
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub ws_connections_max: Option<usize>,
    /// Subscriptions of one connection
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub ws_subscriptions_max: Option<usize>,
    /// Transaction and wallet ids in one subscription
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub ws_filter_ids_max: Option<usize>,
    /// A message from a subscriber; a longer one ends the connection with 1009
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub ws_message_bytes_max: Option<usize>,
    /// A subscriber is pinged this often
    #[arg(long, value_name = "MS", help_heading = "Limits")]
    pub ws_ping_every_ms: Option<u64>,
    /// A subscriber of which nothing is heard for so long is dropped
    #[arg(long, value_name = "MS", help_heading = "Limits")]
    pub ws_pong_within_ms: Option<u64>,
    /// A subscriber that takes nothing for so long is dropped
    #[arg(long, value_name = "MS", help_heading = "Limits")]
    pub ws_write_within_ms: Option<u64>,
    /// What may wait for one subscriber; beyond it the connection is closed with 4008
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub ws_queue_bytes_max: Option<usize>,

    /// Pages of the journal after which the next volume begins
    #[arg(long, value_name = "BYTES", help_heading = "Disk")]
    pub volume_bytes_max: Option<u64>,
    /// Longest wait of a commit for further commands, while more callers were there lately than it has commands of; 0: none
    #[arg(long, value_name = "MICROSECONDS", help_heading = "Disk")]
    pub group_wait_us: Option<u64>,
    /// Length of the write-ahead log, 64 KiB to 32 MiB; 0 goes without
    #[arg(long, value_name = "BYTES", help_heading = "Disk")]
    pub wal_bytes: Option<u64>,
    /// Pause between two rounds of checkpoints; a start replays what came in since the last one
    #[arg(long, value_name = "MS", help_heading = "Disk")]
    pub checkpoint_interval_ms: Option<u64>,
    /// Pause between two files of a round of checkpoints: longer rounds, for shorter waits of everybody else
    #[arg(long, value_name = "MS", help_heading = "Disk")]
    pub checkpoint_pace_ms: Option<u64>,
    /// Age of a sync under way from which writes get 503
    #[arg(long, value_name = "MS", help_heading = "Disk")]
    pub sync_stalled_ms: Option<u64>,
    /// Age of a sync under way from which the disk counts as dead and the process ends with 74
    #[arg(long, value_name = "MS", help_heading = "Disk")]
    pub sync_dead_ms: Option<u64>,
    /// Free space of the data folder's disk below which writes get 503; 0: write until the disk refuses
    #[arg(long, value_name = "BYTES", help_heading = "Disk")]
    pub disk_reserve_bytes: Option<u64>,

    /// How the log looks
    #[arg(long, value_name = "FORMAT", help_heading = "Log")]
    pub log_format: Option<LogFormat>,
    /// error, warn, info, debug, trace, or target=level,…
    #[arg(long, value_name = "LEVEL", help_heading = "Log")]
    pub log_level: Option<String>,
}

/// [`Delivery`] as a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum KafkaDelivery {
    /// Only where the network still delivers what a process sent that died; repeats show in their sequences
    Idempotent,
    /// Never, for consumers that read only what is committed; costs latency and the brokers' CPU
    ExactlyOnce,
}

impl From<KafkaDelivery> for Delivery {
    fn from(word: KafkaDelivery) -> Self {
        match word {
            KafkaDelivery::Idempotent => Self::Idempotent,
            KafkaDelivery::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

/// [`OnNewCluster`] as a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum NewCluster {
    /// Ship everything that the journal has, from the beginning
    Reship,
    /// Go on behind what was acknowledged; the new topic lacks all before it
    Continue,
}

impl From<NewCluster> for OnNewCluster {
    fn from(word: NewCluster) -> Self {
        match word {
            NewCluster::Reship => Self::Reship,
            NewCluster::Continue => Self::Continue,
        }
    }
}

/// [`logging::Format`] as a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// A line for a person; with colours on a terminal
    Human,
    /// An object a line, for machines
    Json,
}

impl From<LogFormat> for logging::Format {
    fn from(word: LogFormat) -> Self {
        match word {
            LogFormat::Human => Self::Human,
            LogFormat::Json => Self::Json,
        }
    }
}

/// Settings whose variable is the one that everybody sets, without `ECHOPAY_`.
pub const PLAIN_VARIABLES: [(&str, &str); 3] = [
    ("kafka_brokers", "KAFKA_BROKERS"),
    ("kafka_topic", "KAFKA_TOPIC"),
    ("port", "PORT"),
];

impl Settings {
    /// This layer over a weaker one. Address and port are one thing: who gives one of them here hides both below.
    #[must_use]
    pub fn over(self, mut weaker: Self) -> Self {
        if self.listen.is_some() || self.port.is_some() {
            (weaker.listen, weaker.port) = (None, None);
        }
        macro_rules! lay {
            ($($field:ident),* $(,)?) => { Self { $($field: self.$field.or(weaker.$field)),* } };
        }
        lay!(
            listen,
            port,
            data_dir,
            currency,
            shutdown_grace_ms,
            opening_balance,
            tokens_file,
            accept_dev_store,
            insecure,
            cors_origin,
            kafka_brokers,
            kafka_topic,
            kafka_config,
            kafka_event_types,
            kafka_partitions,
            kafka_replication,
            kafka_delivery,
            batch_window,
            batch_size,
            kafka_on_new_cluster,
            kafka_cloudevents,
            kafka_drain_timeout_ms,
            connections_max,
            http2_connection_requests_max,
            http2_requests_max,
            head_bytes_max,
            head_timeout_ms,
            request_timeout_ms,
            body_bytes_max,
            batch_bytes_max,
            batch_items_max,
            metadata_bytes_max,
            details_bytes_max,
            open_holds_max,
            audit_entries_max,
            queue_commands_max,
            ws_connections_max,
            ws_subscriptions_max,
            ws_filter_ids_max,
            ws_message_bytes_max,
            ws_ping_every_ms,
            ws_pong_within_ms,
            ws_write_within_ms,
            ws_queue_bytes_max,
            volume_bytes_max,
            group_wait_us,
            wal_bytes,
            checkpoint_interval_ms,
            checkpoint_pace_ms,
            sync_stalled_ms,
            sync_dead_ms,
            disk_reserve_bytes,
            log_format,
            log_level,
        )
    }
}

/// What the command line and the environment ask for.
#[derive(Clone, PartialEq, Debug)]
pub enum Asked {
    /// The service.
    Service(Invocation),
    /// A command beside it.
    Tool(ToolInvocation),
    /// The load generator.
    Bench(Bench),
}

/// The service, with what it was told.
#[derive(Clone, PartialEq, Debug)]
pub struct Invocation {
    /// Which command.
    pub mode: Mode,
    /// Where the file layer is, if there is one.
    pub config_file: Option<PathBuf>,
    /// The flags over the environment.
    pub settings: Settings,
    /// Stop in order when the process of this number, which started this one, dies: for who starts an instance for a while.
    pub stops_with_parent: Option<i32>,
}

/// Why there is nothing to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Help or version was asked for: print this on stdout and end well.
    Print(String),
    /// One line that says what is wrong: [`Exit::Usage`].
    Usage(String),
    /// The same for who reads stdout as JSON: a command beside the service with `--json`.
    UsageAsJson(String),
}

/// Reads this process's arguments and environment.
///
/// # Errors
/// [`Stop`]; nothing was touched.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
pub fn parse() -> Result<Asked, Stop> {
    parse_from(std::env::args_os().skip(1).collect(), &|name| {
        std::env::var_os(name)
    })
}

/// Reads arguments (without the program's name) and variables.
///
/// # Errors
/// [`Stop`].
pub fn parse_from(
    args: Vec<OsString>,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Asked, Stop> {
    let wants_json = tools::wants_json(&args);
    read(args, variable).map_err(|stop| match stop {
        Stop::Usage(line) if wants_json => Stop::UsageAsJson(line),
        stop => stop,
    })
}

fn read(args: Vec<OsString>, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Asked, Stop> {
    if args.is_empty() {
        return Err(Stop::Usage(
            "which command? `echopay dev` for this machine, `echopay serve` for production, `echopay --help` for more"
                .into(),
        ));
    }
    let cli = parse_layer(args).map_err(|error| stop(&error))?;
    Ok(match cli.command {
        Command::Dev(flags) => Asked::Service(layered(Mode::Dev, flags, variable)?),
        Command::Serve(flags) => Asked::Service(layered(Mode::Serve, flags, variable)?),
        Command::Tool(command) => {
            let mut asked = ToolInvocation::from(command);
            let flags = CommandArgs {
                config: asked.config_file,
                settings: asked.settings,
                stop_with_parent: None,
            };
            // The variables are those of the service; one that says nothing to this command does not stop it.
            let used: Vec<String> = asked.tool.settings().map(variable_of).collect();
            let variable = |name: &str| {
                used.iter()
                    .any(|used| used == name)
                    .then(|| variable(name))?
            };
            let read = layered(Mode::Serve, flags, &variable)?;
            (asked.config_file, asked.settings) = (read.config_file, read.settings);
            Asked::Tool(asked)
        }
        Command::Bench(args) => {
            let bench = Bench::from(args);
            if let Bench::Run(options) = &bench {
                options.check().map_err(Stop::Usage)?;
            }
            Asked::Bench(bench)
        }
    })
}

/// The flags over the environment.
fn layered(
    mode: Mode,
    flags: CommandArgs,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Invocation, Stop> {
    let word = match mode {
        Mode::Dev => "dev",
        Mode::Serve => "serve",
    };
    let mut settings = flags.settings;
    let mut config_file = flags.config;
    // One variable at a time, so that an error names it.
    for (flag, name) in variables() {
        // An empty variable is one that is not set: compose files pass them on that way.
        let Some(value) = variable(&name).filter(|value| !value.is_empty()) else {
            continue;
        };
        let mut arg = OsString::from(format!("--{flag}="));
        arg.push(value);
        let layer = parse_layer(vec![word.into(), arg])
            .map_err(|error| Stop::Usage(format!("{name}: {}", one_line(&error))))?;
        let (Command::Dev(layer) | Command::Serve(layer)) = layer.command else {
            continue;
        };
        config_file = config_file.or(layer.config);
        settings = settings.over(layer.settings);
    }
    Ok(Invocation {
        mode,
        config_file,
        settings,
        stops_with_parent: flags.stop_with_parent,
    })
}

/// This program's file, for who starts another instance of it.
///
/// # Errors
/// What the system says.
pub fn own_executable() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// The variables that the service reads, for who starts an instance that shall not hear of them.
pub fn service_variables() -> impl Iterator<Item = String> {
    variables().into_iter().map(|(_, variable)| variable)
}

fn parse_layer(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    let program = std::iter::once(OsString::from("echopay"));
    Cli::from_arg_matches(&command().try_get_matches_from(program.chain(args))?)
}

/// The command with what the derive does not know: variables, defaults, examples.
fn command() -> clap::Command {
    let teach = |command: clap::Command, examples: &str, of_the_other: &str| {
        let command = command.mut_args(|arg| {
            let hidden = arg.get_help_heading() == Some(of_the_other);
            let id = arg.get_id().as_str().to_owned();
            let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            if !tools::OWN_OPTIONS.contains(&id.as_str()) {
                let _infallible = write!(help, " [env: {}]", variable_of(&id));
            }
            if let Some(default) = config::default_text(&id) {
                let _infallible = write!(help, " [default: {default}]");
            }
            if let ArgAction::Append = arg.get_action() {
                let _infallible = write!(help, " (may be repeated)");
            }
            arg.help(help).hide(hidden)
        });
        command.after_help(examples.to_owned())
    };
    let mut codes = String::from("Exit codes:\n");
    for exit in Exit::ALL {
        let _infallible = writeln!(codes, "  {:>2}  {}", exit.code(), exit.meaning());
    }
    let cli = Cli::command()
        .after_help(format!("{EXAMPLES}\n{codes}"))
        .mut_subcommand("dev", |command| teach(command, DEV_EXAMPLES, SERVE_ONLY))
        .mut_subcommand("serve", |command| teach(command, SERVE_EXAMPLES, DEV_ONLY));
    tools::EXAMPLES.iter().fold(cli, |cli, (name, examples)| {
        cli.mut_subcommand(name, |command| teach(command, examples, SERVE_ONLY))
    })
}

const EXAMPLES: &str = "\
Examples:
  echopay dev                                 try it: http://127.0.0.1:8001, data in ./echopay-data
  KAFKA_BROKERS=localhost:9092 echopay dev    … and stream the events to Kafka
  echopay serve --config /etc/echopay.toml    production, settings from a file

Settings: a flag is stronger than its variable, a variable than the file, the file than the default.
`echopay dev --help` and `echopay serve --help` list them; the other commands take those that they name.
";

const DEV_EXAMPLES: &str = "\
Examples:
  echopay dev
  echopay dev --port 9000 --opening-balance 50.00
  echopay dev --kafka-brokers localhost:9092 --batch-window 5
  echopay dev --listen 127.0.0.1:0 --data-dir /tmp/try   (the first line of stdout tells the port)

Then:
  curl -s localhost:8001/api/v1/transactions -H 'content-type: application/json' -d '{
    \"from_wallet\": \"11111111-1111-4111-8111-111111111111\",
    \"to_wallet\": \"22222222-2222-4222-8222-222222222222\",
    \"amount\": 12.50, \"currency\": \"USD-CBDC\"}'";

const SERVE_EXAMPLES: &str = "\
Examples:
  echopay serve --listen 0.0.0.0:8001 --tokens-file /etc/echopay/tokens.toml
  echopay serve --config /etc/echopay.toml --log-format json
  echopay serve --kafka-brokers b1:9093,b2:9093 --kafka-config security.protocol=SASL_SSL \\
                --kafka-config sasl.mechanism=SCRAM-SHA-512 --kafka-config sasl.username=echopay
                (and ECHOPAY_KAFKA_CONFIG='sasl.password=…' would replace them all: keep passwords in the file)

The file:
  listen = \"0.0.0.0:8001\"
  data-dir = \"/var/lib/echopay\"
  tokens-file = \"/etc/echopay/tokens.toml\"
  kafka-brokers = \"b1:9092,b2:9092\"
  kafka-config = [\"security.protocol=SSL\"]";

/// Each flag with its variable.
fn variables() -> Vec<(String, String)> {
    let cli = Cli::command();
    let Some(dev) = cli.find_subcommand("dev") else {
        return Vec::new();
    };
    dev.get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .filter_map(|arg| {
            Some((
                arg.get_long()?.to_owned(),
                variable_of(arg.get_id().as_str()),
            ))
        })
        .collect()
}

/// The variable of a setting.
fn variable_of(id: &str) -> String {
    PLAIN_VARIABLES
        .into_iter()
        .find(|(plain, _)| *plain == id)
        .map_or_else(
            || format!("ECHOPAY_{}", id.to_uppercase()),
            |(_, name)| name.into(),
        )
}

fn stop(error: &clap::Error) -> Stop {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Print(error.to_string()),
        _ => Stop::Usage(one_line(error)),
    }
}

/// Clap's message without its frame: what is wrong, and its tip.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ");
    said.strip_prefix("error: ").unwrap_or(&said).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str], variables: &[(&str, &str)]) -> Result<Invocation, Stop> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        match parse_from(args.iter().map(OsString::from).collect(), &variable)? {
            Asked::Service(invocation) => Ok(invocation),
            other => panic!("{other:?} is not the service"),
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn a_flag_is_stronger_than_its_variable_and_an_empty_variable_is_none() {
        let variables = [("KAFKA_TOPIC", "from-variable"), ("KAFKA_BROKERS", "")];
        let both = parsed(&["dev", "--kafka-topic", "from-flag"], &variables)
            .unwrap()
            .settings;
        assert_eq!(both.kafka_topic.as_deref(), Some("from-flag"));
        let variable = parsed(&["dev"], &variables).unwrap().settings;
        assert_eq!(variable.kafka_topic.as_deref(), Some("from-variable"));
        assert_eq!(variable.kafka_brokers, None);
    }

    #[test]
    fn address_and_port_are_one_setting_across_the_layers() {
        let variables = [("PORT", "9000")];
        let flag = parsed(&["dev", "--listen", "127.0.0.1:7000"], &variables)
            .unwrap()
            .settings;
        assert_eq!(
            (flag.listen.map(|listen| listen.port()), flag.port),
            (Some(7000), None)
        );
        let variable = parsed(&["dev"], &variables).unwrap().settings;
        assert_eq!((variable.listen, variable.port), (None, Some(9000)));
    }

    /// One value for each setting, so that a new one cannot be forgotten in a layer.
    const EACH_SETTING: [(&str, &str, &str); 54] = [
        ("listen", "127.0.0.1:7000", r#""127.0.0.1:7000""#),
        ("port", "7000", "7000"),
        ("data-dir", "/d", r#""/d""#),
        ("currency", "JPY:0", r#"["JPY:0"]"#),
        ("shutdown-grace-ms", "5", "5"),
        ("opening-balance", "5", r#""5""#),
        ("tokens-file", "/t", r#""/t""#),
        ("accept-dev-store", "true", "true"),
        ("insecure", "true", "true"),
        (
            "cors-origin",
            "http://a,http://b",
            r#"["http://a", "http://b"]"#,
        ),
        ("kafka-brokers", "b:1,c:2", r#""b:1,c:2""#),
        ("kafka-topic", "t", r#""t""#),
        ("kafka-config", "a=b,c;d=e", r#"["a=b,c", "d=e"]"#),
        ("kafka-event-types", "a,b", r#"["a", "b"]"#),
        ("kafka-partitions", "3", "3"),
        ("kafka-replication", "-1", "-1"),
        ("kafka-delivery", "exactly-once", r#""exactly-once""#),
        ("batch-window", "3", "3"),
        ("batch-size", "3", "3"),
        ("kafka-on-new-cluster", "reship", r#""reship""#),
        ("kafka-cloudevents", "true", "true"),
        ("kafka-drain-timeout-ms", "3", "3"),
        ("connections-max", "3", "3"),
        ("http2-connection-requests-max", "3", "3"),
        ("http2-requests-max", "3", "3"),
        ("head-bytes-max", "3", "3"),
        ("head-timeout-ms", "3", "3"),
        ("request-timeout-ms", "3", "3"),
        ("body-bytes-max", "3", "3"),
        ("batch-bytes-max", "3", "3"),
        ("batch-items-max", "3", "3"),
        ("metadata-bytes-max", "3", "3"),
        ("details-bytes-max", "3", "3"),
        ("open-holds-max", "3", "3"),
        ("audit-entries-max", "3", "3"),
        ("queue-commands-max", "3", "3"),
        ("ws-connections-max", "3", "3"),
        ("ws-subscriptions-max", "3", "3"),
        ("ws-filter-ids-max", "3", "3"),
        ("ws-message-bytes-max", "3", "3"),
        ("ws-ping-every-ms", "3", "3"),
        ("ws-pong-within-ms", "3", "3"),
        ("ws-write-within-ms", "3", "3"),
        ("ws-queue-bytes-max", "3", "3"),
        ("volume-bytes-max", "3", "3"),
        ("group-wait-us", "3", "3"),
        ("wal-bytes", "3", "3"),
        ("checkpoint-interval-ms", "3", "3"),
        ("checkpoint-pace-ms", "3", "3"),
        ("sync-stalled-ms", "3", "3"),
        ("sync-dead-ms", "3", "3"),
        ("disk-reserve-bytes", "3", "3"),
        ("log-format", "json", r#""json""#),
        ("log-level", "warn", r#""warn""#),
    ];

    #[test]
    fn every_setting_is_a_flag_a_variable_and_a_key_with_one_meaning() {
        let mut named: Vec<String> = variables().into_iter().map(|(flag, _)| flag).collect();
        named.retain(|flag| flag != "config");
        assert_eq!(
            named,
            EACH_SETTING.map(|(name, _, _)| name),
            "name each setting here"
        );

        for (name, text, toml) in EACH_SETTING {
            let flag = parsed(&["serve", &format!("--{name}={text}")], &[])
                .unwrap()
                .settings;
            let variable = variable_of(&name.replace('-', "_"));
            let variable = parsed(&["serve"], &[(&variable, text)]).unwrap().settings;
            let key: Settings = ::toml::from_str(&format!("{name} = {toml}")).unwrap();
            assert_ne!(flag, Settings::default(), "{name}");
            assert_eq!(flag, variable, "{name}");
            assert_eq!(flag, key, "{name}");
            assert_eq!(
                Settings::default().over(flag.clone()),
                flag,
                "{name} over the weaker layer"
            );
            assert_eq!(flag.clone().over(Settings::default()), flag, "{name}");
        }
    }

    #[test]
    fn a_wrong_word_is_one_line_that_names_where_it_stands() {
        let line = |args: &[&str], variables: &[(&str, &str)]| match parsed(args, variables) {
            Err(Stop::Usage(line)) => {
                assert!(!line.contains('\n'), "{line}");
                line
            }
            other => panic!("expected a usage error, got {other:?}"),
        };
        assert!(line(&["dev", "--port", "x"], &[]).contains("--port"));
        assert!(line(&["dev"], &[("PORT", "x")]).starts_with("PORT: "));
        assert!(line(&["dev", "--prot", "1"], &[]).contains("'--port'"));
        assert!(line(&["sevre"], &[]).contains("serve"));
        assert!(line(&[], &[]).contains("echopay dev"));
        assert!(line(&["dev", "--log-format", "xml"], &[]).contains("human, json"));
    }

    #[test]
    fn the_help_of_a_command_teaches_variables_defaults_and_examples() {
        let Err(Stop::Print(help)) = parsed(&["dev", "--help"], &[]) else {
            panic!("help is printed");
        };
        for taught in [
            "KAFKA_BROKERS",
            "ECHOPAY_DATA_DIR",
            "127.0.0.1:8001",
            "Examples:",
        ] {
            assert!(help.contains(taught), "{taught} is not in\n{help}");
        }
        assert!(!help.contains("--tokens-file"), "what only `serve` knows");
        let Err(Stop::Print(help)) = parsed(&["--help"], &[]) else {
            panic!("help is printed");
        };
        for exit in Exit::ALL {
            assert!(help.contains(&format!("{:>2}  {}", exit.code(), exit.meaning())));
        }
    }
}
