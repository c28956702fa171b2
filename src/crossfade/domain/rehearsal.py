"""A drill as a pure state machine: ``decide(state, event, now) -> (state, actions)``.

::

    starting ─┬───────────────────────── going-back ─ holding ─ going-forth ─┬─ checking ─ ending ─ passed | failed | aborted
              ├─ faulty (a replica was killed) ─┘          └─────────────────┤
              └─ exposed (a canary with a fault, which the judge takes back) ┘

Laws (each a property test): every drill ends; it has passed only with the
release live that was live before; harm during the hold sends it home at once; whatever was injected at the edge is lifted before
the end; while somebody else moves the environment, nothing is moved by it; an event that was seen changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from crossfade.domain.drill import (
    EDGE_FAULTS,
    Aborted,
    Action,
    Conclude,
    Done,
    Drill,
    Event,
    Expose,
    Failed,
    Fault,
    GoTo,
    Inject,
    Lift,
    Mark,
    Observed,
    Phase,
    Recall,
    Rehearsal,
)
from crossfade.domain.errors import Refused
from crossfade.domain.values import ReleaseNumber, show_duration

NOTICED_WITHIN: Final = 30.0
"""Seconds in which an injected fault must be noticed, else the drill has failed."""

HEALTHY_WITHIN: Final = 60.0
"""Seconds in which the release that is home again must be healthy."""

AFTER: Final = 3.0
"""Seconds after the way home that still belong to the drill."""

MOST_UNHEALTHY: Final = 3
"""Consecutive unhealthy looks at the older release that end the hold."""

MOST_TRIES: Final = 5
"""How often the way home is tried before a person is asked."""


def begin(id: int, plan: Rehearsal, by: str, now: float) -> tuple[Drill, tuple[Action, ...]]:
    """A new drill with its first actions."""
    state = Drill(id=id, plan=plan, by=by, began=now, entered=now, landed=plan.home)
    fault = plan.fault
    first: list[Callable[[str], Action]] = [lambda i: Mark(i, "begin")]
    if plan.target is None:
        assert fault is not None  # a canary without a fault would rehearse nothing
        first += [lambda i: Inject(i, fault), Expose]
    elif fault is Fault.KILL_REPLICA:
        first += [lambda i: Inject(i, fault)]
    state = _queue(state, *first)
    return state, state.pending


def allow(state: Drill) -> None:
    """Raises Refused when aborting makes no sense now."""
    if state.phase.ended:
        raise Refused(f"drill #{state.id} has ended ({state.phase}).")
    if state.aborted:
        raise Refused(f"drill #{state.id} is being ended for {state.aborted} already.")
    if state.phase in HOMEWARD:
        raise Refused(
            f"drill #{state.id} is on its way home already.", hint="Its end is near: see `crossfade drill show`."
        )


HOMEWARD: Final = (Phase.GOING_FORTH, Phase.CHECKING, Phase.ENDING)
"""When there is nothing left to abort."""


def decide(state: Drill, event: Event, now: float) -> tuple[Drill, tuple[Action, ...]]:
    """The next state, and what is to be carried out, in order. Raises Refused for an abort that makes no sense."""
    if state.phase.ended:
        return state, ()
    if now < state.entered:  # the clock was set back: what lasts some time begins anew
        state = replace(state, entered=now)
    match event:
        case Done() | Failed():
            if not state.pending or state.pending[0].id != event.action:
                return state, state.pending
            action = state.pending[0]
            state = _done(state, action, event, now) if isinstance(event, Done) else _failed(state, action, event, now)
        case Aborted():
            if event.id in state.seen:
                return state, state.pending
            allow(state)
            state = replace(state, seen=(*state.seen, event.id), aborted=event.by, waiting=f"is ended for {event.by}")
        case Observed():
            if event.at <= state.observed:
                return state, state.pending
            state = replace(state, observed=event.at)
            if not state.pending:
                state = _observed(_noted(state, event), event, now)
    return state, state.pending


# --- what follows from each event


def _done(state: Drill, action: Action, event: Done, now: float) -> Drill:
    state = replace(state, pending=state.pending[1:])
    at = event.at if event.at is not None else now
    match action:
        case Inject():
            state = replace(state, injected=at)
        case GoTo() | Expose():
            state = replace(state, current=event.rollout)
        case Conclude():
            return _enter(state, _outcome(state), now)
    if state.pending or state.phase is not Phase.STARTING:
        return state
    if state.plan.target is None:
        return _enter(state, Phase.EXPOSED, now)
    if state.plan.fault is Fault.KILL_REPLICA:
        return _enter(state, Phase.FAULTY, now)
    return _go_back(state, now)


def _failed(state: Drill, action: Action, event: Failed, now: float) -> Drill:
    match action:
        case GoTo() if state.phase is Phase.GOING_FORTH:
            return _missed(state, event.reason, now)
        case GoTo() | Expose():
            return _turn_home(replace(state, pending=()), f"{_what(action)}: {event.reason}", now)
        case Inject(fault=fault):
            why = f"{fault} cannot be injected: {event.reason}"
            if state.phase is Phase.GOING_BACK:  # under way already: it is seen to its end, then it goes home
                return replace(state, pending=(), failure=state.failure or why)
            return _turn_home(replace(state, pending=()), why, now)
        case _:
            # A reading that is missing is said by the receipt; a fault that cannot be lifted lapses by itself.
            return _done(state, action, Done(action.id), now)


def _noted(state: Drill, event: Observed) -> Drill:
    """With what the look says of the fault, and of what is live."""
    state = replace(state, landed=event.live)
    if state.injected is not None and state.noticed is None and event.notice:
        state = replace(state, noticed=event.at, notice=event.notice)
    if state.noticed is not None and state.whole is None and event.whole:
        state = replace(state, whole=event.at)
    if event.rollout is not None:
        forth = state.phase is Phase.GOING_FORTH
        state = replace(state, back=event.rollout) if forth else replace(state, there=event.rollout)
    return state


def _observed(state: Drill, event: Observed, now: float) -> Drill:
    if state.phase is Phase.ENDING:
        return state
    if (why := _taken_over(state, event)) is not None:
        return _end(replace(state, failure=state.failure or why), now)
    match state.phase:
        case Phase.FAULTY:
            return _faulty(state, now)
        case Phase.EXPOSED:
            return _exposed(state, event, now)
        case Phase.GOING_BACK:
            return _gone_back(state, event, now)
        case Phase.HOLDING:
            return _held(state, event, now)
        case Phase.GOING_FORTH:
            return _gone_forth(state, event, now)
        case Phase.CHECKING:
            return _checked(state, event, now)
        case _:
            return state


def _taken_over(state: Drill, event: Observed) -> str | None:
    """Why the environment is not the drill's to move any more."""
    if event.stranger is not None:
        return f"rollout #{event.stranger}, which is not the drill's, has begun: it is left to that"
    plan = state.plan
    moving = state.phase in (Phase.GOING_BACK, Phase.GOING_FORTH)
    expected: tuple[ReleaseNumber | None, ...] = (plan.target,) if state.phase is Phase.HOLDING else (plan.home,)
    if moving:
        expected = (plan.home, plan.target)
    if event.live not in expected:
        return f"{event.live or 'nothing'} is live, which is not the drill's doing: it is left so"
    return None


def _faulty(state: Drill, now: float) -> Drill:
    if state.aborted:
        return _turn_home(state, "", now)
    if state.noticed is not None:
        return _go_back(state, now)
    if now - state.entered >= NOTICED_WITHIN:
        return _turn_home(state, f"{state.plan.fault} was not noticed within {show_duration(NOTICED_WITHIN)}", now)
    return replace(state, waiting=f"until {state.plan.fault} is noticed")


def _exposed(state: Drill, event: Observed, now: float) -> Drill:
    seen = event.rollout
    if seen is None:
        return state
    if state.noticed is None and seen.failed is not None and not (state.aborted or state.failure):
        state = replace(state, noticed=seen.failed, notice=seen.reason)
    if seen.outcome == "promoted":
        return _turn_home(state, "the judge let a canary pass that had the fault", now)
    if seen.outcome == "rolled-back":
        missed = "" if state.noticed is not None or state.aborted else f"the canary ended: {seen.reason}"
        return _turn_home(state, state.failure or missed, now)
    if state.failure or seen.failed is not None:
        return state  # it is on its way back
    if state.aborted:
        return _recall(replace(state, failure=""), seen.rollout)
    if seen.going:
        return _recall(replace(state, failure="the judge let a step pass that had the fault"), seen.rollout)
    if now - (seen.moved or now) >= state.plan.patience:
        late = f"the judge did not take the canary back within {show_duration(state.plan.patience)}"
        return _recall(replace(state, failure=late), seen.rollout)
    return replace(state, waiting="until the judge takes the canary back")


def _recall(state: Drill, rollout: int) -> Drill:
    if any(isinstance(action, Recall) for action in state.pending) or f"recall {rollout}" in state.seen:
        return state
    state = replace(state, seen=(*state.seen, f"recall {rollout}"))
    return _queue(state, Lift, lambda i: Recall(i, rollout))


def _gone_back(state: Drill, event: Observed, now: float) -> Drill:
    seen = event.rollout
    if seen is None:
        return state
    if seen.outcome == "promoted":
        if state.aborted or state.failure:
            return _go_forth(state, now)
        return _queue(_enter(state, Phase.HOLDING, now), lambda i: Mark(i, "back"))
    if seen.outcome == "rolled-back":
        why = "" if state.aborted else f"the way back to {state.plan.target} failed: {seen.reason}"
        return _turn_home(state, why, now)
    if state.aborted:
        return _recall(state, seen.rollout)
    return replace(state, waiting=f"until {state.plan.target} has the traffic")


def _held(state: Drill, event: Observed, now: float) -> Drill:
    target = state.plan.target
    if event.harm:
        return _go_forth(_fail(state, f"{target} harms: {event.harm}"), now)
    if event.faults:
        state = replace(state, unhealthy=state.unhealthy + 1, waiting=f"{target} is unhealthy: {event.faults[0]}")
        if state.unhealthy >= MOST_UNHEALTHY:
            return _go_forth(_fail(state, f"{target} became unhealthy: {event.faults[0]}"), now)
    else:
        state = replace(state, unhealthy=0)
    left = state.plan.hold - (now - state.entered)
    if state.aborted or left <= 0:
        return _go_forth(state, now)
    return replace(state, waiting=f"{target} serves for {show_duration(left)} more")


def _gone_forth(state: Drill, event: Observed, now: float) -> Drill:
    seen = event.rollout
    if event.live == state.plan.home and (seen is None or seen.outcome == "promoted"):
        return _turn_home(state, "", now)
    if seen is not None and seen.outcome == "rolled-back":
        return _missed(state, seen.reason, now)
    return replace(state, waiting=f"until {state.plan.home} has the traffic again")


def _missed(state: Drill, why: str, now: float) -> Drill:
    """The way home has failed; tried again a few times."""
    home, target = state.plan.home, state.plan.target
    state = replace(state, tries=state.tries + 1, pending=(), current=None)
    if state.tries >= MOST_TRIES:
        return _end(_fail(state, f"{target} is still live, since {home} could not be returned to: {why}"), now)
    state = replace(state, waiting=f"tries again to return to {home}: {why}")
    return _queue(state, lambda i: GoTo(i, home))


def _checked(state: Drill, event: Observed, now: float) -> Drill:
    spent = now - state.entered
    if event.faults:
        home = state.plan.home
        if spent >= HEALTHY_WITHIN:
            return _end(_fail(state, f"{home} is not healthy after the drill: {event.faults[0]}"), now)
        return replace(state, waiting=f"until {home} is healthy: {event.faults[0]}")
    return _end(state, now) if spent >= AFTER else replace(state, waiting="looks at what clients see now")


# --- the moves


def _go_back(state: Drill, now: float) -> Drill:
    target, fault = state.plan.target, state.plan.fault
    assert target is not None  # a canary has none, and never comes here
    if state.aborted:
        return _turn_home(state, "", now)
    state = _queue(_enter(state, Phase.GOING_BACK, now), lambda i: GoTo(i, target))
    if fault is Fault.KILL_CONTROL_PLANE:
        state = _queue(state, lambda i: Inject(i, fault))
    return state


def _go_forth(state: Drill, now: float) -> Drill:
    home = state.plan.home
    state = replace(_enter(state, Phase.GOING_FORTH, now), current=None)
    return _queue(state, lambda i: Mark(i, "forth"), lambda i: GoTo(i, home))


def _turn_home(state: Drill, failure: str, now: float) -> Drill:
    """What was live is live: whatever was injected goes, and it is looked whether all is well."""
    state = _enter(_fail(state, failure) if failure else state, Phase.CHECKING, now)
    return _queue(replace(state, current=None), *_lifting(state), lambda i: Mark(i, "home"))


def _end(state: Drill, now: float) -> Drill:
    state = replace(_enter(state, Phase.ENDING, now), current=None, pending=())
    return _queue(state, *_lifting(state), lambda i: Mark(i, "end"), Conclude)


def _lifting(state: Drill) -> tuple[Callable[[str], Action], ...]:
    return (Lift,) if state.plan.fault in EDGE_FAULTS else ()


def _outcome(state: Drill) -> Phase:
    if state.failure:
        return Phase.FAILED
    return Phase.ABORTED if state.aborted else Phase.PASSED


def _fail(state: Drill, why: str) -> Drill:
    return replace(state, failure=state.failure or why)


def _what(action: Action) -> str:
    return "the canary could not be begun" if isinstance(action, Expose) else "the way back could not be begun"


def _enter(state: Drill, phase: Phase, now: float) -> Drill:
    return replace(state, phase=phase, entered=now, waiting="", unhealthy=0)


def _queue(state: Drill, *makers: Callable[[str], Action]) -> Drill:
    made: list[Action] = []
    sequence = state.sequence
    for make in makers:
        sequence += 1
        made.append(make(f"{state.id}.{sequence}"))
    return replace(state, pending=(*state.pending, *made), sequence=sequence)


def describe(action: Action) -> str:
    """What the action does, in the present tense; empty for what nobody wants to read."""
    match action:
        case Inject(fault=fault):
            return f"injects {fault}"
        case Lift():
            return "ends what it did at the edge"
        case GoTo(release=release):
            return f"begins the return to {release}"
        case Expose():
            return "begins a canary of the live release, with the fault on its slot"
        case Recall(rollout=rollout):
            return f"aborts rollout #{rollout}"
        case _:
            return ""
