"""What is judged afterwards is what would have been judged live, look by look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.analysis.block import Block, Buckets
from crossfade.domain.analysis.evidence import Array
from crossfade.domain.analysis.explain import Situation, explain
from crossfade.domain.analysis.hindsight import Review, review
from crossfade.domain.analysis.judge import Judge
from crossfade.domain.analysis.policy import ERROR_RATE, Analysis, Direction, Metric, Shape
from crossfade.domain.analysis.sample import History
from crossfade.domain.analysis.verdict import Finding

ANALYSIS = Analysis(metrics=(ERROR_RATE,), deadline=900.0)
P99 = Metric("latency.p99", Shape.HISTOGRAM, margin=0.5, quantile="p99")
BASKET = Metric("basket", Shape.MEAN, margin=0.05, signal="basket", direction=Direction.DROP)
HISTORY = History(1_000_000, 1000)


def counts(seconds: int, errors: float, *, base: float = 0.001, rate: float = 1000, share: float = 0.05) -> Array:
    """One look a second: as many as are to be expected, so that what is said does not hang on chance."""
    t = np.arange(1, seconds + 1)

    def steps(expected: float) -> Array:
        whole: Array = np.floor(t * expected + 1e-6)
        return np.diff(whole, prepend=0.0)

    nb, nc = steps(rate * (1 - share)), steps(rate * share)
    return np.stack([nb, steps(rate * (1 - share) * base), nc, np.minimum(steps(rate * share * errors), nc)], axis=1)


def looks(*parts: Array, every: float = 1.0) -> Block:
    values = np.concatenate(parts)
    return Block(np.arange(1, len(values) + 1, dtype=np.float64) * every, {"": values})


def judged(block: Block, analysis: Analysis = ANALYSIS, history: History = HISTORY) -> Review:
    return review(Judge(analysis, history), block)


def live(block: Block, analysis: Analysis, history: History) -> tuple[Finding, float | None]:
    """One look after the other, as a rollout's guard has them."""
    judge = Judge(analysis, history)
    state = judge.begin()
    decided: tuple[Finding, float | None] | None = None
    found = Finding.NO_DATA
    for i, t in enumerate(block.t.tolist()):
        state, track = judge.advance(state, block.part(i, i + 1))
        final = t >= analysis.deadline
        found = explain(judge, state, track, Situation(final=final))[0].finding
        if found is Finding.FAIL:
            return found, t
        if decided is None and (found is Finding.PASS or final):
            decided = found, t
    return decided or (found, None)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.001, 0.003, 0.01, 0.05, 0.5]),
    st.sampled_from([2, 30, 300, 3000]),
    st.sampled_from([1.0, 7.0]),
    st.sampled_from([(0.0, 0.0, 100.0), (20.0, 0.0, 60.0), (5.0, 70.0, 90.0), (0.0, 500.0, 1000.0)]),
)
def test_afterwards_is_judged_as_it_would_have_been_live(
    seed: int, errors: float, rate: int, every: float, times: tuple[float, float, float]
) -> None:
    chance = np.random.default_rng(seed)
    warmup, least, deadline = times
    nb, nc = chance.poisson(rate * 0.8 * every, 110), chance.poisson(rate * 0.2 * every, 110)
    nc[chance.random(110) < 0.1] = 0
    values = np.stack([nb, chance.binomial(nb, 0.001), nc, chance.binomial(nc, errors)], axis=1).astype(float)
    metric = replace(ERROR_RATE, margin=0.02)
    analysis = Analysis(metrics=(metric,), warmup=warmup, min_duration=least, deadline=deadline)
    found = judged(looks(values, every=every), analysis)
    assert (found.finding, found.decided_at) == live(looks(values, every=every), analysis, HISTORY)


def test_errors_fail_at_the_look_that_shows_them_and_are_explained_as_they_were_then() -> None:
    block = looks(counts(600, 0.05))
    found = judged(block)
    assert found.finding is Finding.FAIL
    assert found.decided_at is not None
    assert found.decided_at <= 5
    assert f"of {block.rates[''][: int(found.decided_at), 2].sum():.0f})" in found.reasons[0]
    assert found.evidence.t == found.decided_at


def test_a_good_candidate_passes_at_the_first_look_that_shows_it() -> None:
    found = judged(looks(counts(600, 0.001)))
    assert found.finding is Finding.PASS
    assert found.decided_at is not None
    assert 100 < found.decided_at < 600
    assert found.reasons[0].endswith(": pass")


@pytest.mark.parametrize("after", [400, 1000])
def test_what_fails_after_it_has_passed_has_failed(after: int) -> None:
    found = judged(looks(counts(after, 0.001), counts(60, 0.05)))
    assert found.finding is Finding.FAIL
    assert found.decided_at is not None
    assert after < found.decided_at <= after + 20


def test_nothing_passes_before_warm_up_and_minimal_duration_are_over() -> None:
    early = judged(looks(counts(600, 0.001)))
    assert early.decided_at is not None
    late = judged(looks(counts(600, 0.001)), replace(ANALYSIS, min_duration=550))
    assert (late.finding, late.decided_at) == (Finding.PASS, 550)
    cold = judged(looks(counts(600, 0.001)), replace(ANALYSIS, warmup=100))
    assert cold.decided_at is not None
    assert cold.decided_at > early.decided_at


def test_undecided_at_the_deadline_is_inconclusive_and_what_comes_later_does_not_pass_it() -> None:
    found = judged(looks(counts(600, 0.001)), replace(ANALYSIS, deadline=60))
    assert (found.finding, found.decided_at) == (Finding.INCONCLUSIVE, 60)
    assert found.reasons[0].startswith("deadline reached: ")


def test_the_deadline_is_reached_at_the_first_look_at_or_after_it() -> None:
    found = judged(looks(counts(60, 0.001), every=7), replace(ANALYSIS, deadline=60))
    assert found.decided_at == 63


def test_data_that_end_before_the_deadline_are_inconclusive_at_no_look() -> None:
    found = judged(looks(counts(20, 0.001)))
    assert (found.finding, found.decided_at) == (Finding.INCONCLUSIVE, None)
    assert found.reasons[0] == "the data ended at t=20 s, before the deadline (900 s)"


@pytest.mark.parametrize("empty", [(0, 1), (2, 3)])
@pytest.mark.parametrize("deadline", [60.0, 900.0])
def test_an_arm_without_requests_is_no_data(empty: tuple[int, int], deadline: float) -> None:
    values = counts(100, 0.001)
    values[:, empty] = 0
    found = judged(looks(values), replace(ANALYSIS, deadline=deadline))
    assert found.finding is Finding.NO_DATA
    assert found.decided_at == (60 if deadline == 60 else None)
    assert "requests" in found.reasons[0]


def test_all_of_it_within_the_warm_up_is_no_data() -> None:
    assert judged(looks(counts(30, 0.5)), replace(ANALYSIS, warmup=60)).finding is Finding.NO_DATA


@pytest.mark.parametrize("metric", [P99, BASKET], ids=["latency", "mean"])
def test_a_required_signal_that_is_missing_is_no_data_and_one_that_is_not_required_is_not(metric: Metric) -> None:
    missing = judged(looks(counts(600, 0.001)), replace(ANALYSIS, metrics=(ERROR_RATE, metric), deadline=600))
    assert missing.finding is Finding.NO_DATA
    assert any("the data have no" in reason for reason in missing.reasons)
    spare = replace(metric, required=False)
    assert judged(looks(counts(600, 0.001)), replace(ANALYSIS, metrics=(ERROR_RATE, spare))).finding is Finding.PASS


def test_a_required_latency_that_only_one_arm_has_is_no_data() -> None:
    edges = np.array([10.0, 20.0])
    block = looks(counts(600, 0.001))
    ones = np.ones((600, 3))
    block = replace(block, histograms={"": Buckets(edges, ones, np.zeros((600, 3)))})
    found = judged(block, replace(ANALYSIS, metrics=(ERROR_RATE, P99), deadline=600))
    assert found.finding is Finding.NO_DATA
    assert "p99 latency: the candidate has no latencies of it" in found.reasons


def test_errors_fail_although_a_required_signal_is_missing() -> None:
    found = judged(looks(counts(600, 0.05)), replace(ANALYSIS, metrics=(ERROR_RATE, P99)))
    assert found.finding is Finding.FAIL


def test_when_nothing_is_required_it_passes_once_there_were_requests_and_never_without() -> None:
    analysis = replace(ANALYSIS, metrics=(replace(ERROR_RATE, required=False),))
    assert judged(looks(counts(60, 0.001)), analysis).finding is Finding.PASS
    assert judged(looks(np.zeros((1000, 4))), analysis).finding is Finding.NO_DATA
