"""The models as a tree of keys: which keys there are at a place, which are required, and what is allowed there."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag

from crossfade.spec.scalars import Kind, Words

Path = tuple[str | int, ...]

FREE = "metrics"
"""A key whose free names may also stand beside it, where no other key has the name."""


@dataclass(frozen=True)
class Shape:
    """One place in the file. A mapping has ``keys`` (or, told apart by ``kind:``, ``variants``), a list or a mapping
    with free names has ``each``, and a scalar has none of them. ``model`` is the mapping's class.
    """

    allowed: str
    required: bool = False
    default: Any = None
    scalar: Kind | None = None
    keys: Mapping[str, Shape] = field(default_factory=dict)
    variants: Mapping[str, Shape] = field(default_factory=dict)
    each: Shape | None = None
    listed: bool = False
    model: type[BaseModel] | None = None

    def inside(self, data: Any) -> Shape:
        """For a mapping with variants, the one that ``data`` names (the first when it names none that is known)."""
        if not self.variants:
            return self
        named = data.get("kind") if isinstance(data, dict) else None
        return self.variants.get(named if isinstance(named, str) else "", next(iter(self.variants.values())))

    def at(self, path: Path, data: Any) -> Shape | None:
        """The place at ``path`` in ``data``; None where no key is known."""
        here: Shape | None = self
        for step in path:
            if here is None:
                return None
            here = here.inside(data)
            free = here.keys[FREE].each if FREE in here.keys else None
            here = (
                here.each if here.each is not None else here.keys.get(str(step), free if _named(data, step) else None)
            )
            data = _step(data, step)
        return here

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Shape]]:
        """Every place below, parents first, with its path: ``*`` stands for a free name, ``[]`` for an item of a list.

        The places of variants have the same paths; what both have comes twice.
        """
        yield path, self
        for variant in self.variants.values():
            for name, key in variant.keys.items():
                yield from key.walk((*path, name))
        for name, key in self.keys.items():
            yield from key.walk((*path, name))
        if self.each is not None:
            yield from self.each.walk((*path, "[]" if self.listed else "*"))


def _named(data: Any, step: str | int) -> bool:
    """Whether a free name is meant: it has a signal."""
    found = _step(data, step)
    return isinstance(found, dict) and "signal" in found


def _step(data: Any, step: str | int) -> Any:
    try:
        return data[step]
    except (KeyError, IndexError, TypeError):
        return None


@cache
def shape_of(model: type[BaseModel]) -> Shape:
    """The keys of a mapping's class."""
    keys: dict[str, Shape] = {}
    for name, info in model.model_fields.items():
        annotation: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        inner = _shape(annotation)
        default = info.get_default(call_default_factory=True, validated_data={}) if not info.is_required() else None
        keys[info.alias or name] = Shape(
            inner.allowed, info.is_required(), default, inner.scalar, inner.keys, inner.variants, inner.each,
            inner.listed, inner.model,
        )  # fmt: skip
    return Shape(f"a mapping of {', '.join(keys)}", keys=keys, model=model)


def _shape(annotation: Any) -> Shape:
    words = ""
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        for extra in metadata:
            if isinstance(extra, Kind):
                return Shape(extra.allowed, scalar=extra)
            if isinstance(extra, Words):
                words = extra.allowed
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        each = _shape(arguments[0])
        return Shape(words or "a list", each=each, listed=True)
    if origin is dict:
        each = _shape(arguments[1])
        return Shape(words or "a mapping of names to values", each=each)
    if origin in (Union, types.UnionType) and type(None) in arguments:
        return _shape(Annotated[next(a for a in arguments if a is not type(None)), Words(words)])
    if origin in (Union, types.UnionType):
        variants = {}
        for argument in arguments:
            inner, *metadata = get_args(argument)
            tag = next(extra.tag for extra in metadata if isinstance(extra, Tag))
            variants[tag] = _shape(inner)
        return Shape(words, variants=variants)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        found = shape_of(annotation)
        return Shape(words or found.allowed, keys=found.keys, model=annotation)
    return Shape(" or ".join(str(argument) for argument in arguments))  # a Literal: the kind of a strategy
