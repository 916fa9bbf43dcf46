//! What must be true of every state, looked at as a whole. For tests.

use std::collections::BTreeSet;

use super::{Object, ObjectName, State, chunks::ChunkOwners, versions::Older};

impl State {
    /// # Panics
    ///
    /// Something is not as it must be.
    pub(crate) fn assert_is_sound(&self) {
        self.check_sums().expect("sums are what they are sums of");
        let mut owners = ChunkOwners::default();
        for (upload, chunk) in
            self.uploads.values().flat_map(|upload| upload.chunks.keys().map(|chunk| (upload.id, *chunk)))
        {
            assert_eq!(owners.of(chunk), None, "chunk {chunk:?} was granted to two uploads");
            owners.set_upload(chunk, upload);
        }
        for ((bucket, key), object) in self.all_versions() {
            for chunk in &object.chunks {
                let is_taken = matches!(owners.of(chunk.id), Some(super::Owner::Upload(_)));
                assert!(!is_taken, "chunk {:?} is an object's and an open upload's", chunk.id);
                assert_eq!(chunk.id.bucket(), bucket, "a chunk of another bucket");
                owners.add_version(chunk.id, &key, object.version);
            }
            assert!(object.version <= self.index(), "a version that is yet to come");
        }
        assert_eq!(owners, self.owners, "owners are those whose manifests name a chunk");
        self.assert_nothing_needed_is_removed();
    }

    /// What keys hold, and held before.
    fn all_versions(&self) -> impl Iterator<Item = (ObjectName, &Object)> {
        let older = self.older.all().filter_map(|(name, older)| match older {
            Older::Object(object) => Some((name, object)),
            Older::DeleteMarker(_) => None,
        });
        self.objects.iter().map(|(name, object)| (name.clone(), object)).chain(older)
    }

    /// No node is told to remove what a manifest names it for.
    fn assert_nothing_needed_is_removed(&self) {
        let named: BTreeSet<_> = self
            .all_versions()
            .flat_map(|(_, object)| object.chunks.iter())
            .flat_map(|chunk| chunk.replicas.iter().map(|node| (node, chunk.id)))
            .collect();
        let removed = named.iter().find(|(node, chunk)| self.pending_deletes.contains(*node, *chunk));
        assert_eq!(removed, None, "a replica that a manifest names is to be removed");
    }
}
