"""What is said of an experiment: who wins, what is missing, what is left out, and which of two changes harms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from crossfade.domain.experiments.estimates import Decision
from crossfade.domain.experiments.plan import Direction, Metric, MetricKind, Window
from crossfade.domain.experiments.releases import Blame
from crossfade.domain.experiments.results import LOOKS, Results, analyse
from crossfade.domain.experiments.srm import Split
from crossfade.domain.experiments.units import MOST_VALUES, NONE, OTHERS, Exposure, Outcome
from tests.domain.experiments.trials import CHECKOUT, REVENUE, VISITS, people, plan

ERRORS = Metric("errors", MetricKind.COUNT, "error", Direction.DOWN, margin=0.05)
NOW = 2000.0


def test_the_better_page_wins_and_the_sentence_has_its_numbers() -> None:
    results = analyse(plan(), *people(5000, {"off": 0.10, "on": 0.13}), NOW)
    (one,) = results.primary.estimates
    assert results.winner == "on"
    assert one.decision is Decision.BETTER
    assert one.low is not None
    assert one.low > 0
    assert one.sentence.startswith(
        "checkout: on 13 % (650 of 5,000) against 10 % (500 of 5,000) with off; the difference is "
    )
    assert one.sentence.endswith(" with 95 % confidence at every moment: better")
    assert results.why == f"on: {one.sentence}"
    believed = (results.primary.beliefs or ())[1]
    assert believed.better == pytest.approx(1.0, abs=1e-3)
    assert results.sample_ratio.finding is Split.OK


def test_the_worse_page_loses_and_the_control_stays() -> None:
    results = analyse(plan(), *people(5000, {"off": 0.13, "on": 0.10}), NOW)
    assert results.winner == "off"
    assert results.primary.estimates[0].decision is Decision.WORSE


def test_no_difference_beyond_the_margin_is_an_answer_too() -> None:
    wide = replace(CHECKOUT, margin=0.2)
    results = analyse(plan(wide), *people(6000, {"off": 0.3, "on": 0.302}), NOW)
    (one,) = results.primary.estimates
    assert one.decision is Decision.SAME
    assert one.sentence.endswith(": no difference beyond 20 %")
    assert results.winner is None
    assert results.why.startswith("nobody, it does not matter: ")


def test_what_is_not_decided_says_how_many_more_units_it_takes_and_they_do_suffice() -> None:
    few = analyse(plan(), *people(2000, {"off": 0.10, "on": 0.12}), NOW).primary.estimates[0]
    assert few.decision is Decision.UNDECIDED
    assert few.more is not None
    assert "more units in all would decide it if it stays like this" in few.sentence
    enough = math.ceil((few.more + 4000) / 2 * 1.01)
    assert analyse(plan(), *people(enough, {"off": 0.10, "on": 0.12}), NOW).winner == "on"
    short = math.floor((few.more + 4000) / 2 * 0.95)
    assert analyse(plan(), *people(short, {"off": 0.10, "on": 0.12}), NOW).winner is None


def test_without_a_difference_and_without_a_margin_no_number_of_units_decides() -> None:
    one = analyse(plan(replace(CHECKOUT, margin=0.0)), *people(2000, {"off": 0.1, "on": 0.1}), NOW).primary.estimates[0]
    assert one.more is None
    assert "give a margin" in one.sentence


def test_means_say_nothing_before_there_are_fifty_events() -> None:
    results = analyse(plan(REVENUE), *people(200, {"off": 0.1, "on": 0.1}, value=30.0), NOW)
    (one,) = results.primary.estimates
    assert (one.low, one.high, one.p, results.primary.beliefs) == (None, None, 1.0, None)
    assert "too early to say: 20 of 50 events; about 600 more units" in one.sentence


def test_conversions_have_an_exact_interval_from_the_first_unit() -> None:
    (one,) = analyse(plan(), *people(20, {"off": 0.5, "on": 0.0}), NOW).primary.estimates
    assert one.exact
    assert one.low is not None
    assert one.high is not None
    assert -1 <= one.low < -0.5 < one.high <= 1
    assert "exactly" in one.sentence
    (broken,) = analyse(plan(), *people(100, {"off": 0.5, "on": 0.0}), NOW).primary.estimates
    assert broken.decision is Decision.WORSE


def test_a_guardrail_that_is_worse_withholds_the_prize() -> None:
    came, did = people(5000, {"off": 0.10, "on": 0.13})
    chance = np.random.default_rng(1)
    faults = [
        Outcome(one.unit, "error", one.at + 1)
        for one in came
        for _ in range(chance.poisson(0.3 if one.variant == "on" else 0.2))
    ]
    results = analyse(plan(CHECKOUT, ERRORS), came, did + faults, NOW)
    assert results.winner is None
    assert "on is better by checkout, but errors is worse (+" in results.why
    assert analyse(plan(CHECKOUT, VISITS), came, did + faults, NOW).winner == "on"


def test_of_several_treatments_the_best_is_named_and_the_risk_is_shared() -> None:
    three = plan(treatments=("on", "blue"), weights={"off": 4000, "on": 3000, "blue": 3000})
    rates = {"off": 0.10, "on": 0.14, "blue": 0.15}
    came, did = people(3000, rates)
    more = [Exposure(f"extra-{i}", "off", float(i)) for i in range(1000)]
    results = analyse(three, came + more, did + [Outcome(f"extra-{i}", "checkout", 1500.0) for i in range(100)], NOW)
    assert results.winner == "blue"
    assert "on too; blue by the largest difference, which is not surely so" in results.why
    assert "95 % confidence for the 2 treatments together" in results.why
    alone = analyse(plan(), [one for one in came if one.variant != "blue"], did, NOW).primary.estimates[0]
    shared = results.primary.estimates[0]
    assert alone.lift == pytest.approx(shared.lift)
    beliefs = results.primary.beliefs or ()
    assert sum(one.best for one in beliefs) == pytest.approx(1)
    assert [one.variant for one in beliefs] == ["off", "on", "blue"]


# --- CUPED


def test_what_units_did_before_makes_the_interval_narrower() -> None:
    chance = np.random.default_rng(4)
    came, did = [], []
    for i in range(4000):
        unit, eager = f"u{i}", float(chance.gamma(1.0))
        came.append(Exposure(unit, "on" if i % 2 else "off", 100.0 + i / 10))
        did += [Outcome(unit, "visit", 50.0) for _ in range(chance.poisson(8 * eager))]
        did += [Outcome(unit, "visit", 900.0) for _ in range(chance.poisson(4 * eager))]
    (plain,) = analyse(plan(VISITS), came, did, NOW).primary.estimates
    (adjusted,) = analyse(plan(replace(VISITS, cuped=True)), came, did, NOW).primary.estimates
    assert plain.saved is None
    assert adjusted.saved is not None
    # y = 4g + noise, x = 8g + noise: the square of their correlation is (4·8)²/((16 + 4)(64 + 8)) = 0.71.
    assert adjusted.saved == pytest.approx(0.71, abs=0.04)
    assert None not in (plain.low, plain.high, adjusted.low, adjusted.high)
    wide, narrow = ((one.high or 0) - (one.low or 0) for one in (plain, adjusted))
    assert narrow / wide == pytest.approx(math.sqrt(1 - adjusted.saved), rel=0.01)
    assert (plain.mean, plain.control_mean) == (adjusted.mean, adjusted.control_mean)
    assert "CUPED took out 7" in adjusted.sentence


# --- what is counted


def test_units_with_two_variants_are_left_out_and_counted() -> None:
    came, did = people(1000, {"off": 0.1, "on": 0.1})
    crossed = [Exposure(f"off-{i}", "on", 999.0) for i in range(50)]
    results = analyse(plan(), came + crossed, did, NOW)
    assert (results.counted.units, results.counted.crossovers) == (1950, 50)
    assert any("were given more than one variant" in warning for warning in results.warnings)
    # While the flag was killed everybody got the control: such a window makes nobody a crossover.
    killed = plan(excluded=(Window(998.5, 999.5, "killed"),))
    assert analyse(killed, came + crossed, did, NOW).counted.crossovers == 0


def test_what_cannot_be_counted_is_told() -> None:
    came = [
        Exposure("a", "on", 10.0),
        Exposure("b", "off", 10.0),
        Exposure("c", "green", 10.0),
        Exposure("d", "on", math.nan),
        Exposure("", "on", 10.0),
        Exposure("e", "on", 5000.0),
        Exposure("f", "on", 0.5),
        Exposure("g", "on", 1800.0),
    ]
    did = [
        Outcome("a", "checkout", 11.0),
        Outcome("a", "checkout", 11.0, math.nan),
        Outcome("a", "checkout", 11.0, math.inf),
        Outcome("a", "checkout", math.inf),
        Outcome("a", "checkout", 5000.0),
        Outcome("a", "else", 11.0),
        Outcome("c", "checkout", 11.0),
    ]
    results = analyse(plan(began=1.0, ends=1700.0), came, did, NOW)
    seen = results.counted
    assert seen.units == 2
    assert seen.unknown_variants == {"green": 1}
    assert (seen.exposures, seen.outside, seen.future, seen.unusable) == (8, 2, 2, 5)
    assert (seen.outcomes, seen.other_events, seen.strangers) == (7, 1, 1)
    assert any("green (1)" in warning for warning in results.warnings)
    assert any("from the future" in warning for warning in results.warnings)


def test_a_unit_counts_when_its_window_is_over_and_by_what_it_did_in_it() -> None:
    metric = Metric("soon", MetricKind.COUNT, "visit", window=10.0, primary=True)
    came = [Exposure("a", "on", 100.0), Exposure("b", "off", 100.0), Exposure("c", "on", 195.0)]
    did = [Outcome("a", "visit", t) for t in (99.0, 100.0, 105.0, 110.0, 110.5)]
    results = analyse(plan(metric), came, did, 200.0)
    assert (results.primary.units, results.primary.waiting) == (2, 1)
    assert results.primary.estimates[0].mean == 3.0


def test_after_its_end_an_experiment_counts_nobody_new_but_what_was_begun() -> None:
    came = [Exposure("a", "on", 100.0), Exposure("b", "off", 100.0), Exposure("c", "on", 160.0)]
    did = [Outcome("a", "visit", 155.0)]
    windowed = Metric("soon", MetricKind.COUNT, "visit", window=60.0, primary=True)
    ends = plan(windowed, ends=150.0)
    assert analyse(ends, came, did, 1000.0).primary.estimates[0].mean == 1.0
    ends = plan(replace(windowed, window=None), ends=150.0)
    assert analyse(ends, came, did, 1000.0).primary.estimates[0].mean == 0.0
    assert analyse(ends, came, did, 1000.0).course[-1].at == 150.0


def test_a_split_that_is_not_what_the_weights_say_withholds_the_prize() -> None:
    came, did = people(5000, {"off": 0.10, "on": 0.14})
    lost = [one for i, one in enumerate(came) if one.variant == "off" or i % 10]
    results = analyse(plan(), lost, did, NOW)
    assert results.sample_ratio.finding is Split.MISMATCH
    assert results.winner is None
    assert "off 52.6 % of 9,500 units instead of 50 %" in results.why
    assert results.why in {f"nobody: {warning}" for warning in results.warnings}
    assert analyse(plan(weights={"off": 10_000, "on": 9000}), lost, did, NOW).winner == "on"


def test_a_share_that_was_changed_on_the_way_is_told() -> None:
    came = [Exposure(f"u{i}", "on" if i % (10 if i < 1000 else 2) == 0 else "off", float(i)) for i in range(2000)]
    results = analyse(plan(weights={"off": 1400, "on": 600}), came, [], NOW)
    assert any("units of on came later than those of off" in warning for warning in results.warnings)


# --- segments, course


def test_segments_are_shown_by_value_and_called_exploratory() -> None:
    came, did = people(3000, {"off": 0.10, "on": 0.12})
    came = [replace(one, attributes={"country": "de" if i % 3 else ""}) for i, one in enumerate(came)]
    results = analyse(plan(segments=("country", "device")), came, did, NOW)
    assert [(one.attribute, one.value, one.units) for one in results.segments] == [
        ("country", "de", 4000),
        ("country", NONE, 2000),
        ("device", NONE, 6000),
    ]
    data = results.to_data()["segments"]
    assert all(one["exploratory"] for one in data)
    whole = results.segments[2].estimates[0]
    assert (whole.lift, whole.low) == (results.primary.estimates[0].lift, results.primary.estimates[0].low)


def test_of_many_values_the_rarest_are_one() -> None:
    came, did = people(200, {"off": 0.1, "on": 0.1})
    came = [replace(one, attributes={"id": str(i % 50)}, release=f"r{i % 50 + 1}") for i, one in enumerate(came)]
    results = analyse(plan(segments=("id",)), came, did, NOW)
    assert len(results.segments) == MOST_VALUES
    assert results.segments[-1].value == OTHERS
    assert sum(one.units for one in results.segments) == 400
    # Of releases the oldest are one: the newest is what one wants to know about.
    assert results.releases.cells[-1].release == "r50"
    assert results.releases.cells[0].release == OTHERS


def test_the_course_ends_where_the_estimate_is() -> None:
    results = analyse(plan(), *people(2000, {"off": 0.10, "on": 0.12}), NOW)
    assert len(results.course) == LOOKS
    last, (one,) = results.course[-1], results.primary.estimates
    assert last.at == NOW
    assert (last.lift, last.low, last.high) == (one.lift, one.low, one.high)


# --- release by variant


def crossed(rates: dict[tuple[str, str], float], n: int = 2500, beside: bool = True) -> Results:
    """Units of each release and variant, of which so many convert."""
    came: list[Exposure] = []
    did: list[Outcome] = []
    for (release, variant), rate in rates.items():
        begin = 0.0 if beside or release == "r1" else 500.0
        more, done = people(n, {variant: rate}, seed=len(came), last=400.0)
        came += [replace(one, unit=f"{release}{one.unit}", at=one.at + begin, release=release) for one in more]
        did += [replace(one, unit=f"{release}{one.unit}", at=one.at + begin) for one in done]
    return analyse(plan(), came, did, NOW)


@pytest.mark.parametrize(
    ("new_on", "new_off", "old_on", "old_off", "blame", "words"),
    [
        (0.30, 0.30, 0.30, 0.30, Blame.NOTHING, "No harm is sure"),
        (0.20, 0.30, 0.20, 0.30, Blame.VARIANT, "take back on, r2 may stay"),
        (0.20, 0.20, 0.30, 0.30, Blame.RELEASE, "take back r2, on may stay"),
        (0.10, 0.20, 0.20, 0.30, Blame.BOTH, "take back both"),
        (0.15, 0.30, 0.30, 0.30, Blame.TOGETHER, "take back on first, which is quicker"),
        (0.00, 0.30, 0.30, 0.30, Blame.TOGETHER, "on in r2 0 % (0 of 2,500)"),
    ],
)
def test_release_by_variant_tells_which_one_to_take_back(
    new_on: float, new_off: float, old_on: float, old_off: float, blame: Blame, words: str
) -> None:
    results = crossed({("r2", "on"): new_on, ("r2", "off"): new_off, ("r1", "on"): old_on, ("r1", "off"): old_off})
    (crossing,) = results.releases.crossings
    assert crossing.blame is blame
    assert words in crossing.sentence
    assert [(cell.release, cell.variant, cell.units) for cell in results.releases.cells] == [
        ("r1", "off", 2500),
        ("r1", "on", 2500),
        ("r2", "off", 2500),
        ("r2", "on", 2500),
    ]
    wanted = (new_on - new_off) - (old_on - old_off)
    assert crossing.effects["together"].estimate == pytest.approx(wanted, abs=1e-3)


def test_units_of_a_newer_release_that_had_less_time_are_no_worse_for_it() -> None:
    """All convert after a while: without a window in common the newest release would look broken."""
    came = [Exposure(f"u{i}", "on" if i % 2 else "off", i / 10, "r1" if i < 10_000 else "r2") for i in range(20_000)]
    did = [Outcome(one.unit, "checkout", one.at + 10 * (i % 97)) for i, one in enumerate(came) if i % 3]
    results = analyse(plan(), came, did, 2000.0)
    assert results.releases.window == pytest.approx(500.0)
    (crossing,) = results.releases.crossings
    assert crossing.blame is Blame.NOTHING


def test_a_release_that_came_later_is_blamed_with_a_warning() -> None:
    rates = {("r2", "on"): 0.2, ("r2", "off"): 0.2, ("r1", "on"): 0.3, ("r1", "off"): 0.3}
    assert "came later than the others" in crossed(rates, beside=False).releases.crossings[0].sentence
    assert "came later" not in crossed(rates).releases.crossings[0].sentence


def test_one_release_is_compared_with_none() -> None:
    results = crossed({("r1", "on"): 0.2, ("r1", "off"): 0.2}, n=100)
    assert results.releases.crossings == ()
    assert len(results.releases.cells) == 2


def test_many_units_are_analysed_at_once() -> None:
    """By their sums, so that nothing grows with the square of their number: the test's own limit would tell."""
    chance = np.random.default_rng(1)
    n = 20_000
    came = [Exposure(f"u{i}", "on" if one else "off", float(i)) for i, one in enumerate(chance.integers(0, 2, n))]
    units, at = chance.integers(0, n, 2 * n).tolist(), chance.uniform(0, n, 2 * n).tolist()
    did = [Outcome(f"u{u}", "checkout", t) for u, t in zip(units, at, strict=True)]
    results = analyse(plan(CHECKOUT, REVENUE, VISITS), came, did, float(n))
    assert results.counted.units == n
    assert results.counted.outcomes == 2 * n
