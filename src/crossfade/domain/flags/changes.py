"""What is different between two flag sets, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from crossfade.domain.flags.document import write, write_flag
from crossfade.domain.flags.model import Flag, FlagSet, Json, Killed, Linear, Rule, Split
from crossfade.domain.flags.split import share_of

GONE: Final = "not there"


@dataclass(frozen=True, slots=True)
class FlagChange:
    """One difference. ``flag`` is empty for what all flags share; ``before`` and ``after`` are as a person reads them."""

    flag: str
    what: str
    before: str
    after: str

    @property
    def sentence(self) -> str:
        """For example ``new-checkout: rule ramp: share of `on` 5 % -> 10 %``."""
        of = f"{self.flag}: " if self.flag else ""
        return f"{of}{self.what}: {self.before} -> {self.after}"


def compare(old: FlagSet, new: FlagSet) -> tuple[FlagChange, ...]:
    """All differences, flag after flag; of what only one of them has, that it is there."""
    return tuple(_differences(old, new))


def _differences(old: FlagSet, new: FlagSet) -> Iterator[FlagChange]:
    for key in [*old.flags, *(key for key in new.flags if key not in old.flags)]:
        before, after = old.flags.get(key), new.flags.get(key)
        if before is None or after is None:
            yield FlagChange(key, "flag", *(GONE if one is None else _serving(one) for one in (before, after)))
        elif before != after or _differ(before.variants, after.variants):
            yield from _of_flag(before, after)
    one, other = write(old), write(new)
    for section, what in (("$evaluators", "evaluator"), ("metadata", "metadata")):
        for name, was, is_now in _pairs(one.get(section, {}), other.get(section, {})):
            yield FlagChange("", f"{what} {name}", was, is_now)
    segments = [document.get("crossfade", {}).get("segments", {}) for document in (one, other)]
    for name, was, is_now in _pairs(*segments):
        yield FlagChange("", f"segment {name}", was, is_now)


def _of_flag(old: Flag, new: Flag) -> Iterator[FlagChange]:
    key = new.key
    if old.enabled != new.enabled:
        yield FlagChange(key, "state", *("enabled" if one.enabled else "disabled" for one in (old, new)))
    if old.killed != new.killed:
        yield FlagChange(key, "kill switch", _killed(old.killed), _killed(new.killed))
    for name, was, is_now in _pairs(old.variants, new.variants):
        yield FlagChange(key, f"variant {name}", was, is_now)
    yield from _of_rules(old, new)
    one, other = write_flag(old), write_flag(new)
    for what, name in (("default", "defaultVariant"), ("targeting", "targeting"), ("metadata", "metadata")):
        if one.get(name) != other.get(name):
            yield FlagChange(key, what, _shown(one.get(name)), _shown(other.get(name)))
    mine, theirs = one.get("crossfade", {}), other.get("crossfade", {})
    for name in ("description", "owner", "tags", "permanent", "off", "needs", "requires", "seed"):
        if mine.get(name) != theirs.get(name):
            yield FlagChange(key, name, _shown(mine.get(name)), _shown(theirs.get(name)))


def _of_rules(old: Flag, new: Flag) -> Iterator[FlagChange]:
    before, after = ({rule.name: rule for rule in flag.rules} for flag in (old, new))
    for name in [*before, *(name for name in after if name not in before)]:
        was, now = before.get(name), after.get(name)
        if was is None or now is None:
            yield FlagChange(new.key, f"rule {name}", *(GONE if one is None else _ruling(one) for one in (was, now)))
        elif was != now:
            yield from _of_rule(new.key, was, now)
    kept = [[rule.name for rule in flag.rules if rule.name in before and rule.name in after] for flag in (old, new)]
    if kept[0] != kept[1]:
        yield FlagChange(new.key, "order of the rules", ", ".join(kept[0]), ", ".join(kept[1]))


def _of_rule(key: str, old: Rule, new: Rule) -> Iterator[FlagChange]:
    what = f"rule {new.name}"
    if old.paused != new.paused:
        yield FlagChange(key, what, *("paused" if one.paused else "active" for one in (old, new)))
    if old.when != new.when:
        yield FlagChange(
            key, f"{what}: if", *("everybody" if one.when is None else _shown(one.when) for one in (old, new))
        )
    for name, was, is_now in (("from", old.begins, new.begins), ("until", old.ends, new.ends)):
        if was != is_now:
            yield FlagChange(key, f"{what}: {name}", _shown(was), _shown(is_now))
    one, other = old.serve, new.serve
    if one == other:
        return
    if isinstance(one, Split) and isinstance(other, Split) and (one.rest, one.by) == (other.rest, other.by):
        same_shares = True
        for variant in [*one.shares, *(variant for variant in other.shares if variant not in one.shares)]:
            was_share, share = share_of(one, variant), share_of(other, variant)
            if was_share != share:
                same_shares = False
                yield FlagChange(key, f"{what}: share of `{variant}`", _percent(was_share), _percent(share))
        if same_shares:
            yield FlagChange(key, f"{what}: slices", _shown(_slices(one)), _shown(_slices(other)))
    else:
        yield FlagChange(key, f"{what}: serves", _served(one), _served(other))


def _pairs(old: Mapping[str, Json], new: Mapping[str, Json]) -> Iterator[tuple[str, str, str]]:
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in old or name not in new or _differ(old[name], new[name]):
            yield name, *(_shown(one[name]) if name in one else GONE for one in (old, new))  # type: ignore[misc]  # two


def _differ(one: Json, other: Json) -> bool:
    """As JSON, in which 1 is not true."""
    return one != other or json.dumps(one) != json.dumps(other)


def _serving(flag: Flag) -> str:
    state = "enabled" if flag.enabled else "disabled"
    return f"{state}, {' | '.join(flag.variants)}, default {_shown(flag.default)}"


def _ruling(rule: Rule) -> str:
    when = "" if rule.when is None else f" if {_shown(rule.when)}"
    return f"{'paused, ' if rule.paused else ''}{_served(rule.serve)}{when}"


def _served(serve: str | Split | Linear) -> str:
    if isinstance(serve, str):
        return f"`{serve}`"
    if isinstance(serve, Split):
        shares = [f"{_percent(share_of(serve, variant))} `{variant}`" for variant in serve.shares]
        return f"{', '.join([*shares, f'rest `{serve.rest}`'])} by {serve.by}"
    return (
        f"`{serve.variant}` from {_percent(serve.start)} to {_percent(serve.end)} between {serve.begins:.0f} and "
        f"{serve.ends:.0f}, rest `{serve.rest}` by {serve.by}"
    )


def _slices(split: Split) -> Json:
    return {variant: [list(one) for one in slices] for variant, slices in split.shares.items()}


def _killed(killed: Killed | None) -> str:
    if killed is None:
        return "not killed"
    by = f" by {killed.by}" if killed.by else ""
    return f"killed{by}: {killed.why}" if killed.why else f"killed{by}"


def _percent(share: int) -> str:
    return f"{share / 100:g} %"


def _shown(value: Json) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 200 else shown[:197] + "..."
