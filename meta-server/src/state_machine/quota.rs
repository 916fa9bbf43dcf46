//! How much a bucket may hold.
//!
//! What counts is what the bucket's objects and their older versions would take if they shared nothing: a copy counts in
//! full, replicas don't.
//! Invariant: no change makes a bucket that is over its quota hold more; one that makes it hold less is never refused.

use xdpfs_proto::state::v1::{self as pb, outcome};

use super::{
    Bucket, State,
    reject::{BUCKET_NOT_FOUND, Reason, Reject},
};

/// The most that a bucket may hold; zero is no bound.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Quota {
    /// Bytes of all objects and older versions.
    pub bytes: u64,
    /// Objects and older versions. Delete markers don't count: removing an object needs no room.
    pub objects: u64,
}

/// What a change adds to a bucket, and what it takes away.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Growth {
    added: Holding,
    removed: Holding,
}

#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    objects: u64,
    bytes: u64,
}

impl Growth {
    /// An object of this size appears.
    pub(super) const fn add(&mut self, bytes: u64) {
        self.added.objects = self.added.objects.saturating_add(1);
        self.added.bytes = self.added.bytes.saturating_add(bytes);
    }

    /// An object of this size vanishes.
    pub(super) const fn remove(&mut self, bytes: u64) {
        self.removed.objects = self.removed.objects.saturating_add(1);
        self.removed.bytes = self.removed.bytes.saturating_add(bytes);
    }
}

impl Bucket {
    /// Whether the change keeps within the quota, or at least makes nothing worse.
    pub(super) fn check_growth(&self, growth: Growth) -> Result<(), Reject> {
        let Growth { added, removed } = growth;
        let is_over = |held: u64, added: u64, removed: u64, quota: u64| {
            quota > 0 && added > removed && held.saturating_add(added - removed) > quota
        };
        let (objects, bytes) = (self.objects + self.older.versions, self.bytes + self.older.bytes);
        if is_over(objects, added.objects, removed.objects, self.quota.objects) {
            return Err(Reject::new(Reason::QuotaExceeded, "the bucket may not hold more objects"));
        }
        if is_over(bytes, added.bytes, removed.bytes, self.quota.bytes) {
            return Err(Reject::new(Reason::QuotaExceeded, "the bucket may not hold as many bytes"));
        }
        Ok(())
    }
}

impl State {
    /// Whether `key` could hold an object of this size now.
    #[must_use]
    pub fn has_room_for(&self, bucket: &Bucket, key: &str, size: u64) -> bool {
        let mut growth = Growth::default();
        growth.add(size);
        if let Some(held) = self.object(bucket.id, key) {
            growth.remove(held.size);
        }
        bucket.check_growth(growth).is_ok()
    }

    pub(super) fn update_bucket(&mut self, update: &pb::UpdateBucket) -> Result<outcome::Kind, Reject> {
        let id = self.bucket(&update.name).ok_or(BUCKET_NOT_FOUND)?.id;
        let bucket = self.buckets.get_mut(&id).ok_or(BUCKET_NOT_FOUND)?;
        let wanted = update.versioning.map(|wanted| bucket.versioning.updated(wanted)).transpose()?;
        bucket.versioning = wanted.unwrap_or(bucket.versioning);
        let Quota { bytes, objects } = bucket.quota;
        bucket.quota = Quota {
            bytes: update.quota_bytes.unwrap_or(bytes),
            objects: update.quota_objects.unwrap_or(objects),
        };
        Ok(outcome::Kind::Bucket(bucket.record()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_held_against_the_quota() {
        let record = pb::Bucket { objects: 5, bytes: 100, ..Default::default() };
        let check = |(bytes, objects): (u64, u64), added: &[u64], removed: &[u64], expect: bool| {
            let bucket =
                Bucket { quota: Quota { bytes, objects }, ..Bucket::from_record(record.clone()).unwrap() };
            let mut growth = Growth::default();
            added.iter().for_each(|bytes| growth.add(*bytes));
            removed.iter().for_each(|bytes| growth.remove(*bytes));
            let checked = bucket.check_growth(growth).map_err(|reject| reject.reason);
            let expected = if expect { Ok(()) } else { Err(Reason::QuotaExceeded) };
            assert_eq!(checked, expected, "{bytes} {objects}: {added:?} {removed:?}");
        };
        check((0, 0), &[u64::MAX, u64::MAX], &[], true);
        check((110, 0), &[10], &[], true);
        check((110, 0), &[11], &[], false);
        check((110, 0), &[u64::MAX], &[], false);
        check((0, 6), &[1], &[], true);
        check((0, 6), &[1, 1], &[], false);
        check((0, 6), &[1, 1], &[1], true);
        // Over the quota already: whatever makes it no worse is welcome.
        check((50, 3), &[40], &[40], true);
        check((50, 3), &[39], &[40], true);
        check((50, 3), &[41], &[40], false);
        check((50, 3), &[], &[1], true);
        check((50, 3), &[0], &[], false);
    }
}
