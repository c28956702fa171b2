"""Tidies behind the rollouts: stops what has drained, retires what was warm long enough, completes receipts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from crossfade.domain.environment import Retirement
from crossfade.domain.errors import CrossfadeError, NotFound
from crossfade.domain.receipt import AFTER
from crossfade.domain.signal import Reading
from crossfade.engine.effects import Effects, write_receipt
from crossfade.ports import Parts

log = logging.getLogger("crossfade.janitor")

INTERVAL = 0.5
"""Seconds between rounds while there is something to do."""

IDLE_INTERVAL = 5.0
"""Seconds between rounds when nothing is due; a rollout that leaves something behind wakes the janitor at once."""


class Janitor:
    """Works in a thread of its own. Everything it does can be done again after a crash."""

    def __init__(self, parts: Parts, effects: Effects, revive: Callable[[], bool]) -> None:
        self._parts = parts
        self._effects = effects
        self._revive = revive
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            busy = False
            for chore in (self._revive, self.complete_receipts, self.cool_down, self.finish_retirements):
                try:
                    busy = chore() or busy
                except CrossfadeError as error:
                    log.warning("%s: %s", chore.__name__, error)
                except Exception:
                    log.exception("%s", chore.__name__)
            if busy:
                self._stop.wait(INTERVAL)
            else:
                self._wake.wait(IDLE_INTERVAL)

    def finish_retirements(self) -> bool:
        """Stop replicas that have drained or whose time is up. True while some are left."""
        retirements = self._parts.store.retirements()
        for retirement in retirements:
            if self._drained(retirement) or self._parts.now() >= retirement.deadline:
                self._finish(retirement)
        return bool(retirements)

    def _drained(self, retirement: Retirement) -> bool:
        try:
            edge = self._parts.router.read(retirement.key)
        except NotFound:
            return True
        servers = edge.servers.get(retirement.slot, ())
        return all(s.sessions == 0 for s in servers if s.server.name in retirement.names)

    def _finish(self, retirement: Retirement) -> None:
        parts = self._parts
        environment = parts.store.environment(retirement.key)
        fence = environment.fence if environment is not None else 0
        try:
            parts.router.remove_servers(retirement.key, retirement.slot, retirement.names, fence)
        except NotFound:
            pass
        parts.runtime.stop(retirement.key, retirement.names, fence)
        parts.store.retired(retirement.id)

    def cool_down(self) -> bool:
        """Retire standbys that were warm long enough; not while a rollout holds the environment."""
        waiting = False
        for environment in self._parts.store.environments():
            if environment.holder is not None:
                continue
            for slot, occupant in environment.slots.items():
                if occupant.warm_until is not None and self._parts.now() >= occupant.warm_until:
                    self._effects.retire(environment.key, slot, occupant, environment.fence)
                    waiting = True
        return waiting

    def complete_receipts(self) -> bool:
        """Add what clients saw after the end, once that time is over. True while some are incomplete."""
        unfinished = self._parts.store.unfinished_receipts()
        for rollout, closed in unfinished:
            if self._parts.now() < closed + AFTER:
                continue
            state = self._parts.store.rollout(rollout)
            if not state.phase.ended:
                continue  # closed, but its last turn is not saved yet
            try:
                self._parts.store.keep_reading(rollout, "after", self._parts.signals.read(state.plan.key))
            except NotFound:
                end = self._parts.store.readings(rollout).get("end")
                if end is None:
                    self._parts.store.keep_reading(rollout, "after", _nothing(closed))
                else:
                    self._parts.store.keep_reading(rollout, "after", end)
            self._parts.store.keep_receipt(rollout, write_receipt(self._parts, state, state.phase, closed))
        return bool(unfinished)


def _nothing(at: float) -> Reading:
    return Reading(at, "none", {})
