//! The disk as a mounted file system. No call is cached by the kernel: what a process does is seen here at once.

use crate::disk::{Disk, Ino};
use crate::machine::{Machine, Op};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;
use std::ffi::OsStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const NO_CACHE: Duration = Duration::ZERO;
const BLOCK_BYTES: u32 = 4096;

/// See the module.
#[derive(Debug)]
pub(crate) struct RigFs(pub(crate) Machine);

fn attributes(disk: &Disk, ino: Ino) -> Result<FileAttr, Errno> {
    let length = disk.length(ino)?;
    let size = u64::try_from(length.unwrap_or(0)).unwrap_or(u64::MAX);
    Ok(FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if length.is_some() {
            FileType::RegularFile
        } else {
            FileType::Directory
        },
        perm: 0o700,
        nlink: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    })
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl RigFs {
    fn make(&self, op: Op, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        self.0.change(
            op,
            |disk| disk.path(parent.0, Some(name)),
            |disk| {
                let ino = disk.create(parent.0, name, op == Op::Mkdir)?;
                attributes(disk, ino)
            },
        )
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, is_folder: bool, reply: ReplyEmpty) {
        let removed = self.0.change(
            Op::Remove,
            |disk| disk.path(parent.0, Some(name)),
            |disk| disk.remove(parent.0, name, is_folder),
        );
        answer(reply, removed);
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for RigFs {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.0.look().and_then(|state| {
            let ino = state.disk.lookup(parent.0, name)?;
            attributes(&state.disk, ino)
        });
        match found {
            Ok(found) => reply.entry(&NO_CACHE, &found, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self
            .0
            .look()
            .and_then(|state| attributes(&state.disk, ino.0))
        {
            Ok(found) => reply.attr(&NO_CACHE, &found),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let path = |disk: &Disk| disk.path(ino.0, None);
        let changed = match size {
            Some(size) => self
                .0
                .change(Op::Resize, path, |disk| disk.resize(ino.0, at(size))),
            None => Ok(()),
        };
        let changed = changed.and_then(|()| {
            let state = self.0.look()?;
            attributes(&state.disk, ino.0)
        });
        match changed {
            Ok(found) => reply.attr(&NO_CACHE, &found),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        match self.make(Op::Mkdir, parent, name) {
            Ok(made) => reply.entry(&NO_CACHE, &made, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(Op::Create, parent, name) {
            Ok(made) => {
                let flags = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&NO_CACHE, &made, Generation(0), FileHandle(0), flags);
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, false, reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, true, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let renamed = self.0.change(
            Op::Rename,
            |disk| disk.path(newparent.0, Some(newname)),
            |disk| disk.rename((parent.0, name), (newparent.0, newname)),
        );
        answer(reply, renamed);
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.0.look().and_then(|mut state| {
            let bytes = state.disk.read(ino.0, at(offset), at(size.into()))?;
            Ok(bytes.to_vec())
        });
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let flags = OFlags::from_bits_retain(u32::from_ne_bytes(flags.0.to_ne_bytes()));
        let is_synced = flags.intersects(OFlags::SYNC | OFlags::DSYNC);
        let written = self.0.change(
            Op::Write,
            |disk| disk.path(ino.0, None),
            |disk| {
                disk.write(ino.0, at(offset), data)?;
                if is_synced {
                    disk.sync(ino.0)?;
                }
                Ok(())
            },
        );
        match written {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok(); // A close syncs nothing.
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let Some(reply) = self.0.hold_sync(ino.0, reply) else {
            return;
        };
        let synced = self.0.change(
            Op::Sync,
            |disk| disk.path(ino.0, None),
            |disk| disk.sync(ino.0),
        );
        answer(reply, synced);
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let synced = self.0.change(
            Op::SyncFolder,
            |disk| disk.path(ino.0, None),
            |disk| disk.sync_folder(ino.0),
        );
        answer(reply, synced);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.0.look().and_then(|state| {
            let names = state.disk.list(ino.0)?;
            let kind = |ino| match state.disk.length(ino) {
                Ok(Some(_)) => FileType::RegularFile,
                _ => FileType::Directory,
            };
            let rows = names.into_iter().map(|(name, ino)| (name, ino, kind(ino)));
            Ok(rows.collect::<Vec<_>>())
        });
        match listed {
            Ok(rows) => {
                for ((name, ino, kind), next) in rows.into_iter().zip(1..).skip(at(offset)) {
                    if reply.add(INodeNo(ino), next, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.0.look() {
            Ok(state) => {
                let (capacity, free) = state.disk.space();
                let block = u64::from(BLOCK_BYTES);
                let (all, free) = (capacity / block, free / block);
                reply.statfs(
                    all,
                    free,
                    free,
                    1 << 20,
                    1 << 20,
                    BLOCK_BYTES,
                    255,
                    BLOCK_BYTES,
                );
            }
            Err(error) => reply.error(error),
        }
    }
}
