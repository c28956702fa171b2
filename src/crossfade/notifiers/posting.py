"""One POST to a target, with one time limit around all of it.

With httpx's asynchronous client, because only from outside can an exchange be given an end: a limit per read lets a
target that sends a byte now and then hold its courier for ever. Redirects are not followed, and proxies of the environment not
used: what is told goes to whom the configuration names.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx

from crossfade.notifiers.sending import host
from crossfade.ports.notices import Answer, Result

WITHIN: Final = 20.0
"""Seconds for one try: Standard Webhooks recommends 15 to 30."""
LARGEST_ANSWER: Final = 4096
"""Bytes of an answer that are read. Nothing of it is needed but the beginning of what it says to a refusal."""
LONGEST_QUOTE: Final = 200
SHORTEST_SECRET: Final = 8
"""Letters of a part of a URL that is not quoted: what is shorter is a word, and guards nothing."""
LOCAL: Final = ("localhost", "127.0.0.1", "::1")
WORTH_ANOTHER: Final = frozenset({408, 425, 429})
"""Statuses below 500 that pass by themselves."""


def may_be_told(url: str) -> bool:
    """By https only; on loopback by http too. A name or password in the URL is not sent."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "http" and parts.hostname in LOCAL
        return bool(parts.hostname) and (parts.scheme == "https" or plain) and "@" not in parts.netloc
    except ValueError:
        return False


def post(
    url: str, body: bytes, headers: Mapping[str, str], hidden: tuple[str, ...] = (), within: float = WITHIN
) -> Answer:
    """Send it once. Never raises. What the target says is quoted on one line, without ``hidden`` and the URL."""
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if not may_be_told(url):
        return Answer(Result.REFUSED, f"{host(url)} is not told: by https only, except on this machine", digest=digest)
    loop = asyncio.new_event_loop()  # not `asyncio.run`, which waits for a look-up of a name that it has given up
    try:
        status, said, after = loop.run_until_complete(_exchange(url, body, headers, within))
    except TimeoutError:
        return Answer(Result.LATER, f"{host(url)} did not answer within {within:g} s", digest=digest)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        said = _quote(f"{type(error).__name__}: {error}", (*_secrets_in(url), *hidden))
        return Answer(Result.LATER, f"{host(url)} cannot be reached: {said}", digest=digest)
    finally:
        loop.close()
    quoted = _quote(said, (*_secrets_in(url), *hidden))
    sentence = f"{host(url)} answered {status}" + (f": {quoted}" if quoted and status >= 300 else "")
    if 200 <= status < 300:
        return Answer(Result.SENT, sentence, digest=digest)
    later = status >= 500 or status in WORTH_ANOTHER
    return Answer(Result.LATER if later else Result.REFUSED, sentence, after, digest)


async def _exchange(url: str, body: bytes, headers: Mapping[str, str], within: float) -> tuple[int, str, float | None]:
    """Status, the beginning of the answer, and the seconds of ``Retry-After``."""
    async with asyncio.timeout(within):
        async with httpx.AsyncClient(
            timeout=None,  # noqa: S113 - the limit is around it
            trust_env=False,
            follow_redirects=False,
            verify=_certificates(),
        ) as client:
            sent = {"User-Agent": "crossfade", "Accept-Encoding": "identity", **headers}
            async with client.stream("POST", url, content=body, headers=sent) as answer:
                read = b""
                if not answer.is_success:
                    # As it came: what is small and compressed may be huge.
                    async for piece in answer.aiter_raw():
                        read += piece
                        if len(read) > LARGEST_ANSWER:
                            break
                said = read[:LARGEST_ANSWER].decode(errors="replace")
                return answer.status_code, said, _after(answer.headers.get("Retry-After", ""))


def _after(text: str) -> float | None:
    """In seconds; a date in its place is not looked at."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else None


def _secrets_in(url: str) -> tuple[str, ...]:
    """A URL and what of it may be secret, the longest first: who refuses something likes to say what was asked for."""
    parts = urlsplit(url)
    asked = f"{parts.path}?{parts.query}" if parts.query else parts.path
    pieces = (piece for piece in re.split(r"[/?&=]", asked) if len(piece) >= SHORTEST_SECRET)
    whole = (one for one in (parts.path, parts.query) if len(one) >= SHORTEST_SECRET)
    return tuple(sorted({url, *whole, *pieces, *([asked] if len(asked) > 1 else [])}, key=len, reverse=True))


def _quote(text: str, hidden: tuple[str, ...]) -> str:
    for value in hidden:
        if value:
            text = text.replace(value, "(hidden)")
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return plain if len(plain) <= LONGEST_QUOTE else plain[: LONGEST_QUOTE - 1] + "…"


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Loading them takes 20 ms and more: once, not at each try."""
    return ssl.create_default_context()
