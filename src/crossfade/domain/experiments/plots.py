"""Four plots of an experiment as SVG, for the dashboard and the eyes. `drawing` says what all of them keep to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from crossfade.domain.analysis.drawing import (
    BOTTOM,
    COLOURS,
    DASHES,
    TOP,
    Panel,
    caption,
    document,
    empty,
    linear_ticks,
    time_ticks,
)
from crossfade.domain.experiments.estimates import Decision, Estimate, confidence, signed
from crossfade.domain.experiments.plan import Metric
from crossfade.domain.experiments.results import Results

_OF_CONTROL, *_OF_TREATMENTS = COLOURS[1], COLOURS[0], *COLOURS[2:]
LABELLED: Final = len(_OF_TREATMENTS)
"""Most treatments that are told apart in one plot."""

ROW: Final = 18
"""Pixels of one line of a forest."""

MOST_ROWS: Final = 40
PLACES: Final = 201
LONGEST: Final = 26
WIDEST: Final = 3.0
"""The relative difference beyond which a forest does not reach: what is not known yet would hide the rest."""

Plot = Callable[[Results, str], str]
_AHEAD, _BEHIND, _OPEN = "--line-2", "--candidate", "--baseline"


def course(results: Results, title: str = "") -> str:
    """The primary metric's relative difference of each treatment over time, its interval, and the margin."""
    metric = results.plan.primary
    what = f"{metric.name}: difference to {results.plan.control} in %, {confidence(results.plan)} at every moment"
    looks = [one for one in results.course if one.relative is not None]
    if not looks:
        return document(title, what, "There are no units of both variants yet.", [empty()])
    shown = results.plan.treatments[:LABELLED]
    begin, end = looks[0].at, max(one.at for one in looks)
    last = {one.treatment: one for one in looks}
    limit = metric.margin * 100
    # The first intervals are as wide as can be; what matters is where the last ones are.
    ends = [v for one in last.values() for v in (one.relative, one.relative_low, one.relative_high) if v is not None]
    marks = [0.0, limit, -limit, *(100 * max(-WIDEST, min(WIDEST, value)) for value in ends)]
    pad = 0.35 * (max(marks) - min(marks)) or 1.0
    panel = Panel(56, 500, 0.0, end - begin, min(marks) - pad, max(marks) + pad)
    drawn, labels = [], [(0.0, "no difference", "")]
    for name, colour, dash in zip(shown, _OF_TREATMENTS, DASHES, strict=False):
        mine = [one for one in looks if one.treatment == name]
        if not mine:
            continue
        low = [(one.at - begin, _or(one.relative_low, -math.inf) * 100) for one in mine]
        high = [(one.at - begin, _or(one.relative_high, math.inf) * 100) for one in mine]
        drawn.append(
            f'<polygon points="{panel.points([*high, *low[::-1]])}" style="fill:var({colour});opacity:.18"/>'
            + panel.path(
                ((one.at - begin, _or(one.relative, math.nan) * 100) for one in mine),
                f"stroke:var({colour})" + (f";stroke-dasharray:{dash}" if dash else ""),
            )
        )
        labels.append((_or(mine[-1].relative, 0.0) * 100, _short(name, 15), f"fill:var({colour})"))
    if limit:
        labels += [(limit, f"margin {limit:g} %", "said"), (-limit, f"margin -{limit:g} %", "said")]
    body = [
        panel.axes(time_ticks(panel.x0, panel.x1), linear_ticks(panel.y0, panel.y1)),
        panel.inside("".join(drawn)),
        panel.across(0.0, "grid", "stroke:var(--soft)"),
        *(panel.across(side, "limit") for side in (limit, -limit) if limit),
        panel.labels(labels),
    ]
    return document(title, what, "; ".join(one.sentence for one in results.primary.estimates) + ".", body)


def forest(results: Results, title: str = "") -> str:
    """Every metric and treatment: the relative difference and its interval."""
    rows = [
        Row(
            f"{_short(one.metric.name)} · {_short(each.treatment, 14)}" if len(one.estimates) > 1 else one.metric.name,
            each,
            one.metric,
        )
        for one in results.metrics
        for each in one.estimates
    ]
    what = f"All metrics: difference to {results.plan.control}, {confidence(results.plan)} at every moment"
    return _forest(rows, what, title)


def segments(results: Results, title: str = "") -> str:
    """The primary metric by the values of the plan's attributes."""
    metric = results.plan.primary
    several = len(results.plan.treatments) > 1
    rows = [
        Row(
            f"{_short(part.attribute, 10)} {_short(part.value, 14)}"
            + (f" · {_short(each.treatment, 10)}" if several else ""),
            each,
            metric,
        )
        for part in results.segments
        for each in part.estimates
    ]
    return _forest(rows, f"{metric.name} by segment: exploratory, some differ by chance", title)


def posterior(results: Results, title: str = "") -> str:
    """What is believed of the primary metric with each variant."""
    metric, beliefs = results.plan.primary, results.primary.beliefs
    what = f"{metric.name}: how likely each value is, as a Bayesian sees it"
    if beliefs is None or not results.primary.units:
        return document(title, what, "There are too few events yet.", [empty()])
    beliefs = beliefs[: len(COLOURS)]
    reach = [
        (one.posterior.mean - 4 * d, one.posterior.mean + 4 * d) for one in beliefs for d in (one.posterior.deviation,)
    ]
    low, high = min(side[0] for side in reach), max(side[1] for side in reach)
    if beliefs[0].posterior.hits is not None:
        low, high = max(0.0, low), min(1.0, high)
    # Each variant has places of its own: one may be known much better than another.
    x = np.unique(np.concatenate([np.linspace(max(low, a), min(high, b), PLACES) for a, b in reach]))
    heights = [one.posterior.density(x) for one in beliefs]
    highest = max(float(one.max()) for one in heights)
    if not math.isfinite(highest) or highest <= 0 or not low < high:
        return document(title, what, "Nothing can be drawn of what is believed.", [empty()])
    scale = 100.0 if metric.kind == "conversion" else 1.0
    panel = Panel(24, 500, low * scale, high * scale, 0.0, 1.08)
    drawn: list[str] = []
    labels: list[tuple[float, str, str]] = []
    colours, dashes = (_OF_CONTROL, *_OF_TREATMENTS), (DASHES[-1], *DASHES)
    for one, height, colour, dash in zip(beliefs, heights, colours, dashes, strict=False):
        points = list(zip((x * scale).tolist(), (height / highest).tolist(), strict=True))
        style = f"stroke:var({colour})" + (f";stroke-dasharray:{dash}" if dash else "")
        drawn.append(panel.path(points, style))
        text = f"{_short(one.variant, 12)} best: {one.best * 100:.1f} %"
        labels.append((1.0 - 0.09 * len(labels), text, f"fill:var({colour})"))
    unit = "% of units" if scale > 1 else "a unit"
    body = [
        panel.axes(linear_ticks(panel.x0, panel.x1), []),
        panel.across(0.0, "grid"),
        panel.inside("".join(drawn)),
        panel.labels(labels),
        caption(panel.left, TOP - 7, unit),
    ]
    said = "; ".join(
        f"{one.variant} is better than {beliefs[0].variant} with a probability of {(one.better or 0) * 100:.1f} %"
        for one in beliefs[1:]
    )
    return document(title, what, f"{said}.", body)


PLOTS: Final[dict[str, Plot]] = {"course": course, "forest": forest, "posterior": posterior, "segments": segments}
"""All plots of an experiment, by the word that names them in an address."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a forest."""

    name: str
    estimate: Estimate
    metric: Metric


def _forest(rows: Sequence[Row], what: str, title: str) -> str:
    rows = [row for row in rows if row.estimate.relative is not None]
    shown, rest = rows[:MOST_ROWS], len(rows) - MOST_ROWS
    if not shown:
        return document(title, what, "There is nothing to compare yet.", [empty()])
    reach = [
        max(-WIDEST, min(WIDEST, value))
        for row in shown
        for value in (row.estimate.relative, row.estimate.relative_low, row.estimate.relative_high)
        if value is not None
    ]
    low, high = min(0.0, *reach) * 100, max(0.0, *reach) * 100
    pad = 0.08 * (high - low) or 1.0
    bottom = max(BOTTOM, TOP + ROW * len(shown))
    panel = Panel(176, 496, low - pad, high + pad, -float(len(shown)), 0.0, bottom)
    body = [panel.axes([(x, f"{text} %") for x, text in linear_ticks(panel.x0, panel.x1)], [])]
    zero = panel.x(0.0)
    body.append(f'<line class="grid" x1="{zero}" y1="{TOP}" x2="{zero}" y2="{bottom}" style="stroke:var(--soft)"/>')
    lines = "".join(line for i, row in enumerate(shown) for line in _line(panel, -i - 0.5, row))
    body.append(panel.inside(lines))
    for i, row in enumerate(shown):
        y = float(panel.y(-i - 0.5)) + 4
        body.append(caption(panel.left - 8, y, _short(row.name, LONGEST), "said", "end"))
        body.append(caption(panel.right + 8, y, _words(row.estimate), f"fill:var({_colour(row.estimate)})"))
    if rest > 0:
        body.append(caption(panel.left, TOP - 7, f"and {rest} more that are not shown"))
    said = "; ".join(row.estimate.sentence for row in shown)
    return document(title, what, f"{said}.", body, round(bottom + 32))


def _line(panel: Panel, y: float, row: Row) -> Iterable[str]:
    """The margin in grey, the interval as a line, the estimate as a dot."""
    one, at = row.estimate, panel.y(y)
    if row.metric.margin:
        left, right = float(panel.x(-row.metric.margin * 100)), float(panel.x(row.metric.margin * 100))
        yield (
            f'<line x1="{left}" y1="{at}" x2="{right}" y2="{at}" style="stroke:var(--grid);stroke-width:{ROW - 6}"/>'
        )
    low, high = _or(one.relative_low, -math.inf) * 100, _or(one.relative_high, math.inf) * 100
    style = f"stroke:var({_colour(one)});stroke-width:2" + (
        "" if one.decision is not Decision.UNDECIDED else ";stroke-dasharray:4 2"
    )
    yield f'<line x1="{panel.x(low)}" y1="{at}" x2="{panel.x(high)}" y2="{at}" style="{style}"/>'
    yield f'<circle cx="{panel.x(_or(one.relative, 0.0) * 100)}" cy="{at}" r="3.5" style="fill:var({_colour(one)})"/>'


def _colour(one: Estimate) -> str:
    return {Decision.BETTER: _AHEAD, Decision.WORSE: _BEHIND}.get(one.decision, _OPEN)


def _words(one: Estimate) -> str:
    said = {Decision.SAME: "no difference", Decision.UNDECIDED: "not decided"}.get(one.decision, str(one.decision))
    return f"{said} {signed(_or(one.relative, 0.0))}"


def _short(name: str, longest: int = LONGEST) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
