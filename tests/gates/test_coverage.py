"""Coverage reports of four formats come to the same lines of the same files; broken ones are no pass."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from crossfade.domain.pipeline.plan import Gate, GateKind, Outcome
from crossfade.gates import ReportGates
from crossfade.gates import coverage as room
from crossfade.ports.pipeline import GateContext

REPORTS = Path(__file__).parent / "reports"

Changed = Mapping[str, frozenset[int]]


def told(tree: Path, report: str, changed: Changed | None = None, minimum: float = 0.8) -> Outcome:
    return ReportGates().read("c", Gate(GateKind.COVERAGE, report, minimum=minimum), GateContext(tree, changed))


def written(tree: Path, text: str | bytes) -> Outcome:
    (tree / "r").write_bytes(text.encode() if isinstance(text, str) else text)
    return told(tree, "r", minimum=0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its sources in src/, and another file of the same name outside of it."""
    tree = tmp_path_factory.mktemp("project")
    (tree / "src" / "shop").mkdir(parents=True)
    (tree / "src" / "shop" / "cart.py").write_text(
        "def price(n):\n    if n > 10:\n        return 2 * n\n    return 3 * n\n"
    )
    (tree / "shop").mkdir()
    (tree / "shop" / "cart.py").write_text("x = 1\n")
    (tree / "run.py").write_text("import sys\nsys.path.insert(0, 'src')\nfrom shop.cart import price\nprice(3)\n")
    python = [sys.executable, "-m", "coverage"]
    for words in (["run", "--source", "src", "run.py"], ["xml", "-q"], ["lcov", "-q"]):
        subprocess.run([*python, *words], cwd=tree, check=True, capture_output=True, timeout=60)
    return tree


@pytest.mark.parametrize("report", ["coverage.xml", "coverage.lcov"])
def test_the_reports_of_coverage_py_name_the_changed_line_that_no_test_runs(measured: Path, report: str) -> None:
    changed = {"src/shop/cart.py": frozenset({3, 4}), "shop/cart.py": frozenset({1})}
    outcome = told(measured, report, changed)
    assert not outcome.passed
    assert "75 % (3 of 4 lines)" in outcome.sentence and "50 % (1 of 2 lines)" in outcome.sentence
    assert outcome.details[0] == "src/shop/cart.py:3 is not covered (changed)"
    assert "shop/cart.py was changed, and the report does not know it: not measured" in outcome.details
    assert told(measured, report, {"src/shop/cart.py": frozenset({4})}, minimum=0.75).passed


def test_jacoco_is_read_with_its_document_type_and_its_packages_are_found_in_source_folders(tmp_path: Path) -> None:
    source = tmp_path / "core" / "src" / "main" / "java" / "com" / "shop" / "Cart.java"
    source.parent.mkdir(parents=True)
    source.touch()
    (tmp_path / "r.xml").write_bytes((REPORTS / "jacoco.xml").read_bytes())
    path = source.relative_to(tmp_path).as_posix()
    outcome = told(tmp_path, "r.xml", {path: frozenset({5, 7, 9})})
    assert "coverage is 75 % (3 of 4 lines)" in outcome.sentence and "50 % (1 of 2 lines)" in outcome.sentence
    assert outcome.details == (f"{path}:7 is not covered (changed)",)


def test_a_name_that_may_be_two_files_is_said_to_be_unsure(tmp_path: Path) -> None:
    for module in ("one", "two"):
        (tmp_path / module / "com" / "shop").mkdir(parents=True)
        (tmp_path / module / "com" / "shop" / "Cart.java").touch()
    (tmp_path / "r.xml").write_bytes((REPORTS / "jacoco.xml").read_bytes())
    outcome = told(tmp_path, "r.xml", {"two/com/shop/Cart.java": frozenset({7})}, minimum=0.5)
    assert outcome.details == (
        "two/com/shop/Cart.java was changed, and com/shop/Cart.java in the report could be it or another file: not measured",
    )


def test_clover_counts_statements_and_conditions_and_its_foreign_paths_are_found(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "cart.js").touch()
    (tmp_path / "r.xml").write_bytes((REPORTS / "clover.xml").read_bytes())
    outcome = told(tmp_path, "r.xml", {"src/cart.js": frozenset({4})})
    assert "66.6 % (2 of 3 lines)" in outcome.sentence and "0 % (0 of 1 line)" in outcome.sentence


def test_several_reports_count_as_one_and_a_line_that_any_of_them_ran_is_covered(tmp_path: Path) -> None:
    (tmp_path / "a.info").write_text("SF:a.py\nDA:1,1\nDA:1,0\nDA:2,0\nend_of_record\n")
    (tmp_path / "b.info").write_text("TN:x\nSF:./a.py\nDA:1,0\nDA:2,3\nDA:3,0\nend_of_record\n")
    (tmp_path / "a.py").touch()
    assert "66.6 % (2 of 3 lines)" in told(tmp_path, "*.info").sentence


COBERTURA = '<coverage line-rate="{}"><packages><package><classes><class filename="a.py"><lines>{}</lines></class></classes></package></packages></coverage>'
CLOVER = '<coverage clover="3"><project><file name="a.js">{}</file></project></coverage>'
LINE = '<line number="1" hits="1"/>'


def test_the_least_report_of_each_format_passes(tmp_path: Path) -> None:
    for text in (
        COBERTURA.format("1", LINE),
        CLOVER.format('<line num="1" type="stmt" count="1"/>'),
        '<report><package name="p"><sourcefile name="A.java"><line nr="1" mi="0" ci="1"/></sourcefile></package></report>',
        "SF:a.py\nDA:1,1,abc\nend_of_record\n",
    ):
        assert written(tmp_path, text).passed, text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(COBERTURA.format("NaN", LINE), id="nan"),
        pytest.param(COBERTURA.format("1.5", LINE), id="over-one"),
        pytest.param(COBERTURA.format("1", ""), id="no-lines"),
        pytest.param(COBERTURA.format("NaN", ""), id="nan-of-nothing"),
        pytest.param(COBERTURA.format("1", '<line number="1" hits="-1"/>'), id="negative-hits"),
        pytest.param(COBERTURA.format("1", '<line number="1" hits="NaN"/>'), id="nan-hits"),
        pytest.param(COBERTURA.format("1", '<line number="1"/>'), id="no-hits"),
        pytest.param(COBERTURA.format("1", '<line number="99999999999999999999" hits="1"/>'), id="huge-number"),
        pytest.param(COBERTURA.format("1", LINE).replace('filename="a.py"', ""), id="no-file"),
        pytest.param(CLOVER.format('<line num="1" type="stmt"/>'), id="clover-no-count"),
        pytest.param(CLOVER.format('<line num="1" type="method" count="1"/>'), id="clover-methods-only"),
        pytest.param("SF:a.py\nDA:1,1\n", id="lcov-cut-off"),
        pytest.param("SF:a.py\nDA:1,-1\nend_of_record\n", id="lcov-negative"),
        pytest.param("SF:a.py\nDA:1\nend_of_record\n", id="lcov-no-hits"),
        pytest.param("TN:\nDA:1,1\nend_of_record\n", id="lcov-no-file"),
        pytest.param("SF:a.py\nLF:10\nLH:10\nend_of_record\n", id="lcov-sums-only"),
        pytest.param("SF:a.py\nSF:b.py\nDA:1,1\nend_of_record\n", id="lcov-nested"),
        pytest.param(b"SF:\xff\nDA:1,1\nend_of_record\n", id="lcov-latin"),
        pytest.param('{"totals": {"percent_covered": 100}}', id="json"),
        pytest.param("mode: set\na.go:1.1,2.2 1 1\n", id="go-coverprofile"),
        pytest.param("<testsuite/>", id="junit"),
    ],
)
def test_a_coverage_report_that_is_broken_or_says_nothing_never_passes(tmp_path: Path, text: str | bytes) -> None:
    outcome = written(tmp_path, text)
    assert not outcome.passed
    assert outcome.sentence.startswith("r") and "cannot be read: " not in outcome.sentence


def test_names_of_a_report_lead_to_no_file_outside_the_project(tmp_path: Path) -> None:
    names = ["../../etc/passwd", "/etc/passwd", "a\x1b[31m.py", "x" * 5000]
    outcome = written(
        tmp_path, "".join(f"SF:{name}\nDA:1,0\nend_of_record\n" for name in names) + "SF:b\nDA:1,1\nend_of_record\n"
    )
    assert outcome.passed
    failing = told(tmp_path, "r")
    assert all(line.isprintable() and len(line) < 400 for line in failing.details)


def test_a_report_with_more_lines_than_any_project_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_LINES", 3)
    assert (
        "at most 3"
        in written(tmp_path, "SF:a\n" + "".join(f"DA:{n},1\n" for n in range(5)) + "end_of_record\n").sentence
    )
