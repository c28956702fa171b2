"""How long a rollout's steps take to tell anything, from the traffic there is: before it begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from crossfade.domain.analysis.columns import LEVELS
from crossfade.domain.analysis.policy import EDGE, QUANTILES, Analysis, Shape
from crossfade.domain.analysis.sample import Histogram, History
from crossfade.domain.release import Step
from crossfade.domain.values import show_duration

TIMES_WORSE: Final = (2.0, 5.0, 10.0)
SLOWER: Final = (1.2, 1.5, 2.0)


def requests_to_fail(worse: float, base: float, alpha: float) -> float:
    """Candidate requests until a rate ``worse`` than ``base`` is found, about: (ln(1/α)+2)/(p_c·ln(p_c/p_b) - (p_c-p_b)).

    The divisor is what one candidate request tells on average when the baseline is much larger than the candidate.
    """
    told = worse * math.log(worse / base) - (worse - base) if worse > base > 0 else 0.0
    return (math.log(1 / alpha) + 2) / told if told > 0 else math.inf


def requests_to_pass(rate: float, limit: float, alpha: float) -> float:
    """Candidate requests until ``rate`` is surely below ``limit``, about: (ln(1/α)+1)/(p·ln(p/limit) + limit-p)."""
    told = (rate * math.log(rate / limit) if rate > 0 else 0.0) + limit - rate if limit > rate else 0.0
    return (math.log(1 / alpha) + 1) / told if told > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Rung:
    """One step as planned. Times in seconds; infinite means never. ``rate``: candidate requests per second.

    ``errors``: by how many times as many errors, ``slower``: by how many times as slow, until it is found.
    """

    weight: float
    duration: float
    rate: float
    errors: dict[float, float] = field(default_factory=dict)
    slower: dict[float, float] = field(default_factory=dict)
    to_pass: float | None = None
    warnings: tuple[str, ...] = ()

    def to_data(self) -> dict[str, Any]:
        def finite(value: float | None) -> float | None:
            return None if value is None or not math.isfinite(value) else round(value, 1)

        return {
            "weight": self.weight,
            "duration": self.duration,
            "candidate_requests_per_second": round(self.rate, 3),
            "seconds_to_find_errors": {f"{k:g}x": finite(v) for k, v in self.errors.items()},
            "seconds_to_find_slower": {f"{k:g}x": finite(v) for k, v in self.slower.items()},
            "seconds_to_pass": finite(self.to_pass),
            "warnings": list(self.warnings),
        }


def plan(analysis: Analysis, history: History, steps: Sequence[Step]) -> tuple[Rung, ...]:
    """What each step can tell at the traffic of ``history`` (which needs ``seconds`` and ``requests``)."""
    return tuple(_rung(analysis, history, step) for step in steps)


def _rung(analysis: Analysis, history: History, step: Step) -> Rung:
    share = step.weight.bp / 10_000
    rate = history.requests / history.seconds * share if history.seconds > 0 else 0.0
    whole = sum(metric.weight for metric in analysis.enforced) + (1.0 if analysis.slo else 0.0)
    errors: dict[float, float] = {}
    slower: dict[float, float] = {}
    waits: list[float] = []
    warnings: list[str] = []
    limit = max(step.duration, analysis.deadline)
    base = (history.errors + 0.5) / (history.requests + 1.0)
    for metric in analysis.enforced:
        alpha = analysis.false_alarm * metric.weight / whole
        if metric.shape is Shape.RATE and metric.signal == EDGE:
            for times in TIMES_WORSE:
                errors[times] = _seconds(requests_to_fail(min(base * times, 1.0), base, alpha), rate, share)
            tolerated = max(base + metric.margin, base * (metric.ratio or 1.0))
            wait = _seconds(requests_to_pass(base, tolerated, analysis.false_pass), rate, share)
        elif metric.shape is Shape.HISTOGRAM and metric.signal == EDGE and history.histogram is not None:
            for times in SLOWER:
                told = _seconds(_until_slower(history.histogram, times, alpha), rate, share)
                slower[times] = min(told, slower.get(times, math.inf))
            wait = _seconds(_until_as_fast(history.histogram, metric.quantile, metric.margin, analysis), rate, share)
        else:
            continue
        if metric.required:
            waits.append(wait)
        if wait > limit and metric.required:
            warnings.append(
                f"{metric.name} cannot pass in {show_duration(limit)} at this traffic: "
                + (f"it takes about {_about(wait)}" if math.isfinite(wait) else "nothing is asked of the candidate")
            )
    if errors and errors[TIMES_WORSE[-1]] > limit:
        warnings.append(f"not even {TIMES_WORSE[-1]:g} times as many errors would be found in {show_duration(limit)}")
    if share >= 1:
        warnings = ["all traffic is on the candidate: it is held to the baseline's profile"]
    return Rung(share, step.duration, rate, errors, slower, max(waits, default=None), tuple(warnings))


def _about(seconds: float) -> str:
    return show_duration(float(round(seconds)) if seconds < 600 else round(seconds / 60) * 60.0)


def _seconds(requests: float, rate: float, share: float) -> float:
    # The smaller arm limits what is told: at half and half a comparison takes twice as many of the candidate's.
    return requests / (rate * max(1 - share, 0.05)) if rate > 0 else math.inf


def _until_slower(histogram: Histogram, times: float, alpha: float) -> float:
    edges, below = np.array(histogram.edges), np.cumsum(np.array(histogram.counts, dtype=float))
    if not below[-1]:
        return math.inf
    found = []
    for level in LEVELS:
        at = min(int(np.searchsorted(below, level * below[-1])), len(edges) - 1)
        before = int(np.searchsorted(edges, edges[at] / times, side="right")) - 1
        base, worse = 1 - below[at] / below[-1], 1 - (below[before] if before >= 0 else 0.0) / below[-1]
        found.append(requests_to_fail(float(worse), float(base), alpha / len(LEVELS)))
    return min(found)


def _until_as_fast(histogram: Histogram, quantile: str, margin: float, analysis: Analysis) -> float:
    edges, below = np.array(histogram.edges), np.cumsum(np.array(histogram.counts, dtype=float))
    if not below[-1]:
        return math.inf
    at = min(int(np.searchsorted(below, QUANTILES[quantile] * below[-1])), len(edges) - 1)
    within = max(at, int(np.searchsorted(edges, edges[at] * (1 + margin) * (1 + 1e-9), side="right")) - 1)
    limit, rate = float(1 - below[at] / below[-1]), float(1 - below[within] / below[-1])
    return requests_to_pass(rate, limit, analysis.false_pass)
