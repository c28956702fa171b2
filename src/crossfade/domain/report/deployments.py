"""Rollouts as the report counts them, and which of them have failed.

A deployment belongs to the day of UTC on which it began. It has failed when it was rolled back, by itself or by hand, before
or within its watch, or when somebody has marked it. Rehearsals are neither deployments nor failures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crossfade.domain.rollback import What
from crossfade.domain.rollout import Kind, Phase, Rollout
from crossfade.domain.values import FULL, EnvKey

ABORTED: Final = "aborted by "
"""What the reason of a rollout begins with that a person has ended."""
MARKED: Final = "marked as failed"
"""Why a deployment has failed of which nothing but a person knows."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A flag was killed at ``at`` for the harm of a candidate that had traffic since ``begins``. ``failed``: requests."""

    target: str
    begins: float
    at: float
    failed: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """One rollout. Times are epoch seconds, ``share`` is the most of the traffic that the candidate had, 0…1.

    ``exposed_from``: when the edge first gave it traffic; None: it never had any. ``noticed``: when it was decided to go back.
    ``switched``: when the router was wholly on the candidate for good, ``home`` when it was wholly on the baseline again.
    ``requests`` and ``failed`` are those of the candidate, ``served``, ``lost`` of all clients; None: the counts were lost.
    ``automatic``: no person has begun it. ``fix``, ``marked``: somebody has said so. ``watch``: seconds after its promotion.
    """

    id: int
    key: EnvKey
    release: str
    baseline: str | None
    rollback: bool
    began: float
    ended: float | None = None
    promoted: bool = False
    by: str = ""
    reason: str = ""
    exposed_from: float | None = None
    noticed: float | None = None
    switched: float | None = None
    home: float | None = None
    share: float = 0.0
    requests: int | None = None
    failed: int | None = None
    served: int | None = None
    lost: int | None = None
    kills: tuple[Kill, ...] = ()
    watch: float = 0.0
    automatic: bool = False
    drill: bool = False
    marked: bool = False
    fix: bool = False
    committed: float | None = None

    @property
    def seen_from(self) -> float | None:
        """When clients were first exposed to the candidate; None when not one request of theirs has reached it."""
        return None if self.requests == 0 and not self.promoted else self.exposed_from

    @property
    def counts(self) -> bool:
        """Whether it is a deployment whose end is known: no rollback, and no rehearsal."""
        return self.ended is not None and not self.rollback and not self.drill


def read(state: Rollout, receipt: Mapping[str, Any] | None, **known: Any) -> Deployment:
    """A rollout with its receipt. ``known`` is what neither of them says: ``by``, ``watch``, ``drill``, ``committed``, …"""
    plan, receipt = state.plan, receipt or {}
    steps = [step for step in receipt.get("steps", ()) if step.get("weight") is not None]
    given = next((step["at"] for step in steps if step["weight"] > 0), None)
    whole = [step["at"] for step in steps if step["weight"] == FULL]
    back = [step["at"] for step in steps if step["weight"] == 0 and step["phase"] == Phase.ROLLING_BACK.value]
    noticed = next((s["at"] for s in receipt.get("steps", ()) if s["phase"] == Phase.ROLLING_BACK.value), None)
    exposed, promoted = receipt.get("exposed") or {}, state.phase is Phase.PROMOTED
    return Deployment(
        state.id,
        plan.key,
        str(plan.candidate),
        str(plan.baseline) if plan.baseline is not None else None,
        plan.kind is Kind.ROLLBACK,
        state.began,
        state.entered if state.phase.ended else None,
        promoted,
        reason=state.reason,
        exposed_from=given,
        noticed=noticed if not promoted else None,
        switched=(whole[-1] if whole else state.entered) if promoted else None,
        home=back[-1] if back and not promoted else None,
        share=max((step["weight"] for step in steps), default=0) / FULL,
        requests=exposed.get("requests"),
        failed=exposed.get("failed"),
        served=receipt.get("requests"),
        lost=receipt.get("dropped_by_switch"),
        kills=tuple(_kill(done) for done in receipt.get("remedies", ()) if done["what"] == What.KILL_FLAG.value),
        **known,
    )


def _kill(done: Mapping[str, Any]) -> Kill:
    before = done.get("before") or {}
    failed = (before.get("with") or {}).get("failed")
    return Kill(done["target"], done["at"] - before.get("seconds", 0.0), done["at"], failed, done["why"])


@dataclass(frozen=True, slots=True)
class Failure:
    """A deployment that has failed. ``begins``: when clients were first exposed to it, None: never.

    ``recovered``: when the router was wholly on a good release again, None: not yet. ``automatic``: nobody had to do it.
    """

    deployment: Deployment
    why: str
    at: float
    begins: float | None
    recovered: float | None
    automatic: bool

    @property
    def exposed(self) -> bool:
        return self.begins is not None

    @property
    def recovery(self) -> float | None:
        """Seconds from the first exposed request, or a moment before it, to a router wholly on a good release."""
        if self.begins is None or self.recovered is None:
            return None
        return max(0.0, self.recovered - self.begins)


def failures(deployments: Iterable[Deployment]) -> tuple[Failure, ...]:
    """Those that have failed, by when it was known, then by their number."""
    found = []
    by_key: dict[EnvKey, list[Deployment]] = defaultdict(list)
    for one in sorted(set(deployments), key=lambda one: (one.began, one.id)):
        if not one.drill:
            by_key[one.key].append(one)
    for mine in by_key.values():
        for place, one in enumerate(mine):
            failure = _failure(one, mine[place + 1 :]) if one.counts else None
            if failure is not None:
                found.append(failure)
    # What was undone again brought nobody back to a good release.
    bad = {(f.deployment.key, f.deployment.id) for f in found}
    final = [_again(failure, by_key[failure.deployment.key], bad) for failure in found]
    return tuple(sorted(final, key=lambda failure: (failure.at, failure.deployment.id)))


def _failure(one: Deployment, later: Sequence[Deployment]) -> Failure | None:
    assert one.ended is not None  # it counts
    if not one.promoted:
        person = one.reason.startswith(ABORTED)
        # Without traffic, a weight that went back went nowhere.
        recovered = (one.home or one.ended) if one.seen_from is not None else None
        why = one.reason or "it was rolled back"
        return Failure(one, why, one.noticed or one.ended, one.seen_from, recovered, not person)
    begins = one.exposed_from if one.exposed_from is not None else one.switched
    back = next((r for r in later if _takes_back(r, one)), None)
    if back is not None:
        recovered = back.switched if back.promoted else None
        how = "rolled back within its watch" if back.automatic else f"rolled back by {back.by or 'a person'}"
        return Failure(one, how, back.began, begins, recovered, back.automatic)
    if one.marked:
        return Failure(one, MARKED, one.ended, begins, None, False)
    return None


def _takes_back(one: Deployment, deployed: Deployment) -> bool:
    assert deployed.ended is not None  # it counts
    within = one.began <= deployed.ended + deployed.watch or deployed.marked
    return one.rollback and one.baseline == deployed.release and one.began >= deployed.ended and within


def _again(failure: Failure, mine: Sequence[Deployment], bad: set[tuple[EnvKey, int]]) -> Failure:
    """With the next good promotion as its recovery, where nothing else has ended it."""
    if failure.begins is None or failure.recovered is not None:
        return failure
    good = (
        one.switched
        for one in mine
        if one.promoted
        and one.switched is not None
        and one.release != failure.deployment.release
        and one.began >= failure.at
        and (one.key, one.id) not in bad
    )
    one = failure
    return Failure(one.deployment, one.why, one.at, one.begins, min(good, default=None), one.automatic)
