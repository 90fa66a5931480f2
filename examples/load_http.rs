//! A closed loop of payments: each connection sends its next request when the last one is answered.
//!
//! `cargo run --release --example load_http -- --address 127.0.0.1:8001 [options]`
//!
//! | option | default | |
//! | --- | --- | --- |
//! | `--connections` | 64 | kept open |
//! | `--seconds` | 3 | of measuring, after `--warm-up-ms` (500), whose requests are not counted |
//! | `--requests` | – | instead of the time: that many, without a warm-up |
//! | `--wallets` | 1000 | of which each transfer draws two |
//! | `--fill` | | instead of the time: each wallet in turn, so that all are opened |
//! | `--batch` | 1 | transfers a request; from 2 on `POST /api/v1/transactions/batch` |
//! | `--reads` | – | instead of payments: `balance` of a wallet, or `transaction`, one of some thousand made before |
//! | `--count-statuses` | | answers other than expected are counted, not the end |
//!
//! Every request names other wallets, drawn as in every run before. Prints one JSON line. One thread and a minimal reading of answers, since it shares the machine with what it
//! measures; loopback only. A closed loop hides what would have waited in line while the server paused: the latencies
//! are those of requests that were sent.

#![expect(clippy::print_stdout, reason = "printing is what an example does")]

use echopay::clock::{Clock, SystemClock};
use serde_json::json;
use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

type Failure = Box<dyn Error + Send + Sync>;

/// Transactions that are made before `--reads transaction` reads them.
const READ_TRANSACTIONS: usize = 4_096;
/// Length of the part of a wallet's id that is its number; the rest is the same in all.
const NUMBER_BYTES: usize = 18;
/// Where in it the digits stand.
const DIGITS: [usize; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17];
const ANSWER_BYTES_MAX: usize = 64 << 20;

struct Options {
    address: SocketAddr,
    connections: usize,
    seconds: f64,
    warm_up_ms: u64,
    requests: Option<u64>,
    wallets: usize,
    batch: usize,
    fills: bool,
    reads: Option<Reads>,
    counts_statuses: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Balance,
    Transaction,
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
            fills: false,
            reads: None,
            counts_statuses: false,
        };
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--count-statuses" => options.counts_statuses = true,
                "--fill" => options.fills = true,
                _ => {}
            }
            if matches!(name.as_str(), "--count-statuses" | "--fill") {
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
                "--reads" => {
                    options.reads = Some(match value.as_str() {
                        "balance" => Reads::Balance,
                        "transaction" => Reads::Transaction,
                        _ => return Err("--reads balance, or transaction".into()),
                    });
                }
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        if !options.address.ip().is_loopback() {
            return Err("load_http is for a server on this machine".into());
        }
        if options.connections == 0 || options.wallets < 2 || options.batch == 0 {
            return Err("at least one connection, two wallets and one transfer a request".into());
        }
        if options.fills {
            options.requests = Some(u64::try_from(options.wallets.div_ceil(2 * options.batch))?);
        }
        Ok(options)
    }

    const fn status(&self) -> u16 {
        if self.batch > 1 || self.reads.is_some() {
            200
        } else {
            201
        }
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

    /// The time to send the next request, and how many may follow it; `None` at the end.
    fn next(&self) -> Option<(Duration, u64)> {
        let now = self.clock.monotonic();
        if now >= self.until {
            return None;
        }
        let take = |left: u64| left.checked_sub(1);
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        Some((now, left.ok()? - 1))
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
    let ids = match options.reads {
        Some(Reads::Transaction) => make_transactions(&options).await?,
        _ => Vec::new(),
    };
    let ids = Arc::new(ids);
    let mut streams = Vec::with_capacity(options.connections);
    for _ in 0..options.connections {
        streams.push(connect(&options).await?);
    }
    let course = Arc::new(Course::new(&options));
    let mut connections = JoinSet::new();
    for (number, stream) in (0..).zip(streams) {
        let (options, course) = (Arc::clone(&options), Arc::clone(&course));
        let requests = Requests::new(&options, number, Arc::clone(&ids));
        connections.spawn(async move { pay(stream, &options, &course, requests).await });
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

async fn connect(options: &Options) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(options.address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The ids of some thousand transactions, made for that.
async fn make_transactions(options: &Options) -> Result<Vec<String>, Failure> {
    let asked = Options {
        batch: READ_TRANSACTIONS,
        reads: None,
        ..*options
    };
    let mut stream = connect(options).await?;
    let mut requests = Requests::new(&asked, u64::MAX, Arc::default());
    stream.write_all(requests.next(0)).await?;
    let mut answer = Vec::new();
    read_answer(&mut stream, &mut answer).await?;
    let text = String::from_utf8(answer)?;
    let ids: Vec<String> = text
        .split("\"transaction_id\":\"")
        .skip(1)
        .filter_map(|rest| Some(rest.get(..36)?.to_owned()))
        .collect();
    if ids.is_empty() {
        return Err("no transaction was made".into());
    }
    Ok(ids)
}

/// One connection's loop.
async fn pay(
    mut stream: TcpStream,
    options: &Options,
    course: &Course,
    mut requests: Requests,
) -> Result<Tally, Failure> {
    let expected = options.status();
    let mut tally = Tally::default();
    let mut answer = Vec::with_capacity(4_096);
    while let Some((sent_at, left)) = course.next() {
        stream.write_all(requests.next(left)).await?;
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

/// The requests of one connection: one text whose wallets, or whose transaction, are written anew for each.
struct Requests {
    text: Vec<u8>,
    /// Where the numbers of wallets stand, or the id of a transaction.
    places: Vec<usize>,
    wallets: u64,
    /// Wallets a request, when each is taken in turn.
    in_turn: Option<u64>,
    ids: Arc<Vec<String>>,
    draw: u64,
}

impl Requests {
    fn new(options: &Options, connection: u64, ids: Arc<Vec<String>>) -> Self {
        let wallet = "#".repeat(NUMBER_BYTES) + "-8000-000000000001";
        let head = match options.reads {
            Some(Reads::Balance) => format!("GET /api/v1/wallets/{wallet}/balance"),
            Some(Reads::Transaction) => format!("GET /api/v1/transactions/{}", "#".repeat(36)),
            None if options.batch > 1 => "POST /api/v1/transactions/batch".to_owned(),
            None => "POST /api/v1/transactions".to_owned(),
        };
        let transfer = format!(
            "{{\"from_wallet\":\"{wallet}\",\"to_wallet\":\"{wallet}\",\"amount\":0.01,\"currency\":\"USD-CBDC\",\
             \"metadata\":{{\"note\":\"nineteen characters!\",\"n\":1}}}}"
        );
        let body = match (options.reads, options.batch) {
            (Some(_), _) => String::new(),
            (None, 1) => transfer,
            (None, batch) => format!("{{\"transactions\":[{}]}}", vec![transfer; batch].join(",")),
        };
        let text = format!(
            "{head} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            options.address,
            body.len()
        )
        .into_bytes();
        let places = (1..text.len())
            .filter(|at| text.get(*at) == Some(&b'#') && text.get(at - 1) != Some(&b'#'))
            .collect();
        Self {
            text,
            places,
            wallets: options.wallets as u64,
            in_turn: options.fills.then_some(2 * options.batch as u64),
            ids,
            draw: connection.wrapping_mul(0x2545_f491_4f6c_dd1d),
        }
    }

    /// The next one, head and body; `left` requests follow it on all connections.
    fn next(&mut self, left: u64) -> &[u8] {
        if self.ids.is_empty() {
            let mut before = None;
            for at in 0..self.places.len() {
                let drawn = match self.in_turn {
                    Some(count) => (left * count + at as u64) % self.wallets,
                    None => self.draw() % self.wallets,
                };
                // Nobody pays himself.
                let number = if before == Some(drawn) {
                    (drawn + 1) % self.wallets
                } else {
                    drawn
                };
                before = (at % 2 == 0).then_some(number);
                let mut text = [b'-'; NUMBER_BYTES];
                for (index, at) in (0..).zip(DIGITS) {
                    let digit = usize::try_from((number + 1) >> (60 - 4 * index) & 15);
                    text[at] = b"0123456789abcdef"[digit.unwrap_or_default()];
                }
                self.write(at, &text);
            }
        } else {
            let drawn = usize::try_from(self.draw()).unwrap_or_default() % self.ids.len();
            let ids = Arc::clone(&self.ids);
            self.write(0, ids.get(drawn).map_or(&[], |id| id.as_bytes()));
        }
        &self.text
    }

    fn write(&mut self, place: usize, text: &[u8]) {
        let at = self.places.get(place).copied().unwrap_or_default();
        if let Some(digits) = self.text.get_mut(at..at + text.len()) {
            digits.copy_from_slice(text);
        }
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    const fn draw(&mut self) -> u64 {
        self.draw = self.draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.draw;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn report(options: &Options, tally: Tally, took: Duration) {
    let mut latencies_us = tally.latencies_us;
    latencies_us.sort_unstable();
    let count = latencies_us.len();
    let at = |share_millionths: usize| {
        let rank = count.saturating_mul(share_millionths) / 1_000_000;
        latencies_us.get(rank.min(count.saturating_sub(1))).copied()
    };
    let expected = options.status();
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
