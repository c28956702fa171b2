"""Numbers from outside, collected as they come and checked by the thousand; only what is wrong is looked for singly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from crossfade.domain.analysis.evidence import Array, Flags

ARMS: Final = ("baseline", "candidate")
MOST: Final = 1e15
"""No count is higher: beyond some 9e15 a float no longer counts one by one."""

LARGEST: Final = 1e18
"""No sum is larger, so that no square of one is infinite."""

ROUNDING: Final = 1e-9
"""Relative error that the square of a sum of floats may have."""

COUNT: Final = f"a whole number from 0 to {MOST:g}"
NUMBER: Final = "a number"
_NUMBERS: Final = {int, float}

Breaches = Iterable[tuple[Flags, int, str]]
"""Of each rule: where it is broken ``[K]``, in which column, and what is allowed; ``{}`` stands for the first column."""


class Wrong(Exception):
    """A value that is not allowed, by its key; ``row`` is its row of the series, ``line`` that of the file."""

    def __init__(self, key: str, found: object, allowed: str, *, row: int = -1, line: int = 0) -> None:
        super().__init__(key)
        self.key, self.found, self.allowed, self.row, self.line = key, found, allowed, row, line
        self.series: str | None = None


def odd_one(flat: Sequence[Any]) -> int | None:
    """The index of the first that is no finite-sized number; None when all are. ``true`` is no number."""
    if not set(map(type, flat)) <= _NUMBERS:
        return next(i for i, value in enumerate(flat) if type(value) not in _NUMBERS)
    try:
        np.array(flat, dtype=float)
    except OverflowError:
        return next(i for i, value in enumerate(flat) if type(value) is int and abs(value) > LARGEST)
    return None


def counts(values: Array) -> Breaches:
    """Every number is a count."""
    for column in range(values.shape[1]):
        yield _no_count(values[:, column]), column, COUNT


def events(values: Array) -> Breaches:
    """Of so many, so many bad ones. ``[K, 2]``"""
    yield from counts(values)
    yield values[:, 1] > values[:, 0], 1, "at most {}"


def moments(values: Array) -> Breaches:
    """Number, sum and sum of squares. ``[K, 3]``"""
    n, total, squares = values.T
    yield _no_count(n), 0, COUNT
    yield ~(np.abs(total) <= LARGEST), 1, f"a number from -{LARGEST:g} to {LARGEST:g}"
    yield ~((squares >= 0) & (squares <= LARGEST**2)), 2, f"a number from 0 to {LARGEST**2:g}"
    yield (n == 0) & (total != 0), 1, "0, as n is 0"
    yield (n == 0) & (squares != 0), 2, "0, as n is 0"
    with np.errstate(over="ignore", invalid="ignore"):
        yield total**2 > n * squares * (1 + ROUNDING), 2, "at least sum²/n: no values have fewer squares"


def _no_count(values: Array) -> Flags:
    bad: Flags = ~((values >= 0) & (values <= MOST) & (values == np.floor(values)))
    return bad


@dataclass(slots=True)
class Tally:
    """One signal of one series. ``places`` = 2·row + arm of each entry, ``flat`` its numbers, one for each of ``keys``.

    ``packed`` are places ``[K]`` and numbers ``[K, keys]`` that were found to keep the rules. ``path`` stands between
    the arm and the key where a fault is told.
    """

    path: str
    keys: tuple[str, ...]
    rules: Callable[[Array], Breaches]
    edges: list[Any] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    flat: list[Any] = field(default_factory=list)
    packed: list[tuple[Array, Array]] = field(default_factory=list)

    def pack(self) -> None:
        """Check what came since the last time. Raises Wrong for the first entry that breaks a rule."""
        width = len(self.keys)
        odd = odd_one(self.flat)
        sound = self.flat if odd is None else self.flat[: odd // width * width]
        values = np.array(sound, dtype=float).reshape(-1, width)
        broken = [(int(np.argmax(bad)), column, allowed) for bad, column, allowed in self.rules(values) if bad.any()]
        if broken:
            entry, column, allowed = min(broken, key=lambda found: found[0])
            limit = f"{self.keys[0]} ({values[entry, 0]:.15g})"
            raise self._wrong(entry * width + column, allowed.format(limit))
        if odd is not None:
            raise self._wrong(odd, NUMBER)
        self.packed.append((np.array(self.places, dtype=float), values))
        self.places, self.flat = [], []

    def _wrong(self, at: int, allowed: str) -> Wrong:
        place, key = self.places[at // len(self.keys)], self.keys[at % len(self.keys)]
        where = ".".join(part for part in (ARMS[place % 2], self.path, key) if part)
        return Wrong(where, self.flat[at], allowed, row=place // 2)

    def dense(self, rows: int) -> Array:
        """``[rows, 2, keys]``: of both arms; where a row says nothing, nothing was counted."""
        dense = np.zeros((rows * 2, len(self.keys)))
        for places, values in self.packed:
            dense[places.astype(int)] = values
        return dense.reshape(rows, 2, -1)
