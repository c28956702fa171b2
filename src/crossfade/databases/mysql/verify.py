"""Compares a table with its copy while both are written: each part in one statement, which sees both at one moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pymysql.connections import Connection

from crossfade.databases.mysql.connection import quoted, rows
from crossfade.databases.mysql.inspection import Column, Table, read
from crossfade.ports.pipeline import Cancel

TARGET: Final = 0.25
"""Seconds that a part should take."""
SMALLEST, LARGEST, FIRST = 100, 50_000, 2000
SAMPLES: Final = 20


@dataclass(slots=True)
class Found:
    """``wrong`` counts the parts' differences; ``samples`` are rows by their key, with what is wrong with them."""

    rows: int = 0
    wrong: int = 0
    checksum: int = 0
    samples: list[str] = field(default_factory=list)
    finished: bool = True


def verify(
    connection: Connection[Any], name: str, copy: str, cancel: Cancel, tell: Callable[[int], None] = lambda _: None
) -> Found:
    """All rows; ``finished`` is False when cancelled. ``tell`` is given the rows that were compared so far."""
    old, new = read(connection, name), read(connection, copy)
    found, after, size = Found(), None, FIRST
    while True:
        if cancel.is_set():
            found.finished = False
            return found
        began = time.monotonic()
        until = _until(connection, old, after, size)
        _part(connection, old, new, after, until, found)
        tell(found.rows)
        if until is None:
            return found
        after = until
        size = max(
            SMALLEST, min(LARGEST, int(size * min(2.0, max(0.5, TARGET / max(time.monotonic() - began, 0.001)))))
        )


def _until(connection: Connection[Any], table: Table, after: Sequence[Any] | None, size: int) -> Sequence[Any] | None:
    """The last key of the next part; None for the last part, which is all that comes."""
    keys = ", ".join(_q(one) for one in table.key)
    where, values = _between(table.key, after, None)
    query = f"SELECT {keys} FROM {_q(table.name)} WHERE {where} ORDER BY {keys} LIMIT {size - 1}, 1"  # noqa: S608 - names are quoted
    found = rows(connection, query, values)
    return found[0] if found else None


def _part(
    connection: Connection[Any],
    old: Table,
    new: Table,
    after: Sequence[Any] | None,
    until: Sequence[Any] | None,
    found: Found,
) -> None:
    where, values = _between(old.key, after, until)
    o_where, _ = _between(old.key, after, until, "o.")
    joined = " AND ".join(f"n.{_q(one)} <=> o.{_q(one)}" for one in old.key)
    differs = " OR ".join([f"n.{_q(old.key[0])} IS NULL", *(f"NOT ({_same(a, b)})" for a, b in _pairs(old, new))])
    every = ", ".join(f"CAST(COALESCE(o.{_q(a.name)}, '') AS BINARY)" for a, _ in _pairs(old, new))
    query = (
        f"SELECT COUNT(*), COALESCE(SUM({differs}), 0), COALESCE(BIT_XOR(CRC32(CONCAT_WS('#', {every}))), 0),"  # noqa: S608 - names are quoted
        f" (SELECT COUNT(*) FROM {_q(new.name)} WHERE {where}) FROM {_q(old.name)} o LEFT JOIN {_q(new.name)} n ON {joined} WHERE {o_where}"
    )
    count, wrong, checksum, copied = rows(connection, query, (*values, *values))[0]
    found.rows += int(count)
    found.checksum ^= int(checksum)
    surplus = abs(int(copied) - int(count)) if not wrong else 0
    found.wrong += int(wrong) + surplus
    if (wrong or surplus) and len(found.samples) < SAMPLES:
        shown = f"CONCAT_WS(', ', {', '.join(f'o.{_q(one)}' for one in old.key)})"
        reasons = " ".join(f"WHEN NOT ({_same(a, b)}) THEN {_text(a.name)}" for a, b in _pairs(old, new))
        why = f"CASE WHEN n.{_q(old.key[0])} IS NULL THEN '' {reasons} END"
        query = (
            f"SELECT {shown}, {why} FROM {_q(old.name)} o LEFT JOIN {_q(new.name)} n ON {joined}"  # noqa: S608 - names are quoted
            f" WHERE {o_where} AND ({differs}) LIMIT {SAMPLES}"
        )
        for key, column in rows(connection, query, values):
            found.samples.append(f"{key}: {f'{column} differs' if column else 'it is missing in the copy'}")


def _pairs(old: Table, new: Table) -> list[tuple[Column, Column]]:
    """Columns of both that are written, not computed."""
    later = new.named()
    both = [(one, later[one.name.lower()]) for one in old.columns if one.name.lower() in later]
    return [(a, b) for a, b in both if not a.computed and not b.computed]


def _same(a: Column, b: Column) -> str:
    one, other = f"o.{_q(a.name)}", f"n.{_q(b.name)}"
    if a.collation or b.collation or "json" in (a.type, b.type):  # texts are the same when all their characters are
        one, other = (f"CAST(CONVERT({each} USING utf8mb4) AS BINARY)" for each in (one, other))
    return f"{one} <=> {other}"


def _between(
    key: Sequence[str], after: Sequence[Any] | None, until: Sequence[Any] | None, prefix: str = ""
) -> tuple[str, list[Any]]:
    """A range of keys, written out: the server reads a row value's comparison without its index."""
    parts: list[str] = []
    values: list[Any] = []
    for bound, sign, last in ((after, ">", ">"), (until, "<", "<=")):
        if bound is None:
            continue
        branches = []
        for i in range(len(key)):
            same = [f"{prefix}{_q(one)} = %s" for one in key[:i]]
            branches.append(" AND ".join([*same, f"{prefix}{_q(key[i])} {last if i == len(key) - 1 else sign} %s"]))
            values += bound[: i + 1]
        # The first column's own bound, so that the index is used however many branches there are.
        parts.append(f"{prefix}{_q(key[0])} {sign}= %s AND ({' OR '.join(f'({one})' for one in branches)})")
        values.insert(len(values) - sum(range(1, len(key) + 1)), bound[0])
    return " AND ".join(parts) or "1 = 1", values


def _q(name: str) -> str:
    """For a query that has values, where a % is doubled."""
    return quoted(name).replace("%", "%%")


def _text(name: str) -> str:
    return "'" + name.replace("\\", "\\\\").replace("'", "''").replace("%", "%%") + "'"
