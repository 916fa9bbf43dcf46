"""The client whose callers are blocked until there is an answer."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Literal, overload

from xdpfs import _arguments as arguments
from xdpfs._arguments import PARALLEL, BytesLike, Range
from xdpfs._errors import NotFound, RangeNotSatisfiable
from xdpfs._files import ObjectReader, ObjectWriter, TextWriter
from xdpfs._native import BucketInfo, NativeClient, NativeReader, ObjectInfo


class Client:
    """Objects of a cluster. One is enough for a process, and any number of threads may use it.

    What is not said here is taken from the variables that the command line tool reads: XDPFS_ENDPOINT, XDPFS_CA,
    XDPFS_ACCESS_KEY, XDPFS_ACCESS_KEY_FILE, XDPFS_INSECURE_KEY and XDPFS_TIMEOUT. Nothing is sent before the first
    operation. A process that is forked connects for itself.
    """

    _awaits = False

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        ca: str | os.PathLike[str] | None = None,
        access_key: str | None = None,
        access_key_file: str | os.PathLike[str] | None = None,
        insecure_key: bool | None = None,
        timeout: float | None = None,
        chunks_in_flight: int | None = None,
        buffered_bytes: int | None = None,
    ) -> None:
        """
        endpoint: the metadata servers as HOST:PORT, separated by commas.
        ca: the cluster's ca.pem; TLS is spoken then.
        access_key, access_key_file: the key itself, or a file with it.
        insecure_key: whether the key may be sent to other machines in plain text.
        timeout: for how many seconds a request is retried before it fails.
        chunks_in_flight: how many chunks one transfer moves at once.
        buffered_bytes: the bytes of chunks in flight over all transfers of the client.
        """
        self._arguments: dict[str, Any] = {
            "options": arguments.options(endpoint, ca, access_key, access_key_file, insecure_key, timeout),
            "chunks_in_flight": chunks_in_flight,
            "buffered_bytes": buffered_bytes,
        }
        self._native = NativeClient(awaits=self._awaits, **self._arguments)

    @classmethod
    def _made_again(cls, made_of: dict[str, Any]) -> Client:
        client = cls.__new__(cls)
        client._arguments = made_of
        client._native = NativeClient(awaits=cls._awaits, **made_of)
        return client

    def __reduce__(self) -> Any:
        """Another process gets what was said here, the access key too if it was, and its own environment's words."""
        return type(self)._made_again, (self._arguments,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._native.endpoint!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits until puts that were given up are cleaned away."""
        self._native.close()

    # Writing.

    def put(
        self,
        bucket: str,
        key: str,
        data: BytesLike,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        overwrite: bool = True,
    ) -> ObjectInfo:
        """Stores bytes under a key. It is durable and visible when this returns, and not at all if it fails.

        if_match: only if the key holds the object with this etag.
        if_none_match: only if it does not; with "*", only if it holds nothing, which `overwrite=False` says too.
        """
        if_none_match = arguments.is_new(if_none_match, overwrite)
        words = arguments.words(content_type, metadata)
        return self._native.put(bucket, key, arguments.data(data), words, if_match, if_none_match)

    def put_file(
        self,
        bucket: str,
        key: str,
        path: str | os.PathLike[str],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        overwrite: bool = True,
    ) -> ObjectInfo:
        """Stores what a local file holds."""
        if_none_match = arguments.is_new(if_none_match, overwrite)
        words = arguments.words(content_type, metadata)
        return self._native.put_file(bucket, key, os.fspath(path), words, if_match, if_none_match)

    def put_many(
        self,
        bucket: str,
        items: Mapping[str, BytesLike] | Iterable[tuple[str, BytesLike]],
        *,
        parallel: int = PARALLEL,
    ) -> builtins.list[ObjectInfo]:
        """One put for each key, so many at once. The first failure ends it, and what was put until then stays."""
        return self._native.put_many(bucket, arguments.items(items), parallel)

    def writer(
        self,
        bucket: str,
        key: str,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        overwrite: bool = True,
    ) -> ObjectWriter:
        """A file to write to; `close` makes the object visible, and an exception in a `with` block gives it up."""
        if_none_match = arguments.is_new(if_none_match, overwrite)
        words = arguments.words(content_type, metadata)
        return ObjectWriter(self._native.writer(bucket, key, words, if_match, if_none_match))

    # Reading.

    def get(
        self,
        bucket: str,
        key: str,
        *,
        range: Range | None = None,
        version: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> bytes:
        """The bytes of one version of an object, checked.

        range: (first byte, byte behind the last one); (first, None) goes to the end, and (-n, None) are the last n.
        """
        got = self._native.get(bucket, key, arguments.byte_range(range), version, if_match, if_none_match)
        return got.read() if isinstance(got, NativeReader) else got

    def get_into(
        self,
        bucket: str,
        key: str,
        buffer: BytesLike,
        *,
        range: Range | None = None,
        version: int | None = None,
        if_match: str | None = None,
    ) -> int:
        """Reads into a writable buffer, such as a bytearray or an array of numpy, without a copy of its own; how many bytes
        there were. What does not fit is not read."""
        view = memoryview(buffer).cast("B")
        if range is None and len(view) > 0:
            range = (0, len(view))
        try:
            reader = self._native.open(bucket, key, arguments.byte_range(range), version, if_match, None)
        except RangeNotSatisfiable as error:
            if range == (0, len(view)):
                return self._empty(bucket, key, version, if_match, error)
            raise
        return reader.readinto(view)

    def _empty(
        self, bucket: str, key: str, version: int | None, if_match: str | None, error: Exception
    ) -> int:
        """An object without bytes has no first one."""
        if self.stat(bucket, key, version=version, if_match=if_match).size == 0:
            return 0
        raise error

    def get_file(
        self,
        bucket: str,
        key: str,
        path: str | os.PathLike[str],
        *,
        range: Range | None = None,
        version: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> ObjectInfo:
        """Into a local file, which holds all of it when this returns, and is not touched if it fails."""
        asked = arguments.byte_range(range)
        return self._native.get_file(bucket, key, os.fspath(path), asked, version, if_match, if_none_match)

    def get_many(self, bucket: str, keys: Iterable[str], *, parallel: int = PARALLEL) -> dict[str, bytes]:
        """The bytes of several objects, so many at once. The first failure ends it."""
        keys = list(keys)
        return dict(zip(keys, self._native.get_many(bucket, keys, parallel), strict=True))

    def reader(
        self, bucket: str, key: str, *, version: int | None = None, if_match: str | None = None
    ) -> ObjectReader:
        """A file to read and seek in. All that is read is of the version that was there when it was opened."""
        info = self.stat(bucket, key, version=version, if_match=if_match)
        return ObjectReader(self._native, info)

    @overload
    def open(self, bucket: str, key: str, mode: Literal["rb"] = "rb", **options: Any) -> BinaryIO: ...
    @overload
    def open(self, bucket: str, key: str, mode: str, **options: Any) -> Any: ...
    def open(self, bucket: str, key: str, mode: str = "rb", **options: Any) -> Any:
        """A file, as the built-in `open` gives one: modes rb, r, wb, w, xb and x. Text modes take `encoding`, `errors` and
        `newline`; all others go to `reader` or `writer`."""
        kind = mode.replace("b", "").replace("t", "")
        if kind not in ("r", "w", "x") or ("b" in mode and "t" in mode):
            raise ValueError(f"there is no mode {mode!r}: objects are read, or written as a whole")
        text = {name: options.pop(name, None) for name in ("encoding", "errors", "newline")}
        if "b" in mode and any(value is not None for value in text.values()):
            raise ValueError("encoding, errors and newline are for text modes")
        file: Any
        if kind == "r":
            file = io.BufferedReader(self.reader(bucket, key, **options), ObjectReader.BUFFER_BYTES)
        else:
            file = self.writer(bucket, key, overwrite=kind == "w", **options)
        if "b" in mode:
            return file
        return (io.TextIOWrapper if kind == "r" else TextWriter)(file, **text)

    # Looking.

    def stat(
        self,
        bucket: str,
        key: str,
        *,
        version: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> ObjectInfo:
        """What a key holds, without its bytes."""
        return self._native.stat(bucket, key, version, if_match, if_none_match)

    def exists(self, bucket: str, key: str) -> bool:
        """Whether a key holds anything."""
        try:
            self.stat(bucket, key)
        except NotFound:
            return False
        return True

    def list(
        self, bucket: str, prefix: str = "", *, start_after: str = "", page_size: int | None = None
    ) -> Iterator[ObjectInfo]:
        """All objects whose keys begin so, in the order of their keys, page by page as they are asked for."""
        page: str | None = None
        while True:
            objects, _groups, page = self._native.list(bucket, prefix, "", start_after, page_size, page)
            yield from objects
            if page is None:
                return

    def list_directory(
        self, bucket: str, prefix: str = "", *, delimiter: str = "/"
    ) -> tuple[builtins.list[ObjectInfo], builtins.list[str]]:
        """What lies directly under a prefix: objects, and the prefixes that go on from there."""
        objects: builtins.list[ObjectInfo] = []
        groups: builtins.list[str] = []
        page: str | None = None
        while True:
            found, prefixes, page = self._native.list(bucket, prefix, delimiter, "", None, page)
            objects += found
            groups += prefixes
            if page is None:
                return objects, groups

    # Changing.

    def delete(
        self, bucket: str, key: str, *, version: int | None = None, if_match: str | None = None
    ) -> ObjectInfo:
        """Removes a key, or a version of it for good; gives what was there."""
        return self._native.delete(bucket, key, version, if_match)

    def copy(
        self,
        source: tuple[str, str],
        target: tuple[str, str],
        *,
        version: int | None = None,
        source_if_match: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        overwrite: bool = True,
    ) -> ObjectInfo:
        """Copies (bucket, key) to (bucket, key). Within a bucket no byte moves, and across buckets none through here."""
        if_none_match = arguments.is_new(if_none_match, overwrite)
        return self._native.copy(source, target, version, source_if_match, if_match, if_none_match)

    # Buckets.

    def create_bucket(
        self,
        bucket: str,
        *,
        chunk_size: int | None = None,
        replicas: int | None = None,
        min_replicas: int | None = None,
        quota_bytes: int | None = None,
        quota_objects: int | None = None,
        versioning: str = "off",
    ) -> BucketInfo:
        """Makes a bucket; what is not said is left to the cluster."""
        return self._native.create_bucket(
            bucket, chunk_size, replicas, min_replicas, quota_bytes, quota_objects, versioning
        )

    def bucket(self, bucket: str) -> BucketInfo:
        """A bucket, its settings and what it holds."""
        return self._native.bucket(bucket)

    def buckets(self) -> Iterator[BucketInfo]:
        """All buckets, in the order of their names."""
        page: str | None = None
        while True:
            buckets, page = self._native.buckets(page)
            yield from buckets
            if page is None:
                return

    def delete_bucket(self, bucket: str) -> None:
        """Removes an empty bucket."""
        self._native.delete_bucket(bucket)
