//! Durable entries to Kafka, in order per key, sooner or later.
//!
//! One thread follows the journal, encodes each selected event once and hands it to a producer; what Kafka has
//! acknowledged is a contiguous prefix of the journal, kept in the [`Cursor`]. Nobody waits for Kafka: while it is away
//! the cursor stands still and the journal keeps the events. Any trouble has one answer: drop the producer, make
//! another, read the last record of every partition, and go on from there.
//!
//! With [`Delivery::ExactlyOnce`] the same happens inside transactions. All that differs is when a record is final (its
//! commit, not its acknowledgement) and that a producer fences its predecessors before the tails are read, so that
//! nothing of a dead process can land behind what was read.
//!
//! | file | has |
//! | --- | --- |
//! | `config.rs` | settings |
//! | `handle.rs` | what others see and may ask |
//! | `thread.rs` | the thread: connect, ship, rebuild, stop |
//! | `session.rs` | one producer's life: from the first record to the trouble or the stop |
//! | `burst.rs` | when what has gathered leaves (pure) |
//! | `stall.rs` | whether acknowledgements are overdue (pure) |
//! | `headers.rs` | a record's headers |
//! | `session/commit.rs` | its transactions, where the delivery wants them |
//! | `acks.rs` | acknowledgements and commits → contiguous prefix (pure) |
//! | `transaction.rs` | when a transaction is due, and how large it may be (pure) |
//! | `rival.rs` | whether somebody else ships this journal (pure) |
//! | `resume.rs` | cursor and tails → where to go on, or why not (pure) |
//! | `audit.rs` | is everything in the topic that was published |
//! | `partition.rs` | key → partition, as Java does (pure) |
//! | `patience.rs` | how long a look at the topic waits for bytes (pure) |
//! | `cursor.rs` | the file |
//! | `producer.rs`, `producer/` | the only door to rdkafka |

mod acks;
mod audit;
mod burst;
pub mod config;
mod cursor;
mod handle;
mod headers;
mod partition;
mod patience;
mod producer;
mod resume;
mod rival;
mod session;
mod stall;
mod thread;
mod transaction;

pub use acks::LastAck;
pub use audit::{
    TopicError, TopicFault, TopicReport, TopicSources, audit_topic, check_topic_settings,
};
pub use config::{Config, ConfigError, Delivery, OnNewCluster};
pub use cursor::{Cursor, CursorError, PartitionCursor};
pub use handle::{PipelineHandle, PipelineState, PipelineStatus, PipelineStopper};
pub use partition::{murmur2, partition_of};
pub use thread::{PipelineError, Sources, start};
