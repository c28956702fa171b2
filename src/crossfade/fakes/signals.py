"""The twin of `signals.edge`: readings that a test writes itself."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from crossfade.domain.analysis import latency
from crossfade.domain.analysis.sample import History, Moments
from crossfade.domain.errors import CrossfadeError, NotFound
from crossfade.domain.events import LARGEST_VALUE, MOST_NAMES
from crossfade.domain.signal import Failure, Latencies, Reading, VariantFacts
from crossfade.domain.traffic import CONTROL, Counters, Pool, Slot
from crossfade.domain.values import EnvKey
from crossfade.ports.pipeline import Profile

TRANSPORT = frozenset({"connect", "response", "broken", "no-server"})
MOST_EVENTS: Final = 8
"""Of one answer."""

LONGEST: Final = 1024
"""Characters of one header line."""

MOST_ITEMS: Final = 16
"""Variants of one answer."""

MOST_VARIANTS: Final = 200
"""Of one pool."""

LONGEST_LIST: Final = 4096
"""Characters of one header line that tells variants."""

_VARIANT = re.compile(r"[A-Za-z0-9._-]{1,100}=[A-Za-z0-9._-]{1,100}")
_EVENT = re.compile(r"([a-z][a-z0-9_.-]{0,39})(?:=((?=.{1,32}$)-?[0-9]+\.?[0-9]*))?")


class FakeSignals:
    """`ports.Signals` in memory. ``fails_with`` is raised by every call until it is None."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.fails_with: CrossfadeError | None = None
        self.profiles: dict[EnvKey, Profile] = {}
        self._now = now
        self._lock = threading.RLock()
        self._segments = 1
        self._keys: set[EnvKey] = set()
        self._counters: dict[tuple[EnvKey, Pool | None], Counters] = {}
        self._latencies: dict[tuple[EnvKey, Pool], Latencies] = {}
        self._events: dict[tuple[EnvKey, Pool], dict[str, Moments]] = {}
        self._refused: Counter[tuple[EnvKey, Pool]] = Counter()
        self._variants: dict[tuple[EnvKey, Pool], dict[str, VariantFacts]] = {}
        self._failures: list[tuple[EnvKey, Failure]] = []
        self._past: dict[tuple[EnvKey, Pool], Counters] = {}
        self._past_latencies: dict[tuple[EnvKey, Pool], Latencies] = {}
        self._began: dict[tuple[EnvKey, Pool], float] = {}

    def profile(self, key: EnvKey) -> Profile | None:
        return self.profiles.get(key)

    def ensure(self, key: EnvKey) -> None:
        """From now on the environment exists, with nothing served."""
        with self._lock:
            self._keys.add(key)

    def serve(
        self,
        key: EnvKey,
        slot: Pool | None,
        requests: int = 1,
        errors: int = 0,
        *,
        cause: str = "5xx",
        seconds: float | None = 0.005,
        retries: int = 0,
    ) -> None:
        """``requests`` more, of which ``errors`` failed with ``cause``, each taking ``seconds`` (None: streams)."""
        with self._lock:
            self._keys.add(key)
            causes = ((cause, errors),) if errors else ()
            before = self._counters.get((key, slot), Counters())
            self._counters[key, slot] = before.plus(Counters(requests, errors, retries, before.open, causes))
            if slot is not None and seconds is not None:
                sample = Latencies(((latency.bucket_of(seconds), requests),)) if requests else Latencies()
                self._latencies[key, slot] = self._latencies.get((key, slot), Latencies()).plus(sample)
            status = {"timeout": 504, "response": 502, "broken": 200}.get(cause, 503 if cause != "5xx" else 500)
            failure = Failure(self._now(), slot, status, cause, cause in TRANSPORT)
            self._failures += [(key, failure)] * errors

    def lose(self) -> None:
        """The source loses its counts, as an edge does that is killed."""
        with self._lock:
            self._segments += 1
            self._counters.clear()
            self._latencies.clear()
            self._events.clear()
            self._refused.clear()
            self._variants.clear()
            self._past.clear()
            self._past_latencies.clear()

    def read(self, key: EnvKey) -> Reading:
        with self._lock:
            self._check(key)
            return Reading(
                self._now(),
                f"segment-{self._segments}",
                {slot: self._counters.get((key, slot), Counters()) for slot in Slot},
                self._counters.get((key, None), Counters()),
                {slot: self._latencies.get((key, slot), Latencies()) for slot in Slot},
                self._counters.get((key, CONTROL), Counters()),
                self._latencies.get((key, CONTROL), Latencies()),
                {pool: dict(events) for (k, pool), events in self._events.items() if k == key},
                {pool: n for (k, pool), n in self._refused.items() if k == key},
                {pool: dict(told) for (k, pool), told in self._variants.items() if k == key},
            )

    def read_many(self, keys: Sequence[EnvKey]) -> Mapping[EnvKey, Reading]:
        with self._lock:
            if self.fails_with is not None:
                raise self.fails_with
            return {key: self.read(key) for key in keys if key in self._keys}

    def tell(self, key: EnvKey, pool: Pool, header: str) -> None:
        """An answer of the pool had this ``X-Crossfade-Event`` (lines of it are joined by a newline)."""
        with self._lock:
            self._events_told(key, pool, header, 1)

    def answer(
        self,
        key: EnvKey,
        pool: Pool,
        variants: str,
        events: str = "",
        *,
        times: int = 1,
        status: int = 200,
        seconds: float | None = 0.005,
    ) -> None:
        """So many answers of the pool, each after ``seconds`` (None: a stream), with these headers.

        ``variants`` is the header ``X-Crossfade-Variant``, ``events`` is ``X-Crossfade-Event``; lines of one are joined by
        a newline. They are requests of the pool like any others.
        """
        with self._lock:
            self.serve(key, pool, times, times if status >= 500 else 0, seconds=seconds)
            told = self._events_told(key, pool, events, times)
            latencies = Latencies() if seconds is None else Latencies(((latency.bucket_of(seconds), times),))
            facts = VariantFacts(times, times if status >= 500 else 0, latencies, told)
            for name in self._variants_told(key, pool, variants, times):
                known = self._variants.setdefault((key, pool), {})
                known[name] = known.get(name, VariantFacts()).plus(facts)

    def _events_told(self, key: EnvKey, pool: Pool, header: str, times: int) -> dict[str, Moments]:
        """Count them; what was counted under its own name."""
        room = MOST_EVENTS
        told: dict[str, Moments] = {}
        for word in _words(header, LONGEST):
            match = _EVENT.fullmatch(word)
            value = float(match[2] or 1) if match else 0.0
            known = self._events.get((key, pool), {})
            if not match or abs(value) > LARGEST_VALUE or not room:
                self._refused[key, pool] += times
                continue
            room -= 1
            if match[1] not in known and len(known) >= MOST_NAMES:
                self._refused[key, pool] += times
                continue
            more = Moments(times, times * value, times * value * value)
            none = Moments(0, 0.0, 0.0)
            self._events[key, pool] = {**known, match[1]: known.get(match[1], none).plus(more)}
            told[match[1]] = told.get(match[1], none).plus(more)
        return told

    def _variants_told(self, key: EnvKey, pool: Pool, header: str, times: int) -> list[str]:
        """The names that are counted, each once."""
        known = self._variants.get((key, pool), {})
        told: list[str] = []
        seen: set[str] = set()
        for word in _words(header, LONGEST_LIST):
            if word in seen:
                continue
            if not _VARIANT.fullmatch(word) or len(seen) >= MOST_ITEMS:
                self._refused[key, pool] += times
                continue
            seen.add(word)
            if word in known or len(known) + sum(name not in known for name in told) < MOST_VARIANTS:
                told.append(word)
            else:
                self._refused[key, pool] += times
        return told

    def history(self, key: EnvKey, slot: Pool) -> History:
        with self._lock:
            if self.fails_with is not None:
                raise self.fails_with
            counters = self._counters.get((key, slot), Counters()).since(self._past.get((key, slot), Counters()))
            known = self._latencies.get((key, slot), Latencies())
            known = known.since(self._past_latencies.get((key, slot), Latencies()))
            seconds = self._now() - self._began.get((key, slot), self._now())
            return History(counters.requests, counters.errors, (), known.histogram(), seconds)

    def forget(self, key: EnvKey, slot: Pool) -> None:
        with self._lock:
            self._past[key, slot] = self._counters.get((key, slot), Counters())
            self._past_latencies[key, slot] = self._latencies.get((key, slot), Latencies())
            self._began[key, slot] = self._now()

    def failures(self, key: EnvKey, since: float) -> tuple[Failure, ...]:
        with self._lock:
            if self.fails_with is not None:
                raise self.fails_with
            return tuple(failure for k, failure in self._failures if k == key and failure.at > since)

    def causes(self, key: EnvKey) -> Counter[str]:
        """How many failures of each cause there were."""
        with self._lock:
            return Counter(failure.cause for k, failure in self._failures if k == key)

    def _check(self, key: EnvKey) -> None:
        if self.fails_with is not None:
            raise self.fails_with
        if key not in self._keys:
            raise NotFound(f"The edge has no environment {key}.", hint="Deploy it first.")


def _words(header: str, longest: int) -> Iterator[str]:
    """What stands between the commas; a line that is too long is one word, which is none that counts."""
    for line in header.split("\n"):
        if len(line) > longest:
            yield line
        else:
            yield from (word for item in line.split(",") if (word := item.strip(" \t")))
