"""Flags of an installation without an engine: a release is live in production, and one in staging."""

from __future__ import annotations

from typing import Any

from crossfade.domain.release import BlueGreen
from crossfade.domain.rollout import Kind, Plan
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Digest, EnvKey
from crossfade.ports.flags import ChangeRequest, FlagVersion
from crossfade.service.flags import Flags
from tests.service.stage import KEY, STAGING, Stage, person

BOB = person("bob", "operator@bookshop/*")
BOTH = {"on": True, "off": False}
OFF: dict[str, Any] = {"state": "ENABLED", "variants": BOTH, "defaultVariant": "off"}
ON: dict[str, Any] = {**OFF, "defaultVariant": "on"}
SPLIT: dict[str, Any] = {
    **OFF,
    "crossfade": {"rules": [{"name": "ramp", "serve": {"split": {"shares": {"on": 1000}, "rest": "off"}}}]},
}
REQUIRING: dict[str, Any] = {**OFF, "crossfade": {"requires": [{"flag": "a", "variants": ["on"]}]}}


def flag_stage() -> Stage:
    """What the module says."""
    stage = Stage()
    for key in (KEY, STAGING):
        settle(stage, key)
    return stage


def settle(stage: Stage, key: EnvKey = KEY) -> None:
    """A new release is live there."""
    store = stage.parts.store
    release = store.add_release(key, Digest("sha256:" + "a" * 64), stage.config, "", stage.now)
    plan = Plan(key, Kind.DEPLOY, release.number, None, Slot.BLUE, BlueGreen())
    stage.finish(store.begin(plan, "ada", stage.now))


def served(flags: Flags, name: str = "a", key: EnvKey = KEY, **context: Any) -> str | None:
    """The variant that a context gets."""
    return flags.serving(key).evaluator.evaluate(name, context, 0.0).variant


def written(made: FlagVersion | ChangeRequest) -> FlagVersion:
    """The change was made."""
    assert isinstance(made, FlagVersion)
    return made


def waits(made: FlagVersion | ChangeRequest) -> ChangeRequest:
    """The change waits."""
    assert isinstance(made, ChangeRequest)
    return made
