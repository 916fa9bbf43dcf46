//! A map that can be read slowly as it was at one moment, while it changes.
//!
//! Invariant: every way to change it notes what was there, so that no picture can miss a change. What is noted is no part of what
//! servers agree on, and grows with what changes until the picture ends.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, btree_map::Entry},
    ops::{
        Bound::{Excluded, Unbounded},
        Deref,
    },
};

/// Reads like the map that it is around.
#[derive(Debug)]
pub(super) struct PicturedMap<K, V> {
    now: BTreeMap<K, V>,
    /// While there is a picture: what keys held at its moment that have changed since; none if they held nothing.
    before: Option<BTreeMap<K, Option<V>>>,
}

impl<K, V> Default for PicturedMap<K, V> {
    fn default() -> Self {
        Self { now: BTreeMap::new(), before: None }
    }
}

/// The map alone: a picture belongs to who takes it.
impl<K: Clone, V: Clone> Clone for PicturedMap<K, V> {
    fn clone(&self) -> Self {
        Self { now: self.now.clone(), before: None }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for PicturedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.now == other.now
    }
}

impl<K, V> Deref for PicturedMap<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &BTreeMap<K, V> {
        &self.now
    }
}

impl<'a, K, V> IntoIterator for &'a PicturedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = std::collections::btree_map::Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.now.iter()
    }
}

impl<K: Clone + Ord, V: Clone> PicturedMap<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(before) = &mut self.before else { return self.now.insert(key, value) };
        let held = self.now.insert(key.clone(), value);
        before.entry(key).or_insert_with(|| held.clone());
        held
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (key, held) = self.now.remove_entry(key)?;
        if let Some(before) = &mut self.before {
            before.entry(key).or_insert_with(|| Some(held.clone()));
        }
        Some(held)
    }

    /// What the key holds, which may be changed.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let held = self.now.get_mut(key)?;
        if let Some(Entry::Vacant(entry)) = self.before.as_mut().map(|before| before.entry(key.clone())) {
            entry.insert(Some(held.clone()));
        }
        Some(held)
    }

    /// This moment can be read from here on. The picture before it ends.
    pub(super) fn begin_picture(&mut self) {
        self.before = Some(BTreeMap::new());
    }

    /// Nothing is noted any more. Gives what was, which takes time to let go if it is much.
    pub(super) fn end_picture(&mut self) -> impl Send + use<K, V>
    where
        K: Send,
        V: Send,
    {
        self.before.take()
    }

    /// Visits what the picture has behind the key `after`, in order, and looks at no more than `count` keys. Gives the last one
    /// of them, or none if that was all.
    pub(super) fn slice(
        &self,
        after: Option<&K>,
        cost_max: usize,
        mut visit: impl FnMut(&K, &V) -> usize,
    ) -> Option<K> {
        let from = (after.map_or(Unbounded, Excluded), Unbounded);
        let mut now = self.now.range(from).peekable();
        let mut before = self.before.iter().flat_map(|before| before.range(from)).peekable();
        let (mut last, mut cost) = (None, 0);
        while cost < cost_max {
            let (key, value) = match (now.peek(), before.peek()) {
                (None, None) => return None,
                (Some((key, value)), None) => (*key, Some(*value)),
                (Some((key, value)), Some((changed, _))) if key < changed => (*key, Some(*value)),
                (_, Some((changed, held))) => (*changed, held.as_ref()),
            };
            now.next_if(|(next, _)| *next == key);
            before.next_if(|(next, _)| *next == key);
            cost += value.map_or(1, |value| visit(key, value).max(1));
            last = Some(key);
        }
        last.cloned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a picture has, read in slices, with `change` made between them.
    fn read(
        map: &mut PicturedMap<u8, u32>,
        count: usize,
        mut change: impl FnMut(&mut PicturedMap<u8, u32>),
    ) -> Vec<(u8, u32)> {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            after = map.slice(after.as_ref(), count, |key, value| {
                seen.push((*key, *value));
                *value as usize % 3
            });
            if after.is_none() {
                return seen;
            }
            change(map);
        }
    }

    proptest! {
        #[test]
        fn picture_has_what_was_there_when_it_began(
            held in prop::collection::btree_map(any::<u8>(), 0..9u32, 0..60),
            changes in prop::collection::vec((any::<u8>(), 0..4u8, 10..99u32), 0..200),
            count in 1..20usize,
        ) {
            let mut map = PicturedMap::default();
            for (key, value) in &held {
                map.insert(*key, *value);
            }
            let mut expected = held.clone();
            map.begin_picture();
            let mut changes = changes.into_iter();
            let seen = read(&mut map, count, |map| {
                for (key, kind, value) in changes.by_ref().take(7) {
                    match kind {
                        0 => assert_eq!(map.insert(key, value), expected.insert(key, value)),
                        1 => assert_eq!(map.remove(&key), expected.remove(&key)),
                        _ => {
                            if let Some(held) = map.get_mut(&key) {
                                *held = value;
                                expected.insert(key, value);
                            }
                        }
                    }
                }
            });
            prop_assert_eq!(seen, held.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(&*map, &expected);
            drop(map.end_picture());
            let seen = read(&mut map, count, |_| {});
            prop_assert_eq!(seen, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
