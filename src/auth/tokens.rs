//! The tokens file: names, hashes, scopes, wallets. A token itself is never written down or kept.

use super::{Caller, Scope};
use crate::types::WalletId;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use subtle::{Choice, ConstantTimeEq};
use uuid::Uuid;

/// Why a tokens file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("tokens file {path}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML of the expected shape.
    #[error("tokens file {path}: {source}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// It says something that cannot be meant.
    #[error("tokens file {path}: {reason}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Row>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    sha256: String,
    scopes: Vec<Scope>,
    wallets: Option<Vec<Uuid>>,
}

/// The tokens as of one reading of the file.
#[derive(Debug)]
pub(super) struct TokenTable {
    tokens: Vec<Token>,
}

#[derive(Debug)]
struct Token {
    hash: [u8; 32],
    caller: Caller,
}

impl TokenTable {
    pub(super) fn read(path: &Path) -> Result<Self, TokensError> {
        let text = std::fs::read_to_string(path).map_err(|source| TokensError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let file: File = toml::from_str(&text).map_err(|source| TokensError::Malformed {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        Self::new(file).map_err(|reason| TokensError::Invalid {
            path: path.to_owned(),
            reason,
        })
    }

    fn new(file: File) -> Result<Self, String> {
        if file.token.is_empty() {
            return Err("it has no tokens, so nobody could be let in".to_owned());
        }
        let mut table = Self {
            tokens: Vec::with_capacity(file.token.len()),
        };
        for row in file.token {
            let token = Token::new(row)?;
            let name = &token.caller.name;
            if table.tokens.iter().any(|other| other.caller.name == *name) {
                return Err(format!("the name {name:?} stands twice"));
            }
            if let Some(other) = table.tokens.iter().find(|other| other.hash == token.hash) {
                return Err(format!(
                    "{:?} and {name:?} are the same token",
                    other.caller.name
                ));
            }
            table.tokens.push(token);
        }
        Ok(table)
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The owner of `token`. Every hash is compared, whole, whatever is found: the time tells nothing.
    pub(super) fn find(&self, token: &str) -> Option<Caller> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for row in &self.tokens {
            let equal: Choice = row.hash.ct_eq(&hash);
            if bool::from(equal) {
                found = Some(row);
            }
        }
        found.map(|row| row.caller.clone())
    }
}

impl Token {
    fn new(row: Row) -> Result<Self, String> {
        let name = row.name;
        if name.is_empty() {
            return Err("a token has an empty name".to_owned());
        }
        let hash = parse_hash(&row.sha256)
            .ok_or_else(|| format!("sha256 of {name:?} is not 64 hexadecimal digits"))?;
        if row.scopes.is_empty() {
            return Err(format!("{name:?} has no scopes"));
        }
        let wallets = row
            .wallets
            .map(|ids| ids.into_iter().map(WalletId::new).collect());
        let wallets: Option<HashSet<WalletId>> = match wallets {
            None => None,
            Some(None) => return Err(format!("wallets of {name:?} contain the nil UUID")),
            Some(Some(wallets)) => Some(wallets),
        };
        let caller = Caller {
            name: name.into(),
            scopes: row.scopes.into(),
            wallets: wallets.map(Into::into),
        };
        Ok(Self { hash, caller })
    }
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}
