"""What a person can have changed. Each change wants a role, and is in the audit log."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, BinaryIO, Final, Protocol
from zoneinfo import ZoneInfo

from crossfade.domain import rollout as machine
from crossfade.domain.access import Actor, Role
from crossfade.domain.analysis.policy import Analysis
from crossfade.domain.environment import Environment
from crossfade.domain.errors import Frozen, NotFound, NotRestorable, Refused, Unavailable
from crossfade.domain.events import Held, Ledger, Posted, attribute
from crossfade.domain.flags.pinning import Scene, Suspect, pin
from crossfade.domain.flags.steering import killable
from crossfade.domain.migrations.phases import too_old
from crossfade.domain.pipeline.freeze import frozen_until
from crossfade.domain.release import Artifact, BlueGreen, Canary, Release, ReleaseConfig, Step
from crossfade.domain.rollback import RollbackPlan, What
from crossfade.domain.rollout import Command, Kind, Plan, Rollout
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber, Weight
from crossfade.ports import Approval, Change, Parts, Reading
from crossfade.service.accounts import Accounts
from crossfade.service.alerts import Alerts
from crossfade.service.approvals import Approvals, wanted
from crossfade.service.audit import Audit
from crossfade.service.drills import Drills
from crossfade.service.experiments import Experiments
from crossfade.service.fixes import Fixes
from crossfade.service.flag_events import FlagEvents
from crossfade.service.flags import LONGEST_WHY, Flags
from crossfade.service.hub import Hub
from crossfade.service.migrations import Migrations
from crossfade.service.notices import Notices
from crossfade.service.objectives import Objectives
from crossfade.service.proofs import Proofs
from crossfade.service.ramps import Ramps
from crossfade.service.reports import Reports
from crossfade.service.runs import Runs
from crossfade.service.steering import CUSTODIAN
from crossfade.service.views import Views
from crossfade.service.watches import Watches

GAME_DAY: Final = (Step(Weight(1000), 60.0),)
"""The canary of a game day, for a release that has no steps of its own: 10 % for a minute."""


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
    fix: str = ""
    """Why it fixes what has used the error budget up; empty: it is no fix."""


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
        self.alerts = Alerts(parts, self.audit)
        self.notices = Notices(parts, self.alerts, self.audit)
        self.flags = Flags(parts, self.audit)
        self.experiments = Experiments(parts, self.audit, self.flags)
        self.flag_events = FlagEvents(parts, self.flags.serving, self.experiments.segments)
        self.ramps = Ramps(parts, self, self.audit)
        self.hub = Hub(parts, self._heard)
        self.migrations = Migrations(parts, self, self.audit)
        self.objectives = Objectives(parts, self, self.alerts)
        self.fixes = Fixes(parts, self.audit)
        self.watches = Watches(parts, self, self.objectives, self.alerts, self.audit)
        self.objectives.proposal, self.objectives.watching = self.watches.proposal, self.watches.current
        self.reports = Reports(parts, self.audit)
        self.drills = Drills(parts, self, self.audit, self.alerts)
        self.reports.overdue = lambda key: [one["sentence"] for one in self.drills.schedule(key) if one["overdue"]]
        self.proofs = Proofs(parts, self, self.audit, self.alerts)
        self.proofs.drilled = lambda key: self.drills.under_way(key) is not None
        self.watches.drilled, self.drills.watched = self.drills.under_way, self.watches.at_work
        self.notices.views = {"drill": self.drills.view, "watch": self.watches.view}
        self.attested: Callable[[Digest, str], Sequence[str]] = _nobody
        """Why an artifact is not one that a pipeline has built for a service; nothing when it is."""
        self._runs: Runs | None = None

    def _heard(self, changes: Sequence[Change]) -> None:
        self.flags.heard(changes)
        self.notices.heard(changes)

    def read_config(self, data: Mapping[str, Any], key: EnvKey, secrets: str = "") -> ReleaseConfig:
        """What `crossfade.yaml` says of an environment. Raises InvalidConfig, NotFound."""
        return replace(self._read_config(data, key.service, key.environment), secrets=secrets)

    def open_migrations(self, key: EnvKey) -> list[dict[str, Any]]:
        """See `Views`."""
        return self.migrations.open(key)

    def taken_back(self, key: EnvKey) -> Mapping[ReleaseNumber, str]:
        """See `Views`."""
        return self.watches.taken_back(key)

    @property
    def runs(self) -> Runs:
        """The use cases of pipelines. Raises Unavailable in an installation without them."""
        if self._runs is None:
            raise Unavailable("This server runs no pipelines.", hint="`crossfade up` starts one that does.")
        return self._runs

    def with_pipelines(self, runs: Runs) -> None:
        """From here on pipelines are run, and their statements are known."""
        self._runs, self.attested = runs, runs.attested
        self.reports.committed = runs.committed

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
        self._refuse_unwanted(key, request.digest, self._read_config(request.config, key.service, key.environment))
        parts.store.refuse_if_held(key)
        return self.begin_or_ask(key, self.release_for(request), by)

    def release_for(self, request: Request) -> Release:
        """Number a release for a deployment, which is not begun yet. Raises as `deploy`."""
        parts, key = self._parts, request.key
        request.by.require(Role.OPERATOR, key)
        if request.fix:
            self.fixes.read(request.fix)  # a release that is numbered cannot be taken back
        config = self._read_config(request.config, key.service, key.environment)
        if parts.artifacts.get(request.digest) is None:
            raise NotFound(f"There is no artifact {request.digest}.", hint="Upload it first.")
        self._refuse_shared_port(key, config)
        version = parts.databases.version(request.digest, config.database) if config.database is not None else ""
        config = replace(config, secrets=parts.secrets.put(request.secrets), schema_version=version)
        release = parts.store.add_release(key, request.digest, config, request.label, parts.now())
        if request.fix:
            self.fixes.mark(key, release.number, request.fix, request.by)
        return release

    def _refuse_unwanted(self, key: EnvKey, digest: Digest, config: ReleaseConfig) -> None:
        """Raises Refused for an artifact without a statement where one is wanted: by this release, or the live one."""
        if any(one.provenance_required for one in self._said_of(key, config)):
            self.refuse_unattested(key, digest)

    def _said_of(self, key: EnvKey, config: ReleaseConfig) -> tuple[ReleaseConfig, ...]:
        """A configuration, and the live release's: what that one forbids, the next one cannot allow itself."""
        known = self._parts.store.environment(key)
        if known is None or known.live is None:
            return (config,)
        return config, self._parts.store.release(key.service, known.live).config

    def refuse_frozen(self, key: EnvKey, config: ReleaseConfig, number: ReleaseNumber | None = None) -> None:
        """Raises Frozen while nothing may be deployed to an environment. A rollback is never asked.

        An error budget that is used up does not keep a release out that is marked as a fix; the calendar does.
        """
        self._refuse_exhausted(key, number)
        freezes = tuple(freeze for one in self._said_of(key, config) for freeze in one.freezes)
        found = frozen_until(freezes, self._parts.now(), ZoneInfo)
        if found is None:
            return
        freeze, until = found
        local = datetime.fromtimestamp(until, ZoneInfo(freeze.zone))
        raise Frozen(
            f"{key} is frozen ({freeze.name}) until {local:%Y-%m-%d %H:%M} {freeze.zone}.",
            hint="A run of the pipeline waits for the end by itself. `crossfade rollback` is always possible.",
            until=until,
        )

    def _refuse_exhausted(self, key: EnvKey, number: ReleaseNumber | None) -> None:
        if self._parts.store.environment(key) is None or (number is not None and self.fixes.marked(key, number)):
            return
        found = self.objectives.exhausted(key)
        if found is None:
            return
        then = ""
        if found.lifts is not None:
            then = f", until about {datetime.fromtimestamp(found.lifts, UTC):%Y-%m-%d %H:%M} UTC if nothing bad happens"
        raise Frozen(
            f"{key} is frozen{then}: the error budget of {found.objective} is used up ({found.sentence}).",
            hint="What fixes it may go out with --fix and the reason. `crossfade rollback` is always possible.",
            until=found.lifts,
            objective=found.objective,
        )

    def refuse_unattested(self, key: EnvKey, digest: Digest) -> None:
        """Raises Refused for an artifact that no pipeline of this installation has signed for the service."""
        problems = self.attested(digest, key.service)
        if problems:
            raise Refused(
                f"{digest.text[:19]}… is not deployed to {key}: {'; '.join(problems)}.",
                hint="Artifacts that a pipeline has built carry a signed statement: `crossfade run`.",
            )

    def deploy_again(self, key: EnvKey, number: ReleaseNumber, by: Actor, fix: str = "") -> Rollout | Approval:
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
        self._refuse_unwanted(key, release.digest, release.config)
        self._refuse_shared_port(key, release.config)
        self._parts.store.refuse_if_held(key)
        if fix:
            self.fixes.mark(key, number, fix, by)
        return self.begin_or_ask(key, release, by)

    def begin_or_ask(self, key: EnvKey, release: Release, by: Actor, expects: int | None = None) -> Rollout | Approval:
        """Begin the rollout of a release, or ask for the approval that it wants.

        With ``expects``, only while the environment's fence is still that one. Raises Busy, Moved.
        """
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
        state = self._begin(key, release, Kind.DEPLOY, by.name, expects)
        before = _state(known)
        self.audit.note(by, "rollout.begin", str(key), before, {**before, **said, "rollout": state.id})
        return state

    def begun(self, what: Rollout | Approval) -> dict[str, Any]:
        """What came of a deployment, as data."""
        return self.approvals.get(what.id) if isinstance(what, Approval) else self.rollout(what.id)

    def _begin_approved(self, key: EnvKey, number: ReleaseNumber, by: str) -> Rollout:
        return self._begin(key, self._parts.store.release(key.service, number), Kind.DEPLOY, by)

    def rollback(self, key: EnvKey, to: ReleaseNumber | None, by: Actor, expects: int | None = None) -> Rollout:
        """Return to a release of the window; without ``to``, to the one before.

        While a rollout is under way and no release is named, that rollout is aborted: its baseline is where one
        wants to be; one by which a watch goes back already is followed instead. No approval is asked for. With
        ``expects``, only while the environment's fence is still that one.
        Raises Forbidden, NotFound, Refused, NotRestorable, Busy, Moved.
        """
        by.require(Role.OPERATOR, key)
        environment = self.environment(key)
        if environment.holder is not None and to is None:
            holder = self._parts.store.rollout(environment.holder)
            by_itself = self._parts.store.begun_by([holder.id]).get(holder.id) == CUSTODIAN.name
            return (
                holder if by_itself and holder.plan.kind is Kind.ROLLBACK else self.order(holder.id, Command.ABORT, by)
            )
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
            if said := self.taken_back(key).get(chosen.number):
                further = "".join(f" `--to {r.number}` goes further back." for r in restorable[1:2])
                raise Refused(
                    f"{chosen.number} was live before {environment.live}, and {said}: {environment.live} is live instead.",
                    hint=f"`crossfade rollback --to {chosen.number}` brings it all the same.{further}",
                )
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
        state = self._begin(key, release, Kind.ROLLBACK, by.name, expects)
        before = _state(environment)
        after = {**before, "release": str(release.number), "rollout": state.id}
        self.audit.note(by, "rollout.rollback", str(key), before, after)
        return state

    def expose(self, key: EnvKey, by: Actor) -> Rollout:
        """Roll out the live release once more as a canary, by its own steps if it has any: what a game day's fault is tried on.

        Raises Forbidden, NotFound, Busy, Frozen.
        """
        by.require(Role.OPERATOR, key)
        environment = self.environment(key)
        if environment.live is None:
            raise NotFound(f"{key} has no live release yet.", hint="`crossfade deploy` makes the first one.")
        release = self._parts.store.release(key.service, environment.live)
        strategy = release.config.strategy
        if not isinstance(strategy, Canary):
            strategy = Canary(GAME_DAY, strategy.limits)
        state = self._begin(
            key, replace(release, config=replace(release.config, strategy=strategy)), Kind.DEPLOY, by.name
        )
        before = _state(environment)
        self.audit.note(by, "rollout.expose", str(key), before, {**before, "rollout": state.id})
        return state

    def remedy(self, key: EnvKey, calls: str, trail: Sequence[Reading] = ()) -> RollbackPlan:
        """What to do about a harm that something calls for to end (a burn of an SLO, say), cheapest remedy first.

        ``trail`` are readings since it began, oldest first; with them it is looked whether a flag's variant is to blame. What
        the live release's clients saw before it began is what they are compared with. Raises NotFound, Unavailable.
        """
        environment = self.environment(key)
        suspects: tuple[Suspect, ...] = ()
        current = self._parts.flags.current(key)
        if current is not None and environment.live is not None and environment.slot is not None and len(trail) > 1:
            config = self._parts.store.release(key.service, environment.live).config
            slot = environment.slot
            history = self._parts.signals.history(key, slot)
            scene = Scene(slot, slot.other, config.analysis, config.strategy.limits, history)
            suspects = pin(scene, trail, killable(current.document or {}, trail[-1].variants.get(slot, {})))
        return self.going_back(key, calls, suspects)

    def carry_out(self, key: EnvKey, plan: RollbackPlan, by: Actor, expects: int | None = None) -> RollbackPlan:
        """Do what a plan has chosen: kill the flag, or go back to the release.

        With ``expects``, the release only while the environment's fence is still that one, and never by aborting a rollout.
        Raises Forbidden, Refused when nothing helps, and as `rollback`.
        """
        remedy = plan.remedy
        by.require(Role.OPERATOR, key)
        if remedy is None:
            hint = "`crossfade releases` says what can be restored."
            raise Refused(f"Nothing is done in {key}: {plan.reason}.", hint=hint)
        if remedy.what is What.KILL_FLAG:
            self.flags.kill(key, remedy.target.partition("=")[0], f"{plan.calls}; {remedy.why}"[:LONGEST_WHY], by)
        elif expects is None and self.environment(key).holder is not None:
            self.rollback(key, None, by)
        else:
            self.rollback(key, ReleaseNumber.parse(remedy.target), by, expects)
        return plan

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

    def _begin(self, key: EnvKey, release: Release, kind: Kind, by: str, expects: int | None = None) -> Rollout:
        parts = self._parts
        if kind is Kind.DEPLOY:
            self.drills.refuse_busy(key, by)
            self.refuse_frozen(key, release.config, release.number)
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
            # Whoever goes back needs nothing new: every older shape that can be restored is kept current.
            release.config.schema_version if kind is Kind.DEPLOY and release.config.database is not None else "",
        )
        with parts.databases.exclusive(key):
            self._refuse_without_schema(key, release)
            state = parts.store.begin(plan, by, parts.now(), expects)
        self._driver.drive(state.id)
        return state

    def _refuse_without_schema(self, key: EnvKey, release: Release) -> None:
        """Raises NotRestorable for a release whose shape of the database is gone, or going just now."""
        if release.config.database is None:
            return
        ledger = self._parts.databases.ledger(release, 0.0) or ()
        going, mine = self._parts.databases.busy(key), release.config.schema_version
        places = {one.version: one.position for one in ledger}
        reasons = list(too_old(mine, ledger)) if not mine or mine in places else []
        if not reasons and going and places.get(going, 0) > places.get(mine, len(ledger) + 1 if mine else 0):
            reasons = [f"it needs the shape before migration {going}, which is being contracted just now"]
        if reasons:
            raise NotRestorable(f"{release.number} cannot run in {key}: {reasons[0]}.", hint="Deploy a newer release.")

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


def _nobody(_digest: Digest, _service: str) -> Sequence[str]:
    return ("this server runs no pipelines, so nobody has signed for it",)
