"""Four plots of a report as SVG, for the page, for paper and the eyes. `analysis.drawing` says what all of them keep to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from crossfade.domain.analysis.drawing import (
    BOTTOM,
    COLOURS,
    DASHES,
    Panel,
    document,
    empty,
    linear_ticks,
    tick_step,
)
from crossfade.domain.report.span import DAY, name_of
from crossfade.domain.report.words import lasting, percent

Data = Mapping[str, Any]
BY_WEEK_FROM: Final = 45
"""Days from which deployments are drawn by week."""
LEAST_NINES, MOST_NINES = 1.0, 6.0
LABELLED: Final = len(COLOURS)
LONGEST: Final = 17


def availability(report: Data) -> str:
    """By day, as nines: a scale on which 99 %, 99.9 % and 99.99 % are as far from each other as they are hard."""
    what = "Availability by day: at the edge, and asked from outside"
    days = report["days"]
    series = {
        name: [(day["at"] + DAY / 2, nines(day[of]["good"])) for day in days if day[of]["good"] is not None]
        for name, of in (("at the edge", "edge"), ("from outside", "outside"))
    }
    known = [y for points in series.values() for _, y in points]
    if not known:
        return document("", what, "Nothing is known of these days.", [empty()])
    low = max(0.0, math.floor(min(known) * 2) / 2 - 0.25)
    panel = Panel(64, 540, report["begins"], report["ends"], min(low, 1.75), MOST_NINES + 0.25)
    levels = {0.0: "0 %", 1.0: "90 %", 2.0: "99 %", 3.0: "99.9 %", 4.0: "99.99 %", 5.0: "99.999 %", MOST_NINES: "100 %"}
    drawn, labels = [], []
    for (name, points), colour, dash in zip(series.items(), ("--baseline", "--candidate"), DASHES, strict=False):
        style = f"stroke:var({colour})" + (f";stroke-dasharray:{dash}" if dash else "")
        # A day of which nothing is known is a gap, and no line leads over it.
        drawn += [panel.path(run, style) for run in _runs(points)]
        drawn += [_mark(panel, x, y, colour, name == "at the edge") for x, y in points]
        if points:
            labels.append((points[-1][1], name, f"fill:var({colour})"))
    body = [
        panel.axes(_days(report), [(y, text) for y, text in levels.items() if y >= panel.y0]),
        panel.inside("".join(drawn)),
        panel.labels(labels),
    ]
    said = "; ".join(
        f"{name} known of {len(points)} days, lowest {_worst(report, name)}" for name, points in series.items()
    )
    return document("", what, f"Of {len(days)} days: {said}.", body)


def deployments(report: Data) -> str:
    """Deployments by day or, of a long time, by week, with those that failed."""
    weekly = len(report["days"]) > BY_WEEK_FROM
    step = 7 * DAY if weekly else DAY
    what = f"Deployments by {'week' if weekly else 'day'}, and failed ones"
    bars: dict[float, list[int]] = {}
    for day in report["days"]:
        at = report["begins"] + (day["at"] - report["begins"]) // step * step
        bar = bars.setdefault(at, [0, 0])
        bar[0] += day["deployments"]
        bar[1] += day["failed"]
    most = max((max(bar) for bar in bars.values()), default=0)
    if not most:
        return document("", what, "There were no deployments.", [empty()])
    panel = Panel(44, 540, report["begins"], report["ends"], 0, most * 1.1)
    drawn = []
    for at, (good, bad) in bars.items():
        drawn.append(_bar(panel, at + 0.12 * step, at + (0.5 if bad else 0.88) * step, good, "fill:var(--baseline)"))
        drawn.append(_bar(panel, at + 0.54 * step, at + 0.88 * step, bad, "fill:var(--candidate)"))
    labels = [(most * 1.0, "deployed", "fill:var(--baseline)"), (most * 0.9, "failed", "fill:var(--candidate)")]
    body = [panel.axes(_days(report), _whole_ticks(most)), "".join(drawn), panel.labels(labels)]
    total, failed = (sum(bar[i] for bar in bars.values()) for i in (0, 1))
    return document("", what, f"{total} deployed and {failed} failed; at most {most} in one.", body)


def recovery(report: Data) -> str:
    """How long each failed deployment that clients saw took to be over, and each drill; in logarithms of seconds."""
    what = "Recovery times: failed deployments that clients saw, and drills"
    real = [(f["at"], f["recovery"]) for f in report["failures"] if f["recovery"] is not None]
    drills = [(d["began"], d["recovery"]) for d in report["drills"]["list"] if d["recovery"] is not None]
    known = [seconds for _, seconds in (*real, *drills)]
    if not known:
        return document("", what, "Nothing had to be recovered from, and no drill was held.", [empty()])
    low, high = (math.log10(max(0.05, value)) for value in (min(known), max(known)))
    panel = Panel(64, 540, report["begins"], report["ends"], math.floor(low), max(math.floor(low) + 1, math.ceil(high)))
    ticks = [(float(k), lasting(10.0**k)) for k in range(int(panel.y0), int(panel.y1) + 1)]
    marks = [_mark(panel, at, math.log10(max(0.05, s)), "--candidate", True) for at, s in real]
    marks += [_mark(panel, at, math.log10(max(0.05, s)), "--baseline", False) for at, s in drills]
    labels = [
        (panel.y1, f"failure (n {len(real)})", "fill:var(--candidate)"),
        (panel.y1, f"drill (n {len(drills)})", "fill:var(--baseline)"),
    ]
    body = [panel.axes(_days(report), ticks), "".join(marks), panel.labels(labels)]
    said = f"{len(real)} failures and {len(drills)} drills, from {lasting(min(known))} to {lasting(max(known))}."
    return document("", what, said, body)


def budget(report: Data) -> str:
    """What was left of each objective's error budget at the end of each day; below 0 it is overdrawn."""
    what = "Error budget left by day, of the requests of this time"
    lines = [
        (f"{_of_all(report, place)} {one['name']}".strip(), one["burn"])
        for place in report["environments"]
        for one in place["objectives"]
        if one.get("burn")
    ]
    if not lines:
        said = "There is no objective of which anything is known, or too many services at once: choose one."
        return document("", what, said, [empty()])
    # Those with the least left are the ones to look at.
    lines.sort(key=lambda line: (line[1][-1][1], line[0]))
    shown, others = lines[:LABELLED], lines[LABELLED:]
    low = min(0.0, *(left for _, burn in shown for _, left in burn))
    panel = Panel(64, 500, report["begins"], report["ends"], max(-2.0, low - 0.1 if low < 0 else low), 1.05)
    drawn = [panel.path([_whole(burn), *burn], "stroke:var(--grid);stroke-width:1") for _, burn in others]
    labels = []
    for (name, burn), colour, dash in zip(shown, COLOURS, DASHES, strict=False):
        style = f"stroke:var({colour})" + (f";stroke-dasharray:{dash}" if dash else "")
        drawn.append(panel.path([_whole(burn), *((x, y) for x, y in burn)], style))
        labels.append((max(panel.y0, burn[-1][1]), _short(name), f"fill:var({colour})"))
    if others:
        labels.append((panel.y0, f"and {len(others)} more", ""))
    ticks = [(k / 2, f"{50 * k} %") for k in range(math.ceil(panel.y0 * 2), 3)]
    body = [
        panel.axes(_days(report), ticks),
        panel.inside("".join(drawn)),
        panel.across(0.0, "limit"),
        panel.labels(labels),
    ]
    said = "; ".join(f"{name}: {percent(burn[-1][1])} left" for name, burn in shown)
    return document("", what, f"At the end {said}.", body)


PLOTS: Final[dict[str, Callable[[Data], str]]] = {
    "availability": availability,
    "deployments": deployments,
    "recovery": recovery,
    "budget": budget,
}
"""All plots of a report, by the word that names them in a file."""


def _whole(burn: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Where a budget is whole: when the first day begins of which anything is known."""
    return burn[0][0] - DAY, 1.0


def nines(good: float) -> float:
    """A share as its nines: 0.99 is 2, 0.999 is 3; what is whole, or nearly, is `MOST_NINES`."""
    return MOST_NINES if good >= 1 else min(MOST_NINES, max(0.0, -math.log10(1 - good)))


# --- what is drawn


def _runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Points of days that follow each other."""
    runs: list[list[tuple[float, float]]] = []
    for point in points:
        if runs and point[0] - runs[-1][-1][0] <= DAY:
            runs[-1].append(point)
        else:
            runs.append([point])
    return [run for run in runs if len(run) > 1]


def _mark(panel: Panel, x: float, y: float, colour: str, full: bool) -> str:
    """A dot, or a ring: told apart without their colours."""
    fill = f"fill:var({colour})" if full else f"fill:none;stroke:var({colour});stroke-width:1.5"
    return f'<circle cx="{panel.x(x)}" cy="{panel.y(y)}" r="{3 if full else 4.5}" style="{fill}"/>'


def _bar(panel: Panel, x0: float, x1: float, value: float, style: str) -> str:
    if not value:
        return ""
    left, right, top = float(panel.x(x0)), float(panel.x(x1)), float(panel.y(value))
    size = f'width="{max(1.0, right - left):.1f}" height="{BOTTOM - top:.1f}"'
    return f'<rect x="{left:.1f}" y="{top:.1f}" {size} style="{style}"/>'


def _days(report: Data) -> list[tuple[float, str]]:
    """Of an axis of days: some of them, the first of which says its month."""
    days = int((report["ends"] - report["begins"]) // DAY)
    step = 1 if days <= 7 else 7 if days <= 62 else max(28, int(tick_step(days / 8)))
    places = range(report["begins"], report["ends"], step * DAY)
    return [(at + DAY / 2, name_of(at) if i == 0 else name_of(at)[5:]) for i, at in enumerate(places)]


def _whole_ticks(most: int) -> list[tuple[float, str]]:
    return [(value, text) for value, text in linear_ticks(0, most * 1.1) if value == int(value)]


def _worst(report: Data, name: str) -> str:
    of = "edge" if name == "at the edge" else "outside"
    known = [(day[of]["good"], day["day"]) for day in report["days"] if day[of]["good"] is not None]
    if not known:
        return "unknown"
    good, day = min(known)
    return f"{percent(good)} on {day}"


def _of_all(report: Data, place: Data) -> str:
    """As much of an environment's name as tells it from the others of the report."""
    names = {(one["service"], one["environment"]) for one in report["environments"]}
    parts = {"service": {name for name, _ in names}, "environment": {name for _, name in names}}
    return "/".join(place[half] for half, known in parts.items() if len(known) > 1)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"…{name[-LONGEST + 1 :]}"
