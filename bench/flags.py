"""``python -m bench.flags``: what flags cost, in an application's own process and over OFREP: two benches, in turn."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

BENCHES: Final = ("flag_evaluation", "flag_serving")


def main() -> int:
    """Both tables, whatever becomes of the first. Exit 0 both done, 1 one was not measured or a request of ours failed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.flags", description="What flags cost, in process and over OFREP"
    )
    parser.add_argument(
        "--short", "--quick", action="store_true", help="a quick run that proves that both benches work"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="where to write the figures, a file for each bench")
    given = parser.parse_args()
    done = 0
    for name in BENCHES:
        options = ["--rounds", str(given.rounds), *(["--short"] if given.short else [])]
        if given.json is not None:
            given.json.mkdir(parents=True, exist_ok=True)
            options += ["--json", str(given.json / f"{name}.json")]
        # A process for each: what one has loaded would be in the other's way.
        command = [sys.executable, "-m", f"bench.{name}", *options]
        done = max(done, subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode)
        print(flush=True)
    return done


if __name__ == "__main__":
    sys.exit(main())
