"""Tells others what becomes of runs, in a thread of its own: a slow forge must not hold up a stage."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from typing import Any, Final

from crossfade.domain.errors import CrossfadeError
from crossfade.domain.pipeline.plan import NodeKind
from crossfade.domain.pipeline.run import Run, StageState, Status
from crossfade.ports import Parts
from crossfade.ports.pipeline import News, Works

log = logging.getLogger("crossfade.messenger")

MOST_UNTOLD: Final = 5_000
_STATES: Final = {Status.PASSED: "success", Status.FAILED: "failure"}


class Messenger:
    """Takes changes of runs, and tells of them in order."""

    def __init__(self, parts: Parts, works: Works) -> None:
        self._parts, self._works = parts, works
        self._queue: queue.Queue[News | None] = queue.Queue(MOST_UNTOLD)
        self._thread = threading.Thread(target=self._run, name="messenger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        if self._thread.is_alive():
            self._thread.join(timeout=6)

    def changed(self, before: Run | None, after: Run) -> None:
        """Take note of what is worth telling. Never waits, never raises."""
        for news in told(before, after, self._parts.now(), self._works.url):
            try:
                self._queue.put_nowait(news)
            except queue.Full:
                log.warning("too much is waiting to be told: %s of run #%d is left out", news.kind, news.run)

    def _run(self) -> None:
        while (news := self._queue.get()) is not None:
            try:
                source = self._works.runs.source(news.service)
                if source is None or not (source.forge or source.sinks or source.chat):
                    continue
                secrets = self._parts.secrets.get(source.secrets) if source.secrets else {}
                for fault in self._works.notifier.tell(source, secrets, news):
                    log.warning("run #%d: %s", news.run, fault)
            except CrossfadeError as error:
                log.warning("run #%d: %s", news.run, error)
            except Exception:
                log.exception("telling of run #%d", news.run)


def told(before: Run | None, after: Run, now: float, url: str) -> Iterator[News]:
    """What is worth telling of a change."""

    def news(kind: str, state: str, sentence: str, mark: str = "", **facts: Any) -> News:
        plan = after.plan
        place = f"{url}/runs/{after.id}" if url else ""
        id = f"run-{after.id}-{kind}-{mark}" if mark else f"run-{after.id}-{kind}"
        return News(id, now, kind, after.id, plan.service, plan.commit.id, plan.branch, state, sentence, place, facts)

    if before is None:
        yield news("queued", "pending", f"run #{after.id} is queued")
        for stage in after.stages:
            yield news("stage-queued", "pending", f"{stage.name} waits", f"{stage.name}-1", stage=stage.name.value)
        return
    for old, new in zip(before.stages, after.stages, strict=True):
        mark = f"{new.name}-{new.attempt}"
        facts = _facts(after, new)
        if new.status is Status.RUNNING and old.status is not Status.RUNNING:
            yield news("stage-began", "pending", f"{new.name} is under way", mark, **facts)
        for was, node in zip(old.nodes, new.nodes, strict=True):
            if not node.status.ended or was.status.ended or node.outcome is None:
                continue
            kind = after.plan.pipeline.stage(new.name).node(node.name).kind
            state = _STATES.get(node.status, "cancelled")
            if kind is NodeKind.GATE:
                yield news("gate", state, node.outcome.sentence, f"{mark}-{node.name}", gate=node.name, **facts)
            if kind is NodeKind.DEPLOY and node.status is Status.PASSED:
                yield news(
                    str(node.outcome.numbers.get("change", "deployed")), state, node.outcome.sentence, mark, **facts
                )
            if kind is NodeKind.DEPLOY and node.outcome.numbers.get("change") == "rolledback":
                yield news("rolledback", state, node.outcome.sentence, mark, **facts)
        if new.status.ended and not old.status.ended:
            state = _STATES.get(new.status, "cancelled")
            sentence = new.reason or f"{new.name} {new.status}"
            yield news("stage-ended", state, sentence, mark, **facts)
    if after.status.ended and not before.status.ended:
        sentence = after.reason or f"run #{after.id} {after.status}"
        attempt = sum(stage.attempt for stage in after.stages)
        yield news("ended", _STATES.get(after.status, "cancelled"), sentence, str(attempt))


def _facts(run: Run, stage: StageState) -> dict[str, Any]:
    planned = run.plan.pipeline.stage(stage.name)
    return {
        "stage": stage.name.value,
        "environment": planned.environment or None,
        "release": str(stage.release) if stage.release is not None else None,
        "artifact": run.artifact.text if run.artifact is not None else None,
    }
