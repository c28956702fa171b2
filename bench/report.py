"""What a bench hands over: facts on the machine, a Markdown table, goals, and all of it as JSON."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.processes import BenchFailed
from crossfade.domain.errors import CrossfadeError


@dataclass
class Report:
    """``columns`` and ``rows`` as shown; ``measured`` has every single figure; ``failures`` are ours and end in exit 1."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    goals: list[tuple[str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: Mapping[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    failures: int = 0

    def markdown(self) -> str:
        """The table, what it was measured on, and how the goals stand."""
        lines = [f"## {self.title}", "", _line(self.columns), _line(["---", *["---:"] * (len(self.columns) - 1)])]
        lines += [_line(row) for row in self.rows]
        lines += ["", *[f"- goal {'met' if met else '**missed**'}: {text}" for text, met in self.goals]]
        lines += [f"- {note}" for note in self.notes]
        lines += [f"- {name}: {value}" for name, value in machine().items()]
        lines += [f"- versions: {', '.join(f'{name} {value}' for name, value in self.versions.items())}"]
        return "\n".join(lines)

    def to_data(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows],
            "goals": [{"goal": text, "met": met} for text, met in self.goals],
            "notes": self.notes,
            "machine": machine(),
            "versions": dict(self.versions),
            "failures": self.failures,
            "measured": self.measured,
        }


def run(
    name: str,
    about: str,
    measure: Callable[[argparse.Namespace], Report],
    rounds: int,
    more: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """The command line that all benches share. Exit 0 done, 1 not measured or a request of ours failed, 2 usage.

    ``more`` adds options of this bench alone.
    """
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=about)
    parser.add_argument("--short", action="store_true", help="a quick run that proves the bench works, not the speed")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write all figures as JSON")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"how often each is measured (default {rounds})")
    more(parser)
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds: at least 1")
    try:
        report = measure(given)
        if given.json:
            given.json.write_text(json.dumps(report.to_data(), indent=2) + "\n")
    except (BenchFailed, CrossfadeError, OSError) as error:
        print(f"bench.{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(report.markdown())
    return 1 if report.failures else 0


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    return {
        "machine": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores, {_memory_gib():.0f} GiB, load average {load}",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}, Python {platform.python_version()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float], form: str = ".0f", scale: float = 1.0) -> str:
    """Median, and in brackets the least and the greatest."""
    if not values:
        return "-"
    least, middle, most = (one * scale for one in (min(values), statistics.median(values), max(values)))
    return f"{middle:{form}} ({least:{form}}…{most:{form}})"


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least the share ``q`` of all does not exceed; nan without any."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def milliseconds(seconds: float) -> str:
    """Three digits or so: ``0.41``, ``4.3``, ``150``."""
    value = seconds * 1000
    return "-" if math.isnan(value) else f"{value:.{2 if value < 1 else 1 if value < 100 else 0}f}"
