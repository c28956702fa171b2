"""An experiment as it stands: `analyse` is all that is known now, in numbers and in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from crossfade.domain.errors import Invalid
from crossfade.domain.experiments import bayes, srm
from crossfade.domain.experiments.bayes import Belief
from crossfade.domain.experiments.estimates import Decision, Estimate, compare, confidence, signed
from crossfade.domain.experiments.intervals import Groups, groups
from crossfade.domain.experiments.moments import Changes, N, changes
from crossfade.domain.experiments.plan import Metric, Plan
from crossfade.domain.experiments.releases import Table, table
from crossfade.domain.experiments.slices import Slice, against_control, rule, slices
from crossfade.domain.experiments.srm import SampleRatio, Split
from crossfade.domain.experiments.units import Counted, Exposure, Outcome, Population, gather

LOOKS: Final = 60
"""Moments at which the primary metric's interval is shown."""

MANY_CROSSOVERS: Final = 0.01
"""The share of units with two variants beyond which that is worth a warning."""

SHIFTED: Final = 5.0
"""Standard errors by which units of a treatment came later than the control's that chance does not explain."""

LEAST_SHIFTED: Final = 100


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric: each treatment against the control, and what is believed of each variant (None: too early).

    ``waiting``: units whose window is not over yet, and which are not counted.
    """

    metric: Metric
    units: int
    waiting: int
    estimates: tuple[Estimate, ...]
    beliefs: tuple[Belief, ...] | None

    def to_data(self) -> dict[str, Any]:
        return {
            "name": self.metric.name,
            "kind": str(self.metric.kind),
            "event": self.metric.event,
            "direction": str(self.metric.direction),
            "margin": self.metric.margin,
            "window": self.metric.window,
            "units": self.units,
            "waiting": self.waiting,
            "estimates": [one.to_data() for one in self.estimates],
            "beliefs": None if self.beliefs is None else [one.to_data() for one in self.beliefs],
        }


@dataclass(frozen=True, slots=True)
class Look:
    """The primary metric of one treatment as it stood at a moment. None where an interval has no end."""

    at: float
    treatment: str
    units: int
    lift: float
    low: float | None
    high: float | None
    relative: float | None
    relative_low: float | None
    relative_high: float | None

    def to_data(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Results:
    """What is known of an experiment at ``now``. ``winner``: the variant to keep, if that is sure; ``why`` says so."""

    plan: Plan
    now: float
    counted: Counted
    sample_ratio: SampleRatio
    metrics: tuple[Measured, ...]
    winner: str | None
    why: str
    segments: tuple[Slice, ...]
    releases: Table
    course: tuple[Look, ...]
    warnings: tuple[str, ...] = ()

    @property
    def primary(self) -> Measured:
        return next(one for one in self.metrics if one.metric is self.plan.primary)

    def to_data(self) -> dict[str, Any]:
        """JSON-ready: no number of it is infinite or none."""
        return {
            "plan": self.plan.to_data(),
            "now": self.now,
            "confidence": confidence(self.plan),
            "counted": self.counted.to_data(),
            "sample_ratio": self.sample_ratio.to_data(),
            "primary": self.plan.primary.name,
            "metrics": [one.to_data() for one in self.metrics],
            "winner": self.winner,
            "why": self.why,
            "warnings": list(self.warnings),
            "segments": [one.to_data() for one in self.segments],
            "releases": self.releases.to_data(),
            "course": [one.to_data() for one in self.course],
        }


def analyse(plan: Plan, exposures: Iterable[Exposure], outcomes: Iterable[Outcome], now: float) -> Results:
    """All that the units' outcomes tell at ``now``. Raises InvalidBatch for a plan that cannot be.

    What cannot be counted (a variant that is not compared, a time after now, a value that is no number) is left out
    and said how often. The same exposure told twice changes nothing; the same outcome told twice counts twice.
    """
    plan.check()
    if not math.isfinite(now):
        raise Invalid("now", now, "epoch seconds")
    population = gather(plan, exposures, outcomes, now)
    last = now if plan.ends is None else min(now, plan.ends)
    seen = {metric.name: changes(population, metric, now, last) for metric in plan.metrics}
    ratio = srm.check(plan, population.arm, population.at)
    measured = tuple(_measured(plan, metric, population, seen[metric.name], now) for metric in plan.metrics)
    primary = plan.primary
    winner, why = _winner(plan, measured, ratio)
    return Results(
        plan=plan,
        now=now,
        counted=population.counted,
        sample_ratio=ratio,
        metrics=measured,
        winner=winner,
        why=why,
        segments=slices(plan, primary, population, seen[primary.name], now),
        releases=table(plan, primary, population, now),
        course=_course(plan, primary, population, seen[primary.name], now),
        warnings=tuple(_warnings(plan, population, ratio)),
    )


def _of_arms(plan: Plan, metric: Metric, population: Population, seen: Changes, looks: list[float]) -> Groups:
    sums = seen.tally(population.arm, len(plan.variants), np.array(looks))
    return groups(sums, metric.kind, metric.cuped)


def _measured(plan: Plan, metric: Metric, population: Population, seen: Changes, now: float) -> Measured:
    found = _of_arms(plan, metric, population, seen, [now])
    units = int(found.n[-1].sum())
    known = bayes.posteriors(found, metric.cuped)
    beliefs = None if known is None else bayes.believe(plan.variants, known, metric.direction.sign, plan.alpha)
    estimates = against_control(plan, metric, found, units)
    return Measured(metric, units, population.counted.units - units, estimates, beliefs)


def _course(plan: Plan, metric: Metric, population: Population, seen: Changes, now: float) -> tuple[Look, ...]:
    """Looks at equal distances from the first unit that counts to now, or to when the last of them was counted."""
    come = seen.at[seen.by[:, N] > 0]
    if not len(come):
        return ()
    end = now if plan.ends is None else max(float(come.min()), min(now, plan.ends + (metric.window or 0.0)))
    looks = np.unique(np.linspace(float(come.min()), end, LOOKS + 1)[1:])
    found = _of_arms(plan, metric, population, seen, looks.tolist())
    course = []
    for place, name in enumerate(plan.treatments, 1):
        pair = compare(found.only((place, 0)), rule(plan, place))
        sides = (pair.lift.estimate, pair.lift.low, pair.lift.high, *pair.relative)
        for i, at in enumerate(looks.tolist()):
            if (pair.groups.n[i] > 0).all():
                lift, *others = (float(side[i]) if math.isfinite(side[i]) else None for side in sides)
                course.append(Look(at, name, int(pair.lift.n[i]), lift or 0.0, *others))
    return tuple(course)


def _winner(plan: Plan, measured: tuple[Measured, ...], ratio: SampleRatio) -> tuple[str | None, str]:
    """The variant to keep, if it is sure, and why."""
    if ratio.finding is Split.MISMATCH:
        return None, f"nobody: {ratio.sentence}"
    primary = next(one for one in measured if one.metric is plan.primary)
    harmed = _harmed(measured, primary.metric)
    better = [one for one in primary.estimates if one.decision is Decision.BETTER]
    fit = [one for one in better if one.treatment not in harmed]
    if fit:
        first = max(fit, key=lambda one: (one.lift or 0.0) * primary.metric.direction.sign)
        rest = [one.treatment for one in fit if one is not first]
        among = (
            f" ({', '.join(rest)} too; {first.treatment} by the largest difference, which is not surely so)"
            if rest
            else ""
        )
        return first.treatment, f"{first.treatment}{among}: {first.sentence}"
    if better:
        told = "; ".join(
            f"{one.treatment} is better by {primary.metric.name}, but {harmed[one.treatment]}" for one in better
        )
        return None, f"nobody: {told}"
    if all(one.decision is Decision.WORSE for one in primary.estimates):
        return plan.control, f"{plan.control}: {'; '.join(one.sentence for one in primary.estimates)}"
    if all(one.decision in {Decision.SAME, Decision.WORSE} for one in primary.estimates):
        same = [one for one in primary.estimates if one.decision is Decision.SAME]
        return None, f"nobody, it does not matter: {'; '.join(one.sentence for one in same)}"
    opened = [one for one in primary.estimates if one.decision is Decision.UNDECIDED]
    return None, f"nobody yet: {'; '.join(one.sentence for one in opened)}"


def _harmed(measured: tuple[Measured, ...], primary: Metric) -> dict[str, str]:
    """Treatments under which another metric is surely worse, by more than its margin may be, and what it says."""
    found: dict[str, str] = {}
    for one in measured:
        for each in one.estimates:
            if one.metric is not primary and each.decision is Decision.WORSE and not each.within_margin:
                by = "" if each.relative is None else f" ({signed(each.relative)})"
                found.setdefault(each.treatment, f"{one.metric.name} is worse{by}")
    return found


def _warnings(plan: Plan, population: Population, ratio: SampleRatio) -> Iterable[str]:
    counted = population.counted
    if ratio.finding is Split.MISMATCH:
        yield ratio.sentence
    everyone = counted.units + counted.crossovers
    if counted.crossovers > MANY_CROSSOVERS * everyone:
        yield (
            f"{counted.crossovers:,} of {everyone:,} units were given more than one variant and are left out: "
            f"was the split of {plan.flag} changed, or what units are told apart by?"
        )
    for name, z in zip(plan.treatments, _delays(plan, population), strict=True):
        if abs(z) > SHIFTED:
            yield (
                f"units of {name} came {'later' if z > 0 else 'earlier'} than those of {plan.control}: its share changed "
                "on the way, so what changed meanwhile counts as its own; begin another experiment after such a change"
            )
    if counted.unknown_variants:
        names = ", ".join(f"{name} ({n:,})" for name, n in counted.unknown_variants.items())
        yield f"exposures of variants that are not compared: {names}"
    if counted.future:
        yield f"{counted.future:,} exposures or outcomes are from the future: do all clocks agree?"
    if counted.unusable:
        yield f"{counted.unusable:,} exposures or outcomes had no usable number, time or unit"


def _delays(plan: Plan, population: Population) -> list[float]:
    """By how many standard errors the units of each treatment came later than those of the control."""
    found = []
    times = [population.at[population.arm == arm] for arm in range(len(plan.variants))]
    for mine in times[1:]:
        if min(len(mine), len(times[0])) < LEAST_SHIFTED:
            found.append(0.0)
            continue
        error = math.sqrt(float(mine.var()) / len(mine) + float(times[0].var()) / len(times[0]))
        found.append(float(mine.mean() - times[0].mean()) / error if error > 0 else 0.0)
    return found
