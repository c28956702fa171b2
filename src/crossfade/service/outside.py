"""The outside prober: asks each environment's edge as a client does, by a thread of its own.

Whoever hangs holds up nobody but itself: what it has not answered is a gap.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from crossfade.domain.alert import Severity
from crossfade.domain.errors import CrossfadeError
from crossfade.domain.health import Check
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.slo import PROBE, Counted, Series
from crossfade.domain.values import DAY, EnvKey, show_duration
from crossfade.ports import Parts
from crossfade.service.alerts import Alerts

GOOD: Final = tuple(range(200, 400))
"""Statuses that are a good answer where no health check says which are."""

OWN: Final = tuple(
    os.strerror(code).lower() for code in (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)
)
"""What this machine says when it can open no connection to anybody: the prober's own fault."""

UNREACHED: Final = tuple(
    os.strerror(code).lower() for code in (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES)
)
"""What it says when there is no way to the edge. Whether to nobody else either, only the edge can tell."""

PROBER: Final = "prober"
"""The name of the alert."""
IN_A_ROW: Final = 3
"""Bad answers until an alert, and good ones until it is over."""
LEAST: Final = 0.05
"""Seconds between two questions, whatever was asked for."""

log = logging.getLogger("crossfade.outside")


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of one question, asked at ``at`` (epoch s). ``fault`` is empty for a good answer.

    ``own``: the fault is the prober's, and nothing is known of the edge. ``unreached``: there was no way to the edge at all.
    """

    at: float
    fault: str = ""
    elapsed: float = 0.0
    own: bool = False
    unreached: bool = False


def question(config: ReleaseConfig) -> Check:
    """What the prober asks: the path of the objectives, else the first health check as it is."""
    probe = config.slo.probe
    if not probe.path and config.checks:
        first = config.checks[0]
        return Check("outside", first.path, first.method, first.send_headers, first.send_body, first.status,
                     first.json, first.body, first.headers, None, probe.timeout)  # fmt: skip
    return Check("outside", probe.path or "/", status=GOOD, timeout=probe.timeout)


def ask(parts: Parts, config: ReleaseConfig) -> Answered:
    """Ask an environment's edge once, as a client does. Never raises."""
    at = parts.now()
    try:
        (result,) = parts.prober.check(config.url, (question(config),), {"User-Agent": "crossfade-prober"})
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in here, it is not the edge's fault
        return Answered(at, f"the prober itself failed: {error!r}", own=True)
    if result.healthy:
        return Answered(at, elapsed=result.elapsed)
    fault = result.faults[0]
    own = any(reason in fault.lower() for reason in OWN)
    unreached = any(reason in fault.lower() for reason in UNREACHED)
    return Answered(at, fault, result.elapsed, own, unreached)


class Asker:
    """Does something again and again in a thread of its own. ``do`` returns the seconds until the next time."""

    def __init__(self, name: str, do: Callable[[], float]) -> None:
        self._do, self._stop = do, threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """It ends when what it waits for has come; nobody waits for that."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                pause = self._do()
            except Exception:
                log.exception("%s", self._thread.name)
                pause = 10.0
            self._stop.wait(max(LEAST, pause))


@dataclass(slots=True)
class _Probed:
    """One environment's prober: what it asks now, and what came of it lately."""

    key: EnvKey
    config: ReleaseConfig
    last: Answered | None = None
    good: Answered | None = None
    in_a_row: int = 0
    """Bad answers without a good one, or, below 0, good ones without a bad one."""
    told: bool | None = None
    """Whether an alert is open; None: not known yet."""
    trouble: str = ""


class Outside:
    """Asks each environment's edge as a client does. ``served`` counts what the edge has answered well since a moment."""

    def __init__(self, parts: Parts, alerts: Alerts, served: Callable[[EnvKey, float], float]) -> None:
        self._parts, self._alerts, self._served = parts, alerts, served
        self._lock = threading.Lock()
        self._probed: dict[EnvKey, _Probed] = {}
        self._askers: dict[EnvKey, Asker] = {}

    def settle(self, wanted: Mapping[EnvKey, ReleaseConfig]) -> None:
        """Ask these, by these configurations, and no others."""
        asked = {key: config for key, config in wanted.items() if config.slo.probe.every > 0}
        for key in self._askers.keys() - asked.keys():
            self._askers.pop(key).stop()
            with self._lock:
                self._probed.pop(key, None)
            self._alerts.resolve(key, PROBER, "nobody asks it any more")
        for key, config in asked.items():
            with self._lock:
                known = self._probed.get(key)
                if known is not None:
                    known.config = config
                    continue
                self._probed[key] = _Probed(key, config)
            self._askers[key] = Asker(f"prober {key}", lambda key=key: self._turn(key))  # type: ignore[misc]  # bound now

    def stop(self) -> None:
        for asker in self._askers.values():
            asker.stop()

    def view(self, key: EnvKey, config: ReleaseConfig) -> dict[str, Any] | None:
        """What it has found: ``every`` (s), ``last`` (epoch s), ``ok``, ``share_good`` of a day, and a sentence; None: it does not ask."""
        if not config.slo.probe.every:
            return None
        now = self._parts.now()
        found = self._parts.histories.count(Series(key, PROBE), now - DAY, now)
        with self._lock:
            probed = self._probed.get(key)
            last = probed.last if probed is not None else None
        return {
            "every": config.slo.probe.every,
            "last": last.at if last is not None else None,
            "ok": None if last is None or last.own else not last.fault,
            "share_good": None if found.share is None else 1 - found.share,
            "sentence": _sentence(last, question(config).path),
        }

    def _turn(self, key: EnvKey) -> float:
        with self._lock:
            probed = self._probed.get(key)
        if probed is None:
            return LEAST
        began = self._parts.now()
        self.asked(probed, ask(self._parts, probed.config))
        return probed.config.slo.probe.every - max(0.0, self._parts.now() - began)

    def asked(self, probed: _Probed, answered: Answered) -> None:
        """Count what came of a question: it stands for the time since the last one."""
        key, every = probed.key, probed.config.slo.probe.every
        if answered.unreached and self._serves(key, answered.at - every):
            # The edge serves others in the same moments: what is broken is the way there from here.
            answered = replace(answered, own=True)
        before, probed.last = probed.last, answered
        if not answered.own:
            begins = answered.at - every
            if before is not None and begins < before.at < answered.at:
                begins = before.at
            counted = Counted(1.0, 1.0 if answered.fault else 0.0, answered.at - begins)
            try:
                self._parts.histories.add(Series(key, PROBE), begins, answered.at, counted)
                probed.trouble = ""
            except CrossfadeError as error:  # what was answered is told all the same
                if probed.trouble != error.what:
                    log.warning("prober %s: %s", key, error)
                probed.trouble = error.what
        if answered.fault:
            probed.in_a_row = max(0, probed.in_a_row) + 1
        else:
            probed.in_a_row, probed.good = min(0, probed.in_a_row) - 1, answered
        self._tell(probed, answered)

    def _serves(self, key: EnvKey, since: float) -> bool:
        try:
            return self._served(key, since) > 0
        except CrossfadeError:
            return False

    def _tell(self, probed: _Probed, answered: Answered) -> None:
        if probed.in_a_row >= IN_A_ROW:
            severity = Severity.TICKET if answered.own else Severity.PAGE
            since = probed.good.at if probed.good is not None else None
            facts = {"url": probed.config.url, "path": question(probed.config).path, "own": answered.own, "good": since}
            sentence = f"{_sentence(answered, question(probed.config).path)}; {probed.in_a_row} times in a row"
            # Said once, and again when it is something else: not with each question.
            if probed.told is not True or probed.in_a_row == IN_A_ROW:
                self._alerts.open(probed.key, PROBER, severity, sentence, facts)
            probed.told = True
        elif probed.in_a_row <= -IN_A_ROW and probed.told is not False:
            self._alerts.resolve(probed.key, PROBER, "it is answered again as it should be")
            probed.told = False


def _sentence(last: Answered | None, path: str) -> str:
    if last is None:
        return "it has not been asked yet"
    if not last.fault:
        return f"{path} was answered well in {show_duration(last.elapsed)}"
    if last.own:
        return f"the prober cannot ask {path}, while the edge serves others: {last.fault}; nothing is counted"
    return f"{path} has no good answer from outside: {last.fault}"
