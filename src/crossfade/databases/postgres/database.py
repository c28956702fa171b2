"""`ports.databases.Database` for PostgreSQL: plans in the domain, carried out step by step, each recorded where it was done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from psycopg import Connection
from pydantic import TypeAdapter

from crossfade.databases.postgres import catalogue as catalogues
from crossfade.databases.postgres import roles
from crossfade.databases.postgres.backfill import Backfill
from crossfade.databases.postgres.connection import check_url, connect, explained, safe
from crossfade.databases.postgres.ledger import Ledger, Row
from crossfade.databases.postgres.locks import TRIES, Runner, reconnecting
from crossfade.databases.postgres.throttle import Limits
from crossfade.databases.postgres.verify import unfilled, verify
from crossfade.domain.errors import NotFound, Refused
from crossfade.domain.migrations import phased, planner
from crossfade.domain.migrations.applied import check_applied, not_applied
from crossfade.domain.migrations.catalogue import Catalogue
from crossfade.domain.migrations.layer import Layer
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phases import OPEN, Phase, Record
from crossfade.domain.migrations.plan import Group, Plan
from crossfade.ports.databases import Watch

LAYERS: Final = TypeAdapter(Layer)
GROUPS: Final = TypeAdapter(tuple[Group, ...])


class PostgresDatabase:
    """One schema of one database. ``application`` is the URL that replicas use, when it is not that of the migrations."""

    def __init__(
        self,
        url: str,
        *,
        schema: str = "public",
        application: str = "",
        variable: str = "DATABASE_URL",
        limits: Limits | None = None,
        lock_tries: int = TRIES,
    ) -> None:
        self._url = check_url(url)
        self._application = check_url(application) if application else url
        self._schema, self._variable, self._limits, self._tries = schema, variable, limits, lock_tries

    def describe(self) -> str:
        """See the port."""
        with self._connected() as connection:
            version = connection.info.server_version
            return f"PostgreSQL {version // 10_000}.{version % 10_000} at {safe(self._url)}, schema {self._schema}"

    def ledger(self) -> Sequence[Record]:
        """See the port."""
        with self._connected() as connection:
            return Ledger(connection).records()

    def check(self, migrations: Sequence[Migration]) -> None:
        """See the port."""
        check_applied(migrations, self.ledger())

    def plan(self, migrations: Sequence[Migration]) -> Sequence[Plan]:
        """See the port. What builds on what is not there yet is planned on a scratch transaction, which is rolled back."""
        with self._connected() as connection, explained("plan"):
            records = Ledger(connection).records()
            check_applied(migrations, records)
            rows = Ledger(connection).rows()
            opened, views = self._opened(rows), self._has_views(rows)
            position = max((one.position for one in records), default=0)
            plans: list[Plan] = []
            todo = not_applied(migrations, records)
            for i, migration in enumerate(todo):
                catalogue = self._read(connection, opened)
                layer, plan = self._planned(migration, catalogue, opened, position + 1 + i, views)
                plans.append(plan)
                views = bool(layer.schema)
                opened = [*opened, layer]
                if i + 1 < len(todo):
                    self._try_out(connection, plan)
            if len(todo) > 1:
                connection.rollback()
            return plans

    def expand(self, migration: Migration, watch: Watch) -> None:
        """See the port."""
        with self._working("expand") as (connection, ledger):
            rows = [row for row in ledger.rows() if row.phase is not Phase.ABORTED]
            known = next((row for row in rows if row.version == migration.version), None)
            if known is not None and known.phase is not Phase.EXPANDING:
                return
            records = ledger.records()
            check_applied([migration], records, whole=False)
            runner = Runner(self._url, connection, watch, self._schema, tries=self._tries)
            if known is not None:
                self._go_on_expanding(ledger, runner, known)
                return
            opened = self._opened(rows)
            aborting = [row.version for row in rows if row.phase is Phase.ABORTING]
            if aborting:
                raise Refused(
                    f"{aborting[0]} is being aborted.", hint=f"Finish it first: crossfade migrate abort {aborting[0]}"
                )
            position = ledger.next_position()
            catalogue, views = self._read(connection, opened), self._has_views(rows)
            layer, plan = self._planned(migration, catalogue, opened, position, views)
            blocking = [f"{one.place}: {one.sentence}" for one in plan.hazards if one.blocks]
            if blocking:
                raise Refused(f"{migration.version} is refused: {'; '.join(blocking)}.", hint="Nothing was changed.")
            for hazard in plan.hazards:
                watch.tell(f"note: {hazard.sentence}")
            multiple = (
                migration.sql is not None
            )  # operations are expanded in one transaction, the ledger's line with it
            first = Phase.EXPANDING if multiple else Phase.EXPANDED
            encoded, settle = (
                LAYERS.dump_python(layer, mode="json"),
                GROUPS.dump_python((*plan.expand, *plan.settle), mode="json"),
            )

            def begin(_: int) -> None:
                ledger.begin(
                    position,
                    migration.version,
                    migration.checksum,
                    migration.source,
                    first,
                    encoded,
                    {"groups": settle, "expand": len(plan.expand)},
                    contracts=layer.contracts,
                )

            if not multiple:
                runner.run(plan.expand, start=0, done=begin)
                return
            with connection.transaction():
                begin(0)
            self._go_on_expanding(ledger, runner, ledger.row(migration.version))

    def backfill(self, version: str, watch: Watch) -> bool:
        """See the port."""
        with self._working("backfill") as (connection, ledger):
            row = ledger.row(version)
            if row.phase is Phase.EXPANDING:
                raise Refused(f"{version} is not expanded yet.", hint="crossfade migrate expand goes on with it.")
            if row.phase not in (Phase.EXPANDED, Phase.BACKFILLING):
                return True
            if row.phase is Phase.EXPANDED:
                ledger.phase(row.position, Phase.BACKFILLING)
                row = ledger.row(version)
            layer = LAYERS.validate_python(row.layer)
            failed: list[str] = []
            count = 0
            if row.trouble:
                ledger.again(row.position)  # rows that could not be filled then may be now
                ledger.trouble(row.position, "")
            for fill in planner.fills(layer):
                work = Backfill(
                    lambda: reconnecting(self._url, watch), row.position, fill, watch, self._schema, self._limits
                )
                if not work.run():
                    return False
                failed, count = [*failed, *work.failed], count + work.failures
            if failed:
                raise self._trouble(ledger, row, f"{count} rows cannot be filled", failed)
            if connection.broken or connection.closed:
                raise Refused("The database restarted meanwhile.", hint="Run it again: it goes on.")
            groups = self._groups(row)[self._expanding(row) :]
            runner = Runner(self._url, connection, watch, self._schema, tries=self._tries)
            if not runner.run(groups, start=row.step, done=lambda i: ledger.step(row.position, i + 1)):
                return False
            return self._verified(connection, ledger, row, layer, watch)

    def contract(self, version: str, watch: Watch) -> None:
        """See the port."""
        with self._working("contract") as (connection, ledger):
            row = ledger.row(version)
            if row.phase is Phase.CONTRACTED:
                return
            rows = [one for one in ledger.rows() if one.phase in OPEN]
            if row.phase not in (Phase.VERIFIED, Phase.CONTRACTING):
                raise Refused(f"{version} is {row.phase}: its backfill must be complete and verified first.")
            if rows[0].position != row.position:
                raise Refused(
                    f"{rows[0].version} must be contracted first.", hint="The older shape lies below the newer one."
                )
            layers = self._opened(rows)
            oldest, newer = layers[0], layers[1:]
            for fill in planner.fills(oldest) if row.step == 0 else ():
                if unfilled(connection, fill):
                    ledger.phase(row.position, Phase.BACKFILLING)
                    ledger.again(row.position)
                    raise Refused(
                        f"{version}: rows of {fill.table.name} have been written since that have no new values.",
                        hint=f"crossfade migrate backfill {version} names them.",
                    )
            if row.phase is Phase.VERIFIED:
                ledger.phase(row.position, Phase.CONTRACTING)
            before = self._before(ledger, row)
            ready = len(oldest.ready)
            groups = planner.contract(
                oldest, newer if row.step <= ready else (), before.schema if before else "", oldest.before
            )

            def done(i: int) -> None:
                ledger.step(row.position, i + 1)
                if i == ready:
                    for one, layer in zip(rows[1:], planner.contracted(oldest, newer), strict=True):
                        ledger.layer(one.position, LAYERS.dump_python(layer, mode="json"))
                if i + 1 == len(groups):
                    ledger.phase(row.position, Phase.CONTRACTED)

            runner = Runner(self._url, connection, watch, self._schema, tries=self._tries)
            if runner.run(groups, start=row.step, done=done) and before is not None:
                stays = roles.drop(connection, self._application, before.schema)
                if stays:
                    watch.tell(stays)

    def abort(self, version: str, watch: Watch) -> None:
        """See the port."""
        with self._working("abort") as (connection, ledger):
            row = ledger.row(version)
            rows = [one for one in ledger.rows() if one.phase in OPEN]
            if row.phase in (Phase.CONTRACTING, Phase.CONTRACTED):
                raise Refused(
                    f"{version} is {row.phase}: its old shape is gone, or going.", hint="Write a new migration."
                )
            if rows[-1].position != row.position:
                raise Refused(
                    f"{rows[-1].version} builds on {version}.",
                    hint=f"Abort it first: crossfade migrate abort {rows[-1].version}",
                )
            layers = self._opened(rows)
            if row.phase is not Phase.ABORTING:
                ledger.phase(row.position, Phase.ABORTING)
                row = ledger.row(version)
            groups = planner.abort(layers[-1], layers[:-1])

            def done(i: int) -> None:
                if i + 1 == len(groups):
                    ledger.phase(row.position, Phase.ABORTED)
                else:
                    ledger.step(row.position, i + 1)

            runner = Runner(self._url, connection, watch, self._schema, tries=self._tries)
            if runner.run(groups, start=row.step, done=done):
                stays = roles.drop(connection, self._application, layers[-1].schema)
                if stays:
                    watch.tell(stays)

    def pause(self, version: str, paused: bool) -> None:
        """See the port."""
        with self._connected() as connection:
            ledger = Ledger(connection)
            ledger.pause(ledger.row(version).position, paused)

    def environment(self, version: str) -> Mapping[str, str]:
        """See the port."""
        if not version:
            return {self._variable: self._application}
        with self._connected() as connection, explained("a role for the replicas"):
            row = Ledger(connection).row(version)
            layer = LAYERS.validate_python(row.layer)
            if not layer.schema:
                return {self._variable: self._application}
            url = roles.ensure(connection, self._application, layer.schema, self._schema)
        return {self._variable: url, "CROSSFADE_SCHEMA": layer.schema}

    def replicas(self, version: str) -> int:
        """See the port."""
        with self._connected() as connection:
            try:
                layer = LAYERS.validate_python(Ledger(connection).row(version).layer)
            except NotFound:
                return 0
            return roles.sessions(connection, self._application, layer.schema) if layer.schema else 0

    # ---

    @contextmanager
    def _connected(self) -> Iterator[Connection[Any]]:
        connection = connect(self._url)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _working(self, doing: str) -> Iterator[tuple[Connection[Any], Ledger]]:
        """Alone, with the tables of the ledger in place."""
        with self._connected() as connection, explained(doing):
            ledger = Ledger(connection)
            with ledger.held():
                ledger.prepare()
                yield connection, ledger

    def _opened(self, rows: Sequence[Row]) -> list[Layer]:
        return [LAYERS.validate_python(row.layer) for row in rows if row.phase in OPEN]

    def _read(self, connection: Connection[Any], opened: Sequence[Layer]) -> Catalogue:
        schemas = [layer.schema for layer in opened]
        rows = Ledger(connection).rows()
        schemas += [LAYERS.validate_python(row.layer).schema for row in rows if row.phase is Phase.CONTRACTED]
        return catalogues.read(connection, self._schema, [one for one in schemas if one])

    @staticmethod
    def _has_views(rows: Sequence[Row]) -> bool:
        """Whether versions have schemas of their own here already."""
        staying = [row for row in rows if row.phase is not Phase.ABORTED]
        return bool(staying and LAYERS.validate_python(staying[-1].layer).schema)

    def _planned(
        self, migration: Migration, catalogue: Catalogue, opened: Sequence[Layer], position: int, views: bool
    ) -> tuple[Layer, Plan]:
        if migration.sql is not None:
            return phased.plan(migration, catalogue, opened, position, views)
        layer, draft = planner.layer(migration, catalogue, opened, position)
        return layer, planner.expand(layer, draft, opened)

    def _try_out(self, connection: Connection[Any], plan: Plan) -> None:
        """What the next plan builds on, in a transaction that is never committed."""
        if connection.info.transaction_status.name == "IDLE":
            connection.autocommit = False
            connection.execute("SET LOCAL lock_timeout = '100ms'; CREATE SCHEMA IF NOT EXISTS crossfade")
        for group in (*plan.expand, *plan.settle):
            for statement in group.statements:
                words = statement.replace(" CONCURRENTLY", "")
                if "VALIDATE CONSTRAINT" not in words:
                    connection.execute(words.encode())

    def _go_on_expanding(self, ledger: Ledger, runner: Runner, row: Row) -> None:
        groups = self._groups(row)[: self._expanding(row)]

        layer = LAYERS.validate_python(row.layer)
        views = bool(layer.schema and not layer.reshapes)

        def done(i: int) -> None:
            ledger.step(row.position, i + 1)
            if i + 1 == len(groups) and not views:
                ledger.phase(row.position, Phase.EXPANDED)

        if not runner.run(groups, start=row.step, done=done) or not views:
            return
        opened = [one for one in self._opened(ledger.rows()) if one.position < row.position]
        seen, group = phased.views_after(layer, self._read(runner.connection, opened), opened)

        def shown(_: int) -> None:
            ledger.layer(row.position, LAYERS.dump_python(seen, mode="json"))
            ledger.phase(row.position, Phase.EXPANDED)

        runner.run([group], start=0, done=shown)

    @staticmethod
    def _groups(row: Row) -> tuple[Group, ...]:
        return GROUPS.validate_python(row.settle["groups"])

    @staticmethod
    def _expanding(row: Row) -> int:
        return int(row.settle["expand"])

    def _before(self, ledger: Ledger, row: Row) -> Layer | None:
        """The version whose schema goes with a contract: the newest that was contracted before."""
        older = [one for one in ledger.rows() if one.position < row.position and one.phase is Phase.CONTRACTED]
        found = LAYERS.validate_python(older[-1].layer) if older else None
        return found if found is not None and found.schema else None

    def _verified(self, connection: Connection[Any], ledger: Ledger, row: Row, layer: Layer, watch: Watch) -> bool:
        for fill in planner.fills(layer):
            watch.tell(f"verify {fill.table.name}: both shapes of every row are compared")
            found = verify(connection, fill, watch, self._schema)
            if not found.finished:
                return False
            if not found.ok:
                ledger.again(row.position)
                parts = [f"{found.unfilled} rows of {fill.table.name} have no new values"] if found.unfilled else []
                parts += [f"{found.wrong} rows of {fill.table.name} differ or break a condition"] if found.wrong else []
                raise self._trouble(ledger, row, " and ".join(parts), found.samples)
            ledger.verified(row.position, fill.table, found.checksum)
            watch.tell(f"verified {fill.table.name}: {found.rows} rows, checksum {found.checksum}")
        ledger.phase(row.position, Phase.VERIFIED)
        return True

    @staticmethod
    def _trouble(ledger: Ledger, row: Row, what: str, samples: Sequence[str]) -> Refused:
        ledger.trouble(row.position, what, samples)
        shown = "".join(f"\n  {one}" for one in samples[:5])
        return Refused(
            f"{row.version}: {what}:{shown}",
            hint="Nothing was promoted. Change those rows or abort the migration; then run it again.",
            samples=list(samples),
        )
