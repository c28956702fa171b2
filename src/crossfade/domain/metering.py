"""What was counted between two looks at an environment's edge: never doubled, never negative, and unknown where it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from crossfade.domain.analysis import latency
from crossfade.domain.signal import Latencies, Reading
from crossfade.domain.slo import Counted, Kind, Objective

JUMP: Final = 2.0
"""Seconds by which a clock may differ from the time that has passed; beyond it somebody has set it."""

PATIENCE: Final = 10.0
"""Seconds that requests wait for a latency sample of theirs; then it is not known how long they took."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What an environment's clients had seen up to ``at`` (epoch s), over all pools, since ``segment`` began."""

    at: float
    segment: str
    requests: int = 0
    errors: int = 0
    latencies: Latencies = field(default_factory=Latencies)

    @classmethod
    def of(cls, reading: Reading) -> Self:
        """All pools and the edge's own answers together."""
        counters, histogram = reading.edge.plus(reading.control), reading.control_latencies
        for slot in reading.slots:
            counters = counters.plus(reading.slots[slot])
        for found in reading.latencies.values():
            histogram = histogram.plus(found)
        return cls(reading.at, reading.segment, counters.requests, counters.errors, histogram)

    def to_data(self) -> dict[str, Any]:
        """JSON-ready."""
        counts = [list(one) for one in self.latencies.counts]
        return {"at": self.at, "segment": self.segment, "requests": self.requests, "errors": self.errors, "ms": counts}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """From `to_data`. Raises KeyError, TypeError or ValueError for anything else."""
        counts = tuple((int(bucket), int(n)) for bucket, n in data["ms"])
        at, requests, errors = float(data["at"]), int(data["requests"]), int(data["errors"])
        return cls(at, str(data["segment"]), requests, errors, Latencies(counts))


@dataclass(frozen=True, slots=True)
class Stretch:
    """What was counted from ``begins`` to ``ends`` (epoch s). Latencies are samples: shares of them mean something."""

    begins: float
    ends: float
    requests: float = 0.0
    errors: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)

    @property
    def seconds(self) -> float:
        return self.ends - self.begins

    def plus(self, later: Stretch) -> Stretch:
        """The two together, as one time."""
        return Stretch(
            self.begins,
            later.ends,
            self.requests + later.requests,
            self.errors + later.errors,
            self.latencies.plus(later.latencies),
        )

    def less(self, requests: float, errors: float, begins: float) -> Stretch:
        """Without what is known already of the time before ``begins``."""
        left = max(0.0, self.requests - requests)
        return Stretch(begins, self.ends, left, min(left, max(0.0, self.errors - errors)), self.latencies)


def between(earlier: Mark, later: Mark) -> Stretch | None:
    """What came after ``earlier``. None when that cannot be known: the edge has lost its counts, or time went back."""
    if earlier.segment != later.segment or later.at <= earlier.at:
        return None
    if later.requests < earlier.requests or later.errors < earlier.errors:
        return None
    requests, errors = later.requests - earlier.requests, later.errors - earlier.errors
    # A request that fails late is counted as one only when it ends, but never before.
    return Stretch(earlier.at, later.at, requests, min(requests, errors), later.latencies.since(earlier.latencies))


def jumped(wall: float, passed: float) -> bool:
    """Whether a clock was set: it shows ``wall`` seconds more, and ``passed`` seconds went by."""
    return abs(wall - passed) > JUMP


def slow(latencies: Latencies, threshold: float) -> float | None:
    """The share 0…1 of samples that took longer than ``threshold`` seconds; None without samples.

    A bucket is slow as a whole, or not: the threshold is moved to the nearest edge of a bucket, at most 4.5 % away.
    """
    if not latencies.samples:
        return None
    bucket = latency.bucket_of(threshold)
    below, above = latency.upper_edge(bucket - 1), latency.upper_edge(bucket)
    first = bucket if threshold - below < above - threshold else bucket + 1
    return sum(n for b, n in latencies.counts if b >= first) / latencies.samples


def counted(objective: Objective, stretch: Stretch) -> Counted | None:
    """A stretch as an objective at the edge counts it. None while it is not known how long its requests took."""
    if objective.kind is Kind.AVAILABILITY or objective.threshold is None:
        return Counted(stretch.requests, stretch.errors, stretch.seconds)
    if not stretch.requests:
        return Counted(0.0, 0.0, stretch.seconds)
    share = slow(stretch.latencies, objective.threshold)
    return None if share is None else Counted(stretch.requests, share * stretch.requests, stretch.seconds)
