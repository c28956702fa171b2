"""What a person can see: environments, releases, rollouts, as data."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from pydantic import TypeAdapter

from crossfade.domain.analysis import plot
from crossfade.domain.analysis.judge import Evidence, Judge
from crossfade.domain.analysis.sample import History
from crossfade.domain.environment import Environment, Occupant
from crossfade.domain.errors import CrossfadeError, NotFound, Refused
from crossfade.domain.flags.pinning import Suspect
from crossfade.domain.migrations.phases import too_old
from crossfade.domain.release import SMALLEST_WINDOW, Canary, Release, ReleaseConfig, Restorable, Standing, window
from crossfade.domain.rollback import Facts, RollbackPlan, Way
from crossfade.domain.rollback import plan as cheapest
from crossfade.domain.rollout import Command, Rollout, allow
from crossfade.domain.traffic import PREVIEW_HEADER, Slot
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.ports import EdgeState, Parts, Reading, Replica, Store
from crossfade.service.proofs import Proven, last_proofs

_HISTORY = TypeAdapter(History)
_CONFIG = TypeAdapter(ReleaseConfig)
_USER = re.compile(r"^([a-z]+://)[^/?#]*@", re.IGNORECASE)
"""The user and the password of a URL."""


CHECKED_LATELY: Final = 60.0
"""Seconds for which a list of releases believes what was found of an artifact. A rollback looks again."""


class Views:
    """Reads. Whether the asker may see it is the caller's to check: `environment_of` says what is to be checked."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._verified: dict[Digest, tuple[float, str]] = {}

    @property
    def answers(self) -> Store:
        """Where answers are kept under their idempotency keys."""
        return self._parts.store

    def now(self) -> float:
        """Epoch seconds."""
        return self._parts.now()

    def edge_answers(self) -> None:
        """Raises Unavailable."""
        self._parts.router.keys()

    def reading(self, key: EnvKey) -> Reading:
        """What an environment's clients saw, as counters. Raises Unavailable."""
        return self._parts.signals.read(key)

    def environment_of(self, rollout: int) -> EnvKey:
        """Which environment a rollout is in. Raises NotFound."""
        return self._parts.store.rollout(rollout).plan.key

    def keys(self) -> list[EnvKey]:
        """All environments, by name."""
        return sorted(self._parts.store.keys())

    def environment(self, key: EnvKey) -> Environment:
        """Raises NotFound, naming the environments there are."""
        environment = self._parts.store.environment(key)
        if environment is None:
            known = ", ".join(str(e.key) for e in self._parts.store.environments()) or "none yet"
            raise NotFound(f"There is no environment {key}.", hint=f"Known: {known}.")
        return environment

    def restorable(self, key: EnvKey, lately: float = 0.0) -> tuple[Restorable, ...]:
        """The releases of the window, newest promotion first, each checked now, or at most ``lately`` seconds ago."""
        environment = self.environment(key)
        size = SMALLEST_WINDOW
        if environment.live is not None:
            size = self._parts.store.release(key.service, environment.live).config.window
        numbers = window(self._parts.store.promotions(key), environment.live, size)
        return tuple(self.check(key, number, lately) for number in numbers)

    def taken_back(self, key: EnvKey) -> Mapping[ReleaseNumber, str]:
        """Releases that did harm lately and were taken back by a watch, each with a sentence: nobody goes there by itself."""
        return {}

    def check(self, key: EnvKey, number: ReleaseNumber, lately: float = 0.0) -> Restorable:
        """Whether all of a release is still there, found now or at most ``lately`` seconds ago. Raises NotFound."""
        parts, now = self._parts, self._parts.now()
        reasons: list[str] = []
        release = parts.store.release(key.service, number)
        checked, wrong = self._verified.get(release.digest, (0.0, ""))
        if not 0 <= now - checked < lately:
            # All of its files are read: with every look at a page that would be much.
            checked, wrong = now, parts.artifacts.verify(release.digest)
            self._verified[release.digest] = (checked, wrong)
        if wrong:
            reasons.append(f"its artifact {wrong}")
        if release.config.secrets:
            try:
                parts.secrets.get(release.config.secrets)
            except CrossfadeError:
                reasons.append("the values of its env_file are gone")
        reasons += self.unfit(key, release)
        return Restorable(number, tuple(reasons), checked)

    def unfit(self, key: EnvKey, release: Release) -> list[str]:
        """Why a release cannot run on its environment's database any more.

        One that names no database and is older than the live one, which does, is taken to be from before all migrations.
        """
        using = release
        if release.config.database is None:
            live = self.environment(key).live
            if live is None or live.n < release.number.n:
                return []
            using = self._parts.store.release(key.service, live)
        if using.config.database is None:
            return []
        ledger = self._parts.databases.ledger(using)
        if ledger is None:
            return []  # it does not answer: no reason to keep anybody from going back
        return list(too_old(release.config.schema_version, ledger))

    def releases(self, key: EnvKey, limit: int | None = None, before: int | None = None) -> list[dict[str, Any]]:
        """The releases of an environment, newest first, with standing and whether each can be restored.

        With ``before``, those with a lower number.
        """
        environment = self.environment(key)
        restorable = {r.number: r for r in self.restorable(key, CHECKED_LATELY)}
        proofs = last_proofs(self._parts, key)
        promoted = set(self._parts.store.promotions(key))
        candidate = None
        if environment.holder is not None:
            candidate = self._parts.store.rollout(environment.holder).plan.candidate
        rows = []
        for release in self._parts.store.releases(key, limit=limit, before=before):
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
                    "checked": checked.checked if checked else None,
                    "why_not": list(checked.reasons) if checked else _why_outside(standing),
                    **_proven(proofs.get(release.number)),
                }
            )
        return rows

    def release(self, key: EnvKey, number: ReleaseNumber) -> dict[str, Any]:
        """One release of an environment, with its configuration. Raises NotFound."""
        release = self.release_of(key, number)
        row = next(iter(self.releases(key, limit=1, before=number.n + 1)), {})
        return {**row, "config": _settings(release.config)}

    def compare(self, key: EnvKey, one: ReleaseNumber, other: ReleaseNumber) -> list[dict[str, Any]]:
        """The settings that differ between two releases, by their path (`strategy.watch`). Raises NotFound."""
        before = flat(_settings(self.release_of(key, one).config))
        after = flat(_settings(self.release_of(key, other).config))
        return [
            {"setting": place, "before": before.get(place), "after": after.get(place)}
            for place in sorted({*before, *after})
            if before.get(place) != after.get(place)
        ]

    def release_of(self, key: EnvKey, number: ReleaseNumber) -> Release:
        """A release that was made for this environment. Raises NotFound."""
        found = next(iter(self._parts.store.releases(key, limit=1, before=number.n + 1)), None)
        if found is None or found.number != number:
            raise NotFound(f"{key} has no release {number}.", hint="`crossfade releases` lists them.")
        return found

    def status(self, key: EnvKey) -> dict[str, Any]:
        """Everything that `status` shows of one environment."""
        return self._status([self.environment(key)])[0]

    def all_status(
        self, limit: int | None = None, after: EnvKey | None = None, seen: Callable[[EnvKey], bool] = lambda _: True
    ) -> list[dict[str, Any]]:
        """`status` of every environment that ``seen`` lets through, by name; with ``after``, of those that follow it."""
        chosen = [key for key in self.keys() if seen(key) and (after is None or key > after)][:limit]
        return self._status(sorted(self._parts.store.environments(chosen), key=lambda one: one.key))

    def _status(self, environments: Sequence[Environment]) -> list[dict[str, Any]]:
        """Each part is asked once, for all of them."""
        keys = [environment.key for environment in environments]
        why = ""
        edges: Mapping[EnvKey, EdgeState] = {}
        replicas: Mapping[EnvKey, tuple[Replica, ...]] = {}
        try:
            edges = self._parts.router.read_many(keys)
        except CrossfadeError as error:
            why = str(error)
        with contextlib.suppress(CrossfadeError):
            replicas = self._parts.runtime.replicas_of([e.key for e in environments if e.slots])
        last = self._parts.store.last_rollouts(keys)
        by = self._parts.store.begun_by([state.id for state in last.values()])
        return [
            self._one_status(e, _edge(edges.get(e.key), why), replicas.get(e.key, ()), last.get(e.key), by)
            for e in environments
        ]

    def _one_status(
        self,
        environment: Environment,
        edge: dict[str, Any],
        replicas: Sequence[Replica],
        last: Rollout | None,
        by: Mapping[int, str],
    ) -> dict[str, Any]:
        key, store = environment.key, self._parts.store
        release = store.release(key.service, environment.live) if environment.live is not None else None
        shown, rollout = release, None
        if environment.holder is not None:
            held = last is not None and last.id == environment.holder
            state = last if last is not None and held else store.rollout(environment.holder)
            rollout = self._rollout(state, by.get(state.id, ""), self._metrics(state.id))
            shown = shown or store.release(key.service, state.plan.candidate)
        known = {replica.name: replica for replica in replicas}
        return {
            "service": key.service,
            "environment": key.environment,
            "live": str(environment.live) if environment.live else None,
            "label": release.label if release else "",
            "active_slot": environment.slot.value if environment.slot else None,
            "url": shown.config.url if shown else None,
            "slots": {slot.value: _slot(environment, slot, known) for slot in Slot},
            "edge": edge,
            "rollout": rollout,
            "last_rollout": last.id if last else None,
            "last": _brief(last) if last else None,
            "migrations": self.open_migrations(key) if release is not None and release.config.database else [],
        }

    def open_migrations(self, key: EnvKey) -> list[dict[str, Any]]:
        """Migrations of which the old shape is still there, where somebody knows of them."""
        return []

    def traffic(self, key: EnvKey) -> dict[str, Any]:
        """What the live release's clients saw lately: rate, burstiness, latencies in ms. Raises NotFound."""
        environment = self.environment(key)
        if environment.slot is None:
            raise NotFound(f"{key} has no live release yet.", hint="`crossfade deploy` makes the first one.")
        return asdict(self._parts.signals.history(key, environment.slot))

    def rollout(self, id: int) -> dict[str, Any]:
        """One rollout as data. Raises NotFound."""
        state = self._parts.store.rollout(id)
        return self._rollout(state, self._parts.store.begun_by([id]).get(id, ""), self._metrics(id))

    def rollouts(self, key: EnvKey | None, limit: int, before: int | None = None) -> list[dict[str, Any]]:
        """The last rollouts, newest first, without their metrics; with ``before``, those with a lower number."""
        states = self._parts.store.rollouts(key, limit=limit, before=before)
        by = self._parts.store.begun_by([state.id for state in states])
        return [self._rollout(state, by.get(state.id, "")) for state in states]

    def _metrics(self, rollout: int) -> list[Any]:
        return list((self._parts.store.evidence(rollout) or {}).get("compared", ()))

    def _rollout(self, state: Rollout, by: str, metrics: Sequence[Any] = ()) -> dict[str, Any]:
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
            "metrics": list(metrics),
            "reason": state.reason,
            "detail": list(state.detail),
            "plan": state.considered[-1].to_data() if state.considered else None,
            "killed": [{"flag": k.flag, "variant": k.variant, "at": k.at, "why": k.why} for k in state.killed],
            "going_back": self._back_from(state).to_data() if not state.phase.ended else None,
            "by": by,
            "began": state.began,
            "entered": state.entered,
            "now": self._parts.now(),
        }

    @staticmethod
    def _back_from(state: Rollout) -> RollbackPlan:
        """What it would take to go back from a rollout that is under way, as far as nobody has looked at flags."""
        plan = state.plan
        return cheapest(Facts("", plan.candidate, (), state.id, plan.baseline, unseen="no verdict has failed"))

    def going_back(self, key: EnvKey, calls: str = "", suspects: Sequence[Suspect] = ()) -> RollbackPlan:
        """What it would take to end a harm now, cheapest remedy first. ``calls`` says what the harm is. Raises NotFound."""
        environment, store = self.environment(key), self._parts.store
        unseen = "" if suspects else "no variant is known to be to blame"
        state = store.rollout(environment.holder) if environment.holder is not None else None
        warm = {o.release for o in environment.slots.values() if o.warm_until is not None}
        harmful = self.taken_back(key)
        ways = tuple(
            Way(
                r.number,
                r.number in warm,
                (*r.reasons, *([harmful[r.number]] if r.number in harmful else [])),
                store.release(key.service, r.number).config.start_timeout,
            )
            for r in self.restorable(key, CHECKED_LATELY)
        )
        blamed = state.plan.candidate if state is not None else environment.live
        baseline = state.plan.baseline if state is not None else None
        rollout = state.id if state is not None else None
        return cheapest(Facts(calls, blamed, tuple(suspects), rollout, baseline, ways, unseen))

    def commands(self, id: int) -> dict[str, str]:
        """Why each command makes no sense for a rollout now; empty where it does. Raises NotFound."""
        state = self._parts.store.rollout(id)
        why: dict[str, str] = {}
        for command in Command:
            try:
                allow(state, command)
                why[command.value] = ""
            except Refused as refused:
                why[command.value] = refused.what
        return why

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


def _brief(state: Rollout) -> dict[str, Any]:
    """A rollout in a few words."""
    return {
        "id": state.id,
        "kind": state.plan.kind.value,
        "candidate": str(state.plan.candidate),
        "phase": state.phase.value,
        "ended": state.phase.ended,
        "reason": state.reason,
        "began": state.began,
        "entered": state.entered,
    }


def _slot(environment: Environment, slot: Slot, known: Mapping[str, Replica]) -> dict[str, Any] | None:
    occupant = environment.slots.get(slot)
    if occupant is None:
        return None
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


def _edge(edge: EdgeState | None, why: str) -> dict[str, Any]:
    if edge is None:
        return {"reachable": False, "why": why or "The edge does not know this environment."}
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


def _proven(last: Proven | None) -> dict[str, Any]:
    """When a release was last proven to be restorable (epoch s), and what its newest proof found and took (s)."""
    held, newest = (last.held, last.newest) if last is not None else (None, None)
    proof = None
    if newest is not None:
        data = newest.data
        proof = {"at": newest.ended, **{name: data[name] for name in ("ok", "took", "where", "sentence")}}
    return {"proven": held.ended if held is not None else None, "proof": proof}


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


def _settings(config: ReleaseConfig) -> dict[str, Any]:
    """A configuration as data. Of secrets, only which set of values it is: two releases with the same have the same."""
    data: dict[str, Any] = _CONFIG.dump_python(config, mode="json")
    data["env"] = dict(config.env)
    for source in data["analysis"].get("sources", ()):
        source["url"] = _USER.sub(r"\1(hidden)@", source["url"])
    return data


def flat(data: object, place: str = "") -> dict[str, Any]:
    """Nested data as one level: `a.b` and `a.0.c` are the places. Lists of plain values stay whole."""
    members: list[tuple[object, object]]
    if isinstance(data, dict) and data:
        members = list(data.items())
    elif isinstance(data, list) and any(isinstance(item, dict | list) for item in data):
        members = list(enumerate(data))
    else:
        return {place: data}
    found: dict[str, Any] = {}
    for name, value in members:
        found |= flat(value, f"{place}.{name}" if place else str(name))
    return found
