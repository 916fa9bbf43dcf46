//! Why a call is refused, in one stable word, with its gRPC code (`docs/protocol.md §10`).
//!
//! Most are the metadata service's, which this process passes on; the rest can only arise where bytes move.

use std::time::Duration;

use tonic::Code;

/// How long to stay away from a gateway that has too much to do.
const BUSY_RETRY: Duration = Duration::from_millis(100);
/// How long to wait for a cluster that can't do it now.
const CLUSTER_RETRY: Duration = Duration::from_millis(500);

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $code:ident $(, $retry:ident)?;)*) => {
        /// Why a call is refused.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(crate) enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All reasons.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word for it in an ErrorInfo.
            pub(crate) const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The code that it comes with.
            pub(crate) const fn code(self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)*
                }
            }

            /// When the same call may fare better.
            pub(crate) const fn retry_after(self) -> Option<Duration> {
                match self {
                    $(Self::$name => reasons!(@retry $($retry)?),)*
                }
            }
        }
    };
    (@retry) => { None };
    (@retry $retry:ident) => { Some($retry) };
}

reasons! {
    /// The access key lacks a right.
    AccessDenied = "ACCESS_DENIED", PermissionDenied;
    /// What was shown is no good access key.
    AccessKeyInvalid = "ACCESS_KEY_INVALID", Unauthenticated;
    /// Nothing was shown, and the cluster serves nobody so.
    AccessKeyMissing = "ACCESS_KEY_MISSING", Unauthenticated;
    /// A bucket of this name is there.
    BucketExists = "BUCKET_EXISTS", AlreadyExists;
    /// The bucket holds objects.
    BucketNotEmpty = "BUCKET_NOT_EMPTY", FailedPrecondition;
    /// No bucket of this name.
    BucketNotFound = "BUCKET_NOT_FOUND", NotFound;
    /// The object changed while it was read, and its old bytes are gone.
    ChangedWhileReading = "CHANGED_WHILE_READING", Aborted;
    /// The bytes do not have the checksum of their trailer.
    ChecksumMismatch = "CHECKSUM_MISMATCH", InvalidArgument;
    /// No metadata server could serve it in time.
    ClusterUnavailable = "CLUSTER_UNAVAILABLE", Unavailable, CLUSTER_RETRY;
    /// No replica of a chunk can be read now.
    DataUnavailable = "DATA_UNAVAILABLE", Unavailable, CLUSTER_RETRY;
    /// The caller's deadline has passed, or it was silent for too long.
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded;
    /// Servers or nodes are of a release that can't do it.
    FeatureLevelTooLow = "FEATURE_LEVEL_TOO_LOW", FailedPrecondition;
    /// Stored bytes fail their checksum on every replica.
    Integrity = "INTEGRITY", DataLoss;
    /// The gateway or the cluster failed.
    Internal = "INTERNAL", Internal;
    /// The request makes no sense.
    InvalidArgument = "INVALID_ARGUMENT", InvalidArgument;
    /// The picture that the listing began with is forgotten.
    ListingExpired = "LISTING_EXPIRED", Aborted;
    /// The data nodes are out of space.
    NoSpace = "NO_SPACE", ResourceExhausted;
    /// Too few replicas became durable in time.
    NotDurable = "NOT_DURABLE", Unavailable, CLUSTER_RETRY;
    /// Too few data nodes are alive and have room.
    NotEnoughNodes = "NOT_ENOUGH_NODES", Unavailable, CLUSTER_RETRY;
    /// No object of this name, or no such version.
    ObjectNotFound = "OBJECT_NOT_FOUND", NotFound;
    /// It may have happened.
    OutcomeUnknown = "OUTCOME_UNKNOWN", Unavailable, CLUSTER_RETRY;
    /// As many calls are under way as there may be.
    Overloaded = "OVERLOADED", ResourceExhausted, BUSY_RETRY;
    /// The key holds something else.
    PreconditionFailed = "PRECONDITION_FAILED", FailedPrecondition;
    /// The bucket may not hold as much.
    QuotaExceeded = "QUOTA_EXCEEDED", FailedPrecondition;
    /// The range begins behind the object's end.
    RangeNotSatisfiable = "RANGE_NOT_SATISFIABLE", OutOfRange;
    /// The gateway stops.
    ShuttingDown = "SHUTTING_DOWN", Unavailable, BUSY_RETRY;
    /// The stream ended before the trailer of its bytes.
    UploadIncomplete = "UPLOAD_INCOMPLETE", InvalidArgument;
    /// The cluster gave up the put because nothing was heard of it for too long.
    UploadExpired = "UPLOAD_EXPIRED", Aborted;
}

/// A code as gRPC writes it.
pub(crate) fn code_label(code: Code) -> String {
    let mut label = String::new();
    for character in format!("{code:?}").chars() {
        if character.is_ascii_uppercase() && !label.is_empty() {
            label.push('_');
        }
        label.push(character.to_ascii_uppercase());
    }
    label
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_reason_is_in_the_protocols_table_with_its_code() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
        let page = fs::read_to_string(page).unwrap();
        for reason in Reason::ALL {
            let row = format!("| `{}` | {}", reason.label(), code_label(reason.code()));
            let line = page.lines().find(|line| line.starts_with(&row));
            let line = line.unwrap_or_else(|| panic!("docs/protocol.md has no line {row}"));
            let says_so = line.contains("RetryInfo");
            assert!(
                says_so || reason.retry_after().is_none() || PASSED_ON.contains(&reason.label()),
                "{line}"
            );
        }
    }

    /// Those that the metadata service gives without RetryInfo, as its client then repeats them by itself.
    const PASSED_ON: &[&str] = &["OUTCOME_UNKNOWN"];

    #[test]
    fn codes_are_written_as_grpc_has_them() {
        assert_eq!(code_label(Code::Ok), "OK");
        assert_eq!(code_label(Code::FailedPrecondition), "FAILED_PRECONDITION");
    }
}
