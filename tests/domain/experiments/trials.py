"""Experiments that were made up: plans, units and what they did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossfade.domain.experiments.estimates import Comparison, compare
from crossfade.domain.experiments.intervals import Rule, groups
from crossfade.domain.experiments.plan import Metric, MetricKind, Plan
from crossfade.domain.experiments.units import Exposure, Outcome

Array = npt.NDArray[np.float64]

CHECKOUT = Metric("checkout", MetricKind.CONVERSION, "checkout", margin=0.02, primary=True)
REVENUE = Metric("revenue", MetricKind.MEAN, "checkout", margin=0.02)
VISITS = Metric("visits", MetricKind.COUNT, "visit", margin=0.05)
HALVES = {"off": 5000, "on": 5000}


def plan(*metrics: Metric, **how: Any) -> Plan:
    return Plan(
        **{
            "name": "checkout page",
            "flag": "new-checkout",
            "control": "off",
            "treatments": ("on",),
            "weights": HALVES,
            "metrics": metrics or (CHECKOUT,),
            **how,
        }
    )


def people(
    n: int,
    rates: dict[str, float],
    *,
    seed: int = 1,
    last: float = 1000.0,
    value: float = 1.0,
    event: str = "checkout",
) -> tuple[list[Exposure], list[Outcome]]:
    """``n`` units of each variant, of which so many convert, spread evenly: no chance but in the order of time."""
    chance = np.random.default_rng(seed)
    exposures, outcomes = [], []
    for variant, rate in rates.items():
        at = chance.uniform(0, last, n)
        hits = chance.permutation(n) < round(rate * n)
        for i in range(n):
            unit = f"{variant}-{i}"
            exposures.append(Exposure(unit, variant, float(at[i])))
            if hits[i]:
                outcomes.append(Outcome(unit, event, float(at[i]) + 1.0, value))
    return exposures, outcomes


# --- many experiments at once, as sums at their looks

Draw = Callable[[np.random.Generator, npt.NDArray[np.bool_]], tuple[Array, Array]]
"""From which units are treated: what each did after and before its exposure."""


@dataclass(frozen=True)
class Outcomes:
    """Shares of experiments."""

    missed: float
    missed_relative: float
    decided: float


def simulate(
    kind: MetricKind,
    draw: Draw,
    truth: float,
    relative: float,
    *,
    cuped: bool = False,
    experiments: int = 400,
    units: int = 3000,
    looks: int = 60,
    share: float = 0.5,
    planned: float = 3000,
    seed: int = 1,
) -> Outcomes:
    """How many of the experiments have, at any of their looks, an interval of 95 % that leaves out the truth."""
    chance = np.random.default_rng(seed)
    at = np.unique(np.geomspace(20, units, looks).astype(int))
    assert len(at) >= 50
    missed = missed_relative = decided = 0
    for begin in range(0, experiments, 100):
        many = min(100, experiments - begin)
        treated = chance.random((many, units)) < share
        found = comparison(kind, *draw(chance, treated), treated, at, Rule(0.05, planned), cuped=cuped)
        _, low, high = found.relative
        outside = (found.lift.low > truth) | (found.lift.high < truth)
        outside_relative = (low > relative) | (high < relative)
        sure = (found.lift.low > 0) | (found.lift.high < 0)
        missed += int(outside.reshape(many, -1).any(axis=1).sum())
        missed_relative += int(outside_relative.reshape(many, -1).any(axis=1).sum())
        decided += int(sure.reshape(many, -1)[:, -1].sum())
    return Outcomes(missed / experiments, missed_relative / experiments, decided / experiments)


def comparison(
    kind: MetricKind, y: Array, x: Array, treated: npt.NDArray[np.bool_], at: Any, rule: Rule, *, cuped: bool = False
) -> Comparison:
    """Of experiments ``[E, U]``, each at the looks ``at`` (units so far): one after the other along the looks."""
    y, x = y.astype(float), x.astype(float)
    sums = np.zeros((len(y), len(at), 2, 7))
    for arm, mine in enumerate((treated, ~treated)):
        for i, part in enumerate((np.ones_like(y), y, y**2, np.abs(y), x, x**2, x * y)):
            sums[:, :, arm, i] = np.cumsum(part * mine, axis=1)[:, np.asarray(at) - 1]
    return compare(groups(sums.reshape(-1, 2, 7), kind, cuped), rule)
