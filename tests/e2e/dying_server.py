"""The real server, except that it kills itself, by SIGKILL, once at every boundary between two steps of a rollout.

``python -m tests.e2e.dying_server STATE PORT RECORD MODE``: with MODE ``kill`` each boundary that RECORD does not hold
yet is written there and then dies; with MODE ``list`` it is only written there.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from crossfade import bootstrap


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
        if mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    bootstrap.serve(state, bootstrap.Given("127.0.0.1", port), at)


if __name__ == "__main__":
    main()
