//! Progress as a number that only grows and can be awaited: durable, published, delivered.
//!
//! One writer, many readers. Knows nothing of sled, Kafka or sockets.

use crate::types::Sequence;
use tokio::sync::watch;

/// The writing end; there is one, held by whoever owns the fact.
#[derive(Debug)]
pub struct WatermarkWriter {
    tx: watch::Sender<Sequence>,
}

/// A reading end; cheap to clone.
#[derive(Clone, Debug)]
pub struct Watermark {
    rx: watch::Receiver<Sequence>,
}

/// The writer is gone: the mark will never move again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watermark stopped at {0}")]
pub struct WatermarkClosed(pub Sequence);

/// A watermark that stands at `start`.
pub fn watermark(start: Sequence) -> (WatermarkWriter, Watermark) {
    let (tx, rx) = watch::channel(start);
    (WatermarkWriter { tx }, Watermark { rx })
}

impl WatermarkWriter {
    /// Moves the mark to `sequence` and wakes who waits. Returns whether it moved: a step back is ignored, and the
    /// caller decides whether that is a broken invariant.
    pub fn advance_to(&self, sequence: Sequence) -> bool {
        self.tx.send_if_modified(|mark| {
            let forward = sequence > *mark;
            if forward {
                *mark = sequence;
            }
            forward
        })
    }

    /// Where the mark stands.
    pub fn get(&self) -> Sequence {
        *self.tx.borrow()
    }

    /// Another reading end.
    pub fn subscribe(&self) -> Watermark {
        Watermark {
            rx: self.tx.subscribe(),
        }
    }
}

impl Watermark {
    /// Where the mark stands now.
    pub fn get(&self) -> Sequence {
        *self.rx.borrow()
    }

    /// Completes when the mark is at `sequence` or beyond, with where it then stands. Dropping the future is free.
    ///
    /// # Errors
    /// [`WatermarkClosed`] when the writer is gone before that.
    pub async fn wait_for(&self, sequence: Sequence) -> Result<Sequence, WatermarkClosed> {
        let mut rx = self.rx.clone();
        match rx.wait_for(|mark| *mark >= sequence).await {
            Ok(mark) => Ok(*mark),
            Err(_) => Err(WatermarkClosed(self.get())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_mark_moves_forward_only_and_wakes_waiters() {
        let (writer, mark) = watermark(Sequence::ORIGIN);
        assert!(writer.advance_to(Sequence::new(5)));
        assert!(!writer.advance_to(Sequence::new(4)));
        assert_eq!(mark.get(), Sequence::new(5));
        let waiting = mark.clone();
        let waiter = async move { waiting.wait_for(Sequence::new(9)).await };
        let (seen, moved) = tokio::join!(waiter, async { writer.advance_to(Sequence::new(10)) });
        assert!(moved);
        assert_eq!(seen, Ok(Sequence::new(10)));
        drop(writer);
        let end = mark.wait_for(Sequence::new(11)).await;
        assert_eq!(end, Err(WatermarkClosed(Sequence::new(10))));
    }
}
