"""Connections that should stay open: server-sent events and WebSockets, watched for messages and for cuts."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import ssl
import struct
import time
from typing import Final

from crossfade.load.plan import Address, Streams
from crossfade.load.records import EXAMPLES, StreamFacts
from crossfade.load.wire import field

LARGEST_MESSAGE: Final = 1024 * 1024
RETRY: Final = 0.25
"""Seconds until a stream that ended is opened again."""

_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


class _Refused(Exception):
    """No stream came of it."""


class _Ended(Exception):
    """The server closed it in an orderly way."""


class _Broken(Exception):
    """What came does not follow the protocol."""


class Watcher:
    """Keeps one set of streams open until `stop`, and counts in ``facts``. A stream that ends is opened again."""

    def __init__(
        self,
        streams: Streams,
        count: int,
        address: Address,
        target: tuple[str, int],
        tls: ssl.SSLContext | None,
        headers: tuple[tuple[str, str], ...],
        timeout: float,
    ) -> None:
        self.facts = StreamFacts(streams.path, streams.kind, count)
        self._kind = streams.kind
        self._path = address.prefix + streams.path
        self._address, self._target, self._tls = address, target, tls
        self._headers = [pair for pair in headers if pair[0].lower() != "host"]
        self._timeout = timeout
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Close them all; from now on no end is counted."""
        self._stopping.set()

    async def run(self) -> None:
        """Until `stop`."""
        keeping = [asyncio.create_task(self._keep_one()) for _ in range(self.facts.wanted)]
        await self._stopping.wait()
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)

    async def _keep_one(self) -> None:
        while not self._stopping.is_set():
            await self._live()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), RETRY)

    async def _live(self) -> None:
        """One connection, from its beginning to its end."""
        facts = self.facts
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer, chunked = await self._open()
        except (_Refused, TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            facts.refused += 1
            return
        facts.opened += 1
        facts.open += 1
        began = self._heard = time.monotonic()
        try:
            if self._kind == "websocket":
                await self._read_frames(reader, writer)
            else:
                await self._read_events(reader, chunked)
        except _Ended:
            facts.ended += 1
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, _Broken, ValueError) as error:
            if not self._stopping.is_set():
                facts.cut += 1
                if len(facts.cuts) < EXAMPLES:
                    what = "the connection was closed" if isinstance(error, asyncio.IncompleteReadError) else str(error)
                    facts.cuts.append((round(time.time(), 3), what[:200]))
        finally:
            facts.open -= 1
            facts.longest_life = max(facts.longest_life, time.monotonic() - began)
            writer.transport.abort()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bool]:
        """The streams behind the head of the answer, and whether the body comes in chunks."""
        host, port = self._target
        reader, writer = await asyncio.open_connection(
            host, port, ssl=self._tls, server_hostname=self._address.host if self._tls else None, limit=LARGEST_MESSAGE
        )
        try:
            key = base64.b64encode(os.urandom(16)).decode()
            lines = [f"GET {self._path} HTTP/1.1", f"Host: {self._address.authority}"]
            if self._kind == "websocket":
                lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
                lines.append(f"Sec-WebSocket-Key: {key}")
            else:
                lines.append("Accept: text/event-stream")
            lines += [f"{name}: {value}" for name, value in self._headers]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
            head = (await reader.readuntil(b"\r\n\r\n"))[:-2]
            lowered = head.lower()
            status = head[9:12]
            if self._kind == "websocket":
                wanted = base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest())
                if status != b"101" or field(lowered, head, b"sec-websocket-accept") != wanted:
                    raise _Refused
                return reader, writer, False
            if status != b"200" or b"text/event-stream" not in (field(lowered, lowered, b"content-type") or b""):
                raise _Refused
            return reader, writer, b"chunked" in (field(lowered, lowered, b"transfer-encoding") or b"")
        except BaseException:
            writer.transport.abort()
            raise

    def _message(self) -> None:
        now = time.monotonic()
        self.facts.longest_gap = max(self.facts.longest_gap, now - self._heard)
        self._heard = now
        self.facts.messages += 1

    async def _read_events(self, reader: asyncio.StreamReader, chunked: bool) -> None:
        """An event ends with an empty line; comments count as one too, as they keep a stream alive."""
        text = b""
        while True:
            if chunked:
                piece = await _chunk(reader)
            else:
                piece = await reader.read(65536)
                if not piece:  # without chunks an orderly end looks like a cut, and is more likely one
                    raise asyncio.IncompleteReadError(b"", None)
            text = (text + piece).replace(b"\r\n", b"\n")
            *events, text = text.split(b"\n\n")
            if len(text) > LARGEST_MESSAGE:
                raise _Broken("an event is longer than 1 MiB")
            for _ in events:
                self._message()

    async def _read_frames(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """RFC 6455, 5.2: counts whole text and binary messages, answers pings and the end."""
        while True:
            first, second = await reader.readexactly(2)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await reader.readexactly(8))
            if second & 0x80 or length > LARGEST_MESSAGE:
                raise _Broken("a masked frame from the server" if second & 0x80 else "a frame longer than 1 MiB")
            payload = await reader.readexactly(length)
            code = first & 0x0F
            if code == 0x8:
                writer.write(_frame(0x8, payload[:2]))
                with contextlib.suppress(OSError, TimeoutError):
                    await asyncio.wait_for(writer.drain(), 1)
                raise _Ended
            if code == 0x9:
                writer.write(_frame(0xA, payload))
            elif first & 0x80 and code in (0x0, 0x1, 0x2):
                self._message()


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """One chunk of a body. Raises _Ended at the last."""
    line = await reader.readuntil(b"\r\n")
    size = int(line.partition(b";")[0].strip() or b"x", 16)
    if not 0 <= size <= LARGEST_MESSAGE:
        raise _Broken("a chunk longer than 1 MiB")
    if size == 0:
        raise _Ended
    return (await reader.readexactly(size + 2))[:-2]


def _frame(code: int, payload: bytes) -> bytes:
    """A short masked frame."""
    payload = payload[:125]
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes((0x80 | code, 0x80 | len(payload))) + mask + masked
