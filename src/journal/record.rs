//! Small files that are written whole: framed, versioned, checksummed, and replaced atomically.
//!
//! `[magic 8][kind u16][format version u16][body length u32][body][CRC32 of all before u32]`, little-endian.

use super::page::FORMAT_VERSION;
use super::settings::LOGGED_VERSION;
use super::{JournalIdentity, RecoveryError};
use crate::types::{Currencies, Currency, CurrencyInfo, Sequence};
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

const MAGIC: [u8; 8] = *b"\xe9echorc\n";
const HEADER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
/// Bound of a record's file: 64 currencies take less than 2 KiB.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// Which record a file holds; frozen numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Settings = 1,
    Base = 2,
    Stop = 3,
    Lineage = 4,
    BackupEnd = 5,
    Wal = 6,
}

/// Why bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordError {
    Damaged(&'static str),
    NewerFormat(u16),
}

impl Kind {
    /// The newest version of the record that this program reads.
    const fn version_max(self) -> u16 {
        match self {
            Self::Settings => LOGGED_VERSION,
            Self::Base | Self::Stop | Self::Lineage | Self::BackupEnd | Self::Wal => FORMAT_VERSION,
        }
    }
}

/// The framed record of `body`.
pub(crate) fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    frame_of(kind, FORMAT_VERSION, body)
}

/// The same in another version than the first.
pub(crate) fn frame_of(kind: Kind, version: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + CRC_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&(kind as u16).to_le_bytes());
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(body);
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The body of a framed record of `kind`.
pub(crate) fn unframe(kind: Kind, bytes: &[u8]) -> Result<&[u8], RecordError> {
    let damaged = RecordError::Damaged;
    let (content, crc) = bytes
        .split_last_chunk::<CRC_BYTES>()
        .ok_or(damaged("too short"))?;
    let mut fields = Fields(content);
    if fields.array::<8>().map_err(damaged)? != MAGIC {
        return Err(damaged("the magic is missing"));
    }
    if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
        return Err(damaged("checksum does not match"));
    }
    let found_kind = fields.u16().map_err(damaged)?;
    let version = fields.u16().map_err(damaged)?;
    if version > kind.version_max() {
        return Err(RecordError::NewerFormat(version));
    }
    let length = fields.u32().map_err(damaged)?;
    if version < FORMAT_VERSION || found_kind != kind as u16 {
        return Err(damaged("another kind of record"));
    }
    if usize::try_from(length).ok() != Some(fields.0.len()) {
        return Err(damaged("length does not fit"));
    }
    Ok(fields.0)
}

/// Reads the record in `path`; `None` when there is no such file.
pub(crate) fn read<T>(
    kind: Kind,
    path: &Path,
    parse: impl FnOnce(&mut Fields<'_>) -> Result<T, &'static str>,
) -> Result<Option<T>, RecoveryError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RecoveryError::io("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(RecoveryError::io("read", path))?;
    parse_framed(kind, path, &bytes, parse).map(Some)
}

/// The format version that the record in `path` says it has.
pub(crate) fn version_of(path: &Path) -> Result<u16, RecoveryError> {
    let bytes = fs::read(path).map_err(RecoveryError::io("read", path))?;
    let version = bytes.get(10..12).and_then(|field| field.try_into().ok());
    Ok(version.map_or(FORMAT_VERSION, u16::from_le_bytes))
}

/// The value of the framed record `bytes`, which came from `path`.
pub(crate) fn parse_framed<T>(
    kind: Kind,
    path: &Path,
    bytes: &[u8],
    parse: impl FnOnce(&mut Fields<'_>) -> Result<T, &'static str>,
) -> Result<T, RecoveryError> {
    let corrupt = |reason| RecoveryError::CorruptRecord {
        path: path.into(),
        reason,
    };
    let body = unframe(kind, bytes).map_err(|error| match error {
        RecordError::Damaged(reason) => corrupt(reason),
        RecordError::NewerFormat(found) => RecoveryError::NewerFormat {
            path: path.into(),
            found,
            supported: kind.version_max(),
        },
    })?;
    let mut fields = Fields(body);
    let value = parse(&mut fields).map_err(corrupt)?;
    if fields.0.is_empty() {
        Ok(value)
    } else {
        Err(corrupt("longer than its fields"))
    }
}

/// Replaces `path` by `bytes`, so that after a crash at any step the old or the new content is there, whole. Only the
/// owner may read it: `settings` and each `base` hold the key of the ids.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), RecoveryError> {
    put(path, bytes)?;
    sync_parent(path)
}

/// Like [`replace`]; but which of the two contents a power cut leaves is settled by [`sync_folder`] only, which one may
/// do for many files at once.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<(), RecoveryError> {
    let (temporary, mut file) = temporary_beside(path)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(RecoveryError::io("write", &temporary))?;
    fs::rename(&temporary, path).map_err(RecoveryError::io("rename", &temporary))
}

/// Where a file is made before it gets its name.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

/// An empty file beside `path`, for its owner alone, that shall have its name once it is whole.
pub(crate) fn temporary_beside(path: &Path) -> Result<(PathBuf, File), RecoveryError> {
    let temporary = unfinished(path);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(RecoveryError::io("create", &temporary))?;
    Ok((temporary, file))
}

/// Makes the data folder, for the owner alone, since what lies in it is a secret. One that is there stays as it is, and
/// folders above it that are missing are made as everywhere.
pub(crate) fn make_data_folder(folder: &Path) -> Result<(), RecoveryError> {
    let made = folder
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| DirBuilder::new().mode(0o700).create(folder));
    match made {
        // Also of something that is no folder: whoever looks into it next says so.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(RecoveryError::io("create", folder)),
    }
}

/// Makes the names in `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), RecoveryError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(RecoveryError::io("sync", folder))
}

/// Makes the name of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), RecoveryError> {
    path.parent().map(named).map_or(Ok(()), sync_folder)
}

/// Makes the name of `path` durable, and the names of all folders above it that may be opened: an earlier start, which
/// was killed, may have made any of them.
pub(crate) fn sync_ancestors(path: &Path) -> Result<(), RecoveryError> {
    sync_parent(path)?;
    for folder in path.ancestors().skip(2) {
        if let Err(error) = sync_folder(named(folder)) {
            tracing::debug!(%error, "a folder far above the data is not synced");
        }
    }
    Ok(())
}

/// The folder that a path means which has no parent's name in it: `data` lies in `.`.
fn named(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    }
}

/// Takes little-endian fields from the front of a record's body.
#[derive(Debug)]
pub(crate) struct Fields<'b>(pub(crate) &'b [u8]);

impl Fields<'_> {
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or("cut short")?;
        self.0 = rest;
        Ok(*array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, &'static str> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn sequence(&mut self) -> Result<Sequence, &'static str> {
        let sequence = Sequence::new(self.u64()?);
        if sequence > Sequence::MAX {
            Err("sequence above 62 bits")
        } else {
            Ok(sequence)
        }
    }

    pub(crate) fn identity(&mut self) -> Result<JournalIdentity, &'static str> {
        let journal_id = Uuid::from_bytes(self.array()?);
        Ok(JournalIdentity {
            journal_id,
            epoch: self.u32()?,
        })
    }

    pub(crate) fn currencies(&mut self) -> Result<Currencies, &'static str> {
        let count = usize::from(self.u16()?);
        if count > Currencies::COUNT_MAX {
            return Err("too many currencies");
        }
        let mut rows = Vec::with_capacity(count);
        for _ in 0..count {
            let currency = Currency::from_tag(self.u16()?);
            let exponent = self.u8()?;
            let length = usize::from(self.u8()?);
            let (code, rest) = self.0.split_at_checked(length).ok_or("cut short")?;
            self.0 = rest;
            let code = std::str::from_utf8(code).map_err(|_| "a currency code is no text")?;
            rows.push(CurrencyInfo {
                currency,
                code: code.into(),
                exponent,
            });
        }
        Currencies::new(rows).ok_or("the currency table is not valid")
    }
}

/// Appends `identity` as [`Fields::identity`] reads it.
pub(crate) fn put_identity(out: &mut Vec<u8>, identity: JournalIdentity) {
    out.extend_from_slice(identity.journal_id.as_bytes());
    out.extend_from_slice(&identity.epoch.to_le_bytes());
}

/// Appends `currencies` as [`Fields::currencies`] reads them.
pub(crate) fn put_currencies(out: &mut Vec<u8>, currencies: &Currencies) {
    let rows = currencies.rows();
    out.extend_from_slice(&u16::try_from(rows.len()).unwrap_or(u16::MAX).to_le_bytes());
    for row in rows {
        out.extend_from_slice(&row.currency.tag().to_le_bytes());
        out.push(row.exponent);
        out.push(u8::try_from(row.code.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(row.code.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_data_folder_is_the_owners_alone_and_one_that_is_there_stays_as_it_is() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("above/data");
        make_data_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        let ordinary = dir.path().join("ordinary");
        fs::create_dir(&ordinary).unwrap();
        assert_eq!(mode(&dir.path().join("above")), mode(&ordinary));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        make_data_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o750);
    }

    #[test]
    fn a_path_of_one_name_lies_in_the_folder_that_one_is_in() {
        sync_parent(Path::new("data")).unwrap();
        sync_ancestors(Path::new("data")).unwrap();
        sync_ancestors(Path::new("./src/journal")).unwrap();
        assert!(sync_parent(Path::new("src/nowhere/data")).is_err());
    }
}
