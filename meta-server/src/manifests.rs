//! A walk through all manifests, a part at a time.
//!
//! Invariant: the state is looked at for a bounded number of chunks at a time, but for one version at least, however many
//! versions a key has. What changes meanwhile may be seen as it was or as it is; whatever is done about a chunk looks at it
//! again.

use crate::state_machine::{Chunk, Object, ObjectName, Owner, State};

/// Versions and chunks that are looked at under one lock; the last version may go beyond it.
pub(crate) const LOOKED_AT_MAX: usize = 4096;

/// A walk under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct ManifestWalk {
    /// The last version that was looked at.
    after: Option<(ObjectName, u64)>,
    is_complete: bool,
}

impl ManifestWalk {
    /// One that has nothing left to look at.
    #[must_use]
    pub(crate) const fn ended() -> Self {
        Self { after: None, is_complete: true }
    }

    /// Whether all was looked at.
    #[must_use]
    pub(crate) const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Looks at some more objects and older versions. Whoever has seen enough says so, and goes on behind what it has seen.
    pub(crate) fn look_on(&mut self, state: &State, mut look: impl FnMut(&ObjectName, &Object) -> Seen) {
        let after = self.after.take();
        let mut looked_at = 0;
        let mut last: Option<(ObjectName, u64)> = None;
        let mut is_enough = false;
        for (name, object) in state.versions_after(after.as_ref().map(|(name, version)| (name, *version))) {
            if is_enough || looked_at >= LOOKED_AT_MAX {
                self.after = last;
                return;
            }
            looked_at += 1 + object.chunks.len();
            is_enough = look(&name, object) == Seen::Enough;
            last = Some((name, object.version));
        }
        self.is_complete = true;
    }
}

/// Whether whoever looks wants more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Seen {
    /// For the time being it does not.
    Enough,
    /// It does.
    More,
}

/// Whether this version is the one by which a chunk counts that several versions may share.
#[must_use]
pub(crate) fn is_first(state: &State, (_, key): &ObjectName, object: &Object, chunk: &Chunk) -> bool {
    match state.chunk_owner(chunk.id) {
        Some(owner @ Owner::Versions(_)) => {
            owner.first().is_some_and(|first| first.version == object.version && first.key == *key)
        }
        Some(Owner::Version(..)) => true,
        Some(Owner::Upload(_)) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use xdpfs_proto::state::v1::{self as pb, command};

    use super::*;

    const VERSIONS: u64 = 10_000;

    fn apply(state: &mut State, index: u64, kind: command::Kind) -> pb::outcome::Kind {
        state.apply(index, &pb::Command { time_ms: 1, kind: Some(kind), ..Default::default() }).kind.unwrap()
    }

    fn put(state: &mut State, index: u64, key: &str) {
        let begin =
            pb::BeginPut { bucket: "abc".into(), key: key.into(), lease_ms: 1000, ..Default::default() };
        let begun = apply(state, index, command::Kind::BeginPut(begin));
        let pb::outcome::Kind::Begun(begun) = begun else { panic!("{begun:?}") };
        let commit = pb::CommitPut { upload_id: begun.upload_id, ..Default::default() };
        let done = apply(state, index + 1, command::Kind::CommitPut(commit));
        assert!(matches!(done, pb::outcome::Kind::Committed(_)), "{done:?}");
    }

    /// One key with many versions, between two with one each.
    fn state() -> State {
        let mut state = State::of_present_level();
        let create = pb::CreateBucket {
            name: "abc".into(),
            chunk_size: 65_536,
            replicas: 1,
            min_replicas: 1,
            versioning: pb::Versioning::On.into(),
            ..Default::default()
        };
        apply(&mut state, 1, command::Kind::CreateBucket(create));
        put(&mut state, 2, "a");
        (0..VERSIONS).for_each(|number| put(&mut state, 4 + 2 * number, "many"));
        put(&mut state, 4 + 2 * VERSIONS, "z");
        state
    }

    #[test]
    fn key_of_many_versions_is_looked_at_in_parts_and_each_of_them_once() {
        let state = state();
        let (mut walk, mut seen, mut parts) = (ManifestWalk::default(), BTreeSet::new(), Vec::new());
        while !walk.is_complete() {
            let before = seen.len();
            walk.look_on(&state, |name, object| {
                assert!(seen.insert((name.clone(), object.version)), "{name:?}");
                Seen::More
            });
            parts.push(seen.len() - before);
        }
        assert_eq!(seen.len() as u64, VERSIONS + 2);
        assert!(parts.iter().all(|part| *part <= LOOKED_AT_MAX), "{parts:?}");
    }

    #[test]
    fn walk_goes_on_behind_a_version_that_is_gone() {
        let mut state = state();
        let mut walk = ManifestWalk::default();
        let mut last = 0;
        let mut count = 0;
        walk.look_on(&state, |_, object| {
            (last, count) = (object.version, count + 1);
            if count == 100 { Seen::Enough } else { Seen::More }
        });
        let gone = pb::DeleteObject {
            bucket: "abc".into(),
            key: "many".into(),
            version: last,
            ..Default::default()
        };
        apply(&mut state, 100_000, command::Kind::DeleteObject(gone));
        let mut next = None;
        walk.look_on(&state, |_, object| {
            next = next.or(Some(object.version));
            Seen::Enough
        });
        assert!(next.is_some_and(|next| next < last), "{next:?} behind {last}");
    }

    #[test]
    fn who_has_seen_enough_goes_on_there() {
        let state = state();
        let (mut walk, mut versions) = (ManifestWalk::default(), Vec::new());
        for _ in 0..3 {
            walk.look_on(&state, |_, object| {
                versions.push(object.version);
                Seen::Enough
            });
        }
        let mut sorted = versions.clone();
        sorted.dedup();
        assert_eq!((versions.len(), sorted.len()), (3, 3), "{versions:?}");
    }
}
