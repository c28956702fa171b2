"""Routes of an environment's flags, their versions, and requests for changes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import Response
from pydantic import Field

from crossfade.api import cursors
from crossfade.api import flag_answers as give
from crossfade.api.answers import Page
from crossfade.api.cursors import Cursor, Limit
from crossfade.api.environments import EnvironmentName, ServiceName
from crossfade.api.guard import GuardedRoute, Scope, Who, named, needs
from crossfade.api.models import Body, By, Line, RejectBody
from crossfade.api.problems import Json
from crossfade.domain.access import Role
from crossfade.domain.errors import Invalid
from crossfade.domain.values import EnvKey
from crossfade.service import Service
from crossfade.service.flags import done

FlagKey = Annotated[str, Path(max_length=200, description="The key of a flag.", examples=["new-checkout"])]
Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="A version of the flags.", examples=[7])]
RequestId = Annotated[int, Path(ge=1, le=2**31 - 1, description="The number of a change request.", examples=[3])]
Expects = Annotated[
    int | None,
    Field(
        ge=0,
        le=2**31 - 1,
        description="The version that this was decided upon: refused when the flag has changed since.",
        examples=[7],
    ),
]
Note = Annotated[str, Field(max_length=500, description="Why, for those who look later.", examples=["ticket 42"])]
DryRun = Annotated[bool, Field(description="Only say what it would change.", examples=[True])]
FLAG: dict[str, Any] = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}


class FlagBody(Body):
    """A flag as it is to be. Whether it is killed stays as it is."""

    flag: dict[str, Any] = Field(description="Its data, as in a flag set.", examples=[FLAG])
    expects: Expects = None
    note: Note = ""
    by: By = ""


class FlagCommand(Body):
    """A command for a flag. `kill` and `revive` never wait for anybody's approval."""

    command: Literal["kill", "revive", "enable", "disable", "pause", "resume", "shares"] = Field(
        description="What to do; `pause` and `resume` are for a rule, `shares` is for a rule that splits.",
        examples=["kill"],
    )
    why: Line = Field(default="", description="With kill: the reason.", examples=["it doubles orders"])
    rule: Line = Field(default="", description="The rule's name.", examples=["ramp"])
    shares: dict[Annotated[str, Field(max_length=200)], int] = Field(
        default_factory=dict,
        max_length=100,
        description="With shares: basis points of variants; the others stay as they are.",
        examples=[{"on": 1000}],
    )
    by: By = ""


class PromotionBody(Body):
    """Make a flag in another environment what it is here."""

    to: str = Field(description="Another environment of the service.", examples=["production"])
    dry_run: DryRun = False
    note: Note = ""
    by: By = ""


class ContextBody(Body):
    """Who asks."""

    context: dict[str, Any] = Field(description="The evaluation context.", examples=[{"targetingKey": "user-1"}])


class PreviewBody(Body):
    """A flag that is not saved, and whom to try it on."""

    flag: dict[str, Any] = Field(description="Its data, as in a flag set.", examples=[FLAG])
    contexts: list[dict[str, Any]] = Field(
        default_factory=list, max_length=100, description="Contexts to try.", examples=[[{"targetingKey": "user-1"}]]
    )


class ImportBody(Body):
    """Flags of a file, of flagd's or ours."""

    document: dict[str, Any] = Field(description="The flag set.", examples=[{"flags": {"new-checkout": FLAG}}])
    replace: bool = Field(
        default=False, description="In place of all flags that there are, not beside them.", examples=[False]
    )
    dry_run: DryRun = False
    note: Note = ""
    by: By = ""


class RestoreBody(Body):
    """Write a version again."""

    note: Note = ""
    by: By = ""


class SettingsBody(Body):
    """Whose word changes wait for."""

    approval: Role | None = Field(description="The role of the second person; null: nobody's.", examples=["operator"])


class DecisionBody(Body):
    """Say yes."""

    by: By = ""


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=GuardedRoute, tags=["flags"])
    place = "/environments/{service_name}/{environment}"
    one = place + "/flags/{flag:path}"  # a key may have slashes in it, as those of flagd's files have

    @routes.get(f"{place}/flags", responses={200: {"model": give.FlagList}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def flags(
        service_name: ServiceName,
        environment: EnvironmentName,
        tag: Annotated[str | None, Query(max_length=200, description="Only with this tag.", examples=["shop"])] = None,
        owner: Annotated[str | None, Query(max_length=200, description="Only of this owner.", examples=["ada"])] = None,
        stale: Annotated[bool, Query(description="Only those that could go.")] = False,
        limit: Limit = cursors.USUAL,
        cursor: Cursor = None,
    ) -> Json:
        """Its flags, by key, with the version that is served."""
        after = cursors.read("flags", cursor) or ""
        view = service.flags.view(EnvKey(service_name, environment))
        rows = [
            row
            for row in view.pop("flags")
            if row["key"] > after
            and (tag is None or tag in row["tags"])
            and owner in (None, row["owner"])
            and (not stale or row["stale"] is not None)
        ]
        return Json({**view, **cursors.page("flags", rows, limit, lambda row: row["key"])})

    @routes.get(one, responses={200: {"model": give.Flag}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def flag(service_name: ServiceName, environment: EnvironmentName, flag: FlagKey) -> Json:
        """One flag, and what is known of it."""
        return Json(service.flags.flag(EnvKey(service_name, environment), flag))

    @routes.put(one, responses={200: {"model": give.Changed}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def save(who: Who, service_name: ServiceName, environment: EnvironmentName, flag: FlagKey, body: FlagBody) -> Json:
        """Make or change a flag."""
        key, by = EnvKey(service_name, environment), named(who, body.by)
        return Json(done(service.flags.save(key, flag, body.flag, by, body.expects, body.note)))

    @routes.delete(one, responses={200: {"model": give.Changed}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def remove(
        who: Who,
        service_name: ServiceName,
        environment: EnvironmentName,
        flag: FlagKey,
        expects: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="As of a change.")] = None,
    ) -> Json:
        """Take a flag away. Refused while others require it, or it is ramped or tried."""
        return Json(done(service.flags.remove(EnvKey(service_name, environment), flag, who, expects)))

    @routes.post(f"{one}/commands", responses={200: {"model": give.Changed}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def command(
        who: Who, service_name: ServiceName, environment: EnvironmentName, flag: FlagKey, body: FlagCommand
    ) -> Json:
        """Kill, revive, enable or disable it; pause or resume a rule; set a rule's shares."""
        key, by, use = EnvKey(service_name, environment), named(who, body.by), service.flags
        match body.command:
            case "kill":
                return Json(done(use.kill(key, flag, body.why, by)))
            case "revive":
                return Json(done(use.revive(key, flag, by)))
            case "enable" | "disable":
                return Json(done(use.switch(key, flag, body.command == "enable", by)))
            case "pause" | "resume":
                return Json(done(use.pause_rule(key, flag, body.rule, body.command == "pause", by)))
            case "shares":
                return Json(done(use.set_shares(key, flag, body.rule, body.shares, by)))

    @routes.post(f"{one}/promotions", responses={200: {"model": give.Brought}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def promote(
        who: Who, service_name: ServiceName, environment: EnvironmentName, flag: FlagKey, body: PromotionBody
    ) -> Json:
        """Make it in another environment what it is here. Wants an operator there."""
        key, to, by = EnvKey(service_name, environment), EnvKey(service_name, body.to), named(who, body.by)
        return Json(service.flags.promote(key, flag, to, by, dry_run=body.dry_run, note=body.note))

    @routes.post(f"{one}/why", responses={200: {"model": give.Why}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def why(service_name: ServiceName, environment: EnvironmentName, flag: FlagKey, body: ContextBody) -> Json:
        """What somebody gets of it, and each step that led there."""
        return Json(service.flags.why(EnvKey(service_name, environment), flag, body.context))

    @routes.post(f"{one}/preview", responses={200: {"model": give.Preview}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def preview(service_name: ServiceName, environment: EnvironmentName, flag: FlagKey, body: PreviewBody) -> Json:
        """Who would get what if the flag were this: of these contexts, of those seen lately, and of made-up people."""
        return Json(service.flags.preview(EnvKey(service_name, environment), flag, body.flag, body.contexts))

    @routes.get(f"{place}/flag-set", responses={200: {"model": give.FlagSet}, 304: {"description": "Still the same."}})
    @needs(Role.VIEWER, Scope.FLAG_SET)
    def flag_set(
        service_name: ServiceName,
        environment: EnvironmentName,
        if_none_match: Annotated[str | None, Header(max_length=1000, description="The `ETag` that is known.")] = None,
    ) -> Response:
        """All flags, for a provider that evaluates by itself. A replica may use its `CROSSFADE_FLAGS_TOKEN`."""
        serving = service.flags.serving(EnvKey(service_name, environment))
        headers = {"ETag": serving.etag, "Cache-Control": "no-cache"}
        if serving.stale_since is not None:
            headers["Age"] = str(int(serving.age(service.now())))
        known = [one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")]
        if serving.etag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(serving.body, media_type="application/json", headers=headers)

    @routes.get(f"{place}/flag-export", responses={200: {"model": dict[str, Any]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def export(
        service_name: ServiceName,
        environment: EnvironmentName,
        plain: Annotated[bool, Query(description="As any evaluator of flagd takes it.")] = False,
    ) -> Json:
        """All flags as a file."""
        return Json(service.flags.export(EnvKey(service_name, environment), plain))

    @routes.post(f"{place}/flag-imports", responses={200: {"model": give.Brought}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def bring(who: Who, service_name: ServiceName, environment: EnvironmentName, body: ImportBody) -> Json:
        """Take the flags of a file, beside those that there are or in place of them."""
        key, by = EnvKey(service_name, environment), named(who, body.by)
        return Json(service.flags.bring(key, body.document, body.replace, body.dry_run, by, body.note))

    @routes.get(f"{place}/flag-versions", responses={200: {"model": Page[give.FlagVersion]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def versions(
        service_name: ServiceName, environment: EnvironmentName, limit: Limit = cursors.USUAL, cursor: Cursor = None
    ) -> Json:
        """Its versions, newest first."""
        before = cursors.number("flag-versions", cursor)
        rows = service.flags.versions(EnvKey(service_name, environment), limit + 1, before)
        return Json(cursors.page("flag-versions", rows, limit, lambda row: row["version"]))

    @routes.get(f"{place}/flag-versions/{{number}}", responses={200: {"model": give.FlagVersionDetail}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def version(service_name: ServiceName, environment: EnvironmentName, number: Number) -> Json:
        """One version, with all its flags."""
        return Json(service.flags.version(EnvKey(service_name, environment), number))

    @routes.post(f"{place}/flag-versions/{{number}}/restore", responses={200: {"model": give.Changed}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def restore(
        who: Who, service_name: ServiceName, environment: EnvironmentName, number: Number, body: RestoreBody
    ) -> Json:
        """Write a version again, as the newest. Flags that are killed stay so."""
        key, by = EnvKey(service_name, environment), named(who, body.by)
        return Json(done(service.flags.restore(key, number, by, body.note)))

    @routes.get(f"{place}/flag-changes", responses={200: {"model": Page[give.Difference]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def compare(
        service_name: ServiceName,
        environment: EnvironmentName,
        old: Annotated[int, Query(alias="from", ge=0, le=2**31 - 1, description="A version; 0: none.", examples=[1])],
        new: Annotated[int, Query(alias="to", ge=0, le=2**31 - 1, description="Another.", examples=[2])],
    ) -> Json:
        """What differs between two versions."""
        return Json(cursors.whole(service.flags.compare(EnvKey(service_name, environment), old, new)))

    @routes.get(f"{place}/flag-settings", responses={200: {"model": give.FlagSettings}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def settings(service_name: ServiceName, environment: EnvironmentName) -> Json:
        """Whose word changes wait for."""
        return Json(service.flags.settings(EnvKey(service_name, environment)))

    @routes.put(f"{place}/flag-settings", responses={200: {"model": give.FlagSettings}})
    @needs(Role.ADMIN, Scope.ENVIRONMENT)
    def set_settings(who: Who, service_name: ServiceName, environment: EnvironmentName, body: SettingsBody) -> Json:
        """Let changes wait for somebody else's word, or not."""
        return Json(service.flags.set_settings(EnvKey(service_name, environment), body.approval, who))

    @routes.get("/flag-requests", responses={200: {"model": Page[give.FlagRequest]}})
    @needs(Role.VIEWER, Scope.SOMEWHERE)
    def list_requests(
        who: Who,
        waiting: Annotated[bool, Query(description="Only those that wait.")] = False,
        service_name: Annotated[
            str | None, Query(alias="service", max_length=50, description="With environment.")
        ] = None,
        environment: Annotated[str | None, Query(max_length=50, description="With service.")] = None,
        limit: Limit = cursors.USUAL,
        cursor: Cursor = None,
    ) -> Json:
        """The changes that were asked for, newest first, where the asker may see them."""
        if (service_name is None) != (environment is None):
            raise Invalid("environment", environment, "service and environment together, or neither")
        key = EnvKey(service_name, environment) if service_name is not None and environment is not None else None
        if key is not None:
            who.require(Role.VIEWER, key)
        rows = cursors.seen(
            lambda size, before: service.flags.requests(key, waiting=waiting, limit=size, before=before),
            lambda row: int(row["request"]),
            lambda row: who.sees(EnvKey(row["service"], row["environment"])),
            limit,
            cursors.number("flag-requests", cursor),
        )
        return Json(cursors.page("flag-requests", rows, limit, lambda row: row["request"]))

    @routes.get("/flag-requests/{id}", responses={200: {"model": give.FlagRequest}})
    @needs(Role.VIEWER, Scope.FLAG_REQUEST)
    def request(id: RequestId) -> Json:
        """One change that was asked for, with what it changes."""
        return Json(service.flags.request(id))

    @routes.post("/flag-requests/{id}/approve", responses={200: {"model": give.Changed}})
    @needs(Role.OPERATOR, Scope.FLAG_REQUEST)
    def approve(who: Who, id: RequestId, body: DecisionBody) -> Json:
        """Make the change; never one's own. Refused when the same flag has changed since."""
        return Json(done(service.flags.approve(id, named(who, body.by))))

    @routes.post("/flag-requests/{id}/reject", responses={200: {"model": give.FlagRequest}})
    @needs(Role.OPERATOR, Scope.FLAG_REQUEST)
    def reject(who: Who, id: RequestId, body: RejectBody) -> Json:
        """Say no, or take one's own back."""
        return Json(service.flags.reject(id, body.why, who))

    return routes
