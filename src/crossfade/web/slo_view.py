"""What the pages say of objectives: promises and states in words, budgets as bars, burns with their limits, and curves.

Pure: the same data give the same words, in the pages and in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crossfade.domain.values import DAY, FULL, show_duration

Data = Mapping[str, Any]

SPANS: Final = ((DAY, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
ORDER: Final = ("page", "exhausted", "ticket", "unknown", "ok")
"""The states of an objective, the one that wants a person most first."""
SAID: Final = {
    "exhausted": "the error budget is used up",
    "page": "burns fast",
    "ticket": "burns slowly",
    "unknown": "cannot be told now",
    "ok": "is kept",
}
CLASSES: Final = {"exhausted": "trouble", "page": "trouble", "ticket": "failed", "unknown": "empty", "ok": "ok"}
"""The mark that a state has, as environments have theirs."""
WATCHED: Final = {
    "watching": "is watched",
    "acting": "does harm: it is taken back",
    "settling": "did harm; whether what was done has helped is looked at",
    "proposed": "does harm, and what to do is left to people",
    "passed": "was watched, and nothing was found",
    "helped": "did harm, and was taken back: that helped",
    "not-helped": "did harm, and was taken back: that did not help",
    "unknown": "did harm; whether what was done has helped is not known",
    "superseded": "was watched until something else was live, or somebody ended it",
}
"""What is said of a release by where its watch is."""
WATCH_SIGNS: Final = {
    "acting": "trouble",
    "settling": "busy",
    "proposed": "trouble",
    "passed": "ok",
    "helped": "failed",
    "not-helped": "trouble",
    "unknown": "failed",
    "superseded": "empty",
}
RECEIPT: Final = (
    ("detection", "Detection", "from the first harm until it was seen"),
    ("decision", "Decision", "until it was decided to go back"),
    ("switch", "Switch", "until the traffic had moved"),
    ("recovery", "Recovery", "from the first harm until it had ended"),
)
"""What the receipt of a watch has measured, and from when to when."""
SEVERITIES: Final = {
    "page": "wants a person now",
    "ticket": "wants a person in working hours",
    "info": "good to know",
}
STEPS: Final = (60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0)
"""Seconds that a point of a curve over a window may stand for."""
MOST_POINTS: Final = 400
"""Of one curve: more than a screen is wide would not be seen."""


@dataclass(frozen=True, slots=True)
class Range:
    """A time that a curve is drawn of: ``span`` seconds up to now, by bins of ``step``."""

    name: str
    label: str
    span: float
    step: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left of an error budget: ``wide`` of `FULL` is its bar, ``tone`` is ok, low, gone or unknown."""

    wide: int
    tone: str
    said: str
    detail: str


# --- numbers and times


def span(seconds: float) -> str:
    """A length that somebody chose: ``5 min``, ``6 h``, ``30 d``; others as `show_duration` says them."""
    for size, unit in SPANS:
        if seconds >= size and round(seconds / size, 1) == seconds / size:
            return f"{seconds / size:g} {unit}"
    return show_duration(seconds)


def good(share: float | None) -> str:
    """A share of good requests, never rounded up to all of them: ``99.947 %``."""
    if share is None:
        return "unknown"
    if share >= 1.0:
        return "100 %"
    # Cut, and the digits that a promise of many nines is told apart by.
    digits = 5 if share > 0.9999 else 3 if share > 0.99 else 2
    cut = math.floor(share * 100 * 10**digits + 1e-6) / 10**digits
    return f"{min(cut, 100 - 10**-digits):.{digits}f} %"


def target(share: float) -> str:
    """What was promised, as it was written: ``99.9 %``."""
    return f"{round(share * 100, 7):.9g} %"


def burn(times: float | None) -> str:
    """How many times as fast as it may: 14.4 times; a dash where nothing is known."""
    if times is None:
        return "\N{EN DASH}"
    return f"{times:.0f}\N{MULTIPLICATION SIGN}" if times >= 100 else f"{times:.1f}\N{MULTIPLICATION SIGN}"


# --- an objective in words


def promise(objective: Data) -> str:
    """What clients are promised."""
    what = "are answered without an error"
    if objective["kind"] == "latency":
        what = f"are answered within {show_duration(objective['threshold'])}" if objective["threshold"] else "are fast"
    return f"{target(objective['target'])} of requests {what}, over {span(objective['window'])}"


def counted(objective: Data) -> str:
    """Who counts."""
    return f"counted by the source {objective['signal']}" if objective["signal"] else "counted at the edge"


def budget(objective: Data) -> Budget:
    """What is left of its error budget."""
    found = objective["budget"]
    left = found["left"] if found else None
    if left is None or objective["share_good"] is None:
        return Budget(0, "unknown", "not known yet", "No request has been counted in this time.")
    detail = f"{_count(found['used'])} bad of {_count(found['allowed'])} that may be, for the requests counted so far"
    if found["exhausted"] or left <= 0:
        return Budget(0, "gone", f"{100 * (1 - left):.0f} % used" if left > -99 else "used up", detail)
    percent = 100 * left
    said = "all of it is left" if left >= 1 else f"{min(percent, 99.9):.{0 if percent >= 10 else 1}f} % left"
    return Budget(round(FULL * min(left, 1.0)), "low" if left < 0.25 else "ok", said.replace("100 %", "> 99 %"), detail)


def known(objective: Data) -> str:
    """How much of the window is known; empty when all of it is."""
    covered, window = objective["covered"], objective["window"]
    if covered >= 0.9995:
        return ""
    if covered <= 0:
        return f"Nothing of the last {span(window)} is known."
    share = max(0.01, covered * 100)
    percent = f"{share:.2g} %" if share < 10 else f"{share:.0f} %"
    return f"{percent} of the last {span(window)} is known ({long(covered * window)}); the rest is a gap, and counts neither way."


def long(seconds: float) -> str:
    """About how long, in one unit: ``29 d``, ``3.2 h``."""
    size, unit = next(((size, unit) for size, unit in SPANS if seconds >= size), SPANS[-1])
    number = seconds / size
    return f"{number:.0f} {unit}" if number >= 10 else f"{number:.2g} {unit}"


def told(text: str) -> str:
    """A sentence as one of its own, with its point. What begins with a name (``r12``, ``answers:``) keeps it as it is."""
    first = text.partition(" ")[0]
    plain = text if first.endswith(":") or not first.isalpha() else text[:1].upper() + text[1:]
    return plain if plain.endswith((".", "!", "?")) or not plain else f"{plain}."


def worst(objectives: Iterable[Data]) -> Data | None:
    """The one that wants a person most: by its state, then by what is left of its budget."""

    def weight(objective: Data) -> tuple[int, float]:
        left = (objective["budget"] or {}).get("left")
        return ORDER.index(objective["state"]), 1.0 if left is None else left

    return min(objectives, key=weight, default=None)


def headline(objectives: Sequence[Data]) -> str:
    """Where an environment stands, in words."""
    if not objectives:
        return "Nothing is promised here yet"
    bad = [one for one in objectives if one["state"] in ("page", "exhausted", "ticket")]
    first = worst(bad)
    if first is not None:
        said = "has used up its error budget" if first["state"] == "exhausted" else SAID[first["state"]]
        others = len(bad) - 1
        more = f"; {others} more {'wants' if others == 1 else 'want'} looking at" if others else ""
        return f"{first['name']} {said}{more}"
    if all(one["state"] == "unknown" for one in objectives):
        return "Nothing can be told now: too little is known"
    return "What was promised is kept"


@dataclass(frozen=True, slots=True)
class Promised:
    """What a list says of an environment: its worst objective. ``frozen``: no new rollout begins; ``overdue``: drills."""

    name: str
    state: str
    budget: Budget
    frozen: bool
    overdue: tuple[str, ...]
    others: int


def summary(found: Data, schedule: Sequence[Data]) -> Promised | None:
    """None where nothing is promised, and no drill is overdue."""
    overdue = tuple(one["name"] for one in schedule if one["overdue"])
    first = worst(found["objectives"])
    if first is None:
        return Promised("", "unknown", Budget(0, "unknown", "", ""), False, overdue, 0) if overdue else None
    others = len(found["objectives"]) - 1
    return Promised(first["name"], first["state"], budget(first), bool(found["frozen"]), overdue, others)


# --- a watch after a promotion


@dataclass(frozen=True, slots=True)
class Spent:
    """How much of a watch's time is over: ``wide`` of `FULL`, and what is left in words."""

    wide: int
    left: str


def time_of(watch: Data) -> Spent:
    """Of one that is open."""
    whole = max(1.0, watch["until"] - watch["began"])
    left = max(0.0, watch["until"] - watch["now"])
    return Spent(round(FULL * (1 - min(1.0, left / whole))), f"{long(left)} of {span(round(whole))} left")


def watch_figures(receipt: Data | None) -> list[tuple[str, str, str]]:
    """What was measured: name, value and what it means; those that there are."""
    if not receipt:
        return []
    found = [(label, show_duration(receipt[name]), what) for name, label, what in RECEIPT if receipt[name] is not None]
    if receipt["harmed"] is not None:
        found.append(("Requests harmed", _count(receipt["harmed"]), "from the first harm until the traffic had moved"))
    return found


# --- curves


def ranges(window: float) -> tuple[Range, ...]:
    """Those that a curve of an objective may be drawn of; the last is its window."""
    step = next(step for step in STEPS if window / step <= MOST_POINTS)
    found = (Range("hour", "1 h", 3600.0, 10.0), Range("day", "1 d", DAY, 300.0))
    shorter = tuple(one for one in found if one.span < window)
    return (*shorter, Range("window", span(window), window, step))


def curve(objective: Data, rows: Sequence[Data], begins: float, ends: float, step: float) -> dict[str, Any]:
    """Columns for a chart. ``bad``: per cent of bad requests; ``left``: per cent of the budget, if this time were its window.

    Where there were no requests both are null; ``gaps`` are the times of which nothing is known.
    """
    first = begins - begins % step
    by_bin = {round((row["at"] - first) / step): row for row in rows}
    total = sum(row["total"] for row in rows)
    allowed = (1 - objective["target"]) * total
    at: list[float] = []
    bad: list[float | None] = []
    left: list[float | None] = []
    gaps: list[list[float]] = []
    used = 0.0
    for n in range(max(0, math.ceil((ends - first) / step))):
        row, begin = by_bin.get(n), first + n * step
        at.append(min(begin + step, ends))
        if row is None or row["covered"] <= 0:
            bad.append(None)
            left.append(None)
            if gaps and gaps[-1][1] == begin:
                gaps[-1][1] = begin + step
            else:
                gaps.append([begin, begin + step])
            continue
        used += row["bad"]
        bad.append(round(100 * row["bad"] / row["total"], 5) if row["total"] > 0 else None)
        left.append(round(100 * (1 - used / allowed), 3) if allowed > 0 else None)
    return {
        "at": at,
        "bad": bad,
        "left": left,
        "gaps": gaps,
        "limit": round(100 * (1 - objective["target"]), 7),
        "begins": begins,
        "ends": ends,
        "step": step,
    }


def _count(number: float) -> str:
    return f"{number:,.0f}".replace(",", "\u202f") if number >= 10 or number == 0 else f"{number:.2g}"
