"""`crossfade analyze`: judges what is over, as the judge would have judged it live."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crossfade import bootstrap
from crossfade.domain.analysis import plot
from crossfade.domain.analysis.hindsight import Review, review
from crossfade.domain.analysis.judge import Judge
from crossfade.domain.analysis.verdict import PRECEDENCE, Finding
from crossfade.domain.errors import Invalid, StorageFailed
from crossfade.domain.values import show_duration

PATIENCE: Final = 2.0
"""Seconds after which it is said how far things are, and from then on as often on a screen."""

BETWEEN_LINES: Final = 10.0
"""Seconds between two such lines where they stay, in a log."""

_STYLE: Final = {Finding.FAIL: "red", Finding.PASS: "green", Finding.INCONCLUSIVE: "yellow", Finding.NO_DATA: "magenta"}


def run(console: Console, errors: Console, source: str, config: Path | None, plots: Path | None, as_json: bool) -> bool:
    """Judge every series of ``source``; whether all of them passed.

    Raises Invalid for rows, InvalidConfig for a configuration that is not allowed, StorageFailed for plots that cannot
    be written. Nothing is said of any series before all rows have been found to be allowed.
    """
    if config is not None and not config.is_file():
        raise Invalid("--config", str(config), "a file with the analysis block of a crossfade.yaml")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("series", "verdict", "decided at", "why"):
        table.add_column(column, no_wrap=column in ("verdict", "decided at"))
    found: Counter[Finding] = Counter()
    drawn = Drawings(plots) if plots is not None else None
    with _patience(errors) as told:
        analysis, every = bootstrap.history(source, config, lambda rows: told(f"{rows:,} rows read"))
        for done, series in enumerate(every):
            told(f"{done:,} of {len(every):,} series judged")
            judge = Judge(analysis, series.history)
            result = review(judge, series.block())
            found[result.finding] += 1
            if drawn is not None:
                drawn.draw(series.name, judge, result)
            if as_json:
                sys.stdout.write(json.dumps(_data(series.name, result), ensure_ascii=False, allow_nan=False) + "\n")
            else:
                table.add_row(*_row(series.name, result))
    if not as_json:
        console.print(table)
        if len(every) > 1:
            counts = ", ".join(f"{found[one]} {one.value}" for one in PRECEDENCE if found[one])
            console.print(f"{len(every)} series: {counts}", style="dim")
    return found[Finding.PASS] == len(every)


def _data(name: str, result: Review) -> dict[str, Any]:
    return {
        "series": name,
        "verdict": result.finding.value,
        "decided_at": result.decided_at,
        "reasons": list(result.reasons),
        "metrics": [metric.to_data() for metric in result.metrics],
    }


def _row(name: str, result: Review) -> tuple[Text, Text, Text, Text]:
    at = "-" if result.decided_at is None else show_duration(result.decided_at)
    return (
        Text(name, style="bold"),
        Text(result.finding.value, style=_STYLE[result.finding]),
        Text(at, justify="right"),
        Text("; ".join(result.reasons)),
    )


@contextmanager
def _patience(errors: Console) -> Iterator[Callable[[str], None]]:
    """Says how far things are once they take long: on a screen in a line that goes away, in a log now and then."""
    pause = PATIENCE if errors.is_terminal else BETWEEN_LINES
    said = time.monotonic() - pause + PATIENCE
    status = errors.status("") if errors.is_terminal else None
    begun = False

    def tell(text: str) -> None:
        nonlocal said, begun
        now = time.monotonic()
        if status is not None and begun:
            status.update(text)
        elif now - said >= pause:
            said = now
            if status is None:
                errors.print(text, markup=False, highlight=False)
            else:
                status.update(text)
                status.start()
                begun = True

    try:
        yield tell
    finally:
        if status is not None:
            status.stop()


def write_plot(folder: Path, name: str, text: str) -> None:
    """Keep an SVG in a folder, which is made. Raises StorageFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageFailed(f"{folder}: the plots cannot be written ({error.strerror or error}).") from error


class Drawings:
    """The plots of many series in one folder: ``<series>-interval.svg``, ``-evidence.svg``, ``-latency.svg``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._taken: set[str] = set()

    def draw(self, series: str, judge: Judge, result: Review) -> None:
        """Raises StorageFailed."""
        name = self._name(series)
        title = f"{series}: {result.finding.value}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for kind, make in plot.PLOTS.items():
                (self.folder / f"{name}-{kind}.svg").write_text(make(judge, result.evidence, title), "utf-8")
        except OSError as error:
            raise StorageFailed(f"{self.folder}: the plots cannot be written ({error.strerror or error}).") from error

    def _name(self, series: str) -> str:
        """Of letters, digits, dot, hyphen and underscore, and no other series' even where case does not count."""
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", series).strip(".-_")[:80] or "series"
        name, number = safe, 1
        while name.lower() in self._taken:
            number += 1
            name = f"{safe}-{number}"
        self._taken.add(name.lower())
        return name
