"""The client for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import xdpfs

LARGE = os.urandom(1 << 20) * 20


def run(cluster: object, work: Callable[[xdpfs.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with xdpfs.AsyncClient(cluster.endpoint, timeout=20) as client:  # type: ignore[attr-defined]
            await work(client)

    asyncio.run(main())


def test_operations_are_awaited(cluster: object, bucket: str, tmp_path: Path) -> None:
    async def work(client: xdpfs.AsyncClient) -> None:
        put = await client.put(bucket, "small", b"x", metadata={"a": "b"})
        assert await client.stat(bucket, "small") == put
        await client.put(bucket, "large", LARGE)
        assert await client.get(bucket, "large") == LARGE
        assert await client.get(bucket, "large", range=(-5, None)) == LARGE[-5:]
        await client.copy((bucket, "large"), (bucket, "copy"))
        assert [info.key async for info in client.list(bucket)] == ["copy", "large", "small"]
        assert await client.list_directory(bucket, "sm") == ([put], [])
        assert (await client.get_many(bucket, ["small", "copy"])) == {"small": b"x", "copy": LARGE}
        await client.get_file(bucket, "large", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == LARGE
        await client.put_file(bucket, "file", tmp_path / "file")
        await client.put_many(bucket, {"1": b"1", "2": b"2"})
        assert await client.exists(bucket, "1")
        await client.delete(bucket, "1")
        assert not await client.exists(bucket, "1")
        with pytest.raises(xdpfs.NotFound):
            await client.get(bucket, "nothing")
        await client.create_bucket(f"{bucket}-2")
        assert (await client.bucket(f"{bucket}-2")).objects == 0
        await client.delete_bucket(f"{bucket}-2")
        assert bucket in [each.name async for each in client.buckets()]

    run(cluster, work)


def test_many_at_once_are_many_at_once(cluster: object, bucket: str) -> None:
    async def work(client: xdpfs.AsyncClient) -> None:
        items = {f"object-{number}": os.urandom(4096) for number in range(100)}
        await asyncio.gather(*(client.put(bucket, key, data) for key, data in items.items()))
        got = await asyncio.gather(*(client.get(bucket, key) for key in items))
        assert dict(zip(items, got, strict=True)) == items

    run(cluster, work)


def test_streams_read_and_write_piece_by_piece(cluster: object, bucket: str) -> None:
    async def work(client: xdpfs.AsyncClient) -> None:
        async with client.writer(bucket, "object") as writer:
            for start in range(0, len(LARGE), 1 << 20):
                await writer.write(LARGE[start : start + (1 << 20)])
            assert not await client.exists(bucket, "object")
        assert writer.info is not None and writer.info.size == len(LARGE)
        async with await client.reader(bucket, "object", range=(3, None)) as reader:
            assert len(reader) == len(LARGE) - 3
            assert b"".join([piece async for piece in reader]) == LARGE[3:]
        buffer = bytearray(100)
        assert await (await client.reader(bucket, "object")).readinto(buffer) == 100
        assert buffer == LARGE[:100]
        with pytest.raises(KeyError):
            async with client.writer(bucket, "given-up") as writer:
                await writer.write(LARGE)
                raise KeyError
        assert not await client.exists(bucket, "given-up")

    run(cluster, work)


def test_who_cancels_ends_the_work_and_the_loop_goes_on(cluster: object, bucket: str) -> None:
    async def work(client: xdpfs.AsyncClient) -> None:
        nobody = xdpfs.AsyncClient("127.0.0.1:1", timeout=60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(nobody.stat(bucket, "object"), 0.2)
        put = asyncio.create_task(client.put(bucket, "cancelled", LARGE * 4))
        await asyncio.sleep(0.005)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        await client.close()
        assert not await client.exists(bucket, "cancelled")
        await client.put(bucket, "object", b"x")

    run(cluster, work)


def test_stream_is_over_once_a_read_or_a_write_was_cancelled(cluster: object, bucket: str) -> None:
    async def work(client: xdpfs.AsyncClient) -> None:
        await client.put(bucket, "object", LARGE)
        reader = await client.reader(bucket, "object")
        reading = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        with pytest.raises(xdpfs.XdpfsError, match="the reader is closed"):
            await reader.read(10)
        writer = client.writer(bucket, "half")
        await writer.write(LARGE[:1000])
        writing = asyncio.create_task(writer.write(LARGE * 4))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        for go_on in (writer.write(b"x"), writer.close()):
            with pytest.raises(xdpfs.XdpfsError, match="nothing was stored"):
                await go_on
        await writer.abort()
        assert not await client.exists(bucket, "half")

    run(cluster, work)


def test_file_is_got_as_a_whole_by_several_and_not_at_all_if_cancelled(
    cluster: object, bucket: str, tmp_path: Path
) -> None:
    async def work(client: xdpfs.AsyncClient) -> None:
        await client.put(bucket, "object", LARGE * 4)
        getting = asyncio.create_task(client.get_file(bucket, "object", tmp_path / "file"))
        while not os.listdir(tmp_path):
            await asyncio.sleep(0.001)
        getting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting
        async with asyncio.timeout(20):
            while os.listdir(tmp_path):
                await asyncio.sleep(0.01)
        await asyncio.gather(*(client.get_file(bucket, "object", tmp_path / "file") for _ in range(4)))
        assert os.listdir(tmp_path) == ["file"]
        assert (tmp_path / "file").read_bytes() == LARGE * 4

    run(cluster, work)


def test_client_serves_one_loop_after_the_other(cluster: object, bucket: str) -> None:
    client = xdpfs.AsyncClient(cluster.endpoint)  # type: ignore[attr-defined]
    for number in range(3):
        asyncio.run(client.put(bucket, "object", str(number).encode()))
        assert asyncio.run(client.get(bucket, "object")) == str(number).encode()
    with pytest.raises(RuntimeError):
        client._native.stat(bucket, "object", None, None, None)
