"""A real server in a thread, that behaves and misbehaves by path."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import socket
import struct
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

TINY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Slot: blue\r\n\r\nok"


class LocalServer:
    """``with LocalServer() as server:``. Answers at ``url``.

    /            200
    /hang        never answers
    /reset       resets the connection instead of answering
    /half        closes within the body
    /noise       answers with something that is not HTTP
    /status/503  answers with that status
    /once        answers, and closes the connection when it is asked again on it, without a word
    /visitor     gives each client a cookie of its own, and answers 418 to a client with two of them
    /chunked     a body in chunks, with a trailer
    /events      server-sent events until `end_streams`
    /socket      a WebSocket that says a word every 20 ms until `end_streams`
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.visitors: Counter[str] = Counter()
        self.connections = 0
        self.most_at_once = 0
        self.header = b"blue"
        self._open = 0
        self._stall_until = 0.0
        self._end: asyncio.Event
        self._orderly = True
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stall(self, seconds: float) -> None:
        """From now on nobody gets an answer for so long."""
        self._stall_until = time.monotonic() + seconds

    def end_streams(self, *, orderly: bool) -> None:
        """With a last chunk or a close frame, or by a reset."""
        self._orderly = orderly
        self._loop.call_soon_threadsafe(self._end.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop, self._end = asyncio.Event(), asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open += 1
        self.most_at_once = max(self.most_at_once, self._open)
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open -= 1
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered = 0
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = head.split(" ")[1]
            self.asked[path] += 1
            if (wait := self._stall_until - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if path == "/hang":
                await asyncio.sleep(60)
            elif path == "/reset":
                _reset(writer)
                return
            elif path == "/half":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
                return
            elif path == "/noise":
                writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
                return
            elif path.startswith("/status/"):
                writer.write(f"HTTP/1.1 {path[8:]} X\r\nContent-Length: 0\r\n\r\n".encode())
            elif path == "/once" and answered:
                return
            elif path == "/visitor":
                writer.write(self._visit(head))
            elif path == "/chunked":
                chunks = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Trailer: t\r\n\r\n"
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
            elif path in ("/events", "/socket"):
                await self._stream(path, head, writer)
                return
            else:
                writer.write(TINY.replace(b"blue", self.header))
            answered += 1

    def _visit(self, head: str) -> bytes:
        cookies = [line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("cookie:")]
        if not cookies:
            name = f"v{len(self.visitors)}"
            self.visitors[name] += 1
            return f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: who={name}; Path=/; HttpOnly\r\n\r\n".encode()
        name = cookies[0].removeprefix("who=")
        if len(cookies) > 1 or name not in self.visitors:
            return b"HTTP/1.1 418 No\r\nContent-Length: 0\r\n\r\n"
        self.visitors[name] += 1
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    async def _stream(self, path: str, head: str, writer: asyncio.StreamWriter) -> None:
        if path == "/events":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            message, last = b"d\r\ndata: hello\n\n\r\n", b"0\r\n\r\n"
        else:
            key = next(
                line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key")
            )
            token = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()  # noqa: S324 - RFC 6455 wants it
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            writer.write(b"Sec-WebSocket-Accept: " + base64.b64encode(token) + b"\r\n\r\n")
            message, last = b"\x81\x05hello", b"\x88\x02\x03\xe9"
        while not self._end.is_set():
            writer.write(message)
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), 0.02)
        if self._orderly:
            writer.write(last)
            await writer.drain()
        else:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    # Closing with a linger time of zero sends RST.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
