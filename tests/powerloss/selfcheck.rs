//! The rig against what is known of power cuts: it must lose what a disk may lose, and keep what a disk must keep.

use crate::disk::{PAGE_BYTES, Survives};
use crate::machine::{Fault, Op};
use crate::random::Random;
use crate::rig::Rig;
use fuser::Errno;
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The strictest cut: nothing unsynced stays.
fn cut(rig: &mut Rig) {
    rig.machine.freeze();
    rig.machine.power_off();
    rig.cut(Survives::Nothing, Survives::Nothing, &mut Random::new(1));
}

fn sync_folder(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// A synced file in a synced folder.
fn settled(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
    sync_folder(path.parent().unwrap());
}

fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

#[test]
fn bytes_survive_a_cut_only_behind_a_sync_of_the_file() {
    let Some(mut rig) = Rig::mount() else { return };
    let top = rig.path();
    for name in [
        "written",
        "synced",
        "data-synced",
        "by-another",
        "o-dsync",
        "over",
        "range",
    ] {
        settled(&top.join(name), b"old");
    }
    change_in_every_way(&top);

    cut(&mut rig);
    let read = |name: &str| fs::read_to_string(top.join(name)).unwrap();
    assert_eq!(read("written"), "old");
    assert_eq!(read("synced"), "new and longer");
    assert_eq!(read("data-synced"), "new and longer");
    assert_eq!(read("by-another"), "new");
    assert_eq!(read("o-dsync"), "new");
    assert_eq!(read("over"), "NEW", "what came behind the sync is gone");
    assert_eq!(
        read("range"),
        "old",
        "a sync of the file system is no fsync"
    );
}

/// The files are closed at the end.
fn change_in_every_way(top: &Path) {
    fs::write(top.join("written"), b"new").unwrap();
    let mut file = File::create(top.join("synced")).unwrap();
    file.write_all(b"new and longer").unwrap();
    file.sync_all().unwrap();
    let mut file = File::create(top.join("data-synced")).unwrap();
    file.write_all(b"new and longer").unwrap();
    file.sync_data().unwrap();
    fs::write(top.join("by-another"), b"new").unwrap();
    File::open(top.join("by-another"))
        .unwrap()
        .sync_data()
        .unwrap();
    let dsync = i32::try_from(OFlags::DSYNC.bits()).unwrap();
    let mut file = OpenOptions::new();
    let file = file.write(true).custom_flags(dsync);
    file.open(top.join("o-dsync"))
        .unwrap()
        .write_all(b"new")
        .unwrap();
    let file = open(&top.join("over"));
    file.write_all_at(b"NEW", 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(b"lost", 1).unwrap();
    // As little as what sled's `flush` ends in.
    let file = open(&top.join("range"));
    file.write_all_at(b"lost", 0).unwrap();
    rustix::fs::syncfs(&file).unwrap();
}

#[test]
fn a_changed_length_without_a_sync_is_undone() {
    let Some(mut rig) = Rig::mount() else { return };
    let top = rig.path();
    for name in ["cut", "grown", "truncated", "kept"] {
        settled(&top.join(name), b"12345678");
    }
    open(&top.join("cut")).set_len(3).unwrap();
    open(&top.join("grown")).set_len(9_000).unwrap();
    drop(File::create(top.join("truncated")).unwrap());
    let file = open(&top.join("kept"));
    file.set_len(10).unwrap();
    file.sync_all().unwrap();
    drop(file);

    cut(&mut rig);
    for name in ["cut", "grown", "truncated"] {
        assert_eq!(fs::read(top.join(name)).unwrap(), b"12345678", "{name}");
    }
    assert_eq!(fs::read(top.join("kept")).unwrap(), b"12345678\0\0");
}

#[test]
fn names_survive_a_cut_only_behind_a_sync_of_their_folder() {
    let Some(mut rig) = Rig::mount() else { return };
    let top = rig.path();
    settled(&top.join("removed"), b"1");
    settled(&top.join("moved"), b"2");
    settled(&top.join("replaced"), b"old");
    fs::create_dir(top.join("kept")).unwrap();
    sync_folder(&top);

    let mut file = File::create(top.join("new")).unwrap();
    file.write_all(b"synced, but nobody knows its name")
        .unwrap();
    file.sync_all().unwrap();
    fs::create_dir(top.join("folder")).unwrap();
    settled(&top.join("folder/within"), b"in a folder that is lost");
    fs::remove_file(top.join("removed")).unwrap();
    fs::rename(top.join("moved"), top.join("elsewhere")).unwrap();
    settled(&top.join("kept/within"), b"3");
    drop(file);

    cut(&mut rig);
    assert!(!top.join("new").exists());
    assert!(!top.join("folder").exists());
    assert_eq!(fs::read(top.join("removed")).unwrap(), b"1");
    assert_eq!(fs::read(top.join("moved")).unwrap(), b"2");
    assert!(!top.join("elsewhere").exists());
    assert_eq!(fs::read(top.join("kept/within")).unwrap(), b"3");

    // A file that was not synced, renamed over another: the name is new, the bytes are gone.
    fs::write(top.join("replaced.tmp"), b"new").unwrap();
    fs::rename(top.join("replaced.tmp"), top.join("replaced")).unwrap();
    sync_folder(&top);
    cut(&mut rig);
    assert_eq!(fs::read(top.join("replaced")).unwrap(), b"");
    settled(&top.join("replaced.tmp"), b"new");
    fs::rename(top.join("replaced.tmp"), top.join("replaced")).unwrap();
    sync_folder(&top);
    cut(&mut rig);
    assert_eq!(fs::read(top.join("replaced")).unwrap(), b"new");
}

#[test]
fn a_cut_can_keep_the_later_page_and_lose_the_earlier_one() {
    let Some(mut rig) = Rig::mount() else { return };
    let path = rig.path().join("pages");
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        settled(&path, &[0; 3 * PAGE_BYTES]);
        let file = open(&path);
        file.write_all_at(&[1; 3 * PAGE_BYTES], 0).unwrap();
        drop(file);
        rig.machine.freeze();
        rig.machine.power_off();
        rig.cut(Survives::Some, Survives::Some, &mut Random::new(seed));
        let bytes = fs::read(&path).unwrap();
        let pages: Vec<u8> = bytes.chunks(PAGE_BYTES).map(|page| page[0]).collect();
        for page in bytes.chunks(PAGE_BYTES) {
            assert!(page.iter().all(|byte| *byte == page[0]), "pages are whole");
        }
        seen.insert(pages);
    }
    assert!(
        seen.contains(&vec![0, 0, 1]) && seen.contains(&vec![1, 0, 0]),
        "{seen:?}"
    );
}

#[test]
fn surviving_names_are_a_prefix_of_what_was_done() {
    let Some(mut rig) = Rig::mount() else { return };
    let top = rig.path();
    let mut counts = std::collections::BTreeSet::new();
    for seed in 0..20 {
        for name in ["a", "b", "c"] {
            fs::create_dir(top.join(name)).unwrap();
        }
        rig.machine.freeze();
        rig.machine.power_off();
        rig.cut(Survives::Nothing, Survives::Some, &mut Random::new(seed));
        let there = ["a", "b", "c"].map(|name| top.join(name).exists());
        assert!(
            there.is_sorted_by(|before, after| before >= after),
            "{there:?}"
        );
        counts.insert(there);
        for name in ["a", "b", "c"] {
            let _not_there = fs::remove_dir(top.join(name));
        }
        sync_folder(&top);
    }
    assert_eq!(counts.len(), 4, "{counts:?}");
}

#[test]
fn calls_fail_when_told_and_a_full_disk_has_room_again_later() {
    let Some(rig) = Rig::mount() else { return };
    let path = rig.path().join("file");
    settled(&path, b"1");
    let file = open(&path);
    rig.machine.fail(Some(Fault {
        op: Some(Op::Write),
        path: "file",
        nth: 2,
        goes_on: false,
        error: Errno::EIO,
    }));
    file.write_all_at(b"2", 0).unwrap();
    assert_eq!(
        file.write_all_at(b"3", 0).unwrap_err().raw_os_error(),
        Some(5)
    );
    file.write_all_at(b"4", 0).unwrap();
    assert_eq!(rig.machine.failed_calls(), 1);

    rig.machine.state().disk.set_capacity(3 * 4096);
    file.set_len(3 * 4096).unwrap();
    let full = file.write_all_at(b"5", 3 * 4096).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    rig.machine.state().disk.set_capacity(4 * 4096);
    file.write_all_at(b"5", 3 * 4096).unwrap();
}
