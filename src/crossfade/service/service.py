"""What a person can have changed. Each change wants a role, and is in the audit log."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, BinaryIO, Protocol

from crossfade.domain import rollout as machine
from crossfade.domain.access import Actor, Role
from crossfade.domain.analysis.policy import Analysis
from crossfade.domain.environment import Environment
from crossfade.domain.errors import NotFound, NotRestorable, Refused
from crossfade.domain.events import Held, Ledger, Posted, attribute
from crossfade.domain.release import Artifact, BlueGreen, Release, ReleaseConfig
from crossfade.domain.rollout import Command, Kind, Plan, Rollout
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.ports import Approval, Parts
from crossfade.service.accounts import Accounts
from crossfade.service.approvals import Approvals, wanted
from crossfade.service.audit import Audit
from crossfade.service.hub import Hub
from crossfade.service.views import Views


class Driver(Protocol):
    """What the use cases need of the engine."""

    def drive(self, rollout: int) -> None: ...

    def ring(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Request:
    """A request to deploy. ``config`` is the content of `crossfade.yaml`; ``secrets`` that of its env_file."""

    key: EnvKey
    digest: Digest
    config: Mapping[str, Any]
    secrets: Mapping[str, str]
    label: str
    by: Actor


class Service(Views):
    """All use cases. ``read_config`` turns `crossfade.yaml` data into the configuration for one environment."""

    def __init__(
        self, parts: Parts, driver: Driver, read_config: Callable[[Mapping[str, Any], str, str], ReleaseConfig]
    ) -> None:
        super().__init__(parts)
        self._driver = driver
        self._read_config = read_config
        self.audit = Audit(parts)
        self.accounts = Accounts(parts, self.audit)
        self.approvals = Approvals(parts, self.audit, self._begin_approved)
        self.hub = Hub(parts)

    # --- to change something

    def take_artifact(self, tarball: BinaryIO, expected: Digest | None) -> Artifact:
        """Raises Invalid, StorageFailed."""
        return self._parts.artifacts.put(tarball, expected)

    def deploy(self, request: Request) -> Rollout | Approval:
        """Number the release and begin its rollout, or ask for the approval that it wants.

        Raises Forbidden, InvalidConfig, NotFound, Busy, Refused.
        """
        parts, key, by = self._parts, request.key, request.by
        by.require(Role.OPERATOR, key)
        config = self._read_config(request.config, key.service, key.environment)
        if parts.artifacts.get(request.digest) is None:
            raise NotFound(f"There is no artifact {request.digest}.", hint="Upload it first.")
        self._refuse_shared_port(key, config)
        parts.store.refuse_if_held(key)
        config = replace(config, secrets=parts.secrets.put(request.secrets))
        release = parts.store.add_release(key, request.digest, config, request.label, parts.now())
        return self._begin_or_ask(key, release, by)

    def deploy_again(self, key: EnvKey, number: ReleaseNumber, by: Actor) -> Rollout | Approval:
        """Roll out a release that the environment has had before, by its own strategy, as if it were new.

        Raises Forbidden, NotFound, NotRestorable when something of it is gone, Busy, Refused.
        """
        by.require(Role.OPERATOR, key)
        environment = self.environment(key)
        release = self.release_of(key, number)
        if number == environment.live:
            raise Refused(f"{number} is live in {key} already.", hint="`crossfade releases` lists the others.")
        whole = self.check(key, number)
        if not whole.ok:
            raise NotRestorable(f"{number} cannot be deployed again: {whole.reasons[0]}.", hint="Build it anew.")
        self._refuse_shared_port(key, release.config)
        self._parts.store.refuse_if_held(key)
        return self._begin_or_ask(key, release, by)

    def _begin_or_ask(self, key: EnvKey, release: Release, by: Actor) -> Rollout | Approval:
        parts = self._parts
        known = parts.store.environment(key)
        live = known.live if known is not None else None
        role = wanted(release.config, parts.store.release(key.service, live).config if live is not None else None)
        said = {"release": str(release.number), "digest": release.digest.text, "label": release.label}
        if role is not None:
            approval = self.approvals.ask(key, release.number, role, by)
            before = _state(known)
            after = {**before, **said, "approval": approval.id, "wants": role.value}
            self.audit.note(by, "rollout.ask", str(key), before, after)
            return approval
        state = self._begin(key, release, Kind.DEPLOY, by.name)
        before = _state(known)
        self.audit.note(by, "rollout.begin", str(key), before, {**before, **said, "rollout": state.id})
        return state

    def begun(self, what: Rollout | Approval) -> dict[str, Any]:
        """What came of a deployment, as data."""
        return self.approvals.get(what.id) if isinstance(what, Approval) else self.rollout(what.id)

    def _begin_approved(self, key: EnvKey, number: ReleaseNumber, by: str) -> Rollout:
        return self._begin(key, self._parts.store.release(key.service, number), Kind.DEPLOY, by)

    def rollback(self, key: EnvKey, to: ReleaseNumber | None, by: Actor) -> Rollout:
        """Return to a release of the window; without ``to``, to the one before.

        While a rollout is under way and no release is named, that rollout is aborted: its baseline is where one
        wants to be. No approval is asked for. Raises Forbidden, NotFound, Refused, NotRestorable, Busy.
        """
        by.require(Role.OPERATOR, key)
        environment = self.environment(key)
        if environment.holder is not None and to is None:
            return self.order(environment.holder, Command.ABORT, by)
        if environment.live is None:
            raise Refused(f"{key} has no live release to go back from.", hint="`crossfade deploy` makes the first one.")
        if to == environment.live:
            raise Refused(f"{to} is live in {key} already.", hint="`crossfade releases` lists the others.")
        restorable = self.restorable(key)
        if to is None:
            chosen = next((r for r in restorable if r.ok), None)
            if chosen is None:
                why = "; ".join(f"{r.number}: {r.reasons[0]}" for r in restorable) or "no other release was ever live"
                raise NotRestorable(f"{key} has no release to go back to ({why}).", hint="Deploy a release instead.")
        else:
            chosen = next((r for r in restorable if r.number == to), None)
            others = ", ".join(str(r.number) for r in restorable if r.ok) or "none"
            if chosen is None:
                self._parts.store.release(key.service, to)  # NotFound when it never was
                raise NotRestorable(
                    f"{to} is not in the rollback window of {key}: it was never live there, or too long ago.",
                    hint=f"Restorable: {others}. To bring {to} back all the same, deploy it again.",
                )
            if not chosen.ok:
                raise NotRestorable(f"{to} cannot be restored: {chosen.reasons[0]}.", hint=f"Restorable: {others}.")
        release = self._parts.store.release(key.service, chosen.number)
        state = self._begin(key, release, Kind.ROLLBACK, by.name)
        before = _state(environment)
        after = {**before, "release": str(release.number), "rollout": state.id}
        self.audit.note(by, "rollout.rollback", str(key), before, after)
        return state

    def order(self, rollout: int, command: Command, by: Actor) -> Rollout:
        """Give a rollout a command. Raises Forbidden, NotFound, Refused (with what is possible instead)."""
        state = self._parts.store.rollout(rollout)
        by.require(Role.OPERATOR, state.plan.key)
        machine.allow(state, command)
        self._parts.store.order(rollout, command, by.name, self._parts.now())
        self._driver.ring()
        before = {"rollout": rollout, "phase": state.phase.value, "weight": state.weight.bp}
        self.audit.note(
            by, f"rollout.{command.value}", str(state.plan.key), before, {**before, "command": command.value}
        )
        return state

    def order_current(self, key: EnvKey, command: Command, by: Actor) -> Rollout:
        """Give the rollout that holds the environment a command. Raises Forbidden, NotFound, Refused."""
        by.require(Role.OPERATOR, key)
        holder = self.environment(key).holder
        if holder is None:
            raise Refused(f"No rollout is under way in {key}.", hint="`crossfade status` shows what is live.")
        return self.order(holder, command, by)

    def _begin(self, key: EnvKey, release: Release, kind: Kind, by: str) -> Rollout:
        parts = self._parts
        environment = parts.store.environment(key) or Environment(key)
        strategy = BlueGreen(watch=0.0) if kind is Kind.ROLLBACK else release.config.strategy
        plan = Plan(
            key,
            kind,
            release.number,
            environment.live,
            environment.standby,
            strategy,
            release.config.start_timeout,
            Analysis() if kind is Kind.ROLLBACK else release.config.analysis,
        )
        state = parts.store.begin(plan, by, parts.now())
        self._driver.drive(state.id)
        return state

    def _refuse_shared_port(self, key: EnvKey, config: ReleaseConfig) -> None:
        for other in self._parts.store.environments():
            if other.key == key or other.live is None:
                continue
            theirs = self._parts.store.release(other.key.service, other.live).config
            if theirs.port == config.port and theirs.bind == config.bind:
                raise Refused(
                    f"{key} wants {config.bind}:{config.port}, which is the edge port of {other.key}.",
                    hint=f"Give environments.{key.environment}.port another value.",
                )

    def events_environment(self, token: str) -> EnvKey | None:
        """The environment whose events a token lets post; None when it is none of ours."""
        return self._parts.events_key(token)

    def post_events(self, posted: Sequence[Posted], batch: str) -> int:
        """Count business events, all or none; how many. A batch that is sent again under its name is counted once.

        Raises NotFound for an environment that there is not, InvalidBatch with everything that is wrong, by index.
        """
        parts = self._parts
        keys = sorted({one.key for one in posted})
        timed = any(one.at is not None for one in posted)
        slots = {key: self._held(self.environment(key), timed) for key in keys}

        @cache
        def exists(key: EnvKey, number: ReleaseNumber) -> bool:
            if any(held.release == number for held in slots[key].values()):
                return True
            return number in {release.number for release in parts.store.releases(key)}

        events = attribute(posted, Ledger(slots, exists), parts.now())
        # Applications of different environments may hit upon the same name.
        scope = hashlib.sha256(f"{' '.join(map(str, keys))} {batch}".encode()).hexdigest() if batch else ""
        return parts.store.add_events(events, scope, parts.now())

    def _held(self, environment: Environment, timed: bool) -> dict[str, Held]:
        """What each pool of an environment holds, and when ``timed`` since when.

        Fresh replicas of the baseline are of the release that is live.
        """
        store = self._parts.store
        held = {
            slot.value: Held(occupant.release, store.rollout(occupant.generation).began if timed else 0.0)
            for slot, occupant in environment.slots.items()
        }
        if environment.live is not None and "control" not in held:
            held["control"] = Held(environment.live, 0.0)
        return held


def _state(environment: Environment | None) -> dict[str, Any]:
    """What the audit log says of an environment."""
    if environment is None:
        return {}
    return {"live": str(environment.live) if environment.live else None, "rollout": environment.holder}
