//! A closed loop of payments: each connection sends its next request when the last one is answered.
//!
//! `cargo run --release --example load_http -- --address 127.0.0.1:8001 [options]`
//!
//! | option | default | |
//! | --- | --- | --- |
//! | `--connections` | 64 | kept open |
//! | `--seconds` | 3 | of measuring, after `--warm-up-ms` (500), whose requests are not counted |
//! | `--requests` | – | instead of the time: that many, without a warm-up |
//! | `--wallets` | 1000 | between which money goes in circles |
//! | `--batch` | 1 | transfers a request; from 2 on `POST /api/v1/transactions/batch` |
//! | `--count-statuses` | | answers other than expected are counted, not the end |
//!
//! Prints one JSON line. One thread and a minimal reading of answers, since it shares the machine with what it
//! measures; loopback only. A closed loop hides what would have waited in line while the server paused: the latencies
//! are those of requests that were sent.

#![expect(clippy::print_stdout, reason = "printing is what an example does")]

use echopay::clock::{Clock, SystemClock};
use serde_json::json;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use uuid::Uuid;

type Failure = Box<dyn Error + Send + Sync>;

/// Different requests that are made ahead; a connection takes every n-th.
const BODIES_SINGLE: usize = 4_096;
const BODIES_BATCH: usize = 64;
const ANSWER_BYTES_MAX: usize = 64 << 20;

struct Options {
    address: SocketAddr,
    connections: usize,
    seconds: f64,
    warm_up_ms: u64,
    requests: Option<u64>,
    wallets: usize,
    batch: usize,
    counts_statuses: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8001)),
            connections: 64,
            seconds: 3.0,
            warm_up_ms: 500,
            requests: None,
            wallets: 1_000,
            batch: 1,
            counts_statuses: false,
        };
        while let Some(name) = arguments.next() {
            if name == "--count-statuses" {
                options.counts_statuses = true;
                continue;
            }
            let value = arguments
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--address" => options.address = value.parse()?,
                "--connections" => options.connections = value.parse()?,
                "--seconds" => options.seconds = value.parse()?,
                "--warm-up-ms" => options.warm_up_ms = value.parse()?,
                "--requests" => options.requests = Some(value.parse()?),
                "--wallets" => options.wallets = value.parse()?,
                "--batch" => options.batch = value.parse()?,
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        if !options.address.ip().is_loopback() {
            return Err("load_http is for a server on this machine".into());
        }
        if options.connections == 0 || options.wallets < 2 || options.batch == 0 {
            return Err("at least one connection, two wallets and one transfer a request".into());
        }
        Ok(options)
    }
}

/// What one connection saw.
#[derive(Default)]
struct Tally {
    latencies_us: Vec<u32>,
    statuses: BTreeMap<u16, u64>,
}

/// When to begin counting and when to stop.
struct Course {
    clock: SystemClock,
    counted_from: Duration,
    until: Duration,
    /// Requests that may still be sent.
    left: AtomicU64,
}

impl Course {
    fn new(options: &Options) -> Self {
        let counted_from = Duration::from_millis(options.warm_up_ms);
        let clock = SystemClock::new();
        match options.requests {
            Some(requests) => Self {
                clock,
                counted_from: Duration::ZERO,
                until: Duration::MAX,
                left: AtomicU64::new(requests),
            },
            None => Self {
                clock,
                counted_from,
                until: counted_from + Duration::from_secs_f64(options.seconds),
                left: AtomicU64::new(u64::MAX),
            },
        }
    }

    /// The time to send the next request, or `None` at the end.
    fn next(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        let take = |left: u64| left.checked_sub(1);
        (now < self.until
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok())
        .then_some(now)
    }
}

fn main() -> Result<(), Failure> {
    let options = Arc::new(Options::parse(std::env::args().skip(1))?);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(options))
}

async fn run(options: Arc<Options>) -> Result<(), Failure> {
    let bodies = Arc::new(requests(&options)?);
    let mut streams = Vec::with_capacity(options.connections);
    for _ in 0..options.connections {
        let stream = TcpStream::connect(options.address).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let course = Arc::new(Course::new(&options));
    let mut connections = JoinSet::new();
    for (number, stream) in streams.into_iter().enumerate() {
        let (options, course) = (Arc::clone(&options), Arc::clone(&course));
        let bodies = Arc::clone(&bodies);
        connections.spawn(async move { pay(number, stream, &options, &course, &bodies).await });
    }
    let mut all = Tally::default();
    while let Some(ended) = connections.join_next().await {
        let tally = ended??;
        all.latencies_us.extend(tally.latencies_us);
        for (status, count) in tally.statuses {
            *all.statuses.entry(status).or_default() += count;
        }
    }
    let ended = course.clock.monotonic().min(course.until);
    let took = ended.saturating_sub(course.counted_from);
    report(&options, all, took);
    Ok(())
}

/// One connection's loop.
async fn pay(
    number: usize,
    mut stream: TcpStream,
    options: &Options,
    course: &Course,
    bodies: &[Vec<u8>],
) -> Result<Tally, Failure> {
    let expected = if options.batch > 1 { 200 } else { 201 };
    let mut tally = Tally::default();
    let mut answer = Vec::with_capacity(4_096);
    let mut requests = bodies.iter().cycle().skip(number * 61 % bodies.len());
    while let Some(sent_at) = course.next() {
        let request = requests.next().ok_or("no requests")?;
        stream.write_all(request).await?;
        let status = read_answer(&mut stream, &mut answer).await?;
        // A batch is 200 even if its transfers were refused; then they say so, each in its place.
        if !options.counts_statuses
            && (status != expected || std::str::from_utf8(&answer)?.contains("\"error\""))
        {
            let text = String::from_utf8_lossy(&answer);
            let start = text.chars().take(1_000).collect::<String>();
            return Err(format!("expected {expected}, got: {start}").into());
        }
        let answered_at = course.clock.monotonic();
        if answered_at >= course.counted_from && answered_at <= course.until {
            let took = answered_at.saturating_sub(sent_at);
            tally.latencies_us.push(u32::try_from(took.as_micros())?);
            *tally.statuses.entry(status).or_default() += 1;
        }
    }
    Ok(tally)
}

/// Reads one whole answer, head and body, into `answer`; its status.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<u16, Failure> {
    const LENGTH: &[u8] = b"\r\ncontent-length: ";
    answer.clear();
    let (head_bytes, status, body_bytes) = loop {
        if stream.read_buf(answer).await? == 0 {
            return Err("the server closed the connection".into());
        }
        let Some(head_bytes) = find(answer, b"\r\n\r\n").map(|at| at + 4) else {
            continue;
        };
        let head = answer.get(..head_bytes).unwrap_or_default();
        let status = head.get(9..12).ok_or("no status")?;
        let length = find(head, LENGTH).ok_or("no content-length")? + LENGTH.len();
        let digits = head.get(length..).unwrap_or_default();
        let end = find(digits, b"\r").unwrap_or_default();
        let number = |text: &[u8]| std::str::from_utf8(text).map(str::parse::<usize>);
        let status = u16::try_from(number(status)??)?;
        break (head_bytes, status, number(&digits[..end])??);
    };
    let whole = head_bytes + body_bytes;
    if whole > ANSWER_BYTES_MAX {
        return Err("an answer of more than 64 MiB".into());
    }
    answer.reserve(whole.saturating_sub(answer.len()));
    while answer.len() < whole {
        if stream.read_buf(answer).await? == 0 {
            return Err("the server closed the connection".into());
        }
    }
    Ok(status)
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

/// The requests, head and body, ready to be written.
fn requests(options: &Options) -> Result<Vec<Vec<u8>>, Failure> {
    let (path, count) = if options.batch > 1 {
        ("/api/v1/transactions/batch", BODIES_BATCH)
    } else {
        ("/api/v1/transactions", BODIES_SINGLE)
    };
    let mut payer = 0;
    let mut transfer = move || {
        payer = (payer + 1) % options.wallets;
        // Why not the neighbour: pairs that change with each round spread over more of the books.
        let receiver = (payer * 7 + 3) % options.wallets;
        let receiver = if receiver == payer {
            (payer + 1) % options.wallets
        } else {
            receiver
        };
        let wallet = |number: usize| Uuid::from_u128(((number as u128 + 1) << 64) | 1 << 63 | 1);
        format!(
            "{{\"from_wallet\":\"{}\",\"to_wallet\":\"{}\",\"amount\":0.01,\"currency\":\"USD-CBDC\",\
             \"metadata\":{{\"note\":\"nineteen characters!\",\"n\":1}}}}",
            wallet(payer),
            wallet(receiver)
        )
    };
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let body = if options.batch > 1 {
            let transfers: Vec<_> = (0..options.batch).map(|_| transfer()).collect();
            format!("{{\"transactions\":[{}]}}", transfers.join(","))
        } else {
            transfer()
        };
        let mut request = String::with_capacity(body.len() + 200);
        write!(
            request,
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            options.address,
            body.len()
        )?;
        all.push(request.into_bytes());
    }
    Ok(all)
}

fn report(options: &Options, tally: Tally, took: Duration) {
    let mut latencies_us = tally.latencies_us;
    latencies_us.sort_unstable();
    let count = latencies_us.len();
    let at = |share_millionths: usize| {
        let rank = count.saturating_mul(share_millionths) / 1_000_000;
        latencies_us.get(rank.min(count.saturating_sub(1))).copied()
    };
    let expected = if options.batch > 1 { 200 } else { 201 };
    let unexpected = tally
        .statuses
        .iter()
        .filter(|(status, _)| **status != expected);
    let transfers = count.saturating_mul(options.batch);
    let mut line = json!({
        "connections": options.connections,
        "batch": options.batch,
        "requests": count,
        "errors": unexpected.map(|(_, count)| count).sum::<u64>(),
        "seconds": took.as_secs_f64(),
        "transfers_per_second": whole(transfers) / took.as_secs_f64(),
        "p50_us": at(500_000),
        "p99_us": at(990_000),
        "p999_us": at(999_000),
        "max_us": latencies_us.last(),
    });
    if options.counts_statuses {
        line["statuses"] = json!(tally.statuses);
    }
    println!("{line}");
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn whole(count: usize) -> f64 {
    count as f64
}
