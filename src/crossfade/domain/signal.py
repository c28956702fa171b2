"""Signals: counted facts about both slots, and what follows from the difference of two readings."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from crossfade.domain.analysis import latency
from crossfade.domain.analysis.limits import ArmFacts
from crossfade.domain.analysis.sample import Histogram, Moments
from crossfade.domain.traffic import Counters, Pool, Slot

EDGES_MS: Final = tuple(latency.upper_edge(bucket) * 1000 for bucket in range(latency.LAST))


@dataclass(frozen=True, slots=True)
class Latencies:
    """A histogram of sampled request latencies: counts by bucket of `domain.analysis.latency`.

    Sampled, so shares are meaningful, totals are not.
    """

    counts: tuple[tuple[int, int], ...] = ()

    def since(self, earlier: Latencies) -> Latencies:
        return Latencies(latency.subtract(self.counts, earlier.counts))

    def plus(self, other: Latencies) -> Latencies:
        return Latencies(latency.add(self.counts, other.counts))

    def quantile(self, q: float) -> float | None:
        """Seconds; None without samples."""
        return latency.quantile(dict(self.counts), q)

    def histogram(self) -> Histogram:
        """In milliseconds, with every bucket: what the judge compares."""
        counts = [0.0] * (len(EDGES_MS) + 1)
        for bucket, n in self.counts:
            counts[bucket] = float(n)
        return Histogram(EDGES_MS, tuple(counts))

    @property
    def samples(self) -> int:
        return sum(count for _, count in self.counts)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request: when it ended (epoch s), in which slot or the control pool (None: the edge itself), and why.

    ``status`` is what the client got (0: nothing). ``cause`` is a name of `Counters.by_cause`; ``transport`` means
    that no answer of the application's came through: the connection was refused or broke, or there was no server.
    """

    at: float
    slot: Pool | None
    status: int
    cause: str
    transport: bool


@dataclass(frozen=True, slots=True)
class VariantFacts:
    """What the answers that were made with one variant of a flag came to: ``errors`` are 5xx; ``events`` by name.

    Unlike those of a slot, these latencies are not sampled: an answer says which variants it was made with, and each that does
    is counted.
    """

    requests: int = 0
    errors: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    events: Mapping[str, Moments] = field(default_factory=dict)

    def since(self, earlier: VariantFacts) -> VariantFacts:
        """What came after ``earlier``; all when its source began anew."""
        if self.requests < earlier.requests:
            return self
        return VariantFacts(
            self.requests - earlier.requests,
            max(0, self.errors - earlier.errors),
            self.latencies.since(earlier.latencies),
            _newer(self.events, earlier.events),
        )

    def plus(self, other: VariantFacts) -> VariantFacts:
        events = dict(self.events)
        for name, moments in other.events.items():
            events[name] = events[name].plus(moments) if name in events else moments
        return VariantFacts(
            self.requests + other.requests, self.errors + other.errors, self.latencies.plus(other.latencies), events
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """What an environment's clients saw up to ``at`` (epoch seconds), per slot, since ``segment`` began.

    Differences are meaningful between readings of the same ``segment`` only; the segment changes when the source lost
    its counts. ``edge`` are requests that no slot served (no server, bad request). ``control`` is the control pool,
    whose requests no slot counts. ``events`` are the business events that response headers told, by pool and name;
    ``refused`` counts those that were malformed, or had one name too many. ``variants`` is what answers told of the
    variants that they were made with, by pool and ``flag=variant``; ``refused`` counts what is wrong with those, too.
    """

    at: float
    segment: str
    slots: Mapping[Slot, Counters]
    edge: Counters = field(default_factory=Counters)
    latencies: Mapping[Slot, Latencies] = field(default_factory=dict)
    control: Counters = field(default_factory=Counters)
    control_latencies: Latencies = field(default_factory=Latencies)
    events: Mapping[Pool, Mapping[str, Moments]] = field(default_factory=dict)
    refused: Mapping[Pool, int] = field(default_factory=dict)
    variants: Mapping[Pool, Mapping[str, VariantFacts]] = field(default_factory=dict)

    def since(self, earlier: Reading | None) -> Reading:
        """What came after ``earlier``; everything of this segment when the counts were lost in between."""
        if earlier is None or earlier.segment != self.segment:
            return self
        return Reading(
            self.at,
            self.segment,
            {slot: c.since(earlier.slots.get(slot, Counters())) for slot, c in self.slots.items()},
            self.edge.since(earlier.edge),
            {slot: h.since(earlier.latencies.get(slot, Latencies())) for slot, h in self.latencies.items()},
            self.control.since(earlier.control),
            self.control_latencies.since(earlier.control_latencies),
            {pool: _newer(events, earlier.events.get(pool, {})) for pool, events in self.events.items()},
            {pool: max(0, n - earlier.refused.get(pool, 0)) for pool, n in self.refused.items()},
            {
                pool: {name: facts.since(_known(earlier, pool, name)) for name, facts in told.items()}
                for pool, told in self.variants.items()
            },
        )

    def facts(self, pool: Pool) -> ArmFacts:
        """This reading's counts of one slot or of the control pool, as the judge takes them."""
        counters, histogram = self.control, self.control_latencies
        if isinstance(pool, Slot):
            counters, histogram = self.slots.get(pool, Counters()), self.latencies.get(pool, Latencies())
        return ArmFacts(
            counters.requests, counters.errors, histogram.quantile(0.5), histogram.quantile(0.99), histogram.samples
        )

    def total(self) -> ArmFacts:
        """Both slots, the control pool and the edge's own answers together."""
        counters = self.edge.plus(self.control)
        histogram = self.control_latencies
        for slot in self.slots:
            counters = counters.plus(self.slots[slot])
            histogram = histogram.plus(self.latencies.get(slot, Latencies()))
        return ArmFacts(
            counters.requests, counters.errors, histogram.quantile(0.5), histogram.quantile(0.99), histogram.samples
        )


LEAST: Final = 50
"""Requests from which a share of errors says anything."""


class Lately:
    """The readings of an environment's last ``seconds``: whether its clients are served as they should be."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._readings: deque[Reading] = deque()

    def add(self, reading: Reading) -> None:
        """The newest one; those that are too old are forgotten."""
        self._readings.append(reading)
        while len(self._readings) > 1 and reading.at - self._readings[0].at > self._seconds:
            self._readings.popleft()

    def over(self, limit: float | None) -> str:
        """That more of the requests fail than ``limit`` (a share, 0…1) allows, as a sentence; else empty."""
        if limit is None or len(self._readings) < 2:
            return ""
        seen = self._readings[-1].since(self._readings[0]).total()
        if seen.requests < LEAST or seen.errors <= limit * seen.requests:
            return ""
        share = 100 * seen.errors / seen.requests
        return f"clients see {share:.2g} % errors, and {100 * limit:.2g} % are allowed"


def _newer(events: Mapping[str, Moments], earlier: Mapping[str, Moments]) -> Mapping[str, Moments]:
    fresh = {name: moments.since(earlier.get(name)) for name, moments in events.items()}
    return {name: moments for name, moments in fresh.items() if moments.n}


def _known(reading: Reading, pool: Pool, name: str) -> VariantFacts:
    return reading.variants.get(pool, {}).get(name) or VariantFacts()
