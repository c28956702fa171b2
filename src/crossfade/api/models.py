"""What the API takes. What it gives is the data that `service` describes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from crossfade.domain.events import MOST_EVENTS
from crossfade.domain.rollout import Command


class Body(BaseModel):
    """Unknown fields are refused: a misspelt one must not be ignored in silence."""

    model_config = ConfigDict(extra="forbid")


class DeployBody(Body):
    """Deploy an uploaded artifact."""

    service: str = Field(description="Name of the service.", examples=["bookshop"])
    environment: str = Field(description="Name of the environment.", examples=["production"])
    digest: str = Field(description="The artifact, as the upload answered.", examples=["sha256:" + "0" * 64])
    config: dict[str, Any] = Field(description="The content of crossfade.yaml as JSON.")
    secrets: dict[str, SecretStr] = Field(default_factory=dict, description="The variables of its env_file.")
    label: str = Field(default="", max_length=200, description="What a person calls this release.", examples=["v2"])
    by: str = Field(default="", max_length=200, description="Who asks.", examples=["ada@laptop"])


class CommandBody(Body):
    """A command for a rollout under way."""

    command: Command
    by: str = Field(default="", max_length=200)


class RollbackBody(Body):
    """Return to an earlier release."""

    to: str | None = Field(default=None, description="A release of the window; the one before when absent.",
                           examples=["r3"])  # fmt: skip
    by: str = Field(default="", max_length=200)


class EventBody(Body):
    """A business event of one release."""

    service: str = Field(description="Name of the service.", examples=["bookshop"])
    environment: str = Field(description="Name of the environment.", examples=["production"])
    name: str = Field(description="What happened: 1 to 40 of a-z, 0-9, '_', '.' and '-'.", examples=["checkout"])
    value: float = Field(default=1.0, strict=True, description="Its value, from -1e12 to 1e12.", examples=[23.5])
    slot: str = Field(default="", max_length=20, description="The slot that served: blue, green or control.",
                      examples=["green"])  # fmt: skip
    release: str = Field(default="", max_length=20, description="The release that served; wins over the slot.",
                         examples=["r3"])  # fmt: skip
    at: float | None = Field(default=None, strict=True, description="When it happened, epoch seconds.")


class EventsBody(Body):
    """A batch of business events: counted all, or none."""

    events: list[EventBody] = Field(min_length=1, max_length=MOST_EVENTS)
    id: str = Field(default="", max_length=200, description="A name of the batch: sent again, it is not counted again.",
                    examples=["3f6c1a52"])  # fmt: skip
