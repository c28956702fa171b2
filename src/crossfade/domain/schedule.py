"""Schedules: lines of cron, read on the clocks of a zone.

A line with times of day (``0 4 * * 2``) has each of them once a day: one that clocks skip in spring comes when they go on,
one that comes twice in autumn counts the first time. A line with a star for minutes or hours goes by time as it passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final

from cronsim import CronSim, CronSimError

from crossfade.domain.errors import Invalid

LONGEST: Final = 100
"""Characters that a line may have."""
FIELDS: Final = "five fields: minute, hour, day of month, month, day of week (0 4 * * 2)"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A line of cron that comes at least once: see `parse`."""

    line: str

    def __str__(self) -> str:
        return self.line


def parse(line: str) -> Schedule:
    """Read a line. Raises Invalid for one that is none, or that never comes (the 30th of February)."""
    fields = line.split()
    if len(line) > LONGEST or len(fields) != 5:
        raise Invalid("schedule", line[:LONGEST], FIELDS)
    schedule = Schedule(" ".join(fields))
    try:
        found = next_after(schedule, UTC, 0.0)
    except CronSimError as error:
        raise Invalid("schedule", line, f"{FIELDS}; here: {str(error).lower()}") from error
    if found is None:
        raise Invalid("schedule", line, "a time that comes")
    return schedule


def next_after(schedule: Schedule, zone: tzinfo, t: float) -> float | None:
    """The first time after ``t`` (both epoch s) at which it comes; None within the next 50 years."""
    found = CronSim(schedule.line, datetime.fromtimestamp(t, zone))
    for moment in found:
        # The second time that a clock shows an hour, lines with times of day have had theirs already.
        if moment.timestamp() > t:
            return moment.timestamp()
    return None


def last_until(schedule: Schedule, zone: tzinfo, since: float, t: float) -> float | None:
    """The newest time in ``since`` < time ≤ ``t`` at which it came; None when it did not."""
    before = None
    reach = t - since
    # From near: a line that comes each minute has come often.
    for span in (60.0, 3600.0, 86_400.0, 8 * 86_400.0, 40 * 86_400.0, 400 * 86_400.0, reach):
        start = max(since, t - min(span, reach))
        while (found := next_after(schedule, zone, start)) is not None and found <= t:
            before = start = found
        if before is not None or start <= since:
            return before
    return before


GRACE: Final = 3600.0
"""Seconds for which what is due may wait, at most half of the time until it comes again."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Of something scheduled: when it last was ``due``, when it comes ``next``, whether it should ``run`` now.

    ``overdue``: it was due and has not run, and it is too late for that now: it waits for its next time.
    """

    due: float | None
    next: float | None
    run: bool
    overdue: bool


def turn(schedule: Schedule, zone: tzinfo, since: float, began: float | None, now: float) -> Turn:
    """How something stands that was planned ``since``, and last ``began`` (None: never). Times that were missed run once."""
    next = next_after(schedule, zone, now)
    due = last_until(schedule, zone, since, now)
    if due is None or (began is not None and began >= due):
        return Turn(due, next, False, False)
    grace = min(GRACE, (next - due) / 2) if next is not None else GRACE
    late = now - due > grace
    return Turn(due, next, not late, late)
