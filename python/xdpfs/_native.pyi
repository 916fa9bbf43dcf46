"""The native half. A client that awaits gives awaitables of what is said here."""

from datetime import datetime
from typing import Any, final

__all__ = ["settle", "NativeClient", "BucketInfo", "ObjectInfo", "NativeReader", "NativeWriter"]

@final
class ObjectInfo:
    """What a key holds, without its bytes."""

    @property
    def bucket(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def version(self) -> int:
        """Rises with every put of the key."""
    @property
    def etag(self) -> str:
        """Changes whenever the version does."""
    @property
    def size(self) -> int: ...
    @property
    def crc32c(self) -> int:
        """CRC32C of the whole object."""
    @property
    def created(self) -> datetime:
        """When this version was put, in UTC."""
    @property
    def content_type(self) -> str: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def durable_replicas(self) -> int:
        """The fewest durable replicas that any of its chunks has."""
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    __hash__: None  # type: ignore[assignment]

@final
class BucketInfo:
    """A bucket, its settings and what it holds."""

    @property
    def name(self) -> str: ...
    @property
    def chunk_size(self) -> int: ...
    @property
    def replicas(self) -> int: ...
    @property
    def min_replicas(self) -> int: ...
    @property
    def created(self) -> datetime: ...
    @property
    def objects(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def quota_bytes(self) -> int | None: ...
    @property
    def quota_objects(self) -> int | None: ...
    @property
    def versioning(self) -> str: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    __hash__: None  # type: ignore[assignment]

@final
class NativeReader:
    @property
    def info(self) -> ObjectInfo: ...
    @property
    def start(self) -> int: ...
    def __len__(self) -> int: ...
    def read(self, size: int = ...) -> Any: ...
    def readinto(self, buffer: Any) -> Any: ...
    def close(self) -> None: ...

@final
class NativeWriter:
    def write(self, data: Any) -> Any: ...
    def finish(self) -> Any: ...
    def abort(self) -> Any: ...

@final
class NativeClient:
    def __new__(
        cls,
        options: dict[str, str],
        *,
        awaits: bool,
        from_environment: bool = True,
        chunks_in_flight: int | None = None,
        buffered_bytes: int | None = None,
    ) -> NativeClient: ...
    @property
    def endpoint(self) -> str: ...
    def put(
        self,
        bucket: str,
        key: str,
        data: Any,
        words: tuple[str | None, dict[str, str] | None],
        if_match: str | None,
        if_none_match: str | None,
    ) -> Any: ...
    def put_file(
        self,
        bucket: str,
        key: str,
        path: str,
        words: tuple[str | None, dict[str, str] | None],
        if_match: str | None,
        if_none_match: str | None,
    ) -> Any: ...
    def put_many(self, bucket: str, items: list[tuple[str, Any]], parallel: int) -> Any: ...
    def writer(
        self,
        bucket: str,
        key: str,
        words: tuple[str | None, dict[str, str] | None],
        if_match: str | None,
        if_none_match: str | None,
    ) -> NativeWriter: ...
    def get(
        self,
        bucket: str,
        key: str,
        range: str | None,
        version: int | None,
        if_match: str | None,
        if_none_match: str | None,
    ) -> Any: ...
    def open(
        self,
        bucket: str,
        key: str,
        range: str | None,
        version: int | None,
        if_match: str | None,
        if_none_match: str | None,
    ) -> Any: ...
    def get_file(
        self,
        bucket: str,
        key: str,
        path: str,
        range: str | None,
        version: int | None,
        if_match: str | None,
        if_none_match: str | None,
    ) -> Any: ...
    def get_many(self, bucket: str, keys: list[str], parallel: int) -> Any: ...
    def stat(
        self,
        bucket: str,
        key: str,
        version: int | None,
        if_match: str | None,
        if_none_match: str | None,
    ) -> Any: ...
    def delete(self, bucket: str, key: str, version: int | None, if_match: str | None) -> Any: ...
    def copy(
        self,
        source: tuple[str, str],
        target: tuple[str, str],
        version: int | None,
        source_if_match: str | None,
        if_match: str | None,
        if_none_match: str | None,
    ) -> Any: ...
    def list(
        self,
        bucket: str,
        prefix: str,
        delimiter: str,
        start_after: str,
        page_size: int | None,
        page: str | None,
    ) -> Any: ...
    def create_bucket(
        self,
        bucket: str,
        chunk_size: int | None,
        replicas: int | None,
        min_replicas: int | None,
        quota_bytes: int | None,
        quota_objects: int | None,
        versioning_of: str,
    ) -> Any: ...
    def bucket(self, bucket: str) -> Any: ...
    def buckets(self, page: str | None) -> Any: ...
    def delete_bucket(self, bucket: str) -> Any: ...
    def close(self) -> Any: ...

def settle(waiter: Any, value: Any, error: Any) -> None: ...
