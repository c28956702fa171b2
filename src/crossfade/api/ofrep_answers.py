"""What OFREP answers, as types of the OpenAPI document."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict


class FlagRefusal(TypedDict):
    """Why there is no value. ``key`` where one flag was asked for."""

    key: NotRequired[str]
    errorCode: str
    errorDetails: str
    metadata: NotRequired[dict[str, Any]]


class Evaluated(TypedDict):
    """The value of one flag. Without ``value`` the code's own default is meant."""

    key: str
    reason: str
    variant: str
    value: NotRequired[Any]
    metadata: NotRequired[dict[str, Any]]


class EventStream(TypedDict):
    """Where to hear when to evaluate again; a page that has been in the background for so long closes it."""

    type: str
    url: str
    inactivityDelaySec: int


class EvaluatedAll(TypedDict):
    """All flags: the value of each, or why it has none."""

    flags: list[Evaluated | FlagRefusal]
    metadata: dict[str, Any]
    eventStreams: list[EventStream]
