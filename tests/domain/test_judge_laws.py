"""The laws of the judge's evidence: what must hold of any counts, before any example of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from crossfade.domain.analysis import evidence as e
from crossfade.domain.analysis.block import Block, Buckets
from crossfade.domain.analysis.explain import Situation, explain
from crossfade.domain.analysis.judge import BURN_IN, Evidence, Judge, Track
from crossfade.domain.analysis.policy import ERROR_RATE, Analysis, Direction, Metric, Objective, Shape
from crossfade.domain.analysis.sample import History
from crossfade.domain.analysis.verdict import Finding, worst

Array = npt.NDArray[np.float64]

ERRORS = Analysis(metrics=(ERROR_RATE,), deadline=600.0)
P99 = Metric("latency.p99", Shape.HISTOGRAM, margin=0.25, quantile="p99")
BASKET = Metric("basket", Shape.MEAN, margin=0.05, signal="basket")
KNOWN = History(requests=600_000, errors=600, seconds=600.0)

shares = st.floats(0.001, 0.999)
ratios = st.floats(1.0, 5.0)
margins = st.floats(0.0, 0.5)
counts = st.integers(0, 40)


def arr(*values: float) -> Array:
    return np.array(values, dtype=float)


def grown(
    xc: float, nc: float, xb: float, nb: float, g: float, ratio: float = 1.0, margin: float = 0.0, sign: int = 1
) -> Array:
    """The growth of one look, ``[F]``."""
    found: Array = e.growth(arr(xc), arr(nc), arr(xb), arr(nb), arr(g), arr(ratio), arr(margin), sign)[0]
    return found


def rows(seed: int, bad: Any, base: Any = 0.001, looks: int = 600, rate: float = 1000.0, split: Any = 0.05) -> Array:
    """``[looks, 4]``: baseline n and bad, candidate n and bad, by chance."""
    rng = np.random.default_rng(seed)
    nb, nc = rng.poisson(rate * (1 - split * np.ones(looks))), rng.poisson(rate * split * np.ones(looks))
    return np.stack([nb, rng.binomial(nb, base), nc, rng.binomial(nc, bad)], axis=1).astype(float)


def block(counted: Array, **parts: Any) -> Block:
    return Block(np.arange(1.0, len(counted) + 1.0), {"": counted}, **parts)


def judged(analysis: Analysis, given: Block, history: History | None = None, **how: Any) -> tuple[Evidence, Track]:
    judge = Judge(analysis, history)
    return judge.advance(judge.begin(), given, **how)


def when(found: npt.NDArray[np.bool_]) -> float:
    """The first look that says yes, from 1; infinite when none does."""
    return float(np.argmax(found)) + 1 if found.any() else math.inf


def latencies(seed: int, edges: Sequence[float], looks: int = 120, slower: float = 1.0) -> Block:
    rng = np.random.default_rng(seed)
    below = norm.cdf(np.log(np.array(edges) / 50.0) / 0.6)
    late = norm.cdf(np.log(np.array(edges) / 50.0 / slower) / 0.6)
    base = rng.poisson(950 * np.diff(below, prepend=0, append=1), (looks, len(edges) + 1)).astype(float)
    cand = rng.poisson(50 * np.diff(late, prepend=0, append=1), (looks, len(edges) + 1)).astype(float)
    zero = np.zeros(looks)
    counted = np.stack([base.sum(axis=1), zero, cand.sum(axis=1), zero], axis=1)
    return block(counted, histograms={"": Buckets(np.array(edges), base, cand)})


EDGES = tuple(10.0 * 2 ** (i / 4) for i in range(28))


# --- the figures that were published with the formulas


def test_the_vectors_of_the_published_formulas_are_reproduced() -> None:
    xc, nc, xb, nb = (arr(*v) for v in ((0, 1, 2), (50, 48, 52), (1, 0, 2), (950, 940, 960)))
    g = (np.cumsum(xb) - xb + 0.001 * 20_000) / (np.cumsum(nb) - nb + 20_000)
    one, none = np.ones(3), np.zeros(3)
    fail = e.average(np.cumsum(e.growth(xc, nc, xb, nb, g, one, none, 1), axis=0))
    passing = e.average(np.cumsum(e.growth(xc, nc, xb, nb, g, one, none + 0.001, -1), axis=0))
    assert fail == pytest.approx([-0.30295, 1.06478, 3.74529], abs=1e-5)
    assert passing == pytest.approx([0.02704, -0.27976, -0.54845], abs=1e-5)


# --- an e-value is at most 1 on average under its null


def expected(nc: int, pc: float, nb: int, pb: float, g: float, ratio: float, margin: float, sign: int) -> Array:
    """The mean of each bet's factor of one look, exactly: over all counts there can be."""
    xc, xb = (one.ravel().astype(float) for one in np.meshgrid(np.arange(nc + 1), np.arange(nb + 1)))
    chance = binom.pmf(xc, nc, pc) * binom.pmf(xb, nb, pb)
    same = np.ones_like(xc)
    factor = np.exp(e.growth(xc, nc * same, xb, nb * same, g * same, ratio * same, margin * same, sign))
    mean: Array = (chance[:, None] * factor).sum(axis=0)
    return mean


@given(st.integers(0, 9), shares, st.integers(0, 15), shares, shares, ratios, margins, st.sampled_from((1, -1)))
def test_no_bet_gains_on_average_under_its_null_whatever_was_guessed(
    nc: int, towards: float, nb: int, pb: float, g: float, ratio: float, margin: float, sign: int
) -> None:
    assume(sign > 0 or ratio * pb + margin <= 1)  # nor can a candidate be as bad as that
    limit = min(1.0, ratio * pb + margin)
    pc = limit * towards if sign > 0 else limit + (1 - limit) * towards
    assert (expected(nc, pc, nb, pb, g, ratio, margin, sign) <= 1 + 1e-9).all()


@given(st.integers(0, 30), shares, shares)
def test_no_bet_on_one_arm_gains_on_average_when_it_keeps_its_limit(n: int, towards: float, limit: float) -> None:
    x = np.arange(n + 1.0)
    factor = np.exp(e.growth_alone(x, np.full_like(x, n), np.full_like(x, limit)))
    mean = (binom.pmf(x, n, towards * limit)[:, None] * factor).sum(axis=0)
    assert (mean <= 1 + 1e-9).all()


@given(st.floats(0.01, 100.0), st.floats(0.01, 100.0), st.floats(0.0, 5.0))
def test_the_bet_on_a_mean_gains_nothing_when_the_true_difference_is_no_harm(
    variance: float, precision: float, better: float
) -> None:
    sd = math.sqrt(variance)
    # The factor grows like a normal density's inverse, so the integrand is wider than the density by this much.
    wide = sd * math.sqrt(1 + 1 / (variance * precision))
    d = np.linspace(-12 * wide, 12 * wide, 40_001)
    log_e = e.of_means(d, np.full_like(d, variance), np.array(precision))
    mean = float(np.trapezoid(np.exp(log_e + norm.logpdf(d, -better * sd, sd)), d))
    assert mean <= 1 + 1e-6
    if better == 0:
        assert mean == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_evidence_is_at_most_1_on_average_while_rates_drift_and_the_split_ramps(sign: int) -> None:
    rng = np.random.default_rng(3)
    looks, replicas, margin = 40, 6000, 0.01
    base = 0.02 + 0.015 * np.sin(np.arange(looks) / 6)[:, None]
    split = np.linspace(0.05, 0.5, looks)[:, None]
    shape = (looks, replicas)
    nb, nc = rng.poisson(40 * (1 - split), shape), rng.poisson(40 * split, shape)
    found = (rng.binomial(nc, base + margin), nc, rng.binomial(nb, base), nb)
    xc, nc_, xb, nb_ = (np.asarray(one, dtype=float) for one in found)
    guess = (np.cumsum(xb, axis=0) - xb + 0.5) / (np.cumsum(nb_, axis=0) - nb_ + 50.0)
    one = np.ones(shape)
    wealth = np.cumsum(e.growth(xc, nc_, xb, nb_, guess, one, margin * one, sign), axis=0)
    restarted = math.log(e.restart_share(1, 1)) - wealth[19]
    for value in (e.average(wealth[-1]), e.with_restarts(wealth[-1], restarted, 1 - e.restart_share(1, 1))):
        got = np.exp(value)
        assert got.mean() <= 1 + 4 * got.std() / math.sqrt(replicas)
        assert np.mean(got >= 20) <= 0.05


def test_a_good_candidate_is_hardly_ever_failed_however_often_one_looks() -> None:
    ramp = np.repeat([0.05, 0.25, 0.5], 200)
    drift = 0.001 * (1 + np.linspace(0, 3, 600))
    alarms = [
        when(judged(ERRORS, block(rows(seed, drift, drift, split=ramp)), KNOWN)[1].fails) < math.inf
        for seed in range(150)
    ]
    assert sum(alarms) <= 4  # 1.5 are expected at most; 5 or more come once in fifty seeds


# --- symmetries


@given(counts, counts, counts, counts, shares, st.integers(1, 50))
def test_growth_adds_up_over_looks_with_the_same_guess_and_split(
    xc: int, xb: int, yc: int, yb: int, g: float, times: int
) -> None:
    nc, nb = 40, 200
    cut = grown(xc, nc, xb, nb, g) + grown(yc, nc * times, yb, nb * times, g)
    assert cut == pytest.approx(grown(xc + yc, nc * (1 + times), xb + yb, nb * (1 + times), g), rel=1e-9, abs=1e-9)


@given(counts, counts, shares)
def test_at_half_and_half_the_arms_swapped_tell_the_opposite(xc: int, xb: int, g: float) -> None:
    assert grown(xc, 40, xb, 40, g) == pytest.approx(grown(xb, 40, xc, 40, g, sign=-1), rel=1e-9, abs=1e-12)


@given(counts, counts, st.integers(40, 400), shares)
def test_good_ones_counted_instead_of_bad_ones_tell_the_opposite(xc: int, xb: int, nb: int, g: float) -> None:
    mirrored = grown(40 - xc, 40, nb - xb, nb, 1 - g, sign=-1)
    assert grown(xc, 40, xb, nb, g) == pytest.approx(mirrored, rel=1e-6, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 99), st.sampled_from((False, True)))
def test_the_unit_of_latencies_does_not_matter(times: float, seed: int, strict: bool) -> None:
    policy = replace(ERRORS, metrics=(P99,), strict=strict)
    given_ms = latencies(seed, EDGES, looks=40, slower=1.1)
    buckets = given_ms.histograms[""]
    scaled = replace(given_ms, histograms={"": replace(buckets, edges=buckets.edges * times)})
    one, other = (judged(policy, b)[1].standings[P99.name] for b in (given_ms, scaled))
    assert one.fail == pytest.approx(other.fail)
    assert one.passing == pytest.approx(other.passing)
    assert (one.beyond == other.beyond).all()


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 99))
def test_the_unit_of_a_mean_does_not_matter(times: float, seed: int) -> None:
    policy = replace(ERRORS, metrics=(BASKET,))
    units = np.array([1.0, times, times**2, 1.0, times, times**2])
    values = moments(seed, 1.05)
    one, other = (judged(policy, baskets(v))[1].standings["basket"] for v in (values, values * units))
    assert one.fail == pytest.approx(other.fail, rel=1e-6)
    assert one.passing == pytest.approx(other.passing, rel=1e-6)


# --- worse data never look better


@given(counts, counts, st.integers(40, 400), shares, ratios, margins)
def test_one_more_error_of_the_candidate_makes_every_bet_on_harm_grow(
    xc: int, xb: int, nb: int, g: float, ratio: float, margin: float
) -> None:
    def at(candidate: float, baseline: float, sign: int) -> Array:
        return grown(candidate, 41, baseline, nb + 1, g, ratio, margin, sign)

    assert (at(xc + 1, xb, 1) >= at(xc, xb, 1)).all()
    assert (at(xc + 1, xb, -1) <= at(xc, xb, -1)).all()
    assert (at(xc, xb + 1, 1) <= at(xc, xb, 1)).all()
    assert (at(xc, xb + 1, -1) >= at(xc, xb, -1)).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 999),
    st.sampled_from((0.001, 0.004, 0.01)),
    st.lists(st.tuples(st.integers(0, 179), st.integers(1, 20)), min_size=1, max_size=20),
    st.booleans(),
)
def test_more_errors_of_the_candidate_at_any_time_never_delay_an_alarm_nor_hasten_a_pass(
    seed: int, bad: float, more: list[tuple[int, int]], strict: bool
) -> None:
    # At every later look, across restarts too: guess and burstiness are the baseline's alone.
    policy = replace(ERRORS, strict=strict)
    fewer = rows(seed, bad, looks=180)
    worse = fewer.copy()
    for at, errors in more:
        worse[at, 3] = min(worse[at, 2], worse[at, 3] + errors)
    one, other = (judged(policy, block(counted), KNOWN)[1] for counted in (fewer, worse))
    a, b = one.standings["error_rate"], other.standings["error_rate"]
    assert (b.fail >= a.fail - 1e-9).all()
    assert (b.passing <= a.passing + 1e-9).all()
    assert when(other.fails) <= when(one.fails)
    assert when(other.passes) >= when(one.passes)


# --- how looks are cut, and what is written down, changes nothing


def everything(seed: int) -> tuple[Analysis, Block]:
    """A policy of all shapes and counts of all of it."""
    policy = Analysis(
        metrics=(ERROR_RATE, P99, replace(BASKET, direction=Direction.EITHER, required=False)),
        deadline=300.0,
        warmup=7.0,
        slo=Objective(target=0.99),
    )
    given_all = latencies(seed, EDGES, looks=150, slower=1.1)
    requests = given_all.rates[""].copy()
    rng = np.random.default_rng(seed)
    requests[:, 1], requests[:, 3] = (rng.binomial(requests[:, i].astype(int), 0.004) for i in (0, 2))
    return policy, replace(given_all, rates={"": requests}, means={"basket": moments(seed, 1.02, 150)})


def same(one: Evidence, other: Evidence) -> None:
    for name in ("fail", "restarted", "passing", "totals", "anchors", "pairs", "best_pass", "in_step", "objective"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-8, abs=1e-8), name
    assert (one.looks, one.t, one.restarts) == (other.looks, other.t, other.restarts)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.sets(st.integers(1, 149), max_size=30))
def test_looks_taken_in_one_by_one_or_by_the_thousand_tell_the_same(seed: int, cuts: set[int]) -> None:
    policy, whole = everything(seed)
    judge = Judge(policy, KNOWN)
    at_once, track = judge.advance(judge.begin(), whole)
    state, total, passes = judge.begin(), [], []
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 150], strict=True):
        state, part = judge.advance(state, whole.part(start, stop))
        total.append(part.total)
        passes.append(part.passes)
    same(state, at_once)
    assert np.concatenate(total) == pytest.approx(track.total, rel=1e-8, abs=1e-8)
    assert (np.concatenate(passes) == track.passes).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(0, 149))
def test_a_judge_that_was_restarted_goes_on_as_if_it_had_not_been(seed: int, cut: int) -> None:
    policy, whole = everything(seed)
    judge = Judge(policy, KNOWN)
    straight, track = judge.advance(judge.begin(), whole)
    before = judge.begin() if not cut else judge.advance(judge.begin(), whole.part(0, cut))[0]
    data = json.loads(json.dumps(before.to_data(), allow_nan=False))
    state, part = Judge(policy, KNOWN).advance(Evidence.from_data(data), whole.part(cut, 150))
    same(state, straight)
    assert part.total == pytest.approx(track.total[cut:], rel=1e-8, abs=1e-8)
    assert (part.fails == track.fails[cut:]).all()
    assert state.to_data().keys() == straight.to_data().keys()


def test_looking_every_ten_seconds_tells_nearly_as_much_as_looking_each_second() -> None:
    fine = rows(5, 0.004, looks=300)
    coarse = fine.reshape(-1, 10, 4).sum(axis=1)
    slow = Block(np.arange(10.0, 301.0, 10.0), {"": coarse})
    one = judged(ERRORS, block(fine), KNOWN)[1].standings["error_rate"].fail
    other = judged(ERRORS, slow, KNOWN)[1].standings["error_rate"].fail
    assert other[-1] == pytest.approx(one[-1], rel=0.05)


# --- late onset


@given(st.integers(1, 100), st.integers(1, 1000))
def test_all_restarts_together_never_have_more_than_the_whole_budget(planned: int, begun: int) -> None:
    spent = sum(e.restart_share(k, planned) for k in range(1, begun + 1))
    assert spent <= 1 + 1e-12
    if begun >= planned:
        assert spent == pytest.approx(1 - 0.1 * (planned + 1) / (begun + 1))


def test_what_begins_late_is_found_nearly_as_soon_as_what_was_there_from_the_beginning() -> None:
    late = rows(9, 0.001)
    late[300:] = rows(10, 0.01)[300:]
    early = rows(10, 0.01)[300:]
    state, track = judged(ERRORS, block(late), KNOWN)
    assert state.restarts == 10
    took = when(track.fails) - 300
    assert 0 < took < 2.5 * when(judged(ERRORS, block(early), KNOWN)[1].fails) + 5


# --- bursts


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 9))
def test_burstiness_is_at_least_1_and_grows_as_errors_come_in_larger_clusters(x: list[int], times: int) -> None:
    one, more = (e.burstiness(arr(*x) * k) for k in (1, times))
    assert 1 <= one <= more
    if len(x) < e.FEWEST_PAIRS:
        assert one == 1


def test_a_slow_change_is_no_burst_and_clusters_are_one() -> None:
    rng = np.random.default_rng(4)

    def phi(x: Array, n: Array) -> float:
        pair = x.reshape(-1, 2), n.reshape(-1, 2)
        weight = pair[1].prod(axis=1) / pair[1].sum(axis=1)
        unlike = weight * (pair[0][:, 0] / pair[1][:, 0] - pair[0][:, 1] / pair[1][:, 1]) ** 2
        like = pair[0].sum(axis=1) / pair[1].sum(axis=1)
        sums = (unlike.sum(), like.sum(), float(len(unlike)))
        return float(e.burstiness_of_pairs(*(np.array(one) for one in sums)))

    n = np.asarray(rng.poisson(2000, 400), dtype=float)
    drifting = np.asarray(rng.binomial(n.astype(int), np.linspace(0.001, 0.02, 400)), dtype=float)
    assert phi(drifting, n) == 1
    assert phi(np.asarray(5 * rng.poisson(2, 400), dtype=float), n) == pytest.approx(5, rel=0.3)


def test_every_bet_is_divided_by_how_bursty_the_history_was() -> None:
    calm = np.tile([950.0, 1, 50, 1], (50, 1))
    bursty = replace(KNOWN, errors_per_10s=(0, 0, 40, 0, 0, 0, 40, 0, 0, 20) * 6)
    phi = e.burstiness(arr(*bursty.errors_per_10s))
    assert phi > 10
    plain, divided = (judged(ERRORS, block(calm), history)[0] for history in (KNOWN, bursty))
    assert divided.fail * phi == pytest.approx(plain.fail)
    assert divided.passing * phi == pytest.approx(plain.passing)


# --- means


def moments(seed: int, times: float, looks: int = 200) -> Array:
    """``[looks, 6]``: lognormal values, of which the candidate's are ``times`` as large."""
    rng = np.random.default_rng(seed)
    found = np.zeros((looks, 6))
    for i in range(looks):
        for side, n, scale in ((0, 95, 1.0), (3, 5, times)):
            values = 20 * scale * rng.lognormal(0, 0.3, n)
            found[i, side : side + 3] = n, values.sum(), (values**2).sum()
    return found


def baskets(values: Array) -> Block:
    return block(np.tile([95.0, 0, 5, 0], (len(values), 1)), means={"basket": values})


def test_a_mean_says_nothing_before_fifty_events_of_the_candidate() -> None:
    track = judged(replace(ERRORS, metrics=(BASKET,)), baskets(moments(1, 3.0)))[1]
    silent = track.standings["basket"].fail == -math.inf
    assert silent[: BURN_IN // 5 - 1].all()
    assert not silent[BURN_IN // 5 + 5 :].any()
    assert not track.fails[: BURN_IN // 5 - 1].any()
    assert track.fails[-1]


@pytest.mark.parametrize(
    ("times", "direction", "fails"),
    [
        (1.3, Direction.RISE, True),
        (1.3, Direction.DROP, False),
        (1.3, Direction.EITHER, True),
        (0.7, Direction.RISE, False),
        (0.7, Direction.DROP, True),
        (0.7, Direction.EITHER, True),
        (1.0, Direction.EITHER, False),
    ],
)
def test_a_mean_is_harm_only_in_its_direction(times: float, direction: Direction, fails: bool) -> None:
    policy = replace(ERRORS, metrics=(replace(BASKET, direction=direction),))
    _, track = judged(policy, baskets(moments(2, times, 300)))
    assert track.fails[-1] == fails
    assert track.passes[-1] != fails


# --- what decides


def test_a_strict_policy_fails_only_what_is_surely_beyond_the_margin() -> None:
    strict = replace(ERRORS, strict=True)
    barely = np.tile([9500.0, 9.5, 500, 1.1], (600, 1))  # 0.22 % against 0.1 %: beyond the margin, by little
    inside = np.tile([9500.0, 9.5, 500, 0.8], (600, 1))  # 0.16 %: surely worse, and within the margin
    clearly = np.tile([9500.0, 9.5, 500, 5.0], (600, 1))
    assert judged(ERRORS, block(barely), KNOWN)[1].fails.any()
    assert not judged(strict, block(barely), KNOWN)[1].fails.any()
    for policy in (ERRORS, strict):
        assert not judged(policy, block(inside), KNOWN)[1].fails.any()
        assert judged(policy, block(clearly), KNOWN)[1].fails.any()
    assert judged(ERRORS, block(inside), KNOWN)[1].standings["error_rate"].fail[-1] > math.log(100)


def test_of_two_limits_the_higher_one_is_what_a_strict_policy_holds_to() -> None:
    many = np.tile([950.0, 95, 50, 5.9], (600, 1))  # 11.8 % against 10 %: within 1.2 times
    margin_only = replace(ERRORS, strict=True, metrics=(replace(ERROR_RATE, ratio=None),))
    history = replace(KNOWN, errors=60_000)
    assert judged(margin_only, block(many), history)[1].fails.any()
    assert not judged(replace(ERRORS, strict=True), block(many), history)[1].fails.any()


def both(**optional: Any) -> tuple[Analysis, Block]:
    """Errors as good as ever, and a signal of one's own that is as bad as can be."""
    other = Metric("checkout", Shape.RATE, margin=0.01, signal="checkout", **optional)
    good = rows(3, 0.001)
    bad = np.tile([950.0, 1, 50, 25], (600, 1))
    return replace(ERRORS, metrics=(ERROR_RATE, other)), replace(block(good), rates={"": good, "checkout": bad})


def test_a_dry_run_is_judged_and_decides_nothing() -> None:
    policy, given_both = both(dry_run=True)
    _, track = judged(policy, given_both, KNOWN)
    _, alone = judged(ERRORS, block(given_both.rates[""]), KNOWN)
    assert track.standings["checkout"].fail[-1] > 100
    assert (track.total == alone.total).all()
    assert (track.passes == alone.passes).all()
    assert not track.fails.any()


def test_a_metric_that_is_not_required_need_not_pass_but_can_fail() -> None:
    policy, given_both = both(required=False)
    _, track = judged(policy, given_both, KNOWN)
    assert track.fails[-1]
    unknown = replace(given_both, rates={"": given_both.rates[""]})
    assert judged(policy, unknown, KNOWN)[1].passes[-1]
    assert not judged(both()[0], unknown, KNOWN)[1].passes[-1]


@given(st.lists(st.sampled_from(Finding)), st.sampled_from(Finding))
def test_one_more_finding_never_makes_a_verdict_better(found: list[Finding], more: Finding) -> None:
    order = [Finding.FAIL, Finding.NO_DATA, Finding.INCONCLUSIVE, Finding.PASS]
    assert order.index(worst([*found, more])) <= (order.index(worst(found)) if found else 3)
    assert worst(reversed(found)) is worst(found)


@pytest.mark.parametrize("empty", [(0.0, 0.0, 50.0, 5.0), (950.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)])
def test_an_arm_without_requests_is_no_evidence_and_never_a_pass(empty: tuple[float, ...]) -> None:
    judge = Judge(ERRORS, KNOWN)
    state, track = judge.advance(judge.begin(), block(np.tile(empty, (100, 1))))
    assert (state.fail == 0).all()
    assert (state.passing == 0).all()
    assert not track.fails.any()
    assert not track.passes.any()
    assert explain(judge, state, track, Situation(share=0.05))[0].finding is Finding.NO_DATA


def test_looks_that_miss_an_arm_in_between_are_as_if_they_had_not_been() -> None:
    full = rows(6, 0.003, looks=40)
    holes = np.repeat(full, 2, axis=0)
    holes[1::2, 2:] = 0
    holes[1::2, :2] = 0
    dense, sparse = (
        judged(ERRORS, Block(t, {"": r}), KNOWN)[0]
        for t, r in ((np.arange(1.0, 41.0), full), (np.arange(0.5, 40.5, 0.5), holes))
    )
    assert sparse.fail == pytest.approx(dense.fail)


def test_the_budget_of_errors_is_a_cap_whatever_the_baseline_does() -> None:
    incident = rows(7, 0.2, 0.2, looks=120)
    capped = replace(ERRORS, slo=Objective(target=0.999))
    assert not judged(ERRORS, block(incident))[1].fails.any()
    assert judged(capped, block(incident))[1].fails.any()
    spent = judged(replace(ERRORS, slo=Objective(target=0.999, share=1e-6)), block(rows(8, 0.5, looks=60)), KNOWN)[1]
    assert spent.capped.any()
    assert spent.fails[spent.capped].all()
    calm = judged(capped, block(rows(8, 0.001)), KNOWN)[1]
    assert not (calm.fails | calm.capped).any()


def test_a_candidate_that_is_alone_is_held_to_what_the_baseline_never_exceeded() -> None:
    def alone(bad: float) -> Track:
        counted = rows(11, bad, split=1.0)
        counted[:, :2] = 0
        return judged(ERRORS, block(counted), KNOWN, alone=True)[1]

    assert not alone(0.001).fails.any()
    assert when(alone(0.01).fails) < 10
    assert not alone(0.01).passes.any()


def test_what_happens_during_the_warm_up_is_not_held_against_the_candidate() -> None:
    cold = rows(12, 0.001, looks=120)
    cold[:30, 3] = cold[:30, 2]
    patient = replace(ERRORS, warmup=30.0)
    assert judged(ERRORS, block(cold), KNOWN)[1].fails.any()
    _, track = judged(patient, block(cold), KNOWN)
    assert not track.fails.any()
    assert (track.total[:30] == -math.inf).all()


def test_a_step_keeps_the_evidence_of_harm_and_has_to_pass_anew() -> None:
    judge = Judge(ERRORS, KNOWN)
    state, track = judge.advance(judge.begin(), block(rows(13, 0.001)))
    assert track.passes[-1]
    after = state.next_step()
    assert (after.fail == state.fail).all()
    later = Block(np.array([601.0, 602.0]), {"": rows(14, 0.001, looks=2)})
    assert not judge.advance(after, later)[1].passes.any()
    assert judge.advance(state, later)[1].passes.all()


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=2))
@settings(max_examples=10, deadline=None)
def test_the_weights_share_the_budget_of_false_alarms(weights: list[float]) -> None:
    policy, given_both = both()
    policy = replace(policy, metrics=tuple(replace(m, weight=w) for m, w in zip(policy.metrics, weights, strict=True)))
    _, track = judged(policy, given_both, KNOWN)
    parts = [
        np.where(track.standings[m.name].beyond, track.standings[m.name].fail, -math.inf)
        + math.log(m.weight / sum(weights))
        for m in policy.metrics
    ]
    assert track.total == pytest.approx(np.logaddexp(*parts))
    assert (track.fails == (track.total >= math.log(100))).all()
