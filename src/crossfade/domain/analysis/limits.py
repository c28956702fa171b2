"""Fixed limits: what a candidate must keep to whatever the baseline does."""

from __future__ import annotations

import math
from dataclasses import dataclass

from crossfade.domain.analysis.verdict import Finding, Verdict
from crossfade.domain.release import Limits

FEWEST_ERRORS = 3
"""However few the requests, fewer errors than this are no breach: one bad request is an anecdote."""


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """What one arm's clients saw in a stretch of time: exact ``requests`` and ``errors``, ``p99`` seconds (sampled).

    ``samples`` is the number of latencies behind ``p99``.
    """

    requests: int = 0
    errors: int = 0
    p50: float | None = None
    p99: float | None = None
    samples: int = 0

    @property
    def error_rate(self) -> float | None:
        return self.errors / self.requests if self.requests else None


def hold_to(limits: Limits, candidate: ArmFacts, recent: ArmFacts, baseline: ArmFacts) -> Verdict:
    """Hold the candidate to its limits, over the whole step (``candidate``) and its last seconds (``recent``).

    The recent stretch catches what begins late and would be diluted in a long step. ``baseline`` is told for
    comparison only. Errors breach when their share exceeds the limit, they are at least 3, and there are either
    ``min_requests`` requests or ``⌈min_requests x limit⌉`` errors. A p99 breaches from ``min_requests`` samples on.
    """
    breaches = _breaches(limits, candidate, "") or _breaches(limits, recent, "lately ")
    if breaches:
        return Verdict(Finding.FAIL, (*breaches, _compared(baseline)))
    if candidate.requests < limits.min_requests:
        missing = limits.min_requests - candidate.requests
        return Verdict(
            Finding.NO_DATA,
            (f"{candidate.requests} candidate requests, {missing} more are needed to judge",),
        )
    if limits.p99 is not None and candidate.samples < limits.min_requests:
        return Verdict(
            Finding.NO_DATA,
            (f"{candidate.samples} latency samples, {limits.min_requests - candidate.samples} more are needed",),
        )
    return Verdict(Finding.PASS, (_within(candidate), _compared(baseline)))


def _breaches(limits: Limits, facts: ArmFacts, span: str) -> list[str]:
    found = []
    enough = facts.requests >= limits.min_requests
    rate = facts.error_rate
    if limits.error_rate is not None and rate is not None and rate > limits.error_rate:
        telling = max(FEWEST_ERRORS, math.ceil(limits.min_requests * limits.error_rate))
        if facts.errors >= (FEWEST_ERRORS if enough else telling):
            found.append(
                f"{span}{facts.errors} of {facts.requests} candidate requests failed "
                f"({_percent(rate)}, limit {_percent(limits.error_rate)})"
            )
    sampled = facts.p99 is not None and facts.samples >= limits.min_requests
    if limits.p99 is not None and facts.p99 is not None and sampled and facts.p99 > limits.p99:
        found.append(f"{span}candidate p99 is {_ms(facts.p99)}, limit {_ms(limits.p99)}")
    return found


def _within(facts: ArmFacts) -> str:
    parts = [f"{facts.errors} of {facts.requests} candidate requests failed ({_percent(facts.error_rate or 0.0)})"]
    if facts.p99 is not None:
        parts.append(f"p99 {_ms(facts.p99)}")
    return ", ".join(parts) + ": within limits"


def _compared(baseline: ArmFacts) -> str:
    if not baseline.requests:
        return "the baseline had no requests"
    p99 = f", p99 {_ms(baseline.p99)}" if baseline.p99 is not None else ""
    return f"baseline {baseline.errors} of {baseline.requests} ({_percent(baseline.error_rate or 0.0)}{p99})"


def _percent(share: float) -> str:
    return f"{share * 100:.2g} %" if 0 < share < 0.1 else f"{share * 100:.1f} %".replace(".0 %", " %")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
