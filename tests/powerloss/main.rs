//! Power cuts and failing disks, under the real binary.
//!
//! `kill -9` cannot show a missing fsync, since the page cache survives it. Here the data folder lies on a file system of
//! our own, which forgets on command what was not synced. It needs `/dev/fuse` and the right to mount; without them the
//! tests say SKIPPED, and with `ECHOPAY_REQUIRE_FUSE=1` they fail.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod cuts;
mod disk;
mod faults;
mod filesystem;
mod full_disk;
mod large_groups;
mod load;
mod machine;
mod process;
mod random;
mod rig;
mod selfcheck;
mod step;
mod support;
