"""What a run showed: counts, failures, latencies; whole, by slice of time, by kind of request, by header value.

Latencies are those of requests that were answered or timed out, each from its intended start to its last byte: a
server that stalls is charged with every request that should have been sent meanwhile. Requests that failed at once
(refused, reset) would make a broken server look fast, and are left out.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from crossfade.domain.analysis import latency
from crossfade.load.plan import LoadPlan
from crossfade.load.records import FailedRequest, Records, StreamFacts

LAG_SHARE = 0.1
"""A p99 start lag above this share of the median latency makes a run void, unless it is below the plan's floor."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds; None without any."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    p999: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Exact: the smallest value that at least the share q of all does not exceed."""
        if not values:
            return cls()
        ordered = sorted(values)
        ranks = (max(0, math.ceil(q * len(ordered)) - 1) for q in (0.5, 0.9, 0.99, 0.999, 1.0))
        return cls(*(ordered[rank] for rank in ranks))

    def to_data(self) -> dict[str, float | None]:
        """In milliseconds."""
        return {f"{name}_ms": None if v is None else round(v * 1000, 3) for name, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Group:
    """Some requests of a run: how many, how many of them failed, and their latencies."""

    requests: int
    failed: int
    latency: Quantiles

    def to_data(self) -> dict[str, Any]:
        return {"requests": self.requests, "failed": self.failed, **self.latency.to_data()}


@dataclass(frozen=True, slots=True)
class Slice:
    """What was to start within ``seconds`` from ``at`` (epoch seconds) on. Slices can be added up.

    ``by_header`` maps a value to (requests, failed). ``latencies`` counts by bucket of `domain.analysis.latency`, so
    that quantiles read from them are up to 9.05 % too high, never too low.
    """

    at: float
    seconds: float
    requests: int = 0
    failed: int = 0
    by_kind: Mapping[str, int] = field(default_factory=dict)
    by_header: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    latencies: tuple[tuple[int, int], ...] = ()

    def quantile(self, q: float) -> float | None:
        """Seconds; None without latencies."""
        return latency.quantile(dict(self.latencies), q)

    def plus(self, later: Slice) -> Slice:
        """This one and a later one as one."""
        headers = dict(self.by_header)
        for value, (requests, failed) in later.by_header.items():
            before = headers.get(value, (0, 0))
            headers[value] = (before[0] + requests, before[1] + failed)
        return Slice(
            self.at,
            later.at + later.seconds - self.at,
            self.requests + later.requests,
            self.failed + later.failed,
            dict(Counter(self.by_kind) + Counter(later.by_kind)),
            headers,
            latency.add(self.latencies, later.latencies),
        )

    def to_data(self) -> dict[str, Any]:
        p50, p99 = self.quantile(0.5), self.quantile(0.99)
        return {
            "at": round(self.at, 6),
            "seconds": round(self.seconds, 6),
            "requests": self.requests,
            "failed": self.failed,
            "by_kind": dict(self.by_kind),
            "by_header": {value: list(counts) for value, counts in self.by_header.items()},
            "p50_ms": None if p50 is None else round(p50 * 1000, 3),
            "p99_ms": None if p99 is None else round(p99 * 1000, 3),
            "latencies": [list(pair) for pair in self.latencies],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            data["at"],
            data["seconds"],
            data["requests"],
            data["failed"],
            dict(data["by_kind"]),
            {value: (counts[0], counts[1]) for value, counts in data["by_header"].items()},
            tuple((bucket, count) for bucket, count in data["latencies"]),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """A whole run.

    ``began_at`` is epoch seconds. ``planned`` requests should have been sent in full ``seconds``, ``requests`` were
    finished (answered or failed), ``unfinished`` had no end when the run had. ``lag`` is by how much requests were
    started late through the generator's own fault; ``void`` lists why the figures must not be used, and is empty
    when they may. ``failures`` are the first of all with their time, ``examples`` the first few of each kind.
    """

    url: str
    began_at: float
    seconds: float
    planned: int
    requests: int
    failed: int
    by_kind: Mapping[str, int]
    by_status: Mapping[int, int]
    by_header: Mapping[str, Group]
    by_request: Mapping[str, Group]
    latency: Quantiles
    lag: Quantiles
    void: tuple[str, ...]
    stopped: bool
    resent: int
    unfinished: int
    failures: tuple[FailedRequest, ...]
    examples: Mapping[str, tuple[FailedRequest, ...]]
    slices: tuple[Slice, ...]
    streams: tuple[StreamFacts, ...]

    @property
    def rate(self) -> float:
        """Finished requests a second, from the first intended start to the last."""
        return self.requests / self.seconds if self.seconds > 0 else 0.0

    @classmethod
    def of(cls, plan: LoadPlan, records: Records) -> Self:
        """From a run's records."""
        quantiles = Quantiles.of(_latencies(records, range(len(records))))
        lag = Quantiles.of(records.lags)
        kinds = {records.kinds[kind]: n for kind, n in sorted(Counter(records.kind).items()) if kind}
        seconds = min(records.elapsed, plan.duration)
        return cls(
            url=plan.url,
            began_at=records.began_at,
            seconds=seconds,
            planned=plan.planned,
            requests=len(records),
            failed=records.failed,
            by_kind=kinds,
            by_status={status: n for status, n in sorted(Counter(records.status).items()) if status},
            by_header=_groups(records, records.value, records.values),
            by_request=_groups(records, records.request, [request.name for request in plan.mix]),
            latency=quantiles,
            lag=lag,
            void=_void(plan, quantiles, lag, kinds),
            stopped=records.stopped,
            resent=records.resent,
            unfinished=records.unfinished,
            failures=tuple(records.failures),
            examples={kind: tuple(found) for kind, found in records.examples.items()},
            slices=_slices(plan, records),
            streams=tuple(records.streams),
        )

    def between(self, start: float, end: float) -> Slice:
        """The slices that begin at or after ``start`` and before ``end`` (epoch seconds), as one."""
        whole: Slice | None = None
        for each in self.slices:
            if start <= each.at < end:
                whole = each if whole is None else whole.plus(each)
        return whole or Slice(start, max(0.0, end - start))

    def failures_between(self, start: float, end: float) -> tuple[FailedRequest, ...]:
        """Failures that were found then, of those that were kept."""
        return tuple(failure for failure in self.failures if start <= failure.at < end)

    def to_data(self) -> dict[str, Any]:
        """JSON-ready; times of day in epoch seconds, latencies in milliseconds."""
        return {
            "url": self.url,
            "began_at": round(self.began_at, 6),
            "seconds": round(self.seconds, 3),
            "planned": self.planned,
            "requests": self.requests,
            "failed": self.failed,
            "rate": round(self.rate, 1),
            "void": list(self.void),
            "stopped": self.stopped,
            "unfinished": self.unfinished,
            "resent": self.resent,
            "latency": self.latency.to_data(),
            "lag": self.lag.to_data(),
            "by_kind": dict(self.by_kind),
            "by_status": {str(status): n for status, n in self.by_status.items()},
            "by_header": {value: group.to_data() for value, group in self.by_header.items()},
            "by_request": {name: group.to_data() for name, group in self.by_request.items()},
            "streams": [asdict(facts) for facts in self.streams],
            "examples": {kind: [asdict(each) for each in found] for kind, found in self.examples.items()},
            "failures": [asdict(failure) for failure in self.failures],
            "slices": [each.to_data() for each in self.slices],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """What `to_data` gave. Raises KeyError, TypeError."""
        return cls(
            url=data["url"],
            began_at=data["began_at"],
            seconds=data["seconds"],
            planned=data["planned"],
            requests=data["requests"],
            failed=data["failed"],
            by_kind=dict(data["by_kind"]),
            by_status={int(status): n for status, n in data["by_status"].items()},
            by_header={value: _group(each) for value, each in data["by_header"].items()},
            by_request={name: _group(each) for name, each in data["by_request"].items()},
            latency=_quantiles(data["latency"]),
            lag=_quantiles(data["lag"]),
            void=tuple(data["void"]),
            stopped=data["stopped"],
            resent=data["resent"],
            unfinished=data["unfinished"],
            failures=tuple(FailedRequest(**each) for each in data["failures"]),
            examples={kind: tuple(FailedRequest(**each) for each in found) for kind, found in data["examples"].items()},
            slices=tuple(Slice.from_data(each) for each in data["slices"]),
            streams=tuple(StreamFacts(**each) for each in data["streams"]),
        )


def _latencies(records: Records, which: Sequence[int] | range) -> array[float]:
    timeout = records.kinds.index("timeout") if "timeout" in records.kinds else -1
    status, kind, latencies = records.status, records.kind, records.latency
    return array("f", (latencies[at] for at in which if status[at] or kind[at] == timeout))


def _groups(records: Records, column: array[int], names: Sequence[str]) -> dict[str, Group]:
    members: dict[int, array[int]] = {}
    for at, number in enumerate(column):
        if number not in members:
            members[number] = array("I")
        members[number].append(at)
    groups: dict[str, Group] = {}
    for number, which in sorted(members.items()):
        failed = sum(records.kind[at] != 0 for at in which)
        name = names[number] if names[number] not in groups else f"{names[number]} ({number})"
        groups[name] = Group(len(which), failed, Quantiles.of(_latencies(records, which)))
    return groups


def _slices(plan: LoadPlan, records: Records) -> tuple[Slice, ...]:
    """All of the run, the empty ones too."""
    if not records:
        return ()
    width = plan.slice
    count = max(1, math.ceil(min(records.elapsed, plan.duration) / width - 1e-9))
    requests, failed = [0] * count, [0] * count
    kinds: list[Counter[str]] = [Counter() for _ in range(count)]
    headers: list[dict[str, tuple[int, int]]] = [{} for _ in range(count)]
    buckets: list[Counter[int]] = [Counter() for _ in range(count)]
    for at, start in enumerate(records.start):
        # A nudge, so that an arrival that is due exactly at an edge is not put before it by rounding.
        number = min(count - 1, max(0, int((start + 1e-9) / width)))
        requests[number] += 1
        kind = records.kind[at]
        if kind:
            failed[number] += 1
            kinds[number][records.kinds[kind]] += 1
        value = records.values[records.value[at]]
        if value:
            n, bad = headers[number].get(value, (0, 0))
            headers[number][value] = (n + 1, bad + (kind != 0))
        if records.status[at] or records.kinds[kind] == "timeout":
            buckets[number][latency.bucket_of(records.latency[at])] += 1
    return tuple(
        Slice(
            records.began_at + number * width,
            width,
            requests[number],
            failed[number],
            dict(kinds[number]),
            headers[number],
            tuple(sorted(buckets[number].items())),
        )
        for number in range(count)
    )


def _void(plan: LoadPlan, quantiles: Quantiles, lag: Quantiles, kinds: Mapping[str, int]) -> tuple[str, ...]:
    """Why the figures say more about the generator than about what it measured."""
    reasons = []
    if lag.p99 is not None:
        allowed = max(plan.lag_floor, LAG_SHARE * (quantiles.p50 or 0.0))
        if lag.p99 > allowed:
            reasons.append(
                f"requests started late: p99 {lag.p99 * 1000:.1f} ms, allowed {allowed * 1000:.1f} ms"
                f" ({LAG_SHARE:.0%} of the median latency, at least {plan.lag_floor * 1000:g} ms)"
            )
    for kind, why in (("local", "this machine lacked ports, memory or files"), ("not-sent", "too many were waiting")):
        if kinds.get(kind):
            reasons.append(f"{kinds[kind]} requests were not sent: {why}")
    return tuple(reasons)


def _quantiles(data: Mapping[str, float | None]) -> Quantiles:
    found = (data[f"{name}_ms"] for name in ("p50", "p90", "p99", "p999", "max"))
    return Quantiles(*(None if value is None else value / 1000 for value in found))


def _group(data: Mapping[str, Any]) -> Group:
    return Group(data["requests"], data["failed"], _quantiles(data))
