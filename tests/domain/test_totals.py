"""Totals and what happened between two of them: the laws of counters that begin again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.analysis.policy import Source
from crossfade.domain.analysis.sample import Histogram, Moments
from crossfade.domain.analysis.totals import Totals, bucket, contradiction, increase, since
from crossfade.domain.errors import Unavailable

RATE = Source("http", requests="r", errors="e")
HISTOGRAM = Source("latency", histogram="h")
MEAN = Source("basket", count="n", sum="s", sum_squares="q")
GAUGE = Source("queue", value="v")

COUNTS = st.integers(0, 10**9).map(float)
SERIES = st.sampled_from(("a", "b", "c"))
READINGS = st.builds(
    lambda requests, errors: Totals({"requests": requests, "errors": errors}),
    st.dictionaries(SERIES, COUNTS),
    st.dictionaries(SERIES, COUNTS),
)


def rates(requests: float, errors: float, series: str = "") -> Totals:
    return Totals({"requests": {series: requests}, "errors": {series: errors}})


def over(readings: Sequence[Totals]) -> dict[str, float]:
    """The sums of all increments over a sequence of readings."""
    known, sums = readings[0], {"requests": 0.0, "errors": 0.0}
    for reading in readings[1:]:
        for name, more in increase(reading, known).items():
            sums[name] += more
        known = reading.after(known)
    return sums


@given(st.lists(READINGS, min_size=2))
def test_no_increment_is_ever_negative(readings: list[Totals]) -> None:
    known = readings[0]
    for reading in readings[1:]:
        assert all(more >= 0 for more in increase(reading, known).values())
        known = reading.after(known)


@given(READINGS)
def test_the_same_reading_again_adds_nothing(reading: Totals) -> None:
    assert set(increase(reading, reading).values()) <= {0.0}
    assert reading.after(reading) == reading


@given(st.lists(st.dictionaries(SERIES, st.integers(0, 1000)), min_size=1), st.data())
def test_increments_are_the_same_however_a_stretch_without_restarts_is_cut(
    steps: list[dict[str, int]], data: st.DataObject
) -> None:
    counts = dict.fromkeys(("a", "b", "c"), 0.0)
    readings = [Totals({"requests": dict(counts), "errors": {}})]
    for step in steps:
        for one, more in step.items():
            counts[one] += more
        readings.append(Totals({"requests": dict(counts), "errors": {}}))
    kept = [r for r in readings[1:-1] if data.draw(st.booleans())]
    assert over([readings[0], *kept, readings[-1]]) == over(readings)
    assert over(readings)["requests"] == sum(sum(step.values()) for step in steps)


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=1))
def test_what_is_counted_between_restarts_is_counted_once_when_each_restart_is_seen(
    lives: list[tuple[int, bool]],
) -> None:
    count, total = 0.0, 0.0
    readings = [rates(0, 0)]
    for more, restarts in lives:
        if restarts:
            count = 0.0
            readings.append(rates(0, 0))
        count += more
        total += more
        readings.append(rates(count, 0))
    assert over(readings)["requests"] == total


@given(st.lists(READINGS, min_size=2), SERIES)
def test_a_series_that_vanishes_and_comes_back_is_not_counted_twice(readings: list[Totals], gone: str) -> None:
    def without(reading: Totals) -> Totals:
        return Totals({n: {s: c for s, c in series.items() if s != gone} for n, series in reading.counters.items()})

    first, last = rates(0, 0, gone).after(readings[0]), rates(7, 3, gone)
    away = [without(reading) for reading in readings[1:]]
    known = first
    for reading in away:
        known = reading.after(known)
    new = increase(last, known)
    assert (new["requests"], new["errors"]) == (7, 3)


@given(READINGS)
def test_totals_survive_json(reading: Totals) -> None:
    gauge = Totals(reading.counters, 1.5, 12.0)
    for totals in (reading, gauge):
        assert Totals.from_data(json.loads(json.dumps(totals.to_data(), allow_nan=False))) == totals


def test_a_series_seen_for_the_first_time_after_the_first_reading_counts_from_zero() -> None:
    known = rates(10, 1, "old")
    later = Totals({"requests": {"old": 12.0, "new": 5.0}, "errors": {"old": 1.0}})
    assert increase(later, known) == {"requests": 7.0, "errors": 0.0}


def test_a_smaller_counter_began_again_and_so_did_the_others_of_its_process() -> None:
    # The requests have overtaken their old count since the restart: only the errors show that there was one.
    assert increase(rates(10, 4), rates(9, 5)) == {"requests": 10.0, "errors": 4.0}
    other = Totals({"requests": {"a": 10.0, "b": 20.0}, "errors": {"a": 1.0}})
    known = Totals({"requests": {"a": 8.0, "b": 15.0}, "errors": {"a": 3.0}})
    assert increase(other, known) == {"requests": 15.0, "errors": 1.0}


def test_all_buckets_of_a_histogram_begin_again_together() -> None:
    known = Totals({bucket(0.1): {"": 2.0}, bucket(math.inf): {"": 50.0}})
    later = Totals({bucket(0.1): {"": 3.0}, bucket(math.inf): {"": 4.0}})
    assert since(HISTOGRAM, later, known).histograms == {"latency": Histogram((100.0,), (3.0, 1.0))}


def test_a_rate_is_events_and_bad_ones() -> None:
    assert since(RATE, rates(30, 3), rates(10, 1)).rates == {"http": (20.0, 2.0)}


def test_errors_that_do_not_exist_yet_are_none() -> None:
    known = Totals({"requests": {"a": 5.0}, "errors": {}})
    later = Totals({"requests": {"a": 9.0}, "errors": {}})
    assert since(RATE, later, known).rates == {"http": (4.0, 0.0)}
    assert since(RATE, Totals({"requests": {"a": 9.0}, "errors": {"b": 2.0}}), known).rates == {"http": (4.0, 2.0)}


def test_more_errors_than_requests_are_reported_in_totals_and_in_increments() -> None:
    assert contradiction(RATE, rates(2, 3)) == "3 errors are more than 2 requests"
    with pytest.raises(Unavailable, match="5 errors of 1 requests"):
        since(RATE, rates(11, 6), rates(10, 1))


def test_cumulative_buckets_become_counts_of_their_own_with_edges_in_milliseconds() -> None:
    def totals(*counts: float) -> Totals:
        return Totals({bucket(e): {"": c} for e, c in zip((math.inf, 0.007, 0.5), counts, strict=True)})

    found = since(HISTOGRAM, totals(20, 5, 15), totals(10, 5, 10)).histograms["latency"]
    assert found == Histogram((7.0, 500.0), (0.0, 5.0, 5.0))


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=3), st.lists(st.integers(0, 1000), min_size=3, max_size=3))
def test_a_histogram_that_is_read_while_it_counts_has_no_negative_bucket(first: list[int], then: list[int]) -> None:
    def totals(counts: list[int]) -> Totals:
        edges = (0.1, 0.5, math.inf)
        return Totals({bucket(e): {"": float(c)} for e, c in zip(edges, counts, strict=True)})

    counts = since(HISTOGRAM, totals(then), totals(first)).histograms["latency"].counts
    assert min(counts) >= 0


def moments(n: float, total: float, squares: float) -> Totals:
    return Totals({"count": {"": n}, "sum": {"": total}, "sum_squares": {"": squares}})


@given(st.lists(st.floats(-1e6, 1e6), max_size=30), st.lists(st.floats(-1e6, 1e6), max_size=30))
def test_moments_of_values_of_any_sign_are_those_of_the_new_values(before: list[float], new: list[float]) -> None:
    def of(values: list[float]) -> Totals:
        return moments(len(values), math.fsum(values), math.fsum(v * v for v in values))

    found = since(MEAN, of(before + new), of(before)).means["basket"]
    assert found.n == len(new)
    assert found.sum == pytest.approx(math.fsum(new), abs=1e-3)
    assert found.sum_sq == pytest.approx(math.fsum(v * v for v in new), rel=1e-6, abs=1e-2)
    assert found.n * found.sum_sq >= found.sum**2 * (1 - 1e-9)


def test_moments_that_no_values_can_have_are_reported() -> None:
    with pytest.raises(Unavailable, match="cannot have 1 as sum of their squares"):
        since(MEAN, moments(2, 10, 1), moments(0, 0, 0))


def test_each_new_measurement_of_a_gauge_is_one_observation() -> None:
    assert since(GAUGE, Totals(value=3.0), Totals(value=2.0)).means == {"queue": Moments(1.0, 3.0, 9.0)}
    old, again = Totals(value=3.0, at=10.0), Totals(value=3.0, at=10.0)
    assert since(GAUGE, again, old).means == {"queue": Moments(0.0, 0.0, 0.0)}
    assert since(GAUGE, Totals(value=3.0, at=11.0), old).means == {"queue": Moments(1.0, 3.0, 9.0)}


@pytest.mark.parametrize(
    ("source", "totals", "reason"),
    [
        (RATE, rates(math.nan, 0), "requests is nan: not a number"),
        (RATE, rates(5, -1), "errors is -1: a counter is never negative"),
        (GAUGE, Totals(value=math.inf), "value is inf: not a number"),
        (HISTOGRAM, Totals({bucket(0.1): {"": 1.0}}), "no \\+Inf bucket"),
        (HISTOGRAM, Totals({bucket(math.inf): {"": 1.0}}), "the \\+Inf bucket only"),
        (
            HISTOGRAM,
            Totals({bucket(0.1): {"a": 1.0}, bucket(math.inf): {"a": 1.0, "b": 1.0}}),
            "b has none up to 0.1 s",
        ),
    ],
)
def test_totals_that_cannot_be_are_said_so(source: Source, totals: Totals, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        assert not contradiction(source, totals)


def test_sound_totals_have_nothing_wrong_with_them() -> None:
    assert contradiction(RATE, rates(5, 5)) == ""
    assert contradiction(MEAN, moments(2, -10, 100)) == ""
