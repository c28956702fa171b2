"""What the API takes. What it gives is the data that `service` describes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

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
