//! A number that servers compare to find out whether they still agree: it stands for all that was answered, and bit by
//! bit for all that is kept.
//!
//! Each command adds what came of it and one object, one older version and one bucket, in the order of their names, round
//! and round. So it costs
//! the same however much there is; what two servers keep differently is found when its turn comes, and what they decide
//! differently at once. Invariant: it follows from the commands since the cluster left the first feature level, and is in
//! snapshots, so that whoever starts from one goes on as the others do.

use std::{
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use prost::Message;
use xdpfs_proto::state::v1 as pb;
use xdpfs_wire::{BucketId, SipKey, siphash_2_4};

use super::{FeatureLevel, ObjectName, State};

/// No secret: servers must come to the same number.
const KEY: SipKey = SipKey { k0: 0x7864_7066_735f_6d65, k1: 0x7461_5f73_7461_7465 };

/// What has come together so far, and whose turn it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Fingerprint {
    chain: u64,
    /// The last object that was looked at.
    object: Option<ObjectName>,
    /// The last older version that was looked at.
    older: Option<(ObjectName, u64)>,
    /// The last bucket that was looked at.
    bucket: Option<BucketId>,
}

impl Fingerprint {
    pub(super) fn from_record(record: Option<pb::Fingerprint>) -> Self {
        let record = record.unwrap_or_default();
        let name = |bucket, key: String| (!key.is_empty()).then(|| (BucketId(bucket), Arc::from(key)));
        Self {
            chain: record.chain,
            object: name(record.object_bucket_id, record.object_key),
            older: name(record.older_bucket_id, record.older_key).map(|name| (name, record.older_version)),
            bucket: (record.bucket_id > 0).then_some(BucketId(record.bucket_id)),
        }
    }

    /// `None` before it has begun.
    pub(super) fn record(&self) -> Option<pb::Fingerprint> {
        let nothing = || (BucketId(0), Arc::from(""));
        let (object_bucket, object_key) = self.object.clone().unwrap_or_else(nothing);
        let ((older_bucket, older_key), older_version) = self.older.clone().unwrap_or_else(|| (nothing(), 0));
        let record = pb::Fingerprint {
            chain: self.chain,
            object_bucket_id: object_bucket.0,
            object_key: object_key.to_string(),
            bucket_id: self.bucket.map_or(0, |bucket| bucket.0),
            older_bucket_id: older_bucket.0,
            older_key: older_key.to_string(),
            older_version,
        };
        (*self != Self::default()).then_some(record)
    }
}

impl State {
    /// Adds what came of the command at `index`, and whose turn it is.
    pub(super) fn add_to_fingerprint(&mut self, index: u64, outcome: &pb::Outcome) {
        if self.feature_level == FeatureLevel::FIRST {
            return;
        }
        let from = self.fingerprint.object.as_ref().map_or(Unbounded, Excluded);
        let object = self.objects.range((from, Unbounded)).next();
        let object_sum = object.map_or(0, |(name, object)| sum(&object.record(name)));
        let older = self.older.next_after(self.fingerprint.older.as_ref());
        let older_sum = older.as_ref().map_or(0, |((name, _), older)| sum(&older.record(name)));
        let from = self.fingerprint.bucket.map_or(Unbounded, Excluded);
        let bucket = self.buckets.range((from, Unbounded)).next();
        let bucket_sum = bucket.map_or(0, |(_, bucket)| sum(&bucket.record()));
        let words = [self.fingerprint.chain, index, sum(outcome), object_sum, older_sum, bucket_sum];
        self.fingerprint = Fingerprint {
            chain: siphash_2_4(KEY, &words),
            object: object.map(|(name, _)| name.clone()),
            older: older.map(|(place, _)| place),
            bucket: bucket.map(|(id, _)| *id),
        };
    }

    /// What is compared with other servers after the same entry: the fingerprint, and all that there is little of. `None`:
    /// the cluster is at the first level, where servers may not go by the same rules.
    #[must_use]
    pub fn fingerprint(&self) -> Option<u64> {
        if self.feature_level == FeatureLevel::FIRST {
            return None;
        }
        let small = self.small_records().fold(self.fingerprint.chain, |words, record| {
            let record = pb::SnapshotRecord { kind: Some(record) };
            siphash_2_4(KEY, &[words, sum(&record)])
        });
        Some(small)
    }
}

fn sum(message: &impl Message) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &message.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use xdpfs_proto::state::v1::command::Kind;

    use super::*;

    const BUCKETS: u64 = 20;

    fn apply(state: &mut State, index: u64, kind: Kind) {
        state.apply(index, &pb::Command { time_ms: index, kind: Some(kind), ..Default::default() });
    }

    fn create(number: u64) -> Kind {
        Kind::CreateBucket(pb::CreateBucket {
            name: format!("bucket-{number}"),
            chunk_size: 65_536,
            replicas: 1,
            min_replicas: 1,
            ..Default::default()
        })
    }

    fn state(level: u32) -> State {
        let mut state = State::default();
        apply(&mut state, 1, Kind::RaiseFeatureLevel(pb::RaiseFeatureLevel { feature_level: level }));
        (0..BUCKETS).for_each(|number| apply(&mut state, 2 + number, create(number)));
        state
    }

    fn idle(state: &mut State, indexes: std::ops::Range<u64>) {
        indexes.for_each(|index| apply(state, index, Kind::ExpireUploads(pb::ExpireUploads {})));
    }

    #[test]
    fn server_that_starts_from_a_snapshot_has_the_number_of_the_others() {
        let mut ours = state(1);
        let mut theirs = State::decode(&ours.encode(usize::MAX).concat()[..]).unwrap();
        assert_eq!(ours, theirs);
        for state in [&mut ours, &mut theirs] {
            idle(state, 100..150);
        }
        assert!(ours.fingerprint().is_some());
        assert_eq!(ours.fingerprint(), theirs.fingerprint());
    }

    #[test]
    fn other_answer_is_seen_at_once() {
        let (mut ours, mut theirs) = (state(1), state(1));
        assert_eq!(ours.fingerprint(), theirs.fingerprint());
        apply(&mut ours, 100, create(0));
        apply(&mut theirs, 100, create(BUCKETS));
        assert_ne!(ours.fingerprint(), theirs.fingerprint());
        for state in [&mut ours, &mut theirs] {
            idle(state, 101..200);
        }
        assert_ne!(ours.fingerprint(), theirs.fingerprint(), "it is not forgotten");
    }

    #[test]
    fn what_is_kept_otherwise_is_seen_when_its_turn_comes() {
        let (mut ours, mut theirs) = (state(1), state(1));
        let spoilt = theirs.buckets.values_mut().nth(7).unwrap();
        spoilt.min_replicas = 0;
        for state in [&mut ours, &mut theirs] {
            idle(state, 100..100 + BUCKETS + 1);
        }
        assert_ne!(ours.fingerprint(), theirs.fingerprint());
    }

    #[test]
    fn small_tables_are_seen_at_once() {
        let (ours, mut theirs) = (state(1), state(1));
        theirs.counters.chunk += 1;
        assert_ne!(ours.fingerprint(), theirs.fingerprint());
    }

    #[test]
    fn nothing_is_compared_at_the_first_level() {
        let state = state(0);
        assert_eq!(state.fingerprint(), None);
        assert_eq!(state.fingerprint, Fingerprint::default());
    }
}
