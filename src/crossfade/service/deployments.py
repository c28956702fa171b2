"""Deployments of runs: numbers the release, waits for its turn and its approval, and watches the rollout to its end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from crossfade.domain.access import Actor
from crossfade.domain.errors import Busy, CrossfadeError, Frozen, Moved, NotFound, Refused
from crossfade.domain.pipeline import provenance
from crossfade.domain.pipeline.plan import Outcome, Stage
from crossfade.domain.pipeline.queue import OLDER, Ground
from crossfade.domain.pipeline.run import Deploying, Run
from crossfade.domain.release import Release, ReleaseConfig
from crossfade.domain.rollout import Kind, Phase, Rollout
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.ports import Approval, Parts
from crossfade.ports.pipeline import Cancel, Relation, Statement, Tell, Works
from crossfade.service.service import Request, Service

log = logging.getLogger("crossfade.deployments")

LOOK_EVERY: Final = 0.2
RELATIONS_KEPT: Final = 10_000
APPROVAL_LASTS: Final = 86_400.0
"""Seconds in which an approval that a run waits for must be given."""


class Deployments:
    """Puts artifacts of runs into environments. ``config`` reads a run's `crossfade.yaml` for one environment."""

    def __init__(
        self,
        parts: Parts,
        works: Works,
        service: Service,
        config: Callable[[Run, str], ReleaseConfig],
        on_boundary: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._parts, self._works, self._service, self._config = parts, works, service, config
        self._boundary = on_boundary
        self._relations: dict[tuple[str, str, str], str] = {}

    def url(self, key: EnvKey) -> str:
        """How this machine reaches the environment's edge. Raises NotFound."""
        environment = self._service.environment(key)
        if environment.live is None:
            raise NotFound(f"{key} has no live release.")
        return self._parts.store.release(key.service, environment.live).config.url

    def ground(self, run: Run, key: EnvKey) -> Ground:
        """What is known of an environment that the run would deploy to."""
        try:
            freezes = self._config(run, key.environment).freezes
        except CrossfadeError:
            freezes = ()  # the deployment itself will say what is wrong with it
        environment = self._parts.store.environment(key)
        if environment is None:
            return Ground(freezes=freezes)
        relation, live = "", ""
        if environment.live is not None:
            number = self._works.runs.run_of(key.service, environment.live)
            commit = self._works.runs.run(number).plan.commit.id if number is not None else ""
            live = f"{commit[:7]} ({environment.live})" if commit else str(environment.live)
            relation = self._relation(run, commit) if commit else ""
        return Ground(environment.holder, relation, live, environment.fence, freezes)

    def _relation(self, run: Run, commit: str) -> str:
        """How the run's commit stands to another one. What git has answered once stays so, since commits do."""
        asked = (run.plan.repository, run.plan.commit.id, commit)
        known = self._relations.get(asked)
        if known is not None:
            return known
        try:
            found = self._works.repositories.relation(*asked).value
            if len(self._relations) > RELATIONS_KEPT:
                self._relations.clear()
            self._relations[asked] = found
            return found
        except CrossfadeError as error:
            log.warning("how %s stands to %s: %s", run.plan.commit.id[:7], commit[:7], error)
            return Relation.UNRELATED.value

    def deploy(
        self,
        run: Run,
        stage: Stage,
        note: Callable[[Deploying], None],
        waits: Callable[[str], None],
        tell: Tell,
        cancel: Cancel,
        ends: Cancel,
    ) -> Outcome | None:
        """Returns when the rollout has ended. None: it was cancelled before its rollout began, or the server ``ends``.

        Goes on from what ``note`` has kept. Raises Refused, Forbidden, InvalidConfig, NotFound.
        """
        key = EnvKey(run.plan.service, stage.environment)
        assert run.artifact is not None  # a deploying stage comes after the artifact
        state = run.stage(stage.name)
        if state.rollout is not None:
            return self._watch(state.rollout, waits, tell, ends)
        actor = actor_of(run)
        number = state.release
        if number is None:
            self._service.refuse_unattested(key, run.artifact)
            already = self._already(run, key, run.artifact)
            if already is not None:
                tell(f"{already} is live in {key} with this artifact and configuration")
                note(Deploying(stage.name, already))
                self._works.runs.note_release(key.service, already, run.id)
                facts = {"release": str(already), "change": "none"}
                return Outcome(True, f"{already} is live already, with this artifact and configuration", numbers=facts)
            release = self._service.release_for(self._request(run, key, run.artifact, actor))
            number = release.number
            self._works.runs.note_release(key.service, number, run.id)
            self._boundary(f"{stage.name} deploy has its release")
            note(Deploying(stage.name, number))
            tell(f"{number} is made of {run.artifact.text[:19]}… for {key}")
        else:
            release = self._parts.store.release(key.service, number)
            begun = self._begun(key, number)
            if begun is not None:  # a server began it and died before it could say so
                note(Deploying(stage.name, number, begun.id))
                return self._watch(begun.id, waits, tell, ends)
        rollout = self._begin(run, stage, key, release, actor, note, waits, tell, cancel, ends)
        if not isinstance(rollout, int):
            return rollout
        self._boundary(f"{stage.name} deploy has begun")
        note(Deploying(stage.name, number, rollout))
        return self._watch(rollout, waits, tell, ends)

    # --- before the rollout

    def _request(self, run: Run, key: EnvKey, artifact: Digest, actor: Actor) -> Request:
        config: Mapping[str, Any] = json.loads(run.plan.config)
        label = f"{run.plan.commit.id[:7]} {run.plan.commit.subject}"[:100]
        return Request(key, artifact, config, self._secrets(key), label, actor, run.plan.fix)

    def _secrets(self, key: EnvKey) -> Mapping[str, str]:
        source = self._works.runs.source(key.service)
        name = source.files.get(key.environment, "") if source is not None else ""
        return self._parts.secrets.get(name) if name else {}

    def _already(self, run: Run, key: EnvKey, artifact: Digest) -> ReleaseNumber | None:
        """The live release, when deploying the artifact would change nothing."""
        environment = self._parts.store.environment(key)
        if environment is None or environment.live is None or environment.holder is not None:
            return None
        live = self._parts.store.release(key.service, environment.live)
        secrets = self._parts.secrets.put(self._secrets(key))
        wanted = self._service.read_config(json.loads(run.plan.config), key, secrets)
        return live.number if (live.digest, live.config) == (artifact, wanted) else None

    def _begun(self, key: EnvKey, number: ReleaseNumber) -> Rollout | None:
        rollouts = self._parts.store.rollouts(key, limit=100)
        return next((r for r in rollouts if r.plan.kind is Kind.DEPLOY and r.plan.candidate == number), None)

    def _begin(
        self,
        run: Run,
        stage: Stage,
        key: EnvKey,
        release: Release,
        actor: Actor,
        note: Callable[[Deploying], None],
        waits: Callable[[str], None],
        tell: Tell,
        cancel: Cancel,
        ends: Cancel,
    ) -> int | Outcome | None:
        """The rollout's number; or how it ended before there was one. Again whenever the environment has moved."""
        approval = run.stage(stage.name).approval
        while True:
            if cancel.is_set() or ends.is_set():
                if approval is not None and not ends.is_set():
                    self._drop(approval, actor, "the run was ended")
                return None
            ground = self.ground(run, key)
            if ground.relation == OLDER:
                return Outcome(
                    False, f"{run.plan.commit.id[:7]} is older than {ground.live}, which is live in {key} now"
                )
            if approval is None:
                try:
                    begun = self._service.begin_or_ask(key, release, actor, ground.fence)
                except (Busy, Frozen, Moved) as error:
                    waits(f"waits for {key}: {error.what}")
                    cancel.wait(LOOK_EVERY)
                    continue
                if isinstance(begun, Rollout):
                    waits("")
                    return begun.id
                approval = begun.id
                note(Deploying(stage.name, release.number, approval=approval))
                tell(f"waits for approval {approval}")
            found = self._approved(approval, key, ground, actor, waits, cancel, ends)
            if found == "again":
                approval = None
                continue
            return found

    def _approved(
        self,
        id: int,
        key: EnvKey,
        ground: Ground,
        actor: Actor,
        waits: Callable[[str], None],
        cancel: Cancel,
        ends: Cancel,
    ) -> int | Outcome | Literal["again"] | None:
        """What came of an approval: a rollout, an outcome, None when one stopped waiting, ``again`` when it must be asked anew."""
        waits(f"waits for approval {id}: somebody else than {actor.name} has to approve it (`crossfade approve {id}`)")
        while True:
            approval = self._approval(id)
            match approval.state:
                case "approved" if approval.rollout is not None:
                    waits("")
                    return approval.rollout
                case "rejected":
                    why = f": {approval.why}" if approval.why else ""
                    return Outcome(False, f"approval {id} was rejected by {approval.decided_by}{why}")
                case "superseded":
                    return Outcome(False, f"approval {id} was superseded by a later request for {key}")
            if cancel.is_set() or ends.is_set():
                if not ends.is_set():
                    self._drop(id, actor, "the run was ended")
                return None
            if self._parts.now() > approval.asked + APPROVAL_LASTS:
                self._drop(id, actor, "nobody approved it in time")
                return Outcome(False, f"approval {id} was not given within {APPROVAL_LASTS / 3600:g} h: it has expired")
            environment = self._parts.store.environment(key)
            if environment is not None and environment.holder is None and environment.fence != ground.fence:
                self._drop(id, actor, "the environment has had another rollout since it was asked for")
                return "again"
            cancel.wait(LOOK_EVERY)

    def _approval(self, id: int) -> Approval:
        found = self._parts.access.approval(id)
        if found is None:
            raise NotFound(f"There is no approval {id}.")
        return found

    def _drop(self, id: int, actor: Actor, why: str) -> None:
        try:
            self._service.approvals.reject(id, actor, why)
        except Refused:
            pass  # somebody was faster: what they said counts

    # --- provenance

    def attest(self, run: Run, digest: Digest) -> None:
        """Sign what is known of how the run has built an artifact, and keep it."""
        said = provenance.statement(run, digest, self._parts.now(), self._works.url)
        envelope = self._works.signer.sign(said)
        self._works.runs.keep_statement(Statement(digest, envelope, run.id, self._parts.now()))

    # --- the rollout

    def _watch(self, id: int, waits: Callable[[str], None], tell: Tell, ends: Cancel) -> Outcome | None:
        """Look until it has ended. A deployment in flight is never cancelled."""
        phase, said = None, ""
        while not ends.is_set():
            state = self._parts.store.rollout(id)
            if state.phase is not phase:
                phase = state.phase
                tell(f"rollout #{id} of {state.plan.candidate}: {phase}")
            why = ""
            if not state.phase.ended and (state.paused is not None or state.phase is Phase.READY):
                why = f"rollout #{id} waits: {state.waiting or 'it is paused'}"
            if why != said:
                said = why
                waits(why)
            if state.phase.ended:
                return _outcome(state)
            ends.wait(LOOK_EVERY)
        return None


def actor_of(run: Run) -> Actor:
    """Whoever asked for the run, with the rights that they had then."""
    return Actor(run.plan.by, run.plan.grants, "local" if run.plan.identity == "local" else "run")


def _outcome(state: Rollout) -> Outcome:
    plan = state.plan
    facts = {
        "rollout": state.id,
        "release": str(plan.candidate),
        "change": "upgraded" if plan.baseline is not None else "deployed",
    }
    if state.phase is Phase.PROMOTED:
        return Outcome(True, f"{plan.candidate} is live in {plan.key}: rollout #{state.id} was promoted", numbers=facts)
    sentence = f"rollout #{state.id} of {plan.candidate} went back to {plan.baseline or 'nothing'}: {state.reason}"
    return Outcome(False, sentence, details=state.detail, numbers=facts | {"change": "rolledback"})
