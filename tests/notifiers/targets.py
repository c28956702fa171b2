"""Targets of notices: servers on loopback that keep what they get, and behave as they are told to."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP as POLICY
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from crossfade.domain.alert import Severity
from crossfade.domain.notice import Notice
from crossfade.domain.values import EnvKey

KEY = EnvKey("bookshop", "production")


def notice(**other: Any) -> Notice:
    """Something to tell."""
    said: dict[str, Any] = {
        "about": "alert-12",
        "at": 1_700_000_000.25,
        "severity": Severity.PAGE,
        "kind": "alert",
        "key": KEY,
        "title": "burn:answers",
        "sentence": "answers: it burns 20 times too fast",
        "url": "https://crossfade.example.org/alerts",
    }
    return Notice(**said | other)


@dataclass
class Got:
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Twin:
    """An HTTP target. ``answers`` are the next statuses, then 204; ``says`` is in every answer's body; ``hangs``: no answer."""

    got: list[Got] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    says: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    drips: bool = False
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def http_target() -> Iterator[Twin]:
    """One that listens."""
    twin = Twin()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found = {name.lower(): value for name, value in self.headers.items()}
            twin.got.append(Got(self.path, found, body))
            if twin.hangs:
                twin.released.wait(60)
                return
            if twin.drips:
                with contextlib.suppress(OSError):
                    while not twin.released.wait(0.05):
                        self.wfile.write(b"H")
                return
            self.send_response(twin.answers.pop(0) if twin.answers else 204)
            for name, value in twin.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(twin.says)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(twin.says)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    twin.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield twin
    finally:
        twin.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Post:
    """A mail server's handler. ``refuses`` are addresses that it takes nothing for, with the code; ``says`` answers DATA."""

    def __init__(self) -> None:
        self.letters: list[EmailMessage] = []
        self.to: list[list[str]] = []
        self.logins: list[tuple[str, str]] = []
        self.secure: list[bool] = []
        self.refuses: dict[str, int] = {}
        self.says = "250 taken"

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refuses:
            return f"{self.refuses[address]} not here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.says.startswith("250"):
            letter = message_from_bytes(envelope.original_content or b"", policy=POLICY)
            assert isinstance(letter, EmailMessage)
            self.letters.append(letter)
            self.to.append(list(envelope.rcpt_tos))
            self.secure.append(session.ssl is not None)
        return self.says

    def login(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: LoginPassword) -> AuthResult:
        """Knows one password."""
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == b"the-password", handled=False)


@contextlib.contextmanager
def mail_target(context: ssl.SSLContext | None = None, *, implicit: bool = False) -> Iterator[tuple[Post, int]]:
    """A mail server that listens; with ``context`` it wants STARTTLS and a login, or ``implicit`` TLS."""
    post = Post()

    class Server(Controller):
        def factory(self) -> SMTP:
            if context is None or implicit:
                return SMTP(post, hostname="mail.test")
            return SMTP(
                post,
                hostname="mail.test",
                tls_context=context,
                require_starttls=True,
                auth_required=True,
                authenticator=post.login,
            )

    server = Server(post, hostname="127.0.0.1", port=_free(), ssl_context=context if implicit else None)
    server.start()
    try:
        yield post, server.port
    finally:
        server.stop()


def _free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def raw_target(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does with each connection what it is told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=served, args=(connection,), daemon=True).start()

        def served(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
