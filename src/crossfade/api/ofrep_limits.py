"""What one who evaluates flags may ask: how often, how much at once, and in which form."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request

LARGEST_BODY: Final = 256 * 1024
"""Bytes of a request. A context is what is known of one user, not a document."""
DEEPEST: Final = 32
"""How deep a context may be nested."""
MOST_ASKERS: Final = 10_000
"""Tokens whose rate is remembered; of those that asked longest ago nothing is held against them."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second that one token may go on asking, and how many at once after a rest."""

    per_second: float = 5_000.0
    burst: float = 10_000.0


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server's settings say of OFREP. ``origins`` are those whose pages may ask for flags themselves."""

    rate: Rate = Rate()
    origins: tuple[str, ...] = ()


USUAL: Final = Offer()


class Buckets:
    """A token bucket for each who asks."""

    def __init__(self, rate: Rate = Rate(), most: int = MOST_ASKERS) -> None:
        self._rate, self._most = rate, most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str, now: float) -> int:
        """0 when one more request is allowed, and taken; else the whole seconds to wait. ``now`` never goes back."""
        left, at = self._left.pop(who, (self._rate.burst, now))
        left = min(self._rate.burst, left + max(0.0, now - at) * self._rate.per_second)
        wait = 0 if left >= 1 else max(1, math.ceil((1 - left) / self._rate.per_second))
        self._left[who] = (left if wait else left - 1, now)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return wait


class Malformed(Exception):
    """A request that cannot be understood: ``status``, OFREP's ``code``, and what is wrong in a sentence."""

    def __init__(self, status: int, code: str, details: str) -> None:
        super().__init__(details)
        self.status, self.code, self.details = status, code, details


async def context_of(request: Request) -> dict[str, Any]:
    """The context that a request evaluates in; empty when it has none. Raises Malformed."""
    return context_in(await _body(request))


async def _body(request: Request) -> bytes:
    too_large = Malformed(413, "GENERAL", f"A request body may have {LARGEST_BODY} bytes.")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 15 or int(length) > LARGEST_BODY:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > LARGEST_BODY:
                raise too_large
            parts.append(part)
    except ClientDisconnect:  # nobody hears the answer, and it is no fault of ours
        raise Malformed(400, "GENERAL", "The request broke off.") from None
    return b"".join(parts)


def context_in(body: bytes) -> dict[str, Any]:
    """The context that a body names. Raises Malformed."""
    if not body:
        return {}
    try:
        text = body.decode()
        said = _JSON.decode(text)
    except UnicodeDecodeError:
        raise Malformed(400, "PARSE_ERROR", "The body is not UTF-8.") from None
    except RecursionError:
        raise Malformed(400, "PARSE_ERROR", "The body is nested too deeply.") from None
    except ValueError as error:
        raise Malformed(400, "PARSE_ERROR", f"The body is not JSON: {str(error)[:200]}.") from None
    if not isinstance(said, dict):
        raise Malformed(400, "PARSE_ERROR", 'The body is not a JSON object, for example {"context": {}}.')
    context = said.get("context")
    if context is None:
        return {}
    if not isinstance(context, dict):
        raise Malformed(400, "INVALID_CONTEXT", "The context is not a JSON object.")
    # Most contexts are flat, and counting brackets shows it at once.
    if body.count(b"{") + body.count(b"[") > DEEPEST and _deeper(context, DEEPEST):
        raise Malformed(400, "INVALID_CONTEXT", f"The context is nested deeper than {DEEPEST} levels.")
    if "\\u" in text:
        _refuse_halves(context)
    return context


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


_JSON: Final = json.JSONDecoder(parse_constant=_no_number)


def _deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, Mapping) else one)
            if isinstance(inner, Mapping | list)
        ]
        if not level:
            return False
    return True


def _refuse_halves(context: Mapping[str, Any]) -> None:
    """Halves of characters can be written in JSON, but are no text that anything could be hashed by."""
    try:
        json.dumps(context, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Malformed(400, "INVALID_CONTEXT", "The context holds half of a character.") from None
