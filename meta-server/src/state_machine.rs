//! The metadata itself: `apply` takes one committed command and changes the state, the same way on every server.
//!
//! Invariant: no clock, no randomness, no I/O, no configuration. Whatever is not a function of the state was written
//! into the command by the leader. The linearization point of every change is its `apply`.

mod access_keys;
mod answered;
mod backup;
mod batch;
mod buckets;
mod chunks;
mod feature_level;
mod fingerprint;
mod history;
mod key_epochs;
mod labels;
mod listing;
mod members;
mod nodes;
mod objects;
mod pending_deletes;
mod pictured;
mod precondition;
mod quota;
mod reject;
mod replicas;
mod snapshot;
mod snapshot_walk;
mod uploads;
mod version_listing;
mod versions;

#[cfg(test)]
mod invariants;
#[cfg(test)]
mod model_tests;

use std::{collections::BTreeMap, sync::Arc};

use xdpfs_proto::state::v1::{self as pb, command, outcome};
use xdpfs_wire::{BucketId, NodeId};

pub use self::{
    access_keys::{
        ACCESS_KEYS_MAX, AccessKey, AccessKeys, BucketPattern, GRANTS_PER_KEY_MAX, Grant, LABEL_BYTES_MAX,
        Right, RightSet,
    },
    answered::Answered,
    backup::restored_index,
    batch::BATCH_OPERATIONS_MAX,
    buckets::Bucket,
    chunks::{
        Chunk, Owner, REPLICAS_MAX, Replicas, VersionName, VersionNumber, chunk_id_bytes, parse_chunk_id,
    },
    feature_level::{FeatureLevel, Need, Unsupported, check_supported, need},
    history::Past,
    key_epochs::{KeyEpoch, KeyEpochs},
    labels::{
        DISK, HOST, KEY_RULE, LABELS_MAX, Labels, RACK, VALUE_RULE, ZONE, are_labels, is_label_key,
        is_label_value,
    },
    listing::{Listing, ListingEntry, Page, Start},
    members::{Configuration, MEMBERS_MAX, Members, MetaMember, Wanted},
    nodes::Node,
    objects::Object,
    pending_deletes::PendingDeletes,
    precondition::{Etag, check_precondition},
    quota::Quota,
    reject::Reason,
    replicas::REPLICA_CHANGES_MAX,
    snapshot::SnapshotError,
    snapshot_walk::SnapshotWalk,
    uploads::{CHUNKS_PER_OBJECT_MAX, GRANTS_MAX, UPLOADS_MAX, Upload},
    version_listing::{VersionEntry, VersionPage},
    versions::{DeleteMarker, OlderSums, Versioning},
};
use self::{
    chunks::ChunkOwners,
    fingerprint::Fingerprint,
    history::History,
    pictured::PicturedMap,
    reject::{Reject, TOO_MANY_ANSWERS},
    versions::OlderVersions,
};
use crate::mistake::{Mistake, is_planted};

/// A key in a bucket.
pub type ObjectName = (BucketId, Arc<str>);

/// All metadata of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    cluster_id: String,
    /// The cluster's clock: the latest time that a leader wrote into a command.
    time_ms: u64,
    counters: Counters,
    buckets: BTreeMap<BucketId, Bucket>,
    bucket_ids: BTreeMap<String, BucketId>,
    objects: PicturedMap<ObjectName, Object>,
    older: OlderVersions,
    uploads: PicturedMap<u64, Upload>,
    nodes: BTreeMap<NodeId, Node>,
    owners: ChunkOwners,
    pending_deletes: PendingDeletes,
    answered: Answered,
    key_epochs: KeyEpochs,
    access_keys: AccessKeys,
    /// Replicas that puts asked for and did not get.
    replica_debt: u64,
    /// Operators want no rebalancing.
    rebalance_paused: bool,
    history: History,
    members: Arc<Members>,
    feature_level: FeatureLevel,
    fingerprint: Fingerprint,
}

/// The next number of every kind that is never reused.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Counters {
    bucket: u32,
    node: u32,
    upload: u64,
    chunk: u64,
    client: u32,
}

impl Default for Counters {
    fn default() -> Self {
        Self { bucket: 1, node: 1, upload: 1, chunk: 1, client: 1 }
    }
}

/// What a command is applied with.
#[derive(Clone, Copy, Debug)]
struct Context {
    /// The command's place in the log: the version of what it makes.
    index: u64,
    /// When replicas that lose their last reference may go.
    removable_ms: u64,
}

impl State {
    /// Applies the command at `index` of the log.
    ///
    /// A command with the request id of an earlier one changes nothing and gives the earlier answer. One whose answer
    /// could not be kept is not taken.
    pub fn apply(&mut self, index: u64, command: &pb::Command) -> pb::Outcome {
        let outcome = self.answer(index, command);
        self.add_to_fingerprint(index, &outcome);
        outcome
    }

    fn answer(&mut self, index: u64, command: &pb::Command) -> pb::Outcome {
        self.time_ms = self.time_ms.max(command.time_ms);
        self.history.begin(index, self.time_ms);
        // The first release forgot them all.
        let kept = if self.feature_level == FeatureLevel::FIRST { 0 } else { answered::ANSWERS_KEPT };
        self.answered.forget_old(self.time_ms, kept, self.feature_level);
        if let Some(outcome) = self.answered.outcome(&command.request_id)
            && !is_planted(Mistake::RepeatsApplied)
        {
            return outcome;
        }
        if !command.request_id.is_empty() && !self.answered.has_room(self.time_ms, self.feature_level) {
            return pb::Outcome { kind: Some(TOO_MANY_ANSWERS.into_outcome()) };
        }
        let context = Context { index, removable_ms: self.time_ms.saturating_add(command.deletion_grace_ms) };
        let result = self.check_caller(command).and_then(|()| self.apply_kind(context, command));
        let repeatable = !matches!(&result, Err(reject) if reject.reason.may_differ_when_repeated());
        let outcome = pb::Outcome { kind: Some(result.unwrap_or_else(Reject::into_outcome)) };
        if repeatable {
            self.answered.remember(&command.request_id, self.time_ms, &outcome, self.feature_level);
        }
        outcome
    }

    fn apply_kind(&mut self, context: Context, command: &pb::Command) -> Result<outcome::Kind, Reject> {
        use command::Kind;
        match command.kind.as_ref() {
            Some(Kind::CreateBucket(create)) => self.create_bucket(create),
            Some(Kind::UpdateBucket(update)) => self.update_bucket(update),
            Some(Kind::DeleteBucket(delete)) => self.delete_bucket(context, delete),
            Some(Kind::BeginPut(begin)) => self.begin_put(begin),
            Some(Kind::ExtendPut(extend)) => self.extend_put(extend),
            Some(Kind::CommitPut(commit)) => self.commit_put(context, commit),
            Some(Kind::AbortPut(abort)) => self.abort_put(context, abort),
            Some(Kind::Batch(batch)) => self.batch(context, batch),
            Some(Kind::DeleteObject(delete)) => self.delete_object(context, delete),
            Some(Kind::RegisterNode(register)) => self.register_node(register, &command.request_id),
            Some(Kind::ExpireUploads(_)) => Ok(self.expire_uploads(context)),
            Some(Kind::ForgetChunks(forget)) => Ok(self.forget_chunks(forget)),
            Some(Kind::AddKeyEpoch(add)) => Ok(self.add_key_epoch(add)),
            Some(Kind::InitCluster(init)) => Ok(self.init_cluster(init)),
            Some(Kind::CreateAccessKey(create)) => self.create_access_key(create),
            Some(Kind::RevokeAccessKey(revoke)) => self.revoke_access_key(revoke),
            Some(Kind::RotateKeyEpoch(rotate)) => self.rotate_key_epoch(rotate),
            Some(Kind::CloseAccess(_)) => Ok(self.close_access()),
            Some(Kind::LabelNode(label)) => self.label_node(label),
            Some(Kind::SeedMembers(seed)) => Ok(self.seed_members(seed)),
            Some(Kind::ReserveMember(_)) => self.reserve_member(),
            Some(Kind::AddMember(add)) => self.add_member(add),
            Some(Kind::PromoteMember(promote)) => self.promote_member(promote),
            Some(Kind::RemoveMember(remove)) => self.remove_member(remove),
            Some(Kind::ReplaceMember(replace)) => self.replace_member(replace),
            Some(Kind::UpdateMember(update)) => self.update_member(update),
            Some(Kind::RaiseFeatureLevel(raise)) => Ok(self.raise_feature_level(raise)),
            Some(Kind::ReplaceReplicas(replace)) => Ok(self.replace_replicas(context, replace)),
            Some(Kind::CollectReplicas(collect)) => Ok(self.collect_replicas(context, collect)),
            Some(Kind::FenceNode(fence)) => Ok(self.fence_node(fence)),
            Some(Kind::DrainNode(drain)) => self.drain_node(drain),
            Some(Kind::RemoveNode(remove)) => self.remove_node(remove),
            Some(Kind::PauseRebalance(pause)) => Ok(self.pause_rebalance(pause)),
            // Servers stop before they apply one.
            None => Err(Reject::new(Reason::InvalidArgument, "the command is of an unknown kind")),
        }
    }

    fn init_cluster(&mut self, init: &pb::InitCluster) -> outcome::Kind {
        if self.cluster_id.is_empty() {
            self.cluster_id.clone_from(&init.cluster_id);
            self.feature_level = FeatureLevel(init.feature_level);
        }
        outcome::Kind::Done(pb::Done {})
    }

    fn close_access(&mut self) -> outcome::Kind {
        self.access_keys.close();
        outcome::Kind::Done(pb::Done {})
    }

    fn pause_rebalance(&mut self, pause: &pb::PauseRebalance) -> outcome::Kind {
        self.rebalance_paused = pause.paused;
        outcome::Kind::Done(pb::Done {})
    }

    /// Empty until the cluster has agreed on one.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The cluster's clock.
    #[must_use]
    pub const fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The entry that this is the state after.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.history.index()
    }

    /// The live secrets.
    #[must_use]
    pub const fn key_epochs(&self) -> &KeyEpochs {
        &self.key_epochs
    }

    /// What nodes have yet to remove.
    #[must_use]
    pub const fn pending_deletes(&self) -> &PendingDeletes {
        &self.pending_deletes
    }

    /// Objects in all buckets.
    #[must_use]
    pub fn object_count(&self) -> usize {
        self.objects.len()
    }

    /// Replicas that puts asked for and did not get.
    #[must_use]
    pub const fn replica_debt(&self) -> u64 {
        self.replica_debt
    }

    /// Whether operators want no rebalancing.
    #[must_use]
    pub const fn is_rebalance_paused(&self) -> bool {
        self.rebalance_paused
    }
}
