"""The laws of an experiment's results: what must hold of any exposures and outcomes, before any example."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.experiments.estimates import Decision, Estimate, compare
from crossfade.domain.experiments.intervals import Rule, groups
from crossfade.domain.experiments.plan import Direction, Metric, MetricKind, Plan, Window
from crossfade.domain.experiments.results import Results, analyse
from crossfade.domain.experiments.units import Exposure, Outcome
from tests.domain.experiments.trials import CHECKOUT, REVENUE, VISITS, people, plan

MATURED = Metric("within a while", MetricKind.COUNT, "visit", Direction.DOWN, margin=0.1, window=20.0)
CUPED = Metric("adjusted", MetricKind.MEAN, "checkout", cuped=True)
ALL = plan(CHECKOUT, REVENUE, VISITS, MATURED, CUPED, segments=("country",), began=10.0)
THREE = replace(ALL, treatments=("on", "blue"), weights={"off": 5000, "on": 2500, "blue": 2500})

times = st.integers(0, 100).map(float)
names = st.integers(0, 25).map(lambda i: f"u{i}")
exposures = st.lists(
    st.builds(
        Exposure,
        names,
        st.sampled_from(["off", "on", "on", "off", "else"]),
        times,
        st.sampled_from(["", "r1", "r2", "r10"]),
        st.just("blue"),
        st.dictionaries(st.just("country"), st.sampled_from(["de", "fr", ""])),
    ),
    max_size=40,
)
values = st.integers(-5, 50).map(float)
outcomes = st.lists(
    st.builds(Outcome, names, st.sampled_from(["checkout", "visit", "else"]), times, values), max_size=60
)


def estimates(results: Results) -> list[Estimate]:
    cut = [one for part in results.segments for one in part.estimates]
    return [one for measured in results.metrics for one in measured.estimates] + cut


def near(found: Any, wanted: Any) -> bool:
    """Equal but for rounding, through all levels."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(near(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(near(a, b) for a, b in zip(found, wanted, strict=True))
    if isinstance(wanted, float) and isinstance(found, int | float):
        return math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-7)
    return bool(found == wanted)


def told(results: Results) -> dict[str, Any]:
    """All of the results but the words: a number in them may be rounded to either side."""

    def mute(data: Any) -> Any:
        if isinstance(data, dict):
            return {k: mute(v) for k, v in data.items() if k not in {"sentence", "why", "more", "warnings", "plan"}}
        return [mute(one) for one in data] if isinstance(data, list) else data

    muted: dict[str, Any] = mute(results.to_data())
    return muted


@settings(deadline=None, max_examples=15)
@given(exposures, outcomes, st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_told_does_not_matter(
    given_exposures: list[Exposure], given_outcomes: list[Outcome], chance: Any
) -> None:
    first = analyse(ALL, given_exposures, given_outcomes, 90.0)
    chance.shuffle(given_exposures)
    chance.shuffle(given_outcomes)
    assert near(told(analyse(ALL, given_exposures, given_outcomes, 90.0)), told(first))


@settings(deadline=None, max_examples=30)
@given(exposures, outcomes, st.sampled_from([-1.0, 0.0, 20.0, 90.0, 1e9]))
def test_whatever_is_told_the_results_are_json_and_their_intervals_hold_their_estimates(
    given_exposures: list[Exposure], given_outcomes: list[Outcome], now: float
) -> None:
    results = analyse(THREE, given_exposures, given_outcomes, now)
    json.dumps(results.to_data(), allow_nan=False)
    for one in estimates(results):
        assert 0 <= one.p <= 1
        assert one.sentence
        if one.low is not None and one.high is not None and one.lift is not None:
            assert one.low <= one.lift <= one.high
    for believed in (one for measured in results.metrics for one in measured.beliefs or ()):
        assert 0 <= believed.best <= 1
        assert believed.loss is None or believed.loss >= -1e-12


@settings(deadline=None, max_examples=15)
@given(exposures, outcomes)
def test_an_exposure_told_twice_changes_nothing(given_exposures: list[Exposure], given_outcomes: list[Outcome]) -> None:
    once = analyse(ALL, given_exposures, given_outcomes, 90.0)
    twice = analyse(ALL, given_exposures * 2, given_outcomes, 90.0)
    for part in ("metrics", "sample_ratio", "segments", "releases", "course", "winner"):
        assert near(told(twice)[part], told(once)[part])


@settings(deadline=None, max_examples=30)
@given(exposures, outcomes, st.lists(st.tuples(times, st.integers(1, 40)), min_size=1, max_size=4))
def test_an_excluded_window_is_as_if_nothing_had_come_in_it(
    given_exposures: list[Exposure], given_outcomes: list[Outcome], windows: list[tuple[float, int]]
) -> None:
    """Units first seen in it are gone, and of the others all that they did or were given then."""
    excluded = tuple(Window(begin, begin + long, "incident") for begin, long in windows)

    def out(at: float) -> bool:
        return any(window.holds(at) for window in excluded)

    counts = [one for one in given_exposures if one.at >= ALL.began and one.variant in ALL.variants and one.at <= 90]
    first: dict[str, float] = {}
    for one in counts:
        first[one.unit] = min(one.at, first.get(one.unit, math.inf))
    gone = {unit for unit, at in first.items() if out(at)}
    left = [one for one in given_exposures if one.unit not in gone and not out(one.at)]
    kept = [one for one in given_outcomes if one.unit not in gone and not out(one.at)]
    with_window = analyse(replace(ALL, excluded=excluded), given_exposures, given_outcomes, 90.0)
    without = analyse(ALL, left, kept, 90.0)
    for part in ("metrics", "sample_ratio", "segments", "releases", "course", "winner"):
        assert near(told(with_window)[part], told(without)[part])
    assert with_window.counted.excluded_units == len(gone)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from([REVENUE, CHECKOUT, VISITS, MATURED, CUPED]))
def test_the_course_is_what_would_have_been_said_at_each_moment(seed: int, metric: Metric) -> None:
    all_exposures, all_outcomes = crowd(seed)
    results = analyse(plan(replace(metric, primary=True)), all_exposures, all_outcomes, 100.0)
    for look in results.course[:: max(1, len(results.course) // 5)]:
        then = analyse(plan(replace(metric, primary=True)), all_exposures, all_outcomes, look.at)
        (one,) = then.primary.estimates
        assert look.units == one.n + one.control_n
        assert near(
            [look.lift, look.low, look.high, look.relative, look.relative_low, look.relative_high],
            [one.lift, one.low, one.high, one.relative, one.relative_low, one.relative_high],
        )


def crowd(seed: int, n: int = 400) -> tuple[list[Exposure], list[Outcome]]:
    """Enough units that means may be compared."""
    chance = np.random.default_rng(seed)
    came = [Exposure(f"u{i}", str(chance.choice(["on", "off"])), float(chance.uniform(10, 60))) for i in range(n)]
    did = [
        Outcome(f"u{chance.integers(n)}", str(event), float(chance.uniform(0, 100)), float(chance.lognormal()))
        for event in chance.choice(["checkout", "visit"], 3 * n)
    ]
    return came, did


SEEDS = st.integers(0, 2**32)


@settings(deadline=None, max_examples=15)
@given(SEEDS, st.sampled_from([5, 400]))
def test_when_the_arms_swap_all_is_mirrored(seed: int, n: int) -> None:
    came, did = crowd(seed, n)
    metrics = (CHECKOUT, REVENUE, VISITS, CUPED)
    one_way = analyse(plan(*metrics), came, did, 100.0)
    other = analyse(plan(*metrics, control="on", treatments=("off",)), came, did, 100.0)
    for a, b in zip(one_way.metrics, other.metrics, strict=True):
        (mine,), (its,) = a.estimates, b.estimates
        assert near([mine.mean, mine.n, mine.p], [its.control_mean, its.control_n, its.p])
        for side, against in ((mine.low, its.high), (mine.lift, its.lift), (mine.high, its.low)):
            assert side is None or near(-side, against)
        for side, against in ((mine.relative_low, its.relative_high), (mine.relative_high, its.relative_low)):
            if side is not None and against is not None and 1 + side > 1e-9:
                assert near(1 / (1 + side), 1 + against)
        if a.beliefs and b.beliefs:
            assert near(a.beliefs[1].better, 1 - (b.beliefs[1].better or 0.0))
    mirror = {Decision.BETTER: Decision.WORSE, Decision.WORSE: Decision.BETTER}
    verdict, opposite = one_way.primary.estimates[0].decision, other.primary.estimates[0].decision
    assert verdict == mirror.get(opposite, opposite)


@settings(deadline=None, max_examples=15)
@given(SEEDS, st.sampled_from([0.001, 0.5, 7.0, 1e6]))
def test_another_unit_of_value_scales_the_difference_and_leaves_all_else(seed: int, times_as_much: float) -> None:
    came, did = crowd(seed)
    scaled = [replace(one, value=one.value * times_as_much) for one in did]
    for metric in (REVENUE, CUPED):
        (a,) = analyse(plan(metric), came, did, 100.0).primary.estimates
        (b,) = analyse(plan(metric), came, scaled, 100.0).primary.estimates
        assert near(
            [b.relative, b.relative_low, b.relative_high, b.p, b.decision, b.saved],
            [a.relative, a.relative_low, a.relative_high, a.p, a.decision, a.saved],
        )
        assert (a.lift, a.low) != (None, None)
        assert math.isclose(b.lift or 0.0, (a.lift or 0.0) * times_as_much, rel_tol=1e-6)
        assert math.isclose(b.low or 0.0, (a.low or 0.0) * times_as_much, rel_tol=1e-6)


@settings(deadline=None, max_examples=15)
@given(SEEDS)
def test_a_metric_that_is_better_below_says_worse_where_the_other_says_better(seed: int) -> None:
    came, did = crowd(seed, 900)
    did += [Outcome(one.unit, "checkout", 99.0, 3.0) for one in came if one.variant == "on"]
    (up,) = analyse(plan(REVENUE), came, did, 100.0).primary.estimates
    (down,) = analyse(plan(replace(REVENUE, direction=Direction.DOWN)), came, did, 100.0).primary.estimates
    assert (up.decision, down.decision) == (Decision.BETTER, Decision.WORSE)
    assert (up.low, up.high, up.p) == (down.low, down.high, down.p)


def rules() -> st.SearchStrategy[Rule]:
    return st.builds(Rule, st.floats(1e-6, 0.5), st.floats(100, 1e9))


@settings(deadline=None, max_examples=200)
@given(rules(), SEEDS, st.sampled_from(MetricKind), st.booleans())
def test_zero_is_outside_an_interval_exactly_when_the_evidence_against_it_suffices(
    rule: Rule, seed: int, kind: MetricKind, cuped: bool
) -> None:
    """Absolute, relative and p never contradict each other."""
    found = compare(groups(sums(seed), kind, cuped), rule)
    outside = (found.lift.low > 0) | (found.lift.high < 0)
    beyond = found.lift.log_e - math.log(1 / rule.alpha)
    clear = np.abs(beyond) > 1e-6
    assert (outside[clear] == (beyond[clear] > 0)).all()
    _, low, high = found.relative
    usual = clear & ~found.lift.exact & np.isfinite(low)
    assert ((low > 0) | (high < 0))[usual].tolist() == outside[usual].tolist()


def sums(seed: int, looks: int = 5) -> Any:
    chance = np.random.default_rng(seed)
    found = np.zeros((looks, 2, 7))
    n = int(chance.choice([30, 300, 3000]))
    for arm, rate in enumerate(chance.uniform(0.01, 0.6, 2)):
        x = (chance.random((looks, n)) < rate).astype(float)
        y = np.where(chance.random((looks, n)) < 0.5, x, (chance.random((looks, n)) < rate).astype(float))
        found[:, arm] = np.stack([np.ones_like(y), y, y, y, x, x, x * y], axis=-1).sum(axis=1)
    return found


@given(rules(), st.integers(1, 10**9))
def test_a_smaller_risk_makes_a_wider_interval(rule: Rule, n: int) -> None:
    units = np.array([float(n)])
    assert Rule(rule.alpha / 2, rule.planned * Rule(rule.alpha / 2, 1).best / rule.best).reach(units) > rule.reach(
        units
    )


@given(rules())
def test_the_interval_is_narrowest_for_its_number_of_units_where_it_was_planned_to_be(rule: Rule) -> None:
    """No other prior gives a narrower one there: Waudby-Smith et al., appendix B.2, the best prior."""
    at = np.array([rule.planned])
    others: Sequence[float] = (0.2, 0.5, 0.8, 0.95, 1.05, 1.2, 2.0, 5.0)
    assert all(Rule(rule.alpha, rule.planned * other).reach(at) > rule.reach(at) for other in others)


@pytest.mark.parametrize("excluded", [(), (Window(200.0, 300.0, "rollout"),)])
def test_an_incident_of_one_variant_is_gone_with_its_window(excluded: tuple[Window, ...]) -> None:
    came, did = people(3000, {"off": 0.2, "on": 0.2})
    broken = [one for one in did if not (one.unit.startswith("on") and 200 <= one.at < 300)]
    (one,) = analyse(plan(began=0.0, excluded=excluded), came, broken, 2000.0).primary.estimates
    assert one.lift is not None
    assert (abs(one.lift) < 0.01) == bool(excluded)


def plans() -> list[Plan]:
    return [ALL, THREE, plan()]


@pytest.mark.parametrize("one", plans())
def test_nothing_at_all_is_a_result_too(one: Plan) -> None:
    results = analyse(one, [], [], 0.0)
    assert results.winner is None
    assert "no units yet" in results.why
    assert results.course == ()
    json.dumps(results.to_data(), allow_nan=False)
