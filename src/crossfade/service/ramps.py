"""Guarded ramps of flags: a variant's share rises by steps under the judge, and goes back by itself.

One thread drives those that are open. What a ramp does is decided by `domain.flags.ramp`; this carries it out, and keeps it
so that a server that is killed at any moment goes on where it was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from pydantic import TypeAdapter

from crossfade.domain.access import Actor, Role
from crossfade.domain.analysis.policy import Analysis
from crossfade.domain.environment import Environment
from crossfade.domain.errors import CrossfadeError, NotFound, Refused
from crossfade.domain.flags import document as documents
from crossfade.domain.flags import ramp as machine
from crossfade.domain.flags.arms import tellable
from crossfade.domain.flags.model import Split
from crossfade.domain.flags.ramp import (
    STEPS,
    Action,
    Command,
    Conclude,
    Done,
    Event,
    Failed,
    Kill,
    Mark,
    Observed,
    Ordered,
    Phase,
    Plan,
    Ramp,
    SetShare,
    decide,
)
from crossfade.domain.flags.steering import refuse_ramp, rule_of, share
from crossfade.domain.release import Step
from crossfade.domain.values import NOTHING, EnvKey
from crossfade.ports import Parts
from crossfade.ports.flags import RampRow
from crossfade.service.audit import Audit
from crossfade.service.ramp_judging import RampJudging
from crossfade.service.steering import CUSTODIAN, Steering

log = logging.getLogger("crossfade.ramps")

INTERVAL: Final = 0.25
"""Seconds between two looks at open ramps."""
IDLE: Final = 5.0
"""Seconds between two looks at whether there are any, since somebody else may have begun one."""
AFTER: Final = 3.0
"""Seconds after the end that the receipt says what clients saw of."""
RULE: Final = "ramp"
"""The rule that is made for a ramp whose flag splits its variant nowhere."""
LONGEST_JOURNAL: Final = 500
_STATE = TypeAdapter(Ramp)


class Seen(Protocol):
    """What is asked of the views."""

    def environment(self, key: EnvKey) -> Environment: ...


@dataclass(slots=True)
class _Drive:
    """A ramp under way. ``left`` is the flag's data as the ramp has left it, ``receipt`` what came of it."""

    state: Ramp
    left: Mapping[str, Any]
    judging: RampJudging
    by: str
    left_out: tuple[str, ...] = ()
    journal: list[dict[str, Any]] = field(default_factory=list)
    receipt: dict[str, Any] | None = None
    ended: float | None = None

    def to_data(self) -> dict[str, Any]:
        """As JSON, without the evidence."""
        return {
            "ramp": _STATE.dump_python(self.state, mode="json"),
            "left": dict(self.left),
            "by": self.by,
            "left_out": list(self.left_out),
            "journal": self.journal,
            "receipt": self.receipt,
        }

    @classmethod
    def of(cls, row: RampRow, evidence: Mapping[str, Any] | None) -> _Drive:
        """From what was written down."""
        data = row.state
        state = replace(_STATE.validate_python(data["ramp"]), id=row.id)
        left_out, journal = tuple(data["left_out"]), list(data["journal"])
        judging = RampJudging(state.plan, evidence)
        return cls(state, data["left"], judging, data["by"], left_out, journal, data["receipt"], row.ended)


class Ramps:
    """Use cases, and the thread that drives the ramps."""

    def __init__(self, parts: Parts, seen: Seen, audit: Audit, interval: float = INTERVAL) -> None:
        self._parts, self._seen, self._audit, self._interval = parts, seen, audit, interval
        self._steering = Steering(parts, audit)
        self._stop, self._wake = threading.Event(), threading.Event()
        self._lock = threading.RLock()
        self._drives: dict[int, _Drive] = {}
        self._told: dict[int, tuple[float, str]] = {}
        self._thread = threading.Thread(target=self._run, name="ramps", daemon=True)

    # --- to see

    def list(
        self, key: EnvKey, flag: str | None = None, limit: int = 50, before: int | None = None, open_only: bool = False
    ) -> list[dict[str, Any]]:
        """The ramps of an environment, newest first, without journals. Raises NotFound."""
        self._seen.environment(key)
        rows = self._parts.flags.ramps(key, flag=flag, open_only=open_only, limit=limit, before=before)
        return [self._view(self._known(row)) for row in rows]

    def view(self, id: int) -> dict[str, Any]:
        """One ramp with its journal, what clients of each variant have seen, and its receipt. Raises NotFound."""
        drive = self._known(self._parts.flags.ramp(id))
        return {**self._view(drive), "journal": list(drive.journal), "receipt": drive.receipt}

    def open(self, key: EnvKey, flag: str) -> dict[str, Any] | None:
        """`view` of the ramp of a flag that is under way, if there is one."""
        row = next(iter(self._parts.flags.ramps(key, flag=flag, open_only=True, limit=1)), None)
        return self.view(row.id) if row is not None else None

    def environment_of(self, id: int) -> EnvKey:
        """Which environment a ramp is in. Raises NotFound."""
        return self._parts.flags.ramp(id).key

    def _known(self, row: RampRow) -> _Drive:
        with self._lock:
            driven = self._drives.get(row.id)
            return driven or _Drive.of(row, self._parts.flags.ramp_evidence(row.id))

    def _view(self, drive: _Drive) -> dict[str, Any]:
        state, plan, judging = drive.state, drive.state.plan, drive.judging
        verdict = state.verdict
        return {
            "id": state.id,
            "service": plan.key.service,
            "environment": plan.key.environment,
            "flag": plan.flag,
            "variant": plan.variant,
            "rest": plan.rest,
            "rule": plan.rule,
            "phase": state.phase.value,
            "ended": state.phase.ended,
            "ended_at": drive.ended,
            "weight": state.weight.bp,
            "step": state.step,
            "steps": [{"weight": step.weight.bp, "duration": step.duration} for step in plan.steps],
            "paused": state.paused is not None,
            "waiting": state.waiting,
            "verdict": {"finding": verdict.finding.value, "sentence": verdict.sentence} if verdict else None,
            "metrics": list(judging.compared),
            "not_judged": list(drive.left_out),
            "arms": judging.counted(),
            "reason": state.reason,
            "by": drive.by,
            "began": state.began,
            "entered": state.entered,
            "now": self._parts.now(),
        }

    # --- to change

    def begin(
        self,
        key: EnvKey,
        flag: str,
        variant: str,
        by: Actor,
        *,
        rest: str | None = None,
        rule: str | None = None,
        steps: Sequence[Step] = STEPS,
        analysis: Analysis | None = None,
    ) -> dict[str, Any]:
        """Ramp a variant to 100 % of a rule's units; those that are not there yet get ``rest``.

        ``rule``: whose split is set; without it the first that splits the variant, else one that is made behind all others.
        ``rest``: without it what that split serves the others, else the flag's off variant. ``analysis``: without it the live
        release's. Where changes of flags want somebody else's approval, beginning a ramp wants that role. Raises Forbidden,
        NotFound, Refused, Invalid, Busy.
        """
        by.require(Role.OPERATOR, key)
        wanted = self._parts.flags.settings(key).approval
        if wanted is not None:
            by.require(wanted, key)
        environment = self._seen.environment(key)
        document, data = self._steering.find(key, flag)
        known = documents.read(document).flags[flag]
        found = known.rule(rule) if rule is not None else rule_of(known, variant)
        named = found.name if found is not None else rule or RULE
        if rest is None:
            rest = found.serve.rest if found is not None and isinstance(found.serve, Split) else known.off_variant
        if rest is None:
            raise Refused(f"Flag {flag!r} has no off variant for the rest.", hint="Say which variant the rest gets.")
        refuse_ramp(known, named, variant, rest)
        has = share(known, named, variant) or NOTHING
        ahead = tuple(step for step in steps if step.weight > has)
        if steps and not ahead:
            raise Refused(f"{variant!r} has {has} of rule {named!r} already.", hint="A ramp only rises.")
        if analysis is None:
            live = environment.live
            analysis = self._parts.store.release(key.service, live).config.analysis if live else Analysis()
        policy, left_out = tellable(analysis)
        plan = Plan(key, flag, variant, rest, named, ahead, policy)
        Plan(key, flag, variant, rest, named, tuple(steps), policy).check()
        self._steering.check(plan)
        now = self._parts.now()
        state, _ = machine.begin(0, plan, by.name, now)
        drive = _Drive(state, data, RampJudging(plan, None), by.name, left_out)
        _say(drive, now, f"{by.name} ramps {variant!r} of {flag!r} against {rest!r} by rule {named!r}")
        with self._lock:
            row = self._parts.flags.add_ramp(key, flag, drive.to_data(), now)
            drive.state = replace(state, id=row.id)
            self._drives[row.id] = drive
        after = {"ramp": row.id, "variant": variant, "rest": rest, "rule": named, "steps": [s.weight.bp for s in ahead]}
        self._audit.note(by, "ramp.begin", f"{key}/{flag}", {"share": has.bp}, after)
        self._wake.set()
        return self.view(row.id)

    def order(self, id: int, command: Command, by: Actor) -> dict[str, Any]:
        """Give a ramp a command: pause, resume, finish (100 % now), abort (back to 0). Raises Forbidden, NotFound, Refused."""
        row = self._parts.flags.ramp(id)
        by.require(Role.OPERATOR, row.key)
        with self._lock:
            drive = self._load(row)
            machine.allow(drive.state, command)
            before = {"ramp": id, "phase": drive.state.phase.value, "share": drive.state.weight.bp}
            order = Ordered(f"order-{len(drive.state.seen) + 1}", command, by.name)
            self._decide(drive, order, f"{command} by {by.name}")
        after = {**before, "command": command.value}
        self._audit.note(by, f"ramp.{command.value}", f"{row.key}/{row.flag}", before, after)
        self._wake.set()
        return self.view(id)

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
                interval = self._interval if self.look() else IDLE
            except Exception:
                log.exception("ramps")
                interval = IDLE

    def look(self) -> int:
        """Drive every open ramp as far as it goes now; how many there are."""
        rows = self._parts.flags.ramps(open_only=True, limit=1000)
        for row in rows:
            if self._stop.is_set():
                break
            try:
                with self._lock:
                    self._turn(self._load(row))
            except CrossfadeError as error:
                log.warning("ramp #%d of %s in %s: %s", row.id, row.flag, row.key, error)
            except Exception:
                log.exception("ramp #%d of %s in %s", row.id, row.flag, row.key)
        return len(rows)

    def _load(self, row: RampRow) -> _Drive:
        if row.id not in self._drives:
            self._drives[row.id] = _Drive.of(row, self._parts.flags.ramp_evidence(row.id))
        return self._drives[row.id]

    def _turn(self, drive: _Drive) -> None:
        """Act and look until there is nothing to do but wait."""
        while not drive.state.phase.ended:
            action = drive.state.pending[0] if drive.state.pending else None
            event = self._act(drive, action) if action is not None else self._observe(drive)
            if event is None:
                return
            said = machine.describe(action, drive.state.plan) if action is not None and isinstance(event, Done) else ""
            pending = drive.state.pending
            self._decide(drive, event, "" if isinstance(action, Mark | Conclude) else said)
            if drive.state.pending == pending:
                return  # it failed and is tried again, or nothing has come of the look
        self._drives.pop(drive.state.id, None)
        self._told.pop(drive.state.id, None)

    def _decide(self, drive: _Drive, event: Event, said: str) -> None:
        """Take the event in and write down what is worth it; what cannot be written down has not happened."""
        now, before, journal = self._parts.now(), drive.state, list(drive.journal)
        new, _ = decide(before, event, now)
        drive.state = new
        if said:
            _say(drive, now, said)
        if new.phase is not before.phase:
            _say(drive, now, f"{new.phase}: {new.reason}" if new.reason else str(new.phase))
        elif new.held != before.held:
            _say(drive, now, f"waits: {new.held}" if new.held else "goes on: the step begins anew")
        uneventful = replace(new, observed=before.observed, verdict=before.verdict, waiting=before.waiting) == before
        if uneventful and not drive.judging.due(now):
            return
        ended = new.phase.ended
        if ended:
            drive.ended = now
        try:
            self._parts.flags.save_ramp(
                new.id,
                drive.to_data(),
                now,
                ended=ended,
                evidence=drive.judging.to_data(now),
                told=self._worth_telling(drive, uneventful, now),
            )
        except CrossfadeError:
            drive.state, drive.journal, drive.ended = before, journal, None
            raise
        if ended:
            after = {"ramp": new.id, "outcome": new.phase.value, "why": new.reason}
            self._audit.note(CUSTODIAN, "ramp.end", f"{new.plan.key}/{new.plan.flag}", {}, after)

    def _worth_telling(self, drive: _Drive, uneventful: bool, now: float) -> dict[str, Any] | None:
        """What the feed hears: of every event, and of a verdict that reads differently, once a second."""
        state = drive.state
        said = f"{state.verdict.sentence if state.verdict else ''} {state.waiting}"
        at, before = self._told.get(state.id, (0.0, ""))
        if uneventful and (said == before or now - at < 1.0):
            return None
        self._told[state.id] = (now, said)
        return {
            "phase": state.phase.value,
            "step": state.step,
            "weight": state.weight.bp,
            "finding": state.verdict.finding.value if state.verdict else None,
        }

    # --- to look

    def _observe(self, drive: _Drive) -> Observed | None:
        """One look. What cannot be read leaves no verdict."""
        state, plan = drive.state, drive.state.plan
        try:
            changed, drive.left = self._steering.changed(plan, drive.left)
            held = self._held(drive)
        except NotFound as error:
            return Observed(self._parts.now(), changed=error.what)
        except CrossfadeError:
            return None  # the ledger is away: nothing is known, and nothing moves
        verdict = None
        if drive.judging.marked and not (held or changed or state.held):
            try:
                verdict = drive.judging.look(state, self._parts.signals.read(plan.key))
            except CrossfadeError:
                verdict = None
        return Observed(self._parts.now(), verdict, held, changed)

    def _held(self, drive: _Drive) -> str:
        """Why nothing can be judged: a rollout moves the service's traffic, or has come and gone since the last look."""
        environment = self._seen.environment(drive.state.plan.key)
        if environment.holder is not None:
            return f"rollout #{environment.holder} moves the service's traffic"
        if not drive.state.held and environment.fence != drive.judging.fence:
            return "a rollout has moved the service's traffic"
        return ""

    # --- to act

    def _act(self, drive: _Drive, action: Action) -> Event | None:
        """Carry an action out; None while it has to wait. Doing it twice is doing it once."""
        try:
            match action:
                case Mark():
                    fence = self._seen.environment(drive.state.plan.key).fence
                    drive.judging.mark(self._parts.signals.read(drive.state.plan.key), fence)
                case SetShare(weight=weight):
                    changed, drive.left = self._steering.set_share(drive.state, drive.left, weight)
                    # Whoever goes back has nothing to take back from somebody who has changed it all.
                    if changed and drive.state.phase is not Phase.GOING_BACK:
                        return Observed(self._parts.now(), changed=changed)
                case Kill(why=why):
                    drive.left = self._steering.kill(drive.state, drive.left, why)
                case Conclude():
                    if not self._conclude(drive):
                        return None
        except CrossfadeError as error:
            return Failed(action.id, error.what)
        return Done(action.id)

    def _conclude(self, drive: _Drive) -> bool:
        """The receipt, once a few seconds after the end are over."""
        state, judging = drive.state, drive.judging
        try:
            reading = self._parts.signals.read(state.plan.key)
        except CrossfadeError:
            reading = None
        if reading is not None:
            if judging.end is None:
                judging.end = reading
                now = self._parts.now()
                self._parts.flags.save_ramp(state.id, drive.to_data(), now, evidence=judging.to_data(now))
            if reading.at - judging.end.at < AFTER:
                return False
        assert state.outcome is not None  # it is ending
        drive.receipt = {
            "ramp": state.id,
            "flag": state.plan.flag,
            "variant": state.plan.variant,
            "rest": state.plan.rest,
            "outcome": state.outcome.value,
            "reason": state.reason,
            "began": state.began,
            "ended": judging.end.at if judging.end is not None else self._parts.now(),
            "share": state.weight.bp,
            "metrics": list(judging.compared),
            "judged": judging.counted(),
            "after": judging.after(reading) if reading is not None and judging.end is not None else None,
            "steps": [line for line in drive.journal if line["weight"] is not None],
        }
        return True


def _say(drive: _Drive, at: float, text: str) -> None:
    """A line of the journal; ``weight`` is the variant's share where it was set."""
    weight = drive.state.weight.bp if text.startswith("gives ") else None
    drive.journal.append({"at": at, "text": text, "phase": drive.state.phase.value, "weight": weight})
    del drive.journal[:-LONGEST_JOURNAL]
