"""What schemathesis found out about how an API behaves, from the JUnit report of ``schemathesis run --report junit``.

A testcase there is an operation. Its failures are texts for people: numbered test cases, each with the checks that
failed (``- ST101 Server error``) and a command to try it again. That is all there is of them in this format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.plan import Gate, Outcome
from crossfade.domain.pipeline.results import Failure, decide_behaviour, together
from crossfade.ports.pipeline import GateContext

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from crossfade.gates.files import Report

_CASE: Final = re.compile(r"^\d+\. Test Case ID: ", re.MULTILINE)
_CHECK: Final = re.compile(r"^- (?:(ST\d{1,5}) )?(\S.{0,200})$", re.MULTILINE)
_HEADER: Final = re.compile(
    r"""(?P<flag>-H|--header)\s+(?:
        '(?P<one>[A-Za-z0-9_-]+):(?:[^']|'"'"'|'\\'')*'
      | "(?P<two>[A-Za-z0-9_-]+):(?:[^"\\]|\\.)*"
      | (?P<bare>[A-Za-z0-9_-]+):\S*
    )""",
    re.VERBOSE,
)
_OPEN_HEADERS: Final = ("accept", "accept-encoding", "content-type", "content-length", "host", "user-agent")
_URL_SECRET: Final = re.compile(
    r"(?i)([?&][^=&\s'\"]*(?:token|key|secret|password|passwd|auth|session|sig)[^=&\s'\"]*=)[^&\s'\"]+"
)
_USER: Final = re.compile(r"(://)[^/@\s'\"]+@")


def read(name: str, gate: Gate, report: Report, context: GateContext) -> Outcome:  # noqa: ARG001 - all kinds are read alike
    """The outcome for reports of schemathesis. Raises Invalid for one that cannot be read."""
    return together([behaviour(file.path, file.content, gate) for file in report.files], "reports")


def behaviour(path: str, content: bytes, gate: Gate) -> Outcome:
    """The outcome for a report. Raises Invalid when it is not schemathesis' JUnit."""
    root = _root(path, content)
    suites = list(root.iter("testsuite"))
    if not suites or any(suite.get("name") != "schemathesis" for suite in suites):
        names = ", ".join(str(suite.get("name"))[:40] for suite in suites[:3]) or root.tag[:40]
        raise Invalid(path, names, "the report of `schemathesis run --report junit`")
    tested = skipped = 0
    failures: list[Failure] = []
    for case in root.iter("testcase"):
        if case.find("skipped") is not None and case.find("failure") is None and case.find("error") is None:
            skipped += 1
            continue
        tested += 1
        operation = " ".join((case.get("name") or "an operation without a name").split())[:200]
        for tag in ("failure", "error"):
            for element in case.findall(tag):
                failures += _failures(operation, element, tag)
    return decide_behaviour(path, tested, skipped, failures, gate)


def _failures(operation: str, element: Element, tag: str) -> Iterator[Failure]:
    text = (element.text or "")[:200_000]
    message = " ".join((element.get("message") or "").split())[:200]
    found = False
    for block in _CASE.split(text)[1:]:
        command = block.partition("Reproduce with:")[2].strip().split("\n")[0].strip() if "Reproduce" in block else ""
        for code, title in _CHECK.findall(block.partition("Reproduce with:")[0]):
            found = True
            yield Failure(operation, code, title.strip(), without_secrets(command)[:600])
    if not found:
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")
        yield Failure(operation, tag, without_secrets(message or first or f"a {tag} that says nothing")[:300], "")


def without_secrets(command: str) -> str:
    """A command without the values of headers that may hold secrets, of parameters named like them, and of users."""

    def hide(match: re.Match[str]) -> str:
        name = match["one"] or match["two"] or match["bare"]
        return match[0] if name.lower() in _OPEN_HEADERS else f"{match['flag']} '{name}: [hidden]'"

    return _USER.sub(r"\1[hidden]@", _URL_SECRET.sub(r"\1[hidden]", _HEADER.sub(hide, command)))


def _root(path: str, content: bytes) -> Element:
    from defusedxml import DefusedXmlException  # noqa: PLC0415 - few gates read XML
    from defusedxml.ElementTree import ParseError, fromstring  # noqa: PLC0415 - as above

    try:
        root: Any = fromstring(content, forbid_dtd=True)
    except DefusedXmlException as error:
        raise Invalid(path, type(error).__name__, "XML without a document type or entities") from None
    except (ParseError, ValueError, LookupError) as error:
        raise Invalid(path, str(error)[:100], "XML") from None
    return root  # type: ignore[no-any-return] # defusedxml has no types
