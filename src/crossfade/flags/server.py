"""What a provider asks of Crossfade's server, with nothing but the standard library: it is imported by applications."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from crossfade.domain.errors import Invalid
from crossfade.domain.values import EnvKey
from crossfade.flags.holding import LARGEST

TIMEOUT: Final = 5.0
"""Seconds for an answer to begin."""
SILENCE: Final = 40.0
"""Seconds without a sign of life after which a stream is taken for dead; the server gives one every 15."""
LONGEST_LINE: Final = 65_536
ENVIRONMENT: Final = "X-Crossfade-Environment"


class Unreachable(Exception):
    """The server did not answer, or not as it should: ``status`` is what it said, 0 when it said nothing."""

    def __init__(self, what: str, status: int = 0) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """A set as it came, with its tag; without a ``body`` it is still the same.

    ``age``: seconds for which the server itself has not known whether it is the newest, its ledger being away.
    """

    body: bytes | None
    etag: str
    age: float


class Server:
    """One server, one environment. Its methods may be called from several threads; `watch` from one."""

    def __init__(self, url: str, token: str, key: EnvKey) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid("CROSSFADE_FLAGS_URL", url, "a URL that begins with http:// or https://")
        self.key = key
        self._host, self._port, self._tls = parts.hostname, parts.port, parts.scheme == "https"
        self._base = parts.path.rstrip("/")
        self._token = token
        self._stream: socket.socket | None = None

    def fetch(self, etag: str = "") -> Answer:
        """The set, unless it is still the one of ``etag``. Raises Unreachable."""
        place = f"/api/v1/environments/{quote(self.key.service)}/{quote(self.key.environment)}/flag-set"
        with self._asked("GET", place, headers={"If-None-Match": etag} if etag else {}) as answer:
            said = answer.headers.get("Age", "")
            age = float(said) if said.isdecimal() and len(said) < 10 else 0.0
            if answer.status == 304 and etag:
                return Answer(None, etag, age)
            if answer.status != 200:
                raise self._refusal(answer)
            body = answer.read(LARGEST + 1)
            if len(body) > LARGEST:
                raise Unreachable(f"the set of flags is larger than {LARGEST} bytes", answer.status)
            return Answer(body, answer.headers.get("ETag", ""), age)

    def watch(self) -> Iterator[bool]:
        """Signs of life for as long as the stream lasts, True where the set may have changed. Raises Unreachable.

        The first comes as soon as the stream is open.
        """
        with self._asked("GET", "/ofrep/v1/changes", headers={"Accept": "text/event-stream"}) as answer:
            if answer.status != 200 or not answer.headers.get_content_type() == "text/event-stream":
                raise self._refusal(answer)
            yield False
            told = False
            while line := answer.readline(LONGEST_LINE):
                if line.startswith(b"data:"):
                    told = True
                elif line in (b"\n", b"\r\n") and told:
                    told = False
                    yield True
                elif line.startswith(b":"):
                    yield False
        raise Unreachable("the stream has ended")

    def break_off(self) -> None:
        """End `watch`, from any thread."""
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """After a fork: the stream is the parent's, and is left to it."""
        self._stream = None

    def send(self, batch: bytes) -> None:
        """Exposures, tracking events and counts. Raises Unreachable."""
        with self._asked("POST", "/api/v1/flag-events", batch, {"Content-Type": "application/json"}) as answer:
            if not 200 <= answer.status < 300:
                raise self._refusal(answer)
            answer.read(LARGEST)

    @contextlib.contextmanager
    def _asked(
        self, method: str, place: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer, as it begins. Raises Unreachable for what goes wrong before or while it is read."""
        said = {**(headers or {}), "User-Agent": "crossfade-flags", ENVIRONMENT: str(self.key)}
        if self._token:
            said["Authorization"] = f"Bearer {self._token}"
        streams = said.get("Accept") == "text/event-stream"
        connection = self._connection()
        try:
            connection.connect()
            if streams:
                self._stream = connection.sock
            connection.request(method, self._base + place, body, said)
            answer = connection.getresponse()
            if streams and self._stream is not None:
                self._stream.settimeout(SILENCE)
            yield answer
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"{self._host}: {str(error) or type(error).__name__}") from error
        finally:
            if streams:
                self._stream = None
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if not self._tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        context = ssl.create_default_context(cafile=os.environ.get("CROSSFADE_CA") or None)
        return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT, context=context)

    def _refusal(self, answer: http.client.HTTPResponse) -> Unreachable:
        """What a refusal says in its own words."""
        said: Any = None
        with contextlib.suppress(ValueError, OSError, http.client.HTTPException):
            said = json.loads(answer.read(LONGEST_LINE))
        words = ""
        if isinstance(said, dict):
            words = str(said.get("detail") or said.get("errorDetails") or said.get("title") or "")
        return Unreachable(f"{self._host} answered {answer.status}{': ' + words if words else ''}", answer.status)
