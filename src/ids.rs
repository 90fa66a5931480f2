//! Ids that need no index: a valid UUIDv7 (RFC 9562 §5.7) whose low 62 bits carry a sequence through a keyed permutation.
//!
//! The 62 bits behind the variant hold the permuted sequence, so that an id tells nothing about volume and yet leads
//! to its entry without an index. Of the 12 bits in front of the variant the highest is the domain (0 transaction,
//! 1 event), so that no event's id ever equals a transaction's; the other 11 are a keyed check of sequence and time,
//! so that a guessed id is refused before the journal is asked. The layout is frozen: `docs/FORMAT.md`, golden
//! vectors below.

use crate::types::{EventId, Sequence, TimestampMs, TransactionId};
use std::fmt;
use uuid::Uuid;

/// Rounds of the Feistel network. Four make a permutation look random to who cannot query it (Luby, Rackoff 1988);
/// six leave room, as our round function is a mixer and no cipher. The aim is to hide volume, not to keep a secret.
const ROUNDS: usize = 6;
const HALF_BITS: u32 = 31;
const HALF_MASK: u64 = (1 << HALF_BITS) - 1;
const LOW_62: u64 = (1 << 62) - 1;

/// What an id numbers; the tag stands in the id.
#[derive(Clone, Copy)]
enum Domain {
    Transaction,
    Event,
}

/// Turns sequences into ids and back. Its key is made with the store and stands in the store's settings.
#[derive(Clone)]
pub struct IdCipher {
    transaction: Keys,
    event: Keys,
}

#[derive(Clone)]
struct Keys {
    rounds: [u64; ROUNDS],
    check: u64,
}

impl fmt::Debug for IdCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdCipher").finish_non_exhaustive()
    }
}

impl IdCipher {
    /// A cipher under `key`; the round keys are BLAKE3 (`derive_key`) of it, one context a domain.
    pub fn new(key: &[u8; 16]) -> Self {
        let keys = |context: &str| {
            let mut bytes = [0; 8 * (ROUNDS + 1)];
            let mut hasher = blake3::Hasher::new_derive_key(context);
            hasher.update(key);
            hasher.finalize_xof().fill(&mut bytes);
            let mut words = bytes.chunks_exact(8).map(|chunk| {
                let mut word = [0; 8];
                word.copy_from_slice(chunk);
                u64::from_le_bytes(word)
            });
            let mut rounds = [0; ROUNDS];
            for (round, word) in rounds.iter_mut().zip(words.by_ref()) {
                *round = word;
            }
            Keys {
                rounds,
                check: words.next().unwrap_or_default(),
            }
        };
        Self {
            transaction: keys("echopay 2026-11 transaction ids"),
            event: keys("echopay 2026-11 event ids"),
        }
    }

    /// The id of the transaction whose creating entry starts at `sequence` and was decided at `at`.
    pub fn transaction_id(&self, sequence: Sequence, at: TimestampMs) -> TransactionId {
        TransactionId(self.transaction.id(Domain::Transaction, sequence, at))
    }

    /// The id of the event `sequence` that happened at `at`.
    pub fn event_id(&self, sequence: Sequence, at: TimestampMs) -> EventId {
        EventId(self.event.id(Domain::Event, sequence, at))
    }

    /// Where the entry of `id` must start, or `None` when this cipher never made that id (up to 1 in 2,048 of
    /// strangers pass; the caller compares the whole id with the entry's).
    pub fn sequence_of(&self, id: TransactionId) -> Option<Sequence> {
        let bits = id.0.as_u128();
        let low = u64::try_from(bits & u128::from(LOW_62)).ok()?;
        let at = TimestampMs::new(u64::try_from(bits >> 80).ok()?);
        let sequence = Sequence::new(self.transaction.unpermute(low));
        (self.transaction_id(sequence, at) == id).then_some(sequence)
    }
}

impl Keys {
    fn id(&self, domain: Domain, sequence: Sequence, at: TimestampMs) -> Uuid {
        let millis = u128::from(at.get()) & ((1 << 48) - 1);
        let domain_bit = match domain {
            Domain::Transaction => 0,
            Domain::Event => 0x800,
        };
        let check = mix(sequence.get() ^ mix(at.get() ^ self.check)) & 0x7ff;
        let low = u128::from(self.permute(sequence.get() & LOW_62));
        let bits = (millis << 80)
            | (7 << 76)
            | (u128::from(domain_bit | check) << 64)
            | (0b10 << 62)
            | low;
        Uuid::from_u128(bits)
    }

    fn permute(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value >> HALF_BITS, value & HALF_MASK);
        for key in self.rounds {
            (left, right) = (right, left ^ (mix(right ^ key) & HALF_MASK));
        }
        (left << HALF_BITS) | right
    }

    fn unpermute(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value >> HALF_BITS, value & HALF_MASK);
        for key in self.rounds.iter().rev() {
            (left, right) = (right ^ (mix(left ^ key) & HALF_MASK), left);
        }
        (left << HALF_BITS) | right
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
const fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cipher() -> IdCipher {
        IdCipher::new(b"0123456789abcdef")
    }

    #[test]
    fn ids_are_valid_version_7() {
        let id = cipher()
            .transaction_id(Sequence::new(1), TimestampMs::new(1_700_000_000_123))
            .0;
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
        let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
        assert_eq!((seconds, nanos), (1_700_000_000, 123_000_000));
    }

    proptest! {
        #[test]
        fn every_id_leads_back_to_its_sequence(number in 0..=Sequence::MAX.get(), at in 0u64..1 << 47) {
            let (sequence, at) = (Sequence::new(number), TimestampMs::new(at));
            let id = cipher().transaction_id(sequence, at);
            prop_assert_eq!(cipher().sequence_of(id), Some(sequence));
        }

        #[test]
        fn an_events_id_is_no_transactions_id(number in 0..=Sequence::MAX.get(), at in 0u64..1 << 47) {
            let (sequence, at) = (Sequence::new(number), TimestampMs::new(at));
            let event = cipher().event_id(sequence, at);
            prop_assert_eq!(cipher().sequence_of(TransactionId(event.0)), None);
        }
    }
}
