"""Which run may begin its next stage: turns, one run an environment, freezes, and no older commit over a newer one.

Nothing is locked: who holds an environment follows from the runs' own states, so a lock cannot be left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from crossfade.domain.pipeline.freeze import Freeze, Zones, frozen_until
from crossfade.domain.pipeline.plan import QueuePolicy, Stage
from crossfade.domain.pipeline.run import Admitted, Event, Held, Run, Status, Supersede
from crossfade.domain.values import EnvKey

OLDER = "older"
"""`ports.pipeline.Relation` of a commit to the one that is live."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What is known of the environment that a stage deploys to. ``holder`` is a rollout under way that is no run's.

    ``relation`` is how the run's commit stands to the live one (same, older, newer, unrelated; empty: nothing is live, or
    nobody knows its commit), ``live`` names that one for people. ``fence`` is the environment's revision: what a deployment
    that was decided on this ground expects to find.
    """

    holder: int | None = None
    relation: str = ""
    live: str = ""
    fence: int = 0
    freezes: tuple[Freeze, ...] = ()


def wants(run: Run) -> Stage | None:
    """The stage that a run would begin next; None when one is at work, or it has ended."""
    stage = run.current
    if run.status.ended or stage is None or stage.status is Status.RUNNING:
        return None
    return run.plan.pipeline.stage(stage.name)


def place(run: Run) -> EnvKey | None:
    """The environment that the next stage deploys to."""
    stage = wants(run)
    return EnvKey(run.plan.service, stage.environment) if stage is not None and stage.environment else None


def superseded(run: Run, others: Sequence[Run]) -> Supersede | None:
    """Whether what a run does has become needless, since a later run of its branch is about a newer commit.

    Only its verification, and its waiting for an approval: what is being deployed goes on.
    """
    current = run.current
    if run.status.ended or current is None:
        return None
    newer = [
        other
        for other in others
        if other.id > run.id and other.plan.commit.depth > run.plan.commit.depth and _same_line(run, other)
    ]
    if current.name.deploys:
        if current.approval is None or current.rollout is not None or run.plan.pipeline.queue is not QueuePolicy.LATEST:
            return None
        key = EnvKey(run.plan.service, run.plan.pipeline.stage(current.name).environment)
        newer = [other for other in newer if place(other) == key]
    elif not run.plan.pipeline.supersede or current.attempt > 1:
        return None  # of one that was restarted, somebody has asked for just this one
    if not newer:
        return None
    other = max(newer, key=lambda one: one.id)
    return Supersede(f"superseded by run #{other.id}: {other.plan.commit.id[:7]} is newer on {run.plan.branch}")


def turn(run: Run, others: Sequence[Run], slots: int, ground: Ground | None, now: float, zones: Zones) -> Event | None:
    """What becomes of a run whose next stage waits: Admitted, Held with the reason, or Supersede; None: nothing to decide.

    ``others`` are all the other runs that have not ended, ``slots`` how many runs may verify at once, ``ground`` what is
    known of the environment when the stage deploys.
    """
    stage = wants(run)
    if stage is None:
        return None
    if not stage.name.deploys or ground is None:
        return _slot(run, stage, others, slots)
    return _environment(run, stage, others, ground, now, zones)


def _slot(run: Run, stage: Stage, others: Sequence[Run], slots: int) -> Event:
    at_work = [other for other in others if _verifies(other)]
    if len(at_work) >= slots:
        named = ", ".join(f"#{other.id}" for other in at_work[:5])
        return Held(
            f"waits for its turn: {named} {'is' if len(at_work) == 1 else 'are'} at work, {slots} may be at once"
        )
    # One that has begun goes before those that have not: each is brought to its end.
    before = [other for other in others if _waits_for_slot(other) and _rank(other) < _rank(run)]
    if len(before) >= slots - len(at_work):
        return Held(f"waits for its turn: {len(before)} before it")
    return Admitted(stage.name)


def _rank(run: Run) -> tuple[bool, int]:
    return (run.began is None, run.id)


def _verifies(run: Run) -> bool:
    stage = run.current
    return stage is not None and stage.status is Status.RUNNING and not stage.name.deploys


def _waits_for_slot(run: Run) -> bool:
    stage = wants(run)
    return stage is not None and not stage.name.deploys


def _environment(run: Run, stage: Stage, others: Sequence[Run], ground: Ground, now: float, zones: Zones) -> Event:
    key = EnvKey(run.plan.service, stage.environment)
    if ground.relation == OLDER:
        return Supersede(f"{run.plan.commit.id[:7]} is older than {ground.live}, which is live in {key}")
    waiting = [other for other in others if place(other) == key]
    if run.plan.pipeline.queue is QueuePolicy.LATEST:
        newer = [other for other in waiting if other.id > run.id and _same_line(run, other)]
        if newer:
            last = max(newer, key=lambda other: other.id)
            return Supersede(f"superseded by run #{last.id}, which waits for {key} too")
    for other in others:
        if _holds(other, key):
            return Held(f"waits for run #{other.id}, which holds {key}")
    if ground.holder is not None:
        return Held(f"waits for rollout #{ground.holder}, which holds {key}")
    before = min((other.id for other in waiting if other.id < run.id), default=None)
    if before is not None:
        return Held(f"waits for run #{before}, which is before it at {key}")
    frozen = frozen_until(ground.freezes, now, zones)
    if frozen is not None:
        freeze, until = frozen
        return Held(f"waits for the end of the freeze {freeze.name!r} of {key}, {_time(until, freeze, zones)}")
    return Admitted(stage.name)


def _holds(run: Run, key: EnvKey) -> bool:
    stage = run.current
    if stage is None or stage.status is not Status.RUNNING or not stage.name.deploys:
        return False
    return EnvKey(run.plan.service, run.plan.pipeline.stage(stage.name).environment) == key


def _same_line(one: Run, other: Run) -> bool:
    return one.plan.service == other.plan.service and one.plan.branch == other.plan.branch


def _time(at: float, freeze: Freeze, zones: Zones) -> str:
    return datetime.fromtimestamp(at, zones(freeze.zone)).strftime("%Y-%m-%d %H:%M ") + freeze.zone
