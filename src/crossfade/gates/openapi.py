"""The OpenAPI document of a commit: valid, and breaking nothing that the release in production promised.

Documents are OpenAPI 3.0 or 3.1, as JSON or YAML 1.2. Nothing that they refer to is fetched: references lead into the
document itself. It is all done in a process of its own, as validation runs patterns that a document brings along.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.contract import METHODS, decide_contract
from crossfade.domain.pipeline.plan import Gate, Outcome
from crossfade.domain.pipeline.results import together
from crossfade.domain.pipeline.schema import pointer
from crossfade.gates.apart import apart
from crossfade.ports.pipeline import GateContext

if TYPE_CHECKING:
    from crossfade.gates.files import Report

MOST_NODES: Final = 1_000_000
DEEPEST: Final = 120
MOST_FAULTS: Final = 20
UNREADABLE_BEFORE: Final = "unreadable-before"
"""In `allow`: a document that was broken in production already is no reason to stop."""


def read(name: str, gate: Gate, report: Report, context: GateContext) -> Outcome:  # noqa: ARG001 - all kinds are read alike
    """The outcome for the documents of a commit. Raises Invalid for one that cannot be read."""
    outcomes = []
    for file in report.files:
        before = None
        if context.before is not None:
            # What the gate read then counts before what the commit has: the document may be made by a step.
            before = context.before.report(file.path)
            before = context.before.file(file.path) if before is None else before
            label = context.before.label
            label = f"{label} has no {file.path}" if before is None else label
        else:
            label = "nothing that came through the pipeline is in production yet"
        question = {
            "path": file.path,
            "after": _text(file.path, file.content),
            # Bytes that are no text are told as what they are: a document that cannot be read.
            "before": None if before is None else before.decode("utf-8", "replace"),
            "label": label,
            "allow": list(gate.allow),
            "least": gate.least,
        }
        outcomes.append(apart("openapi", question))
    return together(outcomes, "documents")


def _text(path: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(path, f"byte {content[error.start]:#04x} at {error.start}", "text in UTF-8") from None


def answer(question: Mapping[str, Any]) -> Outcome:
    """The outcome for ``{path, after, before, label, allow, least}``: texts of documents, ``before`` may be None.

    Raises Invalid when the document of the commit is not one.
    """
    path, label, allow = question["path"], question["label"], question["allow"]
    after = document(path, question["after"])
    faults = list(_faults(path, after))
    if faults:
        more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        sentence = f"{path} is not valid OpenAPI {after['openapi']}: {faults[0]}"
        return Outcome(False, sentence, details=(*faults[:MOST_FAULTS], *more), numbers={"faults": len(faults)})
    paths = after.get("paths")
    items = paths.values() if isinstance(paths, Mapping) else ()
    operations = sum(method in item for item in items if isinstance(item, Mapping) for method in METHODS)
    if operations < question["least"]:
        sentence = f"{path} has {operations} operations; at least {question['least']} are wanted"
        return Outcome(False, sentence, "no-data", numbers={"operations": operations})
    if question["before"] is None:
        sentence = f"{path} is valid, with {operations} operations; nothing to compare with: {label}"
        return Outcome(True, sentence, numbers={"operations": operations})
    try:
        before = document(path, question["before"])
        list(_references(path, before))
    except Invalid as error:
        sentence = f"{path} of {label} cannot be read: {error.what}"
        if UNREADABLE_BEFORE in allow:
            return Outcome(True, f"{path} is valid; {sentence} (allowed)", numbers={"operations": operations})
        hint = f"`allow: [{UNREADABLE_BEFORE}]` lets this commit pass without being compared"
        return Outcome(False, sentence, "inconclusive", (hint,), {"operations": operations})
    return decide_contract(path, before, after, label, allow)


def document(path: str, text: str) -> dict[str, Any]:
    """An OpenAPI document as plain JSON values, keys as text. Raises Invalid, naming what is wrong in ``path``."""
    text = text.removeprefix("\ufeff")
    try:
        loaded = _json(path, text) if text.lstrip().startswith("{") else _yaml(path, text)
        plain = _Plain(path).of(loaded)
    except RecursionError:
        raise Invalid(path, "nested too deeply", f"at most {DEEPEST} levels") from None
    if not isinstance(plain, dict):
        raise Invalid(path, type(plain).__name__, "an OpenAPI document, which is an object")
    version = plain.get("openapi", f"swagger {plain['swagger']}" if "swagger" in plain else "no `openapi` key")
    if not (isinstance(version, str) and version.startswith(("3.0.", "3.1."))):
        raise Invalid(f"{path}: openapi", version, "3.0 or 3.1")
    return plain


def _json(path: str, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise Invalid(path, next(name for name in names if names.count(name) > 1), "each key of an object once")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except ValueError as error:
        raise Invalid(path, str(error), "JSON") from None


def _yaml(path: str, text: str) -> Any:
    from ruamel.yaml import YAML  # noqa: PLC0415 - most documents are JSON
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415 - as above

    yaml = YAML(typ="safe", pure=True)
    try:
        return yaml.load(text)
    except YAMLError as error:
        raise Invalid(path, " ".join(str(error).split())[:100], "YAML 1.2 or JSON") from None
    except (ValueError, TypeError, AttributeError) as error:  # what its constructors make of odd tags and dates
        raise Invalid(path, str(error)[:100], "YAML 1.2 or JSON") from None


class _Plain:
    """Makes plain JSON values of what was parsed, and counts them: aliases of YAML can stand for endlessly many."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._count = 0

    def of(self, value: object, depth: int = 0) -> Any:
        self._count += 1
        if self._count > MOST_NODES:
            raise Invalid(self._path, f"over {MOST_NODES} values", "a document with fewer of them")
        if depth > DEEPEST:
            raise Invalid(self._path, f"over {DEEPEST} levels", f"at most {DEEPEST} levels of nesting")
        if isinstance(value, dict):
            return {self._key(key): self.of(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(each, depth + 1) for each in value]
        if isinstance(value, float) and not math.isfinite(value):
            raise Invalid(self._path, value, "finite numbers")
        return value if value is None or isinstance(value, bool | int | float | str) else str(value)

    @staticmethod
    def _key(key: object) -> str:
        # YAML has numbers for keys: 200 is a status, as text.
        return "null" if key is None else str(key).lower() if isinstance(key, bool) else str(key)


def _references(path: str, value: object, place: str = "") -> Iterator[str]:
    """The references of a document. Raises Invalid for one that leads out of it."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "$ref" and isinstance(each, str):
                if not each.startswith("#"):
                    allowed = "references within the document (#/components/…); bundle it first"
                    raise Invalid(f"{path}: {place}$ref", each, allowed)
                yield each
            else:
                yield from _references(path, each, f"{place}{key}.")
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from _references(path, each, f"{place}{at}.")


def _faults(path: str, plain: dict[str, Any]) -> Iterator[str]:
    from openapi_spec_validator.shortcuts import get_validator_cls  # noqa: PLC0415 - for the child process alone

    lost = dict.fromkeys(each for each in _references(path, plain) if not _leads(plain, each))
    if lost:
        yield from (f"{reference} leads nowhere" for reference in lost)
        return

    def refuse(uri: str) -> Any:
        raise Invalid(f"{path}: reference", uri, "references within the document")

    handlers = dict.fromkeys(("<all_urls>", "http", "https", "file", ""), refuse)
    checker = type("WithinTheDocument", (get_validator_cls(plain),), {"resolver_handlers": handlers})
    try:
        for error in checker(plain).iter_errors():
            where = ".".join(str(part) for part in error.absolute_path)
            yield f"{where}: {_shortened(error.message)}" if where else _shortened(error.message)
    except (Invalid, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001 - the validator resolves references as it goes, and raises what it likes
        yield f"it cannot be validated: {type(error).__name__}: {_shortened(str(error))}"


def _leads(plain: dict[str, Any], reference: str) -> bool:
    try:
        pointer(plain, reference)
    except Invalid:
        # Nor does `#name`, an anchor of JSON Schema: the comparison does not follow those.
        return False
    return True


def _shortened(text: str) -> str:
    text = text.split("\n", maxsplit=1)[0].strip()  # what follows is where it stands, in the validator's words
    return text if len(text) <= 240 else f"{text[:237]}..."
