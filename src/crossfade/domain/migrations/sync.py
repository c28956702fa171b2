"""The trigger that keeps every open shape of a table current, whichever version writes.

It is made anew whenever a migration is expanded, contracted or aborted, for the whole chain of open migrations. The writer's
version is the setting ``crossfade.version`` where somebody has set it, else ``current_schema()``, which knows a search path
of several entries; all else writes the oldest shape.

- A newer shape is computed from an older one by ``up`` when an older version inserts, or updates what ``up`` reads. So what a
  newer version has written is never overwritten by a lossy ``up`` for an update that has nothing to do with it.
- An ``up`` that raises, or whose result breaks a condition of the new shape, never fails the older version's write: the marker
  stays 0, and verification names the row.
- An older shape is computed by ``down`` when a newer version inserts, or updates what ``down`` reads. If that raises, the write
  fails: a rollback would lose it otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Final

from crossfade.domain.migrations.layer import Derived, Layer, Reshape
from crossfade.domain.migrations.plan import Fill, Name, literal, quoted

SCHEMA: Final = "crossfade"
TRIGGER: Final = "~crossfade"
"""Triggers fire in the order of their names: this one sees what the user's have done."""
WRITER: Final = "CASE coalesce(nullif(current_setting('crossfade.version', true), ''), current_schema())"
UNFILLED, FROM_OLD, FROM_NEW = 0, 1, 2


def function_name(table: Name) -> Name:
    """Of the trigger of a table: told apart from others of the same name by a digest."""
    digest = sha256(str(table).encode()).hexdigest()[:8]
    return Name(SCHEMA, f"sync_{table.name.encode()[:40].decode('utf-8', 'ignore')}_{digest}")


def reshaped(layers: Sequence[Layer]) -> tuple[Name, ...]:
    """The tables that need a trigger."""
    return tuple(dict.fromkeys(one.table for layer in layers for one in layer.reshapes))


def drop(table: Name) -> str:
    """Takes trigger and function away, when they are there."""
    return f"DROP FUNCTION IF EXISTS {function_name(table)} CASCADE"


def trigger(table: Name) -> str:
    """Puts the function to work."""
    return (
        f"CREATE TRIGGER {quoted(TRIGGER)} BEFORE INSERT OR UPDATE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION {function_name(table)}()"
    )


def function(table: Name, layers: Sequence[Layer]) -> str:
    """The trigger's function. ``layers`` are all open ones, oldest first."""
    mine = [(layer.position, one) for layer in layers for one in layer.reshapes if one.table == table]
    versions = " ".join(f"WHEN {literal(layer.schema)} THEN {layer.position}" for layer in layers)
    lines = [
        f"CREATE OR REPLACE FUNCTION {function_name(table)}() RETURNS trigger LANGUAGE plpgsql AS $crossfade$",
        "#variable_conflict use_column",
        "DECLARE",
        f"  _crossfade_writer integer := {WRITER} {versions} ELSE 0 END;",
        "  _crossfade_row record;",
        *(f"  _crossfade_touched_{position} boolean := false;" for position, _ in mine),
        "BEGIN",
        "  IF current_setting('crossfade.backfill', true) = 'on' THEN RETURN NEW; END IF;",
        *(line for position, one in mine for line in _catch_up(position, one)),
        *(line for position, one in reversed(mine) for line in _down(position, one)),
        *(line for position, one in mine for line in _up(position, one)),
        "  RETURN NEW;",
        "END $crossfade$",
    ]
    return "\n".join(lines)


def _new(physical: str) -> str:
    return f"NEW.{quoted(physical)}"


def _changed(reshape: Reshape, columns: Sequence[str]) -> str:
    """SQL: whether an update changes one of the columns."""
    texts = set(reshape.texts)

    def one(name: str) -> str:
        cast = "::text" if name in texts else ""
        return f"NEW.{quoted(name)}{cast} IS DISTINCT FROM OLD.{quoted(name)}{cast}"

    return " OR ".join(one(name) for name in columns) or "false"


def row(shape: Sequence[tuple[str, str]], alias: str, record: str) -> str:
    """A subquery of one row: the columns of a shape under their names, from a record or table."""
    columns = ", ".join(f"{record}.{quoted(physical)} AS {quoted(name)}" for name, physical in shape)
    return f"(SELECT {columns}) AS {quoted(alias)}"


def _assign(computed: Sequence[Derived], shape: Sequence[tuple[str, str]], alias: str) -> str:
    expressions = ", ".join(f"({one.expression})" for one in computed)
    targets = ", ".join(_new(one.physical) for one in computed)
    return f"SELECT {expressions} INTO {targets} FROM {row(shape, alias, 'NEW')};"


def _catch_up(position: int, one: Reshape) -> Iterator[str]:
    """A newer version updates a row that nobody has filled yet: what it does not set itself is computed."""
    if not one.marker:
        return
    touched = f"_crossfade_touched_{position}"
    yield f"  IF _crossfade_writer >= {position} AND TG_OP = 'UPDATE' THEN"
    yield f"    IF OLD.{quoted(one.marker)} = {UNFILLED} THEN"
    yield f"      {touched} := {_changed(one, [up.physical for up in one.ups])};"
    yield "      BEGIN"
    expressions = ", ".join(f"({up.expression}) AS c{i}" for i, up in enumerate(one.ups))
    yield f"        SELECT {expressions} INTO _crossfade_row FROM {row(one.old, one.alias, 'NEW')};"
    for i, up in enumerate(one.ups):
        unchanged = _changed(one, [up.physical])
        yield f"        IF NOT ({unchanged}) THEN {_new(up.physical)} := _crossfade_row.c{i}; END IF;"
    yield f"        {_new(one.marker)} := {FROM_OLD};"
    yield from _judged(one, "        ")
    yield f"      EXCEPTION WHEN OTHERS THEN {_new(one.marker)} := {UNFILLED};"
    yield "      END;"
    yield "    END IF;"
    yield "  END IF;"


def _down(position: int, one: Reshape) -> Iterator[str]:
    made = [up.physical for up in one.ups]
    watched = list(dict.fromkeys([*made, *(i for down in one.downs for i in down.inputs)]))
    if not one.downs and not one.marker:
        return
    when = f"TG_OP = 'INSERT' OR _crossfade_touched_{position} OR {_changed(one, watched)}"
    yield f"  IF _crossfade_writer >= {position} THEN IF {when} THEN"
    if one.downs:
        yield f"    {_assign(one.downs, one.new, one.renamed)}"
    if one.marker:
        yield f"    {_new(one.marker)} := {FROM_NEW};"
    yield "  END IF; END IF;"


def _up(position: int, one: Reshape) -> Iterator[str]:
    if not one.ups:
        return
    inputs = list(dict.fromkeys(i for up in one.ups for i in up.inputs))
    when = f"TG_OP = 'INSERT' OR OLD.{quoted(one.marker)} = {UNFILLED} OR {_changed(one, inputs)}"
    yield f"  IF _crossfade_writer < {position} THEN IF {when} THEN"
    yield "    BEGIN"
    yield f"      {_assign(one.ups, one.old, one.alias)}"
    yield f"      {_new(one.marker)} := {FROM_OLD};"
    yield from _judged(one, "      ")
    yield f"    EXCEPTION WHEN OTHERS THEN {_new(one.marker)} := {UNFILLED};"
    yield "    END;"
    yield "  END IF; END IF;"


def _judged(one: Reshape, indent: str) -> Iterator[str]:
    """A row that breaks a condition of the new shape counts as not filled."""
    for condition in one.conditions:
        clear = "".join(f" {_new(physical)} := NULL;" for physical in condition.columns) if condition.lookup else ""
        yield (
            f"{indent}IF (SELECT ({condition.sql}) FROM {row(one.new, one.renamed, 'NEW')}) IS FALSE "
            f"THEN {_new(one.marker)} := {UNFILLED};{clear} END IF;"
        )


def fill(one: Reshape) -> Fill:
    """What is backfilled and verified of a reshape that has a marker."""
    return Fill(
        one.table,
        one.marker,
        one.key,
        tuple((up.physical, up.expression) for up in one.ups),
        tuple((down.physical, down.expression) for down in one.downs),
        one.old,
        one.new,
        one.alias,
        tuple((condition.title, condition.sql) for condition in one.conditions),
        one.compared,
    )
