"""What a person, a hook or a forge can do with pipelines. Each change wants a role, and is in the audit log."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from crossfade.domain.access import Actor, Grant, Role
from crossfade.domain.errors import (
    CrossfadeError,
    Invalid,
    NotFound,
    Refused,
    StorageFailed,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from crossfade.domain.pipeline import provenance, webhooks
from crossfade.domain.pipeline.plan import Pipeline
from crossfade.domain.pipeline.run import Build, Cancel, Event, Restart, Run, RunPlan
from crossfade.domain.throttle import Throttle
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber, parse_name
from crossfade.ports import Parts
from crossfade.ports.pipeline import Source, Works
from crossfade.service.audit import Audit
from crossfade.service.run_views import RunViews

FORGES: Final = ("", "github", "gitlab", "gitea")
FORGED: Final = 20
"""Webhooks without a good signature that an address may send in a minute."""
MOST_SINKS: Final = 10
LONGEST_REF: Final = 250
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_PROJECT: Final = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+){1,10}")
WEBHOOK: Final = "webhook"
TOKEN: Final = "token"  # noqa: S105 - the name of a secret, not one


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A wish for a run. ``ref`` is a branch, tag or commit; ``branch`` whose rules count, by default ``ref`` itself.

    ``fix``: why it fixes what has used an error budget up; empty: it is no fix.
    """

    service: str
    ref: str
    branch: str = ""
    stage: str = ""
    trigger: str = "command"
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Described:
    """What a commit's `crossfade.yaml` says. ``env_files`` are the environments that want secret variables."""

    pipeline: Pipeline | None
    config: str
    build: Build
    env_files: tuple[str, ...]


class Driver(Protocol):
    """What the use cases need of the conductor."""

    def apply(self, id: int, event: Event) -> Run: ...

    def queued(self, run: Run) -> None: ...


class Runs(RunViews):
    """All use cases of pipelines. ``describe`` reads a commit's `crossfade.yaml`; it raises InvalidConfig."""

    def __init__(
        self,
        parts: Parts,
        works: Works,
        audit: Audit,
        driver: Driver,
        describe: Callable[[bytes, str, Callable[[str], bytes | None]], Described],
    ) -> None:
        super().__init__(parts, works)
        self._audit, self._driver, self._describe = audit, driver, describe
        self._forged = Throttle(FORGED, 60.0)

    # --- runs

    def start(self, request: RunRequest, by: Actor) -> dict[str, Any]:
        """Queue a run of a commit. Raises NotFound, Invalid, InvalidConfig, Forbidden, Refused, Unavailable."""
        source = self._source(request.service)
        repositories = self._works.repositories
        for place, text in (("ref", request.ref), ("branch", request.branch)):
            if len(text) > LONGEST_REF or (place == "ref" and not text):
                raise Invalid(place, text, f"the name of a branch, tag or commit, at most {LONGEST_REF} characters")
        repositories.fetch(source.repository, self._secrets(source).get(TOKEN, ""))
        commit = repositories.commit(source.repository, request.ref)
        content = repositories.file(source.repository, commit.id, source.config)
        if content is None:
            raise NotFound(
                f"{commit.id[:7]} has no {source.config}.", hint="`crossfade init` proposes one; commit it first."
            )
        folder = PurePosixPath(source.config).parent
        described = self._describe(
            content, source.config, lambda path: repositories.file(source.repository, commit.id, str(folder / path))
        )
        pipeline = described.pipeline
        if pipeline is None or not pipeline.stages:
            raise NotFound(
                f"{source.config} of {commit.id[:7]} has no pipeline.",
                hint="`crossfade init` proposes one: copy its `pipeline:` section.",
            )
        if pipeline.service != request.service:
            raise Invalid("service", pipeline.service, f"{request.service}, as its source says")
        branch = request.branch or request.ref.removeprefix("refs/heads/")
        key = EnvKey(request.service, pipeline.environment)
        by.require(Role.OPERATOR, key)
        pipeline = _for_branch(pipeline, branch)
        self._refuse_unpassed(pipeline, request.stage, commit.id)
        missing = [
            stage.environment
            for stage in pipeline.stages
            if stage.environment in described.env_files and not source.files.get(stage.environment)
        ]
        if missing:
            raise Refused(
                f"{', '.join(missing)} of {request.service} wants the variables of an env_file, which the source has not.",
                hint=f"crossfade sources add … --secret-file {missing[0]}=FILE",
            )
        now = self._parts.now()
        plan = RunPlan(
            pipeline,
            source.repository,
            commit,
            branch,
            request.trigger,
            by.name,
            by.identity,
            by.grants,
            now,
            described.config,
            described.build,
            self._base(key, commit.id),
            key.environment,
            source.config,
            request.fix,
        )
        run = self._works.runs.add_run(plan)
        if request.stage:
            run = self._with_passed(run, request.stage)
        self._driver.queued(run)
        said = {"run": run.id, "commit": commit.id, "branch": branch, "trigger": request.trigger}
        self._audit.note(by, "run.start", str(key), {}, said)
        return self.run(run.id)

    def _refuse_unpassed(self, pipeline: Pipeline, stage: str, commit: str) -> None:
        """Raises Refused for a beginning in the midst unless the commit has passed what comes before, Invalid."""
        if not stage:
            return
        names = [one.name.value for one in pipeline.stages]
        if stage not in names:
            raise Invalid("stage", stage, f"one of {', '.join(names)}")
        passed = self._works.runs.passed_stages(pipeline.service, commit)
        missing = [name for name in names[: names.index(stage)] if name not in passed]
        if missing:
            raise Refused(
                f"{commit[:7]} has not passed {', '.join(missing)} yet: it cannot begin in {stage}.",
                hint="Leave --stage out: the whole pipeline is run.",
            )

    def _with_passed(self, run: Run, stage: str) -> Run:
        """Take over what earlier runs of the commit have passed, and the artifact that they made."""
        passed = self._works.runs.passed_stages(run.plan.service, run.plan.commit.id)
        stages, artifact, before = [], None, True
        for state in run.stages:
            before = before and state.name.value != stage
            if not before:
                stages.append(state)
                continue
            earlier = self._works.runs.run(passed[state.name.value])
            artifact = earlier.artifact or artifact
            stages.append(earlier.stage(state.name))
        if artifact is None or self._parts.artifacts.verify(artifact):
            raise Refused("The artifact of the earlier run is gone.", hint="Leave --stage out: it is built again.")
        run = replace(run, stages=tuple(stages), artifact=artifact)
        self._works.runs.save_run(run, self._parts.now())
        return run

    def _base(self, key: EnvKey, commit: str) -> str:
        """The commit in production, which changed lines are counted from; empty when it is this one, or not known."""
        environment = self._parts.store.environment(key)
        number = (
            self._works.runs.run_of(key.service, environment.live)
            if environment is not None and environment.live is not None
            else None
        )
        live = self._works.runs.run(number).plan.commit.id if number is not None else ""
        return "" if live == commit else live

    def cancel(self, id: int, by: Actor) -> dict[str, Any]:
        """End a run. Raises NotFound, Forbidden, Refused when it has ended or is deploying."""
        return self._order(id, Cancel(by.name), by, "run.cancel")

    def restart(self, id: int, by: Actor) -> dict[str, Any]:
        """Go on from the stage that failed. Raises NotFound, Forbidden, Refused."""
        return self._order(id, Restart(by.name), by, "run.restart")

    def _order(self, id: int, event: Event, by: Actor, what: str) -> dict[str, Any]:
        before = self._works.runs.run(id)
        by.require(Role.OPERATOR, before.plan.key)
        after = self._driver.apply(id, event)
        said = {"run": id, "status": before.status.value}
        self._audit.note(by, what, str(before.plan.key), said, {**said, "status": after.status.value})
        return self.run(id)

    # --- where commits come from

    def _source(self, service: str) -> Source:
        source = self._works.runs.source(parse_name("service", service))
        if source is None:
            known = ", ".join(one.service for one in self._works.runs.sources()) or "none yet"
            raise NotFound(
                f"Nobody has said where the commits of {service} come from.",
                hint=f"`crossfade sources add {service} REPOSITORY` does. Known: {known}.",
            )
        return source

    def _secrets(self, source: Source) -> Mapping[str, str]:
        return self._parts.secrets.get(source.secrets) if source.secrets else {}

    def sources(self) -> list[dict[str, Any]]:
        """All, by service; names of secrets only."""
        return [self._source_data(one) for one in self._works.runs.sources()]

    def source(self, service: str) -> dict[str, Any]:
        """Raises NotFound."""
        return self._source_data(self._source(service))

    def _source_data(self, source: Source) -> dict[str, Any]:
        files = {
            environment: sorted(self._parts.secrets.get(name)) for environment, name in source.files.items() if name
        }
        return {
            "service": source.service,
            "repository": _without_user(source.repository),
            "created": source.created,
            "forge": source.forge,
            "api": source.api,
            "project": source.project,
            "sinks": [_without_user(sink) for sink in source.sinks],
            "chat": [_host(place) for place in source.chat],
            "config": source.config,
            "secrets": sorted(self._secrets(source)),
            "files": files,
            "hook": f"/api/v1/hooks/{source.service}",
        }

    def add_source(
        self,
        service: str,
        repository: str,
        *,
        secrets: Mapping[str, str] | None = None,
        files: Mapping[str, Mapping[str, str]] | None = None,
        forge: str = "",
        api: str = "",
        project: str = "",
        sinks: Sequence[str] = (),
        chat: Sequence[str] = (),
        config: str = "crossfade.yaml",
        by: Actor,
    ) -> dict[str, Any]:
        """Say where a service's commits come from; in place of what was said before, but for secrets that are not given.

        Who may push there can run commands on this machine. Raises Forbidden, Invalid, NotFound, Unavailable.
        """
        by.require(Role.ADMIN, None)
        parse_name("service", service)
        if forge not in FORGES:
            raise Invalid("forge", forge, "github, gitlab, gitea, or nothing")
        if project and not _PROJECT.fullmatch(project):
            raise Invalid("project", project, "owner/name")
        if config.startswith("/") or ".." in config.split("/") or not config or len(config) > 200:
            raise Invalid("config", config, "a path within the repository")
        for place, url in [("api", api), *(("sinks", one) for one in sinks), *(("chat", one) for one in chat)]:
            if url and (len(url) > 1000 or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
                raise Invalid(place, _without_user(url), "a URL that begins with https:// or http://")
        if len(sinks) > MOST_SINKS or len(chat) > MOST_SINKS:
            raise Invalid("sinks, chat", max(len(sinks), len(chat)), f"at most {MOST_SINKS} each")
        before = self._works.runs.source(service)
        known = dict(self._secrets(before)) if before is not None else {}
        known |= _variables("secrets", secrets or {})
        kept = dict(before.files) if before is not None else {}
        for environment, values in (files or {}).items():
            kept[parse_name("files", environment)] = self._parts.secrets.put(_variables(environment, values))
        self._works.repositories.fetch(repository, known.get(TOKEN, ""))
        source = Source(
            service,
            repository,
            before.created if before is not None else self._parts.now(),
            self._parts.secrets.put(known) if known else "",
            kept,
            forge,
            api,
            project,
            tuple(sinks),
            tuple(chat),
            config,
        )
        was = self._source_data(before) if before is not None else {}
        self._works.runs.add_source(source)
        said = self._source_data(source)
        self._audit.note(by, "source.add", service, was, said)
        return said

    def remove_source(self, service: str, by: Actor) -> None:
        """Forget where its commits come from; runs stay. Raises Forbidden, NotFound."""
        by.require(Role.ADMIN, None)
        was = self.source(service)
        self._works.runs.remove_source(service)
        self._audit.note(by, "source.remove", service, was, {})

    # --- forges

    def deliver(self, service: str, headers: Mapping[str, str], body: bytes, address: str = "") -> dict[str, Any]:
        """Hear a webhook: begin a run for a push that has not been heard of yet. Names of headers are in lower case.

        Raises Unauthenticated for one that nobody who knows the secret has signed, TooMany for an address that sends many
        of those, Invalid, and as `start`.
        """
        wait = self._forged.wait(address, self._parts.now())
        if wait:
            raise TooMany("Too many webhooks without a good signature came from there.", wait)
        try:
            return self._deliver(service, headers, body)
        except Unauthenticated:
            self._forged.failed(address, self._parts.now())
            raise

    def _deliver(self, service: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        try:
            source = self._source(service)
        except (NotFound, Invalid):
            source = None  # whether there is such a service is nobody's business who cannot sign
        secret = self._secrets(source).get(WEBHOOK, "") if source is not None else ""
        if source is None or not secret or not source.forge:
            raise Unauthenticated("This webhook is not known here, or has no secret.", hint="`crossfade sources add`")
        found = webhooks.read(source.forge, headers, body, secret, self._parts.now())
        if isinstance(found, webhooks.Ignored):
            return {"run": None, "said": found.reason}
        if not self._works.runs.claim_delivery(service, found.delivery, self._parts.now()):
            return {"run": None, "said": f"delivery {found.delivery[:80]} was heard before"}
        actor = Actor(f"{source.forge}:{found.pusher}"[:200], (Grant(Role.OPERATOR, f"{service}/*"),), "webhook")
        request = RunRequest(service, found.commit, found.branch, trigger="webhook")
        try:
            run = self.start(request, actor)
        except (Unavailable, StorageFailed):
            self._works.runs.give_up_delivery(service, found.delivery)  # sent again, it is heard
            raise
        return {"run": run["id"], "said": f"run #{run['id']} of {service} {run['short']} is queued"}

    # --- provenance

    def attested(self, digest: Digest, service: str) -> tuple[str, ...]:
        """Why an artifact is not one that a pipeline of this installation has built for a service; nothing when it is."""
        wrong = self._parts.artifacts.verify(digest)
        if wrong:
            return (f"its bytes are not what they were: {wrong}",)
        statement = self._works.runs.statement(digest)
        if statement is None:
            return ("no pipeline of this installation has signed a statement about it",)
        try:
            said = self._works.signer.open(statement.envelope)
        except CrossfadeError as error:
            return (f"its statement is not signed by this installation: {error.what}",)
        return provenance.check(said, digest, service)

    def statement(self, service: str, number: ReleaseNumber) -> dict[str, Any]:
        """What is signed about the artifact of a release, and whether it holds. Raises NotFound."""
        digest = self._parts.store.release(service, number).digest
        problems = self.attested(digest, service)
        kept = self._works.runs.statement(digest)
        said = None
        if kept is not None:
            try:
                said = dict(self._works.signer.open(kept.envelope))
            except CrossfadeError:
                said = None
        sentence = (
            f"{number} is {digest.text[:19]}…, built and signed by run #{kept.run}"
            if kept is not None and not problems
            else f"{number} is not verified: {'; '.join(problems)}"
        )
        return {
            "release": str(number),
            "artifact": digest.text,
            "ok": not problems,
            "sentence": sentence,
            "problems": list(problems),
            "statement": said,
            "envelope": kept.envelope if kept is not None else None,
            "key": self._works.signer.key_id,
        }


def _for_branch(pipeline: Pipeline, branch: str) -> Pipeline:
    """Commits of other branches than those named are verified, and go no further."""
    if any(_matches(branch, pattern) for pattern in pipeline.branches):
        return pipeline
    return replace(pipeline, stages=tuple(stage for stage in pipeline.stages if not stage.name.deploys))


def _matches(branch: str, pattern: str) -> bool:
    return fnmatchcase(branch, pattern)


def _variables(place: str, values: Mapping[str, str]) -> dict[str, str]:
    for name, value in values.items():
        if not _VARIABLE.fullmatch(name) or len(value) > 32_768 or "\0" in value:
            raise Invalid(place, name, "names of variables, each with a value of at most 32768 characters")
    return dict(values)


def _without_user(url: str) -> str:
    return re.sub(r"^([a-z+]+://)[^/@]*@", r"\1(hidden)@", url)


def _host(url: str) -> str:
    """Of the URL of a chat only the host is shown: the rest is what lets one write there."""
    return f"{urlsplit(url).scheme}://{urlsplit(url).hostname}/…"
