//! The pipeline between a real journal and a real broker, inside this process: what it does when the topic is not what
//! it was.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::kafka::{Broker, Record, Topic, read_all, read_until};
use echopay::clock::{SharedClock, SystemClock};
use echopay::ids::IdCipher;
use echopay::journal::entry::{ChainLink, Leg, Movement};
use echopay::journal::{self, Body, Entry, EventKind, Journal, OpenOptions};
use echopay::metrics::Metrics;
use echopay::pipeline::{
    self, Cursor, OnNewCluster, PipelineError, PipelineHandle, PipelineState, PipelineStopper,
    Sources, partition_of,
};
use echopay::tasks::Supervisor;
use echopay::types::{Currencies, Currency, MinorUnits, Sequence, WalletId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const TRANSFER_EVENTS: u64 = 4;

/// A journal that the test writes by itself, in the ledger's place.
pub(crate) struct World {
    pub(crate) journal: Journal,
    clock: SharedClock,
    supervisor: Supervisor,
}

impl World {
    pub(crate) fn open(data_dir: &Path) -> Self {
        let clock: SharedClock = Arc::new(SystemClock::new());
        let supervisor = Supervisor::new();
        let witnesses = Cursor::load(data_dir).unwrap().map(|cursor| cursor.witness);
        let options = OpenOptions {
            dev: true,
            accept_dev_store: false,
            currencies: Currencies::default(),
            witnesses: witnesses.into_iter().collect(),
        };
        let config = journal::Config::new(data_dir);
        let journal = Journal::open(&config, options, Arc::clone(&clock), &supervisor).unwrap();
        Self {
            journal,
            clock,
            supervisor,
        }
    }

    /// Commits `count` transfers between a few wallets, in groups of some.
    pub(crate) fn transfer(&mut self, count: u64) {
        self.transfer_with(count, None);
    }

    pub(crate) fn transfer_with(&mut self, count: u64, metadata: Option<&str>) {
        let ids = IdCipher::new(&self.journal.settings().id_key);
        let mut left = count;
        while left > 0 {
            let group = left.min(25);
            left -= group;
            let mut first = self.journal.durable().next();
            let at = self.clock.now();
            let mut entries = Vec::new();
            for _ in 0..group {
                let number = first.get() / TRANSFER_EVENTS;
                entries.push(Entry {
                    first,
                    at,
                    idempotency: None,
                    batch: None,
                    body: Body::Transfer(Movement {
                        transaction: ids.transaction_id(first, at),
                        from: leg(number % 10),
                        to: leg(10 + number % 7),
                        currency: Currency::from_tag(1),
                        amount: MinorUnits::new(1),
                        metadata: metadata.map(Into::into),
                    }),
                });
                first = first.plus(TRANSFER_EVENTS);
            }
            self.journal.commit(entries).unwrap();
        }
    }

    pub(crate) fn start(
        &self,
        data_dir: &Path,
        config: pipeline::Config,
    ) -> Result<(PipelineHandle, PipelineStopper), PipelineError> {
        pipeline::start(
            config,
            Sources {
                data_dir,
                cursor: Cursor::load(data_dir).unwrap(),
                follow: &|after, bytes| self.journal.follow("pipeline", after, bytes),
                reader: self.journal.reader(),
                ids: IdCipher::new(&self.journal.settings().id_key),
                currencies: Currencies::default(),
                clock: Arc::clone(&self.clock),
                metrics: Metrics::default(),
                supervisor: &self.supervisor,
            },
        )
    }
}

fn leg(wallet: u64) -> Leg {
    Leg {
        wallet: WalletId::new(Uuid::from_u128(u128::from(wallet) + 1)).unwrap(),
        balance_after: MinorUnits::new(100),
        held_after: MinorUnits::ZERO,
        link: ChainLink::default(),
    }
}

pub(crate) fn config(brokers: &str, topic: &str) -> pipeline::Config {
    pipeline::Config {
        brokers: Some(brokers.into()),
        topic: topic.into(),
        request_timeout_ms: 3_000,
        backoff_max_ms: 500,
        ..pipeline::Config::default()
    }
}

#[track_caller]
pub(crate) fn wait_for(what: &str, handle: &PipelineHandle, mut condition: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("waited in vain: {what}; {:?}", handle.status());
}

#[track_caller]
pub(crate) fn wait_for_published(handle: &PipelineHandle, world: &World) {
    let durable = world.journal.durable();
    wait_for("everything is published", handle, || {
        handle.status().published >= durable
    });
    assert_eq!(handle.published().get(), durable);
}

#[track_caller]
pub(crate) fn wait_for_stopped(handle: &PipelineHandle) -> String {
    let mut text = String::new();
    wait_for("the pipeline stops", handle, || {
        match handle.status().state {
            PipelineState::Stopped(reason) => {
                text = reason;
                true
            }
            PipelineState::Off
            | PipelineState::Connecting
            | PipelineState::Running
            | PipelineState::Stalled(_) => false,
        }
    });
    text
}

/// Every event of `1 ..= last` once, in order within its partition, in the partition of its key.
#[track_caller]
pub(crate) fn assert_whole(records: &[Record], last: Sequence) {
    let mut newest: BTreeMap<i32, u64> = BTreeMap::new();
    for record in records {
        let before = newest
            .insert(record.partition, record.sequence())
            .unwrap_or(0);
        assert!(
            before < record.sequence(),
            "partition {} goes back",
            record.partition
        );
        let expected = partition_of(record.key.as_bytes(), 6);
        assert_eq!(
            u32::try_from(record.partition).unwrap(),
            expected,
            "{}",
            record.key
        );
    }
    let mut sequences: Vec<u64> = records.iter().map(Record::sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=last.get()).collect::<Vec<_>>());
}

#[test]
fn everything_is_shipped_once_over_stops_and_starts() {
    let Some(topic) = Topic::shared("whole") else {
        return;
    };
    let dir = TempDir::new().unwrap();
    {
        let mut world = World::open(dir.path());
        world.transfer(300);
        let (handle, stopper) = world
            .start(dir.path(), config(topic.addresses(), topic.name()))
            .unwrap();
        world.transfer(200);
        wait_for_published(&handle, &world);
        let status = handle.status();
        assert_eq!(status.state, PipelineState::Running);
        assert_eq!((status.acknowledged_total, status.lag_events), (2_000, 0));
        assert!(stopper.stop(PATIENCE));
        drop(handle);
        world.journal.close().unwrap();
    }
    let mut world = World::open(dir.path());
    let cursor = Cursor::load(dir.path()).unwrap().unwrap();
    assert_eq!(cursor.published, Sequence::new(2_000));
    assert_eq!(cursor.partitions.len(), 6);
    let (handle, stopper) = world
        .start(dir.path(), config(topic.addresses(), topic.name()))
        .unwrap();
    world.transfer(100);
    assert!(stopper.stop(PATIENCE), "a stop drains what is durable");
    let status = handle.status();
    assert_eq!(
        (
            status.published_total,
            status.repeated_total,
            status.failed_total
        ),
        (400, 0, 0)
    );
    let records = topic.read();
    assert_whole(&records, Sequence::new(2_400));
    let headers: Vec<_> = records[0]
        .headers
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    let expected = [
        ("content-type", "application/json"),
        ("producer", "transaction-service"),
    ];
    assert_eq!(headers, expected);
}

#[test]
fn without_its_cursor_the_pipeline_finds_its_place_by_the_tails() {
    let Some(topic) = Topic::shared("tails") else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    world.transfer(300);
    let (handle, stopper) = world
        .start(dir.path(), config(topic.addresses(), topic.name()))
        .unwrap();
    wait_for_published(&handle, &world);
    assert!(stopper.stop(PATIENCE));
    std::fs::remove_file(Cursor::path(dir.path())).unwrap();
    world.transfer(50);
    let (handle, stopper) = world
        .start(dir.path(), config(topic.addresses(), topic.name()))
        .unwrap();
    wait_for_published(&handle, &world);
    assert_eq!(handle.status().published_total, 200);
    assert!(stopper.stop(PATIENCE));
    assert_whole(&topic.read(), world.journal.durable());
}

#[test]
fn without_brokers_the_lag_is_shown_and_nothing_is_lost() {
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    let (handle, stopper) = world
        .start(dir.path(), pipeline::Config::default())
        .unwrap();
    assert_eq!(handle.status().lag_events, 0);
    world.transfer(10);
    let status = handle.status();
    assert_eq!((status.state, status.lag_events), (PipelineState::Off, 40));
    std::thread::sleep(Duration::from_millis(5));
    assert!(handle.status().lag_seconds > 0.0);
    assert!(!stopper.stop(PATIENCE), "something is left");
}

#[test]
fn brokers_out_of_reach_hold_up_nothing_and_show_as_lag() {
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    let (handle, stopper) = world.start(dir.path(), config("127.0.0.1:1", "t")).unwrap();
    world.transfer(10);
    wait_for("an error shows", &handle, || {
        handle.status().last_error.is_some()
    });
    let status = handle.status();
    assert_eq!(
        (status.state, status.lag_events),
        (PipelineState::Connecting, 40)
    );
    assert!(!stopper.stop(Duration::from_secs(1)), "something is left");
    assert_eq!(Cursor::load(dir.path()).unwrap(), None);
}

#[test]
fn a_broker_that_dies_and_comes_back_gets_everything_once() {
    let Some(mut broker) = Broker::own() else {
        return;
    };
    let topic = Broker::fresh_topic("dies");
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    let (handle, stopper) = world
        .start(dir.path(), config(broker.addresses(), &topic))
        .unwrap();
    world.transfer(500);
    wait_for("some are published", &handle, || {
        handle.status().published > Sequence::ORIGIN
    });
    world.transfer(500);
    broker.kill9();
    world.transfer(1_000);
    assert!(handle.status().lag_events > 0);
    broker.restart();
    world.transfer(100);
    wait_for_published(&handle, &world);
    broker.pause();
    world.transfer(100);
    broker.resume();
    wait_for_published(&handle, &world);
    assert!(stopper.stop(PATIENCE));
    assert_whole(
        &read_all(broker.addresses(), &topic),
        world.journal.durable(),
    );
}

#[test]
fn a_topic_made_anew_stops_shipping_until_the_operator_decides() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("anew");
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    world.transfer(100);
    let (handle, stopper) = world
        .start(dir.path(), config(broker.addresses(), &topic))
        .unwrap();
    wait_for_published(&handle, &world);
    assert!(stopper.stop(PATIENCE));
    broker.delete_topic(&topic);
    broker.create_topic(&topic, 6, &[]);

    world.transfer(50);
    let (handle, stopper) = world
        .start(dir.path(), config(broker.addresses(), &topic))
        .unwrap();
    let reason = wait_for_stopped(&handle);
    assert!(reason.contains("lost records"), "{reason}");
    assert!(reason.contains("--kafka-on-new-cluster"), "{reason}");
    world.transfer(50);
    assert_eq!(handle.status().lag_events, 400);
    assert!(!stopper.stop(PATIENCE));
    assert_eq!(read_all(broker.addresses(), &topic).len(), 0);

    let reship = || pipeline::Config {
        on_new_cluster: Some(OnNewCluster::Reship),
        ..config(broker.addresses(), &topic)
    };
    let (handle, stopper) = world.start(dir.path(), reship()).unwrap();
    wait_for_published(&handle, &world);
    assert!(stopper.stop(PATIENCE));
    // The answer stays in the settings, and is not used again.
    world.transfer(10);
    let (handle, stopper) = world.start(dir.path(), reship()).unwrap();
    wait_for_published(&handle, &world);
    assert!(stopper.stop(PATIENCE));
    assert_whole(
        &read_all(broker.addresses(), &topic),
        world.journal.durable(),
    );
}

#[test]
fn a_topic_made_anew_under_way_is_noticed_and_shipping_stops() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("vanishes");
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    let (handle, stopper) = world
        .start(dir.path(), config(broker.addresses(), &topic))
        .unwrap();
    world.transfer(500);
    wait_for_published(&handle, &world);
    broker.delete_topic(&topic);
    world.transfer(100);
    broker.create_topic(&topic, 6, &[]);
    // It begins again at offset 0, which cannot be behind what was acknowledged.
    let mut reason = None;
    wait_for("the loss is noticed", &handle, || {
        world.transfer(5);
        if let PipelineState::Stopped(text) = handle.status().state {
            reason = Some(text);
        }
        reason.is_some()
    });
    let reason = reason.unwrap();
    assert!(reason.contains("lost records"), "{reason}");
    assert!(!stopper.stop(PATIENCE));

    let reship = pipeline::Config {
        on_new_cluster: Some(OnNewCluster::Reship),
        ..config(broker.addresses(), &topic)
    };
    let (handle, stopper) = world.start(dir.path(), reship).unwrap();
    wait_for_published(&handle, &world);
    assert!(stopper.stop(PATIENCE));
    // Some of the middle went out before it was noticed, and again with all the rest.
    let records = read_all(broker.addresses(), &topic);
    let sequences: BTreeSet<u64> = records.iter().map(Record::sequence).collect();
    let durable = world.journal.durable().get();
    assert!(sequences.into_iter().eq(1..=durable), "nothing is missing");
}

#[test]
fn another_cluster_on_the_same_address_is_noticed_and_shipping_stops() {
    let Some(mut broker) = Broker::own() else {
        return;
    };
    let topic = Broker::fresh_topic("cluster");
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    let (handle, stopper) = world
        .start(dir.path(), config(broker.addresses(), &topic))
        .unwrap();
    world.transfer(100);
    wait_for_published(&handle, &world);
    broker.replace();
    broker.create_topic(&topic, 6, &[]);
    let mut reason = None;
    wait_for("the other cluster is noticed", &handle, || {
        world.transfer(1);
        if let PipelineState::Stopped(text) = handle.status().state {
            reason = Some(text);
        }
        reason.is_some()
    });
    let reason = reason.unwrap();
    assert!(reason.contains("belongs to cluster"), "{reason}");
    assert!(!stopper.stop(PATIENCE));
}

#[test]
fn another_topic_goes_on_behind_the_cursor_when_told_so() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let (old, new) = (Broker::fresh_topic("old"), Broker::fresh_topic("new"));
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    world.transfer(100);
    let (handle, stopper) = world
        .start(dir.path(), config(broker.addresses(), &old))
        .unwrap();
    wait_for_published(&handle, &world);
    assert!(stopper.stop(PATIENCE));
    world.transfer(20);
    let told = pipeline::Config {
        on_new_cluster: Some(OnNewCluster::Continue),
        ..config(broker.addresses(), &new)
    };
    let (handle, stopper) = world.start(dir.path(), told).unwrap();
    wait_for_published(&handle, &world);
    assert!(stopper.stop(PATIENCE));
    let mut sequences: Vec<u64> = read_all(broker.addresses(), &new)
        .iter()
        .map(Record::sequence)
        .collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (401..=480).collect::<Vec<_>>());
}

#[test]
fn an_event_too_large_for_the_topic_is_set_aside_and_the_others_go_on() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("large");
    broker.create_topic(&topic, 6, &[("max.message.bytes", "1500")]);
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    world.transfer(20);
    let large = format!(r#"{{"note":"{}"}}"#, "x".repeat(1_800));
    world.transfer_with(1, Some(&large));
    world.transfer(20);
    let (handle, stopper) = world
        .start(dir.path(), config(broker.addresses(), &topic))
        .unwrap();
    wait_for_published(&handle, &world);
    assert!(stopper.stop(PATIENCE));
    let aside: Vec<u64> = handle
        .quarantine()
        .iter()
        .map(|(sequence, _)| sequence.get())
        .collect();
    assert_eq!(aside, [81, 82], "created and completed carry the metadata");
    assert_eq!(handle.status().quarantined_total, 2);
    assert_eq!(read_all(broker.addresses(), &topic).len(), 162);
}

#[test]
fn an_event_that_only_the_broker_refuses_is_found_and_set_aside() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("refused");
    broker.create_topic(&topic, 6, &[("max.message.bytes", "1500")]);
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    world.transfer(20);
    // Letters that lz4 cannot shorten below the limit.
    let letters: String = (0u32..1_800)
        .map(|n| {
            char::from(
                b'a' + u8::try_from(n.wrapping_mul(n).wrapping_mul(2_654_435_761) >> 27).unwrap()
                    % 26,
            )
        })
        .collect();
    world.transfer_with(1, Some(&format!(r#"{{"note":"{letters}"}}"#)));
    world.transfer(20);
    // Our own bound is lifted, so that the broker is the one who says no.
    let blind = pipeline::Config {
        overrides: vec![
            ("message.max.bytes".into(), "1000000".into()),
            ("compression.type".into(), "none".into()),
        ],
        ..config(broker.addresses(), &topic)
    };
    let (handle, stopper) = world.start(dir.path(), blind).unwrap();
    wait_for_published(&handle, &world);
    assert!(stopper.stop(PATIENCE));
    let mut aside: Vec<u64> = handle.quarantine().iter().map(|(s, _)| s.get()).collect();
    aside.sort_unstable();
    assert_eq!(aside, [81, 82]);
    let records = read_all(broker.addresses(), &topic);
    let mut sequences: Vec<u64> = records.iter().map(Record::sequence).collect();
    sequences.sort_unstable();
    sequences.dedup();
    let expected: Vec<u64> = (1..=164).filter(|s| !aside.contains(s)).collect();
    assert_eq!(sequences, expected, "nothing else is missing");
}

#[test]
fn only_selected_types_are_shipped_and_the_others_count_as_published() {
    let Some(topic) = Topic::shared("some") else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let mut world = World::open(dir.path());
    world.transfer(50);
    let some = pipeline::Config {
        event_types: vec![EventKind::TransactionCompleted],
        cloudevents: true,
        ..config(topic.addresses(), topic.name())
    };
    let (handle, stopper) = world.start(dir.path(), some).unwrap();
    wait_for_published(&handle, &world);
    assert!(stopper.stop(PATIENCE));
    let records = read_until(topic.addresses(), topic.name(), "50 records", |all| {
        all.len() == 50
    });
    for record in &records {
        assert_eq!(record.text("type"), "transaction.completed");
        let header = |name: &str| {
            let found = record.headers.iter().find(|(key, _)| key == name);
            found
                .map(|(_, value)| value.clone())
                .expect("a CloudEvents header")
        };
        assert_eq!(header("ce_id"), record.text("id"));
        assert_eq!(header("ce_type"), "transaction.completed");
        assert_eq!(header("ce_specversion"), "1.0");
        assert_eq!(header("ce_time"), record.text("timestamp"));
    }
}

#[test]
fn a_cursor_of_another_journal_is_refused_by_name() {
    let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let world = World::open(one.path());
    let stranger = World::open(other.path());
    let cursor = Cursor {
        witness: stranger.journal.reader().witness(),
        published: Sequence::ORIGIN,
        topic: "t".into(),
        cluster_id: None,
        partitions: Vec::new(),
    };
    cursor.store(one.path()).unwrap();
    let refused = world
        .start(one.path(), config("127.0.0.1:1", "t"))
        .unwrap_err();
    assert!(
        matches!(refused, PipelineError::ForeignCursor { .. }),
        "{refused}"
    );
    let found = stranger.journal.settings().identity.to_string();
    assert!(refused.to_string().contains(&found), "{refused}");
}
