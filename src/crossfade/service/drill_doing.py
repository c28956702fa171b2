"""Carries out the actions of a drill, by the ordinary use cases. Doing one twice is doing it once."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from crossfade.domain.access import Actor, Grant, Role
from crossfade.domain.drill import (
    EDGE_FAULTS,
    Action,
    Conclude,
    Done,
    Drill,
    Expose,
    Fault,
    GoTo,
    Inject,
    Lift,
    Mark,
    Recall,
)
from crossfade.domain.drill_receipt import build
from crossfade.domain.environment import Environment
from crossfade.domain.errors import CrossfadeError, Refused
from crossfade.domain.rollout import Command, Rollout
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Parts
from crossfade.service import drill_looking as looking
from crossfade.service.drill_drive import Drive, name_of

LEASE: Final = 15.0
"""Seconds for which the edge goes on with a fault by itself."""


class Moves(Protocol):
    """What is asked of the use cases that move traffic."""

    def environment(self, key: EnvKey) -> Environment: ...

    def rollback(self, key: EnvKey, to: ReleaseNumber | None, by: Actor) -> Rollout: ...

    def expose(self, key: EnvKey, by: Actor) -> Rollout: ...

    def order(self, rollout: int, command: Command, by: Actor) -> Rollout: ...


class Doing:
    """Does what `domain.rehearsal` decided. ``kill`` ends a process; ``kill_server`` this one, None where nobody starts it again."""

    def __init__(self, parts: Parts, used: Moves) -> None:
        self._parts, self._used = parts, used
        self.kill_server: Callable[[], None] | None = None
        self.kill: Callable[[int], None] = lambda pid: os.kill(pid, signal.SIGKILL)
        self._server = secrets.token_hex(8)
        """Which of the servers this one is: one that was killed was another."""

    def carry_out(self, drive: Drive, action: Action) -> Done:
        """Raises CrossfadeError."""
        state = drive.state
        by = Actor(name_of(state.id), (Grant(Role.ADMIN),), "engine")
        key = state.plan.key
        match action:
            case Mark(label=label):
                drive.readings.setdefault(label, self._parts.signals.read(key))
            case Inject(fault=fault):
                return self._inject(drive, action, fault)
            case Lift():
                self.at_edge(drive, None)
            case GoTo(release=release):
                known = looking.begun(self._parts, key, by.name, release, self._last_own(state))
                return Done(action.id, known or self._used.rollback(key, release, by).id)
            case Expose():
                known = looking.begun(self._parts, key, by.name, state.plan.home, self._last_own(state))
                return Done(action.id, known or self._used.expose(key, by).id)
            case Recall(rollout=rollout):
                self._used.order(rollout, Command.ABORT, by)
            case Conclude():
                drive.receipt = self._receipt(drive)
        return Done(action.id)

    @staticmethod
    def _last_own(state: Drill) -> int:
        """The newest of the drill's rollouts that has ended its part: another one is begun for the next."""
        return max((one.rollout for one in (state.there, state.back) if one is not None), default=0)

    def _inject(self, drive: Drive, action: Inject, fault: Fault) -> Done:
        """Raises CrossfadeError."""
        environment = self._used.environment(drive.state.plan.key)
        match fault:
            case Fault.KILL_REPLICA:
                if drive.victim is None:
                    running = [one for one in looking.live_replicas(self._parts, environment) if one.pid > 0]
                    if not running:
                        raise Refused("no replica of the live release runs as a process that could be killed")
                    drive.victim = (running[0].name, running[0].pid)
                    self._keep(drive)
                name, pid = drive.victim
                if any(one.name == name and one.pid == pid for one in looking.live_replicas(self._parts, environment)):
                    try:
                        self.kill(pid)
                    except ProcessLookupError:
                        pass  # it has ended already
            case Fault.LATENCY | Fault.ERRORS:
                if drive.slot is None:
                    drive.slot = environment.standby
                    self._keep(drive)
                self.at_edge(drive, fault)
            case Fault.KILL_CONTROL_PLANE:
                if drive.killed is None:
                    if self.kill_server is None:
                        raise Refused("this server would not come back: nobody supervises it")
                    drive.killed = (self._server, self._parts.now())
                    self._keep(drive)
                if drive.killed[0] == self._server and self.kill_server is not None:
                    self.kill_server()
                return Done(action.id, at=drive.killed[1])
        return Done(action.id)

    def _keep(self, drive: Drive) -> None:
        self._parts.records.save(drive.state.id, drive.to_data(), self._parts.now(), told=False)

    def at_edge(self, drive: Drive, fault: Fault | None) -> None:
        """Raises CrossfadeError."""
        if drive.slot is None:
            return
        key, now = drive.state.plan.key, self._parts.now()
        wanted = EDGE_FAULTS[fault] if fault is not None else None
        self._parts.router.inject(key, drive.slot, wanted, now + LEASE, self._used.environment(key).fence)
        drive.leased = now

    def _receipt(self, drive: Drive) -> dict[str, Any]:
        try:
            failures: Sequence[Any] = self._parts.signals.failures(drive.state.plan.key, drive.state.began)
        except CrossfadeError:
            failures = ()
        return build(drive.state, drive.readings, failures, self._parts.now(), drive.slot)
