"""Cumulative counts of one arm as a source elsewhere gives them, and what happened between two readings of them.

Counters are kept by series (one process, one label set), because a counter begins again at 0 when its process does,
and in a sum over processes that cannot be told from a fall. The rule is Prometheus' own: what is smaller than before
has begun again. It is applied to a series as a whole: when one of its counters fell, all of them have begun again,
so that the buckets of a histogram, or errors and requests, keep to each other over a restart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from crossfade.domain.analysis.policy import Shape, Source
from crossfade.domain.analysis.sample import Arm, Histogram, Moments
from crossfade.domain.errors import Unavailable

REQUESTS: Final = "requests"
ERRORS: Final = "errors"
COUNT: Final = "count"
SUM: Final = "sum"
SUM_SQUARES: Final = "sum_squares"
BUCKET: Final = "bucket:"
"""The field of a bucket is this and its upper edge in seconds, the last one ``bucket:inf``; counts are cumulative."""

ROUNDING: Final = 1e-6
"""Relative error that the difference of two large sums may have."""

Counts = Mapping[str, Mapping[str, float]]


def bucket(edge: float) -> str:
    """The field of the bucket whose values are at most ``edge`` (seconds)."""
    return f"{BUCKET}{float(edge)!r}"


@dataclass(frozen=True, slots=True)
class Totals:
    """What a source says of one arm, now.

    ``counters``: by field and series, all since the series began. Fields are ``requests``, ``errors``, ``count``,
    ``sum``, ``sum_squares`` and the buckets (see `bucket`). ``value`` is a gauge; ``at`` (the source's epoch seconds)
    is when it was measured, where that is known: a value that is read twice is one observation.
    """

    counters: Counts = field(default_factory=dict)
    value: float | None = None
    at: float | None = None

    def after(self, known: Totals | None) -> Totals:
        """What is known once this was read: series that have vanished keep their last counts until they come back."""
        if known is None:
            return self
        fields = {**known.counters, **self.counters}
        merged = {name: {**known.counters.get(name, {}), **self.counters.get(name, {})} for name in fields}
        return Totals(
            merged, known.value if self.value is None else self.value, known.at if self.at is None else self.at
        )

    def sum(self, name: str) -> float:
        """The counts of one field over all series; 0 when there are none."""
        return math.fsum(self.counters.get(name, {}).values())

    def to_data(self) -> dict[str, Any]:
        """JSON-ready."""
        counters = {name: dict(series) for name, series in self.counters.items()}
        return {"counters": counters, "value": self.value, "at": self.at}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        counters = {n: {one: float(count) for one, count in s.items()} for n, s in data["counters"].items()}
        value, at = data["value"], data["at"]
        return cls(counters, None if value is None else float(value), None if at is None else float(at))


def increase(later: Totals, known: Totals) -> dict[str, float]:
    """Increments by field from ``known`` (all readings so far, see `Totals.after`) to ``later``, over all series.

    Never negative, but for ``sum`` where ``count`` is given too: there values below 0 may have been counted. A series
    that ``known`` does not have began after the first reading and counts from 0; one that ``later`` does not have
    adds nothing.
    """
    begun_again = _restarted(later, known)
    return {
        name: math.fsum(
            count - (0.0 if one in begun_again else known.counters.get(name, {}).get(one, 0.0))
            for one, count in series.items()
        )
        for name, series in later.counters.items()
    }


def _restarted(later: Totals, known: Totals) -> set[str]:
    """The series of which a counter fell."""
    counted = later.counters.get(COUNT, {})
    return {
        one
        for name, series in later.counters.items()
        for one, count in series.items()
        if count < known.counters.get(name, {}).get(one, 0.0) and not (name == SUM and one in counted)
    }


def since(source: Source, later: Totals, known: Totals) -> Arm:
    """What one arm did between two readings, as the judge takes it: the part of `Arm` that has the source's shape.

    Edges of histograms are in milliseconds, as the edge's own are. Raises Unavailable when the counts contradict
    each other.
    """
    new = increase(later, known)
    match source.shape:
        case Shape.RATE:
            requests, errors = new.get(REQUESTS, 0.0), new.get(ERRORS, 0.0)
            if errors > requests:
                raise Unavailable(f"{errors:g} errors of {requests:g} requests since the last reading")
            return Arm(rates={source.name: (requests, errors)})
        case Shape.HISTOGRAM:
            return Arm(histograms={source.name: _histogram(new)})
        case Shape.MEAN:
            return Arm(means={source.name: _moments(later, known, new)})


def _histogram(new: Mapping[str, float]) -> Histogram:
    cumulative = sorted((edge_of(name), count) for name, count in new.items() if name.startswith(BUCKET))
    counts, below = [], 0.0
    for _, count in cumulative:
        # An application that is read while it counts may show a bucket below a smaller one's: histogram_quantile()
        # evens that out in the same way.
        counts.append(max(0.0, count - below))
        below = max(below, count)
    # 0.007 s are 7 ms, not 7.000000000000001.
    return Histogram(tuple(round(edge * 1000, 9) for edge, _ in cumulative[:-1]), tuple(counts))


def edge_of(name: str) -> float:
    """The upper edge of a bucket's field, in seconds."""
    return float(name.removeprefix(BUCKET))


def _moments(later: Totals, known: Totals, new: Mapping[str, float]) -> Moments:
    if later.value is not None:
        if later.at is not None and later.at == known.at:
            return Moments(0.0, 0.0, 0.0)
        return Moments(1.0, later.value, later.value**2)
    n, total, squares = new.get(COUNT, 0.0), new.get(SUM, 0.0), new.get(SUM_SQUARES, 0.0)
    if not n:
        return Moments(0.0, 0.0, 0.0)
    # Cauchy and Schwarz: n values of this sum have at least these squares.
    least = total**2 / n
    if squares < least - ROUNDING * max(least, later.sum(SUM_SQUARES)):
        raise Unavailable(f"{n:g} values with sum {total:g} cannot have {squares:g} as sum of their squares")
    return Moments(n, total, max(squares, least))


def contradiction(source: Source, totals: Totals) -> str:
    """Why totals cannot be what a source of this shape counts, in a line; empty when nothing is wrong with them."""
    for name, series in totals.counters.items():
        for one, count in series.items():
            where = f"{name} {one}".rstrip()
            if not math.isfinite(count):
                return f"{where} is {count}: not a number"
            if count < 0 and name != SUM:
                return f"{where} is {count:g}: a counter is never negative"
    if totals.value is not None and not math.isfinite(totals.value):
        return f"value is {totals.value}: not a number"
    if source.shape is Shape.HISTOGRAM:
        return _unlike_buckets(totals)
    requests, errors = totals.sum(REQUESTS), totals.sum(ERRORS)
    if errors > requests:
        return f"{errors:g} errors are more than {requests:g} requests"
    return ""


def _unlike_buckets(totals: Totals) -> str:
    buckets = {edge_of(name): series for name, series in totals.counters.items() if name.startswith(BUCKET)}
    every = {one for series in buckets.values() for one in series}
    if math.inf not in buckets:
        return "the histogram has no +Inf bucket"
    if len(buckets) < 2:
        return "the histogram has the +Inf bucket only"
    for edge, series in sorted(buckets.items()):
        for one in sorted(every - series.keys()):
            return f"the series differ in their buckets: {one or 'one'} has none up to {edge:g} s"
    return ""
