//! The producer and the look at a topic, against a real broker.

#[expect(dead_code, reason = "the integration tests use the rest")]
#[path = "../../../tests/it/support/kafka.rs"]
mod broker;

use self::broker::{Broker, read_all};
use super::*;
use crate::clock::SystemClock;
use crate::journal::JournalIdentity;
use crate::pipeline::acks::LastAck;
use crate::pipeline::partition::partition_of;
use crate::pipeline::resume::AtCursor;
use uuid::Uuid;

const IDENTITY: JournalIdentity = JournalIdentity {
    journal_id: Uuid::from_u128(0xec0),
    epoch: 1,
};

fn brokers(broker: &Broker, topic: &str, overrides: &[(&str, &str)]) -> Brokers {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let config = Config {
        topic: topic.into(),
        partitions: 3,
        overrides: overrides.iter().map(owned).collect(),
        ..Config::default()
    };
    Brokers::new(
        &config,
        broker.addresses(),
        IDENTITY.journal_id,
        Arc::new(SystemClock::new()),
    )
    .unwrap()
}

fn link(brokers: &Brokers, limit: Option<u64>) -> Link {
    brokers.link(limit, false).unwrap()
}

fn event(sequence: u64) -> String {
    format!(r#"{{"sequence":{sequence},"journal":"{IDENTITY}"}}"#)
}

/// Sends `sequences` with the sequence as key; returns the partition of each.
fn send(link: &Link, sequences: std::ops::RangeInclusive<u64>) -> Vec<(u32, u64)> {
    let mut sent = Vec::new();
    for sequence in sequences {
        let (key, payload) = (sequence.to_string(), event(sequence));
        let partition = partition_of(key.as_bytes(), 3);
        let record = Outgoing {
            partition,
            sequence: Sequence::new(sequence),
            key: key.as_bytes(),
            payload: payload.as_bytes(),
            headers: &[("content-type", b"application/json")],
        };
        link.send(&record).unwrap();
        sent.push((partition, sequence));
    }
    sent
}

fn reports(link: &Link, count: usize) -> Vec<Report> {
    let (mut all, mut some) = (Vec::new(), Vec::new());
    for _ in 0..600 {
        link.take_reports(&mut some);
        all.append(&mut some);
        if all.len() >= count {
            return all;
        }
        link.wait_for_reports(Duration::from_millis(100));
    }
    panic!("{} of {count} reports came", all.len());
}

#[test]
fn whoever_gives_up_idempotence_gives_up_what_rests_on_it() {
    for value in ["false", "0", "true"] {
        let config = Config {
            overrides: vec![("enable.idempotence".into(), value.into())],
            ..Config::default()
        };
        let clock = Arc::new(SystemClock::new());
        let brokers = Brokers::new(&config, "127.0.0.1:1", IDENTITY.journal_id, clock).unwrap();
        let gapless = brokers.producing.get("enable.gapless.guarantee");
        assert_eq!(gapless.is_some(), value == "true", "{value}");
    }
}

#[test]
fn a_missing_topic_is_made_filled_acknowledged_and_its_tails_are_found() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("producer");
    let brokers = brokers(broker, &topic, &[]);
    let scout = brokers.scout().unwrap();
    assert_eq!(scout.partitions(true).unwrap(), Some(3));
    assert_eq!(
        scout.partitions(true).unwrap(),
        Some(3),
        "a second look makes nothing"
    );
    assert!(
        scout.message_bytes_max() > Some(1_000),
        "the broker's default"
    );
    let empty = scout.found(3, &[], IDENTITY).unwrap();
    assert!(
        empty
            .tails
            .iter()
            .all(|tail| tail.high == 0 && tail.newest.is_none())
    );

    let mut link = link(&brokers, scout.message_bytes_max());
    assert_eq!(link.cluster_id(), empty.cluster_id);
    let sent = send(&link, 1..=300);
    let reports = reports(&link, 300);
    assert!(
        reports
            .iter()
            .all(|report| matches!(report.outcome, Outcome::Acknowledged { .. }))
    );
    for partition in 0..3 {
        let acknowledged = reports
            .iter()
            .filter(|report| report.partition == partition);
        let acknowledged: Vec<u64> = acknowledged.map(|report| report.sequence.get()).collect();
        let expected = sent
            .iter()
            .filter(|(p, _)| *p == partition)
            .map(|(_, sequence)| *sequence);
        assert_eq!(
            acknowledged,
            expected.collect::<Vec<_>>(),
            "in the order of sending"
        );
    }
    assert_eq!(link.broken(), None);
    assert_eq!(link.close(), [], "nothing is left");

    let found = scout.found(3, &[], IDENTITY).unwrap();
    let newest = |p: u32| {
        sent.iter()
            .filter(|(at, _)| *at == p)
            .map(|(_, s)| *s)
            .max()
            .unwrap()
    };
    for (partition, tail) in (0..).zip(&found.tails) {
        let there = tail.newest.unwrap();
        assert_eq!(there.sequence.get(), newest(partition));
        assert_eq!(there.offset, Some(tail.high - 1));
    }
    let records = read_all(broker.addresses(), &topic);
    assert_eq!(records.len(), 300);
    assert!(
        records
            .iter()
            .all(|record| record.key == record.sequence().to_string())
    );
    assert_eq!(
        records[0].headers,
        [("content-type".to_owned(), "application/json".to_owned())]
    );
}

#[test]
fn the_last_own_record_is_found_behind_those_of_others() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("shared");
    broker.create_topic(&topic, 1, &[]);
    let brokers = brokers(broker, &topic, &[]);
    let link = link(&brokers, None);
    let put = |payload: &str, sequence: u64| {
        let record = Outgoing {
            partition: 0,
            sequence: Sequence::new(sequence),
            key: b"k",
            payload: payload.as_bytes(),
            headers: &[],
        };
        link.send(&record).unwrap();
    };
    for sequence in 1..=50 {
        put(&event(sequence), sequence);
    }
    let stranger = JournalIdentity {
        journal_id: Uuid::from_u128(1),
        epoch: 1,
    };
    for sequence in 51..=400 {
        put(
            &format!(r#"{{"sequence":{sequence},"journal":"{stranger}"}}"#),
            sequence,
        );
    }
    assert_eq!(reports(&link, 400).len(), 400);
    let scout = brokers.scout().unwrap();
    let newest = Some(LastAck {
        offset: Some(49),
        sequence: Sequence::new(50),
    });

    let without_cursor = &scout.found(1, &[], IDENTITY).unwrap().tails[0];
    assert_eq!(
        (without_cursor.newest, without_cursor.at_cursor),
        (newest, AtCursor::Unknown)
    );
    let mark = |offset, sequence| LastAck {
        offset: Some(offset),
        sequence: Sequence::new(sequence),
    };
    let same = &scout.found(1, &[mark(30, 31)], IDENTITY).unwrap().tails[0];
    assert_eq!((same.newest, same.at_cursor), (newest, AtCursor::Same));
    let other = &scout.found(1, &[mark(30, 99)], IDENTITY).unwrap().tails[0];
    assert_eq!(other.at_cursor, AtCursor::Other);
    let next_epoch = JournalIdentity {
        epoch: 2,
        ..IDENTITY
    };
    let restored = &scout.found(1, &[], next_epoch).unwrap().tails[0];
    assert_eq!((restored.newest, restored.other_epoch), (None, Some(1)));
}

#[test]
fn a_record_above_the_topics_limit_is_refused_before_anything_is_sent() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("small");
    broker.create_topic(&topic, 1, &[("max.message.bytes", "2000")]);
    let brokers = brokers(broker, &topic, &[]);
    let limit = brokers.scout().unwrap().message_bytes_max();
    assert_eq!(limit, Some(2_000));
    let link = link(&brokers, limit);
    let (large, small) = ("x".repeat(3_000), event(1));
    let record = |payload| Outgoing {
        partition: 0,
        sequence: Sequence::new(1),
        key: b"k",
        payload,
        headers: &[],
    };
    assert_eq!(
        link.send(&record(large.as_bytes())),
        Err(SendError::TooLarge)
    );
    // Many small ones that would make a batch above the limit: librdkafka cuts by the same number.
    for _ in 0..200 {
        link.send(&record(small.as_bytes())).unwrap();
    }
    let reports = reports(&link, 200);
    assert!(
        reports
            .iter()
            .all(|report| matches!(report.outcome, Outcome::Acknowledged { .. }))
    );
}

#[test]
fn a_record_the_broker_refuses_breaks_the_link() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("refused");
    broker.create_topic(&topic, 1, &[("max.message.bytes", "2000")]);
    let brokers = brokers(broker, &topic, &[("compression.type", "none")]);
    let mut link = link(&brokers, Some(1_000_000));
    let large = "x".repeat(3_000);
    let record = Outgoing {
        partition: 0,
        sequence: Sequence::new(7),
        key: b"k",
        payload: large.as_bytes(),
        headers: &[],
    };
    link.send(&record).unwrap();
    let reports = reports(&link, 1);
    assert_eq!(reports[0].outcome, Outcome::Refused { for_good: true });
    assert!(
        link.broken()
            .is_some_and(|reason| reason.contains("record 7"))
    );
    assert_eq!(link.close(), []);
    assert_eq!(link.send(&record), Err(SendError::Broken("closed".into())));
}

#[test]
fn a_full_queue_hands_the_record_back_and_closing_reports_the_rest() {
    // Nobody listens there: nothing leaves the queue.
    let overrides = vec![("queue.buffering.max.messages".to_owned(), "10".to_owned())];
    let config = Config {
        overrides,
        ..Config::default()
    };
    let brokers = Brokers::new(
        &config,
        "127.0.0.1:1",
        IDENTITY.journal_id,
        Arc::new(SystemClock::new()),
    )
    .unwrap();
    let mut link = link(&brokers, None);
    let sent = send(&link, 1..=10);
    let record = Outgoing {
        partition: 0,
        sequence: Sequence::new(11),
        key: b"k",
        payload: b"{}",
        headers: &[],
    };
    assert_eq!(link.send(&record), Err(SendError::Full));
    let last = link.close();
    assert_eq!(last.len(), sent.len());
    assert!(last.iter().all(|report| report.outcome == Outcome::Unknown));
}

#[test]
fn settings_that_librdkafka_does_not_know_are_refused_at_once() {
    let config = Config {
        overrides: vec![("no.such.thing".into(), "1".into())],
        ..Config::default()
    };
    let refused = Brokers::new(
        &config,
        "127.0.0.1:1",
        IDENTITY.journal_id,
        Arc::new(SystemClock::new()),
    )
    .unwrap_err();
    assert!(refused.to_string().contains("no.such.thing"), "{refused}");
}

#[test]
fn a_successors_fence_aborts_what_was_open_and_shuts_its_predecessor_out() {
    let Some(broker) = Broker::shared() else {
        return;
    };
    let topic = Broker::fresh_topic("fence");
    broker.create_topic(&topic, 3, &[]);
    let config = Config {
        topic: topic.clone(),
        delivery: Delivery::ExactlyOnce,
        ..Config::default()
    };
    let clock = Arc::new(SystemClock::new());
    let brokers = Brokers::new(&config, broker.addresses(), IDENTITY.journal_id, clock).unwrap();
    let scout = brokers.scout().unwrap();
    let newest = || {
        let tails = scout.found(3, &[], IDENTITY).unwrap().tails;
        let newest = tails.iter().filter_map(|tail| tail.newest);
        newest.map(|last| last.sequence.get()).max()
    };
    let fenced = || {
        let link = link(&brokers, None);
        let mut looks = 0..200;
        while !link.fence(Duration::from_millis(250)).unwrap() {
            assert!(looks.next().is_some(), "the brokers do not answer");
        }
        link
    };
    let commit = |link: &Link| {
        let mut looks = 0..200;
        loop {
            match link.commit(Duration::from_millis(250)) {
                Ok(false) => assert!(looks.next().is_some(), "the brokers do not answer"),
                other => return other,
            }
        }
    };
    let first = fenced();
    first.begin().unwrap();
    send(&first, 1..=100);
    reports(&first, 100);
    assert_eq!(commit(&first), Ok(true));
    first.begin().unwrap();
    send(&first, 101..=200);
    let acknowledged = reports(&first, 100);
    assert!(
        acknowledged
            .iter()
            .all(|report| matches!(report.outcome, Outcome::Acknowledged { .. }))
    );

    let second = fenced();
    assert_eq!(newest(), Some(100), "what was open is aborted");
    commit(&first).unwrap_err();
    assert_eq!(newest(), Some(100));
    second.begin().unwrap();
    send(&second, 101..=150);
    reports(&second, 50);
    assert_eq!(commit(&second), Ok(true));
    second.begin().unwrap();
    assert_eq!(commit(&second), Ok(true), "an empty one is fine");
    // Markers follow the answer to a commit; the next fence waits for them.
    let third = fenced();
    assert_eq!(newest(), Some(150));
    drop(third);
    let mut sequences: Vec<u64> = read_all(broker.addresses(), &topic)
        .iter()
        .map(broker::Record::sequence)
        .collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=150).collect::<Vec<_>>());
}
