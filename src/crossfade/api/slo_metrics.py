"""The part of `/metrics` about what was promised: objectives, alerts, drills, proofs, and notices that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from crossfade.domain.alert import Severity
from crossfade.domain.errors import CrossfadeError
from crossfade.domain.exports import window
from crossfade.domain.slo import Counted
from crossfade.domain.values import EnvKey
from crossfade.service import Service

WHERE: Final = ("service", "environment")
LAG: Final = 30.0
"""Seconds until what was counted is counted here: latencies are known some seconds after the requests."""
FINE_FOR: Final = 3000.0
"""Seconds since the last scrape for which seconds are still known one by one."""
MOST_ALERTS: Final = 1000


class Promises:
    """What a scrape finds. Counters begin at 0 with the server, as those of any program do."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._began: float | None = None
        self._counted: dict[tuple[EnvKey, str], tuple[float, Counted]] = {}

    def collect(self, keys: Sequence[EnvKey]) -> Iterator[Metric]:
        """The metrics of these environments; what cannot be read is told as no series."""
        service, now = self._service, self._service.now()
        labels = (*WHERE, "objective")
        requests = CounterMetricFamily("crossfade_slo_requests", "Requests that an objective counts.", labels=labels)
        bad = CounterMetricFamily("crossfade_slo_bad", "Those of them that broke it.", labels=labels)
        target = GaugeMetricFamily("crossfade_slo_target_ratio", "The share that must be good.", labels=labels)
        left = GaugeMetricFamily(
            "crossfade_slo_budget_left_ratio",
            "Share of the error budget that is left; below 0: overdrawn.",
            labels=labels,
        )
        burn = GaugeMetricFamily(
            "crossfade_slo_burn", "Error rate over a window by what the objective allows.", labels=(*labels, "window")
        )
        for key in keys:
            try:
                view = service.objectives.view(key)
            except CrossfadeError:
                continue
            for objective in view["objectives"]:
                where = (key.service, key.environment, objective["name"])
                counted = self._count(key, objective["name"], now)
                requests.add_metric(where, counted.total)
                bad.add_metric(where, counted.bad)
                target.add_metric(where, objective["target"])
                if objective["budget"]["left"] is not None:
                    left.add_metric(where, objective["budget"]["left"])
                for span, value in _burns(objective).items():
                    burn.add_metric((*where, span), value)
        yield from (requests, bad, target, left, burn)
        yield self._alerts(keys)
        yield from self._drills(keys, now)
        yield from self._proofs(keys, now)
        waiting = GaugeMetricFamily("crossfade_notices_waiting", "Notices that wait for a target.", labels=("target",))
        for name, count in service.notices.waiting().items():
            waiting.add_metric((name,), count)
        yield waiting

    def _count(self, key: EnvKey, name: str, now: float) -> Counted:
        """What was counted since the server began, up to a moment ago. It never shrinks, however often it is asked for."""
        until = now - LAG
        with self._lock:
            if self._began is None:
                self._began = float(int(until))
            since, counted = self._counted.get((key, name), (self._began, Counted()))
            if until - since >= 1.0:
                whole = float(int(until))
                step = 1.0 if whole - since < FINE_FOR else 60.0
                for row in self._service.objectives.history(key, name, since, whole, step):
                    counted = counted.plus(Counted(row["total"], row["bad"], row["covered"]))
                since = whole
            self._counted[key, name] = since, counted
        return counted

    def _alerts(self, keys: Sequence[EnvKey]) -> Metric:
        family = GaugeMetricFamily("crossfade_alerts_open", "Alerts that are not over.", labels=(*WHERE, "severity"))
        counts = {(key, severity): 0 for key in keys for severity in Severity}
        for alert in self._service.alerts.list(open_only=True, limit=MOST_ALERTS):
            counts[alert.key, alert.severity] = counts.get((alert.key, alert.severity), 0) + 1
        for (key, severity), count in counts.items():
            family.add_metric((key.service, key.environment, severity.value), count)
        return family

    def _drills(self, keys: Sequence[EnvKey], now: float) -> Iterator[Metric]:
        labels = (*WHERE, "drill")
        age = GaugeMetricFamily(
            "crossfade_drill_age_seconds", "Since the last drill of a schedule ended.", labels=labels
        )
        late = GaugeMetricFamily("crossfade_drill_overdue", "Whether a drill is overdue.", labels=labels)
        for key in keys:
            for row in _read(partial(self._service.drills.schedule, key)):
                where = (key.service, key.environment, row["name"])
                late.add_metric(where, float(bool(row["overdue"])))
                ended = (row["last"] or {}).get("ended")
                if ended is not None:
                    age.add_metric(where, max(0.0, now - ended))
        yield from (age, late)

    def _proofs(self, keys: Sequence[EnvKey], now: float) -> Iterator[Metric]:
        labels = (*WHERE, "release")
        age = GaugeMetricFamily("crossfade_proof_age_seconds", "Since a release was proven restorable.", labels=labels)
        late = GaugeMetricFamily("crossfade_proof_overdue", "Whether a proof is overdue.", labels=labels)
        for key in keys:
            for row in _read(partial(self._service.proofs.list, key)):
                where = (key.service, key.environment, row["release"])
                late.add_metric(where, float(bool(row["overdue"])))
                if row["proven"] is not None:
                    age.add_metric(where, max(0.0, now - row["proven"]))
        yield from (age, late)


def _burns(objective: dict[str, Any]) -> dict[str, float]:
    """By window, each once; those of which nothing is known are left out."""
    found: dict[str, float] = {}
    for rule in objective["rules"]:
        for side in ("long", "short"):
            value = rule[f"burn_{side}"]
            if value is not None:
                found[window(rule[side])] = value
    return found


def _read(ask: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    try:
        return ask()
    except CrossfadeError:
        return ()
