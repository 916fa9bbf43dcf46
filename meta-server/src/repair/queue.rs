//! What is to be repaired, the chunks that are closest to being lost first.
//!
//! Invariant: bounded. What does not fit is what can wait, and a survey finds it again once there is room.

use std::collections::BTreeSet;

use xdpfs_wire::{ChunkId, NodeId};

/// Tasks that wait at once: more than nodes do in a minute.
const TASKS_MAX: usize = 65_536;

/// How urgent it is, the most urgent first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Risk {
    /// Replicas that can be read.
    pub live: u8,
    /// Whether all of them lie where they may stay for the time being: nobody was lost, somebody is to be freed.
    pub is_leisure: bool,
}

impl Risk {
    /// Nobody knows: a look costs little, so it is the next thing to do.
    pub const IN_DOUBT: Self = Self { live: 0, is_leisure: false };
}

/// A chunk to be looked at.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Task {
    /// Which.
    pub chunk: ChunkId,
    /// The node that may not have it, although a manifest names it.
    pub doubted: Option<NodeId>,
    /// Whether the node has to read all of it before it says that it has it.
    pub verify: bool,
}

impl Task {
    /// Behind all others, in their order.
    pub(super) const LAST: Self =
        Self { chunk: ChunkId(u128::MAX), doubted: Some(NodeId(u16::MAX)), verify: true };
}

/// Tasks, by their risk.
#[derive(Debug, Default)]
pub struct Queue {
    tasks: BTreeSet<(Risk, Task)>,
    overflowed: bool,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Whether something did not fit since the last survey began.
    pub(super) const fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    pub(super) fn note_overflow(&mut self) {
        self.overflowed = true;
    }

    /// What surveys found before is found again, if it is still so; what is in doubt stays.
    pub(super) fn begin_survey(&mut self) {
        self.overflowed = false;
        self.tasks.retain(|(_, task)| task.doubted.is_some());
    }

    pub(super) fn insert(&mut self, risk: Risk, task: Task) {
        self.tasks.insert((risk, task));
        if self.tasks.len() > TASKS_MAX {
            self.tasks.pop_last();
            self.overflowed = true;
        }
    }

    pub(super) fn pop(&mut self) -> Option<(Risk, Task)> {
        self.tasks.pop_first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(chunk: u128) -> Task {
        Task { chunk: ChunkId(chunk), doubted: None, verify: false }
    }

    #[test]
    fn what_is_closest_to_being_lost_comes_first() {
        let mut queue = Queue::default();
        let risks = [(3, true), (2, false), (1, false), (2, true)];
        for (chunk, (live, is_leisure)) in (1..).zip(risks) {
            queue.insert(Risk { live, is_leisure }, task(chunk));
        }
        queue.insert(Risk::IN_DOUBT, task(9));
        let order: Vec<u128> = std::iter::from_fn(|| queue.pop()).map(|(_, task)| task.chunk.0).collect();
        assert_eq!(order, [9, 3, 2, 4, 1]);
    }

    #[test]
    fn what_does_not_fit_is_what_can_wait() {
        let mut queue = Queue::default();
        for chunk in 0..TASKS_MAX as u128 {
            queue.insert(Risk { live: 2, is_leisure: false }, task(chunk));
        }
        assert!(!queue.has_overflowed());
        queue.insert(Risk { live: 1, is_leisure: false }, task(u128::MAX));
        assert!(queue.has_overflowed());
        assert_eq!(queue.pop().map(|(_, task)| task.chunk.0), Some(u128::MAX));
        queue.begin_survey();
        assert!(queue.is_empty() && !queue.has_overflowed());
    }
}
