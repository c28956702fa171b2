"""Tests by their TAP output, versions 12 to 14 (testanything.org). Subtests count as the test that they belong to.

It is read here rather than by tap.py, which takes output without a plan, or with fewer tests than planned, for good.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.plan import Gate, Outcome
from crossfade.domain.pipeline.tests import Result, Test, decide_tests
from crossfade.gates.reading import lines, shown
from crossfade.ports.pipeline import GateContext

if TYPE_CHECKING:
    from crossfade.gates.files import Report

_PLAN: Final = re.compile(r"1\.\.(\d{1,9})(?:\s*#.*)?\s*")
_TEST: Final = re.compile(r"(not )?ok\b(?:[ \t]+(\d{1,9})\b)?[ \t]*(.*)")
_DIRECTIVE: Final = re.compile(r"(?<!\\)#\s*(TODO|SKIP)\b", re.IGNORECASE)
_BAIL: Final = re.compile(r"\s*Bail out!(.*)", re.IGNORECASE)
_SAID: Final = re.compile(r"\s*(?:message|error):\s*(.*)")


def read(name: str, gate: Gate, report: Report, context: GateContext) -> Outcome:  # noqa: ARG001 - all kinds are read alike
    """The outcome for TAP outputs. Raises Invalid for what is none."""
    found: list[Test] = []
    faults: list[str] = []
    for file in report.files:
        tests, wrong = output(file.path, file.content)
        found += tests
        faults += wrong
    first = report.files[0].path
    what = first if len(report.files) == 1 else f"{first} and {len(report.files) - 1} more"
    return decide_tests(what, found, gate, faults=faults)


def output(path: str, content: bytes) -> tuple[list[Test], list[str]]:
    """The tests of one output, and what is wrong with it as a whole. Raises Invalid when nothing in it is TAP."""
    tests: list[Test] = []
    faults: list[str] = []
    planned: int | None = None
    seen: set[int] = set()
    inside = False
    for number, line in lines(path, content):
        if inside:
            # What a test says of itself is YAML between `---` and `...`, two columns in.
            inside = line.strip() != "..."
            said = _SAID.match(line)
            if said and tests and tests[-1].bad and not tests[-1].message:
                last = tests[-1]
                tests[-1] = Test(last.name, last.result, shown(said[1].strip("'\"|>- ")))
            continue
        bail = _BAIL.match(line)
        if bail is not None:
            faults.append(f"{path}:{number}: the tests bailed out: {shown(bail[1]) or 'no reason is given'}")
            break
        if line.startswith("  ---") and not line.startswith("    "):
            inside = True
        elif (plan := _PLAN.fullmatch(line)) is not None:
            if planned is not None:
                faults.append(f"{path}:{number}: there is a second plan {line.strip()[:40]}")
            planned = int(plan[1])
        elif (found := _TEST.match(line)) is not None:
            at = int(found[2]) if found[2] else len(tests) + 1
            if at in seen:
                faults.append(f"{path}:{number}: test {at} is there twice")
            seen.add(at)
            tests.append(_test(found, at))
    if planned is None and not tests and not faults:
        raise Invalid(path, "neither a plan nor a test", "TAP: lines such as `1..2`, `ok 1 - it adds`, `not ok 2`")
    if not any("bailed out" in fault for fault in faults):
        if planned is None:
            faults.append(
                f"{path} has no plan, so nobody knows whether all tests were run: a line `1..{len(tests)}` is missing"
            )
        elif planned != len(tests):
            faults.append(f"{path} tells of {len(tests)} tests, and {planned} were planned")
        elif any(not 1 <= at <= planned for at in seen):
            faults.append(f"{path} numbers a test {max(seen)}, and {planned} were planned")
    return tests, faults


def _test(found: re.Match[str], at: int) -> Test:
    text = found[3]
    directive = _DIRECTIVE.search(text)
    kind = directive[1].upper() if directive else ""
    name = text[: directive.start()] if directive else text
    name = shown(name.removeprefix("- ").replace("\\#", "#"), 300) or f"test {at}"
    if kind == "TODO":
        result = Result.TODO
    elif found[1]:
        result = Result.FAILED
    else:
        result = Result.SKIPPED if kind == "SKIP" else Result.PASSED
    return Test(name, result)
