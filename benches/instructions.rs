//! How many instructions each pure step of the hot path executes, and how often it allocates, against what the repository
//! says it does: free of noise, so that a change of a few percent shows on any machine and at any load.
//!
//! ```text
//! cargo bench --no-default-features --bench instructions                          compares; fails at more than 3 %
//! cargo bench --no-default-features --bench instructions -- --accept "reason"     writes what is found as the baseline
//! ```
//!
//! Each step runs in a process of its own under Valgrind's Callgrind, which counts nothing but the call of [`count_this`].
//! `instructions/baseline.toml` keeps one line a step, with the reason of its last change. Counts belong to a compiler, a
//! C library and the processor's vector units: with others nothing is compared, which is said aloud, and fails only where
//! `ECHOPAY_REQUIRE_INSTRUCTIONS=1` demands it. Without `--bench`, as `cargo test` starts it, each step runs once.
//!
//! Why no harness from a crate: the one there is wants its runner installed in the very version of the library, a second
//! tool of two hundred crates, and keeps its baselines as profiles in the target folder, so that what is here would be
//! needed all the same.

#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot go on has no result"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the environment tells a bench what is demanded, and where Valgrind is"
)]

#[path = "stages/pure.rs"]
mod pure;

use pure::{STAGES, Stage, Step};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

/// A larger change of a step's count, either way, has to be accepted.
const CHANGE_MAX_PERCENT: f64 = 3.0;
/// At least so many transfers go through a step that is counted.
const TRANSFERS_COUNTED: usize = 1_000;
const BASELINE: &str = "benches/instructions/baseline.toml";
const REQUIRE: &str = "ECHOPAY_REQUIRE_INSTRUCTIONS";
/// Of the child: runs the step to be counted; does all but that.
const COUNT: &str = "--count";
const SKIP: &str = "--skip";
/// What the allocator is asked by.
const ALLOCATING: [&str; 4] = ["malloc", "calloc", "realloc", "posix_memalign"];

/// What the repository says.
#[derive(Deserialize)]
struct Baseline {
    machine: String,
    stages: BTreeMap<String, Accepted>,
}

#[derive(Deserialize)]
struct Accepted {
    instructions: u64,
    allocations: u64,
    reason: String,
}

/// What one run of a step costs.
#[derive(Clone, Copy)]
struct Counts {
    instructions: u64,
    allocations: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value_of = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1)
    };
    if let Some(name) = value_of(COUNT) {
        return run_one(name, count_this);
    }
    if let Some(name) = value_of(SKIP) {
        return run_one(name, |_, _| {});
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        for stage in &STAGES {
            let mut step = (stage.make)(stage.transfers);
            step.prepare(1);
            step.run();
        }
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--accept") {
        return match value_of("--accept") {
            Some(reason) if !reason.starts_with('-') => accept(reason),
            _ => fail("--accept needs the reason of the change"),
        };
    }
    compare()
}

/// What Callgrind counts: everything below this call and nothing else.
#[inline(never)]
fn count_this(step: &mut dyn Step, runs: usize) {
    for _ in 0..runs {
        step.run();
    }
}

/// Runs that are counted together. Maps draw their hash keys at each start, so that one look-up may take a little longer
/// than another; many do not.
fn runs_of(stage: &Stage) -> usize {
    TRANSFERS_COUNTED.div_ceil(stage.transfers)
}

/// The child: says what it ran on, and gives the step to `last`, after a first run that fills buffers and caches.
fn run_one(name: &str, last: fn(&mut dyn Step, usize)) -> ExitCode {
    let Some(stage) = STAGES.iter().find(|stage| stage.name == name) else {
        return fail("no such step");
    };
    let mut step = (stage.make)(stage.transfers);
    step.prepare(1);
    step.run();
    let runs = runs_of(stage);
    step.prepare(runs);
    last(step.as_mut(), runs);
    say(vector_units());
    ExitCode::SUCCESS
}

/// Those that the code chooses between while it runs, as this process sees them.
#[cfg(target_arch = "x86_64")]
fn vector_units() -> &'static str {
    match (
        std::arch::is_x86_feature_detected!("avx512f"),
        std::arch::is_x86_feature_detected!("avx2"),
    ) {
        (true, _) => "x86_64 with AVX-512",
        (false, true) => "x86_64 with AVX2",
        (false, false) => "x86_64 without AVX2",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_units() -> &'static str {
    std::env::consts::ARCH
}

fn compare() -> ExitCode {
    let baseline: Baseline = toml::from_str(&std::fs::read_to_string(BASELINE).unwrap()).unwrap();
    let measured = match measure() {
        Ok(measured) => measured,
        Err(reason) => return not_compared(&reason),
    };
    if measured.machine != baseline.machine {
        return not_compared(&format!(
            "this is {}; the baseline is of {}",
            measured.machine, baseline.machine
        ));
    }
    let mut wrong = Vec::new();
    say("stage          instructions  a transfer  change  allocations");
    for (stage, found) in &measured.stages {
        let (change, note) = match baseline.stages.get(stage.name) {
            None => {
                wrong.push(format!("{} is not in the baseline", stage.name));
                ("new".into(), String::new())
            }
            Some(accepted) => {
                let percent = change_percent(accepted.instructions, found.instructions);
                let more = accepted.allocations != found.allocations;
                if percent.abs() > CHANGE_MAX_PERCENT {
                    wrong.push(format!(
                        "{}: {} instructions instead of {} ({percent:+.1} %)",
                        stage.name, found.instructions, accepted.instructions
                    ));
                }
                if more {
                    wrong.push(format!(
                        "{}: {} allocations instead of {}",
                        stage.name, found.allocations, accepted.allocations
                    ));
                }
                (format!("{percent:+.1} %"), accepted.reason.clone())
            }
        };
        say(&row(stage, *found, &change, &note));
    }
    for name in baseline.stages.keys() {
        if !STAGES.iter().any(|stage| stage.name == name) {
            wrong.push(format!("{name} is in the baseline and no step any more"));
        }
    }
    if wrong.is_empty() {
        return ExitCode::SUCCESS;
    }
    fail(&format!(
        "{}\nIf that is meant, say why, and commit the new baseline with the change:\n  \
         cargo bench --no-default-features --bench instructions -- --accept \"reason\"",
        wrong.join("\n")
    ))
}

fn row(stage: &Stage, found: Counts, change: &str, note: &str) -> String {
    format!(
        "{:<14} {:>12}  {:>10}  {:>6}  {:>11}  {note}",
        stage.name,
        found.instructions,
        found.instructions / stage.transfers as u64,
        change,
        found.allocations
    )
}

/// Writes what is found. A step that has not changed keeps its line, and so its reason.
fn accept(reason: &str) -> ExitCode {
    let measured = match measure() {
        Ok(measured) => measured,
        Err(reason) => return fail(&reason),
    };
    let text = std::fs::read_to_string(BASELINE).unwrap_or_default();
    let before: Option<Baseline> = toml::from_str(&text).ok();
    let same_machine = before
        .as_ref()
        .filter(|before| before.machine == measured.machine);
    let mut out = String::from(
        "# What one run of each step of the hot path executes: `benches/instructions.rs`, which also writes this file.\n",
    );
    writeln!(out, "machine = {}\n\n[stages]", quoted(&measured.machine)).unwrap();
    for (stage, found) in &measured.stages {
        let kept = same_machine
            .and_then(|before| before.stages.get(stage.name))
            .filter(|accepted| {
                accepted.allocations == found.allocations
                    && change_percent(accepted.instructions, found.instructions).abs()
                        <= CHANGE_MAX_PERCENT
            });
        let (instructions, reason) = kept.map_or((found.instructions, reason), |accepted| {
            (accepted.instructions, accepted.reason.as_str())
        });
        writeln!(
            out,
            "{} = {{ instructions = {instructions}, allocations = {}, reason = {} }}",
            quoted(stage.name),
            found.allocations,
            quoted(reason)
        )
        .unwrap();
        say(&row(stage, *found, "", reason));
    }
    std::fs::write(BASELINE, out).unwrap();
    say(&format!("written to {BASELINE}"));
    ExitCode::SUCCESS
}

/// A TOML basic string; what JSON escapes, TOML escapes alike.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn change_percent(before: u64, after: u64) -> f64 {
    (as_f64(after) - as_f64(before)) / as_f64(before.max(1)) * 100.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "for a percentage with one digit behind the point"
)]
fn as_f64(count: u64) -> f64 {
    count as f64
}

struct Measured {
    machine: String,
    stages: Vec<(&'static Stage, Counts)>,
}

/// Counts all steps; why not, where that cannot be done.
fn measure() -> Result<Measured, String> {
    let rustc = run(Command::new("rustc").arg("--version"))?;
    let libc = run(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    // Why only two words: the day and the hash of a compiler of one's own do not make it another compiler.
    let rustc: Vec<&str> = rustc.split_whitespace().take(2).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut units = String::new();
    let mut stages = Vec::new();
    for stage in &STAGES {
        let profile = folder.path().join("profile");
        let mut count = |mode, counting: &[&str]| {
            units = run_under_callgrind(stage, mode, counting, &profile)?;
            read_profile(&profile)
        };
        let step = count(
            COUNT,
            &["--collect-atstart=no", "--toggle-collect=*count_this*"],
        )?;
        // Why by a difference: Callgrind counts calls also where it collects nothing.
        let (with, without) = (count(COUNT, &[])?, count(SKIP, &[])?);
        let runs = runs_of(stage) as u64;
        let counts = Counts {
            instructions: step.instructions / runs,
            allocations: with.allocations.saturating_sub(without.allocations) / runs,
        };
        stages.push((stage, counts));
    }
    Ok(Measured {
        machine: format!("{}, {libc}, {units}", rustc.join(" ")),
        stages,
    })
}

/// Runs the child under Callgrind; gives what it says of the processor.
fn run_under_callgrind(
    stage: &Stage,
    mode: &str,
    counting: &[&str],
    profile: &Path,
) -> Result<String, String> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--quiet"])
        .args(counting)
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(std::env::current_exe().unwrap())
        .args([mode, stage.name]);
    // What stands in the environment moves the stack, and with it what is aligned how.
    let path = std::env::var_os("PATH").unwrap_or_default();
    run(valgrind.env_clear().env("PATH", path))
}

fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if !status.success() {
        return Err(format!(
            "{program}: {status}\n{}",
            String::from_utf8_lossy(&stderr)
        ));
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}

/// The sum of all instructions, and the calls of the allocator, in Callgrind's own text format: a called function stands
/// as `cfn=(number) name`, the name only the first time, and behind it `calls=count …`.
fn read_profile(profile: &Path) -> Result<Counts, String> {
    let text = std::fs::read_to_string(profile).map_err(|error| format!("no profile: {error}"))?;
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut counts = Counts {
        instructions: 0,
        allocations: 0,
    };
    let mut called = "";
    for line in text.lines() {
        if let Some(total) = line.strip_prefix("totals: ") {
            counts.instructions = total.trim().parse().unwrap_or_default();
        } else if let Some(function) = line.strip_prefix("cfn=").or(line.strip_prefix("fn=")) {
            let (number, name) = function.split_once(' ').unwrap_or((function, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            called = names.get(number).copied().unwrap_or_default();
        } else if let Some(calls) = line.strip_prefix("calls=")
            && ALLOCATING.contains(&called)
        {
            let count = calls.split(' ').next().unwrap_or_default();
            counts.allocations += count.parse::<u64>().unwrap_or_default();
        }
    }
    if counts.instructions == 0 {
        return Err("Callgrind counted nothing".into());
    }
    Ok(counts)
}

/// Neither the code's fault nor to be overlooked.
fn not_compared(reason: &str) -> ExitCode {
    let demanded = std::env::var_os(REQUIRE).is_some_and(|value| value == "1");
    let text = format!("instruction counts were NOT COMPARED: {reason}");
    if demanded {
        return fail(&text);
    }
    say(&format!("{}\n* {text}\n{}", "*".repeat(80), "*".repeat(80)));
    ExitCode::SUCCESS
}

fn fail(text: &str) -> ExitCode {
    let _closed = writeln!(std::io::stderr(), "{text}");
    ExitCode::FAILURE
}

fn say(text: &str) {
    let _closed = writeln!(std::io::stdout(), "{text}");
}
