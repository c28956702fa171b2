"""The receipt of a drill: how long each part of it took, and what clients saw of it, from the edge's own counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from crossfade.domain.drill import EDGE_FAULTS, Drill, Fault
from crossfade.domain.signal import Failure, Reading
from crossfade.domain.traffic import Slot

SPANS: Final = {"begin": "back", "back": "hold", "forth": "forth", "home": "after"}
"""What is said of the time from each reading to the next."""


def build(
    state: Drill, readings: Mapping[str, Reading], failures: Sequence[Failure], ended: float, slot: Slot | None = None
) -> dict[str, Any]:
    """As JSON-ready data: epoch s, durations in seconds, latencies in ms; None for what there was not.

    ``detection``: from the fault until it was noticed. ``decision``: from there until the return was begun. ``switch``: from
    there until the weights had moved. ``recovery``: from the fault, without one from the order, until then. ``forth``: the
    switch of the way home. ``whole``: from the fault until nothing was left of it. ``harmed``: requests that failed. ``slot``:
    where a canary had the fault.
    """
    plan, there, back = state.plan, state.there, state.back
    began = there.began if there is not None else None
    moved = there.moved if there is not None else None
    fault = state.injected
    if plan.target is None:
        # Nobody can be harmed by a canary's fault before the canary has traffic.
        fault, began, moved = moved, None, None
        if there is not None:
            began, moved = there.failed, there.home
    start = fault if fault is not None else began
    recovered = moved
    if plan.fault is Fault.KILL_CONTROL_PLANE and state.noticed is not None:
        recovered = max(state.noticed, moved) if moved is not None else state.noticed
    spans = _traffic(readings, plan.target is None)
    total = _between(readings.get("begin"), readings.get("end"))
    receipt: dict[str, Any] = {
        "drill": state.id,
        "service": plan.key.service,
        "environment": plan.key.environment,
        "name": plan.name,
        "fault": plan.fault.value if plan.fault is not None else None,
        "home": str(plan.home),
        "target": str(plan.target) if plan.target is not None else None,
        "began": state.began,
        "ended": ended,
        "duration": round(ended - state.began, 3),
        "noticed": state.notice,
        "detection": _span(fault, state.noticed),
        "decision": _span(state.noticed, began) if plan.fault is not Fault.KILL_CONTROL_PLANE else None,
        "switch": _span(began, moved),
        "recovery": _span(start, recovered),
        "forth": _span(back.began, back.moved) if back is not None else None,
        "whole": _span(state.injected, state.whole),
        "rollouts": [seen.rollout for seen in (there, back) if seen is not None],
        "requests": total["requests"] if total is not None else None,
        "harmed": total["failed"] if total is not None else None,
        "lost": sum(f.transport and state.began <= f.at <= ended for f in failures),
        "traffic": spans,
        "counts_lost": len({reading.segment for reading in readings.values()}) > 1,
    }
    if plan.fault in EDGE_FAULTS and slot is not None and (begin := readings.get("begin")) is not None:
        end = readings.get("home") or readings.get("end")
        facts = end.since(begin).facts(slot) if end is not None else None
        receipt["exposed"] = {"requests": facts.requests, "failed": facts.errors} if facts is not None else None
    return receipt


def _traffic(readings: Mapping[str, Reading], exposed: bool) -> dict[str, Any]:
    """What clients saw by part: ``back`` until the older release had all, ``hold``, ``forth``, and ``after``."""
    order = sorted(readings.items(), key=lambda item: item[1].at)
    found: dict[str, Any] = {}
    for (label, start), (_, stop) in pairwise(order):
        name = "exposed" if exposed and label == "begin" else SPANS.get(label, label)
        seen = _between(start, stop)
        if seen is not None:
            found[name] = seen
    return found


def _between(start: Reading | None, stop: Reading | None) -> dict[str, Any] | None:
    if start is None or stop is None or stop.at <= start.at:
        return None
    facts = stop.since(start).total()
    return {
        "seconds": round(stop.at - start.at, 3),
        "requests": facts.requests,
        "failed": facts.errors,
        "p50_ms": _ms(facts.p50),
        "p99_ms": _ms(facts.p99),
    }


def _span(start: float | None, stop: float | None) -> float | None:
    return round(max(0.0, stop - start), 3) if start is not None and stop is not None else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
