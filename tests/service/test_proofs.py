"""Proofs: each release of the window is checked and started aside, one at a time, and never in anybody's way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.alert import Severity
from crossfade.domain.drill import ProofPolicy
from crossfade.domain.environment import Occupant
from crossfade.domain.errors import Forbidden, NotFound, Refused
from crossfade.domain.health import Check
from crossfade.domain.proof import SOON, Tried, next_at, overdue, proves, replica_name
from crossfade.domain.release import Release
from crossfade.domain.rollout import Rollout
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.fakes.artifacts import FakeArtifacts
from crossfade.fakes.prober import FakeProber
from crossfade.fakes.runtime import FakeRuntime
from crossfade.fakes.secrets import FakeSecrets
from crossfade.ports import ReplicaSpec
from tests.service.stage import ADMIN, KEY, OPERATOR, STAGING, VIEWER, Stage

DAY = 86_400.0
HEALTH = Check("health", "/health")
R1, R2, R3, R4 = (ReleaseNumber(n) for n in (1, 2, 3, 4))


class Proving(Stage):
    """r4 is live in production, with three releases behind it. Whenever the thread would wait, the clock goes on."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.config = replace(self.config, checks=(HEALTH,), start_timeout=5.0, **settings)
        self.releases: list[Release] = [self.live() for _ in range(4)]
        self.runtime, self.prober = self.parts.runtime, self.parts.prober
        assert isinstance(self.runtime, FakeRuntime)
        assert isinstance(self.prober, FakeProber)
        self.let_go_on()

    def let_go_on(self) -> None:
        waits = self.service.proofs._stop

        def wait(seconds: float | None = None) -> bool:
            self.now += seconds or 0.0
            return waits.is_set()

        waits.wait = wait  # type: ignore[method-assign, assignment] # the test's clock

    def row(self, number: ReleaseNumber, key: EnvKey = KEY) -> dict[str, Any]:
        return next(row for row in self.service.proofs.list(key) if row["release"] == str(number))

    def left(self) -> list[str]:
        """Replicas that a proof has left behind, anywhere."""
        return [one.name for key in (KEY, STAGING) for one in self.parts.runtime.replicas(key) if proves(one.name)]

    def alerts(self) -> dict[str, Severity]:
        return {one.name: one.severity for one in self.service.alerts.list(KEY, open_only=True)}


@pytest.fixture
def stage() -> Proving:
    return Proving()


# --- laws

moments = st.floats(0, 1e9)
somewhen = st.one_of(st.none(), moments)


@given(somewhen, somewhen, moments, st.floats(1, 90 * DAY))
def test_the_next_proof_is_later_than_the_last_and_not_later_than_the_policy_says(
    tried: float | None, proven: float | None, since: float, every: float
) -> None:
    if tried is None or (proven is not None and proven > tried):
        proven = tried
    found = next_at(Tried(tried, proven), since, every)
    assert found is not None
    base = tried if tried is not None else since
    assert base < found <= base + every
    if proven is None or proven != tried:
        assert found <= base + SOON


@given(somewhen, moments, st.floats(1, 90 * DAY), moments)
def test_what_was_proven_within_two_periods_is_not_overdue(
    proven: float | None, since: float, every: float, now: float
) -> None:
    found = overdue(Tried(proven, proven), since, every, now)
    assert found is (now - (proven if proven is not None else since) > 2 * every)
    assert not overdue(Tried(proven, proven), since, 0.0, now)
    assert next_at(Tried(proven, proven), since, 0.0) is None


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 20))
def test_no_replica_of_a_rollout_is_taken_for_one_of_a_proof(release: int, generation: int, replicas: int) -> None:
    number = ReleaseNumber(release)
    names = Occupant(number, generation, replicas).names(KEY)
    assert not any(map(proves, names))
    mine = replica_name(KEY, number, generation)
    assert proves(mine)
    assert mine not in names
    assert mine.startswith(f"{KEY.service}.{KEY.environment}.")


# --- what is looked at


def test_each_release_of_the_window_is_started_aside_asked_and_stopped(stage: Proving) -> None:
    specs: list[ReplicaSpec] = []
    stage.runtime.exits = lambda spec: specs.append(spec) or ""  # type: ignore[attr-defined, func-returns-value] # noted
    assert stage.service.proofs.prove(KEY, None, OPERATOR)["asked"] == ["r3", "r2", "r1"]
    while stage.service.proofs.look():
        stage.now += 1
    for number in (R3, R2, R1):
        row = stage.row(number)
        assert (row["ok"], row["where"], row["asked"], row["overdue"]) == (True, "production", False, False)
        assert [check["what"] for check in row["checks"]] == ["artifact", "configuration", "schema", "start"]
        assert row["proven"] == row["tried"]
        assert row["next"] == row["proven"] + DAY
    assert [spec.env["CROSSFADE_RELEASE"] for spec in specs] == ["r3", "r2", "r1"]
    assert {spec.env["CROSSFADE_SLOT"] for spec in specs} == {"proof"}
    assert stage.prober.asked  # type: ignore[attr-defined] # the twin's
    assert stage.left() == []
    shown = {row["release"]: row for row in stage.service.releases(KEY)}
    assert shown["r3"]["proven"] == stage.row(R3)["proven"]
    assert shown["r3"]["proof"]["ok"] is True
    assert (shown["r4"]["proven"], shown["r4"]["proof"]) == (None, None)
    assert stage.alerts() == {}


def test_a_release_whose_artifact_has_changed_is_not_started_and_somebody_is_told(stage: Proving) -> None:
    artifacts = stage.parts.artifacts
    assert isinstance(artifacts, FakeArtifacts)
    artifacts.remove(stage.releases[1].digest)
    stage.service.proofs.once(KEY, R2)
    row = stage.row(R2)
    assert (row["ok"], row["proven"], [check["what"] for check in row["checks"]]) == (False, None, ["artifact"])
    assert row["sentence"].startswith("r2 cannot be restored: its artifact")
    assert row["next"] == row["tried"] + SOON
    assert stage.alerts() == {"proof:r2": Severity.TICKET}


def test_an_alert_ends_when_its_release_is_proven(stage: Proving) -> None:
    stage.prober.faults = lambda *_: ("status 503",)  # type: ignore[attr-defined] # the twin's
    stage.service.proofs.once(KEY, R3)
    row = stage.row(R3)
    assert row["sentence"] == "r3 cannot be restored: it did not get healthy within 5 s: health: status 503"
    assert stage.alerts() == {"proof:r3": Severity.TICKET}
    stage.prober.faults = lambda *_: ()  # type: ignore[attr-defined] # the twin's
    stage.now += 900
    stage.service.proofs.once(KEY, R3)
    assert stage.alerts() == {}
    assert stage.row(R3)["ok"]
    assert stage.left() == []


def test_one_that_exits_says_how(stage: Proving) -> None:
    stage.runtime.exits = lambda _: "exited with status 3"  # type: ignore[attr-defined] # the twin's
    stage.service.proofs.once(KEY, R3)
    assert "its replica exited with status 3" in stage.row(R3)["sentence"]
    assert stage.left() == []


def test_an_alert_ends_when_its_release_has_left_the_window(stage: Proving) -> None:
    stage.prober.faults = lambda *_: ("status 503",)  # type: ignore[attr-defined] # the twin's
    stage.service.proofs.once(KEY, R1)
    stage.prober.faults = lambda *_: ()  # type: ignore[attr-defined] # the twin's
    stage.service.proofs.look()
    assert stage.alerts() == {"proof:r1": Severity.TICKET}
    while R1 in {ReleaseNumber.parse(row["release"]) for row in stage.service.proofs.list(KEY)}:
        stage.live()
    stage.service.proofs.look()
    assert stage.alerts() == {}


def test_secrets_that_are_gone_are_found() -> None:
    stage = Proving()
    state = stage.deploy(ADMIN, secrets={"PASSWORD": "x"})
    assert isinstance(state, Rollout)
    stage.finish(state)
    stage.live()
    secrets = stage.parts.secrets
    assert isinstance(secrets, FakeSecrets)
    number = state.plan.candidate
    real = secrets.get

    def gone(name: str) -> Any:
        if name:
            raise NotFound("gone")
        return real(name)

    secrets.get = gone  # type: ignore[method-assign] # somebody has removed them
    stage.service.proofs.once(KEY, number)
    row = stage.row(number)
    assert (row["ok"], row["checks"][-1]["sentence"]) == (False, "the values of its env_file are gone")


def test_it_is_made_in_the_environment_that_the_policy_names_with_its_settings() -> None:
    stage = Proving(proofs=ProofPolicy(DAY, STAGING.environment))
    stage.live(STAGING, env=(("WHERE", "staging"),), checks=())
    specs: list[ReplicaSpec] = []
    stage.runtime.exits = lambda spec: specs.append(spec) or ""  # type: ignore[attr-defined, func-returns-value] # noted
    stage.service.proofs.once(KEY, R2)
    assert (stage.row(R2)["ok"], stage.row(R2)["where"]) == (True, "staging")
    (spec,) = specs
    assert spec.name.startswith("bookshop.staging.r2.proof")
    assert (spec.env["WHERE"], spec.env["CROSSFADE_ENVIRONMENT"]) == ("staging", "staging")
    assert stage.prober.asked[-1][1] == "health"  # type: ignore[attr-defined] # its own checks, not staging's
    assert spec.cwd == stage.parts.artifacts.folder(stage.releases[1].digest)


def test_an_environment_that_is_not_there_is_said() -> None:
    stage = Proving(proofs=ProofPolicy(DAY, "nowhere"))
    stage.service.proofs.once(KEY, R2)
    assert "nowhere" in stage.row(R2)["sentence"]
    assert not stage.row(R2)["ok"]


# --- when


def test_releases_are_proven_by_themselves_one_after_the_other_as_often_as_the_policy_says(stage: Proving) -> None:
    look = stage.service.proofs.look
    assert not look()
    stage.now += SOON
    assert [look(), look(), look(), look()] == [True, True, True, False]
    stage.now += DAY - 1
    assert not look()
    stage.now += 1
    assert [look(), look(), look(), look()] == [True, True, True, False]
    stage.now += 3 * DAY
    assert all(row["overdue"] for row in stage.service.proofs.list(KEY))


def test_a_policy_of_never_proves_only_what_is_asked_for() -> None:
    stage = Proving(proofs=ProofPolicy(0.0))
    stage.now += 90 * DAY
    assert not stage.service.proofs.look()
    assert not any(row["overdue"] or row["next"] for row in stage.service.proofs.list(KEY))
    stage.service.proofs.prove(KEY, R2, ADMIN)
    assert stage.service.proofs.look()
    assert stage.row(R2)["ok"]


def test_nothing_is_proven_while_a_rollout_or_a_drill_has_the_environment(stage: Proving) -> None:
    stage.service.proofs.prove(KEY, R2, ADMIN)
    state = stage.deploy(ADMIN)
    assert isinstance(state, Rollout)
    assert not stage.service.proofs.look()
    assert stage.row(R2)["asked"]
    stage.finish(state)
    drill = stage.service.drills.begin(KEY, ADMIN)
    assert not stage.service.proofs.look()
    stage.parts.records.save(drill["id"], stage.parts.records.get(drill["id"]).data, stage.now, ended=True)
    assert stage.service.proofs.look()


def test_a_rollout_that_begins_meanwhile_is_given_way_to(stage: Proving) -> None:
    begun: list[Any] = []

    def slow(*_: Any) -> tuple[str, ...]:
        if not begun:
            begun.append(stage.deploy(ADMIN))
        return ("not yet",)

    stage.prober.faults = slow  # type: ignore[attr-defined] # the twin's
    assert not stage.service.proofs.once(KEY, R3)
    assert stage.left() == []
    assert (stage.row(R3)["tried"], stage.alerts()) == (None, {})


def test_what_a_killed_server_left_is_stopped_by_the_next_one(stage: Proving) -> None:
    class Died(BaseException):
        pass

    def die(*_: Any) -> tuple[str, ...]:
        raise Died

    stage.prober.faults = die  # type: ignore[attr-defined] # the twin's
    real = stage.parts.runtime.stop
    stage.parts.runtime.stop = lambda *_: None  # type: ignore[method-assign] # a killed server stops nothing
    with pytest.raises(Died):
        stage.service.proofs.once(KEY, R3)
    stage.parts.runtime.stop = real  # type: ignore[method-assign] # as it was
    assert len(stage.left()) == 1
    stage.service = stage.another_server()
    stage.let_go_on()
    stage.service.proofs.clean()
    assert stage.left() == []
    assert stage.parts.records.list("proof", KEY, open_only=True) == ()
    assert stage.row(R3)["tried"] is None
    stage.prober.faults = lambda *_: ()  # type: ignore[attr-defined] # the twin's
    assert stage.service.proofs.once(KEY, R3)


def test_only_what_is_in_the_window_can_be_asked_for_and_only_by_who_may(stage: Proving) -> None:
    with pytest.raises(Forbidden):
        stage.service.proofs.prove(KEY, R2, VIEWER)
    with pytest.raises(Refused, match=r"r4 is not in the rollback window"):
        stage.service.proofs.prove(KEY, R4, ADMIN)
    with pytest.raises(NotFound):
        stage.service.proofs.prove(STAGING, None, ADMIN)
    with pytest.raises(NotFound):
        stage.service.proofs.list(STAGING)
    assert [one["what"] for one in stage.noted() if one["what"].startswith("proof")] == []
    stage.service.proofs.prove(KEY, R2, ADMIN)
    stage.service.proofs.prove(KEY, R2, ADMIN)
    assert stage.service.proofs.look()
    assert not stage.service.proofs.look()
