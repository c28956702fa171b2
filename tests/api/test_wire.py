"""What comes in over a connection: requests in any pieces are answered, and what has no end is refused."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from crossfade.bootstrap.server import listen
from crossfade.bootstrap.wire import LARGEST_HEAD, MOST_WAITING, Bounded

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def measure(scope, receive, send):  # type: ignore[no-untyped-def] # any application
    """Answers with how long the body was; `/slowly` takes its time."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/slowly":
        await asyncio.sleep(0.2)
    said = str(size).encode()
    head = [(b"content-length", str(len(said)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": said})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(measure, http=Bounded, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(10)


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def answers(connection: socket.socket, count: int) -> list[tuple[int, str]]:
    """The status and the body of so many answers."""
    found = []
    with connection.makefile("rb") as lines:
        for _ in range(count):
            status = int(lines.readline().split()[1])
            length = 0
            while (line := lines.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            found.append((status, lines.read(length).decode()))
    return found


def ended(connection: socket.socket) -> bytes:
    """All that comes until the other side ends the connection."""
    said = b""
    try:
        while part := connection.recv(65536):
            said += part
    except ConnectionResetError:
        pass  # it ended the connection with some of ours unread
    return said


def send(connection: socket.socket, piece: bytes, times: int) -> None:
    try:
        for _ in range(times):
            connection.sendall(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has heard enough


def test_a_request_may_come_byte_by_byte(port: int) -> None:
    with connected(port) as connection:
        for byte in POST + b"Content-Length: 3\r\n\r\nabc":
            connection.sendall(bytes([byte]))
        assert answers(connection, 1) == [(200, "3")]


def test_a_large_body_in_small_pieces_is_no_large_head(port: int) -> None:
    with connected(port) as connection:
        for _ in range(2):
            connection.sendall(POST + b"Content-Length: 1000000\r\n\r\n")
            send(connection, b"x" * 1000, 1000)
            assert answers(connection, 1) == [(200, "1000000")]


def test_a_kept_connection_may_ask_for_as_long_as_it_wants(port: int) -> None:
    padding = b"X-Padding: " + b"x" * 8000 + b"\r\n\r\n"
    with connected(port) as connection:
        for _ in range(LARGEST_HEAD // 4000):
            connection.sendall(GET)
            connection.sendall(padding)
            assert answers(connection, 1) == [(200, "0")]


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        (GET + b"X-Endless: ", b"x" * 8192),
        (GET, b"X-One-More: " + b"x" * 8000 + b"\r\n"),
        (b"GET /", b"x" * 8192),
        (b"", b"\r\n" * 4096),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"X-Trailer: " + b"x" * 8000 + b"\r\n"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n3;", b"x" * 8192),
    ],
    ids=["a header", "headers", "an address", "nothing", "trailers", "an extension of a chunk"],
)
def test_what_has_no_end_is_refused(port: int, begins: bytes, goes_on: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(begins)
        for _ in range(1000):
            send(connection, goes_on, 1)
            time.sleep(0.001)  # else it is one piece for the other side
            connection.setblocking(False)
            try:
                said = connection.recv(65536)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                said = b""
            finally:
                connection.settimeout(20)
            assert said == b"" or b" 400 " in said
            break
        else:
            pytest.fail("it went on reading")
        ended(connection)


def test_requests_that_are_sent_at_once_are_answered_in_turn(port: int) -> None:
    bodies = [b"x" * n for n in range(MOST_WAITING)]
    with connected(port) as connection:
        connection.sendall(b"".join(POST + b"Content-Length: %d\r\n\r\n%s" % (len(one), one) for one in bodies))
        assert answers(connection, MOST_WAITING) == [(200, str(n)) for n in range(MOST_WAITING)]


def test_who_asks_thousands_of_times_without_listening_is_sent_away(port: int) -> None:
    with connected(port) as connection:
        send(connection, b"GET /slowly HTTP/1.1\r\nHost: x\r\n\r\n" * 5000, 1)
        assert ended(connection).count(b" 200 ") < 5000
