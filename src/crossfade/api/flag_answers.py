"""What the API gives of flags, ramps and experiments, as types of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict


class LastChange(TypedDict):
    """The newest version that changed a flag. ``at`` is epoch seconds."""

    version: int
    at: float
    by: str
    note: str


class Stale(TypedDict):
    """A flag that could go. ``kind`` is `unused`, `decided` or `unknown`; ``last`` is when it was evaluated last."""

    flag: str
    kind: str
    why: str
    last: float | None


class Rule(TypedDict):
    """``serves`` is a variant, `split` or `linear`; ``shares`` are basis points."""

    name: str
    paused: bool
    serves: str
    shares: dict[str, int]


class FlagInShort(TypedDict):
    """A flag in a list. ``off`` is served while it is killed; ``ramp`` is the number of one under way."""

    key: str
    enabled: bool
    killed: dict[str, Any] | None
    description: str
    owner: str
    tags: list[str]
    permanent: bool
    variants: dict[str, Any]
    default: str | None
    off: str | None
    needs: str | None
    requires: list[dict[str, Any]]
    rules: list[Rule]
    targeting: bool
    changed: LastChange | None
    stale: Stale | None
    ramp: int | None
    experiments: list[str]


class Served(TypedDict):
    """Which version is served, to the oldest release. ``stale_since`` is set while the ledger is away, ``age`` the seconds since."""

    service: str
    environment: str
    version: int
    release: str | None
    stale_since: float | None
    age: float


class FlagList(Served):
    """A page of flags; ``next`` is the cursor of the next one."""

    segments: list[str]
    evaluators: list[str]
    metadata: dict[str, Any]
    items: list[FlagInShort]
    next: str | None


class Usage(TypedDict):
    """How often a release evaluated the flag to a variant; an empty one is the code's own default."""

    variant: str
    release: str
    n: int
    first: float
    last: float


class Flag(Served):
    """One flag: ``flag`` is its data as in a flag set. ``requests`` are those that wait."""

    key: str
    flag: dict[str, Any]
    changed: LastChange | None
    stale: Stale | None
    usage: list[Usage]
    required_by: list[str]
    requests: list[int]
    ramps: list[dict[str, Any]]
    experiments: list[str]


class FlagRequest(TypedDict):
    """``before`` and ``after`` by place, such as `flags/new-checkout`; ``state`` is waiting, approved, rejected or superseded."""

    request: int
    service: str
    environment: str
    what: str
    flags: list[str]
    before: dict[str, Any]
    after: dict[str, Any]
    version: int
    role: str
    by: str
    asked: float
    note: str
    state: str
    decided_by: str | None
    decided: float | None
    why: str
    applied: int | None


class Changed(TypedDict):
    """What came of a change: the ``version`` that holds it, or the ``request`` that waits for somebody else's word."""

    version: int | None
    flags: list[str]
    request: FlagRequest | None


class Difference(TypedDict):
    """What differs of a flag, or of what flags share; ``sentence`` says it."""

    flag: str
    what: str
    before: Any
    after: Any
    sentence: str


class Brought(Changed):
    """``changes`` is what it changes; with ``dry_run`` nothing was changed."""

    dry_run: bool
    changes: list[Difference]


class FlagVersion(TypedDict):
    """One version, without what it holds."""

    version: int
    by: str
    at: float
    note: str
    flags: list[str]


class FlagVersionDetail(FlagVersion):
    """One version, with the flag set."""

    document: dict[str, Any]


class FlagSettings(TypedDict):
    """``approval``: the role of the second person that changes wait for; null: they don't."""

    approval: str | None


class FlagSet(TypedDict):
    """What an in-process provider evaluates: ``document`` as written, ``release`` the oldest one that serves."""

    version: int
    release: str | None
    document: dict[str, Any]


class Why(Served):
    """What somebody gets, and each step that led there."""

    flag: str
    evaluation: dict[str, Any]
    steps: list[dict[str, Any]]


class Tried(TypedDict):
    """What one context gets now, and what it would get."""

    context: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]


class Audience(TypedDict):
    """Of so many contexts: how many get which variant, before and after, and how many go from which to which."""

    contexts: int
    moved: int
    before: dict[str, int]
    after: dict[str, int]
    moves: list[dict[str, Any]]


class Preview(TypedDict):
    """Who would get what: of those that were given, those that were ``seen`` lately, and those that are ``made_up``."""

    flag: str
    changes: list[Difference]
    contexts: list[Tried]
    seen: Audience
    made_up: Audience


class Counted(TypedDict):
    """How many of each counted; ``left_out`` are those that no experiment wanted, or had room for."""

    exposures: int
    tracks: int
    usage: int
    left_out: int


class Experiment(TypedDict):
    """``state`` is created, running, stopped or concluded; ``shipped`` the variant that everybody was given then."""

    name: str
    service: str
    environment: str
    flag: str
    state: str
    plan: dict[str, Any]
    exclude_rollouts: bool
    hypothesis: str
    by: str
    shipped: str | None
    why: str
    created: float
    started: float | None
    ended: float | None
    units: int
    left_out: int


class ExperimentChanged(Experiment):
    """``change`` is what came of the flag's change when a variant was shipped."""

    change: Changed | None


class ExperimentResults(TypedDict):
    """``results`` is all that is known now; null before it was started."""

    experiment: Experiment
    results: dict[str, Any] | None


class Ramp(TypedDict):
    """Weights are basis points, times epoch seconds."""

    id: int
    service: str
    environment: str
    flag: str
    variant: str
    rest: str
    rule: str
    phase: str
    ended: bool
    ended_at: float | None
    weight: int
    step: int
    steps: list[dict[str, Any]]
    paused: bool
    waiting: str
    verdict: dict[str, Any] | None
    metrics: list[Any]
    not_judged: list[str]
    arms: dict[str, Any]
    reason: str
    by: str
    began: float
    entered: float
    now: float


class RampDetail(Ramp):
    """With its journal, and its receipt once it has ended."""

    journal: list[dict[str, Any]]
    receipt: dict[str, Any] | None
