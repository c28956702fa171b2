"""Figures out of what other people's tools have written: each is checked for what it must be, and named when it is not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from crossfade.domain.errors import Invalid


def parsed(path: str, content: bytes) -> Any:
    """The JSON of a report. Raises Invalid: not UTF-8, not JSON, NaN or infinity in it, or nested too deeply."""

    def refuse(constant: str) -> float:
        raise Invalid(path, constant, "finite numbers")

    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise Invalid(path, f"byte {content[error.start]:#04x} at {error.start}", "text in UTF-8") from None
    except RecursionError:
        raise Invalid(path, "nested too deeply", "JSON that is nested less") from None
    except ValueError as error:
        raise Invalid(path, str(error)[:100], "JSON") from None


def mapping(place: str, value: object) -> Mapping[str, Any]:
    """An object. Raises Invalid."""
    if not isinstance(value, dict):
        raise Invalid(place, value, "an object")
    return value


def listed(place: str, value: object) -> list[Any]:
    """A list. Raises Invalid."""
    if not isinstance(value, list):
        raise Invalid(place, value, "a list")
    return value


def number(place: str, value: object, *, unit: float = 1.0) -> float:
    """A number that is not negative, times ``unit``. Raises Invalid."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Invalid(place, value, "a number")
    try:
        found = float(value) * unit
    except OverflowError:
        raise Invalid(place, "a number of very many digits", "a finite number") from None
    if not math.isfinite(found) or found < 0:
        raise Invalid(place, value, "a finite number that is not negative")
    return found


def count(place: str, value: object) -> int:
    """A whole number that is not negative; one that was written as a float too. Raises Invalid."""
    found = number(place, value)
    if found != int(found):
        raise Invalid(place, value, "a whole number")
    return int(found)


def text(place: str, value: object) -> str:
    """Text of at most 300 characters, on one line. Raises Invalid."""
    if not isinstance(value, str) or not value:
        raise Invalid(place, value, "text")
    return " ".join(value.split())[:300]
