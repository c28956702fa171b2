"""What the judge would have said of a rollout that is over, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from crossfade.domain.analysis.block import Block
from crossfade.domain.analysis.evidence import RESTART, Flags
from crossfade.domain.analysis.explain import STALE, Compared, Situation, explain, label
from crossfade.domain.analysis.judge import LEAST_EVENTS, Evidence, Judge
from crossfade.domain.analysis.policy import EDGE, Metric, Shape
from crossfade.domain.analysis.verdict import Finding, worst

MOST_ROWS: Final = 1024
"""Looks that are taken in at once: more would cost memory and save nothing."""


@dataclass(frozen=True, slots=True)
class Review:
    """The verdict on a whole series. ``decided_at``: the ``t`` of the look that decided, None when none did.

    ``reasons``, ``metrics`` and ``evidence`` are as they were at that look; at the last one when none decided.
    """

    finding: Finding
    decided_at: float | None
    reasons: tuple[str, ...]
    metrics: tuple[Compared, ...]
    evidence: Evidence


def review(judge: Judge, block: Block) -> Review:
    """Judge R ≥ 1 looks of one step, ``t`` counted from its beginning.

    Fails at the first look that fails, wherever it is. Else passes at the first look, up to the deadline, after which
    every required metric has passed, warm-up and minimal duration are over, and both arms had requests. Else it is
    inconclusive, or without data, at the first look at which the deadline was reached, or at no look when the looks
    end before.
    """
    absent = _absent(judge, block)
    missing = {metric.signal: why for metric, why in absent.items() if metric.signal != EDGE}
    block = replace(block, missing={**block.missing, **missing})
    needed = {metric for metric in judge.analysis.enforced if metric.required}
    deadline = _deadline(judge, block)
    may_pass = _may_pass(judge, block) & (not needed & absent.keys()) & (np.arange(len(block)) <= deadline)
    state = judge.begin()
    decided: Review | None = None
    for start, stop in _stretches(block, deadline):
        after, track = judge.advance(state, block.part(start, stop))
        fails = np.flatnonzero(track.fails)
        first = int(fails[0]) if len(fails) else stop - start
        if decided is None:
            passes = (track.passes | (not needed)) & may_pass[start:stop]
            for i in np.flatnonzero(passes[:first]):
                found = _at(judge, state, block.part(start, start + int(i) + 1), Situation())
                if found.finding is Finding.PASS:
                    decided = found
                    break
        if len(fails):
            return _at(judge, state, block.part(start, start + first + 1), Situation())
        if decided is None and stop - 1 == deadline:
            found = _at(judge, state, block.part(start, stop), Situation(final=True))
            decided = _unsettled(found, needed, absent)
        elif decided is None and stop == len(block):
            found = _at(judge, state, block.part(start, stop), Situation())
            found = _unsettled(found, needed, absent)
            limit = f", before the deadline ({judge.analysis.deadline:g} s)" if judge.analysis.deadline else ""
            ended = f"the data ended at t={after.t:g} s{limit}"
            order = (*found.reasons, ended) if found.finding is Finding.NO_DATA else (ended, *found.reasons)
            decided = replace(found, decided_at=None, reasons=order)
        state = after
    assert decided is not None
    return decided


def _at(judge: Judge, before: Evidence, part: Block, situation: Situation) -> Review:
    """The verdict after the last look of ``part``."""
    state, track = judge.advance(before, part)
    verdict, compared = explain(judge, state, track, situation)
    return Review(verdict.finding, state.t, verdict.reasons, compared, state)


def _unsettled(found: Review, needed: set[Metric], absent: dict[Metric, str]) -> Review:
    """What never passed does not pass now, and what nothing is known of is no-data."""
    reasons: dict[Finding, tuple[str, ...]] = {found.finding: found.reasons}
    # What the edge did not count is not in the evidence as missing: the edge always counts.
    lacking = [
        f"{label(metric)}: {why}" for metric, why in absent.items() if metric in needed and metric.signal == EDGE
    ]
    if lacking:
        reasons[Finding.NO_DATA] = (*reasons.get(Finding.NO_DATA, ()), *lacking)
    if found.finding is Finding.PASS:
        nb, _, nc, _ = found.evidence.in_step
        few = f"{nc:.0f} candidate and {nb:.0f} baseline requests in the end are too few, or too old, to pass anything"
        reasons[Finding.NO_DATA] = (*reasons.get(Finding.NO_DATA, ()), few)
    finding = worst(reasons)
    metrics = tuple(
        replace(compared, finding=Finding.NO_DATA) if compared.name in {m.name for m in absent} else compared
        for compared in found.metrics
    )
    return replace(found, finding=finding, reasons=reasons[finding], metrics=metrics)


def _absent(judge: Judge, block: Block) -> dict[Metric, str]:
    """The metrics of which an arm has nothing in all the looks, and how to say it."""
    found = {}
    for metric in judge.analysis.metrics:
        arms = _events(metric, block)
        if arms is None:
            found[metric] = f"the data have no {_NOUNS[metric.shape]} of it"
        elif not arms[0] or not arms[1]:
            found[metric] = f"the {'baseline' if arms[1] else 'candidate'} has no {_NOUNS[metric.shape]} of it"
    return found


_NOUNS: Final = {Shape.RATE: "counts", Shape.HISTOGRAM: "latencies", Shape.MEAN: "values"}


def _events(metric: Metric, block: Block) -> tuple[float, float] | None:
    """How many events of a metric's signal the arms have; None when the signal is not there in the metric's shape."""
    if metric.shape is Shape.HISTOGRAM:
        buckets = block.histograms.get(metric.signal)
        return None if buckets is None else (float(buckets.baseline.sum()), float(buckets.candidate.sum()))
    values = (block.rates if metric.shape is Shape.RATE else block.means).get(metric.signal)
    return None if values is None else (float(values[:, 0].sum()), float(values[:, values.shape[1] // 2].sum()))


def _deadline(judge: Judge, block: Block) -> int:
    """The index of the look at which the deadline was reached; beyond the last one when it was not."""
    limit = judge.analysis.deadline
    return int(np.searchsorted(block.t, limit)) if limit else len(block)


def _may_pass(judge: Judge, block: Block) -> Flags:
    """Whether each look may pass for all that is not evidence: its time, and the requests there were. ``[R]``"""
    t = block.t
    counted = (t > judge.analysis.warmup)[:, None] * block.rates[EDGE]
    nb, nc = np.cumsum(counted[:, 0]), np.cumsum(counted[:, 2])
    last = np.maximum.accumulate(np.where(counted[:, 2] > 0, t, 0.0))
    enough = (nc >= LEAST_EVENTS) & (nb > 0) & (t - last <= STALE)
    found: Flags = enough & (t > judge.analysis.warmup) & (t >= judge.analysis.min_duration)
    return found


def _stretches(block: Block, deadline: int) -> Iterator[tuple[int, int]]:
    """Cuts where the judge cuts too, so that going back to the look that decided costs one stretch."""
    due = np.floor(block.t / RESTART)
    cuts = set((np.flatnonzero(np.diff(due, prepend=0.0) > 0) + 1).tolist())
    cuts |= {*range(MOST_ROWS, len(block), MOST_ROWS), len(block), min(deadline + 1, len(block))}
    start = 0
    for stop in sorted(cuts):
        yield start, stop
        start = stop
