//! Answers from the durable view and the journal. All but the balance read the disk: async, on blocking threads of
//! bounded number.

use super::QueryError;
use super::books::{Amended, Books};
use crate::ids::IdCipher;
use crate::journal::entry::Leg;
use crate::journal::{Body, Entry, JournalReader};
use crate::types::{
    Currency, FraudScore, MinorUnits, Sequence, Status, TimestampMs, TransactionId, WalletId,
};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Reads; cheap to clone.
#[derive(Clone, Debug)]
pub struct Queries {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    books: Arc<Books>,
    reader: JournalReader,
    ids: IdCipher,
    stats_entries_max: u64,
    running: Arc<Semaphore>,
}

/// A balance at a point of the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BalanceView {
    /// Holds not subtracted.
    pub balance: MinorUnits,
    /// Under hold.
    pub held: MinorUnits,
    /// Time of the last entry that touched the account; `None` for an account that was never opened.
    pub updated_at: Option<TimestampMs>,
    /// Everything up to here is in it.
    pub sequence: Sequence,
}

/// A transaction as it stands at the durable watermark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionRecord {
    /// Id.
    pub id: TransactionId,
    /// Who pays.
    pub from: WalletId,
    /// Who receives.
    pub to: WalletId,
    /// Of what.
    pub currency: Currency,
    /// How much.
    pub amount: MinorUnits,
    /// Now.
    pub status: Status,
    /// Now.
    pub fraud_score: FraudScore,
    /// Ledger time of the creation.
    pub created_at: TimestampMs,
    /// When the money moved, if it did.
    pub settled_at: Option<TimestampMs>,
    /// JSON text of an object.
    pub metadata: Option<Box<str>>,
    /// First sequence of the creating entry.
    pub created: Sequence,
    /// First sequence of the latest amendment; the origin when there is none.
    pub last_amendment: Sequence,
    /// Everything up to here is in it.
    pub sequence: Sequence,
    /// The entries about it, oldest first, creation included: what the audit trail is made of. Empty in lists.
    pub entries: Vec<Entry>,
}

/// A page of a wallet's history, newest first.
#[derive(Clone, Debug)]
pub struct HistoryPage {
    /// Without their entries.
    pub transactions: Vec<TransactionRecord>,
    /// Continue before this creation sequence; `None` at the end.
    pub next_before: Option<Sequence>,
}

/// Open holds, oldest first.
#[derive(Clone, Debug)]
pub struct PendingPage {
    /// Without their entries.
    pub transactions: Vec<TransactionRecord>,
}

/// Totals of a wallet's transactions created since some time, with their status as of now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WalletStats {
    /// All.
    pub total_count: u64,
    /// Completed now.
    pub completed_count: u64,
    /// Failed now.
    pub failed_count: u64,
    /// Reversed now.
    pub reversed_count: u64,
    /// Sum of the amounts of the completed ones, in minor units of the currency asked for.
    pub total_amount: i128,
    /// Sum of all scores in millionths; the average is this over `total_count`.
    pub fraud_score_millionths_sum: u64,
}

/// Open holds looked at in one go, so that a caller who may see few of them does not read them all at once.
const HOLDS_PER_STEP: usize = 1_000;

impl Queries {
    pub(super) fn new(
        books: Arc<Books>,
        reader: JournalReader,
        ids: IdCipher,
        config: &super::Config,
    ) -> Self {
        let running = Arc::new(Semaphore::new(config.queries_concurrent_max));
        let stats_entries_max = config.stats_entries_max;
        Self {
            inner: Arc::new(Inner {
                books,
                reader,
                ids,
                stats_entries_max,
                running,
            }),
        }
    }

    /// Balance of `wallet` in `currency` from memory; never waits, never fails.
    pub fn balance(&self, wallet: WalletId, currency: Currency) -> BalanceView {
        // IMPORTANT: the sequence first, so that the balance holds at least that much.
        let sequence = self.inner.books.as_of();
        let account = self.inner.books.account(wallet, currency);
        BalanceView {
            balance: account.map_or(MinorUnits::ZERO, |account| account.balance),
            held: account.map_or(MinorUnits::ZERO, |account| account.held),
            updated_at: account.map(|account| account.updated_at),
            sequence,
        }
    }

    /// The transaction with its audit entries; `None` for an id that names nothing.
    ///
    /// # Errors
    /// [`QueryError::Read`], [`QueryError::Stopped`].
    pub async fn transaction(
        &self,
        id: TransactionId,
    ) -> Result<Option<TransactionRecord>, QueryError> {
        // Why here: most ids that name nothing are told by the id itself, without a thread and without the disk.
        let Some(created) = self.inner.ids.sequence_of(id) else {
            return Ok(None);
        };
        self.blocking(move |inner| inner.transaction(id, created))
            .await
    }

    /// Transactions of `wallet` created before the one at `before` (all when `None`), newest first, after `offset`.
    ///
    /// # Errors
    /// [`QueryError::InvalidCursor`] when `before` is no transaction of the wallet, [`QueryError::Read`],
    /// [`QueryError::Stopped`].
    pub async fn history(
        &self,
        wallet: WalletId,
        before: Option<Sequence>,
        offset: usize,
        limit: usize,
    ) -> Result<HistoryPage, QueryError> {
        self.blocking(move |inner| inner.history(wallet, before, offset, limit))
            .await
    }

    /// Up to `limit` open holds, oldest first, of those that `visible` allows by payer and receiver.
    ///
    /// # Errors
    /// [`QueryError::Read`], [`QueryError::Stopped`].
    pub async fn pending(
        &self,
        limit: usize,
        visible: impl Fn(WalletId, WalletId) -> bool + Send + 'static,
    ) -> Result<PendingPage, QueryError> {
        self.blocking(move |inner| inner.pending(limit, visible))
            .await
    }

    /// Totals of the wallet's transactions in `currency` created at or after `since`.
    ///
    /// # Errors
    /// [`QueryError::TooMuch`] beyond the setting's number of entries, [`QueryError::Read`], [`QueryError::Stopped`].
    pub async fn stats(
        &self,
        wallet: WalletId,
        currency: Currency,
        since: TimestampMs,
    ) -> Result<WalletStats, QueryError> {
        self.blocking(move |inner| inner.stats(wallet, currency, since))
            .await
    }

    /// Entries whose last sequence is above `after`, in order: at most `bytes_max` of pages. For `GET /api/v1/events`
    /// and subscribers that resume; both filter by event.
    ///
    /// # Errors
    /// [`QueryError::Read`], [`QueryError::Stopped`].
    pub async fn entries_after(
        &self,
        after: Sequence,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, QueryError> {
        self.blocking(move |inner| Ok(inner.reader.read_after(after, bytes_max)?))
            .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Inner) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let permit = Arc::clone(&self.inner.running).acquire_owned().await;
        let permit = permit.map_err(|_| QueryError::Stopped)?;
        let inner = Arc::clone(&self.inner);
        let run = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            query(&inner)
        });
        run.await.unwrap_or_else(|error| {
            Err(if error.is_panic() {
                QueryError::Panicked
            } else {
                QueryError::Stopped
            })
        })
    }
}

impl Inner {
    fn transaction(
        &self,
        id: TransactionId,
        created: Sequence,
    ) -> Result<Option<TransactionRecord>, QueryError> {
        let sequence = self.books.as_of();
        let row = self.books.amended(created);
        let Some(entry) = self.creation(id, created)? else {
            return Ok(None);
        };
        let Some(mut record) = self.record(&entry, row, sequence)? else {
            return Ok(None);
        };
        record.entries = self.amendments(row)?;
        record.entries.push(entry);
        record.entries.reverse();
        Ok(Some(record))
    }

    /// The entry at `created`, if it created `id`.
    fn creation(&self, id: TransactionId, created: Sequence) -> Result<Option<Entry>, QueryError> {
        let entry = self.reader.entry_covering(created)?;
        Ok(entry.filter(|entry| {
            let creation = entry.body.creation();
            entry.first == created && creation.is_some_and(|(made, _)| made.transaction == id)
        }))
    }

    /// All amendments of a transaction, newest first.
    fn amendments(&self, row: Option<Amended>) -> Result<Vec<Entry>, QueryError> {
        let mut entries = Vec::new();
        let mut at = row.map_or(Sequence::ORIGIN, |row| row.last);
        while let Some(entry) = self.reader.entry_covering(at)? {
            let previous = entry
                .body
                .amendment()
                .map(|amendment| amendment.previous_amendment);
            at = previous.unwrap_or_default();
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The transaction that `entry` created; `None` when it created none.
    fn record(
        &self,
        entry: &Entry,
        row: Option<Amended>,
        sequence: Sequence,
    ) -> Result<Option<TransactionRecord>, QueryError> {
        let Some((movement, first_status)) = entry.body.creation() else {
            return Ok(None);
        };
        let status = row.map_or(first_status, |row| row.status);
        let moved = matches!(status, Status::Completed | Status::Reversed);
        let settled_at = match (moved, first_status) {
            (true, Status::Completed) => Some(entry.at),
            (true, _) => {
                let amendments = self.amendments(row)?;
                let capture = amendments
                    .iter()
                    .find(|e| matches!(e.body, Body::HoldCaptured(_)));
                capture.map(|entry| entry.at)
            }
            (false, _) => None,
        };
        Ok(Some(TransactionRecord {
            id: movement.transaction,
            from: movement.from.wallet,
            to: movement.to.wallet,
            currency: movement.currency,
            amount: movement.amount,
            status,
            fraud_score: row.map_or(FraudScore::ZERO, |row| row.fraud_score),
            created_at: entry.at,
            settled_at,
            metadata: movement.metadata.clone(),
            created: entry.first,
            last_amendment: row.map_or(Sequence::ORIGIN, |row| row.last),
            sequence,
            entries: Vec::new(),
        }))
    }

    fn history(
        &self,
        wallet: WalletId,
        before: Option<Sequence>,
        offset: usize,
        limit: usize,
    ) -> Result<HistoryPage, QueryError> {
        let sequence = self.books.as_of();
        let mut at = match before {
            None => self.books.chain_head(wallet),
            Some(before) => {
                let entry = self.reader.entry_covering(before)?;
                let entry = entry.filter(|entry| entry.first == before);
                previous_in_chain(entry.as_ref(), wallet).ok_or(QueryError::InvalidCursor)?
            }
        };
        let mut to_skip = offset;
        let mut transactions = Vec::new();
        let mut next_before = None;
        while transactions.len() < limit
            && let Some(entry) = self.reader.entry_covering(at)?
        {
            at = previous_in_chain(Some(&entry), wallet).unwrap_or_default();
            if entry.body.creation().is_none() {
                continue;
            }
            if to_skip > 0 {
                to_skip -= 1;
                continue;
            }
            transactions.extend(self.record(&entry, self.books.amended(entry.first), sequence)?);
            next_before = (!at.is_origin()).then_some(entry.first);
        }
        if transactions.len() < limit {
            next_before = None;
        }
        Ok(HistoryPage {
            transactions,
            next_before,
        })
    }

    fn pending(
        &self,
        limit: usize,
        visible: impl Fn(WalletId, WalletId) -> bool,
    ) -> Result<PendingPage, QueryError> {
        let sequence = self.books.as_of();
        let mut transactions = Vec::new();
        let mut after = Sequence::ORIGIN;
        loop {
            let holds = self.books.open_holds_after(after, HOLDS_PER_STEP);
            let Some((last, _)) = holds.last() else { break };
            after = *last;
            for (created, hold) in holds {
                if transactions.len() >= limit {
                    return Ok(PendingPage { transactions });
                }
                if visible(hold.from, hold.to)
                    && let Some(entry) = self.creation(hold.transaction, created)?
                {
                    transactions.extend(self.record(
                        &entry,
                        self.books.amended(created),
                        sequence,
                    )?);
                }
            }
        }
        Ok(PendingPage { transactions })
    }

    fn stats(
        &self,
        wallet: WalletId,
        currency: Currency,
        since: TimestampMs,
    ) -> Result<WalletStats, QueryError> {
        let entries_max = self.stats_entries_max;
        let mut stats = WalletStats::default();
        let mut at = self.books.chain_head(wallet);
        let mut read = 0;
        while let Some(entry) = self.reader.entry_covering(at)? {
            if entry.at < since {
                break;
            }
            read += 1;
            if read > entries_max {
                return Err(QueryError::TooMuch { entries_max });
            }
            at = previous_in_chain(Some(&entry), wallet).unwrap_or_default();
            let Some((movement, first_status)) = entry.body.creation() else {
                continue;
            };
            if movement.currency != currency {
                continue;
            }
            let row = self.books.amended(entry.first);
            let score = row.map_or(FraudScore::ZERO, |row| row.fraud_score);
            stats.total_count += 1;
            stats.fraud_score_millionths_sum += u64::from(score.millionths());
            match row.map_or(first_status, |row| row.status) {
                Status::Pending => {}
                Status::Completed => {
                    stats.completed_count += 1;
                    stats.total_amount += i128::from(movement.amount.get());
                }
                Status::Failed => stats.failed_count += 1,
                Status::Reversed => stats.reversed_count += 1,
            }
        }
        Ok(stats)
    }
}

/// First sequence of the entry before `entry` in the chain of `wallet`; `None` when the entry is not in that chain.
fn previous_in_chain(entry: Option<&Entry>, wallet: WalletId) -> Option<Sequence> {
    let (one, other) = entry?.body.legs();
    let leg: Option<&Leg> = [Some(one), other]
        .into_iter()
        .flatten()
        .find(|leg| leg.wallet == wallet);
    leg.map(|leg| leg.link.previous)
}
