"""Routes of accounts, tokens, links, approvals and the audit log."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from crossfade.api import answers as give
from crossfade.api import cursors
from crossfade.api.cursors import Cursor, Limit
from crossfade.api.guard import GuardedRoute, Scope, Who, needs
from crossfade.api.models import AccountBody, AccountChange, LinkBody, PasswordBody, RejectBody, TokenBody
from crossfade.api.problems import Json
from crossfade.domain.access import Grant, Role
from crossfade.domain.values import EnvKey
from crossfade.service import Service
from crossfade.service.accounts import LINK_LASTS, Account, TokenInfo

Name = Annotated[str, Path(description="Name of an account.", examples=["ada"])]
TokenId = Annotated[str, Path(description="A token's id, as the list has it.", examples=["0123456789ab"])]
Id = Annotated[int, Path(ge=1, le=2**31 - 1, description="The number of an approval.", examples=[3])]
EMPTY: dict[int | str, dict[str, Any]] = {204: {"description": "Done."}}


def router(service: Service, origin: str) -> APIRouter:
    """The routes. ``origin`` is where browsers reach the dashboard."""
    routes = APIRouter(route_class=GuardedRoute)

    @routes.get("/me", tags=["accounts"], responses={200: {"model": give.Me}})
    @needs(Role.VIEWER, Scope.SOMEWHERE)
    def me(who: Who) -> Json:
        """Who asks, and what they may do where."""
        grants = [str(grant) for grant in who.grants]
        return Json({"name": who.name, "via": who.via, "grants": grants, "credential": who.credential})

    @routes.get("/accounts", tags=["accounts"], responses={200: {"model": give.Page[give.Account]}})
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def list_accounts(limit: Limit = cursors.MOST, cursor: Cursor = None) -> Json:
        """All accounts, by name."""
        after = cursors.read("accounts", cursor) or ""
        rows = [_account(one) for one in sorted(service.accounts.list(), key=lambda one: one.name) if one.name > after]
        return Json(cursors.page("accounts", rows, limit, lambda row: row["name"]))

    @routes.post("/accounts", status_code=201, tags=["accounts"], responses={201: {"model": give.Account}})
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def add_account(who: Who, body: AccountBody) -> Json:
        """Let somebody in."""
        password = body.password.get_secret_value() if body.password is not None else None
        return Json(_account(service.accounts.add(body.name, _grants(body.grants), password, who)), 201)

    @routes.get("/accounts/{name}", tags=["accounts"], responses={200: {"model": give.Account}})
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def account(name: Name) -> Json:
        """One account."""
        return Json(_account(service.accounts.get(name)))

    @routes.patch("/accounts/{name}", tags=["accounts"], responses={200: {"model": give.Account}})
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def change_account(who: Who, name: Name, body: AccountChange) -> Json:
        """Change what it may do, or keep it out."""
        grants = _grants(body.grants) if body.grants is not None else None
        return Json(_account(service.accounts.change(name, grants=grants, disabled=body.disabled, by=who)))

    @routes.put("/accounts/{name}/password", status_code=204, tags=["accounts"], responses=EMPTY)
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def set_password(who: Who, name: Name, body: PasswordBody) -> Response:
        """Set its password, and end its sessions."""
        service.accounts.set_password(name, body.password.get_secret_value(), who)
        return Response(status_code=204)

    @routes.delete("/accounts/{name}", status_code=204, tags=["accounts"], responses=EMPTY)
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def remove_account(who: Who, name: Name) -> Response:
        """Remove it, with its tokens and sessions."""
        service.accounts.remove(name, who)
        return Response(status_code=204)

    @routes.get("/tokens", tags=["tokens"], responses={200: {"model": give.Page[give.Token]}})
    @needs(Role.VIEWER, Scope.SOMEWHERE)
    def list_tokens(who: Who, limit: Limit = cursors.MOST, cursor: Cursor = None) -> Json:
        """Tokens without their secrets, newest first: an admin's list has all, another's their own."""
        everything = who.may(Role.ADMIN, None)
        # A token of the installation itself has no owner, and its actor's name is no account's.
        found = [one for one in service.accounts.tokens(None if everything else who.name) if everything or one.owner]
        rows = sorted((_token(one) for one in found), key=_token_place, reverse=True)
        before = cursors.read("tokens", cursor)
        if before is not None:
            rows = [row for row in rows if _token_place(row) < before]
        return Json(cursors.page("tokens", rows, limit, _token_place))

    @routes.post("/tokens", status_code=201, tags=["tokens"], responses={201: {"model": give.NewToken}})
    @needs(Role.VIEWER, Scope.SOMEWHERE, secret=("token",))
    def issue_token(who: Who, body: TokenBody) -> Json:
        """Make a token. Its text is shown this once."""
        info, text = service.accounts.issue(body.name, _grants(body.grants), body.expires, who, body.owner)
        return Json({**_token(info), "token": text}, 201, {"Cache-Control": "no-store"})

    @routes.delete("/tokens/{id}", status_code=204, tags=["tokens"], responses=EMPTY)
    @needs(Role.VIEWER, Scope.SOMEWHERE)
    def revoke_token(who: Who, id: TokenId) -> Response:
        """End a token, at once: one's own, or as an admin any."""
        service.accounts.revoke(id, who)
        return Response(status_code=204)

    @routes.post("/links", status_code=201, tags=["accounts"], responses={201: {"model": give.Link}})
    @needs(Role.ADMIN, Scope.INSTALLATION, secret=("url",))
    def new_link(who: Who, body: LinkBody) -> Json:
        """A link that logs a browser in once, within ten minutes."""
        secret = service.accounts.new_link(body.name, [Grant.parse(body.role)], who)
        said = {"url": f"{origin}/login/link?secret={secret}", "expires": service.now() + LINK_LASTS}
        return Json(said, 201, {"Cache-Control": "no-store"})

    @routes.get("/approvals", tags=["approvals"], responses={200: {"model": give.Page[give.Approval]}})
    @needs(Role.VIEWER, Scope.SOMEWHERE)
    def list_approvals(
        who: Who,
        waiting: Annotated[bool, Query(description="Only those that wait.")] = False,
        limit: Limit = cursors.USUAL,
        cursor: Cursor = None,
    ) -> Json:
        """The approvals that the asker may see, newest first."""
        rows = cursors.seen(
            service.approvals.page,
            lambda row: int(row["approval"]),
            lambda row: (
                who.sees(EnvKey(row["service"], row["environment"])) and (not waiting or row["state"] == "waiting")
            ),
            limit,
            cursors.number("approvals", cursor),
        )
        return Json(cursors.page("approvals", rows, limit, lambda row: row["approval"]))

    @routes.get("/approvals/{id}", tags=["approvals"], responses={200: {"model": give.Approval}})
    @needs(Role.VIEWER, Scope.APPROVAL)
    def approval(id: Id) -> Json:
        """One approval."""
        return Json(service.approvals.get(id))

    @routes.post("/approvals/{id}/approve", tags=["approvals"], responses={200: {"model": give.Rollout}})
    @needs(Role.OPERATOR, Scope.APPROVAL)
    def approve(who: Who, id: Id) -> Json:
        """Begin the rollout. Wants the role that the approval names; never one's own."""
        return Json(service.rollout(service.approvals.approve(id, who).id))

    @routes.post("/approvals/{id}/reject", tags=["approvals"], responses={200: {"model": give.Approval}})
    @needs(Role.OPERATOR, Scope.APPROVAL)
    def reject(who: Who, id: Id, body: RejectBody) -> Json:
        """Say no, or take one's own back."""
        service.approvals.reject(id, who, body.why)
        return Json(service.approvals.get(id))

    @routes.get("/audit", tags=["audit"], responses={200: {"model": give.Page[give.AuditEntry]}})
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def audit(
        key: Annotated[str | None, Query(max_length=200, description="Only what was done to this.")] = None,
        limit: Limit = cursors.USUAL,
        cursor: Cursor = None,
    ) -> Json:
        """Who did what, newest first."""
        rows = service.audit.page(limit + 1, cursors.number("audit", cursor), key)
        return Json(cursors.page("audit", rows, limit, lambda row: row["seq"]))

    @routes.get("/audit/verification", tags=["audit"], responses={200: {"model": give.Verified}})
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def verify_audit() -> Json:
        """Look at the whole chain: is the log what was written?"""
        return Json(asdict(service.audit.verify()))

    return routes


def _grants(texts: list[str]) -> list[Grant]:
    return [Grant.parse(text) for text in texts]


def _account(account: Account) -> dict[str, Any]:
    return {**asdict(account), "grants": [str(grant) for grant in account.grants]}


def _token(token: TokenInfo) -> dict[str, Any]:
    return {**asdict(token), "grants": [str(grant) for grant in token.grants]}


def _token_place(row: dict[str, Any]) -> str:
    return f"{row['created']:020.6f} {row['id']}"
