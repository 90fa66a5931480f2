//! What `verify` found, as text and as JSON.

use crate::journal::{JournalIdentity, Place, ReadError, RecoveryError, Verified};
use crate::ledger::Audited;
use crate::money;
use crate::pipeline::TopicReport;
use crate::types::{Currencies, Sequence};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// Findings that are told one by one; more are counted.
const FINDINGS_MAX: usize = 20;
/// Warnings that are told.
const WARNINGS_MAX: usize = 20;

/// The result of a check. It is whole when there is no finding.
#[derive(Debug, Default, Serialize)]
pub(in crate::tools) struct Report {
    /// Whether nothing was found.
    pub(super) whole: bool,
    #[serde(flatten)]
    pub(super) journal: Option<JournalReport>,
    #[serde(flatten)]
    books: Option<BooksReport>,
    pub(super) checkpoint: Option<CheckpointReport>,
    pub(super) cursor: Option<CursorReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kafka: Option<TopicReport>,
    pub(super) seconds: f64,
    pub(super) warnings: Vec<String>,
    pub(super) findings: Vec<Finding>,
    /// Findings beyond those told.
    pub(super) findings_left_out: u64,
}

/// What the pages say.
#[derive(Debug, Serialize)]
pub(super) struct JournalReport {
    /// `<journal_id>/<epoch>`.
    journal: String,
    oldest_sequence: u64,
    newest_sequence: u64,
    /// BLAKE3 of the last page, in hex.
    pub(super) head_hash: String,
    entries: u64,
    pages: u64,
    volumes: u64,
    #[serde(skip)]
    volume_numbers: Option<(u64, u64)>,
}

/// What the entries add up to.
#[derive(Debug, Serialize)]
struct BooksReport {
    wallets: u64,
    open_holds: usize,
    changed_transactions: u64,
    currencies: Vec<CurrencyReport>,
}

/// One currency's money; amounts with all decimals, as text.
#[derive(Debug, Serialize)]
struct CurrencyReport {
    currency: String,
    /// In all wallets but the issuer's.
    circulating: String,
    held: String,
    /// Over all wallets; zero.
    sum: String,
}

#[derive(Debug, Serialize)]
pub(super) struct CheckpointReport {
    /// A start replays what comes behind.
    pub(super) at: u64,
    pub(super) files: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct CursorReport {
    pub(super) published: u64,
    pub(super) topic: String,
    pub(super) partitions: usize,
}

/// Something that is not as it must be, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(in crate::tools) struct Finding {
    /// Number of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) volume: Option<u64>,
    /// First sequence of the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) page: Option<u64>,
    /// Sequence in the journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sequence: Option<u64>,
    /// Which file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<PathBuf>,
    /// What is wrong.
    pub(super) reason: String,
}

impl Finding {
    pub(super) fn of_nothing(reason: String) -> Self {
        Self {
            volume: None,
            page: None,
            sequence: None,
            file: None,
            reason,
        }
    }

    pub(super) fn of_file(file: PathBuf, reason: String) -> Self {
        Self {
            file: Some(file),
            ..Self::of_nothing(reason)
        }
    }

    pub(super) fn at(sequence: Sequence, reason: String) -> Self {
        Self {
            sequence: Some(sequence.get()),
            ..Self::of_nothing(reason)
        }
    }

    pub(super) fn in_page(place: Place, sequence: Option<Sequence>, reason: String) -> Self {
        Self {
            volume: Some(place.volume),
            page: Some(place.page.get()),
            sequence: sequence.map(Sequence::get),
            ..Self::of_nothing(reason)
        }
    }

    pub(super) fn unreadable(error: &ReadError) -> Self {
        match error {
            ReadError::Unreadable {
                volume,
                sequence,
                reason,
            } => Self {
                volume: Some(*volume),
                page: Some(sequence.get()),
                sequence: Some(sequence.get()),
                ..Self::of_nothing(reason.as_ref().into())
            },
            ReadError::Archived { .. } => Self::of_nothing(error.to_string()),
        }
    }

    /// Why a start would refuse the store.
    pub(super) fn refusal(error: &RecoveryError) -> Self {
        let reason = format!("a start refuses the store: {error}");
        match error {
            RecoveryError::CorruptPage {
                volume,
                sequence,
                path,
                ..
            } => Self {
                volume: Some(*volume),
                page: Some(sequence.get()),
                sequence: Some(sequence.get()),
                file: Some(path.clone()),
                reason,
            },
            RecoveryError::LostTail {
                volume,
                path,
                found,
                ..
            } => Self {
                volume: Some(*volume),
                sequence: Some(found.get()),
                file: Some(path.clone()),
                ..Self::of_nothing(reason)
            },
            RecoveryError::VolumeMissing { volume, path }
            | RecoveryError::StoreUnreadable { volume, path, .. } => Self {
                volume: Some(*volume),
                file: Some(path.clone()),
                ..Self::of_nothing(reason)
            },
            RecoveryError::SettingsMissing { path }
            | RecoveryError::SettingsMismatch { path, .. }
            | RecoveryError::CorruptRecord { path, .. } => Self::of_file(path.clone(), reason),
            RecoveryError::Locked { .. }
            | RecoveryError::NoRights { .. }
            | RecoveryError::Io { .. }
            | RecoveryError::NoRoomForCopy { .. }
            | RecoveryError::NewerFormat { .. }
            | RecoveryError::DevStore { .. }
            | RecoveryError::Unfinished { .. }
            | RecoveryError::CurrencyChanged { .. }
            | RecoveryError::OtherHistory { .. } => Self::of_nothing(reason),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = [
            ("volume", self.volume),
            ("page", self.page),
            ("sequence", self.sequence),
        ];
        for (what, number) in places {
            if let Some(number) = number {
                write!(f, "{what} {number}, ")?;
            }
        }
        f.write_str(&self.reason)
    }
}

impl JournalReport {
    pub(super) fn new(identity: JournalIdentity, verified: &Verified, volumes: &[u64]) -> Self {
        Self {
            journal: identity.to_string(),
            oldest_sequence: verified.oldest.get(),
            newest_sequence: verified.newest.get(),
            head_hash: hex(&verified.head_hash),
            entries: verified.entries,
            pages: verified.pages,
            volumes: verified.volumes,
            volume_numbers: volumes.first().copied().zip(volumes.last().copied()),
        }
    }
}

impl Report {
    /// Whether nothing was found.
    pub(in crate::tools) const fn is_whole(&self) -> bool {
        self.findings.is_empty()
    }

    /// In one line: what was counted, or the first of what is wrong.
    pub(super) fn line(&self) -> String {
        if let Some(first) = self.findings.first() {
            let all = self.findings.len() as u64 + self.findings_left_out;
            return format!("{all} findings, the first: {first}");
        }
        let mut text = match &self.journal {
            Some(journal) => format!("{} entries in {} pages", journal.entries, journal.pages),
            None => "no journal".into(),
        };
        if let Some(books) = &self.books {
            use fmt::Write as _;
            let zero =
                |row: &&CurrencyReport| row.sum.bytes().all(|byte| matches!(byte, b'0' | b'.'));
            let sums = books.currencies.iter().filter(zero).count();
            let _infallible = write!(
                text,
                " and {} wallets add up, {sums} of {} currencies sum to zero",
                books.wallets,
                books.currencies.len()
            );
        }
        if let Some(kafka) = &self.kafka {
            use fmt::Write as _;
            let _infallible = write!(text, "; topic: {kafka}");
        }
        text
    }

    pub(super) fn find(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_left_out += 1;
        }
    }

    pub(super) fn warn(&mut self, warning: String) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(warning);
        }
    }

    pub(super) fn topic(&mut self, topic: TopicReport) {
        if topic.repeats > 0 {
            self.warn(format!(
                "{} records repeat, byte for byte, what stands before them in their partition: consumers drop what is \
                 not above the last sequence seen there",
                topic.repeats
            ));
        }
        if topic.deleted > 0 {
            self.warn(format!(
                "the topic has lost the beginning of partitions ({} events, by retention or another epoch): everything \
                 from sequence {} on was checked",
                topic.deleted, topic.checked_from
            ));
        }
        if topic.holes_behind_cursor > 0 {
            self.warn(format!(
                "{} events behind the cursor are missing before later ones: the next start ships them",
                topic.holes_behind_cursor
            ));
        }
        self.kafka = Some(topic);
    }

    pub(super) fn books(&mut self, audited: &Audited, currencies: &Currencies) {
        let row = |total: &crate::ledger::Total| {
            let known = currencies.get(total.currency);
            let exponent = known.map_or(0, |row| row.exponent);
            let amount = |minor: i128| {
                let mut text = Vec::new();
                money::write_full(&mut text, minor, exponent);
                String::from_utf8_lossy(&text).into_owned()
            };
            CurrencyReport {
                currency: known.map_or_else(
                    || format!("tag {}", total.currency.tag()),
                    |row| row.code.as_ref().into(),
                ),
                circulating: amount(total.circulating_minor),
                held: amount(total.held_minor),
                sum: amount(total.sum_minor),
            }
        };
        self.books = Some(BooksReport {
            wallets: audited.wallets,
            open_holds: audited.open_holds,
            changed_transactions: audited.changed_transactions,
            currencies: audited.totals.iter().map(row).collect(),
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: fmt::Arguments<'_>| writeln!(f, "{name:<13}{value}");
        if let Some(journal) = &self.journal {
            line("journal", format_args!("{}", journal.journal))?;
            line(
                "sequences",
                format_args!("{} to {}", journal.oldest_sequence, journal.newest_sequence),
            )?;
            line("head hash", format_args!("{}", journal.head_hash))?;
            line(
                "entries",
                format_args!("{} in {} pages", journal.entries, journal.pages),
            )?;
            let (first, last) = journal.volume_numbers.unwrap_or_default();
            line(
                "volumes",
                format_args!("{} ({first} to {last})", journal.volumes),
            )?;
        }
        if let Some(books) = &self.books {
            line("wallets", format_args!("{}", books.wallets))?;
            line(
                "transactions",
                format_args!(
                    "{} holds open, {} changed since they were made",
                    books.open_holds, books.changed_transactions
                ),
            )?;
            for row in &books.currencies {
                line(
                    &row.currency,
                    format_args!(
                        "{} in circulation, {} of it held; sum over all wallets {}",
                        row.circulating, row.held, row.sum
                    ),
                )?;
            }
        }
        match &self.checkpoint {
            Some(checkpoint) => line(
                "checkpoint",
                format_args!("at {}, {} files", checkpoint.at, checkpoint.files),
            )?,
            None => line("checkpoint", format_args!("none"))?,
        }
        match &self.cursor {
            Some(cursor) => line(
                "cursor",
                format_args!(
                    "at {}, topic {} with {} partitions",
                    cursor.published, cursor.topic, cursor.partitions
                ),
            )?,
            None => line("cursor", format_args!("none"))?,
        }
        if let Some(kafka) = &self.kafka {
            line("kafka", format_args!("{kafka}"))?;
        }
        line("seconds", format_args!("{:.1}", self.seconds))?;
        for warning in &self.warnings {
            line("warning", format_args!("{warning}"))?;
        }
        for finding in &self.findings {
            line("FINDING", format_args!("{finding}"))?;
        }
        if self.findings_left_out > 0 {
            line("FINDING", format_args!("{} more", self.findings_left_out))?;
        }
        let verdict = if self.is_whole() {
            "whole"
        } else {
            "NOT WHOLE"
        };
        line("result", format_args!("{verdict}"))
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
