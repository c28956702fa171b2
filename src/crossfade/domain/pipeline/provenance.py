"""What is signed about an artifact: an in-toto Statement v1 with SLSA provenance v1, and whether one is about it.

https://in-toto.io/Statement/v1, https://slsa.dev/spec/v1.1/provenance. What our fields hold is written down in
docs/explanation/provenance.md.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from crossfade import __version__
from crossfade.domain.pipeline.plan import NodeKind
from crossfade.domain.pipeline.run import Run, Status
from crossfade.domain.values import Digest

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:crossfade:pipeline:v1"
PAYLOAD: Final = "application/vnd.in-toto+json"
LOCAL_BUILDER: Final = "urn:crossfade:installation"
"""The builder's name where the installation has no address."""

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PASSWORD = re.compile(r"^([a-z][a-z0-9+.-]*://)[^/@]*@", re.IGNORECASE)


def statement(run: Run, digest: Digest, now: float, builder: str) -> Mapping[str, Any]:
    """What is known of how ``run`` has built the artifact; ``builder`` is the installation's URL. JSON-ready.

    ``now`` (epoch s) is when building ended. Nothing in it is secret: a password in the repository's URL is left out, and
    of variables and secrets nothing is said.
    """
    plan = run.plan
    repository = _PASSWORD.sub(r"\1", plan.repository)
    return {
        "_type": STATEMENT,
        "subject": [{"name": plan.service, "digest": {"sha256": digest.hex}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "service": plan.service,
                    "repository": repository,
                    "ref": plan.branch,
                    "commit": plan.commit.id,
                    "config": plan.place,
                },
                "internalParameters": {
                    "trigger": plan.trigger,
                    "by": plan.by,
                    "command": list(plan.build.command),
                    "output": plan.build.output,
                },
                "resolvedDependencies": [
                    {"uri": _source(repository, plan.commit.id), "digest": {"gitCommit": plan.commit.id}}
                ],
            },
            "runDetails": {
                "builder": {"id": builder or LOCAL_BUILDER, "version": {"crossfade": __version__}},
                "metadata": {
                    "invocationId": str(run.id),
                    "startedOn": _written(plan.queued if run.began is None else run.began),
                    "finishedOn": _written(now),
                },
                "byproducts": list(_passed(run)),
            },
        },
    }


def check(statement: Mapping[str, Any], digest: Digest, service: str) -> tuple[str, ...]:
    """Why a statement is not one about this artifact of this service; nothing when it is. Never raises on JSON data."""
    problems: list[str] = []
    if (kind := statement.get("_type")) != STATEMENT:
        problems.append(f"its type is {_shown(kind)}, not {STATEMENT}")
    if (kind := statement.get("predicateType")) != PREDICATE:
        problems.append(f"its predicate is {_shown(kind)}, not {PREDICATE}")
    problems += _about(statement.get("subject"), digest, service)
    build = _mapping(_mapping(statement.get("predicate")).get("buildDefinition"))
    if (kind := build.get("buildType")) != BUILD_TYPE:
        problems.append(f"it was built by {_shown(kind)}, not by {BUILD_TYPE}")
    given = _mapping(build.get("externalParameters"))
    if given.get("service") != service:
        problems.append(f"it is about service {_shown(given.get('service'))}, not {service}")
    commit = given.get("commit")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        problems.append(f"it names no commit: {_shown(commit)}")
    elif commit not in _commits(build.get("resolvedDependencies")):
        problems.append(f"commit {commit[:7]} is not among what it was built from")
    return tuple(problems)


def _about(subjects: Any, digest: Digest, service: str) -> Iterator[str]:
    named = [_mapping(subject) for subject in subjects] if isinstance(subjects, list) else []
    digests = [_mapping(subject.get("digest")).get("sha256") for subject in named]
    if not named:
        yield "it has no subject"
    elif digest.hex not in digests:
        yield f"it is about the artifact sha256:{_shown(digests[0])[:12]}…, not sha256:{digest.short}…"
    elif service not in [
        subject.get("name") for subject in named if _mapping(subject.get("digest")).get("sha256") == digest.hex
    ]:
        yield f"it names the artifact {_shown(named[digests.index(digest.hex)].get('name'))}, not {service}"


def _commits(dependencies: Any) -> list[Any]:
    listed = dependencies if isinstance(dependencies, list) else []
    return [_mapping(_mapping(one).get("digest")).get("gitCommit") for one in listed]


def _passed(run: Run) -> Iterator[dict[str, Any]]:
    """The steps and gates that have passed, in the order of the pipeline, each with its sentence."""
    for stage in run.stages:
        nodes = run.plan.pipeline.stage(stage.name).nodes
        for node in nodes:
            state = stage.node(node.name)
            if state.outcome is None or state.status is not Status.PASSED:
                continue
            if node.kind not in (NodeKind.COMMAND, NodeKind.GATE):
                continue
            yield {
                "name": f"{stage.name}/{node.name}",
                "mediaType": "text/plain; charset=utf-8",
                "content": base64.b64encode(state.outcome.sentence.encode("utf-8", "replace")).decode("ascii"),
                "annotations": {
                    "kind": node.kind.value,
                    "finding": state.outcome.finding,
                    "sentence": state.outcome.sentence.encode("utf-8", "replace").decode(),
                },
            }


def _source(repository: str, commit: str) -> str:
    """``git+https://…@commit``, as SPDX writes download locations."""
    if "://" in repository:
        return f"git+{repository}@{commit}"
    return f"git+file://{'' if repository.startswith('/') else '/'}{repository}@{commit}"


def _written(at: float) -> str:
    """Epoch seconds as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else "nothing" if value is None else f"of type {type(value).__name__}"
    return "".join(c if c.isprintable() else "?" for c in text[:100])
