//! Buckets as a client sees them.

use std::time::{Duration, SystemTime};

use xdpfs_proto::meta::v1 as proto;

use crate::{
    Versioning,
    error::{Error, Result},
    name,
};

/// A bucket and its settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// Bytes in every chunk but an object's last one.
    pub chunk_size: u32,
    /// Copies of each chunk that a put asks for.
    pub replicas: u32,
    /// Copies without which a put fails.
    pub min_replicas: u32,
    /// When it was made.
    pub created: SystemTime,
    /// Visible objects, without older versions.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The most bytes that it may hold.
    pub quota_bytes: Option<u64>,
    /// The most objects that it may hold.
    pub quota_objects: Option<u64>,
    /// What becomes of objects that others take the place of.
    pub versioning: Versioning,
    /// Older versions, which count for quotas.
    pub older_versions: u64,
    /// Their bytes.
    pub older_bytes: u64,
    /// Marks of keys that hold nothing and once held something.
    pub delete_markers: u64,
}

/// Settings of a bucket to be made; `None` leaves the choice to the cluster.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BucketOptions {
    /// Bytes in every chunk but an object's last one: 64 KiB to 16 MiB.
    pub chunk_size: Option<u32>,
    /// Copies of each chunk that a put asks for.
    pub replicas: Option<u32>,
    /// Copies without which a put fails.
    pub min_replicas: Option<u32>,
    /// The most bytes that it may hold, older versions included. Copies that share their chunks count in full, replicas
    /// don't.
    pub quota_bytes: Option<u64>,
    /// The most objects that it may hold, older versions included.
    pub quota_objects: Option<u64>,
    /// What becomes of objects that others take the place of.
    pub versioning: Versioning,
}

/// What to change about a bucket.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BucketUpdate {
    /// The most bytes that it may hold.
    pub quota_bytes: Setting<u64>,
    /// The most objects that it may hold.
    pub quota_objects: Setting<u64>,
    /// What becomes of objects that others take the place of; none: what becomes of them now. It can't be off again.
    pub versioning: Option<Versioning>,
}

/// What becomes of a setting.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Setting<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is taken away.
    Remove,
    /// It becomes this.
    Set(T),
}

impl Setting<u64> {
    /// To the cluster, zero is none.
    pub(crate) fn to_proto(self) -> Option<u64> {
        match self {
            Self::Keep => None,
            Self::Remove => Some(0),
            Self::Set(value) => Some(value),
        }
    }

    pub(crate) fn apply(self, held: Option<u64>) -> Option<u64> {
        match self {
            Self::Keep => held,
            Self::Remove => None,
            Self::Set(value) => Some(value),
        }
    }
}

impl BucketUpdate {
    pub(crate) fn check(self) -> Result<()> {
        if [self.quota_bytes, self.quota_objects].contains(&Setting::Set(0)) {
            return Err(Error::invalid(NO_ZERO_QUOTA));
        }
        Ok(())
    }
}

/// A zero would mean to the cluster that there is no bound.
const NO_ZERO_QUOTA: &str = "a quota is at least 1: take it away to have none";

/// Some buckets, in the order of their names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BucketPage {
    /// The buckets.
    pub buckets: Vec<Bucket>,
    /// Where the next page starts; `None` after the last one.
    pub next: Option<String>,
}

impl BucketOptions {
    /// A zero would mean to the cluster that nothing was asked for.
    pub(crate) fn check(self) -> Result<()> {
        if [self.chunk_size, self.replicas, self.min_replicas].contains(&Some(0)) {
            return Err(Error::invalid(
                "a bucket has chunks of more than 0 bytes, and at least 1 replica of each",
            ));
        }
        if [self.quota_bytes, self.quota_objects].contains(&Some(0)) {
            return Err(Error::invalid(NO_ZERO_QUOTA));
        }
        Ok(())
    }
}

impl Bucket {
    pub(crate) fn parse(bucket: Option<proto::Bucket>, operation: &'static str) -> Result<Self> {
        let bad = |what| Error::BadReply { operation, what };
        let bucket = bucket.ok_or(bad("the bucket is missing"))?;
        let name = name::parse_bucket(&bucket.name).ok_or(bad("the bucket has no good name"))?;
        Ok(Self {
            name: name.to_owned(),
            chunk_size: bucket.chunk_size,
            replicas: bucket.replicas,
            min_replicas: bucket.min_replicas,
            created: SystemTime::UNIX_EPOCH + Duration::from_millis(bucket.create_time_ms),
            objects: bucket.objects,
            bytes: bucket.bytes,
            quota_bytes: Some(bucket.quota_bytes).filter(|bytes| *bytes > 0),
            quota_objects: Some(bucket.quota_objects).filter(|objects| *objects > 0),
            versioning: Versioning::parse(bucket.versioning)
                .ok_or(bad("the bucket's versioning is of an unknown kind"))?,
            older_versions: bucket.older_versions,
            older_bytes: bucket.older_bytes,
            delete_markers: bucket.delete_markers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_without_bytes_or_replicas_is_refused() {
        let none = BucketOptions::default();
        none.check().unwrap();
        BucketOptions { replicas: Some(1), ..none }.check().unwrap();
        for bad in [
            BucketOptions { chunk_size: Some(0), ..none },
            BucketOptions { replicas: Some(0), ..none },
            BucketOptions { min_replicas: Some(0), ..none },
            BucketOptions { quota_bytes: Some(0), ..none },
            BucketOptions { quota_objects: Some(0), ..none },
        ] {
            assert!(matches!(bad.check(), Err(Error::InvalidArgument { .. })), "{bad:?}");
        }
        let update = BucketUpdate { quota_objects: Setting::Set(0), ..BucketUpdate::default() };
        assert!(matches!(update.check(), Err(Error::InvalidArgument { .. })));
        BucketUpdate { quota_objects: Setting::Remove, ..update }.check().unwrap();
    }
}
