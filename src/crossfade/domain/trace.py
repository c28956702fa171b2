"""Rollouts and runs as traces: spans as data, made from the journal when they have ended.

Ids are derived, never drawn, so that the same rollout is the same trace however often it is sent. Attributes are
those of OpenTelemetry's semantic conventions for deployments, CI/CD and version control, and ``crossfade.*``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from crossfade.domain.environment import Entry
from crossfade.domain.pipeline.plan import NodeKind
from crossfade.domain.pipeline.run import NodeState, Run, StageState, Status
from crossfade.domain.release import Canary, Release
from crossfade.domain.rollout import Kind, Phase, Rollout
from crossfade.domain.values import EVERYTHING

Value = str | bool | int | float

_TASKS: Final = {NodeKind.ARTIFACT: "build", NodeKind.DEPLOY: "deploy"}
_RESULTS: Final = {Status.PASSED: "success", Status.FAILED: "failure", Status.SKIPPED: "skip"}
_USER: Final = re.compile(r"^([a-z][a-z0-9+.-]*://)[^/@]*@")


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened within a span ``at`` (epoch seconds)."""

    at: float
    name: str
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """``trace`` is 32, ``id`` and ``parent`` are 16 hexadecimal digits; no parent: it is the root. Times are epoch seconds.

    ``error`` says what went wrong; empty: nothing did. ``links`` are traces and spans elsewhere. ``server``: it answers
    somebody's wish, as a run of a pipeline does.
    """

    trace: str
    id: str
    parent: str
    name: str
    began: float
    ended: float
    attributes: Mapping[str, Value] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    error: str = ""
    server: bool = False


def trace_id(seed: bytes, what: str) -> str:
    """The trace of ``rollout-8`` or ``run-7`` of the installation that ``seed`` belongs to."""
    return hashlib.sha256(b"trace " + seed + what.encode()).hexdigest()[:32]


def span_id(seed: bytes, what: str) -> str:
    """The id of a span by its place, for example ``rollout-8/shifting``."""
    return hashlib.sha256(b"span " + seed + what.encode()).hexdigest()[:16]


def traceparent(seed: bytes, what: str) -> str:
    """The root of a trace as W3C Trace Context writes it."""
    return f"00-{trace_id(seed, what)}-{span_id(seed, what)}-01"


def of_rollout(
    seed: bytes, state: Rollout, entries: Sequence[Entry], ended: float, release: Release, url: str, run: int | None
) -> tuple[Span, ...]:
    """A rollout that has ended: the root, a span for each phase it went through, one for each step of a canary.

    ``run`` is the run of a pipeline that the release came from; both traces name each other.
    """
    plan, what = state.plan, f"rollout-{state.id}"
    trace, root = trace_id(seed, what), span_id(seed, what)
    ended = max([state.began, ended, *(entry.at for entry in entries)])
    went_back = state.phase is Phase.ROLLED_BACK
    attributes: dict[str, Value] = {
        "deployment.id": what,
        "deployment.name": f"{plan.key} {plan.candidate}",
        "deployment.status": "failed" if went_back else "succeeded",
        "deployment.environment.name": str(plan.key.environment),
        "crossfade.service": str(plan.key.service),
        "crossfade.rollout.kind": plan.kind.value,
        "crossfade.rollout.outcome": state.phase.value,
        "crossfade.rollout.strategy": "canary" if isinstance(plan.strategy, Canary) else "blue-green",
        "crossfade.release.candidate": str(plan.candidate),
        "artifact.hash": release.digest.text,
    }
    if plan.baseline is not None:
        attributes["crossfade.release.baseline"] = str(plan.baseline)
    if release.label:
        attributes["crossfade.release.label"] = release.label
    if url:
        attributes["url.full"] = url
    if went_back:
        attributes["error.type"] = "rolled_back"
    marks = [_moved(entry) for entry in entries if entry.weight is not None]
    if state.verdict is not None:
        said: dict[str, Value] = {
            "crossfade.verdict.finding": state.verdict.finding.value,
            "crossfade.verdict.reason": state.verdict.sentence,
        }
        marks.append(Mark(ended, "verdict", said))
    links = ((trace_id(seed, f"run-{run}"), span_id(seed, f"run-{run}")),) if run is not None else ()
    name = "rollback" if plan.kind is Kind.ROLLBACK else "rollout"
    whole = Span(
        trace, root, "", f"{name} {plan.key}", state.began, ended, attributes, tuple(marks), links,
        state.reason or "rolled back" if went_back else "",
    )  # fmt: skip
    return whole, *_phases(seed, state, entries, whole)


def _phases(seed: bytes, state: Rollout, entries: Sequence[Entry], whole: Span) -> Iterator[Span]:
    """What lies between two changes of the phase. A phase that is entered again (after a kill, say) is another span."""
    first = Phase.MIGRATING if state.plan.schema else Phase.PREPARING
    starts: list[tuple[float, str]] = [(state.began, first.value)]
    for entry in entries:
        if entry.phase != starts[-1][1]:
            starts.append((max(entry.at, starts[-1][0]), entry.phase))
    for nth, ((began, phase), (end, _)) in enumerate(pairwise([*starts, (whole.ended, "")])):
        if Phase(phase).ended:
            continue
        id = span_id(seed, f"rollout-{state.id}/{nth}-{phase}")
        mine = [entry for entry in entries if began <= entry.at < end or entry.at == end == whole.ended]
        marks = tuple(Mark(entry.at, "journal", {"crossfade.journal": entry.text}) for entry in mine)
        error = state.reason if phase == Phase.ROLLING_BACK else ""
        said = {"crossfade.phase": phase}
        yield Span(whole.trace, id, whole.id, phase, began, end, said, marks, error=error)
        if phase == Phase.SHIFTING:
            yield from _steps(seed, state, [entry for entry in mine if entry.weight is not None], id, whole, end)


def _steps(seed: bytes, state: Rollout, moves: Sequence[Entry], parent: str, whole: Span, end: float) -> Iterator[Span]:
    for nth, (move, following) in enumerate(pairwise([*moves, None])):
        assert move is not None
        until = following.at if following is not None else end
        id = span_id(seed, f"rollout-{state.id}/step-{parent}-{nth}")
        weight = move.weight or 0
        share = f"{weight / EVERYTHING.bp:.2%}".replace(".00%", "%")
        said: dict[str, Value] = {"crossfade.weight": weight}
        yield Span(whole.trace, id, parent, f"step at {share}", move.at, max(move.at, until), said)


def _moved(entry: Entry) -> Mark:
    return Mark(entry.at, "weight moved", {"crossfade.weight": entry.weight or 0, "crossfade.journal": entry.text})


def of_run(seed: bytes, run: Run, ended: float, url: str) -> tuple[Span, ...]:
    """A run that has ended: the root, a span for each stage that began, one for each node in it that did."""
    plan, what = run.plan, f"run-{run.id}"
    began = run.began if run.began is not None else plan.queued
    ended = max(began, run.finished or ended)
    result = _RESULTS.get(run.status, "cancellation")
    attributes: dict[str, Value] = {
        "cicd.pipeline.name": plan.service,
        "cicd.pipeline.run.id": str(run.id),
        "cicd.pipeline.action.name": "RUN",
        "cicd.pipeline.result": result,
        "vcs.ref.head.revision": plan.commit.id,
        "vcs.ref.head.name": plan.branch,
        "vcs.repository.url.full": _USER.sub(r"\1", plan.repository),
        "crossfade.run.trigger": plan.trigger,
        "crossfade.run.queued_for": round(max(0.0, began - plan.queued), 3),
    }
    if url:
        attributes["cicd.pipeline.run.url.full"] = url
    if run.artifact is not None:
        attributes["artifact.hash"] = run.artifact.text
    if result == "failure":
        attributes["error.type"] = "run_failed"
    trace, root = trace_id(seed, what), span_id(seed, what)
    links = tuple(
        (trace_id(seed, f"rollout-{stage.rollout}"), span_id(seed, f"rollout-{stage.rollout}"))
        for stage in run.stages
        if stage.rollout is not None
    )
    whole = Span(
        trace, root, "", f"RUN {plan.service}", began, ended, attributes, links=links,
        error=run.reason or "failed" if result == "failure" else "", server=True,
    )  # fmt: skip
    return whole, *(span for stage in run.stages for span in _stage(seed, run, stage, whole, url))


def _stage(seed: bytes, run: Run, stage: StageState, whole: Span, url: str) -> Iterator[Span]:
    if stage.began is None:
        return
    what = f"run-{run.id}/{stage.name}-{stage.attempt}"
    began, ended = _within(whole, stage.began, stage.finished)
    error = stage.reason or "failed" if stage.status is Status.FAILED else ""
    said: dict[str, Value] = {"crossfade.stage": stage.name.value, "crossfade.stage.attempt": stage.attempt}
    if stage.held:
        said["crossfade.stage.waited"] = round(stage.held, 3)
    span = Span(whole.trace, span_id(seed, what), whole.id, f"stage {stage.name}", began, ended, said, error=error)
    yield span
    planned = run.plan.pipeline.stage(stage.name)
    for node in stage.nodes:
        if node.began is not None:
            kind = planned.node(node.name).kind
            yield _node(seed, f"{what}/{node.name}", kind, node, span, url, stage)


def _node(seed: bytes, what: str, kind: NodeKind, node: NodeState, stage: Span, url: str, state: StageState) -> Span:
    assert node.began is not None
    began, ended = _within(stage, node.began, node.finished)
    result = _RESULTS.get(node.status, "cancellation")
    attributes: dict[str, Value] = {
        "cicd.pipeline.task.name": node.name,
        "cicd.pipeline.task.type": _TASKS.get(kind, "test"),
        "cicd.pipeline.task.run.id": f"{what}-{node.tries}",
        "cicd.pipeline.task.run.result": result,
        "crossfade.node.kind": kind.value,
    }
    if url:
        attributes["cicd.pipeline.task.run.url.full"] = url
    if node.outcome is not None:
        attributes["crossfade.outcome"] = node.outcome.sentence
        attributes["crossfade.outcome.cached"] = node.outcome.cached
    if result == "failure":
        attributes["error.type"] = f"{kind.value}_failed"
    failed = node.outcome.sentence if node.outcome is not None else "failed"
    rollout = state.rollout if kind is NodeKind.DEPLOY else None
    links = (
        ((trace_id(seed, f"rollout-{rollout}"), span_id(seed, f"rollout-{rollout}")),) if rollout is not None else ()
    )
    span = Span(stage.trace, span_id(seed, what), stage.id, node.name, began, ended, attributes, links=links)
    return replace(span, error=failed) if result == "failure" else span


def _within(around: Span, began: float, finished: float | None) -> tuple[float, float]:
    """A clock that was set back makes no span that ends before it begins, or that leaves the one around it."""
    start = min(max(began, around.began), around.ended)
    return start, min(max(start, finished if finished is not None else around.ended), around.ended)
