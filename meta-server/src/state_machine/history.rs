//! What keys held before they changed of late, so that a long listing can go on with the picture that it began with.
//!
//! It follows from the commands that this server has applied since it started or took a snapshot, and is no part of what
//! servers agree on: no outcome depends on it, and it is in no snapshot. Invariant: bounded in bytes and in age. What is
//! said of a past moment is what a listing then would have said; if that is forgotten, nothing is said.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use xdpfs_wire::BucketId;

use super::{Bucket, DeleteMarker, Object, ObjectName, versions::Older};

/// About as many bytes as all of it takes.
const BYTES_MAX: usize = 64 << 20;
/// How old a change is that is forgotten, on the cluster's clock.
const AGE_MS_MAX: u64 = 10 * 60 * 1000;
/// What one change takes besides texts: its place in both indexes, and the object.
const CHANGE_BYTES: usize = 400;

/// What a key held.
#[derive(Clone, Debug)]
pub struct Past {
    /// Without its chunks.
    pub object: Object,
    /// The fewest that any of its chunks had.
    pub durable_replicas: u32,
}

/// A version that is gone.
#[derive(Clone, Debug)]
pub(super) enum PastVersion {
    /// It was a delete marker.
    DeleteMarker(DeleteMarker),
    /// It was an object.
    Object(Past),
}

/// A key and the entry that changed it.
type Place = (BucketId, Arc<str>, u64);
/// A key and its version; the newest comes first.
type VersionPlace = (BucketId, Arc<str>, Reverse<u64>);

#[derive(Clone)]
struct Removed {
    /// By this entry.
    index: u64,
    version: PastVersion,
}

#[derive(Clone)]
enum Noted {
    Change(Place),
    Removal(VersionPlace),
}

/// The changes of late.
#[derive(Clone)]
pub(super) struct History {
    /// The entry that the state is the state after.
    index: u64,
    /// What is known reaches back to the moment after this entry; none: the first entry will tell.
    since: Option<u64>,
    /// What each change took the place of; none if the key held nothing.
    before: BTreeMap<Place, Option<Box<Past>>>,
    /// Versions that are gone, of buckets whose versioning is or was on. In others, changes tell it all.
    removed: BTreeMap<VersionPlace, Box<Removed>>,
    /// All of these by time and entry, oldest first.
    order: VecDeque<(u64, u64, Noted)>,
    /// The newest change of a bucket that was forgotten.
    forgotten: BTreeMap<BucketId, u64>,
    bytes: usize,
    bytes_max: usize,
}

impl Default for History {
    /// Of a state without a past.
    fn default() -> Self {
        Self {
            index: 0,
            since: Some(0),
            before: BTreeMap::new(),
            removed: BTreeMap::new(),
            order: VecDeque::new(),
            forgotten: BTreeMap::new(),
            bytes: 0,
            bytes_max: BYTES_MAX,
        }
    }
}

impl History {
    /// Of a state that comes from a snapshot after the entry `index`; zero if the snapshot does not say.
    pub(super) fn after_snapshot(index: u64) -> Self {
        Self { index, since: Some(index).filter(|index| *index > 0), ..Self::default() }
    }

    /// The entry that the state is the state after.
    pub(super) const fn index(&self) -> u64 {
        self.index
    }

    /// An entry begins to be applied.
    pub(super) fn begin(&mut self, index: u64, time_ms: u64) {
        self.since.get_or_insert(index.saturating_sub(1));
        self.index = self.index.max(index);
        while self.order.front().is_some_and(|(then_ms, ..)| then_ms.saturating_add(AGE_MS_MAX) < time_ms) {
            self.forget_oldest();
        }
    }

    /// The entry that is being applied has changed the key, which held `held`.
    pub(super) fn note(&mut self, time_ms: u64, name: &ObjectName, bucket: &Bucket, held: Option<&Object>) {
        let past = held.map(|held| Box::new(Past::of(held, bucket)));
        let place = (name.0, Arc::clone(&name.1), self.index);
        self.bytes += cost(&place.1, past.as_deref());
        self.before.insert(place.clone(), past);
        self.remember(time_ms, Noted::Change(place));
    }

    /// The entry that is being applied has removed a version of the key.
    pub(super) fn note_removed(&mut self, time_ms: u64, name: &ObjectName, bucket: &Bucket, gone: &Older) {
        let version = match gone {
            Older::Object(object) => PastVersion::Object(Past::of(object, bucket)),
            Older::DeleteMarker(marker) => PastVersion::DeleteMarker(*marker),
        };
        let place = (name.0, Arc::clone(&name.1), Reverse(gone.version()));
        self.bytes += cost(&place.1, version.past());
        self.removed.insert(place.clone(), Box::new(Removed { index: self.index, version }));
        self.remember(time_ms, Noted::Removal(place));
    }

    fn remember(&mut self, time_ms: u64, noted: Noted) {
        self.order.push_back((time_ms, self.index, noted));
        while self.bytes > self.bytes_max {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, index, noted)) = self.order.pop_front() else { return };
        // Those of a bucket that is gone went with it.
        let (bucket, cost) = match noted {
            Noted::Change(place) => {
                let Some(past) = self.before.remove(&place) else { return };
                (place.0, cost(&place.1, past.as_deref()))
            }
            Noted::Removal(place) => {
                let Some(removed) = self.removed.remove(&place) else { return };
                (place.0, cost(&place.1, removed.version.past()))
            }
        };
        self.bytes = self.bytes.saturating_sub(cost);
        let newest = self.forgotten.entry(bucket).or_default();
        *newest = (*newest).max(index);
    }

    /// The bucket is gone.
    pub(super) fn forget_bucket(&mut self, bucket: BucketId) {
        let start = (bucket, Arc::from(""), 0);
        while let Some((place, _)) = self.before.range(start.clone()..).next() {
            if place.0 != bucket {
                break;
            }
            let place = place.clone();
            let past = self.before.remove(&place).flatten();
            self.bytes = self.bytes.saturating_sub(cost(&place.1, past.as_deref()));
        }
        let start = (bucket, Arc::from(""), Reverse(u64::MAX));
        while let Some((place, _)) = self.removed.range(start.clone()..).next() {
            if place.0 != bucket {
                break;
            }
            let place = place.clone();
            let removed = self.removed.remove(&place);
            let past = removed.as_deref().and_then(|removed| removed.version.past());
            self.bytes = self.bytes.saturating_sub(cost(&place.1, past));
        }
        self.forgotten.remove(&bucket);
    }

    /// Whether it is known what the bucket held after the entry `at`.
    pub(super) fn reaches(&self, bucket: BucketId, at: u64) -> bool {
        let forgotten = self.forgotten.get(&bucket).copied().unwrap_or_default();
        self.since.is_some_and(|since| since <= at) && forgotten <= at && at <= self.index
    }

    /// The first key from `from` on that is noted here, and if it has changed since the entry `at`, what it held
    /// after that.
    pub(super) fn first_noted(
        &self,
        bucket: BucketId,
        from: &std::ops::Bound<Arc<str>>,
        at: u64,
    ) -> Option<(&Arc<str>, Option<Option<&Past>>)> {
        // Mostly nothing has changed at all.
        self.order.back().filter(|(_, index, _)| *index > at)?;
        let from = match from {
            Included(key) => Included((bucket, Arc::clone(key), 0)),
            Excluded(key) => Excluded((bucket, Arc::clone(key), u64::MAX)),
            Unbounded => Included((bucket, Arc::from(""), 0)),
        };
        let (first, _) = self.before.range((from, Unbounded)).next()?;
        if first.0 != bucket {
            return None;
        }
        let later = (Excluded((bucket, Arc::clone(&first.1), at)), Unbounded);
        let change =
            self.before.range(later).next().filter(|(place, _)| place.0 == bucket && place.1 == first.1);
        Some((&first.1, change.map(|(_, past)| past.as_deref())))
    }

    /// The first key from `from` on of which a version is noted here as gone.
    pub(super) fn first_removed(
        &self,
        bucket: BucketId,
        from: &std::ops::Bound<Arc<str>>,
    ) -> Option<&Arc<str>> {
        let from = match from {
            Included(key) => Included((bucket, Arc::clone(key), Reverse(u64::MAX))),
            Excluded(key) => Excluded((bucket, Arc::clone(key), Reverse(0))),
            Unbounded => Included((bucket, Arc::from(""), Reverse(u64::MAX))),
        };
        let ((found, key, _), _) = self.removed.range((from, Unbounded)).next()?;
        (*found == bucket).then_some(key)
    }

    /// Versions of the key that were there after the entry `at` and have gone since, older than `below`, the newest first.
    pub(super) fn removed_since(
        &self,
        at: u64,
        name: &ObjectName,
        below: u64,
    ) -> impl Iterator<Item = &PastVersion> {
        let place = |version| (name.0, Arc::clone(&name.1), Reverse(version));
        let range = (Excluded(place(below)), Included(place(0)));
        let gone = self.removed.range(range);
        gone.filter(move |((.., Reverse(version)), removed)| *version <= at && removed.index > at)
            .map(|(_, removed)| &removed.version)
    }
}

impl Past {
    fn of(object: &Object, bucket: &Bucket) -> Self {
        Self { durable_replicas: object.durable_replicas(bucket.replicas), object: object.head() }
    }
}

impl PastVersion {
    const fn past(&self) -> Option<&Past> {
        match self {
            Self::Object(past) => Some(past),
            Self::DeleteMarker(_) => None,
        }
    }
}

impl PartialEq for History {
    /// Servers that agree may remember different things.
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes = self.order.len();
        f.debug_struct("History")
            .field("index", &self.index)
            .field("changes", &changes)
            .finish_non_exhaustive()
    }
}

fn cost(key: &str, past: Option<&Past>) -> usize {
    let texts = past.map_or(0, |past| {
        let words = past.object.user_metadata.iter().map(|(key, value)| 64 + key.len() + value.len());
        past.object.content_type.len() + words.sum::<usize>()
    });
    CHANGE_BYTES + key.len() + texts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(id: u32) -> Bucket {
        Bucket::from_record(xdpfs_proto::state::v1::Bucket { id, replicas: 3, ..Default::default() }).unwrap()
    }

    fn change(history: &mut History, index: u64, time_ms: u64, id: u32, key: &str) {
        history.begin(index, time_ms);
        history.note(time_ms, &(BucketId(id), Arc::from(key)), &bucket(id), None);
    }

    #[test]
    fn moments_are_known_from_the_snapshot_on() {
        let reaches = |history: &History, at| history.reaches(BucketId(1), at);
        let mut history = History::after_snapshot(10);
        assert_eq!([9, 10, 11].map(|at| reaches(&history, at)), [false, true, false]);
        change(&mut history, 12, 0, 1, "a");
        assert_eq!([9, 10, 11, 12, 13].map(|at| reaches(&history, at)), [false, true, true, true, false]);
        let mut unknown = History::after_snapshot(0);
        assert!(!reaches(&unknown, 0), "nobody knows when that was");
        change(&mut unknown, 12, 0, 1, "a");
        assert_eq!([0, 10, 11, 12].map(|at| reaches(&unknown, at)), [false, false, true, true]);
    }

    #[test]
    fn what_is_too_much_or_too_old_is_forgotten_by_bucket() {
        let mut history = History { bytes_max: 10 * (CHANGE_BYTES + 1), ..History::default() };
        change(&mut history, 1, 0, 1, "a");
        change(&mut history, 2, 0, 2, "a");
        for index in 3..=11 {
            change(&mut history, index, 5, 2, "b");
        }
        let reaches = |history: &History, bucket, at| history.reaches(BucketId(bucket), at);
        assert_eq!(history.order.len(), 10);
        assert_eq!((reaches(&history, 1, 0), reaches(&history, 1, 1)), (false, true));
        assert!(reaches(&history, 2, 1), "the other bucket's changes are all there");
        history.begin(12, AGE_MS_MAX + 5);
        assert_eq!((reaches(&history, 2, 1), reaches(&history, 2, 2)), (false, true));
        history.begin(13, AGE_MS_MAX + 6);
        assert!(history.order.is_empty() && history.before.is_empty());
        assert_eq!((history.bytes, reaches(&history, 2, 10), reaches(&history, 2, 11)), (0, false, true));
    }

    #[test]
    fn bucket_that_is_gone_leaves_nothing() {
        let mut history = History::default();
        for (index, id) in [(1, 1), (2, 2), (3, 3)] {
            change(&mut history, index, 0, id, "a");
        }
        let before = history.bytes;
        history.forget_bucket(BucketId(2));
        assert_eq!((history.before.len(), history.bytes), (2, before / 3 * 2));
        history.begin(4, AGE_MS_MAX + 1);
        assert!(history.before.is_empty() && history.order.is_empty());
        assert_eq!((history.bytes, history.forgotten.len()), (0, 2));
    }
}
