"""Kinds of values that only pipelines and freezes have."""

from __future__ import annotations

import re
import zoneinfo
from datetime import date
from decimal import Decimal
from functools import cache
from typing import Any, Final

from crossfade.domain.pipeline.freeze import DAYS
from crossfade.spec.scalars import METHODS, STRING, Kind, NotAllowed, text_of

_UNITS: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(r"\s*([0-9]{1,16}(?:\.[0-9]{1,6})?)\s*(B|KiB|MiB|GiB|TiB)\s*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")
_REQUEST = re.compile(r"(?:(?P<method>[A-Z]{1,20}) )?(?P<path>/[\x21\x22\x24-\x7e]{0,1999})")
_RANGE = re.compile(r"\{(\d{1,9})-(\d{1,9})\}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]|24:00")

MOST_NUMBERS: Final = 10_000
"""Numbers that the range of a request may stand for; `load.plan` has the same limit."""


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text)
    size = Decimal(found[1]) * _UNITS[found[2]] if found is not None else Decimal("0.5")
    if size != int(size):
        raise NotAllowed
    return int(size)


def show_bytes(size: int) -> str:
    """The shortest text that reads as this many bytes: ``2GiB``, ``1536MiB``."""
    unit = max((u for u in _UNITS if size % _UNITS[u] == 0), key=_UNITS.__getitem__)
    return f"{size // _UNITS[unit]}{unit}"


def size(low: str, high: str) -> Kind:
    """Bytes from ``low`` to ``high``."""
    least, most = _bytes(low), _bytes(high)

    def read(value: Any) -> int:
        found = _bytes(text_of(value, 40))
        if not least <= found <= most:
            raise NotAllowed
        return found

    pattern = r"^\s*\d+(\.\d+)?\s*(B|KiB|MiB|GiB|TiB)\s*$"
    words = f"a size from {low} to {high} with a unit B, KiB, MiB, GiB or TiB"
    return Kind(words, read, show_bytes, {"type": "string", "pattern": pattern})


def _inside(value: Any) -> str:
    """A path in the checkout; it stays in it, whatever the names in it are."""
    text = text_of(value, 1000)
    if not text or text.startswith("/") or not text.isprintable() or "\\" in text:
        raise NotAllowed
    if ".." in text.split("/"):
        raise NotAllowed
    return text


def _file(value: Any) -> str:
    text = _inside(value)
    if text.endswith("/"):
        raise NotAllowed
    return text


def _files(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 100:
        raise NotAllowed
    return tuple(_inside(one) for one in value)


def several(kind: Kind, allowed: str, least: int, most: int) -> Kind:
    """A list of scalars of one kind, each of them once."""

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            raise NotAllowed
        found = tuple(kind.read(one) for one in value)
        if len(set(found)) < len(found):
            raise NotAllowed
        return found

    items = dict(kind.schema)
    schema = {"type": "array", "items": items, "minItems": least, "maxItems": most, "uniqueItems": True}
    return Kind(allowed, read, list, schema)


def _line(value: Any) -> str:
    text = text_of(value, 500)
    if not text.strip() or not text.isprintable():
        raise NotAllowed
    return text


def _branch(value: Any) -> str:
    text = text_of(value, 200)
    if not text or text.startswith("-") or not text.isprintable() or " " in text:
        raise NotAllowed
    return text


def _image(value: Any) -> str:
    if not _IMAGE.fullmatch(text_of(value)):
        raise NotAllowed
    return str(value)


def _request(value: Any) -> str:
    found = _REQUEST.fullmatch(text_of(value, 2100))
    if found is None or (found["method"] or "GET") not in METHODS:
        raise NotAllowed
    ranges = _RANGE.findall(found["path"])
    if len(ranges) > 1 or any(not 0 <= int(high) - int(low) < MOST_NUMBERS for low, high in ranges):
        raise NotAllowed(f"at most one range {{LOW-HIGH}}, of at most {MOST_NUMBERS} numbers")
    return str(value)


def _clock(value: Any) -> str:
    if not _CLOCK.fullmatch(text_of(value, 5)):
        raise NotAllowed
    return str(value)


def _dates(value: Any) -> tuple[str, str]:
    first, dots, last = text_of(value, 40).partition("..")
    if not all(_DATE.fullmatch(one) for one in (first, *([last] if dots else []))):
        raise NotAllowed
    try:
        begins, ends = date.fromisoformat(first), date.fromisoformat(last if dots else first)
    except ValueError:
        raise NotAllowed from None
    if begins > ends:
        raise NotAllowed("dates of which the first is not after the last")
    return begins.isoformat(), ends.isoformat()


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _zone(value: Any) -> str:
    name = text_of(value, 100)
    if name != "UTC" and name not in _zones():
        raise NotAllowed
    return name


def _status(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
        raise NotAllowed
    return value


_RELATIVE: Final = {"type": "string", "pattern": r"^[^/\\][^\\]*$", "not": {"pattern": r"(^|/)\.\.(/|$)"}}

REPORT: Final = Kind(
    "a path or shell pattern inside the project, written relative to it",
    _file,
    schema={**_RELATIVE, "pattern": r"^[^/\\]([^\\]*[^/\\])?$"},
)
INSIDE: Final = Kind(
    "a folder inside the project, written relative to it",
    _inside,
    schema=_RELATIVE,
)
FILES: Final = Kind(
    "a list of 1 to 100 paths or shell patterns inside the project, written relative to it",
    _files,
    list,
    {"type": "array", "items": _RELATIVE, "minItems": 1, "maxItems": 100},
)
BASELINE: Final = Kind(
    "the path of a file inside the project, written relative to it",
    _file,
    schema={**_RELATIVE, "pattern": r"^[^/\\]([^\\]*[^/\\])?$"},
)
PLAIN_FILES: Final = several(
    BASELINE, "a list of at most 20 different paths of files inside the project, written relative to it", 0, 20
)
BRANCHES: Final = several(
    Kind("", _branch, schema={"type": "string", "pattern": "^[^- ][^ ]*$", "maxLength": 200}),
    "a list of 1 to 50 different shell patterns",
    1,
    50,
)
TOLERATED: Final = several(
    Kind("", _line, schema={**STRING, "maxLength": 500}), "a list of at most 500 different texts", 0, 500
)
EXITS: Final = several(
    Kind("", _status, schema={"type": "integer", "minimum": 0, "maximum": 255}),
    "a list of different whole numbers from 0 to 255",
    1,
    256,
)
WEEKDAYS: Final = several(
    Kind("", lambda value: value if value in DAYS else _refuse(), schema={"type": "string", "enum": list(DAYS)}),
    f"a list of different days, each {', '.join(DAYS[:-1])} or {DAYS[-1]}",
    1,
    7,
)
IMAGE: Final = Kind(
    "the name of an image that this machine has",
    _image,
    schema={"type": "string", "pattern": f"^{_IMAGE.pattern}$"},
)
REQUEST: Final = Kind(
    "a path that begins with '/', if you like after a method; {1-100} in it stands for a number from 1 to 100",
    _request,
    schema={"type": "string", "pattern": r"^([A-Z]{1,20} )?/[\x21\x22\x24-\x7e]*$"},
)
CLOCK: Final = Kind(
    "a time from 00:00 to 24:00, in quotes",
    _clock,
    schema={"type": "string", "pattern": f"^({_CLOCK.pattern})$"},
)
DATES: Final = Kind(
    "a date, or two with .. between them: 2026-12-20..2027-01-02",
    _dates,
    lambda pair: pair[0] if pair[0] == pair[1] else "..".join(pair),
    {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d(\.\.\d{4}-\d\d-\d\d)?$"},
)
ZONE: Final = Kind("the name of a time zone, for example Europe/Berlin", _zone, schema=STRING)


def _refuse() -> Any:
    raise NotAllowed
