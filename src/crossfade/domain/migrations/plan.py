"""What a migration does to a database, as plain data: groups of statements, backfills, and hazards."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class How(enum.StrEnum):
    """How a group of statements is run."""

    TOGETHER = "together"
    """In one transaction, under a short lock timeout, tried again as a whole."""
    INDEX = "index"
    """One ``CREATE INDEX CONCURRENTLY`` outside a transaction; an invalid leftover of the name is dropped first."""
    ALONE = "alone"
    """Each statement outside a transaction, tried again by itself: VALIDATE, DROP INDEX CONCURRENTLY, DETACH."""


@dataclass(frozen=True, slots=True)
class Name:
    """A relation: schema and name, as they are in the catalogue (not quoted)."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"


def quoted(name: str) -> str:
    """An identifier for SQL, always in quotes."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text constant for SQL."""
    escaped = text.replace("'", "''")
    return f" E'{escaped}'".replace("\\", "\\\\") if "\\" in text else f"'{escaped}'"


@dataclass(frozen=True, slots=True)
class Group:
    """``title`` says for people what it does. ``index`` names the index of an INDEX group.

    Statements of an ALONE group must be safe to run again: a crash may come after one and before it is recorded.
    """

    title: str
    how: How
    statements: tuple[str, ...]
    index: Name | None = None


@dataclass(frozen=True, slots=True)
class Fill:
    """The backfill and verification of one table.

    ``marker`` is the hidden smallint column that tells which side wrote a row's values last: 0 nobody yet, 1 the old shape
    (new values are ``up`` of the old ones), 2 the new shape (old values are ``down`` of the new ones). ``ups`` and ``downs``
    are physical column and expression. Expressions name the columns of their shape: ``old`` and ``new`` map each such name to
    the physical column, and ``alias`` is the table's own name for qualified references.

    ``key`` are the physical columns to walk by, with their types; empty: by ctid. ``required`` are conditions, as SQL over
    the new shape, that rows must fulfil, each with its title (``name is not null``). ``compared`` is False where ``up`` is not
    the same twice, or reads other tables: then only ``required`` is verified.
    """

    table: Name
    marker: str
    key: tuple[tuple[str, str], ...]
    ups: tuple[tuple[str, str], ...]
    downs: tuple[tuple[str, str], ...] = ()
    old: tuple[tuple[str, str], ...] = ()
    new: tuple[tuple[str, str], ...] = ()
    alias: str = ""
    required: tuple[tuple[str, str], ...] = ()
    compared: bool = True


@dataclass(frozen=True, slots=True)
class Hazard:
    """Something to know before. ``blocks``: the migration is refused. ``code`` is stable (``drops-data``); ``place`` names the
    operation (``03_split.yaml: operations[1]``), ``hint`` says what to do.
    """

    code: str
    place: str
    sentence: str
    hint: str = ""
    blocks: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """All that one migration does, in order: ``expand``, the ``fills``, ``settle`` (validate constraints after the backfill);
    later ``contract``; or ``abort``.
    """

    version: str
    expand: tuple[Group, ...]
    fills: tuple[Fill, ...] = ()
    settle: tuple[Group, ...] = ()
    contract: tuple[Group, ...] = ()
    abort: tuple[Group, ...] = ()
    hazards: tuple[Hazard, ...] = ()
