"""Objects of an xdpfs cluster.

    import xdpfs

    client = xdpfs.Client()                      # the cluster that XDPFS_ENDPOINT names
    client.put("demo", "greeting", b"hello")
    assert client.get("demo", "greeting") == b"hello"

Bytes travel over UDP straight to and from the data nodes; the interpreter's lock is free while anybody waits.
"""

from xdpfs._async_client import AsyncClient, AsyncObjectReader, AsyncObjectWriter
from xdpfs._client import Client
from xdpfs._errors import (
    AccessDenied,
    AlreadyExists,
    BucketNotEmpty,
    ChangedWhileReading,
    IntegrityError,
    InvalidArgument,
    NoSpace,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    ProtocolError,
    QuotaExceeded,
    RangeNotSatisfiable,
    TrustError,
    Unauthenticated,
    Unavailable,
    Unsupported,
    XdpfsError,
)
from xdpfs._files import ObjectReader, ObjectWriter
from xdpfs._native import BucketInfo, ObjectInfo

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "AsyncClient",
    "AsyncObjectReader",
    "AsyncObjectWriter",
    "BucketInfo",
    "BucketNotEmpty",
    "ChangedWhileReading",
    "Client",
    "IntegrityError",
    "InvalidArgument",
    "NoSpace",
    "NotFound",
    "ObjectInfo",
    "ObjectReader",
    "ObjectWriter",
    "OutcomeUnknown",
    "PreconditionFailed",
    "ProtocolError",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "TrustError",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "XdpfsError",
]
