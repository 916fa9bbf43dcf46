//! What others tell repair: chunks that nodes don't have, or that clients could not read.
//!
//! Invariant: bounded. What does not fit is told again: by the next report of the node, or by the next reader.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use xdpfs_proto::meta::v1::{RebalanceStatus, RepairStatus};
use xdpfs_wire::{ChunkId, NodeId};

/// Doubts, and replicas too many, that wait at once.
const WAITING_MAX: usize = 65_536;

/// A replica that may not be there.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Doubt {
    /// Of which chunk.
    pub chunk: ChunkId,
    /// Where.
    pub node: NodeId,
    /// Whether the node has to read all of it before it says that it has it.
    pub verify: bool,
}

/// What was told since it was last asked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct News {
    /// Replicas that may not be there.
    pub doubts: BTreeSet<Doubt>,
    /// Chunks that nodes hold and that no manifest names them for.
    pub surplus: BTreeSet<(NodeId, ChunkId)>,
}

/// Between those who tell and repair.
#[derive(Debug, Default)]
pub struct Inbox {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    term: u64,
    news: News,
    status: Option<RepairStatus>,
    rebalance: Option<RebalanceStatus>,
}

impl Inbox {
    /// A replica may not be there.
    pub fn doubt(&self, term: u64, doubts: impl IntoIterator<Item = Doubt>) {
        self.at_term(term, |table| {
            for doubt in doubts {
                if table.news.doubts.len() < WAITING_MAX {
                    table.news.doubts.insert(doubt);
                }
            }
        });
    }

    /// A node holds chunks that no manifest names it for.
    pub fn surplus(&self, term: u64, node: NodeId, chunks: impl IntoIterator<Item = ChunkId>) {
        self.at_term(term, |table| {
            for chunk in chunks {
                if table.news.surplus.len() < WAITING_MAX {
                    table.news.surplus.insert((node, chunk));
                }
            }
        });
    }

    /// All that was told.
    pub fn take(&self, term: u64) -> News {
        self.at_term(term, |table| std::mem::take(&mut table.news))
    }

    /// How repair is, and rebalancing.
    pub fn publish(&self, term: u64, status: RepairStatus, rebalance: RebalanceStatus) {
        self.at_term(term, |table| (table.status, table.rebalance) = (Some(status), Some(rebalance)));
    }

    /// How repair was when it last said.
    pub fn status(&self, term: u64) -> Option<RepairStatus> {
        self.at_term(term, |table| table.status.clone())
    }

    /// How rebalancing was when it last said.
    pub fn rebalance_status(&self, term: u64) -> Option<RebalanceStatus> {
        self.at_term(term, |table| table.rebalance.clone())
    }

    fn at_term<T>(&self, term: u64, work: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was deposed in the meantime changes nothing of what the next term has.
        if table.term > term {
            return work(&mut Table { term, ..Table::default() });
        }
        if table.term < term {
            *table = Table { term, ..Table::default() };
        }
        work(&mut table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_taken_once_and_bounded() {
        let inbox = Inbox::default();
        let doubt = |chunk| Doubt { chunk: ChunkId(chunk), node: NodeId(1), verify: false };
        inbox.doubt(1, (0..WAITING_MAX as u128 + 9).map(doubt));
        inbox.surplus(1, NodeId(2), [ChunkId(3), ChunkId(3)]);
        let news = inbox.take(1);
        assert_eq!((news.doubts.len(), news.surplus.len()), (WAITING_MAX, 1));
        assert_eq!(inbox.take(1), News::default());
        inbox.doubt(1, [doubt(7)]);
        assert_eq!(inbox.take(2), News::default(), "the next leader finds out by itself");
        inbox.doubt(1, [doubt(7)]);
        assert_eq!(inbox.take(2), News::default(), "nor does it heed the one before");
    }
}
