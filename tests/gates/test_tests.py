"""JUnit and TAP: what frameworks really write is understood, and what is broken or contradicts itself is no pass."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import CrossfadeError
from crossfade.domain.pipeline.plan import Gate, GateKind, Outcome
from crossfade.gates import ReportGates
from crossfade.gates.tap import output
from crossfade.ports.pipeline import GateContext

REPORTS = Path(__file__).parent / "reports"


def told(folder: Path, kind: str, report: str, text: str | bytes | None = None, **options: object) -> Outcome:
    if text is not None:
        (folder / report).write_bytes(text.encode() if isinstance(text, str) else text)
    gate = Gate(GateKind(kind), report, **options)  # type: ignore[arg-type] # each test gives what fits
    return ReportGates().read("tests", gate, GateContext(folder))


def test_the_report_of_pytest_itself_is_read(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(
        "import pytest\n\n\ndef test_nine(): assert 3 * 3 == 9\n\n\ndef test_ten(): assert 3 * 3 == 10\n\n\n"
        "@pytest.mark.skip\ndef test_later(): pass\n\n\n@pytest.mark.xfail\ndef test_known(): assert False\n\n\n"
        "def test_error(nothing): pass\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--junitxml",
        "junit.xml",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    outcome = told(tmp_path, "junit", "junit.xml")
    assert {key: outcome.numbers[key] for key in ("passed", "failed", "errors", "skipped")} == {
        "passed": 1, "failed": 1, "errors": 1, "skipped": 2
    }  # fmt: skip
    assert "2 of 3 tests failed (2 skipped): test_shop.py:7: test_shop.test_ten: assert" in outcome.sentence
    outcome = told(tmp_path, "junit", "junit.xml", allow=("test_shop.test_ten", "test_shop.test_error"))
    assert outcome.passed and "2 failed but allowed" in outcome.sentence


@pytest.mark.skipif(shutil.which("node") is None, reason="wants node")
@pytest.mark.parametrize("kind", ["junit", "tap"])
def test_the_reports_of_nodes_runner_are_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "shop.test.js").write_text(
        "const test = require('node:test'); const assert = require('node:assert')\n"
        "test('nine', () => assert.equal(9, 9)); test('ten', () => assert.equal(9, 10))\n"
        "test('later', {skip: 'why'}, () => {}); test('known', {todo: true}, () => assert.equal(1, 2))\n"
        "test('parent', async (t) => { await t.test('child', () => {}) })\n"
    )
    command = ["node", "--test", f"--test-reporter={kind}", "--test-reporter-destination=report"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    outcome = told(tmp_path, kind, "report")
    assert outcome.sentence == "report: 1 of 3 tests failed (1 skipped, 1 to do): ten: 9 == 10"


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        ("surefire.xml", "surefire.xml: 3 tests passed (1 skipped, 1 passed on another try only)"),
        (
            "googletest.xml",
            "googletest.xml: 1 of 2 tests failed (1 skipped): src/cart_test.cc:8: Cart.Sums: src/cart_test.cc:9 Expected equality",
        ),
    ],
)
def test_reports_of_other_frameworks_are_read(report: str, sentence: str) -> None:
    assert told(REPORTS, "junit", report).sentence == sentence


def test_a_test_that_passed_on_another_try_makes_the_outcome_flaky() -> None:
    outcome = told(REPORTS, "junit", "surefire.xml")
    assert outcome.passed and outcome.flaky


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1 if n > 1 else str()};" * 10}">' for n in range(1, 10))
    + "]><testsuite><testcase name='&a9;'/></testsuite>"
)
OUTSIDE = (
    '<!DOCTYPE t [<!ENTITY x SYSTEM "file:///etc/passwd">]><testsuite><testcase name="a">&x;</testcase></testsuite>'
)
GOOD = '<testsuite tests="1"><testcase name="a"/></testsuite>'


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BOMB, id="entity-bomb"),
        pytest.param(OUTSIDE, id="external-entity"),
        pytest.param('<!DOCTYPE t [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x"> %p;]>' + GOOD, id="parameter-entity"),
        pytest.param("<testsuite>" * 200_000, id="depth"),
        pytest.param(
            "<testsuite>" + "<a>" * 200 + "</a>" * 200 + "<testcase name='a'/></testsuite>", id="depth-closed"
        ),
        pytest.param(GOOD[:-5], id="cut-off"),
        pytest.param(GOOD + GOOD, id="two-roots"),
        pytest.param('<testsuite><testcase name="a" name="b"/></testsuite>', id="attribute-twice"),
        pytest.param('<testsuite failures="-1"><testcase name="a"/></testsuite>', id="negative-count"),
        pytest.param('<testsuite failures="NaN"><testcase name="a"/></testsuite>', id="nan"),
        pytest.param('<testsuite failures="1e9"><testcase name="a"/></testsuite>', id="exponent"),
        pytest.param('<testsuite failures="٣"><testcase name="a"/></testsuite>', id="other-digits"),
        pytest.param('<testsuite failures="1"><testcase name="a"/></testsuite>', id="totals-tell-of-a-failure"),
        pytest.param('<testsuite errors="1" tests="1"><testcase name="a"/></testsuite>', id="totals-tell-of-an-error"),
        pytest.param('<testsuite><error message="import"/><testcase name="a"/></testsuite>', id="error-of-the-suite"),
        pytest.param(
            "<testsuite><testcase name='a'><failure/><testcase name='b'/></testcase></testsuite>", id="nested"
        ),
        pytest.param("<testsuite><testcase name='a'><x><failure/></x></testcase></testsuite>", id="failure-inside"),
        pytest.param('<testsuite><testcase name="a" status="failed"/></testsuite>', id="status"),
        pytest.param('<testsuite><testcase name="a"><skipped/><failure/></testcase></testsuite>', id="skipped-failure"),
        pytest.param("<testsuites/>", id="no-test"),
        pytest.param("<testsuite><testcase name='a'><skipped/></testcase></testsuite>", id="all-skipped"),
        pytest.param("<html/>", id="html"),
        pytest.param('<?xml version="1.0" encoding="nonsense"?>' + GOOD, id="encoding-unknown"),
        pytest.param(
            b'<?xml version="1.0" encoding="utf-8"?><testsuite><testcase name="\xff"/></testsuite>', id="latin"
        ),
        pytest.param(b"\0" + GOOD.encode(), id="nul"),
        pytest.param(b"\x7fELF" + bytes(range(256)) * 10, id="binary"),
    ],
)
def test_a_junit_report_that_is_hostile_broken_or_red_is_no_pass(tmp_path: Path, text: str | bytes) -> None:
    outcome = told(tmp_path, "junit", "r.xml", text)
    assert not outcome.passed
    assert "cannot be read: " not in outcome.sentence  # a fault that its reader did not foresee
    assert "root:" not in outcome.sentence and "r.xml" in outcome.sentence


def test_a_report_may_be_in_any_encoding_that_it_names(tmp_path: Path) -> None:
    assert told(tmp_path, "junit", "r.xml", GOOD.encode("utf-16")).passed
    latin = '<?xml version="1.0" encoding="iso-8859-1"?><testsuite><testcase name="né"/></testsuite>'
    assert told(tmp_path, "junit", "r.xml", latin.encode("latin-1")).passed
    assert told(tmp_path, "junit", "r.xml", b"\xef\xbb\xbf" + GOOD.encode()).passed


def test_what_a_report_says_is_shown_on_one_line_and_moves_no_cursor(tmp_path: Path) -> None:
    text = "<testsuite><testcase name='a&#10;b'><failure message='&#9;x&#x9b;31m&#x202e;y&#10;::error::z'/></testcase></testsuite>"
    outcome = told(tmp_path, "junit", "r.xml", text)
    assert all(line.isprintable() for line in (outcome.sentence, *outcome.details))
    assert len(told(tmp_path, "junit", "r.xml", text.replace("y", "y" * 100_000)).sentence) < 2000


def test_several_reports_count_as_one(tmp_path: Path) -> None:
    (tmp_path / "b.xml").write_text("<testsuite><testcase name='b'><skipped/></testcase></testsuite>")
    outcome = told(tmp_path, "junit", "a.xml", GOOD)
    assert told(tmp_path, "junit", "*.xml").sentence == "a.xml and 1 more: 1 test passed (1 skipped)"
    assert outcome.passed and not told(tmp_path, "junit", "*.xml", least=2).passed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1..2\nok 1 - a\nok 2 - b\n", "2 tests passed"),
        ("TAP version 14\nok - a\n    ok 1 - child\n    not ok 2 - child\n    1..2\n1..1\n", "1 test passed"),
        ("ok 1 - a # SKIP why\nok 2\nnot ok 3 - c # TODO\n1..3\n", "1 test passed (1 skipped, 1 to do)"),
        ("ok 1 - a \\# SKIP\n1..1\n", "1 test passed"),
        ("1..0 # SKIP nothing here\n", "0 tests were run; at least 1 are wanted"),
        ("ok 1\nnot ok 2 - adds\n  ---\n  message: 'boom'\n  ...\n1..2\n", "1 of 2 tests failed: adds: boom"),
        ("1..1\nnot ok 1 # SKIP x\n", "1 of 1 test failed: test 1"),
        ("ok 1\nok 2\n", "r.tap has no plan, so nobody knows whether all tests were run: a line `1..2` is missing"),
        ("1..3\nok 1\nok 2\n", "r.tap tells of 2 tests, and 3 were planned"),
        ("1..1\nok 1\nok 2\n", "r.tap tells of 2 tests, and 1 were planned"),
        ("1..2\nok 1\nok 1\n", "r.tap:3: test 1 is there twice"),
        ("1..2\nok 1\nok 7\n", "r.tap numbers a test 7, and 2 were planned"),
        ("1..1\nok 1\n1..1\n", "r.tap:3: there is a second plan 1..1"),
        ("1..2\nok 1\nBail out! no database\n", "r.tap:3: the tests bailed out: no database"),
        ("1..1\nok 1\n    Bail out!\n", "r.tap:3: the tests bailed out: no reason is given"),
        ("1..2\nok 1\n  ---\nok 2\n", "r.tap tells of 1 tests, and 2 were planned"),
    ],
)
def test_tap_is_good_only_when_all_that_was_planned_was_run(tmp_path: Path, text: str, sentence: str) -> None:
    outcome = told(tmp_path, "tap", "r.tap", text)
    assert outcome.sentence == f"r.tap: {sentence}"
    assert outcome.passed == ("passed" in sentence)


@pytest.mark.parametrize("text", ["hello\n", "okay\n", b"\xff\xfe1\0.\0", "not  ok\n"])
def test_what_is_no_tap_is_refused(tmp_path: Path, text: str | bytes) -> None:
    outcome = told(tmp_path, "tap", "r.tap", text)
    assert not outcome.passed and "cannot be read: " not in outcome.sentence


@given(
    st.lists(
        st.sampled_from(["ok", "ok 1", "not ok 2", "1..2", "1..3", "  ---", "  ...", "Bail out!", "x", "ok # SKIP"])
    )
)
def test_no_output_with_a_failure_a_missing_plan_or_a_missing_test_is_clean(lines: list[str]) -> None:
    try:
        tests, faults = output("r", "\n".join(lines).encode())
    except CrossfadeError:
        return
    if not faults:
        plans = [line for line in lines if line.startswith("1..")]
        assert plans and int(plans[0][3:]) == len(tests)
        assert "Bail out!" not in lines or "  ---" in lines
