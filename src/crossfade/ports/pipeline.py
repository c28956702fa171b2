"""What a pipeline needs of the world, as Protocols: repositories, steps, dependent services, gates, trials, reports.

Everything that runs for a stage dies with the server: what a killed server leaves is swept away at the next start.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from crossfade.domain.pipeline.plan import Commit, Compare, Container, Dependent, Gate, Load, Outcome, SmokeFlow
from crossfade.domain.pipeline.run import Run, RunPlan
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.values import Digest, ReleaseNumber


class Cancel(Protocol):
    """Set once somebody wants an end. `threading.Event` is one."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


DELIVERIES_KEPT: Final = 10_000
"""How many of a service's last webhooks are known, so that none is heard twice."""

Tell = Callable[[str], None]
"""Takes one line for people: what is going on. It also goes into the log of the node."""


class Relation(enum.StrEnum):
    """How a commit stands to another one."""

    SAME = "same"
    OLDER = "older"
    NEWER = "newer"
    UNRELATED = "unrelated"


class Repositories(Protocol):
    """Git. ``repository`` is a path on this machine, or a URL, of which a mirror is kept."""

    def fetch(self, repository: str, secret: str = "") -> None:
        """Bring the mirror of a URL up to date, with a token when there is one; nothing for a path.

        Raises Invalid for what cannot be one, Unavailable when it does not answer, NotFound when there is none.
        """

    def commit(self, repository: str, ref: str) -> Commit:
        """A branch, tag or commit. Raises Invalid for a name that git would take for an option, NotFound, Unavailable."""

    def relation(self, repository: str, one: str, other: str) -> Relation:
        """How ``one`` stands to ``other``, both commit ids: OLDER when it is an ancestor of it. A stranger is UNRELATED."""

    def checkout(self, repository: str, commit: str, folder: Path) -> None:
        """A clean work tree in a folder that is not there yet. Raises NotFound, StorageFailed, Unavailable."""

    def snapshot(self, work_tree: Path, folder: Path) -> Commit:
        """A copy of a work tree as it is now, tracked and untracked files but not ignored ones; the commit it stands on.

        The subject of a tree with changes ends in ``(with changes)``. Raises NotFound where there is no repository.
        """

    def remove(self, folder: Path) -> None:
        """Take a checkout away, whatever was written into it; nothing when there is none."""

    def changed(self, repository: str, base: str, commit: str) -> Mapping[str, frozenset[int]]:
        """Lines added or changed from the merge base of both to ``commit``, by path. Raises NotFound."""

    def file(self, repository: str, commit: str, path: str) -> bytes | None:
        """A file of a commit, at most 16 MiB; None when it has none. Raises NotFound, Invalid."""


@dataclass(frozen=True, slots=True)
class Job:
    """One command to be run. ``name`` is unique among what runs; ``tree`` is the checkout, ``folder`` within it.

    ``env`` is all that it gets besides PATH, HOME (a folder of its own), LANG and TMPDIR; ``secrets`` are variables too,
    whose values never reach the log. ``log`` is appended to. ``owner`` (``run-12``) is what `Steps.sweep` knows it by.
    """

    name: str
    owner: str
    command: tuple[str, ...]
    tree: Path
    folder: Path
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 600.0
    memory: int = 2**31
    output: int = 100 * 2**20
    container: Container | None = None


class How(enum.StrEnum):
    """How a job ended."""

    EXITED = "exited"
    KILLED = "killed"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT = "output"
    CANCELLED = "cancelled"
    NOT_STARTED = "not-started"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Ended:
    """``status`` is the exit status, or the signal's number with KILLED. ``sentence`` says it: ``exited with 1 after 2.3 s``.

    ``left`` counts processes that the command left behind, which are ended. ``memory`` is the peak in bytes.
    """

    how: How
    status: int
    sentence: str
    seconds: float
    memory: int = 0
    written: int = 0
    left: int = 0


class Steps(Protocol):
    """Runs commands as processes or in containers, within limits."""

    def run(self, job: Job, cancel: Cancel) -> Ended:
        """Run it to its end; when this returns, nothing of it runs any more. Raises StorageFailed when no log can be written."""

    def sweep(self, owner: str = "") -> int:
        """End whatever still runs of an owner (of all when empty) after a crash; how many processes that were."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something that was started for a stage can be reached."""

    name: str
    host: str
    port: int
    url: str
    env: Mapping[str, str]
    """What nodes are told of it: ``NAME_HOST``, ``NAME_PORT``, ``NAME_URL``."""


class Dependents(Protocol):
    """Starts the services that a stage needs."""

    def start(
        self,
        dependents: Sequence[Dependent],
        *,
        owner: str,
        folder: Path,
        tree: Path,
        artifact: Path | None,
        env: Mapping[str, str],
        tell: Tell,
        cancel: Cancel,
    ) -> AbstractContextManager[Mapping[str, Place]]:
        """Start them all, each when those before it are up; leaving the context stops them and removes what they wrote.

        ``folder`` is theirs: data and a log for each (``NAME.log``). ``env`` goes to commands, as do the variables of those
        before. Entering raises Unavailable with the last log lines of one that does not start, Invalid, StorageFailed.
        """

    def sweep(self) -> None:
        """Remove the files that a killed server has left."""


class Caches(Protocol):
    """Results of steps by what they were made from."""

    def key(self, command: Sequence[str], tree: Path, inputs: Sequence[str], env: Mapping[str, str]) -> str:
        """Of command, content of the inputs (paths and patterns in ``tree``), variables and platform. Raises Invalid, NotFound."""

    def restore(self, key: str, tree: Path) -> bool:
        """Put the outputs back; False when nothing whole is kept under the key."""

    def keep(self, key: str, tree: Path, outputs: Sequence[str]) -> None:
        """Keep the outputs. Old results go when all are larger than the cap."""


@dataclass(frozen=True, slots=True)
class Before:
    """The release in production, for gates that compare. ``label`` names it for people: ``r12 (4f2c81a)``.

    ``file`` gives a file of its commit or of its kept reports, None when there is none. ``report`` gives the report that the
    gate of the same name read when that release went through the pipeline.
    """

    label: str
    file: Callable[[str], bytes | None]
    report: Callable[[str], bytes | None]


@dataclass(frozen=True, slots=True)
class GateContext:
    """What a gate may look at besides its report.

    ``tree`` is the checkout: reports are read in it and nowhere else. ``changed`` gives the lines changed since the base,
    None when no base is known. ``places`` are the stage's dependent services.
    """

    tree: Path
    changed: Mapping[str, frozenset[int]] | None = None
    before: Before | None = None
    places: Mapping[str, Place] = field(default_factory=dict)


class Gates(Protocol):
    """Reads reports. What comes in is hostile: nothing of it is trusted, and no fault of it is a pass."""

    def read(self, name: str, gate: Gate, context: GateContext) -> Outcome:
        """The outcome, whatever the report is: missing, empty, too large and malformed ones fail with the reason."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One of two releases that are compared: its unpacked artifact, its configuration, its name (``r12``)."""

    name: str
    folder: Path
    config: ReleaseConfig
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """What an environment's clients asked for, by hour. ``peak`` is the greatest hourly mean rate, in requests a second.

    ``mix`` maps ``METHOD /templated/path`` to its share; ``hours`` counts the hours that are known.
    """

    peak: float
    mix: Mapping[str, float]
    hours: int
    busiest: float
    """When the busiest hour began (epoch s)."""


class Trials(Protocol):
    """What is tried out with a running release: smoke flows, load, a comparison of two."""

    def smoke(self, url: str, flows: Sequence[SmokeFlow], tell: Tell, cancel: Cancel) -> Outcome:
        """Each flow against an environment's edge; names the check, what was expected and what came."""

    def load(self, url: str, load: Load, profile: Profile | None, folder: Path, tell: Tell, cancel: Cancel) -> Outcome:
        """Open-loop load; raw results go into ``folder``. No profile and no rate of its own: no-data, with what to do."""

    def compare(
        self,
        compare: Compare,
        before: Contender,
        after: Contender,
        *,
        owner: str,
        folder: Path,
        tell: Tell,
        cancel: Cancel,
    ) -> Outcome:
        """Paired blocks of both, until it can tell or the cap is reached."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A signed in-toto statement about an artifact, as a DSSE envelope in JSON."""

    digest: Digest
    envelope: str
    run: int | None
    at: float


class Signer(Protocol):
    """Signs statements with this installation's key, and checks signatures."""

    @property
    def key_id(self) -> str:
        """A name of the public key."""

    def public(self) -> str:
        """The public key as PEM."""

    def sign(self, statement: Mapping[str, Any]) -> str:
        """A DSSE envelope in JSON around the statement."""

    def open(self, envelope: str) -> Mapping[str, Any]:
        """The statement of an envelope that this installation signed. Raises Invalid for any other."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a service's commits come from, and whom to tell of its runs. Written down by an admin of the installation.

    ``repository`` is a path or URL. ``secrets`` names a set of values in the secret store: ``webhook`` (what signs
    webhooks), ``token`` (for fetching and statuses) and variables of steps; ``files`` names those of env_files by
    environment. ``forge`` is github, gitlab, gitea or empty; ``api`` its API's URL, ``project`` ``owner/name`` there.
    ``sinks`` are URLs that get CDEvents, ``chat`` ones that get Slack-style messages.
    """

    service: str
    repository: str
    created: float
    secrets: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    forge: str = ""
    api: str = ""
    project: str = ""
    sinks: tuple[str, ...] = ()
    chat: tuple[str, ...] = ()
    config: str = "crossfade.yaml"
    """Where in the repository the service is described: a path to the file."""


@dataclass(frozen=True, slots=True)
class News:
    """Something about a run that others are told.

    ``kind``: ``queued``, ``stage-queued`` (of each stage, at the very beginning, so that a forge shows it as pending),
    ``stage-began``, ``stage-ended``, ``ended``, ``deployed``, ``upgraded``, ``rolledback`` or ``gate``. ``state`` is
    pending, success, failure or cancelled. ``facts`` are JSON-ready: stage, environment, release, artifact, gate.
    """

    id: str
    """The same news has the same id, so that it is told once."""
    at: float
    kind: str
    run: int
    service: str
    commit: str
    branch: str
    state: str
    sentence: str
    url: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Notifier(Protocol):
    """Tells others of a run: commit statuses, CDEvents, chat."""

    def tell(self, source: Source, secrets: Mapping[str, str], news: News) -> tuple[str, ...]:
        """Tell everybody whom the source names. Never raises; what could not be told is returned, a sentence each."""


class Runs(Protocol):
    """The ledger of runs, and what belongs to them. Durable when a call returns."""

    def add_run(self, plan: RunPlan) -> Run:
        """Number it, one higher than any."""

    def save_run(self, run: Run, now: float) -> None:
        """Write its state, and say in the feed that it has changed."""

    def run(self, id: int) -> Run:
        """Raises NotFound."""

    def runs(
        self,
        service: str | None = None,
        *,
        open_only: bool = False,
        limit: int = 50,
        before: int | None = None,
    ) -> tuple[Run, ...]:
        """Newest first; those with an id below ``before`` only."""

    def counts(self, limit: int) -> Mapping[tuple[str, str], int]:
        """How many of the newest runs there are by service and status."""

    def note_release(self, service: str, number: ReleaseNumber, run: int) -> None:
        """Which run a release came from."""

    def run_of(self, service: str, number: ReleaseNumber) -> int | None: ...

    def passed_stages(self, service: str, commit: str) -> Mapping[str, int]:
        """The stages that a commit has passed, each with the newest run in which it did."""

    def add_source(self, source: Source) -> None:
        """Write it down, in place of what was known of the service."""

    def source(self, service: str) -> Source | None: ...

    def sources(self) -> tuple[Source, ...]:
        """By service."""

    def remove_source(self, service: str) -> None:
        """Raises NotFound."""

    def claim_delivery(self, service: str, delivery: str, now: float) -> bool:
        """Take a webhook's delivery; False when it was taken before, for `DELIVERIES_KEPT` of each service."""

    def give_up_delivery(self, service: str, delivery: str) -> None:
        """It came to nothing, for a reason that may pass: it may be delivered again."""

    def keep_statement(self, statement: Statement) -> None:
        """The first one of a digest stays."""

    def statement(self, digest: Digest) -> Statement | None: ...

    def keep_report(self, run: int, stage: str, path: str, content: bytes) -> None:
        """What a gate has read, for the gates of later runs."""

    def report(self, run: int, stage: str, path: str) -> bytes | None: ...


class Packer(Protocol):
    """Packs the output of a build."""

    def pack(self, folder: Path, ignore: Sequence[str]) -> AbstractContextManager[BinaryIO]:
        """The canonical tarball of a folder; a temporary file that goes with the context. Raises Invalid, NotFound."""


@dataclass(frozen=True)
class Works:
    """Everything outside that a run touches besides `ports.Parts`. ``url`` is where people reach the dashboard."""

    runs: Runs
    repositories: Repositories
    steps: Steps
    dependents: Dependents
    caches: Caches
    gates: Gates
    trials: Trials
    notifier: Notifier
    signer: Signer
    packer: Packer
    folder: Path
    url: str = ""
