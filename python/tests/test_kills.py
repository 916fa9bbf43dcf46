"""Members that are killed while the client works."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
import xdpfs
from conftest import Cluster

LARGE = os.urandom(1 << 20) * 64


def test_reader_goes_on_when_nodes_that_it_reads_from_are_killed(own_cluster: Cluster) -> None:
    client = xdpfs.Client(own_cluster.endpoint, timeout=20)
    client.create_bucket("demo", replicas=3, min_replicas=3)
    client.put("demo", "object", LARGE)
    with client.reader("demo", "object") as file:
        read = bytearray(file.read(1 << 20) + file.read(1 << 20))
        # Whichever two it reads from: the third has all of it.
        for node in own_cluster.data_nodes[:2]:
            node.kill()
        read += file.read()
    assert read == LARGE


def test_reader_without_a_replica_left_is_told_that_it_may_try_again(own_cluster: Cluster) -> None:
    client = xdpfs.Client(own_cluster.endpoint, timeout=2)
    client.create_bucket("demo", replicas=1, min_replicas=1)
    client.put("demo", "object", LARGE)
    with client.reader("demo", "object") as file:
        assert file.read(1 << 20) + file.read(1 << 20) == LARGE[: 2 << 20]
        for node in own_cluster.data_nodes:
            node.kill()
        with pytest.raises(xdpfs.Unavailable) as failed:
            file.read()
        assert failed.value.retryable
    # The same request works once they are back.
    for node in own_cluster.data_nodes:
        node.start()
        node.await_ready()
    assert xdpfs.Client(own_cluster.endpoint, timeout=30).get("demo", "object") == LARGE


def test_awaited_get_fails_alike(own_cluster: Cluster) -> None:
    async def main() -> None:
        client = xdpfs.AsyncClient(own_cluster.endpoint, timeout=2)
        await client.create_bucket("demo", replicas=1, min_replicas=1)
        await client.put("demo", "object", LARGE)
        reader = await client.reader("demo", "object")
        assert await reader.read(1 << 20) == LARGE[: 1 << 20]
        for node in own_cluster.data_nodes:
            node.kill()
        with pytest.raises(xdpfs.Unavailable):
            await reader.read()

    asyncio.run(main())


def test_two_writers_of_a_log_lose_no_commit(own_cluster: Cluster) -> None:
    client = xdpfs.Client(own_cluster.endpoint, timeout=30)
    client.create_bucket("lake")
    commits = 20

    def write(name: str) -> None:
        version = 0
        for number in range(commits):
            while True:
                try:
                    entry = f"_delta_log/{version:020}.json"
                    client.put("lake", entry, f"{name} {number}".encode(), overwrite=False)
                    break
                except xdpfs.PreconditionFailed:
                    version += 1

    writers = [threading.Thread(target=write, args=(name,)) for name in ("first", "second")]
    for writer in writers:
        writer.start()
    # One of three replicas is not needed, neither for puts nor for gets.
    own_cluster.data_nodes[0].kill()
    for writer in writers:
        writer.join()
    keys = [info.key for info in client.list("lake")]
    assert keys == [f"_delta_log/{version:020}.json" for version in range(2 * commits)]
    entries = [data.decode() for data in client.get_many("lake", keys).values()]
    for name in ("first", "second"):
        assert [entry for entry in entries if entry.startswith(name)] == [f"{name} {n}" for n in range(commits)]
