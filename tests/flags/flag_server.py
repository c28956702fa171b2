"""A server of flags that fails as a test wants it to: real sockets, answers of its own."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.free_port import free_port

PATIENCE = 20.0
"""Seconds that a test waits for what happens in another thread or process."""


def switch(on: bool, name: str = "new-checkout") -> dict[str, Any]:
    """A document with one flag that is on or off for everybody."""
    flag = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on" if on else "off"}
    return {"flags": {name: flag}}


class FlagServer:
    """What a provider asks of Crossfade. ``body`` and ``status`` are what it says, ``batches`` what it was told."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.version = 0
        self.body = b""
        self.status = 200
        self.age = 0
        self.events_status = 202
        self.streams = True
        self.fetches: list[int] = []
        self.seen: list[dict[str, str]] = []
        self.batches: list[dict[str, Any]] = []
        self.raw_batches: list[bytes] = []
        self._open: set[socket.socket] = set()
        self._news = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self.say(switch(False))

    def say(self, document: dict[str, Any], release: str | None = None) -> None:
        """A new version."""
        self.version += 1
        self.say_bytes(json.dumps({"version": self.version, "release": release, "document": document}).encode())

    def say_bytes(self, body: bytes) -> None:
        with self._news:
            self.body = body
            self._news.notify_all()

    def start(self, tls: ssl.SSLContext | None = None) -> FlagServer:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner._open.add(self.connection)
                owner.seen.append(dict(self.headers.items()))
                if self.path == "/ofrep/v1/changes":
                    owner._stream(self) if owner.streams else self._answer(404, b"{}")
                elif self.path == "/api/v1/environments/shop/production/flag-set":
                    body = owner.body
                    tag = f'"{hashlib.sha256(body).hexdigest()}"'
                    status = 304 if self.headers.get("If-None-Match") == tag else owner.status
                    owner.fetches.append(status)
                    said = {"ETag": tag, **({"Age": str(owner.age)} if owner.age else {})}
                    self._answer(status, b"" if status == 304 else body, said)
                else:
                    self._answer(404, b"{}")

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                owner.raw_batches.append(content)
                if owner.events_status < 300:
                    owner.batches.append(json.loads(content))
                self._answer(owner.events_status, b"{}")

            def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None: ...

        self._server = Quiet(("127.0.0.1", self.port), Handler)
        if tls is not None:
            self.url = self.url.replace("http:", "https:")
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """As one that is killed: connections end, and nobody listens."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._open.clear()

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b": welcome\nretry: 1000\n\n")
        handler.close_connection = True
        told = self.body
        while self._server is not None:
            with self._news:
                if self.body == told:
                    self._news.wait(0.2)
            if self.body != told:
                told = self.body
                handler.wfile.write(b'data: {"type": "refetchEvaluation"}\n\n')
            else:
                handler.wfile.write(b": here\n\n")


@contextmanager
def flag_server() -> Iterator[FlagServer]:
    """One that runs until the end of the block."""
    server = FlagServer().start()
    try:
        yield server
    finally:
        server.stop()


def eventually(what: Any, why: str = "") -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, why or "it never came to that"
        time.sleep(0.01)
