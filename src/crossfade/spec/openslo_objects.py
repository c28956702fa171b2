"""The objects of OpenSLO files: documents, lists, versions and kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from crossfade.domain.errors import Problem
from crossfade.spec import tree
from crossfade.spec.problems import Place, shown
from crossfade.spec.shape import Path

VERSIONS: Final = ("openslo/v1", "openslo.com/v1")
"""The version, and as it is called where it is a resource of Kubernetes."""
USED: Final = ("SLO", "SLI", "DataSource")
LEFT_OUT: Final = ("Service", "AlertPolicy", "AlertCondition", "AlertNotificationTarget")
MOST_DOCUMENTS: Final = 200
_MARKER: Final = re.compile(r"^---(?=\s|$)|^\.\.\.(?=\s|$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Object:
    """``path``: where it is in its document, which is empty, or its number in a list."""

    kind: str
    name: str
    spec: Mapping[str, Any]
    place: Place
    path: Path

    def at(self, *steps: str | int) -> Path:
        return (*self.path, *steps)

    def problem(self, steps: Path, found: str, allowed: str) -> Wrong:
        return Wrong(self.place.problem(self.at(*steps), found, allowed))


class Wrong(Exception):
    """One problem; the rest of its object cannot be read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def objects(file: str, text: str, problems: list[Problem]) -> Iterator[Object]:
    """Those of one file; what is wrong with others is added to ``problems``."""
    documents = list(islice(_documents(text), MOST_DOCUMENTS + 1))
    if len(documents) > MOST_DOCUMENTS:
        found = f"more than {MOST_DOCUMENTS} documents"
        problems.append(Problem(file, 0, "the file", found, f"at most {MOST_DOCUMENTS} in a file"))
        return
    count = 0
    for before, document in documents:
        given = tree.read(document)
        given.lines = {path: line + before for path, line in given.lines.items()}
        given.faults = [replace(fault, line=fault.line + before if fault.line else 0) for fault in given.faults]
        place = Place(file, given.lines)
        if given.broken and all(fault.found == tree.EMPTY for fault in given.faults):
            continue
        for fault in given.faults:
            key = place.problem(fault.path, "", "").key
            problems.append(Problem(file, fault.line, key, fault.found, fault.allowed))
        if given.faults:
            continue
        listed = isinstance(given.data, list)
        for number, data in enumerate(given.data if listed else [given.data]):
            count += 1
            try:
                yield _object(data, place, (number,) if listed else ())
            except Wrong as wrong:
                problems.append(wrong.problem)
    if not count and not problems:
        problems.append(Problem(file, 0, "the file", "an empty file", "objects of OpenSLO, at least one SLO"))


def _documents(text: str) -> Iterator[tuple[int, str]]:
    """The documents of a file, each with the number of lines before it."""
    if len(text) > tree.LARGEST:
        yield 0, text  # too large is told as of any file
        return
    begins = before = 0
    for marker in (*_MARKER.finditer(text), None):
        ends = marker.start() if marker is not None else len(text)
        part = text[begins:ends]
        if any(line.strip() and not line.lstrip().startswith(("#", "%")) for line in part.split("\n")):
            yield before, part
        # A marker has no line break in it.
        before += part.count("\n")
        begins = marker.end() if marker is not None else ends


def _object(data: Any, place: Place, path: Path) -> Object:
    if not isinstance(data, dict):
        raise Wrong(place.problem(path, shown(data, ()), "a mapping of apiVersion, kind, metadata, spec"))
    version, kind = data.get("apiVersion"), data.get("kind")
    if version not in VERSIONS:
        raise Wrong(place.problem((*path, "apiVersion"), shown(version, ()), VERSIONS[0]))
    if kind not in (*USED, *LEFT_OUT):
        raise Wrong(place.problem((*path, "kind"), shown(kind, ()), ", ".join((*USED, *LEFT_OUT))))
    name = _mapping(data.get("metadata")).get("name")
    if not isinstance(name, str) or not name.strip():
        raise Wrong(place.problem((*path, "metadata", "name"), shown(name, ()), "required: a name"))
    spec = data.get("spec")
    if kind in USED and not isinstance(spec, dict):
        raise Wrong(place.problem((*path, "spec"), shown(spec, ()), "required: a mapping"))
    return Object(kind, name, _mapping(spec), place, path)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
