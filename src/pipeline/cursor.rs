//! How far Kafka has acknowledged, on disk: `<data_dir>/cursor`.
//!
//! The file is derived state. It may be some seconds old (the partitions' tails tell what came since), and without it
//! the pipeline still finds its way by the tails alone. It also carries a [`Witness`] of the journal's tail.
//!
//! ```text
//! "echocurs" | version u16 | length of the body u32 | body | CRC32 of all before u32        (little-endian)
//! body: journal id 16 | epoch u32 | durable u64 | head hash 32 | volume u64 | length u64
//!     | published u64 | topic (length u8, bytes) | cluster id (length u8, bytes; 0 = unknown)
//!     | partitions u32 | for each: offset i64 (-1 = unknown), sequence u64, failed u64 (0 = none)
//! ```

use super::acks::LastAck;
use super::config::Config;
use crate::journal::{JournalIdentity, RecoveryError, Witness, record};
use crate::types::Sequence;
use std::fs::File;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use uuid::Uuid;

const FILE_NAME: &str = "cursor";
const MAGIC: &[u8; 8] = b"echocurs";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 14;
const PARTITION_BYTES: u64 = 24;
/// Far above the longest body ([`Config::PARTITIONS_MAX`] places); a damaged length must not cost memory.
const FILE_BYTES_MAX: u64 = 1 << 20;
const _: () = assert!(Config::PARTITIONS_MAX as u64 * PARTITION_BYTES + 1024 <= FILE_BYTES_MAX);

/// How far Kafka has acknowledged, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// The journal's tail when the cursor was written.
    pub witness: Witness,
    /// Everything up to here is acknowledged, set aside, or of a type that is not shipped.
    pub published: Sequence,
    /// The topic's name.
    pub topic: String,
    /// The cluster's id, where the brokers tell one.
    pub cluster_id: Option<String>,
    /// One for each partition of the topic.
    pub partitions: Vec<PartitionCursor>,
}

/// What is known of one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PartitionCursor {
    /// The newest record that was acknowledged.
    pub last: LastAck,
    /// The oldest record that Kafka refused and that was not shipped since; the origin for none. Records behind it
    /// may be in the partition and are shipped again all the same, so that nothing is missing.
    pub failed: Sequence,
}

/// The cursor could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// The file system refused; nothing is known of what the cursor says.
    #[error("cannot read the cursor {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It was not written; the old file is still there.
    #[error(transparent)]
    Store(RecoveryError),
    /// The bytes are no cursor.
    #[error(
        "the cursor {path} is damaged ({reason}); when it is moved away, the pipeline finds its place by what the \
         topic holds"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Written by a newer program.
    #[error("the cursor {path} has format {version}; this program knows {VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// The format found.
        version: u16,
    },
}

impl Cursor {
    /// Reads the cursor of a data folder; `None` when there is none yet.
    ///
    /// # Errors
    /// [`CursorError`]; nothing was changed.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, CursorError> {
        let path = Self::path(data_dir);
        let failed = |source| CursorError::Io {
            path: path.clone(),
            source,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            // Below a file there is nothing either; the journal's opening says what is wrong with the folder.
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        decode(&bytes).map(Some).map_err(|error| match error {
            DecodeError::Damaged(reason) => CursorError::Damaged { path, reason },
            DecodeError::Version(version) => CursorError::Version { path, version },
        })
    }

    /// Writes the cursor so that a crash leaves the old one or the new one, whole.
    ///
    /// # Errors
    /// [`CursorError::Store`].
    pub fn store(&self, data_dir: &Path) -> Result<(), CursorError> {
        record::replace(&Self::path(data_dir), &encode(self)).map_err(CursorError::Store)
    }

    /// Where a data folder keeps its cursor.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE_NAME)
    }

    /// Whether something was acknowledged in `topic`.
    pub(super) fn holds(&self, topic: &str) -> bool {
        let acknowledged = |place: &PartitionCursor| place.last.offset.is_some();
        self.topic == topic && self.partitions.iter().any(acknowledged)
    }

    /// Which journal it belongs to.
    pub fn identity(&self) -> JournalIdentity {
        self.witness.identity
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DecodeError {
    Damaged(&'static str),
    Version(u16),
}

fn encode(cursor: &Cursor) -> Vec<u8> {
    let mut body = Vec::new();
    let witness = &cursor.witness;
    body.extend_from_slice(witness.identity.journal_id.as_bytes());
    body.extend_from_slice(&witness.identity.epoch.to_le_bytes());
    body.extend_from_slice(&witness.durable.get().to_le_bytes());
    body.extend_from_slice(&witness.head_hash);
    body.extend_from_slice(&witness.volume.to_le_bytes());
    body.extend_from_slice(&witness.length_bytes.to_le_bytes());
    body.extend_from_slice(&cursor.published.get().to_le_bytes());
    put_text(&mut body, &cursor.topic);
    put_text(&mut body, cursor.cluster_id.as_deref().unwrap_or_default());
    let count = u32::try_from(cursor.partitions.len()).unwrap_or(u32::MAX);
    body.extend_from_slice(&count.to_le_bytes());
    for partition in &cursor.partitions {
        body.extend_from_slice(&partition.last.offset.unwrap_or(-1).to_le_bytes());
        body.extend_from_slice(&partition.last.sequence.get().to_le_bytes());
        body.extend_from_slice(&partition.failed.get().to_le_bytes());
    }
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len() + 4);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&body);
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// A topic has at most 249 bytes, a cluster id 22; a longer text is cut rather than breaking the format.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend(text.bytes().take(usize::from(length)));
}

fn decode(bytes: &[u8]) -> Result<Cursor, DecodeError> {
    let damaged = DecodeError::Damaged;
    let (rest, sum) = bytes.split_last_chunk::<4>().ok_or(damaged("too short"))?;
    let mut input = Input(rest);
    if input.take::<8>()? != *MAGIC {
        return Err(damaged("not a cursor file"));
    }
    if crc32fast::hash(rest) != u32::from_le_bytes(*sum) {
        return Err(damaged("wrong checksum"));
    }
    let version = u16::from_le_bytes(input.take()?);
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let length = u32::from_le_bytes(input.take()?);
    if usize::try_from(length).ok() != Some(input.0.len()) {
        return Err(damaged("wrong length"));
    }
    let identity = JournalIdentity {
        journal_id: Uuid::from_bytes(input.take()?),
        epoch: u32::from_le_bytes(input.take()?),
    };
    let witness = Witness {
        identity,
        durable: input.sequence()?,
        head_hash: input.take()?,
        volume: u64::from_le_bytes(input.take()?),
        length_bytes: u64::from_le_bytes(input.take()?),
    };
    let published = input.sequence()?;
    let topic = input.text()?;
    let cluster_id = Some(input.text()?).filter(|id| !id.is_empty());
    let count = u32::from_le_bytes(input.take()?);
    if u64::from(count) * PARTITION_BYTES != u64::try_from(input.0.len()).unwrap_or(u64::MAX) {
        return Err(damaged("wrong number of partitions"));
    }
    let mut partitions = Vec::new();
    for _ in 0..count {
        let offset = Some(i64::from_le_bytes(input.take()?)).filter(|offset| *offset >= 0);
        let last = LastAck {
            offset,
            sequence: input.sequence()?,
        };
        partitions.push(PartitionCursor {
            last,
            failed: input.sequence()?,
        });
    }
    Ok(Cursor {
        witness,
        published,
        topic,
        cluster_id,
        partitions,
    })
}

/// Bytes not yet read.
struct Input<'b>(&'b [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Damaged("too short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn sequence(&mut self) -> Result<Sequence, DecodeError> {
        self.take().map(u64::from_le_bytes).map(Sequence::new)
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let [length] = self.take::<1>()?;
        let too_short = DecodeError::Damaged("too short");
        let (text, rest) = self
            .0
            .split_at_checked(usize::from(length))
            .ok_or(too_short)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|_| DecodeError::Damaged("a text is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn cursor() -> Cursor {
        Cursor {
            witness: Witness {
                identity: JournalIdentity {
                    journal_id: Uuid::from_u128(7),
                    epoch: 1,
                },
                durable: Sequence::new(900),
                head_hash: [0xab; 32],
                volume: 2,
                length_bytes: 4096,
            },
            published: Sequence::new(890),
            topic: "t".into(),
            cluster_id: Some("c".into()),
            partitions: vec![
                PartitionCursor {
                    last: LastAck {
                        offset: Some(41),
                        sequence: Sequence::new(890),
                    },
                    failed: Sequence::ORIGIN,
                },
                PartitionCursor {
                    last: LastAck {
                        offset: None,
                        sequence: Sequence::ORIGIN,
                    },
                    failed: Sequence::new(891),
                },
            ],
        }
    }

    /// Frozen: a change of these bytes is a new format version.
    const GOLDEN_V1: &str = "6563686f6375727301008c0000000000000000000000000000000000000701000000\
        8403000000000000abababababababababababababababababababababababababababababababab\
        020000000000000000100000000000007a030000000000000174016302000000\
        29000000000000007a030000000000000000000000000000\
        ffffffffffffffff00000000000000007b03000000000000";

    #[test]
    fn version_1_stays_as_it_was_released() {
        let bytes = encode(&cursor());
        let (body, sum) = bytes.split_last_chunk::<4>().unwrap();
        let golden: Vec<u8> = (0..GOLDEN_V1.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&GOLDEN_V1[at..at + 2], 16).unwrap())
            .collect();
        assert_eq!(body, golden);
        assert_eq!(u32::from_le_bytes(*sum), crc32fast::hash(body));
        assert_eq!(decode(&bytes), Ok(cursor()));
    }

    /// The same as a file, as a start reads it.
    #[test]
    fn the_golden_file_of_version_1_is_read_and_written_the_same() {
        let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "golden", "v1"]
            .iter()
            .collect();
        assert_eq!(Cursor::load(&folder).unwrap(), Some(cursor()));
        assert_eq!(fs::read(Cursor::path(&folder)).unwrap(), encode(&cursor()));
    }

    #[test]
    fn a_stored_cursor_is_loaded_and_a_second_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Cursor::load(dir.path()).unwrap(), None);
        cursor().store(dir.path()).unwrap();
        let newer = Cursor {
            published: Sequence::new(900),
            ..cursor()
        };
        newer.store(dir.path()).unwrap();
        assert_eq!(Cursor::load(dir.path()).unwrap(), Some(newer));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_newer_format_and_a_damaged_file_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = encode(&cursor());
        let end = bytes.len() - 4;
        bytes[8] = 9;
        let sum = crc32fast::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum.to_le_bytes());
        fs::write(dir.path().join(FILE_NAME), &bytes).unwrap();
        let newer = Cursor::load(dir.path()).unwrap_err();
        assert!(
            matches!(newer, CursorError::Version { version: 9, .. }),
            "{newer}"
        );
        fs::write(dir.path().join(FILE_NAME), vec![0; 2 << 20]).unwrap();
        assert!(matches!(
            Cursor::load(dir.path()),
            Err(CursorError::Damaged { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_changed_or_cut_bit_is_noticed(at in 0usize..162 * 8, cut in 0usize..162) {
            let whole = encode(&cursor());
            let mut flipped = whole.clone();
            flipped[at / 8 % whole.len()] ^= 1 << (at % 8);
            prop_assert!(decode(&flipped).is_err());
            prop_assert!(decode(&whole[..cut.min(whole.len() - 1)]).is_err());
        }

        #[test]
        fn every_cursor_comes_back(
            published in any::<u64>(),
            topic in "[a-z.]{1,249}",
            cluster in prop::option::of("[A-Za-z0-9_-]{1,22}"),
            places in prop::collection::vec((prop::option::of(0..i64::MAX), any::<u64>(), any::<u64>()), 0..50),
        ) {
            let partitions = places.into_iter().map(|(offset, sequence, failed)| PartitionCursor {
                last: LastAck { offset, sequence: Sequence::new(sequence) },
                failed: Sequence::new(failed),
            });
            let some = Cursor {
                published: Sequence::new(published),
                topic,
                cluster_id: cluster,
                partitions: partitions.collect(),
                ..cursor()
            };
            prop_assert_eq!(decode(&encode(&some)), Ok(some));
        }

        #[test]
        fn strange_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&bytes).is_err());
        }
    }
}
