//! [`Proxy`]: a TCP proxy inside the test process, in front of a broker, which does at run time what networks do on
//! their worst day: refuse, reset in mid-batch, hold back (and deliver when nobody expects it any more), crawl, and
//! swallow.
//!
//! ```text
//! echopay ──► proxy's port ──► the broker's second listener, which it advertises under the proxy's port
//! test    ──────────────────► the broker's first listener
//! ```
//! A thread with a runtime of its own serves it, so that tests with and without a runtime can use it, and a test that
//! blocks does not stop it.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the pace of a slow line needs the time of the proxy's own runtime"
)]

use crate::support::kafka::Broker;
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Most bytes read ahead of whoever they are for, where they are held back.
const HELD_BYTES_MAX: usize = 64 << 20;
/// The same where they only go slowly: about what the buffers of a slow line hold.
const AHEAD_BYTES_MAX: usize = 32 << 10;
const CHUNK_BYTES: usize = 64 << 10;
const BACKLOG: u32 = 128;

/// One of the two ways through the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Requests.
    ToBroker,
    /// Answers.
    ToClient,
}

/// A TCP proxy on a free port. It ends with the value, and resets what is still open then.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    rules: Arc<watch::Sender<Rules>>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

/// What happens to connections now.
#[derive(Clone, PartialEq, Debug, Default)]
struct Rules {
    upstream: u16,
    refusing: bool,
    ended: bool,
    /// A connection made under another number is reset.
    generation: u64,
    /// For each way: connections numbered below are held.
    held_below: [u64; 2],
    /// Both ways, all connections together.
    bytes_per_second: Option<u64>,
    swallowing: bool,
    /// The n-th connection is reset after so many bytes of requests (n modulo the length).
    reset_after: Vec<u64>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    resets: AtomicU64,
    forwarded: [AtomicU64; 2],
    held: [AtomicU64; 2],
}

impl Proxy {
    /// A broker of the test's own, and a proxy through which alone clients of [`Proxy::address`] reach it.
    pub(crate) fn before_a_broker() -> Option<(Broker, Self)> {
        let proxy = Self::start();
        let broker = Broker::own_behind(proxy.port)?;
        proxy.change(|rules| rules.upstream = broker.proxied_port());
        Some((broker, proxy))
    }

    fn start() -> Self {
        let (rules, rules_view) = watch::channel(Rules::default());
        let counts = Arc::new(Counts::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // Never listens; it keeps the port while connections are refused.
        let keeper = socket(0).unwrap();
        let port = keeper.local_addr().unwrap().port();
        let listener = {
            let _runtime = runtime.enter();
            listen(port)
        };
        let served = Arc::clone(&counts);
        let thread = std::thread::Builder::new()
            .name("proxy".into())
            .spawn(move || {
                runtime.block_on(serve(port, listener, rules_view, served));
                drop(keeper);
            })
            .unwrap();
        Self {
            port,
            rules: Arc::new(rules),
            counts,
            thread: Some(thread),
        }
    }

    /// For `--kafka-brokers`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on everything passes at full speed; what was held goes out, whether or not its sender still lives.
    /// Connections that had bytes swallowed are reset, since nobody could make sense of the rest.
    pub(crate) fn pass(&self) {
        self.change(|rules| {
            *rules = Rules {
                upstream: rules.upstream,
                generation: rules.generation,
                ..Rules::default()
            };
        });
    }

    /// Resets what is open and refuses what comes.
    pub(crate) fn refuse(&self) {
        self.change(|rules| {
            rules.refusing = true;
            rules.generation += 1;
        });
    }

    /// The n-th connection from now on is reset, towards both ends, once exactly `limits[n % limits.len()]` bytes of
    /// its requests have reached the broker. Open connections count too.
    pub(crate) fn reset_after(&self, limits: &[u64]) {
        self.change(|rules| rules.reset_after = limits.into());
    }

    /// Keeps all bytes of one way, also those of connections to come, until [`Proxy::pass`].
    pub(crate) fn hold(&self, way: Way) {
        self.change(|rules| rules.held_below[way as usize] = u64::MAX);
    }

    /// Connections to come pass, those open now stay held: a process that died meanwhile has its last words here.
    pub(crate) fn let_new_pass(&self) {
        let connections = self.connections();
        self.change(|rules| {
            for below in &mut rules.held_below {
                *below = (*below).min(connections);
            }
        });
    }

    /// All connections together carry so many bytes a second each way.
    pub(crate) fn throttle(&self, bytes_per_second: u64) {
        self.change(|rules| rules.bytes_per_second = Some(bytes_per_second.max(1)));
    }

    /// Takes connections and bytes, and nothing comes of either.
    pub(crate) fn swallow(&self) {
        self.change(|rules| rules.swallowing = true);
    }

    /// Connections made so far.
    pub(crate) fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Connections reset so far.
    pub(crate) fn resets(&self) -> u64 {
        self.counts.resets.load(Ordering::Relaxed)
    }

    /// Bytes that have gone through.
    pub(crate) fn forwarded(&self, way: Way) -> u64 {
        self.counts.forwarded[way as usize].load(Ordering::Relaxed)
    }

    /// Bytes held back now.
    pub(crate) fn held(&self, way: Way) -> u64 {
        self.counts.held[way as usize].load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        self.rules.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|rules| rules.ended = true);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn socket(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // So that the listener can go and come while the keeper stays.
    socket.set_reuseport(true)?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    Ok(socket)
}

fn listen(port: u16) -> TcpListener {
    socket(port).unwrap().listen(BACKLOG).unwrap()
}

async fn serve(
    port: u16,
    listener: TcpListener,
    mut rules: watch::Receiver<Rules>,
    counts: Arc<Counts>,
) {
    let mut listener = Some(listener);
    let pace = Arc::new(Mutex::new([Instant::now(); 2]));
    let mut carried = JoinSet::new();
    loop {
        let now = rules.borrow_and_update().clone();
        if now.ended {
            return;
        }
        if now.refusing {
            listener = None;
        } else if listener.is_none() {
            listener = Some(listen(port));
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => if let Ok((client, _)) = accepted {
                let number = counts.connections.fetch_add(1, Ordering::Relaxed);
                let pump = Pump {
                    number,
                    generation: now.generation,
                    rules: rules.clone(),
                    counts: Arc::clone(&counts),
                    pace: Arc::clone(&pace),
                };
                carried.spawn(carry(client, now.upstream, pump));
            },
            changed = rules.changed() => if changed.is_err() {
                return;
            },
            Some(_ended) = carried.join_next() => {}
        }
    }
}

/// The connection has to end by a reset.
struct Reset;

async fn carry(mut client: TcpStream, upstream: u16, pump: Pump) {
    let Ok(mut broker) = TcpStream::connect(("127.0.0.1", upstream)).await else {
        // The broker refuses, which the client hears at once.
        let _gone = client.set_zero_linger();
        return;
    };
    let _gone = (client.set_nodelay(true), broker.set_nodelay(true));
    let outcome = {
        let (client_reads, client_writes) = client.split();
        let (broker_reads, broker_writes) = broker.split();
        tokio::try_join!(
            pump.clone().run(Way::ToBroker, client_reads, broker_writes),
            pump.clone().run(Way::ToClient, broker_reads, client_writes),
        )
    };
    if outcome.is_err() {
        pump.counts.resets.fetch_add(1, Ordering::Relaxed);
        // Dropped with this option, a socket sends RST and forgets what it still had.
        let _gone = (client.set_zero_linger(), broker.set_zero_linger());
    }
}

/// Carries the bytes of one connection.
#[derive(Clone)]
struct Pump {
    number: u64,
    generation: u64,
    rules: watch::Receiver<Rules>,
    counts: Arc<Counts>,
    /// For each way: when a slow line is free again.
    pace: Arc<Mutex<[Instant; 2]>>,
}

impl Pump {
    /// Ends when the source has ended and all it said is delivered. A sink that is gone swallows the rest, so that the
    /// other way goes on: the last words of a client that died are delivered.
    async fn run(
        mut self,
        way: Way,
        mut source: ReadHalf<'_>,
        mut sink: WriteHalf<'_>,
    ) -> Result<(), Reset> {
        let at = way as usize;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut held: Vec<u8> = Vec::new();
        let (mut open, mut sink_gone, mut swallowed) = (true, false, false);
        let mut sent = 0;
        loop {
            let now = self.rules.borrow_and_update().clone();
            if now.generation != self.generation || (swallowed && !now.swallowing) {
                return Err(Reset);
            }
            let limit = match now.reset_after.as_slice() {
                limits if limits.is_empty() || way == Way::ToClient => u64::MAX,
                limits => limits[usize::try_from(self.number).unwrap() % limits.len()],
            };
            if sent >= limit {
                return Err(Reset);
            }
            if sink_gone || (now.swallowing && !held.is_empty()) {
                swallowed |= now.swallowing;
                self.note_held(at, held.len(), 0);
                held.clear();
            }
            let is_held = self.number < now.held_below[at] || now.swallowing;
            if !open && held.is_empty() {
                if is_held {
                    // Its end is held back as well.
                    let _ended = self.rules.changed().await;
                    continue;
                }
                let _gone = sink.shutdown().await;
                return Ok(());
            }
            let free_at = self.pace.lock()[at];
            let waits = now.bytes_per_second.is_some() && free_at > Instant::now();
            let ready = if is_held || waits { 0 } else { held.len() };
            let slice = now
                .bytes_per_second
                .map_or(u64::MAX, |rate| rate.div_ceil(10));
            let ready = ready.min(usize::try_from(slice.min(limit - sent)).unwrap_or(usize::MAX));
            let room = if now.bytes_per_second.is_some() && !is_held {
                AHEAD_BYTES_MAX
            } else {
                HELD_BYTES_MAX
            };
            tokio::select! {
                read = source.read(&mut chunk), if open && held.len() < room => match read {
                    Ok(count @ 1..) => {
                        self.note_held(at, held.len(), held.len() + count);
                        held.extend_from_slice(&chunk[..count]);
                    }
                    Ok(0) | Err(_) => open = false,
                },
                written = sink.write(&held[..ready]), if ready > 0 => {
                    let count = written.unwrap_or(0);
                    sink_gone = count == 0;
                    self.note_held(at, held.len(), held.len() - count);
                    held.drain(..count);
                    let count = u64::try_from(count).unwrap();
                    sent += count;
                    self.counts.forwarded[at].fetch_add(count, Ordering::Relaxed);
                    if let Some(rate) = now.bytes_per_second {
                        let mut pace = self.pace.lock();
                        let since = pace[at].max(Instant::now());
                        pace[at] = since + Duration::from_micros(count * 1_000_000 / rate);
                    }
                },
                () = sleep_until(free_at), if waits && !held.is_empty() => {}
                changed = self.rules.changed() => if changed.is_err() {
                    return Err(Reset);
                },
            }
        }
    }

    fn note_held(&self, at: usize, before: usize, after: usize) {
        let held = &self.counts.held[at];
        let (before, after) = (
            u64::try_from(before).unwrap(),
            u64::try_from(after).unwrap(),
        );
        held.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }
}

mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    /// A proxy before a listener of the test's own.
    fn rig() -> (Proxy, TcpListener) {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start();
        let port = upstream.local_addr().unwrap().port();
        proxy.change(|rules| rules.upstream = port);
        (proxy, upstream)
    }

    fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
        for _ in 0..2_000 {
            if condition() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("waited in vain: {what}");
    }

    #[test]
    fn what_a_dead_client_said_is_delivered_when_the_hold_ends() {
        let (proxy, upstream) = rig();
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        client.write_all(b"before ").unwrap();
        let (mut broker, _) = upstream.accept().unwrap();
        let mut heard = [0; 7];
        broker.read_exact(&mut heard).unwrap();
        proxy.hold(Way::ToBroker);
        client.write_all(b"last words").unwrap();
        wait_until("they are held", || proxy.held(Way::ToBroker) == 10);
        drop(client);

        proxy.let_new_pass();
        let mut second = TcpStream::connect(proxy.address()).unwrap();
        second.write_all(b"hello").unwrap();
        second.shutdown(Shutdown::Write).unwrap();
        let (mut other, _) = upstream.accept().unwrap();
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello", "a new connection passes meanwhile");

        broker
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        broker.read(&mut heard).unwrap_err();
        proxy.pass();
        broker.set_read_timeout(None).unwrap();
        text.clear();
        broker.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
        assert_eq!(proxy.held(Way::ToBroker), 0);
    }

    #[test]
    fn a_connection_is_reset_after_exactly_so_many_bytes_and_a_new_one_is_refused_while_told_so() {
        let (proxy, upstream) = rig();
        proxy.reset_after(&[5]);
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        client.write_all(b"0123456789").unwrap();
        let (mut broker, _) = upstream.accept().unwrap();
        let mut heard = Vec::new();
        let reset = broker.read_to_end(&mut heard).unwrap_err();
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(heard, b"01234");
        let reset = client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!((proxy.connections(), proxy.resets()), (1, 1));

        proxy.refuse();
        wait_until("nobody listens", || {
            TcpStream::connect(proxy.address())
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        });
        proxy.pass();
        wait_until("somebody listens again", || {
            TcpStream::connect(proxy.address()).is_ok()
        });
    }

    #[test]
    fn a_slow_line_lets_so_many_bytes_a_second_through_and_a_hole_none() {
        let (proxy, upstream) = rig();
        proxy.throttle(1_000);
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        client.write_all(&vec![7; 100_000]).unwrap();
        let (mut broker, _) = upstream.accept().unwrap();
        let mut heard = vec![0; 500];
        broker.read_exact(&mut heard).unwrap();
        assert!(proxy.forwarded(Way::ToBroker) < 100_000, "it goes slowly");
        proxy.pass();
        heard.resize(99_500, 0);
        broker.read_exact(&mut heard).unwrap();
        proxy.swallow();
        let mut lost = TcpStream::connect(proxy.address()).unwrap();
        lost.write_all(b"unheard").unwrap();
        let (mut broker, _) = upstream.accept().unwrap();
        broker
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let nothing = broker.read(&mut heard).unwrap_err();
        assert!(matches!(
            nothing.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ));
        proxy.pass();
        lost.read(&mut heard).unwrap_err();
    }
}
