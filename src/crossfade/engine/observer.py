"""Watches a rollout between its actions: health, lease, signals, and the verdict over the current step."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from crossfade.domain.analysis.limits import hold_to
from crossfade.domain.analysis.sample import History
from crossfade.domain.analysis.verdict import Finding, Verdict
from crossfade.domain.environment import Occupant
from crossfade.domain.errors import CrossfadeError
from crossfade.domain.flags.pinning import Scene, Suspect, Trail, pin
from crossfade.domain.flags.steering import killable
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.rollback import Facts, RollbackPlan, plan
from crossfade.domain.rollout import Observed, Phase, Rollout, mark
from crossfade.domain.signal import Reading
from crossfade.domain.traffic import CONTROL, Lease
from crossfade.domain.values import EnvKey
from crossfade.engine.effects import last_lines
from crossfade.engine.judging import Judging, joined
from crossfade.ports import Parts, Replica

RECENT = 10.0
"""Seconds that count as lately for the judge."""

SERVING_INTERVAL = 1.0
"""Seconds between health checks of a candidate that serves."""

STALE_AFTER = 5.0
"""A health check that has not come back for its timeout and this many seconds more counts as a fault."""


class Health:
    """Asks the candidate's replicas their health checks in a thread of its own, so that a hanging candidate

    never keeps a lease from being renewed or a breach from being seen.
    """

    def __init__(self, parts: Parts, key: EnvKey, occupant: Occupant, config: ReleaseConfig, interval: float) -> None:
        self._parts, self._key, self._occupant, self._config = parts, key, occupant, config
        self._interval = interval
        self._slowest = sum(check.timeout for check in config.checks) + STALE_AFTER
        self._faults: tuple[str, ...] = ("not asked yet",)
        self._restarts = 0
        self._answered = parts.now()
        self._first = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"health {key}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def read(self) -> tuple[tuple[str, ...], int]:
        """The faults now (none: healthy) and the most restarts of one replica. Waits for the very first answer."""
        self._first.wait(timeout=self._slowest)
        age = self._parts.now() - self._answered
        if age > self._slowest + self._interval:
            return (f"no health answer for {age:.0f} s", *self._faults), self._restarts
        return self._faults, self._restarts

    def _run(self) -> None:
        names = self._occupant.names(self._key)
        while not self._stop.is_set():
            try:
                known = {r.name: r for r in self._parts.runtime.replicas(self._key)}
                replicas = [known.get(name) for name in names]
                faults = tuple(f for name, r in zip(names, replicas, strict=True) for f in self._ask(name, r))
                restarts = max((r.restarts for r in replicas if r), default=0)
            except CrossfadeError as error:
                faults, restarts = (str(error),), self._restarts
            except Exception as error:  # noqa: BLE001 - a guard that dies in silence is worse than one that complains
                faults, restarts = (f"the health check itself failed: {error!r}",), self._restarts
            self._faults, self._restarts, self._answered = faults, restarts, self._parts.now()
            self._first.set()
            self._stop.wait(self._interval)

    def _ask(self, name: str, replica: Replica | None) -> Sequence[str]:
        if replica is None:
            return [f"{name} is not there"]
        if replica.state in ("exited", "stopped"):
            return [f"{name} {replica.detail or replica.state}"]
        url = f"http://{replica.host}:{replica.port}"
        results = self._parts.prober.check(url, self._config.checks, {})
        faults = [f"{name}: {r.name}: {fault}" for r in results for fault in r.faults]
        if replica.state == "running" and any("refused" in fault for fault in faults):
            faults[0] += f" (it runs, but nothing listens on port {replica.port}: does it use $PORT?)"
        return faults


class Observer:
    """Observes one rollout; used by one thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._health: Health | None = None
        self._health_for: tuple[Occupant, float] | None = None
        self._recent: deque[Reading] = deque()
        self._step: tuple[Phase, str, float] | None = None
        self._mark: Reading | None = None
        self._trail: Trail | None = None
        self._renewed = 0.0
        self._judging: Judging | None = None

    def close(self) -> None:
        """Stop asking."""
        if self._judging is not None:
            self._judging.close()
        self._stop_health()

    def _stop_health(self) -> None:
        if self._health is not None:
            self._health.stop()
            self._health = None

    def interval(self, state: Rollout) -> float:
        """Seconds until the next look is worth it."""
        return 0.05 if state.phase is Phase.CHECKING else 0.25

    def observe(self, state: Rollout, fence: int) -> Observed:
        """One look. Never raises CrossfadeError: what cannot be seen is said as a fault, or leaves no verdict."""
        parts = self._parts
        key, plan = state.plan.key, state.plan
        config = parts.store.release(key.service, plan.candidate).config
        faults, restarts = self._ask(state, config)
        lapsed, verdict, remedies = False, None, None
        if state.phase in (Phase.SHIFTING, Phase.WATCHING):
            lapsed = self._renew(state, config, fence)
            verdict, remedies = self._judge(state)
        detail: tuple[str, ...] = ()
        if faults or (verdict is not None and verdict.finding == "fail"):
            detail = self._log_lines(key, state)
        return Observed(parts.now(), faults, restarts, lapsed, verdict, detail, remedies)

    def _ask(self, state: Rollout, config: ReleaseConfig) -> tuple[tuple[str, ...], int]:
        environment = self._parts.store.environment(state.plan.key)
        occupant = environment.slots.get(state.plan.slot) if environment else None
        if occupant is None:
            return (f"slot {state.plan.slot} is empty",), 0
        interval = config.check_interval if state.phase is Phase.CHECKING else SERVING_INTERVAL
        wanted = (occupant, interval)
        if self._health_for != wanted:
            self._stop_health()
            self._health = Health(self._parts, state.plan.key, occupant, config, interval)
            self._health_for = wanted
        assert self._health is not None
        return self._health.read()

    def _log_lines(self, key: EnvKey, state: Rollout) -> tuple[str, ...]:
        environment = self._parts.store.environment(key)
        occupant = environment.slots.get(state.plan.slot) if environment else None
        try:
            return last_lines(self._parts, occupant.names(key)) if occupant else ()
        except CrossfadeError as error:
            return (f"its logs cannot be read: {error}",)

    def _renew(self, state: Rollout, config: ReleaseConfig, fence: int) -> bool:
        """Renew the lease when a quarter of it is over; True when the edge had let it lapse."""
        parts = self._parts
        now = parts.now()
        if now - self._renewed < config.lease / 4:
            return False
        try:
            kept = parts.router.renew(state.plan.key, Lease(now + config.lease, state.plan.home), fence)
        except CrossfadeError:
            return False  # the edge is restarting: it keeps the lease on disk, and is asked again at the next look
        self._renewed = now
        return not kept

    def _judge(self, state: Rollout) -> tuple[Verdict | None, RollbackPlan | None]:
        """The verdict over the current step, and of one that fails what it would take to end the harm."""
        parts = self._parts
        step = (state.phase, mark(state), state.entered)
        if self._step != step:
            self._step, self._mark = step, parts.store.readings(state.id).get(mark(state))
            self._trail = Trail(self._mark) if self._mark is not None else None
            self._recent.clear()
        if self._mark is None or self._trail is None:
            return None, None  # without a beginning, what earlier rollouts left in the counts would be judged
        try:
            reading = parts.signals.read(state.plan.key)
        except CrossfadeError:
            return None, None
        while len(self._recent) > 1 and self._recent[1].at <= reading.at - RECENT:
            self._recent.popleft()
        self._recent.append(reading)
        self._trail.add(reading)
        slot = state.plan.slot
        whole = reading.since(self._mark)
        verdict = hold_to(
            state.plan.limits,
            whole.facts(slot),
            reading.since(self._recent[0]).facts(slot),
            whole.facts(slot.other),
        )
        if state.plan.baseline is not None:
            if self._judging is None:
                self._judging = Judging(parts, state)
            verdict = joined(self._judging.look(state, reading, self._mark), verdict)
        if verdict.finding is not Finding.FAIL:
            return verdict, None
        return verdict, self._plan(state, verdict, self._trail.upto(reading))

    def _plan(self, state: Rollout, verdict: Verdict, trail: Sequence[Reading]) -> RollbackPlan:
        """What it takes to end the harm. What cannot be read of flags leaves going back, as if there were none."""
        plan_of = state.plan
        suspects: tuple[Suspect, ...] = ()
        unseen = ""
        try:
            current = self._parts.flags.current(plan_of.key)
            names = trail[-1].variants.get(plan_of.slot, {})
            if current is not None and names:
                against = CONTROL if plan_of.fresh else plan_of.slot.other
                history = self._judging.history if self._judging is not None else History()
                scene = Scene(plan_of.slot, against, plan_of.analysis, plan_of.limits, history)
                suspects = pin(scene, trail, killable(current.document or {}, names))
        except CrossfadeError as error:
            unseen = f"the flags cannot be read: {error.what}"
        return plan(Facts(verdict.sentence, plan_of.candidate, suspects, state.id, plan_of.baseline, unseen=unseen))
