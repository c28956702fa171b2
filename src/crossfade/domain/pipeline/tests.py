"""Whether tests passed, whatever framework ran them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from crossfade.domain.pipeline.plan import Gate, Outcome

MOST_SHOWN: Final = 50
"""How many failures are shown."""


class Result(enum.StrEnum):
    """How a test ended. An error is a test that could not be run to its end; one to do is known not to pass yet."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    TODO = "to do"


@dataclass(frozen=True, slots=True)
class Test:
    """One test. ``place`` is ``src/file.py:12`` where it is known. ``flaky``: it passed on another try."""

    __test__ = False  # pytest would take it for a test of its own

    name: str
    result: Result
    message: str = ""
    place: str = ""
    flaky: bool = False

    @property
    def bad(self) -> bool:
        return self.result in (Result.FAILED, Result.ERROR)

    def __str__(self) -> str:
        said = f": {self.message}" if self.message else ""
        return f"{self.place + ': ' if self.place else ''}{self.name}{said}"


def decide_tests(what: str, tests: Sequence[Test], gate: Gate, *, faults: Sequence[str] = ()) -> Outcome:
    """Whether all passed that were run, and enough were run. ``faults`` are sentences about reports that contradict themselves.

    Tests in the gate's ``allow`` may fail. A report in which nothing was run is no data, however green it is.
    """
    bad = [test for test in tests if test.bad and test.name not in gate.allow]
    allowed = sum(test.bad for test in tests) - len(bad)
    skipped = sum(test.result is Result.SKIPPED for test in tests)
    todo = sum(test.result is Result.TODO for test in tests)
    flaky = [test for test in tests if test.flaky]
    run = len(tests) - skipped - todo
    errors = sum(test.result is Result.ERROR for test in bad)
    numbers = {
        "tests": len(tests),
        "run": run,
        "passed": run - len(bad) - allowed,
        "failed": len(bad) - errors,
        "errors": errors,
        "skipped": skipped,
        "todo": todo,
        "allowed": allowed,
        "flaky": len(flaky),
    }
    aside = [f"{skipped} skipped"] if skipped else []
    aside += [f"{todo} to do"] if todo else []
    aside += [f"{allowed} failed but allowed"] if allowed else []
    aside += [f"{len(flaky)} passed on another try only"] if flaky else []
    beside = f" ({', '.join(aside)})" if aside else ""
    notes = [f"{test.name} passed on another try only" for test in flaky[:MOST_SHOWN]]
    if bad or faults:
        details = [*faults, *(f"{test}  [allow: {test.name}]" for test in bad[:MOST_SHOWN])]
        details += [f"and {len(bad) - MOST_SHOWN} more"] if len(bad) > MOST_SHOWN else []
        sentence = f"{len(bad)} of {tests_of(run)} failed{beside}: {bad[0]}" if bad else f"{faults[0]}{beside}"
        return Outcome(False, f"{what}: {sentence}", "fail", (*details, *notes), numbers, flaky=bool(flaky))
    least = max(1, gate.least)
    if run < least:
        sentence = f"{what}: {tests_of(run)} {'was' if run == 1 else 'were'} run{beside}; at least {least} are wanted"
        return Outcome(False, sentence, "no-data", tuple(notes), numbers, flaky=bool(flaky))
    return Outcome(
        True, f"{what}: {tests_of(run - allowed)} passed{beside}", "", tuple(notes), numbers, flaky=bool(flaky)
    )


def tests_of(count: int) -> str:
    """``1 test``, ``12 tests``."""
    return f"{count} test{'' if count == 1 else 's'}"
