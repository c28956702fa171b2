"""The JSON Schema of `crossfade.yaml` for editors."""

from __future__ import annotations

import inspect
from typing import Any, Final

from pydantic import BaseModel

from crossfade.spec.document import descriptions
from crossfade.spec.shape import FREE, Shape, shape_of

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def for_editors(model: type[BaseModel]) -> dict[str, Any]:
    """What Pydantic knows of the models, with the words of `reference.yaml`, and without what is only its own."""
    generated = model.model_json_schema(by_alias=True)
    classes = {shape.model.__name__: shape for shape in _classes(shape_of(model)) if shape.model is not None}
    definitions = generated.pop("$defs", {})
    for name, definition in definitions.items():
        _describe(definition, classes[name])
    _describe(generated, classes[model.__name__])
    schema: dict[str, Any] = _plain({**generated, "$defs": definitions})
    return {"$schema": DIALECT, **schema, "title": "crossfade.yaml", "description": "One service of Crossfade."}


def _classes(root: Shape) -> list[Shape]:
    found: list[Shape] = []
    for _, shape in root.walk():
        found += [s for s in (shape, *shape.variants.values()) if s.model is not None]
    return found


def _describe(definition: dict[str, Any], shape: Shape) -> None:
    assert shape.model is not None
    definition.pop("title", None)
    definition.pop("description", None)
    if FREE in shape.keys:
        # An editor takes a misspelt key for a metric of one's own, and asks for its signal; the loader knows better.
        (definition["additionalProperties"],) = definition["properties"][FREE]["patternProperties"].values()
    for key, found in definition.get("properties", {}).items():
        found.pop("title", None)
        # A check of a flow is a health check with more keys: what is said of one is true of the other.
        for owner in inspect.getmro(shape.model):
            note = descriptions().get((owner, key))
            if note is not None:
                found["description"] = f"{note.meaning} Allowed: {note.allowed}." if note.allowed else note.meaning
                break
        place = shape.keys[key]
        found.pop("default", None)
        if place.scalar is not None and place.default not in (None, "", ()):
            found["default"] = place.scalar.write(place.default)


def _plain(schema: Any) -> Any:
    """The same without titles, which Pydantic gives to everything, even where a name says it already."""
    if isinstance(schema, dict):
        named = {key: {name: _plain(part) for name, part in schema[key].items()} for key in ("properties", "$defs")
                 if key in schema}  # fmt: skip
        rest = {key: _plain(part) for key, part in schema.items() if key not in (*named, "title", "default")}
        if "patternProperties" in rest:
            rest["additionalProperties"] = False
        return {**rest, **named, **({"default": schema["default"]} if "default" in schema else {})}
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    return schema
