"""A rollout as a pure state machine: ``decide(state, event, now) -> (state, actions)``.

::

    (migrating ─) preparing ─ checking ─ connecting ─ ready ─┬─ shifting (canary: step after step) ─┬─ promoting ─ promoted
        │          │            │         │    └─ watching (blue-green: all at once) ──┤
        └──────────┴────────────┴─────────┴──────────────────────── rolling-back ──────┴─ rolled-back

Laws (each a property test): weights sum to 10 000; a failed verdict never raises the candidate's weight; an event
that was seen changes nothing; every state reaches an end; before `promoting` every state can return to the baseline.
`promoting` is the point of no return of this rollout: from there one goes back by another rollout, a rollback.

A failed verdict is answered by the cheapest remedy (`domain.rollback`): a flag whose variant is to blame is killed and the
step begins anew, at most once a flag; everything else goes back.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from crossfade.domain.actions import (
    Action,
    ClearSlot,
    Close,
    Commit,
    Connect,
    Discard,
    DiscardControl,
    KillFlag,
    Migrate,
    Probe,
    SetSplit,
    Snapshot,
    StartControl,
    StartReplicas,
)
from crossfade.domain.analysis.policy import Against, Analysis
from crossfade.domain.analysis.step import Move, outcome
from crossfade.domain.analysis.verdict import Finding, Verdict
from crossfade.domain.errors import Refused
from crossfade.domain.release import BlueGreen, Canary, Limits, Strategy
from crossfade.domain.rollback import RollbackPlan, What
from crossfade.domain.traffic import Slot, Split
from crossfade.domain.values import EVERYTHING, NOTHING, EnvKey, ReleaseNumber, Weight, show_duration

MOST_LAPSES = 3
"""How often a lease may lapse in one rollout before it is taken back: a control plane that keeps dying can't judge."""

MOST_UNHEALTHY = 3
"""Consecutive unhealthy observations of a serving candidate that pull the rollback."""

MOST_RESTARTS = 3
"""Restarts of one replica before it becomes healthy that end the wait: it will not get better."""

MOST_KILLS = 3
"""Flags that one rollout may kill: a candidate that fails with a fourth is not saved by it."""

SETTLES = 3.0
"""Seconds after a kill until the step begins anew: every client has heard of it by then, and its last answers are out."""

SECOND_LOOK = 2.0
"""Seconds that a failed verdict waits at most when a variant seems to be to blame, and a few more answers may show it."""


class Kind(enum.StrEnum):
    """What the rollout is for. A rollback skips probes and the watch: the release has been live before."""

    DEPLOY = "deploy"
    ROLLBACK = "rollback"


class Phase(enum.StrEnum):
    """Where a rollout is."""

    MIGRATING = "migrating"
    PREPARING = "preparing"
    CHECKING = "checking"
    CONNECTING = "connecting"
    READY = "ready"
    SHIFTING = "shifting"
    WATCHING = "watching"
    PROMOTING = "promoting"
    ROLLING_BACK = "rolling-back"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"

    @property
    def ended(self) -> bool:
        return self in (Phase.PROMOTED, Phase.ROLLED_BACK)


KEPT: Final = "the database keeps what its migrations have added: older releases need nothing of it"
"""Of a rollout with migrations that goes back."""

EARLY = (Phase.MIGRATING, Phase.PREPARING, Phase.CHECKING, Phase.CONNECTING)
"""Before the candidate can have traffic."""


class Command(enum.StrEnum):
    """What a person may order."""

    PROMOTE = "promote"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided before the rollout began; never changes. Durations in seconds."""

    key: EnvKey
    kind: Kind
    candidate: ReleaseNumber
    baseline: ReleaseNumber | None
    slot: Slot
    strategy: Strategy
    start_timeout: float = 60.0
    analysis: Analysis = field(default_factory=Analysis)
    schema: str = ""
    """The version of the database's schema that the candidate needs first; empty where it needs none."""

    @property
    def home(self) -> Split:
        """The split to return to: all traffic on the baseline's slot."""
        return Split.wholly(self.slot.other if self.baseline is not None else self.slot)

    @property
    def fresh(self) -> bool:
        """Whether the candidate is compared with fresh replicas of the baseline."""
        compared = self.kind is Kind.DEPLOY and self.baseline is not None and isinstance(self.strategy, Canary)
        return compared and self.analysis.baseline is Against.FRESH

    def split(self, weight: Weight) -> Split:
        """The candidate at ``weight``. A control pool has as much, but leaves half of the baseline's to its old ones."""
        split = Split.giving(self.slot, weight)
        if not self.fresh or weight in (NOTHING, EVERYTHING):
            return split
        return split.with_control(self.slot.other, Weight(min(weight.bp, weight.rest.bp // 2)))

    @property
    def limits(self) -> Limits:
        return self.strategy.limits


@dataclass(frozen=True, slots=True)
class Killing:
    """A flag that the rollout has killed at ``at`` (epoch s). ``step`` is the label of the reading that its step began with."""

    flag: str
    variant: str
    why: str
    at: float
    step: str

    @property
    def name(self) -> str:
        """As answers tell the variant."""
        return f"{self.flag}={self.variant}"


@dataclass(frozen=True, slots=True)
class Rollout:
    """The state. ``weight`` is the candidate's share as last set; ``entered`` when the phase or step began (epoch s).

    ``considered`` are the plans that were made of failed verdicts, ``killed`` what came of them before going back.
    ``settles``: when a step that waits for a kill to be heard of begins anew. ``doubted``: since when a failed verdict waits
    for a second look, after which it counts whatever was seen since.
    """

    id: int
    plan: Plan
    phase: Phase = Phase.PREPARING
    step: int = 0
    weight: Weight = NOTHING
    began: float = 0.0
    entered: float = 0.0
    observed: float = 0.0
    paused: float | None = None
    pending: tuple[Action, ...] = ()
    sequence: int = 0
    verdict: Verdict | None = None
    waiting: str = ""
    unhealthy: int = 0
    lapses: int = 0
    reason: str = ""
    detail: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    by: str = ""
    considered: tuple[RollbackPlan, ...] = ()
    killed: tuple[Killing, ...] = ()
    settles: float | None = None
    doubted: float | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """An action was carried out."""

    action: str
    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class Failed:
    """An action could not be carried out: ``reason`` in a sentence, ``detail`` as lines (the last log lines, say)."""

    action: str
    reason: str
    detail: tuple[str, ...] = ()
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen at ``at``: ``faults`` of the candidate's health, empty when all its replicas are healthy.

    ``restarts``: the most often that one of its replicas ended by itself. ``lapsed``: the edge took the weight back
    because the lease ran out. ``verdict``: of the judge, over the current step; None while nothing is judged.
    ``remedies``: of a failed verdict, what it would take to end the harm.
    """

    at: float
    faults: tuple[str, ...] = ()
    restarts: int = 0
    lapsed: bool = False
    verdict: Verdict | None = None
    detail: tuple[str, ...] = ()
    remedies: RollbackPlan | None = None
    kind: Literal["observed"] = "observed"


@dataclass(frozen=True, slots=True)
class Ordered:
    """A person's command. ``id`` is unique; ``by`` says who."""

    id: str
    command: Command
    by: str
    kind: Literal["ordered"] = "ordered"


Event = Done | Failed | Observed | Ordered


def begin(id: int, plan: Plan, now: float) -> tuple[Rollout, tuple[Action, ...]]:
    """A new rollout with its first actions."""
    if plan.schema:
        state = Rollout(id=id, plan=plan, phase=Phase.MIGRATING, began=now, entered=now)
        # What clients see of a migration belongs into the receipt.
        state = _queue(state, _begun, lambda i: Migrate(i, plan.candidate, plan.schema))
    else:
        state = _prepare(_queue(Rollout(id=id, plan=plan, began=now, entered=now), _begun))
    return state, state.pending


def _begun(id: str) -> Action:
    return Snapshot(id, "begin")


def _prepare(state: Rollout) -> Rollout:
    plan = state.plan
    return _queue(
        state,
        lambda i: ClearSlot(i, plan.slot, plan.candidate),
        lambda i: StartReplicas(i, plan.slot, plan.candidate),
    )


def decide(state: Rollout, event: Event, now: float) -> tuple[Rollout, tuple[Action, ...]]:
    """The next state, and the actions that are to be carried out in order.

    An event that was seen before, or that is about something else, returns the state as it was. ``now`` is
    epoch seconds. Raises Refused for a command that the state does not allow, saying what is possible instead.
    """
    if state.phase.ended:
        return state, ()
    match event:
        case Done(action=action):
            if not state.pending or state.pending[0].id != action:
                return state, state.pending
            state = _done(state, state.pending[0], now)
        case Failed():
            if not state.pending or state.pending[0].id != event.action:
                return state, state.pending
            state = _failed(state, state.pending[0], event, now)
        case Observed():
            if event.at <= state.observed:
                return state, state.pending
            state = _observed(replace(state, observed=event.at, verdict=event.verdict or state.verdict), event, now)
        case Ordered():
            if event.id in state.seen:
                return state, state.pending
            allow(state, event.command)
            state = _ordered(replace(state, seen=(*state.seen, event.id)), event, now)
    return state, state.pending


def allow(state: Rollout, command: Command) -> None:
    """Raises Refused when the command makes no sense now."""
    name = f"rollout #{state.id}"
    if state.phase.ended:
        raise Refused(f"{name} has ended ({state.phase}).", hint="To go back, use `crossfade rollback`.")
    if state.phase is Phase.ROLLING_BACK:
        raise Refused(f"{name} is already going back: {state.reason}.", hint="See `crossfade status`.")
    if state.phase is Phase.PROMOTING:
        raise Refused(f"{name} is past its point of no return: {state.plan.candidate} has all the traffic.",
                      hint="Use `crossfade rollback` when it has ended.")  # fmt: skip
    match command:
        case Command.PAUSE if state.paused is not None:
            raise Refused(f"{name} is paused already.", hint="`crossfade resume` lets it go on.")
        case Command.RESUME if state.paused is None:
            raise Refused(f"{name} is not paused.", hint="See `crossfade status`.")
        case Command.PROMOTE if state.phase in EARLY:
            raise Refused(
                f"{name} cannot be promoted yet: {state.plan.candidate} has not passed its health checks.",
                hint="See `crossfade status`.",
            )
        case _:
            pass


def mark(state: Rollout) -> str:
    """The label of the reading from which the present step is judged: the one taken just before its weight was set."""
    step = "switch" if isinstance(state.plan.strategy, BlueGreen) else f"step-{state.step}"
    step = f"{step}-again-{state.lapses}" if state.lapses else step
    return f"{step}-without-{len(state.killed)}" if state.killed else step


def mark_of_kill(n: int) -> str:
    """The label of the reading that was taken just before the ``n``-th flag was killed, counted from 1."""
    return f"kill-{n}"


# --- what follows from each event


def _done(state: Rollout, action: Action, now: float) -> Rollout:
    state = replace(state, pending=state.pending[1:])
    if isinstance(action, SetSplit):
        state = replace(state, entered=now, unhealthy=0)
    if isinstance(action, KillFlag):
        killing = Killing(action.flag, action.variant, action.why, now, mark(state))
        state = replace(state, killed=(*state.killed, killing), settles=now + SETTLES)
    if state.pending:
        return state
    match state.phase:
        case Phase.MIGRATING:
            return _prepare(_enter(state, Phase.PREPARING, now))
        case Phase.PREPARING:
            return _enter(state, Phase.CHECKING, now)
        case Phase.CONNECTING:
            return _go_on(_enter(state, Phase.READY, now), now)
        case Phase.PROMOTING:
            return _enter(state, Phase.PROMOTED, now)
        case Phase.ROLLING_BACK:
            return _enter(state, Phase.ROLLED_BACK, now)
        case _:
            return state


def _failed(state: Rollout, action: Action, event: Failed, now: float) -> Rollout:
    if state.phase is Phase.ROLLING_BACK and not isinstance(action, SetSplit):
        # The traffic is home. What can't be tidied must not keep the environment from being free again.
        return _done(replace(state, detail=(*state.detail, f"left undone: {event.reason}")), action, now)
    if state.phase in (Phase.ROLLING_BACK, Phase.PROMOTING):
        # No way but forward: the same action stays first and is tried again.
        return replace(state, waiting=f"tries again: {event.reason}")
    if isinstance(action, KillFlag):
        why = f"{action.why}; flag {action.flag} could not be killed: {event.reason}"
        return _go_back(state, why, event.detail, now)
    return _go_back(state, event.reason, event.detail, now)


def _observed(state: Rollout, event: Observed, now: float) -> Rollout:
    if state.pending:
        return state
    match state.phase:
        case Phase.CHECKING:
            return _checked(state, event, now)
        case Phase.READY:
            return _go_on(state, now)
        case Phase.SHIFTING | Phase.WATCHING:
            return _guarded(state, event, now)
        case _:
            return state


def _checked(state: Rollout, event: Observed, now: float) -> Rollout:
    candidate = state.plan.candidate
    if not event.faults:
        plan = state.plan
        state = _enter(state, Phase.CONNECTING, now)
        state = _queue(state, lambda i: Connect(i, plan.slot, candidate))
        if plan.kind is Kind.DEPLOY:
            state = _queue(state, lambda i: Probe(i, plan.slot, candidate))
        if plan.fresh and plan.baseline is not None:
            baseline = plan.baseline
            state = _queue(state, lambda i: StartControl(i, baseline))
        return state
    if event.restarts >= MOST_RESTARTS:
        why = f"{candidate} keeps exiting ({event.restarts} times): {event.faults[0]}"
        return _go_back(state, why, (*event.faults[1:], *event.detail), now)
    if now - state.entered >= state.plan.start_timeout:
        why = f"{candidate} did not get healthy within {show_duration(state.plan.start_timeout)}: {event.faults[0]}"
        return _go_back(state, why, (*event.faults[1:], *event.detail), now)
    return replace(state, waiting=f"until {candidate} is healthy: {event.faults[0]}")


def _guarded(state: Rollout, event: Observed, now: float) -> Rollout:
    candidate = state.plan.candidate
    verdict = event.verdict
    if verdict is not None and verdict.finding is Finding.FAIL:
        return _remedied(state, verdict, event, now)
    if state.doubted is not None and now - state.doubted >= SECOND_LOOK:
        return _go_back(state, state.reason, event.detail, now)
    if event.faults:
        state = replace(state, unhealthy=state.unhealthy + 1, waiting=f"{candidate} is unhealthy: {event.faults[0]}")
        if state.unhealthy >= MOST_UNHEALTHY:
            return _go_back(state, f"{candidate} became unhealthy: {event.faults[0]}", event.detail, now)
        return state
    state = replace(state, unhealthy=0)
    if event.lapsed:
        state = replace(state, lapses=state.lapses + 1)
        if state.lapses > MOST_LAPSES:
            return _go_back(state, f"the lease lapsed {state.lapses} times: the control plane keeps stopping", (), now)
        # The edge took the weight back while nobody watched; the step is done again from its beginning.
        return _move(state, state.weight)
    if state.doubted is not None:
        return state
    if state.settles is not None:
        return state if now < state.settles else _move(state, state.weight)
    return _go_on(state, now)


def _remedied(state: Rollout, verdict: Verdict, event: Observed, now: float) -> Rollout:
    """End the harm: kill the flag whose variant is to blame, else go back. The weight rises in neither."""
    found = event.remedies
    if found is None:
        return _go_back(state, verdict.sentence, event.detail, now)
    remedy = found.remedy
    kills = remedy is not None and remedy.what is What.KILL_FLAG
    if not kills and found.leaning and len(state.killed) < MOST_KILLS:
        since = state.doubted if state.doubted is not None else now
        if now - since < SECOND_LOOK:
            return replace(
                state,
                doubted=since,
                reason=verdict.sentence,
                waiting=f"looks a second time whether {found.leaning} is to blame: {verdict.sentence}",
            )
    state = replace(state, considered=(*state.considered, found), doubted=None, reason="")
    if remedy is None or remedy.what is not What.KILL_FLAG or len(state.killed) >= MOST_KILLS:
        return _go_back(state, verdict.sentence, event.detail, now)
    flag, _, variant = remedy.target.partition("=")
    if any(one.flag == flag for one in state.killed):
        return _go_back(state, f"{verdict.sentence}; flag {flag} was killed for it before", event.detail, now)
    why = f"{verdict.sentence}; {remedy.why}"
    state = replace(state, verdict=None, waiting=f"until every client has heard that flag {flag} is killed")
    nth = len(state.killed) + 1
    return _queue(state, lambda i: Snapshot(i, mark_of_kill(nth)), lambda i: KillFlag(i, flag, variant, why))


def _ordered(state: Rollout, event: Ordered, now: float) -> Rollout:
    match event.command:
        case Command.ABORT:
            return _go_back(state, f"aborted by {event.by}", (), now)
        case Command.PAUSE:
            return replace(state, paused=now, waiting=f"paused by {event.by}", by=event.by)
        case Command.RESUME:
            assert state.paused is not None
            rested = now - max(state.paused, state.entered)
            state = replace(state, paused=None, waiting="", entered=state.entered + max(0.0, rested), by=event.by)
            busy = state.pending or state.settles is not None or state.doubted is not None
            return state if busy else _go_on(state, now)
        case Command.PROMOTE:
            return _promote(replace(state, paused=None, by=event.by), f"promoted by {event.by}", now)


# --- the strategies


def _go_on(state: Rollout, now: float) -> Rollout:
    """Advance when time and verdict allow it; else say what the rollout waits for."""
    if state.paused is not None:
        return replace(state, waiting=state.waiting or "paused")
    plan = state.plan
    if state.phase is Phase.READY:
        if plan.baseline is None or plan.kind is Kind.ROLLBACK:
            return _promote(state, "", now)
        if isinstance(plan.strategy, BlueGreen):
            if plan.strategy.manual:
                return replace(state, waiting="until somebody promotes it: `crossfade promote`")
            return _move(_enter(state, Phase.WATCHING, now), EVERYTHING)
        return _step(state, 0, now)
    spent = now - state.entered
    if isinstance(plan.strategy, BlueGreen):
        # The watch is there to pull back; nobody may have asked anything of a quiet service in its time.
        return replace(state, waiting="") if spent < plan.strategy.watch else _promote(state, "", now)
    found = outcome(plan.analysis, state.weight, _duration(state), spent, state.verdict)
    match found.move:
        case Move.NEXT:
            return _step(state, state.step + 1, now)
        case Move.BACK:
            return _go_back(state, found.why, (), now)
        case Move.STAY:
            return replace(state, waiting=found.why)


def _duration(state: Rollout) -> float:
    match state.plan.strategy:
        case BlueGreen(watch=watch):
            return watch
        case Canary(steps=steps):
            return steps[min(state.step, len(steps) - 1)].duration


def _step(state: Rollout, step: int, now: float) -> Rollout:
    strategy = state.plan.strategy
    assert isinstance(strategy, Canary)
    if step >= len(strategy.steps):
        return _promote(state, "", now)
    state = replace(_enter(state, Phase.SHIFTING, now), step=step)
    return _move(state, strategy.steps[step].weight)


def _move(state: Rollout, weight: Weight) -> Rollout:
    """Set the candidate's weight under a lease, with the signals read just before, from which the step is judged."""
    split = state.plan.split(weight)
    state = replace(state, weight=weight, verdict=None, waiting="", settles=None, doubted=None, reason="")
    return _queue(state, lambda i: Snapshot(i, mark(state)), lambda i: SetSplit(i, split, state.plan.home))


def _promote(state: Rollout, reason: str, now: float) -> Rollout:
    plan = state.plan
    state = replace(_enter(state, Phase.PROMOTING, now), weight=EVERYTHING, reason=reason, pending=())
    return _queue(
        state,
        lambda i: Snapshot(i, "promote"),
        lambda i: SetSplit(i, Split.wholly(plan.slot), None),
        lambda i: Commit(i, plan.slot, plan.candidate),
        lambda i: Snapshot(i, "end"),
        *_without_control(plan),
        Close,
    )


def _go_back(state: Rollout, reason: str, detail: tuple[str, ...], now: float) -> Rollout:
    """All traffic home first, everything else after it."""
    plan = state.plan
    if plan.schema:
        detail = (*detail, KEPT)
    state = replace(
        _enter(state, Phase.ROLLING_BACK, now), reason=reason, detail=detail, weight=NOTHING, paused=None, pending=()
    )
    return _queue(
        state,
        lambda i: SetSplit(i, plan.home, None),
        lambda i: Snapshot(i, "end"),
        lambda i: Discard(i, plan.slot, plan.candidate),
        *_without_control(plan),
        Close,
    )


def _without_control(plan: Plan) -> tuple[Callable[[str], Action], ...]:
    baseline = plan.baseline
    return (lambda i: DiscardControl(i, baseline),) if plan.fresh and baseline is not None else ()


def _enter(state: Rollout, phase: Phase, now: float) -> Rollout:
    return replace(state, phase=phase, entered=now, waiting="", unhealthy=0)


def _queue(state: Rollout, *makers: Callable[[str], Action]) -> Rollout:
    made: list[Action] = []
    sequence = state.sequence
    for make in makers:
        sequence += 1
        made.append(make(f"{state.id}.{sequence}"))
    return replace(state, pending=(*state.pending, *made), sequence=sequence)
