"""What the API takes. What it gives is in `answers`."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, field_validator

from crossfade.domain.events import MOST_EVENTS
from crossfade.domain.rollout import Command

Line = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Fix = Annotated[Line, Field(description="Why it fixes what has used the error budget up: it goes out all the same.",
                            examples=["closes the connections that r7 leaked"])]  # fmt: skip
Grants = Annotated[list[Annotated[str, StringConstraints(max_length=120)]], Field(max_length=100)]
By = Annotated[Line, Field(description="Who asks; counts for the state folder's own token only.",
                           examples=["ada@laptop"])]  # fmt: skip


class Body(BaseModel):
    """Unknown fields are refused: a misspelt one must not be ignored in silence."""

    model_config = ConfigDict(extra="forbid")


class DeployBody(Body):
    """Deploy an uploaded artifact."""

    service: str = Field(description="Name of the service.", examples=["bookshop"])
    environment: str = Field(description="Name of the environment.", examples=["production"])
    digest: str = Field(description="The artifact, as the upload answered.", examples=["sha256:" + "0" * 64])
    config: dict[str, Any] = Field(
        description="The content of crossfade.yaml as JSON.",
        examples=[{"service": "bookshop", "command": ["./bookshop"], "environments": {"production": {"port": 8080}}}],
    )
    secrets: dict[str, SecretStr] = Field(
        default_factory=dict, description="The variables of its env_file.", examples=[{"API_KEY": "…"}]
    )
    label: Line = Field(default="", description="What a person calls this release.", examples=["v2"])
    fix: Fix = ""
    by: By = ""

    @field_validator("config")
    @classmethod
    def _text(cls, config: dict[str, Any]) -> dict[str, Any]:
        """It must be possible to write it down: no halves of characters, no NaN."""
        try:
            json.dumps(config, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise ValueError("plain JSON: whole characters, finite numbers, not nested too deeply") from None
        return config


class CommandBody(Body):
    """A command for a rollout under way."""

    command: Command = Field(description="What to do.", examples=["promote"])
    by: By = ""


class AgainBody(Body):
    """Roll out a release anew."""

    by: str = Field(default="", max_length=200, description="Who asks.", examples=["ada@laptop"])
    fix: Fix = ""


class RollbackBody(Body):
    """Return to an earlier release."""

    to: str | None = Field(default=None, description="A release of the window; the one before when absent.",
                           examples=["r3"])  # fmt: skip
    by: By = ""


class RejectBody(Body):
    """Say no to a release that waits."""

    why: Line = Field(default="", description="What the one who asked should know.", examples=["not on a Friday"])


class AccountBody(Body):
    """A new account."""

    name: str = Field(max_length=100, description="Its name.", examples=["ada"])
    grants: Grants = Field(description="What it may do, and where.", examples=[["operator@bookshop/production"]])
    password: SecretStr | None = Field(
        default=None, description="10 to 1000 characters; without one, only tokens let it in.", examples=[None]
    )


class AccountChange(Body):
    """What is to be different; what is null stays."""

    grants: Grants | None = Field(default=None, description="In place of all before.", examples=[["viewer"]])
    disabled: bool | None = Field(default=None, description="Keep it out, or let it in again.", examples=[True])


class PasswordBody(Body):
    """A new password."""

    password: SecretStr = Field(description="10 to 1000 characters.", examples=["correct horse battery staple"])


class TokenBody(Body):
    """A new token."""

    name: str = Field(max_length=100, description="What it is for.", examples=["ci"])
    grants: Grants = Field(description="Never more than its owner's.", examples=[["operator@bookshop/*"]])
    expires: float | None = Field(
        default=None, ge=0, le=1e11, allow_inf_nan=False, description="Epoch seconds; null: never.", examples=[None]
    )
    owner: str | None = Field(
        default=None, max_length=100, description="An account; the asker's own when null.", examples=[None]
    )


class LinkBody(Body):
    """A way in for a browser."""

    role: str = Field(max_length=120, description="What it may do: a role, or a grant.", examples=["viewer"])
    name: str = Field(max_length=200, description="Whose it is.", examples=["ada@laptop"])


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
