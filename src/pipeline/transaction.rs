//! When a transaction is due, and how large it may be. Pure: no producer, no clock.
//!
//! A transaction begins with its first record and is due when its window is over or it is full; an idle pipeline has
//! none open, which would hold up every `read_committed` consumer of the topic.

use std::time::Duration;

/// Most records of a transaction. Bounds what an abort costs: all of them are sent again.
const RECORDS_MAX: usize = 20_000;
/// By how much a failed transaction shrinks the next one.
const SHRINK_BY: usize = 4;
/// By how much a committed one lets the next grow.
const GROW_BY: usize = 2;

/// The transactions of one producer after another.
#[derive(Debug)]
pub(super) struct Transactions {
    window: Duration,
    /// Why it varies: a transaction has to be through before its time-out. Over a line too slow for a large one it
    /// would be aborted and sent again for ever.
    records_max: usize,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// Monotonic time of its beginning.
    since: Duration,
    records: usize,
}

impl Transactions {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            // Without any, each record would be a transaction of its own.
            window: window.max(Duration::from_millis(1)),
            records_max: RECORDS_MAX,
            open: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// One begins.
    pub(super) fn begin(&mut self, now: Duration) {
        let (since, records) = (now, 0);
        self.open = Some(Open { since, records });
    }

    /// A record was handed over.
    pub(super) fn sent(&mut self) {
        if let Some(open) = &mut self.open {
            open.records += 1;
        }
    }

    /// How long until the open one has to be committed; `None` when there is none.
    pub(super) fn due_in(&self, now: Duration) -> Option<Duration> {
        let open = self.open.as_ref()?;
        if open.records >= self.records_max {
            return Some(Duration::ZERO);
        }
        Some((open.since + self.window).saturating_sub(now))
    }

    /// The open one is committed.
    pub(super) fn committed(&mut self) {
        self.open = None;
        self.records_max = self.records_max.saturating_mul(GROW_BY).min(RECORDS_MAX);
    }

    /// The open one, if any, will not be committed: its producer has ended.
    pub(super) fn given_up(&mut self) {
        if let Some(open) = self.open.take() {
            let fewer = open.records.min(self.records_max) / SHRINK_BY;
            self.records_max = fewer.max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn open_with(transactions: &mut Transactions, records: usize, now: Duration) {
        transactions.begin(now);
        for _ in 0..records {
            transactions.sent();
        }
    }

    #[test]
    fn one_is_due_when_its_window_is_over_and_none_is_while_nothing_is_sent() {
        let mut transactions = Transactions::new(10 * MS);
        assert_eq!(transactions.due_in(500 * MS), None);
        open_with(&mut transactions, 3, 100 * MS);
        assert!(transactions.is_open());
        assert_eq!(transactions.due_in(104 * MS), Some(6 * MS));
        assert_eq!(transactions.due_in(400 * MS), Some(Duration::ZERO));
        transactions.committed();
        assert!(!transactions.is_open());
        assert_eq!(transactions.due_in(401 * MS), None);
    }

    #[test]
    fn a_window_of_nothing_still_gathers() {
        let mut transactions = Transactions::new(Duration::ZERO);
        transactions.begin(MS);
        assert_eq!(transactions.due_in(MS), Some(MS));
    }

    #[test]
    fn a_full_one_is_due_at_once() {
        let mut transactions = Transactions::new(10 * MS);
        open_with(&mut transactions, RECORDS_MAX - 1, MS);
        assert_eq!(transactions.due_in(MS), Some(10 * MS));
        transactions.sent();
        assert_eq!(transactions.due_in(MS), Some(Duration::ZERO));
    }

    #[test]
    fn failures_shrink_them_down_to_one_record_and_commits_let_them_grow_again() {
        let mut transactions = Transactions::new(10 * MS);
        transactions.given_up();
        assert_eq!(transactions.records_max, RECORDS_MAX, "none was open");
        let mut sizes = Vec::new();
        while transactions.records_max > 1 {
            let records = transactions.records_max;
            open_with(&mut transactions, records, MS);
            assert_eq!(transactions.due_in(MS), Some(Duration::ZERO));
            transactions.given_up();
            sizes.push(transactions.records_max);
        }
        assert_eq!(sizes, [5_000, 1_250, 312, 78, 19, 4, 1]);
        open_with(&mut transactions, 1, MS);
        transactions.given_up();
        assert_eq!(transactions.records_max, 1, "never none at all");
        for _ in 0..20 {
            transactions.begin(MS);
            transactions.committed();
        }
        assert_eq!(transactions.records_max, RECORDS_MAX);
    }
}
