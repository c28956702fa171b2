"""Fills the new shape of rows that were there before: in batches that adapt, each committed with its cursor."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import psycopg
from psycopg import Connection, errors

from crossfade.databases.postgres.connection import explained, first_line
from crossfade.databases.postgres.ledger import Ledger
from crossfade.databases.postgres.rows import Blocks, Keyed, Span, row, way
from crossfade.databases.postgres.throttle import Limits, Throttle
from crossfade.domain.errors import Refused
from crossfade.domain.migrations.phases import Phase, Progress
from crossfade.domain.migrations.plan import Fill, quoted
from crossfade.ports.databases import Watch

TARGET: Final = 0.05
"""Seconds that a batch should take: writers of its rows wait so long at most."""
SMALLEST, LARGEST, FIRST = 50, 20_000, 1000
TELL_EVERY: Final = 0.25
SAMPLES: Final = 20
MOST_FAILURES: Final = 1000
"""Rows that cannot be filled after which it gives up: not single rows are wrong then, but the expression is."""
RETRIED: Final = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)
PASSING: Final = (psycopg.OperationalError, psycopg.InterfaceError)


class TooManyFailures(Exception):
    """Nothing more is to be learnt from the rest."""


class Backfill:
    """Of one table. ``connect`` makes a connection, again when the server has restarted in between."""

    def __init__(
        self,
        connect: Callable[[], Connection[Any]],
        position: int,
        fill: Fill,
        watch: Watch,
        schema: str,
        limits: Limits | None = None,
    ) -> None:
        self._connect, self._position, self._fill, self._watch = connect, position, fill, watch
        self._schema = schema
        self._throttle = Throttle(watch, fill.table, limits)
        self._size = FIRST
        self._rates: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._told = 0.0
        self._done = self._total = 0
        self.failed: list[str] = []
        self.failures = 0

    def run(self) -> bool:
        """To its end; False when cancelled. Rows that cannot be filled are passed over: see ``failed``. Raises Unavailable."""
        while True:
            connection = self._connect()
            try:
                with explained(f"backfill of {self._fill.table.name}"):
                    return self._run(connection)
            except TooManyFailures:
                return True  # what was found is told, and nothing relies on the rest
            except Exception as error:
                passing = isinstance(error.__cause__, PASSING) and not isinstance(error.__cause__, errors.DiskFull)
                if not passing or not (connection.broken or connection.closed):
                    raise
                self._watch.tell("the database went away in the middle of the backfill: goes on when it is back")
            finally:
                connection.close()

    def _run(self, connection: Connection[Any]) -> bool:
        ledger = Ledger(connection)
        walk = ledger.walk(self._position, self._fill)
        if walk.finished:
            return True
        path = way(connection, self._fill)
        fence, cursor = walk.fence, walk.cursor
        if fence is None:
            fence = path.fence(connection)
            ledger.fence(self._position, self._fill.table, fence, self._estimate(connection))
            walk = ledger.walk(self._position, self._fill)
        self._done, self._total = walk.done, walk.total
        replica = self._may_be_replica(connection)
        while fence is not None:
            if self._watch.cancel.is_set():
                return False
            why = self._throttle.why(connection, ledger.paused(self._position))
            if why:
                self._tell(waits=why)
                if self._watch.cancel.wait(0.2):
                    return False
                continue
            span = path.span(connection, cursor, fence, self._size)
            if span is None:
                break
            began = time.monotonic()
            self._batch(connection, ledger, path, cursor, span, replica)
            cursor = span.cursor
            took = time.monotonic() - began
            self._adapt(took)
            self._tell()
            if self._watch.duty < 1 and self._watch.cancel.wait(took * (1 - self._watch.duty) / self._watch.duty):
                return False
        ledger.finished(self._position, self._fill.table)
        self._tell(force=True)
        return True

    def _adapt(self, took: float) -> None:
        factor = min(2.0, max(0.5, TARGET / max(took, 0.001)))
        self._size = max(SMALLEST, min(LARGEST, int(self._size * factor)))

    def _estimate(self, connection: Connection[Any]) -> int:
        found = connection.execute(
            "SELECT sum(greatest(c.reltuples, 0))::bigint FROM pg_class c WHERE c.oid = %(t)s::regclass OR c.oid IN"
            " (SELECT relid FROM pg_partition_tree(%(t)s::regclass) WHERE isleaf)",
            {"t": str(self._fill.table)},
        ).fetchone()
        return int(found[0] or 0) if found else 0

    @staticmethod
    def _may_be_replica(connection: Connection[Any]) -> bool:
        """Whether the user's own triggers can be left out: they know nothing of what a backfill writes."""
        try:
            with connection.transaction():
                connection.execute("SET LOCAL session_replication_role = replica")
        except errors.InsufficientPrivilege:
            return False
        return True

    def _begin(self, connection: Connection[Any], replica: bool) -> None:
        settings = (
            "SET LOCAL crossfade.backfill = 'on'; SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = 0; "
        )
        settings += f"SET LOCAL search_path = {quoted(self._schema)}, public; SET LOCAL synchronous_commit = off"
        connection.execute((settings + ("; SET LOCAL session_replication_role = replica" if replica else "")).encode())

    def statement(self, where: str) -> str:
        """Fills the rows of a part. The subquery is correlated, so that a row which was locked by a writer is seen as it left it.

        Its condition makes it depend on the row: without, a random default would be computed once, for all rows.
        """
        fill = self._fill
        columns = ", ".join([*(quoted(physical) for physical, _ in fill.ups), quoted(fill.marker)])
        values = ", ".join([*(f"({sql})" for _, sql in fill.ups), "1"])
        source = row(fill.old, fill.alias)
        return (
            f"UPDATE {fill.table} AS t SET ({columns}) = (SELECT {values} FROM {source} WHERE t.{quoted(fill.marker)} = 0) "  # noqa: S608 - names are quoted, expressions the user's
            f"WHERE {where} AND t.{quoted(fill.marker)} = 0"
        )

    def _batch(
        self, connection: Connection[Any], ledger: Ledger, path: Keyed | Blocks, cursor: Any, span: Span, replica: bool
    ) -> None:
        try:
            rows, bad = self._write(connection, span.where, replica), 0
        except psycopg.Error as error:
            if not _of_the_rows(error):
                raise
            rows, bad = self._one_by_one(connection, path, span, replica)
        ledger.walked(self._position, self._fill.table, span.cursor, rows, bad)
        self._done += rows
        self.failures += bad
        if self.failures > MOST_FAILURES:
            raise TooManyFailures
        del cursor

    def _write(self, connection: Connection[Any], where: str, replica: bool) -> int:
        statement = self.statement(where).encode()
        for n in range(50):
            try:
                with connection.transaction():
                    self._begin(connection, replica)
                    return connection.execute(statement).rowcount
            except RETRIED:
                if self._watch.cancel.wait(min(1.0, 0.02 * 1.5**n)):
                    return 0
        raise Refused(
            f"backfill of {self._fill.table.name}: rows are locked for a minute.",
            hint="End the transaction that holds them, then run it again: it goes on.",
        )

    def _one_by_one(
        self, connection: Connection[Any], path: Keyed | Blocks, span: Span, replica: bool
    ) -> tuple[int, int]:
        """The rows of a part of which at least one cannot be filled: halved until the bad ones are alone."""
        fill = self._fill
        query = f"SELECT t.ctid, t.tableoid, {path.shown} FROM {fill.table} t WHERE {span.where} AND t.{quoted(fill.marker)} = 0"  # noqa: S608 - names are quoted
        places = connection.execute(query.encode()).fetchall()
        return self._halved(connection, places, replica)

    def _halved(
        self, connection: Connection[Any], places: list[tuple[Any, Any, str]], replica: bool
    ) -> tuple[int, int]:
        if not places:
            return 0, 0
        ctids = ", ".join(f"'{ctid}'::tid" for ctid, _, _ in places)
        oids = ", ".join(str(int(oid)) for oid in {oid for _, oid, _ in places})
        where = f"t.ctid = ANY(ARRAY[{ctids}]) AND t.tableoid IN ({oids})"
        try:
            return self._write(connection, where, replica), 0
        except psycopg.Error as error:
            if not _of_the_rows(error):
                raise
            if len(places) == 1:
                if len(self.failed) < SAMPLES:
                    self.failed.append(f"{places[0][2]}: {first_line(error)}")
                return 0, 1
        if len(self.failed) >= SAMPLES and self.failures > MOST_FAILURES:
            return 0, len(places)
        middle = len(places) // 2
        one = self._halved(connection, places[:middle], replica)
        other = self._halved(connection, places[middle:], replica)
        return one[0] + other[0], one[1] + other[1]

    def _tell(self, *, waits: str = "", force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._told < TELL_EVERY:
            return
        self._told = now
        self._rates.append((now, self._done))
        while len(self._rates) > 2 and now - self._rates[0][0] > 5:
            self._rates.popleft()
        (then, before), seconds = self._rates[0], now - self._rates[0][0]
        rate = (self._done - before) / seconds if seconds > 0 and self._done > before else 0.0
        total = max(self._total, self._done)
        eta = (total - self._done) / rate if rate > 0 else None
        del then
        self._watch.progress(
            Progress(Phase.BACKFILLING, str(self._fill.table), self._done, total, round(rate, 1), eta, waits)
        )


def _of_the_rows(error: psycopg.Error) -> bool:
    """Whether an error comes from the values of a row: data (22), integrity (23), a function of the user's (P0), or a cast."""
    state = error.sqlstate or ""
    return state[:2] in ("22", "23", "P0", "38", "39") or state in ("42883", "42804", "XX000", "2200")
