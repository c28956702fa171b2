"""`crossfade analyze` as it is typed: what it prints, what it draws, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

DONE, FAILED, USAGE = 0, 1, 2


def look(t: float, series: str = "a", errors: int = 0, **more: Any) -> str:
    baseline, candidate = {"requests": 9500, "errors": 10}, {"requests": 500, "errors": errors}
    return json.dumps({"series": series, "t": t, "baseline": baseline, "candidate": candidate, **more})


GOOD = [look(10.0 * i, "good", i % 2) for i in range(1, 91)]
BAD = [look(10.0 * i, "bad", 20) for i in range(1, 91)]


def analyze(*args: str | Path, lines: list[str] | None = None, columns: int = 100) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "crossfade.cli.main", "analyze", *map(str, args)]
    sent = "\n".join(lines) if lines is not None else None
    environment = {"COLUMNS": str(columns), "PATH": "", "PYTHONPATH": ":".join(sys.path), "PYTHONUTF8": "1"}
    return subprocess.run(
        argv, input=sent, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False, env=environment
    )


def test_each_series_is_one_object_on_a_line_in_the_order_of_their_first_looks() -> None:
    mixed = [line for pair in zip(BAD, GOOD, strict=True) for line in pair]
    result = analyze("-", "--json", lines=mixed)
    assert (result.returncode, result.stderr) == (FAILED, "")
    bad, good = (json.loads(line) for line in result.stdout.splitlines())
    assert (bad["series"], bad["verdict"], good["series"], good["verdict"]) == ("bad", "fail", "good", "pass")
    assert bad["decided_at"] == 10.0
    assert 10.0 < good["decided_at"] <= 900.0
    for found in (bad, good):
        assert list(found) == ["series", "verdict", "decided_at", "reasons", "metrics"]
        assert found["reasons"][0].startswith("errors ")
        (metric,) = found["metrics"]
        assert (metric["name"], metric["finding"]) == ("error_rate", found["verdict"])
        assert metric["baseline"] == pytest.approx(0.00105, rel=0.05)
    assert bad["metrics"][0]["fail"] >= bad["metrics"][0]["fail_line"] == 2.0


@pytest.mark.parametrize(
    ("lines", "verdict", "code"),
    [(GOOD, "pass", DONE), (BAD, "fail", FAILED), (GOOD[:3], "inconclusive", FAILED)],
    ids=["pass", "fail", "inconclusive"],
)
def test_it_ends_well_only_when_everything_passes_and_says_why_in_a_table(
    lines: list[str], verdict: str, code: int
) -> None:
    result = analyze("-", lines=lines)
    assert result.returncode == code
    assert verdict in result.stdout
    assert " against 0.105 % (" in " ".join(result.stdout.split())
    assert "--:" not in result.stdout


def test_a_configuration_says_how_it_is_judged(tmp_path: Path) -> None:
    config = tmp_path / "analysis.yaml"
    config.write_text("deadline: 1m\nfalse_alarm: 0.1%\n")
    result = analyze("-", "--config", config, "--json", lines=GOOD)
    found = json.loads(result.stdout)
    assert (found["verdict"], found["decided_at"]) == ("inconclusive", 60.0)
    assert found["metrics"][0]["fail_line"] == pytest.approx(3.0)


def test_plots_of_every_series_are_written_under_names_that_stay_in_the_folder(tmp_path: Path) -> None:
    names = ["../up", "../../up", "", "con*?", "CON__", ".", "é" * 150]
    lines = [look(float(t), name or " ", errors=t) for name in names for t in range(1, 4)]
    folder = tmp_path / "deep" / "plots"
    result = analyze("-", "--plots", folder, "--json", lines=lines)
    assert len(result.stdout.splitlines()) == len(names)
    written = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert len({name.lower() for name in written}) == 3 * len(names)
    assert {path.parent for path in tmp_path.rglob("*.svg")} == {folder}
    assert {"up-interval.svg", "up-evidence.svg", "up-latency.svg", "up-2-interval.svg"} <= set(written)
    for path in folder.iterdir():
        ET.parse(path)  # noqa: S314 - it was made here


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([*GOOD, look(5.0, "good")], "standard input:91: series good: t: 5.0 is not allowed"),
        ([look(1.0, typo=1)], "standard input:1: typo"),
        ([], "standard input: 'no row'"),
    ],
)
def test_rows_that_are_not_allowed_are_named_and_nothing_is_judged(lines: list[str], said: str) -> None:
    result = analyze("-", lines=lines, columns=200)
    assert (result.returncode, result.stdout) == (USAGE, "")
    assert said in " ".join(result.stderr.split())
    as_json = analyze("-", "--json", lines=lines)
    assert as_json.returncode == USAGE
    assert json.loads(as_json.stdout)["error"] == "invalid"


@pytest.mark.parametrize(
    ("text", "said"),
    [("deadline: 10s\nwarmup: 1m\n", "deadline"), ("false_alarms: 1%\n", "false_alarms"), (None, "--config")],
    ids=["impossible", "unknown key", "not there"],
)
def test_a_configuration_that_is_not_allowed_is_bad_usage(tmp_path: Path, text: str | None, said: str) -> None:
    config = tmp_path / "analysis.yaml"
    if text is not None:
        config.write_text(text)
    result = analyze("-", "--config", config, lines=GOOD, columns=200)
    assert (result.returncode, result.stdout) == (USAGE, "")
    assert said in result.stderr


def test_a_file_that_is_not_there_is_bad_usage_and_a_folder_that_cannot_be_written_is_not(tmp_path: Path) -> None:
    assert analyze(tmp_path / "none.jsonl").returncode == USAGE
    (tmp_path / "file").write_text("")
    result = analyze("-", "--plots", tmp_path / "file" / "plots", lines=GOOD[:2])
    assert result.returncode == FAILED
    assert "the plots cannot be written" in " ".join(result.stderr.split())
