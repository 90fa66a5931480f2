//! Transactions of a [`Link`]. Where the delivery wants none, each call says that nothing was to be done.
//!
//! Nothing is repaired here either: an error of any kind (fenced, aborted by the brokers, a record that failed) ends
//! the link, and the next one's [`Link::fence`] has the brokers abort what was left open.

use super::{KafkaTrouble, Link, Reports};
use crate::pipeline::config::{Config, Delivery};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use std::time::Duration;
use uuid::Uuid;

/// After so long the brokers abort what a process that died left open. Until then it holds up `read_committed`
/// consumers, so it is short; it is far above what a transaction takes.
const TRANSACTION_TIMEOUT_MS: &str = "15000";
/// Below it, so that a transaction stuck here fails here, before the brokers fence its producer.
const MESSAGE_TIMEOUT_MS: &str = "12000";
/// Between two looks at whether librdkafka has let go of the last report. Under a millisecond in all.
const RELEASE_LOOK: Duration = Duration::from_micros(100);
/// Between two looks for reports while a transaction is aborted.
const ABORT_STEP: Duration = Duration::from_millis(20);

pub(super) fn configure(producing: &mut ClientConfig, config: &Config, journal_id: Uuid) {
    producing
        .set(
            "transactional.id",
            transactional_id(&config.topic, journal_id),
        )
        .set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
        .set("message.timeout.ms", MESSAGE_TIMEOUT_MS);
}

/// Who fences whom: exactly those who would write the same events into the same topic.
///
/// - The journal, without its epoch: a copy restored from a backup carries on the journal in a later epoch, and the
///   older one may still run somewhere. It has to be fenced.
/// - The topic: a copy that ships elsewhere, to be looked at or tested, must not end the real one's shipping.
fn transactional_id(topic: &str, journal_id: Uuid) -> String {
    format!("echopay-{journal_id}-{topic}")
}

impl Link {
    /// Makes sure that nothing of an earlier producer of this journal and topic can become visible any more: from now
    /// on its requests are refused, and its open transaction is aborted. To be called before the tails are read, and
    /// before the first [`Link::begin`]. Waits up to `timeout`; `false` when it takes longer: to be called again.
    ///
    /// # Errors
    /// The link is of no use.
    pub(in crate::pipeline) fn fence(&self, timeout: Duration) -> Result<bool, KafkaTrouble> {
        match self.delivery {
            Delivery::Idempotent => Ok(true),
            Delivery::ExactlyOnce => done("kafka fencing", |p| p.init_transactions(timeout), self),
        }
    }

    /// Begins a transaction: the records sent from now on belong to it.
    ///
    /// # Errors
    /// The link is of no use; another producer may have fenced this one.
    pub(in crate::pipeline) fn begin(&self) -> Result<(), KafkaTrouble> {
        let trouble = |error| KafkaTrouble::new("kafka transaction", error);
        self.transactional()?.begin_transaction().map_err(trouble)
    }

    /// Commits the open transaction, all of whose records must have been acknowledged. Waits up to `timeout`; `false`
    /// when it takes longer: to be called again, nothing can be sent until then.
    ///
    /// # Errors
    /// The link is of no use. Whether the transaction was committed, the tails tell.
    pub(in crate::pipeline) fn commit(&self, timeout: Duration) -> Result<bool, KafkaTrouble> {
        let producer = self.transactional()?;
        // Why: rdkafka flushes before a commit, and that polls for a whole 100 ms where a single report is not yet
        // let go of, although all were heard.
        let mut waited = Duration::ZERO;
        while producer.in_flight_count() > 0 {
            if waited >= timeout {
                return Ok(false);
            }
            self.serve();
            std::thread::sleep(RELEASE_LOOK);
            waited += RELEASE_LOOK;
        }
        done("kafka commit", |p| p.commit_transaction(timeout), self)
    }

    /// Aborts the open transaction, so that consumers need not wait for its time-out. Best effort: the brokers abort
    /// it too, later.
    pub(in crate::pipeline) fn abort(&self, timeout: Duration) {
        let mut waited = Duration::ZERO;
        while waited < timeout {
            // Why in steps: librdkafka waits until nothing is in flight, which it counts by the reports that were heard.
            self.serve();
            let aborted = done("kafka abort", |p| p.abort_transaction(ABORT_STEP), self);
            match aborted {
                Ok(true) => return,
                Ok(false) => waited += ABORT_STEP,
                Err(error) => {
                    tracing::debug!(%error, "kafka: the open transaction is left to its time-out");
                    return;
                }
            }
        }
        tracing::debug!("kafka: the open transaction is left to its time-out");
    }

    fn transactional(&self) -> Result<&BaseProducer<Reports>, KafkaTrouble> {
        let producer = self.producer.as_ref();
        producer.ok_or_else(|| KafkaTrouble::new("kafka transaction", "the producer is closed"))
    }
}

/// Whether `request` is done; librdkafka goes on with one that took too long, and takes it up when asked again.
fn done(
    step: &'static str,
    request: impl FnOnce(&BaseProducer<Reports>) -> Result<(), KafkaError>,
    link: &Link,
) -> Result<bool, KafkaTrouble> {
    match request(link.transactional()?) {
        Ok(()) => Ok(true),
        Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) => Ok(false),
        Err(KafkaError::Transaction(error)) if error.is_retriable() => Ok(false),
        Err(error) => Err(KafkaTrouble::new(step, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_a_journal_fence_each_other_in_a_topic_and_nobody_else() {
        let (ours, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let id = transactional_id("payments", ours);
        assert_eq!(
            id, "echopay-00000000-0000-0000-0000-000000000001-payments",
            "part of what operators write into their ACLs"
        );
        assert_ne!(id, transactional_id("payments", other));
        assert_ne!(id, transactional_id("trial", ours));
    }
}
