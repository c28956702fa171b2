"""CDEvents 0.4.1 in CloudEvents 1.0, structured, in JSON. docs/reference/events.md lists which are sent when."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from crossfade.notifiers.sending import Letter, host
from crossfade.ports.pipeline import News, Source

VERSION: Final = "0.4.1"

_TYPES: Final = {
    "queued": ("pipelineRun", "pipelinerun.queued.0.2.0"),
    "stage-began": ("pipelineRun", "pipelinerun.started.0.2.0"),
    "ended": ("pipelineRun", "pipelinerun.finished.0.2.0"),
    "gate": ("testSuiteRun", "testsuiterun.finished.0.2.0"),
    "deployed": ("service", "service.deployed.0.2.0"),
    "upgraded": ("service", "service.upgraded.0.2.0"),
    "rolledback": ("service", "service.rolledback.0.2.0"),
}
_OUTCOMES: Final = {"success": "success", "failure": "failure", "cancelled": "cancel"}
_TESTED: Final = {"success": "pass", "failure": "fail", "cancelled": "cancel"}


def event(source: Source, news: News) -> Mapping[str, Any] | None:
    """The CloudEvent of some news; None for what CDEvents has no word for."""
    if news.kind not in _TYPES or (news.kind == "stage-began" and not _first(news)):
        return None
    kind, name = _TYPES[news.kind]
    type = f"dev.cdevents.{name}"
    origin = f"/crossfade/{quote(source.service)}"
    at = datetime.fromtimestamp(news.at, UTC).isoformat().replace("+00:00", "Z")
    id, content = _subject(source, news, kind)
    return {
        "specversion": "1.0",
        "id": news.id,
        "source": origin,
        "type": type,
        "subject": id,
        "time": at,
        "datacontenttype": "application/json",
        "data": {
            "context": {"version": VERSION, "id": news.id, "source": origin, "type": type, "timestamp": at},
            "subject": {"id": id, "source": origin, "type": kind, "content": content},
            "customData": {
                "run": news.run,
                "service": news.service,
                "commit": news.commit,
                "branch": news.branch,
                "state": news.state,
                "sentence": news.sentence,
                **news.facts,
            },
            "customDataContentType": "application/json",
        },
    }


def _first(news: News) -> bool:
    """A run has started when its first stage has, for the first time."""
    return news.id.endswith("-commit-1")


def _subject(source: Source, news: News, kind: str) -> tuple[str, dict[str, Any]]:
    run = f"run-{news.run}"
    if kind == "pipelineRun":
        content: dict[str, Any] = {"pipelineName": source.service}
        content |= {"url": news.url} if news.url else {}
        if news.kind == "ended":
            content["outcome"] = _OUTCOMES[news.state]
            content |= {"errors": news.sentence} if news.state != "success" else {}
        return run, content
    place = news.facts.get("environment") or news.facts.get("stage") or "unknown"
    environment = {"id": f"{source.service}/{place}"}
    if kind == "testSuiteRun":
        gate = str(news.facts.get("gate", "gate"))
        suite = {"id": gate, "name": gate}
        found = {"outcome": _TESTED[news.state], "environment": environment, "testSuite": suite}
        return f"{run}/{news.facts.get('stage', 'stage')}/{gate}", found | {"reason": news.sentence}
    return environment["id"], {"environment": environment, "artifactId": _purl(news)}


def _purl(news: News) -> str:
    """A package URL: what a release consists of is known by its digest."""
    digest = news.facts.get("artifact")
    known = f"?checksum={quote(str(digest), safe=':')}" if digest else ""
    return f"pkg:generic/{quote(news.service)}@{quote(news.commit)}{known}"


def letter(sink: str, event: Mapping[str, Any]) -> Letter:
    """The message for one sink."""
    headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    return Letter(f"The sink at {host(sink)}", sink, event, headers)
