"""Releases that wait for a second person's word before their rollout begins."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import CrossfadeError, Forbidden, NotFound, Refused
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.rollout import Kind, Rollout
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Approval, Parts
from crossfade.service.audit import Audit

LONGEST_WHY = 500


def wanted(new: ReleaseConfig, live: ReleaseConfig | None) -> Role | None:
    """The role that must approve, None: nobody.

    The live release's word counts too: what takes an approval away needs one.
    """
    roles = [config.approval for config in (new, live) if config is not None and config.approval is not None]
    return max(roles, key=tuple(Role).index, default=None)


class Approvals:
    """``begin`` starts the rollout of a release, on behalf of who asked for it."""

    def __init__(self, parts: Parts, audit: Audit, begin: Callable[[EnvKey, ReleaseNumber, str], Rollout]) -> None:
        self._parts, self._audit, self._begin = parts, audit, begin
        self._approving = threading.Lock()  # one word at a time: what another has half done looks like a crash

    def ask(self, key: EnvKey, release: ReleaseNumber, role: Role, by: Actor) -> Approval:
        """A release waits. One that waited there before is superseded."""
        now = self._parts.now()
        approval = self._parts.access.ask_approval(Approval(0, key, release, role, by.name, by.identity, now))
        self._tell(approval)
        return approval

    def waiting(self, key: EnvKey | None = None) -> list[dict[str, Any]]:
        """Those that wait, as data, newest first."""
        return [as_data(one) for one in self._parts.access.approvals(key, waiting=True, limit=500)]

    def page(self, limit: int, before: int | None = None, key: EnvKey | None = None) -> list[dict[str, Any]]:
        """All, as data, newest first."""
        return [as_data(one) for one in self._parts.access.approvals(key, limit=limit, before=before)]

    def get(self, id: int) -> dict[str, Any]:
        """Raises NotFound."""
        return as_data(self._approval(id))

    def key(self, id: int) -> EnvKey:
        """The environment of an approval. Raises NotFound."""
        return self._approval(id).key

    def _approval(self, id: int) -> Approval:
        approval = self._parts.access.approval(id)
        if approval is None:
            raise NotFound(f"There is no approval {id}.", hint="`crossfade approvals` lists those that wait.")
        return approval

    def refuse_own(self, approval: Approval, by: Actor) -> None:
        """Raises Forbidden for who asked, and for who has not the role."""
        by.require(approval.role, approval.key)
        # What was pushed by a name, to a forge or through a hook, is not approved by an account of that name.
        if by.identity == approval.identity or by.name == approval.by.rpartition(":")[2]:
            raise Forbidden(
                f"{approval.release} was asked for by {approval.by}: somebody else has to approve it.",
                hint="Anybody else with the role can: `crossfade accounts` lists who has which.",
            )

    def may_decide(self, id: int, by: Actor) -> str:
        """Empty when the actor may approve it, else why not. Raises NotFound."""
        try:
            self.refuse_own(self._approval(id), by)
        except Forbidden as error:
            return error.what
        return ""

    def approve(self, id: int, by: Actor) -> Rollout:
        """Begin the rollout. Raises NotFound, Forbidden, Refused when it does not wait any more, Busy."""
        with self._approving:
            return self._approve(id, by)

    def _approve(self, id: int, by: Actor) -> Rollout:
        approval = self._approval(id)
        self.refuse_own(approval, by)
        now = self._parts.now()
        decided = replace(approval, state="approved", decided_by=by.name, decided=now)
        # One that was approved by a server that died before it began the rollout is begun by the next word.
        left = approval.state == "approved" and approval.rollout is None
        if not left:
            self._parts.store.refuse_if_held(approval.key)
            if not self._parts.access.decide(decided):
                raise _decided(self._approval(id))
        begun = self._begun(approval) if left else None
        try:
            state = begun or self._begin(approval.key, approval.release, f"{approval.by}, approved by {by.name}")
        except CrossfadeError:
            self._parts.access.reopen(id)
            raise
        self._parts.access.decided_rollout(id, state.id)
        self._audit.note(by, "approval.approve", str(approval.key), as_data(approval), as_data(self._approval(id)))
        self._tell(decided)
        return state

    def _begun(self, approval: Approval) -> Rollout | None:
        rollouts = self._parts.store.rollouts(approval.key, limit=100)
        deploys = (r for r in rollouts if r.plan.kind is Kind.DEPLOY and r.plan.candidate == approval.release)
        return next(deploys, None)

    def reject(self, id: int, by: Actor, why: str) -> None:
        """Say no; also who asked may, to take it back. Raises NotFound, Forbidden, Refused."""
        approval = self._approval(id)
        if by.identity != approval.identity:
            by.require(approval.role, approval.key)
        now = self._parts.now()
        decided = replace(approval, state="rejected", decided_by=by.name, decided=now, why=why[:LONGEST_WHY])
        if not self._parts.access.decide(decided):
            raise _decided(self._approval(id))
        self._audit.note(by, "approval.reject", str(approval.key), as_data(approval), as_data(decided))
        self._tell(decided)

    def _tell(self, approval: Approval) -> None:
        said = {"approval": approval.id, "state": approval.state, "release": str(approval.release)}
        self._parts.store.tell("approval", str(approval.key), said, self._parts.now())


def as_data(approval: Approval) -> dict[str, Any]:
    """An approval as the API gives it."""
    return {
        "approval": approval.id,
        "service": approval.key.service,
        "environment": approval.key.environment,
        "release": str(approval.release),
        "role": approval.role.value,
        "by": approval.by,
        "asked": approval.asked,
        "state": approval.state,
        "decided_by": approval.decided_by,
        "decided": approval.decided,
        "why": approval.why,
        "rollout": approval.rollout,
    }


def _decided(approval: Approval) -> Refused:
    who = f" by {approval.decided_by}" if approval.decided_by else ""
    return Refused(f"Approval {approval.id} does not wait any more: it was {approval.state}{who}.")
