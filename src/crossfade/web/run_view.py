"""What the pages of runs say, from runs as data: states in words, a stage's nodes as a graph, logs as text, orders.

Pure: the same data give the same words, in the pages and in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crossfade.domain.errors import NotFound
from crossfade.domain.values import show_duration

Data = Mapping[str, Any]

FINDINGS: Final = {"pass": "passes", "fail": "fails", "inconclusive": "is undecided", "no-data": "has no report"}
TRIGGERS: Final = {"command": "by hand", "hook": "by a hook", "webhook": "by a push"}
NOT_BEGUN: Final = ("pending", "queued")
ORDERS: Final = ("cancel", "restart")

ROW: Final = 44
"""The height of a node's row, in the graph's own units: sixteenths of a rem."""
MIDDLE: Final = 14
"""Where in it the first line of its words is."""
STEP: Final = 12
LANE: Final = 4
EDGE: Final = 10
MOST_LANES: Final = 3

# What a terminal obeys and a page must not show: colours and cursor, titles and links, other escapes, control characters.
_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


@dataclass(frozen=True, slots=True)
class Edge:
    """A line from a node to one that needs it: SVG path data."""

    path: str
    done: bool


@dataclass(frozen=True, slots=True)
class Dot:
    """A node's place in the graph."""

    x: int
    y: int
    node: Data
    level: int


@dataclass(frozen=True, slots=True)
class Graph:
    """A stage's nodes, one a row, each below all that it needs; sizes in sixteenths of a rem."""

    wide: int
    high: int
    dots: tuple[Dot, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a run's way in the picture of the value stream; ``at`` and ``wide`` are of a thousand."""

    kind: str
    said: str
    at: float
    wide: float


def headline(run: Data) -> str:
    """Where a run stands, in words."""
    at_work = next((stage for stage in run["stages"] if stage["status"] in ("running", "waiting")), None)
    match run["status"]:
        case "queued":
            return "Waits for its turn"
        case "running" | "waiting" if at_work is not None:
            place = f", which deploys to {at_work['environment']}" if at_work["environment"] else ""
            return f"Is in the {at_work['name']} stage{place}"
        case "running" | "waiting":
            return "Is under way"
        case "passed":
            places = [stage["environment"] for stage in run["stages"] if stage["environment"]]
            return f"Passed: it is in {places[-1]}" if places else "Passed"
        case "superseded":
            return "Superseded by a newer commit"
        case status:
            return str(status).capitalize()


def spent(began: float | None, finished: float | None, now: float) -> str:
    """How long something took, or takes so far; empty before its beginning."""
    if began is None:
        return ""
    seconds = max(0.0, (now if finished is None else finished) - began)
    return show_duration(round(seconds, 1)) if seconds >= 0.95 else f"{seconds:.1f} s"


def said(node: Data) -> str:
    """The line below a node's name: what it waits for, what came of it, or what it comes after."""
    if node["waiting"]:
        return str(node["waiting"])
    if node["sentence"]:
        return str(node["sentence"])
    if node["status"] in NOT_BEGUN and node["needs"]:
        return f"after {', '.join(node['needs'])}"
    return ""


def results(stage: Data) -> list[Data]:
    """The nodes of a stage whose result people want to read: all gates that judged, and whatever did not pass."""
    return [
        node
        for node in stage["nodes"]
        if node["status"] == "failed" or (node["kind"] != "command" and node["sentence"] and node["finding"])
    ]


# --- the graph


def graph(nodes: Sequence[Data]) -> Graph:
    """Lay a stage out. Lines that follow from others are left out; needs that all have the same followers share one."""
    by_name = {node["name"]: node for node in nodes}
    needs = {name: [need for need in node["needs"] if need in by_name] for name, node in by_name.items()}
    order = _order(needs)
    level: dict[str, int] = {}
    above: dict[str, set[str]] = {}
    for name in order:
        level[name] = 1 + max((level[need] for need in needs[name]), default=-1)
        above[name] = {*needs[name], *(far for need in needs[name] for far in above[need])}
    direct = {
        name: [need for need in those if not any(need in above[other] for other in those if other != need)]
        for name, those in needs.items()
    }
    followers = {name: tuple(other for other in order if name in direct[other]) for name in order}
    bundles: dict[int, list[tuple[str, ...]]] = {}
    for name in order:
        kept = bundles.setdefault(level[name], [])
        if followers[name] and followers[name] not in kept:
            kept.append(followers[name])
    at = _columns(level, bundles)
    rows = {name: ROW * row + MIDDLE for row, name in enumerate(order)}
    edges = []
    for name in order:
        for need in direct[name]:
            lane = at[level[need]] + STEP + LANE * (bundles[level[need]].index(followers[need]) % MOST_LANES)
            path = f"M{at[level[need]]} {rows[need]}H{lane}V{rows[name]}H{at[level[name]] - 8}m-4-3 4 3-4 3"
            edges.append(Edge(path, by_name[need]["status"] == "passed"))
    dots = tuple(Dot(at[level[name]], rows[name], by_name[name], level[name]) for name in order)
    return Graph(max(at.values(), default=EDGE) + EDGE, ROW * len(order), dots, tuple(edges))


def _order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Each after what it needs, and as close to it as can be; otherwise as given."""
    placed: dict[str, int] = {}
    left = list(needs)
    while left:
        ready = [name for name in left if all(need in placed for need in needs[name])]
        # What a ledger holds has no circles; a page is shown even so.
        chosen = max(
            ready or left[:1], key=lambda name: max((placed.get(need, -1) for need in needs[name]), default=-1)
        )
        placed[chosen] = len(placed)
        left.remove(chosen)
    return list(placed)


def _columns(level: Mapping[str, int], bundles: Mapping[int, Sequence[object]]) -> dict[int, int]:
    found, at = {}, EDGE
    for each in range(max(level.values(), default=0) + 1):
        found[each] = at
        lanes = min(len(bundles.get(each, ())), MOST_LANES)
        at += STEP + LANE * max(0, lanes - 1) + 14
    return found


# --- logs


def plain(text: str) -> str:
    """A log for people: without what a terminal obeys; of a line written over and over, what it came to."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(_ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in lines)


# --- orders


def refuse_unknown(order: str) -> None:
    """Raises NotFound for what cannot be ordered at all."""
    if order not in ORDERS:
        raise NotFound(f"There is no order {order!r}.", hint=f"There are {', '.join(ORDERS)}.")


def why_not(run: Data, order: str) -> str:
    """Why a run cannot be cancelled or restarted now; empty when it can. Raises NotFound for another order."""
    refuse_unknown(order)
    if order == "restart":
        if not run["ended"]:
            return "It is under way: what fails can be restarted."
        return "" if run["status"] in ("failed", "cancelled") else f"It {_was(run)}: there is nothing to do again."
    if run["ended"]:
        return f"It has ended: it {_was(run)}."
    rollout = next((stage["rollout"] for stage in run["stages"] if _deploying(stage)), None)
    if rollout is not None:
        return f"Rollout #{rollout} is in flight, and a deployment in flight is not cancelled: abort the rollout."
    return ""


def _was(run: Data) -> str:
    return str(run["status"]) if run["status"] in ("passed", "failed") else f"was {run['status']}"


def _deploying(stage: Data) -> bool:
    at_work = ("pending", "running", "waiting")
    return stage["rollout"] is not None and any(
        node["kind"] == "deploy" and node["status"] in at_work for node in stage["nodes"]
    )


def what_happens(run: Data, order: str) -> list[str]:
    """What an order will do, in sentences."""
    stage = next((one for one in run["stages"] if one["status"] != "passed"), None)
    name = stage["name"] if stage is not None else ""
    if order == "cancel":
        at_work = [node["name"] for node in stage["nodes"] if node["status"] in ("running", "waiting")] if stage else []
        ends = f"What is at work in {name} is ended: {', '.join(at_work)}." if at_work else f"{name} is not begun."
        live = [one["environment"] for one in run["stages"] if one["status"] == "passed" and one["environment"]]
        stays = f"What it has deployed stays: {', '.join(live)}." if live else "Nothing has been deployed by it."
        return [ends, stays, "It can be restarted from there later."]
    passed = [one["name"] for one in run["stages"] if one["status"] == "passed"]
    kept = f"What has passed is not done again: {', '.join(passed)}." if passed else "It begins at its first stage."
    again = f"All of {name} is done again, as attempt {(stage['attempt'] if stage else 0) + 1}, on {run['short']}."
    last = next((one["environment"] for one in reversed(run["stages"]) if one["environment"]), None)
    then = [f"When everything passes it goes on to {last}."] if last else []
    return [again, kept, *then]


# --- the value stream


def bars(flow: Data, longest: float) -> list[Bar]:
    """A run's way as parts: from its commit to its queue, then of each stage what it waited and what it worked."""
    parts = [("before", "from the commit to the queue", max(0.0, flow["queued"] - flow["committed"]))]
    for stage in flow["stages"]:
        why = f": {stage['why']}" if stage["why"] else ""
        parts.append(("waited", f"{stage['name']} waited{why}", max(0.0, stage["waited"])))
        parts.append(("worked", f"{stage['name']} worked", max(0.0, stage["worked"] or 0.0)))
    found, at = [], 0.0
    for kind, words, seconds in parts:
        wide = 1000 * seconds / longest if longest > 0 else 0.0
        if wide > 0:
            found.append(Bar(kind, f"{words}, {show_duration(seconds)}", round(at, 2), round(wide, 2)))
        at += wide
    return found


def longest(flows: Iterable[Data]) -> float:
    """The seconds that the longest of the bars stand for."""
    return max((_length(flow) for flow in flows), default=0.0)


def _length(flow: Data) -> float:
    stages = sum(max(0.0, stage["waited"]) + max(0.0, stage["worked"] or 0.0) for stage in flow["stages"])
    return float(max(0.0, flow["queued"] - flow["committed"]) + stages)
