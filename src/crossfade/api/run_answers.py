"""What the API gives of pipelines, as types: for its document and its clients."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict


class RunNode(TypedDict):
    """One thing done in a stage. ``finding`` is pass, fail, inconclusive or no-data; null while there is none."""

    name: str
    kind: str
    needs: list[str]
    status: str
    began: float | None
    finished: float | None
    sentence: str
    finding: str | None
    details: list[str]
    numbers: dict[str, Any]
    cached: bool
    flaky: bool
    waiting: str
    log: bool


class RunStage(TypedDict):
    """A stage of a run; ``release``, ``rollout`` and ``approval`` are of its deployment."""

    name: str
    status: str
    attempt: int
    began: float | None
    finished: float | None
    waiting: str
    reason: str
    environment: str | None
    release: str | None
    rollout: int | None
    approval: int | None
    nodes: list[RunNode]


class Run(TypedDict):
    """One passage of a commit through the pipeline. Times are epoch seconds."""

    id: int
    service: str
    key: str
    repository: str
    commit: str
    short: str
    subject: str
    author: str
    committed: float
    branch: str
    trigger: str
    by: str
    status: str
    ended: bool
    waiting: str
    reason: str
    artifact: str | None
    queued: float
    began: float | None
    finished: float | None
    now: float
    stages: list[RunStage]


class Log(TypedDict):
    """A part of a log; ``next`` is where the part that follows begins, in bytes."""

    text: str
    next: int
    size: int
    ended: bool


class Source(TypedDict):
    """Where a service's commits come from. Of secrets the names only; of chats the hosts only."""

    service: str
    repository: str
    created: float
    forge: str
    api: str
    project: str
    sinks: list[str]
    chat: list[str]
    config: str
    secrets: list[str]
    files: dict[str, list[str]]
    hook: str


class Heard(TypedDict):
    """What came of a webhook; ``run`` is null when it began none."""

    run: int | None
    said: str


class Spent(TypedDict):
    """How long a stage waited and worked, in seconds; ``why`` is what it waited for longest."""

    name: str
    status: str
    waited: float
    worked: float | None
    why: str


class Flow(TypedDict):
    """A run's way; ``lead`` are the seconds from the commit to production."""

    id: int
    short: str
    subject: str
    branch: str
    status: str
    committed: float
    queued: float
    finished: float | None
    lead: float | None
    stages: list[Spent]


class StageSummary(TypedDict):
    """Medians of a stage over the runs that are shown, in seconds."""

    name: str
    n: int
    failed: int
    waited_median: float | None
    worked_median: float | None


class StreamSummary(TypedDict):
    """Over the runs that are shown."""

    deployments: int
    lead_median: float | None
    stages: list[StageSummary]


class ValueStream(TypedDict):
    """How long commits take from commit to production."""

    service: str
    runs: list[Flow]
    summary: StreamSummary


class Statement(TypedDict):
    """What is signed about a release's artifact. ``envelope`` is DSSE, ``key`` names the public key."""

    release: str
    artifact: str
    ok: bool
    sentence: str
    problems: list[str]
    statement: dict[str, Any] | None
    envelope: str | None
    key: str
