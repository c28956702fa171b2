"""What a tool may have left behind when it was killed, by the names that only our changes have."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

import pymysql
from pymysql.connections import Connection

from crossfade.databases.mysql.connection import Place, code, impatiently, quoted, rows
from crossfade.databases.mysql.online import Change
from crossfade.domain.errors import Refused

OWN: Final = "^[[:space:]]*(insert low_priority|create |alter |[a-z]+ /[*] gh-ost)"
"""How the tools' own statements begin. A client that writes the table is shown with its trigger's, which name the copy too."""


def triggers(connection: Connection[Any], change: Change) -> list[str]:
    """Those that feed the copy."""
    found = rows(
        connection,
        "SELECT TRIGGER_NAME, ACTION_STATEMENT FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE()"
        " AND TRIGGER_NAME LIKE 'pt\\_osc\\_%'",
    )
    return sorted(name for name, body in found if quoted(change.new) in body)


def exists(connection: Connection[Any], table: str) -> bool:
    """Whether there is a table of that name."""
    query = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s"
    return bool(rows(connection, query, (table,)))


def sweep(connection: Connection[Any], where: Place, change: Change) -> None:
    """All that either tool made for a change that was not swapped, and what its sessions are still about to do.

    Not to be cancelled: a trigger that feeds a table which is gone would fail every write.
    """
    never = threading.Event()
    _end_sessions(connection, change)
    while found := triggers(connection, change):
        impatiently(connection, where, f"DROP TRIGGER IF EXISTS {quoted(found[0])}", never)
    tables = [change.new, change.ghost_log]
    if exists(connection, change.ghost):
        tables += [change.ghost_old, change.ghost]  # with the copy there, what is called old only holds the name
    for table in tables:
        if exists(connection, table):
            impatiently(connection, where, f"DROP TABLE IF EXISTS {quoted(table)}", never, patience=5.0)


def _end_sessions(connection: Connection[Any], change: Change) -> None:
    """A statement goes on in the server when its client was killed; it would make a trigger behind our back."""
    quiet, deadline = 0, time.monotonic() + 30
    while quiet < 2:
        found = rows(
            connection,
            "SELECT ID FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND DB = DATABASE() AND LOCATE(%s, INFO) > 0"
            " AND INFO REGEXP %s",
            (f"{change.stem}_", OWN),
        )
        for (number,) in found:
            try:
                rows(connection, f"KILL {int(number):d}")
            except pymysql.MySQLError as error:
                if code(error) != 1094:  # it has ended meanwhile
                    raise
        quiet = 0 if found else quiet + 1
        if time.monotonic() > deadline:
            raise Refused(
                f"Statements of a copy of {change.table} do not end.", hint="End them, then run it again: it goes on."
            )
        time.sleep(0.03)
