"""Figures as people read them. What is not known is a dash, and never a zero."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final

from crossfade.domain.values import show_duration

UNKNOWN: Final = "\N{EN DASH}"
_PLURAL: Final = re.compile(r"s\b")


def say(value: float | None, unit: str) -> str:
    """A figure in its unit."""
    if value is None:
        return UNKNOWN
    match unit:
        case "share":
            return percent(value)
        case "seconds":
            return lasting(value)
        case "per day":
            return f"{value:.3g} a day"
        case _:
            return count(value)


def percent(value: float | None) -> str:
    """A share 0…1, with as many digits as tell it from 100 %: ``99.982 %``. It is never rounded to all, nor to none."""
    if value is None:
        return UNKNOWN
    if value in (0, 1):
        return f"{100 * value:g} %"
    if -0.1 < value < 0:
        return f"{100 * value:.2g} %"
    if value < 0 or value > 1:
        return f"{100 * value:.0f} %"
    # Two digits of what is missing, or of what is there where that is less.
    least = min(value, 1 - value)
    digits = min(6, max(1, 1 - math.floor(math.log10(least) + 2)))
    told = f"{100 * value:.{digits}f}"
    if float(told) in (0.0, 100.0):
        return f"> {100 - 10**-digits:.{digits}f} %" if value > 0.5 else f"< {10**-digits:.{digits}f} %"
    return f"{told.rstrip('0').rstrip('.')} %"


def lasting(seconds: float | None) -> str:
    """A duration; of days as days."""
    if seconds is None:
        return UNKNOWN
    if seconds < 172_800:
        return show_duration(seconds)
    return f"{seconds / 86_400:.1f} d"


def count(value: float | None) -> str:
    """A count with thin spaces between thousands."""
    return UNKNOWN if value is None else f"{value:,.0f}".replace(",", "\u202f")


def cases(n: float, of: str) -> str:
    """How many a figure is of: ``12 deployments``, ``1 deployment``."""
    return f"{count(n)} {_PLURAL.sub('', of, count=1) if n == 1 else of}"


def moment(at: float | None) -> str:
    """``2026-11-03 14:03 UTC``."""
    return UNKNOWN if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def change(value: float | None, unit: str) -> str:
    """A difference to the time before, with its sign; of shares in percentage points."""
    if value is None:
        return UNKNOWN
    sign = "+" if value > 0 else "\N{MINUS SIGN}" if value < 0 else "\N{PLUS-MINUS SIGN}"
    size = abs(value)
    match unit:
        case "share":
            return f"{sign}{100 * size:.3g} pp"
        case "seconds":
            return f"{sign}{lasting(size)}"
        case _:
            return f"{sign}{size:.3g}"
