"""What `reference.yaml` says of each key, and the page of the manual that is made from it.

``python -m crossfade.spec.document`` prints the page: ``docs/reference/crossfade-yaml.md``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pydantic import BaseModel

from crossfade.spec import tree
from crossfade.spec.shape import Path, Shape, shape_of

REFERENCE = "reference.yaml"

_PARTS = re.compile(
    r"(?P<meaning>.*?)(?P<required> Required\.)?(?: Default: (?P<default>.+?)\.)?(?: Allowed: (?P<allowed>.+)\.)?"
)


@dataclass(frozen=True, slots=True)
class Note:
    """The comment of one key. ``default`` and ``allowed`` are as written there, empty when they are not."""

    meaning: str
    required: bool
    default: str
    allowed: str


@cache
def reference() -> str:
    """The text of the example that has every key."""
    return files("crossfade.spec").joinpath(REFERENCE).read_text(encoding="utf-8")


def notes(text: str) -> Mapping[tuple[str, ...], Note]:
    """The comments right above keys, by path: ``*`` stands for a free name, ``[]`` for an item of a list."""
    lines = text.splitlines()
    read = tree.read(text)
    found: dict[tuple[str, ...], Note] = {}
    for path, line in read.lines.items():
        if not path or isinstance(path[-1], int):
            continue
        above = []
        for comment in reversed(lines[: line - 1]):
            if not comment.strip().startswith("#"):
                break
            above.append(comment.strip().removeprefix("#").strip())
        match = _PARTS.fullmatch(" ".join(reversed(above)))
        if above and match is not None:
            note = Note(match["meaning"], bool(match["required"]), match["default"] or "", match["allowed"] or "")
            found.setdefault(_pattern(path, read.data), note)
    return found


def _pattern(path: Path, data: object) -> tuple[str, ...]:
    from crossfade.spec.models import Spec  # noqa: PLC0415 - models asks this module for the descriptions of its keys

    root = shape_of(Spec)
    steps = []
    for length, step in enumerate(path):
        around = root.at(path[:length], data)
        free = around is not None and around.each is not None and not around.listed
        steps.append("[]" if isinstance(step, int) else "*" if free else step)
    return tuple(steps)


@cache
def descriptions() -> Mapping[tuple[type[BaseModel], str], Note]:
    """The note of each key of each kind of mapping. ``key.*`` is about the values of a mapping with free names."""
    from crossfade.spec.models import Spec  # noqa: PLC0415 - see above

    owners: dict[tuple[str, ...], list[Shape]] = {}
    for path, shape in shape_of(Spec).walk():
        owners.setdefault(path, []).extend(shape.variants.values() if shape.variants else [shape])
    found: dict[tuple[type[BaseModel], str], Note] = {}
    for path, note in notes(reference()).items():
        parent, key = (path[:-2], f"{path[-2]}.*") if path[-1] == "*" else (path[:-1], path[-1])
        for owner in owners.get(parent, []):
            if owner.model is not None and key.removesuffix(".*") in owner.keys:
                found.setdefault((owner.model, key), note)
    return found


def name_of(path: tuple[str, ...]) -> str:
    """``environments.*.port``, ``health[].path``."""
    return ".".join(path).replace(".[]", "[]")


def page() -> str:
    """The page of the manual, in Markdown."""
    found = notes(reference())
    out = [
        "# crossfade.yaml",
        "",
        f"<!-- Made from {REFERENCE} by: python -m crossfade.spec.document > docs/reference/crossfade-yaml.md -->",
        "",
        "One file says what a service is, how it is built, run, checked and rolled out. `crossfade init` proposes one,",
        "`crossfade validate` names every problem in it, `crossfade validate --schema` prints its JSON Schema for editors.",
        "",
        "Lengths of time have a unit: `250ms`, `30s`, `1.5m`, `2h`, `1d`. Shares of traffic are percentages: `5%`.",
        "The file is YAML 1.2 in UTF-8, one document, at most 1 MiB. `*` below stands for a name of your choice, `[]`",
        "for each item of a list. Keys that are not listed are refused.",
    ]
    for top in dict.fromkeys(path[0] for path in found):
        out += ["", f"## {top}", "", *_facts(found[(top,)])]
        below = [(path, note) for path, note in found.items() if path[0] == top and len(path) > 1]
        if below:
            out += ["", "| key | meaning | default | allowed |", "|---|---|---|---|"]
            out += [_row(path, note) for path, note in below]
        if top == "continuity":
            out += ["", "The checks of a flow have all keys of a [health](#health) check as well."]
        if top == "pipeline":
            out += [
                "",
                "All stages have the keys that are listed once here, under the first that shows them; `compare`,",
                "`environment`, `smoke` and `load` are only for those that their row names. A check of `smoke` and of a",
                "service has all keys of a [health](#health) check as well.",
            ]
    out += ["", "## Every key in one file", "", "```yaml", reference().rstrip("\n"), "```"]
    return "\n".join(out) + "\n"


def _facts(note: Note) -> list[str]:
    standing = "Required." if note.required else f"Default: {note.default}."
    return [note.meaning, "", f"{standing} Allowed: {note.allowed}." if note.allowed else standing]


def _row(path: tuple[str, ...], note: Note) -> str:
    cells = [
        f"`{name_of(path)}`",
        note.meaning,
        "required" if note.required else note.default or "",
        note.allowed,
    ]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(page())
