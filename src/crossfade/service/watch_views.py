"""Watches as data: what a record of one says to people and programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from crossfade.domain.analysis import against_profile as against
from crossfade.domain.analysis.sample import History
from crossfade.domain.watch import Phase, Watch
from crossfade.ports import Record

_STATE = TypeAdapter(Watch)
_HISTORY = TypeAdapter(History)


def state_of(record: Record) -> Watch:
    """The machine's state that a record keeps."""
    return replace(_STATE.validate_python(record.data["watch"]), id=record.id)


def sentence_of(state: Watch) -> str:
    """What a watch has come to, for people."""
    release = state.plan.release
    match state.phase:
        case Phase.WATCHING:
            return f"{release} is watched" + (f"; {state.waiting}" if state.waiting else "")
        case Phase.PASSED if state.cause is None:
            return f"{release} was watched, and nothing was found"
        case _:
            cause = f"{state.cause.sentence}; " if state.cause is not None else ""
            return f"{release}: {cause}{state.reason}"


def state_data(state: Watch) -> Any:
    """As JSON, for `state_of`."""
    return _STATE.dump_python(state, mode="json")


def view(record: Record, now: float) -> dict[str, Any]:
    """One without its journal."""
    state = state_of(record)
    plan, cause = state.plan, state.cause
    return {
        "id": record.id,
        "service": plan.key.service,
        "environment": plan.key.environment,
        "rollout": plan.rollout,
        "release": str(plan.release),
        "previous": str(plan.previous) if plan.previous else None,
        "on_burn": plan.on_burn.value,
        "phase": state.phase.value,
        "ended": state.phase.ended,
        "began": plan.began,
        "until": plan.until,
        "entered": state.entered,
        "ended_at": record.ended,
        "cause": {"means": cause.means.value, "name": cause.name, "sentence": cause.sentence, "began": cause.began}
        if cause is not None
        else None,
        "sentence": sentence_of(state),
        "refused": state.refused,
        "waiting": state.waiting,
        "done": [{"text": d.text, "target": d.target, "at": d.at, "rollout": d.rollout} for d in state.done],
        "verdict": record.data["sight"]["verdict"],
        "receipt": record.data["receipt"],
        "now": now,
    }


def detail(record: Record, now: float) -> dict[str, Any]:
    """One with its journal, the profile it holds the release to, and the plans that were made."""
    data = record.data
    profile = against.profile_of(_HISTORY.validate_python(data["sight"]["history"]))
    return {
        **view(record, now),
        "journal": data["journal"],
        "plans": data["plans"],
        "profile": {
            "requests": profile.requests,
            "seconds": profile.seconds,
            "rate": profile.rate,
            "why_not": profile.why_not,
            "tests": [{"name": t.name, "before": t.profile, "limit": t.limit} for t in profile.tests],
        },
    }
