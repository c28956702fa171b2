"""HTTP/1.1 from the client's side, as little as a load generator needs: one exchange at a time, on a kept connection.

Answers are read to their end and thrown away, save for the head. Why it is not a library: docs/decisions/0006.
"""

from __future__ import annotations

import asyncio
import enum
from typing import Any, Final, Protocol

LONGEST_HEAD: Final = 64 * 1024
LONGEST_BODY: Final = 64 * 1024 * 1024


class Reading(enum.Enum):
    """What of an answer comes next."""

    NOTHING = enum.auto()  # idle
    HEAD = enum.auto()
    COUNTED = enum.auto()  # a body of known length
    CHUNKS = enum.auto()
    TRAILERS = enum.auto()
    REST = enum.auto()  # a body that ends with the connection


class Owner(Protocol):
    """Who uses a connection."""

    def answered(self, connection: Connection, status: int, head: bytes, reusable: bool) -> None:
        """A whole answer has come; the connection is idle again, if it is reusable."""

    def broken(self, connection: Connection, kind: str, detail: str) -> None:
        """The exchange failed; the connection is closed."""

    def left(self, connection: Connection) -> None:
        """An idle connection was closed."""


class Connection(asyncio.Protocol):
    """One connection. ``flight`` is for its owner, to note what it is used for; ``idle_since`` likewise.

    ``used`` counts the answers that it has brought; ``touched`` says that bytes of the present answer have come.
    """

    __slots__ = (
        "_body",
        "_head",
        "_left",
        "_no_body",
        "_owner",
        "_pending",
        "_reading",
        "_reusable",
        "_status",
        "flight",
        "idle_since",
        "touched",
        "transport",
        "used",
    )

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._reading = Reading.NOTHING
        self._pending = b""
        self._left = 0
        self._body = 0
        self._status = 0
        self._head = b""
        self._reusable = True
        self._no_body = False
        self.transport: asyncio.Transport | None = None
        self.flight: Any = None
        self.idle_since = 0.0
        self.used = 0
        self.touched = False

    @property
    def closing(self) -> bool:
        """Whether it is closed, or known to be about to be."""
        return self.transport is None or self.transport.is_closing()

    def send(self, data: bytes, *, head_only: bool = False) -> None:
        """Begin an exchange. ``head_only``: the answer has no body whatever its head says (HEAD)."""
        assert self.transport is not None
        self._reading = Reading.HEAD
        self._no_body = head_only
        self.touched = False
        self.transport.write(data)

    def abort(self) -> None:
        """Close it at once, without a word to the owner."""
        self._reading = Reading.NOTHING
        self._owner = _NOBODY
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        reading, self._reading = self._reading, Reading.NOTHING
        if reading is Reading.NOTHING:
            self._owner.left(self)
        elif error is not None:
            kind = "reset" if isinstance(error, ConnectionError) else "broken"
            self._owner.broken(self, kind, _words(error) + self._so_far(reading))
        elif reading is Reading.REST:
            self._owner.answered(self, self._status, self._head, False)
        else:
            self._owner.broken(self, "closed", "the connection was closed" + self._so_far(reading))

    def _so_far(self, reading: Reading) -> str:
        if reading is Reading.HEAD:
            return " within the head of the answer" if self.touched else " before an answer"
        return f" within the body, after {self._body} bytes"

    def data_received(self, data: bytes) -> None:
        if self._pending:
            data = self._pending + data
            self._pending = b""
        self.touched = True
        while True:
            reading = self._reading
            if reading is Reading.HEAD:
                end = data.find(b"\r\n\r\n")
                if end < 0:
                    if len(data) > LONGEST_HEAD:
                        self._refuse("protocol", "the head of the answer is too long")
                    else:
                        self._pending = data
                    return
                if not self._read_head(data[: end + 2]):
                    return
                data = data[end + 4 :]
                if self._reading is Reading.COUNTED and len(data) == self._left:
                    self._finish(b"")  # the usual case: all of it came at once
                    return
            elif reading is Reading.COUNTED:
                count = len(data)
                if count < self._left:
                    self._left -= count
                    self._body += count
                    return
                self._finish(data[self._left :])
                return
            elif reading is Reading.CHUNKS:
                rest = self._read_chunks(data)
                if rest is None:
                    return
                data = rest
            elif reading is Reading.TRAILERS:
                end = data.find(b"\r\n")
                if end < 0:
                    self._keep_line(data)
                    return
                line, data = data[:end], data[end + 2 :]
                if not line:
                    self._finish(data)
                    return
            elif reading is Reading.REST:
                self._body += len(data)
                self._check_size()
                return
            else:
                # Unasked: most often a 408 of a server that is about to close an idle connection.
                if data and self.transport is not None:
                    self.transport.abort()
                return

    def _read_head(self, head: bytes) -> bool:
        """False when there is nothing more to do with what was received."""
        if not head.startswith(b"HTTP/1.") or not head[9:12].isdigit():
            self._refuse("protocol", f"not an HTTP/1 answer: {head[:40]!r}")
            return False
        status = int(head[9:12])
        if 100 <= status < 200:
            if status == 101:
                self._refuse("protocol", "the connection was upgraded, which nobody asked for")
                return False
            return True  # an interim answer: the next head is the one
        lowered = head.lower()
        self._status, self._head, self._body = status, head, 0
        self._reusable = head[7:8] == b"1"
        connection = field(lowered, lowered, b"connection")
        if connection is not None:
            self._reusable = b"close" not in connection and (self._reusable or b"keep-alive" in connection)
        if self._no_body or status in (204, 304):
            self._reading, self._left = Reading.COUNTED, 0
        elif (coding := field(lowered, lowered, b"transfer-encoding")) is not None:
            self._reading, self._left = (Reading.CHUNKS if coding.endswith(b"chunked") else Reading.REST), 0
        elif (length := field(lowered, lowered, b"content-length")) is not None:
            if not length.isdigit() or int(length) > LONGEST_BODY:
                self._refuse("protocol", f"content-length {length[:40]!r}")
                return False
            self._reading, self._left = Reading.COUNTED, int(length)
        else:
            self._reading, self._reusable = Reading.REST, False
        return True

    def _read_chunks(self, data: bytes) -> bytes | None:
        """What is left after the last chunk; None when more must come (or the answer was refused)."""
        at, count = 0, len(data)
        while True:
            if self._left:
                step = min(self._left, count - at)
                self._left -= step
                self._body += step
                at += step
                if self._left:
                    self._check_size()
                    return None
            end = data.find(b"\r\n", at)
            if end < 0:
                self._keep_line(data[at:])
                return None
            digits = data[at:end].partition(b";")[0].strip()
            try:
                size = int(digits, 16) if digits.isalnum() else -1
            except ValueError:
                size = -1
            if not 0 <= size <= LONGEST_BODY:
                self._refuse("protocol", f"a chunk of {digits[:40]!r} bytes")
                return None
            at = end + 2
            if size == 0:
                self._reading = Reading.TRAILERS
                return data[at:]
            self._left = size + 2  # with its line end

    def _keep_line(self, data: bytes) -> None:
        if len(data) > LONGEST_HEAD:
            self._refuse("protocol", "a line of the body is too long")
        else:
            self._pending = data

    def _check_size(self) -> bool:
        if self._body <= LONGEST_BODY:
            return True
        self._refuse("protocol", f"the body is longer than {LONGEST_BODY} bytes")
        return False

    def _finish(self, rest: bytes) -> None:
        self._reading = Reading.NOTHING
        self.used += 1
        head, self._head = self._head, b""
        # Bytes after the end belong to nothing: whatever they are, this connection is out of step.
        self._owner.answered(self, self._status, head, self._reusable and not rest)

    def _refuse(self, kind: str, detail: str) -> None:
        owner, self._owner = self._owner, _NOBODY
        self._reading = Reading.NOTHING
        self._pending = b""
        if self.transport is not None:
            self.transport.abort()
        owner.broken(self, kind, detail)


class _Nobody:
    def answered(self, connection: Connection, status: int, head: bytes, reusable: bool) -> None:
        pass

    def broken(self, connection: Connection, kind: str, detail: str) -> None:
        pass

    def left(self, connection: Connection) -> None:
        pass


_NOBODY: Final = _Nobody()


def field(lowered: bytes, head: bytes, name: bytes) -> bytes | None:
    """The first value of a header in ``head`` (whose lines end with CR LF), found by its ``name`` in small letters."""
    at = lowered.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    start = at + len(name) + 3
    return head[start : head.find(b"\r\n", start)].strip()


def fields(lowered: bytes, head: bytes, name: bytes) -> list[bytes]:
    """All values of a header."""
    found = []
    sought = b"\r\n" + name + b":"
    at = lowered.find(sought)
    while at >= 0:
        start = at + len(sought)
        found.append(head[start : head.find(b"\r\n", start)].strip())
        at = lowered.find(sought, start)
    return found


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text)
