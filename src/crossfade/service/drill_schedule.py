"""When planned drills are due: what the live release plans, against what has run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from crossfade.domain.drill import DrillPlan
from crossfade.domain.schedule import Turn, parse, turn
from crossfade.domain.values import EnvKey
from crossfade.ports import Parts, Record

KIND: Final = "drill"
EVERY: Final = 2.0
"""Seconds between two looks while a drill is under way."""
REACH: Final = 50
"""Releases that are looked through for since when a drill has been planned."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A drill of the live release's plan, with the newest that ran."""

    plan: DrillPlan
    turn: Turn
    last: Record | None

    def sentence(self, held_up: str = "") -> str:
        """How it stands, for people. ``held_up``: why it could not begin."""
        if not self.plan.schedule:
            return "runs when somebody asks for it"
        if self.turn.overdue or self.turn.run:
            assert self.turn.due is not None  # it came, and has not run
            at = datetime.fromtimestamp(self.turn.due, ZoneInfo(self.plan.zone))
            said = "has not run" if self.turn.overdue else "is due"
            return f"drill {self.plan.name} {said}: it was to be at {at:%Y-%m-%d %H:%M} {self.plan.zone}" + (
                f" ({held_up})" if held_up else ""
            )
        if self.turn.next is None:
            return "does not come any more"
        return f"comes at {datetime.fromtimestamp(self.turn.next, ZoneInfo(self.plan.zone)):%Y-%m-%d %H:%M} {self.plan.zone}"


class Timetable:
    """The planned drills of each environment."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._looked = 0.0
        self._since: dict[EnvKey, tuple[str, dict[DrillPlan, float]]] = {}

    def worth_a_look(self) -> bool:
        """Whether some seconds have gone by since it was last asked."""
        now = self._parts.now()
        if now - self._looked < EVERY:
            return False
        self._looked = now
        return True

    def of(self, key: EnvKey) -> tuple[Planned, ...]:
        """Those that the live release plans; none without one."""
        environment = self._parts.store.environment(key)
        if environment is None or environment.live is None:
            return ()
        plans = self._parts.store.release(key.service, environment.live).config.drills
        if not plans:
            return ()
        since = self._planned_since(key, str(environment.live), plans)
        return tuple(self._one(key, plan, since.get(plan, self._parts.now())) for plan in plans)

    def _one(self, key: EnvKey, plan: DrillPlan, since: float) -> Planned:
        last = next(iter(self._parts.records.list(KIND, key, subject=plan.name, limit=1)), None)
        if not plan.schedule:
            return Planned(plan, Turn(None, None, False, False), last)
        began = last.began if last is not None else None
        return Planned(plan, turn(parse(plan.schedule), ZoneInfo(plan.zone), since, began, self._parts.now()), last)

    def _planned_since(self, key: EnvKey, live: str, plans: tuple[DrillPlan, ...]) -> dict[DrillPlan, float]:
        """Since when each has been planned as it is: a new release with the same plan does not begin it anew."""
        known = self._since.get(key)
        if known is not None and known[0] == live:
            return known[1]
        found: dict[DrillPlan, float] = {}
        open_ones = set(plans)
        reached = False
        for release in self._parts.store.releases(key, limit=REACH):
            reached = reached or str(release.number) == live
            if not reached:
                continue
            open_ones &= set(release.config.drills)
            found |= dict.fromkeys(open_ones, release.created)
            if not open_ones:
                break
        self._since[key] = (live, found)
        return found
