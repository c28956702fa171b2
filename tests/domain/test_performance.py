"""The decision over paired blocks: its laws, and how often it is wrong."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.analysis.verdict import Finding
from crossfade.domain.pipeline.performance import Pair, changes, decide, looks

MARGINS = {"p50": 0.05}
LATENCIES = st.floats(0.0005, 5.0)
PAIRS = st.lists(
    st.builds(lambda r, a, b: Pair(r, {"p50": a}, {"p50": b}), st.integers(1, 4), LATENCIES, LATENCIES),
    min_size=2,
    max_size=40,
)


@given(PAIRS, st.floats(0.01, 100.0))
def test_a_machine_that_is_faster_or_slower_for_both_changes_nothing(pairs: list[Pair], factor: float) -> None:
    scaled = [Pair(p.restart, {"p50": p.before["p50"] * factor}, {"p50": p.after["p50"] * factor}) for p in pairs]
    (one,), (other,) = changes(pairs, MARGINS, 0.05), changes(scaled, MARGINS, 0.05)
    assert math.isclose(one.mean, other.mean, rel_tol=1e-6, abs_tol=1e-9)


@given(PAIRS)
def test_what_is_slower_one_way_is_faster_the_other(pairs: list[Pair]) -> None:
    turned = [Pair(pair.restart, pair.after, pair.before) for pair in pairs]
    (one,), (other,) = changes(pairs, MARGINS, 0.05), changes(turned, MARGINS, 0.05)
    assert math.isclose(math.log1p(one.mean), -math.log1p(other.mean), abs_tol=1e-9)


@given(PAIRS, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_wider_margin_never_makes_a_release_fail_that_passed(pairs: list[Pair], small: float, more: float) -> None:
    (narrow,), (wide,) = (changes(pairs, {"p50": margin}, 0.05) for margin in (small, small + more))
    order = [Finding.FAIL, Finding.INCONCLUSIVE, Finding.PASS]
    assert order.index(wide.finding) >= order.index(narrow.finding)


@given(PAIRS, PAIRS)
def test_one_quantile_that_fails_is_enough_and_none_passes_for_another(one: list[Pair], other: list[Pair]) -> None:
    both = [
        Pair(a.restart, {**a.before, "p95": b.before["p50"]}, {**a.after, "p95": b.after["p50"]})
        for a, b in zip(one, other, strict=False)
    ]
    found = changes(both, {"p50": 0.05, "p95": 0.05}, 0.05)
    outcome = decide(both, {"p50": 0.05, "p95": 0.05}, 0.05, last=True, inconclusive_passes=False, block=1.0)
    assert outcome is not None
    assert outcome.passed == all(change.finding is Finding.PASS for change in found)
    assert (outcome.finding == "fail") == any(change.finding is Finding.FAIL for change in found)


def test_no_pairs_are_no_data_and_pairs_that_do_not_count_are_inconclusive() -> None:
    none = decide([], MARGINS, 0.05, last=True, inconclusive_passes=True, block=1.0)
    assert none is not None and (none.passed, none.finding) == (False, "no-data")
    void = [Pair(1, {"p50": 1.0}, {"p50": 1.0}, "late")] * 5 + [Pair(1, {"p50": 1.0}, {"p50": 1.01})] * 2
    busy = decide(void, MARGINS, 0.05, last=True, inconclusive_passes=False, block=1.0)
    assert busy is not None and busy.finding == "inconclusive" and "too busy" in busy.sentence
    assert decide(void, MARGINS, 0.05, last=False, inconclusive_passes=False, block=1.0) is None or not busy.passed


def simulated(chance: random.Random, effect: float, spread: float, restarts: float) -> str:
    """One run of at most three looks, with blocks as they were measured (pipeline notes: s = 0.02 to 0.04 at p50, p95)."""
    pairs: list[Pair] = []
    shift = 0.0
    fixed = looks(20, 80)
    for number, target in enumerate(fixed):
        while len(pairs) < target:
            restart = len(pairs) // 7
            if len(pairs) % 7 == 0:
                shift = chance.gauss(0, restarts)
            ratio = math.exp(effect + shift + chance.gauss(0, spread))
            pairs.append(Pair(restart, {"p50": 0.01}, {"p50": 0.01 * ratio}))
        outcome = decide(pairs, MARGINS, 0.05, last=number == len(fixed) - 1, inconclusive_passes=False, block=1.0)
        if outcome is not None:
            return outcome.finding
    raise AssertionError("the last look decides")


def test_identical_code_fails_in_less_than_one_run_of_twenty_and_ten_percent_are_found_in_nineteen() -> None:
    chance = random.Random(7)
    same = [simulated(chance, 0.0, 0.04, 0.01) for _ in range(300)]
    slower = [simulated(chance, math.log(1.10), 0.02, 0.005) for _ in range(300)]
    # Also where the restarts differ by more than the blocks do.
    uneven = [simulated(chance, 0.0, 0.02, 0.03) for _ in range(300)]
    assert same.count("fail") <= 15 and uneven.count("fail") <= 15, (same.count("fail"), uneven.count("fail"))
    assert slower.count("fail") >= 285, slower.count("fail")
