"""The rollback window, proven: each of its releases is checked and started aside, regularly, one at a time.

A replica that proves something is in no slot and never at the edge: it is started, asked the health checks of its release, and
stopped. One thread does it, never while a rollout or a drill has one of the environments. What a killed server leaves is
stopped by the next one.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

from crossfade.domain.access import Actor, Role
from crossfade.domain.alert import Severity
from crossfade.domain.drill import ProofPolicy
from crossfade.domain.environment import Environment
from crossfade.domain.errors import CrossfadeError, NotFound, Refused
from crossfade.domain.migrations.phases import too_old
from crossfade.domain.proof import Checked, Tried, next_at, overdue, proves, replica_name
from crossfade.domain.release import Release, ReleaseConfig, Restorable
from crossfade.domain.values import EnvKey, ReleaseNumber, show_duration
from crossfade.ports import Parts, Record
from crossfade.service.alerts import Alerts
from crossfade.service.audit import Audit

KIND: Final = "proof"
ALERT: Final = "proof:"
"""How the names of alerts begin, of releases by their numbers."""
INTERVAL: Final = 5.0
"""Seconds between two looks at what is due."""
SLOT: Final = "proof"
"""What a replica that proves something is told of its slot."""
KEPT: Final = 300
"""Proofs of an environment that are looked through for the newest of each release."""
LOG_LINES: Final = 5

log = logging.getLogger("crossfade.proofs")


class Seen(Protocol):
    """What is asked of the views."""

    def environment(self, key: EnvKey) -> Environment: ...

    def restorable(self, key: EnvKey, lately: float = 0.0) -> tuple[Restorable, ...]: ...

    def unfit(self, key: EnvKey, release: Release) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Proven:
    """The newest proof of a release, and the newest that held."""

    newest: Record | None = None
    held: Record | None = None

    @property
    def tried(self) -> Tried:
        return Tried(
            self.newest.ended if self.newest is not None else None, self.held.ended if self.held is not None else None
        )


class _Interrupted(Exception):
    """Somebody needs the environment, or the server ends: nothing was found."""


def last_proofs(parts: Parts, key: EnvKey) -> Mapping[ReleaseNumber, Proven]:
    """The newest proofs of each release of an environment."""
    found: dict[ReleaseNumber, Proven] = {}
    for record in parts.records.list(KIND, key, limit=KEPT):
        if record.ended is None or record.data["ok"] is None:
            continue
        number = ReleaseNumber.parse(record.subject)
        known = found.get(number, Proven())
        if known.newest is None:
            known = replace(known, newest=record)
        if known.held is None and record.data["ok"]:
            known = replace(known, held=record)
        found[number] = known
    return found


class Proofs:
    """Use cases, and the thread that proves. ``drilled`` says whether a drill has an environment."""

    def __init__(self, parts: Parts, seen: Seen, audit: Audit, alerts: Alerts, interval: float = INTERVAL) -> None:
        self._parts, self._seen, self._audit, self._alerts, self._interval = parts, seen, audit, alerts, interval
        self.drilled: Callable[[EnvKey], bool] = lambda _key: False
        self._asked: deque[tuple[EnvKey, ReleaseNumber, str]] = deque()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="proofs", daemon=True)

    # --- to see

    def list(self, key: EnvKey) -> list[dict[str, Any]]:
        """The releases of the window, newest first, each with its newest proof. Raises NotFound."""
        policy = self._policy(key)
        last, now = last_proofs(self._parts, key), self._parts.now()
        return [self._row(key, number, last.get(number, Proven()), policy.every, now) for number in self._window(key)]

    def _row(self, key: EnvKey, number: ReleaseNumber, last: Proven, every: float, now: float) -> dict[str, Any]:
        since = self._parts.store.release(key.service, number).created
        data = last.newest.data if last.newest is not None else {}
        asked = any(place == key and wanted == number for place, wanted, _ in list(self._asked))
        return {
            "release": str(number),
            "proven": last.held.ended if last.held is not None else None,
            "tried": last.newest.ended if last.newest is not None else None,
            "ok": data.get("ok"),
            "took": data.get("took"),
            "where": data.get("where", self._policy(key).where or key.environment),
            "checks": list(data.get("checks", ())),
            "sentence": data.get("sentence", "it was never tried"),
            "asked": asked,
            "next": next_at(last.tried, since, every),
            "overdue": overdue(last.tried, since, every, now),
        }

    def _window(self, key: EnvKey) -> tuple[ReleaseNumber, ...]:
        return tuple(one.number for one in self._seen.restorable(key, 60.0))

    def _policy(self, key: EnvKey) -> ProofPolicy:
        live = self._seen.environment(key).live
        if live is None:
            raise NotFound(f"{key} has no live release yet.", hint="`crossfade deploy` makes the first one.")
        return self._parts.store.release(key.service, live).config.proofs

    # --- to change

    def prove(self, key: EnvKey, number: ReleaseNumber | None, by: Actor) -> dict[str, Any]:
        """Ask for a release of the window to be proven now, or for all of them. Raises Forbidden, NotFound, Refused."""
        by.require(Role.OPERATOR, key)
        self._policy(key)
        window = self._window(key)
        if number is not None and number not in window:
            known = ", ".join(map(str, window)) or "none"
            raise Refused(f"{number} is not in the rollback window of {key}.", hint=f"There are: {known}.")
        wanted = window if number is None else (number,)
        for one in wanted:
            if not any((key, one) == (place, known) for place, known, _ in list(self._asked)):
                self._asked.append((key, one, by.name))
        self._audit.note(by, "proof.ask", str(key), {}, {"releases": [str(one) for one in wanted]})
        self._wake.set()
        return {"asked": [str(one) for one in wanted], "at": self._parts.now()}

    # --- by itself

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        cleaned = False
        while not self._stop.is_set():
            again = False
            try:
                if not cleaned:
                    self.clean()
                    cleaned = True
                again = self.look()
            except Exception:
                log.exception("proofs")
            if not again:
                self._wake.wait(self._interval)
                self._wake.clear()

    def clean(self) -> None:
        """Stop what an earlier server has left, and say of its proofs that they were interrupted. Raises CrossfadeError."""
        for record in self._parts.records.list(KIND, open_only=True, limit=1000):
            data = {**record.data, "ok": None, "sentence": "the server ended in the middle of it"}
            self._parts.records.save(record.id, data, self._parts.now(), ended=True)
        for environment in self._parts.store.environments():
            left = [one.name for one in self._parts.runtime.replicas(environment.key) if proves(one.name)]
            if left:
                self._parts.runtime.stop(environment.key, left, environment.fence)

    def look(self) -> bool:
        """Prove the release that is asked for, or most overdue; False when none could be."""
        self._tidy()
        for key, number, by in self._wanted():
            if self._free(key) and self._free(self._where(key)):
                asked = [one for one in list(self._asked) if one[:2] == (key, number)]
                for one in asked:
                    self._asked.remove(one)
                done = self.once(key, number, by)
                if not done:
                    self._asked.extend(asked)  # whoever asked waits for an answer
                return done
        return False

    def _tidy(self) -> None:
        """What is said of a release is over once nobody would go back to it any more."""
        for alert in self._alerts.list(open_only=True, limit=1000):
            if not alert.name.startswith(ALERT):
                continue
            key, release = alert.key, alert.facts["release"]
            if release not in map(str, (self._seen.environment(key).live, *self._window(key))):
                self._alerts.resolve(key, alert.name, f"{release} is not gone back to any more")

    def _wanted(self) -> Iterable[tuple[EnvKey, ReleaseNumber, str]]:
        """Those that somebody asked for, then those whose time has come, the longest waiting first."""
        yield from list(self._asked)
        now = self._parts.now()
        due: list[tuple[float, EnvKey, ReleaseNumber]] = []
        for environment in self._parts.store.environments():
            if environment.live is None:
                continue
            key = environment.key
            every = self._parts.store.release(key.service, environment.live).config.proofs.every
            if every <= 0:
                continue
            last = last_proofs(self._parts, key)
            for number in self._window(key):
                since = self._parts.store.release(key.service, number).created
                at = next_at(last.get(number, Proven()).tried, since, every)
                if at is not None and at <= now:
                    due.append((at, key, number))
        for _, key, number in sorted(due):
            yield key, number, ""

    def _where(self, key: EnvKey) -> EnvKey:
        """The environment that a proof is made in."""
        return EnvKey(key.service, self._policy(key).where or key.environment)

    def _free(self, key: EnvKey) -> bool:
        environment = self._parts.store.environment(key)
        return (environment is None or environment.holder is None) and not self.drilled(key)

    def once(self, key: EnvKey, number: ReleaseNumber, by: str = "") -> bool:
        """Prove one release now; False when somebody else needed the environment meanwhile. Raises StorageFailed."""
        with self._lock:
            began = self._parts.now()
            where = self._where(key)
            data: dict[str, Any] = {"ok": None, "took": None, "where": where.environment, "checks": [], "by": by}
            data["sentence"] = f"{number} is being proven"
            record = self._parts.records.add(KIND, key, str(number), data, began)
            checks: list[Checked] = []
            try:
                for found in self._checks(key, where, number, record.id):
                    checks.append(found)
                    if not found.ok:
                        break
            except _Interrupted as interrupted:
                data["sentence"] = str(interrupted)
                self._parts.records.save(record.id, data, self._parts.now(), ended=True)
                return False
            except CrossfadeError as error:
                checks.append(Checked("start", False, str(error)))
            took = self._parts.now() - began
            self._conclude(record, data, number, checks, took)
            return True

    def _conclude(
        self, record: Record, data: dict[str, Any], number: ReleaseNumber, checks: Sequence[Checked], took: float
    ) -> None:
        key, wrong = record.key, next((one for one in checks if not one.ok), None)
        ok = wrong is None
        said = (
            f"{number} can be restored: it was started and healthy in {show_duration(took)}"
            if wrong is None
            else f"{number} cannot be restored: {wrong.sentence}"
        )
        data |= {"ok": ok, "took": round(took, 3), "checks": [asdict(one) for one in checks], "sentence": said}
        self._parts.records.save(record.id, data, self._parts.now(), ended=True)
        if ok:
            self._alerts.resolve(key, f"{ALERT}{number}", said)
        else:
            facts = {"proof": record.id, "release": str(number), "checks": data["checks"]}
            self._alerts.open(key, f"{ALERT}{number}", Severity.TICKET, said, facts)

    # --- what is looked at

    def _checks(self, key: EnvKey, where: EnvKey, number: ReleaseNumber, proof: int) -> Iterable[Checked]:
        """One thing after the other; the first that is wrong ends it."""
        parts = self._parts
        own = parts.store.release(key.service, number)
        wrong = parts.artifacts.verify(own.digest)
        yield Checked(
            "artifact", not wrong, f"its artifact {wrong}" if wrong else f"{own.digest.short} is as it was built"
        )
        release = self._there(own, where, key)
        yield self._configured(key, where, own, release)
        unfit = self._seen.unfit(key, own)
        if not unfit and where != key and release.config.database is not None:
            ledger = parts.databases.ledger(release)
            unfit = list(too_old(release.config.schema_version, ledger)) if ledger is not None else []
        yield Checked("schema", not unfit, unfit[0] if unfit else "the database still has the shape that it needs")
        yield from self._started(where, release, proof)

    def _there(self, own: Release, where: EnvKey, key: EnvKey) -> Release:
        """The release as the environment of the proof would run it. Raises NotFound."""
        if where == key:
            return own
        twin = next((one for one in self._parts.store.releases(where, limit=200) if one.digest == own.digest), None)
        if twin is not None:
            return replace(own, config=twin.config)
        live = self._seen.environment(where).live
        if live is None:
            raise NotFound(
                f"{where} has no release whose configuration a proof could use.", hint="Correct `proofs.in`."
            )
        there: ReleaseConfig = self._parts.store.release(where.service, live).config
        mine = own.config
        config = replace(there, command=mine.command, checks=mine.checks, schema_version=mine.schema_version)
        return replace(own, config=config)

    def _configured(self, key: EnvKey, where: EnvKey, own: Release, release: Release) -> Checked:
        """Whether the values of its env_file are there, and its port is still its own to have."""
        for config in (own.config, release.config):
            if config.secrets:
                try:
                    self._parts.secrets.get(config.secrets)
                except CrossfadeError:
                    return Checked("configuration", False, "the values of its env_file are gone")
        for other in self._parts.store.environments():
            if other.key == key or other.live is None:
                continue
            theirs = self._parts.store.release(other.key.service, other.live).config
            if (theirs.bind, theirs.port) == (own.config.bind, own.config.port):
                taken = f"its port {own.config.port} is the edge port of {other.key} now"
                return Checked("configuration", False, taken)
        return Checked("configuration", True, f"its settings and secrets are there, as {where} has them")

    def _started(self, where: EnvKey, release: Release, proof: int) -> Iterable[Checked]:
        """Started aside, asked until it is healthy, and stopped whatever comes."""
        parts, name = self._parts, replica_name(where, release.number, proof)
        began = parts.now()
        try:
            parts.runtime.start(where, parts.specs(where, SLOT, release, (name,)), self._fence(where))
            fault = self._until_healthy(where, release, name, began)
        finally:
            parts.runtime.stop(where, (name,), self._fence(where))
        took = show_duration(parts.now() - began)
        yield Checked("start", not fault, fault or f"one replica was started in {where} and healthy after {took}")

    def _until_healthy(self, where: EnvKey, release: Release, name: str, began: float) -> str:
        """Why it did not get healthy; empty when it did. Raises _Interrupted."""
        parts, config = self._parts, release.config
        while True:
            fault = self._ask(where, config, name)
            if not fault:
                return ""
            if self._stop.is_set():
                raise _Interrupted("the server ended in the middle of it")
            if not self._free(where):
                raise _Interrupted(f"{where} was needed for something else")
            if parts.now() - began >= config.start_timeout:
                lines = parts.runtime.logs(name, LOG_LINES)
                said = f" (its last line: {lines[-1][:200]})" if lines else ""
                return f"it did not get healthy within {show_duration(config.start_timeout)}: {fault}{said}"
            self._stop.wait(config.check_interval)

    def _ask(self, where: EnvKey, config: ReleaseConfig, name: str) -> str:
        found = next((one for one in self._parts.runtime.replicas(where) if one.name == name), None)
        if found is None:
            return "its replica is not there"
        if found.state in ("exited", "stopped"):
            return f"its replica {found.detail or found.state}"
        results = self._parts.prober.check(f"http://{found.host}:{found.port}", config.checks, {})
        return next((f"{result.name}: {fault}" for result in results for fault in result.faults), "")

    def _fence(self, key: EnvKey) -> int:
        environment = self._parts.store.environment(key)
        return environment.fence if environment is not None else 0
