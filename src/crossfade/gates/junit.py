"""Tests by their JUnit report, in the shapes that pytest, Maven, Gradle, node, Jest, Vitest, Mocha, gotestsum and GoogleTest write.

There is no standard; the shape is that of github.com/testmoapp/junitxml. All files of a gate are one report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.plan import Gate, Outcome
from crossfade.domain.pipeline.tests import Result, Test, decide_tests
from crossfade.gates.reading import Begun, elements, shown, whole
from crossfade.ports.pipeline import GateContext

if TYPE_CHECKING:
    from crossfade.gates.files import Report

_BAD: Final = ("failure", "error")
_RERUN: Final = ("flakyFailure", "flakyError")
_FAILED: Final = frozenset({"fail", "failed", "failure", "error", "errored", "broken", "ko"})
_NOT_RUN: Final = frozenset({"notrun", "skipped", "disabled", "suppressed", "ignored"})
_PLACE: Final = re.compile(r"^((?![/\\])[^\s:()\"']{1,200}):(\d{1,7})(?::\d{1,7})?: ", re.MULTILINE)


def read(name: str, gate: Gate, report: Report, context: GateContext) -> Outcome:  # noqa: ARG001 - all kinds are read alike
    """The outcome for JUnit reports. Raises Invalid for one that cannot be read."""
    found: list[Test] = []
    faults: list[str] = []
    for file in report.files:
        totals: list[int] = []
        tests = list(tests_in(file.path, file.content, totals))
        found += tests
        if max(totals, default=0) and not any(test.bad for test in tests):
            faults.append(f"{file.path} has no test that failed, but its totals tell of {max(totals)}")
    return decide_tests(_called(report), found, gate, faults=faults)


def _called(report: Report) -> str:
    first = report.files[0].path
    return first if len(report.files) == 1 else f"{first} and {len(report.files) - 1} more"


@dataclass(slots=True)
class _Case:
    """A testcase that is being read."""

    attributes: dict[str, str]
    result: Result | None = None
    todo: bool = False
    flaky: bool = False
    message: str = ""
    place: str = ""


def tests_in(path: str, content: bytes, totals: list[int]) -> Iterator[Test]:
    """The tests of a report; ``totals`` gets the failures that its suites tell of. Raises Invalid when it is no JUnit."""
    suites: list[str] = []
    open_: list[str] = []
    case: _Case | None = None
    message = ""
    for event in elements(path, content):
        if isinstance(event, Begun):
            if not open_ and event.tag not in ("testsuites", "testsuite"):
                raise Invalid(path, f"<{event.tag[:40]}>", "JUnit's XML, which begins with <testsuites> or <testsuite>")
            if event.tag in ("testsuites", "testsuite"):
                totals.append(_total(path, event.attributes))
                suites.append(event.attributes.get("name", ""))
            elif event.tag == "testcase":
                if case is not None:
                    raise Invalid(path, "a <testcase> inside another one", "testcases beside each other")
                case = _Case(event.attributes)
                status = {event.attributes.get(key, "").lower() for key in ("status", "result")}
                if status & _FAILED:
                    case.result = Result.FAILED
                elif status & _NOT_RUN:
                    case.result = Result.SKIPPED
            elif event.tag in _BAD:
                message = event.attributes.get("message", "")
            elif case is not None and open_[-1] == "testcase":
                if event.tag == "skipped":
                    case.todo = event.attributes.get("type") == "todo"
                    case.result = case.result or Result.SKIPPED
                elif event.tag in _RERUN:
                    case.flaky = True
            open_.append(event.tag)
            continue
        open_.pop()
        if event.tag in ("testsuites", "testsuite"):
            suites.pop()
        elif event.tag in _BAD and case is not None:
            case.result = Result.ERROR if event.tag == "error" and case.result is not Result.FAILED else Result.FAILED
            case.message = case.message or message or _first(event.text)
            case.place = case.place or _place(event.text)
        elif event.tag in _BAD:  # of a suite as a whole
            yield Test(shown(suites[-1]) or path, Result.ERROR, shown(message or _first(event.text)))
        elif event.tag == "testcase" and case is not None:
            yield _test(case)
            case = None


def _test(case: _Case) -> Test:
    name, group = case.attributes.get("name", ""), case.attributes.get("classname", "")
    # node's runner calls every class `test`.
    full = f"{group}.{name}" if group and group != "test" and not name.startswith(group) else name
    result = case.result or Result.PASSED
    if case.todo:
        result = Result.TODO
    place = case.place
    if not place and case.attributes.get("file") and not case.attributes["file"].startswith(("/", "\\")):
        line = case.attributes.get("line", "")
        place = shown(case.attributes["file"]) + (f":{line}" if line.isascii() and line.isdigit() else "")
    flaky = case.flaky and result is Result.PASSED
    return Test(shown(full, 300) or "a test without a name", result, shown(case.message), place, flaky)


def _total(path: str, attributes: dict[str, str]) -> int:
    for key in ("tests", "skipped", "disabled"):
        if attributes.get(key):
            whole(f"{path}: {key}", attributes[key])
    return sum(whole(f"{path}: {key}", attributes[key]) for key in ("failures", "errors") if attributes.get(key))


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _place(text: str) -> str:
    """The last place that a text names as ``path:line: ``, as pytest and compilers do."""
    found = _PLACE.findall(text)
    return f"{shown(found[-1][0])}:{found[-1][1]}" if found else ""
