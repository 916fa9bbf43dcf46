//! Versions of keys: keys in byte order, the versions of each from the newest on.
//!
//! Invariant: a page shows what there was after one entry of the log: the versions that are there and were made by then, and
//! those that have gone since. That is enough, because a version never changes and its number is never given twice.

use std::{
    ops::Bound::{self, Excluded, Included},
    sync::Arc,
};

use super::{
    Bucket, DeleteMarker, Listing, Object, ObjectName, Start, State,
    history::PastVersion,
    listing::{first_key, group_len, shared, successor},
    versions::Older,
};

/// One line of a listing of versions.
#[derive(Clone, Debug)]
pub enum VersionEntry<'a> {
    /// It was put over the key's older versions. The latest one: the key holds nothing.
    DeleteMarker {
        /// The key.
        key: &'a str,
        /// What is known of it.
        marker: DeleteMarker,
        /// Whether it is the key's latest version.
        latest: bool,
    },
    /// All keys that begin with this.
    Group(&'a str),
    /// What the key holds, if it is the latest, or held.
    Object {
        /// The key.
        key: &'a str,
        /// The version.
        object: &'a Object,
        /// The fewest that any of its chunks has.
        durable_replicas: u32,
        /// Whether it is the key's latest version.
        latest: bool,
    },
}

/// Some lines of a listing of versions.
#[derive(Clone, Debug)]
pub struct VersionPage<'a> {
    /// The lines, in their order.
    pub entries: Vec<VersionEntry<'a>>,
    /// Where the next page begins; none after the last one.
    pub next: Option<Start>,
}

impl VersionEntry<'_> {
    fn next_start(&self) -> Start {
        match self {
            Self::Group(prefix) => Start::AfterPrefix((*prefix).to_owned()),
            Self::DeleteMarker { key, marker, .. } => Start::BelowVersion((*key).to_owned(), marker.version),
            Self::Object { key, object, .. } => Start::BelowVersion((*key).to_owned(), object.version),
        }
    }
}

/// A version of a key, wherever it was found.
#[derive(Clone, Copy)]
enum Found<'a> {
    DeleteMarker(&'a DeleteMarker),
    Object(&'a Object, u32),
}

impl<'a> Found<'a> {
    const fn version(&self) -> u64 {
        match self {
            Self::DeleteMarker(marker) => marker.version,
            Self::Object(object, _) => object.version,
        }
    }

    fn entry(self, key: &'a str, latest: bool) -> VersionEntry<'a> {
        match self {
            Self::DeleteMarker(marker) => VersionEntry::DeleteMarker { key, marker: *marker, latest },
            Self::Object(object, durable_replicas) => {
                VersionEntry::Object { key, object, durable_replicas, latest }
            }
        }
    }
}

impl State {
    /// At most `len_max` lines of a listing of the bucket's versions as they were after the entry `at`, which must be
    /// [remembered](Self::remembers). There may be fewer although more follow, as in [`State::page`].
    #[must_use]
    pub fn version_page<'a>(
        &'a self,
        bucket: &Bucket,
        listing: Listing<'_>,
        at: u64,
        len_max: usize,
    ) -> VersionPage<'a> {
        const LOOKED_AT_MAX: usize = 10_000;
        let mut page = VersionPage { entries: Vec::new(), next: None };
        let mut below = match listing.start {
            Some(Start::BelowVersion(key, version)) => Some((key.as_str(), *version)),
            _ => None,
        };
        let mut from = first_key(listing);
        for _ in 0..LOOKED_AT_MAX.max(len_max + 1) {
            let key = from.take().and_then(|from| self.next_key(bucket, from, at));
            let within = key.and_then(|key| Some((key, key.strip_prefix(listing.prefix)?)));
            let Some((key, rest)) = within else {
                page.next = None;
                return page;
            };
            let below = below.take().filter(|(own, _)| *own == key).map(|(_, version)| version);
            let room = len_max - page.entries.len();
            let found = self.versions_at(bucket, key, below.unwrap_or(u64::MAX), at, room + 1);
            if room == 0 && !found.is_empty() {
                page.next = page.entries.last().map(VersionEntry::next_start);
                return page;
            }
            let group = group_len(rest, listing.delimiter).map(|len| &key[..listing.prefix.len() + len]);
            if let (Some(group), false) = (group, found.is_empty()) {
                page.entries.push(VersionEntry::Group(group));
                page.next = Some(Start::AfterPrefix(group.to_owned()));
                from = successor(group).map(Included);
                continue;
            }
            let is_cut = found.len() > room;
            let lines = found.into_iter().take(room).enumerate();
            page.entries.extend(lines.map(|(at, found)| found.entry(key, below.is_none() && at == 0)));
            if is_cut {
                page.next = page.entries.last().map(VersionEntry::next_start);
                return page;
            }
            page.next = Some(Start::AfterKey(key.to_owned()));
            from = Some(Excluded(key.to_owned()));
        }
        page
    }

    /// The first key that has versions, or is known to have had some of late.
    fn next_key(&self, bucket: &Bucket, from: Bound<String>, at: u64) -> Option<&str> {
        let from = shared(from);
        let changed = self.history.first_noted(bucket.id, &from, at).map(|(key, _)| &**key);
        let removed = self.history.first_removed(bucket.id, &from).map(|key| &**key);
        let older = self.older.first_key(bucket.id, &from).map(|key| &**key);
        let held = self.first_object(bucket.id, from).map(|(key, _)| key);
        [changed, removed, older, held].into_iter().flatten().min()
    }

    /// The newest versions of the key below `below` that were there after the entry `at`.
    fn versions_at(&self, bucket: &Bucket, key: &str, below: u64, at: u64, len_max: usize) -> Vec<Found<'_>> {
        let name: ObjectName = (bucket.id, Arc::from(key));
        let of_object = |object| Found::Object(object, Object::durable_replicas(object, bucket.replicas));
        let held = self.objects.get(&name).map(of_object);
        // What the first change since took the place of; later ones took the place of what was made since, or of what is
        // among the removed.
        let changed = self.history.first_noted(bucket.id, &Included(Arc::clone(&name.1)), at);
        let before = changed.filter(|(own, _)| **own == name.1).and_then(|(_, past)| past.flatten());
        let before = before.map(|past| Found::Object(&past.object, past.durable_replicas));
        let is_then = |found: &Found<'_>| found.version() <= at && found.version() < below;
        let older = self.older.beneath(&name, below).map(|older| match older {
            Older::Object(object) => of_object(object),
            Older::DeleteMarker(marker) => Found::DeleteMarker(marker),
        });
        let removed = self.history.removed_since(at, &name, below).map(|version| match version {
            PastVersion::Object(past) => Found::Object(&past.object, past.durable_replicas),
            PastVersion::DeleteMarker(marker) => Found::DeleteMarker(marker),
        });
        let mut found: Vec<Found<'_>> = held.into_iter().chain(before).filter(is_then).collect();
        found.extend(older.filter(is_then).take(len_max));
        found.extend(removed.take(len_max));
        found.sort_by_key(|found| std::cmp::Reverse(found.version()));
        found.dedup_by_key(|found| found.version());
        found.truncate(len_max);
        found
    }
}
