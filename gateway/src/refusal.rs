//! A call that is not served, and how that is said to its caller: a google.rpc.Status with an ErrorInfo of the domain
//! "xdpfs" (`docs/protocol.md §10`).
//!
//! Invariant: every status that leaves this process on purpose is made here.

use std::{borrow::Cow, collections::HashMap, error::Error as _, io};

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};
use xdpfs_client::Error;

use crate::reason::Reason;

/// Whose reasons they are.
const DOMAIN: &str = "xdpfs";

/// A call that is not served, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
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

    /// The same as the fault of this operation of a batch, counted from 1.
    pub(crate) fn of_operation(mut self, operation: usize) -> Self {
        self.metadata.push(("operation", operation.to_string()));
        self
    }

    pub(crate) const fn reason(&self) -> Reason {
        self.reason
    }

    /// Nothing was shown that could have been wrong.
    pub(crate) fn of_nobody(self) -> Self {
        let reason =
            if self.reason == Reason::AccessKeyInvalid { Reason::AccessKeyMissing } else { self.reason };
        Self { reason, ..self }
    }

    /// As an error of a reader, from which it is found again.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// What the native client says.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let metadata = match &error {
            Error::RangeNotSatisfiable { size, .. } => vec![("size", size.to_string())],
            _ => Vec::new(),
        };
        match error {
            Error::BatchRefused { operation, source, .. } => Self::from(*source).of_operation(operation),
            Error::Input(input) => Self::of_input(&input),
            error => {
                let message = words(&error);
                Self { metadata, ..Self::new(reason(&error), message) }
            }
        }
    }
}

impl Refusal {
    /// The reader of a put is one of this crate's, which has failed with a refusal.
    fn of_input(input: &io::Error) -> Self {
        let refusal = input.get_ref().and_then(|inner| inner.downcast_ref::<Self>());
        refusal.cloned().unwrap_or_else(|| Self::new(Reason::Internal, "the bytes of the put can't be read"))
    }
}

fn reason(error: &Error) -> Reason {
    match error {
        Error::BatchRefused { source, .. } => reason(source),
        Error::BucketExists { .. } => Reason::BucketExists,
        Error::BucketNotFound { .. } => Reason::BucketNotFound,
        Error::BucketNotEmpty { .. } => Reason::BucketNotEmpty,
        Error::InvalidArgument { .. } => Reason::InvalidArgument,
        Error::ObjectNotFound { .. } => Reason::ObjectNotFound,
        Error::PreconditionFailed { .. } => Reason::PreconditionFailed,
        Error::QuotaExceeded { .. } => Reason::QuotaExceeded,
        Error::RangeNotSatisfiable { .. } => Reason::RangeNotSatisfiable,
        Error::ChangedWhileReading => Reason::ChangedWhileReading,
        Error::DataUnavailable { .. } => Reason::DataUnavailable,
        Error::ListingExpired { .. } => Reason::ListingExpired,
        Error::NoSpace => Reason::NoSpace,
        Error::NotDurable { .. } => Reason::NotDurable,
        Error::NotEnoughNodes { .. } => Reason::NotEnoughNodes,
        Error::OutcomeUnknown { .. } => Reason::OutcomeUnknown,
        // Between the gateway and the cluster something is set up wrongly, which its caller can only wait for.
        Error::Mismatch { .. } | Error::Unavailable { .. } => Reason::ClusterUnavailable,
        Error::UploadExpired => Reason::UploadExpired,
        Error::Unauthenticated { .. } => Reason::AccessKeyInvalid,
        Error::PermissionDenied { .. } => Reason::AccessDenied,
        Error::Integrity { .. } => Reason::Integrity,
        Error::Unsupported { .. } => Reason::FeatureLevelTooLow,
        Error::Refused { reason, .. } => {
            let known = Reason::ALL.iter().find(|known| known.label() == reason);
            known.copied().unwrap_or(Reason::Internal)
        }
        Error::AccessKeyNotFound { .. }
        | Error::BadReply { .. }
        | Error::Input(_)
        | Error::KeyInPlainText { .. }
        | Error::LastAdminKey
        | Error::NodeNotFound
        | Error::SecretLost { .. }
        | Error::Socket(_) => Reason::Internal,
    }
}

/// The error with its causes.
fn words(error: &Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let Refusal { reason, message, field, metadata } = refusal;
        let metadata: HashMap<_, _> =
            metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut details = ErrorDetails::with_error_info(reason.label(), DOMAIN, metadata);
        if let Some(field) = field {
            details.add_bad_request_violation(field, message.as_ref());
        }
        if let Some(delay) = reason.retry_after() {
            details.set_retry_info(Some(delay));
        }
        Self::with_error_details(reason.code(), message, details)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn refusal_travels_with_reason_domain_and_what_helps() {
        for reason in Reason::ALL {
            let status = Status::from(Refusal::new(*reason, "words"));
            let info = status.get_details_error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.label(), "xdpfs"));
            assert_eq!((status.code(), status.message()), (reason.code(), "words"));
            let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!(retry, reason.retry_after(), "{reason:?}");
        }
        let status = Status::from(Refusal::invalid("key", "no key"));
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "key");
    }

    #[test]
    fn fault_of_one_operation_is_told_with_its_number_and_its_own_reason() {
        let source = Box::new(Error::ObjectNotFound { bucket: "b".into(), key: "k".into() });
        let error = Error::BatchRefused { operation: 3, key: "k".into(), source };
        let status = Status::from(Refusal::from(error));
        let info = status.get_details_error_info().unwrap();
        assert_eq!((status.code(), info.reason.as_str()), (Code::NotFound, "OBJECT_NOT_FOUND"));
        assert_eq!(info.metadata.get("operation").unwrap(), "3");
    }

    #[test]
    fn what_a_reader_of_bytes_refused_is_found_behind_the_clients_error() {
        let refusal = Refusal::new(Reason::ChecksumMismatch, "other bytes");
        assert_eq!(Refusal::from(Error::Input(refusal.clone().into_io())), refusal);
        let other = Refusal::from(Error::Input(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(other.reason(), Reason::Internal);
    }

    #[test]
    fn reason_that_only_the_cluster_knows_is_an_internal_error() {
        let refused = |reason: &str| {
            let (reason, message) = (reason.to_owned(), "words".to_owned());
            Refusal::from(Error::Refused { operation: "GetObject", reason, message }).reason()
        };
        assert_eq!(refused("FEATURE_LEVEL_TOO_LOW"), Reason::FeatureLevelTooLow);
        assert_eq!(refused("FROM_THE_FUTURE"), Reason::Internal);
    }
}
