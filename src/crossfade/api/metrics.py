"""`/metrics`: the state of all environments for Prometheus, looked up when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from crossfade import __version__
from crossfade.api.slo_metrics import Promises
from crossfade.api.stream import Streams
from crossfade.domain.errors import CrossfadeError, Unavailable
from crossfade.domain.traffic import Slot
from crossfade.domain.values import EnvKey
from crossfade.service import Service

WHERE: Final = ("service", "environment")
ROLLOUTS_COUNTED: Final = 1000


class Installation(Collector):
    """What a scrape finds. No label has a value that somebody could make up endlessly."""

    def __init__(self, service: Service, streams: Streams) -> None:
        self._service, self._streams = service, streams
        self._promises = Promises(service)

    def collect(self) -> Iterator[Metric]:
        service = self._service
        rows = service.all_status()
        info = InfoMetricFamily("crossfade", "The version of Crossfade.")
        info.add_metric((), {"version": __version__})
        yield info
        yield GaugeMetricFamily("crossfade_sse_viewers", "Open streams of the API.", value=self._streams.open)
        yield GaugeMetricFamily("crossfade_viewers", "Open streams of API and dashboard.", value=service.hub.viewers)
        yield from _environments(rows)
        yield _rollouts(service.rollouts(None, ROLLOUTS_COUNTED))
        yield _runs(service)
        keys = [EnvKey(row["service"], row["environment"]) for row in rows]
        yield from _traffic(service, keys)
        yield from self._promises.collect(keys)


def _environments(rows: list[dict[str, Any]]) -> Iterator[Metric]:
    live = InfoMetricFamily("crossfade_live_release", "The release that is live.", labels=WHERE)
    reachable = GaugeMetricFamily("crossfade_edge_reachable", "Whether the edge answers.", labels=WHERE)
    lapsed = GaugeMetricFamily(
        "crossfade_lease_lapsed", "Whether the edge went back to the baseline by itself.", labels=WHERE
    )
    weight = GaugeMetricFamily("crossfade_weight_ratio", "Share of traffic, 0 to 1.", labels=(*WHERE, "slot"))
    running = GaugeMetricFamily("crossfade_replicas_running", "Replicas that run.", labels=(*WHERE, "slot"))
    open_ = GaugeMetricFamily("crossfade_rollout_open", "A rollout under way, by its phase.", labels=(*WHERE, "phase"))
    for row in rows:
        where = (row["service"], row["environment"])
        edge = row["edge"]
        if row["live"]:
            live.add_metric(where, {"release": row["live"], "slot": row["active_slot"] or ""})
        reachable.add_metric(where, float(edge["reachable"]))
        if edge["reachable"]:
            lapsed.add_metric(where, float(edge["lapsed"]))
            for pool in ("blue", "green", "control"):
                weight.add_metric((*where, pool), edge[pool] / 10_000)
        for slot, held in row["slots"].items():
            if held is not None:
                up = sum(replica["state"] == "running" for replica in held["replicas"])
                running.add_metric((*where, slot), up)
        if row["rollout"] is not None:
            open_.add_metric((*where, row["rollout"]["phase"]), 1)
    yield from (live, reachable, lapsed, weight, running, open_)


def _rollouts(rows: list[dict[str, Any]]) -> Metric:
    counts: dict[tuple[str, str, str, str], int] = {}
    for row in rows:
        labels = (row["service"], row["environment"], row["kind"], row["phase"])
        counts[labels] = counts.get(labels, 0) + 1
    family = GaugeMetricFamily(
        "crossfade_rollouts", f"The last {ROLLOUTS_COUNTED} rollouts, by phase.", labels=(*WHERE, "kind", "phase")
    )
    for labels, count in counts.items():
        family.add_metric(labels, count)
    return family


def _runs(service: Service) -> Metric:
    family = GaugeMetricFamily(
        "crossfade_runs", f"The last {ROLLOUTS_COUNTED} runs of pipelines, by status.", labels=("service", "status")
    )
    try:
        rows = service.runs.counts(ROLLOUTS_COUNTED)
    except Unavailable:
        return family  # an installation without pipelines
    for (name, status), count in rows.items():
        family.add_metric((name, status), count)
    return family


def _traffic(service: Service, keys: list[EnvKey]) -> Iterator[Metric]:
    labels = (*WHERE, "slot")
    requests = CounterMetricFamily("crossfade_requests", "Requests that clients made.", labels=labels)
    errors = CounterMetricFamily("crossfade_errors", "Requests that failed.", labels=labels)
    for key in keys:
        try:
            reading = service.reading(key)
        except CrossfadeError:
            continue  # no traffic is told as no series, not as none
        counted = {slot.value: reading.slots.get(slot) for slot in Slot} | {"control": reading.control}
        for slot, counters in counted.items():
            if counters is not None:
                requests.add_metric((key.service, key.environment, slot), counters.requests)
                errors.add_metric((key.service, key.environment, slot), counters.errors)
    yield from (requests, errors)


def registry(service: Service, streams: Streams) -> CollectorRegistry:
    """A registry of its own: nothing of the process or of other libraries."""
    made = CollectorRegistry()
    made.register(Installation(service, streams))
    return made
