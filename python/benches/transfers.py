"""Puts objects of one size and gets them again: `transfers.py ENDPOINTS BUCKET SIZE COUNT PARALLEL` prints how many seconds the
puts took, and how many the gets. The same as client/examples/transfers.rs, beside which it is measured.

`transfers.py --boto3 SIZE COUNT PARALLEL` does it by boto3, on the S3 server of moto, which keeps objects in the memory of a process
of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def content(size: int) -> bytes:
    block = bytes((at * 2654435761 >> 24) & 0xFF for at in range(1 << 16))
    return (block * (size // len(block) + 1))[:size]


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def by_xdpfs(endpoint: str, bucket: str, size: int, count: int, parallel: int) -> None:
    import xdpfs

    client, data = xdpfs.Client(endpoint), content(size)
    client.put(bucket, "python/warm-up", data)
    keys = [f"python/{number}" for number in range(count)]

    def put() -> None:
        if parallel > 1:
            client.put_many(bucket, ((key, data) for key in keys), parallel=parallel)
        else:
            for key in keys:
                client.put(bucket, key, data)

    def get() -> None:
        if parallel > 1:
            lengths = {len(got) for got in client.get_many(bucket, keys, parallel=parallel).values()}
        else:
            lengths = {len(client.get(bucket, key)) for key in keys}
        assert lengths == {size}

    print(f"{timed(put):.6f} {timed(get):.6f}")


def by_boto3(size: int, count: int, parallel: int) -> None:
    import boto3
    from botocore.config import Config

    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        address = next(line.split()[-1] for line in server.stderr if "Running on http" in line)
        # It tells every request, and would wait for somebody to read that.
        threading.Thread(target=server.stderr.read, daemon=True).start()
        credentials = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        config = Config(max_pool_connections=parallel)
        client, data = boto3.client("s3", endpoint_url=address, config=config, **credentials), content(size)
        client.create_bucket(Bucket="bench")
        client.put_object(Bucket="bench", Key="warm-up", Body=data)

        def put(number: int) -> None:
            client.put_object(Bucket="bench", Key=str(number), Body=data)

        def get(number: int) -> None:
            assert len(client.get_object(Bucket="bench", Key=str(number))["Body"].read()) == size

        with ThreadPoolExecutor(parallel) as threads:
            took = [timed(lambda: list(threads.map(work, range(count)))) for work in (put, get)]
        print(f"{took[0]:.6f} {took[1]:.6f}")
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    if sys.argv[1] == "--boto3":
        by_boto3(*map(int, sys.argv[2:]))
    else:
        by_xdpfs(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
