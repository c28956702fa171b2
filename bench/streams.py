"""Seeded traffic of two arms, as the judges of `bench.detection` get it: the same for all of them."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from crossfade.domain.analysis.latency import BASE, PER_DOUBLING, upper_edge
from crossfade.domain.analysis.sample import Histogram, History

Array = npt.NDArray[np.float64]

SEED: Final = 20_261_123
SECONDS: Final = 600
MINUTE: Final = 60

MEDIAN: Final = 0.05
SIGMA: Final = math.log(4) / 2.3263478740408408
"""Latencies are lognormal with a median of 50 ms and a p99 of 200 ms."""

SLOWEST: Final = MEDIAN * math.exp(SIGMA * 2.0537489106318225)
"""What 2 % of the baseline's requests are slower than, in seconds."""

FIRST: Final = 53
LAST: Final = 160
EDGES: Final = np.array([upper_edge(i) * 1000 for i in range(FIRST, LAST)])
"""Upper edges in ms, 1 ms to 10 s, of the buckets that the edge counts latencies in."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Traffic of both arms, a look each second. ``rate``: requests per second of both; shares 0…1.

    ``split`` are the candidate's shares, each for an equal part of the time. The candidate has ``bad`` errors from
    second ``onset`` on. ``incident``: the rate of errors that both arms have from second 300 on. ``cluster``: errors
    come in geometric clusters of this mean, each on one arm; ``spread``: its errors fall over as many seconds.
    """

    name: str
    bad: float = 0.001
    base: float = 0.001
    rate: float = 1000.0
    split: tuple[float, ...] = (0.05,)
    onset: int = 0
    incident: float = 0.0
    cluster: float = 0.0
    spread: int = 1

    def draw(self, replica: int) -> Array:
        """``[600, 4]``: baseline requests and errors, candidate requests and errors, of each second."""
        rng = _generator(self.name, replica)
        split = np.repeat(self.split, SECONDS // len(self.split))
        second = np.arange(SECONDS)
        bad = np.where(second >= self.onset, self.bad, self.base)
        base = np.full(SECONDS, self.base)
        if self.incident:
            bad, base = (np.where(second >= SECONDS // 2, self.incident, share) for share in (bad, base))
        nb, nc = rng.poisson(self.rate * (1 - split)), rng.poisson(self.rate * split)
        return np.stack([nb, self._errors(rng, nb, base), nc, self._errors(rng, nc, bad)], axis=1).astype(float)

    def history(self, replica: int) -> History:
        """Ten minutes of the baseline alone."""
        rng = _generator(f"{self.name}, before", replica)
        n = rng.poisson(self.rate, SECONDS)
        x = self._errors(rng, n, np.full(SECONDS, self.base))
        return History(
            float(n.sum()), float(x.sum()), tuple(map(float, x.reshape(-1, 10).sum(axis=1))), None, float(SECONDS)
        )

    def _errors(self, rng: np.random.Generator, n: npt.NDArray[np.int64], share: Array) -> npt.NDArray[np.int64]:
        if not self.cluster:
            return rng.binomial(n, share)
        clusters = rng.poisson(n * share / self.cluster)
        more = rng.negative_binomial(np.maximum(clusters, 1), 1 / self.cluster)
        found = clusters + np.where(clusters > 0, more, 0)
        if self.spread > 1:
            at = np.repeat(np.arange(len(n)), found)
            at = np.minimum(at + rng.integers(0, self.spread, len(at)), len(n) - 1)
            found = np.bincount(at, minlength=len(n))
        return np.minimum(found, n)


@dataclass(frozen=True, slots=True)
class Slower:
    """Latencies of both arms, 1000 requests per second, 5 % of them the candidate's.

    The candidate's are ``all_times`` as long; those of its slowest 2 % ``tail_times`` besides.
    """

    name: str
    all_times: float = 1.0
    tail_times: float = 1.0
    rate: float = 1000.0
    split: float = 0.05

    def draw(self, replica: int) -> tuple[Array, Array, Array, Array]:
        """Counts above and below `EDGES` each second ``[600, B+1]``, of baseline and candidate; exact p99 each minute ``[10]``."""
        rng = _generator(self.name, replica)
        nb, pb = _counted(rng, self.rate * (1 - self.split), 1.0, 1.0)
        nc, pc = _counted(rng, self.rate * self.split, self.all_times, self.tail_times)
        return nb, nc, pb, pc

    def history(self, replica: int) -> History:
        """Ten minutes of the baseline alone."""
        rng = _generator(f"{self.name}, before", replica)
        below = ndtr(np.log(EDGES / 1000 / MEDIAN) / SIGMA)
        counts = rng.poisson(self.rate * SECONDS * np.diff(below, prepend=0.0, append=1.0))
        histogram = Histogram(tuple(map(float, EDGES)), tuple(map(float, counts)))
        return History(float(counts.sum()), 0.0, (0.0,) * (SECONDS // 10), histogram, float(SECONDS))


def _generator(name: str, replica: int) -> np.random.Generator:
    return np.random.default_rng([SEED, zlib.crc32(name.encode()), replica])


def _counted(rng: np.random.Generator, rate: float, all_times: float, tail_times: float) -> tuple[Array, Array]:
    n = rng.poisson(rate, SECONDS)
    log = math.log(MEDIAN) + SIGMA * rng.standard_normal(int(n.sum()))
    if tail_times != 1:
        log = np.where(log > math.log(SLOWEST), log + math.log(tail_times), log)
    log = log + math.log(all_times)
    bucket = np.floor((log - math.log(BASE)) * (PER_DOUBLING / math.log(2))).astype(int)
    bucket = np.clip(bucket - FIRST, 0, len(EDGES))
    wide = len(EDGES) + 1
    second = np.repeat(np.arange(SECONDS), n)
    counts = np.bincount(second * wide + bucket, minlength=SECONDS * wide).reshape(SECONDS, wide)
    ends = np.cumsum(n)[MINUTE - 1 :: MINUTE]
    p99 = [np.exp(np.quantile(part, 0.99)) for part in np.split(log, ends[:-1])]
    return counts.astype(float), np.array(p99)
