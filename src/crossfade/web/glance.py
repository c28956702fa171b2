"""`/`: all services and environments at a glance, and their rows as they change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from crossfade.domain.access import Actor, Role
from crossfade.domain.alert import Alert, Severity
from crossfade.domain.errors import CrossfadeError, Invalid
from crossfade.domain.values import FULL, EnvKey
from crossfade.service import Service
from crossfade.web.rollout_view import headline
from crossfade.web.sessions import Sessions
from crossfade.web.slo_view import Promised, summary

LOOKED_LATELY: Final = 1.0
"""Seconds for which all who look are shown what was found for one of them."""
COUNTED_LATELY: Final = 20.0
"""Seconds for which the counts of the last hour are believed: the edge is asked for each environment by itself."""
MOST_ROWS: Final = 200
MOST_ALERTS: Final = 1_000
LONGEST_FILTER: Final = 100

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the weight bar; ``at`` and ``wide`` in basis points."""

    name: str
    release: str
    at: int
    wide: int


@dataclass(frozen=True, slots=True)
class Row:
    """What is shown of one environment. ``state`` is trouble, busy, ok or empty; ``counts`` None until it is counted.

    ``promised`` is what is left of its error budgets (`slo_view.summary`), None until that is known, or nothing is promised.
    ``alerts`` are those that are open.
    """

    key: EnvKey
    status: Data
    state: str
    health: str
    parts: tuple[Part, ...]
    rollout_says: str
    counts: Data | None
    promised: Promised | None = None
    alerts: tuple[Alert, ...] = ()

    @property
    def id(self) -> str:
        return f"row-{self.key.service}--{self.key.environment}"


class Overview:
    """Looks at all environments at once, for all who look."""

    def __init__(self, service: Service, clock: Callable[[], float] = time.monotonic) -> None:
        self._service, self._clock = service, clock
        self._looking = threading.Lock()
        self._found: tuple[float, list[dict[str, Any]], int] = (-LOOKED_LATELY, [], 0)
        self._alerts: dict[EnvKey, tuple[Alert, ...]] = {}
        self._counts: dict[EnvKey, tuple[float, Data]] = {}
        self._promised: dict[EnvKey, Promised | None] = {}
        self._counting = threading.Lock()

    def rows(self, actor: Actor) -> tuple[list[Row], int]:
        """Of the environments that the actor sees, by name; and the newest change that they are as of."""
        with self._looking:
            at, rows, seq = self._found
            if self._clock() - at >= LOOKED_LATELY:
                _, seq = self._service.hub.kept()
                rows = self._service.all_status()
                self._alerts = by_key(self._service.alerts.list(open_only=True, limit=MOST_ALERTS))
                self._found = (self._clock(), rows, seq)
        seen = [(EnvKey(row["service"], row["environment"]), row) for row in rows]
        seen = [(key, row) for key, row in seen if actor.sees(key)]
        self._count_later([key for key, row in seen if row["live"]])
        alerts = self._alerts
        return [
            row_of(key, row, self._counts.get(key, (0, None))[1], self._promised.get(key), alerts.get(key, ()))
            for key, row in seen
        ], seq

    def counts(self, key: EnvKey) -> Data | None:
        """What the live release's clients saw in the last hour, as far as it was counted."""
        self._count_later([key])
        return self._counts.get(key, (0, None))[1]

    def promised(self, key: EnvKey) -> Promised | None:
        """What is left of its error budgets now, and whether it is time for a drill. Raises NotFound."""
        return summary(self._service.objectives.view(key), self._service.drills.schedule(key))

    def _count_later(self, keys: Sequence[EnvKey]) -> None:
        """No page waits for the counts: they are there when it is shown next."""
        now = self._clock()
        old = [key for key in keys if key not in self._counts or now - self._counts[key][0] >= COUNTED_LATELY]
        if old and self._counting.acquire(blocking=False):
            threading.Thread(target=self._count, args=(old,), name="counts", daemon=True).start()

    def _count(self, keys: Sequence[EnvKey]) -> None:
        try:
            for key in keys:
                try:
                    self._promised[key] = self.promised(key)
                    seen = self._service.traffic(key)
                    counts = {name: seen[name] for name in ("requests", "errors", "seconds")}
                    self._counts[key] = (self._clock(), counts)
                except CrossfadeError:
                    continue
        finally:
            self._counting.release()


def row_of(
    key: EnvKey,
    status: Data,
    counts: Data | None,
    promised: Promised | None = None,
    alerts: tuple[Alert, ...] = (),
) -> Row:
    """What a status comes to."""
    state, health = _health(status)
    if any(alert.severity is Severity.PAGE for alert in alerts):
        state = "trouble"
    elif promised is not None and promised.state == "exhausted" and state == "ok":
        state = "failed"
    rollout = status["rollout"]
    says = headline(rollout) if rollout else ""
    return Row(key, status, state, health, parts_of(status), says, counts, promised, alerts)


def by_key(alerts: Sequence[Alert]) -> dict[EnvKey, tuple[Alert, ...]]:
    """Those of each environment."""
    found: dict[EnvKey, tuple[Alert, ...]] = {}
    for alert in alerts:
        found[alert.key] = (*found.get(alert.key, ()), alert)
    return found


def _health(status: Data) -> tuple[str, str]:
    edge, rollout = status["edge"], status["rollout"]
    slot = status["slots"].get(status["active_slot"]) if status["active_slot"] else None
    up = sum(replica["state"] == "running" for replica in slot["replicas"]) if slot else 0
    wanted = len(slot["replicas"]) if slot else 0
    said = f"{up} of {wanted} replicas up" if slot else "nothing is live"
    if status["live"] and not edge["reachable"]:
        return "trouble", f"{said}; the edge does not answer"
    if status["live"] and up < wanted:
        return "trouble", said
    if edge.get("lapsed"):
        return "trouble", f"{said}; a lease lapsed"
    if rollout:
        going_back = rollout["phase"] == "rolling-back" or (rollout["verdict"] or {}).get("finding") == "fail"
        return ("trouble" if going_back else "busy"), said
    last = status["last"]
    if last and last["phase"] == "rolled-back":
        return ("failed" if status["live"] else "empty"), said
    return ("ok" if status["live"] else "empty"), said


def parts_of(status: Data) -> tuple[Part, ...]:
    """The weight bar: blue, the control's share, green. What the edge does; where it is silent, what is live."""
    edge, slots = status["edge"], status["slots"]
    held = {name: slots[name]["release"] if slots[name] else "" for name in ("blue", "green")}
    wide = {"blue": 0, "control": 0, "green": 0}
    if edge["reachable"]:
        wide = {"blue": edge["blue"], "control": edge["control"], "green": edge["green"]}
        if wide["control"] and status["active_slot"]:
            # The live slot's own weight counts the share of its fresh replicas.
            wide[status["active_slot"]] -= wide["control"]
    elif status["active_slot"]:
        wide[status["active_slot"]] = FULL
    found, at = [], 0
    for name, part in wide.items():
        release = held[name] if name != "control" else str(status["live"] or "")
        found.append(Part(name, release, at, max(0, part)))
        at += max(0, part)
    return tuple(found)


ORDER: Final = ("trouble", "failed", "busy", "ok", "empty")


def groups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """By service, those in trouble first, then those under way."""
    by_name = sorted(rows, key=lambda row: (row.key.service, row.key.environment))
    found = [(name, list(members)) for name, members in groupby(by_name, lambda row: row.key.service)]
    return sorted(found, key=lambda group: (min(ORDER.index(row.state) for row in group[1]), group[0]))


def router(house: Sessions) -> APIRouter:
    """The routes. Each shows what its viewer may see."""
    routes = APIRouter(include_in_schema=False)
    overview = Overview(house.service)

    @routes.get("/")
    def page(request: Request, q: str = "") -> Response:
        """The whole page; ``q`` keeps rows whose names have it."""
        session = house.session(request)
        wanted = q.strip().lower()[:LONGEST_FILTER]
        rows, seq = overview.rows(session.actor)
        shown = [row for row in rows if wanted in f"{row.key} {row.status['label']}".lower()]
        return house.page(request, session, "glance.html", groups=groups(shown), total=len(rows), q=wanted, seq=seq)

    @routes.get("/glance")
    def part(request: Request, keys: str = "") -> Response:
        """Some rows. Raises Forbidden for one that the viewer may not see."""
        session = house.session(request)
        wanted = [EnvKey.parse(text) for text in keys.split(",") if text]
        if len(wanted) > MOST_ROWS:
            raise Invalid("keys", f"{len(wanted)} environments", f"at most {MOST_ROWS}")
        for key in wanted:
            session.actor.require(Role.VIEWER, key)
        rows, _ = overview.rows(session.actor)
        return house.page(request, session, "glance_rows.html", rows=[row for row in rows if row.key in set(wanted)])

    return routes
