"""Histories in files: one per series, three rings of bins in each.

A file is a head (`_HEAD` bytes: what it is, until when it has been written, whose it is) and then, ring after ring, a record
for each bin: the time until which the bin is known, requests, bad ones, seconds known. A slot of a ring is of the bin in
which its time lies; one of a bin before, or never written, says nothing. So a gap is a gap, and no round of the ring has
to be cleaned up.

Records are 32 bytes, never across a page, and written by `pwrite`: a process that is killed leaves a record as it was or
as it should be. Nothing is flushed: when the power goes, what the kernel has not yet written (about half a minute) is not
known, which is what the file then says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from crossfade.domain.errors import Invalid, StorageFailed
from crossfade.domain.rings import NEVER, RESOLUTIONS, reaches
from crossfade.domain.slo import Bin, Counted, Series
from crossfade.domain.values import EnvKey

_MAGIC: Final = b"crossfade rings 1\n"
_HEAD: Final = 4096
_RECORD: Final = struct.Struct("<4d")
SIZE: Final = _HEAD + _RECORD.size * sum(slots for _, slots in RESOLUTIONS)
"""Bytes of a series' file: 2 008 576. A young one takes less: what was never written takes no room."""

_UNTIL: Final = struct.Struct("<d")
_LENGTH: Final = struct.Struct("<I")
_SUFFIX: Final = ".rings"

Numbers = NDArray[np.float64]
Known = tuple[Numbers, Numbers]
"""Bins as rows, oldest first: when each begins, and its record (until, requests, bad ones, seconds known)."""


@dataclass(slots=True)
class _File:
    fd: int
    until: float
    """The end of what was added last."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class FolderHistories:
    """The `Histories` port: see `ports.records.Histories`. One process writes; its threads may do so at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._lock = threading.Lock()
        self._files: dict[Series, _File] = {}

    def add(self, series: Series, begins: float, ends: float, counted: Counted) -> None:
        """See the port. A time that does not go forth is not kept: nobody can say when it was. Raises StorageFailed."""
        numbers = (begins, ends, counted.total, counted.bad, counted.covered)
        if not all(map(math.isfinite, numbers)) or not 0 <= begins < ends < NEVER:
            return
        total = max(0.0, counted.total)
        fair = Counted(total, min(total, max(0.0, counted.bad)), min(ends - begins, max(0.0, counted.covered)))
        try:
            with self._opened(series, make=True) as file:
                for ring in _rings(file.fd):
                    ring.add(begins, ends, fair)
                os.pwrite(file.fd, _UNTIL.pack(ends), len(_MAGIC))
                file.until = ends
        except OSError as error:
            raise StorageFailed.because(f"write to {self._folder}", error) from error

    def count(self, series: Series, begins: float, ends: float) -> Counted:
        """See the port. Raises StorageFailed."""
        total = Counted()
        for _, rows in self._known(series, begins, ends):
            total = total.plus(Counted(*(float(rows[:, column].sum()) for column in (1, 2, 3))))
        return total

    def bins(self, series: Series, begins: float, ends: float, step: float) -> tuple[Bin, ...]:
        """See the port. ``step`` is at least a second, else Invalid. Raises StorageFailed."""
        if not step >= RESOLUTIONS[0][0]:
            raise Invalid("step", step, "at least 1 s")
        known = self._known(series, begins, ends)
        if not known:
            return ()
        starts, rows = (np.concatenate(each) for each in zip(*known, strict=True))
        marks = np.arange(math.floor(starts[0] / step), math.ceil(rows[-1, 0] / step) + 1) * step
        # Both ends of each bin, and what had been counted by then: between them it rises evenly.
        times = np.stack([starts, rows[:, 0]], axis=1).reshape(-1)
        found = np.empty((len(marks) - 1, 3))
        for column in range(3):
            after = np.cumsum(rows[:, column + 1])
            counts = np.stack([np.concatenate([[0.0], after[:-1]]), after], axis=1).reshape(-1)
            found[:, column] = np.diff(np.interp(marks, times, counts))
        return tuple(
            Bin(float(at), step, Counted(total, min(bad, total), min(covered, step)))
            for at, (total, bad, covered) in zip(marks[:-1], found.tolist(), strict=True)
            if covered > 0
        )

    def all(self) -> tuple[Series, ...]:
        """See the port."""
        found = []
        for path in sorted(self._folder.glob(f"*/*/*{_SUFFIX}")):
            with contextlib.suppress(OSError, ValueError, Invalid), open(path, "rb") as file:
                _, name = _read_head(file.fileno())
                found.append(Series(EnvKey(path.parts[-3], path.parts[-2]), name))
        return tuple(found)

    def remove(self, series: Series) -> None:
        """See the port. Raises StorageFailed."""
        with self._lock:
            self._close(series)
            try:
                self._path(series).unlink(missing_ok=True)
            except OSError as error:
                raise StorageFailed.because(f"remove {self._path(series)}", error) from error

    def close(self) -> None:
        """Let go of the files; a later call opens them again."""
        with self._lock:
            for series in tuple(self._files):
                self._close(series)

    def _known(self, series: Series, begins: float, ends: float) -> list[Known]:
        """What is known of a time, in parts, oldest first; the first and the last bin of it in proportion."""
        try:
            with self._opened(series) as file:
                if not file.fd:
                    return []
                # What lies beyond the end of what was added last was written before a clock was set back.
                ends = min(ends, file.until)
                rings = zip(_rings(file.fd), reaches(file.until), strict=True)
                parts = [ring.read(max(begins, low), min(ends, high)) for ring, (low, high) in rings]
        except OSError as error:
            raise StorageFailed.because(f"read {self._path(series)}", error) from error
        return [part for part in reversed(parts) if len(part[0])]

    @contextlib.contextmanager
    def _opened(self, series: Series, *, make: bool = False) -> Iterator[_File]:
        """Its file, for one thread at a time; with ``fd`` 0 when it has none and none is to be made."""
        with self._lock:
            file = self._files.get(series) or self._open(series, make)
            # Taken before the folder's own lock goes, so that nobody closes it in between.
            file.lock.acquire()
        try:
            yield file
        finally:
            file.lock.release()

    def _open(self, series: Series, make: bool) -> _File:
        path = self._path(series)
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                if not make:
                    return _File(0, 0.0)
                _make(path, series.name)
                continue
            with contextlib.suppress(ValueError):
                until, name = _read_head(fd)
                if name == series.name:
                    for ring in _rings(fd):
                        ring.mend()
                    return self._files.setdefault(series, _File(fd, until))
            # Not one of ours, or cut off: history goes on in a new one, and somebody may look at what this was.
            os.close(fd)
            os.replace(path, path.with_suffix(".broken"))

    def _close(self, series: Series) -> None:
        file = self._files.pop(series, None)
        if file is not None:
            with file.lock:
                os.close(file.fd)

    def _path(self, series: Series) -> Path:
        """Names are hostile: what they have in common with a file's is for people, and the digest tells them apart."""
        plain = re.sub(r"[^a-z0-9]+", "-", series.name.lower())[:40].strip("-")
        digest = hashlib.sha256(series.name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self._folder / series.key.service / series.key.environment / f"{plain}-{digest}{_SUFFIX}"


@dataclass(frozen=True, slots=True)
class _Ring:
    """``slots`` bins of ``step`` seconds in the file ``fd``, from byte ``at`` on. Bin n is in slot n modulo ``slots``."""

    fd: int
    at: int
    step: float
    slots: int

    def add(self, begins: float, ends: float, counted: Counted) -> None:
        """Spread evenly from ``begins`` to ``ends``; what a bin had of a time from ``begins`` on is replaced."""
        last = math.ceil(ends / self.step) - 1
        first = max(int(begins // self.step), last - self.slots + 1)
        number = max(1, last - first + 1)
        places = self._places(first, number)
        data = b"".join(os.pread(self.fd, size, at) for at, size in places)
        fresh = bytearray()
        for n, (known, total, bad, covered) in enumerate(_RECORD.iter_unpack(data), first):
            start = n * self.step
            until = min(ends, start + self.step)
            share = max(0.0, until - max(begins, start)) / (ends - begins)
            kept = 0.0
            if start < known <= start + self.step and begins > start:
                kept = min(1.0, (begins - start) / (known - start))
            fresh += _RECORD.pack(
                until,
                kept * total + share * counted.total,
                kept * bad + share * counted.bad,
                min(self.step, kept * covered + share * counted.covered),
            )
        for at, size in places:
            os.pwrite(self.fd, fresh[:size], at)
            del fresh[:size]

    def read(self, begins: float, ends: float) -> Known:
        """The bins of a time of at most the ring's whole length; the first and the last in proportion."""
        if not ends > begins:
            return np.empty(0), np.empty((0, 4))
        first, last = int(begins // self.step), math.ceil(ends / self.step) - 1
        starts = np.arange(first, last + 1, dtype=np.float64) * self.step
        rows = self._rows(first, len(starts))
        lasted = rows[:, 0] - starts
        mine = (lasted > 0) & (lasted <= self.step)
        if not mine.all():
            starts, rows = starts[mine], rows[mine]
        for edge in (0, -1) if len(starts) else ():
            lasted = rows[edge, 0] - starts[edge]
            since = max(starts[edge], begins)
            until = max(since, min(rows[edge, 0], ends))
            rows[edge, 1:] *= (until - since) / lasted if lasted > 0 else 0.0
            starts[edge], rows[edge, 0] = since, until
        return starts, rows

    def mend(self) -> None:
        """Clear records that cannot be true: what is in a file is believed only so far."""
        rows = self._rows(0, self.slots)
        until, total, bad, covered = rows.T
        fine = (until < np.inf) & (bad >= 0) & (bad <= total) & (total < np.inf) & (covered >= 0)
        for slot in np.flatnonzero(~(fine & (covered <= self.step))):
            os.pwrite(self.fd, bytes(_RECORD.size), self.at + int(slot) * _RECORD.size)

    def _rows(self, first: int, number: int) -> Numbers:
        """The records of the slots of some bins."""
        rows = np.zeros((number, 4), dtype="<f8")
        view = rows.data.cast("B")
        for at, size in self._places(first, number):
            os.preadv(self.fd, [view[:size]], at)
            view = view[size:]
        return rows

    def _places(self, first: int, number: int) -> list[tuple[int, int]]:
        """Where in the file they are, and how many bytes: two places when they go over the end of the ring."""
        slot = first % self.slots
        before = min(number, self.slots - slot)
        width = _RECORD.size
        places = [(self.at + slot * width, before * width)]
        return places if before == number else [*places, (self.at, (number - before) * width)]


def _rings(fd: int) -> Iterator[_Ring]:
    at = _HEAD
    for step, slots in RESOLUTIONS:
        yield _Ring(fd, at, step, slots)
        at += slots * _RECORD.size


def _make(path: Path, name: str) -> None:
    """A file without a record, whole or not at all. Raises Invalid for a name that is too long."""
    text = json.dumps(name).encode()
    head = _MAGIC + _UNTIL.pack(0.0) + _LENGTH.pack(len(text)) + text
    if len(head) > _HEAD:
        raise Invalid("series", f"a name of {len(name)} characters", "a shorter one")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, head)
        os.ftruncate(fd, SIZE)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(draft, path)


def _read_head(fd: int) -> tuple[float, str]:
    """Until when it has been written, and whose it is. Raises ValueError for a file that is not a whole one of ours."""
    head = os.pread(fd, _HEAD, 0)
    if os.fstat(fd).st_size != SIZE or not head.startswith(_MAGIC):
        raise ValueError("not a file of rings")
    at = len(_MAGIC)
    (until,) = _UNTIL.unpack_from(head, at)
    (length,) = _LENGTH.unpack_from(head, at + _UNTIL.size)
    at += _UNTIL.size + _LENGTH.size
    name = json.loads(head[at : at + length])
    if not math.isfinite(until) or not isinstance(name, str):
        raise ValueError("not a file of rings")
    return until, name
