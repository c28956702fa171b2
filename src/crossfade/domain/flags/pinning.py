"""Whether a candidate's harm is a flag's variant's, or the release's own: release x variant.

The harm is pinned on a variant when both hold:

- Within the candidate, answers that were made with the variant are surely worse than those that were made with the flag's
  other variants. Two e-values are averaged: that of `analysis.judge` by the candidate's own policy, which knows latencies
  and business events too, and one on errors alone that takes a handful of them (`misplaced`). All variants that are looked
  at share one level, PINNED: it is the chance that an innocent one is ever blamed.
- Without those answers the candidate's errors are not beyond the margin against the baseline's, nor beyond its limits.

Like is compared with like: answers of other pages, which never asked for the flag, say nothing about its variants.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import numpy as np

from crossfade.domain.analysis import evidence as e
from crossfade.domain.analysis.block import Block
from crossfade.domain.analysis.evidence import Array
from crossfade.domain.analysis.explain import Situation, explain, percent
from crossfade.domain.analysis.judge import Judge
from crossfade.domain.analysis.limits import FEWEST_ERRORS, ArmFacts, hold_to
from crossfade.domain.analysis.policy import EDGE, ERROR_RATE, Analysis, Metric, Shape
from crossfade.domain.analysis.sample import History, Row
from crossfade.domain.analysis.verdict import Finding
from crossfade.domain.flags.arms import arm, event_sources, facts, tellable, told
from crossfade.domain.release import Limits
from crossfade.domain.signal import Reading
from crossfade.domain.traffic import Pool

PINNED: Final = 0.05
"""The chance, over all variants of a rollout's step together, that one is blamed which is as good as its flag's others."""

OF_ERRORS: Final = 0.75
"""The part of the evidence that is that on errors alone; the rest is the judge's."""

LEANS: Final = 1.5
"""An e-value from which a variant that is not sure to be to blame is worth a second look."""

ODDS: Final = np.geomspace(1.5, 3000.0, 24)
"""How many times as likely a request with the variant may be to fail, when it is to blame."""

KEPT: Final = 120
"""Readings of a step that are kept to judge variants by; beyond it every other one of the older goes."""

LEAST_BETWEEN: Final = 1.0
"""Seconds between two of them."""


class Trail:
    """The readings of a step, from its beginning on. Which are kept depends on time alone, so the evidence stays honest."""

    def __init__(self, first: Reading) -> None:
        self._kept = [first]

    def add(self, reading: Reading) -> None:
        """The newest, when the one before is old enough."""
        if reading.at - self._kept[-1].at >= LEAST_BETWEEN:
            self._kept.append(reading)
            if len(self._kept) > KEPT:
                self._kept = [*self._kept[:-1:2], self._kept[-1]]

    def upto(self, reading: Reading) -> tuple[Reading, ...]:
        """All that are kept, and this one."""
        return (*self._kept, reading) if reading.at > self._kept[-1].at else tuple(self._kept)


@dataclass(frozen=True, slots=True)
class Counted:
    """Requests, and how many of them failed."""

    requests: int = 0
    errors: int = 0

    @property
    def share(self) -> float:
        return self.errors / self.requests if self.requests else 0.0

    def __str__(self) -> str:
        return f"{self.errors} of {self.requests} failed ({percent(self.share)})"


@dataclass(frozen=True, slots=True)
class Suspect:
    """A variant that the candidate's answers told. ``alike`` are answers with the flag's other variants; ``without`` all of the

    candidate's that were not made with it, ``baseline`` the baseline's likewise. ``why`` says what was found.
    """

    flag: str
    variant: str
    having: Counted
    alike: Counted
    without: Counted
    baseline: Counted
    pinned: bool
    why: str
    leans: bool = False
    """Not sure to be to blame, but nothing speaks against it: a few more answers may tell."""

    @property
    def name(self) -> str:
        return f"{self.flag}={self.variant}"


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a candidate is compared with its baseline. ``history`` stands for a baseline that has no requests any more."""

    candidate: Pool
    baseline: Pool
    analysis: Analysis
    limits: Limits
    history: History = field(default_factory=History)


def pin(scene: Scene, trail: Sequence[Reading], variants: Collection[tuple[str, str]]) -> tuple[Suspect, ...]:
    """What is known against each of these (flag, variant), worst first; those that no answer told are left out.

    ``trail`` are readings since the step began, oldest first: the evidence grows from one to the next.
    """
    if len(trail) < 2:
        return ()
    whole = trail[-1].since(trail[0])
    present = [
        (flag, variant) for flag, variant in sorted(variants) if variant in told(whole, flag, (scene.candidate,))
    ]
    found = [_suspect(scene, trail, whole, flag, variant, len(present)) for flag, variant in present]
    return tuple(sorted(found, key=lambda one: (not one.pinned, one.alike.share - one.having.share)))


def _suspect(
    scene: Scene, trail: Sequence[Reading], whole: Reading, flag: str, variant: str, looked_at: int
) -> Suspect:
    pools = (scene.candidate,)
    others = told(whole, flag, pools) - {variant}
    having, alike = facts(whole, flag, {variant}, pools), facts(whole, flag, others, pools)
    without = all_but(whole, scene.candidate, flag, variant)
    baseline = all_but(whole, scene.baseline, flag, variant)
    policy = _policy(scene.analysis, looked_at)
    rows = _rows(trail, flag, variant, others, scene.candidate, policy)
    evidence, sentence = _compared(policy, rows, scene.history) if rows else (-math.inf, "nothing was counted yet")
    line = math.log(looked_at / PINNED)
    worse = _worse(scene, without, baseline)
    harmful, fair = evidence >= line, bool(alike.requests) and not worse
    if not alike.requests:
        why = "no answer was made with another of the flag's variants: it cannot be told from the release"
    elif not harmful:
        why = f"within the candidate it is not surely worse than the flag's other variants: {sentence}"
    elif worse:
        why = f"the candidate is harmful without it too: {worse}"
    else:
        why = f"within the candidate, against the flag's other variants: {sentence}; without it {without}"
    return Suspect(
        flag,
        variant,
        Counted(having.requests, having.errors),
        Counted(alike.requests, alike.errors),
        without,
        baseline,
        harmful and fair,
        why,
        not harmful and fair and evidence >= math.log(LEANS),
    )


def all_but(whole: Reading, pool: Pool, flag: str, variant: str) -> Counted:
    """All requests of a pool but those that were made with the variant."""
    every, having = whole.facts(pool), facts(whole, flag, {variant}, (pool,))
    requests = max(0, every.requests - having.requests)
    return Counted(requests, min(requests, max(0, every.errors - having.errors)))


def _policy(analysis: Analysis, looked_at: int) -> Analysis:
    """What variants are compared by within the candidate. Both arms run in the same replicas: what is cold is cold for both."""
    policy, _ = tellable(analysis)
    return replace(policy, false_alarm=PINNED / looked_at, warmup=0.0, slo=None)


def _rows(
    trail: Sequence[Reading], flag: str, variant: str, others: Collection[str], pool: Pool, policy: Analysis
) -> list[Row]:
    sources = event_sources(policy)
    rows = []
    for earlier, later in pairwise(trail):
        since = later.since(earlier)
        rest, suspect = (arm(facts(since, flag, names, (pool,)), sources) for names in (others, {variant}))
        if later.at > earlier.at:
            rows.append(Row(later.at - trail[0].at, rest, suspect))
    return rows


def _compared(policy: Analysis, rows: Sequence[Row], history: History) -> tuple[float, str]:
    """The logarithm of the e-value against "the variant is no worse than the flag's others", and what is to be said of it."""
    judge = Judge(policy, horizon=rows[-1].t)
    state, track = judge.advance(judge.begin(), Block.of(rows))
    verdict, _ = explain(judge, state, track, Situation())
    judged = float(track.total[-1])
    xc, nc, xb, nb = np.array(
        [[r.candidate.errors, r.candidate.requests, r.baseline.errors, r.baseline.requests] for r in rows]
    ).T
    metric = rate_of(policy)
    counted, alike = Counted(int(nc.sum()), int(xc.sum())), Counted(int(nb.sum()), int(xb.sum()))
    errors = -math.inf
    enough = counted.errors >= FEWEST_ERRORS
    if enough and metric is not None and counted.share > allowed(metric, alike.share):
        errors = misplaced(xc, nc, xb, nb) / e.burstiness(np.array(history.errors_per_10s, dtype=float))
    both = float(np.logaddexp(math.log(OF_ERRORS) + errors, math.log(1 - OF_ERRORS) + judged))
    if verdict.finding is not Finding.FAIL and math.isfinite(errors):
        return both, f"{counted} with it, {alike} with the others"
    return both, verdict.sentence


def misplaced(xc: Array, nc: Array, xb: Array, nb: Array) -> float:
    """The logarithm of the e-value against "a request of arm c is at most as likely to fail as one of arm b". ``[R]`` looks.

    Given that ``x`` = xc + xb requests of a look failed, xc of them are c's: under the null at most as many as when drawn at
    random from all, of which s = nc/(nc+nb) are c's. An odds ratio r multiplies the wealth by r^xc / (1 + s(r-1))^x, which
    is 1 on average under a binomial and at most 1 when drawn without replacement (Hoeffding, JASA 58, 1963, theorem 4).
    However the rate of errors or the split changes between looks, it stays so. Averaged over ODDS.
    """
    both = (nc > 0) & (nb > 0)
    share_of_c = np.where(both, nc / np.maximum(nc + nb, 1.0), 0.5)
    xc, x = np.where(both, xc, 0.0), np.where(both, xc + xb, 0.0)
    wealth = xc.sum() * np.log(ODDS) - (x[:, None] * np.log1p(share_of_c[:, None] * (ODDS - 1))).sum(axis=0)
    return float(np.logaddexp.reduce(wealth) - math.log(len(ODDS)))


def rate_of(analysis: Analysis) -> Metric | None:
    """The enforced metric on the edge's own errors, if there is one."""
    return next((m for m in analysis.enforced if m.shape is Shape.RATE and m.signal == EDGE), None)


def allowed(metric: Metric, share: float) -> float:
    """The share of errors that is tolerated beside one of ``share``."""
    return max(share + metric.margin, share * (metric.ratio or 1.0))


def _worse(scene: Scene, without: Counted, baseline: Counted) -> str:
    """Why the candidate is worse than its baseline even without the variant; empty when it is not."""
    limit = hold_to(scene.limits, ArmFacts(without.requests, without.errors), ArmFacts(), ArmFacts())
    if limit.finding is Finding.FAIL:
        return limit.reasons[0]
    if not baseline.requests:
        baseline = Counted(int(scene.history.requests), int(scene.history.errors))
    if not baseline.requests or without.errors < FEWEST_ERRORS:
        return ""
    most = allowed(rate_of(scene.analysis) or ERROR_RATE, baseline.share)
    if without.share <= most:
        return ""
    return f"{without} without it, {baseline} in the baseline, and {percent(most)} are allowed"
