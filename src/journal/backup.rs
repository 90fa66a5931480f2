//! A backup as one stream of bytes: the records that make a journal out of pages, the pages as they are, and an end by
//! which a backup that was cut off is told from a whole one. `docs/FORMAT.md` draws it.

use super::page::PAGE_BYTES_MAX;
use super::record::{self, Fields, Kind};
use super::{
    JournalReader, Lineage, PageCopy, ReadError, Rebuilt, RecoveryError, Settings, Witness,
};
use crate::types::Sequence;
use std::path::Path;

const MAGIC: [u8; 8] = *b"\xe9echobk\n";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 12;
const LENGTH_BYTES: usize = 4;
/// Far above the longest record; a damaged length must not cost memory.
const RECORD_BYTES_MAX: usize = 64 << 10;
const HASH_BYTES: usize = 32;

/// Gives a backup piece by piece, beside a writer that goes on.
#[derive(Debug)]
pub struct BackupSource {
    copy: PageCopy,
    hasher: blake3::Hasher,
    pages: u64,
    size_bytes: u64,
    stage: Sending,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sending {
    Begin,
    Pages,
    Done,
}

impl JournalReader {
    /// A backup of everything that is durable now.
    ///
    /// # Errors
    /// [`ReadError::Archived`]: books can be made anew from the beginning only.
    pub fn backup(&self) -> Result<BackupSource, ReadError> {
        let oldest = self.oldest();
        if oldest > Sequence::ORIGIN.next() {
            return Err(ReadError::Archived { oldest });
        }
        Ok(BackupSource {
            copy: self.copy(),
            hasher: blake3::Hasher::new(),
            pages: 0,
            size_bytes: 0,
            stage: Sending::Begin,
        })
    }
}

impl BackupSource {
    /// The next bytes, about 1 MiB at most; `None` at the end. Blocks.
    ///
    /// # Errors
    /// [`ReadError`]: what was given so far is no backup.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        let mut out = Vec::new();
        match self.stage {
            Sending::Done => return Ok(None),
            Sending::Begin => {
                self.stage = Sending::Pages;
                out.extend_from_slice(&MAGIC);
                out.extend_from_slice(&VERSION.to_le_bytes());
                out.extend_from_slice(&[0; 2]);
                let reader = self.copy.reader();
                put_frame(&mut out, &reader.settings().to_bytes());
                put_frame(&mut out, &reader.lineage().to_bytes());
                // Where a file of this machine ended means nothing elsewhere.
                let end = Witness {
                    volume: 0,
                    length_bytes: 0,
                    ..self.copy.end()
                };
                put_frame(&mut out, &end.to_bytes());
            }
            Sending::Pages => {
                for page in self.copy.next_pages()? {
                    put_frame(&mut out, page.bytes());
                    self.pages = self.pages.saturating_add(1);
                    let size = u64::try_from(page.bytes().len()).unwrap_or(u64::MAX);
                    self.size_bytes = self.size_bytes.saturating_add(size);
                }
            }
        }
        if !out.is_empty() {
            self.hasher.update(&out);
            return Ok(Some(out));
        }
        self.stage = Sending::Done;
        put_frame(&mut out, &[]);
        self.hasher.update(&out);
        let end = self.copy.end();
        let mut body = Vec::new();
        body.extend_from_slice(&self.pages.to_le_bytes());
        body.extend_from_slice(&self.size_bytes.to_le_bytes());
        body.extend_from_slice(&end.durable.get().to_le_bytes());
        body.extend_from_slice(&end.head_hash);
        body.extend_from_slice(self.hasher.finalize().as_bytes());
        put_frame(&mut out, &record::frame(Kind::BackupEnd, &body));
        Ok(Some(out))
    }
}

fn put_frame(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Why bytes are no whole backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The first bytes are others.
    #[error("not a backup")]
    NotABackup,
    /// Made by a newer program.
    #[error("a backup of format {0}; this program reads up to {VERSION}")]
    NewerFormat(u16),
    /// It is damaged.
    #[error("damaged at byte {at}: {what}")]
    Damaged {
        /// Near which byte, from 0.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// It ends early.
    #[error("cut off at byte {at}: a whole backup says so at its end")]
    CutOff {
        /// How many bytes there are.
        at: u64,
    },
}

/// What a backup holds, in this order: one beginning, then pages.
#[derive(Debug)]
pub enum Piece<'p> {
    /// Whose pages follow, and where they will end.
    Begin {
        /// The store's fixed facts.
        settings: Box<Settings>,
        /// Its epochs.
        lineage: Lineage,
        /// Where the backup ends.
        end: Witness,
    },
    /// A page; its frame alone was checked.
    Page(&'p [u8]),
}

/// What the end tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct End {
    pages: u64,
    size_bytes: u64,
    durable: Sequence,
    head_hash: [u8; HASH_BYTES],
    file_hash: [u8; HASH_BYTES],
}

#[derive(Debug)]
enum Expected {
    Head,
    Settings,
    Lineage(Box<Settings>),
    Witness(Box<Settings>, Lineage),
    Page,
    End,
    Nothing(End),
}

/// Takes the bytes of a backup in pieces of any length.
#[derive(Debug)]
pub struct BackupParser {
    expected: Expected,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    /// Bytes taken before those in the buffer.
    at: u64,
    end: Option<Witness>,
}

impl Default for BackupParser {
    fn default() -> Self {
        Self {
            expected: Expected::Head,
            buffer: Vec::new(),
            hasher: blake3::Hasher::new(),
            at: 0,
            end: None,
        }
    }
}

impl BackupParser {
    /// Takes the next bytes and hands over what became whole by them.
    ///
    /// # Errors
    /// [`BackupError`], or what `on_piece` says. Nothing more may be fed then.
    pub fn feed<E: From<BackupError>>(
        &mut self,
        bytes: &[u8],
        on_piece: &mut dyn FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.buffer.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = buffer.as_slice();
        while let Some(length) = self.length_of_next(rest)? {
            let Some((frame, behind)) = rest.split_at_checked(length) else {
                break;
            };
            self.take(frame, on_piece)?;
            self.at = self
                .at
                .saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
            rest = behind;
        }
        self.buffer = rest.to_vec();
        Ok(())
    }

    /// To be called behind the last byte, with what the pages were found to be.
    ///
    /// # Errors
    /// [`BackupError`]: it is not whole.
    pub fn finish(self, found: &Rebuilt) -> Result<(), BackupError> {
        let Expected::Nothing(end) = self.expected else {
            let left = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
            return Err(BackupError::CutOff {
                at: self.at.saturating_add(left),
            });
        };
        let told = (end.pages, end.size_bytes, end.durable, end.head_hash);
        let held = (
            found.pages,
            found.size_bytes,
            found.durable,
            found.head_hash,
        );
        let announced = self.end.map(|witness| (witness.durable, witness.head_hash));
        let what = if end.file_hash != *self.hasher.finalize().as_bytes() {
            "its bytes are not those that were sent"
        } else if told != held || announced != Some((end.durable, end.head_hash)) {
            "it does not hold the pages that its end tells of"
        } else {
            return Ok(());
        };
        Err(BackupError::Damaged {
            at: self.at,
            what: what.into(),
        })
    }

    /// Bytes of what comes next; `None` while that cannot be told.
    fn length_of_next(&self, rest: &[u8]) -> Result<Option<usize>, BackupError> {
        let bytes_max = match self.expected {
            Expected::Head => return Ok(Some(HEAD_BYTES)),
            Expected::Nothing(_) if rest.is_empty() => return Ok(None),
            Expected::Nothing(_) => return Err(self.damaged("something follows its end")),
            Expected::Page => PAGE_BYTES_MAX,
            Expected::Settings | Expected::Lineage(_) | Expected::Witness(..) | Expected::End => {
                RECORD_BYTES_MAX
            }
        };
        let Some(length) = rest.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > bytes_max {
            return Err(self.damaged("a length out of range"));
        }
        Ok(Some(length.saturating_add(LENGTH_BYTES)))
    }

    fn take<E: From<BackupError>>(
        &mut self,
        frame: &[u8],
        on_piece: &mut dyn FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !matches!(self.expected, Expected::End) {
            self.hasher.update(frame);
        }
        let content = frame.get(LENGTH_BYTES..).unwrap_or_default();
        // The place of an error is told by us; what is read is no file of the data folder.
        let no_file = Path::new("the backup");
        let at = self.at;
        let damaged = |what: String| BackupError::Damaged { at, what };
        let told = |error: RecoveryError| damaged(error.to_string());
        self.expected = match std::mem::replace(&mut self.expected, Expected::Page) {
            Expected::Head => {
                check_head(frame)?;
                Expected::Settings
            }
            Expected::Settings => Expected::Lineage(Box::new(
                Settings::from_bytes(no_file, content).map_err(told)?,
            )),
            Expected::Lineage(settings) => {
                let parse = Lineage::parse;
                let lineage = record::parse_framed(Kind::Lineage, no_file, content, parse);
                Expected::Witness(settings, lineage.map_err(told)?)
            }
            Expected::Witness(settings, lineage) => {
                let parse = Witness::parse;
                let end = record::parse_framed(Kind::Stop, no_file, content, parse);
                let end = end.map_err(told)?;
                if end.identity != settings.identity || lineage.identity() != settings.identity {
                    return Err(damaged("its records tell of different journals".into()).into());
                }
                self.end = Some(end);
                on_piece(Piece::Begin {
                    settings,
                    lineage,
                    end,
                })?;
                Expected::Page
            }
            Expected::Page if content.is_empty() => Expected::End,
            Expected::Page => {
                on_piece(Piece::Page(content))?;
                Expected::Page
            }
            Expected::End => {
                let end = record::parse_framed(Kind::BackupEnd, no_file, content, End::parse);
                Expected::Nothing(end.map_err(told)?)
            }
            // Why unreachable: no length is given there.
            Expected::Nothing(end) => Expected::Nothing(end),
        };
        Ok(())
    }

    fn damaged(&self, what: impl Into<String>) -> BackupError {
        BackupError::Damaged {
            at: self.at,
            what: what.into(),
        }
    }
}

fn check_head(head: &[u8]) -> Result<(), BackupError> {
    let mut fields = Fields(head);
    if fields.array() != Ok(MAGIC) {
        return Err(BackupError::NotABackup);
    }
    match (fields.u16(), fields.u16()) {
        (Ok(VERSION), Ok(0)) => Ok(()),
        (Ok(version), _) if version > VERSION => Err(BackupError::NewerFormat(version)),
        _ => Err(BackupError::NotABackup),
    }
}

impl End {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, &'static str> {
        Ok(Self {
            pages: fields.u64()?,
            size_bytes: fields.u64()?,
            durable: fields.sequence()?,
            head_hash: fields.array()?,
            file_hash: fields.array()?,
        })
    }
}
