//! Power cuts at random moments and at each kind of step: what was acknowledged is there, what is there adds up.
//!
//! `ECHOPAY_POWERLOSS_CUTS` cuts (25) with `ECHOPAY_POWERLOSS_SEED`, which is printed. `ECHOPAY_POWERLOSS_GO_ON=1` counts
//! violations instead of ending at the first, for builds that are broken on purpose. `scripts/soak-powerloss` sets them.

use crate::disk::{Disk, Survives};
use crate::load::{Found, Load};
use crate::machine::{Cut, Op, Struck};
use crate::process::{Process, Started};
use crate::random::Random;
use crate::rig::{Rig, environment};
use crate::step::{Phase, Step};
use crate::support::server::{Client, DEADLINE};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

const CUTS_DEFAULT: u32 = 25;
/// Cuts on top, should a step not have been hit by then.
const MORE_CUTS_MAX: u32 = 15;
const CLIENTS: usize = 6;
const FLAGS: [&str; 4] = ["--volume-bytes-max", "1048576", "--log-level", "info"];
/// What the rounds aim at, in turn; `None`: any call. A new store now and then keeps the comparisons short.
const PLAN: [Option<Step>; 14] = [
    Some(Step::StoreCreation),
    None,
    Some(Step::Sync),
    Some(Step::Recovery),
    Some(Step::Rotation),
    Some(Step::Checkpoint),
    Some(Step::StoreCreation),
    Some(Step::FolderCreation),
    Some(Step::Recovery),
    Some(Step::Write),
    Some(Step::Stop),
    Some(Step::Drain),
    Some(Step::Rotation),
    Some(Step::Recovery),
];

/// What all rounds have shown.
#[derive(Debug, Default)]
struct Tally {
    cuts: u32,
    rounds: u32,
    hits: BTreeMap<Step, u32>,
    acknowledged: usize,
    rounds_with_loss: u32,
    lost: usize,
    not_opened: u32,
}

impl Tally {
    fn has_hit_all(&self) -> bool {
        Step::ALL.iter().all(|step| self.hits.contains_key(step))
    }
}

struct Story {
    rig: Rig,
    random: Random,
    load: Arc<Load>,
    running: Option<(Process, Client)>,
    tally: Tally,
    /// What happened in this round, for whoever has to find out why it failed.
    events: Vec<String>,
}

impl Story {
    fn data_dir(&self) -> PathBuf {
        // Two folders that the first start has to make.
        self.rig.path().join("var/echopay")
    }

    fn start(&self, phase: Phase) -> Process {
        self.rig.machine.set_phase(phase);
        Process::start(Some(&self.rig.machine), &self.data_dir(), &FLAGS)
    }

    fn arm(&mut self, step: Option<Step>) {
        let most = match step {
            None => 600,
            Some(Step::StoreCreation | Step::Recovery) => 50,
            Some(Step::FolderCreation) => 1,
            Some(Step::Write | Step::Sync) => 80,
            Some(Step::Rotation | Step::Drain) => 24,
            Some(Step::Checkpoint | Step::Stop) => 110,
        };
        let cut = Cut {
            step,
            nth: self.random.below(most) + 1,
            is_done: self.random.coin(),
        };
        self.events.push(format!("aims at {cut:?}"));
        self.rig.machine.arm(cut);
    }

    /// The power fails at the step, or later when the step is over before it does.
    async fn cut_at(&mut self, step: Option<Step>) {
        let (mut process, client) = match self.running.take() {
            Some((process, client)) if !starts_anew(step) => {
                self.rig.machine.set_phase(Phase::Running);
                (process, Some(client))
            }
            _ => {
                self.arm(step);
                let is_new = step == Some(Step::StoreCreation);
                let phase = if is_new {
                    Phase::FirstStart
                } else {
                    Phase::Recovery
                };
                let mut process = self.start(phase);
                match process.ready().await {
                    Started::Ready(client) => {
                        self.rig.machine.set_phase(Phase::Running);
                        (process, Some(client))
                    }
                    Started::Cut => (process, None),
                    Started::Ended(status, log) => panic!("{}", self.not_started(status, &log)),
                }
            }
        };
        let Some(client) = client else {
            return self.power_fails(process, Vec::new()).await;
        };
        let clients = self.load.start(&client, CLIENTS, &mut self.random);
        if step == Some(Step::Stop) {
            let enough = self.load.acknowledged() + 100;
            let load = Arc::clone(&self.load);
            wait(|| load.acknowledged() >= enough).await;
            self.rig.machine.set_phase(Phase::Stopping);
            self.arm(step);
            process.terminate();
            let machine = self.rig.machine.clone();
            wait(|| machine.struck().is_some() || process.ended().is_some()).await;
            self.load.stop();
        } else {
            self.arm(step.filter(|_| !starts_anew(step)));
            let machine = self.rig.machine.clone();
            let struck = tokio::task::spawn_blocking(move || machine.wait_for_cut(DEADLINE)).await;
            assert!(
                struck.unwrap(),
                "{step:?} does not come; log:\n{}",
                process.log()
            );
        }
        self.power_fails(process, clients).await;
    }

    async fn power_fails(
        &mut self,
        mut process: Process,
        clients: Vec<tokio::task::JoinHandle<()>>,
    ) {
        let struck = self.rig.machine.struck();
        process.kill();
        drop(process);
        for client in clients {
            client.await.expect("a client saw nothing wrong");
        }
        let (bytes, names) = (
            Survives::random(&mut self.random),
            Survives::random(&mut self.random),
        );
        self.events.push(format!(
            "cut at {struck:?}; survives of bytes {bytes:?}, of names {names:?}"
        ));
        self.rig.cut(bytes, names, &mut self.random);
        self.tally.cuts += 1;
        let steps = match struck {
            Some(Struck { steps, .. }) => steps,
            None => vec![Step::Stop], // It had ended in order before.
        };
        for step in steps {
            *self.tally.hits.entry(step).or_default() += 1;
        }
    }

    /// Starts on what is left, and compares.
    async fn check(&mut self) -> Result<Found, String> {
        let mut process = self.start(Phase::Recovery);
        match process.ready().await {
            Started::Ready(client) => {
                let found = self.load.compare(&client).await;
                self.running = Some((process, client));
                Ok(found)
            }
            Started::Cut => unreachable!("nothing is armed"),
            Started::Ended(status, log) => Err(self.not_started(status, &log)),
        }
    }

    fn not_started(&self, status: std::process::ExitStatus, log: &str) -> String {
        format!(
            "it does not start ({status}) after\n{}\nlog:\n{log}",
            self.events.join("\n")
        )
    }

    /// Another disk.
    fn begin_anew(&mut self) {
        if let Some((mut process, _)) = self.running.take() {
            process.kill();
        }
        self.rig.machine.power_off();
        self.rig.machine.state().disk = Disk::new();
        self.rig.remount();
        self.load = Arc::new(Load::default());
    }

    async fn round(&mut self, step: Option<Step>) -> Result<Found, String> {
        self.events.clear();
        if step == Some(Step::StoreCreation) {
            self.begin_anew();
        }
        if step == Some(Step::Recovery) && self.running.is_some() {
            self.cut_at(None).await;
        }
        self.cut_at(step).await;
        if starts_anew(step) && self.random.coin() {
            self.cut_at(Some(Step::Recovery)).await;
        }
        self.check().await
    }
}

/// Whether the step is part of a start.
fn starts_anew(step: Option<Step>) -> bool {
    matches!(step, Some(Step::StoreCreation | Step::Recovery))
}

async fn wait(mut condition: impl FnMut() -> bool) {
    crate::support::server::wait_until(DEADLINE, "the load has come so far", async || condition())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_in_power_cuts_at_any_step() {
    let Some(rig) = Rig::mount() else { return };
    let cuts =
        number("ECHOPAY_POWERLOSS_CUTS").map_or(CUTS_DEFAULT, |cuts| u32::try_from(cuts).unwrap());
    let seed = number("ECHOPAY_POWERLOSS_SEED").unwrap_or_else(|| getrandom::u64().unwrap() >> 1);
    let goes_on = environment("ECHOPAY_POWERLOSS_GO_ON").is_some_and(|value| value == "1");
    say(&format!("ECHOPAY_POWERLOSS_SEED={seed}, {cuts} cuts"));
    let mut story = Story {
        rig,
        random: Random::new(seed),
        load: Arc::new(Load::default()),
        running: None,
        tally: Tally::default(),
        events: Vec::new(),
    };
    for step in PLAN.into_iter().cycle() {
        let is_complete = cuts < CUTS_DEFAULT || story.tally.has_hit_all();
        let goes_on_for_steps = !is_complete && story.tally.cuts < cuts + MORE_CUTS_MAX;
        if story.tally.cuts >= cuts && !goes_on_for_steps {
            break;
        }
        let outcome = story.round(step).await;
        story.tally.rounds += 1;
        let wrong = match outcome {
            Ok(found) => {
                story.tally.acknowledged += found.acknowledged;
                story.tally.lost += found.lost;
                story.tally.rounds_with_loss += u32::from(found.lost > 0);
                found.wrong
            }
            Err(reason) => {
                story.tally.not_opened += 1;
                vec![reason]
            }
        };
        if !wrong.is_empty() {
            let story_so_far = story.events.join("\n");
            let cut = story.tally.cuts;
            assert!(
                goes_on,
                "seed {seed}, cut {cut}:\n{story_so_far}\n{}",
                wrong.join("\n")
            );
            say(&format!(
                "cut {cut}: {}",
                wrong[0].lines().next().unwrap_or_default()
            ));
            story.begin_anew();
        }
        if story.tally.rounds.is_multiple_of(10) {
            say(&format!("{:?}", story.tally));
        }
    }
    let tally = &story.tally;
    say(&format!("{tally:?}"));
    assert_eq!((tally.lost, tally.not_opened), (0, 0), "seed {seed}");
    assert!(
        cuts < CUTS_DEFAULT || tally.has_hit_all(),
        "not each step was hit: {tally:?}"
    );
}

/// A call of a first start behind which a kill comes, before the names around it were synced.
#[derive(Clone, Copy, Debug)]
enum Killed {
    /// In the middle of making the data folder.
    AtCall(u64),
    /// Behind this one.
    Behind(Op, &'static str),
}

impl Killed {
    /// Kills first starts, each on a new disk, until one was killed there.
    async fn strike(self) -> Option<Rig> {
        let calls = match self {
            Self::AtCall(nth) => nth..=nth,
            Self::Behind(..) => 8..=200,
        };
        for nth in calls {
            let mut rig = Rig::mount()?;
            rig.machine.set_phase(Phase::FirstStart);
            rig.machine.arm(Cut {
                step: Some(Step::StoreCreation),
                nth,
                is_done: true,
            });
            let mut process = Process::start(Some(&rig.machine), &data_dir(&rig), &FLAGS);
            if matches!(process.ready().await, Started::Ready(_)) {
                // The volume ahead is made beside the start.
                let machine = rig.machine.clone();
                let struck = tokio::task::spawn_blocking(move || machine.wait_for_cut(DEADLINE));
                assert!(struck.await.unwrap(), "{self:?} does not come");
            }
            drop(process);
            let struck = rig.machine.struck();
            let is_there = match self {
                Self::AtCall(_) => true,
                Self::Behind(op, path) => {
                    struck.is_some_and(|struck| struck.op == op && struck.path.ends_with(path))
                }
            };
            if is_there {
                rig.remount(); // A kill, not a power cut: all names are there.
                return Some(rig);
            }
        }
        panic!("{self:?} is no call of a first start");
    }
}

fn data_dir(rig: &Rig) -> PathBuf {
    rig.path().join("var/lib/echopay")
}

/// Names were made by a start that was killed, and no later start saw to them.
async fn names_are_durable_before_anything_is_acknowledged(killed: Killed) {
    let Some(mut rig) = killed.strike().await else {
        return;
    };
    let data_dir = data_dir(&rig);
    let mut process = Process::start(Some(&rig.machine), &data_dir, &FLAGS);
    let client = process.expect_ready().await;
    let load = Arc::new(Load::default());
    let clients = load.start(&client, CLIENTS, &mut Random::new(1));
    // Enough for a hand-over to the volume ahead.
    wait(|| load.acknowledged() > 1_500).await;
    assert!(data_dir.join("volumes/0000000002/base").exists());
    drop(process);
    for client in clients {
        client.await.expect("a client saw nothing wrong");
    }
    rig.cut(Survives::Nothing, Survives::Nothing, &mut Random::new(1));
    let mut process = Process::start(Some(&rig.machine), &data_dir, &FLAGS);
    let client = process.expect_ready().await;
    let found = load.compare(&client).await;
    assert_eq!((found.lost, found.wrong), (0, Vec::new()), "{killed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_a_killed_first_start_has_made_are_durable_before_anything_is_acknowledged() {
    names_are_durable_before_anything_is_acknowledged(Killed::AtCall(8)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_of_the_settings_is_durable_before_anything_is_acknowledged() {
    let renamed = Killed::Behind(Op::Rename, "/settings");
    names_are_durable_before_anything_is_acknowledged(renamed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_a_volume_that_a_killed_process_has_made_are_durable_before_it_is_used() {
    let made = Killed::Behind(Op::Sync, "/0000000002/sled/conf");
    names_are_durable_before_anything_is_acknowledged(made).await;
}

/// A checkpoint that a cut takes away is no witness of the journal's tail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_checkpoint_is_there_after_a_cut() {
    let Some(mut rig) = Rig::mount() else { return };
    let data_dir = rig.path().join("data");
    let mut process = Process::start(Some(&rig.machine), &data_dir, &FLAGS);
    let client = process.expect_ready().await;
    let load = Arc::new(Load::default());
    let clients = load.start(&client, 1, &mut Random::new(1));
    wait(|| load.acknowledged() > 10).await;
    load.stop();
    for client in clients {
        client.await.expect("a client saw nothing wrong");
    }
    crate::support::server::wait_until(DEADLINE, "a round is finished", async || {
        let metrics = client.get("/metrics").await.body;
        !metrics.contains("echopay_checkpoint_rounds_total 0")
    })
    .await;
    process.kill();
    rig.cut(Survives::Nothing, Survives::Nothing, &mut Random::new(1));
    assert!(data_dir.join("checkpoint/round").exists());
    let mut process = Process::start(Some(&rig.machine), &data_dir, &FLAGS);
    let client = process.expect_ready().await;
    let found = load.compare(&client).await;
    assert_eq!((found.lost, found.wrong), (0, Vec::new()));
}

fn number(name: &str) -> Option<u64> {
    let text = environment(name)?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}: {text:?} is no number")),
    )
}

/// Past the capture of the test harness: a seed is of use only when it is seen.
fn say(line: &str) {
    let _closed = writeln!(std::io::stderr(), "power cuts: {line}");
}
