"""What the statements of a migration are to MySQL: tables to be altered on a copy, and what is run as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from crossfade.domain.errors import Invalid

TOKEN: Final = re.compile(
    r"""
    (?P<space>  \s+ | --(?=[\s]|\Z)[^\n]* | \#[^\n]* | /\*(?!!).*?\*/ )
  | (?P<text>   '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" )
  | (?P<quoted> `(?:[^`]|``)*` )
  | (?P<word>   [^\W]+[\w$]* )
  | (?P<sign>   . )
    """,
    re.VERBOSE | re.DOTALL,
)
INDEXES: Final = ("unique", "fulltext", "spatial", "index", "key")
WRITES: Final = ("insert", "update", "delete", "replace", "load", "call", "with")
SESSION: Final = ("use", "lock", "unlock", "set", "begin", "start", "commit", "rollback", "delimiter")
TAKING: Final = ("drop", "rename", "truncate")


@dataclass(frozen=True, slots=True)
class Token:
    """``name``: what an identifier means, without its quotes; ``lower``: a word that has none, in lower case."""

    kind: str
    text: str
    start: int

    @property
    def name(self) -> str:
        return self.text[1:-1].replace("``", "`") if self.kind == "quoted" else self.text

    @property
    def lower(self) -> str:
        return self.text.lower() if self.kind != "quoted" else ""


@dataclass(frozen=True, slots=True)
class Copy:
    """A table that is altered on a copy, which then takes its place. ``clause`` is all after its name in ALTER TABLE."""

    table: str
    clause: str


@dataclass(frozen=True, slots=True)
class Direct:
    """A statement that is run as it is. ``table`` is what it changes, empty where that is not plain to see.

    ``kind``: ``create`` (a table that was not there), ``index``, ``alter``, ``write`` (rows), ``take`` (drop, rename), ``other``.
    """

    sql: str
    kind: str
    table: str = ""

    @property
    def values(self) -> bool:
        """Whether it writes no rows but those that it spells out."""
        words = [one.lower for one in tokens(self.sql)]
        return words[:1] in (["insert"], ["replace"]) and "select" not in words


@dataclass(frozen=True, slots=True)
class Steps:
    """One phase, in order: the copies are made together, and take their tables' places together."""

    before: tuple[Direct, ...] = ()
    copies: tuple[Copy, ...] = ()
    after: tuple[Direct, ...] = ()


def tokens(sql: str) -> list[Token]:
    """All that counts: no spaces, no comments."""
    return [
        Token(match.lastgroup or "sign", match.group(), match.start())
        for match in TOKEN.finditer(sql)
        if match.lastgroup != "space"
    ]


def steps(statements: Sequence[str], place: str = "") -> Steps:
    """The steps of a phase. Raises Invalid for a statement that has no business in a migration."""
    found = [step(sql, f"{place}[{i}]") for i, sql in enumerate(statements)]
    fresh = {one.table for one in found if isinstance(one, Direct) and one.kind == "create"}
    before: list[Direct] = []
    after: list[Direct] = []
    copies: dict[str, Copy] = {}
    altered = {one.table for one in found if isinstance(one, Copy)} - fresh
    for sql, seen in zip(statements, found, strict=True):
        one = _placed(sql, seen, fresh, altered)
        if isinstance(one, Direct):
            (after if copies else before).append(one)
        elif one.table in copies:
            copies[one.table] = replace(copies[one.table], clause=f"{copies[one.table].clause}, {one.clause}")
        else:
            copies[one.table] = one
    return Steps(tuple(before), tuple(copies.values()), tuple(after))


def _placed(sql: str, one: Copy | Direct, fresh: set[str], altered: set[str]) -> Copy | Direct:
    """As it is best done beside the phase's others."""
    if isinstance(one, Copy) and one.table in fresh:
        return Direct(sql, "alter", one.table)  # it has no rows yet
    if isinstance(one, Direct) and one.kind == "index" and one.table in altered:
        clause = as_clause(sql)
        if clause:  # the copy is made anyway, so its index costs nobody a wait
            return Copy(one.table, clause)
    return one


def step(sql: str, place: str = "") -> Copy | Direct:
    """What one statement is. Raises Invalid."""
    found = tokens(sql)
    words = [one.lower for one in found]
    head = words[0] if words else ""
    if head in SESSION or "`" in words or "'" in words:
        raise Invalid(place or "statement", short(sql), "DDL, or a statement that writes rows")
    if head == "alter" and "table" in words[1:4]:
        return _alter(sql, found, words, place)
    if head == "create" and "table" in words[1:4]:
        at = _skip(words, words.index("table") + 1, "if", "not", "exists")
        temporary = words[1] == "temporary" or words[1] == "or"
        return Direct(sql, "other" if temporary else "create", _name(found, at)[0])
    if head in ("create", "drop") and "on" in words and any(one in INDEXES for one in words[1:4]):
        at = words.index("on") + 1
        return Direct(_online(sql, words), "index" if head == "create" else "take", _name(found, at)[0])
    if head in TAKING:
        return Direct(sql, "take")
    return Direct(sql, "write" if head in WRITES else "other")


def _alter(sql: str, found: list[Token], words: list[str], place: str) -> Copy | Direct:
    at = words.index("table") + 1
    if "ignore" in words[:at]:
        raise Invalid(place or "statement", short(sql), "ALTER TABLE without IGNORE, which loses rows")
    at = _skip(words, at, "if", "exists")
    table, at = _name(found, at)
    if words[at : at + 1] == ["nowait"]:
        at += 1
    elif words[at : at + 1] == ["wait"]:
        at += 2
    if not table or at >= len(found):
        raise Invalid(place or "statement", short(sql), "ALTER TABLE with a table and what changes of it")
    if found[at - 2].text == "." and at >= 3 and found[at - 3].name != table:
        schema = found[at - 3].name
        raise Invalid(place or "statement", f"{schema}.{table}", "tables of the URL's own database, without its name")
    clause = sql[found[at].start :].strip().rstrip(";").strip()
    parts = actions(clause)
    if any(part[:1] == ["algorithm"] for part in parts):
        return Direct(sql, "alter", table)  # somebody knows what the server can do by itself
    if parts and all(_adds_unique(part) for part in parts):
        # A copy would lose rows that are the same; the server refuses them, and does not stand in the way of writers.
        return Direct(f"{sql.strip().rstrip(';')}, ALGORITHM=INPLACE, LOCK=NONE", "alter", table)
    return Copy(table, clause)


def actions(clause: str) -> list[list[str]]:
    """The parts of an ALTER TABLE, each as its words in lower case; a name in quotes as it is, with them."""
    parts: list[list[str]] = [[]]
    depth = 0
    for token in tokens(clause):
        depth += (token.text == "(") - (token.text == ")")
        if token.text == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token.lower or token.text)
    return [part for part in parts if part]


def renames(clause: str) -> Iterator[str]:
    """What a clause calls otherwise, as sentences: no release that runs survives that."""
    for part in actions(clause):
        if part[:1] == ["rename"] and part[1:2] not in (["index"], ["key"]):
            what = "a column" if part[1:2] == ["column"] else "the table"
            yield f"it renames {what}"
        if part[:1] == ["change"]:
            names = [one.strip("`").lower() for one in part if one not in ("column", "if", "exists")][1:3]
            if len(set(names)) == 2:
                yield f"it renames the column {names[0]}"


def has_foreign_key(clause: str) -> bool:
    """Whether it speaks of foreign keys."""
    return any("foreign" in part or "references" in part for part in actions(clause))


def as_clause(sql: str) -> str:
    """CREATE INDEX as a part of ALTER TABLE; empty for one that is unique, whose copy would lose rows, or not plain."""
    found = tokens(sql)
    words = [one.lower for one in found]
    at = words.index("on")
    if "unique" in words[:at] or "if" in words[:at] or "replace" in words[:at]:
        return ""
    _, end = _name(found, at + 1)
    if end >= len(found):
        return ""
    return f"ADD {sql[found[1].start : found[at].start].strip()} {sql[found[end].start :].strip().rstrip(';').strip()}"


def short(sql: str) -> str:
    """A statement for people, in a line."""
    line = " ".join(sql.split())
    return line[:60] + ("…" if len(line) > 60 else "")


def _adds_unique(part: list[str]) -> bool:
    return part[:1] == ["add"] and (part[1:2] == ["unique"] or (part[1:2] == ["constraint"] and "unique" in part[2:4]))


def _online(sql: str, words: list[str]) -> str:
    """So that the server refuses rather than to lock writers out."""
    if "algorithm" in words or "lock" in words or "fulltext" in words or "spatial" in words:
        return sql
    return f"{sql.strip().rstrip(';')} ALGORITHM=INPLACE LOCK=NONE"


def _skip(words: list[str], at: int, *wanted: str) -> int:
    return at + len(wanted) if tuple(words[at : at + len(wanted)]) == wanted else at


def _name(found: list[Token], at: int) -> tuple[str, int]:
    """A table's name, which may have its database before it, and where it ends."""
    if at + 2 < len(found) and found[at + 1].text == ".":
        return found[at + 2].name, at + 3
    return (found[at].name if at < len(found) else ""), at + 1
