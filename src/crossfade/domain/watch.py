"""The watch over a release after its promotion, as a pure state machine: ``decide(state, event, now) -> (state, actions)``.

::

    watching ─┬─ acting ─── settling ─┬─ helped
       ▲      │    ▲            │     ├─ not-helped
       │      │    └────────────┤     └─ unknown
       │      │ (a flag's kill  │
       └──────┼─ has helped, or not)
              ├─ proposed ─┐
              └────────────┴─ passed, superseded

Laws (each a property test): it goes back at most once, and kills at most one flag; only within its time, only for a cause
that began after the promotion, never while a rollout holds the environment or a drill is under way, never for a cause that
it has gone back for before; an event that was seen changes nothing; whatever a person orders or does ends it. What it did, only a person undoes.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from crossfade.domain.alert import Severity
from crossfade.domain.slo import OnBurn
from crossfade.domain.values import DAY, Digest, EnvKey, ReleaseNumber

STALE: Final = 60.0
"""Seconds after which a decision that was not carried out (the server was away) is made anew."""
SETTLES: Final = 2.0
"""Seconds after a remedy that say nothing about it: what was in flight may still fail."""
OF_KILL: Final = 12.0
"""Seconds in which a flag's kill must show that it has helped."""
OF_RETURN: Final = 30.0
"""Seconds of harm after going back that say that it did not help."""
MOST_SETTLING: Final = 300.0
"""Seconds after which it is not known whether it helped: there was nobody to see it."""


class Phase(enum.StrEnum):
    """Where a watch is. `proposed` has found something and leaves it to people, until its time is over."""

    WATCHING = "watching"
    ACTING = "acting"
    SETTLING = "settling"
    PROPOSED = "proposed"
    PASSED = "passed"
    HELPED = "helped"
    NOT_HELPED = "not-helped"
    UNKNOWN = "unknown"
    SUPERSEDED = "superseded"

    @property
    def ended(self) -> bool:
        return self in (Phase.PASSED, Phase.HELPED, Phase.NOT_HELPED, Phase.UNKNOWN, Phase.SUPERSEDED)


class Means(enum.StrEnum):
    """What tells of harm: a burn of an objective, the comparison with the previous release's profile, or dead replicas."""

    BURN = "burn"
    PROFILE = "profile"
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is watched: the ``release`` that ``rollout`` has promoted at ``began``, until ``until`` (epoch s)."""

    key: EnvKey
    rollout: int
    release: ReleaseNumber
    digest: Digest
    previous: ReleaseNumber | None
    began: float
    until: float
    on_burn: OnBurn = OnBurn.ROLLBACK


@dataclass(frozen=True, slots=True)
class Cause:
    """Harm that began at ``began`` (epoch s), as a sentence. ``name`` is that of the objective or the metric."""

    means: Means
    name: str
    sentence: str
    began: float

    def __str__(self) -> str:
        return f"{self.means}:{self.name}" if self.name else str(self.means)


@dataclass(frozen=True, slots=True)
class Spent:
    """A watch has gone back from ``release`` at ``at``. ``helped``: whether that has ended the harm; None: not known (yet)."""

    release: ReleaseNumber
    digest: Digest
    at: float
    helped: bool | None = None


@dataclass(frozen=True, slots=True)
class Returning:
    """How the rollout stands by which the watch goes back: under way, promoted ``at`` (when the weight moved), or failed."""

    rollout: int
    at: float | None = None
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Remedied:
    """Something was done at ``at``: ``text`` says what; ``rollout`` is the one that goes back, None for a flag's kill."""

    text: str
    target: str
    at: float
    rollout: int | None = None


@dataclass(frozen=True, slots=True)
class Remedy:
    """Do the cheapest that ends the harm; the only action there is. ``kills``: whether that may be a flag's kill."""

    id: str
    calls: str
    kills: bool
    kind: Literal["remedy"] = "remedy"


@dataclass(frozen=True, slots=True)
class Watch:
    """The state. ``cause`` is what it acts upon, ``refused`` why it only proposes, ``done`` what it did.

    ``detected``, ``decided``, ``switched`` and ``recovered`` are epoch seconds, None while they are not.
    """

    id: int
    plan: Plan
    phase: Phase = Phase.WATCHING
    entered: float = 0.0
    observed: float = 0.0
    pending: tuple[Remedy, ...] = ()
    sequence: int = 0
    cause: Cause | None = None
    refused: str = ""
    done: tuple[Remedied, ...] = ()
    reason: str = ""
    waiting: str = ""
    seen: tuple[str, ...] = ()
    detected: float | None = None
    decided: float | None = None
    switched: float | None = None
    recovered: float | None = None

    @property
    def returned(self) -> Remedied | None:
        """How it went back, if it did."""
        return next((one for one in self.done if one.rollout is not None), None)

    @property
    def killed(self) -> Remedied | None:
        """The flag that it killed, if it did."""
        return next((one for one in self.done if one.rollout is None), None)


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen at ``at``. ``causes``: harm that began after the promotion, worst first.

    ``holder``: the rollout that holds the environment. ``moved``: who else has changed what is live, as a sentence.
    ``harmful``: whether the cause goes on since the remedy; None: not known. ``spent``: earlier watches that went back here.
    ``drill``: the drill that is under way.
    """

    at: float
    causes: tuple[Cause, ...] = ()
    holder: int | None = None
    moved: str = ""
    harmful: bool | None = None
    returning: Returning | None = None
    spent: tuple[Spent, ...] = ()
    drill: int | None = None
    kind: Literal["looked"] = "looked"


@dataclass(frozen=True, slots=True)
class Done:
    """The action was carried out."""

    action: str
    what: Remedied
    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class Failed:
    """The action could not be carried out. ``passing``: it may be tried again."""

    action: str
    reason: str
    passing: bool = False
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Ordered:
    """A person ends the watch. ``id`` is unique; ``by`` says who."""

    id: str
    by: str
    kind: Literal["ordered"] = "ordered"


Event = Looked | Done | Failed | Ordered


def begin(id: int, plan: Plan) -> Watch:
    """A new watch."""
    return Watch(id, plan, entered=plan.began)


def decide(state: Watch, event: Event, now: float) -> tuple[Watch, tuple[Remedy, ...]]:
    """The next state, and what is to be carried out. An event that was seen before returns the state as it was."""
    if state.phase.ended:
        return state, ()
    if now < state.entered and state.phase is Phase.SETTLING:  # the clock was set back: it begins anew
        state = replace(state, entered=now)
    match event:
        case Done():
            if state.pending and state.pending[0].id == event.action:
                state = _done(state, event, now)
        case Failed():
            if state.pending and state.pending[0].id == event.action:
                state = _failed(state, event, now)
        case Ordered():
            if event.id not in state.seen:
                state = replace(state, seen=(*state.seen, event.id))
                state = _enter(state, Phase.SUPERSEDED, f"{event.by} has ended the watch", now)
        case Looked():
            if event.at > state.observed:
                state = _looked(replace(state, observed=event.at, waiting=""), event, now)
    return state, state.pending


def refusal(plan: Plan, spent: Sequence[Spent], now: float) -> str:
    """Why a cause is not acted upon by itself; empty when it is.

    What was taken back is not taken back again within a day, under whatever number; and where going back did not end the
    harm, or nobody knows yet, the next release is not blamed for it within the time of its watch.
    """
    for one in sorted(spent, key=lambda each: each.at, reverse=True):
        ago = now - one.at
        if ago < 0:
            continue
        if (one.release == plan.release or one.digest == plan.digest) and ago < DAY:
            same = "it" if one.release == plan.release else f"the same artifact, as {one.release},"
            return f"{same} was taken back before, within a day"
        if one.helped is not True and ago < plan.until - plan.began:
            return f"{one.release} was taken back a short time ago, and that has not helped"
    return ""


def alert(state: Watch) -> tuple[Severity, str] | None:
    """What a person should know of it now; None when there is nothing, or no more."""
    if state.cause is None:
        return None
    release, what = state.plan.release, state.cause.sentence
    done = state.done[-1].text if state.done else "it is taken back"
    match state.phase:
        case Phase.PROPOSED:
            return Severity.PAGE, f"{release} does harm: {what}. Nothing more is done by itself: {state.refused}"
        case Phase.NOT_HELPED:
            return (
                Severity.PAGE,
                f"rolled back, and it did not help: {done}; {state.reason}. What to do now is yours to say",
            )
        case Phase.ACTING | Phase.SETTLING:
            return Severity.PAGE, f"{release} does harm: {what}; {done}"
        case _:
            return None


# --- what follows from each event


def _looked(state: Watch, event: Looked, now: float) -> Watch:
    if event.drill is not None:
        return _drilled(state, event.drill, now)
    if event.moved:
        return _enter(state, Phase.SUPERSEDED, event.moved, now)
    match state.phase:
        case Phase.WATCHING:
            return _watched(state, event, now)
        case Phase.ACTING:
            return _acted(state, event, now)
        case Phase.SETTLING:
            return _settled(state, event, now)
        case Phase.PROPOSED if now >= state.plan.until:
            return _enter(state, Phase.PASSED, f"its time is over; it was left to people: {state.refused}", now)
        case _:
            return state


def _drilled(state: Watch, drill: int, now: float) -> Watch:
    """A drill moves what is live there and back: until its end nothing is done, and what was decided is decided anew."""
    if state.phase is Phase.ACTING:
        state = _enter(replace(state, pending=()), Phase.WATCHING, state.reason, now)
    return replace(state, waiting=f"drill #{drill} is under way: it waits for its end")


def _watched(state: Watch, event: Looked, now: float) -> Watch:
    plan = state.plan
    if now >= plan.until:
        return _enter(state, Phase.PASSED, "its time is over", now)
    cause = next((one for one in event.causes if one.began >= plan.began), None)
    if cause is None or now < plan.began:
        return replace(state, detected=None) if state.killed is None else state
    state = replace(state, cause=cause, detected=state.detected if state.detected is not None else now)
    if event.holder is not None:
        return replace(state, waiting=f"rollout #{event.holder} is under way: it decides")
    if plan.on_burn is OnBurn.PROPOSE:
        return _propose(state, "`slo.on_burn` says so", now)
    refused = refusal(plan, event.spent, now)
    if refused:
        return _propose(state, refused, now)
    return _act(state, kills=state.killed is None, now=now)


def _acted(state: Watch, event: Looked, now: float) -> Watch:
    """Nobody has carried it out yet."""
    if now >= state.plan.until:
        return _propose(state, "its time was over before anything could be done", now)
    if event.holder is not None:
        state = replace(state, pending=(), waiting=f"rollout #{event.holder} is under way: it decides")
        return _enter(state, Phase.WATCHING, state.reason, now)
    if state.decided is not None and not 0 <= now - state.decided < STALE:
        return _enter(replace(state, pending=()), Phase.WATCHING, "what was decided is too old: it looks again", now)
    return state


def _settled(state: Watch, event: Looked, now: float) -> Watch:
    back = state.returned
    if back is None:
        return _killed(state, event, now)
    found = event.returning
    if found is None or found.rollout != back.rollout:
        return state
    if found.failed:
        return _propose(state, f"{back.target} could not be brought back: {found.failed}", now)
    if found.at is None:
        return replace(state, waiting=f"rollout #{back.rollout} goes back to {back.target}")
    if state.switched is None:
        state = replace(state, switched=found.at)
    since = now - (found.at if found.at <= now else state.entered)
    if since < SETTLES:
        return state
    if event.harmful is False:
        return _enter(replace(state, recovered=now), Phase.HELPED, f"since {back.target} serves, it has ended", now)
    if event.harmful and since >= OF_RETURN:
        return _enter(state, Phase.NOT_HELPED, f"with {back.target} it goes on: the fault is elsewhere", now)
    if since >= MOST_SETTLING:
        return _enter(state, Phase.UNKNOWN, "nobody has asked since, so whether it helped is not known", now)
    return state


def _killed(state: Watch, event: Looked, now: float) -> Watch:
    """The release goes on being watched when the kill has helped; else going back is next."""
    since = now - state.entered
    if since < SETTLES:
        return state
    if event.harmful is False:
        state = replace(state, recovered=now, cause=None, detected=None)
        return _enter(state, Phase.WATCHING, "without the flag it has ended", now)
    if since < OF_KILL:
        return state
    if now >= state.plan.until:
        return _propose(state, "the flag's kill has not helped, and its time is over", now)
    if event.holder is not None:
        return replace(state, waiting=f"rollout #{event.holder} is under way: it decides")
    return _act(state, kills=False, now=now)


def _done(state: Watch, event: Done, now: float) -> Watch:
    state = replace(state, pending=(), done=(*state.done, event.what))
    return _enter(state, Phase.SETTLING, event.what.text, now)


def _failed(state: Watch, event: Failed, now: float) -> Watch:
    if event.passing and now < state.plan.until:
        return replace(state, waiting=f"tries again: {event.reason}")
    return _propose(state, event.reason, now)


def _act(state: Watch, *, kills: bool, now: float) -> Watch:
    if state.returned is not None:
        return _propose(state, "it has gone back once already", now)
    calls = state.cause.sentence if state.cause is not None else state.reason
    number = state.sequence + 1
    remedy = Remedy(f"watch-{state.plan.rollout}-{number}", calls, kills)
    return _enter(replace(state, sequence=number, pending=(remedy,), decided=now), Phase.ACTING, calls, now)


def _propose(state: Watch, why: str, now: float) -> Watch:
    return _enter(replace(state, pending=(), refused=why), Phase.PROPOSED, why, now)


def _enter(state: Watch, phase: Phase, reason: str, now: float) -> Watch:
    pending = () if phase.ended else state.pending
    return replace(state, phase=phase, entered=now, reason=reason, pending=pending)
