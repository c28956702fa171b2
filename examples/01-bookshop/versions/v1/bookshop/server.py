"""HTTP/1.1 on asyncio: keep-alive, streams, WebSocket upgrades, and an end that cuts nobody off.

A handler gets a `Request` and returns what to send: a `Response`, a `Stream` or an `Upgrade`; it may be a coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

LONGEST_HEAD = 16 * 1024
LONGEST_BODY = 64 * 1024
LONGEST_UNSENT = 512 * 1024
HEAD_TIMEOUT = 10.0
IDLE_TIMEOUT = 75.0
"""Longer than proxies keep idle connections, so that it is them who close, at a moment when nothing is on its way."""


@dataclass(frozen=True)
class Request:
    """``headers`` by their names in small letters; ``path`` is decoded."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""

    @property
    def cookies(self) -> dict[str, str]:
        pairs = (pair.partition("=") for pair in self.headers.get("cookie", "").split(";"))
        return {name.strip(): value.strip() for name, equals, value in pairs if equals}

    @property
    def form(self) -> dict[str, str]:
        return _pairs(self.body.decode("utf-8", "replace"))


@dataclass(frozen=True)
class Response:
    """A whole answer."""

    body: bytes = b""
    status: int = 200
    content_type: str = "text/html; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Stream:
    """An answer whose body comes piece by piece, until the source ends or the client goes."""

    source: AsyncIterator[bytes]
    content_type: str = "text/event-stream"
    headers: tuple[tuple[str, str], ...] = (("Cache-Control", "no-store"),)


class Conversation(Protocol):
    """Has a connection to itself."""

    def begin(self, transport: asyncio.Transport) -> None: ...

    def received(self, data: bytes) -> None: ...

    def ended(self) -> None: ...


@dataclass(frozen=True)
class Upgrade:
    """101, and from then on the connection is the conversation's."""

    headers: tuple[tuple[str, str], ...]
    conversation: Conversation


Answer = Response | Stream | Upgrade
Handler = Callable[[Request], "Answer | Awaitable[Answer]"]


class BadRequest(Exception):
    """What was sent cannot be understood: a status and a word why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Server:
    """``headers`` go with every answer."""

    def __init__(self, handler: Handler, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.handler = handler
        self.headers = "".join(f"{name}: {value}\r\n" for name, value in headers)
        self.closing = False
        self.connections: set[_Connection] = set()
        self._left_alone = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> int:
        """Begin; returns the port. Raises OSError when it is taken."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Connection(self), host, port, backlog=1024)
        self._sweeper = loop.create_task(self._sweep())
        return int(self._listener.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Accept nobody, let idle connections go, and tell the others that their answer is the last."""
        self.closing = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.close_if_idle()

    async def finished(self, patience: float) -> None:
        """Wait until all answers are out, for at most ``patience`` seconds."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if not self.connections:
            self._left_alone.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._left_alone.wait(), patience)
        for connection in list(self.connections):
            connection.transport.abort()

    def forget(self, connection: _Connection) -> None:
        """It has ended."""
        self.connections.discard(connection)
        if self.closing and not self.connections:
            self._left_alone.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for connection in list(self.connections):
                connection.close_if_overdue(now)


@dataclass(eq=False)
class _Connection(asyncio.Protocol):
    """One client's connection: reads a request, answers it, reads the next."""

    server: Server
    transport: asyncio.Transport = field(init=False)
    _buffer: bytes = b""
    _task: asyncio.Task[None] | None = None
    _conversation: Conversation | None = None
    _since: float = 0.0
    _eof: bool = False
    _asked: bool = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=LONGEST_UNSENT)
        self._since = time.monotonic()
        self.server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.server.forget(self)
        if self._task is not None:
            self._task.cancel()
        if self._conversation is not None:
            self._conversation.ended()

    def pause_writing(self) -> None:
        # Whoever does not read what a stream sends is let go, before it fills the memory.
        if self._task is not None or self._conversation is not None:
            self.transport.abort()

    def eof_received(self) -> bool:
        """A client may end its side and still wait for its answer."""
        self._eof = True
        return self._task is not None

    def close_if_idle(self) -> None:
        if self._task is None and self._conversation is None and not self._buffer:
            self.transport.close()

    def close_if_overdue(self, now: float) -> None:
        limit = HEAD_TIMEOUT if self._buffer else IDLE_TIMEOUT
        if self._task is None and self._conversation is None and now - self._since > limit:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._conversation is not None:
            self._conversation.received(data)
            return
        if not self._buffer:
            self._since = time.monotonic()
        self._buffer += data
        if self._task is not None:
            if len(self._buffer) > LONGEST_HEAD + LONGEST_BODY:
                self.transport.abort()
            return
        self._go_on()

    def _go_on(self) -> None:
        """Answer what is there; requests that came together are answered in their order."""
        while self._buffer and self._task is None and not self.transport.is_closing():
            try:
                taken = _take(self._buffer)
            except BadRequest as error:
                body = f"{error}\n".encode()
                self._send(Response(body, error.status, "text/plain; charset=utf-8"), head_only=False, last=True)
                return
            if taken is None:
                if b"\r\nexpect: 100-continue\r\n" in self._buffer[:LONGEST_HEAD].lower() and not self._asked:
                    self._asked = True
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            self._asked = False
            request, last, used = taken
            self._buffer = self._buffer[used:]
            last = last or self._eof
            try:
                answer = self.server.handler(request)
                if not isinstance(answer, (Response, Stream, Upgrade)):
                    self._task = asyncio.get_running_loop().create_task(self._wait_for(answer, request, last))
                    return
            except Exception:  # noqa: BLE001 - one broken page must not end the shop
                answer = _failed(request)
            self._give(answer, request, last)

    def _give(self, answer: Answer, request: Request, last: bool) -> None:
        head_only = request.method == "HEAD"
        if isinstance(answer, Response):
            self._send(answer, head_only, last)
        elif isinstance(answer, Stream):
            self._task = asyncio.get_running_loop().create_task(self._stream(answer, head_only))
        else:
            head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
            self.transport.write(
                f"HTTP/1.1 101 Switching Protocols\r\n{self.server.headers}{head}\r\n".encode("latin-1")
            )
            self._conversation = answer.conversation
            answer.conversation.begin(self.transport)
            if self._buffer:
                rest, self._buffer = self._buffer, b""
                answer.conversation.received(rest)

    async def _wait_for(self, coming: Awaitable[Answer], request: Request, last: bool) -> None:
        try:
            answer = await coming
        except Exception:  # noqa: BLE001 - as above
            answer = _failed(request)
        self._task = None
        self._give(answer, request, last)
        self._since = time.monotonic()
        self._go_on()

    def _send(self, answer: Response, head_only: bool, last: bool) -> None:
        last = last or self.server.closing
        head = [
            f"HTTP/1.1 {answer.status} {_phrase(answer.status)}\r\nDate: {_date()}\r\n{self.server.headers}",
            f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\n",
        ]
        head += [f"{name}: {value}\r\n" for name, value in answer.headers]
        head.append("Connection: close\r\n\r\n" if last else "\r\n")
        data = "".join(head).encode("latin-1")
        self.transport.write(data if head_only else data + answer.body)
        if last:
            self.transport.close()

    async def _stream(self, answer: Stream, head_only: bool) -> None:
        head = f"HTTP/1.1 200 OK\r\nDate: {_date()}\r\n{self.server.headers}Content-Type: {answer.content_type}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
        head += "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        self.transport.write(head.encode("latin-1"))
        try:
            if not head_only:
                async for piece in answer.source:
                    self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.transport.write(b"0\r\n\r\n")
        except Exception:  # noqa: BLE001 - whatever the source does, its client is told
            traceback.print_exc()
            self.transport.abort()  # without a last chunk the client knows that it is not whole
        finally:
            self._task = None
            closing = getattr(answer.source, "aclose", None)
            if closing is not None:
                await closing()
            self.transport.close()


def _take(data: bytes) -> tuple[Request, bool, int] | None:
    """The first request of ``data``, whether it is the connection's last, and its length; None when it is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > LONGEST_HEAD:
            raise BadRequest(431, "the head of the request is too long")
        return None
    if end > LONGEST_HEAD:
        raise BadRequest(431, "the head of the request is too long")
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0") or not parts[1].startswith("/"):
        raise BadRequest(400, "not a request of HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip() or (name == "content-length" and name in headers):
            raise BadRequest(400, "a header that cannot be understood")
        value = value.strip()
        headers[name] = f"{headers[name]}; {value}" if name == "cookie" and name in headers else value
    if "transfer-encoding" in headers:
        raise BadRequest(411, "a body must come with its length")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise BadRequest(400, "a length that is no number")
    if int(length) > LONGEST_BODY:
        raise BadRequest(413, "the body is too long")
    used = end + 4 + int(length)
    if len(data) < used:
        return None
    connection = headers.get("connection", "").lower()
    last = "close" in connection or (parts[2] == "HTTP/1.0" and "keep-alive" not in connection)
    path, _, query = parts[1].partition("?")
    if "%" in path:
        path = unquote_to_bytes(path).decode("utf-8", "replace")
    request = Request(parts[0], path, _pairs(query) if query else {}, headers, data[end + 4 : used])
    return request, last, used


def _pairs(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=100))
    except ValueError:
        raise BadRequest(400, "too many fields") from None


def _failed(request: Request) -> Response:
    """Says in the log what went wrong, and to the client only that something did."""
    error = sys.exc_info()[1]
    where = traceback.extract_tb(error.__traceback__)[-1] if error is not None else None
    place = f"{where.filename.rpartition('/')[2]}:{where.lineno}" if where else "?"
    print(f"{request.method} {request.path}: {type(error).__name__}: {error} at {place}", file=sys.stderr, flush=True)
    return Response(b"Something went wrong here. It is not your fault.\n", 500, "text/plain; charset=utf-8")


def _phrase(status: int) -> str:
    return _PHRASES.get(status, "")


_PHRASES: dict[int, str] = {status.value: status.phrase for status in HTTPStatus}
_dates: dict[int, str] = {}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _date() -> str:
    """RFC 9110, 5.6.7; made once a second."""
    now = int(time.time())
    if now not in _dates:
        t: Any = time.gmtime(now)
        day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[t.tm_wday]
        month = _MONTHS[t.tm_mon - 1]
        _dates.clear()
        _dates[now] = f"{day}, {t.tm_mday:02} {month} {t.tm_year} {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
    return _dates[now]
