//! A whole request in this process: sockets, HTTP, the ledger, the disk, the tracker; everything but Kafka and `main`.
//!
//! `cargo bench --bench request`. With one connection it is the time that a payment takes; with 64, whose requests are
//! under way at once, what 64 together take.

#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot go on has no result"
)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echopay::auth::Access;
use echopay::clock::{SharedClock, SystemClock};
use echopay::http::{self, Server, Services};
use echopay::ids::IdCipher;
use echopay::journal::{self, Journal, OpenOptions};
use echopay::ledger::{self, Ledger, Loaded};
use echopay::metrics::Metrics;
use echopay::pipeline::{self, PipelineStopper, Sources};
use echopay::tasks::Supervisor;
use echopay::tracker;
use echopay::types::{Currencies, Currency, MinorUnits};
use hyper::Response;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use uuid::Uuid;

const CONNECTIONS: [usize; 2] = [1, 64];
const WALLETS: usize = 1_000;
const QUEUE_BYTES: usize = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
const CREATED: &[u8] = b"HTTP/1.1 201 ";
const HEAD_END: &[u8] = b"\r\n\r\n";

/// The service as `app` builds it, on a port of its own.
struct Running {
    server: Server,
    ledger: Ledger,
    pipeline: PipelineStopper,
    supervisor: Supervisor,
    address: SocketAddr,
}

impl Running {
    async fn start(folder: &Path) -> Self {
        let clock: SharedClock = Arc::new(SystemClock::new());
        let (supervisor, metrics) = (Supervisor::new(), Metrics::default());
        let options = OpenOptions {
            dev: true,
            accept_dev_store: false,
            currencies: Currencies::default(),
            witnesses: Vec::new(),
        };
        let journal = journal::Config::new(folder);
        let journal = Journal::open(&journal, options, Arc::clone(&clock), &supervisor).unwrap();
        let reader = journal.reader();
        let currencies = journal.settings().currencies.clone();
        let ids = IdCipher::new(&journal.settings().id_key);
        let sources = Sources {
            data_dir: folder,
            cursor: None,
            follow: &|after, queue_bytes| journal.follow("pipeline", after, queue_bytes),
            reader: reader.clone(),
            ids: ids.clone(),
            currencies: currencies.clone(),
            clock: Arc::clone(&clock),
            metrics: metrics.clone(),
            supervisor: &supervisor,
        };
        let (pipeline, pipeline_stopper) =
            pipeline::start(pipeline::Config::default(), sources).unwrap();
        let follower = journal.follow("tracker", journal.durable(), QUEUE_BYTES);
        let ledger_config = ledger::Config {
            data_dir: folder.to_owned(),
            opening_balances: Some(vec![(Currency::from_tag(1), MinorUnits::new(1 << 40))]),
            ..ledger::Config::default()
        };
        let loaded = Loaded::read(&ledger_config).unwrap();
        let replayed = loaded.replay(&journal, &clock, &|| false).unwrap();
        let ledger = Ledger::start(
            ledger_config,
            replayed.unwrap(),
            journal,
            &clock,
            &metrics,
            &supervisor,
        )
        .unwrap();
        let (tracker, _ends_with_the_journal) = tracker::start(
            tracker::Config::default(),
            follower,
            &reader,
            Arc::clone(&clock),
            metrics.clone(),
            &supervisor,
        )
        .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let services = Services {
            ledger: ledger.handle(),
            queries: ledger.queries(),
            tracker,
            pipeline,
            metrics,
            access: Arc::new(Access::open()),
            clock,
            reader,
            ids,
            currencies,
            // Nobody asks for these here.
            upgrade: Box::new(|_, _| {
                Response::new(http::Body::from(http_body_util::Full::default()))
            }),
            render_metrics: Arc::new(String::new),
            readiness: Arc::new(Vec::new),
            config: http::Config::default(),
        };
        Self {
            server: Server::start(listener, services, &supervisor),
            ledger,
            pipeline: pipeline_stopper,
            supervisor,
            address,
        }
    }

    async fn stop(mut self) {
        self.supervisor.start_drain();
        self.server.drain(tokio::time::sleep(PATIENCE)).await;
        tokio::task::spawn_blocking(move || {
            assert!(self.ledger.drain(PATIENCE));
            let _nothing_is_shipped = self.pipeline.stop(PATIENCE);
            self.ledger.close().unwrap();
        })
        .await
        .unwrap();
    }
}

/// One client, which asks and waits.
struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            answer: Vec::new(),
        }
    }

    fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).unwrap();
    }

    /// Reads one answer, which is not followed by another.
    fn hear(&mut self) {
        self.answer.clear();
        let mut piece = [0; 4096];
        loop {
            let count = self.stream.read(&mut piece).unwrap();
            assert_ne!(count, 0, "the service hung up");
            self.answer
                .extend_from_slice(piece.get(..count).unwrap_or_default());
            let head_end = self
                .answer
                .windows(HEAD_END.len())
                .position(|end| end == HEAD_END);
            if head_end.is_some() && self.answer.ends_with(b"}") {
                break;
            }
        }
        assert!(
            self.answer.starts_with(CREATED),
            "{}",
            String::from_utf8_lossy(&self.answer)
        );
    }
}

fn requests() -> Vec<Vec<u8>> {
    let wallet = |number: usize| {
        let number = u128::try_from(number % WALLETS).unwrap_or_default() + 1;
        Uuid::from_u128(number << 64 | number)
    };
    (0..WALLETS)
        .map(|number| {
            let body = format!(
                "{{\"from_wallet\":\"{}\",\"to_wallet\":\"{}\",\"amount\":0.01,\"currency\":\"USD-CBDC\",\
                 \"metadata\":{{\"note\":\"nineteen characters!\",\"n\":1}}}}",
                wallet(number),
                wallet(number * 7 + 1)
            );
            format!(
                "POST /api/v1/transactions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes()
        })
        .collect()
}

fn request(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let running = runtime.block_on(Running::start(folder.path()));
    let requests = requests();
    let mut next = requests.iter().cycle();
    let mut group = criterion.benchmark_group("request");
    for count in CONNECTIONS {
        let mut connections: Vec<Connection> = (0..count)
            .map(|_| Connection::open(running.address))
            .collect();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("connections={count}"), |bencher| {
            bencher.iter(|| {
                for connection in &mut connections {
                    connection.ask(next.next().unwrap());
                }
                connections.iter_mut().for_each(Connection::hear);
            });
        });
    }
    group.finish();
    runtime.block_on(running.stop());
}

criterion_group!(benches, request);
criterion_main!(benches);
