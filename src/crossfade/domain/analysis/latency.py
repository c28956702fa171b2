"""Latencies as counts in log-spaced buckets: mergeable, subtractable, and bounded in size.

Bucket i covers [BASE·2^(i/8), BASE·2^((i+1)/8)) seconds, so neighbouring edges differ by 9.05 % and a
quantile read from the upper edge is at most 9.05 % too high, never too low. BASE is 10 µs; the last bucket is
open above (about 335 s). The ratio 2^(1/8) is that of OpenTelemetry's exponential histogram at scale 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

BASE: Final = 1e-5
PER_DOUBLING: Final = 8
LAST: Final = 200


def bucket_of(seconds: float) -> int:
    """The bucket of one latency; anything at or below 10 µs is 0, anything too long is the last."""
    if seconds <= BASE:
        return 0
    return min(LAST, int(math.log2(seconds / BASE) * PER_DOUBLING))


def upper_edge(bucket: int) -> float:
    """The upper edge of a bucket, in seconds."""
    return BASE * math.pow(2.0, (bucket + 1) / PER_DOUBLING)


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """The upper edge, in seconds, of the bucket that holds quantile ``q`` (0 < q ≤ 1); None without counts."""
    total = sum(counts.values())
    if total <= 0:
        return None
    rank = max(1, math.ceil(q * total))
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            return upper_edge(bucket)
    return upper_edge(max(counts))


def subtract(later: Iterable[tuple[int, int]], earlier: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Counts that came after ``earlier``; never negative, empty buckets left out, in order of bucket."""
    before = dict(earlier)
    return tuple((b, n - before.get(b, 0)) for b, n in sorted(later) if n > before.get(b, 0))


def add(one: Iterable[tuple[int, int]], other: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The sum of two histograms, in order of bucket."""
    counts = dict(one)
    for bucket, count in other:
        counts[bucket] = counts.get(bucket, 0) + count
    return tuple(sorted(counts.items()))
