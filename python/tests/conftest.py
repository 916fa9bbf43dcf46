"""A cluster of real processes for the tests, and what kills its members.

XDPFS_BIN_DIR says where the programs are. Nothing is skipped: what is missing fails.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import xdpfs


class Process:
    """A member, with its log in a file; its directory and ports stay through a restart."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.arguments = arguments
        self.log = log
        self.running: subprocess.Popen[str] | None = None

    def start(self, *only_now: str) -> None:
        with self.log.open("a") as log:
            self.running = subprocess.Popen(
                [*self.arguments, *only_now], stdout=subprocess.PIPE, stderr=log, text=True
            )

    def await_ready(self) -> None:
        assert self.running is not None and self.running.stdout is not None
        line = self.running.stdout.readline()
        tail = self.log.read_text()[-2000:]
        assert line.startswith("ready"), f"{self.arguments[0]} is not ready: {line!r}\n{tail}"

    def kill(self) -> None:
        if self.running is not None:
            self.running.send_signal(signal.SIGKILL)
            self.running.wait()
            assert self.running.stdout is not None
            self.running.stdout.close()
        self.running = None


class Cluster:
    """Metadata servers and data nodes on loopback."""

    def __init__(self, directory: Path, *, meta_servers: int = 1, data_nodes: int = 3) -> None:
        programs = Path(os.environ["XDPFS_BIN_DIR"])
        addresses = free_addresses(2 * meta_servers)
        endpoints, peers = addresses[:meta_servers], addresses[meta_servers:]
        self.endpoint = ",".join(endpoints)
        members = []
        for number, (peer, endpoint) in enumerate(zip(peers, endpoints, strict=True), start=1):
            members += ["--member", f"{number},{peer},{endpoint}"]
        self.meta_servers = [
            self._member(directory, programs / "xdpfs-meta-server", f"meta-{number}", "--id", str(number), *members)
            for number in range(1, meta_servers + 1)
        ]
        self.data_nodes = [
            self._member(
                directory,
                programs / "xdpfs-data-node",
                f"node-{number}",
                "--meta",
                self.endpoint,
                "--listen",
                "127.0.0.1:0",
            )
            for number in range(1, data_nodes + 1)
        ]
        try:
            for server in self.meta_servers:
                server.start("--bootstrap")
            for server in self.meta_servers:
                server.await_ready()
            for node in self.data_nodes:
                node.start()
            for node in self.data_nodes:
                node.await_ready()
        except BaseException:
            self.kill()
            raise

    @staticmethod
    def _member(directory: Path, program: Path, name: str, *arguments: str) -> Process:
        data = directory / name
        return Process([str(program), *arguments, "--data-dir", str(data)], directory / f"{name}.log")

    def kill(self) -> None:
        for process in [*self.data_nodes, *self.meta_servers]:
            process.kill()


def free_addresses(count: int) -> list[str]:
    """Addresses of loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = ["{}:{}".format(*each.getsockname()) for each in sockets]
    for each in sockets:
        each.close()
    return addresses


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One that nobody harms."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    # For what is told nothing: programs that only know the environment.
    os.environ["XDPFS_ENDPOINT"] = cluster.endpoint
    yield cluster
    cluster.kill()


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One for a test that kills members."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.kill()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[xdpfs.Client]:
    with xdpfs.Client(cluster.endpoint, timeout=20) as client:
        yield client


@pytest.fixture
def bucket(client: xdpfs.Client, request: pytest.FixtureRequest) -> str:
    """A new one, named after nothing: names of tests are longer than those of buckets."""
    names = request.session.__dict__.setdefault("_bucket_numbers", iter(range(10**6)))
    name = f"test-{next(names)}"
    client.create_bucket(name)
    return name
