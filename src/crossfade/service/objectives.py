"""What clients are promised, and whether it is kept: counted once a second at the edge, and asked from outside.

One thread reads the edge for all environments at once. What may hang, the outside prober and sources elsewhere, has a
thread of its own per environment (`service.outside`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from crossfade.domain import metering
from crossfade.domain.alert import Alert, Severity
from crossfade.domain.environment import Environment
from crossfade.domain.errors import CrossfadeError, NotFound
from crossfade.domain.metering import Mark, Stretch
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.slo import EDGE, PROBE, Counted, Exhausted, Kind, Objective, Series, Standing, assess, lifts_at
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Parts, Reading
from crossfade.service.alerts import Alerts
from crossfade.service.elsewhere import Elsewhere
from crossfade.service.outside import Outside

log = logging.getLogger("crossfade.objectives")

INTERVAL: Final = 1.0
"""Seconds between two readings of the edge."""
LOOKS_EVERY: Final = 2.0
"""Seconds between two looks at which environments there are, and by which objectives."""
ASSESSED: Final = 10.0
"""Seconds between two assessments of objectives that nothing bad happens to."""
KEPT_EVERY: Final = 30.0
"""Seconds between two times at which it is written down where the counters stood."""
BUSY: Final = 0.5
"""The share of the time that may be spent on assessments; who has had no turn comes next time."""
CALM: Final = 60.0
"""Seconds that a burn must be over until its alert is."""
RECOVERED: Final = 0.01
"""The share of a budget that must be left again until the alert about it is over."""
LONG: Final = 2 * 3600.0
"""Seconds from which on a window changes so slowly that it is counted anew only every `ASSESSED` seconds."""
METER: Final = "meter"
"""The kind of record that says where the counters stood."""


class Seen(Protocol):
    """What is asked of the views."""

    def environment(self, key: EnvKey) -> Environment: ...


@dataclass(frozen=True, slots=True)
class Exhaustion:
    """An error budget that is used up. ``lifts`` (epoch s): when it is not any more if nothing bad happens; None: unknown."""

    objective: str
    sentence: str
    lifts: float | None


@dataclass(slots=True)
class _Meter:
    """One environment. ``pending`` are requests whose latencies are not known yet, ``kept`` when its mark was last kept.

    ``bad``: something bad has happened since the last look. ``open`` are its alerts, ``fired`` when a burn was last seen.
    """

    key: EnvKey
    release: ReleaseNumber
    config: ReleaseConfig
    mark: Mark | None = None
    reading: Reading | None = None
    read: bool = False
    pending: Stretch | None = None
    kept: float = 0.0
    record: int | None = None
    bad: bool = False
    standings: dict[str, Standing] = field(default_factory=dict)
    assessed: float = 0.0
    long: dict[tuple[str, float], tuple[float, Counted]] = field(default_factory=dict)
    open: dict[str, Alert] | None = None
    fired: dict[str, float] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)


class Objectives:
    """Use cases, and the thread that counts. ``monotonic`` tells how much time has passed, whatever clocks show."""

    def __init__(self, parts: Parts, seen: Seen, alerts: Alerts, interval: float = INTERVAL) -> None:
        self._parts, self._seen, self._alerts, self._interval = parts, seen, alerts, interval
        self.monotonic: Callable[[], float] = time.monotonic
        self.proposal: Callable[[EnvKey, str], Mapping[str, Any]] = lambda _key, _calls: {}
        """What there is to do about a burn that nobody acts upon, as facts of its alert."""
        self.watching: Callable[[EnvKey], Mapping[str, Any] | None] = lambda _key: None
        """The watch over a promotion, as data."""
        self.outside = Outside(parts, alerts, self.served)
        self.elsewhere = Elsewhere(parts)
        self._lock = threading.RLock()
        self._meters: dict[EnvKey, _Meter] = {}
        self._lifting: dict[tuple[EnvKey, str], tuple[float, float | None]] = {}
        self._looked = self._passed = self._wall = float("-inf")
        self._trouble = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="objectives", daemon=True)

    # --- to see

    def view(self, key: EnvKey) -> dict[str, Any]:
        """How each objective of an environment stands, and what follows. Raises NotFound."""
        config, now = self._config(key), self._parts.now()
        frozen = self.exhausted(key)
        return {
            "service": key.service,
            "environment": key.environment,
            "objectives": [
                _view(one, self._standing(key, one, now), self.elsewhere.trouble(key, one.name))
                for one in (config.slo.objectives if config else ())
            ],
            "probe": self.outside.view(key, config) if config else None,
            "frozen": {"sentence": frozen.sentence, "lifts": frozen.lifts} if frozen is not None else None,
            "alerts": [self._alerts.view(alert) for alert in self._alerts.list(key, open_only=True)],
            "watch": self.watching(key),
            "now": now,
        }

    def history(self, key: EnvKey, name: str, begins: float, ends: float, step: float) -> list[dict[str, Any]]:
        """What was counted, by bins of ``step`` seconds, oldest first; what is not known is left out. Raises NotFound.

        ``name`` is that of an objective, or `EDGE` or `PROBE`.
        """
        config = self._config(key)
        known = [objective.name for objective in config.slo.objectives] if config else []
        if name not in (*known, EDGE, PROBE):
            there = ", ".join(known) or "none"
            raise NotFound(f"{key} has no objective {name!r}.", hint=f"Known: {there}; and {EDGE} and {PROBE}.")
        return [
            {
                "at": one.at,
                "seconds": one.seconds,
                "covered": one.counted.covered,
                "total": one.counted.total,
                "bad": one.counted.bad,
            }
            for one in self._parts.histories.bins(Series(key, name), begins, ends, step)
        ]

    def exhausted(self, key: EnvKey) -> Exhaustion | None:
        """The used-up budget because of which nothing is deployed to an environment; None while there is none.

        One of which hardly a day is known freezes nothing: a first bad release would keep its own successor out.
        """
        config = self._config(key)
        if config is None or config.slo.exhausted is not Exhausted.FREEZE:
            return None
        now = self._parts.now()
        for objective in config.slo.objectives:
            standing = self._standing(key, objective, now)
            if standing.budget.exhausted and not standing.young:
                return Exhaustion(objective.name, standing.sentence, self._lifts(key, objective, now))
        return None

    def _lifts(self, key: EnvKey, objective: Objective, now: float) -> float | None:
        """Asked again and again by a run that waits for it, and weeks away: it need not be to the second."""
        at, known = self._lifting.get((key, objective.name), (float("-inf"), None))
        if not 0 <= now - at < KEPT_EVERY:
            step = max(60.0, objective.window / 1000)
            bins = self._parts.histories.bins(Series(key, objective.name), now - objective.window, now, step)
            known = lifts_at(objective, bins, now)
            self._lifting[key, objective.name] = now, known
        return known

    def standings(self, key: EnvKey) -> dict[str, Standing]:
        """How each objective stood when it was last looked at."""
        with self._lock:
            meter = self._meters.get(key)
            return dict(meter.standings) if meter is not None else {}

    def reading(self, key: EnvKey) -> Reading | None:
        """The newest of the edge, when the last look has got one."""
        with self._lock:
            meter = self._meters.get(key)
            return meter.reading if meter is not None and meter.read else None

    def served(self, key: EnvKey, since: float) -> float:
        """How many requests the edge has answered well since a moment."""
        found = self._parts.histories.count(Series(key, EDGE), since, self._parts.now())
        return max(0.0, found.total - found.bad)

    def _config(self, key: EnvKey) -> ReleaseConfig | None:
        live = self._seen.environment(key).live
        return self._parts.store.release(key.service, live).config if live is not None else None

    def _standing(self, key: EnvKey, objective: Objective, now: float) -> Standing:
        """As it was assessed a moment ago, or now."""
        with self._lock:
            meter = self._meters.get(key)
            if (
                meter is not None
                and 0 <= now - meter.assessed < self._interval * 2
                and objective.name in meter.standings
            ):
                return meter.standings[objective.name]
        return self._assess(key, objective, now)

    def _assess(self, key: EnvKey, objective: Objective, now: float, meter: _Meter | None = None) -> Standing:
        series, histories = Series(key, objective.name), self._parts.histories

        def count(begins: float, ends: float) -> Counted:
            if meter is None or ends - begins <= LONG:
                return histories.count(series, begins, ends)
            asked = objective.name, round(ends - begins)
            at, known = meter.long.get(asked, (float("-inf"), Counted()))
            if not 0 <= now - at < ASSESSED:
                at, known = now, histories.count(series, begins, ends)
                meter.long[asked] = at, known
            return known

        return assess(objective, count, now)

    # --- by itself

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self.outside.stop()
        self.elsewhere.stop()
        for meter in list(self._meters.values()):
            try:
                self._keep(meter)
            except CrossfadeError as error:
                log.warning("%s: %s", meter.key, error)

    def _run(self) -> None:
        due = self.monotonic()
        while not self._stop.is_set():
            try:
                self.look()
            except CrossfadeError as error:
                log.warning("objectives: %s", error)
            except Exception:
                log.exception("objectives")
            due = max(due + self._interval, self.monotonic())
            self._stop.wait(due - self.monotonic())

    def look(self) -> None:
        """Read the edge once, and say what follows of it for each environment."""
        now, passed = self._parts.now(), self.monotonic()
        jumped = self._wall > 0 and metering.jumped(now - self._wall, passed - self._passed)
        self._wall, self._passed = now, passed
        if jumped:
            log.warning("the clock was set: what was counted meanwhile is not known")
        if jumped or not 0 <= now - self._looked < LOOKS_EVERY:
            self._looked = now
            self._meet()
        with self._lock:
            meters = list(self._meters.values())
        readings: Mapping[EnvKey, Reading] = {}
        if meters:
            try:
                readings = self._parts.signals.read_many([meter.key for meter in meters])
                self._trouble = ""
            except CrossfadeError as error:
                if self._trouble != error.what:
                    log.warning("the edge cannot be read: %s", error)
                self._trouble = error.what
        for meter in meters:
            self._trying(meter, "read", lambda meter=meter: self._read(meter, readings.get(meter.key), jumped))  # type: ignore[misc]  # bound now
        # Those that something bad has happened to come first, and the rest of the time is for who has waited longest.
        due = sorted(
            (meter for meter in meters if self._due(meter, now, jumped)), key=lambda m: (not m.bad, m.assessed)
        )
        for meter in due:
            if self._stop.is_set() or (meter is not due[0] and self.monotonic() - passed > self._interval * BUSY):
                return
            self._trying(meter, "judge", lambda meter=meter: self._judge(meter))  # type: ignore[misc]  # bound now

    @staticmethod
    def _trying(meter: _Meter, what: str, do: Callable[[], None]) -> None:
        """What goes wrong with one environment is said once, and is nothing to the others."""
        try:
            do()
            meter.trouble.pop(what, None)
        except CrossfadeError as error:
            if meter.trouble.get(what) != error.what:  # not each second
                log.warning("%s: %s", meter.key, error)
            meter.trouble[what] = error.what
        except Exception:
            log.exception("%s", meter.key)

    def _meet(self) -> None:
        """Which environments have a live release, and what it promises."""
        there: dict[EnvKey, tuple[Environment, ReleaseConfig]] = {}
        for environment in self._parts.store.environments():
            key, live = environment.key, environment.live
            if live is None:
                continue
            known = self._meters.get(key)
            if known is not None and known.release == live:
                config = known.config
            else:
                config = self._parts.store.release(key.service, live).config
            there[key] = environment, config
            with self._lock:
                if known is None:
                    self._meters[key] = self._resumed(_Meter(key, live, config))
                elif known.release != live:
                    known.release, known.config, known.assessed = live, config, 0.0
        with self._lock:
            for key in self._meters.keys() - there.keys():
                del self._meters[key]
        self.outside.settle({key: config for key, (_, config) in there.items()})
        self.elsewhere.settle(there)

    # --- to count

    def _resumed(self, meter: _Meter) -> _Meter:
        """A meter that goes on where one before it stood: the edge has counted meanwhile, whoever was away."""
        found = self._parts.records.list(METER, meter.key, open_only=True, limit=1)
        if found:
            meter.record = found[0].id
            try:
                meter.mark = Mark.from_data(found[0].data)
            except (KeyError, TypeError, ValueError):
                log.warning("%s: where its counters stood cannot be read", meter.key)
        return meter

    def _read(self, meter: _Meter, reading: Reading | None, jumped: bool) -> None:
        meter.read, meter.bad = reading is not None, False
        if reading is not None:
            before, mark = meter.mark, Mark.of(reading)
            meter.reading, meter.mark = reading, mark
            stretch = metering.between(before, mark) if before is not None and not jumped else None
            if stretch is None:
                meter.pending = None
            else:
                self._count(meter, stretch if meter.kept else self._unknown_of(meter.key, stretch))
            if jumped or not 0 <= mark.at - meter.kept < KEPT_EVERY:
                self._keep(meter)

    def _unknown_of(self, key: EnvKey, stretch: Stretch) -> Stretch:
        """The part of what was counted while no server looked that is not in the history: the last one may have been killed."""
        known = self._parts.histories.bins(Series(key, EDGE), stretch.begins, stretch.ends, 1.0)
        if not known:
            return stretch
        total = sum(one.counted.total for one in known)
        bad = sum(one.counted.bad for one in known)
        begins = min(stretch.ends - 0.001, max(stretch.begins, known[-1].at + known[-1].counted.covered))
        return stretch.less(total, bad, begins)

    def _count(self, meter: _Meter, stretch: Stretch) -> None:
        histories, key = self._parts.histories, meter.key
        everything = Counted(stretch.requests, stretch.errors, stretch.seconds)
        histories.add(Series(key, EDGE), stretch.begins, stretch.ends, everything)
        meter.bad = stretch.errors > 0
        waiting, answered = meter.pending.plus(stretch) if meter.pending is not None else stretch, True
        for objective in meter.config.slo.objectives:
            if objective.signal:
                continue
            if objective.kind is Kind.AVAILABILITY:
                histories.add(Series(key, objective.name), stretch.begins, stretch.ends, everything)
                continue
            found = metering.counted(objective, waiting)
            if found is None:
                answered = False
            else:
                histories.add(Series(key, objective.name), waiting.begins, waiting.ends, found)
                meter.bad = meter.bad or found.bad > 0
        meter.pending = None if answered or waiting.seconds >= metering.PATIENCE else waiting

    def _keep(self, meter: _Meter) -> None:
        if meter.mark is None:
            return
        now, data = self._parts.now(), meter.mark.to_data()
        if meter.record is None:
            meter.record = self._parts.records.add(METER, meter.key, "", data, now).id
        else:
            self._parts.records.save(meter.record, data, now, told=False)
        meter.kept = meter.mark.at

    # --- to judge

    @staticmethod
    def _due(meter: _Meter, now: float, jumped: bool) -> bool:
        """At once when something bad has happened, else now and then."""
        burning = any(standing.fires for standing in meter.standings.values())
        return jumped or meter.bad or burning or not 0 <= now - meter.assessed < ASSESSED

    def _judge(self, meter: _Meter) -> None:
        """Assess each objective, and say what is to be said of it."""
        now, key, objectives = self._parts.now(), meter.key, meter.config.slo.objectives
        standings = {one.name: self._assess(key, one, now, meter) for one in objectives}
        with self._lock:
            meter.standings, meter.assessed = standings, now
        if meter.open is None:
            meter.open = {alert.name: alert for alert in self._alerts.list(key, open_only=True)}
        for objective in objectives:
            self._tell_burn(meter, objective, standings[objective.name], now)
            self._tell_budget(meter, objective, standings[objective.name])
        for name in [name for name in meter.open if name.partition(":")[0] in ("burn", "budget")]:
            if name.partition(":")[2] not in standings:
                self._over(meter, name, "there is no such objective any more")

    def _tell_burn(self, meter: _Meter, objective: Objective, standing: Standing, now: float) -> None:
        """Open the alert at once; close it when it has been calm for a while."""
        name, severity = f"burn:{objective.name}", standing.severity
        assert meter.open is not None  # they were read
        known = meter.open.get(name)
        if severity is not None:
            meter.fired[name] = now
            if known is not None and known.severity is Severity.PAGE and severity is not Severity.PAGE:
                return  # it is getting better, and may get worse again
            if known is not None and known.severity is severity and now - known.facts.get("said", 0.0) < ASSESSED:
                return
            facts: dict[str, Any] = {"objective": objective.name, "release": str(meter.release), "said": now}
            facts["began"] = known.facts.get("began", now) if known is not None else now
            if severity is Severity.PAGE:
                facts |= self.proposal(meter.key, standing.sentence)
            sentence = f"{objective.name}: {standing.sentence}"
            meter.open[name] = self._alerts.open(meter.key, name, severity, sentence, facts)
        elif known is not None and not 0 <= now - meter.fired.setdefault(name, now) < CALM:
            self._over(meter, name, f"it burns no more: {standing.sentence}")

    def _tell_budget(self, meter: _Meter, objective: Objective, standing: Standing) -> None:
        """Once when it is used up, when something else follows of that, and when there is some of it, not with each request."""
        name, left = f"budget:{objective.name}", standing.budget.left
        assert meter.open is not None  # they were read
        if standing.budget.exhausted:
            freezes = meter.config.slo.exhausted is Exhausted.FREEZE
            then = "nothing but rollbacks and fixes is deployed" if freezes else "nothing is frozen: it is a warning"
            if freezes and standing.young:
                then = "nothing is frozen yet, since so little of the window is known"
            known = meter.open.get(name)
            if known is not None and known.facts.get("then") == then:
                return
            used, allowed = standing.budget.used, standing.budget.allowed
            sentence = f"the error budget of {objective.name} is used up: {used:.0f} bad, {allowed:.0f} allowed; {then}"
            facts = {"objective": objective.name, "used": used, "allowed": allowed, "then": then}
            meter.open[name] = self._alerts.open(meter.key, name, Severity.TICKET, sentence, facts)
        elif name in meter.open and left is not None and left > RECOVERED:
            self._over(meter, name, f"there is budget again: {standing.sentence}")

    def _over(self, meter: _Meter, name: str, sentence: str) -> None:
        self._alerts.resolve(meter.key, name, sentence)
        if meter.open is not None:
            meter.open.pop(name, None)


def _view(objective: Objective, standing: Standing, trouble: str) -> dict[str, Any]:
    """One objective as data."""
    return {
        "name": objective.name,
        "kind": objective.kind.value,
        "target": objective.target,
        "window": objective.window,
        "threshold": objective.threshold,
        "signal": objective.signal,
        "state": standing.state.value,
        "sentence": f"{standing.sentence}; its source cannot be read: {trouble}" if trouble else standing.sentence,
        "share_good": standing.share_good,
        "budget": {
            "allowed": standing.budget.allowed,
            "used": standing.budget.used,
            "left": standing.budget.left,
            "exhausted": standing.budget.exhausted,
        },
        "covered": standing.covered,
        "rules": [
            {
                "severity": one.rule.severity.value,
                "long": one.rule.long,
                "short": one.rule.short,
                "threshold": one.rule.threshold,
                "burn_long": one.burn_long,
                "burn_short": one.burn_short,
                "fires": one.fires,
            }
            for one in standing.burns
        ],
    }
