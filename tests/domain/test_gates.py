"""Laws of the gates over tests, coverage and findings: what may turn a no into a pass, and what never may."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.coverage import Share, clean, decide_coverage, in_project, uncovered
from crossfade.domain.pipeline.findings import (
    Finding,
    Vulnerability,
    baseline_of,
    counts,
    decide_audit,
    decide_findings,
    known_findings,
)
from crossfade.domain.pipeline.plan import LEVELS, Gate, GateKind
from crossfade.domain.pipeline.tests import Result, Test, decide_tests

JUNIT = Gate(GateKind.JUNIT, "r.xml")
COVERAGE = Gate(GateKind.COVERAGE, "r.xml")
SARIF = Gate(GateKind.SARIF, "r.sarif")
AUDIT = Gate(GateKind.AUDIT, "r.json")

results = st.lists(st.sampled_from(Result), max_size=30)
files = st.dictionaries(
    st.sampled_from(["a.py", "src/b.py", "c.js"]),
    st.dictionaries(st.integers(1, 40), st.booleans(), max_size=40),
    max_size=3,
)
changes = st.dictionaries(
    st.sampled_from(["a.py", "src/b.py", "c.js", "d.py"]), st.frozensets(st.integers(1, 50), max_size=20), max_size=4
)
shares = st.integers(0, 1000).map(lambda tenths: tenths / 1000)
findings = st.lists(
    st.builds(
        Finding,
        st.just("ruff"),
        st.sampled_from(["S1", "S2"]),
        st.sampled_from(["none", *LEVELS]),
        st.sampled_from(["a.py", "b.py"]),
        st.integers(1, 9),
        st.just("no"),
        st.sampled_from(["x", "y"]),
        st.booleans(),
    ),
    max_size=12,
)


# --- tests


@given(results)
def test_tests_pass_when_some_were_run_and_all_of_these_passed(ended: list[Result]) -> None:
    outcome = decide_tests("r", [Test(f"t{n}", result) for n, result in enumerate(ended)], JUNIT)
    bad = any(result in (Result.FAILED, Result.ERROR) for result in ended)
    assert outcome.passed == (not bad and Result.PASSED in ended)
    assert outcome.finding == ("pass" if outcome.passed else "fail" if bad else "no-data")
    numbers = outcome.numbers
    assert numbers["passed"] + numbers["failed"] + numbers["errors"] == numbers["run"]
    assert numbers["run"] + numbers["skipped"] + numbers["todo"] == len(ended)


@given(results, st.sampled_from([Result.FAILED, Result.ERROR]), st.integers(0, 40))
def test_a_test_that_fails_never_turns_a_no_into_a_pass(ended: list[Result], more: Result, least: int) -> None:
    gate = Gate(GateKind.JUNIT, "r.xml", least=least)
    tests = [Test(f"t{n}", result) for n, result in enumerate(ended)]
    assert not decide_tests("r", [*tests, Test("more", more)], gate).passed


@given(results)
def test_a_report_that_contradicts_itself_is_no_pass(ended: list[Result]) -> None:
    tests = [Test(f"t{n}", result) for n, result in enumerate(ended)]
    assert not decide_tests("r", tests, JUNIT, faults=["its totals tell of 2"]).passed


def test_a_test_that_is_allowed_to_fail_is_counted_as_such_and_as_no_other_test() -> None:
    tests = [Test("a", Result.PASSED), Test("b", Result.FAILED, "boom", "t.py:3")]
    outcome = decide_tests("r", tests, Gate(GateKind.JUNIT, "r", allow=("b",)))
    assert (outcome.passed, outcome.sentence) == (True, "r: 1 test passed (1 failed but allowed)")
    outcome = decide_tests("r", tests, Gate(GateKind.JUNIT, "r", allow=("a",)))
    assert outcome.sentence == "r: 1 of 2 tests failed: t.py:3: b: boom"
    assert outcome.details == ("t.py:3: b: boom  [allow: b]",)


def test_fewer_tests_than_wanted_are_no_data() -> None:
    gate = Gate(GateKind.JUNIT, "r", least=3)
    outcome = decide_tests("r", [Test("a", Result.PASSED), Test("b", Result.SKIPPED)], gate)
    assert (outcome.finding, outcome.sentence) == ("no-data", "r: 1 test was run (1 skipped); at least 3 are wanted")


# --- coverage


@given(files, st.none() | changes, shares, st.none() | shares)
def test_coverage_passes_exactly_when_both_shares_are_reached(
    known: Mapping[str, Mapping[int, bool]],
    changed: Mapping[str, frozenset[int]] | None,
    minimum: float,
    recent: float | None,
) -> None:
    outcome = decide_coverage("r", known, changed, Gate(GateKind.COVERAGE, "r", minimum=minimum, changed=recent))
    all_ = [hit for lines in known.values() for hit in lines.values()]
    new = [known[p][n] for p, numbers in (changed or {}).items() for n in numbers if n in known.get(p, {})]
    # In thousandths: no binary fraction decides.
    enough = sum(all_) * 1000 >= round(minimum * 1000) * len(all_)
    also = sum(new) * 1000 >= round((minimum if recent is None else recent) * 1000) * len(new)
    assert outcome.passed == (bool(all_) and enough and also)
    if all_:
        assert f"({sum(all_)} of {len(all_)} line" in outcome.sentence
        assert outcome.numbers["changed_lines"] == (None if changed is None else len(new))


@given(files, changes, shares, st.integers(100, 200))
def test_another_uncovered_line_that_was_changed_never_makes_it_pass(
    known: dict[str, dict[int, bool]], changed: dict[str, frozenset[int]], minimum: float, line: int
) -> None:
    gate = Gate(GateKind.COVERAGE, "r", minimum=minimum)
    before = decide_coverage("r", known, changed, gate)
    known = {**known, "a.py": {**known.get("a.py", {}), line: False}}
    changed = {**changed, "a.py": changed.get("a.py", frozenset()) | {line}}
    after = decide_coverage("r", known, changed, gate)
    assert before.passed or before.finding == "no-data" or not after.passed
    assert minimum == 0 or any(detail.endswith("(changed)") for detail in after.details)


@given(st.integers(0, 5000), st.integers(1, 5000), shares)
def test_what_is_shown_of_a_share_is_never_more_than_it_is_and_never_looks_enough_when_it_is_not(
    covered: int, lines: int, wanted: float
) -> None:
    share = Share(min(covered, lines), lines, wanted)
    assert float(share.percent) <= share.covered / lines * 100 + 1e-9
    assert not share.missing or float(share.percent) < wanted * 100
    assert Share(share.covered + share.missing, lines, wanted).missing == 0
    assert not share.missing or Share(share.covered + share.missing - 1, lines, wanted).missing == 1


@given(st.dictionaries(st.integers(1, 60), st.booleans()))
def test_the_places_shown_hold_every_uncovered_line_and_no_covered_one(lines: dict[int, bool]) -> None:
    told: set[int] = set()
    for place in uncovered("a.py", lines):
        found = re.fullmatch(r"a\.py:(\d+)(?:-(\d+))? is not covered", place)
        assert found is not None
        told |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    assert {line for line in lines if not lines[line]} <= told
    assert not {line for line in lines if lines[line]} & told


def test_the_sentence_says_what_is_missing_in_lines() -> None:
    lines = {line: line <= 412 for line in range(1, 521)}
    outcome = decide_coverage("coverage.xml", {"a.py": lines}, {"a.py": frozenset(range(412, 416))}, COVERAGE)
    assert outcome.sentence == (
        "coverage.xml: coverage is 79.2 % (412 of 520 lines); at least 80 % is wanted (4 more lines); "
        "of changed lines it is 25 % (1 of 4 lines); at least 80 % is wanted (3 more lines)"
    )
    assert outcome.details == ("a.py:413-415 is not covered (changed)", "a.py:416-520 is not covered")


def test_a_changed_file_that_the_report_does_not_know_is_named_when_it_is_of_a_kind_that_is_measured() -> None:
    changed = {"b.py": frozenset({1}), "README.md": frozenset({1}), "gone.py": frozenset[int]()}
    outcome = decide_coverage("r", {"a.py": {1: True}}, changed, COVERAGE)
    assert outcome.passed
    assert outcome.details == ("b.py was changed, and the report does not know it: not measured",)
    assert "1 changed file is not measured" in outcome.sentence


@pytest.mark.parametrize(
    ("name", "roots", "known", "meant"),
    [
        ("src/a.py", [], ["src/a.py", "a.py"], ("src/a.py",)),
        ("a.py", ["/work/tree/src"], ["src/a.py", "a.py"], ("src/a.py",)),
        ("/work/tree/src/a.py", [], ["src/a.py", "a.py"], ("src/a.py",)),
        ("/elsewhere/src/shop/a.py", [], ["src/shop/a.py", "a.py"], ("src/shop/a.py",)),
        ("com/shop/Cart.java", [], ["one/src/com/shop/Cart.java", "two/Cart.java"], ("one/src/com/shop/Cart.java",)),
        ("com/Cart.java", [], ["one/com/Cart.java", "two/com/Cart.java"], ("one/com/Cart.java", "two/com/Cart.java")),
        ("src\\shop\\a.py", [], ["src/shop/a.py"], ("src/shop/a.py",)),
        ("./src/../src/a.py", [], ["src/a.py"], ("src/a.py",)),
        ("other/a.py", [], ["src/a.py"], ()),
        ("../../etc/passwd", [], ["src/a.py"], ()),
    ],
)
def test_a_name_of_a_report_means_one_file_of_the_project_or_is_said_to_be_unsure(
    name: str, roots: list[str], known: list[str], meant: tuple[str, ...]
) -> None:
    by_name: dict[str, list[str]] = {}
    for path in known:
        by_name.setdefault(path.rpartition("/")[2], []).append(path)
    assert in_project(name, roots, ("/work/tree",), by_name) == meant


@given(st.text(max_size=40))
def test_a_cleaned_path_leads_nowhere_else(path: str) -> None:
    parts = clean(path).split("/")
    assert ".." not in parts and clean(clean(path)) == clean(path)


# --- findings


@given(findings, st.sampled_from(LEVELS), st.sets(st.sampled_from(["S1", "S2", "S1:a.py"])))
def test_what_is_in_the_baseline_so_often_is_tolerated_so_often_and_no_more(
    found: list[Finding], level: str, allow: set[str]
) -> None:
    gate = Gate(GateKind.SARIF, "r", level=level, allow=tuple(sorted(allow)))
    known = known_findings("b", json.loads(json.dumps(baseline_of(counts(gate, found)))))
    assert decide_findings("r", ["ruff"], found, known, gate).passed
    for one in found:
        again = decide_findings("r", ["ruff"], [*found, one], known, gate)
        assert again.passed == (not counts(gate, [one]))
        assert again.numbers["new"] == len(counts(gate, [one]))


@given(findings, st.randoms(use_true_random=False))
def test_findings_that_moved_in_their_files_are_known_all_the_same(found: list[Finding], chance: Random) -> None:
    known = known_findings("b", baseline_of(found))
    moved = [replace(one, line=chance.randint(1, 999)) for one in found]
    chance.shuffle(moved)
    assert decide_findings("r", ["ruff"], moved, known, Gate(GateKind.SARIF, "r", level="note")).passed


@given(findings)
def test_the_numbers_of_findings_add_up(found: list[Finding]) -> None:
    numbers = decide_findings("r", ["ruff"], found, {}, SARIF).numbers
    parts = ("new", "known", "suppressed", "allowed", "below")
    assert sum(numbers[part] for part in parts) == numbers["findings"] == len(found)


@given(findings)
def test_no_tool_or_one_that_broke_off_is_no_pass_whatever_it_found(found: list[Finding]) -> None:
    assert not decide_findings("r", [], found, None, SARIF).passed
    assert not decide_findings("r", ["ruff"], found, None, SARIF, broken=["ruff did not run to its end"]).passed


def test_old_and_new_findings_are_counted_in_the_sentence() -> None:
    old = [Finding("ruff", "S1", "error", "a.py", n, "no", f"x{n}") for n in range(14)]
    new = [
        Finding("ruff", "S2", "warning", "b.py", 3, "never", "z"),
        Finding("ruff", "S2", "error", "b.py", 4, "no", "z"),
    ]
    known = known_findings("b", baseline_of(old))
    outcome = decide_findings("r", ["ruff"], [*old, *new], known, SARIF)
    assert outcome.sentence == (
        "r (ruff): 2 new findings (1 error, 1 warning); 14 known ones are in the baseline: b.py:4: error S2: no"
    )
    assert outcome.details[1] == "b.py:3: warning S2: never  [allow: S2]"
    assert decide_findings("r", ["ruff"], old[:13], known, SARIF).details == (
        "1 of the baseline are gone: it can be written anew",
    )


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"version": 2, "findings": []},
        {"version": True, "findings": []},
        {"version": 1},
        {"version": 1, "findings": [{}]},
        {"version": 1, "findings": [{"fingerprint": "a", "count": 0}]},
        {"version": 1, "findings": [{"fingerprint": "a", "count": 1e9}]},
        {"version": 1, "findings": [{"fingerprint": 1, "count": 1}]},
    ],
)
def test_a_file_that_is_no_baseline_is_refused(document: object) -> None:
    with pytest.raises(Invalid):
        known_findings("b", document)


# --- parts


@given(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3), st.sets(st.sampled_from(["v0", "CVE-1", "u0"])))
def test_a_part_that_was_not_looked_at_is_never_clean(parts: int, weak: int, unknown: int, allow: set[str]) -> None:
    found = [Vulnerability("p", "1", (f"v{n}", f"CVE-{n}")) for n in range(weak)]
    left = {f"u{n}": "could not be audited" for n in range(unknown)}
    gate = Gate(GateKind.AUDIT, "r", allow=tuple(allow))
    outcome = decide_audit("r", parts, found, left, gate)
    minded = [one for one in found if not set(one.names) & allow]
    assert outcome.passed == (parts > 0 and not minded and not set(left) - allow)
    assert (outcome.finding == "fail") == bool(minded)
