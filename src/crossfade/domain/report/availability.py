"""What clients had of an environment, day by day: at the edge, asked from outside, and by each of its objectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from crossfade.domain.report.figure import rounded, share
from crossfade.domain.report.span import DAY
from crossfade.domain.slo import Bin, Counted, Kind, Objective

BIN: Final = 60.0
"""Seconds of a bin: what histories still have after 35 days."""
BAD_SHARE: Final = 0.01
"""Share of failed requests from which a bin is bad."""
BAD_FOR: Final = 60.0
"""Seconds of bad bins that make a bad stretch."""
BAD_LEAST: Final = 5.0
"""Failed requests of a bad stretch: one of a dozen in a quiet night is no incident."""


NOTHING: Final = Counted()


@dataclass(frozen=True, slots=True, order=True)
class Stretch:
    """Of a time in which the edge failed too many requests. Epoch seconds."""

    begins: float
    ends: float
    total: float
    bad: float


@dataclass(frozen=True, slots=True)
class Kept:
    """What was counted of an objective as it was on that day."""

    target: float
    kind: Kind
    counted: Counted
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Day:
    """One day of UTC of one environment, from ``at`` on. What nothing is known of has no ``covered`` seconds."""

    at: int
    edge: Counted = NOTHING
    probe: Counted = NOTHING
    objectives: Mapping[str, Kept] = field(default_factory=dict)
    stretches: tuple[Stretch, ...] = ()

    @property
    def known(self) -> bool:
        """Whether anything is."""
        return any(one.covered > 0 for one in (self.edge, self.probe, *(k.counted for k in self.objectives.values())))

    def to_data(self) -> dict[str, Any]:
        """As it is kept for good, when histories have long forgotten the day."""
        return {
            "at": self.at,
            "edge": _counted(self.edge),
            "probe": _counted(self.probe),
            "objectives": {
                name: [one.target, one.kind.value, one.threshold, _counted(one.counted)]
                for name, one in self.objectives.items()
            },
            "stretches": [[one.begins, one.ends, one.total, one.bad] for one in self.stretches],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            data["at"],
            Counted(*data["edge"]),
            Counted(*data["probe"]),
            {
                name: Kept(target, Kind(kind), Counted(*counted), threshold)
                for name, (target, kind, threshold, counted) in data["objectives"].items()
            },
            tuple(Stretch(*one) for one in data["stretches"]),
        )


def stretches(bins: Iterable[Bin]) -> tuple[Stretch, ...]:
    """The bad stretches of bins in order of time. A gap ends a stretch: nobody knows what was in it."""
    found: list[Stretch] = []
    for one in bins:
        counted = one.counted
        if counted.total <= 0 or counted.bad < BAD_SHARE * counted.total:
            continue
        here = Stretch(one.at, one.at + one.seconds, counted.total, counted.bad)
        found = [*found[:-1], _joined(found[-1], here)] if found and _touch(found[-1], here) else [*found, here]
    return tuple(one for one in found if one.ends - one.begins >= BAD_FOR and one.bad >= BAD_LEAST)


def _touch(one: Stretch, other: Stretch) -> bool:
    return other.begins <= one.ends + 1e-6


def _joined(one: Stretch, other: Stretch) -> Stretch:
    return Stretch(one.begins, max(one.ends, other.ends), one.total + other.total, one.bad + other.bad)


def total(counted: Iterable[Counted]) -> Counted:
    """All of them together."""
    whole = NOTHING
    for one in counted:
        whole = whole.plus(one)
    return whole


def availability(counted: Counted, seconds: float) -> dict[str, Any]:
    """As it is told. ``seconds``: how long the time is, of which a share is known; what is not known is not good."""
    bad = share(counted.bad, counted.total)
    return {
        "n": round(counted.total),
        "bad": round(counted.bad),
        "good": rounded(None if bad is None else 1 - bad, 8),
        "covered": rounded(min(1.0, counted.covered / seconds) if seconds > 0 else None, 6),
    }


def budget_left(target: float, counted: Counted) -> float | None:
    """The share of the error budget of a time that is left: 1 untouched, 0 used up, below 0 overdrawn; None: no requests."""
    allowed = (1 - target) * counted.total
    return 1 - counted.bad / allowed if allowed > 0 else None


def objectives(days: Sequence[Day], policy: Sequence[Objective], seconds: float, *, burn: bool) -> list[dict[str, Any]]:
    """Each objective over the days. Its target is the newest that is known. ``burn``: with its budget day by day."""
    newest: dict[str, tuple[float, Kind, float | None]] = {}
    for day in days:
        newest |= {name: (one.target, one.kind, one.threshold) for name, one in day.objectives.items()}
    newest |= {one.name: (one.target, one.kind, one.threshold) for one in policy}
    found = []
    for name, (target, kind, threshold) in newest.items():
        mine = [(day.at, day.objectives[name].counted) for day in days if name in day.objectives]
        whole = total(counted for _, counted in mine)
        told = {
            "name": name,
            "kind": kind.value,
            "target": target,
            "threshold": threshold,
            **availability(whole, seconds),
            "budget_left": rounded(budget_left(target, whole), 6),
        }
        found.append({**told, "burn": burn_down(target, mine, whole)} if burn else told)
    return found


def burn_down(target: float, days: Iterable[tuple[int, Counted]], whole: Counted) -> list[list[float]]:
    """What was left of the budget at the end of each day that is known, of all that the time had: [day, share]."""
    allowed, bad, found = (1 - target) * whole.total, 0.0, []
    for at, counted in days:
        bad += counted.bad
        if allowed > 0 and counted.covered > 0:
            found.append([at + DAY, rounded(1 - bad / allowed, 6) or 0.0])
    return found


def _counted(counted: Counted) -> list[float]:
    return [rounded(value) or 0.0 for value in (counted.total, counted.bad, counted.covered)]
