//! What operators want of data nodes' scrubs. Not replicated: a wish is lost with the leader that heard it.
//!
//! Invariant: a wish stands until its node says that it is done, or another one takes its place.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use xdpfs_proto::meta::v1::ScrubAction;
use xdpfs_wire::NodeId;

/// Wishes of one term, by their numbers.
const PER_TERM_BITS: u32 = 32;

/// What one node is to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wish {
    /// No two wishes have the same, whoever leads; never zero.
    pub number: u64,
    /// What to do.
    pub action: ScrubAction,
}

/// What all nodes are to do.
#[derive(Debug, Default)]
pub struct Scrubs {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    term: u64,
    wishes: BTreeMap<NodeId, Wish>,
    /// How many there have been in this term.
    count: u64,
}

impl Scrubs {
    /// The node is to do this, and nothing of what it was to do before. Only registered nodes may be named.
    pub fn wish(&self, term: u64, node: NodeId, action: ScrubAction) {
        self.at_term(term, |table| {
            table.count += 1;
            let number = (term << PER_TERM_BITS) | table.count;
            table.wishes.insert(node, Wish { number, action });
        });
    }

    /// What the node, which has done the wish of this number, is to do.
    pub fn heard(&self, term: u64, node: NodeId, done: u64) -> Option<Wish> {
        self.at_term(term, |table| {
            if table.wishes.get(&node)?.number == done {
                table.wishes.remove(&node);
            }
            table.wishes.get(&node).copied()
        })
    }

    /// Whether the node has yet to do something.
    pub fn is_waiting(&self, term: u64, node: NodeId) -> bool {
        self.at_term(term, |table| table.wishes.contains_key(&node))
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
    fn wish_stands_until_it_is_done() {
        let (scrubs, node) = (Scrubs::default(), NodeId(1));
        assert_eq!(scrubs.heard(1, node, 0), None);
        scrubs.wish(1, node, ScrubAction::Pause);
        let pause = scrubs.heard(1, node, 0).unwrap();
        assert_eq!((pause.action, scrubs.heard(1, node, 0)), (ScrubAction::Pause, Some(pause)));
        assert!(scrubs.is_waiting(1, node) && !scrubs.is_waiting(1, NodeId(2)));
        scrubs.wish(1, node, ScrubAction::Resume);
        let resume = scrubs.heard(1, node, pause.number).unwrap();
        assert_eq!(resume.action, ScrubAction::Resume);
        assert_eq!(scrubs.heard(1, node, resume.number), None);
        assert!(!scrubs.is_waiting(1, node));
    }

    #[test]
    fn wishes_are_of_one_term_and_their_numbers_of_none_else() {
        let (scrubs, node) = (Scrubs::default(), NodeId(1));
        scrubs.wish(1, node, ScrubAction::Start);
        let first = scrubs.heard(1, node, 0).unwrap();
        assert_eq!(scrubs.heard(2, node, 0), None, "the next leader knows nothing of it");
        scrubs.wish(1, node, ScrubAction::Start);
        assert_eq!(scrubs.heard(2, node, 0), None, "nor does it heed the one before");
        scrubs.wish(2, node, ScrubAction::Start);
        assert_ne!(scrubs.heard(2, node, 0).unwrap().number, first.number);
    }
}
