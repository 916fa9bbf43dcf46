//! What the cluster in memory holds. The rules are those of the metadata servers.

use std::{collections::BTreeMap, time::SystemTime};

use bytes::Bytes;
use xdpfs_transport::crc32c;
use xdpfs_wire::{BucketId, ChunkId, NodeId};

use super::versions::Shelf;
use crate::{
    BatchResult, Bucket, BucketOptions, BucketUpdate, ChunkPlacement, CopyOptions, DeleteOptions, Deleted,
    Object, Precondition, PutOptions, Versioning,
    error::{Error, Result},
};

/// Data nodes of the cluster in memory: as many as a bucket may ask replicas of.
pub(super) const NODES: u16 = 7;
const CHUNK_SIZES: std::ops::RangeInclusive<u32> = 64 << 10..=16 << 20;
/// Chunk sizes are a multiple of this.
const PAGE_BYTES: u32 = 4096;

#[derive(Debug, Default)]
pub(super) struct Store {
    buckets: BTreeMap<String, StoredBucket>,
    /// Buckets, versions and chunks take their numbers from here.
    last_number: u64,
    pub(super) keys: super::access::Keys,
    pub(super) labels: super::placement::Labels,
    /// Nodes whose scrubs operators hold.
    pub(super) held_scrubs: std::collections::BTreeSet<u32>,
    /// Nodes that operators want freed, and those that they have removed.
    pub(super) drained: std::collections::BTreeSet<u32>,
    pub(super) removed: std::collections::BTreeSet<u32>,
    pub(super) rebalance_paused: bool,
}

#[derive(Debug)]
pub(super) struct StoredBucket {
    pub(super) chunk_size: u32,
    pub(super) shelf: Shelf,
    name: String,
    id: BucketId,
    replicas: u32,
    min_replicas: u32,
    created: SystemTime,
    quota_bytes: Option<u64>,
    quota_objects: Option<u64>,
    /// How often it was changed.
    pub(super) changes: u64,
}

#[derive(Clone, Debug)]
pub(super) struct StoredObject {
    pub(super) object: Object,
    pub(super) bytes: Bytes,
    pub(super) chunks: Vec<ChunkPlacement>,
    /// It was put while versioning was on.
    pub(super) kept: bool,
}

/// One operation of a batch whose input was read.
pub(super) enum Operation {
    Put { key: String, bytes: Bytes, options: PutOptions },
    Copy { source: String, key: String, options: CopyOptions },
    Delete { key: String, options: DeleteOptions },
    Check { key: String, precondition: Precondition },
}

/// What an operation does to a key, as far as quotas go.
struct Change<'a> {
    key: &'a str,
    /// The version that goes; none: what the key holds, if it is not kept.
    version: Option<u64>,
    /// Of what the key gets.
    size: Option<u64>,
}

impl Operation {
    fn key(&self) -> &str {
        match self {
            Self::Put { key, .. }
            | Self::Copy { key, .. }
            | Self::Delete { key, .. }
            | Self::Check { key, .. } => key,
        }
    }
}

impl Store {
    pub(super) fn create_bucket(&mut self, name: &str, options: BucketOptions) -> Result<Bucket> {
        if self.buckets.contains_key(name) {
            return Err(Error::BucketExists { bucket: name.to_owned() });
        }
        let chunk_size = options.chunk_size.unwrap_or(4 << 20);
        let replicas = options.replicas.unwrap_or(3);
        let min_replicas = options.min_replicas.unwrap_or(replicas.min(2));
        if !CHUNK_SIZES.contains(&chunk_size) || !chunk_size.is_multiple_of(PAGE_BYTES) {
            return Err(Error::invalid("the chunk size is not a multiple of 4 KiB from 64 KiB to 16 MiB"));
        }
        if !(1..=u32::from(NODES)).contains(&replicas) || !(1..=replicas).contains(&min_replicas) {
            return Err(Error::invalid(
                "there are 1 to 7 replicas, of which at least one and at most all must be durable",
            ));
        }
        let bucket = StoredBucket {
            chunk_size,
            shelf: Shelf::new(options.versioning),
            name: name.to_owned(),
            // A mock never makes as many buckets.
            id: BucketId(self.number() as u32),
            replicas,
            min_replicas,
            created: SystemTime::now(),
            quota_bytes: options.quota_bytes,
            quota_objects: options.quota_objects,
            changes: 0,
        };
        let described = bucket.describe();
        self.buckets.insert(name.to_owned(), bucket);
        Ok(described)
    }

    pub(super) fn bucket(&self, name: &str) -> Result<&StoredBucket> {
        self.buckets.get(name).ok_or_else(|| Error::BucketNotFound { bucket: name.to_owned() })
    }

    pub(super) fn buckets_after<'a>(&'a self, after: &str) -> impl Iterator<Item = Bucket> + use<'a> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.buckets.range::<str, _>((Excluded(after), Unbounded)).map(|(_, bucket)| bucket.describe())
    }

    pub(super) fn stored_objects(&self) -> impl Iterator<Item = &StoredObject> {
        self.buckets.values().flat_map(|bucket| bucket.shelf.objects.values())
    }

    pub(super) fn update_bucket(&mut self, name: &str, update: BucketUpdate) -> Result<Bucket> {
        let missing = || Error::BucketNotFound { bucket: name.to_owned() };
        let bucket = self.buckets.get_mut(name).ok_or_else(missing)?;
        if let Some(versioning) = update.versioning {
            if versioning == Versioning::Off && bucket.shelf.versioning != Versioning::Off {
                return Err(Error::invalid(
                    "versioning that was on can be suspended, and never be off again",
                ));
            }
            bucket.shelf.versioning = versioning;
        }
        bucket.quota_bytes = update.quota_bytes.apply(bucket.quota_bytes);
        bucket.quota_objects = update.quota_objects.apply(bucket.quota_objects);
        Ok(bucket.describe())
    }

    /// Whether anything at all can be put under a key that may hold nothing yet.
    pub(super) fn check_room(&self, bucket: &str, key: &str) -> Result<()> {
        if self.bucket(bucket)?.shelf.displaced(key).is_some() {
            return Ok(());
        }
        self.check_quota(bucket, &[Change { key, version: None, size: Some(0) }])
    }

    /// Whether the bucket keeps within its quota, or at least gets no fuller, if the keys hold objects of these sizes.
    fn check_quota(&self, name: &str, changes: &[Change<'_>]) -> Result<()> {
        let bucket = self.bucket(name)?;
        let gone = |change: &Change<'_>| {
            let gone = match change.version {
                Some(version) => bucket.shelf.version(change.key, version),
                None => bucket.shelf.displaced(change.key),
            };
            gone.map(|stored| stored.object.size)
        };
        let now = bucket.describe();
        let before = (now.objects + now.older_versions, now.bytes + now.older_bytes);
        let (mut objects, mut bytes) = before;
        for change in changes {
            objects = objects + u64::from(change.size.is_some()) - u64::from(gone(change).is_some());
            bytes = bytes + change.size.unwrap_or(0) - gone(change).unwrap_or(0);
        }
        let exceeds = |before: u64, after: u64, quota: Option<u64>| {
            after > before && quota.is_some_and(|quota| after > quota)
        };
        let message = if exceeds(before.0, objects, bucket.quota_objects) {
            "the bucket may not hold more objects"
        } else if exceeds(before.1, bytes, bucket.quota_bytes) {
            "the bucket may not hold as many bytes"
        } else {
            return Ok(());
        };
        Err(Error::QuotaExceeded { bucket: name.to_owned(), message: message.to_owned() })
    }

    pub(super) fn delete_bucket(&mut self, name: &str) -> Result<()> {
        if !self.bucket(name)?.shelf.is_empty() {
            return Err(Error::BucketNotEmpty { bucket: name.to_owned() });
        }
        self.buckets.remove(name);
        Ok(())
    }

    pub(super) fn object(&self, bucket: &str, key: &str) -> Result<&StoredObject> {
        let missing = || Error::ObjectNotFound { bucket: bucket.to_owned(), key: key.to_owned() };
        self.bucket(bucket)?.shelf.objects.get(key).ok_or_else(missing)
    }

    /// A version of the key, or what it holds.
    pub(super) fn version(&self, bucket: &str, key: &str, version: Option<u64>) -> Result<&StoredObject> {
        let Some(version) = version else { return self.object(bucket, key) };
        let missing = || Error::ObjectNotFound { bucket: bucket.to_owned(), key: key.to_owned() };
        self.bucket(bucket)?.shelf.version(key, version).ok_or_else(missing)
    }

    /// Whether the key holds what the precondition says.
    pub(super) fn check(&self, bucket: &str, key: &str, precondition: Option<&Precondition>) -> Result<()> {
        let held = self.bucket(bucket)?.shelf.objects.get(key);
        check_held(held.map(|stored| stored.object.etag.as_str()), precondition)
    }

    pub(super) fn put(
        &mut self,
        bucket: &str,
        key: &str,
        bytes: Bytes,
        options: PutOptions,
    ) -> Result<Object> {
        self.check(bucket, key, options.precondition.as_ref())?;
        let size = Some(bytes.len() as u64);
        self.check_quota(bucket, &[Change { key, version: None, size }])?;
        let version = self.number();
        self.put_version(version, bucket, key, bytes, options)
    }

    fn put_version(
        &mut self,
        version: u64,
        bucket: &str,
        key: &str,
        bytes: Bytes,
        options: PutOptions,
    ) -> Result<Object> {
        let chunks = self.chunks(bucket, &bytes)?;
        let target = self
            .buckets
            .get_mut(bucket)
            .ok_or_else(|| Error::BucketNotFound { bucket: bucket.to_owned() })?;
        let crc32c = crc32c(&bytes);
        let object = Object {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version,
            etag: etag(version, crc32c),
            size: bytes.len() as u64,
            crc32c,
            created: SystemTime::now(),
            content_type: options.content_type,
            user_metadata: options.user_metadata,
            durable_replicas: target.replicas,
        };
        target.changes += 1;
        target.shelf.put(key, StoredObject { object: object.clone(), bytes, chunks, kept: false });
        Ok(object)
    }

    /// Does all of them or none; each is judged by what the bucket holds before.
    pub(super) fn commit(&mut self, bucket: &str, operations: Vec<Operation>) -> Result<Vec<BatchResult>> {
        for (place, operation) in operations.iter().enumerate() {
            self.judge(bucket, operation).map_err(|source| Error::BatchRefused {
                operation: place + 1,
                key: operation.key().to_owned(),
                source: Box::new(source),
            })?;
        }
        let changes: Vec<_> =
            operations.iter().filter_map(|operation| self.outcome(bucket, operation)).collect();
        self.check_quota(bucket, &changes)?;
        let sources: Vec<Option<StoredObject>> =
            operations.iter().map(|operation| self.source(bucket, operation).cloned()).collect();
        let version = self.number();
        let changes = operations.into_iter().zip(sources);
        changes.map(|(operation, source)| self.change(version, bucket, operation, source)).collect()
    }

    /// Another key gets what a key holds.
    pub(super) fn copy(
        &mut self,
        bucket: &str,
        source: &str,
        key: &str,
        options: CopyOptions,
    ) -> Result<Object> {
        let copy = Operation::Copy { source: source.to_owned(), key: key.to_owned(), options };
        self.judge(bucket, &copy)?;
        let stored = self.source(bucket, &copy).cloned();
        let size = stored.as_ref().map(|stored| stored.object.size);
        self.check_quota(bucket, &[Change { key, version: None, size }])?;
        let version = self.number();
        let copied = self.change(version, bucket, copy, stored)?;
        copied
            .object
            .ok_or_else(|| Error::ObjectNotFound { bucket: bucket.to_owned(), key: source.to_owned() })
    }

    fn outcome<'a>(&self, bucket: &str, operation: &'a Operation) -> Option<Change<'a>> {
        let (key, version, size) = match operation {
            Operation::Put { key, bytes, .. } => (key, None, Some(bytes.len() as u64)),
            Operation::Copy { key, .. } => {
                let size = self.source(bucket, operation).map_or(0, |stored| stored.object.size);
                (key, None, Some(size))
            }
            Operation::Delete { key, options } => (key, options.version, None),
            Operation::Check { .. } => return None,
        };
        Some(Change { key, version, size })
    }

    fn source(&self, bucket: &str, operation: &Operation) -> Option<&StoredObject> {
        match operation {
            Operation::Copy { source, options, .. } => {
                self.version(bucket, source, options.source_version).ok()
            }
            Operation::Put { .. } | Operation::Delete { .. } | Operation::Check { .. } => None,
        }
    }

    fn judge(&self, bucket: &str, operation: &Operation) -> Result<()> {
        match operation {
            Operation::Put { key, options, .. } => self.check(bucket, key, options.precondition.as_ref()),
            Operation::Copy { source, key, options } => {
                let source = self.version(bucket, source, options.source_version)?;
                check_held(Some(&source.object.etag), options.source_precondition.as_ref())?;
                self.check(bucket, key, options.precondition.as_ref())
            }
            Operation::Delete { key, options } => {
                self.check(bucket, key, options.precondition.as_ref())?;
                self.check_version(bucket, key, options.version)
            }
            Operation::Check { key, precondition } => self.check(bucket, key, Some(precondition)),
        }
    }

    fn change(
        &mut self,
        version: u64,
        bucket: &str,
        operation: Operation,
        source: Option<StoredObject>,
    ) -> Result<BatchResult> {
        let made = |object| BatchResult { object: Some(object), ..BatchResult::default() };
        match operation {
            Operation::Put { key, bytes, options } => {
                self.put_version(version, bucket, &key, bytes, options).map(made)
            }
            Operation::Copy { key, options, .. } => {
                let Some(mut copy) = source else { return Ok(BatchResult::default()) };
                copy.object.key.clone_from(&key);
                copy.object.version = version;
                copy.object.etag = etag(version, copy.object.crc32c);
                copy.object.created = SystemTime::now();
                if let Some(metadata) = options.metadata {
                    copy.object.content_type = metadata.content_type;
                    copy.object.user_metadata = metadata.user_metadata;
                }
                let object = copy.object.clone();
                let missing = || Error::BucketNotFound { bucket: bucket.to_owned() };
                let target = self.buckets.get_mut(bucket).ok_or_else(missing)?;
                target.changes += 1;
                target.shelf.put(&key, copy);
                Ok(made(object))
            }
            Operation::Delete { key, options } => {
                let deleted = self.remove(version, bucket, &key, options.version)?;
                Ok(BatchResult {
                    object: Some(deleted.object),
                    chunks_in_debt: 0,
                    delete_marker: deleted.delete_marker,
                })
            }
            Operation::Check { .. } => Ok(BatchResult::default()),
        }
    }

    /// Whether the key has the version, or holds anything.
    fn check_version(&self, bucket: &str, key: &str, version: Option<u64>) -> Result<()> {
        let is_there = |version| Ok(self.bucket(bucket)?.shelf.has_version(key, version));
        match version {
            Some(version) if is_there(version)? => Ok(()),
            version => self.version(bucket, key, version).map(|_| ()),
        }
    }

    pub(super) fn delete(&mut self, bucket: &str, key: &str, options: &DeleteOptions) -> Result<Deleted> {
        self.check_version(bucket, key, options.version)?;
        self.check(bucket, key, options.precondition.as_ref())?;
        let number = self.number();
        self.remove(number, bucket, key, options.version)
    }

    fn remove(&mut self, number: u64, bucket: &str, key: &str, version: Option<u64>) -> Result<Deleted> {
        let missing = || Error::ObjectNotFound { bucket: bucket.to_owned(), key: key.to_owned() };
        let target = self.buckets.get_mut(bucket).ok_or_else(missing)?;
        target.changes += 1;
        let deleted = match version {
            Some(version) => target.shelf.delete_version(key, version),
            None => target.shelf.delete(key, number),
        };
        deleted.ok_or_else(missing)
    }

    fn chunks(&mut self, bucket: &str, bytes: &Bytes) -> Result<Vec<ChunkPlacement>> {
        let bucket = self.bucket(bucket)?;
        let (id, chunk_size, replicas) = (bucket.id, bucket.chunk_size, bucket.replicas as u16);
        let mut offset = 0;
        let place = |chunk: &[u8]| {
            let number = self.number();
            let nodes =
                (0..replicas).map(|turn| NodeId(1 + (number as u16 % NODES + turn) % NODES)).collect();
            let length = chunk.len() as u32;
            let placed = ChunkPlacement {
                offset,
                chunk: ChunkId::new(id, number),
                length,
                crc32c: crc32c(chunk),
                nodes,
            };
            offset += u64::from(length);
            placed
        };
        Ok(bytes.chunks(chunk_size as usize).map(place).collect())
    }

    const fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

pub(super) fn check_held(held: Option<&str>, precondition: Option<&Precondition>) -> Result<()> {
    let holds = match precondition {
        None => true,
        Some(Precondition::IfMatch(etag)) => held == Some(etag),
        Some(Precondition::IfNoneMatch(etag)) => held != Some(etag),
        Some(Precondition::IfNoneMatchAny) => held.is_none(),
    };
    let message = || format!("the key holds {}", held.unwrap_or("nothing"));
    if holds { Ok(()) } else { Err(Error::PreconditionFailed { message: message() }) }
}

fn etag(version: u64, crc32c: u32) -> String {
    format!("{version:x}-{crc32c:08x}")
}

impl StoredBucket {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn describe(&self) -> Bucket {
        let older = self.shelf.older_sums();
        Bucket {
            name: self.name.clone(),
            chunk_size: self.chunk_size,
            replicas: self.replicas,
            min_replicas: self.min_replicas,
            created: self.created,
            objects: self.shelf.objects.len() as u64,
            bytes: self.shelf.objects.values().map(|stored| stored.object.size).sum(),
            quota_bytes: self.quota_bytes,
            quota_objects: self.quota_objects,
            versioning: self.shelf.versioning,
            older_versions: older.versions,
            older_bytes: older.bytes,
            delete_markers: older.delete_markers,
        }
    }
}
