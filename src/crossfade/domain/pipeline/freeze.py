"""Freeze windows: times in which nothing is deployed to an environment. A rollback always may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from typing import Final

from crossfade.domain.errors import Invalid

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WHOLE_DAY: Final = ("00:00", "24:00")

Zones = Callable[[str], tzinfo]
"""Gives the rules of a time zone by its name (`zoneinfo.ZoneInfo` does)."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """On ``days`` (none: every day) within ``dates`` (both ends included, ISO; None: always), from ``begins`` to ``ends``.

    Times are ``HH:MM`` on the clocks of ``zone``. With ``ends`` at or before ``begins`` it lasts into the next day.
    """

    name: str
    days: tuple[str, ...] = ()
    begins: str = "00:00"
    ends: str = "24:00"
    dates: tuple[str, str] | None = None
    zone: str = "UTC"

    def __post_init__(self) -> None:
        for day in self.days:
            if day not in DAYS:
                raise Invalid("freeze.days", day, ", ".join(DAYS))
        _minutes(self.begins, "freeze.from")
        _minutes(self.ends, "freeze.to")
        if self.dates is not None and _date(self.dates[0]) > _date(self.dates[1]):
            raise Invalid("freeze.dates", "..".join(self.dates), "a first day that is not after the last")

    def window(self, day: date, zones: Zones) -> tuple[float, float] | None:
        """When the window of a local day begins and ends (epoch s); None when it has none."""
        if self.days and DAYS[day.weekday()] not in self.days:
            return None
        if self.dates is not None and not _date(self.dates[0]) <= day <= _date(self.dates[1]):
            return None
        begins, ends = _minutes(self.begins), _minutes(self.ends)
        if ends <= begins:
            ends += 24 * 60
        zone = zones(self.zone)
        return _epoch(day, begins, zone), _epoch(day, ends, zone)


def frozen_until(freezes: Sequence[Freeze], now: float, zones: Zones) -> tuple[Freeze, float] | None:
    """The freeze that holds at ``now`` (epoch s), and when nothing is frozen any more; None when nothing is.

    Windows that touch or overlap are one: the end is that of the last of them (looked for within 400 days).
    """
    first: Freeze | None = None
    end = now
    for _ in range(2000):
        found = _at(freezes, end, zones)
        if found is None or end > now + 400 * 86400:
            break
        first = first or found[0]
        end = found[1]
    return None if first is None else (first, end)


def _at(freezes: Sequence[Freeze], at: float, zones: Zones) -> tuple[Freeze, float] | None:
    held: list[tuple[Freeze, float]] = []
    for freeze in freezes:
        today = datetime.fromtimestamp(at, zones(freeze.zone)).date()
        # Yesterday's may last into today; where clocks are put back a day may begin twice.
        for day in (today - timedelta(days=1), today, today + timedelta(days=1)):
            window = freeze.window(day, zones)
            if window is not None and window[0] <= at < window[1]:
                held.append((freeze, window[1]))
    return max(held, key=lambda one: one[1], default=None)


def _epoch(day: date, minutes: int, zone: tzinfo) -> float:
    day, minutes = day + timedelta(days=minutes // 1440), minutes % 1440
    return datetime(day.year, day.month, day.day, minutes // 60, minutes % 60, tzinfo=zone).timestamp()


def _minutes(text: str, place: str = "freeze") -> int:
    hours, colon, minutes = text.partition(":")
    if not (
        colon and len(hours) == len(minutes) == 2 and (hours + minutes).isdecimal() and (hours + minutes).isascii()
    ):
        raise Invalid(place, text, "a time as HH:MM from 00:00 to 24:00")
    found = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or found > 24 * 60:
        raise Invalid(place, text, "a time as HH:MM from 00:00 to 24:00")
    return found


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Invalid("freeze.dates", text, "a date as 2026-12-24") from None
