//! How consumers follow the journal: live groups while they keep up, the journal itself when they fell behind.
//!
//! Each follower has a queue, bounded in bytes, which is only a cache of recent groups: a group that does not fit is
//! left out, and the follower finds the hole by itself, since sequences have no gaps. So the writer never waits, and
//! nothing depends on whether, when or how often a queue was full.

use super::{Entry, Group, JournalReader, ReadError};
use crate::types::Sequence;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Pages that a follower reads back at a time.
const READ_BYTES: usize = 1 << 20;

/// A consumer's place in the journal. Gives every entry once and in order, from wherever it comes.
#[derive(Debug)]
pub struct Follower {
    name: &'static str,
    reader: JournalReader,
    queue: Arc<Queue>,
    position: Sequence,
}

/// Entries handed out by a [`Follower`], shared when live, owned when read back from the journal.
#[derive(Clone, Debug)]
pub enum Batch {
    /// A group as it was committed.
    Live(Arc<Group>),
    /// Read from the journal.
    Read(Vec<Entry>),
}

impl Batch {
    /// The entries, in order. The first may begin at or before the follower's position (a position may stand in the
    /// middle of an entry): skip events at or below it.
    pub fn entries(&self) -> &[Entry] {
        match self {
            Self::Live(group) => &group.entries,
            Self::Read(entries) => entries,
        }
    }
}

#[derive(Debug)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct QueueState {
    groups: VecDeque<Arc<Group>>,
    bytes: usize,
    is_woken: bool,
    is_ended: bool,
}

/// The writer's side of all followers.
#[derive(Debug, Default)]
pub(super) struct Feed {
    queues: Mutex<Vec<Weak<Queue>>>,
}

impl Feed {
    pub(super) fn follow(
        &self,
        name: &'static str,
        reader: JournalReader,
        after: Sequence,
        bytes_max: usize,
    ) -> Follower {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            changed: Condvar::new(),
            bytes_max,
        });
        self.queues.lock().push(Arc::downgrade(&queue));
        Follower {
            name,
            reader,
            queue,
            position: after,
        }
    }

    /// Offers `group`, which is durable, to every follower. Never waits for one.
    pub(super) fn publish(&self, group: &Arc<Group>) {
        self.queues.lock().retain(|queue| {
            let Some(queue) = queue.upgrade() else {
                return false;
            };
            let mut state = queue.state.lock();
            let bytes = state.bytes.saturating_add(group.size_bytes);
            if bytes <= queue.bytes_max {
                state.bytes = bytes;
                state.groups.push_back(Arc::clone(group));
            }
            drop(state);
            queue.changed.notify_one();
            true
        });
    }
}

/// The writer is gone: followers may finish.
impl Drop for Feed {
    fn drop(&mut self) {
        for queue in self.queues.get_mut().iter().filter_map(Weak::upgrade) {
            queue.state.lock().is_ended = true;
            queue.changed.notify_all();
        }
    }
}

/// What a follower does next.
enum Step {
    Live(Arc<Group>),
    /// Read the journal; entries that begin above the bound come live.
    Read(Option<Sequence>),
    Idle,
}

impl Follower {
    /// Who follows.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The sequence up to which everything was handed out.
    pub const fn position(&self) -> Sequence {
        self.position
    }

    /// The next entries, waiting up to `timeout` for some; `None` on time-out, or at once when the writer is gone and
    /// everything was handed out (see [`Follower::is_ended`]). Blocks; for use on the consumer's own thread.
    ///
    /// # Errors
    /// [`ReadError`]; the position stays, so the call can be repeated.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Batch>, ReadError> {
        let deadline = self.reader.shared.clock.monotonic().saturating_add(timeout);
        let mut timed_out = false;
        loop {
            let mut state = self.queue.state.lock();
            match self.step(&mut state) {
                Step::Live(group) => {
                    self.position = group.last();
                    return Ok(Some(Batch::Live(group)));
                }
                Step::Read(bound) => {
                    drop(state);
                    let mut entries = self.reader.read_after(self.position, READ_BYTES)?;
                    if let Some(bound) = bound {
                        entries.truncate(entries.partition_point(|entry| entry.first <= bound));
                    }
                    if let Some(last) = entries.last() {
                        self.position = last.last();
                        return Ok(Some(Batch::Read(entries)));
                    }
                }
                Step::Idle => {
                    if std::mem::take(&mut state.is_woken) || state.is_ended || timed_out {
                        return Ok(None);
                    }
                    let left = deadline.saturating_sub(self.reader.shared.clock.monotonic());
                    // After a time-out the queue is looked at once more.
                    timed_out = self.queue.changed.wait_for(&mut state, left).timed_out();
                }
            }
        }
    }

    fn step(&self, state: &mut QueueState) -> Step {
        while let Some(front) = state.groups.front() {
            if front.last() > self.position {
                break;
            }
            let size_bytes = front.size_bytes;
            state.bytes = state.bytes.saturating_sub(size_bytes);
            state.groups.pop_front();
        }
        match state.groups.front() {
            Some(front) if front.first() == self.position.next() => {
                state.bytes = state.bytes.saturating_sub(front.size_bytes);
                state.groups.pop_front().map_or(Step::Idle, Step::Live)
            }
            // In the middle of that group, by a seek: its rest comes from the journal.
            Some(front) if front.first() <= self.position => Step::Read(Some(front.last())),
            Some(front) => Step::Read(Some(front.first().previous())),
            None if self.position < self.reader.durable().get() => Step::Read(None),
            None => Step::Idle,
        }
    }

    /// Goes back (or forward) to `after`: what comes next is behind it.
    pub const fn seek(&mut self, after: Sequence) {
        self.position = after;
    }

    /// Whether the writer is gone and everything was handed out.
    pub fn is_ended(&self) -> bool {
        // IMPORTANT: first the queue's end, then the mark: the mark does not move after the end.
        self.queue.state.lock().is_ended && self.position >= self.reader.durable().get()
    }

    /// Wakes a [`Follower::next`] that waits, from another thread: it returns `None` at once. When none waits, the next
    /// one that would does so.
    pub fn waker(&self) -> FollowerWaker {
        FollowerWaker {
            queue: Arc::downgrade(&self.queue),
        }
    }
}

/// Ends a follower's wait early.
#[derive(Clone, Debug)]
pub struct FollowerWaker {
    queue: Weak<Queue>,
}

impl FollowerWaker {
    /// See [`Follower::waker`].
    pub fn wake(&self) {
        if let Some(queue) = self.queue.upgrade() {
            queue.state.lock().is_woken = true;
            queue.changed.notify_all();
        }
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
