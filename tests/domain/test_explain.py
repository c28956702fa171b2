"""Every verdict says why, with numbers and units; which of several findings holds is stated once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crossfade.domain.analysis.block import Block, Buckets
from crossfade.domain.analysis.explain import Compared, Situation, explain, quantile
from crossfade.domain.analysis.judge import Judge
from crossfade.domain.analysis.policy import ERROR_RATE, Analysis, Direction, Metric, Objective, Shape
from crossfade.domain.analysis.sample import History
from crossfade.domain.analysis.verdict import PRECEDENCE, Finding, Verdict, worst

REQUIRED = Analysis(metrics=(ERROR_RATE,), deadline=600.0)
EDGES = np.array([10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0])


def block(seconds: int, bad: float, base: float, *, rate: float = 1000.0, **parts: object) -> Block:
    """Exact counts, as if chance had no part in it."""
    nb, nc = rate * 0.95, rate * 0.05
    rows = np.tile([nb, nb * base, nc, nc * bad], (seconds, 1))
    return Block(np.arange(1.0, seconds + 1.0), {"": rows}, **parts)  # type: ignore[arg-type]  # each test names its parts


def judged(
    analysis: Analysis, given: Block, situation: Situation | None = None, history: History | None = None
) -> tuple[Verdict, tuple[Compared, ...]]:
    judge = Judge(analysis, history)
    state, track = judge.advance(judge.begin(), given, alone=situation.alone if situation else False)
    return explain(judge, state, track, situation or Situation(share=0.05))


def test_the_worst_of_several_findings_is_the_verdict_and_none_at_all_is_no_data() -> None:
    assert PRECEDENCE == (Finding.FAIL, Finding.NO_DATA, Finding.INCONCLUSIVE, Finding.PASS)
    for i, one in enumerate(PRECEDENCE):
        for other in PRECEDENCE[i:]:
            assert worst((other, one)) is one
    assert worst(()) is Finding.NO_DATA


def test_a_fail_says_both_rates_the_interval_and_the_limit() -> None:
    verdict, (compared,) = judged(REQUIRED, block(60, 0.02, 0.001))
    assert verdict.finding is Finding.FAIL
    assert "errors 2 % (60 of 3000) against 0.1 % (57 of 57000)" in verdict.sentence
    assert "pp with 95 % confidence at every moment; limit 0.1 pp more: fail" in verdict.sentence
    assert compared.low is not None
    assert compared.high is not None
    assert 0 < compared.low < 0.019 < compared.high < 0.04


def test_an_open_verdict_says_how_many_requests_would_do() -> None:
    verdict, _ = judged(REQUIRED, block(60, 0.001, 0.001))
    assert verdict.finding is Finding.INCONCLUSIVE
    assert "about 13,022 candidate requests in all would show a pass" in verdict.sentence


def test_the_deadline_is_said() -> None:
    verdict, _ = judged(REQUIRED, block(60, 0.001, 0.001), Situation(final=True, share=0.05))
    assert verdict.sentence.startswith("deadline reached: errors")


def test_a_pass_is_never_given_before_the_least_time() -> None:
    generous = replace(REQUIRED, metrics=(replace(ERROR_RATE, margin=0.05),), min_duration=120.0)
    verdict, _ = judged(generous, block(60, 0.001, 0.001))
    assert verdict.finding is Finding.INCONCLUSIVE
    assert "60 s of min_duration are left" in verdict.sentence
    assert judged(generous, block(121, 0.001, 0.001))[0].finding is Finding.PASS


@pytest.mark.parametrize(
    ("given", "situation", "why"),
    [
        (block(3, 0.0, 0.0, rate=20.0), Situation(share=0.05), "3 candidate requests so far, at least 20 are needed"),
        (block(60, 0.0, 0.0), Situation(share=0.5), "the candidate has 5 % of the requests, but a weight of 50.0 %"),
        (
            Block(np.arange(1.0, 61.0), {"": np.array([[100.0, 0, 100 if i < 10 else 0, 0] for i in range(60)])}),
            Situation(share=0.5),
            "no candidate request for 50 s",
        ),
        (Block(np.arange(1.0, 61.0), {"": np.tile([0.0, 0, 50, 0], (60, 1))}), Situation(), "the baseline had no requests"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_no_data_with_its_reason(given: Block, situation: Situation, why: str) -> None:
    verdict, _ = judged(REQUIRED, given, situation)
    assert verdict.finding is Finding.NO_DATA
    assert why in verdict.sentence


def test_a_slower_candidate_is_told_with_the_edge_that_decides() -> None:
    metric = Metric("latency.p99", Shape.HISTOGRAM, 0.2, quantile="p99")
    fast, slow = np.array([500.0, 300, 100, 40, 5, 4, 1, 0]), np.array([10.0, 12, 10, 8, 5, 4, 1, 0])
    given = block(60, 0.0, 0.0, histograms={"": Buckets(EDGES, np.tile(fast, (60, 1)), np.tile(slow, (60, 1)))})
    verdict, _ = judged(Analysis(metrics=(metric,), deadline=600.0), given)
    assert verdict.finding is Finding.FAIL
    assert (
        "p99 latency 1 s against 200 ms" in verdict.sentence or "p99 latency 500 ms against 200 ms" in verdict.sentence
    )
    assert "took over" in verdict.sentence
    assert "limit 20 % slower: fail" in verdict.sentence


def test_a_mean_is_told_in_its_own_unit_and_needs_fifty_events() -> None:
    metric = Metric("basket", Shape.MEAN, 0.05, "checkout", direction=Direction.DROP)
    one = Analysis(metrics=(metric,), deadline=600.0)
    rows = np.tile([950.0, 95 * 20.0, 95 * 410.0, 50.0, 5 * 14.0, 5 * 206.0], (60, 1))
    verdict, _ = judged(one, block(60, 0.0, 0.0, means={"checkout": rows}))
    assert verdict.finding is Finding.FAIL
    assert "basket 1.4 against 2 on average" in verdict.sentence
    early, _ = judged(one, block(5, 0.0, 0.0, means={"checkout": rows[:5]}))
    assert early.finding is Finding.INCONCLUSIVE
    assert "candidate events so far, 50 are needed" in early.sentence


def test_a_dry_run_is_told_and_decides_nothing() -> None:
    trial = Metric("error_rate", Shape.RATE, 0.001, dry_run=True)
    other = Metric("latency.p99", Shape.HISTOGRAM, 0.2, quantile="p99", required=False)
    verdict, _ = judged(Analysis(metrics=(trial, other), deadline=600.0), block(60, 0.1, 0.001))
    assert verdict.finding is Finding.PASS
    assert any(reason.startswith("dry run: errors 10.0 %") for reason in verdict.reasons)


def test_the_error_budget_is_a_cap_whatever_the_baseline_does() -> None:
    capped = replace(REQUIRED, slo=Objective(target=0.999, period=86_400.0, share=0.0001))
    verdict, _ = judged(capped, block(20, 0.2, 0.001))
    assert verdict.finding is Finding.FAIL
    both_bad, _ = judged(replace(REQUIRED, slo=Objective(0.999)), block(60, 0.1, 0.1))
    assert both_bad.finding is Finding.FAIL
    assert "the error budget burns too fast, whatever the baseline does" in both_bad.sentence


def test_a_candidate_that_is_alone_is_told_against_what_was_before() -> None:
    history = History(100_000, 100, (), None, 100.0)
    rows = np.tile([0.0, 0, 1000, 50], (5, 1))
    given = Block(np.arange(1.0, 6.0), {"": rows})
    verdict, _ = judged(REQUIRED, given, Situation(alone=True, share=1.0), history)
    assert verdict.finding is Finding.FAIL
    assert "errors 5 % (250 of 5000) against 0.1 % before" in verdict.sentence


def test_a_quantile_beyond_the_last_edge_is_not_made_up() -> None:
    assert quantile(EDGES, np.array([0.0, 0, 0, 0, 0, 0, 0, 5]), 0.5) is None
    assert quantile(EDGES, np.zeros(8), 0.5) is None
    assert quantile(EDGES, np.array([5.0, 5, 0, 0, 0, 0, 0, 0]), 0.5) == 10.0
