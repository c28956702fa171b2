"""What the API gives, as types: of the OpenAPI document and of the client."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from typing_extensions import TypedDict

Row = TypeVar("Row")


class Page(TypedDict, Generic[Row]):
    """A piece of a list; ``next`` is the cursor of the next piece, null at the end."""

    items: list[Row]
    next: str | None


class Health(TypedDict):
    """The server is up."""

    status: str
    version: str


class Ready(TypedDict):
    """Whether the server can work, and why not."""

    ready: bool
    reasons: list[str]


class Me(TypedDict):
    """Who asks. ``via`` is `local` or `token`."""

    name: str
    via: str
    grants: list[str]
    credential: str


class Artifact(TypedDict):
    """An artifact by its content; ``size`` in bytes."""

    digest: str
    size: int
    files: int


class Release(TypedDict):
    """``standing`` is live, candidate, warm, stopped or failed; ``why_not`` why it cannot be restored.

    ``proven`` is when that was last proven by doing it aside; ``proof`` is the newest try, null when there was none.
    """

    release: str
    standing: str
    label: str
    digest: str
    created: float
    in_window: bool
    restorable: bool
    checked: float | None
    why_not: list[str]
    proven: float | None
    proof: dict[str, Any] | None


class ReleaseDetail(Release):
    """A release with its configuration, without secrets."""

    config: dict[str, Any]


class Difference(TypedDict):
    """A setting that differs between two releases, by its path."""

    setting: str
    before: Any
    after: Any


class Rollout(TypedDict):
    """Weights are basis points, times epoch seconds."""

    id: int
    service: str
    environment: str
    kind: str
    strategy: str
    candidate: str
    baseline: str | None
    slot: str
    phase: str
    ended: bool
    weight: int
    step: int
    steps: list[dict[str, Any]]
    paused: bool
    waiting: str
    verdict: dict[str, Any] | None
    metrics: list[Any]
    reason: str
    detail: list[str]
    plan: dict[str, Any] | None
    killed: list[dict[str, Any]]
    going_back: dict[str, Any] | None
    by: str
    began: float
    entered: float
    now: float


class Remedy(TypedDict):
    """One way to end a harm: whether it applies, or why not; ``seconds`` it takes about; what clients notice."""

    what: str
    target: str
    text: str
    seconds: float
    notices: str
    applies: bool
    why: str


class RollbackPlan(TypedDict):
    """All remedies; ``chosen`` is the place of the cheapest that applies, null when none does, and ``reason`` says why."""

    calls: str
    remedies: list[Remedy]
    chosen: int | None
    reason: str


class Environment(TypedDict):
    """One environment with its slots, edge and rollout."""

    service: str
    environment: str
    live: str | None
    label: str
    active_slot: str | None
    url: str | None
    slots: dict[str, Any]
    edge: dict[str, Any]
    rollout: Rollout | None
    last_rollout: int | None
    last: dict[str, Any] | None
    migrations: list[dict[str, Any]]


class Entry(TypedDict):
    """A line of a rollout's journal."""

    at: float
    text: str
    phase: str
    weight: int


class Preview(TypedDict):
    """The request header that reaches the candidate."""

    header: str
    value: str


class Sample(TypedDict):
    """The rates of both arms at ``t``: per second, times in ms."""

    t: float
    weight: int
    phase: str
    arms: dict[str, Any]


class Approval(TypedDict):
    """``state`` is waiting, approved, rejected or superseded."""

    approval: int
    service: str
    environment: str
    release: str
    role: str
    by: str
    asked: float
    state: str
    decided_by: str | None
    decided: float | None
    why: str
    rollout: int | None


class Account(TypedDict):
    """Somebody who may ask; ``issuer`` vouches for them, empty: we do."""

    name: str
    grants: list[str]
    created: float
    disabled: bool
    has_password: bool
    issuer: str


class Token(TypedDict):
    """``owner`` is empty for the installation's own; times are epoch seconds, null: never."""

    id: str
    name: str
    owner: str
    grants: list[str]
    created: float
    expires: float | None
    revoked: float | None
    used: float | None


class NewToken(Token):
    """``token`` is shown this once; a repeated answer has null."""

    token: str | None


class Link(TypedDict):
    """``url`` is good once, until ``expires``; a repeated answer has null."""

    url: str | None
    expires: float


class AuditEntry(TypedDict):
    """Who did what, to what, from where, with what before and after."""

    seq: int
    at: float
    who: str
    via: str
    address: str
    what: str
    key: str
    before: dict[str, Any]
    after: dict[str, Any]


class Verified(TypedDict):
    """What a look at the whole chain found; ``broken`` is the first entry that does not fit."""

    ok: bool
    entries: int
    broken: int | None
    why: str
    head: str


class Accepted(TypedDict):
    """How many events were counted."""

    accepted: int


class Finding(TypedDict):
    """What the server found of its own installation."""

    check: str
    ok: bool


class Change(TypedDict):
    """The data of an event of the stream."""

    at: float
    kind: str
    key: str
    rollout: int | None
    data: dict[str, Any]
