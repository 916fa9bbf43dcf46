//! What can go wrong, by culprit, and a short stable kind for programs.

use std::{io, time::Duration};

use xdpfs_trust::Mismatch;
use xdpfs_wire::ChunkId;

/// The result of every operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed. Messages never hold secrets; they may hold the names that the caller gave.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One operation of a batch could not be done, so none of them was.
    #[error("operation {operation} of the batch, on key {key:?}, cannot be done")]
    BatchRefused {
        /// Which one, counted from 1.
        operation: usize,
        /// The key that it is about.
        key: String,
        /// Why.
        #[source]
        source: Box<Self>,
    },

    // The caller asked for something that cannot be.
    /// There is no access key of this id.
    #[error("there is no access key {id}")]
    AccessKeyNotFound {
        /// Its id.
        id: String,
    },
    /// There is a bucket with this name.
    #[error("bucket {bucket:?} exists already")]
    BucketExists {
        /// The bucket.
        bucket: String,
    },
    /// There is no bucket with this name.
    #[error("there is no bucket {bucket:?}")]
    BucketNotFound {
        /// The bucket.
        bucket: String,
    },
    /// The bucket holds objects or open uploads.
    #[error("bucket {bucket:?} is not empty")]
    BucketNotEmpty {
        /// The bucket.
        bucket: String,
    },
    /// The caller's own reader failed in the middle of a put.
    #[error("cannot read the input")]
    Input(#[source] io::Error),
    /// A name or an option is out of bounds.
    #[error("{message}")]
    InvalidArgument {
        /// What is wrong with it.
        message: String,
    },
    /// The access key could be read on its way.
    #[error("the access key would be sent to {endpoint} in plain text")]
    KeyInPlainText {
        /// Where it would go.
        endpoint: String,
    },
    /// Nobody could make access keys any more.
    #[error("no other access key can make keys")]
    LastAdminKey,
    /// No data node of this number has ever registered.
    #[error("there is no data node of this number")]
    NodeNotFound,
    /// The bucket has no such key.
    #[error("there is no object {key:?} in bucket {bucket:?}")]
    ObjectNotFound {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
    /// The key does not hold what the caller's precondition says.
    #[error("the precondition does not hold: {message}")]
    PreconditionFailed {
        /// The metadata server's words.
        message: String,
    },
    /// The bucket may not hold as much.
    #[error("the quota of bucket {bucket:?} is exceeded: {message}")]
    QuotaExceeded {
        /// The bucket.
        bucket: String,
        /// The metadata server's words.
        message: String,
    },
    /// The range begins behind the object's end.
    #[error("the range starts at byte {start}, but the object has {size} bytes")]
    RangeNotSatisfiable {
        /// First byte asked for.
        start: u64,
        /// The object's size.
        size: u64,
    },

    /// Client and server do not agree on TLS, or on whom to trust. Nothing was sent.
    #[error("cannot speak to {endpoint}: {mismatch}")]
    Mismatch {
        /// The server.
        endpoint: String,
        /// On what.
        mismatch: Mismatch,
    },

    // Not now: the same request may work later.
    /// The object was overwritten or deleted while it was being read, and its old bytes are gone.
    #[error("the object changed while it was being read")]
    ChangedWhileReading,
    /// No replica of a chunk can be read at present.
    #[error("no replica of chunk {chunk} can be read: {why}")]
    DataUnavailable {
        /// The chunk.
        chunk: ChunkId,
        /// What the last replica said.
        why: String,
    },
    /// The cluster no longer remembers the bucket as it was when the listing began.
    #[error("bucket {bucket:?} has changed too much for its listing to go on")]
    ListingExpired {
        /// The bucket.
        bucket: String,
    },
    /// The disks of too many data nodes are full.
    #[error("the data nodes are out of space")]
    NoSpace,
    /// Too few replicas of a chunk became durable in time.
    #[error("only {durable} of at least {needed} replicas of chunk {chunk} became durable: {why}")]
    NotDurable {
        /// The chunk.
        chunk: ChunkId,
        /// Replicas that are durable.
        durable: u32,
        /// Replicas without which a put fails.
        needed: u32,
        /// What the last failing replica said.
        why: String,
    },
    /// Too few data nodes are alive and have room for a put.
    #[error("there are not enough data nodes: {message}")]
    NotEnoughNodes {
        /// The metadata server's words.
        message: String,
    },
    /// The request was sent, and nobody could say in time whether it took effect.
    #[error("{operation} may or may not have taken effect: {why}")]
    OutcomeUnknown {
        /// The request.
        operation: &'static str,
        /// The last answer.
        why: String,
    },
    /// No metadata server served the request in time.
    #[error("no metadata server could serve {operation} in {waited:.1?} and {attempts} attempts: {why}")]
    Unavailable {
        /// The request.
        operation: &'static str,
        /// How often it was sent.
        attempts: u32,
        /// How long that took.
        waited: Duration,
        /// The last answer.
        why: String,
    },
    /// The cluster gave up the put because nothing was heard of it for too long.
    #[error("the upload expired before it was committed")]
    UploadExpired,

    /// An access key was made, but the answer with its secret was lost.
    #[error("{message}")]
    SecretLost {
        /// The metadata server's words, which name the key.
        message: String,
    },

    // Not allowed.
    /// The cluster does not know who this client is.
    #[error("not authenticated: {message}")]
    Unauthenticated {
        /// The metadata server's words.
        message: String,
    },
    /// The cluster refuses this client.
    #[error("permission denied: {message}")]
    PermissionDenied {
        /// The refusing party's words.
        message: String,
    },

    // The cluster misbehaved.
    /// A reply breaks the protocol.
    #[error("the reply to {operation} makes no sense: {what}")]
    BadReply {
        /// The request.
        operation: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Bytes do not have the checksum that the manifest says.
    #[error("the bytes of {what} fail their checksum")]
    Integrity {
        /// The chunk or the object.
        what: String,
    },
    /// The servers, or the data nodes, run a release that does not do this yet.
    #[error("the cluster does not serve {operation}: {message}")]
    Unsupported {
        /// The request.
        operation: &'static str,
        /// The metadata server's words.
        message: String,
    },
    /// A metadata server refused for a reason that this client doesn't know.
    #[error("{operation} was refused ({reason}): {message}")]
    Refused {
        /// The request.
        operation: &'static str,
        /// The reason's name, or that of the gRPC code.
        reason: String,
        /// The server's words.
        message: String,
    },

    // This machine.
    /// No socket could be had.
    #[error("cannot open a socket")]
    Socket(#[source] io::Error),
}

/// What went wrong, for programs: labels are stable.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ErrorKind {
    /// Something by this name is there.
    AlreadyExists,
    /// Bytes or checksums are wrong.
    Integrity,
    /// The request can never work as it is.
    InvalidArgument,
    /// The machine or the caller's own reader failed.
    Io,
    /// The disks are full.
    NoSpace,
    /// Nothing by this name is there.
    NotFound,
    /// The bucket still holds something.
    NotEmpty,
    /// The cluster does not allow it.
    PermissionDenied,
    /// The key holds something else.
    PreconditionFailed,
    /// Client and server do not understand each other.
    Protocol,
    /// The bucket may not hold as much.
    QuotaExceeded,
    /// Client and server do not agree on TLS, or on whom to trust.
    Trust,
    /// The cluster does not know who asks.
    Unauthenticated,
    /// Try again later.
    Unavailable,
}

impl ErrorKind {
    /// The kind's name in programs' output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::AlreadyExists => "already_exists",
            Self::Integrity => "integrity",
            Self::InvalidArgument => "invalid_argument",
            Self::Io => "io",
            Self::NoSpace => "no_space",
            Self::NotFound => "not_found",
            Self::NotEmpty => "not_empty",
            Self::PermissionDenied => "permission_denied",
            Self::PreconditionFailed => "precondition_failed",
            Self::Protocol => "protocol",
            Self::QuotaExceeded => "quota_exceeded",
            Self::Trust => "trust",
            Self::Unauthenticated => "unauthenticated",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Error {
    /// What went wrong, in one word.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::BatchRefused { source, .. } => source.kind(),
            Self::BucketExists { .. } => ErrorKind::AlreadyExists,
            Self::AccessKeyNotFound { .. }
            | Self::BucketNotFound { .. }
            | Self::NodeNotFound
            | Self::ObjectNotFound { .. } => ErrorKind::NotFound,
            Self::BucketNotEmpty { .. } => ErrorKind::NotEmpty,
            Self::Input(_) | Self::Socket(_) => ErrorKind::Io,
            Self::InvalidArgument { .. } | Self::KeyInPlainText { .. } | Self::RangeNotSatisfiable { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::Mismatch { .. } => ErrorKind::Trust,
            Self::LastAdminKey | Self::PreconditionFailed { .. } => ErrorKind::PreconditionFailed,
            Self::ChangedWhileReading
            | Self::DataUnavailable { .. }
            | Self::ListingExpired { .. }
            | Self::NotDurable { .. }
            | Self::NotEnoughNodes { .. }
            | Self::OutcomeUnknown { .. }
            | Self::SecretLost { .. }
            | Self::Unavailable { .. }
            | Self::UploadExpired => ErrorKind::Unavailable,
            Self::NoSpace => ErrorKind::NoSpace,
            Self::QuotaExceeded { .. } => ErrorKind::QuotaExceeded,
            Self::PermissionDenied { .. } => ErrorKind::PermissionDenied,
            Self::Unauthenticated { .. } => ErrorKind::Unauthenticated,
            Self::Integrity { .. } => ErrorKind::Integrity,
            Self::BadReply { .. } | Self::Refused { .. } | Self::Unsupported { .. } => ErrorKind::Protocol,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::InvalidArgument { message: message.into() }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::Integrity | ErrorKind::Protocol => io::ErrorKind::InvalidData,
            ErrorKind::InvalidArgument | ErrorKind::PreconditionFailed => io::ErrorKind::InvalidInput,
            ErrorKind::Io | ErrorKind::NotEmpty => io::ErrorKind::Other,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::QuotaExceeded => io::ErrorKind::QuotaExceeded,
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::PermissionDenied | ErrorKind::Trust | ErrorKind::Unauthenticated => {
                io::ErrorKind::PermissionDenied
            }
            ErrorKind::Unavailable => io::ErrorKind::ResourceBusy,
        };
        Self::new(kind, error)
    }
}
