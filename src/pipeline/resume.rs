//! Where to go on, from what the cursor says and what the topic holds. Pure: no broker, no file.
//!
//! ```text
//! published (cursor)        have[p]: newest own record in partition p
//!        |   p0 ........ 17 |
//!  ... 12|   p1 .... 14     |        resume behind max(12, min(17, 14, 19)) = 14;
//!        |   p2 .......... 19        skip p0 up to 17 and p2 up to 19: they are there
//! ```

use super::acks::LastAck;
use super::config::OnNewCluster;
use super::cursor::Cursor;
use crate::journal::JournalIdentity;
use crate::types::Sequence;

/// What a topic holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// The cluster's id, where the brokers tell one.
    pub(super) cluster_id: Option<String>,
    /// One for each partition.
    pub(super) tails: Vec<Tail>,
}

/// What one partition holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Tail {
    /// Offset of the next record.
    pub(super) high: i64,
    /// Offset up to which every transaction has ended, whoever began it: nothing from there on was looked at.
    pub(super) stable: i64,
    /// The last record of this journal in the log, those from before a restore included; `None` when none was found.
    pub(super) newest: Option<LastAck>,
    /// The epoch of another copy of this journal, where a record was seen that only that copy has.
    pub(super) other_epoch: Option<u32>,
    /// What stands where the cursor says that our newest acknowledged record is.
    pub(super) at_cursor: AtCursor,
}

impl Found {
    /// Where each partition ends.
    pub(super) fn ends(&self) -> Vec<i64> {
        self.tails.iter().map(|tail| tail.high).collect()
    }

    /// Where an open transaction hides what stands below `ends`, one for each partition, if one does.
    pub(super) fn undecided(&self, ends: &[i64]) -> Option<Undecided> {
        let mut tails = self.tails.iter().zip(ends).enumerate();
        let hides = |(_, (tail, end)): &(usize, (&Tail, &i64))| tail.stable < tail.high.min(**end);
        tails.find(hides).map(|(partition, (tail, _))| Undecided {
            partition,
            from: tail.stable,
        })
    }
}

/// A transaction is open, ours or another's, and whether events of ours were committed behind its beginning is not to be
/// seen before its end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a transaction that began at offset {from} of partition {partition} has not ended: waiting for what it hides"
)]
pub(super) struct Undecided {
    partition: usize,
    from: i64,
}

/// What stands at the cursor's offset of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum AtCursor {
    /// The cursor has no offset there, or the record has been deleted by retention or compaction.
    #[default]
    Unknown,
    /// The record that the cursor remembers.
    Same,
    /// Another: the topic was made anew.
    Other,
}

/// Where to go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// Everything up to here needs no sending.
    pub(super) after: Sequence,
    /// For each partition: its records up to here are there.
    pub(super) have: Vec<Sequence>,
    /// For each partition: the newest record that counts as acknowledged.
    pub(super) last: Vec<LastAck>,
    /// For each partition: the oldest record from which on the tail proves nothing; the origin for none. Kept in the
    /// cursor until what was there is shipped again, since the next look at the tails would believe them.
    pub(super) failed: Vec<Sequence>,
    /// Records up to here may be in the topic although they are sent.
    pub(super) repeats_to: Sequence,
    /// Whether the operator's answer was needed: the cursor has to be stored before anything is sent, so that the
    /// answer is not used again.
    pub(super) adopted: bool,
}

/// The topic is not what the cursor says, so going on would leave a hole or break the order.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Difference {
    #[error("the cursor belongs to topic {expected}, not to {found}")]
    Topic { expected: String, found: String },
    #[error("the cursor belongs to cluster {expected}, the brokers are cluster {found}")]
    Cluster { expected: String, found: String },
    #[error("topic {0} is not there any more, and with it all that was acknowledged")]
    Gone(String),
    #[error(
        "the topic has {found} partitions, the cursor {expected}: keys would move and lose their order"
    )]
    Partitions { expected: usize, found: usize },
    #[error(
        "partition {partition} lost records: it ends before offset {end}, offset {acknowledged} was acknowledged"
    )]
    LostRecords {
        partition: usize,
        end: i64,
        acknowledged: i64,
    },
    #[error(
        "partition {partition} holds another record at offset {offset} than was acknowledged there"
    )]
    OtherRecord { partition: usize, offset: i64 },
    #[error(
        "the topic holds events of epoch {found} that this copy of the journal, epoch {epoch}, does not have: another \
         copy went on"
    )]
    Epoch { epoch: u32, found: u32 },
    #[error("events from {wanted} on are not in Kafka, but the journal starts at {oldest}")]
    Archived { wanted: Sequence, oldest: Sequence },
}

/// The pipeline may not go on by itself.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The operator can decide.
    #[error("{0}; decide with --kafka-on-new-cluster reship|continue")]
    Different(Difference),
    /// Nothing may be sent: numbers would be used twice for different events.
    #[error(
        "partition {partition} holds event {newest} of this journal, which ends at {durable}: the journal has lost \
         its tail, or a copy of it has shipped here"
    )]
    Ahead {
        partition: usize,
        newest: Sequence,
        durable: Sequence,
    },
}

/// What the journal says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Journal {
    pub(super) identity: JournalIdentity,
    pub(super) oldest: Sequence,
    pub(super) durable: Sequence,
}

/// Decides where to go on in `topic`.
pub(super) fn plan(
    topic: &str,
    found: &Found,
    cursor: Option<&Cursor>,
    journal: Journal,
    answer: Option<OnNewCluster>,
) -> Result<Plan, Refusal> {
    for (partition, tail) in found.tails.iter().enumerate() {
        if let Some(LastAck {
            sequence: newest, ..
        }) = tail.newest
            && newest > journal.durable
        {
            return Err(Refusal::Ahead {
                partition,
                newest,
                durable: journal.durable,
            });
        }
    }
    let going_on = match difference(topic, found, cursor, journal) {
        None => resume(found, cursor),
        Some(difference) => {
            let answer = answer.ok_or_else(|| Refusal::Different(difference.clone()))?;
            match (difference, answer) {
                // What is ours in the topic is there; what the other copy put behind it is told apart by its epoch.
                (Difference::Epoch { .. }, OnNewCluster::Continue) => Plan {
                    adopted: true,
                    ..resume(found, cursor)
                },
                _ => start_over(found, cursor, journal, answer),
            }
        }
    };
    let start = journal.oldest.previous();
    if going_on.after >= start {
        return Ok(going_on);
    }
    // A cursor that stands at the origin of an archived journal, or far behind.
    match answer {
        Some(OnNewCluster::Reship) => Ok(Plan {
            after: start,
            adopted: true,
            ..going_on
        }),
        None | Some(OnNewCluster::Continue) => Err(Refusal::Different(Difference::Archived {
            wanted: going_on.after.next(),
            oldest: journal.oldest,
        })),
    }
}

/// Why a topic in which something was acknowledged, and which is missing, is not made again without a word.
pub(super) fn missing(
    topic: &str,
    cursor: Option<&Cursor>,
    cluster_id: Option<&String>,
) -> Refusal {
    let expected = cursor.and_then(|cursor| cursor.cluster_id.as_ref());
    Refusal::Different(match (expected, cluster_id) {
        (Some(expected), Some(found)) if expected != found => Difference::Cluster {
            expected: expected.clone(),
            found: found.clone(),
        },
        _ => Difference::Gone(topic.into()),
    })
}

/// Whether the topic is the cursor's, and ends before what was acknowledged there: lost records, or a broker that has only
/// just come back and does not yet say how far its log goes.
pub(super) fn ends_early(
    topic: &str,
    found: &Found,
    cursor: Option<&Cursor>,
    journal: Journal,
) -> bool {
    matches!(
        difference(topic, found, cursor, journal),
        Some(Difference::LostRecords { .. })
    )
}

fn difference(
    topic: &str,
    found: &Found,
    cursor: Option<&Cursor>,
    journal: Journal,
) -> Option<Difference> {
    let Some(cursor) = cursor else {
        // Why only without a cursor: one of this epoch proves that the question was answered before.
        let found = found.tails.iter().find_map(|tail| tail.other_epoch)?;
        return Some(Difference::Epoch {
            epoch: journal.identity.epoch,
            found,
        });
    };
    if cursor.topic != topic {
        return Some(Difference::Topic {
            expected: cursor.topic.clone(),
            found: topic.into(),
        });
    }
    if let (Some(expected), Some(found)) = (&cursor.cluster_id, &found.cluster_id)
        && expected != found
    {
        return Some(Difference::Cluster {
            expected: expected.clone(),
            found: found.clone(),
        });
    }
    if cursor.partitions.len() != found.tails.len() {
        return Some(Difference::Partitions {
            expected: cursor.partitions.len(),
            found: found.tails.len(),
        });
    }
    cursor
        .partitions
        .iter()
        .zip(&found.tails)
        .enumerate()
        .find_map(|(partition, (place, tail))| {
            let acknowledged = place.last.offset?;
            if tail.high <= acknowledged {
                Some(Difference::LostRecords {
                    partition,
                    end: tail.high,
                    acknowledged,
                })
            } else if tail.at_cursor == AtCursor::Other {
                Some(Difference::OtherRecord {
                    partition,
                    offset: acknowledged,
                })
            } else {
                None
            }
        })
}

/// The topic is ours: its tails tell what arrived since the cursor was stored.
fn resume(found: &Found, cursor: Option<&Cursor>) -> Plan {
    let published = cursor.map_or(Sequence::ORIGIN, |cursor| cursor.published);
    let mut have = Vec::with_capacity(found.tails.len());
    let mut last = Vec::with_capacity(found.tails.len());
    let mut failed = Vec::with_capacity(found.tails.len());
    let mut repeats_to = Sequence::ORIGIN;
    for (partition, tail) in found.tails.iter().enumerate() {
        let place = cursor
            .and_then(|cursor| cursor.partitions.get(partition))
            .copied();
        let place = place.unwrap_or_default();
        // What was acknowledged is there, also where an open transaction hides it.
        let there = tail
            .newest
            .filter(|newest| newest.offset >= place.last.offset);
        let there = there.unwrap_or(place.last);
        let newest = there.sequence;
        last.push(there);
        failed.push(place.failed);
        if place.failed.is_origin() {
            have.push(newest);
        } else {
            // Why: librdkafka delivers what it had behind a refused record. The tail then lies behind a hole, and
            // shipping the rest again is what closes it.
            have.push(newest.min(place.failed.previous()));
            repeats_to = repeats_to.max(newest);
        }
    }
    let everywhere = have.iter().min().copied().unwrap_or(published);
    Plan {
        after: published.max(everywhere),
        have,
        last,
        failed,
        repeats_to,
        adopted: false,
    }
}

/// The topic is not ours, and the operator has answered. The tails prove nothing then (a topic made anew while we
/// shipped begins in the middle), so nothing is skipped: rather twice than missing.
///
/// What we send has to land behind what is there. A producer of another cluster may have had our producer's number, and
/// the brokers would take our first batches for repeats of what that one sent here: acknowledged, and never written.
fn start_over(
    found: &Found,
    cursor: Option<&Cursor>,
    journal: Journal,
    answer: OnNewCluster,
) -> Plan {
    let after = match answer {
        OnNewCluster::Reship => journal.oldest.previous(),
        OnNewCluster::Continue => cursor.map_or(journal.durable, |cursor| cursor.published),
    };
    let newest = |tail: &Tail| tail.newest.map(|newest| newest.sequence);
    let failed = |tail: &Tail| match newest(tail) {
        Some(newest) if newest > after => after.next(),
        Some(_) | None => Sequence::ORIGIN,
    };
    let last = |tail: &Tail| LastAck {
        offset: Some(tail.high - 1).filter(|offset| *offset >= 0),
        sequence: Sequence::ORIGIN,
    };
    Plan {
        after,
        have: vec![Sequence::ORIGIN; found.tails.len()],
        last: found.tails.iter().map(last).collect(),
        failed: found.tails.iter().map(failed).collect(),
        repeats_to: found
            .tails
            .iter()
            .filter_map(newest)
            .max()
            .unwrap_or_default(),
        adopted: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Witness;
    use crate::pipeline::cursor::PartitionCursor;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn seq(number: u64) -> Sequence {
        Sequence::new(number)
    }

    fn journal(durable: u64) -> Journal {
        let identity = JournalIdentity {
            journal_id: Uuid::from_u128(1),
            epoch: 2,
        };
        Journal {
            identity,
            oldest: seq(1),
            durable: seq(durable),
        }
    }

    fn tail(high: i64, newest: u64) -> Tail {
        let newest = (newest > 0).then(|| LastAck {
            offset: Some(high - 1),
            sequence: seq(newest),
        });
        Tail {
            high,
            stable: high,
            newest,
            other_epoch: None,
            at_cursor: AtCursor::Unknown,
        }
    }

    fn found(tails: Vec<Tail>) -> Found {
        Found {
            cluster_id: Some("a".into()),
            tails,
        }
    }

    fn cursor(published: u64, places: &[(i64, u64)]) -> Cursor {
        let place = |(offset, sequence): &(i64, u64)| PartitionCursor {
            last: LastAck {
                offset: Some(*offset).filter(|offset| *offset >= 0),
                sequence: seq(*sequence),
            },
            failed: Sequence::ORIGIN,
        };
        Cursor {
            witness: Witness {
                identity: journal(0).identity,
                durable: seq(published),
                head_hash: [0; 32],
                volume: 1,
                length_bytes: 0,
            },
            published: seq(published),
            topic: "t".into(),
            cluster_id: Some("a".into()),
            partitions: places.iter().map(place).collect(),
        }
    }

    fn different(result: Result<Plan, Refusal>) -> Difference {
        match result {
            Err(Refusal::Different(difference)) => difference,
            other => panic!("expected a difference, got {other:?}"),
        }
    }

    #[test]
    fn what_an_open_transaction_hides_is_undecided_but_never_lost_and_what_was_acknowledged_never_sent_again()
     {
        let hidden = Tail {
            stable: 3,
            newest: Some(LastAck {
                offset: Some(2),
                sequence: seq(5),
            }),
            ..tail(9, 0)
        };
        let cursor = cursor(12, &[(7, 12), (4, 11)]);
        let topic = found(vec![hidden, tail(6, 14)]);
        let undecided = topic.undecided(&topic.ends()).unwrap().to_string();
        assert!(undecided.contains("offset 3 of partition 0"), "{undecided}");
        assert!(!ends_early("t", &topic, Some(&cursor), journal(30)));
        let plan = plan("t", &topic, Some(&cursor), journal(30), None).unwrap();
        assert_eq!((plan.after, plan.have), (seq(12), vec![seq(12), seq(14)]));
        let decided = found(vec![tail(9, 5), tail(0, 0)]);
        assert_eq!(decided.undecided(&decided.ends()), None);
    }

    #[test]
    fn transactions_that_begin_behind_the_first_end_hide_nothing() {
        let ends = found(vec![tail(9, 5)]).ends();
        let at = |stable, high| Tail {
            stable,
            ..tail(high, 0)
        };
        let undecided = |tail| found(vec![tail]).undecided(&ends).is_some();
        assert!(undecided(at(8, 30)), "begun before");
        assert!(!undecided(at(9, 30)), "begun right behind");
        assert!(undecided(at(3, 5)), "the topic was made anew, shorter");
        assert!(!undecided(at(5, 5)));
    }

    #[test]
    fn a_first_start_on_an_empty_topic_ships_all() {
        let plan = plan("t", &found(vec![tail(0, 0); 3]), None, journal(9), None).unwrap();
        assert_eq!(plan.after, Sequence::ORIGIN);
        assert_eq!(plan.have, [Sequence::ORIGIN; 3]);
        assert!(!plan.adopted);
    }

    #[test]
    fn the_tails_tell_what_arrived_since_the_cursor_was_stored() {
        let cursor = cursor(12, &[(3, 12), (4, 11), (-1, 0)]);
        let topic = found(vec![tail(7, 17), tail(6, 14), tail(2, 19)]);
        let plan = plan("t", &topic, Some(&cursor), journal(30), None).unwrap();
        assert_eq!(plan.after, seq(14));
        assert_eq!(plan.have, [seq(17), seq(14), seq(19)]);
        assert_eq!(
            plan.last[0],
            LastAck {
                offset: Some(6),
                sequence: seq(17)
            }
        );
        assert_eq!(plan.repeats_to, Sequence::ORIGIN);
    }

    #[test]
    fn a_partition_emptied_by_retention_counts_as_the_cursor_says() {
        let cursor = cursor(12, &[(3, 12), (4, 11)]);
        let topic = found(vec![tail(4, 0), tail(6, 14)]);
        let plan = plan("t", &topic, Some(&cursor), journal(30), None).unwrap();
        assert_eq!(plan.after, seq(12));
        assert_eq!(plan.have, [seq(12), seq(14)]);
    }

    #[test]
    fn a_refused_record_is_shipped_again_although_later_ones_arrived() {
        let mut cursor = cursor(12, &[(3, 12), (4, 11)]);
        cursor.partitions[0].failed = seq(13);
        let topic = found(vec![tail(9, 25), tail(6, 14)]);
        let plan = plan("t", &topic, Some(&cursor), journal(30), None).unwrap();
        assert_eq!(plan.have, [seq(12), seq(14)]);
        assert_eq!(plan.after, seq(12));
        assert_eq!(plan.repeats_to, seq(25));
    }

    #[test]
    fn a_topic_that_is_not_the_cursors_is_refused_with_the_reason() {
        let old = cursor(12, &[(3, 12), (4, 11)]);
        let refuse = |topic: &str, found: Found| {
            different(plan(topic, &found, Some(&old), journal(30), None))
        };
        let two = || vec![tail(5, 12), tail(6, 14)];
        assert!(matches!(
            refuse("u", found(two())),
            Difference::Topic { .. }
        ));
        let cluster = Found {
            cluster_id: Some("b".into()),
            tails: two(),
        };
        assert!(matches!(refuse("t", cluster), Difference::Cluster { .. }));
        let more = vec![tail(5, 12), tail(6, 14), tail(0, 0)];
        assert!(matches!(
            refuse("t", found(more)),
            Difference::Partitions { found: 3, .. }
        ));
        let short = vec![tail(5, 12), tail(4, 9)];
        assert!(matches!(
            refuse("t", found(short)),
            Difference::LostRecords { partition: 1, .. }
        ));
        let mut other = two();
        other[0].at_cursor = AtCursor::Other;
        assert!(matches!(
            refuse("t", found(other)),
            Difference::OtherRecord { .. }
        ));
    }

    #[test]
    fn a_missing_topic_is_gone_or_of_another_cluster() {
        let old = cursor(12, &[(3, 12)]);
        let told = |cluster: Option<&str>| {
            missing("t", Some(&old), cluster.map(String::from).as_ref()).to_string()
        };
        for cluster in [None, Some("a")] {
            assert!(told(cluster).starts_with("topic t is not there any more"));
        }
        assert!(told(Some("b")).starts_with("the cursor belongs to cluster a"));
    }

    #[test]
    fn the_operators_answer_decides_where_a_new_topic_begins() {
        let old = cursor(12, &[(3, 12)]);
        let new = Found {
            cluster_id: Some("b".into()),
            tails: vec![tail(2, 20)],
        };
        let with = |answer| plan("t", &new, Some(&old), journal(30), Some(answer)).unwrap();
        let reship = with(OnNewCluster::Reship);
        assert_eq!(
            (reship.after, reship.have),
            (Sequence::ORIGIN, vec![Sequence::ORIGIN])
        );
        assert_eq!((reship.repeats_to, reship.adopted), (seq(20), true));
        let go_on = with(OnNewCluster::Continue);
        assert_eq!((go_on.after, go_on.adopted), (seq(12), true));
    }

    /// A topic made anew while we shipped begins in the middle. Once told to ship all of it again, a second rebuild
    /// before anything arrived must not take that middle for what was shipped since.
    #[test]
    fn a_tail_that_proved_nothing_proves_nothing_after_the_next_rebuild_either() {
        let old = cursor(12, &[(3, 12), (3, 11)]);
        let new = Found {
            cluster_id: Some("b".into()),
            tails: vec![tail(2, 20), tail(0, 0)],
        };
        let told = plan(
            "t",
            &new,
            Some(&old),
            journal(30),
            Some(OnNewCluster::Reship),
        )
        .unwrap();
        assert_eq!(told.failed, [seq(1), Sequence::ORIGIN]);
        assert_eq!(
            told.last[0].offset,
            Some(1),
            "ours come behind what is there"
        );
        let place = |(last, failed): (&LastAck, &Sequence)| PartitionCursor {
            last: *last,
            failed: *failed,
        };
        let adopted = Cursor {
            published: told.after,
            cluster_id: Some("b".into()),
            partitions: told.last.iter().zip(&told.failed).map(place).collect(),
            ..old
        };
        let again = plan("t", &new, Some(&adopted), journal(30), None).unwrap();
        assert_eq!(again.after, Sequence::ORIGIN);
        assert_eq!(again.have, [Sequence::ORIGIN; 2]);
        assert_eq!((again.failed, again.repeats_to), (told.failed, seq(20)));
    }

    #[test]
    fn an_answer_changes_nothing_while_the_topic_is_ours() {
        let cursor = cursor(12, &[(3, 12)]);
        let topic = found(vec![tail(5, 15)]);
        let plain = plan("t", &topic, Some(&cursor), journal(30), None);
        let told = plan(
            "t",
            &topic,
            Some(&cursor),
            journal(30),
            Some(OnNewCluster::Reship),
        );
        assert_eq!(plain, told);
    }

    #[test]
    fn a_topic_ahead_of_the_journal_is_refused_whatever_the_operator_says() {
        let topic = found(vec![tail(5, 31)]);
        let refused = plan("t", &topic, None, journal(30), Some(OnNewCluster::Reship));
        assert!(matches!(refused, Err(Refusal::Ahead { .. })));
    }

    /// The backup was taken at 30; of that the topic holds what the tails say, and behind it what the original shipped
    /// afterwards.
    #[test]
    fn a_copy_that_went_on_elsewhere_needs_an_answer_once_and_nothing_of_ours_is_passed_over() {
        let mut behind_theirs = tail(9, 22);
        behind_theirs.other_epoch = Some(1);
        let mut only_theirs = tail(5, 0);
        only_theirs.other_epoch = Some(1);
        let topic = found(vec![behind_theirs, tail(4, 17), only_theirs]);
        let asked = different(plan("t", &topic, None, journal(40), None));
        assert_eq!(asked, Difference::Epoch { epoch: 2, found: 1 });
        let told = |answer| plan("t", &topic, None, journal(40), Some(answer)).unwrap();
        let go_on = told(OnNewCluster::Continue);
        assert_eq!(go_on.have, [seq(22), seq(17), Sequence::ORIGIN]);
        assert_eq!((go_on.after, go_on.adopted), (Sequence::ORIGIN, true));
        let reship = told(OnNewCluster::Reship);
        assert_eq!(
            (reship.after, reship.have),
            (Sequence::ORIGIN, vec![Sequence::ORIGIN; 3])
        );
        let settled = cursor(30, &[(8, 22), (3, 17), (-1, 0)]);
        assert!(plan("t", &topic, Some(&settled), journal(40), None).is_ok());
    }

    #[test]
    fn a_restored_copy_that_nobody_outran_goes_on_without_a_question() {
        let topic = found(vec![tail(9, 22), tail(4, 17)]);
        let plan = plan("t", &topic, None, journal(40), None).unwrap();
        assert_eq!((plan.after, plan.adopted), (seq(17), false));
        assert_eq!(plan.have, [seq(22), seq(17)]);
    }

    #[test]
    fn an_archived_beginning_is_told() {
        let journal = Journal {
            oldest: seq(10),
            ..journal(30)
        };
        let topic = found(vec![tail(0, 0)]);
        let told = different(plan("t", &topic, None, journal, None));
        assert_eq!(
            told,
            Difference::Archived {
                wanted: seq(1),
                oldest: seq(10)
            }
        );
        let reship = plan("t", &topic, None, journal, Some(OnNewCluster::Reship)).unwrap();
        assert_eq!(reship.after, seq(9));
    }

    proptest! {
        /// A process ships `total` events, each partition gets some of its records before a kill, and the cursor is
        /// older still: whatever was cut off where, every record ends up in its partition once and in order.
        #[test]
        fn after_a_kill_every_record_arrives_once_and_in_order(
            places in prop::collection::vec(0usize..4, 1..200),
            arrived in prop::array::uniform4(0usize..80),
            stored in prop::array::uniform4(0usize..80),
        ) {
            let total = u64::try_from(places.len()).unwrap();
            let all: Vec<Vec<u64>> = (0..4)
                .map(|p| (1..=total).zip(&places).filter(|(_, at)| **at == p).map(|(s, _)| s).collect())
                .collect();
            let mut logs: Vec<Vec<u64>> = (0..4)
                .map(|p| all[p][..arrived[p].min(all[p].len())].to_vec())
                .collect();
            let acked: Vec<usize> = (0..4).map(|p| stored[p].min(logs[p].len())).collect();
            let waiting = (0..4).filter_map(|p| all[p].get(acked[p]));
            let published = waiting.min().map_or(total, |first| first - 1);
            let spots: Vec<(i64, u64)> = (0..4)
                .map(|p| match acked[p] {
                    0 => (-1, 0),
                    n => (i64::try_from(n).unwrap() - 1, logs[p][n - 1]),
                })
                .collect();
            let tails = logs
                .iter()
                .map(|log| tail(i64::try_from(log.len()).unwrap(), log.last().copied().unwrap_or(0)))
                .collect();
            let cursor = cursor(published, &spots);
            let plan = plan("t", &found(tails), Some(&cursor), journal(total), None).unwrap();
            prop_assert!(plan.after >= seq(published));
            for (sequence, at) in (1..=total).zip(&places) {
                if seq(sequence) > plan.after && seq(sequence) > plan.have[*at] {
                    logs[*at].push(sequence);
                }
            }
            prop_assert_eq!(logs, all);
        }
    }
}
