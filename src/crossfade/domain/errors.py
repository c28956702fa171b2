"""Every error that Crossfade raises on purpose.

::

    CrossfadeError
    ├── Invalid                a value from outside is not allowed (place, found, allowed)
    │   ├── InvalidConfig      several of them at once, each with file, line and key
    │   └── InvalidBatch       several of them at once, each with its place in the batch
    ├── Refused                the request is well formed, but must not be done now
    │   ├── Busy               somebody else holds the environment (names the holder)
    │   ├── Frozen             nothing is deployed to the environment now (says until when)
    │   ├── Moved              the environment is not any more as it was when this was decided
    │   ├── NotRestorable      a release cannot be brought back (says why)
    │   └── StaleFence         a newer holder has written since: this writer lost its turn
    ├── NotFound               no such service, environment, release, rollout or artifact
    ├── Unauthenticated        nobody knows who asks (no credential, or one that is not valid)
    ├── Forbidden              who asks is known, but may not
    ├── TooMany                asked too often (says when to come again)
    ├── Unavailable            a part that Crossfade drives does not answer (edge, supervisor, server)
    └── StorageFailed          the state folder cannot be written (disk full, permissions)

Each error carries ``what`` (one sentence: what is wrong), ``hint`` (what to do next, may be empty) and
``fields`` (JSON-ready facts), so that the CLI, the API and the receipt say the same thing.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class CrossfadeError(Exception):
    """Base of the tree. ``code`` is stable and part of the API."""

    code = "error"

    def __init__(self, what: str, *, hint: str = "", **fields: Any) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.fields: Mapping[str, Any] = fields

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".strip()


class Invalid(CrossfadeError):
    """A value from outside is not allowed."""

    code = "invalid"

    def __init__(self, place: str, found: object, allowed: str, *, hint: str = "") -> None:
        shown = repr(found)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        super().__init__(
            f"{place}: {shown} is not allowed; allowed: {allowed}.",
            hint=hint,
            place=place,
            found=shown,
            allowed=allowed,
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in a configuration file. ``line`` counts from 1; 0 when it cannot be known."""

    file: str
    line: int
    key: str
    found: str
    allowed: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: found {self.found}; allowed: {self.allowed}"


class InvalidConfig(Invalid):
    """All the faults of a configuration file at once."""

    code = "invalid-config"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        CrossfadeError.__init__(
            self,
            f"{count} {noun} in the configuration:\n" + "\n".join(f"  {p}" for p in self.problems),
            hint="",
            problems=[
                {"file": p.file, "line": p.line, "key": p.key, "found": p.found, "allowed": p.allowed}
                for p in self.problems
            ],
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """One value of a batch that is not allowed: where it is, what was found, what is allowed."""

    place: str
    found: object
    allowed: str


class InvalidBatch(Invalid):
    """Everything that is wrong with a batch: nothing of it was taken. ``fields["problems"]`` has the first of them."""

    SHOWN = 5
    MOST = 200

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        each = [Invalid(fault.place, fault.found, fault.allowed) for fault in self.faults[: self.MOST]]
        rest = f" And {len(self.faults) - self.SHOWN} more." if len(self.faults) > self.SHOWN else ""
        CrossfadeError.__init__(
            self,
            " ".join(one.what for one in each[: self.SHOWN]) + rest,
            hint="Nothing of the batch was taken.",
            problems=[dict(one.fields) for one in each],
        )


class Refused(CrossfadeError):
    """Well formed, but must not be done now."""

    code = "refused"


class Busy(Refused):
    """Somebody else holds the environment."""

    code = "busy"


class Frozen(Refused):
    """A freeze window holds."""

    code = "frozen"


class Moved(Refused):
    """What this was decided upon has changed since: another rollout, another version of the flags."""

    code = "moved"


class NotRestorable(Refused):
    """A release of the window cannot be brought back."""

    code = "not-restorable"


class StaleFence(Refused):
    """A newer holder of the environment has written since."""

    code = "stale-fence"

    def __init__(self, environment: str, mine: int, newest: int) -> None:
        super().__init__(
            f"{environment}: a newer rollout (fence {newest}) has taken over; this write (fence {mine}) is refused.",
            environment=environment,
            fence=mine,
            newest=newest,
        )


class NotFound(CrossfadeError):
    """No such service, environment, release, rollout or artifact."""

    code = "not-found"


class Unauthenticated(CrossfadeError):
    """Nobody knows who asks. Says the same whatever was wrong, so that nothing can be learnt by trying."""

    code = "unauthenticated"


class Forbidden(CrossfadeError):
    """Who asks is known, but may not."""

    code = "forbidden"


class TooMany(CrossfadeError):
    """Asked too often. ``retry_after``: seconds until it is worth trying again."""

    code = "too-many"

    def __init__(self, what: str, retry_after: float, *, hint: str = "") -> None:
        super().__init__(what, hint=hint, retry_after=retry_after)
        self.retry_after = retry_after


class Unavailable(CrossfadeError):
    """A part that Crossfade drives does not answer."""

    code = "unavailable"


class StorageFailed(CrossfadeError):
    """The state folder cannot be written."""

    code = "storage-failed"

    @classmethod
    def because(cls, doing: str, error: OSError) -> StorageFailed:
        """From what the operating system said. ``doing`` continues "cannot ..." and names the place."""
        hint = "Check that the state folder is there and belongs to you."
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "Free some space there (old artifacts and logs are in the state folder), then try again."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "Make that place writable for the user that Crossfade runs as, then try again."
        return cls(f"Cannot {doing}: {error.strerror or error}.", hint=hint, errno=error.errno)
