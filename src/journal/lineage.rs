//! Which epochs a journal went through, and where each began: what tells its own past from another copy's future.

use super::record::{self, Fields, Kind};
use super::{JournalIdentity, RecoveryError};
use crate::clock::SharedClock;
use crate::types::Sequence;
use std::path::Path;
use uuid::Uuid;

/// An epoch is raised by a random step of 1 to this: two restores of one backup must not become the same epoch.
const STEP_MAX: u32 = 1 << 20;
/// Rows that are kept. Of older epochs nothing is known any more; what bears them counts as another copy's.
const ROWS_MAX: usize = 1_024;

/// An epoch and where it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: u32,
    /// Last sequence before it: the copy that went on in the epoch before shares everything up to here.
    pub after: Sequence,
}

/// The epochs of one journal, oldest first; the last is the present one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lineage {
    journal_id: Uuid,
    rows: Vec<EpochStart>,
}

/// That of a journal which was never restored.
impl From<JournalIdentity> for Lineage {
    fn from(identity: JournalIdentity) -> Self {
        let start = EpochStart {
            epoch: identity.epoch,
            after: Sequence::ORIGIN,
        };
        Self {
            journal_id: identity.journal_id,
            rows: vec![start],
        }
    }
}

impl Lineage {
    /// `None` unless epochs rise, their beginnings do not fall, and there are 1 to 1,024 of them.
    pub fn new(journal_id: Uuid, rows: Vec<EpochStart>) -> Option<Self> {
        let rises = rows
            .windows(2)
            .all(|pair| pair[0].epoch < pair[1].epoch && pair[0].after <= pair[1].after);
        let counts = (1..=ROWS_MAX).contains(&rows.len());
        (rises && counts).then_some(Self { journal_id, rows })
    }

    /// The epochs, oldest first; never empty.
    pub fn rows(&self) -> &[EpochStart] {
        &self.rows
    }

    /// The journal and its present epoch.
    pub fn identity(&self) -> JournalIdentity {
        JournalIdentity {
            journal_id: self.journal_id,
            epoch: self.rows.last().map_or(0, |row| row.epoch),
        }
    }

    /// Last sequence before the present epoch.
    pub fn fork(&self) -> Sequence {
        self.rows.last().map_or(Sequence::ORIGIN, |row| row.after)
    }

    /// Whether the event that somebody else has under `sequence` of `identity` is this journal's: of this epoch, or of
    /// an earlier one and from before the next began.
    pub fn owns(&self, identity: JournalIdentity, sequence: Sequence) -> bool {
        let row = self.rows.iter().position(|row| row.epoch == identity.epoch);
        match row {
            Some(at) if identity.journal_id == self.journal_id => self
                .rows
                .get(at.saturating_add(1))
                .is_none_or(|next| sequence <= next.after),
            _ => false,
        }
    }

    /// A higher epoch, by a random step; `None` when there is no higher number.
    pub(crate) fn next_epoch(&self, clock: &SharedClock) -> Option<u32> {
        let mut random = [0; 4];
        clock.fill_random(&mut random);
        let step = u32::from_le_bytes(random) % STEP_MAX + 1;
        self.identity().epoch.checked_add(step)
    }

    /// This lineage with `epoch` behind it, which begins after `after`.
    pub(crate) fn raised_to(&self, epoch: u32, after: Sequence) -> Option<Self> {
        let mut rows = self.rows.clone();
        rows.push(EpochStart { epoch, after });
        let surplus = rows.len().saturating_sub(ROWS_MAX);
        rows.drain(..surplus);
        Self::new(self.journal_id, rows)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(self.journal_id.as_bytes());
        let count = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        body.extend_from_slice(&count.to_le_bytes());
        for row in &self.rows {
            body.extend_from_slice(&row.epoch.to_le_bytes());
            body.extend_from_slice(&row.after.get().to_le_bytes());
        }
        record::frame(Kind::Lineage, &body)
    }

    pub(crate) fn parse(fields: &mut Fields<'_>) -> Result<Self, &'static str> {
        let journal_id = Uuid::from_bytes(fields.array()?);
        let count = fields.u32()?;
        let mut rows = Vec::new();
        for _ in 0..count {
            rows.push(EpochStart {
                epoch: fields.u32()?,
                after: fields.sequence()?,
            });
        }
        Self::new(journal_id, rows).ok_or("epochs or their beginnings do not rise")
    }

    /// The lineage of the journal `identity` in `path`. Without a file it was never restored.
    pub(crate) fn read(path: &Path, identity: JournalIdentity) -> Result<Self, RecoveryError> {
        let corrupt = |reason| RecoveryError::CorruptRecord {
            path: path.into(),
            reason,
        };
        let Some(mut lineage) = record::read(Kind::Lineage, path, Self::parse)? else {
            return Ok(Self::from(identity));
        };
        // What a kill between this file and the settings left behind.
        lineage.rows.retain(|row| row.epoch <= identity.epoch);
        if lineage.identity() == identity {
            Ok(lineage)
        } else {
            Err(corrupt("it ends in another epoch than the settings tell"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use std::sync::Arc;

    fn of(epoch: u32) -> JournalIdentity {
        JournalIdentity {
            journal_id: Uuid::from_u128(7),
            epoch,
        }
    }

    fn lineage(rows: &[(u32, u64)]) -> Option<Lineage> {
        let row = |(epoch, after): &(u32, u64)| EpochStart {
            epoch: *epoch,
            after: Sequence::new(*after),
        };
        Lineage::new(Uuid::from_u128(7), rows.iter().map(row).collect())
    }

    #[test]
    fn an_earlier_epoch_is_ours_up_to_where_the_next_began_and_a_sisters_never() {
        let ours = lineage(&[(1, 0), (5, 100), (9, 100), (12, 140)]).unwrap();
        for (epoch, sequence, is_ours) in [
            (1, 100, true),
            (1, 101, false),
            (5, 100, true),
            (5, 101, false),
            (9, 140, true),
            (9, 141, false),
            (12, 141, true),
            (12, 9_999, true),
            (6, 1, false),
            (13, 1, false),
        ] {
            let owns = ours.owns(of(epoch), Sequence::new(sequence));
            assert_eq!(owns, is_ours, "epoch {epoch}, sequence {sequence}");
        }
        let stranger = JournalIdentity {
            journal_id: Uuid::from_u128(8),
            epoch: 1,
        };
        assert!(!ours.owns(stranger, Sequence::new(1)));
    }

    #[test]
    fn it_comes_back_from_its_file_and_a_raise_that_was_cut_off_is_not_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lineage");
        let never_restored = Lineage::read(&path, of(1)).unwrap();
        assert_eq!(never_restored, lineage(&[(1, 0)]).unwrap());
        let raised = never_restored.raised_to(8, Sequence::new(40)).unwrap();
        record::replace(&path, &raised.to_bytes()).unwrap();
        assert_eq!(Lineage::read(&path, of(8)).unwrap(), raised);
        assert_eq!(Lineage::read(&path, of(1)).unwrap(), never_restored);
        assert!(matches!(
            Lineage::read(&path, of(9)),
            Err(RecoveryError::CorruptRecord { .. })
        ));
    }

    #[test]
    fn two_raises_of_one_lineage_differ_and_epochs_end_with_an_answer() {
        let clock: SharedClock = Arc::new(SystemClock::new());
        let ours = lineage(&[(1, 0)]).unwrap();
        let epochs: std::collections::BTreeSet<_> =
            (0..8).filter_map(|_| ours.next_epoch(&clock)).collect();
        assert!(epochs.len() > 6, "{epochs:?}");
        assert!(epochs.iter().all(|epoch| *epoch > 1));
        let last = lineage(&[(u32::MAX, 0)]).unwrap();
        assert_eq!(last.next_epoch(&clock), None);
        assert!(lineage(&[(2, 0), (1, 5)]).is_none() && lineage(&[(1, 5), (2, 4)]).is_none());
    }
}
