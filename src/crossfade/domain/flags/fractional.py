"""flagd's ``fractional`` as closures: shares and hashes that are known at load are worked out there."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from crossfade.domain.flags import bucketing
from crossfade.domain.flags.bucketing import HEADS, murmur
from crossfade.domain.flags.closures import Constant, Function, Node, function
from crossfade.domain.flags.model import TARGETING_KEY, Json
from crossfade.domain.flags.operators import measure, text


def compiled(args: Sequence[Node], seeded: tuple[str, str] | None, flag_key: str, version: int) -> Function:
    """On the context itself. ``seeded``: the text and the attribute that are hashed, where it is these two in a row."""
    shares = [arg.value for arg in args if isinstance(arg, Constant)]
    if args and len(shares) == len(args) and isinstance(args[0], Constant):
        return _constant(shares, flag_key, version)
    if len(shares) == len(args) - 1 and not isinstance(args[0], Constant) and (known := _shares(shares, version)):
        by = function(args[0])
        if version == 3 and seeded is not None:
            return _seeded(seeded, *known)
        return _by_value(by, shares, flag_key, version, known)
    functions = tuple(map(function, args))

    def anything(data: Any, call: Any) -> Json:
        return apply([one(data, call) for one in functions], flag_key, data.get(TARGETING_KEY), version)

    return anything


def on_items(args: Sequence[Node], version: int) -> Function:
    """On the item of a loop, of which only an object can have keys to hash."""
    functions = tuple(map(function, args))

    def anything(data: Any, call: Any) -> Json:
        values = [one(data, call) for one in functions]
        call.spend(sum(map(measure, values)))
        if not values or not _short(values[0], version):
            return apply(values, "", None, version)
        return apply(values, data.get("$flagd", {}).get("flagKey", ""), data.get(TARGETING_KEY), version)

    return anything


def apply(values: Sequence[Json], flag_key: str, targeting_key: Json, version: int) -> Json:
    """The operator as flagd describes it; None for whatever is not as it should be."""
    if not values:
        return None
    if _short(values[0], version):
        hashed = bucketing.short_hash(flag_key, targeting_key, version)
    else:
        hashed, values = bucketing.hash_of(values[0], version), values[1:]
    pairs = _pairs(values)
    if hashed is None or pairs is None:
        return None
    return bucketing.choose(hashed, [variant for variant, _ in pairs], [weight for _, weight in pairs], version)


def _short(first: Json, version: int) -> bool:
    """Whether nothing says what to hash. Versions 1 and 2 hash texts alone, and take all else for a share."""
    return isinstance(first, list) if version == 3 else not isinstance(first, str)


def _pairs(shares: Sequence[Json]) -> list[tuple[Json, int]] | None:
    pairs: list[tuple[Json, int]] = []
    for share in shares:
        if not isinstance(share, list) or not 1 <= len(share) <= 2:
            return None
        weight = share[1] if len(share) == 2 else 1
        if isinstance(weight, bool) or not isinstance(weight, int):
            return None
        pairs.append((share[0], max(0, weight)))
    return pairs


_Shares = tuple[tuple[Json, ...], tuple[int | float, ...], int]
"""Variants, where the share of each ends, and the total weight."""


def _shares(given: Sequence[Json], version: int) -> _Shares | None:
    pairs = _pairs(given)
    if pairs is None:
        return None
    weights = [weight for _, weight in pairs]
    ends = bucketing.ends_of(weights, version)
    return None if ends is None else (tuple(variant for variant, _ in pairs), ends, sum(weights))


def _constant(shares: Sequence[Json], flag_key: str, version: int) -> Function:
    known = _shares(shares, version)
    if known is None or not _short(shares[0], version):
        # Either it comes to nothing, or all are in one bucket: quick enough.
        return lambda data, call: apply(shares, flag_key, data.get(TARGETING_KEY), version)
    if version == 3 and (prefix := bucketing.short_prefix(flag_key)) is not None:
        return _short_form(prefix, *known)
    variants, ends, total = known
    place, short_hash = bucketing.place, bucketing.short_hash
    # Version 1 can fall beside all shares.
    found = (*variants, None)

    def older(data: Any, _call: Any) -> Json:
        hashed = short_hash(flag_key, data.get(TARGETING_KEY), version)
        return None if hashed is None else found[bisect_right(ends, place(hashed, total, version))]

    return older


def _short_form(prefix: bytes, variants: tuple[Json, ...], ends: tuple[int | float, ...], total: int) -> Function:
    text_hash = bucketing.text_hash

    def short(data: Any, _call: Any) -> Json:
        key = data.get(TARGETING_KEY)
        if not isinstance(key, str) or not key:
            return None
        if key.isascii() and (size := len(key)) < 256:
            hashed = murmur(prefix + HEADS[size] + key.encode())
        elif (other := text_hash(prefix, key)) is not None:
            hashed = other
        else:
            return None
        return variants[bisect_right(ends, (hashed * total) >> 32)]

    return short


def _seeded(seeded: tuple[str, str], variants: tuple[Json, ...], ends: tuple[int | float, ...], total: int) -> Function:
    seed, name = seeded
    start, most = seed.encode(errors="replace"), 255 - len(seed)
    text_hash = bucketing.text_hash
    quick = seed.isascii()

    def seeding(data: Any, _call: Any) -> Json:
        key = data.get(name)
        if quick and key.__class__ is str and key.isascii() and (size := len(key)) <= most:
            hashed = murmur(HEADS[len(start) + size] + start + key.encode())
        elif (other := text_hash(b"", seed + text(key))) is not None:
            hashed = other
        else:
            return None
        return variants[bisect_right(ends, (hashed * total) >> 32)]

    return seeding


def _by_value(by: Function, shares: Sequence[Json], flag_key: str, version: int, known: _Shares) -> Function:
    hash_of, place = bucketing.hash_of, bucketing.place
    variants, ends, total = known
    # Version 1 can fall beside all shares.
    found = (*variants, None)

    def by_value(data: Any, call: Any) -> Json:
        value = by(data, call)
        if _short(value, version):
            return apply([value, *shares], flag_key, data.get(TARGETING_KEY), version)
        hashed = hash_of(value, version)
        return None if hashed is None else found[bisect_right(ends, place(hashed, total, version))]

    return by_value
