//! What clients did to keys, judged at the end of a run by the checker that judges clusters of real processes.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use xdpfs_testbed::history::{Event, Operation, Outcome, check_key};

use super::machine;

/// Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Histories(Rc<RefCell<BTreeMap<String, Vec<Event>>>>);

impl Histories {
    /// Adds what has just been answered, or given up.
    pub(super) fn record(&self, key: &str, called_ns: u64, operation: Operation, outcome: Outcome) {
        let event = Event { operation, outcome, called_ns, returned_ns: machine::stamp_ns() };
        self.0.borrow_mut().entry(key.to_owned()).or_default().push(event);
    }

    /// How many changes were acknowledged.
    pub(super) fn changes(&self) -> usize {
        let histories = self.0.borrow();
        histories.values().flatten().filter(|event| event.outcome == Outcome::Done).count()
    }

    /// # Panics
    ///
    /// No single store could have answered so.
    pub(super) fn judge(&self) {
        for (key, events) in &*self.0.borrow() {
            if let Err(violation) = check_key(key, events) {
                panic!("{violation}");
            }
        }
    }
}
