//! What the relay has seen and done since its start.

use std::{
    array,
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use xdpfs_wire::Reject;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// What can become of a datagram in the relay. Where the kernel program has a fate of the same kind, the label
        /// is the same.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u8)]
        pub(in crate::edge) enum Event {
            $($(#[$doc])* $name,)*
        }

        impl Event {
            const ALL: &'static [Self] = &[$(Self::$name,)*];

            const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

events! {
    /// Refused, and the sender was told why.
    Answered = "answered",
    /// Refused, and the sender was not told, because enough answers have gone out.
    AnswerWithheld = "answer_withheld",
    /// Sent by the relay itself: a node's direct address leads back to it.
    Circular = "relay_circular",
    /// The system gave no socket for the client.
    NoFlow = "relay_no_flow",
    /// Sent to its node.
    Relayed = "relayed",
    /// A reply, sent to its client.
    Returned = "relay_returned",
    /// From a source prefix that may not send.
    SourceDenied = "source_denied",
    /// From a source that sends faster than it may.
    SourceTooFast = "source_too_fast",
    /// A reply from somebody who is no node of this edge.
    Stranger = "relay_stranger",
}

/// Counters that anybody may read while the relay runs.
#[derive(Debug)]
pub(in crate::edge) struct RelayCounters {
    events: Vec<AtomicU64>,
    rejects: [AtomicU64; Reject::ALL.len()],
    /// Clients at present.
    flows: AtomicU64,
}

impl Default for RelayCounters {
    fn default() -> Self {
        Self {
            events: Event::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            rejects: array::from_fn(|_| AtomicU64::new(0)),
            flows: AtomicU64::new(0),
        }
    }
}

impl RelayCounters {
    pub(super) fn count(&self, event: Event) {
        self.count_many(event, 1);
    }

    pub(super) fn count_many(&self, event: Event, times: usize) {
        self.events[event as usize].fetch_add(times as u64, Ordering::Relaxed);
    }

    pub(super) fn count_reject(&self, reject: Reject) {
        self.rejects[reject as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_flows(&self, flows: usize) {
        self.flows.store(flows as u64, Ordering::Relaxed);
    }

    /// Clients that are relayed at present.
    pub(in crate::edge) fn flows(&self) -> u64 {
        self.flows.load(Ordering::Relaxed)
    }

    /// Adds what has been seen, by label, to what the kernel program has.
    pub(in crate::edge) fn add_events(&self, packets: &mut BTreeMap<String, u64>) {
        let counts = Event::ALL.iter().zip(&self.events).map(|(event, count)| (event.label(), count));
        add(counts, packets);
    }

    /// Adds what has been refused, by reason, to what the kernel program has.
    pub(in crate::edge) fn add_rejects(&self, rejects: &mut BTreeMap<String, u64>) {
        let counts = Reject::ALL.iter().zip(&self.rejects).map(|(reject, count)| (reject.label(), count));
        add(counts, rejects);
    }
}

fn add<'a>(counts: impl Iterator<Item = (&'static str, &'a AtomicU64)>, sums: &mut BTreeMap<String, u64>) {
    let counts = counts.map(|(label, count)| (label, count.load(Ordering::Relaxed)));
    for (label, count) in counts.filter(|(_, count)| *count > 0) {
        *sums.entry(label.to_owned()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_added_to_those_of_the_same_label() {
        let counters = RelayCounters::default();
        counters.count_many(Event::Relayed, 3);
        counters.count(Event::Answered);
        counters.count_reject(Reject::BadTag);
        let mut packets = [("answered".to_owned(), 5)].into();
        counters.add_events(&mut packets);
        assert_eq!(packets, [("answered".to_owned(), 6), ("relayed".to_owned(), 3)].into());
        let mut rejects = [("too_short".to_owned(), 2)].into();
        counters.add_rejects(&mut rejects);
        assert_eq!(rejects, [("bad_tag".to_owned(), 1), ("too_short".to_owned(), 2)].into());
    }
}
