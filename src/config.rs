//! The whole configuration as types, made of its layers and checked before a port is bound.
//!
//! Each part's own settings, with their defaults, live in the part; this file lays the given ones over them and checks
//! what no part can check alone. An error is one line that names the setting.

use crate::auth::Access;
use crate::cli::{Invocation, Settings};
use crate::types::{Currencies, Currency, CurrencyInfo};
use crate::{auth, http, journal, ledger, logging, money, pipeline, tracker, ws};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where both commands listen when not told otherwise.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);

/// `echopay dev`: what an unknown wallet is opened with, in each currency.
const OPENING_BALANCE_DEFAULT: &str = "1000000.00";

/// Which command runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// `echopay dev`: nobody is asked who he is, unknown wallets are opened on sight.
    Dev,
    /// `echopay serve`.
    Serve,
}

/// All that the service needs to know, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which command.
    pub mode: Mode,
    /// Where to listen. Default 127.0.0.1:8001; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Default USD-CBDC, EUR-CBDC and GBP-CBDC; what is configured comes behind them.
    pub currencies: Currencies,
    /// Open a store although `dev` has made it. Default no; always yes in `dev`.
    pub accept_dev_store: bool,
    /// Who may call; the tokens file is read already.
    pub access: Arc<Access>,
    /// The log.
    pub logging: logging::Config,
    /// Where the journal is.
    pub journal: journal::Config,
    /// Bounds of the ledger; in `dev` with opening balances.
    pub ledger: ledger::Config,
    /// Kafka.
    pub pipeline: pipeline::Config,
    /// Limits and times of HTTP.
    pub http: http::Config,
    /// Who hears what.
    pub tracker: tracker::Config,
    /// Limits and times of the `WebSocket` endpoint.
    pub ws: ws::Config,
}

/// A setting that cannot be used. Nothing was touched.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config file {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML of ours.
    #[error("config file {}, line {line}: {message}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A value that its part refuses.
    #[error("{setting}: {reason}")]
    Value {
        /// The setting, as a flag without dashes.
        setting: &'static str,
        /// What is wrong, with the bounds.
        reason: String,
    },
    /// Two settings that exclude each other, or one that belongs to the other command.
    #[error("{0}")]
    Contradiction(&'static str),
    /// Kafka settings that cannot work.
    #[error(transparent)]
    Pipeline(#[from] pipeline::ConfigError),
    /// The tokens file cannot be read, or says something that cannot be meant.
    #[error("tokens-file: {0}")]
    Tokens(#[from] auth::TokensError),
    /// The log's level.
    #[error(transparent)]
    Level(#[from] logging::LevelError),
}

/// What a command beside the service needs to know of the service's settings, checked.
#[derive(Clone, Debug)]
pub struct ToolConfig {
    /// Where the journal is.
    pub journal: journal::Config,
    /// Where the books are.
    pub ledger: ledger::Config,
    /// Kafka.
    pub pipeline: pipeline::Config,
}

impl ToolConfig {
    /// Lays the settings over the file and the defaults. What no command needs is not looked at.
    ///
    /// # Errors
    /// [`ConfigError`], the first that is found.
    pub fn load(config_file: Option<PathBuf>, settings: &Settings) -> Result<Self, ConfigError> {
        let settings = match config_file {
            None => settings.clone(),
            Some(path) => settings.clone().over(read_file(&path)?),
        };
        let settings = Settings {
            data_dir: settings.data_dir,
            volume_bytes_max: settings.volume_bytes_max,
            kafka_brokers: settings.kafka_brokers,
            kafka_topic: settings.kafka_topic,
            kafka_config: settings.kafka_config,
            kafka_event_types: settings.kafka_event_types,
            ..Settings::default()
        };
        let default = ledger::Config::default();
        let ledger = ledger::Config {
            data_dir: settings.data_dir.clone().unwrap_or(default.data_dir),
            ..ledger::Config::default()
        };
        Ok(Self {
            journal: journal(&settings, &ledger.data_dir)?,
            pipeline: pipeline(&settings)?,
            ledger,
        })
    }
}

impl Config {
    /// Lays the invocation over its file and the defaults, and checks the whole.
    ///
    /// # Errors
    /// [`ConfigError`], the first that is found.
    pub fn load(invocation: Invocation) -> Result<Self, ConfigError> {
        let Invocation {
            mode,
            config_file,
            settings,
            stops_with_parent: _,
        } = invocation;
        let settings = match config_file {
            None => settings,
            Some(path) => settings.over(read_file(&path)?),
        };
        Self::from_settings(mode, &settings)
    }

    /// Lays the settings over the defaults, and checks the whole.
    ///
    /// # Errors
    /// [`ConfigError`], the first that is found.
    pub fn from_settings(mode: Mode, settings: &Settings) -> Result<Self, ConfigError> {
        check_contradictions(mode, settings)?;
        let listen = listen(settings)?;
        check_exposure(mode, listen, settings)?;
        let currencies = currencies(settings.currency.as_deref().unwrap_or_default())?;
        let log_default = logging::Config::default();
        let logging = logging::Config {
            format: settings.log_format.map_or(log_default.format, Into::into),
            level: settings.log_level.clone().unwrap_or(log_default.level),
        };
        logging::check_level(&logging.level)?;
        let ledger = ledger(mode, settings, &currencies)?;
        Ok(Self {
            mode,
            listen,
            accept_dev_store: mode == Mode::Dev || settings.accept_dev_store == Some(true),
            journal: journal(settings, &ledger.data_dir)?,
            pipeline: pipeline(settings)?,
            tracker: tracker(settings)?,
            http: http(settings)?,
            ws: ws(settings)?,
            access: Arc::new(access(settings)?),
            currencies,
            logging,
            ledger,
        })
    }
}

fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.into(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| {
        let before = error
            .span()
            .and_then(|span| text.get(..span.start))
            .unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let message = error.message().replace('\n', "; ");
        ConfigError::File {
            path: path.into(),
            line,
            message,
        }
    })
}

/// What belongs to the other command, or excludes something else.
fn check_contradictions(mode: Mode, settings: &Settings) -> Result<(), ConfigError> {
    let contradiction = match mode {
        Mode::Dev if settings.tokens_file.is_some() => {
            "tokens-file is for `echopay serve`: `dev` asks nobody who he is"
        }
        Mode::Dev if settings.accept_dev_store.is_some() => {
            "accept-dev-store is for `echopay serve`"
        }
        Mode::Serve if settings.opening_balance.is_some() => {
            "opening-balance is for `echopay dev`: `serve` opens no wallet on sight"
        }
        Mode::Serve if settings.insecure == Some(true) && settings.tokens_file.is_some() => {
            "insecure and tokens-file contradict each other: with tokens, callers are asked"
        }
        Mode::Dev | Mode::Serve => return Ok(()),
    };
    Err(ConfigError::Contradiction(contradiction))
}

fn listen(settings: &Settings) -> Result<SocketAddr, ConfigError> {
    match (settings.listen, settings.port) {
        (Some(listen), Some(port)) if listen.port() != port => Err(ConfigError::Contradiction(
            "listen and port name different ports: give one of them",
        )),
        (Some(listen), _) => Ok(listen),
        (None, Some(port)) => Ok(SocketAddr::new(LISTEN_DEFAULT.ip(), port)),
        (None, None) => Ok(LISTEN_DEFAULT),
    }
}

/// Nobody becomes reachable from other machines by accident.
fn check_exposure(mode: Mode, listen: SocketAddr, settings: &Settings) -> Result<(), ConfigError> {
    let guarded = settings.tokens_file.is_some() || settings.insecure == Some(true);
    if listen.ip().is_loopback() || guarded {
        return Ok(());
    }
    Err(ConfigError::Contradiction(match mode {
        Mode::Dev => {
            "listen: `dev` asks nobody who he is, so it listens on loopback only; insecure allows other addresses"
        }
        Mode::Serve => {
            "listen: an address that other machines reach needs tokens-file; insecure allows it without"
        }
    }))
}

/// The built-in currencies and behind them, in order, the configured ones: tags in the journal follow the order.
fn currencies(configured: &[String]) -> Result<Currencies, ConfigError> {
    let invalid = |reason: String| ConfigError::Value {
        setting: "currency",
        reason,
    };
    let mut rows = Currencies::default().rows().to_vec();
    for text in configured {
        let expected = || {
            invalid(format!(
                "{text:?}: expected CODE:EXPONENT, such as JPY-CBDC:0"
            ))
        };
        let (code, exponent) = text.split_once(':').ok_or_else(expected)?;
        let exponent = exponent.parse().map_err(|_| expected())?;
        let tag = rows
            .iter()
            .map(|row| row.currency.tag())
            .max()
            .unwrap_or(0)
            .saturating_add(1);
        rows.push(CurrencyInfo {
            currency: Currency::from_tag(tag),
            code: code.into(),
            exponent,
        });
    }
    Currencies::new(rows).ok_or_else(|| {
        invalid(format!(
            "{}: a code is 1 to 16 of A-Z, 0-9 and '-', stands once (USD-CBDC, EUR-CBDC, GBP-CBDC are built in), \
             with 0 to {} decimals; at most {} currencies",
            configured.join(","),
            Currencies::EXPONENT_MAX,
            Currencies::COUNT_MAX
        ))
    })
}

fn journal(settings: &Settings, data_dir: &Path) -> Result<journal::Config, ConfigError> {
    let default = journal::Config::new(data_dir);
    Ok(journal::Config {
        volume_bytes_max: within(
            "volume-bytes-max",
            settings.volume_bytes_max,
            default.volume_bytes_max,
            1 << 20..=1 << 34,
        )?,
        wal_bytes: match settings.wal_bytes {
            Some(0) => 0,
            given => within(
                "wal-bytes",
                given,
                default.wal_bytes,
                journal::Config::WAL_BYTES_MIN..=journal::Config::WAL_BYTES_MAX,
            )?,
        },
        ..default
    })
}

fn ledger(
    mode: Mode,
    settings: &Settings,
    currencies: &Currencies,
) -> Result<ledger::Config, ConfigError> {
    let default = ledger::Config::default();
    let opening_balances = match mode {
        Mode::Serve => None,
        Mode::Dev => Some(opening_balances(
            settings
                .opening_balance
                .as_deref()
                .unwrap_or(OPENING_BALANCE_DEFAULT),
            currencies,
        )?),
    };
    let sync_stalled_ms = within(
        "sync-stalled-ms",
        settings.sync_stalled_ms,
        default.sync_stalled_ms,
        100..=3_600_000,
    )?;
    let sync_dead_ms = within(
        "sync-dead-ms",
        settings.sync_dead_ms,
        default.sync_dead_ms,
        sync_stalled_ms..=3_600_000,
    )?;
    Ok(ledger::Config {
        data_dir: settings.data_dir.clone().unwrap_or(default.data_dir),
        queue_commands_max: within(
            "queue-commands-max",
            settings.queue_commands_max,
            default.queue_commands_max,
            1..=1_000_000,
        )?,
        open_holds_max: within(
            "open-holds-max",
            settings.open_holds_max,
            default.open_holds_max,
            0..=100_000_000,
        )?,
        // The last two entries are kept for status changes.
        audit_entries_max: within(
            "audit-entries-max",
            settings.audit_entries_max,
            default.audit_entries_max,
            3..=10_000,
        )?,
        group_wait_us: within(
            "group-wait-us",
            settings.group_wait_us,
            default.group_wait_us,
            0..=10_000,
        )?,
        checkpoint_interval_ms: within(
            "checkpoint-interval-ms",
            settings.checkpoint_interval_ms,
            default.checkpoint_interval_ms,
            10..=3_600_000,
        )?,
        checkpoint_pace_ms: within(
            "checkpoint-pace-ms",
            settings.checkpoint_pace_ms,
            default.checkpoint_pace_ms,
            0..=10_000,
        )?,
        sync_stalled_ms,
        sync_dead_ms,
        disk_reserve_bytes: settings.disk_reserve_bytes,
        opening_balances,
        ..default
    })
}

/// The one amount in each currency's minor units; needless zeros do not count as decimals.
fn opening_balances(
    text: &str,
    currencies: &Currencies,
) -> Result<Vec<(Currency, crate::types::MinorUnits)>, ConfigError> {
    let shortest = match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.'),
        None => text,
    };
    let rows = currencies.rows().iter();
    rows.map(|row| {
        let amount = money::parse_amount(shortest, row.exponent, false).map_err(|error| {
            let reason = format!("{text:?} in {}: {error}", row.code);
            ConfigError::Value {
                setting: "opening-balance",
                reason,
            }
        })?;
        Ok((row.currency, amount))
    })
    .collect()
}

fn pipeline(settings: &Settings) -> Result<pipeline::Config, ConfigError> {
    let default = pipeline::Config::default();
    let overrides = settings.kafka_config.as_deref().unwrap_or_default();
    let config = pipeline::Config {
        brokers: settings.kafka_brokers.clone(),
        topic: settings.kafka_topic.clone().unwrap_or(default.topic),
        partitions: settings.kafka_partitions.unwrap_or(default.partitions),
        replication: settings.kafka_replication.unwrap_or(default.replication),
        delivery: settings.kafka_delivery.map_or(default.delivery, Into::into),
        batch_window_ms: settings.batch_window.unwrap_or(default.batch_window_ms),
        batch_size: settings.batch_size.unwrap_or(default.batch_size),
        event_types: match &settings.kafka_event_types {
            Some(words) => pipeline::config::parse_event_types(&words.join(","))?,
            None => default.event_types,
        },
        overrides: overrides
            .iter()
            .map(|text| pipeline::config::parse_override(text))
            .collect::<Result<_, _>>()?,
        cloudevents: settings.kafka_cloudevents.unwrap_or(default.cloudevents),
        on_new_cluster: settings.kafka_on_new_cluster.map(Into::into),
        drain_timeout_ms: settings
            .kafka_drain_timeout_ms
            .unwrap_or(default.drain_timeout_ms),
        ..default
    };
    config.validate()?;
    Ok(config)
}

fn http(settings: &Settings) -> Result<http::Config, ConfigError> {
    let default = http::Config::default();
    let attachments = default.attachments;
    let milliseconds = |setting, given, default: Duration| {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        within(setting, given, default, 1..=86_400_000).map(Duration::from_millis)
    };
    Ok(http::Config {
        connections_max: within(
            "connections-max",
            settings.connections_max,
            default.connections_max,
            1..=1_000_000,
        )?,
        http2_connection_requests_max: within(
            "http2-connection-requests-max",
            settings.http2_connection_requests_max,
            default.http2_connection_requests_max,
            1..=10_000,
        )?,
        http2_requests_max: within(
            "http2-requests-max",
            settings.http2_requests_max,
            default.http2_requests_max,
            1..=1_000_000,
        )?,
        // hyper reads a head into a buffer of at least 8 KiB.
        head_bytes_max: within(
            "head-bytes-max",
            settings.head_bytes_max,
            default.head_bytes_max,
            8 << 10..=1 << 20,
        )?,
        head_timeout: milliseconds(
            "head-timeout-ms",
            settings.head_timeout_ms,
            default.head_timeout,
        )?,
        request_timeout: milliseconds(
            "request-timeout-ms",
            settings.request_timeout_ms,
            default.request_timeout,
        )?,
        drain_timeout: milliseconds(
            "shutdown-grace-ms",
            settings.shutdown_grace_ms,
            default.drain_timeout,
        )?,
        body_bytes_max: within(
            "body-bytes-max",
            settings.body_bytes_max,
            default.body_bytes_max,
            1 << 10..=16 << 20,
        )?,
        batch_bytes_max: within(
            "batch-bytes-max",
            settings.batch_bytes_max,
            default.batch_bytes_max,
            1 << 10..=default.batch_bytes_in_flight_max,
        )?,
        batch_items_max: within(
            "batch-items-max",
            settings.batch_items_max,
            default.batch_items_max,
            1..=default.batch_items_max,
        )?,
        // The journal's pages hold what the defaults allow, so these can only be lowered.
        attachments: http::AttachmentLimits {
            metadata_bytes_max: within(
                "metadata-bytes-max",
                settings.metadata_bytes_max,
                attachments.metadata_bytes_max,
                2..=attachments.metadata_bytes_max,
            )?,
            details_bytes_max: within(
                "details-bytes-max",
                settings.details_bytes_max,
                attachments.details_bytes_max,
                2..=attachments.details_bytes_max,
            )?,
            ..attachments
        },
        ..default
    })
}

fn tracker(settings: &Settings) -> Result<tracker::Config, ConfigError> {
    let default = tracker::Config::default();
    Ok(tracker::Config {
        queue_bytes_max: within(
            "ws-queue-bytes-max",
            settings.ws_queue_bytes_max,
            default.queue_bytes_max,
            16 << 10..=1 << 30,
        )?,
        ..default
    })
}

/// The given value, if it is within `bounds`, or the default.
fn within<T: PartialOrd + std::fmt::Display>(
    setting: &'static str,
    given: Option<T>,
    default: T,
    bounds: RangeInclusive<T>,
) -> Result<T, ConfigError> {
    let value = given.unwrap_or(default);
    if bounds.contains(&value) {
        return Ok(value);
    }
    let (least, most) = bounds.into_inner();
    let reason = format!("{value}: {least} to {most} are allowed");
    Err(ConfigError::Value { setting, reason })
}

fn ws(settings: &Settings) -> Result<ws::Config, ConfigError> {
    let default = ws::Config::default();
    let milliseconds = 1..=86_400_000;
    let config = ws::Config {
        connections_max: within(
            "ws-connections-max",
            settings.ws_connections_max,
            default.connections_max,
            1..=1_000_000,
        )?,
        subscriptions_max: within(
            "ws-subscriptions-max",
            settings.ws_subscriptions_max,
            default.subscriptions_max,
            1..=100_000,
        )?,
        filter_ids_max: within(
            "ws-filter-ids-max",
            settings.ws_filter_ids_max,
            default.filter_ids_max,
            1..=100_000,
        )?,
        message_bytes_max: within(
            "ws-message-bytes-max",
            settings.ws_message_bytes_max,
            default.message_bytes_max,
            1 << 10..=16 << 20,
        )?,
        ping_every_ms: within(
            "ws-ping-every-ms",
            settings.ws_ping_every_ms,
            default.ping_every_ms,
            milliseconds.clone(),
        )?,
        pong_within_ms: within(
            "ws-pong-within-ms",
            settings.ws_pong_within_ms,
            default.pong_within_ms,
            milliseconds.clone(),
        )?,
        write_within_ms: within(
            "ws-write-within-ms",
            settings.ws_write_within_ms,
            default.write_within_ms,
            milliseconds,
        )?,
        ..default
    };
    if config.pong_within_ms <= config.ping_every_ms {
        return Err(ConfigError::Contradiction(
            "ws-pong-within-ms must be longer than ws-ping-every-ms: else the quiet are dropped",
        ));
    }
    Ok(config)
}

/// By tokens; else nobody is asked, and unless told otherwise only loopback names are answered to, so that no strange
/// web page gets through the browser of whoever sits at this machine.
fn access(settings: &Settings) -> Result<Access, ConfigError> {
    let origins = origins(settings.cors_origin.clone().unwrap_or_default())?;
    let access = match &settings.tokens_file {
        Some(path) => Access::tokens(path)?,
        None if settings.insecure == Some(true) => Access::open(),
        None => Access::dev(Vec::new()),
    };
    Ok(access.with_cors_origins(origins))
}

/// What a browser sends as `Origin`: no path, no trailing slash, lower case.
fn origins(given: Vec<String>) -> Result<Vec<String>, ConfigError> {
    for origin in &given {
        let host = ["http://", "https://"]
            .iter()
            .find_map(|scheme| origin.strip_prefix(scheme));
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".:-[]".contains(&b);
        if !host.is_some_and(|host| !host.is_empty() && host.bytes().all(plain)) {
            let reason = format!("{origin:?}: expected scheme://host[:port], in lower case");
            return Err(ConfigError::Value {
                setting: "cors-origin",
                reason,
            });
        }
    }
    Ok(given)
}

/// What the help says of a setting's default; `None` where not giving it is a meaning of its own.
pub(crate) fn default_text(id: &str) -> Option<String> {
    let ledger = ledger::Config::default();
    let pipeline = pipeline::Config::default();
    let tracker = tracker::Config::default();
    let http = http::Config::default();
    let ws = ws::Config::default();
    let journal = journal::Config::default();
    let log = logging::Config::default();
    Some(match id {
        "listen" => LISTEN_DEFAULT.to_string(),
        "port" => LISTEN_DEFAULT.port().to_string(),
        "data_dir" => ledger.data_dir.display().to_string(),
        "shutdown_grace_ms" => http.drain_timeout.as_millis().to_string(),
        "connections_max" => http.connections_max.to_string(),
        "http2_connection_requests_max" => http.http2_connection_requests_max.to_string(),
        "http2_requests_max" => http.http2_requests_max.to_string(),
        "head_bytes_max" => http.head_bytes_max.to_string(),
        "head_timeout_ms" => http.head_timeout.as_millis().to_string(),
        "request_timeout_ms" => http.request_timeout.as_millis().to_string(),
        "body_bytes_max" => http.body_bytes_max.to_string(),
        "batch_bytes_max" => http.batch_bytes_max.to_string(),
        "batch_items_max" => http.batch_items_max.to_string(),
        "metadata_bytes_max" => http.attachments.metadata_bytes_max.to_string(),
        "details_bytes_max" => http.attachments.details_bytes_max.to_string(),
        "opening_balance" => OPENING_BALANCE_DEFAULT.into(),
        "kafka_topic" => pipeline.topic,
        "kafka_event_types" => {
            let words: Vec<_> = pipeline
                .event_types
                .iter()
                .map(|kind| kind.as_str())
                .collect();
            words.join(",")
        }
        "kafka_partitions" => pipeline.partitions.to_string(),
        "kafka_replication" => pipeline.replication.to_string(),
        "kafka_delivery" => pipeline.delivery.as_str().into(),
        "batch_window" => pipeline.batch_window_ms.to_string(),
        "batch_size" => pipeline.batch_size.to_string(),
        "kafka_drain_timeout_ms" => pipeline.drain_timeout_ms.to_string(),
        "open_holds_max" => ledger.open_holds_max.to_string(),
        "audit_entries_max" => ledger.audit_entries_max.to_string(),
        "queue_commands_max" => ledger.queue_commands_max.to_string(),
        "ws_queue_bytes_max" => tracker.queue_bytes_max.to_string(),
        "ws_connections_max" => ws.connections_max.to_string(),
        "ws_subscriptions_max" => ws.subscriptions_max.to_string(),
        "ws_filter_ids_max" => ws.filter_ids_max.to_string(),
        "ws_message_bytes_max" => ws.message_bytes_max.to_string(),
        "ws_ping_every_ms" => ws.ping_every_ms.to_string(),
        "ws_pong_within_ms" => ws.pong_within_ms.to_string(),
        "ws_write_within_ms" => ws.write_within_ms.to_string(),
        "volume_bytes_max" => journal.volume_bytes_max.to_string(),
        "group_wait_us" => ledger.group_wait_us.to_string(),
        "wal_bytes" => journal.wal_bytes.to_string(),
        "checkpoint_interval_ms" => ledger.checkpoint_interval_ms.to_string(),
        "checkpoint_pace_ms" => ledger.checkpoint_pace_ms.to_string(),
        "sync_stalled_ms" => ledger.sync_stalled_ms.to_string(),
        "sync_dead_ms" => ledger.sync_dead_ms.to_string(),
        "disk_reserve_bytes" => {
            "5 % of the disk, at most 256 MiB, and the size of the active volume".into()
        }
        "log_format" => log.format.as_str().into(),
        "log_level" => log.level,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MinorUnits;

    fn refusal(mode: Mode, settings: &Settings) -> String {
        let line = Config::from_settings(mode, settings)
            .unwrap_err()
            .to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_any_setting_dev_is_local_and_gives_a_million_in_each_currency() {
        let config = Config::from_settings(Mode::Dev, &Settings::default()).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8001");
        assert_eq!(config.pipeline, pipeline::Config::default());
        let balances = config.ledger.opening_balances.unwrap();
        assert_eq!(balances.len(), 3);
        assert!(
            balances
                .iter()
                .all(|(_, amount)| *amount == MinorUnits::new(100_000_000))
        );
        assert_eq!(config.journal.data_dir, config.ledger.data_dir);
    }

    #[test]
    fn serve_opens_nobody_on_sight_and_wants_a_word_for_a_dev_store() {
        let config = Config::from_settings(Mode::Serve, &Settings::default()).unwrap();
        assert_eq!(config.ledger.opening_balances, None);
        assert!(!config.accept_dev_store);
    }

    #[test]
    fn nobody_becomes_reachable_by_accident() {
        let open = || Settings {
            listen: "0.0.0.0:8001".parse().ok(),
            ..Settings::default()
        };
        assert!(refusal(Mode::Serve, &open()).contains("tokens-file"));
        assert!(refusal(Mode::Dev, &open()).contains("insecure"));
        let insecure = Settings {
            insecure: Some(true),
            ..open()
        };
        assert!(Config::from_settings(Mode::Dev, &insecure.clone()).is_ok());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        let hash = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272";
        let text =
            format!("[[token]]\nname = \"till\"\nsha256 = \"{hash}\"\nscopes = [\"read\"]\n");
        std::fs::write(&file, text).unwrap();
        let tokens = Settings {
            tokens_file: Some(file.clone()),
            ..open()
        };
        assert!(Config::from_settings(Mode::Serve, &tokens.clone()).is_ok());
        std::fs::remove_file(&file).unwrap();
        assert!(refusal(Mode::Serve, &tokens.clone()).contains("tokens.toml"));
        assert!(refusal(Mode::Serve, &tokens.over(insecure)).contains("contradict"));
        let v6 = Settings {
            listen: "[::1]:0".parse().ok(),
            ..Settings::default()
        };
        assert!(Config::from_settings(Mode::Serve, &v6).is_ok());
    }

    #[test]
    fn settings_of_the_other_command_are_refused() {
        let tokens = Settings {
            tokens_file: Some("/t".into()),
            ..Settings::default()
        };
        assert!(refusal(Mode::Dev, &tokens).starts_with("tokens-file"));
        let opening = Settings {
            opening_balance: Some("1".into()),
            ..Settings::default()
        };
        assert!(refusal(Mode::Serve, &opening).starts_with("opening-balance"));
        let accept = Settings {
            accept_dev_store: Some(true),
            ..Settings::default()
        };
        assert!(refusal(Mode::Dev, &accept).starts_with("accept-dev-store"));
    }

    #[test]
    fn two_ports_in_one_layer_contradict_each_other() {
        let both = |port| Settings {
            listen: "127.0.0.1:7000".parse().ok(),
            port: Some(port),
            ..Settings::default()
        };
        assert!(refusal(Mode::Dev, &both(7001)).contains("different ports"));
        assert!(Config::from_settings(Mode::Dev, &both(7000)).is_ok());
    }

    #[test]
    fn configured_currencies_come_behind_the_built_in_ones() {
        let table = currencies(&["JPY-CBDC:0".into(), "BTC:6".into()]).unwrap();
        let tags: Vec<_> = table.rows().iter().map(|row| row.currency.tag()).collect();
        assert_eq!(tags, [1, 2, 3, 4, 5]);
        assert_eq!(table.by_code("JPY-CBDC").unwrap().exponent, 0);
        for wrong in [
            "JPY-CBDC",
            "JPY-CBDC:7",
            "JPY-CBDC:x",
            "jpy:0",
            "USD-CBDC:2",
            ":2",
        ] {
            let settings = Settings {
                currency: Some(strings(&[wrong])),
                ..Settings::default()
            };
            assert!(
                refusal(Mode::Dev, &settings).starts_with("currency: "),
                "{wrong}"
            );
        }
    }

    #[test]
    fn an_opening_balance_fits_each_currency_or_is_refused_by_its_name() {
        let with = |amount: &str, currency: &[&str]| Settings {
            opening_balance: Some(amount.into()),
            currency: Some(strings(currency)),
            ..Settings::default()
        };
        let config = Config::from_settings(Mode::Dev, &with("50.00", &["JPY:0"])).unwrap();
        let balances = config.ledger.opening_balances.unwrap();
        assert_eq!(balances.last().map(|(_, amount)| amount.get()), Some(50));
        assert!(refusal(Mode::Dev, &with("50.50", &["JPY:0"])).contains("in JPY"));
        assert!(refusal(Mode::Dev, &with("-1", &[])).contains("\"-1\""));
        assert!(refusal(Mode::Dev, &with("plenty", &[])).starts_with("opening-balance"));
    }

    #[test]
    fn a_wrong_value_of_a_part_names_its_setting() {
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            refusal(Mode::Dev, &settings)
        };
        assert!(with(|s| s.kafka_topic = Some("a b".into())).contains("kafka topic"));
        assert!(with(|s| s.batch_size = Some(0)).contains("batch size"));
        assert!(with(|s| s.kafka_config = Some(strings(&["x"]))).contains("key=value"));
        assert!(with(|s| s.kafka_event_types = Some(strings(&["x"]))).contains("event type"));
        assert!(with(|s| s.log_level = Some("loud".into())).contains("log level"));
        assert!(with(|s| s.queue_commands_max = Some(0)).contains("queue-commands-max: 0: 1 to"));
        assert!(with(|s| s.ws_pong_within_ms = Some(1)).contains("ws-pong-within-ms"));
        assert!(with(|s| s.head_timeout_ms = Some(0)).contains("head-timeout-ms"));
        assert!(with(|s| s.metadata_bytes_max = Some(4096)).contains("2 to 2048"));
        assert!(with(|s| s.cors_origin = Some(strings(&["http://a/"]))).contains("cors-origin"));
        assert!(with(|s| s.cors_origin = Some(strings(&["a"]))).contains("cors-origin"));
    }

    #[test]
    fn the_file_is_the_weakest_layer_and_its_errors_name_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echopay.toml");
        let load = |text: &str, settings: Settings| {
            std::fs::write(&path, text).unwrap();
            let config_file = Some(path.clone());
            Config::load(Invocation {
                mode: Mode::Dev,
                config_file,
                settings,
                stops_with_parent: None,
            })
        };
        let flags = Settings {
            batch_size: Some(7),
            ..Settings::default()
        };
        let config = load("batch-size = 5\nbatch-window = 3\nport = 0\n", flags).unwrap();
        assert_eq!(
            (config.pipeline.batch_size, config.pipeline.batch_window_ms),
            (7, 3)
        );
        assert_eq!(config.listen.port(), 0);

        let line = |text: &str| load(text, Settings::default()).unwrap_err().to_string();
        assert!(line("port = 1\nprot = 2\n").contains("line 2: unknown field `prot`"));
        assert!(line("port = 1\n\nbatch-size = true\n").contains("line 3: "));
        assert!(line("port = \n").contains("line 1: "));
        let missing = folder.path().join("none.toml");
        let mode = Mode::Serve;
        let config_file = Some(missing.clone());
        let settings = Settings::default();
        let error = Config::load(Invocation {
            mode,
            config_file,
            settings,
            stops_with_parent: None,
        })
        .unwrap_err();
        assert!(error.to_string().contains(&missing.display().to_string()));
    }
}
