"""Drills: rehearsed rollbacks under live traffic, by hand and by schedule.

One thread drives them. What a drill does is decided by `domain.rehearsal`; this carries it out by the ordinary use cases, and
keeps it so that a server that is killed at any moment goes on where it was, or home.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from crossfade.domain import rehearsal as machine
from crossfade.domain.access import Actor, Role
from crossfade.domain.alert import Severity
from crossfade.domain.analysis.sample import History
from crossfade.domain.drill import (
    EDGE_FAULTS,
    FURTHEST,
    LONGEST_HOLD,
    Aborted,
    Action,
    Done,
    Drill,
    Event,
    Failed,
    Fault,
    Lift,
    Mark,
    Observed,
    Phase,
    Rehearsal,
)
from crossfade.domain.environment import Environment
from crossfade.domain.errors import Busy, CrossfadeError, Invalid, NotFound, NotRestorable, Refused, Unavailable
from crossfade.domain.release import Canary, Release, ReleaseConfig, Restorable
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Parts, Record
from crossfade.service import drill_looking as looking
from crossfade.service.alerts import Alerts
from crossfade.service.audit import Audit
from crossfade.service.drill_doing import LEASE, Doing, Moves
from crossfade.service.drill_drive import Drive, name_of
from crossfade.service.drill_schedule import Timetable
from crossfade.service.steering import CUSTODIAN

KIND: Final = "drill"
INTERVAL: Final = 0.25
"""Seconds between two looks at a drill under way."""
IDLE: Final = 2.0
"""Seconds between two looks at whether one is due."""
CHECK_EVERY: Final = 1.0
"""Seconds between two rounds of health checks."""
PATIENCE: Final = 30.0
"""Seconds for which an action is tried again while a part does not answer."""
MARGIN: Final = 60.0
"""Seconds beyond a canary's first step within which the judge must have taken it back."""
FAILED: Final = "drill:"
OVERDUE: Final = "drill-overdue:"
"""How the names of alerts begin, of drills by their names."""
BY_HAND: Final = "by-hand"
"""What a drill without a name is called."""

log = logging.getLogger("crossfade.drills")


class Used(Moves, Protocol):
    """What is asked of the other use cases."""

    def restorable(self, key: EnvKey, lately: float = 0.0) -> tuple[Restorable, ...]: ...

    def taken_back(self, key: EnvKey) -> Mapping[ReleaseNumber, str]: ...

    def refuse_frozen(self, key: EnvKey, config: ReleaseConfig) -> None: ...


class Drills:
    """Use cases, and the thread that drives the drills.

    ``told`` hears of each drill that began or ended; it must not wait.
    """

    def __init__(self, parts: Parts, used: Used, audit: Audit, alerts: Alerts, interval: float = INTERVAL) -> None:
        self._parts, self._used, self._audit, self._alerts, self._interval = parts, used, audit, alerts, interval
        self.doing = Doing(parts, used)
        self.told: Callable[[Mapping[str, Any], str], None] = lambda _drill, _what: None
        self.watched: Callable[[EnvKey], str] = lambda _key: ""
        """What the watch over a promotion has found and is not done with: a drill waits for that; empty: nothing."""
        self._timetable = Timetable(parts)
        self._stop, self._wake = threading.Event(), threading.Event()
        self._lock = threading.RLock()
        self._drives: dict[int, Drive] = {}
        self._held_up: dict[tuple[EnvKey, str], str] = {}
        self._thread = threading.Thread(target=self._run, name="drills", daemon=True)

    # --- to see

    def list(self, key: EnvKey | None = None, limit: int = 50, before: int | None = None) -> list[dict[str, Any]]:
        """The drills of an environment, or all, newest first, without journals."""
        records = self._parts.records.list(KIND, key, limit=limit, before=before)
        return [self._view(self._known(record)) for record in records]

    def view(self, id: int) -> dict[str, Any]:
        """One drill with its journal. Raises NotFound."""
        drive = self._known(self._record(id))
        return {**self._view(drive), "journal": list(drive.journal)}

    def environment_of(self, id: int) -> EnvKey:
        """Which environment a drill is in. Raises NotFound."""
        return self._record(id).key

    def under_way(self, key: EnvKey) -> int | None:
        """The drill that an environment has now."""
        found = self._parts.records.list(KIND, key, open_only=True, limit=1)
        return found[0].id if found else None

    def schedule(self, key: EnvKey) -> Sequence[dict[str, Any]]:
        """The drills that the live release plans, each with its last, when it comes next, and whether it is overdue.

        Raises NotFound.
        """
        self._used.environment(key)
        rows = []
        for slot in self._timetable.of(key):
            last = self._known(slot.last) if slot.last is not None else None
            plan = slot.plan
            rows.append(
                {
                    "name": plan.name,
                    "schedule": plan.schedule,
                    "zone": plan.zone,
                    "back": plan.back,
                    "hold": plan.hold,
                    "fault": plan.fault.value if plan.fault is not None else None,
                    "last": self._view(last) if last is not None else None,
                    "next": slot.turn.next,
                    "overdue": slot.turn.overdue,
                    "sentence": slot.sentence(self._held_up.get((key, plan.name), "")),
                }
            )
        return rows

    def _record(self, id: int) -> Record:
        record = self._parts.records.get(id)
        if record.kind != KIND:
            raise NotFound(f"There is no drill #{id}.", hint="`crossfade drill list` lists them.")
        return record

    def _known(self, record: Record) -> Drive:
        with self._lock:
            return self._drives.get(record.id) or Drive.of(record)

    def _view(self, drive: Drive) -> dict[str, Any]:
        state, plan = drive.state, drive.state.plan
        rollouts = [one.rollout for one in (state.there, state.back) if one is not None]
        return {
            "id": state.id,
            "service": plan.key.service,
            "environment": plan.key.environment,
            "name": plan.name,
            "by": state.by,
            "home": str(plan.home),
            "target": str(plan.target) if plan.target is not None else None,
            "back": plan.back,
            "hold": plan.hold,
            "fault": plan.fault.value if plan.fault is not None else None,
            "phase": state.phase.value,
            "ended": state.phase.ended,
            "ok": state.phase is Phase.PASSED if state.phase.ended else None,
            "ended_at": drive.ended,
            "reason": state.failure or (f"aborted by {state.aborted}" if state.aborted else ""),
            "waiting": state.waiting,
            "noticed": state.notice,
            "rollouts": rollouts,
            "began": state.began,
            "entered": state.entered,
            "due": drive.due,
            "receipt": drive.receipt,
            "now": self._parts.now(),
        }

    # --- to change

    def begin(
        self,
        key: EnvKey,
        by: Actor,
        name: str = "",
        back: int = 1,
        hold: float = 30.0,
        fault: Fault | None = None,
        due: float | None = None,
    ) -> dict[str, Any]:
        """Begin a drill: ``back`` releases back, ``hold`` seconds there, and home; with a ``fault`` first.

        ``due``: when a schedule wanted it. Raises Forbidden, NotFound, Invalid, Busy, Frozen, NotRestorable, and Refused
        while something pages already, or where the fault cannot be injected.
        """
        by.require(Role.OPERATOR, key)
        if isinstance(back, bool) or not isinstance(back, int) or not 1 <= back <= FURTHEST:
            raise Invalid("back", back, f"a whole number of releases from 1 to {FURTHEST}")
        if not (math.isfinite(hold) and 0 <= hold <= LONGEST_HOLD):
            raise Invalid("hold", hold, f"seconds from 0 to {LONGEST_HOLD:g}")
        with self._lock:
            plan, history = self.plan(key, name, back, hold, fault)
            now = self._parts.now()
            state, _ = machine.begin(0, plan, by.name, now)
            drive = Drive(state, history, due=due)
            where = f"{back} back, to {plan.target}" if plan.target is not None else "with a canary of itself"
            drive.say(now, f"{by.name} rehearses a rollback of {plan.home}, {where}")
            record = self._parts.records.add(KIND, key, name, drive.to_data(), now)
            # Its actions are named by its number, which is known only now.
            drive.state, _ = machine.begin(record.id, plan, by.name, now)
            self._parts.records.save(record.id, drive.to_data(), now, told=False)
            self._drives[record.id] = drive
        after = {"drill": record.id, "home": str(plan.home), "target": str(plan.target or ""), "fault": fault or ""}
        self._audit.note(by, "drill.begin", str(key), {}, after)
        self._tell(drive, "began")
        self._wake.set()
        return self.view(record.id)

    def plan(
        self, key: EnvKey, name: str = "", back: int = 1, hold: float = 30.0, fault: Fault | None = None
    ) -> tuple[Rehearsal, History]:
        """What a drill would do now, and what clients see before it. Raises as `begin`, and changes nothing."""
        environment = self._used.environment(key)
        if environment.live is None or environment.slot is None:
            raise Refused(
                f"{key} has no live release to rehearse with.", hint="`crossfade deploy` makes the first one."
            )
        self._parts.store.refuse_if_held(key)
        if (other := self.under_way(key)) is not None:
            raise Busy(f"{key} has drill #{other} under way.", hint="Wait for its end, or abort it.")
        if why := self.watched(key):
            raise Busy(
                f"{key} is watched: {why}.", hint="A drill may begin when that is over: see `crossfade watches`."
            )
        live = self._parts.store.release(key.service, environment.live)
        self._used.refuse_frozen(key, live.config)
        paging = [one for one in self._alerts.list(key, open_only=True) if one.severity is Severity.PAGE]
        if paging:
            hint = "A drill is for quiet times: see `crossfade alerts`."
            raise Refused(f"{key} is in trouble already: {paging[0].sentence}", hint=hint)
        if fault is Fault.KILL_CONTROL_PLANE and self.doing.kill_server is None:
            raise Refused("This server would not come back: nobody supervises it.", hint="Start it by `crossfade up`.")
        target, patience = None, 0.0
        if fault in EDGE_FAULTS:
            patience = _first_step(live) + MARGIN
        else:
            target = self._target(key, back)
        return Rehearsal(key, name, environment.live, target, back, hold, fault, patience), self._past(environment)

    def _target(self, key: EnvKey, back: int) -> ReleaseNumber:
        harmful = self._used.taken_back(key)
        window = [one for one in self._used.restorable(key) if one.number not in harmful]
        if len(window) < back:
            there = ", ".join(str(one.number) for one in window) or "none"
            raise NotRestorable(f"{key} has no release {back} back.", hint=f"Its rollback window has {there}.")
        if not window[back - 1].ok:
            raise NotRestorable(f"{window[back - 1].number} cannot be restored: {window[back - 1].reasons[0]}.")
        return window[back - 1].number

    def _past(self, environment: Environment) -> History:
        assert environment.slot is not None  # something is live
        try:
            return self._parts.signals.history(environment.key, environment.slot)
        except CrossfadeError:
            return History()

    def abort(self, id: int, by: Actor) -> dict[str, Any]:
        """Have it go home at once. Raises Forbidden, NotFound, Refused."""
        record = self._record(id)
        by.require(Role.OPERATOR, record.key)
        with self._lock:
            drive = self._known(record)
            machine.allow(drive.state)
            before = {"drill": id, "phase": drive.state.phase.value}
            self._drives[id] = drive
            order = Aborted(f"abort-{len(drive.state.seen) + 1}", by.name)
            self._decide(drive, order, f"aborted by {by.name}")
        self._audit.note(by, "drill.abort", str(record.key), before, {**before, "aborted": True})
        self._wake.set()
        return self.view(id)

    def refuse_busy(self, key: EnvKey, by: str) -> None:
        """Raises Busy for a deployment while a drill has the environment, unless it is the drill's own."""
        found = self.under_way(key)
        if found is not None and by != name_of(found):
            raise Busy(
                f"{key} has drill #{found} under way.",
                hint=f"Wait for its end: `crossfade drill abort {found}` ends it.",
            )

    # --- by itself

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        interval = 0.0
        while not self._stop.is_set():
            self._wake.wait(interval)
            self._wake.clear()
            try:
                busy = self.look()
                interval = self._interval if busy else IDLE
                if not busy or self._timetable.worth_a_look():
                    self.begin_due()
            except Exception:
                log.exception("drills")
                interval = IDLE

    def look(self) -> int:
        """Drive every open drill as far as it goes now; how many there are."""
        records = self._parts.records.list(KIND, open_only=True, limit=1000)
        for record in records:
            if self._stop.is_set():
                break
            try:
                with self._lock:
                    self._turn(self._load(record))
            except CrossfadeError as error:
                log.warning("drill #%d in %s: %s", record.id, record.key, error)
            except Exception:
                log.exception("drill #%d in %s", record.id, record.key)
        return len(records)

    def begin_due(self) -> None:
        """Begin the drills whose time has come; say which are overdue."""
        for environment in self._parts.store.environments():
            key = environment.key
            for slot in self._timetable.of(key):
                plan, turn = slot.plan, slot.turn
                alert = f"{OVERDUE}{plan.name}"
                if turn.overdue:
                    said = slot.sentence(self._held_up.get((key, plan.name), ""))
                    self._alerts.open(key, alert, Severity.TICKET, said, {"due": turn.due, "drill": plan.name})
                elif turn.run:
                    try:
                        self.begin(key, CUSTODIAN, plan.name, plan.back, plan.hold, plan.fault, turn.due)
                        self._held_up.pop((key, plan.name), None)
                    except CrossfadeError as error:
                        self._held_up[key, plan.name] = error.what
                elif slot.last is not None:
                    self._alerts.resolve(key, alert, f"drill {plan.name} has run")

        self._tidy()

    def _tidy(self) -> None:
        """What is said of a drill that is planned no more is over; what one has left live pages nobody once it is not."""
        for alert in self._alerts.list(open_only=True, limit=1000):
            if not alert.name.startswith((FAILED, OVERDUE)):
                continue
            environment = self._parts.store.environment(alert.key)
            if environment is None or environment.holder is not None or self.under_way(alert.key) is not None:
                continue
            if alert.name.startswith(OVERDUE):
                if alert.facts["drill"] not in {slot.plan.name for slot in self._timetable.of(alert.key)}:
                    self._alerts.resolve(alert.key, alert.name, "it is planned no more")
            elif alert.severity is Severity.PAGE and alert.facts["live"] != str(environment.live or ""):
                said = f"{alert.sentence}; meanwhile {environment.live} is live"
                self._alerts.open(alert.key, alert.name, Severity.TICKET, said, alert.facts)

    def _load(self, record: Record) -> Drive:
        if record.id not in self._drives:
            self._drives[record.id] = Drive.of(record)
        return self._drives[record.id]

    def _turn(self, drive: Drive) -> None:
        """Act and look until there is nothing to do but wait."""
        while not drive.state.phase.ended:
            before = drive.state
            action = before.pending[0] if before.pending else None
            event: Event | None = self._act(drive, action) if action is not None else self._observe(drive)
            if event is None:
                return
            said = machine.describe(action) if action is not None and isinstance(event, Done) else ""
            self._decide(drive, event, said)
            if (drive.state.pending, drive.state.phase) == (before.pending, before.phase):
                return
        self._drives.pop(drive.state.id, None)

    def _decide(self, drive: Drive, event: Event, said: str) -> None:
        """Take the event in and write down what is worth it; what cannot be written down has not happened."""
        now, before, journal = self._parts.now(), drive.state, list(drive.journal)
        new, _ = machine.decide(before, event, now)
        drive.state = new
        if said:
            drive.say(now, said)
        if new.notice and new.notice != before.notice:
            drive.say(now, f"noticed: {new.notice}")
        if new.phase is not before.phase:
            drive.say(now, f"{new.phase}: {new.failure}" if new.failure else str(new.phase))
        uneventful = replace(new, observed=before.observed, waiting=before.waiting, there=before.there) == before
        if uneventful and (new.waiting == before.waiting or new.phase is Phase.HOLDING):
            return
        if new.phase.ended:
            drive.ended = now
        try:
            if new.phase.ended:
                self._alert(new)  # before: of one that has ended, a server that is killed here says nothing more
            self._parts.records.save(new.id, drive.to_data(), now, ended=new.phase.ended, told=not uneventful)
        except CrossfadeError:
            drive.state, drive.journal, drive.ended = before, journal, None
            raise
        if new.phase.ended:
            self._ended(drive)

    def _ended(self, drive: Drive) -> None:
        state, plan = drive.state, drive.state.plan
        after = {"drill": state.id, "outcome": state.phase.value, "why": state.failure}
        self._audit.note(CUSTODIAN, "drill.end", str(plan.key), {}, after)
        self._tell(drive, "ended")

    def _alert(self, state: Drill) -> None:
        """Open or close the alert of a drill that ends; doing it twice is doing it once."""
        plan = state.plan
        name = f"{FAILED}{plan.name or BY_HAND}"
        if state.phase is Phase.FAILED:
            # One that is home again has shown what is to be mended; one that is not has left an older release live.
            severity = Severity.TICKET if state.landed == plan.home else Severity.PAGE
            facts = {"drill": state.id, "live": str(state.landed or "")}
            self._alerts.open(plan.key, name, severity, f"drill #{state.id} has failed: {state.failure}", facts)
        elif state.phase is Phase.PASSED:
            self._alerts.resolve(plan.key, name, f"drill #{state.id} has passed")

    def _tell(self, drive: Drive, what: str) -> None:
        try:
            self.told(self._view(drive), what)
        except Exception:
            log.exception("drill #%d cannot be told", drive.state.id)

    # --- to look

    def _observe(self, drive: Drive) -> Observed | None:
        """One look; None when the ledger is away."""
        parts, state = self._parts, drive.state
        now = parts.now()
        try:
            environment = self._used.environment(state.plan.key)
            rollout = looking.seen(parts, state.current) if state.current is not None else None
            other = looking.stranger(parts, environment, name_of(state.id))
        except CrossfadeError:
            return None
        faults: tuple[str, ...] = ()
        harm = ""
        if state.phase in (Phase.HOLDING, Phase.CHECKING):
            lately = 0 <= now - drive.asked < CHECK_EVERY
            if lately and state.phase is Phase.CHECKING:
                return None
            if not lately:
                drive.faults, drive.asked = looking.faults(parts, environment), now
                faults = drive.faults
        if state.phase is Phase.HOLDING:
            harm = self._harm(drive, environment)
        if state.phase is Phase.EXPOSED:
            self._renew(drive)
        notice, whole = self._of_fault(drive, environment)
        at = max(parts.now(), state.observed + 0.001)  # a clock that was set back must not make it blind
        return Observed(at, environment.live, rollout, faults, harm, other, notice, whole)

    def _harm(self, drive: Drive, environment: Environment) -> str:
        """What the judge holds against the older release; empty when nothing, or when nothing can be read."""
        state, began = drive.state, drive.readings.get("back")
        try:
            reading = self._parts.signals.read(state.plan.key)
        except CrossfadeError:
            return ""
        if began is None or began.segment != reading.segment or reading.at < began.at:
            drive.readings["back"], drive.holding = reading, None  # the counts began anew, or the clock was set back
            return ""
        if drive.holding is None and environment.live is not None and environment.slot is not None:
            release = self._parts.store.release(state.plan.key.service, environment.live)
            limits = release.config.strategy.limits
            drive.holding = looking.Holding(limits, environment.slot, drive.history, began, state.plan.hold)
        return drive.holding.look(reading) if drive.holding is not None else ""

    def _of_fault(self, drive: Drive, environment: Environment) -> tuple[str, bool]:
        """By what the fault is seen, and whether nothing is left of it."""
        state = drive.state
        if state.injected is None or state.whole is not None:
            return "", False
        if state.plan.fault is Fault.KILL_CONTROL_PLANE:
            return "the server is there again", True
        if drive.victim is None:
            return "", False
        if state.noticed is None:
            return looking.hurt(self._parts, environment, *drive.victim), False
        # Its slot is warm when the older release is live.
        occupied = [slot for slot, one in environment.slots.items() if drive.victim[0] in one.names(environment.key)]
        there = replace(environment, slot=occupied[0], live=state.plan.home) if occupied else environment
        return "", bool(occupied) and not looking.faults(self._parts, there)

    def _renew(self, drive: Drive) -> None:
        """Prolong what the edge does, so that it ends by itself when nobody does so."""
        if 0 <= self._parts.now() - drive.leased < LEASE / 3 or drive.state.noticed is not None:
            return
        try:
            self.doing.at_edge(drive, drive.state.plan.fault)
        except CrossfadeError as error:
            log.warning("drill #%d: %s", drive.state.id, error)

    # --- to act

    def _act(self, drive: Drive, action: Action) -> Event | None:
        """Carry an action out; None while it has to wait. Doing it twice is doing it once."""
        now = self._parts.now()
        try:
            done = self.doing.carry_out(drive, action)
        except Unavailable as error:
            drive.failing = drive.failing if drive.failing is not None else now
            if 0 <= now - drive.failing < PATIENCE and not isinstance(action, Mark | Lift):
                return None
            drive.failing = None
            return Failed(action.id, error.what)
        except CrossfadeError as error:
            drive.failing = None
            return Failed(action.id, error.what)
        drive.failing = None
        return done


def _first_step(live: Release) -> float:
    strategy = live.config.strategy
    step = strategy.steps[0].duration if isinstance(strategy, Canary) else 0.0
    return max(step, live.config.analysis.deadline)
