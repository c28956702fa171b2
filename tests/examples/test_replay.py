"""The example of a replay says what its README says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "02-replay"
ARGS = ("analyze", "looks.jsonl", "--config", "analysis.yaml")


def crossfade(*args: str) -> str:
    argv = [sys.executable, "-m", "crossfade.cli.main", *args]
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"}
    result = subprocess.run(
        argv, cwd=EXAMPLE, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert result.returncode == 1, result.stderr
    return result.stdout


def test_each_series_comes_to_its_verdict_when_the_readme_says() -> None:
    found = {row["series"]: row for row in map(json.loads, crossfade(*ARGS, "--json").splitlines())}
    assert {name: (row["verdict"], row["decided_at"]) for name, row in found.items()} == {
        "v2": ("pass", 225.0),
        "v3": ("fail", 30.0),
        "v4": ("fail", 60.0),
        "v5": ("no-data", 600.0),
    }
    assert "p99 latency" in found["v4"]["reasons"][0]


def test_the_readme_shows_what_is_printed() -> None:
    shown = re.search(
        r"```console\n\$ crossfade analyze looks[^\n]*\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.S
    )
    assert shown is not None
    assert [line.rstrip() for line in crossfade(*ARGS).splitlines()] == shown[1].rstrip().splitlines()
