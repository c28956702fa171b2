"""Alerts: opened once for one cause, kept until it is over, seen by a person in between."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from crossfade.domain.access import Actor, Role
from crossfade.domain.alert import Alert, Severity
from crossfade.domain.errors import NotFound
from crossfade.domain.values import EnvKey
from crossfade.ports import Parts, Record
from crossfade.service.audit import Audit

KIND: Final = "alert"
LONGEST: Final = 1000
"""Characters of a sentence that is kept."""
RENEWED_EVERY: Final = 5.0
"""Seconds between writings of what is said of an alert that is open already: a burn has new figures each second."""

log = logging.getLogger("crossfade.alerts")


class Alerts:
    """Use cases. ``told`` hears of each that was opened, got more severe, or is over; it must not wait."""

    def __init__(self, parts: Parts, audit: Audit) -> None:
        self._parts, self._audit = parts, audit
        self._lock = threading.Lock()
        self._renewed: dict[int, float] = {}
        self.told: Callable[[Alert, str], None] = lambda _alert, _what: None

    # --- to see

    def list(
        self, key: EnvKey | None = None, open_only: bool = False, limit: int = 50, before: int | None = None
    ) -> tuple[Alert, ...]:
        """Newest first."""
        records = self._parts.records.list(KIND, key, open_only=open_only, limit=limit, before=before)
        return tuple(map(_alert, records))

    def get(self, id: int) -> Alert:
        """Raises NotFound."""
        record = self._parts.records.get(id)
        if record.kind != KIND:
            raise NotFound(f"There is no alert #{id}.", hint="`crossfade alerts --all` lists them.")
        return _alert(record)

    def view(self, alert: Alert) -> dict[str, Any]:
        """One as data."""
        return {
            "id": alert.id,
            "service": alert.key.service,
            "environment": alert.key.environment,
            "name": alert.name,
            "severity": alert.severity.value,
            "sentence": alert.sentence,
            "began": alert.began,
            "ended": alert.ended,
            "acknowledged": alert.acknowledged,
            "resolution": alert.resolution,
            "facts": dict(alert.facts),
        }

    # --- to change

    def open(
        self, key: EnvKey, name: str, severity: Severity, sentence: str, facts: Mapping[str, Any] | None = None
    ) -> Alert:
        """Say that something is wrong. While it is known already, only what is said of it is renewed, now and then.

        Whoever has acknowledged it is asked again when it gets more severe.
        """
        now, sentence = self._parts.now(), sentence[:LONGEST]
        with self._lock:
            known = self._open(key, name)
            if known is None:
                alert = Alert(0, key, name, severity, sentence, now, facts=dict(facts or {}))
                alert = replace(alert, id=self._parts.records.add(KIND, key, name, _data(alert), now).id)
                what = "opened"
            else:
                facts = dict(facts) if facts is not None else known.facts
                worse = _order(severity) > _order(known.severity)
                seen = "" if worse else known.acknowledged
                alert = replace(known, severity=severity, sentence=sentence, facts=facts, acknowledged=seen)
                changed = severity is not known.severity
                if alert == known or (not changed and 0 <= now - self._renewed.get(known.id, 0.0) < RENEWED_EVERY):
                    return known
                self._renewed[known.id] = now
                self._parts.records.save(known.id, _data(alert), now)
                what = "opened" if worse else ""
        self._tell(alert, what)
        return alert

    def resolve(self, key: EnvKey, name: str, sentence: str) -> Alert | None:
        """Say that it is over; None when nothing was wrong."""
        now = self._parts.now()
        with self._lock:
            known = self._open(key, name)
            if known is None:
                return None
            alert = replace(known, ended=now, resolution=sentence[:LONGEST])
            self._parts.records.save(known.id, _data(alert), now, ended=True)
            self._renewed.pop(known.id, None)
        self._tell(alert, "resolved")
        return alert

    def acknowledge(self, id: int, by: Actor) -> Alert:
        """A person has seen it, and looks after it. Raises Forbidden, NotFound."""
        with self._lock:
            known = self.get(id)
            by.require(Role.OPERATOR, known.key)
            if known.ended is not None or known.acknowledged == by.name:
                return known
            alert = replace(known, acknowledged=by.name)
            self._parts.records.save(id, _data(alert), self._parts.now())
        before = {"alert": id, "name": known.name, "acknowledged": known.acknowledged}
        self._audit.note(by, "alert.acknowledge", str(known.key), before, {**before, "acknowledged": by.name})
        return alert

    def _open(self, key: EnvKey, name: str) -> Alert | None:
        found = self._parts.records.list(KIND, key, subject=name, open_only=True, limit=1)
        return _alert(found[0]) if found else None

    def _tell(self, alert: Alert, what: str) -> None:
        if not what:
            return
        try:
            self.told(alert, what)
        except Exception:
            log.exception("alert #%d cannot be told", alert.id)


def _order(severity: Severity) -> int:
    return -tuple(Severity).index(severity)


def _data(alert: Alert) -> dict[str, Any]:
    return {
        "severity": alert.severity.value,
        "sentence": alert.sentence,
        "acknowledged": alert.acknowledged,
        "resolution": alert.resolution,
        "facts": dict(alert.facts),
    }


def _alert(record: Record) -> Alert:
    data = record.data
    return Alert(
        record.id,
        record.key,
        record.subject,
        Severity(data["severity"]),
        data["sentence"],
        record.began,
        record.ended,
        data["acknowledged"],
        data["resolution"],
        data["facts"],
    )
