"""Shares that stay honest: raising one takes nobody out, lowering it lets those go first who came last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from crossfade.domain.errors import Fault, InvalidBatch
from crossfade.domain.flags.model import Slice, Split
from crossfade.domain.values import FULL


def share_of(split: Split, variant: str) -> int:
    """The share of a variant in basis points; that of the rest is what no slice covers, and its own slices."""
    own = _width(split.shares.get(variant, ()))
    if variant == split.rest:
        own += FULL - sum(_width(slices) for slices in split.shares.values())
    return own


def variant_of(split: Split, bucket: int) -> str:
    """Who has the bucket."""
    for variant, slices in split.shares.items():
        if any(begin <= bucket < end for begin, end in slices):
            return variant
    return split.rest


def reallocate(split: Split, shares: Mapping[str, int]) -> Split:
    """The split in which these variants have these shares; the others keep theirs, and the rest has what remains.

    What is lowered gives back its newest slices first. What is raised takes of the rest alone, lowest buckets first,
    so nobody goes from one variant to another unless the first of them was lowered in the same call. Raises
    InvalidBatch for a share that is not allowed, and for shares that are more than all together.
    """
    _check(split, shares)
    kept = {variant: _keep(slices, shares.get(variant, FULL)) for variant, slices in split.shares.items()}
    for variant, share in shares.items():
        if variant == split.rest:
            continue
        missing = share - _width(kept.get(variant, ()))
        if missing > 0:
            kept[variant] = _join(kept.get(variant, ()), _free(kept.values(), missing))
    return replace(split, shares={variant: slices for variant, slices in kept.items() if slices})


def _check(split: Split, shares: Mapping[str, int]) -> None:
    faults = [
        Fault(f"shares.{variant}", share, f"a whole number of basis points from 0 to {FULL}")
        for variant, share in shares.items()
        if isinstance(share, bool) or not isinstance(share, int) or not 0 <= share <= FULL
    ]
    if not faults:
        wanted = {variant: _width(slices) for variant, slices in split.shares.items()} | dict(shares)
        wanted.pop(split.rest, None)
        total, rest = sum(wanted.values()), shares.get(split.rest)
        if total > FULL:
            faults.append(Fault("shares", total, f"at most {FULL} basis points together"))
        elif rest is not None and rest != FULL - total:
            faults.append(Fault(f"shares.{split.rest}", rest, f"{FULL - total}, which is what the others leave"))
    if faults:
        raise InvalidBatch(faults)


def _keep(slices: Iterable[Slice], most: int) -> tuple[Slice, ...]:
    """The oldest buckets, at most so many."""
    kept: list[Slice] = []
    for begin, end in slices:
        width = min(end - begin, most)
        if width > 0:
            kept.append((begin, begin + width))
            most -= width
    return tuple(kept)


def _free(taken: Iterable[Iterable[Slice]], width: int) -> list[Slice]:
    """The lowest buckets that nobody has, so many."""
    found: list[Slice] = []
    cursor = 0
    for begin, end in [*sorted(one for slices in taken for one in slices), (FULL, FULL)]:
        if begin > cursor and width > 0:
            size = min(begin - cursor, width)
            found.append((cursor, cursor + size))
            width -= size
        cursor = max(cursor, end)
    return found


def _join(slices: Iterable[Slice], more: Iterable[Slice]) -> tuple[Slice, ...]:
    joined = list(slices)
    for begin, end in more:
        # A slice that goes on where the newest one ends makes it longer: it is given back from its end either way.
        if joined and joined[-1][1] == begin:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return tuple(joined)


def _width(slices: Iterable[Slice]) -> int:
    return sum(end - begin for begin, end in slices)
