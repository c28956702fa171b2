"""What can be seen of runs: as data, their logs, and how long commits take on their way."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from crossfade.domain.errors import Invalid, NotFound
from crossfade.domain.pipeline.plan import StageName
from crossfade.domain.pipeline.run import NodeState, Run, StageState, Status
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Parts
from crossfade.ports.pipeline import Works

LARGEST_PART: Final = 1 << 20
"""Bytes of a log that are given at once, at most."""


class RunViews:
    """All that is read of runs."""

    def __init__(self, parts: Parts, works: Works) -> None:
        self._parts, self._works = parts, works

    def key(self, id: int) -> EnvKey:
        """The environment whose rights count for a run. Raises NotFound."""
        return self._works.runs.run(id).plan.key

    def run(self, id: int) -> dict[str, Any]:
        """One run as data. Raises NotFound."""
        return self._data(self._works.runs.run(id), True)

    def runs(
        self,
        service: str | None = None,
        limit: int = 50,
        before: int | None = None,
        seen: Callable[[EnvKey], bool] = lambda _: True,
    ) -> list[dict[str, Any]]:
        """The last runs that ``seen`` lets through, newest first, without their nodes."""
        found: list[dict[str, Any]] = []
        while len(found) < limit:
            page = self._works.runs.runs(service, limit=max(limit, 50), before=before)
            found += [self._data(run, False) for run in page if seen(run.plan.key)]
            if len(page) < max(limit, 50):
                break
            before = page[-1].id
        return found[:limit]

    def _data(self, run: Run, whole: bool) -> dict[str, Any]:
        plan = run.plan
        return {
            "id": run.id,
            "service": plan.service,
            "key": str(plan.key),
            "repository": plan.repository,
            "commit": plan.commit.id,
            "short": plan.commit.id[:7],
            "subject": plan.commit.subject,
            "author": plan.commit.author,
            "committed": plan.commit.at,
            "branch": plan.branch,
            "trigger": plan.trigger,
            "by": plan.by,
            "status": run.status.value,
            "ended": run.status.ended,
            "waiting": run.waiting,
            "reason": run.reason,
            "artifact": run.artifact.text if run.artifact is not None else None,
            "queued": plan.queued,
            "began": run.began,
            "finished": run.finished,
            "now": self._parts.now(),
            "stages": [self._stage(run, stage, whole) for stage in run.stages],
        }

    def _stage(self, run: Run, stage: StageState, whole: bool) -> dict[str, Any]:
        planned = run.plan.pipeline.stage(stage.name)
        return {
            "name": stage.name.value,
            "status": stage.status.value,
            "attempt": stage.attempt,
            "began": stage.began,
            "finished": stage.finished,
            "waiting": stage.waiting,
            "reason": stage.reason,
            "environment": planned.environment or None,
            "release": str(stage.release) if stage.release is not None else None,
            "rollout": stage.rollout,
            "approval": stage.approval,
            "nodes": [self._node(run, stage, node) for node in stage.nodes] if whole else [],
        }

    def _node(self, run: Run, stage: StageState, node: NodeState) -> dict[str, Any]:
        planned = run.plan.pipeline.stage(stage.name).node(node.name)
        outcome = node.outcome
        return {
            "name": node.name,
            "kind": planned.kind.value,
            "needs": list(planned.needs),
            "status": node.status.value,
            "began": node.began,
            "finished": node.finished,
            "sentence": outcome.sentence if outcome is not None else "",
            "finding": outcome.finding if outcome is not None else None,
            "details": list(outcome.details) if outcome is not None else [],
            "numbers": dict(outcome.numbers) if outcome is not None else {},
            "cached": outcome is not None and outcome.cached,
            "flaky": outcome is not None and outcome.flaky,
            "waiting": node.waiting,
            "log": self._log(run, stage, node.name).exists(),
        }

    def committed(self, service: str, release: ReleaseNumber) -> float | None:
        """When the commit was made that a release came from (epoch s); None when no run has built it."""
        number = self._works.runs.run_of(service, release)
        return self._works.runs.run(number).plan.commit.at if number is not None else None

    def counts(self, limit: int) -> Mapping[tuple[str, str], int]:
        """How many of the newest runs there are by service and status."""
        return self._works.runs.counts(limit)

    # --- logs

    def _log(self, run: Run, stage: StageState, node: str) -> Path:
        return self._works.folder / str(run.id) / f"{stage.name}-{stage.attempt}" / "logs" / f"{node}.log"

    def log(self, id: int, stage: str, node: str, offset: int = 0, limit: int = 65_536) -> dict[str, Any]:
        """A part of a node's log from a byte offset on: ``text``, ``next`` offset, ``size``, and whether it ``ended``.

        What is no UTF-8 is shown as replacement characters; a character is never cut in two. Raises NotFound, Invalid.
        """
        if offset < 0 or not 4 <= limit <= LARGEST_PART:
            raise Invalid("offset, limit", (offset, limit), f"an offset from 0 on, 4 to {LARGEST_PART} bytes")
        run = self._works.runs.run(id)
        state = next((one for one in run.stages if one.name == stage), None)
        known = state is not None and (node == "services" or any(one.name == node for one in state.nodes))
        if state is None or not known:
            raise NotFound(f"Run #{id} has no node {node!r} in a stage {stage!r}.", hint=f"`crossfade runs {id}`")
        ended = state.status.ended or any(one.name == node and one.status.ended for one in state.nodes)
        try:
            with self._log(run, state, node).open("rb") as file:
                size = file.seek(0, 2)
                file.seek(min(offset, size))
                found = file.read(limit)
        except FileNotFoundError:
            return {"text": "", "next": offset, "size": 0, "ended": ended}
        at_end = offset + len(found) >= size
        whole = found if at_end and ended else found[: _whole(found)]
        return {
            "text": whole.decode("utf-8", "replace"),
            "next": min(offset, size) + len(whole),
            "size": size,
            "ended": ended and at_end,
        }

    # --- the value stream

    def value_stream(self, service: str, limit: int = 50) -> dict[str, Any]:
        """How long the last commits took from commit to production, and what they waited for. Seconds throughout."""
        rows = [_flow(run) for run in self._works.runs.runs(service, limit=limit)]
        leads = [row["lead"] for row in rows if row["lead"] is not None]
        return {
            "service": service,
            "runs": rows,
            "summary": {
                "deployments": len(leads),
                "lead_median": statistics.median(leads) if leads else None,
                "stages": [_summary(name, rows) for name in StageName],
            },
        }


def _whole(found: bytes) -> int:
    """How many bytes to give so that no character of several bytes is cut."""
    for back in range(1, min(4, len(found)) + 1):
        byte = found[-back]
        if byte & 0xC0 == 0x80:
            continue
        wide = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return len(found) - back if wide > back else len(found)
    return len(found)


def _flow(run: Run) -> dict[str, Any]:
    last = run.stages[-1] if run.stages else None
    reached = last is not None and last.name is StageName.PRODUCTION and last.status is Status.PASSED
    finished = last.finished if last is not None and reached else None
    # One that changed nothing in production brought nothing there.
    deploy = last.nodes[0].outcome if last is not None and last.nodes else None
    changed = deploy is None or deploy.numbers.get("change") != "none"
    return {
        "id": run.id,
        "short": run.plan.commit.id[:7],
        "subject": run.plan.commit.subject,
        "branch": run.plan.branch,
        "status": run.status.value,
        "committed": run.plan.commit.at,
        "queued": run.plan.queued,
        "finished": run.finished,
        "lead": finished - run.plan.commit.at if finished is not None and changed else None,
        "stages": [_spent(stage) for stage in run.stages],
    }


def _spent(stage: StageState) -> dict[str, Any]:
    began, finished = stage.began, stage.finished
    worked = finished - began - stage.held if began is not None and finished is not None else None
    waits = dict(stage.waits)
    return {
        "name": stage.name.value,
        "status": stage.status.value,
        "waited": sum(waits.values()),
        "worked": worked,
        "why": max(waits, key=lambda why: waits[why], default=""),
    }


def _summary(name: StageName, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    found = [
        stage for row in rows for stage in row["stages"] if stage["name"] == name.value and stage["worked"] is not None
    ]
    return {
        "name": name.value,
        "n": len(found),
        "failed": sum(stage["status"] == "failed" for stage in found),
        "waited_median": statistics.median([stage["waited"] for stage in found]) if found else None,
        "worked_median": statistics.median([stage["worked"] for stage in found]) if found else None,
    }
