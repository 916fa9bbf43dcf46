//! Buckets.

use xdpfs_proto::state::v1::{self as pb, outcome};
use xdpfs_wire::BucketId;

use super::{
    Context, Quota, State, Versioning,
    reject::{BUCKET_NOT_FOUND, Reason, Reject},
    versions::{OlderSums, UNKNOWN_VERSIONING},
};

const BUCKETS_MAX: usize = 10_000;

/// A namespace of keys with its own way of storing them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bucket {
    /// The high 32 bits of its chunk ids; never reused.
    pub id: BucketId,
    /// Its name.
    pub name: String,
    /// Bytes in every chunk but an object's last one.
    pub chunk_size: u32,
    /// Copies that a put asks for.
    pub replicas: u32,
    /// Copies without which a put fails.
    pub min_replicas: u32,
    /// On the cluster's clock.
    pub create_time_ms: u64,
    /// Visible objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The most that it may hold.
    pub quota: Quota,
    /// What becomes of an object that another one takes the place of.
    pub versioning: Versioning,
    /// What it holds besides visible objects.
    pub older: OlderSums,
}

impl Bucket {
    pub(super) fn record(&self) -> pb::Bucket {
        pb::Bucket {
            id: self.id.0,
            name: self.name.clone(),
            chunk_size: self.chunk_size,
            replicas: self.replicas,
            min_replicas: self.min_replicas,
            create_time_ms: self.create_time_ms,
            objects: self.objects,
            bytes: self.bytes,
            quota_bytes: self.quota.bytes,
            quota_objects: self.quota.objects,
            versioning: self.versioning.record().into(),
            older_versions: self.older.versions,
            older_bytes: self.older.bytes,
            delete_markers: self.older.delete_markers,
        }
    }

    pub(super) fn from_record(record: pb::Bucket) -> Option<Self> {
        Some(Self {
            versioning: Versioning::parse(record.versioning)?,
            older: OlderSums {
                versions: record.older_versions,
                bytes: record.older_bytes,
                delete_markers: record.delete_markers,
            },
            id: BucketId(record.id),
            name: record.name,
            chunk_size: record.chunk_size,
            replicas: record.replicas,
            min_replicas: record.min_replicas,
            create_time_ms: record.create_time_ms,
            objects: record.objects,
            bytes: record.bytes,
            quota: Quota { bytes: record.quota_bytes, objects: record.quota_objects },
        })
    }
}

impl State {
    /// The bucket of this name.
    #[must_use]
    pub fn bucket(&self, name: &str) -> Option<&Bucket> {
        self.buckets.get(self.bucket_ids.get(name)?)
    }

    /// The bucket of this number.
    #[must_use]
    pub fn bucket_by_id(&self, id: BucketId) -> Option<&Bucket> {
        self.buckets.get(&id)
    }

    /// Buckets in the order of their names, behind `after`.
    pub fn buckets_after<'a>(&'a self, after: &str) -> impl Iterator<Item = &'a Bucket> + use<'a> {
        use std::ops::Bound::{Excluded, Unbounded};
        let names = self.bucket_ids.range::<str, _>((Excluded(after), Unbounded));
        names.filter_map(|(_, id)| self.buckets.get(id))
    }

    /// How many buckets there are.
    #[must_use]
    pub fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    /// Bytes of all visible objects.
    #[must_use]
    pub fn object_bytes(&self) -> u64 {
        self.buckets.values().map(|bucket| bucket.bytes).sum()
    }

    pub(super) fn create_bucket(&mut self, create: &pb::CreateBucket) -> Result<outcome::Kind, Reject> {
        if self.bucket_ids.contains_key(&create.name) {
            return Err(Reject::new(Reason::BucketExists, "a bucket of this name is there"));
        }
        if self.buckets.len() >= BUCKETS_MAX {
            return Err(Reject::new(Reason::Overloaded, "the cluster has as many buckets as it can have"));
        }
        let bucket = Bucket {
            id: BucketId(self.counters.bucket),
            name: create.name.clone(),
            chunk_size: create.chunk_size,
            replicas: create.replicas,
            min_replicas: create.min_replicas,
            create_time_ms: self.time_ms,
            objects: 0,
            bytes: 0,
            quota: Quota { bytes: create.quota_bytes, objects: create.quota_objects },
            versioning: Versioning::parse(create.versioning).ok_or(UNKNOWN_VERSIONING)?,
            older: OlderSums::default(),
        };
        self.counters.bucket += 1;
        let record = bucket.record();
        self.insert_bucket(bucket);
        Ok(outcome::Kind::Bucket(record))
    }

    pub(super) fn insert_bucket(&mut self, bucket: Bucket) {
        self.bucket_ids.insert(bucket.name.clone(), bucket.id);
        self.buckets.insert(bucket.id, bucket);
    }

    /// Open uploads do not keep a bucket: they could never be committed into it, so they end with it.
    pub(super) fn delete_bucket(
        &mut self,
        context: Context,
        delete: &pb::DeleteBucket,
    ) -> Result<outcome::Kind, Reject> {
        let bucket = self.bucket(&delete.name).ok_or(BUCKET_NOT_FOUND)?;
        if bucket.objects > 0 {
            return Err(Reject::new(Reason::BucketNotEmpty, "the bucket holds objects"));
        }
        if bucket.older != OlderSums::default() {
            return Err(Reject::new(Reason::BucketNotEmpty, "the bucket holds older versions of objects"));
        }
        let id = bucket.id;
        self.abort_uploads(context, |upload| upload.bucket == id);
        self.buckets.remove(&id);
        self.history.forget_bucket(id);
        self.bucket_ids.remove(&delete.name);
        Ok(outcome::Kind::Done(pb::Done {}))
    }
}
