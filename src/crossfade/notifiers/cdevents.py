"""CDEvents 0.4.1 in CloudEvents 1.0, structured, in JSON. docs/reference/events.md lists which are sent when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from crossfade.domain.alert import Severity
from crossfade.domain.notice import Notice, State
from crossfade.notifiers.posting import WITHIN, post
from crossfade.notifiers.sending import Letter, host
from crossfade.ports.notices import Answer, Dispatch, Result
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
TYPE: Final = "application/cloudevents+json; charset=utf-8"
_INCIDENTS: Final = {State.OPENED: "detected", State.RESOLVED: "resolved"}
_OUTCOMES: Final = {"success": "success", "failure": "failure", "cancelled": "cancel"}
_TESTED: Final = {"success": "pass", "failure": "fail", "cancelled": "cancel"}


def event(source: Source, news: News) -> Mapping[str, Any] | None:
    """The CloudEvent of some news; None for what CDEvents has no word for."""
    if news.kind not in _TYPES or (news.kind == "stage-began" and not _first(news)):
        return None
    kind, name = _TYPES[news.kind]
    at = datetime.fromtimestamp(news.at, UTC).isoformat().replace("+00:00", "Z")
    id, content = _subject(source, news, kind)
    custom = {
        "run": news.run,
        "service": news.service,
        "commit": news.commit,
        "branch": news.branch,
        "state": news.state,
        "sentence": news.sentence,
        **news.facts,
    }
    return _envelope(source.service, news.id, name, at, (kind, id, content), custom)


def _envelope(
    service: str, id: str, name: str, at: str, subject: tuple[str, str, Mapping[str, Any]], custom: Mapping[str, Any]
) -> dict[str, Any]:
    """An event as CloudEvents has it. ``subject`` is its type, its id and its content."""
    type, origin = f"dev.cdevents.{name}", f"/crossfade/{quote(service)}"
    kind, about, content = subject
    return {
        "specversion": "1.0",
        "id": id,
        "source": origin,
        "type": type,
        "subject": about,
        "time": at,
        "datacontenttype": "application/json",
        "data": {
            "context": {"version": VERSION, "id": id, "source": origin, "type": type, "timestamp": at},
            "subject": {"id": about, "source": origin, "type": kind, "content": content},
            "customData": custom,
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
    headers = {"Content-Type": TYPE}
    return Letter(f"The sink at {host(sink)}", sink, event, headers)


def of_notice(notice: Notice, id: str) -> list[dict[str, Any]]:
    """The events of a notice: what became of a service by a rollout, and incidents; nothing for what there is no word for.

    An alert that wants a person is detected and, where there is a dashboard to look at, reported with its address.
    """
    said = notice.to_data()
    custom = {"severity": said["severity"], "sentence": said["sentence"], **said["facts"]}
    environment = {"id": str(notice.key)}
    service = {"id": str(notice.key.service)}
    if notice.kind == "rollout" and (change := notice.facts.get("change")):
        content: dict[str, Any] = {"environment": environment, "artifactId": _package(notice)}
        subject = ("service", str(notice.key), content)
        return [_envelope(notice.key.service, id, f"service.{change}.0.2.0", notice.time, subject, custom)]
    if notice.kind != "alert" or notice.severity is Severity.INFO or notice.state not in _INCIDENTS:
        return []
    incident = {"description": said["sentence"], "environment": environment, "service": service}
    subjects = [(_INCIDENTS[notice.state], incident)]
    if notice.state is State.OPENED and notice.url:
        subjects.append(("reported", {**incident, "ticketURI": notice.url}))
    return [
        _envelope(
            notice.key.service, f"{id}-{what}", f"incident.{what}.0.2.0", notice.time,
            ("incident", notice.about, content), custom,
        )
        for what, content in subjects
    ]  # fmt: skip


def _package(notice: Notice) -> str:
    facts = notice.facts
    version = quote(str(facts.get("label") or facts.get("candidate") or "unknown"), safe="")
    return (
        f"pkg:generic/{quote(notice.key.service)}@{version}?checksum={quote(str(facts.get('artifact', '')), safe=':')}"
    )


class Sink:
    """`ports.notices.Courier` to a program that wants CDEvents."""

    people = False

    def __init__(self, url: str, within: float = WITHIN) -> None:
        self._url, self._within = url, within

    def takes(self, notice: Notice) -> bool:
        """See the port."""
        return bool(of_notice(notice, ""))

    def carry(self, dispatch: Dispatch) -> Answer:
        """See the port. Of two events the second is sent when the first was taken; each has an id that stays."""
        answer = Answer(Result.SENT, "there was nothing to tell")
        for event in of_notice(dispatch.notice, dispatch.id):
            body = json.dumps(event, separators=(",", ":")).encode()
            answer = post(self._url, body, {"Content-Type": TYPE}, within=self._within)
            if answer.result is not Result.SENT:
                break
        return answer
