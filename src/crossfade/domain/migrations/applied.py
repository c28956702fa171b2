"""Files and what was applied of them: nothing edited, nothing missing, nothing in between."""

from __future__ import annotations

from collections.abc import Sequence

from crossfade.domain.errors import Refused
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phases import Phase, Record


def check_applied(migrations: Sequence[Migration], ledger: Sequence[Record], *, whole: bool = True) -> None:
    """Raises Refused with all that does not fit. ``whole``: the migrations are all there are, in their order."""
    files = {one.version: one for one in migrations}
    applied = [one for one in ledger if one.phase is not Phase.ABORTED]
    wrong = [
        f"{one.source} was edited after it was applied ({one.checksum[:19]}… then, {files[one.version].checksum[:19]}… now)"
        for one in applied
        if one.version in files and files[one.version].checksum != one.checksum
    ]
    if whole:
        wrong += [f"{one.source} was applied and is missing" for one in applied if one.version not in files]
        known = {one.version for one in applied}
        last = max((i for i, one in enumerate(migrations) if one.version in known), default=-1)
        wrong += [
            f"{one.source} stands before {migrations[last].source}, which was applied already"
            for one in migrations[: max(last, 0)]
            if one.version not in known
        ]
    if wrong:
        raise Refused(
            f"The files do not fit what was applied: {'; '.join(wrong)}.",
            hint="Restore the files; what has to change goes into a new one, named after them all.",
        )


def not_applied(migrations: Sequence[Migration], ledger: Sequence[Record]) -> list[Migration]:
    """Those still to be expanded, in order."""
    known = {one.version for one in ledger if one.phase is not Phase.ABORTED and one.phase is not Phase.EXPANDING}
    return [one for one in migrations if one.version not in known]
