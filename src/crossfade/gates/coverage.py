"""Covered lines, by reports of Cobertura, LCOV, JaCoCo and Clover; which of them it is, is seen from the report.

Formats: cobertura.sourceforge.net's coverage-04.dtd (coverage.py, gocover-cobertura, coverlet, gcovr), geninfo(1) for LCOV
(node, c8, lcov, llvm-cov), jacoco.org's report.dtd, and Clover's as PHPUnit and Istanbul write it. Shares that a report
states itself are not believed: lines are counted. All files of a gate are one report.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.coverage import decide_coverage, in_project
from crossfade.domain.pipeline.plan import Gate, Outcome
from crossfade.gates.reading import Begun, Ended, elements, lines, shown, whole
from crossfade.ports.pipeline import GateContext

if TYPE_CHECKING:
    from crossfade.gates.files import Report

KNOWN: Final = "a report of Cobertura, LCOV, JaCoCo or Clover"
MOST_LINES: Final = 3_000_000
LAST_LINE: Final = 10_000_000
MOST_FILES_IN_PROJECT: Final = 500_000
_NOT_SOURCES: Final = frozenset({".git", ".hg", ".svn"})


@dataclass(slots=True)
class _Measured:
    """What reports tell: lines by the name of the file as the report has it, and where its sources are."""

    files: dict[str, dict[int, bool]] = field(default_factory=dict)
    roots: list[str] = field(default_factory=list)
    lines: int = 0

    def add(self, place: str, name: str, line: int, hit: bool) -> None:
        found = self.files.setdefault(name, {})
        if line not in found:
            self.lines += 1
            if self.lines > MOST_LINES:
                raise Invalid(place, f"over {MOST_LINES} lines", f"at most {MOST_LINES}")
        found[line] = found.get(line, False) or hit


def read(name: str, gate: Gate, report: Report, context: GateContext) -> Outcome:  # noqa: ARG001 - all kinds are read alike
    """The outcome for coverage reports. Raises Invalid for one that cannot be read."""
    measured = _Measured()
    for file in report.files:
        _measure(file.path, file.content, measured)
    first = report.files[0].path
    what = first if len(report.files) == 1 else f"{first} and {len(report.files) - 1} more"
    files, unsure = _placed(measured, context)
    return decide_coverage(what, files, context.changed, gate, unsure=unsure)


def _measure(path: str, content: bytes, into: _Measured) -> None:
    start = content[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith((b"<", b"\xff\xfe", b"\xfe\xff")):
        _xml(path, content, into)
    elif start[:3] in (b"TN:", b"SF:") or start.startswith(b"#"):
        _lcov(path, content, into)
    else:
        raise Invalid(path, start[:40].decode("utf-8", "replace"), KNOWN)


def _xml(path: str, content: bytes, into: _Measured) -> None:
    events = iter(elements(path, content))
    root = next(events, None)
    if isinstance(root, Begun) and root.tag == "report":
        _jacoco(path, events, into)
    elif isinstance(root, Begun) and root.tag == "coverage" and "line-rate" in root.attributes:
        _cobertura(path, root, events, into)
    elif isinstance(root, Begun) and root.tag == "coverage":
        _clover(path, events, into)
    else:
        raise Invalid(path, f"<{root.tag[:40]}>" if isinstance(root, Begun) else "nothing", KNOWN)


def _cobertura(path: str, root: Begun, events: Iterable[Begun | Ended], into: _Measured) -> None:
    rate = root.attributes["line-rate"]
    try:
        good = 0.0 <= float(rate) <= 1.0
    except ValueError:
        good = False
    # gcovr and others say NaN of nothing at all: that has no lines, and is no data.
    if not good and rate.lower() != "nan":
        raise Invalid(f"{path}: line-rate", rate[:40], "a share from 0 to 1")
    name = ""
    for event in events:
        if isinstance(event, Ended):
            if event.tag == "source" and event.text.strip():
                into.roots.append(event.text.strip())
            elif event.tag == "class":
                name = ""
        elif event.tag == "class":
            name = event.attributes.get("filename", "")
            if not name:
                raise Invalid(
                    f"{path}: class {shown(event.attributes.get('name', ''))}", "no filename", "the path of its file"
                )
        elif event.tag == "line" and name:
            place = f"{path}: {shown(name)}"
            line = whole(f"{place}: line number", event.attributes.get("number"), most=LAST_LINE)
            hits = whole(f"{place}:{line}: hits", event.attributes.get("hits"))
            into.add(path, name, line, hits > 0)
    if rate.lower() == "nan" and into.lines:
        raise Invalid(f"{path}: line-rate", rate, "a share from 0 to 1")


def _jacoco(path: str, events: Iterable[Begun | Ended], into: _Measured) -> None:
    package = name = ""
    for event in events:
        if isinstance(event, Ended):
            package = "" if event.tag == "package" else package
            name = "" if event.tag == "sourcefile" else name
        elif event.tag == "package":
            package = event.attributes.get("name", "")
        elif event.tag == "sourcefile":
            name = "/".join(part for part in (package, event.attributes.get("name", "")) if part)
        elif event.tag == "line" and name:
            place = f"{path}: {shown(name)}"
            line = whole(f"{place}: nr", event.attributes.get("nr"), most=LAST_LINE)
            # Instructions: a line with none is no line that could be run.
            missed = whole(f"{place}:{line}: mi", event.attributes.get("mi", "0"))
            covered = whole(f"{place}:{line}: ci", event.attributes.get("ci", "0"))
            if missed or covered:
                into.add(path, name, line, covered > 0)


def _clover(path: str, events: Iterable[Begun | Ended], into: _Measured) -> None:
    name = ""
    for event in events:
        if isinstance(event, Ended):
            name = "" if event.tag == "file" else name
        elif event.tag == "file":
            name = event.attributes.get("path") or event.attributes.get("name", "")
        elif event.tag == "line" and name and event.attributes.get("type") in ("stmt", "cond"):
            place = f"{path}: {shown(name)}"
            line = whole(f"{place}: num", event.attributes.get("num"), most=LAST_LINE)
            keys = [key for key in ("count", "truecount", "falsecount") if key in event.attributes]
            if not keys:
                raise Invalid(f"{place}:{line}", "no count", "how often it was run")
            counts = [whole(f"{place}:{line}: {key}", event.attributes[key]) for key in keys]
            into.add(path, name, line, any(counts))


def _lcov(path: str, content: bytes, into: _Measured) -> None:
    name = ""
    begun = 0
    for number, line in lines(path, content):
        if line.startswith("SF:"):
            if name:
                raise Invalid(f"{path}:{number}", "SF: before the end_of_record of the file before", "end_of_record")
            name, begun = line[3:].strip(), number
            if not name:
                raise Invalid(f"{path}:{number}", line, "SF: and a path")
        elif line.startswith("DA:"):
            parts = line[3:].split(",")
            if not name or len(parts) < 2:
                raise Invalid(f"{path}:{number}", line[:60], "DA:LINE,HITS inside a record that begins with SF:")
            at = whole(f"{path}:{number}: line number", parts[0], most=LAST_LINE)
            into.add(path, name, at, whole(f"{path}:{number}: hits", parts[1]) > 0)
        elif line.strip() == "end_of_record":
            name = ""
    if name:
        raise Invalid(f"{path}:{begun}", "a record that does not end", "end_of_record: is the report whole?")


# --- where the files of a report are


def _placed(
    measured: _Measured, context: GateContext
) -> tuple[Mapping[str, Mapping[int, bool]], Mapping[str, tuple[str, ...]]]:
    """The lines by paths of the project where these are known; and names that could be several files."""
    wanted = {name.replace("\\", "/").rpartition("/")[2] for name in measured.files}
    known: dict[str, list[str]] = {}
    for path in islice(_walk(context.tree), MOST_FILES_IN_PROJECT):
        base = path.rpartition("/")[2]
        if base in wanted:
            known.setdefault(base, []).append(path)
    trees = tuple(dict.fromkeys((str(context.tree.absolute()), str(context.tree.resolve()))))
    files: dict[str, dict[int, bool]] = {}
    unsure: dict[str, tuple[str, ...]] = {}
    for name, found in measured.files.items():
        meant = in_project(name, measured.roots, trees, known)
        if len(meant) > 1:
            unsure[shown(name)] = meant
        into = files.setdefault(meant[0] if len(meant) == 1 else shown(name), {})
        for line, hit in found.items():
            into[line] = into.get(line, False) or hit
    return files, unsure


def _walk(tree: Path) -> Iterator[str]:
    """The paths of the project's files, relative to it."""
    top = str(tree.resolve())
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name not in _NOT_SOURCES]
        inside = os.path.relpath(folder, top)
        for name in files:
            yield name if inside == "." else f"{inside}/{name}"
