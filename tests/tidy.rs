//! The rules of the house, held against the source text: which crate has which door, which module may know which, and
//! what lies at the top of the tree. A rule that turns out wrong is changed here, in the open.

#![expect(
    clippy::expect_used,
    reason = "a project that cannot be read fails the test"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A word, and the files (with their folder of submodules) or folders of `src/` where alone it may stand.
const DOORS: [(&str, &[&str]); 20] = [
    ("sled::", &["journal/store.rs"]),
    ("bincode::", &["journal/codec.rs"]),
    ("rdkafka::", &["pipeline/producer.rs"]),
    ("prometheus_client::", &["metrics.rs"]),
    ("tracing_subscriber::", &["logging.rs"]),
    ("clap::", &["cli.rs"]),
    ("indicatif::", &["tools/progress.rs"]),
    ("toml::", &["config.rs", "auth/tokens.rs", "cli.rs"]),
    (
        "hyper::",
        &["http/", "ws/upgrade.rs", "auth.rs", "tools/backup.rs"],
    ),
    (
        "hyper_util::",
        &["http/", "ws/upgrade.rs", "tools/backup.rs"],
    ),
    ("zstd::", &["tools/files.rs"]),
    ("tokio_tungstenite::", &["ws/", "load/subscribers.rs"]),
    (
        "hdrhistogram::",
        &["load/tally.rs", "load/outcome.rs", "load/subscribers.rs"],
    ),
    ("rand::", &["load/draw.rs"]),
    ("rand_distr::", &["load/draw.rs"]),
    ("SystemTime::now", &["clock.rs"]),
    ("Instant::now", &["clock.rs"]),
    ("std::env::", &["cli.rs"]),
    ("process::exit", &[]),
    ("unbounded", &[]),
];

/// A module of `src/`, and the modules that it may name. `app` and `main` may name all.
const ARROWS: [(&str, &[&str]); 20] = [
    ("types", &[]),
    ("clock", &["types"]),
    ("watermark", &["types"]),
    ("tasks", &[]),
    ("ids", &["types"]),
    ("money", &["types"]),
    ("metrics", &["types"]),
    ("shutdown", &["tasks"]),
    ("logging", &["tasks"]),
    ("auth", &["clock", "tasks", "types"]),
    ("event", &["ids", "journal", "money", "types"]),
    (
        "journal",
        &["clock", "ids", "metrics", "tasks", "types", "watermark"],
    ),
    (
        "ledger",
        &[
            "clock",
            "ids",
            "journal",
            "metrics",
            "money",
            "tasks",
            "types",
            "watermark",
        ],
    ),
    (
        "pipeline",
        &[
            "clock",
            "event",
            "ids",
            "journal",
            "metrics",
            "tasks",
            "types",
            "watermark",
        ],
    ),
    (
        "tracker",
        &[
            "clock",
            "event",
            "ids",
            "journal",
            "metrics",
            "money",
            "tasks",
            "types",
            "watermark",
        ],
    ),
    (
        "http",
        &[
            "auth",
            "clock",
            "event",
            "ids",
            "journal",
            "ledger",
            "metrics",
            "money",
            "pipeline",
            "shutdown",
            "tasks",
            "tracker",
            "types",
            "watermark",
        ],
    ),
    (
        "ws",
        &[
            "auth",
            "clock",
            "event",
            "ids",
            "journal",
            "ledger",
            "metrics",
            "money",
            "shutdown",
            "tasks",
            "tracker",
            "types",
            "watermark",
        ],
    ),
    ("cli", &["config", "logging", "pipeline"]),
    (
        "tools",
        &[
            "cli", "clock", "config", "event", "ids", "journal", "ledger", "metrics", "money",
            "pipeline", "tasks", "types",
        ],
    ),
    (
        "load",
        &[
            "cli", "clock", "config", "shutdown", "tasks", "tools", "types",
        ],
    ),
];

/// What lies at the top; a new file there is a decision.
const TOP_LEVEL: [&str; 18] = [
    ".ci",
    ".dockerignore",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "clippy.toml",
    "deny.toml",
    "docker-compose.yml",
    "docs",
    "examples",
    "rustfmt.toml",
    "scripts",
];

/// Also there, and not ours to check: what tools make (see `.gitignore`).
const MADE_BY_TOOLS: [&str; 4] = [".git", "target", "echopay-data", "node_modules"];

/// Folders of somebody's machine. Put together here so that this file does not break its own rule.
const MACHINE_PATHS: [&str; 3] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder`, as (path relative to it, text); what is no text is left out.
fn texts(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder of the project can be read") {
            let path: PathBuf = entry.expect("an entry can be read").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .expect("plain names");
            if MADE_BY_TOOLS.contains(&name) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let relative = path.strip_prefix(folder).expect("below the folder");
                found.push((relative.to_str().expect("plain names").to_owned(), text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

/// Whether `file` is the door or lies in its folder: `x.rs` stands for `x/` too.
fn is_behind(file: &str, door: &str) -> bool {
    let folder = door
        .strip_suffix(".rs")
        .unwrap_or(door)
        .trim_end_matches('/');
    file == door
        || file
            .strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// The lines without comments, so that prose may name what code may not.
fn code(text: &str) -> String {
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    text.lines()
        .filter(is_code)
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// Whether `word` stands in `code` as a word of its own: `sled::` is not in `bundled::`.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// The modules of the crate that `code` names behind `crate::`, groups in braces included.
fn modules_named(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            named.insert(first_word(rest));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    named.insert(first_word(item.trim()));
                    item.clear();
                    continue;
                }
                _ => {}
            }
            item.push(c);
        }
        named.insert(first_word(item.trim()));
    }
    named.remove("");
    named
}

fn first_word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn a_foreign_crate_stands_only_behind_its_door() {
    let mut broken = Vec::new();
    for (file, text) in texts(&root().join("src")) {
        if file.ends_with("tests.rs") {
            continue; // They play the other side: a client, a broker, a disk.
        }
        let code = code(&text);
        for (word, doors) in DOORS {
            let inside = doors.iter().any(|door| is_behind(&file, door));
            if !inside && names(&code, word) {
                broken.push(format!(
                    "src/{file} names `{word}`, whose doors are {doors:?}"
                ));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn modules_know_only_those_below_them() {
    let mut broken = Vec::new();
    for (file, text) in texts(&root().join("src")) {
        let module = first_word(file.split('/').next().expect("a path has a first part"));
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
            continue;
        };
        for named in modules_named(&code(&text)) {
            let known = ARROWS.iter().any(|(name, _)| *name == named) || named == "config";
            let app = named == "app";
            if (known || app) && named != module && !allowed.contains(&named.as_str()) {
                broken.push(format!("src/{file} names crate::{named}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_module_stands_in_the_picture() {
    let named: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    for (file, text) in texts(&root().join("src")) {
        let module = first_word(file.split('/').next().expect("a path has a first part"));
        let free = ["app", "config", "lib", "main", "testing"].contains(&module.as_str());
        assert!(
            free || named.contains(module.as_str()),
            "no arrows are told for {module}"
        );
        assert!(
            text.starts_with("//!") || file.ends_with("tests.rs"),
            "src/{file} does not say what it owns"
        );
    }
}

#[test]
fn the_top_of_the_tree_holds_what_was_decided() {
    for entry in fs::read_dir(root()).expect("the project can be read") {
        let name = entry.expect("an entry can be read").file_name();
        let name = name.to_str().expect("plain names");
        let decided = TOP_LEVEL.contains(&name) || ["src", "tests"].contains(&name);
        assert!(
            decided || MADE_BY_TOOLS.contains(&name),
            "{name} lies at the top of the tree"
        );
    }
}

#[test]
fn no_file_names_a_folder_of_somebodys_machine() {
    for (file, text) in texts(root()) {
        for path in MACHINE_PATHS {
            let line = text.lines().position(|line| line.contains(path));
            assert_eq!(line, None, "{file} names {path} (line counted from 0)");
        }
    }
}

#[test]
fn every_test_that_the_readme_names_exists() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md can be read");
    let code: String = ["src", "tests"]
        .iter()
        .flat_map(|folder| texts(&root().join(folder)))
        .map(|(_, text)| text)
        .collect();
    // Between backticks: the odd pieces. Only tests have names that long.
    let named: Vec<&str> = readme
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.matches('_').count() >= 5 && !name.contains(' '))
        .collect();
    assert!(named.len() >= 10, "{named:?}");
    for name in named {
        assert!(code.contains(&format!("fn {name}(")), "no test {name}");
    }
}

#[test]
fn the_rules_themselves_see_what_they_should() {
    assert!(names("use sled::Db;", "sled::"));
    assert!(!names("bundled::x", "sled::"));
    assert!(is_behind("ws/a.rs", "ws/") && is_behind("a/b.rs", "a/b.rs"));
    assert!(is_behind("a/b/c.rs", "a/b.rs") && !is_behind("a/bc.rs", "a/b.rs"));
    assert_eq!(
        code("// sled::Db\nlet x = 1; // why\n"),
        "let x = 1; // why\n"
    );
    let named = modules_named("use crate::{journal::{Entry, Event}, types};\ncrate::ledger::X");
    assert_eq!(
        named.into_iter().collect::<Vec<_>>(),
        ["journal", "ledger", "types"]
    );
}
