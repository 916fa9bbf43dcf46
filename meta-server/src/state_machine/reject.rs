//! Why a command changed nothing, in the words that clients see.

use xdpfs_proto::state::v1::{self as pb, outcome};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The reasons of `docs/protocol.md §10` that a request is refused for.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word for it in an ErrorInfo.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// The access key lacks a right.
    AccessDenied = "ACCESS_DENIED",
    /// There is no such access key, or its secret is another one.
    AccessKeyInvalid = "ACCESS_KEY_INVALID",
    /// Nobody is served without an access key.
    AccessKeyMissing = "ACCESS_KEY_MISSING",
    /// No access key of this id.
    AccessKeyNotFound = "ACCESS_KEY_NOT_FOUND",
    /// A bucket of this name is there.
    BucketExists = "BUCKET_EXISTS",
    /// The bucket holds objects.
    BucketNotEmpty = "BUCKET_NOT_EMPTY",
    /// No bucket of this name.
    BucketNotFound = "BUCKET_NOT_FOUND",
    /// The caller has shown no certificate of a member of the cluster.
    CertificateRequired = "CERTIFICATE_REQUIRED",
    /// Data nodes can't fetch chunks from each other.
    CopyUnsupported = "COPY_UNSUPPORTED",
    /// The caller's deadline has passed.
    DeadlineExceeded = "DEADLINE_EXCEEDED",
    /// Some metadata servers are of a release that can't do it.
    FeatureLevelTooLow = "FEATURE_LEVEL_TOO_LOW",
    /// The server failed.
    Internal = "INTERNAL",
    /// The request makes no sense.
    InvalidArgument = "INVALID_ARGUMENT",
    /// The bucket's name or the key is not allowed.
    InvalidName = "INVALID_NAME",
    /// No other access key can make keys.
    LastAdminKey = "LAST_ADMIN_KEY",
    /// The last server that votes can't go.
    LastVoter = "LAST_VOTER",
    /// Another change of the members is under way.
    MembershipBusy = "MEMBERSHIP_BUSY",
    /// No metadata server of this id.
    MemberNotFound = "MEMBER_NOT_FOUND",
    /// The metadata server was removed from the cluster.
    MemberRemoved = "MEMBER_REMOVED",
    /// The picture that the listing began with is forgotten.
    ListingExpired = "LISTING_EXPIRED",
    /// The cluster has no leader now.
    NoLeader = "NO_LEADER",
    /// Chunks lie on the node that nobody else has, or that it should be drained of first.
    NodeInUse = "NODE_IN_USE",
    /// The node was removed from the cluster.
    NodeRemoved = "NODE_REMOVED",
    /// The node is not registered.
    NodeUnknown = "NODE_UNKNOWN",
    /// Too few data nodes are alive.
    NotEnoughNodes = "NOT_ENOUGH_NODES",
    /// Another server leads.
    NotLeader = "NOT_LEADER",
    /// No object of this name.
    ObjectNotFound = "OBJECT_NOT_FOUND",
    /// The object has too many chunks.
    ObjectTooLarge = "OBJECT_TOO_LARGE",
    /// It may have happened: repeat with the same request id.
    OutcomeUnknown = "OUTCOME_UNKNOWN",
    /// Too much to do: come back later.
    Overloaded = "OVERLOADED",
    /// Too few of the servers that would be left are heard of.
    QuorumAtRisk = "QUORUM_AT_RISK",
    /// The key does not hold what the request asks for.
    PreconditionFailed = "PRECONDITION_FAILED",
    /// The bucket may not hold as much.
    QuotaExceeded = "QUOTA_EXCEEDED",
    /// The data node has no scrub.
    ScrubUnsupported = "SCRUB_UNSUPPORTED",
    /// An access key was made whose secret can't be shown any more.
    SecretLost = "SECRET_LOST",
    /// What was being copied is gone.
    SourceChanged = "SOURCE_CHANGED",
    /// Too few receipts are still worth something.
    StaleReceipts = "STALE_RECEIPTS",
    /// No open upload of this number.
    UploadNotFound = "UPLOAD_NOT_FOUND",
    /// The caller belongs to another cluster.
    WrongCluster = "WRONG_CLUSTER",
    /// Another listener of the server takes this.
    WrongListener = "WRONG_LISTENER",
}

impl Reason {
    /// The reason with this word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text)
    }

    /// Whether repeating the very same request can end in another way, so that the answer is not kept.
    pub(crate) const fn may_differ_when_repeated(self) -> bool {
        matches!(
            self,
            Self::AccessDenied
                | Self::AccessKeyInvalid
                | Self::AccessKeyMissing
                | Self::MembershipBusy
                | Self::Overloaded
                | Self::StaleReceipts
        )
    }
}

/// A refusal on its way to an outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Reject {
    pub(super) reason: Reason,
    message: &'static str,
    /// Of a batch: which operation it was, counted from 1.
    operation: u32,
}

impl Reject {
    pub(super) const fn new(reason: Reason, message: &'static str) -> Self {
        Self { reason, message, operation: 0 }
    }

    /// The same as the fault of the operation at this place of a batch, counted from 0.
    pub(super) const fn at(self, place: usize) -> Self {
        Self { operation: place as u32 + 1, ..self }
    }

    pub(super) fn into_outcome(self) -> outcome::Kind {
        outcome::Kind::Rejected(pb::Rejected {
            reason: self.reason.as_str().into(),
            message: self.message.into(),
            operation: self.operation,
        })
    }
}

pub(super) const NODE_UNKNOWN: Reject =
    Reject::new(Reason::NodeUnknown, "no data node of this number has registered");
pub(super) const NODE_REMOVED: Reject = Reject::new(
    Reason::NodeRemoved,
    "the data node was removed from the cluster: to use it again, start it with an empty data directory",
);
pub(super) const NODE_REGISTERED: Reject = Reject::new(
    Reason::NodeInUse,
    "the data node has registered again meanwhile: stop it, and then remove it",
);
pub(super) const BUCKET_NOT_FOUND: Reject = Reject::new(Reason::BucketNotFound, "no bucket of this name");
pub(super) const OBJECT_NOT_FOUND: Reject = Reject::new(Reason::ObjectNotFound, "no object of this name");
pub(super) const VERSION_NOT_FOUND: Reject =
    Reject::new(Reason::ObjectNotFound, "the key has no such version, or it is a delete marker");
pub(super) const UPLOAD_NOT_FOUND: Reject = Reject::new(
    Reason::UploadNotFound,
    "no open upload of this number: it was committed, aborted or has expired",
);
pub(super) const PRECONDITION_FAILED: Reject =
    Reject::new(Reason::PreconditionFailed, "the key does not hold what the precondition asks for");
pub(super) const TOO_MANY_ANSWERS: Reject =
    Reject::new(Reason::Overloaded, "more requests were answered of late than the cluster can remember");
