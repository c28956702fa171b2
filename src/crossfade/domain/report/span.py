"""The time that a report is about: whole days of UTC, a calendar month or from one day to another."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Self

from crossfade.domain.errors import Invalid

DAY: Final = 86_400
MOST_DAYS: Final = 400
FIRST_YEAR, LAST_YEAR = 1970, 9000
"""Before it there is nothing to report, and beyond it the calendar of this machine ends."""

_MONTH: Final = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Span:
    """From midnight to midnight in UTC, epoch seconds. A day of UTC always has 86,400 of them, whatever clocks do elsewhere."""

    begins: int
    ends: int

    @classmethod
    def of_month(cls, text: str) -> Self:
        """From ``2026-11``. Raises Invalid."""
        match = _MONTH.fullmatch(text)
        if match is None or not FIRST_YEAR <= int(match[1]) <= LAST_YEAR:
            raise Invalid("month", text, "a year and a month, for example 2026-11")
        year, month = int(match[1]), int(match[2])
        return cls.of_dates(date(year, month, 1), date(year, month, calendar.monthrange(year, month)[1]))

    @classmethod
    def of_days(cls, first: str, last: str) -> Self:
        """Both days belong to it, ``2026-11-01`` and ``2026-11-30``. Raises Invalid."""
        begins, ends = (_date(place, text) for place, text in (("from", first), ("to", last)))
        if ends < begins:
            raise Invalid("to", last, f"a day that is not before {first}")
        if (ends - begins).days >= MOST_DAYS:
            raise Invalid("to", last, f"at most {MOST_DAYS} days in all")
        return cls.of_dates(begins, ends)

    @classmethod
    def of_dates(cls, first: date, last: date) -> Self:
        return cls(_midnight(first), _midnight(last) + DAY)

    @classmethod
    def around(cls, now: float) -> Self:
        """The month in which something is."""
        return cls.of_month(datetime.fromtimestamp(now, UTC).strftime("%Y-%m"))

    @property
    def month(self) -> str | None:
        """As ``2026-11``, when it is one whole month."""
        first = _day(self.begins)
        whole = first.day == 1 and _day(self.ends) == _next_month(first)
        return f"{first:%Y-%m}" if whole else None

    @property
    def previous(self) -> Span:
        """The month before a month; of other spans the same number of days before it."""
        first = _day(self.begins)
        if self.month is None:
            return Span(2 * self.begins - self.ends, self.begins)
        return Span(_midnight((first - timedelta(days=1)).replace(day=1)), self.begins)

    @property
    def title(self) -> str:
        """As people say it: ``November 2026``, or the first and the last day."""
        first, last = _day(self.begins), _day(self.ends - 1)
        if self.month is not None:
            return f"{calendar.month_name[first.month]} {first.year}"
        return f"{first} to {last}" if last > first else str(first)

    def until(self, now: float) -> float:
        """Where what can be known of it ends: nothing is known of what has not been yet."""
        return min(float(self.ends), max(float(self.begins), now))

    def days(self) -> Iterator[int]:
        """The beginning of each of its days."""
        return iter(range(self.begins, self.ends, DAY))

    def has(self, at: float) -> bool:
        return self.begins <= at < self.ends


def name_of(at: float) -> str:
    """The day of UTC that a moment is in: ``2026-11-03``."""
    return str(_day(at))


def day_of(at: float) -> int:
    """The beginning of the day of UTC that a moment is in."""
    return int(at // DAY) * DAY


def _day(at: float) -> date:
    return datetime.fromtimestamp(at, UTC).date()


def _midnight(day: date) -> int:
    return calendar.timegm(day.timetuple())


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)


def _date(place: str, text: str) -> date:
    try:
        found = date.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None or not FIRST_YEAR <= found.year <= LAST_YEAR:
        raise Invalid(place, text, "a day of the calendar, for example 2026-11-03")
    return found
