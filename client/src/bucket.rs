//! Buckets as a client sees them.

use std::time::{Duration, SystemTime};

use xdpfs_proto::meta::v1 as proto;

use crate::{
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
    /// Visible objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
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
}

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
        ] {
            assert!(matches!(bad.check(), Err(Error::InvalidArgument { .. })), "{bad:?}");
        }
    }
}
