//! The requests of the control plane, by name.

/// A request to the metadata service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operation {
    AbortPut,
    BeginPut,
    CommitPut,
    CreateBucket,
    DeleteBucket,
    DeleteObject,
    ExtendPut,
    GetBucket,
    GetClusterStatus,
    GetObject,
    HeadObject,
    ListBuckets,
    ListObjects,
}

impl Operation {
    /// The method's name.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::AbortPut => "AbortPut",
            Self::BeginPut => "BeginPut",
            Self::CommitPut => "CommitPut",
            Self::CreateBucket => "CreateBucket",
            Self::DeleteBucket => "DeleteBucket",
            Self::DeleteObject => "DeleteObject",
            Self::ExtendPut => "ExtendPut",
            Self::GetBucket => "GetBucket",
            Self::GetClusterStatus => "GetClusterStatus",
            Self::GetObject => "GetObject",
            Self::HeadObject => "HeadObject",
            Self::ListBuckets => "ListBuckets",
            Self::ListObjects => "ListObjects",
        }
    }

    /// Whether others can see that the request took effect, so that its user must hear of any doubt.
    pub(crate) const fn is_visible(self) -> bool {
        matches!(self, Self::CommitPut | Self::CreateBucket | Self::DeleteBucket | Self::DeleteObject)
    }
}
