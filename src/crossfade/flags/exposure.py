"""Which variants an answer was made with, told to the edge in its header ``X-Crossfade-Variant``.

The edge counts answers, errors and latencies by it and takes it out, so that no client sees it. An application wraps
itself in `WsgiVariants` or `AsgiVariants`, or asks `request` what the header should be.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

HEADER: Final = "X-Crossfade-Variant"
MOST_TOLD: Final = 16
"""Flags that the edge counts of one answer."""

_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_made: ContextVar[Made | None] = ContextVar("crossfade_made", default=None)

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
Message = MutableMapping[str, Any]


class Made:
    """The variants that were served while one request was answered."""

    __slots__ = ("_chosen", "_given")

    def __init__(self) -> None:
        self._chosen: dict[str, str] = {}
        self._given: dict[str, str] = {}

    def note(self, flag: str, variant: str, chosen: bool) -> None:
        """One was served; ``chosen`` for who asked, and not the same for everybody. The last one of a flag counts."""
        (self._chosen if chosen else self._given)[flag] = variant

    @property
    def variants(self) -> dict[str, str]:
        """By flag; at first those that were chosen for who asked, each kind in the order in which it was asked for."""
        return {**self._chosen, **{flag: variant for flag, variant in self._given.items() if flag not in self._chosen}}

    def header(self) -> str:
        """The value of the header, such as ``new-checkout=on, other=b``; empty when no flag was asked for.

        It holds as many as the edge counts. A name that the edge would not take is left out.
        """
        told = [
            f"{flag}={variant}"
            for flag, variant in self.variants.items()
            if _PLAIN.fullmatch(flag) and _PLAIN.fullmatch(variant)
        ]
        return ", ".join(told[:MOST_TOLD])

    def headers(self) -> dict[str, str]:
        """The header by its name, or nothing."""
        value = self.header()
        return {HEADER: value} if value else {}


@contextmanager
def request() -> Iterator[Made]:
    """Around the work for one request: what is served in it, also in tasks and threads that it awaits, is noted."""
    made = Made()
    token = _made.set(made)
    try:
        yield made
    finally:
        _made.reset(token)


def current() -> Made | None:
    """What the request that is being answered was made with so far; None outside of any."""
    return _made.get()


class WsgiVariants:
    """A WSGI application that tells the variants of each of its answers, also of one that failed."""

    def __init__(self, application: Callable[[Environ, StartResponse], Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        made = Made()
        begun: list[Any] = []
        written: list[Callable[[bytes], object]] = []

        def begin() -> None:
            # As late as can be: what a generator asks before its first byte is told too.
            if begun and not written:
                status, headers, *rest = begun
                written.append(start_response(status, [*headers, *made.headers().items()], *rest))

        def start(status: str, headers: list[tuple[str, str]], *failure: Any) -> Callable[[bytes], object]:
            if written and failure:
                written[:] = [start_response(status, [*headers, *made.headers().items()], *failure)]
            begun[:] = [status, headers, *failure]

            def write(data: bytes) -> object:
                begin()
                return written[0](data)

            return write

        body: Iterable[bytes] = ()
        token = _made.set(made)
        try:
            try:
                body = self._application(environ, start)
                chunks = iter(body)
                first = next(chunks, None)
            finally:
                _made.reset(token)
            begin()
            if first is not None:
                yield first
            while True:
                token = _made.set(made)
                try:
                    chunk = next(chunks, None)
                finally:
                    _made.reset(token)
                if chunk is None:
                    return
                begin()
                yield chunk
        except Exception:
            if written:
                raise
            # Nobody has answered yet, and a server would do so without the header.
            traceback.print_exc(file=environ.get("wsgi.errors", sys.stderr))
            begun[:] = ["500 Internal Server Error", [("Content-Type", "text/plain")], sys.exc_info()]
            begin()
            yield b"Internal Server Error"
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()


class AsgiVariants:
    """An ASGI application that tells the variants of each of its answers, also of one that failed.

    Wrap the whole application, rather than adding it to a framework's own list: there, what answers a failed request is
    outside of it.
    """

    def __init__(self, application: Callable[..., Awaitable[object]]) -> None:
        self._application = application

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[object]],
    ) -> None:
        if scope.get("type") != "http":
            await self._application(scope, receive, send)
            return
        framework = "app" in scope  # one is around us, and answers for what fails
        started = False
        with request() as made:

            async def told(message: Message) -> None:
                nonlocal started
                if message["type"] == "http.response.start":
                    started = True
                    named = [(name.lower().encode(), value.encode()) for name, value in made.headers().items()]
                    message = {**message, "headers": [*message.get("headers", ()), *named]}
                await send(message)

            try:
                await self._application(scope, receive, told)
            except Exception:
                if not started and not framework:
                    headers = [(b"content-type", b"text/plain"), (b"content-length", b"21")]
                    await told({"type": "http.response.start", "status": 500, "headers": headers})
                    await send({"type": "http.response.body", "body": b"Internal Server Error"})
                raise  # for the server's log
