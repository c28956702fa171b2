"""What a ramp writes into a flag, and what it finds that somebody else has written there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from crossfade.domain.access import Actor, Grant, Role
from crossfade.domain.errors import CrossfadeError, Moved, NotFound
from crossfade.domain.flags import document as documents
from crossfade.domain.flags.model import Flag, Killed
from crossfade.domain.flags.ramp import Plan, Ramp
from crossfade.domain.flags.steering import killed, share, tampered, with_share
from crossfade.domain.values import NOTHING, EnvKey, Weight
from crossfade.ports import Parts
from crossfade.service.audit import Audit

LONGEST_WHY: Final = 500
CUSTODIAN: Final = Actor("crossfade", (Grant(Role.ADMIN),), "engine")
"""Who does what is done by itself: the steps of a ramp, a drill that is due, a return."""

Data = Mapping[str, Any]
"""What a document says of one flag."""


class Steering:
    """Writes a flag's shares and its kill. ``left`` is the flag as the ramp has left it: what is else was somebody else."""

    def __init__(self, parts: Parts, audit: Audit) -> None:
        self._parts, self._audit = parts, audit

    def find(self, key: EnvKey, flag: str) -> tuple[Mapping[str, Any], Data]:
        """The newest document and what it says of a flag. Raises NotFound."""
        document, data, _ = self._newest(key, flag)
        if data is None:
            raise NotFound(f"There is no flag {flag!r} in {key}.", hint="`crossfade flags list` shows those there are.")
        return document, data

    def check(self, plan: Plan) -> None:
        """Raises InvalidBatch when the ramp would make of the flag what it cannot be."""
        document, left = self.find(plan.key, plan.flag)
        made = _with_share(document, plan, left, plan.steps[0].weight)
        _read(made, plan.flag, made["flags"][plan.flag])

    def changed(self, plan: Plan, left: Data) -> tuple[str, Data]:
        """What somebody else has done to the flag, as a sentence; and the flag as it is when only words about it are else."""
        document, data, _ = self._newest(plan.key, plan.flag)
        if data == left:
            return "", left
        found = _read(document, plan.flag, data) if data is not None else None
        what = tampered(_read(document, plan.flag, left), found, plan.variant)
        return what, left if what or data is None else data

    def set_share(self, state: Ramp, left: Data, weight: Weight) -> tuple[str, Data]:
        """Give the variant its share; as `changed`, when somebody has changed the flag and nothing was written."""
        plan = state.plan
        while True:
            document, data, version = self._newest(plan.key, plan.flag)
            asked = _with_share(document, plan, left, weight)["flags"][plan.flag]
            if data == asked:
                return "", asked  # so it was, or it was written before a crash that kept the ramp from saying so
            what, left = self.changed(plan, left)
            if what:
                return what, left
            written = _with_share(document, plan, left, weight)
            if self._write(plan, written, version, f"ramp #{state.id}: {plan.variant} {weight}"):
                after = {"ramp": state.id, "variant": plan.variant, "share": weight.bp}
                self._audit.note(CUSTODIAN, "ramp.step", f"{plan.key}/{plan.flag}", {}, after)
                return "", written["flags"][plan.flag]

    def kill(self, state: Ramp, left: Data, why: str) -> Data:
        """Share 0 and the flag killed, in one version, whatever somebody has made of it meanwhile."""
        plan = state.plan
        while True:
            document, data, version = self._newest(plan.key, plan.flag)
            if data is None:
                return left  # there is nothing to kill any more
            flag = _read(document, plan.flag, data)
            made: Mapping[str, Any] = document
            if share(flag, plan.rule, plan.variant):
                made = with_share(made, flag, plan.rule, NOTHING, plan.variant, plan.rest)
            made = killed(made, plan.flag, Killed(CUSTODIAN.name, self._parts.now(), why[:LONGEST_WHY]))
            if made == document:
                return data
            if self._write(plan, made, version, f"ramp #{state.id}: {why}"[:LONGEST_WHY]):
                after = {"ramp": state.id, "variant": plan.variant, "why": why}
                self._audit.note(CUSTODIAN, "flag.kill", f"{plan.key}/{plan.flag}", {}, after)
                found: Data = made["flags"][plan.flag]
                return found

    def _newest(self, key: EnvKey, flag: str) -> tuple[Mapping[str, Any], Data | None, int]:
        current = self._parts.flags.current(key)
        document = (current.document if current is not None else None) or {}
        return document, document.get("flags", {}).get(flag), current.number if current is not None else 0

    def _write(self, plan: Plan, document: Mapping[str, Any], version: int, note: str) -> bool:
        """False when somebody was faster: it is looked at again what there is. Raises InvalidBatch rather than write what
        nobody could read.
        """
        _read(document, plan.flag, document["flags"][plan.flag])
        by, now = CUSTODIAN.name, self._parts.now()
        try:
            self._parts.flags.write(plan.key, document, (plan.flag,), by, now, expects=version, note=note)
        except Moved:
            return False
        return True


def _with_share(document: Mapping[str, Any], plan: Plan, data: Data, weight: Weight) -> dict[str, Any]:
    known = {**document, "flags": {**document.get("flags", {}), plan.flag: data}}
    return with_share(known, _read(document, plan.flag, data), plan.rule, weight, plan.variant, plan.rest)


def _read(document: Mapping[str, Any], flag: str, data: Data) -> Flag:
    """One flag as it would be in a document; what is beside it there is read only when the flag refers to it."""
    try:
        return documents.read({"flags": {flag: data}}).flags[flag]
    except CrossfadeError:
        return documents.read({**document, "flags": {**document.get("flags", {}), flag: data}}).flags[flag]
