"""Many looks at once as arrays, so that a replay of history costs little more than one look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from crossfade.domain.analysis.evidence import Array
from crossfade.domain.analysis.sample import Arm, Row


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram signal over R looks: ``edges`` ``[B]`` rising, ``baseline`` and ``candidate`` ``[R, B+1]``."""

    edges: Array
    baseline: Array
    candidate: Array


@dataclass(frozen=True, slots=True)
class Block:
    """R looks. ``rates``: by signal ``[R, 4]`` = baseline n, baseline bad, candidate n, candidate bad.

    ``means``: by signal ``[R, 6]`` = baseline n, sum, sum of squares, then the candidate's. ``t`` ``[R]`` in seconds.
    """

    t: Array
    rates: Mapping[str, Array]
    histograms: Mapping[str, Buckets] = field(default_factory=dict)
    means: Mapping[str, Array] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.t)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Block:
        """From rows. A signal that only some have counts nothing in the others. Raises ValueError for unlike edges."""
        arms = [(row.baseline, row.candidate) for row in rows]
        rates = {"": np.array([[b.requests, b.errors, c.requests, c.errors] for b, c in arms], dtype=float)}
        for name in sorted({name for pair in arms for arm in pair for name in arm.rates}):
            rates[name] = np.array([[*b.rates.get(name, (0, 0)), *c.rates.get(name, (0, 0))] for b, c in arms], float)
        histograms = {}
        for name in sorted({name for pair in arms for arm in pair for name in arm.histograms}):
            histograms[name] = _buckets(name, arms)
        means = {
            name: np.array([[*_moments(b, name), *_moments(c, name)] for b, c in arms], dtype=float)
            for name in sorted({name for pair in arms for arm in pair for name in arm.means})
        }
        missing = {name: why for row in rows for name, why in row.missing.items()}
        return cls(np.array([row.t for row in rows], dtype=float), rates, histograms, means, missing)

    def part(self, start: int, stop: int) -> Block:
        """The looks from ``start`` to before ``stop``."""
        cut = slice(start, stop)
        return Block(
            self.t[cut],
            {name: values[cut] for name, values in self.rates.items()},
            {n: Buckets(b.edges, b.baseline[cut], b.candidate[cut]) for n, b in self.histograms.items()},
            {name: values[cut] for name, values in self.means.items()},
            self.missing,
        )


def _buckets(name: str, arms: Sequence[tuple[Arm, Arm]]) -> Buckets:
    known = [arm.histograms[name] for pair in arms for arm in pair if name in arm.histograms]
    edges = known[0].edges
    if any(histogram.edges != edges for histogram in known):
        raise ValueError(f"the edges of {name or 'latency'} differ")
    nothing = (0.0,) * (len(edges) + 1)
    sides = [
        np.array(
            [p[side].histograms[name].counts if name in p[side].histograms else nothing for p in arms], dtype=float
        )
        for side in (0, 1)
    ]
    return Buckets(np.array(edges, dtype=float), *sides)


def _moments(arm: Arm, name: str) -> tuple[float, float, float]:
    found = arm.means.get(name)
    return (found.n, found.sum, found.sum_sq) if found else (0.0, 0.0, 0.0)
