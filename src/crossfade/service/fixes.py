"""Releases that somebody has marked as a fix: a used-up error budget does not keep them out."""

from __future__ import annotations

from typing import Final

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import Invalid
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Parts
from crossfade.service.audit import Audit

KIND: Final = "fix"
LONGEST: Final = 200
"""Characters of the reason."""


class Fixes:
    """Use cases. A mark stays with the release: also an approval that is given later, and a run, know of it."""

    def __init__(self, parts: Parts, audit: Audit) -> None:
        self._parts, self._audit = parts, audit

    def mark(self, key: EnvKey, number: ReleaseNumber, why: str, by: Actor) -> None:
        """Say that a release fixes what has used the budget up, and why one thinks so. Raises Forbidden, Invalid."""
        by.require(Role.OPERATOR, key)
        why = self.read(why)
        if self.marked(key, number):
            return
        now = self._parts.now()
        data = {"release": str(number), "why": why, "by": by.name}
        self._parts.records.add(KIND, key, str(number), data, now, ended=now)
        self._audit.note(by, "rollout.fix", f"{key}/{number}", {}, data)

    @staticmethod
    def read(why: str) -> str:
        """A reason as it is kept. Raises Invalid for none."""
        why = " ".join(why.split())
        if not why or len(why) > LONGEST:
            raise Invalid("fix", why, f"a reason of 1 to {LONGEST} characters")
        return why

    def marked(self, key: EnvKey, number: ReleaseNumber) -> str:
        """Why it is a fix; empty when it is none."""
        found = self._parts.records.list(KIND, key, subject=str(number), limit=1)
        return str(found[0].data["why"]) if found else ""
