"""A gate by itself, in a folder, without a server: for any CI, and for trying one out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from crossfade.domain.errors import Invalid, NotFound, Refused, StorageFailed
from crossfade.domain.pipeline.plan import Gate, GateKind

if TYPE_CHECKING:
    from crossfade.domain.pipeline.plan import Outcome
    from crossfade.ports.pipeline import Before, GateContext

LARGEST_BEFORE: Final = 64 * 2**20


def gate_of(kind: str, report: str, options: Mapping[str, Any]) -> Gate:
    """The gate that options describe: those of `crossfade.yaml`, as text. None and empty ones are not given. Raises Invalid."""
    from crossfade.spec import pipeline_scalars, scalars
    from crossfade.spec.pipeline import GatePart
    from crossfade.spec.pipeline_rules import OPTIONS
    from crossfade.spec.scalars import Kind, NotAllowed

    if kind not in tuple(GateKind):
        raise Invalid("KIND", kind, ", ".join(GateKind))
    given = {name: value for name, value in options.items() if value not in (None, ())}
    kinds: dict[str, Kind] = {
        name: next(one for one in field.metadata if isinstance(one, Kind))
        for name, field in GatePart.model_fields.items()
        if any(isinstance(one, Kind) for one in field.metadata)
    }
    kinds |= {"allow": pipeline_scalars.TOLERATED, "provider": scalars.URL}
    found: dict[str, Any] = {}
    for name, value in given.items():
        place = f"--{name.replace('_', '-')}"
        if name not in OPTIONS[GateKind(kind)]:
            meant = ", ".join(f"--{option.replace('_', '-')}" for option in OPTIONS[GateKind(kind)])
            raise Invalid(place, value, f"with {kind} only {meant}")
        try:
            found[name] = kinds[name].read(value)
        except NotAllowed as refused:
            raise Invalid(place, value, refused.allowed or kinds[name].allowed) from None
    return Gate(GateKind(kind), report, **found)


def judge(
    kind: str,
    reports: Sequence[str],
    options: Mapping[str, Any],
    *,
    folder: Path,
    base: str | None = None,
    before: Path | None = None,
) -> dict[str, Any]:
    """What a gate says of reports: ``{kind, reports, passed, finding, sentence, details, numbers}``.

    ``base`` is a commit, branch or tag: lines changed since then, and its files for kinds that compare. ``before`` is an
    earlier report instead. Raises Invalid for options and paths, NotFound without repository or ``before``.
    """
    from crossfade.gates import ReportGates

    names = [_inside(folder, report) for report in reports]
    gate = gate_of(kind, names[0], options)
    _useful(gate.kind, base, before)
    context = _context(gate, folder, base, before)
    outcome: Outcome = ReportGates().read_all(f"crossfade gate {kind}", gate, names, context)
    return {
        "kind": kind,
        "reports": names,
        "passed": outcome.passed,
        "finding": outcome.finding,
        "sentence": outcome.sentence,
        "details": list(outcome.details),
        "numbers": dict(outcome.numbers),
    }


def write_baseline(
    kind: str, reports: Sequence[str], options: Mapping[str, Any], *, folder: Path, target: str
) -> dict[str, Any]:
    """Write the findings that a gate would mind as known ones: ``{baseline, findings}``.

    Raises Invalid, NotFound, StorageFailed; Refused when a tool did not run to its end, as then nobody knows them all.
    """
    from crossfade.domain.pipeline.findings import baseline_of, counts
    from crossfade.gates.files import open_reports
    from crossfade.gates.sarif import findings

    if kind != GateKind.SARIF:
        raise Invalid("--write-baseline", kind, "only with sarif")
    name = _inside(folder, target)
    names = [_inside(folder, report) for report in reports]
    gate = gate_of(kind, names[0], {**options, "baseline": None})
    found = findings(open_reports(folder, names), folder)
    if found.broken or not found.tools:
        raise Refused(found.broken[0] if found.broken else "The reports tell of no tool that has run.")
    document = baseline_of(counts(gate, found.all))
    path = folder / name
    if not path.parent.resolve().is_relative_to(folder.resolve()) or path.is_symlink():
        raise Invalid("--write-baseline", target, "a file inside the folder, and no link")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageFailed.because(f"write {path}", error) from error
    return {"baseline": name, "findings": sum(row["count"] for row in document["findings"])}


def _inside(folder: Path, given: str) -> str:
    """A path or pattern relative to the folder; one that is absolute may lead into it."""
    if given.startswith("/"):
        for root in dict.fromkeys((folder.absolute(), folder.resolve())):
            if given.startswith(f"{root}/".replace("//", "/")):
                given = os.path.relpath(given, root)
                break
    parts = given.split("/")
    if not given or given.startswith("/") or ".." in parts or "\0" in given:
        raise Invalid(
            "REPORT", given, "a path or shell pattern inside the folder (--folder; the current one without it)"
        )
    return given


def _useful(kind: GateKind, base: str | None, before: Path | None) -> None:
    if base is not None and kind not in (GateKind.COVERAGE, GateKind.OPENAPI):
        raise Invalid("--base", kind.value, "only with coverage and openapi")
    if before is not None and kind not in (GateKind.OPENAPI, GateKind.BENCHMARK):
        raise Invalid("--before", kind.value, "only with openapi and benchmark")
    if base is not None and before is not None:
        raise Invalid("--base", base, "either --base or --before")


def _context(gate: Gate, folder: Path, base: str | None, before: Path | None) -> GateContext:
    from crossfade.ports.pipeline import Before, GateContext, Place
    from crossfade.repositories.work_tree import WorkTreeGit

    changed: Mapping[str, frozenset[int]] | None = None
    earlier: Before | None = None
    places: dict[str, Place] = {}
    if base is not None:
        try:
            git = WorkTreeGit(folder)
        except NotFound:
            raise Invalid("--base", base, f"only in a git repository, and {folder} is in none") from None
        commit = git.base(base)
        if gate.kind is GateKind.COVERAGE:
            changed = git.changed_since(commit)
        earlier = Before(f"{base} ({commit[:7]})", lambda path: git.was(commit, path), lambda path: None)
    if before is not None:
        try:
            with before.open("rb") as file:
                content = file.read(LARGEST_BEFORE + 1)
        except OSError as error:
            raise Invalid("--before", str(before), f"a file that can be read: {error.strerror or error}") from None
        if len(content) > LARGEST_BEFORE:
            raise Invalid("--before", str(before), f"a file of at most {LARGEST_BEFORE // 2**20} MiB")
        earlier = Before(before.name, lambda path: None, lambda path: content)
    if gate.provider:
        parts = urlsplit(gate.provider)
        try:
            port = parts.port or 80
        except ValueError:
            raise Invalid("--provider", gate.provider, "http://127.0.0.1:PORT") from None
        places[gate.provider] = Place(gate.provider, parts.hostname or "", port, gate.provider, {})
    return GateContext(folder, changed, earlier, places)
