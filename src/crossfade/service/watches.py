"""Watches over releases after their promotion: harm that began after it is taken back, or proposed to be.

One thread drives those that are open. What a watch does is decided by `domain.watch`; this looks, carries it out, and writes
it down before: a server that is killed at any moment goes on where it was, and does nothing twice.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from crossfade.domain import watch as machine
from crossfade.domain.access import Actor, Role
from crossfade.domain.analysis import against_profile as against
from crossfade.domain.analysis.against_profile import ERRORS
from crossfade.domain.analysis.sample import History
from crossfade.domain.environment import Environment
from crossfade.domain.errors import Busy, CrossfadeError, Moved, NotFound, StorageFailed, Unavailable
from crossfade.domain.rollback import RollbackPlan, What
from crossfade.domain.rollout import Kind, Rollout
from crossfade.domain.rollout import Phase as RolloutPhase
from crossfade.domain.signal import Reading
from crossfade.domain.slo import EDGE, LEAST_BAD, OnBurn, Series, SloPolicy
from crossfade.domain.traffic import Slot
from crossfade.domain.values import DAY, EnvKey, ReleaseNumber
from crossfade.domain.watch import (
    SETTLES,
    Done,
    Event,
    Failed,
    Looked,
    Means,
    Ordered,
    Phase,
    Plan,
    Remedied,
    Remedy,
    Returning,
    Spent,
    Watch,
    decide,
)
from crossfade.ports import Parts, Record
from crossfade.service.alerts import Alerts
from crossfade.service.audit import Audit
from crossfade.service.drill_drive import of_drill
from crossfade.service.steering import CUSTODIAN
from crossfade.service.watch_sight import Sight, burned
from crossfade.service.watch_views import detail, sentence_of, state_data, state_of, view

log = logging.getLogger("crossfade.watches")

KIND: Final = "watch"
ALERT: Final = "watch"
"""The name of the alert: one per environment."""
INTERVAL: Final = 0.5
"""Seconds between two looks at open watches."""
ALL_EVERY: Final = 30.0
"""Seconds between two looks at all environments; else at those that the feed tells of."""
SAVED_EVERY: Final = 10.0
"""Seconds between two times at which the evidence is written down while nothing happens."""
FADES: Final = 600.0
"""Seconds in which what an objective's page-level windows know of a harm that is over fades."""
LATEST: Final = 20
"""Rollouts among which a promotion is looked for."""
LONGEST_JOURNAL: Final = 200
KEPT_FOR: Final = 400 * DAY
KEPT: Final = 1000
"""Watches that are kept, whatever their age."""


class Doer(Protocol):
    """What is asked of the use cases."""

    def environment(self, key: EnvKey) -> Environment: ...

    def going_back(self, key: EnvKey, calls: str = "") -> RollbackPlan: ...

    def remedy(self, key: EnvKey, calls: str, trail: tuple[Reading, ...] = ()) -> RollbackPlan: ...

    def carry_out(self, key: EnvKey, plan: RollbackPlan, by: Actor, expects: int | None = None) -> RollbackPlan: ...


class Read(Protocol):
    """What is asked of the objectives: the newest reading of an environment's edge."""

    def reading(self, key: EnvKey) -> Reading | None: ...


@dataclass(slots=True)
class _Drive:
    """A watch under way. ``plans`` are the rollback plans that were made, ``receipt`` what came of it in the end."""

    state: Watch
    sight: Sight
    policy: SloPolicy
    plans: list[dict[str, Any]] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    receipt: dict[str, Any] | None = None
    saved: float = 0.0
    told: str = ""

    def to_data(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "watch": state_data(self.state),
            "sight": self.sight.to_data(),
            "plans": self.plans,
            "journal": self.journal,
            "receipt": self.receipt,
        }


class Watches:
    """Use cases, and the thread that watches."""

    def __init__(
        self, parts: Parts, doer: Doer, read: Read, alerts: Alerts, audit: Audit, interval: float = INTERVAL
    ) -> None:
        self._parts, self._doer, self._read, self._alerts, self._audit = parts, doer, read, alerts, audit
        self._interval = interval
        self.drilled: Callable[[EnvKey], int | None] = lambda _key: None
        """The drill that is under way in an environment: it goes back and forth, and a watch waits for its end."""
        self._lock = threading.RLock()
        self._drives: dict[int, _Drive] = {}
        self._heard = -1
        self._all = self._pruned = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watches", daemon=True)

    # --- to see

    def list(self, key: EnvKey | None = None, limit: int = 50, before: int | None = None) -> list[dict[str, Any]]:
        """Newest first, without their journals."""
        return [view(one, self._parts.now()) for one in self._parts.records.list(KIND, key, limit=limit, before=before)]

    def view(self, id: int) -> dict[str, Any]:
        """One watch with its journal, the profile it holds the release to, and the plans that were made. Raises NotFound."""
        return detail(self._record(id), self._parts.now())

    def environment_of(self, id: int) -> EnvKey:
        """Which environment a watch is in. Raises NotFound."""
        return self._record(id).key

    def current(self, key: EnvKey) -> dict[str, Any] | None:
        """The newest of an environment, whether it has ended or not; None: there was none."""
        records = self._parts.records.list(KIND, key, limit=1)
        return view(records[0], self._parts.now()) if records else None

    def proposal(self, key: EnvKey, calls: str) -> dict[str, Any]:
        """What a person can do about a burn, as facts of its alert; nothing while a watch does it, or has done it."""
        for state in map(state_of, self._parts.records.list(KIND, key, limit=1)):
            does = not state.phase.ended and state.phase is not Phase.PROPOSED
            if (does and state.plan.on_burn is OnBurn.ROLLBACK) or self._ended_it(state):
                # One that does not blame its release for the burn does nothing about it.
                idle = state.phase is Phase.WATCHING and state.detected is None
                return {"watch": state.id, **(self._proposed(key, calls) if idle else {})}
        return self._proposed(key, calls)

    def taken_back(self, key: EnvKey) -> dict[ReleaseNumber, str]:
        """Releases that watches have taken back within a day, and that nobody has brought again since, each with a sentence."""
        store, found = self._parts.store, dict[ReleaseNumber, str]()
        promoted = [r for r in store.rollouts(key, limit=LATEST) if r.phase is RolloutPhase.PROMOTED]
        by = store.begun_by([r.id for r in promoted])
        for record in self._parts.records.list(KIND, key, since=self._parts.now() - DAY, limit=200):
            state = state_of(record)
            release, back = state.plan.release, state.returned
            if back is None or back.rollout is None or state.phase is Phase.NOT_HELPED:
                continue
            later = [r for r in promoted if r.id > back.rollout and r.plan.candidate == release]
            if all(of_drill(by.get(r.id, "")) for r in later):
                found.setdefault(release, f"watch #{record.id} has taken it back")
        return found

    def _ended_it(self, state: Watch) -> bool:
        """Whether a burn that lasts is what a watch has taken back just now: its windows are longer than the harm was."""
        now, since = self._parts.now(), state.recovered
        if state.phase is not Phase.HELPED or since is None or not 0 <= now - since < FADES:
            return False
        with contextlib.suppress(CrossfadeError):
            return self._parts.histories.count(Series(state.plan.key, EDGE), since, now).bad < LEAST_BAD
        return False

    def at_work(self, key: EnvKey) -> str:
        """What a watch has found and is not done with, as a sentence; empty while it only watches, or there is none."""
        for state in map(state_of, self._parts.records.list(KIND, key, open_only=True, limit=1)):
            found = state.phase is Phase.WATCHING and state.detected is not None
            if found or state.phase in (Phase.ACTING, Phase.SETTLING):
                return f"watch #{state.id} is not done with what it has found: {sentence_of(state)}"
        return ""

    def _proposed(self, key: EnvKey, calls: str) -> dict[str, Any]:
        try:
            plan = self._doer.going_back(key, calls)
        except CrossfadeError as error:
            return {"proposal": {"sentence": error.what, "command": ""}}
        remedy = plan.remedy
        command = f"crossfade rollback {key}" + (f" --to {remedy.target}" if remedy is not None else "")
        return {"proposal": {"sentence": plan.reason, "command": command if remedy is not None else ""}}

    def _record(self, id: int) -> Record:
        record = self._parts.records.get(id)
        if record.kind != KIND:
            raise NotFound(f"There is no watch #{id}.")
        return record

    # --- to change

    def end(self, id: int, by: Actor) -> dict[str, Any]:
        """A person ends a watch: from now on nothing is done by itself. Raises Forbidden, NotFound."""
        record = self._record(id)
        by.require(Role.OPERATOR, record.key)
        with self._lock:
            drive = self._load(record)
            if drive is not None and not drive.state.phase.ended:
                before = {"watch": id, "phase": drive.state.phase.value}
                self._decide(drive, Ordered(f"order-{len(drive.state.seen) + 1}", by.name))
                self._audit.note(by, "watch.end", str(record.key), before, {**before, "phase": drive.state.phase.value})
        return self.view(id)

    # --- by itself

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except CrossfadeError as error:
                log.warning("watches: %s", error)
            except Exception:
                log.exception("watches")
            self._stop.wait(self._interval)

    def look(self) -> int:
        """Begin the watches of new promotions, and drive the open ones as far as they go now; how many there are."""
        self._meet()
        records = self._parts.records.list(KIND, open_only=True, limit=1000)
        for record in records:
            if self._stop.is_set():
                break
            try:
                with self._lock:
                    drive = self._load(record)
                    if drive is not None:
                        self._turn(drive)
            except CrossfadeError as error:
                log.warning("watch #%d of %s: %s", record.id, record.key, error)
            except Exception:
                log.exception("watch #%d of %s", record.id, record.key)
        return len(records)

    def _load(self, record: Record) -> _Drive | None:
        if record.id not in self._drives:
            state, data = state_of(record), record.data
            config = self._parts.store.release(record.key.service, state.plan.release).config
            sight = Sight.from_data(data["sight"])
            drive = _Drive(state, sight, config.slo, list(data["plans"]), list(data["journal"]), data["receipt"])
            self._drives[record.id] = drive
        return self._drives[record.id]

    # --- promotions

    def _meet(self) -> None:
        """Look at environments in which something became live; at all of them now and then, and at the beginning."""
        store, now = self._parts.store, self._parts.now()
        keys: set[EnvKey] = set()
        if self._heard < 0 or not 0 <= now - self._all < ALL_EVERY:
            self._heard, self._all = store.changes_kept()[1], now
            keys.update(store.keys())
            if not 0 <= now - self._pruned < DAY:
                self._pruned = now
                self._parts.records.prune(KIND, now - KEPT_FOR, KEPT)
        else:
            while changes := store.changes(self._heard):
                self._heard = changes[-1].seq
                keys |= {EnvKey.parse(one.key) for one in changes if one.kind in ("live", "closed")}
        for key in sorted(keys):
            try:
                self._promoted(key)
            except CrossfadeError as error:
                log.warning("%s: %s", key, error)

    def _promoted(self, key: EnvKey) -> None:
        """Begin the watch of the last promotion, unless it has one, or its time is over."""
        store, now = self._parts.store, self._parts.now()
        environment = store.environment(key)
        if environment is None or environment.live is None or environment.slot is None:
            return
        promoted = [r for r in store.rollouts(key, limit=LATEST) if r.phase is RolloutPhase.PROMOTED]
        by = store.begun_by([r.id for r in promoted])
        # Those of drills bring nothing new: it is home again, or somebody else's turn.
        last = next((r for r in promoted if not of_drill(by.get(r.id, ""))), None)
        if last is None or last.plan.candidate != environment.live:
            return
        self._move_on(key, last)
        release = store.release(key.service, environment.live)
        policy = release.config.slo
        began = last.entered
        if last.plan.kind is not Kind.DEPLOY or not policy.watch or not 0 <= now - began < policy.watch:
            return
        if self._parts.records.list(KIND, key, subject=str(last.id), limit=1):
            return
        until = began + policy.watch
        plan = Plan(key, last.id, release.number, release.digest, last.plan.baseline, began, until, policy.on_burn)
        history = self._history(key, last.plan.slot.other) if last.plan.baseline is not None else History()
        profile = against.profile_of(history)
        burning = burned(self._parts, key, policy.objectives, began)
        alone_since = now if last is not promoted[0] else 0.0  # what a drill has done since is not the release's doing
        evidence = against.begin(profile)
        sight = Sight(profile, history, policy.watch, burning, evidence=evidence, alone_since=alone_since)
        drive = _Drive(machine.begin(0, plan), sight, policy)
        what = f"watches {release.number} for {policy.watch:g} s"
        _say(drive, now, f"{what}: {profile.why_not}" if profile.why_not else what)
        if burning:
            _say(drive, now, f"{', '.join(burning)} burned before the promotion: {release.number} is not blamed for it")
        record = self._parts.records.add(KIND, key, str(last.id), drive.to_data(), now)
        drive.state = replace(drive.state, id=record.id)
        self._drives[record.id] = drive

    def _history(self, key: EnvKey, slot: Slot) -> History:
        """What the clients of the release before saw. Without it, only burns tell of harm."""
        try:
            return self._parts.signals.history(key, slot)
        except CrossfadeError as error:
            log.warning("%s: what was before the promotion is not known: %s", key, error)
            return History()

    def _move_on(self, key: EnvKey, last: Rollout) -> None:
        """What was said of an earlier release is over once somebody has brought another one."""
        for alert in self._alerts.list(key, open_only=True):
            ours = alert.name == ALERT and alert.facts.get("returned") in (None, last.id)
            if alert.name == ALERT and not ours and last.id > int(alert.facts.get("rollout", 0)):
                self._alerts.resolve(key, ALERT, f"{last.plan.candidate} is live now")

    # --- to look

    def _turn(self, drive: _Drive) -> None:
        """Look, decide and act until there is nothing to do but wait."""
        state = drive.state
        environment = self._parts.store.environment(state.plan.key)
        if environment is None:
            return
        begun = self._begun(drive, environment) if state.phase is Phase.ACTING else None
        if begun is not None:
            self._decide(drive, begun)
            return
        self._decide(drive, self._looked(drive, environment))
        if drive.state.phase is Phase.ACTING and drive.state.pending:
            self._act(drive, drive.state.pending[0], environment.fence)

    def _looked(self, drive: _Drive, environment: Environment) -> Looked:
        state, sight, parts, now = drive.state, drive.sight, self._parts, self._parts.now()
        key, objectives = state.plan.key, drive.policy.objectives
        reading = self._read.reading(key)
        watching = state.phase is Phase.WATCHING
        at = max(now, state.observed + 0.001)  # a clock that was set back must not make it blind
        drill = self.drilled(key)
        sight.drill(drill is not None, now)
        if drill is not None:
            return Looked(at, drill=drill)
        if reading is not None:
            sight.take(reading, environment, judged=watching)
        if environment.holder is not None and watching:
            sight.alone_since = now  # its candidate's harm is not the live release's
        sight.look_at_replicas(parts, environment, now)
        causes = sight.causes(state, parts, objectives, now) if watching else ()
        returning = self._returning(state)
        harmful = None
        if state.phase is Phase.SETTLING:
            harmful = self._harmful(drive, environment, returning, now)
        spent = self._spent(key, state.id) if causes else ()
        own = state.returned.rollout if state.returned is not None else None
        holder = environment.holder if environment.holder != own else None
        return Looked(at, causes, holder, self._moved(state, environment), harmful, returning, spent)

    def _harmful(self, drive: _Drive, environment: Environment, returning: Returning | None, now: float) -> bool | None:
        """Whether the harm goes on since the weight has moved, or the flag was killed."""
        state, sight = drive.state, drive.sight
        began = state.entered if state.returned is None else returning.at if returning is not None else None
        if began is None or now - began < SETTLES or (state.returned is not None and environment.holder is not None):
            sight.since = None  # what is counted before says nothing
            return None
        assert state.cause is not None  # it is what was acted upon
        if state.cause.means is Means.CRASH and sight.dead:
            return True
        return sight.harmful(state, self._parts, drive.policy.objectives, began + SETTLES, now)

    @staticmethod
    def _moved(state: Watch, environment: Environment) -> str:
        """Who has changed what is live, if somebody other than this watch has."""
        live, back = environment.live, state.returned
        if live == state.plan.release:
            return f"{live} is live again" if back is not None and state.switched is not None else ""
        if back is not None and str(live) == back.target:
            return ""
        return f"{live} is live now" if live is not None else "nothing is live any more"

    def _returning(self, state: Watch) -> Returning | None:
        back = state.returned
        if back is None or back.rollout is None:
            return None
        rollout = self._parts.store.rollout(back.rollout)
        if rollout.phase is RolloutPhase.PROMOTED:
            moves = [entry.at for entry in self._parts.store.journal(rollout.id) if entry.action == "set-split"]
            return Returning(rollout.id, min(moves, default=rollout.entered))
        return Returning(rollout.id, failed=rollout.reason if rollout.phase is RolloutPhase.ROLLED_BACK else "")

    def _spent(self, key: EnvKey, id: int) -> tuple[Spent, ...]:
        """Where earlier watches of an environment went back, within a day."""
        found = []
        for record in self._parts.records.list(KIND, key, since=self._parts.now() - DAY, limit=200):
            state = state_of(record)
            if record.id == id or state.returned is None:
                continue
            helped = {Phase.HELPED: True, Phase.NOT_HELPED: False}.get(state.phase)
            found.append(Spent(state.plan.release, state.plan.digest, state.returned.at, helped))
        return tuple(found)

    # --- to act

    def _begun(self, drive: _Drive, environment: Environment) -> Done | None:
        """What a server that was killed has done already of what is pending: it is not done again."""
        state = drive.state
        if not state.pending or state.decided is None:
            return None
        key, action = state.plan.key, state.pending[0]
        for rollout in self._parts.store.rollouts(key, limit=LATEST):
            ours = rollout.plan.kind is Kind.ROLLBACK and rollout.plan.baseline == state.plan.release
            ours = ours and rollout.id > state.plan.rollout and rollout.began >= state.decided
            if ours and self._parts.store.begun_by([rollout.id]).get(rollout.id) == CUSTODIAN.name:
                return Done(action.id, _went_back(rollout))
        current = self._parts.flags.current(key) if action.kills else None
        for name, flag in ((current.document or {}).get("flags", {}) if current is not None else {}).items():
            killed = flag.get("crossfade", {}).get("killed")
            if killed and killed["by"] == CUSTODIAN.name and killed["at"] >= state.decided:
                return Done(action.id, Remedied(f"flag {name} is killed", name, float(killed["at"])))
        return None

    def _act(self, drive: _Drive, action: Remedy, fence: int) -> None:
        """Carry out the cheapest remedy. It was written down before that it would be."""
        key = drive.state.plan.key
        try:
            trail = drive.sight.trail
            plan = (
                self._doer.remedy(key, action.calls, trail.upto(drive.sight.last))
                if action.kills and trail is not None and drive.sight.last is not None
                else self._doer.going_back(key, action.calls)
            )
            drive.plans.append(plan.to_data())
            remedy = plan.remedy
            if remedy is None:
                self._decide(drive, Failed(action.id, plan.reason))
                return
            self._doer.carry_out(key, plan, CUSTODIAN, fence)
            now = self._parts.now()
            if remedy.what is What.KILL_FLAG:
                flag = remedy.target.partition("=")[0]
                done = Remedied(f"flag {flag} is killed", remedy.target, now)
            else:
                done = _went_back(next(r for r in self._parts.store.rollouts(key, limit=1)))
        except CrossfadeError as error:
            passing = isinstance(error, Busy | Moved | Unavailable | StorageFailed)
            self._decide(drive, Failed(action.id, error.what, passing))
            return
        drive.sight.anew()
        self._decide(drive, Done(action.id, done))

    def _decide(self, drive: _Drive, event: Event) -> None:
        """Take the event in, and write down what is worth it before anything is done about it."""
        now, before, journal = self._parts.now(), drive.state, list(drive.journal)
        new, _ = decide(before, event, now)
        drive.state = new
        if new.phase is not before.phase:
            if new.phase is Phase.WATCHING:
                drive.sight.anew()
            _say(drive, now, f"{new.phase}: {new.reason}")
        elif new.waiting and new.waiting != before.waiting:
            _say(drive, now, new.waiting)
        uneventful = replace(new, observed=before.observed) == before
        if uneventful and 0 <= now - drive.saved < SAVED_EVERY:
            return
        if new.phase.ended and drive.receipt is None:
            drive.receipt = self._receipt(new)
        try:
            if new.phase.ended:
                self._tell(drive)  # before: of one that has ended, a server that is killed here says nothing more
            self._parts.records.save(new.id, drive.to_data(), now, ended=new.phase.ended, told=not uneventful)
        except CrossfadeError:
            drive.state, drive.journal = before, journal
            raise
        drive.saved = now
        self._tell(drive)
        if new.phase.ended:
            self._drives.pop(new.id, None)

    def _tell(self, drive: _Drive) -> None:
        """Open, renew or close the alert; doing it twice is doing it once."""
        state = drive.state
        said = machine.alert(state)
        if said is None:
            if drive.told or state.done or state.refused:
                self._alerts.resolve(state.plan.key, ALERT, sentence_of(state))
            drive.told = ""
            return
        severity, sentence = said
        if sentence == drive.told:
            return
        facts: dict[str, Any] = {"watch": state.id, "rollout": state.plan.rollout, "release": str(state.plan.release)}
        if state.returned is not None:
            facts["returned"] = state.returned.rollout
        if state.phase in (Phase.PROPOSED, Phase.NOT_HELPED):
            facts |= self._proposed(state.plan.key, state.cause.sentence if state.cause is not None else "")
        self._alerts.open(state.plan.key, ALERT, severity, sentence, facts)
        drive.told = sentence

    def _receipt(self, state: Watch) -> dict[str, Any] | None:
        """How long each step took (s), and how many requests were harmed; None when there was no harm."""
        cause = state.cause
        if cause is None or state.detected is None:
            return None
        ends = (state.switched or state.entered) + SETTLES
        series = cause.name if cause.means is Means.BURN else EDGE
        known = cause.means is not Means.PROFILE or cause.name == ERRORS
        harmed = None
        with contextlib.suppress(CrossfadeError):
            found = self._parts.histories.count(Series(state.plan.key, series), cause.began, ends)
            harmed = found.bad if known else None
        return {
            "harm": cause.began,
            "detection": _between(cause.began, state.detected),
            "decision": _between(state.detected, state.decided),
            "switch": _between(state.decided, state.switched),
            "recovery": _between(cause.began, state.recovered),
            "harmed": round(harmed) if harmed is not None else None,
            "helped": {Phase.HELPED: True, Phase.NOT_HELPED: False}.get(state.phase),
        }


def _between(earlier: float | None, later: float | None) -> float | None:
    return round(later - earlier, 3) if earlier is not None and later is not None else None


def _went_back(rollout: Rollout) -> Remedied:
    target = str(rollout.plan.candidate)
    return Remedied(f"rollout #{rollout.id} goes back to {target}", target, rollout.began, rollout.id)


def _say(drive: _Drive, at: float, text: str) -> None:
    drive.journal.append({"at": at, "text": text, "phase": drive.state.phase.value})
    del drive.journal[:-LONGEST_JOURNAL]
