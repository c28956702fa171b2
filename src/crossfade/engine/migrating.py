"""Brings a database to what a release needs, before any replica of it starts. Each phase goes on where a crash has left it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from crossfade.domain.actions import Migrate
from crossfade.domain.errors import Busy, CrossfadeError, NotFound, Refused
from crossfade.domain.migrations.applied import check_applied, not_applied
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phases import Phase, Progress, Record
from crossfade.domain.release import Release
from crossfade.domain.rollout import Rollout
from crossfade.domain.signal import Lately
from crossfade.ports import Parts
from crossfade.ports.databases import Database, Watch

DONE: Final = (Phase.VERIFIED, Phase.CONTRACTING, Phase.CONTRACTED)
LOOK_EVERY: Final = 0.2
LOOK_AT_CLIENTS: Final = 0.5
"""Seconds between two looks at what clients see."""
LOOKS_BACK: Final = 20.0
"""Seconds over which their errors are counted."""


class Migrating:
    """Carries out `Migrate`. While it works, the rollout's ``waiting`` says how far it is, and what it waits for."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def bring(
        self, state: Rollout, action: Migrate, wanted: Callable[[], bool], boundary: Callable[[str], None]
    ) -> bool:
        """Expand, backfill and verify; False as soon as something else is ``wanted``, at the next boundary.

        Raises Refused with what stands in the way, Unavailable, InvalidConfig, NotFound.
        """
        parts = self._parts
        release = parts.store.release(state.plan.key.service, action.release)
        database = parts.databases.of(release)
        if database is None:
            return True
        migrations = parts.databases.migrations(release)
        ledger = database.ledger()
        # A release from before the newest migrations is deployed as it is: what it needs is there already.
        check_applied(migrations, ledger, whole=bool(not_applied(migrations, ledger)))
        cancel = _Wanted(wanted)
        return all(self._bring_one(state, release, database, one, cancel, boundary) for one in migrations)

    def _bring_one(
        self,
        state: Rollout,
        release: Release,
        database: Database,
        migration: Migration,
        cancel: _Wanted,
        boundary: Callable[[str], None],
    ) -> bool:
        phase = _phase(database, migration.version)
        watch = self._watch(state, release, migration.version, cancel)
        if phase is Phase.ABORTING:
            raise Refused(
                f"{migration.version} is being aborted in {state.plan.key}.",
                hint=f"Finish it first: crossfade migrate abort {migration.version}",
            )
        while phase not in DONE:
            if cancel.is_set():
                return False
            try:
                if phase in (None, Phase.EXPANDING):
                    boundary(f"expand {migration.version} before")
                    database.expand(migration, watch)
                    boundary(f"expand {migration.version} done")
                elif not database.backfill(migration.version, watch):
                    return False
                else:
                    boundary(f"backfill {migration.version} done")
            except Busy as error:
                self._say(state, error.what)
                if cancel.wait(LOOK_EVERY):
                    return False
            phase = _phase(database, migration.version)
        return True

    def _watch(self, state: Rollout, release: Release, version: str, cancel: _Wanted) -> Watch:
        use = release.config.database
        clients = _Clients(self._parts, state)

        def throttle() -> str:
            paused = self._parts.store.rollout(state.id).paused
            return "the rollout is paused" if paused is not None else clients.suffer()

        def progress(one: Progress) -> None:
            self._say(state, f"{version}: {shown(one)}")

        def tell(line: str) -> None:
            self._say(state, f"{version}: {line}")

        return Watch(tell, progress, throttle, cancel, use.duty if use is not None else 1.0)

    def _say(self, state: Rollout, waiting: str) -> None:
        """For `status`; nothing is decided by it."""
        try:
            known = self._parts.store.rollout(state.id)
        except NotFound:
            return
        if not known.phase.ended and known.waiting != waiting:
            self._parts.store.save(replace(known, waiting=waiting), ())


class _Clients:
    """What the live release's clients see while a backfill works: it waits when that is more errors than they may."""

    def __init__(self, parts: Parts, state: Rollout) -> None:
        self._parts, self._key, live = parts, state.plan.key, state.plan.baseline
        config = parts.store.release(self._key.service, live).config if live is not None else None
        self._limit = config.strategy.limits.error_rate if config is not None else None
        self._lately, self._looked = Lately(LOOKS_BACK), -LOOK_AT_CLIENTS

    def suffer(self) -> str:
        """Why to wait, asked as often as one likes; empty when all is well, or when nobody knows."""
        now = time.monotonic()
        if self._limit is not None and now - self._looked >= LOOK_AT_CLIENTS:
            self._looked = now
            try:
                self._lately.add(self._parts.signals.read(self._key))
            except CrossfadeError:
                return ""
        return self._lately.over(self._limit)


class _Wanted:
    """A `Cancel` that asks, at most five times a second."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._never = threading.Event()
        self._said = False

    def is_set(self) -> bool:
        self._said = self._said or self._wanted()
        return self._said

    def wait(self, timeout: float | None = None) -> bool:
        left = timeout if timeout is not None else float("inf")
        while left > 0 and not self.is_set():
            self._never.wait(min(left, LOOK_EVERY))
            left -= LOOK_EVERY
        return self.is_set()


def _phase(database: Database, version: str) -> Phase | None:
    found: list[Record] = [
        one for one in database.ledger() if one.version == version and one.phase is not Phase.ABORTED
    ]
    return found[-1].phase if found else None


def shown(one: Progress) -> str:
    """``public.books: 43 % (21 000 of 49 000 rows, 12 000 a second, 3 s left)``; or what it waits for."""
    subject = one.subject.replace('"', "")
    parts = [f"{one.done:,} of {one.total:,} rows" if one.total else f"{one.done:,} rows"]
    if one.rate:
        parts.append(f"{one.rate:,.0f} a second")
    if one.eta is not None and one.eta >= 1:
        parts.append(f"{one.eta:.0f} s left")
    share = f"{100 * one.done // one.total} % " if one.total else ""
    waits = f"; waits: {one.waits}" if one.waits else ""
    return f"{subject}: {share}({', '.join(parts)}){waits}"
