//! What Kafka has acknowledged for good, as one contiguous prefix of the journal.

use crate::types::Sequence;
use std::collections::VecDeque;

/// Follows records from their sending to their acknowledgement.
///
/// Acknowledgements of different partitions come in any order; within a partition they come in the order of sending,
/// and that is checked. So one queue a partition is enough: everything below the oldest record still waiting in any
/// of them is acknowledged.
/// ```text
/// p0  [12 19 23]        published = 11: everything below the oldest front (12)
/// p1  [14 15]
/// p2  []                looked at: 23
/// ```
/// In transactions an acknowledgement is not the last word: there the prefix ends below the first record of the open
/// transaction, and moves with its commit.
#[derive(Debug)]
pub(super) struct AckTracker {
    finality: Finality,
    partitions: Vec<Waiting>,
    looked_at: Sequence,
    published: Sequence,
    in_flight: usize,
    /// The first record of the open transaction.
    open_from: Option<Sequence>,
    /// Acknowledged in the open transaction.
    uncommitted: usize,
    /// Final, and not yet asked for.
    newly_final: usize,
}

/// When a record can no longer be taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Finality {
    /// Once it is acknowledged.
    OnAck,
    /// Once it is acknowledged and its transaction is committed.
    OnCommit,
}

#[derive(Debug)]
struct Waiting {
    sequences: VecDeque<Sequence>,
    acknowledged: LastAck,
    /// Equal to `acknowledged` where that is final.
    committed: LastAck,
}

/// The newest acknowledged record of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LastAck {
    /// Its offset in the partition; `None` before the first whose offset is known.
    pub offset: Option<i64>,
    /// Its sequence; the origin before the first.
    pub sequence: Sequence,
}

/// An acknowledgement that does not fit what was sent: the log or the order is not what we believe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum AckError {
    /// Nothing was sent there.
    #[error("partition {partition} acknowledged {sequence}, which was not sent there")]
    Stray { partition: u32, sequence: Sequence },
    /// Another record was next.
    #[error("partition {partition} acknowledged {sequence} before {expected}")]
    OutOfOrder {
        partition: u32,
        sequence: Sequence,
        expected: Sequence,
    },
    /// The log was replaced by a shorter one.
    #[error("partition {partition} went back from offset {before} to {offset}")]
    OffsetWentBack {
        partition: u32,
        before: i64,
        offset: i64,
    },
}

impl AckTracker {
    /// A tracker where everything up to `published` is done; `last` has a place for each partition.
    pub(super) fn new(published: Sequence, last: Vec<LastAck>, finality: Finality) -> Self {
        let waiting = |last| Waiting {
            sequences: VecDeque::new(),
            acknowledged: last,
            committed: last,
        };
        Self {
            finality,
            partitions: last.into_iter().map(waiting).collect(),
            looked_at: published,
            published,
            in_flight: 0,
            open_from: None,
            uncommitted: 0,
            newly_final: 0,
        }
    }

    /// `sequence`, the one behind the last looked at, needs no acknowledgement (not selected, or there already).
    pub(super) fn pass(&mut self, sequence: Sequence) {
        self.looked_at = self.looked_at.max(sequence);
    }

    /// `sequence` was handed to the producer for `partition`.
    pub(super) fn sent(&mut self, partition: u32, sequence: Sequence) {
        if let Some(waiting) = self.at(partition) {
            waiting.sequences.push_back(sequence);
            self.in_flight += 1;
            if self.finality == Finality::OnCommit {
                self.open_from.get_or_insert(sequence);
            }
        }
        self.pass(sequence);
    }

    /// `partition` acknowledged `sequence` at `offset` (negative when the broker did not say).
    pub(super) fn acknowledged(
        &mut self,
        partition: u32,
        sequence: Sequence,
        offset: i64,
    ) -> Result<(), AckError> {
        let stray = AckError::Stray {
            partition,
            sequence,
        };
        let finality = self.finality;
        let waiting = self.at(partition).ok_or(stray)?;
        let expected = *waiting.sequences.front().ok_or(stray)?;
        if expected != sequence {
            return Err(AckError::OutOfOrder {
                partition,
                sequence,
                expected,
            });
        }
        if offset >= 0 {
            if let Some(before) = waiting.acknowledged.offset
                && offset <= before
            {
                return Err(AckError::OffsetWentBack {
                    partition,
                    before,
                    offset,
                });
            }
            waiting.acknowledged.offset = Some(offset);
        }
        waiting.acknowledged.sequence = sequence;
        waiting.sequences.pop_front();
        match finality {
            Finality::OnAck => {
                waiting.committed = waiting.acknowledged;
                self.newly_final += 1;
            }
            Finality::OnCommit => self.uncommitted += 1,
        }
        self.in_flight -= 1;
        Ok(())
    }

    /// The open transaction was committed.
    ///
    /// # Panics
    /// When a record of it waits for its acknowledgement: it cannot have been committed then.
    pub(super) fn committed(&mut self) {
        assert_eq!(
            self.in_flight, 0,
            "a commit comes after every acknowledgement"
        );
        for waiting in &mut self.partitions {
            waiting.committed = waiting.acknowledged;
        }
        self.newly_final += std::mem::take(&mut self.uncommitted);
        self.open_from = None;
    }

    /// How many records became final since the last call.
    pub(super) fn take_final(&mut self) -> usize {
        std::mem::take(&mut self.newly_final)
    }

    /// Moves the prefix up to the oldest record that is not final, and tells where it stands. To be called once for
    /// many acknowledgements: it looks at every partition.
    pub(super) fn settle(&mut self) -> Sequence {
        let oldest = match self.finality {
            Finality::OnAck => {
                let waiting = self.partitions.iter();
                waiting
                    .filter_map(|waiting| waiting.sequences.front().copied())
                    .min()
            }
            Finality::OnCommit => self.open_from,
        };
        self.published = oldest.map_or(self.looked_at, Sequence::previous);
        self.published
    }

    /// Everything up to here is final or need not be sent, as of the last [`AckTracker::settle`].
    pub(super) fn published(&self) -> Sequence {
        self.published
    }

    /// Everything up to here was sent or passed.
    pub(super) fn looked_at(&self) -> Sequence {
        self.looked_at
    }

    /// Records that wait for their acknowledgement.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The newest final record of each partition.
    pub(super) fn last(&self) -> impl Iterator<Item = LastAck> {
        self.partitions.iter().map(|waiting| waiting.committed)
    }

    /// The newest acknowledged record of each partition, final or not.
    pub(super) fn last_acknowledged(&self) -> impl Iterator<Item = LastAck> {
        self.partitions.iter().map(|waiting| waiting.acknowledged)
    }

    fn at(&mut self, partition: u32) -> Option<&mut Waiting> {
        self.partitions.get_mut(usize::try_from(partition).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seq(number: u64) -> Sequence {
        Sequence::new(number)
    }

    fn tracker(partitions: usize) -> AckTracker {
        tracker_of(partitions, Finality::OnAck)
    }

    fn tracker_of(partitions: usize, finality: Finality) -> AckTracker {
        let last = vec![LastAck::default(); partitions];
        AckTracker::new(Sequence::ORIGIN, last, finality)
    }

    #[test]
    fn the_prefix_stops_at_the_oldest_record_that_waits() {
        let mut acks = tracker(3);
        acks.sent(0, seq(1));
        acks.pass(seq(2));
        acks.sent(1, seq(3));
        acks.sent(0, seq(4));
        assert_eq!(acks.settle(), seq(0));
        acks.acknowledged(1, seq(3), 0).unwrap();
        assert_eq!(acks.settle(), seq(0));
        acks.acknowledged(0, seq(1), 0).unwrap();
        assert_eq!(acks.settle(), seq(3));
        acks.acknowledged(0, seq(4), 1).unwrap();
        assert_eq!(acks.settle(), seq(4));
        assert_eq!(acks.in_flight(), 0);
    }

    #[test]
    fn events_that_need_no_acknowledgement_move_the_prefix_alone() {
        let mut acks = tracker(1);
        acks.pass(seq(7));
        assert_eq!(acks.settle(), seq(7));
    }

    #[test]
    fn in_a_transaction_nothing_counts_before_its_commit() {
        let mut acks = tracker_of(2, Finality::OnCommit);
        acks.pass(seq(1));
        assert_eq!(acks.settle(), seq(1), "what is not sent needs no commit");
        acks.sent(0, seq(2));
        acks.pass(seq(3));
        acks.sent(1, seq(4));
        acks.acknowledged(0, seq(2), 7).unwrap();
        acks.acknowledged(1, seq(4), 8).unwrap();
        assert_eq!((acks.settle(), acks.take_final()), (seq(1), 0));
        assert!(acks.last().all(|last| last == LastAck::default()));
        let at = |offset, sequence| LastAck {
            offset: Some(offset),
            sequence: seq(sequence),
        };
        assert!(acks.last_acknowledged().eq([at(7, 2), at(8, 4)]));
        acks.committed();
        assert_eq!((acks.settle(), acks.take_final()), (seq(4), 2));
        assert!(acks.last().eq([at(7, 2), at(8, 4)]));
        acks.sent(0, seq(5));
        acks.pass(seq(6));
        assert_eq!((acks.settle(), acks.take_final()), (seq(4), 0));
    }

    #[test]
    #[should_panic(expected = "after every acknowledgement")]
    fn a_commit_with_records_under_way_is_no_commit() {
        let mut acks = tracker_of(1, Finality::OnCommit);
        acks.sent(0, seq(1));
        acks.committed();
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let mut acks = tracker(2);
        acks.sent(0, seq(1));
        acks.sent(0, seq(2));
        acks.sent(0, seq(3));
        assert!(matches!(
            acks.acknowledged(1, seq(1), 5),
            Err(AckError::Stray { .. })
        ));
        assert!(matches!(
            acks.acknowledged(9, seq(1), 5),
            Err(AckError::Stray { .. })
        ));
        assert!(matches!(
            acks.acknowledged(0, seq(2), 5),
            Err(AckError::OutOfOrder { .. })
        ));
        acks.acknowledged(0, seq(1), 5).unwrap();
        let back = acks.acknowledged(0, seq(2), 5);
        assert_eq!(
            back,
            Err(AckError::OffsetWentBack {
                partition: 0,
                before: 5,
                offset: 5
            })
        );
        acks.acknowledged(0, seq(2), -1).unwrap();
        acks.acknowledged(0, seq(3), 9).unwrap();
    }

    proptest! {
        /// Against the naive answer: a set of all that is not acknowledged.
        #[test]
        fn the_prefix_equals_that_of_a_plain_set(steps in prop::collection::vec((0u32..5, 0usize..4), 1..400)) {
            let mut acks = tracker(4);
            let mut waiting = std::collections::BTreeSet::new();
            let mut queues = vec![VecDeque::new(); 4];
            let mut offsets = [0i64; 4];
            let mut next = seq(1);
            for (kind, partition) in steps {
                let number = u32::try_from(partition).unwrap();
                match kind {
                    0 | 1 => {
                        acks.sent(number, next);
                        queues[partition].push_back(next);
                        waiting.insert(next);
                        next = next.next();
                    }
                    2 => {
                        acks.pass(next);
                        next = next.next();
                    }
                    _ => if let Some(sequence) = queues[partition].pop_front() {
                        acks.acknowledged(number, sequence, offsets[partition]).unwrap();
                        offsets[partition] += 1;
                        waiting.remove(&sequence);
                    },
                }
                let naive = waiting.first().map_or(next.previous(), |first| first.previous());
                prop_assert_eq!(acks.settle(), naive);
                prop_assert_eq!(acks.in_flight(), waiting.len());
            }
        }

        /// In transactions the prefix stands still from a transaction's first record to its commit, then it is where
        /// one that needs no commits would be.
        #[test]
        fn a_commit_catches_up_with_a_plain_tracker(steps in prop::collection::vec((0u32..4, 0u32..3), 1..300)) {
            let (mut plain, mut acks) = (tracker(3), tracker_of(3, Finality::OnCommit));
            let (mut next, mut offset) = (seq(1), 0i64);
            let mut open = false;
            for (kind, partition) in steps {
                match kind {
                    0 | 1 => {
                        for tracker in [&mut plain, &mut acks] {
                            tracker.sent(partition, next);
                            tracker.acknowledged(partition, next, offset).unwrap();
                        }
                        open = true;
                        offset += 1;
                        next = next.next();
                    }
                    2 => {
                        plain.pass(next);
                        acks.pass(next);
                        next = next.next();
                    }
                    _ => {
                        acks.committed();
                        open = false;
                    }
                }
                let before = acks.published();
                let after = acks.settle();
                prop_assert!(after >= before);
                if open {
                    prop_assert!(after < plain.settle());
                } else {
                    prop_assert_eq!(after, plain.settle());
                    prop_assert!(acks.last().eq(plain.last()));
                }
            }
        }
    }
}
