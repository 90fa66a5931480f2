//! Which partition a key belongs to, exactly as Java's default partitioner decides, so that consumers and producers
//! elsewhere agree, and so that after a restart each partition's tail tells what arrived.

/// Seed and multiplier of the 32-bit murmur2 that Kafka's clients use (`org.apache.kafka.common.utils.Utils`).
const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;

/// The 32-bit murmur2 of `data`, equal to Java's `Utils.murmur2` (there as a signed number).
pub fn murmur2(data: &[u8]) -> u32 {
    // Java's length is an i32; keys are 36 bytes here, so nothing is lost.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let mut chunks = data.chunks_exact(4);
    for chunk in chunks.by_ref() {
        let mut word = [0; 4];
        word.copy_from_slice(chunk);
        let mut k = u32::from_le_bytes(word).wrapping_mul(MULTIPLIER);
        k ^= k >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ k.wrapping_mul(MULTIPLIER);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

/// The partition of `key` among `partitions`, from 0. `partitions` is at least 1.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`, plus keys hashed by `Utils.murmur2` of Kafka 4.4.
    #[test]
    fn hashes_equal_those_of_java() {
        let vectors: [(&str, i32); 8] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
            ("00000000-0000-4000-8000-000000000001", -694_496_258),
            ("f47ac10b-58cc-4372-a567-0e02b2c3d479", 1_964_707_646),
        ];
        for (key, expected) in vectors {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), expected, "{key}");
        }
    }

    #[test]
    fn partitions_equal_those_of_java() {
        assert_eq!(partition_of(b"abc", 6), 3);
        assert_eq!(partition_of(b"00000000-0000-4000-8000-000000000001", 6), 0);
        assert_eq!(partition_of(b"f47ac10b-58cc-4372-a567-0e02b2c3d479", 6), 2);
        assert_eq!(partition_of(b"a", 6), 4);
    }

    proptest! {
        #[test]
        fn every_key_has_a_partition_and_keeps_it(key in ".{1,67}", partitions in 1u32..1_000) {
            let partition = partition_of(key.as_bytes(), partitions);
            prop_assert!(partition < partitions);
            prop_assert_eq!(partition, partition_of(key.as_bytes(), partitions));
        }
    }
}
