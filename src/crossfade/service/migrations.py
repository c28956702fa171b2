"""Migrations of environments: where each stands, what its contract waits for, and who may say otherwise."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Protocol

from crossfade.domain.access import Actor, Grant, Role
from crossfade.domain.environment import Environment
from crossfade.domain.errors import CrossfadeError, Invalid, NotFound, Refused
from crossfade.domain.migrations.phases import OPEN, Needing, Phase, Record, Surroundings, standing, waits_for
from crossfade.domain.release import Release, Restorable
from crossfade.domain.signal import Reading
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Parts
from crossfade.ports.databases import Database, Watch
from crossfade.service.audit import Audit

log = logging.getLogger("crossfade.migrations")

INTERVAL: Final = 5.0
"""Seconds between two looks at what may be contracted."""
LOOKS_BACK: Final = 300.0
"""Seconds over which the error share is counted that a contract looks at."""
LEAST: Final = 50
"""Requests from which a share of errors says anything."""
LONGEST_WHY: Final = 500
CUSTODIAN: Final = Actor("crossfade", (Grant(Role.ADMIN),), "engine")
"""Who contracts what nobody needs any more."""


class Seen(Protocol):
    """What is asked of the views."""

    def environment(self, key: EnvKey) -> Environment: ...

    def restorable(self, key: EnvKey, lately: float = 0.0) -> tuple[Restorable, ...]: ...


class Migrations:
    """Use cases, and the thread that contracts by itself."""

    def __init__(self, parts: Parts, seen: Seen, audit: Audit, interval: float = INTERVAL) -> None:
        self._parts, self._seen, self._audit, self._interval = parts, seen, audit, interval
        self._stop, self._wake = threading.Event(), threading.Event()
        self._wanted: deque[tuple[EnvKey, str, str, Actor]] = deque()
        self._said: dict[tuple[EnvKey, str], str] = {}
        self._readings: dict[EnvKey, deque[Reading]] = {}
        self._thread = threading.Thread(target=self._run, name="migrations", daemon=True)

    # --- to see

    def view(self, key: EnvKey) -> dict[str, Any]:
        """``database`` (None when the live release has none), ``answers``, and ``items``, oldest first. Raises NotFound."""
        environment = self._seen.environment(key)
        release = self._release(environment)
        if release is None or release.config.database is None:
            return {"database": None, "answers": True, "items": []}
        ledger = self._parts.databases.ledger(release)
        use = release.config.database
        said = {"variable": use.variable, "schema": use.schema, "contract": "automatic" if use.contracts else "manual"}
        if ledger is None:
            return {"database": said, "answers": False, "items": []}
        live, candidate = self._versions(environment)
        items = []
        for record in ledger:
            around = self._around(environment, release, record, ledger)
            waits = () if record.phase not in OPEN else waits_for(record, ledger, around)
            phase = standing(record, ledger, around, candidate, live)
            items.append(
                {
                    **asdict(record),
                    "phase": phase.value,
                    "progress": [{**asdict(one), "phase": one.phase.value} for one in record.progress],
                    "samples": list(record.samples),
                    "waits": list(waits) if record.contracts or record.phase in OPEN else [],
                    "trouble": record.trouble or self._said.get((key, record.version), ""),
                }
            )
        return {"database": said, "answers": True, "items": items}

    def open(self, key: EnvKey) -> list[dict[str, Any]]:
        """Those of `view` that are not over, for `status`."""
        over = (Phase.CONTRACTED.value, Phase.ABORTED.value)
        return [item for item in self.view(key)["items"] if item["phase"] not in over]

    # --- to change

    def pause(self, key: EnvKey, version: str, paused: bool, by: Actor) -> None:
        """Let a backfill wait, or go on. Raises Forbidden, NotFound, Unavailable."""
        by.require(Role.OPERATOR, key)
        self._database(key).pause(version, paused)
        self._audit.note(by, "migration.pause" if paused else "migration.resume", f"{key}/{version}")

    def abort(self, key: EnvKey, version: str, by: Actor) -> None:
        """Take a new shape away that no release needs. Raises Forbidden, NotFound, Refused, Unavailable."""
        by.require(Role.OPERATOR, key)
        environment = self._seen.environment(key)
        database, ledger = self._database(key), self._ledger(key)
        record = self._record(ledger, version)
        places = {one.version: one.position for one in ledger}
        with self._parts.databases.exclusive(key):
            needing = [one for one in self._needing(environment) if places.get(one.version, 0) >= record.position]
            if needing:
                raise Refused(
                    f"{version} cannot be aborted: {needing[0].release} {needing[0].why} and needs it.",
                    hint="Its contract takes the old shape away instead, when the window allows it.",
                )
            database.abort(version, self._watch())
        self._audit.note(by, "migration.abort", f"{key}/{version}", {"phase": record.phase.value})

    def contract(self, key: EnvKey, version: str, override: str, by: Actor) -> None:
        """Have an old shape taken away; ``override`` says why although something needs it, and empty that nothing may.

        It runs in the background. Raises Forbidden, NotFound, Invalid, Refused with all that it waits for.
        """
        by.require(Role.ADMIN if override else Role.OPERATOR, key)
        if len(override) > LONGEST_WHY:
            raise Invalid("override", override, f"a reason of at most {LONGEST_WHY} characters")
        environment, ledger = self._seen.environment(key), self._ledger(key)
        record = self._record(ledger, version)
        release = self._release(environment)
        assert release is not None  # it has a ledger
        waits = waits_for(record, ledger, self._around(environment, release, record, ledger))
        technical = waits_for(record, ledger, Surroundings())
        if technical or (waits and not override):
            raise Refused(
                f"{version} is not contracted: {'; '.join(technical or waits)}.",
                hint=""
                if technical
                else "It is done by itself then. An admin may override it, with the reason: the window shrinks.",
                waits=list(technical or waits),
            )
        self._wanted.append((key, version, override, by))
        self._wake.set()

    # --- by itself

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._interval)
            self._wake.clear()
            try:
                while self._wanted and not self._stop.is_set():
                    key, version, override, by = self._wanted.popleft()
                    self._contract(key, version, override, by)
                self.look()
            except Exception:
                log.exception("migrations")

    def look(self) -> None:
        """Contract what may be, everywhere."""
        for environment in self._parts.store.environments():
            if self._stop.is_set():
                return
            try:
                self._look_at(environment)
            except CrossfadeError as error:
                log.warning("%s: %s", environment.key, error)

    def _look_at(self, environment: Environment) -> None:
        release = self._release(environment)
        if release is None or release.config.database is None:
            return
        self._read(environment.key)
        if not release.config.database.contracts:
            return
        ledger = self._parts.databases.ledger(release) or ()
        record = next((one for one in ledger if one.phase in OPEN), None)
        if record is None or waits_for(record, ledger, self._around(environment, release, record, ledger)):
            return
        self._contract(environment.key, record.version, "", CUSTODIAN)

    def _contract(self, key: EnvKey, version: str, override: str, by: Actor) -> None:
        databases = self._parts.databases
        try:
            database = self._database(key)
            with databases.exclusive(key):
                environment = self._seen.environment(key)
                ledger = database.ledger()
                record, release = self._record(ledger, version), self._release(environment)
                assert release is not None  # `_database` found it
                waits = waits_for(record, ledger, self._around(environment, release, record, ledger))
                if waits and not override:
                    return
                databases.contracting(key, version)
            try:
                self._audit.note(
                    by,
                    "migration.contract",
                    f"{key}/{version}",
                    {"phase": record.phase.value, "waits": list(waits)},
                    {"override": override} if override else {},
                )
                database.contract(version, self._watch())
            finally:
                databases.contracting(key, None)
            self._said.pop((key, version), None)
        except CrossfadeError as error:
            self._said[key, version] = str(error)
            log.warning("contract of %s in %s: %s", version, key, error)

    def _watch(self) -> Watch:
        return Watch(lambda line: log.info("%s", line), lambda _: None, lambda: "", self._stop)

    # --- what is around

    def _release(self, environment: Environment) -> Release | None:
        """The release whose database counts: the live one's, else the candidate's."""
        store, number = self._parts.store, environment.live
        if number is None and environment.holder is not None:
            number = store.rollout(environment.holder).plan.candidate
        return store.release(environment.key.service, number) if number is not None else None

    def _database(self, key: EnvKey) -> Database:
        release = self._release(self._seen.environment(key))
        database = self._parts.databases.of(release) if release is not None else None
        if database is None:
            raise NotFound(f"{key} has no database.", hint="`database` in crossfade.yaml names one.")
        return database

    def _ledger(self, key: EnvKey) -> Sequence[Record]:
        return self._database(key).ledger()

    @staticmethod
    def _record(ledger: Sequence[Record], version: str) -> Record:
        found = [one for one in ledger if one.version == version and one.phase is not Phase.ABORTED]
        if not found:
            known = ", ".join(one.version for one in ledger) or "none"
            raise NotFound(f"There is no migration {version}.", hint=f"Known: {known}.")
        return found[-1]

    def _versions(self, environment: Environment) -> tuple[str | None, str | None]:
        """The schema versions of the live release and of the candidate."""
        store, service = self._parts.store, environment.key.service

        def of(number: ReleaseNumber | None) -> str | None:
            return store.release(service, number).config.schema_version if number is not None else None

        holder = environment.holder
        candidate = store.rollout(holder).plan.candidate if holder is not None else None
        return of(environment.live), of(candidate)

    def _needing(self, environment: Environment) -> list[Needing]:
        """Releases that run or can be brought back, each once, with its strongest reason."""
        key, store = environment.key, self._parts.store
        found: dict[ReleaseNumber, str] = {}
        if environment.live is not None:
            found[environment.live] = "is live"
        if environment.holder is not None:
            plan = store.rollout(environment.holder).plan
            found.setdefault(plan.candidate, f"is being rolled out by #{environment.holder}")
        for slot, occupant in environment.slots.items():
            found.setdefault(occupant.release, f"still runs in slot {slot}")
        for one in self._seen.restorable(key, 60.0):
            if one.ok:
                found.setdefault(one.number, "is in the rollback window")
        needing = []
        for number, why in found.items():
            config = store.release(key.service, number).config
            if config.database is not None:
                needing.append(Needing(str(number), config.schema_version, why))
        return needing

    def _around(
        self, environment: Environment, release: Release, record: Record, ledger: Sequence[Record]
    ) -> Surroundings:
        places = {one.version: one.position for one in ledger}
        live, _ = self._versions(environment)
        promoted = live is not None and places.get(live, 0) >= record.position
        rollout = f"rollout #{environment.holder} is under way" if environment.holder is not None else ""
        needing = self._needing(environment)
        return Surroundings(needing, self._burning(environment.key, release), rollout, promoted)

    def _read(self, key: EnvKey) -> None:
        readings = self._readings.setdefault(key, deque())
        try:
            readings.append(self._parts.signals.read(key))
        except CrossfadeError:
            return
        while len(readings) > 1 and readings[-1].at - readings[0].at > LOOKS_BACK:
            readings.popleft()

    def _burning(self, key: EnvKey, release: Release) -> str:
        """Whether clients see more errors than the release may make: then nothing is taken away from under it."""
        readings = self._readings.get(key)
        limit = release.config.strategy.limits.error_rate
        if not readings or limit is None:
            return ""
        total = readings[-1].since(readings[0]).total() if len(readings) > 1 else readings[0].total()
        if total.requests < LEAST or len(readings) == 1:
            return ""
        share = total.errors / total.requests
        if share <= limit:
            return ""
        return f"clients see {100 * share:.2g} % errors, and {100 * limit:.2g} % are allowed"


def said_of(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Open migrations as lines for people."""
    return [
        f"{one['version']}: {one['phase']}" + (f", waits: {one['waits'][0]}" if one["waits"] else "") for one in items
    ]
