"""A plan that cannot be says what is wrong with it, all at once and each by its place."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from crossfade.domain.errors import Invalid, InvalidBatch
from crossfade.domain.experiments.plan import Metric, MetricKind, Window
from crossfade.domain.experiments.results import analyse
from tests.domain.experiments.trials import CHECKOUT, REVENUE, plan


def places(**how: Any) -> list[str]:
    metrics = how.pop("metrics", (CHECKOUT, REVENUE))
    with pytest.raises(InvalidBatch) as raised:
        replace(plan(), metrics=metrics, **how).check()
    return [fault.place for fault in raised.value.faults]


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"name": ""}, ["name"]),
        ({"name": "a/b"}, ["name"]),
        ({"name": ".."}, ["name"]),
        ({"flag": "a\nb"}, ["flag"]),
        ({"control": "on"}, ["treatments[0]", "weights.off"]),
        ({"control": "else"}, ["weights.else", "weights.off"]),
        ({"treatments": ()}, ["treatments", "weights.on"]),
        ({"treatments": ("on", "on")}, ["treatments[1]"]),
        ({"weights": {"off": 0, "on": 10_000}}, ["weights.off"]),
        ({"weights": {"off": 5000, "on": -1}}, ["weights.on"]),
        ({"weights": {"off": 5000, "on": True}}, ["weights.on"]),
        ({"weights": {"off": 5000}}, ["weights.on"]),
        ({"metrics": ()}, ["metrics"]),
        ({"metrics": (CHECKOUT, CHECKOUT)}, ["metrics[1].name", "metrics"]),
        ({"metrics": (replace(CHECKOUT, margin=1.0),)}, ["metrics[0].margin"]),
        ({"metrics": (replace(CHECKOUT, margin=math.nan),)}, ["metrics[0].margin"]),
        ({"metrics": (replace(CHECKOUT, window=0.0, event=""),)}, ["metrics[0].event", "metrics[0].window"]),
        ({"segments": ("a", "a")}, ["segments"]),
        ({"alpha": 0.0}, ["alpha"]),
        ({"alpha": math.nan}, ["alpha"]),
        ({"units": 3}, ["units"]),
        ({"began": -1.0}, ["began"]),
        ({"began": 10.0, "ends": 10.0}, ["ends"]),
        ({"excluded": (Window(2.0, 1.0), Window(1.0, math.inf))}, ["excluded[0].ends", "excluded[1].ends"]),
    ],
)
def test_each_fault_has_its_place(wrong: dict[str, Any], where: list[str]) -> None:
    assert places(**wrong) == where


def test_all_faults_are_told_at_once_and_nothing_is_analysed() -> None:
    assert places(name="", alpha=2.0, units=1) == ["name", "alpha", "units"]
    with pytest.raises(Invalid, match=r"weights\.off"):
        analyse(replace(plan(), weights={"off": 0, "on": 1}), [], [], 0.0)
    with pytest.raises(Invalid, match="now"):
        analyse(plan(), [], [], math.nan)


def test_a_plan_is_json_and_its_first_metric_decides_unless_another_does() -> None:
    json.dumps(plan(CHECKOUT, REVENUE, ends=10.0, excluded=(Window(1.0, 2.0, "x"),)).to_data(), allow_nan=False)
    first, second = Metric("a", MetricKind.COUNT, "e"), Metric("b", MetricKind.COUNT, "e")
    assert plan(first, second).primary is first
    chosen = replace(second, primary=True)
    assert plan(first, chosen).primary is chosen


def test_weights_are_shares_of_those_that_are_compared() -> None:
    """Three quarters of the traffic may take no part at all."""
    assert plan(weights={"off": 500, "on": 2000}).shares == (0.2, 0.8)
