"""Who took part: the units an experiment counts, what they did, and what was left out and why."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from crossfade.domain.analysis.evidence import Array, Flags, Places
from crossfade.domain.experiments.plan import Plan, Window

LARGEST: Final = 1e12
"""A value beyond it is no measurement: it would drown all others."""

NONE: Final = "(none)"
"""What stands in place of an attribute or a release that an exposure did not tell."""

OTHERS: Final = "(others)"
MOST_VALUES: Final = 20
"""Values of an attribute, or releases, that are told apart; those of the fewest units, or the oldest, are others."""

_RELEASE = re.compile(r"r([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Exposure:
    """A unit was given a variant. A unit may be exposed any number of times: the first one counts."""

    unit: str
    variant: str
    at: float
    release: str = ""
    slot: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A unit did something. What it did before its exposure is what CUPED compares with."""

    unit: str
    event: str
    at: float
    value: float = 1.0


@dataclass(frozen=True, slots=True)
class Counted:
    """What came and what of it is not counted, in units, exposures or outcomes.

    ``crossovers``: units that were given two variants; ``excluded_units``: first exposed in a window that does not
    count; ``outside``: exposures before the experiment or after it; ``future``: of a time after now; ``unusable``: of
    a value or time that is no number, or of nobody; ``strangers``: outcomes of units that are not counted.
    """

    units: int = 0
    crossovers: int = 0
    excluded_units: int = 0
    exposures: int = 0
    unknown_variants: Mapping[str, int] = field(default_factory=dict)
    outside: int = 0
    outcomes: int = 0
    excluded_outcomes: int = 0
    other_events: int = 0
    strangers: int = 0
    future: int = 0
    unusable: int = 0

    def to_data(self) -> dict[str, Any]:
        names = self.__slots__
        return {name: getattr(self, name) for name in names} | {"unknown_variants": dict(self.unknown_variants)}


@dataclass(frozen=True, slots=True)
class Coded:
    """One of ``values`` for each unit: ``codes`` are places in it, ``[U]``."""

    values: tuple[str, ...]
    codes: Places


@dataclass(frozen=True, slots=True)
class Events:
    """Events of one name by counted units: ``unit`` is its place, all ``[N]``."""

    unit: Places
    at: Array
    value: Array


@dataclass(frozen=True, slots=True)
class Population:
    """The counted units ``[U]``: ``arm`` is the place of the variant, ``at`` the first exposure."""

    arm: Places
    at: Array
    release: Coded
    attributes: Mapping[str, Coded]
    events: Mapping[str, Events]
    counted: Counted


class Gaps:
    """Windows that do not count, merged so that one search tells whether a moment is in any."""

    def __init__(self, windows: Iterable[Window]) -> None:
        self.edges: list[float] = []
        for window in sorted(windows, key=lambda one: one.begins):
            if self.edges and window.begins <= self.edges[-1]:
                self.edges[-1] = max(self.edges[-1], window.ends)
            else:
                self.edges += [window.begins, window.ends]

    def holds(self, at: float) -> bool:
        return bisect_right(self.edges, at) % 2 == 1

    def hold(self, at: Array) -> Flags:
        held: Flags = np.searchsorted(np.array(self.edges), at, side="right") % 2 == 1
        return held


def gather(plan: Plan, exposures: Iterable[Exposure], outcomes: Iterable[Outcome], now: float) -> Population:
    """The units that count at ``now``, in whatever order they are given.

    A unit counts from its first exposure within the experiment. One first exposed in an excluded window is left out
    with all it did: what it was given then may have changed whether it ever came back. Exposures in such a window tell
    nothing about a unit that was exposed before, so a flag that was killed meanwhile makes no crossovers.
    """
    taken = _Taken(plan, now)
    for exposure in exposures:
        taken.exposure(exposure)
    return taken.population(outcomes)


class _Taken:
    """Exposures as they come, until all are there."""

    def __init__(self, plan: Plan, now: float) -> None:
        self.plan, self.now = plan, now
        self.last = now if plan.ends is None else min(now, plan.ends)
        self.arms = {name: place for place, name in enumerate(plan.variants)}
        self.gaps = Gaps(plan.excluded)
        self.first: dict[str, Exposure] = {}
        self.given: dict[str, str] = {}
        self.crossed: set[str] = set()
        self.unknown: Counter[str] = Counter()
        self.seen = self.outside = self.future = self.unusable = 0

    def exposure(self, one: Exposure) -> None:
        self.seen += 1
        unit, at = one.unit, one.at
        if not unit or not math.isfinite(at):
            self.unusable += 1
        elif at > self.now:
            self.future += 1
        elif not self.plan.began <= at <= self.last:
            self.outside += 1
        elif one.variant not in self.arms:
            self.unknown[one.variant] += 1
        else:
            known = self.first.get(unit)
            if known is None or at < known.at or (at == known.at and _rank(one) < _rank(known)):
                self.first[unit] = one
            if (
                not (self.gaps.edges and self.gaps.holds(at))
                and self.given.setdefault(unit, one.variant) != one.variant
            ):
                self.crossed.add(unit)

    def population(self, outcomes: Iterable[Outcome]) -> Population:
        late = {u for u, one in self.first.items() if self.gaps.holds(one.at)} if self.gaps.edges else set()
        units = [one for u, one in self.first.items() if u not in late and u not in self.crossed]
        places = {one.unit: place for place, one in enumerate(units)}
        events, lost = self._events(outcomes, places)
        return Population(
            np.array([self.arms[one.variant] for one in units], dtype=np.int_),
            np.array([one.at for one in units], dtype=np.float64),
            _coded([one.release or NONE for one in units], _newest_first),
            {
                name: _coded([one.attributes.get(name, "") or NONE for one in units], _most_first)
                for name in self.plan.segments
            },
            events,
            Counted(
                units=len(units),
                crossovers=len(self.crossed - late),
                excluded_units=len(late),
                exposures=self.seen,
                unknown_variants=dict(self.unknown.most_common(MOST_VALUES)),
                outside=self.outside,
                outcomes=lost["outcomes"],
                excluded_outcomes=lost["excluded"],
                other_events=lost["other"],
                strangers=lost["strangers"],
                future=self.future + lost["future"],
                unusable=self.unusable + lost["unusable"],
            ),
        )

    def _events(
        self, outcomes: Iterable[Outcome], places: Mapping[str, int]
    ) -> tuple[dict[str, Events], Mapping[str, int]]:
        """By name, those of metrics; and how many of the others there were."""
        kept: dict[str, tuple[list[int], list[float], list[float]]] = {m.event: ([], [], []) for m in self.plan.metrics}
        lost: Counter[str] = Counter()
        for one in outcomes:
            lost["outcomes"] += 1
            into, place = kept.get(one.event), places.get(one.unit)
            if into is None:
                lost["other"] += 1
            elif place is None:
                lost["strangers"] += 1
            else:
                into[0].append(place)
                into[1].append(one.at)
                into[2].append(one.value)
        events = {}
        for name, (unit, at, value) in kept.items():
            t, v = np.array(at, dtype=np.float64), np.array(value, dtype=np.float64)
            usable = np.isfinite(t) & (np.abs(v) <= LARGEST)
            past = usable & (t <= self.now)
            gone = past & self.gaps.hold(t)
            lost["unusable"] += int((~usable).sum())
            lost["future"] += int((usable & ~past).sum())
            lost["excluded"] += int(gone.sum())
            keep = past & ~gone
            events[name] = Events(np.array(unit, dtype=np.int_)[keep], t[keep], v[keep])
        return events, lost


def _rank(one: Exposure) -> tuple[object, ...]:
    """Which of two exposures at the same moment comes first, whatever order they are given in."""
    return one.variant, one.release, one.slot, sorted(one.attributes.items())


def _coded(texts: list[str], rank: Callable[[Mapping[str, int]], list[str]]) -> Coded:
    """In the order of ``rank``; from the twentieth on they are others."""
    ranked = rank(Counter(texts))
    values = ranked if len(ranked) <= MOST_VALUES else [*ranked[: MOST_VALUES - 1], OTHERS]
    places = {value: min(place, len(values) - 1) for place, value in enumerate(ranked)}
    return Coded(tuple(values), np.array([places[text] for text in texts], dtype=np.int_))


def _most_first(counts: Mapping[str, int]) -> list[str]:
    """By how many units have it, then by name."""
    return sorted(counts, key=lambda value: (-counts[value], value))


def _newest_first(counts: Mapping[str, int]) -> list[str]:
    """By the number of the release; what has none is older than all that have one."""

    def age(release: str) -> tuple[int, str]:
        found = _RELEASE.fullmatch(release)
        return (0, release) if found is None else (int(found[1]), release)

    return sorted(counts, key=age, reverse=True)
