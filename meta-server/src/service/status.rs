//! Why a request is refused, and how that is said to its sender: a google.rpc.Status with an ErrorInfo of the domain
//! "xdpfs" (`docs/protocol.md §10`).
//!
//! Invariant: every status that leaves this server on purpose is made here.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use xdpfs_proto::state::v1 as pb;

use crate::{credential::KeyId, placement::NotEnoughNodes, state_machine::Reason};

/// Whose reasons they are.
pub(crate) const DOMAIN: &str = "xdpfs";
/// How long to stay away from a server that has too much to do.
const OVERLOADED_RETRY: Duration = Duration::from_millis(100);
/// How long to wait for data nodes.
const NODES_RETRY: Duration = Duration::from_millis(500);

/// A request that is not served, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    reason: Reason,
    message: Cow<'static, str>,
    /// The field of the request that is wrong.
    field: Option<&'static str>,
    /// More for programs, in the ErrorInfo.
    metadata: Vec<(&'static str, String)>,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, message: message.into(), field: None, metadata: Vec::new() }
    }

    /// The field makes no sense.
    pub(crate) fn invalid(field: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field), ..Self::new(Reason::InvalidArgument, message) }
    }

    /// The name is not allowed.
    pub(crate) fn invalid_name(field: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field), ..Self::new(Reason::InvalidName, message) }
    }

    /// Ask `leader` instead.
    pub(crate) fn not_leader(leader: &str) -> Self {
        let metadata = vec![("leaderEndpoint", leader.to_owned())];
        Self { metadata, ..Self::new(Reason::NotLeader, "another server leads the cluster") }
    }

    /// The same as the fault of the operation at this place of a batch, counted from 0.
    pub(crate) fn at(mut self, place: usize) -> Self {
        self.metadata.push(("operation", (place + 1).to_string()));
        self
    }

    /// The same, by itself.
    pub(crate) fn outside_batch(mut self) -> Self {
        self.metadata.retain(|(name, _)| *name != "operation");
        self
    }

    /// An access key lacks `right` on `buckets`.
    pub(crate) fn denied(key: &KeyId, right: &'static str, buckets: &str) -> Self {
        let message = format!("access key {key} lacks the right {right} on {buckets}");
        let metadata = vec![("right", right.to_owned()), ("buckets", buckets.to_owned())];
        Self { metadata, ..Self::new(Reason::AccessDenied, message) }
    }

    pub(crate) const fn reason(&self) -> Reason {
        self.reason
    }

    fn retry_after(&self) -> Option<Duration> {
        match self.reason {
            Reason::Overloaded => Some(OVERLOADED_RETRY),
            Reason::NotEnoughNodes => Some(NODES_RETRY),
            _ => None,
        }
    }
}

impl From<pb::Rejected> for Refusal {
    fn from(rejected: pb::Rejected) -> Self {
        // A later release may have rejected it, for a reason that this one does not know.
        let reason = Reason::parse(&rejected.reason).unwrap_or(Reason::Internal);
        let of_batch = |operation: u32| ("operation", operation.to_string());
        let metadata = Some(rejected.operation).filter(|operation| *operation > 0).map(of_batch);
        Self { metadata: metadata.into_iter().collect(), ..Self::new(reason, rejected.message) }
    }
}

impl From<NotEnoughNodes> for Refusal {
    fn from(error: NotEnoughNodes) -> Self {
        Self::new(Reason::NotEnoughNodes, error.to_string())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let metadata = refusal.metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let metadata: HashMap<_, _> = metadata.collect();
        let mut details = ErrorDetails::with_error_info(refusal.reason.as_str(), DOMAIN, metadata);
        if let Some(field) = refusal.field {
            details.add_bad_request_violation(field, refusal.message.as_ref());
        }
        if let Some(delay) = refusal.retry_after() {
            details.set_retry_info(Some(delay));
        }
        Self::with_error_details(code(refusal.reason), refusal.message, details)
    }
}

const fn code(reason: Reason) -> Code {
    match reason {
        Reason::AccessDenied => Code::PermissionDenied,
        Reason::AccessKeyInvalid | Reason::AccessKeyMissing => Code::Unauthenticated,
        Reason::BucketExists => Code::AlreadyExists,
        Reason::CertificateRequired => Code::Unauthenticated,
        Reason::AccessKeyNotFound
        | Reason::BucketNotFound
        | Reason::MemberNotFound
        | Reason::ObjectNotFound
        | Reason::UploadNotFound => Code::NotFound,
        Reason::BucketNotEmpty
        | Reason::CopyUnsupported
        | Reason::FeatureLevelTooLow
        | Reason::LastAdminKey
        | Reason::LastVoter
        | Reason::MembershipBusy
        | Reason::MemberRemoved
        | Reason::QuorumAtRisk
        | Reason::NodeInUse
        | Reason::NodeRemoved
        | Reason::NodeUnknown
        | Reason::PreconditionFailed
        | Reason::QuotaExceeded
        | Reason::ScrubUnsupported
        | Reason::WrongCluster
        | Reason::WrongListener => Code::FailedPrecondition,
        Reason::DeadlineExceeded => Code::DeadlineExceeded,
        Reason::Internal => Code::Internal,
        Reason::InvalidArgument | Reason::InvalidName | Reason::ObjectTooLarge => Code::InvalidArgument,
        Reason::NoLeader | Reason::NotEnoughNodes | Reason::NotLeader | Reason::OutcomeUnknown => {
            Code::Unavailable
        }
        Reason::Overloaded => Code::ResourceExhausted,
        Reason::ListingExpired | Reason::SecretLost | Reason::SourceChanged | Reason::StaleReceipts => {
            Code::Aborted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_travels_with_its_code() {
        for reason in Reason::ALL {
            let status = Status::from(Refusal::new(*reason, "words"));
            let info = status.get_details_error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.as_str(), DOMAIN));
            assert_eq!(status.code(), code(*reason));
            assert_eq!(status.message(), "words");
        }
    }

    #[test]
    fn details_say_what_helps() {
        let status = Status::from(Refusal::not_leader("meta-2:7001"));
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata.get("leaderEndpoint").unwrap(), "meta-2:7001");

        let status = Status::from(Refusal::new(Reason::Overloaded, "too much"));
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(OVERLOADED_RETRY));

        let status = Status::from(Refusal::invalid_name("name", "no bucket's name"));
        assert_eq!(status.code(), Code::InvalidArgument);
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!((violations[0].field.as_str(), violations.len()), ("name", 1));
    }

    #[test]
    fn rejection_for_an_unknown_reason_is_an_internal_error() {
        let rejected =
            |reason: &str| pb::Rejected { reason: reason.into(), message: String::new(), operation: 0 };
        assert_eq!(Refusal::from(rejected("BUCKET_EXISTS")).reason(), Reason::BucketExists);
        assert_eq!(Refusal::from(rejected("FROM_THE_FUTURE")).reason(), Reason::Internal);
    }

    #[test]
    fn refusal_of_a_batch_says_which_operation() {
        let operation = |refusal: Refusal| {
            Status::from(refusal).get_details_error_info().unwrap().metadata.remove("operation")
        };
        let rejected = pb::Rejected { reason: "OBJECT_NOT_FOUND".into(), operation: 3, ..Default::default() };
        assert_eq!(operation(rejected.clone().into()).as_deref(), Some("3"));
        assert_eq!(operation(Refusal::from(rejected.clone()).outside_batch()), None);
        assert_eq!(operation(pb::Rejected { operation: 0, ..rejected }.into()), None);
        assert_eq!(operation(Refusal::invalid("key", "x").at(0)).as_deref(), Some("1"));
    }
}
