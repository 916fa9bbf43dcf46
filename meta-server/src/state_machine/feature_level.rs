//! What the cluster uses of what its servers can do, and what each command needs.
//!
//! Invariant: a command is written into the log only where the cluster's level is what the command needs, and the level
//! rises only when all servers support it. So a server that supports the cluster's level knows every command that it meets.

use std::fmt;

use xdpfs_proto::state::v1::{self as pb, command, outcome};

use super::State;

/// What a program can do, or a cluster uses, as a number that rises with the releases.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FeatureLevel(pub u32);

impl FeatureLevel {
    /// Of the release before levels. Its programs announce none.
    pub const FIRST: Self = Self(0);
    /// Batches and copies, quotas, versions, labels of nodes, and metadata servers that come and go.
    pub const MEMBERS_AND_BATCHES: Self = Self(1);
    /// Replicas that change their nodes, registrations that the cluster ends, data nodes that go, pauses of rebalancing, and more answers
    /// that are kept.
    pub const REPAIR: Self = Self(2);
    /// The highest one that this program supports.
    pub const SUPPORTED: Self = Self::REPAIR;
}

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "feature level {}", self.0)
    }
}

/// What a command needs, and what it is called where it is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Need {
    /// Below this level it is not for the log.
    pub level: FeatureLevel,
    /// What was asked for, in the words that clients see.
    pub what: &'static str,
}

/// An entry of the log that this program can't apply as other servers do.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unsupported {
    /// It is of a kind that this release does not know.
    #[error("it is of a kind that this release does not know")]
    Kind,
    /// It makes the cluster use what this release can't do.
    #[error("it raises the cluster to {0}")]
    Level(FeatureLevel),
}

/// The table of what needs which level. Every kind is named, so that a new one can't be forgotten; nor must a new field be
/// that changes what a command does.
#[must_use]
pub fn need(kind: &command::Kind) -> Need {
    use command::Kind;
    let since = |level, what| Need { level, what };
    let members = since(FeatureLevel::MEMBERS_AND_BATCHES, "a change of the metadata servers");
    match kind {
        Kind::CreateBucket(create) if create.quota_bytes > 0 || create.quota_objects > 0 => {
            since(FeatureLevel::MEMBERS_AND_BATCHES, "a quota")
        }
        Kind::CreateBucket(create) if create.versioning != 0 => {
            since(FeatureLevel::MEMBERS_AND_BATCHES, "versioning")
        }
        Kind::DeleteObject(delete) if delete.version > 0 => {
            since(FeatureLevel::MEMBERS_AND_BATCHES, "a version")
        }
        Kind::BeginPut(pb::BeginPut { source_bucket, .. })
        | Kind::CommitPut(pb::CommitPut { source_bucket, .. })
            if !source_bucket.is_empty() =>
        {
            since(FeatureLevel::MEMBERS_AND_BATCHES, "a copy to another bucket")
        }
        Kind::BeginPut(begin) if begin.for_batch => since(FeatureLevel::MEMBERS_AND_BATCHES, "a batch"),
        Kind::Batch(batch) if is_copy(batch) => since(FeatureLevel::MEMBERS_AND_BATCHES, "a copy"),
        Kind::Batch(_) => since(FeatureLevel::MEMBERS_AND_BATCHES, "a batch"),
        Kind::LabelNode(_) => since(FeatureLevel::MEMBERS_AND_BATCHES, "a label of a data node"),
        // The leader leaves labels out where the level is lower.
        Kind::RegisterNode(register) if !register.labels.is_empty() => {
            since(FeatureLevel::MEMBERS_AND_BATCHES, "a data node with labels")
        }
        Kind::UpdateBucket(_) => since(FeatureLevel::MEMBERS_AND_BATCHES, "a change of a bucket"),
        Kind::SeedMembers(_)
        | Kind::ReserveMember(_)
        | Kind::AddMember(_)
        | Kind::PromoteMember(_)
        | Kind::RemoveMember(_)
        | Kind::ReplaceMember(_)
        | Kind::UpdateMember(_) => members,
        Kind::ReplaceReplicas(_) | Kind::CollectReplicas(_) => since(FeatureLevel::REPAIR, "repair"),
        Kind::FenceNode(_) => since(FeatureLevel::REPAIR, "the end of a registration"),
        Kind::DrainNode(_) => since(FeatureLevel::REPAIR, "draining a data node"),
        Kind::RemoveNode(_) => since(FeatureLevel::REPAIR, "removing a data node"),
        Kind::PauseRebalance(_) => since(FeatureLevel::REPAIR, "a pause of rebalancing"),
        // Whether it is time for that is decided by what servers support, not by what they use.
        Kind::RaiseFeatureLevel(_)
        | Kind::AbortPut(_)
        | Kind::AddKeyEpoch(_)
        | Kind::BeginPut(_)
        | Kind::CloseAccess(_)
        | Kind::CommitPut(_)
        | Kind::CreateAccessKey(_)
        | Kind::CreateBucket(_)
        | Kind::DeleteBucket(_)
        | Kind::DeleteObject(_)
        | Kind::ExpireUploads(_)
        | Kind::ExtendPut(_)
        | Kind::ForgetChunks(_)
        | Kind::InitCluster(_)
        | Kind::RegisterNode(_)
        | Kind::RevokeAccessKey(_)
        | Kind::RotateKeyEpoch(_) => since(FeatureLevel::FIRST, "a command"),
    }
}

fn is_copy(batch: &pb::Batch) -> bool {
    let mut kinds = batch.operations.iter().map(|operation| &operation.kind);
    kinds.any(|kind| matches!(kind, Some(pb::batch_operation::Kind::Copy(_))))
}

/// Whether a program that supports `supported` applies the command as all others do.
///
/// # Errors
///
/// It must stop instead: it would go other ways than servers of a later release.
pub fn check_supported(command: &pb::Command, supported: FeatureLevel) -> Result<(), Unsupported> {
    let level = match &command.kind {
        None => return Err(Unsupported::Kind),
        Some(command::Kind::RaiseFeatureLevel(raise)) => raise.feature_level,
        Some(command::Kind::InitCluster(init)) => init.feature_level,
        Some(_) => return Ok(()),
    };
    let level = FeatureLevel(level);
    if level > supported { Err(Unsupported::Level(level)) } else { Ok(()) }
}

impl State {
    /// As of a cluster that begins with this release.
    #[cfg(test)]
    pub(crate) fn of_present_level() -> Self {
        Self { feature_level: FeatureLevel::SUPPORTED, ..Self::default() }
    }

    /// What the cluster uses of what its servers can do.
    #[must_use]
    pub const fn feature_level(&self) -> FeatureLevel {
        self.feature_level
    }

    pub(super) fn raise_feature_level(&mut self, raise: &pb::RaiseFeatureLevel) -> outcome::Kind {
        self.feature_level = self.feature_level.max(FeatureLevel(raise.feature_level));
        outcome::Kind::Done(pb::Done {})
    }
}

#[cfg(test)]
mod tests {
    use command::Kind;

    use super::*;

    #[test]
    fn what_the_first_release_did_needs_no_level() {
        let check = |kind: Kind, level: FeatureLevel| assert_eq!(need(&kind).level, level, "{kind:?}");
        check(Kind::CommitPut(pb::CommitPut::default()), FeatureLevel::FIRST);
        check(Kind::CreateBucket(pb::CreateBucket::default()), FeatureLevel::FIRST);
        check(Kind::BeginPut(pb::BeginPut::default()), FeatureLevel::FIRST);
        check(Kind::RegisterNode(pb::RegisterNode::default()), FeatureLevel::FIRST);
    }

    #[test]
    fn field_that_changes_what_a_command_does_needs_the_level_that_brought_it() {
        let check = |kind: Kind| assert_eq!(need(&kind).level, FeatureLevel(1), "{kind:?}");
        check(Kind::CreateBucket(pb::CreateBucket { quota_bytes: 1, ..Default::default() }));
        check(Kind::CreateBucket(pb::CreateBucket { quota_objects: 1, ..Default::default() }));
        check(Kind::BeginPut(pb::BeginPut { for_batch: true, ..Default::default() }));
        let labels = [("zone".to_owned(), "a".to_owned())].into();
        check(Kind::RegisterNode(pb::RegisterNode { labels, ..Default::default() }));
    }

    #[test]
    fn copy_is_called_a_copy() {
        let copy =
            pb::BatchOperation { kind: Some(pb::batch_operation::Kind::Copy(pb::BatchCopy::default())) };
        let batch = |operations| need(&Kind::Batch(pb::Batch { operations, ..Default::default() }));
        assert_eq!((batch(vec![copy]).what, batch(vec![]).what), ("a copy", "a batch"));
    }

    #[test]
    fn level_never_falls_and_is_in_snapshots() {
        let mut state = State::default();
        for (index, (to, expect)) in [(1, 1), (0, 1)].into_iter().enumerate() {
            let kind = Some(Kind::RaiseFeatureLevel(pb::RaiseFeatureLevel { feature_level: to }));
            state.apply(index as u64 + 1, &pb::Command { kind, ..Default::default() });
            assert_eq!(state.feature_level(), FeatureLevel(expect));
        }
        let decoded = State::decode(&state.encode(usize::MAX).concat()[..]).unwrap();
        assert_eq!(decoded.feature_level(), FeatureLevel(1));
    }

    #[test]
    fn command_of_a_later_release_is_not_for_this_one() {
        let check = |kind, expect| {
            let command = pb::Command { kind, ..Default::default() };
            assert_eq!(check_supported(&command, FeatureLevel(1)), expect);
        };
        let raise = |feature_level| Some(Kind::RaiseFeatureLevel(pb::RaiseFeatureLevel { feature_level }));
        check(None, Err(Unsupported::Kind));
        check(raise(1), Ok(()));
        check(raise(2), Err(Unsupported::Level(FeatureLevel(2))));
        let init = pb::InitCluster { feature_level: 2, ..Default::default() };
        check(Some(Kind::InitCluster(init)), Err(Unsupported::Level(FeatureLevel(2))));
    }
}
