//! Whether somebody else ships this journal. Pure: no broker, no file.
//!
//! Two processes with copies of one journal fence each other: whoever starts a producer last may send, and the other
//! hears of it at its next record. A fence alone proves no rival (the request of a process that died may come late, and
//! brokers that gave a transaction up fence its owner too), so the answer to it is that to all trouble: another
//! producer. What proves one is a record of this journal that this process knows nothing of. Since nobody can send while
//! the tails are read, whoever comes second finds what the first has committed, and stops: never both, never in turns.

use super::acks::{AckTracker, LastAck};
use super::resume::{Found, Tail};
use crate::types::Sequence;

/// What this process knows of each partition's last record of its journal: one of these it must be. And the epoch of
/// another copy whose records were there already, if any: the operator has said to go on behind them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Known {
    partitions: Vec<([LastAck; 3], Option<u32>)>,
}

/// A record in the topic that is not of this process.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "another process ships this journal: partition {partition} holds {record}, which this one did not send. Stop the \
     other one, then restart the one whose journal is the right one"
)]
pub(super) struct Rival {
    partition: usize,
    record: Record,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Record {
    At { sequence: Sequence, offset: i64 },
    OfEpoch(u32),
}

impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At { sequence, offset } => write!(f, "event {sequence} at offset {offset}"),
            Self::OfEpoch(epoch) => write!(f, "events of its epoch {epoch}"),
        }
    }
}

impl Known {
    /// After a producer's life: what was there when it began, what it committed, and what of it nobody knows whether
    /// it was committed.
    pub(super) fn after(found: &[Tail], acks: &AckTracker) -> Self {
        let partitions = found
            .iter()
            .zip(acks.last().zip(acks.last_acknowledged()))
            .map(|(tail, (committed, acknowledged))| {
                let last = [tail.newest.unwrap_or_default(), committed, acknowledged];
                (last, tail.other_epoch)
            });
        Self {
            partitions: partitions.collect(),
        }
    }

    /// Looks for a rival in what the topic holds now. A partition in which nothing of ours is left tells nothing.
    pub(super) fn compare(&self, found: &Found, epoch: u32) -> Result<(), Rival> {
        let tails = found.tails.iter().zip(&self.partitions).enumerate();
        for (partition, (tail, (known, seen))) in tails {
            let is_new = |other: &u32| *other > epoch && Some(*other) != *seen;
            if let Some(newer) = tail.other_epoch.filter(is_new) {
                let record = Record::OfEpoch(newer);
                return Err(Rival { partition, record });
            }
            if let Some(newest) = tail.newest
                && !known.contains(&newest)
            {
                let (sequence, offset) = (newest.sequence, newest.offset.unwrap_or(-1));
                let record = Record::At { sequence, offset };
                return Err(Rival { partition, record });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::acks::Finality;

    const EPOCH: u32 = 2;

    fn at(offset: i64, sequence: u64) -> LastAck {
        LastAck {
            offset: Some(offset),
            sequence: Sequence::new(sequence),
        }
    }

    fn found(newest: Option<LastAck>) -> Found {
        let tail = Tail {
            high: 100,
            stable: 100,
            newest,
            ..Tail::default()
        };
        Found {
            cluster_id: None,
            tails: vec![tail],
        }
    }

    /// A process that found event 5 at offset 10, committed 7 at 12, and then had 8 and 9 acknowledged at 14 and 15.
    fn known() -> Known {
        let before = found(Some(at(10, 5)));
        let plan_last = vec![at(10, 5)];
        let mut acks = AckTracker::new(Sequence::new(5), plan_last, Finality::OnCommit);
        for (sequence, offset) in [(6, 11), (7, 12), (8, 14), (9, 15)] {
            acks.sent(0, Sequence::new(sequence));
            acks.acknowledged(0, Sequence::new(sequence), offset)
                .unwrap();
            if sequence == 7 {
                acks.committed();
            }
        }
        Known::after(&before.tails, &acks)
    }

    #[test]
    fn what_this_process_found_committed_or_may_have_committed_is_its_own() {
        for newest in [None, Some(at(10, 5)), Some(at(12, 7)), Some(at(15, 9))] {
            assert_eq!(known().compare(&found(newest), EPOCH), Ok(()), "{newest:?}");
        }
    }

    #[test]
    fn a_record_that_it_did_not_send_is_a_rivals_whatever_its_sequence() {
        for newest in [at(20, 10), at(20, 9), at(20, 7), at(14, 8), at(12, 6)] {
            let rival = known().compare(&found(Some(newest)), EPOCH).unwrap_err();
            assert!(rival.to_string().contains("another process"), "{rival}");
        }
    }

    #[test]
    fn a_newer_epoch_is_a_rival_and_an_older_one_is_the_past() {
        let with = |epoch| {
            let mut found = found(Some(at(12, 7)));
            found.tails[0].other_epoch = Some(epoch);
            known().compare(&found, EPOCH)
        };
        assert_eq!(with(1), Ok(()));
        assert!(with(3).unwrap_err().to_string().contains("epoch 3"));
    }

    #[test]
    fn an_epoch_that_was_there_already_is_no_rival_and_a_newer_one_is() {
        let with = |seen, epoch| {
            let mut topic = found(Some(at(10, 5)));
            topic.tails[0].other_epoch = seen;
            let acks = AckTracker::new(Sequence::new(5), vec![at(10, 5)], Finality::OnCommit);
            let known = Known::after(&topic.tails, &acks);
            topic.tails[0].other_epoch = Some(epoch);
            known.compare(&topic, EPOCH)
        };
        assert_eq!(with(Some(3), 3), Ok(()));
        assert!(with(Some(3), 4).is_err());
        assert!(with(None, 3).is_err());
    }
}
