"""The audit log's chain: each entry's hash covers the one before, so that none can be changed or taken out unseen.

What is cut off at the end leaves a chain that is sound; its last number and hash, kept elsewhere, show that too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

GENESIS: Final = "0" * 64
"""What the first entry follows."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what, from where, with what before and after. ``seq`` counts from 1; ``at`` is epoch seconds.

    ``before`` and ``after`` are JSON-ready, and hold no secrets.
    """

    seq: int
    at: float
    who: str
    via: str
    address: str
    what: str
    key: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    def hash(self, previous: str) -> str:
        """SHA-256 over the previous hash and all fields, as JSON with sorted keys; 64 hexadecimal digits."""
        fields = [
            self.seq,
            repr(self.at),
            self.who,
            self.via,
            self.address,
            self.what,
            self.key,
            self.before,
            self.after,
        ]
        text = json.dumps([previous, *fields], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at the whole chain found. ``broken`` is the number of the first entry that does not fit."""

    ok: bool
    entries: int
    broken: int | None = None
    why: str = ""
    head: str = GENESIS


class Chain:
    """Follows a chain entry by entry."""

    def __init__(self) -> None:
        self._seq, self._head = 0, GENESIS

    def follow(self, entry: AuditEntry, kept: str) -> Verified | None:
        """None when the entry is the one that must come next; else what is wrong."""
        wanted = self._seq + 1
        if entry.seq != wanted:
            why = f"entry {wanted} is missing: the next is {entry.seq}"
            return Verified(False, self._seq, wanted, why, self._head)
        if entry.hash(self._head) != kept:
            why = f"entry {wanted} is not what was written, or what it followed is not"
            return Verified(False, self._seq, wanted, why, self._head)
        self._seq, self._head = wanted, kept
        return None

    def end(self) -> Verified:
        """All that was followed fits."""
        return Verified(True, self._seq, head=self._head)


def verify(entries: Iterable[tuple[AuditEntry, str]], last: int | None = None) -> Verified:
    """Look at a whole chain: entries in order with the hash that was kept of each.

    ``last`` is the number that the newest entry must have, when that is known from elsewhere.
    """
    chain = Chain()
    for entry, kept in entries:
        wrong = chain.follow(entry, kept)
        if wrong is not None:
            return wrong
    found = chain.end()
    if last is not None and found.entries != last:
        why = f"{last} entries were written, {found.entries} are there: the end was cut off"
        return Verified(False, found.entries, found.entries + 1, why, found.head)
    return found
