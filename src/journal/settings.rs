//! The store's fixed facts (`settings`) and each volume's share of them (`base`).
//!
//! sled's own `conf` is never synced and silently rewritten, so what must not change is kept here and compared.

use super::page::{FORMAT_VERSION, PAGE_BYTES_MAX, PageHash};
use super::record::{self, Fields, Kind, put_currencies, put_identity};
use super::store::SEGMENT_BYTES;
use super::{RecoveryError, Settings};
use crate::types::{Currencies, Sequence};
use std::fs;
use std::path::Path;

/// Where a volume begins: enough to read it, and all behind it, without anything older.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Base {
    pub(crate) identity: super::JournalIdentity,
    pub(crate) id_key: [u8; 16],
    pub(crate) volume: u64,
    pub(crate) first: Sequence,
    /// Of the page before its first one.
    pub(crate) previous_hash: PageHash,
    /// Bytes of pages in all volumes before this one.
    pub(crate) bytes_before: u64,
    pub(crate) currencies: Currencies,
}

/// Version of `settings` while the write-ahead log may hold what no volume has: the same fields, and a program that does
/// not know of the log, and would miss its pages, refuses it by name.
pub(crate) const LOGGED_VERSION: u16 = 2;

impl Settings {
    /// As they are in a folder whose volumes have everything, and in a backup.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes_of(FORMAT_VERSION)
    }

    /// As they are while the log may hold more than the volumes.
    pub(crate) fn to_logged_bytes(&self) -> Vec<u8> {
        self.to_bytes_of(LOGGED_VERSION)
    }

    /// Makes programs that know of no log refuse the folder.
    pub(crate) fn refuse_older(&self, path: &Path) -> Result<(), RecoveryError> {
        Self::settle(path, &self.to_logged_bytes())
    }

    /// Lets them in again. To be called only once the volumes have everything; what prevents it is told, and hurts nobody
    /// else.
    pub(crate) fn allow_older(&self, path: &Path) {
        if let Err(error) = Self::settle(path, &self.to_bytes()) {
            tracing::warn!(%error, "only a program that knows of the write-ahead log can open the folder");
        }
    }

    /// Replaces the settings in `path` by these, whoever may open the folder.
    pub(crate) fn replace(&self, path: &Path) -> Result<(), RecoveryError> {
        let version = record::version_of(path)?;
        record::replace(path, &self.to_bytes_of(version))
    }

    fn settle(path: &Path, bytes: &[u8]) -> Result<(), RecoveryError> {
        let is_there = fs::read(path).is_ok_and(|found| found == bytes);
        if is_there {
            return Ok(());
        }
        record::replace(path, bytes)
    }

    fn to_bytes_of(&self, version: u16) -> Vec<u8> {
        let mut body = Vec::new();
        put_identity(&mut body, self.identity);
        body.extend_from_slice(&self.id_key);
        body.push(u8::from(self.dev));
        put_u32(&mut body, PAGE_BYTES_MAX);
        put_u32(&mut body, SEGMENT_BYTES);
        put_currencies(&mut body, &self.currencies);
        record::frame_of(Kind::Settings, version, &body)
    }

    /// The settings in `path`, with the page and segment sizes compared to this program's; `None` without a file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, RecoveryError> {
        record::read(Kind::Settings, path, Self::parse)?
            .map(|read| Self::check_sizes(path, read))
            .transpose()
    }

    /// The same from `bytes` that came from `path`.
    pub(crate) fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, RecoveryError> {
        let read = record::parse_framed(Kind::Settings, path, bytes, Self::parse)?;
        Self::check_sizes(path, read)
    }

    fn check_sizes(
        path: &Path,
        (settings, sizes): (Self, [u32; 2]),
    ) -> Result<Self, RecoveryError> {
        let own = [PAGE_BYTES_MAX, SEGMENT_BYTES].map(|size| u32::try_from(size).ok());
        if sizes.map(Some) != own {
            let what = format!("page and segment of {sizes:?} bytes where {own:?} are used");
            return Err(RecoveryError::SettingsMismatch {
                path: path.into(),
                what: what.into(),
            });
        }
        Ok(settings)
    }

    fn parse(fields: &mut Fields<'_>) -> Result<(Self, [u32; 2]), &'static str> {
        let identity = fields.identity()?;
        let id_key = fields.array()?;
        let dev = match fields.u8()? {
            0 => false,
            1 => true,
            _ => return Err("dev flag is neither 0 nor 1"),
        };
        let sizes = [fields.u32()?, fields.u32()?];
        let currencies = fields.currencies()?;
        Ok((
            Self {
                identity,
                id_key,
                dev,
                currencies,
            },
            sizes,
        ))
    }
}

impl Base {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put_identity(&mut body, self.identity);
        body.extend_from_slice(&self.id_key);
        body.extend_from_slice(&self.volume.to_le_bytes());
        body.extend_from_slice(&self.first.get().to_le_bytes());
        body.extend_from_slice(&self.previous_hash);
        body.extend_from_slice(&self.bytes_before.to_le_bytes());
        put_currencies(&mut body, &self.currencies);
        record::frame(Kind::Base, &body)
    }

    pub(crate) fn read(path: &Path) -> Result<Option<Self>, RecoveryError> {
        record::read(Kind::Base, path, |fields| {
            Ok(Self {
                identity: fields.identity()?,
                id_key: fields.array()?,
                volume: fields.u64()?,
                first: fields.sequence()?,
                previous_hash: fields.array()?,
                bytes_before: fields.u64()?,
                currencies: fields.currencies()?,
            })
        })
    }
}

/// The table to go on with: the store's rows as they are, the configuration's new ones behind them.
pub(crate) fn merge_currencies(
    stored: &Currencies,
    configured: &Currencies,
) -> Result<Currencies, RecoveryError> {
    for row in stored.rows() {
        if configured.get(row.currency) != Some(row) {
            return Err(RecoveryError::CurrencyChanged {
                code: row.code.clone(),
            });
        }
    }
    let added = configured
        .rows()
        .iter()
        .filter(|row| stored.get(row.currency).is_none());
    let rows = stored.rows().iter().chain(added).cloned().collect();
    Ok(Currencies::new(rows).unwrap_or_else(|| stored.clone()))
}

fn put_u32(out: &mut Vec<u8>, value: usize) {
    out.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
}
