//! One producer's life: connect, find the place, ship, and end at the first trouble or at a stop.

mod commit;

use super::acks::{AckError, AckTracker};
use super::burst::{self, Bursts};
use super::config::{Config, Delivery};
use super::cursor::{Cursor, PartitionCursor};
use super::handle::PipelineState;
use super::headers::{CloudEvent, HEADERS};
use super::partition::partition_of;
use super::producer::{KafkaTrouble, Link, Mark, Outcome, Outgoing, Report, Scout, SendError};
use super::resume::{self, Found, Plan};
use super::rival::Known;
use super::stall::Stall;
use super::thread::{Doubts, Shipper, has_lasted};
use crate::journal::{Batch, Entry, Event};
use crate::types::{Sequence, TimestampMs};
use std::collections::VecDeque;
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// How long the follower is waited for while acknowledgements are due, which do not wake it.
const WAIT_BUSY: Duration = Duration::from_millis(1);
/// The same once the operator was told that nothing is acknowledged.
const WAIT_STALLED: Duration = Duration::from_millis(20);
/// How long it is waited for otherwise.
const WAIT_IDLE: Duration = Duration::from_millis(250);
/// Between two looks at the cluster's id: brokers may have been replaced behind the same address.
const CLUSTER_CHECK: Duration = Duration::from_secs(10);
/// Records handed over between two looks at the reports.
const RECORDS_A_LOOK: usize = 256;

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// A stop was asked for, and everything is shipped or the time is over.
    Stopping,
    /// Something failed: make another producer.
    Broken(String),
    /// The operator has to decide.
    Blocked(String),
    /// What had to be sent record by record is sent: make a producer that sends batches again.
    Renewed,
}

impl From<KafkaTrouble> for End {
    fn from(trouble: KafkaTrouble) -> Self {
        Self::Broken(trouble.to_string())
    }
}

/// When the entries up to `last` were decided.
#[derive(Debug)]
struct Taken {
    last: Sequence,
    at: TimestampMs,
}

pub(super) struct Session<'s> {
    ship: &'s mut Shipper,
    link: Link,
    acks: AckTracker,
    /// What the topic held at the beginning.
    found: Found,
    have: Vec<Sequence>,
    repeats_to: Sequence,
    /// For each partition the oldest record that was refused and not shipped since; the origin for none.
    failed: Vec<Sequence>,
    partitions: u32,
    cluster_id: Option<String>,
    /// `None`: due at once.
    cluster_checked_at: Option<Duration>,
    /// Entries behind the published mark, for the age of the lag.
    taken: VecDeque<Taken>,
    careful: bool,
    stall: Stall,
    /// `None` where transactions have a window.
    bursts: Option<Bursts>,
    changed: bool,
    // Reused, so that nothing is allocated for each event.
    reports: Vec<Report>,
    payload: Vec<u8>,
}

impl<'s> Session<'s> {
    /// Looks at the topic, decides where to go on, and makes a producer.
    pub(super) fn open(ship: &'s mut Shipper) -> Result<Self, End> {
        ship.shared.set_state(PipelineState::Connecting);
        let scout = ship.brokers.scout_that_waits(ship.patience.wait())?;
        let partitions = Self::partitions(ship, &scout)?;
        if partitions > Config::PARTITIONS_MAX {
            return Err(End::Blocked(format!(
                "the topic has {partitions} partitions"
            )));
        }
        if ship.drain_is_over() {
            return Err(End::Stopping);
        }
        let careful = ship.careful_until.is_some();
        let link = ship.brokers.link(scout.message_bytes_max(), careful)?;
        // IMPORTANT: before the tails are read, so that nothing of a predecessor lands behind what is read.
        commit::fence(ship, &link)?;
        let (plan, found) = Self::plan(ship, &scout, partitions)?;
        ship.doubts = Doubts::default();
        drop(scout);
        if ship.drain_is_over() {
            return Err(End::Stopping);
        }
        let old = ship.cursor.take().filter(|_| !plan.adopted);
        // Brokers that are slow to tell their cluster must not make us forget it.
        let cluster_id = found.cluster_id.clone();
        let cluster_id = cluster_id.or_else(|| old.as_ref()?.cluster_id.clone());
        let (now, after, adopted) = (ship.clock.monotonic(), plan.after, plan.adopted);
        let mut session = Self {
            acks: AckTracker::new(
                plan.after,
                plan.last,
                commit::finality(ship.config.delivery),
            ),
            found,
            have: plan.have,
            repeats_to: plan.repeats_to,
            failed: plan.failed,
            partitions,
            cluster_id,
            cluster_checked_at: Some(now),
            taken: VecDeque::new(),
            careful,
            stall: Stall::new(Duration::from_millis(ship.config.stall_ms)),
            bursts: match ship.config.delivery {
                Delivery::Idempotent => Some(Bursts::new(ship.config.batch_window())),
                Delivery::ExactlyOnce => None,
            },
            changed: true,
            reports: Vec::new(),
            payload: Vec::new(),
            link,
            ship,
        };
        session.remember();
        if adopted {
            // Before anything is sent: an answer of the operator holds once. Whatever changes next, in this life of
            // the process as well, is another question.
            session.ship.store_cursor();
            session.ship.config.on_new_cluster = None;
        }
        session.publish();
        session.ship.follower.seek(after);
        session.ship.shared.set_state(PipelineState::Running);
        let topic = session.ship.config.topic.as_str();
        info!(topic, partitions, after = after.get(), "kafka: shipping");
        Ok(session)
    }

    /// How many partitions the topic has. A missing one is made, unless something was acknowledged there: then it is
    /// gone, or this is another cluster, and nothing is made before the operator has decided.
    fn partitions(ship: &Shipper, scout: &Scout) -> Result<u32, End> {
        let topic = ship.config.topic.as_str();
        let used = ship.cursor.as_ref().filter(|cursor| cursor.holds(topic));
        let lost = used.filter(|_| ship.config.on_new_cluster.is_none());
        if let Some(count) = scout.partitions(lost.is_none())? {
            return Ok(count);
        }
        let refusal = resume::missing(topic, lost, scout.cluster_id().as_ref());
        Err(End::Blocked(refusal.to_string()))
    }

    /// What the topic holds, as soon as no open transaction may hide anything of ours.
    ///
    /// Why all looks share one producer: behind its fence nothing of ours is added, unless somebody fences it, and then
    /// it can send nothing. So what ended a partition at the first look bounds what has to be seen, however many
    /// transactions of others begin meanwhile.
    fn look(ship: &mut Shipper, scout: &Scout, partitions: u32) -> Result<Found, End> {
        let cursor = ship.cursor.as_ref();
        let fits = |cursor: &&Cursor| {
            cursor.topic == ship.config.topic
                && u32::try_from(cursor.partitions.len()) == Ok(partitions)
        };
        let marks: Vec<Mark> = cursor
            .filter(fits)
            .map(|cursor| cursor.partitions.iter().map(|place| place.last).collect())
            .unwrap_or_default();
        let (mut first_ends, mut told) = (None, None);
        loop {
            let found = scout.found(partitions, &marks, ship.reader.lineage().clone());
            match &found {
                Ok(_) => ship.patience.succeeded(),
                Err(_) => ship.patience.failed(),
            }
            let found = found?;
            let first_ends = first_ends.get_or_insert_with(|| found.ends());
            let Some(undecided) = found.undecided(first_ends) else {
                ship.doubts.undecided = None;
                return Ok(found);
            };
            let gives_up = match ship.config.delivery {
                Delivery::Idempotent => has_lasted(
                    &mut ship.doubts.undecided,
                    ship.clock.monotonic(),
                    ship.config.open_transaction_wait_ms,
                ),
                Delivery::ExactlyOnce => false,
            };
            if gives_up {
                warn!(%undecided, "kafka: going on; events that it hides may be sent twice");
                return Ok(found);
            }
            if told.as_ref() != Some(&undecided) {
                warn!(%undecided, "kafka: events wait in the journal");
                ship.shared.note_error(&undecided.to_string());
                told = Some(undecided);
            }
            let pause = Duration::from_millis(ship.config.backoff_ms);
            if ship.shared.wait_for_stop(Some(pause)) {
                return Err(End::Stopping);
            }
        }
    }

    /// Where to go on, and what the topic holds.
    fn plan(ship: &mut Shipper, scout: &Scout, partitions: u32) -> Result<(Plan, Found), End> {
        let found = Self::look(ship, scout, partitions)?;
        let identity = ship.reader.identity();
        let journal = resume::Journal {
            identity,
            oldest: ship.reader.oldest(),
            durable: ship.reader.durable().get(),
        };
        let (cursor, topic) = (ship.cursor.as_ref(), &ship.config.topic);
        let now = ship.clock.monotonic();
        if resume::ends_early(topic, &found, cursor, journal)
            && !has_lasted(
                &mut ship.doubts.ends_early,
                now,
                ship.config.lost_records_confirm_ms,
            )
        {
            return Err(End::Broken(
                "the topic ends before what was acknowledged; looking again".into(),
            ));
        }
        let answer = ship.config.on_new_cluster;
        let plan = resume::plan(&ship.config.topic, &found, cursor, journal, answer);
        let plan = plan.map_err(|refusal| End::Blocked(refusal.to_string()))?;
        // What the operator has decided about another cluster or topic is no rival's doing.
        if let Some(known) = ship.known.as_ref().filter(|_| !plan.adopted) {
            let compared = known.compare(&found, identity.epoch);
            compared.map_err(|rival| End::Blocked(rival.to_string()))?;
        }
        if plan.adopted {
            warn!(
                ?answer,
                after = plan.after.get(),
                "kafka: going on as the operator decided"
            );
        }
        Ok((plan, found))
    }

    /// Ships until something ends it.
    pub(super) fn run(mut self) -> End {
        loop {
            if let Err(end) = self.step() {
                return self.finish(end);
            }
        }
    }

    fn step(&mut self) -> Result<(), End> {
        self.collect()?;
        self.keep_house()?;
        self.check_stop()?;
        if self.commit_is_due() {
            self.commit()?;
        }
        let busy = self.acks.in_flight() > 0;
        if self.careful && self.ship.careful_until.is_none() {
            // Nothing new, until what is under way has arrived.
            if !busy {
                self.commit()?;
                return Err(End::Renewed);
            }
            self.link.wait_for_reports(self.wait_busy());
        } else if self.ship.follower.is_ended() {
            // The follower would not wait any more.
            if busy {
                self.link.wait_for_reports(self.wait_busy());
            } else {
                let wait = self.until_commit(WAIT_IDLE);
                self.ship.shared.wait_for_stop(Some(wait));
            }
        } else if self.is_gathering() {
            self.ship.shared.wait_for_stop(Some(WAIT_BUSY));
        } else {
            let wait = self.until_commit(if busy { self.wait_busy() } else { WAIT_IDLE });
            if let Some(batch) = self.next(wait)? {
                self.leave(&batch)?;
            }
        }
        Ok(())
    }

    fn next(&mut self, wait: Duration) -> Result<Option<Batch>, End> {
        let next = self.ship.follower.next(wait);
        next.map_err(|error| End::Blocked(format!("cannot read the journal: {error}")))
    }

    /// Hands over `batch` and, where bursts leave, all that has gathered behind it.
    fn leave(&mut self, batch: &Batch) -> Result<(), End> {
        let durable = self.ship.reader.durable().get();
        let end = durable.min(self.acks.looked_at().plus(burst::EVENTS_MAX));
        self.hand_over(batch)?;
        if self.bursts.is_some() {
            while self.acks.looked_at() < end
                && let Some(batch) = self.next(Duration::ZERO)?
            {
                self.hand_over(&batch)?;
            }
        }
        if let Some(bursts) = &mut self.bursts {
            bursts.left(self.ship.clock.monotonic());
        }
        Ok(())
    }

    /// Whether what comes is left where it is for now. Not once a stop was asked for, which has a deadline.
    fn is_gathering(&self) -> bool {
        let Some(bursts) = self.bursts.as_ref() else {
            return false;
        };
        let durable = self.ship.reader.durable().get().get();
        let waiting = durable.saturating_sub(self.acks.looked_at().get());
        !bursts.is_due(self.ship.clock.monotonic(), self.acks.in_flight(), waiting)
            && self.ship.shared.stop_deadline().is_none()
    }

    fn hand_over(&mut self, batch: &Batch) -> Result<(), End> {
        let mut until_look = RECORDS_A_LOOK;
        for entry in batch.entries() {
            if entry.last() <= self.acks.looked_at() {
                continue;
            }
            self.note_taken(entry);
            for event in entry.events() {
                // A position may stand in the middle of an entry.
                if event.sequence > self.acks.looked_at() {
                    self.offer(&event)?;
                }
            }
            until_look = until_look.saturating_sub(1);
            if until_look == 0 {
                until_look = RECORDS_A_LOOK;
                self.collect()?;
            }
        }
        self.changed = true;
        Ok(())
    }

    /// Ships an event, or passes it by where it need not be shipped.
    fn offer(&mut self, event: &Event<'_>) -> Result<(), End> {
        let sequence = event.sequence;
        if !self.ship.config.selects(event.kind()) || self.ship.set_aside.contains(&sequence) {
            self.acks.pass(sequence);
            return Ok(());
        }
        let key = *self.ship.encoder.wallet_text(event.key_wallet());
        let partition = partition_of(&key, self.partitions);
        let have = usize::try_from(partition)
            .ok()
            .and_then(|at| self.have.get(at));
        if have.is_none_or(|have| sequence <= *have) {
            self.acks.pass(sequence);
            return Ok(());
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        self.ship.encoder.encode(event, &mut payload);
        let sent = self.send(event, partition, &key, &payload);
        self.payload = payload;
        sent
    }

    fn send(
        &mut self,
        event: &Event<'_>,
        partition: u32,
        key: &[u8],
        payload: &[u8],
    ) -> Result<(), End> {
        let sequence = event.sequence;
        let attributes = self
            .ship
            .config
            .cloudevents
            .then(|| CloudEvent::of(event, &self.ship.ids, self.ship.reader.identity()));
        let mut headers: Vec<(&'static str, &[u8])> = Vec::new();
        let headers = if let Some(attributes) = &attributes {
            headers.extend(HEADERS);
            headers.extend(attributes.headers());
            headers.as_slice()
        } else {
            HEADERS.as_slice()
        };
        let record = Outgoing {
            partition,
            sequence,
            key,
            payload,
            headers,
        };
        self.make_room()?;
        loop {
            match self.link.send(&record) {
                Ok(()) => {
                    self.note_sent();
                    self.acks.sent(partition, sequence);
                    self.ship.counts.sent += 1;
                    if sequence <= self.repeats_to {
                        self.ship.counts.repeated += 1;
                    }
                    return Ok(());
                }
                Err(SendError::Full) => {
                    self.link.wait_for_reports(self.wait_busy());
                    self.collect()?;
                    self.keep_house()?;
                    if self.ship.drain_is_over() {
                        return Err(End::Stopping);
                    }
                }
                Err(SendError::TooLarge) => {
                    self.ship.counts.failed += 1;
                    self.set_aside(sequence, "larger than the topic takes");
                    self.ship.set_aside.insert(sequence);
                    self.acks.pass(sequence);
                    return Ok(());
                }
                Err(SendError::Broken(reason)) => {
                    self.ship.counts.failed += 1;
                    return Err(End::Broken(format!(
                        "record {sequence} was not taken: {reason}"
                    )));
                }
            }
        }
    }

    /// Takes the reports that have come and moves the published mark.
    fn collect(&mut self) -> Result<(), End> {
        let mut reports = std::mem::take(&mut self.reports);
        self.link.take_reports(&mut reports);
        let broken = self.link.broken();
        let trouble = self.take_in(&reports);
        self.reports = reports;
        self.count_final();
        if self.changed {
            self.publish();
        }
        match broken.or(trouble) {
            None => Ok(()),
            Some(reason) => Err(End::Broken(reason)),
        }
    }

    /// The first thing that does not fit, if any.
    fn take_in(&mut self, reports: &[Report]) -> Option<String> {
        let mut trouble = None;
        for report in reports {
            match report.outcome {
                Outcome::Acknowledged { offset } => {
                    let taken = self
                        .acks
                        .acknowledged(report.partition, report.sequence, offset);
                    if let Err(error) = taken {
                        if let AckError::OutOfOrder {
                            partition,
                            expected,
                            ..
                        } = error
                        {
                            self.note_failed(partition, expected);
                        }
                        trouble.get_or_insert(error.to_string());
                    }
                }
                Outcome::Refused { for_good } => {
                    self.ship.counts.failed += 1;
                    self.note_failed(report.partition, report.sequence);
                    if for_good && self.careful {
                        self.set_aside(report.sequence, "refused by the broker");
                        self.ship.set_aside.insert(report.sequence);
                    } else if for_good {
                        self.ship.careful_until = Some(self.acks.looked_at());
                    }
                    trouble.get_or_insert(format!("record {} was refused", report.sequence));
                }
                // Only at the end of a producer's life, where it is not looked at; else it would be waited for.
                Outcome::Unknown => {
                    trouble
                        .get_or_insert(format!("nobody knows what became of {}", report.sequence));
                }
            }
        }
        trouble
    }

    /// Counts the records that cannot be taken back any more, as of the reports taken in and the commits.
    fn count_final(&mut self) {
        let count = self.acks.take_final();
        if count == 0 {
            return;
        }
        self.changed = true;
        self.ship.counts.acknowledged += u64::try_from(count).unwrap_or(u64::MAX);
        let published = self.acks.settle();
        self.ship.metrics.observe_kafka_batch(count);
        let now_ms = self.ship.clock.now().get();
        while let Some(taken) = self.taken.pop_front_if(|taken| taken.last <= published) {
            let took_ms = now_ms.saturating_sub(taken.at.get());
            self.ship
                .metrics
                .observe_kafka_ack(Duration::from_millis(took_ms));
        }
        if self.stall.acknowledged(self.ship.clock.monotonic()) {
            info!("kafka: records are acknowledged again");
            self.ship.shared.set_state(PipelineState::Running);
            // After an outage other brokers may stand behind the same address.
            self.cluster_checked_at = None;
        }
    }

    /// Makes known how far it is.
    fn publish(&mut self) {
        self.changed = false;
        let published = self.acks.settle();
        while self
            .taken
            .pop_front_if(|taken| taken.last <= published)
            .is_some()
        {}
        let oldest = self.taken.front().map(|taken| (taken.last, taken.at));
        self.ship.shared.show(published, self.ship.counts, oldest);
        if !self.ship.set_aside.is_empty() {
            self.ship.set_aside.retain(|sequence| *sequence > published);
        }
        if self
            .ship
            .careful_until
            .is_some_and(|until| until <= published)
        {
            self.ship.careful_until = None;
        }
        if published >= self.repeats_to {
            for failed in self
                .failed
                .iter_mut()
                .filter(|failed| **failed <= published)
            {
                *failed = Sequence::ORIGIN;
            }
        }
    }

    /// The cursor in memory follows; the file does at most once in a while.
    fn remember(&mut self) {
        let places = self.acks.last().zip(&self.failed);
        let partitions = places.map(|(last, failed)| PartitionCursor {
            last,
            failed: *failed,
        });
        self.ship.cursor = Some(Cursor {
            witness: self.ship.reader.witness(),
            published: self.acks.published(),
            topic: self.ship.config.topic.clone(),
            cluster_id: self.cluster_id.clone(),
            partitions: partitions.collect(),
        });
    }

    fn keep_house(&mut self) -> Result<(), End> {
        let now = self.ship.clock.monotonic();
        let interval = Duration::from_millis(self.ship.config.cursor_interval_ms);
        if self
            .ship
            .stored_at
            .is_none_or(|at| now.saturating_sub(at) >= interval)
            && self.ship.published() != self.acks.published()
        {
            self.remember();
            self.ship.store_cursor();
        }
        self.watch_for_stalls(now)?;
        let checked_at = self.cluster_checked_at;
        if checked_at.is_none_or(|at| now.saturating_sub(at) >= CLUSTER_CHECK) {
            self.cluster_checked_at = Some(now);
            if !is_same(self.cluster_id.as_ref(), self.link.cluster_id().as_ref()) {
                return Err(End::Broken("the brokers are another cluster now".into()));
            }
        }
        Ok(())
    }

    /// Tells the operator when nothing is acknowledged, and looks whether it ever can be: a producer waits for a
    /// topic that is gone without a word.
    fn watch_for_stalls(&mut self, now: Duration) -> Result<(), End> {
        if let Some(notice) = self.link.take_notice() {
            self.ship.shared.note_error(&notice);
            if self.stall.hear(notice.clone()) {
                warn!(
                    notice,
                    "kafka: trouble on the way; events wait in the journal"
                );
            }
        }
        // A commit that hangs has nothing in flight.
        let waits =
            self.acks.in_flight() > 0 || (self.commit_is_due() && self.has_open_transaction());
        if let Some(reason) = self.stall.tell(now, waits) {
            debug!(reason, "kafka: nothing is acknowledged");
            let state = PipelineState::Stalled(reason.to_owned());
            self.ship.shared.set_state(state);
        }
        let stopping = self.ship.shared.stop_deadline().is_some();
        if stopping || !self.stall.look_is_due(now) {
            return Ok(());
        }
        let scout = self.ship.brokers.scout()?;
        match scout.look() {
            Ok(None) => Err(End::Broken("the topic is not there any more".into())),
            // The producer's own view of the cluster may be as old as its last connection.
            Ok(Some(_)) if !is_same(self.cluster_id.as_ref(), scout.cluster_id().as_ref()) => {
                Err(End::Broken("the brokers are another cluster now".into()))
            }
            // Brokers that do not answer either are why it stalls.
            Ok(Some(_)) | Err(_) => Ok(()),
        }
    }

    fn check_stop(&mut self) -> Result<(), End> {
        let Some(deadline) = self.ship.shared.stop_deadline() else {
            return Ok(());
        };
        let shipped =
            self.acks.in_flight() == 0 && self.acks.looked_at() >= self.ship.reader.durable().get();
        if shipped {
            self.commit()?;
        }
        if shipped || self.ship.clock.monotonic() >= deadline {
            return Err(End::Stopping);
        }
        Ok(())
    }

    /// An outage may last for days.
    fn wait_busy(&self) -> Duration {
        if self.stall.is_told() {
            WAIT_STALLED
        } else {
            WAIT_BUSY
        }
    }

    /// Closes the producer, listens to its last reports, and keeps what is known.
    fn finish(mut self, end: End) -> End {
        self.give_up_open_transaction(&end);
        let last_reports = self.link.close();
        // Records that were refused meanwhile count; what else does not fit is why we are here.
        let _ = self.take_in(&last_reports);
        self.count_final();
        self.publish();
        if self.ship.transactions.is_some() {
            self.ship.known = Some(Known::after(&self.found.tails, &self.acks));
        }
        self.remember();
        if let End::Broken(_) = end {
            // Why at once: a refused record may have later ones behind it in the log, and only the file knows.
            self.ship.store_cursor();
        }
        end
    }

    fn note_taken(&mut self, entry: &Entry) {
        match self.taken.back_mut() {
            // Entries of one millisecond share a place.
            Some(taken) if taken.at == entry.at => taken.last = entry.last(),
            Some(_) | None => self.taken.push_back(Taken {
                last: entry.last(),
                at: entry.at,
            }),
        }
    }

    fn note_failed(&mut self, partition: u32, sequence: Sequence) {
        let place = usize::try_from(partition)
            .ok()
            .and_then(|at| self.failed.get_mut(at));
        if let Some(failed) = place
            && (failed.is_origin() || sequence < *failed)
        {
            *failed = sequence;
        }
    }

    fn set_aside(&mut self, sequence: Sequence, reason: &str) {
        error!(
            sequence = sequence.get(),
            reason, "kafka: an event was set aside, it will not be shipped"
        );
        self.ship.counts.quarantined += 1;
        self.ship.shared.set_aside(sequence, reason);
    }
}

/// Whether two ids may be of one cluster: brokers that are slow to tell theirs are not another.
fn is_same(known: Option<&String>, found: Option<&String>) -> bool {
    known.zip(found).is_none_or(|(known, found)| known == found)
}
