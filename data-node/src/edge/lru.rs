//! A map that holds so many entries and forgets the ones that were used longest ago. Pure: told what time it is.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Entries by key, and by when they were last used.
#[derive(Debug)]
pub(super) struct Lru<K, V> {
    entries_max: usize,
    entries: BTreeMap<K, Entry<V>>,
    /// Keys in the order of their last use.
    order: BTreeMap<u64, K>,
    next_turn: u64,
}

#[derive(Debug)]
struct Entry<V> {
    turn: u64,
    used_at: Instant,
    value: V,
}

impl<K: Copy + Ord, V> Lru<K, V> {
    /// Holds at least one entry.
    pub(super) fn new(entries_max: usize) -> Self {
        let entries_max = entries_max.max(1);
        Self { entries_max, entries: BTreeMap::new(), order: BTreeMap::new(), next_turn: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value of a key, which is used by that.
    pub(super) fn touch(&mut self, key: K, now: Instant) -> Option<&mut V> {
        let turn = self.next_turn;
        let entry = self.entries.get_mut(&key)?;
        self.next_turn += 1;
        self.order.remove(&entry.turn);
        self.order.insert(turn, key);
        (entry.turn, entry.used_at) = (turn, now);
        Some(&mut entry.value)
    }

    /// Adds an entry; gives the one that had to go for it.
    pub(super) fn insert(&mut self, key: K, value: V, now: Instant) -> Option<V> {
        let gone = match self.entries.get(&key) {
            Some(_) => self.remove(key),
            None if self.entries.len() >= self.entries_max => self.pop_oldest(),
            None => None,
        };
        let turn = self.next_turn;
        self.next_turn += 1;
        self.order.insert(turn, key);
        self.entries.insert(key, Entry { turn, used_at: now, value });
        gone
    }

    /// Takes out the entry that was used longest ago.
    pub(super) fn pop_oldest(&mut self) -> Option<V> {
        let key = *self.order.first_key_value()?.1;
        self.remove(key)
    }

    /// Takes out an entry that has not been used for `idle`, if there is one.
    pub(super) fn pop_idle(&mut self, idle: Duration, now: Instant) -> Option<V> {
        self.idle_at(idle).filter(|at| *at <= now)?;
        self.pop_oldest()
    }

    /// When the first entry will not have been used for `idle`.
    pub(super) fn idle_at(&self, idle: Duration) -> Option<Instant> {
        let oldest = self.order.first_key_value()?.1;
        self.entries.get(oldest).map(|entry| entry.used_at + idle)
    }

    fn remove(&mut self, key: K) -> Option<V> {
        let entry = self.entries.remove(&key)?;
        self.order.remove(&entry.turn);
        Some(entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_that_was_used_longest_ago_makes_room() {
        let now = Instant::now();
        let mut lru = Lru::new(2);
        assert_eq!(lru.insert("a", 1, now), None);
        assert_eq!(lru.insert("b", 2, now), None);
        assert_eq!(lru.touch("a", now), Some(&mut 1));
        assert_eq!(lru.insert("c", 3, now), Some(2), "b was not used");
        assert_eq!(lru.touch("a", now), Some(&mut 1));
        assert_eq!(lru.touch("b", now), None);
        assert_eq!(lru.insert("a", 4, now), Some(1), "the same key makes room for itself");
        assert_eq!(lru.len(), 2);
    }

    #[test]
    fn idle_entries_go_one_after_the_other() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let idle = Duration::from_secs(10);
        let mut lru = Lru::new(9);
        assert_eq!(lru.idle_at(idle), None);
        lru.insert("a", 1, at(0));
        lru.insert("b", 2, at(1));
        lru.touch("a", at(5));
        assert_eq!(lru.idle_at(idle), Some(at(11)));
        assert_eq!(lru.pop_idle(idle, at(10)), None);
        assert_eq!(lru.pop_idle(idle, at(20)), Some(2));
        assert_eq!(lru.pop_idle(idle, at(20)), Some(1));
        assert_eq!((lru.pop_idle(idle, at(20)), lru.len()), (None, 0));
    }
}
