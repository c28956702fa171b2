"""The twin of `databases`: migrations that are only remembered, over rows that are only counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from crossfade.domain.errors import Busy, CrossfadeError, NotFound, Refused
from crossfade.domain.migrations.applied import check_applied, not_applied
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phases import OPEN, Phase, Progress, Record
from crossfade.domain.migrations.plan import Group, How, Plan
from crossfade.domain.release import DatabaseUse, Release
from crossfade.domain.values import Digest
from crossfade.ports.databases import Database, NoDatabases, Watch

LOOKS_EVERY: Final = 0.01
"""Seconds between two looks of a backfill that waits."""


class FakeDatabase:
    """`ports.databases.Database` in memory: each migration fills ``rows`` rows, ``batch`` at a time.

    ``fails_with`` is raised by every call until it is None. ``bad`` has what is wrong with rows that a version cannot fill,
    ``refuses`` why a version cannot be expanded, ``connected`` how many sessions a version has. ``between`` is called before
    each batch, with the version: a test may pause it there, or end it.
    """

    def __init__(self, rows: int = 100, batch: int = 10, now: Callable[[], float] = time.time) -> None:
        self.fails_with: CrossfadeError | None = None
        self.bad: dict[str, list[str]] = {}
        self.refuses: dict[str, str] = {}
        self.connected: dict[str, int] = {}
        self.between: Callable[[str], None] = lambda version: None
        self._rows, self._batch, self._now = rows, batch, now
        self._records: list[Record] = []
        self._working = threading.Lock()
        self._lock = threading.RLock()

    def describe(self) -> str:
        self._answer()
        return "a database in memory"

    def ledger(self) -> Sequence[Record]:
        self._answer()
        with self._lock:
            return tuple(self._records)

    def check(self, migrations: Sequence[Migration]) -> None:
        check_applied(migrations, self.ledger())

    def plan(self, migrations: Sequence[Migration]) -> Sequence[Plan]:
        self.check(migrations)
        group = Group("remember it", How.TOGETHER, ("SELECT 1",))
        return [Plan(one.version, (group,)) for one in not_applied(migrations, self.ledger())]

    def expand(self, migration: Migration, watch: Watch) -> None:
        with self._alone():
            if any(one.version == migration.version for one in self._staying()):
                return
            check_applied([migration], self.ledger(), whole=False)
            aborting = [one.version for one in self._staying() if one.phase is Phase.ABORTING]
            if aborting:
                raise Refused(f"{aborting[0]} is being aborted.", hint="Finish it first.")
            if migration.version in self.refuses:
                raise Refused(f"{migration.version} is refused: {self.refuses[migration.version]}.")
            with self._lock:
                position = len(self._records) + 1
                self._records.append(
                    Record(
                        migration.version,
                        position,
                        migration.checksum,
                        migration.source,
                        Phase.EXPANDED,
                        expanded=self._now(),
                        progress=(Progress(Phase.BACKFILLING, "rows", 0, self._rows),),
                    )
                )

    def backfill(self, version: str, watch: Watch) -> bool:
        with self._alone():
            if self._record(version).phase not in (Phase.EXPANDED, Phase.BACKFILLING):
                return True
            self._change(version, phase=Phase.BACKFILLING, trouble="", samples=())
            done = self._record(version).progress[0].done
            while done < self._rows:
                self.between(version)
                if not self._may_go_on(version, done, watch):
                    return False
                done = min(done + self._batch, self._rows)
                progress = Progress(Phase.BACKFILLING, "rows", done, self._rows, rate=1000.0, eta=1.0)
                self._change(version, progress=(progress,))
                watch.progress(progress)
            samples = self.bad.get(version, [])
            if samples:
                what = f"{len(samples)} rows cannot be filled"
                again = Progress(Phase.BACKFILLING, "rows", 0, self._rows)
                self._change(version, trouble=what, samples=tuple(samples), progress=(again,))
                shown = "".join(f"\n  {one}" for one in samples)
                raise Refused(f"{version}: {what}:{shown}", hint="Change those rows.", samples=list(samples))
            self._change(version, phase=Phase.VERIFIED, verified=self._now())
            return True

    def contract(self, version: str, watch: Watch) -> None:
        with self._alone():
            record = self._record(version)
            if record.phase is Phase.CONTRACTED:
                return
            if record.phase not in (Phase.VERIFIED, Phase.CONTRACTING):
                raise Refused(f"{version} is {record.phase}: its backfill must be complete and verified first.")
            oldest = next(one for one in self._staying() if one.phase in OPEN)
            if oldest.position != record.position:
                raise Refused(f"{oldest.version} must be contracted first.")
            self._change(version, phase=Phase.CONTRACTING)
            self.between(version)
            if not watch.cancel.is_set():
                self._change(version, phase=Phase.CONTRACTED, contracted=self._now())

    def abort(self, version: str, watch: Watch) -> None:
        with self._alone():
            record = self._record(version)
            if record.phase in (Phase.CONTRACTING, Phase.CONTRACTED):
                raise Refused(f"{version} is {record.phase}: its old shape is gone, or going.")
            newest = [one for one in self._staying() if one.phase in OPEN][-1]
            if newest.position != record.position:
                raise Refused(f"{newest.version} builds on {version}.")
            self._change(version, phase=Phase.ABORTING)
            self.between(version)
            if not watch.cancel.is_set():
                self._change(version, phase=Phase.ABORTED)

    def pause(self, version: str, paused: bool) -> None:
        self._answer()
        self._change(version, paused=paused)

    def environment(self, version: str) -> Mapping[str, str]:
        self._answer()
        if not version:
            return {"DATABASE_URL": "fake://owner@memory/shop"}
        self._record(version)
        return {"DATABASE_URL": f"fake://{version}@memory/shop"}

    def replicas(self, version: str) -> int:
        self._answer()
        return self.connected.get(version, 0)

    # ---

    def _may_go_on(self, version: str, done: int, watch: Watch) -> bool:
        """Wait as long as something wants it; False once it is cancelled."""
        while not watch.cancel.is_set():
            why = "paused" if self._record(version).paused else watch.throttle()
            if not why:
                return True
            watch.progress(Progress(Phase.BACKFILLING, "rows", done, self._rows, waits=why))
            watch.cancel.wait(LOOKS_EVERY)
        return False

    def _answer(self) -> None:
        if self.fails_with is not None:
            raise self.fails_with

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._answer()
        if not self._working.acquire(blocking=False):
            raise Busy("The migrations of this database are being worked on by somebody.", hint="Wait for its end.")
        try:
            yield
        finally:
            self._working.release()

    def _staying(self) -> list[Record]:
        with self._lock:
            return [one for one in self._records if one.phase is not Phase.ABORTED]

    def _record(self, version: str) -> Record:
        found = next((one for one in self._staying() if one.version == version), None)
        if found is None:
            raise NotFound(f"No migration {version} was applied to this database.")
        return found

    def _change(self, version: str, **changes: object) -> None:
        with self._lock:
            record = self._record(version)
            self._records[self._records.index(record)] = replace(record, **changes)  # type: ignore[arg-type] # fields of it


class FakeDatabases(NoDatabases):
    """`ports.databases.Databases` of releases that all use ``database``. ``carries`` has the migrations of artifacts."""

    def __init__(self, database: FakeDatabase | None = None) -> None:
        super().__init__()
        self.database = database or FakeDatabase()
        self.carries: dict[Digest, Sequence[Migration]] = {}

    def version(self, digest: Digest, use: DatabaseUse) -> str:
        found = self.carries.get(digest, ())
        return found[-1].version if found else ""

    def migrations(self, release: Release) -> Sequence[Migration]:
        return self.carries.get(release.digest, ())

    def of(self, release: Release) -> Database | None:
        return self.database if release.config.database is not None else None

    def ledger(self, release: Release, lately: float = 1.0) -> Sequence[Record] | None:
        try:
            return self.database.ledger() if release.config.database is not None else None
        except CrossfadeError:
            return None

    def env(self, release: Release) -> Mapping[str, str]:
        if release.config.database is None:
            return {}
        return self.database.environment(release.config.schema_version)
