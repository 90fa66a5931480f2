//! The commands beside the service: what looks at its data, carries it elsewhere and brings it back.

use super::Settings;
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// As the command line has them.
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Check everything that the data folder holds
    ///
    /// Recovers the store as a start does, then checks each page, the chain, the numbers, every entry against books
    /// that are made anew, and the checkpoint and the cursor against those. With --kafka also the topic.
    Verify(VerifyArgs),
    /// Write the journal as JSON lines
    Export(ExportArgs),
    /// Make a new data folder of an export
    ///
    /// Sequences, ids, balances and the hash chain are those of the export; the epoch is raised.
    Import(ImportArgs),
    /// Take a backup of a running service, which goes on meanwhile
    Backup(BackupArgs),
    /// Make a new data folder of a backup
    ///
    /// Sequences, ids, balances and the hash chain are those of the backup; the epoch is raised.
    Restore(RestoreArgs),
}

#[derive(Args, Debug)]
pub(super) struct PlaceArgs {
    /// The service's settings file; other settings than those named here are read past
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the journal and of everything derived from it
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// Report as one JSON object on stdout, without a progress bar
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// Also read the topic: each event up to the cursor is there, in order, once
    #[arg(long)]
    kafka: bool,
    /// Brokers to start from
    #[arg(long, value_name = "HOST:PORT,…", requires = "kafka")]
    kafka_brokers: Option<String>,
    /// Topic of the events
    #[arg(long, value_name = "NAME", requires = "kafka")]
    kafka_topic: Option<String>,
    /// A property of librdkafka, stronger than ours
    #[arg(
        long,
        value_name = "KEY=VALUE",
        value_delimiter = ';',
        requires = "kafka"
    )]
    kafka_config: Option<Vec<String>>,
    /// Types of events that are published
    #[arg(long, value_name = "TYPE", value_delimiter = ',', requires = "kafka")]
    kafka_event_types: Option<Vec<String>>,
}

#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// Where to; `-` is stdout. An existing file is refused
    #[arg(value_name = "FILE")]
    output: PathBuf,
    /// Compress with Zstandard
    #[arg(long)]
    zstd: bool,
    /// First sequence; an export that does not begin at the journal's oldest cannot be imported
    #[arg(long, value_name = "SEQUENCE")]
    from: Option<u64>,
    /// Last sequence
    #[arg(long, value_name = "SEQUENCE")]
    to: Option<u64>,
}

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// What `export` wrote, compressed or not; `-` is stdin
    #[arg(value_name = "FILE")]
    input: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    report: ReportArgs,
    /// The running service
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    url: String,
    /// A file that holds a token with scope `admin`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Where to; `-` is stdout. An existing file is refused
    #[arg(value_name = "FILE")]
    output: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// What `backup` wrote; `-` is stdin
    #[arg(value_name = "FILE")]
    input: PathBuf,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tool {
    /// Check the data folder.
    Verify {
        /// And the topic.
        kafka: bool,
    },
    /// Write the journal as JSON lines.
    Export {
        /// A new file, or `-`.
        output: PathBuf,
        /// Compressed.
        zstd: bool,
        /// First sequence; the oldest by default.
        from: Option<u64>,
        /// Last sequence; the newest by default.
        to: Option<u64>,
    },
    /// Make a data folder of an export.
    Import {
        /// A file, or `-`.
        input: PathBuf,
    },
    /// Take a backup of a running service.
    Backup {
        /// The service, `http://host:port`.
        url: String,
        /// Where the token is.
        token_file: Option<PathBuf>,
        /// A new file.
        output: PathBuf,
    },
    /// Make a data folder of a backup.
    Restore {
        /// The file.
        input: PathBuf,
    },
}

/// A command beside the service, with what it was told.
#[derive(Clone, PartialEq, Debug)]
pub struct ToolInvocation {
    /// Which, with its own options.
    pub tool: Tool,
    /// Report as JSON.
    pub json: bool,
    /// Where the file layer is, if there is one.
    pub config_file: Option<PathBuf>,
    /// The flags (later: over the environment).
    pub settings: Settings,
}

impl Tool {
    /// The settings of the service that it reads, as the fields of [`Settings`] are called, and `config`.
    pub(super) fn settings(&self) -> impl Iterator<Item = &'static str> + use<> {
        let place: &[&str] = match self {
            Self::Backup { .. } => &[],
            Self::Verify { .. } | Self::Export { .. } => &["config", "data_dir"],
            Self::Import { .. } | Self::Restore { .. } => {
                &["config", "data_dir", "volume_bytes_max"]
            }
        };
        let kafka: &[&str] = match self {
            Self::Verify { kafka: true } => &[
                "kafka_brokers",
                "kafka_topic",
                "kafka_config",
                "kafka_event_types",
            ],
            _ => &[],
        };
        place.iter().chain(kafka).copied()
    }
}

/// Options that are no setting of the service, and so have no variable.
pub(super) const OWN_OPTIONS: [&str; 9] = [
    "json",
    "kafka",
    "output",
    "zstd",
    "from",
    "to",
    "input",
    "url",
    "token_file",
];

/// What the help of each command ends with.
pub(super) const EXAMPLES: [(&str, &str); 5] = [
    (
        "verify",
        "\
Examples:
  echopay verify --data-dir /var/lib/echopay
  echopay verify --config /etc/echopay.toml --kafka --json",
    ),
    (
        "export",
        "\
Examples:
  echopay export journal.jsonl
  echopay export - --zstd --data-dir /var/lib/echopay | ssh elsewhere 'cat > journal.zst'
  echopay export - --from 1000 --to 1010",
    ),
    (
        "import",
        "\
Examples:
  echopay import journal.jsonl --data-dir /var/lib/echopay-new

ECHOPAY_VOLUME_BYTES_MAX, or volume-bytes-max in the file, cuts the volumes as for the service.",
    ),
    (
        "backup",
        "\
Examples:
  echopay backup echopay.backup --token-file /etc/echopay/backup.token
  echopay backup - | zstd > echopay.backup.zst",
    ),
    (
        "restore",
        "\
Examples:
  echopay restore echopay.backup --data-dir /var/lib/echopay-new
  zstd -dc echopay.backup.zst | echopay restore - --data-dir /var/lib/echopay-new

ECHOPAY_VOLUME_BYTES_MAX, or volume-bytes-max in the file, cuts the volumes as for the service.",
    ),
];

/// Whether these arguments (without the program's name) ask a command beside the service, or `bench`, for JSON, right or
/// wrong as they are otherwise.
pub(super) fn wants_json(args: &[OsString]) -> bool {
    let is_tool = args
        .first()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name == "bench" || Command::has_subcommand(name));
    let mut options = args.iter().take_while(|arg| *arg != "--");
    is_tool && options.any(|arg| arg == "--json")
}

impl From<Command> for ToolInvocation {
    fn from(command: Command) -> Self {
        match command {
            Command::Verify(args) => {
                let tool = Tool::Verify { kafka: args.kafka };
                let mut invocation = invocation(tool, &args.report, Some(args.place));
                invocation.settings.kafka_brokers = args.kafka_brokers;
                invocation.settings.kafka_topic = args.kafka_topic;
                invocation.settings.kafka_config = args.kafka_config;
                invocation.settings.kafka_event_types = args.kafka_event_types;
                invocation
            }
            Command::Export(args) => {
                let tool = Tool::Export {
                    output: args.output,
                    zstd: args.zstd,
                    from: args.from,
                    to: args.to,
                };
                invocation(tool, &args.report, Some(args.place))
            }
            Command::Import(args) => {
                let tool = Tool::Import { input: args.input };
                invocation(tool, &args.report, Some(args.place))
            }
            Command::Backup(args) => {
                let tool = Tool::Backup {
                    url: args.url,
                    token_file: args.token_file,
                    output: args.output,
                };
                invocation(tool, &args.report, None)
            }
            Command::Restore(args) => {
                let tool = Tool::Restore { input: args.input };
                invocation(tool, &args.report, Some(args.place))
            }
        }
    }
}

fn invocation(tool: Tool, report: &ReportArgs, place: Option<PlaceArgs>) -> ToolInvocation {
    let (config_file, data_dir) =
        place.map_or((None, None), |place| (place.config, place.data_dir));
    ToolInvocation {
        tool,
        json: report.json,
        config_file,
        settings: Settings {
            data_dir,
            ..Settings::default()
        },
    }
}
