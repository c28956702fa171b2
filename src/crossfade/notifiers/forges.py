"""Commit statuses: one context for each stage, ``crossfade/commit`` to ``crossfade/production``."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from crossfade.notifiers.sending import Letter
from crossfade.ports.pipeline import News, Source

LONGEST: Final = 140
"""Characters of a description, as GitHub has it."""
KINDS: Final = ("stage-queued", "stage-began", "stage-ended")

_STATES: Final = {
    "github": {"pending": "pending", "success": "success", "failure": "failure", "cancelled": "error"},
    "gitea": {"pending": "pending", "success": "success", "failure": "failure", "cancelled": "warning"},
    "gitlab": {"pending": "pending", "success": "success", "failure": "failed", "cancelled": "canceled"},
}


def status(source: Source, token: str, news: News) -> Letter | None:
    """The status that a forge is to show; None where there is none to tell, or no token to do it with."""
    if source.forge not in _STATES or news.kind not in KINDS or not token or not source.project:
        return None
    api = source.api.rstrip("/") or {"github": "https://api.github.com", "gitlab": "https://gitlab.com/api/v4"}.get(
        source.forge, ""
    )
    if not api:
        return None
    state = _STATES[source.forge][news.state]
    if source.forge == "gitlab" and news.kind == "stage-began":
        state = "running"
    body: dict[str, Any] = {"state": state, "description": _short(news.sentence)}
    body |= {"target_url": news.url} if news.url else {}
    context = f"crossfade/{news.facts.get('stage', 'run')}"
    sha = quote(news.commit, safe="")
    if source.forge == "gitlab":
        body |= {"name": context, "ref": news.branch} if news.branch else {"name": context}
        url = f"{api}/projects/{quote(source.project, safe='')}/statuses/{sha}"
        return Letter("GitLab", url, body, {"PRIVATE-TOKEN": token})
    body["context"] = context
    if source.forge == "github":
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        return Letter("GitHub", f"{api}/repos/{quote(source.project)}/statuses/{sha}", body, headers)
    base = api if api.endswith("/api/v1") else f"{api}/api/v1"
    headers = {"Authorization": f"token {token}"}
    return Letter("Gitea", f"{base}/repos/{quote(source.project)}/statuses/{sha}", body, headers)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
