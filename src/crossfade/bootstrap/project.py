"""What the CLI does with a project: reads its crossfade.yaml, proposes one, builds and packs it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from crossfade.domain.errors import Invalid, NotFound, Refused, StorageFailed

if TYPE_CHECKING:
    from crossfade.domain.analysis.policy import Analysis
    from crossfade.signals.replay import Series
    from crossfade.spec.models import Spec

CONFIG_NAME: Final = "crossfade.yaml"

Progress = Callable[[str], None]


def config_path(place: Path) -> Path:
    """The crossfade.yaml that is meant by a file or a folder. Raises NotFound."""
    path = place / CONFIG_NAME if place.is_dir() else place
    if not path.is_file():
        raise NotFound(f"There is no {path}.", hint="`crossfade init` proposes one.")
    return path


def environments_of(path: Path) -> list[str]:
    """The names of the environments of a crossfade.yaml. Raises InvalidConfig with every problem."""
    from crossfade.spec.loader import load

    return list(load(path).environments)


def config_data(path: Path) -> dict[str, Any]:
    """The content of a crossfade.yaml as JSON-ready data, the keys that it gives only. Raises InvalidConfig."""
    from crossfade.spec.loader import load

    return load(path).to_data()


def plan(
    folder: Path,
    environment: str | None,
    traffic: Callable[[str], Mapping[str, Any]],
) -> dict[str, Any]:
    """What each step of the canary can tell. ``traffic`` gives that of an environment, as the API does.

    Raises InvalidConfig, NotFound, Refused for a strategy without steps, and whatever ``traffic`` raises.
    """
    from pydantic import TypeAdapter

    from crossfade.domain.analysis.plan import plan as make
    from crossfade.domain.analysis.sample import History
    from crossfade.domain.release import BlueGreen
    from crossfade.spec.loader import load

    path = config_path(folder)
    spec = load(path)
    name = environment or _only_environment(spec)
    config = spec.for_environment(name)
    key = f"{spec.service}/{name}"
    if isinstance(config.strategy, BlueGreen):
        raise Refused(
            f"The strategy of {key} is blue-green: all traffic moves at once, nothing is compared side by side.",
            hint="A plan is about the steps of a canary: strategy: {kind: canary, steps: […]}.",
        )
    history = TypeAdapter(History).validate_python(traffic(key))
    rungs = make(config.analysis, history, config.strategy.steps)
    return {
        "environment": key,
        "requests_per_second": round(history.requests / history.seconds, 3) if history.seconds else 0.0,
        "error_rate": history.errors / history.requests if history.requests else None,
        "measured_seconds": round(history.seconds, 1),
        "deadline": config.analysis.deadline,
        "steps": [rung.to_data() for rung in rungs],
    }


def history(source: str, config: Path | None, progress: Callable[[int], None]) -> tuple[Analysis, list[Series]]:
    """What is to be judged again, and how. Raises Invalid for rows, InvalidConfig, NotFound."""
    from crossfade.signals.replay import read
    from crossfade.spec.analysis import AnalysisPart, load

    return load(config) if config else AnalysisPart().analysis(), read(source, progress)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of crossfade.yaml."""
    from crossfade.spec.models import json_schema as schema

    return schema()


def propose(folder: Path) -> tuple[str, list[str]]:
    """A crossfade.yaml for what is in the folder, and what it was made from. Raises NotFound."""
    from crossfade.spec.propose import propose as make

    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}.")
    proposal = make(folder)
    return proposal.text, list(proposal.found)


def write_config(target: Path, text: str, force: bool) -> None:
    """Write a proposed configuration. Raises Refused when one is there, StorageFailed."""
    try:
        with open(target, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Refused(f"{target} is there already.", hint="--force replaces it, --dry-run only prints.") from None
    except OSError as error:
        raise StorageFailed(f"{target} cannot be written: {error.strerror}.") from error


@dataclass
class Package:
    """A built and packed project, ready to be uploaded. A context manager: its temporary file goes with it."""

    spec: Spec
    environment: str
    data: dict[str, Any]
    file: BinaryIO
    path: Path
    digest: str
    size: int
    files: int
    secrets: dict[str, str]

    def __enter__(self) -> Package:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)

    def summary(self) -> dict[str, Any]:
        """What would be deployed. Names of secrets only, never values."""
        config = self.spec.for_environment(self.environment)
        return {
            "service": self.spec.service,
            "environment": self.environment,
            "strategy": type(config.strategy).__name__,
            "edge": config.url,
            "replicas": config.replicas,
            "command": shlex.join(config.command),
            "artifact": self.digest,
            "files": self.files,
            "bytes": self.size,
            "secrets": ", ".join(sorted(self.secrets)) or "none",
        }

    def request(self, label: str, by: str) -> dict[str, Any]:
        """The body of the API's request to deploy."""
        return {
            "service": self.spec.service,
            "environment": self.environment,
            "digest": self.digest,
            "config": self.data,
            "secrets": self.secrets,
            "label": label,
            "by": by,
        }


def package(folder: Path, environment: str | None, strategy: str | None, progress: Progress) -> Package:
    """Build the project and pack its output. Raises InvalidConfig, NotFound, Refused when the build fails."""
    from crossfade.spec.loader import load
    from crossfade.store.artifacts import pack
    from crossfade.store.secrets import parse_env_file

    path = config_path(folder)
    root = path.parent.absolute()
    spec = load(path)
    name = environment or _only_environment(spec)
    spec.for_environment(name)  # raises NotFound now rather than after a long build
    data = spec.to_data()
    if strategy is not None:
        data = _with_strategy(data, name, strategy)
    values: dict[str, str] = {}
    for place in spec.env_files(name):
        values |= parse_env_file(_read_env_file(root / place), str(place))
    if spec.build.command:
        progress(f"builds: {shlex.join(spec.build.command)}")
        _build(spec.build.command, root)
    output = root / spec.build.output
    if not output.is_dir():
        raise NotFound(f"build.output: {output} is not a folder.", hint="Does build.command make it?")
    progress("packs the artifact")
    packed = pack(output, (*spec.build.ignore, *spec.env_files(name)))
    return Package(
        spec,
        name,
        data,
        packed.path.open("rb"),
        packed.path,
        packed.digest.text,
        packed.size,
        packed.files,
        values,
    )


def _only_environment(spec: Spec) -> str:
    names = list(spec.environments)
    if len(names) == 1:
        return names[0]
    raise Invalid("--env", "", "one of " + ", ".join(names))


def _with_strategy(data: dict[str, Any], environment: str, strategy: str) -> dict[str, Any]:
    """The configuration with another strategy for this deployment; what the file says of that kind is kept."""
    if strategy not in ("blue-green", "canary"):
        raise Invalid("--strategy", strategy, "blue-green or canary")
    mine = data["environments"][environment]
    given = mine.get("strategy") or data.get("strategy") or {}
    if given.get("kind", "blue-green") == strategy:
        return data
    fresh: dict[str, Any] = {"kind": strategy}
    if strategy == "canary":
        fresh["steps"] = [{"weight": f"{share}%", "duration": "30s"} for share in (5, 25, 50)]
    if given.get("limits"):
        fresh["limits"] = given["limits"]
    return data | {"environments": data["environments"] | {environment: mine | {"strategy": fresh}}}


def _read_env_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"env_file {path} cannot be read: {error}.") from error


def _build(command: tuple[str, ...] | list[str], root: Path) -> None:
    try:
        done = subprocess.run(list(command), cwd=root, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise Refused(f"build.command cannot be run: {error}.") from error
    if done.returncode:
        said = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()[-20:]
        lines = "\n".join(f"  {line}" for line in said) or "  (it wrote nothing)"
        raise Refused(f"build.command exited with {done.returncode}:\n{lines}")
