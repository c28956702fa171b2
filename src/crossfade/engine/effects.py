"""Carries out the actions of a rollout. Each may be repeated after a crash and then does only what is missing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

from crossfade.domain.actions import (
    Action,
    ClearSlot,
    Close,
    Commit,
    Connect,
    Discard,
    DiscardControl,
    KillFlag,
    Migrate,
    Probe,
    SetSplit,
    Snapshot,
    StartControl,
    StartReplicas,
)
from crossfade.domain.audit import AuditEntry
from crossfade.domain.environment import Environment, Occupant
from crossfade.domain.errors import CrossfadeError, Moved, NotFound
from crossfade.domain.flags.model import Killed
from crossfade.domain.flags.steering import killed
from crossfade.domain.health import CheckResult
from crossfade.domain.receipt import build
from crossfade.domain.release import Release
from crossfade.domain.rollout import Phase, Rollout
from crossfade.domain.traffic import CONTROL, PREVIEW_HEADER, Lease, Pool, Server, Slot
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Parts, ReplicaSpec, Route

CUSTODIAN = "crossfade"
"""Who does what the engine does by itself."""

LONGEST_WHY = 500
"""Characters of a reason as it is kept with a flag."""

LOG_LINES = 20
"""How many of a replica's last lines a failure shows."""


class ProbeFailed(CrossfadeError):
    """The candidate answered its health checks, but not as it should through the preview."""

    code = "probe-failed"

    def __init__(self, what: str, detail: tuple[str, ...]) -> None:
        super().__init__(what)
        self.detail = detail


class Effects:
    """Does what `decide` decided, with the real parts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def carry_out(self, state: Rollout, action: Action, fence: int) -> None:
        """Do one action. Raises CrossfadeError when it cannot be done."""
        key = state.plan.key
        match action:
            case ClearSlot(slot=slot, keep=keep):
                self._clear(key, slot, keep, fence)
            case Migrate():
                raise AssertionError("a migration is followed: see Migrating")
            case StartReplicas(slot=slot, release=release):
                self._start(state, slot, release, fence)
            case Connect(slot=slot, release=release):
                self._connect(key, slot, release, fence)
            case Probe(slot=slot, release=release):
                self._probe(state, slot, release, fence)
            case StartControl(release=release):
                self._start_control(state, release, fence)
            case DiscardControl(release=release):
                self._discard_control(state, release, fence)
            case Snapshot(label=label):
                self._snapshot(state, label)
            case SetSplit():
                self._set_split(state, action, fence)
            case KillFlag(flag=flag, why=why):
                self._kill(state, flag, why)
            case Commit(slot=slot, release=release):
                self._commit(state, slot, release)
            case Discard(slot=slot, release=release):
                self._discard(state, slot, release, fence)
            case Close():
                self._close(state, fence)

    # --- slots and replicas

    def _clear(self, key: EnvKey, slot: Slot, keep: ReleaseNumber, fence: int) -> None:
        environment = self._environment(key)
        occupant = environment.slots.get(slot)
        if occupant is not None and occupant.release != keep:
            self.retire(key, slot, occupant, fence)

    def retire(self, key: EnvKey, slot: Slot, occupant: Occupant, fence: int) -> None:
        """No new requests for the occupant's replicas; the janitor stops them when they are drained."""
        parts = self._parts
        names = occupant.names(key)
        timeout = parts.store.release(key.service, occupant.release).config.drain_timeout
        try:
            parts.router.drain_servers(key, slot, names, fence)
        except NotFound:
            pass  # the environment never came to be at the edge: its port was taken, say
        parts.store.retire(key, slot, names, parts.now() + timeout)
        parts.store.occupy(key, slot, None)

    def _start(self, state: Rollout, slot: Slot, number: ReleaseNumber, fence: int) -> None:
        parts = self._parts
        key = state.plan.key
        release = parts.store.release(key.service, number)
        wrong = parts.artifacts.verify(release.digest)
        if wrong:
            raise NotFound(
                f"The artifact of {number} cannot be used: {wrong}.", hint="Deploy it again from its source."
            )
        parts.router.ensure(Route.of(key, release.config), fence)
        occupant = self._environment(key).slots.get(slot)
        if occupant is None or occupant.release != number:
            occupant = Occupant(number, state.id, release.config.replicas)
            parts.signals.forget(key, slot)
            parts.store.occupy(key, slot, occupant)
        # One that runs keeps the environment that it was started with: where to post events may have changed since.
        runs = {replica.name for replica in parts.runtime.replicas(key) if replica.state in ("starting", "running")}
        specs = [spec for spec in self._specs(key, slot, release, occupant) if spec.name not in runs]
        parts.runtime.start(key, specs, fence)

    def _specs(self, key: EnvKey, slot: Pool, release: Release, occupant: Occupant) -> tuple[ReplicaSpec, ...]:
        return self._parts.specs(key, slot.value, release, occupant.names(key))

    def _connect(self, key: EnvKey, slot: Slot, number: ReleaseNumber, fence: int) -> None:
        occupant = self._environment(key).slots.get(slot)
        names = frozenset(occupant.names(key)) if occupant is not None else frozenset()
        servers = [Server(r.name, r.host, r.port) for r in self._parts.runtime.replicas(key) if r.name in names]
        if len(servers) < len(names) or not servers:
            raise NotFound(f"{number} has {len(servers)} of {len(names)} replicas in slot {slot}.")
        self._parts.router.add_servers(key, slot, servers, fence, str(number))

    # --- fresh replicas of the baseline

    def _control(self, state: Rollout, number: ReleaseNumber) -> Occupant:
        """As many as the candidate has, so that both arms are alike; named by this rollout."""
        candidate = self._environment(state.plan.key).slots.get(state.plan.slot)
        return Occupant(number, state.id, candidate.replicas if candidate is not None else 1)

    def _start_control(self, state: Rollout, number: ReleaseNumber, fence: int) -> None:
        parts, key = self._parts, state.plan.key
        release = parts.store.release(key.service, number)
        occupant = self._control(state, number)
        names = occupant.names(key)
        running = {r.name for r in parts.runtime.replicas(key) if r.state in ("starting", "running")}
        if not set(names) <= running:
            parts.runtime.start(key, self._specs(key, CONTROL, release, occupant), fence)
        replicas = [r for r in parts.runtime.replicas(key) if r.name in names]
        deadline = parts.now() + release.config.start_timeout
        waiting = threading.Event()
        while faults := [
            f"{replica.name}: {result.name}: {fault}"
            for replica in replicas
            for result in parts.prober.check(f"http://{replica.host}:{replica.port}", release.config.checks, {})
            for fault in result.faults
        ]:
            if parts.now() >= deadline:
                detail = last_lines(parts, names)
                raise ProbeFailed(f"fresh replicas of {number} did not get healthy: {faults[0]}", detail)
            waiting.wait(release.config.check_interval)
        servers = [Server(r.name, r.host, r.port) for r in replicas]
        parts.router.add_servers(key, CONTROL, servers, fence, str(number))

    def _discard_control(self, state: Rollout, number: ReleaseNumber, fence: int) -> None:
        parts, key = self._parts, state.plan.key
        baseline = parts.store.release(key.service, number)
        # The candidate's occupant may be gone by now: names of replicas that never were do no harm.
        most = max(baseline.config.replicas, parts.store.release(key.service, state.plan.candidate).config.replicas)
        names = Occupant(number, state.id, most).names(key)
        try:
            parts.router.drain_servers(key, CONTROL, names, fence)
        except NotFound:
            pass
        parts.store.retire(key, CONTROL, names, parts.now() + baseline.config.drain_timeout)

    # --- questions to the candidate

    def _probe(self, state: Rollout, slot: Slot, number: ReleaseNumber, fence: int) -> None:
        parts = self._parts
        key = state.plan.key
        config = parts.store.release(key.service, number).config
        secret = parts.preview_secret(state.id)
        parts.router.open_preview(key, slot, secret, fence)
        preview: Mapping[str, str] = {PREVIEW_HEADER: secret}
        url = config.url
        self._demand(number, parts.prober.check(url, config.checks, preview), "through the edge's preview")
        if state.plan.baseline is None:
            return  # no session can have been opened on a slot that nobody was served by
        for flow in config.flows:
            results = parts.prober.flow(url, flow, {}, preview)
            self._demand(number, results, f"in flow {flow.name!r}: a session opened on {state.plan.baseline} breaks")

    @staticmethod
    def _demand(number: ReleaseNumber, results: tuple[CheckResult, ...], where: str) -> None:
        faults = tuple(f"{result.name}: {fault}" for result in results for fault in result.faults)
        if faults:
            raise ProbeFailed(f"{number} fails {where}: {faults[0]}", faults[1:])

    # --- traffic

    def _snapshot(self, state: Rollout, label: str) -> None:
        try:
            reading = self._parts.signals.read(state.plan.key)
        except NotFound:
            return  # nothing was served yet: the environment is new
        self._parts.store.keep_reading(state.id, label, reading)

    def _set_split(self, state: Rollout, action: SetSplit, fence: int) -> None:
        parts = self._parts
        key = state.plan.key
        lease = None
        if action.fallback is not None:
            term = parts.store.release(key.service, state.plan.candidate).config.lease
            lease = Lease(parts.now() + term, action.fallback)
        try:
            parts.router.set_split(key, action.split, lease, fence)
        except NotFound:
            if state.phase is not Phase.ROLLING_BACK:
                raise
            # Going back to an environment that never came to be at the edge: no traffic, nothing to move.

    def _kill(self, state: Rollout, flag: str, why: str) -> None:
        """Everybody gets the flag's off variant. Whoever writes another version meanwhile is written upon."""
        parts, key = self._parts, state.plan.key
        while True:
            known = parts.flags.current(key)
            document = (known.document if known is not None else None) or {}
            now = parts.now()
            changed = killed(document, flag, Killed(CUSTODIAN, now, why[:LONGEST_WHY]))
            if known is None or changed == document:
                return  # it is killed already
            note = f"rollout #{state.id}: {why}"[:LONGEST_WHY]
            try:
                parts.flags.write(key, changed, (flag,), CUSTODIAN, now, expects=known.number, note=note)
            except Moved:
                continue
            break
        after = {"flag": flag, "rollout": state.id, "why": why}
        parts.access.note(
            lambda seq: AuditEntry(seq, now, CUSTODIAN, "engine", "", "flag.kill", f"{key}/{flag}", {}, after)
        )

    def _commit(self, state: Rollout, slot: Slot, number: ReleaseNumber) -> None:
        parts = self._parts
        now = parts.now()
        warm_for = parts.store.release(state.plan.key.service, number).config.warm_for
        parts.store.commit(state.id, slot, number, now + warm_for, now)

    # --- the end

    def _discard(self, state: Rollout, slot: Slot, number: ReleaseNumber, fence: int) -> None:
        parts = self._parts
        key = state.plan.key
        occupant = self._environment(key).slots.get(slot)
        if occupant is not None and occupant.release == number and occupant.warm_until is None:
            self.retire(key, slot, occupant, fence)
        if state.plan.baseline is not None:
            baseline = parts.store.release(key.service, state.plan.baseline)
            parts.router.ensure(Route.of(key, baseline.config), fence)

    def _close(self, state: Rollout, fence: int) -> None:
        parts = self._parts
        now = parts.now()
        try:
            parts.router.close_preview(state.plan.key, fence)
        except NotFound:
            pass
        outcome = Phase.PROMOTED if state.phase is Phase.PROMOTING else Phase.ROLLED_BACK
        parts.store.close(state.id, write_receipt(parts, state, outcome, now), now)

    def _environment(self, key: EnvKey) -> Environment:
        environment = self._parts.store.environment(key)
        if environment is None:
            raise NotFound(f"There is no environment {key}.")
        return environment


def write_receipt(parts: Parts, state: Rollout, outcome: Phase, ended: float) -> dict[str, object]:
    """The receipt from what is on record now."""
    try:
        failures = parts.signals.failures(state.plan.key, state.began)
    except CrossfadeError:
        failures = ()
    return build(
        replace(state, phase=outcome),
        parts.store.journal(state.id),
        parts.store.readings(state.id),
        failures,
        ended,
        (parts.store.evidence(state.id) or {}).get("compared", ()),
    )


def last_lines(parts: Parts, names: tuple[str, ...]) -> tuple[str, ...]:
    """The last log lines of the first of these replicas that said anything."""
    for name in names:
        lines = parts.runtime.logs(name, LOG_LINES)
        if lines:
            return (f"last lines of {name}:", *(f"  {line}" for line in lines))
    return ("its replicas wrote nothing to their logs",) if names else ()
