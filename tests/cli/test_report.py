"""`crossfade report` and `mark` on a real server: real deployments, one of which goes back, and a rollback."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.installation import Installation, Load


@pytest.fixture(scope="module")
def shop() -> Iterator[Installation]:
    """r1 is live again after r2, which somebody took back."""
    with Installation() as shop:
        shop.configure("v1")
        shop.up()
        shop.deploy()
        with Load(shop.port) as load:
            shop.configure("v2")
            shop.deploy()
            shop.run("rollback", "--wait")
            assert load.seen.total
        yield shop


def test_the_report_counts_what_has_happened(shop: Installation) -> None:
    found = shop.json("report", "shop")
    figures = {one["figure"]: one for one in found["figures"]}
    assert figures["frequency"]["n"] == 2
    assert (figures["fail_rate"]["value"], figures["fail_rate"]["n"]) == (0.5, 2)
    (failure,) = found["failures"]
    assert failure["exposed"] and not failure["automatic"]
    assert failure["recovery"] > 0
    assert found["receipts"]["rollbacks"] == 1
    assert figures["lost"]["value"] == 0


def test_it_is_shown_in_the_terminal_with_its_n(shop: Installation) -> None:
    shown = " ".join(shop.run("report").stdout.split())
    assert "Change fail rate 50 %" in shown and "2 deployments" in shown
    assert "Days are those of UTC" in shown


def test_it_is_written_into_files(shop: Installation, tmp_path: Path) -> None:
    for form, name in (("markdown", "report.md"), ("csv", "report.csv"), ("json", "report.json")):
        shop.run("report", "--format", form, "--output", str(tmp_path / name), "--plots", str(tmp_path))
    assert (tmp_path / "report.md").read_text().startswith("# Report: ")
    with (tmp_path / "report.csv").open(newline="") as file:
        assert next(csv.reader(file))[0] == "section"
    assert json.loads((tmp_path / "report.json").read_text())["zone"] == "UTC"
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert drawn == {f"report-{name}.svg" for name in ("availability", "deployments", "recovery", "budget")}
    assert shop.run("report", "--format", "csv").stdout.startswith("section,service,")


def test_a_deployment_is_marked_and_unmarked(shop: Installation) -> None:
    assert "counts as failed" in shop.run("mark", "1", "--failed", "--why", "it lost orders").stdout
    assert len(shop.json("report")["failures"]) == 2
    shop.run("mark", "1", "--not-failed")
    assert len(shop.json("report")["failures"]) == 1


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("report", "--month", "november"), 2, "for example 2026-11"),
        (("report", "--from", "2026-11-01"), 2, "both of them"),
        (("report", "nothing"), 1, "There is no nothing"),
        (("report", "--output", "x.txt"), 2, "markdown, csv or json for a file"),
        (("report", "--format", "csv", "--output", "/dev/null/report.csv"), 2, "a file that can be written"),
        (("mark", "3", "--failed"), 1, "no deployment that was promoted"),
    ],
)
def test_what_cannot_be_meant_is_refused(shop: Installation, words: tuple[str, ...], code: int, expected: str) -> None:
    done = shop.run(*words, check=False)
    assert done.returncode == code, done.stdout
    assert expected in " ".join((done.stdout + done.stderr).split())
