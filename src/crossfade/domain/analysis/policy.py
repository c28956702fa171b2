"""How a candidate is judged: the `analysis:` block of `crossfade.yaml` as values."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace

from crossfade.domain.errors import Invalid

LEAST_ALARM = 1e-6
QUANTILES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.5": 0.995, "p99.9": 0.999}
"""The latency quantiles that can be judged, and whose edges the evidence looks at."""

EDGE = ""
"""The signal of the built-in metrics: what the edge counts."""


class WhenUnsure(enum.StrEnum):
    """What a step does when its time is over and its verdict is neither pass nor fail."""

    HOLD = "hold"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


class Advance(enum.StrEnum):
    """When a step that has passed is left: at its time, or as soon as it passed."""

    TIMED = "timed"
    EARLY = "early"


class Against(enum.StrEnum):
    """What the candidate is compared with: the replicas that have run all along, or fresh ones of the same release."""

    LIVE = "live"
    FRESH = "fresh"


class Direction(enum.StrEnum):
    """Which way a metric gets worse."""

    RISE = "rise"
    DROP = "drop"
    EITHER = "either"


class Shape(enum.StrEnum):
    """What a signal counts: yes/no per request, values in buckets, or values by their first two moments."""

    RATE = "rate"
    HISTOGRAM = "histogram"
    MEAN = "mean"


class SourceKind(enum.StrEnum):
    """Where a signal comes from."""

    EVENTS = "events"
    PROMETHEUS = "prometheus"
    HTTP = "http"


class Per(enum.StrEnum):
    """What a business event is counted per: a request of its arm (a rate of conversion), or an event (a basket's size)."""

    REQUEST = "request"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a signal of one's own comes from. Which queries are set decides its shape.

    For ``prometheus`` they are PromQL, for ``http`` JSON paths into the answer of ``url``; both may contain
    ``{service}``, ``{environment}``, ``{slot}``, ``{release}`` and ``{arm}``, as ``url`` may. ``requests`` and
    ``errors`` are counters, as are the buckets of ``histogram`` (seconds); ``value`` is a gauge, of which each reading
    is one observation; ``count``, ``sum`` and ``sum_squares`` are counters of values. ``events`` has no query.
    ``timeout`` and ``stale_after`` in seconds.
    """

    name: str
    kind: SourceKind = SourceKind.EVENTS
    url: str = ""
    requests: str = ""
    errors: str = ""
    histogram: str = ""
    value: str = ""
    count: str = ""
    sum: str = ""
    sum_squares: str = ""
    per: Per = Per.REQUEST
    timeout: float = 2.0
    stale_after: float = 60.0

    @property
    def shape(self) -> Shape:
        if self.requests or self.errors:
            return Shape.RATE
        return Shape.HISTOGRAM if self.histogram else Shape.MEAN


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that is compared between the arms.

    ``margin`` is how much worse is tolerated: for a rate an absolute share (0.001 is 0.1 percentage points), for a
    quantile or a mean a share of the baseline's (0.2 is 20 %). A rate is also tolerated up to ``ratio`` times the
    baseline's, whichever is more. ``weight`` is its part of the false-alarm budget, relative to the other metrics'.
    A metric that is not ``required`` need not pass; one in ``dry_run`` is judged and shown, and decides nothing.
    """

    name: str
    shape: Shape
    margin: float
    signal: str = EDGE
    ratio: float | None = None
    quantile: str = ""
    direction: Direction = Direction.RISE
    required: bool = True
    dry_run: bool = False
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Objective:
    """A hard cap that comes from an SLO: no rollout may spend more than ``share`` of the error budget of ``period``.

    ``target`` is the share of good requests (0.999), ``period`` in seconds. ``burn`` is the multiple of the budgeted
    error rate that a candidate may not have at all, whatever the baseline has: 14.4 spends 2 % of a 30-day budget
    in an hour.
    """

    target: float
    period: float = 30 * 86_400.0
    share: float = 0.01
    burn: float = 14.4


ERROR_RATE = Metric("error_rate", Shape.RATE, margin=0.001, ratio=1.2)


@dataclass(frozen=True, slots=True)
class Analysis:
    """How the candidate of a rollout is judged. Times in seconds, shares 0…1.

    ``false_alarm``: the chance that a rollout of a candidate as good as its baseline is ever failed, all metrics and
    all looks together. ``false_pass``: that of a step passing although its candidate is worse than the margin.
    ``deadline`` counts from the beginning of a step; 0 means that a step's own duration is its deadline.
    ``strict`` fails only what is surely worse than the margin, rather than surely worse and by estimate beyond it.
    """

    false_alarm: float = 0.01
    false_pass: float = 0.05
    warmup: float = 0.0
    deadline: float = 0.0
    min_duration: float = 0.0
    when_unsure: WhenUnsure = WhenUnsure.HOLD
    advance: Advance = Advance.TIMED
    strict: bool = False
    baseline: Against = Against.LIVE
    metrics: tuple[Metric, ...] = (replace(ERROR_RATE, required=False),)
    slo: Objective | None = None
    sources: tuple[Source, ...] = ()

    def check(self) -> None:
        """Raises Invalid, naming the key, for what cannot be meant."""
        for place, found, allowed in self._wrong():
            raise Invalid(place, found, allowed)

    def _wrong(self) -> Iterator[tuple[str, object, str]]:
        for name in ("false_alarm", "false_pass"):
            if not LEAST_ALARM <= getattr(self, name) < 0.5:
                yield name, getattr(self, name), "a share from 0.0001% to below 50%"
        if self.deadline and self.deadline <= self.warmup:
            yield "deadline", self.deadline, f"more than warmup ({self.warmup:g} s)"
        if self.deadline and self.deadline < self.min_duration:
            yield "deadline", self.deadline, f"at least min_duration ({self.min_duration:g} s)"
        if not any(metric.weight > 0 and not metric.dry_run for metric in self.metrics):
            yield "metrics", ", ".join(m.name for m in self.metrics) or "none", "at least one that is enforced"
        names = [metric.name for metric in self.metrics]
        for name in {name for name in names if names.count(name) > 1}:
            yield name, "twice", "each metric once"
        for metric in self.metrics:
            yield from self._wrong_metric(metric)
        if self.slo is not None and not 0 < self.slo.target < 1:
            yield "slo.target", self.slo.target, "a share above 0% and below 100%"

    def _wrong_metric(self, metric: Metric) -> Iterator[tuple[str, object, str]]:
        if not (0 <= metric.margin < 1 if metric.shape is Shape.RATE else 0 <= metric.margin <= 100):
            most = "below 100%" if metric.shape is Shape.RATE else "up to 10000%"
            yield f"{metric.name}.margin", metric.margin, f"a share from 0% {most}"
        if metric.ratio is not None and not 1 <= metric.ratio <= 1000:
            yield f"{metric.name}.or_ratio", metric.ratio, "a number from 1 to 1000"
        if metric.shape is Shape.HISTOGRAM and metric.quantile not in QUANTILES:
            yield f"{metric.name}.quantile", metric.quantile or "nothing", f"one of {', '.join(QUANTILES)}"
        if not 0 < metric.weight <= 1000:
            yield f"{metric.name}.weight", metric.weight, "a number above 0, at most 1000"

    def source(self, signal: str) -> Source:
        """Where a signal comes from; one that is not described is a business event."""
        return next((source for source in self.sources if source.name == signal), Source(signal))

    @property
    def enforced(self) -> tuple[Metric, ...]:
        return tuple(metric for metric in self.metrics if not metric.dry_run)
