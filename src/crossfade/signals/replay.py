"""History as JSON Lines: read, validated, and given to the judge as arrays.

One line is one look: ``{"series": "a", "t": 12.0, "baseline": {"requests": 950, "errors": 1}, "candidate": {…}}``.
Counts are increments since the series' row before, so that a counter that begins again is a new segment by itself.
What is kept is proportional to the file: a series becomes dense arrays only while it is judged.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from crossfade.domain.analysis.block import Block, Buckets
from crossfade.domain.analysis.evidence import Array
from crossfade.domain.analysis.policy import EDGE
from crossfade.domain.analysis.sample import History
from crossfade.domain.errors import Invalid
from crossfade.signals import tally
from crossfade.signals.tally import ARMS, NUMBER, Tally, Wrong

LONGEST_LINE: Final = 1_000_000
LONGEST_NAME: Final = 200
MOST_EDGES: Final = 500
MOST_SIGNALS: Final = 100
LATEST: Final = 90 * 86_400.0
"""Seconds. A rollout ends within it; a time since 1970 does not pass for one since the rollout began."""

PACKED: Final = 4096
"""Rows of a series that are collected before they are checked and become arrays."""

WINDOW: Final = 10.0
"""Seconds of each of ``errors_per_10s``."""

ROW: Final = ("series", "t", "baseline", "candidate", "history")
ARM: Final = ("requests", "errors", "latency", "rates", "means", "histograms")
NAME: Final = f"a name of 1 to {LONGEST_NAME} printable characters"
EDGES: Final = f"1 to {MOST_EDGES} rising numbers, none below 0"
WHOLE: Final[Mapping[str, Callable[[Array], tally.Breaches]]] = {"rates": tally.events, "means": tally.moments}
PARTS: Final = {"rates": ("n", "bad"), "means": ("n", "sum", "sum_sq")}

Progress = Callable[[int], None]


@dataclass(slots=True)
class Series:
    """One series of looks, as read. ``history``: the baseline before the rollout, where the first row has it.

    ``times`` and ``lines`` (of the file) are of the rows that have not been checked yet.
    """

    name: str
    history: History | None = None
    rows: int = 0
    times: list[Any] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    packed: list[Array] = field(default_factory=list)
    edge: Tally = field(default_factory=lambda: Tally("", ("requests", "errors"), tally.events))
    signals: dict[tuple[str, str], Tally] = field(default_factory=dict)

    def block(self) -> Block:
        """All its looks as arrays."""
        rates = {EDGE: self.edge.dense(self.rows).reshape(self.rows, -1)}
        histograms: dict[str, Buckets] = {}
        means: dict[str, Array] = {}
        for (kind, name), found in self.signals.items():
            dense = found.dense(self.rows)
            if kind == "histograms":
                histograms[name] = Buckets(np.array(found.edges, dtype=float), dense[:, 0], dense[:, 1])
            else:
                (means if kind == "means" else rates)[name] = dense.reshape(self.rows, -1)
        return Block(np.concatenate(self.packed), rates, histograms, means)

    def pack(self) -> None:
        """Check the rows that came since the last time. Raises Wrong for what is furthest up in the file."""
        first = self.rows - len(self.times)
        faults: list[Wrong] = []
        for check in (self._pack_times, self.edge.pack, *(found.pack for found in self.signals.values())):
            try:
                check()
            except Wrong as wrong:
                wrong.line, wrong.series = self.lines[wrong.row - first], self.name
                faults.append(wrong)
        if faults:
            raise min(faults, key=lambda fault: fault.line)
        self.times, self.lines = [], []

    def _pack_times(self) -> None:
        first = self.rows - len(self.times)
        odd = tally.odd_one(self.times)
        t = np.array(self.times[:odd], dtype=float)
        before = np.concatenate([self.packed[-1][-1:] if self.packed else [-1.0], t[:-1]])
        outside = ~((t >= 0) & (t <= LATEST))
        bad = outside | (t <= before)
        if bad.any():
            at = int(np.argmax(bad))
            allowed = f"seconds since the rollout began, from 0 to {LATEST:.0f}"
            if not outside[at]:
                allowed = f"more than that of the series' row before ({before[at]:.15g})"
            raise Wrong("t", self.times[at], allowed, row=first + at)
        if odd is not None:
            raise Wrong("t", self.times[odd], NUMBER, row=first + odd)
        if len(t):
            self.packed.append(t)


def read(source: str, progress: Progress | None = None) -> list[Series]:
    """All series of a file, or of standard input for ``-``, in the order in which they first appear.

    ``progress`` is told now and then how many rows there are. Raises Invalid for the first line that is not allowed,
    with its number, series and key, and for a file that cannot be read.
    """
    if source == "-":
        return parse(sys.stdin.buffer, "standard input", progress)
    try:
        with Path(source).open("rb") as stream:
            return parse(stream, source, progress)
    except OSError as error:
        raise Invalid("FILE", source, f"a file that can be read, or - ({error.strerror or error})") from error


def parse(stream: BinaryIO, name: str, progress: Progress | None = None) -> list[Series]:
    """As `read`, from an open stream of bytes; ``name`` is what errors call it."""
    rows = _Rows()
    line = 0
    try:
        try:
            for line, text in _lines(stream):
                rows.take(line, text)
                if progress is not None and not line % PACKED:
                    progress(line)
        except Wrong as wrong:
            wrong.line = wrong.line or line
            if wrong.row < 0:
                rows.pack()  # raises what is wrong further up and had not been checked yet
            raise
        rows.pack()
    except Wrong as wrong:
        place = [f"{name}:{wrong.line}", *([f"series {wrong.series}"] if wrong.series is not None else []), wrong.key]
        raise Invalid(": ".join(part for part in place if part), wrong.found, wrong.allowed) from None
    if not rows.series:
        raise Invalid(name, "no row", "one line of JSON for each look")
    return list(rows.series.values())


def _lines(stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise Wrong("", line[:40], f"a line of at most {LONGEST_LINE:,} bytes", line=number)
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            raise Wrong("", line[max(0, error.start - 9) : error.start + 9], "UTF-8", line=number) from error
        if text:
            yield number, text


class _Rows:
    """Takes rows apart: which keys there are, and whose they are. What the numbers are is checked in `Series.pack`."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.forms: set[tuple[str, ...]] = set()  # keys of rows, in their order, that were found to be allowed
        self.arms: set[tuple[str, ...]] = set()  # and those of arms

    def pack(self) -> None:
        faults = []
        for series in self.series.values():
            try:
                series.pack()
            except Wrong as wrong:
                faults.append(wrong)
        if faults:
            raise min(faults, key=lambda fault: fault.line)

    def take(self, line: int, text: str) -> None:
        row = _object(text)
        try:
            if type(row) is not dict or tuple(row) not in self.forms:
                keys(row, "", ROW, optional=1)
                self.forms.add(tuple(row))
            name = row["series"]
            series = self.series.get(name) if type(name) is str else None
            if series is None:
                series = self.series[name] = Series(named(name, "series"))
            self._take(series, line, row)
        except Wrong as wrong:
            known = row.get("series") if type(row) is dict else None
            wrong.series = known if type(known) is str and known in self.series else None
            raise
        if len(series.times) >= PACKED:
            self.pack()

    def _take(self, series: Series, line: int, row: dict[str, Any]) -> None:
        baseline, candidate = row["baseline"], row["candidate"]
        more = []
        for arm, values in enumerate((baseline, candidate)):
            if type(values) is not dict or tuple(values) not in self.arms:
                keys(values, ARMS[arm], ARM, optional=4)
                self.arms.add(tuple(values))
            if len(values) > 2:
                more += [(arm, *found) for found in _signals(series, values, ARMS[arm])]
        if len(row) > 4:
            if series.rows:
                raise Wrong("history", row["history"], "on the first row of a series only")
            series.history = history(row["history"])
        place = 2 * series.rows
        for arm, found, numbers in more:
            found.places.append(place + arm)
            found.flat += numbers
        series.edge.places += (place, place + 1)
        series.edge.flat += (baseline["requests"], baseline["errors"], candidate["requests"], candidate["errors"])
        series.times.append(row["t"])
        series.lines.append(line)
        series.rows += 1


def _object(text: str) -> Any:
    """What a line says in JSON. Raises Wrong."""
    try:
        return json.loads(text)
    except RecursionError:
        raise Wrong("", text[:40], "JSON that is not nested deeply") from None
    except ValueError as error:
        raise Wrong("", text[:80], f"a line of JSON ({error})") from None


def keys(found: Any, key: str, known: tuple[str, ...], optional: int = 0) -> None:
    """Raises Wrong unless ``found`` is an object with the keys that are known, of which the last few may be missing."""
    if type(found) is not dict:
        raise Wrong(key, found, "an object")
    required = known[: len(known) - optional]
    for name in required:
        if name not in found:
            raise Wrong(_below(key, name), "nothing", f"required, as are {', '.join(required)}")
    if len(found) > len(required):
        for name in found:
            if name not in known:
                raise Wrong(_below(key, name), "an unknown key", f"only {', '.join(known)}")


def _below(key: str, name: str) -> str:
    shown = name if name.isprintable() and len(name) <= LONGEST_NAME else repr(name[:LONGEST_NAME])
    return f"{key}.{shown}" if key else shown


def named(name: Any, key: str) -> str:
    """A name that can be shown as it is: of a series, or of a signal. Raises Wrong."""
    if type(name) is not str or not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise Wrong(key, name, NAME)
    return name


def _signals(series: Series, values: dict[str, Any], arm: str) -> Iterable[tuple[Tally, list[Any]]]:
    """What an arm counted beyond requests and errors."""
    if "latency" in values:
        yield _histogram(series, EDGE, "latency", values["latency"], f"{arm}.latency")
    for kind in ("histograms", *PARTS):
        if kind in values and type(values[kind]) is not dict:
            raise Wrong(f"{arm}.{kind}", values[kind], "an object: what is counted, by name")
    for name, found in values.get("histograms", {}).items():
        named(name, f"{arm}.histograms")
        yield _histogram(series, name, f"histograms.{name}", found, f"{arm}.histograms.{name}")
    for kind, parts in PARTS.items():
        for name, found in values.get(kind, {}).items():
            known = series.signals.get((kind, name))
            if known is None:
                known = Tally(f"{kind}.{named(name, f'{arm}.{kind}')}", parts, WHOLE[kind])
                _add(series, kind, name, known)
            keys(found, f"{arm}.{kind}.{name}", parts)
            yield known, [found[part] for part in parts]


def _histogram(series: Series, name: str, path: str, found: Any, key: str) -> tuple[Tally, list[Any]]:
    keys(found, key, ("edges_ms", "counts"))
    edges, numbers = found["edges_ms"], found["counts"]
    known = series.signals.get(("histograms", name))
    if known is None:
        _check_edges(edges, f"{key}.edges_ms")
        names = tuple(f"counts[{i}]" for i in range(len(edges) + 1))
        known = Tally(path, names, tally.counts, edges)
        _add(series, "histograms", name, known)
    elif edges != known.edges or bool in set(map(type, edges)):
        raise Wrong(f"{key}.edges_ms", edges, f"the edges that the series had before: {_shortened(known.edges)}")
    if type(numbers) is not list or len(numbers) != len(known.keys):
        given = f"{len(numbers)} counts" if type(numbers) is list else numbers
        raise Wrong(f"{key}.counts", given, f"a list of {len(known.keys)} counts, one more than there are edges")
    return known, numbers


def _check_edges(edges: Any, key: str) -> None:
    if type(edges) is not list or not 1 <= len(edges) <= MOST_EDGES:
        raise Wrong(key, edges, EDGES)
    odd = tally.odd_one(edges)
    if odd is not None:
        raise Wrong(f"{key}[{odd}]", edges[odd], NUMBER)
    values = np.array(edges, dtype=float)
    bad = ~(np.isfinite(values) & (np.diff(values, prepend=-1.0) > 0) & (values >= 0))
    if bad.any():
        at = int(np.argmax(bad))
        raise Wrong(f"{key}[{at}]", edges[at], EDGES)


def _add(series: Series, kind: str, name: str, found: Tally) -> None:
    if len(series.signals) >= MOST_SIGNALS:
        raise Wrong(found.path, "one more signal", f"at most {MOST_SIGNALS} in a series")
    series.signals[kind, name] = found


def _shortened(values: list[Any]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:8])
    return f"{shown}, …" if len(values) > 8 else shown


def history(found: Any) -> History:
    """The baseline before the rollout: requests, errors and, if known, errors in windows of ten seconds. Raises Wrong."""
    keys(found, "history", ("requests", "errors", "errors_per_10s"), optional=1)
    windows = found.get("errors_per_10s", [])
    if type(windows) is not list:
        raise Wrong("history.errors_per_10s", windows, "a list of counts")
    for key, numbers, rules in (
        ("history", [found["requests"], found["errors"]], tally.events),
        ("history.errors_per_10s", windows, tally.counts),
    ):
        names = ("requests", "errors") if rules is tally.events else ("",)
        checked = Tally("", names, rules, places=list(range(0, 2 * len(numbers), 2)), flat=numbers)
        try:
            checked.pack()
        except Wrong as wrong:
            where = f"{key}[{wrong.row}]" if rules is tally.counts else f"{key}.{wrong.key.rpartition('.')[2]}"
            raise Wrong(where, wrong.found, wrong.allowed) from None
    return History(
        float(found["requests"]),
        float(found["errors"]),
        tuple(float(count) for count in windows),
        seconds=WINDOW * len(windows),
    )
