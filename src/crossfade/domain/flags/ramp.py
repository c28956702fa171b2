"""A guarded ramp as a pure state machine: ``decide(state, event, now) -> (state, actions)``.

::

    ramping (step after step, each judged) ─┬─ finishing ──── finished   every unit of the rest has the variant
        │  ▲ waits while a rollout moves    ├─ going-back ─┬─ failed     share 0, and the flag is killed
        └──┘ the service's traffic          │              ├─ returned   share 0: it could not be told in time
                                            │              └─ aborted    share 0
                                            └─ leaving ────── left       somebody else has changed the flag

Laws (each a property test): the share never rises after a failed verdict; it rises only when a step has passed, may pass
when unsure, or a person says so; an event that was seen changes nothing; every open state can be aborted or is going back
already; every state reaches an end.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from crossfade.domain.analysis.policy import Analysis
from crossfade.domain.analysis.step import Move, outcome
from crossfade.domain.analysis.verdict import Finding, Verdict
from crossfade.domain.errors import Invalid, Refused
from crossfade.domain.release import Step
from crossfade.domain.values import EVERYTHING, NOTHING, EnvKey, Weight

STEPS: Final = tuple(Step(Weight(bp), 300.0) for bp in (100, 500, 2500, 5000, 10_000))
"""What a ramp does unless told otherwise: five minutes each at 1, 5, 25, 50 and 100 %."""

MOST_STEPS: Final = 50
LONGEST_STEP: Final = 30 * 86_400.0


class Phase(enum.StrEnum):
    """Where a ramp is."""

    RAMPING = "ramping"
    FINISHING = "finishing"
    GOING_BACK = "going-back"
    LEAVING = "leaving"
    FINISHED = "finished"
    FAILED = "failed"
    RETURNED = "returned"
    ABORTED = "aborted"
    LEFT = "left"

    @property
    def ended(self) -> bool:
        return self in (Phase.FINISHED, Phase.FAILED, Phase.RETURNED, Phase.ABORTED, Phase.LEFT)


class Command(enum.StrEnum):
    """What a person may order."""

    PAUSE = "pause"
    RESUME = "resume"
    FINISH = "finish"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided before the ramp began; never changes. ``rest`` is what those get who don't get ``variant``.

    ``rule`` is the flag's rule whose split the ramp sets.
    """

    key: EnvKey
    flag: str
    variant: str
    rest: str
    rule: str
    steps: tuple[Step, ...] = STEPS
    analysis: Analysis = field(default_factory=Analysis)

    def check(self) -> None:
        """Raises Invalid for what cannot be meant."""
        if not 1 <= len(self.steps) <= MOST_STEPS:
            raise Invalid("steps", len(self.steps), f"1 to {MOST_STEPS} steps")
        below = NOTHING
        for i, step in enumerate(self.steps):
            if step.weight <= below:
                allowed = f"more than {below}: a ramp only rises" if i else "more than 0 %"
                raise Invalid(f"steps.{i}.weight", str(step.weight), allowed)
            if not 0 < step.duration <= LONGEST_STEP:
                raise Invalid(f"steps.{i}.duration", step.duration, "more than 0 seconds, at most 30 days")
            below = step.weight
        if self.variant == self.rest:
            raise Invalid("variant", self.variant, f"another variant than the rest's, which is {self.rest!r}")
        self.analysis.check()


# --- what it has done


@dataclass(frozen=True, slots=True)
class Mark:
    """Read the signals: from here on the step is judged."""

    id: str
    label: str
    kind: Literal["mark"] = "mark"


@dataclass(frozen=True, slots=True)
class SetShare:
    """Give the variant this share of the rule's units."""

    id: str
    weight: Weight
    kind: Literal["set-share"] = "set-share"


@dataclass(frozen=True, slots=True)
class Kill:
    """Take the variant's share to 0 and kill the flag, in one version."""

    id: str
    why: str
    kind: Literal["kill"] = "kill"


@dataclass(frozen=True, slots=True)
class Conclude:
    """Read the signals a last time and write the receipt."""

    id: str
    kind: Literal["conclude"] = "conclude"


Action = Mark | SetShare | Kill | Conclude


def describe(action: Action, plan: Plan) -> str:
    """What the action does, in the present tense, for the journal."""
    match action:
        case Mark():
            return "reads the signals"
        case SetShare(weight=weight):
            return f"gives {plan.variant!r} {weight} of rule {plan.rule!r}"
        case Kill():
            return f"kills the flag: everybody gets its off variant, and {plan.variant!r} 0 %"
        case Conclude():
            return "writes the receipt"


# --- what happens to it


@dataclass(frozen=True, slots=True)
class Done:
    """An action was carried out."""

    action: str


@dataclass(frozen=True, slots=True)
class Failed:
    """An action could not be carried out. It stays first and is tried again."""

    action: str
    reason: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen at ``at`` (epoch s). ``verdict`` of the present step; None while nothing is judged.

    ``held``: why nothing can be judged now, since a rollout moves traffic; ``changed``: what somebody else has done to the
    flag, as a sentence.
    """

    at: float
    verdict: Verdict | None = None
    held: str = ""
    changed: str = ""


@dataclass(frozen=True, slots=True)
class Ordered:
    """A person's command. ``id`` is unique; ``by`` says who."""

    id: str
    command: Command
    by: str


Event = Done | Failed | Observed | Ordered


@dataclass(frozen=True, slots=True)
class Ramp:
    """The state. ``weight`` is the variant's share as last set; ``entered`` when the step began (epoch s).

    ``outcome`` is where it goes to once it is not ramping any more. ``marks`` counts the steps' beginnings.
    """

    id: int
    plan: Plan
    phase: Phase = Phase.RAMPING
    outcome: Phase | None = None
    step: int = 0
    weight: Weight = NOTHING
    began: float = 0.0
    entered: float = 0.0
    observed: float = 0.0
    paused: float | None = None
    held: str = ""
    pending: tuple[Action, ...] = ()
    sequence: int = 0
    marks: int = 0
    verdict: Verdict | None = None
    waiting: str = ""
    reason: str = ""
    seen: tuple[str, ...] = ()
    by: str = ""


def begin(id: int, plan: Plan, by: str, now: float) -> tuple[Ramp, tuple[Action, ...]]:
    """A new ramp with its first actions."""
    state = _step(Ramp(id, plan, began=now, entered=now, by=by), 0)
    return state, state.pending


def decide(state: Ramp, event: Event, now: float) -> tuple[Ramp, tuple[Action, ...]]:
    """The next state, and the actions that are to be carried out in order.

    An event that was seen before, or that is about something else, returns the state as it was. ``now`` is epoch seconds.
    Raises Refused for a command that the state does not allow.
    """
    if state.phase.ended:
        return state, ()
    match event:
        case Done(action=action):
            if state.pending and state.pending[0].id == action:
                state = _done(state, now)
        case Failed(action=action, reason=reason):
            if state.pending and state.pending[0].id == action:
                state = replace(state, waiting=f"tries again: {reason}")
        case Observed():
            if event.at > state.observed:
                state = _observed(replace(state, observed=event.at, verdict=event.verdict or state.verdict), event, now)
        case Ordered():
            if event.id not in state.seen:
                allow(state, event.command)
                state = _ordered(replace(state, seen=(*state.seen, event.id)), event, now)
    return state, state.pending


def allow(state: Ramp, command: Command) -> None:
    """Raises Refused when the command makes no sense now."""
    name = f"The ramp of {state.plan.flag!r}"
    if state.phase.ended:
        raise Refused(f"{name} has ended ({state.phase}).", hint="Begin another one.")
    if state.phase in (Phase.GOING_BACK, Phase.LEAVING):
        raise Refused(f"{name} is ending already: {state.reason}.", hint="Look again in a moment.")
    match command:
        case Command.PAUSE if state.paused is not None:
            raise Refused(f"{name} is paused already.", hint="`resume` lets it go on.")
        case Command.RESUME if state.paused is None:
            raise Refused(f"{name} is not paused.")
        case Command.PAUSE | Command.RESUME | Command.FINISH if state.phase is Phase.FINISHING:
            raise Refused(f"{name} is finishing already.", hint="`abort` takes it back.")
        case _:
            pass


# --- what follows from each event


def _done(state: Ramp, now: float) -> Ramp:
    action, *left = state.pending
    state = replace(state, pending=tuple(left), waiting="")
    if isinstance(action, SetShare):
        state = replace(state, entered=now)
    if state.pending or state.phase is Phase.RAMPING:
        return state
    assert state.outcome is not None  # it was said when the ramp left its steps
    return replace(state, phase=state.outcome)


def _observed(state: Ramp, event: Observed, now: float) -> Ramp:
    if state.phase is Phase.FINISHING and event.changed:
        return _end(state, Phase.LEAVING, Phase.LEFT, event.changed)
    if state.phase is not Phase.RAMPING:
        return state
    verdict = event.verdict
    if verdict is not None and verdict.finding is Finding.FAIL:
        return _end(state, Phase.GOING_BACK, Phase.FAILED, verdict.sentence, lambda i: Kill(i, verdict.sentence))
    if event.changed:
        return _end(state, Phase.LEAVING, Phase.LEFT, event.changed)
    if state.pending:
        return state
    if event.held:
        return replace(state, held=event.held, waiting=f"waits: {event.held}", verdict=None)
    if state.held:
        # What was counted meanwhile belongs to two releases: the step begins anew.
        return _move(replace(state, held=""), state.weight)
    return _go_on(state, now)


def _ordered(state: Ramp, event: Ordered, now: float) -> Ramp:
    state = replace(state, by=event.by)
    match event.command:
        case Command.ABORT:
            why = f"aborted by {event.by}"
            return _end(state, Phase.GOING_BACK, Phase.ABORTED, why, lambda i: SetShare(i, NOTHING))
        case Command.PAUSE:
            return replace(state, paused=now, waiting=f"paused by {event.by}")
        case Command.RESUME:
            assert state.paused is not None  # `allow` has seen to it
            rested = now - max(state.paused, state.entered)
            state = replace(state, paused=None, waiting="", entered=state.entered + max(0.0, rested))
            return state if state.pending or state.held else _go_on(state, now)
        case Command.FINISH:
            return _finish(state, f"finished by {event.by}")


def _go_on(state: Ramp, now: float) -> Ramp:
    """Advance when time and verdict allow it; else say what the ramp waits for."""
    if state.paused is not None:
        return replace(state, waiting=state.waiting or "paused")
    plan = state.plan
    found = outcome(plan.analysis, state.weight, plan.steps[state.step].duration, now - state.entered, state.verdict)
    match found.move:
        case Move.NEXT:
            return _step(state, state.step + 1)
        case Move.BACK:
            # Nobody knows of any harm: the flag is not killed.
            return _end(state, Phase.GOING_BACK, Phase.RETURNED, found.why, lambda i: SetShare(i, NOTHING))
        case Move.STAY:
            return replace(state, waiting=found.why)


def _step(state: Ramp, step: int) -> Ramp:
    steps = state.plan.steps
    if step >= len(steps):
        return _finish(state, "")
    return _move(replace(state, step=step), steps[step].weight)


def _move(state: Ramp, weight: Weight) -> Ramp:
    """Set the share, and read the signals just after it, from which the step is judged."""
    marks = state.marks + 1
    state = replace(state, weight=weight, verdict=None, waiting="", marks=marks)
    return _queue(state, lambda i: SetShare(i, weight), lambda i: Mark(i, f"step-{state.step}-{marks}"))


def _finish(state: Ramp, reason: str) -> Ramp:
    state = replace(state, weight=EVERYTHING)
    return _end(state, Phase.FINISHING, Phase.FINISHED, reason, lambda i: SetShare(i, EVERYTHING))


def _end(state: Ramp, phase: Phase, to: Phase, reason: str, *makers: Callable[[str], Action]) -> Ramp:
    """Leave the steps: whatever was still to be done is not, and nothing rises any more unless it finishes."""
    weight = NOTHING if phase is Phase.GOING_BACK else state.weight
    state = replace(
        state, phase=phase, outcome=to, reason=reason, weight=weight, paused=None, held="", waiting="", pending=()
    )
    return _queue(state, *makers, Conclude)


def _queue(state: Ramp, *makers: Callable[[str], Action]) -> Ramp:
    first = state.sequence + 1
    made = tuple(make(f"{state.id}.{first + i}") for i, make in enumerate(makers))
    return replace(state, pending=(*state.pending, *made), sequence=state.sequence + len(made))
