"""Messages as Slack's incoming webhooks take them; Mattermost and Rocket.Chat do too. The URL is the secret."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from crossfade.domain.alert import Severity
from crossfade.domain.notice import Notice, State, Templates
from crossfade.notifiers.posting import WITHIN, post
from crossfade.ports.notices import Answer, Dispatch

LONGEST_TEXT: Final = 3000
_COLOURS: Final = {Severity.PAGE: "#c62828", Severity.TICKET: "#ef6c00", Severity.INFO: "#546e7a"}
_GREEN: Final = "#2e7d32"
_CALL: Final = re.compile(r"@(?=\w)")


def plain(text: str) -> str:
    """Text that is shown as it is: nothing in it is a link or calls anybody.

    Slack gives a meaning to ``&``, ``<`` and ``>``; Mattermost and Rocket.Chat call whoever follows an ``@``, which a space
    that nobody sees keeps from it.
    """
    text = text[:LONGEST_TEXT].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _CALL.sub("@\u200b", text)


def message(notice: Notice, templates: Templates) -> dict[str, Any]:
    """A line for everything that shows only one, and an attachment with a colour."""
    subject, text = plain(templates.subject.fill(notice)), plain(templates.text.fill(notice).strip())
    good = notice.state is State.RESOLVED
    attachment = {
        "color": _GREEN if good else _COLOURS[notice.severity],
        "fallback": subject,
        "text": text,
        "footer": f"crossfade · {notice.kind} · {notice.severity}",
        "ts": int(notice.at),
    }
    return {"text": subject, "attachments": [attachment]}


class Slack:
    """`ports.notices.Courier` to a chat."""

    people = True

    def __init__(self, url: str, templates: Templates, within: float = WITHIN) -> None:
        self._url, self._templates, self._within = url, templates, within

    def takes(self, notice: Notice) -> bool:
        """See the port."""
        return True

    def carry(self, dispatch: Dispatch) -> Answer:
        """See the port."""
        body = json.dumps(message(dispatch.notice, self._templates)).encode()
        return post(self._url, body, {"Content-Type": "application/json"}, within=self._within)
