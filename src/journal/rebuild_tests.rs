use super::super::testing::{assert_holds, commit, open, options, small, try_open};
use super::super::{BackupParser, Journal, JournalReader, OpenOptions, Piece};
use super::*;
use crate::clock::SystemClock;
use std::path::PathBuf;

fn clock() -> SharedClock {
    Arc::new(SystemClock::new())
}

/// Every page of a journal, in order.
fn pages(reader: &JournalReader) -> Vec<Vec<u8>> {
    let mut copy = reader.copy();
    let mut pages = Vec::new();
    loop {
        let chunk = copy.next_pages().unwrap();
        if chunk.is_empty() {
            return pages;
        }
        pages.extend(chunk.iter().map(|page| page.bytes().to_vec()));
    }
}

struct Source {
    _folder: tempfile::TempDir,
    journal: Journal,
}

/// A journal of several volumes with groups of several pages.
fn source() -> Source {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(&small(folder.path()));
    for count in [1, 40, 300, 3, 90, 200, 1] {
        commit(&mut journal, count);
    }
    Source {
        _folder: folder,
        journal,
    }
}

fn begin(source: &Source, target: &Config) -> Result<Rebuild, RebuildError> {
    let settings = source.journal.settings().clone();
    let reader = source.journal.reader();
    Rebuild::begin(target, settings, reader.lineage(), &clock())
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .map(|entries| {
            let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
            entries.flatten().map(name).collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}

struct Target {
    _folder: tempfile::TempDir,
    data_dir: PathBuf,
    config: Config,
}

fn target() -> Target {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    Target {
        config: small(&data_dir),
        data_dir,
        _folder: folder,
    }
}

#[test]
fn the_same_pages_make_the_same_journal_in_a_higher_epoch() {
    let source = source();
    let pages = pages(&source.journal.reader());
    assert!(pages.len() > 20, "{} pages", pages.len());
    let target = target();
    let mut rebuild = begin(&source, &target.config).unwrap();
    for page in &pages {
        rebuild.push(page).unwrap();
    }
    let made = rebuild.finish().unwrap();
    let before = source.journal.reader().witness();
    assert_eq!(made.durable, before.durable);
    assert_eq!(made.head_hash, before.head_hash);
    assert_eq!(made.entries, 635);
    assert!(made.identity.epoch > before.identity.epoch);
    assert_eq!(
        names(&target.data_dir),
        ["LOCK", "lineage", "settings", "stop", "volumes"]
    );
    assert!(names(&target.data_dir.join("volumes")).len() > 1);

    let mut journal = open(&target.config);
    let reader = journal.reader();
    assert_eq!(reader.identity(), made.identity);
    assert_eq!(reader.lineage().fork(), before.durable);
    assert_eq!(journal.settings().id_key, source.journal.settings().id_key);
    assert_eq!(reader.verify().unwrap().head_hash, before.head_hash);
    assert_eq!(self::pages(&reader), pages);
    // Whoever reads holds the folder.
    drop(reader);
    let last = commit(&mut journal, 100);
    journal.close().unwrap();
    assert_holds(&open(&target.config), last);
}

#[test]
fn after_a_restore_the_epoch_is_another_and_the_old_pages_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(&small(folder.path()));
    commit(&mut journal, 50);
    let before = journal.reader().witness();
    assert!(matches!(
        Rebuild::begin(
            &small(folder.path()),
            journal.settings().clone(),
            journal.reader().lineage(),
            &clock()
        ),
        Err(RebuildError::NotEmpty { .. })
    ));
    let target = target();
    let settings = journal.settings().clone();
    let mut rebuild = Rebuild::begin(
        &target.config,
        settings,
        journal.reader().lineage(),
        &clock(),
    )
    .unwrap();
    for page in pages(&journal.reader()) {
        rebuild.push(&page).unwrap();
    }
    let identity = rebuild.finish().unwrap().identity;
    assert!(identity.epoch > before.identity.epoch);
    // A witness of the other history, which went on longer, says nothing here.
    let elsewhere = Witness {
        durable: before.durable.plus(400),
        ..before
    };
    let options = OpenOptions {
        witnesses: vec![elsewhere],
        ..options()
    };
    let mut journal = try_open(&target.config, &options).unwrap();
    assert_eq!(journal.reader().identity(), identity);
    let lineage = journal.reader().lineage().clone();
    assert_eq!(
        (lineage.identity(), lineage.fork()),
        (identity, before.durable)
    );
    assert!(lineage.owns(before.identity, before.durable));
    assert!(!lineage.owns(before.identity, elsewhere.durable));
    let last = commit(&mut journal, 50);
    assert_eq!(journal.reader().verify().unwrap().entries, 100);
    drop(journal);
    assert_holds(&open(&target.config), last);
}

#[test]
fn what_is_missing_doubled_swapped_or_of_another_journal_is_refused_and_leaves_nothing() {
    let source = source();
    let whole = pages(&source.journal.reader());
    let stranger = pages(&self::source().journal.reader());
    let changed = |change: fn(&mut Vec<Vec<u8>>)| {
        let mut pages = whole.clone();
        change(&mut pages);
        pages
    };
    let mut mixed = whole.clone();
    mixed[4].clone_from(&stranger[4]);
    for (what, pages) in [
        ("the first is missing", changed(|p| drop(p.remove(0)))),
        ("one is missing", changed(|p| drop(p.remove(5)))),
        ("one comes twice", changed(|p| p.insert(5, p[5].clone()))),
        ("two are swapped", changed(|p| p.swap(5, 6))),
        ("one is damaged", changed(|p| p[5][300] ^= 1)),
        ("the end of a group is missing", changed(|p| p.truncate(5))),
        ("one is another journal's", mixed),
    ] {
        let target = target();
        let mut rebuild = begin(&source, &target.config).unwrap();
        let ended = pages
            .iter()
            .try_for_each(|page| rebuild.push(page))
            .and_then(|()| rebuild.finish());
        let error = ended.expect_err(what);
        assert!(matches!(error, RebuildError::Page(_)), "{what}: {error}");
        assert!(!target.data_dir.exists(), "{what}: something is left");
    }
}

#[test]
fn a_page_of_an_epoch_that_had_ended_is_refused() {
    let source = source();
    let reader = source.journal.reader();
    let fork = Sequence::new(5);
    let identity = JournalIdentity {
        epoch: 9,
        ..reader.identity()
    };
    let lineage = reader.lineage().raised_to(9, fork).unwrap();
    let settings = Settings {
        identity,
        ..source.journal.settings().clone()
    };
    let mut check = PageCheck::new(&settings, &lineage);
    let refused = pages(&reader)
        .iter()
        .find_map(|page| check.take(page).err());
    assert!(refused.is_some_and(|reason| reason.contains("which had ended")));
}

#[test]
fn a_folder_that_holds_something_stays_as_it_is() {
    let source = source();
    let target = target();
    fs::create_dir(&target.data_dir).unwrap();
    fs::write(target.data_dir.join("letter"), "dear").unwrap();
    let refused = begin(&source, &target.config).unwrap_err();
    assert!(
        matches!(refused, RebuildError::NotEmpty { .. }),
        "{refused}"
    );
    assert_eq!(names(&target.data_dir), ["letter"]);
    fs::remove_file(target.data_dir.join("letter")).unwrap();
    drop(open(&target.config));
    let before = names(&target.data_dir);
    let refused = begin(&source, &target.config).unwrap_err();
    assert!(
        matches!(refused, RebuildError::NotEmpty { .. }),
        "{refused}"
    );
    assert_eq!(names(&target.data_dir), before);
}

#[test]
fn what_a_kill_left_is_no_journal_and_the_next_attempt_clears_it() {
    let source = source();
    let pages = pages(&source.journal.reader());
    let target = target();
    let mut rebuild = begin(&source, &target.config).unwrap();
    for page in &pages[..20] {
        rebuild.push(page).unwrap();
    }
    // As a kill leaves it: nothing was cleared.
    rebuild.target.is_kept = true;
    drop(rebuild);
    assert!(target.data_dir.join("unfinished").exists());
    let refused = try_open(&target.config, &options()).unwrap_err();
    assert!(
        matches!(refused, RecoveryError::Unfinished { .. }),
        "{refused}"
    );
    let mut rebuild = begin(&source, &target.config).unwrap();
    for page in &pages {
        rebuild.push(page).unwrap();
    }
    let made = rebuild.finish().unwrap();
    assert_holds(&open(&target.config), made.durable);
}

#[test]
fn an_empty_journal_moves_too() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&small(folder.path()));
    let source = Source {
        _folder: folder,
        journal,
    };
    let target = target();
    let made = begin(&source, &target.config).unwrap().finish().unwrap();
    assert!(made.durable.is_origin());
    let mut journal = open(&target.config);
    let last = commit(&mut journal, 5);
    drop(journal);
    assert_holds(&open(&target.config), last);
}

/// Feeds a backup in pieces of `step` bytes.
fn restore(bytes: &[u8], step: usize, config: &Config) -> Result<Rebuilt, String> {
    let mut parser = BackupParser::default();
    let mut rebuild = None;
    for piece in bytes.chunks(step) {
        parser
            .feed::<Trouble>(piece, &mut |piece| {
                match piece {
                    Piece::Begin {
                        settings, lineage, ..
                    } => rebuild = Some(Rebuild::begin(config, *settings, &lineage, &clock())?),
                    Piece::Page(page) => {
                        if let Some(rebuild) = &mut rebuild {
                            rebuild.push(page)?;
                        }
                    }
                }
                Ok(())
            })
            .map_err(|trouble| trouble.to_string())?;
    }
    let rebuild = rebuild.ok_or("nothing came")?;
    let found = rebuild.check.finish()?;
    parser.finish(&found).map_err(|error| error.to_string())?;
    rebuild.finish().map_err(|error| error.to_string())
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Backup(#[from] super::super::BackupError),
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
}

fn backup(journal: &Journal) -> Vec<u8> {
    let mut source = journal.reader().backup().unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = source.next_chunk().unwrap() {
        bytes.extend(chunk);
    }
    bytes
}

#[test]
fn a_backup_in_pieces_of_any_length_gives_the_journal_back() {
    let source = source();
    let bytes = backup(&source.journal);
    for step in [1_usize, 7, 4_096, 1 << 20] {
        let target = target();
        let made = restore(&bytes, step, &target.config).unwrap();
        assert_holds(&open(&target.config), made.durable);
    }
}

#[test]
fn a_backup_holds_what_was_durable_when_it_began() {
    let mut source = source();
    let before = source.journal.reader().witness();
    let mut backup = source.journal.reader().backup().unwrap();
    let mut bytes = backup.next_chunk().unwrap().unwrap();
    commit(&mut source.journal, 500);
    while let Some(chunk) = backup.next_chunk().unwrap() {
        bytes.extend(chunk);
    }
    let target = target();
    let made = restore(&bytes, 4_096, &target.config).unwrap();
    assert_eq!(
        (made.durable, made.head_hash),
        (before.durable, before.head_hash)
    );
}

#[test]
fn a_backup_with_a_flipped_bit_or_cut_anywhere_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(&small(folder.path()));
    commit(&mut journal, 40);
    commit(&mut journal, 1);
    let whole = backup(&journal);
    let target = target();
    // Every byte of the records in front and of the end, and every so many in between.
    let near_an_end = |at: &usize| *at < 500 || *at + 200 > whole.len();
    let places = |step: usize| (0..whole.len()).filter(move |at| near_an_end(at) || at % step == 0);
    for at in places(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let refused = restore(&bytes, 1 << 16, &target.config);
        assert!(refused.is_err(), "flipped byte {at}: {refused:?}");
        assert!(
            !target.data_dir.exists(),
            "flipped byte {at}: something is left"
        );
    }
    for at in places(331).step_by(7) {
        let refused = restore(&whole[..at], 1 << 16, &target.config);
        assert!(refused.is_err(), "cut at {at}: {refused:?}");
        assert!(!target.data_dir.exists(), "cut at {at}: something is left");
    }
    let mut longer = whole;
    longer.push(0);
    assert!(restore(&longer, 1 << 16, &target.config).is_err());
    assert!(!target.data_dir.exists());
}
