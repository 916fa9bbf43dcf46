//! What the keys of a bucket in memory hold and held. The rules are those of the metadata servers.

use std::{collections::BTreeMap, time::SystemTime};

use super::store::StoredObject;
use crate::{Deleted, Object, ObjectVersion, Versioning};

/// The objects of a bucket, and what lies beneath them.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) versioning: Versioning,
    /// What keys hold.
    pub(super) objects: BTreeMap<String, StoredObject>,
    /// The older versions and delete markers of each key, the oldest first.
    older: BTreeMap<String, Vec<Older>>,
}

#[derive(Debug)]
enum Older {
    DeleteMarker { object: Object, kept: bool },
    Object(StoredObject),
}

impl Older {
    const fn object(&self) -> &Object {
        match self {
            Self::DeleteMarker { object, .. } | Self::Object(StoredObject { object, .. }) => object,
        }
    }

    const fn is_marker(&self) -> bool {
        matches!(self, Self::DeleteMarker { .. })
    }
}

/// How much lies beneath what keys hold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct OlderSums {
    pub(super) versions: u64,
    pub(super) bytes: u64,
    pub(super) delete_markers: u64,
}

impl Shelf {
    pub(super) fn new(versioning: Versioning) -> Self {
        Self { versioning, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.older.is_empty()
    }

    pub(super) fn older_sums(&self) -> OlderSums {
        let mut sums = OlderSums::default();
        for older in self.older.values().flatten() {
            if older.is_marker() {
                sums.delete_markers += 1;
            } else {
                sums.versions += 1;
                sums.bytes += older.object().size;
            }
        }
        sums
    }

    fn is_on(&self) -> bool {
        self.versioning == Versioning::On
    }

    /// What goes if the key gets another object.
    pub(super) fn displaced(&self, key: &str) -> Option<&StoredObject> {
        self.objects.get(key).filter(|held| !self.is_on() && !held.kept)
    }

    /// An object that the key holds or held.
    pub(super) fn version(&self, key: &str, version: u64) -> Option<&StoredObject> {
        let held = self.objects.get(key).into_iter();
        let older = self.older.get(key).into_iter().flatten().filter_map(|older| match older {
            Older::Object(stored) => Some(stored),
            Older::DeleteMarker { .. } => None,
        });
        held.chain(older).find(|stored| stored.object.version == version)
    }

    pub(super) fn has_version(&self, key: &str, version: u64) -> bool {
        self.versions(key).any(|own| own.object.version == version)
    }

    /// The versions of the key, the newest first.
    pub(super) fn versions<'a>(&'a self, key: &str) -> impl Iterator<Item = ObjectVersion> + use<'a> {
        let held = self.objects.get(key).map(|stored| (stored.object.clone(), false));
        let older = self.older.get(key).into_iter().flatten().rev();
        let older = older.map(|older| (older.object().clone(), older.is_marker()));
        let all = held.into_iter().chain(older).enumerate();
        all.map(|(at, (object, delete_marker))| ObjectVersion { object, latest: at == 0, delete_marker })
    }

    /// All keys that have versions, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        let all: std::collections::BTreeSet<_> = self.objects.keys().chain(self.older.keys()).collect();
        all.into_iter()
    }

    /// The key gets this.
    pub(super) fn put(&mut self, key: &str, stored: StoredObject) {
        let is_on = self.is_on();
        match self.objects.insert(key.to_owned(), StoredObject { kept: is_on, ..stored }) {
            Some(held) if is_on || held.kept => {
                self.older.entry(key.to_owned()).or_default().push(Older::Object(held));
            }
            None if !is_on => {
                if let Some(older) = self.older.get_mut(key) {
                    older.pop_if(|top| matches!(top, Older::DeleteMarker { kept: false, .. }));
                }
            }
            _ => {}
        }
    }

    /// The key holds nothing; if there is anything left to hide, behind a delete marker of this version.
    pub(super) fn delete(&mut self, key: &str, version: u64) -> Option<Deleted> {
        let (is_on, held) = (self.is_on(), self.objects.remove(key)?);
        let object = held.object.clone();
        let older = self.older.entry(key.to_owned()).or_default();
        if is_on || held.kept {
            older.push(Older::Object(held));
        }
        let hides = older.last().is_some_and(|top| !top.is_marker());
        if hides {
            older.push(Older::DeleteMarker { object: marker(&object, version), kept: is_on });
        }
        self.older.retain(|_, older| !older.is_empty());
        Some(Deleted { object, delete_marker: hides.then_some(version), was_delete_marker: false })
    }

    /// This version goes for good. If it was the latest, the key holds what lies beneath it.
    pub(super) fn delete_version(&mut self, key: &str, version: u64) -> Option<Deleted> {
        let mut older = self.older.remove(key).unwrap_or_default();
        let was_held = self.objects.get(key).is_some_and(|held| held.object.version == version);
        let removed = if was_held {
            self.objects.remove(key).map(|held| (held.object, false))
        } else {
            let at = older.iter().position(|own| own.object().version == version);
            at.map(|at| {
                let gone = older.remove(at);
                let is_marker = |at: usize| older.get(at).is_some_and(Older::is_marker);
                // No delete marker lies on another one, or on nothing.
                let is_idle = is_marker(at) && (at == 0 || is_marker(at - 1));
                let removed = (gone.object().clone(), gone.is_marker());
                if is_idle {
                    older.remove(at);
                }
                removed
            })
        };
        if !self.objects.contains_key(key)
            && let Some(Older::Object(shown)) = older.pop_if(|top| !top.is_marker())
        {
            self.objects.insert(key.to_owned(), shown);
        }
        if !older.is_empty() {
            self.older.insert(key.to_owned(), older);
        }
        let (object, was_delete_marker) = removed?;
        Some(Deleted { object, delete_marker: None, was_delete_marker })
    }
}

fn marker(hidden: &Object, version: u64) -> Object {
    Object {
        bucket: hidden.bucket.clone(),
        key: hidden.key.clone(),
        version,
        etag: String::new(),
        size: 0,
        crc32c: 0,
        created: SystemTime::now(),
        content_type: String::new(),
        user_metadata: BTreeMap::new(),
        durable_replicas: 0,
    }
}
