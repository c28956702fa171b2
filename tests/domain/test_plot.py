"""Plots are well-formed and all their coordinates are numbers, whatever is drawn and whatever it is called."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crossfade.domain.analysis import drawing, plot
from crossfade.domain.analysis.block import Block, Buckets
from crossfade.domain.analysis.judge import Evidence, Judge
from crossfade.domain.analysis.policy import ERROR_RATE, Analysis, Direction, Metric, Shape
from crossfade.domain.analysis.sample import History

SVG = "{http://www.w3.org/2000/svg}"
EDGES = np.array([10.0, 20, 50, 100, 200, 500, 1000])
METRICS = (
    ERROR_RATE,
    Metric("latency.p50", Shape.HISTOGRAM, margin=0.5, quantile="p50"),
    Metric("latency.p99", Shape.HISTOGRAM, margin=0.5, quantile="p99", weight=2.0),
    Metric("basket", Shape.MEAN, margin=0.05, signal="basket", direction=Direction.DROP, required=False),
    Metric("other", Shape.RATE, margin=0.05, signal="other", direction=Direction.EITHER, dry_run=True),
)
JUDGE = Judge(Analysis(metrics=METRICS, deadline=900.0), History(10_000, 10))
PLOTS = pytest.mark.parametrize("make", plot.PLOTS.values(), ids=plot.PLOTS.keys())


def evidence(rows: int, seed: int = 1, slower: float = 1.0, judge: Judge = JUDGE) -> Evidence:
    """What is known after so many looks."""
    state = judge.begin()
    if not rows:
        return state
    chance = np.random.default_rng(seed)
    nb, nc = chance.poisson(950, rows), chance.poisson(50, rows)
    values = np.stack([nb, chance.binomial(nb, 0.001), nc, chance.binomial(nc, 0.01)], axis=1).astype(float)

    def slow(n: int, times: float) -> list[float]:
        taken = chance.lognormal(math.log(40 * times), 0.5, n)
        return [float(count) for count in np.histogram(taken, [0, *EDGES, np.inf])[0]]

    buckets = Buckets(EDGES, np.array([slow(n, 1) for n in nb]), np.array([slow(n, slower) for n in nc]))
    block = Block(
        np.arange(1, rows + 1, dtype=np.float64),
        {"": values, "other": values},
        {"": buckets},
        {"basket": np.tile([50.0, 500, 6000, 10, 100, 1200], (rows, 1))},
    )
    return judge.advance(state, block)[0]


def drawn(svg: str) -> ET.Element:
    """The plot as XML, after what holds for every plot."""
    root = ET.fromstring(svg)  # noqa: S314 - it was made here
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.get("viewBox") == "0 0 640 240"
    assert root[0].tag == f"{SVG}title"
    assert root[1].tag == f"{SVG}desc"
    assert root[0].text
    assert root[1].text
    shapes = re.sub(
        r"<(title|desc|style|text)\b.*?</\1>", "", svg.replace(root.get("aria-label") or "", ""), flags=re.S
    )
    assert not re.search(r"nan|inf\b", shapes, re.IGNORECASE)
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in {
            *("svg", "title", "desc", "style", "line", "text", "path", "polygon", "circle"),
        }
        assert "id" not in element.attrib
        for name in ("x", "y", "x1", "y1", "x2", "y2", "cx", "cy"):
            if (value := element.get(name)) is not None:
                assert -400 <= float(value) <= 1000
    return root


def words(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@PLOTS
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_the_numbers_are_all_coordinates_are_numbers(make: plot.Plot, data: st.DataObject) -> None:
    state = replace(evidence(3))
    state.trail = np.array(
        data.draw(st.lists(st.lists(NUMBERS, min_size=11, max_size=11), max_size=5)), dtype=float
    ).reshape(-1, 11)
    state.trail[:, 0] = np.sort(np.abs(np.nan_to_num(state.trail[:, 0], posinf=1e9, neginf=0.0)) % 1e9)
    drawn(make(JUDGE, state, "a"))


@PLOTS
@pytest.mark.parametrize("rows", [0, 1, 2, 700])
def test_a_plot_of_nothing_of_one_look_and_of_many_is_a_plot(make: plot.Plot, rows: int) -> None:
    root = drawn(make(JUDGE, evidence(rows), ""))
    assert ("nothing to show yet" in words(root)) == (rows == 0)


@PLOTS
@pytest.mark.parametrize("kind", ["nobody", "all bad", "no latency", "one bucket", "open bucket"])
def test_degenerate_counts_are_drawn(make: plot.Plot, kind: str) -> None:
    values = {"nobody": [0, 0, 0, 0], "all bad": [9, 9, 9, 9]}.get(kind, [9, 0, 9, 0])
    counts = {"no latency": [0] * 8, "one bucket": [9] + [0] * 7, "open bucket": [0] * 7 + [9]}.get(kind, [1] * 8)
    side = np.tile(np.array(counts, dtype=np.float64), (5, 1))
    block = Block(np.arange(1.0, 6.0), {"": np.tile(np.array(values, float), (5, 1))}, {"": Buckets(EDGES, side, side)})
    drawn(make(JUDGE, JUDGE.advance(JUDGE.begin(), block)[0], kind))


@PLOTS
def test_an_edge_at_zero_has_a_place_on_the_axis_of_logarithms(make: plot.Plot) -> None:
    edges = np.array([0.0, 5.0])
    block = Block(np.array([1.0]), {"": np.full((1, 4), 9.0)}, {"": Buckets(edges, np.ones((1, 3)), np.ones((1, 3)))})
    drawn(make(JUDGE, JUDGE.advance(JUDGE.begin(), block)[0], ""))
    only = Block(
        np.array([1.0]), {"": np.full((1, 4), 9.0)}, {"": Buckets(edges[:1], np.ones((1, 2)), np.ones((1, 2)))}
    )
    drawn(make(JUDGE, JUDGE.advance(JUDGE.begin(), only)[0], ""))


@PLOTS
@given(name=st.text(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_name_is_shown_as_it_is_and_never_as_markup(make: plot.Plot, name: str) -> None:
    drawn(make(JUDGE, JUDGE.begin(), name))


@PLOTS
def test_a_name_that_is_markup_stays_text(make: plot.Plot) -> None:
    name = """"><script>alert(1)</script>'&amp;\x00\x1b"""
    svg = make(JUDGE, evidence(2), name)
    assert "<script" not in svg
    assert any("<script>alert(1)</script>'&amp;" in text for text in words(drawn(svg)))


def test_the_interval_says_what_was_measured_and_where_the_limit_is() -> None:
    said = words(drawn(plot.interval(JUDGE, evidence(60), "v3: fail")))
    assert "v3: fail" in said
    assert "limit 0.1 pp" in said
    assert "no difference" in said
    assert any(text.startswith("measured ") and text.endswith(" pp") for text in said)


def test_evidence_is_drawn_against_both_lines_with_each_metric_by_name() -> None:
    said = words(drawn(plot.evidence(JUDGE, evidence(60), "")))
    assert "fails at \N{MULTIPLICATION SIGN}100" in said
    assert "passes at \N{MULTIPLICATION SIGN}20" in said
    for name in ("errors", "p50 latency", "p99 latency", "basket", "other"):
        assert said.count(name) == 2


def test_metrics_beyond_those_that_can_be_told_apart_are_counted() -> None:
    many = tuple(replace(ERROR_RATE, name=f"rate {i}", signal=f"s{i}" if i else "") for i in range(9))
    judge = Judge(Analysis(metrics=many, deadline=900.0))
    assert "and 4 more" in words(drawn(plot.evidence(judge, evidence(60, judge=judge), "")))


def test_the_edge_that_decides_is_marked_and_only_called_so_when_it_does() -> None:
    slow = words(drawn(plot.latency(JUDGE, evidence(300, slower=3.0), "")))
    assert any(text.startswith("decides at ") for text in slow)
    alike = words(drawn(plot.latency(JUDGE, evidence(20), "")))
    assert any(text.startswith("differs most surely at ") for text in alike)


def test_both_arms_are_named_with_their_median_and_their_slowest_per_cent() -> None:
    said = words(drawn(plot.latency(JUDGE, evidence(300, slower=3.0), "")))
    for arm in ("baseline", "candidate"):
        for quantile in ("p50", "p99"):
            assert any(text.startswith(f"{arm} {quantile} ") and text.endswith(" ms") for text in said)


def test_labels_never_cover_each_other() -> None:
    for make in (plot.interval, plot.evidence):
        root = drawn(make(JUDGE, evidence(700), ""))
        places: dict[str, list[float]] = {}
        for text in root.iter(f"{SVG}text"):
            if text.get("text-anchor") == "start" and float(text.get("y", 0)) > drawing.TOP:
                places.setdefault(text.get("x", ""), []).append(float(text.get("y", 0)))
        for found in places.values():
            assert all(b - a >= drawing.GAP - 0.11 for a, b in zip(sorted(found), sorted(found)[1:], strict=False))


# --- sparklines


@given(st.lists(NUMBERS))
@example([4.9896007738367995e292, 4.9896007738368e292, -1.7976931348623153e308])
@example([0.0, 5e-324])
def test_a_sparkline_has_one_character_for_each_value(values: list[float]) -> None:
    found = plot.sparkline(values)
    assert len(found) == len(values)
    assert set(found) <= {*plot.BLOCKS, " "}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_a_sparkline_rises_where_the_values_rise(values: list[float]) -> None:
    found = plot.sparkline(sorted(values))
    assert list(found) == sorted(found)


def test_a_sparkline_goes_from_the_lowest_to_the_highest_and_leaves_gaps() -> None:
    assert plot.sparkline(range(8)) == "▁▂▃▄▅▆▇█"
    assert plot.sparkline([0, math.nan, 1, math.inf, -math.inf]) == "▁ ██▁"
    assert plot.sparkline([3, 3]) == "▁▁"
    assert plot.sparkline([0.5], 0, 1) == "▅"
    assert plot.sparkline([]) == ""
