"""Compares both shapes of every row, before a release relies on the new one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg import Connection

from crossfade.databases.postgres.connection import first_line
from crossfade.databases.postgres.rows import Span, row, way
from crossfade.domain.migrations.phases import Phase, Progress
from crossfade.domain.migrations.plan import Fill, quoted
from crossfade.ports.databases import Watch

CHUNK: Final = 20_000
SAMPLES: Final = 20
NO_EQUALITY: Final = ("json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle")


@dataclass
class Verification:
    """``unfilled`` rows have no new values; ``wrong`` ones have others than they should, or break a condition.

    ``checksum`` is over keys and new values of all rows, in any order. ``finished`` is False when it was cancelled.
    """

    rows: int = 0
    unfilled: int = 0
    wrong: int = 0
    samples: list[str] = field(default_factory=list)
    checksum: str = ""
    finished: bool = False

    @property
    def ok(self) -> bool:
        return self.finished and not self.unfilled and not self.wrong


def verify(connection: Connection[Any], fill: Fill, watch: Watch, schema: str) -> Verification:
    """Reads the whole table in parts; changes nothing."""
    found = Verification()
    path = way(connection, fill)
    fence, cursor, total, told, sum_ = path.fence(connection), None, 0, 0.0, 0
    types = _types(connection, fill)
    known = connection.execute("SELECT reltuples::bigint FROM pg_class WHERE oid = %s::regclass", (str(fill.table),))
    estimate = max(0, (known.fetchone() or (0,))[0])
    while fence is not None:
        if watch.cancel.is_set():
            return found
        span = path.span(connection, cursor, fence, CHUNK)
        if span is None:
            break
        sum_ = (sum_ + _chunk(connection, fill, span, path.shown, types, schema, found)) % 2**64
        cursor, total = span.cursor, found.rows
        if time.monotonic() - told > 0.25:
            told = time.monotonic()
            watch.progress(Progress(Phase.BACKFILLING, f"verify {fill.table}", total, max(estimate, total)))
    found.checksum, found.finished = f"{sum_:016x}", True
    return found


def _types(connection: Connection[Any], fill: Fill) -> dict[str, str]:
    """The type of each column: what is computed anew is cast to it, as it was when it was stored."""
    rows = connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0",
        (str(fill.table),),
    ).fetchall()
    return dict(rows)


def _differ(
    physical: str, expression: str, shape: Sequence[tuple[str, str]], alias: str, types: Mapping[str, str]
) -> str:
    type_ = types.get(physical, "text")
    text = "::text" if type_.removesuffix("[]").split("(")[0] in NO_EQUALITY else ""
    return (
        f"t.{quoted(physical)}{text} IS DISTINCT FROM (SELECT ({expression})::{type_}{text} FROM {row(shape, alias)})"  # noqa: S608 - names are quoted
    )


def _conditions(fill: Fill, types: Mapping[str, str]) -> tuple[str, str]:
    """SQL for whether a row is unfilled, and whether it is wrong."""
    marker = f"t.{quoted(fill.marker)}"
    wrong = []
    if fill.compared:
        ups = [_differ(p, e, fill.old, fill.alias, types) for p, e in fill.ups]
        downs = [_differ(p, e, fill.new, fill.alias, types) for p, e in fill.downs]
        if ups:
            wrong.append(f"({marker} = 1 AND ({' OR '.join(ups)}))")
        if downs:
            wrong.append(f"({marker} = 2 AND ({' OR '.join(downs)}))")
    for _, sql in fill.required:
        wrong.append(f"({marker} <> 0 AND (SELECT ({sql}) FROM {row(fill.new, fill.alias)}) IS FALSE)")  # noqa: S608 - as above
    return f"{marker} = 0", " OR ".join(wrong) or "false"


def _chunk(
    connection: Connection[Any],
    fill: Fill,
    span: Span,
    shown: str,
    types: Mapping[str, str],
    schema: str,
    found: Verification,
) -> int:
    unfilled, wrong = _conditions(fill, types)
    values = ", ".join(f"t.{quoted(physical)}::text" for physical, _ in fill.ups) or "''"
    of = f"FROM {fill.table} t WHERE {span.where}"
    query = (
        f"SELECT count(*), count(*) FILTER (WHERE {unfilled}), count(*) FILTER (WHERE {wrong}), "
        f"coalesce(sum(hashtextextended(concat_ws('|', {values}), 0)), 0) {of}"
    )
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL search_path = {quoted(schema)}, public".encode())
            rows, bare, bad, sum_ = connection.execute(query.encode()).fetchone() or (0, 0, 0, 0)
    except psycopg.DataError as error:
        # An expression raises where it is computed anew: as wrong as another value, and found row by row by the backfill.
        found.wrong += 1
        found.samples.append(f"{fill.table.name}: {first_line(error)}")
        return 0
    found.rows, found.unfilled, found.wrong = found.rows + rows, found.unfilled + bare, found.wrong + bad
    room = SAMPLES - len(found.samples)
    if (bare or bad) and room > 0:
        what = f"CASE WHEN {unfilled} THEN 'nobody could fill it' ELSE 'both shapes differ, or a condition fails' END"
        sample = f"SELECT {shown} || ': ' || {what} {of} AND (({unfilled}) OR ({wrong})) LIMIT {room}"
        with connection.transaction():
            connection.execute(f"SET LOCAL search_path = {quoted(schema)}, public".encode())
            found.samples += [one for (one,) in connection.execute(sample.encode()).fetchall()]
    return int(sum_)


def unfilled(connection: Connection[Any], fill: Fill) -> bool:
    """Whether any row has no new values."""
    query = f"SELECT EXISTS (SELECT 1 FROM {fill.table} WHERE {quoted(fill.marker)} = 0)"  # noqa: S608 - names are quoted
    found = connection.execute(query.encode()).fetchone()
    return bool(found and found[0])
