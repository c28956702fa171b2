"""Which bucket something falls into: the three hashes that evaluators of flagd have had, and ``fractional`` on them.

All are MurmurHash3 (x86, 32 bits, seed 0). Version 1 hashes the text and takes the share of the greatest signed number,
version 2 takes the product of hash and total weight by its upper half, and version 3 does so over deterministic CBOR
(RFC 8949, 4.2) of any value, in which a whole float is the integer that it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

import cbor2
import mmh3

from crossfade.domain.flags.model import Json
from crossfade.domain.flags.operators import TooLarge, bounded
from crossfade.domain.flags.survey import MOST_WEIGHT

MOST_POSITIVE: Final = 2**31 - 1

HEADS: Final = tuple(bytes([0x60 + n]) if n < 24 else bytes([0x78, n]) for n in range(256))
"""What stands before a text of so many bytes in CBOR."""

murmur: Final[Callable[[bytes], int]] = mmh3.mmh3_32_uintdigest


def hash_of(value: Json, version: int) -> int | None:
    """The 32 bits of a value; None for what has no hash."""
    if version < 3:
        if not isinstance(value, str) or not value:
            return None
        encoded = _utf8(value)
    else:
        encoded = cbor(value)
    return None if encoded is None else murmur(encoded)


def short_hash(flag_key: str, targeting_key: Json, version: int) -> int | None:
    """Of the short form, which hashes the flag's key with the targeting key."""
    if not isinstance(targeting_key, str) or not targeting_key:
        return None
    return hash_of(flag_key + targeting_key if version < 3 else [flag_key, targeting_key], version)


def cbor(value: Json) -> bytes | None:
    """Deterministic CBOR; None for null, and for what cannot be written in it (a text that is no Unicode, say).

    Raises TooLarge.
    """
    if value is None:
        return None
    if type(value) is str:
        encoded = _utf8(value)
        if encoded is not None and len(encoded) < 256:
            return HEADS[len(encoded)] + encoded
        if encoded is None:
            return None
    try:
        return cbor2.dumps(_whole(bounded(value)), canonical=True)
    except TooLarge:
        raise
    except Exception:  # noqa: BLE001  # whatever a context holds that has no CBOR has no bucket either
        return None


def short_prefix(flag_key: str) -> bytes | None:
    """What stands before the text of the targeting key where the short form is hashed by version 3."""
    head = cbor(flag_key)
    return None if head is None else b"\x82" + head


def text_hash(prefix: bytes, text: str) -> int | None:
    """The hash of a text in CBOR behind a prefix. Short texts, which almost all are, are written here."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return None
    if len(encoded) < 256:
        return murmur(prefix + HEADS[len(encoded)] + encoded)
    return murmur(prefix + cbor2.dumps(text, canonical=True))


def place(hashed: int, total: int, version: int) -> int | float:
    """Where in [0, total) a hash falls. Version 1 can come to ``total`` itself: once in 2 billion, nobody's place."""
    if version == 1:
        signed = hashed - 2**32 if hashed > MOST_POSITIVE else hashed
        return abs(signed) / MOST_POSITIVE * 100
    return (hashed * total) >> 32


def ends_of(weights: Sequence[int], version: int) -> tuple[int | float, ...] | None:
    """Where each share of [0, total) ends; None where the weights come to nothing, or to too much.

    Version 1 counts in hundredths of the total, and adds up as its evaluators did, to the last bit.
    """
    total = sum(weights)
    if not 0 < total <= MOST_WEIGHT:
        return None
    if version == 1:
        return tuple(accumulate(weight * 100 / total for weight in weights))
    return tuple(accumulate(weights))


def choose(hashed: int, variants: Sequence[Json], weights: Sequence[int], version: int) -> Json:
    """The variant into whose share the hash falls; None where there is none."""
    ends = ends_of(weights, version)
    if ends is None:
        return None
    index = bisect_right(ends, place(hashed, sum(weights), version))
    return variants[index] if index < len(variants) else None


def _utf8(text: str) -> bytes | None:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _whole(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_whole(one) for one in value]
    if isinstance(value, float) and value.is_integer() and -(2**63) <= value <= 2**64 - 1:
        return int(value)
    return value
