"""What answers told the edge of the variants that they were made with, read and kept. Pure: text in, values out.

edge.lua has the sums of one worker by pool and ``flag=variant``. Each of them has a number, its birth: when the pool gets
another release, the same name is born again and counts from nothing. What the earlier one came to is told once more, so
that nothing is missing when it is kept here. What is told has grown since the tick that the last answer began with; the
rest is as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from crossfade.domain.analysis.latency import LAST
from crossfade.domain.analysis.sample import Moments
from crossfade.domain.signal import Latencies, VariantFacts
from crossfade.domain.traffic import Pool
from crossfade.domain.values import EnvKey
from crossfade.signals.statistics import Place, name_of, place_named, place_of

NAMES: Final = 600
"""Variants of one pool that are remembered: three times as many as the edge has at once."""

EVENTS: Final = 200
"""Names of business events of one variant that are remembered after its release has gone."""

Told = dict[Place, dict[str, VariantFacts]]
Identity = tuple[int, int]
"""Of a worker: its pid, and when it began."""

_TICK: Final = re.compile(r"^tick (\d{1,15})$", re.MULTILINE)
_WORD: Final = "[A-Za-z0-9._-]{1,100}"
_COUNT: Final = r"\d{1,15}"
_SUM: Final = r"[\d.]{1,25}(?:e[+-]?\d{1,3})?"
_EVENT: Final = rf"[a-z][a-z0-9_.-]{{0,39}}:{_COUNT}:-?{_SUM}:{_SUM}"
_LINE: Final = re.compile(
    rf"^(\S+) ({_WORD}={_WORD}) ({_COUNT}) ({_COUNT}) ({_COUNT})"
    rf" (-|\d{{1,3}}:{_COUNT}(?:,\d{{1,3}}:{_COUNT})*) (-|{_EVENT}(?:,{_EVENT})*)$",
    re.MULTILINE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One ``flag=variant`` of a worker's pool, and what it came to since its birth."""

    place: Place
    name: str
    born: int
    facts: VariantFacts


def read_variants(text: str) -> tuple[int, tuple[Variant, ...]]:
    """The tick, and what was told, from an answer to `Variants.command`; lines that are none are passed over.

    The tick is 0 when there is none: then this is no such answer.
    """
    tick = _TICK.match(text)
    if tick is None:
        return 0, ()
    return int(tick[1]), tuple(_read(_LINE.findall(text)))


def _read(lines: Iterable[tuple[str, ...]]) -> Iterator[Variant]:
    for proxy, name, born, requests, errors, latencies, events in lines:
        place = place_of(proxy)
        if place is None or place[1] is None:
            continue
        try:
            facts = VariantFacts(int(requests), int(errors), Latencies(_latencies(latencies)), dict(_events(events)))
        except ValueError:
            continue
        yield Variant(place, name, int(born), facts)


def _latencies(text: str) -> tuple[tuple[int, int], ...]:
    """Raises ValueError."""
    if text == "-":
        return ()
    counts = sorted((int(bucket), int(n)) for bucket, _, n in (item.partition(":") for item in text.split(",")))
    if counts[-1][0] > LAST or len(dict(counts)) < len(counts):
        raise ValueError("no histogram")
    return tuple(counts)


def _events(text: str) -> Iterator[tuple[str, Moments]]:
    """Raises ValueError."""
    for item in text.split(",") if text != "-" else ():
        name, n, total, squares = item.split(":")
        yield name, Moments(float(n), float(total), float(squares))


@dataclass(slots=True)
class _Worker:
    """What one worker told until its ``tick``: the newest of each name, and its birth."""

    tick: int = 0
    told: dict[Place, dict[str, tuple[int, VariantFacts]]] = field(default_factory=dict)


class Variants:
    """What all workers told of one segment: those that are there, and those that have gone."""

    def __init__(self) -> None:
        self._kept: Told = {}
        self._workers: dict[Identity, _Worker] = {}

    def command(self, worker: Identity) -> str:
        """What the worker is asked."""
        known = self._workers.get(worker)
        return f"crossfade variants {known.tick if known else 0}"

    def heard(self, worker: Identity, answer: str) -> bool:
        """Take what the worker answered to its `command`; whether anything is new."""
        tick, variants = read_variants(answer)
        known = self._workers.setdefault(worker, _Worker())
        known.tick = tick or known.tick
        for variant in variants:
            told = known.told.setdefault(variant.place, {})
            born, facts = told.pop(variant.name, (0, VariantFacts()))  # so that the newest stands at the end
            if born > variant.born:  # kept already
                told[variant.name] = born, facts
                continue
            if 0 < born < variant.born:
                _keep(self._kept, variant.place, variant.name, facts)
            told[variant.name] = variant.born, variant.facts
            _forget(told)
        return bool(variants)

    def gone(self, worker: Identity) -> None:
        """A worker has ended: what it told is kept."""
        self._kept = self._all([worker])
        self._workers.pop(worker, None)

    def lost(self) -> None:
        """A new segment: nothing has been told."""
        self._kept.clear()
        self._workers.clear()

    def of(self, key: EnvKey) -> dict[Pool, dict[str, VariantFacts]]:
        """All that was told of an environment, by pool and ``flag=variant``."""
        return {
            pool: told for (k, pool), told in self._all(self._workers, key).items() if pool is not None and k == key
        }

    def _all(self, workers: Iterable[Identity], key: EnvKey | None = None) -> Told:
        """What was kept and what these workers told; of one environment only, or of all."""
        total = {place: dict(told) for place, told in self._kept.items() if key in (None, place[0])}
        for worker in workers:
            for place, told in self._workers.get(worker, _Worker()).told.items():
                if key in (None, place[0]):
                    for name, (_, facts) in told.items():
                        _keep(total, place, name, facts)
        return total

    # --- on disk

    def saved(self, current: Identity | None) -> dict[str, Any]:
        """For JSON: what the ``current`` worker told, by birth, and all else."""
        others = [worker for worker in self._workers if worker != current]
        mine = self._workers.get(current, _Worker()) if current else _Worker()
        return {
            "kept": [
                [*name_of(place), name, 0, *_row(facts)]
                for place, told in self._all(others).items()
                for name, facts in told.items()
            ],
            "told": [
                [*name_of(place), name, born, *_row(facts)]
                for place, told in mine.told.items()
                for name, (born, facts) in told.items()
            ],
        }

    @classmethod
    def loaded(cls, data: Mapping[str, Any], current: Identity) -> Variants:
        """From what was `saved`. Raises ValueError, TypeError, AttributeError or Invalid when it was not."""
        variants = cls()
        for key, pool, name, _, *row in data.get("kept", ()):
            _keep(variants._kept, place_named(key, pool), str(name), _facts(*row))
        worker = _Worker()
        for key, pool, name, born, *row in data.get("told", ()):
            worker.told.setdefault(place_named(key, pool), {})[str(name)] = int(born), _facts(*row)
        variants._workers[current] = worker
        return variants


def _keep(kept: Told, place: Place, name: str, facts: VariantFacts) -> None:
    """Add to what is kept of a variant. The newest stand at the end, and too old ones are forgotten."""
    told = kept.setdefault(place, {})
    known = told.pop(name, None)
    if known is not None:
        facts = known.plus(facts)
        if len(facts.events) > EVENTS:
            newest = list(facts.events.items())[-EVENTS:]
            facts = VariantFacts(facts.requests, facts.errors, facts.latencies, dict(newest))
    told[name] = facts
    _forget(told)


def _forget(told: dict[str, Any]) -> None:
    while len(told) > NAMES:
        del told[next(iter(told))]


def _row(facts: VariantFacts) -> list[Any]:
    events = {name: [moments.n, moments.sum, moments.sum_sq] for name, moments in facts.events.items()}
    return [facts.requests, facts.errors, facts.latencies.counts, events]


def _facts(requests: int, errors: int, latencies: Any, events: Mapping[str, Any]) -> VariantFacts:
    counts = tuple((int(bucket), int(n)) for bucket, n in latencies)
    sums = {str(name): Moments(*map(float, of)) for name, of in events.items()}
    return VariantFacts(int(requests), int(errors), Latencies(counts), sums)
