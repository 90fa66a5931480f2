//! Is everything there, and does it add up?
//!
//! Recovers the store as a start does, then reads the journal once: its pages hold the chain together (`journal`), its
//! entries follow from each other (`ledger::Audit`), and what is derived from it (checkpoint, cursor) and proves it
//! (witnesses) says the same. Closes the journal in order at the end. Tells as many faults as fit, not only the first.

mod report;
#[cfg(test)]
mod sweep_tests;

pub(super) use report::Report;

use super::progress::Step;
use super::{Progress, ToolError};
use crate::cli::Exit;
use crate::clock::{SharedClock, SystemClock};
use crate::config::ToolConfig;
use crate::ids::IdCipher;
use crate::journal::{
    Entry, Inspector, Journal, JournalIdentity, JournalReader, Place, ReadError, RecoveryError,
    Witness,
};
use crate::ledger::{Audit, CheckpointError, Loaded};
use crate::pipeline::{
    Cursor, CursorError, TopicError, TopicFault, TopicSources, audit_topic, check_topic_settings,
};
use crate::tasks::Supervisor;
use crate::types::Sequence;
use report::{CheckpointReport, CursorReport, Finding, JournalReport};
use std::sync::Arc;

/// Closed volumes that stand open meanwhile: the one that is read, and the one where a transaction is looked up. A volume
/// that is read becomes resident as a whole, so more would cost memory for nothing.
const CLOSED_VOLUMES_OPEN_MAX: usize = 2;

/// Checks the data folder, and the topic if `kafka` is set.
pub(super) fn run(
    config: &ToolConfig,
    kafka: bool,
    progress: &Progress,
) -> Result<Report, ToolError> {
    if kafka && config.pipeline.brokers.is_none() {
        return Err(ToolError::Usage(
            "--kafka needs --kafka-brokers (or KAFKA_BROKERS)".into(),
        ));
    }
    let clock: SharedClock = Arc::new(SystemClock::new());
    if kafka {
        check_topic_settings(&config.pipeline, Arc::clone(&clock))
            .map_err(|error| ToolError::Usage(error.to_string()))?;
    }
    let supervisor = Supervisor::new();
    let mut report = Report::default();
    let checked = check(config, kafka, progress, &clock, &supervisor, &mut report);
    report.seconds = clock.monotonic().as_secs_f64();
    report.whole = report.is_whole();
    checked.map(|()| report)
}

/// The same for who wants it in a line: whether the folder is whole, and what was found.
///
/// # Errors
/// As [`run`].
pub(crate) fn brief(
    config: &ToolConfig,
    kafka: bool,
    progress: &Progress,
) -> Result<(bool, String), ToolError> {
    let report = run(config, kafka, progress)?;
    Ok((report.is_whole(), report.line()))
}

fn check(
    config: &ToolConfig,
    kafka: bool,
    progress: &Progress,
    clock: &SharedClock,
    supervisor: &Supervisor,
    report: &mut Report,
) -> Result<(), ToolError> {
    // Before anything in it is read: a process that is just ending may write there to the last.
    let lock = Journal::lock_existing(&config.journal)?;
    let cursor = read_cursor(config, report)?;
    let checkpoint = read_checkpoint(config, report)?;
    let witnesses = cursor
        .iter()
        .map(|cursor| cursor.witness)
        .chain(checkpoint.iter().filter_map(Loaded::witness))
        .collect();
    let journal_config = crate::journal::Config {
        closed_volumes_open_max: CLOSED_VOLUMES_OPEN_MAX,
        ..config.journal.clone()
    };
    let clock_of_journal = Arc::clone(clock);
    let opened = Journal::open_existing(
        lock,
        &journal_config,
        witnesses,
        clock_of_journal,
        supervisor,
    );
    let journal = match opened {
        Ok(Some(journal)) => journal,
        Ok(None) => {
            let folder = journal_config.data_dir;
            return Err(ToolError::NoJournal { folder });
        }
        Err(error) => {
            report.find(refused(error)?);
            return Ok(());
        }
    };
    let reader = journal.reader();
    check_cursor(cursor.as_ref(), &reader, report);
    let checkpoint = fitting(checkpoint, reader.identity(), report);
    check_journal(&journal, cursor.as_ref(), checkpoint, progress, report);
    drop(reader);
    let topic = if kafka {
        check_topic(config, &journal, cursor.as_ref(), clock, progress, report)
    } else {
        Ok(())
    };
    journal.close()?;
    topic
}

fn check_topic(
    config: &ToolConfig,
    journal: &Journal,
    cursor: Option<&Cursor>,
    clock: &SharedClock,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), ToolError> {
    let (reader, settings) = (journal.reader(), journal.settings());
    let sources = TopicSources {
        reader: &reader,
        ids: IdCipher::new(&settings.id_key),
        currencies: settings.currencies.clone(),
        cursor,
        clock: Arc::clone(clock),
    };
    let step = progress.step("checking the topic", "events", journal.durable().get());
    let mut tell = |fault: TopicFault| {
        report.find(match fault.sequence() {
            Some(sequence) => Finding::at(sequence, fault.to_string()),
            None => Finding::of_nothing(fault.to_string()),
        });
    };
    let mut on_progress = |at: Sequence| step.at(at.get());
    let audited = audit_topic(&config.pipeline, &sources, &mut on_progress, &mut tell);
    match audited {
        Ok(topic) => {
            report.topic(topic);
            Ok(())
        }
        Err(TopicError::Journal(reason)) => {
            report.find(Finding::of_nothing(reason));
            Ok(())
        }
        // What was found in the journal is worth more than that the topic could not be looked at.
        Err(error) if !report.is_whole() => {
            report.warn(format!("the topic was not checked: {error}"));
            Ok(())
        }
        Err(error) => Err(ToolError::Unavailable(error.to_string())),
    }
}

/// A damaged store is what this command is there to tell; whatever else keeps a journal from being opened ends it.
fn refused(error: RecoveryError) -> Result<Finding, ToolError> {
    let finding = Finding::refusal(&error);
    match ToolError::from(error) {
        error if error.exit() == Exit::Damaged => Ok(finding),
        error => Err(error),
    }
}

fn read_cursor(config: &ToolConfig, report: &mut Report) -> Result<Option<Cursor>, ToolError> {
    match Cursor::load(&config.journal.data_dir) {
        Ok(cursor) => Ok(cursor),
        Err(error @ CursorError::Damaged { .. }) => {
            let file = Cursor::path(&config.journal.data_dir);
            report.find(Finding::of_file(file, error.to_string()));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn read_checkpoint(config: &ToolConfig, report: &mut Report) -> Result<Option<Loaded>, ToolError> {
    match Loaded::read(&config.ledger) {
        Ok(loaded) => {
            for path in loaded.unusable() {
                let path = path.display();
                let text = "is damaged or missing; a start replays what it held";
                report.warn(format!("checkpoint file {path} {text}"));
            }
            Ok(Some(loaded))
        }
        Err(CheckpointError::Mixed { path }) => {
            let error = CheckpointError::Mixed { path: path.clone() };
            report.find(Finding::of_file(path, error.to_string()));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn check_cursor(cursor: Option<&Cursor>, reader: &JournalReader, report: &mut Report) {
    let Some(cursor) = cursor else { return };
    let durable = reader.durable().get();
    let places = cursor.partitions.iter().zip(0_u32..);
    for (place, partition) in places {
        if place.last.sequence > durable || place.failed > durable {
            let reason = format!(
                "the cursor says that partition {partition} holds event {}, the journal ends at {durable}",
                place.last.sequence.max(place.failed)
            );
            report.find(Finding::at(cursor.published, reason));
        }
    }
    if cursor.published > durable {
        let reason = format!(
            "the cursor says that events up to {} are published, the journal ends at {durable}",
            cursor.published
        );
        report.find(Finding::at(cursor.published, reason));
    }
    if cursor.identity() != reader.identity() {
        report.warn(format!(
            "the cursor belongs to {}, an earlier epoch of this journal",
            cursor.identity()
        ));
    }
    report.cursor = Some(CursorReport {
        published: cursor.published.get(),
        topic: cursor.topic.clone(),
        partitions: cursor.partitions.len(),
    });
}

/// The checkpoint, if it is this journal's.
fn fitting(
    checkpoint: Option<Loaded>,
    journal: JournalIdentity,
    report: &mut Report,
) -> Option<Loaded> {
    let loaded = checkpoint?;
    match loaded.identity() {
        None => None,
        Some(identity) if identity == journal => {
            report.checkpoint = Some(CheckpointReport {
                at: loaded.stands_at().get(),
                files: loaded.witnesses().len(),
            });
            Some(loaded)
        }
        Some(identity) => {
            let reason =
                format!("the checkpoint belongs to journal {identity}, this one is {journal}");
            report.find(Finding::of_nothing(reason));
            None
        }
    }
}

fn check_journal(
    journal: &Journal,
    cursor: Option<&Cursor>,
    checkpoint: Option<Loaded>,
    progress: &Progress,
    report: &mut Report,
) {
    let reader = journal.reader();
    let (settings, oldest) = (journal.settings(), reader.oldest());
    let mut witnesses: Vec<Witness> = checkpoint
        .iter()
        .flat_map(Loaded::witnesses)
        .copied()
        .chain(cursor.map(|cursor| cursor.witness))
        .filter(|witness| witness.identity == reader.identity() && witness.durable >= oldest)
        .collect();
    witnesses.sort_unstable_by_key(|witness| witness.durable);
    witnesses.dedup_by_key(|witness| (witness.durable, witness.head_hash));
    let is_from_the_beginning = oldest == Sequence::ORIGIN.next();
    if !is_from_the_beginning {
        report.warn(format!(
            "the journal begins at sequence {oldest}: entries were not held against the books"
        ));
    }
    let ids = IdCipher::new(&settings.id_key);
    let currencies = settings.currencies.clone();
    let mut check = JournalCheck {
        reader: reader.clone(),
        step: progress.step("checking the journal", "events", journal.durable().get()),
        audit: is_from_the_beginning.then(|| Audit::new(ids, currencies, checkpoint)),
        last: oldest.previous(),
        witnesses: witnesses.into_iter().peekable(),
        report,
    };
    let verified = reader.inspect(&mut check);
    let audit = check.audit.take();
    drop(check);
    report.journal = Some(JournalReport::new(
        reader.identity(),
        &verified,
        &reader.volumes(),
    ));
    if let Some(audit) = audit {
        let audited = audit.finish(&mut |at, fault| {
            report.find(match at {
                Some(at) => Finding::at(at, fault.to_string()),
                None => Finding::of_nothing(fault.to_string()),
            });
        });
        report.books(&audited, &settings.currencies);
    }
}

/// Hears of each entry and page of the journal.
struct JournalCheck<'c> {
    reader: JournalReader,
    step: Step,
    /// `None` once entries are missing: nothing follows from what came before then.
    audit: Option<Audit>,
    /// Last sequence of the entry before.
    last: Sequence,
    witnesses: std::iter::Peekable<std::vec::IntoIter<Witness>>,
    report: &'c mut Report,
}

impl Inspector for JournalCheck<'_> {
    fn on_entry(&mut self, place: Place, entry: &Entry) {
        let Some(audit) = &mut self.audit else { return };
        let (reader, report) = (&self.reader, &mut *self.report);
        let mut look_up = |created: Sequence| {
            // What cannot be read is told where the page is walked.
            let found = reader.entry_covering(created).ok().flatten();
            found.filter(|entry| entry.first == created)
        };
        audit.take(entry, &mut look_up, &mut |at, fault| {
            report.find(Finding::in_page(place, at, fault.to_string()));
        });
        self.last = entry.last();
    }

    fn on_page(&mut self, last: Sequence, hash: [u8; 32]) {
        self.step.at(last.get());
        while let Some(witness) = self.witnesses.next_if(|witness| witness.durable <= last) {
            if witness.durable == last && witness.head_hash == hash {
                continue;
            }
            // In a stretch that could not be read nothing can be told.
            if self.audit.is_some() || witness.durable == last {
                let reason = format!(
                    "a witness says that another page ended at sequence {}",
                    witness.durable
                );
                self.report.find(Finding::at(witness.durable, reason));
            }
        }
    }

    fn on_fault(&mut self, fault: &ReadError) {
        if self.audit.take().is_some() {
            self.report.warn(format!(
                "entries behind sequence {} were not held against the books",
                self.last
            ));
        }
        self.report.find(Finding::unreadable(fault));
    }
}
