//! `kill -9` at random moments, under load and in between, with clients, subscribers and a broker looking on: what was
//! said stays said, and the books stay exact.
//!
//! SIGKILL shows what the process owes; it cannot show a missing fsync, since the page cache survives it.
//!
//! `ECHOPAY_CRASH_KILLS` says how many kills (default 25), `ECHOPAY_CRASH_SEED` repeats what is asked and when it is
//! meant to be killed; the moment itself is the machine's. `scripts/soak-crash` runs many.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod books;
mod load;
mod plan;
mod signs;
mod stream;
mod world;

use crate::support::kafka::Broker;
use echopay::clock::{Clock, SystemClock};
use plan::{Phase, Rng};
use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use stream::Repeats;
use tokio::task::block_in_place;
use world::World;

/// Kills without `ECHOPAY_CRASH_KILLS`.
const KILLS_DEFAULT: usize = 25;
/// After so many kills everything is looked at again, and the next one meets an empty folder.
const KILLS_A_WORLD: usize = 40;
/// Between two lines of progress.
const KILLS_A_LINE: usize = 20;
/// Once there are so many kills, each phase must be hit by some.
const KILLS_OF_A_SOAK: usize = 200;

/// What happened so far. Told when it goes, also by a violation.
#[derive(Debug)]
struct Tally {
    seed: u64,
    clock: SystemClock,
    hits: HashMap<Phase, usize>,
    /// Tries that came too late to hit what they were meant for.
    missed: usize,
    acknowledged: u64,
    updates: u64,
    events: u64,
    repeats: Repeats,
}

impl Tally {
    fn kills(&self) -> usize {
        self.hits.values().sum()
    }

    fn hit(&mut self, phase: Phase) {
        *self.hits.entry(phase).or_default() += 1;
        if self.kills().is_multiple_of(KILLS_A_LINE) {
            say(self);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.clock.monotonic().as_secs();
        write!(f, "seed {}, {seconds} s: kills {}", self.seed, self.kills())?;
        for phase in Phase::ALL {
            let hits = self.hits.get(&phase).copied().unwrap_or_default();
            write!(f, ", {phase:?} {hits}")?;
        }
        write!(
            f,
            "; missed {}; acknowledged {}, updates {}, events {}; repeats {} (broker away: {})",
            self.missed,
            self.acknowledged,
            self.updates,
            self.events,
            self.repeats.reachable,
            self.repeats.away
        )
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let violations = u8::from(std::thread::panicking());
        say(&format_args!("end: {self}; violations {violations}"));
    }
}

/// Past the capture of the test harness: a seed that nobody sees helps nobody.
fn say(line: &dyn fmt::Display) {
    let _closed = writeln!(std::io::stderr(), "crash: {line}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "how tests are told how long to run"
)]
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable)
        .ok()
        .filter(|text| !text.is_empty())?;
    Some(text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_takes_back_what_was_said() {
    let clock = SystemClock::new();
    let mut random = [0; 4];
    clock.fill_random(&mut random);
    let seed =
        number("ECHOPAY_CRASH_SEED").unwrap_or_else(|| u64::from(u32::from_le_bytes(random)));
    let kills = number("ECHOPAY_CRASH_KILLS").map_or(KILLS_DEFAULT, |n| n.try_into().unwrap());
    let mut tally = Tally {
        seed,
        clock,
        hits: HashMap::new(),
        missed: 0,
        acknowledged: 0,
        updates: 0,
        events: 0,
        repeats: Repeats::default(),
    };
    say(&format_args!("{kills} kills, ECHOPAY_CRASH_SEED={seed}"));
    let mut broker = block_in_place(Broker::own);
    let mut rng = Rng::new(seed, 0);
    let mut deck = Phase::deck(kills, broker.is_some(), &mut rng);
    let misses_max = 20 + kills;
    while tally.kills() < kills {
        let mut world = World::open(seed, broker.as_mut(), &mut rng, &mut tally).await;
        let enough = kills.min(tally.kills() + KILLS_A_WORLD);
        while tally.kills() < enough {
            let phase = deck.pop().unwrap_or(Phase::Load);
            let hit = world.kill_in(phase, &mut rng, &mut tally).await;
            if !hit {
                tally.missed += 1;
                assert!(tally.missed < misses_max, "the phases are not hit");
                let again = if tally.hits.contains_key(&phase) {
                    0
                } else {
                    deck.len()
                };
                deck.insert(again, phase);
            }
        }
        world.close(&mut tally).await;
    }
    let least = if kills >= KILLS_OF_A_SOAK { 5 } else { 1 };
    for phase in Phase::ALL {
        let is_possible = phase != Phase::KafkaAway || broker.is_some();
        let hits = tally.hits.get(&phase).copied().unwrap_or_default();
        assert!(
            hits >= least || !is_possible || kills < KILLS_DEFAULT,
            "{phase:?} was hit {hits} times"
        );
    }
}
