"""Puts, gets, lists and deletes an object through a gateway, and shows what an error says.

Usage: objects.py HOST:PORT
"""

import os
import sys
import uuid

import google_crc32c
import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from xdpfs.object.v1 import object_pb2 as pb
from xdpfs.object.v1 import object_pb2_grpc

BUCKET = "example-python"
KEY = "greetings/first"
PART_BYTES = 1 << 20
# A call that is not answered by then has failed.
SECONDS = 30


def connect(address):
    """A stub that shows the access key of the environment, if there is one."""
    ca = os.environ.get("XDPFS_CA")
    if ca:
        with open(ca, "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        channel = grpc.secure_channel(address, credentials)
    else:
        channel = grpc.insecure_channel(address)
    return object_pb2_grpc.ObjectServiceStub(channel)


def metadata():
    """What goes with every call."""
    key = os.environ.get("XDPFS_ACCESS_KEY")
    return [("authorization", f"Bearer {key}")] if key else []


def reason(error):
    """The stable reason of a call that failed; None if the connection broke."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == "xdpfs":
            return info.reason
    return None


def put(store, data, **header):
    """Stores the bytes: a header, parts, and a trailer with their checksum."""

    def messages():
        yield pb.PutObjectRequest(header=pb.PutObjectHeader(bucket=BUCKET, key=KEY, **header))
        for start in range(0, len(data), PART_BYTES):
            yield pb.PutObjectRequest(part=data[start : start + PART_BYTES])
        yield pb.PutObjectRequest(trailer=pb.Trailer(crc32c=google_crc32c.value(data)))

    return store.PutObject(messages(), metadata=metadata(), timeout=SECONDS).object


def get(store, **request):
    """The bytes of the object, which have the checksum that the trailer says."""
    parts = []
    for message in store.GetObject(
        pb.GetObjectRequest(bucket=BUCKET, key=KEY, **request), metadata=metadata(), timeout=SECONDS
    ):
        if message.WhichOneof("step") == "part":
            parts.append(message.part)
        elif message.WhichOneof("step") == "trailer":
            data = b"".join(parts)
            if google_crc32c.value(data) != message.trailer.crc32c:
                raise ValueError("the bytes were damaged on their way")
            return data
    raise ValueError("the stream ended without a trailer")


def refused(call):
    """The reason for which the call is refused; it must be."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name, reason(error)
    raise AssertionError("it was not refused")


def main():
    store = connect(sys.argv[1])
    store.CreateBucket(pb.CreateBucketRequest(bucket=BUCKET), metadata=metadata(), timeout=SECONDS)

    data = bytes(range(256)) * 12_000
    only_new = pb.Precondition(if_none_match_any=True)
    # The id makes it harmless to send the same put again after a connection broke.
    made = put(store, data, precondition=only_new, request_id=str(uuid.uuid4()))
    print(f"put {made.size} bytes as version {made.version}, on {made.durable_replicas} nodes")
    assert get(store) == data
    print(f"got {len(data)} bytes, the same")
    part = get(store, range=pb.ByteRange(span=pb.ByteSpan(offset=1000, length=10)))
    assert part == data[1000:1010]

    print("put again, only if there is none:", *refused(lambda: put(store, b"other", precondition=only_new)))
    listed = store.ListObjects(
        pb.ListObjectsRequest(bucket=BUCKET, prefix="greetings/"), metadata=metadata(), timeout=SECONDS
    )
    print("listed:", *(item.key for item in listed.objects))
    store.DeleteObject(pb.DeleteObjectRequest(bucket=BUCKET, key=KEY), metadata=metadata(), timeout=SECONDS)
    print("get after the delete:", *refused(lambda: get(store)))
    store.DeleteBucket(pb.DeleteBucketRequest(bucket=BUCKET), metadata=metadata(), timeout=SECONDS)


if __name__ == "__main__":
    main()
