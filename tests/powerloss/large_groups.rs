//! Power cuts within groups of some hundred pages: what is on the disk of them is any part, and what was acknowledged
//! before is there all the same.
//!
//! `ECHOPAY_POWERLOSS_GROUP_CUTS` cuts (6) with `ECHOPAY_POWERLOSS_SEED`; with `ECHOPAY_POWERLOSS_GO_ON=1` violations are
//! counted, for builds that are broken on purpose.

use crate::disk::Survives;
use crate::load::Load;
use crate::machine::Cut;
use crate::process::{Process, Started};
use crate::random::Random;
use crate::rig::{Rig, environment};
use crate::step::{Phase, Step};
use crate::support::server::{DEADLINE, wait_until};
use std::io::Write;
use std::sync::Arc;

const CUTS_DEFAULT: u64 = 6;
/// Of 0.9 KiB of metadata each: 500 pages, 8 MiB of the store's log.
const ITEMS: usize = 2_000;
/// So many writes and syncs of the data file a group takes, at least.
const STEPS: u64 = 16;

fn number(name: &str) -> Option<u64> {
    environment(name)?.parse().ok()
}

/// Cuts the power in the middle of a group; what is wrong on what is left, if anything.
async fn cut_within_a_group(rig: &mut Rig, random: &mut Random) -> Option<String> {
    let data_dir = rig.path().join("data");
    let mut process = Process::start(Some(&rig.machine), &data_dir, &[]);
    let client = process.expect_ready().await;
    rig.machine.set_phase(Phase::Running);
    let load = Arc::new(Load::of_large_batches(ITEMS));
    let clients = load.start(&client, 1, random);
    let enough = ITEMS * (1 + random.up_to(2));
    wait_until(DEADLINE, "batches are acknowledged", async || {
        load.acknowledged() >= enough
    })
    .await;
    rig.machine.arm(Cut {
        step: Some(if random.coin() {
            Step::Write
        } else {
            Step::Drain
        }),
        nth: random.below(STEPS) + 2,
        is_done: true,
    });
    let machine = rig.machine.clone();
    let struck = tokio::task::spawn_blocking(move || machine.wait_for_cut(DEADLINE)).await;
    assert!(struck.unwrap(), "no group is written: {}", process.log());
    process.kill();
    drop(process);
    for client in clients {
        client.await.expect("a client saw nothing wrong");
    }
    rig.cut(Survives::Some, Survives::Everything, random);

    rig.machine.set_phase(Phase::Recovery);
    let mut process = Process::start(Some(&rig.machine), &data_dir, &[]);
    let client = match process.ready().await {
        Started::Ready(client) => client,
        Started::Cut => unreachable!("nothing is armed"),
        Started::Ended(status, log) => {
            return Some(format!("it does not start ({status}):\n{log}"));
        }
    };
    let found = load.compare(&client).await;
    process.kill();
    found.wrong.into_iter().next()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_within_a_large_group_takes_nothing_from_the_groups_before() {
    let cuts = number("ECHOPAY_POWERLOSS_GROUP_CUTS").unwrap_or(CUTS_DEFAULT);
    let seed = number("ECHOPAY_POWERLOSS_SEED").unwrap_or_else(|| getrandom::u64().unwrap() >> 1);
    let goes_on = environment("ECHOPAY_POWERLOSS_GO_ON").is_some_and(|value| value == "1");
    // Past the capture of the test harness: a seed is of use only when it is seen.
    let say = |line: &str| {
        let _closed = writeln!(std::io::stderr(), "large groups: {line}");
    };
    say(&format!("ECHOPAY_POWERLOSS_SEED={seed}, {cuts} cuts"));
    let mut random = Random::new(seed);
    let mut violations = 0;
    for cut in 1..=cuts {
        let Some(mut rig) = Rig::mount() else { return };
        if let Some(wrong) = cut_within_a_group(&mut rig, &mut random).await {
            violations += 1;
            assert!(goes_on, "seed {seed}, cut {cut}: {wrong}");
            let last = wrong.lines().last().unwrap_or_default();
            say(&format!("cut {cut}: {last}"));
        }
    }
    say(&format!("{violations} of {cuts} cuts took something"));
    assert_eq!(violations, 0, "seed {seed}");
}
