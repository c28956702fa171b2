"""What operations may do to releases that run, as far as the file alone tells. The planner knows more: it has the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from crossfade.domain.migrations import operations as ops
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.plan import Hazard
from crossfade.domain.migrations.sql import is_constant

Found = Iterator[tuple[str, str, str, bool]]
"""Code, sentence, hint, and whether it is refused."""


def hazards(migration: Migration) -> tuple[Hazard, ...]:
    """Of each operation, in order."""
    found = []
    for i, operation in enumerate(migration.operations):
        look = LOOKS.get(type(operation))
        name = "".join(
            f"_{c.lower()}" if c.isupper() and n else c.lower() for n, c in enumerate(type(operation).__name__)
        )
        for code, sentence, hint, blocks in look(operation) if look is not None else ():
            found.append(Hazard(code, f"{migration.source}: operations[{i}].{name}", sentence, hint, blocks))
    return tuple(found)


def _add_column(op: ops.AddColumn) -> Found:
    column = op.column
    filled = column.default is not None or op.up is not None or column.identity is not None
    if not column.nullable and not filled and "serial" not in column.type.lower():
        yield (
            "not-null-without-up",
            f"older releases do not know {column.name}, which is not nullable",
            "Give `up` or a default.",
            True,
        )
    if column.default is not None and op.up is None and not is_constant(column.default):
        yield "volatile-default", f"the default of {column.name} is computed for every row, by a backfill", "", False
    if column.unique:
        yield "unique-old-writers", f"writes of older releases that make {column.name} the same twice fail", "", False


def _drop_column(op: ops.DropColumn) -> Found:
    yield "drops-data", f"the contract drops {op.table}.{op.column} with its data", "", False
    if op.down is None:
        yield (
            "old-value",
            f"older releases read no value in {op.column} of rows that newer ones insert",
            "Give `down`.",
            False,
        )


def _drop_table(op: ops.DropTable) -> Found:
    yield "drops-data", f"the contract drops {op.name} with its data", "", False


def _alter_column(op: ops.AlterColumn) -> Found:
    if op.type is not None and op.up is None:
        yield "implied-up", f"{op.column} is cast to {op.type}", "Give `up` where a cast is not what you mean.", False
    if op.type is not None and op.down is None:
        yield "implied-down", "writes of newer releases are cast back", "Give `down` too.", False
    if op.nullable is False and op.up is None:
        yield (
            "not-null-without-up",
            f"{op.column} may be null now",
            "Give `up`: an expression that is never null.",
            True,
        )
    if op.unique is not None:
        yield "unique-old-writers", f"writes of older releases that break {op.unique} fail", "", False


def _create_constraint(op: ops.CreateConstraint) -> Found:
    made = op.constraint
    if made.kind == "unique":
        yield "unique-old-writers", f"writes of older releases that break {made.name} fail", "", False
    elif made.kind in ("check", "foreign_key") and not op.up:
        code = "check-old-writers" if made.kind == "check" else "fk-old-writers"
        yield code, f"writes of older releases that break {made.name} fail at once", "Give `up` and `down`.", False


def _drop_constraint(op: ops.DropConstraint) -> Found:
    if not op.down:
        yield (
            "down-missing",
            f"writes of newer releases that break {op.name} fail until the contract",
            "Give `down`.",
            False,
        )


def _create_index(op: ops.CreateIndex) -> Found:
    if op.unique:
        yield "unique-old-writers", f"writes of older releases that break {op.name} fail", "", False


def _sql(_: ops.Sql) -> Found:
    yield (
        "plain-sql",
        "nobody knows what this SQL does to older releases",
        "Say it by operations where one does the same.",
        False,
    )


def _enum(op: ops.AddEnumValues) -> Found:
    yield (
        "enum-stays",
        f"values of {op.type} cannot be taken back, and older releases read them",
        "replace_enum maps them.",
        False,
    )


LOOKS: Final[dict[type, Callable[[Any], Found]]] = {
    ops.AddColumn: _add_column,
    ops.DropColumn: _drop_column,
    ops.DropTable: _drop_table,
    ops.AlterColumn: _alter_column,
    ops.CreateConstraint: _create_constraint,
    ops.DropConstraint: _drop_constraint,
    ops.CreateIndex: _create_index,
    ops.Sql: _sql,
    ops.AddEnumValues: _enum,
}
