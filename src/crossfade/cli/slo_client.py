"""The part of the client that speaks of objectives, alerts, watches, drills and proofs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, cast
from urllib.parse import quote

from crossfade.api import slo_answers as answers
from crossfade.cli.flag_client import Data, Speaks

LATELY: Final = 2.0
"""Seconds for which what was answered is shown again: a status is painted four times in each of them."""


class SloClient:
    """Raises as the client does."""

    def __init__(self, client: Speaks) -> None:
        self._client = client

    def _get(self, path: str) -> Any:
        return self._client.call("GET", path)

    def _post(self, path: str, **body: Any) -> Any:
        return self._client.call("POST", path, json=body)

    # --- objectives

    def view(self, key: str) -> answers.Slo:
        return cast(answers.Slo, self._get(f"/environments/{key}/slo"))

    def history(self, key: str, objective: str, begins: float, ends: float, step: float) -> list[answers.Stretch]:
        """What was counted, oldest first; what is not known is left out."""
        place = f"/environments/{key}/slo/{quote(objective, safe='')}/history"
        asked: dict[str, Any] = {"from": begins, "to": ends, "step": step}
        return self._client.listed(place, **asked)

    def watches(self, key: str, limit: int) -> list[answers.Watch]:
        return self._client.listed(f"/environments/{key}/watches", limit)

    def watch(self, id: int) -> answers.WatchDetail:
        return cast(answers.WatchDetail, self._get(f"/watches/{id}"))

    def end_watch(self, id: int, by: str) -> answers.WatchDetail:
        return cast(answers.WatchDetail, self._post(f"/watches/{id}/end", by=by))

    # --- alerts

    def alerts(self, key: str | None, open_only: bool, limit: int) -> list[answers.Alert]:
        place = f"/environments/{key}/alerts" if key else "/alerts"
        return self._client.listed(place, limit, open=open_only)

    def acknowledge(self, id: int, by: str) -> answers.Alert:
        return cast(answers.Alert, self._post(f"/alerts/{id}/acknowledge", by=by))

    # --- drills

    def plan_drill(self, key: str, back: int, hold: float, fault: str | None) -> answers.Rehearsal:
        """What a drill would do. Raises Problem as the drill itself would."""
        asked = {"back": back, "hold": hold} | ({"fault": fault} if fault else {})
        found = self._client.call("GET", f"/environments/{key}/drills/plan", params=asked)
        return cast(answers.Rehearsal, found)

    def begin_drill(self, key: str, body: Data) -> answers.DrillDetail:
        return cast(answers.DrillDetail, self._post(f"/environments/{key}/drills", **body))

    def drill(self, id: int) -> answers.DrillDetail:
        return cast(answers.DrillDetail, self._get(f"/drills/{id}"))

    def drills(self, key: str, limit: int) -> list[answers.Drill]:
        return self._client.listed(f"/environments/{key}/drills", limit)

    def drill_schedule(self, key: str) -> list[answers.Scheduled]:
        return cast(list[answers.Scheduled], self._get(f"/environments/{key}/drills/schedule")["items"])

    def abort_drill(self, id: int, by: str) -> answers.DrillDetail:
        return cast(answers.DrillDetail, self._post(f"/drills/{id}/abort", by=by))

    # --- proofs

    def proofs(self, key: str) -> list[answers.Proof]:
        return cast(list[answers.Proof], self._get(f"/environments/{key}/proofs")["items"])

    def prove(self, key: str, release: str | None, by: str) -> answers.Asked:
        return cast(answers.Asked, self._post(f"/environments/{key}/proofs", release=release, by=by))


class Lately:
    """Asks for the objectives of environments, and not again within a moment."""

    def __init__(self, ask: Callable[[str], Data]) -> None:
        self._ask = ask
        self._known: dict[str, tuple[float, Data]] = {}

    def of(self, key: str) -> Data:
        """As they were lately."""
        now = time.monotonic()
        if key not in self._known or now - self._known[key][0] > LATELY:
            self._known[key] = now, self._ask(key)
        return self._known[key][1]
