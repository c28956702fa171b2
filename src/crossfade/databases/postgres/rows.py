"""Ways through a table: by its key, in batches, or block by block where it has none. And the SQL over its shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from crossfade.domain.migrations.plan import Fill, Name, literal, quoted


def row(shape: Sequence[tuple[str, str]], alias: str) -> str:
    """A subquery of one row: the columns of a shape of the row ``t``, under their names."""
    columns = ", ".join(f"t.{quoted(physical)} AS {quoted(name)}" for name, physical in shape)
    return f"(SELECT {columns}) AS {quoted(alias)}"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a table: ``where`` as SQL over ``t``, and the cursor once it is done."""

    where: str
    cursor: Any


class Keyed:
    """By the primary key, or a unique one. Keys go as texts, so that any type can be one."""

    def __init__(self, table: Name, key: Sequence[tuple[str, str]]) -> None:
        self.table, self._key = table, key
        self._columns = ", ".join(f"t.{quoted(name)}" for name, _ in key)
        self._texts = ", ".join(f"t.{quoted(name)}::text" for name, _ in key)

    def values(self, key: Sequence[str]) -> str:
        """A key as SQL."""
        one = ", ".join(f"{literal(value)}::{type_}" for value, (_, type_) in zip(key, self._key, strict=True))
        return f"({one})" if len(self._key) == 1 else f"ROW({one})"

    @property
    def columns(self) -> str:
        return f"({self._columns})" if len(self._key) == 1 else f"ROW({self._columns})"

    @property
    def shown(self) -> str:
        """SQL for how a row is named to people."""
        return " || ', ' || ".join(f"{literal(name + '=')} || t.{quoted(name)}::text" for name, _ in self._key)

    def fence(self, connection: Connection[Any]) -> Any:
        """The greatest key now; None for an empty table."""
        down = ", ".join(f"t.{quoted(name)} DESC" for name, _ in self._key)
        found = connection.execute(f"SELECT {self._texts} FROM {self.table} t ORDER BY {down} LIMIT 1").fetchone()  # noqa: S608 - names are quoted
        return list(found) if found else None

    def span(self, connection: Connection[Any], cursor: Any, fence: Any, size: int) -> Span | None:
        """The next ``size`` rows up to the fence; None at its end."""
        after = f"{self.columns} > {self.values(cursor)} AND " if cursor is not None else ""
        inside = f"{after}{self.columns} <= {self.values(fence)}"
        query = f"SELECT {self._texts} FROM {self.table} t WHERE {inside} ORDER BY {self._columns} OFFSET {size - 1} LIMIT 1"  # noqa: S608 - as above
        found = connection.execute(query.encode()).fetchone()
        last = list(found) if found else list(fence)
        if cursor is not None and last == list(cursor):
            return None
        return Span(f"{after}{self.columns} <= {self.values(last)}", last)

    def halves(self, connection: Connection[Any], span: Span, cursor: Any, size: int) -> Span | None:
        """The first ``size`` rows of a span."""
        query = f"SELECT {self._texts} FROM {self.table} t WHERE {span.where} ORDER BY {self._columns} OFFSET {size - 1} LIMIT 1"  # noqa: S608 - as above
        found = connection.execute(query.encode()).fetchone()
        if not found:
            return None
        after = f"{self.columns} > {self.values(cursor)} AND " if cursor is not None else ""
        return Span(f"{after}{self.columns} <= {self.values(list(found))}", list(found))


class Blocks:
    """By the place of rows in the file. A row that moves meanwhile has been written, so its marker tells that it is done.

    A cursor is ``[number of the leaf, block]``: partitions are walked one after the other.
    """

    shown = "'ctid=' || t.ctid::text || ' of ' || t.tableoid::regclass::text"

    def __init__(self, table: Name, leaves: Sequence[tuple[int, int]]) -> None:
        self.table, self._leaves = table, leaves

    def fence(self, connection: Connection[Any]) -> Any:
        """Blocks of each leaf now."""
        found = []
        for oid, _ in self._leaves:
            size = connection.execute(
                "SELECT pg_relation_size(%s::oid) / current_setting('block_size')::bigint", (oid,)
            ).fetchone()
            found.append([oid, int(size[0]) if size else 0])
        return found or None

    def span(self, connection: Connection[Any], cursor: Any, fence: Any, size: int) -> Span | None:
        """The next blocks, about ``size`` rows."""
        del connection
        leaf, block = cursor if cursor is not None else (0, 0)
        while leaf < len(fence) and block >= fence[leaf][1]:
            leaf, block = leaf + 1, 0
        if leaf >= len(fence):
            return None
        oid, blocks = fence[leaf]
        per = max(1, dict(self._leaves).get(oid, 100))
        end = min(blocks, block + max(1, size // per))
        where = f"t.tableoid = {int(oid)} AND t.ctid >= '({block},0)'::tid AND t.ctid < '({end},0)'::tid"
        return Span(where, [leaf, end])


def leaves(connection: Connection[Any], table: Name) -> list[tuple[int, int]]:
    """The oids of a table that hold rows, with about how many rows a block of each has."""
    found = connection.execute(
        "SELECT c.oid::bigint, (CASE WHEN c.relpages > 0 AND c.reltuples > 0 THEN c.reltuples / c.relpages ELSE 100 END)::int"
        " FROM pg_partition_tree(%(t)s::regclass) p JOIN pg_class c ON c.oid = p.relid WHERE p.isleaf"
        " UNION SELECT c.oid::bigint, (CASE WHEN c.relpages > 0 AND c.reltuples > 0 THEN c.reltuples / c.relpages ELSE 100 END)::int"
        " FROM pg_class c WHERE c.oid = %(t)s::regclass AND c.relkind = 'r' ORDER BY 1",
        {"t": str(table)},
    ).fetchall()
    return [(oid, per) for oid, per in found]


def way(connection: Connection[Any], fill: Fill) -> Keyed | Blocks:
    """How to go through the table of a backfill."""
    return Keyed(fill.table, fill.key) if fill.key else Blocks(fill.table, leaves(connection, fill.table))
