//! [`TestServer`]: the real binary on a free port with a data folder of its own, and a client that speaks to it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that cannot go on fails the test"
)]

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::HeaderMap;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// How long anything in a test may take before it counts as hanging. Generous: the machine may be busy.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// What is kept of a child's stderr, to be printed when the test fails.
const STDERR_KEPT_BYTES: usize = 64 * 1024;

/// Environment variables that would change what a child does, beside all of `ECHOPAY_…`.
const ENVIRONMENT_READ: [&str; 3] = ["KAFKA_BROKERS", "KAFKA_TOPIC", "PORT"];

/// A running `echopay`. Dropping it kills the process and, when the test failed, prints the end of its log.
#[derive(Debug)]
pub(crate) struct TestServer {
    child: Child,
    client: Client,
    stderr: Log,
    command: &'static str,
    flags: Vec<String>,
    data_dir: TempDir,
}

impl TestServer {
    /// `echopay dev` without further flags.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// `echopay dev` with `flags` behind `--listen 127.0.0.1:0 --data-dir <a folder of its own>`.
    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        Self::launch("dev", flags, TempDir::new().unwrap()).await
    }

    /// `echopay serve`, likewise.
    pub(crate) async fn start_serve(flags: &[&str]) -> Self {
        Self::launch("serve", flags, TempDir::new().unwrap()).await
    }

    /// `echopay <command>` on a data folder that the test has prepared.
    pub(crate) async fn launch(command: &'static str, flags: &[&str], data_dir: TempDir) -> Self {
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let started = Starting::spawn(command, data_dir.path(), &flags);
        let (child, address, stderr) = started.ready().await;
        Self {
            child,
            client: Client::new(address),
            stderr,
            command,
            flags,
            data_dir,
        }
    }

    /// Where it listens. Changes with [`TestServer::restart`].
    pub(crate) fn addr(&self) -> SocketAddr {
        self.client.addr()
    }

    /// `http://127.0.0.1:PORT<path>`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// Its data folder; stays over a restart, goes with the value.
    pub(crate) fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// The process id, for `/proc`.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client that can be cloned into tasks. It follows the server over a restart.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// What it logged so far, at most the last 64 KiB.
    pub(crate) fn log(&self) -> String {
        text_of(&self.stderr)
    }

    /// See [`Client::get`].
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(path).await
    }

    /// See [`Client::post_json`].
    pub(crate) async fn post_json(&self, path: &str, body: &str) -> Response {
        self.client.post_json(path, body).await
    }

    /// See [`Client::patch_json`].
    pub(crate) async fn patch_json(&self, path: &str, body: &str) -> Response {
        self.client.patch_json(path, body).await
    }

    /// See [`Client::request`].
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        self.client.request(method, path, headers, body).await
    }

    /// `SIGKILL`, and waits until the process is gone. The status tells who did not end by it, but before.
    pub(crate) fn kill9(&mut self) -> ExitStatus {
        self.child.kill().expect("the child is ours to kill");
        self.child.wait().expect("the child can be waited for")
    }

    /// Sends `signal` and goes on.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child is ours to signal");
    }

    /// `SIGTERM`, then waits for the orderly end.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_exit().await
    }

    /// Waits until the process ends by itself.
    pub(crate) async fn wait_for_exit(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(DEADLINE, "the server ends", async || {
            status = self.child.try_wait().expect("the child can be waited for");
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// Starts the same command again on the same data folder; a process that still runs is terminated first.
    pub(crate) async fn restart(&mut self) {
        let flags = std::mem::take(&mut self.flags);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        self.restart_with(&flags).await;
    }

    /// Like [`TestServer::restart`], with other flags.
    pub(crate) async fn restart_with(&mut self, flags: &[&str]) {
        if self
            .child
            .try_wait()
            .expect("the child can be waited for")
            .is_none()
        {
            self.terminate().await;
        }
        self.flags = flags.iter().map(ToString::to_string).collect();
        let starting = self.begin_restart();
        self.finish_restart(starting).await;
    }

    /// Starts the same command again on the same data folder, where the last process has ended, and does not wait for
    /// it: whoever gets the value may kill it on its way up.
    pub(crate) fn begin_restart(&self) -> Starting {
        Starting::spawn(self.command, self.data_dir.path(), &self.flags)
    }

    /// Waits until `starting` is ready, and goes on with it.
    pub(crate) async fn finish_restart(&mut self, starting: Starting) {
        let (child, address, stderr) = starting.ready().await;
        self.child = child;
        self.stderr = stderr;
        self.client.move_to(address);
    }

    /// Leaves the data folder behind for whoever looks into a failure; gives its path.
    pub(crate) fn keep_data_dir(&mut self) -> &Path {
        self.data_dir.disable_cleanup(true);
        self.data_dir.path()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_waited_for = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server's log ends with:\n{}---", self.log());
        }
    }
}

/// The end of what a child logged.
type Log = Arc<Mutex<VecDeque<u8>>>;

fn text_of(log: &Log) -> String {
    let kept: Vec<u8> = log.lock().iter().copied().collect();
    String::from_utf8_lossy(&kept).into_owned()
}

/// A server on its way up. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Starting {
    child: Option<Child>,
    stderr: Log,
    first_line_rx: oneshot::Receiver<Option<std::io::Result<String>>>,
}

impl Starting {
    /// `echopay <command>` on a data folder, with `flags`.
    pub(crate) fn spawn(command: &str, data_dir: &Path, flags: &[String]) -> Self {
        let mut child = echopay()
            .args([command, "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");

        let stderr = Log::default();
        let kept = Arc::clone(&stderr);
        let mut err = child.stderr.take().unwrap();
        in_thread("child-stderr", move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = err.read(&mut chunk) {
                let mut kept = kept.lock();
                kept.extend(&chunk[..count]);
                let excess = kept.len().saturating_sub(STDERR_KEPT_BYTES);
                kept.drain(..excess);
            }
        });

        let (first_line_tx, first_line_rx) = oneshot::channel();
        let out = child.stdout.take().unwrap();
        in_thread("child-stdout", move || {
            let mut lines = BufReader::new(out).lines();
            let _test_gave_up = first_line_tx.send(lines.next());
            // The rest is read on, so that the child never waits for us.
            lines.for_each(drop);
        });
        Self {
            child: Some(child),
            stderr,
            first_line_rx,
        }
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        text_of(&self.stderr)
    }

    /// `SIGKILL`, and waits until the process is gone. Gives how it ended and what it logged.
    pub(crate) fn kill9(mut self) -> (ExitStatus, String) {
        let mut child = self.child.take().unwrap();
        child.kill().expect("the child is ours to kill");
        let status = child.wait().expect("the child can be waited for");
        (status, self.log())
    }

    /// `SIGTERM`, and waits until the process is gone. Gives how it ended and what it logged.
    pub(crate) async fn terminate(mut self) -> (ExitStatus, String) {
        let mut child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).expect("the child is ours");
        let mut status = None;
        wait_until(DEADLINE, "a server on its way up ends", async || {
            status = child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        (status.unwrap(), self.log())
    }

    /// Waits for the first line on stdout, which says where it listens.
    async fn ready(mut self) -> (Child, SocketAddr, Log) {
        let first_line = tokio::time::timeout(DEADLINE, &mut self.first_line_rx).await;
        let address = match &first_line {
            Ok(Ok(Some(Ok(line)))) => line
                .strip_prefix("listening on http://")
                .and_then(|rest| rest.parse().ok()),
            _ => None,
        };
        let Some(address) = address else {
            let (status, log) = self.kill9();
            panic!(
                "the server is not ready ({status}); first line on stdout: {first_line:?}; log:\n{log}"
            );
        };
        (
            self.child.take().unwrap(),
            address,
            Arc::clone(&self.stderr),
        )
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _already_gone = child.kill();
            let _already_waited_for = child.wait();
        }
    }
}

/// The binary under test, without settings from the environment of whoever runs the tests.
pub(crate) fn echopay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echopay"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ECHOPAY_") {
            command.env_remove(name);
        }
    }
    for name in ENVIRONMENT_READ {
        command.env_remove(name);
    }
    command
}

/// Runs `echopay <args>` until it ends by itself: for settings that it refuses, and for `--help`.
pub(crate) async fn run_to_end(args: &[&str]) -> Output {
    run_to_end_with(args, &[]).await
}

/// Like [`run_to_end`], with environment variables.
pub(crate) async fn run_to_end_with(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let child = echopay()
        .args(args)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let pid = Pid::from_child(&child);
    let (output_tx, output_rx) = oneshot::channel();
    in_thread("child-output", move || {
        let _test_gave_up = output_tx.send(child.wait_with_output());
    });
    let Ok(output) = tokio::time::timeout(DEADLINE, output_rx).await else {
        let _already_gone = kill_process(pid, Signal::KILL);
        panic!("`echopay {}` does not end", args.join(" "));
    };
    output
        .expect("the thread answers")
        .expect("the child can be waited for")
}

fn in_thread(name: &str, work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .expect("the system gives a thread");
}

/// Asks `condition` until it holds: `wait_until(DEADLINE, "the balance arrives", async || …).await`.
///
/// # Panics
/// When it does not within `deadline`; `what` says what was waited for.
#[track_caller]
pub(crate) fn wait_until(
    deadline: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let polling = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(deadline, polling).await;
        assert!(
            in_time.is_ok(),
            "{caller}: waited {deadline:?} in vain until {what}"
        );
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The whole body.
    pub(crate) body: String,
}

impl Response {
    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.body) {
            Ok(value) => value,
            Err(error) => panic!(
                "no JSON ({error}) in the {} answer: {}",
                self.status, self.body
            ),
        }
    }

    /// A header's text; empty when it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// An HTTP/1.1 client of one server; clones share its kept-alive connections.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    shared: Arc<Mutex<Connections>>,
}

#[derive(Debug)]
struct Connections {
    address: SocketAddr,
    idle: Vec<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client of whoever listens on `address`.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            shared: Arc::new(Mutex::new(Connections {
                address,
                idle: Vec::new(),
            })),
        }
    }

    /// Where requests go.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.shared.lock().address
    }

    /// From now on speaks to another address.
    fn move_to(&self, address: SocketAddr) {
        *self.shared.lock() = Connections {
            address,
            idle: Vec::new(),
        };
    }

    /// `GET path`.
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], "").await
    }

    /// `POST path` with a JSON body.
    pub(crate) async fn post_json(&self, path: &str, body: &str) -> Response {
        self.request("POST", path, &[("content-type", "application/json")], body)
            .await
    }

    /// `PATCH path` with a JSON body.
    pub(crate) async fn patch_json(&self, path: &str, body: &str) -> Response {
        self.request("PATCH", path, &[("content-type", "application/json")], body)
            .await
    }

    /// Any request.
    ///
    /// # Panics
    /// When no whole answer comes back; see [`Client::try_request`].
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        match self.try_request(method, path, headers, body).await {
            Ok(response) => response,
            Err(reason) => panic!("{method} {path}: {reason}"),
        }
    }

    /// Like [`Client::request`], for servers that may die meanwhile: whether the request had an effect is unknown
    /// after an error. A request is sent at most once.
    ///
    /// # Errors
    /// What went wrong, as text.
    pub(crate) async fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Response, String> {
        let exchange = self.exchange(method, path, headers, body);
        match tokio::time::timeout(DEADLINE, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {DEADLINE:?}")),
        }
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Response, String> {
        let address = self.addr();
        let mut request = hyper::Request::builder().method(method).uri(path);
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            request = request.header("host", address.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .unwrap();

        loop {
            let idle = self.shared.lock().idle.pop();
            let kept_alive = idle.is_some();
            let mut sender = match idle {
                Some(sender) => sender,
                None => connect(address).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = body
                        .collect()
                        .await
                        .map_err(|error| error.to_string())?
                        .to_bytes();
                    self.put_back(address, sender).await;
                    return Ok(Response {
                        status: head.status.as_u16(),
                        headers: head.headers,
                        body: String::from_utf8(body.to_vec()).map_err(|e| e.to_string())?,
                    });
                }
                // Given back unsent: the server had closed this kept-alive connection.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if kept_alive => request = unsent,
                    _ => return Err(error.into_error().to_string()),
                },
            }
        }
    }

    /// Keeps the connection for the next request, unless it is closed or leads to a server that is gone.
    async fn put_back(&self, address: SocketAddr, mut sender: SendRequest<Full<Bytes>>) {
        if sender.ready().await.is_ok() {
            let mut shared = self.shared.lock();
            if shared.address == address {
                shared.idle.push(sender);
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's connection is no task of the service"
)]
async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        // An error shows at whoever waits for the answer.
        let _ended = connection.with_upgrades().await;
    });
    Ok(sender)
}
