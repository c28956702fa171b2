"""The engine: one durable workflow a rollout, one durable step a turn.

A turn loads the rollout's state from the ledger, does its first pending action (or looks until something matters),
decides, and saves the new state. Killed anywhere, the workflow is resumed by DBOS and the turn is done again, which
the actions allow. The state is the ledger's, not the workflow's: replay needs no determinism, and a newer program
can take over a rollout that an older one began.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dbos import DBOS, DBOSConfig, SetWorkflowID

from crossfade.domain.actions import Action, Migrate, SetSplit, describe
from crossfade.domain.environment import Entry
from crossfade.domain.errors import CrossfadeError, Refused, StaleFence, StorageFailed, Unavailable
from crossfade.domain.rollout import Done, Event, Failed, Observed, Ordered, Rollout, decide
from crossfade.engine.effects import Effects, ProbeFailed, last_lines
from crossfade.engine.janitor import Janitor
from crossfade.engine.migrating import Migrating
from crossfade.engine.observer import Observer
from crossfade.ports import Parts

log = logging.getLogger("crossfade.engine")

PATIENCE: Final = 10.0
"""Seconds for which an action is tried again while a part does not answer (the edge restarts in under one)."""

LEAVES_SOMETHING: Final = ("clear-slot", "commit", "discard", "discard-control", "close")
"""Actions after which the janitor has something to do."""

BORING: Final = ("observed", "verdict", "waiting")
"""What an uneventful look may change in a state."""


class Engine:
    """Runs rollouts. One per process, since DBOS is.

    ``on_boundary`` is called with the name of each point at which a crash would matter
    (``7.3 set-split before|done``); tests kill the process there.
    """

    def __init__(self, parts: Parts, folder: Path, on_boundary: Callable[[str], None] = lambda _: None) -> None:
        self._parts = parts
        self._folder = folder
        self._boundary = on_boundary
        self._effects = Effects(parts)
        self._migrating = Migrating(parts)
        self._janitor = Janitor(parts, self._effects, self.revive)
        self._wake = threading.Condition()
        self._bell = 0
        self._stopping = threading.Event()
        self._observers: dict[int, Observer] = {}
        self._turning: set[int] = set()
        self._idle: set[int] = set()

    # --- life

    def start(self) -> None:
        """Resume what was under way, and wait for work. Raises StorageFailed."""
        _running.clear()
        _running.append(self)
        config: DBOSConfig = {
            "name": "crossfade",
            "system_database_url": f"sqlite:///{self._folder / 'engine.db'}",
            "application_version": "1",
            "executor_id": "local",
            "log_level": "WARNING",
            # Neither notifications nor schedules of DBOS are used; looking for them ten times a second costs a percent.
            "notification_listener_polling_interval_sec": 10.0,
            "scheduler_polling_interval_sec": 60.0,
        }
        DBOS(config=config)
        DBOS.launch()
        self._janitor.start()

    def stop(self) -> None:
        """Stop looking and acting; what is under way is resumed by the next start."""
        self._stopping.set()
        self.ring()
        self._janitor.stop()
        DBOS.destroy(workflow_completion_timeout_sec=2)

    def faults(self) -> tuple[str, ...]:
        """What keeps it from driving rollouts, in sentences; nothing when it does."""
        return () if self._janitor.alive else ("The engine does not run.",)

    # --- work

    def drive(self, rollout: int) -> None:
        """Run the rollout's workflow; nothing happens when it runs already or has ended."""
        with SetWorkflowID(f"rollout-{rollout}"):
            DBOS.start_workflow(_drive, rollout)

    def revive(self) -> bool:
        """Start again what should be running and is not: begun but not handed over before a crash, or broken off.

        A rollout must be found idle twice before it is touched, so that one between two turns is left alone.
        """
        idle = {state.id for state in self._parts.store.rollouts(open_only=True, limit=1000)} - self._turning
        for rollout in idle & self._idle:
            known = DBOS.list_workflows(workflow_ids=[f"rollout-{rollout}"], load_input=False, load_output=False)
            if not known:
                self.drive(rollout)
            elif known[0].status not in ("PENDING", "ENQUEUED"):
                log.warning("rollout #%d was broken off (%s) and is resumed", rollout, known[0].status)
                DBOS.resume_workflow(f"rollout-{rollout}")
        self._idle = idle
        return bool(idle)

    def ring(self) -> None:
        """A command has come in: look now."""
        with self._wake:
            self._bell += 1
            self._wake.notify_all()

    def turn(self, rollout: int) -> str:
        """One turn; ``ended`` when there is nothing more to do. What goes wrong with the ledger is tried again."""
        self._turning.add(rollout)
        try:
            while True:
                try:
                    return self._turn(rollout)
                except StaleFence:
                    raise
                except Exception:
                    log.exception("a turn of rollout #%d", rollout)
                    if self._stopping.is_set():
                        return "stopping"
                    self._rest(2.0)
        finally:
            self._turning.discard(rollout)

    def _turn(self, rollout: int) -> str:
        parts = self._parts
        state = parts.store.rollout(rollout)
        if state.phase.ended:
            self._leave(rollout)
            return "ended"
        fence = parts.store.fence(rollout)
        event: Event | None = self._order_for(state)
        if event is None and state.pending:
            action = state.pending[0]
            self._boundary(f"{action.kind} before")
            event = self._act(state, action, fence)
            if event is None:
                return "stopping" if self._stopping.is_set() else "interrupted"  # the next turn goes on
            self._boundary(f"{action.kind} done")
        if event is None:
            event = self._look(state, fence)
        if event is None:
            return "stopping"
        new, _ = decide(state, event, parts.now())
        parts.store.save(new, _entries(state, event, new, parts.now()))
        self._boundary(f"{event.kind} saved")
        if isinstance(event, Failed) and new.pending and new.pending[0].id == event.action:
            self._rest(1.0)  # it is tried again; not in a hot loop
        return new.phase.value

    def _order_for(self, state: Rollout) -> Ordered | None:
        """The first command that was not handled. One that has become senseless since is passed over."""
        for order in self._parts.store.orders(state.id):
            if order.id in state.seen:
                continue
            try:
                decide(state, order, self._parts.now())
            except Refused:
                continue
            return order
        return None

    def _act(self, state: Rollout, action: Action, fence: int) -> Event | None:
        """None: it was interrupted, and nothing has happened that would not go on where it was."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if isinstance(action, Migrate):
                    whole = self._migrating.bring(state, action, lambda: self._wanted(state), self._boundary)
                    return Done(action.id) if whole else None
                self._effects.carry_out(state, action, fence)
                if action.kind in LEAVES_SOMETHING:
                    self._janitor.wake()
                return Done(action.id)
            except ProbeFailed as error:
                return Failed(action.id, error.what, (*error.detail, *self._lines(state)))
            except (Unavailable, StorageFailed) as error:
                if isinstance(error, StorageFailed) or time.monotonic() > deadline or self._stopping.is_set():
                    return Failed(action.id, str(error))
                self._rest(0.2)
            except StaleFence:
                raise
            except CrossfadeError as error:
                reason, *samples = str(error).splitlines()
                return Failed(action.id, reason, tuple(line.strip() for line in samples))
            except Exception as error:
                log.exception("action %s of rollout #%d", action.kind, state.id)
                return Failed(action.id, f"{action.kind} failed unexpectedly: {error!r}")

    def _wanted(self, state: Rollout) -> bool:
        """Whether something else than the present action has to be done now."""
        return self._stopping.is_set() or self._order_for(state) is not None

    def _lines(self, state: Rollout) -> tuple[str, ...]:
        environment = self._parts.store.environment(state.plan.key)
        occupant = environment.slots.get(state.plan.slot) if environment else None
        return last_lines(self._parts, occupant.names(state.plan.key)) if occupant else ()

    def _look(self, state: Rollout, fence: int) -> Event | None:
        """Look until something changes the state in more than what `status` shows of it; None when stopping."""
        observer = self._observers.setdefault(state.id, Observer(self._parts))
        saved = self._parts.now()
        while not self._stopping.is_set():
            bell = self._bell
            if (order := self._order_for(state)) is not None:
                return order
            event = observer.observe(state, fence)
            new, _ = decide(state, event, self._parts.now())
            if _matters(state, new):
                return event
            if self._parts.now() - saved >= 1.0 and (new.verdict, new.waiting) != (state.verdict, state.waiting):
                self._parts.store.save(new, ())  # for `status`; nothing is decided by it
                saved = self._parts.now()
            state = new
            with self._wake:
                if self._bell == bell:
                    self._wake.wait(observer.interval(state))
        return None

    def _rest(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _leave(self, rollout: int) -> None:
        observer = self._observers.pop(rollout, None)
        if observer is not None:
            observer.close()


_running: list[Engine] = []
"""The engine of this process: DBOS knows functions, not objects."""


@DBOS.workflow()
def _drive(rollout: int) -> str:
    while (outcome := _turn(rollout)) != "ended":
        if outcome == "stopping":
            threading.Event().wait()  # the process is about to end; the next one resumes here
    return outcome


@DBOS.step()
def _turn(rollout: int) -> str:
    return _running[0].turn(rollout)


def _matters(old: Rollout, new: Rollout) -> bool:
    return any(getattr(old, name) != getattr(new, name) for name in Rollout.__dataclass_fields__ if name not in BORING)


def _entries(old: Rollout, event: Event, new: Rollout, now: float) -> list[Entry]:
    """What the journal says of a turn."""

    def entry(text: str, action: Action | None = None) -> Entry:
        weight = action.split.of(new.plan.slot).bp if isinstance(action, SetSplit) else None
        return Entry(now, text, new.phase.value, weight, action.kind if action else "")

    entries: list[Entry] = []
    match event:
        case Done():
            action = old.pending[0]
            if action.kind != "snapshot":
                entries.append(entry(describe(action), action))
        case Failed(reason=reason):
            entries.append(entry(f"failed: {reason}"))
        case Ordered(command=command, by=by):
            entries.append(entry(f"{command} by {by}"))
        case Observed(lapsed=True):
            entries.append(entry("the lease had lapsed: the edge had taken the weight back"))
        case Observed():
            pass
    if len(new.considered) > len(old.considered):
        entries.append(entry(f"considers what to do: {new.considered[-1].calls}"))
        if new.phase is old.phase:
            entries.append(entry(f"the cheapest remedy that applies: {new.considered[-1].reason}"))
    if new.phase is not old.phase and new.phase.value == "rolling-back":
        entries.append(entry(f"rolls back: {new.reason}"))
    return entries
