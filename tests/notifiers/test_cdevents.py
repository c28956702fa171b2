"""CDEvents of rollouts and of incidents."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from crossfade.domain.alert import Severity
from crossfade.domain.notice import State
from crossfade.notifiers.cdevents import VERSION, Sink, of_notice
from crossfade.ports.notices import Dispatch, Result
from tests.notifiers.targets import http_target, notice

FACTS = {"change": "upgraded", "candidate": "r13", "label": "v2.1", "artifact": "sha256:" + "0" * 64}

CONTENTS = {
    "service": {"environment", "artifactId"},
    "incident": {"description", "environment", "service", "ticketURI"},
}
"""What the schemas of version 0.4.1 let a subject have."""


def check(event: dict[str, Any]) -> None:
    """As the specification's schemas do: what must be there, of which form, and nothing besides."""
    assert set(event) == {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"}
    data = event["data"]
    assert set(data) == {"context", "subject", "customData", "customDataContentType"}
    context, subject = data["context"], data["subject"]
    assert set(context) == {"version", "id", "source", "type", "timestamp"}
    assert (context["version"], context["id"], context["type"]) == (VERSION, event["id"], event["type"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", context["timestamp"])
    assert re.fullmatch(r"dev\.cdevents\.(service|incident)\.[a-z]+\.0\.2\.0", context["type"])
    assert set(subject) == {"id", "source", "type", "content"}
    assert set(subject["content"]) <= CONTENTS[subject["type"]]
    assert subject["content"]["environment"]["id"] == "bookshop/production"
    json.dumps(event, allow_nan=False)


@pytest.mark.parametrize("change", ["deployed", "upgraded", "rolledback"])
def test_a_rollout_that_ended_is_what_became_of_the_service(change: str) -> None:
    [event] = of_notice(notice(about="rollout-8", kind="rollout", facts={**FACTS, "change": change}), "ntc_8")
    check(event)
    assert event["type"] == f"dev.cdevents.service.{change}.0.2.0"
    content = event["data"]["subject"]["content"]
    assert content["artifactId"] == f"pkg:generic/bookshop@v2.1?checksum={FACTS['artifact']}"


def test_an_alert_is_an_incident_that_is_detected_reported_and_resolved() -> None:
    opened = of_notice(notice(state=State.OPENED), "ntc_9")
    [resolved] = of_notice(notice(state=State.RESOLVED), "ntc_10")
    for event in (*opened, resolved):
        check(event)
        assert event["data"]["subject"]["id"] == "alert-12"
    assert [event["type"].split(".")[3] for event in (*opened, resolved)] == ["detected", "reported", "resolved"]
    assert opened[1]["data"]["subject"]["content"]["ticketURI"] == "https://crossfade.example.org/alerts"
    assert len({event["id"] for event in opened}) == 2


def test_without_a_dashboard_there_is_no_ticket_to_report() -> None:
    assert len(of_notice(notice(state=State.OPENED, url=""), "ntc_9")) == 1


@pytest.mark.parametrize(
    "other",
    [{"kind": "run"}, {"kind": "summary"}, {"state": State.REMINDER}, {"state": State.OPENED, "severity": Severity.INFO},
     {"kind": "rollout", "facts": {"change": ""}}],
)  # fmt: skip
def test_what_there_is_no_word_for_is_not_sent(other: dict[str, Any]) -> None:
    assert not Sink("https://events.example.org").takes(notice(**other))


def test_a_sink_that_missed_the_second_event_gets_both_again_under_their_ids() -> None:
    with http_target() as twin:
        twin.answers = [202, 503]
        sink, dispatch = Sink(twin.url), Dispatch("ntc_9", notice(state=State.OPENED), 1.0)
        assert sink.carry(dispatch).result is Result.LATER
        assert sink.carry(dispatch).result is Result.SENT
        ids = [json.loads(got.body)["id"] for got in twin.got]
        assert all(got.headers["content-type"].startswith("application/cloudevents+json") for got in twin.got)
    assert ids == ["ntc_9-detected", "ntc_9-reported"] * 2
