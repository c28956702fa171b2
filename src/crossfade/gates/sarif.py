"""Findings of scanners by their SARIF 2.1.0 (docs.oasis-open.org/sarif/sarif/v2.1.0), of which what is used is checked.

A finding is known again by the tool's own fingerprint, or by the text of its line, which is read in the checkout: it may
move within its file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from crossfade.domain.errors import CrossfadeError, Invalid, NotFound
from crossfade.domain.pipeline.coverage import clean
from crossfade.domain.pipeline.findings import Finding, decide_findings, known_findings
from crossfade.domain.pipeline.plan import LEVELS, Gate, Outcome
from crossfade.gates.figures import count, listed, mapping, text
from crossfade.gates.files import read_file
from crossfade.gates.reading import shown, values
from crossfade.ports.pipeline import GateContext

if TYPE_CHECKING:
    from crossfade.gates.files import Report

LARGEST_SOURCE: Final = 4 * 1024 * 1024
MOST_SOURCES: Final = 2_000
MOST_FINDINGS: Final = 200_000
_KINDS: Final = ("notApplicable", "pass", "fail", "review", "open", "informational")
_SPACE: Final = re.compile(r"\s+")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def read(name: str, gate: Gate, report: Report, context: GateContext) -> Outcome:  # noqa: ARG001 - all kinds are read alike
    """The outcome for SARIF reports. Raises Invalid for one, or a baseline, that cannot be read, NotFound without baseline."""
    found = findings(report, context.tree)
    baseline = None
    if gate.baseline:
        try:
            content = read_file(context.tree, gate.baseline)
        except NotFound:
            hint = f"`crossfade gate sarif {gate.report} --write-baseline {gate.baseline}` writes it; commit it then."
            raise NotFound(f"There is no baseline {gate.baseline}.", hint=hint) from None
        baseline = known_findings(gate.baseline, values(gate.baseline, content))
    first = report.files[0].path
    what = first if len(report.files) == 1 else f"{first} and {len(report.files) - 1} more"
    return decide_findings(what, found.tools, found.all, baseline, gate, broken=found.broken, notes=found.notes)


class _Found:
    """What the runs of some reports come to."""

    def __init__(self) -> None:
        self.tools: list[str] = []
        self.all: list[Finding] = []
        self.broken: list[str] = []
        self.notes: list[str] = []


def findings(report: Report, tree: Path) -> _Found:
    """All that the reports tell: tools, findings, and what is wrong with their runs. Raises Invalid."""
    found, sources = _Found(), _Sources(tree)
    for file in report.files:
        document = mapping(file.path, values(file.path, file.content))
        if document.get("version") != "2.1.0":
            raise Invalid(f"{file.path}: version", document.get("version"), "SARIF 2.1.0")
        for at, run in enumerate(listed(f"{file.path}: runs", document.get("runs"))):
            _run(f"{file.path}: runs.{at}", mapping(f"{file.path}: runs.{at}", run), sources, found)
    return found


def _run(place: str, run: Mapping[str, Any], sources: _Sources, found: _Found) -> None:
    tool = mapping(f"{place}.tool", run.get("tool"))
    driver = mapping(f"{place}.tool.driver", tool.get("driver"))
    name = shown(text(f"{place}.tool.driver.name", driver.get("name")))
    found.tools.append(name)
    for invocation in _each(f"{place}.invocations", run.get("invocations")):
        worst = _notifications(place, invocation)
        if invocation.get("executionSuccessful") is not True:
            said = f": {worst[0]}" if worst else ""
            found.broken.append(f"{name} did not run to its end{said}")
        found.notes += [f"{name} says: {line}" for line in worst[:10]]
    if run.get("results") is None:
        # As the standard has it: no list at all stands for a scan that did not take place.
        found.broken.append(f"{name} has no list of results: it has not scanned anything")
        return
    extensions = _each(f"{place}.tool.extensions", tool.get("extensions"))
    rules = _Rules(place, driver, extensions, run)
    for at, raw in enumerate(listed(f"{place}.results", run["results"])):
        here = f"{place}.results.{at}"
        one = _finding(here, name, mapping(here, raw), run, rules, sources)
        if one is not None:
            found.all.append(one)
        if len(found.all) > MOST_FINDINGS:
            raise Invalid(place, f"over {MOST_FINDINGS} findings", f"at most {MOST_FINDINGS}")


def _each(place: str, value: object) -> list[Mapping[str, Any]]:
    """A list of objects that may be left out."""
    return [] if value is None else [mapping(f"{place}.{at}", one) for at, one in enumerate(listed(place, value))]


def _notifications(place: str, invocation: Mapping[str, Any]) -> list[str]:
    lines = [
        shown(_message(mapping(f"{place}.{key}.message", one.get("message", {})), {}))
        for key in ("toolExecutionNotifications", "toolConfigurationNotifications")
        for one in _each(f"{place}.{key}", invocation.get(key))
        if one.get("level") == "error"
    ]
    code = invocation.get("exitCodeDescription")
    return lines or (
        [shown(code)] if isinstance(code, str) and invocation.get("executionSuccessful") is not True else []
    )


class _Rules:
    """The rules of a run, by index and identifier, with the levels that its settings give them."""

    def __init__(
        self, place: str, driver: Mapping[str, Any], extensions: list[Mapping[str, Any]], run: Mapping[str, Any]
    ) -> None:
        self._driver = _each(f"{place}.tool.driver.rules", driver.get("rules"))
        self._others = [_each(f"{place}.tool.extensions.{n}.rules", e.get("rules")) for n, e in enumerate(extensions)]
        self._by_id: dict[str, Mapping[str, Any]] = {}
        for rule in (*self._driver, *(one for those in self._others for one in those)):
            self._by_id.setdefault(str(rule.get("id")), rule)
        self._levels: dict[str, str] = {}
        for invocation in _each(f"{place}.invocations", run.get("invocations")):
            here = f"{place}.invocations.ruleConfigurationOverrides"
            for one in _each(here, invocation.get("ruleConfigurationOverrides")):
                descriptor = mapping(here, one.get("descriptor"))
                rule = self.of({"rule": descriptor}, str(descriptor.get("id", "")))
                level = mapping(here, one.get("configuration")).get("level")
                if level is not None:
                    self._levels[str(rule.get("id"))] = _level(here, level)

    def of(self, result: Mapping[str, Any], id: str) -> Mapping[str, Any]:
        """The rule of a result; an empty one when the run does not describe it."""
        given = result.get("rule")
        reference = given if isinstance(given, dict) else {}
        index = result.get("ruleIndex", reference.get("index", -1))
        component = reference.get("toolComponent")
        extension = component.get("index", -1) if isinstance(component, dict) else -1
        rules = self._driver
        if isinstance(extension, int) and 0 <= extension < len(self._others):
            rules = self._others[extension]
        if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(rules):
            return rules[index]
        return self._by_id.get(id) or self._by_id.get(id.rpartition("/")[0]) or {}

    def level(self, place: str, rule: Mapping[str, Any]) -> str:
        """What a finding of the rule is when it does not say so itself."""
        if str(rule.get("id")) in self._levels:
            return self._levels[str(rule.get("id"))]
        default = rule.get("defaultConfiguration")
        given = default.get("level") if isinstance(default, dict) else None
        return "warning" if given is None else _level(f"{place}: its rule's level", given)


def _level(place: str, value: object) -> str:
    if value not in ("none", *LEVELS):
        raise Invalid(place, value, f"none, {', '.join(LEVELS)}")
    return str(value)


def _finding(
    place: str, tool: str, result: Mapping[str, Any], run: Mapping[str, Any], rules: _Rules, sources: _Sources
) -> Finding | None:
    kind = result.get("kind", "fail")
    if kind not in _KINDS:
        raise Invalid(f"{place}.kind", kind, ", ".join(_KINDS))
    if kind in ("notApplicable", "pass", "informational") or result.get("baselineState") == "absent":
        return None
    reference = result.get("rule")
    id = result.get("ruleId") or (reference.get("id") if isinstance(reference, dict) else None) or ""
    if not isinstance(id, str):
        raise Invalid(f"{place}.ruleId", id, "text")
    rule = rules.of(result, id)
    id = id or str(rule.get("id") or "a rule without a name")
    level = result.get("level")
    if level is not None:
        level = _level(f"{place}.level", level)
    else:
        # Of what somebody has yet to look at, the standard knows no level.
        level = rules.level(place, rule) if kind == "fail" else "none"
    message = shown(_message(mapping(f"{place}.message", result.get("message")), rule))
    path, line, snippet = _location(place, result, run, sources)
    own = result.get("partialFingerprints") or result.get("fingerprints")
    if isinstance(own, dict) and own:
        mark = "own:" + ";".join(f"{key}={own[key]}" for key in sorted(own))[:2000]
    else:
        at = sources.line(path, line) if line else ""
        mark = (
            "line:" + _SPACE.sub(" ", (at or snippet)[:2000]).strip()[:500] if at or snippet else f"message:{message}"
        )
    states = [one.get("status", "accepted") for one in _each(f"{place}.suppressions", result.get("suppressions"))]
    suppressed = bool(states) and all(state == "accepted" for state in states)
    return Finding(tool, shown(id), level, path, line, message, mark, suppressed)


def _message(message: Mapping[str, Any], rule: Mapping[str, Any]) -> str:
    said = message.get("text") or message.get("markdown")
    if not said and isinstance(message.get("id"), str):
        strings = rule.get("messageStrings")
        template = strings.get(message["id"]) if isinstance(strings, dict) else None
        said = template.get("text") if isinstance(template, dict) else None
        if isinstance(said, str):
            given = message.get("arguments")
            said = said[:2000]
            for at, argument in enumerate(given[:20] if isinstance(given, list) else []):
                said = said.replace(f"{{{at}}}", str(argument)[:200])
    return said if isinstance(said, str) and said else "no message"


def _location(place: str, result: Mapping[str, Any], run: Mapping[str, Any], sources: _Sources) -> tuple[str, int, str]:
    """Path in the project, line (0: none) and the line as the report itself quotes it, of a result's first place."""
    for location in _each(f"{place}.locations", result.get("locations"))[:1]:
        physical = mapping(f"{place}.locations.0.physicalLocation", location.get("physicalLocation") or {})
        artifact = mapping(f"{place}.locations.0.artifactLocation", physical.get("artifactLocation") or {})
        index = artifact.get("index")
        known = run.get("artifacts")
        if "uri" not in artifact and isinstance(index, int) and isinstance(known, list) and 0 <= index < len(known):
            whole = mapping(f"{place}: artifacts.{index}", known[index])
            artifact = mapping(f"{place}: artifacts.{index}.location", whole.get("location") or {})
        region = mapping(f"{place}.locations.0.region", physical.get("region") or {})
        line = count(f"{place}.locations.0.region.startLine", region.get("startLine", 0))
        snippet = region.get("snippet")
        quoted = snippet.get("text") if isinstance(snippet, dict) else ""
        return sources.path(_uri(place, artifact, run)), line, quoted if isinstance(quoted, str) else ""
    return "", 0, ""


def _uri(place: str, artifact: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    uri = artifact.get("uri", "")
    if not isinstance(uri, str):
        raise Invalid(f"{place}: uri", uri, "text")
    bases = run.get("originalUriBaseIds")
    base = artifact.get("uriBaseId")
    for _ in range(8):
        entry = bases.get(base) if isinstance(bases, dict) and isinstance(base, str) else None
        if not isinstance(entry, dict) or _SCHEME.match(uri):
            break
        prefix = entry.get("uri")
        if isinstance(prefix, str) and prefix:
            uri = f"{prefix.rstrip('/')}/{uri}"
        base = entry.get("uriBaseId")
    return uri


class _Sources:
    """The project's files, as far as findings are in them."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._roots = tuple(dict.fromkeys((str(tree.absolute()), str(tree.resolve()))))
        self._lines: dict[str, list[str]] = {}
        self._paths: dict[str, str] = {}

    def path(self, uri: str) -> str:
        """Where a finding is, relative to the project when it is in it."""
        if uri not in self._paths:
            self._paths[uri] = shown(self._resolved(uri), 500)
        return self._paths[uri]

    def _resolved(self, uri: str) -> str:
        path = unquote(uri[len("file://") :].removeprefix("localhost") if uri.startswith("file://") else uri)
        if not path.startswith("/") or "\0" in path:
            return clean(path)
        path = clean(path)
        for root in self._roots:
            if path.startswith(root.rstrip("/") + "/"):
                return path[len(root.rstrip("/")) + 1 :]
        # Scanned elsewhere (in a container): the longest end of it that the project has.
        parts = path.strip("/").split("/")
        ends = ("/".join(parts[at:]) for at in range(1, min(len(parts), 30)))
        return next((end for end in ends if os.path.isfile(self._tree / end)), path)

    def line(self, path: str, number: int) -> str:
        """A line of a file of the project; empty when there is no such."""
        if path not in self._lines:
            if len(self._lines) >= MOST_SOURCES:
                self._lines.clear()
            try:
                content = read_file(self._tree, path, largest=LARGEST_SOURCE) if not path.startswith("/") else b""
            except CrossfadeError:
                content = b""
            self._lines[path] = content.decode("utf-8", "replace").split("\n")
        lines = self._lines[path]
        return lines[number - 1] if 1 <= number <= len(lines) else ""
