"""From what callers say to what the native half takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

#: Anything with the buffer protocol.
BytesLike = Any
#: First byte, and the byte behind the last one; a first byte below zero counts from the end.
Range = tuple[int, int | None]
Words = tuple[str | None, dict[str, str] | None]

#: How many transfers `get_many` and `put_many` have under way.
PARALLEL = 16


def options(
    endpoint: str | None,
    ca: str | os.PathLike[str] | None,
    access_key: str | None,
    access_key_file: str | os.PathLike[str] | None,
    insecure_key: bool | None,
    timeout: float | None,
) -> dict[str, str]:
    """What was said, in words."""
    said = {
        "endpoint": endpoint,
        "ca": None if ca is None else os.fspath(ca),
        "access_key": access_key,
        "access_key_file": None if access_key_file is None else os.fspath(access_key_file),
        "insecure_key": None if insecure_key is None else str(bool(insecure_key)).lower(),
        "timeout": None if timeout is None else f"{max(0, round(timeout * 1000))}ms",
    }
    return {name: value for name, value in said.items() if value is not None}


def data(data: BytesLike) -> BytesLike:
    """Something that is made of bytes; text is not, whatever its encoding might be."""
    if isinstance(data, bytes):
        return data
    view = memoryview(data)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def items(items: Mapping[str, BytesLike] | Iterable[tuple[str, BytesLike]]) -> list[tuple[str, BytesLike]]:
    """Keys and what each is to hold."""
    pairs = items.items() if isinstance(items, Mapping) else items
    return [(key, data(value)) for key, value in pairs]


def words(content_type: str | None, metadata: Mapping[str, str] | None) -> Words:
    """What a put says about its object."""
    return content_type, None if metadata is None else dict(metadata)


def byte_range(wanted: Range | None) -> str | None:
    """As HTTP has it. An empty range is an error there, so nothing is asked then: see `is_empty`."""
    if wanted is None:
        return None
    start, stop = wanted
    if start < 0:
        if stop is not None:
            raise ValueError("a range that counts from the end goes to the end")
        return f"{start}"
    if stop is None:
        return f"{start}-"
    if stop <= start:
        raise ValueError(f"the range from {start} to {stop} is empty")
    return f"{start}-{stop - 1}"


def is_new(if_none_match: str | None, overwrite: bool) -> str | None:
    """What `overwrite=False` comes to."""
    if overwrite:
        return if_none_match
    if if_none_match not in (None, "*"):
        raise ValueError("overwrite=False and if_none_match exclude each other")
    return "*"
