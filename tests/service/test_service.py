"""What a person can have changed: each change wants a role, is noted with what was before, and shows no secret."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.access import Role
from crossfade.domain.analysis.policy import Analysis, Source, SourceKind
from crossfade.domain.errors import Forbidden, NotFound, NotRestorable, Refused
from crossfade.domain.release import BlueGreen, Canary, Step
from crossfade.domain.rollout import Command, Kind, Rollout
from crossfade.domain.values import ReleaseNumber, Weight
from crossfade.service.views import flat
from tests.service.stage import ADMIN, KEY, OPERATOR, STAGING, VIEWER, Stage, person

ELSEWHERE = person("sam", "admin@bookshop/staging", "viewer")


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize("by", [VIEWER, ELSEWHERE, person("nobody")], ids=lambda by: by.name)
@pytest.mark.parametrize(
    "change",
    [
        lambda stage, by: stage.deploy(by),
        lambda stage, by: stage.service.rollback(KEY, None, by),
        lambda stage, by: stage.service.rollback(KEY, ReleaseNumber(1), by),
        lambda stage, by: stage.service.deploy_again(KEY, ReleaseNumber(2), by),
        lambda stage, by: stage.service.order(2, Command.ABORT, by),
        lambda stage, by: stage.service.order_current(KEY, Command.PAUSE, by),
    ],
    ids=["deploy", "rollback", "rollback-to", "again", "order", "order-current"],
)
def test_who_is_no_operator_there_changes_nothing(stage: Stage, change: Callable[..., object], by: Any) -> None:
    stage.live()
    stage.deploy(ADMIN)
    before = (stage.noted(), stage.parts.store.releases(KEY), stage.parts.store.orders(2), stage.driver.driven[:])
    with pytest.raises(Forbidden, match="role operator for bookshop/production"):
        change(stage, by)
    assert (stage.noted(), stage.parts.store.releases(KEY), stage.parts.store.orders(2), stage.driver.driven) == before


def test_an_operator_deploys_orders_and_goes_back_and_each_is_noted_with_what_was_before(stage: Stage) -> None:
    for _ in range(2):
        state = stage.deploy(OPERATOR)
        assert isinstance(state, Rollout)
        stage.finish(state)
    stage.service.rollback(KEY, None, OPERATOR)
    stage.service.order_current(KEY, Command.PAUSE, OPERATOR)
    stage.service.rollback(KEY, None, OPERATOR)
    noted = stage.noted()
    assert {(entry["who"], entry["via"], entry["address"], entry["key"]) for entry in noted} == {
        ("olga", "session", "10.0.0.1", str(KEY))
    }
    assert [(entry["what"], entry["before"].get("live")) for entry in noted] == [
        ("rollout.begin", None),
        ("rollout.begin", "r1"),
        ("rollout.rollback", "r2"),
        ("rollout.pause", None),
        ("rollout.abort", None),
    ]
    assert (noted[1]["after"]["release"], noted[1]["after"]["rollout"]) == ("r2", 2)
    assert (noted[2]["after"]["release"], noted[3]["before"]["rollout"]) == ("r1", 3)
    assert stage.service.audit.verify().ok
    assert [order.by for order in stage.parts.store.orders(3)] == ["olga", "olga"]


def test_no_value_of_an_env_file_is_in_anything_that_can_be_read(stage: Stage) -> None:
    secret = "s3cr3t-value"
    for key in (KEY, STAGING):
        stage.deploy(ADMIN, key, {"API_KEY": secret})
    service = stage.service
    read = [
        stage.noted(),
        service.all_status(),
        service.releases(KEY),
        service.release(KEY, ReleaseNumber(1)),
        service.rollouts(None, 10),
        stage.parts.store.changes(0),
    ]
    assert secret not in repr(read)


def test_each_rollout_says_who_began_it_and_is_in_its_environment(stage: Stage) -> None:
    state = stage.deploy(OPERATOR)
    assert isinstance(state, Rollout)
    assert stage.service.rollout(state.id)["by"] == stage.service.rollouts(KEY, 1)[0]["by"] == "olga"
    assert stage.service.environment_of(state.id) == KEY


def test_the_status_is_by_page_and_only_of_what_may_be_seen(stage: Stage) -> None:
    for key in (STAGING, KEY):
        stage.live(key)

    def names(rows: list[dict[str, Any]]) -> list[str]:
        return [row["environment"] for row in rows]

    status = stage.service.all_status
    assert names(status()) == ["production", "staging"]
    assert names(status(1)) == ["production"]
    assert names(status(1, KEY)) == ["staging"]
    assert names(status(1, None, lambda key: key == STAGING)) == ["staging"]
    assert status()[0] == stage.service.status(KEY)
    assert status()[0]["last"]["candidate"] == status()[0]["live"]


# --- what differs between two releases


def test_two_releases_of_one_configuration_differ_in_nothing(stage: Stage) -> None:
    one, other = stage.live(), stage.live()
    assert stage.service.compare(KEY, one.number, other.number) == []


@pytest.mark.parametrize(
    ("setting", "field", "value", "before", "after"),
    [
        ("replicas", "replicas", 3, 1, 3),
        ("command", "command", ("python", "b.py"), ["python", "app.py"], ["python", "b.py"]),
        ("env.COLOUR", "env", (("COLOUR", "red"),), None, "red"),
        ("strategy.watch", "strategy", BlueGreen(watch=7.0), BlueGreen().watch, 7.0),
        ("approval", "approval", Role.ADMIN, None, "admin"),
    ],
)
def test_a_setting_that_differs_is_named_with_both_values(
    stage: Stage, setting: str, field: str, value: object, before: object, after: object
) -> None:
    one = stage.live()
    changes: dict[str, Any] = {field: value}
    other = stage.parts.store.add_release(KEY, one.digest, replace(one.config, **changes), "", 1.0)
    found = stage.service.compare(KEY, one.number, other.number)
    assert {"setting": setting, "before": before, "after": after} in found
    assert {row["setting"].partition(".")[0] for row in found} == {field}
    back = stage.service.compare(KEY, other.number, one.number)
    assert back == [{**row, "before": row["after"], "after": row["before"]} for row in found]


def test_the_steps_of_two_strategies_are_compared_one_by_one(stage: Stage) -> None:
    one, other = (stage.live(strategy=Canary((Step(Weight(500), 60.0), Step(Weight(bp), 60.0)))) for bp in (5000, 6000))
    (row,) = stage.service.compare(KEY, one.number, other.number)
    assert row["setting"].startswith("strategy.steps.1.weight")
    assert (row["before"], row["after"]) == (5000, 6000)


def test_other_secrets_are_a_difference_without_being_shown(stage: Stage) -> None:
    for value in ("one-value", "other-value"):
        state = stage.deploy(ADMIN, secrets={"K": value})
        assert isinstance(state, Rollout)
        stage.finish(state)
    found = stage.service.compare(KEY, ReleaseNumber(1), ReleaseNumber(2))
    assert [row["setting"] for row in found] == ["secrets"]
    assert "value" not in repr([row["before"] + row["after"] for row in found])


def test_only_releases_of_that_environment_are_compared_and_shown(stage: Stage) -> None:
    one, elsewhere = stage.live(), stage.live(STAGING)
    with pytest.raises(NotFound, match=r"bookshop/production has no release r2"):
        stage.service.compare(KEY, one.number, elsewhere.number)
    with pytest.raises(NotFound):
        stage.service.release(KEY, ReleaseNumber(9))
    assert stage.service.release(KEY, one.number)["config"]["command"] == ["python", "app.py"]


PLAIN = st.none() | st.integers() | st.text(max_size=3)
DATA = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=2), DATA, max_size=3))
def test_flat_data_has_each_value_at_its_place(data: dict[str, Any]) -> None:
    for place, value in flat(data).items():
        found: Any = data
        for name in place.split(".") if place else ():
            found = found[int(name)] if isinstance(found, list) else found[name]
        assert found == value
        assert not (isinstance(value, dict) and value)


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=2), DATA, max_size=3),
    st.dictionaries(st.text("abc", min_size=1, max_size=2), DATA, max_size=3),
)
def test_only_equal_data_is_equal_when_it_is_flat(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (flat(one) == flat(other)) == (one == other)


def test_a_release_that_was_there_is_rolled_out_again_as_if_it_were_new(stage: Stage) -> None:
    for _ in range(2):
        stage.live()
    first = stage.service.releases(KEY)[-1]["release"]
    state = stage.service.deploy_again(KEY, ReleaseNumber.parse(first), OPERATOR)
    assert isinstance(state, Rollout)
    assert (state.plan.kind, str(state.plan.candidate)) == (Kind.DEPLOY, first)
    assert stage.noted()[-1]["what"] == "rollout.begin"
    assert len(stage.service.releases(KEY)) == 2


def test_what_is_live_gone_or_elsewhere_is_not_deployed_again(stage: Stage) -> None:
    release = stage.live()
    with pytest.raises(Refused, match="live in bookshop/production already"):
        stage.service.deploy_again(KEY, release.number, OPERATOR)
    with pytest.raises(NotFound):
        stage.service.deploy_again(KEY, ReleaseNumber(77), OPERATOR)
    stage.live()
    stage.parts.artifacts.remove(release.digest)
    with pytest.raises(NotRestorable, match="cannot be deployed again: its artifact"):
        stage.service.deploy_again(KEY, release.number, OPERATOR)
    with pytest.raises(Forbidden):
        stage.service.deploy_again(KEY, release.number, VIEWER)


def test_the_password_of_a_source_is_not_shown_with_its_address(stage: Stage) -> None:
    source = Source("own", SourceKind.PROMETHEUS, "http://ada:hunter2@127.0.0.1:9090/p", value="up")
    release = stage.live(analysis=Analysis(sources=(source,)))
    shown = stage.service.release(KEY, release.number)["config"]["analysis"]["sources"][0]
    assert shown["url"] == "http://(hidden)@127.0.0.1:9090/p"
