//! What keys held before: older versions and delete markers, in buckets whose versioning is or was on.
//!
//! Invariant: what a key holds is newer than its older versions; a key that holds nothing has none, or the newest of them
//! is a delete marker. Right beneath a delete marker lies an object, which it hides. Each version owns its chunks.

use std::{cmp::Reverse, sync::Arc};

use xdpfs_proto::state::v1::{self as pb};
use xdpfs_wire::BucketId;

use super::{
    Bucket, Context, Object, ObjectName, State, VersionName,
    pictured::PicturedMap,
    reject::{OBJECT_NOT_FOUND, Reason, Reject, VERSION_NOT_FOUND},
};

/// What becomes of an object that another one takes the place of, or that is deleted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Versioning {
    /// It goes, and always did.
    Off,
    /// It stays as an older version.
    On,
    /// It stays if it was made while versioning was on.
    Suspended,
}

pub(super) const UNKNOWN_VERSIONING: Reject =
    Reject::new(Reason::InvalidArgument, "versioning is of an unknown kind");

impl Versioning {
    /// From the number of a message.
    #[must_use]
    pub fn parse(number: i32) -> Option<Self> {
        Some(match pb::Versioning::try_from(number).ok()? {
            pb::Versioning::Off => Self::Off,
            pb::Versioning::On => Self::On,
            pb::Versioning::Suspended => Self::Suspended,
        })
    }

    pub(super) const fn record(self) -> pb::Versioning {
        match self {
            Self::Off => pb::Versioning::Off,
            Self::On => pb::Versioning::On,
            Self::Suspended => pb::Versioning::Suspended,
        }
    }

    /// What it becomes if `wanted` is asked for.
    pub(super) fn updated(self, wanted: i32) -> Result<Self, Reject> {
        match (self, Self::parse(wanted).ok_or(UNKNOWN_VERSIONING)?) {
            (Self::On | Self::Suspended, Self::Off) => {
                let words = "versioning that was on can be suspended, and never be off again";
                Err(Reject::new(Reason::InvalidArgument, words))
            }
            (_, wanted) => Ok(wanted),
        }
    }
}

/// A mark that a key holds nothing, over what it held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeleteMarker {
    /// The index of the log entry that made it.
    pub version: u64,
    /// On the cluster's clock.
    pub create_time_ms: u64,
    /// As [`Object::kept`].
    pub kept: bool,
}

/// What lies beneath what a key holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Older {
    Object(Object),
    DeleteMarker(DeleteMarker),
}

impl Older {
    pub(super) const fn version(&self) -> u64 {
        match self {
            Self::Object(object) => object.version,
            Self::DeleteMarker(marker) => marker.version,
        }
    }

    const fn is_kept(&self) -> bool {
        match self {
            Self::Object(object) => object.kept,
            Self::DeleteMarker(marker) => marker.kept,
        }
    }

    /// Without chunks: what an answer needs.
    fn head(&self, name: &ObjectName) -> pb::Object {
        match self {
            Self::Object(object) => object.head().record(name),
            Self::DeleteMarker(marker) => marker.record(name),
        }
    }

    pub(super) fn record(&self, name: &ObjectName) -> pb::OlderVersion {
        let (object, delete_marker) = match self {
            Self::Object(object) => (object.record(name), false),
            Self::DeleteMarker(marker) => (marker.record(name), true),
        };
        pb::OlderVersion { object: Some(object), delete_marker }
    }

    pub(super) fn from_record(record: pb::OlderVersion) -> Option<(ObjectName, Self)> {
        let (name, object) = Object::from_record(record.object?)?;
        if !record.delete_marker {
            return Some((name, Self::Object(object)));
        }
        let Object { version, create_time_ms, kept, .. } = object;
        Some((name, Self::DeleteMarker(DeleteMarker { version, create_time_ms, kept })))
    }
}

impl DeleteMarker {
    fn record(&self, (bucket, key): &ObjectName) -> pb::Object {
        pb::Object {
            bucket_id: bucket.0,
            key: key.to_string(),
            version: self.version,
            create_time_ms: self.create_time_ms,
            kept: self.kept,
            ..Default::default()
        }
    }
}

/// What a bucket holds besides visible objects.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OlderSums {
    /// Older versions that are objects.
    pub versions: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Delete markers.
    pub delete_markers: u64,
}

impl OlderSums {
    pub(super) fn add(&mut self, older: &Older) {
        match older {
            Older::Object(object) => {
                self.versions += 1;
                self.bytes = self.bytes.saturating_add(object.size);
            }
            Older::DeleteMarker(_) => self.delete_markers += 1,
        }
    }

    fn take(&mut self, older: &Older) {
        match older {
            Older::Object(object) => {
                self.versions -= 1;
                self.bytes -= object.size;
            }
            Older::DeleteMarker(_) => self.delete_markers -= 1,
        }
    }
}

impl Bucket {
    /// Whether an object stays that loses its place.
    fn keeps(&self, held: &Object) -> bool {
        self.versioning == Versioning::On || held.kept
    }
}

/// A bucket, a key, and a version; the newest comes first.
pub(super) type Place = (BucketId, Arc<str>, Reverse<u64>);

/// The older versions of all keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct OlderVersions {
    versions: PicturedMap<Place, Older>,
}

fn place((bucket, key): &ObjectName, version: u64) -> Place {
    (*bucket, Arc::clone(key), Reverse(version))
}

impl OlderVersions {
    pub(super) fn insert(&mut self, name: &ObjectName, older: Older) {
        self.versions.insert(place(name, older.version()), older);
    }

    fn remove(&mut self, name: &ObjectName, version: u64) -> Option<Older> {
        self.versions.remove(&place(name, version))
    }

    pub(super) fn version(&self, name: &ObjectName, version: u64) -> Option<&Older> {
        self.versions.get(&place(name, version))
    }

    fn version_mut(&mut self, name: &ObjectName, version: u64) -> Option<&mut Older> {
        self.versions.get_mut(&place(name, version))
    }

    /// Those of the key that are older than `version`, the newest first.
    pub(super) fn beneath(&self, name: &ObjectName, version: u64) -> impl Iterator<Item = &Older> {
        use std::ops::Bound::{Excluded, Included};
        let range = (Excluded(place(name, version)), Included(place(name, 0)));
        self.versions.range(range).map(|(_, older)| older)
    }

    /// All of the key, the newest first.
    fn of(&self, name: &ObjectName) -> impl Iterator<Item = &Older> {
        self.versions.range(place(name, u64::MAX)..=place(name, 0)).map(|(_, older)| older)
    }

    /// The one that lies right above `version`.
    fn above(&self, name: &ObjectName, version: u64) -> Option<&Older> {
        self.versions.range(place(name, u64::MAX)..place(name, version)).next_back().map(|(_, older)| older)
    }

    /// The first key of the bucket within the bound that has older versions.
    pub(super) fn first_key(&self, bucket: BucketId, from: &std::ops::Bound<Arc<str>>) -> Option<&Arc<str>> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from = match from {
            Included(key) => Included((bucket, Arc::clone(key), Reverse(u64::MAX))),
            Excluded(key) => Excluded((bucket, Arc::clone(key), Reverse(0))),
            Unbounded => Included((bucket, Arc::from(""), Reverse(u64::MAX))),
        };
        let ((found, key, _), _) = self.versions.range((from, Unbounded)).next()?;
        (*found == bucket).then_some(key)
    }

    /// Those that are objects behind this version of this key.
    pub(super) fn objects_after(
        &self,
        after: Option<(&ObjectName, u64)>,
    ) -> impl Iterator<Item = (ObjectName, &Object)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, |(name, version)| Excluded(place(name, version)));
        self.versions.range((from, Unbounded)).filter_map(|((bucket, key, _), older)| match older {
            Older::Object(object) => Some(((*bucket, Arc::clone(key)), object)),
            Older::DeleteMarker(_) => None,
        })
    }

    /// The one behind this version of this key, in the order of [`all`](Self::all).
    pub(super) fn next_after(
        &self,
        after: Option<&(ObjectName, u64)>,
    ) -> Option<((ObjectName, u64), &Older)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, |(name, version)| Excluded(place(name, *version)));
        let ((bucket, key, Reverse(version)), older) = self.versions.range((from, Unbounded)).next()?;
        Some((((*bucket, Arc::clone(key)), *version), older))
    }

    /// All, in the order of buckets and keys, the newest of each key first.
    pub(super) fn all(&self) -> impl Iterator<Item = (ObjectName, &Older)> {
        self.versions.iter().map(|((bucket, key, _), older)| ((*bucket, Arc::clone(key)), older))
    }

    pub(super) fn records(&self) -> impl Iterator<Item = pb::OlderVersion> {
        self.all().map(|(name, older)| older.record(&name))
    }

    pub(super) const fn versions(&mut self) -> &mut PicturedMap<Place, Older> {
        &mut self.versions
    }

    /// Visits versions of a picture, in the order of [`all`](Self::all).
    pub(super) fn slice(
        &self,
        after: Option<&Place>,
        cost_max: usize,
        visit: impl FnMut(&Place, &Older) -> usize,
    ) -> Option<Place> {
        self.versions.slice(after, cost_max, visit)
    }
}

/// What a delete has done.
pub(super) struct Deleted {
    /// What was removed or hidden, without its chunks.
    pub(super) head: pb::Object,
    /// The delete marker that hides it; zero if there is none.
    pub(super) delete_marker: u64,
    /// What was removed is a delete marker.
    pub(super) was_delete_marker: bool,
}

impl State {
    /// An object that the key holds or held. None if there is no such version, or if it is a delete marker.
    #[must_use]
    pub fn version(&self, bucket: BucketId, key: &Arc<str>, version: u64) -> Option<&Object> {
        let name = (bucket, Arc::clone(key));
        let current = self.objects.get(&name).filter(|object| object.version == version);
        current.or_else(|| match self.older.version(&name, version)? {
            Older::Object(object) => Some(object),
            Older::DeleteMarker(_) => None,
        })
    }

    /// As [`State::version`], to change where its chunks lie.
    pub(super) fn version_mut(&mut self, bucket: BucketId, named: &VersionName) -> Option<&mut Object> {
        let name = (bucket, Arc::clone(&named.key));
        let is_held = self.objects.get(&name).is_some_and(|object| object.version == named.version);
        if is_held {
            return self.objects.get_mut(&name);
        }
        match self.older.version_mut(&name, named.version)? {
            Older::Object(object) => Some(object),
            Older::DeleteMarker(_) => None,
        }
    }

    /// Older versions that are objects, in all buckets.
    #[must_use]
    pub fn older_version_count(&self) -> u64 {
        self.buckets.values().map(|bucket| bucket.older.versions).sum()
    }

    /// What the bucket loses if the key gets another object, or is deleted.
    pub(super) fn displaced(&self, name: &ObjectName) -> Option<&Object> {
        let bucket = self.buckets.get(&name.0)?;
        self.objects.get(name).filter(|held| !bucket.keeps(held))
    }

    /// Whether the key has this version, be it a delete marker.
    pub(super) fn has_version(&self, name: &ObjectName, version: u64) -> bool {
        let is_held = self.objects.get(name).is_some_and(|held| held.version == version);
        is_held || self.older.version(name, version).is_some()
    }

    /// The key gets a new version, whose number is above all others.
    pub(super) fn put_version(&mut self, context: Context, name: &ObjectName, object: Object) {
        let is_kept = object.kept;
        self.refer(name, &object);
        match self.swap_object(name, Some(object)) {
            Some(held) => self.retire(context, name, held),
            // A delete marker that would not have stayed as an object either.
            None if !is_kept => {
                let newest = self.older.of(name).next();
                let passing = newest.filter(|older| !older.is_kept()).map(Older::version);
                if let Some(version) = passing {
                    self.remove_older(context, name, version);
                }
            }
            None => {}
        }
    }

    /// The key holds it no more: it becomes an older version, or goes.
    fn retire(&mut self, context: Context, name: &ObjectName, held: Object) {
        let stays = self.buckets.get(&name.0).is_some_and(|bucket| bucket.keeps(&held));
        if !stays {
            self.drop_gone(context, name, Older::Object(held));
            return;
        }
        self.insert_older(name, Older::Object(held));
    }

    fn insert_older(&mut self, name: &ObjectName, older: Older) {
        if let Some(bucket) = self.buckets.get_mut(&name.0) {
            bucket.older.add(&older);
        }
        self.older.insert(name, older);
    }

    fn take_older(&mut self, name: &ObjectName, version: u64) -> Option<Older> {
        let older = self.older.remove(name, version)?;
        if let Some(bucket) = self.buckets.get_mut(&name.0) {
            bucket.older.take(&older);
        }
        Some(older)
    }

    /// Nothing has it any more.
    fn drop_gone(&mut self, context: Context, name: &ObjectName, gone: Older) {
        if let Some(bucket) = self.buckets.get(&name.0).filter(|bucket| bucket.versioning != Versioning::Off)
        {
            self.history.note_removed(self.time_ms, name, bucket, &gone);
        }
        if let Older::Object(object) = gone {
            self.let_go(context, name, &object);
        }
    }

    fn remove_older(&mut self, context: Context, name: &ObjectName, version: u64) -> Option<pb::Object> {
        let older = self.take_older(name, version)?;
        let head = older.head(name);
        self.drop_gone(context, name, older);
        Some(head)
    }

    /// The key holds nothing. Where something is left that it held, a delete marker hides that.
    pub(super) fn delete_latest(&mut self, context: Context, name: &ObjectName) -> Result<Deleted, Reject> {
        let bucket = self.buckets.get(&name.0).ok_or(OBJECT_NOT_FOUND)?;
        let kept = bucket.versioning == Versioning::On;
        let held = self.swap_object(name, None).ok_or(OBJECT_NOT_FOUND)?;
        let head = held.head().record(name);
        self.retire(context, name, held);
        let mut delete_marker = 0;
        if matches!(self.older.of(name).next(), Some(Older::Object(_))) {
            delete_marker = context.index;
            let marker = DeleteMarker { version: context.index, create_time_ms: self.time_ms, kept };
            self.insert_older(name, Older::DeleteMarker(marker));
        }
        Ok(Deleted { head, delete_marker, was_delete_marker: false })
    }

    /// This version goes for good. If it was the latest, the one beneath it is what the key holds again.
    pub(super) fn delete_version(
        &mut self,
        context: Context,
        name: &ObjectName,
        version: u64,
    ) -> Result<Deleted, Reject> {
        let is_held = self.objects.get(name).is_some_and(|held| held.version == version);
        let (head, was_delete_marker) = if is_held {
            let next = self.take_newest_object(name);
            let held = self.swap_object(name, next).ok_or(VERSION_NOT_FOUND)?;
            let head = held.head().record(name);
            self.drop_gone(context, name, Older::Object(held));
            (head, false)
        } else {
            let is_marker = matches!(self.older.version(name, version), Some(Older::DeleteMarker(_)));
            let head = self.remove_older(context, name, version).ok_or(VERSION_NOT_FOUND)?;
            if is_marker {
                self.show_newest(name);
            } else {
                self.drop_idle_marker(context, name, version);
            }
            (head, is_marker)
        };
        Ok(Deleted { head, delete_marker: 0, was_delete_marker })
    }

    /// If the newest of the older versions is an object, takes it from among them.
    fn take_newest_object(&mut self, name: &ObjectName) -> Option<Object> {
        let Some(Older::Object(object)) = self.older.of(name).next() else { return None };
        let version = object.version;
        match self.take_older(name, version) {
            Some(Older::Object(object)) => Some(object),
            _ => None,
        }
    }

    /// What nothing lies above any more is what the key holds.
    fn show_newest(&mut self, name: &ObjectName) {
        if self.objects.contains_key(name) {
            return;
        }
        if let Some(object) = self.take_newest_object(name) {
            self.swap_object(name, Some(object));
        }
    }

    /// A delete marker right above where a version has gone may have nothing left to hide.
    fn drop_idle_marker(&mut self, context: Context, name: &ObjectName, gone: u64) {
        let Some(Older::DeleteMarker(marker)) = self.older.above(name, gone) else { return };
        let version = marker.version;
        if !matches!(self.older.beneath(name, version).next(), Some(Older::Object(_))) {
            self.remove_older(context, name, version);
        }
    }

    /// Whether older versions, as they were read, are as this file says that they lie.
    pub(super) fn are_versions_in_order(&self) -> bool {
        let mut above: Option<(ObjectName, bool)> = None;
        for (name, older) in self.older.all() {
            let is_marker = matches!(older, Older::DeleteMarker(_));
            let is_off = self.buckets.get(&name.0).is_none_or(|bucket| bucket.versioning == Versioning::Off);
            let fits = match above.take_if(|(own, _)| *own == name) {
                Some((_, above_is_marker)) => !(above_is_marker && is_marker),
                None => self.objects.get(&name).map_or(is_marker, |held| held.version > older.version()),
            };
            let hides = !is_marker || self.older.beneath(&name, older.version()).next().is_some();
            if is_off || !fits || !hides {
                return false;
            }
            above = Some((name, is_marker));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: u64) -> Object {
        let record = pb::Object { version, key: "a".into(), bucket_id: 1, ..Default::default() };
        Object::from_record(record).unwrap().1
    }

    /// A key that holds this version, and has these beneath it: objects, or delete markers.
    fn state(versioning: Versioning, held: Option<u64>, older: &[(u64, &str)]) -> State {
        let mut state = State::default();
        let record = pb::Bucket { id: 1, versioning: versioning.record().into(), ..Default::default() };
        state.insert_bucket(Bucket::from_record(record).unwrap());
        let name = (BucketId(1), Arc::from("a"));
        for (version, kind) in older {
            let marker = DeleteMarker { version: *version, create_time_ms: 0, kept: true };
            let older = match *kind {
                "marker" => Older::DeleteMarker(marker),
                _ => Older::Object(object(*version)),
            };
            state.older.insert(&name, older);
        }
        if let Some(version) = held {
            state.objects.insert(name, object(version));
        }
        state
    }

    #[test]
    fn versions_that_do_not_lie_as_they_must_are_noticed() {
        let check = |held: Option<u64>, older: &[(u64, &str)], expect: bool| {
            let is_good = state(Versioning::On, held, older).are_versions_in_order();
            assert_eq!(is_good, expect, "{older:?} beneath {held:?}");
        };
        check(Some(5), &[(3, "object"), (1, "object")], true);
        check(None, &[(3, "marker"), (1, "object")], true);
        check(Some(5), &[(4, "marker"), (3, "object"), (2, "marker"), (1, "object")], true);
        check(None, &[(3, "object")], false);
        check(Some(2), &[(3, "object")], false);
        check(None, &[(3, "marker")], false);
        check(None, &[(4, "marker"), (3, "marker"), (1, "object")], false);
        let off = state(Versioning::Off, Some(5), &[(3, "object")]);
        assert!(!off.are_versions_in_order(), "a bucket that never kept any has none");
    }

    #[test]
    fn versioning_is_never_off_again() {
        let check = |held: Versioning, wanted: i32, expect: Option<Versioning>| {
            assert_eq!(held.updated(wanted).ok(), expect, "{held:?} {wanted}");
        };
        check(Versioning::Off, 0, Some(Versioning::Off));
        check(Versioning::Off, 2, Some(Versioning::Suspended));
        check(Versioning::On, 0, None);
        check(Versioning::Suspended, 0, None);
        check(Versioning::Suspended, 1, Some(Versioning::On));
        check(Versioning::On, 3, None);
    }
}
