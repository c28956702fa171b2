"""The checks of `crossfade.yaml`, as validated values, and what its mappings are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from crossfade.domain.health import Check, Expectation
from crossfade.spec import scalars
from crossfade.spec.scalars import Kind, Words


class Part(BaseModel):
    """Base of all mappings: a key that is not known is refused, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class JsonExpectation(Part):
    """What is expected at one JSON path."""

    equals: Annotated[str | int | float | bool | None, scalars.PLAIN] = None
    minimum: Annotated[float | None, scalars.NUMBER] = Field(default=None, alias="min")
    maximum: Annotated[float | None, scalars.NUMBER] = Field(default=None, alias="max")
    absent: Annotated[bool, scalars.FLAG] = False

    def expectation(self, path: str) -> Expectation:
        return Expectation(path, self.equals, self.minimum, self.maximum, not self.absent)


@dataclass(frozen=True)
class Short:
    """A value of ``kind``, which is of no other type than ``types``, stands for a mapping with that value under ``key``."""

    key: str
    kind: Kind
    types: tuple[type, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def widen(value: Any) -> Any:
            return {self.key: value} if isinstance(value, self.types) else value

        return core_schema.no_info_before_validator_function(widen, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [dict(self.kind.schema), handler(core)]}


Expected = Annotated[
    JsonExpectation,
    Short("equals", scalars.PLAIN, (str, int, float)),
    Words("text, a number, true or false, or a mapping of min, max, equals, absent"),
]


class CheckPart(Part):
    """A health check."""

    name: Annotated[str, scalars.LABEL]
    path: Annotated[str, scalars.PATH]
    method: Annotated[str, scalars.METHOD] = "GET"
    send_headers: dict[Annotated[str, scalars.HEADER_NAME], Annotated[str, scalars.HEADER_VALUE]] = Field(
        default_factory=dict
    )
    send_body: Annotated[str, scalars.BODY] = ""
    status: Annotated[tuple[int, ...], scalars.STATUS] = (200,)
    # `json` is the name of a method of BaseModel.
    expects: dict[Annotated[str, scalars.JSON_PATH], Expected] = Field(default_factory=dict, alias="json")
    body: Annotated[str, scalars.EXPRESSION] = ""
    headers: dict[Annotated[str, scalars.HEADER_NAME], Annotated[str, scalars.EXPRESSION]] = Field(default_factory=dict)
    max_latency: Annotated[float | None, scalars.duration("1ms", "5m")] = None
    timeout: Annotated[float, scalars.duration("10ms", "5m")] = 5.0

    def check(self, capture: Mapping[str, str] | None = None) -> Check:
        return Check(
            name=self.name,
            path=self.path,
            method=self.method,
            send_headers=tuple(self.send_headers.items()),
            send_body=self.send_body,
            status=self.status,
            json=tuple(expected.expectation(path) for path, expected in self.expects.items()),
            body=self.body,
            headers=tuple(self.headers.items()),
            max_latency=self.max_latency,
            timeout=self.timeout,
            capture=tuple((capture or {}).items()),
        )


class FlowCheckPart(CheckPart):
    """A check of a flow: it may capture what later checks send."""

    capture: dict[Annotated[str, scalars.CAPTURE_NAME], Annotated[str, scalars.CAPTURE]] = Field(default_factory=dict)


CHECKS = Words("a list of at least one check")
