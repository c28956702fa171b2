"""What the pages of experiments say, from experiments and their results as data.

Pure: the same data give the same words, in the pages and in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crossfade.domain.errors import Fault, InvalidBatch
from crossfade.domain.experiments.plan import Direction, Metric, MetricKind, Plan, Window
from crossfade.domain.values import FULL
from crossfade.web.flag_form import stamp, time_of

Data = Mapping[str, Any]

SAID: Final = {"created": "not started", "running": "runs", "stopped": "stopped", "concluded": "concluded"}
MARKS: Final = {"created": "off", "running": "ramping", "stopped": "paused", "concluded": "on"}
DECISIONS: Final = {
    "better": "better",
    "worse": "worse",
    "no-difference-beyond-margin": "no difference that matters",
    "undecided": "not decided yet",
}
PLOTS: Final = {
    "course": "The primary metric's difference over time with its interval, and the margin",
    "forest": "Every metric and variant: the difference and its interval",
    "posterior": "What a Bayesian believes of the primary metric with each variant",
    "segments": "The primary metric by the values of attributes",
}
BLAME: Final = {
    "nothing": "nothing harms",
    "variant": "the variant harms, on every release: take back the flag",
    "release": "the release harms, with every variant: take back the release",
    "both": "both harm, each by itself",
    "together": "only both together harm: this variant on this release",
}
KINDS: Final = {
    "conversion": "conversion: whether",
    "mean": "mean: sum of values",
    "count": "count: how often",
}
WIDE: Final = 1000
"""Units of an interval's picture."""
MOST_METRICS: Final = 6
"""Metrics that the form has fields for."""
WIDEST: Final = 3.0
"""The relative difference beyond which a picture does not reach: what is not known yet would hide the rest."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval as drawn: places from 0 to `WIDE`. ``open`` is where it goes on beyond the picture."""

    low: float
    high: float
    at: float
    zero: float
    margin: tuple[float, float] | None
    tone: str


def number(value: float | None, kind: str) -> str:
    """A mean: conversions as shares, else as a number."""
    if value is None:
        return "\N{EN DASH}"
    if kind == "conversion":
        return f"{100 * value:.2f} %"
    return f"{value:,.2f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def signed(value: float | None) -> str:
    """A relative difference: ``+3.1 %``."""
    return "\N{EN DASH}" if value is None else f"{100 * value:+.1f} %"


def span(one: Data) -> str:
    """The interval of a relative difference in words; an end that is not known is said."""
    low, high = one["relative_low"], one["relative_high"]
    if low is None and high is None:
        return "not known yet"
    if low is None:
        return f"at most {signed(high)}"
    if high is None:
        return f"at least {signed(low)}"
    return f"{signed(low)} to {signed(high)}"


def intervals(metric: Data) -> list[Interval | None]:
    """The intervals of a metric's treatments on one scale; None where there is nothing to draw."""
    estimates, margin = metric["estimates"], float(metric["margin"] or 0.0)
    known = [
        max(-WIDEST, min(WIDEST, value))
        for one in estimates
        for value in (one["relative"], one["relative_low"], one["relative_high"])
        if value is not None
    ]
    reach: float = 1.1 * max([abs(value) for value in known] + [margin, 0.01])

    def place(value: float | None, otherwise: float) -> float:
        found: float = otherwise if value is None else max(-reach, min(reach, value))
        return round(WIDE * (found + reach) / (2 * reach), 1)

    sides = (place(-margin, 0), place(margin, 0)) if margin else None
    return [
        Interval(
            place(one["relative_low"], -reach),
            place(one["relative_high"], reach),
            place(one["relative"], 0.0),
            place(0.0, 0.0),
            sides,
            {"better": "good", "worse": "bad"}.get(one["decision"], "open"),
        )
        if one["relative"] is not None and (one["relative_low"], one["relative_high"]) != (None, None)
        else None
        for one in estimates
    ]


def headline(experiment: Data, results: Data | None) -> str:
    """The sentence that stands first: who wins, or why nobody does yet."""
    if experiment["state"] == "created":
        return "It has not been started: nothing is counted yet"
    if experiment["state"] == "concluded":
        return (
            f"Concluded: {experiment['shipped']} was shipped" if experiment["shipped"] else "Concluded without shipping"
        )
    if results is None:
        return "Nothing is known yet"
    if results["sample_ratio"]["finding"] == "mismatch":
        return "Nobody wins: the split is not what it should be"
    if results["winner"]:
        return f"Keep {results['why']}"
    why = str(results["why"])
    return why[:1].upper() + why[1:]


def left_out(counted: Data) -> list[tuple[str, int]]:
    """What is not counted, and how much of it."""
    names = {
        "crossovers": "units that were given two variants",
        "excluded_units": "units first exposed in a time that does not count",
        "outside": "exposures before it was started or after it ended",
        "excluded_outcomes": "outcomes in a time that does not count",
        "strangers": "outcomes of units that are not counted",
        "future": "exposures or outcomes from the future",
        "unusable": "exposures or outcomes without a usable number, time or unit",
    }
    return [(said, counted[name]) for name, said in names.items() if counted[name]]


def table(releases: Data, kind: str) -> tuple[list[str], list[tuple[str, list[tuple[int, str]]]]]:
    """Releases by variants: the variants, and a row for each release with units and mean."""
    variants = list(dict.fromkeys(cell["variant"] for cell in releases["cells"]))
    rows: dict[str, dict[str, tuple[int, str]]] = {}
    for cell in releases["cells"]:
        rows.setdefault(cell["release"] or "not told", {})[cell["variant"]] = (
            cell["units"],
            number(cell["mean"], kind),
        )
    dash = (0, "\N{EN DASH}")
    return variants, [(release, [cells.get(name, dash) for name in variants]) for release, cells in rows.items()]


# --- orders


ORDERS: Final = ("start", "stop", "conclude", "remove")
LABELS: Final = {
    "start": "Start",
    "stop": "Stop",
    "conclude": "Conclude",
    "remove": "Remove",
    "exclude": "Leave out times of",
}


def why_not(experiment: Data, order: str) -> str:
    """Why an order makes no sense now; empty when it does."""
    state = experiment["state"]
    match order:
        case "start" if state != "created":
            return "It was started already."
        case "stop" if state != "running":
            return "It does not run."
        case "conclude" if state not in ("running", "stopped"):
            return "It is concluded already." if state == "concluded" else "It has not been started."
        case "remove" if state == "running":
            return "It runs: stop it first."
        case _:
            return ""


def what_happens(order: str, approval: str | None) -> list[str]:
    """What an order will do, in sentences."""
    match order:
        case "start":
            said = ["From now on, the first exposure of each unit counts, with what the unit does afterwards."]
            return [
                *said,
                "What it compares and by what cannot be changed any more.",
                "It may be looked at as often as you like.",
            ]
        case "stop":
            return [
                "Exposures do not count any more. What exposed units do counts until the windows of all metrics are over.",
                "The flag stays as it is. It cannot be started again.",
            ]
        case "conclude":
            said = ["It ends. What you ship is what everybody gets whom the flag's split was for, at once."]
            if approval:
                said.append(f"Shipping changes the flag: somebody else with the role {approval} has to approve that.")
            return [*said, "Its results stay."]
        case "exclude":
            return [
                "Units first exposed in these times, and what happens in them, do not count.",
                "Rollouts are left out by themselves, unless that was switched off.",
            ]
        case _:
            return ["Its results and all that was counted for it are gone for good. The flag stays as it is."]


# --- a form


def plan_of(fields: Mapping[str, str], variants: Iterable[str]) -> Plan:
    """What the form of a new experiment asks for. Raises InvalidBatch, with the names of fields as places."""
    names = list(variants)
    faults: list[Fault] = []
    control = fields.get("control", "")
    treatments = tuple(name for i, name in enumerate(names) if f"treatment-{i}" in fields and name != control)
    metrics = []
    for i in range(MOST_METRICS):
        metric = _metric(fields, i, faults)
        if metric is not None:
            metrics.append(metric)
    if not metrics:
        faults.append(Fault("metric-0-event", "", "the event of at least one metric"))
    if not treatments:
        faults.append(Fault("treatments", "", "at least one variant beside the control"))
    windows = _windows(fields.get("excluded", ""), faults)
    alpha = _float(fields.get("alpha", "") or "5", "alpha", faults, 0.0001, 50.0) / 100
    units = _float(fields.get("units", "") or "10000", "units", faults, 100, 1e12)
    if faults:
        raise InvalidBatch(faults)
    segments = tuple(dict.fromkeys(part.strip() for part in fields.get("segments", "").split(",") if part.strip()))
    found = Plan(
        name=fields.get("name", "").strip(),
        flag=fields.get("flag", ""),
        control=control,
        treatments=treatments,
        weights={},
        metrics=tuple(metrics),
        segments=segments,
        alpha=alpha,
        excluded=windows,
        units=int(units),
    )
    # The shares are those of the flag, which the service knows: here they only have to be there.
    checked = {name: FULL // max(1, len(found.variants)) for name in found.variants}
    Plan(**{**{field: getattr(found, field) for field in found.__slots__}, "weights": checked}).check()
    return found


def _metric(fields: Mapping[str, str], i: int, faults: list[Fault]) -> Metric | None:
    def text(name: str) -> str:
        return fields.get(f"metric-{i}-{name}", "").strip()

    if not text("event") and not text("name"):
        return None
    try:
        kind, direction = MetricKind(text("kind")), Direction(text("direction"))
    except ValueError:
        faults.append(Fault(f"metric-{i}-kind", text("kind"), "one of those that there are"))
        return None
    margin = _float(text("margin") or "0", f"metric-{i}-margin", faults, 0.0, 99.0) / 100
    window = _float(text("window"), f"metric-{i}-window", faults, 1 / 3600, 1e6) * 3600 if text("window") else None
    primary = fields.get("primary", "0") == str(i)
    return Metric(
        text("name") or text("event"),
        kind,
        text("event"),
        direction,
        margin,
        window,
        primary,
        f"metric-{i}-cuped" in fields,
    )


def _windows(text: str, faults: list[Fault]) -> tuple[Window, ...]:
    """A line each: from, until, why; times as `2026-03-01T14:00`."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        words = line.split(None, 2)
        begins, ends = (time_of(word) for word in (*words[:2], "", "")[:2])
        if begins is None or ends is None:
            faults.append(Fault("excluded", line, "from and until as 2026-03-01T14:00, then why"))
            continue
        found.append(Window(begins, ends, words[2] if len(words) > 2 else ""))
    return tuple(found)


def written(windows: Sequence[Data]) -> str:
    """The text that the form understands as these windows."""
    return "\n".join(f"{stamp(one['begins'])} {stamp(one['ends'])} {one['why']}".strip() for one in windows)


def windows_of(text: str) -> tuple[Window, ...]:
    """From a form. Raises InvalidBatch."""
    faults: list[Fault] = []
    found = _windows(text, faults)
    if faults:
        raise InvalidBatch(faults)
    return found


def _float(text: str, place: str, faults: list[Fault], low: float, high: float) -> float:
    try:
        found = float(text.replace(",", ".").replace(" ", ""))
    except ValueError:
        found = -1.0
    if not low <= found <= high:
        faults.append(Fault(place, text, f"a number from {low:g} to {high:g}"))
        return low
    return found
