//! Where in the ring things go, and what of it is free. No I/O.

/// What is written at once begins and ends at such a border: the block that a file system and a page cache know. A disk
/// that tears a write tears it at its sectors, all of which lie in blocks of that write.
pub(super) const BLOCK_BYTES: usize = 4_096;
const BLOCK: u64 = 4_096;

/// The free and the taken part of a ring of blocks. Positions count blocks from the first write on and never fall.
///
/// Invariant: `tail <= head <= tail + blocks`; what lies between the two is needed.
#[derive(Debug)]
pub(super) struct Ring {
    blocks: u64,
    head: u64,
    tail: u64,
}

impl Ring {
    /// A ring of `size_bytes`, rounded down to blocks, at least one; all of it free.
    pub(super) fn new(size_bytes: u64) -> Self {
        Self {
            blocks: (size_bytes / BLOCK).max(1),
            head: 0,
            tail: 0,
        }
    }

    /// Where in the file the next write begins.
    pub(super) const fn offset(&self) -> u64 {
        (self.head % self.blocks).saturating_mul(BLOCK)
    }

    /// Bytes that may be written there in one piece: up to what is needed, or to the end of the file.
    pub(super) fn room_bytes(&self) -> usize {
        let free = self
            .blocks
            .saturating_sub(self.head.saturating_sub(self.tail));
        let to_end = self.blocks.saturating_sub(self.head % self.blocks);
        usize::try_from(free.min(to_end).saturating_mul(BLOCK)).unwrap_or(usize::MAX)
    }

    /// Takes `bytes`, a multiple of a block that there is room for. Gives the position where they begin.
    pub(super) fn take(&mut self, bytes: usize) -> u64 {
        let begin = self.head;
        self.head = Self::position_of(begin, bytes);
        assert!(
            self.head.saturating_sub(self.tail) <= self.blocks,
            "the log was written over what is still needed"
        );
        begin
    }

    /// The position of the block in which the byte at `bytes` behind `begin` lies.
    pub(super) fn position_of(begin: u64, bytes: usize) -> u64 {
        let blocks = u64::try_from(bytes / BLOCK_BYTES).unwrap_or(u64::MAX);
        begin.saturating_add(blocks)
    }

    /// Everything before `position` is not needed any more.
    pub(super) fn free_to(&mut self, position: u64) {
        assert!(
            self.tail <= position && position <= self.head,
            "what is freed was taken, and only once"
        );
        self.tail = position;
    }

    /// Whether it is time to give some of it free.
    pub(super) const fn is_half_full(&self) -> bool {
        self.head.saturating_sub(self.tail) >= self.blocks.div_ceil(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_gives_room_up_to_its_end_and_then_up_to_what_is_needed() {
        let mut ring = Ring::new(4 * BLOCK + 17);
        assert_eq!((ring.offset(), ring.room_bytes()), (0, 4 * BLOCK_BYTES));
        assert_eq!(ring.take(3 * BLOCK_BYTES), 0);
        assert_eq!((ring.offset(), ring.room_bytes()), (3 * BLOCK, BLOCK_BYTES));
        assert_eq!(ring.take(BLOCK_BYTES), 3);
        assert_eq!(ring.room_bytes(), 0);
        ring.free_to(1);
        assert_eq!((ring.offset(), ring.room_bytes()), (0, BLOCK_BYTES));
        ring.free_to(4);
        assert_eq!((ring.offset(), ring.room_bytes()), (0, 4 * BLOCK_BYTES));
        assert_eq!(ring.take(BLOCK_BYTES), 4);
        assert_eq!((ring.offset(), ring.room_bytes()), (BLOCK, 3 * BLOCK_BYTES));
    }

    #[test]
    fn a_block_that_two_pages_share_is_the_later_ones() {
        assert_eq!(Ring::position_of(7, BLOCK_BYTES - 1), 7);
        assert_eq!(Ring::position_of(7, BLOCK_BYTES), 8);
        assert_eq!(Ring::position_of(7, 2 * BLOCK_BYTES + 1), 9);
    }

    #[test]
    #[should_panic(expected = "written over")]
    fn what_is_needed_is_not_written_over() {
        let mut ring = Ring::new(2 * BLOCK);
        ring.take(2 * BLOCK_BYTES);
        ring.take(BLOCK_BYTES);
    }
}
