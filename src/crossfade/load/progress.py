"""What a run has done since it was last asked, small enough for a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from crossfade.domain.analysis import latency
from crossfade.load.records import Records, StreamFacts


@dataclass(frozen=True, slots=True)
class Progress:
    """An interval of ``seconds`` that ended ``elapsed`` seconds after the beginning.

    ``sent``, ``finished``, ``failed`` are totals so far, ``in_flight`` is now. ``requests``, ``failures`` (by kind),
    ``by_header`` (answers by the recorded header's value) and ``latencies`` (counts by bucket of
    `domain.analysis.latency`) are of the interval. ``lag_p99`` in seconds.
    """

    elapsed: float
    seconds: float
    sent: int
    finished: int
    failed: int
    in_flight: int
    requests: int
    failures: Mapping[str, int]
    by_header: Mapping[str, int]
    latencies: Mapping[int, int]
    lag_p99: float
    messages: int = 0
    cuts: int = 0
    open_streams: int = 0

    @classmethod
    def of(
        cls,
        records: Records,
        span: tuple[int, int],
        lags: tuple[int, int],
        *,
        elapsed: float,
        seconds: float,
        sent: int,
        in_flight: int,
        streams: Sequence[StreamFacts],
    ) -> Self:
        """From the records ``span`` (first, behind the last) and start lags ``lags``."""
        first, last = span
        kinds = Counter(records.kind[first:last])
        values = Counter(records.value[first:last])
        late = sorted(records.lags[lags[0] : lags[1]])
        return cls(
            elapsed=elapsed,
            seconds=seconds,
            sent=sent,
            finished=last,
            failed=records.failed,
            in_flight=in_flight,
            requests=last - first,
            failures={records.kinds[kind]: count for kind, count in sorted(kinds.items()) if kind},
            by_header={records.values[value]: count for value, count in sorted(values.items()) if value},
            latencies=dict(Counter(map(latency.bucket_of, records.latency[first:last]))),
            lag_p99=late[min(len(late) - 1, int(len(late) * 0.99))] if late else 0.0,
            messages=sum(facts.messages for facts in streams),
            cuts=sum(facts.cut for facts in streams),
            open_streams=sum(facts.open for facts in streams),
        )

    def plus(self, other: Progress) -> Progress:
        """The same interval of two shards together."""
        return Progress(
            elapsed=max(self.elapsed, other.elapsed),
            seconds=max(self.seconds, other.seconds),
            sent=self.sent + other.sent,
            finished=self.finished + other.finished,
            failed=self.failed + other.failed,
            in_flight=self.in_flight + other.in_flight,
            requests=self.requests + other.requests,
            failures=dict(Counter(self.failures) + Counter(other.failures)),
            by_header=dict(Counter(self.by_header) + Counter(other.by_header)),
            latencies=dict(Counter(self.latencies) + Counter(other.latencies)),
            lag_p99=max(self.lag_p99, other.lag_p99),
            messages=self.messages + other.messages,
            cuts=self.cuts + other.cuts,
            open_streams=self.open_streams + other.open_streams,
        )

    def to_data(self) -> dict[str, Any]:
        """All of it, for `from_data`."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        latencies = {int(bucket): count for bucket, count in data["latencies"].items()}
        return cls(**{**data, "latencies": latencies})

    def line(self) -> dict[str, Any]:
        """For people and programs that watch: rates in requests a second, times in milliseconds."""
        return {
            "elapsed": round(self.elapsed, 3),
            "rate": round(self.requests / self.seconds, 1) if self.seconds > 0 else 0.0,
            "p50_ms": _ms(latency.quantile(self.latencies, 0.5)),
            "p99_ms": _ms(latency.quantile(self.latencies, 0.99)),
            "lag_p99_ms": _ms(self.lag_p99),
            "sent": self.sent,
            "finished": self.finished,
            "failed": self.failed,
            "in_flight": self.in_flight,
            "failures": dict(self.failures),
            "by_header": dict(self.by_header),
            "open_streams": self.open_streams,
            "messages": self.messages,
            "cuts": self.cuts,
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
