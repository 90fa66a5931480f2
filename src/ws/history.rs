//! The past, for subscriptions that resume: the journal by way of the queries' bounded blocking threads.

use crate::journal::{Entry, JournalIdentity, JournalReader};
use crate::ledger::{Queries, QueryError};
use crate::types::Sequence;
use std::fmt::Debug;
use std::pin::Pin;

/// A read under way.
pub(super) type Reading = Pin<Box<dyn Future<Output = Result<Vec<Entry>, QueryError>> + Send>>;

/// What the endpoint asks of the journal.
pub(super) trait History: Debug + Send + Sync + 'static {
    /// `<journal_id>/<epoch>`.
    fn journal(&self) -> String;
    /// Whether `after` of `journal`, as a client knows it, is this journal's `after` too: from before a restore.
    fn has(&self, journal: &str, after: Sequence) -> bool;
    /// The durable watermark's place.
    fn durable(&self) -> Sequence;
    /// The first sequence that can be read.
    fn oldest(&self) -> Sequence;
    /// Entries behind `after`, in order, worth about `bytes_max`.
    fn read_after(&self, after: Sequence, bytes_max: usize) -> Reading;
}

/// The real one.
#[derive(Debug)]
pub(super) struct JournalHistory {
    pub(super) queries: Queries,
    pub(super) reader: JournalReader,
}

impl History for JournalHistory {
    fn journal(&self) -> String {
        self.reader.identity().to_string()
    }

    fn has(&self, journal: &str, after: Sequence) -> bool {
        JournalIdentity::parse(journal)
            .is_some_and(|identity| self.reader.lineage().owns(identity, after))
    }

    fn durable(&self) -> Sequence {
        self.reader.durable().get()
    }

    fn oldest(&self) -> Sequence {
        self.reader.oldest()
    }

    fn read_after(&self, after: Sequence, bytes_max: usize) -> Reading {
        let queries = self.queries.clone();
        Box::pin(async move { queries.entries_after(after, bytes_max).await })
    }
}
