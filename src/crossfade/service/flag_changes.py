"""How flags are changed: decided upon what is there now, checked as a whole, written once, noted, and served at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import Invalid, Moved, NotFound, Refused
from crossfade.domain.flags import document as documents
from crossfade.domain.flags.model import FlagSet
from crossfade.domain.values import EnvKey
from crossfade.ports.flags import ChangeRequest, FlagVersion, moved
from crossfade.service.flag_edits import FLAGS, Places, apart, as_killed, changed, flags_of, plain, same, together
from crossfade.service.flag_serving import Serving
from crossfade.service.flag_views import FlagViews

LONGEST_NOTE: Final = 500
TRIES: Final = 10
"""How often a change is decided anew when others were faster."""
LARGEST_NOTED: Final = 20_000
"""Characters of what a change was before and after that the audit log has; of larger ones it has the places."""

Changed = FlagVersion | ChangeRequest
"""What came of a change: the version that it made, or the request that waits for somebody else's word."""

Edit = Callable[[Serving], Mapping[str, Any]]
"""What is to be in which places, decided upon what is there now."""


class FlagChanges(FlagViews):
    """The way of all changes."""

    def change(
        self,
        key: EnvKey,
        what: str,
        edit: Edit,
        by: Actor,
        *,
        expects: int | None = None,
        note: str = "",
        name: str = "",
        waits: bool = True,
        kills: bool = False,
    ) -> Changed:
        """Make a change, or ask for somebody else's word where one is wanted and it ``waits``.

        ``what`` is what the audit log calls it, ``name`` the flag that it is about. With ``expects``, Moved when what it is
        about has changed since that version; what others change meanwhile elsewhere is no matter. But for one that ``kills``,
        flags that there are stay killed, or not, as they are. Raises Forbidden, NotFound, InvalidBatch, Invalid, Refused.
        """
        by.require(Role.OPERATOR, key)
        if len(note) > LONGEST_NOTE:
            raise Invalid("note", note, f"at most {LONGEST_NOTE} characters")
        for _ in range(TRIES):
            base = self._servings.look(key)
            here = apart(base.document)
            after = dict(edit(base))
            if not kills:
                after = {place: self._still(place, data, here) for place, data in after.items()}
            if expects is not None:
                self._refuse_moved(key, expects, base, here, after)
            after = {place: data for place, data in after.items() if not same(here.get(place), data)}
            document, flags, after = self._checked(base, here, after)
            if not after:
                return self._parts.flags.current(key) or FlagVersion(key, 0, base.document, "", 0.0)
            role = self._parts.flags.settings(key).approval if waits and by.via != "engine" else None
            if role is not None:
                return self._ask(key, what, name, here, after, base.version, role, by, note)
            ready = self._servings.following(base, document, flags)
            try:
                version = self._parts.flags.write(
                    key, document, flags_of(after), by.name, self._parts.now(), expects=base.version, note=note
                )
            except Moved:
                continue  # it is decided anew upon what is there now
            self._servings.serve(ready)
            self._note(key, what, name, by, here, after, {"version": version.number})
            return version
        raise Refused(f"The flags of {key} change too often just now.", hint="Try again in a moment.")

    @staticmethod
    def _still(place: str, data: Any, here: Mapping[str, Any]) -> Any:
        return as_killed(data, here[place]) if place.startswith(FLAGS) and place in here and data is not None else data

    def _refuse_moved(
        self, key: EnvKey, expects: int, base: Serving, here: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        if expects == base.version:
            return
        then: Mapping[str, Any] = {}
        if expects > base.version or expects < 0:
            raise moved(key, base.version, expects)
        if expects > 0:
            try:
                then = apart(self._parts.flags.version(key, expects).document or {})
            except NotFound:
                raise moved(key, base.version, expects) from None
        if any(not same(then.get(place), here.get(place)) for place in after):
            raise moved(key, base.version, expects)

    def _checked(
        self, base: Serving, here: Mapping[str, Any], after: Mapping[str, Any]
    ) -> tuple[dict[str, Any], FlagSet, Places]:
        """The document and the flag set that a change leads to, and the change as it is written. Raises InvalidBatch."""
        plain("flags", after)
        one = flags_of(after)
        known = base.flags
        if len(after) == len(one) == 1:
            # Most often it is one flag that changes: the others need not be read again.
            others = {name: flag for name, flag in known.flags.items() if name != one[0]}
            data = after[FLAGS + one[0]]
            if data is not None:
                flag = documents.read_flag(one[0], data, known)
                after = {FLAGS + one[0]: documents.write_flag(flag)}
                others = {name: flag if name == one[0] else had for name, had in known.flags.items()} | {one[0]: flag}
            flags = replace(known, flags=others)
            documents.check(flags)
        else:
            flags = documents.read(together(changed(here, after)))
            written = apart(documents.write(flags))
            after = {place: written.get(place) for place in after}
        places = changed(here, after)
        return (
            together(places),
            flags,
            {place: data for place, data in after.items() if not same(here.get(place), data)},
        )

    def _ask(
        self,
        key: EnvKey,
        what: str,
        name: str,
        here: Mapping[str, Any],
        after: Mapping[str, Any],
        version: int,
        role: Role,
        by: Actor,
        note: str,
    ) -> ChangeRequest:
        before = {place: here.get(place) for place in after}
        now = self._parts.now()
        request = self._parts.flags.ask(
            ChangeRequest(0, key, what, before, after, version, role, by.name, by.identity, now, note)
        )
        self._note(key, "flag.ask", name, by, here, after, {"request": request.id, "change": what})
        return request

    def _note(
        self,
        key: EnvKey,
        what: str,
        name: str,
        by: Actor,
        here: Mapping[str, Any],
        after: Mapping[str, Any],
        said: Mapping[str, Any],
    ) -> None:
        before: dict[str, Any] = {place: here.get(place) for place in after}
        then: dict[str, Any] = dict(after)
        if len(json.dumps([before, then])) > LARGEST_NOTED:
            places = sorted(after)
            before, then = {}, {"places": places[:100], "count": len(places)}
        self._audit.note(by, what, f"{key}/{name}" if name else str(key), before, {**then, **said})
