"""What stands in the way of a migration, seen in the database and on an empty table that is altered to try it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pymysql
from pymysql.connections import Connection

from crossfade.databases.mysql.connection import code, quoted, rows, said, value
from crossfade.databases.mysql.leftovers import exists
from crossfade.databases.mysql.statements import Copy, Direct, Steps, has_foreign_key, renames, short
from crossfade.domain.migrations.plan import Hazard

TRIAL: Final = "crossfade_trial"
NOT_TEMPORARY: Final = frozenset((1214, 1478, 1562, 1796, 1044, 1031))
"""Codes of a table that cannot be a temporary one: partitions, indexes of texts, a missing right."""
LONGEST: Final = 64
WAIT: Final = "Release the code first that does not need it any more, and put it into contract."


@dataclass(frozen=True, slots=True)
class Column:
    """One column as SHOW COLUMNS has it. ``computed``: it is generated, and cannot be written."""

    name: str
    type: str
    collation: str
    nullable: bool
    default: bool
    computed: bool


@dataclass(frozen=True, slots=True)
class Table:
    """``key`` are the columns of the primary key, or of a unique one without nulls; ``unique``: all unique keys' columns."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    primary: tuple[str, ...]
    unique: frozenset[tuple[str, ...]]

    def column(self, name: str) -> Column | None:
        return next((one for one in self.columns if one.name.lower() == name.lower()), None)

    def named(self) -> dict[str, Column]:
        return {one.name.lower(): one for one in self.columns}


def read(connection: Connection[Any], name: str) -> Table:
    """A table's columns and keys. Raises the driver's error when there is none."""
    columns = tuple(
        Column(
            one[0],
            one[1],
            one[2] or "",
            one[3] == "YES",
            one[5] is not None or "auto_increment" in one[6],
            "GENERATED" in one[6].upper() and "DEFAULT_GENERATED" not in one[6].upper(),
        )
        for one in rows(connection, f"SHOW FULL COLUMNS FROM {quoted(name)}")
    )
    nullable = {one.name.lower() for one in columns if one.nullable}
    keys: dict[str, list[tuple[int, str]]] = {}
    prefixed: set[str] = set()
    for one in rows(connection, f"SHOW INDEX FROM {quoted(name)}"):
        if not one[1]:
            keys.setdefault(one[2], []).append((one[3], one[4] or ""))
            if one[7] is not None or not one[4]:
                prefixed.add(one[2])
    unique = {title: tuple(column for _, column in sorted(parts)) for title, parts in keys.items()}
    usable = [
        columns_
        for title, columns_ in sorted(unique.items(), key=lambda pair: pair[0] != "PRIMARY")
        if title not in prefixed and not nullable & {one.lower() for one in columns_}
    ]
    return Table(name, columns, usable[0] if usable else (), unique.get("PRIMARY", ()), frozenset(unique.values()))


def key(connection: Connection[Any], name: str) -> tuple[tuple[str, str], ...]:
    """The columns by which a table is walked, each with its type; empty for one that is not there."""
    if not exists(connection, name):
        return ()
    table = read(connection, name)
    return tuple((one.name, one.type) for one in map(table.column, table.key) if one is not None)


def hazards(
    connection: Connection[Any], steps: Steps, phase: str, source: str, coming: Sequence[str] = ()
) -> Iterator[Hazard]:
    """All that blocks one phase's statements, and what to know. ``coming``: tables that earlier migrations will have made."""
    for one in (*steps.before, *steps.after):
        yield from _direct(one, phase, f"{source}: {phase}")
        if phase == "expand" and one.kind == "create" and exists(connection, one.table):
            hint = "It belongs to somebody else, and the abort of this migration would drop it."
            yield Hazard("exists", f"{source}: {phase}", f"there is a table {one.table} already", hint, blocks=True)
    for copy in steps.copies:
        place = f"{source}: {phase}, ALTER TABLE {copy.table}"
        for code_, sentence, hint in _copy(connection, copy, phase, coming):
            yield Hazard(code_, place, sentence, hint, blocks=True)


def _direct(one: Direct, phase: str, place: str) -> Iterator[Hazard]:
    if phase == "expand" and one.kind == "take":
        yield Hazard(
            "breaks-running-release",
            place,
            f"{short(one.sql)}: it takes something away that a running release uses",
            WAIT,
            blocks=True,
        )
    if one.kind == "write" and not one.values:
        yield Hazard(
            "one-transaction",
            place,
            f"{short(one.sql)}: all its rows are locked until its end",
            "Write it so that it changes few rows, or several times.",
        )


def _copy(connection: Connection[Any], copy: Copy, phase: str, coming: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Code, sentence, hint of all that blocks one."""
    for sentence in renames(copy.clause):
        hint = "Add the new one, let a release write both, and drop the old one in a later contract."
        yield "renames", f"{sentence}, which no release that runs survives", hint
        return
    if len(copy.table) > LONGEST or set(",\\`'") & set(copy.table):
        yield "name", f"{copy.table!r} is no name that the tool can take", "Rename the table first."
        return
    kind = value(
        connection,
        "SELECT CONCAT(TABLE_TYPE, '/', COALESCE(ENGINE, '')) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s",
        (copy.table,),
    )
    if copy.table in coming:
        return  # not yet as this change needs it
    if kind is None:
        yield "missing", f"there is no table {copy.table}", "Is it the right database?"
        return
    if kind.upper() != "BASE TABLE/INNODB":
        yield (
            "engine",
            f"{copy.table} is {kind.lower()}, and only tables of InnoDB can be copied while they are written",
            "",
        )
        return
    yield from _neighbours(connection, copy.table)
    before = read(connection, copy.table)
    odd = [one.name for one in before.columns if "`" in one.name]
    if odd:
        yield "name", f"{odd[0]!r} is no name of a column that the tool can take", "Rename the column first."
        return
    if not before.key:
        yield "no-key", f"{copy.table} has no primary key, nor a unique one without nulls: it cannot be copied in parts", "Add one first."  # fmt: skip
        return
    if phase == "expand" and has_foreign_key(copy.clause):
        yield "foreign-key", "it changes foreign keys, which the writes of an older release may break", WAIT
        return
    if has_foreign_key(copy.clause):
        return  # an empty table has no foreign keys to try it on: the tool tells what is wrong
    try:
        after = altered(connection, copy)
    except pymysql.MySQLError as error:
        if not code(error):
            raise
        yield "statement", f"the server says: {said(error)}", "Nothing was changed."
        return
    yield from differences(before, after, phase)


def _neighbours(connection: Connection[Any], table: str) -> Iterator[tuple[str, str, str]]:
    triggers = [
        one[0]
        for one in rows(
            connection,
            "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = DATABASE() AND EVENT_OBJECT_TABLE = %s"
            " AND TRIGGER_NAME NOT LIKE 'pt\\_osc\\_%%' ORDER BY TRIGGER_NAME",
            (table,),
        )
    ]
    if triggers:
        yield (
            "triggers",
            f"{table} has triggers of its own ({', '.join(triggers)}), which a copy that takes its place would not have",
            "Drop them first, and make them again afterwards; or do what they do in the application.",
        )
    children = rows(
        connection,
        "SELECT DISTINCT TABLE_NAME, CONSTRAINT_NAME FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_SCHEMA = DATABASE()"
        " AND REFERENCED_TABLE_NAME = %s ORDER BY 1, 2",
        (table,),
    )
    if children:
        named = ", ".join(f"{name} of {child}" for child, name in children)
        yield (
            "foreign-keys",
            f"{table} is what foreign keys refer to ({named}): they would stay with the old table when the copy takes its place",
            "Give the ALTER an ALGORITHM=INSTANT or INPLACE that the server can do by itself; or drop those keys first.",
        )


def altered(connection: Connection[Any], copy: Copy) -> Table:
    """The table as it will be, from an empty one that only we see. Raises the driver's error for a clause that cannot be."""
    try:
        rows(connection, f"CREATE TEMPORARY TABLE {TRIAL} LIKE {quoted(copy.table)}")
    except pymysql.MySQLError as error:
        if code(error) not in NOT_TEMPORARY:
            raise
        rows(connection, f"DROP TABLE IF EXISTS {TRIAL}")
        rows(connection, f"CREATE TABLE {TRIAL} LIKE {quoted(copy.table)}")
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {TRIAL} {copy.clause}")  # no values: a % in it is the user's
        return read(connection, TRIAL)
    finally:
        with contextlib.suppress(Exception):  # what matters is the error above
            rows(connection, f"DROP TABLE IF EXISTS {TRIAL}")


def differences(before: Table, after: Table, phase: str) -> Iterator[tuple[str, str, str]]:
    """What of a change neither an older release nor the copy would survive."""
    old, new = before.named(), after.named()
    dropped = [one.name for name, one in old.items() if name not in new]
    added = [one for name, one in new.items() if name not in old]
    expand = phase == "expand"
    if dropped and expand:
        yield "drops-data", f"it drops {', '.join(dropped)}, which a running release may read or write", WAIT
    for one in added:
        if expand and not (one.nullable or one.default or one.computed):
            hint = "Give it a DEFAULT, or let it be NULL until a later contract."
            yield (
                "not-null",
                f"{one.name} is NOT NULL without a default: the writes of an older release would fail",
                hint,
            )
    for name, one in new.items():
        then = old.get(name)
        if expand and then is not None and then.nullable and not one.nullable and not one.computed:
            yield "not-null", f"{one.name} becomes NOT NULL, and an older release may write NULL", WAIT
    if {one.lower() for one in after.primary} != {one.lower() for one in before.primary} or not (
        {one.lower() for one in before.key} <= set(new)
    ):
        yield (
            "primary-key",
            "it changes the key by which the copy follows its table",
            "Make a new table, and move to it.",
        )
    more = after.unique - before.unique
    if more:
        named = ", ".join("(" + ", ".join(one) + ")" for one in sorted(more))
        hint = "Write ALTER TABLE … ADD UNIQUE as a statement of its own: the server does that online, and refuses what is there twice."
        yield "unique", f"it makes {named} unique, and the copy would lose rows that are the same", hint
