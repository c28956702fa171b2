"""One treatment against the control on one metric: what was found, how sure it is, and what is missing, in a sentence."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from crossfade.domain.experiments.intervals import BURN_IN, Difference, Groups, Rule, difference, ratio
from crossfade.domain.experiments.plan import Metric, MetricKind, Plan

MOST_UNITS: Final = 1e12
"""More units than that never come."""


class Decision(enum.StrEnum):
    """What may be said now. The first three stay true with the confidence that was asked for."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no-difference-beyond-margin"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A treatment against the control at every look, ``[L]``: for the last one, and for how it came about."""

    groups: Groups
    lift: Difference
    relative: tuple[Any, Any, Any]


def compare(groups: Groups, rule: Rule) -> Comparison:
    """``groups``: the treatment and the control, in this order."""
    return Comparison(groups, difference(groups, (1.0, -1.0), rule), ratio(groups, rule))


@dataclass(frozen=True, slots=True)
class Estimate:
    """One treatment against the control on one metric, now.

    ``mean`` and ``control_mean`` are as measured: shares of units for conversions, sums or counts a unit else. ``lift``
    is their difference (after CUPED, if asked for) with its interval from ``low`` to ``high``, None where it has no
    end; ``relative`` the same as shares of the control's mean. ``p`` is sequential and adjusted for the number of
    treatments. ``exact``: the interval needs no approximation. ``saved``: the share of the variance that CUPED took
    out. ``within_margin``: whatever the difference is, it does not matter. ``more``: units that are missing, of all
    variants together, if things stay as they are; None if that cannot be said.
    """

    metric: str
    treatment: str
    n: int
    mean: float | None
    control_n: int
    control_mean: float | None
    lift: float | None
    low: float | None
    high: float | None
    relative: float | None
    relative_low: float | None
    relative_high: float | None
    p: float
    exact: bool
    saved: float | None
    decision: Decision
    within_margin: bool
    more: int | None
    sentence: str

    def to_data(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)} | {"decision": str(self.decision)}


def estimate(plan: Plan, metric: Metric, treatment: str, found: Comparison, rule: Rule, counted: float) -> Estimate:
    """The last look of a comparison. ``counted``: units of all variants that this metric counts so far."""
    groups, lift = found.groups, found.lift
    (n, control_n), (mean, control_mean) = groups.n[-1], groups.raw[-1]
    relative, relative_low, relative_high = (float(side[-1]) for side in found.relative)
    low, high = float(lift.low[-1]), float(lift.high[-1])
    within = -metric.margin <= relative_low and relative_high <= metric.margin
    decision = _decide(low, high, within and metric.margin > 0, metric)
    both = n > 0 and control_n > 0
    cuped = metric.cuped and bool(groups.theta[-1]) and not lift.exact[-1]
    one = Estimate(
        metric=metric.name,
        treatment=treatment,
        n=int(n),
        mean=float(mean) if n else None,
        control_n=int(control_n),
        control_mean=float(control_mean) if control_n else None,
        lift=float(lift.estimate[-1]) if both else None,
        low=_finite(low) if both else None,
        high=_finite(high) if both else None,
        relative=_finite(relative) if both else None,
        relative_low=_finite(relative_low) if both else None,
        relative_high=_finite(relative_high) if both else None,
        p=min(1.0, len(plan.treatments) * math.exp(-max(0.0, float(lift.log_e[-1])))),
        exact=bool(lift.exact[-1]),
        saved=float(groups.saved[-1]) if cuped else None,
        decision=decision,
        within_margin=within,
        more=_more(metric, found, rule, counted) if decision is Decision.UNDECIDED else 0,
        sentence="",
    )
    return _with_sentence(one, plan, metric, float(np.min(groups.events[-1])))


def _decide(low: float, high: float, within: bool, metric: Metric) -> Decision:
    low, high = (low, high) if metric.direction.sign > 0 else (-high, -low)
    if low > 0:
        return Decision.BETTER
    if high < 0:
        return Decision.WORSE
    return Decision.SAME if within else Decision.UNDECIDED


def _more(metric: Metric, found: Comparison, rule: Rule, counted: float) -> int | None:
    """Units of all variants until one of the decisions falls, if the means and what they vary by stay as they are."""
    n = float(found.lift.n[-1])
    events = float(np.min(found.groups.events[-1]))
    if n <= 0 or counted <= 0:
        return None
    if not found.groups.enough[-1]:
        return math.ceil(counted * (BURN_IN / events - 1)) if events > 0 else None
    lift, base = abs(float(found.lift.estimate[-1])), abs(float(found.groups.mean[-1, 1]))
    target = max(lift, metric.margin * base - lift)
    needed = _units_until(target, float(found.lift.deviation[-1]) ** 2 * n, n, found.groups.usual(rule))
    return math.ceil(counted * (needed / n - 1)) if needed < MOST_UNITS else None


def _units_until(half: float, variance: float, n: float, rule: Rule) -> float:
    """How many units until the interval reaches no further than ``half``, when one of them varies by ``variance``."""
    low, high = math.log(n), math.log(MOST_UNITS)
    if half <= 0:
        return MOST_UNITS
    for _ in range(60):
        middle = (low + high) / 2
        units = np.array(math.exp(middle))
        wide = float(rule.reach(units)) * math.sqrt(variance / float(units)) > half
        low, high = (middle, high) if wide else (low, middle)
    return math.exp(high)


# --- words


def _with_sentence(one: Estimate, plan: Plan, metric: Metric, events: float) -> Estimate:
    values = {each.name: getattr(one, each.name) for each in fields(one)}
    return Estimate(**{**values, "sentence": _sentence(one, plan, metric, events)})


def _sentence(one: Estimate, plan: Plan, metric: Metric, events: float) -> str:
    if one.mean is None or one.control_mean is None or one.lift is None:
        empty = [name for name, n in ((one.treatment, one.n), (plan.control, one.control_n)) if not n]
        return f"{metric.name}: no units yet with {' and '.join(empty)}"
    text = (
        f"{metric.name}: {one.treatment} {amount(metric, one.mean, one.n)} against "
        f"{amount(metric, one.control_mean, one.control_n)} with {plan.control}"
    )
    if one.low is None or one.high is None:
        return f"{text}; too early to say: {events:,.0f} of {BURN_IN:.0f} events{_missing(one)}"
    if one.saved is not None:
        text += f"; CUPED took out {one.saved * 100:.0f} % of the variance"
    text += f"; the difference is {between(metric, one.low, one.high)}"
    if one.relative_low is not None and one.relative_high is not None:
        text += f" ({signed(one.relative_low)} to {signed(one.relative_high)})"
    text += f" with {confidence(plan)} at every moment"
    if one.exact:
        text += f", exactly (fewer than {BURN_IN:.0f} conversions, or all but so few)"
    if one.decision is Decision.SAME:
        return f"{text}: no difference beyond {metric.margin * 100:g} %"
    if one.decision is Decision.UNDECIDED:
        return f"{text}: not decided yet{_missing(one)}"
    small = f", by less than {metric.margin * 100:g} %" if one.within_margin and metric.margin else ""
    return f"{text}: {one.decision}{small}"


def _missing(one: Estimate) -> str:
    if one.more is None:
        return "; as it stands no number of units would decide it: give a margin below which it does not matter"
    return f"; about {rounded(one.more):,} more units in all would decide it if it stays like this"


def confidence(plan: Plan) -> str:
    """``95 % confidence``, or what it is for each when several treatments share the promise."""
    k = len(plan.treatments)
    together = f"{(1 - plan.alpha) * 100:g} %"
    return f"{together} confidence" if k == 1 else f"{together} confidence for the {k} treatments together"


def amount(metric: Metric, mean: float, n: int) -> str:
    """``11.4 % (1,140 of 10,000)``, or ``3.21 a unit (10,000 units)``."""
    if metric.kind is MetricKind.CONVERSION:
        return f"{mean * 100:.3g} % ({mean * n:,.0f} of {n:,})"
    return f"{mean:.4g} a unit ({n:,} units)"


def between(metric: Metric, low: float, high: float) -> str:
    """``0.31 to 2.1 pp``"""
    if metric.kind is MetricKind.CONVERSION:
        return f"{_digits(low * 100)} to {_digits(high * 100)} pp"
    return f"{_digits(low)} to {_digits(high)}"


def signed(share: float) -> str:
    """``+3.1 %``"""
    text = f"{share * 100:+.2g}" if abs(share) < 1 else f"{share * 100:+.0f}"
    return "0 %" if float(text) == 0 else f"{text} %"


def rounded(units: int) -> int:
    """To two digits, upwards: what is a guess should look like one."""
    power: int = 10 ** max(0, len(str(units)) - 2)
    return -(-units // power) * power


def _digits(value: float) -> str:
    text = f"{value:.3g}"
    return "0" if text == "-0" else text


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
