//! [`Rig`]: a mounted machine whose power can be cut.

use crate::disk::Survives;
use crate::filesystem::RigFs;
use crate::machine::Machine;
use crate::random::Random;
use fuser::{BackgroundSession, Config, MountOption};
use rustix::mount::{UnmountFlags, unmount};
use std::io::Write;
use std::path::PathBuf;
use tempfile::TempDir;

/// A machine, and the file system of its disk mounted in a folder of its own. Whoever uses it must be gone before it is
/// dropped or cut.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) machine: Machine,
    session: Option<BackgroundSession>,
    mountpoint: TempDir,
}

impl Rig {
    /// An empty disk. `None`, said aloud, where FUSE cannot be used; with `ECHOPAY_REQUIRE_FUSE=1` that is a failure.
    pub(crate) fn mount() -> Option<Self> {
        let mut rig = Self {
            machine: Machine::new(),
            session: None,
            mountpoint: TempDir::new().unwrap(),
        };
        match rig.try_mount() {
            Ok(()) => Some(rig),
            Err(error) => skip(&format!(
                "no file system of our own can be mounted: {error}"
            )),
        }
    }

    fn try_mount(&mut self) -> std::io::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("powerloss".into())];
        let fs = RigFs(self.machine.clone());
        self.session = Some(fuser::spawn_mount(fs, self.mountpoint.path(), &config)?);
        Ok(())
    }

    /// The top of the disk.
    pub(crate) fn path(&self) -> PathBuf {
        self.mountpoint.path().into()
    }

    /// Forgets what was not synced, but for what survives, and mounts what is left. Nobody may use the mount.
    pub(crate) fn cut(&mut self, bytes: Survives, names: Survives, random: &mut Random) {
        self.unmount();
        self.machine.state().disk.cut(bytes, names, random);
        self.machine.power_on();
        self.try_mount().expect("it could be mounted before");
    }

    /// A clean remount: everything is kept, the kernel's caches go.
    pub(crate) fn remount(&mut self) {
        self.unmount();
        self.machine.power_on();
        self.try_mount().expect("it could be mounted before");
    }

    fn unmount(&mut self) {
        if let Some(session) = self.session.take() {
            session.umount_and_join().expect("nobody uses the mount");
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.machine.power_off();
        // Lazily: a test that failed may still hold a file open.
        let _not_mounted = unmount(self.mountpoint.path(), UnmountFlags::DETACH);
    }
}

/// Says that a test was not run; fails it where that was forbidden.
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    let required = environment("ECHOPAY_REQUIRE_FUSE").is_some_and(|value| value == "1");
    assert!(!required, "the rig is required: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Past the capture of the test harness: a skipped test must not look like one that passed.
    let _closed = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
    None
}

/// A variable of whoever runs the tests.
#[expect(clippy::disallowed_methods, reason = "a test's own switches")]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
