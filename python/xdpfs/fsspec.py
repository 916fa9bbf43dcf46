"""A cluster as a file system of fsspec: `xdpfs://BUCKET/KEY`, for pandas, pyarrow, dask, zarr and whatever else knows fsspec.

    import pandas

    table = pandas.read_parquet("xdpfs://lake/table.parquet", storage_options={"endpoint": "127.0.0.1:7001"})

Directories are what keys say by their slashes: one is there as long as there is an object below it, and to make one does
nothing. Nothing is remembered between calls, so what is listed is what is there.
"""

from __future__ import annotations

import asyncio
import io
import os
from datetime import datetime
from typing import Any

from fsspec.asyn import AsyncFileSystem, _run_coros_in_chunks, sync_wrapper
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.spec import AbstractBufferedFile

from xdpfs._async_client import AsyncClient
from xdpfs._client import Client
from xdpfs._errors import ChangedWhileReading, NotFound, PreconditionFailed, RangeNotSatisfiable, write_failed
from xdpfs._files import ObjectWriter, TextWriter
from xdpfs._native import ObjectInfo

Info = dict[str, Any]


class XdpfsFileSystem(AsyncFileSystem):  # type: ignore[misc]
    """The options are those of `xdpfs.Client`; what is not said, the environment says."""

    protocol = "xdpfs"
    root_marker = ""

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        ca: str | None = None,
        access_key: str | None = None,
        access_key_file: str | None = None,
        insecure_key: bool | None = None,
        timeout: float | None = None,
        chunks_in_flight: int | None = None,
        buffered_bytes: int | None = None,
        asynchronous: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        batch_size: int | None = None,
        **storage_options: Any,
    ) -> None:
        super().__init__(asynchronous=asynchronous, loop=loop, batch_size=batch_size, **storage_options)
        made_of: dict[str, Any] = {
            "ca": ca,
            "access_key": access_key,
            "access_key_file": access_key_file,
            "insecure_key": insecure_key,
            "timeout": timeout,
            "chunks_in_flight": chunks_in_flight,
            "buffered_bytes": buffered_bytes,
        }
        #: What the file system does by itself.
        self.client = AsyncClient(endpoint, **made_of)
        #: What open files read and write by, whose callers wait.
        self.file_client = Client(endpoint, **made_of)

    @property
    def fsid(self) -> str:
        return f"xdpfs-{self.file_client._native.endpoint}"

    @classmethod
    def split(cls, path: str) -> tuple[str, str]:
        """The bucket and the key of a path; either may be empty."""
        bucket, _, key = cls._strip_protocol(path).partition("/")
        return bucket, key

    def _object(self, path: str) -> tuple[str, str]:
        """Of a path that has to name an object."""
        bucket, key = self.split(path)
        if not key:
            raise IsADirectoryError(path)
        return bucket, key

    # Looking.

    async def _info(self, path: str, **_options: Any) -> Info:
        path = self._strip_protocol(path)
        bucket, key = self.split(path)
        if not bucket:
            return directory("")
        if not key:
            await self.client.bucket(bucket)
            return directory(bucket)
        try:
            return file(await self.client.stat(bucket, key))
        except NotFound:
            below = self.client.list(bucket, key + "/", page_size=1)
            async for _ in below:
                return directory(path)
        raise FileNotFoundError(path)

    async def _ls(self, path: str, detail: bool = True, **_options: Any) -> list[Any]:
        path = self._strip_protocol(path)
        bucket, key = self.split(path)
        if not bucket:
            found = [directory(each.name) async for each in self.client.buckets()]
        else:
            prefix = f"{key}/" if key else ""
            objects, groups = await self.client.list_directory(bucket, prefix)
            found = [file(each) for each in objects if not is_marker(each)]
            found += [directory(f"{bucket}/{group.removesuffix('/')}") for group in groups]
            found.sort(key=lambda info: info["name"])
            if not objects and not groups and key:
                # A file, or nothing at all.
                info = await self._info(path)
                found = [info] if info["type"] == "file" else []
        return found if detail else [info["name"] for info in found]

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        prefix: str = "",
        **options: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        bucket, key = self.split(path)
        if maxdepth is not None or not bucket:
            return await super()._find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **options)
        found: dict[str, Info] = {}
        base = f"{key}/" if key else ""
        async for each in self.client.list(bucket, base + prefix):
            if not is_marker(each):
                found[f"{bucket}/{each.key}"] = file(each)
        if withdirs:
            for name in list(found):
                above = name.rpartition("/")[0]
                while len(above) > len(path):
                    found.setdefault(above, directory(above))
                    above = above.rpartition("/")[0]
            if found and not prefix:
                found[path] = directory(path)
        if not found and key and await self._isfile(path):
            found[path] = await self._info(path)
        names = sorted(found)
        return {name: found[name] for name in names} if detail else names

    # Whole files.

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_options: Any) -> bytes:
        bucket, key = self._object(path)
        if start is None and end is None:
            return await self.client.get(bucket, key)
        if (start is not None and start < 0 and end is not None) or (end is not None and end < 0):
            size = (await self.client.stat(bucket, key)).size
            start, end, _ = slice(start, end).indices(size)
        start = start or 0
        if end is not None and end <= start:
            return b""
        try:
            return await self.client.get(bucket, key, range=(start, end))
        except RangeNotSatisfiable:
            # As with any slice: what lies behind the end is nothing.
            return b""

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_options: Any) -> None:
        bucket, key = self._object(path)
        try:
            await self.client.put(bucket, key, value, overwrite=mode != "create")
        except PreconditionFailed as error:
            raise FileExistsError(path) from error

    async def _put_file(
        self,
        lpath: str,
        rpath: str,
        mode: str = "overwrite",
        callback: Callback = DEFAULT_CALLBACK,
        **_options: Any,
    ) -> None:
        if os.path.isdir(lpath):
            return
        bucket, key = self._object(rpath)
        callback.set_size(os.path.getsize(lpath))
        try:
            info = await self.client.put_file(bucket, key, lpath, overwrite=mode != "create")
        except PreconditionFailed as error:
            raise FileExistsError(rpath) from error
        callback.absolute_update(info.size)

    async def _get_file(
        self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **_options: Any
    ) -> None:
        bucket, key = self.split(rpath)
        if not key:
            os.makedirs(lpath, exist_ok=True)
            return
        if not os.path.isdir(lpath):
            os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
        try:
            info = await self.client.get_file(bucket, key, lpath)
        except NotFound:
            if not await self._isdir(rpath):
                raise
            os.makedirs(lpath, exist_ok=True)
            return
        callback.set_size(info.size)
        callback.absolute_update(info.size)

    # Changing.

    async def _cp_file(self, path1: str, path2: str, **_options: Any) -> None:
        source = self.split(path1)
        if source[1]:
            try:
                await self.client.copy(source, self._object(path2))
                return
            except NotFound:
                if not await self._isdir(path1):
                    raise

    async def _rm_file(self, path: str, **_options: Any) -> None:
        bucket, key = self._object(path)
        await self.client.delete(bucket, key)

    async def _rm(
        self,
        path: str | list[str],
        recursive: bool = False,
        maxdepth: int | None = None,
        batch_size: int | None = None,
        **_options: Any,
    ) -> None:
        paths = await self._expand_path(path, recursive=recursive, maxdepth=maxdepth)
        objects = [each for each in paths if self.split(each)[1]]
        deletes = [self._rm_expanded(each, recursive) for each in objects]
        await _run_coros_in_chunks(deletes, batch_size=batch_size or self.batch_size, nofiles=True)
        for each in paths:
            bucket, key = self.split(each)
            if bucket and not key:
                await self.client.delete_bucket(bucket)

    async def _rm_expanded(self, path: str, may_be_directory: bool) -> None:
        try:
            await self._rm_file(path)
        except NotFound:
            # A directory goes with what is below it.
            if not may_be_directory:
                raise

    async def _mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        """Makes a bucket, whose options are those of `Client.create_bucket`. Below that there is nothing to make."""
        bucket, key = self.split(path)
        if not key:
            await self.client.create_bucket(bucket, **options)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        try:
            await self._mkdir(path)
        except FileExistsError:
            if not exist_ok:
                raise

    async def _rmdir(self, path: str) -> None:
        bucket, key = self.split(path)
        if not key:
            await self.client.delete_bucket(bucket)

    # One of those that fsspec does not mirror by itself.
    rmdir = sync_wrapper(_rmdir)

    # Files.

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **options: Any,
    ) -> Any:
        """As fsspec has it. Text that is written is given up as bytes are: by an exception in its `with` block."""
        if "b" in mode or "r" in mode:
            return super().open(path, mode, block_size, cache_options, compression, **options)
        text = {name: options.pop(name) for name in ("encoding", "errors", "newline") if name in options}
        mode = mode.replace("t", "") + "b"
        file = super().open(path, mode, block_size, cache_options, compression, **options)
        return (TextWriter if isinstance(file, XdpfsFile) else io.TextIOWrapper)(file, **text)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> XdpfsFile:
        if mode not in ("rb", "wb", "xb"):
            raise NotImplementedError(f"there is no mode {mode!r}: objects are read, or written as a whole")
        self._object(path)
        if mode == "xb" and self.exists(path):
            raise FileExistsError(path)
        return XdpfsFile(self, path, mode, block_size, autocommit, cache_options=cache_options, **options)

    def created(self, path: str) -> datetime:
        """When what is there was put."""
        created: datetime = self.info(path)["created"]
        return created

    def modified(self, path: str) -> datetime:
        """The same: objects do not change, they are replaced."""
        return self.created(path)

    def ukey(self, path: str) -> str:
        """Changes whenever the object does."""
        etag: str = self.info(path)["ETag"]
        return etag


class XdpfsFile(AbstractBufferedFile):  # type: ignore[misc]
    """Reads the version that was there when it was opened. What is written is there when it was closed in good order, or
    with its transaction; an exception in a `with` block gives it up."""

    fs: XdpfsFileSystem
    _writer: ObjectWriter | None = None
    _failed = False

    def _fetch_range(self, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        bucket, key = self.fs._object(self.path)
        version = self.details["version"]
        try:
            return self.fs.file_client.get(bucket, key, range=(start, end), version=version)
        except NotFound as error:
            raise ChangedWhileReading(f"version {version} is no longer there") from error

    def _initiate_upload(self) -> None:
        bucket, key = self.fs._object(self.path)
        self._writer = self.fs.file_client.writer(bucket, key, overwrite=self.mode != "xb")

    def _upload_chunk(self, final: bool = False) -> bool:
        if self._failed:
            raise write_failed()
        assert self._writer is not None
        try:
            self._writer.write(self.buffer.getvalue())
        except BaseException:
            self.fail()
            raise
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        if self._failed:
            raise write_failed()
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
        except PreconditionFailed as error:
            raise FileExistsError(self.path) from error

    def discard(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()

    def fail(self) -> None:
        """Gives it up because bytes are missing; `close` and `commit` say so."""
        self._failed, self._writer = True, None

    def abort(self) -> None:
        """Gives up what was written; no object comes of it."""
        self.discard()
        self.closed = True

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None and self.mode != "rb":
            self.abort()
        self.close()

    def __del__(self) -> None:
        # Whoever forgot to close it may have failed on the way.
        if self.closed or self.mode == "rb":
            return
        self._writer = None
        self.closed = True


def file(info: ObjectInfo) -> Info:
    """An object as fsspec sees it."""
    return {
        "name": f"{info.bucket}/{info.key}",
        "type": "file",
        "size": info.size,
        "created": info.created,
        "LastModified": info.created,
        "ETag": info.etag,
        "version": info.version,
        "crc32c": info.crc32c,
        "content_type": info.content_type,
    }


def directory(name: str) -> Info:
    """A bucket, or a part of keys."""
    return {"name": name, "type": "directory", "size": 0}


def is_marker(info: ObjectInfo) -> bool:
    """Whether other programs mean a directory by it."""
    return info.size == 0 and info.key.endswith("/")


__all__ = ["XdpfsFile", "XdpfsFileSystem"]
