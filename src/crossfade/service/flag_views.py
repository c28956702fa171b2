"""What a person can see of flags. It changes nothing, and says it as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any, Final

from crossfade.domain.errors import Invalid, NotFound
from crossfade.domain.flags import document as documents
from crossfade.domain.flags.audience import Audience, audience
from crossfade.domain.flags.changes import compare
from crossfade.domain.flags.evaluate import compiled
from crossfade.domain.flags.lowering import lower
from crossfade.domain.flags.model import TARGETING_KEY, Flag, FlagSet, Split, Surroundings
from crossfade.domain.flags.split import share_of
from crossfade.domain.flags.why import as_data
from crossfade.domain.values import FULL, EnvKey, ReleaseNumber
from crossfade.ports import Change, Parts
from crossfade.ports.flags import VERSIONS_KEPT, Evaluations, FlagVersion
from crossfade.service.audit import Audit
from crossfade.service.flag_edits import FLAGS, plain
from crossfade.service.flag_serving import Serving, Servings

YOUNG: Final = 86_400.0
"""Seconds after its last change for which nobody wonders that a flag is not evaluated."""
DECIDED_AFTER: Final = 30 * 86_400.0
"""Seconds for which everybody has got the same of a flag that could go by now."""
LARGEST_CONTEXT: Final = 100_000
MADE_UP: Final = 2_000
"""People that a preview makes up."""
MOST_CONTEXTS: Final = 100
"""Contexts that one preview is asked for."""


class FlagViews:
    """What can be asked about the flags of environments."""

    def __init__(self, parts: Parts, audit: Audit) -> None:
        self._parts, self._audit = parts, audit
        self._servings = Servings(parts)
        self._last_changes = lru_cache(maxsize=100)(self._read_last_changes)

    def start(self) -> None:
        """Begin to look after what is served."""
        self._servings.start()

    def stop(self) -> None:
        self._servings.stop()

    def serving(self, key: EnvKey) -> Serving:
        """What is served now. Cheap: it is asked for with every evaluation. Raises NotFound."""
        return self._servings.get(key)

    def heard(self, changes: Sequence[Change]) -> None:
        """See `Servings.heard`."""
        self._servings.heard(changes)

    # --- flags

    def view(self, key: EnvKey) -> dict[str, Any]:
        """All flags of an environment in short, with the version that is served. Raises NotFound."""
        serving = self.serving(key)
        changes = self._last_changes(key, serving.version)
        standing = {one["flag"]: one for one in self.stale(key)}
        ramps = {one.flag: one.id for one in self._parts.flags.ramps(key, open_only=True, limit=1000)}
        trials: dict[str, list[str]] = {}
        for row in self._parts.flags.experiments(key):
            if row.ended is None:
                trials.setdefault(row.flag, []).append(row.name)
        return {
            **self._said(serving),
            "segments": sorted(serving.flags.segments),
            "evaluators": sorted(serving.flags.evaluators),
            "metadata": dict(serving.flags.metadata),
            "flags": [
                {
                    **_short(flag),
                    "changed": changes.get(name),
                    "stale": standing.get(name),
                    "ramp": ramps.get(name),
                    "experiments": trials.get(name, []),
                }
                for name, flag in sorted(serving.flags.flags.items())
            ],
        }

    def flag(self, key: EnvKey, name: str) -> dict[str, Any]:
        """One flag: ``flag`` is its data as in a flag set; and all that is known of it. Raises NotFound."""
        serving = self.serving(key)
        flag = self.flag_of(serving, name)
        flags = self._parts.flags
        waiting = flags.requests(key, waiting=True, limit=500)
        return {
            **self._said(serving),
            "key": name,
            "flag": documents.write_flag(flag),
            "changed": self._last_changes(key, serving.version).get(name),
            "stale": next((one for one in self.stale(key) if one["flag"] == name), None),
            "usage": [_used(one) for one in flags.usage(key, name)],
            "required_by": sorted(other.key for other in dependants(serving.flags, name)),
            "requests": [one.id for one in waiting if FLAGS + name in one.after],
            "ramps": [{"ramp": one.id, "ended": one.ended} for one in flags.ramps(key, flag=name, limit=20)],
            "experiments": [row.name for row in flags.experiments(key) if row.flag == name],
        }

    @staticmethod
    def flag_of(serving: Serving, name: str) -> Flag:
        """Raises NotFound."""
        flag = serving.flags.flags.get(name)
        if flag is None:
            raise NotFound(
                f"{serving.key} has no flag {name!r}.", hint="`crossfade flags list` shows those that there are."
            )
        return flag

    def _said(self, serving: Serving) -> dict[str, Any]:
        now = self._parts.now()
        return {
            "service": serving.key.service,
            "environment": serving.key.environment,
            "version": serving.version,
            "release": str(serving.release) if serving.release is not None else None,
            "stale_since": serving.stale_since,
            "age": round(serving.age(now), 3),
        }

    # --- versions

    def versions(self, key: EnvKey, limit: int = 50, before: int | None = None) -> list[dict[str, Any]]:
        """Newest first, without what they hold. Raises NotFound."""
        self.serving(key)
        return [written(one) for one in self._parts.flags.versions(key, limit=limit, before=before)]

    def version(self, key: EnvKey, number: int) -> dict[str, Any]:
        """One version, with ``document``. Raises NotFound."""
        self.serving(key)
        found = self._parts.flags.version(key, number)
        return {**written(found), "document": found.document}

    def compare(self, key: EnvKey, one: int, other: int) -> list[dict[str, Any]]:
        """What differs between two versions; 0 is before the first one. Raises NotFound."""
        self.serving(key)
        return told(self._set_of(key, one), self._set_of(key, other))

    def _set_of(self, key: EnvKey, number: int) -> FlagSet:
        return documents.read(self._parts.flags.version(key, number).document) if number else FlagSet()

    def export(self, key: EnvKey, plain: bool) -> dict[str, Any]:
        """The flag set; ``plain``: as any evaluator of flagd takes it. Raises NotFound."""
        serving = self.serving(key)
        if plain:
            return dict(lower(serving.flags, Surroundings(serving.release)))
        return dict(serving.document)

    # --- evaluations

    def why(self, key: EnvKey, name: str, context: Mapping[str, Any]) -> dict[str, Any]:
        """What somebody gets of a flag, and each step that led there. Raises NotFound, Invalid."""
        serving = self.serving(key)
        self.flag_of(serving, name)
        plain("context", context, LARGEST_CONTEXT)
        return {**self._said(serving), **serving.evaluator.why(name, context, self._parts.now())}

    def preview(
        self, key: EnvKey, name: str, data: Mapping[str, Any], contexts: Sequence[Mapping[str, Any]] = ()
    ) -> dict[str, Any]:
        """Who would get what if a flag were this; tried on these contexts, those seen lately, and made-up people.

        Raises NotFound, InvalidBatch, Invalid.
        """
        if len(contexts) > MOST_CONTEXTS:
            raise Invalid("contexts", len(contexts), f"at most {MOST_CONTEXTS}")
        serving = self.serving(key)
        plain(FLAGS + name, data)
        plain("contexts", list(contexts), LARGEST_CONTEXT)
        flag = documents.read_flag(name, data, serving.flags)
        flags = replace(serving.flags, flags={**serving.flags.flags, name: flag})
        documents.check(flags)
        # An editor asks again as somebody types: of a large set, only what this flag comes to is compiled.
        few = replace(flags, flags=with_required(flags, name))
        before, after, now = serving.evaluator, compiled(few, Surroundings(serving.release)), self._parts.now()
        made_up = [{TARGETING_KEY: f"somebody-{n}"} for n in range(MADE_UP)]
        return {
            "flag": name,
            "changes": told(
                FlagSet({key: one for key, one in serving.flags.flags.items() if key == name}), FlagSet({name: flag})
            ),
            "contexts": [
                {
                    "context": context,
                    "before": as_data(before.evaluate(name, context, now)),
                    "after": as_data(after.evaluate(name, context, now)),
                }
                for context in contexts
            ],
            "seen": _audience(audience(before, after, name, serving.contexts.all(), now)),
            "made_up": _audience(audience(before, after, name, made_up, now)),
        }

    # --- what could go

    def stale(self, key: EnvKey) -> list[dict[str, Any]]:
        """Flags that could go, with ``kind`` and ``why``. Raises NotFound.

        ``unused``: no release that runs has evaluated it; ``decided``: everybody has got the same for `DECIDED_AFTER`;
        ``unknown``: nobody has told what a release that runs evaluates. Permanent flags are never among them.
        """
        serving, now = self.serving(key), self._parts.now()
        running = self._running(key)
        usage = self._parts.flags.usage(key)
        told_by = {one.release for one in usage}
        silent = sorted(running - told_by)
        by_flag: dict[str, list[Evaluations]] = {}
        for one in usage:
            by_flag.setdefault(one.flag, []).append(one)
        changes = self._last_changes(key, serving.version)
        found = []
        for name, flag in sorted(serving.flags.flags.items()):
            changed = changes.get(name)
            since = now - changed["at"] if changed is not None else float("inf")
            mine = by_flag.get(name, [])
            last = max((one.last for one in mine), default=None)
            verdict = _stale(flag, mine, running, silent, since)
            if verdict is not None:
                found.append({"flag": name, "kind": verdict[0], "why": verdict[1], "last": last})
        return found

    def _running(self, key: EnvKey) -> set[ReleaseNumber]:
        """Releases that are live, warm, or on their way."""
        environment = self._parts.store.environment(key)
        if environment is None:
            return set()
        running = {occupant.release for occupant in environment.slots.values()}
        if environment.live is not None:
            running.add(environment.live)
        if environment.holder is not None:
            running.add(self._parts.store.rollout(environment.holder).plan.candidate)
        return running

    def _read_last_changes(self, key: EnvKey, version: int) -> Mapping[str, dict[str, Any]]:
        """By flag, as far as versions are kept. Kept for each version."""
        del version
        found: dict[str, dict[str, Any]] = {}
        for one in self._parts.flags.versions(key, limit=VERSIONS_KEPT):
            for name in one.flags:
                found.setdefault(name, {"version": one.number, "at": one.at, "by": one.by, "note": one.note})
        return found


def written(version: FlagVersion) -> dict[str, Any]:
    """A version as the API gives it, without what it holds."""
    return {
        "version": version.number,
        "by": version.by,
        "at": version.at,
        "note": version.note,
        "flags": list(version.flags),
    }


def told(old: FlagSet, new: FlagSet) -> list[dict[str, Any]]:
    """What differs between two flag sets."""
    return [
        {"flag": one.flag, "what": one.what, "before": one.before, "after": one.after, "sentence": one.sentence}
        for one in compare(old, new)
    ]


def dependants(flags: FlagSet, name: str) -> Iterable[Flag]:
    """Flags that require another one."""
    return (flag for flag in flags.flags.values() if any(one.flag == name for one in flag.requires))


def with_required(flags: FlagSet, name: str) -> dict[str, Flag]:
    """A flag, and all those that it requires, directly or through others."""
    found: dict[str, Flag] = {}
    left = [name]
    while left:
        key = left.pop()
        if key not in found and key in flags.flags:
            found[key] = flags.flags[key]
            left += [one.flag for one in found[key].requires]
    return found


def _short(flag: Flag) -> dict[str, Any]:
    return {
        "key": flag.key,
        "enabled": flag.enabled,
        "killed": asdict(flag.killed) if flag.killed is not None else None,
        "description": flag.description,
        "owner": flag.owner,
        "tags": list(flag.tags),
        "permanent": flag.permanent,
        "variants": dict(flag.variants),
        "default": flag.default,
        "off": flag.off_variant,
        "needs": str(flag.needs) if flag.needs is not None else None,
        "requires": [asdict(one) | {"variants": list(one.variants)} for one in flag.requires],
        "rules": [{"name": rule.name, "paused": rule.paused, **_share(rule.serve)} for rule in flag.rules],
        "targeting": flag.targeting is not None,
    }


def _share(serve: object) -> dict[str, Any]:
    """What a rule gives: one variant, shares in basis points, or a share that moves by itself."""
    if isinstance(serve, Split):
        names = dict.fromkeys((*serve.shares, serve.rest))
        return {"serves": "split", "shares": {name: share_of(serve, name) for name in names}}
    if isinstance(serve, str):
        return {"serves": serve, "shares": {serve: FULL}}
    return {"serves": "linear", "shares": {}}


def _audience(found: Audience) -> dict[str, Any]:
    return {
        "contexts": found.contexts,
        "moved": found.moved,
        "before": dict(found.before),
        "after": dict(found.after),
        "moves": [{"from": one, "to": other, "n": n} for (one, other), n in found.moves.items()],
    }


def _used(one: Evaluations) -> dict[str, Any]:
    return {"variant": one.variant, "release": str(one.release), "n": one.n, "first": one.first, "last": one.last}


def _stale(
    flag: Flag, usage: Sequence[Evaluations], running: set[ReleaseNumber], silent: Sequence[ReleaseNumber], since: float
) -> tuple[str, str] | None:
    if flag.permanent or since < YOUNG:
        return None
    if not any(one.release in running for one in usage) and running:
        names = ", ".join(map(str, sorted(running)))
        if silent:
            quiet = ", ".join(map(str, silent))
            return "unknown", f"nobody has told yet which flags {quiet} evaluates"
        before = f"; the last that did was {max(one.release for one in usage)}" if usage else ""
        return "unused", f"no release that runs ({names}) has evaluated it{before}"
    same = _same_for_all(flag)
    if same is not None and since >= DECIDED_AFTER:
        return "decided", f"everybody has got {same!r} for {since / 86_400:.0f} days: it could be removed"
    return None


def _same_for_all(flag: Flag) -> str | None:
    """The variant that everybody gets, when there is one that does not depend on who asks."""
    if flag.killed is not None:
        return flag.off_variant
    if not flag.enabled or flag.requires or flag.needs is not None:
        return None
    for rule in flag.rules:
        if rule.paused:
            continue
        if rule.when is not None or rule.begins is not None or rule.ends is not None:
            return None
        if isinstance(rule.serve, str):
            return rule.serve
        if isinstance(rule.serve, Split):
            return next(
                (name for name in (*rule.serve.shares, rule.serve.rest) if share_of(rule.serve, name) == FULL), None
            )
        return None
    return flag.default if flag.targeting is None else None
