//! Whatever fails, and whenever: nothing acknowledged is lost or changed, nothing half-done is there, and nobody was
//! told of what is not durable.
//!
//! A scripted workload meets each kind of fault at each call of its stores; random ones meet them anywhere.

use super::command::Change;
use super::fault_world::{End, Flow, Live, Meets, Step, World, copy_folder, names};
use super::naive::{HOLD_MS, Op, op};
use crate::journal::faulty::{Fault, Lane, Plan};
use crate::journal::memory::Crash;
use crate::types::FraudScore;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::sync::Arc;

/// One run of the process: from a start to a stop or a crash.
struct Act {
    steps: Vec<Step>,
    end: End,
}

fn open(wallet: u8, overdraft: i64) -> Step {
    Step::Do(Op::Open { wallet, overdraft })
}

fn issue(to: u8, amount: i64) -> Step {
    Step::Do(Op::Issue { to, amount })
}

fn transfer(from: u8, to: u8, amount: i64) -> Op {
    Op::Transfer {
        from,
        to,
        amount,
        hold: false,
    }
}

fn hold(from: u8, to: u8, amount: i64) -> Op {
    Op::Transfer {
        from,
        to,
        amount,
        hold: true,
    }
}

/// A change of the transaction that was made as number `which`.
fn amend(which: usize, change: Change) -> Op {
    Op::Amend { which, change }
}

/// A group of several pages: two items fill one.
fn batch(items: &[(u8, u8, i64, bool)], atomic: bool) -> Op {
    let items = items.to_vec();
    Op::Batch { items, atomic }
}

fn score(millionths: u32) -> Change {
    Change::Score(FraudScore::from_millionths(millionths).unwrap())
}

/// Everything the ledger can do, over a first start, a start after a stop and one after each kind of crash, with
/// hand-overs of volumes, groups of several pages, and checkpoints.
fn script() -> Vec<Act> {
    let act = |steps, end| Act { steps, end };
    vec![
        act(
            vec![
                open(0, 0),
                open(1, 50),
                issue(0, 900),
                Step::Do(hold(0, 1, 300)),
                Step::Do(transfer(1, 0, 999)),
                Step::Repeat,
                Step::Checkpoint,
                Step::Do(amend(1, Change::Complete)),
                Step::Repeat,
            ],
            End::Stop,
        ),
        act(
            vec![
                open(2, 0),
                Step::Do(batch(
                    &[(0, 2, 10, false), (0, 1, 20, true), (1, 2, 5, false)],
                    true,
                )),
                Step::Do(amend(4, Change::Reverse)),
                Step::Checkpoint,
                Step::Together(vec![
                    transfer(0, 1, 7),
                    hold(1, 2, 8),
                    transfer(2, 1, 999),
                    amend(1, score(420_000)),
                ]),
                Step::Do(Op::Redeem {
                    from: 0,
                    amount: 11,
                }),
            ],
            End::CrashInCheckpoint(1),
        ),
        act(
            vec![
                Step::Do(Op::Wait { ms: HOLD_MS }),
                Step::Do(transfer(0, 2, 1)),
                Step::Do(batch(&[(0, 1, 1, false), (9, 1, 1, false)], true)),
                Step::Do(batch(
                    &[
                        (0, 1, 3, true),
                        (0, 2, 900, false),
                        (2, 0, 4, false),
                        (0, 2, 1, true),
                    ],
                    false,
                )),
                Step::Do(amend(usize::MAX, Change::Fail)),
                Step::Do(transfer(0, 1, 2)),
            ],
            End::Crash(Crash::Kill),
        ),
        act(
            vec![
                Step::Checkpoint,
                Step::Together(vec![
                    transfer(1, 2, 1),
                    batch(&[(1, 0, 2, false), (1, 0, 3, true), (2, 0, 1, false)], true),
                    transfer(0, 2, 3),
                ]),
            ],
            End::Stop,
        ),
    ]
}

/// Runs one act in `world`; what it meets, if anything, must come. Gives the calls made in each lane.
#[track_caller]
fn play(world: &mut World, act: &Act, meets: Option<Meets>) -> [u64; 3] {
    let plan = Arc::new(Plan::default());
    if let Some(Meets {
        lane, nth, fault, ..
    }) = meets
    {
        plan.arm(lane, nth, fault);
    }
    let crash = meets.map_or(Crash::Kill, |meets| meets.crash);
    let down = run(world, act, &plan, crash);
    let calls = Lane::ALL.map(|lane| plan.calls(lane));
    let Some(meets) = meets else {
        assert!(down.is_none(), "nothing befell it");
        return calls;
    };
    // A run may make fewer calls than the one that was counted: the background is still on its way, or a hold expired in
    // the group of a command instead of one of its own.
    assert!(plan.calls(meets.lane) < meets.nth || plan.has_fired(meets.lane));
    let mut live = world.reopen();
    world.settle(&mut live, &down.unwrap_or_default());
    // What a start shows is durable by then.
    let live = again(world, live, Crash::Cut);
    let live = continue_with(world, live);
    let live = again(world, live, Crash::Torn(meets.nth));
    assert!(World::stop(live));
    calls
}

/// Opens the world and does all of `act`. When the ledger went down before the end: the commands in doubt.
#[track_caller]
fn run(
    world: &mut World,
    act: &Act,
    plan: &Arc<Plan>,
    crash: Crash,
) -> Option<Vec<super::Command>> {
    let Some(mut live) = world.open(plan) else {
        world.crash(None, plan, crash);
        return Some(Vec::new());
    };
    for step in &act.steps {
        if let Flow::Down(doubtful) = world.step(&mut live, step) {
            world.crash(Some(live), plan, crash);
            return Some(doubtful);
        }
    }
    match act.end {
        End::Stop => {
            if !World::stop(live) {
                world.crash(None, plan, crash);
                return Some(Vec::new());
            }
        }
        End::Crash(crash) => world.crash(Some(live), plan, crash),
        End::CrashInCheckpoint(seed) => world.crash_in_checkpoint(live, seed),
    }
    None
}

/// Crashes with nothing in doubt, and opens again.
#[track_caller]
fn again(world: &mut World, live: Live, crash: Crash) -> Live {
    let plan = Arc::clone(&live.plan);
    world.crash(Some(live), &plan, crash);
    let mut live = world.reopen();
    world.settle(&mut live, &[]);
    live
}

/// The ledger is fit for use.
#[track_caller]
fn continue_with(world: &mut World, mut live: Live) -> Live {
    let steps = [
        open(3, 100),
        Step::Do(batch(
            &[(3, 0, 1, false), (3, 1, 2, true), (3, 2, 3, false)],
            true,
        )),
    ];
    for step in &steps {
        let flow = world.step(&mut live, step);
        assert!(matches!(flow, Flow::Up), "{flow:?}");
    }
    live
}

/// Every act meets `fault` at every call of `lane`; each time on the world as the acts before left it.
#[track_caller]
fn meets_at_every_call(lane: Lane, fault: Fault, crashes: &[fn(u64) -> Crash]) {
    let mut world = World::new();
    let mut runs = 0;
    for act in script() {
        let before = world.copy();
        let calls = play(&mut world, &act, None);
        let calls = calls[Lane::ALL.iter().position(|known| *known == lane).unwrap()];
        for (nth, crash) in (1..=calls).zip(crashes.iter().cycle()) {
            let meets = Meets {
                lane,
                nth,
                fault,
                crash: crash(nth),
            };
            // Told by the harness when the run fails.
            eprintln!("run {runs}: {meets:?}");
            play(&mut before.copy(), &act, Some(meets));
            runs += 1;
        }
    }
    assert!(runs > 5, "only {runs} calls");
}

const KILL: fn(u64) -> Crash = |_| Crash::Kill;
const CUT: fn(u64) -> Crash = |_| Crash::Cut;
const TORN: fn(u64) -> Crash = Crash::Torn;

#[test]
fn a_failure_at_any_call_loses_nothing() {
    meets_at_every_call(Lane::Writer, Fault::Fail, &[KILL, CUT, TORN, TORN]);
}

#[test]
fn a_torn_write_at_any_call_loses_nothing() {
    meets_at_every_call(Lane::Writer, Fault::Late, &[TORN]);
}

#[test]
fn a_failure_after_the_fact_at_any_call_is_whole_or_absent() {
    meets_at_every_call(Lane::Writer, Fault::Late, &[KILL]);
}

#[test]
fn a_panic_at_any_call_loses_nothing() {
    meets_at_every_call(Lane::Writer, Fault::Panic, &[CUT, TORN, KILL, TORN]);
}

#[test]
fn a_call_that_never_returns_acknowledges_nothing_and_loses_nothing() {
    meets_at_every_call(Lane::Writer, Fault::Freeze, &[TORN, KILL, TORN, CUT]);
}

#[test]
fn a_fault_while_the_log_is_drained_at_any_call_loses_nothing() {
    for fault in [Fault::Fail, Fault::Late, Fault::Panic, Fault::Freeze] {
        meets_at_every_call(Lane::Drain, fault, &[TORN, KILL, CUT, TORN]);
    }
}

#[test]
fn a_fault_of_the_background_at_any_call_loses_nothing() {
    for fault in [Fault::Fail, Fault::Late, Fault::Panic, Fault::Freeze] {
        meets_at_every_call(Lane::Background, fault, &[TORN, KILL, CUT]);
    }
}

/// The same on real stores and real files, at some of the calls, since these take their time.
#[test]
fn a_failure_at_a_call_of_a_real_store_loses_nothing() {
    let mut world = World::of_sled();
    for (act, offset) in script().iter().zip(1..) {
        let before = world.copy();
        let [calls, ..] = play(&mut world, act, None);
        for (nth, fault) in (offset..=calls)
            .step_by(8)
            .zip([Fault::Fail, Fault::Late].iter().cycle())
        {
            let meets = Meets {
                lane: Lane::Writer,
                nth,
                fault: *fault,
                crash: Crash::Kill,
            };
            eprintln!("{meets:?}");
            play(&mut before.copy(), act, Some(meets));
        }
    }
}

/// The round says that every file is current. So after one that failed the next must write again what that had taken:
/// the new names may not have become durable.
#[test]
fn a_checkpoint_round_after_one_that_failed_leaves_no_file_behind() {
    let mut world = World::new();
    let mut live = world.reopen();
    let steps = [
        open(0, 0),
        open(1, 0),
        issue(0, 5),
        issue(1, 5),
        Step::Checkpoint,
        Step::Do(transfer(0, 1, 2)),
    ];
    for step in &steps {
        world.step(&mut live, step);
    }
    let folder = world.folder.join("checkpoint");
    let before = world.folder.join("checkpoint before");
    copy_folder(&folder, &before);
    let shards: Vec<String> = names(&before);
    let last = shards.iter().rfind(|name| *name != "round").unwrap();
    let last = folder.join(last).with_extension("tmp");
    std::fs::create_dir(&last).unwrap();
    assert!(live.try_checkpoint().is_err());
    std::fs::remove_dir(last).unwrap();
    copy_folder(&before, &folder);
    assert!(live.try_checkpoint().is_ok());
    world.crash(Some(live), &Plan::default(), Crash::Kill);
    let mut live = world.reopen();
    world.settle(&mut live, &[]);
}

/// A disk that is slow is no disk that fails.
#[test]
fn a_slow_call_changes_nothing() {
    let mut world = World::new();
    for act in script() {
        let before = world.copy();
        let [calls, ..] = play(&mut world, &act, None);
        for nth in (1..=calls).step_by(3) {
            let mut world = before.copy();
            let plan = Arc::new(Plan::default());
            plan.arm(Lane::Writer, nth, Fault::Slow);
            assert!(run(&mut world, &act, &plan, Crash::Cut).is_none());
            let mut live = world.reopen();
            world.settle(&mut live, &[]);
            assert!(World::stop(live));
        }
    }
}

/// Cases of the random test, unless `PROPTEST_CASES` tells another number.
const CASES: u32 = 48;

/// What happens to a ledger, in any order.
#[derive(Clone, Debug)]
enum Move {
    Step(Step),
    Stop,
    Crash(Crash),
    CrashInCheckpoint(u64),
    /// The `nth` call from here on meets a fault, and then the process dies in this way.
    Fault {
        lane: Lane,
        nth: u64,
        fault: Fault,
        crash: Crash,
    },
    /// So does the `nth` call of the next start.
    FaultAtStart {
        nth: u64,
        fault: Fault,
        crash: Crash,
    },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let crash = || {
        prop_oneof![
            Just(Crash::Kill),
            Just(Crash::Cut),
            any::<u64>().prop_map(Crash::Torn)
        ]
    };
    let fault = || {
        prop_oneof![
            Just(Fault::Fail),
            Just(Fault::Late),
            Just(Fault::Panic),
            Just(Fault::Freeze)
        ]
    };
    let lane =
        prop_oneof![4 => Just(Lane::Writer), 2 => Just(Lane::Drain), 1 => Just(Lane::Background)];
    let together = proptest::collection::vec(op(), 2..5);
    let one = prop_oneof![
        30 => op().prop_map(|op| Move::Step(Step::Do(op))),
        4 => together.prop_map(|ops| Move::Step(Step::Together(ops))),
        3 => Just(Move::Step(Step::Repeat)),
        2 => Just(Move::Step(Step::Checkpoint)),
        1 => Just(Move::Stop),
        2 => crash().prop_map(Move::Crash),
        1 => any::<u64>().prop_map(Move::CrashInCheckpoint),
        2 => (lane, 1..12_u64, fault(), crash())
            .prop_map(|(lane, nth, fault, crash)| Move::Fault { lane, nth, fault, crash }),
        1 => (1..12_u64, fault(), crash())
            .prop_map(|(nth, fault, crash)| Move::FaultAtStart { nth, fault, crash }),
    ];
    proptest::collection::vec(one, 1..60)
}

/// One random run of the ledger over all its starts.
struct Run {
    world: World,
    plan: Arc<Plan>,
    /// What is still to come, and how the process then dies.
    armed: Option<(u64, Fault)>,
    crash: Crash,
}

impl Run {
    /// Opens the ledger, and where a fault prevents that once more, and looks at what is there.
    fn start(&mut self, doubtful: &[super::Command]) -> Live {
        self.plan = Arc::default();
        if let Some((nth, fault)) = self.armed.take() {
            self.plan.arm(Lane::Writer, nth, fault);
        }
        let mut live = self.world.open(&self.plan).unwrap_or_else(|| {
            self.world.crash(None, &self.plan, self.crash);
            self.plan = Arc::default();
            self.world.reopen()
        });
        self.world.settle(&mut live, doubtful);
        live
    }

    fn go(&mut self, live: Live, next: Move) -> Live {
        match next {
            Move::Step(step) => {
                let mut live = live;
                match self.world.step(&mut live, &step) {
                    Flow::Up => live,
                    Flow::Down(doubtful) => {
                        self.world.crash(Some(live), &self.plan, self.crash);
                        self.start(&doubtful)
                    }
                }
            }
            Move::Stop => {
                if !World::stop(live) {
                    self.world.crash(None, &self.plan, self.crash);
                }
                self.start(&[])
            }
            Move::Crash(crash) => {
                self.world.crash(Some(live), &self.plan, crash);
                self.start(&[])
            }
            Move::CrashInCheckpoint(seed) => {
                self.world.crash_in_checkpoint(live, seed);
                self.start(&[])
            }
            Move::FaultAtStart { nth, fault, crash } => {
                self.armed = Some((nth, fault));
                self.crash = crash;
                live
            }
            Move::Fault {
                lane,
                nth,
                fault,
                crash,
            } => {
                self.plan.arm(lane, nth, fault);
                self.crash = crash;
                live
            }
        }
    }
}

fn survives(moves: Vec<Move>) {
    let mut run = Run {
        world: World::new(),
        plan: Arc::default(),
        armed: None,
        crash: Crash::Kill,
    };
    let mut live = run.start(&[]);
    for next in moves {
        live = run.go(live, next);
    }
    run.world.crash(Some(live), &run.plan, Crash::Cut);
    run.armed = None;
    assert!(World::stop(run.start(&[])));
}

#[expect(
    clippy::disallowed_methods,
    reason = "proptest's own reading of the variable would be undone by our default"
)]
fn cases() -> u32 {
    let told = std::env::var("PROPTEST_CASES").ok();
    told.map_or(CASES, |cases| cases.parse().unwrap())
}

proptest! {
    // A failing case is printed, made small, and kept in this file: to be checked in.
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: Some(Box::new(FileFailurePersistence::SourceParallel("tests/regressions"))),
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_in_any_order_loses_nothing(moves in moves()) {
        survives(moves);
    }
}
