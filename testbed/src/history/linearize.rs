//! The search for an order: Wing and Gong's algorithm with Lowe's memory of what has been tried ("Testing for
//! linearizability", 2017, §3).

use std::{collections::HashSet, fmt::Write as _};

use super::{Event, Operation, Outcome, Value, Violation};

/// Configurations that are tried for one key.
const STEPS_MAX: usize = 1_000_000;

pub(super) fn check(key: &str, events: &[Event]) -> Result<(), Violation> {
    let mut events: Vec<Event> = events
        .iter()
        .filter(|event| !(event.operation == Operation::Get && event.outcome == Outcome::Unknown))
        .copied()
        .collect();
    events.sort_by_key(|event| event.called_ns);
    Search::new(key, &events).run()
}

/// Which operations have been put in order, and what the key holds after them.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Configuration {
    ordered: Vec<u64>,
    holds: Option<Value>,
}

impl Configuration {
    fn has(&self, index: usize) -> bool {
        self.ordered[index / 64] >> (index % 64) & 1 == 1
    }

    fn with(&self, index: usize, holds: Option<Value>) -> Self {
        let mut ordered = self.ordered.clone();
        ordered[index / 64] |= 1 << (index % 64);
        Self { ordered, holds }
    }
}

struct Search<'a> {
    key: &'a str,
    /// By the time of the call.
    events: &'a [Event],
    known: usize,
    tried: HashSet<Configuration>,
    /// The configuration that explains the most answers.
    best: (usize, Configuration),
}

impl<'a> Search<'a> {
    fn new(key: &'a str, events: &'a [Event]) -> Self {
        let empty = Configuration { ordered: vec![0; events.len().div_ceil(64)], holds: None };
        let known = events.iter().filter(|event| event.outcome != Outcome::Unknown).count();
        Self { key, events, known, tried: HashSet::new(), best: (0, empty) }
    }

    /// Depth first, so that a history without faults is walked almost straight through.
    fn run(mut self) -> Result<(), Violation> {
        let mut stack = vec![(0, self.best.1.clone())];
        while let Some((explained, configuration)) = stack.pop() {
            if explained == self.known {
                return Ok(());
            }
            if !self.tried.insert(configuration.clone()) {
                continue;
            }
            if self.tried.len() >= STEPS_MAX {
                let (operations, steps) = (self.events.len(), STEPS_MAX);
                return Err(Violation::Undecided { key: self.key.to_owned(), operations, steps });
            }
            if explained > self.best.0 {
                self.best = (explained, configuration.clone());
            }
            for index in self.candidates(&configuration) {
                if let Some(holds) = self.effect(index, configuration.holds) {
                    let step = usize::from(self.events[index].outcome != Outcome::Unknown);
                    stack.push((explained + step, configuration.with(index, holds)));
                }
            }
        }
        Err(self.violation())
    }

    /// The operations that may come next: those called before any other one that is left had returned. The last of
    /// them is tried first, so they are ordered by their worth: unknown ones, then known ones by how late they
    /// returned. A get that fits is always right to come next, since it changes nothing.
    fn candidates(&self, configuration: &Configuration) -> Vec<usize> {
        let mut earliest_return = u64::MAX;
        let mut candidates = Vec::new();
        for (index, event) in self.events.iter().enumerate().filter(|(index, _)| !configuration.has(*index)) {
            if event.called_ns > earliest_return {
                break;
            }
            if event.outcome != Outcome::Unknown {
                earliest_return = earliest_return.min(event.returned_ns);
            }
            if event.outcome == Outcome::Found(configuration.holds) {
                return vec![index];
            }
            candidates.push(index);
        }
        candidates.sort_by_key(|index| {
            let event = &self.events[*index];
            match event.outcome {
                Outcome::Unknown => (0, 0),
                Outcome::Done | Outcome::Found(_) | Outcome::Refused => (1, u64::MAX - event.returned_ns),
            }
        });
        candidates
    }

    /// What the key holds after the operation; `None` if it could not have been answered as it was.
    fn effect(&self, index: usize, holds: Option<Value>) -> Option<Option<Value>> {
        let event = &self.events[index];
        match (event.operation, event.outcome) {
            (Operation::Put(value), Outcome::Done | Outcome::Unknown) => Some(Some(value)),
            (Operation::Create(value), Outcome::Done | Outcome::Unknown) => {
                holds.is_none().then_some(Some(value))
            }
            (Operation::Create(_), Outcome::Refused) => holds.is_some().then_some(holds),
            (Operation::Replace { held, value }, Outcome::Done | Outcome::Unknown) => {
                (holds == Some(held)).then_some(Some(value))
            }
            (Operation::Replace { held, .. }, Outcome::Refused) => (holds != Some(held)).then_some(holds),
            (Operation::Delete, Outcome::Done | Outcome::Unknown) => holds.is_some().then_some(None),
            (Operation::Delete, Outcome::Refused) => holds.is_none().then_some(None),
            (Operation::Get, Outcome::Found(found)) => (found == holds).then_some(holds),
            (Operation::Get, Outcome::Done | Outcome::Refused | Outcome::Unknown)
            | (Operation::Put(_), Outcome::Found(_) | Outcome::Refused)
            | (Operation::Create(_) | Operation::Delete | Operation::Replace { .. }, Outcome::Found(_)) => {
                None
            }
        }
    }

    fn violation(self) -> Violation {
        let (explained, configuration) = &self.best;
        let mut stuck = match configuration.holds {
            Some(value) => format!("  the key holds {value:x}\n"),
            None => "  the key holds nothing\n".to_owned(),
        };
        for index in self.candidates(configuration) {
            let Event { operation, outcome, called_ns, returned_ns } = self.events[index];
            let (called_ms, returned_ms) = (called_ns / 1_000_000, returned_ns / 1_000_000);
            // Writing to a string cannot fail.
            let _written =
                writeln!(stuck, "  {operation:x?} -> {outcome:x?} from {called_ms} ms to {returned_ms} ms");
        }
        Violation::NotLinearizable {
            key: self.key.to_owned(),
            explained: *explained,
            known: self.known,
            stuck,
        }
    }
}
