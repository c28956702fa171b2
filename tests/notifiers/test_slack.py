"""Messages to chats."""

from __future__ import annotations

import json

import pytest

from crossfade.domain.alert import Severity
from crossfade.domain.notice import State, Template, Templates
from crossfade.notifiers.slack import Slack, message, plain
from crossfade.ports.notices import Dispatch, Result
from tests.notifiers.targets import http_target, notice


def test_a_chat_gets_a_line_and_an_attachment_with_a_colour() -> None:
    with http_target() as twin:
        twin.answers, twin.says = [200], b"ok"
        answer = Slack(f"{twin.url}/services/SECRET", Templates()).carry(Dispatch("ntc_1", notice(), 1.0))
        assert answer.result is Result.SENT and "SECRET" not in answer.sentence
        body = json.loads(twin.got[0].body)
    assert body["text"] == "bookshop/production: burn:answers"
    [attachment] = body["attachments"]
    assert attachment["text"].startswith(
        "answers: it burns 20 times too fast\n\nbookshop/production, page, 2023-11-14T22:13:20"
    )
    assert attachment["fallback"] == body["text"]


def test_what_is_over_is_green_and_says_so() -> None:
    said = message(notice(state=State.RESOLVED), Templates())
    assert said["text"] == "Resolved: bookshop/production: burn:answers"
    assert said["attachments"][0]["color"] == "#2e7d32"
    assert (
        said["attachments"][0]["color"]
        != message(notice(severity=Severity.INFO), Templates())["attachments"][0]["color"]
    )


@pytest.mark.parametrize(
    "name", ["<!channel>", "<!here|x>", "<@U123>", "@channel", "@all", "<https://evil.example|good>", "a & b"]
)
def test_nobody_is_called_by_a_name(name: str) -> None:
    text = message(notice(title=name, sentence=name), Templates())["text"]
    assert "<" not in text and ">" not in text
    assert "@channel" not in text and "@all" not in text and "@U" not in text


def test_what_is_escaped_is_shown_as_it_was() -> None:
    assert plain("a & b < c > d") == "a &amp; b &lt; c &gt; d"


def test_a_template_is_filled_once() -> None:
    templates = Templates(Template.parse("{kind}: {title}"), Template.parse("{{{sentence}}}"))
    said = message(notice(title="{sentence}", sentence="{url.__class__}"), templates)
    assert said["text"] == "alert: {sentence}"
    assert said["attachments"][0]["text"] == "{{url.__class__}}"
