//! How a run ends: exit codes, messages and hints. The only place that knows which error means what to a shell.
//!
//! Invariant: every error of the client, of the command line and of this machine has exactly one exit code here.

use std::{error::Error as StdError, fmt::Display, io, path::Path, process::ExitCode};

use xdpfs_client::{Error, ErrorKind, Mismatch};

use crate::address::Address;

/// What the shell sees.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    /// All was done.
    Done = 0,
    /// Some of it was not done, or none of it for a reason without a code of its own.
    Partial = 1,
    /// The request makes no sense.
    Usage = 2,
    /// Nothing by this name is there.
    NotFound = 3,
    /// The key or the bucket holds something else than was asked for.
    Precondition = 4,
    /// The same may work later.
    Unavailable = 5,
    /// It is not allowed, or nobody knows who asks.
    Permission = 6,
    /// Bytes are not what they should be.
    Integrity = 7,
    /// SIGHUP ended it: the terminal went away.
    HungUp = 129,
    /// SIGINT ended it.
    Interrupted = 130,
    /// The reader of standard output went away, as `head` does; what SIGPIPE makes of other programs.
    BrokenPipe = 141,
    /// SIGTERM ended it.
    Terminated = 143,
}

/// What the long help says about [`Exit`].
pub(crate) const EXIT_CODES_HELP: &str = "\
Exit codes:
    0  done
    1  some of several things failed (each is named), or another failure
    2  the command line, a name or a range makes no sense; also TLS or a CA that does not fit the servers
    3  not found; also a recursive command that found nothing
    4  a precondition failed; also a bucket that exists already or is not empty
    5  unavailable: the same may work later; also no space, a full quota, or an unknown outcome
    6  permission denied; also an access key that is missing or no good
    7  bytes fail their checksum
  130  interrupted (Ctrl-C), 143 terminated, 129 hung up: what was not finished has been given up
  141  the reader of standard output went away, as head does
If several things were asked for and all failed with one code, that code is given.";

/// Stands in a hint for what the failure turns out to be about.
const PLACE: &str = "BUCKET/KEY";

/// Why something was not done, and what to do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Failure {
    /// What the shell is told.
    pub(crate) exit: Exit,
    /// What went wrong, for programs.
    pub(crate) kind: &'static str,
    /// What went wrong, for people.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// What it is about, if that is a bucket or an object.
    pub(crate) address: Option<Box<Address>>,
    /// Whether no metadata server served the request: others will hardly fare better.
    pub(crate) is_unserved: bool,
    /// Whether the message says what it is about.
    is_named: bool,
}

impl Failure {
    fn new(exit: Exit, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            exit,
            kind,
            message: message.into(),
            hint: None,
            address: None,
            is_unserved: false,
            is_named: true,
        }
    }

    /// The command line asks for something that makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, ErrorKind::InvalidArgument.label(), message)
    }

    /// Client and server do not agree on TLS.
    pub(crate) fn mismatch(message: impl Into<String>, mismatch: &Mismatch) -> Self {
        Self::new(Exit::Usage, ErrorKind::Trust.label(), message).with_hint(hint_for_mismatch(mismatch))
    }

    /// Nothing is there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, ErrorKind::NotFound.label(), message)
    }

    /// Something is there already.
    pub(crate) fn exists(message: impl Into<String>) -> Self {
        Self::new(Exit::Precondition, ErrorKind::AlreadyExists.label(), message)
    }

    /// The cluster is not as it would have to be.
    pub(crate) fn precondition(message: impl Into<String>) -> Self {
        Self::new(Exit::Precondition, ErrorKind::PreconditionFailed.label(), message)
    }

    /// One of several things cannot be done as it is.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Partial, ErrorKind::InvalidArgument.label(), message)
    }

    /// The cluster is not in a state to serve.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unavailable, ErrorKind::Unavailable.label(), message)
    }

    /// This machine could not do something that no code of its own exists for.
    pub(crate) fn machine(message: impl Into<String>) -> Self {
        Self::new(Exit::Partial, ErrorKind::Io.label(), message)
    }

    /// This machine failed at `what`, such as "open the file x".
    pub(crate) fn local(what: impl Display, error: &io::Error) -> Self {
        let message = format!("cannot {what}: {error}");
        match error.kind() {
            io::ErrorKind::NotFound => Self::not_found(message),
            io::ErrorKind::PermissionDenied => {
                Self::new(Exit::Permission, ErrorKind::PermissionDenied.label(), message)
            }
            io::ErrorKind::StorageFull => Self::machine(message)
                .with_hint("the disk of this machine is full: make room and run it again"),
            _ => Self::machine(message),
        }
    }

    /// A part of this process failed at `what`.
    pub(crate) fn caused(what: impl Display, error: &(dyn StdError + 'static)) -> Self {
        Self::machine(format!("cannot {what}: {}", message_of(error)))
    }

    /// A file or a directory is not what was written.
    pub(crate) fn damaged(path: &Path, error: &(dyn StdError + 'static)) -> Self {
        let message = format!("{}: {}", path.display(), message_of(error));
        Self::new(Exit::Integrity, ErrorKind::Integrity.label(), message)
    }

    /// Standard output could not be written.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => {
                Self::new(Exit::BrokenPipe, "broken_pipe", "the reader of standard output went away")
            }
            _ => Self::local("write to standard output", error),
        }
    }

    /// A signal ended the run.
    pub(crate) fn signal(exit: Exit) -> Self {
        Self::new(exit, "interrupted", "interrupted: what was not finished has been given up")
    }

    /// The same with a hint.
    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same in other words.
    pub(crate) fn with_message(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), is_named: true, ..self }
    }

    /// The same with a clear word about what it concerns.
    pub(crate) fn about(self, address: &Address) -> Self {
        let message = if self.is_named { self.message } else { format!("{address}: {}", self.message) };
        let hint = self.hint.map(|hint| hint.replace(PLACE, &address.to_string()));
        Self { message, hint, address: Some(Box::new(address.clone())), is_named: true, ..self }
    }

    /// The same as the fault of the command line as a whole.
    pub(crate) fn into_usage(self) -> Self {
        Self { exit: Exit::Usage, ..self }
    }

    /// Whether nobody needs to be told.
    pub(crate) fn is_silent(&self) -> bool {
        self.exit == Exit::BrokenPipe
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        Self {
            exit: exit_of(kind),
            kind: kind.label(),
            message: message_of(&error),
            hint: hint_for(&error),
            address: address_in(&error).map(Box::new),
            is_unserved: matches!(error, Error::Mismatch { .. } | Error::Unavailable { .. }),
            is_named: names_its_object(&error),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

const fn exit_of(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::AlreadyExists | ErrorKind::NotEmpty | ErrorKind::PreconditionFailed => Exit::Precondition,
        ErrorKind::Integrity => Exit::Integrity,
        ErrorKind::InvalidArgument | ErrorKind::Trust => Exit::Usage,
        ErrorKind::Io | ErrorKind::Protocol => Exit::Partial,
        ErrorKind::NoSpace | ErrorKind::QuotaExceeded | ErrorKind::Unavailable => Exit::Unavailable,
        ErrorKind::NotFound => Exit::NotFound,
        ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => Exit::Permission,
    }
}

/// The error and what caused it.
pub(crate) fn message_of(error: &(dyn StdError + 'static)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    message
}

fn hint_for(error: &Error) -> Option<String> {
    let hint = match error {
        Error::BatchRefused { source, .. } => return hint_for(source),
        Error::AccessKeyNotFound { .. } => "see those that exist with: xdpfs-cli key list".into(),
        Error::KeyInPlainText { .. } => {
            "ask a server on this machine, or say --insecure-key if nobody else can read that network".into()
        }
        Error::LastAdminKey => {
            "make another one first: xdpfs-cli key create --admin '*'; or say --force, and only a root key can".into()
        }
        Error::SecretLost { .. } => "revoke the key that is named with: xdpfs-cli key revoke ID; then run it again".into(),
        Error::Unauthenticated { .. } => {
            "show an access key: --access-key-file FILE, or XDPFS_ACCESS_KEY=ID.SECRET in the environment".into()
        }
        Error::BucketExists { bucket } => format!("use it as it is, or see its settings: xdpfs-cli stat {bucket}"),
        Error::BucketNotFound { bucket } => {
            format!("make it with: xdpfs-cli mb {bucket}; see those that exist with: xdpfs-cli ls")
        }
        Error::BucketNotEmpty { bucket } => {
            format!(
                "remove its objects first: xdpfs-cli rm -r {bucket}/ (with --versions where it keeps any), \
                 or all at once: xdpfs-cli rb --force {bucket}"
            )
        }
        Error::Mismatch { mismatch, .. } => hint_for_mismatch(mismatch),
        Error::NodeNotFound => "see those that exist with: xdpfs-cli node list".into(),
        Error::ObjectNotFound { bucket, .. } => format!("see what is there: xdpfs-cli ls -r {bucket}"),
        Error::PreconditionFailed { .. } => format!("see what the key holds with: xdpfs-cli stat {PLACE}"),
        Error::QuotaExceeded { bucket, .. } => format!(
            "remove objects, or have whoever runs the cluster raise it: xdpfs-cli bucket update {bucket} --quota SIZE; \
             xdpfs-cli bucket show {bucket} tells more"
        ),
        Error::RangeNotSatisfiable { size: 0, .. } => "it is empty: get it without --range".into(),
        Error::RangeNotSatisfiable { size, .. } => format!("ask for bytes below {size}"),
        Error::ChangedWhileReading => "run it again to read the new version".into(),
        Error::DataUnavailable { .. } | Error::NotDurable { .. } | Error::NotEnoughNodes { .. } => {
            "see which data nodes are alive with: xdpfs-cli status; then run it again".into()
        }
        Error::NoSpace => "see how much is free with: xdpfs-cli status; remove objects or add a data node".into(),
        Error::ListingExpired { .. } => "list a part of it by a prefix, or leave --consistent away".into(),
        Error::OutcomeUnknown { .. } => "look at the result with stat or ls; then run it again if need be".into(),
        Error::Unavailable { .. } => {
            "check --endpoint (XDPFS_ENDPOINT) and whether the metadata servers run; xdpfs-cli status tells more".into()
        }
        Error::UploadExpired => "run it again; nothing was stored".into(),
        Error::PermissionDenied { .. } => "ask whoever runs the cluster for an access key that may; xdpfs-cli key list shows what each may".into(),
        Error::Refused { reason, .. } if reason == "FEATURE_LEVEL_TOO_LOW" => {
            "see which release each metadata server runs: xdpfs-cli status".into()
        }
        Error::BadReply { .. } | Error::Refused { .. } | Error::Unsupported { .. } => {
            "client and servers may be of different versions: compare their --version".into()
        }
        Error::Integrity { .. } => "run it again: another replica may be read; xdpfs-cli status shows the nodes".into(),
        Error::Socket(_) => "this process may be out of open files or have no network: see ulimit -n".into(),
        Error::Input(_) | Error::InvalidArgument { .. } => return None,
    };
    Some(hint)
}

fn hint_for_mismatch(mismatch: &Mismatch) -> String {
    match mismatch {
        Mismatch::Expired => "whoever runs the cluster makes a new one with: xdpfs-cli certify DIR NAME",
        Mismatch::NotYetValid => "compare the clocks of both machines",
        Mismatch::NotGrpc => "check --endpoint (XDPFS_ENDPOINT): is that the address for clients of a metadata server?",
        Mismatch::NotMetaServer => "check --endpoint (XDPFS_ENDPOINT): is that a metadata server of this cluster?",
        Mismatch::NoTls => "leave --ca (XDPFS_CA) away to speak plaintext, or start the servers with --tls",
        Mismatch::RefusesUs(_) => {
            "check --endpoint (XDPFS_ENDPOINT): clients use the address for clients, where no certificate is needed"
        }
        Mismatch::SpeaksTls => "give the cluster's ca.pem with --ca FILE, or set XDPFS_CA",
        Mismatch::Tls(_) => "client and servers may be of different versions: compare their --version",
        Mismatch::UnknownIssuer => "check --ca (XDPFS_CA): is that the ca.pem of this cluster?",
        Mismatch::WrongName(_) => {
            "use a name or address that the certificate has, or add this one: xdpfs-cli certify DIR NAME --host HOST"
        }
    }
    .to_owned()
}

fn address_in(error: &Error) -> Option<Address> {
    match error {
        Error::BatchRefused { source, .. } => address_in(source),
        Error::BucketExists { bucket }
        | Error::BucketNotFound { bucket }
        | Error::BucketNotEmpty { bucket }
        | Error::ListingExpired { bucket }
        | Error::QuotaExceeded { bucket, .. } => Some(Address::bucket(bucket)),
        Error::ObjectNotFound { bucket, key } => Some(Address::new(bucket, key)),
        Error::AccessKeyNotFound { .. }
        | Error::Input(_)
        | Error::InvalidArgument { .. }
        | Error::Mismatch { .. }
        | Error::KeyInPlainText { .. }
        | Error::LastAdminKey
        | Error::NodeNotFound
        | Error::SecretLost { .. }
        | Error::Unauthenticated { .. }
        | Error::PreconditionFailed { .. }
        | Error::RangeNotSatisfiable { .. }
        | Error::ChangedWhileReading
        | Error::DataUnavailable { .. }
        | Error::NoSpace
        | Error::NotDurable { .. }
        | Error::NotEnoughNodes { .. }
        | Error::OutcomeUnknown { .. }
        | Error::Unavailable { .. }
        | Error::UploadExpired
        | Error::PermissionDenied { .. }
        | Error::BadReply { .. }
        | Error::Integrity { .. }
        | Error::Refused { .. }
        | Error::Unsupported { .. }
        | Error::Socket(_) => None,
    }
}

/// Whether the message says all there is to say about the place.
fn names_its_object(error: &Error) -> bool {
    address_in(error).is_some()
        || matches!(
            error,
            Error::AccessKeyNotFound { .. }
                | Error::InvalidArgument { .. }
                | Error::KeyInPlainText { .. }
                | Error::LastAdminKey
                | Error::Mismatch { .. }
                | Error::SecretLost { .. }
                | Error::Socket(_)
                | Error::Unauthenticated { .. }
                | Error::Unavailable { .. }
        )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use xdpfs_wire::ChunkId;

    use super::*;

    fn io() -> io::Error {
        io::Error::other("why")
    }

    #[test]
    fn every_error_of_the_client_has_its_exit_code_and_kind() {
        let check = |error: Error, exit, kind| {
            let failure = Failure::from(error);
            assert_eq!((failure.exit, failure.kind), (exit, kind), "{failure:?}");
            assert!(!failure.message.is_empty());
        };
        let (bucket, key) = (|| "bucket".to_owned(), || "key".to_owned());
        let (why, operation) = (|| "why".to_owned(), "commit a put");
        check(Error::AccessKeyNotFound { id: key() }, Exit::NotFound, "not_found");
        check(Error::KeyInPlainText { endpoint: why() }, Exit::Usage, "invalid_argument");
        check(Error::LastAdminKey, Exit::Precondition, "precondition_failed");
        check(Error::SecretLost { message: why() }, Exit::Unavailable, "unavailable");
        check(Error::Unauthenticated { message: why() }, Exit::Permission, "unauthenticated");
        let source = Box::new(Error::ObjectNotFound { bucket: bucket(), key: key() });
        check(Error::BatchRefused { operation: 1, key: key(), source }, Exit::NotFound, "not_found");
        check(Error::BucketExists { bucket: bucket() }, Exit::Precondition, "already_exists");
        check(Error::BucketNotFound { bucket: bucket() }, Exit::NotFound, "not_found");
        check(Error::BucketNotEmpty { bucket: bucket() }, Exit::Precondition, "not_empty");
        check(Error::Input(io()), Exit::Partial, "io");
        check(Error::InvalidArgument { message: why() }, Exit::Usage, "invalid_argument");
        let mismatch = Mismatch::SpeaksTls;
        check(Error::Mismatch { endpoint: "m:1".into(), mismatch }, Exit::Usage, "trust");
        check(Error::ObjectNotFound { bucket: bucket(), key: key() }, Exit::NotFound, "not_found");
        check(Error::PreconditionFailed { message: why() }, Exit::Precondition, "precondition_failed");
        let quota = Error::QuotaExceeded { bucket: bucket(), message: why() };
        check(quota, Exit::Unavailable, "quota_exceeded");
        check(Error::RangeNotSatisfiable { start: 2, size: 1 }, Exit::Usage, "invalid_argument");
        check(Error::ChangedWhileReading, Exit::Unavailable, "unavailable");
        check(Error::DataUnavailable { chunk: ChunkId(1), why: why() }, Exit::Unavailable, "unavailable");
        check(Error::ListingExpired { bucket: bucket() }, Exit::Unavailable, "unavailable");
        check(Error::NoSpace, Exit::Unavailable, "no_space");
        let not_durable = Error::NotDurable { chunk: ChunkId(1), durable: 1, needed: 2, why: why() };
        check(not_durable, Exit::Unavailable, "unavailable");
        check(Error::NotEnoughNodes { message: why() }, Exit::Unavailable, "unavailable");
        check(Error::OutcomeUnknown { operation, why: why() }, Exit::Unavailable, "unavailable");
        let waited = Duration::from_secs(5);
        check(
            Error::Unavailable { operation, attempts: 3, waited, why: why() },
            Exit::Unavailable,
            "unavailable",
        );
        check(Error::UploadExpired, Exit::Unavailable, "unavailable");
        check(Error::PermissionDenied { message: why() }, Exit::Permission, "permission_denied");
        check(Error::BadReply { operation, what: "nothing" }, Exit::Partial, "protocol");
        check(Error::Integrity { what: key() }, Exit::Integrity, "integrity");
        check(Error::Refused { operation, reason: why(), message: why() }, Exit::Partial, "protocol");
        check(Error::Unsupported { operation, message: why() }, Exit::Partial, "protocol");
        check(Error::Socket(io()), Exit::Partial, "io");
    }

    #[test]
    fn every_kind_has_an_exit_code() {
        let check = |kind, exit: u8| assert_eq!(exit_of(kind) as u8, exit, "{kind:?}");
        check(ErrorKind::AlreadyExists, 4);
        check(ErrorKind::Integrity, 7);
        check(ErrorKind::InvalidArgument, 2);
        check(ErrorKind::Io, 1);
        check(ErrorKind::NoSpace, 5);
        check(ErrorKind::NotFound, 3);
        check(ErrorKind::NotEmpty, 4);
        check(ErrorKind::PermissionDenied, 6);
        check(ErrorKind::Unauthenticated, 6);
        check(ErrorKind::PreconditionFailed, 4);
        check(ErrorKind::Protocol, 1);
        check(ErrorKind::QuotaExceeded, 5);
        check(ErrorKind::Trust, 2);
        check(ErrorKind::Unavailable, 5);
    }

    #[test]
    fn a_message_holds_its_causes_and_its_object() {
        let failure = Failure::from(Error::Input(io())).about(&Address::new("bucket", "a/b"));
        assert_eq!(failure.message, "bucket/a/b: cannot read the input: why");
        let error = Error::ObjectNotFound { bucket: "bucket".into(), key: "a/b".into() };
        let failure = Failure::from(error).about(&Address::new("bucket", "a/b"));
        assert_eq!(failure.message, "there is no object \"a/b\" in bucket \"bucket\"");
    }

    #[test]
    fn failures_of_this_machine_tell_missing_from_forbidden() {
        let check = |kind: io::ErrorKind, exit| {
            let failure = Failure::local("open x", &kind.into());
            assert_eq!(failure.exit, exit, "{failure:?}");
        };
        check(io::ErrorKind::NotFound, Exit::NotFound);
        check(io::ErrorKind::PermissionDenied, Exit::Permission);
        check(io::ErrorKind::StorageFull, Exit::Partial);
        check(io::ErrorKind::UnexpectedEof, Exit::Partial);
    }

    #[test]
    fn a_reader_that_left_is_no_news() {
        assert!(Failure::stdout(&io::ErrorKind::BrokenPipe.into()).is_silent());
        assert!(!Failure::stdout(&io::ErrorKind::StorageFull.into()).is_silent());
    }
}
