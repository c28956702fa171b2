"""Known weaknesses of the parts that a service is made of: ``pip-audit --format json``, and CycloneDX with vulnerabilities.

Formats: github.com/pypa/pip-audit, cyclonedx.org/docs/1.6/json. A part that could not be looked up is never clean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from crossfade.domain.errors import Invalid, NotFound
from crossfade.domain.pipeline.findings import Vulnerability, decide_audit
from crossfade.domain.pipeline.plan import Gate, Outcome
from crossfade.gates.figures import listed, mapping, text
from crossfade.gates.reading import shown, values
from crossfade.ports.pipeline import GateContext

if TYPE_CHECKING:
    from crossfade.gates.files import Report

KNOWN: Final = "the JSON of `pip-audit --format json` or of CycloneDX with `vulnerabilities`"
_NO_DANGER: Final = frozenset({"resolved", "resolved_with_pedigree", "false_positive", "not_affected"})


class _Audited:
    """What the reports of a gate come to."""

    def __init__(self) -> None:
        self.parts = 0
        self.found: list[Vulnerability] = []
        self.unknown: dict[str, str] = {}
        self.aside = 0


def read(name: str, gate: Gate, report: Report, context: GateContext) -> Outcome:  # noqa: ARG001 - all kinds are read alike
    """The outcome for audits. Raises Invalid for one that cannot be read, NotFound when nobody has looked."""
    audited = _Audited()
    for file in report.files:
        if file.content.lstrip()[:1] == b"<":
            raise Invalid(file.path, "XML", KNOWN)
        document = values(file.path, file.content)
        if isinstance(document, list):  # as pip-audit wrote it before 2.0
            _pip(file.path, document, audited)
        elif "dependencies" in mapping(file.path, document) and "bomFormat" not in document:
            _pip(file.path, listed(f"{file.path}: dependencies", document["dependencies"]), audited)
        elif document.get("bomFormat") == "CycloneDX":
            _cyclonedx(file.path, document, audited)
        else:
            raise Invalid(file.path, f"keys {', '.join(map(str, list(document)[:6]))}"[:100], KNOWN)
    first = report.files[0].path
    what = first if len(report.files) == 1 else f"{first} and {len(report.files) - 1} more"
    return decide_audit(what, audited.parts, audited.found, audited.unknown, gate, aside=audited.aside)


def _pip(path: str, dependencies: Iterable[Any], into: _Audited) -> None:
    for at, raw in enumerate(dependencies):
        place = f"{path}: dependencies.{at}"
        part = mapping(place, raw)
        name = shown(text(f"{place}.name", part.get("name")))
        into.parts += 1
        if "skip_reason" in part or part.get("vulns") is None:
            into.unknown[name] = shown(str(part.get("skip_reason") or "the report does not say what is known of it"))
            continue
        version = shown(text(f"{place}.version", part.get("version")))
        for number, one in enumerate(listed(f"{place}.vulns", part["vulns"])):
            here = f"{place}.vulns.{number}"
            weak = mapping(here, one)
            fixed = [shown(str(each), 40) for each in listed(f"{here}.fix_versions", weak.get("fix_versions") or [])]
            advice = f"fixed in {', '.join(fixed[:5])}" if fixed else "no version has it fixed"
            into.found.append(Vulnerability(name, version, _names(here, weak, weak.get("aliases")), advice))


def _names(place: str, weak: Mapping[str, Any], others: object) -> tuple[str, ...]:
    """The identifiers of a weakness, each once."""
    first = shown(text(f"{place}.id", weak.get("id")), 100)
    more = [shown(str(one), 100) for one in listed(f"{place}: other names", others or [])]
    return tuple(dict.fromkeys((first, *more)))


def _cyclonedx(path: str, document: Mapping[str, Any], into: _Audited) -> None:
    if document.get("vulnerabilities") is None:
        hint = "A scanner adds what is known of the parts: `pip-audit --format cyclonedx-json`, grype, trivy."
        raise NotFound(f"{path} lists parts, and nobody has looked up what is known of them.", hint=hint)
    parts: dict[str, tuple[str, str]] = {}
    _components(f"{path}: components", document.get("components"), parts)
    into.parts += len(parts)
    for at, raw in enumerate(listed(f"{path}: vulnerabilities", document["vulnerabilities"])):
        place = f"{path}: vulnerabilities.{at}"
        weak = mapping(place, raw)
        analysis = weak.get("analysis")
        references = [
            mapping(place, one).get("id") for one in listed(f"{place}.references", weak.get("references") or [])
        ]
        names = _names(place, weak, [one for one in references if one is not None])
        if isinstance(analysis, dict) and str(analysis.get("state")) in _NO_DANGER:
            into.aside += 1
            continue
        advice = shown(str(weak.get("recommendation") or ""), 120)
        affected = [
            str(mapping(place, one).get("ref", "")) for one in listed(f"{place}.affects", weak.get("affects") or [])
        ]
        for reference in affected or [""]:
            name, version = parts.get(reference, (shown(reference) or "a part that is not named", ""))
            into.found.append(Vulnerability(name, version, names, advice))
    into.parts = max(into.parts, len({(one.part, one.version) for one in into.found}))


def _components(place: str, value: object, into: dict[str, tuple[str, str]]) -> None:
    """The parts by their references; a part may hold others."""
    for at, raw in enumerate(listed(place, value or [])):
        part = mapping(f"{place}.{at}", raw)
        name = shown(text(f"{place}.{at}.name", part.get("name")))
        version = shown(str(part.get("version") or ""), 60)
        into[str(part.get("bom-ref") or f"{place}.{at}")] = (name, version)
        if part.get("components"):
            _components(f"{place}.{at}.components", part["components"], into)
