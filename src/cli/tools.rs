//! The commands beside the service: what looks at its data, carries it elsewhere and brings it back.

use super::Settings;
use clap::{Args, Subcommand};
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
    /// Where to. An existing file is refused
    #[arg(value_name = "FILE")]
    output: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// What `backup` wrote
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
