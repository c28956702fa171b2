"""A run: one passage of a commit through the pipeline, as a pure state machine: ``decide(run, event, now) -> run``.

::

    queued ─ commit ─ integration ─ staging ─ production ─ passed
       │        │          │           │          │
       └────────┴──────────┴───────────┴──────────┴── failed | cancelled | superseded   (restart: from the stage that failed)

What is to be done next follows from the state: `ready` names the nodes to begin, `stopping` says that what is at work is
to be ended, `settled` that a stage has nothing more to do. Laws (each a property test): a deployment in flight is never
cancelled; a node begins only when all that it needs has passed (a gate: has ended); a gate without a report never passes;
the digest that is deployed is the one that was tested; a run that has ended stays as it ended until it is restarted; an
event that was seen changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from crossfade.domain.access import Grant
from crossfade.domain.errors import Refused
from crossfade.domain.pipeline.plan import Commit, Node, NodeKind, Outcome, Pipeline, Stage, StageName
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber

MOST_TRIES: Final = 3
"""How often a node is begun in all when it fails for a reason that is not the commit's."""

MOST_ATTEMPTS: Final = 20
"""How often a stage is begun when the server ends during it: a step that takes the server with it must not do so for ever."""

LONGEST_SENTENCE: Final = 1000
MOST_DETAILS: Final = 200


class Status(enum.StrEnum):
    """Where a run, a stage or a node stands."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED: Final = frozenset({Status.PASSED, Status.FAILED, Status.SKIPPED, Status.CANCELLED, Status.SUPERSEDED})


@dataclass(frozen=True, slots=True)
class Build:
    """How the artifact is made: `crossfade.yaml`'s ``build``."""

    command: tuple[str, ...] = ()
    output: str = "."
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run is about; it never changes. ``config`` is the commit's `crossfade.yaml` as JSON.

    ``identity`` and ``grants`` are whose rights it deploys with. ``base`` is the commit that changed lines are counted from:
    the one in production when the run was asked for, empty when none is known. ``queued`` is epoch seconds.
    """

    pipeline: Pipeline
    repository: str
    commit: Commit
    branch: str
    trigger: str
    by: str
    identity: str
    grants: tuple[Grant, ...]
    queued: float
    config: str
    build: Build = field(default_factory=Build)
    base: str = ""
    environment: str = "pipeline"
    """Rights on the run are rights there: the last environment that the whole pipeline deploys to."""
    place: str = "crossfade.yaml"
    """Where in the repository that file is. Its folder is what steps, reports and the build are relative to."""
    fix: str = ""
    """Why what it deploys fixes what has used an error budget up; empty: it is no fix."""

    @property
    def service(self) -> str:
        return self.pipeline.service

    @property
    def key(self) -> EnvKey:
        """The environment whose rights count for the run."""
        return EnvKey(self.pipeline.service, self.environment)


@dataclass(frozen=True, slots=True)
class NodeState:
    """Where a node stands. ``tries`` counts how often it was begun in this attempt of its stage."""

    name: str
    status: Status = Status.PENDING
    began: float | None = None
    finished: float | None = None
    outcome: Outcome | None = None
    waiting: str = ""
    tries: int = 0


@dataclass(frozen=True, slots=True)
class StageState:
    """Where a stage stands. ``attempt`` counts from 1. ``release``, ``rollout`` and ``approval`` are of its deployment.

    ``since`` is when it began to wait as it does now.
    """

    name: StageName
    nodes: tuple[NodeState, ...]
    status: Status = Status.PENDING
    attempt: int = 1
    began: float | None = None
    finished: float | None = None
    waiting: str = ""
    reason: str = ""
    release: ReleaseNumber | None = None
    rollout: int | None = None
    approval: int | None = None
    since: float | None = None
    held: float = 0.0
    """Seconds that its nodes have waited, since it began."""
    waits: tuple[tuple[str, float], ...] = ()
    """Why it waited, each with the seconds, the last few."""

    def node(self, name: str) -> NodeState:
        return next(node for node in self.nodes if node.name == name)

    @property
    def in_flight(self) -> bool:
        """A rollout of its deployment has begun and has not ended."""
        return self.rollout is not None and any(
            node.name == NodeKind.DEPLOY and not node.status.ended for node in self.nodes
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it stands. ``ending`` is how it will end once all that is at work has ended."""

    id: int
    plan: RunPlan
    stages: tuple[StageState, ...]
    status: Status = Status.QUEUED
    began: float | None = None
    finished: float | None = None
    waiting: str = ""
    reason: str = ""
    artifact: Digest | None = None
    ending: Status | None = None

    @property
    def current(self) -> StageState | None:
        """The first stage that has not passed; None when all have."""
        return next((stage for stage in self.stages if stage.status is not Status.PASSED), None)

    def stage(self, name: str) -> StageState:
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def in_flight(self) -> bool:
        """A deployment of it is under way."""
        return any(stage.in_flight for stage in self.stages)


# --- what can happen to a run


@dataclass(frozen=True, slots=True)
class Held:
    """The current stage may not begin yet."""

    why: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """The current stage may begin now."""

    stage: StageName


@dataclass(frozen=True, slots=True)
class Began:
    """A node is begun."""

    stage: StageName
    node: str


@dataclass(frozen=True, slots=True)
class Waits:
    """A node that is at work waits, and why; an empty reason: not any more."""

    stage: StageName
    node: str
    why: str


@dataclass(frozen=True, slots=True)
class Deploying:
    """What became of the deployment of a stage so far: its release, the approval that it waits for, its rollout."""

    stage: StageName
    release: ReleaseNumber
    rollout: int | None = None
    approval: int | None = None


@dataclass(frozen=True, slots=True)
class NodeEnded:
    """A node has ended. ``artifact`` is what the artifact node has made. ``cancelled``: because it was told to."""

    stage: StageName
    node: str
    outcome: Outcome
    artifact: Digest | None = None
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Broke:
    """A stage cannot go on: its checkout or a dependent service could not be had, or its time is over."""

    stage: StageName
    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """Everything that was started for a stage has been taken down."""

    stage: StageName


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody wants it to end."""

    by: str


@dataclass(frozen=True, slots=True)
class Supersede:
    """A newer commit has made it needless. ``why`` is a sentence."""

    why: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Somebody wants it to go on from the stage that failed."""

    by: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """The server is back: what was at work in it is gone. Rollouts went on without it."""


Event = (
    Held | Admitted | Began | Waits | Deploying | NodeEnded | Broke | Closed | Cancel | Supersede | Restart | Resumed
)


def begin(id: int, plan: RunPlan) -> Run:
    """A run that waits for its first stage."""
    stages = tuple(StageState(stage.name, _fresh(stage)) for stage in plan.pipeline.stages)
    return Run(id, plan, stages, waiting="waits for its turn")


def decide(run: Run, event: Event, now: float) -> Run:
    """The run after the event. Raises Refused for a command that makes no sense now; other events never raise."""
    match event:
        case Restart(by=by):
            return _restart(run, by)
        case Cancel() if run.status.ended:
            raise Refused(f"Run #{run.id} has ended: it {run.status}.")
        case _ if run.status.ended:
            return run
        case Cancel(by=by):
            if run.in_flight:
                raise Refused(
                    f"Run #{run.id} is deploying: a deployment in flight is not cancelled.",
                    hint="`crossfade abort` takes its rollout back.",
                )
            return _end(run, Status.CANCELLED, f"cancelled by {by}", now)
        case Supersede(why=why):
            deploying = (current := run.current) is not None and current.rollout is not None
            return run if deploying else _end(run, Status.SUPERSEDED, why, now)
        case Resumed():
            return _resume(run)
        case Held(why=why):
            return _hold(run, why, now)
        case Admitted(stage=name):
            return _admit(run, name, now)
        case _:
            return _in_stage(run, event, now)


def ready(run: Run) -> tuple[Node, ...]:
    """The nodes of the current stage that are to be begun now, within the pipeline's ``parallel``."""
    stage = run.current
    if stage is None or stage.status is not Status.RUNNING or stopping(run):
        return ()
    nodes = run.plan.pipeline.stage(stage.name).nodes
    at_work = sum(node.status in (Status.RUNNING, Status.WAITING) for node in stage.nodes)
    may = [node for node in nodes if stage.node(node.name).status is Status.PENDING and _all_there(stage, node)]
    return tuple(may[: max(0, run.plan.pipeline.parallel - at_work)])


def stopping(run: Run) -> bool:
    """Whether what is at work is to be ended: all but a deployment in flight."""
    return run.ending is not None


def settled(run: Run) -> bool:
    """Whether the current stage runs and has nothing more to do: it is to be taken down."""
    stage = run.current
    if stage is None or stage.status is not Status.RUNNING:
        return False
    if any(node.status in (Status.RUNNING, Status.WAITING) for node in stage.nodes):
        return False
    return stopping(run) or not ready(run)


# --- inside


def _fresh(stage: Stage) -> tuple[NodeState, ...]:
    return tuple(NodeState(node.name) for node in stage.nodes)


def _all_there(stage: StageState, node: Node) -> bool:
    good = {Status.PASSED, Status.FAILED} if node.kind is NodeKind.GATE else {Status.PASSED}
    return all(stage.node(need).status in good for need in node.needs)


def _hold(run: Run, why: str, now: float) -> Run:
    stage = run.current
    if stage is None or stage.status is Status.RUNNING:
        return run
    said = _note_wait(replace(stage, status=Status.WAITING, since=stage.since or now), now)
    status = run.status if run.began is None else Status.WAITING
    return _with(replace(run, status=status, waiting=why), replace(said, waiting=why))


def _note_wait(stage: StageState, now: float) -> StageState:
    """Add the time since ``since`` to what it waited for."""
    if not stage.waiting or stage.since is None:
        return stage
    spent = dict(stage.waits)
    spent[stage.waiting] = spent.get(stage.waiting, 0.0) + max(0.0, now - stage.since)
    return replace(stage, waits=tuple(spent.items())[-5:], since=now)


def _admit(run: Run, name: StageName, now: float) -> Run:
    stage = run.current
    if stage is None or stage.name is not name or stage.status is Status.RUNNING:
        return run
    noted = _note_wait(stage, now)
    return _with(
        replace(run, status=Status.RUNNING, waiting="", began=run.began if run.began is not None else now),
        replace(noted, status=Status.RUNNING, waiting="", began=now, finished=None, since=None),
    )


def _in_stage(run: Run, event: Event, now: float) -> Run:
    stage = run.current
    if stage is None or stage.status is not Status.RUNNING or getattr(event, "stage", None) is not stage.name:
        return run
    match event:
        case Began(node=name):
            return _node(run, stage, name, _begin_node(now), {Status.PENDING})
        case Waits(node=name, why=why):
            status = Status.WAITING if why else Status.RUNNING
            changed = _node(
                run, stage, name, lambda n: replace(n, status=status, waiting=why), {Status.RUNNING, Status.WAITING}
            )
            return _wait_within(changed, changed.stage(stage.name), now)
        case Deploying(release=release, rollout=rollout, approval=approval):
            return _with(run, replace(stage, release=release, rollout=rollout, approval=approval))
        case NodeEnded():
            return _node_ended(run, stage, event, now)
        case Broke(reason=reason):
            return _end(_with(run, replace(stage, reason=reason)), Status.FAILED, f"{stage.name}: {reason}", now)
        case Closed():
            return _close(run, stage, now)
    return run


def _begin_node(now: float) -> Callable[[NodeState], NodeState]:
    return lambda node: replace(
        node, status=Status.RUNNING, began=now, finished=None, outcome=None, waiting="", tries=node.tries + 1
    )


def _node_ended(run: Run, stage: StageState, event: NodeEnded, now: float) -> Run:
    node = next((one for one in stage.nodes if one.name == event.node), None)
    if node is None or node.status not in (Status.RUNNING, Status.WAITING):
        return run
    outcome = _short(event.outcome)
    kind = run.plan.pipeline.stage(stage.name).node(node.name).kind
    if kind is NodeKind.GATE and outcome.finding == "no-data":
        outcome = replace(outcome, passed=False)
    if kind is NodeKind.ARTIFACT and outcome.passed and event.artifact is None:
        outcome = Outcome(False, "no artifact was made")
    again = outcome.infrastructure and not outcome.passed and node.tries < MOST_TRIES and not stopping(run)
    if event.cancelled:
        status = Status.CANCELLED
    elif again and kind is not NodeKind.DEPLOY:
        status = Status.PENDING
    else:
        status = Status.PASSED if outcome.passed else Status.FAILED
    done = replace(node, status=status, finished=now, outcome=outcome, waiting="")
    after = _skip(run, replace(stage, nodes=tuple(done if one.name == node.name else one for one in stage.nodes)))
    made = event.artifact if kind is NodeKind.ARTIFACT and outcome.passed else run.artifact
    return _wait_within(replace(run, artifact=made), after, now)


def _wait_within(run: Run, stage: StageState, now: float) -> Run:
    """What a running stage waits for is what its nodes wait for; the time is kept."""
    waiting = next((node.waiting for node in stage.nodes if node.waiting), "")
    if waiting != stage.waiting:
        spent = now - stage.since if stage.waiting and stage.since is not None else 0.0
        noted = _note_wait(stage, now)
        since = now if waiting else None
        stage = replace(noted, waiting=waiting, since=since, held=stage.held + max(0.0, spent))
    return _with(replace(run, waiting=waiting, status=Status.WAITING if waiting else Status.RUNNING), stage)


def _short(outcome: Outcome) -> Outcome:
    """What is kept of an outcome: sentences of a hostile report must not fill the ledger."""
    if len(outcome.sentence) <= LONGEST_SENTENCE and len(outcome.details) <= MOST_DETAILS:
        details = tuple(line[:LONGEST_SENTENCE] for line in outcome.details)
        return outcome if details == outcome.details else replace(outcome, details=details)
    more = len(outcome.details) - MOST_DETAILS
    details = tuple(line[:LONGEST_SENTENCE] for line in outcome.details[:MOST_DETAILS])
    return replace(
        outcome,
        sentence=outcome.sentence[:LONGEST_SENTENCE],
        details=(*details, f"and {more} more") if more > 0 else details,
    )


def _skip(run: Run, stage: StageState) -> StageState:
    """Skip what can never begin: a need has failed, or was skipped (of gates: was skipped or cancelled)."""
    nodes = {node.name: node for node in run.plan.pipeline.stage(stage.name).nodes}
    while True:
        states = {state.name: state for state in stage.nodes}
        lost = [
            state
            for state in stage.nodes
            if state.status is Status.PENDING
            and any(_never(nodes[state.name], states[n]) for n in nodes[state.name].needs)
        ]
        if not lost:
            return stage
        names = {state.name for state in lost}
        stage = replace(
            stage, nodes=tuple(replace(s, status=Status.SKIPPED) if s.name in names else s for s in stage.nodes)
        )


def _never(node: Node, need: NodeState) -> bool:
    if need.status in (Status.SKIPPED, Status.CANCELLED):
        return True
    return need.status is Status.FAILED and node.kind is not NodeKind.GATE


def _close(run: Run, stage: StageState, now: float) -> Run:
    if not settled(run):
        return run
    passed = all(node.status is Status.PASSED for node in stage.nodes) and run.ending is None
    if passed:
        closed = replace(stage, status=Status.PASSED, finished=now, reason="")
        after = _with(replace(run, waiting="", status=Status.RUNNING), closed)
        following = after.current
        if following is None:
            return replace(after, status=Status.PASSED, finished=now, reason="")
        return _with(after, replace(following, since=now))
    if run.ending is not None:
        nodes = tuple(replace(n, status=Status.CANCELLED) if n.status is Status.PENDING else n for n in stage.nodes)
        how = Status.FAILED if run.ending is Status.FAILED else Status.CANCELLED
        closed = replace(stage, status=how, finished=now, nodes=nodes, reason=stage.reason or run.reason)
        return _finish(_with(run, closed), run.ending, run.reason, now)
    failed = next(node for node in stage.nodes if node.status is not Status.PASSED and node.outcome is not None)
    assert failed.outcome is not None
    reason = f"{failed.name}: {failed.outcome.sentence}"
    closed = replace(stage, status=Status.FAILED, finished=now, reason=reason)
    return _finish(_with(run, closed), Status.FAILED, f"{stage.name}: {reason}", now)


def _end(run: Run, how: Status, reason: str, now: float) -> Run:
    """End it so once nothing is at work any more; at once when no stage runs."""
    if run.ending is not None:
        return run
    stage = run.current
    if stage is not None and stage.status is Status.RUNNING:
        return replace(run, ending=how, reason=reason)
    if stage is not None:
        noted = _note_wait(stage, now)
        cancelled = replace(noted, status=Status.CANCELLED, finished=now, waiting="", reason=reason)
        run = _with(run, cancelled)
    return _finish(run, how, reason, now)


def _finish(run: Run, how: Status, reason: str, now: float) -> Run:
    return replace(run, status=how, reason=reason, finished=now, waiting="", ending=None)


def _restart(run: Run, by: str) -> Run:
    if run.status not in (Status.FAILED, Status.CANCELLED):
        how = "under way" if not run.status.ended else str(run.status)
        raise Refused(
            f"Run #{run.id} is {how}: only one that failed or was cancelled is restarted.",
            hint="`crossfade run` begins a new one.",
        )
    stage = run.current
    assert stage is not None  # all stages passed is another status
    pending = replace(
        stage,
        nodes=_fresh(run.plan.pipeline.stage(stage.name)),
        status=Status.PENDING,
        attempt=stage.attempt + 1,
        began=None,
        finished=None,
        waiting="",
        reason="",
        release=None,
        rollout=None,
        approval=None,
        since=None,
    )
    waiting = f"restarted by {by}: waits for its turn"
    return _with(replace(run, status=Status.QUEUED, waiting=waiting, reason="", finished=None, ending=None), pending)


def _resume(run: Run) -> Run:
    """Begin the current stage anew, since its checkout and services are gone; its deployment is what it was."""
    stage = run.current
    if stage is None or stage.status is not Status.RUNNING:
        return run
    nodes = tuple(_resumed(stage, node) for node in stage.nodes)
    fresh = _skip(run, replace(stage, nodes=nodes, attempt=stage.attempt + 1))
    after = _with(replace(run, waiting="", status=Status.RUNNING), fresh)
    if fresh.attempt <= MOST_ATTEMPTS or run.in_flight or run.ending is not None:
        return after
    return replace(
        after, ending=Status.FAILED, reason=f"{stage.name}: the server ended {MOST_ATTEMPTS} times during it"
    )


def _resumed(stage: StageState, node: NodeState) -> NodeState:
    """A deployment whose rollout goes on stays at work: it is looked at again. Everything else is done again."""
    if node.name != NodeKind.DEPLOY:
        return NodeState(node.name)
    if node.status.ended or stage.in_flight:
        return node
    return NodeState(node.name)


def _node(run: Run, stage: StageState, name: str, change: Callable[[NodeState], NodeState], only: set[Status]) -> Run:
    nodes = tuple(change(n) if n.name == name and n.status in only else n for n in stage.nodes)
    return _with(run, replace(stage, nodes=nodes))


def _with(run: Run, stage: StageState) -> Run:
    return replace(run, stages=tuple(stage if one.name == stage.name else one for one in run.stages))
