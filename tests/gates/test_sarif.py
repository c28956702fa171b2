"""SARIF and audits: findings at their places and levels, known ones by a baseline, tools that broke off, hostile reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crossfade.bootstrap.gates import write_baseline
from crossfade.domain.pipeline.plan import Gate, GateKind, Outcome
from crossfade.gates import ReportGates
from crossfade.ports.pipeline import GateContext

REPORTS = Path(__file__).parent / "reports"
BASELINE = ".crossfade/findings.json"


def told(tree: Path, report: str = "r.sarif", **options: object) -> Outcome:
    gate = Gate(GateKind.SARIF, report, **options)  # type: ignore[arg-type] # each test gives what fits
    return ReportGates().read("s", gate, GateContext(tree))


def audited(tree: Path, report: str, *allow: str) -> Outcome:
    return ReportGates().read("a", Gate(GateKind.AUDIT, report, allow=allow), GateContext(tree))


def refused(outcome: Outcome) -> None:
    """No pass, for a reason that the reader foresaw."""
    assert not outcome.passed
    assert "cannot be read: " not in outcome.sentence


def result(rule: str = "R1", line: int = 1, path: str = "a.py", **more: Any) -> dict[str, Any]:
    place = {"physicalLocation": {"artifactLocation": {"uri": path}, "region": {"startLine": line}}}
    return {"ruleId": rule, "message": {"text": "no"}, "locations": [place], **more}


def sarif(tree: Path, *results: dict[str, Any], **run: Any) -> Path:
    rules = [
        {"id": "R1", "defaultConfiguration": {"level": "error"}},
        {"id": "R2", "defaultConfiguration": {"level": "note"}},
    ]
    document = {
        "version": "2.1.0",
        "runs": [{"tool": {"driver": {"name": "scan", "rules": rules}}, "results": list(results), **run}],
    }
    (tree / "r.sarif").write_text(json.dumps(document))
    return tree


def ruff(tree: Path) -> None:
    words = ["check", "--isolated", "--no-cache", "--select", "S", "--output-format", "sarif", "-o", "r.sarif", "."]
    subprocess.run([sys.executable, "-m", "ruff", *words], cwd=tree, capture_output=True, timeout=60, check=False)


def test_the_findings_of_ruff_are_named_with_rule_and_place_and_a_baseline_knows_them_after_they_moved(
    tmp_path: Path,
) -> None:
    source = tmp_path / "shop" / "cart.py"
    source.parent.mkdir()
    source.write_text("def load(text):\n    return eval(text)\n")
    ruff(tmp_path)
    outcome = told(tmp_path)
    assert outcome.details[0].startswith("shop/cart.py:2: error S307: ")
    assert write_baseline("sarif", ["r.sarif"], {}, folder=tmp_path, target=BASELINE) == {
        "baseline": BASELINE,
        "findings": 1,
    }
    source.write_text("import os\n\n\n" + source.read_text() + "\n\nprint(os.name)\n")
    ruff(tmp_path)
    outcome = told(tmp_path, baseline=BASELINE)
    assert outcome.passed and "1 known one is in the baseline" in outcome.sentence
    # The same again, in the same file: it is a second one.
    source.write_text(source.read_text() + "\n\ndef again(text):\n    return eval(text)\n")
    ruff(tmp_path)
    outcome = told(tmp_path, baseline=BASELINE)
    assert not outcome.passed and "1 new finding (1 error); 1 known one is in the baseline" in outcome.sentence
    assert told(tmp_path, baseline=BASELINE, allow=("S307",)).passed


def test_a_baseline_that_is_missing_or_broken_is_no_pass(tmp_path: Path) -> None:
    sarif(tmp_path)
    outcome = told(tmp_path, baseline=BASELINE)
    assert (outcome.finding, "--write-baseline" in outcome.sentence) == ("no-data", True)
    (tmp_path / "b.json").write_text("[]")
    assert not told(tmp_path, baseline="b.json").passed
    assert not told(tmp_path, baseline="../b.json").passed


@pytest.mark.parametrize(
    ("results", "level", "passes"),
    [
        ([result()], "error", False),  # R1's rule says error
        ([result("R2")], "warning", True),
        ([result("R2")], "note", False),
        ([result("R2", level="error")], "error", False),
        ([result("unknown")], "warning", False),  # no rule: warning
        ([result("unknown")], "error", True),
        ([result("R1/sub")], "error", False),
        ([{**result(), "ruleId": None, "ruleIndex": 0}], "error", False),
        ([result(level="none")], "note", True),
        ([result(kind="pass")], "note", True),
        ([result(kind="review")], "note", True),
        ([result(suppressions=[{"kind": "inSource"}])], "note", True),
        ([result(suppressions=[{"kind": "external", "status": "underReview"}])], "note", False),
        ([result(suppressions=[])], "note", False),
        ([result(baselineState="absent")], "note", True),
        ([result(baselineState="unchanged")], "note", False),
    ],
)
def test_levels_and_suppressions_are_as_the_standard_has_them(
    tmp_path: Path, results: list[dict[str, Any]], level: str, passes: bool
) -> None:
    assert told(sarif(tmp_path, *results), level=level).passed == passes


def test_a_level_that_the_settings_of_a_run_give_a_rule_counts(tmp_path: Path) -> None:
    override = {"descriptor": {"id": "R2"}, "configuration": {"level": "error"}}
    run = {"executionSuccessful": True, "ruleConfigurationOverrides": [override]}
    assert not told(sarif(tmp_path, result("R2"), invocations=[run]), level="error").passed


@pytest.mark.parametrize(
    "run",
    [
        {"invocations": [{"executionSuccessful": False, "exitCodeDescription": "out of memory"}]},
        {"invocations": [{}]},
        {"results": None},
        {"tool": {"driver": {}}},
        {"tool": None},
        {"results": [1]},
        {"results": [{"message": {"text": "x"}, "level": "catastrophe"}]},
        {"results": [{"message": {"text": "x"}, "kind": "odd"}]},
        {"results": [{"message": {"text": "x"}, "locations": [{"physicalLocation": {"region": {"startLine": -1}}}]}]},
    ],
)
def test_a_tool_that_did_not_run_to_its_end_or_says_what_cannot_be_is_no_pass(
    tmp_path: Path, run: dict[str, Any]
) -> None:
    refused(told(sarif(tmp_path, **run)))


@pytest.mark.parametrize(
    "text",
    ['{"version": "2.1.0"}', '{"version": "2.1.0", "runs": []}', '{"version": "1.0.0", "runs": []}', "[]", '{"a": NaN}',
     "[" * 1_000_000, '{"version": "2.1.0", "runs": [' + '{"x":' * 100_000, "[[]]"],
    ids=["no-runs", "empty-runs", "old", "list", "nan", "deep", "deep-runs", "lists"],
)  # fmt: skip
def test_a_sarif_report_that_is_hostile_or_empty_is_no_pass(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.sarif").write_text(text)
    refused(told(tmp_path))


def test_a_report_with_more_values_than_any_scan_has_is_not_even_parsed(tmp_path: Path) -> None:
    (tmp_path / "r.sarif").write_text("[" + "[]," * 5_000_000 + "[]]")
    assert "at most 4000000" in told(tmp_path).sentence


def test_a_run_without_a_list_of_results_has_not_scanned(tmp_path: Path) -> None:
    (tmp_path / "r.sarif").write_text('{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "scan"}}}]}')
    assert told(tmp_path).sentence == "r.sarif (scan): scan has no list of results: it has not scanned anything"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("a.py", "a.py:1"),
        ("./a.py", "a.py:1"),
        ("a%20b.py", "a b.py:1"),
        ("file:///src/shop/a.py", "shop/a.py:1"),
        ("file:///etc/passwd", "/etc/passwd:1"),
        ("../../etc/passwd", "etc/passwd:1"),
        ("http://[x", "http:/[x:1"),
        ("a%00\u001b[31m.py", "a [31m.py:1"),
    ],
)
def test_places_are_shown_relative_to_the_project_and_nothing_outside_is_read(
    tmp_path: Path, uri: str, shown: str
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "a.py").touch()
    assert told(sarif(tmp_path, result(path=uri))).details[0] == f"{shown}: error R1: no  [allow: R1]"


def test_a_base_of_paths_and_messages_of_rules_are_followed(tmp_path: Path) -> None:
    message = {"id": "m", "arguments": ["x"]}
    place = {"physicalLocation": {"artifactLocation": {"uri": "a.py", "uriBaseId": "SRC"}}}
    rules = [{"id": "R", "messageStrings": {"m": {"text": "{0} is bad"}}}]
    sarif(
        tmp_path,
        {"ruleId": "R", "message": message, "locations": [place]},
        tool={"driver": {"name": "scan", "rules": rules}},
        originalUriBaseIds={"SRC": {"uri": "src/", "uriBaseId": "ROOT"}, "ROOT": {"uri": tmp_path.as_uri() + "/"}},
    )
    assert told(tmp_path).details[0] == "src/a.py: warning R: x is bad  [allow: R]"


# --- audits


def test_an_audit_names_part_weakness_and_remedy_and_what_was_not_looked_at_is_not_clean() -> None:
    outcome = audited(REPORTS, "pip_audit.json")
    assert outcome.sentence == (
        "pip_audit.json: 1 known vulnerability in 3 parts; 1 part not looked at: flask 0.5: PYSEC-2019-179 "
        "(CVE-2019-1010083, GHSA-5wv5-4vpf-pj6m): fixed in 1.0"
    )
    outcome = audited(REPORTS, "pip_audit.json", "CVE-2019-1010083")
    assert (outcome.finding, outcome.passed) == ("no-data", False)
    assert outcome.sentence.startswith("pip_audit.json: 1 part of 3 not looked at, and so not known to be clean")
    assert audited(REPORTS, "pip_audit.json", "CVE-2019-1010083", "shop").passed


def test_cyclonedx_is_read_with_what_its_analysis_says() -> None:
    outcome = audited(REPORTS, "cyclonedx.json")
    assert outcome.details == ("qs 6.0.0: CVE-2022-24999: Upgrade qs to version 6.10.3  [allow: CVE-2022-24999]",)
    outcome = audited(REPORTS, "cyclonedx.json", "CVE-2022-24999")
    assert outcome.sentence == (
        "cyclonedx.json: no known vulnerability in 2 parts (1 allowed, 1 said to be no danger here)"
    )


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"dependencies": []}',
        '{"dependencies": [{"name": "a", "version": "1"}]}',
        '{"dependencies": [{"name": "a", "version": "1", "vulns": null}]}',
        '{"dependencies": [{"name": "a", "version": "1", "vulns": [{}]}]}',
        '{"dependencies": [{"version": "1", "vulns": []}]}',
        '{"dependencies": {}}',
        '{"bomFormat": "CycloneDX", "components": [{"name": "a"}]}',
        '{"bomFormat": "CycloneDX", "components": [], "vulnerabilities": []}',
        '{"bomFormat": "CycloneDX", "components": [], "vulnerabilities": [{"id": "CVE-1"}]}',
        '{"bomFormat": "CycloneDX", "vulnerabilities": [], "components": ' + '[{"name": "a", "components": ' * 5000,
        '{"bomFormat": "CycloneDX", "vulnerabilities": [{"id": "CVE-1", "analysis": {"state": []}}]}',
        "<bom/>",
    ],
)
def test_an_audit_that_has_looked_at_nothing_or_is_broken_is_no_pass(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    refused(audited(tmp_path, "r.json"))
