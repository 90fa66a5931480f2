//! `kill -9` at random moments, of a process that commits and rotates: what it acknowledged must be there.
//!
//! The test starts its own binary again with [`the_process_that_is_killed`] alone. A kill keeps the page cache, so this
//! tests order and framing, not syncs: those need a file system that forgets.

use super::memory::Random;
use super::testing::{assert_holds, open, options, small, transfers, try_open};
use super::{Config, Journal, OpenOptions, Witness};
use crate::clock::{Clock, SystemClock};
use crate::ids::IdCipher;
use crate::types::Sequence;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const FOLDER_VARIABLE: &str = "ECHOPAY_TEST_CRASH_FOLDER";
const SEED_VARIABLE: &str = "ECHOPAY_TEST_CRASH_SEED";
const ROUNDS: u64 = 12;

#[expect(
    clippy::disallowed_methods,
    reason = "how a test tells its child what to do"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn config(folder: &Path) -> Config {
    Config {
        volume_pages_max: 200,
        ..small(folder)
    }
}

#[test]
#[ignore = "run by the test below, as a process of its own"]
fn the_process_that_is_killed() {
    let Some(folder) = variable(FOLDER_VARIABLE) else {
        return;
    };
    let mut random = Random(variable(SEED_VARIABLE).unwrap().parse().unwrap());
    let mut journal = open(&config(&PathBuf::from(folder)));
    let cipher = IdCipher::new(&journal.settings().id_key);
    let mut stdout = std::io::stdout().lock();
    loop {
        let most = [1, 8, 64, 1_000][usize::try_from(random.below(4)).unwrap()];
        let count = usize::try_from(1 + random.below(most)).unwrap();
        let group = journal
            .commit(transfers(&cipher, journal.durable(), count))
            .unwrap();
        let witness = journal.reader().witness();
        assert_eq!(witness.durable, group.last());
        let hex = witness
            .to_bytes()
            .iter()
            .fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            });
        if writeln!(stdout, "durable {hex}.").is_err() {
            return;
        }
    }
}

/// Kills the child when it goes out of scope, also when the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(folder: &Path, seed: u64) -> Killed {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "journal::crash_tests::the_process_that_is_killed",
        ])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env(FOLDER_VARIABLE, folder)
        .env(SEED_VARIABLE, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Killed(child)
}

/// The witness that a line of the child tells. The test harness writes to the same pipe, perhaps on the same line.
fn witness_in(line: &str, scratch: &Path) -> Option<Witness> {
    let hex = line.split_once("durable ")?.1.strip_suffix('.')?;
    let bytes: Option<Vec<u8>> = (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok())
        .collect();
    fs::write(scratch, bytes?).unwrap();
    Witness::read(scratch).unwrap()
}

/// Runs a child until `acknowledgements` came (none: for a while), kills it, and gives the last witness that it told.
fn run_and_kill(
    folder: &Path,
    seed: u64,
    acknowledgements: u64,
    pause: Duration,
) -> Option<Witness> {
    let scratch = folder.with_extension("witness");
    let mut child = spawn(folder, seed);
    let mut told = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut last = None;
    let mut heard = 0;
    while heard < acknowledgements {
        let line = told
            .next()
            .expect("the child commits until it is killed")
            .unwrap();
        if line.contains("durable ") {
            last = Some(line);
            heard += 1;
        }
    }
    std::thread::sleep(pause);
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    // What it still told before its end counts too; a line that was cut does not.
    let rest = told
        .map_while(Result::ok)
        .filter(|line| line.contains("durable ") && line.ends_with('.'));
    let witness = rest
        .last()
        .or(last)
        .map(|line| witness_in(&line, &scratch).unwrap());
    let _ = fs::remove_file(scratch);
    witness
}

#[track_caller]
fn assert_no_blobs(folder: &Path) {
    for volume in fs::read_dir(folder.join("volumes")).unwrap() {
        let blobs = volume.unwrap().path().join("sled").join("blobs");
        assert_eq!(
            fs::read_dir(&blobs).map_or(0, Iterator::count),
            0,
            "{}",
            blobs.display()
        );
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    let mut bytes = [0; 8];
    SystemClock::new().fill_random(&mut bytes);
    let seed =
        variable(SEED_VARIABLE).map_or(u64::from_le_bytes(bytes), |seed| seed.parse().unwrap());
    eprintln!("{SEED_VARIABLE}={seed}");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut durable = Sequence::ORIGIN;
    let mut volume = 0;
    let mut witnesses = Vec::new();
    for round in 0..ROUNDS {
        // Every third child is killed while it recovers or begins.
        let acknowledgements = if round % 3 == 2 {
            0
        } else {
            1 + random.below(300)
        };
        let pause = Duration::from_micros(random.below(20_000));
        if let Some(told) = run_and_kill(folder.path(), seed ^ round, acknowledgements, pause) {
            durable = durable.max(told.durable);
            volume = volume.max(told.volume);
            witnesses = vec![told];
        }
        let options = OpenOptions {
            witnesses: witnesses.clone(),
            ..options()
        };
        let journal: Journal = try_open(&config(folder.path()), &options).unwrap();
        assert!(
            journal.durable() >= durable,
            "round {round}: {durable} was acknowledged"
        );
        assert_holds(&journal, journal.durable());
        assert_eq!(journal.reader().verify().unwrap().newest, journal.durable());
        durable = journal.durable();
        witnesses.extend(Some(journal.reader().witness()).filter(|_| !durable.is_origin()));
        assert_no_blobs(folder.path());
        // Some starts find a clean stop, most a kill.
        if round % 4 == 3 {
            journal.close().unwrap();
        }
    }
    assert!(volume > 1, "no rotation in {ROUNDS} rounds");
}
