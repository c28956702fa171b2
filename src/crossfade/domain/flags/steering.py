"""What a ramp and a remedy change in a flag: the share of a variant, and the kill. Pure; documents in, documents out.

These touch one flag of a document and nothing else of it, and leave a document that is as it should be as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from crossfade.domain.errors import NotFound, Refused
from crossfade.domain.flags.model import Flag, Killed, Rule, Split
from crossfade.domain.flags.split import reallocate, share_of
from crossfade.domain.values import Weight

Document = Mapping[str, Any]
"""A flag set as `document` writes it."""


def killed(document: Document, flag: str, why: Killed) -> dict[str, Any]:
    """The document with a flag killed; one that is killed already keeps by whom and why. Raises NotFound."""
    made = _copy(document, flag)
    made["flags"][flag].setdefault("crossfade", {}).setdefault("killed", {"by": why.by, "at": why.at, "why": why.why})
    return made


def with_share(document: Document, flag: Flag, rule: str, weight: Weight, variant: str, rest: str) -> dict[str, Any]:
    """The document with a share of the rule's units for a variant: raising evicts nobody, lowering the newest first.

    A rule that there is not is made, behind all others. Raises NotFound.
    """
    made = _copy(document, flag.key)
    known = flag.rule(rule)
    split = known.serve if known is not None and isinstance(known.serve, Split) else Split({}, rest)
    split = reallocate(split, {variant: weight.bp})
    shares = {name: [list(one) for one in slices] for name, slices in split.shares.items()}
    served = {"split": {"by": split.by, "shares": shares, "rest": split.rest}}
    rules = made["flags"][flag.key].setdefault("crossfade", {}).setdefault("rules", [])
    for one in rules:
        if one.get("name") == rule:
            one["serve"] = served
            return made
    rules.append({"name": rule, "serve": served})
    return made


def share(flag: Flag, rule: str, variant: str) -> Weight | None:
    """The share that a rule gives a variant; None when it has no such split."""
    known = flag.rule(rule)
    return Weight(share_of(known.serve, variant)) if known is not None and isinstance(known.serve, Split) else None


def refuse_ramp(flag: Flag, rule: str, variant: str, rest: str) -> None:
    """Raises Refused, or NotFound, when a flag cannot be ramped so."""
    for name in (variant, rest):
        if name not in flag.variants:
            there = ", ".join(flag.variants) or "none"
            raise NotFound(f"Flag {flag.key!r} has no variant {name!r}.", hint=f"It has: {there}.")
    what = f"Flag {flag.key!r} cannot be ramped"
    if not flag.enabled:
        raise Refused(f"{what}: it is disabled, so nobody would get {variant!r}.", hint="Enable it first.")
    if flag.killed is not None:
        raise Refused(f"{what}: it is killed ({flag.killed.why}).", hint="Revive it first.")
    if flag.off_variant == variant:
        raise Refused(
            f"{what} to {variant!r}: that is its off variant, which a kill would give to everybody.",
            hint="Set another `off` variant.",
        )
    known = flag.rule(rule)
    if known is None:
        return
    if not isinstance(known.serve, Split):
        raise Refused(
            f"{what}: its rule {rule!r} is no split.", hint="Name another rule, or one that there is not yet."
        )
    if known.paused:
        raise Refused(f"{what}: its rule {rule!r} is paused.", hint="Let the rule go on first.")
    if known.serve.rest != rest or set(known.serve.shares) - {variant, rest}:
        found = ", ".join(sorted({known.serve.rest, *known.serve.shares}))
        raise Refused(
            f"{what}: its rule {rule!r} splits {found}.", hint=f"A ramp divides {variant!r} and {rest!r} only."
        )


def tampered(left: Flag, found: Flag | None, variant: str) -> str:
    """What somebody has done to a flag since a ramp left it, as the end of a sentence; empty when it was nothing.

    Who it belongs to and what is written about it may change; who gets what may not.
    """
    if found is None:
        return "the flag was removed"
    if found.killed is not None and left.killed is None:
        return f"{found.killed.by} killed the flag: {found.killed.why or 'no reason was given'}"
    if found.enabled != left.enabled:
        return "the flag was switched off"
    words = {"description": "", "owner": "", "tags": (), "metadata": {}, "permanent": False}
    if replace(found, **words) != replace(left, **words):  # type: ignore[arg-type] # each is a field's own empty value
        return f"the flag was changed in what it serves, beside the ramp of {variant!r}"
    return ""


def killable(document: Document, names: Iterable[str]) -> set[tuple[str, str]]:
    """Of variants that answers told (``flag=variant``), those that a kill of their flag would take away."""
    found = set()
    for name in names:
        key, _, variant = name.partition("=")
        data = document.get("flags", {}).get(key)
        if data is None or variant not in data.get("variants", {}) or data.get("state") != "ENABLED":
            continue
        ours, default = data.get("crossfade", {}), data.get("defaultVariant")
        off = ours.get("off") or (str(default).lower() if isinstance(default, bool) else default)
        if not ours.get("killed") and off != variant:
            found.add((key, variant))
    return found


def rule_of(flag: Flag, variant: str) -> Rule | None:
    """The first rule that splits a variant from others, if there is one."""
    return next(
        (
            rule
            for rule in flag.rules
            if isinstance(rule.serve, Split) and (variant == rule.serve.rest or variant in rule.serve.shares)
        ),
        None,
    )


def _copy(document: Document, flag: str) -> dict[str, Any]:
    if flag not in document.get("flags", {}):
        raise NotFound(f"There is no flag {flag!r}.", hint="`crossfade flags list` shows those there are.")
    made: dict[str, Any] = deepcopy(dict(document))
    return made
