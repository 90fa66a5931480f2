//! One data folder with its server, its topic and its subscribers, from the first start to the last look.

use super::Tally;
use super::books::Books;
use super::load::{Heard, Load};
use super::plan::{self, Phase, Rng};
use super::signs::{self, CheckpointWatch};
use super::stream::{Repeats, Stream};
use crate::support::kafka::Broker;
use crate::support::server::{DEADLINE, Starting, TestServer, wait_until};
use crate::support::subscribers::{Listening, Subscribers};
use crate::support::ws_client;
use echopay::clock::{Clock, SystemClock};
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::block_in_place;

/// Between two looks for a sign.
const LOOK: Duration = Duration::from_micros(300);
/// How long the load lasts before a sign is waited for; longer where the machine is slow.
const LOAD_MS_MAX: u64 = 600;
/// How long to wait for the end of a round of checkpoints, so that the next one is killed.
const ROUND_MS_MAX: u64 = 4_000;
/// How far a kill may lie behind its sign, so that no two hit the same moment.
const BEHIND_SIGN_MS_MAX: u64 = 25;
/// Of so many kills while the brokers are away, one takes the broker down instead of freezing it.
const BROKER_KILLS_ONE_IN: u64 = 5;
/// A start takes no less; kills on the way up are spread over what the last one took.
const START_MS_MIN: u64 = 40;
/// How often the journal may have gone on by itself while Kafka was read to its end.
const WHOLE_LOOKS_MAX: usize = 10;

pub(super) struct World<'b> {
    seed: u64,
    round: u64,
    server: TestServer,
    is_up: bool,
    flags: Vec<String>,
    tags: Arc<AtomicU64>,
    books: Books,
    subscribers: Subscribers,
    broker: Option<&'b mut Broker>,
    stream: Option<Stream>,
    away: Away,
    /// What was heard before the last kill, and not held against the journal yet.
    heard: Option<(Heard, Vec<ws_client::Heard>)>,
    /// How long the last start took.
    start_ms: u64,
    clock: SystemClock,
    /// Counted already.
    counted: (u64, u64, u64, Repeats),
}

/// Whether the broker answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Away {
    No,
    Frozen,
    Dead,
}

impl<'b> World<'b> {
    /// An empty folder, whose first start is killed once.
    pub(super) async fn open(
        seed: u64,
        broker: Option<&'b mut Broker>,
        rng: &mut Rng,
        tally: &mut Tally,
    ) -> Self {
        let stream = broker.as_deref().map(Stream::new);
        let mut flags: Vec<String> = [
            "--volume-bytes-max=1048576",
            "--ws-ping-every-ms=400",
            "--ws-pong-within-ms=60000",
            "--log-format=json",
        ]
        .map(String::from)
        .into();
        flags.extend(stream.iter().flat_map(Stream::flags));

        let folder = TempDir::new().unwrap();
        let starting = Starting::spawn("dev", folder.path(), &flags);
        tokio::time::sleep(Duration::from_millis(rng.below(START_MS_MIN))).await;
        if let Some(phase) = kill(starting) {
            tally.hit(phase);
        }
        let refs: Vec<&str> = flags.iter().map(String::as_str).collect();
        let server = TestServer::launch("dev", &refs, folder).await;
        Self {
            seed,
            round: 0,
            server,
            is_up: true,
            flags,
            tags: Arc::new(AtomicU64::new(1)),
            books: Books::new(seed),
            subscribers: Subscribers::new(plan::filters()),
            broker,
            stream,
            away: Away::No,
            heard: None,
            start_ms: START_MS_MIN,
            clock: SystemClock::new(),
            counted: (0, 0, 0, Repeats::default()),
        }
    }

    /// Brings the server to `phase` and kills it there; whether that was hit.
    pub(super) async fn kill_in(&mut self, phase: Phase, rng: &mut Rng, tally: &mut Tally) -> bool {
        self.round += 1;
        let hit = match phase {
            Phase::Start | Phase::Replay => self.kill_on_the_way_up(phase, rng, tally).await,
            _ => self.kill_under_load(phase, rng, tally).await,
        };
        if let Some(hit) = hit {
            tally.hit(hit);
        }
        hit == Some(phase)
    }

    async fn kill_on_the_way_up(
        &mut self,
        phase: Phase,
        rng: &mut Rng,
        tally: &mut Tally,
    ) -> Option<Phase> {
        if self.is_up {
            // Somebody has to take it down first.
            let hit = self.kill_under_load(Phase::Load, rng, tally).await;
            tally.hit(hit.expect("a load can always be hit"));
        }
        if phase == Phase::Replay {
            // Derived state: without it the whole journal is replayed, which takes long enough to be hit.
            let checkpoint = self.server.data_dir().join("checkpoint");
            let _was_never_there = std::fs::remove_dir_all(checkpoint);
        }
        let starting = self.server.begin_restart();
        if phase == Phase::Replay {
            sign("the books are being opened", || {
                let log = starting.log();
                signs::is_replaying(&log) || signs::is_ready(&log)
            })
            .await;
        } else {
            tokio::time::sleep(Duration::from_millis(rng.below(self.start_ms))).await;
        }
        kill(starting)
    }

    async fn kill_under_load(
        &mut self,
        phase: Phase,
        rng: &mut Rng,
        tally: &mut Tally,
    ) -> Option<Phase> {
        self.start_for(phase).await;
        self.look_on(tally).await;
        let listening = self.subscribers.listen(self.server.addr()).await;
        let data_dir = self.server.data_dir().to_path_buf();
        let checkpoint = CheckpointWatch::begin(&data_dir);
        let active = signs::active_volume(&data_dir);
        let is_heavy = phase == Phase::Rotation;
        let client = self.server.client();
        let load = Load::start(client, self.seed, self.round, &self.tags, is_heavy);
        tokio::time::sleep(Duration::from_millis(rng.below(LOAD_MS_MAX))).await;
        let enough = 30 + rng.below(100);
        sign("the load is under way", || load.answered() >= enough).await;
        match phase {
            Phase::Checkpoint => {
                // The first round, or, where it comes to its end in time, the one behind it.
                let second = async {
                    while !checkpoint.is_in_second_round(&data_dir) {
                        tokio::time::sleep(LOOK).await;
                    }
                };
                let patience = Duration::from_millis(*rng.pick(&[0, ROUND_MS_MAX]));
                let _or_the_first = tokio::time::timeout(patience, second).await;
                sign("a checkpoint is written", || {
                    checkpoint.is_under_way(&data_dir)
                })
                .await;
            }
            Phase::Rotation => {
                sign("a volume is handed over", || {
                    signs::is_handing_over(&data_dir, active)
                })
                .await;
            }
            Phase::KafkaAway => {
                self.take_broker_away(rng);
                let enough = load.answered() + 30;
                sign("the load goes on without it", || load.answered() >= enough).await;
            }
            Phase::Drain => {
                sign("requests are in flight", || load.in_flight() > 0).await;
                self.server.signal(Signal::TERM);
                let server = &self.server;
                sign("the stop has begun", || {
                    server.log().contains("taking nothing new")
                })
                .await;
            }
            Phase::Load | Phase::Start | Phase::Replay => {}
        }
        tokio::time::sleep(Duration::from_millis(rng.below(BEHIND_SIGN_MS_MAX))).await;
        if phase != Phase::Drain {
            sign("requests are in flight", || load.in_flight() > 0).await;
        }
        let status = self.server.kill9();
        self.is_up = false;
        let is_hit = match phase {
            Phase::Checkpoint => checkpoint.is_under_way(&data_dir),
            Phase::Drain => signs::is_draining(&self.server.log()),
            _ => true,
        };
        self.gone_home(load, listening).await;
        let died = Death::of(status);
        match (phase, died) {
            (Phase::Drain, Death::InOrder) => None,
            (Phase::Drain, Death::Killed) if !is_hit => None,
            (_, Death::InOrder) => panic!("it ended by itself: {status}"),
            (_, Death::Killed) => Some(if is_hit { phase } else { Phase::Load }),
        }
    }

    async fn gone_home(&mut self, load: Load, listening: Listening) {
        let (heard, told) = tokio::join!(load.end(), listening.end());
        assert!(self.heard.is_none(), "what was heard was looked at");
        self.heard = Some((heard, told));
    }

    /// Starts the server, with what `phase` needs to come about.
    async fn start_for(&mut self, phase: Phase) {
        if self.is_up && phase != Phase::Checkpoint {
            return;
        }
        let mut flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        if phase == Phase::Checkpoint {
            flags.extend(["--checkpoint-interval-ms=20", "--checkpoint-pace-ms=0"]);
        }
        let before = self.clock.monotonic();
        self.server.restart_with(&flags).await;
        let took_ms = self.clock.monotonic().saturating_sub(before).as_millis();
        self.start_ms = u64::try_from(took_ms).unwrap().max(START_MS_MIN);
        self.is_up = true;
    }

    /// Holds what is new against what was heard.
    async fn look_on(&mut self, tally: &mut Tally) {
        let was_away = self.away != Away::No;
        if was_away {
            self.bring_broker_back();
            self.wait_for_kafka().await;
        }
        let (heard, told) = self.heard.take().unwrap_or_default();
        let records = self
            .stream
            .as_mut()
            .map(|stream| block_in_place(|| stream.read_on()))
            .unwrap_or_default();
        let next_tag = self.tags.load(Ordering::Relaxed);
        let client = self.server.client();
        let due = self.books.look_on(&client, heard, next_tag).await;
        if let Some(stream) = &mut self.stream {
            stream.compare(&records, &self.books, was_away);
        }
        self.subscribers.compare(&due, told);
        self.count(tally);
    }

    /// Looks on until every event of the journal was found in Kafka.
    async fn look_until_whole(&mut self, tally: &mut Tally) {
        let mut first_missing = None;
        for _ in 0..WHOLE_LOOKS_MAX {
            let Some(stream) = &self.stream else { return };
            first_missing = stream.first_missing(&self.books);
            if first_missing.is_none() {
                return;
            }
            self.wait_for_kafka().await;
            // A hold may come to its end behind the look at Kafka; then its event comes with the next one.
            self.look_on(tally).await;
        }
        panic!("all is published, and event {first_missing:?} never came");
    }

    fn count(&mut self, tally: &mut Tally) {
        let (acknowledged, told, events, repeats) = self.counted;
        let now = (
            self.books.acknowledged(),
            self.subscribers.told(),
            self.books.looked_at(),
            self.stream
                .as_ref()
                .map_or(Repeats::default(), |stream| stream.repeats),
        );
        tally.acknowledged += now.0 - acknowledged;
        tally.updates += now.1 - told;
        tally.events += now.2 - events;
        tally.repeats.reachable += now.3.reachable - repeats.reachable;
        tally.repeats.away += now.3.away - repeats.away;
        self.counted = now;
    }

    fn take_broker_away(&mut self, rng: &mut Rng) {
        let broker = self.broker.as_deref_mut().expect("a broker of our own");
        if rng.below(BROKER_KILLS_ONE_IN) == 0 {
            block_in_place(|| broker.kill9());
            self.away = Away::Dead;
        } else {
            broker.pause();
            self.away = Away::Frozen;
        }
    }

    fn bring_broker_back(&mut self) {
        let broker = self.broker.as_deref_mut().expect("a broker of our own");
        match self.away {
            Away::No => {}
            Away::Frozen => broker.resume(),
            Away::Dead => block_in_place(|| broker.restart()),
        }
        self.away = Away::No;
    }

    /// Until Kafka has acknowledged all that is durable.
    async fn wait_for_kafka(&self) {
        let client = self.server.client();
        wait_until(DEADLINE, "everything durable is published", async || {
            let marks = client.get("/api/v1/sequence").await.json();
            marks["published"] == marks["durable"]
        })
        .await;
    }

    /// The last look: everything arrived everywhere, and reads as it did at first.
    pub(super) async fn close(mut self, tally: &mut Tally) {
        self.start_for(Phase::Load).await;
        self.look_on(tally).await;
        self.look_until_whole(tally).await;
        let looked_at = self.books.looked_at();
        self.subscribers
            .catch_up(self.server.addr(), looked_at)
            .await;
        self.books.read_again(&self.server.client()).await;
        self.count(tally);
        let status = self.server.terminate().await;
        assert!(status.success(), "{status}");
        if let (Some(broker), Some(stream)) = (self.broker.as_deref(), &self.stream) {
            // A soak shall not fill the disk.
            block_in_place(|| broker.delete_topic(stream.topic_name()));
        }
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if self.away == Away::Frozen {
                self.bring_broker_back();
            }
            let folder = self.server.keep_data_dir().display();
            super::say(&format_args!(
                "round {}; the folder is left in {folder}",
                self.round
            ));
        }
    }
}

/// How a server ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Death {
    Killed,
    InOrder,
}

impl Death {
    fn of(status: ExitStatus) -> Self {
        if status.success() {
            return Self::InOrder;
        }
        let signal = status.signal();
        assert_eq!(
            signal,
            Some(Signal::KILL.as_raw()),
            "it died by itself: {status}"
        );
        Self::Killed
    }
}

/// Kills a server on its way up, and tells where it was. None: it was up already.
fn kill(starting: Starting) -> Option<Phase> {
    let (status, log) = starting.kill9();
    assert_eq!(Death::of(status), Death::Killed, "it does not start: {log}");
    if signs::is_ready(&log) {
        None
    } else if signs::is_replaying(&log) {
        Some(Phase::Replay)
    } else {
        Some(Phase::Start)
    }
}

/// Looks often, so that the kill comes soon after.
async fn sign(what: &str, mut is_there: impl FnMut() -> bool) {
    let looking = async {
        while !is_there() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, looking).await;
    assert!(in_time.is_ok(), "waited in vain until {what}");
}
