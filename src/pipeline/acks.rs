//! What Kafka has acknowledged, as one contiguous prefix of the journal.

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
#[derive(Debug)]
pub(super) struct AckTracker {
    partitions: Vec<Waiting>,
    looked_at: Sequence,
    published: Sequence,
    in_flight: usize,
}

#[derive(Debug)]
struct Waiting {
    sequences: VecDeque<Sequence>,
    last: LastAck,
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
    pub(super) fn new(published: Sequence, last: Vec<LastAck>) -> Self {
        let waiting = |last| Waiting {
            sequences: VecDeque::new(),
            last,
        };
        Self {
            partitions: last.into_iter().map(waiting).collect(),
            looked_at: published,
            published,
            in_flight: 0,
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
            if let Some(before) = waiting.last.offset
                && offset <= before
            {
                return Err(AckError::OffsetWentBack {
                    partition,
                    before,
                    offset,
                });
            }
            waiting.last.offset = Some(offset);
        }
        waiting.last.sequence = sequence;
        waiting.sequences.pop_front();
        self.in_flight -= 1;
        Ok(())
    }

    /// Moves the prefix up to the oldest record that still waits, and tells where it stands. To be called once for
    /// many acknowledgements: it looks at every partition.
    pub(super) fn settle(&mut self) -> Sequence {
        let fronts = self
            .partitions
            .iter()
            .filter_map(|waiting| waiting.sequences.front());
        self.published = fronts
            .min()
            .map_or(self.looked_at, |oldest| oldest.previous());
        self.published
    }

    /// Everything up to here is acknowledged or needs no acknowledgement, as of the last [`AckTracker::settle`].
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

    /// The newest acknowledged record of each partition.
    pub(super) fn last(&self) -> impl Iterator<Item = LastAck> {
        self.partitions.iter().map(|waiting| waiting.last)
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
        AckTracker::new(Sequence::ORIGIN, vec![LastAck::default(); partitions])
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
    }
}
