//! The requests of the control plane, by name.

/// A request to the metadata service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operation {
    AbortPut,
    BeginCopy,
    BeginPut,
    CommitBatch,
    CommitPut,
    ContinueCopy,
    CopyObject,
    CreateAccessKey,
    CreateBackup,
    CreateBucket,
    DeleteBucket,
    DeleteObject,
    DrainNode,
    ExplainPlacement,
    ExtendPut,
    GetBucket,
    GetClusterStatus,
    GetObject,
    GetRebalanceStatus,
    GetRepairStatus,
    HeadObject,
    LabelNode,
    ListAccessKeys,
    ListBuckets,
    ListMembers,
    ListObjectVersions,
    ListObjects,
    PauseRebalance,
    PlanDrain,
    PlanRebalance,
    PromoteMember,
    RemoveMember,
    RemoveNode,
    ReplaceMember,
    ReportReplicas,
    RevokeAccessKey,
    RotateKeyEpoch,
    ScrubNode,
    TakeInventory,
    TransferLeadership,
    UpdateBucket,
    UpdateMember,
}

impl Operation {
    /// The method's name.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::AbortPut => "AbortPut",
            Self::BeginCopy => "BeginCopy",
            Self::BeginPut => "BeginPut",
            Self::CommitBatch => "CommitBatch",
            Self::CommitPut => "CommitPut",
            Self::ContinueCopy => "ContinueCopy",
            Self::CopyObject => "CopyObject",
            Self::CreateAccessKey => "CreateAccessKey",
            Self::CreateBackup => "CreateBackup",
            Self::CreateBucket => "CreateBucket",
            Self::DeleteBucket => "DeleteBucket",
            Self::DeleteObject => "DeleteObject",
            Self::DrainNode => "DrainNode",
            Self::ExplainPlacement => "ExplainPlacement",
            Self::ExtendPut => "ExtendPut",
            Self::GetBucket => "GetBucket",
            Self::GetClusterStatus => "GetClusterStatus",
            Self::GetObject => "GetObject",
            Self::GetRebalanceStatus => "GetRebalanceStatus",
            Self::GetRepairStatus => "GetRepairStatus",
            Self::HeadObject => "HeadObject",
            Self::LabelNode => "LabelNode",
            Self::ListAccessKeys => "ListAccessKeys",
            Self::ListBuckets => "ListBuckets",
            Self::ListMembers => "ListMembers",
            Self::ListObjectVersions => "ListObjectVersions",
            Self::ListObjects => "ListObjects",
            Self::PauseRebalance => "PauseRebalance",
            Self::PlanDrain => "PlanDrain",
            Self::PlanRebalance => "PlanRebalance",
            Self::PromoteMember => "PromoteMember",
            Self::RemoveMember => "RemoveMember",
            Self::RemoveNode => "RemoveNode",
            Self::ReplaceMember => "ReplaceMember",
            Self::ReportReplicas => "ReportReplicas",
            Self::RevokeAccessKey => "RevokeAccessKey",
            Self::RotateKeyEpoch => "RotateKeyEpoch",
            Self::ScrubNode => "ScrubNode",
            Self::TakeInventory => "TakeInventory",
            Self::TransferLeadership => "TransferLeadership",
            Self::UpdateBucket => "UpdateBucket",
            Self::UpdateMember => "UpdateMember",
        }
    }

    /// Whether others can see that the request took effect, so that its user must hear of any doubt.
    pub(crate) const fn is_visible(self) -> bool {
        matches!(
            self,
            Self::CommitBatch
                | Self::CommitPut
                | Self::ContinueCopy
                | Self::CopyObject
                | Self::CreateAccessKey
                | Self::CreateBucket
                | Self::DeleteBucket
                | Self::DeleteObject
                | Self::DrainNode
                | Self::LabelNode
                | Self::PauseRebalance
                | Self::PromoteMember
                | Self::RemoveMember
                | Self::RemoveNode
                | Self::ReplaceMember
                | Self::RevokeAccessKey
                | Self::RotateKeyEpoch
                | Self::UpdateBucket
                | Self::UpdateMember
        )
    }
}
