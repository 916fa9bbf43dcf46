//! Which edges the leader has heard of. Not replicated: a new leader learns them anew, within one poll of theirs.
//!
//! Invariant: nothing depends on it. An edge that is forgotten is merely not shown.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::hearsay::{bound_counters, bound_text};

/// Edges that are remembered; of more, those that were heard of last.
const EDGES_MAX: usize = 256;

/// What an edge last said about itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EdgeWord {
    /// Where its kernel program runs.
    pub xdp_mode: String,
    /// Why there.
    pub xdp_reason: String,
    /// How replies cross it.
    pub replies: String,
    /// What it has seen, by how it ended.
    pub packets: BTreeMap<String, u64>,
    /// Datagrams that it refused, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// The last second, since the Unix epoch, in which its certificate holds. Zero: it has none.
    pub certificate_expiry_s: u64,
}

/// An edge as the leader sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Edge {
    /// Where clients reach it.
    pub address: String,
    /// What it said.
    pub word: EdgeWord,
    /// Since then.
    pub age: Duration,
}

/// The leader's view of all edges.
#[derive(Debug)]
pub struct Edges {
    forgotten_after: Duration,
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    term: u64,
    /// By address.
    edges: BTreeMap<String, (Instant, EdgeWord)>,
}

impl Edges {
    /// An edge is forgotten after this long without a word.
    #[must_use]
    pub fn new(forgotten_after: Duration) -> Self {
        Self { forgotten_after, heard: Mutex::default() }
    }

    /// Notes what the edge at `address` said to the leader of `term`.
    pub fn heard(&self, term: u64, address: String, mut word: EdgeWord, now: Instant) {
        [&mut word.packets, &mut word.rejects].into_iter().for_each(bound_counters);
        [&mut word.xdp_mode, &mut word.xdp_reason, &mut word.replies].into_iter().for_each(bound_text);
        self.at_term(term, now, |edges| {
            let oldest = || edges.iter().min_by_key(|(_, (at, _))| *at).map(|(address, _)| address.clone());
            if edges.len() >= EDGES_MAX
                && !edges.contains_key(&address)
                && let Some(oldest) = oldest()
            {
                edges.remove(&oldest);
            }
            edges.insert(address, (now, word));
        });
    }

    /// All edges that the leader of `term` remembers, by address.
    #[must_use]
    pub fn list(&self, term: u64, now: Instant) -> Vec<Edge> {
        self.at_term(term, now, |edges| {
            let edge = |(address, (at, word)): (&String, &(Instant, EdgeWord))| Edge {
                address: address.clone(),
                word: word.clone(),
                age: now.saturating_duration_since(*at),
            };
            edges.iter().map(edge).collect()
        })
    }

    fn at_term<T>(
        &self,
        term: u64,
        now: Instant,
        work: impl FnOnce(&mut BTreeMap<String, (Instant, EdgeWord)>) -> T,
    ) -> T {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.term != term {
            *heard = Heard { term, edges: BTreeMap::new() };
        }
        heard.edges.retain(|_, (at, _)| now.saturating_duration_since(*at) < self.forgotten_after);
        work(&mut heard.edges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(edges: &Edges, term: u64, now: Instant) -> Vec<String> {
        edges.list(term, now).into_iter().map(|edge| edge.address).collect()
    }

    #[test]
    fn edge_is_listed_until_it_has_been_silent_for_long() {
        let edges = Edges::new(Duration::from_secs(60));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let word = |mode: &str| EdgeWord { xdp_mode: mode.into(), ..EdgeWord::default() };
        edges.heard(1, "e:1".into(), word("off"), at(0));
        edges.heard(1, "f:1".into(), word("off"), at(30));
        edges.heard(1, "e:1".into(), word("native"), at(40));
        let seen = edges.list(1, at(50));
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].age, seen[0].word.xdp_mode.as_str()), (Duration::from_secs(10), "native"));
        assert_eq!(addresses(&edges, 1, at(90)), ["e:1"]);
        assert!(addresses(&edges, 1, at(100)).is_empty());
    }

    #[test]
    fn leader_of_the_next_term_has_yet_to_hear() {
        let edges = Edges::new(Duration::from_secs(60));
        let now = Instant::now();
        edges.heard(1, "e:1".into(), EdgeWord::default(), now);
        assert!(addresses(&edges, 2, now).is_empty());
    }

    #[test]
    fn of_too_many_edges_those_heard_of_last_are_kept() {
        let edges = Edges::new(Duration::from_secs(60));
        let start = Instant::now();
        let at = |number: usize| start + Duration::from_millis(number as u64);
        for number in 0..EDGES_MAX + 2 {
            edges.heard(1, format!("e:{number}"), EdgeWord::default(), at(number));
        }
        let kept = addresses(&edges, 1, at(EDGES_MAX + 2));
        assert_eq!(kept.len(), EDGES_MAX);
        assert!(!kept.contains(&"e:0".to_owned()) && !kept.contains(&"e:1".to_owned()));
    }

    #[test]
    fn what_an_edge_says_is_bounded() {
        let edges = Edges::new(Duration::from_secs(60));
        let now = Instant::now();
        let many = |name: &str| (0..1000).map(|number| (format!("{name}{number}"), 1)).collect();
        let word = EdgeWord {
            xdp_mode: "m".repeat(9999),
            xdp_reason: "r".repeat(9999),
            replies: "r".repeat(9999),
            packets: many("p"),
            rejects: many("r"),
            certificate_expiry_s: 0,
        };
        edges.heard(1, "e:1".into(), word, now);
        let kept = &edges.list(1, now)[0].word;
        assert!(kept.packets.len() <= 64 && kept.rejects.len() <= 64);
        assert!([&kept.xdp_mode, &kept.xdp_reason, &kept.replies].iter().all(|text| text.len() <= 1024));
    }
}
