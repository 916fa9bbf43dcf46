"""fsspec's own tests of file systems, and what they do not ask.

None of them is left out. Where they allow for it they are told that there are no empty directories, as with any store of
objects: a directory is there as long as something is in it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator

import fsspec
import fsspec.tests.abstract as abstract
import pytest
import xdpfs
from xdpfs.fsspec import XdpfsFileSystem

LARGE = os.urandom(1 << 20) * 12


class XdpfsFixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, cluster: object) -> XdpfsFileSystem:
        return fsspec.filesystem("xdpfs", endpoint=cluster.endpoint)  # type: ignore[attr-defined]

    @pytest.fixture
    def fs_path(self, bucket: str) -> str:
        return bucket

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestXdpfsCopy(abstract.AbstractCopyTests, XdpfsFixtures):
    pass


class TestXdpfsGet(abstract.AbstractGetTests, XdpfsFixtures):
    pass


class TestXdpfsPut(abstract.AbstractPutTests, XdpfsFixtures):
    pass


class TestXdpfsOpen(abstract.AbstractOpenTests, XdpfsFixtures):
    pass


class TestXdpfsPipe(abstract.AbstractPipeTests, XdpfsFixtures):
    pass


@pytest.fixture
def fs(cluster: object) -> Iterator[XdpfsFileSystem]:
    yield fsspec.filesystem("xdpfs", endpoint=cluster.endpoint)  # type: ignore[attr-defined]


def test_scheme_is_known_by_the_name_alone(cluster: object, bucket: str) -> None:
    with fsspec.open(f"xdpfs://{bucket}/object", "w") as file:
        file.write("text")
    fs, path = fsspec.url_to_fs(f"xdpfs://{bucket}/object")
    assert isinstance(fs, XdpfsFileSystem) and path == f"{bucket}/object"
    assert fs.cat(path) == b"text"


def test_directories_are_what_keys_say(fs: XdpfsFileSystem, bucket: str) -> None:
    fs.pipe({f"{bucket}/a/b/c": b"1", f"{bucket}/a/d": b"22", f"{bucket}/e": b""})
    fs.client  # the async one is the file system's own
    assert fs.ls(bucket, detail=False) == [f"{bucket}/a", f"{bucket}/e"]
    assert [info["type"] for info in fs.ls(bucket)] == ["directory", "file"]
    assert fs.find(bucket) == [f"{bucket}/a/b/c", f"{bucket}/a/d", f"{bucket}/e"]
    expected = [f"{bucket}/a", f"{bucket}/a/b", f"{bucket}/a/b/c", f"{bucket}/a/d"]
    assert fs.find(f"{bucket}/a", withdirs=True) == expected
    assert fs.find(bucket, maxdepth=1) == [f"{bucket}/e"]
    assert fs.glob(f"{bucket}/**/c") == [f"{bucket}/a/b/c"]
    assert fs.du(bucket) == 3 and fs.isdir(f"{bucket}/a/b") and not fs.exists(f"{bucket}/a/x")
    assert bucket in fs.ls("", detail=False)
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{bucket}/nothing")
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{bucket}/a/x")
    fs.mv(f"{bucket}/e", f"{bucket}/f")
    assert fs.exists(f"{bucket}/f") and not fs.exists(f"{bucket}/e")
    fs.rm(f"{bucket}/a", recursive=True)
    assert fs.find(bucket) == [f"{bucket}/f"]


def test_markers_of_directories_are_no_files(fs: XdpfsFileSystem, client: xdpfs.Client, bucket: str) -> None:
    client.put_many(bucket, {"dir/": b"", "dir/file": b"x"})
    assert fs.find(bucket) == [f"{bucket}/dir/file"]
    assert fs.ls(f"{bucket}/dir", detail=False) == [f"{bucket}/dir/file"]


def test_buckets_are_made_and_removed(fs: XdpfsFileSystem, bucket: str) -> None:
    name = f"{bucket}-made"
    fs.mkdir(name, versioning="on")
    with pytest.raises(FileExistsError):
        fs.mkdir(name)
    fs.makedirs(name, exist_ok=True)
    fs.pipe(f"{name}/a/b", b"x")
    with pytest.raises(xdpfs.BucketNotEmpty):
        fs.rmdir(name)
    fs.rm(f"{name}/a/b")


def test_ranges_are_those_of_slices(fs: XdpfsFileSystem, bucket: str) -> None:
    path = f"{bucket}/object"
    fs.pipe(path, LARGE[:1000])
    for start, end in [(None, 5), (990, None), (-5, None), (10, -10), (-10, -5), (5, 5), (2000, 3000), (0, 0)]:
        assert fs.cat_file(path, start=start, end=end) == LARGE[:1000][start:end], (start, end)
    assert fs.cat_ranges([path] * 2, [0, 10], [5, 20]) == [LARGE[:5], LARGE[10:20]]
    assert fs.head(path, 3) == LARGE[:3] and fs.tail(path, 3) == LARGE[997:1000]


def test_files_are_one_version_and_appear_when_closed(fs: XdpfsFileSystem, bucket: str) -> None:
    path = f"{bucket}/object"
    with fs.open(path, "wb", block_size=1 << 20) as file:
        file.write(LARGE)
        assert not fs.exists(path)
    with fs.open(path, "rb") as file:
        file.seek(1 << 20)
        assert file.read(10) == LARGE[1 << 20 : (1 << 20) + 10]
        before = fs.ukey(path)
        fs.pipe(path, b"other")
        assert fs.ukey(path) != before
        file.seek(-5, 2)
        with pytest.raises(xdpfs.ChangedWhileReading):
            file.read(5)
    with pytest.raises(KeyError):
        with fs.open(f"{bucket}/given-up", "wb", block_size=1 << 20) as file:
            file.write(LARGE)
            raise KeyError
    with pytest.raises(KeyError):
        with fs.open(f"{bucket}/given-up", "w", encoding="utf-8") as file:
            file.write("half of it")
            raise KeyError
    assert not fs.exists(f"{bucket}/given-up")
    with fs.open(f"{bucket}/text", "w", encoding="latin-1", newline="\r\n") as file:
        file.write("größer\n")
    assert fs.cat(f"{bucket}/text") == "größer\r\n".encode("latin-1")
    with pytest.raises(NotImplementedError):
        fs.open(path, "ab")


def test_file_some_of_whose_bytes_were_not_written_is_not_committed(fs: XdpfsFileSystem, bucket: str) -> None:
    file = fs.open(f"{bucket}/object", "wb", block_size=1 << 20)
    file.write(LARGE[: 2 << 20])
    file._writer._native = Broken()
    with pytest.raises(KeyboardInterrupt):
        file.write(LARGE)
    for _ in range(2):
        with pytest.raises(xdpfs.XdpfsError, match="nothing was stored"):
            file.commit()
    with pytest.raises(xdpfs.XdpfsError, match="nothing was stored"):
        file.close()
    assert file.closed and not fs.exists(f"{bucket}/object")


class Broken:
    def write(self, data: bytes) -> int:
        raise KeyboardInterrupt


def test_transaction_shows_all_at_its_end(fs: XdpfsFileSystem, bucket: str) -> None:
    with fs.transaction:
        for number in range(3):
            with fs.open(f"{bucket}/{number}", "wb") as file:
                file.write(b"x")
        assert fs.find(bucket) == []
    assert len(fs.find(bucket)) == 3
    with pytest.raises(KeyError):
        with fs.transaction:
            with fs.open(f"{bucket}/3", "wb") as file:
                file.write(b"x")
            raise KeyError
    assert len(fs.find(bucket)) == 3


def test_file_system_can_be_pickled(fs: XdpfsFileSystem, bucket: str) -> None:
    fs.pipe(f"{bucket}/object", b"x")
    assert pickle.loads(pickle.dumps(fs)).cat(f"{bucket}/object") == b"x"
