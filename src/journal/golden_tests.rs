//! The bytes of every format version ever released. Files in `tests/golden/` are added to, never rewritten: a change
//! here is a new version of the format.

use super::codec::{Encoder, Entries};
use super::page::{NO_PAGE, Page};
use super::record::{self, Kind};
use super::settings::Base;
use super::testing::{ID_KEY, TIME, cipher, every_kind, golden_journal, identity, transfers};
use super::wal::Facts;
use super::{
    BackupError, BackupParser, Config, Entry, JournalIdentity, Lineage, Piece, Rebuild, Settings,
    Witness,
};
use crate::clock::{SharedClock, SystemClock};
use crate::types::{Currencies, Sequence};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

fn path(name: &str) -> PathBuf {
    // Of the second version there is one file.
    let version = if name == LOGGED { "v2" } else { "v1" };
    let name = if name == LOGGED { "settings" } else { name };
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", version, name]
        .iter()
        .collect()
}

/// The settings while the write-ahead log may hold more than the volumes.
const LOGGED: &str = "settings-2";

#[track_caller]
fn golden(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Bytes as `docs/FORMAT.md` shows them, so that a difference can be read.
fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).fold(String::new(), |mut text, row| {
        for byte in row {
            write!(text, "{byte:02x} ").unwrap();
        }
        text.push('\n');
        text
    })
}

#[track_caller]
fn assert_same_bytes(name: &str, bytes: &[u8]) {
    assert_eq!(hex(bytes), hex(&golden(name)), "{name}");
}

fn settings() -> Settings {
    Settings {
        identity: identity(),
        id_key: ID_KEY,
        dev: true,
        currencies: Currencies::default(),
    }
}

fn facts() -> Facts {
    Facts {
        journal_id: identity().journal_id,
        size_bytes: 8 << 20,
    }
}

fn base() -> Base {
    Base {
        identity: identity(),
        id_key: ID_KEY,
        volume: 7,
        first: Sequence::new(4_001),
        previous_hash: [0x5a; 32],
        bytes_before: 123_456_789,
        currencies: Currencies::default(),
    }
}

fn lineage() -> Lineage {
    let first = JournalIdentity {
        epoch: 1,
        ..identity()
    };
    let lineage = Lineage::from(first);
    lineage.raised_to(3, Sequence::new(4_000)).unwrap()
}

fn backup() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let journal = golden_journal(folder.path());
    let mut source = journal.reader().backup().unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = source.next_chunk().unwrap() {
        bytes.extend(chunk);
    }
    bytes
}

fn witness() -> Witness {
    Witness {
        identity: identity(),
        durable: Sequence::new(4_000),
        head_hash: [0xa5; 32],
        volume: 6,
        length_bytes: 3 << 19,
    }
}

/// One page with an entry of every kind, then a group of two pages behind it.
fn pages() -> (Vec<Vec<u8>>, Vec<Entry>) {
    let cipher = cipher();
    let mut encoder = Encoder::default();
    let mut pages = Vec::new();
    let mut entries = every_kind(&cipher);
    let mut encode = |group: &[Entry], hash| {
        let head = encoder
            .encode(identity(), &cipher, group, group[0].first, hash)
            .unwrap();
        pages.extend(encoder.pages().map(|(_, page)| page.to_vec()));
        head
    };
    let head = encode(&entries, NO_PAGE);
    let second = transfers(&cipher, entries[entries.len() - 1].last(), 30);
    encode(&second, head);
    entries.extend(second);
    (pages, entries)
}

fn ids() -> String {
    let cipher = cipher();
    let sequences = [1, 2, 3, 1_000, Sequence::MAX.get()].map(Sequence::new);
    let mut text = String::from("sequence transaction_id event_id\n");
    for sequence in sequences {
        let transaction = cipher.transaction_id(sequence, TIME);
        assert_eq!(cipher.sequence_of(transaction), Some(sequence));
        writeln!(
            text,
            "{sequence} {transaction} {}",
            cipher.event_id(sequence, TIME)
        )
        .unwrap();
    }
    text
}

#[test]
fn pages_of_version_1_are_read_and_written_the_same() {
    let (pages, entries) = pages();
    assert_eq!(pages.len(), 3);
    let cipher = cipher();
    let mut read = Vec::new();
    for (number, written) in (1..).zip(&pages) {
        let name = format!("page-{number}");
        let bytes = golden(&name);
        let page = Page::parse_of(identity(), &bytes).unwrap();
        read.extend(Entries::of(&page, &cipher).map(Result::unwrap));
        assert_same_bytes(&name, written);
    }
    assert_eq!(read, entries);
}

#[test]
fn settings_of_version_1_are_read_and_written_the_same() {
    assert_eq!(Settings::read(&path("settings")).unwrap(), Some(settings()));
    assert_same_bytes("settings", &settings().to_bytes());
}

#[test]
fn settings_of_version_2_are_read_and_written_the_same() {
    assert_eq!(Settings::read(&path(LOGGED)).unwrap(), Some(settings()));
    assert_same_bytes(LOGGED, &settings().to_logged_bytes());
}

#[test]
fn facts_of_a_log_of_version_1_are_read_and_written_the_same() {
    let read = record::read(Kind::Wal, &path("wal-facts"), Facts::parse);
    assert_eq!(read.unwrap(), Some(facts()));
    assert_same_bytes("wal-facts", &facts().to_bytes());
}

#[test]
fn bases_of_version_1_are_read_and_written_the_same() {
    assert_eq!(Base::read(&path("base")).unwrap(), Some(base()));
    assert_same_bytes("base", &base().to_bytes());
}

#[test]
fn witnesses_of_version_1_are_read_and_written_the_same() {
    assert_eq!(Witness::read(&path("stop")).unwrap(), Some(witness()));
    assert_same_bytes("stop", &witness().to_bytes());
}

#[test]
fn lineages_of_version_1_are_read_and_written_the_same() {
    let read = Lineage::read(&path("lineage"), identity()).unwrap();
    assert_eq!(read, lineage());
    assert_same_bytes("lineage", &lineage().to_bytes());
}

#[test]
fn backups_of_version_1_are_read_and_written_the_same() {
    assert_same_bytes("backup", &backup());
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(folder.path());
    let clock: SharedClock = Arc::new(SystemClock::new());
    let mut parser = BackupParser::default();
    let mut rebuild = None;
    parser
        .feed::<BackupError>(&golden("backup"), &mut |piece| {
            match (piece, &mut rebuild) {
                (
                    Piece::Begin {
                        settings, lineage, ..
                    },
                    rebuild,
                ) => {
                    let begun = Rebuild::begin(&config, *settings, &lineage, &clock);
                    *rebuild = Some(begun.unwrap());
                }
                (Piece::Page(page), Some(rebuild)) => rebuild.push(page).unwrap(),
                (Piece::Page(_), None) => panic!("a page before the beginning"),
            }
            Ok(())
        })
        .unwrap();
    let rebuild = rebuild.unwrap();
    parser.finish(&rebuild.checked().unwrap()).unwrap();
    assert_eq!(rebuild.finish().unwrap().entries, 40);
}

#[test]
fn ids_of_version_1_are_made_the_same() {
    assert_eq!(ids(), String::from_utf8(golden("ids.txt")).unwrap());
}

/// For a new version of the format only: writes the files that are missing, and never touches one that is there.
#[test]
#[ignore = "makes the golden files of a new format version"]
fn make_missing_golden_files() {
    let (pages, _) = pages();
    let mut files = vec![
        ("settings".to_owned(), settings().to_bytes()),
        (LOGGED.to_owned(), settings().to_logged_bytes()),
        ("wal-facts".to_owned(), facts().to_bytes()),
        ("base".to_owned(), base().to_bytes()),
        ("stop".to_owned(), witness().to_bytes()),
        ("lineage".to_owned(), lineage().to_bytes()),
        ("backup".to_owned(), backup()),
        ("ids.txt".to_owned(), ids().into_bytes()),
    ];
    files.extend(
        (1..)
            .zip(pages)
            .map(|(number, page)| (format!("page-{number}"), page)),
    );
    for name in ["settings", LOGGED] {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
    }
    for (name, bytes) in files {
        if !path(&name).exists() {
            fs::write(path(&name), bytes).unwrap();
        }
    }
}
