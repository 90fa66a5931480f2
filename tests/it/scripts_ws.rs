//! `scripts/test-websocket-integration.js` against the real binary, with what `npm ci` installs for it.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::server::TestServer;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SCRIPT: &str = "test-websocket-integration.js";

/// A folder under `target/` with the script and its packages.
fn install() -> std::io::Result<PathBuf> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scripts");
    std::fs::create_dir_all(&folder)?;
    for file in [SCRIPT, "package.json", "package-lock.json"] {
        std::fs::copy(scripts.join(file), folder.join(file))?;
    }
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("npm-cache");
    let npm = Command::new("npm")
        .args([
            "ci",
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
            "--cache",
        ])
        .arg(cache)
        .current_dir(&folder)
        .output()?;
    if npm.status.success() {
        return Ok(folder);
    }
    Err(std::io::Error::other(
        String::from_utf8_lossy(&npm.stderr).into_owned(),
    ))
}

/// Whether a missing Node fails the test: CI sets `ECHOPAY_REQUIRE_NODE=1`.
fn node_is_required() -> bool {
    std::env::vars_os().any(|(name, value)| name == "ECHOPAY_REQUIRE_NODE" && value == "1")
}

fn run(folder: &Path, url: &str) -> Output {
    let script = folder.join(SCRIPT);
    Command::new("node")
        .arg(script)
        .arg(url)
        .env_remove("TOKEN")
        .output()
        .unwrap()
}

#[tokio::test]
async fn the_websocket_script_passes_and_notices_a_server_that_is_gone() {
    let folder = match install() {
        Ok(folder) => folder,
        Err(reason) => {
            assert!(!node_is_required(), "node and npm are required: {reason}");
            // Past the capture of the test harness: a skipped test must not look like one that passed.
            let _closed = writeln!(
                std::io::stderr(),
                "SKIPPED the WebSocket script needs node, npm and its package: {reason}"
            );
            return;
        }
    };
    let mut server = TestServer::start().await;
    let url = format!("http://{}", server.addr());
    let output = run(&folder, &url);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains(" passed, 0 failed"), "{text}");

    server.kill9();
    assert_eq!(
        run(&folder, &url).status.code(),
        Some(1),
        "a check that cannot run has failed"
    );
}
