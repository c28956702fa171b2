"""Release by variant: which of the two to take back when something got worse.

Variants are given by chance, releases are not always: who met the newest release during a rollout did so by chance,
who came before it did not. So what a release changed is a hint here, and the judge's business during the rollout.

Units of the newest release have had less time to do anything. A metric without a window gets one here: half of the
time since that release's first unit. Then all are followed equally long, and at least half of that time counts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from crossfade.domain.analysis.evidence import Array
from crossfade.domain.experiments.estimates import amount, between
from crossfade.domain.experiments.intervals import Groups, Rule, difference, groups
from crossfade.domain.experiments.moments import WIDTH, N, Y, changes
from crossfade.domain.experiments.plan import Metric, Plan
from crossfade.domain.experiments.units import NONE, Population

BESIDE: Final = 0.1
"""Units of earlier releases for each of the newest, that came beside them: fewer are no comparison at the same time."""

EFFECTS: Final = {
    "variant_before": (0, 0, 1, -1),
    "variant_now": (1, -1, 0, 0),
    "release_without": (0, 1, 0, -1),
    "release_with": (1, 0, -1, 0),
    "together": (1, -1, -1, 1),
}
"""Signs of the newest release's treatment and control, and of the earlier releases' treatment and control."""


class Blame(enum.StrEnum):
    """What harms, as far as it is sure."""

    NOTHING = "nothing"
    VARIANT = "variant"  # on every release
    RELEASE = "release"  # with every variant
    BOTH = "both"  # each by itself
    TOGETHER = "together"  # only this variant on this release


@dataclass(frozen=True, slots=True)
class Cell:
    """Units of one variant that met one release first."""

    release: str
    variant: str
    units: int
    mean: float | None

    def to_data(self) -> dict[str, Any]:
        return {"release": self.release, "variant": self.variant, "units": self.units, "mean": self.mean}


@dataclass(frozen=True, slots=True)
class Effect:
    """A difference of cells' means, or of two such differences, with an interval that holds at every moment."""

    estimate: float | None
    low: float | None
    high: float | None

    def to_data(self) -> dict[str, Any]:
        return {"estimate": self.estimate, "low": self.low, "high": self.high}

    def harms(self, sign: float) -> bool:
        """Whether it is surely for the worse. ``sign`` +1: more is better."""
        far = self.high if sign > 0 else self.low
        return far is not None and far * sign < 0


@dataclass(frozen=True, slots=True)
class Crossing:
    """The newest release against all earlier ones, with a treatment and with the control."""

    treatment: str
    release: str
    effects: dict[str, Effect]
    blame: Blame
    sentence: str

    def to_data(self) -> dict[str, Any]:
        return {
            "treatment": self.treatment,
            "release": self.release,
            "effects": {name: effect.to_data() for name, effect in self.effects.items()},
            "blame": str(self.blame),
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True)
class Table:
    """All cells, releases in their order; and what the newest of them tells, if there are two.

    ``window``: seconds for which each unit was followed; None without an end, where releases are not compared.
    """

    cells: tuple[Cell, ...]
    crossings: tuple[Crossing, ...]
    window: float | None

    def to_data(self) -> dict[str, Any]:
        return {
            "window": self.window,
            "cells": [cell.to_data() for cell in self.cells],
            "crossings": [crossing.to_data() for crossing in self.crossings],
        }


def table(plan: Plan, metric: Metric, population: Population, now: float) -> Table:
    """Of the primary metric."""
    arms = len(plan.variants)
    coded = population.release
    # The newest stand first, what is older than can be told apart last.
    order = list(range(len(coded.values)))[::-1]
    told = [place for place in order if coded.values[place] != NONE]
    crossed = len(told) > 1
    if crossed and metric.window is None:
        since = now - float(population.at[coded.codes == told[-1]].min())
        metric = replace(metric, window=max(since / 2, 1e-3))
    seen = changes(population, metric, now, now)
    into = coded.codes * arms + population.arm
    sums = seen.tally(into, len(coded.values) * arms, np.array([now])).reshape(len(coded.values), arms, WIDTH)
    cells = tuple(
        Cell(coded.values[place], name, int(sums[place, arm, N]), _mean(sums[place, arm]))
        for place in order
        for arm, name in enumerate(plan.variants)
    )
    if not crossed:
        return Table(cells, (), metric.window)
    later = _came_later(population, told[-1])
    newest, earlier = sums[told[-1]], sums[told[:-1]].sum(axis=0)
    crossings = []
    for arm, name in enumerate(plan.treatments, 1):
        four = np.stack([newest[arm], newest[0], earlier[arm], earlier[0]])[None]
        crossings.append(
            _crossing(plan, metric, name, coded.values[told[-1]], groups(four, metric.kind, metric.cuped), later)
        )
    return Table(cells, tuple(crossings), metric.window)


def _came_later(population: Population, newest: int) -> bool:
    """Whether hardly a unit met an earlier release while the newest one was there, so that time may be the cause."""
    mine = population.release.codes == newest
    beside = (population.at[~mine] >= population.at[mine].min()).sum()
    return bool(beside < BESIDE * mine.sum())


def _mean(sums: Array) -> float | None:
    return float(sums[Y] / sums[N]) if sums[N] else None


def _crossing(plan: Plan, metric: Metric, treatment: str, release: str, four: Groups, later: bool) -> Crossing:
    rule = Rule(plan.alpha / len(plan.treatments) / len(EFFECTS), plan.units)
    effects = {name: _effect(four, signs, rule) for name, signs in EFFECTS.items()}
    blame = _blame(effects, metric.direction.sign)
    sentence = _sentence(plan, metric, treatment, release, four, effects, blame)
    if later and blame not in {Blame.NOTHING, Blame.VARIANT}:
        sentence += f". Units on {release} came later than the others: what else changed since then is not told apart"
    return Crossing(treatment, release, effects, blame, sentence)


def _effect(four: Groups, signs: tuple[int, ...], rule: Rule) -> Effect:
    places = [place for place, sign in enumerate(signs) if sign]
    if not (four.n[-1, places] > 0).all():
        return Effect(None, None, None)
    found = difference(four.only(places), [float(signs[place]) for place in places], rule)
    low, high = float(found.low[-1]), float(found.high[-1])
    known = np.isfinite(low) and np.isfinite(high)
    return Effect(float(found.estimate[-1]), low if known else None, high if known else None)


def _blame(effects: dict[str, Effect], sign: float) -> Blame:
    harms = {name: effect.harms(sign) for name, effect in effects.items()}
    if harms["variant_before"] and harms["release_without"]:
        return Blame.BOTH
    if harms["variant_before"]:
        return Blame.VARIANT
    if harms["release_without"]:
        return Blame.RELEASE
    if harms["together"] or (harms["variant_now"] and harms["release_with"]):
        return Blame.TOGETHER
    return Blame.NOTHING


def _sentence(
    plan: Plan, metric: Metric, treatment: str, release: str, four: Groups, effects: dict[str, Effect], blame: Blame
) -> str:
    names = (treatment, plan.control)
    cells = (*(f"{name} in {release}" for name in names), *(f"{name} before" for name in names))
    each = ", ".join(
        f"{name} {amount(metric, float(mean), int(n))}" if n else f"{name} no units"
        for name, mean, n in zip(cells, four.raw[-1], four.n[-1], strict=True)
    )
    text = f"{metric.name}: {each}"

    def by(name: str) -> str:
        effect = effects[name]
        if effect.low is None or effect.high is None:
            return "not known yet"
        return between(metric, effect.low, effect.high)

    match blame:
        case Blame.BOTH:
            return (
                f"{text}. Both harm by themselves: {treatment} without {release} by {by('variant_before')}, "
                f"{release} without {treatment} by {by('release_without')}: take back both"
            )
        case Blame.VARIANT:
            return (
                f"{text}. It is the variant: {treatment} makes a difference of {by('variant_before')} without {release}, "
                f"too; take back {treatment}, {release} may stay"
            )
        case Blame.RELEASE:
            return (
                f"{text}. It is the release: {release} makes a difference of {by('release_without')} without {treatment}, "
                f"too; take back {release}, {treatment} may stay"
            )
        case Blame.TOGETHER:
            return (
                f"{text}. It is both together: {treatment} in {release} makes a difference of {by('variant_now')}, which "
                f"is {by('together')} more than before; {treatment} without {release} {by('variant_before')}, {release} "
                f"without {treatment} {by('release_without')}: take back {treatment} first, which is quicker"
            )
        case Blame.NOTHING:
            return (
                f"{text}. No harm is sure: of the variant before {by('variant_before')}, of the release without it "
                f"{by('release_without')}, of both together {by('together')}"
            )
