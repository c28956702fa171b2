"""The real server, except that it kills itself, by SIGKILL, once at every boundary between two steps.

``python -m tests.e2e.dying_server STATE PORT RECORD MODE``: with MODE ``kill`` each boundary of a rollout that RECORD does
not hold yet is written there and then dies; with MODE ``list`` it is only written there. MODE ``kill-ramps`` dies so after
every kind of write that a ramp makes into the ledger, which is before the next one; MODE ``kill-watch`` after those of a
watch over a promotion.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossfade import bootstrap
from crossfade.store.access import SqlAccess
from crossfade.store.flags import SqlFlags
from crossfade.store.records import SqlRecords
from crossfade.store.sql import SqlStore


def main() -> None:
    state, port, record, mode = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]

    def at(boundary: str) -> None:
        known = record.read_text().splitlines() if record.exists() else []
        if boundary in known:
            return
        with record.open("a") as file:
            file.write(boundary + "\n")
            file.flush()
            os.fsync(file.fileno())
        if mode != "list":
            os.kill(os.getpid(), signal.SIGKILL)

    given = bootstrap.Given("127.0.0.1", port)
    if mode == "kill-watch":
        after(SqlRecords, "save", at_named(at), _watched)
        after(SqlRecords, "add", at_named(at), lambda kind, *_, **__: "alerted" if kind == "alert" else "")
        after(SqlStore, "begin", at, lambda *_, **__: "begun")
        bootstrap.serve(state, given)
        return
    if mode != "kill-ramps":
        bootstrap.serve(state, given, at)
        return
    after(SqlFlags, "add_ramp", at, lambda *_, **__: "begun")
    after(SqlFlags, "save_ramp", at, _saved)
    after(SqlFlags, "write", at, lambda _key, document, flags, *_, **__: _written(document, flags))
    after(SqlAccess, "note", at, lambda *_, **__: "", lambda entry: f"noted {entry.what}")
    bootstrap.serve(state, given)


def after(
    of: type, name: str, at: Callable[[str], None], given: Callable[..., str], made: Callable[[Any], str] | None = None
) -> None:
    """Call ``at`` once the method has returned, with what was given to it, or was made of it, in words."""
    real = getattr(of, name)

    def called(self: Any, *args: Any, **named: Any) -> Any:
        found = real(self, *args, **named)
        at(made(found) if made is not None else given(*args, **named))
        return found

    setattr(of, name, called)


def at_named(at: Callable[[str], None]) -> Callable[[str], None]:
    """Only at boundaries that have a name."""
    return lambda boundary: at(boundary) if boundary else None


def _watched(_id: int, data: Any, *_: Any, **__: Any) -> str:
    return f"saved {data['watch']['phase']}" if "watch" in data and data["watch"]["phase"] != "watching" else ""


def _saved(_id: int, state: Any, *_: Any, **__: Any) -> str:
    ramp = state["ramp"]
    return " ".join(("saved", ramp["phase"], *(action["kind"] for action in ramp["pending"])))


def _written(document: Any, flags: Any) -> str:
    killed = any(document["flags"][name].get("crossfade", {}).get("killed") for name in flags)
    return "wrote kill" if killed else "wrote share"


if __name__ == "__main__":
    main()
