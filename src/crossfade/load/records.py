"""One short record of each request, and what else a run leaves behind; can be written to a file and joined."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

EXAMPLES: Final = 5
"""Failures of each kind that are kept with all that is known of them."""

MOST_FAILURES: Final = 10_000
"""Failures that are kept with their time."""

MOST_VALUES: Final = 1000
"""Distinct values of the recorded header that are told apart; the others are one."""

OTHER: Final = "(other)"
_COLUMNS: Final = (("start", "d"), ("latency", "f"), ("status", "H"), ("kind", "B"), ("value", "H"), ("request", "H"))


@dataclass(frozen=True, slots=True)
class FailedRequest:
    """One failure: ``at`` is when it was found (epoch seconds), ``latency`` in seconds from the intended start."""

    at: float
    kind: str
    request: str
    path: str
    status: int
    value: str
    latency: float
    detail: str


@dataclass(slots=True)
class StreamFacts:
    """What became of one set of streams.

    ``opened`` counts connections that were established, ``ended`` those that the server closed in an orderly way (the
    last chunk, a close frame), ``cut`` those that just broke. ``refused`` counts attempts that led to no stream.
    ``longest_gap`` is the longest time without a message on an open stream, in seconds. ``cuts`` are the first few:
    epoch seconds and what was seen.
    """

    path: str
    kind: str
    wanted: int
    open: int = 0
    opened: int = 0
    refused: int = 0
    messages: int = 0
    ended: int = 0
    cut: int = 0
    longest_gap: float = 0.0
    longest_life: float = 0.0
    cuts: list[tuple[float, str]] = field(default_factory=list)

    def plus(self, other: StreamFacts) -> StreamFacts:
        """Those of two shards together."""
        return StreamFacts(
            self.path,
            self.kind,
            self.wanted + other.wanted,
            self.open + other.open,
            self.opened + other.opened,
            self.refused + other.refused,
            self.messages + other.messages,
            self.ended + other.ended,
            self.cut + other.cut,
            max(self.longest_gap, other.longest_gap),
            max(self.longest_life, other.longest_life),
            sorted([*self.cuts, *other.cuts])[:EXAMPLES],
        )


class Records:
    """Every finished request of a run.

    Columns, one entry a request: ``start`` (intended, seconds from the beginning of the run), ``latency`` (seconds from
    the intended start to the last byte or the failure), ``status`` (0: no answer), ``kind`` (of failure, an index into
    ``kinds``; 0 is none), ``value`` (of the recorded header, an index into ``values``), ``request`` (an index into the
    mix). ``lags`` are the seconds by which requests were started late, through the generator's own fault.
    """

    def __init__(self, began_at: float = 0.0) -> None:
        self.began_at = began_at
        self.start = array("d")
        self.latency = array("f")
        self.status = array("H")
        self.kind = array("B")
        self.value = array("H")
        self.request = array("H")
        self.lags = array("f")
        self.kinds: list[str] = [""]
        self.values: list[str] = [""]
        self.failures: list[FailedRequest] = []
        self.examples: dict[str, list[FailedRequest]] = {}
        self.streams: list[StreamFacts] = []
        self.failed = 0
        self.elapsed = 0.0
        self.resent = 0
        self.unfinished = 0
        self.stopped = False
        self._kind_numbers = {"": 0}
        self._value_numbers: dict[bytes, int] = {b"": 0}

    def __len__(self) -> int:
        return len(self.start)

    def kind_number(self, kind: str) -> int:
        """The index of a kind of failure. There are few: the words of this package, and one for each status."""
        number = self._kind_numbers.get(kind)
        if number is None:
            if len(self.kinds) >= 255:
                return self.kind_number(OTHER) if kind != OTHER else 255
            number = self._kind_numbers[kind] = len(self.kinds)
            self.kinds.append(kind)
        return number

    def value_number(self, value: bytes) -> int:
        """The index of a value of the recorded header."""
        number = self._value_numbers.get(value)
        if number is None:
            text = value[:200].decode("latin-1")
            if len(self.values) > MOST_VALUES:
                text = OTHER
            number = self.values.index(text) if text in self.values else len(self.values)
            if number == len(self.values):
                self.values.append(text)
            if len(self._value_numbers) < 10 * MOST_VALUES:
                self._value_numbers[value] = number
        return number

    def add(self, start: float, latency: float, status: int, kind: int, value: int, request: int) -> None:
        """Keep one request."""
        self.start.append(start)
        self.latency.append(latency)
        self.status.append(status)
        self.kind.append(kind)
        self.value.append(value)
        self.request.append(request)
        if kind:
            self.failed += 1

    def note(self, failure: FailedRequest) -> None:
        """Keep a failure as far as there is room."""
        examples = self.examples.setdefault(failure.kind, [])
        if len(examples) < EXAMPLES:
            examples.append(failure)
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(failure)

    def save(self, path: Path) -> None:
        """Write all of it: one line of JSON, then the columns as they are. Raises OSError."""
        head = {
            "count": len(self),
            "lags": len(self.lags),
            "began_at": self.began_at,
            "elapsed": self.elapsed,
            "kinds": self.kinds,
            "values": self.values,
            "failures": [asdict(failure) for failure in self.failures],
            "examples": {kind: [asdict(each) for each in found] for kind, found in self.examples.items()},
            "streams": [asdict(facts) for facts in self.streams],
            "resent": self.resent,
            "unfinished": self.unfinished,
            "stopped": self.stopped,
        }
        with path.open("wb") as file:
            file.write(json.dumps(head).encode() + b"\n")
            for name, _ in _COLUMNS:
                getattr(self, name).tofile(file)
            self.lags.tofile(file)

    @classmethod
    def load(cls, path: Path) -> Records:
        """What `save` wrote, on the same machine. Raises OSError, EOFError, ValueError."""
        with path.open("rb") as file:
            head: dict[str, Any] = json.loads(file.readline())
            records = cls(head["began_at"])
            for name, _ in _COLUMNS:
                getattr(records, name).fromfile(file, head["count"])
            records.lags.fromfile(file, head["lags"])
        records.failed = len(records) - records.kind.count(0)
        records.elapsed = head["elapsed"]
        for kind in head["kinds"][1:]:
            records.kind_number(kind)
        for value in head["values"][1:]:
            records.value_number(value.encode("latin-1"))
        records.failures = [FailedRequest(**each) for each in head["failures"]]
        records.examples = {kind: [FailedRequest(**each) for each in found] for kind, found in head["examples"].items()}
        records.streams = [StreamFacts(**each) for each in head["streams"]]
        records.resent, records.unfinished, records.stopped = head["resent"], head["unfinished"], head["stopped"]
        return records

    @classmethod
    def joined(cls, parts: Iterable[Records]) -> Records:
        """The records of all shards of one run."""
        whole = cls()
        failures: list[FailedRequest] = []
        for number, part in enumerate(parts):
            whole.began_at = part.began_at if number == 0 else min(whole.began_at, part.began_at)
            kinds = [whole.kind_number(kind) for kind in part.kinds]
            values = [whole.value_number(value.encode("latin-1")) for value in part.values]
            whole.start += part.start
            whole.latency += part.latency
            whole.status += part.status
            whole.request += part.request
            whole.lags += part.lags
            whole.kind.extend(kinds[k] for k in part.kind)
            whole.value.extend(values[v] for v in part.value)
            whole.failed += part.failed
            whole.elapsed = max(whole.elapsed, part.elapsed)
            whole.resent += part.resent
            whole.unfinished += part.unfinished
            whole.stopped |= part.stopped
            failures += part.failures
            for kind, found in part.examples.items():
                whole.examples[kind] = sorted([*whole.examples.get(kind, []), *found], key=_when)[:EXAMPLES]
            for facts in part.streams:
                for at, present in enumerate(whole.streams):
                    if (present.path, present.kind) == (facts.path, facts.kind):
                        whole.streams[at] = present.plus(facts)
                        break
                else:
                    whole.streams.append(facts)
        whole.failures = sorted(failures, key=_when)[:MOST_FAILURES]
        return whole


def _when(failure: FailedRequest) -> float:
    return failure.at
