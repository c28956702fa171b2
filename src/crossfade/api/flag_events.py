"""The route by which applications tell of their flags."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from crossfade.api import flag_answers as give
from crossfade.api.guard import GuardedRoute, Scope, Who, needs
from crossfade.api.models import Body
from crossfade.api.problems import Json
from crossfade.domain.access import Role
from crossfade.domain.errors import Forbidden
from crossfade.domain.values import EnvKey
from crossfade.service import Service
from crossfade.service.flag_events import LONGEST_NAME, LONGEST_TRACK, LONGEST_UNIT, MOST_COUNTED, MOST_TOLD


class Seen(Body):
    """What exposures and tracks have in common."""

    unit: str = Field(min_length=1, max_length=LONGEST_UNIT, description="Who; only a keyed hash of it is kept.",
                      examples=["user-1"])  # fmt: skip
    at: float | None = Field(default=None, strict=True, description="When, epoch seconds; now when absent.")
    release: str = Field(default="", max_length=20, description="The release that served.", examples=["r3"])
    slot: str = Field(default="", max_length=20, description="Its slot.", examples=["green"])


class ExposureBody(Seen):
    """A unit got a variant."""

    flag: str = Field(min_length=1, max_length=LONGEST_NAME, description="The flag.", examples=["new-checkout"])
    variant: str = Field(min_length=1, max_length=LONGEST_NAME, description="What it got.", examples=["on"])
    attributes: dict[str, Any] = Field(
        default_factory=dict,
        description="Of its context; kept is only what an experiment is cut by.",
        examples=[{"country": "de"}],
    )


class TrackBody(Seen):
    """A unit did something."""

    name: str = Field(min_length=1, max_length=LONGEST_TRACK, description="What it did.", examples=["paid"])
    value: float | None = Field(default=None, strict=True, description="Its value, 1 when absent.", examples=[23.5])


class UsageBody(Body):
    """How often a flag came to a variant."""

    flag: str = Field(min_length=1, max_length=LONGEST_NAME, description="The flag.", examples=["new-checkout"])
    variant: str = Field(
        default="", max_length=LONGEST_NAME, description="Empty: the code's own default.", examples=["on"]
    )
    n: int = Field(ge=0, le=10**9, strict=True, description="How often.", examples=[500])
    release: str = Field(default="", max_length=20, description="Which release; without one it says nothing.",
                         examples=["r3"])  # fmt: skip


class FlagEventsBody(Body):
    """A batch: counted all, or none."""

    id: str = Field(default="", max_length=200, description="A name of the batch: sent again, it is not counted again.",
                    examples=["3f6c1a52"])  # fmt: skip
    service: str = Field(description="Name of the service.", examples=["bookshop"])
    environment: str = Field(description="Name of the environment.", examples=["production"])
    exposures: list[ExposureBody] = Field(default_factory=list, max_length=MOST_TOLD, description="Who got what.")
    tracks: list[TrackBody] = Field(default_factory=list, max_length=MOST_TOLD, description="Who did what.")
    usage: list[UsageBody] = Field(default_factory=list, max_length=MOST_COUNTED, description="What was evaluated.")


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter(route_class=GuardedRoute, tags=["flags"])

    @routes.post("/flag-events", responses={200: {"model": give.Counted}})
    @needs(Role.OPERATOR, Scope.EVENTS)
    def post_flag_events(who: Who, body: FlagEventsBody) -> Json:
        """Counts exposures, tracks and evaluations, all of the batch or none. A replica may use its own token."""
        key = EnvKey(body.service, body.environment)
        if who.via == "events":
            if str(key) != who.credential:
                raise Forbidden(f"This token is for events of {who.credential} only.")
        else:
            who.require(Role.OPERATOR, key)
        batch = body.model_dump()
        told = (batch[kind] for kind in ("exposures", "tracks", "usage"))
        return Json(service.flag_events.post(key, body.id, *told))

    return routes
