"""The receipt: what clients saw of one rollout, from the edge's own counts.

Built from the readings that were taken at each move of the weights, so it is the same however often it is built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from crossfade.domain.analysis.limits import ArmFacts
from crossfade.domain.environment import Entry
from crossfade.domain.flags.pinning import Counted, all_but
from crossfade.domain.rollback import RollbackPlan, What
from crossfade.domain.rollout import Killing, Phase, Rollout, mark_of_kill
from crossfade.domain.signal import Failure, Reading
from crossfade.domain.traffic import Slot

SWITCH_SPAN = 2.0
"""A broken connection within this many seconds after a move of the weights is held against the switch."""

AFTER = 3.0
"""Seconds after the end that count as ``after``."""


def build(
    state: Rollout,
    entries: Sequence[Entry],
    readings: Mapping[str, Reading],
    failures: Sequence[Failure],
    ended: float | None,
    metrics: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The receipt as JSON-ready data. Times in epoch seconds, durations in seconds, latencies in milliseconds.

    ``failures`` are those since the rollout began, ``metrics`` how the judge last compared both arms. ``before`` runs from
    the beginning to the first move of the weights, ``during`` to the last, ``after`` for a few seconds more (absent until
    they are over). ``plan`` is the last rollback plan that was made of a failed verdict (None: there was none), ``remedies``
    what was done by each, with what clients saw before and after it.
    """
    plan = state.plan
    order = sorted(readings.items(), key=lambda item: item[1].at)
    moves = [entry for entry in entries if entry.action == "set-split"]
    first = next((r for label, r in order if label not in ("begin", "after")), None)
    begin, end, after = readings.get("begin"), readings.get("end"), readings.get("after")
    lost = [label for (_, a), (label, b) in pairwise(order) if a.segment != b.segment]
    receipt: dict[str, Any] = {
        "rollout": state.id,
        "service": plan.key.service,
        "environment": plan.key.environment,
        "kind": plan.kind.value,
        "strategy": "blue-green" if type(plan.strategy).__name__ == "BlueGreen" else "canary",
        "candidate": str(plan.candidate),
        "baseline": str(plan.baseline) if plan.baseline else None,
        "slot": plan.slot.value,
        "outcome": state.phase.value,
        "reason": state.reason,
        "detail": list(state.detail),
        "began": state.began,
        "ended": ended,
        "duration": round(ended - state.began, 3) if ended is not None else None,
        "verdict": {"finding": state.verdict.finding.value, "reasons": list(state.verdict.reasons)}
        if state.verdict
        else None,
        "metrics": [dict(metric) for metric in metrics],
        "steps": [
            {"at": e.at, "after": round(e.at - state.began, 3), "what": e.text, "phase": e.phase, "weight": e.weight}
            for e in entries
        ],
        "counts_lost_at": lost,
        "plan": state.considered[-1].to_data() if state.considered else None,
        "remedies": _remedies(state, readings),
        "traffic": {},
    }
    spans = {
        "before": (begin, first),
        "during": (first, end) if first is not end else (None, None),
        "after": (end, after),
    }
    for name, (start, stop) in spans.items():
        if stop is not None and start is not None:
            receipt["traffic"][name] = _span(stop.since(start), stop.at - start.at)
    if begin is not None and (last := after or end) is not None:
        whole = last.since(begin)
        receipt["requests"] = whole.total().requests
        receipt["failed"] = whole.total().errors
        receipt["retries"] = sum(c.retries for c in (*whole.slots.values(), whole.control))
        causes: Counter[str] = Counter()
        for counters in (*whole.slots.values(), whole.control, whole.edge):
            causes.update(dict(counters.by_cause))
        receipt["failed_by_cause"] = dict(sorted(causes.items()))
        exposed = whole.slots.get(plan.slot)
        receipt["exposed"] = {
            "requests": exposed.requests if exposed else 0,
            "failed": exposed.errors if exposed else 0,
        }
    broken = [f for f in failures if f.transport and (ended is None or f.at <= ended + AFTER)]
    receipt["broken_connections"] = len(broken)
    receipt["dropped_by_switch"] = sum(any(0 <= f.at - move.at <= SWITCH_SPAN for move in moves) for f in broken)
    return receipt


def _remedies(state: Rollout, readings: Mapping[str, Reading]) -> list[dict[str, Any]]:
    """What was done by each plan, in order: flags were killed, then, perhaps, the weight went back."""
    done = [
        _of_kill(state, readings, nth, plan, killing)
        for nth, (plan, killing) in enumerate(zip(state.considered, state.killed, strict=False), 1)
    ]
    if len(state.considered) > len(state.killed) and state.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
        done.append(_of_return(state, readings, state.considered[-1]))
    return done


def _of_kill(
    state: Rollout, readings: Mapping[str, Reading], nth: int, plan: RollbackPlan, killing: Killing
) -> dict[str, Any]:
    began, killed = readings.get(killing.step), readings.get(mark_of_kill(nth))
    later = sorted((r for label, r in readings.items() if r.at > killing.at and label != "after"), key=lambda r: r.at)
    again = later[0] if later else None
    stop = readings.get(mark_of_kill(nth + 1)) or readings.get("end")

    def seen(start: Reading | None, end: Reading | None) -> dict[str, Any] | None:
        if start is None or end is None or end.at <= start.at:
            return None
        since, pool = end.since(start), state.plan.slot
        having = since.variants.get(pool, {}).get(killing.name)
        counted = Counted(having.requests, having.errors) if having is not None else Counted()
        return {
            "seconds": round(end.at - start.at, 3),
            "with": _counted(counted),
            "without": _counted(all_but(since, pool, killing.flag, killing.variant)),
        }

    return {
        "what": What.KILL_FLAG.value,
        "target": killing.name,
        "at": killing.at,
        "why": killing.why,
        "considered": plan.to_data()["remedies"],
        "before": seen(began, killed),
        "after": seen(again, stop),
    }


def _of_return(state: Rollout, readings: Mapping[str, Reading], plan: RollbackPlan) -> dict[str, Any]:
    """Going back: all that the candidate's clients saw, and what everybody saw when it was over."""
    begin, end, after = (readings.get(label) for label in ("begin", "end", "after"))

    def seen(start: Reading | None, stop: Reading | None, whole: bool) -> dict[str, Any] | None:
        if start is None or stop is None or stop.at <= start.at:
            return None
        since = stop.since(start)
        facts = since.total() if whole else since.facts(state.plan.slot)
        counted = _counted(Counted(facts.requests, facts.errors))
        return {"seconds": round(stop.at - start.at, 3), "all" if whole else "candidate": counted}

    return {
        "what": What.MOVE_WEIGHT.value,
        "target": str(state.plan.baseline) if state.plan.baseline else "",
        "at": end.at if end is not None else state.entered,
        "why": state.reason,
        "considered": plan.to_data()["remedies"],
        "before": seen(begin, end, False),
        "after": seen(end, after, True),
    }


def _counted(counted: Counted) -> dict[str, Any]:
    return {"requests": counted.requests, "failed": counted.errors, "share": round(counted.share, 6)}


def _span(reading: Reading, seconds: float) -> dict[str, Any]:
    span: dict[str, Any] = {"seconds": round(seconds, 3), "total": _facts(reading.total())}
    for slot in Slot:
        if slot in reading.slots:
            span[slot.value] = _facts(reading.facts(slot))
    return span


def _facts(facts: ArmFacts) -> dict[str, Any]:
    return {
        "requests": facts.requests,
        "failed": facts.errors,
        "p50_ms": _ms(facts.p50),
        "p99_ms": _ms(facts.p99),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
