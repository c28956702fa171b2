"""The files of reports: found inside the project, opened within limits, and none of their faults is a pass."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import CrossfadeError, Invalid, NotFound
from crossfade.domain.pipeline.plan import Gate, GateKind
from crossfade.gates import READERS, ReportGates
from crossfade.gates import files as room
from crossfade.gates.files import open_report
from crossfade.ports.pipeline import GateContext


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("not yours")
    (tmp_path / "tree" / "reports").mkdir(parents=True)
    (tmp_path / "tree" / "reports" / "b.json").write_text("{}")
    (tmp_path / "tree" / "reports" / "a.json").write_text("[]")
    return tmp_path / "tree"


def test_a_pattern_gives_its_files_in_order_and_a_path_gives_its_file(tree: Path) -> None:
    assert [file.path for file in open_report(tree, "reports/*.json").files] == ["reports/a.json", "reports/b.json"]
    assert open_report(tree, "reports/b.json").files[0].content == b"{}"
    (tree / "reports" / "[x].json").write_text("1")
    assert [file.path for file in open_report(tree, "reports/[x].json").files] == ["reports/[x].json"]


@pytest.mark.parametrize(
    "pattern", ["../secret", "/etc/passwd", "reports/../../secret", "", "/", "a\0b", "**/../../secret"]
)
def test_a_pattern_that_leads_out_of_the_project_is_refused(tree: Path, pattern: str) -> None:
    with pytest.raises(Invalid):
        open_report(tree, pattern)


def test_a_link_that_leads_out_is_refused_and_one_that_stays_inside_is_followed(tree: Path) -> None:
    (tree / "out.json").symlink_to(tree.parent / "secret")
    (tree / "far").symlink_to(tree.parent)
    (tree / "in.json").symlink_to("reports/b.json")
    for pattern in ("out.json", "far/secret", "o*.json"):
        with pytest.raises(Invalid, match="leads out of the project"):
            open_report(tree, pattern)
    assert open_report(tree, "in.json").files[0].content == b"{}"


def test_what_is_no_regular_file_is_refused_at_once(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    for name in ("pipe", "reports"):
        with pytest.raises(Invalid):
            open_report(tree, name)


def test_missing_and_empty_reports_are_not_found(tree: Path) -> None:
    (tree / "empty.json").touch()
    for pattern in ("nothing.json", "*.xml", "empty.json", "reports/a.json/x"):
        with pytest.raises(NotFound):
            open_report(tree, pattern)


def test_reports_that_are_too_large_or_too_many_are_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tree / "large.json").open("wb") as file:
        file.truncate(65 * room.MIB)
    with pytest.raises(Invalid, match="at most 64 MiB"):
        open_report(tree, "large.json")
    monkeypatch.setattr(room, "MOST_FILES", 1)
    with pytest.raises(Invalid, match="at most 1"):
        open_report(tree, "reports/*.json")


@given(pattern=st.text(max_size=20))
def test_no_pattern_gives_anything_from_outside(tmp_path_factory: pytest.TempPathFactory, pattern: str) -> None:
    tree = tmp_path_factory.getbasetemp() / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "a").write_text("a")
    try:
        report = open_report(tree, pattern)
    except CrossfadeError:
        return
    assert {file.content for file in report.files} == {b"a"}


@pytest.mark.parametrize("kind", list(GateKind))
def test_a_gate_that_saw_no_report_never_passes(kind: GateKind, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert kind in READERS
    for report in ("missing", "empty", "../x", "*.none"):
        outcome = ReportGates().read("gate", Gate(kind, report), GateContext(tmp_path))
        assert not outcome.passed
        assert outcome.sentence


@pytest.mark.parametrize("content", [b"\0" * 1000, b"{}", b"[]", b"<a/>", b"[" * 1_000_000, "{}".encode("utf-16")])
@pytest.mark.parametrize("kind", list(GateKind))
def test_a_report_that_makes_no_sense_never_passes_and_never_raises(
    kind: GateKind, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "report").write_bytes(content)
    outcome = ReportGates().read("gate", Gate(kind, "report"), GateContext(tmp_path))
    assert not outcome.passed
