"""What it takes to go back, cheapest remedy first: kill a flag, else move the weight, else restart an old release.

Pure: facts in, a plan out. Data is never touched by any of it. Laws: at most one remedy is chosen, and it is the cheapest
that applies; none is chosen only with a reason; a flag is killed only when the harm was pinned on its variant.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from crossfade.domain.flags.pinning import Suspect
from crossfade.domain.values import ReleaseNumber

AT_ONCE: Final = 1.0
"""Seconds until a flag's kill, or a move of the weights, has reached everybody."""

BACK_TO_WARM: Final = 5.0
"""Seconds that a return to replicas that still run takes: they are asked their health checks first."""


class What(enum.StrEnum):
    """The kinds of remedies, cheapest first."""

    KILL_FLAG = "kill-flag"
    MOVE_WEIGHT = "move-weight"
    RESTART_RELEASE = "restart-release"


PRECEDENCE: Final = tuple(What)
"""In which order remedies are considered. Stated here and nowhere else."""


@dataclass(frozen=True, slots=True)
class Way:
    """An earlier release. ``warm``: its replicas still run; ``why_not`` it cannot be brought back (its artifact, the schema).

    ``start``: seconds that its replicas may take to start.
    """

    release: ReleaseNumber
    warm: bool = False
    why_not: tuple[str, ...] = ()
    start: float = 60.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known when something calls for a rollback.

    ``calls``: the verdict or the burn that does, as a sentence. ``release`` is the one that is blamed: the candidate of
    ``rollout`` while one is under way, else the live one. ``baseline`` is what that rollout returns to. ``unseen``: why
    nothing is known of flags, empty when something is.
    """

    calls: str
    release: ReleaseNumber | None = None
    suspects: tuple[Suspect, ...] = ()
    rollout: int | None = None
    baseline: ReleaseNumber | None = None
    ways: tuple[Way, ...] = ()
    unseen: str = ""


@dataclass(frozen=True, slots=True)
class Remedy:
    """One way to end the harm. ``target`` is ``flag=variant`` or a release, empty for one that there is not.

    ``seconds`` until everybody has it, at most; ``notices`` what clients notice of it; ``why`` it applies, or does not.
    """

    what: What
    target: str
    text: str
    seconds: float
    notices: str
    applies: bool
    why: str


@dataclass(frozen=True, slots=True)
class RollbackPlan:
    """The remedies in the order in which they were considered. ``chosen``: place of the one that is taken, None for none."""

    calls: str
    remedies: tuple[Remedy, ...]
    chosen: int | None
    reason: str
    leaning: str = ""
    """The variant (``flag=variant``) that a few more answers may show to be to blame; empty when there is none."""

    @property
    def remedy(self) -> Remedy | None:
        """The one that is taken."""
        return self.remedies[self.chosen] if self.chosen is not None else None

    def to_data(self) -> dict[str, Any]:
        """As JSON."""
        remedies = [{**asdict(remedy), "what": remedy.what.value} for remedy in self.remedies]
        return {"calls": self.calls, "remedies": remedies, "chosen": self.chosen, "reason": self.reason}


def plan(facts: Facts) -> RollbackPlan:
    """All remedies that there are, and the cheapest that applies."""
    remedies = sorted((*_kills(facts), *_moves(facts), *_restarts(facts)), key=lambda one: PRECEDENCE.index(one.what))
    chosen = next((i for i, remedy in enumerate(remedies) if remedy.applies), None)
    if chosen is not None:
        reason = f"{remedies[chosen].text}: {remedies[chosen].why}"
    else:
        reason = "nothing that is known helps: " + "; ".join(f"{remedy.text}: {remedy.why}" for remedy in remedies)
    leaning = next((suspect.name for suspect in facts.suspects if suspect.leans), "")
    return RollbackPlan(facts.calls, tuple(remedies), chosen, reason, leaning)


def _kills(facts: Facts) -> Iterator[Remedy]:
    for suspect in facts.suspects:
        yield Remedy(
            What.KILL_FLAG,
            suspect.name,
            f"kill flag {suspect.flag}",
            AT_ONCE,
            f"who had {suspect.variant} gets the flag's off variant with the next request; {facts.release or 'no release'}"
            " stays, nothing restarts",
            suspect.pinned,
            suspect.why,
        )
    if not facts.suspects:
        why = facts.unseen or "no answer told of a flag's variant that a kill would take away"
        yield Remedy(What.KILL_FLAG, "", "kill a flag", AT_ONCE, "", False, why)


def _moves(facts: Facts) -> Iterator[Remedy]:
    blamed = facts.release or "it"
    found = False
    if facts.rollout is not None and facts.baseline is not None:
        found = True
        yield Remedy(
            What.MOVE_WEIGHT,
            str(facts.baseline),
            f"move the weight back to {facts.baseline}",
            AT_ONCE,
            f"new requests go to {facts.baseline} at once; those in flight are finished by {blamed}",
            True,
            f"rollout #{facts.rollout} is under way, and {facts.baseline} serves",
        )
    for way in facts.ways:
        if way.warm and way.release != facts.baseline:
            found = True
            yield Remedy(
                What.MOVE_WEIGHT,
                str(way.release),
                f"move the weight back to {way.release}",
                BACK_TO_WARM,
                f"new requests go to {way.release} at once; those in flight are finished by {blamed}",
                not way.why_not,
                "; ".join(way.why_not) or "it is warm: its replicas still run",
            )
    if not found:
        why = (
            f"{blamed} has no baseline: it is the first" if facts.rollout is not None else "no earlier release is warm"
        )
        yield Remedy(What.MOVE_WEIGHT, "", "move the weight", AT_ONCE, "", False, why)


def _restarts(facts: Facts) -> Iterator[Remedy]:
    cold = [way for way in facts.ways if not way.warm and way.release != facts.baseline]
    for way in cold:
        yield Remedy(
            What.RESTART_RELEASE,
            str(way.release),
            f"start {way.release} again and move the weight to it",
            way.start + BACK_TO_WARM,
            f"{facts.release or 'what serves'} goes on serving until the replicas of {way.release} are healthy",
            not way.why_not,
            "; ".join(way.why_not) or "it is in the rollback window, and all of it is there",
        )
    if not cold:
        serves = facts.rollout is not None and facts.baseline is not None
        why = f"{facts.baseline} serves already" if serves else "no earlier release that is stopped is in the window"
        yield Remedy(What.RESTART_RELEASE, "", "start an earlier release again", 0.0, "", False, why)
