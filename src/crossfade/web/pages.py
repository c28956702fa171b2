"""How pages say things: the template environment, and numbers and times in words."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from crossfade.domain.values import show_duration
from crossfade.web.assets import Assets
from crossfade.web.slo_view import told

UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))

TURNING: Final = dict.fromkeys(
    (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\N{REPLACEMENT CHARACTER}"
)


def templates(assets: Assets) -> Environment:
    """What renders pages. A name that a page does not know is an error, not an empty place."""
    found = Environment(
        loader=PackageLoader("crossfade.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=plain,
    )
    found.globals.update(static=assets.url, now=time.time)
    found.filters.update(
        ago=ago,
        when=when,
        iso=iso,
        share=share,
        percent=percent,
        duration=show_duration,
        ms=milliseconds,
        count=count,
        value=value,
        digest=digest,
        outcome=outcome,
        capitalize_first=capitalize_first,
        told=told,
    )
    return found


def plain(found: Any) -> Any:
    """Text without the marks that turn its direction: a label must not read as another."""
    return found.translate(TURNING) if isinstance(found, str) and not found.isascii() else found


def ago(at: float | None, now: float | None = None) -> str:
    """How long ago: ``3 min ago``."""
    if at is None:
        return "never"
    seconds = (time.time() if now is None else now) - at
    if abs(seconds) < 1:
        return "just now"
    size, unit = next((size, unit) for size, unit in UNITS if abs(seconds) >= size)
    text = f"{int(abs(seconds) // size)} {unit}"
    return f"{text} ago" if seconds > 0 else f"in {text}"


def when(at: float | None) -> str:
    """Epoch seconds as day and time: ``2026-03-01 14:03:22 UTC``."""
    return "never" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso(at: float) -> str:
    """Epoch seconds for a machine to read."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def share(bp: int) -> str:
    """Basis points: ``12.5 %``."""
    return f"{bp / 100:g} %"


def percent(part: float, whole: float) -> str:
    """A share of failures, never rounded to none: ``0.02 %``, ``< 0.01 %``."""
    if not whole or not part:
        return "0 %"
    found = 100 * part / whole
    return "< 0.01 %" if found < 0.01 else f"{found:.2f} %" if found < 10 else f"{found:.0f} %"


def milliseconds(ms: float | None) -> str:
    """A latency: ``3.4 ms``, ``1.2 s``; a dash where none is known."""
    return "\N{EN DASH}" if ms is None else show_duration(ms / 1000) if ms >= 1000 else f"{ms:.1f} ms"


def count(number: float) -> str:
    """A count with thin spaces between thousands."""
    return f"{number:,.0f}".replace(",", "\u202f")


def value(found: object) -> str:
    """A setting as it may be written; a dash where there is none."""
    if found is None:
        return "\N{EN DASH}"
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def capitalize_first(text: str) -> str:
    """A sentence that another one began, as one of its own; names in it stay as they are, and its point is left off."""
    return text[:1].upper() + text[1:].rstrip(".")


def digest(text: str) -> str:
    """The beginning of a digest, enough for people."""
    return text.removeprefix("sha256:")[:12]


def outcome(rollout: Mapping[str, Any]) -> str:
    """How a rollout ended, or that it has not."""
    match rollout["phase"]:
        case "promoted":
            return "rolled back to" if rollout["kind"] == "rollback" else "promoted"
        case "rolled-back":
            return "went back"
        case _:
            return "under way"
