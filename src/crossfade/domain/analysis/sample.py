"""What the judge is given: what each arm did between two looks. Counts are increments, never totals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Histogram:
    """Values in buckets. ``edges``: upper edges, rising; ``counts``: one more than edges, the last one open above."""

    edges: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Moments:
    """``n`` values by their ``sum`` and their ``sum_sq``uares."""

    n: float
    sum: float
    sum_sq: float

    def plus(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.sum + other.sum, self.sum_sq + other.sum_sq)

    def since(self, earlier: Moments | None) -> Moments:
        """What came after ``earlier``; all when its source began anew."""
        if earlier is None or self.n < earlier.n:
            return self
        squares = max(0.0, self.sum_sq - earlier.sum_sq)
        return Moments(self.n - earlier.n, self.sum - earlier.sum, squares)


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm since the last look. ``requests`` and ``errors`` are the edge's; the rest is by name of the signal.

    ``rates`` are (events, bad ones). The edge's own latencies are ``histograms[""]``, in milliseconds.
    """

    requests: float = 0
    errors: float = 0
    rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    means: Mapping[str, Moments] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One look: seconds since the rollout began to shift traffic, and both arms since the look before.

    ``missing`` says of signals that could not be read why.
    """

    t: float
    baseline: Arm
    candidate: Arm
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class History:
    """The baseline before the rollout: its rate, its burstiness (errors per 10 s, in order), its latencies."""

    requests: float = 0
    errors: float = 0
    errors_per_10s: tuple[float, ...] = ()
    histogram: Histogram | None = None
    seconds: float = 0.0
