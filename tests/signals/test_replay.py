"""History as JSON Lines: what is read is what was written, and what cannot be meant is refused by its line and key."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.analysis.block import Block
from crossfade.domain.analysis.sample import Arm, Histogram, Moments, Row
from crossfade.domain.errors import Invalid
from crossfade.signals import replay
from crossfade.signals.replay import LATEST, LONGEST_LINE, MOST_EDGES, MOST_SIGNALS, PACKED, Series, parse

Data = dict[str, Any]
EDGES = [10, 20.5, 50]


def read(*rows: Data | str | bytes) -> list[Series]:
    lines = [row if isinstance(row, (str, bytes)) else json.dumps(row) for row in rows]
    return parse(io.BytesIO(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines)), "looks.jsonl")


def refusal(*rows: Data | str | bytes) -> str:
    with pytest.raises(Invalid) as caught:
        read(*rows)
    return str(caught.value)


def row(t: Any = 1.0, series: Any = "a", **more: Any) -> Data:
    return {"series": series, "t": t, "baseline": arm(950, 1), "candidate": arm(50, 0), **more}


def arm(requests: Any = 950, errors: Any = 1, **more: Any) -> Data:
    return {"requests": requests, "errors": errors, **more}


# --- laws

COUNTS = st.integers(0, 10**9)
ARMS = st.builds(
    lambda bad, good, latency, rate, mean: Arm(
        bad + good,
        bad,
        {"mine": (rate[0] + rate[1], rate[1])} if rate else {},
        {"": Histogram(tuple(EDGES), tuple(latency)), "render": Histogram((7.0,), tuple(latency[:2]))}
        if latency
        else {},
        {"basket": Moments(len(mean), math.fsum(mean), math.fsum(x * x for x in mean))} if mean else {},
    ),
    COUNTS,
    COUNTS,
    st.none() | st.lists(COUNTS, min_size=4, max_size=4),
    st.none() | st.tuples(COUNTS, COUNTS),
    st.lists(st.floats(-1e6, 1e6), max_size=5),
)
LOOKS = st.lists(st.tuples(st.floats(0.01, 100), ARMS, ARMS), min_size=1, max_size=12)


def rows_of(looks: list[tuple[float, Arm, Arm]]) -> list[Row]:
    times = np.cumsum([gap for gap, _, _ in looks]).tolist()
    return [Row(t, baseline, candidate) for t, (_, baseline, candidate) in zip(times, looks, strict=True)]


def written(found: Arm) -> Data:
    data: Data = arm(found.requests, found.errors)
    if found.histograms:
        data["latency"] = {"edges_ms": EDGES, "counts": list(found.histograms[""].counts)}
        data["histograms"] = {"render": {"edges_ms": [7], "counts": list(found.histograms["render"].counts)}}
    if found.rates:
        data["rates"] = {name: {"n": n, "bad": bad} for name, (n, bad) in found.rates.items()}
    if found.means:
        data["means"] = {k: {"n": m.n, "sum": m.sum, "sum_sq": m.sum_sq} for k, m in found.means.items()}
    return data


def line_of(series: str, one: Row) -> Data:
    return row(one.t, series, baseline=written(one.baseline), candidate=written(one.candidate))


def assert_same(found: Block, wanted: Block) -> None:
    assert np.array_equal(found.t, wanted.t)
    assert found.rates.keys() == wanted.rates.keys()
    assert found.means.keys() == wanted.means.keys()
    assert found.histograms.keys() == wanted.histograms.keys()
    for name, values in wanted.rates.items():
        assert np.array_equal(found.rates[name], values)
    for name, values in wanted.means.items():
        assert np.array_equal(found.means[name], values)
    for name, buckets in wanted.histograms.items():
        assert np.array_equal(found.histograms[name].edges, buckets.edges)
        assert np.array_equal(found.histograms[name].baseline, buckets.baseline)
        assert np.array_equal(found.histograms[name].candidate, buckets.candidate)


@given(LOOKS)
def test_what_was_written_is_what_is_read(looks: list[tuple[float, Arm, Arm]]) -> None:
    rows = rows_of(looks)
    (series,) = read(*(line_of("a", one) for one in rows))
    assert_same(series.block(), Block.of(rows))


@given(LOOKS, LOOKS, st.randoms(use_true_random=False))
def test_series_may_be_interleaved_in_any_way(first: Any, second: Any, chance: Any) -> None:
    left, right = ([line_of(name, one) for one in rows_of(x)] for name, x in (("a", first), ("b", second)))
    mixed, a, b = [], list(left), list(right)
    while a or b:
        mixed.append((a if a and (not b or chance.random() < 0.5) else b).pop(0))
    found = read(*mixed)
    assert [series.name for series in found] == list(dict.fromkeys(one["series"] for one in mixed))
    alone = {"a": read(*left)[0], "b": read(*right)[0]}
    for series in found:
        assert_same(series.block(), alone[series.name].block())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = st.sampled_from(
    [
        ("series",),
        ("t",),
        ("baseline",),
        ("candidate", "requests"),
        ("candidate", "errors"),
        ("candidate", "latency"),
        ("candidate", "latency", "edges_ms"),
        ("candidate", "latency", "edges_ms", 1),
        ("candidate", "latency", "counts"),
        ("candidate", "latency", "counts", 0),
        ("candidate", "means"),
        ("candidate", "means", "basket"),
        ("candidate", "means", "basket", "sum_sq"),
        ("candidate", "rates", "mine", "bad"),
        ("history",),
        ("history", "errors"),
        ("history", "errors_per_10s"),
        ("history", "errors_per_10s", 0),
        ("unknown",),
    ]
)


def full() -> Data:
    latency = {"edges_ms": list(EDGES), "counts": [1, 2, 3, 4]}
    means = {"basket": {"n": 2, "sum": 3.0, "sum_sq": 5.0}}
    candidate = arm(50, 1, latency=latency, means=means, rates={"mine": {"n": 4, "bad": 1}})
    return row(candidate=candidate, history={"requests": 100, "errors": 3, "errors_per_10s": [1, 2]})


@settings(max_examples=400)
@given(PLACES, JSON, st.booleans())
def test_whatever_stands_in_a_row_it_is_read_or_refused_with_its_line(place: Any, value: Any, late: bool) -> None:
    broken = full()
    inner: Any = broken
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    before = [row(0.5, "b")] if late else []
    try:
        found = read(*before, broken)
    except Invalid:
        assert refusal(*before, broken).startswith(f"looks.jsonl:{len(before) + 1}: ")
    else:
        values = found[-1].block()
        for array in (*values.rates.values(), *values.means.values(), values.t):
            assert np.isfinite(array).all()


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        read(data)


# --- what is accepted


def test_the_row_of_the_reference_is_read_with_its_history() -> None:
    (series,) = read(row(12.0, history={"requests": 6000, "errors": 6, "errors_per_10s": [1, 0, 5.0]}), "", row(13))
    assert series.history is not None
    assert (series.history.requests, series.history.errors) == (6000, 6)
    assert (series.history.errors_per_10s, series.history.seconds) == ((1, 0, 5), 30.0)
    assert series.block().rates[""].tolist() == [[950, 1, 50, 0]] * 2
    assert series.block().t.tolist() == [12.0, 13.0]


def test_a_count_may_be_written_with_a_point() -> None:
    (series,) = read(row(baseline=arm(950.0, 3.0)))
    assert series.block().rates[""].tolist() == [[950, 3, 50, 0]]


def test_what_only_some_rows_and_one_arm_have_counts_nothing_elsewhere() -> None:
    means = {"basket": {"n": 1, "sum": 2, "sum_sq": 4}}
    (series,) = read(row(1), row(2, candidate=arm(50, 0, means=means)), row(3))
    assert series.block().means["basket"].tolist() == [[0] * 6, [0, 0, 0, 1, 2, 4], [0] * 6]


def test_a_long_series_is_the_same_as_a_short_one_row_by_row() -> None:
    rows = [row(t / 8, baseline=arm(t, t % 7 if t >= 7 else 0)) for t in range(2 * PACKED + 10)]
    rows[PACKED + 5]["candidate"]["rates"] = {"mine": {"n": 3, "bad": 1}}
    (series,) = read(*rows)
    block = series.block()
    assert block.t.tolist() == [t / 8 for t in range(2 * PACKED + 10)]
    assert block.rates[""][:, 0].tolist() == list(range(2 * PACKED + 10))
    assert np.flatnonzero(block.rates["mine"][:, 2]).tolist() == [PACKED + 5]


# --- what is refused

LATENCY: Data = {"edges_ms": [10, 20], "counts": [1, 2, 3]}


@pytest.mark.parametrize(
    ("broken", "place", "allowed"),
    [
        ("{", "", "a line of JSON"),
        ("[]", "", "an object"),
        ({"series": "a"}, "t", "required"),
        (row(x=1), "x", "only series, t, baseline, candidate, history"),
        (row(True), "t", "a number"),
        (row("1"), "t", "a number"),
        (row(-0.5), "t", "from 0 to"),
        (row(math.nan), "t", "from 0 to"),
        (row(1.7e9), "t", "seconds since the rollout began"),
        (row(series=3), "series", "a name"),
        (row(series=""), "series", "a name"),
        (row(series="a\x1b[2J"), "series", "printable"),
        (row(baseline=None), "baseline", "an object"),
        (row(baseline={"requests": 1}), "baseline.errors", "required"),
        (row(baseline=arm(foo=1)), "baseline.foo", "only requests, errors, latency"),
        (row(candidate=arm(-1)), "candidate.requests", "a whole number from 0"),
        (row(candidate=arm(1.5)), "candidate.requests", "a whole number"),
        (row(candidate=arm(True)), "candidate.requests", "a number"),
        (row(candidate=arm(None)), "candidate.requests", "a number"),
        (row(candidate=arm(math.nan)), "candidate.requests", "a whole number"),
        (row(candidate=arm(math.inf)), "candidate.requests", "a whole number"),
        (row(candidate=arm(10**400)), "candidate.requests", "a number"),
        (row(candidate=arm(50, 51)), "candidate.errors", "at most requests (50)"),
        (row(baseline=arm(latency=[])), "baseline.latency", "an object"),
        (row(baseline=arm(latency={**LATENCY, "p99": 1})), "baseline.latency.p99", "only edges_ms, counts"),
        (row(baseline=arm(latency={**LATENCY, "edges_ms": [20, 10]})), "baseline.latency.edges_ms[1]", "rising"),
        (row(baseline=arm(latency={**LATENCY, "edges_ms": []})), "baseline.latency.edges_ms", "1 to"),
        (row(baseline=arm(latency={**LATENCY, "edges_ms": [1, True]})), "baseline.latency.edges_ms[1]", "a number"),
        (row(baseline=arm(latency={**LATENCY, "counts": [1, 2]})), "baseline.latency.counts", "a list of 3 counts"),
        (row(baseline=arm(latency={**LATENCY, "counts": [1, -2, 3]})), "baseline.latency.counts[1]", "whole number"),
        (
            row(baseline=arm(latency=LATENCY), candidate=arm(latency={**LATENCY, "edges_ms": [10, 21]})),
            "candidate.latency.edges_ms",
            "the edges that the series had before: 10, 20",
        ),
        (row(baseline=arm(histograms=[])), "baseline.histograms", "an object"),
        (
            row(baseline=arm(histograms={"x": LATENCY}), candidate=arm(histograms={"x": {**LATENCY, "counts": [1]}})),
            "candidate.histograms.x.counts",
            "a list of 3 counts",
        ),
        (row(baseline=arm(histograms={"x\n": LATENCY})), "baseline.histograms", "a name"),
        (row(baseline=arm(means={"b": {"n": -1, "sum": 0, "sum_sq": 0}})), "baseline.means.b.n", "whole number"),
        (row(baseline=arm(means={"b": {"n": 2, "sum": 4, "sum_sq": -8}})), "baseline.means.b.sum_sq", "from 0"),
        (row(baseline=arm(means={"b": {"n": 2, "sum": 4, "sum_sq": 7.9}})), "baseline.means.b.sum_sq", "sum²/n"),
        (row(baseline=arm(means={"b": {"n": 0, "sum": 0, "sum_sq": 1}})), "baseline.means.b.sum_sq", "0, as n is 0"),
        (row(baseline=arm(means={"b": {"n": 0}})), "baseline.means.b.sum", "required"),
        (row(baseline=arm(rates={"b": {"n": 2, "bad": 3}})), "baseline.rates.b.bad", "at most n (2)"),
        (row(history={"requests": 1, "errors": 2}), "history.errors", "at most requests (1)"),
        (
            row(history={"requests": 1, "errors": 1, "errors_per_10s": [0, -1]}),
            "history.errors_per_10s[1]",
            "a whole number",
        ),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused_with_line_key_and_what_is_allowed(
    broken: Any, place: str, allowed: str
) -> None:
    said = refusal(row(0.25, "before"), broken)
    assert said.startswith("looks.jsonl:2: ")
    assert f"{place}: " in said
    assert allowed in said


@pytest.mark.parametrize("t", [5.0, 4.0])
def test_times_of_a_series_rise_and_those_of_others_are_their_own(t: float) -> None:
    read(row(5.0), row(1.0, "b"))
    assert "looks.jsonl:3: series a: t: " in refusal(row(5.0), row(1.0, "b"), row(t))
    assert "more than that of the series' row before (5)" in refusal(row(5.0), row(1.0, "b"), row(t))


def test_times_rise_over_what_was_read_long_before() -> None:
    said = refusal(*(row(float(t)) for t in range(PACKED)), row(PACKED - 1.0))
    assert f"looks.jsonl:{PACKED + 1}: series a: t" in said


def test_edges_stay_as_they_are_in_all_rows_of_a_series_but_not_of_another() -> None:
    other = {"edges_ms": [1], "counts": [1, 1]}
    read(row(1, baseline=arm(latency=LATENCY)), row(1, "b", baseline=arm(latency=other)))
    said = refusal(row(1, baseline=arm(latency=LATENCY)), row(2), row(3, candidate=arm(latency=other)))
    assert "looks.jsonl:3: series a: candidate.latency.edges_ms: [1] is not allowed" in said


def test_history_belongs_to_the_first_row() -> None:
    assert "on the first row" in refusal(row(1), row(2, history={"requests": 1, "errors": 0, "errors_per_10s": []}))


def test_of_several_wrong_lines_the_first_is_named_however_each_was_found() -> None:
    rows: list[Data | str] = [row(1), row(2, "b", baseline=arm(1, 2)), row(2, candidate=arm(-1)), row(1.5), "nonsense"]
    assert refusal(*rows).startswith("looks.jsonl:2: series b: baseline.errors")
    assert refusal(rows[0], *rows[2:]).startswith("looks.jsonl:2: series a: candidate.requests")
    assert refusal(rows[0], row(2), *rows[3:]).startswith("looks.jsonl:3: series a: t")
    assert refusal(rows[0], row(2), row(3), *rows[4:]).startswith("looks.jsonl:4: ")


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_a_file_without_a_row_is_refused(data: bytes) -> None:
    assert "no row" in refusal(data)


def test_what_is_no_text_or_far_too_long_or_deep_is_refused_with_its_line() -> None:
    assert "looks.jsonl:2: " in refusal(row(), b'{"series": "\xff"}')
    assert "at most 1,000,000 bytes" in refusal(row(), "[" + " " * LONGEST_LINE + "]")
    assert "looks.jsonl:1: " in refusal("[" * 100_000)


def test_what_would_need_far_more_room_than_the_file_is_refused() -> None:
    edges = list(range(MOST_EDGES + 1))
    assert "1 to 500" in refusal(row(baseline=arm(latency={"edges_ms": edges, "counts": [0] * (MOST_EDGES + 2)})))
    rates = {f"s{i}": {"n": 1, "bad": 0} for i in range(MOST_SIGNALS + 1)}
    assert f"at most {MOST_SIGNALS}" in refusal(row(baseline=arm(rates=rates)))
    assert str(round(LATEST)) in refusal(row(LATEST + 1))


def test_a_file_that_is_not_there_is_refused_by_its_name() -> None:
    with pytest.raises(Invalid, match="no-such-file"):
        replay.read("/no-such-file.jsonl")
