"""One HTTP exchange after the other with a source of signals, all within one time limit.

With httpx's asynchronous client, because only from outside can a whole reading be given an end: a time limit per read
lets a peer that sends a byte now and then hold its reader for ever. Proxies of the environment are not used and
redirects not followed: what is asked is what the configuration names.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx

from crossfade.domain.errors import Unavailable

LARGEST_ANSWER: Final = 1024 * 1024
"""Bytes of one answer that are read."""

LONGEST_QUOTE: Final = 200
"""Characters of somebody else's text that a reason quotes."""

T = TypeVar("T")


class Fetch:
    """Asks one source within one reading."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def json(self, url: str, form: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Status and parsed body of a GET, or of a POST of ``form``; a body that is no JSON is None.

        ``NaN`` and ``Infinity`` in it become such floats. Raises Unavailable.
        """
        place = where(url)
        try:
            async with self._client.stream("POST" if form is not None else "GET", url, data=form) as answer:
                body = bytearray()
                # As it came: what is small and compressed may be huge.
                async for piece in answer.aiter_raw():
                    body += piece
                    if len(body) > LARGEST_ANSWER:
                        raise Unavailable(f"{place} answers with more than {LARGEST_ANSWER // 1024} KiB.")
                status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"{place}: {_reason(error)}.") from error
        if 300 <= status < 400:
            raise Unavailable(f"{place} redirects (HTTP {status}): redirects are not followed.")
        try:
            return status, json.loads(body)
        except (ValueError, RecursionError):
            return status, None


def within(seconds: float, place: str, ask: Callable[[Fetch], Awaitable[T]]) -> T:
    """What ``ask`` finds out. Raises Unavailable when it takes longer, and whatever ``ask`` raises."""

    async def limited() -> T:
        # No limits of its own: there is one for all of it.
        async with httpx.AsyncClient(
            timeout=None,  # noqa: S113 - the limit is around it
            trust_env=False,
            follow_redirects=False,
            verify=_certificates(),
            headers={"User-Agent": "crossfade", "Accept": "application/json", "Accept-Encoding": "identity"},
        ) as client:
            async with asyncio.timeout(seconds):
                return await ask(Fetch(client))

    # Not `asyncio.run`, which waits for a look-up of a name that it has given up.
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(limited())
    except TimeoutError:
        raise Unavailable(f"{place} did not answer within {seconds:g} s.") from None
    finally:
        loop.close()


def where(url: str) -> str:
    """The part of a URL that may be shown: no user, no password, no query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the source's url"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def quote(text: object) -> str:
    """Somebody else's words on one line, not too long."""
    shown = " ".join(str(text).split())
    return shown if len(shown) <= LONGEST_QUOTE else shown[: LONGEST_QUOTE - 3] + "..."


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Loading them takes 20 ms and more: once, not at each reading."""
    return ssl.create_default_context()


def _reason(error: BaseException) -> str:
    """The operating system's words where there are some: ``connection refused``."""
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and one.strerror and one.errno:
            # asyncio puts its own words in front of the system's, but keeps the number.
            said = os.strerror(one.errno) if one.errno > 0 else one.strerror
            return f"{said[:1].lower()}{said[1:]}"
        if isinstance(one, BaseExceptionGroup):
            pending += one.exceptions
        pending += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
    return quote(error) or type(error).__name__
