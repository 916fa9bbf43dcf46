"""The chunk protocol read a second time: from docs/protocol.md, in plain Python, without a line of the Rust code.

It is held against the files that the Rust code is held against. Whoever writes another implementation may begin here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FIXTURES = Path(__file__).resolve().parents[2] / "wire" / "fixtures"
MASK = (1 << 64) - 1

#: docs/protocol.md §3: magic, version and header length, opcode, flags, status, rights, key epoch, node, node epoch,
#: client, bucket, expiry, request, offset, the chunk's low and high half, length, payload CRC, tag.
HEADER = struct.Struct("<H6BHH5IQQIIQ")
HEADER_LEN = 64
MAGIC, VERSION_BYTE = 0x5846, 0x18
CHUNK_LEN_MAX = 16 << 20
PIECE_LEN = {0: 1024, 1: 1344, 2: 3328, 3: 8192}
FLAGS = 0x08 | 0x10
READ, WRITE = 1, 2
PING, GET_PIECE, GET_BURST, STAT, PUT_WHOLE, PUT_OPEN, PUT_DATA, PUT_COMMIT, PUT_ABORT = range(1, 10)
REPLIES = range(0x81, 0x88)
#: The shortest payload of a request that is answered with one, and that of a burst.
PADDING_MIN, BURST_LEN = 40, 16


def siphash(key: bytes, message: bytes) -> int:
    """SipHash-2-4 (Aumasson and Bernstein, 2012). The protocol's messages are whole words."""
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) & MASK

    def sip_round() -> None:
        v[0] = (v[0] + v[1]) & MASK
        v[2] = (v[2] + v[3]) & MASK
        v[1] = rotate(v[1], 13) ^ v[0]
        v[3] = rotate(v[3], 16) ^ v[2]
        v[0] = rotate(v[0], 32)
        v[2] = (v[2] + v[1]) & MASK
        v[0] = (v[0] + v[3]) & MASK
        v[1] = rotate(v[1], 17) ^ v[2]
        v[3] = rotate(v[3], 21) ^ v[0]
        v[2] = rotate(v[2], 32)

    words = list(struct.unpack(f"<{len(message) // 8}Q", message))
    for word in [*words, (len(message) & 0xFF) << 56]:
        v[3] ^= word
        sip_round()
        sip_round()
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(4):
        sip_round()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC_TABLE = _crc_table()


def crc32c(data: bytes, crc: int = 0) -> int:
    """CRC32C (Castagnoli), reflected, as iSCSI has it (RFC 3720 §B.4)."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def capability_key(secret: bytes, client: int, bucket: int, rights: int, expiry: int, key_epoch: int) -> bytes:
    """docs/protocol.md §6."""
    domain = int.from_bytes(b"xdpfscap", "little")
    who, what = client | bucket << 32, expiry | rights << 32 | key_epoch << 40
    halves = (siphash(secret, struct.pack("<QQQ", domain, who, what | half << 63)) for half in (0, 1))
    return struct.pack("<QQ", *halves)


def content(seed: int, length: int) -> bytes:
    return bytes(((at + seed) * 2654435761 & 0xFFFFFFFF) >> 24 for at in range(length))


def vectors(kind: str) -> list[dict[str, str]]:
    lines = (line.split() for line in (FIXTURES / "vectors.txt").read_text().splitlines())
    found = [dict(word.split("=", 1) for word in words[1:]) for words in lines if words and words[0] == kind]
    assert found, f"there are no vectors of {kind}"
    return found


def numbers(vector: dict[str, str], *names: str) -> list[int]:
    return [int(vector[name]) for name in names]


def test_hashes_are_those_of_siphash() -> None:
    for vector in vectors("siphash"):
        key, message = bytes.fromhex(vector["key"]), bytes.fromhex(vector["message"])
        assert siphash(key, message).to_bytes(8, "little").hex() == vector["hash"]
    # The test vector of the paper's appendix, which has a message of 15 bytes, is not one of whole words; this one of the
    # reference implementation is: eight bytes 00 to 07 under the key 00 to 0f.
    assert siphash(bytes(range(16)), bytes(range(8))) == 0x93F5F5799A932462


def test_checksums_are_those_of_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    for vector in vectors("crc32c"):
        seed, length, crc = numbers(vector, "seed", "length", "crc")
        assert crc32c(content(seed, length)) == crc


def test_objects_checksum_follows_from_those_of_its_chunks() -> None:
    for vector in vectors("manifest"):
        size, crc, whole = 0, 0, 0
        for chunk in vector["chunks"].split(","):
            seed, length, of_chunk = map(int, chunk.split(":"))
            data = content(seed, length)
            assert crc32c(data) == of_chunk
            size, whole = size + length, crc32c(data, whole)
        crc = int(vector["crc"])
        assert (size, whole) == (int(vector["size"]), crc)


def test_capabilities_have_their_keys() -> None:
    for vector in vectors("capability"):
        said = numbers(vector, "client", "bucket", "rights", "expiry", "key_epoch")
        assert capability_key(bytes.fromhex(vector["secret"]), *said).hex() == vector["key"]


def test_headers_are_laid_out_and_tagged() -> None:
    assert HEADER.size == HEADER_LEN
    for vector in vectors("header"):
        opcode, piece_class, flags, status, rights, key_epoch = numbers(
            vector, "opcode", "class", "flags", "status", "rights", "key_epoch"
        )
        node, node_epoch, client, bucket, expiry, request, offset = numbers(
            vector, "node", "node_epoch", "client", "bucket", "expiry", "request", "offset"
        )
        chunk, length, payload_crc = numbers(vector, "chunk", "length", "payload_crc")
        low, high = chunk & MASK, chunk >> 64
        start = (MAGIC, VERSION_BYTE, opcode, flags | piece_class, status, rights, key_epoch, node, node_epoch)
        rest = (client, bucket, expiry, request, offset, low, high, length, payload_crc)
        untagged = HEADER.pack(*start, *rest, 0)[:56]
        key = capability_key(bytes.fromhex(vector["secret"]), client, bucket, rights, expiry, key_epoch)
        assert (untagged + siphash(key, untagged).to_bytes(8, "little")).hex() == vector["bytes"]


def test_receipts_and_cookies_are_signed() -> None:
    for vector in vectors("receipt"):
        chunk, length, crc, node, node_epoch = numbers(vector, "chunk", "length", "crc", "node", "node_epoch")
        words = struct.pack("<QQQQ", chunk & MASK, chunk >> 64, length | crc << 32, node | node_epoch << 16)
        assert siphash(bytes.fromhex(vector["key"]), words).to_bytes(8, "little").hex() == vector["mac"]
    for vector in vectors("cookie"):
        port, client, now_s = numbers(vector, "port", "client", "now_s")
        words = bytes.fromhex(vector["address"]) + struct.pack("<QQ", port | client << 32, now_s // 60)
        assert siphash(bytes.fromhex(vector["secret"]), words).to_bytes(8, "little").hex() == vector["cookie"]


# The verdict on whole requests: docs/protocol.md §9, in the order of its steps.

SECRETS = {7: b"\x11" * 16, 8: b"\x22" * 16}
NOW, NODE, NODE_EPOCH = 1_000_000, 3, 9


def verdict(datagram: bytes) -> str:
    if len(datagram) < HEADER_LEN:
        return "too_short"
    header, payload_len = datagram[:HEADER_LEN], len(datagram) - HEADER_LEN
    (magic, version, opcode, flags, status, rights, key_epoch, node, node_epoch, client, bucket, expiry, _request,
     offset, _low, high, length, _crc, tag) = HEADER.unpack(header)
    if magic != MAGIC:
        return "bad_magic"
    if version != VERSION_BYTE:
        return "bad_version"
    if opcode not in range(PING, PUT_ABORT + 1) and opcode not in REPLIES:
        return "bad_opcode"
    piece_len = PIECE_LEN.get(flags & 7)
    known_bits = not flags & ~(FLAGS | 7) and not rights & ~(READ | WRITE)
    if piece_len is None or not known_bits or (status != 0 and opcode not in REPLIES):
        return "reserved_bits"
    if offset > CHUNK_LEN_MAX or length > CHUNK_LEN_MAX:
        return "bad_length"
    if opcode in REPLIES:
        return "bad_opcode"
    if not fits(opcode, piece_len, length, payload_len):
        return "bad_length"
    secret = SECRETS.get(key_epoch)
    if secret is None:
        return "unknown_key_epoch"
    key = capability_key(secret, client, bucket, rights, expiry, key_epoch)
    if siphash(key, header[:56]) != tag:
        return "bad_tag"
    if expiry <= NOW:
        return "expired"
    needed = {GET_PIECE: READ, GET_BURST: READ, STAT: READ}.get(opcode, 0 if opcode == PING else WRITE)
    if rights & needed != needed:
        return "rights_missing"
    if high >> 32 != bucket:
        return "foreign_bucket"
    if node != NODE:
        return "wrong_node"
    if needed == WRITE and node_epoch != NODE_EPOCH:
        return "stale_node"
    return "accept"


def fits(opcode: int, piece_len: int, length: int, payload_len: int) -> bool:
    """How long a request's payload may be: never shorter than what it is answered with."""
    rules: dict[int, Callable[[], bool]] = {
        PING: lambda: PADDING_MIN <= payload_len <= piece_len,
        GET_PIECE: lambda: 0 < length <= payload_len <= piece_len,
        GET_BURST: lambda: length > 0 and payload_len == BURST_LEN,
        STAT: lambda: PADDING_MIN <= payload_len <= piece_len,
        PUT_WHOLE: lambda: length > 0 and max(length, PADDING_MIN) <= payload_len <= piece_len,
        PUT_OPEN: lambda: length > 0 and PADDING_MIN <= payload_len <= piece_len,
        PUT_DATA: lambda: length > 0 and max(length, PADDING_MIN) <= payload_len <= piece_len,
        PUT_COMMIT: lambda: length > 0 and PADDING_MIN <= payload_len <= piece_len,
        PUT_ABORT: lambda: payload_len == 0,
    }
    return rules[opcode]()


def requests() -> Iterator[tuple[str, str, bytes]]:
    for line in (FIXTURES / "requests.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, expect, start, zeros = line.split()
            yield name, expect, bytes.fromhex(start.replace("-", "")) + bytes(int(zeros))


@pytest.mark.parametrize(("name", "expect", "datagram"), [pytest.param(*case, id=case[0]) for case in requests()])
def test_requests_get_their_verdicts(name: str, expect: str, datagram: bytes) -> None:
    assert verdict(datagram) == expect
