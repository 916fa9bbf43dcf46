"""The client whose callers wait."""

from __future__ import annotations

import array
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import xdpfs

LARGE = os.urandom(1 << 20) * 20


def test_what_is_put_is_got_with_what_was_said_about_it(client: xdpfs.Client, bucket: str) -> None:
    put = client.put(bucket, "a/b", b"hello", content_type="text/plain", metadata={"colour": "blue"})
    assert client.get(bucket, "a/b") == b"hello"
    info = client.stat(bucket, "a/b")
    assert info == put
    assert (info.bucket, info.key, info.size, info.content_type) == (bucket, "a/b", 5, "text/plain")
    assert info.metadata == {"colour": "blue"} and info.crc32c == 0x9A71BB4C
    assert abs(datetime.now(timezone.utc) - info.created) < timedelta(minutes=5)
    assert info.durable_replicas >= 2


@pytest.mark.parametrize("size", [0, 1, 256 << 10, (256 << 10) + 1, 4 << 20, len(LARGE)])
def test_objects_of_all_sizes_come_back_whole(client: xdpfs.Client, bucket: str, size: int) -> None:
    client.put(bucket, "object", LARGE[:size])
    assert client.get(bucket, "object") == LARGE[:size]


def test_all_that_has_the_buffer_protocol_can_be_put_and_text_can_not(client: xdpfs.Client, bucket: str) -> None:
    numbers = array.array("d", [1.5, 2.5])
    for data in (bytearray(b"abc"), memoryview(b"xabcx")[1:4], memoryview(b"a.b.c")[::2].tobytes()):
        client.put(bucket, "object", data)
        assert client.get(bucket, "object") == b"abc"
    client.put(bucket, "numbers", numbers)
    assert client.get(bucket, "numbers") == numbers.tobytes()
    with pytest.raises(TypeError):
        client.put(bucket, "object", "abc")


def test_ranges_are_those_of_slices(client: xdpfs.Client, bucket: str) -> None:
    client.put(bucket, "object", LARGE)
    for start, stop in [(0, 1), (5, None), (-7, None), (4 << 20, 9 << 20), (len(LARGE) - 1, len(LARGE) + 10)]:
        assert client.get(bucket, "object", range=(start, stop)) == LARGE[start:stop]
    with pytest.raises(xdpfs.RangeNotSatisfiable):
        client.get(bucket, "object", range=(len(LARGE), None))
    with pytest.raises(ValueError):
        client.get(bucket, "object", range=(5, 5))


def test_bytes_are_read_into_a_buffer_of_the_callers(client: xdpfs.Client, bucket: str) -> None:
    client.put(bucket, "object", LARGE)
    buffer = bytearray(len(LARGE) + 3)
    assert client.get_into(bucket, "object", buffer) == len(LARGE)
    assert buffer == LARGE + bytes(3)
    # It was given back: nobody holds it.
    buffer.extend(b"x")
    assert client.get_into(bucket, "object", memoryview(buffer)[:10], range=(7, None)) == 10
    assert buffer[:10] == LARGE[7:17]
    with pytest.raises(BufferError):
        client.get_into(bucket, "object", bytes(10))
    client.put(bucket, "empty", b"")
    assert client.get_into(bucket, "empty", buffer) == 0


def test_conditions_decide(client: xdpfs.Client, bucket: str) -> None:
    first = client.put(bucket, "object", b"1", overwrite=False)
    with pytest.raises(xdpfs.PreconditionFailed):
        client.put(bucket, "object", b"2", overwrite=False)
    second = client.put(bucket, "object", b"2", if_match=first.etag)
    with pytest.raises(xdpfs.PreconditionFailed) as failed:
        client.put(bucket, "object", b"3", if_match=first.etag)
    assert failed.value.kind == "precondition_failed" and not failed.value.retryable
    assert client.get(bucket, "object", if_match=second.etag) == b"2"
    with pytest.raises(xdpfs.PreconditionFailed):
        client.get(bucket, "object", if_none_match=second.etag)
    with pytest.raises(xdpfs.PreconditionFailed):
        client.delete(bucket, "object", if_match=first.etag)
    assert client.delete(bucket, "object").version == second.version
    with pytest.raises(ValueError):
        client.stat(bucket, "object", if_match=first.etag, if_none_match="*")


def test_errors_say_what_is_missing_by_classes_of_python_too(client: xdpfs.Client, bucket: str) -> None:
    for error in (xdpfs.NotFound, FileNotFoundError, OSError, xdpfs.XdpfsError):
        with pytest.raises(error):
            client.get(bucket, "nothing")
    with pytest.raises(xdpfs.NotFound, match="no-such-bucket"):
        client.put("no-such-bucket", "object", b"")
    with pytest.raises(xdpfs.AlreadyExists):
        client.create_bucket(bucket)
    with pytest.raises(xdpfs.InvalidArgument):
        client.put(bucket, "", b"")
    client.put(bucket, "object", b"")
    with pytest.raises(xdpfs.BucketNotEmpty):
        client.delete_bucket(bucket)
    assert not client.exists(bucket, "nothing") and client.exists(bucket, "object")


def test_nobody_there_is_something_to_try_again() -> None:
    client = xdpfs.Client("127.0.0.1:1", timeout=0.3)
    with pytest.raises(xdpfs.Unavailable) as failed:
        client.stat("demo", "object")
    assert failed.value.retryable and failed.value.kind == "unavailable"


def test_options_that_make_no_sense_are_refused_at_once_and_no_secret_repeated() -> None:
    with pytest.raises(xdpfs.InvalidArgument, match="endpoint"):
        xdpfs.Client("nowhere")
    with pytest.raises(xdpfs.InvalidArgument) as failed:
        xdpfs.Client("127.0.0.1:1", access_key="no key.SECRET")
    assert "SECRET" not in str(failed.value)
    with pytest.raises(xdpfs.InvalidArgument):
        xdpfs.Client("127.0.0.1:1", timeout=0)


def test_lists_are_whole_over_all_pages(client: xdpfs.Client, bucket: str) -> None:
    keys = [f"dir-{number % 3}/{number:03}" for number in range(25)]
    client.put_many(bucket, ((key, b"x") for key in keys))
    assert [info.key for info in client.list(bucket, page_size=4)] == sorted(keys)
    behind = [info.key for info in client.list(bucket, "dir-1/", start_after="dir-1/010")]
    assert behind == [key for key in sorted(keys) if key.startswith("dir-1/") and key > "dir-1/010"]
    client.put(bucket, "top", b"")
    objects, groups = client.list_directory(bucket)
    assert [info.key for info in objects] == ["top"] and groups == ["dir-0/", "dir-1/", "dir-2/"]


def test_many_are_put_and_got_at_once(client: xdpfs.Client, bucket: str) -> None:
    items = {f"object-{number}": os.urandom(1 + number * 1000) for number in range(60)}
    assert [info.key for info in client.put_many(bucket, items, parallel=8)] == list(items)
    assert client.get_many(bucket, items) == items
    with pytest.raises(xdpfs.NotFound, match="nothing"):
        client.get_many(bucket, ["object-1", "nothing"])


def test_copies_share_or_move(client: xdpfs.Client, bucket: str) -> None:
    client.put(bucket, "object", LARGE, metadata={"a": "b"})
    copy = client.copy((bucket, "object"), (bucket, "copy"))
    assert copy.metadata == {"a": "b"} and client.get(bucket, "copy") == LARGE
    other = f"{bucket}-other"
    client.create_bucket(other)
    client.copy((bucket, "object"), (other, "copy"))
    assert client.get(other, "copy") == LARGE
    with pytest.raises(xdpfs.PreconditionFailed):
        client.copy((bucket, "object"), (bucket, "copy"), overwrite=False)


def test_versions_stay_where_they_are_kept(client: xdpfs.Client, bucket: str) -> None:
    kept = f"{bucket}-kept"
    assert client.create_bucket(kept, versioning="on").versioning == "on"
    first = client.put(kept, "object", b"1")
    client.put(kept, "object", b"2")
    assert client.get(kept, "object", version=first.version) == b"1"
    client.delete(kept, "object", version=first.version)
    with pytest.raises(xdpfs.NotFound):
        client.get(kept, "object", version=first.version)


def test_buckets_are_made_listed_and_removed(client: xdpfs.Client, bucket: str) -> None:
    name = f"{bucket}-made"
    made = client.create_bucket(name, replicas=2, min_replicas=1, quota_objects=1)
    assert (made.replicas, made.min_replicas, made.quota_objects) == (2, 1, 1)
    client.put(name, "one", b"x")
    with pytest.raises(xdpfs.QuotaExceeded):
        client.put(name, "two", b"x")
    assert client.bucket(name).objects == 1
    assert name in [each.name for each in client.buckets()]
    client.delete(name, "one")
    client.delete_bucket(name)
    assert name not in [each.name for each in client.buckets()]


def test_files_are_put_and_got_and_a_failed_get_touches_nothing(
    client: xdpfs.Client, bucket: str, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(LARGE)
    assert client.put_file(bucket, "object", source).size == len(LARGE)
    client.get_file(bucket, "object", target)
    assert target.read_bytes() == LARGE
    with pytest.raises(xdpfs.NotFound):
        client.get_file(bucket, "nothing", target)
    assert target.read_bytes() == LARGE and sorted(os.listdir(tmp_path)) == ["source", "target"]
    with pytest.raises(FileNotFoundError) as failed:
        client.put_file(bucket, "object", tmp_path / "nothing")
    assert not isinstance(failed.value, xdpfs.XdpfsError) and failed.value.filename == str(tmp_path / "nothing")


def test_waiting_leaves_other_threads_the_interpreter(client: xdpfs.Client) -> None:
    turns, done = 0, threading.Event()

    def count() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1

    other = threading.Thread(target=count)
    other.start()
    before = turns
    with pytest.raises(xdpfs.Unavailable):
        xdpfs.Client("127.0.0.1:1", timeout=0.5).stat("demo", "object")
    during = turns - before
    done.set()
    other.join()
    assert during > 1000


def test_interrupt_ends_the_wait(cluster: object) -> None:
    # Whoever runs the tests in the background may have had interrupts ignored, which children inherit.
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); print(flush=True); "
    program = heeds + "import xdpfs; xdpfs.Client('127.0.0.1:1', timeout=60).stat('demo', 'object')"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as waiting:
        assert waiting.stdout is not None
        waiting.stdout.readline()
        # It has to be in the wait, for which nothing can be asked.
        for _ in range(100):
            time.sleep(0.05)
            waiting.send_signal(signal.SIGINT)
            if waiting.poll() is not None:
                break
        _, errors = waiting.communicate(timeout=20)
    assert b"KeyboardInterrupt" in errors


def test_client_works_on_in_a_process_that_is_forked(client: xdpfs.Client, bucket: str) -> None:
    client.put(bucket, "object", LARGE)
    child = os.fork()
    if child == 0:
        good = client.get(bucket, "object") == LARGE
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.get(bucket, "object") == LARGE


def test_client_can_be_pickled(client: xdpfs.Client, bucket: str) -> None:
    client.put(bucket, "object", b"x")
    assert pickle.loads(pickle.dumps(client)).get(bucket, "object") == b"x"


def test_environment_says_what_nobody_else_does(cluster: object, bucket: str) -> None:
    xdpfs.Client().put(bucket, "object", b"x")
    assert xdpfs.Client().get(bucket, "object") == b"x"
