"""Feature flags of environments: what is served, who may change it, and what every change leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import Invalid, NotFound, Refused
from crossfade.domain.flags import document as documents
from crossfade.domain.flags.model import Flag, FlagSet, Killed, Rule, Split
from crossfade.domain.flags.split import reallocate
from crossfade.domain.values import EnvKey
from crossfade.ports.flags import ChangeRequest, FlagVersion
from crossfade.service.flag_changes import Changed, Edit
from crossfade.service.flag_edits import (
    EVALUATORS,
    FLAGS,
    METADATA,
    SEGMENTS,
    alive,
    apart,
    changed,
    differences,
    plain,
    same,
    together,
    used,
)
from crossfade.service.flag_requests import FlagRequests, asked
from crossfade.service.flag_serving import Serving
from crossfade.service.flag_views import dependants, told, written

LONGEST_WHY = 500


class Flags(FlagRequests):
    """Use cases. Every change wants an operator, makes a version, is in the audit log, and is told to the feed (``flags``).

    Where a second person is wanted it waits as a request instead, but for `kill` and `revive`, which never wait, and for
    what the engine does (``by.via == "engine"``): steps of a ramp that somebody has begun. Changes raise Forbidden,
    NotFound, InvalidBatch and Refused; with ``expects``, Moved when what they are about has changed since that version.
    """

    # --- one flag

    def save(
        self,
        key: EnvKey,
        name: str,
        data: Mapping[str, Any],
        by: Actor,
        expects: int | None = None,
        note: str = "",
    ) -> Changed:
        """Make or change a flag: ``data`` as in a flag set. Whether it is killed stays as it is."""
        plain(FLAGS + name, data)
        bare = alive(data)
        return self.change(key, "flag.save", lambda _: {FLAGS + name: bare}, by, expects=expects, note=note, name=name)

    def remove(self, key: EnvKey, name: str, by: Actor, expects: int | None = None, note: str = "") -> Changed:
        """Take a flag away. Refused while others require it, or it is ramped or tried."""

        def edit(base: Serving) -> Mapping[str, Any]:
            self.flag_of(base, name)
            others = sorted(flag.key for flag in dependants(base.flags, name))
            if others:
                raise Refused(
                    f"{name} in {key} is required by {', '.join(others)}.", hint="Change those first.", flags=others
                )
            self._refuse_busy(key, name)
            return {FLAGS + name: None}

        return self.change(key, "flag.remove", edit, by, expects=expects, note=note, name=name)

    def _refuse_busy(self, key: EnvKey, name: str) -> None:
        ramp = next(iter(self._parts.flags.ramps(key, flag=name, open_only=True, limit=1)), None)
        if ramp is not None:
            raise Refused(f"{name} in {key} is being ramped.", hint="End the ramp first.", ramp=ramp.id)
        trial = next(
            (one for one in self._parts.flags.experiments(key) if one.flag == name and one.ended is None), None
        )
        if trial is not None:
            raise Refused(f"{name} in {key} is what the experiment {trial.name} tries.", hint="Stop that first.")

    def kill(self, key: EnvKey, name: str, why: str, by: Actor) -> FlagVersion:
        """Serve its ``off`` variant to everybody, at once. One that is killed stays so, by whom and why it was."""
        if len(why) > LONGEST_WHY:
            raise Invalid("why", why, f"a reason of at most {LONGEST_WHY} characters")

        def edit(flag: Flag) -> Flag:
            return flag if flag.killed is not None else replace(flag, killed=Killed(by.name, self._parts.now(), why))

        return self._at_once(key, name, "flag.kill", edit, by)

    def revive(self, key: EnvKey, name: str, by: Actor) -> FlagVersion:
        """Serve it as before it was killed."""
        return self._at_once(key, name, "flag.revive", lambda flag: replace(flag, killed=None), by)

    def _at_once(self, key: EnvKey, name: str, what: str, edit: Callable[[Flag], Flag], by: Actor) -> FlagVersion:
        done = self.change(key, what, self._of(name, edit), by, name=name, waits=False, kills=True)
        assert isinstance(done, FlagVersion)  # it waits for nobody
        return done

    def switch(self, key: EnvKey, name: str, enabled: bool, by: Actor) -> Changed:
        """Enable or disable it: a disabled flag leaves everything to the code's own default."""
        what = "flag.enable" if enabled else "flag.disable"
        return self.change(key, what, self._of(name, lambda flag: replace(flag, enabled=enabled)), by, name=name)

    def pause_rule(self, key: EnvKey, name: str, rule: str, paused: bool, by: Actor) -> Changed:
        """Pass a rule over, or take it up again."""

        def edit(flag: Flag) -> Flag:
            found = _rule(flag, rule)
            rules = tuple(replace(one, paused=paused) if one is found else one for one in flag.rules)
            return replace(flag, rules=rules)

        return self.change(key, "flag.pause" if paused else "flag.resume", self._of(name, edit), by, name=name)

    def set_shares(self, key: EnvKey, name: str, rule: str, shares: Mapping[str, int], by: Actor) -> Changed:
        """Basis points of variants in a rule's split, the others as they were: raising evicts nobody, lowering the newest."""

        def edit(flag: Flag) -> Flag:
            found = _rule(flag, rule)
            if not isinstance(found.serve, Split):
                raise Refused(f"The rule {rule!r} of {name} is no split.", hint="Change the flag instead.")
            split = reallocate(found.serve, shares)
            return replace(flag, rules=tuple(replace(one, serve=split) if one is found else one for one in flag.rules))

        return self.change(key, "flag.shares", self._of(name, edit), by, name=name)

    def _of(self, name: str, edit: Callable[[Flag], Flag]) -> Edit:
        """The change of one flag that there is."""
        return lambda base: {FLAGS + name: documents.write_flag(edit(self.flag_of(base, name)))}

    # --- many flags

    def restore(self, key: EnvKey, number: int, by: Actor, note: str = "") -> Changed:
        """What a version was, as a new one. Flags that are killed stay so. Raises NotFound when it is not kept."""
        self.serving(key)
        then = apart(self._parts.flags.version(key, number).document or {})

        def edit(base: Serving) -> Mapping[str, Any]:
            return differences(apart(base.document), then)

        return self.change(key, "flag.restore", edit, by, note=note or f"version {number} again")

    def bring(
        self, key: EnvKey, document: Mapping[str, Any], replace: bool, dry_run: bool, by: Actor, note: str = ""
    ) -> dict[str, Any]:
        """Take flags from a file of flagd's or ours: beside those that there are, or in place of them with ``replace``.

        ``changes`` says what that changes; with ``dry_run`` that is all. Raises InvalidBatch with every fault of the file.
        """
        by.require(Role.OPERATOR, key)
        incoming = documents.read(plain("document", document))

        def edit(base: Serving) -> Mapping[str, Any]:
            return _brought(base, incoming, replace)

        base = self._servings.look(key)
        changes = told(base.flags, self._after(base, edit(base)))
        if dry_run:
            return {**done(self._nothing(base)), "dry_run": True, "changes": changes}
        made = self.change(key, "flag.import", edit, by, note=note)
        return {**done(made), "dry_run": False, "changes": changes}

    def promote(
        self, source: EnvKey, name: str, to: EnvKey, by: Actor, *, dry_run: bool = False, note: str = ""
    ) -> dict[str, Any]:
        """Make a flag in another environment of its service what it is here, with the segments and evaluators it uses.

        Whether it is killed there stays as it is. Refused while flags that it requires are missing there. As `bring`.
        """
        by.require(Role.VIEWER, source)
        by.require(Role.OPERATOR, to)
        if source.service != to.service or source == to:
            raise Invalid("to", str(to), f"another environment of {source.service}")
        here = self._servings.look(source)
        flag = self.flag_of(here, name)
        carried = _with_all_it_uses(apart(here.document), name)

        def edit(base: Serving) -> Mapping[str, Any]:
            missing = sorted({one.flag for one in flag.requires if one.flag not in base.flags.flags})
            if missing:
                raise Refused(
                    f"{name} requires {', '.join(missing)}, which {to} does not have.",
                    hint="Promote those first.",
                    flags=missing,
                )
            mine = apart(base.document)
            if FLAGS + name not in mine:
                return {**carried, FLAGS + name: alive(carried[FLAGS + name])}
            return carried

        base = self._servings.look(to)
        changes = told(base.flags, self._after(base, edit(base)))
        if dry_run:
            return {**done(self._nothing(base)), "dry_run": True, "changes": changes}
        made = self.change(
            to, "flag.promote", edit, by, name=name, note=note or f"from {source} version {here.version}"
        )
        return {**done(made), "dry_run": False, "changes": changes}

    def _after(self, base: Serving, after: Mapping[str, Any]) -> FlagSet:
        here = apart(base.document)
        still = {place: self._still(place, data, here) for place, data in after.items()}
        return documents.read(together(changed(here, still)))

    @staticmethod
    def _nothing(base: Serving) -> FlagVersion:
        return FlagVersion(base.key, base.version, None, "", 0.0)


def done(made: Changed) -> dict[str, Any]:
    """What came of a change, as data: ``version`` is the one that holds it, None while it waits as ``request``."""
    if isinstance(made, ChangeRequest):
        return {"version": None, "flags": [], "request": asked(made)}
    said = written(made)
    return {"version": said["version"], "flags": said["flags"], "request": None}


def _rule(flag: Flag, name: str) -> Rule:
    found = flag.rule(name)
    if found is None:
        names = ", ".join(rule.name for rule in flag.rules) or "none"
        raise NotFound(f"{flag.key} has no rule {name!r}.", hint=f"Its rules: {names}.")
    return found


def _brought(base: Serving, incoming: FlagSet, replace: bool) -> Mapping[str, Any]:
    """What is to be in which places when a file comes into an environment."""
    here, new = apart(base.document), apart(documents.write(incoming))
    if replace:
        return differences(here, new)
    if base.flags.flags:
        if incoming.flags and incoming.hash_version != base.flags.hash_version:
            raise Refused(
                f"The file draws its buckets by hash version {incoming.hash_version}, {base.key} by "
                f"{base.flags.hash_version}: beside each other they would move people.",
                hint="Bring it in place of all flags that there are, with `replace`.",
            )
        new.pop(METADATA, None)
    return {place: data for place, data in new.items() if not same(here.get(place), data)}


def _with_all_it_uses(places: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A flag with the segments and evaluators that it uses, and those that they use."""
    carried = {FLAGS + name: places[FLAGS + name]}
    left = [places[FLAGS + name]]
    while left:
        segments, evaluators = used(left.pop())
        for place in (*(SEGMENTS + one for one in segments), *(EVALUATORS + one for one in evaluators)):
            if place not in carried and place in places:
                carried[place] = places[place]
                left.append(places[place])
    return carried
