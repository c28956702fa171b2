"""What a plan promises is what the judge does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crossfade.domain.analysis.block import Block
from crossfade.domain.analysis.judge import Judge
from crossfade.domain.analysis.plan import plan, requests_to_fail, requests_to_pass
from crossfade.domain.analysis.policy import ERROR_RATE, Analysis, Metric, Shape
from crossfade.domain.analysis.sample import Histogram, History
from crossfade.domain.release import Step
from crossfade.domain.values import Weight

BUSY = History(requests=600_000, errors=600, seconds=600.0)
ANALYSIS = Analysis(metrics=(ERROR_RATE,), deadline=600.0)
STEP = Step(Weight(500), 60.0)


def test_the_formulas_give_the_figures_that_were_published_with_them() -> None:
    assert requests_to_fail(0.005, 0.001, 0.01) / 50 == pytest.approx(33, abs=0.5)
    assert requests_to_pass(0.001, 0.002, 0.05) / 50 == pytest.approx(260, abs=1.0)


def test_no_worse_is_never_found_and_no_better_than_the_limit_never_passes() -> None:
    assert requests_to_fail(0.001, 0.001, 0.01) == math.inf
    assert requests_to_pass(0.002, 0.002, 0.05) == math.inf


def test_the_judge_takes_about_as_long_as_was_planned() -> None:
    (rung,) = plan(ANALYSIS, BUSY, [STEP])
    rng = np.random.default_rng(11)
    found = []
    for _ in range(60):
        nb, nc = rng.poisson(950, 600), rng.poisson(50, 600)
        rates = np.stack([nb, rng.binomial(nb, 0.001), nc, rng.binomial(nc, 0.005)], axis=1).astype(float)
        judge = Judge(ANALYSIS, BUSY)
        _, track = judge.advance(judge.begin(), Block(np.arange(1.0, 601.0), {"": rates}))
        found.append(int(np.argmax(track.fails)) + 1)
    assert rung.errors[5.0] / 2 < np.median(found) < rung.errors[5.0] * 2


def test_a_step_that_cannot_tell_anything_is_warned_of() -> None:
    (rung,) = plan(ANALYSIS, History(requests=3000, errors=3, seconds=600.0), [STEP])
    assert any("error_rate cannot pass in 10 m" in warning for warning in rung.warnings)
    assert any("not even 10 times as many errors" in warning for warning in rung.warnings)
    (quiet,) = plan(ANALYSIS, History(), [STEP])
    assert quiet.rate == 0
    assert any("nothing is asked of the candidate" in warning for warning in quiet.warnings)


def test_a_slower_release_is_planned_from_the_latencies_that_were_measured() -> None:
    edges = tuple(10 * 2 ** (i / 8) for i in range(40))
    counts = tuple(float(n) for n in np.random.default_rng(1).multinomial(100_000, np.exp(-np.arange(41) / 6) / 6.516))
    history = History(600_000, 600, (), Histogram(edges, counts), 600.0)
    latency = Metric("latency.p99", Shape.HISTOGRAM, 0.2, quantile="p99")
    (rung,) = plan(Analysis(metrics=(ERROR_RATE, latency), deadline=600.0), history, [STEP])
    assert rung.slower[2.0] < rung.slower[1.5] < rung.slower[1.2] < 600
    assert rung.to_pass is not None
    assert rung.to_data()["seconds_to_find_slower"]["2x"] > 0


def test_all_the_traffic_on_the_candidate_is_no_comparison() -> None:
    (rung,) = plan(ANALYSIS, BUSY, [Step(Weight(10_000), 60.0)])
    assert rung.warnings == ("all traffic is on the candidate: it is held to the baseline's profile",)
