//! The rig's disk: files and names as a process sees them, and what of them a power cut would leave.
//!
//! Stricter than most file systems, as strict as POSIX: a file's bytes and length are safe after a sync of the file, a
//! name after a sync of its folder, and neither helps the other. Of what was not synced a cut leaves nothing, all, or a
//! random part: of bytes any pages, the later without the earlier; of names a prefix, since file systems keep a journal.

use crate::random::Random;
use fuser::Errno;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};

/// Number of a file or folder.
pub(crate) type Ino = u64;
/// The top folder.
pub(crate) const ROOT: Ino = 1;
/// What a disk writes at once: a cut keeps or loses it as one.
pub(crate) const PAGE_BYTES: usize = 4096;

/// How much of what was not synced a cut leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Survives {
    Nothing,
    Some,
    Everything,
}

impl Survives {
    /// One of the three.
    pub(crate) const fn random(random: &mut Random) -> Self {
        match random.below(3) {
            0 => Self::Nothing,
            1 => Self::Some,
            _ => Self::Everything,
        }
    }
}

/// A change of a file that no sync has followed.
#[derive(Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Resize(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => put(content, *at, bytes),
            Self::Resize(length) => content.resize(*length, 0),
        }
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

#[derive(Debug, Default)]
struct File {
    now: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<Change>,
}

impl File {
    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.synced);
        }
    }

    fn cut(&mut self, survives: Survives, random: &mut Random) {
        let pending = std::mem::take(&mut self.pending);
        for change in &pending {
            match (survives, change) {
                (Survives::Nothing, _) => {}
                (Survives::Everything, change) => change.apply(&mut self.synced),
                (Survives::Some, Change::Resize(_)) => {
                    if random.coin() {
                        change.apply(&mut self.synced);
                    }
                }
                (Survives::Some, Change::Write { at, bytes }) => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let page_end = (at + from) / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES;
                        let to = (page_end - at).min(bytes.len());
                        if random.coin() {
                            put(&mut self.synced, at + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
        self.now.clone_from(&self.synced);
    }
}

#[derive(Debug, Default)]
struct Folder {
    now: BTreeMap<OsString, Ino>,
    synced: BTreeMap<OsString, Ino>,
}

#[derive(Debug)]
enum Content {
    File(File),
    Folder(Folder),
}

#[derive(Debug)]
struct Node {
    content: Content,
    parent: Ino,
    name: OsString,
}

/// A change of names that no sync of `folder` has followed. All its entries come true at once.
#[derive(Debug)]
struct NameChange {
    folder: Ino,
    entries: Vec<(Ino, OsString, Option<Ino>)>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Disk {
    nodes: HashMap<Ino, Node>,
    names: Vec<NameChange>,
    next_ino: Ino,
    /// Bytes of all files, in whole pages.
    used_bytes: u64,
    capacity_bytes: u64,
}

impl Disk {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let root = Node {
            content: Content::Folder(Folder::default()),
            parent: ROOT,
            name: OsString::new(),
        };
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            names: Vec::new(),
            next_ino: ROOT + 1,
            used_bytes: 0,
            capacity_bytes: 1 << 40,
        }
    }

    /// From now on holds this much.
    pub(crate) const fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
    }

    /// Capacity and what is left of it, in bytes.
    pub(crate) const fn space(&self) -> (u64, u64) {
        let free = self.capacity_bytes.saturating_sub(self.used_bytes);
        (self.capacity_bytes, free)
    }

    fn node(&self, ino: Ino) -> Result<&Node, Errno> {
        self.nodes.get(&ino).ok_or(Errno::ENOENT)
    }

    fn file(&mut self, ino: Ino) -> Result<&mut File, Errno> {
        match self.nodes.get_mut(&ino).map(|node| &mut node.content) {
            Some(Content::File(file)) => Ok(file),
            Some(Content::Folder(_)) => Err(Errno::EISDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn folder(&self, ino: Ino) -> Result<&Folder, Errno> {
        match &self.node(ino)?.content {
            Content::Folder(folder) => Ok(folder),
            Content::File(_) => Err(Errno::ENOTDIR),
        }
    }

    /// Length of a file; `None` for a folder.
    pub(crate) fn length(&self, ino: Ino) -> Result<Option<usize>, Errno> {
        Ok(match &self.node(ino)?.content {
            Content::File(file) => Some(file.now.len()),
            Content::Folder(_) => None,
        })
    }

    /// Who has that name.
    pub(crate) fn lookup(&self, folder: Ino, name: &OsStr) -> Result<Ino, Errno> {
        let found = self.folder(folder)?.now.get(name);
        found.copied().ok_or(Errno::ENOENT)
    }

    /// All names in a folder.
    pub(crate) fn list(&self, folder: Ino) -> Result<Vec<(OsString, Ino)>, Errno> {
        let names = self.folder(folder)?.now.iter();
        Ok(names.map(|(name, ino)| (name.clone(), *ino)).collect())
    }

    /// The path below the top, of a name in a folder or of the folder itself.
    pub(crate) fn path(&self, mut ino: Ino, name: Option<&OsStr>) -> String {
        let mut parts: Vec<String> = name
            .map(|name| name.to_string_lossy().into_owned())
            .into_iter()
            .collect();
        while let Some(node) = self.nodes.get(&ino).filter(|_| ino != ROOT) {
            parts.push(node.name.to_string_lossy().into_owned());
            ino = node.parent;
        }
        parts.reverse();
        parts.join("/")
    }

    /// Makes an empty file or folder.
    pub(crate) fn create(
        &mut self,
        parent: Ino,
        name: &OsStr,
        is_folder: bool,
    ) -> Result<Ino, Errno> {
        if self.folder(parent)?.now.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let ino = self.next_ino;
        self.next_ino += 1;
        let content = if is_folder {
            Content::Folder(Folder::default())
        } else {
            Content::File(File::default())
        };
        let node = Node {
            content,
            parent,
            name: name.into(),
        };
        self.nodes.insert(ino, node);
        self.change_names(NameChange {
            folder: parent,
            entries: vec![(parent, name.into(), Some(ino))],
        });
        Ok(ino)
    }

    /// Takes a name away.
    pub(crate) fn remove(
        &mut self,
        parent: Ino,
        name: &OsStr,
        is_folder: bool,
    ) -> Result<(), Errno> {
        let ino = self.lookup(parent, name)?;
        match (&self.node(ino)?.content, is_folder) {
            (Content::Folder(folder), true) if !folder.now.is_empty() => {
                return Err(Errno::ENOTEMPTY);
            }
            (Content::Folder(_), false) => return Err(Errno::EISDIR),
            (Content::File(_), true) => return Err(Errno::ENOTDIR),
            (Content::Folder(_), true) | (Content::File(_), false) => {}
        }
        self.free_pages_of(ino);
        self.change_names(NameChange {
            folder: parent,
            entries: vec![(parent, name.into(), None)],
        });
        Ok(())
    }

    /// Moves a name over another or to a new one.
    pub(crate) fn rename(
        &mut self,
        (parent, name): (Ino, &OsStr),
        (new_parent, new_name): (Ino, &OsStr),
    ) -> Result<(), Errno> {
        let ino = self.lookup(parent, name)?;
        if let Ok(replaced) = self.lookup(new_parent, new_name) {
            match self.folder(replaced) {
                Ok(folder) if !folder.now.is_empty() => return Err(Errno::ENOTEMPTY),
                Ok(_) => {}
                Err(_) => self.free_pages_of(replaced),
            }
        }
        self.change_names(NameChange {
            folder: new_parent,
            entries: vec![
                (parent, name.into(), None),
                (new_parent, new_name.into(), Some(ino)),
            ],
        });
        if let Some(node) = self.nodes.get_mut(&ino) {
            (node.parent, node.name) = (new_parent, new_name.into());
        }
        Ok(())
    }

    fn change_names(&mut self, change: NameChange) {
        for (folder, name, ino) in &change.entries {
            if let Some(Content::Folder(folder)) =
                self.nodes.get_mut(folder).map(|node| &mut node.content)
            {
                set(&mut folder.now, name, *ino);
            }
        }
        self.names.push(change);
    }

    /// Why not exact: an unlinked file that is still open would go on taking room. Nobody here fills a disk that way.
    fn free_pages_of(&mut self, ino: Ino) {
        let length = self.length(ino).ok().flatten().unwrap_or(0);
        self.used_bytes = self.used_bytes.saturating_sub(in_pages(length));
    }

    fn take_room(&mut self, from: usize, to: usize) -> Result<(), Errno> {
        let used = (self.used_bytes + in_pages(to)).saturating_sub(in_pages(from));
        if to > from && used > self.capacity_bytes {
            return Err(Errno::ENOSPC);
        }
        self.used_bytes = used;
        Ok(())
    }

    /// Reads what is there.
    pub(crate) fn read(&mut self, ino: Ino, at: usize, length: usize) -> Result<&[u8], Errno> {
        let content = &self.file(ino)?.now;
        let from = at.min(content.len());
        let to = (at + length).min(content.len());
        Ok(&content[from..to])
    }

    /// Writes all of `bytes`, or nothing.
    pub(crate) fn write(&mut self, ino: Ino, at: usize, bytes: &[u8]) -> Result<(), Errno> {
        let length = self.file(ino)?.now.len();
        self.take_room(length, length.max(at + bytes.len()))?;
        let file = self.file(ino)?;
        put(&mut file.now, at, bytes);
        file.pending.push(Change::Write {
            at,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }

    /// Cuts or lengthens a file.
    pub(crate) fn resize(&mut self, ino: Ino, length: usize) -> Result<(), Errno> {
        let from = self.file(ino)?.now.len();
        self.take_room(from, length)?;
        let file = self.file(ino)?;
        file.now.resize(length, 0);
        file.pending.push(Change::Resize(length));
        Ok(())
    }

    /// Makes a file's bytes and length survive a cut; its name does not by that.
    pub(crate) fn sync(&mut self, ino: Ino) -> Result<(), Errno> {
        self.file(ino)?.sync();
        Ok(())
    }

    /// Makes the names in a folder survive a cut.
    pub(crate) fn sync_folder(&mut self, ino: Ino) -> Result<(), Errno> {
        self.folder(ino)?;
        let (done, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.names)
            .into_iter()
            .partition(|change| change.folder == ino);
        self.names = left;
        self.keep_names(&done);
        Ok(())
    }

    fn keep_names(&mut self, changes: &[NameChange]) {
        for (folder, name, ino) in changes.iter().flat_map(|change| &change.entries) {
            if let Some(Content::Folder(folder)) =
                self.nodes.get_mut(folder).map(|node| &mut node.content)
            {
                set(&mut folder.synced, name, *ino);
            }
        }
    }

    /// The power goes: what was not synced is gone, but for what `bytes` and `names` let survive.
    pub(crate) fn cut(&mut self, bytes: Survives, names: Survives, random: &mut Random) {
        let mut pending = std::mem::take(&mut self.names);
        match names {
            Survives::Nothing => pending.clear(),
            Survives::Some => pending.truncate(random.up_to(pending.len())),
            Survives::Everything => {}
        }
        self.keep_names(&pending);
        let mut inos: Vec<Ino> = self.nodes.keys().copied().collect();
        inos.sort_unstable(); // The same seed gives the same cut.
        for ino in inos {
            match self.nodes.get_mut(&ino).map(|node| &mut node.content) {
                Some(Content::File(file)) => file.cut(bytes, random),
                Some(Content::Folder(folder)) => folder.now = folder.synced.clone(),
                None => {}
            }
        }
        self.drop_unreachable();
    }

    fn drop_unreachable(&mut self) {
        let mut reached = HashSet::from([ROOT]);
        let mut ahead = vec![ROOT];
        let mut used_bytes = 0;
        while let Some(ino) = ahead.pop() {
            for (name, child) in self.list(ino).unwrap_or_default() {
                if let Some(node) = self.nodes.get_mut(&child)
                    && reached.insert(child)
                {
                    (node.parent, node.name) = (ino, name);
                    ahead.push(child);
                }
            }
            used_bytes += in_pages(self.length(ino).ok().flatten().unwrap_or(0));
        }
        self.nodes.retain(|ino, _| reached.contains(ino));
        self.used_bytes = used_bytes;
    }
}

fn set(names: &mut BTreeMap<OsString, Ino>, name: &OsStr, ino: Option<Ino>) {
    match ino {
        Some(ino) => names.insert(name.into(), ino),
        None => names.remove(name),
    };
}

fn in_pages(length: usize) -> u64 {
    u64::try_from(length.div_ceil(PAGE_BYTES) * PAGE_BYTES).unwrap_or(u64::MAX)
}
