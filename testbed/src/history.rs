//! What clients did to a set of keys, when, and with which outcome; and whether one store could have answered so.
//!
//! Each key is a register of its own, so a history is linearizable if each key's part is (Herlihy and Wing,
//! "Linearizability: a correctness condition for concurrent objects", 1990, §3.1). Invariant: an operation whose
//! outcome nobody knows stays open for ever: it may take effect at any time after its call, or never.

mod linearize;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use thiserror::Error;

/// Names what a put wrote; no two puts of a history write the same.
pub type Value = u64;

/// What was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Put if the key holds nothing.
    Create(Value),
    /// Remove what the key holds.
    Delete,
    /// Read what the key holds.
    Get,
    /// Put, whatever the key holds.
    Put(Value),
    /// Put if the key holds just this.
    Replace {
        /// What it must hold.
        held: Value,
        /// What it holds then.
        value: Value,
    },
}

/// What was answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// A get found this.
    Found(Option<Value>),
    /// A create found something, a delete found nothing, or a replacement found something else than it asked for.
    Refused,
    /// No answer, or one that leaves it open.
    Unknown,
}

/// One operation on one key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event {
    /// What was asked for.
    pub operation: Operation,
    /// What was answered.
    pub outcome: Outcome,
    /// When it was asked, in nanoseconds from the start of the history.
    pub called_ns: u64,
    /// When it was answered; without meaning if the outcome is unknown.
    pub returned_ns: u64,
}

/// Why no single store could have answered so.
#[derive(Debug, Error)]
pub enum Violation {
    /// A get found what nobody ever put.
    #[error("key {key}: found {value:x}, which nobody put")]
    Invented {
        /// The key.
        key: String,
        /// What was found.
        value: Value,
    },
    /// Two puts wrote the same value: the history itself is no good.
    #[error("key {key}: {value:x} was put twice")]
    NotUnique {
        /// The key.
        key: String,
        /// What was put.
        value: Value,
    },
    /// There is no order of the operations that agrees with all answers and with real time.
    #[error(
        "key {key}: no order explains all answers; the longest explains {explained} of {known}, then:\n{stuck}"
    )]
    NotLinearizable {
        /// The key.
        key: String,
        /// Answers that some order explains.
        explained: usize,
        /// Answers in all.
        known: usize,
        /// What that order could not go on with.
        stuck: String,
    },
    /// The search took too many steps.
    #[error("key {key}: no verdict on {operations} operations after {steps} steps")]
    Undecided {
        /// The key.
        key: String,
        /// How many operations there are.
        operations: usize,
        /// How many steps were made.
        steps: usize,
    },
}

/// Gathers events from many threads on one clock.
#[derive(Debug)]
pub struct Recorder {
    start: Instant,
    keys: Mutex<BTreeMap<String, Vec<Event>>>,
}

/// What a history held, if it was good.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Keys.
    pub keys: usize,
    /// Operations with a known outcome.
    pub known: usize,
    /// Operations without.
    pub unknown: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys, {} known outcomes, {} unknown", self.keys, self.known, self.unknown)
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self { start: Instant::now(), keys: Mutex::default() }
    }
}

impl Recorder {
    /// Nanoseconds since the start.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds what has just been answered.
    pub fn record(&self, key: &str, called_ns: u64, operation: Operation, outcome: Outcome) {
        let event = Event { operation, outcome, called_ns, returned_ns: self.now_ns() };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.entry(key.to_owned()).or_default().push(event);
    }

    /// The keys that something was recorded of.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Judges everything recorded so far.
    ///
    /// # Errors
    /// The first [`Violation`] in the order of the keys.
    pub fn check(&self) -> Result<Summary, Violation> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut summary = Summary::default();
        for (key, events) in &*keys {
            check_key(key, events)?;
            let unknown = events.iter().filter(|event| event.outcome == Outcome::Unknown).count();
            summary.keys += 1;
            summary.known += events.len() - unknown;
            summary.unknown += unknown;
        }
        Ok(summary)
    }
}

/// Judges one key's events, in any order.
///
/// # Errors
/// The [`Violation`], if there is one.
pub fn check_key(key: &str, events: &[Event]) -> Result<(), Violation> {
    let put: Vec<Value> = events.iter().filter_map(|event| event.operation.value()).collect();
    let mut unique = put.clone();
    unique.sort_unstable();
    if let Some(twice) = unique.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Violation::NotUnique { key: key.to_owned(), value: twice[0] });
    }
    for event in events {
        match event.outcome {
            Outcome::Found(Some(value)) if unique.binary_search(&value).is_err() => {
                return Err(Violation::Invented { key: key.to_owned(), value });
            }
            Outcome::Done | Outcome::Found(_) | Outcome::Refused | Outcome::Unknown => {}
        }
    }
    linearize::check(key, events)
}

impl Operation {
    const fn value(self) -> Option<Value> {
        match self {
            Self::Create(value) | Self::Put(value) | Self::Replace { value, .. } => Some(value),
            Self::Delete | Self::Get => None,
        }
    }
}

#[cfg(test)]
mod tests;
