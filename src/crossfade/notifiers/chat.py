"""Chats that take ``{"text": …}``, as Slack, Mattermost and Rocket.Chat do."""

from __future__ import annotations

from typing import Final

from crossfade.notifiers.sending import Letter, host
from crossfade.ports.pipeline import News

KINDS: Final = ("ended", "deployed", "upgraded", "rolledback")
"""What people want to hear of: not every stage."""


def words(news: News) -> str:
    """One line, or nothing when it is no news for a chat."""
    if news.kind not in KINDS:
        return ""
    text = f"{news.service} {news.commit[:7]} ({news.branch or 'no branch'}): {news.sentence}"
    # The three signs that Slack gives a meaning: a branch's name must not call everybody to the channel.
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")[:1000]
    return f"{plain} {news.url}".strip()


def letter(url: str, text: str) -> Letter:
    """The message for one chat."""
    return Letter(f"The chat at {host(url)}", url, {"text": text})
