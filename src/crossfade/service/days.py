"""What histories say of each day, kept for good: they themselves forget it after 35 days.

One record a month and environment, begun with its first known day. A day is written down once, soon after its midnight in
UTC; days in whose night no server ran are written when one does, as long as the histories still have them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from crossfade.domain.errors import CrossfadeError
from crossfade.domain.report.availability import BAD_LEAST, BIN, NOTHING, Day, Kept, stretches
from crossfade.domain.report.span import DAY, Span, day_of, name_of
from crossfade.domain.slo import EDGE, PROBE, Counted, Objective, Series
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Parts
from crossfade.ports.records import Record

KIND: Final = "days"
REMEMBERED: Final = 35
"""Days that histories go back."""
SETTLED: Final = 120.0
"""Seconds after midnight from which nothing is added to the day before."""
INTERVAL: Final = 60.0

log = logging.getLogger("crossfade.days")


class Days:
    """Reads days, and keeps them by a thread of its own."""

    def __init__(self, parts: Parts, interval: float = INTERVAL) -> None:
        self._parts, self._interval = parts, interval
        self._lock = threading.Lock()
        self._next: dict[EnvKey, int] = {}
        """The first day of each environment that was not looked at yet."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="days", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.keep()
            except Exception:
                log.exception("the days")
            self._stop.wait(self._interval)

    # --- to see

    def kept(self, span: Span) -> dict[EnvKey, dict[int, Day]]:
        """All days of a span that are written down, of all environments there are or were."""
        found: dict[EnvKey, dict[int, Day]] = {}
        for month in sorted({name_of(at)[:7] for at in span.days()}):
            for record in self._parts.records.list(KIND, None, subject=month, limit=1_000_000):
                days = found.setdefault(record.key, {})
                days |= {at: day for at, day in _days(record).items() if span.has(at)}
        return found

    def of(
        self, keys: Iterable[EnvKey], span: Span, policies: Mapping[EnvKey, Sequence[Objective]]
    ) -> dict[EnvKey, tuple[Day, ...]]:
        """The days of a span of which anything is known: as they were written down, else as histories have them now."""
        now, kept = self._parts.now(), self.kept(span)
        found = {}
        for key in keys:
            mine = kept.get(key, {})
            # What was looked at when it was over, and not kept, is not known.
            since = self._next.get(key, 0)
            missing = [at for at in span.days() if at >= since and at not in mine and _remembered(at, now)]
            fresh = self._look(key, missing, now, policies.get(key, ())) if missing else {}
            found[key] = tuple(day for _, day in sorted((mine | fresh).items()))
        return found

    def policy(self, key: EnvKey, live: ReleaseNumber | None) -> tuple[Objective, ...]:
        """What the live release is held to."""
        if live is None:
            return ()
        return self._parts.store.release(key.service, live).config.slo.objectives

    # --- by itself

    def keep(self) -> int:
        """Write down all days that are over and known; how many."""
        now, written = self._parts.now(), 0
        with self._lock:
            today = day_of(now - SETTLED)
            for environment in self._parts.store.environments(self._due(today)):
                if self._stop.is_set():
                    break
                key = environment.key
                try:
                    written += self._keep(key, self.policy(key, environment.live), today, now)
                except CrossfadeError as error:
                    log.warning("the days of %s: %s", key, error)
                else:
                    self._next[key] = today
        return written

    def _due(self, today: int) -> list[EnvKey]:
        known = self._parts.store.keys()
        return [key for key in known if self._next.get(key, 0) < today]

    def _keep(self, key: EnvKey, policy: Sequence[Objective], today: int, now: float) -> int:
        first = max(self._next.get(key, 0), today - REMEMBERED * DAY)
        months: dict[str, list[int]] = {}
        for at in range(first, today, DAY):
            months.setdefault(name_of(at)[:7], []).append(at)
        written = 0
        for month, days in months.items():
            record = next(iter(self._parts.records.list(KIND, key, subject=month, limit=1)), None)
            known = _days(record) if record is not None else {}
            fresh = self._look(key, [at for at in days if at not in known], now, policy)
            if not fresh:
                continue
            data = {"days": [day.to_data() for _, day in sorted((known | fresh).items())]}
            if record is None:
                self._parts.records.add(KIND, key, month, data, now, ended=now)
            else:
                self._parts.records.save(record.id, data, now, told=False)
            written += len(fresh)
        return written

    def _look(self, key: EnvKey, days: Sequence[int], now: float, policy: Sequence[Objective]) -> dict[int, Day]:
        """What histories have of some days; those of which they have nothing are left out."""
        if not days:
            return {}
        begins, ends = days[0], min(days[-1] + DAY, now)
        edge, probe = (self._by_day(Series(key, name), begins, ends) for name in (EDGE, PROBE))
        counted = {one.name: (one, self._by_day(Series(key, one.name), begins, ends)) for one in policy}
        found = {}
        for at in days:
            kept = {
                name: Kept(one.target, one.kind, by_day[at], one.threshold)
                for name, (one, by_day) in counted.items()
                if at in by_day
            }
            here = edge.get(at, NOTHING)
            bad = self._parts.histories.bins(Series(key, EDGE), at, at + DAY, BIN) if here.bad >= BAD_LEAST else ()
            day = Day(at, here, probe.get(at, NOTHING), kept, stretches(bad))
            if day.known:
                found[at] = day
        return found

    def _by_day(self, series: Series, begins: float, ends: float) -> dict[int, Counted]:
        return {round(one.at): one.counted for one in self._parts.histories.bins(series, begins, ends, DAY)}


def _remembered(at: int, now: float) -> bool:
    return now - (REMEMBERED + 1) * DAY <= at < now


def _days(record: Record) -> dict[int, Day]:
    days: Sequence[Mapping[str, Any]] = record.data["days"]
    return {day["at"]: Day.from_data(day) for day in days}
