//! `scripts/bench-ratios` as far as it can be tested without measuring: what it says before it begins, and what it draws.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn parts() -> Vec<String> {
    let files = fs::read_dir(project("scripts/bench/parts"))
        .unwrap()
        .flatten();
    let name = |entry: fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_owned());
    files.filter_map(name).collect()
}

/// Runs the script in a copy of the project that has nothing but it and `document`.
fn ratios(document: &str, args: &[&str]) -> Output {
    let dir = TempDir::new().unwrap();
    copy(&project("scripts/bench"), &dir.path().join("scripts/bench"));
    fs::create_dir(dir.path().join("docs")).unwrap();
    fs::write(dir.path().join("docs/PERFORMANCE.md"), document).unwrap();
    let script = dir.path().join("scripts/bench-ratios");
    fs::copy(project("scripts/bench-ratios"), &script).unwrap();
    let mut command = Command::new("bash");
    command.arg(&script).args(args).stdin(Stdio::null());
    command.output().unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[test]
fn a_part_without_a_place_in_the_document_is_said_before_anything_is_built() {
    if !has_python() {
        return;
    }
    let with_rounds = "<!-- bench rounds -->\n<!-- end rounds -->\n<!-- bench idle -->\n";
    let output = ratios(with_rounds, &["rounds", "idle", "--write"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert!(stderr.contains("no place for idle"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");

    let output = ratios(with_rounds, &["rounds", "nothing"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert!(stderr.contains("no part called nothing"), "{stderr}");
}

#[test]
fn every_part_has_its_place_in_the_document() {
    let document = fs::read_to_string(project("docs/PERFORMANCE.md")).unwrap();
    let script = fs::read_to_string(project("scripts/bench-ratios")).unwrap();
    let all = script
        .lines()
        .find_map(|line| line.trim().strip_prefix("parts=(rounds"));
    let parts = parts();
    assert_eq!(parts.len(), 8, "{parts:?}");
    for part in parts {
        for mark in ["bench", "end"] {
            let line = format!("<!-- {mark} {part} -->");
            assert_eq!(
                document.lines().filter(|found| *found == line).count(),
                1,
                "{line}"
            );
        }
        assert!(
            part == "rounds" || all.unwrap().contains(&part),
            "`all` leaves {part} out"
        );
    }
}

/// Whether there is a Python for the scripts; says so when there is none. CI sets `ECHOPAY_REQUIRE_PYTHON=1`.
#[expect(clippy::print_stderr, reason = "a test that was skipped says so")]
fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output();
    let is_there = found.is_ok_and(|output| output.status.success());
    let is_required =
        std::env::vars_os().any(|(name, value)| name == "ECHOPAY_REQUIRE_PYTHON" && value == "1");
    assert!(is_there || !is_required, "python3 is missing");
    if !is_there {
        eprintln!("SKIPPED: the scripts that measure need python3");
    }
    is_there
}

/// What a helper in Python makes of `input`.
fn python(script: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new("python3")
        .arg(project(script))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_scales_is_drawn_with_and_without_gaps() {
    if !has_python() {
        return;
    }
    let mut figures = String::new();
    for (letter, values) in [
        ("c", "1 64 4096"),
        ("b", "1 1000 8192"),
        ("w", "1000 10000000"),
    ] {
        for value in values.split(' ') {
            for cores in ["0", "0-1"] {
                let point = format!("scale/{letter}{value}/{cores}");
                figures.extend([
                    format!("{point}/rate\t{value}000.5\n"),
                    format!("{point}/p99_us\t{value}\n"),
                ]);
            }
        }
    }
    figures += "scale/alone/0/rate\t50000\nscale/kafka/0/rate\tgap\nscale/c16/0/rate\tgap\n";
    let draw = |figures: &str| python("scripts/bench/scale_svg.py", &["0", "0-1"], figures);
    let svg = draw(&figures);
    assert_is_a_drawing(&svg);
    assert!(!svg.contains("not taken"));
    // Each point of each line, on both kinds of server: throughput and p99, but for wallets throughput alone.
    assert_eq!(svg.matches("<circle").count(), 2 * (2 * 3 + 2 * 3 + 2));
    assert_eq!(
        svg.matches("<rect class=\"f0\" x").count(),
        2,
        "legend, and one bar"
    );
    for told in [
        "connections",
        "transfers a batch",
        "wallets",
        "payments/s",
        "ms",
        "prefers-color-scheme: dark",
    ] {
        assert!(svg.contains(told), "{told}");
    }

    let nothing = draw("");
    assert_is_a_drawing(&nothing);
    assert_eq!(nothing.matches("not taken").count(), 6);
    assert_is_a_drawing(&draw("scale/c64/0/rate\t1\n"));
}

#[track_caller]
fn assert_is_a_drawing(svg: &str) {
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(!svg.contains("nan") && !svg.contains("inf"));
}

#[test]
fn a_results_values_are_found_by_their_paths() {
    if !has_python() {
        return;
    }
    let result = r#"{"rate":1.5,"writes":{"p99_us":7,"more":{"rate":9}},"failures":["a\nb","c"],"none":null}"#;
    let paths = [
        "rate",
        "writes.p99_us",
        "failures.1",
        "none",
        "writes.no",
        "rate.x",
        "failures.9",
    ];
    let found = python("scripts/bench/result.py", &paths, result);
    assert_eq!(found, "1.5\n7\nc\n\n\n\n\n");
    assert_eq!(
        python("scripts/bench/result.py", &["rate"], "no JSON"),
        "\n"
    );
}
