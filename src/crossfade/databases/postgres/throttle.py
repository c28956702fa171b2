"""When a backfill should wait: each reason is a question to the database, and a sentence."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection, errors

from crossfade.domain.migrations.plan import Name
from crossfade.ports.databases import Watch

EVERY: Final = 0.5
"""Seconds between two looks."""
LAG: Final = """
SELECT coalesce(max(extract(epoch FROM replay_lag)), 0)::float8,
       coalesce(max(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_lsn() END, replay_lsn)), 0)::float8,
       (array_agg(application_name ORDER BY replay_lag DESC NULLS LAST))[1] FROM pg_stat_replication
"""
OLDEST: Final = """
SELECT coalesce(extract(epoch FROM now() - min(xact_start)), 0)::float8, (array_agg(pid ORDER BY xact_start))[1]
  FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
   AND backend_type = 'client backend' AND application_name NOT LIKE 'crossfade%%'
"""
WAITERS: Final = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
VACUUM: Final = (
    "SELECT count(*) FROM pg_stat_progress_vacuum WHERE relid = %s::regclass AND datname = current_database()"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Above which a backfill waits: seconds and bytes a replica is behind, seconds of the oldest transaction, lock waiters."""

    lag: float = 5.0
    behind: float = 256 * 2**20
    oldest: float = 300.0
    waiters: int = 0


class Throttle:
    """Asked between batches; looks at the database at most twice a second."""

    def __init__(self, watch: Watch, table: Name, limits: Limits | None = None) -> None:
        self._watch, self._table, self._limits = watch, str(table), limits or Limits()
        self._looked, self._said = -EVERY, ""

    def why(self, connection: Connection[Any], paused: bool) -> str:
        """Why to wait now, empty when there is no reason."""
        if paused:
            return "paused"
        now = time.monotonic()
        if now - self._looked >= EVERY:
            self._looked = now
            self._said = self._watch.throttle() or self._look(connection)
        return self._said

    def _look(self, connection: Connection[Any]) -> str:
        limits = self._limits
        try:
            lag, behind, name = connection.execute(LAG).fetchone() or (0.0, 0.0, "")
        except errors.InsufficientPrivilege:
            lag, behind, name = 0.0, 0.0, ""
        if lag > limits.lag:
            return f"replica {name} is {lag:.1f} s behind"
        if behind > limits.behind:
            return f"replica {name} is {behind / 2**20:.0f} MiB behind"
        oldest, pid = connection.execute(OLDEST).fetchone() or (0.0, None)
        if oldest > limits.oldest:
            return f"a transaction of pid {pid} is open for {oldest:.0f} s, and keeps dead rows"
        if self._count(connection, WAITERS) > limits.waiters:
            return f"somebody waits for a lock of {self._table}"
        if self._count(connection, VACUUM):
            return f"{self._table} is being vacuumed"
        return ""

    def _count(self, connection: Connection[Any], query: str) -> int:
        found = connection.execute(query, (self._table,)).fetchone()
        return int(found[0]) if found else 0
