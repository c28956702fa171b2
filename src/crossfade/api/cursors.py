"""Pages: a list is given in pieces, each with a cursor to the next that stays right while rows are added."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Final

from fastapi import Query

from crossfade.domain.errors import Invalid

MOST: Final = 500
USUAL: Final = 50

_NUMBER = re.compile(r"[0-9]{1,15}")

Limit = Annotated[int, Query(ge=1, le=MOST, description="How many, at most.")]
Cursor = Annotated[
    str | None, Query(max_length=400, description="`next` of the page before; the first page when absent.")
]


def write(list_: str, place: str | int) -> str:
    """The cursor to what follows ``place`` of a list."""
    return base64.urlsafe_b64encode(f"{list_}:{place}".encode()).decode().rstrip("=")


def read(list_: str, cursor: str | None) -> str | None:
    """The place that a cursor is about. Raises Invalid when it is not one of this list's."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        of, _, place = base64.b64decode(padded, altchars=b"-_", validate=True).decode().partition(":")
    except (binascii.Error, UnicodeError, ValueError):
        of, place = "", ""
    if of != list_ or not place:
        raise Invalid("cursor", cursor, "what the page before gave as `next`, and nothing else")
    return place


def number(list_: str, cursor: str | None) -> int | None:
    """As `read`, for a list whose places are numbers."""
    place = read(list_, cursor)
    if place is None:
        return None
    if not _NUMBER.fullmatch(place):
        raise Invalid("cursor", cursor, "what the page before gave as `next`, and nothing else")
    return int(place)


def moment(list_: str, cursor: str | None) -> float | None:
    """As `read`, for a list whose places are times (epoch s)."""
    place = read(list_, cursor)
    try:
        return float(place) if place is not None else None
    except ValueError:
        raise Invalid("cursor", cursor, "what the page before gave as `next`, and nothing else") from None


def page(list_: str, rows: Sequence[Any], limit: int, place: Callable[[Any], str | int]) -> dict[str, Any]:
    """A page of at most ``limit``; ``rows`` has one more when there are more."""
    shown = list(rows[:limit])
    return {"items": shown, "next": write(list_, place(shown[-1])) if len(rows) > limit else None}


def whole(rows: Iterable[Any]) -> dict[str, Any]:
    """A list that is always short, as the one page that it is."""
    return {"items": list(rows), "next": None}


def seen(
    fetch: Callable[[int, int | None], list[Any]],
    place: Callable[[Any], int],
    visible: Callable[[Any], bool],
    limit: int,
    before: int | None,
) -> list[Any]:
    """Up to ``limit`` + 1 rows that are visible, from a list of which ``fetch`` gives so many before a number."""
    found: list[Any] = []
    while len(found) <= limit:
        rows = fetch(limit + 1, before)
        found += [row for row in rows if visible(row)]
        if len(rows) <= limit:
            break
        before = place(rows[-1])
    return found[: limit + 1]
