"""`ports.databases.Database` for MySQL and MariaDB: each ALTER on a copy of its table, which takes its place once it is verified.

There are no views with triggers there, and DDL is no part of a transaction. So a migration is SQL with phases, and both an older
release and a newer one must be able to run on what ``expand`` leaves. The swap is the last thing that ``backfill`` does.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pymysql
from pymysql.connections import Connection

from crossfade.databases.mysql import inspection
from crossfade.databases.mysql.connection import (
    LOCKED,
    TRIES,
    Place,
    alone,
    code,
    connect,
    explained,
    place,
    rows,
    said,
    value,
)
from crossfade.databases.mysql.copying import Copying
from crossfade.databases.mysql.ghost import PROGRAM as GHOST
from crossfade.databases.mysql.ghost import Ghost, has_foreign_keys, refuse_for_ghost
from crossfade.databases.mysql.ledger import Ledger, Row
from crossfade.databases.mysql.online import Change, OnlineChange
from crossfade.databases.mysql.percona import Limits, Percona
from crossfade.databases.mysql.statements import Direct, Steps, short, steps
from crossfade.domain.errors import Invalid, Refused
from crossfade.domain.migrations.applied import check_applied, not_applied
from crossfade.domain.migrations.operations import Migration, Phased
from crossfade.domain.migrations.phases import OPEN, Phase, Record
from crossfade.domain.migrations.plan import Fill, Group, Hazard, How, Name, Plan
from crossfade.ports.databases import Watch

THERE: Final = frozenset((1050, 1060, 1061, 1091, 1051, 1826))
"""Codes of a statement that was done already: exists, or is gone."""
GONE: Final = frozenset((1051, 1054, 1091, 1146))
TOOLS: Final = ("auto", "percona", "ghost")
UNFINISHED: Final = (Phase.EXPANDING, Phase.EXPANDED, Phase.BACKFILLING)


class MysqlDatabase:
    """One database. ``tool``: ``percona`` (pt-online-schema-change), ``ghost`` (gh-ost), or ``auto``: gh-ost where it is on PATH.

    ``throttle_http`` is a URL that answers 200 while gh-ost may work: it asks ten times a second.
    """

    def __init__(self, url: str, *, tool: str = "auto", limits: Limits | None = None, throttle_http: str = "") -> None:
        if tool not in TOOLS:
            raise Invalid("tool", tool, ", ".join(TOOLS))
        self._place, self._tool, self._limits, self._http = place(url), tool, limits, throttle_http

    def describe(self) -> str:
        """See the port."""
        with self._connected() as connection:
            version = str(value(connection, "SELECT VERSION()"))
            kind = "MariaDB" if "mariadb" in version.lower() else "MySQL"
            at = self._place.socket or f"{self._place.host}:{self._place.port}"
            return f"{kind} {version.partition('-')[0]} at {at}/{self._place.database}"

    def ledger(self) -> Sequence[Record]:
        """See the port."""
        with self._connected() as connection, explained("ledger"):
            return Ledger(connection).records()

    def check(self, migrations: Sequence[Migration]) -> None:
        """See the port."""
        check_applied(migrations, self.ledger())

    def plan(self, migrations: Sequence[Migration]) -> Sequence[Plan]:
        """See the port. What changes a table that an earlier one makes or changes is tried only when that was applied."""
        with self._connected() as connection, explained("plan"):
            records = Ledger(connection).records()
            check_applied(migrations, records)
            plans: list[Plan] = []
            coming: set[str] = set()
            for migration in not_applied(migrations, records):
                plans.append(self._planned(connection, migration, sorted(coming)))
                made = _filling(_sql(migration), migration.source)
                coming |= {one.table for one in (*made.before, *made.after)} | {one.table for one in made.copies}
            return plans

    def expand(self, migration: Migration, watch: Watch) -> None:
        """See the port. The copies are made by `backfill`, whose call holds the tool that makes them."""
        with self._working("expand") as (connection, ledger):
            staying = [row for row in ledger.rows() if row.phase is not Phase.ABORTED]
            known = next((row for row in staying if row.version == migration.version), None)
            if known is not None and known.phase is not Phase.EXPANDING:
                return
            check_applied([migration], ledger.records(), whole=False)
            others = [row for row in staying if row.version != migration.version]
            for row in others:
                if row.phase is Phase.ABORTING:
                    hint = f"Finish it first: crossfade migrate abort {row.version}"
                    raise Refused(f"{row.version} is being aborted.", hint=hint)
                if row.phase in UNFINISHED:
                    hint = f"Finish it first: crossfade migrate backfill {row.version}"
                    raise Refused(f"{row.version} is {row.phase}, and {migration.version} comes after it.", hint=hint)
            filling = _filling(_sql(migration), migration.source)
            if self._tool == "ghost":
                for copy in filling.copies:
                    refuse_for_ghost(connection, self._place, copy.table)
            if known is None:
                plan = self._planned(connection, migration)
                _refuse(migration.version, plan.hazards)
                for hazard in plan.hazards:
                    watch.tell(f"note: {hazard.sentence}")
                ledger.begin(migration.version, migration.checksum, migration.source, _sql(migration))
            row = ledger.row(migration.version)
            try:
                done = self._direct(connection, ledger, row, filling.before, watch, resumed=known is not None)
            except Refused:
                if known is None and not ledger.row(migration.version).step:
                    ledger.remove(row.position)  # nothing was changed
                raise
            if done:
                ledger.phase(row.position, Phase.EXPANDED)

    def backfill(self, version: str, watch: Watch) -> bool:
        """See the port. Its end is the swap: the last moment before releases that need the new shape."""
        with self._working("backfill") as (connection, ledger):
            row = ledger.row(version)
            if row.phase is Phase.EXPANDING:
                raise Refused(f"{version} is not expanded yet.", hint="crossfade migrate expand goes on with it.")
            if row.phase not in (Phase.EXPANDED, Phase.BACKFILLING):
                return True
            resumed = row.phase is Phase.BACKFILLING
            if not resumed:
                ledger.phase(row.position, Phase.BACKFILLING)
            filling = _filling(row.sql, row.source)
            if not self._copying(connection, ledger, row, "expand", filling, watch).run():
                return False
            if not self._direct(connection, ledger, ledger.row(version), filling.after, watch, resumed=resumed):
                return False
            ledger.trouble(row.position, "")
            ledger.phase(row.position, Phase.VERIFIED)
            return True

    def contract(self, version: str, watch: Watch) -> None:
        """See the port."""
        with self._working("contract") as (connection, ledger):
            row = ledger.row(version)
            if row.phase is Phase.CONTRACTED:
                return
            if row.phase not in (Phase.VERIFIED, Phase.CONTRACTING):
                raise Refused(f"{version} is {row.phase}: its backfill must be complete and verified first.")
            oldest = next(one for one in ledger.rows() if one.phase in OPEN)
            if oldest.position != row.position:
                raise Refused(f"{oldest.version} must be contracted first.", hint="The older shape comes first.")
            todo = steps(row.sql.contract, f"{row.source}: contract")
            resumed = row.phase is Phase.CONTRACTING
            if not resumed:
                _refuse(version, inspection.hazards(connection, todo, "contract", row.source))
                ledger.phase(row.position, Phase.CONTRACTING)
            if self._all(connection, ledger, ledger.row(version), "contract", todo, watch, resumed):
                ledger.phase(row.position, Phase.CONTRACTED)

    def abort(self, version: str, watch: Watch) -> None:
        """See the port. Before the swap nothing of it stays; after it, the migration's own ``abort`` takes it back."""
        with self._working("abort") as (connection, ledger):
            row = ledger.row(version)
            if row.phase in (Phase.CONTRACTING, Phase.CONTRACTED):
                raise Refused(
                    f"{version} is {row.phase}: its old shape is gone, or going.", hint="Write a new migration."
                )
            newest = [one for one in ledger.rows() if one.phase in OPEN][-1]
            if newest.position != row.position:
                hint = f"Abort it first: crossfade migrate abort {newest.version}"
                raise Refused(f"{newest.version} builds on {version}.", hint=hint)
            filling = _filling(row.sql, row.source)
            made = self._copying(connection, ledger, row, "expand", filling, watch)
            swapped = made.swapped()
            if swapped and not row.sql.abort:
                raise Refused(
                    f"{version} has no abort section, and {', '.join(swapped)} has its new shape already.",
                    hint="What was written since is in the new table only. Take it back by a new migration.",
                )
            back = steps(row.sql.abort, f"{row.source}: abort")
            if row.phase is not Phase.ABORTING:
                if swapped:
                    _refuse(version, inspection.hazards(connection, back, "abort", row.source))
                ledger.phase(row.position, Phase.ABORTING)
            made.abort()
            # What was not swapped is not there to be taken back.
            left = [one.table for one in filling.copies if one.table not in swapped]
            if filling.before and not row.sql.abort:
                watch.tell(f"note: {version} has no abort section: what its statements have made stays")
            if self._all(connection, ledger, ledger.row(version), "abort", back, watch, True, left):
                ledger.forget(row.position)
                ledger.phase(row.position, Phase.ABORTED)

    def pause(self, version: str, paused: bool) -> None:
        """See the port."""
        with self._connected() as connection, explained("pause"):
            ledger = Ledger(connection)
            ledger.pause(ledger.row(version).position, paused)

    def environment(self, version: str) -> Mapping[str, str]:
        """See the port. There is one shape at a time, which all releases share: nothing to tell."""
        return {}

    def replicas(self, version: str) -> int:
        """See the port: sessions whose connection attribute ``program_name`` is the version; 0 where the server notes none."""
        query = (
            "SELECT COUNT(DISTINCT PROCESSLIST_ID) FROM performance_schema.session_connect_attrs"
            " WHERE ATTR_NAME = 'program_name' AND ATTR_VALUE = %s"
        )
        with self._connected() as connection, explained("sessions"):
            try:
                return int(value(connection, query, (version,)) or 0) if version else 0
            except pymysql.MySQLError as error:
                if code(error) in (1142, 1146, 1049):
                    return 0
                raise

    # ---

    @contextmanager
    def _connected(self) -> Iterator[Connection[Any]]:
        connection = connect(self._place)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _working(self, doing: str) -> Iterator[tuple[Connection[Any], Ledger]]:
        """Alone, with the tables of the ledger in place. A statement waits a second for locks, not a day."""
        with self._connected() as connection, explained(doing), alone(connection, self._place):
            rows(connection, "SET SESSION lock_wait_timeout = 1, SESSION innodb_lock_wait_timeout = 5")
            # Each statement of the comparison must see one moment, whatever the server's own setting.
            rows(connection, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            ledger = Ledger(connection)
            ledger.prepare()
            yield connection, ledger

    def _planned(self, connection: Connection[Any], migration: Migration, coming: Sequence[str] = ()) -> Plan:
        sql = _sql(migration)
        filling = _filling(sql, migration.source)
        later, back = steps(sql.contract, "contract"), steps(sql.abort, "abort")
        found = list(inspection.hazards(connection, filling, "expand", migration.source, coming))
        if (sql.expand or sql.backfill) and not sql.abort:
            sentence = "there is no abort section: after the swap it cannot be taken back"
            found.append(Hazard("no-abort", migration.source, sentence))
        return Plan(
            migration.version,
            tuple(_groups(Steps(filling.before, filling.copies))),
            tuple(
                Fill(Name(self._place.database, one.table), "", inspection.key(connection, one.table), ())
                for one in filling.copies
            ),
            tuple(_groups(Steps(after=filling.after))),
            tuple(_groups(later)),
            tuple(_groups(back)),
            tuple(found),
        )

    def _maker(self, connection: Connection[Any], watch: Watch) -> OnlineMaker:
        return OnlineMaker(self._place, connection, watch, self._tool, self._limits, self._http)

    def _copying(
        self, connection: Connection[Any], ledger: Ledger, row: Row, part: str, todo: Steps, watch: Watch
    ) -> Copying:
        return Copying(connection, ledger, row, part, todo.copies, self._maker(connection, watch), watch)

    def _all(
        self,
        connection: Connection[Any],
        ledger: Ledger,
        row: Row,
        part: str,
        todo: Steps,
        watch: Watch,
        resumed: bool,
        skipped: Sequence[str] = (),
    ) -> bool:
        """A whole phase. Steps count those before the copies, and then those after."""
        gone = part == "abort"
        if not self._direct(connection, ledger, row, todo.before, watch, gone=gone, resumed=resumed):
            return False
        if todo.copies and not self._copying(connection, ledger, row, part, todo, watch).run(skipped):
            return False
        row = ledger.row(row.version)
        return self._direct(
            connection, ledger, row, todo.after, watch, offset=len(todo.before), gone=gone, resumed=resumed
        )

    def _direct(
        self,
        connection: Connection[Any],
        ledger: Ledger,
        row: Row,
        todo: Sequence[Direct],
        watch: Watch,
        *,
        offset: int = 0,
        gone: bool = False,
        resumed: bool = False,
    ) -> bool:
        """Statements as they are, from the ledger's step on; False when cancelled. Raises Refused, Unavailable.

        After a crash the first of them may have been done: then it says that what it makes is there. ``gone``: what is to be
        dropped may never have been there.
        """
        done = max(0, row.step - offset)
        may_be_done = resumed and not row.trouble
        for i, one in enumerate(todo[done:], start=done):
            if watch.cancel.is_set():
                return False
            watch.tell(one.sql)
            passed = GONE if gone else THERE if may_be_done else frozenset[int]()
            with explained(row.version):
                self._statement(connection, ledger, row, one, watch, passed)
            may_be_done = False
            ledger.step(row.position, offset + i + 1)
        return True

    def _statement(
        self, connection: Connection[Any], ledger: Ledger, row: Row, one: Direct, watch: Watch, passed: frozenset[int]
    ) -> None:
        for n in range(TRIES):
            try:
                with connection.cursor() as cursor:
                    cursor.execute(one.sql)
            except pymysql.MySQLError as error:
                number = code(error)
                if number in passed:
                    return
                if number not in LOCKED:
                    if number:
                        ledger.trouble(row.position, f"{short(one.sql)}: {said(error)}")
                    raise
            else:
                return
            if watch.cancel.wait(min(2.0, 0.05 * 1.4**n)):
                break
        raise Refused(
            f"{row.version}: {short(one.sql)}: the table is locked by others.",
            hint="End the transactions that are open on it, then run it again: it goes on.",
        )


class OnlineMaker:
    """Makes the tool for each change."""

    def __init__(
        self,
        where: Place,
        connection: Connection[Any],
        watch: Watch,
        tool: str,
        limits: Limits | None,
        throttle_http: str,
    ) -> None:
        self._where, self._connection, self._watch, self._limits = where, connection, watch, limits
        self._tool, self._http = tool, throttle_http

    def __call__(self, change: Change) -> OnlineChange:
        watch = self._watch
        if self._tool == "ghost" or (self._tool == "auto" and self._may_be_ghost(change)):
            return Ghost(change, self._where, self._connection, watch, throttle_http=self._http)
        return Percona(change, self._where, self._connection, watch.cancel, duty=watch.duty, limits=self._limits)

    def _may_be_ghost(self, change: Change) -> bool:
        return (
            shutil.which(GHOST) is not None
            and not self._where.socket
            and not has_foreign_keys(self._connection, change.table)
        )


def _sql(migration: Migration) -> Phased:
    if migration.sql is None:
        allowed = "SQL with sections (-- crossfade: expand, backfill, contract, abort); operations are PostgreSQL's"
        raise Invalid(migration.source, "operations", allowed)
    return migration.sql


def _filling(sql: Phased, source: str) -> Steps:
    return steps((*sql.expand, *sql.backfill), f"{source}: expand")


def _groups(todo: Steps) -> Iterator[Group]:
    if todo.before:
        yield Group("as they are", How.ALONE, tuple(one.sql for one in todo.before))
    for one in todo.copies:
        yield Group(
            f"{one.table}, on a copy that takes its place", How.ALONE, (f"ALTER TABLE {one.table} {one.clause}",)
        )
    if todo.after:
        yield Group("as they are, afterwards", How.ALONE, tuple(one.sql for one in todo.after))


def _refuse(version: str, hazards: Iterator[Hazard] | Sequence[Hazard]) -> None:
    found = [one for one in hazards if one.blocks]
    if found:
        what = "; ".join(f"{one.place}: {one.sentence}" for one in found)
        hints = " ".join(dict.fromkeys(one.hint for one in found if one.hint))
        raise Refused(f"{version} is refused: {what}.", hint=f"Nothing was changed. {hints}".strip())
