//! What clients did to keys, judged at the end of a run by the checker that judges clusters of real processes.

use std::collections::BTreeMap;

use xdpfs_testbed::history::{Event, Operation, Outcome, check_key};

#[derive(Debug, Default)]
pub(super) struct Histories {
    by_key: BTreeMap<String, Vec<Event>>,
}

impl Histories {
    /// An operation was called, and answered or left open.
    pub(super) fn record(
        &mut self,
        key: &str,
        operation: Operation,
        outcome: Outcome,
        (called_ms, returned_ms): (u64, u64),
    ) {
        let event = Event {
            operation,
            outcome,
            called_ns: called_ms * 1_000_000,
            returned_ns: returned_ms * 1_000_000,
        };
        self.by_key.entry(key.to_owned()).or_default().push(event);
    }

    /// Gives how many operations there were.
    ///
    /// # Panics
    ///
    /// No single store could have answered so.
    pub(super) fn judge(&self) -> u64 {
        for (key, events) in &self.by_key {
            if let Err(violation) = check_key(key, events) {
                panic!("{violation}");
            }
        }
        self.by_key.values().map(|events| events.len() as u64).sum()
    }
}
