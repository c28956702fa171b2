"""What the page of a rollout says, from the rollout as data: phases in words, the bar, steps, and what each order does.

Pure: the same data give the same words, in the page, in its dialogs and in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from crossfade.domain.values import FULL, show_duration

Data = Mapping[str, Any]

BEFORE_TRAFFIC: Final = ("migrating", "preparing", "checking", "connecting", "ready")
JUDGED: Final = ("shifting", "watching")
FINDINGS: Final = {
    "pass": "passes",
    "fail": "fails",
    "inconclusive": "is undecided",
    "no-data": "has no data yet",
}


@dataclass(frozen=True, slots=True)
class Share:
    """One part of the bar: ``at`` and ``wide`` in basis points from its left."""

    name: str
    release: str
    at: int
    wide: int

    @property
    def text(self) -> str:
        return percent(self.wide)


@dataclass(frozen=True, slots=True)
class Rung:
    """One line of the timeline. ``state`` is done, now, next, failed or skipped; ``left`` seconds, where it is known."""

    what: str
    note: str
    state: str
    left: float | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """Something that can be ordered. ``why_not`` is empty when it can be now, by who asks."""

    name: str
    label: str
    why_not: str


def percent(bp: int) -> str:
    """Basis points for people: ``12.5 %``."""
    return f"{bp / 100:g} %"


def clock(at: float) -> str:
    """Epoch seconds as the time of day: ``14:03:22 UTC``."""
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"


def iso(at: float) -> str:
    """Epoch seconds for a machine to read."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def left(seconds: float) -> str:
    """What is left of a step: ``14 s left``, ``2 m 05 s left``."""
    whole = math.ceil(seconds)
    if whole <= 0:
        return "until it is sure"
    return f"{whole // 60} m {whole % 60:02d} s left" if whole >= 60 else f"{whole} s left"


def traffic_moved(rollout: Data, journal: Sequence[Data]) -> bool:
    """Whether the candidate has ever had clients."""
    return any(line["phase"] in (*JUDGED, "promoting", "promoted") for line in journal) or rollout["weight"] > 0


def home(rollout: Data) -> str:
    """The slot that the baseline is in."""
    return "blue" if rollout["slot"] == "green" else "green"


def headline(rollout: Data) -> str:
    """The phase in words."""
    candidate, baseline = rollout["candidate"], rollout["baseline"]
    phase = rollout["phase"]
    back = f"back to {baseline}" if baseline else "back: nothing was live before"
    match phase:
        case "migrating":
            said = f"brings the database to what {candidate} needs"
        case "preparing":
            said = f"starts the replicas of {candidate} in {rollout['slot']}"
        case "checking":
            said = f"waits until {candidate} is healthy"
        case "connecting":
            said = f"connects {candidate} to the edge and asks it through the preview"
        case "ready":
            said = f"{candidate} is ready for traffic"
        case "shifting":
            said = f"step {rollout['step'] + 1} of {len(rollout['steps'])}: {percent(rollout['weight'])} to {candidate}"
        case "watching":
            said = f"all traffic is on {candidate}, watched for {show_duration(rollout['steps'][0]['duration'])}"
        case "promoting":
            said = f"promotes {candidate}"
        case "rolling-back":
            said = f"goes {back}"
        case "promoted":
            said = f"{candidate} is live again" if rollout["kind"] == "rollback" else f"{candidate} is promoted"
        case _:
            said = f"went {back}"
    if rollout["paused"] and not rollout["ended"]:
        said = f"paused: {said}"
    return said if said.startswith(candidate) else said[0].upper() + said[1:]


def shares(rollout: Data, edge: Data | None) -> list[Share]:
    """The bar, blue first: what the edge does where it is known, else what the rollout wants it to do."""
    slot, other = rollout["slot"], home(rollout)
    held = {slot: rollout["candidate"], other: rollout["baseline"] or ""}
    if rollout["ended"] or edge is None or not edge["reachable"]:
        weight = rollout["weight"] if not rollout["ended"] else FULL if rollout["phase"] == "promoted" else 0
        wide = {slot: weight, other: FULL - weight, "control": 0}
    else:
        wide = {"blue": edge["blue"], "green": edge["green"], "control": edge.get("control", 0)}
        # The baseline's own weight counts the share of its fresh replicas, which stand between the two.
        wide[other] -= wide["control"]
    rows = [("blue", held["blue"]), ("control", held[other]), ("green", held["green"])]
    at, found = 0, []
    for name, release in rows:
        found.append(Share(name, release, at, wide[name]))
        at += wide[name]
    return found


def timeline(rollout: Data, journal: Sequence[Data]) -> list[Rung]:
    """The plan from the start of the replicas to the promotion, and how far it is."""
    phase, steps = rollout["phase"], list(rollout["steps"])
    canary = rollout["strategy"] == "canary"
    if rollout["kind"] == "rollback" or not rollout["baseline"]:
        steps = []  # nothing is compared: it goes on at once
    last = len(steps) + 1
    seen = {line["phase"] for line in journal} | {phase}
    if phase in ("promoting", "promoted"):
        at = last
    elif seen & set(JUDGED):
        at = 1 + (rollout["step"] if canary else 0)
    else:
        at = 0
    back = phase in ("rolling-back", "rolled-back")

    def state(i: int) -> str:
        if i < at or phase == "promoted":
            return "done"
        if i > at:
            return "skipped" if back else "next"
        return "failed" if back else "now"

    rungs = [Rung(f"Start {rollout['candidate']} in {rollout['slot']}", "replicas, health, preview", state(0))]
    for i, step in enumerate(steps, 1):
        held = show_duration(step["duration"])
        left = max(0.0, step["duration"] - (rollout["now"] - rollout["entered"])) if i == at else None
        known = left if phase in JUDGED and not rollout["paused"] else None
        rungs.append(Rung(percent(step["weight"]), f"for {held}" if canary else f"watched for {held}", state(i), known))
    rungs.append(Rung(f"Promote {rollout['candidate']}", "all traffic, for good", state(last)))
    return rungs


def evidence(metric: Data, way: str) -> float:
    """How far the evidence is on its way to a ``fail`` or a pass (``passing``), 0…1; it decides at 1."""
    line = metric["fail_line" if way == "fail" else "pass_line"]
    return min(1.0, max(0.0, metric[way] / line)) if line > 0 else 0.0


def acts(rollout: Data, refused: Mapping[str, str], forbidden: str, cannot_return: str) -> list[Act]:
    """What can be ordered. ``refused``: why not, by command; ``forbidden``: why the viewer may not; both empty if so."""
    pausing = "resume" if rollout["paused"] else "pause"
    names = [("promote", "Promote"), (pausing, pausing.capitalize()), ("abort", "Abort")]
    found = [Act(name, label, forbidden or refused[name]) for name, label in names] if not rollout["ended"] else []
    return [*found, Act("rollback", "Roll back", forbidden or cannot_return)]


def cannot_return(rollout: Data, status: Data, restorable: Collection[str]) -> str:
    """Why this rollout's page offers no rollback; empty when it does."""
    candidate = rollout["candidate"]
    if not rollout["ended"]:
        return "This rollout is under way: Abort takes its traffic back."
    if status["rollout"]:
        return f"Rollout #{status['rollout']['id']} is under way."
    if status["live"] != candidate:
        return f"{candidate} is not live: {status['live'] or 'nothing'} is."
    return "" if restorable else "No earlier release can be brought back."


def what_happens(name: str, rollout: Data, moved: bool, config: Data, back_to: str) -> list[str]:
    """What an order will do, in sentences. ``config`` is the candidate's; ``back_to`` the release of a rollback."""
    candidate, baseline, slot = rollout["candidate"], rollout["baseline"], rollout["slot"]
    drain = show_duration(config.get("drain_timeout", 30.0))
    match name:
        case "promote":
            warm = show_duration(config.get("warm_for", 600.0))
            kept = f"{baseline} stays warm in {home(rollout)} for {warm}, ready for a rollback." if baseline else ""
            left = [s for s in rollout["steps"][rollout["step"] + 1 :] if rollout["phase"] == "shifting"]
            said = [f"All traffic goes to {candidate} in {slot} at once, whatever the verdict is."]
            if left:
                said.append(f"{len(left)} step{'s' if len(left) > 1 else ''} to come will be left out.")
            return [*said, "From there one goes back by a rollback.", *([kept] if kept else [])]
        case "pause":
            share = f"{candidate} keeps {percent(rollout['weight'])}" if moved else "no traffic moves"
            return [
                f"The rollout takes no further step until somebody resumes it: {share}.",
                "Its guards go on watching: a failed verdict or a sick replica still takes the traffic back.",
            ]
        case "resume":
            return ["The rollout goes on from where it is, and its step with the time that was left of it."]
        case "abort" if not moved:
            rest = f"{baseline} keeps all of it." if baseline else "Nothing is live before or after."
            return [f"No traffic has moved: {rest}", f"The replicas of {candidate} in {slot} are stopped."]
        case "abort":
            where = f"to {baseline} in {home(rollout)}" if baseline else "away"
            return [
                f"All traffic goes back {where} at once.",
                f"The replicas of {candidate} stay for up to {drain} to finish their requests, then they stop.",
            ]
        case _:
            return [
                f"A new rollout begins at once that brings {back_to} back in the place of {candidate}.",
                f"{back_to} has been live before: when its replicas are healthy, all traffic moves to it in one step.",
                f"Requests in flight on {candidate} have up to {drain} to finish.",
            ]
