"""How a message is sent: within seconds, at most three times, to nobody but whom it is for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

TIMEOUT: Final = 5.0
PAUSES: Final = (0.5, 2.0)
"""Seconds before the second and the third try."""
LARGEST_ANSWER: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Letter:
    """One POST of JSON. ``to`` names the recipient for people, without anything secret."""

    to: str
    url: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    taken: tuple[int, ...] = ()
    """Statuses besides 2xx that mean that all is well."""


def host(url: str) -> str:
    """What a URL is called in a message: the path of a chat's URL is its secret."""
    try:
        return urlsplit(url).hostname or "nowhere"
    except ValueError:
        return "nowhere"


def send(letter: Letter, hidden: tuple[str, ...], pause: Callable[[float], None], pauses: tuple[float, ...]) -> str:
    """Send it; what went wrong, or nothing. Redirects are not followed: a token goes where it was meant to go."""
    scheme = letter.url.partition("://")[0]
    local = host(letter.url) in ("localhost", "127.0.0.1", "::1")
    if scheme != "https" and not (scheme == "http" and (local or not letter.headers.keys() & _SECRET)):
        return f"{letter.to} was not told: a token is sent by https only"
    said = ""
    with httpx.Client(timeout=TIMEOUT, follow_redirects=False, trust_env=False) as client:
        for again in (*pauses, None):
            try:
                sent = {"Content-Type": "application/json", "User-Agent": "crossfade", **letter.headers}
                content = json.dumps(letter.body).encode()
                with client.stream("POST", letter.url, content=content, headers=sent) as answer:
                    status = answer.status_code
                    if answer.is_success or status in letter.taken:
                        return ""
                    said = f"it answered {status}{_reason(answer)}"
            except (httpx.TransportError, httpx.InvalidURL) as error:
                status, said = 0, f"{type(error).__name__}: {error}"
            if again is None or (0 < status < 500 and status != 429):
                break
            pause(again)
    for value in (letter.url, *hidden):
        said = said.replace(value, "(hidden)")
    return f"{letter.to} was not told: {said[:300]}"


_SECRET: Final = frozenset({"Authorization", "PRIVATE-TOKEN"})


def _reason(answer: httpx.Response) -> str:
    """The beginning of what a forge says to a refusal."""
    text = b""
    try:
        for piece in answer.iter_bytes():
            text += piece
            if len(text) > LARGEST_ANSWER:
                return ""
        message = json.loads(text).get("message", "")
    except (ValueError, AttributeError, httpx.HTTPError):
        return ""
    return ": " + "".join(sign if sign.isprintable() else "?" for sign in str(message))[:200] if message else ""
