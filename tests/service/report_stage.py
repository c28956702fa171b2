"""A service that was deployed, failed, went back and was rehearsed: what reports are made of, with times that a test says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from crossfade.domain.environment import Entry
from crossfade.domain.release import BlueGreen, ReleaseConfig
from crossfade.domain.report.span import DAY, Span
from crossfade.domain.rollout import Kind, Phase, Plan, Rollout
from crossfade.domain.slo import EDGE, PROBE, Counted, Objective, Series, SloPolicy
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.ports import Parts

NOVEMBER = Span.of_month("2026-11")
DIGEST = Digest("sha256:" + "a" * 64)
POLICY = SloPolicy((Objective("answers", 0.999),))


class Ledger:
    """Writes rollouts into a store as the engine leaves them, and counts into histories."""

    def __init__(self, parts: Parts, key: EnvKey, policy: SloPolicy = POLICY) -> None:
        self.parts, self.key = parts, key
        self.config = ReleaseConfig(("x",), slo=policy)
        self.live: ReleaseNumber | None = None

    def release(self, at: float) -> ReleaseNumber:
        return self.parts.store.add_release(self.key, DIGEST, self.config, "", at).number

    def deploy(self, at: float, *, took: float = 60.0, lost: int = 0, by: str = "ada") -> Rollout:
        """A deployment that gets all the traffic."""
        return self._promoted(Kind.DEPLOY, self.release(at), at, took, lost, by)

    def go_back(self, at: float, to: ReleaseNumber, *, took: float = 2.0, by: str = "crossfade") -> Rollout:
        """A rollback that gets all the traffic."""
        return self._promoted(Kind.ROLLBACK, to, at, took, 0, by)

    def fail(self, at: float, *, weight: int = 100, exposed: int = 40, failed: int = 12, took: float = 30.0,
             reason: str = "its requests fail: 30 % against 0.1 %", by: str = "ada") -> Rollout:  # fmt: skip
        """A deployment that goes back by itself. With weight 0 no client has ever seen it."""
        given, back = at + 10.0, at + 10.0 + took
        steps = [("gives 1 % to the candidate", given, "shifting", weight)] if weight else []
        home = [("rolls back: it fails", back - 1.0, "rolling-back", None), ("all home", back, "rolling-back", 0)]
        state = self._begin(Kind.DEPLOY, self.release(at), at, by)
        receipt = self._receipt([*steps, *home], {"requests": exposed, "failed": failed}, 0)
        return self._end(replace(state, phase=Phase.ROLLED_BACK, reason=reason, entered=back + 1.0), receipt)

    def _promoted(self, kind: Kind, number: ReleaseNumber, at: float, took: float, lost: int, by: str) -> Rollout:
        state = self._begin(kind, number, at, by)
        steps = [("gives 50 %", at + took / 2, "shifting", 5000), ("gives all", at + took, "promoting", 10_000)]
        receipt = self._receipt(steps, {"requests": 500, "failed": 0}, lost)
        self.parts.store.commit(state.id, state.plan.slot, number, 0.0, at + took)
        self.live = number
        return self._end(replace(state, phase=Phase.PROMOTED, entered=at + took), receipt)

    def _begin(self, kind: Kind, number: ReleaseNumber, at: float, by: str) -> Rollout:
        plan = Plan(self.key, kind, number, self.live, Slot.GREEN, BlueGreen())
        return self.parts.store.begin(plan, by, at)

    def _end(self, state: Rollout, receipt: dict[str, Any]) -> Rollout:
        entries = [Entry(step["at"], step["what"], step["phase"], step["weight"]) for step in receipt["steps"]]
        self.parts.store.save(state, entries)
        self.parts.store.close(state.id, {"rollout": state.id, **receipt}, state.entered)
        return state

    @staticmethod
    def _receipt(
        steps: Sequence[tuple[str, float, str, int | None]], exposed: dict[str, int], lost: int
    ) -> dict[str, Any]:
        told = [{"at": at, "what": what, "phase": phase, "weight": weight} for what, at, phase, weight in steps]
        return {
            "steps": told,
            "exposed": exposed,
            "requests": 1000,
            "failed": 3,
            "dropped_by_switch": lost,
            "remedies": [],
        }

    def count(
        self, day: int, *, total: float = 86_400.0, bad: float = 0.0, covered: float = DAY, name: str = EDGE
    ) -> None:
        """A day at the edge, spread evenly over its first ``covered`` seconds."""
        self.parts.histories.add(Series(self.key, name), day, day + covered, Counted(total, bad, covered))

    def quiet_day(self, day: int, bad: float = 0.0) -> None:
        """At the edge, from outside, and of the objective."""
        self.count(day, bad=bad)
        self.count(day, total=8640.0, name=PROBE)
        self.count(day, bad=bad, name="answers")


def at(day: int, hour: float = 0.0) -> float:
    """A moment of November 2026 in UTC."""
    return NOVEMBER.begins + (day - 1) * DAY + hour * 3600.0
