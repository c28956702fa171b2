"""What waits for one target: sent one after the other by a thread of its own, tried again while that makes sense."""

from __future__ import annotations

import hashlib
import hmac
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from crossfade.domain.alert import Severity
from crossfade.domain.errors import CrossfadeError
from crossfade.domain.notice import Notice, again
from crossfade.ports import Parts, Record
from crossfade.ports.notices import Answer, Dispatch, Result

KIND: Final = "notice"
LEDGER_PAUSE: Final = 5.0
"""Seconds until another try when the ledger cannot be written."""
LONGEST_WISH: Final = 3600.0
"""Seconds that a target may ask to be left alone."""

log = logging.getLogger("crossfade.notices")


@dataclass(slots=True)
class Waiting:
    """A notice on its way. ``due`` is when it is tried (next); times are epoch seconds."""

    record: Record
    notice: Notice
    tries: int
    due: float


class Outbox:
    """One target's. Whoever is worst served first waits for nobody else: the most severe goes first, then the oldest."""

    def __init__(self, name: str, parts: Parts, carry: Callable[[Dispatch], Answer]) -> None:
        self.name = name
        self._parts, self._carry = parts, carry
        self._waiting: dict[int, Waiting] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"notices to {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more. What is at work is let go: it is known that it was not told, and is told by the next server."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the thread, which may be held by its target."""
        if self._thread.is_alive():
            self._thread.join(timeout=seconds)

    def add(self, record: Record) -> None:
        """Take a notice that is written down. Never waits for the target."""
        due = record.data["next"]
        waiting = Waiting(record, Notice.from_data(record.data["notice"]), record.data["tries"], due)
        with self._changed:
            self._waiting[record.id] = waiting
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._waiting)

    def tried(self, id: int, seconds: float) -> bool:
        """Wait until a notice was tried once; whether it was."""
        with self._changed:
            return self._changed.wait_for(
                lambda: id not in self._waiting or self._waiting[id].tries > 0 or self._stopping, seconds
            )

    def _run(self) -> None:
        while (waiting := self._next()) is not None:
            try:
                self._try(waiting)
            except CrossfadeError as error:
                log.warning("what became of a notice to %s cannot be written down: %s", self.name, error)
                waiting.due = self._parts.now() + LEDGER_PAUSE
            except Exception:
                log.exception("a notice to %s", self.name)
                waiting.due = self._parts.now() + LEDGER_PAUSE

    def _next(self) -> Waiting | None:
        """The next that is due; None when the server ends."""
        with self._changed:
            while not self._stopping:
                now = self._parts.now()
                due = [one for one in self._waiting.values() if one.due <= now]
                if due:
                    return min(due, key=lambda one: (_rank(one.notice.severity), one.record.id))
                pause = min((one.due - now for one in self._waiting.values()), default=60.0)
                # Not longer than a second where something waits: a clock may be set.
                self._changed.wait(min(pause, 1.0) if self._waiting else pause)
        return None

    def _try(self, waiting: Waiting) -> None:
        record, now = waiting.record, self._parts.now()
        answer = self._carry(Dispatch(dispatch_id(self._parts, record.id), waiting.notice, now))
        waiting.tries += 1
        now = self._parts.now()
        data = {**record.data, "tries": waiting.tries, "answer": answer.sentence, "digest": answer.digest}
        due = None
        if answer.result is not Result.SENT and waiting.notice.kind != "test":
            refused = answer.result is Result.REFUSED
            chance = random.random()  # noqa: S311 - it spreads tries, it guards nothing
            due = again(waiting.notice.severity, waiting.tries, refused, record.began, now, chance)
            if due is not None and answer.after is not None:
                due = max(due, now + min(answer.after, LONGEST_WISH))
        if due is not None:
            data |= {"state": "waiting", "next": due}
            self._parts.records.save(record.id, data, now, told=waiting.tries == 1)
            waiting.record, waiting.due = replace(record, data=data), due
        else:
            data |= {"state": "sent" if answer.result is Result.SENT else "failed", "next": None}
            self._parts.records.save(record.id, data, now, ended=True)
            if answer.result is not Result.SENT:
                log.warning("notice #%d was not told to %s: %s", record.id, self.name, answer.sentence)
        with self._changed:
            if due is None:
                del self._waiting[record.id]
            self._changed.notify_all()


def dispatch_id(parts: Parts, record: int) -> str:
    """What a target knows a notice by: the same for every try, also by another server."""
    return "ntc_" + hmac.new(parts.key, f"notice {record}".encode(), hashlib.sha256).hexdigest()[:32]


def _rank(severity: Severity) -> int:
    return tuple(Severity).index(severity)


def kept(target: str, notice: Notice, state: str, now: float) -> dict[str, Any]:
    """A notice to a target as it is first written down."""
    return {
        "target": target,
        "state": state,
        "tries": 0,
        "next": now,
        "answer": "",
        "digest": "",
        "notice": notice.to_data(),
    }
