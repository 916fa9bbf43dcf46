//! Committed objects: the flip of a key, its removal, and what follows for the chunks.
//!
//! Invariant: a manifest names only replicas with a receipt of the node's present registration, and at least
//! `min_replicas` of them in distinct failure domains.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use xdpfs_proto::state::v1::{self as pb, outcome};
use xdpfs_wire::{BucketId, ChunkId, NodeEpoch, NodeId, Receipt};

use super::{
    Bucket, Chunk, Context, Etag, ObjectName, Owner, Replicas, State, Upload, VersionName, Versioning,
    check_precondition, chunk_id_bytes,
    chunks::VERSION_MAX,
    parse_chunk_id,
    quota::Growth,
    reject::{BUCKET_NOT_FOUND, OBJECT_NOT_FOUND, PRECONDITION_FAILED, Reason, Reject, UPLOAD_NOT_FOUND},
};
use crate::mistake::{Mistake, is_planted};

/// What a key holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// The index of the log entry that made it.
    pub version: u64,
    /// Bytes of all chunks.
    pub size: u64,
    /// CRC32C of the whole object.
    pub crc32c: u32,
    /// On the cluster's clock.
    pub create_time_ms: u64,
    /// The client's word for it.
    pub content_type: String,
    /// The client's words about it.
    pub user_metadata: BTreeMap<String, String>,
    /// It was made while versioning was on: what takes its place leaves it as an older version.
    pub kept: bool,
    /// Its bytes, in order.
    pub chunks: Box<[Chunk]>,
}

// There is one for every key.
const _: () = assert!(size_of::<Object>() <= 96);

impl Object {
    /// What preconditions compare.
    #[must_use]
    pub fn etag(&self) -> Etag {
        Etag { version: self.version, crc32c: self.crc32c }
    }

    /// The fewest replicas that any chunk has. An object without chunks lacks none: `wanted`.
    #[must_use]
    pub fn durable_replicas(&self, wanted: u32) -> u32 {
        self.chunks.iter().map(|chunk| chunk.replicas.len() as u32).min().unwrap_or(wanted)
    }

    /// How many of its chunks have fewer replicas than the bucket asks for.
    pub(super) fn chunks_in_debt(&self, bucket: &Bucket) -> u32 {
        self.chunks.iter().filter(|chunk| chunk.debt(bucket) > 0).count() as u32
    }

    /// Chunks mostly lie in the order of their ids, but a client may have filled them in any order.
    pub(super) fn chunk(&self, id: ChunkId) -> Option<&Chunk> {
        self.chunks.get(self.place_of(id)?)
    }

    pub(super) fn chunk_mut(&mut self, id: ChunkId) -> Option<&mut Chunk> {
        let at = self.place_of(id)?;
        self.chunks.get_mut(at)
    }

    fn place_of(&self, id: ChunkId) -> Option<usize> {
        match self.chunks.binary_search_by_key(&id, |chunk| chunk.id) {
            Ok(at) => Some(at),
            Err(_) => self.chunks.iter().position(|chunk| chunk.id == id),
        }
    }

    /// Without its chunks: what an answer needs.
    pub(super) fn head(&self) -> Self {
        Self {
            version: self.version,
            size: self.size,
            crc32c: self.crc32c,
            create_time_ms: self.create_time_ms,
            content_type: self.content_type.clone(),
            user_metadata: self.user_metadata.clone(),
            kept: self.kept,
            chunks: Box::default(),
        }
    }

    pub(super) fn record(&self, (bucket, key): &ObjectName) -> pb::Object {
        pb::Object {
            bucket_id: bucket.0,
            key: key.to_string(),
            version: self.version,
            size: self.size,
            crc32c: self.crc32c,
            create_time_ms: self.create_time_ms,
            content_type: self.content_type.clone(),
            user_metadata: self.user_metadata.clone(),
            chunks: self.chunks.iter().map(chunk_record).collect(),
            kept: self.kept,
        }
    }

    pub(super) fn from_record(record: pb::Object) -> Option<(ObjectName, Self)> {
        if record.version > VERSION_MAX {
            return None;
        }
        let name = (BucketId(record.bucket_id), Arc::from(record.key));
        let object = Self {
            version: record.version,
            size: record.size,
            crc32c: record.crc32c,
            create_time_ms: record.create_time_ms,
            content_type: record.content_type,
            user_metadata: record.user_metadata,
            kept: record.kept,
            chunks: record.chunks.iter().map(chunk_from_record).collect::<Option<_>>()?,
        };
        Some((name, object))
    }
}

fn chunk_record(chunk: &Chunk) -> pb::Chunk {
    pb::Chunk {
        chunk_id: chunk_id_bytes(chunk.id),
        length: chunk.length,
        crc32c: chunk.crc32c,
        node_ids: chunk.replicas.numbers(),
    }
}

fn chunk_from_record(record: &pb::Chunk) -> Option<Chunk> {
    Some(Chunk {
        id: parse_chunk_id(&record.chunk_id)?,
        length: record.length,
        crc32c: record.crc32c,
        replicas: Replicas::from_numbers(&record.node_ids),
    })
}

impl State {
    /// What the key holds.
    #[must_use]
    pub fn object(&self, bucket: BucketId, key: &str) -> Option<&Object> {
        self.objects.get(&(bucket, Arc::from(key)))
    }

    /// Objects and older versions behind all of the key `after`, in the order of their buckets and keys, the newest of each
    /// key first; none is the first key.
    pub fn objects_after(&self, after: Option<&ObjectName>) -> impl Iterator<Item = (ObjectName, &Object)> {
        self.versions_after(after.map(|name| (name, 0)))
    }

    /// The same, but behind this version of the key, whether or not it is still there.
    pub fn versions_after(
        &self,
        after: Option<(&ObjectName, u64)>,
    ) -> impl Iterator<Item = (ObjectName, &Object)> {
        let from = after.map_or(Bound::Unbounded, |(name, _)| Bound::Included(name));
        let is_behind = move |(name, object): &(&ObjectName, &Object)| {
            after.is_none_or(|(last, version)| *name != last || object.version < version)
        };
        let mut objects = self.objects.range((from, Bound::Unbounded)).filter(is_behind).peekable();
        let mut older = self.older.objects_after(after).peekable();
        std::iter::from_fn(move || {
            let is_older_first = match (objects.peek(), older.peek()) {
                (Some((name, _)), Some((older_name, _))) => older_name < *name,
                (None, _) => true,
                (Some(_), None) => false,
            };
            if is_older_first {
                older.next()
            } else {
                objects.next().map(|(name, object)| (name.clone(), object))
            }
        })
    }

    /// Who refers to a chunk.
    #[must_use]
    pub fn chunk_owner(&self, chunk: ChunkId) -> Option<&Owner> {
        self.owners.of(chunk)
    }

    /// Chunks of committed objects and their older versions from `first` up to and with `last` that `node` is believed to hold. Looks at no more
    /// than `looked_at_max` chunks.
    pub fn chunks_on(
        &self,
        node: NodeId,
        first: ChunkId,
        last: ChunkId,
        looked_at_max: usize,
    ) -> impl Iterator<Item = ChunkId> + '_ {
        let range = (first <= last).then(|| self.owners.range(first..=last));
        range.into_iter().flatten().take(looked_at_max).filter_map(move |(chunk, owner)| {
            let VersionName { key, version } = owner.first()?;
            let object = self.version(chunk.bucket(), &key, version)?;
            object.chunk(chunk)?.replicas.contains(node).then_some(chunk)
        })
    }

    /// All chunks that something refers to, from `first` up to and with `last`, as manifests have them. None: it is an open
    /// upload's.
    pub fn chunks_between(
        &self,
        first: ChunkId,
        last: ChunkId,
    ) -> impl Iterator<Item = (ChunkId, Option<&Chunk>)> {
        let range = (first <= last).then(|| self.owners.range(first..=last));
        range.into_iter().flatten().map(|(chunk, owner)| {
            let of_version = |VersionName { key, version }: VersionName| {
                self.version(chunk.bucket(), &key, version)?.chunk(chunk)
            };
            (chunk, owner.first().and_then(of_version))
        })
    }

    /// Whether the cluster has ever given out this id.
    #[must_use]
    pub fn is_granted(&self, chunk: ChunkId) -> bool {
        chunk.0 < ChunkId::new(chunk.bucket(), self.counters.chunk).0
    }

    pub(super) fn commit_put(
        &mut self,
        context: Context,
        commit: &pb::CommitPut,
    ) -> Result<outcome::Kind, Reject> {
        let (name, object) = self.judge_commit(context, commit)?;
        let bucket = self.buckets.get(&name.0).ok_or(BUCKET_NOT_FOUND)?;
        let mut growth = Growth::default();
        growth.add(object.size);
        if let Some(held) = self.displaced(&name) {
            growth.remove(held.size);
        }
        bucket.check_growth(growth)?;
        let committed = pb::Committed {
            object: Some(object.head().record(&name)),
            chunks_in_debt: object.chunks_in_debt(bucket),
            bucket: bucket.name.clone(),
            durable_replicas: object.durable_replicas(bucket.replicas),
        };
        self.flip(context, commit.upload_id, name, object);
        Ok(outcome::Kind::Committed(committed))
    }

    /// The key that an upload puts to, and what it will hold.
    pub(super) fn judge_commit(
        &self,
        context: Context,
        commit: &pb::CommitPut,
    ) -> Result<(ObjectName, Object), Reject> {
        let upload = self.uploads.get(&commit.upload_id).ok_or(UPLOAD_NOT_FOUND)?;
        let bucket = self.buckets.get(&upload.bucket).ok_or(BUCKET_NOT_FOUND)?;
        let name = (upload.bucket, Arc::clone(&upload.key));
        let held = self.objects.get(&name);
        let is_fulfilled = check_precondition(commit.precondition.as_ref(), held.map(Object::etag));
        if !is_fulfilled && !is_planted(Mistake::PreconditionsOnlyAtBegin) {
            return Err(PRECONDITION_FAILED);
        }
        let chunks = self.receive_chunks(bucket, upload, &commit.chunks)?;
        let object = Object {
            version: match is_planted(Mistake::VersionsByBegin) {
                true => commit.upload_id,
                false => context.index,
            },
            size: chunks.iter().map(|chunk| u64::from(chunk.length)).sum(),
            crc32c: commit.crc32c,
            create_time_ms: self.time_ms,
            content_type: commit.content_type.clone(),
            user_metadata: commit.user_metadata.clone(),
            kept: bucket.versioning == Versioning::On,
            chunks,
        };
        Ok((name, object))
    }

    /// Checks everything that the client says about its chunks.
    fn receive_chunks(
        &self,
        bucket: &Bucket,
        upload: &Upload,
        written: &[pb::WrittenChunk],
    ) -> Result<Box<[Chunk]>, Reject> {
        let mut seen = BTreeSet::new();
        let last = written.len().saturating_sub(1);
        let receive = |(at, chunk): (usize, &pb::WrittenChunk)| {
            let id = parse_chunk_id(&chunk.chunk_id)
                .filter(|id| seen.insert(*id))
                .ok_or(Reject::new(Reason::InvalidArgument, "a chunk id is malformed or there twice"))?;
            let granted = upload
                .chunks
                .get(&id)
                .ok_or(Reject::new(Reason::InvalidArgument, "a chunk was not granted to this upload"))?;
            let full = chunk.length == bucket.chunk_size;
            let short = at == last && (1..bucket.chunk_size).contains(&chunk.length);
            if !full && !short {
                return Err(Reject::new(
                    Reason::InvalidArgument,
                    "every chunk but the last one must be full",
                ));
            }
            self.receive_chunk(bucket, granted, id, chunk)
        };
        written.iter().enumerate().map(receive).collect()
    }

    fn receive_chunk(
        &self,
        bucket: &Bucket,
        granted: &Replicas,
        id: ChunkId,
        written: &pb::WrittenChunk,
    ) -> Result<Chunk, Reject> {
        let vouching = written.receipts.iter().filter_map(|receipt| {
            let node = self.nodes.get(&NodeId(u16::try_from(receipt.node_id).ok()?))?;
            let receipt = Receipt {
                chunk: id,
                length: written.length,
                crc: written.crc32c,
                node: node.id,
                node_epoch: NodeEpoch(u16::try_from(receipt.node_epoch).ok()?),
                mac: receipt.mac,
            };
            let vouches = node.vouches_for(&receipt) || is_planted(Mistake::CountsPastReceipts);
            (granted.contains(node.id) && vouches).then_some(node)
        });
        let (replicas, domains): (Vec<NodeId>, BTreeSet<String>) =
            vouching.map(|node| (node.id, node.domain())).unzip();
        if (domains.len() as u32) < bucket.min_replicas {
            return Err(Reject::new(Reason::StaleReceipts, "a chunk has too few valid receipts"));
        }
        Ok(Chunk { id, length: written.length, crc32c: written.crc32c, replicas: Replicas::new(replicas) })
    }

    /// The key gets what its upload has written; what else was granted goes.
    pub(super) fn flip(&mut self, context: Context, upload_id: u64, name: ObjectName, object: Object) {
        let mut surplus = self.uploads.remove(&upload_id).map(|upload| upload.chunks).unwrap_or_default();
        for chunk in &object.chunks {
            let granted = surplus.remove(&chunk.id).unwrap_or_default();
            for node in granted.iter().filter(|node| !chunk.replicas.contains(*node)) {
                self.remove_later(context, node, chunk.id);
            }
        }
        for (chunk, replicas) in surplus {
            self.release(context, chunk, &replicas);
        }
        self.put_version(context, &name, object);
    }

    /// The one point at which what a key holds changes. Gives what it held, which has its chunks still.
    pub(super) fn swap_object(&mut self, name: &ObjectName, object: Option<Object>) -> Option<Object> {
        let (objects, bytes) = (u64::from(object.is_some()), object.as_ref().map_or(0, |object| object.size));
        let held = match object {
            Some(object) => self.objects.insert((name.0, Arc::clone(&name.1)), object),
            None => self.objects.remove(name),
        };
        if let Some(bucket) = self.buckets.get_mut(&name.0) {
            bucket.objects += objects;
            bucket.bytes += bytes;
            if let Some(held) = &held {
                bucket.objects -= 1;
                if !is_planted(Mistake::UsageOfReplacedCounted) {
                    bucket.bytes -= held.size;
                }
            }
            self.history.note(self.time_ms, name, bucket, held.as_ref());
        }
        held
    }

    /// The version of the key keeps its chunks from being removed.
    pub(super) fn refer(&mut self, name: &ObjectName, object: &Object) {
        let Some(bucket) = self.buckets.get(&name.0) else { return };
        for chunk in &object.chunks {
            if self.owners.add_version(chunk.id, &name.1, object.version) {
                self.replica_debt = self.replica_debt.saturating_add(chunk.debt(bucket));
            }
        }
    }

    /// The version has its chunks no more. The last one that has a chunk decides about its replicas.
    pub(super) fn let_go(&mut self, context: Context, name: &ObjectName, object: &Object) {
        for chunk in &object.chunks {
            if !self.owners.drop_version(chunk.id, &name.1, object.version) {
                continue;
            }
            if let Some(bucket) = self.buckets.get(&name.0) {
                self.replica_debt = self.replica_debt.saturating_sub(chunk.debt(bucket));
            }
            self.release(context, chunk.id, &chunk.replicas);
        }
    }

    pub(super) fn delete_object(
        &mut self,
        context: Context,
        delete: &pb::DeleteObject,
    ) -> Result<outcome::Kind, Reject> {
        let bucket = self.bucket(&delete.bucket).ok_or(BUCKET_NOT_FOUND)?;
        let is_off = bucket.versioning == Versioning::Off;
        let name = (bucket.id, Arc::from(delete.key.as_str()));
        let held = self.objects.get(&name);
        if delete.version == 0 && held.is_none() {
            return Err(OBJECT_NOT_FOUND);
        }
        if !check_precondition(delete.precondition.as_ref(), held.map(Object::etag)) {
            return Err(PRECONDITION_FAILED);
        }
        let deleted = match delete.version {
            0 => self.delete_latest(context, &name)?,
            version => self.delete_version(context, &name, version)?,
        };
        if is_off && delete.version == 0 {
            return Ok(outcome::Kind::Deleted(deleted.head));
        }
        Ok(outcome::Kind::VersionDeleted(pb::VersionDeleted {
            object: Some(deleted.head),
            delete_marker: deleted.delete_marker,
            was_delete_marker: deleted.was_delete_marker,
        }))
    }
}
