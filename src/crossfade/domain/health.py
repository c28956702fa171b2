"""Health checks and flows as data, and the pure reading of an answer against what was expected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one JSON value must be: exactly ``equals``, or within ``minimum`` … ``maximum``, or present."""

    path: str
    equals: Any = None
    minimum: float | None = None
    maximum: float | None = None
    present: bool = True


@dataclass(frozen=True, slots=True)
class Check:
    """One HTTP request and what its answer must be.

    ``path`` begins with '/'. ``status`` lists the allowed codes. ``body`` is a regular expression that
    must be found. ``headers`` must be there with a value matching the expression. ``max_latency`` and ``timeout``
    in seconds. ``capture`` (flows only) names values for later steps: name → JSON path or ``header:Name``.
    """

    name: str
    path: str
    method: str = "GET"
    send_headers: tuple[tuple[str, str], ...] = ()
    send_body: str = ""
    status: tuple[int, ...] = (200,)
    json: tuple[Expectation, ...] = ()
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    max_latency: float | None = None
    timeout: float = 5.0
    capture: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Flow:
    """Session continuity: ``opening`` runs on the active slot, ``continuing`` on the standby with the same cookies."""

    name: str
    opening: tuple[Check, ...]
    continuing: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: ``elapsed`` in seconds; ``failure`` is set when nothing did (refused, timed out, …)."""

    status: int = 0
    headers: Mapping[str, str] | None = None
    body: str = ""
    elapsed: float = 0.0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """``faults`` empty means healthy."""

    name: str
    where: str
    faults: tuple[str, ...]
    elapsed: float

    @property
    def healthy(self) -> bool:
        return not self.faults


def judge_answer(check: Check, answer: Answer, json_fault: str, found: Mapping[str, Any]) -> list[str]:
    """Every way in which ``answer`` is not what ``check`` expects; an empty list means healthy.

    ``found`` maps each expected JSON path that exists to its value; ``json_fault`` says why the body is not JSON.
    Expressions that backtrack without end are bounded by the size of the body only: whoever reads it caps that.
    """
    if answer.failure:
        return [answer.failure]
    faults: list[str] = []
    if answer.status not in check.status:
        wanted = " or ".join(str(code) for code in check.status)
        faults.append(f"status {answer.status}, expected {wanted}")
    if check.json and json_fault:
        faults.append(json_fault)
    elif check.json:
        faults += [fault for expected in check.json for fault in _json_faults(expected, found)]
    if check.body and not _matches(check.body, answer.body):
        faults.append(f"body does not match {check.body!r}")
    seen = {name.lower(): value for name, value in (answer.headers or {}).items()}
    for name, pattern in check.headers:
        value = seen.get(name.lower())
        if value is None:
            faults.append(f"header {name} is missing")
        elif not _matches(pattern, value):
            faults.append(f"header {name} is {_shown(value)}, expected to match {pattern!r}")
    if check.max_latency is not None and answer.elapsed > check.max_latency:
        faults.append(f"took {answer.elapsed * 1000:.0f} ms, limit {check.max_latency * 1000:.0f} ms")
    return faults


def _json_faults(expected: Expectation, found: Mapping[str, Any]) -> list[str]:
    if expected.path not in found:
        return [f"JSON {expected.path} is missing"] if expected.present else []
    value = found[expected.path]
    if not expected.present:
        return [f"JSON {expected.path} is {_shown(value)}, expected to be absent"]
    if expected.minimum is not None or expected.maximum is not None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return [f"JSON {expected.path} is {_shown(value)}, expected a number"]
        if expected.minimum is not None and value < expected.minimum:
            return [f"JSON {expected.path} is {_shown(value)}, expected at least {expected.minimum:g}"]
        if expected.maximum is not None and value > expected.maximum:
            return [f"JSON {expected.path} is {_shown(value)}, expected at most {expected.maximum:g}"]
        return []
    if expected.equals is not None and (
        value != expected.equals or isinstance(value, bool) != isinstance(expected.equals, bool)
    ):
        return [f"JSON {expected.path} is {_shown(value)}, expected {_shown(expected.equals)}"]
    return []


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False


def _shown(value: object) -> str:
    """A value from outside, short enough for a line."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
