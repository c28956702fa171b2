"""Put one version of the bookshop together.

    python3 build.py [--version v2] [--fault slow] [--output build/app]

Each folder of `versions/` holds the files that the version changed or added; a version is all of them up to its own,
one over the other. A fault, for trying out what a rollout does with it, goes on top. Without `--version` and `--fault`
the variables BOOKSHOP_VERSION and BOOKSHOP_FAULT count, so that a build command without arguments can build any.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSIONS = sorted((folder.name for folder in (HERE / "versions").iterdir()), key=lambda name: int(name[1:]))
FAULTS = sorted(folder.name for folder in (HERE / "faults").iterdir())


def build(version: str, fault: str, output: Path) -> None:
    """Raises ValueError for names that there are not, and for an output folder that holds something else."""
    if version not in VERSIONS:
        raise ValueError(f"there is no version {version!r}; there are {', '.join(VERSIONS)}")
    if fault and fault not in FAULTS:
        raise ValueError(f"there is no fault {fault!r}; there are {', '.join(FAULTS)}")
    if output.exists():
        if any(output.iterdir()) and not (output / "bookshop" / "__main__.py").exists():
            raise ValueError(f"{output} holds something else than a build; choose another folder")
        shutil.rmtree(output)
    layers = [HERE / "versions" / name for name in VERSIONS[: VERSIONS.index(version) + 1]]
    if fault:
        layers.append(HERE / "faults" / fault)
    for layer in layers:
        shutil.copytree(layer, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Put one version of the bookshop together.")
    parser.add_argument("--version", default=os.environ.get("BOOKSHOP_VERSION") or "v1", help=", ".join(VERSIONS))
    parser.add_argument("--fault", default=os.environ.get("BOOKSHOP_FAULT", ""), help=", ".join(FAULTS))
    parser.add_argument("--output", type=Path, default=HERE / "build" / "app", help="default: build/app")
    given = parser.parse_args()
    try:
        build(given.version, given.fault, given.output)
    except (ValueError, OSError) as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    print(f"bookshop {given.version}{f' with the fault {given.fault}' if given.fault else ''} is in {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
