"""The audit log: who did what, from where, with what before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossfade.domain.access import Actor
from crossfade.domain.audit import AuditEntry, Verified
from crossfade.ports import Parts

LONGEST_WHO = 200
LONGEST_ADDRESS = 100


class Audit:
    """Notes every change, after it was done or refused nothing: what failed has changed nothing."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def note(
        self,
        by: Actor,
        what: str,
        key: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Append an entry. ``what`` is `noun.verb`, ``key`` what it was done to; no secrets in any of it."""
        now = self._parts.now()
        self._parts.access.note(
            lambda seq: AuditEntry(
                seq,
                now,
                by.name[:LONGEST_WHO],
                by.via,
                by.address[:LONGEST_ADDRESS],
                what,
                key,
                dict(before or {}),
                dict(after or {}),
            )
        )
        self._parts.store.tell("audit", key, {"what": what}, now)

    def page(self, limit: int, before: int | None = None, key: str | None = None) -> list[dict[str, Any]]:
        """Entries as data, newest first."""
        return [
            {
                "seq": entry.seq,
                "at": entry.at,
                "who": entry.who,
                "via": entry.via,
                "address": entry.address,
                "what": entry.what,
                "key": entry.key,
                "before": dict(entry.before),
                "after": dict(entry.after),
            }
            for entry in self._parts.access.audit(limit, before=before, key=key)
        ]

    def verify(self) -> Verified:
        """Look at the whole chain."""
        return self._parts.access.verify_audit()
