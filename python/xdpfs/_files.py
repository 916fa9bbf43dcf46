"""Objects as files.

A reader reads the version that was there when it was opened, or fails. A writer's object is there as a whole once it was
closed in good order, and not at all otherwise: neither an exception in a `with` block nor the garbage collector commits,
and neither does `close` once a write has failed or was interrupted.
"""

from __future__ import annotations

import io
from types import TracebackType
from typing import Any

from xdpfs._arguments import BytesLike, byte_range, data
from xdpfs._errors import ChangedWhileReading, NotFound, write_failed
from xdpfs._native import NativeClient, NativeReader, NativeWriter, ObjectInfo


class ObjectReader(io.RawIOBase):
    """Reads and seeks. Each read after a seek asks for its own bytes and no more; from the second read in a row on, the
    rest of the object streams, several chunks ahead."""

    #: What `open` reads at once where little is asked for.
    BUFFER_BYTES = 128 << 10

    def __init__(self, native: NativeClient, info: ObjectInfo) -> None:
        super().__init__()
        #: The object that is read.
        self.info = info
        self.name = info.key
        self.mode = "rb"
        self._native = native
        self._position = 0
        # Where the last read ended: whoever goes on there reads in order.
        self._read_until = -1
        self._stream: NativeReader | None = None
        self._stream_at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check_open()
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.info.size}.get(whence)
        if start is None:
            raise ValueError(f"there is no whence {whence}")
        if start + offset < 0:
            raise ValueError("there is nothing before the first byte")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: BytesLike) -> int:
        self._check_open()
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self.info.size - self._position)
        if wanted <= 0:
            return 0
        stream = self._stream_for(wanted)
        try:
            count: int = stream.readinto(view[:wanted])
            self._position += count
            self._stream_at = self._read_until = self._position
        except BaseException:
            # Nobody knows how far it has read: whoever reads on does so from a new one.
            self._close_stream()
            raise
        return count

    def readall(self) -> bytes:
        self._check_open()
        left = self.info.size - self._position
        if left <= 0:
            return b""
        if self._stream is None or self._stream_at != self._position:
            self._open(self._position, None)
        assert self._stream is not None
        try:
            rest: bytes = self._stream.read()
        finally:
            self._close_stream()
        self._position += len(rest)
        return rest

    def close(self) -> None:
        if not self.closed:
            self._close_stream()
        super().close()

    def _stream_for(self, wanted: int) -> NativeReader:
        """A stream that gives so many bytes from here on."""
        stream = self._stream
        if stream is not None and self._stream_at == self._position:
            if len(stream) - (self._stream_at - stream.start) >= wanted:
                return stream
        in_order = self._read_until == self._position
        return self._open(self._position, None if in_order else self._position + wanted)

    def _open(self, start: int, stop: int | None) -> NativeReader:
        self._close_stream()
        asked = byte_range((start, stop))
        try:
            stream = self._native.open(self.info.bucket, self.info.key, asked, self.info.version, None, None)
        except NotFound as error:
            raise ChangedWhileReading(f"version {self.info.version} is no longer there") from error
        self._stream, self._stream_at = stream, start
        return stream

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


class ObjectWriter(io.BufferedIOBase):
    """Writes one object from its first byte to its last. `close` commits; `abort` gives it up."""

    #: Small writes are put together to so many bytes.
    BUFFER_BYTES = 256 << 10

    def __init__(self, native: NativeWriter) -> None:
        super().__init__()
        self.mode = "wb"
        #: What was put, once it was.
        self.info: ObjectInfo | None = None
        self._native: NativeWriter | None = native
        self._failed = False
        self._pending = bytearray()
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, buffer: BytesLike) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        self._check_whole()
        assert self._native is not None
        piece = data(buffer)
        count = len(piece)
        try:
            if len(self._pending) + count < self.BUFFER_BYTES:
                self._pending += piece
            else:
                self._send()
                self._native.write(piece)
        except BaseException:
            self.fail()
            raise
        self._position += count
        return count

    def flush(self) -> None:
        """Nothing is visible before `close`, so there is nothing to hurry."""
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._check_whole()
            if self._native is not None:
                self._send()
                self.info = self._native.finish()
        finally:
            self._native = None
            super().close()

    def fail(self) -> None:
        """Gives it up because bytes are missing; `close` says so."""
        self._failed, self._native = True, None
        self._pending.clear()

    def abort(self) -> None:
        """Gives up what was written; no object comes of it."""
        native, self._native = self._native, None
        self._pending.clear()
        if native is not None:
            native.abort()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        # Whoever forgot to close it may have failed on the way. The native half gives up what it loses.
        self._native = None
        super().close()

    def _check_whole(self) -> None:
        if self._failed:
            raise write_failed()

    def _send(self) -> None:
        if self._pending and self._native is not None:
            pending, self._pending = bytes(self._pending), bytearray()
            self._native.write(pending)


class TextWriter(io.TextIOWrapper):
    """Text into an object, which is only there if nothing went wrong."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except (TypeError, UnicodeError):
            # It was refused, and nothing of it is on its way.
            raise
        except BaseException:
            self.buffer.fail()  # type: ignore[attr-defined]
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except BaseException:
            self.buffer.fail()  # type: ignore[attr-defined]
            raise

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self.buffer.abort()  # type: ignore[attr-defined]
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            self.buffer.abort()  # type: ignore[attr-defined]

    def close(self) -> None:
        if not self.buffer.closed:
            super().close()
