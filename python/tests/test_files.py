"""Objects as files."""

from __future__ import annotations

import gc
import io
import os
import random
import zipfile

import pytest
import xdpfs

LARGE = os.urandom(1 << 20) * 13


def test_what_is_written_is_there_when_the_file_is_closed(client: xdpfs.Client, bucket: str) -> None:
    with client.open(bucket, "object", "wb") as file:
        for start in range(0, len(LARGE), 100_001):
            assert file.write(LARGE[start : start + 100_001]) > 0
        assert file.tell() == len(LARGE)
        assert not client.exists(bucket, "object")
    assert client.get(bucket, "object") == LARGE
    assert file.closed


def test_exception_gives_up_what_was_written(client: xdpfs.Client, bucket: str) -> None:
    for mode in ("wb", "w"):
        with pytest.raises(KeyError):
            with client.open(bucket, "object", mode) as file:
                file.write("x" * 1000 if mode == "w" else b"x" * (1 << 20))
                raise KeyError
        assert not client.exists(bucket, "object")


def test_file_that_is_forgotten_is_no_object(client: xdpfs.Client, bucket: str) -> None:
    for mode in ("wb", "w"):
        file = client.open(bucket, "object", mode)
        file.write("x" * 1000 if mode == "w" else b"x" * (1 << 20))
        del file
        gc.collect()
    client.close()
    assert not client.exists(bucket, "object")


class Interrupted:
    """What reads and writes until Ctrl-C comes."""

    def __init__(self, native: object) -> None:
        self.native = native

    def __getattr__(self, name: str) -> object:
        return getattr(self.native, name)

    def __len__(self) -> int:
        return len(self.native)  # type: ignore[arg-type]

    def readinto(self, buffer: memoryview) -> int:
        # It has read on, and nobody knows how far.
        self.native.readinto(buffer)  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    def read(self, *size: int) -> bytes:
        self.native.read(*size)  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    def write(self, data: bytes) -> int:
        raise KeyboardInterrupt


def test_read_after_an_interrupted_one_gives_the_bytes_that_are_next(client: xdpfs.Client, bucket: str) -> None:
    client.put(bucket, "object", LARGE)
    with client.reader(bucket, "object") as file:
        assert file.read(1000) + file.read(1000) == LARGE[:2000]
        file._stream = Interrupted(file._stream)
        with pytest.raises(KeyboardInterrupt):
            file.read(5000)
        assert file.tell() == 2000 and file.read(1000) == LARGE[2000:3000]
        assert file.read(1000) == LARGE[3000:4000]
        file._stream = Interrupted(file._stream)
        with pytest.raises(KeyboardInterrupt):
            file.readall()
        assert file.tell() == 4000 and file.readall() == LARGE[4000:]


def test_object_some_of_whose_bytes_were_not_written_is_not_committed(client: xdpfs.Client, bucket: str) -> None:
    for mode in ("wb", "w"):
        file = client.open(bucket, "object", mode)
        raw, piece = (file, b"x" * (1 << 20)) if mode == "wb" else (file.buffer, "x" * (1 << 20))
        file.write(piece)
        raw._native = Interrupted(raw._native)
        with pytest.raises(KeyboardInterrupt):
            file.write(piece)
            file.flush()
        with pytest.raises(xdpfs.XdpfsError, match="nothing was stored"):
            file.write(piece)
            file.flush()
        with pytest.raises(xdpfs.XdpfsError, match="nothing was stored"):
            file.close()
        assert file.closed and not client.exists(bucket, "object")


def test_exclusive_mode_replaces_nothing(client: xdpfs.Client, bucket: str) -> None:
    with client.open(bucket, "object", "xb") as file:
        file.write(b"1")
    late = client.open(bucket, "object", "xb")
    late.write(b"2")
    with pytest.raises(xdpfs.PreconditionFailed):
        late.close()
    assert late.closed and client.get(bucket, "object") == b"1"


def test_text_is_text(client: xdpfs.Client, bucket: str) -> None:
    with client.open(bucket, "object", "w", encoding="utf-8", newline="\r\n") as file:
        file.write("größer\nals\n")
    assert client.get(bucket, "object") == "größer\r\nals\r\n".encode()
    with client.open(bucket, "object", "r", encoding="utf-8") as file:
        assert file.readlines() == ["größer\n", "als\n"]
    for bad in ("ab", "r+", "rbt", "a"):
        with pytest.raises(ValueError):
            client.open(bucket, "object", bad)


def test_reads_and_seeks_are_those_of_a_file(client: xdpfs.Client, bucket: str) -> None:
    client.put(bucket, "object", LARGE)
    expected, chance = io.BytesIO(LARGE), random.Random(7)
    with client.open(bucket, "object") as file:
        for _ in range(200):
            if chance.random() < 0.5:
                place = chance.randrange(len(LARGE) + 1000)
                assert file.seek(place) == expected.seek(place)
            size = chance.choice([0, 1, 100, 70_000, 1 << 20])
            assert file.read(size) == expected.read(size)
            assert file.tell() == expected.tell()
        assert file.seek(-10, io.SEEK_END) == len(LARGE) - 10
        assert file.read() == LARGE[-10:]
        assert file.read() == b""
        file.seek(5)
        assert file.read() == LARGE[5:]


def test_reader_reads_one_version_or_says_that_it_is_gone(client: xdpfs.Client, bucket: str) -> None:
    client.put(bucket, "object", LARGE)
    with client.reader(bucket, "object") as file:
        assert file.read(10) == LARGE[:10]
        client.put(bucket, "object", b"other")
        file.seek(1 << 20)
        with pytest.raises(xdpfs.ChangedWhileReading) as failed:
            file.read(10)
        assert failed.value.retryable


def test_archive_is_written_and_read_in_place(client: xdpfs.Client, bucket: str) -> None:
    with client.open(bucket, "all.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", LARGE)
        archive.writestr("b", b"small")
    with client.open(bucket, "all.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("b") == b"small" and archive.read("a") == LARGE
