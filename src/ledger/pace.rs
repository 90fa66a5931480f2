//! How long the ledger thread waits for commands: for more of them in a group, and awake for the next group.
//!
//! A commit costs about the same for one command as for a hundred, so it is cheaper for all to wait a moment for those
//! that are on their way anyway. Who they are nobody can know; but callers come again: about as many as were answered
//! with the last group and waited behind it then. A group that holds less than a quarter of them waits, for a time that is
//! short beside a commit, and not at all for up to seven callers. Why a quarter: while some are committed the others are
//! answered, read and parsed; with larger groups all go in step, and disk and processors wait for each other [of half
//! the callers: 5 to 19 % less at 64 to 256].
//!
//! To sleep and to be woken takes longer than the few microseconds which often pass until the next command. So the
//! thread first looks for one again and again, for a bounded time, as long as commands come that fast: a few looks in
//! vain, and it sleeps at once until they do again.

/// Looks in vain, one behind the other, until the thread sleeps at once.
const LOOKS_IN_VAIN_MAX: u8 = 8;

/// A group waits until it has one of so many callers.
const CALLERS_A_COMMAND: usize = 4;

/// What the last groups tell of the callers.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Commands that were in the ledger at once, in its queue and in the group: their most, slowly forgotten.
    callers: usize,
    looks_left: u8,
}

impl Pace {
    /// A group of `answered` commands ends, and `queued` ones wait behind it.
    pub(super) const fn group_ended(&mut self, answered: usize, queued: usize) {
        let seen = answered.saturating_add(queued);
        self.callers = match self.callers.checked_sub(seen) {
            // Down by an eighth a group: one small group among large ones means nothing.
            Some(fewer) => self.callers.saturating_sub(fewer.div_ceil(8)),
            None => seen,
        };
    }

    /// How many commands the next group waits for, when `queued` are there; `None` when those are enough.
    pub(super) fn worth_waiting_for(&self, queued: usize) -> Option<usize> {
        let enough = self.callers / CALLERS_A_COMMAND;
        (queued < enough).then_some(enough)
    }

    /// Whether to look for the next command before sleeping.
    pub(super) const fn is_worth_looking(&self) -> bool {
        self.looks_left > 0
    }

    /// The next command came within the time that one looks for it, or later.
    pub(super) const fn next_came(&mut self, soon: bool) {
        self.looks_left = if soon {
            LOOKS_IN_VAIN_MAX
        } else {
            self.looks_left.saturating_sub(1)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(groups: &[(usize, usize)]) -> Pace {
        let mut pace = Pace::default();
        for (answered, queued) in groups {
            pace.group_ended(*answered, *queued);
        }
        pace
    }

    #[test]
    fn few_callers_never_wait() {
        assert_eq!(Pace::default().worth_waiting_for(1), None);
        assert_eq!(after(&[(1, 0); 9]).worth_waiting_for(1), None);
        assert_eq!(after(&[(1, 6); 9]).worth_waiting_for(1), None);
    }

    #[test]
    fn a_group_waits_for_a_quarter_of_those_who_were_there() {
        let pace = after(&[(20, 44)]);
        assert_eq!(pace.worth_waiting_for(1), Some(16));
        assert_eq!(pace.worth_waiting_for(15), Some(16));
        assert_eq!(pace.worth_waiting_for(16), None);
    }

    #[test]
    fn it_stays_awake_only_while_commands_come_soon() {
        let mut pace = Pace::default();
        assert!(!pace.is_worth_looking());
        pace.next_came(true);
        for _ in 0..LOOKS_IN_VAIN_MAX {
            assert!(pace.is_worth_looking());
            pace.next_came(false);
        }
        assert!(!pace.is_worth_looking());
        pace.next_came(false);
        pace.next_came(true);
        assert!(pace.is_worth_looking());
    }

    #[test]
    fn who_went_is_forgotten_after_some_groups_and_not_at_the_first() {
        let mut pace = after(&[(100, 28), (1, 0)]);
        assert_eq!(pace.worth_waiting_for(20), Some(28));
        for _ in 0..100 {
            pace.group_ended(1, 0);
        }
        assert_eq!(pace.worth_waiting_for(1), None);
    }
}
