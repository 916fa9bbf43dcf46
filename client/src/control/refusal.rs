//! What a failed attempt means: a `google.rpc.Status` and its `ErrorInfo` (`docs/protocol.md §10`).

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use xdpfs_trust::{DialError, Mismatch};

use super::operation::Operation;
use crate::{config::parse_endpoint, error::Error};

const DOMAIN: &str = "xdpfs";
/// Servers that ask for more are asked again sooner all the same.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);

/// What to do after a failed attempt.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Ask another server.
    Elsewhere,
    /// Asking again gives the same.
    Final(Refusal),
    /// The same server, later.
    Later,
    /// Ask this leader.
    Leader(String),
    /// The server cannot be spoken to; nothing was sent to it.
    Mismatch(Mismatch),
    /// The server cannot be reached, or has not answered.
    NoAnswer,
}

/// Why a request will not be served.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The cluster said no.
    Answer {
        /// Why, for programs.
        reason: Reason,
        /// Why, for people.
        message: String,
        /// Of a batch: which operation it was, counted from 1.
        operation: Option<usize>,
    },
    /// Nobody served it in time.
    Gone(Error),
}

/// Reasons that an operation gives a meaning to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reason {
    AccessKeyNotFound,
    BucketExists,
    BucketNotEmpty,
    BucketNotFound,
    InvalidArgument,
    LastAdminKey,
    ListingExpired,
    NodeUnknown,
    ObjectNotFound,
    Other(String),
    PermissionDenied,
    PreconditionFailed,
    QuotaExceeded,
    SecretLost,
    SourceChanged,
    StaleReceipts,
    Unauthenticated,
    Unsupported,
    UploadNotFound,
}

impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Answer { reason: a, .. }, Self::Answer { reason: b, .. }) => a == b,
            (Self::Answer { .. } | Self::Gone(_), _) => false,
        }
    }
}

impl Refusal {
    /// The error for a request about a bucket, or about a key in it.
    pub(crate) fn about(self, operation: Operation, bucket: &str, key: &str) -> Error {
        let operation = operation.label();
        let (reason, message) = match self {
            Self::Answer { reason, message, .. } => (reason, message),
            Self::Gone(error) => return error,
        };
        let bucket = bucket.to_owned();
        match reason {
            Reason::AccessKeyNotFound => Error::AccessKeyNotFound { id: key.to_owned() },
            Reason::BucketExists => Error::BucketExists { bucket },
            Reason::BucketNotEmpty => Error::BucketNotEmpty { bucket },
            Reason::BucketNotFound => Error::BucketNotFound { bucket },
            Reason::InvalidArgument => Error::InvalidArgument { message },
            Reason::LastAdminKey => Error::LastAdminKey,
            Reason::ListingExpired => Error::ListingExpired { bucket },
            Reason::NodeUnknown => Error::NodeNotFound,
            Reason::ObjectNotFound => Error::ObjectNotFound { bucket, key: key.to_owned() },
            Reason::Other(reason) => Error::Refused { operation, reason, message },
            Reason::PermissionDenied => Error::PermissionDenied { message },
            Reason::PreconditionFailed => Error::PreconditionFailed { message },
            Reason::QuotaExceeded => Error::QuotaExceeded { bucket, message },
            Reason::SecretLost => Error::SecretLost { message },
            Reason::SourceChanged => Error::ChangedWhileReading,
            Reason::StaleReceipts => Error::Refused { operation, reason: "STALE_RECEIPTS".into(), message },
            Reason::Unauthenticated => Error::Unauthenticated { message },
            Reason::Unsupported => Error::Unsupported { operation, message },
            Reason::UploadNotFound => Error::UploadExpired,
        }
    }

    /// Which operation of a batch was refused, counted from 1.
    pub(crate) const fn operation(&self) -> Option<usize> {
        match self {
            Self::Answer { operation, .. } => *operation,
            Self::Gone(_) => None,
        }
    }

    pub(crate) fn is(&self, wanted: &Reason) -> bool {
        matches!(self, Self::Answer { reason, .. } if reason == wanted)
    }
}

impl Verdict {
    pub(super) fn on(status: &Status) -> Self {
        match error_info(status) {
            Some(info) => Self::by_reason(info, status),
            None => match DialError::mismatch_in(status) {
                Some(mismatch) => Self::Mismatch(mismatch.clone()),
                None => Self::by_code(status),
            },
        }
    }

    fn by_reason(info: Info, status: &Status) -> Self {
        let Info { reason, leader, operation } = info;
        let answer = |reason| {
            let message = status.message().to_owned();
            Self::Final(Refusal::Answer { reason, message, operation })
        };
        match reason.as_str() {
            "NOT_LEADER" => leader.map_or(Self::Elsewhere, Self::Leader),
            "NO_LEADER" | "OUTCOME_UNKNOWN" => Self::Elsewhere,
            "OVERLOADED" | "NOT_ENOUGH_NODES" => Self::Later,
            "DEADLINE_EXCEEDED" => Self::Elsewhere,
            "ACCESS_DENIED" => answer(Reason::PermissionDenied),
            "ACCESS_KEY_INVALID" | "ACCESS_KEY_MISSING" => answer(Reason::Unauthenticated),
            "ACCESS_KEY_NOT_FOUND" => answer(Reason::AccessKeyNotFound),
            "BUCKET_EXISTS" => answer(Reason::BucketExists),
            "BUCKET_NOT_EMPTY" => answer(Reason::BucketNotEmpty),
            "BUCKET_NOT_FOUND" => answer(Reason::BucketNotFound),
            "COPY_UNSUPPORTED" => answer(Reason::Unsupported),
            "INVALID_ARGUMENT" | "INVALID_NAME" | "OBJECT_TOO_LARGE" => answer(Reason::InvalidArgument),
            "LAST_ADMIN_KEY" => answer(Reason::LastAdminKey),
            "LISTING_EXPIRED" => answer(Reason::ListingExpired),
            "NODE_UNKNOWN" => answer(Reason::NodeUnknown),
            "OBJECT_NOT_FOUND" => answer(Reason::ObjectNotFound),
            "NODE_IN_USE" | "NODE_REMOVED" | "PRECONDITION_FAILED" => answer(Reason::PreconditionFailed),
            "QUOTA_EXCEEDED" => answer(Reason::QuotaExceeded),
            "SCRUB_UNSUPPORTED" => answer(Reason::Unsupported),
            "SECRET_LOST" => answer(Reason::SecretLost),
            "SOURCE_CHANGED" => answer(Reason::SourceChanged),
            "STALE_RECEIPTS" => answer(Reason::StaleReceipts),
            "UPLOAD_NOT_FOUND" => answer(Reason::UploadNotFound),
            other => match status.code() {
                Code::Unavailable | Code::ResourceExhausted => Self::Later,
                Code::PermissionDenied => answer(Reason::PermissionDenied),
                Code::Unauthenticated => answer(Reason::Unauthenticated),
                Code::InvalidArgument => answer(Reason::InvalidArgument),
                _ => answer(Reason::Other(other.to_owned())),
            },
        }
    }

    /// Without a reason the status comes from tonic or the network, or from something that is no xdpfs at all.
    fn by_code(status: &Status) -> Self {
        let answer = |reason| {
            let message = status.message().to_owned();
            Self::Final(Refusal::Answer { reason, message, operation: None })
        };
        match status.code() {
            Code::ResourceExhausted => Self::Later,
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted => Self::NoAnswer,
            Code::PermissionDenied => answer(Reason::PermissionDenied),
            Code::Unauthenticated => answer(Reason::Unauthenticated),
            Code::InvalidArgument => answer(Reason::InvalidArgument),
            Code::Unimplemented => answer(Reason::Unsupported),
            code => answer(Reason::Other(format!("{code:?}"))),
        }
    }
}

/// The reason of an xdpfs server, if the status comes from one.
pub(super) fn reason(status: &Status) -> Option<String> {
    error_info(status).map(|info| info.reason)
}

/// The wait that the server asks for, within reason.
pub(super) fn retry_delay(status: &Status) -> Duration {
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    delay.unwrap_or_default().min(RETRY_DELAY_MAX)
}

/// What an xdpfs server adds to a status.
struct Info {
    reason: String,
    leader: Option<String>,
    operation: Option<usize>,
}

fn error_info(status: &Status) -> Option<Info> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    let leader = info.metadata.get("leaderEndpoint").and_then(|leader| parse_endpoint(leader).ok());
    let operation = info.metadata.get("operation").and_then(|operation| operation.parse().ok());
    Some(Info { reason: info.reason, leader, operation })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn with_info(code: Code, reason: &str, leader: Option<&str>) -> Status {
        let metadata: HashMap<_, _> =
            leader.map(|leader| ("leaderEndpoint".to_owned(), leader.to_owned())).into_iter().collect();
        Status::with_error_details(code, "words", ErrorDetails::with_error_info(reason, DOMAIN, metadata))
    }

    #[test]
    fn reasons_decide_what_happens_next() {
        let check = |code, reason, leader, expect| {
            assert_eq!(Verdict::on(&with_info(code, reason, leader)), expect, "{reason}");
        };
        let answer =
            |reason| Verdict::Final(Refusal::Answer { reason, message: String::new(), operation: None });
        check(Code::Unavailable, "NOT_LEADER", Some("http://b:1"), Verdict::Leader("b:1".into()));
        check(Code::Unavailable, "NOT_LEADER", Some("rubbish"), Verdict::Elsewhere);
        check(Code::Unavailable, "NOT_LEADER", None, Verdict::Elsewhere);
        check(Code::Unavailable, "OUTCOME_UNKNOWN", None, Verdict::Elsewhere);
        check(Code::ResourceExhausted, "OVERLOADED", None, Verdict::Later);
        check(Code::Unavailable, "NEW_REASON", None, Verdict::Later);
        check(Code::Aborted, "STALE_RECEIPTS", None, answer(Reason::StaleReceipts));
        check(Code::FailedPrecondition, "NEW_REASON", None, answer(Reason::Other("NEW_REASON".into())));
        check(Code::NotFound, "OBJECT_NOT_FOUND", None, answer(Reason::ObjectNotFound));
        check(Code::PermissionDenied, "ACCESS_DENIED", None, answer(Reason::PermissionDenied));
        check(Code::Unauthenticated, "ACCESS_KEY_MISSING", None, answer(Reason::Unauthenticated));
        check(Code::Unauthenticated, "ACCESS_KEY_INVALID", None, answer(Reason::Unauthenticated));
        check(Code::Unauthenticated, "NEW_REASON", None, answer(Reason::Unauthenticated));
    }

    #[test]
    fn a_status_without_reason_is_judged_by_its_code() {
        assert_eq!(Verdict::on(&Status::unavailable("tcp connect error")), Verdict::NoAnswer);
        assert_eq!(Verdict::on(&Status::unknown("transport error")), Verdict::NoAnswer);
        assert!(matches!(Verdict::on(&Status::unimplemented("")), Verdict::Final(_)));
        let foreign = Status::with_error_details(
            Code::Unavailable,
            "",
            ErrorDetails::with_error_info("NOT_LEADER", "another.example", HashMap::new()),
        );
        assert_eq!(Verdict::on(&foreign), Verdict::NoAnswer);
    }
}
