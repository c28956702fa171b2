"""Migrations written as SQL: sections by annotation, or phases by what each statement does.

``-- crossfade: expand`` (or backfill, contract, abort) on a line of its own begins a section. Without any, statements are
sorted by what they do to an older release. The output of ``alembic upgrade --sql`` and Django's ``sqlmigrate`` is taken as it
is: their transaction statements are left out, for every phase has its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from crossfade.domain.errors import Problem
from crossfade.domain.migrations.operations import Phased
from crossfade.domain.migrations.sql import Token, tokens

SECTION: Final = re.compile(r"--\s*crossfade:\s*(?P<word>[\w-]+)\s*", re.IGNORECASE)
SECTIONS: Final = ("expand", "backfill", "contract", "abort")
TRANSACTION: Final = frozenset(("begin", "commit", "rollback", "end", "start"))
LATER: Final = "it takes something away that a running release uses, so it belongs into contract"


def statements(text: str) -> Iterator[tuple[int, str, str]]:
    """Each statement with the line that it begins on, and the section that it is in (empty before the first annotation)."""
    section, line, begun = "", 1, 0
    parts: list[str] = []
    for token in tokens(text):
        match = SECTION.fullmatch(token.text.strip()) if token.kind == "space" and token.text.startswith("--") else None
        if token.text == ";":
            if parts:
                yield begun, "".join(parts).strip(), section
            parts, begun = [], 0
        elif match is not None:
            if parts:
                yield begun, "".join(parts).strip(), section
            parts, begun = [], 0
            section = match["word"].lower()
        elif token.kind != "space" or parts:
            if not parts:
                begun = line
            parts.append(token.text)
        line += token.text.count("\n")
    if parts and "".join(parts).strip():
        yield begun, "".join(parts).strip(), section


def phased(name: str, text: str) -> tuple[Phased, list[Problem]]:
    """A file's statements by phase, and what is wrong with it."""
    found: dict[str, list[str]] = {section: [] for section in SECTIONS}
    problems: list[Problem] = []
    for line, statement, section in statements(text):
        words = [token for token in tokens(statement) if token.kind != "space"]
        first = words[0].name if words else ""
        if first in TRANSACTION:
            continue
        if section and section not in SECTIONS:
            problems.append(Problem(name, line, "crossfade:", section, ", ".join(SECTIONS)))
            continue
        if section:
            found[section].append(statement)
            continue
        phase, why = ("expand", "") if _is_bookkeeping(words) else classified(words)
        if not phase:
            problems.append(
                Problem(
                    name, line, _short(statement), why, "a section (`-- crossfade: contract` above it), or an operation"
                )
            )
        else:
            found[phase].append(statement)
    if not problems and not any(found.values()):
        problems.append(Problem(name, 0, "the file", "no statement", "SQL, or operations as YAML"))
    return Phased(*(tuple(found[section]) for section in SECTIONS)), problems


def classified(words: list[Token]) -> tuple[str, str]:
    """The phase of a statement that has no section; empty, and why, for what has no phase that is safe."""
    names = [token.name for token in words]
    head = names[:2]
    if head[:1] == ["drop"]:
        return "contract", ""
    if head == ["alter", "table"]:
        actions = _actions(words)
        if any(action[:1] == ["rename"] for action in actions):
            return "", "a rename, which no release that runs survives: rename_column and rename_table show both names"
        if any(action[:1] == ["alter"] and "type" in action for action in actions):
            return (
                "",
                "another type, which writes the table under an exclusive lock: alter_column does it beside the writers",
            )
        taking = [
            action
            for action in actions
            if action[:1] == ["drop"] or (action[:1] == ["alter"] and "set" in action and "not" in action)
        ]
        if taking and len(taking) < len(actions):
            return "", "additions and removals in one statement: write two"
        return ("contract" if taking else "expand"), ""
    if head == ["alter", "type"] and "rename" in names:
        return "", "a rename of a type or of its values: replace_enum shows both"
    if names[:1] in (["update"], ["insert"], ["delete"]):
        return "backfill", ""
    if names[:1] == ["truncate"]:
        return "contract", ""
    return "expand", ""


def _actions(words: list[Token]) -> list[list[str]]:
    """The actions of an ALTER TABLE, each as its words."""
    actions: list[list[str]] = [[]]
    depth, at = 0, 2
    names = [token.name for token in words]
    at += 2 * (names[at : at + 2] == ["if", "exists"])
    at += names[at : at + 1] == ["only"]
    at += 3 if at + 1 < len(words) and words[at + 1].text == "." else 1
    for token in words[at:]:
        depth += (token.text == "(") - (token.text == ")")
        if token.text == "," and depth == 0:
            actions.append([])
        else:
            actions[-1].append(token.name)
    return actions


def _is_bookkeeping(words: list[Token]) -> bool:
    """Alembic's own table of versions, which stays true: whoever asks it learns what was expanded."""
    return any(token.name == "alembic_version" for token in words)


def _short(statement: str) -> str:
    line = " ".join(statement.split())
    return line[:60] + ("…" if len(line) > 60 else "")
