"""Histories in memory: the twin of `store.history.FolderHistories`."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from crossfade.domain.errors import CrossfadeError, Invalid
from crossfade.domain.rings import NEVER, RESOLUTIONS, reaches
from crossfade.domain.slo import Bin, Counted, Series


@dataclass(slots=True)
class _Slot:
    """A bin that begins at ``start`` and is known until ``until``."""

    start: float
    until: float
    counted: Counted


@dataclass(slots=True)
class _Kept:
    until: float = 0.0
    rings: tuple[dict[int, _Slot], ...] = field(default_factory=lambda: tuple({} for _ in RESOLUTIONS))


class MemoryHistories:
    """See `ports.records.Histories`. ``fails_with`` is raised by each `add`, until it is None."""

    def __init__(self) -> None:
        self.fails_with: CrossfadeError | None = None
        self._lock = threading.Lock()
        self._kept: dict[Series, _Kept] = {}

    def add(self, series: Series, begins: float, ends: float, counted: Counted) -> None:
        """See the port."""
        if self.fails_with is not None:
            raise self.fails_with
        numbers = (begins, ends, counted.total, counted.bad, counted.covered)
        if not all(map(math.isfinite, numbers)) or not 0 <= begins < ends < NEVER:
            return
        total = max(0.0, counted.total)
        covered = min(ends - begins, max(0.0, counted.covered))
        fair = Counted(total, min(total, max(0.0, counted.bad)), covered)
        with self._lock:
            kept = self._kept.setdefault(series, _Kept())
            for ring, (step, slots) in zip(kept.rings, RESOLUTIONS, strict=True):
                _spread(ring, step, slots, begins, ends, fair)
            kept.until = ends

    def count(self, series: Series, begins: float, ends: float) -> Counted:
        """See the port."""
        total = Counted()
        for _, _, counted in self._known(series, begins, ends):
            total = total.plus(counted)
        return total

    def bins(self, series: Series, begins: float, ends: float, step: float) -> tuple[Bin, ...]:
        """See the port."""
        if not step >= RESOLUTIONS[0][0]:
            raise Invalid("step", step, "at least 1 s")
        found: dict[int, Counted] = {}
        for low, high, counted in self._known(series, begins, ends):
            for number in range(int(low // step), math.ceil(high / step)):
                inside = min(high, (number + 1) * step) - max(low, number * step)
                part = _part(counted, inside / (high - low))
                found[number] = found.get(number, Counted()).plus(part)
        return tuple(Bin(n * step, step, counted) for n, counted in sorted(found.items()) if counted.covered > 0)

    def all(self) -> tuple[Series, ...]:
        """See the port."""
        with self._lock:
            return tuple(self._kept)

    def remove(self, series: Series) -> None:
        """See the port."""
        with self._lock:
            self._kept.pop(series, None)

    def _known(self, series: Series, begins: float, ends: float) -> Iterator[tuple[float, float, Counted]]:
        """Begin, end and counts of what is known of a time."""
        with self._lock:
            kept = self._kept.get(series)
            if kept is None:
                return
            for ring, (low, high) in zip(kept.rings, reaches(kept.until), strict=True):
                for slot in ring.values():
                    since, until = max(slot.start, low, begins), min(slot.until, high, ends)
                    if until > since:
                        yield since, until, _part(slot.counted, (until - since) / (slot.until - slot.start))


def _spread(ring: dict[int, _Slot], step: float, slots: int, begins: float, ends: float, counted: Counted) -> None:
    last = math.ceil(ends / step) - 1
    for number in range(max(int(begins // step), last - slots + 1), last + 1):
        start = number * step
        until = min(ends, start + step)
        old = ring.get(number % slots)
        fresh = _part(counted, max(0.0, until - max(begins, start)) / (ends - begins))
        if old is not None and old.start == start and begins > start:
            fresh = fresh.plus(_part(old.counted, min(1.0, (begins - start) / (old.until - start))))
        ring[number % slots] = _Slot(start, until, fresh)


def _part(counted: Counted, share: float) -> Counted:
    return Counted(counted.total * share, counted.bad * share, counted.covered * share)
