//! A store's files, put aside for as long as sled may harm them.
//!
//! sled answers damage by cutting or zeroing what it cannot read, also where our pages are whole. So a store that was
//! closed in order is copied before its open, too: an open that fails puts the files back as they were, and who looks
//! for what can be saved finds everything.

use super::record::sync_folder;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Puts the files back when it is dropped, unless it was told that all went well. What it keeps is not synced (the open
/// takes a moment, and the disk shall have nothing of it), so one that a crash leaves behind is of no use.
#[derive(Debug)]
pub(super) struct Guard {
    folder: PathBuf,
    /// `None` when there is nothing to put back.
    copy: Option<PathBuf>,
}

impl Guard {
    /// Copies the files of the store in `folder`, if there is one. Without room for that it goes on unguarded.
    pub(super) fn of(folder: &Path) -> Self {
        let copy = folder.with_extension("before-open");
        let copied = if folder.exists() {
            copy_files(folder, &copy, Lasting::Unsynced).map(|()| true)
        } else {
            Ok(false)
        };
        let is_kept = copied.unwrap_or_else(|error| {
            tracing::warn!(%error, folder = %folder.display(), "a store is opened without a copy");
            let _half = fs::remove_dir_all(&copy);
            false
        });
        Self {
            folder: folder.into(),
            copy: is_kept.then_some(copy),
        }
    }

    /// The open went well: the copy goes.
    pub(super) fn disarm(mut self) {
        if let Some(copy) = self.copy.take()
            && let Err(error) = fs::remove_dir_all(&copy)
        {
            tracing::warn!(%error, copy = %copy.display(), "a copy that is not needed stays");
        }
    }

    fn put_back(&self, copy: &Path) -> io::Result<()> {
        for entry in fs::read_dir(copy)? {
            File::open(entry?.path())?.sync_all()?;
        }
        File::open(copy)?.sync_all()?;
        let harmed = self.folder.with_extension("harmed");
        let _none = fs::remove_dir_all(&harmed);
        fs::rename(&self.folder, &harmed)?;
        fs::rename(copy, &self.folder)?;
        if let Some(parent) = self.folder.parent() {
            sync_folder(parent).map_err(io::Error::other)?;
        }
        fs::remove_dir_all(&harmed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(copy) = self.copy.take()
            && let Err(error) = self.put_back(&copy)
        {
            tracing::error!(%error, copy = %copy.display(), "the store's files were not put back; they are here");
        }
    }
}

/// How long a copy must last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lasting {
    /// It is there after a power cut.
    Synced,
    /// No longer than this process: the disk need not have it.
    Unsynced,
}

/// Copies the files in the folder `from` into the folder `to`, which is made anew.
pub(super) fn copy_files(from: &Path, to: &Path, lasting: Lasting) -> io::Result<()> {
    remove_folder(to)?;
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let copied = to.join(entry.file_name());
            fs::copy(entry.path(), &copied)?;
            if lasting == Lasting::Synced {
                File::open(copied)?.sync_all()?;
            }
        }
    }
    if lasting == Lasting::Synced {
        File::open(to)?.sync_all()?;
    }
    Ok(())
}

/// Removes `folder` with all that is in it, if it is there.
pub(super) fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
