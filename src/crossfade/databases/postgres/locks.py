"""Runs groups of statements so that no writer waits long: a short lock timeout, and tries again, as a whole.

A statement that waits for a strong lock makes every later one wait behind it. So it waits for a tenth of a second at most; who
stands in its way is told, and after the last try all is as before.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg import Connection, errors

from crossfade.databases.postgres.connection import connect, explained, first_line
from crossfade.domain.errors import CrossfadeError, Refused
from crossfade.domain.migrations.plan import Group, How, Name, quoted
from crossfade.ports.databases import Watch

LOCK_TIMEOUT: Final = 0.1
TRIES: Final = 30
LONGEST_PAUSE: Final = 2.0
LOCKED: Final = (errors.LockNotAvailable, errors.DeadlockDetected, errors.ObjectInUse)
BLOCKERS: Final = """
SELECT DISTINCT b.pid, b.application_name, b.usename, b.state, b.xact_start, left(regexp_replace(b.query, '\\s+', ' ', 'g'), 120),
       b.backend_type
  FROM unnest(pg_blocking_pids(%s)) AS p(pid) JOIN pg_stat_activity b ON b.pid = p.pid WHERE b.pid <> pg_backend_pid()
"""
INVALID: Final = """
SELECT x.indisvalid AND x.indisready FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s
"""


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session that stands in the way of a lock. ``since`` is when its transaction began."""

    pid: int
    application: str
    user: str
    state: str
    since: str
    query: str
    backend: str

    def __str__(self) -> str:
        who = self.application or "a session"
        return f"{who} (pid {self.pid}, user {self.user}, {self.state}, in its transaction since {self.since}): {self.query}"


@dataclass
class Runner:
    """Runs groups on one connection. ``url`` is for a second one, that sees who is in the way."""

    url: str
    connection: Connection[Any]
    watch: Watch
    schema: str
    lock_timeout: float = LOCK_TIMEOUT
    tries: int = TRIES
    seen: set[int] = field(default_factory=set)
    blockers: list[Blocker] = field(default_factory=list)

    def run(self, groups: Sequence[Group], *, start: int, done: Callable[[int], None]) -> bool:
        """All groups from the ``start``-th on. ``done`` gets the index of each, within its transaction where it has one.

        False when cancelled in between. Raises Refused when a lock cannot be had or a statement fails, Unavailable.
        """
        for i, group in enumerate(groups):
            if i < start:
                continue
            if self.watch.cancel.is_set():
                return False
            self.watch.tell(group.title)
            match group.how:
                case How.TOGETHER:
                    self._tried(group.title, lambda group=group, i=i: self._together(group, i, done))  # type: ignore[misc]  # a lambda's defaults have no types
                case How.INDEX:
                    if not self._index(group):
                        return False
                    done(i)
                case How.ALONE:
                    for statement in group.statements:
                        self._tried(group.title, lambda statement=statement: self._alone(statement))  # type: ignore[misc]  # as above
                    done(i)
        return True

    def _together(self, group: Group, index: int, done: Callable[[int], None]) -> None:
        with self.connection.transaction():
            self._settings("SET LOCAL")
            for statement in group.statements:
                self.connection.execute(statement.encode())
            done(index)

    def _alone(self, statement: str) -> None:
        self._settings("SET")
        try:
            self.connection.execute(statement.encode())
        finally:
            if not self.connection.broken:
                self.connection.execute("RESET lock_timeout; RESET search_path; RESET statement_timeout")

    def _settings(self, word: str) -> None:
        timeout = int(self.lock_timeout * 1000)
        self.connection.execute(
            f"{word} lock_timeout = {timeout}; {word} statement_timeout = 0; {word} search_path = {quoted(self.schema)}, public"
        )

    def _tried(self, title: str, attempt: Callable[[], None]) -> None:
        """Tries until the locks are had. Who blocks is seen from a second connection while the first one waits."""
        for n in range(1, self.tries + 1):
            with _Looking(self):
                try:
                    with explained(title):
                        try:
                            attempt()
                        except LOCKED:
                            if n == self.tries:
                                raise _NoLock from None
                        else:
                            return
                except _NoLock:
                    break
            if n == 1:
                self.watch.tell(f"{title}: waits for a lock, and lets everybody else pass meanwhile")
            if self.watch.cancel.wait(min(LONGEST_PAUSE, 0.05 * 1.5**n) * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter
                raise Refused(f"{title}: cancelled while it waited for a lock; all is as before.")
            if self.watch.cancel_blockers and n > self.tries // 2:
                self._clear_the_way(terminate=n > self.tries * 3 // 4)
        found = [str(one) for one in self.blockers[-5:]]
        raise Refused(
            f"{title}: no lock after {self.tries} tries of {self.lock_timeout * 1000:.0f} ms; all is as before."
            + (f" In the way: {'; '.join(found)}." if found else ""),
            hint="End what is in the way, run it again when there is less to do, or give --cancel-blockers.",
            blockers=found,
        )

    def _clear_the_way(self, *, terminate: bool) -> None:
        verb = "pg_terminate_backend" if terminate else "pg_cancel_backend"
        for one in self.blockers:
            if one.backend == "client backend":
                self.watch.tell(f"{'ends' if terminate else 'cancels'} {one}")
                self.connection.execute(f"SELECT {verb}(%s)", (one.pid,))
        self.blockers.clear()
        self.seen.clear()

    def _index(self, group: Group) -> bool:
        """False when cancelled. CREATE INDEX CONCURRENTLY leaves an invalid index behind when it fails: found by the catalogue, never by its name alone."""
        assert group.index is not None  # of an INDEX group
        (create,) = group.statements
        valid = self._valid(group.index)
        if valid:
            return True  # built before a crash that came before its record
        if valid is False:
            self.watch.tell(f"{group.index.name} is an invalid leftover: dropped, and built again")
            self._tried(group.title, lambda: self._alone(f"DROP INDEX CONCURRENTLY IF EXISTS {group.index}"))
        try:
            with explained(group.title):
                try:
                    self.connection.execute("SET lock_timeout = 0; SET statement_timeout = 0")
                    with _Building(self, group.index):
                        self.connection.execute(create.encode())
                finally:
                    if not self.connection.broken:
                        self.connection.execute("RESET lock_timeout; RESET statement_timeout")
        except CrossfadeError as error:
            cause = error.__cause__
            if self.connection.broken:
                raise
            if self._valid(group.index) is False:
                self._tried(group.title, lambda: self._alone(f"DROP INDEX CONCURRENTLY IF EXISTS {group.index}"))
            if isinstance(cause, errors.UniqueViolation):
                raise Refused(
                    f"{group.title}: two rows are the same: {cause.diag.message_detail or first_line(cause)}",
                    hint="Change one of them, then run it again; or abort the migration.",
                ) from cause
            if isinstance(cause, errors.QueryCanceled) and self.watch.cancel.is_set():
                return False
            raise
        return True

    def _valid(self, index: Name) -> bool | None:
        """None: there is no such index."""
        found = self.connection.execute(INVALID, (index.schema, index.name)).fetchone()
        return None if found is None else bool(found[0])


class _NoLock(Exception):
    """The last try has failed."""


class _Beside:
    """Looks at the database from a second connection, while the first one is busy."""

    def __init__(self, runner: Runner, every: float) -> None:
        self._runner, self._every = runner, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="crossfade-beside", daemon=True)

    def __enter__(self) -> None:
        self._pid = self._runner.connection.info.backend_pid
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        if self._over.wait(self._every):
            return
        with suppress(Exception), connect(self._runner.url, name="crossfade watch") as connection:
            while not self._over.is_set():
                self.see(connection, self._pid)
                self._over.wait(self._every)

    def see(self, connection: Connection[Any], pid: int) -> None:
        raise NotImplementedError


class _Looking(_Beside):
    """Sees who blocks a statement."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner, 0.02)

    def see(self, connection: Connection[Any], pid: int) -> None:
        for blocker, application, user, state, since, query, backend in connection.execute(BLOCKERS, (pid,)):
            if blocker not in self._runner.seen:
                self._runner.seen.add(blocker)
                one = Blocker(
                    blocker, application, user, state or "", f"{since:%H:%M:%S}" if since else "?", query, backend
                )
                self._runner.blockers.append(one)
                self._runner.watch.tell(f"in the way: {one}")


class _Building(_Beside):
    """Tells how far an index is."""

    def __init__(self, runner: Runner, index: Name) -> None:
        super().__init__(runner, 1.0)
        self._index, self._told = index, ""

    def see(self, connection: Connection[Any], pid: int) -> None:
        row = connection.execute(
            "SELECT phase, blocks_done, blocks_total, lockers_total - lockers_done FROM pg_stat_progress_create_index WHERE pid = %s",
            (pid,),
        ).fetchone()
        if row is not None:
            share = f" {100 * row[1] // row[2]} %" if row[2] else ""
            waits = f", waits for {row[3]} transactions" if row[3] else ""
            text = f"{self._index.name}: {row[0]}{share}{waits}"
            if text != self._told:
                self._told = text
                self._runner.watch.tell(text)
        if self._runner.watch.cancel.is_set():
            connection.execute("SELECT pg_cancel_backend(%s)", (pid,))


def reconnecting(url: str, watch: Watch, patience: float = 60.0) -> Connection[Any]:
    """A connection to a database that may be starting just now. Raises Unavailable after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    told = False
    while True:
        try:
            return connect(url)
        except Exception as error:
            if getattr(error, "code", "") != "unavailable" or time.monotonic() > deadline or watch.cancel.wait(0.3):
                raise
            if not told:
                told = True
                watch.tell("the database does not answer: waits for it")
