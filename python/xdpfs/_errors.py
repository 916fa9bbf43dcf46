"""Why an operation failed, by reason. Where Python has a class that says as much, an error is of that class, too."""

from __future__ import annotations


class XdpfsError(Exception):
    """Whatever the client can fail with. `kind` is the word that all of xdpfs has for it.

    The message may hold the names that the caller gave, and never a secret.
    """

    kind: str = "io"
    #: Whether the same request may work later, as it is.
    retryable: bool = False


class NotFound(XdpfsError, FileNotFoundError):
    """There is no such bucket or object."""

    kind = "not_found"


class AlreadyExists(XdpfsError, FileExistsError):
    """There is a bucket of this name."""

    kind = "already_exists"


class PreconditionFailed(XdpfsError):
    """The key does not hold what `if_match` or `if_none_match` says."""

    kind = "precondition_failed"


class BucketNotEmpty(XdpfsError):
    """The bucket holds objects or open uploads."""

    kind = "not_empty"


class InvalidArgument(XdpfsError, ValueError):
    """The request can never work as it is."""

    kind = "invalid_argument"


class RangeNotSatisfiable(InvalidArgument):
    """The range begins behind the object's end."""


class AccessDenied(XdpfsError, PermissionError):
    """The cluster does not allow it."""

    kind = "permission_denied"


class Unauthenticated(AccessDenied):
    """The cluster does not know who asks."""

    kind = "unauthenticated"


class TrustError(XdpfsError):
    """Client and servers do not agree on TLS, or on whom to trust."""

    kind = "trust"


class Unavailable(XdpfsError):
    """Not now: servers or data nodes can't be reached, or there are too few."""

    kind = "unavailable"
    retryable = True


class ChangedWhileReading(Unavailable):
    """The object was replaced or deleted while it was read. A new get reads what is there."""


class OutcomeUnknown(Unavailable):
    """The change was sent, and nobody could say in time whether it took effect. Look before you repeat it."""

    retryable = False


class NoSpace(XdpfsError):
    """The disks of the data nodes are full."""

    kind = "no_space"


class QuotaExceeded(XdpfsError):
    """The bucket may not hold as much."""

    kind = "quota_exceeded"


class IntegrityError(XdpfsError):
    """Bytes fail their checksum."""

    kind = "integrity"


class ProtocolError(XdpfsError):
    """Client and servers do not understand each other."""

    kind = "protocol"


class Unsupported(ProtocolError):
    """The cluster is of a release that does not do this yet."""


_BY_REASON: dict[str, type[XdpfsError]] = {
    "ChangedWhileReading": ChangedWhileReading,
    "OutcomeUnknown": OutcomeUnknown,
    "RangeNotSatisfiable": RangeNotSatisfiable,
    "Unsupported": Unsupported,
}

_BY_KIND: dict[str, type[XdpfsError]] = {
    error.kind: error
    for error in (
        AccessDenied,
        AlreadyExists,
        BucketNotEmpty,
        IntegrityError,
        InvalidArgument,
        NoSpace,
        NotFound,
        PreconditionFailed,
        ProtocolError,
        QuotaExceeded,
        TrustError,
        Unauthenticated,
        Unavailable,
    )
}


def make(kind: str, reason: str, message: str) -> XdpfsError:
    """The exception for what the native half says; it is the only caller."""
    error_class = _BY_REASON.get(reason) or _BY_KIND.get(kind, XdpfsError)
    return error_class(message)


def write_failed() -> XdpfsError:
    """What is said of an object some of whose bytes could not be written."""
    return XdpfsError("a write has failed: nothing was stored")
