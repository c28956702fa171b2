"""Steps in containers, by the command line of podman or docker. Nothing is ever pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from crossfade.domain.errors import Invalid, Unavailable
from crossfade.domain.pipeline.plan import Container
from crossfade.ports.pipeline import Job

PROGRAMS: Final = ("podman", "docker")
CONTAINER_VARIABLES: Final = (
    "HOME",
    "CONTAINERS_CONF",
    "XDG_RUNTIME_DIR",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "DOCKER_HOST",
)
"""What podman and docker themselves need to find their images. The step does not see them."""

MOST_PROCESSES: Final = 1000
PATIENCE: Final = 30.0


def run_command(program: str, job: Job, container: Container, *, name: str, variables: Path, place: str) -> list[str]:
    """The whole command line. ``variables`` is the file that the step's variables are in, ``name`` the container's."""
    return [
        *(program, "run", "--rm", "--pull", "never"),
        *("--name", name),
        *("--label", f"crossfade-owner={job.owner}"),
        *("--label", f"crossfade-place={place}"),
        *("--network", container.network),
        *("--memory", str(job.memory)),
        *("--memory-swap", str(job.memory)),
        *("--pids-limit", str(MOST_PROCESSES)),
        *("--security-opt", "no-new-privileges"),
        *("--env-file", str(variables)),
        *("--mount", f"type=bind,source={job.tree},target={job.tree}"),
        *("--workdir", str(job.folder)),
        *("--entrypoint", job.command[0]),
        "--",
        container.image,
        *job.command[1:],
    ]


def variables_file(variables: Mapping[str, str]) -> str:
    """The text of an env-file. Raises Invalid for a value of several lines: such a file cannot hold it."""
    for name, value in variables.items():
        if "\n" in value or "\r" in value:
            raise Invalid(f"the variable {name} of a step in a container", "several lines", "one line")
    return "".join(f"{name}={value}\n" for name, value in variables.items())


class Containers:
    """Removes containers that are left. ``place`` tells those of this installation from others."""

    def __init__(self, place: str) -> None:
        self._place = place

    def program(self) -> str:
        """The one that there is. Raises Unavailable."""
        for name in PROGRAMS:
            if found := shutil.which(name):
                return found
        raise Unavailable(
            "A step wants a container, and there is neither podman nor docker on PATH.",
            hint="Install one of them: Debian's package podman, for example.",
        )

    def remove(self, program: str, name: str) -> None:
        """Remove one, running or not; nothing when there is none."""
        self._ask([program, "rm", "--force", name])

    def sweep(self, owner: str = "") -> int:
        """Remove those of an owner, of all when empty; how many."""
        count = 0
        for program in filter(None, map(shutil.which, PROGRAMS)):
            label = f"label=crossfade-owner={owner}" if owner else "label=crossfade-owner"
            found = self._ask(
                [
                    program,
                    "ps",
                    "--all",
                    "--quiet",
                    "--filter",
                    label,
                    "--filter",
                    f"label=crossfade-place={self._place}",
                ]
            )
            for name in found.split():
                self._ask([program, "rm", "--force", name])
                count += 1
        return count

    @staticmethod
    def _ask(command: list[str]) -> str:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=PATIENCE,
                check=False,
                env={key: os.environ[key] for key in ("PATH", *CONTAINER_VARIABLES) if key in os.environ},
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""
