"""Migrations of environments: where each stands, what its contract waits for, and who may say otherwise."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final, Protocol

from crossfade.domain.access import Actor, Grant, Role
from crossfade.domain.environment import Environment
from crossfade.domain.errors import Busy, CrossfadeError, Invalid, NotFound, Refused
from crossfade.domain.migrations.phases import OPEN, Needing, Phase, Record, Surroundings, standing, waits_for
from crossfade.domain.release import Release, Restorable
from crossfade.domain.signal import Lately
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Parts
from crossfade.ports.databases import Database, Watch
from crossfade.service.audit import Audit

log = logging.getLogger("crossfade.migrations")

INTERVAL: Final = 5.0
"""Seconds between two looks at what may be contracted."""
LOOKS_BACK: Final = 300.0
"""Seconds over which the error share is counted that a contract looks at."""
LONGEST_WHY: Final = 500
NEWEST: Final = 5
"""Releases among which a database is looked for when neither the live one nor a candidate names any."""
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
        self._clients: defaultdict[EnvKey, Lately] = defaultdict(lambda: Lately(LOOKS_BACK))
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
        surroundings = self._around(environment, release)
        for record in ledger:
            around = self._seen_from(record, ledger, surroundings, live)
            waits = self._stands_in_the_way(record, ledger, around, "") if record.phase in OPEN else ()
            phase = standing(record, ledger, around, candidate, live)
            items.append(
                {
                    **asdict(record),
                    "phase": phase.value,
                    "progress": [{**asdict(one), "phase": one.phase.value} for one in record.progress],
                    "samples": list(record.samples),
                    "waits": list(waits) if record.contracts or record.phase in OPEN else [],
                    "trouble": record.trouble
                    or (self._said.get((key, record.version), "") if record.phase in OPEN else ""),
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
        database = self._database(key)
        with self._parts.databases.exclusive(key):
            environment, ledger = self._seen.environment(key), database.ledger()
            record, release = self._record(ledger, version), self._release(environment)
            assert release is not None  # it has a database
            known = {one.version for one in ledger}
            needing = [
                one
                for one in self._needing(environment, release)
                # What a candidate needs may not have been begun yet, and builds on all there is.
                if _place(one.version, ledger) >= record.position or (one.version and one.version not in known)
            ]
            if needing:
                raise Refused(
                    f"{version} cannot be aborted: {needing[0].release} {needing[0].why} and needs it.",
                    hint="Its contract takes the old shape away instead, when the window allows it.",
                )
            database.abort(version, self._watch())
        self._audit.note(by, "migration.abort", f"{key}/{version}", {"phase": record.phase.value})

    def contract(self, key: EnvKey, version: str, override: str, by: Actor) -> None:
        """Have an old shape taken away; ``override`` says why although releases of the rollback window need it.

        Those can no longer be restored then; what runs is never overridden. It runs in the background. Raises Forbidden,
        NotFound, Invalid, Refused with all that it waits for.
        """
        by.require(Role.ADMIN if override else Role.OPERATOR, key)
        if len(override) > LONGEST_WHY:
            raise Invalid("override", override, f"a reason of at most {LONGEST_WHY} characters")
        environment, ledger = self._seen.environment(key), self._ledger(key)
        record = self._record(ledger, version)
        release = self._release(environment)
        assert release is not None  # it has a ledger
        waits = self._waits(environment, release, record, ledger, override)
        if waits:
            overridable = not self._waits(environment, release, record, ledger, "a reason")
            raise Refused(
                f"{version} is not contracted: {'; '.join(waits)}.",
                hint="An admin may give the rollback window up for it, with --override and the reason."
                if overridable
                else "Only the rollback window can be given up for it.",
                waits=list(waits),
            )
        self._said.pop((key, version), None)
        self._wanted.append((key, version, override, by))
        self._wake.set()

    @staticmethod
    def _stands_in_the_way(
        record: Record, ledger: Sequence[Record], around: Surroundings, override: str
    ) -> tuple[str, ...]:
        """What a contract still waits for. One that has begun waits for nothing: it has passed its point of no return."""
        if record.phase is Phase.CONTRACTING:
            around = Surroundings()
        elif override:
            around = replace(around, needing=[one for one in around.needing if one.runs])
        return waits_for(record, ledger, around)

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
                self.look()
            except Exception:
                log.exception("migrations")

    def look(self) -> None:
        """Contract what was ordered and what may be, everywhere."""
        for _ in range(len(self._wanted)):
            self._contract(*self._wanted.popleft())
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
        ledger = self._parts.databases.ledger(release) or ()
        for one in ledger:
            if one.phase is Phase.ABORTING:
                self._finish_abort(environment.key, one.version)
        record = next((one for one in ledger if one.phase in OPEN), None)
        if record is None or not (release.config.database.contracts or record.phase is Phase.CONTRACTING):
            return
        if not self._waits(environment, release, record, ledger, ""):
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
                waits = self._waits(environment, release, record, ledger, override)
                if waits or record.phase is Phase.CONTRACTED:
                    self._say(key, version, by, "; ".join(waits))
                    return
                needing = self._needing(environment, release) if override else []
                given_up = [one.release for one in needing if _place(one.version, ledger) < record.position]
                databases.contracting(key, version)
            try:
                if by is not CUSTODIAN or (key, version) not in self._said:  # not each time it tries again
                    after = {"override": override, "given_up": given_up} if override else {}
                    self._audit.note(by, "migration.contract", f"{key}/{version}", {"phase": record.phase.value}, after)
                database.contract(version, self._watch())
            finally:
                databases.contracting(key, None)
            self._say(key, version, by, "")
        except Busy as error:
            log.info("contract of %s in %s: %s", version, key, error)
            if by is not CUSTODIAN:
                self._wanted.append((key, version, override, by))  # the next look tries again
        except CrossfadeError as error:
            self._said[key, version] = str(error)
            log.warning("contract of %s in %s: %s", version, key, error)

    def _finish_abort(self, key: EnvKey, version: str) -> None:
        """An abort that a crash has broken off: nothing that needs its shape was there when it began, or can come."""
        try:
            self._database(key).abort(version, self._watch())
        except Busy as error:
            log.info("abort of %s in %s: %s", version, key, error)

    def _say(self, key: EnvKey, version: str, by: Actor, why: str) -> None:
        """What somebody who has ordered a contract should know; the custodian itself looks again."""
        if why and by is not CUSTODIAN:
            self._said[key, version] = why
        else:
            self._said.pop((key, version), None)

    def _watch(self) -> Watch:
        return Watch(lambda line: log.info("%s", line), lambda _: None, lambda: "", self._stop)

    # --- what is around

    def _release(self, environment: Environment) -> Release | None:
        """The release whose database counts: the live one's, else the candidate's, else that of the newest that has one."""
        store, key = self._parts.store, environment.key
        numbers = [environment.live] if environment.live is not None else []
        if environment.holder is not None:
            numbers.append(store.rollout(environment.holder).plan.candidate)
        first = [store.release(key.service, number) for number in numbers]
        with_database = (one for one in first if one.config.database is not None)
        found = next(with_database, None)
        if found is None:
            found = next((one for one in store.releases(key, limit=NEWEST) if one.config.database is not None), None)
        return found

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

    def _needing(self, environment: Environment, release: Release) -> list[Needing]:
        """Releases that run or can be brought back, each once, with its strongest reason.

        One that is older than ``release``, which names the database, and names none itself, is from before all migrations as
        far as anybody knows.
        """
        key, store = environment.key, self._parts.store
        found: dict[ReleaseNumber, str] = {}
        if environment.live is not None:
            found[environment.live] = "is live"
        if environment.holder is not None:
            plan = store.rollout(environment.holder).plan
            found.setdefault(plan.candidate, f"is being rolled out by #{environment.holder}")
        for slot, occupant in environment.slots.items():
            found.setdefault(occupant.release, f"still runs in slot {slot}")
        for one in store.retirements():
            if one.key == key and one.release is not None:
                found.setdefault(one.release, "still serves its last requests")
        running = set(found)
        for restorable in self._seen.restorable(key, 60.0):
            if restorable.ok:
                found.setdefault(restorable.number, "is in the rollback window")
        needing = []
        for number, why in found.items():
            config = store.release(key.service, number).config
            if config.database is not None or number.n < release.number.n:
                needing.append(Needing(str(number), config.schema_version, why, number in running))
        return needing

    def _around(self, environment: Environment, release: Release) -> Surroundings:
        rollout = f"rollout #{environment.holder} is under way" if environment.holder is not None else ""
        # Nothing is taken away from under a release whose clients see more errors than they may.
        burning = self._clients[environment.key].over(release.config.strategy.limits.error_rate)
        return Surroundings(self._needing(environment, release), burning, rollout)

    @staticmethod
    def _seen_from(record: Record, ledger: Sequence[Record], around: Surroundings, live: str | None) -> Surroundings:
        return replace(around, promoted=live is not None and _place(live, ledger) >= record.position)

    def _waits(
        self, environment: Environment, release: Release, record: Record, ledger: Sequence[Record], override: str
    ) -> tuple[str, ...]:
        """What a contract waits for, whatever ``override`` gives up."""
        live, _ = self._versions(environment)
        around = self._seen_from(record, ledger, self._around(environment, release), live)
        return self._stands_in_the_way(record, ledger, around, override)

    def _read(self, key: EnvKey) -> None:
        try:
            self._clients[key].add(self._parts.signals.read(key))
        except CrossfadeError:
            return  # nobody knows: what was seen before stands


def _place(version: str, ledger: Sequence[Record]) -> int:
    """Where a version stands in a ledger; 0 for what is from before all, or is not applied."""
    return next((one.position for one in reversed(ledger) if one.version == version), 0)


def said_of(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Open migrations as lines for people."""
    return [
        f"{one['version']}: {one['phase']}" + (f", waits: {one['waits'][0]}" if one["waits"] else "") for one in items
    ]
