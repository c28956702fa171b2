"""The primary metric by the values of an attribute: where to look next, never what to decide by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crossfade.domain.analysis.evidence import Array
from crossfade.domain.experiments.estimates import Estimate, compare, estimate
from crossfade.domain.experiments.intervals import Groups, Rule, groups
from crossfade.domain.experiments.moments import Changes, N
from crossfade.domain.experiments.plan import Metric, Plan
from crossfade.domain.experiments.units import Population


@dataclass(frozen=True, slots=True)
class Slice:
    """Units with one value of an attribute. The more slices are looked at, the more of them differ by chance."""

    attribute: str
    value: str
    units: int
    estimates: tuple[Estimate, ...]

    def to_data(self) -> dict[str, Any]:
        return {
            "attribute": self.attribute,
            "value": self.value,
            "units": self.units,
            "exploratory": True,
            "estimates": [one.to_data() for one in self.estimates],
        }


def rule(plan: Plan, place: int) -> Rule:
    """For the treatment at this place among the variants: its part of α, and of the units that were planned."""
    shares = plan.shares
    return Rule(plan.alpha / len(plan.treatments), plan.units * (shares[0] + shares[place]))


def against_control(plan: Plan, metric: Metric, found: Groups, counted: float) -> tuple[Estimate, ...]:
    """Each treatment by the last look of its group; the control's is the first group."""
    return tuple(
        estimate(plan, metric, name, compare(found.only((place, 0)), rule(plan, place)), rule(plan, place), counted)
        for place, name in enumerate(plan.treatments, 1)
    )


def slices(plan: Plan, metric: Metric, population: Population, seen: Changes, now: float) -> tuple[Slice, ...]:
    """Every value of every attribute of the plan, those with the most units first."""
    arms = len(plan.variants)
    found = []
    for attribute, coded in population.attributes.items():
        into = coded.codes * arms + population.arm
        sums: Array = seen.tally(into, len(coded.values) * arms, np.array([now]))
        for place, value in enumerate(coded.values):
            mine = sums[:, place * arms : (place + 1) * arms]
            counted = float(mine[..., N].sum())
            estimates = against_control(plan, metric, groups(mine, metric.kind, metric.cuped), counted)
            found.append(Slice(attribute, value, int(counted), estimates))
    return tuple(found)
