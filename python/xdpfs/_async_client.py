"""The client for asyncio: the same operations, awaited."""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any

from xdpfs import _arguments as arguments
from xdpfs._arguments import PARALLEL, BytesLike, Range
from xdpfs._errors import NotFound, write_failed
from xdpfs._native import BucketInfo, NativeClient, NativeReader, NativeWriter, ObjectInfo


class AsyncObjectReader:
    """Reads an object, or a range of it, in order. `async for` gives it piece by piece. A read that fails or is cancelled
    closes it."""

    #: What `async for` gives at once.
    PIECE_BYTES = 1 << 20

    def __init__(self, native: NativeReader) -> None:
        self._native = native

    @property
    def info(self) -> ObjectInfo:
        """The object that is read."""
        return self._native.info

    def __len__(self) -> int:
        """How many bytes are given in all."""
        return len(self._native)

    async def read(self, size: int = -1) -> bytes:
        """The next bytes, all that are left by default; none behind the last one."""
        try:
            return await self._native.read(size)
        except BaseException:
            # Nobody knows how far it has read.
            self._native.close()
            raise

    async def readinto(self, buffer: BytesLike) -> int:
        """The next bytes into a writable buffer; how many there were."""
        view = memoryview(buffer).cast("B")
        try:
            return await self._native.readinto(view)
        except BaseException:
            self._native.close()
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.read(self.PIECE_BYTES):
            yield piece

    async def __aenter__(self) -> AsyncObjectReader:
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._native.close()


class AsyncObjectWriter:
    """Writes one object. `close` makes it visible; an exception in an `async with` block gives it up, and so does a write
    that fails or is cancelled."""

    def __init__(self, native: NativeWriter) -> None:
        # None once a write has failed.
        self._native: NativeWriter | None = native
        #: What was put, once it was.
        self.info: ObjectInfo | None = None

    async def write(self, data: BytesLike) -> int:
        """More bytes."""
        native, piece = self._whole(), arguments.data(data)
        try:
            return await native.write(piece)
        except BaseException:
            self._native = None
            raise

    async def close(self) -> ObjectInfo:
        """Commits what was written."""
        if self.info is None:
            self.info = await self._whole().finish()
        return self.info

    async def abort(self) -> None:
        """Gives up what was written; no object comes of it."""
        if self._native is not None:
            await self._native.abort()

    def _whole(self) -> NativeWriter:
        if self._native is None:
            raise write_failed()
        return self._native

    async def __aenter__(self) -> AsyncObjectWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.abort()


class AsyncClient:
    """As `Client`, for asyncio: each operation is awaited in a running event loop, and cancelling it ends the work."""

    _awaits = True

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
        """The arguments are those of `Client`."""
        self._arguments: dict[str, Any] = {
            "options": arguments.options(endpoint, ca, access_key, access_key_file, insecure_key, timeout),
            "chunks_in_flight": chunks_in_flight,
            "buffered_bytes": buffered_bytes,
        }
        self._native = NativeClient(awaits=self._awaits, **self._arguments)

    @classmethod
    def _made_again(cls, made_of: dict[str, Any]) -> AsyncClient:
        client = cls.__new__(cls)
        client._arguments = made_of
        client._native = NativeClient(awaits=cls._awaits, **made_of)
        return client

    def __reduce__(self) -> Any:
        return type(self)._made_again, (self._arguments,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._native.endpoint!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits until puts that were given up are cleaned away."""
        await self._native.close()

    # Writing.

    async def put(
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
        """Stores bytes under a key."""
        if_none_match = arguments.is_new(if_none_match, overwrite)
        words = arguments.words(content_type, metadata)
        return await self._native.put(bucket, key, arguments.data(data), words, if_match, if_none_match)

    async def put_file(
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
        return await self._native.put_file(bucket, key, os.fspath(path), words, if_match, if_none_match)

    async def put_many(
        self,
        bucket: str,
        items: Mapping[str, BytesLike] | Iterable[tuple[str, BytesLike]],
        *,
        parallel: int = PARALLEL,
    ) -> builtins.list[ObjectInfo]:
        """One put for each key, so many at once. The first failure ends it, and what was put until then stays."""
        return await self._native.put_many(bucket, arguments.items(items), parallel)

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
    ) -> AsyncObjectWriter:
        """Something to write to, best in an `async with` block."""
        if_none_match = arguments.is_new(if_none_match, overwrite)
        words = arguments.words(content_type, metadata)
        return AsyncObjectWriter(self._native.writer(bucket, key, words, if_match, if_none_match))

    # Reading.

    async def get(
        self,
        bucket: str,
        key: str,
        *,
        range: Range | None = None,
        version: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> bytes:
        """The bytes of one version of an object, checked."""
        asked = arguments.byte_range(range)
        got = await self._native.get(bucket, key, asked, version, if_match, if_none_match)
        return await got.read() if isinstance(got, NativeReader) else got

    async def reader(
        self,
        bucket: str,
        key: str,
        *,
        range: Range | None = None,
        version: int | None = None,
        if_match: str | None = None,
    ) -> AsyncObjectReader:
        """An object, or a range of it, piece by piece."""
        asked = arguments.byte_range(range)
        return AsyncObjectReader(await self._native.open(bucket, key, asked, version, if_match, None))

    async def get_file(
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
        asked, path = arguments.byte_range(range), os.fspath(path)
        return await self._native.get_file(bucket, key, path, asked, version, if_match, if_none_match)

    async def get_many(self, bucket: str, keys: Iterable[str], *, parallel: int = PARALLEL) -> dict[str, bytes]:
        """The bytes of several objects, so many at once. The first failure ends it."""
        keys = list(keys)
        return dict(zip(keys, await self._native.get_many(bucket, keys, parallel), strict=True))

    # Looking.

    async def stat(
        self,
        bucket: str,
        key: str,
        *,
        version: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> ObjectInfo:
        """What a key holds, without its bytes."""
        return await self._native.stat(bucket, key, version, if_match, if_none_match)

    async def exists(self, bucket: str, key: str) -> bool:
        """Whether a key holds anything."""
        try:
            await self.stat(bucket, key)
        except NotFound:
            return False
        return True

    async def list(
        self, bucket: str, prefix: str = "", *, start_after: str = "", page_size: int | None = None
    ) -> AsyncIterator[ObjectInfo]:
        """All objects whose keys begin so, in the order of their keys, page by page as they are asked for."""
        page: str | None = None
        while True:
            objects, _groups, page = await self._native.list(bucket, prefix, "", start_after, page_size, page)
            for found in objects:
                yield found
            if page is None:
                return

    async def list_directory(
        self, bucket: str, prefix: str = "", *, delimiter: str = "/"
    ) -> tuple[builtins.list[ObjectInfo], builtins.list[str]]:
        """What lies directly under a prefix: objects, and the prefixes that go on from there."""
        objects: builtins.list[ObjectInfo] = []
        groups: builtins.list[str] = []
        page: str | None = None
        while True:
            found, prefixes, page = await self._native.list(bucket, prefix, delimiter, "", None, page)
            objects += found
            groups += prefixes
            if page is None:
                return objects, groups

    # Changing.

    async def delete(
        self, bucket: str, key: str, *, version: int | None = None, if_match: str | None = None
    ) -> ObjectInfo:
        """Removes a key, or a version of it for good; gives what was there."""
        return await self._native.delete(bucket, key, version, if_match)

    async def copy(
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
        return await self._native.copy(source, target, version, source_if_match, if_match, if_none_match)

    # Buckets.

    async def create_bucket(
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
        return await self._native.create_bucket(
            bucket, chunk_size, replicas, min_replicas, quota_bytes, quota_objects, versioning
        )

    async def bucket(self, bucket: str) -> BucketInfo:
        """A bucket, its settings and what it holds."""
        return await self._native.bucket(bucket)

    async def buckets(self) -> AsyncIterator[BucketInfo]:
        """All buckets, in the order of their names."""
        page: str | None = None
        while True:
            buckets, page = await self._native.buckets(page)
            for bucket in buckets:
                yield bucket
            if page is None:
                return

    async def delete_bucket(self, bucket: str) -> None:
        """Removes an empty bucket."""
        await self._native.delete_bucket(bucket)
