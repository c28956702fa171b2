"""Whether a release is slower than the one before, from interleaved pairs of blocks of load.

Requests are autocorrelated: comparing them one by one finds differences between two halves of the same code. A pair of
blocks is the unit here: per pair and quantile L = ln(q(after) / q(before)), which cancels what the machine does to both.
Its mean has a Student interval whose standard error is widened by the ratio of the mean squares between and within
restarts where that is above 1 (one-way analysis of variance), so that an instance that happens to start badly does not
pass for a slower release. A bootstrap over three restarts, which would say the same without assuming a distribution, has
ten distinct resamples: it cannot give an interval of 95 %, let alone one for several looks.

There are `LOOKS` looks at most, at fixed numbers of pairs; each has its part of alpha, as has each quantile (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student

from crossfade.domain.analysis.verdict import Finding, worst
from crossfade.domain.pipeline.plan import Outcome

LOOKS = 3
MOST_VOID = 0.5
"""The share of pairs that may be void; with more, nothing can be told on this machine now."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair: quantiles in seconds of either block, by name, and in which restart it was. ``void`` says why it must not count."""

    restart: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    void: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """How a quantile has changed, as ratios less 1: 0.12 is 12 % slower. ``low`` and ``high`` bound it."""

    quantile: str
    mean: float
    low: float
    high: float
    margin: float
    finding: Finding
    pairs: int

    @property
    def sentence(self) -> str:
        shown = f"{self.quantile} {self.mean:+.1%} (interval {self.low:+.1%} to {self.high:+.1%})".replace("%", " %")
        said = {
            Finding.FAIL: f"is more than the {self.margin:+.0%} that is allowed",
            Finding.PASS: f"is within the {self.margin:+.0%} that is allowed",
        }.get(self.finding, f"cannot be told from the {self.margin:+.0%} that is allowed")
        return f"{shown} {said.replace('%', ' %')}"


def looks(least: int, most: int) -> tuple[int, ...]:
    """After how many pairs one looks."""
    return tuple(sorted({least, (least + max(least, most)) // 2, max(least, most)}))


def changes(
    pairs: Sequence[Pair], margins: Mapping[str, float], alpha: float, looked: int = LOOKS
) -> tuple[Change, ...]:
    """What the pairs say of each quantile that has a margin; no-data for fewer than two pairs that count."""
    counted = [pair for pair in pairs if not pair.void]
    share = alpha / (looked * max(1, len(margins)))
    return tuple(_change(name, margin, counted, share) for name, margin in margins.items())


def _change(name: str, margin: float, pairs: Sequence[Pair], alpha: float) -> Change:
    logs = [
        (pair.restart, math.log(pair.after[name] / pair.before[name]))
        for pair in pairs
        if pair.after.get(name, 0.0) > 0 and pair.before.get(name, 0.0) > 0
    ]
    n = len(logs)
    if n < 2:
        return Change(name, 0.0, -1.0, math.inf, margin, Finding.NO_DATA, n)
    values = [value for _, value in logs]
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    error = math.sqrt(variance / n * _inflation(logs, mean))
    reach = float(student.ppf(1 - alpha / 2, n - 1)) * error
    low, high, limit = mean - reach, mean + reach, math.log1p(margin)
    finding = Finding.FAIL if low > limit else Finding.PASS if high < limit else Finding.INCONCLUSIVE
    return Change(name, _less_one(mean), _less_one(low), _less_one(high), margin, finding, n)


def _less_one(log: float) -> float:
    """The ratio less 1; what is beyond all measure is infinite."""
    return math.expm1(log) if log < 700 else math.inf


def _inflation(logs: Sequence[tuple[int, float]], mean: float) -> float:
    """The ratio of the mean squares between and within restarts, at least 1."""
    groups: dict[int, list[float]] = {}
    for restart, value in logs:
        groups.setdefault(restart, []).append(value)
    k, n = len(groups), len(logs)
    if k < 2 or n <= k:
        return 1.0
    means = {restart: math.fsum(values) / len(values) for restart, values in groups.items()}
    between = math.fsum(len(values) * (means[r] - mean) ** 2 for r, values in groups.items()) / (k - 1)
    within = math.fsum((value - means[r]) ** 2 for r, values in groups.items() for value in values) / (n - k)
    return max(1.0, between / within) if within > 0 else 1.0


def decide(
    pairs: Sequence[Pair],
    margins: Mapping[str, float],
    alpha: float,
    *,
    last: bool,
    inconclusive_passes: bool,
    block: float,
) -> Outcome | None:
    """The outcome of a look; None when it takes more pairs, which there may be unless it is the ``last``."""
    found = changes(pairs, margins, alpha)
    finding = worst(change.finding for change in found)
    if any(change.finding is Finding.FAIL for change in found):
        finding = Finding.FAIL
    if finding in (Finding.INCONCLUSIVE, Finding.NO_DATA) and not last:
        return None
    void = sum(bool(pair.void) for pair in pairs)
    restarts = len({pair.restart for pair in pairs})
    size = f"{len(pairs) - void} pairs of {block:g} s, {restarts} restarts"
    numbers = {
        "pairs": len(pairs) - void,
        "void": void,
        "restarts": restarts,
        "changes": {
            c.quantile: {
                "mean": c.mean,
                "low": c.low,
                "high": None if math.isinf(c.high) else c.high,
                "margin": c.margin,
            }
            for c in found
        },
        "before": {name: [pair.before.get(name) for pair in pairs if not pair.void] for name in margins},
        "after": {name: [pair.after.get(name) for pair in pairs if not pair.void] for name in margins},
    }
    if pairs and void / len(pairs) > MOST_VOID:
        why = next(pair.void for pair in pairs if pair.void)
        sentence = f"this machine is too busy to tell: {void} of {len(pairs)} pairs do not count ({why})"
        return Outcome(inconclusive_passes, sentence, "inconclusive", numbers=numbers)
    order = sorted(found, key=lambda change: change.finding is not Finding.FAIL)
    sentence = "; ".join(change.sentence for change in order) + f"; {size}"
    passed = finding is Finding.PASS or (finding is Finding.INCONCLUSIVE and inconclusive_passes)
    return Outcome(passed, sentence, finding.value, numbers=numbers)
