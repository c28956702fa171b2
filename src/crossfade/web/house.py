"""What the pages need of the house they live in: who asks, forms that may be trusted, and a frame around a template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fastapi import Request, Response

from crossfade.service import Service
from crossfade.service.accounts import Session


class House(Protocol):
    """One per server."""

    @property
    def service(self) -> Service: ...

    def session(self, request: Request) -> Session:
        """Whose request this is. Raises Unauthenticated."""

    async def posted(self, request: Request) -> tuple[Session, Mapping[str, str]]:
        """Whose form this is, and the form. Raises Unauthenticated, Forbidden for one that did not come from our page."""

    def is_fetch(self, request: Request) -> bool:
        """Whether a script asks, which wants a part of a page, and no redirection."""

    def page(self, request: Request, session: Session, template: str, status: int = 200, **context: Any) -> Response:
        """A template, given the context, the session's ``actor`` and ``csrf``, and ``static`` for the URLs of assets."""
