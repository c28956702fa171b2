"""Plots of an experiment are well-formed and all their coordinates are numbers, whatever was found."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.experiments import plots
from crossfade.domain.experiments.plan import Direction, Metric, MetricKind
from crossfade.domain.experiments.results import Results, analyse
from crossfade.domain.experiments.units import Exposure, Outcome
from tests.domain.experiments.trials import CHECKOUT, REVENUE, VISITS, plan

SVG = "{http://www.w3.org/2000/svg}"
PLOTS = pytest.mark.parametrize("make", plots.PLOTS.values(), ids=plots.PLOTS.keys())
METRICS = (CHECKOUT, REVENUE, VISITS, Metric("errors", MetricKind.COUNT, "error", Direction.DOWN, margin=0.05))


def found(n: int = 600, names: tuple[str, ...] = ("on", "blue"), seed: int = 1) -> Results:
    chance = np.random.default_rng(seed)
    variants = ("off", *names)
    came = [
        Exposure(f"u{i}", variants[int(arm)], float(i), "r1", "", {"country": f"c{i % 3}"})
        for i, arm in enumerate(chance.integers(0, len(variants), n))
    ]
    did = [
        Outcome(f"u{chance.integers(n)}", event, float(chance.uniform(0, n)), float(chance.lognormal()))
        for event in ("checkout", "visit", "error")
        for _ in range(n // 2)
    ]
    weights = dict.fromkeys(variants, 2000)
    whole = plan(*METRICS, treatments=names, weights=weights, segments=("country",))
    return analyse(whole, came, did, float(n))


def drawn(svg: str) -> ET.Element:
    """The plot as XML, after what holds for every plot."""
    root = ET.fromstring(svg)  # noqa: S314 - it was made here
    assert root.tag == f"{SVG}svg"
    assert [child.tag for child in root[:2]] == [f"{SVG}title", f"{SVG}desc"]
    assert root[0].text
    assert root[1].text
    _, _, wide, tall = map(float, (root.get("viewBox") or "").split())
    assert (wide, tall >= 240) == (640, True)
    shapes = re.sub(
        r"<(title|desc|style|text)\b.*?</\1>", "", svg.replace(root.get("aria-label") or "", ""), flags=re.S
    )
    assert not re.search(r"nan|inf\b", shapes, re.IGNORECASE)
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in {
            *("svg", "title", "desc", "style", "line", "text", "path", "polygon", "circle"),
        }
        assert "id" not in element.attrib
        for name in ("x", "x1", "x2", "cx", "y", "y1", "y2", "cy"):
            if (value := element.get(name)) is not None:
                assert -400 <= float(value) <= max(1000, tall)
    return root


def words(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


@PLOTS
@pytest.mark.parametrize("n", [0, 1, 3, 40, 3000])
def test_few_units_and_many_make_a_plot(make: plots.Plot, n: int) -> None:
    root = drawn(make(found(n), "checkout page"))
    assert "checkout page" in words(root)
    assert ("nothing to show yet" in words(root)) <= (n < 50)


@PLOTS
@settings(max_examples=6, deadline=None)
@given(name=st.text(min_size=1, max_size=60).filter(lambda text: text.strip() == text and text.isprintable()))
def test_any_name_is_shown_as_it_is_and_never_as_markup(make: plots.Plot, name: str) -> None:
    root = drawn(make(replace_names(name), name))
    assert name in words(root)


def replace_names(name: str) -> Results:
    results = found(40, (name if name != "off" else "off2",))
    return replace(results, plan=replace(results.plan, name=name))


@PLOTS
def test_markup_in_names_stays_text(make: plots.Plot) -> None:
    assert "<script" not in make(found(300, ('"><script>x</script>', "b")), "<script>")


def test_a_forest_has_a_line_for_each_metric_and_treatment_and_grows_with_them() -> None:
    results = found(3000, ("a", "b", "c"))
    root = drawn(plots.forest(results, ""))
    assert {f"{m.name} · {t}" for m in METRICS for t in "abc"} <= set(words(root))
    assert float(root.get("height") or 0) == 58 + 18 * 12 + 32
    rows = sorted(float(e.get("y") or 0) for e in root.iter(f"{SVG}text") if e.get("text-anchor") == "end")
    assert all(b - a >= 13 for a, b in itertools.pairwise(rows))


def test_the_margin_and_the_line_of_no_difference_are_in_the_course() -> None:
    said = words(drawn(plots.course(found(3000), "")))
    assert {"margin 2 %", "margin -2 %", "no difference", "on", "blue"} <= set(said)


def test_beliefs_are_named_with_the_chance_to_be_best() -> None:
    said = words(drawn(plots.posterior(found(3000), "")))
    assert sum("best: " in one for one in said) == 3


def test_a_forest_of_too_many_lines_says_how_many_are_missing() -> None:
    results = found(3000)
    many = replace(results, segments=results.segments * 10)
    assert "and 20 more that are not shown" in words(drawn(plots.segments(many, "")))


def test_every_colour_is_one_that_both_schemes_define() -> None:
    from crossfade.domain.analysis.drawing import STYLE

    light, dark = STYLE.split("@media")
    for make in plots.PLOTS.values():
        used = set(re.findall(r"var\((--[a-z0-9-]+)\)", make(found(600), "").split("</style>")[1]))
        assert used
        assert all(f"{name}:#" in light and f"{name}:#" in dark for name in used)
