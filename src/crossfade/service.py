"""The use cases: what a person can ask of Crossfade. The API and, through it, the CLI call these and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, BinaryIO, Protocol

from pydantic import TypeAdapter

from crossfade.domain import rollout as machine
from crossfade.domain.analysis import plot
from crossfade.domain.analysis.judge import Evidence, Judge
from crossfade.domain.analysis.policy import Analysis
from crossfade.domain.analysis.sample import History
from crossfade.domain.environment import Environment, Occupant
from crossfade.domain.errors import CrossfadeError, NotFound, NotRestorable, Refused
from crossfade.domain.events import Held, Ledger, Posted, attribute
from crossfade.domain.release import (
    SMALLEST_WINDOW,
    Artifact,
    BlueGreen,
    Canary,
    Release,
    ReleaseConfig,
    Restorable,
    Standing,
    window,
)
from crossfade.domain.rollout import Command, Kind, Plan, Rollout
from crossfade.domain.traffic import PREVIEW_HEADER, Slot
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.ports import Parts

_HISTORY = TypeAdapter(History)


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
    by: str


class Service:
    """All use cases. ``read_config`` turns `crossfade.yaml` data into the configuration for one environment."""

    def __init__(
        self, parts: Parts, driver: Driver, read_config: Callable[[Mapping[str, Any], str, str], ReleaseConfig]
    ) -> None:
        self._parts = parts
        self._driver = driver
        self._read_config = read_config

    # --- to change something

    def take_artifact(self, tarball: BinaryIO, expected: Digest | None) -> Artifact:
        """Raises Invalid, StorageFailed."""
        return self._parts.artifacts.put(tarball, expected)

    def deploy(self, request: Request) -> Rollout:
        """Number the release and begin its rollout. Raises InvalidConfig, NotFound, Busy, Refused."""
        parts, key = self._parts, request.key
        config = self._read_config(request.config, key.service, key.environment)
        if parts.artifacts.get(request.digest) is None:
            raise NotFound(f"There is no artifact {request.digest}.", hint="Upload it first.")
        self._refuse_shared_port(key, config)
        parts.store.refuse_if_held(key)
        config = replace(config, secrets=parts.secrets.put(request.secrets))
        now = parts.now()
        release = parts.store.add_release(key, request.digest, config, request.label, now)
        return self._begin(key, release, Kind.DEPLOY, request.by)

    def rollback(self, key: EnvKey, to: ReleaseNumber | None, by: str) -> Rollout:
        """Return to a release of the window; without ``to``, to the one before.

        While a rollout is under way and no release is named, that rollout is aborted: its baseline is where one
        wants to be. Raises NotFound, Refused, NotRestorable, Busy.
        """
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
        return self._begin(key, self._parts.store.release(key.service, chosen.number), Kind.ROLLBACK, by)

    def order(self, rollout: int, command: Command, by: str) -> Rollout:
        """Give a rollout a command. Raises NotFound, Refused (with what is possible instead)."""
        state = self._parts.store.rollout(rollout)
        machine.allow(state, command)
        self._parts.store.order(rollout, command, by, self._parts.now())
        self._driver.ring()
        return state

    def order_current(self, key: EnvKey, command: Command, by: str) -> Rollout:
        """Give the rollout that holds the environment a command. Raises NotFound, Refused."""
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

    # --- to see something

    def environment(self, key: EnvKey) -> Environment:
        """Raises NotFound, naming the environments there are."""
        environment = self._parts.store.environment(key)
        if environment is None:
            known = ", ".join(str(e.key) for e in self._parts.store.environments()) or "none yet"
            raise NotFound(f"There is no environment {key}.", hint=f"Known: {known}.")
        return environment

    def restorable(self, key: EnvKey) -> tuple[Restorable, ...]:
        """The releases of the window, newest promotion first, each checked now."""
        environment = self.environment(key)
        size = SMALLEST_WINDOW
        if environment.live is not None:
            size = self._parts.store.release(key.service, environment.live).config.window
        numbers = window(self._parts.store.promotions(key), environment.live, size)
        return tuple(self._check(key, number) for number in numbers)

    def _check(self, key: EnvKey, number: ReleaseNumber) -> Restorable:
        parts = self._parts
        reasons: list[str] = []
        release = parts.store.release(key.service, number)
        wrong = parts.artifacts.verify(release.digest)
        if wrong:
            reasons.append(f"its artifact {wrong}")
        if release.config.secrets:
            try:
                parts.secrets.get(release.config.secrets)
            except CrossfadeError:
                reasons.append("the values of its env_file are gone")
        return Restorable(number, tuple(reasons))

    def releases(self, key: EnvKey) -> list[dict[str, Any]]:
        """All releases of an environment, newest first, with standing and whether each can be restored."""
        environment = self.environment(key)
        restorable = {r.number: r for r in self.restorable(key)}
        promoted = set(self._parts.store.promotions(key))
        candidate = None
        if environment.holder is not None:
            candidate = self._parts.store.rollout(environment.holder).plan.candidate
        rows = []
        for release in self._parts.store.releases(key):
            standing = _standing(environment, release.number, candidate, promoted)
            checked = restorable.get(release.number)
            rows.append(
                {
                    "release": str(release.number),
                    "standing": standing.value,
                    "label": release.label,
                    "digest": release.digest.text,
                    "created": release.created,
                    "in_window": checked is not None,
                    "restorable": checked.ok if checked else False,
                    "why_not": list(checked.reasons) if checked else _why_outside(standing),
                }
            )
        return rows

    def status(self, key: EnvKey) -> dict[str, Any]:
        """Everything that `status` shows of one environment."""
        parts = self._parts
        environment = self.environment(key)
        release = None
        if environment.live is not None:
            release = parts.store.release(key.service, environment.live)
        shown = release
        rollout = None
        if environment.holder is not None:
            state = parts.store.rollout(environment.holder)
            rollout = self.rollout(state.id)
            shown = shown or parts.store.release(key.service, state.plan.candidate)
        last = next(iter(parts.store.rollouts(key, limit=1)), None)
        return {
            "service": key.service,
            "environment": key.environment,
            "live": str(environment.live) if environment.live else None,
            "label": release.label if release else "",
            "active_slot": environment.slot.value if environment.slot else None,
            "url": shown.config.url if shown else None,
            "slots": {slot.value: self._slot(environment, slot) for slot in Slot},
            "edge": self._edge(key),
            "rollout": rollout,
            "last_rollout": last.id if last else None,
        }

    def traffic(self, key: EnvKey) -> dict[str, Any]:
        """What the live release's clients saw lately: rate, burstiness, latencies in ms. Raises NotFound."""
        environment = self.environment(key)
        if environment.slot is None:
            raise NotFound(f"{key} has no live release yet.", hint="`crossfade deploy` makes the first one.")
        return asdict(self._parts.signals.history(key, environment.slot))

    def all_status(self) -> list[dict[str, Any]]:
        """`status` of every environment."""
        return [self.status(environment.key) for environment in self._parts.store.environments()]

    def _slot(self, environment: Environment, slot: Slot) -> dict[str, Any] | None:
        occupant = environment.slots.get(slot)
        if occupant is None:
            return None
        try:
            known = {r.name: r for r in self._parts.runtime.replicas(environment.key)}
        except CrossfadeError:
            known = {}
        replicas = [
            {
                "name": name,
                "state": known[name].state if name in known else "unknown",
                "port": known[name].port if name in known else 0,
                "restarts": known[name].restarts if name in known else 0,
            }
            for name in occupant.names(environment.key)
        ]
        return {"release": str(occupant.release), "warm_until": occupant.warm_until, "replicas": replicas}

    def _edge(self, key: EnvKey) -> dict[str, Any]:
        try:
            edge = self._parts.router.read(key)
        except CrossfadeError as error:
            return {"reachable": False, "why": str(error)}
        return {
            "reachable": True,
            "blue": edge.split.blue.bp,
            "green": edge.split.green.bp,
            "control": edge.split.control.bp,
            "lease_expires": edge.lease.expires if edge.lease else None,
            "lapsed": edge.lapsed,
            "servers": {
                slot.value: [{"name": s.server.name, "status": s.status, "sessions": s.sessions} for s in servers]
                for slot, servers in edge.servers.items()
            },
        }

    def rollout(self, id: int) -> dict[str, Any]:
        """One rollout as data. Raises NotFound."""
        state = self._parts.store.rollout(id)
        plan = state.plan
        steps = (
            [{"weight": step.weight.bp, "duration": step.duration} for step in plan.strategy.steps]
            if isinstance(plan.strategy, Canary)
            else [{"weight": 10_000, "duration": plan.strategy.watch}]
        )
        return {
            "id": state.id,
            "service": plan.key.service,
            "environment": plan.key.environment,
            "kind": plan.kind.value,
            "strategy": "canary" if isinstance(plan.strategy, Canary) else "blue-green",
            "candidate": str(plan.candidate),
            "baseline": str(plan.baseline) if plan.baseline else None,
            "slot": plan.slot.value,
            "phase": state.phase.value,
            "ended": state.phase.ended,
            "weight": state.weight.bp,
            "step": state.step,
            "steps": steps,
            "paused": state.paused is not None,
            "waiting": state.waiting,
            "verdict": {"finding": state.verdict.finding.value, "sentence": state.verdict.sentence}
            if state.verdict
            else None,
            "metrics": list((self._parts.store.evidence(id) or {}).get("compared", ())),
            "reason": state.reason,
            "detail": list(state.detail),
            "began": state.began,
            "entered": state.entered,
            "now": self._parts.now(),
        }

    def rollouts(self, key: EnvKey | None, limit: int) -> list[dict[str, Any]]:
        """The last rollouts, newest first."""
        return [self.rollout(state.id) for state in self._parts.store.rollouts(key, limit=limit)]

    def preview(self, id: int) -> dict[str, str]:
        """The header that reaches the candidate of a rollout under way. Raises NotFound, Refused."""
        state = self._parts.store.rollout(id)
        if state.phase.ended:
            raise Refused(f"rollout #{id} has ended: its preview is closed.")
        return {"header": PREVIEW_HEADER, "value": self._parts.preview_secret(id)}

    def journal(self, id: int) -> list[dict[str, Any]]:
        """What happened, in order. Raises NotFound."""
        self._parts.store.rollout(id)
        return [
            {"at": e.at, "text": e.text, "phase": e.phase, "weight": e.weight} for e in self._parts.store.journal(id)
        ]

    def receipt(self, id: int) -> Mapping[str, Any]:
        """Raises NotFound, Refused while the rollout is under way."""
        receipt = self._parts.store.receipt(id)
        if receipt is None:
            raise Refused(f"rollout #{id} is still under way.", hint="Its receipt is written when it ends.")
        return receipt

    def plot(self, id: int, name: str) -> str:
        """What the judge saw of a rollout, as an SVG: ``interval``, ``evidence`` or ``latency``. Raises NotFound."""
        draw = plot.PLOTS.get(name)
        if draw is None:
            raise NotFound(f"There is no plot {name!r}.", hint=f"There are {', '.join(plot.PLOTS)}.")
        plan = self._parts.store.rollout(id).plan
        kept = self._parts.store.evidence(id)
        if kept is None:
            raise NotFound(f"rollout #{id} was not judged: no traffic was compared.")
        judge = Judge(plan.analysis, _HISTORY.validate_python(kept["history"]))
        return draw(
            judge, Evidence.from_data(kept["evidence"]), f"{plan.key} #{id}: {plan.baseline} to {plan.candidate}"
        )

    def logs(self, key: EnvKey, release: ReleaseNumber | None, lines: int) -> dict[str, list[str]]:
        """The last lines of each replica, by name; of all slots, or of one release, also one that has ended.

        Raises NotFound.
        """
        environment = self.environment(key)
        held = [o for o in environment.slots.values() if release in (None, o.release)]
        if not held and release is not None:
            replicas = self._parts.store.release(key.service, release).config.replicas
            starts = [r.id for r in self._parts.store.rollouts(key, limit=1000) if r.plan.candidate == release]
            held = [Occupant(release, generation, replicas) for generation in starts]
        found = {name: list(self._parts.runtime.logs(name, lines)) for o in held for name in o.names(key)}
        if not held or not (any(found.values()) or environment.slots):
            running = ", ".join(str(o.release) for o in environment.slots.values()) or "nothing"
            raise NotFound(f"{release or key} has no logs in {key}.", hint=f"Running there: {running}.")
        return {name: said for name, said in found.items() if said} or found


def _standing(
    environment: Environment, number: ReleaseNumber, candidate: ReleaseNumber | None, promoted: set[ReleaseNumber]
) -> Standing:
    if number == environment.live:
        return Standing.LIVE
    if number == candidate:
        return Standing.CANDIDATE
    if any(o.release == number and o.warm_until is not None for o in environment.slots.values()):
        return Standing.WARM
    return Standing.STOPPED if number in promoted else Standing.FAILED


def _why_outside(standing: Standing) -> list[str]:
    match standing:
        case Standing.LIVE:
            return ["it is live"]
        case Standing.CANDIDATE:
            return ["it is being rolled out"]
        case Standing.FAILED:
            return ["it was never live"]
        case _:
            return ["it is older than the window"]
