"""What an experiment compares, by what it is measured, and what of its time does not count."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from crossfade.domain.errors import Fault, InvalidBatch
from crossfade.domain.values import FULL

UNITS: Final = 10_000
"""Units that an experiment is planned for when nobody says: there its intervals are narrowest."""

MOST_TREATMENTS: Final = 20
MOST_METRICS: Final = 50
MOST_SEGMENTS: Final = 20
MOST_WINDOWS: Final = 1000
LATEST: Final = 1e11
"""No time is later than this: it would be in another unit than seconds."""

_NAME = re.compile(r"[^\s\x00-\x1f](?:[^\x00-\x1f]{0,98}[^\s\x00-\x1f])?")


class MetricKind(enum.StrEnum):
    """What is made of a unit's events: one number each, 0 for a unit without any."""

    CONVERSION = "conversion"  # whether there was any
    MEAN = "mean"  # the sum of their values
    COUNT = "count"  # how many there were


class Direction(enum.StrEnum):
    """Where a metric is better."""

    UP = "up"
    DOWN = "down"

    @property
    def sign(self) -> float:
        return 1.0 if self is Direction.UP else -1.0


@dataclass(frozen=True, slots=True)
class Metric:
    """What is compared. ``margin``: what change of the control's mean does not matter, 0.02 is 2 %.

    ``window``: seconds after its exposure in which a unit's events count; a unit is counted when they are over. None
    counts each unit at once, by what it did so far. ``cuped``: take out what a unit's events before its exposure tell.
    """

    name: str
    kind: MetricKind
    event: str
    direction: Direction = Direction.UP
    margin: float = 0.0
    window: float | None = None
    primary: bool = False
    cuped: bool = False

    def faults(self, place: str) -> Iterator[Fault]:
        yield from _name(f"{place}.name", self.name)
        yield from _name(f"{place}.event", self.event)
        if not isinstance(self.kind, MetricKind):
            yield Fault(f"{place}.kind", self.kind, ", ".join(MetricKind))
        if not isinstance(self.direction, Direction):
            yield Fault(f"{place}.direction", self.direction, ", ".join(Direction))
        if not _number(self.margin) or not 0 <= self.margin < 1:
            yield Fault(f"{place}.margin", self.margin, "from 0 to less than 1; 0.02 is 2 % of the control's mean")
        if self.window is not None and (not _number(self.window) or not 0 < self.window <= LATEST):
            yield Fault(f"{place}.window", self.window, "seconds, more than 0, or nothing")


@dataclass(frozen=True, slots=True)
class Window:
    """A time that does not count, and why: an incident, a rollout. Epoch seconds; ``ends`` is not part of it."""

    begins: float
    ends: float
    why: str = ""

    def holds(self, at: float) -> bool:
        return self.begins <= at < self.ends


@dataclass(frozen=True, slots=True)
class Plan:
    """An experiment as it was decided before its first unit came. Times in epoch seconds.

    ``weights``: the share each variant is to have, in basis points (they need not sum to all: only variants that are
    compared are here). ``segments``: attributes by whose values the primary metric is also shown. ``alpha``: how
    likely any of the treatments' intervals of one metric ever leaves out the truth. ``units``: how many are expected
    to come; the intervals hold with any number, but are narrowest there.
    """

    name: str
    flag: str
    control: str
    treatments: tuple[str, ...]
    weights: Mapping[str, int]
    metrics: tuple[Metric, ...]
    segments: tuple[str, ...] = ()
    alpha: float = 0.05
    began: float = 0.0
    ends: float | None = None
    excluded: tuple[Window, ...] = field(default=())
    units: int = UNITS

    @property
    def variants(self) -> tuple[str, ...]:
        """The control first."""
        return (self.control, *self.treatments)

    @property
    def primary(self) -> Metric:
        """The metric that decides."""
        return next((metric for metric in self.metrics if metric.primary), self.metrics[0])

    @property
    def shares(self) -> tuple[float, ...]:
        """What each of `variants` should have of all units that are compared; they sum to 1."""
        whole = sum(self.weights[name] for name in self.variants)
        return tuple(self.weights[name] / whole for name in self.variants)

    def check(self) -> None:
        """Raises InvalidBatch (an Invalid) that names the place of everything that is wrong."""
        if faults := list(self._faults()):
            raise InvalidBatch(faults)

    def _faults(self) -> Iterator[Fault]:
        yield from _name("name", self.name)
        if "/" in self.name or self.name in (".", ".."):
            yield Fault("name", self.name, "a name that can be part of an address: no /, not . or ..")
        yield from _name("flag", self.flag)
        yield from self._faults_of_variants()
        yield from self._faults_of_metrics()
        for i, name in enumerate(self.segments):
            yield from _name(f"segments[{i}]", name)
        if len(self.segments) > MOST_SEGMENTS or len(set(self.segments)) < len(self.segments):
            yield Fault("segments", len(self.segments), f"at most {MOST_SEGMENTS} attributes, each once")
        if not _number(self.alpha) or not 1e-6 <= self.alpha <= 0.5:
            yield Fault("alpha", self.alpha, "from 0.000001 to 0.5")
        if isinstance(self.units, bool) or not isinstance(self.units, int) or not 100 <= self.units <= 10**12:
            yield Fault("units", self.units, "a whole number of units, at least 100")
        yield from self._faults_of_times()

    def _faults_of_variants(self) -> Iterator[Fault]:
        if not 1 <= len(self.treatments) <= MOST_TREATMENTS:
            yield Fault("treatments", len(self.treatments), f"1 to {MOST_TREATMENTS} variants beside the control")
        yield from _name("control", self.control)
        for i, name in enumerate(self.treatments):
            yield from _name(f"treatments[{i}]", name)
            if name in self.variants[: i + 1]:
                yield Fault(f"treatments[{i}]", name, "each variant once, and not the control")
        for name in self.variants:
            weight = self.weights.get(name)
            if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= FULL:
                yield Fault(f"weights.{name}", weight, f"a whole number of basis points from 1 to {FULL}")
        for name in self.weights:
            if name not in self.variants:
                yield Fault(f"weights.{name}", name, f"a variant that is compared: {', '.join(self.variants)}")

    def _faults_of_metrics(self) -> Iterator[Fault]:
        if not 1 <= len(self.metrics) <= MOST_METRICS:
            yield Fault("metrics", len(self.metrics), f"1 to {MOST_METRICS} metrics")
        for i, metric in enumerate(self.metrics):
            yield from metric.faults(f"metrics[{i}]")
            if metric.name in (other.name for other in self.metrics[:i]):
                yield Fault(f"metrics[{i}].name", metric.name, "each name once")
        if (n := sum(metric.primary for metric in self.metrics)) > 1:
            yield Fault("metrics", f"{n} primary metrics", "one that is primary; the first one if none is said to be")

    def _faults_of_times(self) -> Iterator[Fault]:
        if not _time(self.began):
            yield Fault("began", self.began, "epoch seconds")
        if self.ends is not None and (not _time(self.ends) or not self.ends > self.began):
            yield Fault("ends", self.ends, "epoch seconds after it began, or nothing")
        if len(self.excluded) > MOST_WINDOWS:
            yield Fault("excluded", len(self.excluded), f"at most {MOST_WINDOWS} windows")
        for i, window in enumerate(self.excluded):
            if not _time(window.begins):
                yield Fault(f"excluded[{i}].begins", window.begins, "epoch seconds")
            if not _time(window.ends) or not window.ends > window.begins:
                yield Fault(f"excluded[{i}].ends", window.ends, "epoch seconds after it begins")

    def to_data(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "flag": self.flag,
            "control": self.control,
            "treatments": list(self.treatments),
            "weights": dict(self.weights),
            "metrics": [
                {
                    "name": m.name,
                    "kind": str(m.kind),
                    "event": m.event,
                    "direction": str(m.direction),
                    "margin": m.margin,
                    "window": m.window,
                    "primary": m.primary,
                    "cuped": m.cuped,
                }
                for m in self.metrics
            ],
            "segments": list(self.segments),
            "alpha": self.alpha,
            "began": self.began,
            "ends": self.ends,
            "excluded": [{"begins": w.begins, "ends": w.ends, "why": w.why} for w in self.excluded],
            "units": self.units,
        }


def _name(place: str, found: object) -> Iterator[Fault]:
    if not isinstance(found, str) or not _NAME.fullmatch(found):
        yield Fault(place, found, "1 to 100 characters, none of them a control character")


def _number(found: object) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)


def _time(found: object) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found <= LATEST
