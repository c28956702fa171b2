"""Records: what happens over a time and is told of afterwards: alerts, watches, drills, proofs, notices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from crossfade.domain.errors import Busy, NotFound
from crossfade.domain.slo import Bin, Counted, Series
from crossfade.domain.values import EnvKey


@dataclass(frozen=True, slots=True)
class Record:
    """``kind`` says what of (``alert``, ``watch``, ``drill``, ``proof``, ``notice``, ``days``, …), ``subject`` which one of its kind.

    ``data`` is JSON-ready. ``ended`` is when it ended, None while it is open. Times are epoch seconds.
    """

    id: int
    kind: str
    key: EnvKey
    subject: str
    data: Mapping[str, Any]
    began: float
    ended: float | None = None


class Records(Protocol):
    """Durable when a call returns."""

    def add(
        self, kind: str, key: EnvKey, subject: str, data: Mapping[str, Any], now: float, *, ended: float | None = None
    ) -> Record:
        """Raises Busy, naming it, when the environment has an open one of that kind and subject. Tells the feed ``kind``."""

    def save(self, id: int, data: Mapping[str, Any], now: float, *, ended: bool = False, told: bool = True) -> None:
        """Its newest state; ``told`` says whether the feed hears of it. One that has ended stays ended."""

    def get(self, id: int) -> Record:
        """Raises NotFound."""

    def list(
        self,
        kind: str,
        key: EnvKey | None = None,
        *,
        subject: str | None = None,
        open_only: bool = False,
        since: float | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> tuple[Record, ...]:
        """Newest first. ``since``: those that were open then or began later. ``before``: those with a lower id."""

    def prune(self, kind: str, before: float, keep: int) -> int:
        """Forget those that ended before a time, save the newest ``keep``; how many went."""


class Histories(Protocol):
    """Counts over time at falling resolution: 1 s for an hour, 10 s for a day, 1 min for 35 days. Bounded in size."""

    def add(self, series: Series, begins: float, ends: float, counted: Counted) -> None:
        """What was counted between two readings, spread evenly over the time between them.

        ``counted.covered`` is how much of it is known: ``ends - begins`` where all of it is. Raises StorageFailed.
        """

    def count(self, series: Series, begins: float, ends: float) -> Counted:
        """All that is known of a time, from the finest bins that reach back so far."""

    def bins(self, series: Series, begins: float, ends: float, step: float) -> tuple[Bin, ...]:
        """By bins of ``step`` seconds, oldest first; those of which nothing is known are left out."""

    def all(self) -> tuple[Series, ...]: ...

    def remove(self, series: Series) -> None: ...


def no_record(id: int) -> NotFound:
    """Says that there is no such record, or none any more."""
    return NotFound(f"There is no record #{id}.", hint="Old ones are forgotten.")


def taken(kind: str, key: EnvKey, subject: str, id: int) -> Busy:
    """Says which open record is in the way of a second one."""
    return Busy(f"{key} has an open {kind} for {subject or 'itself'} already: #{id}.", hint="Wait for its end.")
